//! How callers prove who they are, from its document.

use std::ops::Range;
use std::time::Duration;

use super::authorization::target;
use super::filter::field_name;
use super::route::duration;
use crate::name::{Label, Namespace};
use crate::resource::Kind;
use crate::resource::kinds::{AuthenticationPolicy, AuthenticationTarget, KeySource, WrittenKeys, WrittenProvider, WrittenTokens};
use crate::resource::reader::Reader;
use crate::resource::tree::{Node, Value};
use crate::snapshot::{ClaimHeader, DEFAULT_LEEWAY, MtlsMode, TokenAlgorithm, TokenPlace};

/// The most providers of a policy.
const MOST_PROVIDERS: usize = 16;
/// The most entries of a list of a provider.
const MOST_ENTRIES: usize = 32;
/// The most that clocks may differ by: more would be a longer life for every token.
const MOST_LEEWAY: Duration = Duration::from_secs(5 * 60);
/// The most and least often that keys are fetched.
const REFRESHES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));
/// Header fields that say other things than claims.
const NO_CLAIMS: [&str; 5] = ["authorization", "cookie", "forwarded", "content-type", "x-request-id"];

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<AuthenticationPolicy> {
    let mut object = reader.object(node, "an AuthenticationPolicy's `spec`")?;
    let span = object.span.clone();
    let (targets, mtls, jwt, mode) = (object.take("targetRefs"), object.take("mtls"), object.take("jwt"), object.take("mode"));
    reader.end(object);
    let targets = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    let named = targets.into_iter().filter_map(|node| target(node, own, reader));
    let targets: Vec<_> = named.map(|found| AuthenticationTarget { kind: found.kind, object: found.object }).collect();
    if mtls.is_none() && jwt.is_none() {
        reader.wrong_with(&span, "an AuthenticationPolicy says something of `mtls` or `jwt`", "write `mtls: {mode: Strict}`, or `jwt`");
        return None;
    }
    if let Some(mtls) = &mtls
        && let Some(target) = targets.iter().find(|target| target.kind != Kind::Service)
    {
        let message = format!("who calls a {} has no certificate of the mesh, so `mtls` says nothing there", target.kind);
        reader.wrong_with(&mtls.span, message, "name Services, or leave `mtls` out");
    }
    if let (Some(mode), true) = (&mode, mtls.is_some()) {
        let message = "`mode` is about tokens; what `mtls` says is always in force";
        reader.wrong_with(&mode.span, message, "put `mtls` and `jwt` into a policy each");
    }
    let shadow = mode.and_then(|node| reader.word(&node, "mode", &[("Enforce", false), ("Shadow", true)])).unwrap_or(false);
    let modes = [("Strict", MtlsMode::Strict), ("Permissive", MtlsMode::Permissive)];
    let (says_mtls, says_jwt) = (mtls.is_some(), jwt.is_some());
    let mtls = mtls.and_then(|node| reader.object(node, "`mtls`")).and_then(|mut object| {
        let mode = object.need("mode", reader);
        reader.end(object);
        reader.word(&mode?, "mode", &modes)
    });
    let jwt = jwt.and_then(|node| tokens(node, reader));
    (mtls.is_some() == says_mtls && jwt.is_some() == says_jwt).then_some(AuthenticationPolicy { targets, mtls, jwt, shadow })
}

fn tokens(node: Node, reader: &mut Reader<'_>) -> Option<WrittenTokens> {
    let mut object = reader.object(node, "`jwt`")?;
    let span = object.span.clone();
    let (optional, providers) = (object.take("optional"), object.need("providers", reader));
    reader.end(object);
    let optional = optional.map_or(Some(false), |node| reader.boolean(&node, "`optional`"));
    let nodes = reader.list(providers?, "`providers`");
    reader.bound((1..=MOST_PROVIDERS).contains(&nodes.len()), &span, format!("`jwt` has 1 to {MOST_PROVIDERS} providers"));
    let mut found: Vec<WrittenProvider> = Vec::new();
    let count = nodes.len();
    for node in nodes {
        let Some(provider) = provider(node, reader) else { continue };
        if found.iter().any(|known| known.name == provider.name) {
            reader.wrong(&provider.span, format!("another provider of the policy is named `{}`", provider.name));
        } else if let Some(known) = found.iter().find(|known| known.issuer == provider.issuer) {
            let message = format!("the tokens of `{}` are those of the provider `{}` already", provider.issuer, known.name);
            reader.wrong_with(&provider.span, message, "give the audiences and places of both to one provider");
        } else {
            let twice = |header: &&ClaimHeader| found.iter().flat_map(|known| &known.claim_headers).any(|known| clash(known, header));
            if let Some(header) = provider.claim_headers.iter().find(twice) {
                let message = format!("the header `{}` tells of another claim already", header.name);
                reader.wrong(&provider.span, message);
            }
            found.push(provider);
        }
    }
    (count > 0 && found.len() == count).then_some(WrittenTokens { span, optional: optional?, providers: found })
}

