//! What may leave the mesh: the rules for one caller, or for all callers of an egress gateway, and the decision.
//!
//! A destination is an address and a port, and the names that are known of it. Rules are tried in order: those of networks, the
//! longest first, as an address is known at once; then exact names, wildcards from the longest, and at last those for everything.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Backend, EgressTrial, HostPattern, NameFault, Origin};
use crate::name::{Label, Namespace, ServicePort, WorkloadName};
use crate::spiffe::SpiffeId;

/// What the app beside one proxy may call outside the mesh, and what it is told wrongly of names inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressUnit {
    /// The workload.
    pub workload: WorkloadName,
    /// The rules, in the order in which they are tried.
    pub rules: Vec<EgressRule>,
    /// What becomes of calls that no rule lists.
    pub unlisted: Unlisted,
    /// The faults that the app's questions for names of services meet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameFault>,
    /// What policies that are tried would refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<EgressTrial>,
}

/// What becomes of calls that no rule lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unlisted {
    /// They leave, and are counted. Without any policy it is so.
    Allow,
    /// They are refused, as this policy says.
    Deny(Arc<Origin>),
}

/// Something that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// The place it was written in.
    pub origin: Arc<Origin>,
    /// What may be called.
    pub host: EgressHost,
    /// On which ports; none: on all.
    pub ports: Vec<u16>,
    /// Who may, at an egress gateway; none: whoever is asked about.
    pub callers: Vec<EgressCaller>,
    /// The egress gateway through which it goes; none: directly. One that is missing is no reason to go around it.
    pub via: Option<Backend>,
}

/// Hosts outside the mesh. Ordered as they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EgressHost {
    /// Addresses.
    Network(IpNet),
    /// Names. [`HostPattern::Any`] means every address as well, named or not.
    Name(HostPattern),
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EgressCaller {
    /// The namespace; none: any.
    pub namespace: Option<Namespace>,
    /// The account in it; none: any.
    pub account: Option<Label>,
}

impl EgressCaller {
    /// Whether an identity is meant.
    #[must_use]
    pub fn is(&self, namespace: &str, account: &str) -> bool {
        self.namespace.as_ref().is_none_or(|own| own.as_str() == namespace)
            && self.account.as_ref().is_none_or(|own| own.as_str() == account)
    }
}

impl EgressHost {
    /// Whether a destination is meant. `names` are those that are known of the address, or that the caller claims, in lower case.
    #[must_use]
    pub fn takes<N: AsRef<str>>(&self, address: Option<IpAddr>, names: &[N]) -> bool {
        match self {
            Self::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Self::Name(HostPattern::Any) => true,
            Self::Name(pattern) => {
                names.iter().any(|name| pattern.takes(name.as_ref())) && address.is_none_or(|address| !is_special(address))
            }
        }
    }

    /// Where it is tried: smaller first.
    fn place(&self) -> (u8, usize) {
        match self {
            Self::Network(network) => (0, usize::MAX - usize::from(network.prefix_len())),
            Self::Name(HostPattern::Exact(name)) => (1, usize::MAX - name.len()),
            Self::Name(HostPattern::Under(rest)) => (2, usize::MAX - rest.len()),
            Self::Name(HostPattern::Any) => (3, 0),
        }
    }
}

impl fmt::Display for EgressHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Name(pattern) => pattern.fmt(f),
        }
    }
}

/// Addresses that no name leads to, whatever DNS says: of this host, of its link (a cloud's metadata among them), of the mesh, of
/// groups. A rule for a name would else open them to whoever holds the name. Rules for networks may still list them.
#[must_use]
pub fn is_special(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local(),
    }
}

impl EgressRule {
    /// Whether a port is listed.
    #[must_use]
    pub fn takes_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    /// Whether an identity may call by it; where nobody is named, whoever is asked about may.
    #[must_use]
    pub fn lets(&self, caller: Option<&SpiffeId>) -> bool {
        self.callers.is_empty()
            || caller
                .and_then(SpiffeId::account)
                .is_some_and(|(namespace, account)| self.callers.iter().any(|known| known.is(namespace, account)))
    }

