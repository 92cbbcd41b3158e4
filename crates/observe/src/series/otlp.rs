//! OTLP metrics as samples, named as OpenTelemetry's specification tells how to name them for Prometheus. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, DataPointFlags, HistogramDataPoint, Metric, NumberDataPoint};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::labels::NAME;
use super::{About, Incoming, Part, STALE, Taken};

/// The most labels of a series.
const MAX_LABELS: usize = 100;
/// The longest value of a label, in bytes.
const MAX_VALUE: usize = 4096;
/// The most buckets of a histogram.
const MAX_BUCKETS: usize = 1000;

/// What a message holds.
#[derive(Debug, Default, PartialEq)]
pub struct Intake {
    /// Its samples.
    pub incoming: Vec<Incoming>,
    /// What it says of families.
    pub abouts: Vec<About>,
    /// How many of its points are none that can be kept.
    pub rejected: u64,
    /// Why, of the first of them.
    pub why: Option<String>,
}

impl Intake {
    fn reject(&mut self, points: usize, why: impl FnOnce() -> String) {
        self.rejected += points as u64;
        if points > 0 && self.why.is_none() {
            self.why = Some(why());
        }
    }
}

/// What the sender is told of what was not taken.
#[must_use]
pub fn partial_success(rejected: u64, why: Option<String>, taken: Taken) -> Option<ExportMetricsPartialSuccess> {
    let Taken { samples: _, late, untimely, no_room } = taken;
    let all = rejected + late + untimely + no_room;
    let why = why.or_else(|| {
        let reasons = [
            (late, "their series has newer samples"),
            (untimely, "their time is older than what is kept, or in the future"),
            (no_room, "there are as many series as are kept"),
        ];
        reasons.iter().find(|(count, _)| *count > 0).map(|(_, why)| (*why).to_owned())
    });
    why.map(|error_message| ExportMetricsPartialSuccess { rejected_data_points: i64::try_from(all).unwrap_or(i64::MAX), error_message })
}

/// The value of a text among the attributes of a resource.
#[must_use]
pub fn attribute<'r>(resource: &'r Resource, name: &str) -> Option<&'r str> {
    let found = resource.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The samples of a message. `now` is the time of points that have none, in milliseconds.
#[must_use]
pub fn read(request: &ExportMetricsServiceRequest, now: i64) -> Intake {
    let mut intake = Intake::default();
    for of_resource in &request.resource_metrics {
        let base = of_resource.resource.as_ref().map(identity).unwrap_or_default();
        for metric in of_resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            read_metric(&mut intake, &base, metric, now);
        }
    }
    intake
}

/// Who tells: Prometheus' `job` and `instance`.
fn identity(resource: &Resource) -> Vec<(String, String)> {
    let service = attribute(resource, "service.name").unwrap_or_default();
    let job = match attribute(resource, "service.namespace").filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{namespace}/{service}"),
        None => service.to_owned(),
    };
    let instance = attribute(resource, "service.instance.id").unwrap_or_default();
    [("job", job), ("instance", instance.to_owned())].into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn read_metric(intake: &mut Intake, base: &[(String, String)], metric: &Metric, now: i64) {
    let cumulative = |temporality: i32| temporality == AggregationTemporality::Cumulative as i32;
    let is_delta = || {
        format!("`{}` tells differences; only totals are taken (OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative)", metric.name)
    };
    let (kind, name) = match &metric.data {
        Some(Data::Gauge(_)) => ("gauge", family(metric, false)),
        Some(Data::Sum(sum)) if sum.is_monotonic => ("counter", family(metric, true)),
        Some(Data::Sum(_)) => ("gauge", family(metric, false)),
        Some(Data::Histogram(_)) => ("histogram", family(metric, false)),
        Some(Data::Summary(_)) => ("summary", family(metric, false)),
        Some(Data::ExponentialHistogram(histogram)) => {
            let why = || format!("`{}` is an exponential histogram; only those with explicit bounds are taken", metric.name);
            return intake.reject(histogram.data_points.len(), why);
        }
        None => return,
    };
    let before = intake.incoming.len();
    match &metric.data {
        Some(Data::Sum(sum)) if !cumulative(sum.aggregation_temporality) => intake.reject(sum.data_points.len(), is_delta),
        Some(Data::Histogram(histogram)) if !cumulative(histogram.aggregation_temporality) => {
            intake.reject(histogram.data_points.len(), is_delta);
        }
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().for_each(|point| read_number(intake, base, &name, point, false, now)),
        Some(Data::Sum(sum)) => {
            sum.data_points.iter().for_each(|point| read_number(intake, base, &name, point, sum.is_monotonic, now));
        }
        Some(Data::Histogram(histogram)) => histogram.data_points.iter().for_each(|point| read_histogram(intake, base, &name, point, now)),
        Some(Data::Summary(summary)) => {
            for point in &summary.data_points {
                let quantiles = point.quantile_values.iter().take(MAX_BUCKETS);
                let quantiles =
                    quantiles.map(|value| (name.clone(), Some(("quantile", value.quantile.to_string())), value.value)).collect::<Vec<_>>();
                #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
                let totals = [(format!("{name}_sum"), None, point.sum), (format!("{name}_count"), None, point.count as f64)];
                let times = (point.time_unix_nano, 0);
                push(intake, base, &point.attributes, times, point.flags, quantiles.into_iter().chain(totals), now);
            }
        }
        Some(Data::ExponentialHistogram(_)) | None => {}
    }
    if intake.incoming.len() > before {
        intake.abouts.push(About { name, kind: kind.to_owned(), help: shortened(&metric.description) });
    }
}

