//! What users write: YAML or JSON in, checked resources out, or diagnostics that point at what is wrong.
//!
//! `tree` reads text with the place of every value, `reader` takes objects apart strictly (at the door) or leniently (from
//! the store), `kinds` holds what a resource means, `check` what only all resources together can tell. Nothing behind
//! this folder checks a resource again.

mod check;
mod diagnostic;
mod kinds;
mod nearest;
mod read;
mod reader;
mod tree;

pub use check::{Options, check};
pub use diagnostic::{Diagnostic, Severity};
pub use kinds::{
    AuthenticationPolicy, BackendRef, HttpRoute, ParentRef, PolicyTarget, RouteRule, Service, ServicePortSpec, Spec, Workload, WorkloadPort,
};
pub use nearest::nearest;
pub use read::{Document, read, stored};

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{Label, Namespace};

/// The kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A named set of endpoints.
    Service,
    /// A workload that no proxy registers by itself.
    Workload,
    /// How callers of services prove who they are.
    AuthenticationPolicy,
    /// The Gateway API's route for HTTP.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
}

/// Our own API group and version.
pub const LORICA_API: &str = "lorica.io/v1alpha1";
/// The Gateway API's.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

impl Kind {
    /// Every kind, in the order in which a change set stores them: what is referred to first.
    pub const ALL: [Self; 4] = [Self::Service, Self::Workload, Self::AuthenticationPolicy, Self::HttpRoute];

    /// The kind's name in resources.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Workload => "Workload",
            Self::AuthenticationPolicy => "AuthenticationPolicy",
            Self::HttpRoute => "HTTPRoute",
        }
    }

    /// The apiVersion of its resources.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Workload | Self::AuthenticationPolicy => LORICA_API,
            Self::HttpRoute => GATEWAY_API,
        }
    }

    /// The kind that a person means: in any case, singular, plural or short.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            text == name || text == kind.plural() || text == kind.short()
        })
    }

    /// The short form, for those who type it often.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Service => "svc",
            Self::Workload => "wl",
            Self::AuthenticationPolicy => "authn",
            Self::HttpRoute => "route",
        }
    }

    /// The plural, in lower case.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Workload => "workloads",
            Self::AuthenticationPolicy => "authenticationpolicies",
            Self::HttpRoute => "httproutes",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What every resource has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Its name in its namespace.
    pub name: Label,
    /// Its namespace.
    pub namespace: Namespace,
    /// Counted up by each change of its spec; 0 before it is stored.
    pub generation: u64,
    /// When it was first stored, RFC 3339; empty before.
    pub created_at: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The annotation of a Service that a workload declared, because no resource did.
pub const DECLARED_BY: &str = "lorica.io/declared-by";

/// A resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Its kind.
    pub kind: Kind,
    /// What every resource has.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
    /// The document as it was written, fields of later versions among it, so that they are written back.
    pub document: serde_json::Value,
}

/// What tells resources apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: Label,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.kind, self.name, self.namespace)
    }
}

impl Resource {
    /// What tells it apart.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { kind: self.kind, namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }

    /// Whether a workload declared it, because no resource did.
    #[must_use]
    pub fn is_declared(&self) -> bool {
        self.metadata.annotations.contains_key(DECLARED_BY)
    }
}

/// All resources of a mesh, in order.
#[derive(Debug, Clone, Default)]
pub struct Resources(BTreeMap<Key, Resource>);

impl Resources {
    /// Adds a resource, in place of the one of its key.
    pub fn insert(&mut self, resource: Resource) -> Option<Resource> {
        self.0.insert(resource.key(), resource)
    }

    /// Takes a resource out.
    pub fn remove(&mut self, key: &Key) -> Option<Resource> {
        self.0.remove(key)
    }

    /// The resource of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Resource> {
        self.0.get(key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.0.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service of a name.
    #[must_use]
    pub fn service(&self, name: &crate::name::ServiceName) -> Option<(&Metadata, &Service)> {
        let key = Key { kind: Kind::Service, namespace: name.namespace.clone(), name: name.name.clone() };
        match self.0.get(&key) {
            Some(Resource { metadata, spec: Spec::Service(service), .. }) => Some((metadata, service)),
            _ => None,
        }
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (&Metadata, &Service)> {
        self.iter()
            .filter_map(|resource| if let Spec::Service(service) = &resource.spec { Some((&resource.metadata, service)) } else { None })
    }

    /// All routes for HTTP.
    pub fn routes(&self) -> impl Iterator<Item = (&Metadata, &HttpRoute)> {
        self.iter()
            .filter_map(|resource| if let Spec::HttpRoute(route) = &resource.spec { Some((&resource.metadata, route)) } else { None })
    }

    /// All workloads that no proxy registers.
    pub fn workloads(&self) -> impl Iterator<Item = (&Metadata, &Workload)> {
        self.iter()
            .filter_map(|resource| if let Spec::Workload(workload) = &resource.spec { Some((&resource.metadata, workload)) } else { None })
    }

    /// All authentication policies.
    pub fn authentication(&self) -> impl Iterator<Item = (&Metadata, &AuthenticationPolicy)> {
        self.iter().filter_map(|resource| {
            if let Spec::AuthenticationPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None }
        })
    }
}

#[cfg(test)]
mod tests;
