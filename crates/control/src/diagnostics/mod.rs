//! What proxies tell of single requests: each attends on a stream, is asked on it, and tells. Joined here (`story`), led back to what users wrote
//! (`places`), and streamed to who taps (`tap`). In memory, bounded; nothing rests on it.

pub mod places;
pub mod story;
pub mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lorica_api::explain::{ExplainToken, Hop, Story};
use lorica_identity::explain_token;
use lorica_model::name::{Label, WorkloadName};
use lorica_xds::NodeMetadata;
use lorica_xds::diagnostics::{Asked, Attended, Explained, Found, FromControl, FromProxy, LookUp, Said};
use lorica_xds::server::Peer;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Status, Streaming};

use self::places::Files;
use self::tap::Taps;
use crate::ca::Ca;
use crate::hosts::Hosts;
use crate::mesh::Mesh;

/// How long a proxy may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// The most proxies that attend at once.
const MOST_ATTENDING: usize = 20_000;
/// How many explained runs are remembered, and how many hops of each.
const MOST_RUNS: usize = 64;
const MOST_HOPS: usize = 256;
/// How long proxies may take to remember a request.
const REMEMBERING: Duration = Duration::from_secs(2);

/// A proxy that attends.
#[derive(Debug, Clone)]
struct Attending {
    name: WorkloadName,
    metadata: Arc<NodeMetadata>,
    asks: mpsc::Sender<Result<FromControl, Status>>,
}

impl Attending {
    /// Asks it something. One that has so much to answer already is left out.
    fn ask(&self, asked: Asked) -> bool {
        self.asks.try_send(Ok(FromControl { asked: Some(asked) })).is_ok()
    }
}

/// A command that is explained.
#[derive(Debug)]
struct Run {
    id: Label,
    hops: Vec<Hop>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next stream, question or tap.
    next: u64,
    attending: BTreeMap<u64, Attending>,
    runs: VecDeque<Run>,
    /// Who waits for answers, by the number of the question.
    questions: BTreeMap<u64, mpsc::Sender<(u64, Vec<Hop>)>>,
    taps: Taps,
}

/// What proxies tell of single requests.
pub struct Diagnostics {
    mesh: Arc<Mesh>,
    hosts: Arc<Hosts>,
    ca: Arc<Ca>,
    /// From where resources were applied.
    pub files: Files,
    state: Mutex<State>,
    /// Something was told of a run.
    told: Notify,
    ended: watch::Sender<bool>,
}

impl Diagnostics {
    /// Nothing yet.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, hosts: Arc<Hosts>, ca: Arc<Ca>) -> Arc<Self> {
        let (state, told, ended) = (Mutex::default(), Notify::new(), watch::channel(false).0);
        Arc::new(Self { mesh, hosts, ca, files: Files::default(), state, told, ended })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is complete before the next line can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all streams.
    pub fn end(&self) {
        self.ended.send_replace(true);
        self.state().taps.end_all("the control plane ends");
    }

    /// Makes a token by which a request is recorded in full.
    ///
    /// # Errors
    /// If the CA does not sign.
    pub fn token(&self) -> anyhow::Result<ExplainToken> {
        let id = Label::new(&format!("{:016x}", fastrand::u64(..)))?;
        let token = explain_token::sign(&self.ca.authority(), &id, SystemTime::now())?;
        let mut state = self.state();
        if state.runs.len() >= MOST_RUNS {
            state.runs.pop_front();
        }
        state.runs.push_back(Run { id: id.clone(), hops: Vec::new() });
        Ok(ExplainToken { id: id.to_string(), token, holds_for: explain_token::LIFETIME.as_secs() })
    }

