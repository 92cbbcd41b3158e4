//! A whole control plane in this process, on a socket of its own: REST, streams of proxies and certificates through one door.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lorica_api::{ApiClient, ApiError, ApplyReply, ApplyRequest, ChangeAction, DeleteRequest, NamedText, Server, Status, Target};
use lorica_control::ControlConfig;
use lorica_identity::ca_api::{Issued, request_certificate};
use lorica_identity::{KeyPair, peer_identity};
use lorica_model::name::{Label, Namespace, ServicePort, WorkloadName};
use lorica_model::resource::Kind;
use lorica_model::snapshot::{Protocol, Snapshot};
use lorica_xds::client::{Client, ClientConfig, ConnectionState, Endpoint};
use lorica_xds::{NodeMetadata, NodePort};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Only a test that fails waits as long.
const PATIENCE: Duration = Duration::from_secs(20);

struct Control {
    api: ApiClient,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

fn config(directory: &Path) -> ControlConfig {
    ControlConfig {
        state_directory: directory.join("state"),
        socket: directory.join("control.sock"),
        workload_socket: directory.join("workload.sock"),
        trust_domain: None,
        svid_lifetime: lorica_control::SVID_LIFETIME,
        own_ca: None,
        telemetry: None,
        kept: lorica_control::telemetry::kept::KeptConfig::default(),
        listen: None,
        kubernetes: None,
        bundle_endpoint: None,
        bundle_refresh: Duration::from_secs(300),
    }
}

impl Control {
    async fn start(directory: &Path) -> Self {
        let config = config(directory);
        let socket = config.socket.clone();
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(lorica_control::run(config, move |_| ready.send(()).unwrap(), async move {
            stopped.await.ok();
        }));
        tokio::time::timeout(PATIENCE, is_ready).await.expect("it starts in time").expect("it starts");
        Self { api: ApiClient::new(Server::Unix(socket.clone())), socket, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends in time").unwrap().unwrap();
        assert!(!self.socket.exists(), "it takes its socket away");
    }

    async fn apply(&self, text: &str) -> Result<ApplyReply, ApiError> {
        self.api.apply(&request(text), PATIENCE).await
    }

    /// The status, once it is as wanted.
    async fn status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut seen = None;
        let looking = async {
            loop {
                let status = self.api.status().await.unwrap();
                if wanted(&status) {
                    return status;
                }
                seen = Some(status);
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await.ok();
        found.unwrap_or_else(|| panic!("the status never was as wanted: {seen:?}"))
    }

    async fn certificate(&self, id: &str, metadata: &NodeMetadata, account: &str) -> Result<(Issued, String), tonic::Status> {
        let socket = self.socket.clone();
        let channel =
            tonic::transport::Endpoint::from_static("http://control.lorica").connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
            }));
        let namespace = id.split_once('.').unwrap().1;
        let identity = format!("spiffe://mesh.local/ns/{namespace}/sa/{account}");
        let csr = KeyPair::generate().unwrap().request_pem(&identity.parse().unwrap()).unwrap();
        let node = serde_json::json!({ "id": id, "metadata": metadata }).to_string();
        request_certificate(channel, csr, &node, None, PATIENCE).await.map(|issued| (issued, identity))
    }
}

fn request(text: &str) -> ApplyRequest {
    ApplyRequest { files: vec![NamedText { name: "mesh.yaml".to_owned(), text: text.to_owned() }], ..ApplyRequest::default() }
}

/// A proxy: its client, and the task that serves it.
struct Proxy {
    client: Client,
    snapshots: watch::Receiver<std::sync::Arc<Snapshot>>,
    task: JoinHandle<()>,
}

impl Proxy {
    fn start(socket: &Path, id: &str, metadata: NodeMetadata) -> Self {
        let node_id: WorkloadName = id.parse().unwrap();
        let config = ClientConfig { endpoint: Endpoint::Unix(socket.to_owned()), node_id, version: "0.1.0".to_owned(), metadata };
        let (client, task) = Client::start(config, None);
        Self { snapshots: client.snapshot(), client, task: tokio::spawn(task) }
    }

