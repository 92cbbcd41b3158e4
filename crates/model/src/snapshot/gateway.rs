//! A listener port of a gateway: what comes in there, by which name, and where it goes.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Authorization, Backend, EgressRule, HttpRule, Origin, RuleTable, Telemetry, WeightedBackend};
use crate::name::{GatewayName, SecretName, ServicePort};

/// One listener port of a gateway: all of its listeners of that port, merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayUnit {
    /// The gateway.
    pub gateway: GatewayName,
    /// The port, as the listeners say it; where a proxy binds it is the proxy's business.
    pub port: u16,
    /// What is taken there.
    pub listening: Listening,
    /// What is told of exchanges, the same at all ports; none: what the proxy was told at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Arc<Telemetry>>,
}

impl GatewayUnit {
    /// The rules by host of all that it looks into as HTTP.
    pub fn hosts(&self) -> impl Iterator<Item = &Hosts> {
        let (own, chains) = match &self.listening {
            Listening::Http(hosts) => (Some(hosts), &[][..]),
            Listening::Tls(chains) => (None, chains.as_slice()),
            Listening::Tcp(_) | Listening::Udp(_) | Listening::Egress(_) => (None, &[][..]),
        };
        let terminated = chains.iter().filter_map(|chain| match &chain.action {
            TlsAction::Terminate { then: Terminated::Http(hosts), .. } => Some(hosts),
            _ => None,
        });
        own.into_iter().chain(terminated)
    }

    /// Every service port that something which comes in may go to.
    pub fn leads_to(&self) -> impl Iterator<Item = &ServicePort> {
        let bytes = self.transports().flat_map(|route| &route.backends).filter_map(|weighted| match &weighted.backend {
            Backend::Port(port) => Some(port),
            Backend::Missing { .. } => None,
        });
        self.rules().flat_map(|rule| rule.leads_to()).chain(bytes)
    }

    /// Who may do what there, of everything that is asked for it.
    pub fn authorizations(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        let rules = self.rules().filter_map(|rule| rule.filters.authorization.as_ref());
        rules.chain(self.transports().filter_map(|route| route.authorization.as_ref()))
    }

    /// The rules of all that it looks into as HTTP.
    fn rules(&self) -> impl Iterator<Item = &Arc<HttpRule>> {
        self.hosts().flat_map(Hosts::all).flat_map(|host| host.rules.iter())
    }

    /// Where all that it does not look into goes.
    fn transports(&self) -> impl Iterator<Item = &TransportRoute> {
        let (own, chains) = match &self.listening {
            Listening::Http(_) | Listening::Egress(_) => (None, &[][..]),
            Listening::Tcp(route) | Listening::Udp(route) => (route.as_ref(), &[][..]),
            Listening::Tls(chains) => (None, chains.as_slice()),
        };
        let chained = chains.iter().filter_map(|chain| match &chain.action {
            TlsAction::Passthrough(route) => Some(route),
            TlsAction::Terminate { then: Terminated::Tcp(route), .. } => route.as_ref(),
            TlsAction::Terminate { then: Terminated::Http(_), .. } => None,
        });
        own.into_iter().chain(chained)
    }

    /// Every certificate that is shown there.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        let chains = if let Listening::Tls(chains) = &self.listening { chains.as_slice() } else { &[] };
        chains.iter().flat_map(|chain| match &chain.action {
            TlsAction::Terminate { tls, .. } => tls.certificates.as_slice(),
            TlsAction::Passthrough(_) => &[],
        })
    }
}

/// What a listener port takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listening {
    /// HTTP in plaintext.
    Http(Hosts),
    /// TLS: the server name that the client asks for decides.
    Tls(Vec<TlsChain>),
    /// Bytes.
    Tcp(Option<TransportRoute>),
    /// Datagrams.
    Udp(Option<TransportRoute>),
    /// What workloads of the mesh send out through it, by mutual TLS: calls that no rule lists for their caller are refused.
    Egress(Vec<EgressRule>),
}

