//! Istio's labels and conventions, sums over workers, and the bound on series.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where by panicking")]

use lorica_model::reason::Reason;

use super::*;
use crate::exposition;
use crate::record::sample::{http, party, tcp, with};

/// The lines of a scrape that begin with `name`, without it.
fn scrape(registry: &MetricsRegistry, name: &str) -> Vec<String> {
    let (_, text) = exposition::encode(&registry.families(), None);
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line[name.len()..].to_owned()).collect()
}

fn counted(record: &Record) -> Arc<MetricsRegistry> {
    let registry: Arc<MetricsRegistry> = Arc::default();
    registry.worker().record(record);
    registry
}

#[test]
fn a_request_is_told_under_istios_names_and_labels() {
    let registry = counted(&http());
    let expected = "{reporter=\"source\",source_workload=\"routing-1\",source_canonical_service=\"routing\",source_canonical_revision=\"v2\",\
        source_workload_namespace=\"contact\",source_principal=\"spiffe://mesh/ns/contact/sa/routing\",source_app=\"routing\",source_version=\"v2\",\
        source_cluster=\"unknown\",destination_service=\"recording.contact.mesh\",destination_service_name=\"recording\",\
        destination_service_namespace=\"contact\",destination_workload=\"recording-1\",destination_canonical_service=\"recording\",\
        destination_canonical_revision=\"v2\",destination_workload_namespace=\"contact\",\
        destination_principal=\"spiffe://mesh/ns/contact/sa/recording\",destination_app=\"recording\",destination_version=\"v2\",\
        destination_cluster=\"unknown\",request_protocol=\"http\",response_flags=\"-\",connection_security_policy=\"unknown\",\
        response_code=\"200\",grpc_response_status=\"\"} 1";
    assert_eq!(scrape(&registry, "istio_requests_total"), [expected]);
}

#[test]
fn a_failure_keeps_the_service_that_was_meant() {
    let failed = Record { destination: Arc::default(), reason: Some(Reason::NoEndpoint), upstream: None, ..with(|http| http.status = 503) };
    let registry = counted(&failed);
    let line = scrape(&registry, "istio_requests_total").remove(0);
    for label in [
        "destination_service=\"recording.contact.mesh\"",
        "destination_workload=\"unknown\"",
        "destination_principal=\"unknown\"",
        "destination_canonical_revision=\"unknown\"",
        "response_flags=\"UH\"",
        "response_code=\"503\"",
    ] {
        assert!(line.contains(label), "{label} in {line}");
    }
    assert_eq!(scrape(&registry, "lorica_exchanges_failed_total"), ["{reason=\"no_endpoint\"} 1"]);
}

#[test]
fn no_label_but_the_grpc_status_is_ever_empty() {
    let registry = counted(&Record { source: Arc::default(), destination: Arc::default(), ..http() });
    for family in registry.families().iter().filter(|family| family.name.starts_with("istio_")) {
        for (name, value) in family.samples.iter().flat_map(|sample| &sample.labels) {
            assert!(!value.is_empty() || *name == "grpc_response_status", "{name} of {}", family.name);
        }
    }
}

#[test]
fn a_workload_without_a_version_is_the_latest() {
    let source = Arc::new(Party { version: UNKNOWN.to_owned(), ..(*party("routing")).clone() });
    let line = scrape(&counted(&Record { source, ..http() }), "istio_requests_total").remove(0);
    assert!(line.contains("source_canonical_revision=\"latest\""), "{line}");
    assert!(line.contains("source_version=\"unknown\""), "{line}");
}

#[test]
fn durations_fall_into_istios_buckets() {
    let registry = counted(&http());
    let buckets = scrape(&registry, "istio_request_duration_milliseconds_bucket");
    assert_eq!(buckets.len(), DURATION_BOUNDS.len() + 1);
    let count =
        |bound: &str| buckets.iter().find(|line| line.contains(&format!("le=\"{bound}\""))).unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!([count("10"), count("25"), count("3600000"), count("+Inf")], ["0", "1", "1", "1"]);
    let sum = scrape(&registry, "istio_request_duration_milliseconds_sum").remove(0);
    assert!(sum.ends_with(" 12.5"), "{sum}");
    let bytes = scrape(&registry, "istio_response_bytes_sum").remove(0);
    assert!(bytes.ends_with(" 3000"), "{bytes}");
}

#[test]
fn a_value_on_a_bound_belongs_below_it() {
    let histogram = Histogram::<3>::default();
    [0.0, 1.0, 1.1, 2.5, 9.0].iter().for_each(|value| histogram.observe(&[1.0, 2.5], *value));
    let (mut buckets, mut sum) = (vec![0; 3], 0.0);
    histogram.read(&mut buckets, &mut sum);
    assert_eq!(buckets, [2, 2, 1]);
    assert!((sum - 13.6).abs() < 1e-9);
}

