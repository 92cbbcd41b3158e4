//! Who may do what, held against the services that it is about: rules that could never decide anything are refused.

use crate::cel::Attribute;
use crate::name::{Label, Namespace, ObjectName, ServiceName};
use crate::resource::diagnostic::{Diagnostic, Severity};
use crate::resource::kinds::{
    AuthenticationTarget, AuthorizationPolicy, AuthorizationTarget, IdentityOf, ListenerProtocol, ParentRef, Spec,
};
use crate::resource::nearest::nearest;
use crate::resource::read::Document;
use crate::resource::{Kind, Metadata};
use crate::snapshot::{AccessAction, Protocol};

use super::Checked;

/// Which conditions Envoys do not evaluate.
pub(super) fn beyond_envoy(change: &[Document], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for document in change {
        let Spec::AuthorizationPolicy(policy) = &document.resource.spec else { continue };
        let of_macro = policy.rules.iter().filter_map(|rule| rule.when.as_ref()).find(|when| when.expression.macro_range().is_some());
        let Some(when) = of_macro else { continue };
        let what = match policy.action {
            AccessAction::Deny => "the rule denies there without its condition",
            AccessAction::Allow | AccessAction::Audit => "the rule never holds there",
        };
        let message = format!("Envoys, of which some are here, go through no list or map in a condition: {what}");
        let told = Diagnostic::error(&document.file, &source(&document.file), when.span.clone(), message);
        let hint = "do without `all`, `exists`, `exists_one`, `filter` and `map`: `'admin' in claims.groups`, or `claims` of `from`";
        found.push(Diagnostic { severity: Severity::Warning, ..told.hint(hint) });
    }
    found
}

