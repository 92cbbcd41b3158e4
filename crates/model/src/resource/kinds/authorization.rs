//! Who may do what, as written.

use std::ops::Range;

use ipnet::IpNet;

use super::ObjectRef;
use crate::cel::Expression;
use crate::name::{Label, Namespace};
use crate::resource::Kind;
use crate::snapshot::{AccessAction, Among, ClaimMatch, Operation};
use crate::spiffe::SpiffeId;

/// `AuthorizationPolicy`: who may do what at services, gateways and routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// What it protects; none: every service of its namespace.
    pub targets: Vec<AuthorizationTarget>,
    /// What becomes of what its rules mean.
    pub action: AccessAction,
    /// Whether it is only counted what it would deny.
    pub shadow: bool,
    /// What it is about. An `Allow` without any allows nothing: the default deny of a namespace.
    pub rules: Vec<WrittenAccessRule>,
}

/// What an AuthorizationPolicy protects, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationTarget {
    /// Service, Gateway, HTTPRoute or GRPCRoute.
    pub kind: Kind,
    /// The object.
    pub object: ObjectRef,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenAccessRule {
    /// Its name, of its own in its policy.
    pub name: Option<Label>,
    /// Its place.
    pub span: Range<usize>,
    /// The callers.
    pub from: Vec<WrittenSource>,
    /// What they do.
    pub to: Vec<WrittenOperation>,
    /// What holds besides.
    pub when: Option<WrittenCondition>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenCondition {
    /// What it says.
    pub expression: Expression,
    /// Its place.
    pub span: Range<usize>,
}

/// Callers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrittenSource {
    /// Their identities.
    pub identities: Among<WrittenIdentity>,
    /// The namespaces of these.
    pub namespaces: Among<Namespace>,
    /// The addresses that they come from.
    pub addresses: Among<IpNet>,
    /// What their tokens say.
    pub claims: Vec<ClaimMatch>,
    /// What these do not say.
    pub not_claims: Vec<ClaimMatch>,
    /// The place of either.
    pub claims_span: Option<Range<usize>>,
}

/// Identities, as written: the trust domain of the mesh is not known to who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenIdentity {
    /// Whose.
    pub of: IdentityOf,
    /// Its place.
    pub span: Range<usize>,
}

/// Whose identities are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityOf {
    /// An account of this mesh: `call-routing.contact`, or `call-routing` for one of the policy's namespace.
    Account(Namespace, Label),
    /// All of a namespace of this mesh: `*.contact`.
    Namespace(Namespace),
    /// One identity of any mesh: `spiffe://…`.
    Id(SpiffeId),
    /// All of a trust domain: `spiffe://other.example/*`.
    TrustDomain(crate::spiffe::TrustDomain),
    /// Whoever proved one: `*`.
    Any,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenOperation {
    /// What it asks for.
    pub operation: Operation,
    /// The place of what only requests of HTTP have.
    pub http_span: Option<Range<usize>>,
    /// Each port with its place.
    pub port_spans: Vec<(u16, Range<usize>)>,
}
