//! Services that are asked for leave: over gRPC and over HTTP, by Lorica's proxy and by a stock Envoy beside it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use lorica_xds::wire::authorization::authorization_server::{Authorization, AuthorizationServer};
use lorica_xds::wire::authorization::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse};
use lorica_xds::wire::header_value_option::HeaderAppendAction::{
    self, AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd,
};
use lorica_xds::wire::{BoolValue, HeaderValue, HeaderValueOption, HttpStatus, RpcStatus};
use testbed::{Connection, Echo, EchoServer, Envoy, Mesh, PATIENCE, Port, Reply, eventually, http_send, http2_send, run_gateway, service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::TcpListenerStream;

use super::bytes_crate::Bytes;
use super::{answers, ask, caller, gateway, policy, scraped, web};

/// Who is asked in the test: what it does follows from the path, and it remembers what it was asked.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<Vec<Seen>>>);

/// What it was asked of one request.
#[derive(Debug, Clone, Default)]
struct Seen {
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    caller: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Door {
    fn saw(&self, seen: Seen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    /// What it was asked since the last time.
    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it speaks gRPC. It ends with the test.
    async fn grpc(&self) -> anyhow::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let serving = tonic::transport::Server::builder().add_service(AuthorizationServer::new(self.clone()));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(at)
    }

    /// Where it speaks HTTP. It ends with the test.
    async fn http(&self) -> anyhow::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (at, door) = (listener.local_addr()?, self.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let door = door.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        let door = door.clone();
                        async move { door.answer(request).await }
                    });
                    // The caller closes when it has what it wants.
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(at)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        self.saw(Seen { path: path.clone(), headers, body: String::from_utf8_lossy(&body).into_owned(), caller: String::new() });
        let answer = Response::builder();
        let made = match path.strip_prefix("/check").unwrap_or("/not-asked-so") {
            "/allowed" => answer
                .header("x-user", "ann")
                .header("x-admin", "yes")
                .header("x-told", "hello")
                .header("x-envoy-auth-headers-to-remove", "x-secret")
                .body(Full::default()),
            "/denied" => answer.status(401).header("www-authenticate", "Door").header("x-why", "who").body(Full::from("who are you?\n")),
            "/moved" => answer.status(302).header("location", "/login").body(Full::default()),
            "/broken" => answer.status(503).body(Full::default()),
            "/silent" => std::future::pending().await,
            _ => answer.body(Full::default()),
        };
        Ok(made.expect("an answer of fixed words"))
    }
}

