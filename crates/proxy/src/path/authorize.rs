//! authorize: whether the caller may do this. At the callee's proxy, so that nobody passes it by; at a gateway once its rule is known.
//!
//! What a caller may do is worked out once for its connection, and each request is held against that. What is under way is judged again when
//! policies change: a permission that is taken away ends it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use lorica_model::claims::Claims;
use lorica_model::head::RequestHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{
    Access, AccessCaller, AccessPolicy, Authorization, ByPolicy, Denial, Effect, Effects, HttpRule, Noted, Origin, Permissions, PolicySay,
    route,
};
use lorica_model::spiffe::TrustDomain;
use lorica_observe::metrics::AccessCounts;
use lorica_xds::observed::Verdict;

use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::relay::Relayed;
use super::{filter, gateway, trial};
use crate::worker::Worker;

/// By which a caller of the mesh is told who denied its call.
pub const POLICY: &str = "x-lorica-policy";
/// For how many places a connection remembers what its caller may do: a gateway's rules may each have policies of their own.
const MOST_REMEMBERED: usize = 8;

/// What the caller of a connection may do at one place, with the counts of the policies that say so.
#[derive(Debug)]
pub struct Granted {
    permissions: Permissions,
    /// The counts of each policy, in their order.
    counts: Vec<Arc<AccessCounts>>,
}