    /// In what order it is tried, besides age and name: smaller first. Rules that name ports come before those that do not.
    #[must_use]
    pub fn place(&self) -> (u8, usize, bool) {
        let (form, length) = self.host.place();
        (form, length, self.ports.is_empty())
    }
}

/// What is decided about a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'u> {
    /// It may be called, by this rule, or as nothing forbids it.
    Allowed(Option<&'u EgressRule>),
    /// It may be called if it has a name that a rule lists, which is not known yet.
    IfNamed,
    /// It may not.
    Denied,
}

/// The first of `rules` that lists a destination. None of its parts may be known: a caller may claim a name of which the address is
/// looked up later.
pub fn listed<'u, N: AsRef<str>>(
    rules: &'u [EgressRule],
    caller: Option<&SpiffeId>,
    address: Option<IpAddr>,
    port: u16,
    names: &[N],
) -> Option<&'u EgressRule> {
    rules.iter().find(|rule| rule.takes_port(port) && rule.host.takes(address, names) && rule.lets(caller))
}

impl EgressUnit {
    /// What nothing was said about: everything may leave.
    #[must_use]
    pub fn open(workload: WorkloadName) -> Self {
        Self { workload, rules: Vec::new(), unlisted: Unlisted::Allow, names: Vec::new(), tried: Vec::new() }
    }