#[expect(deprecated, reason = "services still say `append`, and proxies still hear it")]
fn option(name: &str, value: &str, append: Option<bool>, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..HeaderValue::default() }),
        append: append.map(|value| BoolValue { value }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// Each way in which a field can come to those that are there: `x-there-N` came with the request, `x-new-N` did not.
fn every_way() -> Vec<HeaderValueOption> {
    let ways = [
        (None, AppendIfExistsOrAdd),
        (None, AddIfAbsent),
        (None, OverwriteIfExistsOrAdd),
        (None, OverwriteIfExists),
        (Some(true), AppendIfExistsOrAdd),
        (Some(false), AppendIfExistsOrAdd),
    ];
    let named = ways.iter().enumerate();
    named
        .flat_map(|(at, (append, action))| ["there", "new"].map(|name| option(&format!("x-{name}-{at}"), "door", *append, *action)))
        .collect()
}

#[tonic::async_trait]
impl Authorization for Door {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let caller = attributes.source.map(|peer| peer.principal).unwrap_or_default();
        let mut headers: Vec<_> = http.headers.into_iter().collect();
        headers.sort();
        self.saw(Seen { path: http.path.clone(), headers, body: http.body, caller });
        let denied = |status, headers, body: &str| {
            let status = Some(HttpStatus { code: status });
            Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body: body.to_owned() }))
        };
        let set = |name, value| option(name, value, None, OverwriteIfExistsOrAdd);
        let (code, http_response) = match http.path.as_str() {
            "/allowed" => {
                let mut headers = every_way();
                headers.push(set("x-user", "ann"));
                let mut told = every_way();
                told.push(set("x-told", "hello"));
                let ok = OkHttpResponse {
                    headers,
                    headers_to_remove: vec!["x-secret".to_owned(), "host".to_owned()],
                    response_headers_to_add: told,
                    ..OkHttpResponse::default()
                };
                (0, Some(HttpResponse::OkResponse(ok)))
            }
            "/denied" => {
                let cookies = ["a=1", "b=2"].map(|value| option("set-cookie", value, None, AppendIfExistsOrAdd));
                (16, denied(401, [vec![set("www-authenticate", "Door")], cookies.to_vec()].concat(), "who are you?\n"))
            }
            "/forbidden" => (7, None),
            "/smuggling" => {
                let broken = OkHttpResponse { headers: vec![set("x-user", "ann\r\nx-admin: yes")], ..OkHttpResponse::default() };
                (0, Some(HttpResponse::OkResponse(broken)))
            }
            "/silent" => std::future::pending().await,
            "/broken" => return Err(tonic::Status::internal("broken")),
            _ => (0, None),
        };
        let status = Some(RpcStatus { code, ..RpcStatus::default() });
        Ok(tonic::Response::new(CheckResponse { status, http_response, ..CheckResponse::default() }))
    }
}

/// `edge.shop` before `web`, where scripts of other hosts may ask whether they may ask.
fn edge(web: SocketAddr) -> String {
    let cors = "filters: [{type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: [PUT]}}]";
    service("web", "http", web)
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route("HTTPRoute", "all", &format!("  rules: [{{{cors}, backendRefs: [{{name: web, port: 80}}]}}]\n"))
}

/// Who says yes to the first question of each connection, and closes it when the next one comes. It ends with the test.
async fn closing() -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                while !got.ends_with(b"\r\n\r\n") {
                    got.push(stream.read_u8().await?);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
                stream.read_u8().await
            });
        }
    });
    Ok(at)
}

/// A server of one upgrade after another, which gives back what it gets in capital letters. It ends with the test.
async fn upgrading() -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                while !got.ends_with(b"\r\n\r\n") {
                    got.push(stream.read_u8().await?);
                }
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await?;
                let mut bytes = [0; 64];
                loop {
                    let read = stream.read(&mut bytes).await?;
                    if read == 0 {
                        return std::io::Result::Ok(());
                    }
                    stream.write_all(&bytes[..read].to_ascii_uppercase()).await?;
                }
            });
        }
    });
    Ok(at)
}

/// A policy of the gateway; `external`: how whom is asked. Whoever asks has two seconds, as machines under test are slow.
fn door(name: &str, external: &str, rules: &str) -> String {
    let spec =
        format!("{{targetRefs: [{{kind: Gateway, name: edge}}], action: External, external: {{timeout: 2s, {external}}}, rules: {rules}}}");
    policy(name, &spec)
}

const FREE: &str = "[{to: [{notPaths: [/free]}]}]";
const GRPC: &str = "service: {name: door, port: 80}, protocol: Grpc, headersToUpstreamOnAllow: [x-user]";
const HTTP: &str = "service: {name: door, port: 80}, protocol: Http, pathPrefix: /check, includeRequestHeaders: [x-token], \
                    headersToUpstreamOnAllow: [x-user], headersToClientOnAllow: [x-told], headersToClientOnDeny: [x-why]";

async fn send(at: SocketAddr, path: &str, fields: &[(&str, &str)], body: &str) -> anyhow::Result<Reply> {
    let request = Request::builder().method(if body.is_empty() { "GET" } else { "POST" }).uri(path).header("host", "web.shop");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    http_send(at, request.body(Full::<Bytes>::from(body.to_owned()))?).await
}

