//! What rules change, in Envoy's words. Where these have no exact inverse, the rule's own words stand in the route's metadata, and a Lorica
//! proxy holds both against each other.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    FilterConfig, RedirectAction,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    route_action::RequestMirrorPolicy,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use lorica_model::snapshot::{Cors, Fault, Filters, HeaderEdits, Mirror, OriginMatch, PathEdit, Redirect, Share};

use super::route::{cluster_name, escaped, exact, regex};
use super::{fault, yes};
use crate::resource::pack;

/// The name of Envoy's filter for CORS.
pub(crate) const CORS: &str = "envoy.filters.http.cors";
/// The name of Envoy's filter for gRPC-Web.
pub(crate) const GRPC_WEB: &str = "envoy.filters.http.grpc_web";
/// Fields set and added, in this order, and fields removed. A single `%` would begin one of Envoy's commands.
pub(super) fn header_edits(edits: &HeaderEdits) -> (Vec<HeaderValueOption>, Vec<String>) {
    let option = |action: HeaderAppendAction| {
        move |(name, value): &(String, String)| HeaderValueOption {
            header: Some(HeaderValue { key: name.clone(), value: value.replace('%', "%%"), ..HeaderValue::default() }),
            append_action: action.into(),
            keep_empty_value: true,
            ..HeaderValueOption::default()
        }
    };
    let set = edits.set.iter().map(option(HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits.add.iter().map(option(HeaderAppendAction::AppendIfExistsOrAdd));
    (set.chain(add).collect(), edits.remove.clone())
}

pub(super) fn fraction(share: Share) -> RuntimeFractionalPercent {
    let percent = FractionalPercent { numerator: share.0, denominator: DenominatorType::Million.into() };
    RuntimeFractionalPercent { default_value: Some(percent), ..RuntimeFractionalPercent::default() }
}

/// A path's replacement: of a prefix, or by an expression.
pub(crate) fn path_rewrite(edit: &PathEdit) -> (String, Option<RegexMatchAndSubstitute>) {
    let by = |pattern: &str, substitution: &str| {
        let substitution = substitution.replace('\\', "\\\\");
        (String::new(), Some(RegexMatchAndSubstitute { pattern: Some(regex(pattern)), substitution }))
    };
    match edit {
        PathEdit::Full(path) => by("^.*$", path),
        PathEdit::Prefix { matched, replacement } => match (matched.as_str(), replacement.trim_end_matches('/')) {
            // Envoy replaces the prefix `/` itself, its slash included.
            ("", first) => (format!("{first}/"), None),
            (matched, "") => by(&format!("^{}/?", escaped(matched)), "/"),
            (_, first) => (first.to_owned(), None),
        },
    }
}

pub(super) fn mirrors(mirrors: &[Mirror]) -> Vec<RequestMirrorPolicy> {
    let one = |mirror: &Mirror| RequestMirrorPolicy {
        cluster: cluster_name(&mirror.backend),
        runtime_fraction: Some(fraction(mirror.share)),
        // The copy is the request: its host included.
        disable_shadow_host_suffix_append: true,
        ..RequestMirrorPolicy::default()
    };
    mirrors.iter().map(one).collect()
}

/// What a rule says to filters of Envoy's by their names: to one that is off what switches it on, to another what it is to do.
pub(crate) fn per_filter(filters: &Filters, faults: &[Fault]) -> HashMap<String, Any> {
    let cors = filters.cors.as_ref().map(|policy| (CORS.to_owned(), pack(&cors(policy))));
    let on = || pack(&FilterConfig { config: Some(Any::default()), ..FilterConfig::default() });
    let grpc_web = filters.grpc_web.then(|| (GRPC_WEB.to_owned(), on()));
    cors.into_iter().chain(grpc_web).chain(fault::per_filter(faults, None)).collect()
}

pub(crate) fn redirect(rule: &Redirect) -> RedirectAction {
    let path = rule.path.as_ref().map(|edit| match (edit, path_rewrite(edit)) {
        (PathEdit::Full(path), _) => PathRewriteSpecifier::PathRedirect(path.clone()),
        (PathEdit::Prefix { .. }, (_, Some(regex))) => PathRewriteSpecifier::RegexRewrite(regex),
        (PathEdit::Prefix { .. }, (prefix, None)) => PathRewriteSpecifier::PrefixRewrite(prefix),
    });
    let code = match rule.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    RedirectAction {
        host_redirect: rule.host.clone().unwrap_or_default(),
        port_redirect: rule.port.unwrap_or_default().into(),
        response_code: code.into(),
        scheme_rewrite_specifier: rule.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

fn cors(cors: &Cors) -> CorsPolicy {
    let origin = |origin: &OriginMatch| match origin {
        OriginMatch::Any => StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(".*"))), ..StringMatcher::default() },
        OriginMatch::Exact(text) => StringMatcher { ignore_case: true, ..exact(text) },
        OriginMatch::Wildcard { before, after } => {
            let pattern = regex(&format!("(?i){}[^/:]+{}", escaped(before), escaped(after)));
            StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(pattern)), ..StringMatcher::default() }
        }
    };
    CorsPolicy {
        allow_origin_string_match: cors.origins.iter().map(origin).collect(),
        allow_methods: cors.methods.join(", "),
        allow_headers: cors.headers.join(", "),
        expose_headers: cors.expose.join(", "),
        max_age: cors.max_age.to_string(),
        // Who is not allowed is told so, as nobody else would know what the backend says.
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        allow_credentials: if cors.credentials { yes() } else { Some(BoolValue { value: false }) },
        ..CorsPolicy::default()
    }
}
