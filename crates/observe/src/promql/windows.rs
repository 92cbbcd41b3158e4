//! What is said of the samples of a time. As Prometheus computes it, to the bit where that matters.

use super::ast::{Expression, Function};
use super::evaluate::{Column, Evaluator, QueryError};
use crate::series::Sample;

/// The samples of one series within a time, at least one.
pub(super) struct Window<'s> {
    pub(super) samples: &'s [Sample],
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A function of a time.
pub(super) fn call(evaluator: &mut Evaluator<'_>, function: Function, arguments: &[Expression]) -> Result<Vec<Column>, QueryError> {
    let Some(range) = arguments.last() else { return Ok(Vec::new()) };
    let values = |window: &Window<'_>| window.samples.iter().map(|sample| sample.value).collect::<Vec<_>>();
    match function {
        Function::Rate => evaluator.over(range, false, |_, window| extrapolated(window, true, true)),
        Function::Increase => evaluator.over(range, false, |_, window| extrapolated(window, true, false)),
        Function::Delta => evaluator.over(range, false, |_, window| extrapolated(window, false, false)),
        Function::InstantRate => evaluator.over(range, false, |_, window| instant(window, true)),
        Function::InstantDelta => evaluator.over(range, false, |_, window| instant(window, false)),
        Function::AverageOverTime => evaluator.over(range, false, |_, window| Some(mean(values(window)))),
        Function::SumOverTime => evaluator.over(range, false, |_, window| Some(sum(&values(window)))),
        Function::MinimumOverTime => evaluator.over(range, false, |_, window| extreme(values(window), |known, value| known > value)),
        Function::MaximumOverTime => evaluator.over(range, false, |_, window| extreme(values(window), |known, value| known < value)),
        #[allow(clippy::cast_precision_loss, reason = "a count is a float")]
        Function::CountOverTime => evaluator.over(range, false, |_, window| Some(window.samples.len() as f64)),
        Function::PresentOverTime => evaluator.over(range, false, |_, _| Some(1.0)),
        Function::LastOverTime => evaluator.over(range, true, |_, window| window.samples.last().map(|sample| sample.value)),
        Function::VarianceOverTime => evaluator.over(range, false, |_, window| Some(variance(values(window)))),
        Function::StandardDeviationOverTime => evaluator.over(range, false, |_, window| Some(variance(values(window)).sqrt())),
        Function::Changes => {
            evaluator.over(range, false, |_, window| Some(pairs(window, |before, now| before != now && !(before.is_nan() && now.is_nan()))))
        }
        Function::Resets => evaluator.over(range, false, |_, window| Some(pairs(window, |before, now| now < before))),
        Function::QuantileOverTime => {
            let shares = evaluator.number(arguments, 0, f64::NAN)?;
            evaluator.over(range, false, |step, window| Some(quantile(shares[step], values(window))))
        }
        _ => Err(QueryError::Execution("a function of a range was expected".to_owned())),
    }
}

/// What a series grew by over the whole time, judged by what is known of it: Prometheus' `extrapolatedRate`.
#[allow(clippy::cast_precision_loss, reason = "times are floats here")]
fn extrapolated(window: &Window<'_>, is_counter: bool, is_rate: bool) -> Option<f64> {
    let Window { samples, from, to } = window;
    let (first, last) = (samples.first()?, samples.last()?);
    if samples.len() < 2 {
        return None;
    }
    let mut grown = last.value - first.value;
    if is_counter {
        // What was there before it began anew is not lost.
        grown += samples.windows(2).filter(|pair| pair[1].value < pair[0].value).map(|pair| pair[0].value).sum::<f64>();
    }
    let seconds = |milliseconds: i64| milliseconds as f64 / 1000.0;
    let (mut to_start, to_end) = (seconds(first.at - from), seconds(to - last.at));
    let sampled = seconds(last.at - first.at);
    let between = sampled / (samples.len() - 1) as f64;
    if is_counter && grown > 0.0 && first.value >= 0.0 {
        // It cannot have been below 0.
        to_start = to_start.min(sampled * (first.value / grown));
    }
    let near = between * 1.1;
    let reach = |distance: f64| if distance < near { distance } else { between / 2.0 };
    let factor = (sampled + reach(to_start) + reach(to_end)) / sampled;
    Some(if is_rate { grown * (factor / seconds(to - from)) } else { grown * factor })
}

#[allow(clippy::cast_precision_loss, reason = "times are floats here")]
fn instant(window: &Window<'_>, is_rate: bool) -> Option<f64> {
    let [.., before, last] = window.samples else { return None };
    let grown = if is_rate && last.value < before.value { last.value } else { last.value - before.value };
    let milliseconds = last.at - before.at;
    match (is_rate, milliseconds) {
        (_, 0) => None,
        (true, _) => Some(grown / (milliseconds as f64 / 1000.0)),
        (false, _) => Some(grown),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a count is a float")]
fn pairs(window: &Window<'_>, counts: impl Fn(f64, f64) -> bool) -> f64 {
    window.samples.windows(2).filter(|pair| counts(pair[0].value, pair[1].value)).count() as f64
}

/// The sum, with what rounding takes away kept aside.
pub(super) fn sum(values: &[f64]) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for value in values {
        let next = sum + value;
        if !next.is_infinite() {
            lost += if sum.abs() >= value.abs() { (sum - next) + value } else { (value - next) + sum };
        }
        sum = next;
    }
    if sum.is_infinite() { sum } else { sum + lost }
}

/// The mean.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut mean, mut count) = (0.0_f64, 0.0);
    for value in values {
        count += 1.0;
        if mean.is_infinite() {
            let same = value.is_infinite() && (mean > 0.0) == (value > 0.0);
            if same || (!value.is_infinite() && !value.is_nan()) {
                // Infinite it stays.
                continue;
            }
        }
        mean += value / count - mean / count;
    }
    mean
}

/// The mean of the squares of what values differ from the mean.
pub(super) fn variance(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut mean, mut squares, mut count) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let off = value - mean;
        mean += off / count;
        squares += off * (value - mean);
    }
    squares / count
}

/// The least or greatest; what is no number only where all are none.
pub(super) fn extreme(values: impl IntoIterator<Item = f64>, is_better: impl Fn(f64, f64) -> bool) -> Option<f64> {
    values.into_iter().reduce(|known, value| if is_better(known, value) || known.is_nan() { value } else { known })
}

/// A quantile, linear between two values.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among few values")]
pub(super) fn quantile(share: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || share.is_nan() {
        return f64::NAN;
    }
    if !(0.0..=1.0).contains(&share) {
        return if share < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // What is no number is the least.
    values.sort_by(|one, other| match (one.is_nan(), other.is_nan()) {
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ => one.total_cmp(other),
    });
    let last = values.len() - 1;
    let rank = share * last as f64;
    let (lower, upper) = ((rank.floor() as usize).min(last), (rank.floor() as usize + 1).min(last));
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}
