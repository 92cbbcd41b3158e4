//! What is read, what is refused and how that looks: mistakes of each sort, at the door and from the store.

#![allow(clippy::unwrap_used, clippy::panic)]

mod authentication;
mod authorizer;
mod conditions;
mod fault;
mod rate_limit;
mod telemetry;
mod trust_bundle;
mod workload_identity;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::snapshot::{MtlsMode, PathMatch, Protocol, RouteMatch, Transport};

fn service(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{ports: [{ports}]}}\n---\n"
    )
}

fn route(name: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: contact}}\nspec:\n  parentRefs: [{parent}]\n  rules:\n{rules}\n---\n"
    )
}

fn rendered(found: &[Diagnostic], text: &str) -> String {
    found.iter().map(|found| found.render(text, false)).collect::<Vec<_>>().join("\n\n")
}

#[track_caller]
fn taken(text: &str) -> Vec<Resource> {
    match read("mesh.yaml", text) {
        Ok(documents) => documents.into_iter().map(|document| document.resource).collect(),
        Err(found) => panic!("{}", rendered(&found, text)),
    }
}

/// What `read`, then `check` in a world of two services, find.
fn found(text: &str, options: Options) -> Vec<Diagnostic> {
    let mut world = Resources::default();
    taken(&(service("recording", "{port: 80, appProtocol: http}, {port: 9000, appProtocol: tcp}") + &service("transcript", "{port: 80}")))
        .into_iter()
        .for_each(|resource| drop(world.insert(resource)));
    match read("mesh.yaml", text) {
        Ok(documents) => check(&documents, &world, options, |_| text.to_owned()),
        Err(found) => found,
    }
}

#[track_caller]
fn refused(text: &str) -> String {
    let found = found(text, Options::default());
    assert!(!found.is_empty(), "it was taken");
    rendered(&found, text)
}

/// The messages and the text that each underlines.
fn pointed(text: &str) -> Vec<(String, String)> {
    found(text, Options::default()).into_iter().map(|found| (found.message, text[found.span].to_owned())).collect()
}

const RECORDING: &str = "{kind: Service, name: recording, port: 80}";

#[test]
fn every_kind_is_read() {
    let text = "
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording, labels: {team: voice}, annotations: {note: '1'}}
spec:
  ports: [{port: 80, name: web, appProtocol: kubernetes.io/h2c}, {port: 81}]
  accounts: [recorder]
---
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {name: old-1}
spec: {service: recording, address: 'fd00::1', ports: [{servicePort: 80, port: 8080}], weight: 3, version: v2, locality: {region: eu, zone: a}, transport: Plaintext}
---
---
{\"apiVersion\": \"lorica.io/v1alpha1\", \"kind\": \"AuthenticationPolicy\", \"metadata\": {\"name\": \"all\", \"namespace\": \"contact\"}, \"spec\": {\"mtls\": {\"mode\": \"Permissive\"}}}
";
    let resources = taken(text);
    let keys: Vec<_> = resources.iter().map(|resource| resource.key().to_string()).collect();
    assert_eq!(keys, ["Service recording.default", "Workload old-1.default", "AuthenticationPolicy all.contact"]);
    assert_eq!((&resources[0].metadata.labels["team"], &resources[0].metadata.annotations["note"]), (&"voice".to_owned(), &"1".to_owned()));
    let Spec::Service(service) = &resources[0].spec else { panic!() };
    assert_eq!(
        service.ports.iter().map(|port| (port.port, port.protocol)).collect::<Vec<_>>(),
        [(80, Protocol::Http2), (81, Protocol::Detect)]
    );
    let Spec::Workload(workload) = &resources[1].spec else { panic!() };
    assert_eq!(
        (workload.weight, workload.transport, workload.ports[0].port, workload.address.is_ipv6()),
        (3, Transport::Plaintext, 8080, true)
    );
    let Spec::AuthenticationPolicy(policy) = &resources[2].spec else { panic!() };
    assert_eq!((policy.mtls, policy.targets.len()), (Some(MtlsMode::Permissive), 0));
}

#[test]
fn all_mistakes_of_all_documents_are_told_at_once() {
    let text = "apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: Web}
spec:
  ports: [{port: eighty}, {port: 70000}, {port: 80, appProtocol: htpp}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web}]}, {matches: [{path: {value: a}, method: get}]}]
";
    insta::assert_snapshot!(refused(text));
}

#[test]
fn fields_not_carried_out_are_never_passed_over() {
    let pointed = pointed(&route("r", RECORDING, "  - sessionPersistence: {}"));
    assert_eq!(
        pointed,
        [("`sessionPersistence` is part of the specification and not supported here yet".to_owned(), "sessionPersistence".to_owned())]
    );
}

