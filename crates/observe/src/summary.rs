//! What flows between services, read from proxies' own metrics: totals, and rates between two looks. Pure.

use std::collections::BTreeMap;

use crate::keep::is_fault_of_callee;

/// The caller's and the callee's service of an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Who calls.
    pub source: String,
    /// Who is called.
    pub destination: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// The caller's namespace.
    pub source_namespace: String,
    /// The callee's namespace; `unknown` outside the mesh.
    pub destination_namespace: String,
}

/// What has flowed on an edge since its proxies began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Requests, or connections.
    pub requests: u64,
    /// Those that failed: without a status or with one of 500 and above, with a gRPC status that is the callee's fault, or
    /// connections that the mesh ended.
    pub failures: u64,
    /// Requests up to each bound in milliseconds, the last without one.
    pub buckets: Vec<(f64, u64)>,
    /// Bytes from the caller, of connections that have ended; of requests' bodies.
    pub received: u64,
    /// Bytes to the caller, likewise.
    pub sent: u64,
}

impl Totals {
    /// Adds what flowed on the same edge through another proxy.
    pub fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.failures += more.failures;
        self.received += more.received;
        self.sent += more.sent;
        more.buckets.iter().for_each(|(bound, count)| self.add_bucket(*bound, *count));
    }

    /// Keeps buckets in the order of their bounds.
    fn add_bucket(&mut self, bound: f64, count: u64) {
        match self.buckets.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bound, count)),
        }
    }
}

/// What flows on an edge now.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Requests a second, or connections.
    pub per_second: f64,
    /// The share that succeeded; none where nothing flowed.
    pub success: Option<f64>,
    /// The median, in milliseconds.
    pub p50: Option<f64>,
    /// The 99th percentile, in milliseconds.
    pub p99: Option<f64>,
    /// Bytes a second from the caller.
    pub received: f64,
    /// Bytes a second to the caller.
    pub sent: f64,
}

/// Whether requests with these values of `response_code` and `grpc_response_status` failed.
pub(crate) fn failed(status: &str, grpc: &str) -> bool {
    let status: u16 = status.parse().unwrap_or_default();
    status == 0 || status >= 500 || grpc.parse().is_ok_and(is_fault_of_callee)
}

/// Adds what one proxy's scrape says of the calls that its app makes.
pub fn add(edges: &mut BTreeMap<Edge, Totals>, text: &str) {
    for line in text.lines() {
        let Some(Line { name, labels, value }) = sample(line) else { continue };
        let label = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value.as_str());
        if label("reporter") != "source" {
            continue;
        }
        let edge = || Edge {
            source: label("source_canonical_service").to_owned(),
            destination: label("destination_service_name").to_owned(),
            protocol: label("request_protocol").to_owned(),
            source_namespace: label("source_workload_namespace").to_owned(),
            destination_namespace: label("destination_service_namespace").to_owned(),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
        let count = value as u64;
        match name {
            "istio_requests_total" => {
                let failed = failed(label("response_code"), label("grpc_response_status"));
                let totals = edges.entry(edge()).or_default();
                totals.requests += count;
                totals.failures += if failed { count } else { 0 };
            }
            "istio_tcp_connections_opened_total" => edges.entry(edge()).or_default().requests += count,
            "istio_tcp_connections_closed_total" if label("response_flags") != "-" => edges.entry(edge()).or_default().failures += count,
            "istio_request_duration_milliseconds_bucket" => {
                let bound: f64 = label("le").parse().unwrap_or(f64::INFINITY);
                edges.entry(edge()).or_default().add_bucket(bound, count);
            }
            "istio_tcp_received_bytes_total" | "istio_request_bytes_sum" => edges.entry(edge()).or_default().received += count,
            "istio_tcp_sent_bytes_total" | "istio_response_bytes_sum" => edges.entry(edge()).or_default().sent += count,
            _ => {}
        }
    }
}

