//! Gateways from files: which host, path and server name lead where, what rules change on the way, and what TLS asks of both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use testbed::{
    Echo, EchoServer, Mesh, PATIENCE, Reply, TcpEcho, eventually, gateway, http_get, http_send, https_send, route, run_gateway, send_raw,
};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Services of one plaintext endpoint each, with port 80 for HTTP and 90 for bytes.
fn services(endpoints: &[(&str, SocketAddr)]) -> String {
    let one = |(name, address): &(&str, SocketAddr)| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: http}}, {{port: 90, appProtocol: tcp}}]}}\n---\n\
             apiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: {name}-1, namespace: shop}}\nspec: {{service: {name}, address: {ip}, ports: [{{servicePort: 80, port: {port}}}, {{servicePort: 90, port: {port}}}], transport: Plaintext}}\n---\n",
            ip = address.ip(),
            port = address.port(),
        )
    };
    endpoints.iter().map(one).collect()
}

async fn reached(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<Echo> {
    let reply = http_get(address, host, path).await?;
    anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    reply.json()
}

#[tokio::test]
async fn the_most_specific_host_and_path_decide() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, two) = (EchoServer::start("one").await?, EchoServer::start("two").await?);
    let text = services(&[("one", one.address()), ("two", two.address())])
        + &gateway("  - {name: any, port: 80, protocol: HTTP}\n  - {name: own, port: 80, protocol: HTTP, hostname: own.example}\n")
        + &route(
            "HTTPRoute",
            "wide",
            "  hostnames: ['*.example']\n  rules:\n  - backendRefs: [{name: one, port: 80}]\n  - matches: [{path: {value: /two}}]\n    backendRefs: [{name: two, port: 80}]\n",
        )
        + &route(
            "HTTPRoute",
            "narrow",
            "  hostnames: [a.example]\n  rules:\n  - matches: [{path: {type: Exact, value: /only}}]\n    backendRefs: [{name: two, port: 80}]\n",
        )
        .replace("[{name: edge}]", "[{name: edge, sectionName: any}]");
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    for (host, path, server) in [
        ("b.example", "/", "one"),
        ("b.example:8080", "/two/x", "two"),
        ("B.Example", "/twofold", "one"),
        ("a.example", "/only", "two"),
        // What the narrower host's rules do not take, the wider one's do.
        ("a.example", "/", "one"),
        ("own.example", "/", "one"),
    ] {
        assert_eq!(reached(at[0], host, path).await?.server, server, "{host}{path}");
    }
    let missed = http_get(at[0], "example", "/").await?;
    assert_eq!((missed.status.as_u16(), missed.header("x-lorica-reason")), (404, Some("no_route")));
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn rules_change_requests_and_answers() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, copies) = (EchoServer::start("one").await?, EchoServer::start("copies").await?);
    let rules = "  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
  - matches: [{path: {value: /cut}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: b}], remove: [X-Gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: Content-Type, value: text/x}], add: [{name: X-Told, value: t}]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: copies, port: 80}}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /script}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: [PUT], allowCredentials: true, maxAge: 60}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /halves}}]
    backendRefs:
    - {name: one, port: 80, weight: 1, filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example}}]}
    - {name: one, port: 80, weight: 1}
