//! One document from its address: by TLS, within 5 s, without following anybody elsewhere, and no more of it than is ever read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lorica_identity::jwt::{KeyError, KeySet, MAX_KEY_SET};
use lorica_identity::{HandshakeFailure, edge};
use lorica_model::resource::KeySource;
use lorica_model::snapshot::BackendTls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

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
    /// The server did not prove to be the one that is meant.
    #[error("no connection to {0}: {1}")]
    Peer(SocketAddr, HandshakeFailure),
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
    /// It is no text.
    #[error("the answer is no text")]
    NoText,
    /// It is no set of keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// `https://…`
    pub url: &'a str,
    /// Whether the host may have an address that is not of the public internet.
    pub allow_private: bool,
    /// How the server proves who it is; none: by a certificate for its host that the system trusts.
    pub tls: Option<Arc<ClientConfig>>,
    /// The media types that are asked for.
    pub accept: &'static str,
}

/// The set at `source`, read once to see that it holds.
///
/// # Errors
/// Why there is none.
pub async fn key_set(source: &KeySource) -> Result<Arc<str>, FetchError> {
    let accept = "application/jwk-set+json, application/json";
    let text = text(&Asked { url: &source.url, allow_private: source.allow_private, tls: None, accept }).await?;
    KeySet::read(text.as_bytes())?;
    Ok(text)
}

/// The text at an address.
///
/// # Errors
/// Why there is none.
pub async fn text(asked: &Asked<'_>) -> Result<Arc<str>, FetchError> {
    let body = tokio::time::timeout(TIMEOUT, fetched(asked)).await.unwrap_or(Err(FetchError::Timeout))?;
    std::str::from_utf8(&body).map(Into::into).map_err(|_| FetchError::NoText)
}

async fn fetched(asked: &Asked<'_>) -> Result<Bytes, FetchError> {
    let uri: Uri = asked.url.parse().map_err(|_| FetchError::Address)?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or(FetchError::Address)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let looked_up = tokio::net::lookup_host((bare, port)).await.map_err(|error| FetchError::Lookup(bare.to_owned(), error))?;
    // Looked up once, and these very addresses are connected to: a name that is looked up again may lead elsewhere by then.
    let addresses: Vec<SocketAddr> = looked_up.collect();
    for address in &addresses {
        let unreachable = |why| FetchError::Unreachable { host: bare.to_owned(), address: address.ip(), why };
        reach::check(address.ip(), asked.allow_private).map_err(unreachable)?;
    }
    let tls = BackendTls { server_name: bare.to_owned(), names: Vec::new(), roots: None, certificate: None };
    let (config, name) = match &asked.tls {
        None => edge::client_config(&tls, &[b"http/1.1"])?,
        Some(config) => (config.clone(), ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Address)?),
    };
    let (address, tcp) = connected(&addresses).await?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| match asked.tls {
        None => FetchError::Connect(address, error),
        Some(_) => FetchError::Peer(address, HandshakeFailure::of_io(&error)),
    })?;
    let http = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(header::ACCEPT, asked.accept)
        .header(header::USER_AGENT, "lorica")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    let mut connection = std::pin::pin!(connection);
    let mut answered = std::pin::pin!(async {
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
    });
    let body = tokio::select! {
        biased;
        body = &mut answered => body?,
        // A server that closes after its answer has ended before that was looked at.
        ended = &mut connection => match ended {
            Ok(()) => answered.await?,
            Err(error) => answered.await.or(Err(http(error)))?,
        },
    };
    Ok(body)
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
