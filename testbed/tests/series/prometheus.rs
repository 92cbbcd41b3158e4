//! A real Prometheus that has the same samples, and the answers of both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Mesh, PATIENCE, Peer, Port, Running, eventually, http_get, left_out, peer};

use crate::chance::Questions;
use crate::encoded;
use crate::otlp::{Point, tell};

/// How often samples come, in milliseconds.
const PACE: i64 = 10_000;
/// How many there are of a series: an hour of them.
const SAMPLES: i64 = 360;

/// Questions as dashboards ask them: Istio's, Kiali's, Grafana's.
const TABLE: &[&str] = &[
    "up",
    "calls_total",
    "calls_total{code=\"200\"}",
    "calls_total{code!=\"200\",app=~\"a|b\"}",
    "calls_total{app!~\"a.*\"}",
    "{__name__=~\"calls.*|load\",app=\"a\"}",
    "calls_total{none=\"\"}",
    "calls_total offset 7m",
    "load offset -3m",
    "rate(calls_total[1m])",
    "rate(calls_total[5m])",
    "rate(calls_total[5m] offset 10m)",
    "rate(calls_total[15s])",
    "irate(calls_total[1m])",
    "increase(calls_total[10m])",
    "delta(load[5m])",
    "idelta(load[1m])",
    "resets(calls_total[1h])",
    "changes(load[10m])",
    "sum(rate(calls_total[1m]))",
    "sum by (app) (rate(calls_total{code=~\"5.*\"}[5m]))",
    "sum(rate(calls_total[5m])) by (app, code)",
    "sum without (code) (rate(calls_total[5m]))",
    "avg(load)",
    "avg by (app) (load)",
    "min(load) by (app)",
    "max without (app) (load)",
    "count(calls_total)",
    "count by (code) (calls_total > 100)",
    "group by (app) (calls_total)",
    "stddev(load)",
    "stdvar by (app) (load)",
    "quantile(0.9, load)",
    "quantile by (app) (0.25, load)",
    "topk(2, load)",
    "bottomk(1, load) by (app)",
    "topk(0, load)",
    "histogram_quantile(0.5, sum(rate(took_bucket[1m])) by (le))",
    "histogram_quantile(0.99, sum(rate(took_bucket[5m])) by (app, le))",
    "histogram_quantile(0.95, rate(took_bucket[5m]))",
    "histogram_quantile(0, sum by (le) (rate(took_bucket[5m])))",
    "histogram_quantile(1, sum by (le) (rate(took_bucket[5m])))",
    "histogram_quantile(2, sum by (le) (rate(took_bucket[5m])))",
    "histogram_quantile(-1, sum by (le) (rate(took_bucket[5m])))",
    "histogram_quantile(0.5, load)",
    "sum(rate(took_sum[5m])) by (app) / sum(rate(took_count[5m])) by (app)",
    "sum(rate(calls_total{code!~\"5.*\"}[1m])) / sum(rate(calls_total[1m]))",
    "sum(rate(calls_total{code=\"503\"}[5m])) by (app) / ignoring(code) sum(rate(calls_total[5m])) by (app)",
    "rate(calls_total[5m]) / on(app) group_left sum by (app) (rate(calls_total[5m]))",
    "rate(calls_total[5m]) * on(app) group_left(zone) about",
    "about * on(app) group_right(zone) rate(calls_total[5m])",
    "calls_total / ignoring(code) group_left load",
    "calls_total / load",
    "calls_total - calls_total offset 1m",
    "calls_total / on(app) load",
    "calls_total and on(app) load{app=\"a\"}",
    "calls_total unless on(app) load{app=\"a\"}",
    "load or calls_total",
    "load{app=\"a\"} or on(app) load",
    "calls_total > 500",
    "calls_total > bool 500",
    "500 < calls_total",
    "100 <= bool calls_total",
    "load > calls_total",
    "load == load",
    "load != bool load",
    "-load",
    "-(load + 1) ^ 2",
    "2 ^ 3 ^ 2",
    "-2 ^ 2",
    "load % 7",
    "1 / 0 * load",
    "load atan2 2",
    "1 > bool 2",
    "1 + 2 * 3 - 4 / 5",
    "0x1F + 1e3 + .5",
    "round(sum(irate(calls_total[1m])), 0.001)",
    "round(sum(rate(calls_total[1m])) by (app), 0.001) > 0.001 or sum(rate(calls_total[1m])) by (app)",
    "round(load)",
    "clamp_min(load, 0)",
    "clamp_max(load, 10)",
    "clamp(load, -5, 5)",
    "clamp(load, 5, -5)",
    "abs(load)",
    "ceil(load)",
    "floor(load)",
    "sgn(load)",
    "sqrt(load)",
    "exp(load / 100)",
    "ln(calls_total)",
    "log2(calls_total)",
    "log10(calls_total)",
    "absent(load)",
    "absent(none)",
    "absent(none{app=\"a\",code=~\"2.*\",x=\"1\",x=\"2\"})",
    "absent(sum(none))",
    "absent_over_time(none{app=\"a\"}[5m])",
    "scalar(sum(load))",
    "scalar(load)",
    "vector(1)",
    "vector(scalar(count(load)))",
    "time()",
    "time() - timestamp(load)",
    "timestamp(load + 1)",
    "label_replace(load, \"new\", \"$1-x\", \"app\", \"(.)\")",
    "label_replace(load, \"app\", \"\", \"app\", \"a\")",
    "label_replace(load, \"new\", \"${first}\", \"app\", \"(?P<first>.).*\")",
    "label_replace(load, \"zone\", \"same\", \"none\", \"\")",
    "label_join(calls_total, \"both\", \"-\", \"app\", \"code\")",
    "sum by (both) (label_join(calls_total, \"both\", \"~.\", \"app\", \"code\"))",
    "avg_over_time(load[5m])",
    "sum_over_time(load[5m])",
    "min_over_time(load[5m])",
    "max_over_time(load[5m])",
    "count_over_time(load[5m])",
    "last_over_time(load[5m])",
    "present_over_time(load[5m])",
    "stddev_over_time(load[5m])",
    "stdvar_over_time(load[5m])",
    "quantile_over_time(0.3, load[5m])",
    "max_over_time(rate(calls_total[1m])[10m:30s])",
    "avg_over_time(sum(load)[10m:])",
    "rate(calls_total[5m:10s])",
    "sum_over_time(vector(1)[5m:1m])",
    "max_over_time(time()[5m:1m] offset 2m)",
    "max_over_time(vector(time())[5m:1m] offset 2m)",
    "none * on(app) calls_total",
    "calls_total * on(app) none",
    "max(load) - (max(none) or max(up * 0))",
    "sum(calls_total) by (app) > 1000 and count by (app) (load) < 10",
    "sort(load)",
    "sort_desc(load)",
    "sum(calls_total{app=\"none\"})",
    "rate(none[5m])",
    // What is wrong is wrong in both.
    "sum(",
    "load[5m",
    "rate(load)",
    "sum(load[5m])",
    "load + load[5m]",
    "unknown_function(load)",
    "1 > 2",
    "{app=~\".*\"}",
    "{}",
    "load{app=~\"(\"}",
    "\"a\" + 1",
    "load and 1",
    "topk(load, load)",
    "label_replace(load, \"0\", \"\", \"app\", \".*\")",
    "label_replace(load, \"app\", \"x\", \"app\", \".*\")",
    "label_replace(load, \"x\", \"x\", \"app\", \"(\")",
    "calls_total * on(app) group_left about * on(app) about",
    "load * on(zone) about",
    "calls_total + on(app) calls_total",
    "{app=\"a\"} + 1",
    "abs({__name__=~\"load|about\",app=\"a\"})",
];

