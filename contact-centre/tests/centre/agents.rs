//! agent-assignment over gRPC: single calls, a stream one way, streams both ways.

use contact_centre::agents_v1::{AssignRequest, Assignment, Note, QueueState, ReleaseRequest, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use crate::harness::{agents_client, agents_for_billing, start_agents};

fn assign(call_id: &str) -> Request<AssignRequest> {
    Request::new(AssignRequest { skill: "billing".to_owned(), call_id: call_id.to_owned() })
}

#[tokio::test]
async fn busy_agents_make_a_queue_and_a_release_moves_it() {
    let service = start_agents(agents_for_billing(1)).await;
    let mut agents = agents_client(&service);
    let first = agents.assign(assign("1")).await.unwrap().into_inner();
    assert!(first.agent.starts_with("billing-01."), "{first:?}");
    let second = agents.assign(assign("2")).await.unwrap().into_inner();
    assert_eq!(second, Assignment { agent: String::new(), queue: "billing".to_owned(), position: 1 });
    agents.release(Request::new(ReleaseRequest { agent: first.agent.clone() })).await.unwrap();
    assert_eq!(agents.assign(assign("2")).await.unwrap().into_inner().agent, first.agent);
}

#[tokio::test]
async fn watchers_see_the_queues_change() {
    let service = start_agents(agents_for_billing(1)).await;
    let mut agents = agents_client(&service);
    let mut states = agents.watch(Request::new(WatchRequest {})).await.unwrap().into_inner();
    let numbers = |state: QueueState| {
        let queue = state.queues[0].clone();
        (queue.waiting, queue.free_agents, queue.busy_agents)
    };
    assert_eq!(numbers(states.message().await.unwrap().unwrap()), (0, 1, 0));
    agents.assign(assign("1")).await.unwrap();
    assert_eq!(numbers(states.message().await.unwrap().unwrap()), (0, 0, 1));
    agents.assign(assign("2")).await.unwrap();
    assert_eq!(numbers(states.message().await.unwrap().unwrap()), (1, 0, 1));
}

#[tokio::test]
async fn notes_come_back_numbered_while_both_directions_are_open() {
    let service = start_agents(agents_for_billing(1)).await;
    let mut agents = agents_client(&service);
    let (notes, sent) = mpsc::channel(1);
    let mut numbered = agents.converse(ReceiverStream::new(sent)).await.unwrap().into_inner();
    for (number, text) in (1..).zip(["calls back", "wants a refund", "is happy"]) {
        // The next is sent only when the one before is back: nothing on the way waits for the end of a stream.
        notes.send(Note { text: text.to_owned(), number: 99 }).await.unwrap();
        assert_eq!(numbered.message().await.unwrap(), Some(Note { text: text.to_owned(), number }));
    }
    drop(notes);
    assert_eq!(numbered.message().await.unwrap(), None);
}

#[tokio::test]
async fn streams_end_well_when_the_service_ends() {
    let mut service = start_agents(agents_for_billing(1)).await;
    let mut agents = agents_client(&service);
    let mut states = agents.watch(Request::new(WatchRequest {})).await.unwrap().into_inner();
    states.message().await.unwrap();
    let (_notes, sent) = mpsc::channel(1);
    let mut numbered = agents.converse(ReceiverStream::new(sent)).await.unwrap().into_inner();
    service.ask_to_end();
    assert_eq!(states.message().await.unwrap(), None);
    assert_eq!(numbered.message().await.unwrap(), None);
    service.ended().await;
}

#[tokio::test]
async fn mistakes_have_their_code() {
    let service = start_agents(agents_for_billing(1)).await;
    let mut agents = agents_client(&service);
    let request = AssignRequest { skill: "juggling".to_owned(), call_id: "1".to_owned() };
    let status = agents.assign(Request::new(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "no agent has the skill `juggling`; there are billing");
    assert_eq!(agents.assign(assign("")).await.unwrap_err().code(), Code::InvalidArgument);
    let long = Note { text: "x".repeat(100_000), number: 0 };
    let mut numbered = agents.converse(tokio_stream::once(long)).await.unwrap().into_inner();
    assert_eq!(numbered.message().await.unwrap_err().code(), Code::OutOfRange);

    let channel = tonic::transport::Endpoint::from_shared(service.url()).unwrap().connect_lazy();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/contact.agents.v1.AgentAssignment/Promote");
    let codec = tonic_prost::ProstCodec::<WatchRequest, QueueState>::default();
    let status = grpc.unary(Request::new(WatchRequest {}), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
