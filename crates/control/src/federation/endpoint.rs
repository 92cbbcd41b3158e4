//! The bundle endpoint (SPIFFE Federation, 5): this mesh's bundle by HTTPS, to everybody who asks, and nothing else. By the profile
//! `https_spiffe` it shows an SVID of the control plane's, by `https_web` a certificate of the user's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lorica_identity::{edge, federation, rotation};
use lorica_model::spiffe::SpiffeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::Federation;
use crate::ca::Ca;

/// The most connections at a time; each ends within [`CONNECTION`].
const CONNECTIONS: usize = 256;
/// How long a connection may take, from handshake to answer.
const CONNECTION: Duration = Duration::from_secs(10);
/// How often it is looked whether another certificate is to be shown.
const LOOK: Duration = Duration::from_secs(1);
/// How often the user's certificate is read again.
const READ: Duration = Duration::from_secs(60);

/// Where the bundle is served, and as whom.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// The address.
    pub address: SocketAddr,
    /// The user's certificate, for the profile `https_web`; none: `https_spiffe`.
    pub certificate: Option<EndpointCertificate>,
}

/// A certificate of the user's, in PEM files.
#[derive(Debug, Clone)]
pub struct EndpointCertificate {
    /// The chain, the leaf first.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A bound endpoint.
pub(crate) struct Endpoint {
    listener: TcpListener,
    shown: Shown,
}

/// As whom the endpoint is served.
struct Shown {
    ca: Arc<Ca>,
    certificate: Option<EndpointCertificate>,
    tls: Arc<ServerConfig>,
    /// When it is due to be replaced.
    due: SystemTime,
    /// The root that it comes from.
    root: String,
}

impl Shown {
    fn new(ca: Arc<Ca>, certificate: Option<EndpointCertificate>, now: SystemTime) -> anyhow::Result<Self> {
        let (tls, due, root) = Self::made(&ca, certificate.as_ref(), now)?;
        Ok(Self { ca, certificate, tls, due, root })
    }

    fn made(
        ca: &Ca,
        certificate: Option<&EndpointCertificate>,
        now: SystemTime,
    ) -> anyhow::Result<(Arc<ServerConfig>, SystemTime, String)> {
        if let Some(EndpointCertificate { chain, key }) = certificate {
            return Ok((edge::server_config_of_files(chain, key, &[b"http/1.1"])?, now + READ, String::new()));
        }
        let (svid, root) = ca.own_svid(&SpiffeId::of_control_plane(&ca.trust_domain()), now)?;
        let due = rotation::renew_at(svid.not_before(), svid.not_after(), fastrand::f64());
        Ok((federation::server_config(&svid)?, due, root))
    }

    fn is_due(&self, now: SystemTime) -> bool {
        now >= self.due || (self.certificate.is_none() && self.ca.known_longest().root_id() != self.root)
    }

    /// Replaces what is shown. What cannot be had is tried again, and what was shown goes on.
    fn replaced(mut self, now: SystemTime) -> Self {
        match Self::made(&self.ca, self.certificate.as_ref(), now) {
            Ok((tls, due, root)) => (self.tls, self.due, self.root) = (tls, due, root),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the bundle endpoint's certificate could not be replaced");
                self.due = now + READ;
            }
        }
        self
    }
}

impl Endpoint {
    /// Binds the address.
    ///
    /// # Errors
    /// When it cannot be had, or the certificate is not as it should be.
    pub(crate) async fn bind(config: EndpointConfig, ca: Arc<Ca>) -> anyhow::Result<Self> {
        let EndpointConfig { address, certificate } = config;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| anyhow::anyhow!("the bundle endpoint cannot be served on {address}: {error}"))?;
        let shown = tokio::task::spawn_blocking(move || Shown::new(ca, certificate, SystemTime::now())).await??;
        Ok(Self { listener, shown })
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, federation: Arc<Federation>) {
        let Self { listener, mut shown } = self;
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                _ = look.tick() => {
                    let now = SystemTime::now();
                    if shown.is_due(now) {
                        // It reads files, or makes a key.
                        match tokio::task::spawn_blocking(move || shown.replaced(now)).await {
                            Ok(replaced) => shown = replaced,
                            Err(error) => return tracing::error!(%error, "the bundle endpoint ended"),
                        }
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Who finds no room is closed at once, so that the others are served.
                    let Ok(place) = room.clone().try_acquire_owned() else { continue };
                    let (acceptor, federation) = (TlsAcceptor::from(shown.tls.clone()), federation.clone());
                    tokio::spawn(async move {
                        if tokio::time::timeout(CONNECTION, connection(acceptor, stream, federation)).await.is_err() {
                            tracing::debug!("a connection to the bundle endpoint took too long");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the bundle endpoint could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, federation: Arc<Federation>) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a handshake with the bundle endpoint failed"),
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let federation = federation.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), federation).await) }
    });
    // One answer a connection: who asks comes again in minutes.
    let served = http1::Builder::new().timer(TokioTimer::new()).keep_alive(false).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the bundle endpoint broke off");
    }
}

async fn answer(method: &Method, path: &str, federation: Arc<Federation>) -> Response<Full<Bytes>> {
    let said = |status: StatusCode, kind: &'static str, body: String| {
        let mut answer = Response::new(Full::new(Bytes::from(body)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        answer
    };
    let text = |status, body: &str| said(status, "text/plain", body.to_owned());
    if path != "/" {
        return text(StatusCode::NOT_FOUND, "the bundle is at /\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "the bundle can only be read\n");
    }
    match tokio::task::spawn_blocking(move || federation.own.document(SystemTime::now())).await {
        Ok(Ok(document)) => said(StatusCode::OK, "application/json", document),
        failed => {
            tracing::error!(failed = ?failed.map(drop), "the bundle cannot be told");
            text(StatusCode::SERVICE_UNAVAILABLE, "the bundle cannot be told now\n")
        }
    }
}
