//! A scrape's text, written piece by piece as it is taken: a slow scraper holds the numbers, not the text, and between two pieces others
//! have their turn.

use std::fmt::Write;
use std::time::UNIX_EPOCH;

use super::{Exemplar, Family, Kind, Sample, Value};

/// When a piece is full, in bytes; it may be longer by one series.
const PIECE: usize = 64 * 1024;

/// The text of families, in pieces.
#[derive(Debug)]
pub struct Page {
    families: std::vec::IntoIter<Family>,
    /// The name of the family being written, and those of its samples that are still to come.
    current: Option<(&'static str, std::vec::IntoIter<Sample>)>,
    open: bool,
    ended: bool,
    bounds: Bounds,
}

/// The bounds of the histogram that was written last, as text.
#[derive(Debug, Default)]
struct Bounds {
    of: &'static [f64],
    texts: Vec<String>,
}

impl Bounds {
    /// In OpenMetrics a bound is written as a float: `1.0`.
    fn set(&mut self, of: &'static [f64], open: bool) {
        if !std::ptr::eq(self.of, of) || self.texts.is_empty() {
            self.of = of;
            let texts = of.iter().map(|bound| if open { format!("{bound:?}") } else { bound.to_string() });
            self.texts = texts.chain(["+Inf".to_owned()]).collect();
        }
    }
}

impl Page {
    pub(super) fn new(families: Vec<Family>, open: bool) -> Self {
        Self { families: families.into_iter(), current: None, open, ended: false, bounds: Bounds::default() }
    }

    /// The rest of it at once.
    #[must_use]
    pub fn into_text(self) -> String {
        self.collect()
    }

    /// The next family that has samples, its head written.
    fn begin(&mut self, text: &mut String) -> bool {
        let Some(Family { name, help, kind, samples }) = self.families.by_ref().find(|family| !family.samples.is_empty()) else {
            return false;
        };
        // In OpenMetrics a counter's family has no suffix, its samples have.
        let title = if self.open && kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        for part in ["# HELP ", title, " ", help, "\n# TYPE ", title, " ", word, "\n"] {
            text.push_str(part);
        }
        self.current = Some((name, samples.into_iter()));
        true
    }

    fn sample(&mut self, text: &mut String, name: &'static str, sample: &Sample) {
        let labels = sample.labels.text();
        match &sample.value {
            Value::Counter(value) => line(text, [name, ""], labels, None, *value),
            Value::Gauge(value) => {
                begin(text, [name, ""], labels, None);
                float(text, *value);
                text.push('\n');
            }
            Value::Histogram { bounds, buckets, sum, exemplars } => {
                self.bounds.set(bounds, self.open);
                let mut count = 0;
                for (index, (bucket, bound)) in buckets.iter().zip(&self.bounds.texts).enumerate() {
                    count += bucket;
                    begin(text, [name, "_bucket"], labels, Some(bound));
                    text.push_str(itoa::Buffer::new().format(count));
                    if self.open
                        && let Some(exemplar) = exemplars.get(index).copied().flatten()
                    {
                        example(text, &exemplar);
                    }
                    text.push('\n');
                }
                begin(text, [name, "_sum"], labels, None);
                float(text, *sum);
                text.push('\n');
                line(text, [name, "_count"], labels, None, count);
            }
        }
    }
}

impl Iterator for Page {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let mut text = String::with_capacity(PIECE + PIECE / 2);
        while text.len() < PIECE {
            let next = self.current.as_mut().and_then(|(name, samples)| Some((*name, samples.next()?)));
            match next {
                Some((name, sample)) => self.sample(&mut text, name, &sample),
                None if self.begin(&mut text) => {}
                None => {
                    self.ended = true;
                    if self.open {
                        text.push_str("# EOF\n");
                    }
                    break;
                }
            }
        }
        Some(text)
    }
}

/// A line up to its value.
fn begin(text: &mut String, name: [&str; 2], labels: &str, bound: Option<&str>) {
    name.iter().for_each(|part| text.push_str(part));
    match (labels.is_empty(), bound) {
        (true, None) => {}
        (false, None) => ["{", labels, "}"].iter().for_each(|part| text.push_str(part)),
        (true, Some(bound)) => ["{le=\"", bound, "\"}"].iter().for_each(|part| text.push_str(part)),
        (false, Some(bound)) => ["{", labels, ",le=\"", bound, "\"}"].iter().for_each(|part| text.push_str(part)),
    }
    text.push(' ');
}

fn line(text: &mut String, name: [&str; 2], labels: &str, bound: Option<&str>, value: u64) {
    begin(text, name, labels, bound);
    text.push_str(itoa::Buffer::new().format(value));
    text.push('\n');
}

/// Writing to a `String` cannot fail.
fn float(text: &mut String, value: f64) {
    let _ = write!(text, "{value}");
}

fn example(text: &mut String, Exemplar { trace_id, span_id, value, at }: &Exemplar) {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let _ =
        write!(text, " # {{trace_id=\"{trace_id:032x}\",span_id=\"{span_id:016x}\"}} {value} {}.{:03}", at.as_secs(), at.subsec_millis());
}
