//! Anything that may be told of exchanges.

use std::sync::Arc;

use lorica_model::cel::Expression;
use lorica_model::log_format::{LogFormat, LogValue};
use lorica_model::snapshot::{AccessLog, AccessLogFormat, LogTarget, Share, Slow, Telemetry, Tracing};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::any_duration;

fn any_format() -> impl Strategy<Value = LogFormat> {
    let part = prop_oneof![
        "[a-z \"é]{1,4}",
        proptest::sample::select(vec![
            "%START_TIME(%s.%3f)%",
            "%REQ(X-A?:PATH):7%",
            "%REQ_WITHOUT_QUERY(:PATH)%",
            "%RESP(X-B)%",
            "%RESPONSE_CODE%",
            "%CEL(source.identity + '%')%",
            "%CEL(request.method)%",
            "%%",
        ])
        .prop_map(str::to_owned),
    ];
    (vec(part, 0..5), any::<bool>()).prop_map(|(parts, ends)| {
        let text = parts.concat() + if ends { "\n" } else { "" };
        LogFormat::parse(&text).unwrap()
    })
}

fn any_value() -> impl Strategy<Value = LogValue> {
    any_format().prop_map(LogValue::Format).prop_recursive(2, 6, 3, |inner| {
        prop_oneof![btree_map("[a-z]{1,5}", inner.clone(), 0..3).prop_map(LogValue::Fields), vec(inner, 0..3).prop_map(LogValue::List),]
    })
}

pub(super) fn any_telemetry() -> impl Strategy<Value = Option<Arc<Telemetry>>> {
    let slow = prop_oneof![Just(Slow::Never), any_duration().prop_map(Slow::After)];
    let tracing = (option::of(0..=1_000_000_u32), option::of(any::<bool>()), option::of(slow))
        .prop_map(|(share, keep_failed, slow)| Tracing { sampling: share.map(Share), keep_failed, keep_slower_than: slow });
    let format = prop_oneof![
        Just(AccessLogFormat::Json),
        any_format().prop_map(AccessLogFormat::Text),
        btree_map("[a-z]{1,5}", any_value(), 0..4).prop_map(AccessLogFormat::Fields),
    ];
    let conditions = ["response.code >= 500", "source.identity == 'a' || response.headers['x-a'] == 'b'", "has(source.identity)"];
    let when = proptest::sample::select(conditions.to_vec()).prop_map(|text| Expression::parse_of_exchange(text).unwrap());
    let to = proptest::sample::subsequence(vec![LogTarget::Stdout, LogTarget::Mesh, LogTarget::Otlp], 0..=3);
    let log = (format, option::of(when), to).prop_map(|(format, when, to)| AccessLog { format, when, to });
    option::of((option::of(tracing), option::of(log)).prop_map(|(tracing, access_log)| Arc::new(Telemetry { tracing, access_log })))
}
