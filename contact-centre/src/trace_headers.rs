//! The headers by which calls that belong together are found again: taken from a request, passed on with its own calls.

use http::HeaderMap;

/// W3C trace context and baggage, B3 in both forms, and the common request id.
const NAMES: [&str; 11] = [
    "traceparent",
    "tracestate",
    "baggage",
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
];

/// What of `received` goes along with the calls that the request leads to. A header given twice goes twice.
pub(crate) fn forwarded(received: &HeaderMap) -> HeaderMap {
    let mut onward = HeaderMap::new();
    for name in NAMES {
        for value in received.get_all(name) {
            onward.append(name, value.clone());
        }
    }
    onward
}

/// The trace that a request belongs to, as its headers name it; without a trace, its request id.
pub(crate) fn trace_id(received: &HeaderMap) -> Option<String> {
    let text = |name: &str| received.get(name).and_then(|value| value.to_str().ok());
    let part = |name: &str, index: usize| text(name)?.split('-').nth(index).filter(|part| part.len() >= 16);
    part("traceparent", 1).or_else(|| part("b3", 0)).or_else(|| text("x-b3-traceid")).or_else(|| text("x-request-id")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_trace_headers_go_on() {
        let received = headers(&[("traceparent", "00-a-b-01"), ("cookie", "secret"), ("x-request-id", "r1")]);
        let onward = forwarded(&received);
        assert_eq!(onward.len(), 2);
        assert_eq!(onward["x-request-id"], "r1");
    }

    #[test]
    fn the_trace_is_found_in_each_form() {
        let check = |pairs: &[(&'static str, &str)], expected: Option<&str>| {
            assert_eq!(trace_id(&headers(pairs)).as_deref(), expected);
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        check(&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Some(id));
        check(&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")], Some(id));
        check(&[("x-b3-traceid", id)], Some(id));
        check(&[("traceparent", "nonsense"), ("x-request-id", "r1")], Some("r1"));
        check(&[("b3", "0")], None);
    }
}
