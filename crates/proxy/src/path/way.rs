//! The way of one exchange: what route settled, for every attempt. A pure function of head, unit and a random number.

use std::net::Ipv4Addr;
use std::sync::Arc;

use lorica_model::head::{RequestHead, Version};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Origin, Protocol, Timeouts, route as rules};

use super::mtls::Negotiated;
use crate::view::{Reach, View};

/// Where an exchange goes, and what holds on the way.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where it goes.
    pub to: To,
    /// What is spoken there.
    pub protocol: Negotiated,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// The rule that decided, for the record.
    pub origin: Option<Arc<Origin>>,
}

impl Way {
    /// Whether nobody is left whom `tried` does not name. The app beside a proxy is tried once: it is there, or it is not.
    #[must_use]
    pub fn is_exhausted(&self, tried: &[u64]) -> bool {
        match &self.to {
            To::Endpoints(reach) => tried.len() >= reach.live.len(),
            To::App { .. } => false,
        }
    }
}

/// Where an exchange goes.
#[derive(Debug, Clone)]
pub enum To {
    /// To one of the endpoints of a service port.
    Endpoints(Arc<Reach>),
    /// To the app beside this proxy.
    App {
        /// Its port.
        port: u16,
        /// The address from which it is to see the call come.
        caller: Option<Ipv4Addr>,
    },
}

/// The way of a request that the app sends to the service port that `called` reaches.
///
/// # Errors
/// Where no rule takes it, or the rule leads nowhere.
pub fn outbound(called: &Arc<Reach>, view: &View, head: &RequestHead, random: f64) -> Result<Way, Reason> {
    let rule = rules::rule(&called.unit, head, &mut ())?;
    let port = rules::backend(rule, random, &mut ())?;
    let reached = if *port == called.unit.port { called } else { view.reach(port).ok_or(Reason::NoConfiguration)? };
    let protocol = spoken(reached.unit.cluster.protocol, head.version);
    Ok(Way { to: To::Endpoints(reached.clone()), protocol, timeouts: rule.timeouts, origin: Some(rule.origin.clone()) })
}

/// The way of a request for the app's port.
#[must_use]
pub fn inbound(port: u16, declared: Protocol, caller: Option<Ipv4Addr>, head: &RequestHead) -> Way {
    Way { to: To::App { port, caller }, protocol: spoken(declared, head.version), timeouts: Timeouts::default(), origin: None }
}

/// What is spoken onwards: HTTP/2 where the port is declared so, else what the caller speaks.
fn spoken(declared: Protocol, version: Version) -> Negotiated {
    match (declared, version) {
        (Protocol::Http2 | Protocol::Grpc, _) | (_, Version::Http2) => Negotiated::Http2,
        _ => Negotiated::Http1,
    }
}
