//! What may leave the mesh, from its document.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{GATEWAY_GROUP, host_pattern, port, reference, shadow};
use crate::name::Namespace;
use crate::resource::kinds::{EgressAllow, EgressPolicy, EgressTarget};
use crate::resource::reader::Reader;
use crate::resource::tree::{Node, Value};
use crate::snapshot::{EgressCaller, EgressHost, HostPattern};

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<EgressPolicy> {
    let mut object = reader.object(node, "an EgressPolicy's `spec`")?;
    let (targets, default, allow) = (object.take("targetRefs"), object.take("default"), object.take("allow"));
    let mode = object.take("mode");
    reader.end(object);
    let targets: Vec<EgressTarget> = targets
        .map(|node| reader.list(node, "`targetRefs`"))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|node| target(node, reader))
        .collect();
    let default = default.and_then(|node| reader.word(&node, "default", &[("Deny", true), ("Allow", false)]));
    let of_mesh = targets.contains(&EgressTarget::Mesh);
    let allow = allow.map(|node| reader.list(node, "`allow`")).unwrap_or_default();
    let allow = allow.into_iter().filter_map(|node| self::allow(node, own, of_mesh, reader)).collect();
    let denies = default.unwrap_or(true);
    let mode_span = mode.as_ref().map(|node| node.span.clone());
    let shadow = shadow(mode, reader);
    if let (Some(span), true, false) = (mode_span, shadow, denies) {
        reader.wrong_with(&span, "this policy refuses nothing, so there is nothing to try", "write `default: Deny`, or leave `mode` out");
    }
    Some(EgressPolicy { targets, denies, allow, shadow })
}

fn target(node: Node, reader: &mut Reader<'_>) -> Option<EgressTarget> {
    let mut object = reader.object(node, "a target")?;
    let (group, kind, name) = (object.take("group"), object.take("kind"), object.need("name", reader));
    reader.end(object);
    if let Some(node) = group
        && let Some(group) = reader.text(&node, "`group`")
        && !matches!(group.as_str(), "" | "core" | "lorica.io")
    {
        reader.wrong_with(&node.span, format!("nothing of the group `{group}` calls"), "write `group: lorica.io`, or leave it out");
    }
    let is_mesh = kind.map_or(Some(false), |node| reader.word(&node, "kind of target", &[("Service", false), ("Mesh", true)]))?;
    let node = name?;
    if is_mesh {
        let name = reader.text(&node, "`name`")?;
        if name != "default" {
            reader.wrong_with(&node.span, format!("there is no mesh `{name}`"), "the mesh is named `default`");
        }
        return Some(EgressTarget::Mesh);
    }
    Some(EgressTarget::Service { name: reader.parsed(&node, "`name`")?, span: node.span })
}

fn allow(node: Node, own: &Namespace, of_mesh: bool, reader: &mut Reader<'_>) -> Option<EgressAllow> {
    let mut object = reader.object(node, "what is allowed")?;
    let (hosts, ports) = (object.need("hosts", reader), object.take("ports"));
    let (callers, via) = (object.take("callers"), object.take("via"));
    reader.end(object);
    let hosts_span = hosts.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let nodes = hosts.map(|node| reader.list(node, "`hosts`")).unwrap_or_default();
    reader.bound(!nodes.is_empty(), &hosts_span, "nothing is allowed without a host; `\"*\"` is every host");
    let hosts: Vec<EgressHost> = nodes.iter().filter_map(|node| host(node, reader)).collect();
    let ports = ports.map(|node| reader.list(node, "`ports`")).unwrap_or_default();
    let ports = ports.iter().filter_map(|node| port(node, reader)).collect();
    let callers = callers.map(|node| reader.list(node, "`callers`")).unwrap_or_default();
    let callers = callers.into_iter().filter_map(|node| caller(node, own, of_mesh, reader)).collect();
    let via = via.and_then(|node| reader.object(node, "`via`")).and_then(|mut object| {
        let named = reference(&mut object, own, (GATEWAY_GROUP, "Gateway"), reader);
        reader.end(object);
        let named = named?;
        if named.kind != "Gateway" || named.group != GATEWAY_GROUP {
            reader.wrong_with(&named.span, format!("{} `{}` is no way out of the mesh", named.kind, named.name), "name a Gateway");
            return None;
        }
        Some(named)
    });
    if hosts.is_empty() {
        return None;
    }
    Some(EgressAllow { hosts, ports, callers, via })
}

/// `api.example`, `*.example`, `*`, `192.0.2.1`, `192.0.2.0/24`.
fn host(node: &Node, reader: &mut Reader<'_>) -> Option<EgressHost> {
    if let Value::Text(text) = &node.value {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(EgressHost::Network(IpNet::from(address)));
        }
        if text.contains('/') {
            return match text.parse::<IpNet>() {
                Ok(network) if network.trunc() == network => Some(EgressHost::Network(network)),
                Ok(network) => {
                    let hint = format!("write `{}`", network.trunc());
                    reader.wrong_with(&node.span, format!("`{text}` is an address in a network, not a network"), hint);
                    None
                }
                Err(_) => {
                    reader.wrong_with(
                        &node.span,
                        format!("`{text}` is neither a host nor a network"),
                        "a host is written without scheme and path, a network as `192.0.2.0/24`",
                    );
                    None
                }
            };
        }
        if text == "*" {
            return Some(EgressHost::Name(HostPattern::Any));
        }
        if text.strip_suffix(crate::name::SUFFIX).is_some_and(|rest| rest.ends_with('.')) {
            reader.wrong_with(&node.span, format!("`{text}` is inside the mesh"), "calls between services never leave it; leave it out");
            return None;
        }
    }
    match host_pattern(node, reader) {
        // What is no host name was told already.
        HostPattern::Any => None,
        pattern => Some(EgressHost::Name(pattern)),
    }
}

fn caller(node: Node, own: &Namespace, of_mesh: bool, reader: &mut Reader<'_>) -> Option<EgressCaller> {
    let mut object = reader.object(node, "a caller")?;
    let (namespace, account) = (object.take("namespace"), object.take("account"));
    reader.end(object);
    let span = namespace.as_ref().map(|node| node.span.clone());
    let namespace = match namespace {
        Some(node) => Some(reader.parsed::<Namespace>(&node, "`namespace`")?),
        None => None,
    };
    let account = match account {
        Some(node) => Some(reader.parsed(&node, "`account`")?),
        None => None,
    };
    if let (Some(other), Some(span), false) = (namespace.as_ref().filter(|namespace| *namespace != own), span, of_mesh) {
        reader.wrong_with(
            &span,
            format!("the policy is about workloads of `{own}`, so `{other}` is never asked about"),
            "put the policy there, or let it be about the mesh: `targetRefs: [{kind: Mesh, name: default}]`",
        );
    }
    let namespace = if of_mesh && account.is_none() { namespace } else { Some(namespace.unwrap_or_else(|| own.clone())) };
    Some(EgressCaller { namespace, account })
}
