//! retry: what may follow an attempt that went wrong. Pure: the policy, the request and what happened decide, and nothing else.
//!
//! A request that an upstream may have processed is sent again only if repeating it repeats nothing that matters: its method is idempotent, it
//! carries an `Idempotency-Key`, or the policy says so. A payment is never sent twice.

use std::time::Duration;

use lorica_model::head::{RequestHead, ResponseHead};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Retry, RetryOn};

use super::failure::Failure;
use super::unserved::Unserved;

/// What a request's retries are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The policy.
    pub retry: &'a Retry,
    /// Whether the request may be repeated though it may have been processed.
    pub is_repeatable: bool,
    /// Whether somebody before this hop tries again already: then only what was never sent is.
    pub is_retried: bool,
}

impl<'a> Terms<'a> {
    /// The terms of a request.
    #[must_use]
    pub fn of(retry: &'a Retry, head: &RequestHead, is_retried: bool) -> Self {
        Self { retry, is_repeatable: is_repeatable(head) || retry.non_idempotent, is_retried }
    }

    /// Whether an attempt that failed before its answer may be followed by another.
    #[must_use]
    pub fn after(self, failure: &Failure) -> bool {
        let on = &self.retry.on;
        if failure.answered {
            return false;
        }
        if failure.unsent {
            return on.contains(&RetryOn::ConnectFailure) && failure.reason.is_of_connection();
        }
        if failure.again.is_some() {
            return true;
        }
        let condition = match failure.reason {
            Reason::UpstreamClosed | Reason::UpstreamReset | Reason::UpstreamTls | Reason::UpstreamIdentity => RetryOn::Reset,
            Reason::RequestTimeout => RetryOn::Timeout,
            _ => return false,
        };
        self.takes(condition)
    }

    /// Whether what an endpoint may have processed is sent again after this.
    fn takes(self, condition: RetryOn) -> bool {
        let asked = [condition, RetryOn::GatewayError, RetryOn::ServerError].iter().any(|one| self.retry.on.contains(one));
        asked && self.is_repeatable && !self.is_retried
    }

    /// Whether an answer is given up for another attempt: how long its endpoint asks to wait, if it does. `unserved`: it is the endpoint's
    /// proxy that gives it.
    #[must_use]
    pub fn instead_of(self, response: &ResponseHead, unserved: Option<Unserved>) -> Option<Option<Duration>> {
        match unserved {
            Some(Unserved::Unreached) if self.retry.on.contains(&RetryOn::ConnectFailure) => return Some(None),
            Some(Unserved::Lost) if self.takes(RetryOn::Reset) => return Some(None),
            _ => {}
        }
        if !self.is_repeatable || self.is_retried {
            return None;
        }
        let status = response.status;
        let on = &self.retry.on;
        let by_status = self.retry.codes.contains(&status)
            || (matches!(status, 502..=504) && on.contains(&RetryOn::GatewayError))
            || ((500..600).contains(&status) && on.contains(&RetryOn::ServerError));
        // Only an answer without a message has its gRPC status in the head.
        let by_grpc = || {
            let code = response.fields.get_str("grpc-status")?.trim().parse().ok()?;
            RetryOn::of_grpc(code).filter(|condition| on.contains(condition))
        };
        if !by_status && by_grpc().is_none() {
            return None;
        }
        match retry_after(response) {
            None => Some(None),
            // Who asks for more time than the policy gives gets no second request at all.
            Some(wait) if wait > self.retry.retry_after_most => None,
            Some(wait) => Some(Some(wait)),
        }
    }
}

/// Whether doing it twice is as doing it once: by its method (RFC 9110, 9.2.2), or because the app recognises the second by its key.
#[must_use]
pub fn is_repeatable(head: &RequestHead) -> bool {
    head.is_idempotent() || head.fields.get("idempotency-key").is_some_and(|key| !key.is_empty())
}