    /// What was told of a run; waits until all that were asked have told of it, and then as long as something comes, `wait` at most. None: there is
    /// no such run (any more).
    pub async fn run(&self, id: &str, wait: Duration) -> Option<Story> {
        let deadline = Instant::now() + wait;
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            let hops = self.state().runs.iter().find(|run| run.id.as_str() == id)?.hops.clone();
            let story = story::joined(hops);
            let whole = !story.hops.is_empty() && story.missing.is_empty();
            // What an app still does for the request comes a moment later.
            let until = if whole { deadline.min(Instant::now() + SETTLED) } else { deadline };
            if timeout_at(until, told).await.is_err() {
                return Some(self.settled(story));
            }
        }
    }

    /// What proxies remember of a request: by its id, and by the trace that it turns out to be of.
    pub async fn past(&self, request_id: &str) -> Story {
        let (mut hops, mut unanswered) = self.ask(request_id, "").await;
        let traces: Vec<String> = hops.iter().map(|hop| hop.trace_id.clone()).filter(|trace| !trace.is_empty()).collect();
        if let Some(trace) = traces.first() {
            let (more, still) = self.ask("", trace).await;
            let new = more.into_iter().filter(|hop| hop.request_id != request_id).collect::<Vec<_>>();
            hops.extend(new);
            unanswered.extend(still);
            unanswered.sort_unstable();
            unanswered.dedup();
        }
        Story { unanswered, ..self.settled(story::joined(hops)) }
    }

    /// Asks all proxies; gives what they remember, and who did not answer.
    async fn ask(&self, request_id: &str, trace_id: &str) -> (Vec<Hop>, Vec<String>) {
        let (answer, mut answers) = mpsc::channel(64);
        let (question, mut waiting) = {
            let mut state = self.state();
            let question = state.number();
            state.questions.insert(question, answer);
            let asked = LookUp { question, request_id: request_id.to_owned(), trace_id: trace_id.to_owned() };
            let waiting: BTreeMap<u64, (String, bool)> = state
                .attending
                .iter()
                .map(|(stream, attending)| (*stream, (attending.name.to_string(), attending.ask(Asked::LookUp(asked.clone())))))
                .collect();
            (question, waiting)
        };
        let mut hops = Vec::new();
        let deadline = Instant::now() + REMEMBERING;
        while waiting.values().any(|(_, asked)| *asked) {
            let Ok(Some((stream, found))) = timeout_at(deadline, answers.recv()).await else { break };
            if waiting.remove(&stream).is_some() && hops.len() < MOST_HOPS {
                hops.extend(found);
            }
        }
        self.state().questions.remove(&question);
        (hops, waiting.into_values().map(|(name, _)| name).collect())
    }

    /// The same, led back to what users wrote.
    fn settled(&self, mut story: Story) -> Story {
        let published = self.mesh.seen().published;
        story.hops.iter_mut().for_each(|told| places::settle(&mut told.hop, &published.resources, &self.files));
        story
    }

    /// Who a stream is: by its first message, as far as its peer may be that.
    async fn introduced(&self, peer: Option<Peer>, said: &mut Streaming<FromProxy>) -> Result<(WorkloadName, NodeMetadata), Status> {
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let first =
            timeout(INTRODUCTION, said.message()).await.map_err(|_| Status::deadline_exceeded("who attends has not said so in time"))??;
        let Some(Said::Node(node)) = first.and_then(|first| first.said) else {
            return Err(Status::invalid_argument("the first message names no node"));
        };
        let name: WorkloadName = node.id.parse().map_err(|error| invalid(&error))?;
        let metadata = NodeMetadata::of(&node).map_err(|error| invalid(&error))?;
        let (hosts, own, claimed) = (self.hosts.clone(), name.clone(), metadata.clone());
        // Off the runtime's threads, as the store is asked.
        let judged = tokio::task::spawn_blocking(move || hosts.may_be(&hosts.claimant(peer.as_ref())?, &own, &claimed));
        judged.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok((name, metadata))
    }

    fn heard(&self, stream: u64, from: &WorkloadName, said: Said) {
        // A proxy speaks for itself, and for no other.
        let own = |hop: Hop| Hop { proxy: from.to_string(), ..hop };
        let read = |json: &[u8]| serde_json::from_slice::<Hop>(json).map(own);
        match said {
            Said::Node(_) => {}
            Said::Found(Found { question, hops }) => {
                let hops = hops.iter().filter_map(|hop| read(hop).ok()).collect();
                if let Some(answer) = self.state().questions.get(&question) {
                    // Whoever asked so many that this has no room has waited long enough.
                    drop(answer.try_send((stream, hops)));
                }
            }
            Said::Explained(Explained { id, hop }) => {
                let Ok(hop) = read(&hop) else { return };
                let mut state = self.state();
                if let Some(run) = state.runs.iter_mut().find(|run| run.id.as_str() == id && run.hops.len() < MOST_HOPS) {
                    run.hops.push(hop);
                    self.told.notify_waiters();
                }
            }
            Said::Tapped(shown) => {
                let published = self.mesh.seen().published;
                self.state().taps.shown(stream, from, shown, |hop| places::settle(hop, &published.resources, &self.files));
            }
            Said::Dropped(dropped) => self.state().taps.dropped(stream, dropped),
        }
    }
}

/// How long nothing more may come before a story counts as told.
const SETTLED: Duration = Duration::from_millis(150);

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Attended for Diagnostics {
    async fn attend(&self, peer: Option<Peer>, mut said: Streaming<FromProxy>, asks: mpsc::Sender<Result<FromControl, Status>>) {
        let (name, metadata) = match self.introduced(peer, &mut said).await {
            Ok(introduced) => introduced,
            // One that is gone by now hears nothing.
            Err(status) => return drop(asks.send(Err(status)).await),
        };
        let mut ended = self.ended.subscribe();
        let stream = {
            let mut state = self.state();
            if state.attending.len() >= MOST_ATTENDING {
                return drop(asks.try_send(Err(Status::resource_exhausted("too many proxies attend"))));
            }
            let stream = state.number();
            let attending = Attending { name: name.clone(), metadata: Arc::new(metadata), asks };
            state.taps.attends(stream, &attending);
            state.attending.insert(stream, attending);
            stream
        };
        loop {
            let message = tokio::select! {
                message = said.message() => message,
                _ = ended.wait_for(|ended| *ended) => break,
            };
            match message {
                Ok(Some(FromProxy { said: Some(said) })) => self.heard(stream, &name, said),
                Ok(Some(FromProxy { said: None })) => {}
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(workload = %name, error = error.message(), "a proxy attends no more");
                    break;
                }
            }
        }
        self.state().attending.remove(&stream);
    }
}
