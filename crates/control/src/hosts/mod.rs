//! Hosts: join tokens are made and used up, hosts are admitted and let go of.
//!
//! | module | noun |
//! | --- | --- |
//! | `tokens` | join tokens: made, used up, revoked |
//! | `guesses` | who shows wrong secrets, and for how long nobody listens to that |
//! | `service` | the calls of hosts |
//!
//! A token is stored as the digest of its secret, holds for a short time and admits one host, once. That it was used is in the store before the
//! host has anything of it. Whoever shows a used one is refused, and that is told loudly: one of the two hosts that had it is not yours.

#[cfg(test)]
mod account_tests;
mod guesses;
mod service;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use lorica_identity::authority::BACKDATE;
use lorica_identity::host_api::Admitted;
use lorica_identity::request::RequestError;
use lorica_identity::service_account::ServiceAccount;
use lorica_identity::{PeerIdentity, SignError};
use lorica_model::name::{Label, Namespace, ServiceName, WorkloadName};
use lorica_xds::NodeMetadata;
use lorica_xds::server::Peer;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::Status;

pub use service::{Admission, Client};
pub use tokens::{MAX_TOKEN_LIFETIME, TokenError, TokenRecord};

use self::guesses::Guesses;
use crate::ca::{Ca, CaError};
use crate::claims::Claimant;
use crate::kubernetes::ServiceAccounts;
use crate::mesh::Mesh;
use crate::store::{Expected, Store, StoreError, Table, Write};

/// How many claims are kept before those of workloads that are gone are looked for.
const CLAIMS_LOOKED_AT: usize = 4096;

/// A host that joined, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The services that it may claim; none: any.
    pub services: Vec<ServiceName>,
    /// When it joined, in seconds since 1970.
    pub joined: u64,
    /// The token that it joined with.
    pub token: String,
}

/// The hosts of a mesh.
pub struct Hosts {
    store: Arc<dyn Store>,
    mesh: Arc<Mesh>,
    ca: Arc<Ca>,
    accounts: Option<Arc<ServiceAccounts>>,
    guesses: Mutex<Guesses>,
    /// Which peer a workload was let in for.
    claims: Mutex<BTreeMap<WorkloadName, Claimant>>,
}

