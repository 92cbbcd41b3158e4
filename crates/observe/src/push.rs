//! A proxy's metrics, told to the control plane as OTLP: totals, of the series that changed since they were told last.
//!
//! In: families, looked at every ten seconds and at the end. Out: messages of bounded size. A look costs what a scrape costs,
//! on the thread that serves scrapes, so that no request waits for it. What could not be told is told the next time, as these
//! are totals. With each look that was told whole goes a sample of `up`: whose series are not in it stand still, and
//! [`PUSH_ALL`] is the longest that one is not told.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::export::{Sender, otlp, text};
use crate::exposition::{Family, Kind, Sample, Value};
use crate::series::{PUSH_ALL, PUSH_INTERVAL};

/// The most points of a message. With the labels of a request, each takes about 1.5 KiB.
const POINTS: usize = 500;
/// How long the control plane may take for one message.
const TIMEOUT: Duration = Duration::from_secs(5);
/// In how many pushes each series is told once, changed or not.
const TURNS: u64 = PUSH_ALL.as_secs() / PUSH_INTERVAL.as_secs();

/// What tells. Ends with [`finish`](Self::finish), or when it is dropped.
#[derive(Debug)]
pub struct Pusher {
    end: oneshot::Sender<oneshot::Sender<()>>,
}

impl Pusher {
    /// A pusher of what `families` gives, for a process that has counted nothing yet; and the task that does it.
    pub fn start(sender: Sender, channel: Channel, families: impl Fn() -> Vec<Family>) -> (Self, impl Future<Output = ()>) {
        let (end, ended) = oneshot::channel();
        let told = Told { resource: sender.resource(), changes: Changes::new(SystemTime::now()), channel, failing: false };
        (Self { end }, told.run(families, ended))
    }

    /// Tells the last numbers, and that there will be no more. Waits for it for `limit` at most.
    pub async fn finish(self, limit: Duration) {
        let (done, told) = oneshot::channel();
        // An error says that the task has ended, and with it the waiting; past the limit nobody answers.
        if self.end.send(done).is_ok() {
            drop(timeout(limit, told).await);
        }
    }
}

struct Told {
    resource: Resource,
    changes: Changes,
    channel: Channel,
    failing: bool,
}

impl Told {
    async fn run(mut self, families: impl Fn() -> Vec<Family>, mut ended: oneshot::Receiver<oneshot::Sender<()>>) {
        let mut ticks = interval(PUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = tokio::select! {
                _ = ticks.tick() => None,
                end = &mut ended => match end {
                    Ok(done) => Some(done),
                    Err(_) => return,
                },
            };
            let outcome = self.tell(&families(), end.is_some()).await;
            match (&outcome, self.failing) {
                // Said once, not each time.
                (Err(status), false) => {
                    tracing::info!(error = otlp::said_by(status), "metrics cannot be told to the control plane; they will be")
                }
                (Ok(()), true) => tracing::info!("metrics can be told to the control plane again"),
                _ => {}
            }
            self.failing = outcome.is_err();
            if let Some(done) = end {
                // Whoever asked may have stopped waiting.
                let _: Result<(), _> = done.send(());
                return;
            }
        }
    }

    async fn tell(&mut self, families: &[Family], last: bool) -> Result<(), Status> {
        let messages = self.changes.look(families, SystemTime::now(), last);
        let mut client = MetricsServiceClient::new(self.channel.clone());
        for Message { metrics, keys } in messages {
            let scope = InstrumentationScope {
                name: "lorica".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            };
            let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
            let resource_metrics = ResourceMetrics { resource: Some(self.resource.clone()), scope_metrics, ..ResourceMetrics::default() };
            let request = ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] };
            let answer = timeout(TIMEOUT, client.export(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))?.into_inner();
            if let Some(refused) = answer.partial_success.filter(|refused| refused.rejected_data_points > 0) {
                tracing::debug!(points = refused.rejected_data_points, why = refused.error_message, "metrics were refused");
            }
            self.changes.told(&keys);
        }
        Ok(())
    }
}

/// A series, by a hash of its name and labels.
type Key = u64;

/// Part of what is to be told.
#[derive(Debug)]
struct Message {
    metrics: Vec<Metric>,
    /// What it tells of, and the fingerprints of their values.
    keys: Vec<(Key, u64)>,
}

/// What was told of which series. Two that hash alike are told of once in [`PUSH_ALL`] at least.
#[derive(Debug)]
struct Changes {
    hasher: foldhash::quality::RandomState,
    known: HashMap<Key, Known, foldhash::fast::RandomState>,
    looked: SystemTime,
    turn: u64,
}

#[derive(Debug)]
struct Known {
    /// The fingerprint of the value that was told; none before.
    told: Option<u64>,
    /// When it was 0.
    start: SystemTime,
    turn: u64,
}

impl Changes {
    fn new(begun: SystemTime) -> Self {
        Self { hasher: foldhash::quality::RandomState::default(), known: HashMap::default(), looked: begun, turn: 0 }
    }

