//! Envoy's access log: where its node says, in the form of Lorica's own lines as far as Envoy knows what they say.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ExtensionFilter, ResponseFlagFilter, access_log, access_log_filter::FilterSpecifier, extension_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, GrpcService, SubstitutionFormatString, TypedExtensionConfig,
    data_source::Specifier,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use envoy_types::pb::envoy::extensions::formatter::cel::v3::Cel;
use envoy_types::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
use lorica_model::cel::Expression;
use lorica_model::log_format::{LogFormat, LogValue, Operator, Part};
use lorica_model::snapshot::{AccessLog as PolicyLog, AccessLogFormat, LogTarget, Telemetry};
use serde_json::{Map, Value};

use super::{CONTROL_CLUSTER, Context, cel};
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
    target.map(|target| to(target, own_format())).into_iter().collect()
}

/// The log that a policy asks for, or else the one that the node does.
pub(super) fn told(telemetry: Option<&Telemetry>, dialect: Dialect, context: Context<'_>) -> Vec<AccessLog> {
    match telemetry.and_then(|telemetry| telemetry.access_log.as_ref()) {
        Some(log) => policy(log, dialect, context.node.access_log.as_deref()),
        None => access_log(dialect, context),
    }
}

/// The log that a policy asks for. `own`: where the node writes its own.
pub(crate) fn policy(log: &PolicyLog, dialect: Dialect, own: Option<&str>) -> Vec<AccessLog> {
    let filter = log.when.as_ref().map(|when| AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ExtensionFilter(ExtensionFilter {
            name: "envoy.access_loggers.extension_filters.cel".to_owned(),
            config_type: Some(extension_filter::ConfigType::TypedConfig(pack(&ExpressionFilter {
                expression: cel::text(when),
                cel_config: cel::allowed(when),
            }))),
        })),
    });
    let one = |target: &LogTarget| {
        let made = match target {
            LogTarget::Stdout => to(own.filter(|_| dialect == Dialect::Envoy).unwrap_or("stdout"), substituted(&log.format)),
            LogTarget::Mesh => by_otlp(CONTROL_CLUSTER, &log.format),
            // An Envoy knows no collectors.
            LogTarget::Otlp if dialect == Dialect::Envoy => return None,
            LogTarget::Otlp => by_otlp("otlp", &log.format),
        };
        Some(AccessLog { filter: filter.clone(), ..made })
    };
    log.to.iter().filter_map(one).collect()
}

/// The same for connections alone that no filter chain takes.
pub(super) fn access_log_of_refused(dialect: Dialect, context: Context<'_>) -> Vec<AccessLog> {
    let unrouted = ResponseFlagFilter { flags: vec!["NR".to_owned()] };
    let filter = AccessLogFilter { filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(unrouted)) };
    let filtered = |log: AccessLog| AccessLog { filter: Some(filter.clone()), ..log };
    access_log(dialect, context).into_iter().map(filtered).collect()
}

fn to(target: &str, format: SubstitutionFormatString) -> AccessLog {
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

fn by_otlp(cluster: &str, format: &AccessLogFormat) -> AccessLog {
    let (body, formatters) = match format {
        AccessLogFormat::Json => {
            let pair = |(key, command): &(&str, &str)| pair(key, text((*command).to_owned()));
            (any_value::Value::KvlistValue(KeyValueList { values: ACCESS_LOG.iter().map(pair).collect() }), Vec::new())
        }
        AccessLogFormat::Text(format) => {
            // Nothing separates records but themselves.
            let written = format_text(format);
            (any_value::Value::StringValue(written.strip_suffix('\n').unwrap_or(&written).to_owned()), formatters([format]))
        }
        AccessLogFormat::Fields(fields) => (
            any_value::Value::KvlistValue(KeyValueList { values: fields.iter().map(|(key, value)| pair(key, any(value))).collect() }),
            formatters(fields.values().flat_map(formats)),
        ),
    };
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: cluster.to_owned(), ..EnvoyGrpc::default() })),
        ..GrpcService::default()
    };
    let config = OpenTelemetryAccessLogConfig {
        grpc_service: Some(service),
        body: Some(AnyValue { value: Some(body) }),
        stat_prefix: "lorica.".to_owned(),
        log_name: "lorica".to_owned(),
        formatters,
        ..OpenTelemetryAccessLogConfig::default()
    };
    AccessLog {
        name: "envoy.access_loggers.open_telemetry".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(&config))),
        ..AccessLog::default()
    }
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn text(text: String) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(text)) }
}

