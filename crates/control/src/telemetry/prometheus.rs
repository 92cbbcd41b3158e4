//! Prometheus' HTTP API, as far as Grafana and Kiali call it: `/api/v1/query`, `query_range`, `labels`, `label/NAME/values`, `series`,
//! `metadata` and `status/…`. Parameters come in the URL, or in the body of a POST as a form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lorica_observe::promql::{self, Answer, Query, QueryError};
use lorica_observe::series::{About, Found, Labels, Matcher, Sample, SelectError, SeriesStore, milliseconds};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::ControlPlane;

/// How many questions may be answered at once: each may take a thread and some hundred MiB. Others wait.
const AT_ONCE: usize = 4;
/// Whose questions are answered as this version of Prometheus answers them: clients choose by it what they ask.
const VERSION: &str = "2.42.0";
/// Once each ten seconds proxies tell their metrics.
const CONFIGURATION: &str = "global:\n  scrape_interval: 10s\n  scrape_timeout: 5s\n  evaluation_interval: 1m\n";

/// What answers.
#[derive(Clone)]
pub(crate) struct Questions {
    series: SeriesStore,
    room: Arc<Semaphore>,
    started: SystemTime,
}

impl Questions {
    pub(crate) fn new(series: SeriesStore, started: SystemTime) -> Self {
        Self { series, room: Arc::new(Semaphore::new(AT_ONCE)), started }
    }

    /// Asks the store, off the runtime's threads.
    pub(crate) async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&SeriesStore) -> T + Send + 'static) -> Result<T, Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "internal",
            message: error.to_string(),
        };
        let place = self.room.clone().acquire_owned().await.map_err(|error| internal(&error))?;
        let series = self.series.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // Held for as long as the thread works, also where nobody waits for it any more.
            let _place = place;
            ask(&series)
        });
        asked.await.map_err(|error| internal(&error))
    }
}

/// The routes.
pub(crate) fn router() -> Router<Arc<ControlPlane>> {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/status/config", get(async || success(&json!({ "yaml": CONFIGURATION }))))
        .route("/api/v1/status/runtimeinfo", get(runtime_information))
        .route("/api/v1/status/buildinfo", get(async || success(&build_information())))
}

/// Why there is no answer, as Prometheus says it.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    kind: &'static str,
    pub(crate) message: String,
}

