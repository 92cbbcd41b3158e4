//! authenticate: whose token a request carries. At the callee's proxy, so that nobody passes it by; at a gateway.
//!
//! In: the head as it came. Out: the head as every later step sees it, without what callers may not say of claims, with what their token
//! says, and without the token where it goes no further. A gateway looks at tokens before it chooses a rule, as rules may look at claims,
//! and judges once the rule is known, as each may ask for other tokens.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use lorica_identity::jwt::TokenError;
use lorica_model::claims::Claims;
use lorica_model::head::{HeadBuilder, HeadError, RequestHead, tokens};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Authentication, AuthenticationTrial, Effect, Effects, HttpRule, TokenPlace, route};
use lorica_observe::metrics::TokenCounts;

use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::{clean, filter, gateway, trial};
use crate::tokens::{Good, Prepared};
use crate::worker::Worker;

/// The longest claim that is passed on in a header field, in bytes.
const MAX_CLAIM: usize = 4096;

/// Room for the heads that are made of one, and for what its token says, for as long as its exchange lasts.
#[derive(Default)]
pub struct Heads {
    routed: OnceCell<RequestHead>,
    onward: OnceCell<RequestHead>,
    claims: OnceCell<Rc<Claims>>,
}

impl Heads {
    /// What the token of the request says, once that is settled.
    #[must_use]
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.get().map(|claims| &**claims)
    }
}

/// A request whose tokens were looked at.
pub struct Looked<'x> {
    /// The head that rules are chosen by.
    pub head: &'x RequestHead,
    as_it_came: &'x RequestHead,
    heads: &'x Heads,
    /// By each policy that was asked, what was found.
    found: Vec<Asked>,
    /// Of the listener's policies, those that tell of claims.
    telling: Vec<Arc<Authentication>>,
    /// Why no head could be made to choose a rule by.
    refused: Option<HeadError>,
}

/// A request that may go on, as far as its token goes.
#[derive(Debug, Clone)]
pub struct Authenticated<'x> {
    /// The head as every later step sees it.
    pub head: &'x RequestHead,
    /// What its token says.
    pub claims: Option<Rc<Claims>>,
    /// Whether a token may stand in its query, which no log may show then.
    pub secret_query: bool,
    /// The policies that tell of claims: by their names nobody else tells anything.
    telling: Vec<Arc<Authentication>>,
}

impl Authenticated<'_> {
    /// The header fields that only the mesh may write.
    pub fn claim_headers(&self) -> impl Iterator<Item = &str> {
        self.telling.iter().flat_map(|by| by.claim_headers())
    }
}

/// What one policy found.
struct Asked {
    by: Arc<Authentication>,
    prepared: Rc<Prepared>,
    token: Result<Option<Shown>, Refused>,
}

/// A good token, and where it stood.
struct Shown {
    good: Rc<Good>,
    place: TokenPlace,
    remembered: bool,
}

/// Why a token is not taken.
enum Refused {
    Token(TokenError),
    /// Whoever reads the one and whoever reads the other would see different callers.
    Several,
}

/// Looks at the tokens of a request, as far as that needs no rule.
pub fn look<'x>(worker: &Worker, caller: &Caller, head: &'x RequestHead, heads: &'x Heads) -> Looked<'x> {
    let mut looked = Looked { head, as_it_came: head, heads, found: Vec::new(), telling: Vec::new(), refused: None };
    match &caller.entry {
        Entry::Inbound { .. } => {
            let asked = worker.view().snapshot.inbound.as_ref().and_then(|inbound| inbound.authentication.clone());
            looked.found.extend(asked.map(|by| ask(worker, by, head)));
        }
        Entry::Gateway { port, chain, .. } => {
            let view = worker.view();
            if !view.looks_at_claims(*port) {
                return looked;
            }
            let rules = gateway::hosts(&view, *port, chain.as_ref()).and_then(|hosts| hosts.rules(head.authority()));
            let Some(rules) = rules.filter(|rules| !rules.telling().is_empty()) else { return looked };
            looked.telling = rules.telling().to_vec();
            looked.found = looked.telling.iter().map(|by| ask(worker, by.clone(), head)).collect();
            let told = looked.found.iter().flat_map(Asked::told).collect();
            match rewritten(head, &names(&looked.telling), None, told) {
                Ok(made) => looked.head = made.map_or(head, |made| heads.routed.get_or_init(|| made)),
                // No rule may take it by what its caller says of claims.
                Err(error) => looked.refused = Some(error),
            }
        }
        Entry::Outbound { .. } | Entry::Egress { .. } => {}
    }
    looked
}

