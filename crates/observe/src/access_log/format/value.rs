//! What an operator gives of a record.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use jiff::Timestamp;
use lorica_model::head::Fields;
use lorica_model::log_format::{AddressOf, AddressPart, Field, GrpcForm, Operator, TimeFormat};

use super::super::attributes::with_attributes;
use super::super::clock::Clock;
use super::super::line::{details, failed_to_connect, known, milliseconds, was_closed};
use crate::record::{Http, Protocol, Record, Reporter, Security};
use crate::trace;

/// A value.
pub(super) enum Value<'r> {
    /// It is not set.
    None,
    Number(u64),
    Text(Cow<'r, str>),
    /// What a field holds, which may be no text.
    Bytes(Cow<'r, [u8]>),
}

impl<'r> Value<'r> {
    fn text(text: Option<impl Into<Cow<'r, str>>>) -> Self {
        text.map_or(Self::None, |text| Self::Text(text.into()))
    }

    fn number(number: Option<impl Into<u64>>) -> Self {
        number.map_or(Self::None, |number| Self::Number(number.into()))
    }
}

pub(super) fn of<'r>(operator: &Operator, record: &'r Record<'_>, clock: &mut Clock) -> Value<'r> {
    let http = record.http.as_ref();
    match operator {
        Operator::StartTime(format) => time(format, record.start, clock),
        Operator::EmitTime(format) => time(format, SystemTime::now(), clock),
        Operator::Request(field) => request(field, http),
        Operator::RequestWithoutQuery(field) => match request(field, http) {
            Value::Bytes(Cow::Borrowed(bytes)) => Value::Bytes(Cow::Borrowed(without_query(bytes))),
            Value::Text(Cow::Borrowed(text)) => Value::Text(Cow::Borrowed(text.split('?').next().unwrap_or_default())),
            other => other,
        },
        Operator::Response(field) => response(field, http),
        Operator::Trailer(field) => {
            let fields = http.and_then(|http| http.trailers.as_deref());
            fields.and_then(|fields| first(field, |name| fields.get(name))).map_or(Value::None, |found| Value::Bytes(found.into()))
        }
        Operator::Protocol => Value::text(http.map(|http| http.version).and_then(known)),
        Operator::ResponseCode => Value::Number(http.map_or(0, |http| http.status.into())),
        Operator::ResponseCodeDetails { .. } => Value::text(details(record)),
        // `-` in objects as well: Envoy says it so.
        Operator::ResponseFlags => Value::Text(record.flag().into()),
        Operator::ResponseFlagsLong => Value::Text(long_flags(record.flag()).into()),
        Operator::ConnectionTerminationDetails => Value::text(known(&record.detail).filter(|_| was_closed(record)).map(in_one_word)),
        Operator::UpstreamTransportFailureReason => {
            Value::text(known(&record.detail).filter(|_| failed_to_connect(record)).map(in_one_word))
        }
        Operator::BytesReceived => Value::Number(record.received),
        Operator::BytesSent => Value::Number(record.sent),
        Operator::Duration => Value::Number(milliseconds(record.duration)),
        Operator::ResponseDuration => Value::number(http.and_then(|http| http.answered_after).map(milliseconds)),
        Operator::ResponseTxDuration => {
            Value::number(http.and_then(|http| http.answered_after).map(|after| milliseconds(record.duration.saturating_sub(after))))
        }
        Operator::GrpcStatus(form) => {
            let status = http.and_then(|http| http.grpc_status).filter(|_| record.protocol == Protocol::Grpc);
            status.map_or(Value::None, |status| grpc_status(*form, status))
        }
        Operator::Address(of, part) => address(*of, *part, record),
        Operator::UpstreamCluster => Value::text(known(&record.called.fqdn)),
        Operator::Attempts => Value::number(http.map(|http| http.attempts)),
        Operator::UpstreamPeerUriSan => Value::text(upstream_identity(record)),
        Operator::UpstreamLocalUriSan => Value::text(upstream_identity(record).and(known(&record.source.principal))),
        Operator::DownstreamPeerUriSan => Value::text(downstream_identity(record)),
        Operator::DownstreamLocalUriSan => Value::text(downstream_identity(record).and(known(&record.destination.principal))),
        Operator::RequestedServerName => Value::text(record.server_name.and_then(known)),
        Operator::RouteName => Value::text(record.route.as_ref().map(ToString::to_string)),
        Operator::TraceId => {
            let id = http.and_then(|http| http.span).map(|span| trace::hexadecimal_128(span.context.trace_id));
            id.map_or(Value::None, |id| Value::Bytes(id.to_vec().into()))
        }
        Operator::Cel(expression) => Value::text(with_attributes(record, |attributes| expression.evaluate_text(attributes)).ok()),
        // What is the same in each line was found out before.
        Operator::Hostname | Operator::Environment(_) => Value::None,
    }
}

fn time<'r>(format: &TimeFormat, time: SystemTime, clock: &mut Clock) -> Value<'r> {
    if *format == TimeFormat::Default {
        let Some(written) = clock.written(time) else { return Value::None };
        let mut text = written.seconds().to_vec();
        text.push(b'.');
        text.extend_from_slice(&written.milliseconds);
        text.push(b'Z');
        return Value::Bytes(text.into());
    }
    Value::text(Timestamp::try_from(time).ok().and_then(|time| format.written(time)))
}

/// What the first of a field's names finds.
fn first<T>(field: &Field, find: impl Fn(&str) -> Option<T>) -> Option<T> {
    field.names().find_map(find)
}

/// A field of the request, as it came; its id as it went on.
fn request<'r>(field: &Field, http: Option<&'r Http<'_>>) -> Value<'r> {
    let Some(http) = http else { return Value::None };
    let found = |name: &str| match name {
        ":method" => known(http.method).map(str::as_bytes),
        // Without a query where a token stood in it, and as it was before a rule changed it.
        ":path" => known(http.path).map(str::as_bytes),
        ":authority" | "host" => known(http.authority).map(str::as_bytes),
        "x-request-id" => known(&http.request_id).map(str::as_bytes),
        name => http.head.and_then(|head| head.fields.get(name)),
    };
    first(field, found).map_or(Value::None, |found| Value::Bytes(found.into()))
}

fn response<'r>(field: &Field, http: Option<&'r Http<'_>>) -> Value<'r> {
    let Some(http) = http else { return Value::None };
    let fields: Option<&Fields> = http.response.as_deref();
    let found = |name: &str| match name {
        ":status" => Some(Value::Bytes(Cow::Owned(http.status.to_string().into_bytes()))).filter(|_| http.status != 0),
        "x-envoy-upstream-service-time" => {
            http.upstream_time.map(|time| Value::Bytes(Cow::Owned(milliseconds(time).to_string().into_bytes())))
        }
        name => fields.and_then(|fields| fields.get(name)).map(|found| Value::Bytes(found.into())),
    };
    first(field, found).unwrap_or(Value::None)
}

fn without_query(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// As Envoy has it: a reason stands between spaces, and has none itself.
fn in_one_word(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_whitespace) { Cow::Owned(text.replace(char::is_whitespace, "_")) } else { Cow::Borrowed(text) }
}

fn address<'r>(of: AddressOf, part: AddressPart, record: &Record<'_>) -> Value<'r> {
    let found: Option<SocketAddr> = match of {
        AddressOf::Upstream => record.upstream,
        AddressOf::UpstreamLocal => record.upstream_local,
        AddressOf::DownstreamLocal => record.local,
        AddressOf::DownstreamRemote => record.remote,
    };
    let Some(found) = found else { return Value::None };
    match part {
        AddressPart::Whole => Value::Text(found.to_string().into()),
        AddressPart::Ip => Value::Text(found.ip().to_string().into()),
        AddressPart::Port => Value::Number(found.port().into()),
    }
}