#[test]
fn filters_are_held_against_the_specification() {
    let to = "backendRefs: [{name: recording, port: 80}]";
    for (rule, message) in [
        ("filters: [{type: RequestMirror}]", "a filter needs `requestMirror`"),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]", "304 sends nobody elsewhere"),
        (
            &format!("filters: [{{type: RequestRedirect, requestRedirect: {{}}}}], {to}"),
            "a rule that redirects every request has no backends",
        ),
        (
            "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
            "a prefix is replaced where the rule has one match, and that by `PathPrefix`",
        ),
        ("filters: [{type: URLRewrite, urlRewrite: {hostname: a_b}}]", "`a_b` is no host name"),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]",
            "the host is no header that filters change",
        ),
        (
            "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Transfer-Encoding]}}]",
            "`transfer-encoding` is of the connection, which is the proxy's own",
        ),
        (
            "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [b]}}]",
            "a filter of this type is there already",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: recording, port: 80}, percent: 1, fraction: {numerator: 1}}}]",
            "a mirror has `percent` or `fraction`, not both",
        ),
        ("backendRefs: [{name: recording}]", "a backend needs the `port` of `recording`"),
    ] {
        let told: Vec<String> =
            pointed(&route("r", RECORDING, &format!("  - {{{rule}}}"))).into_iter().map(|(message, _)| message).collect();
        assert_eq!(told, [message]);
    }
}

#[test]
fn listeners_are_held_against_the_specification() {
    let gateway = |listeners: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: lorica, listeners: [{listeners}]}}\n"
        )
    };
    for (listeners, message) in [
        ("{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}", "another listener is named `a`"),
        (
            "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}",
            "the listener `a` takes the same hosts of port 80 already",
        ),
        ("{name: a, port: 443, protocol: HTTPS}", "a listener for HTTPS needs `tls`"),
        ("{name: a, port: 80, protocol: TCP, hostname: a.example}", "a listener for bytes sees no host, so it has no `hostname`"),
        ("{name: a, port: 80, protocol: HTTP, hostname: 'a.*'}", "`a.*` is no host name"),
        ("{name: a, port: 0, protocol: HTTP}", "a port is from 1 to 65535, not 0"),
    ] {
        let told: Vec<String> = pointed(&gateway(listeners)).into_iter().map(|(message, _)| message).collect();
        assert_eq!(told, [message]);
    }
}

#[test]
fn grpc_matches_are_matches_of_http() {
    let of = |matches: &str| {
        let text = route("r", RECORDING, &format!("  - matches: [{matches}]")).replace("HTTPRoute", "GRPCRoute");
        match taken(&text).remove(0).spec {
            Spec::GrpcRoute(route) => route.rules[0].matches[0].0.path.clone(),
            _ => panic!(),
        }
    };
    assert_eq!(of("{method: {service: a.B, method: C}}"), PathMatch::Exact("/a.B/C".to_owned()));
    assert_eq!(of("{method: {service: a.B}}"), PathMatch::Prefix("/a.B/".to_owned()));
    assert_eq!(of("{headers: [{name: a, value: b}]}"), PathMatch::Prefix("/".to_owned()));
    let PathMatch::Regex(pattern) = of("{method: {method: C}}") else { panic!() };
    assert!(pattern.matches("/a.B/C") && !pattern.matches("/a.B/CD"));
}

#[test]
fn the_bounds_of_the_specification_hold() {
    let matches = |count: usize| (0..count).map(|index| format!("{{path: {{value: /{index}}}}}")).collect::<Vec<_>>().join(", ");
    let rules = |count: usize, each: usize| (0..count).map(|_| format!("  - matches: [{}]\n", matches(each))).collect::<String>();
    let read = |rules: &str| {
        read("r", &route("r", RECORDING, rules))
            .map(|_| ())
            .map_err(|found| found.into_iter().map(|found| found.message).collect::<Vec<_>>())
    };
    assert_eq!(read(&rules(2, 64)), Ok(()));
    assert_eq!(read(&rules(16, 8)), Ok(()));
    assert_eq!(read(&rules(1, 65)), Err(vec!["a rule has at most 64 matches".to_owned()]));
    assert_eq!(read(&rules(17, 1)), Err(vec!["a route has at most 16 rules".to_owned()]));
    assert_eq!(read(&rules(3, 43)), Err(vec!["a route has at most 128 matches, all rules together".to_owned()]));
}

#[test]
fn what_the_specification_defaults_is_defaulted() {
    let of = |text: &str| match taken(text).remove(0).spec {
        Spec::HttpRoute(route) => route,
        _ => panic!(),
    };
    let bare = route("r", RECORDING, "").replace("  rules:\n", "");
    let rules = of(&bare).rules;
    assert_eq!((rules.len(), &rules[0].matches[0].0, rules[0].backends.len()), (1, &RouteMatch::any(), 0));
    let path =
        |written: &str| of(&route("r", RECORDING, &format!("  - matches: [{{path: {written}}}]"))).rules[0].matches[0].0.path.clone();
    assert_eq!(path("{}"), PathMatch::Prefix("/".to_owned()));
    assert_eq!(path("{type: Exact}"), PathMatch::Exact("/".to_owned()));
    assert_eq!(path("{value: /a}"), PathMatch::Prefix("/a".to_owned()));
}