impl<'x> Looked<'x> {
    /// Whether the request may go on by `rule`, the one of a gateway that takes it, and how.
    ///
    /// # Errors
    /// [`Reason::TokenMissing`], [`Reason::TokenInvalid`], [`Reason::TokenKeysMissing`]; [`Reason::HeadTooLarge`] where there is no room for
    /// claims.
    pub fn settle(self, worker: &Worker, caller: &Caller, rule: Option<&HttpRule>) -> Result<Authenticated<'x>, Failure> {
        let head = self.as_it_came;
        let settled = self.settled(worker, caller, rule)?;
        match (&caller.entry, rule) {
            (Entry::Inbound { .. }, _) => {
                if let Some(inbound) = worker.view().snapshot.inbound.as_ref() {
                    try_out(worker, caller, Some(head), &inbound.tried);
                }
            }
            (Entry::Gateway { .. }, Some(rule)) if !filter::is_preflight(head, Some(rule)) => {
                try_out(worker, caller, Some(head), &rule.filters.tried);
            }
            _ => {}
        }
        Ok(settled)
    }

    fn settled(self, worker: &Worker, caller: &Caller, rule: Option<&HttpRule>) -> Result<Authenticated<'x>, Failure> {
        if let Some(error) = self.refused {
            return Err(too_large(error));
        }
        let by = match (&caller.entry, rule) {
            (Entry::Inbound { .. }, _) => self.found.first().map(|asked| asked.by.clone()),
            (Entry::Gateway { .. }, Some(rule)) => rule.filters.authentication.clone(),
            _ => None,
        };
        let as_it_came = Authenticated { head: self.as_it_came, claims: None, secret_query: false, telling: Vec::new() };
        let Some(by) = by.filter(|_| !filter::is_preflight(self.as_it_came, rule)) else {
            if self.telling.is_empty() {
                return Ok(as_it_came);
            }
            let made = rewritten(self.as_it_came, &names(&self.telling), None, Vec::new()).map_err(too_large)?;
            return Ok(Authenticated {
                head: made.map_or(self.as_it_came, |made| self.heads.onward.get_or_init(|| made)),
                claims: None,
                secret_query: false,
                telling: self.telling,
            });
        };
        let known = self.found.into_iter().find(|asked| *asked.by == *by);
        let asked = known.unwrap_or_else(|| ask(worker, by.clone(), self.as_it_came));
        judge(&asked)?;
        let secret_query = by.providers.iter().flat_map(|provider| &provider.places).any(|place| matches!(place, TokenPlace::Query(_)));
        let shown = asked.token.as_ref().ok().and_then(Option::as_ref);
        let provider = shown.and_then(|shown| by.providers.get(shown.good.provider));
        let taken = shown.zip(provider).filter(|(_, provider)| !provider.forward).map(|(shown, _)| &shown.place);
        let mut telling = self.telling;
        telling.push(by.clone());
        let made = rewritten(self.as_it_came, &names(&telling), taken, asked.told()).map_err(too_large)?;
        let head = made.map_or(self.as_it_came, |made| self.heads.onward.get_or_init(|| made));
        let claims = shown.map(|shown| self.heads.claims.get_or_init(|| shown.good.claims.clone()).clone());
        Ok(Authenticated { head, claims, secret_query, telling })
    }
}

/// Whether a connection may be made whose bytes are not looked at: they show no token.
///
/// # Errors
/// [`Reason::TokenMissing`] where one is asked for.
pub fn connection(worker: &Worker, caller: &Caller) -> Result<(), Failure> {
    let Entry::Inbound { .. } = &caller.entry else { return Ok(()) };
    let view = worker.view();
    let Some(inbound) = &view.snapshot.inbound else { return Ok(()) };
    if let Some(by) = &inbound.authentication {
        judge(&without_token(worker, by))?;
    }
    try_out(worker, caller, None, &inbound.tried);
    Ok(())
}

