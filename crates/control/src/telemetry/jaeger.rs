//! Jaeger's query API, as its own page, Grafana and Kiali call it: `/api/services`, `/api/traces` and what is beside them.
//!
//! Services are named `NAME.NAMESPACE` where the namespace is known. Answers stand in Jaeger's envelope, errors, too. As at Jaeger, times are
//! microseconds since 1970 in queries and answers, and milliseconds where dependencies are asked for.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lorica_observe::jaeger;
use lorica_observe::store::filter::SpanFilter;
use serde_json::{Value, json};

use super::kept::Kept;

/// How many traces an answer has unless said otherwise: Jaeger's own.
const LIMIT: usize = 100;
/// The most traces of an answer.
const MAX_LIMIT: usize = 1500;
/// How far dependencies are looked back for unless said otherwise: Jaeger's own.
const LOOKBACK: Duration = Duration::from_secs(24 * 3600);

/// The routes.
pub(crate) fn router(kept: Arc<Kept>) -> Router {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(traces))
        .route("/api/traces/{id}", get(trace))
        .route("/api/dependencies", get(dependencies))
        .with_state(kept)
}

/// A query's words, as written.
type Words = Query<Vec<(String, String)>>;

/// Why there is no answer.
struct Failure(StatusCode, String);

impl Failure {
    fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("the store cannot be read: {error}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        let errors = json!([{"code": status.as_u16(), "msg": message}]);
        (status, Json(json!({"data": null, "total": 0, "limit": 0, "offset": 0, "errors": errors}))).into_response()
    }
}

fn answer(data: Vec<Value>) -> Json<Value> {
    Json(json!({"total": data.len(), "data": data, "limit": 0, "offset": 0, "errors": null}))
}

async fn services(State(kept): State<Arc<Kept>>) -> Result<Json<Value>, Failure> {
    let services = kept.search(|store| Ok(store.services())).await?;
    Ok(answer(services.into_iter().map(Value::from).collect()))
}

async fn operation_names(State(kept): State<Arc<Kept>>, Path(service): Path<String>) -> Result<Json<Value>, Failure> {
    let operations = kept.search(move |store| Ok(store.operations(&service))).await?;
    let names: BTreeSet<String> = operations.into_iter().map(|(name, _)| name).collect();
    Ok(answer(names.into_iter().map(Value::from).collect()))
}

async fn operations(State(kept): State<Arc<Kept>>, Query(words): Words) -> Result<Json<Value>, Failure> {
    let word = |key: &str| words.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).filter(|value| !value.is_empty());
    let service = word("service").ok_or_else(|| Failure::bad("parameter 'service' is required"))?;
    let kind = word("spanKind");
    let operations = kept.search(move |store| Ok(store.operations(&service))).await?;
    let wanted = operations.into_iter().map(|(name, number)| (name, jaeger::kind(number)));
    let wanted = wanted.filter(|(_, word)| kind.as_deref().is_none_or(|kind| kind == *word));
    Ok(answer(wanted.map(|(name, kind)| json!({"name": name, "spanKind": kind})).collect()))
}

async fn traces(State(kept): State<Arc<Kept>>, Query(words): Words) -> Result<Json<Value>, Failure> {
    let wanted = Wanted::read(&words, SystemTime::now()).map_err(Failure::bad)?;
    let found = kept
        .search(move |store| {
            if wanted.ids.is_empty() {
                return Ok(store.traces(&wanted.filter, None, wanted.limit)?.traces);
            }
            let each = wanted.ids.iter().filter_map(|id| store.trace(*id).transpose());
            each.collect()
        })
        .await?;
    Ok(answer(found.iter().map(jaeger::trace).collect()))
}

async fn trace(State(kept): State<Arc<Kept>>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    let id = trace_id(&id).map_err(Failure::bad)?;
    let found = kept.search(move |store| store.trace(id)).await?;
    let found = found.ok_or_else(|| Failure(StatusCode::NOT_FOUND, "trace not found".to_owned()))?;
    Ok(answer(vec![jaeger::trace(&found)]))
}

async fn dependencies(State(kept): State<Arc<Kept>>, Query(words): Words) -> Result<Json<Value>, Failure> {
    let number = |key: &str| match words.iter().find(|(name, _)| name == key) {
        Some((_, text)) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Failure::bad(format!("unable to parse param '{key}': `{text}` is no number of milliseconds"))),
        None => Ok(None),
    };
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end = number("endTs")?.map_or_else(now, Duration::from_millis);
    let lookback = number("lookback")?.map_or(LOOKBACK, Duration::from_millis);
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (from, to) = (nanoseconds(end.saturating_sub(lookback)), nanoseconds(end));
    let edges = kept.search(move |store| store.dependencies(from, to)).await?;
    let one = |((parent, child), calls)| json!({"parent": parent, "child": child, "callCount": calls});
    Ok(answer(edges.into_iter().map(one).collect()))
}

/// What a query for traces asks for.
#[derive(Debug, Default)]
struct Wanted {
    filter: SpanFilter,
    ids: Vec<u128>,
    limit: usize,
}

