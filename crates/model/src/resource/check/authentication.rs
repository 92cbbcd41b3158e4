//! How callers prove who they are, held against what it is about.

use crate::name::ServiceName;
use crate::resource::diagnostic::{Diagnostic, Severity};
use crate::resource::kinds::{AuthenticationPolicy, AuthenticationTarget, Spec};
use crate::resource::read::Document;
use crate::resource::{Kind, Metadata};
use crate::snapshot::Protocol;

use super::Checked;

/// Which tokens Envoys beside apps do not ask for.
pub(super) fn beyond_envoy(change: &[Document], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let at_services = |document: &&Document| {
        let Spec::AuthenticationPolicy(policy) = &document.resource.spec else { return false };
        !policy.shadow
            && policy.jwt.is_some()
            && (policy.targets.is_empty() || policy.targets.iter().any(|target| target.kind == Kind::Service))
    };
    let told = |document: &Document| {
        let message =
            "an Envoy beside an app, of which there may be some here, verifies no token: its ports for HTTP answer everything with 503";
        let told = Diagnostic::error(&document.file, &source(&document.file), document.name_span.clone(), message);
        Diagnostic { severity: Severity::Warning, ..told.hint("ask for tokens at a gateway, or run Lorica's proxy beside the app") }
    };
    change.iter().filter(at_services).map(told).collect()
}

impl Checked<'_> {
    pub(super) fn authentication(&mut self, metadata: &Metadata, policy: &AuthenticationPolicy) {
        for target in &policy.targets {
            match target.kind {
                Kind::Service => self.authenticated_service(metadata, policy, target),
                kind => {
                    if self.object(kind, metadata, &target.object) && kind != Kind::Gateway {
                        self.authenticated_route(metadata, target);
                    }
                }
            }
        }
        let Some(jwt) = &policy.jwt else { return };
        for provider in jwt.providers.iter().filter(|provider| provider.audiences.is_empty()) {
            let message = format!("every token of `{}` is taken, whomever it was issued for", provider.issuer);
            self.warn(&provider.span, message, "name `audiences`: a token that another service was given would else be good here");
        }
        if policy.shadow {
            return;
        }
        for other in self.after.of_kind(Kind::AuthenticationPolicy) {
            let Spec::AuthenticationPolicy(of_other) = &other.spec else { continue };
            let is_other = (&other.metadata.namespace, &other.metadata.name) != (&metadata.namespace, &metadata.name);
            if !is_other || of_other.shadow || of_other.jwt.is_none() || other.metadata.namespace != metadata.namespace {
                continue;
            }
            let at = |target: &&AuthenticationTarget| {
                let same = |known: &AuthenticationTarget| known.kind == target.kind && known.object.name == target.object.name;
                of_other.targets.iter().any(same)
            };
            let shared = policy.targets.iter().find(at);
            if shared.is_none() && !(policy.targets.is_empty() && of_other.targets.is_empty()) {
                continue;
            }
            let span = shared.map_or(&jwt.span, |target| &target.object.span).clone();
            let message = format!("AuthenticationPolicy {} asks for tokens there, too; the older of both decides", other.metadata.name);
            self.warn(&span, message, "put the providers into one policy");
        }
    }

    /// Connections whose bytes are not looked at show no token, so that none is let in where one is asked for.
    fn authenticated_service(&mut self, metadata: &Metadata, policy: &AuthenticationPolicy, target: &AuthenticationTarget) {
        let Some(name) = target.object.name.label() else { return };
        let name = ServiceName::new(metadata.namespace.clone(), name);
        let Some(ports) = self.service(&name, &target.object.span) else { return };
        let Some(jwt) = &policy.jwt else { return };
        let bytes: Vec<String> =
            ports.iter().filter(|(_, protocol)| *protocol == Protocol::Tcp).map(|(port, _)| port.to_string()).collect();
        if bytes.is_empty() || jwt.optional || policy.shadow {
            return;
        }
        let message = format!("port {} of `{name}` takes bytes, which show no token: every connection would be refused", bytes.join(", "));
        let hint = "declare the port with `appProtocol: http`, or give it to a Service of its own";
        let found = self.wrong(&target.object.span, message).hint(hint);
        self.found.push(found);
    }

    fn authenticated_route(&mut self, metadata: &Metadata, target: &AuthenticationTarget) {
        let found = self.after.of(target.kind, &metadata.namespace, &target.object.name);
        let Some(Spec::HttpRoute(route) | Spec::GrpcRoute(route)) = found.map(|found| &found.spec) else { return };
        if route.parents.iter().all(|parent| parent.object.is_service()) {
            let message = format!(
                "{} `{}` routes calls inside the mesh, whose tokens are asked for where they arrive",
                target.kind, target.object.name
            );
            let found = self.wrong(&target.object.span, message).hint("name the Service that is called");
            self.found.push(found);
        }
    }
}
