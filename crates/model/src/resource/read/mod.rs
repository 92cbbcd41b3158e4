//! Documents in, resources out: strictly at the door, leniently from the store. One file a family of kinds.

mod authentication;
mod authorization;
mod authorizer;
mod condition;
mod egress;
mod fault;
mod filter;
mod gateway;
mod matches;
mod rate_limit;
mod route;
mod service;
mod telemetry;
mod traffic;
mod trust_bundle;
mod workload_identity;

pub use matches::ANY_SERVICE;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::name::{Label, Namespace, ObjectName};
use crate::snapshot::HostPattern;

use super::diagnostic::Diagnostic;
use super::kinds::{ObjectRef, Spec};
use super::nearest::nearest;
use super::reader::{Object, Reader};
use super::tree::{self, Node};
use super::{GATEWAY_API, GATEWAY_GROUP, Kind, Metadata, Resource};

/// A resource as a user gave it, with the place of its name.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file, as the user named it.
    pub file: String,
    /// The bytes of its name.
    pub name_span: Range<usize>,
    /// The resource.
    pub resource: Resource,
}

/// The resources in a file of YAML or JSON.
///
/// # Errors
/// Every mistake in it.
pub fn read(file: &str, source: &str) -> Result<Vec<Document>, Vec<Diagnostic>> {
    let (nodes, broken) = tree::documents(file, source);
    let mut reader = Reader { file, source, strict: true, found: broken };
    let mut documents = Vec::new();
    for node in nodes {
        documents.extend(document(node, &mut reader).map(|(resource, name_span)| Document { file: file.to_owned(), name_span, resource }));
    }
    if reader.found.is_empty() {
        return Ok(documents);
    }
    // As one reads the file; what stands at one place stays in the order in which it was found.
    reader.found.sort_by_key(|found| found.span.start);
    Err(reader.found)
}

/// A resource as it was stored; fields that this version does not know are kept in its document.
///
/// # Errors
/// What keeps it from being understood.
pub fn stored(json: &serde_json::Value) -> Result<Resource, Vec<Diagnostic>> {
    let mut reader = Reader { file: "store", source: "", strict: false, found: Vec::new() };
    match document(Node::of_json(json), &mut reader) {
        Some((resource, _)) if reader.found.is_empty() => Ok(resource),
        _ => Err(reader.found),
    }
}

