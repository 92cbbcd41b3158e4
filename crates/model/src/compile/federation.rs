//! Whom of other trust domains the mesh verifies, and by which roots.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::resource::{Metadata, TrustBundle};
use crate::spiffe::TrustDomain;
use crate::spiffe_bundle::SpiffeBundle;

use super::World;
use super::reference::Problem;
use super::rules::age;
use super::status::Condition;

/// The bundles of other trust domains that are in force. Nobody else speaks for the mesh's own.
#[must_use]
pub fn federated(world: &World<'_>) -> BTreeMap<TrustDomain, Arc<SpiffeBundle>> {
    let mut written: Vec<_> = world.resources.trust_bundles().filter(|(_, bundle)| bundle.trust_domain != *world.trust_domain).collect();
    // Two for one trust domain are refused at the door; of what got in all the same, the older holds.
    written.sort_by(|(one, _), (other, _)| age(other).cmp(&age(one)));
    let in_force = written.into_iter().filter_map(|(_, bundle)| Some((bundle.trust_domain.clone(), in_force(world, bundle)?)));
    in_force.collect()
}

/// What was fetched, and before that what is written.
fn in_force(world: &World<'_>, bundle: &TrustBundle) -> Option<Arc<SpiffeBundle>> {
    let known = bundle.endpoint.as_ref().and_then(|_| world.registry.bundles.get(&bundle.trust_domain));
    known.and_then(|known| known.bundle.clone()).or_else(|| bundle.written.clone())
}

pub(super) fn status(world: &World<'_>, metadata: &Metadata, bundle: &TrustBundle) -> Value {
    let own = bundle.trust_domain == *world.trust_domain;
    let accepted = own.then(|| Problem::new("OwnTrustDomain", format!("{} is the mesh's own trust domain", bundle.trust_domain)));
    let known = world.registry.bundles.get(&bundle.trust_domain);
    let problem = known.and_then(|known| known.problem.clone()).map(|problem| Problem::new("FetchFailed", problem));
    let pending = || {
        let fetched = known.is_some_and(|known| known.bundle.is_some());
        (!fetched).then(|| Problem::new("Pending", "the bundle was not fetched yet".to_owned()))
    };
    let fetched = bundle.endpoint.as_ref().map(|_| Condition::of("Fetched", problem.or_else(pending).as_ref(), metadata));
    let conditions: Vec<Condition> = [Condition::of("Accepted", accepted.as_ref(), metadata)].into_iter().chain(fetched).collect();
    let mut status = json!({ "conditions": conditions });
    if let (Some(bundle), Some(fields)) = (in_force(world, bundle).filter(|_| !own), status.as_object_mut()) {
        fields.insert("roots".to_owned(), bundle.roots.len().into());
        fields.insert("tokenKeys".to_owned(), bundle.keys.len().into());
        fields.extend(bundle.sequence.map(|sequence| ("sequence".to_owned(), sequence.into())));
    }
    status
}
