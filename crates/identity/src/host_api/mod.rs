//! The calls by which a host joins, stays, and gets what its processes are to have: `lorica.host.v1.HostService`.
//!
//! | call | asks with | gets |
//! | --- | --- | --- |
//! | `Join` | a token's secret | the first SVID of the host |
//! | `Renew` | the host's SVID | the next one |
//! | `Watch` | the host's SVID, what it knows | what the host is to know, once that is something else: whom to trust, which process may have which identity |
//! | `SignSvid`, `SignToken` | the host's SVID, an identity | an SVID or a JWT-SVID for a process of the host |
//! | `ValidateToken` | the host's SVID, a token | what the token says |
//!
//! `Join` is the one call that a client without a certificate may make. Who may have what is decided by the [`Admit`] behind the service.

mod client;
mod messages;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lorica_model::spiffe::SpiffeId;
use rustls_pki_types::CertificateDer;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Extensions, Request, Response, Status};
use tonic_prost::ProstCodec;

pub use client::HostClient;
pub use messages::{HostView, Known, RegisteredProcess};

use self::messages::{
    JoinRequest, MemberReply, RenewRequest, SvidReply, SvidRequest, TokenReply, TokenRequest, ValidateReply, ValidateRequest,
};
use crate::bundle::Bundle;
use crate::join_token::Secret;
use crate::jwt_svid::Claims;
use crate::pem;
use crate::request::CertificateRequest;

/// The name of the service.
pub const SERVICE: &str = "lorica.host.v1.HostService";
/// The path by which a host joins.
pub const JOIN: &str = "/lorica.host.v1.HostService/Join";
/// How long `Watch` waits for something new before it says that nothing is.
pub const WATCH: Duration = Duration::from_secs(20);

const RENEW: &str = "/lorica.host.v1.HostService/Renew";
const WATCH_PATH: &str = "/lorica.host.v1.HostService/Watch";
const SIGN_SVID: &str = "/lorica.host.v1.HostService/SignSvid";
const SIGN_TOKEN: &str = "/lorica.host.v1.HostService/SignToken";
const VALIDATE_TOKEN: &str = "/lorica.host.v1.HostService/ValidateToken";

/// The most bytes that a host may send.
const MAX_REQUEST: usize = 256 * 1024;
/// The most bytes that it is answered: thousands of registered identities.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// What a host is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Leaf and intermediates, for [`Svid::new`](crate::Svid::new).
    pub chain: Vec<CertificateDer<'static>>,
    /// What it is to trust.
    pub bundle: Bundle,
}

/// Decides who is a host of the mesh, and what its processes may have. `connection` is what the server's connection left behind: who the
/// client is. Requests for certificates are DER, not looked at yet.
pub trait Admit: Send + Sync + 'static {
    /// A host that shows a token's secret.
    ///
    /// # Errors
    /// The status goes to the host.
    fn join(
        &self,
        connection: Extensions,
        token_id: String,
        secret: Secret,
        csr_der: Vec<u8>,
    ) -> impl Future<Output = Result<Admitted, Status>> + Send;

    /// A host that has joined and renews.
    ///
    /// # Errors
    /// The status goes to the host.
    fn renew(&self, connection: Extensions, csr_der: Vec<u8>) -> impl Future<Output = Result<Admitted, Status>> + Send;

    /// What a host is to know, as soon as it is not what it knows already; after [`WATCH`] in any case.
    ///
    /// # Errors
    /// The status goes to the host.
    fn watch(&self, connection: Extensions, known: Known) -> impl Future<Output = Result<HostView, Status>> + Send;

    /// Leaf and intermediates of an SVID for a process of the host.
    ///
    /// # Errors
    /// The status goes to the host.
    fn sign_svid(
        &self,
        connection: Extensions,
        id: SpiffeId,
        csr_der: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<CertificateDer<'static>>, Status>> + Send;

    /// A JWT-SVID for a process of the host.
    ///
    /// # Errors
    /// The status goes to the host.
    fn sign_token(
        &self,
        connection: Extensions,
        id: SpiffeId,
        audience: Vec<String>,
    ) -> impl Future<Output = Result<String, Status>> + Send;

    /// What a JWT-SVID says.
    ///
    /// # Errors
    /// The status goes to the host.
    fn validate_token(
        &self,
        connection: Extensions,
        token: String,
        audience: String,
    ) -> impl Future<Output = Result<Claims, Status>> + Send;
}

/// The gRPC service around an [`Admit`], for a tonic router.
#[derive(Debug)]
pub struct HostServiceServer<A>(Arc<A>);

impl<A> HostServiceServer<A> {
    /// Serves `admit`.
    #[must_use]
    pub fn new(admit: Arc<A>) -> Self {
        Self(admit)
    }
}

