//! Who may do what.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use super::*;
use crate::head::{HeadBuilder, Version};

const READ: &str = "spiffe://mesh.local/ns/contact/sa/reader";

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in fields {
        builder.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.request(Version::Http11, method, path, "recording.contact:80", None).unwrap()
}

fn rule(json: serde_json::Value) -> AccessRule {
    let mut json = json;
    json["name"] = "0".into();
    serde_json::from_value(json).unwrap()
}

fn policy(name: &str, action: AccessAction, shadow: bool, rules: &[serde_json::Value]) -> AccessPolicy {
    let origin = Origin {
        kind: "AuthorizationPolicy".to_owned(),
        namespace: "contact".to_owned(),
        name: name.to_owned(),
        generation: 1,
        rule: 0,
        matched: 0,
    };
    AccessPolicy { origin: Arc::new(origin), action, shadow, rules: rules.iter().cloned().map(rule).collect() }
}

fn permissions(policies: Vec<AccessPolicy>, identity: Option<&str>) -> Permissions {
    let identity: Option<SpiffeId> = identity.map(|id| id.parse().unwrap());
    let caller = AccessCaller { identity: identity.as_ref(), address: IpAddr::from([10, 1, 2, 3]) };
    Permissions::of(Arc::new(Authorization { policies }), &caller)
}

/// What is said of a request: `ok`, or who denies it.
fn verdict(permissions: &Permissions, head: &RequestHead) -> String {
    let access = Access { head: Some(head), port: 80 };
    match permissions.judge(&access, |_| ()) {
        Ok(_) => "ok".to_owned(),
        Err(Denial::Denied(by)) => format!("denied by {by}"),
        Err(Denial::NotAllowed(by)) => format!("not allowed by {by}"),
        Err(Denial::Ambiguous { why }) => why.to_owned(),
    }
}

fn allow(json: serde_json::Value) -> Vec<AccessPolicy> {
    vec![policy("a", AccessAction::Allow, false, &[json])]
}

fn paths(written: &[&str]) -> serde_json::Value {
    serde_json::json!({ "to": [{ "paths": { "any": written } }] })
}

#[test]
fn without_policies_everything_is_allowed_and_with_an_empty_one_nothing() {
    let get = request("GET", "/list", &[]);
    let open = permissions(Vec::new(), None);
    assert!(open.is_everything());
    assert_eq!(verdict(&open, &get), "ok");
    let closed = permissions(vec![policy("none", AccessAction::Allow, false, &[])], Some(READ));
    assert!(!closed.is_everything());
    assert_eq!(verdict(&closed, &get), "not allowed by none.contact");
}

#[test]
fn deny_comes_before_allow() {
    let policies = vec![
        policy("a", AccessAction::Allow, false, &[serde_json::json!({})]),
        policy("d", AccessAction::Deny, false, &[serde_json::json!({ "to": [{ "methods": { "any": ["DELETE"] } }] })]),
    ];
    let permissions = permissions(policies, Some(READ));
    assert_eq!(verdict(&permissions, &request("GET", "/", &[])), "ok");
    assert_eq!(verdict(&permissions, &request("DELETE", "/", &[])), "denied by d.contact/0");
}

#[test]
fn callers_are_told_apart_by_what_they_proved() {
    let from = |source: serde_json::Value| serde_json::json!({ "from": [source] });
    let of = |source: serde_json::Value, id: Option<&str>| verdict(&permissions(allow(from(source)), id), &request("GET", "/", &[]));
    let exact = serde_json::json!({ "identities": { "any": [{ "exact": READ }] } });
    assert_eq!(of(exact.clone(), Some(READ)), "ok");
    for other in [None, Some("spiffe://mesh.local/ns/contact/sa/reader2"), Some("spiffe://other/ns/contact/sa/reader")] {
        assert_ne!(of(exact.clone(), other), "ok", "{other:?}");
    }
    let namespace = serde_json::json!({ "namespaces": { "any": [{ "namespace": ["mesh.local", "contact"] }] } });
    assert_eq!(of(namespace.clone(), Some(READ)), "ok");
    for other in
        [None, Some("spiffe://mesh.local/ns/contact2/sa/a"), Some("spiffe://other/ns/contact/sa/reader"), Some("spiffe://mesh.local/x")]
    {
        assert_ne!(of(namespace.clone(), other), "ok", "{other:?}");
    }
    let any = serde_json::json!({ "identities": { "any": ["any"] } });
    assert_eq!((of(any.clone(), Some("spiffe://other/x")).as_str(), of(any, None).as_str()), ("ok", "not allowed by a.contact"));
    let but = serde_json::json!({ "identities": { "any": ["any"], "none": [{ "exact": READ }] } });
    assert_eq!(of(but.clone(), Some(READ)), "not allowed by a.contact");
    assert_eq!(of(but, Some("spiffe://mesh.local/ns/contact/sa/b")), "ok");
    assert_eq!(of(serde_json::json!({ "addresses": { "any": ["10.1.0.0/16"] } }), None), "ok");
    assert_ne!(of(serde_json::json!({ "addresses": { "any": ["10.1.0.0/16"], "none": ["10.1.2.0/24"] } }), None), "ok");
}

