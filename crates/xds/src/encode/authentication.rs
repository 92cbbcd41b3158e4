//! Tokens in Envoy's words: one filter of the connection manager that knows every policy of its rules, and what each route asks of it.
//!
//! Rules that look at claims in header fields are chosen again once the filter has set these. What callers send under their names is removed
//! before the first choice, or it would decide on the way. Where rules have policies of their own, no rule is chosen again: it could be one
//! whose policy was not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation as mutation};
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtCacheConfig, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementOrList, PerRouteConfig,
    RequirementRule, jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType, per_route_config::RequirementSpecifier,
    requirement_rule::RequirementType,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use envoy_types::pb::google::protobuf::{Any, Empty};
use lorica_model::snapshot::{Authentication, Hosts, HttpRule, TokenPlace, TokenProvider};

use crate::resource::pack;

/// The name of Envoy's filter for tokens.
pub(super) const FILTER: &str = "envoy.filters.http.jwt_authn";
/// Under which it leaves claims in the request's metadata.
pub(super) const CLAIMS: &str = "claims";
/// How many tokens each worker of Envoy remembers for a provider.
const REMEMBERED: u32 = 1000;
/// The most bytes of a token that it remembers.
const MOST_BYTES: u32 = 8 * 1024;

/// The policies of a listener's rules, each once.
pub(super) fn policies<'h>(hosts: impl IntoIterator<Item = &'h Hosts>) -> Vec<Arc<Authentication>> {
    let rules = hosts.into_iter().flat_map(Hosts::all).flat_map(|host| host.rules.iter());
    let mut found: Vec<Arc<Authentication>> = Vec::new();
    for policy in rules.filter_map(|rule| rule.filters.authentication.as_ref()) {
        if !found.contains(policy) {
            found.push(policy.clone());
        }
    }
    found
}

/// The filter of a connection manager whose rules have these policies, `everywhere` if all of them have one; none where no rule asks for tokens.
pub(super) fn filter(policies: &[Arc<Authentication>], everywhere: bool) -> Option<HttpFilter> {
    let (first, others) = policies.split_first()?;
    let providers =
        policies.iter().flat_map(|policy| policy.providers.iter().map(|one| (key(policy, one), provider(one, others.is_empty()))));
    let whole = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() };
    let rule = RequirementRule { r#match: Some(whole), requirement_type: Some(RequirementType::Requires(requirement(first))) };
    let config = JwtAuthentication {
        providers: providers.collect(),
        // A request that no rule takes yet may be taken by one that looks at its claims.
        rules: if everywhere && others.is_empty() { vec![rule] } else { Vec::new() },
        requirement_map: policies.iter().map(|policy| (name(policy), requirement(policy))).collect(),
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    };
    let config_type = Some(ConfigType::TypedConfig(pack(&config)));
    Some(HttpFilter { name: FILTER.to_owned(), config_type, ..HttpFilter::default() })
}

/// What removes the header fields that tell of claims before any rule is chosen.
pub(super) fn early(policies: &[Arc<Authentication>]) -> Option<TypedExtensionConfig> {
    let names: BTreeSet<&str> = policies.iter().flat_map(|policy| policy.claim_headers()).collect();
    // Apps that see fields as variables of their environment know no difference between `x-user` and `x_user`.
    let both = names.into_iter().flat_map(|name| BTreeSet::from([name.to_owned(), name.replace('-', "_")]));
    let remove = |name| Mutation { action: Some(mutation::Action::Remove(name)) };
    let config = HeaderMutation { mutations: both.map(remove).collect() };
    (!config.mutations.is_empty()).then(|| TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
        typed_config: Some(pack(&config)),
    })
}

/// What a route asks of the filter, by the filter's name.
pub(super) fn per_route(rule: &HttpRule) -> Option<(String, Any)> {
    let specifier = RequirementSpecifier::RequirementName(name(rule.filters.authentication.as_ref()?));
    Some((FILTER.to_owned(), pack(&PerRouteConfig { requirement_specifier: Some(specifier) })))
}

/// Whether every rule asks for tokens.
pub(super) fn everywhere(hosts: &Hosts) -> bool {
    hosts.all().iter().flat_map(|host| host.rules.iter()).all(|rule| rule.filters.authentication.is_some())
}

fn name(policy: &Authentication) -> String {
    format!("{}.{}", policy.origin.name, policy.origin.namespace)
}

fn key(policy: &Authentication, provider: &TokenProvider) -> String {
    format!("{}/{}", name(policy), provider.name)
}

