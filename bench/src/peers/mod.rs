//! The peers: each knows how its proxies are configured for a rig, and nothing of what is measured.

mod captured;
mod envoy;
mod haproxy;
mod lorica;
mod nginx;

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use captured::{add_services, first_answer};

use crate::certificates::Certificates;
use crate::machine::{self, PROXY_CORE, Process};

/// What a rig speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1 from end to end.
    Http1,
    /// HTTP/2 from end to end.
    Http2,
    /// Bytes.
    Tcp,
}

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// This project's proxy, as it is delivered: metrics, 1 % of traces, JSON access log, identities checked.
    Lorica,
    /// The same as sidecars of captured programs, under a control plane.
    Captured,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy with nothing switched on.
    Envoy,
    /// Envoy with RBAC and a JSON access log, as a mesh runs it.
    EnvoyInMesh,
}

/// All of them, Lorica first.
pub(crate) const ALL: [Peer; 6] = [Peer::Lorica, Peer::Captured, Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::EnvoyInMesh];

/// Where the programs are.
pub(crate) struct Programs {
    /// `lorica`.
    pub(crate) lorica: PathBuf,
    /// `envoy`, where it could be had.
    pub(crate) envoy: Option<PathBuf>,
}

/// A rig: one or two proxies in front of a backend.
pub(crate) struct Rig {
    /// Where calls go in.
    pub(crate) entry: SocketAddr,
    /// The address between the two proxies, where there are two.
    pub(crate) middle: Option<SocketAddr>,
    /// The proxies, the caller's first.
    pub(crate) proxies: Vec<Process>,
    /// The directory of each.
    pub(crate) places: Vec<PathBuf>,
    /// What else must run, and is not counted.
    pub(crate) _besides: Vec<Process>,
    /// The process in whose network namespace callers are; none: in that of this process.
    pub(crate) within: Option<u32>,
}

impl Rig {
    /// Runs load where its callers are.
    pub(crate) fn call<T: Send>(&self, load: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let Some(process) = self.within else { return load() };
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| {
                let namespace = fs::File::open(format!("/proc/{process}/ns/net"))?;
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
                load()
            });
            calling.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the load panicked")))
        })
    }
}

/// What a rig is to be.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'w> {
    /// What it speaks.
    pub(crate) speaks: Speaks,
    /// Two proxies with mutual TLS between; else one, plain.
    pub(crate) two: bool,
    /// Where the backend is.
    pub(crate) backend: SocketAddr,
    /// By which command line it runs.
    pub(crate) command: &'w (PathBuf, Vec<String>),
    /// The identities.
    pub(crate) certificates: &'w Certificates,
    /// A directory for this rig alone.
    pub(crate) place: &'w Path,
    /// How many workers a proxy has.
    pub(crate) workers: usize,
}

impl Peer {
    /// Its name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lorica => "lorica",
            Self::Captured => "lorica-captured",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::EnvoyInMesh => "envoy-in-mesh",
        }
    }

    /// Its name in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Lorica => "Lorica",
            Self::Captured => "Lorica, captured",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::EnvoyInMesh => "Envoy with RBAC and access log",
        }
    }

    /// Its version, or why it cannot be run.
    pub(crate) fn version(self, programs: &Programs) -> Result<String, String> {
        let (program, flag) = match self {
            Self::Captured if !rustix::process::geteuid().is_root() => {
                return Err("only root may put its load into the namespaces of captured programs".to_owned());
            }
            Self::Lorica | Self::Captured => (programs.lorica.clone(), "--version"),
            Self::Nginx => (PathBuf::from("nginx"), "-v"),
            Self::Haproxy => (PathBuf::from("haproxy"), "-v"),
            Self::Envoy | Self::EnvoyInMesh => (programs.envoy.clone().ok_or("it could not be fetched from PyPI")?, "--version"),
        };
        let output = Command::new(&program).arg(flag).output().map_err(|error| format!("{}: {error}", program.display()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let version = text
            .split(|byte: char| byte.is_whitespace() || byte == '/')
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'));
        version.map(str::to_owned).ok_or_else(|| format!("its version is unknown: {text}"))
    }

    /// Whether it can be what is wanted.
    pub(crate) fn can(self, wanted: &Wanted<'_>) -> bool {
        match self {
            // It speaks HTTP/1 to upstreams; its stream module is a package of its own.
            Self::Nginx => wanted.speaks == Speaks::Http1,
            // A sidecar has one worker.
            Self::Captured => wanted.workers == 1,
            _ => true,
        }
    }

    /// Starts the rig.
    pub(crate) fn start(self, programs: &Programs, wanted: &Wanted<'_>) -> anyhow::Result<Rig> {
        self.start_under(programs, wanted, &[])
    }

    /// Starts the rig, each proxy as an argument of another program.
    pub(crate) fn start_under(self, programs: &Programs, wanted: &Wanted<'_>, under: &[&str]) -> anyhow::Result<Rig> {
        if self == Self::Captured {
            return captured::start(programs, wanted);
        }
        let entry = machine::local(machine::free_port()?);
        let middle = if wanted.two { Some(machine::local(machine::free_port()?)) } else { None };
        let (mut proxies, mut places) = (Vec::new(), Vec::new());
        // The callee's first: the caller's must find it.
        let hops = match middle {
            Some(middle) => vec![(Side::Callee, middle, wanted.backend), (Side::Caller, entry, middle)],
            None => vec![(Side::Alone, entry, wanted.backend)],
        };
        for (side, listen, upstream) in hops {
            let hop = Hop { side, listen, upstream, wanted };
            let place = wanted.place.join(format!("{side:?}").to_lowercase());
            fs::create_dir_all(&place)?;
            let (program, arguments) = match self {
                Self::Lorica | Self::Captured => (programs.lorica.clone(), lorica::arguments(&hop, &place)?),
                Self::Nginx => ("nginx".into(), nginx::arguments(&hop, &place)?),
                Self::Haproxy => ("haproxy".into(), haproxy::arguments(&hop, &place)?),
                Self::Envoy | Self::EnvoyInMesh => {
                    (programs.envoy.clone().unwrap_or_default(), envoy::arguments(&hop, &place, self == Self::EnvoyInMesh)?)
                }
            };
            let cores = if wanted.workers > 1 { "0,1".to_owned() } else { PROXY_CORE.to_string() };
            let mut words: Vec<String> = under.iter().map(|word| (*word).to_owned()).collect();
            words.push(program.display().to_string());
            words.extend(arguments);
            let mut process = Process::start_on(&place, &cores, Path::new(&words[0]), &words[1..])?;
            process.wait_for(listen)?;
            proxies.insert(0, process);
            places.insert(0, place);
        }
        Ok(Rig { entry, middle, proxies, places, _besides: Vec::new(), within: None })
    }
}

/// Where in a rig a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The only one, plain on both sides.
    Alone,
    /// Beside the caller: plain in, mutual TLS out.
    Caller,
    /// Beside the callee: mutual TLS in, plain out.
    Callee,
}

/// One proxy of a rig.
pub(crate) struct Hop<'h> {
    /// Where it stands.
    pub(crate) side: Side,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where it sends.
    pub(crate) upstream: SocketAddr,
    /// The rig.
    pub(crate) wanted: &'h Wanted<'h>,
}
