//! The inbound of a workload, for Lorica's proxy alone: other data planes have theirs from their bootstrap.
//!
//! One filter chain an app port for mutual TLS, a second one where plaintext is taken too. They say in Envoy's words what
//! the proxy does; what those words cannot say (the app's port behind it, the identity) is in the metadata.

use envoy_types::pb::envoy::config::core::v3::{DataSource, TrafficDirection, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action, route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use lorica_model::name::{Label, Namespace, WorkloadName};
use lorica_model::snapshot::{InboundPort, InboundUnit, MtlsMode, Telemetry, Version};

use super::{Context, access_log, authorization, duration, listener, no, number, rate_limit, telemetry, tls};
use crate::facts::{InboundFacts, InboundPortFacts, metadata};
use crate::node::{Dialect, NodeMetadata};
use crate::resource::pack;
use crate::{Kind, Resource};

/// The name of a workload's inbound listener: `inbound/recording-7f3a2c.contact`.
#[must_use]
pub fn inbound_name(workload: &WorkloadName) -> String {
    format!("inbound/{workload}")
}

/// The resource of `unit`.
#[must_use]
pub fn inbound(unit: &InboundUnit) -> Resource {
    let facts = InboundFacts {
        workload: unit.workload.clone(),
        service: unit.service.clone(),
        account: unit.account.clone(),
        identity: unit.identity.clone(),
        virtual_v4: unit.virtual_v4,
        virtual_v6: unit.virtual_v6,
        withdrawn: unit.withdrawn,
        limits: unit.limits.clone(),
        authentication: unit.authentication.clone(),
        authorization: Some(unit.authorization.clone()).filter(|authorization| !authorization.is_empty()),
        tried: unit.tried.clone(),
        telemetry: unit.telemetry.clone(),
    };
    let told = unit.telemetry.as_deref();
    let name = inbound_name(&unit.workload);
    let listener = Listener {
        name: name.clone(),
        filter_chains: unit.ports.iter().flat_map(|port| inbound_chains(&unit.workload.namespace, &unit.account, port, told)).collect(),
        metadata: Some(metadata(&facts)),
        traffic_direction: TrafficDirection::Inbound.into(),
        bind_to_port: no(),
        ..Listener::default()
    };
    Resource::new(Kind::Listener, name, Version::of(unit), &listener)
}

/// The routes of an Envoy's listener for an app port, as its bootstrap names them: `inbound/recording-7f3a2c.contact:8080`.
#[must_use]
pub fn inbound_routes_name(workload: &WorkloadName, app_port: u16) -> String {
    format!("{}:{app_port}", inbound_name(workload))
}

/// The routes of the listeners that an Envoy has from its bootstrap: one an app port, with the limits that hold there.
#[must_use]
pub fn inbound_routes(unit: &InboundUnit) -> Vec<Resource> {
    let one = |port: &InboundPort| {
        let name = inbound_routes_name(&unit.workload, port.app_port);
        // As the bootstrap calls the cluster of the app.
        let mut configuration = to_app(&format!("inbound-{}", port.app_port));
        configuration.name.clone_from(&name);
        configuration.typed_per_filter_config.extend(rate_limit::buckets(unit.limits.iter()));
        for route in configuration.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
            if unit.authentication.is_some() {
                route.action = Some(Action::DirectResponse(unverified()));
                continue;
            }
            route.typed_per_filter_config.extend(rate_limit::per_route(&unit.limits));
            if let Some(Action::Route(action)) = &mut route.action {
                action.rate_limits = rate_limit::actions(&unit.limits);
            }
        }
        configuration.typed_per_filter_config.extend(authorization::per_route(
            &unit.authorization,
            Some(port.service_port.port),
            Some(unit.identity.trust_domain()),
        ));
        Resource::new(Kind::Route, name, Version::of(&(port, &unit.limits, &unit.authentication, &unit.authorization)), &configuration)
    };
    unit.ports.iter().filter(|port| port.protocol.is_http()).map(one).collect()
}

