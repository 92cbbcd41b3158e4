//! The main job: unmodified programs call each other by name through a mesh of their own, captured and without capture.

use std::ffi::OsStr;

use testbed::{Connection, Mesh, PATIENCE, Peer, Port, Running, Who, can_namespaces, eventually, left_out, peer};

/// Whether a test of captured apps may run as `who`; says so where not.
fn captured(who: Who, what: &str) -> bool {
    match can_namespaces(who) {
        Ok(()) => true,
        Err(why) => {
            left_out(&format!("{what} as {who:?}: {why}"));
            false
        }
    }
}

/// An HTTP service that answers with what it was asked, and says when it listens.
async fn echo(mesh: &Mesh, service: &str, port: &str, listen: u16) -> anyhow::Result<Running> {
    let app = mesh.program(testbed::app()?)?;
    let listen = format!("0.0.0.0:{listen}");
    let arguments: [&OsStr; 4] = [app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let running = mesh.service(service).port(port).start(arguments)?;
    mesh.announced(service, 1).await?;
    Ok(running)
}

#[tokio::test]
async fn programs_call_services_by_name() -> anyhow::Result<()> {
    for who in Who::all() {
        if !captured(*who, "calls by name") {
            continue;
        }
        let mesh = Mesh::options().run_as(*who).start().await?;
        let recording = echo(&mesh, "recording.contact", "80:8080/http", 8080).await?;
        let call = |url: &str| mesh.client().option("--namespace").option("contact").output(["curl", "-sS", url].map(str::to_owned));
        for name in ["recording", "recording.contact", "recording.contact.mesh"] {
            let reply = call(&format!("http://{name}/a?b=c")).await?.success()?.json()?;
            assert_eq!(reply["path"], "/a?b=c", "{reply}");
            let client = reply["headers"].to_string();
            assert!(client.contains("URI=spiffe://mesh.local/ns/contact/sa/default"), "{client}");
            assert!(client.contains("traceparent") && client.contains("x-request-id"), "{client}");
        }
        recording.stop().await?;
        mesh.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn scripts_in_python_and_node_need_no_change() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "Python and Node programs") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let server = mesh.write("server.py", "import http.server, sys\nclass H(http.server.BaseHTTPRequestHandler):\n    protocol_version = 'HTTP/1.1'\n    def do_GET(self):\n        body = b'from python to ' + self.client_address[0].encode()\n        self.send_response(200)\n        self.send_header('Content-Length', str(len(body)))\n        self.end_headers()\n        self.wfile.write(body)\nhttp.server.ThreadingHTTPServer(('127.0.0.1', 80), H).serve_forever()\n")?;
    let python = peer(Peer::Python).map_err(anyhow::Error::msg)?;
    let serving = mesh.service("greeter.shop").port("80/http").start([python.as_os_str(), server.as_os_str()])?;
    mesh.announced("greeter.shop", 1).await?;
    let client =
        mesh.write("client.py", "import urllib.request\nprint(urllib.request.urlopen('http://greeter.shop/').read().decode())\n")?;
    let reply = mesh.client().output([python.as_os_str(), client.as_os_str()]).await?.success()?;
    // The app sees who calls: the caller's own virtual address, never the host's loopback.
    assert!(reply.stdout.starts_with("from python to 240."), "{}", reply.stdout);
    match peer(Peer::Node) {
        Ok(node) => {
            let script = mesh.write("client.js", "fetch('http://greeter.shop/').then(r => r.text()).then(t => console.log(t)).catch(e => { console.error(e); process.exit(1); });\n")?;
            let reply = mesh.client().output([node.as_os_str(), script.as_os_str()]).await?.success()?;
            assert!(reply.stdout.starts_with("from python to 240."), "{}", reply.stdout);
        }
        Err(why) => left_out(&format!("a Node client: {why}")),
    }
    serving.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn http2_and_websocket_pass() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "HTTP/2 and WebSocket") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let python = peer(Peer::Python).map_err(anyhow::Error::msg)?;
    let echoing = echo(&mesh, "recording.contact", "80:8080", 8080).await?;
    let reply =
        mesh.client().output(["curl", "-sS", "--http2-prior-knowledge", "-d", "body", "http://recording.contact/x"]).await?.success()?;
    assert!(reply.stdout.contains("\"path\":\"/x\""), "{}", reply.stdout);
    // Bytes after 101 belong to whoever upgraded, both ways.
    let server = mesh.write("chat.py", "import socket\ns = socket.create_server(('', 80))\nwhile True:\n    c, _ = s.accept()\n    data = b''\n    while b'\\r\\n\\r\\n' not in data:\n        data += c.recv(4096)\n    c.sendall(b'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\nhello')\n    while True:\n        got = c.recv(4096)\n        if not got:\n            break\n        c.sendall(got.upper())\n    c.close()\n")?;
    let client = mesh.write("talk.py", "import socket\nc = socket.create_connection(('chat.contact', 80))\nc.sendall(b'GET /chat HTTP/1.1\\r\\nHost: chat.contact\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n')\ndata = b''\nwhile not data.endswith(b'hello'):\n    data += c.recv(4096)\nassert data.startswith(b'HTTP/1.1 101'), data\nc.sendall(b'ping')\nprint(c.recv(4096).decode())\n")?;
    let chat = mesh.service("chat.contact").port("80/http").start([python.as_os_str(), server.as_os_str()])?;
    mesh.announced("chat.contact", 1).await?;
    let reply = mesh.client().output([python.as_os_str(), client.as_os_str()]).await?.success()?;
    assert_eq!(reply.stdout.trim(), "PING");
    chat.stop().await?;
    echoing.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_kept_waiting() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "server-first TCP") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let app = mesh.program(testbed::app()?)?;
    let arguments: [&OsStr; 6] =
        [app.as_os_str(), "tcp".as_ref(), "--listen".as_ref(), "0.0.0.0:25".as_ref(), "--greeting".as_ref(), "220 ready".as_ref()];
    // Nothing is declared: bytes decide, and here the server's are the first.
    let mail = mesh.service("mail.contact").port("25").start(arguments)?;
    mesh.announced("mail.contact", 1).await?;
    let python = peer(Peer::Python).map_err(anyhow::Error::msg)?;
    let client = mesh
        .write("mail.py", "import socket\nc = socket.create_connection(('mail.contact', 25), timeout=20)\nprint(c.recv(100).decode())\n")?;
    let reply = mesh.client().output([python.as_os_str(), client.as_os_str()]).await?.success()?;
    assert!(reply.stdout.contains("220 ready"), "{}", reply.stdout);
    mail.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_quickly() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "unreachable names") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let curl = |url: &str| mesh.client().output(["curl", "-sS", "--max-time", "20", "-D", "-", url].map(str::to_owned));
    // No such name: curl's own code for it.
    assert_eq!(curl("http://nobody.contact.mesh/").await?.code(), 6);
    // A service without a workload: the mesh answers, with its reason.
    mesh.apply("apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: empty, namespace: contact}\nspec: {ports: [{port: 80, appProtocol: http}]}\n").await?.success()?;
    let reply = curl("http://empty.contact/").await?.success()?;
    assert!(reply.stdout.starts_with("HTTP/1.1 503") && reply.stdout.contains("x-lorica-reason: no_endpoint"), "{}", reply.stdout);
    // A port that the service does not have: reset right after connect, which curl calls refused where it looks only then.
    let code = curl("http://empty.contact:81/").await?.code();
    assert!(matches!(code, 7 | 56), "{code}");
    mesh.finish().await
}

