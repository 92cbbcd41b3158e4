//! `contact.agents.v1`, the gRPC interface of agent-assignment: its messages, its paths and a client.
//!
//! Written by hand after `proto/agents.proto`, so that no build needs protoc. The server is in `agent_assignment`.

use futures_util::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{IntoStreamingRequest, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) const ASSIGN: &str = "/contact.agents.v1.AgentAssignment/Assign";
pub(crate) const RELEASE: &str = "/contact.agents.v1.AgentAssignment/Release";
pub(crate) const WATCH: &str = "/contact.agents.v1.AgentAssignment/Watch";
pub(crate) const CONVERSE: &str = "/contact.agents.v1.AgentAssignment/Converse";

/// A call that needs an agent.
#[derive(Clone, PartialEq, Message)]
pub struct AssignRequest {
    /// What the agent must know.
    #[prost(string, tag = "1")]
    pub skill: String,
    /// The call. Asking again for the same call gives the same answer.
    #[prost(string, tag = "2")]
    pub call_id: String,
}

/// Who takes the call, or where it waits.
#[derive(Clone, PartialEq, Message)]
pub struct Assignment {
    /// The agent; empty if all are busy.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// The queue of the skill.
    #[prost(string, tag = "2")]
    pub queue: String,
    /// Place in the queue, from 1; 0 if an agent took the call.
    #[prost(uint32, tag = "3")]
    pub position: u32,
}

/// A call is over.
#[derive(Clone, PartialEq, Message)]
pub struct ReleaseRequest {
    /// The agent who had it.
    #[prost(string, tag = "1")]
    pub agent: String,
}

/// The agent is free.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Released {}

/// Asks for the queues.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WatchRequest {}

/// All queues at one moment, by name.
#[derive(Clone, PartialEq, Message)]
pub struct QueueState {
    /// The queues.
    #[prost(message, repeated, tag = "1")]
    pub queues: Vec<Queue>,
}

/// One queue at one moment.
#[derive(Clone, PartialEq, Message)]
pub struct Queue {
    /// The skill it is for.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Calls that wait.
    #[prost(uint32, tag = "2")]
    pub waiting: u32,
    /// Agents without a call.
    #[prost(uint32, tag = "3")]
    pub free_agents: u32,
    /// Agents with a call.
    #[prost(uint32, tag = "4")]
    pub busy_agents: u32,
}

/// What an agent writes down.
#[derive(Clone, PartialEq, Message)]
pub struct Note {
    /// The note.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Its number on the way back, from 1.
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

/// A client of agent-assignment. Clones share its connection.
#[derive(Clone, Debug)]
pub struct AgentAssignmentClient {
    grpc: Grpc<Channel>,
}

impl AgentAssignmentClient {
    /// A client over this channel.
    pub fn new(channel: Channel) -> Self {
        Self { grpc: Grpc::new(channel) }
    }

    /// Finds an agent for a call, or its place in the queue.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a skill that nobody has.
    pub async fn assign(&mut self, request: Request<AssignRequest>) -> Result<Response<Assignment>, Status> {
        self.unary(ASSIGN, request).await
    }

    /// Frees the agent of a call that is over.
    ///
    /// # Errors
    /// The service cannot be reached.
    pub async fn release(&mut self, request: Request<ReleaseRequest>) -> Result<Response<Released>, Status> {
        self.unary(RELEASE, request).await
    }

    /// The queues as they are, then again after each change.
    ///
    /// # Errors
    /// The service cannot be reached.
    pub async fn watch(&mut self, request: Request<WatchRequest>) -> Result<Response<Streaming<QueueState>>, Status> {
        self.ready().await?;
        self.grpc.server_streaming(request, PathAndQuery::from_static(WATCH), ProstCodec::default()).await
    }

    /// Sends notes and gets them back numbered, while both directions are open.
    ///
    /// # Errors
    /// The service cannot be reached.
    pub async fn converse(&mut self, notes: impl Stream<Item = Note> + Send + 'static) -> Result<Response<Streaming<Note>>, Status> {
        self.ready().await?;
        let request = notes.into_streaming_request();
        self.grpc.streaming(request, PathAndQuery::from_static(CONVERSE), ProstCodec::default()).await
    }

    async fn unary<Q, A>(&mut self, path: &'static str, request: Request<Q>) -> Result<Response<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.ready().await?;
        self.grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}
