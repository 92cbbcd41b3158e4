//! Join tokens over the API, and what workloads of this host are to know of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lorica_api::{ListedToken, ThisHost, TokenList, TokenReply, TokenRequest, TokenRevoked, TokenState};
use lorica_model::name::Label;

use super::Failure;
use super::request::Path;
use crate::ControlPlane;
use crate::hosts::{TokenError, TokenRecord};
use crate::workload_api::own_host;

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let status = match error {
            TokenError::Store(error) => return error.into(),
            TokenError::OwnName(_) | TokenError::Lifetime => StatusCode::BAD_REQUEST,
            TokenError::Unknown(_) => StatusCode::NOT_FOUND,
            TokenError::TooMany => StatusCode::CONFLICT,
            TokenError::Make(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string(), None)
    }
}

/// Makes a join token.
pub(super) async fn create(
    State(control): State<Arc<ControlPlane>>,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenReply>, Failure> {
    let TokenRequest { host, services, seconds, addresses } = request;
    let addresses = match (addresses.is_empty(), control.listening) {
        (false, _) => addresses,
        (true, Some(listening)) if !listening.ip().is_unspecified() => vec![listening.to_string()],
        (true, Some(listening)) => {
            let message = format!(
                "the control plane listens on all addresses of its host ({listening}), and a token names those that hosts can reach"
            );
            return Err(Failure::new(StatusCode::BAD_REQUEST, message, Some("say which: --address 10.0.0.1:15012")));
        }
        (true, None) => {
            let hint = "start it with `lorica control --listen ADDRESS:15012`";
            return Err(Failure::new(StatusCode::CONFLICT, "the control plane is not reached over TCP, so no host can join", Some(hint)));
        }
    };
    let now = SystemTime::now();
    let made = blocking(move || control.hosts.create(host, services, Duration::from_secs(seconds), addresses, now)).await?;
    let (token, record) = made?;
    Ok(Json(TokenReply { token: token.encode(), listed: listed(token.id, record, now) }))
}

/// All join tokens that are remembered.
pub(super) async fn list(State(control): State<Arc<ControlPlane>>) -> Result<Json<TokenList>, Failure> {
    let now = SystemTime::now();
    let mut found = blocking(move || control.hosts.tokens()).await??;
    found.sort_by_key(|(_, record)| record.created);
    Ok(Json(TokenList { tokens: found.into_iter().map(|(id, record)| listed(id, record, now)).collect() }))
}

/// Takes a join token back, and lets go of the host that joined with it.
pub(super) async fn revoke(State(control): State<Arc<ControlPlane>>, Path(id): Path<String>) -> Result<Json<TokenRevoked>, Failure> {
    let (record, joined) = blocking(move || control.hosts.revoke(&id)).await??;
    Ok(Json(TokenRevoked { host: record.host, joined }))
}

/// The control plane's own host. Its workloads are reached where it is itself, as far as that is one address.
pub(super) async fn this(State(control): State<Arc<ControlPlane>>) -> Result<Json<ThisHost>, Failure> {
    // A host whose name is none for the mesh is only ever this one.
    let name = own_host().map_or_else(|| Label::new("localhost"), Ok);
    let name = name.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
    let listening = control.listening.map(|address| address.ip()).filter(|address| !address.is_unspecified());
    Ok(Json(ThisHost { name, advertise: listening.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)) }))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))
}

fn listed(id: String, record: TokenRecord, now: SystemTime) -> ListedToken {
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let state = match record.used {
        Some(_) => TokenState::Used,
        None if time(record.expires) <= now => TokenState::Expired,
        None => TokenState::Open,
    };
    let TokenRecord { host, services, created, expires, .. } = record;
    ListedToken { id, host, services, created: crate::timestamp(time(created)), expires: crate::timestamp(time(expires)), state }
}
