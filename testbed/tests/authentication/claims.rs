//! What tokens say, in policies of who may do what: claims and conditions, at a workload and at gateways.

use std::net::SocketAddr;

use serde_json::{Value, json};
use testbed::{Connection, EchoServer, Envoy, Mesh, PATIENCE, Port, Running, eventually, http_send, route};

use super::issuer::Issuer;
use super::service::beside;
use super::{bearer, policy, request, services};

/// An AuthorizationPolicy of `shop`.
fn access(name: &str, spec: &str) -> String {
    policy(name, spec).replace("AuthenticationPolicy", "AuthorizationPolicy")
}

/// One request, by who has this token, with more fields.
async fn asked(at: SocketAddr, path: &str, token: Option<&str>, more: &[(&str, &str)]) -> anyhow::Result<u16> {
    let authorization = token.map(bearer);
    let own = authorization.iter().map(|value| ("authorization", value.as_str()));
    let fields: Vec<(&str, &str)> = own.chain(more.iter().copied()).collect();
    Ok(http_send(at, request(path, &fields)?).await?.status.as_u16())
}

/// What anybody may say of itself.
const MADE_UP: [(&str, &str); 4] =
    [("groups", "admin"), ("x-groups", "admin"), ("claims", r#"{"groups":["admin"]}"#), ("x-lorica-claims", "admin")];

#[tokio::test]
async fn a_workload_lets_in_who_has_the_claims() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let provider = issuer.provider(", claimsToHeaders: [{claim: groups, header: x-groups}]");
    let policies = policy("users", &format!("{{jwt: {{optional: true, providers: [{provider}]}}}}"))
        + &access(
            "staff",
            "{rules: [
              {name: admins, from: [{claims: [{name: groups, values: [admin]}]}], to: [{paths: [/admin]}]},
              {name: others, from: [{notClaims: [{name: groups, values: [guest]}]}], to: [{paths: [/others]}]},
              {name: adults, when: 'claims.age >= 18', to: [{paths: [/adults]}]},
              {name: open, to: [{paths: [/open]}]}]}",
        )
        + &access("banned", "{action: Deny, rules: [{name: level, when: 'claims.level < 3', to: [{paths: [/open]}]}]}");
    let proxy = beside(&mesh, &echo, &policies).await?;
    let token = |changes: Value| issuer.token(changes);
    let admin = token(json!({"groups": ["staff", "admin"], "age": 20, "level": 7}));
    let guest = token(json!({"groups": ["guest"], "age": 12, "level": 1}));
    let odd = token(json!({"groups": {"admin": true}, "age": "old", "level": "high"}));
    for (path, token, status) in [
        ("/admin", Some(&admin), 200),
        ("/admin", Some(&guest), 403),
        ("/admin", Some(&odd), 403),
        ("/admin", None, 403),
        ("/others", Some(&admin), 200),
        ("/others", Some(&guest), 403),
        ("/others", None, 403),
        ("/adults", Some(&admin), 200),
        ("/adults", Some(&guest), 403),
        // A condition without a result neither allows nor keeps from denying.
        ("/adults", Some(&odd), 403),
        ("/adults", None, 403),
        ("/open", Some(&admin), 200),
        ("/open", Some(&guest), 403),
        ("/open", Some(&odd), 403),
        ("/open", None, 403),
    ] {
        let token = token.map(String::as_str);
        for more in [&[][..], &MADE_UP] {
            assert_eq!(asked(proxy.address(), path, token, more).await?, status, "{path} {token:?} {more:?}");
        }
    }
    mesh.finish().await
}

/// Lorica's proxy as the gateway `edge.shop`.
async fn lorica(mesh: &Mesh) -> anyhow::Result<(Running, SocketAddr)> {
    let running = mesh.start_binary("a gateway", ["proxy", "--gateway", "edge.shop", "--bind", "80=0"], Vec::new(), None)?;
    let line = running.line("serving: port 80 on ").await?;
    let at = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    Ok((running, at))
}

