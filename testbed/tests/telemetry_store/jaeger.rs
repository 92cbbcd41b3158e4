//! Jaeger's query API by a client that others wrote for Jaeger: what it makes of the answers is what was sent.

use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde_json::json;
use testbed::{Peer, jaeger_path, left_out, peer};

use super::*;

#[tokio::test]
async fn a_client_of_jaegers_api_finds_what_was_sent() -> anyhow::Result<()> {
    let (python, packages) = match (peer(Peer::Python), jaeger_path()) {
        (Ok(python), Ok(packages)) => (python, packages),
        (Err(why), _) | (_, Err(why)) => {
            left_out(&format!("Jaeger's API by a client of others: {why}"));
            return Ok(());
        }
    };
    let told = Told::start(Mesh::options()).await?;
    let begin = now();
    let at = |offset: u64, took: u64| (begin + offset * 1_000_000, Duration::from_millis(took));
    let mut callee = failed(span(7, 2, Some(1), SpanKind::Server, "GET /slow", at(10, 60)), "too slow");
    callee.events.push(Event {
        time_unix_nano: begin,
        name: "waits".to_owned(),
        attributes: vec![text("for", "disk")],
        ..Event::default()
    });
    let spans = vec![
        of(
            "caller.shop",
            vec![span(7, 1, None, SpanKind::Client, "GET /slow", at(0, 100)), span(8, 1, None, SpanKind::Client, "GET /", at(1, 5))],
        ),
        of("callee.shop", vec![callee, span(8, 2, Some(1), SpanKind::Server, "GET /", at(2, 3))]),
        of("app", vec![span(9, 1, None, SpanKind::Internal, "work", at(3, 1))]),
    ];
    told.spans(spans).await?;
    told.trace(&id(9), 1).await?;

    let script = told.mesh.write("jaeger.py", include_str!("jaeger.py"))?;
    let url = format!("http://{}", told.scraped.address());
    // Without the system's own packages: an older one of them does not go with a newer one of ours.
    let words = [
        format!("PYTHONPATH={}", packages.display()),
        python.display().to_string(),
        "-S".to_owned(),
        script.display().to_string(),
        url,
        id(7),
    ];
    let made = told.mesh.start_outside("/usr/bin/env", words)?.output(PATIENCE * 2).await?.success()?.json()?;

    assert_eq!(made["services"], json!(["app", "callee.shop", "caller.shop"]));
    assert_eq!(made["operations"], json!(["GET /", "GET /slow"]));
    assert_eq!(made["kinds"], json!([{"name": "GET /", "spanKind": "client"}, {"name": "GET /slow", "spanKind": "client"}]));
    assert_eq!(made["trace"], json!(["caller.shop", "GET /slow", 100_000, 2, 1]));
    let spans = made["spans"].as_array().context("no spans")?;
    assert_eq!(
        (spans.len(), &spans[0]["parent"], &spans[0]["error"], &spans[0]["duration"]),
        (2, &Value::Null, &json!(false), &json!(100_000))
    );
    let callee = &spans[1];
    assert_eq!((&callee["parent"], &callee["error"]), (&json!("0000000000000001"), &json!(true)));
    assert_eq!((&callee["start"], &callee["duration"], &callee["service"]), (&json!(10_000), &json!(60_000), &json!("callee.shop")));
    for (key, value) in [("http.request.method", "GET"), ("of", "7"), ("span.kind", "server"), ("otel.status_description", "too slow")] {
        assert_eq!(callee["tags"][key], json!(value), "{key}: {callee:#}");
    }
    let event = json!([{"timestamp": begin / 1000, "fields": [
        {"key": "event", "type": "string", "value": "waits"}, {"key": "for", "type": "string", "value": "disk"}]}]);
    assert_eq!(callee["logs"], event);
    for (search, expected) in [("all", &[7, 8][..]), ("slow", &[7]), ("long", &[7]), ("short", &[8]), ("tagged", &[7]), ("failed", &[])] {
        let expected: Vec<String> = expected.iter().map(|trace| id(*trace)).collect();
        assert_eq!(made[search], json!(expected), "{search}");
    }
    assert_eq!(made["one"], json!(1));
    assert_eq!(made["dependencies"], json!([["caller.shop", "callee.shop", 2]]));
    told.mesh.finish().await
}

#[tokio::test]
async fn errors_stand_in_jaegers_envelope() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options()).await?;
    for (path, status, said) in [
        ("/api/traces/0af7651916cd43dd8448eb211c80319c", 404, "trace not found"),
        ("/api/traces/xyz", 400, "`xyz` is no trace id"),
        ("/api/traces", 400, "parameter 'service' is required"),
        ("/api/operations", 400, "parameter 'service' is required"),
        ("/api/traces?service=a&minDuration=5", 400, "unable to parse param 'minDuration': `5` is no time: write 1.2s, 100ms, 500us"),
    ] {
        let reply = told.get(path).await?;
        let expected = json!({"data": null, "total": 0, "limit": 0, "offset": 0, "errors": [{"code": status, "msg": said}]});
        assert_eq!((reply.status.as_u16(), reply.json::<Value>()?), (status, expected), "{path}");
    }
    for path in ["/api/services", "/api/traces?service=none", "/api/dependencies", "/api/services/none/operations"] {
        let reply = told.get(path).await?;
        assert_eq!(reply.json::<Value>()?, json!({"data": [], "total": 0, "limit": 0, "offset": 0, "errors": null}), "{path}");
    }
    told.mesh.finish().await
}
