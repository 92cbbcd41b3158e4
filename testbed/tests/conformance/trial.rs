//! One test of the data, carried out: its checks in the order of the code, each on the objects that it names, with what the data leaves out
//! (`steps`) between them.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use testbed::{Mesh, PATIENCE, eventually};

use super::backends::Backends;
use super::callers::Callers;
use super::data::{Suite, Test, kind, named, resources, text};
use super::gateways::Gateways;
use super::go::{self, Argument, Call};
use super::queue::{Queue, Sort};
use super::status;
use super::steps::{self, INFRA, Step};
use super::traffic::{self, Tls};

/// A test with all that it is held against.
pub(crate) struct Trial<'t> {
    pub(crate) mesh: &'t Mesh,
    pub(crate) suite: &'t Suite,
    pub(crate) test: &'t Test,
    pub(crate) manifests: &'t [Value],
    pub(crate) backends: &'t Backends,
    pub(crate) gateways: &'t Gateways<'t>,
    pub(crate) callers: &'t Callers<'t>,
    /// What names stand for.
    pub(super) names: Map<String, Value>,
    statuses: Queue,
    /// The cases that no check has taken yet.
    pub(super) cases: Vec<Value>,
    /// Tables that several checks share.
    shared: Vec<Value>,
    /// Where requests go: the gateway whose address was asked for last, and its port.
    pub(super) at: Option<(Value, u16)>,
    /// The ports of that gateway's listeners.
    pub(super) ports: Vec<u64>,
}

impl<'t> Trial<'t> {
    pub(crate) fn new(
        mesh: &'t Mesh,
        suite: &'t Suite,
        (test, manifests): (&'t Test, &'t [Value]),
        backends: &'t Backends,
        gateways: &'t Gateways<'t>,
        callers: &'t Callers<'t>,
    ) -> Self {
        let mut names = test.locals.clone().unwrap_or_default();
        // What the suite's own code computes.
        let holds = |kind: &str| json!({ "Type": kind, "Status": "True", "Reason": kind });
        names.insert("generateAcceptedListenerConditions()".to_owned(), ["Accepted", "Programmed", "ResolvedRefs"].map(holds).into());
        names.insert("generateSupportedRouteKinds()".to_owned(), json!([{ "Kind": "HTTPRoute" }]));
        let mut expected = test.expected_status.clone().unwrap_or_default();
        // One parent is what a function gives that others name.
        if let Some(at) = expected.iter().position(|entry| entry["$type"].as_str().is_some_and(|kind| kind == "v1.RouteParentStatus")) {
            names.insert("acceptedParent()".to_owned(), expected.remove(at)["value"].clone());
        }
        let statuses = Queue::new(expected);
        let cases = test.cases.clone().unwrap_or_default();
        Self {
            mesh,
            suite,
            test,
            manifests,
            backends,
            gateways,
            callers,
            names,
            statuses,
            cases,
            shared: Vec::new(),
            at: None,
            ports: Vec::new(),
        }
    }

