//! The client's calls about single requests. A tap is read line by line, for as long as its reader likes.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use super::{ApiClient, ApiError, failed};
use crate::explain::{ExplainToken, Story, TapLine, TapRequest};

/// The longest line of a tap, in bytes.
const LONGEST_LINE: usize = 1024 * 1024;
/// The longest refusal of one.
const LONGEST_REFUSAL: usize = 64 * 1024;

impl ApiClient {
    /// A token by which the next request that carries it is recorded in full.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn explain_token(&self) -> Result<ExplainToken, ApiError> {
        self.post("/v1/explain", &()).await
    }

    /// What proxies told of requests with the token of this id; waits until all that is missing has come, `wait` at most.
    ///
    /// # Errors
    /// 404 where it is not remembered.
    pub async fn explained(&self, id: &str, wait: Duration) -> Result<Story, ApiError> {
        self.get(&format!("/v1/explain/runs/{}?wait={}ms", encoded(id), wait.as_millis())).await
    }

    /// What proxies remember of a request by its id.
    ///
    /// # Errors
    /// 400 where no request can have such an id.
    pub async fn explain(&self, request_id: &str) -> Result<Story, ApiError> {
        self.get(&format!("/v1/explain/requests/{}", encoded(request_id))).await
    }

    /// Has requests shown as they end, until the tap is over or `line` says that it has seen enough, by `false`.
    ///
    /// # Errors
    /// 400 where what is asked for makes no sense, 429 where too many taps run.
    pub async fn tap(&self, request: &TapRequest, mut line: impl FnMut(TapLine) -> bool) -> Result<(), ApiError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| self.broken(error))?;
        let asked = Request::builder().method(Method::GET).uri(format!("/v1/tap{}", query(request))).header("host", "control.lorica");
        let asked = asked.body(Full::new(Bytes::new())).map_err(|error| self.broken(error))?;
        let reading = async {
            let response = sender.send_request(asked).await.map_err(|error| self.broken(error))?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = Limited::new(body, LONGEST_REFUSAL).collect().await.map_err(|error| self.broken(error))?;
                return Err(failed(status, &body.to_bytes()));
            }
            let mut read = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|error| self.broken(error))?.into_data() else { continue };
                read.extend_from_slice(&data);
                while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                    let one = serde_json::from_slice(&read[..end]).map_err(|error| self.broken(error))?;
                    read.advance(end + 1);
                    if !line(one) {
                        return Ok(());
                    }
                }
                if read.len() > LONGEST_LINE {
                    return Err(self.broken("a line of the tap is longer than any is"));
                }
            }
            Ok(())
        };
        let driver = async {
            // What breaks it is told by the reading.
            drop(connection.await);
            std::future::pending::<()>().await
        };
        tokio::select! {
            done = reading => done,
            () = driver => Err(self.broken("the connection ended")),
        }
    }
}

fn query(request: &TapRequest) -> String {
    let TapRequest { target, filter, failed, rate, seconds, percent } = request;
    let mut query = format!("?failed={failed}&rate={rate}&seconds={seconds}&percent={percent}");
    for (name, value) in [("target", target), ("filter", filter)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    query
}

/// Text as a part of a URL.
fn encoded(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_a_query() {
        let request = TapRequest {
            target: Some("service/recording.contact".to_owned()),
            filter: Some("request.path == '/a b'".to_owned()),
            rate: 5,
            ..TapRequest::default()
        };
        assert_eq!(
            query(&request),
            "?failed=false&rate=5&seconds=600&percent=100&target=service%2Frecording.contact&filter=request.path%20%3D%3D%20%27%2Fa%20b%27"
        );
    }
}
