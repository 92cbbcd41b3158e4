//! Where a rule comes from, so that every decision can be led back to what a user wrote.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of a rule in the resource that it was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The resource's kind: `HTTPRoute`. `Service` for what follows from a service alone.
    pub kind: String,
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// The resource's generation, counted up by each change of its spec.
    pub generation: u64,
    /// Which rule of the resource.
    pub rule: u32,
    /// Which match of the rule.
    pub matched: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{} rule {}", self.kind, self.name, self.namespace, self.rule)
    }
}
