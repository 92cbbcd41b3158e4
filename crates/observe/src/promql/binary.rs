//! Two sides joined by an operator.

use std::collections::HashMap;

use super::ast::{Binary, Expression, Grouping, Kind, Matching, Operator};
use super::evaluate::{Column, Evaluator, QueryError, Table};
use crate::series::Labels;
use crate::series::labels::NAME;

/// An operator between numbers; a comparison says 1 or 0.
pub(super) fn of_numbers(operator: Operator, left: f64, right: f64) -> f64 {
    match calculate(operator, left, right) {
        Calculated::Value(value) => value,
        Calculated::Holds(holds) => f64::from(u8::from(holds)),
    }
}

enum Calculated {
    Value(f64),
    Holds(bool),
}

#[allow(clippy::float_cmp, reason = "that is what is asked for")]
fn calculate(operator: Operator, left: f64, right: f64) -> Calculated {
    match operator {
        Operator::Add => Calculated::Value(left + right),
        Operator::Subtract => Calculated::Value(left - right),
        Operator::Multiply => Calculated::Value(left * right),
        Operator::Divide => Calculated::Value(left / right),
        Operator::Modulo => Calculated::Value(left % right),
        Operator::Power => Calculated::Value(left.powf(right)),
        Operator::Atan2 => Calculated::Value(left.atan2(right)),
        Operator::Equal => Calculated::Holds(left == right),
        Operator::NotEqual => Calculated::Holds(left != right),
        Operator::Greater => Calculated::Holds(left > right),
        Operator::Less => Calculated::Holds(left < right),
        Operator::GreaterOrEqual => Calculated::Holds(left >= right),
        Operator::LessOrEqual => Calculated::Holds(left <= right),
        // These are of sets, and come no further than there.
        Operator::And | Operator::Or | Operator::Unless => Calculated::Value(f64::NAN),
    }
}

/// The value of a pair in a vector: a comparison keeps `kept` where it holds.
fn kept(of: &Binary, left: f64, right: f64, kept: f64) -> Option<f64> {
    match calculate(of.operator, left, right) {
        Calculated::Value(value) => Some(value),
        Calculated::Holds(holds) if of.is_bool => Some(f64::from(u8::from(holds))),
        Calculated::Holds(holds) => holds.then_some(kept),
    }
}

/// Whether what comes out is no more what the metric's name says. After `atan2` Prometheus keeps it.
fn renames(of: &Binary) -> bool {
    of.is_bool || !(of.operator.compares() || of.operator == Operator::Atan2)
}

pub(super) fn vector(evaluator: &mut Evaluator<'_>, of: &Binary) -> Result<Vec<Column>, QueryError> {
    match (of.left.kind(), of.right.kind()) {
        (Kind::Vector, Kind::Vector) => {
            let (left, right) = (evaluator.vector(&of.left)?, evaluator.vector(&of.right)?);
            evaluator.spend((left.len() + right.len()) * evaluator.grid.count)?;
            match of.operator.is_of_sets() {
                true => sets(of, left, right, evaluator.grid.count),
                false => matched(of, &left, &right, evaluator.grid.count),
            }
        }
        (Kind::Vector, _) => with_number(evaluator, of, &of.left, &of.right, |vector, number| kept(of, vector, number, vector)),
        (..) => with_number(evaluator, of, &of.right, &of.left, |vector, number| kept(of, number, vector, vector)),
    }
}

fn with_number(
    evaluator: &mut Evaluator<'_>,
    of: &Binary,
    vector: &Expression,
    number: &Expression,
    value: impl Fn(f64, f64) -> Option<f64>,
) -> Result<Vec<Column>, QueryError> {
    let numbers = evaluator.scalar(number)?;
    let mut table = Table::new(evaluator.grid.count);
    for column in evaluator.vector(vector)? {
        let labels = if renames(of) { column.labels.unnamed() } else { column.labels };
        let mut place = None;
        for (step, (there, number)) in column.values.iter().zip(&numbers).enumerate() {
            if let Some(value) = there.and_then(|there| value(there, *number)) {
                let place = *place.get_or_insert_with(|| table.column(labels.clone()));
                table.put(place, step, value)?;
            }
        }
    }
    Ok(table.done())
}

/// What series are matched by.
fn signature(matching: &Matching, labels: &Labels) -> Labels {
    let named = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.is_on { labels.filtered(named) } else { labels.filtered(|name| name != NAME && !named(name)) }
}