    /// What is to be told of families as they are `now`, in messages.
    fn look(&mut self, families: &[Family], now: SystemTime, last: bool) -> Vec<Message> {
        self.turn += 1;
        let mut parts = Parts::default();
        for family in families {
            for sample in &family.samples {
                let key = self.hasher.hash_one((family.name, &sample.labels));
                let print = self.print(&sample.value);
                // What was not there at the last look had counted nothing then.
                let known = self.known.entry(key).or_insert_with(|| Known { told: None, start: self.looked, turn: 0 });
                known.turn = self.turn;
                let is_turn = key % TURNS == self.turn % TURNS;
                if known.told != Some(print) || is_turn || last {
                    parts.add(family, point(sample, known.start, now), (key, print));
                }
            }
        }
        // What is not there any more would begin anew.
        self.known.retain(|_, known| known.turn == self.turn);
        self.looked = now;
        parts.done(now, last)
    }

    /// These were told.
    fn told(&mut self, keys: &[(Key, u64)]) {
        for (key, print) in keys {
            if let Some(known) = self.known.get_mut(key) {
                known.told = Some(*print);
            }
        }
    }

    fn print(&self, value: &Value) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        match value {
            Value::Counter(value) => value.hash(&mut hasher),
            Value::Gauge(value) => value.to_bits().hash(&mut hasher),
            Value::Histogram { buckets, sum, .. } => (buckets, sum.to_bits()).hash(&mut hasher),
        }
        hasher.finish()
    }
}

enum Point {
    Number(NumberDataPoint),
    Histogram(HistogramDataPoint),
}

#[derive(Default)]
struct Parts {
    messages: Vec<Message>,
    points: usize,
    family: &'static str,
}

impl Parts {
    fn add(&mut self, family: &Family, point: Point, key: (Key, u64)) {
        if self.messages.is_empty() || self.points >= POINTS {
            self.messages.push(Message { metrics: Vec::new(), keys: Vec::new() });
            (self.points, self.family) = (0, "");
        }
        let Some(message) = self.messages.last_mut() else { return };
        if self.family != family.name {
            message.metrics.push(metric(family));
            self.family = family.name;
        }
        match (message.metrics.last_mut().and_then(|metric| metric.data.as_mut()), point) {
            (Some(Data::Sum(sum)), Point::Number(point)) => sum.data_points.push(point),
            (Some(Data::Gauge(gauge)), Point::Number(point)) => gauge.data_points.push(point),
            (Some(Data::Histogram(histogram)), Point::Histogram(point)) => histogram.data_points.push(point),
            // A family has samples of its own kind.
            _ => return,
        }
        message.keys.push(key);
        self.points += 1;
    }

    /// With the sign that all was told.
    fn done(mut self, now: SystemTime, last: bool) -> Vec<Message> {
        let up =
            |time_unix_nano, value| NumberDataPoint { time_unix_nano, value: Some(Number::AsInt(value)), ..NumberDataPoint::default() };
        let mut data_points = vec![up(nanoseconds(now), 1)];
        if last {
            data_points.push(up(nanoseconds(now + Duration::from_millis(1)), 0));
        }
        let data = Some(Data::Gauge(Gauge { data_points }));
        let metric = Metric { name: "up".to_owned(), description: "Whether the process lives".to_owned(), data, ..Metric::default() };
        match self.messages.last_mut() {
            Some(message) => message.metrics.push(metric),
            None => self.messages.push(Message { metrics: vec![metric], keys: Vec::new() }),
        }
        self.messages
    }
}

fn metric(family: &Family) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality: cumulative, is_monotonic: true }),
        Kind::Gauge => Data::Gauge(Gauge::default()),
        Kind::Histogram => Data::Histogram(Histogram { data_points: Vec::new(), aggregation_temporality: cumulative }),
    };
    Metric { name: family.name.to_owned(), description: family.help.to_owned(), data: Some(data), ..Metric::default() }
}

