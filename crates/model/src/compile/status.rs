//! What a route's status says: whether each parent takes it, and whether all that it names is there. Pure.

use serde::{Deserialize, Serialize};

use crate::name::ServiceName;
use crate::resource::{HttpRoute, Metadata, Resources};
use crate::snapshot::Protocol;

/// How a route stands with one of its parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The service.
    pub parent: ServiceName,
    /// The port, where the route names one.
    pub port: Option<u16>,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// A condition, with the Gateway API's reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// One of the specification's.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The generation of the route that it speaks of.
    pub observed_generation: u64,
}

/// How a route stands with each of its parents.
#[must_use]
pub fn route_status(resources: &Resources, metadata: &Metadata, route: &HttpRoute) -> Vec<ParentStatus> {
    let condition = |kind: &str, problem: Option<(&str, String)>, fine: &str| {
        let (status, reason, message) = match problem {
            None => ("True", fine.to_owned(), String::new()),
            Some((reason, message)) => ("False", reason.to_owned(), message),
        };
        Condition { kind: kind.to_owned(), status: status.to_owned(), reason, message, observed_generation: metadata.generation }
    };
    let backends = || {
        route.rules.iter().flat_map(|rule| &rule.backends).find_map(|backend| match resources.service(&backend.service) {
            None => Some(("BackendNotFound", format!("there is no service {}", backend.service))),
            Some((_, service)) if service.port(backend.port).is_none() => {
                Some(("BackendNotFound", format!("{} has no port {}", backend.service, backend.port)))
            }
            Some(_) => None,
        })
    };
    let parent = |parent: &crate::resource::ParentRef| {
        let problem = match resources.service(&parent.service) {
            None => Some(("NoMatchingParent", format!("there is no service {}", parent.service))),
            Some((_, service)) if parent.port.is_some_and(|port| service.port(port).is_none()) => {
                Some(("NoMatchingParent", format!("{} has no such port", parent.service)))
            }
            Some((_, service)) => {
                let mut ports = service.ports.iter().filter(|known| parent.port.is_none_or(|port| port == known.port)).peekable();
                let opaque = ports.peek().is_some() && ports.all(|port| port.protocol == Protocol::Tcp);
                opaque.then(|| ("NotAllowedByListeners", format!("{} is declared as tcp there: no request is looked at", parent.service)))
            }
        };
        let conditions = vec![condition("Accepted", problem, "Accepted"), condition("ResolvedRefs", backends(), "ResolvedRefs")];
        ParentStatus { parent: parent.service.clone(), port: parent.port, conditions }
    };
    route.parents.iter().map(parent).collect()
}