impl Granted {
    /// What the caller may do.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Counts what a policy said.
    pub fn count(&self, policy: &AccessPolicy, of: fn(&AccessCounts) -> &AtomicU64) {
        let at = self.permissions.authorization().policies.iter().position(|known| std::ptr::eq(known, policy));
        if let Some(counts) = at.and_then(|at| self.counts.get(at)) {
            of(counts).fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A request as it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'x> {
    /// Its head, as every later step sees it.
    pub head: &'x RequestHead,
    /// What its verified token says.
    pub claims: Option<&'x Claims>,
    /// When it came.
    pub came: SystemTime,
}

/// Whether a request may be made, and by which policies others are to be asked of it. `rule`: the one of a gateway that takes it.
///
/// # Errors
/// [`Reason::AccessDenied`] or [`Reason::AmbiguousPath`].
pub fn request(
    worker: &Worker,
    caller: &Caller,
    request: Judged<'_>,
    rule: Option<&HttpRule>,
    decided: &mut Decided,
) -> Result<Option<Asking>, Failure> {
    let asking = may_request(worker, caller, request, rule, decided);
    match asking {
        // What becomes of it, who is asked says.
        Ok(Some(_)) => {}
        Ok(None) => told(worker, caller, Some(request.head), Verdict::Passed),
        Err(_) => told(worker, caller, Some(request.head), Verdict::Denied),
    }
    asking
}

/// The policy that decided, its rule, and what it said; none: no policy has a say.
pub type Decided = Option<(Arc<Origin>, Option<u32>, &'static str)>;

/// Policies that let a request pass and have services asked of it, and the port that it calls.
pub type Asking = (Arc<Authorization>, u16);

/// The policies that judge a request, and the port at which they do. `rule`: the one of a gateway that takes it.
#[must_use]
pub fn judges(worker: &Worker, caller: &Caller, rule: Option<&HttpRule>) -> Option<(Arc<Authorization>, u16)> {
    match &caller.entry {
        Entry::Inbound { port, .. } => {
            worker.view().snapshot.inbound.as_ref().map(|inbound| (inbound.authorization.clone(), port.service_port.port))
        }
        Entry::Gateway { port, .. } => rule.and_then(|rule| rule.filters.authorization.clone()).map(|authorization| (authorization, *port)),
        Entry::Outbound { .. } | Entry::Egress { .. } => None,
    }
}

fn may_request(
    worker: &Worker,
    caller: &Caller,
    request: Judged<'_>,
    rule: Option<&HttpRule>,
    decided: &mut Decided,
) -> Result<Option<Asking>, Failure> {
    // Whoever asks whether it may ask is answered before.
    if filter::is_preflight(request.head, rule) {
        return Ok(None);
    }
    let access = |port| access(caller, port, Some(request));
    match &caller.entry {
        Entry::Inbound { port, .. } => at_app(worker, caller, &access(port.service_port.port), decided),
        Entry::Gateway { port, .. } => match rule.and_then(|rule| rule.filters.authorization.as_ref()) {
            Some(authorization) => judged(worker, caller, authorization, &access(*port), decided),
            None => Ok(None),
        },
        Entry::Outbound { .. } | Entry::Egress { .. } => Ok(None),
    }
}

/// What the caller may do by these policies.
pub fn grants(worker: &Worker, caller: &Caller, authorization: &Arc<Authorization>) -> Rc<Granted> {
    caller.granted(authorization, || granted(worker, caller, authorization.clone()))
}

/// By which a caller of the mesh is told which policy denied its call; others learn nothing of how it is protected.
pub fn named(worker: &Worker, caller: &Caller, by: &ByPolicy<'_>) -> Option<(std::borrow::Cow<'static, str>, String)> {
    let is_own = caller.entry.peer().is_some_and(|peer| Some(peer.id.trust_domain()) == own_trust_domain(worker).as_ref());
    is_own.then(|| (POLICY.into(), by.to_string()))
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
    let view = worker.view();
    let (authorization, port) = match &caller.entry {
        Entry::Inbound { port, .. } => return at_app(worker, caller, &access(caller, port.service_port.port, None), &mut None).map(drop),
        Entry::Gateway { port, chain, .. } => {
            (gateway::transport(&view, *port, chain.as_ref()).and_then(|route| route.authorization.as_ref()), *port)
        }
        Entry::Outbound { .. } | Entry::Egress { .. } => return Ok(()),
    };
    match authorization {
        Some(authorization) if !authorization.is_empty() => {
            judged(worker, caller, authorization, &access(caller, port, None), &mut None).map(drop)
        }
        _ => Ok(()),
    }
}

/// Whether a call to the app may be made. What nobody said anything of is open to callers of the mesh, and to no others.
fn at_app(worker: &Worker, caller: &Caller, access: &Access<'_>, decided: &mut Decided) -> Result<Option<Asking>, Failure> {
    let view = worker.view();
    let Some(inbound) = &view.snapshot.inbound else { return Ok(None) };
    let foreign = caller.entry.peer().map(|peer| peer.id.trust_domain()).filter(|domain| *domain != inbound.identity.trust_domain());
    // Who was verified by roots that are trusted no more has proved nothing.
    let forgotten = foreign.filter(|domain| view.snapshot.bundle.as_ref().is_some_and(|bundle| !bundle.federated.contains_key(*domain)));
    if let Some(domain) = forgotten {
        return Err(Failure::new(Reason::AccessDenied, format!("no TrustBundle names the trust domain {domain} any more")));
    }
    if inbound.authorization.is_empty() && foreign.is_none() {
        return Ok(None);
    }
    judged(worker, caller, &inbound.authorization, access, decided)
}

/// Runs a request, which is as `request` tells, for as long as its caller may make it. At a gateway, the rule that would take it now says whether
/// that is so.
///
/// # Errors
/// What ended it.
pub async fn while_allowed<'x>(
    worker: &Worker,
    caller: &Caller,
    request: impl Fn() -> Judged<'x>,
    passing: Pin<&mut impl Future<Output = Result<(), Failure>>>,
) -> Result<(), Failure> {
    let again = || match &caller.entry {
        Entry::Gateway { port, chain, .. } => {
            let (view, request) = (worker.view(), request());
            let rules = gateway::hosts(&view, *port, chain.as_ref()).and_then(|hosts| hosts.rules(request.head.authority()));
            // All shares of a rule are its own; a rule that is gone takes nothing away from what it let in.
            let rule = rules.and_then(|rules| route::rule(rules, request.head, 0.0, &mut ()).ok());
            may_request(worker, caller, request, rule.map(|rule| &**rule), &mut None).map(drop)
        }
        _ => may_request(worker, caller, request(), None, &mut None).map(drop),
    };
    match &caller.entry {
        Entry::Inbound { .. } | Entry::Gateway { .. } => judged_again(worker, passing, again).await?,
        Entry::Outbound { .. } | Entry::Egress { .. } => passing.await,
    }
}

/// Runs a relay for as long as its caller may be connected.
///
/// # Errors
/// What ended it.
pub async fn relay_while_allowed(
    worker: &Worker,
    caller: &Caller,
    relaying: Pin<&mut impl Future<Output = Relayed>>,
) -> Result<Relayed, Failure> {
    judged_again(worker, relaying, || may_connect(worker, caller)).await
}

/// Runs something until it is over, or what `again` says whenever policies have changed ends it. Who runs it holds it: what is handed on by value
/// would take its room once more in each function that it passes.
async fn judged_again<T>(
    worker: &Worker,
    mut running: Pin<&mut impl Future<Output = T>>,
    again: impl Fn() -> Result<(), Failure>,
) -> Result<T, Failure> {
    let mut seen = worker.rejudge.changes();
    loop {
        tokio::select! {
            biased;
            done = &mut running => return Ok(done),
            () = worker.rejudge.changed(seen) => {
                seen = worker.rejudge.changes();
                again()?;
            }
        }
    }
}

fn judged(
    worker: &Worker,
    caller: &Caller,
    authorization: &Arc<Authorization>,
    access: &Access<'_>,
    decided: &mut Decided,
) -> Result<Option<Asking>, Failure> {
    let granted = grants(worker, caller, authorization);
    let count = |policy: &AccessPolicy, of| granted.count(policy, of);
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
            let rule = by.rule.map(|rule| format!("the rule {}", rule.name)).unwrap_or_default();
            trial::tell(worker, caller, access.head, &by.policy.origin, Effect::Deny.into(), &rule);
        }
        Noted::WouldPass(policy) => {
            count(policy, |counts| &counts.would_pass);
            trial::tell(worker, caller, access.head, &policy.origin, Effects::NONE, "");
        }
    });
    if let Ok(Some(by)) = &verdict {
        *decided = Some(decision(by, PolicySay::Allows));
    }
    let Err(denial) = verdict.map(drop) else {
        return Ok(granted.permissions.has_authorizers().then(|| (authorization.clone(), access.port)));
    };
    let without_result = granted.permissions.without_result(&denial, access);
    let (reason, mut detail, by) = match denial {
        Denial::Denied(by) => (Reason::AccessDenied, format!("the AuthorizationPolicy {by} denies it"), Some(by)),
        Denial::NotAllowed(by) => (Reason::AccessDenied, format!("no AuthorizationPolicy allows it; {by} does not"), Some(by)),
        Denial::Unasked(by) => {
            (Reason::AccessDenied, format!("the AuthorizationPolicy {by} asks a service, which can be asked of requests only"), Some(by))
        }
        Denial::Foreign => {
            (Reason::AccessDenied, "the caller is of another trust domain, and no AuthorizationPolicy names it".to_owned(), None)
        }
        Denial::Ambiguous { why } => (Reason::AmbiguousPath, format!("the path has {why}"), None),
    };
    if let Some(by) = &by {
        *decided = Some(decision(by, if by.rule.is_some() { PolicySay::Denies } else { PolicySay::AllowsOther }));
    }
    if let Some((by, error)) = without_result {
        detail.push_str(&format!("; the condition of {by} has no result: {error}"));
    }
    if let Some(by) = by {
        count(by.policy, |counts| &counts.denied);
    }
    let named = by.as_ref().and_then(|by| named(worker, caller, by));
    Err(Failure { told: named.into_iter().collect(), ..Failure::new(reason, detail) })
}

