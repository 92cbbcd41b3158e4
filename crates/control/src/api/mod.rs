//! The REST API's handlers: JSON in and out. What they decide is the model's; what they keep is the mesh's.

mod ca;
mod change;
mod diagnostics;
mod graph;
mod hosts;
mod observed;
mod request;
mod routes;
mod status;
mod telemetry;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use lorica_api::{ErrorBody, ErrorReply, Refusal, RefusedCalls, ResourceList};
use lorica_model::compile::{World, status};
use lorica_model::name::{Namespace, ObjectName};
use lorica_model::resource::{Key, Kind, Resource, Spec};
use serde::Deserialize;

use self::request::{Path, Query};
use crate::ControlPlane;
use crate::store::StoreError;

/// The largest change set, in bytes.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// The longest that a call waits for a receipt.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The routes of the API.
pub fn router(control: Arc<ControlPlane>) -> Router {
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/apply", post(change::apply))
        .route("/v1/delete", post(change::delete))
        .route("/v1/receipts/{revision}", get(receipt))
        .route("/v1/egress/refused", get(refused))
        .route("/v1/observed", get(observed::calls))
        .route("/v1/trials/{namespace}/{name}", get(observed::trial))
        .route("/v1/mtls", get(observed::mtls))
        .route("/v1/services/{namespace}/{name}/traffic", get(traffic::effective))
        .route("/v1/traces", get(telemetry::traces))
        .route("/v1/traces/{id}", get(telemetry::trace))
        .route("/v1/logs", get(telemetry::logs))
        .route("/v1/routes/services/{namespace}/{name}", get(routes::of_service))
        .route("/v1/routes/gateways/{namespace}/{name}", get(routes::of_gateway))
        .route("/v1/tokens", get(hosts::list).post(hosts::create))
        .route("/v1/tokens/{id}/revoke", post(hosts::revoke))
        .route("/v1/host", get(hosts::this))
        .route("/v1/resources/{kind}", get(list))
        .route("/v1/resources/{kind}/{namespace}/{name}", get(one))
        .route("/v1/graph", get(graph::graph))
        .route("/v1/top", get(graph::top))
        .merge(ca::router())
        .merge(diagnostics::router())
        .merge(crate::telemetry::prometheus::router())
        .route("/metrics", get(crate::telemetry::metrics::page))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "the API has no such path", None))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(control)
}

/// Why a call failed.
pub(super) enum Failure {
    /// A sentence.
    Said(StatusCode, ErrorBody),
    /// The mistakes of a change set.
    Refused(Refusal),
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::Said(status, ErrorBody { message: message.into(), hint: hint.map(str::to_owned) })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (status, hint) = match &error {
            StoreError::Full { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, Some("make room and try again; all that was acknowledged before is safe"))
            }
            StoreError::Conflict { .. } => (StatusCode::CONFLICT, Some("look at it again and apply anew")),
            StoreError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
            StoreError::Closed { .. } => (StatusCode::SERVICE_UNAVAILABLE, Some("start it again with `lorica control`")),
            StoreError::Failed { .. } | StoreError::InUse { .. } => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        Self::new(status, error.to_string(), hint)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Said(status, error) => (status, Json(ErrorReply { error })).into_response(),
            Self::Refused(refusal) => (StatusCode::UNPROCESSABLE_ENTITY, Json(refusal)).into_response(),
        }
    }
}

/// How long a call waits: `30s`, `500ms`.
#[derive(Deserialize)]
pub(super) struct Wait {
    wait: Option<String>,
}

impl Wait {
    pub(super) fn duration(&self) -> Result<Duration, Failure> {
        let Some(text) = &self.wait else { return Ok(Duration::ZERO) };
        let parsed = match text.strip_suffix("ms") {
            Some(number) => number.parse().ok().map(Duration::from_millis),
            None => text.strip_suffix('s').and_then(|number| number.parse().ok()).map(Duration::from_secs),
        };
        let parsed = parsed
            .ok_or_else(|| Failure::new(StatusCode::BAD_REQUEST, format!("`{text}` is no time to wait"), Some("write `30s` or `500ms`")))?;
        Ok(parsed.min(MAX_WAIT))
    }
}

async fn receipt(
    State(control): State<Arc<ControlPlane>>,
    Path(revision): Path<u64>,
    Query(wait): Query<Wait>,
) -> Result<Response, Failure> {
    let receipt = crate::wait_for(&control.mesh, revision, wait.duration()?).await;
    let receipt = receipt.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, format!("there is no receipt of publication {revision}"), Some("only the latest 1000 are kept"))
    })?;
    Ok(Json(receipt).into_response())
}

fn kind(text: &str) -> Result<Kind, Failure> {
    Kind::named(text).ok_or_else(|| {
        let known = Kind::ALL.iter().map(|kind| kind.plural()).collect::<Vec<_>>().join(", ");
        Failure::new(StatusCode::NOT_FOUND, format!("there is no kind `{text}`"), Some(&format!("there are {known}")))
    })
}

#[derive(Deserialize)]
pub(super) struct Within {
    pub(super) namespace: Option<String>,
}

async fn list(
    State(control): State<Arc<ControlPlane>>,
    Path(name): Path<String>,
    Query(within): Query<Within>,
) -> Result<Json<ResourceList>, Failure> {
    let kind = kind(&name)?;
    let seen = control.mesh.seen();
    let wanted = |resource: &&Resource| {
        resource.kind == kind && within.namespace.as_deref().is_none_or(|namespace| resource.metadata.namespace.as_str() == namespace)
    };
    let items = seen.published.resources.iter().filter(wanted).map(|resource| shown(&control, &seen.published.world(), resource));
    Ok(Json(ResourceList { items: items.collect() }))
}

/// What was refused to leave the mesh.
async fn refused(State(control): State<Arc<ControlPlane>>, Query(within): Query<Within>) -> Json<RefusedCalls> {
    let published = control.mesh.seen().published;
    Json(control.refused.shown(&published.world(), within.namespace.as_deref()))
}

async fn one(
    State(control): State<Arc<ControlPlane>>,
    Path((kind_name, namespace, name)): Path<(String, String, String)>,
) -> Result<Json<serde_json::Value>, Failure> {
    let kind = kind(&kind_name)?;
    let bad = |error: lorica_model::name::NameError| Failure::new(StatusCode::BAD_REQUEST, error.to_string(), None);
    let key = Key { kind, namespace: Namespace::new(&namespace).map_err(bad)?, name: ObjectName::new(&name).map_err(bad)? };
    let seen = control.mesh.seen();
    let found = seen
        .published
        .resources
        .get(&key)
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("there is no {key}"), Some("`lorica get` lists what there is")))?;
    Ok(Json(shown(&control, &seen.published.world(), found)))
}

/// A resource as stored, with its status. What a Secret holds is never shown, only how much.
fn shown(control: &ControlPlane, world: &World<'_>, resource: &Resource) -> serde_json::Value {
    let mut document = resource.document.clone();
    let Some(object) = document.as_object_mut() else { return document };
    if let Some(mut status) = status(world, resource) {
        if let (Spec::TrustBundle(bundle), Some(fields)) = (&resource.spec, status.as_object_mut()) {
            fields.extend(control.federation.shown(&bundle.trust_domain));
        }
        object.insert("status".to_owned(), status);
    }
    if let Spec::Secret(secret) = &resource.spec {
        object.remove("stringData");
        let sizes = secret.data.iter().map(|(key, value)| (key.clone(), format!("({} bytes)", value.len()).into()));
        object.insert("data".to_owned(), serde_json::Value::Object(sizes.collect()));
    }
    document
}
