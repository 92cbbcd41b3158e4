//! Gateways and what belongs to them, from their documents.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{GATEWAY_GROUP, host_pattern, reference, references};
use crate::name::{Label, Namespace};
use crate::resource::kinds::{
    AllowedRoutes, BackendTlsPolicy, ConfigMap, EGRESS_PROTOCOL, Gateway, GatewayAddress, GatewayClass, Grant, GrantFrom, GrantTo,
    Listener, ListenerProtocol, ListenerSet, ListenerTls, NamespacesFrom, ReferenceGrant, Secret, TlsMode, TlsPolicyTarget, Validation,
};
use crate::resource::reader::Reader;
use crate::resource::tree::{Node, Value};
use crate::snapshot::HostPattern;
use crate::spiffe_bundle::base64;

pub(super) fn class(node: Node, reader: &mut Reader<'_>) -> Option<GatewayClass> {
    let mut object = reader.object(node, "a GatewayClass's `spec`")?;
    let (controller, parameters, description) =
        (object.need("controllerName", reader), object.take("parametersRef"), object.take("description"));
    reader.end(object);
    if let Some(node) = description
        && let Some(text) = reader.text(&node, "`description`")
    {
        reader.bound(text.chars().count() <= 64, &node.span, "a description has at most 64 characters");
    }
    let node = controller?;
    let controller = reader.text(&node, "`controllerName`")?;
    let fits = controller.len() <= 253 && controller.split_once('/').is_some_and(|(domain, path)| domain.contains('.') && !path.is_empty());
    reader.bound(fits, &node.span, format!("`{controller}` names no controller: a domain and a path, as `lorica.io/gateway`"));
    Some(GatewayClass { controller, has_parameters: parameters.is_some() })
}

