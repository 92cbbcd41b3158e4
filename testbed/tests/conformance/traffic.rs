//! Requests as the cases tell them, and what of an answer, and of the request as the backend saw it, must be as they say.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use serde_json::{Value, json};
use testbed::{PATIENCE, Reply, http_send, http2_send};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;

use super::certificates::Pair;
use super::echo::{Log, Told};

/// How TLS is opened.
#[derive(Clone)]
pub(crate) struct Tls<'t> {
    /// What is trusted.
    pub(crate) root: CertificateDer<'static>,
    pub(crate) server_name: String,
    /// What is shown.
    pub(crate) client: Option<&'t Pair>,
}

pub(crate) async fn tls(address: SocketAddr, tls: &Tls<'_>) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(tls.root.clone())?;
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match tls.client {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::try_from(pair.key.serialize_der()).map_err(anyhow::Error::msg)?;
            builder.with_client_auth_cert(vec![pair.certificate.der().clone()], key)?
        }
    };
    let name = ServerName::try_from(tls.server_name.clone())?;
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await?.with_context(|| format!("{address}"))?;
    Ok(timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await??)
}

/// Sends a case's request.
pub(crate) async fn send(address: SocketAddr, secure: Option<&Tls<'_>>, case: &Value) -> anyhow::Result<Reply> {
    let request = request(case, secure.is_some())?;
    let Some(secure) = secure else {
        return if is_http2(case) { http2_send(address, request).await } else { http_send(address, request).await };
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls(address, secure).await?)).await?;
    tokio::spawn(async move {
        // Its error also ends the request that met it.
        drop(connection.await);
    });
    let whole = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        anyhow::Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    };
    timeout(PATIENCE, whole).await.context("no whole answer came")?
}

fn is_http2(case: &Value) -> bool {
    case["Request"]["Protocol"].as_str().is_some_and(|protocol| protocol.contains("H2C"))
}

fn host(case: &Value) -> &str {
    case["Request"]["Host"].as_str().filter(|host| !host.is_empty()).unwrap_or("gateway.test")
}

/// A case's request. Over HTTP/2 it names its scheme.
fn request(case: &Value, secure: bool) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = &case["Request"];
    let (host, path) = (host(case), request["Path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/"));
    let mut builder = Request::builder().method(request["Method"].as_str().unwrap_or("GET"));
    let headers = request["Headers"].as_object();
    // A field that names another host than the one that is connected to.
    let host = headers.and_then(|headers| headers.get("Host")).and_then(Value::as_str).unwrap_or(host);
    builder = if is_http2(case) && !secure { builder.uri(format!("http://{host}{path}")) } else { builder.uri(path).header("host", host) };
    for (name, value) in headers.into_iter().flatten().filter(|(name, _)| *name != "Host") {
        builder = builder.header(name, value.as_str().unwrap_or_default());
    }
    if let Some(set) = case["BackendSetResponseHeaders"].as_object() {
        let pairs: Vec<String> = set.iter().map(|(name, value)| format!("{name}:{}", value.as_str().unwrap_or_default())).collect();
        builder = builder.header("x-echo-set-header", pairs.join(","));
    }
    Ok(builder.body(Full::<Bytes>::default())?)
}

