//! Which records are wanted: what the index tells, and conditions on attributes. Pure.
//!
//! A condition on an attribute says which bytes a record must have that may meet it, so that most records need not be decoded to be left out.

use std::time::Duration;

use memchr::memmem::Finder;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;

/// Where spans and log records say their status: OpenTelemetry's conventions, those of before, and Envoy's access log.
const STATUS: [&str; 3] = ["http.response.status_code", "http.status_code", "response_code"];
/// Where they say their route: ours, OpenTelemetry's, and Envoy's access log.
const ROUTE: [&str; 3] = ["lorica.route", "http.route", "route_name"];
/// Where they say the request's id: OpenTelemetry's conventions for a field, ours, Envoy's and our access log.
const REQUEST_ID: [&str; 4] = ["http.request.header.x-request-id", "lorica.request_id", "guid:x-request-id", "request_id"];
/// Where log records say how long it took, in milliseconds: ours, and Envoy's access log.
const DURATION: [&str; 2] = ["lorica.duration_ms", "duration"];

/// Which spans are wanted.
#[derive(Debug, Clone, Default)]
pub struct SpanFilter {
    /// Of this service: `recording.contact`, or `recording` in any namespace.
    pub service: Option<String>,
    /// Of this name.
    pub operation: Option<String>,
    /// Of this kind, by OTLP's number.
    pub kind: Option<u32>,
    /// Begun then or later, in nanoseconds since 1970.
    pub from: Option<u64>,
    /// Begun then or before.
    pub to: Option<u64>,
    /// As long or longer.
    pub shortest: Option<Duration>,
    /// As long or shorter.
    pub longest: Option<Duration>,
    /// Those that failed, or those that did not.
    pub failed: Option<bool>,
    /// All of these.
    pub conditions: Vec<Condition>,
}

/// Which log records are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    /// Of this service: `recording.contact`, or `recording` in any namespace.
    pub service: Option<String>,
    /// Of this trace.
    pub trace: Option<u128>,
    /// Of then or later, in nanoseconds since 1970.
    pub from: Option<u64>,
    /// Of then or before.
    pub to: Option<u64>,
    /// Of severity ERROR and above, or below.
    pub failed: Option<bool>,
    /// All of these.
    pub conditions: Vec<Condition>,
}

/// Something that attributes must say.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    keys: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// This, as text.
    Is(String),
    /// A number from and to, both included.
    Within(f64, f64),
    /// This route, whole or without what stands around its name.
    Route(String),
}

/// Why a word is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is no status.
    #[error("`{0}` is no status: write 503, 5xx or error")]
    Status(String),
    /// It is no attribute.
    #[error("`{0}` is no attribute: write KEY=VALUE")]
    Attribute(String),
}

/// What is meant by a status.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Whatever failed.
    Error,
    /// What says so.
    Says(Condition),
}

impl Status {
    /// Reads `503`, `5xx` or `error`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn read(word: &str) -> Result<Self, FilterError> {
        let keys = STATUS.map(str::to_owned).to_vec();
        if word.eq_ignore_ascii_case("error") {
            return Ok(Self::Error);
        }
        let class = word.strip_suffix("xx").or_else(|| word.strip_suffix("XX"));
        if let Some(class) = class.and_then(|class| class.parse::<u8>().ok()).filter(|class| (1..=5).contains(class)) {
            let first = f64::from(class) * 100.0;
            return Ok(Self::Says(Condition { keys, test: Test::Within(first, first + 99.0) }));
        }
        match word.parse::<u16>() {
            Ok(status) if status < 1000 => Ok(Self::Says(Condition { keys, test: Test::Is(status.to_string()) })),
            _ => Err(FilterError::Status(word.to_owned())),
        }
    }
}