    /// Whether nothing is forbidden and nothing goes elsewhere: then nobody need look at a connection.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.unlisted == Unlisted::Allow && self.rules.iter().all(|rule| rule.via.is_none())
    }

    /// What is decided about an address, a port, and the names that are known of the address; the caller may still say which it means.
    #[must_use]
    pub fn decide<N: AsRef<str>>(&self, address: IpAddr, port: u16, names: &[N]) -> Verdict<'_> {
        let now = self.decide_finally(Some(address), port, names);
        // Many hosts may share an address, of which only some are listed.
        let all_alike = || names.iter().all(|name| self.decide_finally(Some(address), port, &[name]) == now);
        let differs = |rule: &&EgressRule| match now {
            Verdict::Allowed(Some(found)) => match found.host {
                EgressHost::Network(_) => false,
                EgressHost::Name(HostPattern::Any) => names.is_empty() && rule.via.is_some(),
                EgressHost::Name(_) => !all_alike(),
            },
            Verdict::Allowed(None) => names.is_empty() && rule.via.is_some(),
            Verdict::IfNamed | Verdict::Denied => true,
        };
        let named = |rule: &&EgressRule| matches!(&rule.host, EgressHost::Name(pattern) if *pattern != HostPattern::Any);
        let waits = self.rules.iter().filter(named).filter(|rule| rule.takes_port(port)).any(|rule| differs(&rule));
        if waits { Verdict::IfNamed } else { now }
    }

    /// The same once no other name can turn out.
    #[must_use]
    pub fn decide_finally<N: AsRef<str>>(&self, address: Option<IpAddr>, port: u16, names: &[N]) -> Verdict<'_> {
        match (listed(&self.rules, None, address, port, names), &self.unlisted) {
            (Some(rule), _) => Verdict::Allowed(Some(rule)),
            (None, Unlisted::Allow) => Verdict::Allowed(None),
            (None, Unlisted::Deny(_)) => Verdict::Denied,
        }
    }

    /// The egress gateways that rules lead through.
    pub fn leads_to(&self) -> impl Iterator<Item = &ServicePort> {
        self.rules.iter().filter_map(|rule| match &rule.via {
            Some(Backend::Port(port)) => Some(port),
            Some(Backend::Missing { .. }) | None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(host: EgressHost, ports: &[u16], via: Option<&str>) -> EgressRule {
        let origin = Origin {
            kind: "EgressPolicy".to_owned(),
            namespace: "shop".to_owned(),
            name: "out".to_owned(),
            generation: 1,
            rule: 0,
            matched: 0,
        };
        EgressRule {
            origin: Arc::new(origin),
            host,
            ports: ports.to_vec(),
            callers: Vec::new(),
            via: via.map(|port| Backend::Port(port.parse().unwrap())),
        }
    }

    fn name(text: &str) -> EgressHost {
        EgressHost::Name(HostPattern::of(text))
    }

    fn network(text: &str) -> EgressHost {
        EgressHost::Network(text.parse().unwrap())
    }

    fn unit(rules: Vec<EgressRule>, deny: bool) -> EgressUnit {
        let unlisted = if deny { Unlisted::Deny(rules[0].origin.clone()) } else { Unlisted::Allow };
        EgressUnit { rules, unlisted, ..EgressUnit::open("checkout-1.shop".parse().unwrap()) }
    }

    const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    #[test]
    fn names_and_networks_are_listed_and_the_rest_is_denied() {
        let unit = unit(
            vec![
                rule(network("198.51.100.0/24"), &[], None),
                rule(name("api.example"), &[443], None),
                rule(name("*.b.example"), &[], None),
            ],
            true,
        );
        let verdict = |address: IpAddr, port, names: &[&str]| match unit.decide_finally(Some(address), port, names) {
            Verdict::Allowed(Some(rule)) => rule.host.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(verdict([198, 51, 100, 9].into(), 25, &[]), "198.51.100.0/24");
        assert_eq!(verdict(OUTSIDE, 443, &["x.example", "api.example"]), "api.example");
        assert_eq!(verdict(OUTSIDE, 80, &["api.example"]), "Denied");
        assert_eq!(verdict(OUTSIDE, 80, &["a.b.example"]), "*.b.example");
        assert_eq!(verdict(OUTSIDE, 80, &["b.example"]), "Denied");
        assert_eq!(unit.decide::<&str>(OUTSIDE, 443, &[]), Verdict::IfNamed);
        assert_eq!(unit.decide(OUTSIDE, 443, &["of-the-same-address.example"]), Verdict::IfNamed);
        assert!(matches!(unit.decide(OUTSIDE, 443, &["api.example"]), Verdict::Allowed(Some(_))));
        assert_eq!(unit.decide(OUTSIDE, 443, &["api.example", "of-the-same-address.example"]), Verdict::IfNamed);
        assert!(!unit.is_open());
    }

    #[test]
    fn no_name_leads_to_the_host_itself_its_link_or_the_mesh() {
        let unit = unit(vec![rule(name("*.example"), &[], None)], true);
        for special in ["127.0.0.1", "169.254.169.254", "240.0.0.7", "::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"] {
            assert_eq!(unit.decide_finally(Some(special.parse().unwrap()), 80, &["a.example"]), Verdict::Denied, "{special}");
        }
        let listed = super::listed(&[rule(network("127.0.0.0/8"), &[], None)], None, Some([127, 0, 0, 1].into()), 80, &["a"]).is_some();
        assert!(listed, "whoever lists the network means it");
    }

    #[test]
    fn nobody_waits_for_a_name_that_makes_no_difference() {
        let open = unit(vec![rule(name("api.example"), &[443], None)], false);
        assert!(open.is_open());
        assert_eq!(open.decide::<&str>(OUTSIDE, 443, &[]), Verdict::Allowed(None));
        let elsewhere = unit(vec![rule(name("api.example"), &[443], Some("egress.infra.mesh:15008"))], false);
        assert!(!elsewhere.is_open());
        assert_eq!(elsewhere.decide::<&str>(OUTSIDE, 443, &[]), Verdict::IfNamed);
        assert_eq!(elsewhere.decide::<&str>(OUTSIDE, 80, &[]), Verdict::Allowed(None));
        let all = unit(vec![rule(name("*"), &[], None)], true);
        assert!(matches!(all.decide::<&str>(OUTSIDE, 80, &[]), Verdict::Allowed(Some(_))));
    }

    #[test]
    fn only_the_callers_that_are_named_pass_a_gateway() {
        let mut only = rule(name("api.example"), &[], None);
        only.callers = vec![EgressCaller { namespace: Some(Namespace::new("shop").unwrap()), account: Some("checkout".parse().unwrap()) }];
        let listed = |id: &str| listed(std::slice::from_ref(&only), Some(&id.parse().unwrap()), None, 443, &["api.example"]).is_some();
        assert!(listed("spiffe://lorica.local/ns/shop/sa/checkout"));
        assert!(!listed("spiffe://lorica.local/ns/shop/sa/web"));
        assert!(!listed("spiffe://lorica.local/ns/bank/sa/checkout"));
    }
}