#[test]
fn what_bounds_the_door_bounds_no_store() {
    let text = route("r", "", "  - name: a_b").replace("  rules:\n  - name: a_b", "  rules: []");
    assert_eq!(
        pointed(&text),
        [
            ("a route without a parent routes nothing".to_owned(), "[]".to_owned()),
            ("a route has at least one rule".to_owned(), "[]".to_owned())
        ]
    );
    let json: serde_json::Value = serde_saphyr::from_str(text.trim_end_matches("---\n")).unwrap();
    stored(&json).unwrap();
    for (parents, rules, message) in [
        (&format!("{RECORDING}, {RECORDING}")[..], "  - {}", "`recording.contact` is a parent already"),
        (RECORDING, "  - name: a_b", "`a_b` is no name: it has only lower case letters, digits, hyphens and dots"),
        (
            RECORDING,
            "  - {name: a, matches: [{path: {value: /a}}]}\n  - {name: a, matches: [{path: {value: /b}}]}",
            "another rule is named `a`",
        ),
        (RECORDING, "  - matches: [{headers: [{name: a, value: ''}]}]", "a value has 1 to 4096 characters"),
    ] {
        assert_eq!(pointed(&route("r", parents, rules)).into_iter().map(|(message, _)| message).collect::<Vec<_>>(), [message]);
    }
}

#[test]
fn a_broken_document_hides_no_mistake_of_another() {
    let text = "# Services.\n%YAML 1.2\n---\n".to_owned()
        + &service("a", "{port: 80}")
        + "kind: Service\n  metadata: [\n---\n"
        + &service("ä", "{port: 0}")
        + &service("b", "{port: 80, port: 81}")
        + "a: |\n --- no mark\n---x: 1\n";
    insta::assert_snapshot!(refused(&text));
}

#[test]
fn the_name_that_was_meant_is_looked_for_where_it_was_looked_up() {
    let hint = |parent: &str| found(&route("r", parent, "  - {}"), Options::default()).remove(0).hint.unwrap();
    assert_eq!(hint("{kind: Service, name: recordings}"), "did you mean `recording`?");
    assert_eq!(hint("{kind: Service, name: recording, namespace: shop}"), "there is one in the namespace `contact`");
    assert_eq!(hint("{kind: Service, name: web}"), "create it in the same change, or say --allow-missing");
}

#[test]
fn a_match_of_another_file_is_named_by_its_place() {
    let one = route("one", RECORDING, "  - matches: [{path: {value: /b}}, {path: {value: /a}}]");
    let other = route("other", RECORDING, "  - matches: [{path: {value: /a}}]");
    let text = |file: &str| if file == "one.yaml" { one.clone() } else { other.clone() };
    let mut change = read("one.yaml", &one).unwrap();
    change.extend(read("other.yaml", &other).unwrap());
    let found = check(&change, &Resources::default(), Options { allow_missing: true }, text);
    let [.., told] = found.as_slice() else { panic!() };
    assert_eq!(
        (told.file.as_str(), told.message.as_str(), told.severity),
        (
            "other.yaml",
            "rule 0 of HTTPRoute one.contact (one.yaml:7:36) takes the same requests of service recording.contact; only their age decides between them",
            Severity::Warning
        )
    );
    // Stored before, it has no place in a file any more.
    let world = change.drain(..1).map(|document| document.resource).fold(Resources::default(), |mut world, resource| {
        world.insert(resource);
        world
    });
    let found = check(&change, &world, Options { allow_missing: true }, text);
    assert!(found.iter().any(|found| found.message.starts_with("rule 0 of HTTPRoute one.contact takes")), "{found:?}");
}

#[test]
fn paths_names_and_patterns_are_those_that_can_come_in() {
    for bad in ["a", "/a//b", "/a/./b", "/a/../b", "/a/..", "/a/.", "/a%2Fb", "/a%2fb", "'/a#b'", "/a b", "/a%zz", "/ä", "'/a?b=c'"] {
        let text = route("r", RECORDING, &format!("  - matches: [{{path: {{type: Exact, value: {bad}}}}}]"));
        assert_eq!(pointed(&text).len(), 1, "{bad}");
    }
    for good in ["/", "/a.b/..c", "/a%20b", "/a/b/", "'/a~b!c$d&e(f)g*h+i,j;k=l:m@n'"] {
        taken(&route("r", RECORDING, &format!("  - matches: [{{path: {{type: Exact, value: {good}}}}}]")));
    }
    for bad in [
        "{headers: [{name: 'a b', value: c}]}",
        "{headers: [{name: X, value: a}, {name: x, value: b}]}",
        "{headers: [{name: x, type: RegularExpression, value: '(?=a)'}]}",
        "{queryParams: [{name: '', value: c}]}",
        "{queryParams: [{name: 'a b', value: c}]}",
    ] {
        assert_eq!(pointed(&route("r", RECORDING, &format!("  - matches: [{bad}]"))).len(), 1, "{bad}");
    }
}

