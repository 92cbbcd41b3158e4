//! Ten proxies with uneven and changing load, that come and go, in simulated time: each goes by the same rules as the real one, and what all
//! of them let through is held against the written bound.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::time::Duration;

use lorica_model::name::WorkloadName;
use lorica_model::snapshot::{Rate, lease};
use lorica_xds::rate_limit::{Ask, Descriptor};

use super::Allocator;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;
/// How long a question and its answer take.
const ROUND: u64 = 2 * MILLISECOND;

/// A proxy that lends.
struct Proxy {
    name: WorkloadName,
    held: u64,
    until: u64,
    /// How many it was lent last.
    lent: u64,
    seen: u64,
    asked_at: u64,
    /// When it may ask again after it got none.
    refused_until: u64,
    /// What was asked, and when its answer comes.
    under_way: Option<u64>,
    /// Requests that wait for an answer.
    waiting: u64,
    /// The part of a request that has not come yet.
    owed: f64,
}

impl Proxy {
    fn new(number: usize) -> Self {
        Self {
            name: format!("web-{number}.shop").parse().unwrap(),
            held: 0,
            until: 0,
            lent: 0,
            seen: 0,
            asked_at: 0,
            refused_until: 0,
            under_way: None,
            waiting: 0,
            owed: 0.0,
        }
    }

    /// What passes in a millisecond in which `load` requests a second come.
    fn step(&mut self, allocator: &mut Allocator, rate: Rate, load: f64, now: u64) -> u64 {
        let mut passed = 0;
        if self.under_way.is_some_and(|at| at <= now) {
            passed += self.answered(allocator, rate, now);
        }
        if self.until <= now {
            self.held = 0;
        }
        self.owed += load / 1000.0;
        while self.owed >= 1.0 {
            self.owed -= 1.0;
            self.seen += 1;
            if self.held > 0 {
                self.held -= 1;
                passed += 1;
            } else if self.refused_until <= now {
                self.waiting += 1;
            }
        }
        let wants = self.waiting > 0 || (self.seen > 0 && lease::asks_again(self.held, self.lent));
        if wants && self.under_way.is_none() && self.refused_until <= now {
            self.under_way = Some(now + ROUND);
        }
        passed
    }

    fn answered(&mut self, allocator: &mut Allocator, rate: Rate, now: u64) -> u64 {
        self.under_way = None;
        let wanted = lease::wanted(self.seen, Duration::from_nanos(now - self.asked_at), self.waiting);
        let held = if self.until > now { self.held } else { 0 };
        let ask = Ask { of: of(), wanted, held, returned: 0 };
        let got = allocator.lend(&self.name, &ask, rate, now);
        (self.held, self.until) = (held + got.tokens, now + SECOND);
        (self.lent, self.seen, self.asked_at) = (self.held, 0, now);
        if got.tokens == 0 && wanted > held {
            self.refused_until = now + got.wait;
        }
        let passed = self.waiting.min(self.held);
        self.held -= passed;
        self.waiting = 0;
        passed
    }
}

fn of() -> Descriptor {
    Descriptor { limit: "all.shop/total".to_owned(), key: Vec::new() }
}

/// The requests that pass in each millisecond. `load`: requests a second that come to a proxy at a time; none: it is not there.
fn run(rate: Rate, seconds: u64, load: impl Fn(usize, u64) -> Option<f64>) -> Vec<u64> {
    let mut allocator = Allocator::default();
    let mut proxies: Vec<Option<Proxy>> = (0..10).map(|_| None).collect();
    let mut passed = Vec::new();
    let most = rate.in_time(lease::LENT_TIME).max(10);
    for millisecond in 0..seconds * 1000 {
        let now = millisecond * MILLISECOND;
        let mut sum = 0;
        for (number, proxy) in proxies.iter_mut().enumerate() {
            match load(number, millisecond) {
                // One that goes takes with it what it holds.
                None => *proxy = None,
                Some(load) => sum += proxy.get_or_insert_with(|| Proxy::new(number)).step(&mut allocator, rate, load, now),
            }
        }
        assert!(allocator.outstanding(&of(), now) <= most, "{} are lent after {millisecond} ms", allocator.outstanding(&of(), now));
        passed.push(sum);
    }
    passed
}

/// No stretch of time lets more through than the written bound: the bucket, the rate's share, and what may be lent.
#[track_caller]
fn assert_bounded(passed: &[u64], requests: u64, burst: u64) {
    let lent = (requests / 10).max(10);
    let mut before = vec![0];
    passed.iter().for_each(|count| before.push(before[before.len() - 1] + count));
    for length in [1, 100, 1000, 10_000, 60_000] {
        for start in (0..before.len().saturating_sub(length)).step_by(7) {
            let through = before[start + length] - before[start];
            let most = burst + lent + requests * length as u64 / 1000 + 1;
            assert!(through <= most, "{through} of at most {most} in {length} ms from {start} ms on");
        }
    }
}

const RATE: u32 = 1000;

fn rate() -> Rate {
    Rate::new(RATE, Duration::from_secs(1), 100)
}

/// Within 2 % of a thousand a second over a minute.
#[track_caller]
fn assert_within_two_percent(passed: &[u64]) {
    let through = passed.iter().rev().take(60_000).sum::<u64>();
    assert!((58_800..=61_200).contains(&through), "{through} in a minute");
    assert_bounded(passed, RATE.into(), 100);
}

#[test]
fn uneven_load_gets_the_whole_rate() {
    // One proxy has nine tenths of twice the rate.
    let passed = run(rate(), 60, |number, _| Some(if number == 0 { 1800.0 } else { 22.0 }));
    assert_within_two_percent(&passed);
}

#[test]
fn changing_load_gets_the_whole_rate() {
    // The hot spot moves on every two seconds; all together want half as much again as passes.
    let passed = run(rate(), 62, |number, at| Some(if number as u64 == at / 2000 % 10 { 1400.0 } else { 12.0 }));
    assert_within_two_percent(&passed);
}

#[test]
fn far_more_than_passes_gets_the_rate() {
    let passed = run(rate(), 60, |number, _| Some(1000.0 + 100.0 * number as f64));
    assert_within_two_percent(&passed);
}

#[test]
fn proxies_that_come_and_go_pass_the_bound_by_nothing() {
    // Each is there for some seconds and gone for some; those that go take with them what they hold.
    let there = |number: usize, at: u64| (at + number as u64 * 700) % (3000 + number as u64 * 500) > 800;
    let passed = run(rate(), 60, |number, at| there(number, at).then_some(500.0));
    assert_within_two_percent(&passed);
}

#[test]
fn nobody_is_refused_below_the_rate() {
    let load = |number: usize| if number == 3 { 500.0 } else { 40.0 };
    let passed = run(rate(), 30, |number, _| Some(load(number)));
    let came: f64 = (0..10).map(|number| load(number) * 30.0).sum();
    // What waits when the time is over has not passed yet.
    assert!(passed.iter().sum::<u64>() as f64 >= came - 30.0, "{} of {came}", passed.iter().sum::<u64>());
}

#[test]
fn a_slow_limit_is_kept_too() {
    let slow = Rate::new(60, Duration::from_secs(60), 5);
    let passed = run(slow, 60, |_, _| Some(10.0));
    let through: u64 = passed.iter().sum();
    // A token a second, and the first five.
    assert!((60..=65).contains(&through), "{through}");
}
