//! Names of the mesh: in as text, out as checked values; nothing behind this file checks a name again.
//!
//! A name is a DNS label (lower case letters, digits, hyphens, at most 63 bytes), because every one of them
//! becomes part of a host name, a SPIFFE ID, a metric label or a file name. Only resources that nobody looks up (routes, gateways,
//! certificates) may have longer names, with dots, as they may in Kubernetes.

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

/// Why a text cannot stand between dots.
fn unfit(text: &[u8]) -> Option<&'static str> {
    match text {
        [] => Some("it is empty"),
        bytes if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') => {
            Some("a name has only lower case letters, digits and hyphens")
        }
        [b'-', ..] | [.., b'-'] => Some("a name neither begins nor ends with a hyphen"),
        _ => None,
    }
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
        let long = (text.len() > 63).then_some("a name has at most 63 characters");
        match long.or_else(|| unfit(text.as_bytes())) {
            Some(why) => Err(NameError { written: text.to_owned(), why }),
            None => Ok(Self(text.into())),
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

/// The name of a resource: words as in labels, but of any length, with dots between them, at most 253 bytes (Kubernetes' subdomain).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    /// Checks `text` as the name of a resource.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fail = |why| Err(NameError { written: text.to_owned(), why });
        if text.len() > 253 {
            return fail("a name has at most 253 characters");
        }
        match text.split('.').find_map(|word| unfit(word.as_bytes())) {
            None => Ok(Self(text.into())),
            Some(why) => fail(why),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as one label; none where it has dots, or is too long for one.
    #[must_use]
    pub fn label(&self) -> Option<Label> {
        Label::new(&self.0).ok()
    }
}

impl From<Label> for ObjectName {
    fn from(label: Label) -> Self {
        Self(label.0)
    }
}
impl PartialEq<Label> for ObjectName {
    fn eq(&self, label: &Label) -> bool {
        self.0 == label.0
    }
}
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for ObjectName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}
text_type!(ObjectName);

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
    ($(#[$doc:meta])* $type:ident, $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type {
            /// The namespace it is in.
            pub namespace: Namespace,
            /// Its name there.
            pub name: $name,
        }
        impl $type {
            /// Puts a checked name into a namespace.
            #[must_use]
            pub fn new(namespace: Namespace, name: $name) -> Self {
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
                match text.rsplit_once('.') {
                    None => Ok(Self::new(Namespace::default(), $name::new(text)?)),
                    Some((name, namespace)) => Ok(Self::new(Namespace::new(namespace)?, $name::new(name)?)),
                }
            }
        }
        text_type!($type);
    };
}

namespaced! {
    /// The name of a service: `recording.contact`.
    ServiceName, Label
}
namespaced! {
    /// The name of a workload: `recording-7f3a2c.contact`. It is the `Node.id` of the workload's proxy.
    WorkloadName, Label
}

namespaced! {
    /// The name of a gateway: `edge.shop`.
    GatewayName, ObjectName
}

impl GatewayName {
    /// The account under which its proxies run: its name, or where that is no label the start of it with a number that tells it from others.
    #[must_use]
    pub fn account(&self) -> Label {
        self.name.label().unwrap_or_else(|| {
            let name = self.name.as_str();
            // FNV-1a.
            let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            let start: String = name.replace('.', "-").chars().take(54).collect();
            Label(format!("{}-{hash:08x}", start.trim_end_matches('-')).into())
        })
    }
}

namespaced! {
    /// The name of a Secret: `shop-certificate.shop`. For Envoy it is the name of a resource of its own.
    SecretName, ObjectName
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
    fn resources_may_have_dots_in_their_names() {
        let long = &"a".repeat(253);
        for good in ["web", "web.v1", long] {
            assert_eq!(ObjectName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.", ".a", "a..b", "A.b", &format!("{long}a")] {
            ObjectName::new(bad).unwrap_err();
        }
        let gateway: GatewayName = "edge.v1.shop".parse().unwrap();
        assert_eq!((gateway.name.as_str(), gateway.namespace.as_str()), ("edge.v1", "shop"));
        assert_eq!((gateway.to_string(), gateway.name.label()), ("edge.v1.shop".to_owned(), None));
        let account = gateway.account();
        assert_eq!(Label::new(account.as_str()), Ok(account.clone()));
        assert_ne!(account, "edge-v1.shop".parse::<GatewayName>().unwrap().account());
        assert_eq!("edge.shop".parse::<GatewayName>().unwrap().account().as_str(), "edge");
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
