//! The call that carries a certificate request to the CA: Istio's `istio.v1.auth.IstioCertificateService`, so that
//! clients written for Istio can ask as well. Requests in, signed chains out; who may have what is decided by the
//! [`Issue`] behind it. The one module of this crate that knows gRPC.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service, StdError, http};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::server::{NamedService, UnaryService};
use tonic::{Code, Extensions, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::certificate::Fields;
use crate::pem;
use crate::request::CertificateRequest;

/// The name of the service, as in Istio's `security/v1alpha1/ca.proto`.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";

/// The metadata key by which a proxy says which node (workload) it asks for.
pub const NODE_KEY: &str = "lorica-node";

/// The path of its one call.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The most bytes of a message, either way: a request has at most 16 KiB, a chain a few certificates.
const MAX_MESSAGE: usize = 64 * 1024;

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateCertificateRequest {
    /// The certificate request, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate is wanted for, in seconds; 0 leaves it to the CA.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// What an Istio client says of itself; nothing is decided by it.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<prost_types::Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateCertificateResponse {
    /// The chain, PEM, leaf first and root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// One request for a certificate, as it reached the CA.
#[derive(Debug)]
pub struct IssueRequest {
    /// The certificate request, DER, not looked at yet.
    pub csr_der: Vec<u8>,
    /// How long the certificate is wanted for; `None` leaves it to the CA.
    pub validity: Option<Duration>,
    /// Which node it is for, by the metadata key `lorica-node`. A claim, to be checked against the sender.
    pub node: Option<String>,
    /// All metadata of the call.
    pub metadata: MetadataMap,
    /// What the server's connection left behind: the peer's credentials or certificates.
    pub extensions: Extensions,
}

/// Decides on a request and signs.
pub trait Issue: Send + Sync + 'static {
    /// Gives the chain as PEM, leaf first and root last ([`encode_chain`]), or refuses.
    ///
    /// # Errors
    /// The status goes to the asker: `PERMISSION_DENIED` with the reason, `UNAVAILABLE` if asking again may help.
    fn issue(&self, request: IssueRequest) -> impl Future<Output = Result<Vec<String>, Status>> + Send;
}

/// The chain that an answer carries: leaf and intermediates, then the root.
#[must_use]
pub fn encode_chain(chain: &[CertificateDer<'_>], root: &CertificateDer<'_>) -> Vec<String> {
    chain.iter().chain([root]).map(|certificate| pem::encode("CERTIFICATE", certificate)).collect()
}

/// The gRPC service around an [`Issue`], for a tonic router.
#[derive(Debug)]
pub struct CertificateServiceServer<I>(Arc<I>);

impl<I> CertificateServiceServer<I> {
    /// Serves `issue`.
    #[must_use]
    pub fn new(issue: Arc<I>) -> Self {
        Self(issue)
    }
}

impl<I> Clone for CertificateServiceServer<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> NamedService for CertificateServiceServer<I> {
    const NAME: &'static str = SERVICE;
}

impl<I, B> Service<http::Request<B>> for CertificateServiceServer<I>
where
    I: Issue,
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
        let issue = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented(format!("{SERVICE} has only CreateCertificate")).into_http());
            }
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(Create(issue), request).await)
        })
    }
}

struct Create<I>(Arc<I>);

impl<I: Issue> UnaryService<CreateCertificateRequest> for Create<I> {
    type Response = CreateCertificateResponse;
    type Future = BoxFuture<Response<CreateCertificateResponse>, Status>;

    fn call(&mut self, request: Request<CreateCertificateRequest>) -> Self::Future {
        let issue = self.0.clone();
        Box::pin(async move {
            let (metadata, extensions, message) = request.into_parts();
            let csr_der = CertificateRequest::der_of_pem(&message.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let validity = match message.validity_duration {
                0 => None,
                seconds => Some(u64::try_from(seconds).map(Duration::from_secs).map_err(|_| {
                    Status::invalid_argument(format!("validity_duration is {seconds}; it counts seconds and is not negative"))
                })?),
            };
            let node = match metadata.get(NODE_KEY).map(MetadataValue::to_str) {
                None => None,
                Some(Ok(node)) => Some(node.to_owned()),
                Some(Err(_)) => return Err(Status::invalid_argument(format!("the metadata {NODE_KEY} is no text"))),
            };
            let cert_chain = issue.issue(IssueRequest { csr_der, validity, node, metadata, extensions }).await?;
            Ok(Response::new(CreateCertificateResponse { cert_chain }))
        })
    }
}

/// What the CA answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Leaf and intermediates, for [`Svid::new`](crate::Svid::new).
    pub chain: Vec<CertificateDer<'static>>,
    /// The root that came with them. It is trusted only as far as the connection it came by.
    pub root: CertificateDer<'static>,
}

