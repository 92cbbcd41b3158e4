//! The way of one exchange: what route settled, for every attempt. A pure function of head, unit and a random number.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use lorica_model::head::{RequestHead, Version};
use lorica_model::reason::Reason;
use lorica_model::snapshot::hash::{self, RequestHash};
use lorica_model::snapshot::route::Recorder;
use lorica_model::snapshot::{Action, Backend, Forward, HttpRule, Protocol, Retry, RuleTable, Timeouts, WeightedBackend, route as rules};
use lorica_observe::metrics::OwnMetric;
use lorica_xds::authorization::Change;

use super::filter;
use super::grpc_web;
use super::mtls::Negotiated;
use super::respond::OwnAnswer;
use crate::endpoints::limits::RetryGuard;
use crate::endpoints::{LiveEndpoint, Wanted};
use crate::view::{Reach, View};
use crate::worker::Worker;

/// What is done with a request.
pub enum Decided {
    /// It goes on.
    Way(Way),
    /// The rule answers by itself.
    Answer(OwnAnswer, Arc<HttpRule>),
    /// The rule takes it and leads nowhere, by the backend that was drawn if there is any.
    Nowhere(Reason, Arc<HttpRule>, Option<usize>),
}

impl Decided {
    /// The rule that takes the request; none for calls to the app beside this proxy.
    #[must_use]
    pub fn rule(&self) -> Option<&HttpRule> {
        self.shared_rule().map(|rule| &**rule)
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared_rule(&self) -> Option<&Arc<HttpRule>> {
        match self {
            Self::Way(way) => way.rule.as_ref().map(|(rule, _)| rule),
            Self::Answer(_, rule) | Self::Nowhere(_, rule, _) => Some(rule),
        }
    }
}

/// Where an exchange goes, and what holds on the way.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where it goes.
    pub to: To,
    /// What is spoken there.
    pub protocol: Negotiated,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// The rule that decided, and which of its backends was drawn; none for calls to the app beside this proxy.
    pub rule: Option<(Arc<HttpRule>, usize)>,
    /// What the caller asked for in gRPC-Web, and the backend is asked for in gRPC.
    pub grpc_web: Option<grpc_web::Call>,
    /// To which endpoint it belongs, if to any.
    pub belongs: Belonging,
    /// How many bytes of the answer's body come in a second, where a fault slows it down.
    pub bytes_per_second: Option<u64>,
    /// Whether its answer leaves the mesh: who is outside is not told all.
    pub leaves: bool,
    /// What services that were asked for leave change in the answer.
    pub told: Vec<Change>,
}

/// To which endpoint an exchange belongs.
#[derive(Debug, Clone, Default)]
pub struct Belonging {
    /// Its hash, where that decides.
    hash: RequestHash,
    /// The token of the endpoint that its cookie names.
    stay: Option<u64>,
}

impl Belonging {
    fn of(forward: &Forward, reached: &Reach, head: &RequestHead, source: SocketAddr) -> Self {
        let hash = if reached.live.by_hash() { RequestHash::of(&forward.hash, head, source) } else { RequestHash::default() };
        Self { hash, stay: forward.affinity.as_ref().and_then(|affinity| hash::token(affinity, head)) }
    }
}

impl Way {
    /// The way of what no rule has a say in.
    #[must_use]
    pub fn plain(to: To, protocol: Negotiated) -> Self {
        Self {
            to,
            protocol,
            timeouts: Timeouts::default(),
            rule: None,
            grpc_web: None,
            belongs: Belonging::default(),
            bytes_per_second: None,
            leaves: false,
            told: Vec::new(),
        }
    }

    /// When the request is tried again. The app beside a proxy is not: who called may try another.
    #[must_use]
    pub fn retry(&self) -> &Retry {
        self.decided().and_then(|(rule, _)| rule.forward()).map_or(&NEVER, |forward| &forward.retry)
    }

    /// Leave for one more retry, as far as the service's limit of retries allows it.
    #[must_use]
    pub fn leave_to_retry(&self, worker: &Worker) -> Option<Leave> {
        let To::Endpoints(reach) = &self.to else { return Some(Leave::unlimited()) };
        let leave = reach.live.begin_retry();
        if leave.is_none() {
            worker.telemetry.metrics.count(OwnMetric::LIMITS_REACHED, "retries", 1);
        }
        leave.map(|guard| Leave(Some(guard)))
    }

    /// Whether nobody is left whom `tried` does not name. The app beside a proxy is tried once: it is there, or it is not.
    #[must_use]
    pub fn is_exhausted(&self, tried: &[u64]) -> bool {
        match &self.to {
            To::Endpoints(reach) => reach.is_exhausted(tried),
            To::App { .. } => false,
        }
    }

