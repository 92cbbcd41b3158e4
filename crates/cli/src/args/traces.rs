//! Which exchanges of a proxy are traced, and where their spans go.

use std::time::Duration;

use clap::Args;
use lorica_observe::Keep;
use lorica_observe::export::OtlpProtocol;

use super::duration;

/// What each proxy that serves an app or a gateway is told of traces.
#[derive(Debug, Clone, Default, Args)]
pub struct TracingArgs {
    /// A collector that gets spans by OTLP, besides the control plane: http://HOST:4317, http://HOST:4318, https://HOST/PATH, unix:///PATH. May be given again.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp: Vec<String>,
    /// What OTLP is spoken over: `grpc` or `http`. Default: HTTP where the URL has a path or port 4318, else gRPC.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_name = "PROTOCOL")]
    pub otlp_protocol: Option<OtlpProtocol>,
    /// A Zipkin that gets spans: http://HOST:9411. May be given again.
    #[arg(long, value_name = "URL")]
    pub zipkin: Vec<String>,
    /// The share of requests that begin a trace where no header came, 0 to 1.
    #[arg(long, default_value_t = Keep::default().share, value_name = "SHARE", value_parser = share)]
    pub trace_sampling: f64,
    /// Give a span to what was not answered within this time, sampled or not; `off`: do not.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = bound)]
    pub trace_slower_than: Bound,
    /// Give no span to what failed, unless it is sampled.
    #[arg(long)]
    pub no_trace_failed: bool,
}

impl TracingArgs {
    /// Which exchanges give a span.
    #[must_use]
    pub fn keep(&self) -> Keep {
        Keep { share: self.trace_sampling, failed: !self.no_trace_failed, slower_than: self.trace_slower_than.0 }
    }
}

/// A time, or `off`. A type of its own: an option would read as an argument that may be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound(pub Option<Duration>);

fn bound(text: &str) -> Result<Bound, String> {
    if text == "off" { Ok(Bound(None)) } else { duration(text).map(|time| Bound(Some(time))) }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no share: write 0 to 1, as 0.01 for one in a hundred"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;

    #[test]
    fn bounds_and_shares_read_as_documented() {
        assert_eq!(bound("250ms"), Ok(Bound(Some(Duration::from_millis(250)))));
        assert_eq!(bound("off"), Ok(Bound(None)));
        bound("never").unwrap_err();
        assert_eq!((share("0"), share("0.5"), share("1")), (Ok(0.0), Ok(0.5), Ok(1.0)));
        for bad in ["-0.1", "1.1", "1%", "NaN", ""] {
            share(bad).unwrap_err();
        }
    }
}
