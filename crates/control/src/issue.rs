//! The CA's door: who may have which identity, and the signature. Whoever owns the socket may claim any service.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use lorica_identity::ca_api::{Issue, IssueRequest, encode_chain};
use lorica_identity::{Authority, AuthorityRecord, Grant, Renewal, WorkloadFacts};
use lorica_model::compile::VirtualAddresses;
use lorica_model::name::WorkloadName;
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use lorica_xds::NodeMetadata;
use serde::Deserialize;
use tonic::Status;

use crate::mesh::Mesh;
use crate::sessions::refusal;
use crate::store::{Expected, Store, StoreError, Table, Write};

/// Where the CA is kept in the store.
const RECORD: &str = "authority";
/// How often it is looked whether the intermediate is to be renewed.
const RENEWAL: Duration = Duration::from_secs(3600);

/// The CA of a mesh.
pub struct Issuer {
    mesh: Arc<Mesh>,
    authority: RwLock<Arc<Authority>>,
    /// How long an SVID holds.
    lifetime: Duration,
    /// How many SVIDs were issued since the start.
    issued: AtomicU64,
}

/// The CA that the store has, or a new one of `trust_domain`, stored before it signs anything.
///
/// # Errors
/// When the store refuses, or holds a CA of another trust domain.
pub fn authority(store: &dyn Store, trust_domain: Option<&TrustDomain>) -> anyhow::Result<Authority> {
    if let Some(record) = store.get(Table::Mesh, RECORD)? {
        let record: AuthorityRecord = serde_json::from_slice(&record)?;
        let authority = Authority::from_record(&record)?;
        if let Some(wanted) = trust_domain.filter(|wanted| *wanted != authority.trust_domain()) {
            anyhow::bail!(
                "this mesh's trust domain is `{}`, not `{wanted}`\nhint: leave --trust-domain out, or name another --state for a new mesh",
                authority.trust_domain()
            );
        }
        return Ok(authority);
    }
    let authority = Authority::create(trust_domain.cloned().unwrap_or_default(), SystemTime::now())?;
    keep(store, &authority, Expected::Absent)?;
    Ok(authority)
}

fn keep(store: &dyn Store, authority: &Authority, expected: Expected) -> Result<(), StoreError> {
    let value = serde_json::to_vec(&authority.to_record())
        .map_err(|error| StoreError::Failed { path: RECORD.to_owned(), error: error.to_string() })?;
    store.write(&[Write { table: Table::Mesh, key: RECORD.to_owned(), value: Some(value), expected }]).map(drop)
}

impl Issuer {
    /// The CA's door.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, authority: Authority, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self { mesh, authority: RwLock::new(Arc::new(authority)), lifetime, issued: AtomicU64::new(0) })
    }

    /// The CA.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long an SVID holds.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Renews the intermediate in time, for ever.
    pub async fn keep_fresh(self: Arc<Self>, store: Arc<dyn Store>) {
        loop {
            let (issuer, store) = (self.clone(), store.clone());
            let renewed = tokio::task::spawn_blocking(move || issuer.renew(&*store)).await;
            if let Ok(Err(error)) = renewed {
                tracing::error!(error = format!("{error:#}"), "the intermediate certificate could not be renewed");
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// Keeps addresses for who asks. Its stream registers it: what is said here may be old when a certificate is renewed.
    async fn reserve(&self, asker: &Asker) -> Result<VirtualAddresses, Status> {
        let (mesh, id, metadata) = (self.mesh.clone(), asker.id.clone(), asker.metadata.clone());
        let reserved = tokio::task::spawn_blocking(move || mesh.reserve(&id, &metadata)).await;
        reserved.map_err(|error| Status::internal(error.to_string()))?.map_err(refusal)
    }

    fn renew(&self, store: &dyn Store) -> anyhow::Result<()> {
        match self.authority().renew_intermediate(SystemTime::now())? {
            Renewal::NotDue => {}
            Renewal::RootKeyAbsent { not_after } => {
                tracing::warn!(
                    not_after = crate::timestamp(not_after),
                    "the intermediate certificate is due and the root's key is not here"
                );
            }
            Renewal::Renewed(renewed) => {
                keep(store, &renewed, Expected::Anything)?;
                *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(*renewed);
                tracing::info!("the intermediate certificate was renewed");
            }
        }
        Ok(())
    }
}

/// What a proxy says of itself when it asks for a certificate: the same as on its stream.
#[derive(Deserialize)]
struct Asker {
    id: WorkloadName,
    metadata: NodeMetadata,
}

impl Issue for Issuer {
    async fn issue(&self, request: IssueRequest) -> Result<Vec<String>, Status> {
        let node = request
            .node
            .ok_or_else(|| Status::invalid_argument("the metadata `lorica-node` is missing: it names the workload that asks"))?;
        let asker: Asker = serde_json::from_str(&node)
            .map_err(|error| Status::invalid_argument(format!("the metadata `lorica-node` cannot be read: {error}")))?;
        let addresses = self.reserve(&asker).await?;
        let authority = self.authority();
        let id = SpiffeId::of_account(authority.trust_domain(), &asker.id.namespace, &asker.metadata.account);
        let facts = WorkloadFacts {
            workload: asker.id.clone(),
            service: asker.metadata.service.clone(),
            version: asker.metadata.version.clone(),
            virtual_v4: Some(addresses.v4),
            virtual_v6: Some(addresses.v6),
        };
        let mut grant = Grant::new(id.clone()).with_facts(facts);
        // Who asks may have less than the mesh's lifetime, never more.
        grant.lifetime = request.validity.map_or(self.lifetime, |wanted| wanted.min(self.lifetime));
        let now = SystemTime::now();
        let chain = authority.sign(&request.csr_der, &grant, now).map_err(|error| Status::permission_denied(error.to_string()))?;
        let not_after = lorica_identity::peer_identity(&chain).map_err(|error| Status::internal(error.to_string()))?.not_after;
        self.mesh.issued(&asker.id, not_after);
        let count = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(workload = %asker.id, identity = %id, not_after = crate::timestamp(not_after), count, "an SVID was issued");
        Ok(encode_chain(&chain, authority.root()))
    }
}
