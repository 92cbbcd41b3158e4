//! OTLP over HTTP: `POST /v1/traces` and `/v1/logs`, in protobuf or JSON, and `/v1/metrics` in protobuf, packed by gzip or not. Answers and errors
//! are in the form that the request had.

use std::io::Read as _;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lorica_observe::otlp_json::{self, JsonError};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};

use super::receive::{MAX_MESSAGE, Receiver, Rejected, logs_taken, spans_taken};
use super::series::MetricsReceiver;

/// The routes.
pub(crate) fn router(receiver: Receiver, metrics: MetricsReceiver) -> Router {
    let kept = Router::new().route("/v1/traces", post(traces)).route("/v1/logs", post(logs)).with_state(receiver);
    kept.merge(Router::new().route("/v1/metrics", post(self::metrics)).with_state(metrics))
}

/// How a request is written, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    fn answer(self, status: StatusCode, message: &impl Message, json: impl FnOnce() -> Value) -> Response {
        let body = match self {
            Self::Protobuf => message.encode_to_vec(),
            Self::Json => json().to_string().into_bytes(),
        };
        (status, [(header::CONTENT_TYPE, self.content_type())], body).into_response()
    }
}

/// `google.rpc.Status`, which OTLP answers errors with.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// What is wrong with a request.
struct Failure {
    form: Form,
    status: StatusCode,
    code: tonic::Code,
    message: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = RpcStatus { code: self.code.into(), message: self.message };
        self.form.answer(self.status, &status, || json!({"code": status.code, "message": status.message}))
    }
}

async fn traces(State(receiver): State<Receiver>, request: Request) -> Result<Response, Failure> {
    let (form, sent) = read(request, otlp_json::spans).await?;
    let sent: ExportTraceServiceRequest = sent;
    let taken = spans_taken(receiver.take_spans(sent.resource_spans, Rejected::default()));
    let partial = |name: &str, count: i64, why: &str| json!({"partialSuccess": {name: count.to_string(), "errorMessage": why}});
    Ok(form.answer(StatusCode::OK, &taken, || match &taken.partial_success {
        Some(rejected) => partial("rejectedSpans", rejected.rejected_spans, &rejected.error_message),
        None => json!({}),
    }))
}

async fn logs(State(receiver): State<Receiver>, request: Request) -> Result<Response, Failure> {
    let (form, sent) = read(request, otlp_json::logs).await?;
    let sent: ExportLogsServiceRequest = sent;
    let taken = logs_taken(receiver.take_logs(sent.resource_logs, Rejected::default()));
    let partial = |name: &str, count: i64, why: &str| json!({"partialSuccess": {name: count.to_string(), "errorMessage": why}});
    Ok(form.answer(StatusCode::OK, &taken, || match &taken.partial_success {
        Some(rejected) => partial("rejectedLogRecords", rejected.rejected_log_records, &rejected.error_message),
        None => json!({}),
    }))
}

fn in_protobuf_only() -> JsonError {
    JsonError { place: String::new(), what: "metrics are taken in protobuf alone: application/x-protobuf".to_owned() }
}

async fn metrics(State(receiver): State<MetricsReceiver>, request: Request) -> Result<Response, Failure> {
    let (form, sent) = read(request, |_| Err(in_protobuf_only())).await?;
    let sent: ExportMetricsServiceRequest = sent;
    let taken = receiver.take(&sent, (0, None)).await.map_err(|status| Failure {
        form,
        // Senders come again on this status alone.
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: status.code(),
        message: status.message().to_owned(),
    })?;
    Ok(form.answer(StatusCode::OK, &taken, || json!({})))
}

/// The message of a request, and how it is written.
async fn read<T: Message + Default>(request: Request, json: fn(&[u8]) -> Result<T, JsonError>) -> Result<(Form, T), Failure> {
    let (head, body) = request.into_parts();
    let word = |name| head.headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let content_type = word(header::CONTENT_TYPE).unwrap_or_default();
    let form = match content_type.split(';').next().unwrap_or_default().trim() {
        "application/x-protobuf" => Form::Protobuf,
        "application/json" => Form::Json,
        other => {
            let message = format!("`{other}` is no form of OTLP: application/x-protobuf or application/json");
            let (status, code) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, tonic::Code::InvalidArgument);
            return Err(Failure { form: Form::Json, status, code, message });
        }
    };
    let fail = |status, code, message| Failure { form, status, code, message };
    let packed = match word(header::CONTENT_ENCODING).as_deref() {
        None | Some("identity") => false,
        Some("gzip") => true,
        Some(other) => {
            let message = format!("`{other}` is no packing that is taken here: gzip or none");
            return Err(fail(StatusCode::UNSUPPORTED_MEDIA_TYPE, tonic::Code::InvalidArgument, message));
        }
    };
    let too_large = || {
        fail(
            StatusCode::PAYLOAD_TOO_LARGE,
            tonic::Code::ResourceExhausted,
            format!("a message may have {MAX_MESSAGE} bytes, also unpacked"),
        )
    };
    let malformed = |what: String| fail(StatusCode::BAD_REQUEST, tonic::Code::InvalidArgument, what);
    let body = Limited::<Body>::new(body, MAX_MESSAGE).collect().await;
    let mut body: Vec<u8> = match body {
        Ok(body) => body.to_bytes().into(),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => return Err(too_large()),
        Err(error) => return Err(malformed(format!("the body broke off: {error}"))),
    };
    if packed {
        let mut unpacked = Vec::new();
        let read = MultiGzDecoder::new(body.as_slice()).take(MAX_MESSAGE as u64 + 1).read_to_end(&mut unpacked);
        read.map_err(|error| malformed(format!("the body is no gzip: {error}")))?;
        if unpacked.len() > MAX_MESSAGE {
            return Err(too_large());
        }
        body = unpacked;
    }
    let message = match form {
        Form::Protobuf => T::decode(body.as_slice()).map_err(|error| malformed(format!("the body is no OTLP: {error}"))),
        Form::Json => json(&body).map_err(|error| malformed(error.to_string())),
    };
    Ok((form, message?))
}
