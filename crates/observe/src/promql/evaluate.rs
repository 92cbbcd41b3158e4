//! The answer to a question, of all its steps at once: each part gives columns, one a series, with a value a step or none.

use std::collections::HashMap;

use super::ast::{Expression, Function, Kind, Milliseconds, Selector, Subquery};
use super::{aggregate, binary, functions, windows};
use crate::series::{Found, Labels, Matcher, Sample, SelectError, SeriesStore, is_stale};

/// For how long a sample holds, in milliseconds: Prometheus' default.
const LOOKBACK: Milliseconds = 300_000;
/// The most steps: Prometheus' bound.
const MAX_STEPS: i64 = 11_000;
/// The most samples that are read for a question.
const MAX_SAMPLES: usize = 10_000_000;
/// The most values that are worked with for a question.
const MAX_WORK: usize = 200_000_000;

/// Where series come from.
pub trait Source {
    /// The series of which `matchers` hold, with their samples from `from` to `to`, both included. At most `room` samples are
    /// looked at; it is left with what is left of it.
    ///
    /// # Errors
    /// See [`SelectError`].
    fn select(&self, matchers: &[Matcher], from: i64, to: i64, room: &mut usize) -> Result<Vec<Found>, SelectError>;
}

impl Source for SeriesStore {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64, room: &mut usize) -> Result<Vec<Found>, SelectError> {
        Self::select(self, matchers, from, to, room)
    }
}

/// When is asked about, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// One time.
    At(i64),
    /// Several.
    Over {
        /// The first.
        start: i64,
        /// The last that may be.
        end: i64,
        /// How far apart.
        step: i64,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The times are none that can be asked about.
    #[error("{0}")]
    Times(String),
    /// The series do not go together, or are too many.
    #[error("{0}")]
    Execution(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] SelectError),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A number.
    Scalar(Sample),
    /// A text.
    Text(i64, String),
    /// Series with one value.
    Vector(Vec<(Labels, Sample)>),
    /// Series with several.
    Matrix(Vec<Found>),
}

/// Answers a question.
///
/// # Errors
/// See [`QueryError`].
pub fn evaluate(source: &dyn Source, expression: &Expression, query: Query) -> Result<Answer, QueryError> {
    let (grid, is_instant) = match query {
        Query::At(at) => (Grid { start: at, step: 1, count: 1 }, true),
        Query::Over { start, end, step } => (Grid::new(start, end, step)?, false),
    };
    let mut evaluator = Evaluator { source, grid, room: MAX_SAMPLES, work: MAX_WORK };
    let at = grid.start;
    match expression.kind() {
        Kind::Text if is_instant => Ok(Answer::Text(
            at,
            match expression {
                Expression::Text(text) => text.clone(),
                _ => String::new(),
            },
        )),
        Kind::Matrix if is_instant => {
            let found = evaluator.ranges(expression)?;
            let window = |found: Found| {
                let samples: Vec<Sample> = found.samples.into_iter().filter(|sample| !is_stale(sample.value)).collect();
                (!samples.is_empty()).then_some(Found { labels: found.labels, samples })
            };
            Ok(Answer::Matrix(found.series.into_iter().filter_map(window).collect()))
        }
        kind @ (Kind::Text | Kind::Matrix) => {
            Err(QueryError::Times(format!("invalid expression type \"{}\" for range query, must be Scalar or instant Vector", kind.word())))
        }
        Kind::Scalar => {
            let values = evaluator.scalar(expression)?;
            let sample = |(at, value): (i64, &f64)| Sample { at, value: *value };
            Ok(match (is_instant, values.first()) {
                (true, Some(value)) => Answer::Scalar(Sample { at, value: *value }),
                _ => Answer::Matrix(vec![Found { labels: Labels::default(), samples: grid.times().zip(&values).map(sample).collect() }]),
            })
        }
        Kind::Vector => {
            let columns = evaluator.vector(expression)?;
            if is_instant {
                let value = |column: Column| Some((column.labels, Sample { at, value: column.values.first().copied().flatten()? }));
                return Ok(Answer::Vector(columns.into_iter().filter_map(value).collect()));
            }
            let mut series: Vec<Found> = columns.into_iter().map(|column| column.found(grid)).collect();
            series.retain(|found| !found.samples.is_empty());
            series.sort_by(|one, other| one.labels.cmp(&other.labels));
            Ok(Answer::Matrix(series))
        }
    }
}

/// The times that are asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) start: i64,
    pub(super) step: i64,
    pub(super) count: usize,
}

impl Grid {
    fn new(start: i64, end: i64, step: i64) -> Result<Self, QueryError> {
        if end < start {
            return Err(QueryError::Times("end timestamp must not be before start time".to_owned()));
        }
        if step <= 0 {
            return Err(QueryError::Times(
                "zero or negative query resolution step widths are not accepted. Try a positive integer".to_owned(),
            ));
        }
        let steps = end.saturating_sub(start) / step;
        if steps > MAX_STEPS {
            let message =
                format!("exceeded maximum resolution of {MAX_STEPS} points per timeseries. Try decreasing the query resolution (?step=XX)");
            return Err(QueryError::Times(message));
        }
        Ok(Self { start, step, count: usize::try_from(steps).unwrap_or(0) + 1 })
    }

