//! Who may do what, and the decision of it: pure functions of the policies, the caller, and what it asks for.
//!
//! In: the policies that hold at one place, in order of age. For a caller they become its [`Permissions`], once; each request is then held against
//! these. Deny comes before allow, and where any policy allows something, what none allows is denied.

mod claim;
mod each;
mod index;
mod path;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Authorizer, FieldMatch, HostPattern, Origin, route, without_port};
use crate::cel::{Attributes, Expression, Steps};
use crate::claims::Claims;
use crate::head::RequestHead;
use crate::name::Namespace;
use crate::spiffe::{SpiffeId, TrustDomain};

pub use claim::ClaimMatch;
pub use each::{PolicySay, each_policy};
pub use index::Permissions;
pub use path::{PathPattern, PathPatternError, Reading};

/// The policies that hold at one place: for the calls to a service, or for those of a rule at a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Authorization {
    /// The oldest first.
    pub policies: Vec<AccessPolicy>,
}

impl Authorization {
    /// Whether nobody has said anything: every caller that proved an identity of the mesh may do everything, and one of another mesh nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The services that are asked.
    pub fn authorizers(&self) -> impl Iterator<Item = &Arc<Authorizer>> {
        self.policies.iter().filter_map(|policy| policy.authorizer.as_ref())
    }

    /// What of it is said of `port`: at a gateway, where the port of all requests is known, no rule need ask for it.
    #[must_use]
    pub fn at(mut self, port: u16) -> Self {
        for policy in &mut self.policies {
            policy.rules.retain_mut(|rule| {
                let anything = rule.to.is_empty();
                rule.to.retain(|operation| operation.takes_port(port));
                rule.to.iter_mut().for_each(|operation| operation.ports = Among::default());
                anything || !rule.to.is_empty()
            });
        }
        self
    }
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessPolicy {
    /// The resource that it was written in.
    pub origin: Arc<Origin>,
    /// What becomes of what its rules mean.
    pub action: AccessAction,
    /// Whether it is only counted what it would have denied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// What it is about. Without any: nothing.
    pub rules: Vec<AccessRule>,
    /// Who is asked; there where the action is [`AccessAction::External`], and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorizer: Option<Arc<Authorizer>>,
}

impl AccessPolicy {
    /// What tells it apart in the mesh: `NAME.NAMESPACE`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.origin.name, self.origin.namespace)
    }
}

/// What becomes of what a policy's rules mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessAction {
    /// It is denied.
    Deny,
    /// It is allowed, and what no rule of such a policy means is denied.
    Allow,
    /// It is written down.
    Audit,
    /// Its authorizer is asked, once all else lets it pass.
    External,
}

/// What a policy means: calls of any of its sources that do any of its operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// Its name, or its number where it has none.
    pub name: String,
    /// The callers; none: all, those without an identity too. Callers of other trust domains an `Allow` means only where it names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
    /// What they do; none: anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Operation>,
    /// What holds besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
}

impl AccessRule {
    /// Whether its condition holds. `loosely`: as a denial means it, to which one without a result holds.
    fn holds(&self, access: &Access<'_>, loosely: bool, steps: &Steps) -> bool {
        let Some(when) = &self.when else { return true };
        // What asks for a request means no bytes, as with what else is asked of requests.
        if access.head.is_none() && when.is_of_http() {
            return loosely;
        }
        when.evaluate_within(&access.attributes(), steps).unwrap_or(loosely)
    }
}

/// What something must be one of, and what it may not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Among<T> {
    /// One of these; none: any.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<T>,
    /// None of these.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub none: Vec<T>,
}

impl<T> Default for Among<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

impl<T> Among<T> {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    fn holds(&self, is: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&is)) && !self.none.iter().any(is)
    }
}

/// Callers: all that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// The identity that it proved. A caller without one is none of any.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub identities: Among<IdentityPattern>,
    /// The namespaces of which that identity is, in the same form.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub namespaces: Among<IdentityPattern>,
    /// The address that the connection came from: of a workload of the mesh its own, not its host's.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub addresses: Among<IpNet>,
    /// What its token says, all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimMatch>,
    /// What its token does not say, none of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_claims: Vec<ClaimMatch>,
}

