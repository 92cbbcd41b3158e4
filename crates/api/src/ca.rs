//! The CA over the API: `GET /v1/ca`, and what is asked of it by `POST`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::views::Receipt;

/// How the CA stands: `GET /v1/ca`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// Whose identities it issues.
    pub trust_domain: String,
    /// The roots that the mesh trusts, the one that SVIDs come from first.
    pub roots: Vec<RootStatus>,
    /// The begin of the intermediate's life, RFC 3339.
    pub intermediate_not_before: String,
    /// The end of the intermediate's life, RFC 3339.
    pub intermediate_not_after: String,
    /// How long an SVID holds, in seconds.
    pub svid_lifetime_seconds: u64,
    /// Where the newest rotation stands: `distributing`, `issuing`, `withdrawing` or `done`; none: the root was never rotated.
    pub phase: Option<String>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// Whether it leads back to the root from before.
    pub rolled_back: bool,
    /// How many workloads this phase concerns.
    pub concerned: usize,
    /// How many of them have done their part.
    pub acknowledged: usize,
    /// Those that have not.
    pub held_up_by: Vec<HeldUp>,
    /// Those that are not waited for.
    pub waived: Vec<String>,
    /// Until when other meshes have time to fetch the new root, RFC 3339; none: nothing waits for them.
    #[serde(default)]
    pub distributes_until: Option<String>,
    /// When the old root is withdrawn at the earliest, RFC 3339; none while SVIDs still come from it.
    pub withdraws_at: Option<String>,
    /// Who is revoked, the latest first.
    #[serde(default)]
    pub revocations: Vec<RevocationStatus>,
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationStatus {
    /// A workload, `NAME.NAMESPACE`, or a SPIFFE ID.
    pub subject: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// Since when, RFC 3339.
    pub at: String,
    /// Whether proxies hold it, as a certificate that it concerns may hold. The CA refuses one in any case.
    pub held_by_proxies: bool,
    /// When the last of these certificates has ended, RFC 3339; none: another mesh signs them.
    pub until: Option<String>,
}

/// What is to be revoked or reinstated: `POST /v1/ca/revoke?wait=30s`, `POST /v1/ca/reinstate?wait=30s`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// A workload, `NAME.NAMESPACE`, or a SPIFFE ID.
    pub subject: String,
    /// Why, 200 characters at most.
    #[serde(default)]
    pub reason: String,
}

/// What became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevokeReply {
    /// Which proxies hold to it; none: nothing was to be told, as no certificate that it concerns may hold any more.
    pub receipt: Option<Receipt>,
    /// Connected proxies that cannot be told of revocations.
    pub without: Vec<String>,
}

/// A root that the mesh trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    /// The SHA-256 of its certificate, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// Whether SVIDs come from it.
    pub issuing: bool,
    /// The end of its life, RFC 3339.
    pub not_after: String,
    /// Whether its key is at the control plane.
    pub key_here: bool,
}

/// A workload that holds a rotation up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// Its name.
    pub workload: String,
    /// Whether its proxy is connected.
    pub connected: bool,
    /// The end of its newest SVID, RFC 3339: nobody waits for longer. None where it has none.
    pub svid_not_after: Option<String>,
}

/// The newest certificate of each workload: `GET /v1/ca/svids`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidList {
    /// By the workload's name; those that are over are left out, and those of workloads that ended in order.
    pub svids: Vec<SvidStatus>,
}

/// The newest certificate of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidStatus {
    /// The workload.
    pub workload: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// The begin of its life, RFC 3339.
    pub not_before: String,
    /// The end of its life, RFC 3339.
    pub not_after: String,
}

/// A root that a user brings, with what signs below it: `POST /v1/ca/rotate`. All in PEM.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct RotateRequest {
    /// The root certificate; without it a root is made.
    pub root_certificate: Option<String>,
    /// Its key.
    pub root_key: Option<String>,
    /// An intermediate.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

impl fmt::Debug for RotateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateRequest")
            .field("root_certificate", &self.root_certificate)
            .field("keys", &"[redacted]")
            .finish_non_exhaustive()
    }
}

/// A workload or host that is not waited for: `POST /v1/ca/waive`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaiveRequest {
    /// Its name, as the status has it: `recording-7f3a2c.contact`, `host/web-1`.
    pub workload: String,
}

/// The key of a root: the answer of `POST /v1/ca/root-key/export`.
#[derive(Clone, Serialize, Deserialize)]
pub struct RootKey {
    /// The root, by the SHA-256 of its certificate.
    pub root: String,
    /// The root certificate, PEM.
    pub certificate: String,
    /// The key, PEM.
    pub key: String,
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKey").field("root", &self.root).field("key", &"[redacted]").finish_non_exhaustive()
    }
}

/// That the key of a root is kept elsewhere now: `POST /v1/ca/root-key/forget`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgetRootKey {
    /// The root, by the SHA-256 of its certificate.
    pub root: String,
}

/// A certificate or a request for one, in PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pem {
    /// The text.
    pub pem: String,
}
