//! TLS towards backends that are no part of the mesh: which BackendTLSPolicy holds for a service port, and how each stands.

use crate::name::ServicePort;
use crate::resource::{BackendTlsPolicy, Kind, Metadata, Spec};
use crate::snapshot::BackendTls;

use super::World;
use super::reference::{Found, Problem};
use super::rules::age;

/// A policy with what tells it apart.
type Policy<'w> = (&'w Metadata, &'w BackendTlsPolicy);

/// All policies, the oldest first.
fn policies<'w>(world: &World<'w>) -> Vec<Policy<'w>> {
    let mut all: Vec<Policy<'w>> = world
        .resources
        .of_kind(Kind::BackendTlsPolicy)
        .filter_map(|resource| if let Spec::BackendTlsPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None })
        .collect();
    all.sort_by(|(one, _), (other, _)| age(one).cmp(&age(other)));
    all
}

/// How closely a policy means a port: 2 by its name, 1 by its service, 0 not at all.
fn closeness((metadata, policy): Policy<'_>, port: &ServicePort, name: Option<&str>) -> u8 {
    let of = policy.targets.iter().filter(|target| {
        let object = &target.object;
        object.is_service() && metadata.namespace == port.service.namespace && object.name == port.service.name
    });
    of.map(|target| match &target.section {
        None => 1,
        Some(section) if Some(section.as_str()) == name => 2,
        Some(_) => 0,
    })
    .max()
    .unwrap_or(0)
}

/// What holds for a service port: the policy that means it most closely, of equals the oldest.
pub(super) fn towards(world: &World<'_>, port: &ServicePort, found: &Found<'_>) -> Option<BackendTls> {
    let name = found.port.name.as_ref().map(crate::name::Label::as_str);
    let all = policies(world);
    let closest = all.iter().map(|policy| closeness(*policy, port, name)).max().filter(|closest| *closest > 0);
    let Some((metadata, policy)) = closest.and_then(|closest| all.iter().find(|policy| closeness(**policy, port, name) == closest)) else {
        // Nobody said whom to trust: nobody is, and no plaintext reaches a port that speaks TLS.
        let server_name = port.service.fqdn();
        let nobody = BackendTls { server_name, names: Vec::new(), roots: Some(String::new()), certificate: None };
        return found.port.in_tls.then_some(nobody);
    };
    // Without a root that can be read nobody is trusted, and calls fail: better than to speak in plaintext or to anybody.
    let roots = (!policy.system_roots).then(|| world.roots((Kind::BackendTlsPolicy, metadata), &policy.roots).0);
    Some(BackendTls { server_name: policy.hostname.clone(), names: policy.names.clone(), roots, certificate: None })
}

/// How a policy stands: whether it holds, and whether all that it names is there.
pub(super) fn standing(world: &World<'_>, metadata: &Metadata, policy: &BackendTlsPolicy) -> (Option<Problem>, Option<Problem>) {
    let older = policies(world).into_iter().take_while(|(other, _)| age(other) < age(metadata));
    let same = |one: &crate::resource::TlsPolicyTarget, other: &crate::resource::TlsPolicyTarget| {
        one.object.kind == other.object.kind && one.object.name == other.object.name && one.section == other.section
    };
    let first = older
        .filter(|(other, _)| other.namespace == metadata.namespace)
        .find(|(_, other)| policy.targets.iter().all(|target| other.targets.iter().any(|known| same(target, known))));
    let (roots, problem) = world.roots((Kind::BackendTlsPolicy, metadata), &policy.roots);
    let accepted = match (&first, policy.system_roots || !roots.is_empty()) {
        (Some((other, _)), _) => {
            Some(Problem::new("Conflicted", format!("the older BackendTLSPolicy {} holds for its targets", other.name)))
        }
        (None, false) => Some(Problem::new("NoValidCACertificate", "none of the roots that it names can be read")),
        (None, true) => None,
    };
    (accepted, problem)
}
