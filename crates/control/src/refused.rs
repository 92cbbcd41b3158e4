//! What was refused to leave the mesh, as proxies tell it: who tried, what, how often. In memory, bounded; a control plane that starts
//! anew begins anew, as a caller that still tries is told again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use lorica_api::{RefusedCall, RefusedCalls};
use lorica_model::compile::{self, World};
use lorica_model::name::{Label, Namespace, ObjectName, WorkloadName};
use lorica_model::resource::{Key, Kind};
use lorica_model::snapshot::{Unlisted, Verdict};
use lorica_xds::NodeMetadata;
use lorica_xds::refused::Refusal;
use lorica_xds::wire::Node;
use serde_json::{Value, json};

use crate::timestamp;

/// The most that is kept; of more, what was tried longest ago goes.
const MOST: usize = 1000;

/// Who called what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    namespace: Namespace,
    account: Label,
    /// The name, or the address where none is known.
    host: String,
    port: u16,
}

/// What is known of it.
#[derive(Debug, Clone)]
struct Tried {
    /// The proxy that told it last.
    by: String,
    address: Option<IpAddr>,
    times: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What was refused.
#[derive(Debug, Default)]
pub struct Refused(Mutex<BTreeMap<Call, Tried>>);

impl Refused {
    /// A proxy refused a call, so many times.
    pub fn told(&self, node: &Node, refusal: Refusal, times: u64) {
        let Some((namespace, account)) = caller(node, &refusal) else { return };
        let now = SystemTime::now();
        let host = refusal.host.or_else(|| refusal.address.map(|address| address.to_string()));
        let Some(host) = host.filter(|host| host.len() <= 253) else { return };
        let call = Call { namespace, account, host, port: refusal.port };
        // Every change of it is complete before the next line can fail.
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= MOST && !calls.contains_key(&call) {
            let oldest = calls.iter().min_by_key(|(_, tried)| tried.last).map(|(call, _)| call.clone());
            oldest.into_iter().for_each(|oldest| drop(calls.remove(&oldest)));
        }
        let tried = calls.entry(call).or_insert_with(|| Tried { by: String::new(), address: None, times: 0, first: now, last: now });
        tried.by.clone_from(&node.id);
        tried.address = refusal.address.or(tried.address);
        tried.times = tried.times.saturating_add(times);
        tried.last = now;
    }
}

/// Whose call it was: who proved to be the caller, else the workload beside the proxy that tells it.
fn caller(node: &Node, refusal: &Refusal) -> Option<(Namespace, Label)> {
    match &refusal.caller {
        Some(id) => {
            let (namespace, account) = id.account()?;
            Some((Namespace::new(namespace).ok()?, Label::new(account).ok()?))
        }
        None => {
            let metadata = NodeMetadata::of(node).ok()?;
            Some((metadata.namespace, metadata.account))
        }
    }
}

impl Refused {
    /// What is refused still in a namespace (or all), the latest first, and each policy that refuses some of it with those calls added.
    pub fn shown(&self, world: &World<'_>, namespace: Option<&str>) -> RefusedCalls {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut calls: Vec<(Call, Tried)> =
            calls.into_iter().filter(|(call, _)| namespace.is_none_or(|namespace| call.namespace.as_str() == namespace)).collect();
        calls.sort_by_key(|(_, tried)| std::cmp::Reverse(tried.last));
        let mut allow: BTreeMap<Key, Value> = BTreeMap::new();
        let mut shown = Vec::new();
        for (call, tried) in calls {
            let Some(key) = denied_by(world, &call, &tried) else { continue };
            let Some(resource) = world.resources.get(&key) else { continue };
            add(allow.entry(key.clone()).or_insert_with(|| unmanaged(&resource.document)), &key, &call);
            shown.push(RefusedCall {
                namespace: call.namespace,
                account: call.account,
                proxy: tried.by,
                host: call.host,
                address: tried.address,
                port: call.port,
                times: tried.times,
                first: timestamp(tried.first),
                last: timestamp(tried.last),
                policy: format!("{}.{}", key.name, key.namespace),
            });
        }
        RefusedCalls { calls: shown, allow: allow.into_values().collect() }
    }
}

/// The policy that refuses a call; none where it may leave by now.
fn denied_by(world: &World<'_>, call: &Call, tried: &Tried) -> Option<Key> {
    let name = WorkloadName::new(call.namespace.clone(), call.account.clone());
    let unit = compile::egress(world, &name, &call.account);
    let address = tried.address.or_else(|| call.host.parse().ok());
    let Verdict::Denied = unit.decide_finally(address, call.port, &[call.host.as_str()]) else { return None };
    let Unlisted::Deny(origin) = &unit.unlisted else { return None };
    Some(Key { kind: Kind::EgressPolicy, namespace: Namespace::new(&origin.namespace).ok()?, name: ObjectName::new(&origin.name).ok()? })
}

/// A document without what the control plane adds, which is not the user's to write.
fn unmanaged(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(metadata) = document.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !matches!(field.as_str(), "generation" | "creationTimestamp" | "resourceVersion" | "uid"));
    }
    document
}

/// Adds what allows a call to a policy's document.
fn add(document: &mut Value, policy: &Key, call: &Call) {
    let caller = if policy.namespace == call.namespace {
        json!({ "account": call.account })
    } else {
        json!({ "namespace": call.namespace, "account": call.account })
    };
    let entry = json!({ "hosts": [call.host], "ports": [call.port], "callers": [caller] });
    let Some(spec) = document.pointer_mut("/spec").and_then(Value::as_object_mut) else { return };
    match spec.entry("allow").or_insert_with(|| json!([])) {
        Value::Array(allow) => allow.push(entry),
        other => *other = json!([entry]),
    }
}