fn any(value: &LogValue) -> AnyValue {
    match value {
        LogValue::Format(format) => text(format_text(format)),
        LogValue::Fields(fields) => {
            let values = fields.iter().map(|(key, value)| pair(key, any(value))).collect();
            AnyValue { value: Some(any_value::Value::KvlistValue(KeyValueList { values })) }
        }
        LogValue::List(list) => {
            AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values: list.iter().map(any).collect() })) }
        }
    }
}

/// Lorica's own keys. What is not known is left out, as Lorica's proxy does.
fn own_format() -> SubstitutionFormatString {
    let keys: Map<String, Value> = ACCESS_LOG.iter().map(|(key, command)| ((*key).to_owned(), (*command).into())).collect();
    SubstitutionFormatString {
        omit_empty_values: true,
        format: Some(Format::JsonFormat(to_struct(&keys))),
        ..SubstitutionFormatString::default()
    }
}

fn substituted(format: &AccessLogFormat) -> SubstitutionFormatString {
    match format {
        AccessLogFormat::Json => own_format(),
        AccessLogFormat::Text(format) => {
            let mut line = format_text(format);
            if !line.ends_with('\n') {
                line.push('\n');
            }
            let source = DataSource { specifier: Some(Specifier::InlineString(line)), ..DataSource::default() };
            SubstitutionFormatString {
                format: Some(Format::TextFormatSource(source)),
                formatters: formatters([format]),
                ..SubstitutionFormatString::default()
            }
        }
        AccessLogFormat::Fields(fields) => {
            let keys: Map<String, Value> = fields.iter().map(|(key, value)| (key.clone(), json(value))).collect();
            SubstitutionFormatString {
                format: Some(Format::JsonFormat(to_struct(&keys))),
                formatters: formatters(fields.values().flat_map(formats)),
                ..SubstitutionFormatString::default()
            }
        }
    }
}

fn json(value: &LogValue) -> Value {
    match value {
        LogValue::Format(format) => format_text(format).into(),
        LogValue::Fields(fields) => Value::Object(fields.iter().map(|(key, value)| (key.clone(), json(value))).collect()),
        LogValue::List(list) => list.iter().map(json).collect(),
    }
}

/// Every format within a value.
fn formats(value: &LogValue) -> Vec<&LogFormat> {
    match value {
        LogValue::Format(format) => vec![format],
        LogValue::Fields(fields) => fields.values().flat_map(formats).collect(),
        LogValue::List(list) => list.iter().flat_map(formats).collect(),
    }
}

fn operators(format: &LogFormat) -> impl Iterator<Item = &Operator> {
    format.parts().iter().filter_map(|part| if let Part::Value { operator, .. } = part { Some(operator) } else { None })
}

fn expressions(format: &LogFormat) -> impl Iterator<Item = &Expression> {
    operators(format).filter_map(|operator| if let Operator::Cel(expression) = operator { Some(expression) } else { None })
}

/// A format in Envoy's words: those of expressions that are ours alone are replaced.
fn format_text(format: &LogFormat) -> String {
    expressions(format).fold(format.as_str().to_owned(), |text, expression| {
        text.replace(&format!("%CEL({})", expression.as_str()), &format!("%CEL({})", cel::text(expression)))
    })
}

/// What of Envoy must be loaded for formats.
fn formatters<'f>(formats: impl IntoIterator<Item = &'f LogFormat>) -> Vec<TypedExtensionConfig> {
    let (mut by_cel, mut allowed, mut without_query) = (false, None, false);
    for format in formats {
        for expression in expressions(format) {
            by_cel = true;
            allowed = cel::allowed(expression).or(allowed);
        }
        without_query |= operators(format).any(|operator| matches!(operator, Operator::RequestWithoutQuery(_)));
    }
    let loaded = |name: &str, config| TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) };
    let by_cel = by_cel.then(|| loaded("envoy.formatter.cel", pack(&Cel { cel_config: allowed })));
    let without_query = without_query.then(|| loaded("envoy.formatter.req_without_query", pack(&ReqWithoutQuery {})));
    by_cel.into_iter().chain(without_query).collect()
}
