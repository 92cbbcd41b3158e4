//! What leaves the mesh: nothing that no policy lists, by address and by name, directly and through an egress gateway. In flow policies and
//! calls; out flow answers, and what the control plane says was refused, with Lorica's proxy and with a stock Envoy.

mod envoy;
mod lorica;

use std::net::IpAddr;

use serde_json::Value;
use testbed::{Mesh, Output, Who, can_namespaces, left_out, own_address};

/// An address outside of every namespace, and leave to capture apps; says so where one is missing.
fn outside() -> Option<IpAddr> {
    if let Err(why) = can_namespaces(Who::Nobody) {
        left_out(&format!("what leaves the mesh: {why}"));
        return None;
    }
    let address = own_address();
    if address.is_none() {
        left_out("what leaves the mesh: this machine has no address besides its loopback");
    }
    address
}

/// An EgressPolicy of the namespace `shop`; `spec`: what it says.
fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
}

/// What curl says of a URL, called by a client in `shop` with this account.
async fn get(mesh: &Mesh, account: &str, url: &str) -> anyhow::Result<Output> {
    let client = mesh.client().option("--namespace").option("shop").option("--account").option(account);
    client.output(["curl", "-sS", "-i", "--max-time", "10", url]).await
}

/// The calls that are refused, and the policies that would allow them.
async fn refused(mesh: &Mesh) -> anyhow::Result<Value> {
    mesh.lorica(["policy", "refused", "-o", "json"]).await?.success()?.json()
}

/// An egress gateway, open to all.
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: out, namespace: edge}
spec:
  gatewayClassName: lorica
  listeners: [{name: egress, port: 15008, protocol: lorica.io/egress, allowedRoutes: {namespaces: {from: All}}}]
---
";
