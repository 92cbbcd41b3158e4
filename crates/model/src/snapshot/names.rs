//! The names of a namespace, which every proxy has unasked: what DNS answers, and which service an address means.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::name::{Label, Namespace};

/// The services of one namespace and their virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameTable {
    /// The namespace.
    pub namespace: Namespace,
    /// One record a service, ordered by name.
    pub records: Vec<NameRecord>,
}

/// A service and its virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// The service's name in the namespace.
    pub name: Label,
    /// Its address in 240.0.0.0/12.
    pub v4: Ipv4Addr,
    /// Its address in the mesh's ULA range.
    pub v6: Ipv6Addr,
}
