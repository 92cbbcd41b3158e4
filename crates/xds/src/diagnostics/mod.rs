//! The diagnostics stream, `lorica.diagnostics.v1.Diagnostics/Attend`: each Lorica proxy keeps one to the control plane, which asks on it what the
//! proxy remembers of a request, or has it show requests as they pass; and the proxy tells on it of requests that were recorded in full.
//!
//! It is for looking, and nothing rests on it: a proxy without it serves as well. Messages are bounded both ways.

mod messages;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub use messages::{Asked, Dropped, Explained, Found, FromControl, FromProxy, LookUp, Said, Tap, TappedOne};

use crate::server::Peer;

/// The name of the service.
pub const SERVICE: &str = "lorica.diagnostics.v1.Diagnostics";
const ATTEND: &str = "/lorica.diagnostics.v1.Diagnostics/Attend";
/// The largest message either way, in bytes.
pub const MAX_MESSAGE: usize = 512 * 1024;

/// How many questions may wait for a proxy.
const QUESTIONS: usize = 32;

/// What comes back to a proxy.
type Questions = Pin<Box<dyn Stream<Item = Result<FromControl, Status>> + Send>>;

/// Whom proxies attend.
pub trait Attended: Send + Sync + 'static {
    /// A proxy attends, until this returns. What is asked of it goes into `asks`; an error there tells it why the stream ends.
    fn attend(
        &self,
        peer: Option<Peer>,
        said: Streaming<FromProxy>,
        asks: mpsc::Sender<Result<FromControl, Status>>,
    ) -> impl Future<Output = ()> + Send;
}

/// The gRPC service around an [`Attended`], for a tonic router.
#[derive(Debug)]
pub struct DiagnosticsServer<A>(Arc<A>);

impl<A> DiagnosticsServer<A> {
    /// Serves `attended`.
    #[must_use]
    pub fn new(attended: Arc<A>) -> Self {
        Self(attended)
    }
}

impl<A> Clone for DiagnosticsServer<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> NamedService for DiagnosticsServer<A> {
    const NAME: &'static str = SERVICE;
}

impl<A, B> Service<http::Request<B>> for DiagnosticsServer<A>
where
    A: Attended,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let attended = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != ATTEND {
                return Ok(Status::unimplemented(format!("{SERVICE} has only Attend")).into_http());
            }
            let codec: ProstCodec<FromControl, FromProxy> = ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
            Ok(grpc.streaming(Attend(attended), request).await)
        })
    }
}

struct Attend<A>(Arc<A>);

impl<A: Attended> StreamingService<FromProxy> for Attend<A> {
    type Response = FromControl;
    type ResponseStream = Questions;
    type Future = BoxFuture<Response<Questions>, Status>;

    fn call(&mut self, request: Request<Streaming<FromProxy>>) -> Self::Future {
        let attended = self.0.clone();
        Box::pin(async move {
            let peer = Peer::of(request.extensions());
            let (asks, questions) = mpsc::channel(QUESTIONS);
            // It is answered before it has said anything: its first message may wait for that.
            tokio::spawn(async move { attended.attend(peer, request.into_inner(), asks).await });
            let questions: Questions = Box::pin(ReceiverStream::new(questions));
            Ok(Response::new(questions))
        })
    }
}

/// Opens the stream. What goes into `said` (its sender closes the stream) is told; what the control plane asks comes back.
///
/// # Errors
/// The status of the control plane; `UNAVAILABLE` where it is not reached.
pub async fn attend(channel: Channel, said: mpsc::Receiver<FromProxy>) -> Result<Streaming<FromControl>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    grpc.ready().await.map_err(|error| Status::new(Code::Unavailable, format!("the control plane cannot be reached: {error}")))?;
    let codec: ProstCodec<FromProxy, FromControl> = ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(ATTEND);
    Ok(grpc.streaming(Request::new(ReceiverStream::new(said)), path, codec).await?.into_inner())
}