fn document(node: Node, reader: &mut Reader<'_>) -> Option<(Resource, Range<usize>)> {
    let json = node.to_json();
    let mut object = reader.object(node, "a resource")?;
    let api = object.need("apiVersion", reader);
    let kind_node = object.need("kind", reader);
    let metadata = object.need("metadata", reader);
    let spec = object.take("spec");
    // What the control plane adds; it is not the user's to say.
    object.take("status");
    let span = object.span.clone();
    let spec = match kind_node.as_ref().map(|node| &node.value) {
        // Kubernetes' own kinds have their fields beside `metadata`.
        Some(super::tree::Value::Text(kind)) if matches!(kind.as_str(), "Secret" | "ConfigMap" | "Namespace") => Some(object.rest()),
        _ => {
            reader.end(object);
            spec
        }
    };
    let metadata = metadata.and_then(|node| self::metadata(node, reader));
    let kind = kind(api.as_ref(), kind_node.as_ref()?, reader)?;
    // The mistakes of a spec are shown even where its metadata has some.
    let namespace = metadata.as_ref().map(|(metadata, _)| metadata.namespace.clone()).unwrap_or_default();
    let spec = match spec {
        Some(spec) => spec,
        None => {
            reader.wrong(&span, format!("{kind} needs `spec`"));
            return None;
        }
    };
    let spec = match kind {
        Kind::Service => Spec::Service(service::service(spec, &namespace, reader)?),
        Kind::Workload => Spec::Workload(service::workload(spec, &namespace, reader)?),
        Kind::WorkloadIdentity => Spec::WorkloadIdentity(workload_identity::identity(spec, reader)?),
        Kind::TrustBundle => Spec::TrustBundle(trust_bundle::bundle(spec, reader)?),
        Kind::AuthenticationPolicy => Spec::AuthenticationPolicy(authentication::policy(spec, &namespace, reader)?),
        Kind::AuthorizationPolicy => Spec::AuthorizationPolicy(authorization::policy(spec, &namespace, reader)?),
        Kind::TrafficPolicy => Spec::TrafficPolicy(Box::new(traffic::policy(spec, &namespace, reader)?)),
        Kind::EgressPolicy => Spec::EgressPolicy(egress::policy(spec, &namespace, reader)?),
        Kind::RateLimitPolicy => Spec::RateLimitPolicy(rate_limit::policy(spec, &namespace, reader)?),
        Kind::FaultPolicy => Spec::FaultPolicy(fault::policy(spec, &namespace, reader)?),
        Kind::TelemetryPolicy => Spec::TelemetryPolicy(Box::new(telemetry::policy(spec, &namespace, reader)?)),
        Kind::HttpRoute => Spec::HttpRoute(route::route(spec, kind, &namespace, reader)?),
        Kind::GrpcRoute => Spec::GrpcRoute(route::route(spec, kind, &namespace, reader)?),
        Kind::TcpRoute => Spec::TcpRoute(route::transport_route(spec, kind, &namespace, reader)?),
        Kind::TlsRoute => Spec::TlsRoute(route::transport_route(spec, kind, &namespace, reader)?),
        Kind::UdpRoute => Spec::UdpRoute(route::transport_route(spec, kind, &namespace, reader)?),
        Kind::GatewayClass => Spec::GatewayClass(gateway::class(spec, reader)?),
        Kind::Gateway => Spec::Gateway(Box::new(gateway::gateway(spec, &namespace, reader)?)),
        Kind::ListenerSet => Spec::ListenerSet(gateway::listener_set(spec, &namespace, reader)?),
        Kind::ReferenceGrant => Spec::ReferenceGrant(gateway::grant(spec, reader)?),
        Kind::BackendTlsPolicy => Spec::BackendTlsPolicy(gateway::backend_tls(spec, &namespace, reader)?),
        Kind::Namespace => Spec::Namespace,
        Kind::Secret => Spec::Secret(gateway::secret(spec, reader)?),
        Kind::ConfigMap => Spec::ConfigMap(gateway::config_map(spec, reader)?),
    };
    let (metadata, name_span) = metadata?;
    if matches!(kind, Kind::Service | Kind::Workload | Kind::Namespace)
        && let Err(error) = Label::new(metadata.name.as_str())
    {
        // They become parts of host names.
        reader.wrong(&name_span, error.to_string());
        return None;
    }
    Some((Resource { kind, metadata, spec, document: json }, name_span))
}

fn kind(api: Option<&Node>, node: &Node, reader: &mut Reader<'_>) -> Option<Kind> {
    let written = reader.text(node, "`kind`")?;
    let Some(kind) = Kind::ALL.iter().copied().find(|kind| kind.as_str() == written) else {
        let message = format!("there is no kind `{written}`");
        match nearest(&written, Kind::ALL.iter().map(|kind| kind.as_str())) {
            Some(near) => reader.wrong_with(&node.span, message, format!("did you mean `{near}`?")),
            None => {
                let known = Kind::ALL.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
                reader.wrong_with(&node.span, message, format!("one of {known}"));
            }
        }
        return None;
    };
    let api = api?;
    let version = reader.text(api, "`apiVersion`")?;
    // Gateways served older versions for years, with the same fields.
    let older = kind.api_version() == GATEWAY_API
        && version.strip_prefix(GATEWAY_GROUP).is_some_and(|version| matches!(version, "/v1beta1" | "/v1alpha2" | "/v1alpha3"));
    if version != kind.api_version() && !older {
        reader.wrong_with(&api.span, format!("{kind} is not of `{version}`"), format!("write `apiVersion: {}`", kind.api_version()));
        return None;
    }
    Some(kind)
}

