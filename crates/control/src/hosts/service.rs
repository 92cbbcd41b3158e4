//! The calls of hosts, answered: who asks is told by the connection, what it may have by its token and by resources.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use lorica_identity::host_api::{Admit, Admitted, HostView, Known, WATCH};
use lorica_identity::join_token::Secret;
use lorica_identity::jwt_svid::Claims;
use lorica_identity::workload_api::{Registered, Workloads};
use lorica_identity::{CertificateDer, Grant};
use lorica_model::name::Label;
use lorica_model::snapshot::Version;
use lorica_model::spiffe::SpiffeId;
use lorica_xds::encode;
use lorica_xds::server::Peer;
use tonic::{Extensions, Status};

use super::Hosts;
use crate::claims::Claimant;
use crate::mesh::trust::host_name;
use crate::workload_api::HostWorkloads;

/// Where a client calls from, left behind by its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub IpAddr);

/// The hosts, as the service for hosts asks them.
pub struct Admission {
    hosts: Arc<Hosts>,
    workloads: Arc<HostWorkloads>,
}

impl Admission {
    pub(crate) fn new(hosts: Arc<Hosts>, workloads: Arc<HostWorkloads>) -> Arc<Self> {
        Arc::new(Self { hosts, workloads })
    }

    /// The host that asks, and who it is as a claimant.
    async fn host(&self, connection: &Extensions) -> Result<(Label, Claimant), Status> {
        let (hosts, peer) = (self.hosts.clone(), Peer::of(connection));
        let claimant = blocking(move || hosts.claimant(peer.as_ref())).await?;
        match &claimant {
            Claimant::Host { name, .. } => Ok((name.clone(), claimant)),
            other => Err(Status::permission_denied(format!("{} is no host that joined", other.word()))),
        }
    }

    /// Who watches, and what it is called among those who trust: a host, or the agent of a pod with an SVID of its service account.
    async fn watcher(&self, connection: &Extensions, workload: &str) -> Result<(String, Option<(Label, Claimant)>), Status> {
        let (hosts, peer) = (self.hosts.clone(), Peer::of(connection));
        let asked = peer.clone();
        match (blocking(move || hosts.claimant(asked.as_ref())).await?, peer) {
            (Claimant::Host { name, services }, _) => Ok((host_name(&name), Some((name.clone(), Claimant::Host { name, services })))),
            (Claimant::Workload { .. }, Some(Peer::Remote(id))) if self.hosts.ca.holds(workload, &id, SystemTime::now()) => {
                Ok((workload.to_owned(), None))
            }
            (other, _) => Err(Status::permission_denied(format!("{} is neither a host that joined nor `{workload}`", other.word()))),
        }
    }

    /// What is registered for a host's processes, as far as it may claim that.
    fn registered(&self, host: &Label, claimant: &Claimant) -> Vec<Registered> {
        let mut registered = self.workloads.registered(Some(host));
        registered.retain(|registered| claimant.may_have(&registered.id).is_ok() && !self.hosts.ca.is_revoked(&registered.id, None));
        registered
    }

    /// Lets a host have an identity for one of its processes.
    async fn may_have(&self, connection: &Extensions, id: &SpiffeId) -> Result<Label, Status> {
        let (host, claimant) = self.host(connection).await?;
        let denied = |why: String| {
            tracing::warn!(%host, identity = %id, why, "an identity was refused to a host");
            Status::permission_denied(why)
        };
        claimant.may_have(id).map_err(denied)?;
        if !self.workloads.registered(Some(&host)).iter().any(|registered| registered.id == *id) {
            return Err(denied(format!("no WorkloadIdentity gives {id} to processes of the host {host}")));
        }
        Ok(host)
    }

    fn view(&self, host: Option<&(Label, Claimant)>) -> HostView {
        let bundle = encode::bundle(&self.hosts.mesh.trusted());
        let bundles = self.workloads.bundles();
        let view = HostView {
            version: String::new(),
            bundle_version: bundle.version,
            bundle_type: bundle.body.type_url,
            bundle: bundle.body.value,
            jwks: bundles.own_jwks,
            federated_jwks: bundles.federated_jwks,
            registered: host
                .map_or_else(Vec::new, |(host, claimant)| self.registered(host, claimant))
                .into_iter()
                .map(Into::into)
                .collect(),
        };
        HostView { version: Version::of(&view).to_string(), ..view }
    }
}

impl Admit for Admission {
    async fn join(&self, connection: Extensions, token_id: String, secret: Secret, csr_der: Vec<u8>) -> Result<Admitted, Status> {
        let (hosts, address) = (self.hosts.clone(), connection.get::<Client>().map(|client| client.0));
        blocking(move || {
            let (host, admitted) = hosts.redeem_at(address, &token_id, &secret, &csr_der, SystemTime::now())?;
            tracing::info!(%host, token = token_id, "a host joined");
            Ok(admitted)
        })
        .await
    }

    async fn renew(&self, connection: Extensions, csr_der: Vec<u8>) -> Result<Admitted, Status> {
        let (host, _) = self.host(&connection).await?;
        let hosts = self.hosts.clone();
        blocking(move || hosts.admit(&host, &csr_der, SystemTime::now())).await
    }

    async fn watch(&self, connection: Extensions, known: Known) -> Result<HostView, Status> {
        let mut changes = self.workloads.changes();
        let deadline = tokio::time::Instant::now() + WATCH;
        loop {
            // What changes from here on is waited for no longer.
            changes.mark_unchanged();
            let (name, host) = self.watcher(&connection, &known.workload).await?;
            if !known.bundle_version.is_empty() {
                self.hosts.mesh.agent_trusts(name, known.bundle_version.clone());
            }
            let view = self.view(host.as_ref());
            if view.version != known.version {
                return Ok(view);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Status::unavailable("the control plane ends")),
                Err(_) => return Ok(HostView { version: known.version, ..HostView::default() }),
            }
        }
    }

    async fn sign_svid(&self, connection: Extensions, id: SpiffeId, csr_der: Vec<u8>) -> Result<Vec<CertificateDer<'static>>, Status> {
        let host = self.may_have(&connection, &id).await?;
        let ca = &self.hosts.ca;
        let grant = Grant { lifetime: ca.lifetime(), ..Grant::new(id) };
        let signed = ca.sign_identity(&csr_der, &grant, SystemTime::now());
        let chain = signed.map_err(|error| Status::permission_denied(error.to_string()))?.chain;
        tracing::info!(identity = %grant.id, %host, "an SVID was issued to a process of a host");
        Ok(chain)
    }

    async fn sign_token(&self, connection: Extensions, id: SpiffeId, audience: Vec<String>) -> Result<String, Status> {
        self.may_have(&connection, &id).await?;
        self.workloads.token(&id, &audience).await
    }

    async fn validate_token(&self, connection: Extensions, token: String, audience: String) -> Result<Claims, Status> {
        self.host(&connection).await?;
        self.workloads.validate(&token, &audience).await
    }
}

/// Work that waits for the disk, off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?
}
