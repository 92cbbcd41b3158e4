//! How records are found: first by the index, then by the marks that their bytes must have, and only what is left is decoded.
//!
//! The newest come first, and a search ends once nothing older can be among them. A query reads a look at the store; it blocks its own thread only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use super::filter::{Condition, LogFilter, Marks, SpanFilter, is_service};
use super::frame::Source;
use super::intake::number;
use super::segment::{Entry, Reader, Segment};
use super::trace::{self, Call, StoredSpan, Trace};
use super::{Kind, Store};

/// The most spans of one trace that are read.
const MAX_SPANS: usize = 10_000;
/// The most spans of all traces of an answer.
const MAX_SPANS_OF_ALL: usize = 100_000;
/// The most spans, of the newest, that dependencies are counted from.
const MAX_CALLS: usize = 1_000_000;
/// By how many bits a position in the log says the segment before the record in it.
const SEGMENT: u32 = 20;

/// Traces that were found, the newest first.
#[derive(Debug)]
pub struct FoundTraces {
    /// The traces.
    pub traces: Vec<Trace>,
    /// From where the search goes on, if there is more.
    pub next: Option<Place>,
}

/// A place in the order in which traces are found: when the newest span that was wanted began, and the trace's id.
pub type Place = (u64, u128);

/// A log record as it was stored.
#[derive(Debug, Clone)]
pub struct StoredLog {
    /// Its place among all: later ones have higher numbers.
    pub position: u64,
    /// Who sent it.
    pub source: Arc<Source>,
    /// The service: `recording.contact`.
    pub service: String,
    /// When it was, in nanoseconds since 1970.
    pub time: u64,
    /// The record itself.
    pub record: LogRecord,
}

/// Log records that were found.
#[derive(Debug)]
pub struct FoundLogs {
    /// The records, the oldest first.
    pub logs: Vec<StoredLog>,
    /// The place before which older ones are, if there are any.
    pub before: Option<u64>,
    /// The place from which newer ones will be.
    pub after: u64,
}

/// Which part of the log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The newest.
    Newest,
    /// What is older than a place.
    Before(u64),
    /// What came at a place or later, the oldest of it.
    After(u64),
}

/// A condition, ready for one segment's records.
struct Check<'f> {
    conditions: Vec<(&'f Condition, Marks)>,
    /// Which of them a source meets by itself.
    by_source: HashMap<u32, Vec<bool>>,
}

impl<'f> Check<'f> {
    fn new(conditions: &'f [Condition]) -> Self {
        Self { conditions: conditions.iter().map(|condition| (condition, condition.marks())).collect(), by_source: HashMap::new() }
    }

    /// Whether a record meets all conditions. `attributes` decodes it.
    fn is_met(
        &mut self,
        reader: &mut Reader<'_>,
        entry: &Entry,
        attributes: impl FnOnce(&[u8]) -> io::Result<Vec<KeyValue>>,
    ) -> io::Result<bool> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let stored = reader.message(entry).and_then(|message| reader.stored(message))?;
        let met = match self.by_source.get(&stored.source) {
            Some(met) => met,
            None => {
                let source = reader.source(stored.source)?;
                let of_source = || source.resource.iter().flat_map(|resource| &resource.attributes);
                let met = self.conditions.iter().map(|(condition, _)| condition.is_met(of_source())).collect();
                self.by_source.entry(stored.source).or_insert(met)
            }
        };
        let mut left = self.conditions.iter().zip(met).filter(|(_, met)| !**met).map(|(condition, _)| condition).peekable();
        if left.peek().is_none() {
            return Ok(true);
        }
        let left: Vec<_> = left.collect();
        if !left.iter().all(|(_, marks)| marks.may_be_in(&stored.body)) {
            return Ok(false);
        }
        let attributes = attributes(&stored.body)?;
        Ok(left.iter().all(|(condition, _)| condition.is_met(&attributes)))
    }
}

impl Store {
    /// The services that told of spans.
    #[must_use]
    pub fn services(&self) -> BTreeSet<String> {
        let segments = self.segments(Kind::Spans);
        segments.iter().flat_map(|segment| segment.names()).map(|name| name.service.clone()).collect()
    }

    /// The operations of a service, with OTLP's number of their kind.
    #[must_use]
    pub fn operations(&self, service: &str) -> BTreeSet<(String, u32)> {
        let segments = self.segments(Kind::Spans);
        let names = segments.iter().flat_map(|segment| segment.names()).filter(|name| name.service == service);
        names.map(|name| (name.operation.clone(), name.kind)).collect()
    }

