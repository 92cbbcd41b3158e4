//! How the control plane, its proxies, services and resources stand.

use std::fmt::Display;

use lorica_api::{ApiError, ProxyStatus};
use serde_json::Value;

use super::{Check, Found, Line, Seen, some};

/// By how many milliseconds clocks may differ: certificates are signed to hold from a minute before they are, and tokens take a minute's leeway.
const CLOCKS_APART: i64 = 30_000;

/// The checks of a mesh.
pub(super) const CHECKS: [Check; 10] = [
    Check { number: 5, name: CONTROL_PLANE, look: control_plane },
    Check { number: 6, name: "proxies are connected", look: connected },
    Check { number: 7, name: "versions of proxies", look: versions },
    Check { number: 8, name: "configuration is accepted", look: accepted },
    Check { number: 9, name: "clocks agree", look: clocks },
    Check { number: 10, name: "apps listen", look: listening },
    Check { number: 11, name: "services have endpoints", look: endpoints },
    Check { number: 12, name: "endpoints are alive", look: held_back },
    Check { number: 13, name: "resources are in force", look: in_force },
    Check { number: 14, name: "callers send no plaintext", look: plaintext },
];

const CONTROL_PLANE: &str = "control plane";

/// Nobody answers, so nothing else can be looked at.
pub(super) fn nobody(error: &ApiError) -> Line {
    let message = error.to_string();
    let message = message.split_once("\nhint:").map_or(message.as_str(), |(message, _)| message).to_owned();
    let hint = match error {
        ApiError::Forbidden { .. } => "only the user who started a control plane may talk to it there",
        _ => "start one with `lorica control`, or name another with --server; `--preflight` looks at this host alone",
    };
    Line { about: "the mesh", number: 5, name: CONTROL_PLANE, found: Found::bad(message, hint) }
}

fn control_plane(seen: &Seen) -> Found {
    let own = env!("CARGO_PKG_VERSION");
    if seen.status.version == own {
        return Found::good(format!("it answers, version {own}"));
    }
    Found::warning(format!("it is version {}, this is {own}", seen.status.version), "use the command line of the control plane's version")
}

fn names<'p>(proxies: impl Iterator<Item = &'p ProxyStatus>, also: impl Fn(&ProxyStatus) -> String) -> Vec<String> {
    proxies.map(|proxy| format!("{}{}", proxy.id, also(proxy))).collect()
}

fn connected(seen: &Seen) -> Found {
    let lost = names(seen.status.proxies.iter().filter(|proxy| !proxy.connected), |_| String::new());
    match (seen.status.proxies.len(), lost.as_slice()) {
        (0, _) => Found::good("there are none yet"),
        (all, []) => Found::good(format!("{all} of {all}")),
        (all, lost) => Found::bad(
            format!("{} of {all} are lost: {}", lost.len(), some(lost)),
            "a proxy that is lost runs on with what it knows; its log says what it cannot reach",
        ),
    }
}

fn versions(seen: &Seen) -> Found {
    let own = format!("lorica {}", seen.status.version);
    let other = |proxy: &&ProxyStatus| proxy.connected && proxy.software.starts_with("lorica ") && proxy.software != own;
    let others = names(seen.status.proxies.iter().filter(other), |proxy| format!(" ({})", proxy.software));
    if others.is_empty() {
        return Found::good(format!("as the control plane's, {own}"));
    }
    Found::warning(format!("{} of another version: {}", others.len(), some(&others)), "start them anew with this version when it suits you")
}

fn accepted(seen: &Seen) -> Found {
    let newer = |proxy: &&ProxyStatus| {
        let Some(refused) = &proxy.last_nack else { return false };
        proxy.connected && proxy.last_ack.as_ref().is_none_or(|acknowledged| acknowledged.at < refused.at)
    };
    let also = |proxy: &ProxyStatus| proxy.last_nack.as_ref().map(|refused| format!(" ({}: {})", refused.resource, refused.message));
    let refused = names(seen.status.proxies.iter().filter(newer), |proxy| also(proxy).unwrap_or_default());
    if refused.is_empty() {
        return Found::good("no proxy refuses what it was sent");
    }
    Found::bad(
        format!("{} refused what they were sent: {}", refused.len(), some(&refused)),
        "they run on with what they had; a proxy of the control plane's version takes all that it sends",
    )
}

