//! Limits: how much one proxy process may have under way to one service port, all of its workers together.
//!
//! Where no limit is set, a request writes to a count that only its own worker writes to: the retry budget is a share of what is under way,
//! and who wants to retry adds these counts up. Where one is set, all workers count in one place, so that it holds exactly. Guards give back
//! what they took when they are dropped, whatever became of the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lorica_model::reason::Reason;
use lorica_model::snapshot::{Limits, RetryLimit};

use super::adaptive::AdaptiveLimit;
use super::places::Places;

/// What is under way to one service port.
#[derive(Debug)]
pub struct UnderWay {
    by_worker: Box<[Cell]>,
    /// Only those begun while they are limited.
    requests: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
    /// A limit that follows the latency.
    pub adaptive: AdaptiveLimit,
    /// One for each connection that is open.
    pub open: Arc<Places>,
    /// One for each connection that is in use: an idle one of HTTP/1 has none.
    pub used: Arc<Places>,
}

/// A count that one worker writes to, in a line of memory of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell(AtomicU32);

/// A limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// `limits.requests`.
    Requests(u32),
    /// `limits.pending`.
    Pending(u32),
    /// What `limits.adaptive` has come to.
    Adaptive(u32),
}

impl Overflow {
    /// The reason of the answer.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Requests(_) | Self::Pending(_) => Reason::Overflow,
            Self::Adaptive(_) => Reason::Overloaded,
        }
    }

    /// The word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Requests(_) => "requests",
            Self::Pending(_) => "pending",
            Self::Adaptive(_) => "adaptive",
        }
    }
}

impl std::fmt::Display for Overflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requests(limit) => write!(f, "as many requests are under way as limits.requests: {limit} allows"),
            Self::Pending(limit) => write!(f, "as many requests wait as limits.pending: {limit} allows"),
            Self::Adaptive(limit) => write!(f, "limits.adaptive allows {limit} requests at once, as the service has become slower"),
        }
    }
}

impl UnderWay {
    /// Nothing under way yet, for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            by_worker: (0..workers.max(1)).map(|_| Cell::default()).collect(),
            requests: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            adaptive: AdaptiveLimit::default(),
            open: Arc::default(),
            used: Arc::default(),
        }
    }

    /// Sets what holds.
    pub fn set(&self, limits: &Limits, now: Instant) {
        self.adaptive.set(limits.adaptive, now);
        self.open.set(limits.connections);
        self.used.set(limits.connections);
    }

    fn of(&self, worker: usize) -> &AtomicU32 {
        &self.by_worker[worker % self.by_worker.len()].0
    }

    /// How many requests are under way, those that wait and retries among them.
    #[must_use]
    pub fn count(&self) -> u32 {
        let begun: u32 = self.by_worker.iter().map(|count| count.0.load(Ordering::Relaxed)).sum();
        begun + self.pending()
    }

    /// How many requests wait.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// How many of the requests under way are retries.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    /// A request of this worker goes out.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn begin_request(self: &Arc<Self>, worker: usize, limits: &Limits, now: Instant) -> Result<RequestGuard, Overflow> {
        let adaptive = limits.adaptive.and_then(|_| self.adaptive.limit());
        let most = limits.requests.into_iter().chain(adaptive).min();
        if let Some(most) = most {
            let Some(count) = one_more(&self.requests, most) else {
                return Err(if adaptive == Some(most) { Overflow::Adaptive(most) } else { Overflow::Requests(most) });
            };
            if adaptive.is_some() {
                self.adaptive.under_way(count);
            }
        }
        self.of(worker).fetch_add(1, Ordering::Relaxed);
        Ok(RequestGuard { under_way: self.clone(), worker, limited: most.is_some(), measured: adaptive.is_some(), begun: now })
    }

    /// A request waits for a connection or an endpoint.
    ///
    /// # Errors
    /// Where as many wait as may.
    pub fn begin_pending(self: &Arc<Self>, limits: &Limits) -> Result<PendingGuard, Overflow> {
        one_more(&self.pending, limits.pending).map(|_| PendingGuard(self.clone())).ok_or(Overflow::Pending(limits.pending))
    }

    /// A request is to be retried; none where as many are as may be.
    #[must_use]
    pub fn begin_retry(self: &Arc<Self>, limit: RetryLimit) -> Option<RetryGuard> {
        one_more(&self.retries, limit.most(self.count())).map(|_| RetryGuard(self.clone()))
    }
}

/// Counts one more, up to `most`, and gives how many there are then.
fn one_more(count: &AtomicU32, most: u32) -> Option<u32> {
    let before = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then(|| count + 1));
    before.ok().map(|before| before + 1)
}

/// A request that is under way, until it is dropped.
#[derive(Debug)]
pub struct RequestGuard {
    under_way: Arc<UnderWay>,
    worker: usize,
    limited: bool,
    measured: bool,
    begun: Instant,
}

