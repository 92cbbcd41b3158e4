//! The Workload API of the control plane's own host: `WorkloadIdentity` resources and what the kernel says of a process go in; identities,
//! SVIDs and tokens come out. It has a socket of its own, on which any user may ask: nothing but the Workload API is served there.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use lorica_identity::attestation::PeerProcess;
use lorica_identity::federation::{self, ForeignTokenError};
use lorica_identity::jwt_svid::{Claims, TOKEN_LIFETIME, TokenKeys, TokenKeysRecord};
use lorica_identity::workload_api::{Attestor, Bundles, Readable, Registered, Renewable, Seats, WorkloadApiServer, Workloads};
use lorica_identity::{Bundle, Grant, KeyPair, Svid, rotation};
use lorica_model::compile;
use lorica_model::name::Label;
use lorica_model::resource::{Metadata, Resources, WorkloadIdentity};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::ca::Ca;
use crate::mesh::Mesh;
use crate::serve::connection;
use crate::store::{Expected, Store, StoreError, Table, Write};

/// Where the keys of tokens are kept in the store.
const RECORD: &str = "token-keys";
/// How often it is looked whether keys are to be rotated.
const ROTATION: Duration = Duration::from_secs(3600);

/// Decides by resources which process of this host has which identities.
pub(crate) struct HostWorkloads {
    mesh: Arc<Mesh>,
    ca: Arc<Ca>,
    /// The name of this host, which resources may ask for.
    host: Option<Label>,
    keys: RwLock<Arc<TokenKeys>>,
    attestor: Attestor,
}

/// The keys that the store has, or new ones, stored before they sign anything.
///
/// # Errors
/// When the store refuses, or holds what cannot be read.
pub(crate) fn token_keys(store: &dyn Store, trust_domain: &TrustDomain) -> anyhow::Result<TokenKeys> {
    if let Some(record) = store.get(Table::Mesh, RECORD)? {
        let record: TokenKeysRecord = serde_json::from_slice(&record)?;
        return Ok(TokenKeys::from_record(&record)?);
    }
    let keys = TokenKeys::create(trust_domain.clone(), SystemTime::now())?;
    keep(store, &keys, Expected::Absent)?;
    Ok(keys)
}

fn keep(store: &dyn Store, keys: &TokenKeys, expected: Expected) -> Result<(), StoreError> {
    let value =
        serde_json::to_vec(&keys.to_record()).map_err(|error| StoreError::Failed { path: RECORD.to_owned(), error: error.to_string() })?;
    store.write(&[Write { table: Table::Mesh, key: RECORD.to_owned(), value: Some(value), expected }]).map(drop)
}

impl HostWorkloads {
    pub(crate) fn new(mesh: Arc<Mesh>, ca: Arc<Ca>, keys: TokenKeys) -> Arc<Self> {
        Arc::new(Self { mesh, ca, host: own_host(), keys: RwLock::new(Arc::new(keys)), attestor: Attestor::default() })
    }

    /// The keys that sign tokens.
    pub(crate) fn keys(&self) -> Arc<TokenKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rotates the keys of tokens in time, for ever.
    pub(crate) async fn keep_fresh(self: Arc<Self>, store: Arc<dyn Store>) {
        loop {
            let (own, store) = (self.clone(), store.clone());
            let rotated = tokio::task::spawn_blocking(move || own.rotate(&*store)).await;
            if let Ok(Err(error)) = rotated {
                tracing::error!(error = format!("{error:#}"), "the keys of JWT-SVIDs could not be rotated");
            }
            tokio::time::sleep(ROTATION).await;
        }
    }

