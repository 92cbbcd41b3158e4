//! The mesh's CA: the authority that signs, the rotation that is under way, and the books on what was signed.
//!
//! In: requests that the door let through, what users ask of the CA, time. Out: SVIDs, the bundle that the mesh trusts. What is decided
//! is in the store before it is published, so that a control plane that starts goes on where the last one was.

mod issued;
mod revoke;
mod rotate;
mod start;
mod svids;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use lorica_identity::intermediate::IntermediateRequest;
use lorica_identity::root_rotation::{Phase, RootRotation};
use lorica_identity::{Authority, AuthorityError, AuthorityRecord, CertificateDer, Grant, KeyPair, Renewal, SecretPem, SignError, Svid};
use lorica_model::name::{Label, WorkloadName};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use revoke::Subject;
pub use start::CaStart;

use self::issued::{Issued, IssuedBook};
use self::revoke::Revocations;
use self::svids::{IssuedSvid, Svids};
use crate::mesh::Mesh;
use crate::mesh::trust::host_name;
use crate::store::{Expected, Store, StoreError, Table, Write};

/// Where the authority that signs is kept in the store.
const AUTHORITY: &str = "authority";
/// Where the rotation is kept, with the authority that does not sign.
const ROTATION: &str = "rotation";
/// Where the key of an intermediate is kept that was asked for and not installed yet.
const REQUESTED: &str = "intermediate-request";
/// How often it is looked whether a rotation goes on.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether the intermediate is to be renewed.
const RENEWAL: Duration = Duration::from_secs(3600);

/// The CA of a mesh.
pub struct Ca {
    mesh: Arc<Mesh>,
    store: Arc<dyn Store>,
    /// How long an SVID holds.
    lifetime: Duration,
    /// How long others are given to learn of a new root before anything comes from it.
    ahead: Duration,
    /// Held through each change; taken before the others.
    changing: Mutex<()>,
    held: RwLock<Held>,
    svids: Mutex<Svids>,
    issued: Mutex<IssuedBook>,
    /// Told when a rotation begins.
    begun: Notify,
}

/// What the CA is made of.
#[derive(Clone)]
struct Held {
    issuing: Arc<Authority>,
    /// The authority of the root that is to come or to go.
    other: Option<Arc<Authority>>,
    rotation: Option<RootRotation>,
    /// Workloads that have acknowledged the bundle of now, also if they are not connected any more.
    acknowledged: BTreeSet<String>,
    revocations: Arc<Revocations>,
}

/// A rotation as it is stored.
#[derive(Serialize, Deserialize)]
struct RotationRecord {
    rotation: RootRotation,
    other: Option<AuthorityRecord>,
}

/// Why the CA does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It is not the time for it.
    #[error("{0}")]
    Refused(String),
    /// What was brought is wrong.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It is not signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signed chain cannot be read back.
    #[error("{0}")]
    Broken(String),
}

/// A signed SVID.
pub struct Signed {
    /// Leaf and intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The root that it comes from.
    pub root: CertificateDer<'static>,
    /// The same, by the SHA-256 of its certificate.
    root_id: String,
    /// The end of its life.
    pub not_after: SystemTime,
}

impl Held {
    /// The roots to trust, the one that SVIDs come from first.
    fn roots(&self) -> Vec<Vec<u8>> {
        std::iter::once(&self.issuing).chain(&self.other).map(|authority| authority.root().as_ref().to_vec()).collect()
    }

    fn under_way(&self) -> Option<&RootRotation> {
        self.rotation.as_ref().filter(|rotation| rotation.phase != Phase::Done)
    }
}

