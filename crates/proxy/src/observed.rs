//! Who calls what, and what policies that are tried would have done, as this worker saw it since it last told: what is alike is counted, so that a
//! request costs a look into a table.
//!
//! Bounded: past it, calls are told without their path, and past twice of it not at all; metrics have them all.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use lorica_model::head::RequestHead;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{Effect, Effects, Origin};
use lorica_observe::metrics::{TrialCounts, WorkerMetrics};
use lorica_xds::observed::{Batch, Observation, Observer, Verdict, is_variable, template};
use lorica_xds::trial::{Trial, TrialExample, TriedPolicy};

use crate::path::caller::{Caller, Entry};
use crate::path::trial::Call;

/// How many different calls are told with their path.
const MOST: usize = 1024;
/// Of how many policies that are tried is told at once.
const MOST_TRIALS: usize = 256;
/// How many examples of a trial are told at once.
const EXAMPLES: usize = 8;
/// How many calls are looked at to find these: an example costs more than a count.
const CANDIDATES: usize = 64;
/// The longest text of an example, in bytes.
const LONGEST: usize = 256;
/// How much may wait that was found out aside.
const MOST_ASIDE: usize = 256;

/// What a worker saw.
#[derive(Debug)]
pub struct Observed {
    observer: Option<Observer>,
    hasher: foldhash::fast::RandomState,
    seen: RefCell<HashMap<u64, (Observation, u64), foldhash::fast::RandomState>>,
    tried: RefCell<HashMap<u64, Tried, foldhash::fast::RandomState>>,
}

/// What a policy that is tried would have done since it was told last.
#[derive(Debug)]
struct Tried {
    policy: TriedPolicy,
    generation: u64,
    counts: Arc<TrialCounts>,
    calls: u64,
    would: [u64; Effect::ALL.len()],
    examples: Vec<TrialExample>,
    candidates: usize,
}

impl Observed {
    /// Nothing yet. `observer`: who is told; none: nobody.
    #[must_use]
    pub fn new(observer: Option<Observer>) -> Self {
        Self { observer, hasher: foldhash::fast::RandomState::default(), seen: RefCell::default(), tried: RefCell::default() }
    }

    /// A call came. `head`: of a request; none of a connection whose bytes are not looked at.
    pub fn saw(&self, caller: &Caller, port: &ServicePort, head: Option<&RequestHead>, verdict: Verdict) {
        if self.observer.is_none() {
            return;
        }
        let mut seen = self.seen.borrow_mut();
        let shortened = seen.len() >= MOST;
        let mut hasher = self.hasher.build_hasher();
        let peer = caller.entry.peer();
        match peer {
            Some(peer) => peer.certificate_sha256.hash(&mut hasher),
            None => (caller.remote.ip(), matches!(caller.entry, Entry::Inbound { published: true, .. })).hash(&mut hasher),
        }
        (port.port, &verdict, shortened).hash(&mut hasher);
        if let Some(head) = head {
            head.method().hash(&mut hasher);
            if !shortened {
                head.path()
                    .split('/')
                    .for_each(|segment| if is_variable(segment) { "{id}".hash(&mut hasher) } else { segment.hash(&mut hasher) });
            }
        }
        let key = hasher.finish();
        if let Some((_, times)) = seen.get_mut(&key) {
            *times += 1;
            return;
        }
        if seen.len() >= 2 * MOST {
            return;
        }
        let request = head.map(|head| (head.method().to_owned(), if shortened { "/*".to_owned() } else { template(head.path()) }));
        // Who comes to a published port need not prove anything; of others, who does not is looked for.
        let published = matches!(caller.entry, Entry::Inbound { published: true, .. });
        let address = (peer.is_none() && !published).then(|| caller.remote.ip());
        seen.insert(key, (Observation { caller: peer.map(|peer| peer.id.clone()), address, port: port.clone(), request, verdict }, 1));
    }

