//! What functions do to series at each step.

use std::collections::HashMap;

use regex::Regex;

use super::ast::{Expression, Function, Selector};
use super::evaluate::{Column, Evaluator, QueryError, Table};
use super::windows;
use crate::series::labels::NAME;
use crate::series::{Labels, Wanted};

type Called = Result<Vec<Column>, QueryError>;

pub(super) fn call(evaluator: &mut Evaluator<'_>, function: Function, arguments: &[Expression]) -> Called {
    let steps = evaluator.grid.count;
    let each = |evaluator: &mut Evaluator<'_>, of: fn(f64) -> f64| {
        let columns = evaluator.argument(arguments, 0)?;
        mapped(columns, steps, |_, value| of(value))
    };
    match function {
        Function::Absolute => each(evaluator, f64::abs),
        Function::Ceiling => each(evaluator, f64::ceil),
        Function::Floor => each(evaluator, f64::floor),
        Function::Exponential => each(evaluator, f64::exp),
        Function::Logarithm => each(evaluator, f64::ln),
        Function::Logarithm2 => each(evaluator, f64::log2),
        Function::Logarithm10 => each(evaluator, f64::log10),
        Function::SquareRoot => each(evaluator, f64::sqrt),
        Function::Sign => each(evaluator, |value| {
            if value > 0.0 {
                1.0
            } else if value < 0.0 {
                -1.0
            } else {
                value
            }
        }),
        Function::Round => {
            let nearest = evaluator.number(arguments, 1, 1.0)?;
            let columns = evaluator.argument(arguments, 0)?;
            mapped(columns, steps, |step, value| {
                let inverse = 1.0 / nearest[step];
                (value * inverse + 0.5).floor() / inverse
            })
        }
        Function::ClampMinimum | Function::ClampMaximum | Function::Clamp => clamp(evaluator, function, arguments),
        Function::Vector => {
            let values = evaluator.number(arguments, 0, f64::NAN)?;
            Ok(vec![Column { labels: Labels::default(), values: values.into_iter().map(Some).collect() }])
        }
        Function::Timestamp => timestamp(evaluator, arguments),
        Function::Absent => {
            let columns = evaluator.argument(arguments, 0)?;
            let matchers = match arguments.first() {
                Some(Expression::Selector(selector)) => Some(selector),
                _ => None,
            };
            Ok(absent(&columns, matchers, steps))
        }
        Function::AbsentOverTime => {
            let Some(range) = arguments.first() else { return Ok(Vec::new()) };
            // Series that differ in name alone are one here.
            let columns = evaluator.over(range, true, |_, _| Some(1.0))?;
            let matchers = match range {
                Expression::Range(selector, _) => Some(selector),
                _ => None,
            };
            Ok(absent(&columns, matchers, steps))
        }
        Function::Sort | Function::SortDescending => {
            let mut columns = evaluator.argument(arguments, 0)?;
            // Of one step; the series of several are in the order of their labels anyway.
            let value = |column: &Column| column.values.first().copied().flatten().unwrap_or(f64::NAN);
            columns.sort_by(|one, other| {
                let (one, other) = (value(one), value(other));
                match (one.is_nan(), other.is_nan()) {
                    (true, false) => std::cmp::Ordering::Greater,
                    (false, true) => std::cmp::Ordering::Less,
                    _ if function == Function::Sort => one.total_cmp(&other),
                    _ => other.total_cmp(&one),
                }
            });
            Ok(columns)
        }
        Function::LabelReplace => label_replace(evaluator, arguments),
        Function::LabelJoin => label_join(evaluator, arguments),
        Function::HistogramQuantile => histogram_quantile(evaluator, arguments),
        // They give a number.
        Function::Scalar | Function::Time => Ok(Vec::new()),
        _ => windows::call(evaluator, function, arguments),
    }
}

/// Columns with each value changed; the metric's name says no more what they are.
pub(super) fn mapped(columns: Vec<Column>, steps: usize, change: impl Fn(usize, f64) -> f64) -> Called {
    filtered(columns, steps, |step, value| Some(change(step, value)))
}

