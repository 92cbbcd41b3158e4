//! Requests, connections, calls and datagrams of a test: sent until they hold some times in a row, or counted where shares are meant.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use testbed::{PATIENCE, eventually};

use super::data::{kind, named};
use super::status;
use super::traffic::{self, Tls};
use super::trial::Trial;

/// How often in a row a case must hold.
const TIMES: usize = 3;

impl Trial<'_> {
    /// A table of hosts for TLS, each with the server name that the connection is opened for.
    pub(super) async fn hosts(&mut self) -> anyhow::Result<()> {
        let root = self.suite.certificates.pair("tls-validity-checks-certificate")?.certificate.der().clone();
        let path = if self.test.name.contains("Misdirected") { "/detect-misdirected-requests" } else { "/" };
        for case in std::mem::take(&mut self.cases).into_iter().filter(|case| case["host"].is_string()) {
            let request = json!({
                "$line": case["$line"],
                "Request": { "Host": case["host"], "Path": path },
                "Response": { "StatusCode": case["statusCode"] },
                "Backend": case["backend"],
            });
            let server_name = case["serverName"].as_str().or(case["host"].as_str()).unwrap_or_default().to_owned();
            self.requests(&[request], Some(&Tls { root: root.clone(), server_name, client: None })).await?;
        }
        Ok(())
    }

    pub(super) async fn web_sockets(&self, path: &str, message: &str) -> anyhow::Result<()> {
        let address = self.address(self.port()?).await?;
        for _ in 0..TIMES {
            traffic::web_socket(address, "gateway.test", path, message).await?;
        }
        Ok(())
    }

    /// Sends each case's request until it holds some times in a row.
    pub(super) async fn requests(&self, cases: &[Value], tls: Option<&Tls<'_>>) -> anyhow::Result<()> {
        let one = |case: Value| async move {
            let of_host = case["Request"]["Host"].as_str().and_then(|host| host.rsplit_once(':')?.1.parse::<u16>().ok());
            // A host with a port names the listener, where the gateway has one of it.
            let named = of_host.filter(|port| tls.is_none() && self.ports.contains(&u64::from(*port)));
            let address = self.address(named.map_or_else(|| self.port(), Ok)?).await?;
            let what = format!("the case of line {} ({})", case["$line"], case["Request"]);
            eventually(&what, PATIENCE / 3, || async {
                if !case["MirroredTo"].is_array() {
                    let attempt = || async { traffic::answered(&case, &traffic::send(address, tls, &case).await?, false) };
                    return try_join_all((0..TIMES).map(|_| attempt())).await.map(drop);
                }
                for _ in 0..TIMES {
                    let copies = traffic::copies(&case, &self.backends.log)?;
                    traffic::answered(&case, &traffic::send(address, tls, &case).await?, false)?;
                    self.arrived(&case, copies).await?;
                }
                Ok(())
            })
            .await?;
            self.shares_of_copies(&case, address).await
        };
        // Copies are counted by path: no two cases at once.
        if cases.iter().any(|case| case["MirroredTo"].is_array()) {
            for case in cases {
                one(case.clone()).await?;
            }
            return Ok(());
        }
        try_join_all(cases.iter().cloned().map(one)).await.map(drop)
    }

    /// Waits for the copies of one request.
    pub(super) async fn arrived(&self, case: &Value, copies: Vec<(String, String, u64)>) -> anyhow::Result<()> {
        let in_part = status::list(&case["MirroredTo"]).iter().any(|mirror| !mirror["Percent"].is_null());
        for (name, path, before) in copies.into_iter().filter(|_| !in_part) {
            eventually(&format!("a copy reaches {name}"), PATIENCE / 3, || async {
                let after = self.backends.log.answers(&name, &path);
                ensure!(after > before, "{after} reached it");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Where a share of requests is copied, whether it is that share.
    pub(super) async fn shares_of_copies(&self, case: &Value, address: std::net::SocketAddr) -> anyhow::Result<()> {
        const REQUESTS: u64 = 400;
        for mirror in status::list(&case["MirroredTo"]) {
            // `int32(20)`.
            let percent = mirror["Percent"]["$go"]
                .as_str()
                .and_then(|text| text.trim_start_matches("int32(").trim_end_matches(')').parse::<f64>().ok());
            let Some(share) = percent.or(mirror["Percent"].as_f64()).map(|percent| percent / 100.0) else { continue };
            let before = traffic::copies(case, &self.backends.log)?;
            for _ in 0..REQUESTS {
                traffic::answered(case, &traffic::send(address, None, case).await?, false)?;
            }
            let (name, path, before) = before.into_iter().next().context("it goes nowhere")?;
            let expected = share * REQUESTS as f64;
            let far = 6.0 * (expected * (1.0 - share)).sqrt();
            eventually(&format!("{expected} copies, give or take {far:.0}, reach {name}"), PATIENCE / 3, || async {
                let count = (self.backends.log.answers(&name, &path) - before) as f64;
                ensure!((expected - far..=expected + far).contains(&count), "{count} reached it");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Requests that must not reach a backend.
    pub(super) async fn failures(&self, cases: &[Value]) -> anyhow::Result<()> {
        let address = self.address(self.port()?).await?;
        for case in cases {
            eventually(&format!("the case of line {} fails", case["$line"]), PATIENCE / 3, || async {
                for _ in 0..TIMES {
                    let reply = traffic::send(address, None, case).await?;
                    ensure!(reply.status.as_u16() >= 400, "{}: {}", reply.status, reply.text());
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Requests whose handshake must fail.
    pub(super) async fn refused(&self, cases: &[Value], tls: &Tls<'_>) -> anyhow::Result<()> {
        let (gateway, port) = self.at.as_ref().context("no gateway is named")?;
        let text = |field: &str| gateway[field].as_str().unwrap_or_default();
        for case in cases {
            // A listener that does not hold has no port either.
            let Some(address) = self.gateways.open(text("Name"), text("Namespace"), *port).await else { continue };
            eventually(&format!("the case of line {} is refused", case["$line"]), PATIENCE / 3, || async {
                for _ in 0..TIMES {
                    let reply = traffic::send(address, Some(tls), case).await;
                    ensure!(reply.is_err(), "{reply:?} came");
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn bytes(&self, cases: &[Value], secure: bool, server_name: Option<String>) -> anyhow::Result<()> {
        let address = self.address(self.port()?).await?;
        let root = self.suite.certificates.root("tls-checks-ca-certificate")?;
        for case in cases {
            // The server name is the route's host, where the code asks the route for it.
            let named = server_name.clone().or_else(|| self.first_hostname(case));
            eventually(&format!("bytes of {case}"), PATIENCE / 3, || async {
                for _ in 0..TIMES {
                    let told = if secure {
                        let name = named.clone().context("no server name is told")?;
                        traffic::told(traffic::tls(address, &Tls { root: root.clone(), server_name: name, client: None }).await?).await?
                    } else {
                        traffic::told_by(address).await?
                    };
                    let mut case = case.clone();
                    if case["Hostname"]["$go"].is_string() {
                        case["Hostname"] = self.names.get("expectedBackendHostname").cloned().unwrap_or_else(|| named.clone().into());
                    }
                    for (field, name) in [("Backend", "expectedBackendName"), ("Backend", "backend")] {
                        if case[field]["$go"].is_string() {
                            case[field] = self.names.get(name).cloned().unwrap_or_default();
                        }
                    }
                    traffic::bytes_answered(&case, &told)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// The first host of the test's TLSRoutes: of those that pass TLS through, where the backend has it.
    pub(super) fn first_hostname(&self, case: &Value) -> Option<String> {
        let passes = case["BackendIsTLS"] == true;
        let routes: Vec<&Value> = self.manifests.iter().filter(|document| kind(document) == "TLSRoute").collect();
        let named = |word: &str| routes.iter().find(|route| named(route).0.contains(word)).copied();
        let route = if routes.len() > 1 { named(if passes { "passthrough" } else { "terminate" }) } else { routes.first().copied() };
        route?["spec"]["hostnames"][0].as_str().map(str::to_owned)
    }

    pub(super) async fn datagrams(&self, wanted: &Value) -> anyhow::Result<()> {
        let address = self.address(self.port()?).await?;
        eventually(&format!("datagrams come back ({wanted})"), PATIENCE / 3, || async {
            for _ in 0..TIMES {
                let told = traffic::datagram(address, PATIENCE / 15).await?;
                let same = |field: &str, own: &str| wanted[field].is_null() || wanted[field] == "" || told[own] == wanted[field];
                ensure!(same("Service", "service") && same("Namespace", "namespace"), "{told} answered");
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn calls(&self, cases: &[Value], fail: bool) -> anyhow::Result<()> {
        let address = self.address(self.port()?).await?;
        for case in cases {
            let (authority, method, metadata) = traffic::grpc_request(case);
            eventually(&format!("the call of line {} ({method})", case["$line"]), PATIENCE / 3, || async {
                for _ in 0..TIMES {
                    let before: Vec<(String, u64)> = status::list(&case["MirroredTo"])
                        .iter()
                        .filter_map(|mirror| mirror["BackendRef"]["Name"].as_str())
                        .map(|name| (name.to_owned(), self.backends.log.answers(name, &method)))
                        .collect();
                    let outcome = traffic::call(address, &authority, &method, &metadata).await;
                    if fail {
                        ensure!(!outcome.as_ref().is_ok_and(|(status, ..)| *status == 0), "{outcome:?} came");
                        continue;
                    }
                    traffic::grpc_answered(case, &outcome?)?;
                    for (name, before) in before {
                        self.arrived(&json!({}), vec![(name, method.clone(), before)]).await?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn calls_in_mesh(&self, cases: &[Value], namespace: &str) -> anyhow::Result<()> {
        for case in cases {
            let host = case["Request"]["Host"].as_str().filter(|host| !host.is_empty()).unwrap_or("echo");
            let grpc = case["Request"]["Protocol"] == "grpc";
            let what = format!("the case of line {} ({})", case["$line"], case["Request"]);
            let address = self.callers.address(namespace, host).await?;
            eventually(&what, PATIENCE / 3, || async {
                for _ in 0..TIMES {
                    if grpc {
                        let outcome = traffic::call(address, host, "/proto.EchoTestService/Echo", &case["Request"]["Headers"]).await?;
                        ensure!(outcome.0 == 0 || case["Response"]["StatusCode"] != 200, "{outcome:?}");
                        let mut wanted = json!({ "Backend": case["Backend"], "ExpectedRequest": case["ExpectedRequest"] });
                        wanted["ExpectedRequest"]["Headers"] = case["ExpectedRequest"]["Request"]["Headers"].clone();
                        traffic::grpc_answered(&wanted, &outcome)?;
                    } else {
                        traffic::answered(case, &traffic::send(address, None, case).await?, true)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Whether the backends of the test's route get the shares of their weights.
    pub(super) async fn distribution(&self) -> anyhow::Result<()> {
        const REQUESTS: u64 = 500;
        let route = self.manifests.iter().find(|document| kind(document).ends_with("Route")).context("it has no route")?;
        let backends = status::list(&route["spec"]["rules"][0]["backendRefs"]);
        let weight = |backend: &Value| backend["weight"].as_f64().unwrap_or(1.0);
        let total: f64 = backends.iter().map(weight).sum();
        let parent = &route["spec"]["parentRefs"][0];
        let in_mesh = parent["kind"] == "Service";
        let address = if in_mesh {
            let port = parent["port"].as_u64().unwrap_or(if kind(route) == "GRPCRoute" { 7070 } else { 80 });
            let host = format!("{}:{port}", parent["name"].as_str().unwrap_or_default());
            self.callers.address(&named(route).1, &host).await?
        } else {
            self.address(self.port()?).await?
        };
        let mut counts: Vec<(String, u64, f64)> =
            backends.iter().map(|backend| (backend["name"].as_str().unwrap_or_default().to_owned(), 0, weight(backend) / total)).collect();
        let case = json!({ "Request": { "Path": "/" } });
        for _ in 0..REQUESTS {
            let pod = match kind(route) {
                "TCPRoute" => traffic::told_by(address).await?["pod"].clone(),
                "UDPRoute" => traffic::datagram(address, PATIENCE / 15).await?["pod"].clone(),
                "GRPCRoute" => traffic::call(address, "gateway.test", &traffic::grpc_request(&json!({})).1, &json!({})).await?.2.pod.into(),
                _ => traffic::send(address, None, &case).await?.json::<Value>()?["pod"].clone(),
            };
            let pod = pod.as_str().unwrap_or_default().to_owned();
            let found = counts.iter_mut().find(|(name, ..)| pod.starts_with(&format!("{name}-")));
            found.with_context(|| format!("{pod} is none of the backends"))?.1 += 1;
        }
        traffic::fits(&counts)
    }

    /// The cases of retries: a backend that fails so many times, which the query tells it.
    pub(super) async fn retries(&mut self) -> anyhow::Result<()> {
        let (address, test) = (self.address(self.port()?).await?, self.test);
        for (at, case) in std::mem::take(&mut self.cases).iter().filter(|case| case["args"].is_object()).enumerate() {
            let args = &case["args"];
            let of =
                |field: &str| args["retrySimulationConfig"][field][0].as_str().map(|value| format!("&{field}={value}")).unwrap_or_default();
            let (query, tried) = (["responseCode", "succeedAfter", "delayRetry"].map(of).concat(), AtomicUsize::new(0));
            eventually(case["name"].as_str().unwrap_or_default(), PATIENCE / 3, || async {
                let again = tried.fetch_add(1, Ordering::Relaxed);
                let query = &query;
                let attempt = |round: usize| async move {
                    // Each request is one of its own to the backend, which counts its attempts.
                    let path = format!("{}?request={}-{at}-{again}-{round}{query}", args["path"].as_str().unwrap_or("/"), test.name);
                    let reply = traffic::send(address, None, &json!({ "Request": { "Path": path } })).await?;
                    let wanted = json!({ "Request": { "Path": path }, "Response": case["want"] });
                    traffic::answered(&wanted, &reply, false)
                };
                // One after another, as the suite does: of many at once only some may be retries.
                for round in 0..TIMES {
                    attempt(round).await?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Whether each backend of the test's route sees what the filter of its own sets, and nothing of the others'.
    pub(super) async fn by_backend(&self) -> anyhow::Result<()> {
        const REQUESTS: usize = 100;
        let address = self.address(self.port()?).await?;
        let route = self.manifests.iter().find(|document| kind(document) == "HTTPRoute").context("it has no route")?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..REQUESTS {
            let told: Value = traffic::send(address, None, &json!({ "Request": { "Path": "/" } })).await?.json()?;
            let pod = told["pod"].as_str().unwrap_or_default().to_owned();
            let backends = status::list(&route["spec"]["rules"][0]["backendRefs"]);
            let named = |backend: &&Value| backend["name"].as_str().is_some_and(|name| pod.starts_with(&format!("{name}-")));
            let backend = backends.iter().find(named).with_context(|| format!("{pod} is none of the backends"))?;
            for field in status::list(&backend["filters"][0]["requestHeaderModifier"]["set"]) {
                let name = field["name"].as_str().unwrap_or_default().to_lowercase();
                ensure!(told["headers"][&name] == json!([field["value"]]), "{pod} saw {}", told["headers"][&name]);
            }
            seen.insert(pod);
        }
        ensure!(seen.len() == status::list(&route["spec"]["rules"][0]["backendRefs"]).len(), "only {seen:?} were asked");
        Ok(())
    }
}