/// Identities that are meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityPattern {
    /// This one.
    Exact(SpiffeId),
    /// All of a namespace.
    Namespace(TrustDomain, Namespace),
    /// All of a trust domain.
    TrustDomain(TrustDomain),
    /// Whoever proved one.
    Any,
}

impl IdentityPattern {
    /// Whether it means `id` by its name or that of its trust domain.
    fn names(&self, id: &SpiffeId) -> bool {
        !matches!(self, Self::Any) && self.takes(id)
    }

    /// Whether it means `id`.
    #[must_use]
    pub fn takes(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Namespace(domain, namespace) => {
                id.trust_domain() == domain && id.account().is_some_and(|(of, _)| of == namespace.as_str())
            }
            Self::TrustDomain(domain) => id.trust_domain() == domain,
            Self::Any => true,
        }
    }
}

/// What is done: all that is said must hold. Of connections whose bytes are not looked at only the port is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operation {
    /// The method.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub methods: Among<String>,
    /// The path, without the query.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub paths: Among<PathPattern>,
    /// The host, without its port.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub hosts: Among<HostPattern>,
    /// The service port that is called; at a gateway its listener's.
    #[serde(skip_serializing_if = "Among::is_empty")]
    pub ports: Among<u16>,
    /// Header fields that are there with these values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
}

impl Operation {
    /// Whether it asks for anything that only a request of HTTP has.
    #[must_use]
    pub fn is_of_http(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.hosts.is_empty() && self.headers.is_empty())
    }

    /// Whether calls to `port` are meant.
    #[must_use]
    pub fn takes_port(&self, port: u16) -> bool {
        self.ports.holds(|known| *known == port)
    }

    /// Whether a request does it, read as `path` says. `loosely`: as a denial means it, which rather takes too much.
    fn is_done(&self, access: &Access<'_>, path: Option<&str>, loosely: bool) -> bool {
        if !self.takes_port(access.port) {
            return false;
        }
        let Some(head) = access.head else { return loosely || !self.is_of_http() };
        let takes = |pattern: &PathPattern| path.is_some_and(|path| pattern.takes(path, loosely));
        self.takes_method(method_of(head), loosely)
            && self.paths.any.iter().any(takes) | self.paths.any.is_empty()
            // What is left out is left out strictly where that denies more.
            && !self.paths.none.iter().any(|pattern| path.is_none_or(|path| pattern.takes(path, !loosely)))
            && (self.hosts.is_empty() || self.takes_host(head))
            && self.headers.iter().all(|field| if loosely { route::any_header_matches(field, head) } else { route::header_matches(field, head) })
    }

    /// Methods are known by their case, but some apps take them in any; as with paths, what is left out is left out loosely where that denies more.
    fn takes_method(&self, came: &str, loosely: bool) -> bool {
        let is = |method: &String, loosely| if loosely { method.eq_ignore_ascii_case(came) } else { method == came };
        (self.methods.any.is_empty() || self.methods.any.iter().any(|method| is(method, loosely)))
            && !self.methods.none.iter().any(|method| is(method, !loosely))
    }

    fn takes_host(&self, head: &RequestHead) -> bool {
        let host = host_of(head);
        self.hosts.holds(|pattern| pattern.takes(&host))
    }
}

/// The host of a request, as patterns have it: in lower case and without port. The root of all names may be written, and changes nothing.
fn host_of(head: &RequestHead) -> String {
    let host = without_port(head.authority());
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The method that the app sees: a stream that opens a WebSocket in HTTP/2 comes as CONNECT and arrives as GET.
pub(crate) fn method_of(head: &RequestHead) -> &str {
    if head.protocol().is_some() { "GET" } else { head.method() }
}

/// Who calls, as far as it stays the same on a connection.
#[derive(Debug, Clone, Copy)]
pub struct AccessCaller<'c> {
    /// The identity that it proved.
    pub identity: Option<&'c SpiffeId>,
    /// The address that it came from.
    pub address: IpAddr,
    /// The trust domain of who is called.
    pub trust_domain: &'c TrustDomain,
}

