//! respond: answers of the mesh's own. Status, word and text follow from the reason alone.

use std::borrow::Cow;

use bytes::Bytes;
use lorica_model::head::{Edits, Fields, HeadBuilder, RequestHead};
use lorica_model::reason::Reason;
use lorica_model::snapshot::HttpRule;
use lorica_xds::authorization::{Change, Refusal};

use super::exchange::ByRule;
use super::external;
use super::failure::Failure;
use super::filter;
use super::grpc_web;
use super::record::ExchangeRecord;
use crate::wire::Responder;

/// By which an answer tells where else its host is served (RFC 7838).
pub const ALTERNATIVE: &str = "alt-svc";

/// An answer of the mesh's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAnswer {
    /// The HTTP status; gRPC callers get 200 and the status in the trailers' place.
    pub status: u16,
    /// Its fields.
    pub fields: Vec<(&'static str, String)>,
    /// Its body; empty for gRPC.
    pub body: String,
    /// Whether what the rule changes in answers is not for it.
    pub as_it_is: bool,
}

/// The answer that `reason` makes. `detail` is for the caller's eyes: it names no addresses of others.
#[must_use]
pub fn own_answer(reason: Reason, head: Option<&RequestHead>) -> OwnAnswer {
    let meaning = reason.meaning();
    own_answer_as(reason, (meaning.status, meaning.grpc), head)
}

/// The same with statuses of HTTP and gRPC that are not the reason's.
fn own_answer_as(reason: Reason, (status, grpc_status): (u16, u32), head: Option<&RequestHead>) -> OwnAnswer {
    let meaning = reason.meaning();
    let told = (super::clean::REASON, meaning.word.to_owned());
    if let Some(content_type) = head.and_then(grpc) {
        let fields = vec![
            ("content-type", content_type.to_owned()),
            ("grpc-status", grpc_status.to_string()),
            // Percent-encoding is due only for bytes that our texts do not have.
            ("grpc-message", format!("lorica: {}", meaning.text)),
            told,
        ];
        return OwnAnswer { status: 200, fields, body: String::new(), as_it_is: true };
    }
    let fields = vec![("content-type", "text/plain".to_owned()), told];
    // These have no body.
    let body = if matches!(status, 204 | 304) { String::new() } else { format!("lorica: {}: {}\n", meaning.word, meaning.text) };
    OwnAnswer { status, fields, body, as_it_is: true }
}

/// What an answer to a caller is declared as who speaks gRPC, or gRPC-Web.
fn grpc(head: &RequestHead) -> Option<&'static str> {
    if head.is_grpc() { Some("application/grpc") } else { grpc_web::Call::of(head).map(grpc_web::Call::content_type) }
}

/// Answers for the mesh, where an answer can still be given, with the changes that the rule which decided makes to answers: a script may read
/// why it was refused, and what every answer shall carry this one does as well.
/// `alternative`: what callers are told of HTTP/3.
pub async fn refuse(
    responder: Responder,
    head: &RequestHead,
    failure: &Failure,
    decided: Option<&ByRule>,
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'_>,
) {
    if let Some(refusal) = &failure.refusal {
        return refuse_with(responder, head, failure, refusal, decided, alternative, record).await;
    }
    let meaning = failure.reason.meaning();
    refuse_as(responder, head, (failure.reason, &failure.told), (meaning.status, meaning.grpc), decided, alternative, record).await;
}

