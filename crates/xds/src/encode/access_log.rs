//! Envoy's access log: where its node says, in the form of Lorica's own lines as far as Envoy knows what they say.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string::Format};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use serde_json::{Map, Value};

use super::Context;
use crate::node::Dialect;
use crate::resource::pack;
use crate::value::to_struct;

/// The keys of a line, and by which command Envoy fills each. What it does not know is left out, as Lorica's proxy does.
pub const ACCESS_LOG: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(X-ENVOY-ORIGINAL-HOST?:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
];

/// The log of what a listener or a filter handles; none unless Envoy's node asks for one.
pub(super) fn access_log(dialect: Dialect, context: Context<'_>) -> Vec<AccessLog> {
    let target = context.node.access_log.as_deref().filter(|_| dialect == Dialect::Envoy);
    target.map(to).into_iter().collect()
}

/// The same for connections alone that no filter chain takes.
pub(super) fn access_log_of_refused(dialect: Dialect, context: Context<'_>) -> Vec<AccessLog> {
    let unrouted = ResponseFlagFilter { flags: vec!["NR".to_owned()] };
    let filter = AccessLogFilter { filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(unrouted)) };
    let filtered = |log: AccessLog| AccessLog { filter: Some(filter.clone()), ..log };
    access_log(dialect, context).into_iter().map(filtered).collect()
}

fn to(target: &str) -> AccessLog {
    let keys: Map<String, Value> = ACCESS_LOG.iter().map(|(key, command)| ((*key).to_owned(), (*command).into())).collect();
    let format = SubstitutionFormatString {
        omit_empty_values: true,
        format: Some(Format::JsonFormat(to_struct(&keys))),
        ..SubstitutionFormatString::default()
    };
    let (name, config) = match target {
        "stdout" => {
            let format = stdout_access_log::AccessLogFormat::LogFormat(format);
            ("envoy.access_loggers.stdout", pack(&StdoutAccessLog { access_log_format: Some(format) }))
        }
        "stderr" => {
            let format = stderr_access_log::AccessLogFormat::LogFormat(format);
            ("envoy.access_loggers.stderr", pack(&StderrAccessLog { access_log_format: Some(format) }))
        }
        path => {
            let format = file_access_log::AccessLogFormat::LogFormat(format);
            ("envoy.access_loggers.file", pack(&FileAccessLog { path: path.to_owned(), access_log_format: Some(format) }))
        }
    };
    AccessLog { name: name.to_owned(), config_type: Some(access_log::ConfigType::TypedConfig(config)), ..AccessLog::default() }
}
