//! What a proxy is told at its start, checked: which workload it stands beside, where its control plane is, where its
//! telemetry goes. Written by `lorica run`, read once; nothing behind it reads the environment.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lorica_model::name::{Label, Namespace, ServiceName, ServicePort, WorkloadName};
use lorica_model::snapshot::{Locality, Protocol};
use lorica_observe::Keep;
use lorica_observe::export::OtlpProtocol;
use lorica_observe::metrics::Budget;
use serde::{Deserialize, Serialize};

/// All that one sidecar needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// The control plane's Unix socket.
    pub control_socket: PathBuf,
    /// The workload's name; it stays the same when the proxy is replaced.
    pub workload: WorkloadName,
    /// The namespace in which short names are looked up.
    pub namespace: Namespace,
    /// The service that the workload is an instance of; none for a mere client.
    pub service: Option<ServiceName>,
    /// The account whose identity it asks for.
    pub account: Label,
    /// Its version label: `v2`.
    pub version: Option<String>,
    /// Where it runs.
    pub locality: Locality,
    /// The app's ports.
    pub ports: Vec<DeclaredPort>,
    /// Service ports that the app calls through local listeners, without capture.
    pub upstreams: Vec<ServicePort>,
    /// The address at which other proxies reach the inbound listeners, unless it is to be found out.
    pub advertise: IpAddr,
    /// Where telemetry goes.
    pub telemetry: TelemetryConfig,
    /// How long the control plane may take to answer at start before the proxy gives up.
    pub start_deadline: Duration,
    /// How long exchanges may go on once the proxy drains.
    pub drain_deadline: Duration,
    /// The token by which the app's first request is recorded in full; none: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
}

/// Whom a proxy stands for, as its records tell it.
#[derive(Debug, Clone)]
pub struct Own {
    /// The workload's name.
    pub workload: WorkloadName,
    /// The namespace in which short names are looked up.
    pub namespace: Namespace,
    /// The service that the workload is an instance of; none for a mere client.
    pub service: Option<ServiceName>,
    /// The account whose identity it has.
    pub account: Label,
    /// Its version label: `v2`.
    pub version: Option<String>,
    /// Where it runs.
    pub locality: Locality,
}

impl Own {
    /// Its service as telemetry names it; a mere client's is its account.
    #[must_use]
    pub fn service_label(&self) -> String {
        self.service.as_ref().map_or_else(|| self.account.to_string(), |service| service.name.to_string())
    }
}

impl ProxyConfig {
    /// Whom the sidecar stands for.
    #[must_use]
    pub fn own(&self) -> Own {
        let Self { workload, namespace, service, account, version, locality, .. } = self.clone();
        Own { workload, namespace, service, account, version, locality }
    }
}

/// A port of the app, as declared on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredPort {
    /// The port that callers use.
    pub service_port: u16,
    /// The port that the app listens on.
    pub app_port: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// Where a proxy's telemetry goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TelemetryConfig {
    /// The access log: `stdout`, `stderr`, `off`, or a file's path.
    pub access_log: String,
    /// Collectors that get spans by OTLP, as URLs. The control plane, where there is one, gets them besides.
    pub otlp: Vec<String>,
    /// What OTLP is spoken over; none: as each URL says.
    pub otlp_protocol: Option<OtlpProtocol>,
    /// Zipkins that get spans, as URLs.
    pub zipkin: Vec<String>,
    /// Which exchanges give a span.
    pub keep: Keep,
    /// How many series of metrics there may be, and how long they stay without use.
    pub metrics: Budget,
}

/// How long a proxy waits for its control plane at start.
pub const DEFAULT_START_DEADLINE: Duration = Duration::from_secs(15);
/// How long exchanges may go on once a proxy drains. Long enough for ordinary requests, shorter than the 30 s after which
/// Kubernetes and systemd-like supervisors kill.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// How long a caller's head may take: slow heads hold connections, and a mesh's callers are near.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake with a caller may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an app's first call waits for the configuration of the service port that it calls.
pub const CONFIGURATION_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a request's body that are kept so that another attempt can send them again.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// The most attempts of one request, the first included. Only what certainly was not processed, or may be repeated, is tried again.
pub const MAX_ATTEMPTS: u32 = 3;
/// The most connections that one worker serves at once; more are refused, as each holds buffers and a descriptor.
pub const MAX_CONNECTIONS: usize = 50_000;
/// The most idle connections that a worker keeps per endpoint and protocol.
pub const MAX_IDLE_PER_ENDPOINT: usize = 256;
/// The most connections and requests under way to one endpoint from one worker; more are answered with 503 `overflow`.
pub const MAX_ACTIVE_PER_ENDPOINT: u32 = 10_000;
