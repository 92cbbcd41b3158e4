//! How the CA begins: as the store has it, as a user's files say, or anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use lorica_identity::intermediate::{OwnCa, OwnIntermediate};
use lorica_identity::{Authority, AuthorityRecord};
use lorica_model::snapshot::TrustBundle;
use lorica_model::spiffe::TrustDomain;
use tokio::sync::Notify;

use super::issued::IssuedBook;
use super::revoke::{self, Revocations};
use super::svids::Svids;
use super::{AUTHORITY, Ca, CaError, Held, ROTATION, RotationRecord, authority_record};
use crate::mesh::Mesh;
use crate::store::{Store, Table};

/// A CA that waits for its mesh.
pub struct CaStart {
    held: Held,
    svids: Svids,
    issued: IssuedBook,
}

impl CaStart {
    /// The CA that the store has, or a new one of `trust_domain`, stored before it signs anything. With files of the user's: the CA of
    /// these, where the store has none or one of the same root.
    ///
    /// # Errors
    /// When the store refuses, holds a CA of another trust domain or root, or the files are not as they should be.
    pub fn load(store: &dyn Store, trust_domain: Option<&TrustDomain>, own: Option<&OwnCa>, now: SystemTime) -> anyhow::Result<Self> {
        let authority = match (store.get(Table::Mesh, AUTHORITY)?, own) {
            (Some(record), own) => {
                let known = Authority::from_record(&serde_json::from_slice::<AuthorityRecord>(&record)?)?;
                if let Some(wanted) = trust_domain.filter(|wanted| *wanted != known.trust_domain()) {
                    anyhow::bail!(
                        "this mesh's trust domain is `{}`, not `{wanted}`\nhint: leave --trust-domain out, or name another --state for a new mesh",
                        known.trust_domain()
                    );
                }
                own.map_or_else(|| Ok(None), |own| brought(&known, own, now))?.map_or(Ok(known), |newer| stored(store, newer))?
            }
            (None, Some(own)) => stored(store, Authority::own(&trust_domain.cloned().unwrap_or_default(), own, now)?)?,
            (None, None) => stored(store, Authority::create(trust_domain.cloned().unwrap_or_default(), now)?)?,
        };
        let (rotation, other) = match store.get(Table::Mesh, ROTATION)? {
            Some(record) => {
                let record: RotationRecord = serde_json::from_slice(&record)?;
                (Some(record.rotation), record.other.as_ref().map(Authority::from_record).transpose()?.map(Arc::new))
            }
            None => (None, None),
        };
        let mut svids = BTreeMap::new();
        for (name, record) in store.list(Table::Svids)? {
            svids.insert(name, serde_json::from_slice(&record)?);
        }
        let mut issued = BTreeMap::new();
        for (serial, record) in store.list(Table::Issued)? {
            issued.insert(serial, serde_json::from_slice(&record)?);
        }
        let revocations = Arc::new(Revocations::read(store.list(Table::Revocations)?)?);
        let acknowledged = std::collections::BTreeSet::new();
        let held = Held { issuing: Arc::new(authority), other, rotation, acknowledged, revocations };
        Ok(Self { held, svids: Svids::new(svids), issued: IssuedBook::new(issued) })
    }

    /// Whom the mesh trusts, and who is revoked all the same: nobody is sent the one without the other.
    ///
    /// # Errors
    /// When a list of revocations cannot be made.
    pub fn bundle(&self, now: SystemTime) -> Result<TrustBundle, CaError> {
        revoke::bundle(&self.held, &self.issued, now)
    }

    /// The CA of `mesh`. `ahead`: how long others are given to learn of a new root before anything comes from it.
    #[must_use]
    pub fn of(self, mesh: Arc<Mesh>, store: Arc<dyn Store>, lifetime: Duration, ahead: Duration) -> Arc<Ca> {
        Arc::new(Ca {
            mesh,
            store,
            lifetime,
            ahead,
            changing: Mutex::new(()),
            held: RwLock::new(self.held),
            svids: Mutex::new(self.svids),
            issued: Mutex::new(self.issued),
            begun: Notify::new(),
        })
    }
}

fn stored(store: &dyn Store, authority: Authority) -> anyhow::Result<Authority> {
    store.write(&[authority_record(&authority)?])?;
    Ok(authority)
}

/// What files bring to the CA that is there; none: nothing new.
fn brought(known: &Authority, own: &OwnCa, now: SystemTime) -> anyhow::Result<Option<Authority>> {
    let record = known.to_record();
    let mut own = own.clone();
    if own.intermediate.is_none() {
        own.intermediate =
            Some(OwnIntermediate { certificate: record.intermediate_certificate_pem.clone(), key: record.intermediate_key_pem.clone() });
    }
    own.root_key = own.root_key.or_else(|| record.root_key_pem.clone());
    let newer = Authority::own(known.trust_domain(), &own, now);
    // A root that is another is told as such, whatever else is wrong with it.
    let other = lorica_identity::Bundle::from_pem(known.trust_domain().clone(), &own.root_certificate)?.roots() != known.bundle().roots();
    if other {
        anyhow::bail!(
            "the root of --ca-root-cert is not this mesh's\nhint: leave the files out, and `lorica ca rotate --root-cert FILE …` brings the new root in without a failed call"
        );
    }
    let newer = newer?.succeeding(known, now)?;
    Ok((newer.to_record() != record).then_some(newer))
}
