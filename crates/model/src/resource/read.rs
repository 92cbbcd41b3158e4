//! Documents in, resources out: strictly at the door, leniently from the store.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::name::{Label, Namespace, ServiceName};
use crate::snapshot::{FieldMatch, Locality, MtlsMode, PathMatch, Pattern, Protocol, RouteMatch, Transport, ValueMatch};

use super::diagnostic::Diagnostic;
use super::kinds::{
    AuthenticationPolicy, BackendRef, HttpRoute, ParentRef, PolicyTarget, RouteRule, Service, ServicePortSpec, Spec, Workload,
    WorkloadPort, in_namespace,
};
use super::nearest::nearest;
use super::reader::{Object, Reader};
use super::tree::{self, Node};
use super::{Kind, Metadata, Resource};

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
    reader.end(object);
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
        Kind::Service => Spec::Service(service(spec, reader)?),
        Kind::Workload => Spec::Workload(workload(spec, &namespace, reader)?),
        Kind::AuthenticationPolicy => Spec::AuthenticationPolicy(authentication(spec, reader)?),
        Kind::HttpRoute => Spec::HttpRoute(route(spec, &namespace, reader)?),
    };
    let (metadata, name_span) = metadata?;
    Some((Resource { kind, metadata, spec, document: json }, name_span))
}