#[test]
fn a_file_of_too_many_documents_is_told_to_be_split() {
    let services = |count: usize| (0..count).map(|number| service(&format!("s{number}"), "{port: 80}")).collect::<String>();
    assert_eq!(taken(&services(1000)).len(), 1000);
    let found = read("mesh.yaml", &services(1030)).unwrap_err();
    assert_eq!(
        found.iter().map(|found| found.message.as_str()).collect::<Vec<_>>(),
        ["a file has at most 1024 documents: write the rest into another"]
    );
}

#[test]
fn durations_are_those_of_the_gateway_api() {
    let timeouts = |request: &str| route("r", RECORDING, &format!("  - timeouts: {{request: {request}}}"));
    for (written, millis) in [("10s", 10_000), ("1h30m", 5_400_000), ("500ms", 500), ("1h1m1s1ms", 3_661_001), ("00010s", 10_000)] {
        let resources = taken(&timeouts(written));
        let Spec::HttpRoute(route) = &resources[0].spec else { panic!() };
        assert_eq!(route.rules[0].request_timeout.map(|limit| limit.as_millis()), Some(millis), "{written}");
    }
    let Spec::HttpRoute(unlimited) = &taken(&timeouts("0s"))[0].spec else { panic!() };
    assert_eq!(unlimited.rules[0].request_timeout, Some(std::time::Duration::ZERO));
    for bad in ["10", "10 s", "-1s", "1.5s", "1d", "s", "100000s", "1s1s1s1s1s", "1µs", "''"] {
        assert_eq!(pointed(&timeouts(bad)).len(), 1, "{bad}");
    }
    insta::assert_snapshot!(refused(&route(
        "r",
        RECORDING,
        "  - timeouts: {request: 10 seconds}\n  - timeouts: {request: 1s, backendRequest: 2s}\n    matches: [{path: {value: /a}}]"
    )));
}

#[test]
fn what_is_missing_is_told_or_warned_of() {
    let text = route("r", "{kind: Service, name: recordng}", "  - backendRefs: [{name: recording, port: 81}]");
    insta::assert_snapshot!(refused(&text));
    let found = found(&text, Options { allow_missing: true });
    assert_eq!(found.iter().map(|found| found.severity).collect::<Vec<_>>(), [Severity::Warning, Severity::Warning]);
    // The same change brings it.
    assert_eq!(pointed(&(text + &service("recordng", "{port: 80}") + &service("recording", "{port: 81}"))), []);
}

#[test]
fn a_match_that_another_has_is_refused_with_both_places() {
    let rules = "  - matches: [{path: {value: /a}, headers: [{name: X, value: '1'}, {name: y, value: '2'}]}]\n  - matches: [{path: {value: /a/}, headers: [{name: y, value: '2'}, {name: x, value: '1'}]}]";
    insta::assert_snapshot!(refused(&route("r", RECORDING, rules)));
    let mine = route("mine", RECORDING, "  - matches: [{path: {value: /a}}]");
    let all_ports = route("all", "{kind: Service, name: recording}", "  - matches: [{path: {value: /a}}]");
    insta::assert_snapshot!(refused(&(mine.clone() + &all_ports)));
    let other_port = route("other", "{kind: Service, name: transcript, port: 80}", "  - matches: [{path: {value: /a}}]");
    assert_eq!(pointed(&(mine.clone() + &other_port)), []);
    let callers = mine.replace("namespace: contact", "namespace: shop").replace("name: recording", "name: recording, namespace: contact");
    assert_eq!(pointed(&(mine + &callers)), []);
}

#[test]
fn an_expression_behind_a_prefix_is_told_to_get_nothing() {
    let regex = |pattern: &str| format!("  - matches: [{{path: {{type: RegularExpression, value: '{pattern}'}}}}]\n");
    let told = |rules: &str| pointed(&route("r", RECORDING, rules));
    for (prefix, pattern) in [("/", ".*"), ("/a", "/a/[0-9]+"), ("/a/", "/a/b"), ("/", "(?i)/A"), ("/", "/a|/b")] {
        let found = told(&(regex(pattern) + &format!("  - matches: [{{path: {{value: {prefix}}}}}]\n")));
        assert_eq!(found.len(), 1, "{prefix} {pattern}");
        assert_eq!(found[0].0, "rule 0 never gets a request: rule 1 takes all that it would, as expressions come after prefixes");
    }
    for (prefix, pattern) in [("/a", "/a[0-9]+"), ("/a", "/a/?b"), ("/a", "/a/*"), ("/a", "/a/b|/c"), ("/ab", "/a.*")] {
        assert_eq!(told(&(regex(pattern) + &format!("  - matches: [{{path: {{value: {prefix}}}}}]\n"))), [], "{prefix} {pattern}");
    }
    let narrow = "  - matches: [{path: {value: /}, method: GET}]\n";
    assert_eq!(told(&(regex("/a.*") + narrow)), []);
    assert_eq!(told(&(regex("/a.*").replace("}}]", "}, method: GET}]") + narrow)).len(), 1);
    insta::assert_snapshot!(refused(&route("r", RECORDING, &(regex("/a/.*") + "  - backendRefs: [{name: recording, port: 80}]\n"))));

    // Between routes, whichever comes later is told.
    let all = route("all", RECORDING, "  - backendRefs: [{name: recording, port: 80}]");
    let some = route("some", RECORDING, &regex("/a/.*"));
    assert_eq!(
        pointed(&(all.clone() + &some))[0].0,
        "rule 0 of HTTPRoute all.contact takes all requests of service recording.contact that this would, as expressions come after prefixes"
    );
    assert_eq!(
        pointed(&(some + &all))[0].0,
        "rule 0 of HTTPRoute some.contact gets no request of service recording.contact any more: this takes them first, as expressions come after prefixes"
    );
}

