//! Who calls whom, and what is called most, as the API shows it.

use serde::{Deserialize, Serialize};

/// What flowed in a window of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Requests, or connections of TCP.
    pub calls: u64,
    /// Those that failed: without a status or with one of 500 and above, with a gRPC status that is the callee's fault, or
    /// connections that the mesh ended.
    pub failures: u64,
    /// Calls a second.
    pub per_second: f64,
    /// The median duration in milliseconds; none for TCP.
    pub p50_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// Bytes a second from callers.
    pub received_per_second: f64,
    /// Bytes a second to callers.
    pub sent_per_second: f64,
    /// The share of calls that came by mutual TLS, 0 to 1; none where no callee's proxy tells.
    pub mutual_tls: Option<f64>,
}

/// Who calls whom: `GET /v1/graph?window=1m&namespace=contact`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Graph {
    /// Over how many seconds, until now.
    pub window_seconds: f64,
    /// The edges, by caller, callee and protocol.
    pub edges: Vec<GraphEdge>,
}

/// Calls of one service to another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GraphEdge {
    /// The caller: `routing.contact`; `unknown` where it did not prove who it is.
    pub source: String,
    /// The service that was called; a host outside the mesh as it was named.
    pub destination: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// What flowed.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// What calls are grouped by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopBy {
    /// The service that was called.
    #[default]
    Service,
    /// The route that took them.
    Route,
}

/// What is called most: `GET /v1/top?by=service&window=1m&namespace=contact`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Top {
    /// Over how many seconds, until now.
    pub window_seconds: f64,
    /// What calls are grouped by.
    pub by: TopBy,
    /// The groups, those with most calls first.
    pub rows: Vec<TopRow>,
}

/// A group of calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopRow {
    /// The service, or the route.
    pub name: String,
    /// What flowed.
    #[serde(flatten)]
    pub traffic: Traffic,
}
