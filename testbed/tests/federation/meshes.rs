//! The meshes of a bank and of a shop, and what is said in them.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Mesh, MeshOptions, PATIENCE, Reply, eventually, http_get};

pub(super) const BANK: &str = "bank.example";
pub(super) const SHOP: &str = "shop.example";

/// A mesh of a trust domain, not started yet.
pub(super) fn of(trust_domain: &str) -> MeshOptions {
    Mesh::options().control_option("--trust-domain").control_option(trust_domain)
}

/// The bundle of a mesh, as it is carried by hand.
pub(super) async fn bundle(mesh: &Mesh) -> anyhow::Result<Value> {
    mesh.lorica(["ca", "bundle"]).await?.success()?.json()
}

/// A TrustBundle named like the first label of its trust domain; `rest`: what it says besides.
pub(super) fn trust(trust_domain: &str, rest: &str) -> String {
    let name = name(trust_domain);
    format!(
        "---\napiVersion: lorica.io/v1alpha1\nkind: TrustBundle\nmetadata: {{name: {name}}}\nspec: {{trustDomain: {trust_domain}, {rest}}}\n"
    )
}

fn name(trust_domain: &str) -> &str {
    trust_domain.split('.').next().unwrap()
}

/// What a mesh says of a TrustBundle.
pub(super) async fn shown(mesh: &Mesh, trust_domain: &str) -> anyhow::Result<Value> {
    mesh.lorica(["get", "trustbundle", name(trust_domain), "-o", "json"]).await?.success()?.json()
}

/// Waits until what a mesh says of a TrustBundle is so.
pub(super) async fn shows(mesh: &Mesh, trust_domain: &str, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let said = eventually(what, PATIENCE, || async {
        let said = shown(mesh, trust_domain).await?;
        ensure!(is(&said["status"]), "{said:#}");
        Ok(said)
    });
    said.await.with_context(|| mesh.last_words())
}

/// The condition that tells of the last fetch: its status and message.
pub(super) fn fetched(status: &Value) -> (&str, &str) {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == "Fetched");
    found.map_or(("", ""), |found| (found["status"].as_str().unwrap(), found["message"].as_str().unwrap()))
}

/// Where a service's proxy takes calls for a port.
pub(super) async fn inbound(mesh: &Mesh, service: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let status = mesh.status().await?;
    let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
    let of = |proxy: &&Value| proxy["service"].as_str().is_some_and(|name| name.starts_with(service));
    let ports = proxies.iter().find(of).and_then(|proxy| proxy["ports"].as_array()).with_context(|| format!("{status:#}"))?;
    let found = ports.iter().find(|known| known["service_port"] == port).and_then(|known| known["address"].as_str());
    Ok(found.with_context(|| format!("{status:#}"))?.parse()?)
}

/// A service of the shop whose one workload is in the bank's mesh, where it is known as a service of `core` with the same account.
pub(super) fn at_bank(name: &str, port: &str, address: SocketAddr) -> String {
    let (number, protocol) = port.split_once('/').unwrap();
    format!(
        "---\napiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: their-{name}, namespace: shop}}\nspec: {{ports: [{{port: {number}, appProtocol: {protocol}}}], knownAs: {name}.core}}\n\
         ---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: their-{name}-1, namespace: shop}}\nspec: {{service: their-{name}, identity: 'spiffe://{BANK}/ns/core/sa/{name}', address: {}, ports: [{{servicePort: {number}, port: {}}}]}}\n",
        address.ip(),
        address.port()
    )
}

/// A policy of the bank for a service of `core`; `from`: whom it allows.
pub(super) fn allow(service: &str, from: &str) -> String {
    format!(
        "---\napiVersion: lorica.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {service}, namespace: core}}\nspec: {{targetRefs: [{{kind: Service, name: {service}}}], rules: [{{from: [{{identities: [{from}]}}]}}]}}\n"
    )
}

/// Waits until a call is answered with a status.
pub(super) async fn answers(meshes: [&Mesh; 2], at: SocketAddr, status: u16) -> anyhow::Result<Reply> {
    let what = format!("{at} answers {status}");
    let answered = eventually(&what, PATIENCE, || async {
        let reply = http_get(at, "ledger", "/accounts/7").await?;
        ensure!(reply.status == status, "{} {:?} {}", reply.status, reply.header("x-lorica-reason"), reply.text());
        Ok(reply)
    });
    answered.await.with_context(|| meshes.map(Mesh::last_words).join("\n"))
}
