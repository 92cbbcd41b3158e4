//! Adaptive concurrency: a limit of requests under way that follows how quickly a service answers.
//!
//! In: the latency of every answer, and the time. Out: a limit. While the recent latency stays near the least that was seen, the limit grows by
//! its square root each interval; as latency rises, it shrinks in proportion. The least is measured again from time to time with few requests
//! under way, or a service under steady load would make its own queue the measure of itself; so a service that became slower for good is
//! accepted, too.
//!
//! Workers of a process share limit and samples; an answer costs two writes, and whoever finds an interval over sets the limit.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use lorica_model::snapshot::Adaptive;

/// The limit from which it starts, within the bounds of the policy: Netflix's concurrency-limits start there.
const START: f64 = 20.0;
/// How long the least latency holds while nothing comes near it. Shorter than Envoy's 60 s, as measuring it anew costs no more than a moment.
const HOLDS: Duration = Duration::from_secs(30);
/// The same before it was measured: what came first may have been under load.
const HOLDS_FIRST: Duration = Duration::from_secs(2);
/// What comes this near to the least latency confirms it.
const NEAR: f64 = 1.1;
/// To which share of the limit requests are held while the least latency is measured.
const MEASURING_SHARE: f64 = 0.25;
/// The most that the limit shrinks in one interval.
const LEAST_GRADIENT: f64 = 0.5;
/// An interval goes on until it has so many answers: fewer say little.
const LEAST_SAMPLES: u32 = 5;
/// Of how many answers of an interval the median is taken.
const SAMPLES: usize = 128;

/// What one interval saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The median latency.
    pub latency: Duration,
    /// The most requests that were under way at once.
    pub peak: u32,
}

/// The limit and what it follows from.
#[derive(Debug)]
pub struct Controller {
    policy: Adaptive,
    limit: f64,
    least: Option<Duration>,
    /// When the least latency was last seen, or nearly.
    confirmed: Instant,
    /// For how long that holds.
    holds: Duration,
    /// Until when requests begun before the measuring are waited for; none while nothing is measured.
    measuring: Option<Instant>,
}

impl Controller {
    /// A controller that has seen nothing yet.
    #[must_use]
    pub fn new(policy: Adaptive, now: Instant) -> Self {
        let mut new = Self { policy, limit: START, least: None, confirmed: now, holds: HOLDS_FIRST, measuring: None };
        new.limit = new.bounded(START);
        new
    }

    fn bounded(&self, limit: f64) -> f64 {
        limit.min(f64::from(self.policy.maximum)).max(f64::from(self.policy.minimum.max(1)))
    }

    /// How many requests may be under way now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let limit = match self.measuring {
            Some(_) => self.bounded(self.limit * MEASURING_SHARE),
            None => self.limit,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the policy")]
        let limit = limit as u32;
        limit
    }

    /// An interval is over.
    pub fn interval(&mut self, seen: Seen, now: Instant) {
        if let Some(drained) = self.measuring {
            if now >= drained {
                (self.least, self.confirmed, self.holds, self.measuring) = (Some(seen.latency), now, HOLDS, None);
            }
            return;
        }
        let least = self.least.map_or(seen.latency, |least| least.min(seen.latency));
        self.least = Some(least);
        if seen.latency <= least.mul_f64(NEAR) {
            self.confirmed = now;
        } else if now.saturating_duration_since(self.confirmed) >= self.holds {
            // One interval to let the queue go, and one to measure in.
            self.measuring = Some(now + self.policy.interval.max(seen.latency) + self.policy.interval);
            return;
        }
        let tolerated = least.as_secs_f64() * (1.0 + f64::from(self.policy.tolerance_percent) / 100.0);
        let gradient = (tolerated / seen.latency.as_secs_f64().max(1e-9)).clamp(LEAST_GRADIENT, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        // What nobody used says nothing of what more would do.
        let unused = f64::from(seen.peak) * 2.0 < self.limit;
        if next < self.limit || !unused {
            self.limit = self.bounded(next);
        }
    }
}

