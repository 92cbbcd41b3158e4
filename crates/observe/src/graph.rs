//! Who calls whom, and how that goes, over a window of time: growth of series in, flows out. Exact, not judged by rates: what
//! came between the window's begin and its end is counted, to the last sample that is there.

use std::collections::{BTreeMap, HashMap};

use crate::promql::Source;
use crate::series::labels::NAME;
use crate::series::{Found, Labels, Matcher, Sample, SelectError, Wanted, is_stale};
use crate::summary::{self, Rate, Totals};

/// How long before the window the last sample may be that its growth is counted from, in milliseconds.
const BEFORE: i64 = 330_000;
/// The most samples that are read.
const ROOM: usize = 20_000_000;
/// What is read.
const FAMILIES: &str = "istio_requests_total|istio_request_duration_milliseconds_bucket|istio_request_bytes_sum|istio_response_bytes_sum|\
                        istio_tcp_connections_opened_total|istio_tcp_connections_closed_total|istio_tcp_sent_bytes_total|istio_tcp_received_bytes_total";
/// What the callee's proxy says of a caller that did not prove who he is: no other proxy tells of him.
const NOBODY: &str = "unknown";

/// What flowed in a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// How much.
    pub totals: Totals,
    /// How much a second, and how well.
    pub rate: Rate,
    /// The share that came by mutual TLS, as callees saw it; none where no callee tells.
    pub mutual_tls: Option<f64>,
}

/// A window of time, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Its begin.
    pub from: i64,
    /// Its end.
    pub to: i64,
}

#[derive(Debug, Default)]
struct Counted {
    totals: Totals,
    mutual: f64,
    seen: f64,
}

