//! A session's events and the receipts made of them: what was refused is never told as acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Instant;

use lorica_control::receipt::Receipts;
use lorica_xds::session::{Catalog, Event, Form, Request, Response, Session};
use lorica_xds::wire::{Any, DeltaDiscoveryRequest};
use lorica_xds::{Kind, Resource};

/// The catalog of one resource in one version.
struct One(&'static str);

impl Catalog for One {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let body = Any::default();
        (kind == Kind::Route).then(|| Arc::new(Resource { kind, name: name.to_owned(), version: self.0.to_owned(), body }))
    }
    fn all(&self, _: Kind) -> Vec<Arc<Resource>> {
        Vec::new()
    }
}

/// Two changes come while an answer is under way, are sent together, and refused: neither counts as acknowledged.
#[test]
fn what_was_refused_counts_for_every_change_in_it() {
    let url = Kind::Route.type_url().to_owned();
    let now = Instant::now();
    let mut receipts = Receipts::default();
    let mut session = Session::new(Form::Delta, Arc::new(One("v1")), 1);
    let request = |nonce: String, refused: bool, names: &[&str]| {
        let error_detail = refused.then(Default::default);
        Request::Delta(DeltaDiscoveryRequest {
            type_url: url.clone(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        })
    };
    let nonce = |session: &mut Session| match session.next_response() {
        Some(Response::Delta(response)) => response.nonce,
        other => panic!("{other:?}"),
    };
    session.on_request(request(String::new(), false, &["x"])).unwrap();
    let first = nonce(&mut session);
    // 4 and 5 come before the first answer is acknowledged.
    for (revision, version) in [(4, "v4"), (5, "v5")] {
        receipts.published(revision, [(7, "a".to_owned())].into(), now);
        session.publish(Arc::new(One(version)), revision);
    }
    let mut events = session.on_request(request(first, false, &[])).unwrap();
    let second = nonce(&mut session);
    events.extend(session.on_request(request(second, true, &[])).unwrap());
    for event in events {
        match event {
            Event::Reached { revision } => drop(receipts.reached(7, revision, now)),
            Event::Rejected { name, message, revision, .. } => drop(receipts.rejected(7, revision, &name, &message, now)),
            _ => {}
        }
    }
    for revision in [4, 5] {
        let receipt = receipts.receipt(revision, now).unwrap();
        assert_eq!((receipt.acknowledged, receipt.rejected.len()), (0, 1), "{receipt:?}");
    }
}
