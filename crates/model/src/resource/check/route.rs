//! Routes: what they attach to and lead to.

use std::collections::BTreeSet;

use super::Checked;
use crate::name::ServiceName;
use crate::resource::kinds::{BackendRef, HttpFilter, HttpRoute, ParentRef, RouteRule, TransportRoute};
use crate::resource::{GATEWAY_GROUP, Metadata};
use crate::snapshot::Protocol;

impl Checked<'_> {
    pub(super) fn route(&mut self, metadata: &Metadata, route: &HttpRoute) {
        for (parent, service) in route.parents.iter().filter_map(|parent| Some((parent, parent.object.service()?))) {
            let Some(ports) = self.service(&service, &parent.object.span) else { continue };
            let protocols: Vec<_> = match parent.port {
                Some(port) => self.port(&service, &ports, port, &parent.port_span).into_iter().collect(),
                None => ports.iter().map(|(_, protocol)| *protocol).collect(),
            };
            if !protocols.is_empty() && protocols.iter().all(|protocol| *protocol == Protocol::Tcp) {
                let found = self.wrong(
                    &parent.port_span,
                    format!("`{service}` is declared as tcp there: its bytes are not looked at, so no rule would ever match"),
                );
                self.found.push(found.hint("declare the port as http, or leave its appProtocol out"));
            }
        }
        self.gateways(&route.parents);
        for rule in &route.rules {
            self.shares(rule);
        }
        self.granted(metadata, route.rules.iter().flat_map(|rule| &rule.backends), &route.parents);
        let backends = route.rules.iter().flat_map(|rule| &rule.backends);
        for (backend, service) in backends.filter_map(|backend| Some((backend, backend.object.service()?))) {
            if let (Some(ports), Some(port)) = (self.service(&service, &backend.object.span), backend.port) {
                self.port(&service, &ports, port, &backend.port_span);
            }
        }
        self.circles(route);
        self.overlaps(metadata, route);
    }

    pub(super) fn transport(&mut self, metadata: &Metadata, route: &TransportRoute) {
        self.gateways(&route.parents);
        self.overlaps_of_bytes(metadata, route);
        self.granted(metadata, route.rules.iter().flat_map(|rule| &rule.backends), &route.parents);
        let backends = route.rules.iter().flat_map(|rule| &rule.backends);
        for (backend, service) in backends.filter_map(|backend| Some((backend, backend.object.service()?))) {
            if let (Some(ports), Some(port)) = (self.service(&service, &backend.object.span), backend.port) {
                self.port(&service, &ports, port, &backend.port_span);
            }
        }
    }

    /// Shares that answer nobody, and copies that reach who was asked anyway.
    fn shares(&mut self, rule: &RouteRule) {
        if let Some(first) = rule.backends.first().filter(|_| rule.backends.iter().all(|backend| backend.weight == 0)) {
            self.warn(&first.object.span, "every backend has the weight 0: requests are answered with 500".to_owned(), "give one a weight");
        }
        for (filter, span) in &rule.filters {
            let HttpFilter::Mirror { backend, .. } = filter else { continue };
            let same = |known: &BackendRef| {
                (&known.object.kind, &known.object.namespace, &known.object.name, known.port)
                    == (&backend.object.kind, &backend.object.namespace, &backend.object.name, backend.port)
            };
            if rule.backends.iter().any(same) {
                let message = format!("`{}` gets the requests and their copies", backend.object.name);
                self.warn(span, message, "mirror to another service");
            }
        }
    }

    /// References of routes of gateways into other namespaces, which these must allow. Calls inside the mesh need no grant.
    fn granted<'b>(&mut self, metadata: &Metadata, backends: impl Iterator<Item = &'b BackendRef>, parents: &[ParentRef]) {
        let kind = self.document.resource.kind;
        let in_mesh = !parents.is_empty() && parents.iter().all(|parent| parent.object.is_service());
        for backend in backends.filter(|backend| backend.object.is_service()) {
            let object = &backend.object;
            if in_mesh || self.after.grants((GATEWAY_GROUP, kind, &metadata.namespace), object) {
                continue;
            }
            let hint = format!(
                "a ReferenceGrant in `{}`: from {{group: {GATEWAY_GROUP}, kind: {kind}, namespace: {}}}, to {{group: \"\", kind: Service, name: {}}}",
                object.namespace, metadata.namespace, object.name
            );
            self.warn(
                &object.span,
                format!(
                    "nothing in `{}` lets routes of `{}` refer to it: its share is answered with 500",
                    object.namespace, metadata.namespace
                ),
                &hint,
            );
        }
    }

    /// Services whose routes lead to each other. A request is routed once, so that it goes to the endpoints of what the first rule names.
    fn circles(&mut self, route: &HttpRoute) {
        for service in route.parents.iter().filter_map(|parent| parent.object.service()) {
            for backend in route.rules.iter().flat_map(|rule| &rule.backends) {
                let Some(first) = backend.object.service().filter(|first| *first != service) else { continue };
                if self.leads(&first, &service) {
                    let message = format!(
                        "routes of `{first}` lead back to `{service}`; what this rule sends there goes to the endpoints of `{first}`"
                    );
                    self.warn(&backend.object.span, message, "a request is routed once, by the routes of the service that was called");
                }
            }
        }
    }

    /// Whether routes of services lead from one to another.
    fn leads(&self, from: &ServiceName, to: &ServiceName) -> bool {
        let mut known = BTreeSet::from([from.clone()]);
        let mut next = vec![from.clone()];
        while let Some(service) = next.pop() {
            let of_service = |parent: &ParentRef| parent.object.service().as_ref() == Some(&service);
            for (.., route) in self.after.routes().filter(|(.., route)| route.parents.iter().any(of_service)) {
                for backend in route.rules.iter().flat_map(|rule| &rule.backends).filter_map(|backend| backend.object.service()) {
                    if backend == *to {
                        return true;
                    }
                    if known.insert(backend.clone()) {
                        next.push(backend);
                    }
                }
            }
        }
        false
    }
}
