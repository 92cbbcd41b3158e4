//! Changes: text in, a revision and a receipt out, or every mistake in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lorica_api::{ApplyReply, ApplyRequest, Change, ChangeAction, DeleteRequest, NamedText, Refusal, RenderedDiagnostic, Target};
use lorica_model::resource::{self, Diagnostic, Document, Key, Options, Resource, Resources, Severity};
use lorica_xds::trial::TriedPolicy;

use super::request::{Body, Query};
use super::{Failure, Wait, observed};
use crate::ControlPlane;

pub(super) async fn apply(
    State(control): State<Arc<ControlPlane>>,
    Query(wait): Query<Wait>,
    Body(request): Body<ApplyRequest>,
) -> Result<Json<ApplyReply>, Failure> {
    let wait = wait.duration()?;
    let seen = control.mesh.seen();
    let world = seen.published.resources.clone();
    let documents = read(&request.files)?;
    let text = |file: &str| request.files.iter().find(|known| known.name == file).map(|known| known.text.clone()).unwrap_or_default();
    let mut found = resource::check(&documents, &world, Options { allow_missing: request.allow_missing }, text);
    found.extend(resource::over(&documents, SystemTime::now(), text));
    if control.mesh.has_other_clients() {
        found.extend(resource::beyond_envoy(&documents, text));
    }
    found.extend(lorica_identity::jwt::mistakes(&documents, text));
    found.extend(lorica_identity::secrets::mistakes(&documents, text));
    found.extend(lorica_identity::federation::mistakes(&documents, &control.mesh.trust_domain(), text));
    found.extend(crate::rate_limit::not_held(&documents, &seen.proxies, text));
    let (errors, warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(refused(errors, &request.files));
    }
    let applied = documents.clone();
    let (put, changes) = settle(&world, documents);
    if !request.force {
        observed::still_plaintext(&control, &put, &[])?;
    }
    let reply = ApplyReply { revision: 0, changes, warnings: rendered(warnings, &request.files), receipt: None };
    if request.dry_run {
        return Ok(Json(reply));
    }
    let reply = carry_out(&control, put, Vec::new(), reply, wait).await?;
    let text = |file: &str| request.files.iter().find(|known| known.name == file).map_or("", |known| &known.text);
    control.diagnostics.files.applied(&applied, text);
    Ok(reply)
}

pub(super) async fn delete(
    State(control): State<Arc<ControlPlane>>,
    Query(wait): Query<Wait>,
    Body(request): Body<DeleteRequest>,
) -> Result<Json<ApplyReply>, Failure> {
    let wait = wait.duration()?;
    let world = control.mesh.seen().published.resources.clone();
    let named = request.targets.into_iter().map(|target| Key { kind: target.kind, namespace: target.namespace, name: target.name });
    let keys: Vec<Key> = named.chain(read(&request.files)?.into_iter().map(|document| document.resource.key())).collect();
    if let Some(missing) = keys.iter().find(|key| world.get(key).is_none()) {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("there is no {missing}: nothing was deleted"),
            Some("`lorica get` lists what there is"),
        ));
    }
    if !request.force {
        observed::still_plaintext(&control, &[], &keys)?;
    }
    let changes = keys.iter().map(|key| Change { target: target(key), action: ChangeAction::Deleted }).collect();
    let reply = ApplyReply { revision: 0, changes, warnings: Vec::new(), receipt: None };
    carry_out(&control, Vec::new(), keys, reply, wait).await
}

async fn carry_out(
    control: &Arc<ControlPlane>,
    put: Vec<Resource>,
    delete: Vec<Key>,
    mut reply: ApplyReply,
    wait: Duration,
) -> Result<Json<ApplyReply>, Failure> {
    if put.is_empty() && delete.is_empty() {
        return Ok(Json(reply));
    }
    let changed = put.iter().map(Resource::key).chain(delete.iter().cloned());
    let changed = changed.map(|key| TriedPolicy { kind: key.kind.to_string(), name: format!("{}.{}", key.name, key.namespace) });
    control.observed.changed(changed);
    let mesh = control.mesh.clone();
    let changed = tokio::task::spawn_blocking(move || mesh.change(put, &delete)).await;
    let (revision, publication) = changed.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))??;
    reply.revision = revision.0;
    reply.receipt = crate::wait_for(&control.mesh, publication, wait).await;
    Ok(Json(reply))
}

