//! Gateways from files, as most tests of gateways have them. In: listeners and routes as text. Out: a proxy that runs `edge.shop`.

use std::net::SocketAddr;

use crate::{Mesh, Proxy};

/// A service of `shop` with one plaintext endpoint at port 80.
#[must_use]
pub fn service(name: &str, protocol: &str, address: SocketAddr) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: {protocol}}}]}}\n---\n\
         apiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: {name}-1, namespace: shop}}\nspec: {{service: {name}, address: {ip}, ports: [{{servicePort: 80, port: {port}}}], transport: Plaintext}}\n---\n",
        ip = address.ip(),
        port = address.port(),
    )
}

/// A Gateway `edge.shop` with these listeners.
#[must_use]
pub fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  gatewayClassName: lorica\n  listeners:\n{listeners}---\n"
    )
}

/// A route of `edge.shop`; `spec`: what follows its parent.
#[must_use]
pub fn route(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  parentRefs: [{{name: edge}}]\n{spec}---\n"
    )
}

/// Runs the gateway of `text`, with more options of `lorica proxy`; its listener ports in order.
///
/// # Errors
/// It does not start; the error shows what it said.
pub async fn run_gateway(mesh: &Mesh, text: &str, ports: &[u16], options: &[&str]) -> anyhow::Result<(Proxy, Vec<SocketAddr>)> {
    mesh.write("gateway.yaml", text)?;
    let arguments = ["--gateway", "edge.shop", "--config", "gateway.yaml"].iter().chain(options);
    let mut arguments: Vec<String> = arguments.map(|argument| (*argument).to_owned()).collect();
    for port in ports {
        arguments.extend(["--bind".to_owned(), format!("{port}=0")]);
    }
    let proxy = Proxy::start(mesh, arguments).await?;
    let addresses = proxy.addresses.clone();
    Ok((proxy, addresses))
}
