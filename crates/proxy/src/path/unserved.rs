//! unserved: how the proxy beside an app tells its callers' proxies that the app did not serve a request, so that they may try another endpoint.
//!
//! An app that was killed may leave its proxy behind for a moment. What that proxy then answers is no answer of the app's: for the caller's proxy it is
//! as if the endpoint itself had failed. Nobody but a proxy says so: what an app says of the kind is left out on its way.

use std::borrow::Cow;

use lorica_model::head::ResponseHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::Transport;

use super::caller::{Caller, Entry};
use super::failure::Failure;
use crate::endpoints::Active;

/// The field by which it is told.
pub const FIELD: &str = "x-lorica-unserved";

/// How far a request came that an app did not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// It never reached the app: sending it again repeats nothing.
    Unreached,
    /// The app went away with it.
    Lost,
}

impl Unserved {
    const fn word(self) -> &'static str {
        match self {
            Self::Unreached => "unreached",
            Self::Lost => "lost",
        }
    }

    /// What a caller's proxy is told of a failure beside the app; nothing where that is not what it is, or nobody of the mesh called.
    #[must_use]
    pub fn field(caller: &Caller, failure: &Failure) -> Option<(Cow<'static, str>, String)> {
        let Entry::Inbound { peer: Some(_), .. } = &caller.entry else { return None };
        let unserved = match failure.reason {
            reason if failure.unsent && reason.is_of_connection() => Self::Unreached,
            Reason::UpstreamClosed | Reason::UpstreamReset => Self::Lost,
            _ => return None,
        };
        Some((FIELD.into(), unserved.word().to_owned()))
    }

    /// What the proxy of an endpoint says of itself in an answer. Proxies of others may pass on what their apps say.
    #[must_use]
    pub fn told(response: &ResponseHead, active: Option<&Active>) -> Option<Self> {
        active.filter(|active| active.live.endpoint.transport == Transport::Lorica)?;
        let word = response.fields.get_str(FIELD)?;
        [Self::Unreached, Self::Lost].into_iter().find(|unserved| unserved.word() == word)
    }
}
