//! What a test expects: statuses of routes and listeners, and of each request the answer, the backend that gave it, and the request as that
//! backend saw it.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use testbed::{Mesh, PATIENCE, Reply, eventually, http_send, http2_send, https_send};

use super::backends::Backends;
use super::data::{Suite, Test, kind, named};
use super::gateways::Gateways;

/// How often in a row a case must hold.
const TIMES: usize = 3;

/// A test with all that it is held against.
pub(crate) struct Expected<'e> {
    pub(crate) mesh: &'e Mesh,
    pub(crate) suite: &'e Suite,
    pub(crate) test: &'e Test,
    pub(crate) manifests: &'e [Value],
    pub(crate) backends: &'e Backends,
}

/// Where a request goes.
struct Place {
    gateway: String,
    namespace: String,
    port: u16,
    /// The server name that TLS asks for, where the port has TLS.
    server_name: Option<String>,
}

impl Expected<'_> {
    /// Whether all that the test expects comes true.
    pub(crate) async fn holds(&self, gateways: &mut Gateways<'_>) -> anyhow::Result<()> {
        statuses(self.mesh, self.test, self.manifests).await?;
        for case in self.cases() {
            let revoked = (self.test.name == "HTTPRouteReferenceGrant" && case["Response"]["StatusCode"] == 500).then(|| self.revoke());
            if let Some(revoked) = revoked {
                revoked.await?;
            }
            self.case(&case, gateways).await?;
        }
        if self.test.name == "HTTPRouteReferenceGrant" {
            // Taken away again with the rest.
            self.mesh
                .lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&crate::text(&crate::data::resources(self.manifests))))
                .await?
                .success()?;
        }
        Ok(())
    }

    /// The cases, with what the suite's code makes of the shorter ones.
    fn cases(&self) -> Vec<Value> {
        let mut cases = Vec::new();
        let misdirected = self.test.name == "HTTPRouteHTTPSListenerDetectMisdirectedRequests";
        for case in &self.test.cases {
            if let Some(host) = case["host"].as_str() {
                // A table of hosts for TLS.
                let name = case["serverName"].as_str().unwrap_or(host);
                cases.push(json!({
                    "$line": case["$line"],
                    "Request": { "Host": host, "Path": if misdirected { "/detect-misdirected-requests" } else { "/" } },
                    "Response": { "StatusCode": case["statusCode"] },
                    "Backend": case["backend"],
                    "ServerName": name,
                }));
            } else if self.test.name == "HTTPRouteServiceTypes" {
                let of = |path: &str| json!({ "Request": { "Path": path }, "Backend": "infra-backend-v1" });
                cases = ["/manual-endpointslices", "/headless", "/headless-manual-endpointslices"].map(of).into();
            } else if case["Request"].is_object() && case["Request"]["Host"]["$go"].is_null() {
                cases.push(case.clone());
            }
        }
        cases
    }

    /// Takes the test's grant away.
    async fn revoke(&self) -> anyhow::Result<()> {
        for grant in self.manifests.iter().filter(|document| kind(document) == "ReferenceGrant") {
            let (name, namespace) = named(grant);
            self.mesh.lorica(["delete", "referencegrant", &name, "-n", &namespace]).await?.success()?;
        }
        Ok(())
    }

    /// Where a case's request goes: to the gateway that the test names, but for those that ask several in turn.
    fn place(&self, case: &Value) -> anyhow::Result<Place> {
        let gateway = self.test.locals.get("gwNN").context("it names no gateway")?;
        let line = case["$line"].as_u64().unwrap_or_default();
        let host = case["Request"]["Host"].as_str().unwrap_or_default();
        let mut place = Place { gateway: text(gateway, "Name")?, namespace: text(gateway, "Namespace")?, port: 80, server_name: None };
        match (self.test.name.as_str(), line) {
            ("HTTPRouteMultipleGateways", 70..) => place.gateway = "all-namespaces".to_owned(),
            ("HTTPRouteRedirectPortAndScheme", 160..220) => {
                (place.gateway, place.port) = ("same-namespace-with-http-listener-on-8080".to_owned(), 8080);
            }
            ("HTTPRouteRedirectPortAndScheme", 220..) => {
                (place.gateway, place.port) = ("same-namespace-with-https-listener".to_owned(), 443);
                place.server_name = Some(host.to_owned());
            }
            ("HTTPRouteHostnameIntersection", 300..) => place.gateway = "httproute-hostname-intersection-all".to_owned(),
            ("HTTPRouteListenerPortMatching", _) => {
                place.port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80)
            }
            _ => {}
        }
        if let Some(name) = case["ServerName"].as_str() {
            (place.port, place.server_name) = (443, Some(name.to_owned()));
        }
        Ok(place)
    }

    async fn case(&self, case: &Value, gateways: &mut Gateways<'_>) -> anyhow::Result<()> {
        let place = self.place(case)?;
        let address = gateways.address(&place.gateway, &place.namespace, place.port).await?;
        let checked = || async {
            for _ in 0..TIMES {
                let request = request(case, place.server_name.is_some())?;
                let http2 = case["Request"]["Protocol"].as_str().is_some_and(|protocol| protocol.contains("H2C"));
                let reply = match &place.server_name {
                    Some(name) => https_send(address, self.suite.certificate.der(), name, request).await?,
                    None if http2 => http2_send(address, request).await?,
                    None => http_send(address, request).await?,
                };
                answered(case, &reply, self.backends)?;
            }
            Ok(())
        };
        eventually(&format!("the case of line {} ({})", case["$line"], case["Request"]), PATIENCE / 6, checked).await
    }
}

fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    Ok(value[field].as_str().with_context(|| format!("{value} has no {field}"))?.to_owned())
}

/// A case's request. Over HTTP/2 and TLS it names its scheme.
fn request(case: &Value, tls: bool) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = &case["Request"];
    let host = request["Host"].as_str().filter(|host| !host.is_empty()).unwrap_or("gateway.test");
    let path = request["Path"].as_str().unwrap_or("/");
    let http2 = request["Protocol"].as_str().is_some_and(|protocol| protocol.contains("H2C"));
    let mut builder = Request::builder().method(request["Method"].as_str().unwrap_or("GET"));
    builder = if http2 && !tls { builder.uri(format!("http://{host}{path}")) } else { builder.uri(path).header("host", host) };
    for (name, value) in request["Headers"].as_object().into_iter().flatten() {
        builder = builder.header(name, value.as_str().unwrap_or_default());
    }
    let set = case["BackendSetResponseHeaders"].as_object();
    let set = set
        .map(|set| set.iter().map(|(name, value)| format!("{name}:{}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(","));
    if let Some(set) = set {
        builder = builder.header("x-echo-set-header", set);
    }
    Ok(builder.body(Full::<Bytes>::default())?)
}

/// Holds an answer against what a case expects.
fn answered(case: &Value, reply: &Reply, backends: &Backends) -> anyhow::Result<()> {
    let (request, response) = (&case["Request"], &case["Response"]);
    let statuses: Vec<u64> = match response["StatusCodes"].as_array() {
        Some(codes) => codes.iter().filter_map(Value::as_u64).collect(),
        None => vec![response["StatusCode"].as_u64().unwrap_or(200)],
    };
    let status = u64::from(reply.status.as_u16());
    ensure!(statuses.contains(&status), "status {status} in place of {statuses:?}: {}", reply.text());
    for (name, value) in response["Headers"].as_object().into_iter().flatten() {
        let values: Vec<_> = reply.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let wanted = value.as_str().unwrap_or_default();
        ensure!(values.join(",") == wanted, "the answer's {name} is {values:?} in place of {wanted}");
    }
    for (name, wanted) in response["ValidHeaderValues"].as_object().into_iter().flatten() {
        let plain = |text: &str| text.replace(' ', "");
        let value = reply.header(name).map(plain);
        let any = wanted.as_array().into_iter().flatten().filter_map(Value::as_str).any(|wanted| value.as_deref() == Some(&plain(wanted)));
        ensure!(any, "the answer's {name} is {value:?} in place of one of {wanted}");
    }
    for name in response["AbsentHeaders"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ensure!(reply.header(name).is_none(), "the answer has {name}");
    }
    if let Some(redirect) = case.get("RedirectRequest").filter(|redirect| redirect.is_object()) {
        return redirected(redirect, request, reply);
    }
    let backend = case["Backend"].as_str().unwrap_or_default();
    if status != 200 || backend.is_empty() {
        return Ok(());
    }
    let told: Value = reply.json()?;
    let pod = told["pod"].as_str().unwrap_or_default();
    ensure!(pod.starts_with(&format!("{backend}-")), "{pod} answered in place of {backend}");
    if let Some(namespace) = case["Namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
        ensure!(told["namespace"] == namespace, "the backend is of {}", told["namespace"]);
    }
    let expected = &case["ExpectedRequest"];
    let wanted = |field: &str, sent: &str| {
        let changed = expected["Request"][field].as_str().filter(|text| !text.is_empty());
        changed.map(str::to_owned).or_else(|| request[field].as_str().map(str::to_owned)).unwrap_or_else(|| sent.to_owned())
    };
    ensure!(told["path"] == wanted("Path", "/"), "the backend saw the path {} in place of {}", told["path"], wanted("Path", "/"));
    ensure!(told["method"] == wanted("Method", "GET"), "the backend saw {}", told["method"]);
    let host = wanted("Host", "gateway.test");
    ensure!(told["host"] == host, "the backend saw the host {} in place of {host}", told["host"]);
    let headers = if expected.is_object() { &expected["Request"]["Headers"] } else { &request["Headers"] };
    for (name, value) in headers.as_object().into_iter().flatten() {
        let seen = told["headers"][name.to_lowercase()].as_array().cloned().unwrap_or_default();
        let seen = seen.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        ensure!(Some(seen.as_str()) == value.as_str(), "the backend saw {name}: {seen:?} in place of {value}");
    }
    for name in expected["AbsentHeaders"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ensure!(told["headers"].get(name.to_lowercase()).is_none(), "the backend saw {name}");
    }
    for mirror in case["MirroredTo"].as_array().into_iter().flatten() {
        let name = mirror["BackendRef"]["Name"].as_str().context("a mirror without a name")?;
        ensure!(backends.has_answered(name, &wanted("Path", "/")), "no copy reached {name}");
    }
    Ok(())
}

/// Holds a redirect's place against what is expected; what is not said is that of the request.
fn redirected(expected: &Value, request: &Value, reply: &Reply) -> anyhow::Result<()> {
    let location: http::Uri = reply.header("location").context("there is no Location")?.parse()?;
    let said = |field: &str, default: &str| expected[field].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned();
    let scheme = said("Scheme", "http");
    let host = said("Host", request["Host"].as_str().filter(|host| !host.is_empty()).unwrap_or("gateway.test"));
    let port = expected["Port"].as_str().unwrap_or_default();
    let path = said("Path", request["Path"].as_str().unwrap_or("/"));
    ensure!(location.scheme_str() == Some(&scheme), "{location}: the scheme is not {scheme}");
    ensure!(location.host() == Some(host.split(':').next().unwrap_or_default()), "{location}: the host is not {host}");
    ensure!(location.port().map(|port| port.to_string()).unwrap_or_default() == port, "{location}: the port is not {port:?}");
    ensure!(location.path_and_query().is_some_and(|found| found.as_str() == path), "{location}: the path is not {path}");
    Ok(())
}

/// Holds the statuses of what a test applied against what it expects. The data does not say which object a condition is of; one must have it.
async fn statuses(mesh: &Mesh, test: &Test, manifests: &[Value]) -> anyhow::Result<()> {
    let expected = test.expected_status.as_deref().unwrap_or_default();
    let mut wanted: Vec<&Value> = Vec::new();
    for one in expected {
        let value = &one["value"];
        match one["$type"].as_str().unwrap_or_default() {
            "metav1.Condition" => wanted.push(value),
            "[]metav1.Condition" => wanted.extend(value.as_array().into_iter().flatten()),
            kind if kind.contains("RouteParentStatus") => {
                let parents = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
                wanted.extend(parents.iter().filter_map(|parent| parent["Conditions"].as_array()).flatten());
            }
            _ => {}
        }
    }
    wanted.retain(|wanted| wanted["Reason"]["$go"].is_null());
    let mut found = Vec::new();
    for document in manifests {
        let route = kind(document) == "HTTPRoute";
        let tells =
            kind(document).ends_with("Route") || matches!(kind(document), "Gateway" | "ListenerSet" | "GatewayClass" | "BackendTLSPolicy");
        if !tells {
            continue;
        }
        let (name, namespace) = named(document);
        let shown = mesh.lorica(["get", kind(document), &name, "-n", &namespace, "-o", "json"]).await?.success()?.json()?;
        let status = &shown["status"];
        let parts = ["parents", "listeners", "ancestors"].iter().filter_map(|part| status[part].as_array()).flatten();
        let conditions: Vec<&Value> =
            std::iter::once(status).chain(parts).filter_map(|part| part["conditions"].as_array()).flatten().collect();
        ensure!(!route || !conditions.is_empty(), "{name} has no parent that tells of it");
        for condition in conditions {
            ensure!(condition["observedGeneration"] == shown["metadata"]["generation"], "{name}: {condition} is of another generation");
            found.push((name.clone(), route, condition.clone()));
        }
    }
    for wanted in &wanted {
        ensure!(found.iter().any(|(_, _, condition)| same(condition, wanted)), "nothing has {wanted}: {found:?}");
    }
    // What a route is not expected to fail at holds.
    for (name, _, condition) in found.iter().filter(|(_, route, _)| *route) {
        let expected = wanted.iter().any(|wanted| wanted["Type"] == condition["type"] && wanted["Status"] == "False");
        ensure!(expected || condition["status"] == "True", "{name}: {condition}");
    }
    let listeners = expected.iter().filter(|one| one["$type"].as_str().is_some_and(|kind| kind.contains("ListenerStatus")));
    let listeners: Vec<&Value> = listeners.flat_map(|one| one["value"].as_array()).flatten().collect();
    if listeners.is_empty() {
        return Ok(());
    }
    let mut all = Vec::new();
    for document in manifests.iter().filter(|document| matches!(kind(document), "Gateway" | "ListenerSet")) {
        let (name, namespace) = named(document);
        let shown = mesh.lorica(["get", kind(document), &name, "-n", &namespace, "-o", "json"]).await?.success()?.json()?;
        all.extend(shown["status"]["listeners"].as_array().cloned().unwrap_or_default());
    }
    for wanted in listeners {
        // A name as the suite's code writes it: `gatewayv1.SectionName("http")`.
        let name =
            wanted["Name"].as_str().or_else(|| wanted["Name"]["$go"].as_str()?.split('"').nth(1)).context("a listener without a name")?;
        let holds = |listener: &&Value| {
            let conditions =
                |condition: &Value| listener["conditions"].as_array().into_iter().flatten().any(|found| same(found, condition));
            listener["name"] == name
                && listener["attachedRoutes"] == wanted["AttachedRoutes"]
                && wanted["Conditions"].as_array().into_iter().flatten().all(conditions)
        };
        let told = || all.iter().filter(|listener| listener["name"] == name).collect::<Vec<_>>();
        ensure!(all.iter().any(|listener| holds(&listener)), "no listener is as {wanted} wants it: {:?}", told());
    }
    Ok(())
}

fn same(found: &Value, wanted: &Value) -> bool {
    let reason = wanted["Reason"].as_str().unwrap_or_default();
    found["type"] == wanted["Type"] && found["status"] == wanted["Status"] && (reason.is_empty() || found["reason"] == reason)
}
