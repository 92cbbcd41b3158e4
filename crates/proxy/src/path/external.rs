//! external: what services say of a request that are asked for leave, once the mesh's own rules let it pass.
//!
//! A service that does not answer in time lets nothing pass, unless its policy says otherwise. What only a service may say about a request is
//! taken from what callers say, whether the service is asked or not. A request is asked about once: not for each attempt, nor again when
//! policies change while it is under way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use lorica_model::head::{Edits, Fields, HeadBuilder, RequestHead, Version};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{AccessPolicy, Authorizer, AuthorizerProtocol, ByPolicy, Effect, Effects, ShownBody, is_beyond_authorizers};
use lorica_xds::authorization::{Answer, Change, Changes, How, METHOD, Question, Refusal, ShownBytes, answer, question};
use lorica_xds::observed::Verdict;
use tokio::task::spawn_local;

use super::ask::{self, Replied, Speaks};
use super::authorize::{self, Asking, Granted, Judged};
use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::replay::{Looked, Replay};
use super::{send, trial};
use crate::worker::Worker;

/// By which a service over HTTP says what is to be taken from a request (Envoy's name).
const TAKES: &str = "x-envoy-auth-headers-to-remove";
/// By which a service learns whether it sees all of a body (Envoy's name).
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// What services that let a request pass want changed besides its head.
#[derive(Debug, Default)]
pub struct Asked {
    /// In the answer.
    pub response: Vec<Change>,
    set_query: Vec<(String, String)>,
    remove_query: Vec<String>,
}

impl Asked {
    /// Changes the query, in the path that goes on.
    pub fn query(&self, head: &RequestHead, edits: &mut Edits) {
        if self.set_query.is_empty() && self.remove_query.is_empty() {
            return;
        }
        let target = edits.path_and_query.as_deref().unwrap_or_else(|| head.path_and_query());
        edits.path_and_query = Some(with_query(target, &self.set_query, &self.remove_query));
    }
}

/// Asks the services of all policies that mean the request, one after the other, and makes the changes that they want in `edits`.
///
/// # Errors
/// [`Reason::AccessDenied`] with the service's answer, [`Reason::AuthorizerFailed`], or [`Reason::BodyTooLarge`].
pub async fn ask(
    worker: &Rc<Worker>,
    caller: &Caller,
    request: Judged<'_>,
    asking: &Asking,
    body: &mut Replay,
    edits: &mut Edits,
) -> Result<Asked, Failure> {
    let asked = all(worker, caller, request, asking, body, edits).await;
    authorize::told(worker, caller, Some(request.head), if asked.is_ok() { Verdict::Passed } else { Verdict::Denied });
    asked
}

async fn all(
    worker: &Rc<Worker>,
    caller: &Caller,
    request: Judged<'_>,
    (authorization, port): &Asking,
    body: &mut Replay,
    edits: &mut Edits,
) -> Result<Asked, Failure> {
    let head = request.head;
    for policy in authorization.policies.iter().filter(|policy| !policy.shadow) {
        for name in policy.authorizer.iter().flat_map(|authorizer| authorizer.kept_from_callers()) {
            edits.remove(&head.fields, name);
        }
    }
    let granted = authorize::grants(worker, caller, authorization);
    let (trials, enforced): (Vec<_>, Vec<_>) =
        granted.permissions().external(&authorize::access(caller, *port, Some(request))).into_iter().partition(|by| by.policy.shadow);
    let mut asked = Asked::default();
    for by in enforced {
        let Some(authorizer) = &by.policy.authorizer else {
            let detail = format!("the AuthorizationPolicy {by} names nobody who is asked");
            return Err(refused(worker, caller, &by, Reason::AuthorizerFailed, detail, None));
        };
        let seen = match authorizer.body.filter(|_| send::upgrade(head).is_none()) {
            Some(shown) => Some(looked_at(body, shown).await?),
            None => None,
        };
        let call = call(worker, caller, authorizer, head, edits, seen)?;
        match answered(worker, authorizer, call).await {
            Ok(Answer::Allowed(changes)) => {
                let Changes { request, remove, response, set_query, remove_query } = changes;
                change(&head.fields, &request, edits);
                for name in remove.iter().filter(|name| !is_beyond_authorizers(name)) {
                    edits.remove(&head.fields, name);
                }
                asked.response.extend(response);
                asked.set_query.extend(set_query);
                asked.remove_query.extend(remove_query);
            }
            Ok(Answer::Denied(refusal)) => {
                granted.count(by.policy, |counts| &counts.denied);
                let detail = format!("{} denies it, which the AuthorizationPolicy {by} has asked", authorizer.port);
                return Err(refused(worker, caller, &by, Reason::AccessDenied, detail, Some(refusal)));
            }
            Ok(Answer::Failed(refusal)) => {
                let failed = "it says that it failed".to_owned();
                unanswered(worker, caller, &granted, &by, authorizer, &failed, refusal)?;
            }
            Err(error) => unanswered(worker, caller, &granted, &by, authorizer, &error, None)?,
        }
    }
    // A trial says what would be different: of what is denied anyway, nothing.
    for by in trials {
        if let Some(authorizer) = &by.policy.authorizer {
            try_out(worker, caller, head, &granted, by, authorizer, body, edits).await?;
        }
    }
    Ok(asked)
}

