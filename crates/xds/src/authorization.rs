//! External authorization: what a service is asked of a request, and what it answers, in Envoy's protocol
//! (`envoy.service.auth.v3.Authorization`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction};
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
    attribute_context::{HttpRequest, Peer, Request, TlsSession},
    check_response::HttpResponse,
};
use envoy_types::pb::google::protobuf::Timestamp;

use crate::encode;
use crate::grpc::{framed, unframed};

/// The path of the call.
pub const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The status of a denial that names none.
pub const DENIED: u16 = 403;

/// What is asked of a request.
#[derive(Debug, Clone)]
pub struct Question {
    /// Where it came from.
    pub source: SocketAddr,
    /// The identity that its caller proved.
    pub caller: Option<String>,
    /// Where it came to.
    pub destination: SocketAddr,
    /// The identity of who is called.
    pub called: Option<String>,
    /// When it came.
    pub time: SystemTime,
    /// The SNI.
    pub server_name: Option<String>,
    /// Its id.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Host and port.
    pub host: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    /// Its fields by lower-case name, several of a name joined by commas.
    pub headers: BTreeMap<String, String>,
    /// The length that it says its body has.
    pub length: Option<i64>,
    /// Its body, as far as that is shown.
    pub body: Option<ShownBytes>,
}

/// A body as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownBytes {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether they go as bytes; otherwise they go as text, what is none replaced by `!`, as Envoy does it.
    pub as_bytes: bool,
}

/// The question as the body of a call.
#[must_use]
pub fn question(asked: Question) -> Bytes {
    let peer = |address: SocketAddr, principal: Option<String>| Peer {
        address: Some(encode::address(address)),
        principal: principal.unwrap_or_default(),
        ..Peer::default()
    };
    let since = asked.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut http = HttpRequest {
        id: asked.id,
        method: asked.method,
        headers: asked.headers.into_iter().collect(),
        path: asked.path,
        host: asked.host,
        scheme: asked.scheme.to_owned(),
        size: asked.length.unwrap_or(-1),
        protocol: asked.protocol.to_owned(),
        ..HttpRequest::default()
    };
    match asked.body {
        Some(ShownBytes { bytes, as_bytes: true }) => http.raw_body = bytes,
        Some(ShownBytes { bytes, as_bytes: false }) => http.body = text(&bytes),
        None => {}
    }
    let attributes = AttributeContext {
        source: Some(peer(asked.source, asked.caller)),
        destination: Some(peer(asked.destination, asked.called)),
        request: Some(Request {
            time: Some(Timestamp {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
            }),
            http: Some(http),
        }),
        tls_session: asked.server_name.map(|sni| TlsSession { sni }),
        ..AttributeContext::default()
    };
    framed(&CheckRequest { attributes: Some(attributes) })
}

/// Bytes as text, each that is none replaced by `!`.
fn text(bytes: &[u8]) -> String {
    let mut found = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        found.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| found.push('!'));
    }
    found
}

/// What a service says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It passes, changed so.
    Allowed(Changes),
    /// It does not.
    Denied(Refusal),
    /// The service could not say; where it says so itself, with what the caller is to be told.
    Failed(Option<Refusal>),
}

/// What changes in a request that passes, and in its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the request's fields, in this order.
    pub request: Vec<Change>,
    /// Fields that are taken from the request, after that.
    pub remove: Vec<String>,
    /// In the answer's fields.
    pub response: Vec<Change>,
    /// Parameters of the query that are set.
    pub set_query: Vec<(String, String)>,
    /// Parameters that are taken out, after that.
    pub remove_query: Vec<String>,
}

/// A change of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
    /// How the two come to those that are there.
    pub how: How,
}

/// How a field comes to those that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Beside them.
    Add,
    /// Behind the value of the first, after a comma; not where there is none. What `append: true` has always meant to Envoy.
    Join,
    /// Where there is none.
    AddIfAbsent,
    /// In their place, or as the first.
    Set,
    /// In their place, where there is one.
    SetIfPresent,
}

/// What a caller is answered that is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// Its fields.
    pub fields: Vec<Change>,
    /// Its body.
    pub body: Bytes,
}

/// The answer in the body of a call; none where it is no CheckResponse, or says what cannot be done.
#[must_use]
pub fn answer(body: &[u8]) -> Option<Answer> {
    let CheckResponse { status, http_response, dynamic_metadata: _ } = unframed(body)?;
    // Envoy, too, takes no status for success.
    let passes = status.is_none_or(|status| status.code == 0);
    match (passes, http_response) {
        (true, Some(HttpResponse::OkResponse(ok))) => changes(ok).map(Answer::Allowed),
        (true, _) => Some(Answer::Allowed(Changes::default())),
        (false, Some(HttpResponse::ErrorResponse(said))) => refusal(said).map(|refusal| Answer::Failed(Some(refusal))),
        (false, Some(HttpResponse::DeniedResponse(said))) => refusal(said).map(Answer::Denied),
        (false, _) => Some(Answer::Denied(Refusal { status: DENIED, fields: Vec::new(), body: Bytes::new() })),
    }
}

fn changes(ok: OkHttpResponse) -> Option<Changes> {
    let query = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#'));
    let changes = Changes {
        request: fields(ok.headers, in_request)?,
        remove: ok.headers_to_remove.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
        response: fields(ok.response_headers_to_add, in_answer)?,
        set_query: ok.query_parameters_to_set.into_iter().map(|set| (set.key, set.value)).collect(),
        remove_query: ok.query_parameters_to_remove,
    };
    let fits = changes.set_query.iter().all(|(name, value)| query(name) && query(value));
    fits.then_some(changes)
}

