//! The SPIFFE Workload API: calls of local processes in; SVIDs, tokens and bundles out. Who a process is, the kernel has said
//! ([`PeerProcess`]); what it may have is decided by the [`Workloads`] behind this. It opens no socket.
//!
//! A stream gives all that its caller has, at once and again whenever that changes: before an SVID is half over, and when policies or roots
//! change. It looks again each minute besides, so that a process that is not any more what it was loses its stream. It ends with
//! `PERMISSION_DENIED` when nothing is left.

mod attested;
mod c_core;
mod messages;
mod seats;
mod streams;

pub use attested::{Attestor, Registered};
pub use c_core::Readable;
pub use messages::{
    JwtBundlesRequest, JwtBundlesResponse, JwtSvid, JwtSvidRequest, JwtSvidResponse, ValidateJwtSvidRequest, ValidateJwtSvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509Svid, X509SvidRequest, X509SvidResponse,
};
pub use seats::{Seat, Seats};

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::Stream;
use lorica_model::spiffe::SpiffeId;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::attestation::PeerProcess;
use crate::bundle::Bundle;
use crate::jwt_svid::Claims;
use crate::svid::Svid;

/// The name of the service, as in SPIFFE's `workload.proto`: it is in no package.
pub const SERVICE: &str = "SpiffeWorkloadAPI";
/// The metadata that every call carries with the value `true`, so that no forged web request reaches the service.
pub const SECURITY_KEY: &str = "workload.spiffe.io";

/// The most bytes of a request: a token is the longest that there is.
const MAX_REQUEST: usize = 64 * 1024;
/// The most bytes of an answer. SPIFFE asks clients for 4 MiB, the usual limit of gRPC.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// What verifies the identities of trust domains.
#[derive(Debug, Clone)]
pub struct Bundles {
    /// The roots of the mesh's own trust domain.
    pub own: Bundle,
    /// The JWKS of the mesh's own trust domain.
    pub own_jwks: String,
    /// The roots of other trust domains that the mesh is federated with.
    pub federated: Vec<Bundle>,
    /// Their JWKS, by the SPIFFE IDs of their trust domains.
    pub federated_jwks: BTreeMap<String, String>,
}

/// An SVID, and when to make another.
#[derive(Debug)]
pub struct Renewable {
    /// The SVID.
    pub svid: Svid,
    /// When it is to be renewed.
    pub renew_at: SystemTime,
}

/// Decides which process may have what, and makes it.
pub trait Workloads: Send + Sync + 'static {
    /// The identities of a process, most specific first.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it has none, with the reason.
    fn identities(&self, caller: &Arc<PeerProcess>) -> impl Future<Output = Result<Vec<SpiffeId>, Status>> + Send;

    /// A new SVID for an identity that was given to the caller.
    ///
    /// # Errors
    /// `UNAVAILABLE` if it cannot be made now.
    fn svid(&self, id: &SpiffeId) -> impl Future<Output = Result<Renewable, Status>> + Send;

    /// A new token for an identity that was given to the caller.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if no token has such audiences, `UNAVAILABLE` if it cannot be made now.
    fn token(&self, id: &SpiffeId, audience: &[String]) -> impl Future<Output = Result<String, Status>> + Send;

    /// What a token says.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with the reason why it is not believed.
    fn validate(&self, token: &str, audience: &str) -> impl Future<Output = Result<Claims, Status>> + Send;

    /// What verifies identities now.
    fn bundles(&self) -> Bundles;

    /// Told when [`identities`](Self::identities) or [`bundles`](Self::bundles) may say something else.
    fn changes(&self) -> watch::Receiver<()>;
}

/// The gRPC service around [`Workloads`], for a tonic router. The connection puts an `Arc<PeerProcess>` into the extensions of its requests.
#[derive(Debug)]
pub struct WorkloadApiServer<W>(Arc<W>);

impl<W> WorkloadApiServer<W> {
    /// Serves `workloads`.
    #[must_use]
    pub fn new(workloads: Arc<W>) -> Self {
        Self(workloads)
    }
}

impl<W> Clone for WorkloadApiServer<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W> NamedService for WorkloadApiServer<W> {
    const NAME: &'static str = SERVICE;
}

impl<W, B> Service<http::Request<B>> for WorkloadApiServer<W>
where
    W: Workloads,
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
        let workloads = self.0.clone();
        Box::pin(async move {
            if request.headers().get(SECURITY_KEY).is_none_or(|value| value != "true") {
                return Ok(Status::invalid_argument(format!("the metadata `{SECURITY_KEY}: true` is missing")).into_http());
            }
            let Some(caller) = request.extensions().get::<Arc<PeerProcess>>().cloned() else {
                return Ok(Status::internal("the connection does not say which process it is of").into_http());
            };
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let call = Call { workloads, caller };
            Ok(match method.as_str() {
                "FetchX509SVID" => grpc().server_streaming(X509Svids(call), request).await,
                "FetchX509Bundles" => grpc().server_streaming(X509Bundles(call), request).await,
                "FetchJWTSVID" => grpc().unary(JwtSvids(call), request).await,
                "FetchJWTBundles" => grpc().server_streaming(JwtBundles(call), request).await,
                "ValidateJWTSVID" => grpc().unary(Validation(call), request).await,
                _ => Status::unimplemented(format!("{SERVICE} has no method `{}`", method.escape_debug())).into_http(),
            })
        })
    }
}

