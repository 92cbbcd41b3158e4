//! ask: one call of the proxy's own to a service of the mesh, whose answer decides on a request.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lorica_model::head::{Edits, Fields, HeadBuilder, RequestHead, ResponseHead, Version};
use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use tokio::time::timeout_at;

use super::failure::Failure;
use super::mtls::Negotiated;
use super::pick::{self, Earlier, Picked};
use super::retry::Terms;
use super::route;
use super::way::{self, To, Way};
use crate::pool::Reuse;
use crate::wire::{Answer, Frame, Outgoing, WireError};
use crate::worker::Worker;

/// The longest body of an answer that is read, in bytes.
const MOST_BYTES: usize = 64 * 1024;

/// What a service is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// gRPC, which is HTTP/2.
    Grpc,
    /// What its port is declared to speak.
    Http,
}

/// What a service replied.
#[derive(Debug)]
pub struct Replied {
    /// The head of its answer.
    pub head: ResponseHead,
    /// The body.
    pub body: Bytes,
    /// The status of gRPC.
    grpc_status: Option<String>,
}

impl Replied {
    /// The body of a call of gRPC that went well.
    ///
    /// # Errors
    /// Where it did not.
    pub fn grpc_body(self) -> anyhow::Result<Bytes> {
        anyhow::ensure!(self.head.status == 200, "it answered with {}", self.head.status);
        let status = self.grpc_status.as_deref();
        anyhow::ensure!(status == Some("0"), "it answered with the gRPC status {}", status.unwrap_or("none"));
        Ok(self.body)
    }
}

/// The head of a call of gRPC.
///
/// # Errors
/// Where it is larger than a head may be.
pub fn grpc_head(method: &str, authority: &str) -> anyhow::Result<RequestHead> {
    let mut builder = HeadBuilder::with_capacity(256);
    builder.field(b"content-type", b"application/grpc")?;
    builder.field(b"te", b"trailers")?;
    Ok(builder.request(Version::Http2, "POST", method, authority, None)?)
}

/// Asks a service port, within a time. A kept connection that its service has closed by then counts for nothing: another is tried.
///
/// # Errors
/// Why there is no whole answer.
pub async fn call(
    worker: &Rc<Worker>,
    port: &ServicePort,
    speaks: Speaks,
    head: &RequestHead,
    body: Bytes,
    within: Duration,
) -> anyhow::Result<Replied> {
    let until = tokio::time::Instant::now() + within;
    let late = || anyhow::anyhow!("no answer within {} ms", within.as_millis());
    let reach = timeout_at(until, route::reach(worker, port)).await.map_err(|_| late())?;
    let reach = reach.map_err(|reason| anyhow::anyhow!("{}", reason.meaning().text))?;
    let protocol = match speaks {
        Speaks::Grpc => Negotiated::Http2,
        Speaks::Http => way::spoken(reach.unit.cluster.protocol, head.version),
    };
    let way = Way::plain(To::Endpoints(reach), protocol);
    // A question changes nothing.
    let terms = Terms { is_repeatable: true, ..Terms::of(way.retry(), head, false) };
    let earlier = Earlier::none(Reuse::Any);
    let mut kept = true;
    loop {
        let mut picked = timeout_at(until, pick::pick(worker, &way, &earlier, Instant::now())).await.map_err(|_| late())??;
        match timeout_at(until, asked(&mut picked, speaks, head, body.clone())).await {
            Ok(Ok(replied)) => return Ok(replied),
            Ok(Err(failure)) => {
                let again = std::mem::replace(&mut kept, false) && picked.lease.reused && failure.reason == Reason::UpstreamClosed;
                let failure = picked.failed(failure, &earlier, terms);
                anyhow::ensure!(again, "{}: {}", failure.reason, failure.detail);
            }
            Err(_) => {
                picked.ended(Reason::RequestTimeout, Instant::now());
                return Err(late());
            }
        }
    }
}

/// Asks whoever was picked.
async fn asked(picked: &mut Picked, speaks: Speaks, head: &RequestHead, body: Bytes) -> Result<Replied, Failure> {
    // A call of gRPC is a stream of messages, whose length nobody says.
    let length = (speaks == Speaks::Http).then_some(body.len() as u64);
    let outgoing = Outgoing { head, edits: &Edits::default(), length, upgrade: None };
    let failed = |error: WireError| Failure::upstream(&error);
    let (mut sender, mut receiver) = picked.lease.send(&outgoing).await.map_err(failed)?;
    let sending = async {
        if !body.is_empty() {
            sender.data(body).await?;
        }
        sender.end(None).await
    };
    // It may answer before it has taken all; where it takes no more, its answer says why.
    let mut sending = pin!(sending);
    let mut sends = true;
    let (response, mut body) = loop {
        tokio::select! {
            biased;
            answer = receiver.answer() => match answer.map_err(failed)? {
                Answer::Informational(_) => {}
                Answer::Final(response, body) => break (response, body),
                Answer::Upgraded(..) => return Err(Failure::new(Reason::UpstreamProtocol, "it changes the protocol, which nobody asked for")),
            },
            sent = &mut sending, if sends => {
                sends = false;
                if let Err(error) = sent {
                    tracing::debug!(%error, "a service that is asked takes no more of the question");
                }
            }
        }
    };
    picked.answered(&response, Instant::now());
    let status = |fields: &Fields| fields.get_str("grpc-status").map(str::to_owned);
    let mut grpc_status = status(&response.fields);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| failed(error).answered())? {
            Frame::Data(data) if bytes.len() + data.len() <= MOST_BYTES => bytes.extend_from_slice(&data),
            Frame::Data(_) => {
                return Err(Failure::new(Reason::UpstreamProtocol, format!("its answer has more than {MOST_BYTES} bytes")).answered());
            }
            Frame::Trailers(trailers) => grpc_status = status(&trailers).or(grpc_status),
        }
    }
    Ok(Replied { head: response, body: bytes.freeze(), grpc_status })
}