#[tokio::test]
async fn a_route_is_applied_with_a_receipt_and_takes_hold_at_once() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "routes") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let (one, two) = (echo(&mesh, "web-v1.shop", "80/http", 80).await?, echo(&mesh, "web-v2.shop", "80/http", 80).await?);
    let web = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n";
    // A new name concerns every proxy: each answers its app's DNS.
    let applied = mesh.apply(web).await?.success()?;
    assert!(applied.stdout.contains("applied: 2 of 2 proxies concerned"), "{}", applied.stdout);
    let route = |weights: [u8; 2]| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec:\n  parentRefs: [{{kind: Service, name: web}}]\n  rules:\n  - matches: [{{path: {{value: /}}}}]\n    backendRefs: [{{name: web-v1, port: 80, weight: {}}}, {{name: web-v2, port: 80, weight: {}}}]\n",
            weights[0], weights[1]
        )
    };
    let applied = mesh.apply(&route([1, 0])).await?.success()?;
    assert!(applied.stdout.contains("applied: no proxy uses it yet"), "{}", applied.stdout);
    // One proxy calls again and again through an explicit listener, so that the test sees each answer.
    let port = Port::free()?;
    let client = mesh.client().upstream(&format!("web.shop:80={}", port.address())).start(["sleep", "600"])?;
    let ask = async || testbed::http_get(port.address(), "web.shop", "/").await;
    let reply = eventually("an answer of v1", PATIENCE, || async {
        let reply = ask().await?;
        anyhow::ensure!(reply.status.as_u16() == 200, "{}", reply.text());
        Ok(reply)
    })
    .await?;
    assert!(reply.text().contains("By=spiffe://mesh.local/ns/shop/sa/web-v1"), "{}", reply.text());
    let applied = mesh.apply(&route([0, 1])).await?.success()?;
    assert!(applied.stdout.contains("applied: 1 of 1 proxies concerned"), "{}", applied.stdout);
    let identities: Vec<String> = vec![ask().await?.text(), ask().await?.text()];
    assert!(identities.iter().all(|text| text.contains("By=spiffe://mesh.local/ns/shop/sa/web-v2")), "{identities:?}");
    let wrong = route([0, 1]).replace("web-v2, port", "web-v3, port");
    let refused = mesh.lorica_with_input(["apply", "-f", "-"], Some(&wrong)).await?;
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("there is no service `web-v3.shop`") && refused.stderr.contains("^"), "{}", refused.stderr);
    client.stop().await?;
    one.stop().await?;
    two.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn without_namespaces_explicit_listeners_serve() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = mesh.program(testbed::app()?)?;
    let (serving, calling) = (Port::free()?, Port::free()?);
    let listen = serving.address().to_string();
    let arguments: [&OsStr; 4] = [app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let service = mesh.service("recording.contact").no_capture().port(&format!("80:{}/http", serving.number())).start(arguments)?;
    mesh.announced("recording.contact", 1).await?;
    let upstream = format!("recording.contact:80={}", calling.address());
    let url = format!("http://{}/x", calling.address());
    let reply = mesh.client().upstream(&upstream).output(["curl", "-sS", &url]).await?.success()?;
    assert!(reply.stdout.contains("\"path\":\"/x\""), "{}", reply.stdout);
    service.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_published_port_serves_callers_without_a_mesh() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "published ports") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let app = mesh.program(testbed::app()?)?;
    let port = Port::free()?;
    let arguments: [&OsStr; 4] = [app.as_os_str(), "http".as_ref(), "--listen".as_ref(), "0.0.0.0:80".as_ref()];
    let service = mesh.service("web.shop").port("80/http").option("--publish").option(format!("{}:80", port.number())).start(arguments)?;
    mesh.announced("web.shop", 1).await?;
    let reply = testbed::http_get(port.address(), "web.shop", "/").await?;
    assert_eq!(reply.status.as_u16(), 200);
    service.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_programs_exit_code_and_output_are_its_own() -> anyhow::Result<()> {
    if !captured(Who::Nobody, "exit codes") {
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let ended = mesh.client().output(["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
    assert_eq!((ended.code(), ended.stdout.as_str(), ended.stderr.as_str()), (7, "out\n", "err\n"));
    mesh.finish().await
}

#[tokio::test]
async fn a_contradiction_is_refused_at_the_start() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    mesh.apply("apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n").await?.success()?;
    let refused = mesh.service("web.shop").no_capture().port("81:9/http").output(["true"]).await?;
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("has no port 81"), "{}", refused.stderr);
    mesh.finish().await
}

#[tokio::test]
async fn without_a_control_plane_the_error_says_what_to_do() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let refused = mesh.lorica(["status"]).await?;
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("no control plane answers on") && refused.stderr.contains("lorica control"), "{}", refused.stderr);
    mesh.finish().await
}

