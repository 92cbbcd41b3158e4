//! The programs of the manifests: for every Deployment an echo server, and for every Service a Service of ours whose Workload is that server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::data::{kind, named};

/// Who answered which path.
type Log = Arc<Mutex<Vec<(String, String)>>>;

/// The echo servers, by namespace and label `app`.
#[derive(Default)]
pub(crate) struct Backends {
    servers: BTreeMap<(String, String), SocketAddr>,
    log: Log,
}

impl Backends {
    /// Starts a server for each Deployment that has none.
    pub(crate) async fn start(&mut self, documents: &[Value]) -> anyhow::Result<()> {
        for document in documents.iter().filter(|document| kind(document) == "Deployment") {
            let (name, namespace) = named(document);
            let app = document.pointer("/spec/selector/matchLabels/app").and_then(Value::as_str).unwrap_or(&name).to_owned();
            if self.servers.contains_key(&(namespace.clone(), app.clone())) {
                continue;
            }
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            self.servers.insert((namespace.clone(), app), listener.local_addr()?);
            tokio::spawn(serve(listener, name, namespace, self.log.clone()));
        }
        Ok(())
    }

    /// Services and Workloads of ours in place of Kubernetes' Services.
    pub(crate) fn resources(&self, documents: &[Value]) -> Vec<Value> {
        let services = documents.iter().filter(|document| kind(document) == "Service" && document["apiVersion"] == "v1");
        services.flat_map(|service| self.service(service)).collect()
    }

    fn service(&self, service: &Value) -> Vec<Value> {
        let (name, namespace) = named(service);
        let listed = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let ports: Vec<Value> = listed
            .iter()
            .map(|port| {
                let mut own = json!({ "port": port["port"], "appProtocol": protocol(port) });
                if let Some(name) = port.get("name") {
                    own["name"] = name.clone();
                }
                own
            })
            .collect();
        let metadata = json!({ "name": name, "namespace": namespace });
        let mut made =
            vec![json!({ "apiVersion": "lorica.io/v1alpha1", "kind": "Service", "metadata": metadata, "spec": { "ports": ports } })];
        // A Service without a selector has its endpoints written by hand: in these manifests those of the first backend.
        let app = service.pointer("/spec/selector/app").and_then(Value::as_str).unwrap_or("infra-backend-v1");
        if let Some(address) = self.servers.get(&(namespace.clone(), app.to_owned())) {
            let ports: Vec<Value> = listed.iter().map(|port| json!({ "servicePort": port["port"], "port": address.port() })).collect();
            made.push(json!({
                "apiVersion": "lorica.io/v1alpha1",
                "kind": "Workload",
                "metadata": { "name": format!("{name}-1"), "namespace": namespace },
                "spec": { "service": name, "address": address.ip(), "ports": ports, "transport": "Plaintext" },
            }));
        }
        made
    }

    /// Whether the server of this name has answered a path.
    pub(crate) fn has_answered(&self, server: &str, path: &str) -> bool {
        let log = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        log.iter().any(|(name, answered)| name == server && answered == path)
    }
}

/// What a port speaks. TLS is what a BackendTLSPolicy says, and inside it is HTTP.
fn protocol(port: &Value) -> &str {
    port["appProtocol"].as_str().filter(|protocol| !protocol.eq_ignore_ascii_case("https")).unwrap_or("http")
}

async fn serve(listener: TcpListener, name: String, namespace: String, log: Log) {
    while let Ok((stream, _)) = listener.accept().await {
        let (name, namespace, log) = (name.clone(), namespace.clone(), log.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| echo(request, name.clone(), namespace.clone(), log.clone()));
            // A client that goes away is no concern of the server's.
            drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Tells what came, as the suite's echo server does.
async fn echo(request: Request<Incoming>, name: String, namespace: String, log: Log) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let query = head.uri.query().unwrap_or_default();
    if let Some(delay) = query.split('&').find_map(|pair| pair.strip_prefix("delay=")) {
        let delay = delay.strip_suffix("ms").map_or_else(
            || delay.trim_end_matches('s').parse::<f64>().map(Duration::from_secs_f64).ok(),
            |millis| millis.parse().map(Duration::from_millis).ok(),
        );
        tokio::time::sleep(delay.unwrap_or_default()).await;
    }
    log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((name.clone(), path.clone()));
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (field, value) in &head.headers {
        headers.entry(field.as_str().to_owned()).or_default().push(value.to_str().unwrap_or_default().to_owned());
    }
    let host = head
        .uri
        .authority()
        .map(|authority| authority.to_string())
        .or_else(|| headers.get("host").and_then(|hosts| hosts.first().cloned()));
    let told = json!({
        "path": path,
        "host": host,
        "method": head.method.as_str(),
        "proto": format!("{:?}", head.version),
        "headers": headers,
        "namespace": namespace,
        "pod": format!("{name}-0"),
    });
    let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
    let asked = headers.get("x-echo-set-header").into_iter().flatten().flat_map(|value| value.split(','));
    for (field, value) in asked.filter_map(|pair| pair.split_once(':')) {
        if let (Ok(field), Ok(value)) = (field.trim().parse::<http::HeaderName>(), value.trim().parse()) {
            response.headers_mut().append(field, value);
        }
    }
    Ok(response)
}
