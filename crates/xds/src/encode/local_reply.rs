//! What Envoy answers by itself, where it would not say what Lorica's proxy says. Of a rule without a backend HTTP is told 500, and gRPC
//! UNAVAILABLE; Envoy makes a gRPC status of the HTTP status, and of 500 UNKNOWN.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, HeaderFilter, ResponseFlagFilter, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{LocalReplyConfig, ResponseMapper};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use lorica_model::reason::Reason;

use super::number;

pub(super) fn local_reply() -> LocalReplyConfig {
    let mappers = vec![ResponseMapper {
        filter: Some(both(vec![flagged(Reason::NoBackend), grpc()])),
        status_code: number(503),
        ..ResponseMapper::default()
    }];
    LocalReplyConfig { mappers, body_format: None }
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter { filter_specifier: Some(specifier) }
}

fn both(filters: Vec<AccessLogFilter>) -> AccessLogFilter {
    filter(FilterSpecifier::AndFilter(AndFilter { filters }))
}

fn flagged(reason: Reason) -> AccessLogFilter {
    filter(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags: vec![reason.meaning().flag.to_owned()] }))
}

fn grpc() -> AccessLogFilter {
    let pattern = RegexMatcher { regex: "application/grpc([+; ].*)?".to_owned(), ..RegexMatcher::default() };
    let header = HeaderMatcher {
        name: "content-type".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(pattern)),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    };
    filter(FilterSpecifier::HeaderFilter(HeaderFilter { header: Some(header) }))
}