/// The limit of one service port, for all workers.
#[derive(Debug)]
pub struct AdaptiveLimit {
    /// 0: there is none.
    limit: AtomicU32,
    /// When the interval is over, in nanoseconds after `epoch`.
    due: AtomicU64,
    epoch: Instant,
    samples: Samples,
    controller: Mutex<Option<Controller>>,
}

/// The latencies of an interval, in microseconds. Writers race without harm: a lost one is one sample.
#[derive(Debug)]
struct Samples {
    latencies: [AtomicU32; SAMPLES],
    count: AtomicU32,
    peak: AtomicU32,
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        let samples = Samples { latencies: std::array::from_fn(|_| AtomicU32::new(0)), count: AtomicU32::new(0), peak: AtomicU32::new(0) };
        Self { limit: AtomicU32::new(0), due: AtomicU64::new(0), epoch: Instant::now(), samples, controller: Mutex::default() }
    }
}

impl AdaptiveLimit {
    /// Sets what holds. What was learned stays, as long as the policy does.
    pub fn set(&self, policy: Option<Adaptive>, now: Instant) {
        let mut controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        if controller.as_ref().map(|controller| controller.policy) != policy {
            *controller = policy.map(|policy| Controller::new(policy, now));
            self.limit.store(controller.as_ref().map_or(0, Controller::limit), Ordering::Relaxed);
        }
    }

    /// How many requests may be under way; none: as many as come.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// So many requests are under way.
    pub fn under_way(&self, count: u32) {
        if self.samples.peak.load(Ordering::Relaxed) < count {
            self.samples.peak.fetch_max(count, Ordering::Relaxed);
        }
    }