    /// A trace, if any span of it is stored.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn trace(&self, id: u128) -> io::Result<Option<Trace>> {
        Ok(self.gather(&self.segments(Kind::Spans), &[id])?.pop())
    }

    /// Traces that have a span as wanted, the newest first, from behind `before` on.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn traces(&self, filter: &SpanFilter, before: Option<Place>, limit: usize) -> io::Result<FoundTraces> {
        let segments = self.segments(Kind::Spans);
        // Of each trace, the begin of the newest span that is wanted.
        let mut newest: HashMap<u128, u64, foldhash::fast::RandomState> = HashMap::default();
        let mut wanted: Vec<Place> = Vec::new();
        for segment in segments.iter().rev() {
            // One more than is asked for tells that there is more.
            if wanted.get(limit).is_some_and(|(time, _)| segment.latest() < *time) {
                break;
            }
            search(segment, filter, &mut newest)?;
            wanted = newest.iter().map(|(id, time)| (*time, *id)).filter(|place| before.is_none_or(|before| *place < before)).collect();
            wanted.sort_unstable_by(|a, b| b.cmp(a));
        }
        let more = wanted.len() > limit;
        wanted.truncate(limit);
        let ids: Vec<u128> = wanted.iter().map(|(_, id)| *id).collect();
        let traces = self.gather(&segments, &ids)?;
        // What did not fit is of the next answer; but one trace goes, however large.
        let cut = traces.len() < wanted.len();
        let last = traces.len().checked_sub(1).and_then(|last| wanted.get(last)).copied();
        Ok(FoundTraces { next: last.filter(|_| more || cut), traces })
    }

    /// Traces by their ids, in that order; of those past the bound none.
    fn gather(&self, segments: &[Arc<Segment>], ids: &[u128]) -> io::Result<Vec<Trace>> {
        let wanted: HashSet<u128> = ids.iter().copied().collect();
        let places: Vec<(&Arc<Segment>, Vec<usize>)> = segments.iter().map(|segment| (segment, segment.of_traces(&wanted))).collect();
        let mut counts: HashMap<u128, usize> = HashMap::new();
        for (segment, places) in &places {
            for entry in places.iter().filter_map(|index| segment.entry(*index)) {
                *counts.entry(entry.trace()).or_default() += 1;
            }
        }
        let mut sum = 0;
        let mut fit: HashMap<u128, Vec<StoredSpan>> = HashMap::new();
        for id in ids {
            sum += counts.get(id).copied().unwrap_or(0).min(MAX_SPANS);
            if sum > MAX_SPANS_OF_ALL && !fit.is_empty() {
                break;
            }
            fit.insert(*id, Vec::new());
        }
        for (segment, places) in places {
            let mut reader = segment.reader();
            for entry in places.iter().filter_map(|index| segment.entry(*index)) {
                let Some(spans) = fit.get_mut(&entry.trace()).filter(|spans| spans.len() < MAX_SPANS) else { continue };
                let stored = reader.message(entry).and_then(|message| reader.stored(message))?;
                let service = segment.name(entry.name).map_or_else(String::new, |name| name.service.clone());
                let span = Span::decode(stored.body).map_err(undecodable)?;
                spans.push(StoredSpan { source: reader.source(stored.source)?, service, span });
            }
        }
        let one = |id: &u128| {
            let spans = fit.remove(id).filter(|spans| !spans.is_empty())?;
            let cut = counts.get(id).is_some_and(|count| *count > spans.len());
            Some(Trace::new(*id, spans, cut))
        };
        Ok(ids.iter().filter_map(one).collect())
    }

    /// How often which service called which other, by spans that began within these nanoseconds since 1970: of the newest million.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn dependencies(&self, from: u64, to: u64) -> io::Result<BTreeMap<(String, String), u64>> {
        /// What of a span is needed.
        #[derive(Clone, PartialEq, Message)]
        struct Ids {
            #[prost(bytes = "vec", tag = "2")]
            span_id: Vec<u8>,
            #[prost(bytes = "vec", tag = "4")]
            parent_span_id: Vec<u8>,
            #[prost(enumeration = "SpanKind", tag = "6")]
            kind: i32,
        }
        let mut services: Vec<String> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut calls = Vec::new();
        for segment in self.segments(Kind::Spans).iter().rev().filter(|segment| segment.may_have(from, to)) {
            let mut reader = segment.reader();
            for entry in segment.entries().filter(|entry| (from..=to).contains(&entry.time)) {
                if calls.len() >= MAX_CALLS {
                    break;
                }
                let Some(name) = segment.name(entry.name) else { continue };
                let service = match numbers.get(&name.service) {
                    Some(number) => *number,
                    None => {
                        services.push(name.service.clone());
                        numbers.insert(name.service.clone(), services.len() - 1);
                        services.len() - 1
                    }
                };
                let stored = reader.message(entry).and_then(|message| reader.stored(message))?;
                let ids = Ids::decode(stored.body).map_err(undecodable)?;
                let parent = (!ids.parent_span_id.is_empty()).then(|| number(&ids.parent_span_id) as u64);
                calls.push(Call { trace: entry.trace(), id: number(&ids.span_id) as u64, parent, kind: ids.kind(), service });
            }
        }
        let named = |number: usize| services.get(number).cloned().unwrap_or_default();
        Ok(trace::dependencies(&calls).into_iter().map(|((caller, callee), times)| ((named(caller), named(callee)), times)).collect())
    }

    /// Log records as wanted, at most `limit`.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn logs(&self, filter: &LogFilter, part: Part, limit: usize) -> io::Result<FoundLogs> {
        let segments = self.segments(Kind::Logs);
        let end = segments.last().map_or(0, |segment| position(segment, segment.count()));
        let mut logs = Vec::new();
        let mut more = false;
        let backwards = !matches!(part, Part::After(_));
        // A place past the end is of a store that was emptied since.
        let within = |place: u64| match part {
            Part::Newest => true,
            Part::Before(before) => place < before,
            Part::After(after) => place >= after.min(end),
        };
        let order: Vec<&Arc<Segment>> = if backwards { segments.iter().rev().collect() } else { segments.iter().collect() };
        'search: for segment in order {
            let (first, last) = (position(segment, 0), position(segment, segment.count().saturating_sub(1)));
            let (from, to) = (filter.from.unwrap_or(0), filter.to.unwrap_or(u64::MAX));
            if segment.count() == 0 || !segment.may_have(from, to) || (!within(first) && !within(last)) {
                continue;
            }
            let mut check = Check::new(&filter.conditions);
            let mut reader = segment.reader();
            let count = segment.count();
            for step in 0..count {
                let index = if backwards { count - 1 - step } else { step };
                let (Some(entry), place) = (segment.entry(index), position(segment, index)) else { continue };
                if !within(place) || !log_is_wanted(segment, entry, filter) {
                    continue;
                }
                if !check.is_met(&mut reader, entry, |body| Ok(of_log(&LogRecord::decode(body).map_err(undecodable)?)))? {
                    continue;
                }
                if logs.len() >= limit {
                    more = true;
                    break 'search;
                }
                let stored = reader.message(entry).and_then(|message| reader.stored(message))?;
                logs.push(StoredLog {
                    position: place,
                    source: reader.source(stored.source)?,
                    service: segment.name(entry.name).map_or_else(String::new, |name| name.service.clone()),
                    time: entry.time,
                    record: LogRecord::decode(stored.body).map_err(undecodable)?,
                });
            }
        }
        let last = logs.last().map(|log: &StoredLog| log.position);
        if backwards {
            logs.reverse();
        }
        Ok(FoundLogs {
            before: if backwards { last.filter(|_| more) } else { None },
            after: if backwards || !more { end } else { last.map_or(end, |last| last + 1) },
            logs,
        })
    }
}

