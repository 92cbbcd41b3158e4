//! limit, asked elsewhere: one call of gRPC to an existing rate limit service, which is a service of the mesh like any other.

use std::rc::Rc;

use lorica_model::snapshot::LimitService;
use lorica_xds::rate_limit::{Descriptor, METHOD, Said, question, said};

use super::ask::{self, Speaks};
use crate::worker::Worker;

/// What the service says of a request.
///
/// # Errors
/// Why it said nothing in time, for the log.
pub async fn ask(worker: &Rc<Worker>, service: &LimitService, descriptors: &[Descriptor]) -> Result<Said, String> {
    // Boxed, as hardly any exchange asks.
    Box::pin(call(worker, service, descriptors)).await.map_err(|error| format!("{error:#}"))
}

async fn call(worker: &Rc<Worker>, service: &LimitService, descriptors: &[Descriptor]) -> anyhow::Result<Said> {
    let head = ask::grpc_head(METHOD, &service.port.to_string())?;
    let question = question(&service.domain, descriptors);
    let replied = ask::call(worker, &service.port, Speaks::Grpc, &head, question, service.timeout).await?;
    let body = replied.grpc_body()?;
    said(&body).ok_or_else(|| anyhow::anyhow!("its answer is no RateLimitResponse"))
}
