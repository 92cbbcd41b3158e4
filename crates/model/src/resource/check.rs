//! What only all resources together can tell: a change is held against the world it would make.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::name::ServiceName;
use crate::snapshot::{FieldMatch, PathMatch, Protocol, RouteMatch};

use super::diagnostic::{Diagnostic, Severity};
use super::kinds::{
    BackendRef, EGRESS_PROTOCOL, EgressPolicy, EgressTarget, Gateway, HttpFilter, HttpRoute, ListenerProtocol, ParentRef, RouteRule,
    ServicePortSpec, Spec, TlsPolicyTarget, TransportRoute,
};
use super::nearest::nearest;
use super::read::Document;
use super::{GATEWAY_GROUP, Kind, Metadata, Resources};

/// How a change is checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What does not exist yet is a warning.
    pub allow_missing: bool,
}

/// What is wrong with `change` in the world as it is. `source` gives the text of a file.
#[must_use]
pub fn check(change: &[Document], world: &Resources, options: Options, source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut after = world.clone();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for document in change {
        if !seen.insert(document.resource.key()) {
            let text = source(&document.file);
            found.push(Diagnostic::error(
                &document.file,
                &text,
                document.name_span.clone(),
                format!("{} is there twice", document.resource.key()),
            ));
        }
        after.insert(document.resource.clone());
    }
    for (index, document) in change.iter().enumerate() {
        let text = source(&document.file);
        let mut checked = Checked { document, index, change, text: &text, source: &source, after: &after, options, found: &mut found };
        checked.document();
    }
    found
}

struct Checked<'c> {
    document: &'c Document,
    /// Which of the change it is.
    index: usize,
    change: &'c [Document],
    text: &'c str,
    source: &'c dyn Fn(&str) -> String,
    after: &'c Resources,
    options: Options,
    found: &'c mut Vec<Diagnostic>,
}

