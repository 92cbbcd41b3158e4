//! limit, asked elsewhere: one call of gRPC to an existing rate limit service, which is a service of the mesh like any other.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use lorica_model::head::{Edits, HeadBuilder, RequestHead, Version};
use lorica_model::snapshot::LimitService;
use lorica_xds::rate_limit::{Descriptor, METHOD, Said, question, said};
use tokio::time::timeout;

use super::mtls::Negotiated;
use super::pick::{self, Earlier};
use super::route;
use super::way::{To, Way};
use crate::pool::Reuse;
use crate::wire::{Answer, Frame, Outgoing};
use crate::worker::Worker;

/// The longest answer that is read, in bytes.
const MOST_BYTES: usize = 64 * 1024;

/// What the service says of a request.
///
/// # Errors
/// Why it said nothing in time, for the log.
pub async fn ask(worker: &Rc<Worker>, service: &LimitService, descriptors: &[Descriptor]) -> Result<Said, String> {
    // Boxed, as hardly any exchange asks.
    match timeout(service.timeout, Box::pin(call(worker, service, descriptors))).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} ms", service.timeout.as_millis())),
    }
}

async fn call(worker: &Rc<Worker>, service: &LimitService, descriptors: &[Descriptor]) -> anyhow::Result<Said> {
    let reach = route::reach(worker, &service.port).await.map_err(|reason| anyhow::anyhow!("{}", reason.meaning().text))?;
    let way = Way::plain(To::Endpoints(reach), Negotiated::Http2);
    let mut picked = pick::pick(worker, &way, &Earlier::none(Reuse::Any), Instant::now()).await?;
    let head = head(&service.port.to_string())?;
    let body = question(&service.domain, descriptors);
    let outgoing = Outgoing { head: &head, edits: &Edits::default(), length: None, upgrade: None };
    let (mut sender, mut receiver) = picked.lease.send(&outgoing).await?;
    sender.data(body).await?;
    sender.end(None).await?;
    loop {
        let Answer::Final(response, mut body) = receiver.answer().await? else { continue };
        picked.answered(&response, Instant::now());
        let status = |fields: &lorica_model::head::Fields| fields.get_str("grpc-status").map(str::to_owned);
        let mut told = status(&response.fields);
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame? {
                Frame::Data(data) if bytes.len() + data.len() <= MOST_BYTES => bytes.extend_from_slice(&data),
                Frame::Data(_) => anyhow::bail!("the answer has more than {MOST_BYTES} bytes"),
                Frame::Trailers(trailers) => told = status(&trailers).or(told),
            }
        }
        anyhow::ensure!(response.status == 200, "it answered with {}", response.status);
        anyhow::ensure!(told.as_deref() == Some("0"), "it answered with the gRPC status {}", told.as_deref().unwrap_or("none"));
        return said(&bytes).ok_or_else(|| anyhow::anyhow!("its answer is no RateLimitResponse"));
    }
}

fn head(authority: &str) -> anyhow::Result<RequestHead> {
    let mut builder = HeadBuilder::with_capacity(256);
    builder.field(b"content-type", b"application/grpc")?;
    builder.field(b"te", b"trailers")?;
    Ok(builder.request(Version::Http2, "POST", METHOD, authority, None)?)
}