const RULES: &str = "{targetRefs: [{kind: Gateway, name: edge}], rules: [
  {name: admins, from: [{claims: [{name: groups, values: [admin, 7]}, {name: sub}]}], to: [{paths: [/admin]}]},
  {name: nested, from: [{claims: [{name: realm_access.roles, values: [boss]}], notClaims: [{name: off}]}], to: [{paths: [/nested]}]},
  {name: words, from: [{claims: [{name: scope, values: [write]}]}], to: [{paths: [/words]}]},
  {name: others, from: [{notClaims: [{name: groups, values: [guest]}]}], to: [{paths: [/others]}]},
  {name: adults, when: \"claims.age >= 18 && request.headers['x-team'] == 'a'\", to: [{paths: [/adults]}]},
  {name: all, when: \"request.method == 'GET'\", to: [{paths: [/open/*, /list]}]}]}";
const DENIALS: &str = "{targetRefs: [{kind: Gateway, name: edge}], action: Deny, rules: [
  {name: level, when: claims.level < 3, to: [{paths: [/open/level]}]},
  {name: old, when: \"has(claims.age) && claims.age > 90\"},
  {name: team, when: \"request.headers['x-team'] == 'b'\", to: [{paths: [/open/team], methods: [GET]}]},
  {name: not-staff, from: [{notClaims: [{name: groups, values: [staff]}]}], to: [{paths: [/open/staff]}]},
  {name: spelled, when: request.url_path.endsWith('/secret')}]}";

#[tokio::test]
async fn envoy_knows_claims_and_conditions_as_lorica_does() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let text = services(&[("web", echo.address())])
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route("HTTPRoute", "web", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
        + &policy(
            "users",
            &format!("{{targetRefs: [{{kind: Gateway, name: edge}}], jwt: {{optional: true, providers: [{}]}}}}", issuer.provider("")),
        )
        + &access("rules", RULES)
        + &access("denials", DENIALS);
    mesh.apply(&text).await?;
    let envoy = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await?;
    let (proxy, at) = lorica(&mesh).await?;
    let staff = issuer
        .token(json!({"groups": ["staff", "admin"], "age": 20, "level": 7, "realm_access": {"roles": ["boss"]}, "scope": "read write"}));
    let numbers = issuer.token(json!({"groups": [7, true], "age": 17.5, "level": 3, "realm_access.roles": "boss", "scope": ["write"]}));
    let guest = issuer
        .token(json!({"groups": "guest", "age": 95, "level": 2, "realm_access": {"roles": ["boss"]}, "off": false, "scope": "rewrite"}));
    let whole = issuer.token(json!({"groups": "7", "level": "x", "realm_access": {"roles": ["boss"]}, "realm_access.roles": "none", "off": null, "scope": ["read write"]}));
    let bare = issuer.token(json!({"realm_access": {"roles": ["boss"]}, "off": null}));
    let places = [Some(("Lorica", at)), envoy.as_ref().map(|envoy| envoy.bound(80)).transpose()?.map(|at| ("Envoy", at))];
    for (who, at) in places.into_iter().flatten() {
        eventually("the gateway serves", PATIENCE, || async {
            let status = asked(at, "/admin", Some(&staff), &[]).await?;
            anyhow::ensure!(status == 200, "{who}: {status}");
            Ok(())
        })
        .await?;
        let a = ("x-team", "a");
        for (path, token, more, status) in [
            ("/admin", Some(&staff), &[][..], 200),
            ("/admin", Some(&numbers), &[], 200),
            ("/admin", Some(&whole), &[], 200),
            ("/admin", Some(&bare), &[], 403),
            ("/admin", Some(&guest), &MADE_UP, 403),
            ("/admin", None, &MADE_UP, 403),
            ("/nested", Some(&staff), &[], 200),
            ("/nested", Some(&numbers), &[], 200),
            ("/nested", Some(&guest), &[], 403),
            ("/nested", Some(&whole), &[], 403),
            // A claim that is null says nothing.
            ("/nested", Some(&bare), &[], 200),
            ("/words", Some(&staff), &[], 200),
            ("/words", Some(&numbers), &[], 200),
            ("/words", Some(&guest), &[], 403),
            ("/words", Some(&whole), &[], 403),
            ("/others", Some(&staff), &[], 200),
            ("/others", Some(&bare), &[], 200),
            ("/others", Some(&guest), &[], 403),
            ("/others", None, &[], 403),
            ("/adults", Some(&staff), &[a], 200),
            ("/adults", Some(&staff), &[], 403),
            ("/adults", Some(&numbers), &[a], 403),
            ("/adults", Some(&bare), &[a], 403),
            ("/adults", None, &[a], 403),
            ("/open/x", None, &[], 200),
            ("/open/x", Some(&whole), &[], 200),
            ("/open/x", Some(&guest), &[], 403),
            ("/open/level", Some(&staff), &[], 200),
            ("/open/level", Some(&whole), &[], 403),
            ("/open/level", None, &[], 403),
            ("/open/team", None, &[a], 200),
            ("/open/team", None, &[("x-team", "b")], 403),
            ("/open/team", None, &[], 403),
            ("/open/staff", Some(&staff), &[], 200),
            ("/open/staff", Some(&bare), &[], 403),
            ("/open/staff", None, &[], 403),
            ("/open/secret", None, &[], 403),
            ("/open/%73ecret", None, &[], 403),
            ("/open/x/../secret", None, &[], 403),
            ("/open/secrets", None, &[], 200),
        ] {
            let found = asked(at, path, token.map(String::as_str), more).await?;
            assert_eq!(found, status, "{who}: {path} {more:?} {token:?}");
        }
    }
    if let Some(envoy) = envoy {
        envoy.refused_nothing(&mesh, &["listener_manager.lds.", ".rds."]).await?;
        envoy.running.stop().await?;
    }
    proxy.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn who_loses_its_claims_permission_is_cut_off() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (app, issuer, listens) = (mesh.program(testbed::app()?)?, Issuer::new(), Port::free()?);
    let _app = mesh.start_outside(app, ["http", "--listen", &listens.address().to_string()])?;
    let allow = |rule: &str| access("who", &format!("{{targetRefs: [{{kind: Gateway, name: edge}}], rules: [{rule}]}}"));
    let text = services(&[("web", listens.address())])
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route("HTTPRoute", "web", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
        + &policy("users", &format!("{{targetRefs: [{{kind: Gateway, name: edge}}], jwt: {{providers: [{}]}}}}", issuer.provider("")));
    mesh.apply(&(text + &allow("{from: [{claims: [{name: team}]}]}"))).await?;
    let (proxy, at) = lorica(&mesh).await?;
    let tokens = ["a", "b", "c"].map(|team| issuer.token(json!({"team": team})));
    eventually("the gateway serves", PATIENCE, || async {
        let status = asked(at, "/", Some(&tokens[0]), &[]).await?;
        anyhow::ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;
    // More than all buffers on the way hold: the answer is under way until it is read.
    let mut open = Vec::new();
    for token in &tokens {
        let mut connection = Connection::open(at).await?;
        let head = format!("GET /bytes/20000000 HTTP/1.1\r\nhost: web.shop\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
        connection.write(head.as_bytes()).await?;
        let head = connection.read_until(b"\r\n\r\n").await?;
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        open.push(connection);
    }
    mesh.apply(&allow("{from: [{claims: [{name: team, values: [b]}]}]}, {when: claims.team == 'c'}")).await?;
    let [mut denied, by_claim, by_condition] = <[Connection; 3]>::try_from(open).ok().unwrap();
    let rest = denied.cut_off().await?;
    assert!(rest.len() < 20_000_000, "{} bytes came", rest.len());
    for mut kept in [by_claim, by_condition] {
        let whole = kept.read_to_end().await?.len();
        assert!(whole >= 20_000_000, "what may go on does: {whole}");
    }
    proxy.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn it_can_be_asked_offline_what_a_token_allows() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let rules = "{targetRefs: [{name: web}], rules: [
      {name: admins, from: [{claims: [{name: realm.roles, values: [admin]}]}], to: [{paths: [/admin]}]},
      {name: adults, when: claims.age >= 18, to: [{paths: [/adults]}]}]}";
    let files = mesh.write("shop.yaml", testbed::service("web", "http", "127.0.0.1:1".parse()?) + &access("who", rules))?;
    let files = files.display().to_string();
    for (path, claims, told) in [
        ("/admin", &["--claim", "realm.roles=[\"admin\"]"][..], "may GET web.shop/admin: who.shop/admins allows it"),
        ("/admin", &["--claim", "realm.roles=user"], "may not GET web.shop/admin: no AuthorizationPolicy allows it; who.shop does not"),
        ("/admin", &["--header", "realm.roles=admin"], "may not GET web.shop/admin"),
        ("/adults", &["--claim", "age=18", "--claim", "sub=ada"], "may GET web.shop/adults: who.shop/adults allows it"),
        ("/adults", &["--claim", "sub=ada"], "; the condition of who.shop/adults has no result: there is nothing of this name"),
    ] {
        let call = format!("web.shop{path}");
        let arguments = ["authz", "can", "nobody", "GET", &call, "-f", &files];
        let said = mesh.lorica(arguments.iter().chain(claims)).await?;
        assert!(said.stdout.contains(told), "{claims:?}: {} {}", said.stdout, said.stderr);
    }
    let expectations = "- {caller: nobody, may: GET web.shop/admin, claims: {realm: {roles: [admin]}}}
- {caller: nobody, mayNot: GET web.shop/admin}
- {caller: nobody, mayNot: GET web.shop/adults, claims: {age: young}}
";
    let expectations = mesh.write("expectations.yaml", expectations)?.display().to_string();
    let said = mesh.lorica(["authz", "test", &expectations, "-f", &files]).await?.success()?;
    assert!(said.stdout.contains("3 of 3 expectations hold"), "{}", said.stdout);
    mesh.finish().await
}
