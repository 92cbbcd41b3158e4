//! What runs beside requests so that bad endpoints are left out: the sweep of ejections, and health checks.
//!
//! The first worker does it for all of them, as they share who is left out. It asks every endpoint of every service port in use whose policy has
//! a check, over the connections that requests use, so that what is asked is what would be called: mutual TLS, identity, protocol. A check
//! counts neither as a request nor among limited connections. Its first result decides at once; until then the endpoint is not used while
//! enough others are well.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use lorica_model::head::{Edits, HeadBuilder, RequestHead, ResponseHead, Version};
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{HealthCheck, HealthQuestion, Protocol, Transport};
use lorica_observe::metrics::OwnMetric;
use tokio::io::AsyncReadExt as _;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, sleep_until, timeout};

use crate::endpoints::health::LeftOut;
use crate::endpoints::health_check::Results;
use crate::endpoints::{Active, LiveEndpoint};
use crate::path::connect;
use crate::path::mtls::Negotiated;
use crate::path::pick;
use crate::pool::{Lease, Reuse, StreamKind};
use crate::view::{Reach, View};
use crate::wire::{Answer, Frame, Outgoing, WireError};
use crate::worker::Worker;

/// The most endpoints that are checked; more are taken to be well, and told of in the log.
const MAX_CHECKED: usize = 2048;
/// The largest answer of a gRPC health service that is read: a message with one number.
const MAX_GRPC_ANSWER: usize = 1024;

/// Sweeps and checks, for as long as the worker lives.
pub async fn run(worker: Rc<Worker>) {
    if worker.view().vantage.worker != 0 {
        return;
    }
    let mut views = worker.views.clone();
    let mut checks = Checks::default();
    loop {
        let view = views.borrow_and_update().clone();
        checks.follow(&worker, &view);
        let due = loop {
            let now = Instant::now();
            let due = view.live.values().filter_map(|set| set.sweep(now)).min();
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(due.into()) => {}
                    changed = views.changed() => break changed,
                },
                None => break views.changed().await,
            }
        };
        if due.is_err() {
            return;
        }
    }
}

/// The checks under way, by endpoint.
#[derive(Default)]
struct Checks {
    running: HashMap<(ServicePort, u64), Running>,
    /// Whether it was told that there are too many.
    told: bool,
}

struct Running {
    check: HealthCheck,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    /// Starts the checks that a view asks for, and ends those that it does not.
    fn follow(&mut self, worker: &Rc<Worker>, view: &View) {
        let mut before = std::mem::take(&mut self.running);
        let mut left_over = 0;
        for (port, set) in &view.live {
            let check = set.traffic().health_check.as_ref();
            for live in set.endpoints() {
                let Some(check) = check.filter(|_| self.running.len() < MAX_CHECKED) else {
                    left_over += usize::from(check.is_some());
                    live.checked(true);
                    continue;
                };
                let key = (port.clone(), live.id);
                let running = before.remove(&key).filter(|running| running.check == *check);
                let running = running.unwrap_or_else(|| {
                    let task = spawn_local(endpoint(worker.clone(), port.clone(), live.clone(), check.clone()));
                    Running { check: check.clone(), task: task.abort_handle() }
                });
                self.running.insert(key, running);
            }
        }
        if left_over > 0 && !self.told {
            tracing::warn!("{left_over} endpoints are not checked, as a proxy checks {MAX_CHECKED} at most; they are taken to be well");
        }
        self.told = left_over > 0;
    }
}