/// What is done with TLS connections for some server names. Of several that take a name, the most specific does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsChain {
    /// The server names.
    pub server_name: HostPattern,
    /// What is done.
    pub action: TlsAction,
    /// Whether HTTP is served there by HTTP/3, too: on the same port of UDP.
    pub http3: bool,
}

/// What is done with a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsAction {
    /// Its bytes are passed on as they are.
    Passthrough(TransportRoute),
    /// It ends here.
    Terminate {
        /// As whom, and what clients must show.
        tls: ServerTls,
        /// What it carries.
        then: Terminated,
    },
}

/// What a TLS connection that ends at a gateway carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Terminated {
    /// HTTP, by the versions that ALPN settles.
    Http(Hosts),
    /// Bytes.
    Tcp(Option<TransportRoute>),
}

/// Where bytes or datagrams go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportRoute {
    /// The place it was written in.
    pub origin: Arc<Origin>,
    /// Where they go, by weight; header edits of theirs are empty.
    pub backends: Vec<WeightedBackend>,
    /// Who may connect. Datagrams are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Arc<Authorization>>,
}

/// How a gateway proves who it is, and whether its clients must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTls {
    /// Its certificates, of which the first that fits the server name and the client's algorithms is shown.
    pub certificates: Vec<Certificate>,
    /// What clients must show; none: nothing.
    pub client: Option<ClientValidation>,
}

/// A certificate chain and its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The Secret that holds it.
    pub secret: SecretName,
    /// The chain, leaf first, as PEM; or the path of a file on the proxy's host that holds it.
    pub chain: String,
    /// The key.
    pub key: PrivateKey,
    /// Whether chain and key are paths of files on the proxy's host, so that the key never leaves it.
    pub in_files: bool,
}

/// A private key as PEM, or the path of a file that holds it. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(pub String);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// What clients of a gateway must show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientValidation {
    /// The roots, as PEM, that a client's certificate must lead to. Empty: nobody's does.
    pub roots: String,
    /// Whether a client without a certificate, or with one that leads to no root, is let in all the same.
    pub optional: bool,
}

/// TLS towards endpoints that are no part of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTls {
    /// The server name that is asked for; it must be in the certificate unless `names` says otherwise.
    pub server_name: String,
    /// The names of which one must be in the certificate: DNS names, and URIs with `://`. Empty: `server_name`.
    pub names: Vec<String>,
    /// The roots, as PEM, to which the certificate must lead; none: those of the proxy's system.
    pub roots: Option<String>,
    /// The certificate that is shown.
    pub certificate: Option<Certificate>,
}

/// Rules by host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts(Vec<VirtualHost>);

/// The rules of some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualHost {
    /// The hosts.
    pub host: HostPattern,
    /// The rules, in the order in which they are tried.
    pub rules: RuleTable,
}

/// Which hosts are meant. Ordered from the most specific to the least.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// Those that end with this, of which it is a whole number of labels and not all: `example.com` for `*.example.com`.
    Under(String),
    /// Every host.
    Any,
}

