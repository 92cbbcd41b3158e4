//! Metrics, readiness and endpoints of one proxy, over HTTP on loopback: `/metrics`, `/ready`, `/endpoints`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lorica_identity::TlsEpoch;
use lorica_observe::Telemetry;
use lorica_observe::exposition::{Family, Kind, Sample, Value};
use lorica_xds::client::ConnectionState;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::endpoints::health::LeftOut;
use crate::endpoints::shared::Shared;
use crate::source::Source;

/// The most scrapers at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 16;

/// What the pages are made of.
struct Admin {
    telemetry: Telemetry,
    source: Source,
    epochs: watch::Receiver<Option<Arc<TlsEpoch>>>,
    shared: Arc<Shared>,
}

/// Serves until the proxy ends.
pub async fn serve(
    listener: TcpListener,
    telemetry: Telemetry,
    source: Source,
    epochs: watch::Receiver<Option<Arc<TlsEpoch>>>,
    shared: Arc<Shared>,
) {
    let admin = Arc::new(Admin { telemetry, source, epochs, shared });
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
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let served =
                hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a scrape broke off");
            }
            drop(place);
        });
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
                let (kind, text) = self.telemetry.scrape(accept, self.own());
                answer(StatusCode::OK, kind, text)
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
        let gauge = |name, help, value| Family {
            name,
            help,
            kind: Kind::Gauge,
            samples: vec![Sample { labels: Vec::new(), value: Value::Gauge(value) }],
        };
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
        families.push(Family {
            name: "istio_build",
            help: "Which software this is",
            kind: Kind::Gauge,
            samples: vec![Sample {
                labels: vec![("component", "proxy".to_owned()), ("tag", env!("CARGO_PKG_VERSION").to_owned())],
                value: Value::Gauge(1.0),
            }],
        });
        #[expect(clippy::cast_precision_loss, reason = "fewer endpoints than a float can count")]
        let sample = |(reason, count): (LeftOut, usize)| Sample {
            labels: vec![("reason", reason.word().to_owned())],
            value: Value::Gauge(count as f64),
        };
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

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