/// The same with statuses of HTTP and gRPC that are not the reason's.
pub async fn refuse_as(
    responder: Responder,
    head: &RequestHead,
    (reason, told): (Reason, &[(Cow<'static, str>, String)]),
    statuses: (u16, u32),
    decided: Option<&ByRule>,
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'_>,
) {
    let answer = own_answer_as(reason, statuses, Some(head));
    if answer.status == 0 {
        return responder.reset();
    }
    record.answered(answer.status, grpc(head).map(|_| statuses.1), answer.body.len());
    let own = fields(&answer, told);
    let edits = decided.map(|(rule, drawn)| filter::response(head, rule, drawn.and_then(|drawn| rule.backends().get(drawn)), &own));
    send(responder, (answer.status, answer.body.into()), &own, edits.unwrap_or_default(), alternative).await;
}

/// Gives the answer that a service chose which was asked for leave.
async fn refuse_with(
    responder: Responder,
    head: &RequestHead,
    failure: &Failure,
    refusal: &Refusal,
    decided: Option<&ByRule>,
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'_>,
) {
    let grpc = grpc(head);
    let status = grpc_status(refusal.status);
    let mut given = Edits::default();
    match grpc {
        Some(content_type) => {
            given.add("content-type", content_type);
            given.add("grpc-status", status.to_string());
            given.add("grpc-message", percent_encoded(&refusal.body));
        }
        None if !refusal.body.is_empty() => given.add("content-type", "text/plain"),
        None => {}
    }
    let none = HeadBuilder::with_capacity(0).fields();
    let said = refusal.fields.iter().filter(|field| grpc.is_none() || !matches!(field.name.as_str(), "content-type" | "grpc-status"));
    // What it says comes in place of ours, and a field that it says twice is there twice.
    let mut seen: Vec<&str> = Vec::new();
    for field in said {
        if !seen.contains(&field.name.as_str()) {
            given.remove(&none, &field.name);
            seen.push(&field.name);
        }
        given.add(&field.name, &field.value);
    }
    given.set(&none, super::clean::REASON, failure.reason.meaning().word);
    failure.told.iter().for_each(|(name, value)| given.set(&none, name, value));
    let mut own = HeadBuilder::with_capacity(512);
    for field in given.added() {
        if let Err(error) = own.field(field.name, field.value) {
            tracing::debug!(%error, "a field of a denial was left out");
        }
    }
    let own = own.fields();
    let bodiless = grpc.is_some() || matches!(refusal.status, 204 | 304);
    let body = if bodiless { Bytes::new() } else { refusal.body.clone() };
    let http = if grpc.is_some() { 200 } else { refusal.status };
    record.answered(http, grpc.map(|_| status), body.len());
    let edits = decided.map(|(rule, drawn)| filter::response(head, rule, drawn.and_then(|drawn| rule.backends().get(drawn)), &own));
    send(responder, (http, body), &own, edits.unwrap_or_default(), alternative).await;
}

/// The status of gRPC that a status of HTTP comes to (gRPC's `http-grpc-status-mapping.md`).
fn grpc_status(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// A text as `grpc-message` carries it.
fn percent_encoded(text: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        if matches!(byte, b' '..=b'~') && *byte != b'%' {
            encoded.push(char::from(*byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Refuses a CONNECT, whose record is a connection's.
pub async fn refuse_connect(responder: Responder, reason: Reason) {
    let answer = own_answer(reason, None);
    if answer.status == 0 {
        return responder.reset();
    }
    let fields = fields(&answer, &[]);
    send(responder, (answer.status, answer.body.into()), &fields, Edits::default(), None).await;
}

/// Gives the answer that a rule makes by itself, with the changes that the rule makes to answers, and then `told`: those of services that
/// were asked for leave.
pub async fn answer(
    responder: Responder,
    head: &RequestHead,
    answer: OwnAnswer,
    rule: &HttpRule,
    told: &[Change],
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'_>,
) {
    record.answered(answer.status, None, answer.body.len());
    let own = fields(&answer, &[]);
    let mut edits = if answer.as_it_is { Edits::default() } else { filter::response(head, rule, None, &own) };
    external::change(&own, told, &mut edits);
    send(responder, (answer.status, answer.body.into()), &own, edits, alternative).await;
}

/// An answer's fields, and `more` of them.
fn fields(answer: &OwnAnswer, more: &[(Cow<'static, str>, String)]) -> Fields {
    let mut own = HeadBuilder::with_capacity(256);
    let fields = answer.fields.iter().map(|(name, value)| (*name, value));
    for (name, value) in fields.chain(more.iter().map(|(name, value)| (&**name, value))) {
        if let Err(error) = own.field(name.as_bytes(), value.as_bytes()) {
            tracing::debug!(%error, name, "a field of an answer of our own was left out");
        }
    }
    own.fields()
}

async fn send(mut responder: Responder, (status, body): (u16, Bytes), fields: &Fields, mut edits: Edits, alternative: Option<&str>) {
    if let Some(alternative) = alternative {
        edits.set(fields, ALTERNATIVE, alternative);
    }
    let end = body.is_empty();
    let sent = async {
        responder.raw_head(status, edits.apply(fields), Some(body.len() as u64), end)?;
        if !end {
            responder.data(body).await?;
        }
        responder.end(None).await
    };
    if let Err(error) = sent.await {
        tracing::debug!(%error, "the caller went away before it was answered");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::head::{HeadBuilder, Version};

    #[test]
    fn a_reason_answers_in_the_callers_language() {
        let answer = own_answer(Reason::NoEndpoint, None);
        assert_eq!((answer.status, answer.body.as_str()), (503, "lorica: no_endpoint: no endpoint of the service is ready\n"));
        assert!(answer.fields.contains(&("x-lorica-reason", "no_endpoint".to_owned())));
        let mut builder = HeadBuilder::with_capacity(64);
        builder.field(b"content-type", b"application/grpc").unwrap();
        let head = builder.request(Version::Http2, "POST", "/a/b", "x", None).unwrap();
        let answer = own_answer(Reason::NoEndpoint, Some(&head));
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert!(answer.fields.contains(&("grpc-status", "14".to_owned())));
        let mut builder = HeadBuilder::with_capacity(64);
        builder.field(b"content-type", b"application/grpc-web").unwrap();
        let head = builder.request(Version::Http11, "POST", "/a/b", "x", None).unwrap();
        let answer = own_answer(Reason::NoEndpoint, Some(&head));
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert!(answer.fields.contains(&("content-type", "application/grpc-web+proto".to_owned())));
        assert!(answer.fields.contains(&("grpc-status", "14".to_owned())));
    }
}