impl Condition {
    /// An attribute of the record, or of who sent it, says this. What conventions have renamed is found by either name.
    #[must_use]
    pub fn attribute(key: &str, value: &str) -> Self {
        let keys = if STATUS.contains(&key) { STATUS.map(str::to_owned).to_vec() } else { vec![key.to_owned()] };
        Self { keys, test: Test::Is(value.to_owned()) }
    }

    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// When it is nothing like that.
    pub fn read(text: &str) -> Result<Self, FilterError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self::attribute(key, value)),
            _ => Err(FilterError::Attribute(text.to_owned())),
        }
    }

    /// A route decided: `HTTPRoute/recording.contact rule 0`, `HTTPRoute/recording.contact`, or `recording.contact`.
    #[must_use]
    pub fn route(name: &str) -> Self {
        Self { keys: ROUTE.map(str::to_owned).to_vec(), test: Test::Route(name.to_owned()) }
    }

    /// It is of the request with this `x-request-id`.
    #[must_use]
    pub fn request_id(id: &str) -> Self {
        Self { keys: REQUEST_ID.map(str::to_owned).to_vec(), test: Test::Is(id.to_owned()) }
    }

    /// A log record says that it took from and to as long.
    #[must_use]
    pub fn took(shortest: Option<Duration>, longest: Option<Duration>) -> Self {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let test = Test::Within(shortest.map_or(0.0, milliseconds), longest.map_or(f64::INFINITY, milliseconds));
        Self { keys: DURATION.map(str::to_owned).to_vec(), test }
    }

    /// Whether one of these attributes meets it.
    #[must_use]
    pub fn is_met<'a>(&self, attributes: impl IntoIterator<Item = &'a KeyValue>) -> bool {
        let mut named = attributes.into_iter().filter(|attribute| self.keys.contains(&attribute.key));
        named.any(|attribute| attribute.value.as_ref().and_then(|value| value.value.as_ref()).is_some_and(|value| self.test.is_met(value)))
    }

    /// Texts of which the bytes of a record that meets it have one.
    pub(super) fn marks(&self) -> Marks {
        let texts: Vec<Vec<u8>> = match &self.test {
            Test::Is(text) => {
                let mut values = Vec::new();
                values.extend(text.parse().map(Value::IntValue));
                values.extend(text.parse().map(Value::DoubleValue));
                values.extend(text.parse().map(Value::BoolValue));
                let encoded = |key: &String, value: &Value| {
                    KeyValue { key: key.clone(), value: Some(AnyValue { value: Some(value.clone()) }), ..KeyValue::default() }
                        .encode_to_vec()
                };
                let numbers = self.keys.iter().flat_map(|key| values.iter().map(|value| encoded(key, value)).collect::<Vec<_>>());
                // As text, alone or in a list, it stands the same way.
                let alone = AnyValue { value: Some(Value::StringValue(text.clone())) }.encode_to_vec();
                numbers.chain([alone]).collect()
            }
            Test::Within(..) => self.keys.iter().map(|key| key.clone().into_bytes()).collect(),
            Test::Route(name) => vec![name.clone().into_bytes()],
        };
        Marks(texts.iter().map(|text| Finder::new(text).into_owned()).collect())
    }
}

impl Test {
    fn is_met(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::ArrayValue(list)) => {
                let texts = list.values.iter().filter_map(|value| value.value.as_ref());
                texts.filter(|value| matches!(value, Value::StringValue(_))).any(|value| self.is_met(value))
            }
            (Self::Is(wanted), value) => said(value).as_deref() == Some(wanted),
            (Self::Within(from, to), value) => {
                said(value).and_then(|text| text.parse().ok()).is_some_and(|number| (*from..=*to).contains(&number))
            }
            (Self::Route(wanted), Value::StringValue(route)) => is_route(route, wanted),
            (Self::Route(_), _) => false,
        }
    }
}

fn is_route(route: &str, wanted: &str) -> bool {
    let without_rule = route.split_once(" rule ").map_or(route, |(route, _)| route);
    let name = without_rule.split_once('/').map_or(without_rule, |(_, name)| name);
    [route, without_rule, name].contains(&wanted)
}

/// A value as people write it; none for what they do not.
fn said(value: &Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::BoolValue(yes) => Some(yes.to_string()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        Value::ArrayValue(_) | Value::KvlistValue(_) | Value::BytesValue(_) | Value::StringValueStrindex(_) => None,
    }
}