    async fn has<T>(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> Option<T>) -> T {
        let looking = async {
            loop {
                let found = wanted(&self.snapshots.borrow_and_update());
                if let Some(found) = found {
                    return found;
                }
                self.snapshots.changed().await.expect("the client runs");
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await.ok();
        found.unwrap_or_else(|| panic!("{what} never came"))
    }

    async fn endpoints(&mut self, port: &str, wanted: &[&str]) {
        let port: ServicePort = port.parse().unwrap();
        self.client.want(port.clone());
        let what = format!("the endpoints {wanted:?} of {port}");
        let matches = |snapshot: &Snapshot| {
            let found: Vec<_> = snapshot.endpoints.get(&port)?.endpoints.iter().map(|endpoint| endpoint.workload.to_string()).collect();
            (found == wanted).then_some(())
        };
        self.has(&what, matches).await;
    }

    /// Breaks the stream off, as a proxy that is killed does.
    async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

fn caller() -> NodeMetadata {
    NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new("caller").unwrap())
}

fn workload(service: &str, port: u16, protocol: Protocol) -> NodeMetadata {
    let account = service.split_once('.').unwrap().0;
    NodeMetadata {
        service: Some(service.parse().unwrap()),
        ports: vec![NodePort { service_port: port, app_port: 8080, protocol, address: "127.0.0.1:15008".parse().unwrap() }],
        listening: vec![8080],
        ..NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new(account).unwrap())
    }
}

const RECORDING: &str = "recording.contact.mesh:80";
const SERVICE: &str = "
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording, namespace: contact}
spec: {ports: [{port: 80, appProtocol: http}]}
";

fn route(path: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: recording, namespace: contact}}
spec:
  parentRefs: [{{kind: Service, group: '', name: recording, port: 80}}]
  rules:
    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
      backendRefs: [{{name: recording, port: 80}}]
"
    )
}

fn names(status: &Status) -> Vec<String> {
    status.proxies.iter().map(|proxy| proxy.id.to_string()).collect()
}

#[tokio::test]
async fn a_change_set_is_stored_shown_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let reply = control.apply(&format!("{SERVICE}---{}", route("/"))).await.unwrap();
    let actions = |reply: &ApplyReply| reply.changes.iter().map(|change| (change.target.kind, change.action)).collect::<Vec<_>>();
    assert_eq!(actions(&reply), [(Kind::Service, ChangeAction::Created), (Kind::HttpRoute, ChangeAction::Created)]);
    let receipt = reply.receipt.unwrap();
    assert!(receipt.concerned == 0 && receipt.is_complete(), "no proxy uses it yet: {receipt:?}");
    // The same again changes nothing; something else counts the generation up and keeps when it was made.
    let again = control.apply(SERVICE).await.unwrap();
    assert_eq!((actions(&again), again.receipt), (vec![(Kind::Service, ChangeAction::Unchanged)], None));
    let before = control.api.resource(Kind::HttpRoute, "contact", "recording").await.unwrap();
    control.apply(&route("/new")).await.unwrap();
    let after = control.api.resource(Kind::HttpRoute, "contact", "recording").await.unwrap();
    assert_eq!((&before["metadata"]["generation"], &after["metadata"]["generation"]), (&1.into(), &2.into()));
    assert_eq!(before["metadata"]["creationTimestamp"], after["metadata"]["creationTimestamp"]);
    assert!(after["status"]["parents"][0]["conditions"].is_array(), "{after}");
    // A dry run changes nothing.
    let dry = ApplyRequest { dry_run: true, ..request(&route("/dry")) };
    assert_eq!(actions(&control.api.apply(&dry, PATIENCE).await.unwrap()), [(Kind::HttpRoute, ChangeAction::Changed)]);
    assert_eq!(control.api.resource(Kind::HttpRoute, "contact", "recording").await.unwrap()["metadata"]["generation"], 2);
    assert_eq!(control.api.list(Kind::Service, Some("contact")).await.unwrap().items.len(), 1);
    assert_eq!(control.api.list(Kind::Service, Some("other")).await.unwrap().items.len(), 0);
    // All that is named is deleted, or nothing.
    let target = |name: &str| Target {
        kind: Kind::HttpRoute,
        namespace: Namespace::new("contact").unwrap(),
        name: Label::new(name).unwrap().into(),
    };
    let both = DeleteRequest { targets: vec![target("recording"), target("recoding")], ..DeleteRequest::default() };
    let missing = control.api.delete(&both, PATIENCE).await.unwrap_err();
    assert!(matches!(missing, ApiError::Failed { status: 404, .. }) && missing.to_string().contains("recoding.contact"), "{missing}");
    let files = DeleteRequest { targets: vec![target("recording")], files: request(SERVICE).files, ..DeleteRequest::default() };
    assert_eq!(control.api.delete(&files, PATIENCE).await.unwrap().changes.len(), 2);
    assert_eq!(control.api.status().await.unwrap().resources, 0);
    control.stop().await;
}