    pub(super) fn times(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |index| self.at(index))
    }

    pub(super) fn at(self, index: usize) -> i64 {
        self.start + self.step * i64::try_from(index).unwrap_or(i64::MAX)
    }

    fn end(self) -> i64 {
        self.at(self.count - 1)
    }
}

/// A series with a value at each step, or none.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) labels: Labels,
    pub(super) values: Vec<Option<f64>>,
}

impl Column {
    fn found(self, grid: Grid) -> Found {
        let samples = grid.times().zip(self.values).filter_map(|(at, value)| Some(Sample { at, value: value? }));
        Found { labels: self.labels, samples: samples.collect() }
    }
}

/// Columns that are put together value by value. Two values of the same labels at the same step are a mistake of the question.
#[derive(Debug)]
pub(super) struct Table {
    steps: usize,
    places: HashMap<Labels, usize, foldhash::fast::RandomState>,
    columns: Vec<Column>,
}

impl Table {
    pub(super) fn new(steps: usize) -> Self {
        Self { steps, places: HashMap::default(), columns: Vec::new() }
    }

    /// The place of the column with these labels, a new one if need be.
    pub(super) fn column(&mut self, labels: Labels) -> usize {
        let Self { steps, places, columns } = self;
        *places.entry(labels).or_insert_with_key(|labels| {
            columns.push(Column { labels: labels.clone(), values: vec![None; *steps] });
            columns.len() - 1
        })
    }

