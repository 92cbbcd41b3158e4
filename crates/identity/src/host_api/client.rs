//! The host's side of its calls.

use std::time::Duration;

use lorica_model::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::{Body as HttpBody, Bytes, StdError, http};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    JoinRequest, MemberReply, RenewRequest, SvidReply, SvidRequest, TokenReply, TokenRequest, ValidateReply, ValidateRequest,
};
use super::{Admitted, HostView, JOIN, Known, MAX_ANSWER, RENEW, SIGN_SVID, SIGN_TOKEN, VALIDATE_TOKEN, WATCH, WATCH_PATH};
use crate::bundle::Bundle;
use crate::join_token::Secret;
use crate::jwt_svid::Claims;
use crate::pem;

/// How long the control plane may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls the control plane. Each call fails with the status of the control plane, with `UNAVAILABLE` if it cannot be reached, and with
/// `DATA_LOSS` if its answer cannot be read.
#[derive(Debug, Clone)]
pub struct HostClient<C> {
    channel: C,
    trust_domain: TrustDomain,
}

impl<C> HostClient<C>
where
    C: GrpcService<Body> + Clone,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    /// Calls by `channel`, which proved to lead to the control plane of `trust_domain`.
    pub fn new(channel: C, trust_domain: TrustDomain) -> Self {
        Self { channel, trust_domain }
    }

    /// Joins with a token's secret.
    ///
    /// # Errors
    /// See [`HostClient`].
    pub async fn join(&self, token_id: &str, secret: &Secret, csr: String) -> Result<Admitted, Status> {
        let request = JoinRequest { token_id: token_id.to_owned(), secret: secret.expose().to_owned(), csr };
        self.admitted(self.ask(JOIN, TIMEOUT, request).await?)
    }

    /// Renews the SVID of the host, over a channel on which it proved itself by the one that it has.
    ///
    /// # Errors
    /// See [`HostClient`].
    pub async fn renew(&self, csr: String) -> Result<Admitted, Status> {
        self.admitted(self.ask(RENEW, TIMEOUT, RenewRequest { csr }).await?)
    }

    /// What the host is to know, once it is something else than what it knows; after [`WATCH`] in any case.
    ///
    /// # Errors
    /// See [`HostClient`].
    pub async fn watch(&self, known: Known) -> Result<HostView, Status> {
        self.ask(WATCH_PATH, WATCH + TIMEOUT, known).await
    }

    /// Leaf and intermediates for a process of the host.
    ///
    /// # Errors
    /// See [`HostClient`].
    pub async fn sign_svid(&self, id: &SpiffeId, csr: String) -> Result<Vec<CertificateDer<'static>>, Status> {
        let SvidReply { chain } = self.ask(SIGN_SVID, TIMEOUT, SvidRequest { spiffe_id: id.to_string(), csr }).await?;
        pem::certificates(&chain).map_err(|why| unreadable(&why))
    }

    /// A JWT-SVID for a process of the host.
    ///
    /// # Errors
    /// See [`HostClient`].
    pub async fn sign_token(&self, id: &SpiffeId, audience: &[String]) -> Result<String, Status> {
        let request = TokenRequest { spiffe_id: id.to_string(), audience: audience.to_vec() };
        let TokenReply { token } = self.ask(SIGN_TOKEN, TIMEOUT, request).await?;
        Ok(token)
    }

    /// What a JWT-SVID says.
    ///
    /// # Errors
    /// See [`HostClient`].
    pub async fn validate_token(&self, token: &str, audience: &str) -> Result<Claims, Status> {
        let request = ValidateRequest { token: token.to_owned(), audience: audience.to_owned() };
        let ValidateReply { sub, aud, exp, iat } = self.ask(VALIDATE_TOKEN, TIMEOUT, request).await?;
        Ok(Claims { sub: sub.parse().map_err(|error| unreadable(&error))?, aud, exp, iat })
    }

    fn admitted(&self, MemberReply { chain, roots }: MemberReply) -> Result<Admitted, Status> {
        let chain = pem::certificates(&chain).map_err(|why| unreadable(&why))?;
        let bundle = Bundle::from_pem(self.trust_domain.clone(), &roots).map_err(|error| unreadable(&error))?;
        Ok(Admitted { chain, bundle })
    }

    async fn ask<Q, A>(&self, path: &'static str, timeout: Duration, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let unreachable = |error: StdError| Status::new(Code::Unavailable, format!("the control plane cannot be reached: {error}"));
        grpc.ready().await.map_err(|error| unreachable(error.into()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(grpc.unary(request, http::uri::PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> Status {
    Status::data_loss(format!("the control plane's answer cannot be read: {why}"))
}
