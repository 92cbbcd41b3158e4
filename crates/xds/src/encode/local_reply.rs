//! What Envoy answers by itself, where it would not say what Lorica's proxy says. Of a rule without a backend HTTP is told 500, and gRPC
//! UNAVAILABLE; Envoy makes a gRPC status of the HTTP status, and of 500 UNKNOWN.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, HeaderFilter, ResponseFlagFilter, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{LocalReplyConfig, ResponseMapper};
use lorica_model::reason::Reason;

use super::number;
use super::route::safe_regex;

pub(super) fn local_reply() -> LocalReplyConfig {
    let without_backend = ResponseMapper {
        filter: Some(both(vec![flagged(Reason::NoBackend), grpc()])),
        status_code: number(503),
        ..ResponseMapper::default()
    };
    // Nobody is to take it for a failure.
    let injected = ResponseMapper {
        filter: Some(flagged(Reason::FaultInjected)),
        headers_to_add: vec![told(Reason::FaultInjected)],
        ..ResponseMapper::default()
    };
    let mappers = vec![without_backend, injected];
    LocalReplyConfig { mappers, body_format: None }
}

fn told(reason: Reason) -> HeaderValueOption {
    let header = HeaderValue { key: "x-lorica-reason".to_owned(), value: reason.meaning().word.to_owned(), ..HeaderValue::default() };
    HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
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
    let header = safe_regex("content-type", "application/grpc([+; ].*)?");
    filter(FilterSpecifier::HeaderFilter(HeaderFilter { header: Some(header) }))
}