/// What flowed on an edge between two looks, `seconds` apart.
#[must_use]
pub fn rate(before: Option<&Totals>, after: &Totals, seconds: f64) -> Rate {
    let none = Totals::default();
    let before = before.unwrap_or(&none);
    let requests = after.requests.saturating_sub(before.requests);
    let failures = after.failures.saturating_sub(before.failures).min(requests);
    let since = |(bound, count): &(f64, u64)| {
        let old = before.buckets.binary_search_by(|(known, _)| known.total_cmp(bound)).map_or(0, |at| before.buckets[at].1);
        (*bound, count.saturating_sub(old))
    };
    let buckets: Vec<(f64, u64)> = after.buckets.iter().map(since).collect();
    #[allow(clippy::cast_precision_loss, reason = "a rate is a float")]
    let a_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds.max(f64::EPSILON);
    #[allow(clippy::cast_precision_loss, reason = "a share is a float")]
    let (failures, all) = (failures as f64, requests as f64);
    Rate {
        per_second: a_second(before.requests, after.requests),
        success: (requests > 0).then(|| 1.0 - failures / all),
        p50: quantile(&buckets, 0.5),
        p99: quantile(&buckets, 0.99),
        received: a_second(before.received, after.received),
        sent: a_second(before.sent, after.sent),
    }
}

/// The quantile of cumulative buckets, linear within a bucket, as Prometheus estimates it.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn quantile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let total = buckets.last()?.1;
    if total == 0 {
        return None;
    }
    let rank = share * total as f64;
    let at = buckets.iter().position(|(_, count)| *count as f64 >= rank)?;
    let (below, lower) = at.checked_sub(1).map_or((0, 0.0), |before| (buckets[before].1, buckets[before].0));
    let (upper, count) = buckets[at];
    if upper.is_infinite() {
        return Some(lower);
    }
    let within = (count - below).max(1) as f64;
    Some(lower + (upper - lower) * ((rank - below as f64) / within))
}

/// A line of exposition text.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

