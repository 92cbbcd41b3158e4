//! Load: wrk and h2load for HTTP, generators of our own for bytes and for latency at a fixed rate. In: where to call. Out: how many
//! calls were answered, or how long each took.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::certificates::Certificates;
use crate::statistics;

/// How many connections wrk keeps, and clients that exchange bytes.
pub(crate) const CONNECTIONS: usize = 64;
/// How many new connections are under way at once.
const CONNECTING: usize = 16;
/// The size of a message of the byte round trips.
const MESSAGE: usize = 100;
/// The first byte of what the backend swallows instead of sending it back.
const SINK: u8 = b'S';

/// Requests of HTTP/1 for `window`; how many were answered with 200.
pub(crate) fn wrk(entry: SocketAddr, path: &str, window: Duration) -> anyhow::Result<u64> {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", window.as_secs().max(1)), &format!("http://{entry}{path}")])
        .output()
        .context("wrk cannot be started: apt-get install wrk")?;
    parse_wrk(&String::from_utf8_lossy(&output.stdout))
}

fn parse_wrk(text: &str) -> anyhow::Result<u64> {
    if let Some(bad) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        bail!("wrk: {}", bad.trim());
    }
    let line = text.lines().find(|line| line.contains(" requests in ")).with_context(|| format!("wrk said no number: {text}"))?;
    line.trim().split(' ').next().and_then(|word| word.parse().ok()).context("wrk's number")
}

/// Requests of HTTP/2 for `window`, 8 connections with 16 streams each.
pub(crate) fn h2load(entry: SocketAddr, path: &str, window: Duration) -> anyhow::Result<u64> {
    let output = Command::new("h2load")
        .args(["-c8", "-m16", &format!("-D{}", window.as_secs().max(1)), &format!("http://{entry}{path}")])
        .output()
        .context("h2load cannot be started: apt-get install nghttp2-client")?;
    parse_h2load(&String::from_utf8_lossy(&output.stdout))
}

/// So many requests of HTTP/2 on one connection.
pub(crate) fn h2load_count(entry: SocketAddr, path: &str, requests: u64) -> anyhow::Result<u64> {
    let output = Command::new("h2load")
        .args(["-c1", "-m1", &format!("-n{requests}"), &format!("http://{entry}{path}")])
        .output()
        .context("h2load cannot be started: apt-get install nghttp2-client")?;
    parse_h2load(&String::from_utf8_lossy(&output.stdout))
}

fn parse_h2load(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().find(|line| line.starts_with("requests:")).with_context(|| format!("h2load said no number: {text}"))?;
    let count = |word: &str| -> Option<u64> {
        let before = line.split(word).next()?;
        before.rsplit([' ', ',']).find(|part| !part.is_empty())?.parse().ok()
    };
    let (succeeded, failed, errored) = (count(" succeeded"), count(" failed"), count(" errored"));
    ensure!(failed == Some(0) && errored == Some(0), "h2load: {line}");
    let codes = text.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
    ensure!(codes.contains(" 0 4xx, 0 5xx"), "h2load: {codes}");
    succeeded.context("h2load's number")
}

