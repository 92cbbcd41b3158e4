//! Tokens of global limits: what the control plane lent of each key, and the task that asks for more before there is need.
//!
//! A request takes a token by one change of one word. Where there is none it waits for the answer to a question, which all that wait
//! share; while the control plane does not answer, each proxy goes by its share of the rate.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lorica_model::snapshot::lease::{LEASE_TIME, asks_again, wanted};
use lorica_xds::rate_limit::{Ask, Borrower, Descriptor, Grant};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};

/// How long the control plane may take to answer before it counts as away.
const ANSWER: Duration = Duration::from_millis(500);
/// How long until one that is away is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long is waited for more questions that can be asked together.
const PACE: Duration = Duration::from_millis(1);
/// For how long it is believed that there is no token, at most.
const BELIEVED: Duration = Duration::from_millis(250);
/// How often what ran out is given back.
const SWEEP: Duration = Duration::from_millis(250);
/// The most questions that wait, and the most that are asked at once.
const WAITING: usize = 4096;
const BATCH: usize = 512;
/// The most keys of a limit; further ones count together.
const MOST_KEYS: usize = 10_000;
/// After so long without a request, a key is forgotten where there is need for room.
const IDLE: Duration = Duration::from_secs(10);
/// Times of leases are kept in steps of 2^24 ns, 17 ms, so that time and count fit into one word for two years.
const STEP_BITS: u32 = 24;
const HELD_BITS: u32 = 32;
const HELD: u64 = (1 << HELD_BITS) - 1;

/// What the control plane lent of one key.
#[derive(Debug)]
pub(super) struct Lease {
    of: Descriptor,
    /// Until when, and how many tokens are left: in one word, so that a token is never taken of a lease that ran out.
    word: AtomicU64,
    /// How many were held after the last answer.
    lent: AtomicU64,
    /// Requests since the last question.
    seen: AtomicU64,
    waiting: AtomicU64,
    /// Until when there is none to be had, as far as is known, and until when that is taken for true: others may give back what they hold.
    refused_until: AtomicU64,
    believed_until: AtomicU64,
    asked_at: AtomicU64,
    used_at: AtomicU64,
    /// Whether a question is on its way.
    asking: AtomicBool,
    /// Whether the task looks after what is left of it.
    watched: AtomicBool,
    /// Whether another may have come in its place.
    forgotten: AtomicBool,
    answered: Notify,
}

impl Lease {
    fn new(of: Descriptor) -> Self {
        Self {
            of,
            word: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            refused_until: AtomicU64::new(0),
            believed_until: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            used_at: AtomicU64::new(0),
            asking: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            answered: Notify::new(),
        }
    }

    /// Takes a token: how many are left.
    fn take(&self, now: u64) -> Option<u64> {
        let spend = |word: u64| (word >> HELD_BITS > now >> STEP_BITS && word & HELD > 0).then(|| word - 1);
        self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).ok().map(|word| (word & HELD) - 1)
    }

    fn held(&self, now: u64) -> u64 {
        let word = self.word.load(Ordering::Relaxed);
        if word >> HELD_BITS > now >> STEP_BITS { word & HELD } else { 0 }
    }

    /// Adds what was lent, for as long as all of it then lasts.
    fn add(&self, tokens: u64, asked: u64, now: u64) {
        let until = asked.saturating_add(nanoseconds(LEASE_TIME)) >> STEP_BITS;
        let after = |word: u64| {
            let left = if word >> HELD_BITS > now >> STEP_BITS { word & HELD } else { 0 };
            Some(until << HELD_BITS | (left + tokens).min(HELD))
        };
        if let Ok(before) = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after) {
            self.lent.store(after(before).unwrap_or_default() & HELD, Ordering::Relaxed);
        }
    }

    /// Takes what ran out unspent.
    fn run_out(&self, now: u64) -> u64 {
        let word = self.word.load(Ordering::Relaxed);
        let over = word & HELD > 0 && word >> HELD_BITS <= now >> STEP_BITS;
        if over && self.word.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() { word & HELD } else { 0 }
    }

    /// What is asked for it now.
    fn ask(&self, now: u64) -> Ask {
        let since = Duration::from_nanos(now.saturating_sub(self.asked_at.swap(now, Ordering::Relaxed)));
        let wanted = wanted(self.seen.swap(0, Ordering::Relaxed), since, self.waiting.load(Ordering::Relaxed));
        let returned = self.run_out(now);
        Ask { of: self.of.clone(), wanted, held: self.held(now), returned }
    }

    fn answer(&self, ask: &Ask, grant: Grant, asked: u64, now: u64) {
        // A limit that the control plane does not know any more is about to go here, too.
        let tokens = grant.tokens.unwrap_or(ask.wanted);
        if tokens > 0 {
            self.add(tokens, asked, now);
        } else if ask.wanted > ask.held {
            self.refused_until.store(now.saturating_add(nanoseconds(grant.wait)), Ordering::Relaxed);
            self.believed_until.store(now.saturating_add(nanoseconds(grant.wait.min(BELIEVED))), Ordering::Relaxed);
        }
        self.asking.store(false, Ordering::Release);
        self.answered.notify_waiters();
    }
}

