//! The story of a request: what each proxy that it passed tells of it (a [`Hop`]), and all of that joined, from the first to the last (a [`Story`]). Proxies
//! write it, the control plane joins it and leads it back to what users wrote, the command line prints it. Data, and nothing else.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Which side of a call a proxy stands on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The caller's.
    #[default]
    Source,
    /// The callee's.
    Destination,
    /// At the edge of the mesh.
    Gateway,
}

/// One side of a call, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Who {
    /// `recording-7f3a2c`.
    pub workload: String,
    /// `contact`.
    pub namespace: String,
    /// `recording`.
    pub service: String,
    /// Its SPIFFE ID.
    pub principal: String,
}

/// Where what decided stands: a resource, and a place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// `HTTPRoute`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that decided.
    pub generation: u64,
    /// Which rule of it, from 0; none: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// Which match of the rule, from 0.
    pub matched: u32,
    /// The place inside of it: `spec.rules[0].matches[1]`. Told by the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file and line from which it was applied, where the control plane remembers: `mesh/routes.yaml:12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The generation that is in force by now, where that is another. 0: it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<u64>,
}

/// What a policy said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decision {
    /// The policy.
    pub by: Place,
    /// The name of its rule, where a rule decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What it said: `allows`, `denies`, `does not apply`, `delayed it`.
    pub said: String,
}

/// A rule that could have taken the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// The rule.
    pub by: Place,
    /// Why it did not take it; none: it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// An endpoint as it stood when one was picked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The workload behind it.
    pub workload: String,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Its weight.
    pub weight: u32,
    /// How many calls were under way to it from this proxy's worker.
    pub active: u32,
    /// The latency that calls to it were expected to have, in microseconds.
    pub expected_us: u64,
    /// What the service's way of balancing compares endpoints by, the lower the better; none where it compares nothing. By default the expected
    /// latency in milliseconds, times the calls that would be under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why it was left out; empty: it could be picked.
    pub left_out: Vec<String>,
    /// Whether it was picked.
    pub picked: bool,
}

/// One attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// The address that was asked; none: nobody was.
    pub address: Option<SocketAddr>,
    /// The workload behind it.
    pub workload: String,
    /// Whether who was asked has a Lorica proxy, which tells of it as well.
    pub tells: bool,
    /// When it began, in microseconds after the request.
    pub at_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// The status of its answer; 0: there was none.
    pub status: u16,
    /// Why it failed, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What exactly happened then.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The identity that who was asked proved. Of requests that are recorded in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether a kept connection took it. Of requests that are recorded in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_connection: Option<bool>,
    /// The endpoints as they stood. Of requests that are recorded in full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Seen>,
    /// How many more there were than are told.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_endpoints: usize,
}

/// A step of a request's way, and how long it took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Its name, as in the proxy's own table of steps.
    pub name: String,
    /// Microseconds.
    pub took_us: u64,
}

/// What one proxy tells of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hop {
    /// The workload beside which the proxy stands, with its namespace.
    pub proxy: String,
    /// On which side of the call.
    pub side: Side,
    /// Whether it was recorded in full.
    pub full: bool,
    /// `x-request-id`.
    pub request_id: String,
    /// The trace, 32 digits; empty: none.
    pub trace_id: String,
    /// The proxy's span, 16 digits; empty: none.
    pub span_id: String,
    /// The span before it; empty: none.
    pub parent_span_id: String,
    /// When it came, in microseconds since 1970.
    pub start_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// The method.
    pub method: String,
    /// Path and query, cut at a bound.
    pub path: String,
    /// Host and port as named.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authority: String,
    /// Who called.
    pub caller: Who,
    /// Who answered.
    pub callee: Who,
    /// The service that was called: `recording.contact.mesh`.
    pub called: String,
    /// How the caller's connection was secured: `mutual_tls`, `none`, `unknown`.
    pub security: String,
    /// The identity of this proxy. Of requests that are recorded in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_identity: Option<String>,
    /// The SNI that the caller sent. Of requests that are recorded in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Place>,
    /// The rules that were asked, in their order. Of requests that are recorded in full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// How many more there were than are told.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_candidates: usize,
    /// What policies said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Decision>,
    /// The attempts, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The status; 0: there was no answer.
    pub status: u16,
    /// The status of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// Why the mesh itself answered, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What exactly happened then.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How much time its caller had left for it when it came, in microseconds; none: as much as it liked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_us: Option<u64>,
    /// Where the time went.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// A hop in its place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// How many hops led to it.
    pub depth: usize,
    /// The hop.
    #[serde(flatten)]
    pub hop: Hop,
}

/// What all proxies tell of a request, in the order in which it passed them: `GET /v1/explain/requests/ID`, `GET /v1/explain/runs/ID?wait=2s`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    /// The hops.
    pub hops: Vec<Told>,
    /// Endpoints that took an attempt, and whose proxies have told nothing of it.
    pub missing: Vec<String>,
    /// Proxies that did not answer in time.
    pub unanswered: Vec<String>,
}

/// A request that a tap shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tapped {
    /// What became of it.
    #[serde(flatten)]
    pub hop: Hop,
    /// The fields of the request, cut at a bound; those that hold secrets are left out.
    pub request_fields: Vec<(String, String)>,
    /// The fields of the answer, alike.
    pub response_fields: Vec<(String, String)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
