//! A trace put together again from its spans: where it begins, what it took, who is whose child. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::frame::Source;
use super::intake;

/// A span as it was stored.
#[derive(Debug, Clone)]
pub struct StoredSpan {
    /// Who told of it.
    pub source: Arc<Source>,
    /// The service: `recording.contact`.
    pub service: String,
    /// The span itself.
    pub span: Span,
}

impl StoredSpan {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        intake::number(&self.span.span_id) as u64
    }

    /// Its parent's id; none for a root.
    #[must_use]
    pub fn parent(&self) -> Option<u64> {
        (!self.span.parent_span_id.is_empty()).then(|| intake::number(&self.span.parent_span_id) as u64)
    }

    /// When it began, in nanoseconds since 1970.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.span.start_time_unix_nano
    }

    /// How long it took, in nanoseconds. A clock that was set back made it 0.
    #[must_use]
    pub fn duration(&self) -> u64 {
        self.span.end_time_unix_nano.saturating_sub(self.span.start_time_unix_nano)
    }

    /// Whether it says that it failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        intake::failed(&self.span)
    }
}

/// A trace, as far as it is stored.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Its id.
    pub id: u128,
    /// Its spans, each once, by their begin.
    pub spans: Vec<StoredSpan>,
    /// There are more than were read.
    pub cut: bool,
}

impl Trace {
    /// Puts spans in order, and takes out those that came twice, as from an exporter that tried again.
    #[must_use]
    pub fn new(id: u128, mut spans: Vec<StoredSpan>, cut: bool) -> Self {
        spans.sort_by(|a, b| (a.start(), a.id(), &a.service).cmp(&(b.start(), b.id(), &b.service)));
        spans.dedup_by(|a, b| a.span == b.span && a.service == b.service);
        Self { id, spans, cut }
    }

    /// Its first span without a parent; where none is stored, the first of all.
    #[must_use]
    pub fn root(&self) -> Option<&StoredSpan> {
        self.spans.iter().find(|span| span.parent().is_none()).or_else(|| self.spans.first())
    }

    /// When its first span began, in nanoseconds since 1970.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.spans.first().map_or(0, StoredSpan::start)
    }

    /// From its first span's begin to its last one's end, in nanoseconds.
    #[must_use]
    pub fn duration(&self) -> u64 {
        let end = self.spans.iter().map(|span| span.start().saturating_add(span.duration())).max();
        end.unwrap_or(0).saturating_sub(self.start())
    }

    /// How many of its spans failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.spans.iter().filter(|span| span.failed()).count()
    }

    /// How many of its spans are of which service.
    #[must_use]
    pub fn services(&self) -> BTreeMap<&str, usize> {
        let mut services = BTreeMap::new();
        self.spans.iter().for_each(|span| *services.entry(span.service.as_str()).or_default() += 1);
        services
    }

    /// The number of each span's parent among the spans; none for roots, and where it is not stored.
    #[must_use]
    pub fn parents(&self) -> Vec<Option<usize>> {
        let mut by_id: HashMap<u64, Vec<usize>> = HashMap::new();
        self.spans.iter().enumerate().for_each(|(number, span)| by_id.entry(span.id()).or_default().push(number));
        let is = |number: usize, kind: SpanKind| self.spans.get(number).is_some_and(|span| span.span.kind == i32::from(kind));
        let one = |(number, span): (usize, &StoredSpan)| {
            // In Zipkin's way the two sides of a call share an id: the callee's side is the child of the caller's.
            let twins = by_id.get(&span.id())?;
            if is(number, SpanKind::Server)
                && let Some(client) = twins.iter().find(|twin| is(**twin, SpanKind::Client))
            {
                return Some(*client);
            }
            let parents = by_id.get(&span.parent()?)?;
            // And what the callee called is the child of its side.
            let parent = parents.iter().find(|parent| is(**parent, SpanKind::Server)).or_else(|| parents.first())?;
            (*parent != number).then_some(*parent)
        };
        self.spans.iter().enumerate().map(one).collect()
    }

    /// The numbers of its spans, each under its parent, with how deep it stands. Each span comes once, also where parents go round in a circle.
    #[must_use]
    pub fn tree(&self) -> Vec<(usize, usize)> {
        let parents = self.parents();
        let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut waiting = Vec::new();
        for (number, parent) in parents.iter().enumerate().rev() {
            match parent {
                Some(parent) => children.entry(*parent).or_default().push(number),
                None => waiting.push((number, 0)),
            }
        }
        let mut tree = Vec::with_capacity(self.spans.len());
        let mut seen = HashSet::new();
        let mut circles = 0..self.spans.len();
        loop {
            let Some((number, depth)) = waiting.pop() else {
                match circles.by_ref().find(|number| !seen.contains(number)) {
                    Some(number) => waiting.push((number, 0)),
                    None => return tree,
                }
                continue;
            };
            if seen.insert(number) {
                tree.push((number, depth));
                waiting.extend(children.get(&number).into_iter().flatten().map(|child| (*child, depth + 1)));
            }
        }
    }
}

/// A span by what calls are counted from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) kind: SpanKind,
    /// The number of its service.
    pub(super) service: usize,
}

/// How often which service was called by which other: spans whose parent is another service's.
pub(super) fn dependencies(calls: &[Call]) -> BTreeMap<(usize, usize), u64> {
    /// Who has an id: in Zipkin's way both sides of a call do.
    #[derive(Default)]
    struct Sides {
        caller: Option<usize>,
        other: Option<usize>,
    }
    let mut sides: HashMap<(u128, u64), Sides, foldhash::fast::RandomState> = HashMap::default();
    for call in calls {
        let sides = sides.entry((call.trace, call.id)).or_default();
        let side = if call.kind == SpanKind::Client { &mut sides.caller } else { &mut sides.other };
        side.get_or_insert(call.service);
    }
    let mut edges = BTreeMap::new();
    for call in calls {
        let twin = sides.get(&(call.trace, call.id)).and_then(|sides| sides.caller).filter(|_| call.kind == SpanKind::Server);
        let parent = call.parent.and_then(|id| sides.get(&(call.trace, id))).and_then(|sides| sides.other.or(sides.caller));
        if let Some(caller) = twin.or(parent).filter(|caller| *caller != call.service) {
            *edges.entry((caller, call.service)).or_default() += 1;
        }
    }
    edges
}