fn without_token(worker: &Worker, by: &Arc<Authentication>) -> Asked {
    Asked { by: by.clone(), prepared: worker.tokens.prepared(worker, by), token: Ok(None) }
}

/// Holds policies that are tried against a call that passes. `head`: of a request; bytes show no token.
fn try_out(worker: &Worker, caller: &Caller, head: Option<&RequestHead>, trials: &[AuthenticationTrial]) {
    for AuthenticationTrial { origin, tokens, mutual_tls } in trials {
        // Who comes to a published port need not prove anything, whatever holds for others.
        let mutual_tls = *mutual_tls && !matches!(caller.entry, Entry::Inbound { published: true, .. });
        let mut refused = (mutual_tls && caller.entry.peer().is_none()).then_some("it sends plaintext");
        if let Some(by) = tokens {
            let asked = match head {
                Some(head) => ask(worker, by.clone(), head),
                None => without_token(worker, by),
            };
            let counts = &asked.prepared.counts;
            let by_token = refusal(&asked);
            let count = match (&by_token, &asked.token) {
                (Some(_), _) => &counts.would_refuse,
                (None, Ok(Some(_))) => &counts.accepted,
                (None, _) => &counts.anonymous,
            };
            count.fetch_add(1, Ordering::Relaxed);
            refused = refused.or(by_token.map(|Refusal { told, .. }| told.unwrap_or("no token")));
        } else if !mutual_tls {
            continue;
        }
        let effects = Effects::NONE.with_if(refused.is_some(), Effect::Refuse);
        trial::tell(worker, caller, head, origin, effects, refused.unwrap_or_default());
    }
}

fn ask(worker: &Worker, by: Arc<Authentication>, head: &RequestHead) -> Asked {
    let prepared = worker.tokens.prepared(worker, &by);
    let token = match found(&by, head).as_slice() {
        [] => Ok(None),
        [(token, place)] => {
            let verified = worker.tokens.verified(&by, &prepared, (token, place), SystemTime::now());
            let shown = verified.map(|(good, remembered)| Some(Shown { good, place: (*place).clone(), remembered }));
            shown.map_err(Refused::Token)
        }
        _ => Err(Refused::Several),
    };
    Asked { by, prepared, token }
}

impl Asked {
    /// The header fields that tell what the token says.
    fn told(&self) -> Vec<(&str, Cow<'_, str>)> {
        let Ok(Some(shown)) = &self.token else { return Vec::new() };
        let headers = self.by.providers.get(shown.good.provider).map(|provider| provider.claim_headers.as_slice()).unwrap_or_default();
        let told = headers.iter().filter_map(|header| {
            let text = shown.good.claims.text(&header.claim)?;
            // What no field can hold would be another request on the wire.
            (text.len() <= MAX_CLAIM && !text.chars().any(char::is_control)).then_some((header.name.as_str(), text))
        });
        told.collect()
    }
}

/// Why a request is refused.
struct Refusal {
    reason: Reason,
    detail: String,
    /// What its caller may know; none of one that showed nothing.
    told: Option<&'static str>,
}

fn refusal(asked: &Asked) -> Option<Refusal> {
    let policy = format_args!("{}.{}", asked.by.origin.name, asked.by.origin.namespace);
    let (reason, detail, told) = match &asked.token {
        Ok(Some(_)) => return None,
        Ok(None) if asked.by.optional => return None,
        Ok(None) => (Reason::TokenMissing, format!("the AuthenticationPolicy {policy} asks for a token"), None),
        Err(Refused::Several) => (
            Reason::TokenInvalid,
            format!("several tokens where the AuthenticationPolicy {policy} asks for one"),
            Some("more than one token"),
        ),
        Err(Refused::Token(error)) => {
            let reason = if *error == TokenError::NoKeys { Reason::TokenKeysMissing } else { Reason::TokenInvalid };
            (reason, format!("the AuthenticationPolicy {policy} does not take it: {error}"), Some(error.told()))
        }
    };
    Some(Refusal { reason, detail, told })
}