/// Whether one header is to tell of two claims.
fn clash(one: &ClaimHeader, other: &ClaimHeader) -> bool {
    one.name == other.name && one.claim != other.claim
}

fn provider(node: Node, reader: &mut Reader<'_>) -> Option<WrittenProvider> {
    let mut object = reader.object(node, "a provider")?;
    let span = object.span.clone();
    let (name, issuer, audiences) = (object.need("name", reader), object.need("issuer", reader), object.take("audiences"));
    let (jwks, from, algorithms) = (object.need("jwks", reader), object.take("from"), object.take("algorithms"));
    let (leeway, forward, headers) = (object.take("leeway"), object.take("forward"), object.take("claimsToHeaders"));
    reader.end(object);
    let name: Option<Label> = name.and_then(|node| reader.parsed(&node, "`name`"));
    let issuer = issuer.and_then(|node| said(&node, "`issuer`", reader));
    let audiences = match audiences {
        Some(node) => some(node, "`audiences`", reader).iter().filter_map(|node| said(node, "an audience", reader)).collect(),
        None => Vec::new(),
    };
    let keys_span = jwks.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let keys = jwks.and_then(|node| keys(node, reader));
    let places = match from {
        Some(node) => some(node, "`from`", reader).into_iter().filter_map(|node| place(node, reader)).collect(),
        None => vec![TokenPlace::Header { name: "authorization".to_owned(), prefix: BEARER.to_owned() }],
    };
    let words = TokenAlgorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithms = match algorithms {
        Some(node) => some(node, "`algorithms`", reader).iter().filter_map(|node| algorithm(node, &words, reader)).collect(),
        None => TokenAlgorithm::ALL.to_vec(),
    };
    let leeway = leeway.map_or(Some(DEFAULT_LEEWAY), |node| {
        let leeway = duration(&node, reader)?;
        let message = format!("clocks differ by at most {} s: more would be a longer life for every token", MOST_LEEWAY.as_secs());
        reader.bound(leeway <= MOST_LEEWAY, &node.span, message);
        Some(leeway)
    });
    let forward = forward.map_or(Some(false), |node| reader.boolean(&node, "`forward`"));
    let mut claim_headers: Vec<ClaimHeader> = Vec::new();
    for node in headers.map(|node| some(node, "`claimsToHeaders`", reader)).unwrap_or_default() {
        let span = node.span.clone();
        let Some(header) = claim_header(node, reader) else { continue };
        if claim_headers.iter().any(|known| known.name == header.name) {
            reader.wrong(&span, format!("the header `{}` tells of another claim already", header.name));
        } else {
            claim_headers.push(header);
        }
    }
    Some(WrittenProvider {
        name: name?.to_string(),
        span,
        issuer: issuer?,
        audiences,
        keys: keys?,
        keys_span,
        places,
        algorithms,
        leeway: leeway?,
        forward: forward?,
        claim_headers,
    })
}

const BEARER: &str = "Bearer ";

/// The nodes of a list that means nothing when it is empty.
fn some(node: Node, what: &str, reader: &mut Reader<'_>) -> Vec<Node> {
    let span = node.span.clone();
    let nodes = reader.list(node, what);
    reader.bound((1..=MOST_ENTRIES).contains(&nodes.len()), &span, format!("{what} has 1 to {MOST_ENTRIES} entries, or is left out"));
    nodes
}

/// A text that says something.
fn said(node: &Node, what: &str, reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text(node, what)?;
    reader.bound(!text.is_empty() && text.len() <= 1024, &node.span, format!("{what} has 1 to 1024 bytes"));
    Some(text)
}

fn algorithm(node: &Node, words: &[(&str, TokenAlgorithm)], reader: &mut Reader<'_>) -> Option<TokenAlgorithm> {
    let text = reader.text(node, "an algorithm")?;
    if matches!(text.as_str(), "HS256" | "HS384" | "HS512" | "none") {
        let message = format!("`{text}` proves nothing: whoever can verify such a token can make one");
        reader.wrong_with(&node.span, message, "let the issuer sign with a private key: `ES256`, `EdDSA`, `RS256`");
        return None;
    }
    reader.word(node, "algorithm", words)
}