/// What a record's bytes are looked through for.
pub(super) struct Marks(Vec<Finder<'static>>);

impl Marks {
    pub(super) fn may_be_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|mark| mark.find(bytes).is_some())
    }
}

/// Whether a service is the one that is wanted: `recording.contact`, or `recording` in any namespace.
pub(super) fn is_service(service: &str, wanted: &str) -> bool {
    service.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opentelemetry_proto::tonic::common::v1::ArrayValue;

    use super::*;

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    /// What meets a condition has one of its marks, as a record has that is told apart by nothing else.
    fn check(condition: &Condition, attributes: &[KeyValue], expected: bool) {
        assert_eq!(condition.is_met(attributes), expected, "{condition:?} of {attributes:?}");
        if expected {
            let record = opentelemetry_proto::tonic::trace::v1::Span { attributes: attributes.to_vec(), ..Default::default() };
            assert!(condition.marks().may_be_in(&record.encode_to_vec()), "{condition:?} has no mark in {attributes:?}");
        }
    }

    #[test]
    fn attributes_are_compared_as_people_write_them() {
        let text = |text: &str| Value::StringValue(text.to_owned());
        for (value, written, expected) in [
            (text("a"), "a", true),
            (text("ab"), "a", false),
            (Value::IntValue(-7), "-7", true),
            (Value::IntValue(7), "07", false),
            (text("7"), "7", true),
            (Value::BoolValue(true), "true", true),
            (Value::DoubleValue(0.25), "0.25", true),
            (Value::DoubleValue(3.0), "3", true),
            (
                Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(text("a")) }, AnyValue { value: Some(text("9")) }] }),
                "9",
                true,
            ),
            (Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(text("a")) }] }), "b", false),
            (Value::BytesValue(b"a".to_vec()), "a", false),
        ] {
            check(&Condition::attribute("k", written), &[attribute("k", value.clone())], expected);
            check(&Condition::attribute("other", written), &[attribute("k", value)], false);
        }
    }

    #[test]
    fn statuses_are_found_under_each_of_their_names() {
        let Status::Says(one) = Status::read("503").unwrap() else { panic!("no condition") };
        let Status::Says(class) = Status::read("5xx").unwrap() else { panic!("no condition") };
        for key in STATUS {
            for (status, is_one, is_class) in
                [(503, true, true), (500, false, true), (599, false, true), (600, false, false), (200, false, false)]
            {
                check(&one, &[attribute(key, Value::IntValue(status))], is_one);
                check(&class, &[attribute(key, Value::IntValue(status))], is_class);
            }
            check(&one, &[attribute(key, Value::StringValue("503".to_owned()))], true);
            check(&class, &[attribute(key, Value::StringValue("503".to_owned()))], true);
        }
        assert_eq!(Status::read("ERROR"), Ok(Status::Error));
        for bad in ["", "x", "6xx", "0xx", "1000", "-1"] {
            assert_eq!(Status::read(bad), Err(FilterError::Status(bad.to_owned())));
        }
    }

    #[test]
    fn a_route_is_named_in_full_or_in_short() {
        let says = [attribute("lorica.route", Value::StringValue("HTTPRoute/recording.contact rule 0".to_owned()))];
        for (name, expected) in [
            ("HTTPRoute/recording.contact rule 0", true),
            ("HTTPRoute/recording.contact", true),
            ("recording.contact", true),
            ("recording", false),
            ("HTTPRoute/recording.contact rule 1", false),
        ] {
            check(&Condition::route(name), &says, expected);
        }
    }

    #[test]
    fn services_are_found_with_and_without_namespace() {
        for (service, wanted, expected) in
            [("a.b", "a.b", true), ("a.b", "a", true), ("a.b", "b", false), ("ab.c", "a", false), ("a", "a", true), ("a", "a.b", false)]
        {
            assert_eq!(is_service(service, wanted), expected, "{service}, {wanted}");
        }
    }
}