fn filtered(columns: Vec<Column>, steps: usize, change: impl Fn(usize, f64) -> Option<f64>) -> Called {
    relabelled(columns, steps, Labels::unnamed, change)
}

fn relabelled(
    columns: Vec<Column>,
    steps: usize,
    labels: impl Fn(&Labels) -> Labels,
    change: impl Fn(usize, f64) -> Option<f64>,
) -> Called {
    let mut table = Table::new(steps);
    for column in columns {
        let place = table.column(labels(&column.labels));
        for (step, value) in column.values.iter().enumerate() {
            if let Some(value) = value.and_then(|value| change(step, value)) {
                table.put(place, step, value)?;
            }
        }
    }
    Ok(table.done())
}

fn clamp(evaluator: &mut Evaluator<'_>, function: Function, arguments: &[Expression]) -> Called {
    let steps = evaluator.grid.count;
    let (least, greatest) = match function {
        Function::ClampMinimum => (evaluator.number(arguments, 1, f64::NAN)?, vec![f64::INFINITY; steps]),
        Function::ClampMaximum => (vec![f64::NEG_INFINITY; steps], evaluator.number(arguments, 1, f64::NAN)?),
        _ => (evaluator.number(arguments, 1, f64::NAN)?, evaluator.number(arguments, 2, f64::NAN)?),
    };
    let columns = evaluator.argument(arguments, 0)?;
    // What is no number makes none.
    let (lesser, greater) = (
        |one: f64, other: f64| if one.is_nan() || other.is_nan() { f64::NAN } else { one.min(other) },
        |one: f64, other: f64| if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) },
    );
    filtered(columns, steps, |step, value| {
        (least[step] <= greatest[step] || least[step].is_nan() || greatest[step].is_nan())
            .then(|| greater(least[step], lesser(greatest[step], value)))
    })
}

#[allow(clippy::cast_precision_loss, reason = "a time is a float")]
fn timestamp(evaluator: &mut Evaluator<'_>, arguments: &[Expression]) -> Called {
    let grid = evaluator.grid;
    match arguments.first() {
        Some(Expression::Selector(selector)) => {
            let columns = evaluator.newest(selector, |sample| sample.at as f64 / 1000.0)?;
            mapped(columns, grid.count, |_, value| value)
        }
        _ => {
            let columns = evaluator.argument(arguments, 0)?;
            mapped(columns, grid.count, |step, _| grid.at(step) as f64 / 1000.0)
        }
    }
}

/// 1 where there is nothing, with the labels that a series would have had to have.
fn absent(columns: &[Column], selector: Option<&Selector>, steps: usize) -> Vec<Column> {
    let mut labels = Labels::default();
    let matchers = selector.map(|selector| selector.matchers.as_slice()).unwrap_or_default();
    for matcher in matchers.iter().filter(|matcher| matcher.name != NAME) {
        let only = matchers.iter().filter(|other| other.name == matcher.name).count() == 1;
        if let (Wanted::Equal(value), true) = (&matcher.wanted, only) {
            labels = labels.with(&matcher.name, value);
        }
    }
    let value = |step: usize| columns.iter().all(|column| column.values[step].is_none()).then_some(1.0);
    vec![Column { labels, values: (0..steps).map(value).collect() }]
}

fn text(arguments: &[Expression], index: usize) -> &str {
    match arguments.get(index) {
        Some(Expression::Text(text)) => text,
        _ => "",
    }
}

fn is_label(name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|first: char| part(first) && !first.is_ascii_digit()) && name.chars().all(part)
}

fn label_replace(evaluator: &mut Evaluator<'_>, arguments: &[Expression]) -> Called {
    let (into, replacement, from) = (text(arguments, 1), text(arguments, 2), text(arguments, 3));
    let wrong = |message: String| QueryError::Execution(message);
    let regex = Regex::new(&format!("^(?:{})$", text(arguments, 4)))
        .map_err(|_| wrong(format!("invalid regular expression in label_replace(): {}", text(arguments, 4))))?;
    if !is_label(into) {
        return Err(wrong(format!("invalid destination label name in label_replace(): {into}")));
    }
    let columns = evaluator.argument(arguments, 0)?;
    let replaced = |labels: &Labels| match regex.captures(labels.get(from)) {
        Some(captures) => {
            let mut value = String::new();
            captures.expand(replacement, &mut value);
            labels.with(into, &value)
        }
        None => labels.clone(),
    };
    relabelled(columns, evaluator.grid.count, replaced, |_, value| Some(value))
}