    /// Whether all that the test expects comes true.
    pub(crate) async fn holds(mut self) -> anyhow::Result<()> {
        for document in self.manifests {
            let tells = ["Route", "Gateway", "ListenerSet", "GatewayClass", "BackendTLSPolicy"];
            if tells.iter().any(|tells| kind(document).ends_with(tells)) {
                let (name, namespace) = named(document);
                self.object(kind(document), &json!({ "Name": name, "Namespace": namespace }), |_| Ok(())).await?;
            }
        }
        let calls = self.test.helper_calls.clone().unwrap_or_default();
        for (at, written) in calls.iter().enumerate() {
            for step in steps::before(&self.test.name, at) {
                self.step(step).await.with_context(|| format!("before {written}"))?;
            }
            let looped = written.contains("tc.") && written.starts_with("kubernetes.");
            let rounds: Vec<Option<Value>> = if looped { self.cases.iter().cloned().map(Some).collect() } else { vec![None] };
            for round in rounds {
                self.names.extend(round.map(|case| ("tc".to_owned(), case)));
                let call = go::call(written, &self.names).with_context(|| format!("this is no call: {written}"))?;
                self.check(&call, &calls[at..]).await.with_context(|| written.clone())?;
            }
        }
        for step in steps::after(&self.test.name) {
            self.step(step).await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Bind(name, value) => drop(self.names.insert(name.to_owned(), value)),
            Step::At(name, port) => self.at = Some((json!({ "Name": name, "Namespace": INFRA }), port)),
            Step::Cases(cases) => self.cases = cases,
            Step::Check(kind, name, holds) => {
                self.object(kind, &json!({ "Name": name, "Namespace": INFRA }), |object| {
                    ensure!(holds(object), "it is not so: {}", object["status"]);
                    Ok(())
                })
                .await?;
            }
            Step::ByBackend => self.by_backend().await?,
            Step::Bytes(port, backend) => {
                self.at.as_mut().context("no gateway is named")?.1 = port;
                self.bytes(&[json!({ "Backend": backend, "Namespace": INFRA })], false, None).await?;
            }
            Step::Apply(document) => self.apply(&document).await?,
            Step::ApplyRoot(name) => self.apply(&self.suite.certificates.copy_of_root(name, "tls-checks-ca-certificate")?).await?,
            Step::Delete(kind, name, namespace) => drop(self.mesh.lorica(["delete", kind, name, "-n", namespace]).await?.success()?),
            Step::Change(kind, name, change) => {
                let named = json!({ "Name": name, "Namespace": if kind == "gatewayclass" { "default" } else { INFRA } });
                let mut object = self.get(kind, &named).await?;
                let before = object["metadata"]["generation"].clone();
                change(&mut object);
                self.apply(&object).await?;
                let after = self.get(kind, &named).await?;
                ensure!(after["metadata"]["generation"] != before, "the change of {name} made no generation");
                self.object(kind, &named, |_| Ok(())).await?;
            }
            Step::Retries => self.retries().await?,
            Step::Requests(cases) => self.requests(&cases, None).await?,
            Step::WebSocket(path, message) => self.web_sockets(path, message).await?,
            Step::Refused => {
                let address = self.address(self.port()?).await?;
                eventually("the connection is refused", PATIENCE / 3, || async {
                    let told = traffic::told_by(address).await;
                    ensure!(told.is_err(), "{told:?} answered");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn apply(&self, document: &Value) -> anyhow::Result<()> {
        let applied =
            self.mesh.lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&text(std::slice::from_ref(document)))).await?;
        ensure!(applied.code() == 0, "{document} was refused: {}", applied.stderr);
        Ok(())
    }

    pub(super) async fn get(&self, kind: &str, named: &Value) -> anyhow::Result<Value> {
        let text = |field: &str| named[field].as_str().unwrap_or("default");
        self.mesh.lorica(["get", kind, text("Name"), "-n", text("Namespace"), "-o", "json"]).await?.success()?.json()
    }

    /// Holds the status of an object against a check.
    async fn object(&self, kind: &str, named: &Value, check: impl Fn(&Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
        eventually(&format!("{kind} {named}"), PATIENCE / 3, || async {
            let object = self.get(kind, named).await?;
            status::sound(&object)?;
            check(&object)
        })
        .await
    }

    /// What a check takes as a condition, conditions, listeners or parents: from the call, else the next of the data that fits.
    fn expected(&mut self, argument: &Argument, sort: Sort, ahead: &[String]) -> anyhow::Result<Value> {
        let is = move |entry: &Value| sort.is(entry["$type"].as_str().unwrap_or_default());
        if let Some(value) = &argument.value
            && !argument.cut
            && (value.is_object() || value.is_array())
        {
            self.statuses.pass(|entry| is(entry) && entry["value"] == *value);
            return Ok(value.clone());
        }
        // A name may tell the condition's type, and its reason: `acceptedCondNotAllowed`.
        let hint = argument.text.to_lowercase();
        let rest = hint.replace("accepted", "").replace("resolvedrefs", "").replace("cond", "");
        let lower = |entry: &Value, field: &str| entry["value"][field].as_str().unwrap_or_default().to_lowercase();
        let by_reason = rest.len() > 3 && self.statuses.any(|entry| is(entry) && lower(entry, "Reason").contains(&rest));
        let fits = |entry: &Value| {
            let kind = lower(entry, "Type");
            let typed = !["accepted", "resolvedrefs"].iter().any(|word| hint.contains(word) && kind != *word);
            is(entry) && (sort != Sort::Condition || typed && (!by_reason || lower(entry, "Reason").contains(&rest)))
        };
        let uses = ahead.iter().filter(|call| sort.asked_by(call)).count();
        let found = self.statuses.named(&argument.text, uses, fits).or_else(|| self.statuses.named(&argument.text, uses, is));
        match found {
            Some(entry) => {
                let mut value = entry["value"].clone();
                for parent in value.as_array_mut().into_iter().flatten() {
                    // What only the code computes: the gateway as a parent.
                    if parent["ParentRef"]["$go"].is_string() {
                        let gateway = self.names.get("gwNN").cloned().unwrap_or_default();
                        parent["ParentRef"] = json!({
                            "Group": "gateway.networking.k8s.io",
                            "Kind": "Gateway",
                            "Name": gateway["Name"],
                            "Namespace": gateway["Namespace"],
                        });
                    }
                }
                Ok(value)
            }
            // Of a table that was cut, what stands there counts.
            None => argument.value.clone().filter(Value::is_array).with_context(|| format!("the data has no value of {}", argument.text)),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm a check of the suite")]
    async fn check(&mut self, call: &Call, ahead: &[String]) -> anyhow::Result<()> {
        let (package, name) = call.name.split_once('.').unwrap_or(("", &call.name));
        let argument = |at: usize| call.arguments.get(at).with_context(|| format!("argument {at} is missing"));
        let value = |at: usize| {
            let argument = argument(at)?;
            argument.value.clone().with_context(|| format!("{} has no value", argument.text))
        };
        match (package, name) {
            // What they give is known already, or they only wait.
            ("kubernetes", "NamespacesMustBeReady" | "MeshNamespacesMustBeReady" | "NewGatewayRef" | "NewResourceRef")
            | ("kubernetes", "GetTLSSecret" | "GetConfigMapData" | "DumpEchoLogs")
            | ("http", "MakeRequest" | "AddEntropy")
            | ("weight", "NewFunctionBasedSender" | "NewBatchedSender")
            | ("tcp", "ExpectAddressBeAvailable")
            // A request with copies is held against them where it is sent.
            | ("http" | "grpc", "ExpectMirroredRequest" | "ExpectMeshMirroredRequest") => Ok(()),

            ("kubernetes", "WaitForGatewayAddress") => self.go_to(&value(3)?).await,
            ("kubernetes", _) if name.starts_with("GatewayAnd") && name.ends_with("MustBeAccepted") => {
                let reference = value(4)?;
                self.go_to(&reference).await?;
                // `GatewayAndHTTPRoutesMustBeAccepted` tells the kind by its name, `GatewayAndRoutesMustBeAccepted` by an argument.
                let by_name = name.strip_prefix("GatewayAnd").and_then(|rest| rest.strip_suffix("sMustBeAccepted")).unwrap_or_default();
                let (kind, first) = if by_name == "Route" { (route_kind(&value(5)?), 7) } else { (by_name.to_owned(), 5) };
                self.accepted(&kind, &reference, call.arguments.get(first..).unwrap_or_default()).await
            }
            ("kubernetes", "RoutesAndParentMustBeAccepted") => {
                let (reference, kind) = (value(4).or_else(|_| self.listener_set_reference())?, route_kind(&value(5)?));
                self.accepted(&kind, &reference, call.arguments.get(6..).unwrap_or_default()).await
            }
            ("kubernetes", _) if name.contains("RouteMust") => {
                let (kind, check) = name.split_once("Must").unwrap_or_default();
                let routes = self.each(argument(3)?)?;
                match check {
                    "HaveCondition" | "HaveResolvedRefsConditionsTrue" => {
                        let condition = match check {
                            "HaveCondition" => self.expected(argument(5)?, Sort::Condition, ahead)?,
                            _ => json!({ "Type": "ResolvedRefs", "Status": "True", "Reason": "ResolvedRefs" }),
                        };
                        let parent = value(4)?;
                        for route in routes {
                            self.object(kind, &route, |object| status::at_parent(object, &parent, &condition)).await?;
                        }
                    }
                    "HaveNoAcceptedParents" => {
                        for route in routes {
                            self.object(kind, &route, status::no_accepted_parent).await?;
                        }
                    }
                    "HaveParents" => {
                        let wanted = self.expected(argument(4)?, Sort::Parents, ahead)?;
                        let required = value(5).ok().and_then(|required| required.as_bool()).unwrap_or_default();
                        for route in routes {
                            self.object(kind, &route, |object| status::parents(object, &wanted, required)).await?;
                        }
                    }
                    "HaveLatestConditions" => {
                        for route in routes {
                            self.object(kind, &route, |_| Ok(())).await?;
                        }
                    }
                    _ => bail!("this check is not known"),
                }
                Ok(())
            }
            ("kubernetes", "GatewayMustHaveCondition" | "ListenerSetMustHaveCondition") => {
                let (kind, object) = (name.trim_end_matches("MustHaveCondition"), value(3)?);
                let condition = self.expected(argument(4)?, Sort::Condition, ahead)?;
                if kind == "Gateway" && condition["Type"] == "Programmed" {
                    self.go_to(&object).await?;
                }
                self.object(kind, &object, |object| status::has(&object["status"]["conditions"], &condition)).await
            }
            ("kubernetes", "GatewayMustHaveLatestConditions") => {
                self.object("Gateway", &value(3)?, |object| {
                    ensure!(!status::list(&object["status"]["conditions"]).is_empty(), "nothing is said of it");
                    Ok(())
                })
                .await
            }
            ("kubernetes", "GatewayClassMustHaveLatestConditions" | "GWCMustHaveAcceptedConditionAny") => {
                let named = match value(3)? {
                    Value::String(name) => json!({ "Name": name }),
                    named => named,
                };
                self.object("GatewayClass", &named, |object| {
                    status::has(&object["status"]["conditions"], &json!({ "Type": "Accepted" }))?;
                    features(&object["status"]["supportedFeatures"])
                })
                .await
            }
            ("kubernetes", "GatewayMustHaveZeroRoutes") => self.object("Gateway", &value(3)?, status::no_routes).await,
            ("kubernetes", "GatewayMustHaveAttachedListeners") => {
                let count = value(4)?;
                self.object("Gateway", &value(3)?, |object| {
                    let found = &object["status"]["attachedListenerSets"];
                    ensure!(*found == count, "{found} ListenerSets are attached in place of {count}");
                    Ok(())
                })
                .await
            }
            ("kubernetes", "GatewayStatusMustHaveListeners" | "ListenerSetStatusMustHaveListeners") => {
                let (kind, object) = (name.trim_end_matches("StatusMustHaveListeners"), value(3)?);
                let cut = argument(4)?.cut;
                let listeners = self.expected(argument(4)?, Sort::Listeners, ahead)?;
                self.object(kind, &object, |object| status::listeners(object, &listeners, cut)).await
            }
            ("kubernetes", "GatewayListenersMustHaveConditions" | "ListenerSetListenersMustHaveConditions") => {
                let (kind, object) = (name.trim_end_matches("ListenersMustHaveConditions"), value(3)?);
                let conditions = self.expected(argument(4)?, Sort::Conditions, ahead)?;
                let names: Vec<Value> = call.arguments.iter().skip(5).filter_map(|argument| argument.value.clone()).collect();
                self.object(kind, &object, |object| status::listeners_have(object, &conditions, &names)).await
            }
            ("kubernetes", "GatewayListenerMustHaveConditions") => {
                let (object, listener) = (value(3)?, value(4)?);
                let conditions = self.expected(argument(5)?, Sort::Conditions, ahead)?;
                self.object("Gateway", &object, |object| status::listeners_have(object, &conditions, std::slice::from_ref(&listener))).await
            }
            ("kubernetes", "BackendTLSPolicyMustHaveCondition" | "BackendTLSPolicyMustHaveAcceptedConditionTrue") => {
                let (policies, parent) = (self.each(argument(3)?)?, value(4)?);
                let condition = match name {
                    "BackendTLSPolicyMustHaveCondition" => self.expected(argument(5)?, Sort::Condition, ahead)?,
                    _ => json!({ "Type": "Accepted", "Status": "True", "Reason": "Accepted" }),
                };
                for policy in policies {
                    self.object("BackendTLSPolicy", &policy, |object| status::at_parent(object, &parent, &condition)).await?;
                }
                Ok(())
            }
            ("kubernetes", "BackendTLSPolicyMustHaveLatestConditions") => {
                let policy = self.names.get("policyNN").cloned().context("it names no policy")?;
                self.object("BackendTLSPolicy", &policy, |_| Ok(())).await
            }
            // What is applied, the data does not tell: `steps` does, before this.
            ("suite" | "s", "Applier.MustApplyObjectsWithCleanup" | "Applier.MustApplyWithCleanup") => Ok(()),

            ("http" | "h", "MakeRequestAndExpectEventuallyConsistentResponse") => {
                // The shares of copies were counted where the table came first.
                let counted = self.cases.is_empty() && self.shared.iter().any(|case| case["MirroredTo"].is_array());
                let cases = if counted { Vec::new() } else { self.table(argument(4)?, ahead)? };
                if let Some(port) = address_port(&argument(3)?.text) {
                    self.at.as_mut().context("no gateway is named")?.1 = port;
                }
                self.requests(&cases, None).await
            }
            ("h" | "http", "MakeRequestAndExpectFailure") => {
                let cases = self.table(argument(4)?, ahead)?;
                self.failures(&cases).await
            }
            ("tls", "MakeTLSRequestAndExpectEventuallyConsistentResponse") if self.cases.first().is_some_and(|case| case["host"].is_string()) => {
                self.hosts().await
            }
            ("tls", "MakeTLSRequestAndExpectEventuallyConsistentResponse" | "MakeTLSRequestAndExpectEventuallyConsistentFailureResponse") => {
                let cases = self.table(argument(8)?, ahead)?;
                if let Some(port) = address_port(&argument(3)?.text) {
                    self.at.as_mut().context("no gateway is named")?.1 = port;
                }
                let pair = |text: &str| -> anyhow::Result<_> {
                    // `clientCertPem` is of the Secret that `clientCertNN` names.
                    let named = self.names.get(&format!("{}NN", text.trim_end_matches("Pem"))).context("no Secret is named")?;
                    self.suite.certificates.pair(named["Name"].as_str().unwrap_or_default())
                };
                let client = argument(5)?.text.clone();
                let client = if client == "nil" { None } else { Some(pair(&client)?) };
                let server = pair("certPem")?.certificate.der().clone();
                let server_name = value(7)?.as_str().unwrap_or_default().to_owned();
                let tls = Tls { root: self.trusted(server), server_name, client };
                if name.ends_with("FailureResponse") { self.refused(&cases, &tls).await } else { self.requests(&cases, Some(&tls)).await }
            }
            ("tls", "MakeTLSConnectionAndExpectEventuallyConnectionRejection") => {
                let server_name = value(3).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_else(|| "abc.example.com".to_owned());
                let root = self.suite.certificates.root("tls-checks-ca-certificate")?;
                let address = self.address(self.port()?).await?;
                let tls = Tls { root, server_name, client: None };
                eventually("the connection is rejected", PATIENCE / 3, || async {
                    let opened = traffic::tls(address, &tls).await;
                    ensure!(opened.is_err(), "it was let in");
                    Ok(())
                })
                .await
            }
            ("tcp", "MakeTCPRequestAndExpectEventuallyValidResponse") => {
                let cases = self.table(argument(6)?, ahead)?;
                let secure = value(5)?.as_bool().unwrap_or_default();
                let server_name = value(4).ok().and_then(|name| name.as_str().map(str::to_owned));
                self.bytes(&cases, secure, server_name).await
            }
            ("tcp", "ExpectEchoResponse") => self.bytes(&[json!({})], false, None).await,
            ("udp", "ExpectEchoResponse") => self.datagrams(&json!({})).await,
            ("udp", "ExpectEchoResponseFromBackend") => {
                let wanted = value(3)?;
                self.datagrams(&wanted).await
            }
            ("grpc", "MakeRequestAndExpectEventuallyConsistentResponse") => {
                let cases = self.table(argument(4)?, ahead)?;
                self.calls(&cases, false).await
            }
            ("grpc", "MakeRequestAndExpectEventuallyConsistentFailure") => {
                let cases = self.table(argument(4)?, ahead)?;
                self.calls(&cases, true).await
            }
            ("weight", "TestWeightedDistribution") => self.distribution().await,
            ("echo", "ConnectToApp" | "ConnectToAppInNamespace") => Ok(()),
            (client, "MakeRequestAndExpectEventuallyConsistentResponse") => {
                let cases = self.table(argument(1)?, ahead)?;
                let namespace = if client.starts_with("consumer") { "gateway-conformance-mesh-consumer" } else { "gateway-conformance-mesh" };
                self.calls_in_mesh(&cases, namespace).await
            }
            _ => bail!("this check is not known"),
        }
    }

    fn listener_set_reference(&self) -> anyhow::Result<Value> {
        let mut reference = self.names.get("lsNN").cloned().context("it names no ListenerSet")?;
        reference["Kind"] = "ListenerSet".into();
        Ok(reference)
    }

    /// The certificate that a request trusts: where TLS passes through, the authority of the backends'.
    fn trusted(
        &self,
        server: tokio_rustls::rustls::pki_types::CertificateDer<'static>,
    ) -> tokio_rustls::rustls::pki_types::CertificateDer<'static> {
        let of_backends = self.names.get("certNN").is_some_and(|named| named["Name"] == "tls-checks-certificate");
        if of_backends { self.suite.certificates.root("tls-checks-ca-certificate").unwrap_or(server) } else { server }
    }

    /// The objects that an argument means: where it is the variable of a loop, those that are looped over.
    fn each(&self, argument: &Argument) -> anyhow::Result<Vec<Value>> {
        let all = |name: &str| self.names.get(name).and_then(Value::as_array).cloned();
        let looped = all(&format!("{}s", argument.text)).or_else(|| all("routes"));
        match (&argument.value, looped) {
            (Some(Value::Array(all)), _) => Ok(all.clone()),
            (Some(one), _) if !one.is_null() => Ok(vec![one.clone()]),
            (_, Some(all)) if argument.text == "routeNN" => Ok(all),
            _ => bail!("{} has no value", argument.text),
        }
    }

    /// Whether routes are accepted at a parent, and all listeners of the parent hold.
    async fn accepted(&self, kind: &str, reference: &Value, routes: &[Argument]) -> anyhow::Result<()> {
        let accepted = json!([{ "Type": "Accepted", "Status": "True", "Reason": "Accepted" }]);
        for argument in routes {
            for route in self.each(argument)? {
                let parent = json!({
                    "Group": "gateway.networking.k8s.io",
                    "Kind": reference["Kind"],
                    "Name": reference["Name"],
                    "Namespace": reference["Namespace"],
                });
                let wanted = json!([{ "ParentRef": parent, "Conditions": accepted }]);
                let required = route["Namespace"] != reference["Namespace"];
                self.object(kind, &route, |object| status::parents(object, &wanted, required)).await?;
            }
        }
        // Those for TLS alone do not ask this of the suite.
        let hold = ["Accepted", "Programmed", "ResolvedRefs"].map(|kind| json!({ "Type": kind, "Status": "True" })).into();
        let parent = reference["Kind"].as_str().unwrap_or("Gateway");
        if kind == "TLSRoute" {
            return Ok(());
        }
        self.object(parent, reference, |object| status::listeners_have(object, &hold, &[])).await
    }

    /// From here on requests go to this gateway, at the listener that is named or the first.
    async fn go_to(&mut self, reference: &Value) -> anyhow::Result<()> {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        self.gateways.start(text("Name"), text("Namespace")).await?;
        let gateway = self.get("gateway", reference).await?;
        let listeners = status::list(&gateway["spec"]["listeners"]);
        let wanted = status::list(&reference["Listeners"]).first();
        let listener = listeners.iter().find(|listener| wanted == Some(&listener["name"])).or_else(|| listeners.first());
        let port = listener.and_then(|listener| listener["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        self.ports = listeners.iter().filter_map(|listener| listener["port"].as_u64()).collect();
        self.at = Some((reference.clone(), port.context("it has no listener")?));
        Ok(())
    }

    pub(super) fn port(&self) -> anyhow::Result<u16> {
        Ok(self.at.as_ref().context("no gateway is named")?.1)
    }

    pub(super) async fn address(&self, port: u16) -> anyhow::Result<std::net::SocketAddr> {
        let (gateway, _) = self.at.as_ref().context("no gateway is named")?;
        let text = |field: &str| gateway[field].as_str().unwrap_or_default();
        self.gateways.address(text("Name"), text("Namespace"), port).await
    }

    /// The cases that a check means.
    fn table(&mut self, argument: &Argument, ahead: &[String]) -> anyhow::Result<Vec<Value>> {
        if argument.text.contains('{') {
            // It stands there in full.
            ensure!(!self.cases.is_empty(), "the data has no case of it");
            return Ok(vec![self.cases.remove(0)]);
        }
        let by_name = |call: &&String| call.contains(&format!(", {})", argument.text)) || call.contains(", tc)") || call.contains(", tc,");
        let (uses, inline) = (ahead.iter().filter(by_name).count(), ahead.iter().filter(|call| call.contains("ExpectedResponse{")).count());
        let is_one = |case: &Value| case["$type"].as_str().is_some_and(|kind| !kind.starts_with("[]"));
        if argument.text.starts_with("expected") && self.shared.is_empty() && self.cases.first().is_none_or(is_one) {
            // A variable of its own: declared once, and perhaps again.
            if self.cases.is_empty()
                || self.names.get(&argument.text).is_some()
                    && self.cases.len() < ahead.iter().filter(|call| call.contains(", expected")).count()
            {
                return Ok(vec![self.names.get(&argument.text).cloned().context("the data has no case of it")?]);
            }
            let case = self.cases.remove(0);
            self.names.insert(argument.text.clone(), case.clone());
            return Ok(vec![case]);
        }
        if self.cases.is_empty() {
            ensure!(!self.shared.is_empty(), "the data has no case of it");
            return Ok(self.shared.clone());
        }
        let most = self.cases.len().saturating_sub(inline);
        let end = if uses > 1 { gap(&self.cases[..most]) } else { most };
        let table: Vec<Value> = self.cases.drain(..end).collect();
        self.shared.clone_from(&table);
        Ok(table)
    }

    /// Takes what the test brought away.
    pub(crate) async fn take_away(mesh: &Mesh, backends: &Backends, manifests: &[Value], test: &str) -> anyhow::Result<()> {
        let mut documents = [backends.resources(manifests), resources(manifests)].concat();
        documents.extend(steps::brought(test));
        let all = text(&documents);
        let delete = || mesh.lorica_with_input(["delete", "-f", "-"], Some(&all));
        if delete().await?.code() != 0 {
            // A step took some of it away: with the rest it goes again.
            mesh.lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&all)).await?.success()?;
            delete().await?.success()?;
        }
        Ok(())
    }
}

/// `&gatewayv1.HTTPRoute{}`.
fn route_kind(value: &Value) -> String {
    value["$type"].as_str().and_then(|kind| kind.rsplit('.').next()).unwrap_or("HTTPRoute").to_owned()
}

/// The port that an address's name tells: `gwAddr8080`, and those of the tests with client certificates.
fn address_port(name: &str) -> Option<u16> {
    match name {
        "httpAddr" => Some(80),
        "defaultAddr" | "httpsAddr" => Some(443),
        "perPortAddr" => Some(8443),
        _ => name.strip_prefix("gwAddr")?.parse().ok(),
    }
}

/// Where a table ends, of several that follow each other: at the first line that is much farther from the one before than most are.
fn gap(cases: &[Value]) -> usize {
    let lines: Vec<u64> = cases.iter().map(|case| case["$line"].as_u64().unwrap_or_default()).collect();
    let gaps: Vec<u64> = lines.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let mut sorted = gaps.clone();
    sorted.sort_unstable();
    let usual = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    gaps.iter().position(|gap| *gap > 15 && *gap >= 2 * usual).map_or(cases.len(), |at| at + 1)
}

/// The names of features stand in order, each once.
fn features(supported: &Value) -> anyhow::Result<()> {
    let names: Vec<&str> = status::list(supported).iter().filter_map(|feature| feature["name"].as_str()).collect();
    ensure!(names.is_sorted_by(|one, other| one < other) && (1..=64).contains(&names.len()), "{names:?}");
    Ok(())
}