fn judge(asked: &Asked) -> Result<(), Failure> {
    let counts = &asked.prepared.counts;
    let count = |of: fn(&TokenCounts) -> &AtomicU64| _ = of(counts).fetch_add(1, Ordering::Relaxed);
    let Some(Refusal { reason, detail, told }) = refusal(asked) else {
        match &asked.token {
            Ok(Some(shown)) => {
                count(|counts| &counts.accepted);
                if shown.remembered {
                    count(|counts| &counts.remembered);
                }
            }
            _ => count(|counts| &counts.anonymous),
        }
        return Ok(());
    };
    count(if told.is_none() { |counts| &counts.missing } else { |counts| &counts.refused });
    // As RFC 6750 has it (3.1): who showed nothing is told of no error.
    let challenge =
        told.map_or_else(|| "Bearer".to_owned(), |told| format!("Bearer error=\"invalid_token\", error_description=\"{told}\""));
    Err(Failure { told: vec![("www-authenticate".into(), challenge)], ..Failure::new(reason, detail) })
}

fn too_large(_: HeadError) -> Failure {
    Failure::new(Reason::HeadTooLarge, "there is no room for what its token says")
}

/// The header fields by which policies tell of claims.
fn names(of: &[Arc<Authentication>]) -> Vec<&str> {
    of.iter().flat_map(|by| by.claim_headers()).collect()
}

/// The tokens that a request shows where a policy looks, each with its place.
fn found<'h>(by: &'h Authentication, head: &'h RequestHead) -> Vec<(Cow<'h, [u8]>, &'h TokenPlace)> {
    let mut found = Vec::new();
    let mut places: Vec<&TokenPlace> = Vec::new();
    for place in by.providers.iter().flat_map(|provider| &provider.places) {
        if places.contains(&place) {
            continue;
        }
        places.push(place);
        match place {
            TokenPlace::Header { name, prefix } => {
                let tokens = head.fields.get_all(name).filter_map(|value| after(value, prefix));
                found.extend(tokens.map(|token| (Cow::Borrowed(token), place)));
            }
            TokenPlace::Cookie(name) => {
                let crumbs = head.fields.get_all("cookie").flat_map(|value| value.split(|byte| *byte == b';'));
                let tokens = crumbs.filter_map(|crumb| value_of(crumb.trim_ascii(), name.as_bytes()));
                found.extend(tokens.map(|token| (Cow::Borrowed(token), place)));
            }
            TokenPlace::Query(name) => {
                let tokens = parameters(head).filter(|parameter| is_named(parameter, name)).map(|parameter| {
                    let (_, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                    (Cow::Owned(route::decoded(value).into_owned().into_bytes()), place)
                });
                found.extend(tokens);
            }
        }
    }
    found
}

/// What stands after `prefix` in a field's value. The prefix alone has an empty token after it, which no policy takes.
fn after<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let value = value.trim_ascii();
    let prefix = prefix.as_bytes();
    match value.split_at_checked(prefix.len()) {
        Some((start, token)) if start.eq_ignore_ascii_case(prefix) => Some(token.trim_ascii_start()),
        _ if !prefix.is_empty() && value.eq_ignore_ascii_case(prefix.trim_ascii_end()) => Some(&[]),
        _ => None,
    }
}

fn value_of<'c>(crumb: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    crumb.strip_prefix(name)?.strip_prefix(b"=")
}

fn parameters(head: &RequestHead) -> impl Iterator<Item = &str> {
    head.query().unwrap_or_default().split('&')
}

fn is_named(parameter: &str, name: &str) -> bool {
    route::decoded(parameter.split_once('=').map_or(parameter, |(name, _)| name)) == name
}