impl Failure {
    fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", message: format!("invalid parameter {name:?}: {why}") }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        let (status, kind) = match &error {
            QueryError::Times(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            QueryError::Execution(_) | QueryError::Store(SelectError::TooMuch) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            QueryError::Store(SelectError::Disk(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self { status, kind, message: error.to_string() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.message });
        (self.status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

fn success(data: &Value) -> Response {
    written(format!("{{\"status\":\"success\",\"data\":{data}}}"))
}

fn written(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The parameters of a request, in their order.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(query: Option<&str>, body: &[u8]) -> Self {
        let text = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let body = String::from_utf8_lossy(body);
        let parts = query.unwrap_or_default().split('&').chain(body.split('&'));
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (text(name), text(value))
        };
        Self(parts.filter(|part| !part.is_empty()).map(pair).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// A time, in milliseconds since 1970.
    fn time(&self, name: &str, default: i64) -> Result<i64, Failure> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = text.parse::<f64>().ok().and_then(from_seconds);
        let date = || text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond());
        number.or_else(date).ok_or_else(|| Failure::parameter(name, format!("cannot parse {text:?} to a valid timestamp")))
    }

    fn needed_time(&self, name: &str) -> Result<i64, Failure> {
        match self.get(name) {
            Some(_) => self.time(name, 0),
            None => Err(Failure::parameter(name, "cannot parse \"\" to a valid timestamp")),
        }
    }

    /// A duration in milliseconds: seconds, or `1m30s`.
    fn duration(&self, name: &str) -> Result<i64, Failure> {
        let text = self.get(name).unwrap_or_default();
        let number = text.parse::<f64>().ok().and_then(from_seconds);
        number
            .or_else(|| promql::duration(text))
            .ok_or_else(|| Failure::parameter(name, format!("cannot parse {text:?} to a valid duration")))
    }

    /// What `match[]` chooses, each by itself; one that chooses all where there is none.
    fn selectors(&self) -> Result<Vec<Vec<Matcher>>, Failure> {
        let given = self.0.iter().filter(|(name, _)| name == "match[]");
        let read = given.map(|(name, text)| promql::selector(text).map_err(|error| Failure::parameter(name, error)));
        let selectors = read.collect::<Result<Vec<_>, _>>()?;
        Ok(if selectors.is_empty() { vec![Vec::new()] } else { selectors })
    }

    /// From and to.
    fn span(&self) -> Result<(i64, i64), Failure> {
        Ok((self.time("start", 0)?, self.time("end", i64::MAX)?))
    }
}

/// Seconds as milliseconds, if these can be.
#[allow(clippy::cast_possible_truncation, reason = "within the range of what a time may be")]
fn from_seconds(seconds: f64) -> Option<i64> {
    let milliseconds = (seconds * 1000.0).round();
    (milliseconds.abs() < 9e15).then_some(milliseconds as i64)
}

fn expression(parameters: &Parameters) -> Result<promql::Expression, Failure> {
    promql::parse(parameters.get("query").unwrap_or_default()).map_err(|error| Failure::parameter("query", error))
}

async fn answer(control: &ControlPlane, expression: promql::Expression, query: Query) -> Result<Response, Failure> {
    let answer = control.questions.ask(move |series| promql::evaluate(series, &expression, query).map(|answer| shown(&answer))).await??;
    Ok(written(answer))
}

async fn query(State(control): State<Arc<ControlPlane>>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let parameters = Parameters::of(query.as_deref(), &body);
    let at = parameters.time("time", milliseconds(SystemTime::now()))?;
    answer(&control, expression(&parameters)?, Query::At(at)).await
}

async fn query_range(State(control): State<Arc<ControlPlane>>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let parameters = Parameters::of(query.as_deref(), &body);
    let (start, end) = (parameters.needed_time("start")?, parameters.needed_time("end")?);
    let step = parameters.duration("step")?;
    answer(&control, expression(&parameters)?, Query::Over { start, end, step }).await
}

/// The labels of all series that are chosen.
async fn chosen(control: &ControlPlane, parameters: &Parameters) -> Result<BTreeSet<Labels>, Failure> {
    let ((from, to), selectors) = (parameters.span()?, parameters.selectors()?);
    control.questions.ask(move |series| selectors.iter().flat_map(|matchers| series.labels(matchers, from, to)).collect()).await
}

async fn labels(State(control): State<Arc<ControlPlane>>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let chosen = chosen(&control, &Parameters::of(query.as_deref(), &body)).await?;
    let names: BTreeSet<&str> = chosen.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
    Ok(success(&json!(names)))
}

async fn label_values(
    State(control): State<Arc<ControlPlane>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let message = format!("invalid label name: {name:?}");
        return Err(Failure { status: StatusCode::BAD_REQUEST, kind: "bad_data", message });
    }
    let chosen = chosen(&control, &Parameters::of(query.as_deref(), &[])).await?;
    let values: BTreeSet<&str> = chosen.iter().map(|labels| labels.get(&name)).filter(|value| !value.is_empty()).collect();
    Ok(success(&json!(values)))
}

async fn series(State(control): State<Arc<ControlPlane>>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let parameters = Parameters::of(query.as_deref(), &body);
    if parameters.get("match[]").is_none() {
        let message = "no match[] parameter provided".to_owned();
        return Err(Failure { status: StatusCode::BAD_REQUEST, kind: "bad_data", message });
    }
    let chosen = chosen(&control, &parameters).await?;
    let each = chosen.iter().map(|labels| labels.iter().collect::<BTreeMap<_, _>>()).collect::<Vec<_>>();
    Ok(success(&json!(each)))
}

async fn metadata(State(control): State<Arc<ControlPlane>>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let parameters = Parameters::of(query.as_deref(), &[]);
    let limit = match parameters.get("limit") {
        Some(text) => {
            let limit = text.parse::<i64>().map_err(|_| Failure::parameter("limit", format!("{text:?} is no number")))?;
            usize::try_from(limit).unwrap_or(usize::MAX)
        }
        None => usize::MAX,
    };
    let abouts = control.questions.ask(SeriesStore::abouts).await?;
    let wanted = abouts.iter().filter(|about| parameters.get("metric").is_none_or(|metric| metric == about.name));
    let entry = |About { name, kind, help }: &About| (name.clone(), json!([{ "type": kind, "help": help, "unit": "" }]));
    Ok(success(&Value::Object(wanted.take(limit).map(entry).collect())))
}

async fn runtime_information(State(control): State<Arc<ControlPlane>>) -> Response {
    let started = crate::timestamp(control.questions.started);
    success(&json!({
        "startTime": started,
        "CWD": "/",
        "reloadConfigSuccess": true,
        "lastConfigTime": started,
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": "1d or 256MiB",
    }))
}

fn build_information() -> Value {
    json!({
        "version": VERSION,
        "revision": concat!("lorica-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    })
}

/// An answer as JSON. Written by hand: there may be a million values.
fn shown(answer: &Answer) -> String {
    let mut text = String::with_capacity(4096);
    let kind = match answer {
        Answer::Scalar(_) => "scalar",
        Answer::Text(..) => "string",
        Answer::Vector(_) => "vector",
        Answer::Matrix(_) => "matrix",
    };
    // Writing to memory does not fail.
    let _: std::fmt::Result = write!(text, "{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":");
    match answer {
        Answer::Scalar(sample) => pair(&mut text, *sample),
        Answer::Text(at, value) => {
            let _: std::fmt::Result = write!(text, "[{},{}]", seconds(*at), json!(value));
        }
        Answer::Vector(vector) => list(&mut text, vector, |text, (labels, sample)| {
            metric(text, labels);
            text.push_str(",\"value\":");
            pair(text, *sample);
            text.push('}');
        }),
        Answer::Matrix(series) => list(&mut text, series, |text, Found { labels, samples }| {
            metric(text, labels);
            text.push_str(",\"values\":");
            list(text, samples, |text, sample| pair(text, *sample));
            text.push('}');
        }),
    }
    text.push_str("}}");
    text
}

fn list<T>(text: &mut String, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    text.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(text, item);
    }
    text.push(']');
}

fn metric(text: &mut String, labels: &Labels) {
    text.push_str("{\"metric\":{");
    for (index, (name, value)) in labels.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _: std::fmt::Result = write!(text, "{comma}{}:{}", json!(name), json!(value));
    }
    text.push('}');
}

fn pair(text: &mut String, Sample { at, value }: Sample) {
    let _: std::fmt::Result = match value {
        value if value.is_nan() => write!(text, "[{},\"NaN\"]", seconds(at)),
        value if value.is_infinite() => write!(text, "[{},\"{}Inf\"]", seconds(at), if value > 0.0 { '+' } else { '-' }),
        value => write!(text, "[{},\"{value}\"]", seconds(at)),
    };
}

/// Milliseconds as seconds, exactly.
fn seconds(at: i64) -> String {
    let (sign, at) = (if at < 0 { "-" } else { "" }, at.unsigned_abs());
    match at % 1000 {
        0 => format!("{sign}{}", at / 1000),
        rest => format!("{sign}{}.{rest:03}", at / 1000),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;

    #[test]
    fn answers_are_in_the_form_of_prometheus() {
        let labels = Labels::of(&[("__name__", "up"), ("job", "a\"b")]);
        let sample = |at, value| Sample { at, value };
        for (answer, expected) in [
            (Answer::Scalar(sample(1500, 1.5)), r#"{"resultType":"scalar","result":[1.500,"1.5"]}"#),
            (Answer::Text(2000, "x".to_owned()), r#"{"resultType":"string","result":[2,"x"]}"#),
            (
                Answer::Vector(vec![(labels, sample(1000, f64::NAN))]),
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a\"b"},"value":[1,"NaN"]}]}"#,
            ),
            (
                Answer::Matrix(vec![Found { labels: Labels::default(), samples: vec![sample(0, f64::NEG_INFINITY), sample(1, 2.0)] }]),
                r#"{"resultType":"matrix","result":[{"metric":{},"values":[[0,"-Inf"],[0.001,"2"]]}]}"#,
            ),
            (Answer::Vector(Vec::new()), r#"{"resultType":"vector","result":[]}"#),
        ] {
            let text = shown(&answer);
            assert_eq!(text, format!("{{\"status\":\"success\",\"data\":{expected}}}"));
            serde_json::from_str::<Value>(&text).unwrap();
        }
    }

    #[test]
    fn parameters_come_from_url_and_body() {
        let parameters =
            Parameters::of(Some("time=1.5&match[]=up&empty="), b"query=up%7Ba%3D%22b+c%22%7D&step=1m&match%5B%5D=b&raw={a=\"b\"}");
        assert_eq!(parameters.get("query"), Some("up{a=\"b c\"}"));
        assert_eq!(parameters.get("raw"), Some("{a=\"b\"}"));
        assert_eq!(parameters.time("time", 0).unwrap(), 1500);
        assert_eq!(parameters.time("none", 7).unwrap(), 7);
        assert_eq!(parameters.duration("step").unwrap(), 60_000);
        assert_eq!(parameters.selectors().unwrap().len(), 2);
        assert_eq!(parameters.get("empty"), None);
        let dated = Parameters::of(Some("time=2026-11-30T14:00:00.5Z&bad=never&step=0.5"), b"");
        assert_eq!(dated.time("time", 0).unwrap(), 1_796_047_200_500);
        assert_eq!(dated.duration("step").unwrap(), 500);
        assert!(dated.time("bad", 0).unwrap_err().message.contains("invalid parameter \"bad\""));
        assert!(dated.needed_time("start").is_err());
    }
}