pub(super) fn gateway(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Gateway> {
    let mut object = reader.object(node, "a Gateway's `spec`")?;
    let (class, listeners, addresses) =
        (object.need("gatewayClassName", reader), object.need("listeners", reader), object.take("addresses"));
    let (allowed, infrastructure, tls) = (object.take("allowedListeners"), object.take("infrastructure"), object.take("tls"));
    object.unsupported(&["defaultScope"]);
    reader.end(object);
    let mut found = Gateway {
        class: class.and_then(|node| reader.text(&node, "`gatewayClassName`")).unwrap_or_default(),
        addresses: Vec::new(),
        listeners: self::listeners(listeners, own, reader),
        listener_sets: NamespacesFrom::None,
        parameters: None,
        infrastructure: (BTreeMap::new(), BTreeMap::new()),
        backend_certificate: None,
        client_validation: None,
        port_client_validation: Vec::new(),
    };
    let span = addresses.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let nodes = addresses.map(|node| reader.list(node, "`addresses`")).unwrap_or_default();
    reader.bound(nodes.len() <= 16, &span, "a gateway asks for at most 16 addresses");
    for node in nodes {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "an address") else { continue };
        let (kind, value) = (object.take("type"), object.take("value"));
        reader.end(object);
        let kind = kind.and_then(|node| reader.text(&node, "`type`")).unwrap_or_else(|| "IPAddress".to_owned());
        let value = value.and_then(|node| reader.text(&node, "`value`")).filter(|value| !value.is_empty());
        let is_ip = |value: &String| value.parse::<std::net::IpAddr>().is_ok();
        reader.bound(kind != "IPAddress" || value.as_ref().is_none_or(is_ip), &span, "this is no IP address");
        let again = value.is_some() && found.addresses.iter().any(|known| known.kind == kind && known.value == value);
        reader.bound(!again, &span, "this address is asked for already");
        found.addresses.push(GatewayAddress { kind, value, span });
    }
    if let Some(mut object) = allowed.and_then(|node| reader.object(node, "`allowedListeners`")) {
        let namespaces = object.take("namespaces");
        reader.end(object);
        found.listener_sets = self::namespaces(namespaces, NamespacesFrom::None, reader);
    }
    if let Some(mut object) = infrastructure.and_then(|node| reader.object(node, "`infrastructure`")) {
        let (labels, annotations, parameters) = (object.take("labels"), object.take("annotations"), object.take("parametersRef"));
        reader.end(object);
        let mut texts =
            |node: Option<Node>| node.and_then(|node| reader.object(node, "a map")).map(|object| object.texts(reader)).unwrap_or_default();
        let span = labels.as_ref().or(annotations.as_ref()).map(|node| node.span.clone()).unwrap_or_default();
        found.infrastructure = (texts(labels), texts(annotations));
        let few = found.infrastructure.0.len() <= 8 && found.infrastructure.1.len() <= 8;
        reader.bound(few, &span, "there are at most 8 labels and 8 annotations");
        if let Some(mut object) = parameters.and_then(|node| reader.object(node, "`parametersRef`")) {
            found.parameters = reference(&mut object, own, ("", ""), reader);
            reader.end(object);
        }
    }
    if let Some(mut object) = tls.and_then(|node| reader.object(node, "`tls`")) {
        let (backend, frontend) = (object.take("backend"), object.take("frontend"));
        reader.end(object);
        if let Some(mut object) = backend.and_then(|node| reader.object(node, "`backend`")) {
            let certificate = object.take("clientCertificateRef");
            reader.end(object);
            if let Some(mut object) = certificate.and_then(|node| reader.object(node, "`clientCertificateRef`")) {
                found.backend_certificate = reference(&mut object, own, ("", "Secret"), reader);
                reader.end(object);
            }
        }
        if let Some(mut object) = frontend.and_then(|node| reader.object(node, "`frontend`")) {
            let (default, ports) = (object.take("default"), object.take("perPort"));
            reader.end(object);
            found.client_validation = default.and_then(|node| client_validation(node, own, reader));
            for node in ports.map(|node| reader.list(node, "`perPort`")).unwrap_or_default() {
                let Some(mut object) = reader.object(node, "a port") else { continue };
                let (port, tls) = (object.need("port", reader), object.need("tls", reader));
                reader.end(object);
                let number = port.as_ref().and_then(|node| super::port(node, reader));
                if let (Some(number), Some(node)) = (number, &port) {
                    let again = found.port_client_validation.iter().any(|(known, _)| *known == number);
                    reader.bound(!again, &node.span, format!("port {number} is there already"));
                }
                let validation = tls.and_then(|node| client_validation(node, own, reader));
                found.port_client_validation.extend(number.zip(validation));
            }
        }
    }
    Some(found)
}