async fn serves(at: SocketAddr) -> anyhow::Result<()> {
    eventually("the gateway serves", PATIENCE, || async {
        let reply = send(at, "/free", &[], "").await?;
        anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(())
    })
    .await
}

/// What both proxies must do whose service speaks gRPC.
async fn holds_over_grpc(who: &str, at: SocketAddr, door: &Door) -> anyhow::Result<()> {
    serves(at).await?;
    assert!(door.seen().is_empty(), "{who} asks of what no rule means");
    let there: Vec<(String, &str)> = (0..6).map(|at| (format!("x-there-{at}"), "own")).collect();
    let mut fields: Vec<(&str, &str)> = there.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    fields.extend([("x-user", "root"), ("x-secret", "s"), ("x-two", "a"), ("x-two", "b")]);
    let reply = send(at, "/allowed", &fields, "").await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-told")), (200, Some("hello")), "{who}: {}", reply.text());
    let echo: Echo = reply.json()?;
    let values = |name: &str| {
        let found = echo.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).collect::<Vec<_>>().join(" & ")
    };
    let there: Vec<String> = (0..6).map(|at| values(&format!("x-there-{at}"))).collect();
    assert_eq!(there, ["door", "door", "door", "door", "own,door", "door"], "{who}");
    let new: Vec<String> = (0..6).map(|at| values(&format!("x-new-{at}"))).collect();
    assert_eq!(new, ["door", "door", "door", "door", "", "door"], "{who}");
    let told: Vec<_> = (0..6).map(|at| reply.header(&format!("x-new-{at}")).unwrap_or_default()).collect();
    assert_eq!(told, ["door", "door", "door", "", "door", "door"], "{who}");
    assert_eq!((values("x-user").as_str(), values("x-secret").as_str(), echo.host.as_str()), ("ann", "", "web.shop"), "{who}");
    let seen = door.seen();
    assert_eq!(seen.len(), 1, "{who}");
    assert_eq!(
        (seen[0].path.as_str(), seen[0].header("x-two"), seen[0].header(":method")),
        ("/allowed", Some("a,b"), Some("GET")),
        "{who}"
    );
    assert_eq!(seen[0].header("x-user"), None, "{who} shows what only the service may say");

    let denied = send(at, "/denied", &[], "").await?;
    assert_eq!((denied.status.as_u16(), denied.header("www-authenticate")), (401, Some("Door")), "{who}");
    assert_eq!(denied.text(), "who are you?\n", "{who}");
    let cookies: Vec<_> = denied.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"], "{who}");
    assert_eq!(send(at, "/forbidden", &[], "").await?.status, 403, "{who}");
    for path in ["/broken", "/silent"] {
        assert_eq!(send(at, path, &[], "").await?.status, 403, "{who}: {path}");
    }
    let broken = send(at, "/smuggling", &[], "").await?.status;
    assert_eq!(broken, if who == "Envoy" { 500 } else { 403 }, "{who}");
    for (path, status) in [("/denied", "16"), ("/forbidden", "7"), ("/broken", "7")] {
        let call =
            Request::post(format!("http://web.shop{path}")).header("content-type", "application/grpc").body(Full::<Bytes>::default())?;
        let refused = http2_send(at, call).await?;
        assert_eq!((refused.status.as_u16(), refused.header("grpc-status")), (200, Some(status)), "{who}: {path}");
    }
    // Browsers ask ahead without anything that says who asks.
    let preflight = Request::builder().method("OPTIONS").uri("/denied").header("host", "web.shop");
    let preflight = preflight.header("origin", "https://a.example").header("access-control-request-method", "PUT");
    door.seen();
    let allowed = http_send(at, preflight.body(Full::<Bytes>::default())?).await?;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://a.example"), "{who}: {}", allowed.status);
    assert!(door.seen().is_empty(), "{who} asks about a preflight");
    // What a service may say of a request nobody else says, whether it is asked or not.
    let reply: Echo = send(at, "/free", &[("x-user", "root")], "").await?.json()?;
    assert_eq!(reply.header("x-user"), None, "{who}");
    let reply: Echo = send(at, "/other", &[("x-user", "root")], "").await?.json()?;
    assert_eq!(reply.header("x-user"), None, "{who}");
    door.seen();
    Ok(())
}

