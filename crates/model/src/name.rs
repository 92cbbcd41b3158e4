//! Names of the mesh: in as text, out as checked values; nothing behind this file checks a name again.
//!
//! A name is a DNS label (lower case letters, digits, hyphens, at most 63 bytes), because every one of them
//! becomes part of a host name, a SPIFFE ID, a metric label or a file name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The DNS suffix of every service of the mesh.
pub const SUFFIX: &str = "mesh";

/// The namespace of whatever names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Why a text is no name. Says what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is no name: {why}")]
pub struct NameError {
    /// The text as written.
    pub written: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// One DNS label: `recording`, `contact`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// Checks `text` as a label.
    ///
    /// # Errors
    /// Says which rule of DNS labels (RFC 1123) the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fail = |why| Err(NameError { written: text.to_owned(), why });
        match text.as_bytes() {
            [] => fail("it is empty"),
            bytes if bytes.len() > 63 => fail("a name has at most 63 characters"),
            bytes if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') => {
                fail("a name has only lower case letters, digits and hyphens")
            }
            [b'-', ..] | [.., b'-'] => fail("a name neither begins nor ends with a hyphen"),
            _ => Ok(Self(text.into())),
        }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_type {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_type;

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Label {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}
impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}
text_type!(Label);

/// A namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Label);

impl Namespace {
    /// Checks `text` as the name of a namespace.
    ///
    /// # Errors
    /// As [`Label::new`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        Label::new(text).map(Self)
    }

    /// The namespace as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}
impl Default for Namespace {
    fn default() -> Self {
        Self(Label(DEFAULT_NAMESPACE.into()))
    }
}
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl FromStr for Namespace {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}
text_type!(Namespace);

/// A name in a namespace: `recording.contact`. Written without one, the namespace is `default`.
macro_rules! namespaced {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type {
            /// The namespace it is in.
            pub namespace: Namespace,
            /// Its name there.
            pub name: Label,
        }
        impl $type {
            /// Puts a checked name into a namespace.
            #[must_use]
            pub fn new(namespace: Namespace, name: Label) -> Self {
                Self { namespace, name }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.name, self.namespace)
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            /// Reads `NAME` or `NAME.NAMESPACE`.
            fn from_str(text: &str) -> Result<Self, NameError> {
                match text.split_once('.') {
                    None => Ok(Self::new(Namespace::default(), Label::new(text)?)),
                    Some((name, namespace)) => Ok(Self::new(Namespace::new(namespace)?, Label::new(name)?)),
                }
            }
        }
        text_type!($type);
    };
}

namespaced! {
    /// The name of a service: `recording.contact`.
    ServiceName
}
namespaced! {
    /// The name of a workload: `recording-7f3a2c.contact`. It is the `Node.id` of the workload's proxy.
    WorkloadName
}

namespaced! {
    /// The name of a gateway: `edge.shop`.
    GatewayName
}

namespaced! {
    /// The name of a Secret: `shop-certificate.shop`. For Envoy it is the name of a resource of its own.
    SecretName
}

impl ServiceName {
    /// The fully qualified name: `recording.contact.mesh`.
    #[must_use]
    pub fn fqdn(&self) -> String {
        format!("{}.{}.{SUFFIX}", self.name, self.namespace)
    }

    /// Reads `recording.contact.mesh`; `None` for a name outside the mesh.
    #[must_use]
    pub fn from_fqdn(text: &str) -> Option<Self> {
        text.strip_suffix(SUFFIX)?.strip_suffix('.').filter(|rest| rest.contains('.'))?.parse().ok()
    }
}

/// A port of a service: what an app calls, and the key of an outbound unit. As text `recording.contact.mesh:80`,
/// which is the name of its listener, route, cluster and endpoints in xDS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The service.
    pub service: ServiceName,
    /// The port that callers use.
    pub port: u16,
}

impl ServicePort {
    /// The SNI that callers send for this port: `80.recording.contact.mesh`.
    #[must_use]
    pub fn sni(&self) -> String {
        format!("{}.{}", self.port, self.service.fqdn())
    }
}
impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{SUFFIX}:{}", self.service.name, self.service.namespace, self.port)
    }
}
impl FromStr for ServicePort {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fail = |why| NameError { written: text.to_owned(), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fail("a service port reads NAME.NAMESPACE.mesh:PORT"))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| fail("its port is no number from 1 to 65535"))?;
        let service = ServiceName::from_fqdn(host).ok_or_else(|| fail("a service port reads NAME.NAMESPACE.mesh:PORT"))?;
        Ok(Self { service, port })
    }
}
text_type!(ServicePort);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_read_back_as_written() {
        let service: ServiceName = "recording.contact".parse().unwrap();
        assert_eq!(service.fqdn(), "recording.contact.mesh");
        assert_eq!(ServiceName::from_fqdn("recording.contact.mesh"), Some(service.clone()));
        assert_eq!("recording".parse::<ServiceName>().unwrap().to_string(), "recording.default");
        let port: ServicePort = "recording.contact.mesh:80".parse().unwrap();
        assert_eq!(port, ServicePort { service, port: 80 });
        assert_eq!(port.sni(), "80.recording.contact.mesh");
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_text() {
        for bad in ["", "-a", "a-", "A", "a_b", "a.b.c", &"a".repeat(64)] {
            let error = bad.parse::<ServiceName>().unwrap_err();
            assert!(bad.contains(&error.written), "{error}");
        }
        for bad in ["recording.mesh", "mesh", "recording.contact", "recording.contact.meshed", "a.b.c.mesh", ".mesh"] {
            assert_eq!(ServiceName::from_fqdn(bad), None, "{bad}");
        }
        for bad in ["recording.contact.mesh", "recording.contact.mesh:0", "recording.contact.mesh:65536", "x:80"] {
            bad.parse::<ServicePort>().unwrap_err();
        }
    }
}
