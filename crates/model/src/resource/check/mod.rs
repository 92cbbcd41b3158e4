//! What only all resources together can tell: a change is held against the world it would make.

mod authentication;
mod authorization;
mod fault;
mod gateway;
mod overlap;
mod rate_limit;
mod route;
mod telemetry;
mod traffic;
mod trust_bundle;

pub use fault::{beyond_envoy, over};

use std::collections::BTreeSet;
use std::ops::Range;

use crate::name::ServiceName;
use crate::snapshot::Protocol;

use super::diagnostic::{Diagnostic, Severity};
use super::kinds::{
    EGRESS_PROTOCOL, EgressPolicy, EgressTarget, Listener, ListenerProtocol, ObjectRef, ServicePortSpec, Spec, TlsPolicyTarget,
};
use super::nearest::nearest;
use super::read::Document;
use super::{Kind, Metadata, Resources};

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
            Spec::TrustBundle(bundle) => self.trust_bundle(metadata, bundle),
            Spec::Workload(workload) => {
                self.foreign_workload(workload);
                let Some(ports) = self.service(&workload.service, &workload.service_span) else { return };
                for port in &workload.ports {
                    self.port(&workload.service, &ports, port.service_port, &port.span);
                }
            }
            Spec::AuthenticationPolicy(policy) => self.authentication(metadata, policy),
            Spec::AuthorizationPolicy(policy) => self.authorization(metadata, policy),
            Spec::TrafficPolicy(policy) => self.traffic(metadata, policy),
            Spec::EgressPolicy(policy) => self.egress(metadata, policy),
            Spec::RateLimitPolicy(policy) => self.rate_limits(metadata, policy),
            Spec::FaultPolicy(policy) => self.fault(metadata, policy),
            Spec::TelemetryPolicy(policy) => self.telemetry(metadata, policy),
            Spec::Gateway(gateway) => {
                self.http3(gateway);
                self.certificates(metadata, gateway.references());
            }
            Spec::ListenerSet(set) => self.certificates(metadata, set.listeners.iter().flat_map(Listener::certificates)),
            Spec::BackendTlsPolicy(policy) => self.certificates(metadata, policy.roots.iter()),
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

    /// Whether an object that is named is there.
    fn object(&mut self, kind: Kind, metadata: &Metadata, named: &ObjectRef) -> bool {
        let name = &named.name;
        if self.after.of(kind, &metadata.namespace, name).is_some() {
            return true;
        }
        let neighbours = self.after.of_kind(kind).filter(|found| found.metadata.namespace == metadata.namespace);
        let hint =
            nearest(name.as_str(), neighbours.map(|found| found.metadata.name.as_str())).map(|near| format!("did you mean `{near}`?"));
        self.missing(&named.span, format!("there is no {kind} `{name}.{}`", metadata.namespace), hint);
        false
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

    fn warn(&mut self, span: &Range<usize>, message: String, hint: &str) {
        let found = Diagnostic { severity: Severity::Warning, ..self.wrong(span, message).hint(hint) };
        self.found.push(found);
    }
}
