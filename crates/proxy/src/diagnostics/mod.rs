//! Diagnostics: what a proxy can tell of single requests. Each worker remembers its last exchanges (`ring`), shows those that taps are for (`taps`), and
//! records in full those whose token asks for it (`full`). One stream to the control plane (`attend`) carries questions in and what is told out.
//!
//! Nothing here holds a request up: what cannot be told at once is dropped and counted.

pub mod attend;
pub mod full;
pub mod notes;
pub mod ring;
pub mod taps;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lorica_model::story::Hop;
use lorica_observe::Record;
use lorica_observe::metrics::OwnMetric;
use lorica_xds::diagnostics::{Explained, LookUp, Said};
use tokio::sync::mpsc;

use self::notes::Notes;
use self::ring::Ring;
use self::taps::{MOST_TAPS, Terms, WorkerTap};
use crate::worker::Worker;

/// How many questions may wait for a worker.
const QUESTIONS: usize = 16;
/// How much may wait to be told.
const WAITING: usize = 128;

/// What a worker is asked.
#[derive(Debug, Clone)]
pub enum Question {
    /// What does it remember of a request? The answer goes to the sender.
    LookUp(Arc<LookUp>, mpsc::Sender<Vec<Hop>>),
    /// Show requests.
    Tap(Arc<Terms>),
    /// No more of this tap; of none of all, where no number is named.
    EndTap(Option<u64>),
}

/// A process's diagnostics. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// Where what is told goes; none where there is no control plane.
    told: Option<mpsc::Sender<Said>>,
    workers: Arc<Mutex<Vec<mpsc::Sender<Question>>>>,
    /// The token that the app's first request is given.
    first: Arc<Mutex<Option<String>>>,
}

impl Diagnostics {
    /// Those of a proxy without a control plane: it remembers, and nobody asks.
    #[must_use]
    pub fn alone() -> Self {
        Self { told: None, workers: Arc::default(), first: Arc::default() }
    }

    /// Those of a proxy whose stream tells what comes out of the receiver. `first`: the token that the app's first request is given.
    #[must_use]
    pub fn told(first: Option<String>) -> (Self, mpsc::Receiver<Said>) {
        let (told, waiting) = mpsc::channel(WAITING);
        (Self { told: Some(told), workers: Arc::default(), first: Arc::new(Mutex::new(first)) }, waiting)
    }

    /// The same for who asks its workers, and tells nothing: what could tell would never end else.
    #[must_use]
    pub fn untold(&self) -> Self {
        Self { told: None, ..self.clone() }
    }

    /// A worker's part, and what it is asked.
    #[must_use]
    pub fn worker(&self) -> (WorkerDiagnostics, mpsc::Receiver<Question>) {
        let (asked, questions) = mpsc::channel(QUESTIONS);
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let part = WorkerDiagnostics {
            ring: RefCell::default(),
            taps: RefCell::default(),
            is_tapped: Cell::new(false),
            told: self.told.clone(),
            first: RefCell::new(first),
            has_first: Cell::new(false),
        };
        part.has_first.set(part.first.borrow().is_some());
        (part, questions)
    }

    fn workers(&self) -> Vec<mpsc::Sender<Question>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A worker's diagnostics. Stays on its thread.
#[derive(Debug)]
pub struct WorkerDiagnostics {
    ring: RefCell<Ring>,
    taps: RefCell<Vec<WorkerTap>>,
    is_tapped: Cell<bool>,
    told: Option<mpsc::Sender<Said>>,
    first: RefCell<Option<String>>,
    has_first: Cell<bool>,
}

impl WorkerDiagnostics {
    /// Whether anybody looks at requests as they pass.
    #[must_use]
    pub fn is_tapped(&self) -> bool {
        self.is_tapped.get()
    }

    /// The token of the app's first request, if this is the first.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        // Asked with every request, and nearly never there.
        self.has_first.replace(false).then(|| self.first.take()).flatten()
    }

    /// An exchange is over.
    pub fn ended(&self, worker: &Worker, record: &Record<'_>, notes: &mut Notes<'_>) {
        let mut ring = self.ring.borrow_mut();
        let slot = ring.remember(record, notes);
        if notes.full.is_none() && !self.is_tapped.get() {
            return;
        }
        let hop = slot.hop(worker.own.workload.to_string());
        drop(ring);
        self.tell(worker, hop, record, notes);
    }

    #[cold]
    fn tell(&self, worker: &Worker, mut hop: Hop, record: &Record<'_>, notes: &mut Notes<'_>) {
        let Some(told) = &self.told else { return };
        if let Some((head, _)) = notes.of {
            hop.authority = head.authority().chars().take(256).collect();
        }
        if let Some(full) = notes.full.take() {
            let explained = full.explained.clone();
            let mut hop = hop.clone();
            full.tell(&mut hop, worker, notes.of.map(|(_, caller)| caller));
            let said = Said::Explained(Explained { id: explained.id.to_string(), hop: json(&hop) });
            if told.try_send(said).is_err() {
                worker.telemetry.metrics.count(OwnMetric::DIAGNOSTICS_DROPPED, "explained", 1);
            }
        }
        if self.is_tapped.get() {
            let now = Instant::now();
            let mut taps = self.taps.borrow_mut();
            let taking: smallvec::SmallVec<[&mut WorkerTap; MOST_TAPS]> =
                taps.iter_mut().filter_map(|tap| tap.takes(record, notes, now).then_some(tap)).collect();
            if !taking.is_empty() {
                let shown = json(&taps::shown(hop, notes));
                taking.into_iter().for_each(|tap| tap.show(&shown, told));
            }
        }
    }

    /// Tells what taps did not show, and ends those whose time is over. To be called each second.
    pub fn tick(&self) {
        if !self.is_tapped.get() {
            return;
        }
        let (now, mut taps) = (Instant::now(), self.taps.borrow_mut());
        if let Some(told) = &self.told {
            taps.iter_mut().for_each(|tap| tap.tell(told));
        }
        taps.retain(|tap| !tap.is_over(now));
        self.is_tapped.set(!taps.is_empty());
    }

    /// Answers what a worker is asked, for as long as somebody may ask.
    pub async fn answer(worker: Rc<Worker>, mut questions: mpsc::Receiver<Question>) {
        while let Some(question) = questions.recv().await {
            worker.diagnostics.take(&worker, question);
        }
    }

    fn take(&self, worker: &Worker, question: Question) {
        match question {
            Question::LookUp(asked, answer) => {
                let trace = u128::from_str_radix(&asked.trace_id, 16).ok().filter(|trace| *trace != 0);
                let proxy = || worker.own.workload.to_string();
                let found = self.ring.borrow().find(&asked.request_id, trace).map(|slot| slot.hop(proxy())).collect();
                // Who asked may have gone on.
                drop(answer.try_send(found));
            }
            Question::Tap(terms) => {
                let mut taps = self.taps.borrow_mut();
                if taps.len() < MOST_TAPS {
                    taps.push(WorkerTap::new(terms, Instant::now()));
                    self.is_tapped.set(true);
                }
            }
            Question::EndTap(number) => {
                let mut taps = self.taps.borrow_mut();
                if let Some(told) = &self.told {
                    taps.iter_mut().for_each(|tap| tap.tell(told));
                }
                taps.retain(|tap| number.is_some_and(|number| tap.number() != number));
                self.is_tapped.set(!taps.is_empty());
            }
        }
    }
}

/// What is told, as it goes on its way. What the API shows is always JSON.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
