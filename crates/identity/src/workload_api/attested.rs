//! From a process to its identities: what the kernel says of it is held against what is registered for its host.

use std::sync::Arc;

use lorica_model::process::{Process, ProcessAttributes};
use lorica_model::spiffe::SpiffeId;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::attestation::{AttestationError, Hashes, PeerProcess};

/// The most identities of a process: their SVIDs are made for each of its streams.
const MAX_IDENTITIES: usize = 16;
/// The most processes that are looked at at a time: an executable may be large.
const LOOKS: usize = 4;

/// An identity that is registered for processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The identity.
    pub id: SpiffeId,
    /// What a process must be to have it.
    pub attributes: ProcessAttributes,
}

/// Looks at the processes of this host, a few at a time.
#[derive(Debug)]
pub struct Attestor {
    hashes: Arc<Hashes>,
    looks: Semaphore,
}

impl Default for Attestor {
    fn default() -> Self {
        Self { hashes: Arc::default(), looks: Semaphore::new(LOOKS) }
    }
}

impl Attestor {
    /// The identities that a process has of those that are registered, most specific first. Its executable is read only where a registration
    /// asks for its hash.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if none fits, with what the process is, or if it became another meanwhile.
    pub async fn identities(&self, caller: &Arc<PeerProcess>, registered: &[Registered]) -> Result<Vec<SpiffeId>, Status> {
        let hashed = registered.iter().any(|registered| registered.attributes.sha256.is_some());
        let process = self.look(caller, hashed).await?;
        let ids = fitting(registered, &process);
        if ids.is_empty() {
            let unknown = || "unknown".to_owned();
            let (executable, cgroup) = (process.executable.unwrap_or_else(unknown), process.cgroup.unwrap_or_else(unknown));
            return Err(Status::permission_denied(format!(
                "no WorkloadIdentity fits this process: uid {}, gid {}, executable {executable}, cgroup {cgroup}",
                process.uid, process.gid
            )));
        }
        Ok(ids)
    }

    /// What the kernel says of a process now.
    async fn look(&self, caller: &Arc<PeerProcess>, hashed: bool) -> Result<Process, Status> {
        let _one = self.looks.acquire().await.map_err(|_| Status::unavailable("the server ends"))?;
        let (caller, hashes) = (caller.clone(), self.hashes.clone());
        let looked = tokio::task::spawn_blocking(move || caller.look(hashed, &hashes)).await;
        looked.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| match error {
            AttestationError::Io { .. } => Status::internal(error.to_string()),
            AttestationError::Unseen | AttestationError::Ended { .. } | AttestationError::Became { .. } => {
                Status::permission_denied(error.to_string())
            }
        })
    }
}

/// The identities that fit a process, most specific first, each once.
fn fitting(registered: &[Registered], process: &Process) -> Vec<SpiffeId> {
    let mut fitting: Vec<_> = registered
        .iter()
        .filter(|registered| registered.attributes.fit(process))
        .map(|registered| (registered.attributes.specificity(), &registered.id))
        .collect();
    fitting.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.to_string().cmp(&b.to_string())));
    let mut ids = Vec::new();
    for (_, id) in fitting {
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    ids.truncate(MAX_IDENTITIES);
    ids
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn registered(account: &str, attributes: ProcessAttributes) -> Registered {
        Registered { id: format!("spiffe://mesh.local/ns/contact/sa/{account}").parse().unwrap(), attributes }
    }

    #[test]
    fn all_that_fits_is_given_the_most_specific_first_and_each_once() {
        let attributes = ProcessAttributes::default;
        let registered = [
            registered("user", ProcessAttributes { uid: Some(7), ..attributes() }),
            registered("recording", ProcessAttributes { executable: Some("/usr/bin/recording".to_owned()), ..attributes() }),
            registered("recording", ProcessAttributes { uid: Some(7), gid: Some(8), ..attributes() }),
            registered("other", ProcessAttributes { uid: Some(8), ..attributes() }),
        ];
        let process = Process { uid: 7, gid: 8, executable: Some("/usr/bin/recording".to_owned()), ..Process::default() };
        let accounts: Vec<String> = fitting(&registered, &process).iter().map(|id| id.account().unwrap().1.to_owned()).collect();
        assert_eq!(accounts, ["recording", "user"]);
        assert!(fitting(&registered, &Process { uid: 9, gid: 8, ..Process::default() }).is_empty());
    }
}
