//! Ejection: which endpoints are left out for a while because of how calls to them went.
//!
//! In: the outcome of every call, and the time. Out: flags in [`Health`]. The arithmetic is Envoy's, with failures of the connection counted apart
//! (`split_external_local_origin_errors`) and every kind of ejection enforced, but for two things. An endpoint whose time is over is in
//! probation first: one request at a time finds out whether it is well, so that a broken endpoint costs one request, not as many as it takes
//! to eject it again. And what ends a row of failed connections is an answer, not a connection: an endpoint that takes connections and resets
//! each is ejected.
//!
//! Workers of a process share what is counted, so an endpoint is ejected by all of them after as many failures as one of them needs. Counting
//! takes no lock: the lock is for ejecting, for bringing back, and for the sweep at each interval.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lorica_model::snapshot::Ejection;

use super::health::{Health, LeftOut};

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Answers of 5xx in a row.
    ConsecutiveServerErrors,
    /// Answers of 502, 503 or 504 in a row.
    ConsecutiveGatewayErrors,
    /// Connections in a row that failed, broke or took too long.
    ConsecutiveLocalFailures,
    /// Its rate of success, beside that of the others.
    SuccessRate,
    /// The same of its connections.
    LocalSuccessRate,
    /// The share of its answers that failed.
    FailurePercentage,
    /// The same of its connections.
    LocalFailurePercentage,
    /// The request that was to find out whether it is well failed.
    Probation,
}

impl Why {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ConsecutiveServerErrors => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway",
            Self::ConsecutiveLocalFailures => "consecutive_local",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "success_rate_local",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalFailurePercentage => "failure_percentage_local",
            Self::Probation => "probation",
        }
    }
}

/// What was counted of the calls to one endpoint.
#[derive(Debug, Default)]
pub struct Calls {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    answers: Rate,
    connections: Rate,
}

/// How many there were since the last sweep, and how many of them went well.
#[derive(Debug, Default)]
struct Rate {
    all: AtomicU32,
    well: AtomicU32,
}