fn metadata(node: Node, reader: &mut Reader<'_>) -> Option<(Metadata, Range<usize>)> {
    let mut object = reader.object(node, "`metadata`")?;
    let name_node = object.need("name", reader);
    let namespace = object.take("namespace");
    let annotations = object.take("annotations");
    let labels = object.take("labels");
    let generation = object.take("generation");
    let created = object.take("creationTimestamp");
    for ours in ["resourceVersion", "uid", "managedFields", "selfLink"] {
        // Of Kubernetes; `get … -o yaml | apply -f -` brings them along.
        object.take(ours);
    }
    reader.end(object);
    let name_node = name_node?;
    let name: ObjectName = reader.parsed(&name_node, "`name`")?;
    let namespace = match namespace {
        Some(namespace) => reader.parsed::<Namespace>(&namespace, "`namespace`")?,
        None => Namespace::default(),
    };
    let annotations =
        annotations.and_then(|node| reader.object(node, "`annotations`")).map_or_else(BTreeMap::new, |object| object.texts(reader));
    let labels = labels.and_then(|node| reader.object(node, "`labels`")).map_or_else(BTreeMap::new, |object| object.texts(reader));
    let generation =
        generation.and_then(|node| reader.number(&node, "`generation`", 0..=i64::MAX)).and_then(|number| u64::try_from(number).ok());
    let created_at = created.and_then(|node| reader.text(&node, "`creationTimestamp`")).unwrap_or_default();
    Some((Metadata { name, namespace, generation: generation.unwrap_or_default(), created_at, labels, annotations }, name_node.span))
}

/// `group`, `kind`, `namespace` and `name` of a reference; `default`: group and kind where none is written.
fn reference(object: &mut Object, own: &Namespace, default: (&str, &str), reader: &mut Reader<'_>) -> Option<ObjectRef> {
    let (group, kind, namespace, name) = (object.take("group"), object.take("kind"), object.take("namespace"), object.need("name", reader));
    let group = group.and_then(|node| reader.text(&node, "`group`"));
    let kind = kind.and_then(|node| reader.text(&node, "`kind`"));
    let kind = kind.unwrap_or_else(|| default.1.to_owned());
    let group = group.unwrap_or_else(|| default.0.to_owned());
    let group =
        if matches!(group.as_str(), "core" | "lorica.io") || (kind == "Service" && group == default.0) { String::new() } else { group };
    let namespace = namespace.and_then(|node| reader.parsed(&node, "`namespace`")).unwrap_or_else(|| own.clone());
    let node = name?;
    let name: ObjectName = reader.parsed(&node, "`name`")?;
    let object = ObjectRef { group, kind, namespace, name, span: node.span };
    if object.is_service()
        && let Err(error) = Label::new(object.name.as_str())
    {
        reader.wrong(&object.span, error.to_string());
        return None;
    }
    Some(object)
}

fn references(node: Option<Node>, own: &Namespace, default: (&str, &str), reader: &mut Reader<'_>) -> Vec<ObjectRef> {
    let nodes = node.map(|node| reader.list(node, "references")).unwrap_or_default();
    let one = |node| {
        let mut object = reader.object(node, "a reference")?;
        let named = reference(&mut object, own, default, reader);
        reader.end(object);
        named
    };
    nodes.into_iter().filter_map(one).collect()
}

/// A policy's `mode`: whether it is only counted what it would do.
fn shadow(mode: Option<Node>, reader: &mut Reader<'_>) -> bool {
    mode.and_then(|node| reader.word(&node, "mode", &[("Enforce", false), ("Shadow", true)])).unwrap_or(false)
}

fn port(node: &Node, reader: &mut Reader<'_>) -> Option<u16> {
    reader.number(node, "a port", 1..=65_535).and_then(|port| u16::try_from(port).ok())
}

/// A host name of the Gateway API: DNS labels, the first of which may be `*` where wildcards are allowed.
fn hostname(node: &Node, wildcard: bool, reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text(node, "a host name")?;
    let plain = if wildcard { text.strip_prefix("*.").unwrap_or(&text) } else { &text };
    let fits = !plain.is_empty() && text.len() <= 253 && plain.split('.').all(|label| Label::new(label).is_ok());
    if !fits || plain.parse::<std::net::Ipv4Addr>().is_ok() {
        let hint = if wildcard { "write `a.example`, or `*.example` for all names under it" } else { "write one name, as `a.example`" };
        reader.wrong_with(&node.span, format!("`{text}` is no host name"), hint);
        return None;
    }
    Some(text)
}

/// A host name with wildcards as a pattern; what is wrong was told and counts as every host.
fn host_pattern(node: &Node, reader: &mut Reader<'_>) -> HostPattern {
    hostname(node, true, reader).map_or(HostPattern::Any, |text| HostPattern::of(&text))
}