/// What follows where a service says nothing.
fn unanswered(
    worker: &Worker,
    caller: &Caller,
    granted: &Granted,
    by: &ByPolicy<'_>,
    authorizer: &Authorizer,
    error: &str,
    refusal: Option<Refusal>,
) -> Result<(), Failure> {
    granted.count(by.policy, |counts| &counts.unanswered);
    if authorizer.fail_open {
        tracing::debug!(service = %authorizer.port, policy = %by, error, "a request passes, as nobody said whether it may");
        return Ok(());
    }
    granted.count(by.policy, |counts| &counts.denied);
    let detail = format!("{}, which the AuthorizationPolicy {by} has asked, did not answer: {error}", authorizer.port);
    Err(refused(worker, caller, by, Reason::AuthorizerFailed, detail, refusal))
}

fn refused(worker: &Worker, caller: &Caller, by: &ByPolicy<'_>, reason: Reason, detail: String, refusal: Option<Refusal>) -> Failure {
    let refusal = refusal.map(|mut refusal| {
        refusal.fields.retain(|field| !is_beyond_authorizers(&field.name));
        Box::new(refusal)
    });
    Failure { told: authorize::named(worker, caller, by).into_iter().collect(), refusal, ..Failure::new(reason, detail) }
}

/// Asks what a policy that is tried would have done. The request does not wait for the answer, and it waits for its body only where that is
/// known to be short.
#[expect(clippy::too_many_arguments, reason = "what an exchange holds, borrowed apart")]
async fn try_out(
    worker: &Rc<Worker>,
    caller: &Caller,
    head: &RequestHead,
    granted: &Rc<Granted>,
    by: ByPolicy<'_>,
    authorizer: &Arc<Authorizer>,
    body: &mut Replay,
    edits: &Edits,
) -> Result<(), Failure> {
    let Some(waiting) = trial::Waiting::begin(worker) else {
        granted.count(by.policy, |counts| &counts.unanswered);
        return Ok(());
    };
    let (of, asked) = (trial::Call::of(worker, caller), head.clone());
    let too_long = |shown: ShownBody| !shown.partial && body.length().is_some_and(|length| length > u64::from(shown.most));
    let shown = authorizer.body.filter(|_| send::upgrade(head).is_none());
    if shown.is_some_and(too_long) {
        says(worker, granted, by.policy, &of, head, false);
        return Ok(());
    }
    let seen = match shown {
        Some(shown) if body.length().is_some() => Some(looked_at(body, shown).await?),
        Some(_) => Some(Looked { bytes: Vec::new(), whole: false }),
        None => None,
    };
    let Ok(call) = call(worker, caller, authorizer, head, edits, seen) else {
        granted.count(by.policy, |counts| &counts.unanswered);
        return Ok(());
    };
    let at = granted.permissions().authorization().policies.iter().position(|policy| std::ptr::eq(policy, by.policy));
    let (granted, authorizer, worker) = (granted.clone(), authorizer.clone(), worker.clone());
    spawn_local(async move {
        let answer = answered(&worker, &authorizer, call).await;
        let policies = &granted.permissions().authorization().policies;
        let Some(policy) = at.and_then(|at| policies.get(at)) else { return };
        let passes = match answer {
            Ok(Answer::Allowed(_)) => true,
            Ok(Answer::Denied(_)) => false,
            Ok(Answer::Failed(_)) | Err(_) => {
                granted.count(policy, |counts| &counts.unanswered);
                authorizer.fail_open
            }
        };
        says(&worker, &granted, policy, &of, &asked, passes);
        drop(waiting);
    });
    Ok(())
}