impl Rate {
    fn count(&self, well: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        if well {
            self.well.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Taken {
        let (well, all) = (self.well.swap(0, Ordering::Relaxed), self.all.swap(0, Ordering::Relaxed));
        Taken { all, well: well.min(all) }
    }
}

/// The calls of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// All of them.
    pub all: u32,
    /// Those that went well.
    pub well: u32,
}

impl Taken {
    /// The rate of success, in percent.
    fn rate(self) -> f64 {
        f64::from(self.well) * 100.0 / f64::from(self.all)
    }
}

/// After how many in a row an endpoint is ejected, as every call asks: 0 where that kind does not count.
#[derive(Debug, Default)]
struct Thresholds {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    rates: AtomicBool,
}

impl Thresholds {
    fn set(&self, policy: Option<&Ejection>) {
        let of = |threshold: Option<u32>| threshold.unwrap_or_default();
        let set = |to: &AtomicU32, threshold: fn(&Ejection) -> Option<u32>| to.store(of(policy.and_then(threshold)), Ordering::Relaxed);
        set(&self.server_errors, |policy| policy.consecutive_5xx);
        set(&self.gateway_errors, |policy| policy.consecutive_gateway);
        set(&self.local_failures, |policy| policy.consecutive_local);
        self.rates.store(policy.is_some_and(by_rates), Ordering::Relaxed);
    }
}

/// Whether rates of success decide, too.
const fn by_rates(policy: &Ejection) -> bool {
    policy.success_rate.is_some() || policy.failure_percentage.is_some()
}

/// One more in a row. Gives whether there are as many as the threshold.
fn one_more(count: &AtomicU32, threshold: &AtomicU32) -> bool {
    let threshold = threshold.load(Ordering::Relaxed);
    threshold > 0 && count.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= threshold
}

/// The end of a row. Nothing is written where there is none, so that workers read what none of them writes.
fn end(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

const fn is_gateway_error(status: u16) -> bool {
    matches!(status, 502..=504)
}

impl Calls {
    /// The endpoint answered with this status; for gRPC, the one that its status stands for.
    fn answered(&self, status: u16, thresholds: &Thresholds) -> Option<Why> {
        let well = !matches!(status, 500..=599);
        if thresholds.rates.load(Ordering::Relaxed) {
            self.answers.count(well);
        }
        self.connected(thresholds);
        if well {
            end(&self.server_errors);
            end(&self.gateway_errors);
            return None;
        }
        let mut why = None;
        if one_more(&self.server_errors, &thresholds.server_errors) {
            why = Some(Why::ConsecutiveServerErrors);
        }
        if !is_gateway_error(status) {
            end(&self.gateway_errors);
        } else if one_more(&self.gateway_errors, &thresholds.gateway_errors) {
            why = Some(Why::ConsecutiveGatewayErrors);
        }
        why
    }

    /// A connection to it was of use.
    fn connected(&self, thresholds: &Thresholds) {
        if thresholds.rates.load(Ordering::Relaxed) {
            self.connections.count(true);
        }
        end(&self.local_failures);
    }

    /// No connection came about, it broke, or the answer took too long.
    fn failed(&self, thresholds: &Thresholds) -> Option<Why> {
        if thresholds.rates.load(Ordering::Relaxed) {
            self.connections.count(false);
        }
        one_more(&self.local_failures, &thresholds.local_failures).then_some(Why::ConsecutiveLocalFailures)
    }

    fn reset(&self) {
        end(&self.server_errors);
        end(&self.gateway_errors);
        end(&self.local_failures);
    }
}

/// An endpoint as the sweep knows it.
#[derive(Debug)]
struct Member {
    health: Arc<Health>,
    name: String,
    /// By how many base times it is left out next, less one: it grows with each ejection and falls with each interval that it is well.
    times: u32,
    ejected: Option<(Instant, Why)>,
    back: Option<Instant>,
}

impl Member {
    /// For how long it is left out by its last ejection.
    fn term(&self, policy: &Ejection) -> Duration {
        policy.base_time.saturating_mul(self.times).min(policy.max_time)
    }

    fn eject(&mut self, policy: &Ejection, why: Why, now: Instant) -> Change {
        if policy.base_time.saturating_mul(self.times) < policy.max_time.saturating_add(policy.base_time) {
            self.times += 1;
        }
        self.ejected = Some((now, why));
        self.health.set(LeftOut::Ejected, true);
        self.health.set(LeftOut::Probation, false);
        Change::Ejected { name: self.name.clone(), why, term: self.term(policy) }
    }
}

/// What became of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is left out.
    Ejected {
        /// Which.
        name: String,
        /// Why.
        why: Why,
        /// For how long at least.
        term: Duration,
    },
    /// It was to be ejected, but as many are as may be.
    Spared {
        /// Which.
        name: String,
        /// Why it was to be.
        why: Why,
    },
    /// Its time is over: one request finds out whether it is well.
    Probation {
        /// Which.
        name: String,
    },
    /// It is well again.
    Back {
        /// Which.
        name: String,
    },
}

/// An ejected endpoint, for the page of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Out {
    /// Why.
    pub why: Why,
    /// How long until its time is over.
    pub left: Duration,
}

/// The ejections of one service port, for all workers.
#[derive(Debug, Default)]
pub struct Ejector {
    thresholds: Thresholds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    policy: Option<Ejection>,
    members: Vec<Member>,
    /// When the next sweep is due.
    due: Option<Instant>,
}

impl State {
    /// How many are ejected, probation counted.
    fn out(&self) -> usize {
        self.members.iter().filter(|member| member.health.is_ejected()).count()
    }

    /// Ejects a member, unless as many are as may be.
    fn eject(&mut self, index: usize, policy: &Ejection, why: Why, now: Instant) -> Change {
        let (out, all) = (self.out(), self.members.len());
        let member = &mut self.members[index];
        // Who is in probation counts as out already.
        if member.health.is_ejected() || may_eject(out, all, policy.max_percent) {
            return member.eject(policy, why, now);
        }
        Change::Spared { name: member.name.clone(), why }
    }

