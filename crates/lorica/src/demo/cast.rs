//! Who plays in the demo: every workload as one command line, captured or with explicit listeners. Pure.

use std::path::Path;

/// The namespace of the contact centre.
pub(crate) const NAMESPACE: &str = "contact";

/// Services: name, program, port, protocol, flags of the program, and what it calls (flag, service, URL scheme).
struct Role {
    service: &'static str,
    program: &'static str,
    port: u16,
    protocol: &'static str,
    version: Option<&'static str>,
    calls: &'static [Call],
}

/// A service that a program calls, and the flag by which the program is told where it is.
struct Call {
    flag: &'static str,
    service: &'static str,
    port: u16,
    scheme: &'static str,
}

const RECORDING: &[Call] = &[];

const ROLES: &[Role] = &[
    Role { service: "customer-history", program: "customer-history", port: 80, protocol: "http", version: None, calls: &[] },
    Role { service: "agent-assignment", program: "agent-assignment", port: 50051, protocol: "grpc", version: None, calls: &[] },
    Role { service: "recording-v1", program: "recording", port: 80, protocol: "http", version: Some("v1"), calls: RECORDING },
    Role { service: "recording-v2", program: "recording", port: 80, protocol: "http", version: Some("v2"), calls: RECORDING },
    Role { service: "analytics", program: "analytics", port: 7000, protocol: "tcp", version: None, calls: &[] },
    Role {
        service: "call-routing",
        program: "call-routing",
        port: 80,
        protocol: "http",
        version: None,
        calls: &[
            Call { flag: "--customer-history", service: "customer-history", port: 80, scheme: "http://" },
            Call { flag: "--agent-assignment", service: "agent-assignment", port: 50051, scheme: "http://" },
            Call { flag: "--recording", service: "recording", port: 80, scheme: "http://" },
            Call { flag: "--analytics", service: "analytics", port: 7000, scheme: "" },
        ],
    },
];

/// How many workloads each service has.
pub(crate) const WORKLOADS: usize = 2;

/// What the contact centre asks of the mesh: `recording` is a name for two versions, half of the calls to each.
pub(crate) const RESOURCES: &str = "\
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording, namespace: contact}
spec:
  ports:
  - {port: 80, appProtocol: http}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: recording, namespace: contact}
spec:
  parentRefs:
  - {group: lorica.io, kind: Service, name: recording, port: 80}
  rules:
  - backendRefs:
    - {group: lorica.io, kind: Service, name: recording-v1, port: 80, weight: 50}
    - {group: lorica.io, kind: Service, name: recording-v2, port: 80, weight: 50}
    timeouts: {request: 5s}
";

/// One `lorica run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// For people: `recording-v2 (2)`.
    pub(crate) name: String,
    /// Arguments of `lorica run`, up to the app's command.
    pub(crate) run: Vec<String>,
    /// Arguments of `lorica contact-centre`.
    pub(crate) app: Vec<String>,
}

/// How apps reach each other.
pub(crate) enum Reach<'a> {
    /// By name, captured.
    Captured,
    /// Through explicit listeners; the closure gives a free port of the host.
    Explicit(&'a mut dyn FnMut() -> std::io::Result<u16>),
}

/// Every workload but the caller.
pub(crate) fn services(reach: &mut Reach<'_>) -> std::io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for role in ROLES {
        for number in 1..=WORKLOADS {
            let mut run = vec!["--service".to_owned(), format!("{}.{NAMESPACE}", role.service)];
            let mut app = vec![role.program.to_owned()];
            match reach {
                Reach::Captured => run.extend(["--port".to_owned(), format!("{}/{}", role.port, role.protocol)]),
                Reach::Explicit(free) => {
                    let port = free()?;
                    run.extend(["--no-capture".to_owned(), "--port".to_owned(), format!("{}:{port}/{}", role.port, role.protocol)]);
                    app.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
                    explicit(role.calls, free, &mut run, &mut app)?;
                }
            }
            if let Some(version) = role.version {
                run.extend(["--version-label".to_owned(), version.to_owned()]);
                app.extend(["--version".to_owned(), version.to_owned()]);
            }
            parts.push(Part { name: format!("{} ({number})", role.service), run, app });
        }
    }
    Ok(parts)
}