#[test]
fn operations_must_hold_as_a_whole() {
    let operation = serde_json::json!({ "to": [{
        "methods": { "any": ["GET"] }, "paths": { "any": ["/recordings/{id}/audio"] }, "hosts": { "any": [{ "exact": "recording.contact" }] },
        "ports": { "any": [80] }, "headers": [{ "name": "x-team", "value": { "exact": "a" } }],
    }] });
    let permissions = permissions(allow(operation), None);
    let team = [("X-Team", "a")];
    assert_eq!(verdict(&permissions, &request("GET", "/recordings/7/audio", &team)), "ok");
    for (method, path, fields) in [
        ("POST", "/recordings/7/audio", &team[..]),
        ("GET", "/recordings/7/audio", &[]),
        ("GET", "/recordings/7/audio", &[("x-team", "a"), ("x-team", "b")]),
        ("GET", "/recordings//audio", &team),
        ("GET", "/recordings/7/8/audio", &team),
        ("GET", "/recordings/7/audio/", &team),
        ("GET", "/Recordings/7/audio", &team),
    ] {
        assert_ne!(verdict(&permissions, &request(method, path, fields)), "ok", "{method} {path} {fields:?}");
    }
    let head = request("GET", "/recordings/7/audio", &team);
    assert!(permissions.judge(&Access { head: Some(&head), port: 81 }, |_| ()).is_err());
}

#[test]
fn no_spelling_of_a_path_gets_around_a_denial() {
    let deny = vec![policy("d", AccessAction::Deny, false, &[paths(&["/admin", "/admin/*", "/a b/{id}"])])];
    let permissions = permissions(deny, None);
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/ADMIN/x",
        "/Admin",
        "//admin",
        "///admin//x",
        "/admin;x=1",
        "/admin;x/y",
        "/%61dmin",
        "/%61%64min/x",
        "/admin%2Fx",
        "/admin%2fx",
        "/;/admin",
        "/a%20b/7",
        "/A%20B/7/",
        "/admin?x",
        "/admin/x?y=/z",
    ] {
        assert_eq!(verdict(&permissions, &request("GET", path, &[])), "denied by d.contact/0", "{path}");
    }
    for path in [
        "/./admin",
        "/x/../admin",
        "/x/..;/admin",
        "/%2e%2e/admin",
        "/x/%2e/admin",
        "/..%2fadmin",
        "/\\admin",
        "/x\\..\\admin",
        "/%5cadmin",
        "/x%00/admin",
        "/%2561dmin",
        "/admin#x",
        "/%zz",
        "/%",
        "/\u{0}admin",
        "/%ff",
        "/x/.",
        "/x/..",
    ] {
        if let Ok(head) = std::panic::catch_unwind(|| request("GET", path, &[])) {
            assert!(!matches!(verdict(&permissions, &head).as_str(), "ok"), "{path}");
        }
    }
    for path in ["/", "/administration", "/x/admin", "/a", "/.well-known/x", "/a.b/..c", "/a%20b", "/caf%C3%A9"] {
        assert_eq!(verdict(&permissions, &request("GET", path, &[])), "ok", "{path}");
    }
}