    /// Ejects by the rates of the interval that is over; what an ejected one did in it is forgotten.
    fn judge_rates(&mut self, policy: &Ejection, rate: fn(&Calls) -> &Rate, why: (Why, Why), now: Instant, changes: &mut Vec<Change>) {
        let taken: Vec<_> = self.members.iter().map(|member| rate(&member.health.calls).take()).collect();
        let counted: Vec<_> = (0..taken.len()).filter(|index| !self.members[*index].health.is_ejected()).collect();
        let calls: Vec<_> = counted.iter().map(|index| taken[*index]).collect();
        let (below_the_mean, failing) = outliers(&calls, policy);
        let by_mean = below_the_mean.into_iter().map(|index| (index, why.0));
        let by_share = failing.into_iter().map(|index| (index, why.1));
        for (index, why) in by_mean.chain(by_share) {
            if !self.members[counted[index]].health.is_ejected() {
                changes.push(self.eject(counted[index], policy, why, now));
            }
        }
    }
}

/// Whether one more of `all` endpoints may be ejected beside those that are: one always may be.
#[must_use]
pub fn may_eject(out: usize, all: usize, max_percent: u32) -> bool {
    out == 0 || (out + 1) * 100 <= all * max_percent as usize
}

/// Which of the endpoints are to be ejected for their rate of success: those far below the mean, then those that failed too large a share. `calls`:
/// those of each endpoint that is not ejected.
#[must_use]
pub fn outliers(calls: &[Taken], policy: &Ejection) -> (Vec<usize>, Vec<usize>) {
    let with_volume = |volume: u32| (0..calls.len()).filter(move |index| calls[*index].all > 0 && calls[*index].all >= volume);
    let below_the_mean = policy.success_rate.map(|by| {
        let valid: Vec<_> = with_volume(by.request_volume).collect();
        if valid.is_empty() || valid.len() < by.minimum_hosts as usize {
            return Vec::new();
        }
        let threshold = success_rate_threshold(valid.iter().map(|index| calls[*index].rate()), f64::from(by.stdev_factor) / 1000.0);
        valid.into_iter().filter(|index| calls[*index].rate() < threshold).collect()
    });
    let failing = policy.failure_percentage.map(|by| {
        let valid: Vec<_> = with_volume(by.request_volume).collect();
        if valid.len() < by.minimum_hosts as usize {
            return Vec::new();
        }
        valid.into_iter().filter(|index| 100.0 - calls[*index].rate() >= f64::from(by.threshold)).collect()
    });
    (below_the_mean.unwrap_or_default(), failing.unwrap_or_default())
}

/// The rate of success below which an endpoint is ejected: the mean less `factor` standard deviations. All in percent.
#[must_use]
pub fn success_rate_threshold(rates: impl Iterator<Item = f64> + Clone, factor: f64) -> f64 {
    let (sum, count) = rates.clone().fold((0.0, 0.0), |(sum, count), rate| (sum + rate, count + 1.0));
    let mean = sum / count;
    let variance = rates.map(|rate| (rate - mean) * (rate - mean)).sum::<f64>() / count;
    mean - factor * variance.sqrt()
}