/// The place of a record of the log.
fn position(segment: &Segment, index: usize) -> u64 {
    segment.number << SEGMENT | index as u64
}

/// Looks for spans of one segment.
fn search(segment: &Segment, filter: &SpanFilter, newest: &mut HashMap<u128, u64, foldhash::fast::RandomState>) -> io::Result<()> {
    let (from, to) = (filter.from.unwrap_or(0), filter.to.unwrap_or(u64::MAX));
    if !segment.may_have(from, to) {
        return Ok(());
    }
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (shortest, longest) = (filter.shortest.map_or(0, nanoseconds), filter.longest.map_or(u64::MAX, nanoseconds));
    let named: Vec<bool> = segment
        .names()
        .map(|name| {
            filter.service.as_deref().is_none_or(|wanted| is_service(&name.service, wanted))
                && filter.operation.as_deref().is_none_or(|wanted| name.operation == super::intake::shortened(wanted))
                && filter.kind.is_none_or(|wanted| name.kind == wanted)
        })
        .collect();
    if !named.contains(&true) {
        return Ok(());
    }
    let mut check = Check::new(&filter.conditions);
    let mut reader = segment.reader();
    for entry in segment.entries() {
        let wanted = (from..=to).contains(&entry.time)
            && (shortest..=longest).contains(&entry.duration)
            && filter.failed.is_none_or(|failed| entry.failed == failed)
            && named.get(entry.name as usize).copied().unwrap_or(false);
        // A span of a trace that is among the found with a newer one changes nothing.
        let changes = wanted && newest.get(&entry.trace()).is_none_or(|time| *time < entry.time);
        if changes && check.is_met(&mut reader, entry, |body| Ok(Span::decode(body).map_err(undecodable)?.attributes))? {
            newest.insert(entry.trace(), entry.time);
        }
    }
    Ok(())
}

fn log_is_wanted(segment: &Segment, entry: &Entry, filter: &LogFilter) -> bool {
    filter.from.is_none_or(|from| entry.time >= from)
        && filter.to.is_none_or(|to| entry.time <= to)
        && filter.trace.is_none_or(|trace| entry.trace() == trace)
        && filter.failed.is_none_or(|failed| entry.failed == failed)
        && filter.service.as_deref().is_none_or(|wanted| segment.name(entry.name).is_some_and(|name| is_service(&name.service, wanted)))
}

/// What a log record says: its attributes, and its body where that is a list of such.
fn of_log(record: &LogRecord) -> Vec<KeyValue> {
    let mut attributes = record.attributes.clone();
    if let Some(AnyValue { value: Some(Value::KvlistValue(list)) }) = &record.body {
        attributes.extend(list.values.iter().cloned());
    }
    attributes
}

fn undecodable(error: prost::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
