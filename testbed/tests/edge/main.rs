//! What browsers speak at a gateway: gRPC-Web, WebSocket, HTTP/3. In flow what real clients of others send; out flow what services and
//! clients see, through Lorica's proxy and, where there is one, through a stock Envoy under the same control plane.

mod grpc_web;
mod http3;
mod http3_abuse;
mod websocket;

use std::path::PathBuf;

use testbed::{Envoy, Mesh, service};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// A stock Envoy that runs `edge.shop`. None: there is no Envoy here.
async fn envoy(mesh: &Mesh) -> anyhow::Result<Option<Envoy>> {
    Envoy::start(mesh, &["--gateway", "edge.shop", "--bind", "80=0", "--bind", "443=0"]).await
}

/// Ends it; it has refused nothing that it was sent.
async fn end(envoy: Envoy, mesh: &Mesh) -> anyhow::Result<()> {
    envoy.refused_nothing(mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    envoy.running.stop().await?;
    Ok(())
}

/// A service without an endpoint.
fn deserted(name: &str, protocol: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: {protocol}}}]}}\n---\n"
    )
}

/// A certificate that its clients trust.
struct Trusted {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Trusted {
    /// One for these names.
    fn new(names: &[&str]) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        Ok(Self { chain: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() })
    }

    /// The Secret of it.
    fn secret(&self, name: &str) -> String {
        let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
            indented(&self.chain),
            indented(&self.key)
        )
    }

    /// A file that holds it, for clients in other languages.
    fn file(&self, mesh: &Mesh) -> anyhow::Result<PathBuf> {
        mesh.write("trusted.pem", &self.chain)
    }
}
