//! Kubernetes as a witness: a pod proves its service account to the CA by the token that kubelet gave it. The cluster's keys come from a file or
//! an address, and are looked at again; those that were read last hold until newer ones are there.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use lorica_identity::jwt::MAX_KEY_SET;
use lorica_identity::service_account::{ServiceAccount, ServiceAccountVerifier};
use lorica_model::resource::KeySource;
use tonic::Status;

use crate::key_sets::fetch;

/// How often a file of keys is read again.
const REREAD: Duration = Duration::from_secs(60);
/// How long until an address that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(10);

/// A cluster whose service accounts are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// What the claim `aud` must name.
    pub audience: String,
    /// Where its keys are.
    pub keys: ClusterKeys,
}

/// Where the keys of a cluster are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterKeys {
    /// In a file with a JWK Set.
    File(PathBuf),
    /// At an address, by HTTPS.
    Url(KeySource),
}

/// The service accounts of a cluster.
#[derive(Debug)]
pub struct ServiceAccounts {
    config: KubernetesConfig,
    /// None: the keys could not be fetched yet.
    verifier: RwLock<Option<Arc<ServiceAccountVerifier>>>,
}

impl ServiceAccounts {
    /// Those of a cluster. Its file is read, its address is asked later.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(config: KubernetesConfig) -> anyhow::Result<Arc<Self>> {
        let own = Self { config, verifier: RwLock::default() };
        if let ClusterKeys::File(file) = &own.config.keys {
            let keys = read(file).with_context(|| format!("--kubernetes-keys {}", file.display()))?;
            own.take(&keys).with_context(|| format!("--kubernetes-keys {}", file.display()))?;
        }
        Ok(Arc::new(own))
    }

    /// The account that a token proves at `now`.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it proves none, `UNAVAILABLE` if the cluster's keys are not known yet.
    pub fn account(&self, token: &str, now: SystemTime) -> Result<ServiceAccount, Status> {
        let verifier = self.verifier.read().unwrap_or_else(PoisonError::into_inner).clone();
        let verifier = verifier.ok_or_else(|| Status::unavailable("the keys of the Kubernetes cluster could not be fetched yet"))?;
        verifier.verify(token, now).map_err(|error| {
            tracing::warn!(%error, "a service-account token was refused");
            Status::unauthenticated(format!("the service-account token is refused: {error}"))
        })
    }

    /// Keeps the keys fresh, for ever.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let (read, refresh) = match &self.config.keys {
                ClusterKeys::File(file) => {
                    tokio::time::sleep(REREAD).await;
                    (read(file).map(Into::into).map_err(|error| error.to_string()), Duration::ZERO)
                }
                ClusterKeys::Url(source) => (fetch::key_set(source).await.map_err(|error| error.to_string()), source.refresh),
            };
            let taken = read.and_then(|keys| self.take(&keys).map_err(|error| error.to_string()));
            let pause = match taken {
                Ok(()) => refresh,
                Err(error) => {
                    tracing::warn!(error, "the keys of the Kubernetes cluster could not be read; those from before hold");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn take(&self, keys: &str) -> Result<(), lorica_identity::jwt::KeyError> {
        let verifier = ServiceAccountVerifier::new(&self.config.issuer, &self.config.audience, keys)?;
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(verifier));
        Ok(())
    }
}

fn read(file: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let most = u64::try_from(MAX_KEY_SET).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(file)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}
