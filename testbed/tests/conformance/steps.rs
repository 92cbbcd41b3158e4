//! What the data leaves out: names that the code gives a second value, the changes that it makes between its checks, and requests that are no
//! table. Each by the test and the number of the check before which it happens.

use serde_json::{Value, json};

/// Something that happens between two checks.
pub(crate) enum Step {
    /// From here on a name stands for something else.
    Bind(&'static str, Value),
    /// Requests go to this gateway of the infrastructure's namespace, at this port.
    At(&'static str, u16),
    /// A resource comes.
    Apply(Value),
    /// A ConfigMap with the root of the backends comes.
    ApplyRoot(&'static str),
    /// A resource goes: kind, name, namespace.
    Delete(&'static str, &'static str, &'static str),
    /// A resource of the infrastructure's namespace is changed: kind, name, how.
    Change(&'static str, &'static str, fn(&mut Value)),
    /// Cases of retries.
    Retries,
    /// Requests that the data has no table of.
    Requests(Vec<Value>),
    /// A text comes back through a WebSocket: path and text.
    WebSocket(&'static str, &'static str),
    /// A connection without TLS ends without an answer.
    Refused,
}

/// What happens before the check of this number, from 0.
pub(crate) fn before(_test: &str, _at: usize) -> Vec<Step> {
    Vec::new()
}

/// What happens after the last check.
pub(crate) fn after(test: &str) -> Vec<Step> {
    match test {
        "HTTPRouteRetry" | "HTTPRouteRetryConnectionError" | "HTTPRouteRetryWithTimeouts" => vec![Step::Retries],
        "HTTPRouteServiceTypes" => {
            let of = |path: &str| json!({ "Request": { "Path": path }, "Backend": "infra-backend-v1" });
            vec![Step::Requests(["/manual-endpointslices", "/headless", "/headless-manual-endpointslices"].map(of).into())]
        }
        "HTTPRouteBackendProtocolWebSocket" => vec![Step::WebSocket("/ws", "Websocket Support!")],
        _ => Vec::new(),
    }
}

/// What steps bring and tests do not take away themselves.
pub(crate) fn brought(_test: &str) -> Vec<Value> {
    Vec::new()
}
