//! What flows between services, read from proxies' own metrics: totals, and rates between two looks. Pure.

use std::collections::BTreeMap;

/// The caller's and the callee's service of an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Who calls.
    pub source: String,
    /// Who is called.
    pub destination: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
}

/// What has flowed on an edge since its proxies began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Requests, or connections.
    pub requests: u64,
    /// Those that failed: status 5xx or none, a gRPC status other than 0, or ended by the mesh.
    pub failures: u64,
    /// Requests up to each bound in milliseconds, the last without one.
    pub buckets: Vec<(f64, u64)>,
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
}

/// Adds what one proxy's scrape says of the calls that its app makes.
pub fn add(edges: &mut BTreeMap<Edge, Totals>, text: &str) {
    for line in text.lines() {
        let Some((name, labels, value)) = sample(line) else { continue };
        let label = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value.as_str());
        if label("reporter") != "source" {
            continue;
        }
        let edge = || Edge {
            source: label("source_canonical_service").to_owned(),
            destination: label("destination_service_name").to_owned(),
            protocol: label("request_protocol").to_owned(),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
        let count = value as u64;
        match name {
            "istio_requests_total" => {
                let status: u16 = label("response_code").parse().unwrap_or_default();
                let grpc = label("grpc_response_status");
                let failed = status == 0 || status >= 500 || !matches!(grpc, "" | "0");
                let totals = edges.entry(edge()).or_default();
                totals.requests += count;
                totals.failures += if failed { count } else { 0 };
            }
            "istio_tcp_connections_opened_total" => edges.entry(edge()).or_default().requests += count,
            "istio_tcp_connections_closed_total" if label("response_flags") != "-" => edges.entry(edge()).or_default().failures += count,
            "istio_request_duration_milliseconds_bucket" => {
                let bound: f64 = label("le").parse().unwrap_or(f64::INFINITY);
                let buckets = &mut edges.entry(edge()).or_default().buckets;
                match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                    Some((_, sum)) => *sum += count,
                    None => buckets.push((bound, count)),
                }
            }
            _ => {}
        }
    }
    for totals in edges.values_mut() {
        totals.buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    }
}

/// What flowed on an edge between two looks, `seconds` apart.
#[must_use]
pub fn rate(before: Option<&Totals>, after: &Totals, seconds: f64) -> Rate {
    let none = Totals::default();
    let before = before.unwrap_or(&none);
    let requests = after.requests.saturating_sub(before.requests);
    let failures = after.failures.saturating_sub(before.failures).min(requests);
    let buckets: Vec<(f64, u64)> = after
        .buckets
        .iter()
        .map(|(bound, count)| {
            let old = before.buckets.iter().find(|(known, _)| known.total_cmp(bound).is_eq()).map_or(0, |(_, count)| *count);
            (*bound, count.saturating_sub(old))
        })
        .collect();
    #[allow(clippy::cast_precision_loss, reason = "a rate is a float")]
    let (requests, failures) = (requests as f64, failures as f64);
    Rate {
        per_second: requests / seconds.max(f64::EPSILON),
        success: (requests > 0.0).then(|| 1.0 - failures / requests),
        p50: quantile(&buckets, 0.5),
        p99: quantile(&buckets, 0.99),
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

/// The labels of a sample.
type Labels<'l> = Vec<(&'l str, String)>;

/// A line of exposition text: name, labels, value.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    let mut rest = rest.strip_prefix('{').unwrap_or(rest);
    while let Some(equals) = rest.find("=\"").filter(|_| !rest.starts_with(' ')) {
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
    Some((name, labels, value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LABELS: &str =
        "reporter=\"source\",source_canonical_service=\"web\",destination_service_name=\"a\\\"b\",request_protocol=\"http\"";

    fn scrape(good: u64, bad: u64, fast: u64, all: u64) -> BTreeMap<Edge, Totals> {
        let text = format!(
            "# TYPE x counter\nistio_requests_total{{{LABELS},response_code=\"200\",grpc_response_status=\"\"}} {good}\n\
             istio_requests_total{{{LABELS},response_code=\"503\",grpc_response_status=\"\"}} {bad}\n\
             istio_request_duration_milliseconds_bucket{{{LABELS},le=\"10\"}} {fast}\n\
             istio_request_duration_milliseconds_bucket{{{LABELS},le=\"+Inf\"}} {all}\n\
             istio_requests_total{{reporter=\"destination\",response_code=\"200\"}} 99\n"
        );
        let mut edges = BTreeMap::new();
        add(&mut edges, &text);
        edges
    }

    #[test]
    fn rates_are_what_came_between_two_looks() {
        let (before, after) = (scrape(10, 0, 10, 10), scrape(28, 2, 30, 30));
        let (edge, totals) = after.first_key_value().unwrap();
        assert_eq!(edge.destination, "a\"b");
        let rate = rate(before.get(edge), totals, 2.0);
        assert_eq!(rate, Rate { per_second: 10.0, success: Some(0.9), p50: Some(5.0), p99: Some(9.9) });
    }

    #[test]
    fn where_nothing_flowed_nothing_is_claimed() {
        let same = scrape(10, 0, 10, 10);
        let (edge, totals) = same.first_key_value().unwrap();
        assert_eq!(rate(same.get(edge), totals, 1.0), Rate { per_second: 0.0, success: None, p50: None, p99: None });
    }
}