impl Hosts {
    /// The hosts that the store has.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, mesh: Arc<Mesh>, ca: Arc<Ca>, accounts: Option<Arc<ServiceAccounts>>) -> Self {
        Self { store, mesh, ca, accounts, guesses: Mutex::default(), claims: Mutex::default() }
    }

    /// Told whenever somebody may be welcome no more: a host is let go of, or somebody is revoked.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<()> {
        self.mesh.identities.subscribe()
    }

    /// A host, if it has joined and was not let go of.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn host(&self, name: &Label) -> Result<Option<HostRecord>, StoreError> {
        self.read(&host_key(name))
    }

    /// Who a peer is to this control plane.
    ///
    /// # Errors
    /// The status that says why it is nobody.
    pub fn claimant(&self, peer: Option<&Peer>) -> Result<Claimant, Status> {
        let id = match peer {
            Some(Peer::Local(_)) => return Ok(Claimant::Owner),
            Some(Peer::Remote(id)) => id,
            None => return Err(Status::unauthenticated("nobody may ask here without a certificate or the host's own socket")),
        };
        if *id.trust_domain() != self.ca.trust_domain() {
            return Err(Status::permission_denied(format!("{id} is not of this mesh, {}", self.ca.trust_domain())));
        }
        if let Some(name) = id.host() {
            let host = self.host(&name).map_err(unavailable)?;
            let host = host
                .ok_or_else(|| Status::permission_denied(format!("the host {name} is not of this mesh (any more); it is to join anew")))?;
            return Ok(Claimant::Host { name, services: host.services });
        }
        let account = id.account().and_then(|(namespace, account)| Some((Namespace::new(namespace).ok()?, Label::new(account).ok()?)));
        match account {
            Some((namespace, account)) => Ok(Claimant::Workload { namespace, account }),
            None => Err(Status::permission_denied(format!("{id} is neither a host nor a workload"))),
        }
    }

    /// Whether service accounts of a cluster are believed.
    #[must_use]
    pub fn believes_accounts(&self) -> bool {
        self.accounts.is_some()
    }

    /// Who asks for a certificate. A workload's own does not beget another: it proves itself each time, by the token of its service account.
    ///
    /// # Errors
    /// The status that says why it is nobody.
    pub fn asker(&self, peer: Option<&Peer>, token: Option<&str>) -> Result<Claimant, Status> {
        let proved = peer.map(|peer| self.claimant(Some(peer))).transpose()?;
        if let Some(proved @ (Claimant::Owner | Claimant::Host { .. })) = proved {
            return Ok(proved);
        }
        let accounts = self.accounts.as_ref().ok_or_else(|| {
            Status::unauthenticated("no service account is believed here; lorica control --kubernetes-issuer names whose are")
        })?;
        let token =
            token.ok_or_else(|| Status::unauthenticated("the token of a service account is missing: authorization: Bearer TOKEN"))?;
        let ServiceAccount { namespace, name } = accounts.account(token, SystemTime::now())?;
        let shown = Claimant::Workload { namespace, account: name };
        match proved {
            Some(proved) if proved != shown => {
                Err(Status::permission_denied(format!("the caller is {}, and its token is of {}", proved.word(), shown.word())))
            }
            _ => Ok(shown),
        }
    }

    /// Whether somebody with this certificate is of this mesh. Who is revoked is not; a host's certificate from before it joined (anew) is of no
    /// host: whoever has it was let go of, or another has joined in its place.
    ///
    /// # Errors
    /// The status that says why not.
    pub fn welcome(&self, peer: &PeerIdentity) -> Result<(), Status> {
        if self.ca.is_revoked(&peer.id, peer.facts.as_ref().map(|facts| &facts.workload)) {
            return Err(Status::permission_denied(format!("{} is revoked", peer.id)));
        }
        let Claimant::Host { name, .. } = self.claimant(Some(&Peer::Remote(peer.id.clone())))? else { return Ok(()) };
        let joined = self.host(&name).map_err(unavailable)?.map_or(0, |host| host.joined);
        // A certificate begins a little before it was signed.
        if seconds(peer.not_before + BACKDATE) < joined {
            return Err(Status::permission_denied(format!("the host {name} has joined anew since this certificate was signed")));
        }
        Ok(())
    }

    /// Whether a peer may be the workload that it says. It is remembered by whom a workload is claimed, while it lives.
    ///
    /// # Errors
    /// The status that says why not.
    pub fn may_be(&self, claimant: &Claimant, name: &WorkloadName, node: &NodeMetadata) -> Result<(), Status> {
        let denied = |why: String| {
            tracing::warn!(claimant = claimant.word(), workload = %name, why, "a claim was refused");
            Status::permission_denied(why)
        };
        claimant.may_be(name, node).map_err(denied)?;
        let known = self.mesh.registered(name);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &known {
            let other = claims.get(name).is_some_and(|before| !before.is(claimant));
            let differs = (&known.service, &known.account) != (&node.service, &node.account);
            if *claimant != Claimant::Owner && (other || differs) {
                return Err(denied(format!("the workload {name} is another one, which is registered already")));
            }
        }
        if claims.len() >= 2 * CLAIMS_LOOKED_AT {
            // Names of workloads that are gone; those that live are fewer, and stay.
            claims.retain(|name, _| self.mesh.registered(name).is_some());
        }
        claims.insert(name.clone(), claimant.clone());
        Ok(())
    }

    /// Whether a workload is there that another was let in for.
    #[must_use]
    pub fn is_anothers(&self, claimant: &Claimant, name: &WorkloadName) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        *claimant != Claimant::Owner && claims.get(name).is_some_and(|other| !other.is(claimant))
    }

    /// Signs a host's request.
    fn admit(&self, host: &Label, csr_der: &[u8], now: SystemTime) -> Result<Admitted, Status> {
        let signed = self.ca.sign_host(host, csr_der, now).map_err(|error| match error {
            CaError::Sign(SignError::Request(RequestError::Malformed(_))) => Status::invalid_argument(error.to_string()),
            CaError::Store(error) => unavailable(error),
            CaError::Broken(error) => Status::internal(error),
            error => Status::permission_denied(error.to_string()),
        })?;
        let bundle = self.mesh.own_roots().map_err(|error| Status::internal(error.to_string()))?;
        Ok(Admitted { chain: signed.chain, bundle })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let found = self.store.get(Table::Hosts, key)?;
        found
            .map(|record| serde_json::from_slice(&record))
            .transpose()
            .map_err(|error| StoreError::Failed { path: key.to_owned(), error: error.to_string() })
    }
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}

fn host_key(name: &Label) -> String {
    format!("host/{name}")
}

fn write<T: Serialize>(key: String, record: Option<&T>, expected: Expected) -> Result<Write, StoreError> {
    let value =
        record.map(serde_json::to_vec).transpose().map_err(|error| StoreError::Failed { path: key.clone(), error: error.to_string() })?;
    Ok(Write { table: Table::Hosts, key, value, expected })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
