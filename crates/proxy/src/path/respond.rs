//! respond: answers of the mesh's own. Status, word and text follow from the reason alone.

use std::borrow::Cow;

use lorica_model::head::{Edits, Fields, HeadBuilder, RequestHead};
use lorica_model::reason::Reason;
use lorica_model::snapshot::HttpRule;

use super::exchange::ByRule;
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
    send(responder, answer, &own, edits.unwrap_or_default(), alternative).await;
}

/// Refuses a CONNECT, whose record is a connection's.
pub async fn refuse_connect(responder: Responder, reason: Reason) {
    let answer = own_answer(reason, None);
    if answer.status == 0 {
        return responder.reset();
    }
    let fields = fields(&answer, &[]);
    send(responder, answer, &fields, Edits::default(), None).await;
}

/// Gives the answer that a rule makes by itself, with the changes that the rule makes to answers.
pub async fn answer(
    responder: Responder,
    head: &RequestHead,
    answer: OwnAnswer,
    rule: &HttpRule,
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'_>,
) {
    record.answered(answer.status, None, answer.body.len());
    let own = fields(&answer, &[]);
    let edits = if answer.as_it_is { Edits::default() } else { filter::response(head, rule, None, &own) };
    send(responder, answer, &own, edits, alternative).await;
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

async fn send(mut responder: Responder, answer: OwnAnswer, fields: &Fields, mut edits: Edits, alternative: Option<&str>) {
    if let Some(alternative) = alternative {
        edits.set(fields, ALTERNATIVE, alternative);
    }
    let OwnAnswer { status, body, .. } = answer;
    let end = body.is_empty();
    let sent = async {
        responder.raw_head(status, edits.apply(fields), Some(body.len() as u64), end)?;
        if !end {
            responder.data(body.into()).await?;
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