/// The same whose service speaks HTTP.
async fn holds_over_http(who: &str, at: SocketAddr, door: &Door) -> anyhow::Result<()> {
    serves(at).await?;
    let fields =
        [("authorization", "Basic x"), ("x-token", "t"), ("cookie", "c"), ("x-user", "root"), ("x-secret", "s"), ("x-admin", "no")];
    let reply = send(at, "/allowed", &fields, "").await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-told")), (200, Some("hello")), "{who}: {}", reply.text());
    let echo: Echo = reply.json()?;
    let got = ["x-user", "x-secret", "x-admin", "cookie"].map(|name| echo.header(name));
    assert_eq!(got, [Some("ann"), None, Some("no"), Some("c")], "{who}");
    let seen = door.seen();
    assert_eq!(seen.len(), 1, "{who}");
    let shown = ["authorization", "x-token", "cookie", "x-user", "content-length"].map(|name| seen[0].header(name));
    assert_eq!(shown, [Some("Basic x"), Some("t"), None, None, Some("0")], "{who}");
    assert_eq!((seen[0].path.as_str(), seen[0].header("host")), ("/check/allowed", Some("web.shop")), "{who}");
    let denied = send(at, "/denied", &[], "").await?;
    assert_eq!((denied.status.as_u16(), denied.text().as_str()), (401, "who are you?\n"), "{who}");
    assert_eq!((denied.header("www-authenticate"), denied.header("x-why")), (Some("Door"), Some("who")), "{who}");
    let moved = send(at, "/moved", &[], "").await?;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (302, Some("/login")), "{who}");
    for path in ["/broken", "/silent"] {
        assert_eq!(send(at, path, &[], "").await?.status, 403, "{who}: {path}");
    }
    door.seen();
    Ok(())
}

/// The same whose service is shown bodies.
async fn shows_bodies(who: &str, at: SocketAddr, door: &Door, partial: bool) -> anyhow::Result<()> {
    serves(at).await?;
    for (body, shown, status, more) in
        [("0123456789", "0123456789", 200, "false"), ("0123456789x", "0123456789", if partial { 200 } else { 413 }, "true")]
    {
        let reply = send(at, "/body", &[], body).await?;
        assert_eq!(reply.status.as_u16(), status, "{who}: {}", reply.text());
        let seen = door.seen();
        if status == 200 {
            assert_eq!(reply.json::<Echo>()?.body, body, "{who}: nothing of it is lost");
            assert_eq!((seen[0].body.as_str(), seen[0].header("x-envoy-auth-partial-body")), (shown, Some(more)), "{who}");
        } else {
            assert!(seen.is_empty(), "{who}");
        }
    }
    Ok(())
}