";
    let text = services(&[("one", one.address()), ("copies", copies.address())])
        + &gateway("  - {name: http, port: 8080, protocol: HTTP}\n")
        + &route("HTTPRoute", "rules", rules);
    let (proxy, at) = run_gateway(&mesh, &text, &[8080], &[]).await?;

    let moved = http_get(at[0], "a.example", "/old/q?x=1").await?;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (301, Some("https://a.example/new/q?x=1")));

    let request = Request::post("/cut/q?x=1").header("host", "a.example").header("x-gone", "1").header("x-set", "0").header("x-add", "a");
    let reply = http_send(at[0], request.body(Full::new(Bytes::from_static(b"hello")))?).await?;
    let told: Echo = reply.json()?;
    assert_eq!((told.path.as_str(), told.host.as_str(), told.body.as_str()), ("/q?x=1", "inner.example", "hello"));
    assert_eq!((told.header("x-set"), told.header("x-gone")), (Some("s"), None));
    assert_eq!(told.headers.iter().filter(|(name, _)| name == "x-add").map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((told.header("x-forwarded-proto"), told.header("x-forwarded-for")), (Some("http"), Some("127.0.0.1")));
    assert_eq!((reply.header("content-type"), reply.header("x-told")), (Some("text/x"), Some("t")));
    eventually("the copy has arrived", PATIENCE, || async {
        anyhow::ensure!(copies.requests() == 1, "{} copies", copies.requests());
        Ok(())
    })
    .await?;

    let asks = Request::builder().method(Method::OPTIONS).uri("/script").header("host", "a.example");
    let asks = asks.header("origin", "https://b.example").header("access-control-request-method", "PUT");
    let allowed = http_send(at[0], asks.body(Full::default())?).await?;
    assert_eq!((allowed.status.as_u16(), allowed.header("access-control-allow-origin")), (200, Some("https://b.example")));
    assert_eq!((allowed.header("access-control-allow-methods"), allowed.header("access-control-max-age")), (Some("PUT"), Some("60")));

    let mut halves: BTreeMap<u16, u32> = BTreeMap::new();
    for _ in 0..200 {
        *halves.entry(http_get(at[0], "a.example", "/halves").await?.status.as_u16()).or_default() += 1;
    }
    // Six standard deviations to each side: one run in half a billion fails by chance.
    assert!(halves.keys().eq(&[200, 302]) && halves.values().all(|count| (58..=142).contains(count)), "{halves:?}");
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_rule_may_ask_for_another_attempt() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let rules = "  rules:\n  - matches: [{path: {value: /status}}]\n    retry: {codes: [503], attempts: 2, backoff: 10ms}\n    backendRefs: [{name: one, port: 80}]\n";
    let text = services(&[("one", one.address())])
        + &gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route("HTTPRoute", "rules", rules);
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    assert_eq!(http_get(at[0], "a", "/status/503").await?.status, 503);
    assert_eq!(one.requests(), 3, "the first, and two more");
    assert_eq!(http_get(at[0], "a", "/status/502").await?.status, 502);
    assert_eq!(one.requests(), 4, "502 is not listed");
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn bytes_go_where_the_oldest_route_says() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = TcpEcho::start("220 ready").await?;
    let text = services(&[("one", echo.address())])
        + &gateway("  - {name: bytes, port: 25, protocol: TCP}\n  - {name: unrouted, port: 26, protocol: TCP}\n")
        + &route("TCPRoute", "mail", "  rules: [{backendRefs: [{name: one, port: 90}]}]\n")
            .replace("{name: edge}", "{name: edge, sectionName: bytes}");
    let (proxy, at) = run_gateway(&mesh, &text, &[25, 26], &[]).await?;
    let greeted = send_raw(at[0], b"hello").await;
    assert!(greeted.as_ref().is_ok_and(|bytes| bytes.starts_with(b"220 ready")), "{greeted:?}");
    assert!(send_raw(at[1], b"hello").await.is_ok_and(|bytes| bytes.is_empty()) || send_raw(at[1], b"hello").await.is_err());
    proxy.running.stop().await?;
    mesh.finish().await
}

/// A certificate for these names, and its key, as PEM.
fn certificate(names: &[&str]) -> anyhow::Result<(String, String, CertificateDer<'static>)> {
    let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().clone()))
}

fn secret(name: &str, chain: &str, key: &str) -> String {
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
        indented(chain),
        indented(key)
    )
}

/// Asks for `host` on a TLS connection that was opened for `server_name`.
async fn ask(address: SocketAddr, trusted: &CertificateDer<'static>, server_name: &str, host: &str) -> anyhow::Result<Reply> {
    https_send(address, trusted, server_name, Request::get("/").header("host", host).body(Full::default())?).await
}

#[tokio::test]
async fn the_server_name_chooses_certificate_and_listener() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let (a, b) = (certificate(&["a.example"])?, certificate(&["*.b.example"])?);
    let listeners = "  - {name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: a}]}}
  - {name: b, port: 443, protocol: HTTPS, hostname: '*.b.example', tls: {certificateRefs: [{name: b}]}}
";
    let whole = |a: &(String, String, CertificateDer<'static>)| {
        services(&[("one", one.address())])
            + &secret("a", &a.0, &a.1)
            + &secret("b", &b.0, &b.1)
            + &gateway(listeners)
            + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n")
    };
    let (proxy, at) = run_gateway(&mesh, &whole(&a), &[443], &[]).await?;
    let reply = ask(at[0], &a.2, "a.example", "a.example").await?;
    assert_eq!(reply.json::<Echo>()?.header("x-forwarded-proto"), Some("https"));
    assert_eq!(ask(at[0], &b.2, "x.b.example", "x.b.example:8443").await?.status, 200);
    // RFC 9110, 15.5.20: this connection was not opened for that host.
    assert_eq!(ask(at[0], &a.2, "a.example", "x.b.example").await?.status, 421);
    assert_eq!(ask(at[0], &a.2, "a.example", "c.example").await?.status, 404);
    ask(at[0], &a.2, "c.example", "c.example").await.unwrap_err();

    // A renewed certificate is shown to the next connection.
    let renewed = certificate(&["a.example"])?;
    mesh.write("gateway.yaml", whole(&renewed))?;
    proxy.running.signal(rustix::process::Signal::HUP)?;
    eventually("the renewed certificate is shown", PATIENCE, || ask(at[0], &renewed.2, "a.example", "a.example")).await?;
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn what_cannot_be_served_is_told_at_the_start() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    mesh.write(
        "gateway.yaml",
        services(&[])
            + &gateway("  - {name: http, port: 80, protocol: HTTP}\n").replace("gatewayClassName: lorica", "gatewayClassName: other"),
    )?;
    for (gateway, told) in [("edge.shop", "there is nothing to serve"), ("gone.shop", "no Gateway `gone.shop`")] {
        let output = mesh.lorica(["proxy", "--gateway", gateway, "--config", "gateway.yaml"]).await?;
        assert!(output.code() == 1 && output.stderr.contains(told) && output.stderr.contains("hint: "), "{}", output.stderr);
    }
    mesh.finish().await
}

