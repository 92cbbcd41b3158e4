//! Who may do what, from its document.

use std::ops::Range;
use std::str::FromStr;

use ipnet::IpNet;

use super::condition::condition;
use super::matches::fields;
use super::{GATEWAY_GROUP, host_pattern, port, reference};
use crate::name::{Label, Namespace};
use crate::resource::Kind;
use crate::resource::kinds::{
    AuthorizationPolicy, AuthorizationTarget, IdentityOf, WrittenAccessRule, WrittenIdentity, WrittenOperation, WrittenSource,
};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::{Node, Value};
use crate::snapshot::{AccessAction, Among, ClaimMatch, Operation, PathPattern};
use crate::spiffe::{SpiffeId, TrustDomain};

/// What may be protected.
const TARGETS: [(&str, Kind); 4] =
    [("Service", Kind::Service), ("Gateway", Kind::Gateway), ("HTTPRoute", Kind::HttpRoute), ("GRPCRoute", Kind::GrpcRoute)];
/// The most rules of a policy.
const MOST_RULES: usize = 1024;
/// The most values of a list in a rule.
const MOST_VALUES: usize = 256;

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<AuthorizationPolicy> {
    let mut object = reader.object(node, "an AuthorizationPolicy's `spec`")?;
    let span = object.span.clone();
    let (targets, action, mode, rules) = (object.take("targetRefs"), object.take("action"), object.take("mode"), object.take("rules"));
    reader.end(object);
    let targets = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    let targets = targets.into_iter().filter_map(|node| target(node, own, reader)).collect();
    let words = [("Allow", AccessAction::Allow), ("Deny", AccessAction::Deny), ("Audit", AccessAction::Audit)];
    let action = action.map_or(Some(AccessAction::Allow), |node| reader.word(&node, "action", &words));
    let mode_span = mode.as_ref().map(|node| node.span.clone());
    let shadow = mode.and_then(|node| reader.word(&node, "mode", &[("Enforce", false), ("Shadow", true)])).unwrap_or(false);
    let nodes = rules.map(|node| reader.list(node, "`rules`")).unwrap_or_default();
    reader.bound(nodes.len() <= MOST_RULES, &span, format!("a policy has at most {MOST_RULES} rules; make several of it"));
    if let Some(action @ (AccessAction::Deny | AccessAction::Audit)) = action
        && nodes.is_empty()
    {
        let (word, hint) = match action {
            AccessAction::Deny => ("Deny", "to deny everything, write `rules: [{}]`, or an `Allow` without rules, which others may add to"),
            _ => ("Audit", "to write down everything, write `rules: [{}]`"),
        };
        reader.wrong_with(&span, format!("a policy whose action is {word} and that has no rules does nothing"), hint);
    }
    if let (Some(span), true, Some(AccessAction::Audit)) = (mode_span, shadow, action) {
        reader.wrong_with(&span, "an audit denies nothing, so there is nothing to try", "leave `mode` out");
    }
    let mut found: Vec<WrittenAccessRule> = Vec::new();
    for node in nodes {
        let Some(rule) = rule(node, own, reader) else { continue };
        if rule.name.is_some() && found.iter().any(|known| known.name == rule.name) {
            let message = format!("another rule of the policy is named `{}`", rule.name.as_ref().map(Label::as_str).unwrap_or_default());
            reader.wrong_with(&rule.span, message, "who is denied is told a rule's name: give each its own");
            continue;
        }
        found.push(rule);
    }
    Some(AuthorizationPolicy { targets, action: action?, shadow, rules: found })
}