    fn rotate(&self, store: &dyn Store) -> anyhow::Result<()> {
        if let Some(rotated) = self.keys().rotated(SystemTime::now())? {
            keep(store, &rotated, Expected::Anything)?;
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rotated);
            self.mesh.identities.send_replace(());
            tracing::info!("the keys of JWT-SVIDs were rotated");
        }
        Ok(())
    }

    /// What is registered for the processes of a host.
    pub(crate) fn registered(&self, host: Option<&Label>) -> Vec<Registered> {
        let published = self.mesh.published();
        registered(&published.resources, &published.trust_domain, host)
    }

    /// The keys that verify tokens, as a JWK Set.
    pub(crate) fn jwks(&self) -> String {
        self.keys().jwks()
    }

    /// The roots that the mesh trusts: several while they are rotated.
    pub(crate) fn trusted(&self) -> Bundle {
        let trusted = self.mesh.trusted();
        let roots = trusted.roots.iter().map(|root| root.clone().into()).collect();
        Bundle::new(trusted.trust_domain.clone(), roots).unwrap_or_else(|error| {
            tracing::error!(%error, "the roots of the mesh cannot be told as they are");
            self.ca.authority().bundle().clone()
        })
    }

    fn sign(&self, id: &SpiffeId) -> anyhow::Result<Renewable> {
        let key = KeyPair::generate()?;
        let mut grant = Grant::new(id.clone());
        grant.lifetime = self.ca.lifetime();
        let signed = self.ca.sign_identity(&key.request(id)?, &grant, SystemTime::now())?;
        let svid = Svid::new(&signed.chain, key)?;
        let renew_at = rotation::renew_at(svid.not_before(), svid.not_after(), fastrand::f64());
        Ok(Renewable { svid, renew_at })
    }
}

/// The name of this host, up to its first dot.
pub(crate) fn own_host() -> Option<Label> {
    let system = rustix::system::uname();
    let name = system.nodename().to_str().ok()?.split('.').next()?.to_ascii_lowercase();
    Label::new(&name).ok()
}

/// The identities that resources give to processes of `host`.
fn registered(resources: &Resources, trust_domain: &TrustDomain, host: Option<&Label>) -> Vec<Registered> {
    let here = resources.workload_identities().filter(|(_, identity)| identity.host.is_none() || identity.host.as_ref() == host);
    let one = |(metadata, identity): (&Metadata, &WorkloadIdentity)| Registered {
        id: SpiffeId::of_account(trust_domain, &metadata.namespace, &identity.account),
        attributes: identity.attributes.clone(),
    };
    here.map(one).collect()
}

fn revoked_status(id: &SpiffeId) -> Status {
    Status::permission_denied(format!("{id} is revoked"))
}

