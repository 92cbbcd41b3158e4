//! The REST API's JSON, and its client: what the command line and the demo know of a control plane. No handlers, no storage.

mod ca;
mod client;
pub mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod graph;
mod hosts;
mod telemetry;
mod views;

pub use ca::{
    CaStatus, ForgetRootKey, HeldUp, Pem, RevocationStatus, RevokeReply, RevokeRequest, RootKey, RootStatus, RotateRequest, SvidList,
    SvidStatus, WaiveRequest,
};
pub use client::{ApiClient, ApiError, Server};
pub use graph::{Graph, GraphEdge, Top, TopBy, TopRow, Traffic};
pub use hosts::{ListedToken, ThisHost, TokenList, TokenReply, TokenRequest, TokenRevoked, TokenState};
pub use telemetry::{EventView, LogList, LogView, SpanView, TraceList, TraceSummary, TraceView};
pub use views::{
    AcknowledgedAt, ApplyReply, ApplyRequest, AuthorityStatus, Change, ChangeAction, DeleteRequest, EffectivePort, EffectiveRule,
    EffectiveSetting, EffectiveTraffic, ErrorBody, ErrorReply, MtlsStatus, NamedText, ObservedCall, PlaintextCaller, PortStatus,
    ProxyStatus, Receipt, Refusal, RefusedBy, RefusedCall, RefusedCalls, RejectedAt, RenderedDiagnostic, ResourceList, RouteEntry,
    RouteList, Status, Target, Trial, TrialExample,
};
