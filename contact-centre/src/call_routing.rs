//! call-routing: takes a customer's call to an agent or into a queue, over HTTP.
//!
//! One call is customer-history (who is it?), agent-assignment (who takes it?), recording, analytics, and the release of
//! the agent. Without the first two there is no call (503); recording and analytics may fail, and the answer says so.
//! Trace headers of the request go along with its HTTP and gRPC calls.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::address::{BaseUrl, HostPort};
use crate::agents_v1::{AgentAssignmentClient, AssignRequest, Assignment, ReleaseRequest};
use crate::analytics_client::AnalyticsClient;
use crate::customer_history::Customer;
use crate::flags::Flags;
use crate::http_client::{Content, HttpClient, Outgoing};
use crate::program::{Failure, run_service};
use crate::recording::{NewRecording, VERSION_HEADER};
use crate::refusal::{Refusal, check_name};
use crate::serving::{router, serve_http};
use crate::trace_headers;

/// How long one upstream may take. All five together stay below the time a server has to finish its calls.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);
/// Analytics is a line to a counter: if that is slow, the call is worth more than the count.
const ANALYTICS_LIMIT: Duration = Duration::from_secs(1);
/// How often the gRPC connection is asked whether it is alive while calls are on it: one that is not is given up.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Calls that `GET /calls` shows.
const MOST_LISTED: usize = 100;

/// How the service is set up: where its upstreams are.
#[derive(Clone, Debug)]
pub struct Config {
    /// customer-history, HTTP.
    pub customer_history: BaseUrl,
    /// recording, HTTP.
    pub recording: BaseUrl,
    /// agent-assignment, gRPC without TLS.
    pub agent_assignment: BaseUrl,
    /// analytics, TCP.
    pub analytics: HostPort,
}

/// A call, as `POST /calls` takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewCall {
    /// Who calls.
    pub customer: String,
    /// What it is about.
    pub skill: String,
    /// What the customer said ahead; counted, not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// A call that was routed, as `POST /calls` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The call.
    pub call_id: String,
    /// Who called.
    pub customer: String,
    /// The language to speak, from customer-history.
    pub language: String,
    /// The agent who took it; absent if all were busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The queue it waits in; absent if an agent took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Its place in the queue, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Whether there is a recording.
    pub recorded: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording_error: Option<String>,
    /// The version of recording that answered, if one did.
    pub recording_version: Option<String>,
    /// Whether analytics counted the call.
    pub counted: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counting_error: Option<String>,
    /// The trace that the request belonged to, if its headers named one.
    pub trace: Option<String>,
}

/// What `GET /stats` answers: counts since the start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Calls with an answer of 200.
    pub routed: u64,
    /// Of these, calls in a queue.
    pub queued: u64,
    /// Calls with another answer.
    pub refused: u64,
    /// Routed calls with a recording.
    pub recorded: u64,
    /// Routed calls that analytics counted.
    pub counted: u64,
    /// Agents that could not be released; agent-assignment frees them by itself after a while.
    pub releases_failed: u64,
    /// Length of all notes, in bytes.
    pub notes_bytes: u64,
    /// Connections made to analytics.
    #[serde(default)]
    pub analytics_connections: u64,
}

struct Routing {
    customer_history: HttpClient,
    recording: HttpClient,
    agents: AgentAssignmentClient,
    analytics: AnalyticsClient,
    last: Mutex<VecDeque<Call>>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    routed: AtomicU64,
    queued: AtomicU64,
    refused: AtomicU64,
    recorded: AtomicU64,
    counted: AtomicU64,
    releases_failed: AtomicU64,
    notes_bytes: AtomicU64,
}

type Shared = State<Arc<Routing>>;

/// Serves until `shutdown` resolves and calls in flight are answered. Upstreams are called when a call needs them, so
/// they may start later.
///
/// # Errors
/// The listener fails, or agent-assignment's address is none for gRPC.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let agents = Endpoint::from_shared(config.agent_assignment.to_string())
        .map_err(io::Error::other)?
        .connect_timeout(UPSTREAM_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(UPSTREAM_LIMIT);
    let routing = Routing {
        customer_history: HttpClient::new(config.customer_history),
        recording: HttpClient::new(config.recording),
        agents: AgentAssignmentClient::new(agents.connect_lazy()),
        analytics: AnalyticsClient::new(config.analytics),
        last: Mutex::default(),
        counters: Counters::default(),
    };
    let router = router().route("/calls", post(take_call).get(list_calls)).route("/stats", get(show_stats)).with_state(Arc::new(routing));
    serve_http(listener, router, shutdown).await
}

pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let known = ["listen", "customer-history", "recording", "agent-assignment", "analytics"];
    let flags = Flags::parse("call-routing", &known, args)?;
    let listen: SocketAddr = flags.get_or("listen", "0.0.0.0:80")?;
    let config = Config {
        customer_history: flags.get_or("customer-history", "http://customer-history.contact")?,
        recording: flags.get_or("recording", "http://recording.contact")?,
        agent_assignment: flags.get_or("agent-assignment", "http://agent-assignment.contact:50051")?,
        analytics: flags.get_or("analytics", "analytics.contact:7000")?,
    };
    run_service("call-routing", listen, |listener, stop| serve(listener, config, stop))
}

async fn take_call(State(routing): Shared, headers: HeaderMap, call: Result<Json<NewCall>, JsonRejection>) -> Result<Json<Call>, Refusal> {
    let outcome = match call {
        Ok(Json(call)) => routing.route(call, &headers).await,
        Err(rejection) => Err(rejection.into()),
    };
    match outcome {
        Ok(call) => {
            routing.note(&call);
            Ok(Json(call))
        }
        Err(refusal) => {
            routing.counters.refused.fetch_add(1, Ordering::Relaxed);
            Err(refusal)
        }
    }
}