fn sample(line: &str) -> Option<Line<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    let mut rest = rest.strip_prefix('{').unwrap_or(rest);
    while !rest.starts_with([' ', '}']) {
        let equals = rest.find("=\"")?;
        let label = rest[..equals].trim_start_matches(',');
        let mut value = String::new();
        let mut characters = rest[equals + 2..].char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((label, value));
        rest = &rest[equals + 2 + end + 1..];
    }
    let value = rest.trim_start_matches('}').split_whitespace().next()?.parse().ok()?;
    Some(Line { name, labels, value })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;

    const LABELS: &str =
        "reporter=\"source\",source_canonical_service=\"web\",destination_service_name=\"a\\\"b\",request_protocol=\"http\"";

    fn read(text: &str) -> BTreeMap<Edge, Totals> {
        let mut edges = BTreeMap::new();
        add(&mut edges, text);
        edges
    }

    fn scrape(good: u64, bad: u64, fast: u64, all: u64) -> BTreeMap<Edge, Totals> {
        read(&format!(
            "# TYPE x counter\nistio_requests_total{{{LABELS},response_code=\"200\",grpc_response_status=\"\"}} {good}\n\
             istio_requests_total{{{LABELS},response_code=\"503\",grpc_response_status=\"\"}} {bad}\n\
             istio_request_duration_milliseconds_bucket{{{LABELS},le=\"10\"}} {fast}\n\
             istio_request_duration_milliseconds_bucket{{{LABELS},le=\"+Inf\"}} {all}\n\
             istio_response_bytes_sum{{{LABELS}}} {all}000\n\
             istio_requests_total{{reporter=\"destination\",response_code=\"200\"}} 99\n"
        ))
    }

    #[test]
    fn rates_are_what_came_between_two_looks() {
        let (before, after) = (scrape(10, 0, 10, 10), scrape(28, 2, 30, 30));
        let (edge, totals) = after.first_key_value().unwrap();
        assert_eq!(edge.destination, "a\"b");
        let rate = rate(before.get(edge), totals, 2.0);
        let expected = Rate { per_second: 10.0, success: Some(0.9), p50: Some(5.0), p99: Some(9.9), received: 0.0, sent: 10_000.0 };
        assert_eq!(rate, expected);
    }

    #[test]
    fn where_nothing_flowed_nothing_is_claimed() {
        let nothing = Rate { per_second: 0.0, success: None, p50: None, p99: None, received: 0.0, sent: 0.0 };
        let same = scrape(10, 0, 10, 10);
        let (edge, totals) = same.first_key_value().unwrap();
        assert_eq!(rate(same.get(edge), totals, 1.0), nothing);
        // A proxy that began anew counts from 0.
        let anew = scrape(1, 0, 1, 1);
        assert_eq!(rate(same.get(edge), anew.get(edge).unwrap(), 1.0), nothing);
    }

    #[test]
    fn a_fault_of_the_callers_is_no_failure_of_the_edge() {
        let failures = |status: u16, grpc: &str| {
            let labels = "reporter=\"source\",source_canonical_service=\"web\"";
            let edges = read(&format!("istio_requests_total{{{labels},response_code=\"{status}\",grpc_response_status=\"{grpc}\"}} 1\n"));
            edges.values().next().unwrap().failures
        };
        for (status, grpc, expected) in [
            (200, "", 0),
            (404, "", 0),
            (499, "", 0),
            (500, "", 1),
            (503, "14", 1),
            (0, "", 1),
            (200, "0", 0),
            (200, "5", 0),
            (200, "16", 0),
            (200, "13", 1),
        ] {
            assert_eq!(failures(status, grpc), expected, "{status} {grpc}");
        }
    }

    #[test]
    fn tcp_edges_have_connections_and_bytes() {
        let labels = "reporter=\"source\",source_canonical_service=\"web\",request_protocol=\"tcp\"";
        let edges = read(&format!(
            "istio_tcp_connections_opened_total{{{labels},response_flags=\"-\"}} 5\nistio_tcp_connections_closed_total{{{labels},response_flags=\"-\"}} 3\n\
             istio_tcp_connections_closed_total{{{labels},response_flags=\"UF\"}} 1\nistio_tcp_sent_bytes_total{{{labels}}} 700\n\
             istio_tcp_received_bytes_total{{{labels}}} 70\n"
        ));
        assert_eq!(edges.values().next().unwrap(), &Totals { requests: 5, failures: 1, buckets: Vec::new(), received: 70, sent: 700 });
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let buckets = [(1.0, 0), (5.0, 50), (10.0, 90), (f64::INFINITY, 100)];
        for (share, expected) in [(0.25, 3.0), (0.5, 5.0), (0.7, 7.5), (0.9, 10.0), (0.99, 10.0)] {
            assert_eq!(quantile(&buckets, share), Some(expected), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(1.0, 0), (f64::INFINITY, 0)], 0.5), None);
    }

    #[test]
    fn proxies_of_one_edge_add_up() {
        let (one, other) = (scrape(10, 1, 5, 11), scrape(20, 2, 6, 22));
        let mut sum = one.values().next().unwrap().clone();
        sum.add(other.values().next().unwrap());
        assert_eq!((sum.requests, sum.failures, sum.sent), (33, 3, 33_000));
        assert_eq!(sum.buckets, [(10.0, 11), (f64::INFINITY, 33)]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        for line in ["", "x", "x{", "x{a", "x{a=\"", "x{a=\"b\\", "x{a=\"b\"", "x{a=\"b\"}", "x{a=\"b\"} y", "x{é=\"b\"} 1"] {
            assert!(read(line).is_empty(), "{line}");
        }
        // Prometheus may add a time, OpenMetrics an example.
        let with_example = sample("x{a=\"}\"} 3 # {trace_id=\"0af7\"} 1 2");
        assert_eq!(with_example, Some(Line { name: "x", labels: vec![("a", "}".to_owned())], value: 3.0 }));
        assert_eq!(sample("x 3 1700000000"), Some(Line { name: "x", labels: Vec::new(), value: 3.0 }));
    }
}
