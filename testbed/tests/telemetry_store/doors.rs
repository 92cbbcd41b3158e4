//! What apps and proxies send is taken at every door, in every form of OTLP, and shown by the command line.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message as _;
use serde_json::json;
use testbed::left_out;

use super::*;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

fn packed(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[tokio::test]
async fn spans_of_all_doors_and_forms_are_one_trace() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options()).await?;
    let begin = now();
    let one = |id, parent| {
        let name = format!("step {id}");
        let times = (begin + id * 1_000_000, Duration::from_millis(20 - id));
        ExportTraceServiceRequest { resource_spans: vec![of("web.shop", vec![span(0xa1, id, parent, SpanKind::Internal, &name, times)])] }
    };
    ensure!(told.spans(one(1, None).resource_spans).await?.partial_success.is_none());
    send_spans(&at_socket(&told.mesh.socket()).await?, one(2, Some(1)).resource_spans).await?;
    let door = told.http.address();
    let body = one(3, Some(2)).encode_to_vec();
    let reply = post(door, "/v1/traces", PROTOBUF, None, body).await?;
    ensure!(reply.status == 200 && reply.body.is_empty() && reply.header("content-type") == Some(PROTOBUF), "{reply:?}");
    let reply = post(door, "/v1/traces", PROTOBUF, Some("gzip"), packed(&one(4, Some(3)).encode_to_vec())?).await?;
    ensure!(reply.status == 200, "{reply:?}");
    let written = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "page"}}]},
        "scopeSpans": [{"scope": null, "spans": [{
            "traceId": id(0xa1).to_uppercase(), "spanId": "0000000000000005", "parentSpanId": "0000000000000004", "name": "step 5", "kind": 3,
            "startTimeUnixNano": (begin + 5_000_000).to_string(), "endTimeUnixNano": begin + 6_000_000,
            "attributes": [{"key": "list", "value": {"arrayValue": {"values": [{"intValue": "7"}, {"boolValue": true}]}}}, {"key": "none", "value": {"arrayValue": {}}}],
        }]}]
    }]});
    let reply = post(door, "/v1/traces", "application/json; charset=utf-8", Some("gzip"), packed(written.to_string().as_bytes())?).await?;
    ensure!(reply.status == 200 && reply.text() == "{}" && reply.header("content-type") == Some(JSON), "{reply:?}");

    let found = told.trace(&id(0xa1), 5).await?;
    let spans = found["spans"].as_array().context("no spans")?;
    let shown: Vec<Value> = spans.iter().map(|span| json!([span["name"], span["depth"], span["offset_us"]])).collect();
    let expected: Vec<Value> = (1..=5).map(|id| json!([format!("step {id}"), id - 1, (id - 1) * 1000])).collect();
    assert_eq!(shown, expected);
    assert_eq!(spans[4]["attributes"], json!({"list": [7, true], "none": []}));
    assert_eq!((&spans[4]["kind"], &spans[4]["service"]), (&json!("client"), &json!("page")));
    let tree = told.mesh.lorica(["trace", &id(0xa1)]).await?.success()?.stdout;
    ensure!(tree.contains("19.00 ms in 5 spans") && tree.contains("      └─ web.shop  step 4"), "{tree}");
    told.mesh.finish().await
}