#[test]
fn no_spelling_of_a_method_or_a_host_gets_around_a_denial_or_into_a_permission() {
    let to = |operation: serde_json::Value| vec![serde_json::json!({"name": "0", "to": [operation]})];
    let methods = |among: serde_json::Value| serde_json::json!({"methods": among});
    let deny = permissions(vec![policy("d", AccessAction::Deny, false, &to(methods(serde_json::json!({"any": ["DELETE"]}))))], None);
    let deny_others = permissions(vec![policy("d", AccessAction::Deny, false, &to(methods(serde_json::json!({"none": ["GET"]}))))], None);
    let allow = permissions(vec![policy("a", AccessAction::Allow, false, &to(methods(serde_json::json!({"any": ["GET"]}))))], None);
    let allow_others =
        permissions(vec![policy("a", AccessAction::Allow, false, &to(methods(serde_json::json!({"none": ["DELETE"]}))))], None);
    for permissions in [&deny, &deny_others, &allow, &allow_others] {
        assert_eq!(verdict(permissions, &request("GET", "/", &[])), "ok");
        for method in ["DELETE", "delete", "Delete"] {
            assert_ne!(verdict(permissions, &request(method, "/", &[])), "ok", "{method}");
        }
    }
    assert_ne!(verdict(&allow, &request("get", "/", &[])), "ok");
    assert_ne!(verdict(&deny_others, &request("get", "/", &[])), "ok");
    let host = |authority: &str| HeadBuilder::with_capacity(64).request(Version::Http11, "GET", "/", authority, None).unwrap();
    let admin = HostPattern::of("admin.shop");
    let deny = permissions(vec![policy("d", AccessAction::Deny, false, &to(serde_json::json!({"hosts": {"any": [admin]}})))], None);
    let allow_others =
        permissions(vec![policy("a", AccessAction::Allow, false, &to(serde_json::json!({"hosts": {"none": [admin]}})))], None);
    for permissions in [&deny, &allow_others] {
        assert_eq!(verdict(permissions, &host("web.shop.")), "ok");
        for authority in ["admin.shop", "ADMIN.shop:80", "admin.shop.", "admin.shop.:80"] {
            assert_ne!(verdict(permissions, &host(authority)), "ok", "{authority}");
        }
    }
}

#[test]
fn no_spelling_of_a_path_gets_into_a_permission() {
    let permissions = permissions(allow(paths(&["/public/*", "/files/{name}", "/a%20b"])), None);
    for path in ["/public/", "/public/x/y", "/files/x", "/files/a%20b", "/a%20b", "/public//x", "/public/x;y"] {
        assert_eq!(verdict(&permissions, &request("GET", path, &[])), "ok", "{path}");
    }
    for path in [
        "/public",
        "/PUBLIC/x",
        "/public/../admin",
        "/public/..%2fadmin",
        "/public/%2e%2e/admin",
        "/public/..;/admin",
        "/public%2f..%2fadmin",
        "/public/%252e%252e/admin",
        "/public\\..\\admin",
        "/files/a%2Fb",
        "/files/",
        "/files/x/",
        "/;public/x",
        "/a b",
    ] {
        if let Ok(head) = std::panic::catch_unwind(|| request("GET", path, &[])) {
            assert_ne!(verdict(&permissions, &head), "ok", "{path}");
        }
    }
}

#[test]
fn a_header_sent_twice_gets_nobody_in_and_nobody_past_a_denial() {
    let rule = serde_json::json!({ "to": [{ "headers": [{ "name": "x-team", "value": { "exact": "a" } }] }] });
    let (allowed, denied) =
        (permissions(allow(rule.clone()), None), permissions(vec![policy("d", AccessAction::Deny, false, &[rule])], None));
    for (fields, may, past) in [
        (&[("x-team", "a")][..], true, false),
        (&[("x-team", "b")], false, true),
        (&[("x-team", "b"), ("X-Team", "a")], false, false),
        (&[("x-team", "b, a")], false, false),
        (&[], false, true),
    ] {
        let head = request("GET", "/", fields);
        assert_eq!((verdict(&allowed, &head) == "ok", verdict(&denied, &head) == "ok"), (may, past), "{fields:?}");
    }
}

#[test]
fn what_is_left_out_stays_out_in_any_spelling() {
    let but = serde_json::json!({ "to": [{ "paths": { "none": ["/admin/*", "/admin"] } }] });
    let permissions = permissions(allow(but), None);
    assert_eq!(verdict(&permissions, &request("GET", "/x", &[])), "ok");
    for path in ["/admin", "/ADMIN/", "//admin/x", "/admin;x", "/%61dmin"] {
        assert_ne!(verdict(&permissions, &request("GET", path, &[])), "ok", "{path}");
    }
}

#[test]
fn of_bytes_only_caller_and_port_are_known_and_what_is_unknown_denies() {
    let bytes = Access { head: None, port: 5432 };
    let judged = |policies, id| permissions(policies, id).judge(&bytes, |_| ()).is_ok();
    let from = serde_json::json!({ "from": [{ "identities": { "any": [{ "exact": READ }] } }], "to": [{ "ports": { "any": [5432] } }] });
    assert!(judged(allow(from.clone()), Some(READ)));
    assert!(!judged(allow(from), None));
    assert!(!judged(allow(serde_json::json!({ "to": [{ "methods": { "any": ["GET"] } }] })), Some(READ)));
    for operation in [serde_json::json!({ "methods": { "any": ["GET"] } }), serde_json::json!({ "paths": { "any": ["/admin"] } })] {
        assert!(!judged(vec![policy("d", AccessAction::Deny, false, &[serde_json::json!({ "to": [operation] })])], Some(READ)));
    }
    assert!(judged(vec![policy("d", AccessAction::Deny, false, &[serde_json::json!({ "to": [{ "ports": { "any": [1] } }] })])], None));
}