impl Checked<'_> {
    pub(super) fn authorization(&mut self, metadata: &Metadata, policy: &AuthorizationPolicy) {
        for target in &policy.targets {
            match target.kind {
                Kind::Service => self.protected_service(metadata, policy, target),
                Kind::Gateway => self.protected_gateway(metadata, target),
                kind => {
                    if self.object(kind, metadata, &target.object) {
                        self.protected_route(metadata, target);
                    }
                }
            }
        }
        self.claims_without_tokens(metadata, policy);
        let sources = || policy.rules.iter().flat_map(|rule| &rule.from);
        if policy.targets.iter().any(|target| target.kind != Kind::Service) {
            for identity in sources().flat_map(|source| &source.identities.any) {
                let found =
                    self.wrong(&identity.span, "who calls a gateway proves no identity of the mesh, so this never holds there".to_owned());
                let found = found.hint("name addresses, or claims of a token");
                self.found.push(found);
            }
        }
        for identity in sources().flat_map(|source| source.identities.any.iter().chain(&source.identities.none)) {
            if let IdentityOf::Account(namespace, account) = &identity.of {
                self.account(namespace, account, &identity.span);
            }
        }
    }

    /// A rule for what never comes is refused where it is an `Allow`; a `Deny` denies more than it says, which is told.
    fn protected_service(&mut self, metadata: &Metadata, policy: &AuthorizationPolicy, target: &AuthorizationTarget) {
        let Some(name) = target.object.name.label() else { return };
        let name = ServiceName::new(metadata.namespace.clone(), name);
        let Some(ports) = self.service(&name, &target.object.span) else { return };
        for operation in policy.rules.iter().flat_map(|rule| &rule.to) {
            for (port, span) in &operation.port_spans {
                self.port(&name, &ports, *port, span);
            }
            let Some(span) = &operation.http_span else { continue };
            let meant =
                ports.iter().filter(|(port, _)| operation.operation.ports.any.is_empty() || operation.operation.ports.any.contains(port));
            let meant: Vec<_> = meant.collect();
            if meant.is_empty() || !meant.iter().all(|(_, protocol)| *protocol == Protocol::Tcp) {
                continue;
            }
            let message = format!("`{name}` takes bytes at {}, which have no method, path, host or header", listed(&meant));
            let found = self.wrong(span, message).hint(of_bytes(policy.action));
            self.found.push(found);
        }
        self.asked_of_bytes(&name, &ports, policy);
    }

    /// What is asked of requests by who makes them, or by a condition, means no bytes either.
    fn asked_of_bytes(&mut self, name: &ServiceName, ports: &[(u16, Protocol)], policy: &AuthorizationPolicy) {
        for rule in &policy.rules {
            let takes = |port: &u16| rule.to.is_empty() || rule.to.iter().any(|written| written.operation.takes_port(*port));
            let meant: Vec<_> = ports.iter().filter(|(port, _)| takes(port)).collect();
            if meant.is_empty() || !meant.iter().all(|(_, protocol)| *protocol == Protocol::Tcp) {
                continue;
            }
            let mut asked: Vec<(&std::ops::Range<usize>, &str)> = Vec::new();
            // Another caller may be told by its connection.
            if rule.from.iter().all(|source| source.claims_span.is_some()) {
                asked.extend(rule.from.iter().filter_map(|source| source.claims_span.as_ref()).map(|span| (span, "show no token")));
            }
            let of_http = rule.when.as_ref().filter(|when| when.expression.is_of_http());
            asked.extend(of_http.map(|when| (&when.span, "are no requests, as this condition asks about")));
            for (span, what) in asked {
                let message = format!("`{name}` takes bytes at {}, which {what}", listed(&meant));
                let found = self.wrong(span, message).hint(of_bytes(policy.action));
                self.found.push(found);
            }
        }
    }

    /// Claims are those of a token that was verified.
    fn claims_without_tokens(&mut self, metadata: &Metadata, policy: &AuthorizationPolicy) {
        let by_source = policy.rules.iter().flat_map(|rule| &rule.from).find_map(|source| source.claims_span.as_ref());
        let conditions = || policy.rules.iter().filter_map(|rule| rule.when.as_ref());
        let by_condition = || conditions().find(|when| when.expression.asks(Attribute::Claims)).map(|when| &when.span);
        let Some(span) = by_source.or_else(by_condition).cloned() else { return };
        let unverified = match policy.targets.as_slice() {
            [] => (!self.verifies(|target| target.is_none_or(|target| target.kind == Kind::Service), &metadata.namespace))
                .then(|| format!("services of `{}`", metadata.namespace)),
            targets => {
                let missing = targets.iter().find(|target| !self.has_tokens(metadata, target));
                missing.map(|target| format!("the {} `{}`", target.kind, target.object.name))
            }
        };
        let Some(place) = unverified else { return };
        let message = format!("no AuthenticationPolicy asks for tokens at {place}, so that nothing is known of claims there");
        self.warn(&span, message, "ask for them by an AuthenticationPolicy with `jwt` for the same target");
    }

    /// Whether a policy of a namespace asks for tokens at a target that is meant; none: at all services.
    fn verifies(&self, meant: impl Fn(Option<&AuthenticationTarget>) -> bool, namespace: &Namespace) -> bool {
        let asking = self.after.authentication().filter(|(metadata, policy)| metadata.namespace == *namespace && policy.jwt.is_some());
        let mut asking = asking.map(|(_, policy)| policy);
        asking.any(|policy| if policy.targets.is_empty() { meant(None) } else { policy.targets.iter().any(|target| meant(Some(target))) })
    }

    /// Whether tokens are asked for at what a policy protects, or at a part of it.
    fn has_tokens(&self, metadata: &Metadata, protected: &AuthorizationTarget) -> bool {
        let same = |target: &AuthenticationTarget| target.kind == protected.kind && target.object.name == protected.object.name;
        if self.verifies(|target| target.map_or(protected.kind == Kind::Service, same), &metadata.namespace) {
            return true;
        }
        let names = |kind: Kind, name: &ObjectName| {
            let name = name.clone();
            move |target: Option<&AuthenticationTarget>| target.is_some_and(|target| target.kind == kind && target.object.name == name)
        };
        // What is attached by a ListenerSet is not followed further: it may be.
        let is_set = |parent: &ParentRef| parent.object.kind == Kind::ListenerSet.as_str();
        match protected.kind {
            Kind::Service => false,
            Kind::Gateway => {
                let is_this = |parent: &ParentRef| {
                    let object = &parent.object;
                    is_set(parent)
                        || object.kind == Kind::Gateway.as_str()
                            && object.name == protected.object.name
                            && object.namespace == metadata.namespace
                };
                let mut routes = [Kind::HttpRoute, Kind::GrpcRoute].into_iter().flat_map(|kind| self.after.of_kind(kind));
                routes.any(|found| {
                    matches!(&found.spec, Spec::HttpRoute(route) | Spec::GrpcRoute(route) if route.parents.iter().any(is_this))
                        && self.verifies(names(found.kind, &found.metadata.name), &found.metadata.namespace)
                })
            }
            kind => {
                let found = self.after.of(kind, &metadata.namespace, &protected.object.name);
                let Some(Spec::HttpRoute(route) | Spec::GrpcRoute(route)) = found.map(|found| &found.spec) else { return true };
                let of_gateway = |parent: &ParentRef| {
                    is_set(parent) || self.verifies(names(Kind::Gateway, &parent.object.name), &parent.object.namespace)
                };
                route.parents.iter().any(of_gateway)
            }
        }
    }

    /// Datagrams are nobody's, and what leaves the mesh is an EgressPolicy's affair: no policy is asked there.
    fn protected_gateway(&mut self, metadata: &Metadata, target: &AuthorizationTarget) {
        if !self.object(Kind::Gateway, metadata, &target.object) {
            return;
        }
        let Some((_, gateway)) = self.after.gateway(&metadata.namespace, &target.object.name) else { return };
        let unasked =
            gateway.listeners.iter().find(|listener| matches!(listener.protocol, ListenerProtocol::Udp | ListenerProtocol::Egress));
        if let Some(listener) = unasked {
            let message = format!("the listener `{}` of that Gateway asks no AuthorizationPolicy", listener.name);
            self.warn(
                &target.object.span,
                message,
                "it is about listeners for HTTP, TLS and TCP; of calls that leave the mesh an EgressPolicy tells",
            );
        }
    }

    /// Calls inside the mesh are judged where they arrive.
    fn protected_route(&mut self, metadata: &Metadata, target: &AuthorizationTarget) {
        let found = self.after.of(target.kind, &metadata.namespace, &target.object.name);
        let Some(Spec::HttpRoute(route) | Spec::GrpcRoute(route)) = found.map(|found| &found.spec) else { return };
        if route.parents.iter().all(|parent| parent.object.is_service()) {
            let message =
                format!("{} `{}` routes calls inside the mesh, which are judged where they arrive", target.kind, target.object.name);
            let hint = "name the Service that is called: `{kind: Service, name: …}`, with `to` for some of its requests";
            let found = self.wrong(&target.object.span, message).hint(hint);
            self.found.push(found);
        }
    }

    /// An account that no service of the mesh runs under is likely a mistake; a workload of that account may come later.
    fn account(&mut self, namespace: &Namespace, account: &Label, span: &std::ops::Range<usize>) {
        let of_namespace = || self.after.services().filter(|(metadata, _)| metadata.namespace == *namespace);
        let runs = |metadata: &Metadata, accounts: &[Label]| metadata.name.as_str() == account.as_str() || accounts.contains(account);
        if of_namespace().any(|(metadata, service)| runs(metadata, &service.accounts)) {
            return;
        }
        let workload = |metadata: &Metadata, of: Option<&Label>| metadata.namespace == *namespace && of == Some(account);
        if self.after.workloads().any(|(metadata, found)| workload(metadata, found.account.as_ref())) {
            return;
        }
        let near = nearest(account.as_str(), of_namespace().map(|(metadata, _)| metadata.name.as_str()));
        let hint = near.map_or_else(|| "it counts once a workload runs under it".to_owned(), |near| format!("did you mean `{near}`?"));
        self.warn(span, format!("no service runs under the account `{account}` of the namespace `{namespace}`"), &hint);
    }
}

/// What becomes of a rule that asks of bytes what they do not have.
fn of_bytes(action: AccessAction) -> &'static str {
    match action {
        AccessAction::Deny => "every connection would be denied; name `ports`, or declare the port with `appProtocol: http`",
        AccessAction::Allow | AccessAction::Audit => {
            "the rule would never hold; name `ports`, or declare the port with `appProtocol: http`"
        }
    }
}

fn listed(ports: &[&(u16, Protocol)]) -> String {
    let ports: Vec<String> = ports.iter().map(|(port, _)| port.to_string()).collect();
    format!("port {}", ports.join(", "))
}
