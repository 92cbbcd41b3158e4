//! Whose identities of another trust domain are verified, and against which roots, as written.

use std::ops::Range;
use std::sync::Arc;

use crate::spiffe::{SpiffeId, TrustDomain};
use crate::spiffe_bundle::SpiffeBundle;

/// `TrustBundle`: the roots and keys of another trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// Where that stands, for diagnostics.
    pub trust_domain_span: Range<usize>,
    /// The bundle that is written here; there is one where nothing is fetched, and to begin with by [`EndpointProfile::Spiffe`].
    pub written: Option<Arc<SpiffeBundle>>,
    /// Where that stands, for diagnostics.
    pub written_span: Range<usize>,
    /// Where the bundle is fetched; none: nowhere.
    pub endpoint: Option<BundleEndpoint>,
}

/// A SPIFFE bundle endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// `https://…`
    pub url: String,
    /// How its server proves who it is.
    pub profile: EndpointProfile,
    /// Whether the host may have an address that is not of the public internet.
    pub allow_private: bool,
}

/// How the server of a bundle endpoint proves who it is (SPIFFE Federation, 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointProfile {
    /// `https_web`: by a certificate of the web for its host.
    Web,
    /// `https_spiffe`: by an SVID of this identity, verified by the bundle that is known already.
    Spiffe(SpiffeId),
}
