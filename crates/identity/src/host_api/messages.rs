//! The messages of the host's calls. Texts and numbers only; who reads them does not trust them.

use lorica_model::process::ProcessAttributes;
use serde::Serialize;

use crate::workload_api::Registered;

/// What a host sends that joins.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JoinRequest {
    /// Which token.
    #[prost(string, tag = "1")]
    pub(super) token_id: String,
    /// Its secret.
    #[prost(string, tag = "2")]
    pub(super) secret: String,
    /// The certificate request, PEM.
    #[prost(string, tag = "3")]
    pub(super) csr: String,
}

/// What a host sends that renews.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RenewRequest {
    /// The certificate request, PEM.
    #[prost(string, tag = "1")]
    pub(super) csr: String,
}

/// What both are answered.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberReply {
    /// The chain, PEM, leaf first, without the root.
    #[prost(string, tag = "1")]
    pub(super) chain: String,
    /// The roots to trust, PEM.
    #[prost(string, tag = "2")]
    pub(super) roots: String,
}

/// What a host knows, so that it is told only what is new.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Known {
    /// The version of the view that it has; empty: none.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The version of the bundle by which it trusts: an acknowledgement, as a proxy gives it on its stream.
    #[prost(string, tag = "2")]
    pub bundle_version: String,
    /// As which workload it has its SVID; empty for a host.
    #[prost(string, tag = "3")]
    pub workload: String,
}

/// What a host is to know.
#[derive(Clone, PartialEq, Eq, Serialize, prost::Message)]
pub struct HostView {
    /// Equal versions say the same. The version that was known: nothing else is told.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The version of the bundle.
    #[prost(string, tag = "2")]
    pub bundle_version: String,
    /// The bundle as xDS has it: the type of the resource …
    #[prost(string, tag = "3")]
    pub bundle_type: String,
    /// … and its bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// The JWKS of the mesh's own trust domain.
    #[prost(string, tag = "5")]
    pub jwks: String,
    /// The JWKS of other trust domains, by their SPIFFE IDs.
    #[prost(btree_map = "string, string", tag = "6")]
    pub federated_jwks: std::collections::BTreeMap<String, String>,
    /// Which process of the host may have which identity.
    #[prost(message, repeated, tag = "7")]
    pub registered: Vec<RegisteredProcess>,
}

/// An identity, and what a process must be to have it.
#[derive(Clone, PartialEq, Eq, Serialize, prost::Message)]
pub struct RegisteredProcess {
    /// The identity.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// Its user.
    #[prost(uint32, optional, tag = "2")]
    pub uid: Option<u32>,
    /// Its group.
    #[prost(uint32, optional, tag = "3")]
    pub gid: Option<u32>,
    /// Its cgroup, or one above it.
    #[prost(string, optional, tag = "4")]
    pub cgroup: Option<String>,
    /// The path of its executable.
    #[prost(string, optional, tag = "5")]
    pub executable: Option<String>,
    /// The SHA-256 of its executable, in lower case hexadecimal.
    #[prost(string, optional, tag = "6")]
    pub sha256: Option<String>,
}

impl From<Registered> for RegisteredProcess {
    fn from(Registered { id, attributes }: Registered) -> Self {
        let ProcessAttributes { uid, gid, cgroup, executable, sha256 } = attributes;
        Self { spiffe_id: id.to_string(), uid, gid, cgroup, executable, sha256 }
    }
}

impl RegisteredProcess {
    /// The registration; none where its identity is none.
    #[must_use]
    pub fn read(self) -> Option<Registered> {
        let Self { spiffe_id, uid, gid, cgroup, executable, sha256 } = self;
        Some(Registered { id: spiffe_id.parse().ok()?, attributes: ProcessAttributes { uid, gid, cgroup, executable, sha256 } })
    }
}

/// A request for an SVID of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SvidRequest {
    /// The identity.
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// The certificate request, PEM.
    #[prost(string, tag = "2")]
    pub(super) csr: String,
}

/// The SVID of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SvidReply {
    /// The chain, PEM, leaf first, without the root.
    #[prost(string, tag = "1")]
    pub(super) chain: String,
}

/// A request for a JWT-SVID of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TokenRequest {
    /// The identity.
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// For whom it is to be.
    #[prost(string, repeated, tag = "2")]
    pub(super) audience: Vec<String>,
}

/// A JWT-SVID.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TokenReply {
    /// The token.
    #[prost(string, tag = "1")]
    pub(super) token: String,
}

/// A JWT-SVID to be validated.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ValidateRequest {
    /// The token.
    #[prost(string, tag = "1")]
    pub(super) token: String,
    /// For whom it must be.
    #[prost(string, tag = "2")]
    pub(super) audience: String,
}

/// What a JWT-SVID says.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ValidateReply {
    /// Whose it is.
    #[prost(string, tag = "1")]
    pub(super) sub: String,
    /// For whom it is.
    #[prost(string, repeated, tag = "2")]
    pub(super) aud: Vec<String>,
    /// Its end, in seconds since 1970.
    #[prost(uint64, tag = "3")]
    pub(super) exp: u64,
    /// When it was made, in seconds since 1970.
    #[prost(uint64, tag = "4")]
    pub(super) iat: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_registration_reads_as_it_was_written() {
        let attributes = ProcessAttributes {
            uid: Some(7),
            gid: Some(0),
            cgroup: Some("/a".to_owned()),
            executable: Some("/usr/bin/recording".to_owned()),
            sha256: Some("ab".to_owned()),
        };
        for attributes in [attributes, ProcessAttributes { uid: Some(0), ..ProcessAttributes::default() }] {
            let registered = Registered { id: "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap(), attributes };
            let sent = prost::Message::encode_to_vec(&RegisteredProcess::from(registered.clone()));
            let read: RegisteredProcess = prost::Message::decode(sent.as_slice()).unwrap();
            assert_eq!(read.read(), Some(registered));
        }
        assert_eq!(RegisteredProcess { spiffe_id: "none".to_owned(), ..RegisteredProcess::default() }.read(), None);
    }
}
