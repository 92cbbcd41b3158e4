//! The client: one request a connection, over the control plane's Unix socket.

mod diagnostics;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lorica_model::resource::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::ca::{CaStatus, SvidList};
use crate::graph::{Graph, Top, TopBy};
use crate::hosts::{ThisHost, TokenList, TokenReply, TokenRequest, TokenRevoked};
use crate::telemetry::{LogList, TraceList, TraceView};
use crate::views::{
    ApplyReply, ApplyRequest, DeleteRequest, EffectiveTraffic, ErrorBody, ErrorReply, MtlsStatus, ObservedCall, Receipt, Refusal,
    RefusedCalls, RenderedDiagnostic, ResourceList, RouteList, Status, Trial,
};

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Which control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// By its Unix socket.
    Unix(PathBuf),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers.
    #[error("no control plane answers on {socket}: {error}\nhint: start one with `lorica control`, or name another with --server")]
    Unreachable {
        /// The socket.
        socket: String,
        /// What the system said.
        error: io::Error,
    },
    /// The socket is somebody else's.
    #[error("{socket} belongs to another user\nhint: only the user who started a control plane may talk to it there")]
    Forbidden {
        /// The socket.
        socket: String,
    },
    /// It broke off, or what answers is no control plane.
    #[error("the control plane on {socket} broke off: {error}")]
    Broken {
        /// The socket.
        socket: String,
        /// What happened.
        error: String,
    },
    /// The change set has mistakes.
    #[error("{}", rendered(.0))]
    Refused(Vec<RenderedDiagnostic>),
    /// It said no.
    #[error("{message}{}", hint.as_deref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
    Failed {
        /// The HTTP status.
        status: u16,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

fn rendered(diagnostics: &[RenderedDiagnostic]) -> String {
    let mut text = diagnostics.iter().map(|found| found.rendered.as_str()).collect::<Vec<_>>().join("\n\n");
    text.push_str(&format!(
        "\n\nnothing was changed: {} to mend",
        if diagnostics.len() == 1 { "one mistake".to_owned() } else { format!("{} mistakes", diagnostics.len()) }
    ));
    text
}

/// Talks to a control plane.
#[derive(Debug, Clone)]
pub struct ApiClient {
    server: Server,
}

impl ApiClient {
    /// A client of `server`. Nothing is connected yet.
    #[must_use]
    pub fn new(server: Server) -> Self {
        Self { server }
    }

    /// The control plane and its proxies.
    ///
    /// # Errors
    /// See [`ApiError`], as for all calls.
    pub async fn status(&self) -> Result<Status, ApiError> {
        self.get("/v1/status").await
    }

    /// Applies a change set, and waits for its receipt.
    ///
    /// # Errors
    /// [`ApiError::Refused`] where it has mistakes.
    pub async fn apply(&self, request: &ApplyRequest, wait: Duration) -> Result<ApplyReply, ApiError> {
        self.post(&format!("/v1/apply?wait={}ms", wait.as_millis()), request).await
    }

    /// Deletes resources, and waits for the receipt.
    ///
    /// # Errors
    /// 404 where one does not exist.
    pub async fn delete(&self, request: &DeleteRequest, wait: Duration) -> Result<ApplyReply, ApiError> {
        self.post(&format!("/v1/delete?wait={}ms", wait.as_millis()), request).await
    }

    /// The receipt of a publication.
    ///
    /// # Errors
    /// 404 where it is too old.
    pub async fn receipt(&self, revision: u64, wait: Duration) -> Result<Receipt, ApiError> {
        self.get(&format!("/v1/receipts/{revision}?wait={}ms", wait.as_millis())).await
    }

    /// Resources of a kind, of one namespace or all.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<ResourceList, ApiError> {
        let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/resources/{}{query}", kind.plural())).await
    }

    /// What was refused to leave the mesh, by callers of one namespace or all.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn refused(&self, namespace: Option<&str>) -> Result<RefusedCalls, ApiError> {
        let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/egress/refused{query}")).await
    }

    /// Who called the services of a namespace, or all, since the control plane began.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn observed(&self, namespace: Option<&str>) -> Result<Vec<ObservedCall>, ApiError> {
        let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/observed{query}")).await
    }

    /// What a policy that is tried would have done.
    ///
    /// # Errors
    /// 404 where there is no such policy, 409 where it is in force, or where several kinds have one of this name and none is named.
    pub async fn trial(&self, kind: Option<&str>, namespace: &str, name: &str) -> Result<Trial, ApiError> {
        let query = kind.map(|kind| format!("?kind={kind}")).unwrap_or_default();
        self.get(&format!("/v1/trials/{namespace}/{name}{query}")).await
    }

    /// How the callers of services prove who they are, in one namespace or all.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn mtls(&self, namespace: Option<&str>) -> Result<Vec<MtlsStatus>, ApiError> {
        let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/mtls{query}")).await
    }

    /// Who calls whom, over a window of time (`1m`), in one namespace or all.
    ///
    /// # Errors
    /// 400 where the window is none.
    pub async fn graph(&self, window: &str, namespace: Option<&str>) -> Result<Graph, ApiError> {
        let namespace = namespace.map(|namespace| format!("&namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/graph?window={window}{namespace}")).await
    }

    /// What is called most, over a window of time (`1m`), in one namespace or all.
    ///
    /// # Errors
    /// 400 where the window is none.
    pub async fn top(&self, by: TopBy, window: &str, namespace: Option<&str>) -> Result<Top, ApiError> {
        let by = match by {
            TopBy::Service => "service",
            TopBy::Route => "route",
        };
        let namespace = namespace.map(|namespace| format!("&namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/top?by={by}&window={window}{namespace}")).await
    }

    /// What holds for calls to a service, whoever said so.
    ///
    /// # Errors
    /// 404 where there is no such service.
    pub async fn effective_traffic(&self, namespace: &str, service: &str) -> Result<EffectiveTraffic, ApiError> {
        self.get(&format!("/v1/services/{namespace}/{service}/traffic")).await
    }

    /// Where calls to a service go, as callers in the namespace `from` see it; none: in its own.
    ///
    /// # Errors
    /// 404 where there is no such service.
    pub async fn routes_of_service(&self, namespace: &str, service: &str, from: Option<&str>) -> Result<RouteList, ApiError> {
        let query = from.map(|from| format!("?from={from}")).unwrap_or_default();
        self.get(&format!("/v1/routes/services/{namespace}/{service}{query}")).await
    }

    /// Where what comes in at a gateway goes.
    ///
    /// # Errors
    /// 404 where there is no such gateway.
    pub async fn routes_of_gateway(&self, namespace: &str, gateway: &str) -> Result<RouteList, ApiError> {
        self.get(&format!("/v1/routes/gateways/{namespace}/{gateway}")).await
    }

    /// What the control plane counts, in Prometheus' text.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn metrics(&self) -> Result<String, ApiError> {
        let text = self.answered(Method::GET, "/metrics", Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// One resource.
    ///
    /// # Errors
    /// 404 where it does not exist.
    pub async fn resource(&self, kind: Kind, namespace: &str, name: &str) -> Result<serde_json::Value, ApiError> {
        self.get(&format!("/v1/resources/{}/{namespace}/{name}", kind.plural())).await
    }

    /// How the CA stands.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn ca(&self) -> Result<CaStatus, ApiError> {
        self.get("/v1/ca").await
    }

    /// The newest certificate of each workload.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn svids(&self) -> Result<SvidList, ApiError> {
        self.get("/v1/ca/svids").await
    }

    /// The bundle that other meshes are told, as SPIFFE has it.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn ca_bundle(&self) -> Result<serde_json::Value, ApiError> {
        self.get("/v1/ca/bundle").await
    }

    /// Asks something of the CA: `rotate`, `rollback`, `waive`, `revoke?wait=30s`, `reinstate?wait=30s`, `root-key/export`,
    /// `root-key/forget`, `intermediate/request`, `intermediate/install`, `intermediate/replace`.
    ///
    /// # Errors
    /// 409 where it is not the time for it, 422 where what is brought is wrong.
    pub async fn ask_ca<T: DeserializeOwned>(&self, what: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.post(&format!("/v1/ca/{what}"), body).await
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// 400 where no host could join with it, 409 where the control plane is not reached over TCP.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenReply, ApiError> {
        self.post("/v1/tokens", request).await
    }

    /// All join tokens that are remembered.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn tokens(&self) -> Result<TokenList, ApiError> {
        self.get("/v1/tokens").await
    }

    /// Takes a join token back, and lets go of the host that joined with it.
    ///
    /// # Errors
    /// 404 where there is none.
    pub async fn revoke_token(&self, id: &str) -> Result<TokenRevoked, ApiError> {
        // It goes into a path: what no id has is no id.
        let id: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
        self.post(&format!("/v1/tokens/{id}/revoke"), &()).await
    }

    /// The host on which the socket is.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn this_host(&self) -> Result<ThisHost, ApiError> {
        self.get("/v1/host").await
    }

    /// Traces that were found; `query` says by what, and from which page on.
    ///
    /// # Errors
    /// 400 where the query cannot be read.
    pub async fn traces(&self, query: &[(&str, String)]) -> Result<TraceList, ApiError> {
        self.get(&format!("/v1/traces{}", encoded(query))).await
    }

    /// A trace, by its id or by that of a request in it.
    ///
    /// # Errors
    /// 404 where there is none.
    pub async fn trace(&self, id: &str) -> Result<TraceView, ApiError> {
        self.get(&format!("/v1/traces/{}", percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC))).await
    }

    /// Log records that were found; `query` says by what, and from which place on.
    ///
    /// # Errors
    /// 400 where the query cannot be read.
    pub async fn logs(&self, query: &[(&str, String)]) -> Result<LogList, ApiError> {
        self.get(&format!("/v1/logs{}", encoded(query))).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.call(Method::POST, path, body.into()).await
    }

    fn socket(&self) -> String {
        let Server::Unix(socket) = &self.server;
        socket.display().to_string()
    }

    fn broken(&self, error: impl std::fmt::Display) -> ApiError {
        ApiError::Broken { socket: self.socket(), error: error.to_string() }
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ApiError> {
        serde_json::from_slice(&self.answered(method, path, body).await?).map_err(|error| self.broken(error))
    }

    /// The body of an answer that is a success.
    async fn answered(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| self.broken(error))?;
        let request =
            Request::builder().method(method).uri(path).header("host", "control.lorica").header("content-type", "application/json");
        let request = request.body(Full::new(body)).map_err(|error| self.broken(error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| self.broken(error))?.to_bytes();
            Ok((status, body))
        };
        let driver = async {
            // What breaks it is told by the exchange.
            drop(connection.await);
            std::future::pending::<()>().await
        };
        let (status, body) = tokio::select! {
            done = exchange => done?,
            () = driver => return Err(self.broken("the connection ended")),
        };
        if status.is_success() {
            return Ok(body);
        }
        if status == StatusCode::UNPROCESSABLE_ENTITY
            && let Ok(Refusal { diagnostics }) = serde_json::from_slice(&body)
        {
            return Err(ApiError::Refused(diagnostics));
        }
        Err(failed(status, &body))
    }

    async fn connect(&self) -> Result<UnixStream, ApiError> {
        let Server::Unix(socket) = &self.server;
        UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ApiError::Forbidden { socket: self.socket() },
            _ => ApiError::Unreachable { socket: self.socket(), error },
        })
    }
}

/// What an answer says that is none.
fn failed(status: StatusCode, body: &[u8]) -> ApiError {
    let plain = |_| ErrorReply { error: ErrorBody { message: String::from_utf8_lossy(body).into_owned(), hint: None } };
    let ErrorReply { error } = serde_json::from_slice(body).unwrap_or_else(plain);
    ApiError::Failed { status: status.as_u16(), message: error.message, hint: error.hint }
}

/// A query, as it stands in a URL.
fn encoded(query: &[(&str, String)]) -> String {
    let value = |value| percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
    let words: Vec<String> = query.iter().map(|(key, text)| format!("{key}={}", value(text))).collect();
    if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) }
}