#[test]
fn grpc_counts_messages_and_statuses_that_grpc_knows() {
    let of = |status| Record {
        protocol: Protocol::Grpc,
        ..with(|http| {
            http.grpc_status = Some(status);
            http.request_messages = 3;
            http.response_messages = 5;
        })
    };
    let registry: Arc<MetricsRegistry> = Arc::default();
    let worker = registry.worker();
    worker.record(&of(0));
    // Made up by a service, each time another: they are one series.
    (17..40).for_each(|status| worker.record(&of(status)));
    let lines = scrape(&registry, "istio_requests_total");
    assert_eq!(lines.len(), 2);
    assert!(lines[1].contains("grpc_response_status=\"2\"} 23") && lines[1].contains("request_protocol=\"grpc\""), "{}", lines[1]);
    assert!(scrape(&registry, "istio_request_messages_total").remove(0).ends_with(" 3"));
    assert!(scrape(&registry, "istio_response_messages_total").remove(0).ends_with(" 5"));
}

#[test]
fn tcp_counts_connections_and_bytes_as_the_caller_sees_them() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let worker = registry.worker();
    worker.opened(&tcp());
    worker.record(&tcp());
    let end = |name| scrape(&registry, name).remove(0).rsplit(' ').next().unwrap().to_owned();
    assert_eq!(end("istio_tcp_connections_opened_total"), "1");
    assert_eq!(end("istio_tcp_connections_closed_total"), "1");
    assert_eq!(end("istio_tcp_received_bytes_total"), "20");
    assert_eq!(end("istio_tcp_sent_bytes_total"), "3000");
    assert!(scrape(&registry, "istio_requests_total").is_empty());
    let line = scrape(&registry, "istio_tcp_connections_closed_total").remove(0);
    assert!(!line.contains("response_code") && !line.contains("grpc_response_status"), "{line}");
}

#[test]
fn workers_are_summed_and_a_party_made_anew_is_the_same() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let workers = [registry.worker(), registry.worker()];
    // Each record has parties of its own, as after a rotation of certificates.
    for worker in &workers {
        (0..3).for_each(|_| worker.record(&http()));
    }
    let lines = scrape(&registry, "istio_requests_total");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with(" 6"), "{}", lines[0]);
    assert_eq!(registry.series().values().map(Vec::len).collect::<Vec<_>>(), [2]);
}

#[test]
fn threads_lose_no_count() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let count = |registry: &Arc<MetricsRegistry>| {
        let worker = registry.worker();
        let record = http();
        (0..10_000).for_each(|_| worker.record(&record));
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| count(&registry))));
    });
    assert!(scrape(&registry, "istio_requests_total").remove(0).ends_with(" 40000"));
}

#[test]
fn past_the_bound_series_count_together() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let workers = [registry.worker(), registry.worker()];
    let called = |index: usize| Arc::new(Called { fqdn: format!("s{index}.contact.mesh"), ..(*http().called).clone() });
    for index in 0..MAX_SERIES {
        workers[0].record(&Record { called: called(index), ..http() });
    }
    for (index, status) in [(MAX_SERIES, 200), (MAX_SERIES + 1, 201), (MAX_SERIES + 2, 500)] {
        for worker in &workers {
            worker.record(&Record { called: called(index), ..with(|http| http.status = status) });
        }
    }
    // Known before the bound was reached, and still counted as itself, by a worker that had not met it.
    workers[1].record(&Record { called: called(7), ..http() });
    let families = registry.families();
    let requests = families.iter().find(|family| family.name == "istio_requests_total").unwrap();
    let of = |fqdn: &str| -> Vec<u64> {
        let named = |sample: &&Sample| sample.labels.iter().any(|(name, value)| *name == "destination_service" && value == fqdn);
        let count = |sample: &Sample| match sample.value {
            Value::Counter(count) => count,
            _ => panic!("no counter"),
        };
        requests.samples.iter().filter(named).map(count).collect()
    };
    assert_eq!(requests.samples.len(), MAX_SERIES + 2);
    assert_eq!(of("other"), [4, 2]);
    assert_eq!(of("s7.contact.mesh"), [2]);
    assert_eq!(registry.folded.load(Ordering::Relaxed), 6);
}

#[test]
fn our_own_numbers_are_shown_once_they_are_counted() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let worker = registry.worker();
    assert!(scrape(&registry, "lorica_dns_queries_total").is_empty());
    worker.count(OwnMetric::DNS_QUERIES, "known", 2);
    registry.count(OwnMetric::DNS_QUERIES, "known", 1);
    let held = [worker.hold(OwnMetric::CONNECTIONS_OPEN, "inbound"), worker.hold(OwnMetric::CONNECTIONS_OPEN, "inbound")];
    assert_eq!(scrape(&registry, "lorica_dns_queries_total"), ["{result=\"known\"} 3"]);
    assert_eq!(scrape(&registry, "lorica_connections_open"), ["{side=\"inbound\"} 2"]);
    drop(held);
    assert_eq!(scrape(&registry, "lorica_connections_open"), ["{side=\"inbound\"} 0"]);
    worker.record(&with(|http| http.attempts = 3));
    assert_eq!(scrape(&registry, "lorica_attempts_repeated_total"), [" 2"]);
}
