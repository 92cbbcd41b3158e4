//! Calls from the customer to all services and back.

use std::collections::BTreeSet;

use contact_centre::agents_v1::AssignRequest;
use contact_centre::http_client::{Content, Outgoing};
use contact_centre::{agent_assignment, call_routing, recording};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json as value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Request;

use crate::harness::{Centre, Lines, Running, agents_client, agents_for_billing, json};

#[tokio::test]
async fn a_call_goes_through_all_services() {
    let centre = Centre::start().await;
    let call = centre.call().await;
    assert_eq!(call["customer"], "c0001");
    assert!(call["agent"].as_str().unwrap().starts_with("billing-01."), "{call}");
    assert_eq!(call["recorded"], true);
    assert_eq!(call["recording_version"], "v1");
    assert_eq!(call["counted"], true);
    assert_eq!(call["trace"], Value::Null);

    let recordings = json(&centre.recording.http().get("/recordings?customer=c0001").await);
    assert_eq!(recordings["recordings"][0]["call_id"], call["call_id"]);
    assert_eq!(recordings["recordings"][0]["agent"], call["agent"]);
    let stats = Lines::open(centre.analytics.address).await.ask("STATS\n").await;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["billing"]["calls"], 1);
    let routing = centre.call_routing.http();
    assert_eq!(json(&routing.get("/calls").await), value!([call]));
    let stats = json(&routing.get("/stats").await);
    assert_eq!((&stats["routed"], &stats["counted"], &stats["releases_failed"]), (&value!(1), &value!(1), &value!(0)));
    assert_eq!(routing.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn agents_are_free_again_after_their_calls() {
    let centre = Centre::start_with(recording::Config::default(), agents_for_billing(2)).await;
    let mut agents = BTreeSet::new();
    for _ in 0..6 {
        agents.insert(centre.call().await["agent"].as_str().unwrap().to_owned());
    }
    assert_eq!(agents.len(), 2);
}

#[tokio::test]
async fn a_call_waits_in_the_queue_when_all_agents_are_busy() {
    let centre = Centre::start_with(recording::Config::default(), agents_for_billing(1)).await;
    let request = AssignRequest { skill: "billing".to_owned(), call_id: "busy".to_owned() };
    agents_client(&centre.agents).assign(Request::new(request)).await.unwrap();
    for position in [1, 2] {
        let call = centre.call().await;
        assert_eq!(call["queue"], "billing");
        assert_eq!(call["position"], position);
        assert_eq!(call.get("agent"), None);
        assert_eq!(call["recorded"], true);
    }
    assert_eq!(json(&centre.call_routing.http().get("/stats").await)["queued"], 2);
}

#[tokio::test]
async fn the_bug_of_recording_v2_costs_recordings_and_no_calls() {
    let config = recording::Config { version: recording::Version::V2, ..Default::default() };
    let centre = Centre::start_with(config, agent_assignment::Config::default()).await;
    assert_eq!(centre.call().await["recorded"], true);

    let recording = centre.recording.http();
    assert_eq!(recording.put("/bug", r#"{"on":true}"#).await.status, 200);
    let call = centre.call().await;
    assert_eq!(call["recorded"], false);
    assert_eq!(call["recording_error"], "recording answered 500 Internal Server Error");
    assert_eq!(call["recording_version"], "v2");
    assert_eq!(call["counted"], true);

    recording.put("/bug", r#"{"on":false}"#).await;
    assert_eq!(centre.call().await["recorded"], true);
}

#[tokio::test]
async fn without_recording_and_analytics_calls_are_still_routed() {
    let Centre { customer_history: _history, agents: _agents, recording, analytics, call_routing } = Centre::start().await;
    recording.stop().await;
    analytics.stop().await;
    let call = json(&call_routing.http().post("/calls", r#"{"customer":"c0001","skill":"sales"}"#).await);
    assert!(call["agent"].is_string(), "{call}");
    assert_eq!((&call["recorded"], &call["counted"]), (&value!(false), &value!(false)));
    assert_eq!(call["recording_version"], Value::Null);
    assert!(call["recording_error"].as_str().unwrap().contains("cannot connect"), "{call}");
    assert!(call["counting_error"].is_string(), "{call}");
}

#[tokio::test]
async fn without_customer_history_or_agents_there_is_no_call() {
    let check = async |call_routing: &Running, service: &str| {
        let answer = call_routing.http().post("/calls", r#"{"customer":"c0001","skill":"sales"}"#).await;
        assert_eq!(answer.status, 503);
        let error = json(&answer)["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(&format!("{service} failed: ")), "{error}");
    };
    let Centre { customer_history, call_routing, .. } = Centre::start().await;
    customer_history.stop().await;
    check(&call_routing, "customer-history").await;
    let Centre { agents, call_routing, customer_history: _history, .. } = Centre::start().await;
    agents.stop().await;
    check(&call_routing, "agent-assignment").await;
}

#[tokio::test]
async fn mistakes_of_the_customer_are_named() {
    let centre = Centre::start().await;
    let check = async |body: &str, status: u16, error: &str| {
        let answer = centre.call_routing.http().post("/calls", body).await;
        assert_eq!(answer.status, status, "{body}");
        let found = json(&answer)["error"].as_str().unwrap().to_owned();
        assert!(found.contains(error), "{found}");
    };
    check(r#"{"customer":"nobody","skill":"sales"}"#, 404, "no customer `nobody`").await;
    check(r#"{"customer":"c0001","skill":"juggling"}"#, 400, "there are billing, sales, support").await;
    check(r#"{"customer":"../stats","skill":"sales"}"#, 400, "customer must be").await;
    check(r#"{"customer":"c0001"}"#, 422, "missing field `skill`").await;
    check("{", 400, "Failed to parse").await;
}

#[tokio::test]
async fn long_notes_in_chunks_are_a_call_like_any_other() {
    let centre = Centre::start().await;
    let body = value!({"customer": "c0002", "skill": "support", "notes": "x".repeat(200 * 1024)}).to_string();
    let routing = centre.call_routing.http();
    for content in [Content::Json(body.clone().into()), Content::JsonInChunks(body.into(), 3000)] {
        let answer = routing.send(Outgoing::post("/calls", content)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(json(&answer)["customer"], "c0002");
    }
    assert_eq!(json(&routing.get("/stats").await)["notes_bytes"], 400 * 1024);
}

#[tokio::test]
async fn trace_headers_go_along_and_other_headers_do_not() {
    // A customer-history that keeps the head it was sent. What comes after it does not matter: the call fails.
    let history = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let history_url = format!("http://{}", history.local_addr().unwrap());
    let head = tokio::spawn(async move {
        let (mut stream, _) = history.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        head
    });
    let config = call_routing::Config {
        customer_history: history_url.parse().unwrap(),
        recording: "http://127.0.0.1:1".parse().unwrap(),
        agent_assignment: "http://127.0.0.1:1".parse().unwrap(),
        analytics: "127.0.0.1:1".parse().unwrap(),
    };
    let routing = Running::start(|listener, stop| call_routing::serve(listener, config, stop)).await;
    let call = Outgoing::post("/calls", Content::Json(br#"{"customer":"c0001","skill":"sales"}"#.to_vec()));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(routing.http().send(call.with_headers(headers(parent))).await.status, 503);
    let head = head.await.unwrap();
    assert!(head.starts_with("GET /customers/c0001 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("traceparent: {parent}\r\n")), "{head}");
    assert!(!head.contains("cookie"), "{head}");
}

#[tokio::test]
async fn the_answer_names_the_trace() {
    let centre = Centre::start().await;
    let call = Outgoing::post("/calls", Content::Json(br#"{"customer":"c0001","skill":"sales"}"#.to_vec()));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = centre.call_routing.http().send(call.with_headers(headers(parent))).await;
    assert_eq!(json(&answer)["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn a_call_in_flight_is_answered_when_call_routing_ends() {
    // A customer-history that answers when told to.
    let history = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let history_url = format!("http://{}", history.local_addr().unwrap());
    let config = call_routing::Config {
        customer_history: history_url.parse().unwrap(),
        recording: "http://127.0.0.1:1".parse().unwrap(),
        agent_assignment: "http://127.0.0.1:1".parse().unwrap(),
        analytics: "127.0.0.1:1".parse().unwrap(),
    };
    let mut routing = Running::start(|listener, stop| call_routing::serve(listener, config, stop)).await;
    let client = routing.http();
    let call = tokio::spawn(async move { client.post("/calls", r#"{"customer":"c0001","skill":"sales"}"#).await });
    let (mut stream, _) = history.accept().await.unwrap();
    read_head(&mut stream).await;
    routing.ask_to_end();
    stream.write_all(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(call.await.unwrap().status, 404);
    routing.ended().await;
}

fn headers(traceparent: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_static(traceparent));
    headers.insert("cookie", HeaderValue::from_static("secret"));
    headers
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
