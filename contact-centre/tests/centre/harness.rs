//! Starts services on free ports and stops them; speaks HTTP to them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use contact_centre::agents_v1::AgentAssignmentClient;
use contact_centre::http_client::{Answer, Content, HttpClient, Outgoing};
use contact_centre::{agent_assignment, analytics, call_routing, customer_history, recording};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

/// Long enough for any answer on a busy machine: it only ends tests that would hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A service that runs until it is stopped or dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl Running {
    /// Starts what `serve` serves on a free port.
    pub(crate) async fn start<F, Fut>(serve: F) -> Self
    where
        F: FnOnce(TcpListener, Shutdown) -> Fut,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown: Shutdown = Box::pin(async move {
            let _ = stopped.await;
        });
        Self { address, stop: Some(stop), task: tokio::spawn(serve(listener, shutdown)) }
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.ask_to_end();
        self.ended().await;
    }

    pub(crate) fn ask_to_end(&mut self) {
        self.stop.take().expect("it was asked before").send(()).expect("it ended by itself");
    }

    pub(crate) async fn ended(self) {
        tokio::time::timeout(LIMIT, self.task).await.expect("it does not end").unwrap().unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn http(&self) -> Http {
        Http(HttpClient::new(self.url().parse().unwrap()))
    }
}

pub(crate) type Shutdown = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The five services; call-routing knows where the others are.
pub(crate) struct Centre {
    pub(crate) customer_history: Running,
    pub(crate) agents: Running,
    pub(crate) recording: Running,
    pub(crate) analytics: Running,
    pub(crate) call_routing: Running,
}

impl Centre {
    pub(crate) async fn start() -> Self {
        Self::start_with(recording::Config::default(), agent_assignment::Config::default()).await
    }

    pub(crate) async fn start_with(recording: recording::Config, agents: agent_assignment::Config) -> Self {
        let customer_history = Running::start(|listener, stop| customer_history::serve(listener, Default::default(), stop)).await;
        let recording = Running::start(|listener, stop| recording::serve(listener, recording, stop)).await;
        let agents = start_agents(agents).await;
        let analytics = start_analytics().await;
        let config = call_routing::Config {
            customer_history: customer_history.url().parse().unwrap(),
            recording: recording.url().parse().unwrap(),
            agent_assignment: agents.url().parse().unwrap(),
            analytics: analytics.address.to_string().parse().unwrap(),
        };
        let call_routing = Running::start(|listener, stop| call_routing::serve(listener, config, stop)).await;
        Self { customer_history, agents, recording, analytics, call_routing }
    }

    /// Makes one call about billing.
    pub(crate) async fn call(&self) -> Value {
        let answer = self.call_routing.http().post("/calls", r#"{"customer":"c0001","skill":"billing"}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        json(&answer)
    }
}

pub(crate) async fn start_agents(config: agent_assignment::Config) -> Running {
    Running::start(|listener, stop| agent_assignment::serve(listener, config, stop)).await
}

pub(crate) async fn start_analytics() -> Running {
    Running::start(|listener, stop| analytics::serve(listener, Default::default(), stop)).await
}

/// Agents of one skill, `billing`, whose calls last until they are released.
pub(crate) fn agents_for_billing(agents: u32) -> agent_assignment::Config {
    agent_assignment::Config { skills: vec!["billing".to_owned()], agents, longest_call: Duration::from_secs(3600) }
}

pub(crate) fn agents_client(service: &Running) -> AgentAssignmentClient {
    AgentAssignmentClient::new(Endpoint::from_shared(service.url()).unwrap().connect_lazy())
}

/// A client that panics where a test would fail anyway.
pub(crate) struct Http(HttpClient);

impl Http {
    pub(crate) async fn send(&self, request: Outgoing) -> Answer {
        self.0.send(&request, LIMIT).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Outgoing::get(path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Outgoing::post(path, Content::Json(body.as_bytes().to_vec()))).await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Answer {
        let request = Outgoing::post(path, Content::Json(body.as_bytes().to_vec()));
        self.send(Outgoing { method: http::Method::PUT, ..request }).await
    }
}

pub(crate) fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error} in {answer:?}"))
}

/// A line-wise connection.
pub(crate) struct Lines(BufReader<TcpStream>);

impl Lines {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next line with its end, or nothing if the connection is closed.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(LIMIT, self.0.read_line(&mut line)).await.expect("no line comes").unwrap();
        line
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.send(line.as_bytes()).await;
        self.line().await
    }
}