/// The head without fields of these names and without the token at `taken`, with what is told; none where that is the head as it came.
///
/// # Errors
/// Past the bounds of a head.
fn rewritten(
    head: &RequestHead,
    removed: &[&str],
    taken: Option<&TokenPlace>,
    told: Vec<(&str, Cow<'_, str>)>,
) -> Result<Option<RequestHead>, HeadError> {
    let is_removed = |name: &[u8]| removed.iter().any(|known| clean::reads_as(name, known));
    if told.is_empty() && taken.is_none() && !head.fields.iter().any(|(name, _)| is_removed(name)) {
        return Ok(None);
    }
    let mut builder = HeadBuilder::with_capacity(1024);
    for (name, value) in head.fields.iter().filter(|(name, _)| !is_removed(name)) {
        match taken {
            Some(TokenPlace::Header { name: of, prefix }) if name.eq_ignore_ascii_case(of.as_bytes()) && after(value, prefix).is_some() => {
            }
            Some(TokenPlace::Cookie(cookie)) if name.eq_ignore_ascii_case(b"cookie") => {
                let crumbs = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                let left: Vec<&[u8]> = crumbs.filter(|crumb| value_of(crumb, cookie.as_bytes()).is_none()).collect();
                if !left.is_empty() {
                    builder.field(name, &left.join(&b"; "[..]))?;
                }
            }
            // What a caller names there stays behind; what its token says does not.
            _ if name.eq_ignore_ascii_case(b"connection") => {
                let left: Vec<&[u8]> = tokens(value).filter(|token| !is_removed(token)).collect();
                builder.field(name, &left.join(&b", "[..]))?;
            }
            _ => builder.field(name, value)?,
        }
    }
    for (name, value) in told {
        builder.field(name.as_bytes(), value.as_bytes())?;
    }
    let path = match taken {
        Some(TokenPlace::Query(name)) => {
            let left: Vec<&str> = parameters(head).filter(|parameter| !is_named(parameter, name)).collect();
            let query = if left.is_empty() { String::new() } else { format!("?{}", left.join("&")) };
            Cow::Owned(format!("{}{query}", head.path()))
        }
        _ => Cow::Borrowed(head.path_and_query()),
    };
    builder.request(head.version, head.method(), &path, head.authority(), head.protocol()).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::head::Version;

    fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
        builder.request(Version::Http11, "GET", path, "a", None).unwrap()
    }

    #[test]
    fn a_token_stands_after_its_prefix_in_any_case() {
        for (value, found) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("BEARER", Some("")),
            ("Bearer a, Bearer b", Some("a, Bearer b")),
            ("Basic a.b.c", None),
            ("Bearera.b.c", None),
            ("", None),
        ] {
            assert_eq!(after(value.as_bytes(), "Bearer ").map(|token| std::str::from_utf8(token).unwrap()), found, "{value}");
        }
        assert_eq!(after(b"a.b.c", ""), Some(&b"a.b.c"[..]));
    }

    #[test]
    fn a_token_is_taken_out_and_the_rest_stays() {
        let came = head(
            "/a?x=1&t%6fken=a.b.c&y",
            &[
                ("Cookie", "one=1; session=a.b.c; two=2"),
                ("X_User", "eve"),
                ("authorization", "Basic 1"),
                ("Authorization", "Bearer a.b.c"),
            ],
        );
        let without = |place: &TokenPlace| {
            let made = rewritten(&came, &["x-user"], Some(place), vec![("x-user", "ada".into())]).unwrap().unwrap();
            let fields: Vec<String> = made
                .fields
                .iter()
                .map(|(name, value)| format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
                .collect();
            (made.path_and_query().to_owned(), fields)
        };
        let (path, fields) = without(&TokenPlace::Query("token".to_owned()));
        assert_eq!((path.as_str(), fields.last().map(String::as_str)), ("/a?x=1&y", Some("x-user: ada")));
        assert!(!fields.iter().any(|field| field.contains("eve")));
        let (_, fields) = without(&TokenPlace::Cookie("session".to_owned()));
        assert_eq!(fields[0], "Cookie: one=1; two=2");
        let (_, fields) = without(&TokenPlace::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() });
        assert_eq!(fields[1..], ["authorization: Basic 1", "x-user: ada"]);
        assert!(rewritten(&came, &["x-other"], None, Vec::new()).unwrap().is_none(), "nothing to change costs nothing");
    }
}
