//! Which processes of a host may have which identity, as written.

use crate::name::Label;
use crate::process::ProcessAttributes;

/// `WorkloadIdentity`: the identity of an account, for the processes of a host that have these attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The account, in the namespace of the resource.
    pub account: Label,
    /// The host; none: any host of the mesh.
    pub host: Option<Label>,
    /// What a process must be. At least one is given.
    pub attributes: ProcessAttributes,
}
