//! Gateways and what belongs to them: listeners, grants, certificates. The Gateway API's, as written.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ObjectRef;
use crate::name::{Namespace, ObjectName};
use crate::snapshot::HostPattern;

/// `GatewayClass`: who carries its gateways out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayClass {
    /// The controller. Ours is `lorica.io/gateway`.
    pub controller: String,
    /// Whether it names parameters. There are none that we know.
    pub has_parameters: bool,
}

/// `Gateway`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its class. `lorica` is ours without a resource that says so.
    pub class: String,
    /// The addresses that it asks for.
    pub addresses: Vec<GatewayAddress>,
    /// Its own listeners.
    pub listeners: Vec<Listener>,
    /// From where ListenerSets may add more.
    pub listener_sets: NamespacesFrom,
    /// Parameters of the infrastructure. There are none that we know.
    pub parameters: Option<ObjectRef>,
    /// Labels and annotations that what is made for the gateway shall carry.
    pub infrastructure: (BTreeMap<String, String>, BTreeMap<String, String>),
    /// The certificate that it shows to backends.
    pub backend_certificate: Option<ObjectRef>,
    /// What its clients must show, on every port that has no entry of its own.
    pub client_validation: Option<Validation>,
    /// What its clients must show, by port.
    pub port_client_validation: Vec<(u16, Validation)>,
}

impl Gateway {
    /// Every reference to what holds a certificate.
    pub fn references(&self) -> impl Iterator<Item = &ObjectRef> {
        let validations = self.client_validation.iter().chain(self.port_client_validation.iter().map(|(_, validation)| validation));
        self.listeners
            .iter()
            .flat_map(Listener::certificates)
            .chain(&self.backend_certificate)
            .chain(validations.flat_map(|validation| &validation.roots))
    }
}

/// An address that a gateway asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayAddress {
    /// `IPAddress`, `Hostname`, or a name with a domain.
    pub kind: String,
    /// The address; none: any of its kind.
    pub value: Option<String>,
    /// Its place.
    pub span: Range<usize>,
}

/// What clients must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// ConfigMaps (or what else was named) that hold the roots in `ca.crt`.
    pub roots: Vec<ObjectRef>,
    /// Whether clients without a valid certificate are let in all the same (`AllowInsecureFallback`).
    pub optional: bool,
}

/// `ListenerSet`: more listeners for a gateway, by somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSet {
    /// The gateway.
    pub parent: ObjectRef,
    /// The listeners.
    pub listeners: Vec<Listener>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name, by which routes and status refer to it.
    pub name: String,
    /// The hosts that it takes.
    pub hostname: HostPattern,
    /// Its port.
    pub port: u16,
    /// What it takes.
    pub protocol: ListenerProtocol,
    /// How TLS ends, or does not.
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    pub allowed: AllowedRoutes,
    /// Its place.
    pub span: Range<usize>,
}

impl Listener {
    /// The references to its certificates.
    pub fn certificates(&self) -> impl Iterator<Item = &ObjectRef> {
        self.tls.iter().flat_map(|tls| &tls.certificates)
    }
}

/// The protocol of listeners at which workloads of the mesh call what is outside it.
pub const EGRESS_PROTOCOL: &str = "lorica.io/egress";

/// What a listener takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP in plaintext.
    Http,
    /// HTTP in TLS that ends at the gateway.
    Https,
    /// TLS that ends at the gateway or does not.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// What leaves the mesh, by mutual TLS from its workloads: `lorica.io/egress`.
    Egress,
    /// One that we do not know.
    Other(String),
}

/// How TLS ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Whether it ends at the gateway.
    pub mode: TlsMode,
    /// The certificates, as references to Secrets.
    pub certificates: Vec<ObjectRef>,
    /// The place where it says that HTTP/3 is served, too (`lorica.io/http3`).
    pub http3: Option<Range<usize>>,
}

/// Whether TLS ends at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// It does.
    Terminate,
    /// It goes through, and the server name decides where to.
    Passthrough,
}

/// Which routes may attach to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedRoutes {
    /// From where.
    pub namespaces: NamespacesFrom,
    /// Of which groups and kinds; empty: all that fit the protocol.
    pub kinds: Vec<(String, String)>,
}

/// From which namespaces something may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespacesFrom {
    /// From none.
    None,
    /// From the resource's own.
    Same,
    /// From all.
    All,
    /// From those that have every one of these labels, and for each expression what it asks for.
    Selector {
        /// Labels that must be there with this value.
        labels: BTreeMap<String, String>,
        /// Key, operator (`In`, `NotIn`, `Exists`, `DoesNotExist`), values.
        expressions: Vec<(String, String, Vec<String>)>,
    },
}

impl NamespacesFrom {
    /// Whether something in `namespace`, which has `labels`, may come to a resource in `own`.
    #[must_use]
    pub fn allows(&self, own: &Namespace, namespace: &Namespace, labels: Option<&BTreeMap<String, String>>) -> bool {
        match self {
            Self::None => false,
            Self::Same => own == namespace,
            Self::All => true,
            Self::Selector { labels: wanted, expressions } => {
                // Kubernetes gives every namespace its name as a label.
                let value = |key: &str| match key {
                    "kubernetes.io/metadata.name" => Some(namespace.as_str()),
                    _ => labels.and_then(|labels| labels.get(key)).map(String::as_str),
                };
                wanted.iter().all(|(key, wanted)| value(key) == Some(wanted.as_str()))
                    && expressions.iter().all(|(key, operator, values)| match operator.as_str() {
                        "In" => value(key).is_some_and(|value| values.iter().any(|known| known == value)),
                        "NotIn" => value(key).is_none_or(|value| values.iter().all(|known| known != value)),
                        "Exists" => value(key).is_some(),
                        "DoesNotExist" => value(key).is_none(),
                        _ => false,
                    })
            }
        }
    }
}

/// `ReferenceGrant`: who may refer to resources of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// What it grants.
    pub grant: Grant,
}

/// Every one of `from` may refer to every one of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who may.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer to something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFrom {
    /// The group of the referring kind.
    pub group: String,
    /// The referring kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: Namespace,
}

/// What may be referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantTo {
    /// The group; empty for Kubernetes' core and for Services of `lorica.io`.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name; none: all of the kind.
    pub name: Option<ObjectName>,
}

/// `BackendTLSPolicy`: TLS towards backends that are no part of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsPolicy {
    /// The services that it holds for.
    pub targets: Vec<TlsPolicyTarget>,
    /// The name that is asked for.
    pub hostname: String,
    /// The names of which one must be in the certificate: DNS names and URIs. Empty: `hostname`.
    pub names: Vec<String>,
    /// ConfigMaps that hold the roots in `ca.crt`.
    pub roots: Vec<ObjectRef>,
    /// Whether the roots are those of the proxy's system.
    pub system_roots: bool,
}

/// A service that a BackendTLSPolicy holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPolicyTarget {
    /// The service.
    pub object: ObjectRef,
    /// The name of one of its ports; none: all.
    pub section: Option<String>,
}

/// Kubernetes' `Secret`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret {
    /// `kubernetes.io/tls`, `Opaque`; `lorica.io/tls-files` holds paths on the gateway's host in place of texts.
    pub kind: String,
    /// What it holds, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// Names only: nothing that a Secret holds is ever shown.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("kind", &self.kind).field("data", &self.data.keys()).finish()
    }
}

/// Kubernetes' `ConfigMap`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigMap {
    /// What it holds.
    pub data: BTreeMap<String, String>,
}