/// The name of a filter of an Envoy's listener for an app port that takes bytes: `inbound/recording-7f3a2c.contact:5432/deny`.
#[must_use]
pub fn inbound_filter_name(workload: &WorkloadName, app_port: u16, word: &str) -> String {
    format!("{}/{word}", inbound_routes_name(workload, app_port))
}

/// What those filters say that an Envoy has from its bootstrap: for each app port that takes bytes, who may connect.
#[must_use]
pub fn inbound_filters(unit: &InboundUnit) -> Vec<Resource> {
    let of_port = |port: &InboundPort| {
        let said = authorization::of_connections(&unit.authorization, Some(port.service_port.port), Some(unit.identity.trust_domain()));
        let version = Version::of(&(port, &unit.authorization));
        said.map(|(word, config)| {
            let name = inbound_filter_name(&unit.workload, port.app_port, word);
            let extension = TypedExtensionConfig { name: name.clone(), typed_config: Some(config) };
            Resource::new(Kind::Extension, name, version, &extension)
        })
    };
    unit.ports.iter().filter(|port| !port.protocol.is_http()).flat_map(of_port).collect()
}

/// What callers get where tokens are asked for: an Envoy has its filters from its bootstrap, and none of them verifies tokens. Letting all
/// pass would be the worse answer.
fn unverified() -> DirectResponseAction {
    let text =
        "lorica: tokens are asked for here, and an Envoy beside an app verifies none: ask for them at a gateway, or run Lorica's proxy\n";
    let body = DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() };
    DirectResponseAction { status: 503, body: Some(body), ..DirectResponseAction::default() }
}

/// The filter chains of one app port: the one for mutual TLS, and the one for plaintext where that is taken.
pub(crate) fn inbound_chains(namespace: &Namespace, account: &Label, port: &InboundPort, told: Option<&Telemetry>) -> Vec<FilterChain> {
    let node = NodeMetadata::client(namespace.clone(), account.clone());
    let facts =
        InboundPortFacts { service_port: port.service_port.clone(), app_port: port.app_port, protocol: port.protocol, mtls: port.mtls };
    let app = format!("app/{}", port.app_port);
    let logged =
        told.and_then(|told| told.access_log.as_ref()).map(|log| access_log::policy(log, Dialect::Lorica, None)).unwrap_or_default();
    let filters = if port.protocol.is_http() {
        let manager = HttpConnectionManager { access_log: logged, tracing: telemetry::tracing(told), ..connection_manager(&app) };
        vec![listener::network_filter("envoy.filters.network.http_connection_manager", pack(&manager))]
    } else {
        vec![listener::tcp_filter(&app, logged, Vec::new())]
    };
    let matches = |transport: &str, server_names| FilterChainMatch {
        destination_port: number(port.app_port.into()),
        server_names,
        transport_protocol: transport.to_owned(),
        ..FilterChainMatch::default()
    };
    let mut chains = vec![FilterChain {
        name: port.service_port.to_string(),
        filter_chain_match: Some(matches("tls", vec![port.service_port.sni()])),
        filters: filters.clone(),
        transport_socket: Some(tls::downstream(port.protocol, Context::of(&node))),
        metadata: Some(metadata(&facts)),
        ..FilterChain::default()
    }];
    if port.mtls == MtlsMode::Permissive {
        chains.push(FilterChain {
            name: format!("{} plaintext", port.service_port),
            filter_chain_match: Some(matches("raw_buffer", Vec::new())),
            filters,
            ..FilterChain::default()
        });
    }
    chains
}

/// Everything goes to the app; how long it takes is the caller's affair.
fn to_app(app: &str) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(app.to_owned())),
        timeout: Some(duration(std::time::Duration::ZERO)),
        ..RouteAction::default()
    };
    let route = Route {
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() }),
        action: Some(Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost { name: app.to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..VirtualHost::default() };
    RouteConfiguration { name: app.to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

fn connection_manager(app: &str) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: app.to_owned(),
        http_filters: vec![listener::router()],
        route_specifier: Some(RouteSpecifier::RouteConfig(to_app(app))),
        ..HttpConnectionManager::default()
    }
}