/// A backend for bytes: it sends back what comes, or swallows it where that begins with [`SINK`]. Runs until its process ends.
pub(crate) fn echo(port: u16) -> anyhow::Result<()> {
    runtime()?.block_on(async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let mut buffer = vec![0; 256 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if buffer[0] != SINK && stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// Round trips of one small message on kept connections.
pub(crate) fn round_trips(entry: SocketAddr, window: Duration) -> anyhow::Result<u64> {
    each(CONNECTIONS, window, move |deadline| async move {
        let mut stream = connect(entry).await?;
        let mut count = 0;
        while Instant::now() < deadline {
            trip(&mut stream).await?;
            count += 1;
        }
        Ok(count)
    })
}

/// New connections, one round trip each.
pub(crate) fn connections(entry: SocketAddr, window: Duration) -> anyhow::Result<u64> {
    each(CONNECTING, window, move |deadline| async move {
        let mut count = 0;
        while Instant::now() < deadline {
            trip(&mut connect(entry).await?).await?;
            count += 1;
        }
        Ok(count)
    })
}

/// A caller of the mesh that makes a new connection for each request.
#[derive(Clone)]
pub(crate) struct HandshakeClient(TlsConnector);

impl HandshakeClient {
    /// With the caller's certificate, and no memory of earlier sessions.
    pub(crate) fn new(certificates: &Certificates) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificates.authority)?)?;
        let own = CertificateDer::from_pem_file(&certificates.client.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&certificates.client.key)?;
        let mut config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Handshakes, each proved by the answer to a request.
    pub(crate) fn handshakes(&self, entry: SocketAddr, window: Duration) -> anyhow::Result<u64> {
        each(CONNECTING, window, |deadline| {
            let connector = self.0.clone();
            async move {
                let mut count = 0;
                while Instant::now() < deadline {
                    let mut stream = connector.connect("web.bench".try_into()?, connect(entry).await?).await?;
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: web.bench\r\n\r\n").await?;
                    let mut buffer = [0; 512];
                    let read = stream.read(&mut buffer).await?;
                    ensure!(buffer[..read].starts_with(b"HTTP/1.1 200"), "no 200: {}", String::from_utf8_lossy(&buffer[..read]));
                    count += 1;
                }
                Ok(count)
            }
        })
    }
}

/// As many bytes as pass on one connection; in MiB.
pub(crate) fn bulk(entry: SocketAddr, window: Duration) -> anyhow::Result<u64> {
    let bytes = each(1, window, move |deadline| async move {
        let mut stream = connect(entry).await?;
        let block = vec![SINK; 256 * 1024];
        let mut count = 0;
        while Instant::now() < deadline {
            stream.write_all(&block).await?;
            count += block.len() as u64;
        }
        Ok(count)
    })?;
    Ok(bytes >> 20)
}

/// Latencies in microseconds, sorted, of requests of HTTP/1 sent at `rate` a second on kept connections; each counts from when
/// it was due.
pub(crate) fn latencies(entry: SocketAddr, rate: f64, window: Duration) -> anyhow::Result<Vec<f64>> {
    const CLIENTS: usize = 32;
    let all = runtime()?.block_on(async move {
        let begin = Instant::now() + Duration::from_millis(50);
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            clients.push(tokio::spawn(async move {
                let mut stream = connect(entry).await?;
                let (mut own, mut buffer) = (Vec::new(), vec![0; 4096]);
                for index in (client as u64..).step_by(CLIENTS) {
                    let due = Duration::from_secs_f64(statistics::due(index, rate));
                    if due > window {
                        break;
                    }
                    tokio::time::sleep_until((begin + due).into()).await;
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: web.bench\r\n\r\n").await?;
                    let count = stream.read(&mut buffer).await?;
                    ensure!(buffer[..count].starts_with(b"HTTP/1.1 200"), "no 200: {}", String::from_utf8_lossy(&buffer[..count]));
                    own.push((begin.elapsed().saturating_sub(due)).as_secs_f64() * 1e6);
                }
                anyhow::Ok(own)
            }));
        }
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await??);
        }
        anyhow::Ok(all)
    });
    let mut all = all?;
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// Opens connections that each do one request and stay.
pub(crate) fn keep_open(entry: SocketAddr, count: usize) -> anyhow::Result<Vec<std::net::TcpStream>> {
    use std::io::{Read as _, Write as _};
    let mut kept = Vec::new();
    for _ in 0..count {
        let mut stream = std::net::TcpStream::connect(entry)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web.bench\r\n\r\n")?;
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer)?;
        ensure!(buffer[..count].starts_with(b"HTTP/1.1 200"), "no 200: {}", String::from_utf8_lossy(&buffer[..count]));
        kept.push(stream);
    }
    Ok(kept)
}

/// One request of HTTP/1 by hand: what its answer begins with.
pub(crate) fn first_answer(entry: SocketAddr) -> anyhow::Result<bool> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(entry)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web.bench\r\n\r\n")?;
    let mut buffer = [0; 64];
    let count = stream.read(&mut buffer)?;
    Ok(buffer[..count].starts_with(b"HTTP/1.1 200"))
}

async fn connect(entry: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(entry).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn trip(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(&[b'x'; MESSAGE]).await?;
    let mut buffer = [0; MESSAGE];
    stream.read_exact(&mut buffer).await.context("a round trip was cut off")?;
    Ok(())
}

/// Runs so many clients at once, and adds up what they counted.
fn each<F, C>(clients: usize, window: Duration, client: C) -> anyhow::Result<u64>
where
    C: Fn(Instant) -> F,
    F: Future<Output = anyhow::Result<u64>> + Send + 'static,
{
    runtime()?.block_on(async {
        let deadline = Instant::now() + window;
        let clients: Vec<_> = (0..clients).map(|_| tokio::spawn(client(deadline))).collect();
        let mut sum = 0;
        for client in clients {
            sum += client.await??;
        }
        Ok(sum)
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_wrk_says_is_read_and_its_errors_too() {
        let good = "Running 1s test\n  71236 requests in 1.00s, 9.31MB read\nRequests/sec:  71236.00\n";
        assert_eq!(parse_wrk(good).unwrap(), 71236);
        assert!(parse_wrk(&format!("{good}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(parse_wrk("").is_err());
    }

    #[test]
    fn what_h2load_says_is_read_and_its_errors_too() {
        let good = "requests: 53787 total, 53787 started, 53787 done, 53787 succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 53787 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(parse_h2load(good).unwrap(), 53787);
        assert!(parse_h2load(&good.replace(" 0 failed", " 7 failed")).is_err());
        assert!(parse_h2load(&good.replace(" 0 5xx", " 9 5xx")).is_err());
    }
}
