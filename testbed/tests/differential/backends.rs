//! Backends that remember every request as it came, byte for byte, by its `x-request-id`: HTTP/1.1 read by hand, so that nothing is cleaned up
//! on the way; HTTP/2 by hyper.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as a backend saw it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// The backend.
    pub(crate) server: String,
    /// `GET`.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The host.
    pub(crate) host: String,
    /// All other fields, names in lower case, in the order in which they came.
    pub(crate) fields: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

/// What came, by `x-request-id`.
type Log = Arc<Mutex<BTreeMap<String, Vec<Seen>>>>;

/// Backends by name.
#[derive(Default)]
pub(crate) struct Backends {
    log: Log,
    /// Name, address, and whether it speaks gRPC.
    pub(crate) servers: Vec<(String, SocketAddr, bool)>,
}

impl Backends {
    /// Starts these; names that begin with `g` speak gRPC.
    pub(crate) async fn start(names: &[&str]) -> anyhow::Result<Self> {
        let mut backends = Self::default();
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let grpc = name.starts_with('g');
            backends.servers.push(((*name).to_owned(), listener.local_addr()?, grpc));
            tokio::spawn(serve(listener, (*name).to_owned(), grpc, backends.log.clone()));
        }
        Ok(backends)
    }

    /// Everything that came with this id so far.
    pub(crate) fn seen(&self, id: &str) -> Vec<Seen> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.get(id).cloned().unwrap_or_default()
    }

    /// Forgets all that came.
    pub(crate) fn forget(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A Service of one plaintext endpoint for each.
    pub(crate) fn resources(&self) -> String {
        let one = |(name, at, grpc): &(String, SocketAddr, bool)| testbed::service(name, if *grpc { "grpc" } else { "http" }, *at);
        self.servers.iter().map(one).collect()
    }
}

/// What the request itself says of its answer: `x-script: close,503,200` for its first arrival, its second, and all others. `503/1` asks to wait
/// for a second; `hang` never answers.
fn scripted(seen: &Seen, log: &Log) -> Option<String> {
    let field = |name: &str| seen.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let script = field("x-script")?;
    let before = log.lock().unwrap_or_else(PoisonError::into_inner).get(&field("x-request-id")?).map_or(0, Vec::len);
    let steps: Vec<&str> = script.split(',').collect();
    steps.get(before).or(steps.last()).map(|step| (*step).to_owned())
}

fn note(log: &Log, seen: Seen) {
    let id = seen.fields.iter().find(|(name, _)| name == "x-request-id").map(|(_, id)| id.clone()).unwrap_or_default();
    log.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().push(seen);
}

async fn serve(listener: TcpListener, name: String, grpc: bool, log: Log) {
    while let Ok((stream, _)) = listener.accept().await {
        let (name, log) = (name.clone(), log.clone());
        tokio::spawn(async move {
            // How a proxy ends its connection is its own affair.
            if grpc {
                let service = service_fn(move |request| called(request, name.clone(), log.clone()));
                drop(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
            } else {
                drop(http1(stream, &name, &log).await);
            }
        });
    }
}

/// Answers a call as a gRPC server does that has nothing to say.
async fn called(request: Request<Incoming>, server: String, log: Log) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let field =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned());
    let seen = Seen {
        server: server.clone(),
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        host: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        fields: head.headers.iter().map(field).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    note(&log, seen);
    let mut answer = Response::new(Full::default());
    let fields = answer.headers_mut();
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "0"), ("x-multi", "one"), ("x-multi", "two")] {
        fields.append(name, http::HeaderValue::from_static(value));
    }
    if let Ok(server) = server.parse() {
        fields.append("x-answered-by", server);
    }
    Ok(answer)
}

/// Answers requests on one connection.
async fn http1(mut stream: TcpStream, server: &str, log: &Log) -> anyhow::Result<()> {
    let mut inbox = Vec::new();
    loop {
        let Some(seen) = read(&mut stream, &mut inbox, server).await? else { return Ok(()) };
        let head = seen.method == "HEAD";
        let scripted = scripted(&seen, log);
        note(log, seen);
        match scripted.as_deref() {
            None | Some("200") => {}
            Some("close") => return Ok(()),
            Some("hang") => std::future::pending().await,
            Some(status) => {
                let (status, after) = status.split_once('/').unwrap_or((status, ""));
                let after = if after.is_empty() { String::new() } else { format!("retry-after: {after}\r\n") };
                stream.write_all(format!("HTTP/1.1 {status} Scripted\r\n{after}content-length: 0\r\n\r\n").as_bytes()).await?;
                continue;
            }
        }
        let body = if head { "" } else { "answered" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 8\r\ncontent-type: text/plain\r\nx-answered-by: {server}\r\nx-multi: one\r\nX-Multi: two\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nvary: accept\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Reads one request; none where the connection ends before another begins.
async fn read(stream: &mut TcpStream, inbox: &mut Vec<u8>, server: &str) -> anyhow::Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(inbox).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&inbox[..end]).into_owned();
    inbox.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().context("an empty head")?.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("no field: {line}"))?;
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let mut body = Vec::new();
    if let Some(length) = field("content-length") {
        let length: usize = length.parse()?;
        while inbox.len() < length {
            anyhow::ensure!(stream.read_buf(inbox).await? > 0, "cut off");
        }
        body.extend(inbox.drain(..length));
    } else if field("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(at) = inbox.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                anyhow::ensure!(stream.read_buf(inbox).await? > 0, "cut off");
            };
            let size = usize::from_str_radix(std::str::from_utf8(&inbox[..line])?.split(';').next().unwrap_or_default(), 16)?;
            while inbox.len() < line + 2 + size + 2 {
                anyhow::ensure!(stream.read_buf(inbox).await? > 0, "cut off");
            }
            body.extend_from_slice(&inbox[line + 2..line + 2 + size]);
            inbox.drain(..line + 2 + size + 2);
            if size == 0 {
                break;
            }
        }
    }
    let host = field("host").unwrap_or_default();
    fields.retain(|(name, _)| name != "host");
    Ok(Some(Seen { server: server.to_owned(), method, target, host, fields, body: String::from_utf8_lossy(&body).into_owned() }))
}
