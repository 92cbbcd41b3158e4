//! AuthenticationPolicy with tokens at real proxies: what is taken, what an attacker may try, and what apps see of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks;
mod claims;
mod envoy;
mod gateway;
mod issuer;
mod keys;
mod service;

use std::net::SocketAddr;

use ::bytes::Bytes;
use http::Request;
use http_body_util::Full;

/// A policy of `shop`; `spec`: what it says.
fn policy(name: &str, spec: &str) -> String {
    format!("---\napiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

/// Services of one plaintext endpoint each.
fn services(endpoints: &[(&str, SocketAddr)]) -> String {
    let one = |(name, address): &(&str, SocketAddr)| testbed::service(name, "http", *address);
    endpoints.iter().map(one).collect()
}

/// A request with these fields.
fn request(path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::get(path).header("host", "shop.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::default())?)
}

/// What `authorization` has of a token.
fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