impl HostPattern {
    /// The pattern of a Gateway API host name.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text.strip_prefix("*.") {
            _ if text.is_empty() || text == "*" => Self::Any,
            Some(rest) => Self::Under(rest.to_ascii_lowercase()),
            None => Self::Exact(text.to_ascii_lowercase()),
        }
    }

    /// Whether `host`, in lower case and without port, is meant.
    #[must_use]
    pub fn takes(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == exact,
            Self::Under(rest) => host.strip_suffix(rest.as_str()).is_some_and(|before| before.len() > 1 && before.ends_with('.')),
            Self::Any => true,
        }
    }

    /// Whether every host of `other` is meant.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (_, Self::Exact(host)) => self.takes(host),
            (Self::Under(mine), Self::Under(rest)) => mine == rest || self.takes(rest),
            (Self::Exact(_), Self::Under(_)) => false,
        }
    }

    /// The hosts that both mean, if there are any.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        if self.covers(other) { Some(other.clone()) } else { other.covers(self).then(|| self.clone()) }
    }

    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Under(text) => text,
            Self::Any => "",
        }
    }

    /// How specific it is: exact names before suffixes, long before short.
    #[must_use]
    pub fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Exact(host) => (2, host.len()),
            Self::Under(rest) => (1, rest.len()),
            Self::Any => (0, 0),
        }
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.specificity().cmp(&self.specificity()).then_with(|| self.text().cmp(other.text()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Under(rest) => write!(f, "*.{rest}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Hosts {
    /// The hosts, in any order, each pattern once.
    #[must_use]
    pub fn new(mut hosts: Vec<VirtualHost>) -> Self {
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        Self(hosts)
    }

    /// All of them, the most specific first.
    #[must_use]
    pub fn all(&self) -> &[VirtualHost] {
        &self.0
    }

    /// The rules of a host as a request names it: with a port or without, in any case. Found by halving, as there may be thousands.
    #[must_use]
    pub fn rules(&self, authority: &str) -> Option<&RuleTable> {
        let host = without_port(authority).to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        if let Some(found) = self.find(&HostPattern::Exact(host.to_owned())) {
            return Some(found);
        }
        let mut rest = host;
        while let Some((_, under)) = rest.split_once('.') {
            // A host that begins with the dot has no label there.
            if under.len() + 1 < host.len()
                && let Some(found) = self.find(&HostPattern::Under(under.to_owned()))
            {
                return Some(found);
            }
            rest = under;
        }
        self.0.last().filter(|last| last.host == HostPattern::Any).map(|last| &last.rules)
    }

    fn find(&self, pattern: &HostPattern) -> Option<&RuleTable> {
        self.0.binary_search_by(|known| known.host.cmp(pattern)).ok().map(|at| &self.0[at].rules)
    }
}

/// The host of an authority.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(patterns: &[&str]) -> Hosts {
        Hosts::new(patterns.iter().map(|text| VirtualHost { host: HostPattern::of(text), rules: RuleTable::default() }).collect())
    }

    fn found<'h>(hosts: &'h Hosts, authority: &str) -> Option<&'h HostPattern> {
        let rules = hosts.rules(authority)?;
        hosts.all().iter().find(|known| std::ptr::eq(&raw const known.rules, rules)).map(|known| &known.host)
    }

    #[test]
    fn the_most_specific_host_is_found() {
        let hosts = hosts(&["*", "*.example.com", "*.a.example.com", "b.example.com"]);
        for (authority, expected) in [
            ("b.example.com", "b.example.com"),
            ("B.Example.com:8080", "b.example.com"),
            ("c.example.com", "*.example.com"),
            ("x.y.example.com", "*.example.com"),
            ("x.a.example.com", "*.a.example.com"),
            ("a.example.com", "*.example.com"),
            ("example.com", "*"),
            ("[::1]:80", "*"),
            (".example.com", "*"),
            ("x..example.com", "*.example.com"),
        ] {
            assert_eq!(found(&hosts, authority), Some(&HostPattern::of(expected)), "{authority}");
        }
        assert_eq!(found(&self::hosts(&["*.example.com"]), "example.com"), None);
    }

    #[test]
    fn patterns_meet_where_both_hold() {
        let meet = |one: &str, other: &str| HostPattern::of(one).meet(&HostPattern::of(other)).map(|found| found.to_string());
        assert_eq!(meet("*.example.com", "a.example.com").as_deref(), Some("a.example.com"));
        assert_eq!(meet("*", "*.example.com").as_deref(), Some("*.example.com"));
        assert_eq!(meet("*.example.com", "*.a.example.com").as_deref(), Some("*.a.example.com"));
        assert_eq!(meet("*.example.com", "example.com"), None);
        assert_eq!(meet("a.example.com", "b.example.com"), None);
    }
}