impl Ca {
    /// The CA that signs.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).issuing.clone()
    }

    /// Whose identities it signs.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.authority().trust_domain().clone()
    }

    /// How long an SVID holds.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    fn held(&self) -> Held {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn svids(&self) -> MutexGuard<'_, Svids> {
        // Every change of it is complete before the next line can fail.
        self.svids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Ca::sign`], for a host: a rotation waits for it as for a workload.
    ///
    /// # Errors
    /// As [`Ca::sign`].
    pub fn sign_host(&self, host: &Label, csr_der: &[u8], now: SystemTime) -> Result<Signed, CaError> {
        let grant = Grant { lifetime: self.lifetime, ..Grant::new(SpiffeId::of_host(&self.trust_domain(), host)) };
        self.sign_into_books(host_name(host), csr_der, &grant, now)
    }

    /// Whether the books have an SVID of this identity under this name.
    #[must_use]
    pub fn holds(&self, name: &str, id: &SpiffeId, now: SystemTime) -> bool {
        self.svids().holding(now).any(|(known, svid)| known == name && svid.identity == *id)
    }

    /// Strikes a host from the books that was let go of, so that nobody waits for it.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn strike_host(&self, host: &Label) -> Result<(), StoreError> {
        let key = host_name(host);
        self.store.write(&[Write { table: Table::Svids, key: key.clone(), value: None, expected: Expected::Anything }])?;
        self.svids().remove(&[key]);
        Ok(())
    }

    fn issued(&self) -> MutexGuard<'_, IssuedBook> {
        // Every change of it is complete before the next line can fail.
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a request for an identity, and enters it into the books, which are stored a moment later.
    ///
    /// # Errors
    /// When its sender is revoked, or it is not signed.
    pub fn sign_identity(&self, csr_der: &[u8], grant: &Grant, now: SystemTime) -> Result<Signed, CaError> {
        // A rotation changes who signs, and a revocation for whom, only once nobody is signing: after that, nothing comes from the old
        // root, and what was signed is in the books.
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let workload = grant.facts.as_ref().map(|facts| &facts.workload);
        if held.revocations.refuse(&grant.id, workload) {
            let who = workload.map_or_else(|| grant.id.to_string(), |workload| format!("{workload} ({})", grant.id));
            return Err(CaError::Refused(format!("{who} is revoked")));
        }
        let authority = &held.issuing;
        let chain = authority.sign(csr_der, grant, now)?;
        let leaf = chain.first().ok_or_else(|| CaError::Broken("the chain is empty".to_owned()))?;
        let serial = lorica_identity::revocation_list::serial_number(leaf).map_err(CaError::Broken)?;
        let not_after = lorica_identity::peer_identity(&chain).map_err(|error| CaError::Broken(error.to_string()))?.not_after;
        let issued = Issued { identity: grant.id.clone(), workload: workload.cloned(), issuer: authority.intermediate_id(), not_after };
        self.issued().enter(issued::hexadecimal(&serial), issued);
        Ok(Signed { chain, root: authority.root().clone(), root_id: authority.root_id(), not_after })
    }

    /// Signs a workload's request and enters it into the books. Waits for the disk.
    ///
    /// # Errors
    /// When it is revoked, it is not signed, or cannot be stored.
    pub fn sign(&self, workload: &WorkloadName, csr_der: &[u8], grant: &Grant, now: SystemTime) -> Result<Signed, CaError> {
        self.sign_into_books(workload.to_string(), csr_der, grant, now)
    }

    fn sign_into_books(&self, key: String, csr_der: &[u8], grant: &Grant, now: SystemTime) -> Result<Signed, CaError> {
        let signed = self.sign_identity(csr_der, grant, now)?;
        let peer = lorica_identity::peer_identity(&signed.chain).map_err(|error| CaError::Broken(error.to_string()))?;
        let svid = IssuedSvid { identity: peer.id, root: signed.root_id.clone(), not_before: peer.not_before, not_after: peer.not_after };
        let value = serde_json::to_vec(&svid).map_err(|error| CaError::Broken(error.to_string()))?;
        self.write_with_issued(
            vec![Write { table: Table::Svids, key: key.clone(), value: Some(value), expected: Expected::Anything }],
            now,
        )?;
        self.svids().insert(key, svid);
        Ok(signed)
    }

    /// Stores what the books on SVIDs have to tell, together with `writes`.
    fn write_with_issued(&self, mut writes: Vec<Write>, now: SystemTime) -> Result<(), CaError> {
        let changes = self.issued().changes(now);
        let more = changes.iter().map(issued::write).collect::<Result<Vec<_>, _>>().map_err(|error| CaError::Broken(error.to_string()))?;
        writes.extend(more);
        if writes.is_empty() {
            return Ok(());
        }
        self.store.write(&writes).map(drop).map_err(|error| {
            self.issued().not_stored(changes);
            error.into()
        })
    }

    /// The CA of the root that others have known longest: while a rotation is under way, the one that is to go.
    #[must_use]
    pub fn known_longest(&self) -> Arc<Authority> {
        let held = self.held();
        let going = held.under_way().zip(held.other.as_ref()).filter(|(rotation, other)| other.root_id() == rotation.old);
        going.map_or(held.issuing.clone(), |(_, other)| other.clone())
    }

    /// An SVID for the control plane itself where other meshes see it, from the root that they have known longest, with the name of that root.
    ///
    /// # Errors
    /// When it is not signed.
    pub fn own_svid(&self, id: &SpiffeId, now: SystemTime) -> Result<(Svid, String), CaError> {
        let broken = |error: lorica_identity::SvidError| CaError::Broken(error.to_string());
        let authority = self.known_longest();
        let key = KeyPair::generate().map_err(broken)?;
        let mut grant = Grant::new(id.clone());
        grant.lifetime = self.lifetime;
        let chain = authority.sign(&key.request(id).map_err(broken)?, &grant, now)?;
        Ok((Svid::new(&chain, key).map_err(broken)?, authority.root_id()))
    }

    /// Renews the intermediate in time and carries rotations on, for ever.
    pub async fn keep(self: Arc<Self>) {
        let mut looked: Option<SystemTime> = None;
        loop {
            let now = SystemTime::now();
            // A clock that was set back is a reason to look, too.
            let renewal = looked.is_none_or(|looked| now.duration_since(looked).is_ok_and(|since| since >= RENEWAL) || now < looked);
            let ca = self.clone();
            let done = tokio::task::spawn_blocking(move || ca.look(renewal, now)).await;
            match done {
                Ok(Ok(())) => looked = if renewal { Some(now) } else { looked },
                Ok(Err(error)) => tracing::error!(%error, "the CA could not be kept as it should be; it is tried again"),
                Err(error) => tracing::error!(%error, "the CA could not be looked after; it is tried again"),
            }
            drop(tokio::time::timeout(LOOK, self.begun.notified()).await);
        }
    }

    fn look(&self, renewal: bool, now: SystemTime) -> Result<(), CaError> {
        if renewal {
            self.renew_intermediate(now)?;
        }
        self.forget(now)?;
        self.forget_revocations(now)?;
        self.advance(now)
    }

    /// Strikes workloads from the books that ended, and SVIDs that are over.
    fn forget(&self, now: SystemTime) -> Result<(), CaError> {
        let ended = self.mesh.ended_in_order();
        let over = self.svids().over(&ended, now);
        let gone = |key: &String| Write { table: Table::Svids, key: key.clone(), value: None, expected: Expected::Anything };
        self.write_with_issued(over.iter().map(gone).collect(), now)?;
        self.svids().remove(&over);
        Ok(())
    }

    fn renew_intermediate(&self, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        match self.authority().renew_intermediate(now)? {
            Renewal::NotDue => {}
            Renewal::RootKeyAbsent { not_after } => {
                tracing::warn!(
                    not_after = crate::timestamp(not_after),
                    "the intermediate certificate is due and the root's key is not here; `lorica ca request-intermediate` begins its renewal"
                );
            }
            Renewal::Renewed(renewed) => {
                self.sign_with(*renewed, Vec::new(), now)?;
                tracing::info!("the intermediate certificate was renewed");
            }
        }
        Ok(())
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // It guards an order, no value.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an authority of the same root, and signs with it from then on.
    fn sign_with(&self, authority: Authority, mut more: Vec<Write>, now: SystemTime) -> Result<(), CaError> {
        let authority = authority.succeeding(&self.authority(), now)?;
        more.push(authority_record(&authority)?);
        self.store.write(&more)?;
        self.held.write().unwrap_or_else(PoisonError::into_inner).issuing = Arc::new(authority);
        self.publish(now).map(drop)
    }

    /// Makes a new intermediate now, by the root's key.
    ///
    /// # Errors
    /// When that key is not here, or the store refuses.
    pub fn replace_intermediate(&self, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        let renewed = self.authority().with_new_intermediate(now)?.ok_or_else(|| {
            CaError::Refused(
                "the root's key is not here\nhint: `lorica ca request-intermediate` makes a request to be signed where it is".to_owned(),
            )
        })?;
        self.sign_with(renewed, Vec::new(), now)?;
        tracing::info!("the intermediate certificate was replaced");
        Ok(())
    }

    /// A request for an intermediate, to be signed where the root's key is. Its key stays here; an earlier request is void.
    ///
    /// # Errors
    /// When it cannot be made or stored.
    pub fn request_intermediate(&self) -> Result<String, CaError> {
        let _changing = self.changing();
        let request = IntermediateRequest::new(&self.trust_domain())?;
        let value = Some(request.key.expose().as_bytes().to_vec());
        self.store.write(&[Write { table: Table::Mesh, key: REQUESTED.to_owned(), value, expected: Expected::Anything }])?;
        Ok(request.request)
    }

    /// Signs with the intermediate that was requested, from now on.
    ///
    /// # Errors
    /// When none was requested, or the certificate is not as it should be.
    pub fn install_intermediate(&self, certificate: &str, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        let key = self.store.get(Table::Mesh, REQUESTED)?.and_then(|key| String::from_utf8(key).ok()).map(SecretPem::new);
        let key = key.ok_or_else(|| {
            CaError::Refused("no intermediate was requested\nhint: `lorica ca request-intermediate` makes a request".to_owned())
        })?;
        let renewed = self.authority().with_intermediate(certificate, &key, now)?;
        let done = Write { table: Table::Mesh, key: REQUESTED.to_owned(), value: None, expected: Expected::Anything };
        self.sign_with(renewed, vec![done], now)?;
        tracing::info!("an intermediate certificate was installed");
        Ok(())
    }

    /// The root's key, to be written where it is kept offline. It stays here until it is forgotten.
    ///
    /// # Errors
    /// When it is not here.
    pub fn root_key(&self) -> Result<(String, SecretPem), CaError> {
        let authority = self.authority();
        let key = authority
            .to_record()
            .root_key_pem
            .ok_or_else(|| CaError::Refused("the root's key is not here: it is offline already".to_owned()))?;
        Ok((authority.root_id(), key))
    }

    /// Forgets the root's key, once it is kept elsewhere.
    ///
    /// # Errors
    /// When another root signs meanwhile, or the store refuses.
    pub fn forget_root_key(&self, root: &str, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        let authority = self.authority();
        if authority.root_id() != root {
            return Err(CaError::Refused("another root signs meanwhile; nothing was forgotten".to_owned()));
        }
        let root_revocations_pem = authority.root_revocations_pem(now)?;
        let without = Authority::from_record(&AuthorityRecord { root_key_pem: None, root_revocations_pem, ..authority.to_record() })?;
        self.sign_with(without, Vec::new(), now)?;
        tracing::info!("the root's key was taken offline");
        Ok(())
    }
}

fn authority_record(authority: &Authority) -> Result<Write, CaError> {
    let value = serde_json::to_vec(&authority.to_record()).map_err(|error| CaError::Broken(error.to_string()))?;
    Ok(Write { table: Table::Mesh, key: AUTHORITY.to_owned(), value: Some(value), expected: Expected::Anything })
}
