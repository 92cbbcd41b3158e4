//! What the data leaves out: names that the code gives a second value, the changes that it makes between its checks, and requests that are no
//! table. Each by the test and the number of the check before which it happens.

use serde_json::{Value, json};

use super::status::list;

/// The namespace of nearly everything.
pub(crate) const INFRA: &str = "gateway-conformance-infra";

/// Something that happens between two checks.
pub(crate) enum Step {
    /// From here on a name stands for something else.
    Bind(&'static str, Value),
    /// Requests go to this gateway, at this port.
    At(&'static str, u16),
    /// The cases are these in place of the data's, which name what only the code computes.
    Cases(Vec<Value>),
    /// A resource comes.
    Apply(Value),
    /// A ConfigMap with the root of the backends comes.
    ApplyRoot(&'static str),
    /// A resource goes: kind, name, namespace.
    Delete(&'static str, &'static str, &'static str),
    /// A resource is changed: kind, name, how.
    Change(&'static str, &'static str, fn(&mut Value)),
    /// A status is held against what the data does not tell: kind, name, how it must be.
    Check(&'static str, &'static str, fn(&Value) -> bool),
    /// Cases of retries.
    Retries,
    /// Requests that the data has no table of.
    Requests(Vec<Value>),
    /// What each backend sees is what its own filter sets.
    ByBackend,
    /// Bytes to this port are answered by this backend.
    Bytes(u16, &'static str),
    /// A text comes back through a WebSocket: path and text.
    WebSocket(&'static str, &'static str),
    /// A connection without TLS ends without an answer.
    Refused,
}

use Step::{Apply, ApplyRoot, At, Bind, ByBackend, Bytes, Cases, Change, Check, Delete, Refused, Requests, Retries, WebSocket};

fn infra(name: &str) -> Value {
    of(name, INFRA)
}

fn of(name: &str, namespace: &str) -> Value {
    json!({ "Name": name, "Namespace": namespace })
}

fn all<const N: usize>(names: [&str; N]) -> Value {
    names.map(infra).into()
}

/// What happens before the check of this number, from 0.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn before(test: &str, at: usize) -> Vec<Step> {
    match (test, at) {
        ("GatewayHTTPListenerIsolation", 5) => {
            let routes = ["empty-hostname", "wildcard-example-com", "wildcard-foo-example-com", "abc-foo-example-com"];
            let routes = routes.map(|host| format!("attaches-to-{host}-with-hostname-intersection"));
            vec![
                Bind("gwNN", infra("http-listener-isolation-with-hostname-intersection")),
                Bind("routes", routes.map(|name| infra(&name)).into()),
            ]
        }
        ("GatewayNameMaximumLength", 0) => vec![Bind("gwNN", infra(&format!("{:a<253}", "gateway-name-maximum-length-")))],
        ("GatewayListenerUnsupportedProtocol", 3) => vec![Bind("gwNN", infra("gateway-supported-and-unsupported-protocols"))],
        ("GatewayInvalidRouteKind", 1) => vec![Bind("gwNN", infra("gateway-supported-and-invalid-route-kind"))],
        ("GatewayWithAttachedRoutes", 1) => vec![Bind("gwNN", infra("gateway-with-two-attached-routes"))],
        ("GatewayWithAttachedRoutes", 3) => vec![Bind("gwNN", infra("unresolved-gateway-with-one-attached-unresolved-route"))],
        ("GatewayModifyListeners", 2) => vec![Change("gateway", "gateway-add-listener", |gateway| add_listener(gateway, "http", 80))],
        ("GatewayModifyListeners", 5) => vec![Bind("gwNN", infra("gateway-remove-listener"))],
        ("GatewayModifyListeners", 7) => vec![Change("gateway", "gateway-remove-listener", |gateway| {
            retain(&mut gateway["spec"]["listeners"], |listener| listener["name"] == "http");
        })],
        ("GatewayObservedGenerationBump", 2) => {
            vec![Change("gateway", "gateway-observed-generation-bump", |gateway| add_listener(gateway, "alternate", 8080))]
        }
        ("GatewayStaticAddresses", 2) => vec![Change("gateway", "gateway-static-addresses", |gateway| {
            retain(&mut gateway["spec"]["addresses"], |address| address["type"] != "test/fake-invalid-type");
        })],
        ("GatewayStaticAddresses", 5) => vec![Change("gateway", "gateway-static-addresses", |gateway| {
            retain(&mut gateway["spec"]["addresses"], |address| address["value"] == "127.0.0.1");
        })],
        ("GatewayStaticAddresses", 8) => {
            let holds = ["Accepted", "Programmed", "ResolvedRefs"].map(|kind| json!({ "Type": kind, "Status": "True" }));
            let listener = json!({ "Name": "http", "SupportedKinds": [{ "Kind": "HTTPRoute" }], "AttachedRoutes": 0, "Conditions": holds });
            vec![
                Bind("finalExpectedListenerState", json!([listener])),
                Check("gateway", "gateway-static-addresses", |gateway| {
                    gateway["status"]["addresses"] == json!([{ "type": "IPAddress", "value": "127.0.0.1" }])
                }),
            ]
        }
        ("GatewayClassObservedGenerationBump", 2) => vec![Change("gatewayclass", "gatewayclass-observed-generation-bump", |class| {
            class["spec"]["description"] = "new".into();
        })],

        ("HTTPRouteHostnameIntersection", 0) => vec![Bind("routeNN", Value::Null)],
        ("HTTPRouteHostnameIntersection", 5) => vec![Bind("routeNN", infra("no-intersecting-hosts"))],
        ("HTTPRouteHostnameIntersection", 10) => vec![
            Bind("gwNN", infra("httproute-hostname-intersection-all")),
            Bind("routes", all(["httproute-hostname-intersection-all"])),
            Bind("routeNN", infra("httproute-hostname-intersection-all")),
        ],
        ("HTTPRouteMultipleGateways", 4) => vec![
            Bind("gwNN", infra("all-namespaces")),
            Bind("routeNNs", all(["multiple-gateways-shared-route", "all-namespaces-dedicated-route"])),
        ],
        ("HTTPRouteRedirectPortAndScheme", 3) => vec![
            Bind("gwNN", infra("same-namespace-with-http-listener-on-8080")),
            Bind("routeNN", infra("http-route-for-listener-on-port-8080")),
        ],
        ("HTTPRouteRedirectPortAndScheme", 6) => {
            vec![Bind("gwNN", infra("same-namespace-with-https-listener")), Bind("routeNN", infra("http-route-for-listener-on-port-443"))]
        }
        ("HTTPRouteRedirectPortAndScheme", 10) => vec![At("same-namespace", 80)],
        ("HTTPRouteRedirectPortAndScheme", 11) => vec![At("same-namespace-with-http-listener-on-8080", 8080)],
        ("HTTPRouteRedirectPortAndScheme", 12) => vec![At("same-namespace-with-https-listener", 443)],
        ("HTTPRouteListenerPortMatching", 10) => vec![At("httproute-listener-port-matching", 80)],
        ("HTTPRouteServiceTypes", 3) => {
            let of = |path: &str| json!({ "Request": { "Path": path }, "Backend": "infra-backend-v1" });
            vec![Cases(["/manual-endpointslices", "/headless", "/headless-manual-endpointslices"].map(of).into())]
        }
        ("HTTPRouteReferenceGrant", 4) => vec![Delete("referencegrant", "reference-grant", "gateway-conformance-web-backend")],
        ("HTTPRouteObservedGenerationBump", 2) => vec![Change("httproute", "observed-generation-bump", |route| {
            route["spec"]["rules"][0]["backendRefs"][0]["name"] = "infra-backend-v2".into();
        })],

        ("TCPRouteReferenceGrant", 4) => vec![Delete("referencegrant", "tcp-reference-grant", "gateway-conformance-web-backend")],
        ("TCPRouteMultipleRoutesAttachment", 3) => brought(test).into_iter().map(Apply).collect(),
        ("TCPRouteParentRefPortAndSectionName", 1) => vec![Bind("listener", "one".into()), Bind("backend", "tcp-echo-one".into())],
        ("TCPRouteParentRefPortAndSectionName", 5) => vec![Bind("routeNN", infra("tcp-route-by-section"))],
        ("TCPRouteParentRefPortAndSectionName", 6) => vec![Bind("routeNN", infra("tcp-route-by-section-and-port"))],

        ("TLSRouteHostnameIntersection", 7) => vec![
            Bind("gwNN", infra("gw-tlsroute-more-specific-wc-hostname-x-2")),
            Bind("routeNN", all(["tlsroute-exact-hostname-x-2", "tlsroute-less-specific-wc-hostname-x-2"])),
        ],
        ("TLSRouteHostnameIntersection", 13) => vec![
            Bind("gwNN", infra("gw-tlsroute-less-specific-wc-hostname-x-3")),
            Bind("routes", all(["tlsroute-exact-hostname-x-3", "tlsroute-more-specific-wc-hostname-x-3"])),
            Bind("routeNN", all(["tlsroute-exact-hostname-x-3", "tlsroute-more-specific-wc-hostname-x-3"])),
        ],
        ("TLSRouteHostnameIntersection", 19) => vec![
            Bind("gwNN", infra("gw-tlsroute-empty-hostname-x-4")),
            Bind("routes", all(["tlsroute-exact-hostname-x-4", "tlsroute-less-specific-wc-hostname-x-4"])),
            Bind("routeNN", all(["tlsroute-exact-hostname-x-4", "tlsroute-less-specific-wc-hostname-x-4"])),
        ],

        ("BackendTLSPolicy", 8) => vec![Bind("gwNN", infra("same-namespace")), Bind("routeNN", infra("backendtlspolicy"))],
        ("BackendTLSPolicy", 23) => vec![Change("backendtlspolicy", "reconcile-test", |policy| {
            policy["spec"]["validation"]["caCertificateRefs"][0]["name"] = "tls-checks-ca-certificate-reconcile-test".into();
        })],
        ("BackendTLSPolicy", 25) => vec![ApplyRoot("tls-checks-ca-certificate-reconcile-test")],
        ("BackendTLSPolicy", 28) => vec![Delete("configmap", "tls-checks-ca-certificate-reconcile-test", INFRA)],
        ("BackendTLSPolicy", 30) => vec![Change("backendtlspolicy", "reconcile-test", |policy| {
            policy["spec"]["validation"]["caCertificateRefs"][0]["name"] = "tls-checks-ca-certificate".into();
        })],
        ("BackendTLSPolicyObservedGenerationBump", 3) => vec![Change("backendtlspolicy", "observed-generation-bump", |policy| {
            policy["spec"]["validation"]["hostname"] = "other.example.com".into();
        })],
        ("BackendTLSPolicyInvalidCACertificateRef", 3) => {
            vec![Bind("policyNN", all(["nonexistent-ca-certificate-ref", "malformed-ca-certificate-ref"]))]
        }
        ("BackendTLSPolicyInvalidCACertificateRef", 5) => vec![Cases(vec![invalid_root("nonexistent-ca-certificate-ref")])],
        ("BackendTLSPolicyConflictResolution", 7) => vec![
            Bind("policyNN", infra("conflicted-with-section-name-1")),
            Bind("conflictedPolicyNN", infra("conflicted-with-section-name-2")),
        ],
        ("BackendTLSPolicyConflictResolution", 10) => vec![Bind("policyNN", infra("not-conflicted-with-section-name"))],
        ("BackendTLSPolicyConflictResolution", 11) => vec![Bind("policyNN", infra("not-conflicted-without-section-name"))],
        ("BackendTLSPolicySANValidation", 6 | 8 | 10 | 12 | 14) => {
            let policies = ["san-dns-mismatch", "san-uri", "san-uri-mismatch", "multiple-sans", "multiple-mismatch-sans"];
            vec![Bind("policyNN", infra(policies[(at - 6) / 2]))]
        }

        ("ListenerSetAllowedRoutesNamespaces", 9) => {
            vec![Bind("lsNN", of("listenerset-test-allowed-routes-cross-ns", "gateway-api-ls-cross-ns"))]
        }
        ("ListenerSetHTTPRouting", 7) => vec![
            Bind("lsNN", infra("listener-set-http-routing-2")),
            Bind("lsRoutes", all(["attaches-to-all-listeners", "listener-set-http-routing-2-route"])),
        ],
        ("ListenerSetHostnameConflict" | "ListenerSetProtocolConflict", 10 | 13 | 17) => {
            let what = if test == "ListenerSetHostnameConflict" { "hostname" } else { "protocol" };
            let with = match at {
                10 => "gateway-2",
                13 => "listener-set-1",
                _ => "listener-set-2",
            };
            vec![Bind("lsNN", infra(&format!("listenerset-with-{what}-conflict-with-{with}")))]
        }
        ("ListenerSetReferenceGrant", 5) => {
            vec![Bind("lsNN", of("listenerset-without-reference-grant", "gateway-api-listener-sets-test-reference-grant-ns"))]
        }
        _ => Vec::new(),
    }
}

/// What happens after the last check.
pub(crate) fn after(test: &str) -> Vec<Step> {
    match test {
        "HTTPRouteRetry" | "HTTPRouteRetryConnectionError" | "HTTPRouteRetryWithTimeouts" => vec![Retries],
        "HTTPRouteBackendProtocolWebSocket" => vec![WebSocket("/ws", "Websocket Support!")],
        "HTTPRouteRequestHeaderModifierBackendWeights" => vec![ByBackend],
        "TCPRouteReferenceGrant" => vec![Refused],
        "TCPRouteParentRefPortAndSectionName" => vec![Bytes(9301, "tcp-echo-two"), Bytes(9302, "tcp-echo-three")],
        "BackendTLSPolicyInvalidCACertificateRef" => vec![Requests(vec![invalid_root("malformed-ca-certificate-ref")])],
        _ => Vec::new(),
    }
}

/// What steps bring and do not take away.
pub(crate) fn brought(test: &str) -> Vec<Value> {
    match test {
        "TCPRouteMultipleRoutesAttachment" => vec![json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "TCPRoute",
            "metadata": { "name": "tcproute-attach-newer", "namespace": INFRA },
            "spec": {
                "parentRefs": [{ "name": "tcp-multi-route-attach-gateway", "sectionName": "tcp" }],
                "rules": [{ "backendRefs": [{ "name": "tcp-attach-backend-2", "port": 3000 }] }],
            },
        })],
        _ => Vec::new(),
    }
}

fn invalid_root(policy: &str) -> Value {
    json!({
        "Request": { "Host": "abc.example.com", "Path": format!("/backendtlspolicy-{policy}") },
        "Response": { "StatusCodes": [500, 502, 503] },
    })
}

fn add_listener(gateway: &mut Value, name: &str, port: u16) {
    let mut listeners = list(&gateway["spec"]["listeners"]).to_vec();
    listeners.push(json!({ "name": name, "port": port, "protocol": "HTTP", "allowedRoutes": { "namespaces": { "from": "All" } } }));
    gateway["spec"]["listeners"] = listeners.into();
}

fn retain(of: &mut Value, keep: fn(&Value) -> bool) {
    if let Some(all) = of.as_array_mut() {
        all.retain(keep);
    }
}