#[test]
fn what_is_tried_denies_nothing_and_is_told() {
    let said = |policies: Vec<AccessPolicy>, path: &str| {
        let permissions = permissions(policies, Some(READ));
        let head = request("GET", path, &[]);
        let mut said = Vec::new();
        let verdict = permissions.judge(&Access { head: Some(&head), port: 80 }, |noted| {
            said.push(match noted {
                Noted::Audited(by) => format!("audited {by}"),
                Noted::WouldDeny(by) => format!("would deny {by}"),
                Noted::WouldPass(policy) => format!("would pass {}", policy.name()),
            });
        });
        (verdict.is_ok(), said.join(", "))
    };
    let policies = || {
        vec![
            policy("s", AccessAction::Allow, true, &[paths(&["/list"])]),
            policy("t", AccessAction::Deny, true, &[paths(&["/list"])]),
            policy("w", AccessAction::Audit, false, &[paths(&["/list"])]),
        ]
    };
    assert_eq!(said(policies(), "/list"), (true, "audited w.contact/0, would pass s.contact, would deny t.contact/0".to_owned()));
    assert_eq!(said(policies(), "/other"), (true, "would deny s.contact, would pass t.contact".to_owned()));
    // What another policy allows already, a trial takes from nobody.
    let mut with = policies();
    with.push(policy("a", AccessAction::Allow, false, &[serde_json::json!({})]));
    assert_eq!(said(with, "/other"), (true, "would pass s.contact, would pass t.contact".to_owned()));
    // Of what is denied anyway a trial says nothing.
    let mut with = policies();
    with.push(policy("a", AccessAction::Allow, false, &[]));
    assert_eq!(said(with, "/other"), (false, String::new()));
}

#[test]
fn paths_that_no_rule_can_mean_are_refused() {
    for wrong in ["", "list", "/a//b", "/a/*/b", "/a*", "/{id", "/{}", "/a/../b", "/a;b", "/a?b", "/%61", "/a%2Fb", "/a\\b", "/a#b", "/%zz"]
    {
        assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
    }
    for right in ["/", "*", "/*", "/a", "/a/", "/a/*", "/{a}/b", "/a b", "/a%20b", "/caf\u{e9}", "/.well-known/x", "/a.b"] {
        let pattern: PathPattern = right.parse().unwrap();
        let read: PathPattern = serde_json::from_value(serde_json::to_value(&pattern).unwrap()).unwrap();
        assert_eq!(read, pattern);
    }
    let all: PathPattern = "*".parse().unwrap();
    assert!(all.takes("/", false) && all.takes("/a/b", false) && all.takes("*", false));
}

proptest::proptest! {
    /// The index finds what asking rule by rule finds.
    #[test]
    fn the_index_decides_as_the_rules_do(
        patterns in proptest::collection::vec("(/(a|b|B|\\{x\\})){1,3}(/\\*)?", 1..8),
        path in "(/(a|b|A|c)?){1,4}",
        deny in proptest::bool::ANY,
    ) {
        let action = if deny { AccessAction::Deny } else { AccessAction::Allow };
        let written: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let permissions = permissions(vec![policy("p", action, false, &[paths(&written)])], None);
        let readings = match Reading::of(&path) {
            Reading::Plain => vec![path.clone()],
            Reading::Decoded(one) => vec![one],
            Reading::Twofold(one, other) => vec![one, other],
            Reading::Ambiguous(_) => return Ok(()),
        };
        let parsed: Vec<PathPattern> = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let means = |reading: &String| parsed.iter().any(|pattern| pattern.takes(reading, deny));
        let expected = if deny { !readings.iter().any(means) } else { readings.iter().all(means) };
        let head = request("GET", &path, &[]);
        proptest::prop_assert_eq!(permissions.judge(&Access { head: Some(&head), port: 80 }, |_| ()).is_ok(), expected);
    }

    #[test]
    fn no_path_panics(path in "\\PC*") {
        let _ = Reading::of(&path);
        let _ = path.parse::<PathPattern>();
    }
}
