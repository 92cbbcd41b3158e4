//! What proxies tell of exchanges: whose they are, and which of two policies is heard.

use super::Checked;
use crate::name::ServiceName;
use crate::resource::diagnostic::{Diagnostic, Severity};
use crate::resource::kinds::{Spec, TelemetryPolicy, TelemetryTarget};
use crate::resource::read::Document;
use crate::resource::{Kind, Metadata};
use crate::snapshot::LogTarget;

/// What Envoys do not carry out as Lorica's proxies do.
pub(super) fn beyond_envoy(change: &[Document], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for document in change {
        let Spec::TelemetryPolicy(policy) = &document.resource.spec else { continue };
        let mut parts = Vec::new();
        if policy.targets.is_empty() || policy.targets.iter().any(|target| target.kind == Kind::Service) {
            parts.push("those beside apps log and trace as their bootstrap says");
        }
        if policy.access_log.as_ref().is_some_and(|written| written.log.to.contains(&LogTarget::Otlp)) {
            parts.push("they know no collectors and log nothing to any");
        }
        if policy
            .tracing
            .as_ref()
            .is_some_and(|written| written.tracing.keep_failed == Some(true) || written.tracing.keep_slower_than.is_some())
        {
            parts.push("they keep the sampled share alone");
        }
        if parts.is_empty() {
            continue;
        }
        let message = format!("of Envoys, of which some are here, {}", parts.join("; "));
        let told = Diagnostic::error(&document.file, &source(&document.file), document.name_span.clone(), message);
        found.push(Diagnostic { severity: Severity::Warning, ..told.hint("docs/access-logs.md says what each carries out") });
    }
    found
}

impl Checked<'_> {
    pub(super) fn telemetry(&mut self, metadata: &Metadata, policy: &TelemetryPolicy) {
        for target in &policy.targets {
            match target.kind {
                Kind::Service => {
                    if let Some(name) = target.object.name.label() {
                        self.service(&ServiceName::new(metadata.namespace.clone(), name), &target.object.span);
                    }
                }
                kind => drop(self.object(kind, metadata, &target.object)),
            }
        }
        let sections = [
            ("tracing", policy.tracing.as_ref().map(|written| written.span.clone())),
            ("accessLog", policy.access_log.as_ref().map(|written| written.span.clone())),
        ];
        for (section, span) in sections {
            let Some(span) = span else { continue };
            let says = |other: &TelemetryPolicy| if section == "tracing" { other.tracing.is_some() } else { other.access_log.is_some() };
            let elsewhere = self.after.telemetry().find(|(of, other)| {
                of.namespace == metadata.namespace && of.name != metadata.name && says(other) && same_place(policy, other)
            });
            if let Some((other, _)) = elsewhere {
                let message = format!("TelemetryPolicy {} says `{section}` of the same proxies; the older of both is heard", other.name);
                self.warn(
                    &span,
                    message,
                    "say it in one policy, or name targets: a policy that names them is heard before one that does not",
                );
            }
        }
    }
}

/// Whether both are about some proxy with the same right.
fn same_place(one: &TelemetryPolicy, other: &TelemetryPolicy) -> bool {
    let named =
        |target: &TelemetryTarget| other.targets.iter().any(|known| known.kind == target.kind && known.object.name == target.object.name);
    (one.targets.is_empty() && other.targets.is_empty()) || one.targets.iter().any(named)
}