/// Samples of an hour until now: counters that begin anew and miss samples, gauges, a histogram, and what is known of apps.
fn samples(end: i64) -> Vec<Point> {
    let mut random = fastrand::Rng::with_seed(11);
    let mut points = Vec::new();
    let begin = end - SAMPLES * PACE;
    for (number, app) in ["a", "b", "ab"].iter().enumerate() {
        let of = |more: &[(&'static str, &str)]| {
            let mut labels = vec![("app", (*app).to_owned())];
            labels.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
            labels
        };
        let (mut calls, mut buckets, mut sum) = ([0.0; 3], [0.0; 4], 0.0);
        for step in 0..SAMPLES {
            // No time is one that is asked about.
            let at = begin + step * PACE + 137 + random.i64(0..400);
            let mut add = |name, labels, value| points.push(Point { name, labels, at, value });
            if step % 97 == 60 + number as i64 {
                calls = [0.0; 3];
            }
            for (count, code) in calls.iter_mut().zip(["200", "404", "503"]) {
                *count += f64::from(random.u8(0..40));
                // Some are missed, and one ends.
                if random.u8(0..10) > 0 && !(code == "404" && step > 200 && number == 1) {
                    add("calls_total", of(&[("code", code)]), *count);
                }
            }
            for bucket in &mut buckets {
                let more = f64::from(random.u8(0..9));
                *bucket += more;
                sum += more * 3.7;
            }
            let mut count = 0.0;
            for (bucket, bound) in buckets.iter().zip(["1", "2.5", "10", "+Inf"]) {
                count += bucket;
                add("took_bucket", of(&[("le", bound)]), count);
            }
            add("took_sum", of(&[]), sum);
            add("took_count", of(&[]), count);
            if random.u8(0..20) > 0 {
                add("load", of(&[]), (random.f64() - 0.4) * 50.0);
            }
            add("about", of(&[("zone", ["x", "y", "x"][number])]), 1.0);
            add("up", of(&[("job", "test"), ("instance", app)]), 1.0);
        }
    }
    points.sort_by_key(|point| point.at);
    points
}

/// As OpenMetrics has it, from which Prometheus' tool makes its own files.
fn openmetrics(points: &[Point]) -> String {
    let mut text = String::new();
    for Point { name, labels, at, value } in points {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        writeln!(text, "{name}{{{}}} {value} {}.{:03}", labels.join(","), at / 1000, at % 1000).unwrap();
    }
    text + "# EOF\n"
}

/// Prometheus, running.
struct Prometheus {
    port: Port,
    _running: Running,
}

impl Prometheus {
    async fn start(mesh: &Mesh, points: &[Point]) -> anyhow::Result<Self> {
        let (program, tool) = (peer(Peer::Prometheus).map_err(anyhow::Error::msg)?, peer(Peer::Promtool).map_err(anyhow::Error::msg)?);
        let (given, store) = (mesh.write("samples.om", openmetrics(points))?, mesh.home().join("prometheus"));
        let made = Command::new(tool).args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&given).arg(&store).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (config, port) = (mesh.write("prometheus.yaml", "global: {}\n")?, Port::free()?);
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", store.display()),
            format!("--web.listen-address={}", port.address()),
        ];
        let running = mesh.start_outside(program, arguments)?;
        let prometheus = Self { port, _running: running };
        eventually("Prometheus is ready", PATIENCE, || async {
            let reply = http_get(prometheus.port.address(), "prometheus", "/-/ready").await?;
            ensure!(reply.status == 200, "{}", reply.text());
            Ok(())
        })
        .await?;
        Ok(prometheus)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        http_get(self.port.address(), "prometheus", path).await?.json()
    }
}

