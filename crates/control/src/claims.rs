//! What a peer may claim to be: who it proved to be and what it says in, yes or a reason out. Pure.
//!
//! The owner of the control plane's socket may claim anything. A host may claim the services that its token named (none named: any); a
//! workload only itself.

use lorica_model::name::{Label, Namespace, ServiceName, WorkloadName};
use lorica_model::spiffe::SpiffeId;
use lorica_xds::NodeMetadata;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimant {
    /// The owner of the control plane's socket.
    Owner,
    /// A host that joined.
    Host {
        /// Its name.
        name: Label,
        /// The services that its token named; none: any.
        services: Vec<ServiceName>,
    },
    /// A workload that has an SVID already.
    Workload {
        /// Its namespace.
        namespace: Namespace,
        /// Its account.
        account: Label,
    },
}

impl Claimant {
    /// Whether it may be the workload `name` with this metadata.
    ///
    /// # Errors
    /// A sentence that says why not, and what to do.
    pub fn may_be(&self, name: &WorkloadName, node: &NodeMetadata) -> Result<(), String> {
        let account = ServiceName::new(name.namespace.clone(), node.account.clone());
        // A gateway's certificates go to whoever runs it: it is its account's alone.
        let gateway = node.gateway.as_ref().map(|gateway| ServiceName::new(gateway.namespace.clone(), gateway.account()));
        match self {
            Self::Owner => Ok(()),
            Self::Host { services, .. } if services.is_empty() => match gateway {
                Some(gateway) if gateway != account => Err(format!("{name} runs a gateway, whose account is {gateway}, not {account}")),
                _ => Ok(()),
            },
            Self::Host { name: host, services } => {
                let claimed = node.service.iter().chain([&account]).chain(&gateway);
                match claimed.into_iter().find(|claimed| !services.contains(claimed)) {
                    Some(other) => Err(not_named(host, services, other)),
                    None => Ok(()),
                }
            }
            Self::Workload { namespace, account: own } => {
                let own = ServiceName::new(namespace.clone(), own.clone());
                let claimed = node.service.iter().chain([&account]).chain(&gateway);
                match claimed.into_iter().find(|claimed| **claimed != own) {
                    Some(other) => Err(format!("the caller is {own}, and says that it is of {other}")),
                    None => Ok(()),
                }
            }
        }
    }

    /// Whether its processes may have an identity that a resource gives them.
    ///
    /// # Errors
    /// A sentence that says why not, and what to do.
    pub fn may_have(&self, id: &SpiffeId) -> Result<(), String> {
        let Self::Host { name: host, services } = self else { return Err(format!("{} is no host that joined", self.word())) };
        let account = id.account().and_then(|(namespace, account)| format!("{account}.{namespace}").parse::<ServiceName>().ok());
        match account {
            None => Err(format!("{id} is no identity of a workload")),
            Some(account) if services.is_empty() || services.contains(&account) => Ok(()),
            Some(account) => Err(not_named(host, services, &account)),
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::Owner => "this host".to_owned(),
            Self::Host { name, .. } => format!("host {name}"),
            Self::Workload { namespace, account } => format!("workload {account}.{namespace}"),
        }
    }

    /// Whether both are the same peer, whatever it may do by now.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host { name, .. }, Self::Host { name: other, .. }) => name == other,
            _ => self == other,
        }
    }
}

fn not_named(host: &Label, services: &[ServiceName], other: &ServiceName) -> String {
    let known = services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "the host {host} joined for {known}, and not for {other}; make a token that names it: lorica token create --host {host} --service {other}"
    )
}

/// Whether a peer that was let in as `before` may say `now`: what its place in the mesh rests on stays the same for the life of its stream.
///
/// # Errors
/// A sentence that says what changed.
pub fn stays(before: &NodeMetadata, now: &NodeMetadata) -> Result<(), String> {
    let same = (&before.namespace, &before.service, &before.account, &before.gateway)
        == (&now.namespace, &now.service, &now.account, &now.gateway);
    if same { Ok(()) } else { Err("namespace, service, account and gateway of a workload stay the same while it is connected".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(service: Option<&str>, account: &str) -> NodeMetadata {
        let mut node = NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new(account).unwrap());
        node.service = service.map(|service| service.parse().unwrap());
        node
    }

    fn host(services: &[&str]) -> Claimant {
        Claimant::Host { name: Label::new("web-1").unwrap(), services: services.iter().map(|name| name.parse().unwrap()).collect() }
    }

    fn may(claimant: &Claimant, node: &NodeMetadata) -> Result<(), String> {
        claimant.may_be(&"recording-1.contact".parse().unwrap(), node)
    }

    #[test]
    fn a_host_claims_what_its_token_named() {
        let named = host(&["recording.contact", "agents.contact"]);
        may(&named, &node(Some("recording.contact"), "recording")).unwrap();
        may(&named, &node(None, "agents")).unwrap();
        let refused = may(&named, &node(Some("billing.contact"), "billing")).unwrap_err();
        assert!(refused.contains("web-1") && refused.contains("--service billing.contact"), "{refused}");
        may(&named, &node(Some("recording.contact"), "billing")).unwrap_err();
        may(&named, &node(None, "default")).unwrap_err();
        may(&host(&[]), &node(Some("billing.contact"), "billing")).unwrap();
    }

    #[test]
    fn a_workload_is_itself_alone() {
        let workload = Claimant::Workload { namespace: Namespace::new("contact").unwrap(), account: Label::new("recording").unwrap() };
        may(&workload, &node(Some("recording.contact"), "recording")).unwrap();
        may(&workload, &node(Some("agents.contact"), "recording")).unwrap_err();
        may(&workload, &node(None, "agents")).unwrap_err();
        workload.may_be(&"recording-1.other".parse().unwrap(), &node(None, "recording")).unwrap_err();
    }

    #[test]
    fn a_gateway_runs_under_its_own_account() {
        let mut gateway = node(None, "recording");
        gateway.gateway = Some("edge.contact".parse().unwrap());
        may(&host(&["recording.contact"]), &gateway).unwrap_err();
        may(&host(&[]), &gateway).unwrap_err();
        gateway.account = Label::new("edge").unwrap();
        may(&host(&["edge.contact"]), &gateway).unwrap();
        may(&host(&[]), &gateway).unwrap();
    }

    #[test]
    fn what_was_let_in_stays_what_it_is() {
        let before = node(Some("recording.contact"), "recording");
        stays(&before, &NodeMetadata { listening: vec![80], ..before.clone() }).unwrap();
        stays(&before, &node(Some("agents.contact"), "recording")).unwrap_err();
        stays(&before, &node(Some("recording.contact"), "agents")).unwrap_err();
    }
}
