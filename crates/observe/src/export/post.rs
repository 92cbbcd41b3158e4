//! POST over HTTP/1.1, on one connection that is kept while it lasts.

use std::error::Error;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::connect::Dial;

/// The longest answer that is read, in bytes: it says what was refused, and needs little for that.
const ANSWER: usize = 64 * 1024;
/// Who asks.
const AGENT: &str = concat!("lorica/", env!("CARGO_PKG_VERSION"));

/// Posts to one place.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) dial: Dial,
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl Clone for Post {
    fn clone(&self) -> Self {
        Self::new(self.dial.clone())
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<String>,
    pub(super) body: Bytes,
}

/// Why nothing came back.
#[derive(Debug)]
pub(super) enum PostError {
    /// Nothing was taken: the request did not leave.
    Unsent(String),
    /// It may have been taken.
    Lost(String),
}

impl Post {
    pub(super) fn new(dial: Dial) -> Self {
        Self { dial, kept: None }
    }

    pub(super) async fn send(&mut self, path: &str, kind: &'static str, body: Bytes) -> Result<Answer, PostError> {
        let authority = self.dial.authority();
        let host = HeaderValue::from_str(&authority).map_err(|error| PostError::Unsent(error.to_string()))?;
        let request = Request::post(path).header(HOST, host).header(USER_AGENT, AGENT).header(CONTENT_TYPE, kind);
        let mut request = request.body(Full::new(body)).map_err(|error| PostError::Unsent(error.to_string()))?;
        // The place may have closed the connection since the last batch.
        if let Some(mut kept) = self.kept.take().filter(|kept| !kept.is_closed()) {
            match kept.try_send_request(request).await {
                Ok(response) => return self.answer(kept, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(PostError::Lost(said(&error.into_error()))),
                },
            }
        }
        let unsent = |error: &dyn Error| PostError::Unsent(said(error));
        let connection = self.dial.connect().await.map_err(|error| unsent(&error))?;
        let (mut sender, driving) = handshake(TokioIo::new(connection)).await.map_err(|error| unsent(&error))?;
        tokio::spawn(async move {
            // What goes wrong is told to whoever waits for an answer.
            drop(driving.await);
        });
        let response = sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(_) => unsent(error.error()),
            None => PostError::Lost(said(error.error())),
        })?;
        self.answer(sender, response).await
    }

    async fn answer(&mut self, sender: SendRequest<Full<Bytes>>, response: Response<Incoming>) -> Result<Answer, PostError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER).collect().await.map_err(|error| PostError::Lost(said(&*error)))?.to_bytes();
        self.kept = Some(sender);
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: head.status, retry_after, body })
    }
}

/// What an error says, with what is behind it: a refused connection is its source, not its message.
pub(super) fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
