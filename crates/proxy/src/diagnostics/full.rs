//! All that is recorded of a request whose token asks for it: which rules could have taken it, what each policy said, how the endpoints stood, and
//! where its time went. It is bounded, and costs other requests nothing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use lorica_model::snapshot::route::{MatchPart, Recorder};
use lorica_model::snapshot::{Authorization, Backend, FieldMatch, HttpRule, RouteMatch, each_policy};
use lorica_model::story::{Candidate, Decision, Hop, Place, Seen, Step};

use super::ring::{micros, place};
use crate::path::authorize;
use crate::path::caller::Caller;
use crate::path::explain::Explained;
use crate::path::pick::Picked;
use crate::view::Reach;
use crate::worker::Worker;

/// The most rules, policies, steps, attempts, and endpoints an attempt, that are told.
const MOST_RULES: usize = 32;
const MOST_POLICIES: usize = 32;
const MOST_STEPS: usize = 32;
const MOST_ATTEMPTS: usize = 9;
const MOST_ENDPOINTS: usize = 32;
/// The longest word on why a rule did not take it, in bytes.
const LONGEST_WHY: usize = 200;

/// An attempt, as far as its record does not tell it.
#[derive(Debug, Default)]
struct Looked {
    seen: Vec<Seen>,
    /// By their numbers, in the order of `seen`.
    ids: Vec<u64>,
    more: usize,
    identity: Option<String>,
    kept_connection: Option<bool>,
}

/// What is recorded of a request in full.
#[derive(Debug)]
pub struct Full {
    /// By which token.
    pub explained: Rc<Explained>,
    since: Instant,
    steps: Vec<(&'static str, Duration)>,
    candidates: Vec<Candidate>,
    more_candidates: usize,
    decisions: Vec<Decision>,
    attempts: Vec<Looked>,
}

impl Full {
    /// Nothing yet, of a request that began at `begun`.
    #[must_use]
    pub fn new(explained: Rc<Explained>, begun: Instant) -> Self {
        Self {
            explained,
            since: begun,
            steps: Vec::new(),
            candidates: Vec::new(),
            more_candidates: 0,
            decisions: Vec::new(),
            attempts: Vec::new(),
        }
    }

    /// A step is over.
    pub fn step(&mut self, name: &'static str) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        self.since = now;
        if let Some((_, all)) = self.steps.iter_mut().find(|(known, _)| *known == name) {
            *all += took;
        } else if self.steps.len() < MOST_STEPS {
            self.steps.push((name, took));
        }
    }

    /// What each of these policies says of the request.
    pub fn judged(&mut self, worker: &Worker, caller: &Caller, authorization: &Authorization, request: authorize::Judged<'_>, port: u16) {
        let own = authorize::own_trust_domain(worker).unwrap_or_default();
        let who = authorize::access_caller(caller, &own);
        let access = authorize::access(caller, port, Some(request));
        for (policy, rule, say) in each_policy(authorization, &who, &access).into_iter().take(MOST_POLICIES) {
            let at = rule.as_ref().and_then(|name| policy.rules.iter().position(|rule| rule.name == *name));
            let at = at.and_then(|at| u32::try_from(at).ok());
            let by = Place { rule: at, ..place(&policy.origin) };
            self.decisions.push(Decision { by, rule, said: say.words().to_owned() });
        }
    }

    /// An attempt begins: how the endpoints stand.
    pub fn attempt(&mut self, reach: Option<&Reach>, tried: &[u64], now: Instant) {
        if self.attempts.len() >= MOST_ATTEMPTS {
            return;
        }
        let mut looked = Looked::default();
        let all = reach.map(|reach| reach.survey(tried, now)).unwrap_or_default();
        looked.more = all.len().saturating_sub(MOST_ENDPOINTS);
        for surveyed in all.into_iter().take(MOST_ENDPOINTS) {
            let live = &surveyed.live;
            looked.ids.push(live.id);
            looked.seen.push(Seen {
                workload: live.endpoint.workload.to_string(),
                address: Some(live.endpoint.address),
                weight: live.endpoint.weight,
                active: live.active(),
                expected_us: micros(live.expected_latency(now)),
                score: surveyed.score,
                left_out: surveyed.left_out.into_iter().map(str::to_owned).collect(),
                picked: false,
            });
        }
        self.attempts.push(looked);
    }

    /// The attempt is repeated unseen.
    pub fn unseen(&mut self) {
        self.attempts.pop();
    }

    /// Somebody takes the attempt.
    pub fn picked(&mut self, picked: &Picked) {
        let Some(looked) = self.attempts.last_mut() else { return };
        looked.identity = picked.lease.facts.peer.as_ref().map(|peer| peer.id.to_string());
        looked.kept_connection = Some(picked.lease.reused);
        let id = picked.active.as_ref().map(|active| active.live.id);
        for (seen, known) in looked.seen.iter_mut().zip(&looked.ids) {
            seen.picked = Some(*known) == id;
        }
    }

    /// The exchange is over: adds all of it to what is told of each.
    pub fn tell(mut self, hop: &mut Hop, worker: &Worker, caller: Option<&Caller>) {
        self.step("respond");
        hop.full = true;
        hop.own_identity = worker.epoch().map(|epoch| epoch.svid().id().to_string());
        hop.server_name = caller.and_then(|caller| caller.server_name.clone());
        hop.candidates = self.candidates;
        hop.more_candidates = self.more_candidates;
        if !self.decisions.is_empty() {
            // What one of them decided is among what all of them say.
            hop.policies.retain(|known| known.by.kind != AUTHORIZATION_POLICY);
            hop.policies.splice(0..0, self.decisions);
        }
        hop.steps = self.steps.into_iter().map(|(name, took)| Step { name: name.to_owned(), took_us: micros(took) }).collect();
        for (attempt, looked) in hop.attempts.iter_mut().zip(self.attempts) {
            attempt.identity = looked.identity;
            attempt.kept_connection = looked.kept_connection;
            attempt.endpoints = looked.seen;
            attempt.more_endpoints = looked.more;
        }
    }

    fn candidate(&mut self, rule: &HttpRule, why_not: Option<String>) {
        if why_not.is_some() && self.candidates.len() >= MOST_RULES {
            self.more_candidates += 1;
        } else {
            self.candidates.push(Candidate { by: place(&rule.origin), why_not });
        }
    }
}

/// The kind whose policies are told one by one.
const AUTHORIZATION_POLICY: &str = "AuthorizationPolicy";

impl Recorder for Full {
    const OF_ALL: bool = true;

    fn rejected(&mut self, rule: &HttpRule, part: MatchPart) {
        let RouteMatch { path, method, headers, query, share: _ } = &rule.matches;
        let asked = |field: Option<&FieldMatch>| field.map(ToString::to_string).unwrap_or_default();
        let mut why = match part {
            MatchPart::Path => format!("another path than {path}"),
            MatchPart::Method => format!("another method than {}", method.as_deref().unwrap_or_default()),
            MatchPart::Header(at) => format!("it asks for the field {}", asked(headers.get(at))),
            MatchPart::Query(at) => format!("it asks for the parameter {}", asked(query.get(at))),
            MatchPart::Share => "the request is not of its share".to_owned(),
        };
        why.truncate(why.floor_char_boundary(LONGEST_WHY));
        self.candidate(rule, Some(why));
    }

    fn matched(&mut self, rule: &HttpRule) {
        self.candidate(rule, None);
    }

    fn drawn(&mut self, _: &Backend) {}
}