/// An answer as what can be compared: series by their labels, with values by their times.
#[derive(Debug, PartialEq)]
enum Answered {
    Series(String, BTreeMap<String, Vec<(f64, f64)>>),
    Refused(String),
}

fn read(answer: &Value) -> anyhow::Result<Answered> {
    if answer["status"] == "error" {
        return Ok(Answered::Refused(answer["errorType"].as_str().context("no errorType")?.to_owned()));
    }
    let data = &answer["data"];
    let kind = data["resultType"].as_str().context("no resultType")?.to_owned();
    let pair = |pair: &Value| -> anyhow::Result<(f64, f64)> {
        let value = pair[1].as_str().context("no value")?;
        let value = value.parse().with_context(|| value.to_owned())?;
        Ok((pair[0].as_f64().context("no time")?, value))
    };
    let mut series = BTreeMap::new();
    if kind == "scalar" {
        series.insert(String::new(), vec![pair(&data["result"])?]);
        return Ok(Answered::Series(kind, series));
    }
    for one in data["result"].as_array().context("no result")? {
        let values = match one["values"].as_array() {
            Some(values) => values.iter().map(pair).collect::<anyhow::Result<_>>()?,
            None => vec![pair(&one["value"])?],
        };
        ensure!(series.insert(one["metric"].to_string(), values).is_none(), "twice: {}", one["metric"]);
    }
    Ok(Answered::Series(kind, series))
}

