//! Records in, lines of formats out: values, what is not set, and values that would forge a line.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where by panicking")]

use std::time::Duration;

use lorica_model::head::{HeadBuilder, RequestHead, Version};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{AccessLog, LogTarget};
use serde_json::{Value as Json, json};

use super::*;
use crate::access_log::LogRules;
use crate::record::sample::{http, tcp, with};
use crate::record::{Protocol, Reporter, Security};
use crate::trace::Span;

/// What Istio's proxies write where nobody says otherwise.
const ISTIO: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
\"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn head(fields: &[(&str, &[u8])]) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in fields {
        builder.field(name.as_bytes(), value).unwrap();
    }
    builder.request(Version::Http11, "GET", "/recordings?of=7", "recording.contact", None).unwrap()
}

fn made(format: &AccessLogFormat, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    Format::new(format).write(&mut out, record, &mut LineWriter::default(), &mut Clock::default());
    let line = String::from_utf8(out).unwrap();
    assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
    line.trim_end_matches('\n').to_owned()
}

fn line(format: &str, record: &Record<'_>) -> String {
    made(&AccessLogFormat::Text(LogFormat::parse(format).unwrap()), record)
}

fn object(fields: &Json, record: &Record<'_>) -> Json {
    serde_json::from_str(&made(&AccessLogFormat::Fields(serde_json::from_value(fields.clone()).unwrap()), record)).unwrap()
}

#[test]
fn istios_format_tells_a_request_and_a_connection() {
    let head = head(&[("user-agent", b"curl/8")]);
    let record = with(|http| http.upstream_time = Some(Duration::from_micros(11_900)));
    let mut record = Record { upstream_local: Some(([127, 0, 0, 1], 40_001).into()), ..record };
    record.http.as_mut().unwrap().head = Some(&head);
    assert_eq!(
        line(ISTIO, &record),
        "[2023-11-14T22:13:20.250Z] \"GET /recordings?of=7 HTTP/1.1\" 200 - via_upstream - \"-\" 20 3000 12 11 \"-\" \"curl/8\" \"4b1d\" \
         \"recording.contact\" \"127.0.0.1:9001\" recording.contact.mesh 127.0.0.1:40001 240.0.0.9:80 240.0.0.7:40000 - \
         HTTPRoute/recording.contact rule 0"
    );
    let closed = Record { reason: Some(Reason::PlaintextRefused), detail: "no mutual TLS".into(), upstream: None, ..tcp() };
    assert_eq!(
        line(ISTIO, &closed),
        "[2023-11-14T22:13:20.250Z] \"- - -\" 0 UAEX plaintext_refused no_mutual_TLS \"-\" 20 3000 12 - \"-\" \"-\" \"-\" \"-\" \"-\" \
         recording.contact.mesh - 240.0.0.9:80 240.0.0.7:40000 - -"
            .replace("UAEX", closed.flag())
    );
}

