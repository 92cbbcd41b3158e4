//! Gateways: connections are judged as requests are, what is under way is judged again, and who calls from outside learns little.

use testbed::{Connection, EchoServer, Envoy, Mesh, PATIENCE, Port, eventually};

use super::{answers, ask, gateway, policy, web};

async fn echoed(connection: &mut Connection, line: &[u8]) -> bool {
    connection.write(line).await.is_ok() && connection.read_until(b"\n").await.is_ok_and(|read| read == line)
}

#[tokio::test]
async fn a_gateway_asks_who_connects() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let lines = mesh.program(testbed::app()?)?;
    let listens = Port::free()?;
    let _lines = mesh.start_outside(lines, ["tcp", "--listen", &listens.address().to_string()])?;
    let from = |addresses: &str| {
        policy("near", &format!("{{targetRefs: [{{kind: Gateway, name: edge}}], rules: [{{from: [{{addresses: [{addresses}]}}]}}]}}"))
    };
    let edge = testbed::service("lines", "tcp", listens.address())
        + &testbed::gateway("  - {name: lines, port: 90, protocol: TCP}\n")
        + &testbed::route("TCPRoute", "lines", "  rules: [{backendRefs: [{name: lines, port: 80}]}]\n");
    mesh.apply(&(edge + &from("127.0.0.0/8"))).await?;
    let (lorica, at) = gateway(&mesh, 90).await?;
    let envoy = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "90=0"]).await?;
    let mut places = vec![at];
    places.extend(envoy.as_ref().map(|envoy| envoy.bound(90)).transpose()?);
    let mut open = Vec::new();
    for at in &places {
        open.push(
            eventually("who is near may connect", PATIENCE, || async {
                let mut connection = Connection::open(*at).await?;
                anyhow::ensure!(echoed(&mut connection, b"one\n").await);
                Ok(connection)
            })
            .await?,
        );
    }
    mesh.apply(&from("192.0.2.0/24")).await?;
    // Lorica's ends what is under way, too.
    assert_eq!(open[0].cut_off().await?, b"");
    for at in &places {
        eventually("who is far may not", PATIENCE, || async {
            let mut connection = Connection::open(*at).await?;
            anyhow::ensure!(!echoed(&mut connection, b"one\n").await);
            Ok(())
        })
        .await?;
    }
    if let Some(envoy) = envoy {
        envoy.refused_nothing(&mesh, &["listener_manager.lds."]).await?;
        envoy.running.stop().await?;
    }
    lorica.stop().await?;
    mesh.finish().await
}

/// What a condition asks of a connection is known of bytes, too; what has no result lets nobody in, at Envoy neither.
#[tokio::test]
async fn conditions_hold_for_bytes() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let lines = mesh.program(testbed::app()?)?;
    let listens = Port::free()?;
    let _lines = mesh.start_outside(lines, ["tcp", "--listen", &listens.address().to_string()])?;
    let when = |name: &str, action: &str, when: &str| {
        policy(name, &format!("{{targetRefs: [{{kind: Gateway, name: edge}}], action: {action}, rules: [{{when: \"{when}\"}}]}}"))
    };
    let edge = testbed::service("lines", "tcp", listens.address())
        + &testbed::gateway("  - {name: lines, port: 90, protocol: TCP}\n")
        + &testbed::route("TCPRoute", "lines", "  rules: [{backendRefs: [{name: lines, port: 80}]}]\n");
    mesh.apply(&(edge + &when("near", "Allow", "source.address.startsWith('127.0.0.1:')") + &when("low", "Deny", "source.port < 1024")))
        .await?;
    let (lorica, at) = gateway(&mesh, 90).await?;
    let envoy = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "90=0"]).await?;
    let mut places = vec![at];
    places.extend(envoy.as_ref().map(|envoy| envoy.bound(90)).transpose()?);
    let becomes = async |passes: bool, what: &str| -> anyhow::Result<()> {
        for at in &places {
            eventually(what, PATIENCE, || async {
                let mut connection = Connection::open(*at).await?;
                anyhow::ensure!(echoed(&mut connection, b"one\n").await == passes);
                Ok(())
            })
            .await?;
        }
        Ok(())
    };
    becomes(true, "who is near may connect").await?;
    // Nobody proves an identity here, so nothing tells that the denial does not mean it.
    for (name, action, text, passes) in [
        ("low", "Deny", "source.identity == 'spiffe://a/b'", false),
        ("low", "Deny", "connection.mtls", true),
        ("near", "Allow", "source.identity != 'spiffe://a/b'", false),
        ("near", "Allow", "source.port > 0", true),
        ("near", "Allow", "source.port > 0 || request.method == 'GET'", false),
    ] {
        mesh.apply(&when(name, action, text)).await?;
        becomes(passes, text).await?;
    }
    if let Some(envoy) = envoy {
        envoy.refused_nothing(&mesh, &["listener_manager.lds."]).await?;
        envoy.running.stop().await?;
    }
    lorica.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn what_a_gateway_lets_in_ends_when_its_permission_does() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let app = mesh.program(testbed::app()?)?;
    let listens = Port::free()?;
    let _app = mesh.start_outside(app, ["http", "--listen", &listens.address().to_string()])?;
    let edge = testbed::service("web", "http", listens.address())
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n");
    mesh.apply(&edge).await?;
    let (lorica, at) = gateway(&mesh, 80).await?;
    answers(at, "/").await?;
    let (mut denied, mut kept) = (Connection::open(at).await?, Connection::open(at).await?);
    for (connection, path) in [(&mut denied, "/bytes/24000000"), (&mut kept, "/bytes/20000000")] {
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let head = connection.read_until(b"\r\n\r\n").await?;
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    }
    let long = "{targetRefs: [{kind: HTTPRoute, name: all}], action: Deny, rules: [{to: [{paths: [/bytes/24000000]}]}]}";
    mesh.apply(&policy("long", long)).await?;
    let rest = denied.cut_off().await?;
    assert!(rest.len() < 24_000_000, "{} bytes came", rest.len());
    let whole = kept.read_to_end().await?.len();
    assert!(whole >= 20_000_000, "what may go on does: {whole}");
    lorica.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn who_calls_from_outside_is_not_told_which_policy_of_a_service_denies() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let echo = EchoServer::start("open").await?;
    let edge = testbed::service("open", "http", echo.address())
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route(
            "HTTPRoute",
            "all",
            "  rules: [{matches: [{path: {value: /open}}], backendRefs: [{name: open, port: 80}]}, {backendRefs: [{name: web, port: 80}]}]\n",
        )
        + &policy("none", "{targetRefs: [{name: web}]}");
    mesh.apply(&edge).await?;
    let (lorica, lorica_at) = gateway(&mesh, 80).await?;
    let envoy = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await?;
    let mut places = vec![lorica_at];
    places.extend(envoy.as_ref().map(|envoy| envoy.bound(80)).transpose()?);
    for at in places {
        answers(at, "/open").await?;
        eventually("the service denies", PATIENCE, || async {
            let reply = ask(at, "GET", "/").await?;
            anyhow::ensure!(reply.status == 403, "{}", reply.status);
            anyhow::ensure!(reply.header("x-lorica-policy").is_none() && !reply.text().contains("none.shop"), "{}", reply.text());
            Ok(())
        })
        .await?;
    }
    if let Some(envoy) = envoy {
        envoy.running.stop().await?;
    }
    lorica.stop().await?;
    mesh.finish().await
}
