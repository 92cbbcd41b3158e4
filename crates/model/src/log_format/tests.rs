//! Formats that people write, and what is wrong with others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where by panicking")]

use super::operator::{OF_ENVOY, OPERATORS};
use super::*;

/// What Istio's proxies write where nobody says otherwise.
const ISTIO: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
\"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn parts(text: &str) -> Vec<Part> {
    LogFormat::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}")).parts().to_vec()
}

fn only(text: &str) -> Operator {
    match parts(text).as_slice() {
        [Part::Value { operator, most: None }] => operator.clone(),
        other => panic!("{text}: {other:?}"),
    }
}

fn field(name: &str, fallback: Option<&str>) -> Field {
    Field { name: name.into(), fallback: fallback.map(Into::into) }
}

#[test]
fn istios_format_is_read_as_it_is() {
    let format = LogFormat::parse(ISTIO).unwrap();
    assert_eq!(format.as_str(), ISTIO);
    assert_eq!(format.operators().count(), 24);
    assert_eq!(format.wanted(), Wanted::default(), "how long the callee took is known without its answer's head");
    assert_eq!(format.parts().last().map(|part| matches!(part, Part::Value { operator: Operator::RouteName, .. })), Some(true));
}

#[test]
fn a_format_is_text_and_operators() {
    let text = |text: &str| Part::Text(text.into());
    let value = |operator| Part::Value { operator, most: None };
    assert_eq!(parts("a %DURATION% b\n"), [text("a "), value(Operator::Duration), text(" b")]);
    assert_eq!(parts("%PROTOCOL%%DURATION%"), [value(Operator::Protocol), value(Operator::Duration)]);
    assert_eq!(parts("100%% of é"), [text("100% of é")]);
    assert_eq!(parts(""), []);
    let cut = Part::Value { operator: Operator::Request(field("x-id", Some("x-other"))), most: Some(7) };
    assert_eq!(parts("%REQ(X-ID?x-Other):7%"), [cut]);
}

#[test]
fn what_stands_in_brackets_is_read() {
    assert_eq!(only("%RESP(:status)%"), Operator::Response(field(":status", None)));
    assert_eq!(only("%TRAILER(GRPC-STATUS)%"), Operator::Trailer(field("grpc-status", None)));
    assert_eq!(only("%REQ_WITHOUT_QUERY(:PATH)%"), Operator::RequestWithoutQuery(field(":path", None)));
    assert_eq!(only("%GRPC_STATUS%"), Operator::GrpcStatus(GrpcForm::Camel));
    assert_eq!(only("%GRPC_STATUS(SNAKE_STRING)%"), Operator::GrpcStatus(GrpcForm::Snake));
    assert_eq!(only("%GRPC_STATUS_NUMBER%"), Operator::GrpcStatus(GrpcForm::Number));
    assert_eq!(only("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%"), Operator::ResponseCodeDetails { spaces: true });
    assert_eq!(only("%ENVIRONMENT(POD_NAME)%"), Operator::Environment("POD_NAME".into()));
    assert_eq!(only("%UPSTREAM_REMOTE_PORT%"), Operator::Address(AddressOf::Upstream, AddressPart::Port));
    let Operator::Cel(expression) = only("%CEL(request.headers['x-tier'] == 'gold' ? 'g' : string(response.code))%") else { panic!() };
    assert_eq!(expression.as_str(), "request.headers['x-tier'] == 'gold' ? 'g' : string(response.code)");
}

