//! authorize: whether the caller may do this. At the callee's proxy, so that nobody passes it by; at a gateway once its rule is known.
//!
//! What a caller may do is worked out once for its connection, and each request is held against that. What is under way is judged again when
//! policies change: a permission that is taken away ends it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lorica_model::head::RequestHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Access, AccessCaller, AccessPolicy, Authorization, Denial, HttpRule, Noted, Permissions};
use lorica_observe::metrics::AccessCounts;
use lorica_xds::observed::Verdict;

use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::filter;
use crate::worker::Worker;

/// By which a caller of the mesh is told who denied its call.
pub const POLICY: &str = "x-lorica-policy";
/// For how many places a connection remembers what its caller may do: a gateway's rules may each have policies of their own.
const MOST_REMEMBERED: usize = 8;

/// What the caller of a connection may do at one place, with the counts of the policies that say so.
#[derive(Debug)]
pub struct Granted {
    permissions: Permissions,
    /// In the order of the policies.
    counts: Vec<Arc<AccessCounts>>,
}

/// Whether a request may be made. `rule`: the one of a gateway that takes it.
///
/// # Errors
/// [`Reason::AccessDenied`] or [`Reason::AmbiguousPath`].
pub fn request(worker: &Worker, caller: &Caller, head: &RequestHead, rule: Option<&HttpRule>) -> Result<(), Failure> {
    let judged = may_request(worker, caller, head, rule);
    told(worker, caller, Some(head), if judged.is_ok() { Verdict::Passed } else { Verdict::Denied });
    judged
}

fn may_request(worker: &Worker, caller: &Caller, head: &RequestHead, rule: Option<&HttpRule>) -> Result<(), Failure> {
    // Whoever asks whether it may ask is answered before.
    if rule.and_then(|rule| rule.filters.cors.as_ref()).is_some_and(|cors| filter::preflight(head, cors).is_some()) {
        return Ok(());
    }
    match &caller.entry {
        Entry::Inbound { port, .. } => match &worker.view().snapshot.inbound {
            Some(inbound) if !inbound.authorization.is_empty() => {
                let access = Access { head: Some(head), port: port.service_port.port };
                judged(worker, caller, &inbound.authorization, &access)
            }
            _ => Ok(()),
        },
        Entry::Gateway { port, .. } => match rule.and_then(|rule| rule.filters.authorization.as_ref()) {
            Some(authorization) => judged(worker, caller, authorization, &Access { head: Some(head), port: *port }),
            None => Ok(()),
        },
        Entry::Outbound { .. } | Entry::Egress { .. } => Ok(()),
    }
}

/// Whether a connection may be made whose bytes are not looked at.
///
/// # Errors
/// [`Reason::AccessDenied`].
pub fn connection(worker: &Worker, caller: &Caller) -> Result<(), Failure> {
    let judged = may_connect(worker, caller);
    told(worker, caller, None, if judged.is_ok() { Verdict::Passed } else { Verdict::Denied });
    judged
}

fn may_connect(worker: &Worker, caller: &Caller) -> Result<(), Failure> {
    let (Entry::Inbound { port, .. }, Some(inbound)) = (&caller.entry, &worker.view().snapshot.inbound) else { return Ok(()) };
    if inbound.authorization.is_empty() {
        return Ok(());
    }
    judged(worker, caller, &inbound.authorization, &Access { head: None, port: port.service_port.port })
}

/// Runs a request for as long as its caller may make it.
///
/// # Errors
/// What ended it.
pub async fn while_allowed(
    worker: &Worker,
    caller: &Caller,
    head: &RequestHead,
    passing: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    if !matches!(caller.entry, Entry::Inbound { .. }) {
        return passing.await;
    }
    let mut passing = std::pin::pin!(passing);
    let mut seen = worker.rejudge.changes();
    loop {
        tokio::select! {
            biased;
            passed = &mut passing => return passed,
            () = worker.rejudge.changed(seen) => {
                seen = worker.rejudge.changes();
                may_request(worker, caller, head, None)?;
            }
        }
    }
}