/// Counts, and tells the control plane, what would have become of a call.
fn says(worker: &Worker, granted: &Granted, policy: &AccessPolicy, of: &trial::Call, head: &RequestHead, passes: bool) {
    granted.count(policy, if passes { |counts| &counts.would_pass } else { |counts| &counts.would_deny });
    let effects = if passes { Effects::NONE } else { Effect::Deny.into() };
    trial::tell_of(worker, of, Some(head), &policy.origin, effects, "");
}

/// The beginning of a body, as far as a service is shown it.
async fn looked_at(body: &mut Replay, shown: ShownBody) -> Result<Looked, Failure> {
    let most = usize::try_from(shown.most).unwrap_or(usize::MAX);
    let looked = body.look(most, shown.partial).await.map_err(|error| Failure::client(&error))?;
    if looked.whole || shown.partial {
        return Ok(looked);
    }
    Err(Failure::new(Reason::BodyTooLarge, format!("it has more than {most} bytes")))
}

/// A question, ready to be sent.
struct Call {
    head: RequestHead,
    body: Bytes,
}

/// The question to a service about a request as it would go on.
fn call(
    worker: &Worker,
    caller: &Caller,
    authorizer: &Authorizer,
    head: &RequestHead,
    edits: &Edits,
    seen: Option<Looked>,
) -> Result<Call, Failure> {
    let made = match &authorizer.protocol {
        AuthorizerProtocol::Grpc => ask::grpc_head(METHOD, &authorizer.port.to_string())
            .map(|ours| Call { head: ours, body: question(asked_of(worker, caller, authorizer, head, edits, seen)) }),
        AuthorizerProtocol::Http { path_prefix, .. } => http_call(authorizer, path_prefix, head, edits, seen),
    };
    // What came was a head that is no larger.
    made.map_err(|error| Failure::new(Reason::HeadTooLarge, format!("{error:#}")))
}

/// The method that the app sees: what opens a WebSocket in HTTP/2 comes as CONNECT and arrives as GET.
fn method(head: &RequestHead) -> &str {
    if head.protocol().is_some() { "GET" } else { head.method() }
}