#[tokio::test]
async fn a_gateway_follows_its_control_plane() -> anyhow::Result<()> {
    let mesh = Mesh::options().start().await?;
    let (one, two) = (EchoServer::start("one").await?, EchoServer::start("two").await?);
    let to = |name: &str| route("HTTPRoute", "all", &format!("  rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]\n"));
    let listeners = "  - {name: http, port: 80, protocol: HTTP}\n";
    mesh.apply(&(services(&[("one", one.address()), ("two", two.address())]) + &gateway(listeners) + &to("one"))).await?;
    let status = async || -> anyhow::Result<serde_json::Value> {
        let shown = mesh.lorica(["get", "gateway", "edge", "-n", "shop", "-o", "json"]).await?.success()?.json()?;
        Ok(shown["status"].clone())
    };
    let programmed = status().await?["conditions"][1].clone();
    assert_eq!((&programmed["reason"], &programmed["status"]), (&"AddressNotAssigned".into(), &"False".into()), "no proxy runs it");

    let running =
        mesh.start_binary("a gateway", ["proxy", "--gateway", "edge.shop", "--bind", "80=0", "--bind", "81=0"], Vec::new(), None)?;
    let line = running.line("serving: port 80 on ").await?;
    let address: SocketAddr = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    assert_eq!(reached(address, "a", "/").await?.server, "one");
    eventually("the status tells where it listens", PATIENCE, || async {
        let status = status().await?;
        anyhow::ensure!(status["conditions"][1]["status"] == "True" && status["addresses"][0]["value"] == "127.0.0.1", "{status}");
        Ok(())
    })
    .await?;

    // The receipt comes once the gateway has it in force: the very next request sees it.
    let receipt = mesh.apply(&to("two")).await?;
    assert!(receipt.stdout.contains("1 of 1 proxies"), "{}", receipt.stdout);
    assert_eq!(reached(address, "a", "/").await?.server, "two");

    mesh.apply(&gateway(&format!("{listeners}  - {{name: more, port: 81, protocol: HTTP}}\n"))).await?;
    let line = running.line("port 81 on ").await?;
    let more: SocketAddr = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    assert_eq!(reached(more, "a", "/").await?.server, "two");

    // It outlives its control plane.
    mesh.kill_control().await?;
    assert_eq!(reached(address, "a", "/").await?.server, "two");
    mesh.start_control().await?;
    running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_split_shares_requests_between_versions() -> anyhow::Result<()> {
    let mesh = Mesh::options().start().await?;
    let (one, two) = (EchoServer::start("one").await?, EchoServer::start("two").await?);
    let workload = |name: &str, version: &str, at: SocketAddr| {
        format!(
            "---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{service: web, version: {version}, address: {}, ports: [{{servicePort: 80, port: {}}}], transport: Plaintext}}\n",
            at.ip(),
            at.port()
        )
    };
    let service = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n";
    mesh.apply(&(service.to_owned() + &workload("web-1", "v1", one.address()) + &workload("web-2", "v2", two.address()))).await?;
    let printed = mesh.lorica(["split", "web.shop", "v1=1", "v2=3", "--print"]).await?.success()?.stdout;
    assert!(printed.contains("kind: HTTPRoute") && printed.contains("weight: 3") && printed.contains("version: v2"), "{printed}");
    let refused = mesh.lorica(["split", "web.shop", "v1=0"]).await?;
    assert!(refused.code() == 1 && refused.stderr.contains("hint: "), "{}", refused.stderr);
    mesh.lorica(["split", "web.shop", "v1=1", "v2=3"]).await?.success()?;

    let local = testbed::Port::free()?;
    let client = mesh.client().upstream(&format!("web.shop:80={}", local.address())).start(["sleep", "600"])?;
    let answered = || async { reached(local.address(), "web.shop", "/").await.map(|echo| echo.server) };
    eventually("the client's proxy serves", PATIENCE, answered).await?;
    let mut second = 0;
    for _ in 0..400 {
        second += u32::from(answered().await? == "two");
    }
    // Three quarters of 400, six standard deviations to each side.
    assert!((248..=352).contains(&second), "{second} of 400");
    mesh.lorica(["split", "web.shop", "v1=0", "v2=100"]).await?.success()?;
    for _ in 0..20 {
        assert_eq!(answered().await?, "two");
    }
    let unknown = mesh.lorica(["split", "web.shop", "v9=1"]).await?.success()?;
    assert!(unknown.stderr.contains("no workload of web.shop has the version `v9`"), "{}", unknown.stderr);
    client.stop().await?;
    mesh.finish().await
}