/// Holds an answer against what a case expects. `in_mesh`: the caller is in the mesh, where its own host and port lead to the service.
pub(crate) fn answered(case: &Value, reply: &Reply, in_mesh: bool) -> anyhow::Result<()> {
    let (request, response) = (&case["Request"], &case["Response"]);
    let statuses: Vec<u64> = match response["StatusCodes"].as_array() {
        Some(codes) => codes.iter().filter_map(Value::as_u64).collect(),
        None => vec![response["StatusCode"].as_u64().unwrap_or(200)],
    };
    let status = u64::from(reply.status.as_u16());
    ensure!(statuses.contains(&status), "status {status} in place of {statuses:?}: {}", reply.text());
    for (name, value) in response["Headers"].as_object().into_iter().flatten() {
        let values: Vec<_> = reply.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let wanted = value.as_str().unwrap_or_default();
        ensure!(values.join(",") == wanted, "the answer's {name} is {values:?} in place of {wanted}");
    }
    for (name, wanted) in response["ValidHeaderValues"].as_object().into_iter().flatten() {
        let plain = |text: &str| text.replace(' ', "");
        let value = reply.header(name).map(plain);
        let any = wanted.as_array().into_iter().flatten().filter_map(Value::as_str).any(|wanted| value.as_deref() == Some(&plain(wanted)));
        ensure!(any, "the answer's {name} is {value:?} in place of one of {wanted}");
    }
    for name in response["AbsentHeaders"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ensure!(reply.header(name).is_none(), "the answer has {name}");
    }
    if let Some(redirect) = case.get("RedirectRequest").filter(|redirect| redirect.is_object()) {
        return redirected(redirect, case, reply);
    }
    if status != 200 {
        return Ok(());
    }
    let expected = &case["ExpectedRequest"];
    if reply.body.is_empty() {
        // The gateway's own answer, where the case expects that no backend sees the request.
        let unseen = case["Namespace"] == "" && expected["Request"]["Path"] == "";
        ensure!(unseen, "no backend answered: {:?}", reply.headers);
        return Ok(());
    }
    let told: Value = reply.json()?;
    let backend = case["Backend"].as_str().unwrap_or_default();
    let pod = told["pod"].as_str().unwrap_or_default();
    ensure!(backend.is_empty() || pod.starts_with(&format!("{backend}-")), "{pod} answered in place of {backend}");
    if let Some(namespace) = case["Namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
        ensure!(told["namespace"] == namespace, "the backend is of {}", told["namespace"]);
    }
    let wanted = |field: &str, sent: &str| {
        let changed = expected["Request"][field].as_str().filter(|text| !text.is_empty());
        changed.map(str::to_owned).or_else(|| request[field].as_str().map(str::to_owned)).unwrap_or_else(|| sent.to_owned())
    };
    let seen = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
    ensure!(seen("path") == wanted("Path", "/"), "the backend saw the path {} in place of {}", seen("path"), wanted("Path", "/"));
    ensure!(seen("method") == wanted("Method", "GET"), "the backend saw {}", seen("method"));
    if !in_mesh {
        let host = wanted("Host", "gateway.test");
        ensure!(seen("host") == host, "the backend saw the host {} in place of {host}", seen("host"));
    }
    let headers = if expected.is_object() { &expected["Request"]["Headers"] } else { &request["Headers"] };
    for (name, value) in headers.as_object().into_iter().flatten().filter(|(name, _)| *name != "Host") {
        let seen = told["headers"][name.to_lowercase()].as_array().cloned().unwrap_or_default();
        let seen = seen.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        ensure!(Some(seen.as_str()) == value.as_str(), "the backend saw {name}: {seen:?} in place of {value}");
    }
    for name in expected["AbsentHeaders"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ensure!(told["headers"].get(name.to_lowercase()).is_none(), "the backend saw {name}");
    }
    // Towards the backend TLS may be opened for another name than by the client.
    if let Some(name) = expected["Request"]["SNI"].as_str().or(request["SNI"].as_str()) {
        ensure!(told["tls"]["serverName"] == name, "the backend was asked for by {} in place of {name}", told["tls"]);
    }
    Ok(())
}