fn read_number(intake: &mut Intake, base: &[(String, String)], name: &str, point: &NumberDataPoint, counts: bool, now: i64) {
    #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
    let value = match point.value {
        Some(Number::AsDouble(value)) => value,
        Some(Number::AsInt(value)) => value as f64,
        None => STALE,
    };
    let start = if counts { point.start_time_unix_nano } else { 0 };
    push(intake, base, &point.attributes, (point.time_unix_nano, start), point.flags, [(name.to_owned(), None, value)], now);
}

fn read_histogram(intake: &mut Intake, base: &[(String, String)], name: &str, point: &HistogramDataPoint, now: i64) {
    let HistogramDataPoint { bucket_counts, explicit_bounds, .. } = point;
    let fits = bucket_counts.is_empty() || bucket_counts.len() == explicit_bounds.len() + 1;
    if !fits || bucket_counts.len() > MAX_BUCKETS || !explicit_bounds.is_sorted_by(|one, other| one < other) {
        return intake.reject(1, || format!("`{name}` is a histogram whose buckets do not go with its bounds"));
    }
    let mut samples = Vec::with_capacity(bucket_counts.len() + 2);
    let mut count = 0_u64;
    #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
    for (index, bucket) in bucket_counts.iter().enumerate() {
        count = count.saturating_add(*bucket);
        let bound = explicit_bounds.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
        samples.push((format!("{name}_bucket"), Some(("le", bound)), count as f64));
    }
    #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
    samples.push((format!("{name}_count"), None, point.count as f64));
    samples.extend(point.sum.map(|sum| (format!("{name}_sum"), None, sum)));
    push(intake, base, &point.attributes, (point.time_unix_nano, point.start_time_unix_nano), point.flags, samples, now);
}

