//! Single requests: tokens to have one recorded in full, its story, and taps.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use hyper::body::{Body, Frame};
use lorica_api::explain::{ExplainToken, Story, TapRequest};

use super::request::{Path, Query};
use super::{Failure, Wait};
use crate::ControlPlane;
use crate::diagnostics::tap::{NotTapped, Tapping};

pub(super) fn router() -> Router<Arc<ControlPlane>> {
    Router::new()
        .route("/v1/explain", post(token))
        .route("/v1/explain/runs/{id}", get(run))
        .route("/v1/explain/requests/{id}", get(past))
        .route("/v1/tap", get(tap))
}

async fn token(State(control): State<Arc<ControlPlane>>) -> Result<Json<ExplainToken>, Failure> {
    let token = control.diagnostics.token();
    token.map(Json).map_err(|error| Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"), None))
}

async fn run(State(control): State<Arc<ControlPlane>>, Path(id): Path<String>, Query(wait): Query<Wait>) -> Result<Json<Story>, Failure> {
    let story = control.diagnostics.run(&id, wait.duration()?).await;
    story.map(Json).ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("no run {id} is remembered"), Some("run it again")))
}

async fn past(State(control): State<Arc<ControlPlane>>, Path(id): Path<String>) -> Result<Json<Story>, Failure> {
    if id.is_empty() || id.len() > LONGEST_ID {
        let message = format!("the id of a request has 1 to {LONGEST_ID} bytes");
        return Err(Failure::new(StatusCode::BAD_REQUEST, message, Some("it is what the field x-request-id says")));
    }
    Ok(Json(control.diagnostics.past(&id).await))
}

/// The longest id of a request that proxies take over.
const LONGEST_ID: usize = 128;

async fn tap(State(control): State<Arc<ControlPlane>>, Query(request): Query<TapRequest>) -> Result<Response, Failure> {
    let tapping = control.diagnostics.tap(request).map_err(|error| {
        let status = match error {
            NotTapped::Wrong(_) => StatusCode::BAD_REQUEST,
            NotTapped::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        Failure::new(status, error.to_string(), None)
    })?;
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, axum::body::Body::new(Lines(tapping))).into_response())
}

/// The lines of a tap, as they come.
struct Lines(Tapping);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