/// The customers.
pub(crate) fn caller(reach: &mut Reach<'_>, rate: f64, report: &Path) -> std::io::Result<Part> {
    let mut run = vec!["--namespace".to_owned(), NAMESPACE.to_owned(), "--account".to_owned(), "caller".to_owned()];
    let mut app: Vec<String> = ["caller", "--rate", &rate.to_string(), "--report", &report.to_string_lossy()].map(str::to_owned).into();
    if let Reach::Explicit(free) = reach {
        let calls = [Call { flag: "--target", service: "call-routing", port: 80, scheme: "http://" }];
        explicit(&calls, free, &mut run, &mut app)?;
    }
    Ok(Part { name: "caller".to_owned(), run, app })
}

fn explicit(
    calls: &[Call],
    free: &mut dyn FnMut() -> std::io::Result<u16>,
    run: &mut Vec<String>,
    app: &mut Vec<String>,
) -> std::io::Result<()> {
    for call in calls {
        let local = format!("127.0.0.1:{}", free()?);
        run.extend(["--upstream".to_owned(), format!("{}.{NAMESPACE}:{}={local}", call.service, call.port)]);
        app.extend([call.flag.to_owned(), format!("{}{local}", call.scheme)]);
    }
    Ok(())
}

/// Five things to try, each a command to paste where `LORICA_SERVER` names the demo: what it shows, and the command.
pub(crate) fn things_to_try(lorica: &str, captured: bool) -> [(&'static str, String); 5] {
    const JSON: &str = "-H content-type:application/json";
    let post = |service: &str, path: &str, what: &str| {
        let (upstream, host) = if captured {
            (String::new(), service.to_owned())
        } else {
            (format!(" --upstream {service}.{NAMESPACE}:80=127.0.0.1:9900"), "127.0.0.1:9900".to_owned())
        };
        format!("{lorica} run --namespace {NAMESPACE}{upstream} -- curl -s {JSON} {what} http://{host}{path}")
    };
    [
        ("who is there, and what they acknowledged", format!("{lorica} status")),
        (
            "make a call yourself, from a program that knows no mesh",
            post("call-routing", "/calls", "-d '{\"customer\":\"c0001\",\"skill\":\"billing\"}'"),
        ),
        ("switch on a bug in one recording-v2: calls are still answered", post("recording-v2", "/bug", "-X PUT -d '{\"on\":true}'")),
        (
            "take v2 out: all recordings go to v1, once every proxy says so",
            format!(
                "{lorica} get httproute recording -n {NAMESPACE} -o yaml | sed '/recording-v2/,$ s/weight: 50/weight: 0/' | {lorica} apply -f -"
            ),
        ),
        (
            "what is refused, and how it is told",
            format!(
                "printf 'apiVersion: lorica.io/v1alpha1\\nkind: Service\\nmetadata: {{name: web}}\\nspec:\\n  prots: []\\n' | {lorica} apply -f -"
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_service_has_two_workloads() {
        let parts = services(&mut Reach::Captured).unwrap();
        assert_eq!(parts.len(), ROLES.len() * WORKLOADS);
        assert_eq!(parts[6].run, ["--service", "recording-v2.contact", "--port", "80/http", "--version-label", "v2"]);
        assert_eq!(parts[6].app, ["recording", "--version", "v2"]);
    }

    #[test]
    fn without_capture_every_call_has_a_listener() {
        let mut next = 9000;
        let mut free = || {
            next += 1;
            Ok(next)
        };
        let parts = services(&mut Reach::Explicit(&mut free)).unwrap();
        let routing = parts.last().unwrap();
        assert!(routing.run.contains(&"--upstream".to_owned()));
        assert_eq!(routing.app.iter().filter(|flag| flag.starts_with("--")).count(), 5);
    }
}
