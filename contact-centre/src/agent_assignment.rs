//! agent-assignment: gives calls to agents by skill, over gRPC (`contact.agents.v1`, see `proto/agents.proto`).
//!
//! Each instance has a desk of its own, with agents of its own. A release may reach another instance than the one that
//! gave the agent, so a call that nobody ends is over after a while. It calls nobody.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use futures_util::{StreamExt, TryStreamExt};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::agents_v1::{
    ASSIGN, AssignRequest, Assignment, CONVERSE, Note, QueueState, RELEASE, ReleaseRequest, Released, WATCH, WatchRequest,
};
use crate::desk::Desk;
use crate::flags::Flags;
use crate::program::{Failure, run_service};
use crate::serving::{Ending, until_drained};

/// The longest message taken, in bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;
/// How often calls that nobody ends are looked for.
const TICK: Duration = Duration::from_millis(100);

type HttpRequest = axum::extract::Request;
type HttpResponse = http::Response<Body>;

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The skills, each with a queue of its own; `billing`, `support` and `sales` unless told.
    pub skills: Vec<String>,
    /// Agents per skill, 12 unless told: calls of the demo take some milliseconds, so that queues stay rare.
    pub agents: u32,
    /// After how long a call that nobody ends is over; 2 s unless told, far longer than a call of the demo takes.
    pub longest_call: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let skills = ["billing", "support", "sales"].map(str::to_owned).to_vec();
        Self { skills, agents: 12, longest_call: Duration::from_secs(2) }
    }
}

#[derive(Clone)]
struct Office {
    desk: Arc<Mutex<Desk>>,
    /// The queues after the last change.
    queues: Arc<watch::Sender<QueueState>>,
    ending: Ending,
}

/// Serves until `shutdown` resolves and calls in flight are answered. Streams end then.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    until_drained(shutdown, |ending| async move {
        let id = format!("{:04x}", fastrand::u16(..));
        let desk = Desk::new(&id, &config.skills, config.agents, config.longest_call);
        let queues = Arc::new(watch::Sender::new(desk.state()));
        let office = Office { desk: Arc::new(Mutex::new(desk)), queues, ending: ending.clone() };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving =
            Server::builder().add_routes(Routes::from(routes(office.clone()))).serve_with_incoming_shutdown(incoming, ending.begun());
        tokio::select! {
            done = serving => done.map_err(io::Error::other),
            () = office.keep_time() => Ok(()),
        }
    })
    .await
}

pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let flags = Flags::parse("agent-assignment", &["listen", "agents"], args)?;
    let listen: SocketAddr = flags.get_or("listen", "0.0.0.0:50051")?;
    let config = Config { agents: flags.get_or("agents", "12")?, ..Config::default() };
    if !(1..=10_000).contains(&config.agents) {
        return Err(Failure::Usage("`--agents` must be 1 to 10000 (per skill)".to_owned()));
    }
    run_service("agent-assignment", listen, |listener, stop| serve(listener, config, stop))
}

fn routes(office: Office) -> Router {
    Router::new()
        .route(ASSIGN, post(assign))
        .route(RELEASE, post(release))
        .route(WATCH, post(watch_queues))
        .route(CONVERSE, post(converse))
        .fallback(async || Status::unimplemented("no such method in contact.agents.v1").into_http::<Body>())
        .with_state(office)
}

async fn assign(State(office): State<Office>, request: HttpRequest) -> HttpResponse {
    let method = |asked: Request<AssignRequest>| std::future::ready(office.assign(asked.get_ref()).map(Response::new));
    grpc().unary(service_fn(method), request).await
}

async fn release(State(office): State<Office>, request: HttpRequest) -> HttpResponse {
    let method = |asked: Request<ReleaseRequest>| std::future::ready(Ok(Response::new(office.release(asked.get_ref()))));
    grpc().unary(service_fn(method), request).await
}

async fn watch_queues(State(office): State<Office>, request: HttpRequest) -> HttpResponse {
    let method = |_: Request<WatchRequest>| {
        let states = WatchStream::new(office.queues.subscribe()).map(Ok::<_, Status>);
        std::future::ready(Ok(Response::new(states.take_until(office.ending.clone().begun()).boxed())))
    };
    grpc().server_streaming(service_fn(method), request).await
}

async fn converse(State(office): State<Office>, request: HttpRequest) -> HttpResponse {
    let method = |notes: Request<Streaming<Note>>| {
        let mut number = 0;
        let numbered = notes.into_inner().map_ok(move |note| {
            number += 1;
            Note { number, ..note }
        });
        std::future::ready(Ok(Response::new(numbered.take_until(office.ending.clone().begun()).boxed())))
    };
    grpc().streaming(service_fn(method), request).await
}

fn grpc<Out, In>() -> Grpc<ProstCodec<Out, In>>
where
    Out: Message + Send + 'static,
    In: Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(LONGEST_MESSAGE)
}

impl Office {
    fn assign(&self, asked: &AssignRequest) -> Result<Assignment, Status> {
        if asked.call_id.is_empty() || asked.call_id.len() > 64 {
            return Err(Status::invalid_argument("call_id must have 1 to 64 bytes"));
        }
        self.with_desk(|desk| {
            desk.assign(&asked.skill, &asked.call_id, Instant::now()).ok_or_else(|| {
                let known: Vec<&str> = desk.skills().collect();
                let asked: String = asked.skill.chars().take(64).collect();
                Status::invalid_argument(format!("no agent has the skill `{asked}`; there are {}", known.join(", ")))
            })
        })
    }

    fn release(&self, asked: &ReleaseRequest) -> Released {
        self.with_desk(|desk| desk.release(&asked.agent, Instant::now()));
        Released {}
    }

    async fn keep_time(&self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            self.with_desk(|desk| desk.tick(Instant::now()));
        }
    }

    /// Does something at the desk and tells the watchers if it changed the queues.
    fn with_desk<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = act(&mut desk);
        let state = desk.state();
        self.queues.send_if_modified(|last| {
            let changed = *last != state;
            if changed {
                *last = state;
            }
            changed
        });
        outcome
    }
}
