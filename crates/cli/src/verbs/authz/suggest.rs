//! The least policies that allow what was seen, with the evidence beside each rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use lorica_api::ObservedCall;
use lorica_model::name::Label;
use lorica_model::snapshot::PathPattern;
use lorica_model::spiffe::SpiffeId;

use crate::args::AuthzSuggestArgs;
use crate::printer::Printer;

/// How many paths of one caller are named; of more, what stands below their first segment is allowed.
const MOST_PATHS: usize = 32;

/// What one caller did, by port: methods and paths; nothing for bytes.
type Did = BTreeSet<(u16, Option<(String, String)>)>;

/// How often, and when.
#[derive(Debug, Clone)]
struct Evidence {
    times: u64,
    first: String,
    last: String,
}

pub(super) fn suggest(calls: &[ObservedCall], arguments: &AuthzSuggestArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let wanted = |call: &&ObservedCall| arguments.service.as_ref().is_none_or(|service| call.port.service.name == *service);
    let calls: Vec<&ObservedCall> = calls.iter().filter(wanted).collect();
    let mut services: BTreeMap<&Label, Vec<&ObservedCall>> = BTreeMap::new();
    calls.into_iter().for_each(|call| services.entry(&call.port.service.name).or_default().push(call));
    if services.is_empty() {
        printer.note("nothing was seen yet: calls are told by the proxies of the services that are called, within a second or two");
        return Ok(ExitCode::FAILURE);
    }
    let documents: Vec<String> = services.iter().map(|(service, calls)| document(arguments, service, calls)).collect();
    printer.data(documents.join("---\n").trim_end());
    Ok(ExitCode::SUCCESS)
}

fn document(arguments: &AuthzSuggestArgs, service: &Label, calls: &[&ObservedCall]) -> String {
    let mut callers: BTreeMap<&str, (Did, Evidence)> = BTreeMap::new();
    let mut strangers: BTreeSet<String> = BTreeSet::new();
    let mut denied = 0;
    for call in calls {
        if call.denied {
            denied += call.times;
            continue;
        }
        let Some(caller) = &call.caller else {
            strangers.extend(call.address.map(|address| address.to_string()));
            continue;
        };
        let evidence = Evidence { times: 0, first: call.first.clone(), last: call.last.clone() };
        let (did, seen) = callers.entry(caller).or_insert_with(|| (Did::new(), evidence));
        did.insert((call.port.port, call.method.clone().zip(call.path.clone())));
        seen.times += call.times;
        // RFC 3339 of one zone sorts as text.
        seen.first = seen.first.clone().min(call.first.clone());
        seen.last = seen.last.clone().max(call.last.clone());
    }
    // Who did the same shares a rule.
    let mut rules: BTreeMap<Vec<Operation>, Vec<(&str, Evidence)>> = BTreeMap::new();
    for (caller, (did, evidence)) in callers {
        rules.entry(operations(&did)).or_default().push((caller, evidence));
    }
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{line}");
    };
    line("apiVersion: lorica.io/v1alpha1".to_owned());
    line("kind: AuthorizationPolicy".to_owned());
    line(format!("metadata: {{name: {service}, namespace: {}}}", arguments.namespace));
    line("spec:".to_owned());
    line(format!("  targetRefs: [{{kind: Service, name: {service}}}]"));
    line("  mode: Shadow   # tries it; without this line it is in force".to_owned());
    if !strangers.is_empty() {
        let list = strangers.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        line(format!("  # left out, as they prove no identity: {list} (`lorica mtls status`)"));
    }
    if denied > 0 {
        line(format!("  # left out, as policies deny them: {denied} calls"));
    }
    line(if rules.is_empty() { "  rules: []".to_owned() } else { "  rules:".to_owned() });
    for (operations, callers) in rules {
        let names: Vec<String> = callers.iter().map(|(caller, _)| identity(caller, arguments.namespace.as_str())).collect();
        for ((_, Evidence { times, first, last }), name) in callers.iter().zip(&names) {
            line(format!("  # {name}: {times} calls, first {first}, last {last}"));
        }
        line(format!("  - from: [{{identities: [{}]}}]", names.join(", ")));
        line("    to:".to_owned());
        for operation in operations {
            line(format!("    - {}", operation.written()));
        }
    }
    text
}

/// Calls of some methods to some paths of a port; of neither: connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Operation {
    port: u16,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl Operation {
    fn written(&self) -> String {
        let mut parts = Vec::new();
        if !self.methods.is_empty() {
            parts.push(format!("methods: [{}]", self.methods.iter().cloned().collect::<Vec<_>>().join(", ")));
            let paths: Vec<String> = self.paths.iter().map(|path| serde_json::Value::from(path.as_str()).to_string()).collect();
            parts.push(format!("paths: [{}]", paths.join(", ")));
        }
        parts.push(format!("ports: [{}]", self.port));
        format!("{{{}}}", parts.join(", "))
    }
}

