//! What who tells only of changes left out. Whoever sends a sample of `up` with each of its pushes means: of my series that
//! are not in it, nothing has changed. So at each of these times such a series is given the value that it had, as if all had
//! been told; and where no push came for a while, or `up` is 0, its series have ended.

use std::collections::HashMap;
use std::sync::Arc;

use super::labels::NAME;
use super::{Found, Labels, PUSH_ALL, PUSH_INTERVAL, STALE, Sample, is_stale};

/// The metric that a push is known by.
pub(super) const UP: &str = "up";

/// For how long after a push its instance is taken to live, in milliseconds: two may get lost.
const LIVES: i64 = 3 * PUSH_INTERVAL.as_millis() as i64;
/// For how long a series that is not told of is taken to stand still, in milliseconds: each is told of within [`PUSH_ALL`].
const STANDS: i64 = PUSH_ALL.as_millis() as i64 + LIVES;

/// From when on samples have to be known, to fill in those from `from` on.
pub(super) fn look_back(from: i64) -> i64 {
    from.saturating_sub(STANDS)
}

/// When which instance pushed.
#[derive(Debug, Default)]
pub(super) struct Beats(HashMap<(Arc<str>, Arc<str>), Vec<Sample>>);

impl Beats {
    /// Of the series of `up`.
    pub(super) fn new(series: Vec<Found>) -> Self {
        Self(series.into_iter().map(|found| (instance(&found.labels), found.samples)).collect())
    }

    /// A series with what was left out of it, from `from` to `to`.
    pub(super) fn fill(&self, mut series: Found, from: i64, to: i64) -> Found {
        if let Some(beats) = self.0.get(&instance(&series.labels)) {
            let is_up = series.labels.get(NAME) == UP;
            series.samples = if is_up { ended(&series.samples, to) } else { filled(&series.samples, beats, to) };
        }
        series.samples.retain(|sample| sample.at >= from);
        series
    }
}

fn instance(labels: &Labels) -> (Arc<str>, Arc<str>) {
    (labels.get("job").into(), labels.get("instance").into())
}

/// `up` itself, with its ends.
fn ended(samples: &[Sample], to: i64) -> Vec<Sample> {
    let mut all = Vec::with_capacity(samples.len() + 1);
    for (index, sample) in samples.iter().enumerate() {
        all.push(*sample);
        all.extend(end(*sample, samples.get(index + 1), to));
    }
    all
}

/// The end of an instance that was not heard of in time after `beat`.
fn end(beat: Sample, next: Option<&Sample>, to: i64) -> Option<Sample> {
    let at = beat.at + LIVES;
    (at <= to && next.is_none_or(|next| next.at > at)).then_some(Sample { at, value: STALE })
}

fn filled(samples: &[Sample], beats: &[Sample], to: i64) -> Vec<Sample> {
    let mut all: Vec<Sample> = Vec::with_capacity(samples.len() + beats.len());
    let mut told = samples.iter().peekable();
    // The newest that was told, and whether the series has ended since.
    let mut last: Option<(Sample, bool)> = None;
    let mut tell = |until: i64, all: &mut Vec<Sample>, last: &mut Option<(Sample, bool)>| {
        while let Some(sample) = told.next_if(|sample| sample.at <= until) {
            all.push(*sample);
            *last = Some((*sample, is_stale(sample.value)));
        }
    };
    for (index, beat) in beats.iter().enumerate() {
        tell(beat.at, &mut all, &mut last);
        if let Some((sample, has_ended)) = &mut last
            && !*has_ended
            && sample.at < beat.at
        {
            let stands = beat.value > 0.0 && beat.at - sample.at <= STANDS;
            *has_ended = !stands;
            all.push(Sample { at: beat.at, value: if stands { sample.value } else { STALE } });
        }
        let next = beats.get(index + 1);
        if let Some(end) = end(*beat, next, to) {
            tell(end.at, &mut all, &mut last);
            if let Some((sample, has_ended)) = &mut last
                && !*has_ended
                && sample.at < end.at
            {
                all.push(end);
                *has_ended = true;
            }
        }
    }
    tell(to, &mut all, &mut last);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[(i64, f64)]) -> Vec<Sample> {
        samples.iter().map(|(at, value)| Sample { at: *at * 1000, value: *value }).collect()
    }

    fn check(samples: &[(i64, f64)], beats: &[(i64, f64)], to: i64, expected: &[(i64, f64)]) {
        let bits = |samples: Vec<Sample>| samples.iter().map(|sample| (sample.at, sample.value.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(filled(&of(samples), &of(beats), to * 1000)), bits(of(expected)), "{samples:?} at {beats:?}");
    }

    #[test]
    fn what_did_not_change_has_the_value_it_had() {
        let beats = [(10, 1.0), (20, 1.0), (30, 1.0), (40, 1.0)];
        check(&[(20, 5.0), (40, 7.0)], &beats, 45, &[(20, 5.0), (30, 5.0), (40, 7.0)]);
        // Nothing is known of the time before the first.
        check(&[(40, 7.0)], &beats, 45, &[(40, 7.0)]);
        check(&[], &beats, 45, &[]);
    }

    #[test]
    fn who_is_not_heard_of_has_ended() {
        check(&[(10, 5.0)], &[(10, 1.0), (20, 1.0)], 49, &[(10, 5.0), (20, 5.0)]);
        check(&[(10, 5.0)], &[(10, 1.0), (20, 1.0)], 50, &[(10, 5.0), (20, 5.0), (50, STALE)]);
        // It comes back, and with it what it tells of.
        let back = [(10, 1.0), (100, 1.0), (110, 1.0)];
        check(&[(10, 5.0), (100, 6.0)], &back, 115, &[(10, 5.0), (40, STALE), (100, 6.0), (110, 6.0)]);
        // What is told without a push of its own stays.
        check(&[(10, 5.0), (60, 6.0)], &[(10, 1.0)], 115, &[(10, 5.0), (40, STALE), (60, 6.0)]);
    }

    #[test]
    fn who_says_that_it_ends_has_ended_at_once() {
        check(&[(10, 5.0)], &[(10, 1.0), (15, 0.0)], 20, &[(10, 5.0), (15, STALE)]);
        check(&[(10, 5.0)], &[(10, 1.0), (15, 0.0)], 90, &[(10, 5.0), (15, STALE)]);
    }

    #[test]
    fn a_series_that_is_told_of_no_more_has_ended() {
        let beats: Vec<(i64, f64)> = (1..60).map(|step| (step * 10, 1.0)).collect();
        let series = filled(&of(&[(10, 5.0)]), &of(&beats), 600_000);
        let (last, values) = series.split_last().map_or((Sample { at: 0, value: 0.0 }, &[][..]), |(last, values)| (*last, values));
        assert!(is_stale(last.value) && values.iter().all(|sample| sample.value == 5.0));
        assert_eq!((last.at, values.len()), (350_000, 34));
        check(&[(10, 5.0), (20, STALE)], &[(10, 1.0), (20, 1.0), (30, 1.0)], 35, &[(10, 5.0), (20, STALE)]);
    }

    #[test]
    fn up_ends_with_its_instance() {
        let up = ended(&of(&[(10, 1.0), (20, 1.0), (90, 1.0)]), 200_000);
        let times: Vec<(i64, bool)> = up.iter().map(|sample| (sample.at / 1000, is_stale(sample.value))).collect();
        assert_eq!(times, [(10, false), (20, false), (50, true), (90, false), (120, true)]);
    }
}
