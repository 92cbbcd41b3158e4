//! The programs of the manifests: for every Deployment an echo server, and for every Service a Service of ours whose Workloads are the servers
//! that its selector means.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::certificates::Certificates;
use super::data::{kind, named};
use super::echo::{Log, Pod, serve_http, serve_tcp, serve_udp};

/// The echo servers.
#[derive(Default)]
pub(crate) struct Backends {
    servers: Vec<Server>,
    /// What they answered.
    pub(crate) log: Log,
}

/// The servers of a Deployment.
struct Server {
    name: String,
    namespace: String,
    /// What its pods are labelled with.
    labels: BTreeMap<String, String>,
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    datagrams: SocketAddr,
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

impl Backends {
    /// Starts servers for each Deployment that has none.
    pub(crate) async fn start(&mut self, documents: &[Value], certificates: &Certificates) -> anyhow::Result<()> {
        for document in documents.iter().filter(|document| kind(document) == "Deployment") {
            let (name, namespace) = named(document);
            if self.servers.iter().any(|known| known.name == name && known.namespace == namespace) {
                continue;
            }
            let template = &document["spec"]["template"]["spec"];
            let environment = template["containers"].as_array().into_iter().flatten().flat_map(|container| container["env"].as_array());
            let environment: Vec<&Value> = environment.flatten().collect();
            let has = |wanted: &str| environment.iter().any(|variable| variable["name"] == wanted);
            let volumes: Vec<&Value> = template["volumes"].as_array().into_iter().flatten().collect();
            let mounted = |path: &str| volumes.iter().find_map(|volume| volume.pointer(path).and_then(Value::as_str));
            let pod = Pod { name: name.clone(), namespace: namespace.clone(), log: self.log.clone() };

            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let plain = listener.local_addr()?;
            let bytes = has("TCP_ECHO_SERVER");
            let serve = |listener, tls: Option<TlsAcceptor>, pod| {
                if bytes { tokio::spawn(serve_tcp(listener, tls, pod)) } else { tokio::spawn(serve_http(listener, tls, pod)) }
            };
            serve(listener, None, pod.clone());
            let mut tls = None;
            if let Some(secret) = mounted("/secret/secretName").filter(|_| has("TLS_SERVER_CERT")) {
                let roots = mounted("/configMap/name").filter(|_| has("TLS_CLIENT_CACERTS"));
                let acceptor = acceptor(certificates, secret, roots).with_context(|| format!("{namespace}/{name}"))?;
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                tls = Some(listener.local_addr()?);
                serve(listener, Some(acceptor), pod.clone());
            }
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            let datagrams = socket.local_addr()?;
            tokio::spawn(serve_udp(socket, pod));
            let labels = texts(&document["spec"]["template"]["metadata"]["labels"]);
            self.servers.push(Server { name, namespace, labels, plain, tls, datagrams });
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
        let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let own: Vec<Value> = ports
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
            vec![json!({ "apiVersion": "lorica.io/v1alpha1", "kind": "Service", "metadata": metadata, "spec": { "ports": own } })];
        // A Service without a selector has its endpoints written by hand: in these manifests those of the first backend.
        let selector = match &service["spec"]["selector"] {
            Value::Null => BTreeMap::from([("app".to_owned(), "infra-backend-v1".to_owned())]),
            written => texts(written),
        };
        let selected = |server: &&Server| {
            server.namespace == namespace && selector.iter().all(|(label, value)| server.labels.get(label) == Some(value))
        };
        for (number, server) in self.servers.iter().filter(selected).enumerate() {
            let at = |port: &Value| {
                let secure = matches!(port["targetPort"].as_u64().or_else(|| port["port"].as_u64()), Some(443 | 8443));
                match port["protocol"].as_str() {
                    Some("UDP") => server.datagrams,
                    _ if secure => server.tls.unwrap_or(server.plain),
                    _ => server.plain,
                }
            };
            let ports: Vec<Value> = ports.iter().map(|port| json!({ "servicePort": port["port"], "port": at(port).port() })).collect();
            made.push(json!({
                "apiVersion": "lorica.io/v1alpha1",
                "kind": "Workload",
                "metadata": { "name": format!("{}-{number}", name.get(..56).unwrap_or(&name)), "namespace": namespace },
                "spec": { "service": name, "address": "127.0.0.1", "ports": ports, "transport": "Plaintext" },
            }));
        }
        made
    }
}

/// What a port speaks. TLS is what a BackendTLSPolicy says, and inside it is HTTP.
fn protocol(port: &Value) -> &str {
    let named = |name: &str| port["name"].as_str().is_some_and(|known| known == name || known.starts_with(&format!("{name}-")));
    match port["appProtocol"].as_str() {
        Some(protocol) if !protocol.eq_ignore_ascii_case("https") => protocol,
        _ if named("tcp") || named("tls") || port["protocol"] == "UDP" => "tcp",
        _ => "http",
    }
}

/// A server's side of TLS with a Secret of the suite's. `roots`: the ConfigMap of those by which clients must show a certificate.
fn acceptor(certificates: &Certificates, secret: &str, roots: Option<&str>) -> anyhow::Result<TlsAcceptor> {
    let pair = certificates.pair(secret)?;
    let key = PrivateKeyDer::try_from(pair.key.serialize_der()).map_err(anyhow::Error::msg)?;
    let builder = ServerConfig::builder();
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let mut store = RootCertStore::empty();
            store.add(certificates.root(roots)?)?;
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(store)).build()?)
        }
    };
    let mut config = builder.with_single_cert(vec![pair.certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
