//! What may leave the mesh, as written.

use std::ops::Range;

use super::ObjectRef;
use crate::name::Label;
use crate::snapshot::{EgressCaller, EgressHost};

/// `EgressPolicy`: what workloads may call outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Whose calls it is about; none: those of every workload of its namespace.
    pub targets: Vec<EgressTarget>,
    /// Whether calls that nothing lists are refused. The default: whoever writes a list means it.
    pub denies: bool,
    /// What may be called.
    pub allow: Vec<EgressAllow>,
    /// Whether it is only counted what it would do.
    pub shadow: bool,
}

/// Whose calls an EgressPolicy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressTarget {
    /// Those of the workloads of a service of its namespace.
    Service {
        /// The service's name.
        name: Label,
        /// The place of the name, for diagnostics.
        span: Range<usize>,
    },
    /// Those of every workload of the mesh.
    Mesh,
}

/// What may be called, by whom, and which way it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressAllow {
    /// The hosts; any of them. Never empty.
    pub hosts: Vec<EgressHost>,
    /// The ports; none: all.
    pub ports: Vec<u16>,
    /// Who may; none: all that the policy is about.
    pub callers: Vec<EgressCaller>,
    /// The egress gateway through which it goes; none: directly.
    pub via: Option<ObjectRef>,
}