/// A call that the client of this crate would not make: raw, as another program may.
#[tokio::test]
async fn what_kinds_without_a_spec_say_is_compared() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let map = |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: shop}}\ndata: {{a: {value}}}\n");
    for (value, action) in [("b", ChangeAction::Created), ("b", ChangeAction::Unchanged), ("c", ChangeAction::Changed)] {
        assert_eq!(control.apply(&map(value)).await.unwrap().changes[0].action, action, "{value}");
    }
    control.stop().await;
}

async fn call(socket: &Path, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(UnixStream::connect(socket).await.unwrap())).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "x").header("content-type", "application/json");
    let response = sender.send_request(request.body(axum::body::Body::from(body.to_owned())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("it is no JSON: {body:?}")))
}

#[tokio::test]
async fn every_error_has_one_form() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let cases = [
        ("POST", "/v1/apply", "{", 400),
        ("POST", "/v1/apply", r#"{"files": 1}"#, 422),
        ("POST", "/v1/apply?wait=soon", r#"{"files": []}"#, 400),
        ("GET", "/v1/receipts/many", "", 400),
        ("GET", "/v1/receipts/99", "", 404),
        ("GET", "/v1/resources/gadgets", "", 404),
        ("GET", "/v1/resources/services/Contact/x", "", 400),
        ("GET", "/v1/resources/SERVICE/contact/x", "", 404),
        ("GET", "/v2", "", 404),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = call(&control.socket, method, path, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}: {answer}");
    }
    control.stop().await;
}

#[tokio::test]
async fn mistakes_are_refused_where_they_stand() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let Err(ApiError::Refused(found)) = control.apply(&SERVICE.replace("ports", "prots")).await else { panic!("it was taken") };
    let first = &found[0];
    assert_eq!((first.diagnostic.file.as_str(), first.diagnostic.line), ("mesh.yaml", 5));
    assert!(first.rendered.contains("prots") && first.rendered.contains("mesh.yaml:5"), "{}", first.rendered);
    // What is missing in the world is refused, unless it is allowed.
    let alone = request(&route("/"));
    assert!(matches!(control.api.apply(&alone, PATIENCE).await, Err(ApiError::Refused(_))));
    let allowed = control.api.apply(&ApplyRequest { allow_missing: true, ..alone }, PATIENCE).await.unwrap();
    assert!(!allowed.warnings.is_empty());
    control.stop().await;
}

#[tokio::test]
async fn a_workload_is_an_endpoint_while_it_listens_and_a_receipt_counts_who_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let recording = Proxy::start(
        &control.socket,
        "recording-1.contact",
        NodeMetadata { listening: Vec::new(), ..workload("recording.contact", 80, Protocol::Http) },
    );
    let mut calling = Proxy::start(&control.socket, "caller-1.contact", caller());
    let status = control.status(|status| status.proxies.iter().filter(|proxy| proxy.connected).count() == 2).await;
    assert_eq!(names(&status), ["caller-1.contact", "recording-1.contact"]);
    assert!(status.proxies[1].software.starts_with("lorica"), "{:?}", status.proxies[1]);
    // The service that nobody wrote is declared by its workload.
    let declared = control.api.resource(Kind::Service, "contact", "recording").await.unwrap();
    assert_eq!(declared["metadata"]["annotations"]["lorica.io/declared-by"], "workload");
    calling.endpoints(RECORDING, &[]).await;
    recording.client.update_metadata(|metadata| metadata.listening = vec![8080]);
    calling.endpoints(RECORDING, &["recording-1.contact"]).await;

    let receipt = control.apply(&route("/")).await.unwrap().receipt.unwrap();
    assert_eq!((receipt.concerned, receipt.acknowledged, receipt.is_complete()), (1, 1, true), "{receipt:?}");
    assert!(calling.snapshots.borrow().outbound[&RECORDING.parse().unwrap()].http_only, "it is in force once it is acknowledged");
    // A user's own Service takes the declared one's place.
    assert_eq!(control.apply(SERVICE).await.unwrap().changes[0].action, ChangeAction::Changed);
    let own = control.api.resource(Kind::Service, "contact", "recording").await.unwrap();
    assert!(own["metadata"]["annotations"].get("lorica.io/declared-by").is_none(), "{own}");
    control.stop().await;
}