#[tokio::test]
async fn what_is_no_otlp_is_refused_in_the_form_in_which_it_came() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options()).await?;
    let door = told.http.address();
    let good = of("web", vec![span(0xb1, 1, None, SpanKind::Server, "good", (now(), Duration::from_millis(1)))]);
    let mut some = good.clone();
    let bad = Span { trace_id: vec![0; 16], ..some.scope_spans[0].spans[0].clone() };
    some.scope_spans[0].spans.push(bad);
    let taken = told.spans(vec![some.clone()]).await?.partial_success.context("all was taken")?;
    assert_eq!((taken.rejected_spans, taken.error_message.as_str()), (1, "a span has no trace id of 16 bytes"));
    let body = ExportTraceServiceRequest { resource_spans: vec![some] }.encode_to_vec();
    let reply = post(door, "/v1/traces", PROTOBUF, None, body).await?;
    let taken = ExportTraceServiceResponse::decode(reply.body.clone())?.partial_success.context("all was taken")?;
    assert_eq!((reply.status.as_u16(), taken.rejected_spans), (200, 1));
    let reply = post(door, "/v1/traces", JSON, None, br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"x"}]}]}]}"#.to_vec()).await?;
    assert_eq!(
        reply.json::<Value>()?,
        json!({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "a span has no trace id of 16 bytes"}})
    );

    let large = vec![b' '; 4 * 1024 * 1024 + 1];
    let bomb = packed(&vec![b' '; 200 * 1024 * 1024])?;
    for (content_type, encoding, body, status, said) in [
        (JSON, None, b"{".to_vec(), 400, "it is no JSON"),
        (
            JSON,
            None,
            br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_SERVER"}]}]}]}"#.to_vec(),
            400,
            "resourceSpans[0].scopeSpans[0].spans[0].kind",
        ),
        (PROTOBUF, None, b"\xff\xff".to_vec(), 400, "the body is no OTLP"),
        (PROTOBUF, Some("gzip"), b"no gzip".to_vec(), 400, "the body is no gzip"),
        (PROTOBUF, Some("br"), Vec::new(), 415, "`br` is no packing that is taken here"),
        ("text/plain", None, Vec::new(), 415, "`text/plain` is no form of OTLP"),
        (JSON, None, large, 413, "a message may have 4194304 bytes"),
        (JSON, Some("gzip"), bomb, 413, "a message may have 4194304 bytes"),
    ] {
        let reply = post(door, "/v1/traces", content_type, encoding, body).await?;
        let said_so = reply.text().contains(said);
        ensure!(reply.status == status && said_so, "{content_type} {encoding:?}: {} {}", reply.status, reply.text());
        let form = if content_type == PROTOBUF { PROTOBUF } else { JSON };
        ensure!(reply.header("content-type") == Some(form), "{reply:?}");
    }
    assert_eq!(post(door, "/v1/elsewhere", JSON, None, b"{}".to_vec()).await?.status, 404);
    // gRPC has a bound of its own.
    let mut heavy = good;
    let long = Span { name: "x".repeat(200_000), ..heavy.scope_spans[0].spans[0].clone() };
    heavy.scope_spans[0].spans = vec![long; 22];
    let refused = told.spans(vec![heavy]).await.err().context("5 MB were taken")?;
    ensure!(refused.to_string().contains("too large"), "{refused:#}");

    told.trace(&id(0xb1), 1).await?;
    let page = told.get("/metrics").await?.text();
    for line in ["lorica_telemetry_stored_total{kind=\"spans\"} 2", "lorica_telemetry_dropped_total{kind=\"spans\",reason=\"refused\"} 3"] {
        ensure!(page.contains(line), "{page}");
    }
    told.mesh.finish().await
}

#[tokio::test]
async fn traces_are_found_by_what_they_are() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options()).await?;
    let begin = now();
    let one = |trace: u128, took: u64, status: i64, route: &str, request: &str| {
        let mut root = span(trace, 1, None, SpanKind::Server, "GET", (begin + trace as u64 * 1_000_000, Duration::from_millis(took)));
        let more = [
            attribute("http.response.status_code", Any::IntValue(status)),
            text("lorica.route", &format!("HTTPRoute/{route} rule 0")),
            text("guid:x-request-id", request),
        ];
        root.attributes.extend(more);
        if status >= 500 { failed(root, "no") } else { root }
    };
    let spans = vec![
        of("web.shop", vec![one(1, 10, 200, "web.shop", "req-1"), one(2, 900, 503, "web.shop", "req-2")]),
        of("cart.shop", vec![one(3, 20, 500, "cart.shop", "req-3"), one(4, 5, 404, "cart.shop", "req-4")]),
    ];
    told.spans(spans).await?;
    told.trace(&id(4), 1).await?;
    for (words, expected) in [
        (&[][..], &[4, 3, 2, 1][..]),
        (&["--service", "web.shop"], &[2, 1]),
        (&["--service", "cart"], &[4, 3]),
        (&["--service", "shop"], &[]),
        (&["--status", "5xx"], &[3, 2]),
        (&["--status", "503"], &[2]),
        (&["--status", "error"], &[3, 2]),
        (&["--route", "cart.shop", "--status", "4xx"], &[4]),
        (&["--slower", "15ms"], &[3, 2]),
        (&["--slower", "15ms", "--faster", "100ms"], &[3]),
        (&["--attribute", "of=3"], &[3]),
        (&["--attribute", "of=3", "--attribute", "http.request.method=PUT"], &[]),
        (&["--request-id", "req-2"], &[2]),
        (&["--since", "1h"], &[4, 3, 2, 1]),
        (&["--until", "1h"], &[]),
        (&["--limit", "3"], &[4, 3, 2]),
    ] {
        let found = told.json(&[&["trace"], words].concat()).await?;
        let ids: Vec<Value> = found["traces"].as_array().into_iter().flatten().map(|trace| trace["trace_id"].clone()).collect();
        let expected: Vec<Value> = expected.iter().map(|trace| json!(id(*trace))).collect();
        assert_eq!(ids, expected, "{words:?}");
    }
    let first = told.json(&["trace", "--limit", "3"]).await?;
    let rest = told.json(&["trace", "--limit", "3", "--page", first["next"].as_str().context("no next page")?]).await?;
    assert_eq!((rest["traces"][0]["trace_id"].as_str(), &rest["next"]), (Some(id(1).as_str()), &Value::Null));
    // A request's id is as good as the trace's.
    assert_eq!(told.json(&["trace", "req-3"]).await?["trace_id"], json!(id(3)));
    let list = told.mesh.lorica(["trace", "--limit", "2"]).await?.success()?;
    ensure!(list.stdout.contains("cart.shop GET") && list.stderr.contains("--page "), "{list:?}");
    for (words, said) in [
        (["trace", "--status", "many"], "`many` is no status: write 503, 5xx or error"),
        (["trace", "--since", "yesterday"], "`yesterday` is no moment\nhint: write 15m for so long ago"),
        (["trace", "--attribute", "x"], "`x` is no attribute: write KEY=VALUE"),
        (["trace", "--page", "x"], "`x` is no page"),
        (["trace", "--slower", "5"], "`5` is no time"),
    ] {
        let refused = told.mesh.lorica(words).await?;
        ensure!(refused.code() == 1 && refused.stderr.contains(said), "{words:?}: {}", refused.stderr);
    }
    let none = told.mesh.lorica(["trace", "no-such-request"]).await?;
    ensure!(none.code() == 1 && none.stderr.contains("no trace and no request `no-such-request` is kept"), "{}", none.stderr);
    told.mesh.finish().await
}

