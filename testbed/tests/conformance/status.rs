//! Statuses, object by object, as the suite compares them: the conditions of a route at one parent, the listeners of a gateway with kinds and
//! routes, a policy at one ancestor. Whatever else is looked at, every condition must be of the resource's latest generation.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// Whether everything that a status says is of the latest generation and has a form that the specification knows.
pub(crate) fn sound(object: &Value) -> anyhow::Result<()> {
    let status = &object["status"];
    let parts = ["parents", "listeners", "ancestors"].iter().filter_map(|part| status[part].as_array()).flatten();
    for part in std::iter::once(status).chain(parts) {
        let conditions = list(&part["conditions"]);
        for (at, condition) in conditions.iter().enumerate() {
            ensure!(condition["observedGeneration"] == object["metadata"]["generation"], "{condition} is of another generation");
            ensure!(condition["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{condition} has no reason");
            ensure!(!conditions[..at].iter().any(|other| other["type"] == condition["type"]), "{} is there twice", condition["type"]);
        }
    }
    // A route tells of its own parents only, each once and as it names it.
    let written: Vec<Value> = list(&object["spec"]["parentRefs"]).iter().map(whole).collect();
    let told: Vec<&Value> = list(&status["parents"]).iter().map(|parent| &parent["parentRef"]).collect();
    for (at, parent) in told.iter().enumerate() {
        ensure!(written.contains(parent), "{parent} is none of its parents: {written:?}");
        ensure!(!told[..at].contains(parent), "{parent} is there twice");
    }
    let names: Vec<&Value> = list(&object["spec"]["listeners"]).iter().map(|listener| &listener["name"]).collect();
    for listener in list(&status["listeners"]) {
        ensure!(names.contains(&&listener["name"]), "it has no listener {}", listener["name"]);
    }
    Ok(())
}

/// A parent with the defaults of the specification.
fn whole(parent: &Value) -> Value {
    let mut parent = parent.clone();
    if let Some(fields) = parent.as_object_mut() {
        fields.entry("group").or_insert_with(|| "gateway.networking.k8s.io".into());
        fields.entry("kind").or_insert_with(|| "Gateway".into());
    }
    parent
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a list of conditions has one. An expected status or reason that is empty may be any.
pub(crate) fn has(conditions: &Value, wanted: &Value) -> anyhow::Result<()> {
    let any = |field: &str| wanted[field].as_str().unwrap_or_default().is_empty();
    let same = |found: &&Value| {
        found["type"] == wanted["Type"]
            && (any("Status") || found["status"] == wanted["Status"])
            && (any("Reason") || found["reason"] == wanted["Reason"])
    };
    list(conditions).iter().find(same).map(|_| ()).with_context(|| format!("there is no {wanted} in {conditions}"))
}

pub(crate) fn has_all(conditions: &Value, wanted: &Value) -> anyhow::Result<()> {
    list(wanted).iter().try_for_each(|wanted| has(conditions, wanted))
}

/// Whether one of a route's parents (or a policy's ancestors) of this name has a condition.
pub(crate) fn at_parent(object: &Value, parent: &Value, wanted: &Value) -> anyhow::Result<()> {
    let (all, reference) = match object["status"]["ancestors"].as_array() {
        Some(ancestors) => (ancestors.as_slice(), "ancestorRef"),
        None => (list(&object["status"]["parents"]), "parentRef"),
    };
    let meant = |found: &&Value| {
        let found = &found[reference];
        found["name"] == parent["Name"] && (found["namespace"].is_null() || found["namespace"] == parent["Namespace"])
    };
    let found: Vec<&Value> = all.iter().filter(meant).collect();
    ensure!(!found.is_empty(), "nothing is said of {parent}: {}", object["status"]);
    let any = found.iter().map(|found| has(&found["conditions"], wanted)).find(Result::is_ok);
    any.unwrap_or_else(|| has(&found[0]["conditions"], wanted))
}

/// Whether a route has these parents.
pub(crate) fn parents(object: &Value, wanted: &Value, namespace_required: bool) -> anyhow::Result<()> {
    for wanted in list(wanted) {
        let reference = &wanted["ParentRef"];
        let same = |found: &&Value| {
            let of = &found["parentRef"];
            let optional = |field: &str, own: &str| reference[field].is_null() || reference[field] == "" || of[own] == reference[field];
            found["controllerName"] == "lorica.io/gateway"
                && of["group"] == reference["Group"]
                && of["kind"] == reference["Kind"]
                && of["name"] == reference["Name"]
                && (of["namespace"] == reference["Namespace"] || (!namespace_required && of["namespace"].is_null()))
                && optional("SectionName", "sectionName")
                && optional("Port", "port")
                && has_all(&found["conditions"], &wanted["Conditions"]).is_ok()
        };
        ensure!(list(&object["status"]["parents"]).iter().any(|found| same(&found)), "no parent is as {wanted}: {}", object["status"]);
    }
    Ok(())
}

/// A route that no parent accepts has none in its status, or one that says so.
pub(crate) fn no_accepted_parent(object: &Value) -> anyhow::Result<()> {
    match list(&object["status"]["parents"]) {
        [] => Ok(()),
        [only] => has(&only["conditions"], &json!({ "Type": "Accepted", "Status": "False" })),
        more => anyhow::bail!("there are {} parents", more.len()),
    }
}

/// Whether a gateway's (or a ListenerSet's) listeners are these. `cut`: the data tells only of the first.
pub(crate) fn listeners(object: &Value, wanted: &Value, cut: bool) -> anyhow::Result<()> {
    let found = list(&object["status"]["listeners"]);
    ensure!(cut || found.len() == list(wanted).len(), "there are {} listeners in place of {}", found.len(), list(wanted).len());
    for wanted in list(wanted) {
        // A name as the suite's code writes it: `gatewayv1.SectionName("http")`.
        let name = wanted["Name"].as_str().or_else(|| wanted["Name"]["$go"].as_str()?.split('"').nth(1));
        let Some(name) = name else {
            ensure!(cut, "{wanted} has no name");
            continue;
        };
        let listener = found.iter().find(|listener| listener["name"] == name).with_context(|| format!("there is no listener {name}"))?;
        if let Some(kinds) = wanted["SupportedKinds"].as_array() {
            let supported: Vec<&Value> = list(&listener["supportedKinds"]).iter().map(|kind| &kind["kind"]).collect();
            ensure!(!kinds.is_empty() || supported.is_empty(), "{name} takes {supported:?} in place of nothing");
            for kind in kinds {
                ensure!(supported.contains(&&kind["Kind"]), "{name} does not take {}", kind["Kind"]);
            }
        }
        if !(cut && wanted["AttachedRoutes"].is_null()) {
            let count = wanted["AttachedRoutes"].as_u64().unwrap_or_default();
            ensure!(listener["attachedRoutes"] == count, "{} routes attach to {name} in place of {count}", listener["attachedRoutes"]);
        }
        has_all(&listener["conditions"], &wanted["Conditions"]).with_context(|| format!("the listener {name}"))?;
    }
    Ok(())
}

/// Whether listeners have these conditions: those of these names, or all.
pub(crate) fn listeners_have(object: &Value, wanted: &Value, names: &[Value]) -> anyhow::Result<()> {
    let found = list(&object["status"]["listeners"]);
    for name in names {
        ensure!(found.iter().any(|listener| listener["name"] == *name), "there is no listener {name}");
    }
    for listener in found.iter().filter(|listener| names.is_empty() || names.contains(&listener["name"])) {
        has_all(&listener["conditions"], wanted).with_context(|| format!("the listener {}", listener["name"]))?;
    }
    Ok(())
}

/// Whether nothing attaches to a gateway.
pub(crate) fn no_routes(object: &Value) -> anyhow::Result<()> {
    match list(&object["status"]["listeners"]) {
        [] => Ok(()),
        [only] => {
            ensure!(only["attachedRoutes"] == 0, "{} routes attach", only["attachedRoutes"]);
            Ok(())
        }
        more => anyhow::bail!("there are {} listeners", more.len()),
    }
}