/// The identity that a caller proved to the proxy that tells.
pub(in super::super) fn downstream_identity<'r>(record: &'r Record<'_>) -> Option<&'r str> {
    let proved = record.reporter == Reporter::Destination && record.security == Security::MutualTls;
    known(&record.source.principal).filter(|_| proved)
}

/// The identity that a callee proved to it.
fn upstream_identity<'r>(record: &'r Record<'_>) -> Option<&'r str> {
    known(&record.destination.principal).filter(|_| record.reporter == Reporter::Source)
}

fn grpc_status<'r>(form: GrpcForm, status: u32) -> Value<'r> {
    const NAMES: [(&str, &str); 17] = [
        ("OK", "OK"),
        ("Canceled", "CANCELLED"),
        ("Unknown", "UNKNOWN"),
        ("InvalidArgument", "INVALID_ARGUMENT"),
        ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
        ("NotFound", "NOT_FOUND"),
        ("AlreadyExists", "ALREADY_EXISTS"),
        ("PermissionDenied", "PERMISSION_DENIED"),
        ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
        ("FailedPrecondition", "FAILED_PRECONDITION"),
        ("Aborted", "ABORTED"),
        ("OutOfRange", "OUT_OF_RANGE"),
        ("Unimplemented", "UNIMPLEMENTED"),
        ("Internal", "INTERNAL"),
        ("Unavailable", "UNAVAILABLE"),
        ("DataLoss", "DATA_LOSS"),
        ("Unauthenticated", "UNAUTHENTICATED"),
    ];
    let names = usize::try_from(status).ok().and_then(|status| NAMES.get(status));
    match (form, names) {
        (GrpcForm::Number, _) => Value::Number(status.into()),
        (GrpcForm::Camel, Some((camel, _))) => Value::Text((*camel).into()),
        (GrpcForm::Snake, Some((_, snake))) => Value::Text((*snake).into()),
        (_, None) => Value::Text(status.to_string().into()),
    }
}

