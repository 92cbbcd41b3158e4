//! The CA: how it stands, and what is asked of it.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::routing::{get, post};
use lorica_api::{CaStatus, ForgetRootKey, Pem, RevokeReply, RevokeRequest, RootKey, RotateRequest, SvidList, WaiveRequest};
use lorica_identity::SecretPem;
use lorica_identity::intermediate::{OwnCa, OwnIntermediate};

use super::request::{Body, Query};
use super::{Failure, Wait};
use crate::ControlPlane;
use crate::ca::{Ca, CaError, Subject};

pub(super) fn router() -> Router<Arc<ControlPlane>> {
    Router::new()
        .route("/v1/ca", get(status))
        .route("/v1/ca/svids", get(svids))
        .route("/v1/ca/revoke", post(revoke))
        .route("/v1/ca/reinstate", post(reinstate))
        .route("/v1/ca/bundle", get(bundle))
        .route("/v1/ca/rotate", post(rotate))
        .route("/v1/ca/rollback", post(roll_back))
        .route("/v1/ca/waive", post(waive))
        .route("/v1/ca/root-key/export", post(export_root_key))
        .route("/v1/ca/root-key/forget", post(forget_root_key))
        .route("/v1/ca/intermediate/request", post(request_intermediate))
        .route("/v1/ca/intermediate/install", post(install_intermediate))
        .route("/v1/ca/intermediate/replace", post(replace_intermediate))
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        let (status, text) = match error {
            CaError::Store(error) => return error.into(),
            CaError::Refused(text) => (StatusCode::CONFLICT, text),
            CaError::Authority(error) => (StatusCode::BAD_REQUEST, error.to_string()),
            CaError::Sign(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            CaError::Broken(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
        };
        match text.split_once("\nhint: ") {
            Some((message, hint)) => Self::new(status, message, Some(hint)),
            None => Self::new(status, text, None),
        }
    }
}

/// Asks the CA off the runtime's threads, as it waits for the disk.
async fn asked<T: Send + 'static>(
    control: Arc<ControlPlane>,
    ask: impl FnOnce(&Ca) -> Result<T, CaError> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(move || ask(&control.ca)).await;
    Ok(done.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))??)
}

/// Asks the CA, and tells how it stands then.
async fn changed(
    control: Arc<ControlPlane>,
    ask: impl FnOnce(&Ca) -> Result<(), CaError> + Send + 'static,
) -> Result<Json<CaStatus>, Failure> {
    let status = asked(control, move |ca| ask(ca).map(|()| ca.status(SystemTime::now()))).await?;
    Ok(Json(status))
}

async fn status(State(control): State<Arc<ControlPlane>>) -> Json<CaStatus> {
    Json(control.ca.status(SystemTime::now()))
}

async fn svids(State(control): State<Arc<ControlPlane>>) -> Json<SvidList> {
    Json(control.ca.svid_list(SystemTime::now()))
}

async fn revoke(
    State(control): State<Arc<ControlPlane>>,
    Query(wait): Query<Wait>,
    Body(request): Body<RevokeRequest>,
) -> Result<Json<RevokeReply>, Failure> {
    let subject: Subject = request.subject.parse()?;
    told(control, &wait, move |ca| ca.revoke(subject, &request.reason, SystemTime::now()).map(Some)).await
}

async fn reinstate(
    State(control): State<Arc<ControlPlane>>,
    Query(wait): Query<Wait>,
    Body(request): Body<RevokeRequest>,
) -> Result<Json<RevokeReply>, Failure> {
    let subject: Subject = request.subject.parse()?;
    told(control, &wait, move |ca| ca.reinstate(&subject, SystemTime::now())).await
}

/// Changes who is revoked, and waits for the proxies.
async fn told(
    control: Arc<ControlPlane>,
    wait: &Wait,
    ask: impl FnOnce(&Ca) -> Result<Option<u64>, CaError> + Send + 'static,
) -> Result<Json<RevokeReply>, Failure> {
    let wait = wait.duration()?;
    let receipt = match asked(control.clone(), ask).await? {
        Some(revision) => crate::wait_for(&control.mesh, revision, wait).await,
        None => None,
    };
    Ok(Json(RevokeReply { receipt, without: control.mesh.without_revocations() }))
}

/// The bundle that other meshes are told.
async fn bundle(State(control): State<Arc<ControlPlane>>) -> Result<([(HeaderName, &'static str); 1], String), Failure> {
    let failed = |error: String| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error, None);
    let told = tokio::task::spawn_blocking(move || control.federation.own.document(SystemTime::now())).await;
    let document = told.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(format!("{error:#}")))?;
    Ok(([(CONTENT_TYPE, "application/json")], document))
}

async fn rotate(State(control): State<Arc<ControlPlane>>, Body(request): Body<RotateRequest>) -> Result<Json<CaStatus>, Failure> {
    let own = own(request)?;
    changed(control, move |ca| ca.rotate(own.as_ref(), SystemTime::now())).await
}

fn own(request: RotateRequest) -> Result<Option<OwnCa>, Failure> {
    let RotateRequest { root_certificate, root_key, certificate, key } = request;
    let bad = |message: &str| Failure::new(StatusCode::BAD_REQUEST, message, None);
    let intermediate = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(OwnIntermediate { certificate, key: SecretPem::new(key) }),
        (None, None) => None,
        _ => return Err(bad("an intermediate is a certificate and its key: one of them is missing")),
    };
    match root_certificate {
        Some(root_certificate) => Ok(Some(OwnCa { root_certificate, root_key: root_key.map(SecretPem::new), intermediate })),
        None if root_key.is_none() && intermediate.is_none() => Ok(None),
        None => Err(bad("the root certificate is missing")),
    }
}

async fn roll_back(State(control): State<Arc<ControlPlane>>) -> Result<Json<CaStatus>, Failure> {
    changed(control, |ca| ca.roll_back(SystemTime::now())).await
}

async fn waive(State(control): State<Arc<ControlPlane>>, Body(request): Body<WaiveRequest>) -> Result<Json<CaStatus>, Failure> {
    changed(control, move |ca| ca.waive(&request.workload, SystemTime::now())).await
}

async fn export_root_key(State(control): State<Arc<ControlPlane>>) -> Result<Json<RootKey>, Failure> {
    let (root, key) = asked(control.clone(), Ca::root_key).await?;
    let certificate = control.ca.authority().to_record().root_certificate_pem;
    Ok(Json(RootKey { root, certificate, key: key.expose().to_owned() }))
}

async fn forget_root_key(State(control): State<Arc<ControlPlane>>, Body(request): Body<ForgetRootKey>) -> Result<Json<CaStatus>, Failure> {
    changed(control, move |ca| ca.forget_root_key(&request.root, SystemTime::now())).await
}

async fn request_intermediate(State(control): State<Arc<ControlPlane>>) -> Result<Json<Pem>, Failure> {
    Ok(Json(Pem { pem: asked(control, Ca::request_intermediate).await? }))
}

async fn install_intermediate(State(control): State<Arc<ControlPlane>>, Body(request): Body<Pem>) -> Result<Json<CaStatus>, Failure> {
    changed(control, move |ca| ca.install_intermediate(&request.pem, SystemTime::now())).await
}

async fn replace_intermediate(State(control): State<Arc<ControlPlane>>) -> Result<Json<CaStatus>, Failure> {
    changed(control, |ca| ca.replace_intermediate(SystemTime::now())).await
}
