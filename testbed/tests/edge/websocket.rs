//! WebSockets: by Upgrade of HTTP/1, by an extended CONNECT of HTTP/2 (RFC 8441), and what a gateway makes of one for the other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::ext::Protocol;
use http::{HeaderMap, Method, Request, StatusCode};
use testbed::{Mesh, PATIENCE, eventually, gateway, route, run_gateway};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Asked, Response as Told};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use crate::{Trusted, service};

/// A stream of bytes.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Talks as an echo that says first what it was asked; `/refused` is none.
#[allow(clippy::result_large_err, reason = "the library's callback says so")]
async fn talk(name: &'static str, stream: impl Io) -> anyhow::Result<()> {
    let mut said = String::new();
    let socket = accept_hdr_async(stream, |asked: &Asked, mut told: Told| -> Result<Told, ErrorResponse> {
        let field = |name: &str| asked.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        said = format!("{name} {} {} {}", asked.uri(), field("x-set"), field("sec-websocket-protocol"));
        if asked.uri().path().ends_with("/refused") {
            let mut refusal = ErrorResponse::new(Some("not here".to_owned()));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return Err(refusal);
        }
        // Of what is offered, the second.
        let chosen = field("sec-websocket-protocol").split(", ").nth(1).map(str::to_owned);
        told.headers_mut()
            .extend(chosen.and_then(|chosen| chosen.parse().ok()).map(|chosen| (http::header::SEC_WEBSOCKET_PROTOCOL, chosen)));
        Ok(told)
    });
    let mut socket = socket.await?;
    socket.send(Message::text(said)).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => socket.send(Message::text(text.to_uppercase())).await?,
            Message::Binary(bytes) => socket.send(Message::Binary(bytes)).await?,
            _ => {}
        }
    }
    Ok(())
}

/// A server of WebSockets; with a certificate, in TLS.
async fn server(name: &'static str, tls: Option<&Trusted>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = tls.map(|tls| {
        let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes())?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![tls.der.clone()], key)?;
        anyhow::Ok(TlsAcceptor::from(Arc::new(config)))
    });
    let acceptor = acceptor.transpose()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // What goes wrong, the client sees.
                match acceptor {
                    Some(acceptor) => drop(talk(name, acceptor.accept(tcp).await?).await),
                    None => drop(talk(name, tcp).await),
                }
                anyhow::Ok(())
            });
        }
    });
    Ok(address)
}

/// How a client comes to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Http1,
    Http1InTls,
    Http2InTls,
    /// With a key, which the standard does not ask for, as proxies pass it on.
    Http2WithKey,
}

/// An open socket, and the fields of the answer that opened it.
type Open = (WebSocketStream<Box<dyn Io>>, HeaderMap);

/// Opens a socket, or gives the status that refused it.
async fn open(by: By, at: SocketAddr, trusted: &Trusted, path: &str) -> anyhow::Result<Result<Open, StatusCode>> {
    let tcp = TcpStream::connect(at).await?;
    let offered = "chat.v2, chat.v1";
    if matches!(by, By::Http2InTls | By::Http2WithKey) {
        let stream = tls(tcp, trusted, &[b"h2"]).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(async move { drop(connection.await) });
        // Whether it is taken, the server's settings say.
        let mut sender = eventually("the server says that it takes CONNECT", PATIENCE, || {
            let sender = sender.clone();
            async move {
                let sender = sender.ready().await?;
                ensure!(sender.is_extended_connect_protocol_enabled(), "it does not");
                Ok(sender)
            }
        })
        .await?;
        let mut request = Request::builder().method(Method::CONNECT).uri(format!("https://a.example{path}"));
        request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", offered);
        if by == By::Http2WithKey {
            request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        let mut request = request.body(())?;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (answer, up) = sender.send_request(request, false)?;
        let answer = answer.await?;
        if answer.status() != 200 {
            return Ok(Err(answer.status()));
        }
        let (head, down) = answer.into_parts();
        let accept = head.headers.get("sec-websocket-accept").map(http::HeaderValue::as_bytes);
        ensure!(accept == (by == By::Http2WithKey).then_some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..]), "{head:?}");
        ensure!(head.headers.get("upgrade").is_none(), "{head:?}");
        let stream: Box<dyn Io> = Box::new(joined(up, down));
        return Ok(Ok((WebSocketStream::from_raw_socket(stream, Role::Client, Some(large())).await, head.headers)));
    }
    let stream: Box<dyn Io> = if by == By::Http1 { Box::new(tcp) } else { Box::new(tls(tcp, trusted, &[b"http/1.1"]).await?) };
    let mut request = format!("ws://a.example{path}").into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", offered.parse()?);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(large())).await {
        Ok((socket, answer)) => Ok(Ok((socket, answer.into_parts().0.headers))),
        Err(Error::Http(answer)) => Ok(Err(answer.status())),
        Err(error) => Err(error.into()),
    }
}

