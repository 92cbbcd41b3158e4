//! Requests as they are written, byte for byte, on connections that are kept: what goes out is what a case says, however odd.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testbed::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `GET`.
    pub(crate) method: String,
    /// What stands after it: path and query, as written.
    pub(crate) target: String,
    /// The host; none: there is no such field.
    pub(crate) host: Option<String>,
    /// Further fields.
    pub(crate) fields: Vec<(String, String)>,
    /// A body.
    pub(crate) body: String,
    /// Whether it is a call of gRPC, by HTTP/2.
    pub(crate) grpc: bool,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target =
            if self.target.len() > 300 { format!("{}… ({} bytes)", &self.target[..40], self.target.len()) } else { self.target.clone() };
        write!(f, "{}{} {} host={:?}", if self.grpc { "gRPC " } else { "" }, self.method, target, self.host)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value:?}"))?;
        if self.body.is_empty() { Ok(()) } else { write!(f, " body={:?}", self.body) }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its status; 0 where the connection was closed in place of one.
    pub(crate) status: u16,
    /// Its fields, names in lower case, in their order; of gRPC also the trailers.
    pub(crate) fields: Vec<(String, String)>,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

/// Kept connections to one address.
pub(crate) struct Client {
    address: SocketAddr,
    http1: Option<TcpStream>,
    http2: Option<hyper::client::conn::http2::SendRequest<Full<Bytes>>>,
}

impl Client {
    /// None open yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, http1: None, http2: None }
    }

    /// Where it asks.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request under an id and gives the whole answer.
    pub(crate) async fn send(&mut self, asked: &Asked, id: &str) -> anyhow::Result<Answer> {
        let sent = timeout(PATIENCE, async { if asked.grpc { self.call(asked, id).await } else { self.exchange(asked, id).await } }).await;
        sent.with_context(|| format!("no whole answer came: {asked:?}"))?.with_context(|| format!("{asked:?}"))
    }

    async fn exchange(&mut self, asked: &Asked, id: &str) -> anyhow::Result<Answer> {
        let mut head = format!("{} {} HTTP/1.1\r\n", asked.method, asked.target);
        let host = asked.host.iter().map(|host| ("host", host.as_str()));
        let fields = asked.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in host.chain([("x-request-id", id)]).chain(fields) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !asked.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", asked.body.len()));
        }
        head.push_str("\r\n");
        head.push_str(&asked.body);
        // One that was kept may be closed by now: nothing came back then, and a new one is tried.
        for fresh in [false, true] {
            let kept = self.http1.take().filter(|_| !fresh);
            let was_kept = kept.is_some();
            let mut stream = match kept {
                Some(stream) => stream,
                None => TcpStream::connect(self.address).await?,
            };
            // It may be answered and closed before all was written.
            let written = stream.write_all(head.as_bytes()).await;
            match answer(&mut stream, asked.method == "HEAD").await {
                Ok(Some((answer, open))) => {
                    self.http1 = Some(stream).filter(|_| open && written.is_ok());
                    return Ok(answer);
                }
                Ok(None) | Err(_) if was_kept => {}
                Ok(None) | Err(_) => return Ok(Answer { status: 0, fields: Vec::new(), body: Vec::new() }),
            }
        }
        bail!("two connections were closed without an answer")
    }

    async fn call(&mut self, asked: &Asked, id: &str) -> anyhow::Result<Answer> {
        let uri = format!("http://{}{}", asked.host.as_deref().unwrap_or("a.example"), asked.target);
        let mut request = http::Request::builder().method(asked.method.as_str()).uri(uri).header("x-request-id", id);
        for (name, value) in &asked.fields {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(asked.body.clone()))?;
        if self.http2.as_ref().is_none_or(hyper::client::conn::http2::SendRequest::is_closed) {
            let stream = TcpStream::connect(self.address).await?;
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            // Its error also ends the request that met it.
            tokio::spawn(async move { drop(connection.await) });
            self.http2 = Some(sender);
        }
        let sender = self.http2.as_mut().context("there is a connection")?;
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let fields = head.headers.iter().chain(trailers.iter());
        let fields = fields.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
        Ok(Answer { status: head.status.as_u16(), fields, body: body.to_bytes().to_vec() })
    }
}

/// Reads an answer, and whether the connection stays; none where it was closed before one began.
async fn answer(stream: &mut TcpStream, to_head: bool) -> anyhow::Result<Option<(Answer, bool)>> {
    let mut inbox = Vec::new();
    let end = loop {
        if let Some(at) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut inbox).await? == 0 {
            anyhow::ensure!(inbox.is_empty(), "half a head: {}", String::from_utf8_lossy(&inbox));
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&inbox[..end]).into_owned();
    inbox.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let fields: Vec<(String, String)> = lines.filter_map(field).collect();
    let value = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let mut open = !value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let mut body = Vec::new();
    if to_head || status == 204 || status == 304 {
        // There is none, whatever the fields say.
    } else if let Some(length) = value("content-length") {
        let length: usize = length.parse()?;
        while inbox.len() < length {
            anyhow::ensure!(stream.read_buf(&mut inbox).await? > 0, "cut off");
        }
        body.extend(inbox.drain(..length));
    } else if value("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(at) = inbox.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                anyhow::ensure!(stream.read_buf(&mut inbox).await? > 0, "cut off");
            };
            let size = usize::from_str_radix(std::str::from_utf8(&inbox[..line])?, 16)?;
            while inbox.len() < line + 2 + size + 2 {
                anyhow::ensure!(stream.read_buf(&mut inbox).await? > 0, "cut off");
            }
            body.extend_from_slice(&inbox[line + 2..line + 2 + size]);
            inbox.drain(..line + 2 + size + 2);
            if size == 0 {
                break;
            }
        }
    } else {
        stream.read_to_end(&mut inbox).await?;
        body = std::mem::take(&mut inbox);
        open = false;
    }
    Ok(Some((Answer { status, fields, body }, open)))
}
