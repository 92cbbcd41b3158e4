//! Where Prometheus finds every proxy, and the control plane: its HTTP service discovery (`http_sd_config`), so that one job is enough.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;
use lorica_model::compile::RegisteredWorkload;
use lorica_model::name::WorkloadName;
use serde::Serialize;

use crate::ControlPlane;
use crate::mesh::Proxy;

/// What all labels begin with: Prometheus shows them to `relabel_configs`, and drops what these do not keep.
const META: &str = "__meta_lorica_";

/// Targets that have their labels in common, as Prometheus reads them.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Group {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl Group {
    /// One target. A label without a value is left out, as Prometheus takes both for the same.
    fn new(target: String, labels: [(&str, String); 6]) -> Self {
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (format!("{META}{name}"), value));
        Self { targets: vec![target], labels: labels.collect() }
    }
}

/// The targets.
pub(crate) async fn proxies(State(control): State<Arc<ControlPlane>>, head: HeaderMap) -> Json<Vec<Group>> {
    let seen = control.mesh.seen();
    let proxies = seen.proxies.iter().filter(|(_, _, proxy)| proxy.session.is_some());
    let own = own_target(&head, control.telemetry);
    Json(own.map(of_control).into_iter().chain(proxies.filter_map(|(name, workload, proxy)| of_proxy(name, workload, proxy))).collect())
}

/// Where whoever asks reaches this port: the address that he asked.
fn own_target(head: &HeaderMap, bound: Option<SocketAddr>) -> Option<String> {
    let asked = head.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok()).filter(|host| host.port().is_some());
    asked.map(|host| host.to_string()).or_else(|| bound.map(|address| address.to_string()))
}

fn of_control(target: String) -> Group {
    let none = String::new;
    let labels = [
        ("kind", "control-plane".to_owned()),
        ("workload", "control-plane".to_owned()),
        ("namespace", none()),
        ("service", none()),
        ("account", none()),
        ("version", none()),
    ];
    Group::new(target, labels)
}

/// None for a proxy whose page cannot be reached from here.
fn of_proxy(name: &WorkloadName, workload: &RegisteredWorkload, proxy: &Proxy) -> Option<Group> {
    let kind = match (&workload.gateway, &workload.service) {
        (Some(_), _) => "gateway",
        (None, Some(_)) => "sidecar",
        (None, None) => "client",
    };
    let gateway = workload.gateway.as_ref().map(|gateway| gateway.name.name.to_string());
    let labels = [
        ("kind", kind.to_owned()),
        ("workload", name.name.to_string()),
        ("namespace", name.namespace.to_string()),
        ("service", workload.service.as_ref().map(|service| service.name.to_string()).or(gateway).unwrap_or_default()),
        ("account", workload.account.to_string()),
        ("version", workload.version.clone().unwrap_or_default()),
    ];
    Some(Group::new(proxy.metrics?.to_string(), labels))
}

/// Where a proxy's page is reached from here, which it says as it sees it itself: what is of every address of this host is of its loopback,
/// and the loopback of another host is out of reach.
#[must_use]
pub fn reached(metrics: Option<SocketAddr>, is_of_this_host: bool) -> Option<SocketAddr> {
    let address = metrics?;
    let (ip, port) = (address.ip(), address.port());
    match (is_of_this_host, ip) {
        (true, IpAddr::V4(any)) if any.is_unspecified() => Some((std::net::Ipv4Addr::LOCALHOST, port).into()),
        (true, IpAddr::V6(any)) if any.is_unspecified() => Some((std::net::Ipv6Addr::LOCALHOST, port).into()),
        (true, _) => Some(address),
        (false, _) => (!ip.is_loopback() && !ip.is_unspecified()).then_some(address),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;

    #[test]
    fn a_page_is_told_where_it_can_be_reached() {
        let of = |address: &str, here| reached(Some(address.parse().unwrap()), here).map(|address| address.to_string());
        for (address, here, expected) in [
            ("127.0.0.1:9000", true, Some("127.0.0.1:9000")),
            ("0.0.0.0:9000", true, Some("127.0.0.1:9000")),
            ("[::]:9000", true, Some("[::1]:9000")),
            ("10.0.0.7:9000", true, Some("10.0.0.7:9000")),
            ("127.0.0.1:9000", false, None),
            ("[::1]:9000", false, None),
            ("0.0.0.0:9000", false, None),
            ("10.0.0.7:9000", false, Some("10.0.0.7:9000")),
        ] {
            assert_eq!(of(address, here).as_deref(), expected, "{address} {here}");
        }
        assert_eq!(reached(None, true), None);
    }

    #[test]
    fn the_control_plane_is_where_it_was_asked() {
        let bound = Some("0.0.0.0:15014".parse().unwrap());
        let asked = |host: Option<&str>| {
            let mut head = HeaderMap::new();
            host.map(|host| head.insert(HOST, host.parse().unwrap()));
            own_target(&head, bound)
        };
        assert_eq!(asked(Some("mesh.example:15014")).as_deref(), Some("mesh.example:15014"));
        assert_eq!(asked(Some("mesh.example")).as_deref(), Some("0.0.0.0:15014"));
        assert_eq!(asked(Some("a b")).as_deref(), Some("0.0.0.0:15014"));
        assert_eq!(asked(None).as_deref(), Some("0.0.0.0:15014"));
    }
}