#[tokio::test]
async fn a_workload_that_drains_is_no_endpoint_and_then_withdrawn() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let mut recording = Proxy::start(&control.socket, "recording-1.contact", workload("recording.contact", 80, Protocol::Http));
    let mut calling = Proxy::start(&control.socket, "caller-1.contact", caller());
    control.status(|status| status.proxies.len() == 2).await;
    calling.endpoints(RECORDING, &["recording-1.contact"]).await;
    recording.client.update_metadata(|metadata| metadata.draining = true);
    recording.has("the word that every caller knows", |snapshot| snapshot.inbound.as_ref()?.withdrawn.then_some(())).await;
    // It was told so after its callers had acknowledged.
    assert!(calling.snapshots.borrow().endpoints[&RECORDING.parse().unwrap()].endpoints.is_empty());
    recording.kill().await;
    control.status(|status| names(status) == ["caller-1.contact"]).await;
    control.stop().await;
}

#[tokio::test]
async fn a_workload_that_contradicts_a_service_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    control.apply(SERVICE).await.unwrap();
    let wrong = Proxy::start(&control.socket, "recording-1.contact", workload("recording.contact", 81, Protocol::Http));
    let mut states = wrong.client.state();
    let refused = states.wait_for(|state| matches!(state, ConnectionState::Refused { .. }));
    let ConnectionState::Refused { message } = tokio::time::timeout(PATIENCE, refused).await.unwrap().unwrap().clone() else {
        unreachable!()
    };
    assert!(message.contains("recording.contact") && message.contains("81") && message.contains("80"), "{message}");
    assert_eq!(control.api.status().await.unwrap().proxies.len(), 0);
    control.stop().await;
}

#[tokio::test]
async fn an_svid_is_issued_and_leaves_the_registration_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    // What a proxy says as it asks for its certificate is what it knew when it began: nothing listens yet.
    let at_start = NodeMetadata { listening: Vec::new(), ..workload("recording.contact", 80, Protocol::Http) };
    let (issued, identity) = control.certificate("recording-1.contact", &at_start, "recording").await.unwrap();
    let peer = peer_identity(&issued.chain).unwrap();
    assert_eq!(peer.id.to_string(), identity);
    let facts = peer.facts.unwrap();
    assert_eq!(facts.workload.to_string(), "recording-1.contact");

    let _recording = Proxy::start(&control.socket, "recording-1.contact", workload("recording.contact", 80, Protocol::Http));
    let mut calling = Proxy::start(&control.socket, "caller-1.contact", caller());
    calling.endpoints(RECORDING, &["recording-1.contact"]).await;
    let address = control.status(|status| status.proxies.len() == 2).await.proxies[1].virtual_address;
    assert_eq!(facts.virtual_v4, Some(address), "the address was kept for it");

    control.certificate("recording-1.contact", &at_start, "recording").await.unwrap();
    let status = control.api.status().await.unwrap();
    assert_eq!(status.proxies[1].listening, [8080], "a renewal takes no endpoint away");
    assert!(status.proxies[1].certificate_not_after.is_some());
    let other = control.certificate("recording-1.contact", &at_start, "analytics").await.unwrap_err();
    assert!(other.message().contains("recording"), "{}", other.message());
    // A workload has the identities of its own namespace only.
    let elsewhere = NodeMetadata { namespace: Namespace::new("other").unwrap(), ..at_start };
    let refused = control.certificate("recording-1.contact", &elsewhere, "recording").await.unwrap_err();
    assert!(refused.message().contains("other") && refused.message().contains("contact"), "{}", refused.message());
    control.stop().await;
}