#[test]
fn routes_of_one_listener_that_meet_are_told() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: contact}\nspec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 81, protocol: TCP}, {name: more, port: 82, protocol: TCP}]}\n---\n";
    let at = |name: &str, host: &str| {
        let rules = "  - backendRefs: [{name: recording, port: 80}]";
        route(name, "{name: edge}", rules).replace("spec:\n", &format!("spec:\n  hostnames: [{host}]\n"))
    };
    let told = |text: &str| {
        pointed(&(gateway.to_owned() + &service("recording", "{port: 80}") + text)).into_iter().map(|(told, _)| told).collect::<Vec<_>>()
    };
    assert_eq!(
        told(&(at("a", "a.example") + &at("b", "a.example"))),
        ["rule 0 of HTTPRoute a.contact takes the same requests of Gateway edge.contact; only their age decides between them"]
    );
    assert!(told(&(at("a", "a.example") + &at("b", "\"*.example\""))).is_empty(), "the more specific host decides");
    let bytes = |name: &str, section: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{parentRefs: [{{name: edge, sectionName: {section}}}], rules: [{{backendRefs: [{{name: recording, port: 80}}]}}]}}\n---\n"
        )
    };
    assert_eq!(
        told(&(bytes("a", "tcp") + &bytes("b", "tcp"))),
        ["TCPRoute a.contact takes the same connections of Gateway `edge`; only the older of both gets any"]
    );
    assert!(told(&(bytes("a", "tcp") + &bytes("b", "more"))).is_empty());
}

#[test]
fn routes_that_lead_in_a_circle_are_told_to_lead_on_once() {
    let to = |name: &str, from: &str, to: &str| {
        route(name, &format!("{{kind: Service, name: {from}}}"), &format!("  - backendRefs: [{{name: {to}, port: 80}}]"))
    };
    let services = ["a", "b", "c"].map(|name| service(name, "{port: 80}")).concat();
    let told = |text: String| pointed(&(services.clone() + &text));
    assert_eq!(
        told(to("ab", "a", "b") + &to("bc", "b", "c") + &to("ca", "c", "a")),
        [("b", "a"), ("c", "b"), ("a", "c")].map(|(first, from)| {
            let told = format!("routes of `{first}.contact` lead back to `{from}.contact`; what this rule sends there goes to the endpoints of `{first}.contact`");
            (told, first.to_owned())
        })
    );
    assert_eq!(told(to("ab", "a", "b") + &to("bc", "b", "c") + &to("cc", "c", "c")), []);
}

#[test]
fn rules_that_do_what_nobody_means_are_told() {
    let told = |rule: &str| pointed(&route("r", RECORDING, &format!("  - {rule}")));
    let to = |weight: u32| format!("{{name: recording, port: 80, weight: {weight}}}");
    assert_eq!(
        told(&format!("{{backendRefs: [{}, {}]}}", to(0), to(0).replace("recording", "transcript"))),
        [("every backend has the weight 0: requests are answered with 500".to_owned(), "recording".to_owned())]
    );
    assert_eq!(told(&format!("{{backendRefs: [{}, {}]}}", to(0), to(1).replace("recording", "transcript"))), []);

    let mirror = |name: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}}}}}");
    let copied = |name: &str| told(&format!("{{filters: [{}], backendRefs: [{}]}}", mirror(name), to(1)));
    assert_eq!(copied("recording"), [("`recording` gets the requests and their copies".to_owned(), mirror("recording"))]);
    assert_eq!(copied("transcript"), []);

    let regex = "{matches: [{path: {type: RegularExpression, value: '(a{1,1000}){1,1000}'}}]}";
    assert_eq!(told(regex)[0].0, "this is no regular expression: it takes more than 64 KiB when compiled");

    // At a gateway a Service of another namespace must let itself be used.
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: contact}\nspec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n";
    let foreign = service("web", "{port: 80}").replace("namespace: contact", "namespace: shop");
    let text = gateway.to_owned() + &foreign + &route("r", "{name: edge}", "  - backendRefs: [{name: web, namespace: shop, port: 80}]");
    let refused = "nothing in `shop` lets routes of `contact` refer to it: its share is answered with 500";
    assert_eq!(pointed(&text), [(refused.to_owned(), "web".to_owned())]);
}