fn requirement(policy: &Authentication) -> JwtRequirement {
    let of = |requires_type| JwtRequirement { requires_type: Some(requires_type) };
    let mut any: Vec<JwtRequirement> =
        policy.providers.iter().map(|provider| of(RequiresType::ProviderName(key(policy, provider)))).collect();
    if policy.optional {
        any.push(of(RequiresType::AllowMissing(Empty {})));
    }
    match any.pop() {
        Some(only) if any.is_empty() => only,
        last => of(RequiresType::RequiresAny(JwtRequirementOrList { requirements: any.into_iter().chain(last).collect() })),
    }
}

fn provider(provider: &TokenProvider, chosen_again: bool) -> JwtProvider {
    let mut made = JwtProvider {
        issuer: provider.issuer.clone(),
        audiences: provider.audiences.clone(),
        require_expiration: true,
        forward: provider.forward,
        payload_in_metadata: CLAIMS.to_owned(),
        // 0 would be Envoy's own 60 s.
        clock_skew_seconds: u32::try_from(provider.leeway.as_secs()).unwrap_or(u32::MAX).max(1),
        jwt_cache_config: Some(JwtCacheConfig { jwt_cache_size: REMEMBERED, jwt_max_token_size: MOST_BYTES }),
        clear_route_cache: chosen_again && !provider.claim_headers.is_empty(),
        ..JwtProvider::default()
    };
    for place in &provider.places {
        match place {
            TokenPlace::Header { name, prefix } => {
                made.from_headers.push(JwtHeader { name: name.clone(), value_prefix: prefix.clone() });
            }
            TokenPlace::Cookie(name) => made.from_cookies.push(name.clone()),
            TokenPlace::Query(name) => made.from_params.push(name.clone()),
        }
    }
    made.claim_to_headers = provider
        .claim_headers
        .iter()
        .map(|header| JwtClaimToHeader {
            header_name: header.name.clone(),
            claim_name: header.claim.clone(),
            ..JwtClaimToHeader::default()
        })
        .collect();
    // Without keys no token is taken.
    let keys = provider.keys.as_deref().unwrap_or("{\"keys\":[]}").to_owned();
    let source = DataSource { specifier: Some(Specifier::InlineString(keys)), ..DataSource::default() };
    made.jwks_source_specifier = Some(JwksSourceSpecifier::LocalJwks(source));
    made
}

/// What a listener's filter depends on, for its version: ordered, as a map of messages is not.
pub(super) fn version(policies: &[Arc<Authentication>]) -> BTreeMap<String, Arc<Authentication>> {
    policies.iter().map(|policy| (name(policy), policy.clone())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::encode::inbound_routes;
    use crate::samples;
    use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, route::Action};
    use lorica_model::snapshot::{Origin, TokenAlgorithm};
    use prost::Message as _;

    fn policy(name: &str) -> Arc<Authentication> {
        let origin =
            Origin { kind: String::new(), namespace: "shop".to_owned(), name: name.to_owned(), generation: 1, rule: 0, matched: 0 };
        let provider = TokenProvider {
            name: "login".to_owned(),
            issuer: "i".to_owned(),
            audiences: Vec::new(),
            keys: None,
            places: vec![TokenPlace::Query("token".to_owned())],
            algorithms: vec![TokenAlgorithm::Es256],
            leeway: std::time::Duration::ZERO,
            forward: false,
            claim_headers: Vec::new(),
        };
        Arc::new(Authentication { origin: origin.into(), providers: vec![provider], optional: true })
    }

    #[test]
    fn an_envoy_beside_an_app_lets_nobody_in_where_tokens_are_asked_for() {
        for (authentication, closed) in [(None, false), (Some(policy("a")), true)] {
            let routes = inbound_routes(&lorica_model::snapshot::InboundUnit { authentication, ..samples::inbound() });
            assert_eq!(routes.len(), 1, "one port speaks HTTP");
            let configuration = RouteConfiguration::decode(&*routes[0].body.value).unwrap();
            let actions = configuration.virtual_hosts.iter().flat_map(|host| &host.routes).map(|route| route.action.as_ref().unwrap());
            assert!(actions.into_iter().all(|action| matches!(action, Action::DirectResponse(answer) if answer.status == 503) == closed));
        }
    }

    #[test]
    fn what_is_optional_may_be_missing_and_no_more() {
        let RequiresType::RequiresAny(list) = requirement(&policy("a")).requires_type.unwrap() else { panic!() };
        let last = list.requirements.last().and_then(|last| last.requires_type.as_ref());
        assert!(matches!(last, Some(RequiresType::AllowMissing(_))), "{last:?}");
        let made = provider(&policy("a").providers[0], true);
        assert!(made.require_expiration && !made.forward && made.clock_skew_seconds == 1);
    }
}