fn client_validation(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Validation> {
    let mut object = reader.object(node, "`tls`")?;
    let validation = object.take("validation");
    reader.end(object);
    let mut object = reader.object(validation?, "`validation`")?;
    let (roots, mode) = (object.need("caCertificateRefs", reader), object.take("mode"));
    reader.end(object);
    let optional = mode.and_then(|node| reader.word(&node, "mode", &[("AllowValidOnly", false), ("AllowInsecureFallback", true)]));
    let span = roots.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let roots = references(roots, own, ("", "ConfigMap"), reader);
    reader.bound((1..=8).contains(&roots.len()), &span, "there are 1 to 8 `caCertificateRefs`");
    Some(Validation { roots, optional: optional.unwrap_or_default() })
}

pub(super) fn listener_set(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<ListenerSet> {
    let mut object = reader.object(node, "a ListenerSet's `spec`")?;
    let (parent, listeners) = (object.need("parentRef", reader), object.need("listeners", reader));
    reader.end(object);
    let mut object = reader.object(parent?, "`parentRef`")?;
    let parent = reference(&mut object, own, (GATEWAY_GROUP, "Gateway"), reader);
    reader.end(object);
    Some(ListenerSet { parent: parent?, listeners: self::listeners(listeners, own, reader) })
}

fn listeners(node: Option<Node>, own: &Namespace, reader: &mut Reader<'_>) -> Vec<Listener> {
    let span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let nodes = node.map(|node| reader.list(node, "`listeners`")).unwrap_or_default();
    reader.bound((1..=64).contains(&nodes.len()), &span, "there are 1 to 64 listeners");
    let mut listeners: Vec<Listener> = Vec::new();
    for node in nodes {
        let Some(found) = listener(node, own, reader) else { continue };
        let again = listeners.iter().any(|known| known.name == found.name);
        reader.bound(!again, &found.span, format!("another listener is named `{}`", found.name));
        let same = |known: &&Listener| known.port == found.port && known.protocol == found.protocol && known.hostname == found.hostname;
        if let Some(clash) = listeners.iter().find(same) {
            reader.bound(false, &found.span, format!("the listener `{}` takes the same hosts of port {} already", clash.name, found.port));
        }
        listeners.push(found);
    }
    listeners
}

fn listener(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Listener> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a listener")?;
    let (name, hostname, port) = (object.need("name", reader), object.take("hostname"), object.need("port", reader));
    let (protocol, tls, allowed) = (object.need("protocol", reader), object.take("tls"), object.take("allowedRoutes"));
    reader.end(object);
    let name = name.and_then(|node| {
        let name = reader.text(&node, "`name`")?;
        let fits = name.len() <= 253 && name.split('.').all(|part| Label::new(part).is_ok());
        reader.bound(fits, &node.span, format!("`{name}` is no name: it has only lower case letters, digits, hyphens and dots"));
        Some(name)
    });
    let hostname = hostname.map_or(HostPattern::Any, |node| host_pattern(&node, reader));
    let port = port.and_then(|node| super::port(&node, reader));
    let protocol = protocol.and_then(|node| reader.text(&node, "`protocol`")).map(|text| match text.as_str() {
        "HTTP" => ListenerProtocol::Http,
        "HTTPS" => ListenerProtocol::Https,
        "TLS" => ListenerProtocol::Tls,
        "TCP" => ListenerProtocol::Tcp,
        "UDP" => ListenerProtocol::Udp,
        EGRESS_PROTOCOL => ListenerProtocol::Egress,
        _ => ListenerProtocol::Other(text),
    });
    let tls = tls.and_then(|node| reader.object(node, "`tls`")).map(|mut object| {
        let (mode, certificates, options) = (object.take("mode"), object.take("certificateRefs"), object.take("options"));
        reader.end(object);
        let has_options = options.is_some();
        let http3 = tls_options(options, reader);
        let mode =
            mode.and_then(|node| reader.word(&node, "mode", &[("Terminate", TlsMode::Terminate), ("Passthrough", TlsMode::Passthrough)]));
        let mode = mode.unwrap_or(TlsMode::Terminate);
        let certificates = references(certificates, own, ("", "Secret"), reader);
        reader.bound(certificates.len() <= 64, &span, "there are at most 64 certificates");
        let has_any = !certificates.is_empty() || has_options;
        reader.bound(mode == TlsMode::Passthrough || has_any, &span, "TLS that ends here needs `certificateRefs`");
        ListenerTls { mode, certificates, http3 }
    });
    let mut routes = AllowedRoutes { namespaces: NamespacesFrom::Same, kinds: Vec::new() };
    if let Some(mut object) = allowed.and_then(|node| reader.object(node, "`allowedRoutes`")) {
        let (namespaces, kinds) = (object.take("namespaces"), object.take("kinds"));
        reader.end(object);
        routes.namespaces = self::namespaces(namespaces, NamespacesFrom::Same, reader);
        let kinds = kinds.map(|node| reader.list(node, "`kinds`")).unwrap_or_default();
        reader.bound(kinds.len() <= 8, &span, "a listener names at most 8 kinds");
        for node in kinds {
            let Some(mut object) = reader.object(node, "a kind") else { continue };
            let (group, kind) = (object.take("group"), object.need("kind", reader));
            reader.end(object);
            let group = group.and_then(|node| reader.text(&node, "`group`")).unwrap_or_else(|| GATEWAY_GROUP.to_owned());
            routes.kinds.extend(kind.and_then(|node| reader.text(&node, "`kind`")).map(|kind| (group, kind)));
        }
    }
    if let Some(protocol) = &protocol {
        let bytes = matches!(protocol, ListenerProtocol::Tcp | ListenerProtocol::Udp | ListenerProtocol::Egress);
        reader.bound(!(bytes || *protocol == ListenerProtocol::Http) || tls.is_none(), &span, "a listener without TLS has no `tls`");
        reader.bound(!bytes || hostname == HostPattern::Any, &span, "a listener for bytes sees no host, so it has no `hostname`");
        if let Some(span) = tls.as_ref().and_then(|tls| tls.http3.as_ref()).filter(|_| *protocol != ListenerProtocol::Https) {
            reader.wrong_with(span, format!("`{HTTP3}` is for listeners of HTTPS"), "remove it, or let the listener's `protocol` be HTTPS");
        }
        if *protocol == ListenerProtocol::Https && tls.is_none() {
            reader.wrong_with(&span, "a listener for HTTPS needs `tls`", "name its certificate: `tls: {certificateRefs: [{name: …}]}`");
        }
    }
    Some(Listener { name: name?, hostname, port: port?, protocol: protocol?, tls, allowed: routes, span })
}

/// The option of a listener's TLS that has HTTP/3 served, too.
const HTTP3: &str = "lorica.io/http3";

/// Where options of TLS switch HTTP/3 on. Those of other implementations say nothing to us; one of ours that is not known would be passed over.
fn tls_options(node: Option<Node>, reader: &mut Reader<'_>) -> Option<Range<usize>> {
    let mut object = reader.object(node?, "`options`")?;
    let http3 = object.take(HTTP3);
    for (name, span) in object.names().filter(|(name, _)| name.starts_with("lorica.io/")) {
        reader.wrong_with(&span, format!("`{name}` is no option"), format!("the one option there is: `{HTTP3}: \"true\"`"));
    }
    object.texts(reader);
    let node = http3?;
    let text = reader.text(&node, &format!("`{HTTP3}`"))?;
    if text != "true" {
        reader.wrong_with(&node.span, format!("`{HTTP3}` is not `\"true\"`"), "write \"true\", or leave it out");
        return None;
    }
    Some(node.span)
}

fn namespaces(node: Option<Node>, default: NamespacesFrom, reader: &mut Reader<'_>) -> NamespacesFrom {
    let Some(mut object) = node.and_then(|node| reader.object(node, "`namespaces`")) else { return default };
    let (from, selector) = (object.take("from"), object.take("selector"));
    let span = object.span.clone();
    reader.end(object);
    let words = [("All", 0), ("Same", 1), ("None", 2), ("Selector", 3)];
    match from.and_then(|node| reader.word(&node, "source of namespaces", &words)) {
        Some(0) => NamespacesFrom::All,
        Some(1) => NamespacesFrom::Same,
        Some(2) => NamespacesFrom::None,
        Some(_) => {
            // One without terms selects all, as Kubernetes has it; none at all would be a slip.
            reader.bound(selector.is_some(), &span, "`from: Selector` needs `selector`");
            self::selector(selector, reader)
        }
        None => default,
    }
}

fn selector(node: Option<Node>, reader: &mut Reader<'_>) -> NamespacesFrom {
    let (mut labels, mut expressions) = (BTreeMap::new(), Vec::new());
    if let Some(mut object) = node.and_then(|node| reader.object(node, "`selector`")) {
        let (match_labels, match_expressions) = (object.take("matchLabels"), object.take("matchExpressions"));
        reader.end(object);
        labels = match_labels.and_then(|node| reader.object(node, "`matchLabels`")).map(|object| object.texts(reader)).unwrap_or_default();
        for node in match_expressions.map(|node| reader.list(node, "`matchExpressions`")).unwrap_or_default() {
            let Some(mut object) = reader.object(node, "an expression") else { continue };
            let (key, operator, values) = (object.need("key", reader), object.need("operator", reader), object.take("values"));
            reader.end(object);
            let values = values.map(|node| reader.list(node, "`values`")).unwrap_or_default();
            let values = values.iter().filter_map(|node| reader.text(node, "a value")).collect();
            let key = key.and_then(|node| reader.text(&node, "`key`"));
            let words = ["In", "NotIn", "Exists", "DoesNotExist"].map(|word| (word, word));
            let operator = operator.and_then(|node| reader.word(&node, "operator", &words));
            expressions.extend(key.zip(operator).map(|(key, operator)| (key, operator.to_owned(), values)));
        }
    }
    NamespacesFrom::Selector { labels, expressions }
}

pub(super) fn grant(node: Node, reader: &mut Reader<'_>) -> Option<ReferenceGrant> {
    let mut object = reader.object(node, "a ReferenceGrant's `spec`")?;
    let (from, to) = (object.need("from", reader), object.need("to", reader));
    reader.end(object);
    let mut grant = Grant { from: Vec::new(), to: Vec::new() };
    let span = from.as_ref().or(to.as_ref()).map(|node| node.span.clone()).unwrap_or_default();
    let from = from.map(|node| reader.list(node, "`from`")).unwrap_or_default();
    let to = to.map(|node| reader.list(node, "`to`")).unwrap_or_default();
    let few = |list: &[Node]| (1..=16).contains(&list.len());
    reader.bound(few(&from) && few(&to), &span, "a grant has 1 to 16 of `from` and of `to`");
    for node in from {
        let Some(mut object) = reader.object(node, "a referrer") else { continue };
        let (group, kind, namespace) = (object.need("group", reader), object.need("kind", reader), object.need("namespace", reader));
        reader.end(object);
        let group = group.and_then(|node| reader.text(&node, "`group`"));
        let kind = kind.and_then(|node| reader.text(&node, "`kind`"));
        let namespace = namespace.and_then(|node| reader.parsed(&node, "`namespace`"));
        let (Some(group), Some(kind), Some(namespace)) = (group, kind, namespace) else { continue };
        grant.from.push(GrantFrom { group, kind, namespace });
    }
    for node in to {
        let Some(mut object) = reader.object(node, "what is referred to") else { continue };
        let (group, kind, name) = (object.need("group", reader), object.need("kind", reader), object.take("name"));
        reader.end(object);
        let group = group.and_then(|node| reader.text(&node, "`group`"));
        let group = group.map(|group| if matches!(group.as_str(), "core" | "lorica.io") { String::new() } else { group });
        let kind = kind.and_then(|node| reader.text(&node, "`kind`"));
        let name = name.and_then(|node| reader.parsed(&node, "`name`"));
        grant.to.extend(group.zip(kind).map(|(group, kind)| GrantTo { group, kind, name }));
    }
    Some(ReferenceGrant { grant })
}

pub(super) fn backend_tls(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<BackendTlsPolicy> {
    let mut object = reader.object(node, "a BackendTLSPolicy's `spec`")?;
    let (targets, validation, options) = (object.need("targetRefs", reader), object.need("validation", reader), object.take("options"));
    reader.end(object);
    if let Some(span) = tls_options(options, reader) {
        reader.wrong_with(&span, format!("`{HTTP3}` is for listeners of HTTPS: backends are not called by HTTP/3"), "leave it out");
    }
    let mut policy =
        BackendTlsPolicy { targets: Vec::new(), hostname: String::new(), names: Vec::new(), roots: Vec::new(), system_roots: false };
    let span = targets.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let targets = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    reader.bound((1..=16).contains(&targets.len()), &span, "a policy has 1 to 16 targets");
    for node in targets {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a target") else { continue };
        let section = object.take("sectionName");
        let named = reference(&mut object, own, ("", "Service"), reader);
        reader.end(object);
        let section = section.and_then(|node| reader.text(&node, "`sectionName`"));
        let Some(object) = named else { continue };
        let same = |known: &&TlsPolicyTarget| known.object.kind == object.kind && known.object.name == object.name;
        if let Some(known) = policy.targets.iter().find(same) {
            let told_apart =
                known.section.is_some() && section.is_some() && !policy.targets.iter().filter(same).any(|known| known.section == section);
            reader.bound(told_apart, &span, format!("`{}` is a target already: name another `sectionName` in each", object.name));
        }
        policy.targets.push(TlsPolicyTarget { object, section });
    }
    let mut object = reader.object(validation?, "`validation`")?;
    let span = object.span.clone();
    let (roots, system, hostname, names) = (
        object.take("caCertificateRefs"),
        object.take("wellKnownCACertificates"),
        object.need("hostname", reader),
        object.take("subjectAltNames"),
    );
    reader.end(object);
    policy.roots = references(roots, own, ("", "ConfigMap"), reader);
    policy.system_roots = system.and_then(|node| reader.word(&node, "set of roots", &[("System", true)])).unwrap_or_default();
    reader.bound(policy.roots.len() <= 8, &span, "there are at most 8 `caCertificateRefs`");
    let either = policy.system_roots == policy.roots.is_empty();
    reader.bound(either, &span, "`validation` names either `caCertificateRefs` or `wellKnownCACertificates`");
    policy.hostname = hostname.and_then(|node| super::hostname(&node, false, reader))?;
    let names = names.map(|node| reader.list(node, "`subjectAltNames`")).unwrap_or_default();
    reader.bound(names.len() <= 5, &span, "there are at most 5 `subjectAltNames`");
    for node in names {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a name") else { continue };
        let (kind, hostname, uri) = (object.need("type", reader), object.take("hostname"), object.take("uri"));
        reader.end(object);
        let is_uri = kind.and_then(|node| reader.word(&node, "type of name", &[("Hostname", false), ("URI", true)]))?;
        let (named, other, field) = if is_uri { (uri, hostname, "uri") } else { (hostname, uri, "hostname") };
        // What is left out must not come to mean that any name will do.
        if named.is_none() || other.is_some() {
            reader.wrong(&span, format!("a name of this type has `{field}`, and that alone"));
        }
        let name = named.and_then(|node| if is_uri { reader.text(&node, "`uri`") } else { super::hostname(&node, true, reader) });
        policy.names.extend(name);
    }
    Some(policy)
}

pub(super) fn secret(node: Node, reader: &mut Reader<'_>) -> Option<Secret> {
    let mut object = reader.object(node, "a Secret")?;
    let (kind, data, texts) = (object.take("type"), object.take("data"), object.take("stringData"));
    object.take("immutable");
    reader.end(object);
    let kind = kind.and_then(|node| reader.text(&node, "`type`")).unwrap_or_else(|| "Opaque".to_owned());
    let mut found = Secret { kind, data: BTreeMap::new() };
    if let Some(Value::Map(fields)) = data.map(|node| node.value) {
        for (key, node) in fields {
            let Some(text) = reader.text(&node, "a value") else { continue };
            match base64(&text) {
                Some(bytes) => drop(found.data.insert(key.name, bytes)),
                None => reader.wrong_with(&node.span, "this is no base64", "write text as it is under `stringData`"),
            }
        }
    }
    if let Some(object) = texts.and_then(|node| reader.object(node, "`stringData`")) {
        found.data.extend(object.texts(reader).into_iter().map(|(key, text)| (key, text.into_bytes())));
    }
    Some(found)
}

pub(super) fn config_map(node: Node, reader: &mut Reader<'_>) -> Option<ConfigMap> {
    let mut object = reader.object(node, "a ConfigMap")?;
    let data = object.take("data");
    object.take("immutable");
    object.unsupported(&["binaryData"]);
    reader.end(object);
    let data = data.and_then(|node| reader.object(node, "`data`")).map(|object| object.texts(reader)).unwrap_or_default();
    Some(ConfigMap { data })
}