#[test]
fn certificates_that_are_missing_or_not_lent_are_told() {
    let gateway = |secret: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: contact}}\nspec: {{gatewayClassName: lorica, listeners: [{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{secret}]}}}}]}}\n---\n"
        )
    };
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: own, namespace: contact}\ntype: lorica.io/tls-files\nstringData: {certificate: /a, key: /b}\n---\n";
    assert_eq!(pointed(&(secret.to_owned() + &gateway("{name: own}"))), []);
    assert_eq!(pointed(&gateway("{name: own}")), [("there is no Secret `own.contact`".to_owned(), "own".to_owned())]);
    let lent = secret.replace("namespace: contact", "namespace: other");
    let foreign = gateway("{name: own, namespace: other}");
    assert_eq!(
        pointed(&(lent.clone() + &foreign)),
        [("nothing in `other` lets a Gateway of `contact` refer to it, so it is not used".to_owned(), "own".to_owned())]
    );
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: contact}], to: [{group: '', kind: Secret}]}\n---\n";
    assert_eq!(pointed(&(lent + grant + &foreign)), []);
}

#[test]
fn an_http_route_beside_a_grpc_route_is_warned_of() {
    let http = route("h", RECORDING, "  - backendRefs: [{name: recording, port: 80}]");
    let grpc = http.replace("HTTPRoute", "GRPCRoute");
    let found = found(&(grpc + &http), Options::default());
    let told = "at ports of service recording.contact that GRPCRoute h.contact names too this route is not accepted";
    assert_eq!(found.iter().map(|found| (found.severity, found.message.as_str())).collect::<Vec<_>>(), [(Severity::Warning, told)]);
}

#[test]
fn the_rest_is_told_where_it_stands() {
    let workload =
        |spec: &str| format!("apiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: w, namespace: contact}}\nspec: {spec}\n");
    let policy = |spec: &str| {
        format!("apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: p, namespace: contact}}\nspec: {spec}\n")
    };
    for (text, message, under) in [
        (service("a", "{port: 80}, {port: 80}"), "port 80 is there twice", "{port: 80}"),
        (service("a", "{port: 80}").repeat(2), "Service a.contact is there twice", "a"),
        (service("a", "{port: 80, port: 81}"), "`port` is there twice", "port"),
        (
            route("r", "{kind: Service, name: recording, port: 9000}", "  - {}"),
            "`recording.contact` is declared as tcp there: its bytes are not looked at, so no rule would ever match",
            "9000",
        ),
        (
            workload("{service: transcripts, address: 10.0.0.1, ports: [{servicePort: 80}]}"),
            "there is no service `transcripts.contact`",
            "transcripts",
        ),
        (
            workload("{service: transcript, address: 10.0.0.1, ports: [{servicePort: 81}]}"),
            "the service `transcript.contact` has no port 81",
            "{servicePort: 81}",
        ),
        (workload("{service: transcript, address: example.com, ports: []}"), "`example.com` is no IP address", "example.com"),
        (workload("{service: transcript, address: a, ports: [{servicePort: 0}]}"), "a port is from 1 to 65535, not 0", "0"),
        (service("a", "{port: 80, name: web}, {port: 81, name: web}"), "another port is named `web`", "web"),
        (workload("{service: transcript, address: 10.0.0.1, ports: [], weight: 0}"), "`weight` is from 1 to 1000000, not 0", "0"),
        (policy("{mtls: {mode: strict}}"), "`strict` is no mode", "strict"),
        (policy("{targetRefs: [{kind: Service, name: nobody}], mtls: {mode: Strict}}"), "there is no service `nobody.contact`", "nobody"),
        (policy("{}"), "an AuthenticationPolicy says something of `mtls` or `jwt`", "{}"),
        ("- a\n".to_owned(), "a resource is an object, not a list", "- a"),
        ("kind: Service\n  metadata: [\n".to_owned(), "this is no YAML: mapping values are not allowed in this context", ":"),
        ("a: \"\n".to_owned(), "", ""),
    ] {
        let pointed = pointed(&text);
        if message.is_empty() {
            assert_eq!(pointed.len(), 1, "{text}");
        } else {
            assert!(pointed.contains(&(message.to_owned(), under.to_owned())), "{pointed:?}");
        }
    }
}

fn traffic(name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {spec}\n---\n")
}

const OF_RECORDING: &str = "targetRefs: [{kind: Service, name: recording}]";

