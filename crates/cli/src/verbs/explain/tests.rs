//! The printed story.

use lorica_api::explain::{Candidate, Step};

use super::*;

fn at(kind: &str, name: &str, generation: u64, path: &str) -> Place {
    Place {
        kind: kind.to_owned(),
        namespace: "contact".to_owned(),
        name: name.to_owned(),
        generation,
        rule: Some(0),
        matched: 0,
        path: Some(path.to_owned()),
        file: None,
        now: None,
    }
}

fn who(name: &str) -> Who {
    Who {
        workload: format!("{name}-1"),
        namespace: "contact".to_owned(),
        service: name.to_owned(),
        principal: format!("spiffe://mesh.local/ns/contact/sa/{name}"),
    }
}

fn seen(workload: &str, port: u16) -> Seen {
    Seen {
        workload: format!("{workload}.contact"),
        address: Some(([127, 0, 0, 1], port).into()),
        weight: 1,
        active: 0,
        expected_us: 30_000,
        score: Some(30.0),
        left_out: Vec::new(),
        picked: false,
    }
}

fn steps(list: &[(&str, u64)]) -> Vec<Step> {
    list.iter().map(|(name, took_us)| Step { name: (*name).to_owned(), took_us: *took_us }).collect()
}

fn hop(proxy: &str, side: Side) -> Hop {
    Hop {
        proxy: format!("{proxy}.contact"),
        side,
        full: true,
        request_id: "7d0f9a31".to_owned(),
        trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        method: "GET".to_owned(),
        path: "/list".to_owned(),
        authority: "recording.contact".to_owned(),
        caller: who("routing"),
        callee: who("recording"),
        called: "recording.contact.mesh".to_owned(),
        security: "mutual_tls".to_owned(),
        took_us: 12_345,
        status: 200,
        ..Hop::default()
    }
}

#[test]
fn a_request_that_was_tried_again() {
    let failed = Attempt {
        address: Some(([127, 0, 0, 1], 4001).into()),
        workload: "recording-1.contact".to_owned(),
        took_us: 800,
        reason: Some("connect_failed".to_owned()),
        detail: "connection refused".to_owned(),
        endpoints: vec![Seen { picked: true, ..seen("recording-1", 4001) }, seen("recording-2", 4002)],
        ..Attempt::default()
    };
    let answered = Attempt {
        address: Some(([127, 0, 0, 1], 4002).into()),
        workload: "recording-2.contact".to_owned(),
        at_us: 900,
        took_us: 11_000,
        status: 200,
        identity: Some("spiffe://mesh.local/ns/contact/sa/recording".to_owned()),
        kept_connection: Some(false),
        endpoints: vec![
            Seen {
                left_out: vec!["took an attempt before".to_owned(), "ejected, as calls to it failed".to_owned()],
                ..seen("recording-1", 4001)
            },
            Seen { picked: true, active: 2, score: None, ..seen("recording-2", 4002) },
        ],
        more_endpoints: 3,
        ..Attempt::default()
    };
    let source = Hop {
        own_identity: Some("spiffe://mesh.local/ns/contact/sa/routing".to_owned()),
        rule: Some(Place { file: Some("mesh/routes.yaml:12".to_owned()), ..at("HTTPRoute", "recording", 3, "spec.rules[1].matches[0]") }),
        candidates: vec![
            Candidate {
                by: at("HTTPRoute", "recording", 3, "spec.rules[0].matches[0]"),
                why_not: Some("another method than POST".to_owned()),
            },
            Candidate { by: at("HTTPRoute", "recording", 3, "spec.rules[1].matches[0]"), why_not: None },
        ],
        more_candidates: 2,
        policies: vec![Decision { by: at("FaultPolicy", "slow", 1, "spec.rules[0]"), rule: None, said: "delayed it".to_owned() }],
        attempts: vec![failed, answered],
        left_us: Some(1_500_000),
        steps: steps(&[("begin", 12), ("route", 30), ("pick", 900), ("send", 11_000), ("respond", 350)]),
        ..hop("routing-1", Side::Source)
    };
    let allowed = Decision {
        by: Place { now: Some(5), ..at("AuthorizationPolicy", "readers", 4, "spec.rules[0]") },
        rule: Some("read".to_owned()),
        said: "allows it".to_owned(),
    };
    let gone = Decision {
        by: Place { now: Some(0), path: None, ..at("AuthorizationPolicy", "old", 1, "") },
        rule: None,
        said: "does not apply".to_owned(),
    };
    let app = Attempt { address: Some(([127, 0, 0, 1], 8080).into()), took_us: 10_000, status: 200, ..Attempt::default() };
    let destination = Hop {
        took_us: 10_200,
        policies: vec![allowed, gone],
        attempts: vec![app],
        steps: steps(&[("decide", 100), ("attempts", 10_000), ("respond", 100)]),
        ..hop("recording-2", Side::Destination)
    };
    let story = Story { hops: vec![Told { depth: 0, hop: source }, Told { depth: 1, hop: destination }], ..Story::default() };
    insta::assert_snapshot!(told(&story));
}

#[test]
fn a_request_that_was_denied_and_one_that_found_nobody() {
    let denied = Hop {
        status: 403,
        reason: Some("access_denied".to_owned()),
        detail: "no AuthorizationPolicy allows it; readers.contact does not".to_owned(),
        caller: Who { principal: "unknown".to_owned(), workload: "unknown".to_owned(), ..Who::default() },
        security: "none".to_owned(),
        policies: vec![Decision {
            by: Place { rule: None, ..at("AuthorizationPolicy", "readers", 1, "spec") },
            rule: None,
            said: "does not allow it".to_owned(),
        }],
        ..hop("recording-1", Side::Destination)
    };
    let nobody = Hop {
        request_id: "other".to_owned(),
        trace_id: String::new(),
        status: 0,
        grpc_status: Some(14),
        took_us: 2_500_000,
        reason: Some("no_endpoint".to_owned()),
        attempts: vec![Attempt { reason: Some("no_endpoint".to_owned()), took_us: 2_500_000, ..Attempt::default() }],
        ..hop("edge-1", Side::Gateway)
    };
    let story = Story { hops: vec![Told { depth: 0, hop: denied }, Told { depth: 0, hop: nobody }], ..Story::default() };
    insta::assert_snapshot!(told(&story));
}
