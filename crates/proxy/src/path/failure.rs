//! Why an exchange failed, and what may still be done about it.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::time::Duration;

use lorica_model::reason::Reason;
use lorica_xds::authorization::Refusal;

use super::connect::NotConnected;
use super::way::Leave;
use crate::wire::WireError;

/// Why an exchange failed.
#[derive(Debug)]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// What exactly happened, for the log.
    pub detail: String,
    /// Nothing of the request was processed: sending it again repeats nothing.
    pub unsent: bool,
    /// The answer had begun; no other can be given.
    pub answered: bool,
    /// There was an answer, which was given up for another attempt.
    pub again: Option<Again>,
    /// The connection was reset: nothing tells whether the request had arrived.
    pub reset: bool,
    /// It met a kept connection that its upstream had closed: it is repeated on another, unseen.
    pub stale: bool,
    /// Fields of the answer that say more than the reason does.
    pub told: Vec<(Cow<'static, str>, String)>,
    /// The answer in place of the one that the reason makes.
    pub refusal: Option<Box<Refusal>>,
}

/// An answer that was given up for another attempt.
#[derive(Debug)]
pub struct Again {
    /// How long it asked to wait before.
    pub wait: Option<Duration>,
    /// The leave to make the attempt.
    pub leave: Leave,
}

impl Failure {
    /// A failure before the answer began.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            unsent: reason.meaning().unsent,
            answered: false,
            again: None,
            reset: false,
            stale: false,
            told: Vec::new(),
            refusal: None,
        }
    }

    /// The same, after the answer began.
    #[must_use]
    pub fn answered(self) -> Self {
        Self { answered: true, ..self }
    }

    /// The same with more to tell.
    #[must_use]
    pub fn noted(self, note: &str) -> Self {
        let detail = if self.detail.is_empty() { self.reason.meaning().text } else { &self.detail };
        Self { detail: format!("{detail}; {note}"), ..self }
    }

    /// What an upstream's side of the connection did.
    #[must_use]
    pub fn upstream(error: &WireError) -> Self {
        let reason = match error {
            WireError::Closed | WireError::NotProcessed => Reason::UpstreamClosed,
            WireError::Reset(_) => Reason::UpstreamReset,
            // In TLS 1.3 a client learns only with its first read that the server refused it.
            WireError::Io(ErrorKind::InvalidData) => Reason::UpstreamTls,
            WireError::Io(_) => Reason::UpstreamClosed,
            WireError::Unsupported(_) => Reason::NotImplemented,
            WireError::Invalid(_) | WireError::HeadTooLarge | WireError::HeadTimeout => Reason::UpstreamProtocol,
        };
        Self {
            unsent: *error == WireError::NotProcessed || reason.meaning().unsent,
            reset: matches!(error, WireError::Io(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
            ..Self::new(reason, error.to_string())
        }
    }

    /// What a caller's side of the connection did.
    #[must_use]
    pub fn client(error: &WireError) -> Self {
        let reason = match error {
            WireError::Invalid(_) => Reason::BadRequest,
            WireError::Unsupported(_) => Reason::NotImplemented,
            WireError::HeadTooLarge => Reason::HeadTooLarge,
            WireError::HeadTimeout => Reason::HeadTimeout,
            WireError::Closed | WireError::NotProcessed | WireError::Reset(_) | WireError::Io(_) => Reason::ClientClosed,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::new(reason, "")
    }
}

impl From<NotConnected> for Failure {
    fn from(error: NotConnected) -> Self {
        Self::new(error.reason, error.detail)
    }
}