fn decision(by: &ByPolicy<'_>, say: PolicySay) -> (Arc<Origin>, Option<u32>, &'static str) {
    let at = by.rule.and_then(|rule| by.policy.rules.iter().position(|known| std::ptr::eq(known, rule)));
    (by.policy.origin.clone(), at.and_then(|at| u32::try_from(at).ok()), say.words())
}

/// Tells the control plane of a call to the app.
pub fn told(worker: &Worker, caller: &Caller, head: Option<&RequestHead>, verdict: Verdict) {
    if let Entry::Inbound { port, .. } = &caller.entry {
        worker.observed.saw(caller, &port.service_port, head, verdict);
    }
}

/// The trust domain of the app that is called; none: there is none.
pub fn own_trust_domain(worker: &Worker) -> Option<TrustDomain> {
    worker.view().snapshot.inbound.as_ref().map(|inbound| inbound.identity.trust_domain().clone())
}

fn granted(worker: &Worker, caller: &Caller, authorization: Arc<Authorization>) -> Granted {
    let counts = authorization.policies.iter().map(|policy| worker.telemetry.metrics.access(policy.name())).collect();
    // A gateway's callers show no identity that it could be compared with.
    let own = own_trust_domain(worker).unwrap_or_default();
    Granted { permissions: Permissions::of(authorization, &access_caller(caller, &own)), counts }
}

/// Who calls, as policies know it. `own`: the trust domain of who is called.
pub fn access_caller<'c>(caller: &'c Caller, own: &'c TrustDomain) -> AccessCaller<'c> {
    AccessCaller { trust_domain: own, identity: caller.entry.peer().map(|peer| &peer.id), address: source(caller).ip() }
}

/// Where a caller comes from. A workload of the mesh is seen by its own address, not by that of its host.
fn source(caller: &Caller) -> SocketAddr {
    caller.virtual_address().map_or(caller.remote, |own| SocketAddr::new(own.into(), caller.remote.port()))
}

/// What is asked for at `port`: by a request, or to be connected.
pub fn access<'a>(caller: &'a Caller, port: u16, request: Option<Judged<'a>>) -> Access<'a> {
    Access {
        head: request.map(|request| request.head),
        port,
        claims: request.and_then(|request| request.claims),
        time: request.map_or_else(SystemTime::now, |request| request.came),
        identity: caller.entry.peer().map(|peer| &peer.id),
        address: source(caller),
        server_name: caller.server_name.as_deref(),
    }
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