/// The same of what becomes a tunnel, whose bytes no service is shown.
async fn lets_upgrades_pass(who: &str, at: SocketAddr, door: &Door) -> anyhow::Result<()> {
    let open = async |path: &str| {
        let mut connection = Connection::open(at).await?;
        let asked = format!(
            "GET {path} HTTP/1.1\r\nhost: web.shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        connection.write(asked.as_bytes()).await?;
        let head = String::from_utf8_lossy(&connection.read_until(b"\r\n\r\n").await?).into_owned();
        anyhow::Ok((connection, head))
    };
    let (mut tunnel, head) = eventually("an upgrade", PATIENCE, || async {
        let (tunnel, head) = open("/chat").await?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        Ok((tunnel, head))
    })
    .await?;
    tunnel.write(b"hello\n").await?;
    assert_eq!(tunnel.read_until(b"\n").await?, b"HELLO\n", "{who}: {head}");
    assert!(door.seen().iter().all(|seen| seen.path == "/chat" && seen.body.is_empty()), "{who}");
    let (_, head) = open("/forbidden").await?;
    assert!(head.starts_with("HTTP/1.1 403"), "{who}: {head}");
    door.seen();
    Ok(())
}

#[tokio::test]
async fn upgrades_are_asked_about_once() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let asked = Door::default();
    let external = format!("{GRPC}, body: {{maxBytes: 10}}");
    let text = edge(upgrading().await?) + &service("door", "grpc", asked.grpc().await?) + &door("door", &external, FREE);
    mesh.apply(&text).await?;
    let (lorica, at) = gateway(&mesh, 80).await?;
    lets_upgrades_pass("Lorica", at, &asked).await?;
    lorica.stop().await?;
    if let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? {
        lets_upgrades_pass("Envoy", envoy.bound(80)?, &asked).await?;
        envoy.running.stop().await?;
    }
    mesh.finish().await
}

#[tokio::test]
async fn bytes_of_which_nobody_can_be_asked_are_denied() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (web, asked) = (EchoServer::start("web").await?, Door::default());
    let text = edge(web.address()) + &service("door", "grpc", asked.grpc().await?) + &door("door", GRPC, "[]");
    mesh.apply(&text).await?;
    // A listener for bytes takes the place of the other.
    let listeners = "  - {name: bytes, port: 90, protocol: TCP}\n";
    let bytes = "  rules: [{backendRefs: [{name: web, port: 80}]}]\n";
    mesh.apply(&(testbed::gateway(listeners) + &testbed::route("TCPRoute", "bytes", bytes))).await?;
    let (lorica, at) = gateway(&mesh, 90).await?;
    let envoy = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "90=0"]).await?;
    let mut places = vec![at];
    places.extend(envoy.as_ref().map(|envoy| envoy.bound(90)).transpose()?);
    for at in &places {
        assert!(ask(*at, "GET", "/").await.is_err(), "a connection passed of which nobody could be asked");
    }
    mesh.lorica(["delete", "AuthorizationPolicy", "door", "-n", "shop"]).await?.success()?;
    for at in places {
        answers(at, "/").await?;
    }
    assert!(asked.seen().is_empty());
    if let Some(envoy) = envoy {
        envoy.running.stop().await?;
    }
    lorica.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_gateway_asks_an_existing_service() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (web, asked) = (EchoServer::start("web").await?, Door::default());
    let (grpc, http) = (asked.grpc().await?, asked.http().await?);
    let text = |protocol: &str, at, external: &str| edge(web.address()) + &service("door", protocol, at) + &door("door", external, FREE);
    let (proxy, at) = run_gateway(&mesh, &text("grpc", grpc, GRPC), &[80], &[]).await?;
    holds_over_grpc("Lorica", at[0], &asked).await?;
    let refused = send(at[0], "/broken", &[], "").await?;
    assert_eq!((refused.header("x-lorica-reason"), refused.header("x-lorica-policy")), (Some("authorizer_failed"), None));
    assert_eq!(send(at[0], "/denied", &[], "").await?.header("x-lorica-reason"), Some("access_denied"));
    proxy.running.stop().await?;
    asked.seen();
    let (proxy, at) = run_gateway(&mesh, &text("http", http, HTTP), &[80], &[]).await?;
    holds_over_http("Lorica", at[0], &asked).await?;
    proxy.running.stop().await?;
    for partial in [false, true] {
        let external = format!("{GRPC}, body: {{maxBytes: 10, allowPartial: {partial}}}");
        let (proxy, at) = run_gateway(&mesh, &text("grpc", grpc, &external), &[80], &[]).await?;
        shows_bodies("Lorica", at[0], &asked, partial).await?;
        proxy.running.stop().await?;
    }
    // However small the pieces in which a body comes.
    let external = format!("{GRPC}, body: {{maxBytes: 5000}}");
    let (proxy, at) = run_gateway(&mesh, &text("grpc", grpc, &external), &[80], &[]).await?;
    let mut connection = Connection::open(at[0]).await?;
    let head = "POST /body HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    connection.write((head.to_owned() + &"1\r\na\r\n".repeat(5000) + "0\r\n\r\n").as_bytes()).await?;
    let answer = String::from_utf8_lossy(&connection.read_to_end().await?).into_owned();
    let whole = "a".repeat(5000);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&whole), "{answer}");
    assert_eq!(asked.seen().pop().map(|seen| seen.body), Some(whole));
    proxy.running.stop().await?;
    // A kept connection that it closes as the next question comes is no answer, and costs nobody anything.
    let (proxy, at) = run_gateway(&mesh, &text("http", closing().await?, HTTP), &[80], &[]).await?;
    for _ in 0..3 {
        assert_eq!(send(at[0], "/any", &[], "").await?.status, 200);
    }
    proxy.running.stop().await?;
    // One that is not there lets none pass, or all where somebody chose that.
    let gone = Port::free()?.address();
    for (external, status) in [(GRPC.to_owned(), 403), (format!("{GRPC}, failOpen: true"), 200)] {
        let (proxy, at) = run_gateway(&mesh, &text("grpc", gone, &external), &[80], &[]).await?;
        assert_eq!(send(at[0], "/any", &[], "").await?.status, status);
        proxy.running.stop().await?;
    }
    mesh.finish().await
}