fn place(node: Node, reader: &mut Reader<'_>) -> Option<TokenPlace> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a place of tokens")?;
    let (header, cookie, query) = (object.take("header"), object.take("cookie"), object.take("query"));
    let left = object.names().next().is_some();
    reader.end(object);
    let header = header.map(|node| {
        // A name alone is short for it.
        let (name, prefix) = if let Value::Map(_) = node.value {
            let mut object = reader.object(node, "`header`")?;
            let (name, prefix) = (object.need("name", reader), object.take("prefix"));
            reader.end(object);
            (name?, prefix.and_then(|node| reader.text(&node, "`prefix`")))
        } else {
            (node, None)
        };
        let name = field_name(&name, reader)?;
        let usual = if name == "authorization" { BEARER } else { "" };
        Some(TokenPlace::Header { name, prefix: prefix.unwrap_or_else(|| usual.to_owned()) })
    });
    let mut named = |node: Node, what: &str| {
        let text = reader.text(&node, what)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~!$*".contains(c);
        if text.is_empty() || text.len() > 256 || !text.chars().all(fits) {
            reader.wrong(&node.span, format!("`{text}` is no name for {what}"));
            return None;
        }
        Some(text)
    };
    let cookie = cookie.map(|node| named(node, "a cookie").map(TokenPlace::Cookie));
    let query = query.map(|node| named(node, "a query parameter").map(TokenPlace::Query));
    let mut written = [header, cookie, query].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(place), None) => place,
        (None, _) if left => None,
        _ => {
            reader.wrong_with(
                &span,
                "a token stands in one place",
                "write `{header: authorization}`, `{cookie: session}` or `{query: token}`",
            );
            None
        }
    }
}

fn claim_header(node: Node, reader: &mut Reader<'_>) -> Option<ClaimHeader> {
    let mut object = reader.object(node, "an entry of `claimsToHeaders`")?;
    let (claim, header) = (object.need("claim", reader), object.need("header", reader));
    reader.end(object);
    let claim = claim.and_then(|node| said(&node, "`claim`", reader));
    let node = header?;
    let name = field_name(&node, reader)?;
    if NO_CLAIMS.contains(&name.as_str()) || name.starts_with("x-forwarded-") {
        reader.wrong_with(&node.span, format!("`{name}` says other things than a claim"), "take a name of its own, such as `x-user`");
        return None;
    }
    Some(ClaimHeader { name, claim: claim? })
}

fn keys(node: Node, reader: &mut Reader<'_>) -> Option<WrittenKeys> {
    let mut object = reader.object(node, "`jwks`")?;
    let span = object.span.clone();
    let (url, inline) = (object.take("url"), object.take("inline"));
    let (refresh, private) = (object.take("refresh"), object.take("allowPrivateAddresses"));
    reader.end(object);
    let (url, inline) = match (url, inline) {
        (Some(url), None) => (url, None),
        (None, Some(inline)) => (inline.clone(), Some(inline)),
        _ => {
            reader.wrong_with(&span, "keys are fetched or written here", "write `url: https://…`, or `inline` with the key set");
            return None;
        }
    };
    if let Some(inline) = inline {
        if let Some(node) = refresh.or(private) {
            reader.wrong(&node.span, "what is written here is never fetched");
        }
        // As its text, or as the YAML that it is.
        return match &inline.value {
            Value::Text(text) => Some(WrittenKeys::Inline(text.clone())),
            Value::Map(_) => Some(WrittenKeys::Inline(inline.to_json().to_string())),
            _ => {
                reader.wrong(&inline.span, format!("`inline` is a JWK Set, not {}", inline.what()));
                None
            }
        };
    }
    let refresh = refresh.map_or(Some(KeySource::REFRESH), |node| {
        let refresh = duration(&node, reader)?;
        let (least, most) = REFRESHES;
        reader.bound((least..=most).contains(&refresh), &node.span, "keys are fetched from once a minute to once a day");
        Some(refresh)
    });
    let allow_private = private.map_or(Some(false), |node| reader.boolean(&node, "`allowPrivateAddresses`"));
    let text = reader.text(&url, "`url`")?;
    https(&text, &url.span, "whoever could change keys on their way could issue tokens", reader)?;
    Some(WrittenKeys::Url(KeySource { url: text, refresh: refresh?, allow_private: allow_private? }))
}

/// An address that is asked by TLS alone; `why` that has to be.
pub(super) fn https(url: &str, span: &Range<usize>, why: &str, reader: &mut Reader<'_>) -> Option<()> {
    let Some(rest) = url.strip_prefix("https://") else {
        let message = format!("`{url}` is no address of https");
        reader.wrong_with(span, message, format!("{why}: write `https://…`, or what is fetched there"));
        return None;
    };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let fits = url.len() <= 1024 && url.chars().all(|c| c.is_ascii_graphic() && !"\"<>\\^`{|}#".contains(c));
    if host.is_empty() || host.contains('@') || !fits {
        reader.wrong(span, format!("`{url}` is no address: it has a host, no name or password, and nothing after a `#`"));
        return None;
    }
    Some(())
}
