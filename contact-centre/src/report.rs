//! What a caller saw: outcomes of calls in, a report out. It does no I/O but the one file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Failures that a report tells in full; the rest is only counted.
const MOST_FAILURES: usize = 20;
/// Steps per doubling of a latency: a percentile is at most 1/32 too high.
const STEPS: u64 = 32;
/// Up to 2^36 µs, 19 hours; longer ones count as that.
const DOUBLINGS: u64 = 36;

/// How the calls went, so far or in the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Calls begun: answered, failed, or still in flight.
    pub calls: u64,
    /// Calls that met what is expected: 200, a call id, the customer who called, an agent or a queue.
    pub answered: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Calls that were due but never begun, since too many were in flight.
    pub held_back: u64,
    /// Answered calls with a recording.
    pub recorded: u64,
    /// Answered calls without.
    pub not_recorded: u64,
    /// Answered calls that analytics counted.
    pub counted: u64,
    /// Answered calls that it did not.
    pub not_counted: u64,
    /// Ended calls by HTTP status; `none` if no answer came.
    pub by_status: BTreeMap<String, u64>,
    /// The first failures.
    pub first_failures: Vec<FailedCall>,
    /// Median latency of answered calls, from when the call was due, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the same.
    pub p99_ms: f64,
}

/// A call that did not meet what is expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedCall {
    /// When it ended, RFC 3339, UTC.
    pub at: String,
    /// Which call it was, counted from 1.
    pub call: u64,
    /// What was wrong.
    pub error: String,
}

/// How one call ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Which call, counted from 1.
    pub(crate) call: u64,
    /// None if no answer came.
    pub(crate) status: Option<u16>,
    /// From when the call was due to its end.
    pub(crate) took: Duration,
    /// What the answer said, or what was wrong with it.
    pub(crate) result: Result<Answered, String>,
}

/// What an answer that met the expectation said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) recorded: bool,
    pub(crate) counted: bool,
}

/// Collects outcomes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    report: Report,
    latencies: Latencies,
}

impl Tally {
    /// A call was begun. Gives its number.
    pub(crate) fn begin(&mut self) -> u64 {
        self.report.calls += 1;
        self.report.calls
    }

    /// A call was due, but too many were in flight.
    pub(crate) fn hold_back(&mut self) {
        self.report.held_back += 1;
    }

    /// A call ended.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        let report = &mut self.report;
        let status = outcome.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        *report.by_status.entry(status).or_default() += 1;
        match outcome.result {
            Ok(answered) => {
                report.answered += 1;
                let recorded = if answered.recorded { &mut report.recorded } else { &mut report.not_recorded };
                *recorded += 1;
                let counted = if answered.counted { &mut report.counted } else { &mut report.not_counted };
                *counted += 1;
                self.latencies.add(outcome.took);
            }
            Err(error) => {
                report.failed += 1;
                if report.first_failures.len() < MOST_FAILURES {
                    let at = jiff::Timestamp::now().to_string();
                    report.first_failures.push(FailedCall { at, call: outcome.call, error });
                }
            }
        }
    }

    /// The report so far.
    pub(crate) fn report(&self) -> Report {
        let ms = |share: f64| self.latencies.percentile(share).as_secs_f64() * 1000.0;
        Report { p50_ms: ms(0.50), p99_ms: ms(0.99), ..self.report.clone() }
    }
}

impl Report {
    /// Whether every call met what is expected, and there was one.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.calls > 0
    }

    /// Puts the report at `path` in one step: a reader sees the one before or this one, never a part.
    ///
    /// # Errors
    /// The file, or `path` with `.tmp` at its end, cannot be written.
    pub async fn write(&self, path: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        tokio::fs::write(&beside, json).await?;
        tokio::fs::rename(&beside, path).await
    }
}

/// Counts of latencies in microseconds, finer for short ones, in fixed space.
#[derive(Debug)]
struct Latencies {
    buckets: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        let buckets = vec![0; (STEPS * (DOUBLINGS - 4)) as usize];
        Self { buckets, total: 0 }
    }
}

impl Latencies {
    fn add(&mut self, took: Duration) {
        let last = self.buckets.len() - 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket(micros).min(last)) {
            *bucket += 1;
            self.total += 1;
        }
    }

    /// The upper end of the bucket in which this share of all latencies is reached.
    fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return Duration::from_micros(upper_end(index));
            }
        }
        Duration::ZERO
    }
}

/// Below 32 µs each value is its own bucket; above, each doubling has 32.
fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let doubling = u64::from(micros.ilog2()) - u64::from(STEPS.ilog2());
    (STEPS * (doubling + 1) + ((micros >> doubling) - STEPS)) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let doubling = bucket / STEPS - 1;
    ((STEPS + bucket % STEPS + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn buckets_are_in_order_and_their_ends_close() {
        let mut last = 0;
        for micros in (0..1 << 20).chain([1 << 30, 1 << 35]) {
            let index = bucket(micros);
            assert!(index >= last);
            last = index;
            let end = upper_end(index);
            assert!(end >= micros && end - micros <= micros / STEPS, "{micros} is in a bucket up to {end}");
        }
        assert!(bucket((1 << DOUBLINGS) - 1) < Latencies::default().buckets.len());
    }

    #[test]
    fn percentiles() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.99), Duration::ZERO);
        for ms in 1..=100 {
            latencies.add(Duration::from_millis(ms));
        }
        latencies.add(Duration::MAX);
        let near = |share: f64, ms: u64| {
            let found = latencies.percentile(share).as_micros() as u64;
            assert!(found >= ms * 1000 && found <= ms * 1000 + ms * 1000 / STEPS, "{found} for {ms} ms");
        };
        near(0.50, 51);
        near(0.99, 100);
    }

    #[test]
    fn failures_are_counted_and_the_first_told() {
        let mut tally = Tally::default();
        for _ in 0..30 {
            let call = tally.begin();
            tally.end(Outcome { call, status: None, took: Duration::ZERO, result: Err("no".to_owned()) });
        }
        let call = tally.begin();
        let answered = Answered { recorded: true, counted: false };
        tally.end(Outcome { call, status: Some(200), took: Duration::from_millis(1), result: Ok(answered) });
        let report = tally.report();
        assert_eq!((report.calls, report.answered, report.failed), (31, 1, 30));
        assert_eq!((report.recorded, report.not_counted, report.first_failures.len()), (1, 1, MOST_FAILURES));
        assert_eq!(report.by_status, BTreeMap::from([("none".to_owned(), 30), ("200".to_owned(), 1)]));
        assert!(!report.is_good() && !Report::default().is_good());
    }

    #[tokio::test]
    async fn a_report_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        for calls in [1, 2] {
            Report { calls, ..Report::default() }.write(&path).await.unwrap();
        }
        let found: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(found.calls, 2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
