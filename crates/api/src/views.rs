//! What goes over the API: plain JSON, the same for reading and writing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lorica_model::name::{Label, Namespace, ObjectName, ServiceName, ServicePort, WorkloadName};
use lorica_model::resource::{Diagnostic, Kind};
use lorica_model::snapshot::Protocol;
use serde::{Deserialize, Serialize};

/// A file's name and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedText {
    /// As the user named it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What is to be applied: `POST /v1/apply?wait=30s`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The files of the change set.
    pub files: Vec<NamedText>,
    /// Check only.
    #[serde(default)]
    pub dry_run: bool,
    /// Take references to what does not exist yet.
    #[serde(default)]
    pub allow_missing: bool,
    /// Take mutual TLS for granted where callers still send plaintext.
    #[serde(default)]
    pub force: bool,
}

/// What is to be deleted: `POST /v1/delete?wait=30s`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// The resources.
    pub targets: Vec<Target>,
    /// Files that hold resources to delete.
    #[serde(default)]
    pub files: Vec<NamedText>,
    /// Take mutual TLS for granted where callers still send plaintext.
    #[serde(default)]
    pub force: bool,
}

/// A resource by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: ObjectName,
}

/// What became of a change set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyReply {
    /// Its revision; 0 for a dry run, and where nothing changed.
    pub revision: u64,
    /// What it did.
    pub changes: Vec<Change>,
    /// What is worth knowing.
    #[serde(default)]
    pub warnings: Vec<RenderedDiagnostic>,
    /// Who acknowledged it.
    pub receipt: Option<Receipt>,
}

/// What a change set did to one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The resource.
    #[serde(flatten)]
    pub target: Target,
    /// What was done.
    pub action: ChangeAction,
}

/// What is done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// It was not there.
    Created,
    /// It was another.
    Changed,
    /// It was the same.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// Who acknowledged a change set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The publication that it speaks of.
    pub revision: u64,
    /// How many proxies use what it changed.
    pub concerned: usize,
    /// How many of them have it in force (Envoy: have accepted it).
    pub acknowledged: usize,
    /// Those that have not said yet.
    pub pending: Vec<String>,
    /// Those that refused it.
    pub rejected: Vec<RefusedBy>,
    /// Those that went away before they said.
    pub gone: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl Receipt {
    /// Whether nobody is left to say something.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }
}

/// A proxy that refused a change, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBy {
    /// The proxy.
    pub proxy: String,
    /// What it refused.
    pub resource: String,
    /// Why.
    pub message: String,
}

/// Why a change set was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// Every mistake in it.
    pub diagnostics: Vec<RenderedDiagnostic>,
}

/// A mistake, and its picture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenderedDiagnostic {
    /// The mistake.
    #[serde(flatten)]
    pub diagnostic: Diagnostic,
    /// As a compiler would show it.
    pub rendered: String,
}

/// The control plane and its proxies: `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The control plane's version.
    pub version: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// Whose identities it issues.
    pub trust_domain: String,
    /// The revision of the newest change set.
    pub revision: u64,
    /// Where its state is.
    pub state_directory: String,
    /// The socket that it serves.
    pub socket: String,
    /// Its certificates.
    pub authority: AuthorityStatus,
    /// How many services there are.
    pub services: usize,
    /// How many resources there are.
    pub resources: usize,
    /// The proxies, by name.
    pub proxies: Vec<ProxyStatus>,
    /// Service ports that have no endpoint.
    #[serde(default)]
    pub without_endpoints: Vec<ServicePort>,
    /// Services whose endpoints were kept although all their proxies were lost at once.
    #[serde(default)]
    pub held_back: Vec<String>,
    /// Where telemetry is served over TCP, if it is.
    #[serde(default)]
    pub telemetry: Option<SocketAddr>,
}

/// Until when the CA's certificates hold, RFC 3339.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// The root.
    pub root_not_after: String,
    /// The intermediate, which signs.
    pub intermediate_not_after: String,
}

/// A proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Its workload.
    pub id: WorkloadName,
    /// The service that the workload is an instance of.
    pub service: Option<ServiceName>,
    /// The account.
    pub account: Label,
    /// The version label.
    pub version_label: Option<String>,
    /// Where it runs, `REGION/ZONE`; none where it did not say.
    #[serde(default)]
    pub locality: Option<String>,
    /// `lorica 0.1.0`, `envoy`.
    pub software: String,
    /// Whether its stream is up.
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: String,
    /// By how many milliseconds its clock is ahead of the control plane's, as it connected; none where it did not say.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// The app ports on which the app listens.
    pub listening: Vec<u16>,
    /// Whether it is about to end.
    pub draining: bool,
    /// Where its metrics are scraped.
    pub metrics: Option<SocketAddr>,
    /// Its own virtual address.
    pub virtual_address: Ipv4Addr,
    /// Until when its certificate holds.
    pub certificate_not_after: Option<String>,
    /// What it acknowledged last.
    pub last_ack: Option<AcknowledgedAt>,
    /// What it refused last.
    pub last_nack: Option<RejectedAt>,
}

/// A port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The port that callers use.
    pub service_port: u16,
    /// The port that the app listens on.
    pub app_port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where its proxy takes calls for it.
    pub address: SocketAddr,
}

/// The last acknowledgement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcknowledgedAt {
    /// Up to which publication.
    pub revision: u64,
    /// When, RFC 3339.
    pub at: String,
}

