//! A stock Envoy holds to the same policies: at a gateway beside Lorica's proxy, and beside an app whose callers are of the mesh.

use http::Request;
use http_body_util::Full;
use testbed::{Connection, EchoServer, Envoy, Mesh, PATIENCE, Port, eventually, http_send};

use super::bytes_crate::Bytes;
use super::{answers, ask, gateway, policy};

const AT_GATEWAY: &str = "{targetRefs: [{kind: Gateway, name: edge}], rules: [
  {name: read, to: [{methods: [GET], paths: ['/list', '/items/{id}/*', '/a b', /public/*], notPaths: [/public/secret]}]},
  {name: write, from: [{addresses: [127.0.0.0/8]}], to: [{methods: [POST], hosts: ['*.example'], headers: [{name: x-team, value: a}]}]},
  {name: never-here, to: [{ports: [81]}]}, {name: nobody, from: [{addresses: [192.0.2.0/24]}]}]}";

#[tokio::test]
async fn envoy_at_a_gateway_decides_as_lorica_does() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let web = EchoServer::start("web").await?;
    let edge = testbed::service("web", "http", web.address())
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
        + &policy("edge", AT_GATEWAY)
        + &policy(
            "admin",
            "{targetRefs: [{kind: HTTPRoute, name: all}], action: Deny, rules: [{to: [{paths: [/public/admin, /public/admin/*]}]}]}",
        )
        + &policy("trial", "{targetRefs: [{kind: Gateway, name: edge}], mode: Shadow, action: Deny, rules: [{to: [{paths: [/list]}]}]}");
    mesh.apply(&edge).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    let (lorica, other) = gateway(&mesh, 80).await?;
    for at in [envoy.bound(80)?, other] {
        answers(at, "/list").await?;
        for (method, path, host, fields, status) in [
            ("GET", "/list", "a", &[][..], 200),
            ("GET", "/list?x=/y", "a", &[], 200),
            ("GET", "/LIST", "a", &[], 403),
            ("GET", "/list/", "a", &[], 403),
            ("POST", "/list", "a", &[], 403),
            ("GET", "/items/7/x", "a", &[], 200),
            ("GET", "/items/7", "a", &[], 403),
            ("GET", "/items//x", "a", &[], 403),
            ("GET", "/a%20b", "a", &[], 200),
            ("GET", "/public/x/y", "a", &[], 200),
            ("GET", "/public/secret", "a", &[], 403),
            ("GET", "/public/SECRET/", "a", &[], 403),
            ("GET", "/public/admin", "a", &[], 403),
            ("GET", "/public/Admin/x", "a", &[], 403),
            ("GET", "/public/%61dmin", "a", &[], 403),
            ("GET", "/public/../admin", "a", &[], 403),
            ("GET", "/public/%2e%2e/list", "a", &[], 403),
            ("GET", "/public/administration", "a", &[], 200),
            ("POST", "/any", "a.example", &[("x-team", "a")], 200),
            ("POST", "/any", "A.Example:80", &[("x-team", "a")], 200),
            ("POST", "/any", "example", &[("x-team", "a")], 403),
            ("POST", "/any", "a.example", &[("x-team", "b")], 403),
            ("POST", "/any", "a.example", &[], 403),
        ] {
            let request = Request::builder().method(method).uri(path).header("host", host);
            let request = fields.iter().fold(request, |request, (name, value): &(&str, &str)| request.header(*name, *value));
            let reply = http_send(at, request.body(Full::<Bytes>::default())?).await?;
            let who = if at == other { "Lorica" } else { "Envoy" };
            assert_eq!(reply.status.as_u16(), status, "{who}: {method} {path} of {host} with {fields:?}: {}", reply.text());
            // Who calls from outside learns nothing of how it is protected.
            assert_eq!(reply.header("x-lorica-policy"), None);
        }
    }
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", ".rds."]).await?;
    envoy.running.stop().await?;
    lorica.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn envoy_beside_an_app_knows_its_callers() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let web = EchoServer::start("web").await?;
    let lines = mesh.program(testbed::app()?)?;
    let listens = Port::free()?;
    let _lines = mesh.start_outside(lines, ["tcp", "--listen", &listens.address().to_string()])?;
    let service = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}, {port: 90, appProtocol: tcp}]}\n---\n";
    let rules = "{targetRefs: [{name: web}], rules: [
      {from: [{identities: [ann]}], to: [{methods: [GET], ports: [80]}, {ports: [90]}]},
      {from: [{namespaces: [till], notIdentities: [eve.till]}], to: [{methods: [POST]}]}]}";
    mesh.apply(&(service.to_owned() + &policy("web", rules))).await?;
    let inbound = [Port::free()?, Port::free()?];
    let ports = [format!("80:{}/http", web.address().port()), format!("90:{}/tcp", listens.number())];
    let addresses = inbound.each_ref().map(|port| port.address().to_string());
    let options =
        ["--service", "web.shop", "--port", &ports[0], "--port", &ports[1], "--inbound", &addresses[0], "--inbound", &addresses[1]];
    let Some(envoy) = Envoy::start(&mesh, &options).await? else { return mesh.finish().await };
    let mut callers = Vec::new();
    for (namespace, account, get, post, bytes) in
        [("shop", "ann", 200, 403, true), ("till", "ben", 403, 200, false), ("till", "eve", 403, 403, false)]
    {
        let own = [Port::free()?, Port::free()?];
        let upstreams = [format!("web.shop:80={}", own[0].address()), format!("web.shop:90={}", own[1].address())];
        let client = mesh.client().no_capture().upstream(&upstreams[0]).upstream(&upstreams[1]).option("--namespace").option(namespace);
        let running = client.option("--account").option(account).start(["sleep", "600"])?;
        eventually("the service behind Envoy answers", PATIENCE, || async {
            let reply = ask(own[0].address(), "GET", "/").await?;
            anyhow::ensure!(reply.status != 503, "{} {}", reply.status, reply.text());
            Ok(())
        })
        .await?;
        let statuses =
            [ask(own[0].address(), "GET", "/").await?, ask(own[0].address(), "POST", "/").await?].map(|reply| reply.status.as_u16());
        assert_eq!(statuses, [get, post], "{account}");
        let mut connection = Connection::open(own[1].address()).await?;
        connection.write(b"one\n").await?;
        assert_eq!(connection.read_until(b"\n").await.is_ok_and(|line| line == b"one\n"), bytes, "{account}");
        callers.push((running, own));
    }
    // Envoy tells who calls, as Lorica's proxy does; what was denied is suggested to nobody.
    eventually("the callers of both ports are known", PATIENCE, || async {
        let suggested = mesh.lorica(["authz", "suggest", "-n", "shop"]).await?.success()?.stdout;
        for part in ["# ann: ", "methods: [GET], paths: [\"/\"], ports: [80]", "- {ports: [90]}", "# ben.till: ", "methods: [POST]"] {
            anyhow::ensure!(suggested.contains(part), "{part}\n{suggested}");
        }
        anyhow::ensure!(!suggested.contains("eve") && suggested.matches("ports: [90]").count() == 1, "{suggested}");
        Ok(())
    })
    .await?;
    // A change reaches the listeners that the bootstrap has.
    mesh.apply(&policy("web", "{targetRefs: [{name: web}], action: Deny, rules: [{from: [{identities: [ann]}]}]}")).await?;
    let [http, bytes] = callers[0].1.each_ref().map(Port::address);
    eventually("the new policy holds", PATIENCE, || async {
        anyhow::ensure!(ask(http, "GET", "/").await?.status == 403);
        let mut connection = Connection::open(bytes).await?;
        connection.write(b"one\n").await?;
        anyhow::ensure!(connection.cut_off().await?.is_empty());
        Ok(())
    })
    .await?;
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", ".rds.", "extension_config_discovery"]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