/// A point's samples: each with its name, the label that is only its own, and its value.
fn push(
    intake: &mut Intake,
    base: &[(String, String)],
    attributes: &[KeyValue],
    (time, start): (u64, u64),
    flags: u32,
    samples: impl IntoIterator<Item = (String, Option<(&'static str, String)>, f64)>,
    now: i64,
) {
    let samples: Vec<_> = samples.into_iter().collect();
    let own = samples.iter().find_map(|(_, label, _)| label.as_ref().map(|(name, _)| *name));
    let mut labels: BTreeMap<Cow<'_, str>, Cow<'_, str>> = BTreeMap::new();
    for KeyValue { key, value, .. } in attributes {
        let name = label_name(key);
        if name != NAME && Some(&*name) != own {
            labels.insert(name, text(value.as_ref()));
        }
    }
    // Who it is from is not for the point to say.
    labels.extend(base.iter().map(|(name, value)| (name.into(), value.into())));
    if labels.len() > MAX_LABELS || labels.values().any(|value| value.len() > MAX_VALUE) {
        return intake.reject(1, || format!("a point has more than {MAX_LABELS} attributes, or one of more than {MAX_VALUE} bytes"));
    }
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    let labels = labels.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let no_value = flags & DataPointFlags::NoRecordedValueMask as u32 != 0;
    let part = |(name, label, value): (String, Option<(&'static str, String)>, f64)| Part {
        name,
        label: label.map(|(name, value)| (name.to_owned(), value)),
        value: if no_value { STALE } else { value },
    };
    let milliseconds = |time: u64| i64::try_from(time / 1_000_000).unwrap_or(i64::MAX);
    let at = if time == 0 { now } else { milliseconds(time) };
    let start = (start > 0 && !no_value).then(|| milliseconds(start));
    intake.incoming.push(Incoming { labels, at, start, samples: samples.into_iter().map(part).collect() });
}

/// What a family is called: with its unit, and `_total` where it counts.
fn family(metric: &Metric, counts: bool) -> String {
    let mut name: String = metric.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' }).collect();
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.insert(0, '_');
    }
    let name = name.trim_end_matches('_');
    let name = if counts { name.strip_suffix("_total").unwrap_or(name) } else { name };
    let mut name = name.to_owned();
    let gauge = matches!(metric.data, Some(Data::Gauge(_)));
    if let Some(unit) = unit(&metric.unit, gauge)
        && !name.ends_with(&unit)
    {
        name = format!("{name}_{unit}");
    }
    if counts { name + "_total" } else { name }
}

/// A UCUM unit as a word.
fn unit(unit: &str, gauge: bool) -> Option<String> {
    let word = |unit: &str| {
        Some(match unit {
            "ms" => "milliseconds".to_owned(),
            "s" => "seconds".to_owned(),
            "us" => "microseconds".to_owned(),
            "ns" => "nanoseconds".to_owned(),
            "min" => "minutes".to_owned(),
            "h" => "hours".to_owned(),
            "d" => "days".to_owned(),
            "By" => "bytes".to_owned(),
            "KiBy" => "kibibytes".to_owned(),
            "MiBy" => "mebibytes".to_owned(),
            "GiBy" => "gibibytes".to_owned(),
            "KBy" => "kilobytes".to_owned(),
            "MBy" => "megabytes".to_owned(),
            "GBy" => "gigabytes".to_owned(),
            "%" => "percent".to_owned(),
            "1" if gauge => "ratio".to_owned(),
            "1" | "" => return None,
            // What stands in braces is a remark.
            remark if remark.starts_with('{') => return None,
            other => other.chars().filter(char::is_ascii_alphanumeric).collect(),
        })
    };
    match unit.split_once('/') {
        Some((of, per)) => {
            let per = match per {
                "s" => "second".to_owned(),
                "m" | "min" => "minute".to_owned(),
                other => word(other)?,
            };
            Some(word(of).map_or_else(|| format!("per_{per}"), |of| format!("{of}_per_{per}")))
        }
        None => word(unit).filter(|word| !word.is_empty()),
    }
}

fn label_name(key: &str) -> Cow<'_, str> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = key.starts_with(|first: char| !first.is_ascii_digit());
    if key.chars().all(good) && begins {
        return Cow::Borrowed(key);
    }
    let name: String = key.chars().map(|c| if good(c) { c } else { '_' }).collect();
    Cow::Owned(if begins { name } else { format!("key_{name}") })
}

fn text(value: Option<&AnyValue>) -> Cow<'_, str> {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => Cow::Borrowed(text),
        Some(Value::BoolValue(value)) => Cow::Owned(value.to_string()),
        Some(Value::IntValue(value)) => Cow::Owned(value.to_string()),
        Some(Value::DoubleValue(value)) => Cow::Owned(value.to_string()),
        // Lists and maps make no label that anybody could ask for.
        _ => Cow::Borrowed(""),
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_VALUE)].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;
    use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogram, Gauge, Histogram, ResourceMetrics, ScopeMetrics, Sum};

    fn key(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn word(name: &str, value: &str) -> KeyValue {
        key(name, Value::StringValue(value.to_owned()))
    }

    fn point(value: Number) -> NumberDataPoint {
        NumberDataPoint {
            time_unix_nano: 2_000_000_000,
            start_time_unix_nano: 1_000_000_000,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let attributes = vec![word("service.name", "web"), word("service.namespace", "shop"), word("service.instance.id", "web-1")];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let resource = Some(Resource { attributes, ..Resource::default() });
        ExportMetricsServiceRequest { resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }] }
    }

    fn metric(name: &str, unit: &str, data: Data) -> Metric {
        Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data), ..Metric::default() }
    }

    fn sum(points: Vec<NumberDataPoint>, is_monotonic: bool, temporality: AggregationTemporality) -> Data {
        Data::Sum(Sum { data_points: points, is_monotonic, aggregation_temporality: temporality.into() })
    }

    fn names(metric: Metric) -> Vec<String> {
        let intake = read(&request(vec![metric]), 7);
        let parts = intake.incoming.iter().flat_map(|incoming| &incoming.samples);
        parts
            .map(|part| match &part.label {
                Some((label, value)) => format!("{}{{{label}={value}}} {}", part.name, part.value),
                None => format!("{} {}", part.name, part.value),
            })
            .collect()
    }

    #[test]
    fn families_are_named_as_prometheus_names_them() {
        let cumulative = AggregationTemporality::Cumulative;
        let gauge = || Data::Gauge(Gauge { data_points: vec![point(Number::AsDouble(0.5))] });
        let counter = || sum(vec![point(Number::AsInt(3))], true, cumulative);
        for (name, unit, data, expected) in [
            ("istio_requests_total", "", counter(), "istio_requests_total 3"),
            ("http.server.requests", "{request}", counter(), "http_server_requests_total 3"),
            ("process.cpu.time", "s", counter(), "process_cpu_time_seconds_total 3"),
            ("system.cpu.utilization", "1", gauge(), "system_cpu_utilization_ratio 0.5"),
            ("queue_bytes", "By", gauge(), "queue_bytes 0.5"),
            ("disk.speed", "By/s", gauge(), "disk_speed_bytes_per_second 0.5"),
            ("2xx", "", gauge(), "_2xx 0.5"),
            ("open", "", sum(vec![point(Number::AsInt(-2))], false, cumulative), "open -2"),
        ] {
            assert_eq!(names(metric(name, unit, data)), [expected], "{name}");
        }
    }

    #[test]
    fn a_histogram_has_buckets_that_add_up() {
        let point = HistogramDataPoint {
            time_unix_nano: 2_000_000_000,
            count: 6,
            sum: Some(7.5),
            bucket_counts: vec![1, 2, 3],
            explicit_bounds: vec![0.5, 1_000_000.0],
            ..HistogramDataPoint::default()
        };
        let data = |point| Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: 2 });
        let expected =
            ["took_ms_bucket{le=0.5} 1", "took_ms_bucket{le=1000000} 3", "took_ms_bucket{le=+Inf} 6", "took_ms_count 6", "took_ms_sum 7.5"];
        assert_eq!(names(metric("took.ms", "", data(point.clone()))), expected);
        for bounds in [vec![1.0], vec![1.0, 1.0], vec![2.0, 1.0], vec![1.0, f64::NAN]] {
            let point = HistogramDataPoint { explicit_bounds: bounds, ..point.clone() };
            let intake = read(&request(vec![metric("took", "", data(point))]), 7);
            assert_eq!((intake.incoming.len(), intake.rejected), (0, 1));
        }
    }

    #[test]
    fn labels_say_who_tells_and_what_of() {
        let attributes = vec![
            word("http.route", "/a"),
            word("empty", ""),
            word("job", "somebody else"),
            word("__name__", "other"),
            key("code", Value::IntValue(200)),
            key("ok", Value::BoolValue(true)),
            word("9", "nine"),
        ];
        let point = NumberDataPoint { attributes, ..point(Number::AsInt(1)) };
        let intake = read(&request(vec![metric("a", "", sum(vec![point], true, AggregationTemporality::Cumulative))]), 7);
        let incoming = &intake.incoming[0];
        let labels: Vec<String> = incoming.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(labels, ["code=200", "http_route=/a", "instance=web-1", "job=shop/web", "key_9=nine", "ok=true"]);
        assert_eq!((incoming.at, incoming.start), (2000, Some(1000)));
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let delta = sum(vec![point(Number::AsInt(1)); 3], true, AggregationTemporality::Delta);
        let exponential = Data::ExponentialHistogram(ExponentialHistogram { data_points: vec![Default::default()], ..Default::default() });
        let intake = read(&request(vec![metric("a", "", delta), metric("b", "", exponential)]), 7);
        assert_eq!((intake.rejected, intake.incoming.len(), intake.abouts.len()), (4, 0, 0));
        let told = partial_success(intake.rejected, intake.why, Taken { late: 2, ..Taken::default() }).unwrap();
        assert_eq!(told.rejected_data_points, 6);
        assert!(told.error_message.contains("cumulative"), "{}", told.error_message);
        assert_eq!(partial_success(0, None, Taken { samples: 9, ..Taken::default() }), None);
        let long = NumberDataPoint { attributes: vec![word("a", &"x".repeat(5000))], ..point(Number::AsInt(1)) };
        let intake = read(&request(vec![metric("a", "", Data::Gauge(Gauge { data_points: vec![long] }))]), 7);
        assert_eq!((intake.rejected, intake.incoming.len()), (1, 0));
    }

    #[test]
    fn a_point_without_a_value_ends_its_series() {
        let flags = DataPointFlags::NoRecordedValueMask as u32;
        let ended = NumberDataPoint { flags, time_unix_nano: 0, ..point(Number::AsInt(1)) };
        let intake = read(&request(vec![metric("a", "", sum(vec![ended], true, AggregationTemporality::Cumulative))]), 7);
        assert_eq!((intake.incoming[0].at, intake.incoming[0].start), (7, None));
        assert!(super::super::is_stale(intake.incoming[0].samples[0].value));
    }
}
