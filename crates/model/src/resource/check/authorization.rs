//! Who may do what, held against the services that it is about: rules that could never decide anything are refused.

use crate::name::{Label, Namespace, ServiceName};
use crate::resource::kinds::{AuthorizationPolicy, AuthorizationTarget, IdentityOf, ListenerProtocol, Spec};
use crate::resource::nearest::nearest;
use crate::resource::{Kind, Metadata};
use crate::snapshot::{AccessAction, Protocol};

use super::Checked;

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
            let hint = match policy.action {
                AccessAction::Deny => "every connection would be denied; name `ports`, or declare the port with `appProtocol: http`",
                AccessAction::Allow | AccessAction::Audit => {
                    "the rule would never hold; name `ports`, or declare the port with `appProtocol: http`"
                }
            };
            let found = self.wrong(span, message).hint(hint);
            self.found.push(found);
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

fn listed(ports: &[&(u16, Protocol)]) -> String {
    let ports: Vec<String> = ports.iter().map(|(port, _)| port.to_string()).collect();
    format!("port {}", ports.join(", "))
}
