//! Claims and conditions of AuthorizationPolicies: what is read, what is refused and where, and what is warned of.

use super::*;
use crate::snapshot::ClaimMatch;

fn policy(spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n---\n")
}

/// What is found, each with what is written there.
fn told(text: &str) -> Vec<(Severity, String)> {
    let told = |found: Diagnostic| {
        let hint = found.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        (found.severity, format!("{} | {}{hint}", &text[found.span], found.message))
    };
    found(text, Options::default()).into_iter().map(told).collect()
}

#[test]
fn claims_and_conditions_are_read() {
    let text = policy(
        "{rules: [{from: [{claims: [{name: groups, values: [admin, 7, true]}, {name: sub}], notClaims: [{name: a.b, values: [x]}]}],
          when: \"request.method == 'GET'\"}]}",
    );
    let Spec::AuthorizationPolicy(policy) = taken(&text).remove(0).spec else { panic!() };
    let claim =
        |name: &str, values: &[&str]| ClaimMatch { name: name.to_owned(), values: values.iter().map(ToString::to_string).collect() };
    let source = &policy.rules[0].from[0];
    assert_eq!(source.claims, [claim("groups", &["admin", "7", "true"]), claim("sub", &[])]);
    assert_eq!(source.not_claims, [claim("a.b", &["x"])]);
    assert_eq!(policy.rules[0].when.as_ref().map(|when| when.expression.as_str()), Some("request.method == 'GET'"));
}

#[test]
fn what_could_mean_something_else_is_refused_at_its_place() {
    let near = "request.methd | there is no attribute `request.methd` (did you mean `request.method`?)";
    let empty = "is empty (name something, or leave it out, which means everything)";
    for (rule, message) in [
        ("{when: request.methd == 'a'}", near.to_owned()),
        ("{when: '''a'' == request.methd'}", near.to_owned()),
        ("{when: request.method}", "request.method | the expression gives a string, and a condition is true or false".to_owned()),
        ("{when: [a]}", "[a] | `when` is text, not a list".to_owned()),
        ("{from: [{claims: []}]}", format!("[] | `claims` {empty}")),
        ("{from: [{claims: [{name: a, values: []}]}]}", format!("[] | `values` {empty}")),
        (
            "{from: [{claims: [{name: a, values: ['*']}]}]}",
            "'*' | values of claims are compared as a whole (leave `values` out, which means any)".to_owned(),
        ),
        (
            "{from: [{claims: [{name: scope, values: [read write]}]}]}",
            "read write | `scope` is a list of words, of which none has a space (name each word in an entry of its own)".to_owned(),
        ),
        ("{from: [{claims: [{values: [a]}]}]}", "{values: [a]} | a claim needs `name`".to_owned()),
        ("{from: [{claims: [{name: ''}]}]}", "'' | a claim has a name (write `sub`, or a path: `realm_access.roles`)".to_owned()),
    ] {
        assert_eq!(told(&policy(&format!("{{rules: [{rule}]}}"))), [(Severity::Error, message)], "{rule}");
    }
    for style in ["|", ">-"] {
        let block = told(&policy(&format!("\n  rules:\n  - when: {style}\n      'GET' == request.method\n      && request.prot == 80")));
        assert!(block.len() == 1 && block[0].1.starts_with("request.prot | "), "{style} {block:?}");
    }
}

const WEB: &str = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}, {port: 90, appProtocol: tcp}]}\n---\n";
const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}
spec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
";

fn tokens(rest: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: t, namespace: shop}}
spec: {{{rest} jwt: {{optional: true, providers: [{{name: l, issuer: i, audiences: [a], jwks: {{url: 'https://l.example/keys'}}}}]}}}}\n---\n"
    )
}

#[test]
fn claims_where_no_token_is_verified_are_warned_of() {
    let at_web = "targetRefs: [{kind: Service, name: web}],";
    let asks = |targets: &str, rule: &str| policy(&format!("{{{targets} rules: [{rule}]}}")) + WEB;
    let claims = "{from: [{claims: [{name: sub}]}], to: [{ports: [80]}]}";
    let warned = |place: &str, rest: &str| {
        let hint = "ask for them by an AuthenticationPolicy with `jwt` for the same target";
        let message = format!("no AuthenticationPolicy asks for tokens at {rest}, so that nothing is known of claims there");
        vec![(Severity::Warning, format!("{place} | {message} ({hint})"))]
    };
    assert_eq!(told(&asks(at_web, claims)), warned("[{name: sub}]", "the Service `web`"));
    assert_eq!(told(&asks("", claims)), warned("[{name: sub}]", "services of `shop`"));
    assert_eq!(told(&asks(at_web, "{when: has(claims.sub), to: [{ports: [80]}]}")), warned("has(claims.sub)", "the Service `web`"));
    assert_eq!(told(&asks(at_web, "{when: connection.mtls}")), []);
    for targets in [at_web, ""] {
        for of_tokens in [at_web, ""] {
            assert_eq!(told(&(asks(targets, claims) + &tokens(of_tokens))), [], "{targets} {of_tokens}");
        }
    }
    // At a gateway a route may ask for them.
    for of_policy in ["{kind: Gateway, name: edge}", "{kind: HTTPRoute, name: all}"] {
        let asking = asks(&format!("targetRefs: [{of_policy}],"), claims) + EDGE;
        assert_eq!(told(&asking).len(), 1, "{of_policy}");
        for of_tokens in ["{kind: Gateway, name: edge}", "{kind: HTTPRoute, name: all}"] {
            assert_eq!(told(&(asking.clone() + &tokens(&format!("targetRefs: [{of_tokens}],")))), [], "{of_policy} {of_tokens}");
        }
        assert_eq!(told(&(asking + &tokens(at_web))).len(), 1, "{of_policy}");
    }
}

#[test]
fn what_bytes_do_not_have_is_refused() {
    let of = |rule: &str| -> Vec<String> {
        let found = told(&(policy(&format!("{{targetRefs: [{{name: web}}], rules: [{rule}]}}")) + WEB + &tokens("")));
        found.into_iter().filter(|(severity, _)| *severity == Severity::Error).map(|(_, told)| told).collect()
    };
    let hint = "(the rule would never hold; name `ports`, or declare the port with `appProtocol: http`)";
    assert_eq!(
        of("{from: [{claims: [{name: sub}]}], to: [{ports: [90]}]}"),
        [format!("[{{name: sub}}] | `web.shop` takes bytes at port 90, which show no token {hint}")]
    );
    assert_eq!(
        of("{when: request.method == 'a', to: [{ports: [90]}]}"),
        [format!("request.method == 'a' | `web.shop` takes bytes at port 90, which are no requests, as this condition asks about {hint}")]
    );
    for rule in [
        "{when: connection.mtls, to: [{ports: [90]}]}",
        "{from: [{claims: [{name: sub}]}]}",
        "{from: [{claims: [{name: sub}]}, {addresses: [10.0.0.0/8]}], to: [{ports: [90]}]}",
    ] {
        assert_eq!(of(rule), [] as [String; 0], "{rule}");
    }
}

#[test]
fn what_an_envoy_does_not_evaluate_is_told() {
    for (when, told) in [("has(claims.a)", 0), ("claims.a.exists(a, a == 'b')", 1)] {
        let text = policy(&format!("{{rules: [{{when: \"{when}\"}}]}}"));
        let documents = read("a.yaml", &text).unwrap();
        assert_eq!(beyond_envoy(&documents, |_| text.clone()).len(), told, "{when}");
    }
}
