//! SPIFFE identities: in as URIs, out as checked values.
//!
//! The mesh issues `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT` to workloads, and `/lorica/control` and
//! `/lorica/host/NAME` to its own parts; it reads any SPIFFE ID, as peers of other meshes may have others.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{Label, Namespace, text_type};

/// The trust domain of a mesh that names none.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";

/// Why a text is no SPIFFE ID. Says what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is no {what}: {why}")]
pub struct SpiffeError {
    /// The text as written.
    pub written: String,
    /// `SPIFFE ID` or `trust domain`.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The root of trust that an identity belongs to: `mesh.local`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks `text` as a trust domain (SPIFFE-ID section 2.1).
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, SpiffeError> {
        let fail = |why| Err(SpiffeError { written: text.to_owned(), what: "trust domain", why });
        if text.is_empty() || text.len() > 255 {
            return fail("it has 1 to 255 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')) {
            return fail("it has only lower case letters, digits, dots, hyphens and underscores");
        }
        Ok(Self(text.into()))
    }

    /// The trust domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of a trust domain itself, which signing certificates carry: `spiffe://mesh.local`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}
impl Default for TrustDomain {
    fn default() -> Self {
        Self(DEFAULT_TRUST_DOMAIN.into())
    }
}
impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for TrustDomain {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::new(text)
    }
}
text_type!(TrustDomain);

/// A SPIFFE ID with a path: `spiffe://mesh.local/ns/contact/sa/recording`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Begins with a slash.
    path: Arc<str>,
}

impl SpiffeId {
    /// The identity of the workloads that run under `account` in `namespace`.
    #[must_use]
    pub fn of_account(trust_domain: &TrustDomain, namespace: &Namespace, account: &Label) -> Self {
        Self { trust_domain: trust_domain.clone(), path: format!("/ns/{namespace}/sa/{account}").into() }
    }

    /// The identity of the control plane.
    #[must_use]
    pub fn of_control_plane(trust_domain: &TrustDomain) -> Self {
        Self { trust_domain: trust_domain.clone(), path: "/lorica/control".into() }
    }

    /// The identity of a host that joined.
    #[must_use]
    pub fn of_host(trust_domain: &TrustDomain, host: &Label) -> Self {
        Self { trust_domain: trust_domain.clone(), path: format!("/lorica/host/{host}").into() }
    }

    /// The host, where the path is `/lorica/host/NAME`.
    #[must_use]
    pub fn host(&self) -> Option<Label> {
        Label::new(self.path.strip_prefix("/lorica/host/")?).ok()
    }

    /// What the CA signs so that a request is explained. Nobody has the key to it: it is a statement, and no identity of anybody.
    #[must_use]
    pub fn of_explanation(trust_domain: &TrustDomain, id: &Label) -> Self {
        Self { trust_domain: trust_domain.clone(), path: format!("/lorica/explain/{id}").into() }
    }

    /// The explanation, where the path is `/lorica/explain/ID`.
    #[must_use]
    pub fn explanation(&self) -> Option<Label> {
        Label::new(self.path.strip_prefix("/lorica/explain/")?).ok()
    }

    /// The trust domain it belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Namespace and account, where the path is `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn account(&self) -> Option<(&str, &str)> {
        self.path.strip_prefix("/ns/")?.split_once("/sa/").filter(|(namespace, account)| !namespace.contains('/') && !account.contains('/'))
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}
impl FromStr for SpiffeId {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let fail = |why| SpiffeError { written: text.to_owned(), what: "SPIFFE ID", why };
        if text.len() > 2048 {
            return Err(fail("it has at most 2048 bytes"));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| fail("it begins with spiffe://"))?;
        let slash = rest.find('/').ok_or_else(|| fail("it has a path"))?;
        let (trust_domain, path) = rest.split_at(slash);
        let trust_domain = TrustDomain::new(trust_domain).map_err(|error| fail(error.why))?;
        for segment in path.split('/').skip(1) {
            if segment.is_empty() || segment == "." || segment == ".." {
                return Err(fail("no part of its path is empty, `.` or `..`"));
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
                return Err(fail("its path has only letters, digits, dots, hyphens and underscores"));
            }
        }
        Ok(Self { trust_domain, path: path.into() })
    }
}
text_type!(SpiffeId);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_account_has_one_identity() {
        let id = SpiffeId::of_account(&TrustDomain::default(), &Namespace::new("contact").unwrap(), &Label::new("recording").unwrap());
        assert_eq!(id.to_string(), "spiffe://mesh.local/ns/contact/sa/recording");
        assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        assert_eq!(id.account(), Some(("contact", "recording")));
    }

    #[test]
    fn a_host_has_one_identity() {
        let host = Label::new("web-1").unwrap();
        let id = SpiffeId::of_host(&TrustDomain::default(), &host);
        assert_eq!((id.to_string().as_str(), id.host(), id.account()), ("spiffe://mesh.local/lorica/host/web-1", Some(host), None));
        assert_eq!(SpiffeId::of_control_plane(&TrustDomain::default()).host(), None);
    }

    #[test]
    fn what_is_no_spiffe_id_is_refused() {
        for bad in [
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "http://a/b",
            "spiffe://A/b",
            "spiffe://a/b%20",
            "spiffe://a/b?c",
            "spiffe://a:1/b",
        ] {
            bad.parse::<SpiffeId>().unwrap_err();
        }
    }
}
