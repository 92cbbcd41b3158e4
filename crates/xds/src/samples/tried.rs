//! What is tried, of any.

use lorica_model::snapshot::{AttemptTrial, AuthenticationTrial, EgressTrial, Ejection, Origin, TrafficTrial};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{any_duration, any_egress_rule, any_origin, any_port, any_retry};

pub(super) fn any_authentication() -> impl Strategy<Value = AuthenticationTrial> {
    (any_origin(), option::of(super::access::any_authentication()), any::<bool>())
        .prop_map(|(origin, tokens, mutual_tls)| AuthenticationTrial { origin: origin.into(), tokens, mutual_tls })
}

pub(super) fn any_attempts() -> impl Strategy<Value = AttemptTrial> {
    (any_origin(), any_port(), option::of(any_duration()), option::of(any_duration()), option::of(any_retry())).prop_map(
        |(origin, to, request, backend_request, retry)| AttemptTrial { origin: origin.into(), to, request, backend_request, retry },
    )
}

pub(super) fn any_traffic(parts: impl Strategy<Value = (Origin, Option<u32>, Option<Ejection>)>) -> impl Strategy<Value = TrafficTrial> {
    parts.prop_map(|(origin, requests, ejection)| TrafficTrial { origin: origin.into(), requests, ejection })
}

pub(super) fn any_egress() -> impl Strategy<Value = EgressTrial> {
    (any_origin(), vec(any_egress_rule(), 0..3), any::<bool>()).prop_map(|(origin, rules, denies)| EgressTrial {
        origin: origin.into(),
        rules,
        denies,
    })
}
