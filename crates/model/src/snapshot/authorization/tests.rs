//! Who may do what.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

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
    AccessPolicy { origin: Arc::new(origin), action, shadow, rules: rules.iter().cloned().map(rule).collect(), authorizer: None }
}

fn permissions(policies: Vec<AccessPolicy>, identity: Option<&str>) -> Permissions {
    let identity: Option<SpiffeId> = identity.map(|id| id.parse().unwrap());
    let caller = AccessCaller { identity: identity.as_ref(), address: IpAddr::from([10, 1, 2, 3]), trust_domain: &TrustDomain::default() };
    Permissions::of(Arc::new(Authorization { policies }), &caller)
}

/// Somebody who asks without a token.
fn access(head: Option<&RequestHead>, port: u16) -> Access<'_> {
    let address = SocketAddr::from(([10, 1, 2, 3], 4000));
    Access { head, port, claims: None, time: SystemTime::UNIX_EPOCH, identity: None, address, server_name: None }
}

/// What is said of a request: `ok`, or who denies it.
fn verdict(permissions: &Permissions, head: &RequestHead) -> String {
    match permissions.judge(&access(Some(head), 80), |_| ()) {
        Ok(_) => "ok".to_owned(),
        Err(Denial::Denied(by)) => format!("denied by {by}"),
        Err(Denial::NotAllowed(by)) => format!("not allowed by {by}"),
        Err(Denial::Unasked(by)) => format!("unasked by {by}"),
        Err(Denial::Foreign) => "of another trust domain".to_owned(),
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
fn each_policy_says_by_itself_what_it_says() {
    let deletes = serde_json::json!({ "to": [{ "methods": { "any": ["DELETE"] } }] });
    let anything = serde_json::json!({});
    let policies = vec![
        policy("a", AccessAction::Allow, false, std::slice::from_ref(&deletes)),
        policy("b", AccessAction::Allow, false, std::slice::from_ref(&anything)),
        policy("c", AccessAction::Deny, false, std::slice::from_ref(&deletes)),
        policy("d", AccessAction::Audit, false, std::slice::from_ref(&anything)),
        policy("e", AccessAction::Deny, true, std::slice::from_ref(&deletes)),
        policy("f", AccessAction::Allow, true, std::slice::from_ref(&deletes)),
    ];
    let authorization = Authorization { policies };
    let caller = AccessCaller { identity: None, address: IpAddr::from([10, 1, 2, 3]), trust_domain: &TrustDomain::default() };
    let says = |method: &str| {
        let head = request(method, "/list", &[]);
        let each = each_policy(&authorization, &caller, &access(Some(&head), 80));
        each.into_iter().map(|(policy, rule, say)| format!("{} {rule:?} {}", policy.origin.name, say.words())).collect::<Vec<_>>()
    };
    assert_eq!(
        says("GET"),
        [
            "a None does not allow it",
            "b Some(\"0\") allows it",
            "c None does not apply",
            "d Some(\"0\") writes it down",
            "e None is tried: would let it pass",
            "f None is tried: would deny it",
        ]
    );
    assert_eq!(
        says("DELETE"),
        [
            "a Some(\"0\") allows it",
            "b Some(\"0\") allows it",
            "c Some(\"0\") denies it",
            "d Some(\"0\") writes it down",
            "e Some(\"0\") is tried: would deny it",
            "f None is tried: would let it pass",
        ]
    );
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
    assert_eq!((of(any.clone(), Some("spiffe://mesh.local/x")).as_str(), of(any, None).as_str()), ("ok", "not allowed by a.contact"));
    let but = serde_json::json!({ "identities": { "any": ["any"], "none": [{ "exact": READ }] } });
    assert_eq!(of(but.clone(), Some(READ)), "not allowed by a.contact");
    assert_eq!(of(but, Some("spiffe://mesh.local/ns/contact/sa/b")), "ok");
    assert_eq!(of(serde_json::json!({ "addresses": { "any": ["10.1.0.0/16"] } }), None), "ok");
    assert_ne!(of(serde_json::json!({ "addresses": { "any": ["10.1.0.0/16"], "none": ["10.1.2.0/24"] } }), None), "ok");
}

#[test]
fn a_caller_of_another_trust_domain_gets_in_only_where_a_policy_names_it() {
    const BANK: &str = "spiffe://bank.example/ns/core/sa/ledger";
    let get = request("GET", "/list", &[]);
    let of = |policies: Vec<AccessPolicy>, id| verdict(&permissions(policies, Some(id)), &get);
    let from = |patterns: serde_json::Value| serde_json::json!({ "from": [{ "identities": { "any": patterns } }] });
    assert_eq!(of(Vec::new(), BANK), "of another trust domain");
    assert!(!permissions(Vec::new(), Some(BANK)).is_everything());
    // What only denies, writes down or is tried opens nothing.
    for (action, shadow) in [(AccessAction::Deny, true), (AccessAction::Audit, false), (AccessAction::Allow, true)] {
        let named = from(serde_json::json!([{ "exact": BANK }]));
        assert_eq!(of(vec![policy("p", action, shadow, &[named])], BANK), "of another trust domain", "{action:?}");
    }
    for unnamed in [
        serde_json::json!({}),
        from(serde_json::json!(["any"])),
        serde_json::json!({ "from": [{ "addresses": { "any": ["10.0.0.0/8"] } }] }),
    ] {
        assert_eq!(of(allow(unnamed.clone()), READ), "ok");
        assert_eq!(of(allow(unnamed), BANK), "not allowed by a.contact");
    }
    for named in [serde_json::json!([{ "exact": BANK }]), serde_json::json!(["any", { "trust-domain": "bank.example" }])] {
        assert_eq!(of(allow(from(named.clone())), BANK), "ok");
        assert_eq!(of(allow(from(named.clone())), "spiffe://other.example/ns/core/sa/ledger"), "not allowed by a.contact");
        // A denial means everybody it says.
        let policies = vec![
            policy("a", AccessAction::Allow, false, &[from(named)]),
            policy("d", AccessAction::Deny, false, &[from(serde_json::json!(["any"]))]),
        ];
        assert_eq!(of(policies, BANK), "denied by d.contact/0");
    }
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
    assert!(permissions.judge(&access(Some(&head), 81), |_| ()).is_err());
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

/// What becomes of a request whose token says `claims`; none: it has no token.
fn with_claims(policies: Vec<AccessPolicy>, claims: Option<&str>, head: Option<&RequestHead>) -> bool {
    let claims = claims.map(|text| Claims::read(text.as_bytes()).unwrap());
    let access = Access { claims: claims.as_ref(), ..access(head, 80) };
    permissions(policies, None).judge(&access, |_| ()).is_ok()
}

#[test]
fn claims_are_those_of_a_token_and_nobody_gains_by_having_none() {
    let of = |action, source: &serde_json::Value| vec![policy("c", action, false, &[serde_json::json!({ "from": [source] })])];
    let get = request("GET", "/", &[("groups", "admin")]);
    let admins = serde_json::json!({ "claims": [{ "name": "groups", "values": ["admin"] }] });
    let others = serde_json::json!({ "not_claims": [{ "name": "groups", "values": ["guest", "bot"] }] });
    let both = serde_json::json!({
        "claims": [{ "name": "sub" }, { "name": "groups", "values": ["admin"] }], "not_claims": [{ "name": "off" }],
    });
    let (admin, guest) = (r#"{"sub":"a","groups":["staff","admin"]}"#, r#"{"sub":"b","groups":["guest"]}"#);
    for (source, claims, allowed, denied) in [
        (&admins, Some(admin), true, true),
        (&admins, Some(guest), false, false),
        (&admins, None, false, false),
        (&others, Some(admin), true, true),
        (&others, Some(guest), false, false),
        // Whoever is to prove that it is no guest has to prove something.
        (&others, None, false, true),
        (&both, Some(admin), true, true),
        (&both, Some(r#"{"groups":"admin"}"#), false, false),
        (&both, Some(r#"{"sub":"a","groups":"admin","off":1}"#), false, false),
        (&both, None, false, false),
    ] {
        assert_eq!(with_claims(of(AccessAction::Allow, source), claims, Some(&get)), allowed, "{source} {claims:?}");
        assert_eq!(!with_claims(of(AccessAction::Deny, source), claims, Some(&get)), denied, "{source} {claims:?}");
        // Bytes show no token.
        assert!(!with_claims(of(AccessAction::Allow, source), claims, None));
        assert!(!with_claims(of(AccessAction::Deny, source), claims, None));
    }
    // Another caller of the rule needs none.
    let either = |network: &str| allow(serde_json::json!({ "from": [admins, { "addresses": { "any": [network] } }] }));
    assert!(with_claims(either("10.1.0.0/16"), None, Some(&get)));
    assert!(!with_claims(either("10.2.0.0/16"), None, Some(&get)));
}

/// Whoever comes from another trust domain needs a rule that names it, whatever its token says.
#[test]
fn claims_and_conditions_name_nobody_of_another_trust_domain() {
    let id = "spiffe://other/ns/a/sa/b";
    let claims = Claims::read(br#"{"sub":"a"}"#).unwrap();
    let get = request("GET", "/", &[]);
    let asks = serde_json::json!([{ "name": "sub" }]);
    let named = serde_json::json!({ "any": [{ "exact": id }] });
    for (rule, with_token, without) in [
        (serde_json::json!({ "from": [{ "claims": asks }] }), false, false),
        (serde_json::json!({ "when": "request.method == 'GET'" }), false, false),
        (serde_json::json!({ "from": [{ "identities": named }], "when": "has(claims.sub)" }), true, false),
        (serde_json::json!({ "from": [{ "claims": asks }, { "identities": named, "claims": asks }] }), true, false),
        (serde_json::json!({ "from": [{ "claims": asks }, { "identities": named }] }), true, true),
    ] {
        let permissions = permissions(allow(rule.clone()), Some(id));
        for (claims, passes) in [(Some(&claims), with_token), (None, without)] {
            let access = Access { claims, ..access(Some(&get), 80) };
            assert_eq!(permissions.judge(&access, |_| ()).is_ok(), passes, "{rule} {claims:?}");
        }
    }
}

#[test]
fn a_condition_without_a_result_never_lets_anybody_in() {
    let of = |action, when: &str| vec![policy("c", action, false, &[serde_json::json!({ "when": when })])];
    let get = request("GET", "/a", &[("x-team", "a")]);
    for (when, claims, allowed, denied) in [
        ("request.headers['x-team'] == 'a'", None, true, true),
        ("request.headers['x-team'] == 'b'", None, false, false),
        ("request.headers['x-none'] == 'b'", None, false, true),
        ("request.headers['x-none'] != 'b'", None, false, true),
        ("claims.level > 2", Some(r#"{"level":3}"#), true, true),
        ("claims.level > 2", Some(r#"{"level":"high"}"#), false, true),
        ("claims.level > 2", None, false, true),
        ("has(claims.level) && claims.level > 2", None, false, false),
        ("source.identity != ''", None, false, true),
        ("source.address.startsWith('10.1.2.3:')", None, true, true),
    ] {
        assert_eq!(with_claims(of(AccessAction::Allow, when), claims, Some(&get)), allowed, "{when}");
        assert_eq!(!with_claims(of(AccessAction::Deny, when), claims, Some(&get)), denied, "{when}");
    }
    // Of bytes only the connection is known, whatever else would decide.
    for (when, allowed, denied) in [
        ("source.port == 4000", true, true),
        ("source.port == 4001", false, false),
        ("source.port == 4000 || request.method == 'GET'", false, true),
        ("has(claims.sub)", false, true),
    ] {
        assert_eq!(with_claims(of(AccessAction::Allow, when), None, None), allowed, "{when}");
        assert_eq!(!with_claims(of(AccessAction::Deny, when), None, None), denied, "{when}");
    }
}

/// However many conditions there are, and whatever a caller sends, judging takes only so long; what is left unasked lets nobody in.
#[test]
fn conditions_have_so_many_steps_together() {
    let long = "x".repeat(30_000);
    let get = request("GET", "/", &[("x-long", &long)]);
    let costly = serde_json::json!({ "when": format!("{}false", "request.headers['x-long'].contains('y') || ".repeat(18)) });
    let cheap = serde_json::json!({ "when": "request.method == 'GET'" });
    let of = |action, costly_rules: usize| {
        let rules: Vec<_> = std::iter::repeat_n(costly.clone(), costly_rules).chain([cheap.clone()]).collect();
        with_claims(vec![policy("c", action, false, &rules)], None, Some(&get))
    };
    assert!(of(AccessAction::Allow, 5) && !of(AccessAction::Allow, 20));
    assert!(!of(AccessAction::Deny, 5) && !of(AccessAction::Deny, 20));
}

#[test]
fn it_is_told_which_condition_has_no_result() {
    let rules = [serde_json::json!({ "when": "request.method == 'PUT'" }), serde_json::json!({ "when": "request.headers['x'] == 'a'" })];
    for (action, told) in [(AccessAction::Allow, true), (AccessAction::Deny, true), (AccessAction::Audit, false)] {
        let permissions = permissions(vec![policy("c", action, false, &rules)], None);
        let head = request("GET", "/", &[]);
        let access = access(Some(&head), 80);
        let denial = permissions.judge(&access, |_| ()).err();
        let found = denial.and_then(|denial| permissions.without_result(&denial, &access));
        let found = found.map(|(by, error)| format!("{by}: {error}"));
        let expected = "c.contact/0: there is nothing of this name (bytes 0 to 20 of the expression)";
        assert_eq!(found.as_deref(), told.then_some(expected));
    }
}

/// A condition sees a path as it came, so one that could be read in another way is not put to it.
#[test]
fn a_condition_is_not_gone_around_by_spelling() {
    let rules = [serde_json::json!({ "when": "request.url_path.startsWith('/admin')" })];
    let of = |shadow| permissions(vec![policy("c", AccessAction::Deny, shadow, &rules)], None);
    for path in ["/%61dmin", "//admin", "/x/../admin", "/admin;x"] {
        assert_ne!(verdict(&of(false), &request("GET", path, &[])), "ok", "{path}");
        assert_eq!(verdict(&of(true), &request("GET", path, &[])), "ok", "what is tried denies nothing: {path}");
    }
    assert_eq!(verdict(&of(false), &request("GET", "/list", &[])), "ok");
    assert_eq!(verdict(&of(false), &request("GET", "/admin/x", &[])), "denied by c.contact/0");
}

#[test]
fn of_bytes_only_caller_and_port_are_known_and_what_is_unknown_denies() {
    let bytes = access(None, 5432);
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
        let verdict = permissions.judge(&access(Some(&head), 80), |noted| {
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
        proptest::prop_assert_eq!(permissions.judge(&access(Some(&head), 80), |_| ()).is_ok(), expected);
    }

    #[test]
    fn no_path_panics(path in "\\PC*") {
        let _ = Reading::of(&path);
        let _ = path.parse::<PathPattern>();
    }
}

#[test]
fn services_are_asked_by_the_policies_that_mean_a_request() {
    let external = |name: &str, shadow, rules: &[serde_json::Value]| policy(name, AccessAction::External, shadow, rules);
    let all = serde_json::json!({});
    let policies = vec![
        external("admin", false, &[paths(&["/admin/*"])]),
        external("trial", true, std::slice::from_ref(&all)),
        external("readers", false, &[serde_json::json!({ "from": [{ "identities": { "any": [{ "exact": READ }] } }] })]),
    ];
    let (reader, other) = (permissions(policies.clone(), Some(READ)), permissions(policies, None));
    assert!(!reader.is_everything());
    let asked = |permissions: &Permissions, path: &str| {
        let head = request("GET", path, &[]);
        assert_eq!(verdict(permissions, &head), "ok", "whether it may is for others to say");
        permissions.external(&access(Some(&head), 80)).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(asked(&reader, "/list"), ["trial.contact/0", "readers.contact/0"]);
    assert_eq!(asked(&other, "/list"), ["trial.contact/0"]);
    // No spelling gets around a question.
    for path in ["/admin/x", "/ADMIN/x", "/%61dmin/x"] {
        assert_eq!(asked(&other, path), ["admin.contact/0", "trial.contact/0"], "{path}");
    }
    let unasked = |permissions: &Permissions| match permissions.judge(&access(None, 80), |_| ()) {
        Err(Denial::Unasked(by)) => by.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(unasked(&reader), "admin.contact/0", "nobody can be asked of bytes");
    let trial = permissions(vec![external("trial", true, &[all])], None);
    assert!(trial.judge(&access(None, 80), |_| ()).is_ok(), "a trial denies nothing");
}

#[test]
fn rules_that_are_told_apart_by_hosts_and_values_of_fields_mean_what_they_meant() {
    let rules = |action, of: &[&str]| -> Vec<AccessPolicy> {
        let of_field = |value: &&str| serde_json::json!({ "to": [{ "headers": [{ "name": "X-Tenant", "value": { "exact": value } }] }] });
        let mut rules: Vec<_> = of.iter().map(of_field).collect();
        rules.push(serde_json::json!({ "to": [{ "hosts": { "any": [{ "exact": "a.example" }, { "exact": "b.example" }] } }] }));
        rules.push(serde_json::json!({ "to": [{ "hosts": { "any": [{ "exact": "c.example" }] }, "paths": { "any": ["/x"] } }] }));
        rules.push(serde_json::json!({ "to": [{ "headers": [{ "name": "x-tenant", "value": { "regex": "r[0-9]" } }] }] }));
        vec![policy("a", action, false, &rules)]
    };
    let head = |host: &str, path: &str, tenants: &[&str]| {
        let mut builder = HeadBuilder::with_capacity(64);
        tenants.iter().for_each(|tenant| builder.field(b"x-tenant", tenant.as_bytes()).unwrap());
        builder.request(Version::Http11, "GET", path, host, None).unwrap()
    };
    let (allow, deny) = (
        permissions(rules(AccessAction::Allow, &["red", "blue", "red,green"]), None),
        permissions(rules(AccessAction::Deny, &["red", "blue", "red,green"]), None),
    );
    // What an Allow means strictly, and a Deny loosely.
    for (host, path, tenants, allowed, denied) in [
        ("z", "/", &["red"][..], true, true),
        ("z", "/", &["RED"][..], false, false),
        ("z", "/", &["pink"][..], false, false),
        ("z", "/", &["red", "green"][..], true, true),
        ("z", "/", &["green", "blue"][..], false, true),
        ("z", "/", &["green, blue"][..], false, true),
        ("z", "/", &["r7"][..], true, true),
        ("z", "/", &[][..], false, false),
        ("B.Example:8080", "/", &[][..], true, true),
        ("b.example.", "/", &[][..], true, true),
        ("x.b.example", "/", &[][..], false, false),
        ("c.example", "/x", &[][..], true, true),
        ("c.example", "/X", &[][..], false, true),
        ("c.example", "/y", &[][..], false, false),
    ] {
        let head = head(host, path, tenants);
        assert_eq!(verdict(&allow, &head) == "ok", allowed, "{host} {path} {tenants:?}");
        assert_eq!(verdict(&deny, &head) != "ok", denied, "{host} {path} {tenants:?}");
    }
    // Of bytes nothing of the kind is known: nobody is allowed by it, and everybody is denied by the first rule.
    assert!(allow.judge(&access(None, 80), |_| ()).is_err());
    let Err(Denial::Denied(by)) = deny.judge(&access(None, 80), |_| ()) else { panic!("bytes are denied") };
    assert_eq!(by.rule.map(|rule| rule.name.as_str()), Some("0"));
}
