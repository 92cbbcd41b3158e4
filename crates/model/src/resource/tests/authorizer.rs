//! Services that are asked for leave: what is read, and what is refused.

use std::time::Duration;

use super::*;
use crate::snapshot::{AccessAction, Authorizer, AuthorizerProtocol, ShownBody};

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: door, namespace: contact}}\nspec: {{{spec}}}\n---\n"
    )
}

/// A policy of `transcript`.
fn external(external: &str) -> String {
    policy(&format!("targetRefs: [{{name: transcript}}], action: External, external: {{{external}}}"))
}

fn messages(text: &str) -> Vec<String> {
    found(text, Options::default()).into_iter().map(|found| found.message).collect()
}

fn written(text: &str) -> Authorizer {
    let documents = read("f.yaml", text).unwrap();
    let Spec::AuthorizationPolicy(policy) = &documents[0].resource.spec else { panic!() };
    assert_eq!(policy.action, AccessAction::External);
    policy.external.clone().unwrap().authorizer
}

#[test]
fn a_service_is_read_with_its_defaults() {
    let grpc = written(&external("service: {name: door, port: 9000}, protocol: Grpc"));
    assert_eq!((grpc.port.to_string().as_str(), &grpc.protocol), ("door.contact.mesh:9000", &AuthorizerProtocol::Grpc));
    assert_eq!((grpc.timeout, grpc.fail_open, grpc.body), (Duration::from_millis(200), false, None));
    let http = written(&external(
        "service: {name: door, namespace: auth, port: 80}, protocol: Http, timeout: 1s, failOpen: true, pathPrefix: /check,
         includeRequestHeaders: [X-Token], headersToUpstreamOnAllow: [X-User], headersToClientOnAllow: [x-told],
         headersToClientOnDeny: [x-why], body: {maxBytes: 10, allowPartial: true}",
    ));
    let list = |name: &str| vec![name.to_owned()];
    let (told_on_allow, told_on_deny) = (list("x-told"), Some(list("x-why")));
    assert_eq!(http.protocol, AuthorizerProtocol::Http { path_prefix: "/check".to_owned(), told_on_allow, told_on_deny });
    assert_eq!((http.port.to_string().as_str(), http.shown, http.sets), ("door.auth.mesh:80", list("x-token"), list("x-user")));
    assert_eq!((http.timeout, http.fail_open), (Duration::from_secs(1), true));
    assert_eq!(http.body, Some(ShownBody { most: 10, partial: true, bytes: false }));
}

#[test]
fn what_no_service_could_do_is_refused() {
    let door = "service: {name: recording, port: 80}, protocol: Http";
    for (text, message) in [
        (policy("action: External"), "a policy whose action is External asks a service, and this one names none"),
        (policy(&format!("action: Allow, external: {{{door}}}")), "only a policy whose action is External asks a service"),
        (external(&format!("{door}, timeout: 0s")), "in no time nobody answers"),
        (external(&format!("{door}, pathPrefix: check")), "`check` is no beginning of a path"),
        (external(&format!("{door}, headersToUpstreamOnAllow: [X-Lorica-Attempt]")), "`x-lorica-attempt` is the mesh's own"),
        (
            external(&format!("{door}, headersToUpstreamOnAllow: [X-Forwarded-Client-Cert]")),
            "`x-forwarded-client-cert` is nothing that a service may set",
        ),
        (external(&format!("{door}, includeRequestHeaders: [a, A]")), "`a` is there twice"),
        (external(&format!("{door}, body: {{maxBytes: 65537}}")), "`maxBytes` is from 1 to 65536, not 65537"),
        (
            external(&format!("{door}, body: {{maxBytes: 1, packAsBytes: true}}")),
            "`packAsBytes` is about gRPC, and HTTP always carries bytes",
        ),
        (external("service: {name: recording, port: 80}, protocol: Grpc"), "port 80 of `recording.contact` is not declared to speak gRPC"),
        (external("service: {name: recording, port: 81}, protocol: Http"), "the service `recording.contact` has no port 81"),
    ] {
        assert_eq!(messages(&text), [message], "{text}");
    }
    let grpc = service("door", "{port: 9000, appProtocol: grpc}");
    let asks = |more: &str| grpc.clone() + &external(&format!("service: {{name: door, port: 9000}}, protocol: Grpc{more}"));
    assert!(messages(&asks("")).is_empty());
    assert_eq!(messages(&asks(", pathPrefix: /a")), ["`pathPrefix` is about HTTP, and gRPC has one path"]);
    assert_eq!(messages(&asks(", headersToClientOnDeny: [a]")), ["what callers are told of the answer is about HTTP"]);
    let bytes = service("bytes", "{port: 9000, appProtocol: tcp}")
        + &policy(&format!("targetRefs: [{{name: bytes}}], action: External, external: {{{door}}}"));
    assert_eq!(messages(&bytes), ["the ports of `bytes.contact` take bytes, and a service can be asked of requests only"]);
}

#[test]
fn who_is_asked_is_not_asked_about_being_asked() {
    let door = service("door", "{port: 9000, appProtocol: grpc}") + &service("gate", "{port: 9000, appProtocol: grpc}");
    let asks = |name: &str, targets: &str, asked: &str| {
        let spec = format!("{targets} action: External, external: {{service: {{name: {asked}, port: 9000}}, protocol: Grpc}}");
        policy(&spec).replacen("name: door,", &format!("name: {name},"), 1)
    };
    let message = |asked: &str| format!("to ask `{asked}.contact` would be a call that it is asked about");
    assert_eq!(messages(&(door.clone() + &asks("a", "", "door"))), [message("door")], "of all of the namespace");
    assert_eq!(messages(&(door.clone() + &asks("a", "targetRefs: [{name: door}],", "door"))), [message("door")]);
    let both = asks("a", "targetRefs: [{name: door}],", "gate") + &asks("b", "targetRefs: [{name: gate}],", "door");
    assert_eq!(messages(&(door.clone() + &both)), [message("gate"), message("door")], "by way of each other");
    let row = asks("a", "targetRefs: [{name: recording}],", "gate") + &asks("b", "targetRefs: [{name: gate}],", "door");
    assert_eq!(messages(&(door + &row)), [""; 0]);
}

#[test]
fn bytes_at_a_gateway_have_nobody_asked() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: contact}\nspec:\n  gatewayClassName: lorica\n  listeners: [{name: web, port: 80, protocol: HTTP}, {name: sql, port: 5432, protocol: TCP}]\n---\n";
    let asks = |rules: &str| {
        let door = "external: {service: {name: recording, port: 80}, protocol: Http}";
        gateway.to_owned() + &policy(&format!("targetRefs: [{{kind: Gateway, name: edge}}], action: External, {door}{rules}"))
    };
    let message = "the listener `sql` of that Gateway takes bytes, and a service can be asked of requests only";
    for rules in ["", ", rules: [{to: [{notPaths: [/health]}]}]"] {
        assert_eq!(messages(&asks(rules)), [message], "{rules}");
    }
    assert_eq!(messages(&asks(", rules: [{to: [{ports: [80]}]}]")), [""; 0]);
}
