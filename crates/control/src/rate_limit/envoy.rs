//! What a policy says and an Envoy that is there does not do: told when it is applied.

use lorica_model::compile::RegisteredWorkload;
use lorica_model::name::{ServiceName, WorkloadName};
use lorica_model::resource::{Diagnostic, Document, Kind, Metadata, RateLimitPolicy, Severity, Spec, WrittenCounted, WrittenLimit};
use lorica_model::snapshot::Unavailable;

use crate::mesh::Proxy;

/// A proxy as the control plane knows it.
type Known = (WorkloadName, RegisteredWorkload, Proxy);

/// A warning for each limit that an Envoy which it concerns does not hold to. `source` gives the text of a file.
pub fn not_held(documents: &[Document], proxies: &[Known], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let envoys: Vec<&Known> = proxies.iter().filter(|(_, _, proxy)| proxy.software.split(' ').next() == Some("envoy")).collect();
    let mut found = Vec::new();
    for document in documents {
        let Spec::RateLimitPolicy(policy) = &document.resource.spec else { continue };
        let concerned = envoys.iter().find(|(name, workload, _)| concerns(&document.resource.metadata, policy, name, workload));
        let Some((name, workload, _)) = concerned else { continue };
        for limit in &policy.limits {
            let Some((what, hint)) = unfit(limit, workload.gateway.is_some()) else { continue };
            let message = format!("the Envoy {name} {what}");
            let error = Diagnostic::error(&document.file, &source(&document.file), limit.span.clone(), message).hint(hint);
            found.push(Diagnostic { severity: Severity::Warning, ..error });
        }
    }
    found
}

fn concerns(metadata: &Metadata, policy: &RateLimitPolicy, name: &WorkloadName, workload: &RegisteredWorkload) -> bool {
    let of_namespace = |service: &ServiceName| service.namespace == metadata.namespace;
    let gateway = workload.gateway.as_ref().map(|gateway| &gateway.name);
    let service = workload.service.as_ref().filter(|service| of_namespace(service));
    if policy.targets.is_empty() {
        return service.is_some();
    }
    policy.targets.iter().any(|target| match target.kind {
        Kind::Service => service.is_some_and(|service| target.object.name == service.name),
        Kind::Gateway => gateway.is_some_and(|gateway| gateway.namespace == metadata.namespace && gateway.name == target.object.name),
        // A route may attach to any gateway of its namespace, and seldom does to another's.
        _ => gateway.is_some() && name.namespace == metadata.namespace,
    })
}

/// What an Envoy does in place of what a limit says, and what to do.
fn unfit(limit: &WrittenLimit, at_gateway: bool) -> Option<(String, &'static str)> {
    let name = &limit.name;
    match limit.counted {
        WrittenCounted::Concurrent(_) => {
            Some((format!("does not hold to `{name}`: it counts nothing under way"), "limit `requests`, or run Lorica's proxy there"))
        }
        WrittenCounted::Service if !at_gateway => Some((
            format!("does not hold to `{name}`: beside an app it asks no other service than the control plane"),
            "choose the scope Global, or run Lorica's proxy there",
        )),
        WrittenCounted::Global(_, Unavailable::Deny) => Some((
            format!("lets all requests past `{name}` while the control plane is away"),
            "run Lorica's proxy there, if none may pass then",
        )),
        WrittenCounted::Service | WrittenCounted::Local(_) | WrittenCounted::Global(..) => None,
    }
}
