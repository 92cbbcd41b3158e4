//! Opening a proxy's telemetry: what it was told goes in, open log and running senders come out.

use std::sync::Arc;

use anyhow::Context as _;
use lorica_identity::edge;
use lorica_model::snapshot::BackendTls;
use lorica_observe::Telemetry;
use lorica_observe::access_log::Target;
use lorica_observe::export::connect::{Connecting, Connection, Secure};
use lorica_observe::export::{Destination, LogSink, Sender, SpanSink};
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::config::{Own, TelemetryConfig};

/// Opens the access log and starts the senders of spans and log records on this local set. They go to the control plane, where there is one, and to
/// those whom the user named.
///
/// # Errors
/// Where one of them cannot be used, with what to write in its place.
pub fn open(config: &TelemetryConfig, own: &Own, control: Option<Channel>) -> anyhow::Result<Telemetry> {
    let target = Target::from(config.access_log.as_str());
    let sender = sender(own);
    let destinations = destinations(config, control)?;
    let (spans, sending) = SpanSink::start(&destinations, &sender);
    let (logs, also) = LogSink::start(&destinations, &sender);
    sending.into_iter().chain(also).for_each(|sending| drop(spawn_local(sending)));
    let opened = Telemetry::open(&target, spans, logs, config.keep);
    let telemetry = opened.with_context(|| format!("the access log {} cannot be written", config.access_log))?;
    Ok(telemetry.with_budget(config.metrics))
}

/// Where telemetry goes that is not asked for.
fn destinations(config: &TelemetryConfig, control: Option<Channel>) -> anyhow::Result<Vec<Destination>> {
    let mut destinations: Vec<Destination> = control.map(Destination::control_plane).into_iter().collect();
    for url in &config.otlp {
        destinations.push(Destination::otlp(url, config.otlp_protocol, &secured)?);
    }
    for url in &config.zipkin {
        destinations.push(Destination::zipkin(url, &secured)?);
    }
    Ok(destinations)
}

/// TLS with a host whose certificate leads to one of the system's roots.
fn secured(host: &str, alpn: &'static [u8]) -> Result<Secure, String> {
    let tls = BackendTls { server_name: host.to_owned(), names: Vec::new(), roots: None, certificate: None };
    let (config, name) = edge::client_config(&tls, &[alpn]).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(config);
    Ok(Secure(Arc::new(move |plain| -> Connecting {
        let connecting = connector.connect(name.clone(), plain);
        Box::pin(async move { connecting.await.map(|stream| Box::new(stream) as Box<dyn Connection>) })
    })))
}

/// Who tells, as OTLP says it.
#[must_use]
pub fn sender(own: &Own) -> Sender {
    Sender {
        service: own.service_label(),
        namespace: own.namespace.to_string(),
        version: own.version.clone(),
        instance: own.workload.to_string(),
    }
}