impl Workloads for HostWorkloads {
    async fn identities(&self, caller: &Arc<PeerProcess>) -> Result<Vec<SpiffeId>, Status> {
        let found = self.attestor.identities(caller, &self.registered(self.host.as_ref())).await;
        let ids = found.inspect_err(|status| tracing::debug!(pid = caller.pid(), why = status.message(), "a process has no identity"))?;
        let (revoked, ids): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.ca.is_revoked(id, None));
        match revoked.first() {
            Some(id) if ids.is_empty() => Err(revoked_status(id)),
            _ => Ok(ids),
        }
    }

    async fn svid(&self, id: &SpiffeId) -> Result<Renewable, Status> {
        let made = self.sign(id).map_err(|error| {
            tracing::warn!(identity = %id, error = format!("{error:#}"), "a workload got no SVID");
            Status::unavailable(format!("{error:#}"))
        })?;
        tracing::info!(identity = %id, not_after = crate::timestamp(made.svid.not_after()), "an SVID was issued by the Workload API");
        Ok(made)
    }

    async fn token(&self, id: &SpiffeId, audience: &[String]) -> Result<String, Status> {
        if self.ca.is_revoked(id, None) {
            return Err(revoked_status(id));
        }
        let signed = self.keys().sign(id, audience, TOKEN_LIFETIME, SystemTime::now());
        signed.map_err(|error| Status::invalid_argument(error.to_string()))
    }

    async fn validate(&self, token: &str, audience: &str) -> Result<Claims, Status> {
        let refused = |error: &dyn std::fmt::Display| Status::invalid_argument(format!("the token is not believed: {error}"));
        let now = SystemTime::now();
        let keys = self.keys();
        // What claims to be of another trust domain is held against the keys of that one, and no others.
        match federation::claimed_trust_domain(token) {
            Ok(claimed) if claimed != *keys.trust_domain() => {
                let published = self.mesh.published();
                let known = compile::federated(&published.world()).remove(&claimed);
                let bundle = known.ok_or_else(|| refused(&ForeignTokenError::Unknown(claimed.clone())))?;
                federation::validate_token(&claimed, &bundle, token, audience, now).map_err(|error| refused(&error))
            }
            _ => keys.validate(token, audience, now).map_err(|error| refused(&error)),
        }
    }

    fn bundles(&self) -> Bundles {
        let published = self.mesh.published();
        let (mut federated, mut federated_jwks) = (Vec::new(), BTreeMap::new());
        for (trust_domain, bundle) in compile::federated(&published.world()) {
            match federation::bundle(&trust_domain, &bundle) {
                Ok(roots) => federated.push(roots),
                Err(error) => tracing::error!(%error, "the roots of another trust domain cannot be told as they are"),
            }
            federated_jwks.insert(trust_domain.uri(), bundle.token_keys());
        }
        Bundles { own: self.trusted(), own_jwks: self.jwks(), federated, federated_jwks }
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.mesh.identities.subscribe()
    }
}

/// Lets every user connect: whoever has no identity is told so.
///
/// # Errors
/// When another server answers there, or the system refuses.
pub(crate) async fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let listener = crate::serve::bind(path).await?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves until `ending`.
pub(crate) async fn serve(listener: UnixListener, workloads: Arc<HostWorkloads>, ending: CancellationToken) {
    let router = tonic::service::Routes::new(WorkloadApiServer::new(workloads)).into_axum_router();
    let (tasks, seats) = (TaskTracker::new(), Seats::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ending.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the Workload API could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match seats.admit(&stream) {
            Ok((process, seat)) => {
                let served = connection(Readable::new(stream), router.clone(), Arc::new(process), ending.clone());
                tasks.spawn(async move {
                    served.await;
                    drop(seat);
                });
            }
            Err(why) => tracing::debug!(why, "a connection to the Workload API was refused"),
        }
    }
    tasks.close();
    tasks.wait().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resources(identities: &[(&str, &str)]) -> Resources {
        let mut resources = Resources::default();
        for (number, (account, rest)) in identities.iter().enumerate() {
            let spec: serde_json::Value = serde_json::from_str(&format!("{{\"account\": \"{account}\", {rest}}}")).unwrap();
            let resource = serde_json::json!({
                "apiVersion": "lorica.io/v1alpha1", "kind": "WorkloadIdentity",
                "metadata": {"name": format!("identity-{number}"), "namespace": "contact"}, "spec": spec,
            });
            resources.insert(lorica_model::resource::stored(&resource).unwrap());
        }
        resources
    }

    fn accounts(resources: &Resources, host: Option<&str>) -> Vec<String> {
        let host = host.map(|host| Label::new(host).unwrap());
        let registered = registered(resources, &TrustDomain::default(), host.as_ref());
        registered.iter().map(|registered| registered.id.account().unwrap().1.to_owned()).collect()
    }

    #[test]
    fn an_identity_of_a_host_is_for_that_host() {
        let resources = resources(&[("here", r#""host": "web-1", "attributes": {"uid": 7}"#), ("anywhere", r#""attributes": {"uid": 7}"#)]);
        assert_eq!(accounts(&resources, Some("web-1")), ["here", "anywhere"]);
        assert_eq!(accounts(&resources, Some("web-2")), ["anywhere"]);
        assert_eq!(accounts(&resources, None), ["anywhere"]);
    }
}