impl Ejector {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what holds, and for whom: endpoints by health and name. What is known of those that stay is kept.
    pub fn set(&self, policy: Option<Ejection>, members: impl Iterator<Item = (Arc<Health>, String)>) {
        self.thresholds.set(policy.as_ref());
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.members);
        let known = |(health, name): (Arc<Health>, String)| {
            let known = before.iter().position(|member| Arc::ptr_eq(&member.health, &health));
            known.map(|index| before.swap_remove(index)).unwrap_or(Member { health, name, times: 0, ejected: None, back: None })
        };
        state.members = members.map(known).collect();
        if policy.is_none() {
            state.due = None;
            for member in &mut state.members {
                member.ejected = None;
                member.health.set(LeftOut::Ejected, false);
                member.health.set(LeftOut::Probation, false);
            }
        }
        state.policy = policy;
    }

    /// An endpoint answered with this status. `probe`: the call was to find out whether it is well.
    pub fn answered(&self, health: &Health, status: u16, probe: bool, now: Instant) -> Option<Change> {
        let why = health.calls.answered(status, &self.thresholds);
        if probe {
            return self.probed(health, |policy| !fails_probation(status, policy), now);
        }
        self.eject(health, why?, now)
    }

    /// A connection to an endpoint, of which nobody can say more, came about.
    pub fn connected(&self, health: &Health, probe: bool, now: Instant) -> Option<Change> {
        health.calls.connected(&self.thresholds);
        if probe { self.probed(health, |_| true, now) } else { None }
    }

    /// No connection to an endpoint came about, it broke, or the answer took too long.
    pub fn failed(&self, health: &Health, probe: bool, now: Instant) -> Option<Change> {
        let why = health.calls.failed(&self.thresholds);
        if probe {
            return self.probed(health, |_| false, now);
        }
        self.eject(health, why?, now)
    }

    fn eject(&self, health: &Health, why: Why, now: Instant) -> Option<Change> {
        let mut state = self.state();
        let policy = state.policy?;
        let index = state.members.iter().position(|member| std::ptr::eq(&*member.health, health))?;
        if health.is(LeftOut::Ejected) {
            return None;
        }
        // Also where it is spared: the next row begins with the next failure.
        health.calls.reset();
        Some(state.eject(index, &policy, why, now))
    }

    /// The request that was to find out whether an endpoint is well has found it.
    fn probed(&self, health: &Health, well: impl FnOnce(&Ejection) -> bool, now: Instant) -> Option<Change> {
        let mut state = self.state();
        let policy = state.policy?;
        let member = state.members.iter_mut().find(|member| std::ptr::eq(&*member.health, health))?;
        if !health.is(LeftOut::Probation) {
            return None;
        }
        health.calls.reset();
        if !well(&policy) {
            return Some(member.eject(&policy, Why::Probation, now));
        }
        (member.ejected, member.back) = (None, Some(now));
        health.set(LeftOut::Probation, false);
        Some(Change::Back { name: member.name.clone() })
    }

    /// A health check went well: an ejection need not wait for its end, as in Envoy. A real request has the last word.
    pub fn checked_well(&self, health: &Health) -> Option<Change> {
        if !health.is(LeftOut::Ejected) {
            return None;
        }
        let mut state = self.state();
        let member = state.members.iter_mut().find(|member| std::ptr::eq(&*member.health, health))?;
        Some(probation(member))
    }

    /// Looks for ejections that are over and at the rates of success, where that is due. Gives what changed, and when it is due again.
    pub fn sweep(&self, now: Instant) -> (Vec<Change>, Option<Instant>) {
        let mut state = self.state();
        let Some(policy) = state.policy else { return (Vec::new(), None) };
        // An interval that was made shorter counts at once.
        let due = state.due.unwrap_or(now + policy.interval).min(now + policy.interval);
        if now < due {
            state.due = Some(due);
            return (Vec::new(), Some(due));
        }
        state.due = Some(now + policy.interval);
        let mut changes = Vec::new();
        for member in &mut state.members {
            let over = member.ejected.is_some_and(|(since, _)| now.saturating_duration_since(since) >= member.term(&policy));
            if over && member.health.is(LeftOut::Ejected) {
                changes.push(probation(member));
            }
        }
        state.judge_rates(&policy, |calls| &calls.answers, (Why::SuccessRate, Why::FailurePercentage), now, &mut changes);
        state.judge_rates(&policy, |calls| &calls.connections, (Why::LocalSuccessRate, Why::LocalFailurePercentage), now, &mut changes);
        for member in state.members.iter_mut().filter(|member| !member.health.is_ejected()) {
            if member.back.is_some_and(|back| now.saturating_duration_since(back) >= policy.interval) {
                member.times = member.times.saturating_sub(1);
            }
        }
        (changes, state.due)
    }

    /// Why an endpoint is ejected, and for how much longer; none where it is not.
    #[must_use]
    pub fn out(&self, health: &Health, now: Instant) -> Option<Out> {
        let state = self.state();
        let policy = state.policy?;
        let member = state.members.iter().find(|member| std::ptr::eq(&*member.health, health))?;
        let (since, why) = member.ejected?;
        Some(Out { why, left: member.term(&policy).saturating_sub(now.saturating_duration_since(since)) })
    }
}

/// The time of a member is over.
fn probation(member: &mut Member) -> Change {
    // So that a few failures more do not eject it at once.
    member.health.calls.reset();
    // In this order: at no moment does nothing speak against it.
    member.health.set(LeftOut::Probation, true);
    member.health.set(LeftOut::Ejected, false);
    Change::Probation { name: member.name.clone() }
}

/// Whether an answer shows that an endpoint is not well: of the kinds that would have counted against it.
const fn fails_probation(status: u16, policy: &Ejection) -> bool {
    is_gateway_error(status) || matches!(status, 500..=599) && (policy.consecutive_5xx.is_some() || by_rates(policy))
}

#[cfg(test)]
mod tests;
