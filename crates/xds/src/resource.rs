//! One resource as it is sent: kind, name, version, bytes.

use std::fmt;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use crate::Kind;

/// One resource as it is sent.
#[derive(Clone, PartialEq)]
pub struct Resource {
    /// Its type.
    pub kind: Kind,
    /// Its name among its type.
    pub name: String,
    /// The version of the unit or endpoint set that it says. Equal versions say the same.
    pub version: String,
    /// The message.
    pub body: Any,
}

impl Resource {
    pub(crate) fn new<M: Message + Name>(kind: Kind, name: impl Into<String>, version: impl fmt::Display, message: &M) -> Self {
        Self { kind, name: name.into(), version: version.to_string(), body: pack(message) }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} version {} ({} bytes)", self.kind, self.name, self.version, self.body.value.len())
    }
}

/// `message` with its type.
pub(crate) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