#[tokio::test]
async fn envoy_asks_the_same_service_the_same() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (web, asked) = (EchoServer::start("web").await?, Door::default());
    let (grpc, http) = (asked.grpc().await?, asked.http().await?);
    mesh.apply(&(edge(web.address()) + &service("door", "grpc", grpc) + &door("door", GRPC, FREE))).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    holds_over_grpc("Envoy", envoy.bound(80)?, &asked).await?;
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    envoy.running.stop().await?;
    for partial in [false, true] {
        mesh.apply(&door("door", &format!("{GRPC}, body: {{maxBytes: 10, allowPartial: {partial}}}"), FREE)).await?;
        let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
        shows_bodies("Envoy", envoy.bound(80)?, &asked, partial).await?;
        envoy.running.stop().await?;
    }
    // Who is not there lets none pass, or all where somebody chose that.
    let gone = Port::free()?.address();
    for (external, status) in [(GRPC.to_owned(), 403), (format!("{GRPC}, failOpen: true"), 200)] {
        mesh.apply(&(service("door", "grpc", gone) + &door("door", &external, FREE))).await?;
        let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
        serves(envoy.bound(80)?).await?;
        assert_eq!(send(envoy.bound(80)?, "/any", &[], "").await?.status, status);
        envoy.running.stop().await?;
    }
    mesh.apply(&(service("door", "http", http) + &door("door", HTTP, FREE))).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    holds_over_http("Envoy", envoy.bound(80)?, &asked).await?;
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_service_is_asked_where_calls_arrive_and_learns_who_calls() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let asked = Door::default();
    mesh.apply(&service("door", "grpc", asked.grpc().await?)).await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "shop", "ann")?;
    eventually("the first answer", PATIENCE, || async {
        anyhow::ensure!(ask(ann, "GET", "/").await?.status == 200);
        Ok(())
    })
    .await?;
    let spec = |mode: &str| format!("{{targetRefs: [{{name: web}}], action: External, {mode} external: {{{GRPC}, timeout: 2s}}}}");
    // Tried first: asked and counted, and nothing is denied.
    mesh.apply(&policy("door", &spec("mode: Shadow,"))).await?;
    for path in ["/denied", "/other"] {
        assert_ne!(ask(ann, "GET", path).await?.status, 401);
    }
    eventually("the trial is counted", PATIENCE, || async {
        let metrics = scraped(&mesh).await?;
        for verdict in ["would_deny", "would_pass"] {
            let line = format!("lorica_authorization_verdicts_total{{policy=\"door.shop\",verdict=\"{verdict}\"}} 1");
            anyhow::ensure!(metrics.contains(&line), "{line}\n{metrics}");
        }
        Ok(())
    })
    .await?;
    eventually("the trial is told of", PATIENCE, || async {
        let told = mesh.lorica(["policy", "shadow", "door", "-n", "shop"]).await?.success()?.stdout;
        anyhow::ensure!(told.contains("would have denied 1 of 2 calls") && told.contains("GET /denied"), "{told}");
        Ok(())
    })
    .await?;
    asked.seen();
    // What is under way is not asked about when a policy comes; the next request is.
    let mut open = Connection::open(ann).await?;
    open.write(b"GET /bytes/20000000 HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await?;
    let head = open.read_until(b"\r\n\r\n").await?;
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    mesh.apply(&policy("door", &spec(""))).await?;
    eventually("who is asked denies", PATIENCE, || async {
        anyhow::ensure!(ask(ann, "GET", "/denied").await?.status == 401);
        Ok(())
    })
    .await?;
    let seen = asked.seen();
    assert_eq!(seen.iter().filter(|seen| seen.path.starts_with("/bytes")).count(), 1, "only the trial asks about it: {seen:?}");
    let whole = open.read_to_end().await?.len();
    assert!(whole >= 20_000_000, "what was under way goes on: {whole}");
    asked.seen();
    let said = mesh.lorica(["authz", "can", "ann.shop", "GET", "web.shop/denied"]).await?.success()?.stdout;
    assert!(said.contains(", if door.shop.mesh:80 agrees: ") && said.contains("door.shop/all has door.shop.mesh:80 asked"), "{said}");
    let expected = mesh.write("expectations.yaml", "- {caller: ann.shop, may: GET web.shop/denied}\n")?.display().to_string();
    let said = mesh.lorica(["authz", "test", &expected]).await?.success()?.stdout;
    assert!(said.contains("1 of 1 expectations hold, 1 of them if the service that is asked agrees"), "{said}");
    let denied = ask(ann, "GET", "/denied").await?;
    assert_eq!((denied.status.as_u16(), denied.text().as_str()), (401, "who are you?\n"));
    assert_eq!(denied.header("x-lorica-policy"), Some("door.shop/all"), "who is of the mesh is told by whom");
    let seen = asked.seen();
    assert_eq!(seen[0].caller, "spiffe://mesh.local/ns/shop/sa/ann");
    assert!(seen[0].header("x-forwarded-client-cert").is_some_and(|told| told.contains("sa/ann")));
    // What the mesh denies by itself nobody is asked of.
    mesh.apply(&policy("never", "{action: Deny, rules: [{to: [{paths: [/never]}]}]}")).await?;
    assert_eq!(ask(ann, "GET", "/never").await?.status, 403);
    assert!(asked.seen().is_empty());
    // Who fails lets pass what somebody chose to let pass, and that is counted.
    mesh.apply(&policy("door", &spec("").replace("timeout: 2s", "timeout: 2s, failOpen: true"))).await?;
    eventually("a failure lets pass", PATIENCE, || async {
        anyhow::ensure!(ask(ann, "GET", "/broken").await?.status != 403);
        let counted = "lorica_authorization_verdicts_total{policy=\"door.shop\",verdict=\"unanswered\"}";
        let metrics = scraped(&mesh).await?;
        anyhow::ensure!(metrics.lines().any(|line| line.starts_with(counted) && !line.ends_with(" 0")), "{metrics}");
        Ok(())
    })
    .await?;
    mesh.finish().await
}
