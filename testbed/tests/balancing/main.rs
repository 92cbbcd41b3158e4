//! Which endpoint takes a call, by policy: the same one from a Lorica proxy and a stock Envoy where a hash decides; near ones first; one that a
//! cookie names; another service's as the own ones fail. In flow resources and requests; out flow who answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod beside_envoy;
mod sidecars;

use std::net::SocketAddr;

use anyhow::ensure;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Echo, HttpConnection, Reply};

/// A Service with a policy for its port 80, as JSON.
fn service(name: &str, policy: &str) -> String {
    format!(
        "---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{port: 80, appProtocol: http}}]}}
---
apiVersion: lorica.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{targetRefs: [{{group: lorica.io, kind: Service, name: {name}}}], {policy}}}
"
    )
}

/// An endpoint outside the mesh, with further fields.
fn workload(service: &str, number: usize, address: SocketAddr, more: &str) -> String {
    format!(
        "---
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {{name: {service}-{number}, namespace: shop}}
spec: {{service: {service}, address: {}, ports: [{{servicePort: 80, port: {}}}], transport: Plaintext, {more}}}
",
        address.ip(),
        address.port()
    )
}

/// A request with these fields.
fn get(path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = fields.iter().fold(Request::get(path).header("host", "web.shop"), |request, (name, value)| request.header(*name, *value));
    Ok(request.body(Full::default())?)
}

/// The answer to such a request, which is a good one.
async fn asked(connection: &mut HttpConnection, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<(Echo, Reply)> {
    let reply = connection.send(get(path, fields)?).await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    Ok((reply.json()?, reply))
}
