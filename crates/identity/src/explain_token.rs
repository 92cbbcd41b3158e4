//! Leave to have a request recorded in full by every proxy that it passes: the control plane signs it, proxies verify it.
//!
//! It is a certificate of the mesh's CA for an identity that nobody has, as its key is thrown away, and holds for a minute. So proxies verify it as
//! they verify every peer, against the roots that they trust already, through every rotation of these; and who can read one may do nothing with it but
//! have requests recorded. As text: the certificates in DER, base64url, leaf first, joined by dots.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_model::name::Label;
use lorica_model::spiffe::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authority::{Authority, Grant, SignError};
use crate::peer::PeerError;
use crate::svid::{KeyPair, SvidError};
use crate::tls::{TlsEpoch, provider};
use crate::verify::{Role, verify};

/// How long one holds.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// The longest that is looked at, in bytes.
pub const LONGEST: usize = 8 * 1024;
/// The most certificates of a chain: a leaf, and intermediates of a CA that a user brought.
const MOST_CERTIFICATES: usize = 4;

/// Why none was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no key to ask with.
    #[error(transparent)]
    Key(#[from] SvidError),
    /// The CA does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Under what requests are recorded.
    pub id: Label,
    /// Until when.
    pub until: SystemTime,
}

/// Why a token is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It is over.
    Expired,
    /// The CA of this mesh did not sign it, or it is no token at all.
    False,
}

impl NotTaken {
    /// The word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::False => "false",
        }
    }
}

/// Makes one.
///
/// # Errors
/// If there is no key, or the CA does not sign.
pub fn sign(authority: &Authority, id: &Label, now: SystemTime) -> Result<String, TokenError> {
    let identity = SpiffeId::of_explanation(authority.trust_domain(), id);
    let request = KeyPair::generate()?.request(&identity)?;
    let grant = Grant { lifetime: LIFETIME, ..Grant::new(identity) };
    let chain = authority.sign(&request, &grant, now)?;
    Ok(chain.iter().map(|certificate| URL_SAFE_NO_PAD.encode(certificate)).collect::<Vec<_>>().join("."))
}

/// Reads one, as a proxy of this epoch.
///
/// # Errors
/// Why it is none.
pub fn read(epoch: &TlsEpoch, token: &[u8], now: SystemTime) -> Result<Explanation, NotTaken> {
    if token.len() > LONGEST || token.iter().filter(|byte| **byte == b'.').count() >= MOST_CERTIFICATES {
        return Err(NotTaken::False);
    }
    let decoded = |part| URL_SAFE_NO_PAD.decode(part).map(CertificateDer::from).map_err(|_| NotTaken::False);
    let chain = token.split(|byte| *byte == b'.').map(decoded).collect::<Result<Vec<_>, _>>()?;
    let (leaf, intermediates) = chain.split_first().ok_or(NotTaken::False)?;
    let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let peer = verify(epoch.bundle(), provider(), leaf, intermediates, time, Role::Client).map_err(|error| match error {
        PeerError::Expired { .. } => NotTaken::Expired,
        _ => NotTaken::False,
    })?;
    // Another mesh that this one is federated with has no say here.
    let id = peer.id.explanation().filter(|_| peer.id.trust_domain() == epoch.bundle().trust_domain()).ok_or(NotTaken::False)?;
    Ok(Explanation { id, until: peer.not_after })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use lorica_model::spiffe::TrustDomain;

    use super::*;
    use crate::svid::Svid;

    fn authority(now: SystemTime) -> Authority {
        Authority::create(TrustDomain::new("mesh.local").unwrap(), now).unwrap()
    }

    fn epoch(authority: &Authority, now: SystemTime) -> (Arc<TlsEpoch>, Svid) {
        let id: SpiffeId = "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap();
        let signed = || {
            let key = KeyPair::generate().unwrap();
            let chain = authority.sign(&key.request(&id).unwrap(), &Grant::new(id.clone()), now).unwrap();
            Svid::new(&chain, key).unwrap()
        };
        (TlsEpoch::new(Arc::new(signed()), Arc::new(authority.bundle().clone())).unwrap(), signed())
    }

    #[test]
    fn a_token_is_taken_for_a_minute_and_in_its_own_mesh_alone() {
        let now = SystemTime::now();
        let (own, other) = (authority(now), authority(now));
        let (epoch, svid) = epoch(&own, now);
        let id = Label::new("7f3a2c").unwrap();
        let token = sign(&own, &id, now).unwrap();
        let taken = |token: &str, seconds| read(&epoch, token.as_bytes(), now + Duration::from_secs(seconds));
        let read = taken(&token, 0).unwrap();
        assert_eq!(read.id, id);
        assert!(read.until <= now + LIFETIME);
        assert!(taken(&token, 58).is_ok());
        assert_eq!(taken(&token, 61), Err(NotTaken::Expired));
        // A CA of the same name.
        assert_eq!(taken(&sign(&other, &id, now).unwrap(), 0), Err(NotTaken::False));
        // What the CA signed for somebody else.
        let svid = svid.chain().iter().map(|certificate| URL_SAFE_NO_PAD.encode(certificate)).collect::<Vec<_>>().join(".");
        assert_eq!(taken(&svid, 0), Err(NotTaken::False));
        for nonsense in ["", ".", "a", "....", &token[1..], &"A".repeat(LONGEST + 1)] {
            assert_eq!(taken(nonsense, 0), Err(NotTaken::False), "{nonsense}");
        }
    }
}