/// Asks a CA over `channel` to sign `csr_pem` for `node`. `timeout` goes with the call; a tonic `Channel` keeps to
/// it on this side too.
///
/// # Errors
/// The status of the CA; `INVALID_ARGUMENT` if `node` cannot be sent; `UNAVAILABLE` if the channel is closed;
/// `DATA_LOSS` if the answer is no chain that ends in a root.
pub async fn request_certificate<C>(
    channel: C,
    csr_pem: String,
    node: &str,
    validity: Option<Duration>,
    timeout: Duration,
) -> Result<Issued, Status>
where
    C: GrpcService<Body>,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let validity_duration = validity.map_or(0, |validity| i64::try_from(validity.as_secs()).unwrap_or(i64::MAX));
    let mut request = Request::new(CreateCertificateRequest { csr: csr_pem, validity_duration, metadata: None });
    request.set_timeout(timeout);
    let value: MetadataValue<Ascii> =
        node.parse().map_err(|_| Status::invalid_argument(format!("the node `{}` cannot be sent as metadata", node.escape_debug())))?;
    request.metadata_mut().insert(NODE_KEY, value);
    grpc.ready().await.map_err(|error| Status::new(Code::Unavailable, format!("the CA cannot be reached: {}", error.into())))?;
    let codec: ProstCodec<CreateCertificateRequest, CreateCertificateResponse> = ProstCodec::default();
    let response = grpc.unary(request, http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE), codec).await?;
    issued(&response.into_inner().cert_chain).map_err(|why| Status::data_loss(format!("the CA answered with no certificate chain: {why}")))
}

fn issued(texts: &[String]) -> Result<Issued, String> {
    let mut chain = pem::certificates(&texts.concat())?;
    let Some(root) = chain.pop().filter(|_| !chain.is_empty()) else {
        return Err("leaf or root is missing".to_owned());
    };
    let fields = Fields::read(&root)?;
    if !(fields.ca && fields.self_issued) {
        return Err("its last certificate is no root".to_owned());
    }
    Ok(Issued { chain, root })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use lorica_model::spiffe::TrustDomain;

    use super::*;
    use crate::authority::{Authority, Grant};
    use crate::svid::{KeyPair, Svid};

    /// A CA that gives everyone the account its node is named for, and nobody `intruder`.
    struct Ca(Authority, SystemTime);

    impl Issue for Ca {
        async fn issue(&self, request: IssueRequest) -> Result<Vec<String>, Status> {
            let node = request.node.ok_or_else(|| Status::unauthenticated("which node?"))?;
            if node == "intruder" {
                return Err(Status::permission_denied("intruder is not registered"));
            }
            assert_eq!(request.metadata.get(NODE_KEY).unwrap(), node.as_str());
            let mut grant = Grant::new(format!("spiffe://mesh.local/ns/contact/sa/{node}").parse().unwrap());
            grant.lifetime = request.validity.unwrap_or(grant.lifetime);
            let chain = self.0.sign(&request.csr_der, &grant, self.1).map_err(|error| Status::permission_denied(error.to_string()))?;
            Ok(encode_chain(&chain, self.0.root()))
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_request_travels_to_the_ca_and_back() {
        let now = SystemTime::now();
        let authority = Authority::create(TrustDomain::default(), now).unwrap();
        let root = authority.root().clone();
        let server = CertificateServiceServer::new(Arc::new(Ca(authority, now)));
        let id = "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap();
        let ask = |node: &'static str, csr: String, validity| {
            run(request_certificate(server.clone(), csr, node, validity, Duration::from_secs(30)))
        };

        let key = KeyPair::generate().unwrap();
        let issued = ask("recording", key.request_pem(&id).unwrap(), Some(Duration::from_secs(3600))).unwrap();
        assert_eq!((issued.chain.len(), &issued.root), (2, &root));
        let svid = Svid::new(&issued.chain, key).unwrap();
        assert_eq!(svid.id(), &id);
        assert!(svid.not_after() <= now + Duration::from_secs(3600));

        let key = KeyPair::generate().unwrap();
        let csr = key.request_pem(&id).unwrap();
        let refused = ask("intruder", csr.clone(), None).unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "intruder is not registered"));
        let refused = ask("analytics", csr, None).unwrap_err();
        assert!(refused.message().contains("asks for `spiffe://mesh.local/ns/contact/sa/recording`"), "{}", refused.message());
        assert_eq!(ask("recording", "no request".into(), None).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(ask("recording", "x".repeat(70_000), None).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(ask("bad\nnode", String::new(), None).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn an_answer_without_a_root_is_refused() {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).unwrap();
        let root = pem::encode("CERTIFICATE", authority.root());
        assert!(issued(&[]).is_err());
        assert!(issued(std::slice::from_ref(&root)).is_err());
        let record = authority.to_record();
        assert!(issued(&[root, record.intermediate_certificate_pem]).unwrap_err().contains("no root"));
    }
}