/// A request that waits.
struct Waits<'l>(&'l Lease);

impl<'l> Waits<'l> {
    fn begin(lease: &'l Lease) -> Self {
        lease.waiting.fetch_add(1, Ordering::Relaxed);
        Self(lease)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of a request that needs a token.
#[derive(Debug)]
pub(super) enum Borrowed {
    /// It has one.
    Token,
    /// There is none, for this long.
    None(Duration),
    /// The control plane does not answer.
    Away,
}

/// The way to the control plane.
#[derive(Debug)]
pub(super) struct Lending {
    start: Instant,
    questions: Option<mpsc::Sender<Arc<Lease>>>,
    away: AtomicBool,
}

impl Lending {
    /// Nobody lends.
    #[must_use]
    pub(super) fn nobody(start: Instant) -> Self {
        Self { start, questions: None, away: AtomicBool::new(true) }
    }

    /// The control plane lends, by the task that gets these questions.
    #[must_use]
    pub(super) fn by_control_plane(start: Instant) -> (Self, mpsc::Receiver<Arc<Lease>>) {
        let (questions, asked) = mpsc::channel(WAITING);
        (Self { start, questions: Some(questions), away: AtomicBool::new(false) }, asked)
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub(super) fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// Whether a question is on its way.
    fn ask(&self, lease: &Arc<Lease>) -> bool {
        let Some(questions) = &self.questions else { return false };
        if lease.asking.swap(true, Ordering::Acquire) {
            return true;
        }
        let asked = questions.try_send(lease.clone()).is_ok();
        if !asked {
            lease.asking.store(false, Ordering::Release);
        }
        asked
    }

    /// Takes a token, or waits for one.
    pub(super) async fn take(&self, lease: &Arc<Lease>) -> Borrowed {
        let mut now = self.now();
        lease.seen.fetch_add(1, Ordering::Relaxed);
        lease.used_at.store(now, Ordering::Relaxed);
        if let Some(left) = lease.take(now) {
            if asks_again(left, lease.lent.load(Ordering::Relaxed)) {
                self.ask(lease);
            }
            return Borrowed::Token;
        }
        let deadline = tokio::time::Instant::now() + ANSWER;
        let _waits = Waits::begin(lease);
        loop {
            let mut answered = std::pin::pin!(lease.answered.notified());
            answered.as_mut().enable();
            // What came before the answer was listened for.
            if lease.take(now).is_some() {
                return Borrowed::Token;
            }
            let away = self.away.load(Ordering::Relaxed);
            if lease.believed_until.load(Ordering::Relaxed) > now && !away {
                let wait = lease.refused_until.load(Ordering::Relaxed).saturating_sub(now);
                return Borrowed::None(Duration::from_nanos(wait));
            }
            // One that is away is asked, too: it may be back.
            if !self.ask(lease) || away || timeout_at(deadline, answered).await.is_err() {
                return Borrowed::Away;
            }
            now = self.now();
        }
    }

    /// Gives back a token that was taken and not needed.
    pub(super) fn give_back(&self, lease: &Lease) {
        let now = self.now();
        let more = |word: u64| (word >> HELD_BITS > now >> STEP_BITS && word & HELD < HELD).then(|| word + 1);
        if lease.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            tracing::trace!("a token ran out before it was given back");
        }
    }
}

/// The leases of a limit's keys.
#[derive(Debug)]
pub(super) struct Leases {
    limit: Arc<str>,
    known: Mutex<HashMap<u64, Arc<Lease>>>,
    /// That of keys for which there is no room.
    rest: Arc<Lease>,
    /// How many proxies share the limit, as the control plane said last.
    pub(super) proxies: Arc<AtomicU32>,
}

impl Leases {
    /// None yet.
    #[must_use]
    pub(super) fn new(limit: Arc<str>, proxies: Arc<AtomicU32>) -> Self {
        let rest = Arc::new(Lease::new(Descriptor { limit: limit.to_string(), key: Vec::new() }));
        Self { limit, known: Mutex::default(), rest, proxies }
    }

    /// The lease of a key, and whether it has one of its own. Locks: a worker remembers what it got.
    pub(super) fn lease(&self, key: u64, parts: impl FnOnce() -> Vec<(String, String)>, now: u64) -> (Arc<Lease>, bool) {
        // Every change of it is complete before the next line can fail.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KEYS && !known.contains_key(&key) {
            known.retain(|_, lease| {
                let used = lease.used_at.load(Ordering::Relaxed).saturating_add(nanoseconds(IDLE)) > now;
                lease.forgotten.store(!used, Ordering::Relaxed);
                used
            });
            if known.len() >= MOST_KEYS {
                return (self.rest.clone(), false);
            }
        }
        match known.entry(key) {
            Entry::Occupied(found) => (found.get().clone(), true),
            Entry::Vacant(place) => {
                let of = Descriptor { limit: self.limit.to_string(), key: parts() };
                let lease = Lease::new(of);
                lease.used_at.store(now, Ordering::Relaxed);
                (place.insert(Arc::new(lease)).clone(), true)
            }
        }
    }
}

impl Lease {
    /// Whether another may have come in its place.
    #[must_use]
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }
}

