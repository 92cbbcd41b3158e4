//! Who calls what, what policies that are tried would change, and who still sends plaintext.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use lorica_api::{MtlsStatus, ObservedCall, Trial};
use lorica_model::compile::{self, World};
use lorica_model::name::{Namespace, ObjectName};
use lorica_model::resource::{Key, Kind, Resource, Resources};
use lorica_model::snapshot::MtlsMode;
use lorica_xds::trial::TriedPolicy;
use serde::Deserialize;

use super::{Failure, Within};
use crate::ControlPlane;

pub(super) async fn calls(State(control): State<Arc<ControlPlane>>, Query(within): Query<Within>) -> Json<Vec<ObservedCall>> {
    Json(control.observed.calls(within.namespace.as_deref()))
}

/// Which kind of policy is meant, where several have the name.
#[derive(Debug, Deserialize)]
pub(super) struct OfKind {
    kind: Option<String>,
}

pub(super) async fn trial(
    State(control): State<Arc<ControlPlane>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(of): Query<OfKind>,
) -> Result<Json<Trial>, Failure> {
    let bad = |error: lorica_model::name::NameError| Failure::new(StatusCode::BAD_REQUEST, error.to_string(), None);
    let (namespace, name) = (Namespace::new(&namespace).map_err(bad)?, ObjectName::new(&name).map_err(bad)?);
    let wanted = match &of.kind {
        Some(word) => match Kind::named(word).filter(|kind| Kind::POLICIES.contains(kind)) {
            Some(kind) => vec![kind],
            None => {
                return Err(Failure::new(StatusCode::BAD_REQUEST, format!("`{word}` is no kind of policy that can be tried"), Some(KINDS)));
            }
        },
        None => Kind::POLICIES.to_vec(),
    };
    let published = control.mesh.seen().published;
    let found = |kind: &Kind| published.resources.of(*kind, &namespace, &name);
    let there: Vec<Kind> = wanted.iter().copied().filter(|kind| found(kind).is_some()).collect();
    let tried: Vec<Kind> = there.iter().copied().filter(|kind| found(kind).is_some_and(|found| found.spec.is_tried())).collect();
    match (tried.as_slice(), there.as_slice()) {
        ([kind], _) => Ok(Json(control.observed.trial(&TriedPolicy { kind: kind.to_string(), name: format!("{name}.{namespace}") }))),
        ([first, ..], _) => {
            let kinds: Vec<String> = tried.iter().map(ToString::to_string).collect();
            let hint = format!("name the kind, as in `lorica policy shadow {first}/{name} -n {namespace}`");
            Err(Failure::new(
                StatusCode::CONFLICT,
                format!("several policies are named {name}.{namespace}: {}", kinds.join(", ")),
                Some(&hint),
            ))
        }
        ([], [kind, ..]) => Err(Failure::new(
            StatusCode::CONFLICT,
            format!("the {kind} {name}.{namespace} is in force: it is not tried"),
            Some("`mode: Shadow` in its `spec` tries it"),
        )),
        ([], []) => {
            let what = if let [kind] = wanted.as_slice() { kind.as_str() } else { "policy" };
            Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no {what} {name}.{namespace}"), Some(KINDS)))
        }
    }
}

/// What can be tried.
const KINDS: &str = "policies of access (authz), tokens (authn), traffic, egress, rate limits (rl) and faults can be tried; `lorica get KIND -A` lists them";

pub(super) async fn mtls(State(control): State<Arc<ControlPlane>>, Query(within): Query<Within>) -> Json<Vec<MtlsStatus>> {
    let published = control.mesh.seen().published;
    let world = published.world();
    let services = world.resources.services().filter_map(|(metadata, _)| metadata.service());
    let wanted = services.filter(|service| within.namespace.as_deref().is_none_or(|namespace| service.namespace.as_str() == namespace));
    let now = SystemTime::now();
    let one = |service| {
        let mode = match compile::mtls(&world, &service) {
            MtlsMode::Strict => "Strict",
            MtlsMode::Permissive => "Permissive",
        };
        MtlsStatus { mode: mode.to_owned(), plaintext: control.observed.plaintext(&service, now), service }
    };
    Json(wanted.map(one).collect())
}

/// Refuses a change after which a service takes mutual TLS only to which somebody still sends plaintext.
pub(super) fn still_plaintext(control: &ControlPlane, put: &[Resource], delete: &[Key]) -> Result<(), Failure> {
    let kinds = put.iter().map(|resource| resource.kind).chain(delete.iter().map(|key| key.kind));
    if !kinds.into_iter().any(|kind| kind == Kind::AuthenticationPolicy) {
        return Ok(());
    }
    let published = control.mesh.seen().published;
    let before = published.world();
    let mut resources: Resources = (*published.resources).clone();
    put.iter().for_each(|resource| drop(resources.insert(resource.clone())));
    delete.iter().for_each(|key| drop(resources.remove(key)));
    let after = World { resources: &resources, ..before };
    let now = SystemTime::now();
    let mut left = Vec::new();
    for service in before.resources.services().filter_map(|(metadata, _)| metadata.service()) {
        let is = |world: &World<'_>| compile::mtls(world, &service);
        if is(&before) == MtlsMode::Permissive && is(&after) == MtlsMode::Strict {
            let callers = control.observed.plaintext(&service, now);
            left.extend(
                callers.first().map(|last| format!("{service}: {} callers, the last {} on {}", callers.len(), last.address, last.last)),
            );
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    let message = format!("callers still send plaintext, and would be refused: {}", left.join("; "));
    Err(Failure::new(StatusCode::CONFLICT, message, Some("`lorica mtls status` lists them; --force refuses them all the same")))
}
