//! Pure arithmetic over samples: medians, spreads, percentiles, and latencies as whoever waited saw them.

use serde::{Deserialize, Serialize};

/// What several rounds say of one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The most.
    pub(crate) most: f64,
}

impl Spread {
    /// Of `samples`; none of none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, least, most })
    }
}

/// The value below which `share` (0 to 1) of the sorted samples lie.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index of a slice")]
    let index = (share * last as f64).round() as usize;
    sorted.get(index.min(last)).copied()
}

/// When request `index` was to be sent, in seconds from the begin, at `rate` requests a second. Its latency counts from then,
/// whenever it was really sent: a proxy that stalls the generator must not be measured by fewer requests (coordinated omission).
pub(crate) fn due(index: u64, rate: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far fewer requests than a float counts")]
    let index = index as f64;
    index / rate
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    #[test]
    fn a_spread_has_its_middle_and_its_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).unwrap(), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), Some(501.0));
        assert_eq!(percentile(&samples, 0.99), Some(990.0));
        assert_eq!(percentile(&samples, 1.0), Some(1000.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_stall_counts_for_every_request_that_it_held_up() {
        // At 100 a second, a stall of one second until t = 1 delays the requests that were due meanwhile by what is left of it.
        let held_up: Vec<f64> = (0..100).map(|index| 1.0 - due(index, 100.0)).collect();
        assert_eq!(held_up[0], 1.0);
        assert!((held_up[50] - 0.5).abs() < 1e-9);
    }
}