async fn list_calls(State(routing): Shared) -> Json<Vec<Call>> {
    Json(routing.last().iter().cloned().collect())
}

async fn show_stats(State(routing): Shared) -> Json<Stats> {
    let Counters { routed, queued, refused, recorded, counted, releases_failed, notes_bytes } = &routing.counters;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Json(Stats {
        routed: read(routed),
        queued: read(queued),
        refused: read(refused),
        recorded: read(recorded),
        counted: read(counted),
        releases_failed: read(releases_failed),
        notes_bytes: read(notes_bytes),
        analytics_connections: routing.analytics.connections(),
    })
}

impl Routing {
    /// One call from beginning to end.
    async fn route(&self, new: NewCall, headers: &HeaderMap) -> Result<Call, Refusal> {
        check_name("customer", &new.customer)?;
        check_name("skill", &new.skill)?;
        let notes = new.notes.as_ref().map_or(0, String::len);
        self.counters.notes_bytes.fetch_add(notes as u64, Ordering::Relaxed);
        let trace = trace_headers::forwarded(headers);
        let call_id = format!("call-{:016x}", fastrand::u64(..));
        // Nobody really speaks: the length of the call is made up.
        let seconds = fastrand::u32(30..600);

        let customer = self.who_calls(&new.customer, &trace).await?;
        let Assignment { agent, queue, position } = self.assign(&new.skill, &call_id, &trace).await?;
        let agent = Some(agent).filter(|agent| !agent.is_empty());
        let recording = NewRecording { call_id: call_id.clone(), customer: new.customer.clone(), agent: agent.clone(), seconds };
        let (recording_version, recording_error) = self.record(&recording, &trace).await;
        let counted = self.analytics.event(&new.skill, &call_id, seconds, ANALYTICS_LIMIT).await;
        if let Some(agent) = &agent {
            self.release(agent, &trace).await;
        }
        Ok(Call {
            call_id,
            customer: new.customer,
            language: customer.language,
            queue: agent.is_none().then_some(queue),
            position: agent.is_none().then_some(position),
            agent,
            recorded: recording_error.is_none(),
            recording_error,
            recording_version,
            counted: counted.is_ok(),
            counting_error: counted.err().map(|error| error.to_string()),
            trace: trace_headers::trace_id(headers),
        })
    }

    async fn who_calls(&self, id: &str, trace: &HeaderMap) -> Result<Customer, Refusal> {
        let request = Outgoing::get(format!("/customers/{id}")).with_headers(trace.clone());
        let answer = self
            .customer_history
            .send(&request, UPSTREAM_LIMIT)
            .await
            .map_err(|error| unavailable("customer-history", &error.to_string()))?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map_err(|error| unavailable("customer-history", &format!("its answer is none: {error}"))),
            StatusCode::NOT_FOUND => Err(Refusal::not_found(format!("no customer `{id}`"))),
            status => Err(unavailable("customer-history", &format!("it answered {status}"))),
        }
    }

    async fn assign(&self, skill: &str, call_id: &str, trace: &HeaderMap) -> Result<Assignment, Refusal> {
        let request = AssignRequest { skill: skill.to_owned(), call_id: call_id.to_owned() };
        match in_time(self.agents.clone().assign(traced(request, trace))).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) if status.code() == Code::InvalidArgument => Err(Refusal::bad_request(status.message())),
            Err(status) => Err(unavailable("agent-assignment", &format!("{:?}: {}", status.code(), status.message()))),
        }
    }

    /// Which version of recording answered, and why there is no recording, if there is none.
    async fn record(&self, recording: &NewRecording, trace: &HeaderMap) -> (Option<String>, Option<String>) {
        let json = match serde_json::to_vec(recording) {
            Ok(json) => json,
            Err(error) => return (None, Some(error.to_string())),
        };
        let request = Outgoing::post("/recordings", Content::Json(json)).with_headers(trace.clone());
        match self.recording.send(&request, UPSTREAM_LIMIT).await {
            Ok(answer) => {
                let version = answer.headers.get(VERSION_HEADER).and_then(|version| version.to_str().ok());
                let stored = answer.status == StatusCode::CREATED;
                (version.map(str::to_owned), (!stored).then(|| format!("recording answered {}", answer.status)))
            }
            Err(error) => (None, Some(error.to_string())),
        }
    }

    async fn release(&self, agent: &str, trace: &HeaderMap) {
        let request = ReleaseRequest { agent: agent.to_owned() };
        if in_time(self.agents.clone().release(traced(request, trace))).await.is_err() {
            self.counters.releases_failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note(&self, call: &Call) {
        let count = |counter: &AtomicU64, counts: bool| counter.fetch_add(u64::from(counts), Ordering::Relaxed);
        count(&self.counters.routed, true);
        count(&self.counters.queued, call.queue.is_some());
        count(&self.counters.recorded, call.recorded);
        count(&self.counters.counted, call.counted);
        let mut last = self.last();
        if last.len() == MOST_LISTED {
            last.pop_front();
        }
        last.push_back(call.clone());
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn traced<T>(message: T, trace: &HeaderMap) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(trace.clone());
    request
}

/// Ends a gRPC call at its limit, the wait for a connection included: the channel makes connections one after another,
/// so with an upstream that cannot be reached calls would otherwise wait for each other.
async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(UPSTREAM_LIMIT, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {UPSTREAM_LIMIT:?}"))),
    }
}

fn unavailable(service: &str, reason: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{service} failed: {reason}"))
}