/// What flowed, by what `key` makes of the labels of a call; none leaves it out. Calls count as their callers' proxies tell
/// of them; those of callers without a proxy, as their callees' do.
///
/// # Errors
/// When the series cannot be read.
pub fn flows<K: Ord>(source: &dyn Source, window: Window, key: impl Fn(&Labels) -> Option<K>) -> Result<Vec<(K, Flow)>, SelectError> {
    let Window { from, to } = window;
    let families = Matcher::regex(FAMILIES).map_err(|error| SelectError::Disk(std::io::Error::other(error)))?;
    let matchers = [Matcher { name: NAME.to_owned(), wanted: Wanted::Matches(families) }];
    let mut room = ROOM;
    let found = source.select(&matchers, from - BEFORE, to, &mut room)?;
    let grown = found.iter().map(|Found { labels, samples }| (labels, growth(samples, from)));
    let grown: Vec<(&Labels, f64)> = grown.filter(|(_, grown)| *grown > 0.0).collect();
    let mut shares = Shares::default();
    for (labels, grown) in grown.iter().filter(|(labels, _)| begins(labels) && !is_source(labels)) {
        let (mutual, seen) = shares.entry(pair(labels)).or_default();
        *seen += grown;
        *mutual += if labels.get("connection_security_policy") == "mutual_tls" { *grown } else { 0.0 };
    }
    let mut counted: BTreeMap<K, Counted> = BTreeMap::new();
    for (labels, grown) in grown {
        // Whoever has a proxy is told of by it.
        if (is_source(labels) || labels.get("source_canonical_service") == NOBODY)
            && let Some(key) = key(labels)
        {
            count(counted.entry(key).or_default(), labels, grown, &shares);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a window is short")]
    let seconds = (to - from) as f64 / 1000.0;
    let flow = |Counted { totals, mutual, seen }| Flow {
        rate: summary::rate(None, &totals, seconds),
        totals,
        mutual_tls: (seen > 0.0).then(|| mutual / seen),
    };
    // A connection that only ended in the window flowed before it.
    let flowed = counted.into_iter().filter(|(_, counted)| counted.totals != Totals::default());
    Ok(flowed.map(|(key, counted)| (key, flow(counted))).collect())
}

/// What a counter grew by after `from`. One that began anew began at 0.
fn growth(samples: &[Sample], from: i64) -> f64 {
    let mut grown = 0.0;
    let mut last: Option<f64> = None;
    for Sample { at, value } in samples.iter().filter(|sample| !is_stale(sample.value)) {
        if *at > from {
            grown += last.map_or(0.0, |last| if *value < last { *value } else { value - last });
        }
        last = Some(*value);
    }
    grown
}

/// How much came by mutual TLS, and how much in all, from whom to whom.
type Shares<'l> = HashMap<[&'l str; 4], (f64, f64)>;

/// Who calls, and who answers: a callee does not know by the name of which service it was called.
fn pair(labels: &Labels) -> [&str; 4] {
    ["source_canonical_service", "source_workload_namespace", "destination_canonical_service", "destination_workload_namespace"]
        .map(|name| labels.get(name))
}

fn is_source(labels: &Labels) -> bool {
    labels.get("reporter") == "source"
}

/// Whether it counts calls.
fn begins(labels: &Labels) -> bool {
    matches!(labels.name(), "istio_requests_total" | "istio_tcp_connections_opened_total")
}

fn count(counted: &mut Counted, labels: &Labels, grown: f64, shares: &Shares<'_>) {
    if begins(labels)
        && let Some((mutual, seen)) = shares.get(&pair(labels))
    {
        counted.seen += grown;
        counted.mutual += grown * mutual / seen;
    }
    let name = labels.name();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and grow")]
    let grown = grown.round() as u64;
    let totals = &mut counted.totals;
    let failed = || match name {
        "istio_requests_total" => summary::failed(labels.get("response_code"), labels.get("grpc_response_status")),
        _ => labels.get("response_flags") != "-",
    };
    match name {
        "istio_requests_total" => {
            totals.requests += grown;
            totals.failures += if failed() { grown } else { 0 };
        }
        "istio_tcp_connections_opened_total" => totals.requests += grown,
        "istio_tcp_connections_closed_total" if failed() => totals.failures += grown,
        "istio_request_duration_milliseconds_bucket" => {
            let bound = labels.get("le").parse().unwrap_or(f64::INFINITY);
            totals.add(&Totals { buckets: vec![(bound, grown)], ..Totals::default() });
        }
        "istio_request_bytes_sum" | "istio_tcp_received_bytes_total" => totals.received += grown,
        "istio_response_bytes_sum" | "istio_tcp_sent_bytes_total" => totals.sent += grown,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;

    struct Given(Vec<Found>);

    impl Source for Given {
        fn select(&self, matchers: &[Matcher], from: i64, to: i64, _: &mut usize) -> Result<Vec<Found>, SelectError> {
            let within = |found: &Found| {
                let samples = found.samples.iter().filter(|sample| (from..=to).contains(&sample.at)).copied().collect();
                Found { labels: found.labels.clone(), samples }
            };
            Ok(self.0.iter().filter(|found| matchers.iter().all(|matcher| matcher.holds(&found.labels))).map(within).collect())
        }
    }

    fn series(name: &str, reporter: &str, caller: &str, more: &[(&str, &str)], samples: &[(i64, f64)]) -> Found {
        let mut labels = vec![
            (NAME, name),
            ("reporter", reporter),
            ("source_canonical_service", caller),
            ("destination_service_name", "web"),
            ("response_flags", "-"),
        ];
        labels.extend(more);
        let samples = samples.iter().map(|(second, value)| Sample { at: second * 1000, value: *value }).collect();
        Found { labels: Labels::of(&labels), samples }
    }

    fn look(given: Vec<Found>) -> Vec<(String, Flow)> {
        let window = Window { from: 1_000_000, to: 1_060_000 };
        flows(&Given(given), window, |labels| Some(labels.get("source_canonical_service").to_owned())).unwrap()
    }

    #[test]
    fn what_came_within_the_window_is_counted() {
        let requests = |code, samples: &[(i64, f64)]| series("istio_requests_total", "source", "a", &[("response_code", code)], samples);
        let bucket =
            |bound, samples: &[(i64, f64)]| series("istio_request_duration_milliseconds_bucket", "source", "a", &[("le", bound)], samples);
        let found = look(vec![
            // 10 before, 30 within, and then anew.
            requests("200", &[(700, 1.0), (995, 10.0), (1005, 20.0), (1015, 40.0), (1025, 5.0)]),
            // It began within.
            requests("503", &[(1010, 0.0), (1020, 5.0), (1030, crate::series::STALE)]),
            bucket("5", &[(995, 0.0), (1050, 20.0)]),
            bucket("10", &[(995, 0.0), (1050, 40.0)]),
            bucket("+Inf", &[(995, 0.0), (1050, 40.0)]),
            series("istio_response_bytes_sum", "source", "a", &[], &[(995, 0.0), (1050, 600.0)]),
        ]);
        let (caller, flow) = &found[0];
        assert_eq!((caller.as_str(), found.len()), ("a", 1));
        assert_eq!((flow.totals.requests, flow.totals.failures, flow.totals.sent), (40, 5, 600));
        assert_eq!((flow.rate.p50, flow.rate.sent, flow.mutual_tls), (Some(5.0), 10.0, None));
    }

    #[test]
    fn callees_tell_of_mutual_tls_and_of_callers_that_have_no_proxy() {
        let of = |reporter, caller, security| {
            let more = [("response_code", "200"), ("connection_security_policy", security)];
            series("istio_requests_total", reporter, caller, &more, &[(995, 0.0), (1050, 4.0)])
        };
        let found = look(vec![of("source", "a", "unknown"), of("destination", "a", "mutual_tls"), of("destination", "unknown", "none")]);
        let shown: Vec<_> = found.iter().map(|(caller, flow)| (caller.as_str(), flow.totals.requests, flow.mutual_tls)).collect();
        assert_eq!(shown, [("a", 4, Some(1.0)), ("unknown", 4, Some(0.0))]);
    }

    #[test]
    fn where_nothing_flowed_there_is_no_flow() {
        assert!(look(vec![series("istio_requests_total", "source", "a", &[], &[(995, 7.0), (1050, 7.0)])]).is_empty());
    }
}