fn refusal(said: DeniedHttpResponse) -> Option<Refusal> {
    let status = said.status.map(|status| status.code).filter(|code| *code != 0);
    let status = status.map_or(Some(DENIED), |code| u16::try_from(code).ok().filter(|code| (200..600).contains(code)))?;
    Some(Refusal { status, fields: fields(said.headers, in_answer)?, body: said.body.into() })
}

fn fields(options: Vec<HeaderValueOption>, how: fn(&HeaderValueOption) -> Option<How>) -> Option<Vec<Change>> {
    let change = |option: HeaderValueOption| {
        let how = how(&option)?;
        let header = option.header?;
        Change::new(&header.key, header.value, how)
    };
    options.into_iter().map(change).collect()
}

/// In a request Envoy hears `append` alone: what it does not join it sets, whatever `append_action` says.
#[expect(deprecated, reason = "services still say `append`, and Envoy still hears it")]
#[expect(clippy::unnecessary_wraps, reason = "it is one of two ways to read an option")]
fn in_request(option: &HeaderValueOption) -> Option<How> {
    Some(if option.append.is_some_and(|append| append.value) { How::Join } else { How::Set })
}

/// In an answer it hears both.
#[expect(deprecated, reason = "services still say `append`, and Envoy still hears it")]
fn in_answer(option: &HeaderValueOption) -> Option<How> {
    match (option.append, HeaderAppendAction::try_from(option.append_action).ok()?) {
        (Some(append), _) if append.value => Some(How::Add),
        (Some(_), _) => Some(How::Set),
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => Some(How::Add),
        (None, HeaderAppendAction::AddIfAbsent) => Some(How::AddIfAbsent),
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Some(How::Set),
        (None, HeaderAppendAction::OverwriteIfExists) => Some(How::SetIfPresent),
    }
}

impl Change {
    /// A change of a field; none where name or value could not stand in a message.
    #[must_use]
    pub fn new(name: &str, value: String, how: How) -> Option<Self> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let fits = !name.is_empty()
            && name.trim_start_matches(':').bytes().all(token)
            && !value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        fits.then(|| Self { name: name.to_ascii_lowercase(), value, how })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use envoy_types::pb::envoy::config::core::v3::HeaderValue;
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::protobuf::BoolValue;
    use envoy_types::pb::google::rpc::Status;

    use super::*;

    #[expect(deprecated, reason = "services still say `append`, and Envoy still hears it")]
    fn option(value: &str, append: Option<bool>, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue { key: "X-User".to_owned(), value: value.to_owned(), ..HeaderValue::default() }),
            append: append.map(|value| BoolValue { value }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        }
    }

    fn said(code: i32, http_response: Option<HttpResponse>) -> Option<Answer> {
        let status = Some(Status { code, ..Status::default() });
        answer(&framed(&CheckResponse { status, http_response, ..CheckResponse::default() }))
    }

    #[test]
    fn fields_come_as_envoy_takes_them() {
        use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
        for (append, action, request, response) in [
            (None, AppendIfExistsOrAdd, How::Set, How::Add),
            (None, AddIfAbsent, How::Set, How::AddIfAbsent),
            (None, OverwriteIfExistsOrAdd, How::Set, How::Set),
            (None, OverwriteIfExists, How::Set, How::SetIfPresent),
            (Some(true), OverwriteIfExists, How::Join, How::Add),
            (Some(false), AppendIfExistsOrAdd, How::Set, How::Set),
        ] {
            let options = vec![option("ann", append, action)];
            let ok = OkHttpResponse { headers: options.clone(), response_headers_to_add: options, ..OkHttpResponse::default() };
            let Some(Answer::Allowed(changes)) = said(0, Some(HttpResponse::OkResponse(ok))) else { panic!("{action:?}") };
            let change = |how| [Change { name: "x-user".to_owned(), value: "ann".to_owned(), how }];
            assert_eq!((changes.request, changes.response), (change(request).into(), change(response).into()));
        }
    }

    #[test]
    fn what_is_no_clear_yes_is_no_yes() {
        assert_eq!(said(0, None), Some(Answer::Allowed(Changes::default())));
        let plain = Refusal { status: 403, fields: Vec::new(), body: Bytes::new() };
        assert_eq!(said(7, None), Some(Answer::Denied(plain.clone())));
        assert_eq!(said(7, Some(HttpResponse::OkResponse(OkHttpResponse::default()))), Some(Answer::Denied(plain)));
        let status = |code| Some(HttpStatus { code });
        let login = DeniedHttpResponse { status: status(401), body: "who?".to_owned(), ..DeniedHttpResponse::default() };
        let told = Refusal { status: 401, fields: Vec::new(), body: "who?".into() };
        assert_eq!(said(16, Some(HttpResponse::DeniedResponse(login.clone()))), Some(Answer::Denied(told.clone())));
        assert_eq!(said(13, Some(HttpResponse::ErrorResponse(login))), Some(Answer::Failed(Some(told))));
        // What would break a message breaks the answer.
        for broken in ["a\r\nx-admin: 1", "a\0"] {
            let ok = OkHttpResponse { headers: vec![option(broken, None, HeaderAppendAction::AddIfAbsent)], ..OkHttpResponse::default() };
            assert_eq!(said(0, Some(HttpResponse::OkResponse(ok))), None, "{broken:?}");
        }
        let odd = DeniedHttpResponse { status: status(100), ..DeniedHttpResponse::default() };
        assert_eq!(said(7, Some(HttpResponse::DeniedResponse(odd))), None);
        for bytes in [&[][..], &[0, 0, 0, 0, 9], &[1, 0, 0, 0, 0]] {
            assert_eq!(answer(bytes), None);
        }
    }

    #[test]
    fn a_body_that_is_no_text_is_made_one() {
        assert_eq!(text(b"caf\xc3\xa9 \xff\xfe."), "café !!.");
    }
}
