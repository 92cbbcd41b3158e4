//! How many spans a second one core takes: a control plane on a core of its own, told by OTLP over gRPC from the others, until all is on disk.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use crate::machine::{self, Process};

/// Spans of a message: as many as a proxy sends at once.
const BATCH: u64 = 512;
/// How many proxies send.
const SENDERS: usize = 4;

/// Sends for `window`, and prints what became of it.
pub(crate) fn run(lorica: &Path, window: Duration) -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let [otlp, page] = [machine::local(machine::free_port()?), machine::local(machine::free_port()?)];
    let paths = [place.path().join("state"), place.path().join("control.sock")].map(|path| path.display().to_string());
    let words = [
        ["control".to_owned(), "--otlp".to_owned()].as_slice(),
        &[
            otlp.to_string(),
            "--telemetry".to_owned(),
            page.to_string(),
            "--state".to_owned(),
            paths[0].clone(),
            "--socket".to_owned(),
            paths[1].clone(),
        ],
    ]
    .concat();
    let mut control = Process::start(place.path(), machine::PROXY_CORE, lorica, &words)?;
    control.wait_for(otlp)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = Instant::now();
    let sent = runtime.block_on(send(otlp, begun + window))?;
    // What is answered is queued; counted is what is on disk.
    let (stored, dropped) = loop {
        let text = get(page)?;
        let stored = sample(&text, "lorica_telemetry_stored_total{kind=\"spans\"}")?;
        let dropped: u64 = ["overflow", "unwritten", "refused"]
            .iter()
            .map(|reason| sample(&text, &format!("lorica_telemetry_dropped_total{{kind=\"spans\",reason=\"{reason}\"}}")))
            .sum::<anyhow::Result<u64>>()?;
        if stored + dropped >= sent {
            break (stored, dropped);
        }
        ensure!(begun.elapsed() < window * 20, "{stored} of {sent} spans are on disk, and no more come");
        std::thread::sleep(Duration::from_millis(20));
    };
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = sample(&get(page)?, "lorica_telemetry_bytes{kind=\"spans\"}")?;
    let cpu = control.cpu()?.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let rate = |seconds: f64| stored as f64 / seconds;
    println!("spans sent          {sent} by {SENDERS} senders, {BATCH} a message");
    println!("on disk             {stored} ({dropped} dropped), {bytes} bytes kept");
    println!("spans a second      {:.0} on one core, for {seconds:.1} s", rate(seconds));
    println!("spans a CPU second  {:.0} ({:.1} µs each)", rate(cpu), 1e6 / rate(cpu));
    println!("memory              {:.0} MiB", control.resident()?);
    control.end()
}

async fn send(otlp: SocketAddr, until: Instant) -> anyhow::Result<u64> {
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| async move {
            let mut client = TraceServiceClient::connect(format!("http://{otlp}")).await?;
            let (mut sent, mut next) = (0, u64::try_from(number)? << 40);
            while Instant::now() < until {
                let answer = client.export(message(number, next)).await?.into_inner();
                // What found no room was counted by whoever dropped it, and is so here.
                drop(answer);
                sent += BATCH;
                next += BATCH;
            }
            anyhow::Ok(sent)
        })
        .collect();
    let mut sum = 0;
    for sent in futures_util::future::join_all(senders).await {
        sum += sent?;
    }
    Ok(sum)
}

/// Spans as a proxy makes them.
fn message(sender: usize, first: u64) -> ExportTraceServiceRequest {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(0);
    let text = |key: &str, value: String| attribute(key, Value::StringValue(value));
    let number = |key: &str, value: u64| attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(0)));
    let one = |id: u64| Span {
        // Four spans a trace.
        trace_id: u128::from(id / 4 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes().to_vec(),
        span_id: (id + 1).to_be_bytes().to_vec(),
        parent_span_id: if id.is_multiple_of(4) { Vec::new() } else { id.to_be_bytes().to_vec() },
        name: "GET HTTPRoute/recording.contact rule 0".to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: now,
        end_time_unix_nano: now + 1_000_000 + id % 1000,
        attributes: vec![
            text("http.request.method", "GET".to_owned()),
            text("url.path", format!("/recordings/{}", id % 100)),
            text("server.address", "recording.contact.mesh".to_owned()),
            text("network.protocol.name", "http".to_owned()),
            text("network.protocol.version", "1.1".to_owned()),
            number("http.request.body.size", 0),
            number("http.response.body.size", 3000),
            text("lorica.source", "routing-7f3a2c".to_owned()),
            text("lorica.destination", format!("recording-{sender}")),
            number("lorica.attempts", 1),
            number("http.response.status_code", 200),
            number("server.port", 80),
            text("network.peer.address", "10.0.0.7".to_owned()),
            number("network.peer.port", 40_000 + id % 1000),
            text("user_agent.original", "curl/8.5.0".to_owned()),
            text("lorica.route", "HTTPRoute/recording.contact rule 0".to_owned()),
        ],
        ..Span::default()
    };
    let resource = Resource {
        attributes: vec![
            text("service.name", "recording".to_owned()),
            text("service.namespace", "contact".to_owned()),
            text("service.instance.id", format!("recording-{sender}.contact")),
        ],
        ..Resource::default()
    };
    let scope_spans = vec![ScopeSpans { spans: (first..first + BATCH).map(one).collect(), ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }] }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn get(page: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(page)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: control\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn sample(page: &str, name: &str) -> anyhow::Result<u64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("the page has no {name}"))?;
    Ok(value.trim().parse()?)
}