    /// Puts a value there.
    pub(super) fn put(&mut self, column: usize, step: usize, value: f64) -> Result<(), QueryError> {
        match self.columns.get_mut(column).and_then(|column| column.values.get_mut(step)) {
            Some(Some(_)) => Err(QueryError::Execution("vector cannot contain metrics with the same labelset".to_owned())),
            Some(slot) => {
                *slot = Some(value);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn done(self) -> Vec<Column> {
        self.columns
    }
}

/// Series with their samples over a time, and which time is looked at from each step.
#[derive(Debug)]
pub(super) struct Ranges {
    pub(super) series: Vec<Found>,
    pub(super) range: Milliseconds,
    pub(super) offset: Milliseconds,
}

/// What is left to spend on a question.
pub(super) struct Evaluator<'s> {
    source: &'s dyn Source,
    pub(super) grid: Grid,
    room: usize,
    work: usize,
}

type Evaluated<T> = Result<T, QueryError>;

impl Evaluator<'_> {
    /// So many values are about to be worked with.
    pub(super) fn spend(&mut self, work: usize) -> Evaluated<()> {
        let too_much =
            || QueryError::Execution("too much work is needed to answer; ask for fewer series, less time or fewer steps".to_owned());
        self.work = self.work.checked_sub(work).ok_or_else(too_much)?;
        Ok(())
    }

    /// A number at each step.
    pub(super) fn scalar(&mut self, expression: &Expression) -> Evaluated<Vec<f64>> {
        self.spend(self.grid.count)?;
        match expression {
            Expression::Number(number) => Ok(vec![*number; self.grid.count]),
            #[allow(clippy::cast_precision_loss, reason = "a time is a float")]
            Expression::Call(Function::Time, _) => Ok(self.grid.times().map(|at| at as f64 / 1000.0).collect()),
            Expression::Call(Function::Scalar, arguments) => {
                let columns = self.argument(arguments, 0)?;
                let only = |step: usize| {
                    let mut there = columns.iter().filter_map(|column| column.values[step]);
                    match (there.next(), there.next()) {
                        (Some(value), None) => value,
                        _ => f64::NAN,
                    }
                };
                self.spend(columns.len() * self.grid.count)?;
                Ok((0..self.grid.count).map(only).collect())
            }
            Expression::Negative(of) => Ok(self.scalar(of)?.into_iter().map(|value| -value).collect()),
            Expression::Binary(of) => {
                let (left, right) = (self.scalar(&of.left)?, self.scalar(&of.right)?);
                Ok(left.iter().zip(&right).map(|(left, right)| binary::of_numbers(of.operator, *left, *right)).collect())
            }
            // Types were checked when the question was read.
            _ => Err(QueryError::Execution("a number was expected".to_owned())),
        }
    }

    /// Series with a value at each step.
    pub(super) fn vector(&mut self, expression: &Expression) -> Evaluated<Vec<Column>> {
        let columns = match expression {
            Expression::Selector(selector) => self.newest(selector, |sample| sample.value),
            Expression::Negative(of) => {
                let columns = self.vector(of)?;
                functions::mapped(columns, self.grid.count, |_, value| -value)
            }
            Expression::Binary(of) => binary::vector(self, of),
            Expression::Aggregate(of) => aggregate::aggregate(self, of),
            Expression::Call(function, arguments) => functions::call(self, *function, arguments),
            // Types were checked when the question was read.
            _ => Err(QueryError::Execution("a vector was expected".to_owned())),
        }?;
        self.spend(columns.len() * self.grid.count)?;
        Ok(columns)
    }

    /// The vector that is an argument.
    pub(super) fn argument(&mut self, arguments: &[Expression], index: usize) -> Evaluated<Vec<Column>> {
        match arguments.get(index) {
            Some(argument) => self.vector(argument),
            None => Ok(Vec::new()),
        }
    }

    /// The number that is an argument.
    pub(super) fn number(&mut self, arguments: &[Expression], index: usize, default: f64) -> Evaluated<Vec<f64>> {
        match arguments.get(index) {
            Some(argument) => self.scalar(argument),
            None => Ok(vec![default; self.grid.count]),
        }
    }

    fn select(&mut self, matchers: &[Matcher], from: i64, to: i64) -> Evaluated<Vec<Found>> {
        Ok(self.source.select(matchers, from, to, &mut self.room)?)
    }

    /// What is said of the newest sample at each step.
    pub(super) fn newest(&mut self, selector: &Selector, said: impl Fn(Sample) -> f64) -> Evaluated<Vec<Column>> {
        let Selector { matchers, offset } = selector;
        let grid = self.grid;
        let found = self.select(matchers, grid.start - offset - LOOKBACK, grid.end() - offset)?;
        self.spend(found.len() * grid.count)?;
        let column = |Found { labels, samples }: Found| {
            let mut next = 0_usize;
            let value = |at: i64| {
                let at = at - offset;
                while samples.get(next).is_some_and(|sample| sample.at <= at) {
                    next += 1;
                }
                let sample = samples.get(next.checked_sub(1)?)?;
                (sample.at >= at - LOOKBACK && !is_stale(sample.value)).then(|| said(*sample))
            };
            Column { labels, values: grid.times().map(value).collect() }
        };
        let columns = found.into_iter().map(column);
        Ok(columns.filter(|column| column.values.iter().any(Option::is_some)).collect())
    }

    /// Samples over a time.
    pub(super) fn ranges(&mut self, expression: &Expression) -> Evaluated<Ranges> {
        let grid = self.grid;
        match expression {
            Expression::Range(Selector { matchers, offset }, range) => {
                let mut series = self.select(matchers, grid.start - offset - range, grid.end() - offset)?;
                for found in &mut series {
                    found.samples.retain(|sample| !is_stale(sample.value));
                }
                Ok(Ranges { series, range: *range, offset: *offset })
            }
            Expression::Subquery(subquery) => {
                let Subquery { of, range, step, offset } = &**subquery;
                let from = grid.start - offset - range;
                // Its steps are multiples of its own step, whatever is asked about.
                let mut start = from.div_euclid(*step) * step;
                if start < from {
                    start += step;
                }
                let end = grid.end() - offset;
                if end < start {
                    return Ok(Ranges { series: Vec::new(), range: *range, offset: *offset });
                }
                self.grid = Grid::new(start, end, *step)?;
                let inner = self.grid;
                let columns = self.vector(of)?;
                self.grid = grid;
                Ok(Ranges { series: columns.into_iter().map(|column| column.found(inner)).collect(), range: *range, offset: *offset })
            }
            // Types were checked when the question was read.
            _ => Err(QueryError::Execution("a range was expected".to_owned())),
        }
    }

    /// What is said of the samples of a time, at each step.
    pub(super) fn over(
        &mut self,
        expression: &Expression,
        keeps_name: bool,
        said: impl Fn(usize, &windows::Window<'_>) -> Option<f64>,
    ) -> Evaluated<Vec<Column>> {
        let Ranges { series, range, offset } = self.ranges(expression)?;
        let grid = self.grid;
        let mut table = Table::new(grid.count);
        for Found { labels, samples } in series {
            let (mut begin, mut end) = (0_usize, 0_usize);
            let mut column = None;
            for (step, at) in grid.times().enumerate() {
                let (from, to) = (at - offset - range, at - offset);
                while samples.get(end).is_some_and(|sample| sample.at <= to) {
                    end += 1;
                }
                while samples.get(begin).is_some_and(|sample| sample.at < from) {
                    begin += 1;
                }
                let within = samples.get(begin..end).unwrap_or_default();
                self.spend(within.len() + 1)?;
                if within.is_empty() {
                    continue;
                }
                if let Some(value) = said(step, &windows::Window { samples: within, from, to }) {
                    let column = *column.get_or_insert_with(|| table.column(if keeps_name { labels.clone() } else { labels.unnamed() }));
                    table.put(column, step, value)?;
                }
            }
        }
        Ok(table.done())
    }
}
