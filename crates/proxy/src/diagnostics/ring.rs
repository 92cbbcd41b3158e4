//! The ring: what became of the last exchanges of a worker, so that a question for a request that is over can be answered.
//!
//! It is written with every exchange, so a slot is used again with the room that it has: nothing is allocated once the ring has been filled, unless
//! a request was tried more than once. What is long is cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lorica_model::reason::Reason;
use lorica_model::snapshot::Origin;
use lorica_model::story::{Attempt, Decision, Hop, Place, Side, Step, Who};
use lorica_observe::Record;
use lorica_observe::record::{Called, Party, Reporter, Route, Security};

use super::notes::Notes;

/// How many exchanges are remembered.
pub const SLOTS: usize = 256;
/// The longest id, method, path and detail that are remembered, in bytes.
const LONGEST_ID: usize = 128;
const LONGEST_METHOD: usize = 32;
const LONGEST_PATH: usize = 256;
const LONGEST_DETAIL: usize = 256;

/// The last exchanges.
#[derive(Debug, Default)]
pub struct Ring {
    slots: Vec<Slot>,
    next: usize,
}

/// An attempt that another followed.
#[derive(Debug, Clone)]
pub struct Tried {
    /// Who was asked, where somebody was.
    pub asked: Option<(Option<SocketAddr>, Arc<Party>)>,
    /// Whether that has a Lorica proxy.
    pub tells: bool,
    /// When it began, after the request.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// The status that was given up; 0: there was none.
    pub status: u16,
    /// Why it failed; none where an answer was given up.
    pub reason: Option<Reason>,
    /// What exactly happened.
    pub detail: String,
}

/// What became of one exchange.
#[derive(Debug)]
pub struct Slot {
    request_id: String,
    method: String,
    path: String,
    detail: String,
    trace: u128,
    span: u64,
    parent: u64,
    start: SystemTime,
    took: Duration,
    reporter: Reporter,
    at_gateway: bool,
    source: Arc<Party>,
    destination: Arc<Party>,
    called: Arc<Called>,
    security: Security,
    route: Option<Arc<Origin>>,
    /// The AuthorizationPolicy that decided, its rule, and what it said.
    policy: Option<(Arc<Origin>, Option<u32>, &'static str)>,
    /// The FaultPolicy that was met, and whether it delayed.
    fault: Option<(Arc<Origin>, bool)>,
    earlier: Vec<Tried>,
    last: Option<Tried>,
    status: u16,
    grpc_status: Option<u32>,
    reason: Option<Reason>,
    left: Option<Duration>,
    /// From the begin to the first attempt, and to the head of the answer.
    decided: Option<Duration>,
    answered: Option<Duration>,
}

impl Ring {
    /// Remembers an exchange in place of the oldest.
    pub fn remember(&mut self, record: &Record<'_>, notes: &mut Notes<'_>) -> &Slot {
        let at = self.next;
        self.next = (at + 1) % SLOTS;
        if at >= self.slots.len() {
            self.slots.push(Slot::of(record));
        }
        // The ring has so many slots, as one was added where there were fewer.
        let slot = &mut self.slots[at];
        slot.write(record, notes);
        slot
    }

    /// What is remembered of a request, the oldest first.
    pub fn find(&self, request_id: &str, trace: Option<u128>) -> impl Iterator<Item = &Slot> {
        let (newer, older) = self.slots.split_at(self.next.min(self.slots.len()));
        let is_it = move |slot: &&Slot| (!request_id.is_empty() && slot.request_id == request_id) || trace == Some(slot.trace);
        older.iter().chain(newer).filter(is_it)
    }
}

impl Slot {
    fn of(record: &Record<'_>) -> Self {
        Self {
            request_id: String::new(),
            method: String::new(),
            path: String::new(),
            detail: String::new(),
            trace: 0,
            span: 0,
            parent: 0,
            start: record.start,
            took: Duration::ZERO,
            reporter: record.reporter,
            at_gateway: false,
            source: record.source.clone(),
            destination: record.destination.clone(),
            called: record.called.clone(),
            security: record.security,
            route: None,
            policy: None,
            fault: None,
            earlier: Vec::new(),
            last: None,
            status: 0,
            grpc_status: None,
            reason: None,
            left: None,
            decided: None,
            answered: None,
        }
    }