#[test]
fn times_have_the_forms_that_envoy_gives_them() {
    let at: jiff::Timestamp = "2026-11-03T04:05:06.007891234Z".parse().unwrap();
    for (format, written) in [
        ("%START_TIME%", "2026-11-03T04:05:06.007Z"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2026/11/03T04:05:06+0000 1793678706"),
        ("%START_TIME(%s.%3f)%", "1793678706.007"),
        ("%START_TIME(%s.%6f)%", "1793678706.007891"),
        ("%START_TIME(%f)%", "007891234"),
        ("%START_TIME(%E4Y-%m-%dT%H:%M:%E3S%Ez)%", "2026-11-03T04:05:06.007+00:00"),
        ("%START_TIME(%b %e %a %H:%M:%E*S)%", "Nov  3 Tue 04:05:06.007891234"),
    ] {
        let Operator::StartTime(form) = only(format) else { panic!("{format}") };
        assert_eq!(form.written(at).as_deref(), Some(written), "{format}");
    }
}

fn wrong(text: &str) -> Vec<(String, String, Option<String>)> {
    let found = LogFormat::parse(text).expect_err(text);
    found.into_iter().map(|wrong| (text.get(wrong.range.clone()).unwrap_or("?").to_owned(), wrong.message, wrong.hint)).collect()
}

#[test]
fn a_mistake_is_told_at_its_place_with_what_was_meant() {
    for (format, place, message, hint) in [
        ("%DURATON% ms", "DURATON", "there is no operator `DURATON`", "did you mean `DURATION`?"),
        ("%RESPONSE_CDOE%", "RESPONSE_CDOE", "there is no operator `RESPONSE_CDOE`", "did you mean `RESPONSE_CODE`?"),
        ("%DYNAMIC_METADATA(a:b)%", "DYNAMIC_METADATA", "`DYNAMIC_METADATA` is Envoy's", "leave it out"),
        ("100% sure", "% ", "none follows", "`%%`"),
        ("a %REQ(X-ID", "%REQ(X-ID", "`%REQ(` is not closed", "%REQ(…)%"),
        ("%REQ%", "%REQ%", "`REQ` needs the name of a field", "%REQ(X-NAME)%"),
        ("%REQ(a?b?c)%", "a?b?c", "one name may stand in for another, not more", "X-NAME?X-OTHER"),
        ("%REQ(:SCHEME)%", "%REQ(:SCHEME)%", "there is no field `:SCHEME`", ":AUTHORITY"),
        ("%RESP(:PATH)%", "%RESP(:PATH)%", "there is no field `:PATH`", ":STATUS"),
        ("%DURATION(x)%", "x", "`DURATION` takes nothing in brackets", "write `%DURATION%`"),
        ("%PROTOCOL:3%", "3", "what `PROTOCOL` gives is not cut to a length", "write `%PROTOCOL%`"),
        ("%GRPC_STATUS(camel)%", "camel", "does not know this word", "(SNAKE_STRING)"),
        ("%START_TIME(%!)%", "%!", "is no format of a time", "%START_TIME("),
        ("%START_TIME(a%nb)%", "a%nb", "`%n` would end the line", "%START_TIME("),
        ("%CEL(request.methd)%", "request.methd", "there is no attribute `request.methd`", "did you mean `request.method`?"),
        ("%CEL(request.headers)%", "request.headers", "header fields can only be asked for by name", "x-name"),
        ("%CEL(claims.sub)%", "claims", "`claims` is not known", "header field"),
        ("a\nb\n", "\n", "a line of the log is one line", "`when`"),
    ] {
        let found = wrong(format);
        let (at, said, hinted) = found.first().unwrap();
        assert_eq!(at, place, "{format}: {found:?}");
        assert!(said.contains(message), "{format}: {said}");
        assert!(hinted.as_ref().is_some_and(|hinted| hinted.contains(hint)), "{format}: {hinted:?}");
    }
    assert_eq!(wrong("%NOWN% %UNKNWN%").len(), 2, "all mistakes are told at once");
    assert_eq!(wrong(&"x".repeat(MOST_BYTES + 1)).len(), 1);
}

#[test]
fn an_operator_is_ours_or_envoys_alone() {
    for (name, _) in OPERATORS {
        assert!(!OF_ENVOY.contains(&name), "{name}");
    }
}

#[test]
fn what_of_an_answer_is_looked_at_is_known_beforehand() {
    let wanted = |text: &str| LogFormat::parse(text).unwrap().wanted();
    assert_eq!(wanted("%RESPONSE_CODE%"), Wanted::default());
    assert_eq!(wanted("%RESP(X-A)%"), Wanted { headers: true, trailers: false });
    assert_eq!(wanted("%TRAILER(X-A)%"), Wanted { headers: false, trailers: true });
    assert_eq!(wanted("%CEL(response.headers['x-a'])%"), Wanted { headers: true, trailers: false });
    let both: LogFields = serde_json::from_str(r#"{"a": ["%TRAILER(b)%"], "c": {"d": "%RESP(e)%"}}"#).unwrap();
    assert_eq!(LogValue::Fields(both).wanted(), Wanted { headers: true, trailers: true });
}
