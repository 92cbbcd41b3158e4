//! The cells of one series in one worker: plain numbers that one thread adds to and a scrape reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::exposition::Exemplar;

/// Istio's default bounds of `istio_request_duration_milliseconds`.
pub const DURATION_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The bounds of the histograms of bytes: powers of ten up to a gigabyte, as a body's order of size is what is asked for.
pub const BYTES_BOUNDS: [f64; 10] =
    [1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0, 100_000_000.0, 1_000_000_000.0];

/// The cells of a series. Those of the other protocol stay 0.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) requests: AtomicU64,
    pub(super) duration: Histogram<20>,
    pub(super) request_bytes: Histogram<11>,
    pub(super) response_bytes: Histogram<11>,
    pub(super) request_messages: AtomicU64,
    pub(super) response_messages: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// When its worker used them last, as far as that was told: in milliseconds since the registry began.
    pub(super) used: AtomicU64,
    /// Examples of durations. There are none before an exchange is traced.
    exemplars: OnceLock<Box<Mutex<Exemplars>>>,
}

/// An example of each bucket of durations that has one.
pub(super) type Exemplars = [Option<Exemplar>; DURATION_BOUNDS.len() + 1];

impl Cells {
    /// Keeps an example of a bucket of durations. It never waits: where a scrape is reading them, this one is left out.
    pub(super) fn keep(&self, bucket: usize, exemplar: Exemplar) {
        let kept = self.exemplars.get_or_init(Box::default);
        if let Ok(mut kept) = kept.try_lock()
            && let Some(of_bucket) = kept.get_mut(bucket)
        {
            *of_bucket = Some(exemplar);
        }
    }

    /// Puts its examples into `newest` where they are newer.
    pub(super) fn read_exemplars(&self, newest: &mut Vec<Option<Exemplar>>) {
        // Nothing that holds it can leave it half changed.
        let Some(kept) = self.exemplars.get().map(|kept| *kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) else { return };
        newest.resize(kept.len(), None);
        for (newest, own) in newest.iter_mut().zip(kept) {
            if own.map(|own| own.at) > newest.map(|newest| newest.at) {
                *newest = own;
            }
        }
    }
}

/// Buckets, the last of them without a bound, and the sum in thousandths.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a value; says in which bucket.
    pub(super) fn observe(&self, bounds: &[f64], value: f64) -> usize {
        // A bound belongs to the bucket below it.
        let bucket = bounds.partition_point(|bound| *bound < value).min(N - 1);
        add(&self.buckets[bucket], 1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration or a size is not negative, and saturates")]
        add(&self.sum, (value * 1000.0) as u64);
        bucket
    }

    /// Adds what was observed to `buckets` and `sum`.
    pub(super) fn read(&self, buckets: &mut [u64], sum: &mut f64) {
        buckets.iter_mut().zip(&self.buckets).for_each(|(bucket, more)| *bucket += more.load(Ordering::Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
        let more = self.sum.load(Ordering::Relaxed) as f64 / 1000.0;
        *sum += more;
    }
}

/// Only one thread writes a cell, so no locked instruction is needed to add to it.
pub(super) fn add(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
