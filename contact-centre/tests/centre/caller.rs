//! The caller against the whole centre, and against one that fails.

use std::collections::BTreeMap;
use std::time::Duration;

use contact_centre::caller::{Config, run};
use contact_centre::report::Report;

use crate::harness::{Centre, LIMIT};

fn config(target: &str) -> Config {
    Config { target: target.parse().unwrap(), rate: 200.0, duration: Some(Duration::from_millis(500)), report: None, odd_every: 5 }
}

#[tokio::test]
async fn every_call_is_accounted_for() {
    let centre = Centre::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let config = Config { report: Some(path.clone()), ..config(&centre.call_routing.url()) };
    let report = run(config, std::future::pending()).await.unwrap();

    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.calls, report.answered);
    assert_eq!((report.recorded, report.counted), (report.calls, report.calls));
    assert_eq!(report.by_status, BTreeMap::from([("200".to_owned(), report.calls)]));
    assert!(report.p50_ms > 0.0 && report.p50_ms <= report.p99_ms);
    let written: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // Without the latencies: JSON does not carry every fraction exactly.
    let counts = |report: Report| Report { p50_ms: 0.0, p99_ms: 0.0, ..report };
    assert_eq!(counts(written), counts(report));
}

#[tokio::test]
async fn the_report_is_there_while_calls_go_on_and_a_signal_ends_them() {
    let centre = Centre::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let config = Config { report: Some(path.clone()), duration: None, ..config(&centre.call_routing.url()) };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(run(config, async move {
        let _ = stopped.await;
    }));
    let calls_so_far = async || loop {
        if let Ok(text) = std::fs::read(&path) {
            let report: Report = serde_json::from_slice(&text).expect("the file is never half written");
            if report.answered > 0 {
                break;
            }
        }
        tokio::task::yield_now().await;
    };
    tokio::time::timeout(LIMIT, calls_so_far()).await.expect("no report with calls");
    stop.send(()).unwrap();
    assert!(running.await.unwrap().unwrap().is_good());
}

#[tokio::test]
async fn failures_are_told() {
    let Centre { customer_history, call_routing, .. } = Centre::start().await;
    customer_history.stop().await;
    let report = run(config(&call_routing.url()), std::future::pending()).await.unwrap();
    assert!(!report.is_good());
    assert_eq!((report.answered, report.failed), (0, report.calls));
    assert_eq!(report.by_status, BTreeMap::from([("503".to_owned(), report.calls)]));
    assert!(report.first_failures.len() <= 20);
    let first = &report.first_failures[0];
    assert!(first.error.starts_with("answered 503 Service Unavailable: customer-history failed"), "{first:?}");
    assert!(first.at.ends_with('Z') && first.call >= 1, "{first:?}");
}

#[tokio::test]
async fn a_report_that_cannot_be_written_is_said_at_once() {
    let config = Config { report: Some("/nowhere/report.json".into()), ..config("http://127.0.0.1:1") };
    assert!(run(config, std::future::pending()).await.is_err());
}
