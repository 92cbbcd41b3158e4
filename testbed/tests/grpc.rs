//! gRPC through the mesh: calls, streams both ways at once, and statuses in trailers.

use std::ffi::OsStr;

use contact_centre::agents_v1::{AgentAssignmentClient, AssignRequest, Note};
use testbed::{Mesh, PATIENCE, Port, eventually};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Endpoint;

#[tokio::test]
async fn streams_pass_both_ways_at_once() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let lorica = mesh.program(testbed::lorica()?)?;
    let (serving, calling) = (Port::free()?, Port::free()?);
    let listen = serving.address().to_string();
    let app: [&OsStr; 5] =
        [lorica.as_os_str(), "contact-centre".as_ref(), "agent-assignment".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let agents = mesh.service("agents.contact").no_capture().port(&format!("50051:{}/grpc", serving.number())).start(app)?;
    mesh.announced("agents.contact", 1).await?;
    let client = mesh.client().upstream(&format!("agents.contact:50051={}", calling.address())).start(["sleep", "600"])?;
    let endpoint = Endpoint::from_shared(format!("http://{}", calling.address()))?;
    let channel = eventually("the listener", PATIENCE, || async { Ok(endpoint.connect().await?) }).await?;
    let mut agents_v1 = AgentAssignmentClient::new(channel);

    let assigned =
        agents_v1.assign(Request::new(AssignRequest { skill: "billing".to_owned(), call_id: "call-1".to_owned() })).await?.into_inner();
    assert!(!assigned.agent.is_empty(), "{assigned:?}");

    // Each note is sent only once the one before has come back: neither side waits for the other's end.
    let (notes, outgoing) = tokio::sync::mpsc::channel(1);
    let mut answers = agents_v1.converse(ReceiverStream::new(outgoing)).await?.into_inner();
    for number in 1..=5_u32 {
        notes.send(Note { text: format!("note {number}"), ..Note::default() }).await?;
        let answer = answers.next().await.transpose()?;
        assert!(answer.is_some_and(|answer| answer.text.contains(&format!("note {number}"))));
    }
    drop(notes);
    assert!(answers.next().await.is_none());

    let refused = agents_v1.assign(Request::new(AssignRequest { skill: "juggling".to_owned(), call_id: "call-2".to_owned() })).await;
    let status = refused.err().map(|status| status.code());
    assert_eq!(status, Some(tonic::Code::InvalidArgument));

    // Without an endpoint the mesh itself answers, as gRPC expects it: a status, not an HTTP error.
    agents.stop().await?;
    let gone = agents_v1.assign(Request::new(AssignRequest { skill: "billing".to_owned(), call_id: "call-3".to_owned() })).await;
    let status = gone.err();
    assert_eq!(status.as_ref().map(tonic::Status::code), Some(tonic::Code::Unavailable), "{status:?}");
    client.stop().await?;
    mesh.finish().await
}