    /// What it asks of whoever picks its endpoint.
    #[must_use]
    pub fn wanted<'t>(&self, tried: &'t [u64]) -> Wanted<'t> {
        Wanted { tried, hash: self.belongs.hash.hash, stay: self.belongs.stay }
    }

    /// The cookies by which the caller's next requests go where this one went, to `live`: those that it does not have.
    pub fn cookies(&self, live: &LiveEndpoint) -> impl Iterator<Item = String> {
        let affinity = self.decided().and_then(|(rule, _)| rule.forward()?.affinity.as_ref());
        let stay = affinity.filter(|_| self.belongs.stay != Some(live.token)).map(|affinity| hash::stay(affinity, live.token));
        self.belongs.hash.cookies.iter().cloned().chain(stay)
    }

    /// The rule that decided, and its backend.
    #[must_use]
    pub fn decided(&self) -> Option<(&HttpRule, &WeightedBackend)> {
        let (rule, drawn) = self.rule.as_ref()?;
        Some((rule, rule.backends().get(*drawn)?))
    }
}

/// A retry under way, until it is dropped. The app beside the proxy has no limit of its own.
#[derive(Debug)]
pub struct Leave(#[expect(dead_code, reason = "it is held")] Option<RetryGuard>);

impl Leave {
    /// Leave for what no limit is about.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self(None)
    }
}

/// Nothing is tried again.
static NEVER: LazyLock<Retry> = LazyLock::new(|| Retry { attempts: 0, on: BTreeSet::new(), ..Retry::default() });

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

/// From where rules are asked.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The service port that an app calls; none at a gateway.
    pub called: Option<&'a Arc<Reach>>,
    /// How other service ports are reached.
    pub view: &'a View,
    /// By which scheme the request came.
    pub scheme: &'static str,
    /// From where it came.
    pub source: SocketAddr,
}

/// What `rules` do with a request. `random` is uniform in 0..1.
///
/// # Errors
/// Where no rule takes it.
pub fn by_rules(
    asked: Asked<'_>,
    table: &RuleTable,
    head: &RequestHead,
    random: f64,
    recorder: &mut impl Recorder,
) -> Result<Decided, Reason> {
    let rule = rules::rule(table, head, random, recorder)?;
    if let Some(answer) = rule.filters.cors.as_ref().and_then(|cors| filter::preflight(head, cors)) {
        return Ok(Decided::Answer(answer, rule.clone()));
    }
    let forward = match &rule.action {
        Action::Forward(forward) => forward,
        Action::Redirect(redirect) => return Ok(Decided::Answer(filter::redirect(head, redirect, asked.scheme), rule.clone())),
        Action::Respond(status) => return Ok(Decided::Answer(filter::status(*status), rule.clone())),
    };
    // Shares and weights need numbers of their own, or a share would always draw the same backends.
    let random = if rule.matches.share.is_some() { fastrand::f64() } else { random };
    let nowhere = |reason, drawn| Ok(Decided::Nowhere(reason, rule.clone(), drawn));
    let Some(drawn) = rules::drawn(&forward.backends, random, recorder) else { return nowhere(Reason::NoBackend, None) };
    let Backend::Port(port) = &forward.backends[drawn].backend else { return nowhere(Reason::NoBackend, Some(drawn)) };
    let reached = match asked.called {
        Some(called) if called.unit.port == *port => called,
        _ => match asked.view.reach(port) {
            Some(reached) => reached,
            None => return nowhere(Reason::NoConfiguration, Some(drawn)),
        },
    };
    let grpc_web = if rule.filters.grpc_web { grpc_web::Call::of(head) } else { None };
    let declared = reached.unit.cluster.protocol;
    let protocol = match asked.called {
        _ if grpc_web.is_some() => Negotiated::Http2,
        Some(_) => spoken(declared, head.version),
        None => beyond_gateway(declared, head),
    };
    let belongs = Belonging::of(forward, reached, head, asked.source);
    let (to, rule) = (To::Endpoints(reached.clone()), Some((rule.clone(), drawn)));
    Ok(Decided::Way(Way {
        to,
        protocol,
        timeouts: forward.timeouts,
        rule,
        grpc_web,
        belongs,
        bytes_per_second: None,
        leaves: asked.called.is_none(),
        told: Vec::new(),
    }))
}

/// The way of a request for the app's port.
#[must_use]
pub fn inbound(port: u16, declared: Protocol, caller: Option<Ipv4Addr>, head: &RequestHead) -> Way {
    Way::plain(To::App { port, caller }, spoken(declared, head.version))
}

/// What is spoken onwards: HTTP/2 where the port is declared so, else what the caller speaks.
#[must_use]
pub fn spoken(declared: Protocol, version: Version) -> Negotiated {
    match (declared, version) {
        (Protocol::Http2 | Protocol::Grpc, _) | (_, Version::Http2) => Negotiated::Http2,
        _ => Negotiated::Http1,
    }
}

/// The same behind a gateway: what a browser speaks says nothing of what a backend does, which for gRPC alone is clear.
fn beyond_gateway(declared: Protocol, head: &RequestHead) -> Negotiated {
    match declared {
        Protocol::Http2 | Protocol::Grpc => Negotiated::Http2,
        _ if head.is_grpc() => Negotiated::Http2,
        _ => Negotiated::Http1,
    }
}
