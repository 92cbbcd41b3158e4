//! Which control plane is meant: `--server`, `LORICA_SERVER`, else the user's own.

use std::path::PathBuf;

use anyhow::bail;

use crate::places::Places;

/// The control plane's Unix socket.
///
/// # Errors
/// Where `server` is no address of one.
pub fn socket(server: Option<&str>, places: &Places) -> anyhow::Result<PathBuf> {
    match server {
        None => Ok(places.control_socket()),
        Some(url) => match url.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            Some(path) => Ok(PathBuf::from(path)),
            None => bail!("`{url}` is no address of a control plane\nhint: write unix:///PATH, as in unix:///run/lorica/control.sock"),
        },
    }
}