pub(super) fn target(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<AuthorizationTarget> {
    let mut object = reader.object(node, "a target")?;
    let kind = object.take("kind");
    let kind = kind.map_or(Some(Kind::Service), |node| reader.word(&node, "kind of target", &TARGETS));
    let group = if kind == Some(Kind::Service) { "" } else { GATEWAY_GROUP };
    let named = reference(&mut object, own, (group, kind?.as_str()), reader);
    reader.end(object);
    let named = named?;
    if named.group != group {
        let hint = if group.is_empty() { "leave `group` out".to_owned() } else { format!("write `group: {group}`, or leave it out") };
        reader.wrong_with(&named.span, format!("no {} is of the group `{}`", named.kind, named.group), hint);
        return None;
    }
    if named.namespace != *own {
        let message = format!("a policy of `{own}` protects nothing of `{}`", named.namespace);
        reader.wrong_with(&named.span, message, format!("put the policy into the namespace `{}`", named.namespace));
        return None;
    }
    Some(AuthorizationTarget { kind: kind?, object: named })
}

fn rule(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<WrittenAccessRule> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a rule")?;
    let (name, from, to, when) = (object.take("name"), object.take("from"), object.take("to"), object.take("when"));
    reader.end(object);
    let name = name.and_then(|node| reader.parsed(&node, "`name`"));
    let from = from.map(|node| some(node, "`from`", reader)).unwrap_or_default();
    let from = from.into_iter().filter_map(|node| source(node, own, reader)).collect();
    let to = to.map(|node| some(node, "`to`", reader)).unwrap_or_default();
    let to = to.into_iter().filter_map(|node| operation(node, reader)).collect();
    // A rule without its condition would be another one.
    let when = match when {
        Some(node) => Some(condition(&node, reader)?),
        None => None,
    };
    Some(WrittenAccessRule { name, span, from, to, when })
}

/// The nodes of a list that means nothing when it is empty: nobody, where everybody would be let in.
fn some(node: Node, what: &str, reader: &mut Reader<'_>) -> Vec<Node> {
    let span = node.span.clone();
    let nodes = reader.list(node, what);
    if nodes.is_empty() {
        reader.wrong_with(&span, format!("{what} is empty"), "name something, or leave it out, which means everything");
    }
    reader.bound(nodes.len() <= MOST_VALUES, &span, format!("{what} has at most {MOST_VALUES} entries"));
    nodes
}

/// What a field must be one of, and what its `not` form may not be.
fn among<T>(
    object: &mut Object,
    (field, not): (&'static str, &'static str),
    reader: &mut Reader<'_>,
    mut read: impl FnMut(&Node, &mut Reader<'_>) -> Option<T>,
) -> Among<T> {
    let (any, none) = (object.take(field), object.take(not));
    let mut list = |node: Option<Node>, what: &str| -> Vec<T> {
        let nodes = node.map(|node| some(node, what, reader)).unwrap_or_default();
        nodes.iter().filter_map(|node| read(node, reader)).collect()
    };
    Among { any: list(any, &format!("`{field}`")), none: list(none, &format!("`{not}`")) }
}

fn source(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<WrittenSource> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a caller")?;
    let identities = among(&mut object, ("identities", "notIdentities"), reader, |node, reader| identity(node, own, reader));
    let namespaces = among(&mut object, ("namespaces", "notNamespaces"), reader, |node, reader| reader.parsed(node, "a namespace"));
    let addresses = among(&mut object, ("addresses", "notAddresses"), reader, network);
    let mut claims_span = None;
    let mut claims = |field: &'static str| -> Vec<ClaimMatch> {
        let Some(node) = object.take(field) else { return Vec::new() };
        claims_span.get_or_insert(node.span.clone());
        some(node, &format!("`{field}`"), reader).into_iter().filter_map(|node| claim(node, reader)).collect()
    };
    let (claims, not_claims) = (claims("claims"), claims("notClaims"));
    let says_nothing = identities.is_empty() && namespaces.is_empty() && addresses.is_empty() && claims_span.is_none();
    says_something(&object, &span, says_nothing, reader);
    reader.end(object);
    Some(WrittenSource { identities, namespaces, addresses, claims, not_claims, claims_span })
}

/// What a claim must say; without `values` that it is there.
fn claim(node: Node, reader: &mut Reader<'_>) -> Option<ClaimMatch> {
    let mut object = reader.object(node, "a claim")?;
    let (name, values) = (object.need("name", reader), object.take("values"));
    reader.end(object);
    let name_node = name?;
    let name = reader.text(&name_node, "`name`")?;
    if name.is_empty() {
        reader.wrong_with(&name_node.span, "a claim has a name", "write `sub`, or a path: `realm_access.roles`");
        return None;
    }
    let mut found = ClaimMatch { name, values: Vec::new() };
    for node in values.map(|node| some(node, "`values`", reader)).unwrap_or_default() {
        let text = match node.value {
            Value::Bool(value) => value.to_string(),
            _ => reader.text(&node, "a value of a claim")?,
        };
        if text == "*" {
            reader.wrong_with(&node.span, "values of claims are compared as a whole", "leave `values` out, which means any");
        } else if found.is_of_words() && text.contains(' ') {
            let message = format!("`{}` is a list of words, of which none has a space", found.name);
            reader.wrong_with(&node.span, message, "name each word in an entry of its own");
        } else {
            found.values.push(text);
        }
    }
    Some(found)
}

/// What is left of an object is told by its end; an object that is empty says nothing, where its author may have meant nobody.
fn says_something(object: &Object, span: &Range<usize>, empty: bool, reader: &mut Reader<'_>) {
    if empty && object.names().next().is_none() {
        reader.wrong_with(span, "this says nothing", "name something, or leave it out, which means everything");
    }
}

fn identity(node: &Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<WrittenIdentity> {
    let text = reader.text(node, "an identity")?;
    let mut wrong = |message: String| {
        let hint = "write `call-routing` (of this namespace), `call-routing.contact`, `*.contact`, `spiffe://DOMAIN/PATH`, `spiffe://DOMAIN/*`, or `*` for whoever proved one";
        reader.wrong_with(&node.span, message, hint);
        None
    };
    let of = if text == "*" {
        IdentityOf::Any
    } else if let Some(rest) = text.strip_prefix("spiffe://") {
        match rest.strip_suffix("/*") {
            Some(domain) => match TrustDomain::new(domain) {
                Ok(domain) => IdentityOf::TrustDomain(domain),
                Err(error) => return wrong(error.to_string()),
            },
            None => match SpiffeId::from_str(&text) {
                Ok(id) => IdentityOf::Id(id),
                Err(error) => return wrong(error.to_string()),
            },
        }
    } else {
        let (account, namespace) = match text.split_once('.') {
            Some((account, namespace)) => match Namespace::new(namespace) {
                Ok(namespace) => (account, namespace),
                Err(error) => return wrong(error.to_string()),
            },
            None => (text.as_str(), own.clone()),
        };
        match (account, Label::new(account)) {
            ("*", _) => IdentityOf::Namespace(namespace),
            (_, Ok(account)) => IdentityOf::Account(namespace, account),
            (_, Err(error)) => return wrong(error.to_string()),
        }
    };
    Some(WrittenIdentity { of, span: node.span.clone() })
}

/// A network, or one address.
fn network(node: &Node, reader: &mut Reader<'_>) -> Option<IpNet> {
    let text = reader.text(node, "an address")?;
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    match parsed {
        Some(network) if network.addr() == network.network() => Some(network),
        Some(network) => {
            let message = format!("`{text}` has bits after its first {}", network.prefix_len());
            reader.wrong_with(&node.span, message, format!("write `{}`", network.trunc()));
            None
        }
        None => {
            reader.wrong_with(&node.span, format!("`{text}` is no network"), "write one such as `10.0.0.0/8` or `fd00::/8`, or an address");
            None
        }
    }
}

fn operation(node: Node, reader: &mut Reader<'_>) -> Option<WrittenOperation> {
    let span = node.span.clone();
    let mut object = reader.object(node, "an operation")?;
    let methods = among(&mut object, ("methods", "notMethods"), reader, method);
    let paths = among(&mut object, ("paths", "notPaths"), reader, |node, reader| reader.parsed::<PathPattern>(node, "a path"));
    let hosts = among(&mut object, ("hosts", "notHosts"), reader, |node, reader| Some(host_pattern(node, reader)));
    let mut port_spans = Vec::new();
    let ports = among(&mut object, ("ports", "notPorts"), reader, |node, reader| {
        let port = port(node, reader)?;
        port_spans.push((port, node.span.clone()));
        Some(port)
    });
    let headers = fields(object.take("headers"), true, reader);
    let operation = Operation { methods, paths, hosts, ports, headers };
    says_something(&object, &span, operation == Operation::default(), reader);
    reader.end(object);
    Some(WrittenOperation { http_span: operation.is_of_http().then_some(span), operation, port_spans })
}

/// Any method that HTTP can have.
fn method(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text(node, "a method")?;
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')) {
        reader.wrong_with(&node.span, format!("`{text}` is no method"), "write it in capitals, as `GET`; leave `methods` out for all");
        return None;
    }
    Some(text)
}