/// Holds a redirect's place against what is expected; what is not said is that of the request.
fn redirected(expected: &Value, case: &Value, reply: &Reply) -> anyhow::Result<()> {
    let location: http::Uri = reply.header("location").context("there is no Location")?.parse()?;
    let said = |field: &str, default: &str| expected[field].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned();
    let (scheme, host) = (said("Scheme", "http"), said("Host", host(case)));
    let port = expected["Port"].as_str().unwrap_or_default();
    let path = said("Path", case["Request"]["Path"].as_str().unwrap_or("/"));
    ensure!(location.scheme_str() == Some(&scheme), "{location}: the scheme is not {scheme}");
    ensure!(location.host() == Some(host.split(':').next().unwrap_or_default()), "{location}: the host is not {host}");
    ensure!(location.port().map(|port| port.to_string()).unwrap_or_default() == port, "{location}: the port is not {port:?}");
    ensure!(location.path_and_query().is_some_and(|found| found.as_str() == path), "{location}: the path is not {path}");
    Ok(())
}

/// The copies of a case's request that must have arrived, and how many had before.
pub(crate) fn copies(case: &Value, log: &Log) -> anyhow::Result<Vec<(String, String, u64)>> {
    let path = case["ExpectedRequest"]["Request"]["Path"].as_str().or(case["Request"]["Path"].as_str()).unwrap_or("/").to_owned();
    let mirrors = case["MirroredTo"].as_array().into_iter().flatten();
    mirrors
        .map(|mirror| {
            let name = mirror["BackendRef"]["Name"].as_str().context("a mirror without a name")?.to_owned();
            let before = log.answers(&name, &path);
            Ok((name, path.clone(), before))
        })
        .collect()
}

/// Sends a line and reads who answers.
pub(crate) async fn told(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<Value> {
    let exchange = async {
        stream.write_all(b"who is there?\n").await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let byte = stream.read_u8().await?;
            line.push(byte);
        }
        anyhow::Ok(serde_json::from_slice(&line)?)
    };
    timeout(PATIENCE, exchange).await.context("nobody answers")?
}

/// The same without TLS.
pub(crate) async fn told_by(address: SocketAddr) -> anyhow::Result<Value> {
    told(timeout(PATIENCE, TcpStream::connect(address)).await??).await
}

/// Holds against a case who answered bytes.
pub(crate) fn bytes_answered(case: &Value, told: &Value) -> anyhow::Result<()> {
    let pod = told["pod"].as_str().unwrap_or_default();
    if let Some(backend) = case["Backend"].as_str() {
        ensure!(pod.starts_with(&format!("{backend}-")), "{pod} answered in place of {backend}");
    }
    if let Some(namespace) = case["Namespace"].as_str() {
        ensure!(told["namespace"] == namespace, "the backend is of {}", told["namespace"]);
    }
    let name = case["Hostname"].as_str().filter(|_| case["BackendIsTLS"] == true);
    ensure!(told["serverName"].as_str() == name, "the backend's TLS was opened for {} in place of {name:?}", told["serverName"]);
    Ok(())
}

/// Sends a datagram and reads who answers. None comes twice, so one that is lost is sent again by whoever asks again.
pub(crate) async fn datagram(address: SocketAddr, patience: std::time::Duration) -> anyhow::Result<Value> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(address).await?;
    socket.send(b"who is there?").await?;
    let mut buffer = [0; 2048];
    let length = timeout(patience, socket.recv(&mut buffer)).await.context("nobody answers")??;
    Ok(serde_json::from_slice(&buffer[..length])?)
}

/// A call of gRPC: its status, its message, and what came.
pub(crate) async fn call(address: SocketAddr, authority: &str, method: &str, metadata: &Value) -> anyhow::Result<(u32, String, Told)> {
    let mut builder =
        Request::post(format!("http://{authority}{method}")).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in metadata.as_object().into_iter().flatten() {
        builder = builder.header(name, value.as_str().unwrap_or_default());
    }
    // An empty message: not compressed, of length 0.
    let reply = http2_send(address, builder.body(Full::new(Bytes::from_static(&[0; 5])))?).await?;
    ensure!(reply.status == 200, "gRPC is answered with status {}: {}", reply.status, reply.text());
    let field = |name: &str| reply.trailers.get(name).or_else(|| reply.headers.get(name)).and_then(|value| value.to_str().ok());
    let status = field("grpc-status").context("there is no grpc-status")?.parse()?;
    let told = match reply.body.get(5..) {
        Some(message) if status == 0 => Told::decode(message)?,
        _ => Told::default(),
    };
    Ok((status, field("grpc-message").unwrap_or_default().to_owned(), told))
}

