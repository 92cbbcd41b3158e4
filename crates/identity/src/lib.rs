//! Identity: a certificate request goes in, an SVID comes out; an SVID and a trust bundle go in, TLS
//! configurations come out that let exactly the intended peers talk to each other.
//!
//! | module | noun |
//! | --- | --- |
//! | [`authority`] | the embedded CA: root, intermediate, signing |
//! | [`intermediate`] | intermediates: made here, asked for, signed where the root's key is offline |
//! | [`root_rotation`] | from one root to another, in phases that every proxy acknowledges |
//! | [`request`] | a certificate request, of which nothing but the public key is believed |
//! | [`bundle`] | the roots that trust domains are verified against |
//! | [`edge`] | TLS at a gateway's edge, with certificates and roots that a user gave |
//! | [`revocation_list`] | lists of revoked certificates, for peers that know of nothing else |
//! | [`secrets`] | what is wrong with certificates that users write into Secrets |
//! | [`facts`] | what the CA says about a workload inside its SVID |
//! | [`svid`] | a workload's key and certificate chain |
//! | [`rotation`] | when to renew, how long to wait after a failure |
//! | [`peer`] | who the other side of a connection proved to be, and why it was refused |
//! | [`tls`] | TLS epochs: rustls configurations made of one SVID and one bundle |
//! | [`handshake`] | a failed handshake as a reason that people can act on |
//! | [`files`] | SVID and bundle on disk, so that a proxy starts without a control plane |
//! | [`jwt`] | tokens of users and programs, and the keys that they are verified with |
//! | [`digest`] | digests, among them one for a protocol that proves nothing by it |
//! | [`join_token`] | what a new host needs to join, in one line |
//! | [`door`] | TLS at the control plane's TCP door |
//! | [`explain_token`] | leave to have a request recorded in full |
//! | [`host_api`] | the calls by which a host joins and stays |
//! | [`service_account`] | accounts of Kubernetes, and the tokens that prove them |
//! | [`jwt_svid`] | the keys that sign JWT-SVIDs |
//! | [`federation`] | bundles of trust domains: written for others, taken of others, and the TLS of their endpoints |
//! | [`attestation`] | what the kernel says of the process behind a Unix socket |
//! | [`workload_api`] | the SPIFFE Workload API, by which any program gets its identity |
//! | [`ca_api`] | the gRPC call that carries a request to the CA |
//!
//! Every decision takes the time as an argument; nothing here reads a clock, except a TLS handshake through
//! the time source of its epoch, and the streams of [`workload_api`]. rustls configurations are built in this crate alone. It knows
//! nothing of HTTP, xDS, routes or policies (the gRPC of [`ca_api`], [`host_api`] and [`workload_api`] is the one exception), and opens no socket.

pub mod attestation;
pub mod authority;
pub mod bundle;
pub mod ca_api;
pub mod digest;
pub mod door;
pub mod edge;
pub mod explain_token;
pub mod facts;
pub mod federation;
pub mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod handshake;
pub mod host_api;
pub mod intermediate;
pub mod join_token;
pub mod jwt;
pub mod jwt_svid;
pub mod peer;
pub mod request;
pub mod revocation_list;
pub mod root_rotation;
pub mod rotation;
pub mod secrets;
pub mod service_account;
pub mod svid;
pub mod tls;
pub mod workload_api;

mod certificate;
mod der;
mod pem;
mod signing;
mod verify;

pub use authority::{Authority, AuthorityError, AuthorityRecord, Grant, Renewal, SignError};
pub use bundle::{Bundle, BundleError};
pub use facts::{FactsError, WorkloadFacts};
pub use handshake::HandshakeFailure;
pub use peer::{AcceptedIdentities, PeerError, PeerIdentity, peer_identity};
pub use pem::SecretPem;
pub use rustls_pki_types::CertificateDer;
pub use svid::{KeyPair, Svid, SvidError};
pub use tls::TlsEpoch;