/// Checks one endpoint for ever.
async fn endpoint(worker: Rc<Worker>, port: ServicePort, live: Arc<LiveEndpoint>, check: HealthCheck) {
    // Who was in use before there was a check stays in use until it has failed often enough.
    let mut results = Results::of((!live.health.is(LeftOut::HealthCheck)).then_some(true));
    loop {
        // Without an SVID nobody can be asked, which is not the endpoint's fault.
        let can_ask = live.endpoint.transport == Transport::Plaintext || worker.epoch().is_some();
        // The newest: identities may have changed.
        if let Some(reach) = worker.view().reach(&port).cloned().filter(|_| can_ask) {
            let asked = match timeout(check.timeout, ask(&worker, &reach, &live, &check)).await {
                Ok(asked) => asked,
                Err(_) => Err(format!("no answer within {:?}", check.timeout)),
            };
            worker.telemetry.metrics.count(OwnMetric::HEALTH_CHECKS, if asked.is_ok() { "well" } else { "failed" }, 1);
            match results.add(asked.is_ok(), &check) {
                Some(true) if live.health.is(LeftOut::HealthCheck) => {
                    tracing::info!(service_port = %port, endpoint = %live.endpoint.address, "an endpoint is in use: its health checks go well");
                }
                Some(false) => {
                    let why = asked.as_ref().err().map_or("", String::as_str);
                    tracing::info!(service_port = %port, endpoint = %live.endpoint.address, why, "an endpoint is left out: its health checks fail");
                }
                _ => {}
            }
            live.checked(results.is_well());
            if asked.is_ok() && results.is_well() {
                live.checked_well();
            }
        }
        sleep(pause(check.interval, fastrand::f64())).await;
    }
}

/// How long to wait for the next check: up to a tenth more than the interval, so that proxies do not ask together. `random` is uniform in 0..1.
fn pause(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 + random / 10.0)
}

/// Asks an endpoint whether it is well; an error says why it is not.
async fn ask(worker: &Rc<Worker>, reach: &Reach, live: &Arc<LiveEndpoint>, check: &HealthCheck) -> Result<(), String> {
    let active = Active::aside(live.clone());
    // As an Envoy is told to ask.
    let named = reach.unit.port.service.to_string();
    match &check.ask {
        HealthQuestion::Tcp => tcp(worker, reach, &active, check.timeout).await,
        HealthQuestion::Http { path, host, expected } => {
            let head = http_head(path, host.as_deref().unwrap_or(&named)).map_err(|error| error.to_string())?;
            let protocol = match reach.unit.cluster.protocol {
                Protocol::Http2 | Protocol::Grpc => Negotiated::Http2,
                Protocol::Detect | Protocol::Http | Protocol::Tcp => Negotiated::Http1,
            };
            let answered = exchange(worker, reach, &active, protocol, &head, None).await?;
            is_expected(answered.head.status, expected)
        }
        HealthQuestion::Grpc { service } => {
            let head = grpc_head(&named).map_err(|error| error.to_string())?;
            let answered = exchange(worker, reach, &active, Negotiated::Http2, &head, Some(grpc_question(service))).await?;
            is_serving(&answered)
        }
    }
}

/// An answer, with as much of its body as a health service's has.
struct Answered {
    head: ResponseHead,
    body: BytesMut,
    grpc_status: Option<String>,
}