fn kind(api: Option<&Node>, node: &Node, reader: &mut Reader<'_>) -> Option<Kind> {
    let written = reader.text(node, "`kind`")?;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == written) else {
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
    // Gateways served v1beta1 for years, with the same fields.
    let older = kind == Kind::HttpRoute && version == "gateway.networking.k8s.io/v1beta1";
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
    let name: Label = reader.parsed(&name_node, "`name`")?;
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

const PROTOCOLS: [(&str, Protocol); 6] = [
    ("http", Protocol::Http),
    ("http2", Protocol::Http2),
    ("h2", Protocol::Http2),
    ("kubernetes.io/h2c", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("tcp", Protocol::Tcp),
];

fn port(node: &Node, reader: &mut Reader<'_>) -> Option<u16> {
    reader.number(node, "a port", 1..=65_535).and_then(|port| u16::try_from(port).ok())
}

fn service(node: Node, reader: &mut Reader<'_>) -> Option<Service> {
    let mut object = reader.object(node, "a Service's `spec`")?;
    let ports = object.need("ports", reader);
    let accounts = object.take("accounts");
    reader.end(object);
    let mut service = Service::default();
    let mut names: Vec<Label> = Vec::new();
    for node in ports.map(|node| reader.list(node, "`ports`")).unwrap_or_default() {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a port") else { continue };
        let number = object.need("port", reader);
        let protocol = object.take("appProtocol");
        let name = object.take("name");
        reader.end(object);
        if let Some((node, name)) = name.and_then(|node| reader.parsed::<Label>(&node, "`name`").map(|name| (node, name))) {
            reader.bound(!names.contains(&name), &node.span, format!("another port is named `{name}`"));
            names.push(name);
        }
        let protocol = protocol.and_then(|node| reader.word(&node, "appProtocol", &PROTOCOLS));
        let Some(port) = number.and_then(|node| port(&node, reader)) else { continue };
        if service.port(port).is_some() {
            reader.wrong(&span, format!("port {port} is there twice"));
            continue;
        }
        service.ports.push(ServicePortSpec { port, protocol: protocol.unwrap_or_default(), span });
    }
    for node in accounts.map(|node| reader.list(node, "`accounts`")).unwrap_or_default() {
        service.accounts.extend(reader.parsed::<Label>(&node, "an account"));
    }
    Some(service)
}

fn workload(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Workload> {
    let mut object = reader.object(node, "a Workload's `spec`")?;
    let service = object.need("service", reader);
    let account = object.take("account");
    let address = object.need("address", reader);
    let ports = object.need("ports", reader);
    let version = object.take("version");
    let weight = object.take("weight");
    let locality = object.take("locality");
    let transport = object.take("transport");
    reader.end(object);
    // All of it is looked at before a mistake ends it.
    let name: Option<Label> = service.as_ref().and_then(|node| reader.parsed(node, "`service`"));
    let account = account.and_then(|node| reader.parsed(&node, "`account`"));
    let address = address.and_then(|node| ip_address(&node, reader));
    let version = version.and_then(|node| reader.text(&node, "`version`"));
    let weight =
        weight.and_then(|node| reader.number(&node, "`weight`", 1..=1_000_000)).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1);
    let words = [("MutualTls", Transport::MutualTls), ("Lorica", Transport::Lorica), ("Plaintext", Transport::Plaintext)];
    let transport = transport.and_then(|node| reader.word(&node, "transport", &words)).unwrap_or(Transport::MutualTls);
    let locality = locality.and_then(|node| reader.object(node, "`locality`")).map_or_else(Locality::default, |mut object| {
        let (region, zone) = (object.take("region"), object.take("zone"));
        reader.end(object);
        let mut text = |node: Option<Node>| node.and_then(|node| reader.text(&node, "a locality's part")).unwrap_or_default();
        Locality { region: text(region), zone: text(zone) }
    });
    let ports = ports.map(|node| reader.list(node, "`ports`")).unwrap_or_default();
    let ports = ports.into_iter().filter_map(|node| workload_port(node, reader)).collect();
    let service_span = service?.span;
    let service = ServiceName::new(own.clone(), name?);
    Some(Workload { service, service_span, account, address: address?, ports, version, weight, locality, transport })
}

fn workload_port(node: Node, reader: &mut Reader<'_>) -> Option<WorkloadPort> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a port")?;
    let (service_port, number) = (object.need("servicePort", reader), object.take("port"));
    reader.end(object);
    let number = number.map(|node| port(&node, reader));
    let service_port = port(&service_port?, reader)?;
    Some(WorkloadPort { service_port, port: number.unwrap_or(Some(service_port))?, span })
}

fn ip_address(node: &Node, reader: &mut Reader<'_>) -> Option<IpAddr> {
    let text = reader.text(node, "`address`")?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        reader.wrong_with(
            &node.span,
            format!("`{text}` is no IP address"),
            "write one such as `10.0.0.7` or `fd00::7`; names are not looked up",
        );
    }
    parsed
}

fn authentication(node: Node, reader: &mut Reader<'_>) -> Option<AuthenticationPolicy> {
    let mut object = reader.object(node, "an AuthenticationPolicy's `spec`")?;
    let targets = object.take("targetRefs");
    let mtls = object.need("mtls", reader);
    reader.end(object);
    let mut policy = AuthenticationPolicy { targets: Vec::new(), mtls: MtlsMode::Strict };
    for node in targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default() {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a target") else { continue };
        service_kind(&mut object, reader);
        let name = object.need("name", reader);
        reader.end(object);
        policy.targets.extend(name.and_then(|node| reader.parsed(&node, "`name`")).map(|name| PolicyTarget { name, span }));
    }
    let mut object = reader.object(mtls?, "`mtls`")?;
    let mode = object.need("mode", reader);
    reader.end(object);
    policy.mtls = reader.word(&mode?, "mode", &[("Strict", MtlsMode::Strict), ("Permissive", MtlsMode::Permissive)])?;
    Some(policy)
}

/// Takes `group` and `kind` of a reference, which must mean a Service.
fn service_kind(object: &mut Object, reader: &mut Reader<'_>) {
    if let Some(node) = object.take("kind")
        && let Some(kind) = reader.text(&node, "`kind`")
        && kind != "Service"
    {
        match kind.as_str() {
            "Gateway" => {
                reader.wrong_with(&node.span, "gateways are not supported here yet", "attach it to a Service: calls inside the mesh")
            }
            _ => reader.wrong_with(&node.span, format!("a reference to `{kind}` means nothing here"), "write `kind: Service`"),
        }
    }
    if let Some(node) = object.take("group")
        && let Some(group) = reader.text(&node, "`group`")
        && !matches!(group.as_str(), "" | "core" | "lorica.io")
    {
        reader.wrong_with(&node.span, format!("no Service is of the group `{group}`"), "write `group: lorica.io`, or leave it out");
    }
}

fn route(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<HttpRoute> {
    let mut object = reader.object(node, "an HTTPRoute's `spec`")?;
    let parents = object.need("parentRefs", reader);
    let rules = object.take("rules");
    object.unsupported(&["hostnames", "useDefaultGateways"]);
    let object_span = object.span.clone();
    reader.end(object);
    let mut route = HttpRoute { parents: Vec::new(), rules: Vec::new() };
    let parents_span = parents.as_ref().map(|node| node.span.clone());
    let parents = parents.map(|node| reader.list(node, "`parentRefs`"));
    if let (Some(parents), Some(span)) = (&parents, &parents_span) {
        reader.bound(!parents.is_empty(), span, "a route without a parent routes nothing");
        reader.bound(parents.len() <= 32, span, "a route has at most 32 parents");
    }
    for node in parents.unwrap_or_default() {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a parent") else { continue };
        if object.peek("kind").is_none() {
            reader.wrong_with(
                &span,
                "a parent without `kind` is a gateway, and those are not supported here yet",
                "write `kind: Service` to route calls inside the mesh",
            );
        }
        service_kind(&mut object, reader);
        let (name, namespace, number) = (object.need("name", reader), object.take("namespace"), object.take("port"));
        object.unsupported(&["sectionName"]);
        reader.end(object);
        let Some(name) = name else { continue };
        let port_span = number.as_ref().unwrap_or(&name).span.clone();
        let namespace = namespace.and_then(|node| reader.parsed(&node, "`namespace`"));
        let number = number.and_then(|node| port(&node, reader));
        let Some(label) = reader.parsed(&name, "`name`") else { continue };
        let parent = ParentRef { service: in_namespace(label, namespace, own), port: number, span: name.span, port_span };
        let again = route.parents.iter().any(|known| known.service == parent.service && known.port == parent.port);
        reader.bound(!again, &span, format!("`{}` is a parent already", parent.service));
        route.parents.push(parent);
    }
    let Some(rules) = rules else {
        // The specification's default: every request, and nowhere to go.
        route.rules.push(RouteRule::of_default(object_span));
        return Some(route);
    };
    let rules_span = rules.span.clone();
    let mut names = Vec::new();
    for node in reader.list(rules, "`rules`") {
        route.rules.extend(rule(node, own, &mut names, reader));
    }
    reader.bound(!route.rules.is_empty(), &rules_span, "a route has at least one rule");
    reader.bound(route.rules.len() <= 16, &rules_span, "a route has at most 16 rules");
    let matches: usize = route.rules.iter().map(|rule| rule.matches.len()).sum();
    reader.bound(matches <= 128, &rules_span, "a route has at most 128 matches, all rules together");
    Some(route)
}

fn rule(node: Node, own: &Namespace, names: &mut Vec<String>, reader: &mut Reader<'_>) -> Option<RouteRule> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a rule")?;
    let (matches, backends, timeouts) = (object.take("matches"), object.take("backendRefs"), object.take("timeouts"));
    let name = object.take("name");
    object.unsupported(&["filters", "retry", "sessionPersistence"]);
    reader.end(object);
    if let Some((node, name)) = name.and_then(|node| reader.text(&node, "`name`").map(|name| (node, name))) {
        let fits = name.len() <= 253 && name.split('.').all(|part| Label::new(part).is_ok());
        reader.bound(fits, &node.span, format!("`{name}` is no name: it has only lower case letters, digits, hyphens and dots"));
        reader.bound(!names.contains(&name), &node.span, format!("another rule is named `{name}`"));
        names.push(name);
    }
    let mut rule = RouteRule { matches: Vec::new(), backends: Vec::new(), request_timeout: None, backend_request_timeout: None };
    let matches = matches.map(|node| reader.list(node, "`matches`")).unwrap_or_default();
    reader.bound(matches.len() <= 64, &span, "a rule has at most 64 matches");
    for node in matches {
        let span = node.span.clone();
        rule.matches.extend(route_match(node, reader).map(|found| (found, span)));
    }
    if rule.matches.is_empty() {
        rule.matches.push((RouteMatch::any(), span.clone()));
    }
    let backends = backends.map(|node| reader.list(node, "`backendRefs`")).unwrap_or_default();
    reader.bound(backends.len() <= 16, &span, "a rule has at most 16 backends");
    for node in backends {
        rule.backends.extend(backend(node, own, reader));
    }
    if let Some(mut object) = timeouts.and_then(|node| reader.object(node, "`timeouts`")) {
        let (request, attempt) = (object.take("request"), object.take("backendRequest"));
        reader.end(object);
        rule.request_timeout = request.as_ref().and_then(|node| duration(node, reader)).filter(|limit| !limit.is_zero());
        rule.backend_request_timeout = attempt.as_ref().and_then(|node| duration(node, reader)).filter(|limit| !limit.is_zero());
        if let (Some(request), Some(limit), Some(node)) = (rule.request_timeout, rule.backend_request_timeout, attempt)
            && limit > request
        {
            reader.wrong(&node.span, "`backendRequest` is longer than `request`, of which it is a part");
        }
    }
    Some(rule)
}

fn backend(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<BackendRef> {
    let mut object = reader.object(node, "a backend")?;
    service_kind(&mut object, reader);
    let (name, namespace, number, weight) =
        (object.need("name", reader), object.take("namespace"), object.need("port", reader), object.take("weight"));
    object.unsupported(&["filters"]);
    reader.end(object);
    let namespace = namespace.and_then(|node| reader.parsed(&node, "`namespace`"));
    let weight = weight.map_or(Some(1), |node| reader.number(&node, "a weight", 0..=1_000_000));
    let label = name.as_ref().and_then(|node| reader.parsed(node, "`name`"));
    let port_span = number.as_ref().map(|node| node.span.clone());
    let port = number.and_then(|node| port(&node, reader));
    Some(BackendRef {
        service: in_namespace(label?, namespace, own),
        port: port?,
        weight: u32::try_from(weight?).unwrap_or(1),
        span: name?.span,
        port_span: port_span?,
    })
}

fn route_match(node: Node, reader: &mut Reader<'_>) -> Option<RouteMatch> {
    let mut object = reader.object(node, "a match")?;
    let (path, headers, query, method) = (object.take("path"), object.take("headers"), object.take("queryParams"), object.take("method"));
    reader.end(object);
    let mut found = RouteMatch::any();
    if let Some(mut object) = path.and_then(|node| reader.object(node, "a path")) {
        let (kind, value) = (object.take("type"), object.take("value"));
        reader.end(object);
        // Of a document with a mistake nothing is used, so that the rest may be looked at as if it had none.
        found.path = path_match(kind, value, reader).unwrap_or(found.path);
    }
    const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if let Some(node) = method {
        let words: Vec<(&str, &str)> = METHODS.iter().map(|method| (*method, *method)).collect();
        found.method = reader.word(&node, "method", &words).map(str::to_owned);
    }
    found.headers = fields(headers, true, reader);
    found.query = fields(query, false, reader);
    Some(found)
}

fn path_match(kind: Option<Node>, value: Option<Node>, reader: &mut Reader<'_>) -> Option<PathMatch> {
    #[derive(Clone, Copy, PartialEq)]
    enum Type {
        Exact,
        Prefix,
        Regex,
    }
    let words = [("Exact", Type::Exact), ("PathPrefix", Type::Prefix), ("RegularExpression", Type::Regex)];
    let kind = kind.map_or(Some(Type::Prefix), |node| reader.word(&node, "type of path", &words))?;
    let (span, text) = match value {
        Some(node) => (node.span.clone(), reader.text(&node, "a path's value")?),
        None => (0..0, "/".to_owned()),
    };
    reader.bound(text.len() <= 1024, &span, "a path has at most 1024 characters");
    if kind == Type::Regex {
        return pattern(&span, &text, reader).map(PathMatch::Regex);
    }
    let lower = text.to_ascii_lowercase();
    let never = ["//", "/./", "/../", "%2f", "#"].into_iter().find(|part| lower.contains(part));
    if !text.starts_with('/') {
        reader.wrong_with(&span, "a path begins with `/`", format!("write `/{text}`"));
        return None;
    }
    if let Some(part) = never.or_else(|| ["/..", "/."].into_iter().find(|end| text.ends_with(end))) {
        reader.wrong(&span, format!("a path with `{part}` never comes in"));
        return None;
    }
    if let Some(unfit) = unfit_for_path(&text) {
        reader.wrong_with(&span, format!("a path with `{unfit}` never comes in"), "write it percent-encoded, as it comes on the wire");
        return None;
    }
    Some(if kind == Type::Exact { PathMatch::Exact(text) } else { PathMatch::Prefix(text) })
}

/// The first character that no path holds as it is (RFC 3986), a `%` without its two digits among them.
fn unfit_for_path(text: &str) -> Option<char> {
    let bytes = text.as_bytes();
    let escaped = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let fits = |at: usize, c: char| c.is_ascii_alphanumeric() || "-/._~!$&'()*+,;=:@".contains(c) || (c == '%' && escaped(at));
    text.char_indices().find(|(at, c)| !fits(*at, *c)).map(|(_, c)| c)
}

fn pattern(span: &Range<usize>, text: &str, reader: &mut Reader<'_>) -> Option<Pattern> {
    match Pattern::new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            reader.wrong_with(
                span,
                format!("this is no regular expression: {why}"),
                "back-references and look-around are not known, as they take unbounded time",
            );
            None
        }
    }
}

fn fields(node: Option<Node>, headers: bool, reader: &mut Reader<'_>) -> Vec<FieldMatch> {
    let what = if headers { "`headers`" } else { "`queryParams`" };
    let mut found: Vec<FieldMatch> = Vec::new();
    let list_span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let list = node.map(|node| reader.list(node, what)).unwrap_or_default();
    reader.bound(list.len() <= 16, &list_span, format!("a match has at most 16 of {what}"));
    for node in list {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a match") else { continue };
        let (kind, name, value) = (object.take("type"), object.need("name", reader), object.need("value", reader));
        reader.end(object);
        let regex = kind.map_or(Some(false), |node| reader.word(&node, "type of match", &[("Exact", false), ("RegularExpression", true)]));
        let (Some(regex), Some(name_node), Some(node)) = (regex, name, value) else { continue };
        let Some(name) = reader.text(&name_node, "a name") else { continue };
        let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        // The specification asks the same of both.
        if name.is_empty() || name.len() > 256 || !name.chars().all(fits) {
            reader.wrong(&name_node.span, format!("`{name}` is no name of a {}", if headers { "header" } else { "query parameter" }));
            continue;
        }
        let Some(text) = reader.text(&node, "a value") else { continue };
        let most = if headers { 4096 } else { 1024 };
        reader.bound((1..=most).contains(&text.len()), &node.span, format!("a value has 1 to {most} characters"));
        let value = if regex { pattern(&node.span, &text, reader).map(ValueMatch::Regex) } else { Some(ValueMatch::Exact(text)) };
        let name = if headers { name.to_ascii_lowercase() } else { name };
        if found.iter().any(|known| known.name == name) {
            reader.wrong(&span, format!("`{name}` is matched twice"));
        } else if let Some(value) = value {
            found.push(FieldMatch { name, value });
        }
    }
    found
}

/// A duration as the Gateway API writes it (GEP-2257): `1h30m`, `10s`, `500ms`.
fn duration(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let text = reader.text(node, "a duration")?;
    let parsed = parse_duration(&text);
    if parsed.is_none() {
        reader.wrong_with(&node.span, format!("`{text}` is no duration"), "write `500ms`, `10s`, `1m30s` or `2h`");
    }
    parsed
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|count| (1..=5).contains(count))?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = match rest {
            _ if rest.starts_with("ms") => (Duration::from_millis(1), 2),
            _ if rest.starts_with('h') => (Duration::from_secs(3600), 1),
            _ if rest.starts_with('m') => (Duration::from_secs(60), 1),
            _ if rest.starts_with('s') => (Duration::from_secs(1), 1),
            _ => return None,
        };
        rest = &rest[length..];
        total += unit * u32::try_from(number).ok()?;
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}