fn clocks(seen: &Seen) -> Found {
    let apart = |proxy: &&ProxyStatus| proxy.connected && proxy.clock_ahead_ms.is_some_and(|ahead| ahead.abs() > CLOCKS_APART);
    let also = |proxy: &ProxyStatus| {
        let seconds = proxy.clock_ahead_ms.unwrap_or_default() / 1000;
        format!(" ({} s {})", seconds.abs(), if seconds < 0 { "behind" } else { "ahead" })
    };
    let wrong = names(seen.status.proxies.iter().filter(apart), also);
    if wrong.is_empty() {
        return Found::good(format!("within {} s of the control plane's", CLOCKS_APART / 1000));
    }
    Found::bad(
        format!("{} differ from the control plane's: {}", wrong.len(), some(&wrong)),
        "certificates and tokens hold by the clock: have one service of time set all hosts",
    )
}

fn listening(seen: &Seen) -> Found {
    let silent = |proxy: &&ProxyStatus| {
        proxy.connected && !proxy.draining && proxy.ports.iter().any(|port| !proxy.listening.contains(&port.app_port))
    };
    let also = |proxy: &ProxyStatus| {
        let ports = proxy.ports.iter().filter(|port| !proxy.listening.contains(&port.app_port)).map(|port| port.app_port.to_string());
        format!(" (port {})", ports.collect::<Vec<_>>().join(", "))
    };
    let silent = names(seen.status.proxies.iter().filter(silent), also);
    if silent.is_empty() {
        return Found::good("on every port that was declared");
    }
    Found::warning(
        format!("{} do not listen where they should: {}", silent.len(), some(&silent)),
        "nobody is sent there; `--port SERVICE_PORT:APP_PORT` names the port that the app listens on",
    )
}

