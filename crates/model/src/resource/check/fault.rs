//! Faults: whose calls they are about, and what these cannot meet.

use std::time::SystemTime;

use super::Checked;
use crate::name::ServiceName;
use crate::resource::diagnostic::{Diagnostic, Severity};
use crate::resource::kinds::{FaultPolicy, FaultTarget, Spec};
use crate::resource::nearest::nearest;
use crate::resource::read::Document;
use crate::resource::{Kind, Metadata};
use crate::snapshot::{AbortAnswer, DelayTime, Protocol};

/// Faults of a change that are over at `now`, before they began. What is stored, or read from files again, may be: it does nothing any more.
#[must_use]
pub fn over(change: &[Document], now: SystemTime, source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for document in change {
        let Spec::FaultPolicy(policy) = &document.resource.spec else { continue };
        if policy.ends <= now {
            let message = "this time is over: the fault would never be met";
            let wrong = Diagnostic::error(&document.file, &source(&document.file), policy.ends_span.clone(), message);
            found.push(wrong.hint("write a time to come, or say `lorica fault add … --for 10m`"));
        }
    }
    found
}

/// What of a change Envoys and clients of gRPC do not carry out as Lorica's proxies do: worth knowing where there are some.
#[must_use]
pub fn beyond_envoy(change: &[Document], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for document in change {
        if let Spec::AuthenticationPolicy(_) | Spec::TrafficPolicy(_) | Spec::EgressPolicy(_) | Spec::FaultPolicy(_) =
            &document.resource.spec
            && document.resource.spec.is_tried()
        {
            let message = "Envoys and clients of gRPC, of which some are here, count nothing of what is tried".to_owned();
            let told = Diagnostic::error(&document.file, &source(&document.file), document.name_span.clone(), message);
            found.push(Diagnostic { severity: Severity::Warning, ..told.hint("calls that Lorica's proxies see are counted") });
            continue;
        }
        let Spec::FaultPolicy(policy) = &document.resource.spec else { continue };
        let drawn = policy.delay.is_some_and(|delay| !matches!(delay.time, DelayTime::Fixed(_)));
        let parts =
            [(policy.reset.is_some(), "reset nothing"), (policy.dns.is_some(), "answer every name"), (drawn, "delay by the mean alone")];
        let parts: Vec<&str> = parts.into_iter().filter_map(|(is_there, part)| is_there.then_some(part)).collect();
        if parts.is_empty() {
            continue;
        }
        let message = format!("Envoys and clients of gRPC, of which some are here, {}", parts.join(", "));
        let told = Diagnostic::error(&document.file, &source(&document.file), document.name_span.clone(), message);
        found.push(Diagnostic { severity: Severity::Warning, ..told.hint("docs/faults.md says what each carries out") });
    }
    found.extend(super::authentication::beyond_envoy(change, &source));
    found.extend(super::telemetry::beyond_envoy(change, &source));
    found.extend(super::authorization::beyond_envoy(change, source));
    found
}

impl Checked<'_> {
    pub(super) fn fault(&mut self, metadata: &Metadata, policy: &FaultPolicy) {
        let mut protocols: Vec<Protocol> = Vec::new();
        for target in &policy.targets {
            match target {
                FaultTarget::Service { name, span } => {
                    let service = ServiceName::new(metadata.namespace.clone(), name.clone());
                    let Some(ports) = self.service(&service, span) else { continue };
                    let own: Vec<Protocol> = ports.into_iter().map(|(_, protocol)| protocol).collect();
                    self.of_bytes(&service, &own, policy);
                    protocols.extend(own);
                }
                FaultTarget::Route { kind, name, span } => {
                    if self.after.of(*kind, &metadata.namespace, name).is_none() {
                        let known = self.after.of_kind(*kind).filter(|found| found.metadata.namespace == metadata.namespace);
                        let known: Vec<&str> = known.map(|found| found.metadata.name.as_str()).collect();
                        let hint = nearest(name.as_str(), known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                        self.missing(span, format!("there is no {kind} `{name}.{}`", metadata.namespace), hint);
                    }
                    protocols.push(if *kind == Kind::GrpcRoute { Protocol::Grpc } else { Protocol::Detect });
                    if policy.dns.is_some() {
                        let message = format!("a question for a name takes no route, so `dns` says nothing of {kind} `{name}`");
                        let wrong = self.wrong(&policy.dns_span, message).hint("name Services as targets");
                        self.found.push(wrong);
                    }
                }
            }
        }
        if policy.dns.is_some() && !policy.headers.is_empty() {
            let wrong =
                self.wrong(&policy.dns_span, "a question for a name has no headers, so `match.headers` never holds for it".to_owned());
            self.found.push(wrong.hint("put `dns` into a FaultPolicy of its own"));
        }
        let may_be_grpc = |protocol: &Protocol| matches!(protocol, Protocol::Grpc | Protocol::Http2 | Protocol::Detect);
        let answers_grpc = policy.abort.is_some_and(|abort| matches!(abort.answer, AbortAnswer::Grpc(_)));
        if answers_grpc && !protocols.is_empty() && !protocols.iter().any(may_be_grpc) {
            let message = "no port of its targets speaks gRPC: callers of HTTP get the status that stands for it".to_owned();
            self.warn(&policy.abort_span, message, "write `httpStatus`, or declare the port as grpc");
        }
    }

    /// What connections whose bytes are not looked at cannot meet.
    fn of_bytes(&mut self, service: &ServiceName, protocols: &[Protocol], policy: &FaultPolicy) {
        if protocols.is_empty() || !protocols.iter().all(|protocol| *protocol == Protocol::Tcp) {
            return;
        }
        if policy.abort.is_some() {
            let message = format!("`{service}` is declared as tcp: its bytes are not looked at, so nothing can be answered there");
            let wrong = self.wrong(&policy.abort_span, message).hint("use `reset`, or declare the port as http");
            self.found.push(wrong);
        } else if let Some(field) = policy.headers.first() {
            let span = self.document.name_span.clone();
            let message =
                format!("`{service}` is declared as tcp: no connection has the header `{}`, so the fault would never be met", field.name);
            let wrong = self.wrong(&span, message).hint("leave `match.headers` out, or declare the port as http");
            self.found.push(wrong);
        }
    }
}