#[tokio::test]
async fn log_records_are_found_paged_and_followed() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options()).await?;
    let access = |number: i64, status: i64, took: i64| {
        let mut record = log(
            "",
            vec![
                attribute("response_code", Any::IntValue(status)),
                attribute("duration", Any::IntValue(took)),
                text("request_id", &format!("req-{number}")),
            ],
        );
        record.trace_id = 0xc1_u128.to_be_bytes().to_vec();
        record.body = None;
        record
    };
    told.logs(vec![
        logs_of("web.shop", vec![access(1, 200, 5), access(2, 503, 700)]),
        logs_of("app", vec![log("it began", vec![text("k", "v")])]),
    ])
    .await?;
    let written = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": now().to_string(), "severityNumber": 17, "body": {"stringValue": "from a page"}}]}]}]});
    let reply = post(told.http.address(), "/v1/logs", JSON, None, written.to_string().into_bytes()).await?;
    ensure!(reply.status == 200 && reply.text() == "{}", "{reply:?}");
    let all = eventually("all is there", PATIENCE, || async {
        let found = told.json(&["logs"]).await?;
        ensure!(found["logs"].as_array().map(Vec::len) == Some(4), "{found:#}");
        Ok(found)
    });
    let all = all.await?;
    assert_eq!((&all["logs"][3]["severity"], &all["logs"][3]["body"]), (&json!("ERROR"), &json!("from a page")));
    for (words, expected) in [
        (&["--service", "web"][..], &["req-1", "req-2"][..]),
        (&["--status", "5xx"], &["req-2"]),
        (&["--slower", "100ms"], &["req-2"]),
        (&["--faster", "100ms"], &["req-1"]),
        (&["--request-id", "req-1"], &["req-1"]),
        (&["--trace-id", &id(0xc1)], &["req-1", "req-2"]),
        (&["--attribute", "k=v"], &[""]),
        (&["--status", "error"], &[""]),
        (&["--service", "web", "--limit", "1"], &["req-2"]),
    ] {
        let found = told.json(&[&["logs"], words].concat()).await?;
        let ids: Vec<&str> = found["logs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|log| log["attributes"]["request_id"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(ids, expected, "{words:?}");
    }
    let newest = told.json(&["logs", "--service", "web", "--limit", "1"]).await?;
    let before = newest["before"].as_u64().context("no older ones")?.to_string();
    let older = told.json(&["logs", "--service", "web", "--before", &before]).await?;
    assert_eq!((older["logs"][0]["attributes"]["request_id"].as_str(), &older["before"]), (Some("req-1"), &Value::Null));
    let lines = told.mesh.lorica(["logs"]).await?.success()?.stdout;
    ensure!(
        lines.contains("  app  it began\n") && lines.contains("  web.shop  duration=5 request_id=req-1 response_code=200\n"),
        "{lines}"
    );

    let following = told.mesh.start_binary("logs", ["logs", "--follow", "--service", "app", "-o", "json"], Vec::new(), None)?;
    following.line("it began").await?;
    told.logs(vec![logs_of("web.shop", vec![access(3, 200, 1)]), logs_of("app", vec![log("it goes on", Vec::new())])]).await?;
    following.line("it goes on").await?;
    let said = following.stop().await?.stdout;
    let bodies: Vec<Value> =
        said.lines().map(|line| serde_json::from_str::<Value>(line).map(|log| log["body"].clone())).collect::<Result<_, _>>()?;
    assert_eq!(bodies, [json!("it began"), json!("it goes on")]);
    told.mesh.finish().await
}

#[tokio::test]
async fn the_demo_says_where_telemetry_is_taken() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let demo = mesh
        .start_binary("demo", ["demo", "--headless", "--no-capture", "--minutes", "0.05"], Vec::new(), None)?
        .output(PATIENCE * 4)
        .await?;
    if demo.code() != 0 && demo.stderr.contains("built without the demo") {
        left_out("the demo's doors: this binary was built without it");
        return mesh.finish().await;
    }
    for said in ["OTLP       127.0.0.1:", "(HTTP 127.0.0.1:", "telemetry  http://127.0.0.1:"] {
        ensure!(demo.stderr.contains(said), "{demo:?}");
    }
    mesh.finish().await
}
