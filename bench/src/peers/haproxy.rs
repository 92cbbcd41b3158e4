//! HAProxy for HTTP/1, HTTP/2 and bytes.

use std::fs;
use std::path::Path;

use super::{Hop, Side, Speaks};

/// Its arguments, and the file that they name.
pub(crate) fn arguments(hop: &Hop<'_>, place: &Path) -> anyhow::Result<Vec<String>> {
    let certificates = hop.wanted.certificates;
    let authority = certificates.authority.display();
    let (mode, alpn, plain) = match hop.wanted.speaks {
        Speaks::Http1 => ("http", "alpn http/1.1", ""),
        Speaks::Http2 => ("http", "alpn h2", "proto h2"),
        Speaks::Tcp => ("tcp", "", ""),
    };
    let bind = match hop.side {
        Side::Callee => {
            format!("ssl crt {} ca-file {authority} verify required ssl-min-ver TLSv1.3 {alpn}", certificates.server.both.display())
        }
        Side::Alone | Side::Caller => plain.to_owned(),
    };
    let server = match hop.side {
        Side::Caller => {
            format!("ssl crt {} ca-file {authority} verify required ssl-min-ver TLSv1.3 {alpn}", certificates.client.both.display())
        }
        Side::Alone | Side::Callee => plain.to_owned(),
    };
    let reuse = if mode == "http" { "http-reuse always" } else { "" };
    let config = format!(
        "global\n  nbthread {}\n  maxconn 8192\ndefaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  {reuse}\n\
         frontend in\n  bind {} {bind} backlog 4096\n  default_backend out\nbackend out\n  server next {} {server}\n",
        hop.wanted.workers, hop.listen, hop.upstream
    );
    let path = place.join("haproxy.cfg");
    fs::write(&path, config)?;
    Ok(vec!["-db".to_owned(), "-f".to_owned(), path.display().to_string()])
}