/// The fewest operations that allow just that.
fn operations(did: &Did) -> Vec<Operation> {
    let mut by_path: BTreeMap<(u16, String), BTreeSet<String>> = BTreeMap::new();
    let mut connections = BTreeSet::new();
    for (port, request) in did {
        match request {
            Some((method, path)) => drop(by_path.entry((*port, pattern(path))).or_default().insert(method.clone())),
            None => drop(connections.insert(*port)),
        }
    }
    let mut operations: BTreeMap<(u16, BTreeSet<String>), BTreeSet<String>> = BTreeMap::new();
    for ((port, path), methods) in by_path {
        operations.entry((port, methods)).or_default().insert(path);
    }
    let mut found: Vec<Operation> = operations
        .into_iter()
        .map(|((port, methods), paths)| Operation { port, methods, paths: if paths.len() > MOST_PATHS { widened(&paths) } else { paths } })
        .collect();
    found.extend(connections.into_iter().map(|port| Operation { port, methods: BTreeSet::new(), paths: BTreeSet::new() }));
    found
}

/// A path as a rule's pattern; one that no rule can mean allows what stands below its first segment.
fn pattern(path: &str) -> String {
    if path.parse::<PathPattern>().is_ok() { path.to_owned() } else { below_first(path) }
}

fn widened(paths: &BTreeSet<String>) -> BTreeSet<String> {
    paths.iter().map(|path| below_first(path)).collect()
}

fn below_first(path: &str) -> String {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let below = format!("/{first}/*");
    let fits = path.trim_start_matches('/').contains('/') && below.parse::<PathPattern>().is_ok();
    if fits { below } else { "/*".to_owned() }
}

/// An identity as a policy of `namespace` names it.
fn identity(id: &str, namespace: &str) -> String {
    let parsed: Option<SpiffeId> = id.parse().ok();
    match parsed.as_ref().and_then(SpiffeId::account) {
        // Only those of the own trust domain have short names; whose it is the file need not say.
        Some((of, account)) if of == namespace => account.to_owned(),
        Some((of, account)) => format!("{account}.{of}"),
        None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::resource::{Spec, read};

    fn call(caller: Option<&str>, method: &str, path: &str, times: u64) -> ObservedCall {
        ObservedCall {
            caller: caller.map(|account| format!("spiffe://mesh.local/ns/{account}")),
            address: caller.is_none().then(|| [10, 0, 0, 7].into()),
            port: "recording.contact.mesh:80".parse().unwrap(),
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            denied: false,
            times,
            first: "2026-11-30T06:00:00Z".to_owned(),
            last: "2026-11-30T07:00:00Z".to_owned(),
        }
    }

    #[test]
    fn the_least_that_allows_what_was_seen_is_written_and_reads_back() {
        let calls = [
            call(Some("contact/sa/desk"), "GET", "/list", 7),
            call(Some("contact/sa/desk"), "GET", "/items/{id}", 2),
            call(Some("contact/sa/desk"), "POST", "/items/{id}", 1),
            call(Some("till/sa/ben"), "GET", "/list", 1),
            call(Some("shop/sa/cem"), "GET", "/list", 4),
            call(None, "GET", "/list", 3),
        ];
        let calls: Vec<&ObservedCall> = calls.iter().collect();
        let arguments = AuthzSuggestArgs { namespace: "contact".parse().unwrap(), service: None };
        let text = document(&arguments, &Label::new("recording").unwrap(), &calls);
        let expected = "apiVersion: lorica.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: recording, namespace: contact}
spec:
  targetRefs: [{kind: Service, name: recording}]
  mode: Shadow   # tries it; without this line it is in force
  # left out, as they prove no identity: 10.0.0.7 (`lorica mtls status`)
  rules:
  # cem.shop: 4 calls, first 2026-11-30T06:00:00Z, last 2026-11-30T07:00:00Z
  # ben.till: 1 calls, first 2026-11-30T06:00:00Z, last 2026-11-30T07:00:00Z
  - from: [{identities: [cem.shop, ben.till]}]
    to:
    - {methods: [GET], paths: [\"/list\"], ports: [80]}
  # desk: 10 calls, first 2026-11-30T06:00:00Z, last 2026-11-30T07:00:00Z
  - from: [{identities: [desk]}]
    to:
    - {methods: [GET], paths: [\"/list\"], ports: [80]}
    - {methods: [GET, POST], paths: [\"/items/{id}\"], ports: [80]}
";
        assert_eq!(text, expected);
        let read = read("suggested", &text).unwrap();
        assert!(matches!(&read[0].resource.spec, Spec::AuthorizationPolicy(policy) if policy.shadow && policy.rules.len() == 2));
    }

    #[test]
    fn what_no_rule_can_name_is_widened() {
        assert_eq!(pattern("/a/b"), "/a/b");
        assert_eq!((pattern("/a//b"), pattern("/a;x"), pattern("*x")), ("/a/*".to_owned(), "/*".to_owned(), "/*".to_owned()));
        let many: Did = (0..40).map(|number| (80, Some(("GET".to_owned(), format!("/v/x{number}"))))).collect();
        assert_eq!(operations(&many)[0].paths, BTreeSet::from(["/v/*".to_owned()]));
    }
}
