//! Whether and when a batch is sent again. Pure; the random share is passed in.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

/// The first pause, doubled with each try.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause, also of those that a destination asks for.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// No, or it might be taken twice.
    Never,
    /// Yes.
    Soon,
    /// Yes, after as long as the destination asks for.
    After(Duration),
}

/// How long to wait before the try after `tries`; none if it would not help. A destination that says when to come again is
/// followed; else the pause doubles, and `share` (0 to 1) of its half is left out, so that proxies do not come all at once.
pub(super) fn pause(again: Again, tries: u32, share: f64) -> Option<Duration> {
    let pause = match again {
        Again::Never => return None,
        Again::After(asked) => asked,
        Again::Soon => (FIRST * 2_u32.saturating_pow(tries.saturating_sub(1).min(16))).mul_f64(1.0 - share.clamp(0.0, 1.0) / 2.0),
    };
    Some(pause.min(LONGEST))
}

/// What a gRPC status says of another try, by OTLP's table.
pub(super) fn of_status(status: &Status) -> Again {
    let asked = Details::decode(status.details()).ok().and_then(|details| details.retry_delay());
    match (status.code(), asked) {
        (Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss, None) => {
            Again::Soon
        }
        // Over quota: only if the collector says when it will not be.
        (
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted,
            Some(delay),
        ) => Again::After(delay),
        _ => Again::Never,
    }
}

/// What the status of an HTTP answer says of another try, by OTLP's table, with its `retry-after` in seconds.
pub(super) fn of_http(status: u16, retry_after: Option<&str>) -> Again {
    let asked = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    match status {
        429 | 502..=504 => asked.map_or(Again::Soon, Again::After),
        _ => Again::Never,
    }
}

/// `google.rpc.Status`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Details {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

impl Details {
    fn retry_delay(&self) -> Option<Duration> {
        let info = self.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
        // A negative one is no delay.
        Some(Duration::try_from(delay).unwrap_or_default())
    }
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// The details of a status that asks to come again after `delay`.
#[cfg(test)]
pub(super) fn asking(delay: Duration) -> Vec<u8> {
    let info = RetryInfo { retry_delay: prost_types::Duration::try_from(delay).ok() };
    let any = prost_types::Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec() };
    Details { message: String::new(), details: vec![any] }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: Code, asked: Option<Duration>, tries: u32, expected: Option<Duration>) {
        let status = Status::with_details(code, "", asked.map(asking).unwrap_or_default().into());
        assert_eq!(pause(of_status(&status), tries, 0.0), expected, "{code:?}, asked for {asked:?}, after {tries}");
    }

    #[test]
    fn only_what_may_help_is_tried_again() {
        let (first, second) = (Duration::from_millis(250), Duration::from_secs(1));
        check(Code::Unavailable, None, 1, Some(first));
        check(Code::DeadlineExceeded, None, 2, Some(first * 2));
        check(Code::Aborted, None, 100, Some(LONGEST));
        check(Code::Unavailable, Some(second), 4, Some(second));
        check(Code::Unavailable, Some(Duration::from_secs(3600)), 1, Some(LONGEST));
        check(Code::ResourceExhausted, None, 1, None);
        check(Code::ResourceExhausted, Some(second), 1, Some(second));
        for code in
            [Code::InvalidArgument, Code::Unimplemented, Code::Unauthenticated, Code::PermissionDenied, Code::Internal, Code::Unknown]
        {
            check(code, Some(second), 1, None);
        }
    }

    #[test]
    fn over_http_four_statuses_may_be_tried_again() {
        for status in [429, 502, 503, 504] {
            assert_eq!(of_http(status, None), Again::Soon, "{status}");
            assert_eq!(of_http(status, Some(" 7 ")), Again::After(Duration::from_secs(7)), "{status}");
            // A date is not followed: clocks differ.
            assert_eq!(of_http(status, Some("Wed, 21 Oct 2026 07:28:00 GMT")), Again::Soon, "{status}");
        }
        for status in [301, 400, 401, 404, 413, 415, 500, 501] {
            assert_eq!(of_http(status, Some("1")), Again::Never, "{status}");
        }
    }

    #[test]
    fn a_part_of_a_pause_is_left_to_chance() {
        assert_eq!(pause(Again::Soon, 1, 1.0), Some(Duration::from_millis(125)));
    }

    #[test]
    fn details_that_cannot_be_read_ask_for_nothing() {
        let status = Status::with_details(Code::ResourceExhausted, "", vec![0xff, 0xff, 0xff].into());
        assert_eq!(of_status(&status), Again::Never);
    }
}
