//! Our own tests of what the specification asks beyond the groups that are given: gRPC, datagrams, and routes inside the mesh. They begin with
//! the same words: services with their endpoints, a gateway, routes.

mod grpc;
mod mesh;
mod udp;

use std::net::SocketAddr;

use serde_json::{Value, json};
use testbed::Mesh;
use tokio::net::{TcpListener, UdpSocket};

use super::data::text;
use super::echo::{Log, Pod, serve_http, serve_udp};

const GROUP: &str = "gateway.networking.k8s.io";

/// A Service with one plaintext endpoint: a server of this name in the test.
async fn service(name: &str, namespace: &str, log: &Log) -> anyhow::Result<Vec<Value>> {
    let pod = Pod { name: name.to_owned(), namespace: namespace.to_owned(), log: log.clone() };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(serve_http(listener, None, pod.clone()));
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let datagrams = socket.local_addr()?.port();
    tokio::spawn(serve_udp(socket, pod));
    let metadata = json!({ "name": name, "namespace": namespace });
    Ok(vec![
        json!({
            "apiVersion": "lorica.io/v1alpha1", "kind": "Service", "metadata": metadata,
            "spec": { "ports": [{ "port": 80, "appProtocol": "http" }, { "port": 9000, "appProtocol": "grpc" }, { "port": 53, "appProtocol": "tcp" }] },
        }),
        json!({
            "apiVersion": "lorica.io/v1alpha1", "kind": "Workload", "metadata": { "name": format!("{name}-1"), "namespace": namespace },
            "spec": {
                "service": name, "address": "127.0.0.1", "transport": "Plaintext",
                "ports": [{ "servicePort": 80, "port": port }, { "servicePort": 9000, "port": port }, { "servicePort": 53, "port": datagrams }],
            },
        }),
    ])
}

/// A Gateway `edge.shop` with these listeners, each open to all namespaces.
fn gateway(listeners: &Value) -> Value {
    let mut listeners = listeners.clone();
    for listener in listeners.as_array_mut().into_iter().flatten() {
        listener["allowedRoutes"]["namespaces"] = json!({ "from": "All" });
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Gateway", "metadata": { "name": "edge", "namespace": "shop" },
        "spec": { "gatewayClassName": "lorica", "listeners": listeners },
    })
}

/// A route in `shop`.
fn route(kind: &str, name: &str, parent: &Value, spec: &Value) -> Value {
    let mut route = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
    });
    route["spec"]["parentRefs"] = json!([parent]);
    route
}

fn edge() -> Value {
    json!({ "name": "edge" })
}

fn to(name: &str, port: u16) -> Value {
    json!([{ "name": name, "port": port }])
}

async fn apply(mesh: &Mesh, documents: &[Value]) -> anyhow::Result<()> {
    mesh.lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&text(documents))).await?.success().map(drop)
}

/// The status of a resource.
async fn status(mesh: &Mesh, kind: &str, name: &str, namespace: &str) -> anyhow::Result<Value> {
    let shown: Value = mesh.lorica(["get", kind, name, "-n", namespace, "-o", "json"]).await?.success()?.json()?;
    super::status::sound(&shown)?;
    Ok(shown["status"].clone())
}

/// A condition of a route at its first parent: status and reason.
async fn at_parent(mesh: &Mesh, kind: &str, name: &str, condition: &str) -> anyhow::Result<(String, String)> {
    let status = status(mesh, kind, name, "shop").await?;
    let conditions = super::status::list(&status["parents"][0]["conditions"]);
    let found = conditions.iter().find(|found| found["type"] == condition).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("reason")))
}

/// Starts the gateway and tells where its listeners are, in the order of these ports.
async fn start<const N: usize>(gateways: &super::gateways::Gateways<'_>, ports: [u16; N]) -> anyhow::Result<[SocketAddr; N]> {
    let mut places = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for (place, port) in places.iter_mut().zip(ports) {
        *place = gateways.address("edge", "shop", port).await?;
    }
    Ok(places)
}