#[tokio::test]
async fn who_only_asked_for_a_certificate_is_no_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let (issued, _) =
        control.certificate("recording-1.contact", &workload("recording.contact", 80, Protocol::Http), "recording").await.unwrap();
    assert!(peer_identity(&issued.chain).unwrap().facts.unwrap().virtual_v4.is_some());
    assert_eq!(names(&control.api.status().await.unwrap()), Vec::<String>::new());
    control.stop().await;
}

#[tokio::test]
async fn a_restart_takes_no_endpoint_from_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    control.apply(&format!("{SERVICE}---{}", route("/"))).await.unwrap();
    let recording = Proxy::start(&control.socket, "recording-1.contact", workload("recording.contact", 80, Protocol::Http));
    let before = control.status(|status| status.proxies.iter().any(|proxy| proxy.connected)).await;
    // It is lost together with the control plane.
    recording.kill().await;
    control.stop().await;

    let control = Control::start(directory.path()).await;
    let mut calling = Proxy::start(&control.socket, "caller-1.contact", caller());
    calling.endpoints(RECORDING, &["recording-1.contact"]).await;
    let after = control.status(|status| status.proxies.len() == 2).await;
    assert_eq!((after.revision >= before.revision, after.resources), (true, 2));
    assert!(!after.proxies[1].connected && after.proxies[1].virtual_address == before.proxies[0].virtual_address);
    // A stream of a client that stays finds the next control plane by itself.
    control.stop().await;
    let control = Control::start(directory.path()).await;
    control.status(|status| status.proxies.iter().any(|proxy| proxy.connected && proxy.id.to_string() == "caller-1.contact")).await;
    control.stop().await;
}

#[tokio::test]
async fn one_control_plane_has_a_state_and_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let second = lorica_control::run(config(directory.path()), |_| panic!("it began"), std::future::pending()).await.unwrap_err();
    assert!(format!("{second:#}").contains("another control plane"), "{second:#}");
    let elsewhere = ControlConfig { state_directory: directory.path().join("other"), ..config(directory.path()) };
    let second = lorica_control::run(elsewhere, |_| panic!("it began"), std::future::pending()).await.unwrap_err();
    assert!(format!("{second:#}").contains("another control plane"), "{second:#}");
    control.api.status().await.unwrap();
    control.stop().await;
    // A socket that was left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("control.sock")).unwrap());
    Control::start(directory.path()).await.stop().await;
    let gone = ApiClient::new(Server::Unix(directory.path().join("control.sock"))).status().await.unwrap_err();
    assert!(gone.to_string().contains("lorica control"), "{gone}");
}

/// Two workloads of one service begin at once, each with a port that the other has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_that_are_declared_at_once_are_all_there() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let ports: Vec<u16> = (1000..1012).collect();
    let proxies = ports
        .iter()
        .map(|port| Proxy::start(&control.socket, &format!("many-{port}.contact"), workload("many.contact", *port, Protocol::Http)));
    let _proxies: Vec<_> = proxies.collect();
    control.status(|status| status.proxies.iter().filter(|proxy| proxy.connected).count() == ports.len()).await;
    let declared = control.api.resource(Kind::Service, "contact", "many").await.unwrap();
    let mut found: Vec<u64> = declared["spec"]["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, ports.iter().map(|port| u64::from(*port)).collect::<Vec<_>>());
    control.stop().await;
}

/// What a workload says last holds, however fast it says it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_word_of_a_workload_holds() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let recording = Proxy::start(&control.socket, "recording-1.contact", workload("recording.contact", 80, Protocol::Http));
    let mut calling = Proxy::start(&control.socket, "caller-1.contact", caller());
    calling.endpoints(RECORDING, &["recording-1.contact"]).await;
    for round in 0..20 {
        recording.client.update_metadata(|metadata| metadata.listening = Vec::new());
        tokio::task::yield_now().await;
        recording.client.update_metadata(|metadata| metadata.listening = vec![8080]);
        recording.client.update_metadata(|metadata| metadata.metrics = Some(([127, 0, 0, 1], 20000 + round).into()));
        let told = Some(([127, 0, 0, 1], 20000 + round).into());
        let status = control.status(|status| status.proxies.iter().any(|proxy| proxy.metrics == told)).await;
        assert_eq!(status.proxies[1].listening, [8080], "round {round}");
    }
    control.stop().await;
}
