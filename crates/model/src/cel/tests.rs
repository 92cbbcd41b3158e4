//! Expressions evaluated over one request that everybody can imagine.
#![allow(clippy::unwrap_used)]

mod chance;
mod language;
mod mistakes;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use serde_json::json;

use super::{Attributes, EvaluationError, Expression, Failure};
use crate::claims::Claims;
use crate::head::{HeadBuilder, RequestHead, Version};
use crate::spiffe::SpiffeId;

/// A request to a recording, by the workload that routes calls.
pub(super) struct Request {
    head: RequestHead,
    claims: Claims,
    identity: SpiffeId,
}

impl Request {
    pub(super) fn new() -> Self {
        let claims = json!({
            "sub": "alice", "level": 3, "big": 9_007_199_254_740_993_u64, "groups": ["agents", "leads"], "admin": false, "none": null,
            "org": {"name": "contact", "floors": [1, 2]},
        });
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in [("x-tier", "gold"), ("X-Many", "a"), ("x-many", "b"), ("x-empty", "")] {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.field(b"x-bytes", b"\xff").unwrap();
        let head = builder.request(Version::Http2, "GET", "/recordings/42?part=1&of=2#end", "recording.contact.mesh:80", None).unwrap();
        let identity = "spiffe://mesh.example/ns/contact/sa/call-routing".parse().unwrap();
        Self { head, claims: Claims::read(claims.to_string().as_bytes()).unwrap(), identity }
    }

    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            head: Some(&self.head),
            time: SystemTime::from("2026-11-30T06:38:36.25Z".parse::<jiff::Timestamp>().unwrap()),
            claims: Some(&self.claims),
            source: "240.0.0.7:40123".parse().unwrap(),
            identity: Some(&self.identity),
            server_name: Some("80.recording.contact.mesh"),
            exchange: None,
        }
    }
}

/// A connection of which nothing is known but where it came from.
pub(super) const NOTHING: Attributes<'static> = Attributes {
    head: None,
    time: SystemTime::UNIX_EPOCH,
    claims: None,
    source: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
    identity: None,
    server_name: None,
    exchange: None,
};

fn parsed(text: &str) -> Expression {
    Expression::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"))
}

fn evaluated(text: &str) -> Result<bool, EvaluationError> {
    parsed(text).evaluate(&Request::new().attributes())
}

fn all_hold(expressions: &[&str]) {
    for text in expressions {
        assert_eq!(evaluated(text), Ok(true), "{text}");
    }
}

fn all_fail(expressions: &[(&str, Failure)]) {
    for (text, failure) in expressions {
        assert_eq!(evaluated(text).map_err(|error| error.failure), Err(*failure), "{text}");
    }
}