    /// An answer took so long. Sets the limit where an interval is over.
    pub fn answered(&self, latency: Duration, now: Instant) {
        let place = self.samples.count.fetch_add(1, Ordering::Relaxed);
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.samples.latencies[place as usize % SAMPLES].store(micros, Ordering::Relaxed);
        let nanos = |at: Instant| u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        if place + 1 < LEAST_SAMPLES || nanos(now) < self.due.load(Ordering::Relaxed) {
            return;
        }
        let mut controller = match self.controller.try_lock() {
            Ok(controller) => controller,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another worker does it.
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(controller) = controller.as_mut() else { return };
        self.due.store(nanos(now + controller.policy.interval), Ordering::Relaxed);
        if let Some(seen) = self.samples.take() {
            controller.interval(seen, now);
            self.limit.store(controller.limit(), Ordering::Relaxed);
        }
    }
}

impl Samples {
    fn take(&self) -> Option<Seen> {
        let count = (self.count.swap(0, Ordering::Relaxed) as usize).min(SAMPLES);
        let mut latencies: Vec<u32> = self.latencies[..count].iter().map(|latency| latency.load(Ordering::Relaxed)).collect();
        let peak = self.peak.swap(0, Ordering::Relaxed);
        let middle = count.checked_sub(1)? / 2;
        let (_, median, _) = latencies.select_nth_unstable(middle);
        Some(Seen { latency: Duration::from_micros((*median).into()), peak })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that does so many requests at once, each in the same time; more wait for their turn.
    struct Service {
        at_once: f64,
        takes: Duration,
    }

    impl Service {
        fn latency(&self, under_way: u32) -> Duration {
            self.takes.mul_f64((f64::from(under_way) / self.at_once).max(1.0))
        }
    }

    struct Rig {
        controller: Controller,
        now: Instant,
    }

    impl Rig {
        fn new(policy: Adaptive) -> Self {
            let now = Instant::now();
            Self { controller: Controller::new(policy, now), now }
        }

        /// Callers want `wanted` requests under way for so many seconds. Gives the limits that there were.
        fn run(&mut self, service: &Service, wanted: u32, seconds: u64) -> Vec<u32> {
            let mut limits = Vec::new();
            for _ in 0..seconds * 10 {
                self.now += Duration::from_millis(100);
                let peak = self.controller.limit().min(wanted);
                self.controller.interval(Seen { latency: service.latency(peak), peak }, self.now);
                limits.push(self.controller.limit());
            }
            limits
        }
    }

    fn bounds(limits: &[u32]) -> (u32, u32) {
        (limits.iter().copied().min().unwrap_or_default(), limits.iter().copied().max().unwrap_or_default())
    }

    const STEADY: Service = Service { at_once: 100.0, takes: Duration::from_millis(20) };

    #[test]
    fn it_is_driven_near_what_the_service_can_do_and_stays_there() {
        for at_once in [10.0, 100.0, 500.0] {
            let mut rig = Rig::new(Adaptive::default());
            let service = Service { at_once, takes: Duration::from_millis(20) };
            rig.run(&service, 1000, 20);
            let limits = rig.run(&service, 1000, 600);
            let measuring = |limit: &&u32| f64::from(**limit) < at_once;
            assert!(limits.iter().filter(measuring).count() <= 600 / 30 * 3, "it is held low only while the least latency is measured");
            let (least, most) = bounds(&limits.iter().copied().filter(|limit| !measuring(&limit)).collect::<Vec<_>>());
            // Tolerance, and the root that there is always room for.
            let expected = (1.25 * at_once) / (1.0 - 1.0 / (1.4 * at_once).sqrt());
            assert!(f64::from(least) >= at_once && f64::from(most) <= expected * 1.1, "{at_once}: {least}..{most}, expected {expected}");
        }
    }

    #[test]
    fn it_shrinks_with_what_the_service_can_do_and_grows_again() {
        let mut rig = Rig::new(Adaptive::default());
        rig.run(&STEADY, 1000, 20);
        let before = rig.controller.limit();
        let slow = Service { at_once: 20.0, ..STEADY };
        let during = *rig.run(&slow, 1000, 5).last().unwrap_or(&0);
        assert!(before >= 100 && (20..50).contains(&during), "{before}, {during}");
        let after = *rig.run(&STEADY, 1000, 20).last().unwrap_or(&0);
        assert!(after >= 100, "{after}");
    }

    #[test]
    fn a_service_that_became_slower_for_good_is_accepted() {
        let mut rig = Rig::new(Adaptive::default());
        rig.run(&STEADY, 1000, 20);
        let slower = Service { takes: Duration::from_millis(60), ..STEADY };
        rig.run(&slower, 1000, 60);
        let (least, _) = bounds(&rig.run(&slower, 1000, 1));
        assert!(least >= 100, "{least}");
    }

    #[test]
    fn what_nobody_uses_does_not_grow() {
        let mut rig = Rig::new(Adaptive::default());
        assert_eq!(bounds(&rig.run(&STEADY, 5, 60)), (20, 20));
        let bounded = Adaptive { minimum: 7, maximum: 12, ..Adaptive::default() };
        assert_eq!(Rig::new(bounded).run(&STEADY, 1000, 1).last(), Some(&12));
        let mut rig = Rig::new(bounded);
        rig.run(&STEADY, 1000, 1);
        assert_eq!(rig.run(&Service { at_once: 1.0, ..STEADY }, 1000, 1).last(), Some(&7));
    }

    #[test]
    fn an_interval_is_over_once_it_is_time_and_enough_was_seen() {
        let (limit, now) = (AdaptiveLimit::default(), Instant::now());
        assert_eq!(limit.limit(), None);
        limit.set(Some(Adaptive::default()), now);
        assert_eq!(limit.limit(), Some(20));
        limit.under_way(20);
        (0..4).for_each(|_| limit.answered(Duration::from_millis(20), now));
        assert_eq!(limit.limit(), Some(20));
        limit.answered(Duration::from_millis(20), now);
        assert_eq!(limit.limit(), Some(24));
        limit.under_way(24);
        (0..500).for_each(|_| limit.answered(Duration::from_millis(20), now + Duration::from_millis(99)));
        assert_eq!(limit.limit(), Some(24));
        // One slow answer of many changes nothing: the median counts.
        limit.answered(Duration::from_secs(9), now + Duration::from_millis(100));
        assert_eq!(limit.limit(), Some(29));
        limit.set(None, now);
        assert_eq!(limit.limit(), None);
    }
}
