//! What to run and how: the one input of [`supervise`](crate::supervise), its result and its
//! errors. Values only; nothing here touches the system.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use crate::Missing;

/// What `lorica run` starts. Build it with [`RunSpec::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// The app's program (looked up in `PATH`) and its arguments.
    pub app: Vec<OsString>,
    /// Arguments that make this binary the proxy.
    pub proxy_arguments: Vec<OsString>,
    /// Arguments that make this binary call [`helper_main`](crate::helper_main).
    pub helper_arguments: Vec<OsString>,
    /// With namespaces, or with explicit listeners and no privilege.
    pub mode: Mode,
    /// The ports on which the app serves. Each gets an inbound listener.
    pub app_ports: Vec<u16>,
    /// Where inbound listeners bind. Default: 127.0.0.1.
    pub inbound_address: IpAddr,
    /// The ports that inbound listeners choose from. Default: any free port.
    pub inbound_ports: Option<RangeInclusive<u16>>,
    /// App ports opened to callers without a mesh.
    pub publish: Vec<Publish>,
    /// Ports of the host's loopback that the app finds at the same address inside.
    pub host_ports: Vec<u16>,
    /// Directories that the app sees empty. Those that do not exist when the app starts are left
    /// out, so create them first.
    pub masked_directories: Vec<PathBuf>,
    /// How many sockets share the outbound port (SO_REUSEPORT), one for each worker of the proxy.
    /// Default: 1. The kernel spreads connections over them. At most 64.
    pub outbound_sockets: u16,
    /// How long the proxy may drain after a signal before the app gets it. Default: 10 s.
    pub drain_deadline: Duration,
    /// How long the proxy may finish responses after the app has ended. Default: 2 s.
    pub finish_deadline: Duration,
    /// How long what the app leaves running may take to end on SIGTERM before SIGKILL.
    /// Default: 1 s.
    pub kill_grace: Duration,
}

impl RunSpec {
    /// A spec with the defaults that each field names.
    pub fn new(app: Vec<OsString>, proxy_arguments: Vec<OsString>, helper_arguments: Vec<OsString>) -> Self {
        Self {
            app,
            proxy_arguments,
            helper_arguments,
            mode: Mode::Namespaces,
            app_ports: Vec::new(),
            inbound_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            inbound_ports: None,
            publish: Vec::new(),
            host_ports: Vec::new(),
            masked_directories: Vec::new(),
            outbound_sockets: 1,
            drain_deadline: Duration::from_secs(10),
            finish_deadline: Duration::from_secs(2),
            kill_grace: Duration::from_secs(1),
        }
    }
}

/// How the app's calls reach the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The app runs in namespaces of its own and every call is captured.
    Namespaces,
    /// The app runs in the host's namespaces and calls local addresses that stand for services.
    Explicit {
        /// The local addresses and the service ports behind them.
        upstreams: Vec<Upstream>,
    },
}

/// `--upstream NAME:PORT=LOCAL_ADDR`: a local address that stands for a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The service's name, as the user wrote it.
    pub name: String,
    /// The service port.
    pub port: u16,
    /// Where the app calls it.
    pub local_addr: SocketAddr,
}

/// `--publish [ADDR:]HOST_PORT:APP_PORT`: an app port opened on the host, as plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// Where the host listens. Without ADDR: 127.0.0.1.
    pub host: SocketAddr,
    /// The app's port behind it.
    pub app_port: u16,
}

/// Why a `--publish` value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` is no [ADDR:]HOST_PORT:APP_PORT: {problem}\n  hint: `8080:80` opens app port 80 at 127.0.0.1:8080; `0.0.0.0:8080:80` and `[::]:8080:80` at every address"
)]
pub struct PublishError {
    given: String,
    problem: String,
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let refuse = |problem: String| PublishError { given: given.to_owned(), problem };
        let port = |text: &str, what: &str| match text.parse::<u16>() {
            Ok(0) => Err(refuse(format!("{what} may not be 0"))),
            Ok(port) => Ok(port),
            Err(_) => Err(refuse(format!("{what} `{text}` is no number from 1 to 65535"))),
        };
        let (rest, app_port) = given.rsplit_once(':').ok_or_else(|| refuse("APP_PORT is missing".to_owned()))?;
        let app_port = port(app_port, "APP_PORT")?;
        let (address, host_port) = match rest.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
            Some((address, host_port)) => {
                let bracketed = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                let parsed = match bracketed {
                    Some(v6) => v6.parse().map(IpAddr::V6).ok(),
                    None => address.parse().map(IpAddr::V4).ok(),
                };
                let Some(parsed) = parsed else {
                    return Err(refuse(format!("ADDR `{address}` is no IP address (IPv6 stands in brackets)")));
                };
                (parsed, host_port)
            }
        };
        Ok(Self { host: SocketAddr::new(address, port(host_port, "HOST_PORT")?), app_port })
    }
}

/// The exit code of `lorica run`: the app's own, or 128 + n if signal n killed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatusCode(pub u8);

impl From<ExitStatusCode> for std::process::ExitCode {
    fn from(code: ExitStatusCode) -> Self {
        Self::from(code.0)
    }
}

/// Why the app was not started, or could not be watched to its end. Everything that was started
/// has been ended when this is returned; the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The spec has no program.
    #[error("no program to run\n  hint: write it after `--`: lorica run --service NAME -- PROGRAM")]
    NoProgram,
    /// A listener of the host cannot be bound.
    #[error("cannot listen on {address} for {purpose}: {source}\n  hint: {hint}")]
    Bind {
        /// The address as asked for.
        address: String,
        /// What the listener is for, in the user's words.
        purpose: String,
        /// What the system answered.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// This host does not allow the namespaces.
    #[error("{0}")]
    Namespaces(Missing),
    /// One of our own processes cannot be started.
    #[error("cannot start the {who}: {source}")]
    Spawn {
        /// `proxy` or `helper`.
        who: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// The proxy said why it cannot serve.
    #[error("{0}")]
    Proxy(String),
    /// The proxy ended before the app was started.
    #[error("the proxy ended before it was ready: {0}\n  hint: its last lines above say why")]
    ProxyEnded(String),
    /// The helper said what failed.
    #[error("{0}")]
    Helper(String),
    /// The helper ended, so the app's end cannot be seen any more; the app was killed.
    #[error(
        "the helper ended unexpectedly ({0}); the app was stopped\n  hint: see whether something killed it, such as the kernel for want of memory"
    )]
    HelperEnded(String),
    /// The system refused something that is normally there.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

impl RunError {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn publish_reads_its_three_forms() {
        for (given, host, app_port) in
            [("8080:80", "127.0.0.1:8080", 80), ("0.0.0.0:8080:80", "0.0.0.0:8080", 80), ("[::1]:8080:9000", "[::1]:8080", 9000)]
        {
            let read: Publish = given.parse().unwrap();
            assert_eq!(read, Publish { host: host.parse().unwrap(), app_port }, "{given}");
        }
    }

    #[test]
    fn publish_names_what_is_wrong() {
        for (given, problem) in [
            ("8080", "APP_PORT is missing"),
            ("8080:http", "APP_PORT `http` is no number"),
            ("0:80", "HOST_PORT may not be 0"),
            ("99999:80", "HOST_PORT `99999` is no number"),
            ("host:8080:80", "ADDR `host` is no IP address"),
            ("::1:8080:80", "ADDR `::1` is no IP address (IPv6 stands in brackets)"),
        ] {
            let error = given.parse::<Publish>().unwrap_err().to_string();
            assert!(error.contains(problem), "{given}: {error}");
        }
    }
}
