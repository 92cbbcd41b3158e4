//! Where a proxy's configuration comes from, as far as requests and the readiness page ask: a control plane that sends more when
//! asked, or files in which everything stands that there is.

use lorica_model::name::ServicePort;
use lorica_xds::client::{Client, ConnectionState};
use tokio::sync::watch;

/// Where configuration comes from.
#[derive(Clone)]
pub enum Source {
    /// A control plane: what a service port needs is subscribed to when the app first calls it.
    ControlPlane(Client),
    /// Files, read as a whole: what is not in them does not exist.
    Files(watch::Receiver<Files>),
}

/// How files stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// How often they were read and taken, the start included.
    pub taken: u64,
    /// How often they were read and refused.
    pub refused: u64,
    /// Whether the newest reading was refused, so that an older one is in force.
    pub behind: bool,
}

impl Source {
    /// Asks for a service port that the snapshot does not have. False: nobody will send it.
    #[must_use]
    pub fn want(&self, port: &ServicePort) -> bool {
        match self {
            Self::ControlPlane(client) => {
                client.want(port.clone());
                true
            }
            Self::Files(_) => false,
        }
    }

    /// Why this proxy has no SVID, and what would give it one.
    #[must_use]
    pub fn without_svid(&self) -> &'static str {
        match self {
            Self::ControlPlane(_) => "this proxy has no SVID yet",
            Self::Files(_) => "mutual TLS needs an SVID, and this proxy was started without --identity",
        }
    }

    /// Whether it serves only once it has an SVID.
    #[must_use]
    pub fn brings_svid(&self) -> bool {
        matches!(self, Self::ControlPlane(_))
    }

    /// How it stands, for people.
    #[must_use]
    pub fn state(&self) -> String {
        match self {
            Self::ControlPlane(client) => match &*client.state().borrow() {
                ConnectionState::Connected { .. } => "connected to the control plane".to_owned(),
                ConnectionState::Connecting { last_error } => {
                    let why = last_error.as_deref().unwrap_or("not tried yet");
                    format!("no control plane answers, the last configuration stays in force: {why}")
                }
                ConnectionState::Refused { message } => format!("refused by the control plane: {message}"),
            },
            Self::Files(files) => match *files.borrow() {
                Files { behind: true, .. } => {
                    "the configuration files were changed and refused, the last good ones stay in force".to_owned()
                }
                Files { taken, .. } => format!("configured by files, read {taken} times"),
            },
        }
    }
}