/// Asks the control plane for tokens, and gives back what ran out, until nobody is left who needs any. `told`: hears how many proxies share a
/// limit.
pub(super) async fn borrow(
    mut borrower: Borrower,
    mut questions: mpsc::Receiver<Arc<Lease>>,
    lending: Arc<Lending>,
    mut told: impl FnMut(&str, u32),
) {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watched: Vec<Arc<Lease>> = Vec::new();
    loop {
        let mut batch: Vec<(Arc<Lease>, Ask)> = Vec::new();
        tokio::select! {
            first = questions.recv() => {
                let Some(first) = first else { return };
                sleep(PACE).await;
                let mut leases = vec![first];
                while let Ok(more) = questions.try_recv() {
                    leases.push(more);
                    if leases.len() == BATCH {
                        break;
                    }
                }
                let now = lending.now();
                batch.extend(leases.into_iter().map(|lease| {
                    let ask = lease.ask(now);
                    (lease, ask)
                }));
            }
            _ = sweep.tick() => {
                let now = lending.now();
                watched.retain(|lease| {
                    let returned = lease.run_out(now);
                    if returned > 0 && batch.len() < BATCH {
                        batch.push((lease.clone(), Ask { of: lease.of.clone(), wanted: 0, held: 0, returned }));
                    }
                    let watch = lease.word.load(Ordering::Relaxed) & HELD > 0;
                    lease.watched.store(watch, Ordering::Relaxed);
                    watch
                });
                if batch.is_empty() {
                    continue;
                }
            }
        }
        let asks: Vec<Ask> = batch.iter().map(|(_, ask)| ask.clone()).collect();
        let asked = lending.now();
        let answer = borrower.ask(&asks, ANSWER).await;
        let now = lending.now();
        match answer {
            Ok(grants) => {
                if lending.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the control plane lends tokens of global limits again");
                }
                for ((lease, ask), grant) in batch.into_iter().zip(grants) {
                    told(&ask.of.limit, grant.proxies);
                    if ask.wanted == 0 && ask.returned > 0 {
                        continue;
                    }
                    lease.answer(&ask, grant, asked, now);
                    if grant.tokens.is_some_and(|tokens| tokens > 0) && !lease.watched.swap(true, Ordering::Relaxed) {
                        watched.push(lease);
                    }
                }
            }
            Err(status) => {
                if !lending.away.swap(true, Ordering::Relaxed) {
                    let message = status.message();
                    tracing::warn!(message, "the control plane lends no tokens: this proxy goes by its share of global limits");
                }
                for (lease, _) in batch {
                    lease.asking.store(false, Ordering::Release);
                    lease.answered.notify_waiters();
                }
                sleep(AGAIN).await;
            }
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn lease() -> Arc<Lease> {
        Arc::new(Lease::new(Descriptor { limit: "p.n/l".to_owned(), key: Vec::new() }))
    }

    fn grant(tokens: u64) -> Grant {
        Grant { tokens: Some(tokens), wait: Duration::from_secs(2), proxies: 1 }
    }

    #[test]
    fn tokens_are_spent_until_they_run_out() {
        let lease = lease();
        assert_eq!(lease.take(0), None);
        lease.add(3, 0, 0);
        assert_eq!((lease.take(0), lease.take(SECOND / 2), lease.held(SECOND / 2)), (Some(2), Some(1), 1));
        assert_eq!((lease.take(SECOND), lease.held(SECOND), lease.run_out(SECOND), lease.run_out(SECOND)), (None, 0, 1, 0));
        // What is left lasts as long as what is added.
        lease.add(1, SECOND, SECOND);
        lease.add(1, SECOND * 3 / 2, SECOND * 3 / 2);
        assert_eq!((lease.held(2 * SECOND), lease.lent.load(Ordering::Relaxed)), (2, 2));
    }

    #[test]
    fn a_question_says_what_is_there_and_what_is_wanted() {
        let lease = lease();
        lease.seen.store(50, Ordering::Relaxed);
        lease.add(4, SECOND / 2, SECOND / 2);
        let ask = lease.ask(SECOND);
        assert_eq!((ask.wanted, ask.held, ask.returned), (5, 4, 0));
        let ask = lease.ask(9 * SECOND);
        assert_eq!((ask.wanted, ask.held, ask.returned), (0, 0, 4));
    }

    #[test]
    fn keys_past_the_bound_have_one_lease() {
        let leases = Leases::new("p.n/l".into(), Arc::default());
        let of = |key, now| leases.lease(key, Vec::new, now);
        for key in 0..MOST_KEYS as u64 {
            assert!(of(key, 0).1);
        }
        assert!(!of(MOST_KEYS as u64, SECOND).1);
        let first = of(0, SECOND).0;
        // Once they are idle there is room.
        assert!(of(MOST_KEYS as u64, 20 * SECOND).1 && first.is_forgotten());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_token_waits_for_the_answer() {
        let (lending, mut questions) = Lending::by_control_plane(Instant::now());
        let (lending, lease) = (Arc::new(lending), lease());
        let waits = |lending: Arc<Lending>, lease: Arc<Lease>| tokio::spawn(async move { lending.take(&lease).await });
        let (one, two) = (waits(lending.clone(), lease.clone()), waits(lending.clone(), lease.clone()));
        let asked = questions.recv().await.unwrap();
        tokio::task::yield_now().await;
        let ask = asked.ask(lending.now());
        assert_eq!(ask.wanted.max(2), ask.wanted);
        // One token for two: the other asks again, and is refused.
        asked.answer(&ask, grant(1), lending.now(), lending.now());
        let again = questions.recv().await.unwrap();
        let ask = again.ask(lending.now());
        again.answer(&Ask { wanted: 1, held: 0, ..ask }, grant(0), lending.now(), lending.now());
        let both = [one.await.unwrap(), two.await.unwrap()];
        assert_eq!(both.iter().filter(|got| matches!(got, Borrowed::Token)).count(), 1);
        assert_eq!(both.iter().filter(|got| matches!(got, Borrowed::None(wait) if wait.as_millis() > 1900)).count(), 1);
        // Who comes next is refused at once, and asks nothing.
        assert!(matches!(lending.take(&lease).await, Borrowed::None(_)));
        assert!(questions.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_does_not_answer_is_away() {
        let (lending, _questions) = Lending::by_control_plane(Instant::now());
        assert!(matches!(lending.take(&lease()).await, Borrowed::Away));
        assert!(matches!(Lending::nobody(Instant::now()).take(&lease()).await, Borrowed::Away));
    }
}