fn label_join(evaluator: &mut Evaluator<'_>, arguments: &[Expression]) -> Called {
    let (into, separator) = (text(arguments, 1), text(arguments, 2));
    let from: Vec<&str> = (3..arguments.len()).map(|index| text(arguments, index)).collect();
    for (name, what) in [(into, "destination")].into_iter().chain(from.iter().map(|name| (*name, "source"))) {
        if !is_label(name) {
            return Err(QueryError::Execution(format!("invalid {what} label name in label_join(): {name}")));
        }
    }
    let columns = evaluator.argument(arguments, 0)?;
    let joined = |labels: &Labels| labels.with(into, &from.iter().map(|name| labels.get(name)).collect::<Vec<_>>().join(separator));
    relabelled(columns, evaluator.grid.count, joined, |_, value| Some(value))
}

fn histogram_quantile(evaluator: &mut Evaluator<'_>, arguments: &[Expression]) -> Called {
    let shares = evaluator.number(arguments, 0, f64::NAN)?;
    let columns = evaluator.argument(arguments, 1)?;
    let steps = evaluator.grid.count;
    let mut order = Vec::new();
    let mut groups: HashMap<Labels, Vec<(f64, &Column)>, foldhash::fast::RandomState> = HashMap::default();
    for column in &columns {
        let bound = column.labels.get("le");
        // A series without a bound is no bucket.
        let Ok(bound) = bound.parse::<f64>() else { continue };
        let labels = column.labels.filtered(|name| name != NAME && name != "le");
        let buckets = groups.entry(labels).or_insert_with_key(|labels| {
            order.push(labels.clone());
            Vec::new()
        });
        buckets.push((bound, column));
    }
    let mut table = Table::new(steps);
    for labels in order {
        let Some(mut buckets) = groups.remove(&labels) else { continue };
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let place = table.column(labels);
        for (step, share) in shares.iter().enumerate() {
            let there: Vec<(f64, f64)> = buckets.iter().filter_map(|(bound, column)| Some((*bound, column.values[step]?))).collect();
            if !there.is_empty() {
                table.put(place, step, bucket_quantile(*share, there))?;
            }
        }
    }
    Ok(table.done())
}

/// The quantile of buckets that add up, in order of their bounds: linear within a bucket.
pub(crate) fn bucket_quantile(share: f64, buckets: Vec<(f64, f64)>) -> f64 {
    if share.is_nan() {
        return f64::NAN;
    }
    if share < 0.0 {
        return f64::NEG_INFINITY;
    }
    if share > 1.0 {
        return f64::INFINITY;
    }
    // Of one bound, buckets count together; and none has less than the one below, which rates may make it seem.
    let mut whole: Vec<(f64, f64)> = Vec::with_capacity(buckets.len());
    for (bound, count) in buckets {
        match whole.last_mut() {
            #[allow(clippy::float_cmp, reason = "the same bound")]
            Some(last) if last.0 == bound => last.1 += count,
            _ => whole.push((bound, count)),
        }
    }
    let mut most = f64::NEG_INFINITY;
    for (_, count) in &mut whole {
        if *count > most {
            most = *count;
        } else if *count < most {
            *count = most;
        }
    }
    let Some((last_bound, all)) = whole.last().copied() else { return f64::NAN };
    if !(last_bound.is_infinite() && last_bound > 0.0) || whole.len() < 2 || all == 0.0 || all.is_nan() {
        return f64::NAN;
    }
    let rank = share * all;
    let at = whole[..whole.len() - 1].partition_point(|(_, count)| *count < rank);
    if at == whole.len() - 1 {
        return whole[at - 1].0;
    }
    let (end, count) = whole[at];
    if at == 0 && end <= 0.0 {
        return end;
    }
    let (begin, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| whole[before]);
    begin + (end - begin) * ((rank - below) / (count - below))
}