fn large() -> WebSocketConfig {
    WebSocketConfig::default().max_frame_size(None)
}

async fn tls(tcp: TcpStream, trusted: &Trusted, alpn: &[&[u8]]) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone())?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("a.example")?, tcp).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == alpn.first().copied(), "{:?}", stream.get_ref().1.alpn_protocol());
    Ok(stream)
}

/// Both halves of a stream of HTTP/2 as one stream of bytes.
fn joined(mut up: h2::SendStream<Bytes>, mut down: h2::RecvStream) -> DuplexStream {
    let (ours, theirs) = duplex(64 * 1024);
    let (mut from, mut to) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return anyhow::Ok(up.send_data(Bytes::new(), true)?);
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                up.reserve_capacity(rest.len());
                let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.context("the stream has ended")??;
                let (now, later) = rest.split_at(room.min(rest.len()));
                up.send_data(Bytes::copy_from_slice(now), false)?;
                rest = later;
            }
        }
    });
    tokio::spawn(async move {
        // However it ends, the other side is to see an end.
        while let Some(Ok(data)) = down.data().await {
            to.write_all(&data).await?;
            down.flow_control().release_capacity(data.len())?;
        }
        anyhow::Ok(to.shutdown().await?)
    });
    ours
}

async fn text(socket: &mut WebSocketStream<Box<dyn Io>>) -> anyhow::Result<String> {
    match socket.next().await.context("the socket has ended")?? {
        Message::Text(text) => Ok(text.as_str().to_owned()),
        other => bail!("{other:?}"),
    }
}

/// What every way to a gateway shows: filters, subprotocols, messages of every size, the end.
async fn converse(by: By, at: SocketAddr, trusted: &Trusted) -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, conversation(by, at, trusted))
        .await
        .with_context(|| format!("{by:?} hangs"))?
        .with_context(|| format!("{by:?}"))
}

async fn conversation(by: By, at: SocketAddr, trusted: &Trusted) -> anyhow::Result<()> {
    let (mut socket, fields) = open(by, at, trusted, "/live/room?x=1").await?.map_err(|status| anyhow::anyhow!("{status}"))?;
    let field = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    ensure!(field("sec-websocket-protocol") == Some("chat.v1") && field("x-told") == Some("by the rule"), "{fields:?}");
    let said = text(&mut socket).await?;
    ensure!(said == "one /socket/room?x=1 by the rule chat.v2, chat.v1", "{said}");
    socket.send(Message::text("hello")).await?;
    ensure!(text(&mut socket).await? == "HELLO");
    let large = Bytes::from(vec![7; 3_000_000]);
    socket.send(Message::Binary(large.clone())).await?;
    ensure!(socket.next().await.context("the socket has ended")?? == Message::Binary(large));
    let end = CloseFrame { code: CloseCode::Library(4001), reason: "done".into() };
    socket.close(Some(end.clone())).await?;
    let last = socket.next().await.context("the socket has ended")??;
    ensure!(matches!(&last, Message::Close(Some(told)) if told.code == end.code), "{last:?}");
    ensure!(socket.next().await.is_none());
    // A server that does not want to is heard.
    let refused = open(by, at, trusted, "/live/refused").await?.err();
    ensure!(refused == Some(StatusCode::FORBIDDEN), "{refused:?}");
    Ok(())
}

/// Listeners and rules of these tests.
fn resources(one: SocketAddr, two: SocketAddr, trusted: &Trusted) -> String {
    let rules = "  rules:
  - matches: [{path: {value: /live}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /socket}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: by the rule}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Told, value: by the rule}]}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /halves}}]
    backendRefs: [{name: one, port: 80, weight: 1}, {name: two, port: 80, weight: 1}]
";
    service("one", "kubernetes.io/ws", one)
        + &service("two", "http", two)
        + &trusted.secret("a")
        + &gateway(
            "  - {name: http, port: 80, protocol: HTTP}\n  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}\n",
        )
        + &route("HTTPRoute", "rules", rules)
}

