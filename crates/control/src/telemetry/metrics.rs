//! `/metrics` of the control plane: what happened in it, and how things stand. docs/metrics.md lists the families.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use lorica_observe::exposition::{self, Family, Kind, Labels, Sample, Value, build};
use lorica_observe::process;

use super::counts::{Counts, Durations, SECONDS};
use crate::ControlPlane;
use crate::ca::Ca;
use crate::mesh::figures::Figures;
use crate::store::StoreSize;

/// The name under which tools that know Istio look for a control plane's version.
const COMPONENT: &str = "pilot";

/// The page. Waits for the disk elsewhere than on the runtime's threads, as the store is asked for its size.
pub(crate) async fn page(State(control): State<Arc<ControlPlane>>, head: HeaderMap) -> Response {
    let store = control.store.clone();
    let size = match tokio::task::spawn_blocking(move || store.size()).await {
        Ok(Ok(size)) => Some(size),
        // The page is of use without it, and says by its absence that it could not be had.
        Ok(Err(error)) => {
            tracing::warn!(%error, "the size of the store cannot be told");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the size of the store cannot be told");
            None
        }
    };
    let mut families = vec![build(COMPONENT, env!("CARGO_PKG_VERSION"))];
    families.extend(happened(&control.mesh.counts));
    families.extend(stands(&control.mesh.figures()));
    families.extend(size.iter().flat_map(stored));
    families.extend(countdown(&control.ca, SystemTime::now()));
    families.extend(control.kept.families());
    families.extend(super::series::families(&control.series));
    families.extend(process::families());
    let accept = head.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, page) = exposition::encode(families, accept);
    ([(CONTENT_TYPE, kind)], page.into_text()).into_response()
}

/// What happened since it began.
fn happened(counts: &Counts) -> Vec<Family> {
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let Counts {
        publications,
        convergence,
        compiled,
        pushes,
        rejections,
        acknowledgements,
        sessions,
        sessions_refused,
        issued,
        not_issued,
        door,
    } = counts;
    let kinds = |name, help, of: &super::counts::OfKinds<AtomicU64>| {
        labelled(name, help, Kind::Counter, of.iter().map(|(kind, count)| (labels("kind", &kind.to_string()), Value::Counter(load(count)))))
    };
    let compile = compiled.iter().map(|(kind, took)| (labels("kind", &kind.to_string()), value(took)));
    let alone = |durations| [(Labels::none(), value(durations))];
    let results = |good: &AtomicU64, refused: &AtomicU64, word: &'static str| {
        [(word, load(good)), ("refused", load(refused))].map(|(word, count)| (labels("result", word), Value::Counter(count)))
    };
    vec![
        labelled(
            "lorica_control_publication_seconds",
            "What it took to give a publication to every session",
            Kind::Histogram,
            alone(publications),
        ),
        labelled(
            "lorica_control_convergence_seconds",
            "From a publication until everybody concerned had acknowledged it, refused it or gone",
            Kind::Histogram,
            alone(convergence),
        ),
        labelled("lorica_control_compile_seconds", "What it took to compile and encode what a session asked for", Kind::Histogram, compile),
        kinds("lorica_control_pushes_total", "Responses that sessions were sent, by kind of resource", pushes),
        kinds("lorica_control_rejections_total", "Resources that sessions refused (NACK), by kind", rejections),
        Family::counter("lorica_control_acknowledgements_total", "Publications that a session acknowledged", load(acknowledgements)),
        labelled(
            "lorica_control_sessions_begun_total",
            "Streams of xDS that began, by whether they were taken",
            Kind::Counter,
            results(sessions, sessions_refused, "taken"),
        ),
        labelled(
            "lorica_control_certificate_requests_total",
            "Requests of workloads for a certificate, by what became of them",
            Kind::Counter,
            results(issued, not_issued, "issued"),
        ),
        labelled(
            "lorica_control_door_refusals_total",
            "Connections of other hosts that were refused, by why",
            Kind::Counter,
            door.all().map(|(why, count)| (labels("reason", why), Value::Counter(load(count)))),
        ),
    ]
}

/// How the mesh stands.
fn stands(figures: &Figures) -> Vec<Family> {
    let Figures { sessions, subscriptions, publication, behind, resources, workloads, endpoints, services, held_back } = figures;
    #[allow(clippy::cast_precision_loss, reason = "fewer of them than a float can count")]
    let number = |count: &usize| *count as f64;
    let by = |name, help, label: &'static str, counts: &[(&'static str, usize)]| {
        labelled(name, help, Kind::Gauge, counts.iter().map(|(word, count)| (labels(label, word), Value::Gauge(number(count)))))
    };
    #[allow(clippy::cast_precision_loss, reason = "a number of a publication, shown")]
    let publication = *publication as f64;
    vec![
        by("lorica_control_sessions", "Streams of xDS that are open, by who speaks", "dialect", sessions),
        Family::gauge("lorica_control_subscriptions", "Names that sessions subscribe to", number(subscriptions)),
        Family::gauge("lorica_control_publication", "The number of the newest publication", publication),
        Family::gauge("lorica_control_publication_behind", "Whether something is about to be published", f64::from(u8::from(*behind))),
        by("lorica_control_resources", "Resources, by kind", "kind", resources),
        Family::gauge("lorica_control_services", "Services that are registered", number(services)),
        by("lorica_control_workloads", "Workloads that are registered, by how they stand", "state", workloads),
        Family::gauge("lorica_control_endpoints", "Ports of workloads that take calls", number(endpoints)),
        Family::gauge(
            "lorica_control_services_held_back",
            "Services whose endpoints are kept although all were lost at once",
            number(held_back),
        ),
    ]
}

/// How much is stored.
fn stored(size: &StoreSize) -> Vec<Family> {
    #[allow(clippy::cast_precision_loss, reason = "fewer of them than a float can count")]
    let number = |count: u64| count as f64;
    let records = size.records.iter().map(|(table, count)| (labels("table", table.word()), Value::Gauge(number(*count))));
    vec![
        Family::gauge("lorica_control_store_bytes", "Size of the store's file, in bytes", number(size.bytes)),
        labelled("lorica_control_store_records", "Records in the store, by table", Kind::Gauge, records),
    ]
}

/// What counts down. Names are those that proxies use for theirs.
fn countdown(ca: &Ca, now: SystemTime) -> [Family; 2] {
    let authority = ca.authority();
    // Whole seconds: alerts ask for days.
    #[allow(clippy::cast_precision_loss, reason = "fewer seconds than a float can count")]
    let left = |end: SystemTime| end.duration_since(now).unwrap_or_default().as_secs() as f64;
    let (root, intermediate) = (authority.root_end(), authority.intermediate_validity().1);
    [
        Family::gauge("lorica_root_expiry_seconds", "Seconds until the root that SVIDs come from expires", left(root)),
        Family::gauge("lorica_intermediate_expiry_seconds", "Seconds until the intermediate that signs expires", left(intermediate)),
    ]
}

fn labelled(name: &'static str, help: &'static str, kind: Kind, samples: impl IntoIterator<Item = (Labels, Value)>) -> Family {
    let samples = samples.into_iter().map(|(labels, value)| Sample { labels, value }).collect();
    Family { name, help, kind, samples }
}

fn labels(name: &str, value: &str) -> Labels {
    Labels::one(name, value)
}

fn value(durations: &Durations) -> Value {
    let (buckets, sum) = durations.read();
    Value::Histogram { bounds: &SECONDS, buckets, sum, exemplars: Vec::new() }
}