/// Waits until a connection whose bytes are not looked at may not go on.
pub async fn until_denied(worker: &Worker, caller: &Caller) -> Failure {
    let mut seen = worker.rejudge.changes();
    loop {
        worker.rejudge.changed(seen).await;
        seen = worker.rejudge.changes();
        if let Err(failure) = may_connect(worker, caller) {
            return failure;
        }
    }
}

fn judged(worker: &Worker, caller: &Caller, authorization: &Arc<Authorization>, access: &Access<'_>) -> Result<(), Failure> {
    let granted = caller.granted(authorization, || granted(worker, caller, authorization.clone()));
    let count = |policy: &AccessPolicy, of: fn(&AccessCounts) -> &AtomicU64| {
        let at = authorization.policies.iter().position(|known| std::ptr::eq(known, policy));
        if let Some(counts) = at.and_then(|at| granted.counts.get(at)) {
            of(counts).fetch_add(1, Ordering::Relaxed);
        }
    };
    let verdict = granted.permissions.judge(access, |noted| match noted {
        Noted::Audited(by) => {
            count(by.policy, |counts| &counts.audited);
            let head = access.head;
            tracing::info!(
                policy = %by,
                caller = caller.entry.peer().map(|peer| tracing::field::display(&peer.id)),
                remote = %caller.remote,
                method = head.map(RequestHead::method),
                path = head.map(RequestHead::path),
                "a call was audited"
            );
        }
        Noted::WouldDeny(by) => {
            count(by.policy, |counts| &counts.would_deny);
            told(worker, caller, access.head, Verdict::WouldDeny(by.policy.name()));
        }
        Noted::WouldPass(policy) => {
            count(policy, |counts| &counts.would_pass);
            told(worker, caller, None, Verdict::WouldPass(policy.name()));
        }
    });
    let Err(denial) = verdict.map(drop) else { return Ok(()) };
    let (reason, detail, by) = match denial {
        Denial::Denied(by) => (Reason::AccessDenied, format!("the AuthorizationPolicy {by} denies it"), Some(by)),
        Denial::NotAllowed(by) => (Reason::AccessDenied, format!("no AuthorizationPolicy allows it; {by} does not"), Some(by)),
        Denial::Ambiguous { why } => (Reason::AmbiguousPath, format!("the path has {why}"), None),
    };
    if let Some(by) = by {
        count(by.policy, |counts| &counts.denied);
    }
    // Who proved to be of the mesh may know; others learn nothing of how it is protected.
    let told = by.filter(|_| caller.entry.peer().is_some()).map(|by| (POLICY.into(), by.to_string()));
    Err(Failure { told: told.into_iter().collect(), ..Failure::new(reason, detail) })
}

/// Tells the control plane of a call to the app.
fn told(worker: &Worker, caller: &Caller, head: Option<&RequestHead>, verdict: Verdict) {
    if let Entry::Inbound { port, .. } = &caller.entry {
        worker.observed.saw(caller, &port.service_port, head, verdict);
    }
}

fn granted(worker: &Worker, caller: &Caller, authorization: Arc<Authorization>) -> Granted {
    let counts = authorization.policies.iter().map(|policy| worker.telemetry.metrics.access(policy.name())).collect();
    let who = AccessCaller {
        identity: caller.entry.peer().map(|peer| &peer.id),
        // A workload of the mesh is seen by its own address, not by that of its host.
        address: caller.virtual_address().map_or_else(|| caller.remote.ip(), Into::into),
    };
    Granted { permissions: Permissions::of(authorization, &who), counts }
}

/// What is remembered of what a caller may do.
#[derive(Debug, Default)]
pub struct Remembered(std::cell::RefCell<Vec<Rc<Granted>>>);

impl Remembered {
    /// What `authorization` grants, worked out by `make` where it is not known.
    pub fn get(&self, authorization: &Arc<Authorization>, make: impl FnOnce() -> Granted) -> Rc<Granted> {
        let mut known = self.0.borrow_mut();
        if let Some(granted) = known.iter().find(|granted| Arc::ptr_eq(granted.permissions.authorization(), authorization)) {
            return granted.clone();
        }
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        let granted = Rc::new(make());
        known.push(granted.clone());
        granted
    }
}
