//! Rules for HTTP: what a request must be, what is done to it, and where it goes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Affinity, AttemptTrial, Authentication, AuthenticationTrial, Authorization, Fault, HashOn, Hedge, LimitService, Origin, Pattern,
    RateLimit, Retry, Timeouts,
};
use crate::name::ServicePort;

/// One rule: the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRule {
    /// The place it was written in. Shared, as every record of an exchange names it.
    pub origin: Arc<Origin>,
    /// What it takes.
    pub matches: RouteMatch,
    /// What is changed in the heads of requests and answers, whatever is done with them.
    pub filters: Filters,
    /// What is done with a request.
    pub action: Action,
}

impl HttpRule {
    /// How it passes requests on, if it does.
    #[must_use]
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }

    /// Where the rule leads; nowhere for one that answers by itself.
    #[must_use]
    pub fn backends(&self) -> &[WeightedBackend] {
        self.forward().map(|forward| forward.backends.as_slice()).unwrap_or_default()
    }

    /// Every service port that requests of the rule may go to, copies and questions of limits and authorization among them.
    pub fn leads_to(&self) -> impl Iterator<Item = &ServicePort> {
        let mirrors = self.forward().map(|forward| forward.mirrors.as_slice()).unwrap_or_default();
        let backends = self.backends().iter().map(|weighted| &weighted.backend);
        let backends = backends.chain(mirrors.iter().map(|mirror| &mirror.backend)).filter_map(|backend| match backend {
            Backend::Port(port) => Some(port),
            Backend::Missing { .. } => None,
        });
        let asked = self.filters.authorization.iter().flat_map(|authorization| authorization.authorizers());
        backends.chain(self.filters.services().map(|service| &service.port)).chain(asked.map(|authorizer| &authorizer.port))
    }
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "rules are shared, never moved about, and nearly all of them pass requests on")]
pub enum Action {
    /// It is passed on.
    Forward(Forward),
    /// The caller is sent elsewhere.
    Redirect(Redirect),
    /// It is answered with this status and no body: 421 where its host belongs to another listener.
    Respond(u16),
}

/// How a request is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Where it goes. Empty, or of no weight: 500, as the Gateway API has it.
    pub backends: Vec<WeightedBackend>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// The path that the backend sees, where it is another.
    pub path: Option<PathEdit>,
    /// The host that the backend sees, where it is another.
    pub host: Option<String>,
    /// Where copies go. What becomes of a copy is of no concern to the caller.
    pub mirrors: Vec<Mirror>,
    /// When it is tried again.
    pub retry: Retry,
    /// When a second attempt goes out beside a slow one; none: never.
    pub hedge: Option<Hedge>,
    /// What is hashed, where the hash decides on the endpoint. Nothing, or nothing that the request has: any endpoint.
    pub hash: Vec<HashOn>,
    /// How a caller stays with one endpoint; none: it does not.
    pub affinity: Option<Affinity>,
    /// The faults that it meets first, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// What policies that are tried say of its times and attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<AttemptTrial>,
}

/// What is changed in heads, and how calls are translated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// In the request.
    pub request: HeaderEdits,
    /// In the answer.
    pub response: HeaderEdits,
    /// Who may read answers from scripts of other origins.
    pub cors: Option<Cors>,
    /// Whether calls of gRPC-Web, as browsers make them, become calls of gRPC, and their answers the other way round.
    pub grpc_web: bool,
    /// How many requests may come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateLimit>,
    /// Which tokens are asked for. Shared by the rules of a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Arc<Authentication>>,
    /// Who may ask. Shared by the rules of a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Arc<Authorization>>,
    /// What policies that are tried ask of callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<AuthenticationTrial>,
}

impl Filters {
    /// The services that its limits ask.
    pub fn services(&self) -> impl Iterator<Item = &LimitService> {
        self.limits.iter().filter_map(RateLimit::service)
    }
}

/// Changes of a head's fields, made in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderEdits {
    /// Fields that go, by lower-case name.
    pub remove: Vec<String>,
    /// Fields that take the place of those of their name.
    pub set: Vec<(String, String)>,
    /// Fields that come beside those of their name.
    pub add: Vec<(String, String)>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Another path in place of the one that came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathEdit {
    /// All of it. The query stays.
    Full(String),
    /// The prefix that the rule matched, of which this is the first part.
    Prefix {
        /// What the rule matched.
        matched: String,
        /// What comes in its place.
        replacement: String,
    },
}