fn asked_of(
    worker: &Worker,
    caller: &Caller,
    authorizer: &Authorizer,
    head: &RequestHead,
    edits: &Edits,
    seen: Option<Looked>,
) -> Question {
    let tls = match &caller.entry {
        Entry::Gateway { tls, .. } => *tls,
        Entry::Inbound { peer, .. } | Entry::Egress { peer, .. } => peer.is_some(),
        Entry::Outbound { .. } => false,
    };
    let scheme = if tls { "https" } else { "http" };
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for field in edits.apply(&head.fields) {
        let (name, value) = (String::from_utf8_lossy(field.name).to_ascii_lowercase(), String::from_utf8_lossy(field.value));
        if authorizer.shows(&name) {
            headers
                .entry(name)
                .and_modify(|known| {
                    known.push(',');
                    known.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
    }
    let ours = [(":method", method(head)), (":path", head.path_and_query()), (":authority", head.authority()), (":scheme", scheme)];
    for (name, value) in ours.into_iter().filter(|(name, _)| authorizer.shows(name)) {
        headers.insert(name.to_owned(), value.to_owned());
    }
    if let Some(looked) = &seen {
        headers.insert(PARTIAL.to_owned(), (!looked.whole).to_string());
    }
    let as_bytes = authorizer.body.is_some_and(|body| body.bytes);
    let own = worker.epoch().map(|epoch| epoch.svid().id().to_string());
    let address = caller.virtual_address().map_or(caller.remote, |own| (own, caller.remote.port()).into());
    let header = |name: &str| edits.apply(&head.fields).find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
    Question {
        source: address,
        caller: caller.entry.peer().map(|peer| peer.id.to_string()),
        destination: caller.local,
        called: own,
        time: SystemTime::now(),
        server_name: caller.server_name.clone(),
        id: header(super::clean::REQUEST_ID).map(|field| String::from_utf8_lossy(field.value).into_owned()).unwrap_or_default(),
        method: method(head).to_owned(),
        path: head.path_and_query().to_owned(),
        host: head.authority().to_owned(),
        scheme,
        protocol: head.version.as_str(),
        headers,
        length: head.fields.get_str("content-length").and_then(|length| length.parse().ok()),
        body: seen.map(|looked| ShownBytes { bytes: looked.bytes, as_bytes }),
    }
}

fn http_call(authorizer: &Authorizer, prefix: &str, head: &RequestHead, edits: &Edits, seen: Option<Looked>) -> anyhow::Result<Call> {
    let mut builder = HeadBuilder::with_capacity(512);
    let shown = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| authorizer.shows(&name.to_ascii_lowercase()));
    for field in edits.apply(&head.fields).filter(|field| shown(field.name)) {
        // How its own message is framed, and where it goes, is said below; so is whether its body is whole.
        let below = |name: &str| is_beyond_authorizers(name) || name.eq_ignore_ascii_case(PARTIAL);
        if !std::str::from_utf8(field.name).is_ok_and(below) {
            builder.field(field.name, field.value)?;
        }
    }
    if let Some(looked) = &seen {
        builder.field(PARTIAL.as_bytes(), (!looked.whole).to_string().as_bytes())?;
    }
    let body: Bytes = seen.map(|looked| looked.bytes.into()).unwrap_or_default();
    builder.field(b"content-length", body.len().to_string().as_bytes())?;
    let path = format!("{prefix}{}", head.path_and_query());
    let head = builder.request(Version::Http11, method(head), &path, head.authority(), None)?;
    Ok(Call { head, body })
}

/// What a service answers in time.
async fn answered(worker: &Rc<Worker>, authorizer: &Authorizer, call: Call) -> Result<Answer, String> {
    let speaks = if authorizer.is_http() { Speaks::Http } else { Speaks::Grpc };
    let asked = async {
        let replied = ask::call(worker, &authorizer.port, speaks, &call.head, call.body, authorizer.timeout).await?;
        match &authorizer.protocol {
            AuthorizerProtocol::Grpc => {
                answer(&replied.grpc_body()?).ok_or_else(|| anyhow::anyhow!("its answer is no CheckResponse that can be followed"))
            }
            AuthorizerProtocol::Http { told_on_allow, told_on_deny, .. } => {
                http_answer(replied, &authorizer.sets, told_on_allow, told_on_deny.as_deref())
            }
        }
    };
    asked.await.map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// What an answer of HTTP means: 200 is yes, a status of the service's failure is no answer, all else is no.
fn http_answer(replied: Replied, sets: &[String], told_on_allow: &[String], told_on_deny: Option<&[String]>) -> anyhow::Result<Answer> {
    let status = replied.head.status;
    anyhow::ensure!(status < 500, "it answered with {status}");
    let fields = |wanted: &dyn Fn(&str) -> bool, how: How| -> Vec<Change> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let fields = replied.head.fields.iter().filter_map(|(name, value)| Some((text(name)?.to_ascii_lowercase(), text(value)?)));
        fields.filter(|(name, _)| wanted(name)).filter_map(|(name, value)| Change::new(&name, value, how)).collect()
    };
    let among = |list: &[String], name: &str| list.iter().any(|known| known == name);
    if status == 200 {
        let request = fields(&|name| among(sets, name), How::Set);
        let remove = replied.head.fields.get_all(TAKES).filter_map(|list| std::str::from_utf8(list).ok());
        let remove = remove.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
        let response = fields(&|name| among(told_on_allow, name), How::Add);
        return Ok(Answer::Allowed(Changes { request, remove: remove.collect(), response, ..Changes::default() }));
    }
    // An answer that a message of its own could not have: 1xx never comes here.
    let told = |name: &str| told_on_deny.is_none_or(|list| among(list, name) || matches!(name, "location" | "www-authenticate"));
    let fields = fields(&told, How::Add);
    Ok(Answer::Denied(Refusal { status, fields, body: replied.body }))
}

/// Makes changes of fields in the order in which they are said.
pub fn change(fields: &Fields, changes: &[Change], edits: &mut Edits) {
    for Change { name, value, how } in changes.iter().filter(|change| !is_beyond_authorizers(&change.name)) {
        let there = |edits: &Edits| edits.apply(fields).any(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
        match how {
            How::Add => edits.add(name, value),
            How::AddIfAbsent if there(edits) => {}
            How::SetIfPresent if !there(edits) => {}
            How::AddIfAbsent | How::Set | How::SetIfPresent => edits.set(fields, name, value),
            How::Join => {
                let known = edits.apply(fields).filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
                let mut known: Vec<Vec<u8>> = known.map(|field| field.value.to_vec()).collect();
                let Some(first) = known.first_mut() else { continue };
                first.push(b',');
                first.extend_from_slice(value.as_bytes());
                edits.remove(fields, name);
                known.iter().for_each(|value| edits.add(name, value));
            }
        }
    }
}

/// A target with parameters of its query set and removed. What is set takes the place of the first of its name, or comes last.
fn with_query(target: &str, set: &[(String, String)], remove: &[String]) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = |parameter: &str| parameter.split_once('=').map_or(parameter, |(name, _)| name).to_owned();
    let mut parameters: Vec<Cow<'_, str>> = query.split('&').filter(|parameter| !parameter.is_empty()).map(Cow::Borrowed).collect();
    for (key, value) in set {
        let at = parameters.iter().position(|parameter| name(parameter) == *key).unwrap_or(parameters.len());
        parameters.retain(|parameter| name(parameter) != *key);
        parameters.insert(at.min(parameters.len()), Cow::Owned(format!("{key}={value}")));
    }
    parameters.retain(|parameter| !remove.contains(&name(parameter)));
    if parameters.is_empty() { path.to_owned() } else { format!("{path}?{}", parameters.join("&")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut builder = HeadBuilder::with_capacity(128);
        list.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
        builder.fields()
    }

    fn changed(list: &[(&str, &str)], name: &str, how: How) -> Vec<(String, String)> {
        let (fields, mut edits) = (fields(list), Edits::default());
        change(&fields, &[Change::new(name, "new".to_owned(), how).unwrap()], &mut edits);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        edits.apply(&fields).map(|field| (text(field.name), text(field.value))).collect()
    }

    #[test]
    fn a_field_comes_to_those_that_are_there_as_its_service_says() {
        let one = [("X-User", "old")];
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
        for (how, there, absent) in [
            (How::Add, vec![("X-User", "old"), ("x-user", "new")], vec![("x-user", "new")]),
            (How::Join, vec![("x-user", "old,new")], vec![]),
            (How::AddIfAbsent, vec![("X-User", "old")], vec![("x-user", "new")]),
            (How::Set, vec![("x-user", "new")], vec![("x-user", "new")]),
            (How::SetIfPresent, vec![("x-user", "new")], vec![]),
        ] {
            assert_eq!(changed(&one, "x-user", how), pairs(&there), "{how:?}");
            assert_eq!(changed(&[], "x-user", how), pairs(&absent), "{how:?}");
        }
        for beyond in ["host", ":path", "content-length", "x-lorica-attempt", "x-forwarded-client-cert"] {
            assert_eq!(changed(&[], beyond, How::Set), [], "{beyond}");
        }
    }

    #[test]
    fn a_query_is_changed_where_it_stands() {
        let set = |list: &[(&str, &str)]| list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
        for (target, sets, removes, expected) in [
            ("/a", vec![("b", "1")], vec![], "/a?b=1"),
            ("/a?b=0&c&b=2", vec![("b", "1")], vec![], "/a?b=1&c"),
            ("/a?b&c=1", vec![], vec!["b"], "/a?c=1"),
            ("/a?b", vec![("b", "1")], vec!["b"], "/a"),
        ] {
            let removes: Vec<String> = removes.into_iter().map(str::to_owned).collect();
            assert_eq!(with_query(target, &set(&sets), &removes), expected, "{target}");
        }
    }
}
