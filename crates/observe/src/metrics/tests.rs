//! Istio's labels and conventions, sums over workers, examples, and the bounds on series and their lives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where by panicking")]

use lorica_model::reason::Reason;
use lorica_model::snapshot::Origin;

use super::*;
use crate::exposition::{self, MAX_VALUE, OPENMETRICS};
use crate::record::sample::{http, party, tcp, with};
use crate::record::{Called, Party, Route, UNKNOWN};
use crate::trace::{Span, SpanContext};

/// The lines of a scrape that begin with `name`, without it.
fn scrape(registry: &MetricsRegistry, name: &str) -> Vec<String> {
    let text = exposition::encode(registry.families(), None).1.into_text();
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
        route_kind=\"HTTPRoute\",route_namespace=\"contact\",route_name=\"recording\",\
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
    let empty = Party { version: String::new(), ..(*party("routing")).clone() };
    let registry = counted(&Record { source: Arc::default(), destination: Arc::new(empty), route: None, ..http() });
    for family in registry.families().iter().filter(|family| family.name.starts_with("istio_")) {
        for (name, value) in family.samples.iter().flat_map(|sample| sample.labels.iter()) {
            assert!(!value.is_empty() || name == "grpc_response_status", "{name} of {}", family.name);
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
    assert_eq!([0.0, 1.0, 1.1, 2.5, 9.0].map(|value| histogram.observe(&[1.0, 2.5], value)), [0, 0, 1, 1, 2]);
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
    let open = worker.opened(&tcp());
    worker.record(&tcp());
    drop(open);
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
    let group = registry.group(Protocol::Http);
    assert_eq!(group.series.values().map(|series| series.cells.len()).collect::<Vec<_>>(), [2]);
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

/// The counts of requests to a service, over all of its series.
fn requests(families: &[Family], fqdn: &str) -> Vec<u64> {
    let requests = families.iter().find(|family| family.name == "istio_requests_total").unwrap();
    let named = |sample: &&Sample| sample.labels.get("destination_service").as_deref() == Some(fqdn);
    let count = |sample: &Sample| match sample.value {
        Value::Counter(count) => count,
        _ => panic!("no counter"),
    };
    requests.samples.iter().filter(named).map(count).collect()
}

fn called(index: usize) -> Arc<Called> {
    Arc::new(Called { fqdn: format!("s{index}.contact.mesh"), ..(*http().called).clone() })
}

/// Room for as many series, for a minute.
fn small(series: usize) -> Arc<MetricsRegistry> {
    Arc::new(MetricsRegistry::new(Budget { series, idle: Duration::from_secs(60) }))
}

#[test]
fn past_the_bound_series_count_together() {
    const BOUND: usize = 100;
    let registry = small(BOUND);
    let workers = [registry.worker(), registry.worker()];
    for index in 0..BOUND {
        workers[0].record(&Record { called: called(index), ..http() });
    }
    for (index, status) in [(BOUND, 200), (BOUND + 1, 201), (BOUND + 2, 500)] {
        for worker in &workers {
            worker.record(&Record { called: called(index), ..with(|http| http.status = status) });
        }
    }
    // Known before the bound was reached, and still counted as itself, by a worker that had not met it.
    workers[1].record(&Record { called: called(7), ..http() });
    // Connections have room of their own.
    workers[1].record(&Record { called: called(BOUND + 3), ..tcp() });
    let families = registry.families();
    let series = families.iter().find(|family| family.name == "istio_requests_total").unwrap().samples.len();
    assert_eq!(series, BOUND + 2);
    assert_eq!(requests(&families, "other"), [4, 2]);
    assert_eq!(requests(&families, "s7.contact.mesh"), [2]);
    let dropped = scrape(&registry, "lorica_metrics_dropped_series_total");
    assert_eq!(dropped[..2], ["{family=\"istio_request\"} 6", "{family=\"istio_tcp\"} 0"]);
}

#[test]
fn a_flood_of_kinds_of_exchange_is_bounded_in_the_worker_as_well_and_loses_no_count() {
    let registry = small(50);
    let worker = registry.worker();
    // Each has parties of its own, as if certificates changed with every request.
    (0..5000).for_each(|index| worker.record(&Record { called: called(index % 60), ..http() }));
    let total: u64 = (0..60).flat_map(|index| requests(&registry.families(), &format!("s{index}.contact.mesh"))).sum();
    let other: u64 = requests(&registry.families(), "other").iter().sum();
    assert_eq!(total + other, 5000);
    assert_eq!(registry.group(Protocol::Http).series.len(), 51);
}

#[test]
fn a_series_that_is_idle_ends_and_makes_room() {
    let registry = small(2);
    let workers = [registry.worker(), registry.worker()];
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let tick = |seconds| workers.iter().for_each(|worker| worker.tick(at(seconds)));
    let record = |worker: usize, index| workers[worker].record(&Record { called: called(index), ..http() });
    let seen = |seconds, index: usize| requests(&registry.families_at(at(seconds)), &format!("s{index}.contact.mesh"));
    record(0, 1);
    record(1, 1);
    record(0, 2);
    tick(30);
    record(1, 1);
    tick(65);
    // One worker still counts in the first: it keeps what both have counted. Nobody counts in the second.
    assert_eq!((seen(65, 1), seen(65, 2)), (vec![3], vec![]));
    assert_eq!(scrape(&registry, "lorica_metrics_expired_series_total")[0], "{family=\"istio_request\"} 1");
    // There is room for another, which is not counted under `other`.
    record(0, 3);
    assert_eq!((seen(66, 3), seen(66, 1)), (vec![1], vec![3]));
    tick(95);
    assert_eq!(seen(95, 1), Vec::<u64>::new());
    // What comes back begins anew.
    record(0, 1);
    assert_eq!(seen(96, 1), [1]);
}

#[test]
fn the_registry_makes_room_without_a_scrape() {
    let registry = small(1);
    let worker = registry.worker();
    worker.record(&Record { called: called(1), ..http() });
    worker.tick(Instant::now() + Duration::from_secs(61));
    worker.record(&Record { called: called(2), ..http() });
    assert_eq!(requests(&registry.families(), "s2.contact.mesh"), [1]);
    assert_eq!(requests(&registry.families(), "other"), Vec::<u64>::new());
}

#[test]
fn a_worker_that_forgets_what_it_knew_ends_no_series() {
    let registry = small(40);
    let worker = registry.worker();
    let begun = Instant::now();
    worker.record(&Record { called: called(1), ..http() });
    worker.tick(begun + Duration::from_secs(50));
    worker.record(&Record { called: called(1), ..http() });
    // More kinds of exchange than it remembers.
    (0..200).for_each(|index| worker.record(&Record { called: called(2), ..with(|http| http.status = index) }));
    worker.tick(begun + Duration::from_secs(70));
    assert_eq!(requests(&registry.families_at(begun + Duration::from_secs(70)), "s1.contact.mesh"), [2]);
}

#[test]
fn a_connection_that_is_open_keeps_its_series() {
    let registry = small(10);
    let worker = registry.worker();
    let begun = Instant::now();
    let opened = |seconds| {
        let families = registry.families_at(begun + Duration::from_secs(seconds));
        families.iter().find(|family| family.name == "istio_tcp_connections_opened_total").unwrap().samples.len()
    };
    let open = worker.opened(&tcp());
    for seconds in [61, 122, 183] {
        worker.tick(begun + Duration::from_secs(seconds));
        assert_eq!(opened(seconds), 1);
    }
    drop(open);
    worker.tick(begun + Duration::from_secs(250));
    assert_eq!(opened(250), 0);
}

#[test]
fn a_traced_request_is_the_example_of_its_bucket() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let workers = [registry.worker(), registry.worker()];
    let traced = |trace_id, sampled, milliseconds: u64| {
        let span = Span { context: SpanContext { trace_id, span_id: 0xb7ad, sampled }, ..Span::begin(None, 1.0, || 7) };
        Record { duration: Duration::from_millis(milliseconds), ..with(|http| http.span = Some(span)) }
    };
    workers[0].record(&traced(0xa, true, 12));
    workers[1].record(&traced(0xb, true, 13));
    workers[0].record(&traced(0xc, false, 14));
    workers[0].record(&traced(0xd, false, 700));
    let text = exposition::encode(registry.families(), Some(OPENMETRICS)).1.into_text();
    let bucket = |bound: &str| {
        let named =
            |line: &&str| line.starts_with("istio_request_duration_milliseconds_bucket") && line.contains(&format!("le=\"{bound}\""));
        text.lines().find(named).and_then(|line| line.split_once("} ")).unwrap().1
    };
    // The newest of those that were traced, whichever worker has it.
    assert_eq!(bucket("25.0"), "3 # {trace_id=\"0000000000000000000000000000000b\",span_id=\"000000000000b7ad\"} 13 1700000000.263");
    assert_eq!((bucket("10.0"), bucket("1000.0")), ("0", "4"));
    // The older form knows no examples.
    assert!(scrape(&registry, "istio_request_duration_milliseconds_bucket").iter().all(|line| !line.contains('#')));
}

#[test]
fn rules_of_one_route_are_one_series_and_what_no_route_decided_is_unknown() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let worker = registry.worker();
    let origin = |name: &str, rule| Origin {
        kind: "GRPCRoute".to_owned(),
        namespace: "contact".to_owned(),
        name: name.to_owned(),
        generation: u64::from(rule),
        rule,
        matched: 0,
    };
    for (name, rule) in [("agents", 0), ("agents", 1), ("desks", 0)] {
        worker.record(&Record { route: Some(Route::Rule(Arc::new(origin(name, rule)))), ..http() });
    }
    worker.record(&Record { route: None, ..http() });
    let lines = scrape(&registry, "istio_requests_total");
    let of = |name: &str| -> Vec<&str> {
        let label = format!("route_name=\"{name}\"");
        lines.iter().filter(|line| line.contains(&label)).map(|line| line.rsplit(' ').next().unwrap()).collect()
    };
    assert_eq!((of("agents"), of("desks"), of("unknown")), (vec!["2"], vec!["1"], vec!["1"]));
    assert!(lines.iter().all(|line| line.contains("route_kind=\"GRPCRoute\"") != line.contains("route_namespace=\"unknown\"")));
}

#[test]
fn values_that_somebody_made_up_break_no_page() {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let worker = registry.worker();
    let long = "x".repeat(10_000);
    for host in ["a\"} 1\nevil_total{x=\"", "a\\", "a\0", "b\r", &long, &format!("{long}y")] {
        let called = Called { fqdn: host.to_owned(), name: host.to_owned(), namespace: UNKNOWN.to_owned() };
        worker.record(&Record { called: Arc::new(called), ..http() });
    }
    let lines = scrape(&registry, "istio_requests_total");
    // The two long ones are one: their labels are the same as far as they go.
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line.starts_with("{reporter=") && line.len() < 4 * MAX_VALUE + 1000));
    assert!(scrape(&registry, "evil").is_empty());
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