fn read(files: &[NamedText]) -> Result<Vec<Document>, Failure> {
    let (mut documents, mut found) = (Vec::new(), Vec::new());
    for file in files {
        match resource::read(&file.name, &file.text) {
            Ok(more) => documents.extend(more),
            Err(more) => found.extend(more),
        }
    }
    if found.is_empty() { Ok(documents) } else { Err(refused(found, files)) }
}

fn refused(found: Vec<Diagnostic>, files: &[NamedText]) -> Failure {
    Failure::Refused(Refusal { diagnostics: rendered(found, files) })
}

fn rendered(found: Vec<Diagnostic>, files: &[NamedText]) -> Vec<RenderedDiagnostic> {
    let picture = |diagnostic: Diagnostic| {
        let source = files.iter().find(|file| file.name == diagnostic.file).map_or("", |file| file.text.as_str());
        RenderedDiagnostic { rendered: diagnostic.render(source, false), diagnostic }
    };
    found.into_iter().map(picture).collect()
}

/// What of a change set is to be stored: what differs, with its generation counted up.
fn settle(world: &Resources, documents: Vec<Document>) -> (Vec<Resource>, Vec<Change>) {
    let now = crate::timestamp(SystemTime::now());
    let (mut put, mut changes) = (Vec::new(), Vec::new());
    for Document { mut resource, .. } in documents {
        let key = resource.key();
        let before = world.get(&key);
        let action = match before {
            None => ChangeAction::Created,
            Some(before) if said(before) == said(&resource) => ChangeAction::Unchanged,
            Some(_) => ChangeAction::Changed,
        };
        changes.push(Change { target: target(&key), action });
        if action == ChangeAction::Unchanged {
            continue;
        }
        resource.metadata.generation = before.map_or(1, |before| before.metadata.generation + 1);
        resource.metadata.created_at = before.map_or_else(|| now.clone(), |before| before.metadata.created_at.clone());
        stamp(&mut resource);
        put.push(resource);
    }
    // What is referred to is stored before what refers to it.
    put.sort_by_key(|resource| resource.kind);
    (put, changes)
}

/// What a user says with a resource: annotations, labels, and all that stands beside its metadata, which for Kubernetes' own kinds is no `spec`.
fn said(resource: &Resource) -> (BTreeMap<&str, &serde_json::Value>, [Option<&serde_json::Value>; 2]) {
    let document = &resource.document;
    let beside = document.as_object().into_iter().flatten();
    let beside = beside.map(|(name, value)| (name.as_str(), value));
    let beside = beside.filter(|(name, _)| !matches!(*name, "apiVersion" | "kind" | "metadata" | "status"));
    (beside.collect(), [document.pointer("/metadata/annotations"), document.pointer("/metadata/labels")])
}

/// Writes what the control plane adds into the document.
fn stamp(resource: &mut Resource) {
    let Resource { metadata, document, .. } = resource;
    if let Some(object) = document.as_object_mut() {
        object.remove("status");
    }
    if let Some(written) = document.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
        for foreign in ["resourceVersion", "uid", "managedFields", "selfLink"] {
            written.remove(foreign);
        }
        written.insert("namespace".to_owned(), metadata.namespace.to_string().into());
        written.insert("generation".to_owned(), metadata.generation.into());
        written.insert("creationTimestamp".to_owned(), metadata.created_at.clone().into());
    }
}

fn target(key: &Key) -> Target {
    Target { kind: key.kind, namespace: key.namespace.clone(), name: key.name.clone() }
}
