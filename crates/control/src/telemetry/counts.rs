//! What happened in the control plane since it began, counted where it happens. Cheap, from any thread, and never waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lorica_xds::Kind;

/// Upper bounds of durations, in seconds: from what a unit takes to compile to what a mesh takes to follow.
pub const SECONDS: [f64; 14] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// What happened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Publications.
    pub publications: Durations,
    /// From a publication to the last word of those whom it concerns.
    pub convergence: Durations,
    /// Resources that were compiled and encoded, by kind.
    pub compiled: OfKinds<Durations>,
    /// Responses that sessions were sent, by kind.
    pub pushes: OfKinds<AtomicU64>,
    /// Resources that sessions refused, by kind.
    pub rejections: OfKinds<AtomicU64>,
    /// Acknowledgements.
    pub acknowledgements: AtomicU64,
    /// Sessions that began.
    pub sessions: AtomicU64,
    /// Sessions that were refused when they began.
    pub sessions_refused: AtomicU64,
    /// Certificates that were signed for workloads.
    pub issued: AtomicU64,
    /// Requests for certificates of workloads that were refused.
    pub not_issued: AtomicU64,
    /// Connections of other hosts that were refused.
    pub door: Refusals,
}

/// Adds one.
pub(crate) fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// One of each kind of resource.
#[derive(Debug, Default)]
pub struct OfKinds<T>([T; Kind::ALL.len()]);

impl<T> OfKinds<T> {
    /// That of a kind.
    pub fn of(&self, kind: Kind) -> &T {
        // Kinds are numbered as they are listed.
        &self.0[kind as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &T)> {
        Kind::ALL.into_iter().zip(&self.0)
    }
}

/// Connections that were refused at the door for hosts, by why.
#[derive(Debug, Default)]
pub struct Refusals {
    /// There were too many.
    pub full: AtomicU64,
    /// The TLS handshake failed, or took too long.
    pub handshake: AtomicU64,
    /// The certificate says nobody.
    pub certificate: AtomicU64,
    /// Whoever it is is not welcome: revoked, or of another mesh.
    pub unwelcome: AtomicU64,
}

impl Refusals {
    /// All of them, by the word for why.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &AtomicU64); 4] {
        let Self { full, handshake, certificate, unwelcome } = self;
        [("full", full), ("handshake", handshake), ("certificate", certificate), ("unwelcome", unwelcome)]
    }
}

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; SECONDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    /// It took so long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        // A bound belongs to the bucket below it.
        let bucket = SECONDS.partition_point(|bound| *bound < seconds);
        one(&self.buckets[bucket]);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How often it fell into each bucket, and the sum in seconds.
    #[must_use]
    pub fn read(&self) -> (Vec<u64>, f64) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        (buckets, Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_below_its_bound() {
        let durations = Durations::default();
        [50, 100, 101, 60_000_000].iter().for_each(|micros| durations.observe(Duration::from_micros(*micros)));
        let (buckets, sum) = durations.read();
        assert_eq!((buckets[0], buckets[1], buckets[SECONDS.len()]), (2, 1, 1));
        assert!((sum - 60.000_251).abs() < 1e-9);
    }

    #[test]
    fn each_kind_has_its_own() {
        let counts = OfKinds::<AtomicU64>::default();
        for (times, kind) in Kind::ALL.into_iter().enumerate() {
            counts.of(kind).fetch_add(times as u64, Ordering::Relaxed);
        }
        let read: Vec<u64> = counts.iter().map(|(_, count)| count.load(Ordering::Relaxed)).collect();
        assert_eq!(read, (0..Kind::ALL.len() as u64).collect::<Vec<_>>());
    }
}
