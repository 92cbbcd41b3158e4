//! The CA's door: who may have which identity, and the signature. Whoever owns the socket may claim any service; who comes by TCP, what its
//! token or its own SVID says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use lorica_identity::ca_api::{Issue, IssueRequest, encode_chain};
use lorica_identity::{Grant, WorkloadFacts};
use lorica_model::compile::VirtualAddresses;
use lorica_model::name::WorkloadName;
use lorica_model::spiffe::SpiffeId;
use lorica_xds::NodeMetadata;
use lorica_xds::server::Peer;
use serde::Deserialize;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::ca::{Ca, CaError, Signed};
use crate::hosts::Hosts;
use crate::mesh::Mesh;
use crate::sessions::refusal;
use crate::telemetry::counts::one;

/// The CA's door.
pub struct Issuer {
    mesh: Arc<Mesh>,
    ca: Arc<Ca>,
    hosts: Arc<Hosts>,
}

impl Issuer {
    /// The CA's door.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, ca: Arc<Ca>, hosts: Arc<Hosts>) -> Arc<Self> {
        Arc::new(Self { mesh, ca, hosts })
    }

    /// Whether a peer may be who it says. Off the runtime's threads, as the store is asked.
    async fn judge(&self, request: &IssueRequest, asker: &Asker) -> Result<(), Status> {
        let (hosts, id, metadata) = (self.hosts.clone(), asker.id.clone(), asker.metadata.clone());
        let (peer, token) = (Peer::of(&request.extensions), bearer(&request.metadata));
        let judged = tokio::task::spawn_blocking(move || {
            let claimant = hosts.asker(peer.as_ref(), token.as_deref())?;
            hosts.may_be(&claimant, &id, &metadata)
        });
        judged.await.map_err(|error| Status::internal(error.to_string()))?
    }

    /// Keeps addresses for who asks. Its stream registers it: what is said here may be old when a certificate is renewed.
    async fn reserve(&self, asker: &Asker) -> Result<VirtualAddresses, Status> {
        let (mesh, id, metadata) = (self.mesh.clone(), asker.id.clone(), asker.metadata.clone());
        let reserved = tokio::task::spawn_blocking(move || mesh.reserve(&id, &metadata)).await;
        reserved.map_err(|error| Status::internal(error.to_string()))?.map_err(refusal)
    }

    /// Has a request signed, off the runtime's threads, as the books are on the disk.
    async fn sign(&self, workload: &WorkloadName, csr_der: Vec<u8>, grant: Grant) -> Result<Signed, Status> {
        let (ca, workload) = (self.ca.clone(), workload.clone());
        let signed = tokio::task::spawn_blocking(move || ca.sign(&workload, &csr_der, &grant, SystemTime::now())).await;
        signed.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| match error {
            CaError::Store(error) => Status::unavailable(error.to_string()),
            CaError::Broken(error) => Status::internal(error),
            error => Status::permission_denied(error.to_string()),
        })
    }
}

/// What a proxy says of itself when it asks for a certificate: the same as on its stream.
#[derive(Deserialize)]
struct Asker {
    id: WorkloadName,
    metadata: NodeMetadata,
}

/// The token that a call brings.
fn bearer(metadata: &MetadataMap) -> Option<String> {
    let (scheme, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

impl Issue for Issuer {
    async fn issue(&self, request: IssueRequest) -> Result<Vec<String>, Status> {
        let issued = self.judge_and_sign(request).await;
        if issued.is_err() {
            one(&self.mesh.counts.not_issued);
        }
        issued
    }
}

impl Issuer {
    async fn judge_and_sign(&self, request: IssueRequest) -> Result<Vec<String>, Status> {
        let node = request
            .node
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("the metadata `lorica-node` is missing: it names the workload that asks"))?;
        let asker: Asker = serde_json::from_str(node)
            .map_err(|error| Status::invalid_argument(format!("the metadata `lorica-node` cannot be read: {error}")))?;
        self.judge(&request, &asker).await?;
        let addresses = self.reserve(&asker).await?;
        let id = SpiffeId::of_account(&self.ca.trust_domain(), &asker.id.namespace, &asker.metadata.account);
        let facts = WorkloadFacts {
            workload: asker.id.clone(),
            service: asker.metadata.service.clone(),
            version: asker.metadata.version.clone(),
            virtual_v4: Some(addresses.v4),
            virtual_v6: Some(addresses.v6),
        };
        let mut grant = Grant::new(id.clone()).with_facts(facts);
        // Who asks may have less than the mesh's lifetime, never more.
        let lifetime = self.ca.lifetime();
        grant.lifetime = request.validity.map_or(lifetime, |wanted| wanted.min(lifetime));
        let Signed { chain, root, not_after, .. } = self.sign(&asker.id, request.csr_der, grant).await?;
        self.mesh.issued(&asker.id, not_after);
        let count = self.mesh.counts.issued.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(workload = %asker.id, identity = %id, not_after = crate::timestamp(not_after), count, "an SVID was issued");
        Ok(encode_chain(&chain, &root))
    }
}