impl<'c> AccessCaller<'c> {
    /// Its identity, where that is of another trust domain.
    fn foreign(&self) -> Option<&'c SpiffeId> {
        self.identity.filter(|id| id.trust_domain() != self.trust_domain)
    }
}

impl Source {
    /// Whether an `Allow` takes a caller: of another trust domain only one that it names.
    fn allows(&self, caller: &AccessCaller<'_>) -> bool {
        self.takes(caller) && caller.foreign().is_none_or(|id| self.identities.any.iter().any(|pattern| pattern.names(id)))
    }

    /// Whether it asks for what a token says.
    #[must_use]
    pub fn asks_claims(&self) -> bool {
        !(self.claims.is_empty() && self.not_claims.is_empty())
    }

    /// Whether the token of a request says what is asked for. `loosely`: as a denial means it.
    fn takes_claims(&self, access: &Access<'_>, loosely: bool) -> bool {
        if !self.asks_claims() {
            return true;
        }
        let takes = |claims: &Claims| {
            self.claims.iter().all(|claim| claim.takes(claims)) && !self.not_claims.iter().any(|claim| claim.takes(claims))
        };
        match (access.head, access.claims) {
            (None, _) => loosely,
            (Some(_), Some(claims)) => takes(claims),
            // Who shows no token says nothing, and gains nothing by it.
            (Some(_), None) => loosely && self.claims.is_empty(),
        }
    }

    /// Whether it means a caller, as far as its connection tells.
    fn takes(&self, caller: &AccessCaller<'_>) -> bool {
        let identity = caller.identity;
        let is = |pattern: &IdentityPattern| identity.is_some_and(|id| pattern.takes(id));
        let address = caller.address.to_canonical();
        self.identities.holds(is) && self.namespaces.holds(is) && self.addresses.holds(|network| network.contains(&address))
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// The head of the request; none of a connection whose bytes are not looked at.
    pub head: Option<&'a RequestHead>,
    /// The service port that is called; at a gateway its listener's.
    pub port: u16,
    /// What the verified token of the request says.
    pub claims: Option<&'a Claims>,
    /// When it came.
    pub time: SystemTime,
    /// The identity that the caller proved: of the one that [`Permissions`] were made for, as is what follows.
    pub identity: Option<&'a SpiffeId>,
    /// The address and port that it came from.
    pub address: SocketAddr,
    /// The SNI that it sent.
    pub server_name: Option<&'a str>,
}

impl<'a> Access<'a> {
    fn attributes(&self) -> Attributes<'a> {
        Attributes {
            head: self.head,
            time: self.time,
            claims: self.claims,
            source: self.address,
            identity: self.identity,
            server_name: self.server_name,
            exchange: None,
        }
    }
}

/// Which rule of which policy decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByPolicy<'p> {
    /// The policy.
    pub policy: &'p AccessPolicy,
    /// The rule; none where the policy denies because none of its rules means the call.
    pub rule: Option<&'p AccessRule>,
}

impl fmt::Display for ByPolicy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.policy.origin.name, self.policy.origin.namespace)?;
        self.rule.map_or(Ok(()), |rule| write!(f, "/{}", rule.name))
    }
}

/// Why a call is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial<'p> {
    /// A rule denies it.
    Denied(ByPolicy<'p>),
    /// Policies allow something, and none of them this. The oldest is named.
    NotAllowed(ByPolicy<'p>),
    /// A service is to be asked of it, which can be asked of requests only.
    Unasked(ByPolicy<'p>),
    /// It comes from another trust domain, and no policy allows anything.
    Foreign,
    /// Its path can be read in several ways, and rules look at paths.
    Ambiguous {
        /// What in it is so.
        why: &'static str,
    },
}

/// What is told of a call besides whether it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted<'p> {
    /// A rule that only writes down means it.
    Audited(ByPolicy<'p>),
    /// A policy that is tried would have denied it.
    WouldDeny(ByPolicy<'p>),
    /// A policy that is tried would have let it pass.
    WouldPass(&'p AccessPolicy),
}

#[cfg(test)]
mod tests;