impl RequestGuard {
    /// It was answered with this status. Errors say nothing of how quickly the service works.
    pub fn answered(&self, status: u16, now: Instant) {
        if self.measured && status < 500 {
            self.took(now.saturating_duration_since(self.begun), now);
        }
    }

    /// It was not answered in time.
    pub fn timed_out(&self, now: Instant) {
        if self.measured {
            self.took(now.saturating_duration_since(self.begun), now);
        }
    }

    fn took(&self, latency: Duration, now: Instant) {
        self.under_way.adaptive.answered(latency, now);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.under_way.of(self.worker).fetch_sub(1, Ordering::Relaxed);
        if self.limited {
            self.under_way.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request that waits, until it is dropped.
#[derive(Debug)]
pub struct PendingGuard(Arc<UnderWay>);

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A retry that is under way, until it is dropped.
#[derive(Debug)]
pub struct RetryGuard(Arc<UnderWay>);

impl Drop for RetryGuard {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use lorica_model::snapshot::Adaptive;

    use super::*;

    fn begin(under_way: &Arc<UnderWay>, worker: usize, limits: &Limits) -> Result<RequestGuard, Overflow> {
        under_way.begin_request(worker, limits, Instant::now())
    }

    #[test]
    fn no_more_requests_than_allowed_whichever_worker_sends_them() {
        let (under_way, limits) = (Arc::new(UnderWay::new(2)), Limits { requests: Some(3), ..Limits::default() });
        let guards: Vec<_> = (0..3).map(|index| begin(&under_way, index % 2, &limits).unwrap()).collect();
        let refused = begin(&under_way, 0, &limits).unwrap_err();
        assert_eq!((refused, refused.reason()), (Overflow::Requests(3), Reason::Overflow));
        assert_eq!(refused.to_string(), "as many requests are under way as limits.requests: 3 allows");
        assert_eq!(under_way.count(), 3);
        drop(guards);
        assert_eq!(under_way.count(), 0);
        assert!(begin(&under_way, 1, &limits).is_ok());
    }

    #[test]
    fn a_limit_may_come_and_go_while_requests_are_under_way() {
        let under_way = Arc::new(UnderWay::new(1));
        let (none, one) = (Limits::default(), Limits { requests: Some(1), ..Limits::default() });
        let before = begin(&under_way, 0, &none).unwrap();
        let limited = begin(&under_way, 0, &one).unwrap();
        assert!(begin(&under_way, 0, &one).is_err());
        drop((limited, before));
        assert_eq!((under_way.count(), under_way.requests.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn retries_are_a_share_of_what_is_under_way() {
        let (under_way, limits) = (Arc::new(UnderWay::new(4)), Limits::default());
        let budget = RetryLimit::Budget { percent: 20, minimum: 3 };
        let few: Vec<_> = std::iter::from_fn(|| under_way.begin_retry(budget)).collect();
        assert_eq!((few.len(), under_way.retries()), (3, 3), "a few always may be");
        let requests: Vec<_> = (0..45).map(|index| begin(&under_way, index, &limits).unwrap()).collect();
        let waiting: Vec<_> = (0..5).map(|_| under_way.begin_pending(&limits).unwrap()).collect();
        let more: Vec<_> = std::iter::from_fn(|| under_way.begin_retry(budget)).collect();
        assert_eq!((more.len(), under_way.retries()), (7, 10), "20 % of 50");
        drop(requests);
        assert!(under_way.begin_retry(budget).is_none());
        assert_eq!(under_way.count(), 5);
        drop((few, more, waiting));
        assert_eq!((under_way.retries(), under_way.count()), (0, 0));
        assert!(under_way.begin_retry(RetryLimit::AtMost(0)).is_none());
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let (under_way, limits) = (Arc::new(UnderWay::new(1)), Limits { pending: 1, ..Limits::default() });
        let waits = under_way.begin_pending(&limits).unwrap();
        assert_eq!(under_way.begin_pending(&limits).unwrap_err(), Overflow::Pending(1));
        drop(waits);
        assert!(under_way.begin_pending(&limits).is_ok());
    }

    #[test]
    fn the_limit_that_is_reached_is_named() {
        let under_way = Arc::new(UnderWay::new(1));
        let limits = Limits { requests: Some(30), adaptive: Some(Adaptive::default()), ..Limits::default() };
        under_way.set(&limits, Instant::now());
        let guards: Vec<_> = (0..20).map(|_| begin(&under_way, 0, &limits).unwrap()).collect();
        let shed = begin(&under_way, 0, &limits).unwrap_err();
        assert_eq!((shed, shed.reason()), (Overflow::Adaptive(20), Reason::Overloaded));
        drop(guards);
    }
}