/// One request and its answer. A kept connection that broke says nothing of the endpoint: a new one is tried then.
async fn exchange(
    worker: &Rc<Worker>,
    reach: &Reach,
    active: &Active,
    protocol: Negotiated,
    head: &RequestHead,
    body: Option<Bytes>,
) -> Result<Answered, String> {
    let mut reuse = Reuse::Any;
    loop {
        let mut lease = pick::beside_limits(worker, reach, active, protocol, reuse).await.map_err(|error| error.to_string())?;
        match send(&mut lease, head, body.clone()).await {
            Ok(answered) => return Ok(answered),
            Err(_) if lease.was_idle() => {
                lease.was_closed();
                reuse = Reuse::No;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn send(lease: &mut Lease, head: &RequestHead, body: Option<Bytes>) -> Result<Answered, WireError> {
    let edits = Edits::default();
    let length = Some(body.as_ref().map_or(0, |body| body.len() as u64));
    let (mut sender, mut receiver) = lease.send(&Outgoing { head, edits: &edits, length, upgrade: None }).await?;
    if let Some(body) = body {
        sender.data(body).await?;
    }
    sender.end(None).await?;
    let (head, mut incoming) = loop {
        match receiver.answer().await? {
            Answer::Informational(_) => {}
            Answer::Final(head, body) => break (head, body),
            Answer::Upgraded(..) => return Err(WireError::Invalid("it upgraded what did not ask for it")),
        }
    };
    let mut answered = Answered { grpc_status: head.fields.get_str("grpc-status").map(str::to_owned), head, body: BytesMut::new() };
    while let Some(frame) = incoming.frame().await {
        match frame? {
            Frame::Data(data) if answered.body.len() + data.len() <= MAX_GRPC_ANSWER => answered.body.extend_from_slice(&data),
            // The rest is read for the connection's sake.
            Frame::Data(_) => {}
            Frame::Trailers(trailers) => answered.grpc_status = trailers.get_str("grpc-status").map(str::to_owned),
        }
    }
    Ok(answered)
}

fn http_head(path: &str, host: &str) -> Result<RequestHead, lorica_model::head::HeadError> {
    let mut head = HeadBuilder::with_capacity(256);
    head.field(b"host", host.as_bytes())?;
    head.field(b"user-agent", b"lorica-health-check")?;
    head.request(Version::Http11, "GET", path, host, None)
}

fn is_expected(status: u16, expected: &[RangeInclusive<u16>]) -> Result<(), String> {
    match expected.iter().any(|range| range.contains(&status)) {
        true => Ok(()),
        false => Err(format!("it answered {status}")),
    }
}

fn grpc_head(host: &str) -> Result<RequestHead, lorica_model::head::HeadError> {
    let mut head = HeadBuilder::with_capacity(256);
    head.field(b"content-type", b"application/grpc")?;
    head.field(b"te", b"trailers")?;
    head.field(b"user-agent", b"lorica-health-check")?;
    head.request(Version::Http2, "POST", "/grpc.health.v1.Health/Check", host, None)
}

/// `HealthCheckRequest { service }` as one message of gRPC: not compressed, its length, field 1 as a string.
fn grpc_question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
    out.put_u8(value as u8);
}

/// Whether a `HealthCheckResponse` says SERVING: field 1, a number, is 1.
fn is_serving(answered: &Answered) -> Result<(), String> {
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 1 << 3, 1];
    if answered.head.status != 200 {
        return Err(format!("it answered {}", answered.head.status));
    }
    match answered.grpc_status.as_deref() {
        Some("0") if &answered.body[..] == SERVING => Ok(()),
        Some("0") => Err("it is not SERVING".to_owned()),
        Some(status) => Err(format!("its health service answered with gRPC status {status}")),
        None => Err("its health service answered without a gRPC status".to_owned()),
    }
}

/// Whether the endpoint takes a connection, TLS included. A proxy beside it takes one before it asks the app for another, and closes its own
/// where the app has none: silence for half of the time that there is means that the app took it.
async fn tcp(worker: &Rc<Worker>, reach: &Reach, active: &Active, within: Duration) -> Result<(), String> {
    let endpoint = &active.live.endpoint;
    let spoken = reach.unit.cluster.protocol;
    let opened = if endpoint.transport == Transport::Lorica && !spoken.is_http() {
        pick::stream(worker, reach, active, StreamKind::Tcp).await.map(|(stream, _)| stream)
    } else {
        // A proxy of a port with HTTP takes no bytes without a protocol.
        let protocol = spoken.is_http().then_some(Negotiated::Http2);
        let epoch = worker.epoch().filter(|_| endpoint.transport != Transport::Plaintext);
        let tls = epoch.as_deref().map(|epoch| (epoch, worker.client_config(epoch, reach, protocol)));
        connect::connect(worker, reach, endpoint, tls, protocol).await.map(|connected| connected.stream)
    };
    let mut stream = opened.map_err(|error| error.to_string())?;
    match timeout(within / 2, stream.read(&mut [0])).await {
        Ok(Ok(0)) => Err("it closed the connection at once".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_of_grpc_are_written_by_hand() {
        assert_eq!(&grpc_question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_question("ab")[..], [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        let long = grpc_question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 10, 0xac, 0x02]);
    }

    #[test]
    fn pauses_differ_a_little() {
        assert_eq!(pause(Duration::from_secs(10), 0.0), Duration::from_secs(10));
        assert_eq!(pause(Duration::from_secs(10), 1.0), Duration::from_secs(11));
    }

    #[test]
    fn expected_statuses_are_well() {
        assert!(is_expected(200, &[200..=200]).is_ok() && is_expected(204, &[200..=200, 204..=299]).is_ok());
        assert_eq!(is_expected(503, &[200..=299]), Err("it answered 503".to_owned()));
    }
}
