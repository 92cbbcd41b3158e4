//! mirror: copies of requests, of whose answers nobody hears. A copy never slows its request: one without a body leaves beside it, one with
//! a body once that has come in whole, as far as it was kept for replay; a longer one is left out and counted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lorica_model::head::{Edits, RequestHead};
use lorica_model::snapshot::Backend;
use lorica_observe::metrics::OwnMetric;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::pick::{self, Earlier};
use super::replay::Replay;
use super::send::upgrade;
use super::way::{To, Way};
use crate::pool::Reuse;
use crate::view::Reach;
use crate::wire::{Answer, Outgoing};
use crate::worker::Worker;

/// The most copies under way on one worker: a mirror that hangs must not fill the proxy's memory.
const MAX_COPIES: usize = 1024;
/// How long a copy may take, its answer included.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

/// Copies that wait for the body of their request.
#[derive(Default)]
pub struct Mirrors {
    waiting: Option<(Rc<Worker>, Vec<Copy>)>,
}

/// A copy, all but its body.
struct Copy {
    way: Way,
    head: RequestHead,
    edits: Edits,
}

/// Sends the copies that a rule asks for and that need not wait.
#[must_use]
pub fn begin(worker: &Rc<Worker>, way: &Way, head: &RequestHead, edits: &Edits, body: &Replay) -> Mirrors {
    let Some(forward) = way.decided().and_then(|(rule, _)| rule.forward()).filter(|forward| !forward.mirrors.is_empty()) else {
        return Mirrors::default();
    };
    if upgrade(head).is_some() {
        return Mirrors::default();
    }
    let view = worker.view();
    let to = |backend: &Backend| match backend {
        Backend::Port(port) => view.reach(port).cloned(),
        Backend::Missing { .. } => None,
    };
    let drawn = forward.mirrors.iter().filter(|mirror| mirror.share.takes(fastrand::f64()));
    let copy = |reach: Arc<Reach>| {
        let way = Way::plain(To::Endpoints(reach), way.protocol);
        Copy { way, head: head.clone(), edits: edits.clone() }
    };
    let copies: Vec<Copy> = drawn.filter_map(|mirror| to(&mirror.backend)).map(copy).collect();
    let mirrors = Mirrors { waiting: Some((worker.clone(), copies)) };
    if body.is_end() {
        mirrors.end(body);
        return Mirrors::default();
    }
    mirrors
}

impl Mirrors {
    /// Sends the copies that waited for `body`, which is now as far as it came.
    pub fn end(self, body: &Replay) {
        let Some((worker, copies)) = self.waiting else { return };
        let frames = body.whole();
        for copy in copies {
            let Some(frames) = frames.clone().filter(|_| worker.copies.get() < MAX_COPIES) else {
                worker.telemetry.metrics.count(OwnMetric::MIRRORED, "skipped", 1);
                continue;
            };
            let worker = worker.clone();
            spawn_local(async move {
                worker.copies.set(worker.copies.get() + 1);
                let sent = timeout(COPY_TIMEOUT, send(&worker, &copy, frames)).await;
                worker.copies.set(worker.copies.get() - 1);
                let result = if matches!(sent, Ok(Ok(()))) { "answered" } else { "failed" };
                worker.telemetry.metrics.count(OwnMetric::MIRRORED, result, 1);
            });
        }
    }
}

/// Sends one copy and drops its answer.
async fn send(worker: &Rc<Worker>, copy: &Copy, frames: Vec<Bytes>) -> anyhow::Result<()> {
    let mut picked = pick::pick(worker, &copy.way, &Earlier::none(Reuse::Any), Instant::now()).await?;
    let length = frames.iter().map(|frame| frame.len() as u64).sum();
    let outgoing = Outgoing { head: &copy.head, edits: &copy.edits, length: Some(length), upgrade: None };
    let (mut sender, mut receiver) = picked.lease.send(&outgoing).await?;
    for frame in frames {
        sender.data(frame).await?;
    }
    sender.end(None).await?;
    loop {
        if let Answer::Final(response, mut body) = receiver.answer().await? {
            picked.answered(&response, Instant::now());
            while let Some(frame) = body.frame().await {
                frame?;
            }
            return Ok(());
        }
    }
}