#[test]
fn what_a_traffic_policy_cannot_mean_is_told_where_it_stands() {
    let of = |spec: &str| traffic("p", &format!("{{{OF_RECORDING}, {spec}}}"));
    for (text, message, under) in [
        (of("timeouts: {request: 1s, perTry: 2s}"), "`perTry` is longer than `request`, of which it is a part", "2s"),
        (
            of("retries: {attempts: 0}, limits: {retries: {percent: 20}}"),
            "this limits retries, and `retries.attempts: 0` lets none be",
            "{percent: 20}",
        ),
        (
            of("balancing: {algorithm: Maglev, hashOn: [{header: Connection}]}"),
            "no request carries `connection` on: it would belong to no endpoint",
            "Connection",
        ),
        (
            of("balancing: {algorithm: Maglev, hashOn: [{header: x-lorica-reason}]}"),
            "no request carries `x-lorica-reason` on: it would belong to no endpoint",
            "x-lorica-reason",
        ),
        (of("balancing: {algorithm: Random, hashOn: [{query: id}]}"), "nothing is hashed with this algorithm", "[{query: id}]"),
        (of("balancing: {hashOn: [{query: id}]}"), "nothing is hashed for `recording.contact`: its algorithm is PeakEwma", "[{query: id}]"),
        (of("balancing: {algorithm: Maglev}"), "nothing says what `Maglev` is to hash: any endpoint takes any request", "Maglev"),
        (of("balancing: {panicPercent: 101}"), "`panicPercent` is from 0 to 100, not 101", "101"),
        (of("ejection: {maxPercent: 150}"), "`maxPercent` is from 0 to 100, not 150", "150"),
        (of("balancing: {algorithm: Maglev, hashOn: [{query: id}], tableSize: 1000}"), "`tableSize` is a prime, which 1000 is not", "1000"),
        (of("balancing: {algorithm: Random, tableSize: 7}"), "`tableSize` is the size of what `Maglev` looks up", "7"),
        (of("ejection: {baseTime: 2m, maxTime: 1m}"), "`baseTime` is longer than `maxTime`, which no ejection exceeds", "2m"),
        (
            of("timeouts: {request: 1s}, hedging: {after: 2s}"),
            "`hedging.after` is longer than `timeouts.request`: no second attempt would ever be made",
            "2s",
        ),
        (of("healthCheck: {http: {path: /}, tcp: {}}"), "an endpoint is asked one question", "{http: {path: /}, tcp: {}}"),
        (of("healthCheck: {http: {path: health}}"), "`health` is no path", "health"),
        (of("healthCheck: {tcp: {}, interval: 1s, timeout: 2s}"), "a health check would begin before the last one is given up", "2s"),
        (of("retries: {on: [ConnectionFailure]}"), "`ConnectionFailure` is no condition", "ConnectionFailure"),
        (of("retries: {backoff: {base: 1s, max: 500ms}}"), "`backoff.base` is longer than `backoff.max`, which no pause exceeds", "1s"),
        (of("timeouts: {connect: 0s}"), "a time of 0 leaves none", "0s"),
        (of("limits: {retries: {atMost: 3, percent: 20}}"), "retries are limited by their number or by their share", "3"),
        (of("failover: [{name: recording, port: 80}]"), "`recording.contact` cannot take over from itself", "recording"),
        (of("failover: [{name: transcript, port: 81}]"), "the service `transcript.contact` has no port 81", "transcript"),
        (of("failover: [{name: transcripts, port: 80}]"), "there is no service `transcripts.contact`", "transcripts"),
        (traffic("p", "{}"), "TrafficPolicy p says nothing", "p"),
        (
            traffic("p", "{targetRefs: [{kind: Gateway, name: edge}], retries: {attempts: 1}}"),
            "nothing of a Gateway is balanced or timed",
            "edge",
        ),
        (
            traffic("p", "{targetRefs: [{kind: Service, name: recording, namespace: other}], retries: {attempts: 1}}"),
            "a policy of `contact` cannot hold for a Service of `other`",
            "recording",
        ),
        (traffic("p", "{targetRefs: [{kind: HTTPRoute, name: r}], retries: {attempts: 1}}"), "there is no HTTPRoute `r.contact`", "r"),
        (
            route("r", RECORDING, "  - {name: all}")
                + &traffic("p", "{targetRefs: [{kind: HTTPRoute, name: r}], ejection: {interval: 1s}}"),
            "`ejection.interval` is about the endpoints of a service, which its routes share",
            "1s",
        ),
        (
            route("r", RECORDING, "  - {name: all}")
                + &traffic("p", "{targetRefs: [{kind: HTTPRoute, name: r, sectionName: al}], retries: {attempts: 1}}"),
            "no rule of the HTTPRoute `r` is named `al`",
            "r",
        ),
        (
            of("retries: {attempts: 1}") + &traffic("q", &format!("{{{OF_RECORDING}, retries: {{attempts: 2}}}}")),
            "TrafficPolicy q says `retries.attempts` of the same, too",
            "1",
        ),
        (
            service("bytes", "{port: 1, appProtocol: tcp}")
                + &traffic("p", "{targetRefs: [{kind: Service, name: bytes}], retries: {attempts: 1}}"),
            "`bytes.contact` is declared as tcp: it has no requests, so `retries.attempts` would do nothing",
            "1",
        ),
    ] {
        let pointed = pointed(&text);
        assert!(pointed.contains(&(message.to_owned(), under.to_owned())), "{message}: {pointed:?}");
    }
}

