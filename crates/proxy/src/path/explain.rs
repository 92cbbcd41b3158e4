//! explain: whether a request is recorded in full, by a token that the control plane signed. The token goes on with the request from proxy to proxy, past
//! apps, which are not shown it: their calls are known by the request's id and trace, as with deadlines. It never leaves the mesh.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lorica_identity::explain_token::{self, NotTaken};
use lorica_model::head::{Edits, RequestHead};
use lorica_model::name::Label;
use lorica_model::snapshot::Transport;
use lorica_observe::metrics::OwnMetric;

use super::caller::{Caller, Entry};
use super::pick::Picked;
use super::record::ExchangeRecord;
use crate::worker::Worker;

/// The field that carries the token.
pub const EXPLAIN: &str = "x-lorica-explain";
/// How many tokens are remembered as good.
const MOST_KNOWN: usize = 16;
/// How many tokens that are not known are looked at in a second: that costs a check of signatures.
const MOST_LOOKS: u32 = 20;

/// Leave to record requests in full.
#[derive(Debug, PartialEq, Eq)]
pub struct Explained {
    /// Under what they are told.
    pub id: Label,
    /// The token.
    field: Bytes,
    until: Instant,
}

/// What a worker knows of tokens.
#[derive(Debug)]
pub struct Explanations(RefCell<Known>);

#[derive(Debug)]
struct Known {
    good: Vec<Rc<Explained>>,
    /// How many were looked at in the second that began then.
    looks: (Instant, u32),
}

impl Default for Explanations {
    fn default() -> Self {
        Self(RefCell::new(Known { good: Vec::new(), looks: (Instant::now(), 0) }))
    }
}

impl Explanations {
    /// Reads a token.
    ///
    /// # Errors
    /// Why it is none, as metrics say it.
    fn read(&self, worker: &Worker, token: &[u8], now: Instant) -> Result<Rc<Explained>, &'static str> {
        let mut known = self.0.borrow_mut();
        if let Some(good) = known.good.iter().find(|good| good.field == token) {
            return if good.until > now { Ok(good.clone()) } else { Err(NotTaken::Expired.word()) };
        }
        if now.saturating_duration_since(known.looks.0) >= Duration::from_secs(1) {
            known.looks = (now, 0);
        }
        known.looks.1 += 1;
        if known.looks.1 > MOST_LOOKS {
            return Err("too_many");
        }
        let epoch = worker.epoch().ok_or("no_identity")?;
        let time = SystemTime::now();
        let read = explain_token::read(&epoch, token, time).map_err(NotTaken::word)?;
        let until = now + read.until.duration_since(time).unwrap_or_default().min(explain_token::LIFETIME);
        let good = Rc::new(Explained { id: read.id, field: Bytes::copy_from_slice(token), until });
        known.good.retain(|good| good.until > now);
        if known.good.len() >= MOST_KNOWN {
            known.good.remove(0);
        }
        known.good.push(good.clone());
        Ok(good)
    }
}

/// Has a request recorded in full where it carries a token, was made by an app for one that does, or is the first of a run that is explained.
pub fn begin(worker: &Worker, caller: &Caller, head: &RequestHead, record: &mut ExchangeRecord<'_>) {
    let carried = head.fields.get(EXPLAIN);
    let inherited = || match &caller.entry {
        Entry::Outbound { .. } => worker.heirs.explained(head).filter(|explained| explained.until > record.begun()),
        _ => None,
    };
    let first = || match &caller.entry {
        Entry::Outbound { .. } => worker.diagnostics.first().map(Bytes::from),
        _ => None,
    };
    let explained = match carried {
        Some(token) => read(worker, token, record.begun()),
        None => inherited().or_else(|| read(worker, &first()?, record.begun())),
    };
    if let Some(explained) = explained {
        record.explain(explained);
    }
}

fn read(worker: &Worker, token: &[u8], now: Instant) -> Option<Rc<Explained>> {
    match worker.explanations.read(worker, token, now) {
        Ok(explained) => Some(explained),
        Err(why) => {
            worker.telemetry.metrics.count(OwnMetric::EXPLAIN_REFUSED, why, 1);
            None
        }
    }
}

/// What goes out to who was picked: `edits`, with the token where the request is recorded in full and who is asked is a Lorica proxy of this mesh.
/// Whatever token came with the request is taken away with all that others may not tell the mesh.
#[must_use]
pub fn goes_on<'e>(
    worker: &Worker,
    head: &RequestHead,
    edits: &'e Edits,
    explained: Option<&Explained>,
    picked: &Picked,
) -> Cow<'e, Edits> {
    let Some(explained) = explained.filter(|_| is_of_the_mesh(worker, picked)) else { return Cow::Borrowed(edits) };
    let mut edits = edits.clone();
    edits.set(&head.fields, EXPLAIN, &explained.field);
    Cow::Owned(edits)
}

fn is_of_the_mesh(worker: &Worker, picked: &Picked) -> bool {
    let is_lorica = picked.active.as_ref().is_some_and(|active| active.live.endpoint.transport == Transport::Lorica);
    let peer = picked.lease.facts.peer.as_ref().map(|peer| peer.id.trust_domain());
    is_lorica && worker.epoch().is_some_and(|own| peer == Some(own.svid().id().trust_domain()))
}