/// The last refusal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RejectedAt {
    /// What.
    pub resource: String,
    /// Why.
    pub message: String,
    /// When, RFC 3339.
    pub at: String,
}

/// Resources: `GET /v1/resources/KIND`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResourceList {
    /// As stored, each with its status.
    pub items: Vec<serde_json::Value>,
}

/// What was refused to leave the mesh: `GET /v1/egress/refused`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedCalls {
    /// Each caller with what it called, the latest first.
    pub calls: Vec<RefusedCall>,
    /// The EgressPolicies that refuse them, with these calls added: applied, they would let them out.
    pub allow: Vec<serde_json::Value>,
}

/// A call that was refused to leave the mesh, and is still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedCall {
    /// The caller's namespace.
    pub namespace: Namespace,
    /// The account whose identity the caller has.
    pub account: Label,
    /// The proxy that refused it last.
    pub proxy: String,
    /// What was called: a name, or an address where none is known.
    pub host: String,
    /// Its address, where the caller named one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// How often, since this control plane started.
    pub times: u64,
    /// When for the first time, RFC 3339.
    pub first: String,
    /// When for the last time, RFC 3339.
    pub last: String,
    /// The EgressPolicy that refuses it: `out.shop`.
    pub policy: String,
}

/// Every other answer that is no success.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The error.
    pub error: ErrorBody,
}

/// An error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What holds for calls to a service, whoever said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveTraffic {
    /// The service: `recording.contact`.
    pub service: String,
    /// Its ports.
    pub ports: Vec<EffectivePort>,
}

/// What holds for calls to a port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectivePort {
    /// The port.
    pub port: u16,
    /// What holds for all calls.
    pub settings: Vec<EffectiveSetting>,
    /// What holds otherwise for requests by some rules of routes.
    pub rules: Vec<EffectiveRule>,
}

/// What holds otherwise for requests by one rule of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveRule {
    /// The route: `HTTPRoute split.contact`.
    pub route: String,
    /// Which of its rules: its name, or `#0` for the first of those without.
    pub rule: String,
    /// What holds.
    pub settings: Vec<EffectiveSetting>,
}

/// One setting of a TrafficPolicy, as it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveSetting {
    /// Its path in a policy's `spec`: `timeouts.request`.
    pub setting: String,
    /// Its value, as one would write it.
    pub value: String,
    /// Who says so: `TrafficPolicy slow.contact`, `HTTPRoute split.contact`, or `default`.
    pub from: String,
}

/// Where calls go, in the order in which it is tried: `GET /v1/routes/services/NAMESPACE/NAME?from=NAMESPACE`, `GET /v1/routes/gateways/NAMESPACE/NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteList {
    /// One entry a rule.
    pub routes: Vec<RouteEntry>,
}

/// What one rule takes, and where that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// The port of the service or the gateway.
    pub port: u16,
    /// The hosts that are meant, at a gateway: `*.example.com`.
    pub host: Option<String>,
    /// What is taken: `GET /list/* with x-user=ann`; `bytes` where nothing is looked into.
    pub takes: String,
    /// Where it goes: `recording-v1.contact.mesh:80 90 %, recording-v2.contact.mesh:80 10 %`.
    pub to: String,
    /// What holds on the way besides: `timeout 2 s`, `FaultPolicy/slow.contact`.
    pub with: Vec<String>,
    /// Who says so: `HTTPRoute/split.contact rule 0`.
    pub by: String,
}

/// A call that came to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedCall {
    /// The identity that the caller proved.
    pub caller: Option<String>,
    /// The address that a caller without an identity came from.
    pub address: Option<IpAddr>,
    /// What was called.
    pub port: ServicePort,
    /// The method; none of a connection whose bytes are not looked at.
    pub method: Option<String>,
    /// The path, its variable segments as `{id}`.
    pub path: Option<String>,
    /// Whether it was denied.
    pub denied: bool,
    /// How often it came.
    pub times: u64,
    /// When first.
    pub first: String,
    /// When last.
    pub last: String,
}

/// What a policy that is tried would have done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The policy's kind.
    pub kind: String,
    /// How many calls it was held against.
    pub calls: u64,
    /// To how many of them it would have done what: `denied`, `limited`, `timed out`, …
    pub would: BTreeMap<String, u64>,
    /// Since when is counted; none: no call came yet.
    pub since: Option<String>,
    /// Calls to which it would have done something, the latest first.
    pub examples: Vec<TrialExample>,
}

/// A call to which a policy would have done something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialExample {
    /// Who called: an identity, or an address.
    pub caller: String,
    /// What was called: a service port, a gateway's port, or a host outside the mesh.
    pub called: String,
    /// The method.
    pub method: Option<String>,
    /// The path.
    pub path: Option<String>,
    /// What would have been done.
    pub would: Vec<String>,
    /// Why; may be empty.
    pub why: String,
    /// When last.
    pub at: String,
}

/// How the callers of a service prove who they are, and who does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MtlsStatus {
    /// The service.
    pub service: ServiceName,
    /// `Strict` or `Permissive`.
    pub mode: String,
    /// Who sent plaintext lately, the latest first.
    pub plaintext: Vec<PlaintextCaller>,
}

/// A caller that sends plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaintextCaller {
    /// Where it is.
    pub address: IpAddr,
    /// The port that it called.
    pub port: u16,
    /// How often.
    pub times: u64,
    /// When first.
    pub first: String,
    /// When last.
    pub last: String,
}
