//! The text in which metrics are scraped: OpenMetrics 1.0 where it is asked for, else Prometheus 0.0.4.
//!
//! Written here, as one writer serves both forms: libraries write one of them, and Prometheus itself still asks for either. What is in a
//! family is told by [`Family`]; a [`Page`] is its text, in pieces.

mod labels;
mod page;

use std::time::SystemTime;

pub use labels::{Labels, MAX_VALUE};
pub use page::Page;

/// What OpenMetrics is served as.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What Prometheus' own text is served as.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Series of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// The name; a counter's ends in `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// Its series.
    pub samples: Vec<Sample>,
}

/// What the samples of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A value now.
    Gauge,
    /// Buckets, count and sum.
    Histogram,
}

/// One series.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: Value,
}

/// The value of a series.
#[derive(Debug, Clone)]
pub enum Value {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(f64),
    /// Of a histogram; `buckets` are not yet summed up, the last has no bound.
    Histogram {
        /// Upper bounds.
        bounds: &'static [f64],
        /// How many fell below each bound and above the one before.
        buckets: Vec<u64>,
        /// The sum of all values.
        sum: f64,
        /// An example of each bucket that has one; none at all where there are none. Told in OpenMetrics only.
        exemplars: Vec<Option<Exemplar>>,
    },
}

/// An observation that a bucket shows, and the trace that it can be looked up in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: u128,
    /// The span within it.
    pub span_id: u64,
    /// What was observed, in the histogram's unit.
    pub value: f64,
    /// When.
    pub at: SystemTime,
}

impl Family {
    /// A family of one counter without labels.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: Kind::Counter, samples: vec![Sample { labels: Labels::none(), value: Value::Counter(value) }] }
    }

    /// A family of one gauge without labels.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, kind: Kind::Gauge, samples: vec![Sample { labels: Labels::none(), value: Value::Gauge(value) }] }
    }
}

/// What `istio_build` says of a component: which software it is. Tools that know Istio find their components by it.
#[must_use]
pub fn build(component: &str, version: &str) -> Family {
    let labels = Labels::new([("component", component), ("tag", version)]);
    Family {
        name: "istio_build",
        help: "Which software this is",
        kind: Kind::Gauge,
        samples: vec![Sample { labels, value: Value::Gauge(1.0) }],
    }
}

/// The text of `families` for a scraper that sent `accept`, and what it is.
#[must_use]
pub fn encode(families: Vec<Family>, accept: Option<&str>) -> (&'static str, Page) {
    let open = accept.is_some_and(prefers_openmetrics);
    (if open { OPENMETRICS } else { PROMETHEUS }, Page::new(families, open))
}

/// Whether `accept` names OpenMetrics 1.0 or does not say which, and ranks it no lower than the plain text.
fn prefers_openmetrics(accept: &str) -> bool {
    let rank = |wanted: fn(&str, Option<&str>) -> bool| {
        let of = |range: &str| {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next()?;
            let parameters: Vec<String> = parts.collect();
            let parameter = |name: &str| parameters.iter().find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            let quality = parameter("q").map_or(Some(1.0), |text| text.parse::<f32>().ok())?;
            wanted(&kind, parameter("version").map(|text| text.trim_matches('"'))).then_some(quality)
        };
        accept.split(',').filter_map(of).fold(0.0, f32::max)
    };
    let open = rank(|kind, version| kind == "application/openmetrics-text" && version.is_none_or(|version| version == "1.0.0"));
    // A range such as `*/*` is no wish for one of them.
    let plain = rank(|kind, _| kind == "text/plain");
    open > 0.0 && open >= plain
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn families() -> Vec<Family> {
        let example = Exemplar {
            trace_id: 0x0af7,
            span_id: 0xb7ad,
            value: 2.25,
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_025),
        };
        let exemplars = vec![None, None, Some(example)];
        vec![
            Family {
                name: "calls_total",
                help: "Calls",
                kind: Kind::Counter,
                samples: vec![Sample { labels: Labels::one("path", "a\"b\\c\nd"), value: Value::Counter(3) }],
            },
            Family {
                name: "took",
                help: "Time",
                kind: Kind::Histogram,
                samples: vec![Sample {
                    labels: Labels::none(),
                    value: Value::Histogram { bounds: &[1.0, 2.0], buckets: vec![1, 0, 2], sum: 9.5, exemplars },
                }],
            },
            Family { name: "none", help: "Nothing", kind: Kind::Gauge, samples: Vec::new() },
            Family::gauge("up", "Up", 0.5),
        ]
    }

    #[test]
    fn prometheus_text_is_as_prometheus_reads_it() {
        let (kind, page) = encode(families(), Some("text/plain"));
        assert_eq!(kind, PROMETHEUS);
        assert_eq!(
            page.into_text(),
            "# HELP calls_total Calls\n# TYPE calls_total counter\ncalls_total{path=\"a\\\"b\\\\c\\nd\"} 3\n\
             # HELP took Time\n# TYPE took histogram\ntook_bucket{le=\"1\"} 1\ntook_bucket{le=\"2\"} 1\ntook_bucket{le=\"+Inf\"} 3\ntook_sum 9.5\ntook_count 3\n\
             # HELP up Up\n# TYPE up gauge\nup 0.5\n"
        );
    }

    #[test]
    fn openmetrics_is_given_to_whom_asks_for_it_with_examples() {
        let (kind, page) = encode(families(), Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
        let text = page.into_text();
        assert_eq!(kind, OPENMETRICS);
        assert!(text.starts_with("# HELP calls Calls\n# TYPE calls counter\ncalls_total{"));
        let last = "took_bucket{le=\"+Inf\"} 3 # {trace_id=\"00000000000000000000000000000af7\",span_id=\"000000000000b7ad\"} 2.25 1700000000.025\n";
        assert!(text.contains(&format!("took_bucket{{le=\"1.0\"}} 1\ntook_bucket{{le=\"2.0\"}} 1\n{last}")), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_long_page_comes_in_pieces_that_make_the_whole() {
        let sample = |index: usize| Sample { labels: Labels::one("at", &index.to_string()), value: Value::Counter(1) };
        let long = Family { name: "calls_total", help: "Calls", kind: Kind::Counter, samples: (0..10_000).map(sample).collect() };
        let (_, page) = encode(vec![long, Family::gauge("up", "Up", 1.0)], Some(OPENMETRICS));
        let pieces: Vec<String> = page.collect();
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() < 70 * 1024), "{}", pieces.len());
        let text = pieces.concat();
        assert_eq!(text.lines().filter(|line| line.starts_with("calls_total{")).count(), 10_000);
        assert!(text.ends_with("calls_total{at=\"9999\"} 1\n# HELP up Up\n# TYPE up gauge\nup 1\n# EOF\n"));
    }

    #[test]
    fn the_form_is_the_one_that_is_wished_for_most() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, open) in [
            (prometheus_3, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; Charset=utf-8", true),
            ("application/openmetrics-text, text/plain", true),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.1", false),
            ("application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=much", false),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(prefers_openmetrics(accept), open, "{accept}");
        }
        assert_eq!(encode(Vec::new(), None).0, PROMETHEUS);
    }
}
