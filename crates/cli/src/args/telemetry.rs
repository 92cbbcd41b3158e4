//! `lorica trace` and `lorica logs` as typed, and the bounds of what is kept.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::Output;

/// The least that the store works with, in bytes: sixteen segments of each kind.
const LEAST_BYTES: u64 = 4 * 1024 * 1024;

/// `lorica trace`.
#[derive(Debug, Args)]
#[command(after_help = "A trace is kept where it was sampled, where it failed, and where it was slow.

Examples:
  lorica trace                                          the newest
  lorica trace --service recording.contact --status error --since 15m
  lorica trace --route recording.contact --slower 100ms
  lorica trace 0af7651916cd43dd8448eb211c80319c         one, as a tree with times
  lorica trace 4b1d0c9e-6a55-4e0e-9d3a-1f0b9a7c2e11     the one of a request, by its x-request-id")]
pub struct TraceArgs {
    /// A trace's id, or a request's: shows that one.
    #[arg(conflicts_with_all = ["service", "operation", "route", "status", "slower", "faster", "attributes", "request_id", "since", "until", "page"])]
    pub id: Option<String>,
    /// With a span of this service: `recording.contact`, or `recording` in any namespace.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// With a span of this name.
    #[arg(long, value_name = "NAME")]
    pub operation: Option<String>,
    /// With a span that this route decided: `recording.contact`, or `HTTPRoute/recording.contact rule 0`.
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
    /// With a span that ended so: `503`, `5xx`, or `error` for whatever failed.
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// With a span that took so long, or longer: `100ms`.
    #[arg(long, value_name = "TIME")]
    pub slower: Option<String>,
    /// With a span that took so long, or less.
    #[arg(long, value_name = "TIME")]
    pub faster: Option<String>,
    /// With a span that says this of itself; all of them where there are several.
    #[arg(long = "attribute", value_name = "KEY=VALUE")]
    pub attributes: Vec<String>,
    /// With a span of the request with this `x-request-id`.
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// From then on: `15m` ago, or `2026-11-30T14:00:00Z`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Go on where a list ended: it says how.
    #[arg(long, value_name = "PAGE")]
    pub page: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica logs --service recording.contact --status 5xx --since 15m
  lorica logs --trace-id 0af7651916cd43dd8448eb211c80319c
  lorica logs --follow --route recording.contact -o json   one object a line")]
pub struct LogsArgs {
    /// Of this service: `recording.contact`, or `recording` in any namespace.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Of requests that this route decided.
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
    /// Of requests that ended so: `503`, `5xx`; `error` for records of that severity and above.
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Of requests that took so long, or longer: `100ms`.
    #[arg(long, value_name = "TIME")]
    pub slower: Option<String>,
    /// Of requests that took so long, or less.
    #[arg(long, value_name = "TIME")]
    pub faster: Option<String>,
    /// With this attribute; all of them where there are several.
    #[arg(long = "attribute", value_name = "KEY=VALUE")]
    pub attributes: Vec<String>,
    /// Of the request with this `x-request-id`.
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Of this trace.
    #[arg(long, value_name = "ID")]
    pub trace_id: Option<String>,
    /// From then on: `15m` ago, or `2026-11-30T14:00:00Z`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then.
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<String>,
    /// How many, the newest.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Those before a place: a list says which.
    #[arg(long, value_name = "PLACE", conflicts_with = "follow")]
    pub before: Option<u64>,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// A number of bytes: `256MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesArg(pub u64);

impl FromStr for BytesArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale: u64 = match unit {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" => 1,
            _ => return Err(format!("`{text}` is no number of bytes: write 64MiB or 2GiB")),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        let bytes = bytes.ok_or_else(|| format!("`{text}` is no number of bytes: write 64MiB or 2GiB"))?;
        if bytes < LEAST_BYTES { Err("4MiB is the least".to_owned()) } else { Ok(Self(bytes)) }
    }
}

/// How long telemetry may be kept.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let age = super::duration(text)?;
    if age < Duration::from_secs(60) { Err("a minute is the least".to_owned()) } else { Ok(age) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_documented() {
        for (text, expected) in [("256MiB", Ok(256 << 20)), ("2GiB", Ok(2 << 30)), ("8192KiB", Ok(8 << 20)), ("4194304", Ok(4 << 20))] {
            assert_eq!(text.parse(), expected.map(BytesArg));
        }
        for bad in ["", "x", "4", "3MiB", "1MB", "1.5GiB", "-4MiB", "99999999999GiB"] {
            assert!(bad.parse::<BytesArg>().is_err(), "{bad}");
        }
        assert_eq!(age("1h"), Ok(Duration::from_secs(3600)));
        assert!(age("1s").is_err());
    }
}
