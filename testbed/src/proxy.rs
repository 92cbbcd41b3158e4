//! A stand-alone proxy under test: started from files, without a control plane. In flow its arguments; out flow where it serves, as it says
//! itself, and the running process.

use std::ffi::OsString;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};

use crate::Mesh;
use crate::process::Running;

/// A stand-alone proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub running: Running,
    /// Where it listens, in the order in which it was told to: upstreams, then inbound addresses.
    pub addresses: Vec<SocketAddr>,
    /// Where it serves its metrics.
    pub metrics: SocketAddr,
}

impl Proxy {
    /// Starts `lorica proxy`; ends when it serves.
    ///
    /// # Errors
    /// It does not come to serve; the error shows what it said.
    pub async fn start(mesh: &Mesh, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> anyhow::Result<Self> {
        let arguments = [OsString::from("proxy")].into_iter().chain(arguments.into_iter().map(Into::into));
        let running = mesh.start_binary("lorica proxy", arguments, Vec::new(), None)?;
        let line = running.line("serving: ").await?;
        let (addresses, metrics) = places(&line).with_context(|| line.clone())?;
        Ok(Self { running, addresses, metrics })
    }

    /// The first address at which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }
}

/// The addresses in `serving: web.shop:80 on 127.0.0.1:9000, …; metrics on http://127.0.0.1:9100/metrics`.
fn places(line: &str) -> anyhow::Result<(Vec<SocketAddr>, SocketAddr)> {
    let (served, metrics) = line.split_once("; metrics on http://").context("it does not say where metrics are")?;
    let metrics = metrics.trim_end_matches("/metrics").parse()?;
    let addresses = served.split(", ").map(|place| Ok(place.rsplit(" on ").next().unwrap_or_default().parse()?));
    let addresses = addresses.collect::<anyhow::Result<Vec<SocketAddr>>>()?;
    ensure!(!addresses.is_empty(), "it serves nothing");
    Ok((addresses, metrics))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_the_line() {
        let line =
            "serving: web.shop:80 on 127.0.0.1:9000, web.shop:80 for app port 8080 on [::1]:9443; metrics on http://127.0.0.1:9100/metrics";
        let (addresses, metrics) = places(line).unwrap();
        assert_eq!(addresses, ["127.0.0.1:9000".parse().unwrap(), "[::1]:9443".parse().unwrap()]);
        assert_eq!(metrics.port(), 9100);
        places("serving: x; metrics on http://127.0.0.1:1/metrics").unwrap_err();
    }
}