/// Flags in whole words, by Envoy's names for them.
fn long_flags(flags: &str) -> String {
    const WORDS: [(&str, &str); 30] = [
        ("LH", "FailedLocalHealthCheck"),
        ("UH", "NoHealthyUpstream"),
        ("UT", "UpstreamRequestTimeout"),
        ("LR", "LocalReset"),
        ("UR", "UpstreamRemoteReset"),
        ("UF", "UpstreamConnectionFailure"),
        ("UC", "UpstreamConnectionTermination"),
        ("UO", "UpstreamOverflow"),
        ("NR", "NoRouteFound"),
        ("DI", "DelayInjected"),
        ("FI", "FaultInjected"),
        ("RL", "RateLimited"),
        ("UAEX", "UnauthorizedExternalService"),
        ("RLSE", "RateLimitServiceError"),
        ("DC", "DownstreamConnectionTermination"),
        ("URX", "UpstreamRetryLimitExceeded"),
        ("SI", "StreamIdleTimeout"),
        ("IH", "InvalidEnvoyRequestHeaders"),
        ("DPE", "DownstreamProtocolError"),
        ("UMSDR", "UpstreamMaxStreamDurationReached"),
        ("RFCF", "ResponseFromCacheFilter"),
        ("NFCF", "NoFilterConfigFound"),
        ("DT", "DurationTimeout"),
        ("UPE", "UpstreamProtocolError"),
        ("NC", "NoClusterFound"),
        ("OM", "OverloadManagerTerminated"),
        ("DF", "DnsResolutionFailed"),
        ("DO", "DropOverLoad"),
        ("DR", "DownstreamRemoteReset"),
        ("UDO", "UnconditionalDropOverload"),
    ];
    let word = |flag: &str| WORDS.iter().find(|(short, _)| *short == flag).map_or_else(|| flag.to_owned(), |(_, word)| (*word).to_owned());
    flags.split(',').map(word).collect::<Vec<_>>().join(",")
}
