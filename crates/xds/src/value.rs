//! JSON ⇄ `google.protobuf.Struct`, in which node metadata and a resource's own facts travel.
//!
//! A protobuf number is a double: whole numbers beyond 2^53 lose digits, so nothing larger is sent.

use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// Writes `value`, which must be an object as JSON; anything else gives an empty struct.
pub(crate) fn to_struct(value: &impl Serialize) -> Struct {
    match serde_json::to_value(value) {
        Ok(Json::Object(fields)) => Struct { fields: fields.into_iter().map(|(name, value)| (name, to_value(value))).collect() },
        _ => Struct::default(),
    }
}

/// Reads what [`to_struct`] wrote.
pub(crate) fn from_struct<T: DeserializeOwned>(value: &Struct) -> Result<T, serde_json::Error> {
    serde_json::from_value(struct_to_json(value))
}

fn struct_to_json(value: &Struct) -> Json {
    Json::Object(value.fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect())
}

fn to_value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(to_value).collect() }),
        Json::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.into_iter().map(|(name, value)| (name, to_value(value))).collect() })
        }
    };
    Value { kind: Some(kind) }
}

fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(*value),
        Some(Kind::NumberValue(number)) => whole(*number).map_or_else(|| Json::from(*number), Json::from),
        Some(Kind::StringValue(text)) => Json::String(text.clone()),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(to_json).collect()),
        Some(Kind::StructValue(value)) => struct_to_json(value),
    }
}

/// `number` as a whole number, so that it reads back into integer fields.
fn whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
    (number.fract() == 0.0 && number.abs() <= LIMIT).then_some(number as i64)
}