fn sets(of: &Binary, left: Vec<Column>, right: Vec<Column>, steps: usize) -> Result<Vec<Column>, QueryError> {
    type Steps = HashMap<Labels, Vec<bool>, foldhash::fast::RandomState>;
    let presence = |columns: &[Column]| {
        let mut all = Steps::default();
        for column in columns {
            let there = all.entry(signature(&of.matching, &column.labels)).or_insert_with(|| vec![false; steps]);
            there.iter_mut().zip(&column.values).for_each(|(there, value)| *there |= value.is_some());
        }
        all
    };
    let mut table = Table::new(steps);
    let mut add = |columns: Vec<Column>, others: Option<&Steps>, wanted: bool| -> Result<(), QueryError> {
        for column in columns {
            let there = others.and_then(|others| others.get(&signature(&of.matching, &column.labels)));
            let mut place = None;
            for (step, value) in column.values.iter().enumerate() {
                let is_there = there.is_some_and(|there| there[step]);
                if let Some(value) = value.filter(|_| others.is_none() || is_there == wanted) {
                    let place = *place.get_or_insert_with(|| table.column(column.labels.clone()));
                    table.put(place, step, value)?;
                }
            }
        }
        Ok(())
    };
    match of.operator {
        Operator::And => add(left, Some(&presence(&right)), true)?,
        Operator::Unless => add(left, Some(&presence(&right)), false)?,
        _ => {
            let others = presence(&left);
            add(left, None, true)?;
            add(right, Some(&others), false)?;
        }
    }
    Ok(table.done())
}

fn matched(of: &Binary, left: &[Column], right: &[Column], steps: usize) -> Result<Vec<Column>, QueryError> {
    let Matching { grouping, .. } = &of.matching;
    // Of `one` there is at most one series for each of `many`.
    let (many, one) = if *grouping == Grouping::Right { (right, left) } else { (left, right) };
    let side = if *grouping == Grouping::Right { "left" } else { "right" };
    let mut groups: HashMap<Labels, (Vec<&Column>, Vec<&Column>), foldhash::fast::RandomState> = HashMap::default();
    for column in one {
        groups.entry(signature(&of.matching, &column.labels)).or_default().1.push(column);
    }
    let mut order = Vec::new();
    for column in many {
        let signature = signature(&of.matching, &column.labels);
        if let Some((members, _)) = groups.get_mut(&signature) {
            if members.is_empty() {
                order.push(signature);
            }
            members.push(column);
        }
    }
    // Where one side has nothing at all, nothing is wrong with the other.
    let there: Vec<usize> = (0..steps).filter(|step| many.iter().any(|column| column.values[*step].is_some())).collect();
    for (signature, (_, ones)) in groups.iter().filter(|(_, (_, ones))| ones.len() > 1) {
        for step in there.iter().copied() {
            let mut there = ones.iter().filter(|column| column.values[step].is_some());
            if let (Some(first), Some(second)) = (there.next(), there.next()) {
                return Err(QueryError::Execution(format!(
                    "found duplicate series for the match group {signature} on the {side} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
                    second.labels, first.labels
                )));
            }
        }
    }
    let mut table = Table::new(steps);
    for signature in &order {
        let Some((members, ones)) = groups.get(signature) else { continue };
        let mut places: HashMap<(usize, usize), usize> = HashMap::new();
        for step in 0..steps {
            let Some((other, one_value)) = ones.iter().enumerate().find_map(|(index, column)| Some((index, column.values[step]?))) else {
                continue;
            };
            let mut taken = false;
            for (index, member) in members.iter().enumerate() {
                let Some(many_value) = member.values[step] else { continue };
                let (left, right) = if *grouping == Grouping::Right { (one_value, many_value) } else { (many_value, one_value) };
                let Some(value) = kept(of, left, right, left) else { continue };
                if *grouping == Grouping::OneToOne && std::mem::replace(&mut taken, true) {
                    let why = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                    return Err(QueryError::Execution(why.to_owned()));
                }
                let place = *places
                    .entry((index, other))
                    .or_insert_with(|| table.column(result(of, &member.labels, ones.get(other).map(|column| &column.labels))));
                let unique =
                    |_| QueryError::Execution("multiple matches for labels: grouping labels must ensure unique matches".to_owned());
                match grouping {
                    Grouping::OneToOne => table.put(place, step, value)?,
                    Grouping::Left | Grouping::Right => table.put(place, step, value).map_err(unique)?,
                }
            }
        }
    }
    Ok(table.done())
}

/// The labels of what comes of a pair.
fn result(of: &Binary, many: &Labels, one: Option<&Labels>) -> Labels {
    let Matching { labels, is_on, grouping, included } = &of.matching;
    let mut result = if renames(of) { many.unnamed() } else { many.clone() };
    if *grouping == Grouping::OneToOne {
        result = result.filtered(|name| labels.iter().any(|label| label == name) == *is_on);
    }
    for label in included {
        result = result.with(label, one.map_or("", |one| one.get(label)));
    }
    result
}