/// Both proxies tell of the same request under Istio's names, with who called and who answered.
async fn both_sides_count(mesh: &Mesh) -> anyhow::Result<()> {
    let status = mesh.status().await?;
    let mut texts = Vec::new();
    for proxy in status["proxies"].as_array().into_iter().flatten() {
        let address = proxy["metrics"].as_str().unwrap_or_default().parse()?;
        texts.push(testbed::http_get(address, "proxy", "/metrics").await?.text());
    }
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("istio_requests_total{")).collect();
    for (reporter, policy) in [("source", "unknown"), ("destination", "mutual_tls")] {
        let labels = [
            format!("reporter=\"{reporter}\""),
            format!("connection_security_policy=\"{policy}\""),
            "source_principal=\"spiffe://mesh.local/ns/default/sa/default\"".to_owned(),
            "destination_principal=\"spiffe://mesh.local/ns/shop/sa/web\"".to_owned(),
            "destination_service=\"web.shop.mesh\"".to_owned(),
            "destination_canonical_service=\"web\"".to_owned(),
            "response_code=\"200\"".to_owned(),
            "response_flags=\"-\"".to_owned(),
        ];
        let found =
            lines.iter().any(|line| labels.iter().all(|label| line.contains(label)) && !line.contains("=\"\",") && line.ends_with(" 1"));
        anyhow::ensure!(found, "no {reporter} reports the request:\n{}", lines.join("\n"));
    }
    Ok(())
}