impl<A> Clone for HostServiceServer<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> NamedService for HostServiceServer<A> {
    const NAME: &'static str = SERVICE;
}

impl<A, B> Service<http::Request<B>> for HostServiceServer<A>
where
    A: Admit,
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
        let call = Call(self.0.clone());
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                JOIN => grpc::<JoinRequest, _>().unary(call, request).await,
                RENEW => grpc::<RenewRequest, _>().unary(call, request).await,
                WATCH_PATH => grpc::<Known, _>().unary(call, request).await,
                SIGN_SVID => grpc::<SvidRequest, _>().unary(call, request).await,
                SIGN_TOKEN => grpc::<TokenRequest, _>().unary(call, request).await,
                VALIDATE_TOKEN => grpc::<ValidateRequest, _>().unary(call, request).await,
                _ => Status::unimplemented(format!("{SERVICE} has no such method")).into_http(),
            })
        })
    }
}

fn grpc<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Send + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST).max_encoding_message_size(MAX_ANSWER)
}

/// A call, told apart by what it asks with.
struct Call<A>(Arc<A>);

impl<A: Admit> UnaryService<JoinRequest> for Call<A> {
    type Response = MemberReply;
    type Future = BoxFuture<Response<MemberReply>, Status>;

    fn call(&mut self, request: Request<JoinRequest>) -> Self::Future {
        let admit = self.0.clone();
        Box::pin(async move {
            let (_, connection, JoinRequest { token_id, secret, csr }) = request.into_parts();
            member(admit.join(connection, token_id, secret.into(), der(&csr)?).await?)
        })
    }
}

impl<A: Admit> UnaryService<RenewRequest> for Call<A> {
    type Response = MemberReply;
    type Future = BoxFuture<Response<MemberReply>, Status>;

    fn call(&mut self, request: Request<RenewRequest>) -> Self::Future {
        let admit = self.0.clone();
        Box::pin(async move {
            let (_, connection, RenewRequest { csr }) = request.into_parts();
            member(admit.renew(connection, der(&csr)?).await?)
        })
    }
}

impl<A: Admit> UnaryService<Known> for Call<A> {
    type Response = HostView;
    type Future = BoxFuture<Response<HostView>, Status>;

    fn call(&mut self, request: Request<Known>) -> Self::Future {
        let admit = self.0.clone();
        Box::pin(async move {
            let (_, connection, known) = request.into_parts();
            Ok(Response::new(admit.watch(connection, known).await?))
        })
    }
}

impl<A: Admit> UnaryService<SvidRequest> for Call<A> {
    type Response = SvidReply;
    type Future = BoxFuture<Response<SvidReply>, Status>;

    fn call(&mut self, request: Request<SvidRequest>) -> Self::Future {
        let admit = self.0.clone();
        Box::pin(async move {
            let (_, connection, SvidRequest { spiffe_id, csr }) = request.into_parts();
            let chain = admit.sign_svid(connection, id(&spiffe_id)?, der(&csr)?).await?;
            Ok(Response::new(SvidReply { chain: pem::encode_certificates(&chain) }))
        })
    }
}

impl<A: Admit> UnaryService<TokenRequest> for Call<A> {
    type Response = TokenReply;
    type Future = BoxFuture<Response<TokenReply>, Status>;

    fn call(&mut self, request: Request<TokenRequest>) -> Self::Future {
        let admit = self.0.clone();
        Box::pin(async move {
            let (_, connection, TokenRequest { spiffe_id, audience }) = request.into_parts();
            Ok(Response::new(TokenReply { token: admit.sign_token(connection, id(&spiffe_id)?, audience).await? }))
        })
    }
}

impl<A: Admit> UnaryService<ValidateRequest> for Call<A> {
    type Response = ValidateReply;
    type Future = BoxFuture<Response<ValidateReply>, Status>;

    fn call(&mut self, request: Request<ValidateRequest>) -> Self::Future {
        let admit = self.0.clone();
        Box::pin(async move {
            let (_, connection, ValidateRequest { token, audience }) = request.into_parts();
            let Claims { sub, aud, exp, iat } = admit.validate_token(connection, token, audience).await?;
            Ok(Response::new(ValidateReply { sub: sub.to_string(), aud, exp, iat }))
        })
    }
}

fn member(Admitted { chain, bundle }: Admitted) -> Result<Response<MemberReply>, Status> {
    Ok(Response::new(MemberReply { chain: pem::encode_certificates(&chain), roots: bundle.to_pem() }))
}

fn der(csr: &str) -> Result<Vec<u8>, Status> {
    CertificateRequest::der_of_pem(csr).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn id(text: &str) -> Result<SpiffeId, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("`spiffe_id` is none: {error}")))
}
