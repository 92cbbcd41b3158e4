//! External authorization in Envoy's words: filters for each policy, which are off but where a route switches them on. One says whether the
//! policy means the request, one takes away what only the service may say, and one asks.
//!
//! Lorica's proxy has a rule's policies from the route's metadata, and no filters.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, HeaderMutationRules, header_mutation::Action};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, GrpcService, HttpUri,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    http_uri::HttpUpstreamType,
};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationResponse, BufferSettings, ExtAuthz, HttpService, ext_authz::Services,
};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation as Mutating, Mutations};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    value_matcher::MatchPattern as ValuePattern,
};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::{AccessPolicy, Authorization, Authorizer, AuthorizerProtocol};

use super::authorization::meant;
use super::route::{exact, regex};
use super::{duration, yes};
use crate::resource::pack;

/// The name of Envoy's filter that asks.
const ASKING: &str = "envoy.filters.http.ext_authz";
/// The name of Envoy's filter that takes away what only the service may say.
const KEEPING: &str = "envoy.filters.http.header_mutation";
/// The name of Envoy's filter that says whether a policy means a request, and under which it says so.
const MEANING: &str = "envoy.filters.http.rbac";
/// What no service may set: as [`lorica_model::snapshot::is_beyond_authorizers`] has it. Envoy itself keeps where a request goes.
const BEYOND: &str = "(?i)(x-lorica-.*|x-forwarded-client-cert|host|connection|content-length|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade)";

/// The policies that have a service asked, by name.
pub(super) fn asked<'a>(authorizations: impl Iterator<Item = &'a Authorization>) -> BTreeMap<String, &'a Authorizer> {
    authorizations.flat_map(|authorization| &authorization.policies).filter_map(enforced).collect()
}

/// A policy in force that has a service asked. A trial is left to Lorica's proxy: Envoy would do what the service says all the same.
fn enforced(policy: &AccessPolicy) -> Option<(String, &Authorizer)> {
    policy.authorizer.as_deref().filter(|_| !policy.shadow).map(|authorizer| (policy.name(), authorizer))
}

/// The filters of a connection manager whose routes have these policies: all that take something away before all that ask.
pub(super) fn filters<'a>(authorizations: impl Iterator<Item = &'a Authorization>) -> Vec<HttpFilter> {
    let asked = asked(authorizations);
    let keeping = asked.iter().filter(|(_, authorizer)| authorizer.kept_from_callers().next().is_some());
    let keeping = keeping.map(|(policy, authorizer)| off(format!("{KEEPING}/{policy}"), pack(&self::keeping(authorizer))));
    let meaning = asked.keys().map(|policy| {
        let none = Rbac { shadow_rules_stat_prefix: prefix(policy), ..Rbac::default() };
        off(format!("{MEANING}/{policy}"), pack(&none))
    });
    let asking = asked.iter().map(|(policy, authorizer)| off(format!("{ASKING}/{policy}"), pack(&self::asking(policy, authorizer))));
    meaning.chain(keeping).chain(asking).collect()
}

/// What a route says to these filters.
pub(super) fn per_route(authorization: &Authorization) -> impl Iterator<Item = (String, Any)> {
    let on = || pack(&FilterConfig { config: Some(Any::default()), ..FilterConfig::default() });
    let policies = authorization.policies.iter().filter_map(|policy| enforced(policy).map(|(name, authorizer)| (policy, name, authorizer)));
    policies.flat_map(move |(written, policy, authorizer)| {
        let rbac = Rbac { shadow_rules: Some(meant(written)), shadow_rules_stat_prefix: prefix(&policy), ..Rbac::default() };
        let meaning = (format!("{MEANING}/{policy}"), pack(&RbacPerRoute { rbac: Some(rbac) }));
        let keeping = authorizer.kept_from_callers().next().map(|_| (format!("{KEEPING}/{policy}"), on()));
        std::iter::once(meaning).chain(keeping).chain(std::iter::once((format!("{ASKING}/{policy}"), on())))
    })
}

fn off(name: String, config: Any) -> HttpFilter {
    HttpFilter { name, config_type: Some(ConfigType::TypedConfig(config)), disabled: true, ..HttpFilter::default() }
}

fn keeping(authorizer: &Authorizer) -> Mutating {
    let remove = |name: &str| HeaderMutation { action: Some(Action::Remove(name.to_owned())) };
    let request_mutations = authorizer.kept_from_callers().map(remove).collect();
    Mutating { mutations: Some(Mutations { request_mutations, ..Mutations::default() }), ..Mutating::default() }
}

fn prefix(policy: &str) -> String {
    format!("{policy}_")
}

/// That the filter before it says that the policy means the request.
fn is_meant(policy: &str) -> MetadataMatcher {
    let key = format!("{}shadow_engine_result", prefix(policy));
    MetadataMatcher {
        filter: MEANING.to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(key)) }],
        value: Some(ValueMatcher { match_pattern: Some(ValuePattern::StringMatch(exact("allowed"))) }),
        ..MetadataMatcher::default()
    }
}

fn asking(policy: &str, authorizer: &Authorizer) -> ExtAuthz {
    let Authorizer { port, protocol, timeout, fail_open, shown, sets, body } = authorizer;
    let cluster = port.to_string();
    let services = match protocol {
        AuthorizerProtocol::Grpc => Services::GrpcService(GrpcService {
            timeout: Some(duration(*timeout)),
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: cluster, ..EnvoyGrpc::default() })),
            ..GrpcService::default()
        }),
        AuthorizerProtocol::Http { path_prefix, told_on_allow, told_on_deny } => Services::HttpService(HttpService {
            server_uri: Some(HttpUri {
                uri: format!("http://{cluster}"),
                timeout: Some(duration(*timeout)),
                http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
            }),
            path_prefix: path_prefix.clone(),
            authorization_response: Some(AuthorizationResponse {
                allowed_upstream_headers: names(sets),
                allowed_client_headers: told_on_deny.as_ref().map(|told| listed(told)),
                allowed_client_headers_on_success: names(told_on_allow),
                ..AuthorizationResponse::default()
            }),
            ..HttpService::default()
        }),
    };
    let rules = HeaderMutationRules { disallow_expression: Some(regex(BEYOND)), ..HeaderMutationRules::default() };
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: *fail_open,
        filter_enabled_metadata: Some(is_meant(policy)),
        with_request_body: body.map(|body| BufferSettings {
            max_request_bytes: body.most,
            allow_partial_message: body.partial,
            pack_as_bytes: body.bytes,
        }),
        allowed_headers: names(shown),
        include_tls_session: true,
        validate_mutations: true,
        decoder_header_mutation_rules: Some(HeaderMutationRules { disallow_is_error: None, allow_envoy: yes(), ..rules }),
        services: Some(services),
        ..ExtAuthz::default()
    }
}

fn names(names: &[String]) -> Option<ListStringMatcher> {
    (!names.is_empty()).then(|| listed(names))
}

fn listed(names: &[String]) -> ListStringMatcher {
    ListStringMatcher { patterns: names.iter().map(|name| StringMatcher { ignore_case: true, ..exact(name) }).collect() }
}