#[tokio::test]
async fn a_request_is_counted_on_both_sides() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = mesh.program(testbed::app()?)?;
    let (serving, calling) = (Port::free()?, Port::free()?);
    let listen = serving.address().to_string();
    let arguments: [&OsStr; 4] = [app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let service = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", serving.number())).start(arguments)?;
    mesh.announced("web.shop", 1).await?;
    let client = mesh.client().upstream(&format!("web.shop:80={}", calling.address())).start(["sleep", "600"])?;
    let mut connection = eventually("the listener", PATIENCE, || Connection::open(calling.address())).await?;
    connection.write(b"GET /a HTTP/1.1\r\nHost: web.shop\r\n\r\n").await?;
    let first = connection.read_until(b"\r\n").await?;
    assert!(first.starts_with(b"HTTP/1.1 200"), "{}", first.escape_ascii());
    both_sides_count(&mesh).await?;
    client.stop().await?;
    service.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn what_holds_for_a_service_is_shown_with_who_says_so() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let service = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n---\n";
    let policy = |name: &str, spec: &str| {
        format!("apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
    };
    let own = policy("web", "{targetRefs: [{kind: Service, name: web}], timeouts: {request: 2s}}");
    mesh.apply(&(service.to_owned() + &policy("all", "{timeouts: {request: 9s, perTry: 1s}}") + &own)).await?.success()?;
    let shown = mesh.lorica(["get", "trafficpolicy", "--effective", "web", "-n", "shop"]).await?.success()?.stdout;
    let line = |setting: &str| {
        shown
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with(setting))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(line("timeouts.request").as_deref(), Some("timeouts.request 2s TrafficPolicy web.shop"), "{shown}");
    assert_eq!(line("timeouts.perTry").as_deref(), Some("timeouts.perTry 1s TrafficPolicy all.shop"));
    assert_eq!(line("timeouts.connect").as_deref(), Some("timeouts.connect 5s default"));
    let told = mesh.lorica(["get", "trafficpolicy", "--effective", "wep.shop"]).await?;
    assert!(told.stderr.contains("there is no service `wep.shop`") && told.stderr.contains("did you mean `web`?"), "{}", told.stderr);
    mesh.finish().await
}