impl Checked<'_> {
    fn wrong(&self, span: &Range<usize>, message: String) -> Diagnostic {
        Diagnostic::error(&self.document.file, self.text, span.clone(), message)
    }

    /// Missing in the world, not wrong in itself: the world changes later.
    fn missing(&mut self, span: &Range<usize>, message: String, hint: Option<String>) {
        let severity = if self.options.allow_missing { Severity::Warning } else { Severity::Error };
        let hint = hint.unwrap_or_else(|| "create it in the same change, or say --allow-missing".to_owned());
        let found = Diagnostic { severity, ..self.wrong(span, message).hint(hint) };
        self.found.push(found);
    }

    fn document(&mut self) {
        let metadata = &self.document.resource.metadata;
        match &self.document.resource.spec {
            Spec::Service(service) => {
                if let Some(subset) = &service.subset {
                    self.service(&subset.of.clone(), &subset.span.clone());
                }
                for port in service.ports.iter().filter(|port| port.in_tls) {
                    self.trusted(metadata, port);
                }
            }
            Spec::Workload(workload) => {
                let Some(ports) = self.service(&workload.service, &workload.service_span) else { return };
                for port in &workload.ports {
                    self.port(&workload.service, &ports, port.service_port, &port.span);
                }
            }
            Spec::AuthenticationPolicy(policy) => {
                for target in &policy.targets {
                    self.service(&ServiceName::new(metadata.namespace.clone(), target.name.clone()), &target.span);
                }
            }
            Spec::EgressPolicy(policy) => self.egress(metadata, policy),
            Spec::Gateway(gateway) => self.http3(gateway),
            Spec::HttpRoute(route) | Spec::GrpcRoute(route) => self.route(metadata, route),
            Spec::TcpRoute(route) | Spec::TlsRoute(route) | Spec::UdpRoute(route) => self.transport(metadata, route),
            _ => {}
        }
    }

    /// Services and egress gateways that a policy names.
    fn egress(&mut self, metadata: &Metadata, policy: &EgressPolicy) {
        for target in &policy.targets {
            if let EgressTarget::Service { name, span } = target {
                self.service(&ServiceName::new(metadata.namespace.clone(), name.clone()), span);
            }
        }
        for via in policy.allow.iter().filter_map(|allow| allow.via.as_ref()) {
            match self.after.gateway(&via.namespace, &via.name) {
                Some((_, gateway)) if gateway.listeners.iter().any(|listener| listener.protocol == ListenerProtocol::Egress) => {}
                Some(_) => {
                    let hint = format!("add one: {{name: egress, port: 15008, protocol: {EGRESS_PROTOCOL}}}");
                    let message = format!("the Gateway `{}.{}` has no listener for calls that leave the mesh", via.name, via.namespace);
                    self.missing(&via.span, message, Some(hint));
                }
                None => {
                    let known: Vec<&str> = self.after.of_kind(Kind::Gateway).map(|found| found.metadata.name.as_str()).collect();
                    let hint = nearest(via.name.as_str(), known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                    self.missing(&via.span, format!("there is no Gateway `{}.{}`", via.name, via.namespace), hint);
                }
            }
        }
    }

    /// Listeners that ask for HTTP/3 where it cannot be.
    fn http3(&mut self, gateway: &Gateway) {
        for listener in &gateway.listeners {
            let Some(span) = listener.tls.as_ref().and_then(|tls| tls.http3.clone()) else { continue };
            let validates =
                gateway.client_validation.is_some() || gateway.port_client_validation.iter().any(|(port, _)| *port == listener.port);
            if validates {
                let message = "HTTP/3 is not served where clients must show certificates".to_owned();
                self.warn(&span, message, "give the listener a port for which `tls.frontend` asks for none");
            } else if gateway.listeners.iter().any(|other| other.protocol == ListenerProtocol::Udp && other.port == listener.port) {
                self.warn(&span, format!("HTTP/3 is not served, as a listener for UDP has port {}", listener.port), "use another port");
            }
        }
    }

    /// A port that speaks TLS, for which somebody must say whom to trust.
    fn trusted(&mut self, metadata: &Metadata, port: &ServicePortSpec) {
        let means = |target: &TlsPolicyTarget| {
            let section = target.section.as_deref();
            target.object.is_service()
                && target.object.name == metadata.name
                && section.is_none_or(|section| port.name.as_ref().is_some_and(|name| name.as_str() == section))
        };
        let policies = self.after.of_kind(Kind::BackendTlsPolicy).filter(|found| found.metadata.namespace == metadata.namespace);
        let mut targets =
            policies.filter_map(|found| if let Spec::BackendTlsPolicy(policy) = &found.spec { Some(&policy.targets) } else { None });
        if targets.any(|targets| targets.iter().any(means)) {
            return;
        }
        let hint = format!("a BackendTLSPolicy with targetRefs: [{{group: \"\", kind: Service, name: {}}}]", metadata.name);
        self.missing(
            &port.span,
            format!("port {} speaks TLS, and nothing says whom to trust there: calls would fail", port.port),
            Some(hint),
        );
    }

    /// The ports of a service that must be there.
    fn service(&mut self, name: &ServiceName, span: &Range<usize>) -> Option<Vec<(u16, Protocol)>> {
        if let Some((_, service)) = self.after.service(name) {
            let of = service.subset.as_ref().and_then(|subset| self.after.service(&subset.of)).map_or(service, |(_, base)| base);
            return Some(of.ports.iter().map(|port| (port.port, port.protocol)).collect());
        }
        let neighbours = self.after.services().filter(|(metadata, _)| metadata.namespace == name.namespace);
        let near = nearest(name.name.as_str(), neighbours.map(|(metadata, _)| metadata.name.as_str()));
        let elsewhere = || self.after.services().find(|(metadata, _)| metadata.name == name.name).map(|(metadata, _)| &metadata.namespace);
        let hint = match near {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => elsewhere().map(|namespace| format!("there is one in the namespace `{namespace}`")),
        };
        self.missing(span, format!("there is no service `{name}`"), hint);
        None
    }

    fn port(&mut self, service: &ServiceName, ports: &[(u16, Protocol)], port: u16, span: &Range<usize>) -> Option<Protocol> {
        let found = ports.iter().find(|(known, _)| *known == port).map(|(_, protocol)| *protocol);
        if found.is_none() {
            let known = ports.iter().map(|(port, _)| port.to_string()).collect::<Vec<_>>().join(", ");
            let hint = if known.is_empty() { "it has no port".to_owned() } else { format!("it has {known}") };
            self.missing(span, format!("the service `{service}` has no port {port}"), Some(hint));
        }
        found
    }

    fn route(&mut self, metadata: &Metadata, route: &HttpRoute) {
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
        self.repeated(metadata, route);
    }

    /// Gateways and ListenerSets that routes attach to, with the listeners that they name.
    fn gateways(&mut self, parents: &[ParentRef]) {
        for parent in parents.iter().filter(|parent| parent.object.group == GATEWAY_GROUP) {
            let object = &parent.object;
            let kind = if object.kind == "ListenerSet" { Kind::ListenerSet } else { Kind::Gateway };
            let listeners = match self.after.of(kind, &object.namespace, &object.name).map(|found| &found.spec) {
                Some(Spec::Gateway(gateway)) => &gateway.listeners,
                Some(Spec::ListenerSet(set)) => &set.listeners,
                _ => {
                    let known: Vec<&str> = self.after.of_kind(kind).map(|found| found.metadata.name.as_str()).collect();
                    let hint = nearest(object.name.as_str(), known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                    self.missing(&object.span, format!("there is no {} `{}.{}`", object.kind, object.name, object.namespace), hint);
                    continue;
                }
            };
            let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
            if let Some(section) = parent.section.as_deref().filter(|section| !names.contains(section)) {
                let hint = format!("it has {}", names.join(", "));
                self.missing(&object.span, format!("`{}` has no listener `{section}`", object.name), Some(hint));
            }
        }
    }

    fn transport(&mut self, metadata: &Metadata, route: &TransportRoute) {
        self.gateways(&route.parents);
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

    fn warn(&mut self, span: &Range<usize>, message: String, hint: &str) {
        let found = Diagnostic { severity: Severity::Warning, ..self.wrong(span, message).hint(hint) };
        self.found.push(found);
    }

    /// A match that another rule has already: only a tie-break would decide, which is never what was meant.
    fn repeated(&mut self, metadata: &Metadata, route: &HttpRoute) {
        let matches: Vec<_> =
            route.rules.iter().enumerate().flat_map(|(rule, spec)| spec.matches.iter().map(move |found| (rule, found))).collect();
        for (index, (rule, (found, span))) in matches.iter().enumerate() {
            let earlier = matches[..index].iter().find(|(before, (known, _))| before != rule && same(known, found));
            if let Some((before, (_, first))) = earlier {
                let wrong = self.wrong(span, format!("rule {rule} takes what rule {before} takes already, so it never matches"));
                self.found.push(wrong.related(first.clone(), "here it is taken").hint("remove one of them, or let them differ"));
            }
        }
        let kind = self.document.resource.kind;
        for (other_kind, other_metadata, other) in self.after.routes().filter(|(other_kind, other, _)| {
            *other_kind != kind || (&other.namespace, &other.name) != (&metadata.namespace, &metadata.name)
        }) {
            // Routes of callers' namespaces replace the service's own for those callers, and never meet them.
            let same_side = |service: &ServiceName| {
                let producer = |metadata: &Metadata| metadata.namespace == service.namespace;
                producer(metadata) == producer(other_metadata) && (producer(metadata) || metadata.namespace == other_metadata.namespace)
            };
            let met = route.parents.iter().filter_map(|parent| Some((parent, parent.object.service()?))).find(|(parent, service)| {
                same_side(service)
                    && other.parents.iter().any(|known| {
                        known.object.service().as_ref() == Some(service)
                            && (known.port.is_none() || parent.port.is_none() || known.port == parent.port)
                    })
            });
            let Some((parent, service)) = met else { continue };
            if other_kind != kind {
                // Kinds are never merged: who writes the HTTPRoute is told.
                if kind == Kind::HttpRoute {
                    let other = format!("GRPCRoute {}.{}", other_metadata.name, other_metadata.namespace);
                    let message = format!("at ports of service {service} that {other} names too this route is not accepted");
                    self.warn(&parent.object.span, message, "let both be GRPCRoutes or HTTPRoutes, or name different ports");
                }
                continue;
            }
            let key = (&other_metadata.namespace, &other_metadata.name);
            let at = self.change.iter().position(|known| {
                let metadata = &known.resource.metadata;
                known.resource.kind == kind && (&metadata.namespace, &metadata.name) == key
            });
            // Of two routes of one change the later is told.
            if at.is_some_and(|at| at > self.index) {
                continue;
            }
            for (found, span) in route.rules.iter().flat_map(|rule| &rule.matches) {
                let taken =
                    other.rules.iter().enumerate().find_map(|(index, rule)| {
                        rule.matches.iter().find(|(known, _)| same(known, found)).map(|(_, first)| (index, first))
                    });
                if let Some((rule, first)) = taken {
                    let wrong = self.met(span, other_metadata, rule, first, at.and_then(|at| self.change.get(at)));
                    self.found.push(wrong);
                }
            }
        }
    }

    /// A match that a rule of another route has already; `by` is that route's document, where the change brings it.
    fn met(&self, span: &Range<usize>, other: &Metadata, rule: usize, first: &Range<usize>, by: Option<&Document>) -> Diagnostic {
        let route = format!("{} {}.{}", self.document.resource.kind, other.name, other.namespace);
        let place = match by {
            Some(by) if by.file != self.document.file => {
                let first = Diagnostic::error(&by.file, &(self.source)(&by.file), first.clone(), "");
                format!(" ({}:{}:{})", first.file, first.line, first.column)
            }
            _ => String::new(),
        };
        let wrong = self.wrong(
            span,
            format!("rule {rule} of {route}{place} takes the same requests of the same service; only their age would decide between them"),
        );
        let wrong = match by {
            Some(by) if by.file == self.document.file => wrong.related(first.clone(), "here they are taken"),
            _ => wrong,
        };
        wrong.hint(format!("put the rules into one route, or change {route} first"))
    }
}

/// Whether two matches take the same requests: the order of their fields says nothing, nor does a prefix's last slash.
fn same(one: &RouteMatch, other: &RouteMatch) -> bool {
    fn path(path: &PathMatch) -> (u8, &str) {
        match path {
            PathMatch::Exact(path) => (0, path),
            PathMatch::Prefix(prefix) => (1, prefix.trim_end_matches('/')),
            PathMatch::Regex(pattern) => (2, pattern.as_str()),
        }
    }
    // Names are unique among the fields of a match.
    let fields = |one: &[FieldMatch], other: &[FieldMatch]| one.len() == other.len() && one.iter().all(|field| other.contains(field));
    path(&one.path) == path(&other.path)
        && one.method == other.method
        && fields(&one.headers, &other.headers)
        && fields(&one.query, &other.query)
}