#[test]
fn a_traffic_policy_says_all_it_can() {
    let spec = "
  targetRefs: [{kind: Service, name: recording}]
  balancing: {algorithm: Maglev, tableSize: 251, hashOn: [{header: X-User}, {cookie: {name: s, ttl: 1h}}, {query: id}, {source: Address}],
    affinity: {cookie: stay}, prefer: Zone, overprovisioningPercent: 150, panicPercent: 0, slowStart: {window: 30s, minimumPercent: 20}}
  failover: [{name: transcript, port: 80}]
  limits: {connections: 10, pending: 20, requests: None, queueTimeout: 2s, retries: {atMost: 4},
    adaptive: {minimum: 5, maximum: 50, interval: 1s, tolerancePercent: 50}}
  ejection: {consecutive5xx: 3, consecutiveGatewayErrors: None, consecutiveLocalErrors: 2, interval: 5s, baseTime: 10s, maxTime: 1m,
    maxPercent: 40, successRate: {stdevFactor: 1500}, failurePercentage: {threshold: 50}}
  healthCheck: {http: {path: /healthz, statuses: [204, 300-399]}, interval: 3s, timeout: 1s, unhealthyThreshold: 1, healthyThreshold: 1}
  timeouts: {connect: 1s, request: 10s, perTry: 3s, idle: 0s, stream: 1h, pooledIdle: 2s, connectionAge: 5m}
  retries: {attempts: 4, on: [ConnectFailure, GatewayError], statusCodes: [429, 429, 409], backoff: {base: 10ms, max: 1s}, nonIdempotent: true,
    avoidTried: false, retryAfterMax: 10s}
  hedging: {after: 100ms, attempts: 2}";
    let found = found(&traffic("p", spec), Options::default());
    assert!(found.is_empty(), "{}", rendered(&found, &traffic("p", spec)));
    let resources = taken(&traffic("p", spec));
    let Spec::TrafficPolicy(policy) = &resources[0].spec else { panic!() };
    // Every setting that there is.
    let names: std::collections::BTreeSet<_> = policy.settings.written().map(|(name, _, _)| name).collect();
    assert_eq!((names.len(), policy.settings.retry_codes.as_ref().unwrap().value.as_slice()), (51, &[409, 429][..]));
    assert_eq!(policy.settings.idle.as_ref().unwrap().value, None);
    assert_eq!(policy.settings.requests.as_ref().unwrap().value, None);
}

#[test]
fn the_store_keeps_what_a_later_version_wrote() {
    let json = json!({
        "apiVersion": "lorica.io/v1alpha1", "kind": "Service", "later": 1,
        "metadata": {"name": "recording", "namespace": "contact", "generation": 7, "creationTimestamp": "2026-01-01T00:00:00Z", "later": {"a": [1.5, null]}},
        "spec": {"ports": [{"port": 80, "appProtocol": "http", "later": true}]},
    });
    let resource = stored(&json).unwrap();
    assert_eq!((resource.metadata.generation, resource.metadata.created_at.as_str()), (7, "2026-01-01T00:00:00Z"));
    assert_eq!(resource.document, json);
    let text = json.to_string();
    assert_eq!(read("mesh.json", &text).unwrap_err().len(), 3);
    assert!(stored(&json!({"kind": "Service"})).is_err());
}

#[test]
fn kinds_are_known_by_their_names() {
    for (written, kind) in [
        ("service", Some(Kind::Service)),
        ("HTTPRoutes", Some(Kind::HttpRoute)),
        ("svc", Some(Kind::Service)),
        ("AuthenticationPolicies", Some(Kind::AuthenticationPolicy)),
        ("pod", None),
    ] {
        assert_eq!(Kind::named(written), kind);
    }
}

proptest! {
    #[test]
    fn no_text_brings_the_reader_down(text in "[a-zA-Zä:{}\\[\\]\\-,'\"#&*!|> \n\t/0-9]{0,80}") {
        if let Err(found) = read("x", &text) {
            found.iter().for_each(|found| drop(found.render(&text, true)));
        }
    }

    #[test]
    fn no_value_in_a_known_place_brings_the_reader_down(value in "[a-z0-9:{}\\[\\],'\" -]{0,24}", place in 0..6_usize) {
        let place = ["metadata: {name: web}\nspec: ", "metadata: {name: ", "metadata: {name: web}\nspec: {ports: ", "metadata: {name: web}\nspec: {ports: [{port: ", "metadata: ", "spec: {}\nmetadata: {name: a}\n"][place];
        let text = format!("apiVersion: lorica.io/v1alpha1\nkind: Service\n{place}{value}\n");
        if let Err(found) = read("x", &text) {
            found.iter().for_each(|found| drop(found.render(&text, false)));
        }
    }
}
