//! Gateways: listeners that cannot do what they say, and certificates that are not there or may not be shown.

use super::Checked;
use crate::resource::kinds::{Gateway, ListenerProtocol, ObjectRef, ParentRef, Spec};
use crate::resource::nearest::nearest;
use crate::resource::{GATEWAY_GROUP, Kind, Metadata};

impl Checked<'_> {
    /// Listeners that ask for HTTP/3 where it cannot be.
    pub(super) fn http3(&mut self, gateway: &Gateway) {
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

    /// Secrets and ConfigMaps that hold certificates. Those of other namespaces must let themselves be used.
    pub(super) fn certificates<'o>(&mut self, metadata: &Metadata, objects: impl Iterator<Item = &'o ObjectRef>) {
        let kind = self.document.resource.kind;
        for object in objects.filter(|object| object.group.is_empty()) {
            // What cannot hold a certificate is told by the status.
            let Some(of) = [Kind::Secret, Kind::ConfigMap].into_iter().find(|of| of.as_str() == object.kind) else { continue };
            if !self.after.grants((GATEWAY_GROUP, kind, &metadata.namespace), object) {
                let hint = format!(
                    "a ReferenceGrant in `{}`: from {{group: {GATEWAY_GROUP}, kind: {kind}, namespace: {}}}, to {{group: \"\", kind: {of}, name: {}}}",
                    object.namespace, metadata.namespace, object.name
                );
                let message =
                    format!("nothing in `{}` lets a {kind} of `{}` refer to it, so it is not used", object.namespace, metadata.namespace);
                self.warn(&object.span, message, &hint);
            } else if self.after.of(of, &object.namespace, &object.name).is_none() {
                let known: Vec<&str> = self
                    .after
                    .of_kind(of)
                    .filter(|found| found.metadata.namespace == object.namespace)
                    .map(|found| found.metadata.name.as_str())
                    .collect();
                let hint = nearest(object.name.as_str(), known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                self.missing(&object.span, format!("there is no {of} `{}.{}`", object.name, object.namespace), hint);
            }
        }
    }

    /// Gateways and ListenerSets that routes attach to, with the listeners that they name.
    pub(super) fn gateways(&mut self, parents: &[ParentRef]) {
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
}
