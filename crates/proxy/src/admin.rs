//! Metrics, readiness and endpoints of one proxy, over HTTP on loopback: `/metrics`, `/ready`, `/endpoints`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lorica_identity::TlsEpoch;
use lorica_observe::Telemetry;
use lorica_observe::exposition::{Family, Kind, Labels, Page, Sample, Value, build};
use lorica_xds::client::ConnectionState;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::endpoints::health::LeftOut;
use crate::endpoints::shared::Shared;
use crate::source::Source;

/// The most scrapers at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 16;
/// How long a scraper may keep its connection: one that takes nothing any more is not to keep others out. It connects again.
const LIFE: Duration = Duration::from_secs(300);

/// What the pages are made of.
pub struct Admin {
    telemetry: Telemetry,
    source: Source,
    epochs: watch::Receiver<Option<Arc<TlsEpoch>>>,
    shared: Arc<Shared>,
}

/// Serves until the proxy ends.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a scrape could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let admin = admin.clone();
        spawn_local(async move {
            let service = service_fn(|request| {
                let answer = admin.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served =
                hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(LIFE, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a scrape broke off"),
                Err(_) => tracing::debug!("a scraper's connection has had its time"),
            }
            drop(place);
        });
    }
}

/// What an answer is made of: a text, or a page piece by piece.
type Content = Either<Full<Bytes>, Pieces>;

/// A page of metrics on its way. Exchanges of a sidecar are on the same thread: between two pieces they have their turn.
struct Pieces {
    page: Page,
    rested: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.rested = !self.rested;
        if !self.rested {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.page.next().map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }
}

impl Admin {
    /// Pages of this proxy.
    #[must_use]
    pub fn new(telemetry: Telemetry, source: Source, epochs: watch::Receiver<Option<Arc<TlsEpoch>>>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { telemetry, source, epochs, shared })
    }

    /// All that is scraped, as it is now.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        self.telemetry.families(self.own())
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Content> {
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
                let (kind, page) = self.telemetry.scrape(accept, self.own());
                content(StatusCode::OK, kind, Either::Right(Pieces { page, rested: false }))
            }
            "/ready" => {
                let ready = !self.source.brings_svid() || self.epochs.borrow().is_some();
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                answer(status, "text/plain", format!("{}; {}\n", if ready { "ready" } else { "no SVID yet" }, self.source.state()))
            }
            // Who is left out and why, and how much is under way.
            "/endpoints" => match serde_json::to_string_pretty(&self.shared.status(Instant::now())) {
                Ok(text) => answer(StatusCode::OK, "application/json", text + "\n"),
                Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
            },
            _ => answer(StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /ready and /endpoints\n".to_owned()),
        }
    }

    fn own(&self) -> Vec<Family> {
        let gauge = Family::gauge;
        let mut families = match &self.source {
            Source::ControlPlane(client) => {
                let connected = matches!(*client.state().borrow(), ConnectionState::Connected { .. });
                vec![gauge("lorica_control_plane_connected", "Whether a control plane answers", f64::from(u8::from(connected)))]
            }
            Source::Files(files) => {
                let behind = files.borrow().behind;
                let help = "Whether the configuration files were changed and refused";
                vec![gauge("lorica_configuration_behind", help, f64::from(u8::from(behind)))]
            }
        };
        families.push(build("proxy", env!("CARGO_PKG_VERSION")));
        #[expect(clippy::cast_precision_loss, reason = "fewer endpoints than a float can count")]
        let sample =
            |(reason, count): (LeftOut, usize)| Sample { labels: Labels::one("reason", reason.word()), value: Value::Gauge(count as f64) };
        families.push(Family {
            name: "lorica_endpoints_left_out",
            help: "Endpoints that take no calls now, by reason",
            kind: Kind::Gauge,
            samples: self.shared.left_out().into_iter().map(sample).collect(),
        });
        if let Some(epoch) = &*self.epochs.borrow() {
            let left = epoch.svid().not_after().duration_since(SystemTime::now()).unwrap_or_default();
            families.push(gauge("lorica_svid_expiry_seconds", "Seconds until the SVID expires", left.as_secs_f64()));
            if let Some(end) = epoch.intermediate_end() {
                let left = end.duration_since(SystemTime::now()).unwrap_or_default();
                families.push(gauge(
                    "lorica_intermediate_expiry_seconds",
                    "Seconds until the first intermediate of the SVID's chain expires",
                    left.as_secs_f64(),
                ));
            }
            if let Some(end) = epoch.root_end() {
                let left = end.duration_since(SystemTime::now()).unwrap_or_default();
                families.push(gauge("lorica_root_expiry_seconds", "Seconds until the root of the SVID expires", left.as_secs_f64()));
            }
        }
        families
    }
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Content> {
    content(status, kind, Either::Left(Full::from(text)))
}

fn content(status: StatusCode, kind: &'static str, content: Content) -> Response<Content> {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
