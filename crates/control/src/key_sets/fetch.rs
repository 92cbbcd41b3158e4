//! One key set from its address: by TLS, within 5 s, without following anybody elsewhere, and no more of it than is ever read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lorica_identity::edge;
use lorica_identity::jwt::{KeyError, KeySet, MAX_KEY_SET};
use lorica_model::resource::KeySource;
use lorica_model::snapshot::BackendTls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::reach::{self, Unreachable};

/// How long all of it may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It took too long.
    #[error("it took longer than {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The address cannot be read.
    #[error("the address has no host")]
    Address,
    /// The host has no address.
    #[error("the host `{0}` cannot be looked up: {1}")]
    Lookup(String, std::io::Error),
    /// The host has an address that is not asked.
    #[error("`{host}` is {address}, which {why}")]
    Unreachable {
        /// The host.
        host: String,
        /// The address.
        address: std::net::IpAddr,
        /// Why not.
        why: Unreachable,
    },
    /// No connection came about.
    #[error("no connection to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// TLS cannot be had.
    #[error(transparent)]
    Tls(#[from] edge::EdgeError),
    /// HTTP went wrong.
    #[error("the server did not answer as HTTP has it: {0}")]
    Http(String),
    /// It answers otherwise.
    #[error("the server answers {0}{1}")]
    Status(u16, &'static str),
    /// It is too long.
    #[error("the answer is longer than {} KiB", MAX_KEY_SET / 1024)]
    TooLong,
    /// It is no set of keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// The set at `source`, read once to see that it holds.
///
/// # Errors
/// Why there is none.
pub async fn key_set(source: &KeySource) -> Result<Arc<str>, FetchError> {
    tokio::time::timeout(TIMEOUT, fetched(source)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn fetched(source: &KeySource) -> Result<Arc<str>, FetchError> {
    let uri: Uri = source.url.parse().map_err(|_| FetchError::Address)?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or(FetchError::Address)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let looked_up = tokio::net::lookup_host((bare, port)).await.map_err(|error| FetchError::Lookup(bare.to_owned(), error))?;
    // Looked up once, and these very addresses are connected to: a name that is looked up again may lead elsewhere by then.
    let addresses: Vec<SocketAddr> = looked_up.collect();
    for address in &addresses {
        let unreachable = |why| FetchError::Unreachable { host: bare.to_owned(), address: address.ip(), why };
        reach::check(address.ip(), source.allow_private).map_err(unreachable)?;
    }
    let tls = BackendTls { server_name: bare.to_owned(), names: Vec::new(), roots: None, certificate: None };
    let (config, name) = edge::client_config(&tls, &[b"http/1.1"])?;
    let (address, tcp) = connected(&addresses).await?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| FetchError::Connect(address, error))?;
    let http = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, "lorica")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    let mut connection = std::pin::pin!(connection);
    let answered = async {
        let answer = sender.send_request(request).await.map_err(http)?;
        match answer.status().as_u16() {
            200 => {}
            status @ 300..=399 => return Err(FetchError::Status(status, ": nobody follows it elsewhere; name the last address")),
            status => return Err(FetchError::Status(status, "")),
        }
        let too_long = |error: Box<dyn std::error::Error + Send + Sync>| {
            if error.is::<LengthLimitError>() { FetchError::TooLong } else { FetchError::Http(error.to_string()) }
        };
        Ok(Limited::new(answer.into_body(), MAX_KEY_SET).collect().await.map_err(too_long)?.to_bytes())
    };
    let body = tokio::select! {
        biased;
        body = answered => body?,
        // It ends by itself only once nobody wants anything of it any more.
        ended = &mut connection => return Err(FetchError::Http(ended.err().map_or_else(|| "it closed".to_owned(), |error| error.to_string()))),
    };
    KeySet::read(&body)?;
    let text = String::from_utf8(body.to_vec()).map_err(|_| FetchError::Http("the answer is no text".to_owned()))?;
    Ok(text.into())
}

/// A connection to the first address that takes one.
async fn connected(addresses: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), FetchError> {
    let mut failed = FetchError::Address;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok((*address, tcp)),
            Err(error) => failed = FetchError::Connect(*address, error),
        }
    }
    Err(failed)
}