/// The service that the suite's gRPC backends have.
const SERVICE: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";

/// Which method a case of gRPC calls, with which authority and metadata.
pub(crate) fn grpc_request(case: &Value) -> (String, String, Value) {
    let method = ["EchoTwoRequest", "EchoThreeRequest"].iter().find(|field| !case[**field].is_null());
    let method = method.map_or("Echo", |field| field.trim_end_matches("Request"));
    let request = &case["RequestMetadata"];
    let authority = request["Authority"].as_str().filter(|authority| !authority.is_empty()).unwrap_or("gateway.test");
    (authority.to_owned(), format!("{SERVICE}/{method}"), request["Metadata"].clone())
}

/// Holds a call's outcome against a case.
pub(crate) fn grpc_answered(case: &Value, (status, message, told): &(u32, String, Told)) -> anyhow::Result<()> {
    const CODES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let code = &case["Response"]["Code"];
    let named = code.as_str().or_else(|| code["$go"].as_str()?.rsplit('.').next());
    let wanted = named.and_then(|named| CODES.iter().position(|known| *known == named)).map(|at| at as u64);
    let wanted = wanted.or(code.as_u64()).unwrap_or_default();
    ensure!(u64::from(*status) == wanted, "status {status} ({message}) in place of {wanted}");
    if wanted != 0 {
        return Ok(());
    }
    let backend = case["Backend"].as_str().unwrap_or_default();
    ensure!(backend.is_empty() || told.pod.starts_with(&format!("{backend}-")), "{} answered in place of {backend}", told.pod);
    if let Some(namespace) = case["Namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
        ensure!(told.namespace == namespace, "the backend is of {}", told.namespace);
    }
    let expected = &case["ExpectedRequest"];
    let fields = if expected["Metadata"].is_object() { &expected["Metadata"] } else { &expected["Headers"] };
    for (name, value) in fields.as_object().into_iter().flatten() {
        let seen: Vec<&str> =
            told.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.as_str()).collect();
        ensure!(Some(seen.join(",").as_str()) == value.as_str(), "the backend saw {name}: {seen:?} in place of {value}");
    }
    for name in expected["AbsentHeaders"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ensure!(told.headers.iter().all(|field| !field.name.eq_ignore_ascii_case(name)), "the backend saw {name}");
    }
    Ok(())
}

/// Opens a WebSocket, sends a text and reads it back.
pub(crate) async fn web_socket(address: SocketAddr, host: &str, path: &str, text: &str) -> anyhow::Result<()> {
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{host}{path}"), stream).await?;
    socket.send(Message::text(text)).await?;
    let back = timeout(PATIENCE, socket.next()).await?.context("the socket was closed")??;
    ensure!(back == Message::text(text), "{back:?} came back");
    Ok(())
}

/// Whether counts are what shares make likely: chi-square with so many degrees of freedom, beyond what chance brings in a million million runs.
pub(crate) fn fits(counts: &[(String, u64, f64)]) -> anyhow::Result<()> {
    let total: u64 = counts.iter().map(|(_, count, _)| count).sum();
    let mut deviation = 0.0;
    for (name, count, share) in counts {
        if *share == 0.0 {
            ensure!(*count == 0, "{name} has no share, and {count} requests");
            continue;
        }
        let expected = share * total as f64;
        deviation += (*count as f64 - expected).powi(2) / expected;
    }
    // P(chi-square > x) < exp(-x/2) * (1 + x/2)^(k/2): at 70 less than 1e-12 for up to 3 degrees of freedom.
    ensure!(deviation < 70.0, "the shares are not those of the weights: {}", json!(counts));
    Ok(())
}
