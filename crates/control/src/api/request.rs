//! What handlers take out of requests: axum's extractors, whose refusals are answered in the API's own form.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Failure;

/// The JSON of a body.
pub(super) struct Body<T>(pub(super) T);

/// The parts of a path.
pub(super) struct Path<T>(pub(super) T);

/// The query of a URL.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let read = axum::Json::from_request(request, state).await;
        read.map(|axum::Json(body)| Self(body)).map_err(|error: JsonRejection| Failure::new(error.status(), error.body_text(), None))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(path)| Self(path))
            .map_err(|error: PathRejection| Failure::new(error.status(), error.body_text(), None))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        read.map(|axum::extract::Query(query)| Self(query))
            .map_err(|error: QueryRejection| Failure::new(error.status(), error.body_text(), None))
    }
}