#[tokio::test]
async fn a_socket_passes_by_every_version() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, two) = (server("one", None).await?, server("two", None).await?);
    let trusted = Trusted::new(&["a.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(one, two, &trusted), &[80, 443], &[]).await?;
    for by in [By::Http1, By::Http1InTls, By::Http2InTls, By::Http2WithKey] {
        let at = if by == By::Http1 { at[0] } else { at[1] };
        converse(by, at, &trusted).await?;
        let mut reached = BTreeSet::new();
        // All forty at one of two: once in half a trillion runs.
        for _ in 0..40 {
            let (mut socket, _) = open(by, at, &trusted, "/halves").await?.map_err(|status| anyhow::anyhow!("{status}"))?;
            reached.insert(text(&mut socket).await?.split(' ').next().unwrap_or_default().to_owned());
        }
        assert_eq!(reached.len(), 2, "{by:?} {reached:?}");
    }
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_stock_envoy_passes_sockets_alike() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (one, two) = (server("one", None).await?, server("two", None).await?);
    let trusted = Trusted::new(&["a.example"])?;
    mesh.apply(&resources(one, two, &trusted)).await?;
    let Some(envoy) = crate::envoy(&mesh).await? else { return mesh.finish().await };
    let up = eventually("the service answers through Envoy", PATIENCE, || async {
        open(By::Http1, envoy.bound(80)?, &trusted, "/halves").await?.map(drop).map_err(|status| anyhow::anyhow!("{status}"))
    });
    up.await.with_context(|| mesh.last_words())?;
    // Without a key of the caller's Envoy sends the backend none, and one that asks for it as it should refuses.
    for by in [By::Http1, By::Http1InTls, By::Http2WithKey] {
        converse(by, envoy.bound(if by == By::Http1 { 80 } else { 443 })?, &trusted).await?;
    }
    crate::end(envoy, &mesh).await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_socket_behind_tls_is_called_in_tls() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let behind = Trusted::new(&["chat.example"])?;
    let one = server("one", Some(&behind)).await?;
    let trusted = Trusted::new(&["a.example"])?;
    let indented = behind.chain.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let text = service("one", "kubernetes.io/wss", one)
        + &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: shop}}\ndata:\n  ca.crt: |\n{indented}---\n")
        + "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: one, namespace: shop}\nspec: {targetRefs: [{group: '', kind: Service, name: one}], validation: {hostname: chat.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]}}\n---\n"
        + &trusted.secret("a")
        + &gateway("  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}\n")
        + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n");
    let (proxy, at) = run_gateway(&mesh, &text, &[443], &[]).await?;
    for by in [By::Http1InTls, By::Http2InTls] {
        let (mut socket, _) = open(by, at[0], &trusted, "/x").await?.map_err(|status| anyhow::anyhow!("{status}"))?;
        assert_eq!(self::text(&mut socket).await?, "one /x - chat.v2, chat.v1");
    }
    proxy.running.stop().await?;
    mesh.finish().await
}

/// A server of HTTP/2 that takes CONNECT and sends back what it gets.
async fn http2_server() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(tcp).await?;
                while let Some(asked) = connection.accept().await {
                    let (request, mut respond) = asked?;
                    ensure!(request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket"), "{request:?}");
                    let up = respond.send_response(http::Response::new(()), false)?;
                    let stream = joined(up, request.into_body());
                    tokio::spawn(async move {
                        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                        while let Some(Ok(message)) = socket.next().await {
                            if message.is_text() {
                                socket.send(message).await?;
                            }
                        }
                        anyhow::Ok(())
                    });
                }
                Ok(())
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_key_is_answered_for_a_server_that_sees_none() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let text = service("one", "http2", http2_server().await?)
        + &gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n");
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    // The client holds the answer against its key.
    let (mut socket, _) = client_async("ws://a.example/", TcpStream::connect(at[0]).await?).await?;
    socket.send(Message::text("hello")).await?;
    assert_eq!(socket.next().await.context("the socket has ended")??, Message::text("hello"));
    drop(socket);
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_server_that_knows_no_websocket_is_found_out() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let text = service("one", "http", listener.local_addr()?)
        + &trusted.secret("a")
        + &gateway("  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}\n")
        + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await?);
            }
            tcp.write_all(b"HTTP/1.1 101 Sure\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: sure\r\n\r\n").await?;
        }
        anyhow::Ok(())
    });
    let (proxy, at) = run_gateway(&mesh, &text, &[443], &[]).await?;
    // A caller of HTTP/2 sent no key, so nobody else would notice.
    let refused = open(By::Http2InTls, at[0], &trusted, "/").await?.err();
    assert_eq!(refused, Some(StatusCode::BAD_GATEWAY));
    proxy.running.stop().await?;
    mesh.finish().await
}
