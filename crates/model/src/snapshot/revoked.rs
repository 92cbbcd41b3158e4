//! Who is revoked: identities and workloads whose certificates are refused although they hold.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::name::WorkloadName;
use crate::spiffe::SpiffeId;

/// The most names that a proxy takes: a control plane gives fewer.
pub const MOST_REVOKED: usize = 10_000;

/// Who is revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Whoever has one of these identities.
    #[serde(default)]
    pub identities: BTreeSet<SpiffeId>,
    /// These workloads, whatever their identity: the CA names the workload in the certificate.
    #[serde(default)]
    pub workloads: BTreeSet<WorkloadName>,
}

impl Revoked {
    /// Whether who proved this identity is revoked. `workload`: as its certificate names it.
    #[must_use]
    pub fn is_revoked(&self, identity: &SpiffeId, workload: Option<&WorkloadName>) -> bool {
        self.identities.contains(identity) || workload.is_some_and(|workload| self.workloads.contains(workload))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.identities.len() + self.workloads.len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