/// How long an answer asks to wait, where it says so in seconds. A date says little to clocks that differ.
#[must_use]
pub fn retry_after(response: &ResponseHead) -> Option<Duration> {
    response.fields.get_str("retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_model::head::{HeadBuilder, Version};

    use super::*;

    fn request(method: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(64);
        for (name, value) in fields {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.request(Version::Http11, method, "/", "a", None).unwrap()
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
        let mut builder = HeadBuilder::with_capacity(64);
        for (name, value) in fields {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.response(Version::Http11, status)
    }

    #[test]
    fn what_may_have_been_processed_is_repeated_only_where_that_is_safe() {
        let mut retry = Retry::default();
        let get = request("GET", &[]);
        let post = request("POST", &[]);
        let keyed = request("POST", &[("idempotency-key", "7")]);
        let reset = Failure::new(Reason::UpstreamReset, "");
        let refused = Failure::new(Reason::ConnectFailed, "");
        let unprocessed = Failure { unsent: true, ..Failure::new(Reason::UpstreamClosed, "") };
        let slow = Failure::new(Reason::RequestTimeout, "");
        for failure in [&reset, &slow] {
            assert!(Terms::of(&retry, &get, false).after(failure));
            assert!(Terms::of(&retry, &keyed, false).after(failure));
            assert!(!Terms::of(&retry, &post, false).after(failure));
        }
        for failure in [&refused, &unprocessed] {
            assert!(Terms::of(&retry, &post, false).after(failure));
        }
        retry.non_idempotent = true;
        assert!(Terms::of(&retry, &post, false).after(&reset));
        assert!(!Terms::of(&retry, &post, false).after(&Failure::new(Reason::UpstreamReset, "").answered()));
        assert!(!Terms::of(&retry, &get, false).after(&Failure::new(Reason::NoEndpoint, "")));
        assert!(!Terms::of(&retry, &get, false).after(&Failure::new(Reason::Overflow, "")));
    }

    #[test]
    fn what_a_caller_tries_again_is_not_tried_again_here() {
        let retry = Retry { codes: vec![503], ..Retry::default() };
        let get = request("GET", &[]);
        let terms = Terms::of(&retry, &get, true);
        assert!(!terms.after(&Failure::new(Reason::UpstreamReset, "")));
        assert_eq!(terms.instead_of(&response(503, &[]), None), None);
        // What was not sent was not tried.
        assert!(terms.after(&Failure::new(Reason::ConnectFailed, "")));
    }

    #[test]
    fn answers_are_given_up_as_the_policy_says() {
        let get = request("GET", &[]);
        let retry = |on: &[RetryOn], codes: &[u16]| Retry { on: on.iter().copied().collect(), codes: codes.to_vec(), ..Retry::default() };
        let given_up = |retry: &Retry, response: &ResponseHead| Terms::of(retry, &get, false).instead_of(response, None).is_some();
        for (status, none, codes, gateway, server) in [
            (500, false, false, false, true),
            (503, false, true, true, true),
            (429, false, true, false, false),
            (404, false, false, false, false),
        ] {
            let answer = response(status, &[]);
            assert_eq!(given_up(&Retry::default(), &answer), none, "{status}");
            assert_eq!(given_up(&retry(&[], &[429, 503]), &answer), codes, "{status}");
            assert_eq!(given_up(&retry(&[RetryOn::GatewayError], &[]), &answer), gateway, "{status}");
            assert_eq!(given_up(&retry(&[RetryOn::ServerError], &[]), &answer), server, "{status}");
        }
        let unavailable = response(200, &[("grpc-status", "14")]);
        assert!(given_up(&retry(&[RetryOn::GrpcUnavailable], &[]), &unavailable));
        assert!(!given_up(&retry(&[RetryOn::GrpcInternal], &[]), &unavailable));
    }

    #[test]
    fn who_asks_for_time_gets_it_or_no_second_request() {
        let get = request("GET", &[]);
        let retry = Retry { codes: vec![503], retry_after_most: Duration::from_secs(5), ..Retry::default() };
        let terms = Terms::of(&retry, &get, false);
        assert_eq!(terms.instead_of(&response(503, &[("retry-after", "3")]), None), Some(Some(Duration::from_secs(3))));
        assert_eq!(terms.instead_of(&response(503, &[("retry-after", "6")]), None), None);
        assert_eq!(terms.instead_of(&response(503, &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")]), None), Some(None));
    }

    #[test]
    fn what_an_app_did_not_serve_is_tried_elsewhere_as_far_as_that_repeats_nothing() {
        let retry = Retry::default();
        let (get, post) = (request("GET", &[]), request("POST", &[]));
        let again = |head: &RequestHead, is_retried, unserved| {
            Terms::of(&retry, head, is_retried).instead_of(&response(503, &[]), Some(unserved)).is_some()
        };
        for head in [&get, &post] {
            assert!(again(head, false, Unserved::Unreached) && again(head, true, Unserved::Unreached));
        }
        assert!(again(&get, false, Unserved::Lost) && !again(&get, true, Unserved::Lost) && !again(&post, false, Unserved::Lost));
        let never = Retry { on: Default::default(), ..retry.clone() };
        assert_eq!(Terms::of(&never, &get, false).instead_of(&response(503, &[]), Some(Unserved::Unreached)), None);
    }
}
