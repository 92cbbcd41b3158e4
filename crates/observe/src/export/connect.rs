//! Connections to destinations: over TCP or a Unix socket, plain or inside TLS that others make.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection, however it was made.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// A connection in the making.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send>>;

/// Makes TLS of a plain connection: how, is not this crate's to know.
#[derive(Clone)]
pub struct Secure(pub Arc<dyn Fn(TcpStream) -> Connecting + Send + Sync>);

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secure")
    }
}

/// Where somebody listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What it takes to connect.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    pub(super) place: Place,
    pub(super) host: String,
    pub(super) secure: Option<Secure>,
}

impl Dial {
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let connected = async {
            match &self.place {
                Place::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as Box<dyn Connection>),
                Place::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    match &self.secure {
                        None => Ok(Box::new(stream) as Box<dyn Connection>),
                        Some(Secure(secure)) => secure(stream).await,
                    }
                }
            }
        };
        let connected = timeout(CONNECT, connected).await;
        connected.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", CONNECT.as_secs()))))
    }

    /// What `host` says: with the port, as it is part of it.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match &self.place {
            Place::Tcp(_, port) => format!("{host}:{port}"),
            Place::Unix(_) => host,
        }
    }

    /// A channel that connects once it is used. Needs the runtime that it is used on.
    pub(super) fn channel(self) -> Result<Channel, tonic::transport::Error> {
        let scheme = if self.secure.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.authority());
        // The connector knows where to go and whether by TLS; the channel is only to name it.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.authority()))?;
        let origin = origin.parse().map(|origin| endpoint.clone().origin(origin)).unwrap_or(endpoint);
        Ok(origin.connect_with_connector_lazy(tower::service_fn(move |_| {
            let dial = self.clone();
            async move { dial.connect().await.map(TokioIo::new) }
        })))
    }
}