    /// A policy that is tried was held against a call: it would have done `effects` to it. `example`: the call, its head, and why.
    pub fn tried<'h>(
        &self,
        metrics: &WorkerMetrics,
        policy: &Origin,
        effects: Effects,
        example: impl FnOnce() -> (Call, Option<&'h RequestHead>, &'h str),
    ) {
        self.note(metrics, policy, 1, effects, example);
    }

    /// What was found out aside.
    pub fn tried_aside(&self, metrics: &WorkerMetrics, aside: &Aside, caller: impl Fn(String) -> Call) {
        for Judged { policy, calls, effects, called, why } in aside.take() {
            self.note(metrics, &policy, calls, effects, || (caller(called), None, why.as_str()));
        }
    }

    fn note<'h>(
        &self,
        metrics: &WorkerMetrics,
        policy: &Origin,
        calls: u64,
        effects: Effects,
        example: impl FnOnce() -> (Call, Option<&'h RequestHead>, &'h str),
    ) {
        let key = self.hasher.hash_one((&policy.kind, &policy.namespace, &policy.name, policy.generation));
        let mut tried = self.tried.borrow_mut();
        if tried.len() >= MOST_TRIALS && !tried.contains_key(&key) {
            let TriedPolicy { kind, name } = TriedPolicy::of(policy);
            return metrics.trial(&kind, &name).count(effects);
        }
        let known = tried.entry(key).or_insert_with(|| {
            let generation = policy.generation;
            let policy = TriedPolicy::of(policy);
            let counts = metrics.trial(&policy.kind, &policy.name);
            Tried { policy, generation, counts, calls: 0, would: [0; Effect::ALL.len()], examples: Vec::new(), candidates: 0 }
        });
        known.counts.count(effects);
        known.calls += calls;
        for (effect, times) in Effect::ALL.into_iter().zip(&mut known.would) {
            *times += u64::from(effects.has(effect));
        }
        if effects.is_none() || known.examples.len() >= EXAMPLES || known.candidates >= CANDIDATES || self.observer.is_none() {
            return;
        }
        known.candidates += 1;
        let (Call { caller, address, called }, head, why) = example();
        let request = head.map(|head| (head.method().to_owned(), template(head.path())));
        let (called, why) = (shortened(&called), shortened(why));
        let alike = |other: &TrialExample| {
            (&other.caller, &other.address, &other.called, &other.request, other.effects) == (&caller, &address, &called, &request, effects)
        };
        if !known.examples.iter().any(alike) {
            known.examples.push(TrialExample { caller, address, called, request, effects, why });
        }
    }

    /// Tells what was seen since the last time.
    pub fn tell(&self) {
        let seen = std::mem::take(&mut *self.seen.borrow_mut());
        let mut trials = Vec::new();
        self.tried.borrow_mut().retain(|_, tried| {
            let (calls, would) = (std::mem::take(&mut tried.calls), std::mem::take(&mut tried.would));
            let would = Effect::ALL.into_iter().zip(would).filter(|(_, times)| *times > 0).collect::<BTreeMap<_, _>>();
            if calls == 0 && would.is_empty() {
                return false;
            }
            let examples = std::mem::take(&mut tried.examples);
            tried.candidates = 0;
            let Tried { policy, generation, .. } = &*tried;
            let told = |calls, would, example| Trial { policy: policy.clone(), generation: *generation, calls, would, example };
            trials.push(told(calls, would, None));
            trials.extend(examples.into_iter().map(|example| told(0, BTreeMap::new(), Some(example))));
            true
        });
        if let Some(observer) = &self.observer
            && !(seen.is_empty() && trials.is_empty())
        {
            observer.saw(Batch { calls: seen.into_values().collect(), trials });
        }
    }
}

impl Drop for Observed {
    /// Tells what was seen last.
    fn drop(&mut self) {
        self.tell();
    }
}

/// A text that is told: callers who make one up fill no memory.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

/// What is found out of trials by who serves no request: DNS, and whoever judges endpoints. All workers of a process share it; whichever looks
/// first tells it. What does not fit is lost.
#[derive(Debug, Clone, Default)]
pub struct Aside(Arc<Mutex<Vec<Judged>>>);

/// What a policy that is tried would have done.
#[derive(Debug)]
pub struct Judged {
    /// The policy.
    pub policy: Arc<Origin>,
    /// Whether it is a call of its own (1), or belongs to one that is counted elsewhere (0).
    pub calls: u64,
    /// What it would have done.
    pub effects: Effects,
    /// What was called.
    pub called: String,
    /// Why; may be empty.
    pub why: String,
}

impl Aside {
    /// Something was found out.
    pub fn tell(&self, judged: Judged) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST_ASIDE {
            waiting.push(judged);
        }
    }

    fn take(&self) -> Vec<Judged> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