fn point(sample: &Sample, start: SystemTime, now: SystemTime) -> Point {
    let attributes: Vec<KeyValue> = sample.labels.iter().map(|(name, value)| text(name, &value)).collect();
    let (start_time_unix_nano, time_unix_nano) = (nanoseconds(start), nanoseconds(now));
    let number = |start_time_unix_nano, value, attributes| {
        Point::Number(NumberDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            value: Some(value),
            ..NumberDataPoint::default()
        })
    };
    match &sample.value {
        Value::Counter(value) => number(start_time_unix_nano, Number::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)), attributes),
        Value::Gauge(value) => number(0, Number::AsDouble(*value), attributes),
        Value::Histogram { bounds, buckets, sum, .. } => Point::Histogram(HistogramDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            count: buckets.iter().sum(),
            sum: Some(*sum),
            bucket_counts: buckets.clone(),
            explicit_bounds: bounds.to_vec(),
            ..HistogramDataPoint::default()
        }),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;
    use crate::exposition::Labels;

    const BOUNDS: &[f64] = &[1.0, 10.0];

    fn families(counters: &[(&str, u64)]) -> Vec<Family> {
        let labelled = |of: &str| Labels::one("of", of);
        let counter = |(of, value): &(&str, u64)| Sample { labels: labelled(of), value: Value::Counter(*value) };
        let histogram = Value::Histogram { bounds: BOUNDS, buckets: vec![1, 2, 3], sum: 9.0, exemplars: Vec::new() };
        vec![
            Family { name: "calls_total", help: "Calls", kind: Kind::Counter, samples: counters.iter().map(counter).collect() },
            Family { name: "took", help: "Took", kind: Kind::Histogram, samples: vec![Sample { labels: labelled("a"), value: histogram }] },
        ]
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
    }

    /// What is told: the family, who of it, since which second, and the value.
    fn shown(messages: &[Message]) -> Vec<String> {
        let second = |time: u64| time / 1_000_000_000 - 1_700_000_000;
        let mut all = Vec::new();
        for metric in messages.iter().flat_map(|message| &message.metrics) {
            match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => all.extend(sum.data_points.iter().map(|point| {
                    let Some(Number::AsInt(value)) = point.value else { panic!("{point:?}") };
                    format!("{} {value} since {}", metric.name, second(point.start_time_unix_nano))
                })),
                Data::Gauge(gauge) => all.extend(gauge.data_points.iter().map(|point| {
                    let Some(Number::AsInt(value)) = point.value else { panic!("{point:?}") };
                    format!("{} {value}", metric.name)
                })),
                Data::Histogram(histogram) => {
                    all.extend(histogram.data_points.iter().map(|point| format!("{} {}", metric.name, point.count)))
                }
                other => panic!("{other:?}"),
            }
        }
        all
    }

    /// Changes of which no series has its turn by chance: their hashes are what they are, so turns are looked for.
    fn quiet(changes: &mut Changes, families: &[Family]) {
        let keys: Vec<Key> = families
            .iter()
            .flat_map(|family| family.samples.iter().map(|sample| changes.hasher.hash_one((family.name, &sample.labels))))
            .collect();
        while keys.iter().any(|key| (1..=3).any(|ahead| key % TURNS == (changes.turn + ahead) % TURNS)) {
            changes.turn += 1;
        }
    }

    #[test]
    fn only_what_changed_is_told_and_since_when_it_counts() {
        let mut changes = Changes::new(at(0));
        quiet(&mut changes, &families(&[("a", 1), ("b", 2)]));
        let first = changes.look(&families(&[("a", 1)]), at(5), false);
        assert_eq!(shown(&first), ["calls_total 1 since 0", "took 6", "up 1"]);
        changes.told(&first[0].keys);
        let second = changes.look(&families(&[("a", 1), ("b", 2)]), at(15), false);
        assert_eq!(shown(&second), ["calls_total 2 since 5", "up 1"]);
        // That was not taken: it is told again.
        let third = changes.look(&families(&[("a", 1), ("b", 2)]), at(25), false);
        assert_eq!(shown(&third), ["calls_total 2 since 5", "up 1"]);
    }

    #[test]
    fn each_series_is_told_in_its_turn() {
        let mut changes = Changes::new(at(0));
        let mut times = 0;
        for turn in 0..TURNS {
            let messages = changes.look(&families(&[]), at(turn), false);
            times += shown(&messages).iter().filter(|line| line.starts_with("took")).count();
            messages.iter().for_each(|message| changes.told(&message.keys));
        }
        // At first, and in its turn, which may be the first.
        assert!((1..=2).contains(&times), "{times}");
    }

    #[test]
    fn what_was_let_go_of_begins_anew() {
        let mut changes = Changes::new(at(0));
        changes.look(&families(&[("a", 9)]), at(5), false).iter().for_each(|message| changes.told(&message.keys));
        changes.look(&families(&[]), at(15), false);
        assert_eq!(shown(&changes.look(&families(&[("a", 1)]), at(25), false))[0], "calls_total 1 since 15");
    }

    #[test]
    fn the_last_tells_all_and_says_so() {
        let mut changes = Changes::new(at(0));
        changes.look(&families(&[("a", 1)]), at(5), false).iter().for_each(|message| changes.told(&message.keys));
        assert_eq!(shown(&changes.look(&families(&[("a", 1)]), at(7), true)), ["calls_total 1 since 0", "took 6", "up 1", "up 0"]);
    }

    #[test]
    fn messages_are_bounded() {
        let many: Vec<String> = (0..1200).map(|index| index.to_string()).collect();
        let counters: Vec<(&str, u64)> = many.iter().map(|of| (of.as_str(), 1)).collect();
        let messages = Changes::new(at(0)).look(&families(&counters), at(5), false);
        assert_eq!(messages.iter().map(|message| message.keys.len()).collect::<Vec<_>>(), [500, 500, 201]);
        assert_eq!(shown(&messages).iter().filter(|line| *line == "up 1").count(), 1);
    }
}
