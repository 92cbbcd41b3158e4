//! What limits name: services, gateways and routes, and the service that is asked.

use crate::name::{ObjectName, ServiceName};
use crate::resource::kinds::{AuthenticationPolicy, AuthenticationTarget, RateLimitPolicy, RateLimitTarget, Spec};
use crate::resource::{Kind, Metadata, Resource};
use crate::snapshot::{KeyPart, Protocol};

use super::Checked;

impl Checked<'_> {
    pub(super) fn rate_limits(&mut self, metadata: &Metadata, policy: &RateLimitPolicy) {
        for target in &policy.targets {
            match target.kind {
                Kind::Service => self.limited_service(metadata, target),
                Kind::Gateway => drop(self.object(target.kind, metadata, &target.object)),
                _ => self.limited_route(metadata, target),
            }
        }
        self.claimed(metadata, policy);
        if policy.targets.iter().any(|target| target.kind != Kind::Service) {
            for limit in policy.limits.iter().filter(|limit| limit.key.contains(&KeyPart::Caller)) {
                let message =
                    format!("the limit `{}` counts by caller, and who calls a gateway proves no identity of the mesh", limit.name);
                let found = self.wrong(&limit.span, message).hint("count by `{source: Address}` or by a header there");
                self.found.push(found);
            }
        }
        if let Some(service) = &policy.service
            && let Some(ports) = self.service(&service.port.service, &service.span)
            && let Some(protocol) = self.port(&service.port.service, &ports, service.port.port, &service.port_span)
            && !matches!(protocol, Protocol::Grpc | Protocol::Http2)
        {
            let message = format!("port {} of `{}` is not declared to speak gRPC", service.port.port, service.port.service);
            let found = self.wrong(&service.port_span, message).hint("write `appProtocol: grpc` in the Service");
            self.found.push(found);
        }
    }

    /// A claim counts where somebody verifies tokens; elsewhere all requests would count as one.
    fn claimed(&mut self, metadata: &Metadata, policy: &RateLimitPolicy) {
        let by_claim = |part: &KeyPart| matches!(part, KeyPart::Claim(_));
        let Some(limit) = policy.limits.iter().find(|limit| limit.key.iter().any(by_claim)) else { return };
        let asking: Vec<&AuthenticationPolicy> = self
            .after
            .authentication()
            .filter(|(of, asking)| !asking.shadow && of.namespace == metadata.namespace && asking.jwt.is_some())
            .map(|(_, asking)| asking)
            .collect();
        let of = |kind: Kind, name: &ObjectName| {
            let named = |asking: &&AuthenticationPolicy| {
                let is = |target: &AuthenticationTarget| target.kind == kind && target.object.name == *name;
                asking.targets.iter().any(is) || (kind == Kind::Service && asking.targets.is_empty())
            };
            asking.iter().any(named)
        };
        // A route's tokens may be asked for at its gateway.
        let of_parents = |target: &RateLimitTarget| match self.after.of(target.kind, &metadata.namespace, &target.object.name) {
            Some(Resource { spec: Spec::HttpRoute(route) | Spec::GrpcRoute(route), .. }) => {
                route.parents.iter().any(|parent| of(Kind::Gateway, &parent.object.name))
            }
            _ => false,
        };
        let unasked = policy.targets.iter().find(|target| !of(target.kind, &target.object.name) && !of_parents(target));
        let what = match unasked {
            Some(target) => format!("{} `{}`", target.kind, target.object.name),
            None if policy.targets.is_empty() && !asking.iter().any(|asking| asking.targets.is_empty()) => {
                format!("the namespace `{}`", metadata.namespace)
            }
            None => return,
        };
        let message = format!("the limit `{}` counts by a claim, and nobody verifies tokens for {what}", limit.name);
        let hint = "add an AuthenticationPolicy with `jwt` and the same `targetRefs`";
        let found = self.wrong(&limit.span, message).hint(hint);
        self.found.push(found);
    }

    /// Requests are what is limited: bytes have neither header nor path, and nobody to be told 429.
    fn limited_service(&mut self, metadata: &Metadata, target: &RateLimitTarget) {
        let Some(name) = target.object.name.label() else { return };
        let name = ServiceName::new(metadata.namespace.clone(), name);
        let Some(ports) = self.service(&name, &target.object.span) else { return };
        if !ports.is_empty() && ports.iter().all(|(_, protocol)| *protocol == Protocol::Tcp) {
            let message = format!("the ports of `{name}` take bytes, and limits count requests");
            let found = self.wrong(&target.object.span, message).hint("declare the port that speaks HTTP with `appProtocol: http`");
            self.found.push(found);
        }
    }

    fn limited_route(&mut self, metadata: &Metadata, target: &RateLimitTarget) {
        if !self.object(target.kind, metadata, &target.object) {
            return;
        }
        let found = self.after.of(target.kind, &metadata.namespace, &target.object.name);
        let Some(Spec::HttpRoute(route) | Spec::GrpcRoute(route)) = found.map(|found| &found.spec) else { return };
        if route.parents.iter().all(|parent| parent.object.is_service()) {
            let message =
                format!("{} `{}` routes calls inside the mesh, which are limited where they arrive", target.kind, target.object.name);
            let hint = "name the Service that is called: `{kind: Service, name: …}`, with `match` for some of its requests";
            let found = self.wrong(&target.object.span, message).hint(hint);
            self.found.push(found);
        }
    }
}