impl Wanted {
    /// Reads a query. What is empty counts as not said, as in what Jaeger's page sends.
    fn read(words: &[(String, String)], now: SystemTime) -> Result<Self, String> {
        let mut wanted = Self { limit: LIMIT, ..Self::default() };
        let (mut service, mut lookback) = (false, None);
        let filter = &mut wanted.filter;
        for (key, value) in words.iter().filter(|(_, value)| !value.is_empty()) {
            let unreadable = |what: &str| format!("unable to parse param '{key}': `{value}` is no {what}");
            let microseconds = || value.parse::<u64>().map_err(|_| unreadable("number of microseconds"));
            match key.as_str() {
                "service" => {
                    filter.service = Some(value.clone());
                    service = true;
                }
                "operation" if value != "all" => filter.operation = Some(value.clone()),
                "start" => filter.from = Some(microseconds()?.saturating_mul(1000)),
                "end" => filter.to = Some(microseconds()?.saturating_mul(1000).saturating_add(999)),
                // Whoever asks has made a begin of it already, or says `custom`.
                "lookback" => lookback = duration(value),
                "minDuration" => filter.shortest = Some(duration(value).ok_or_else(|| unreadable("time: write 1.2s, 100ms, 500us"))?),
                "maxDuration" => filter.longest = Some(duration(value).ok_or_else(|| unreadable("time: write 1.2s, 100ms, 500us"))?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| unreadable("number of traces"))?;
                    wanted.limit = MAX_LIMIT.min(limit);
                }
                "traceID" => wanted.ids.push(trace_id(value)?),
                "tags" => {
                    let tags: serde_json::Map<String, Value> =
                        serde_json::from_str(value).map_err(|_| unreadable("map of texts in JSON, as {\"http.method\":\"GET\"}"))?;
                    for (key, value) in &tags {
                        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        jaeger::tag(filter, key, &text);
                    }
                }
                "tag" => {
                    let (key, value) = value.split_once(':').ok_or_else(|| unreadable("tag: write KEY:VALUE"))?;
                    jaeger::tag(filter, key, value);
                }
                _ => {}
            }
        }
        if let (None, Some(lookback)) = (filter.from, lookback) {
            let from = now.checked_sub(lookback).and_then(|from| from.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
            filter.from = Some(u64::try_from(from.as_nanos()).unwrap_or(u64::MAX));
        }
        wanted.ids.truncate(MAX_LIMIT);
        if service || !wanted.ids.is_empty() { Ok(wanted) } else { Err("parameter 'service' is required".to_owned()) }
    }
}

/// An id of a trace: up to 32 hexadecimal digits; zeros in front may be left out.
pub(crate) fn trace_id(text: &str) -> Result<u128, String> {
    let digits = text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|id| digits && *id != 0);
    id.ok_or_else(|| format!("`{text}` is no trace id"))
}

/// A time as Go writes it: `1h30m`, `1.5s`, `100ms`, `250us`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let length = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, behind) = unit.split_at(length);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            // Jaeger's page offers days.
            "d" => 86_400.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * scale;
        rest = behind;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(sum).ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<Wanted, String> {
        let words: Vec<(String, String)> = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Wanted::read(&words, SystemTime::UNIX_EPOCH + Duration::from_secs(10_000))
    }

    #[test]
    fn a_query_reads_as_jaegers_page_writes_it() {
        let query = [
            ("service", "web.shop"),
            ("operation", "GET"),
            ("start", "1000"),
            ("end", "2000"),
            ("lookback", "1h"),
            ("minDuration", "1.5ms"),
            ("maxDuration", ""),
            ("limit", "20"),
            ("tags", r#"{"http.method":"GET","error":"true","span.kind":"server","retries":2}"#),
            ("tag", "a:b:c"),
        ];
        let wanted = read(&query).unwrap();
        let filter = wanted.filter;
        assert_eq!((filter.service.as_deref(), filter.operation.as_deref()), (Some("web.shop"), Some("GET")));
        assert_eq!((filter.from, filter.to), (Some(1_000_000), Some(2_000_999)));
        assert_eq!((filter.shortest, filter.longest), (Some(Duration::from_micros(1500)), None));
        assert_eq!((filter.failed, filter.kind, filter.conditions.len(), wanted.limit), (Some(true), Some(2), 3, 20));
        let since = read(&[("service", "a"), ("lookback", "1h"), ("operation", "all")]).unwrap();
        assert_eq!((since.filter.from, since.filter.operation), (Some(6_400_000_000_000), None));
        assert_eq!(read(&[("traceID", "1"), ("traceID", "ff")]).unwrap().ids, [1, 255]);
        for (query, expected) in [
            (vec![], "parameter 'service' is required"),
            (vec![("service", "a"), ("start", "x")], "unable to parse param 'start': `x` is no number of microseconds"),
            (vec![("service", "a"), ("limit", "0")], "unable to parse param 'limit': `0` is no number of traces"),
            (vec![("service", "a"), ("minDuration", "5")], "unable to parse param 'minDuration': `5` is no time: write 1.2s, 100ms, 500us"),
            (vec![("service", "a"), ("tag", "x")], "unable to parse param 'tag': `x` is no tag: write KEY:VALUE"),
            (
                vec![("service", "a"), ("tags", "x")],
                "unable to parse param 'tags': `x` is no map of texts in JSON, as {\"http.method\":\"GET\"}",
            ),
            (vec![("traceID", "xyz")], "`xyz` is no trace id"),
        ] {
            assert_eq!(read(&query).unwrap_err(), expected);
        }
    }

    #[test]
    fn times_read_as_go_writes_them() {
        for (text, expected) in [
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("250us", Some(Duration::from_micros(250))),
            ("250µs", Some(Duration::from_micros(250))),
            ("2d", Some(Duration::from_secs(172_800))),
            ("custom", None),
            ("5", None),
            ("", None),
            ("1e400h", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