fn texts(of: &[impl Display]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

fn endpoints(seen: &Seen) -> Found {
    let without = texts(&seen.status.without_endpoints);
    if without.is_empty() {
        return Found::good(format!("all of {}", seen.status.services));
    }
    Found::bad(
        format!("{} have none: {}", without.len(), some(&without)),
        "calls to them fail with 503 `no-healthy-endpoint`: start a workload (`lorica run --service`), or delete the Service",
    )
}

fn held_back(seen: &Seen) -> Found {
    if seen.status.held_back.is_empty() {
        return Found::good("none is kept without its proxy");
    }
    Found::warning(
        format!("all proxies of {} were lost at once; their last known endpoints are kept", some(&seen.status.held_back)),
        "if they are really gone, delete their Services",
    )
}

/// Conditions that say that something does not hold, wherever in a status they stand.
fn in_force(seen: &Seen) -> Found {
    let mut found = Vec::new();
    for resource in &seen.resources {
        let text = |pointer: &str| resource.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
        let mut reasons = Vec::new();
        wrong(&resource["status"], &mut reasons);
        reasons.dedup();
        if !reasons.is_empty() {
            found.push(format!("{} {}.{} ({})", text("/kind"), text("/metadata/name"), text("/metadata/namespace"), reasons.join("; ")));
        }
    }
    if found.is_empty() {
        return Found::good(format!("all of {}", seen.resources.len()));
    }
    Found::bad(format!("{} are not, or not wholly: {}", found.len(), some(&found)), "`lorica get KIND NAME -o yaml` shows a status whole")
}

fn wrong(status: &Value, reasons: &mut Vec<String>) {
    if let (Some(kind), Some(holds)) = (status["type"].as_str(), status["status"].as_str()) {
        let bad = match kind {
            "Conflicted" => holds == "True",
            // A fault that is over has done what it was to do.
            "Active" => false,
            _ => holds == "False",
        };
        if bad {
            reasons.push(status["message"].as_str().filter(|message| !message.is_empty()).unwrap_or(kind).to_owned());
        }
        return;
    }
    match status {
        Value::Array(all) => all.iter().for_each(|one| wrong(one, reasons)),
        Value::Object(parts) => parts.values().for_each(|part| wrong(part, reasons)),
        _ => {}
    }
}

fn plaintext(seen: &Seen) -> Found {
    let open = seen.mtls.iter().filter(|service| service.mode == "Permissive");
    let (still, ready): (Vec<_>, Vec<_>) = open.partition(|service| !service.plaintext.is_empty());
    let (still, ready) = (still.iter().map(|service| service.service.to_string()), ready.iter().map(|service| service.service.to_string()));
    match (still.collect::<Vec<_>>().as_slice(), ready.collect::<Vec<_>>().as_slice()) {
        ([], []) => Found::good("mutual TLS is asked for everywhere"),
        ([], ready) => Found::warning(
            format!("{} take plaintext, and nobody sends any: {}", ready.len(), some(ready)),
            "make them strict: delete their AuthenticationPolicy with `mtls: {mode: Permissive}`",
        ),
        (still, _) => Found::warning(
            format!("{} are still called in plaintext: {}", still.len(), some(still)),
            "`lorica mtls status` names the callers; bring them into the mesh, then make the services strict",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_api::{AcknowledgedAt, MtlsStatus, PlaintextCaller, PortStatus, RejectedAt};
    use serde_json::json;

    use super::super::Level;
    use super::super::sample::seen;
    use super::*;

    /// The check of this number, of a mesh in which `change` has been made.
    fn found(number: u32, change: impl FnOnce(&mut Seen)) -> (Level, String) {
        let mut seen = seen("2028-01-01T01:00:00Z");
        change(&mut seen);
        let check = CHECKS.iter().find(|check| check.number == number).unwrap();
        let found = (check.look)(&seen);
        (found.level, found.message)
    }

    fn at(second: u32) -> String {
        format!("2028-01-01T00:00:{second:02}Z")
    }

    #[test]
    fn a_mesh_that_is_well_has_no_findings() {
        for check in CHECKS {
            let change = |seen: &mut Seen| {
                seen.status.version = env!("CARGO_PKG_VERSION").to_owned();
                seen.status.proxies[0].software = format!("lorica {}", seen.status.version);
            };
            assert_eq!(found(check.number, change).0, Level::Good, "{}", check.name);
        }
    }

    #[test]
    fn each_check_finds_what_it_is_about() {
        assert_eq!(found(5, |_| {}).0, Level::Warning);
        assert_eq!(found(6, |seen| seen.status.proxies[0].connected = false), (Level::Bad, "1 of 1 are lost: web-1.shop".to_owned()));
        let old = found(7, |seen| seen.status.proxies[0].software = "lorica 0.0.9".to_owned());
        assert_eq!(old, (Level::Warning, "1 of another version: web-1.shop (lorica 0.0.9)".to_owned()));
        let refused = |acknowledged| {
            found(8, move |seen| {
                let proxy = &mut seen.status.proxies[0];
                proxy.last_ack = Some(AcknowledgedAt { revision: 1, at: at(acknowledged) });
                proxy.last_nack = Some(RejectedAt { resource: "Route x".to_owned(), message: "no".to_owned(), at: at(5) });
            })
        };
        assert_eq!(refused(4), (Level::Bad, "1 refused what they were sent: web-1.shop (Route x: no)".to_owned()));
        assert_eq!(refused(6).0, Level::Good);
        let clock = found(9, |seen| seen.status.proxies[0].clock_ahead_ms = Some(-95_000));
        assert_eq!(clock, (Level::Bad, "1 differ from the control plane's: web-1.shop (95 s behind)".to_owned()));
        let silent = found(10, |seen| {
            let address = ([127, 0, 0, 1], 1).into();
            seen.status.proxies[0].ports =
                vec![PortStatus { service_port: 80, app_port: 8080, protocol: lorica_model::snapshot::Protocol::Http, address }];
        });
        assert_eq!(silent, (Level::Warning, "1 do not listen where they should: web-1.shop (port 8080)".to_owned()));
        let without = found(11, |seen| seen.status.without_endpoints = vec!["web.shop.mesh:80".parse().unwrap()]);
        assert_eq!(without, (Level::Bad, "1 have none: web.shop.mesh:80".to_owned()));
        assert_eq!(found(12, |seen| seen.status.held_back = vec!["web.shop".to_owned()]).0, Level::Warning);
        let caller = PlaintextCaller { address: [10, 0, 0, 1].into(), port: 80, times: 1, first: at(0), last: at(1) };
        let open = |plaintext| MtlsStatus { service: "web.shop".parse().unwrap(), mode: "Permissive".to_owned(), plaintext };
        assert!(found(14, |seen| seen.mtls = vec![open(vec![caller])]).1.contains("still called in plaintext: web.shop"));
        assert!(found(14, |seen| seen.mtls = vec![open(Vec::new())]).1.contains("nobody sends any"));
    }

    #[test]
    fn what_a_status_says_is_read_wherever_it_stands() {
        let condition = |kind: &str, status: &str, message: &str| json!({ "type": kind, "status": status, "message": message });
        let resource = |status: Value| {
            let metadata = json!({ "name": "web", "namespace": "shop" });
            found(13, |seen| seen.resources = vec![json!({ "kind": "HTTPRoute", "metadata": metadata, "status": status })])
        };
        let good = [condition("Accepted", "True", ""), condition("Conflicted", "False", ""), condition("Active", "False", "over")];
        assert_eq!(resource(json!({ "parents": [{ "conditions": good }] })), (Level::Good, "all of 1".to_owned()));
        let bad = [condition("ResolvedRefs", "False", "there is no service `x`"), condition("Conflicted", "True", "two say so")];
        let (level, message) = resource(json!({ "parents": [{ "conditions": bad }] }));
        assert_eq!(level, Level::Bad);
        assert_eq!(message, "1 are not, or not wholly: HTTPRoute web.shop (there is no service `x`; two say so)");
    }
}
