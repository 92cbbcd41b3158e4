//! How callers prove who they are: what is read, and what is refused.

use std::time::Duration;

use super::*;
use crate::snapshot::{DEFAULT_LEEWAY, TokenAlgorithm, TokenPlace};

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: users, namespace: contact}}\nspec: {{{spec}}}\n---\n"
    )
}

/// A policy of one provider with these further fields.
fn provider(more: &str) -> String {
    policy(&format!("jwt: {{providers: [{{name: login, issuer: i, audiences: [a], jwks: {{url: 'https://login.example/keys'}}{more}}}]}}"))
}

fn with_keys(keys: &str) -> String {
    policy(&format!("jwt: {{providers: [{{name: login, issuer: i, audiences: [a], jwks: {{{keys}}}}}]}}"))
}

fn messages(text: &str) -> Vec<String> {
    found(text, Options::default()).into_iter().map(|found| found.message).collect()
}

#[test]
fn a_policy_is_read_with_its_defaults() {
    let text = policy(
        "targetRefs: [{name: recording}, {kind: Gateway, name: edge}], jwt: {optional: true, providers: [
          {name: login, issuer: 'https://login.example', jwks: {url: 'https://login.example:8443/keys?v=1', refresh: 5m, allowPrivateAddresses: true}},
          {name: other, issuer: other, audiences: [a, b], jwks: {inline: {keys: [{kty: OKP}]}}, leeway: 1s, forward: true, algorithms: [ES256, EdDSA],
            from: [{header: X-Token}, {header: {name: Authorization}}, {header: {name: x-other, prefix: 'T '}}, {cookie: session}, {query: token}],
            claimsToHeaders: [{claim: sub, header: X-User}]}]}",
    );
    let Spec::AuthenticationPolicy(policy) = taken(&text).remove(0).spec else { panic!() };
    let jwt = policy.jwt.unwrap();
    assert!(jwt.optional && !policy.shadow && policy.mtls.is_none());
    let [login, other] = jwt.providers.as_slice() else { panic!() };
    let header = |name: &str, prefix: &str| TokenPlace::Header { name: name.to_owned(), prefix: prefix.to_owned() };
    let source =
        KeySource { url: "https://login.example:8443/keys?v=1".to_owned(), refresh: Duration::from_secs(300), allow_private: true };
    assert_eq!(login.keys, WrittenKeys::Url(source));
    assert_eq!((login.leeway, login.forward, login.places.as_slice()), (DEFAULT_LEEWAY, false, &[header("authorization", "Bearer ")][..]));
    assert_eq!((login.algorithms.len(), login.audiences.len()), (10, 0));
    assert_eq!(other.keys, WrittenKeys::Inline(r#"{"keys":[{"kty":"OKP"}]}"#.to_owned()));
    assert_eq!(other.algorithms, [TokenAlgorithm::Es256, TokenAlgorithm::EdDsa]);
    let places = [
        header("x-token", ""),
        header("authorization", "Bearer "),
        header("x-other", "T "),
        TokenPlace::Cookie("session".to_owned()),
        TokenPlace::Query("token".to_owned()),
    ];
    assert_eq!(other.places, places);
    assert_eq!((other.claim_headers[0].name.as_str(), other.claim_headers[0].claim.as_str()), ("x-user", "sub"));
}

#[test]
fn what_proves_nothing_is_refused() {
    for (text, message) in [
        (policy("jwt: {providers: []}"), "`jwt` has 1 to 16 providers"),
        (policy("jwt: {}"), "`jwt` needs `providers`"),
        (policy("mode: Shadow, mtls: {mode: Permissive}"), "this refuses nobody, so there is nothing to try"),
        (
            policy("targetRefs: [{kind: Gateway, name: e}], mtls: {mode: Strict}"),
            "who calls a Gateway has no certificate of the mesh, so `mtls` says nothing there",
        ),
        (policy("targetRefs: [{kind: TCPRoute, name: e}], mtls: {mode: Strict}"), "`TCPRoute` is no kind of target"),
        (with_keys("url: 'http://login.example/keys'"), "`http://login.example/keys` is no address of https"),
        (with_keys("url: 'file:///etc/passwd'"), "`file:///etc/passwd` is no address of https"),
        (
            with_keys("url: 'https://user:word@login.example/'"),
            "`https://user:word@login.example/` is no address: it has a host, no name or password, and nothing after a `#`",
        ),
        (with_keys("url: 'https:///keys'"), "`https:///keys` is no address: it has a host, no name or password, and nothing after a `#`"),
        (with_keys("url: 'https://a/', inline: '{}'"), "keys are fetched or written here"),
        (with_keys(""), "keys are fetched or written here"),
        (with_keys("inline: '{}', refresh: 5m"), "what is written here is never fetched"),
        (with_keys("inline: [1]"), "`inline` is a JWK Set, not a list"),
        (with_keys("url: 'https://a/', refresh: 1s"), "keys are fetched from once a minute to once a day"),
        (provider(", algorithms: [HS256]"), "`HS256` proves nothing: whoever can verify such a token can make one"),
        (provider(", algorithms: [none]"), "`none` proves nothing: whoever can verify such a token can make one"),
        (provider(", algorithms: [es256]"), "`es256` is no algorithm"),
        (provider(", algorithms: []"), "`algorithms` has 1 to 32 entries, or is left out"),
        (provider(", leeway: 10m"), "clocks differ by at most 300 s: more would be a longer life for every token"),
        (provider(", from: [{}]"), "a token stands in one place"),
        (provider(", from: [{cookie: a, query: b}]"), "a token stands in one place"),
        (provider(", from: [{cookie: 'a=b'}]"), "`a=b` is no name for a cookie"),
        (provider(", claimsToHeaders: [{claim: sub, header: Authorization}]"), "`authorization` says other things than a claim"),
        (
            provider(", claimsToHeaders: [{claim: sub, header: x-forwarded-client-cert}]"),
            "`x-forwarded-client-cert` says other things than a claim",
        ),
        (provider(", claimsToHeaders: [{claim: sub, header: x-lorica-user}]"), "`x-lorica-user` is the mesh's own"),
        (provider(", claimsToHeaders: [{claim: sub, header: host}]"), "the host is no header that filters change"),
        (provider(", claimsToHeaders: [{claim: a, header: x}, {claim: b, header: X}]"), "the header `x` tells of another claim already"),
    ] {
        assert_eq!(messages(&text), [message], "{text}");
    }
    let two = "jwt: {providers: [{name: a, issuer: i, audiences: [a], jwks: {inline: '{}'}}, {name: NAME, issuer: ISSUER, audiences: [a], jwks: {inline: '{}'}}]}";
    for (name, issuer, message) in
        [("a", "j", "another provider of the policy is named `a`"), ("b", "i", "the tokens of `i` are those of the provider `a` already")]
    {
        assert_eq!(messages(&policy(&two.replace("NAME", name).replace("ISSUER", issuer))), [message]);
    }
}

#[test]
fn what_it_is_about_must_be_there_and_show_tokens() {
    let of = |targets: &str| {
        policy(&format!("targetRefs: [{targets}], jwt: {{providers: [{{name: l, issuer: i, audiences: [a], jwks: {{inline: '{{}}'}}}}]}}"))
    };
    let bytes = |name: &str| format!("port 9000 of `{name}.contact` takes bytes, which show no token: every connection would be refused");
    assert_eq!(messages(&of("{name: recording}")), [bytes("recording")]);
    assert!(messages(&of("{name: transcript}")).is_empty());
    assert_eq!(messages(&of("{name: recoding}")), ["there is no service `recoding.contact`"]);
    assert_eq!(messages(&of("{kind: Gateway, name: edge}")), ["there is no Gateway `edge.contact`"]);
    let in_mesh = route("r", "{kind: Service, name: recording, port: 80}", "  - {}") + &of("{kind: HTTPRoute, name: r}");
    assert_eq!(messages(&in_mesh), ["HTTPRoute `r` routes calls inside the mesh, whose tokens are asked for where they arrive"]);
    let web = service("web", "{port: 80}");
    let any = (web.clone() + &of("{name: web}")).replace("audiences: [a], ", "");
    assert_eq!(messages(&any), ["every token of `i` is taken, whomever it was issued for"]);
    assert!(found(&any, Options::default()).iter().all(|found| found.severity == Severity::Warning));
    let twice = web + &of("{name: web}") + &of("{name: web}").replace("name: users", "name: more");
    assert_eq!(messages(&twice).len(), 2, "each is told of the other");
}