fn grpc<A, R>() -> Grpc<ProstCodec<A, R>>
where
    A: prost::Message + Send + 'static,
    R: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST).max_encoding_message_size(MAX_ANSWER)
}

/// A call, and who made it.
struct Call<W> {
    workloads: Arc<W>,
    caller: Arc<PeerProcess>,
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

struct X509Svids<W>(Call<W>);

impl<W: Workloads> ServerStreamingService<X509SvidRequest> for X509Svids<W> {
    type Response = X509SvidResponse;
    type ResponseStream = Answers<X509SvidResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<X509SvidRequest>) -> Self::Future {
        streams::start(self.0.workloads.clone(), self.0.caller.clone(), streams::Svids::default())
    }
}

struct X509Bundles<W>(Call<W>);

impl<W: Workloads> ServerStreamingService<X509BundlesRequest> for X509Bundles<W> {
    type Response = X509BundlesResponse;
    type ResponseStream = Answers<X509BundlesResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<X509BundlesRequest>) -> Self::Future {
        streams::start(self.0.workloads.clone(), self.0.caller.clone(), streams::Roots)
    }
}

struct JwtBundles<W>(Call<W>);

impl<W: Workloads> ServerStreamingService<JwtBundlesRequest> for JwtBundles<W> {
    type Response = JwtBundlesResponse;
    type ResponseStream = Answers<JwtBundlesResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<JwtBundlesRequest>) -> Self::Future {
        streams::start(self.0.workloads.clone(), self.0.caller.clone(), streams::Keys)
    }
}

struct JwtSvids<W>(Call<W>);

impl<W: Workloads> UnaryService<JwtSvidRequest> for JwtSvids<W> {
    type Response = JwtSvidResponse;
    type Future = BoxFuture<Response<JwtSvidResponse>, Status>;

    fn call(&mut self, request: Request<JwtSvidRequest>) -> Self::Future {
        let (workloads, caller) = (self.0.workloads.clone(), self.0.caller.clone());
        Box::pin(async move {
            let JwtSvidRequest { audience, spiffe_id } = request.into_inner();
            if audience.is_empty() {
                return Err(Status::invalid_argument("`audience` is missing: a token is for somebody"));
            }
            let ids = workloads.identities(&caller).await?;
            let meant: Vec<_> = ids.iter().filter(|id| spiffe_id.is_empty() || id.to_string() == spiffe_id).collect();
            if meant.is_empty() {
                return Err(Status::permission_denied(format!("this process has not the identity `{}`", spiffe_id.escape_debug())));
            }
            let mut svids = Vec::with_capacity(meant.len());
            for id in meant {
                svids.push(JwtSvid { spiffe_id: id.to_string(), svid: workloads.token(id, &audience).await?, hint: String::new() });
            }
            Ok(Response::new(JwtSvidResponse { svids }))
        })
    }
}

struct Validation<W>(Call<W>);

impl<W: Workloads> UnaryService<ValidateJwtSvidRequest> for Validation<W> {
    type Response = ValidateJwtSvidResponse;
    type Future = BoxFuture<Response<ValidateJwtSvidResponse>, Status>;

    fn call(&mut self, request: Request<ValidateJwtSvidRequest>) -> Self::Future {
        let (workloads, caller) = (self.0.workloads.clone(), self.0.caller.clone());
        Box::pin(async move {
            let ValidateJwtSvidRequest { audience, svid } = request.into_inner();
            if audience.is_empty() || svid.is_empty() {
                return Err(Status::invalid_argument("`audience` and `svid` are both needed"));
            }
            // What a token says is for workloads of the mesh only.
            workloads.identities(&caller).await?;
            let claims = workloads.validate(&svid, &audience).await?;
            Ok(Response::new(ValidateJwtSvidResponse { spiffe_id: claims.sub.to_string(), claims: Some(message(&claims)) }))
        })
    }
}

fn message(claims: &Claims) -> Struct {
    let Claims { sub, aud, exp, iat } = claims;
    let value = |kind| Value { kind: Some(kind) };
    let text = |text: &str| value(Kind::StringValue(text.to_owned()));
    // Seconds since 1970 are exact in a double for longer than there are dates.
    #[allow(clippy::cast_precision_loss)]
    let number = |number: u64| value(Kind::NumberValue(number as f64));
    let audiences = ListValue { values: aud.iter().map(|audience| text(audience)).collect() };
    let fields =
        [("sub", text(&sub.to_string())), ("aud", value(Kind::ListValue(audiences))), ("exp", number(*exp)), ("iat", number(*iat))];
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}