#[test]
fn every_operator_gives_its_value_or_says_that_there_is_none() {
    let head = head(&[("x-tier", b"gold"), ("accept", b"a"), ("accept", b"b")]);
    let mut builder = HeadBuilder::with_capacity(64);
    builder.field(b"x-app", b"v2").unwrap();
    let fields = builder.fields();
    let mut record = with(|http| {
        http.span = Some(Span::begin(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), 0.0, || 0xabc));
        http.grpc_status = Some(3);
        http.answered_after = Some(Duration::from_millis(5));
        http.response = Some(Box::new(fields.clone()));
        http.trailers = Some(Box::new(fields.clone()));
    });
    record.http.as_mut().unwrap().head = Some(&head);
    record.protocol = Protocol::Grpc;
    record.reporter = Reporter::Destination;
    record.security = Security::MutualTls;
    record.server_name = Some("80.recording.contact.mesh");
    for (format, expected) in [
        ("%REQ(X-TIER)% %REQ(x-none?X-Tier):2% %REQ(X-NONE)%", "gold go -"),
        ("%REQ(ACCEPT)%", "a"),
        ("%REQ_WITHOUT_QUERY(:PATH)% %REQ_WITHOUT_QUERY(X-TIER)%", "/recordings gold"),
        ("%RESP(X-APP)% %RESP(:STATUS)% %RESP(X-NONE?X-APP)% %RESP(X-NONE)%", "v2 200 v2 -"),
        ("%TRAILER(X-APP)% %TRAILER(X-NONE)%", "v2 -"),
        ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%", "InvalidArgument INVALID_ARGUMENT 3"),
        ("%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "12 5 7"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "127.0.0.1 9001"),
        ("%DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "80 240.0.0.7"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://mesh/ns/contact/sa/routing"),
        ("%DOWNSTREAM_LOCAL_URI_SAN% %UPSTREAM_PEER_URI_SAN%", "spiffe://mesh/ns/contact/sa/recording -"),
        ("%REQUESTED_SERVER_NAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "80.recording.contact.mesh 1"),
        ("%TRACE_ID%", "0af7651916cd43dd8448eb211c80319c"),
        ("%START_TIME(%s.%3f)%", "1700000000.250"),
        ("%CEL(request.headers['x-tier'])% %CEL(response.code == 200)% %CEL(response.headers['x-none'])%", "gold true -"),
        ("%CEL(source.identity)% %CEL(response.flags)%", "spiffe://mesh/ns/contact/sa/routing 0"),
        ("%ENVIRONMENT(LORICA_NO_SUCH_VARIABLE)% %ENVIRONMENT(CARGO_PKG_NAME):6%", "- lorica"),
    ] {
        assert_eq!(line(format, &record), expected, "{format}");
    }
    assert_ne!(line("%HOSTNAME%", &record), "-");
    let failed = Record { reason: Some(Reason::ConnectFailed), detail: "connection refused".into(), ..http() };
    assert_eq!(
        line("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%", &failed),
        "UF UpstreamConnectionFailure connect_failed connection_refused"
    );
    assert_eq!(line("%CEL(response.flags)%", &failed), "32", "Envoy's bit of UF");
    let emitted = line("%EMIT_TIME(%s)%", &failed).parse::<u64>().unwrap();
    assert!(emitted > 1_700_000_000);
    // A caller proves nothing to its own proxy, and what it calls proves who it is.
    assert_eq!(line("%DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_URI_SAN%", &http()), "- spiffe://mesh/ns/contact/sa/recording");
}

#[test]
fn objects_have_numbers_texts_and_nulls() {
    let fields = json!({
        "code": "%RESPONSE_CODE%", "port": "%UPSTREAM_REMOTE_PORT%", "status": "%GRPC_STATUS_NUMBER%", "agent": "%REQ(USER-AGENT)%",
        "both": "%PROTOCOL% %REQ(X-NONE)%", "fixed": "x \"y\"", "empty": "", "none": "%ENVIRONMENT(LORICA_NO_SUCH_VARIABLE)%",
        "cut": "%REQ(:AUTHORITY):3%", "in": {"it": ["%BYTES_SENT%", {}, []]}, "flags": "%RESPONSE_FLAGS%",
    });
    let expected = json!({
        "code": 200, "port": 9001, "status": null, "agent": null, "both": "HTTP/1.1 -", "fixed": "x \"y\"", "empty": "", "none": null,
        "cut": "rec", "in": {"it": [3000, {}, []]}, "flags": "-",
    });
    assert_eq!(object(&fields, &http()), expected);
    // The keys stand in their order.
    let line = made(&AccessLogFormat::Fields(serde_json::from_value(json!({"b": "%DURATION%", "a": "x"})).unwrap()), &http());
    assert_eq!(line, r#"{"a":"x","b":12}"#);
    assert_eq!(made(&AccessLogFormat::Fields(LogFields::new()), &http()), "{}");
}

#[test]
fn no_value_forges_a_line_or_a_field() {
    let hostile: &[(&[u8], &str, &str)] = &[
        (b"a\" 200 - \"b", r#"a\" 200 - \"b"#, "a\" 200 - \"b"),
        (b"a\\", r"a\\", "a\\"),
        (b"tab\there", r"tab\x09here", "tab\there"),
        (b"\xff\xfe", r"\xff\xfe", "\u{fffd}\u{fffd}"),
        ("é\u{85}\u{2028}x".as_bytes(), r"é\xc2\x85\xe2\x80\xa8x", "é\u{85}\u{2028}x"),
    ];
    for (value, in_text, in_object) in hostile {
        let head = head(&[("x-evil", value)]);
        let mut record = http();
        record.http.as_mut().unwrap().head = Some(&head);
        assert_eq!(line("\"%REQ(X-EVIL)%\"", &record), format!("\"{in_text}\""));
        assert_eq!(
            object(&json!({"a": "%REQ(X-EVIL)%", "b": "<%REQ(X-EVIL)%>"}), &record),
            json!({"a": in_object, "b": format!("<{in_object}>")})
        );
        assert_eq!(made(&AccessLogFormat::Json, &record).matches('\n').count(), 0);
    }
    // What no parser lets through is held, too: an app may say it in another way.
    let record = with(|http| http.path = "/a\r\n[2026] \"GET /forged");
    assert_eq!(line("%REQ(:PATH)%", &record), r#"/a\x0d\x0a[2026] \"GET /forged"#);
    let detail = Record { reason: Some(Reason::ConnectFailed), detail: "a\nb".into(), ..http() };
    assert_eq!(line("%UPSTREAM_TRANSPORT_FAILURE_REASON%", &detail), "a_b");
}

#[test]
fn a_cut_breaks_no_character() {
    let cut = |text: &'static str, most| String::from_utf8(escape::cut(text.as_bytes(), most).to_vec()).unwrap();
    assert_eq!(
        [cut("aé€", 1), cut("aé€", 2), cut("aé€", 3), cut("aé€", 5), cut("aé€", 6), cut("aé€", 0)],
        ["a", "a", "aé", "aé", "aé€", ""]
    );
    assert_eq!(escape::cut(b"\xff\xff\xff", 2), b"\xff\xff");
}

#[test]
fn a_condition_decides_whether_there_is_a_line() {
    let rules = |when: Option<&str>, to: &[LogTarget]| {
        let when = when.map(|when| lorica_model::cel::Expression::parse_of_exchange(when).unwrap());
        LogRules::new(&AccessLog { format: AccessLogFormat::Json, when, to: to.to_vec() })
    };
    let takes = |when: &str, record: &Record<'_>| rules(Some(when), &[LogTarget::Stdout]).takes(record);
    let failed = Record { reason: Some(Reason::ConnectFailed), ..with(|http| http.status = 503) };
    for (when, of_failed, of_good) in [
        ("response.code >= 500", true, false),
        ("response.flags != 0", true, false),
        ("response.code_details == 'connect_failed'", true, false),
        ("request.duration > duration('10ms')", true, true),
        ("request.id == '4b1d' && upstream.request_attempt_count == 1", true, true),
        ("xds.route_name.contains('recording')", true, true),
        ("upstream.port == 9001 && destination.address == '240.0.0.9:80' && source.port == 40000", true, true),
        ("response.size > 2999 && request.size < 21", true, true),
        ("response.backend_latency > duration('1s')", false, false),
        // There is no such thing: neither holds.
        ("response.grpc_status == 0", false, false),
        ("response.grpc_status != 0", false, false),
        ("!has(response.grpc_status)", true, true),
    ] {
        assert_eq!((takes(when, &failed), takes(when, &http())), (of_failed, of_good), "{when}");
    }
    assert!(takes("response.code == 0", &tcp()), "a connection has no status");
    assert!(!rules(None, &[]).takes(&http()), "nowhere to go");
    assert!(rules(None, &[LogTarget::Mesh]).takes(&http()));
}