    fn write(&mut self, record: &Record<'_>, notes: &mut Notes<'_>) {
        let Some(http) = &record.http else { return };
        put(&mut self.request_id, &http.request_id, LONGEST_ID);
        put(&mut self.method, http.method, LONGEST_METHOD);
        put(&mut self.path, http.path, LONGEST_PATH);
        put(&mut self.detail, &record.detail, LONGEST_DETAIL);
        let span = http.span.as_ref();
        self.trace = span.map_or(0, |span| span.context.trace_id);
        self.span = span.map_or(0, |span| span.context.span_id);
        self.parent = span.and_then(|span| span.parent).unwrap_or_default();
        self.start = record.start;
        self.took = record.duration;
        self.reporter = record.reporter;
        self.at_gateway = notes.at_gateway;
        share(&mut self.source, &record.source);
        share(&mut self.destination, &record.destination);
        share(&mut self.called, &record.called);
        self.security = record.security;
        self.route = if let Some(Route::Rule(origin)) = &record.route { Some(origin.clone()) } else { None };
        self.policy = notes.policy.take();
        self.fault = record.fault.as_ref().map(|fault| (fault.by.clone(), fault.delayed));
        self.earlier.clear();
        self.earlier.append(&mut notes.earlier);
        self.last = notes.last(record);
        self.status = http.status;
        self.grpc_status = http.grpc_status;
        self.reason = record.reason;
        self.left = notes.left;
        self.decided = notes.decided;
        self.answered = notes.answered;
    }

    /// The same as it is told. `proxy`: who tells it.
    #[must_use]
    pub fn hop(&self, proxy: String) -> Hop {
        let digits = |number: u64| if number == 0 { String::new() } else { format!("{number:016x}") };
        let side = match (self.at_gateway, self.reporter) {
            (true, _) => Side::Gateway,
            (false, Reporter::Source) => Side::Source,
            (false, Reporter::Destination) => Side::Destination,
        };
        let attempts: Vec<Attempt> = self.earlier.iter().chain(&self.last).map(attempt).collect();
        let policy = self.policy.iter().map(|(origin, rule, said)| Decision {
            by: Place { rule: *rule, ..place(origin) },
            rule: None,
            said: (*said).to_owned(),
        });
        let fault = self.fault.iter().map(|(by, delayed)| Decision {
            by: place(by),
            rule: None,
            said: if *delayed { "delayed it".to_owned() } else { "was met".to_owned() },
        });
        Hop {
            proxy,
            side,
            request_id: self.request_id.clone(),
            trace_id: if self.trace == 0 { String::new() } else { format!("{:032x}", self.trace) },
            span_id: digits(self.span),
            parent_span_id: digits(self.parent),
            start_us: micros(self.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
            took_us: micros(self.took),
            method: self.method.clone(),
            path: self.path.clone(),
            caller: who(&self.source),
            callee: who(&self.destination),
            called: self.called.fqdn.clone(),
            security: self.security.word().to_owned(),
            rule: self.route.as_ref().map(|origin| place(origin)),
            policies: policy.chain(fault).collect(),
            attempts,
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason.map(|reason| reason.meaning().word.to_owned()),
            detail: self.detail.clone(),
            left_us: self.left.map(micros),
            steps: self.steps(),
            ..Hop::default()
        }
    }

    fn steps(&self) -> Vec<Step> {
        let step = |name: &str, took: Duration| Step { name: name.to_owned(), took_us: micros(took) };
        match (self.decided, self.answered) {
            (None, _) => Vec::new(),
            (Some(decided), None) => vec![step("decide", decided), step("attempts", self.took.saturating_sub(decided))],
            (Some(decided), Some(answered)) => vec![
                step("decide", decided),
                step("attempts", answered.saturating_sub(decided)),
                step("respond", self.took.saturating_sub(answered)),
            ],
        }
    }
}

/// Text into a slot, as far as there is room for it.
fn put(slot: &mut String, text: &str, longest: usize) {
    slot.clear();
    slot.push_str(text.get(..text.floor_char_boundary(longest)).unwrap_or_default());
}

/// Most exchanges have the parties of the one that had the slot before them.
fn share<T>(slot: &mut Arc<T>, newer: &Arc<T>) {
    if !Arc::ptr_eq(slot, newer) {
        *slot = newer.clone();
    }
}

fn attempt(tried: &Tried) -> Attempt {
    let Tried { asked, tells, at, took, status, reason, detail } = tried;
    Attempt {
        address: asked.as_ref().and_then(|(address, _)| *address),
        workload: asked.as_ref().map(|(_, party)| format!("{}.{}", party.workload, party.namespace)).unwrap_or_default(),
        tells: *tells,
        at_us: micros(*at),
        took_us: micros(*took),
        status: *status,
        reason: reason.map(|reason| reason.meaning().word.to_owned()),
        detail: detail.clone(),
        ..Attempt::default()
    }
}

fn who(party: &Party) -> Who {
    Who {
        workload: party.workload.clone(),
        namespace: party.namespace.clone(),
        service: party.service.clone(),
        principal: party.principal.clone(),
    }
}

/// The place of what decided.
#[must_use]
pub fn place(origin: &Origin) -> Place {
    let Origin { kind, namespace, name, generation, rule, matched } = origin.clone();
    Place { kind, namespace, name, generation, rule: Some(rule), matched, ..Place::default() }
}

/// Microseconds, as they are told.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
