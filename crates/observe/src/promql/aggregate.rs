//! Many series made few.

use std::collections::HashMap;

use super::ast::{Aggregate, Aggregator};
use super::evaluate::{Column, Evaluator, QueryError, Table};
use super::windows::{extreme, mean, quantile, variance};
use crate::series::Labels;
use crate::series::labels::NAME;

pub(super) fn aggregate(evaluator: &mut Evaluator<'_>, of: &Aggregate) -> Result<Vec<Column>, QueryError> {
    let Aggregate { by, labels, without, parameter, of } = of;
    let steps = evaluator.grid.count;
    let parameter = match parameter {
        Some(parameter) => evaluator.scalar(parameter)?,
        None => vec![f64::NAN; steps],
    };
    let columns = evaluator.vector(of)?;
    evaluator.spend(columns.len() * steps)?;
    let group = |of: &Labels| {
        let named = |name: &str| labels.iter().any(|label| label == name);
        if *without { of.filtered(|name| name != NAME && !named(name)) } else { of.filtered(named) }
    };
    let mut groups: Vec<(Labels, Vec<&Column>)> = Vec::new();
    let mut places: HashMap<Labels, usize, foldhash::fast::RandomState> = HashMap::default();
    for column in &columns {
        let place = *places.entry(group(&column.labels)).or_insert_with_key(|labels| {
            groups.push((labels.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(column);
    }
    let mut table = Table::new(steps);
    for (labels, members) in &groups {
        for (step, parameter) in parameter.iter().enumerate() {
            let there = || members.iter().filter_map(|column| Some((*column, column.values[step]?)));
            if matches!(by, Aggregator::Top | Aggregator::Bottom) {
                for (column, value) in foremost(there().collect(), *parameter, *by == Aggregator::Top)? {
                    let place = table.column(column.labels.clone());
                    table.put(place, step, value)?;
                }
                continue;
            }
            if let Some(value) = one(*by, there().map(|(_, value)| value).collect(), *parameter) {
                let place = table.column(labels.clone());
                table.put(place, step, value)?;
            }
        }
    }
    Ok(table.done())
}

/// The value that stands for many; none for none.
fn one(by: Aggregator, values: Vec<f64>, parameter: f64) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    Some(match by {
        Aggregator::Sum => values.iter().sum(),
        Aggregator::Average => mean(values),
        Aggregator::Minimum => extreme(values, |known, value| known > value)?,
        Aggregator::Maximum => extreme(values, |known, value| known < value)?,
        #[allow(clippy::cast_precision_loss, reason = "a count is a float")]
        Aggregator::Count => values.len() as f64,
        Aggregator::Group => 1.0,
        Aggregator::StandardDeviation => variance(values).sqrt(),
        Aggregator::Variance => variance(values),
        Aggregator::Quantile => quantile(parameter, values),
        Aggregator::Top | Aggregator::Bottom => return None,
    })
}

/// So many of the greatest or least, foremost first. What is no number comes last.
fn foremost(mut values: Vec<(&Column, f64)>, count: f64, greatest: bool) -> Result<Vec<(&Column, f64)>, QueryError> {
    #[allow(clippy::cast_precision_loss, reason = "the range of 64 bits, as Prometheus has it")]
    if count.is_nan() || count >= i64::MAX as f64 || count <= i64::MIN as f64 {
        return Err(QueryError::Execution(format!("Scalar value {count} overflows int64")));
    }
    values.sort_by(|(_, one), (_, other)| match (one.is_nan(), other.is_nan()) {
        (true, false) => std::cmp::Ordering::Greater,
        (false, true) => std::cmp::Ordering::Less,
        _ if greatest => other.total_cmp(one),
        _ => one.total_cmp(other),
    });
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a negative count is none")]
    values.truncate(count as usize);
    Ok(values)
}
