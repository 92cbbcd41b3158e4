//! The text in which metrics are scraped: OpenMetrics 1.0 where it is asked for, else Prometheus 0.0.4.
//!
//! Written here, as one writer serves both forms: libraries write one of them, and Prometheus itself still asks for either.

use std::fmt::Write;

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
    /// Its labels, in order.
    pub labels: Vec<(&'static str, String)>,
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
    },
}

/// The text of `families`, and what it is, for a scraper that sent `accept`.
#[must_use]
pub fn encode(families: &[Family], accept: Option<&str>) -> (&'static str, String) {
    let open = accept.is_some_and(prefers_openmetrics);
    let mut text = String::with_capacity(16 * 1024);
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        write_family(&mut text, family, open);
    }
    if open {
        text.push_str("# EOF\n");
    }
    (if open { OPENMETRICS } else { PROMETHEUS }, text)
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

fn write_family(text: &mut String, family: &Family, open: bool) {
    let Family { name, help, kind, samples } = family;
    // In OpenMetrics a counter's family has no suffix, its samples have; and a histogram's bound is written as a float: `1.0`.
    let title = if open && *kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
    let word = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    // Writing to a `String` cannot fail.
    let _ = write!(text, "# HELP {title} {help}\n# TYPE {title} {word}\n");
    for Sample { labels, value } in samples {
        match value {
            Value::Counter(value) => line(text, name, "", labels, None, &value.to_string()),
            Value::Gauge(value) => line(text, name, "", labels, None, &value.to_string()),
            Value::Histogram { bounds, buckets, sum } => {
                let mut count = 0;
                for (index, bucket) in buckets.iter().enumerate() {
                    count += bucket;
                    let bound = bounds
                        .get(index)
                        .map_or_else(|| "+Inf".to_owned(), |bound| if open { format!("{bound:?}") } else { bound.to_string() });
                    line(text, name, "_bucket", labels, Some(&bound), &count.to_string());
                }
                line(text, name, "_sum", labels, None, &sum.to_string());
                line(text, name, "_count", labels, None, &count.to_string());
            }
        }
    }
}

fn line(text: &mut String, name: &str, suffix: &str, labels: &[(&'static str, String)], bound: Option<&str>, value: &str) {
    text.push_str(name);
    text.push_str(suffix);
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(bound.map(|bound| ("le", bound)));
    let mut first = true;
    for (name, value) in all {
        text.push(if first { '{' } else { ',' });
        first = false;
        let _ = write!(text, "{name}=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !first {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let labels = || vec![("path", "a\"b\\c\nd".to_owned())];
        vec![
            Family {
                name: "calls_total",
                help: "Calls",
                kind: Kind::Counter,
                samples: vec![Sample { labels: labels(), value: Value::Counter(3) }],
            },
            Family {
                name: "took",
                help: "Time",
                kind: Kind::Histogram,
                samples: vec![Sample {
                    labels: Vec::new(),
                    value: Value::Histogram { bounds: &[1.0, 2.5], buckets: vec![1, 0, 2], sum: 9.5 },
                }],
            },
            Family { name: "none", help: "Nothing", kind: Kind::Gauge, samples: Vec::new() },
        ]
    }

    #[test]
    fn prometheus_text_is_as_prometheus_reads_it() {
        let (kind, text) = encode(&families(), Some("text/plain"));
        assert_eq!(kind, PROMETHEUS);
        assert_eq!(
            text,
            "# HELP calls_total Calls\n# TYPE calls_total counter\ncalls_total{path=\"a\\\"b\\\\c\\nd\"} 3\n\
             # HELP took Time\n# TYPE took histogram\ntook_bucket{le=\"1\"} 1\ntook_bucket{le=\"2.5\"} 1\ntook_bucket{le=\"+Inf\"} 3\ntook_sum 9.5\ntook_count 3\n"
        );
    }

    #[test]
    fn openmetrics_is_given_to_whom_asks_for_it() {
        let (kind, text) = encode(&families(), Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
        assert_eq!(kind, OPENMETRICS);
        assert!(text.starts_with("# HELP calls Calls\n# TYPE calls counter\ncalls_total{"));
        assert!(text.contains("took_bucket{le=\"1.0\"} 1\ntook_bucket{le=\"2.5\"} 1\ntook_bucket{le=\"+Inf\"} 3\n"));
        assert!(text.ends_with("# EOF\n"));
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
        assert_eq!(encode(&[], None).0, PROMETHEUS);
    }
}
