//! Why a TLS handshake failed, for people and for metrics: a rustls error in, a [`HandshakeFailure`] out.

use std::io;
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use rustls_pki_types::UnixTime;

use crate::peer::PeerError;

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeFailure {
    /// We refused the peer.
    #[error("{0}")]
    Refused(PeerError),
    /// The peer refused us, or gave up, and said so by an alert.
    #[error("the peer ended the handshake: {}", alert_text(*.0))]
    RefusedByPeer(AlertDescription),
    /// The peer has no TLS 1.3.
    #[error("the peer offers no TLS 1.3, which is the only version taken here")]
    OldVersion,
    /// The two sides have no application protocol in common.
    #[error("the two sides have no application protocol (ALPN) in common")]
    Protocol,
    /// What came is no TLS.
    #[error("what the peer sent is no TLS; is it a plaintext port, or a plaintext client?")]
    NotTls,
    /// The connection ended before the handshake did.
    #[error("the connection ended during the handshake: {0}")]
    Connection(String),
    /// Anything else that TLS says.
    #[error("the handshake failed: {0}")]
    Other(String),
}

impl HandshakeFailure {
    /// Reads an error of rustls.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => certificate(error),
            Error::NoCertificatesPresented => Self::Refused(PeerError::NoCertificate),
            Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::OldVersion,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => Self::Protocol,
            Error::AlertReceived(alert) => Self::RefusedByPeer(*alert),
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::OldVersion,
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => Self::NotTls,
            error => Self::Other(error.to_string()),
        }
    }

    /// Reads an error of an asynchronous handshake, which wraps rustls' own.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of(error),
            None => Self::Connection(error.to_string()),
        }
    }

    /// Whether the peer proved an identity that is not the expected one, rather than none at all.
    #[must_use]
    pub fn is_wrong_identity(&self) -> bool {
        matches!(self, Self::Refused(PeerError::Identity { .. } | PeerError::TrustDomain { .. }))
    }

    /// The word for logs and metric labels, from a closed list.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused(PeerError::NoCertificate) => "no_certificate",
            Self::Refused(PeerError::Expired { .. }) => "expired",
            Self::Refused(PeerError::NotYetValid { .. }) => "not_yet_valid",
            Self::Refused(PeerError::UnknownAuthority { .. }) => "unknown_authority",
            Self::Refused(PeerError::TrustDomain { .. }) => "wrong_trust_domain",
            Self::Refused(PeerError::Identity { .. }) => "wrong_identity",
            Self::Refused(PeerError::Uris { .. } | PeerError::Id(_) | PeerError::MaySign | PeerError::Purpose { .. }) => "no_svid",
            Self::Refused(PeerError::Malformed(_) | PeerError::Chain(_)) => "bad_certificate",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::OldVersion => "old_version",
            Self::Protocol => "no_common_protocol",
            Self::NotTls => "not_tls",
            Self::Connection(_) => "connection_ended",
            Self::Other(_) => "other",
        }
    }
}

fn certificate(error: &CertificateError) -> HandshakeFailure {
    let system = |time: &UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    HandshakeFailure::Refused(match error {
        CertificateError::ExpiredContext { time, not_after } => PeerError::Expired { not_after: system(not_after), now: system(time) },
        CertificateError::NotValidYetContext { time, not_before } => {
            PeerError::NotYetValid { not_before: system(not_before), now: system(time) }
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<PeerError>() {
            Some(error) => error.clone(),
            None => PeerError::Chain(other.to_string()),
        },
        error => PeerError::Chain(error.to_string()),
    })
}

/// What an alert means for whoever reads the log on this side.
fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::CertificateExpired => "it takes this workload's certificate as expired or not yet valid (compare the clocks)",
        AlertDescription::UnknownCA => "it does not know the authority of this workload's certificate",
        AlertDescription::CertificateUnknown | AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "it does not accept this workload's certificate; its log says why"
        }
        AlertDescription::CertificateRequired => "it demands a certificate",
        AlertDescription::AccessDenied => "it denies access",
        AlertDescription::UnrecognisedName => "it does not serve the name that was asked for",
        AlertDescription::HandshakeFailure => "it has no key exchange or signature in common with this side",
        alert => return format!("alert {alert:?}"),
    };
    text.to_owned()
}