/// An answer that sends the caller elsewhere. What is `None` stays as the request has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The port that is written; none: none is written.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A copy of a share of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where it goes.
    pub backend: Backend,
    /// Which share is copied.
    pub share: Share,
}

/// A share, in millionths: as exact as xDS can say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub u32);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1_000_000);

    /// The share of a fraction, rounded to the nearest millionth.
    #[must_use]
    pub fn of(numerator: u64, denominator: u64) -> Self {
        let millionths = (u128::from(numerator) * 1_000_000 + u128::from(denominator) / 2) / u128::from(denominator.max(1));
        Self(u32::try_from(millionths.min(1_000_000)).unwrap_or(1_000_000))
    }

    /// Whether a random number, uniform in 0..1, falls into it.
    #[must_use]
    pub fn takes(self, random: f64) -> bool {
        random * 1_000_000.0 < f64::from(self.0)
    }
}

/// Who may read answers from scripts of other origins (the fetch standard's CORS protocol).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// The origins.
    pub origins: Vec<OriginMatch>,
    /// The methods; `*`: any.
    pub methods: Vec<String>,
    /// The request's fields; `*`: any.
    pub headers: Vec<String>,
    /// The answer's fields that a script may see.
    pub expose: Vec<String>,
    /// Whether requests may carry credentials.
    pub credentials: bool,
    /// For how long a browser may remember it, in seconds.
    pub max_age: u32,
}

/// Which origins are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginMatch {
    /// Every origin.
    Any,
    /// This one: `https://a.example`.
    Exact(String),
    /// Those between two texts: `https://` and `.example` for `https://*.example`.
    Wildcard {
        /// What comes before the `*`.
        before: String,
        /// What comes after it.
        after: String,
    },
}

impl OriginMatch {
    /// Whether `origin` is meant. Scheme and host are compared without regard to case.
    #[must_use]
    pub fn takes(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => origin.eq_ignore_ascii_case(exact),
            Self::Wildcard { before, after } => {
                let (before, after, origin) = (before.as_bytes(), after.as_bytes(), origin.as_bytes());
                origin.len() > before.len() + after.len()
                    && origin[..before.len()].eq_ignore_ascii_case(before)
                    && origin[origin.len() - after.len()..].eq_ignore_ascii_case(after)
                    // It stands for a part of the host.
                    && !origin[before.len()..origin.len() - after.len()].iter().any(|byte| matches!(byte, b'/' | b':'))
            }
        }
    }
}

/// What a rule takes: all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method.
    pub method: Option<String>,
    /// Header fields, by lower-case name.
    pub headers: Vec<FieldMatch>,
    /// Query parameters.
    pub query: Vec<FieldMatch>,
    /// Only requests whose random number falls into this share; none: all. Shares of rules that follow each other are cumulative,
    /// as one number is drawn for all of them.
    pub share: Option<Share>,
}

impl RouteMatch {
    /// Takes every request.
    #[must_use]
    pub fn any() -> Self {
        Self { path: PathMatch::Prefix("/".to_owned()), method: None, headers: Vec::new(), query: Vec::new(), share: None }
    }
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// The path is this.
    Exact(String),
    /// The path begins with this, whole elements only: `/a` takes `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path matches this.
    Regex(Pattern),
}

/// A named value that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldMatch {
    /// The field's name, in lower case for headers.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

/// How a value is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueMatch {
    /// The value is this.
    Exact(String),
    /// The whole value matches this.
    Regex(Pattern),
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedBackend {
    /// Its share of the rule's requests, relative to the others'. 0: none.
    pub weight: u32,
    /// Where it leads.
    pub backend: Backend,
    /// What is changed in the requests of its share.
    pub request: HeaderEdits,
    /// What is changed in the answers to its share.
    pub response: HeaderEdits,
    /// The host that it sees, where it is another.
    pub host: Option<String>,
}

impl WeightedBackend {
    /// A backend that takes requests as they are.
    #[must_use]
    pub fn plain(weight: u32, backend: Backend) -> Self {
        Self { weight, backend, request: HeaderEdits::default(), response: HeaderEdits::default(), host: None }
    }
}

/// Where a share of a rule's requests goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// To a service port.
    Port(ServicePort),
    /// Nowhere: what was named does not exist (any more). Its share is answered with 500, as the Gateway API has it.
    Missing {
        /// What was named.
        name: String,
    },
}