/// Whether both are the same but for what rounding makes of sums in another order.
fn same(ours: &Answered, theirs: &Answered) -> bool {
    let close = |one: f64, other: f64| {
        one == other || (one.is_nan() && other.is_nan()) || (one - other).abs() <= 1e-9 * one.abs().max(other.abs()) + 1e-6
    };
    match (ours, theirs) {
        (Answered::Refused(ours), Answered::Refused(theirs)) => ours == theirs,
        (Answered::Series(kind, ours), Answered::Series(other, theirs)) => {
            let alike = |ours: &[(f64, f64)], theirs: &[(f64, f64)]| {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(one, other)| one.0 == other.0 && close(one.1, other.1))
            };
            kind == other && ours.keys().eq(theirs.keys()) && ours.values().zip(theirs.values()).all(|(ours, theirs)| alike(ours, theirs))
        }
        _ => false,
    }
}

/// Asks both, at once and over a time. What differs.
async fn compare(mesh: &Mesh, prometheus: &Prometheus, query: &str, end: i64) -> anyhow::Result<Vec<String>> {
    let query_text = encoded(query);
    let (at, start) = (end / 1000 - 60, end / 1000 - 2400);
    let mut differences = Vec::new();
    for path in [
        format!("/api/v1/query?query={query_text}&time={at}"),
        format!("/api/v1/query_range?query={query_text}&start={start}&end={at}&step=75"),
    ] {
        let ours = crate::get(&mesh.socket(), &path).await?.1;
        let theirs = prometheus.get(&path).await?;
        if !same(&read(&ours)?, &read(&theirs)?) {
            let short = |answer: &Value| answer.to_string().chars().take(600).collect::<String>();
            differences.push(format!("{query} ({path})\n   ours: {}\n theirs: {}", short(&ours), short(&theirs)));
        }
    }
    Ok(differences)
}

#[tokio::test]
async fn questions_are_answered_as_prometheus_answers_them() -> anyhow::Result<()> {
    for needed in [Peer::Prometheus, Peer::Promtool] {
        if let Err(why) = peer(needed) {
            left_out(&format!("answers beside those of Prometheus: {why}"));
            return Ok(());
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let end = i64::try_from(now.as_secs())? / 10 * 10_000;
    let points = samples(end);
    let mesh = Mesh::start().await?;
    assert_eq!(tell(&mesh.socket(), &points).await?, None);
    let prometheus = Prometheus::start(&mesh, &points).await?;
    let mut differences = Vec::new();
    for query in TABLE {
        differences.extend(compare(&mesh, &prometheus, query, end).await?);
    }
    let mut made = Questions::new(fastrand::Rng::with_seed(29));
    for _ in 0..600 {
        differences.extend(compare(&mesh, &prometheus, &made.next(), end).await?);
    }
    assert!(differences.is_empty(), "{} answers differ:\n{}", differences.len(), differences.join("\n"));

    // What is there, and what it is called.
    for path in ["labels", "label/app/values", "label/__name__/values", "series?match[]=load&match[]=calls_total%7Bcode%3D%22200%22%7D"] {
        let path = format!("/api/v1/{path}");
        let (ours, theirs) = (crate::get(&mesh.socket(), &path).await?.1, prometheus.get(&path).await?);
        let all = |answer: &Value| {
            let mut all: Vec<String> = answer["data"].as_array().unwrap().iter().map(ToString::to_string).collect();
            all.sort();
            all
        };
        assert_eq!(all(&ours), all(&theirs), "{path}");
    }
    drop(prometheus);
    mesh.finish().await
}
