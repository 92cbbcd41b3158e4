//! Values while an expression is evaluated: borrowed from the request and from the expression wherever that can be.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::{Map, Value as Json};

use super::Failure;
use super::evaluate::Budget;
use super::time::Time;
use super::types::Kind;

#[derive(Debug, Clone)]
pub(super) enum Value<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'v, str>),
    Bytes(Cow<'v, [u8]>),
    Timestamp(Time),
    Duration(jiff::SignedDuration),
    Type(Kind),
    List(Rc<[Value<'v>]>),
    Map(Rc<[(Value<'v>, Value<'v>)]>),
    /// A list within claims.
    Array(&'v [Json]),
    /// A map within claims.
    Object(&'v Map<String, Json>),
}

impl<'v> From<&'v Json> for Value<'v> {
    /// Numbers of JSON are doubles, as they are in Envoy's metadata.
    fn from(json: &'v Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(elements) => Self::Array(elements),
            Json::Object(fields) => Self::Object(fields),
        }
    }
}

impl<'v> Value<'v> {
    pub(super) fn text(text: &'v str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Uint(_) => Kind::Uint,
            Self::Double(_) => Kind::Double,
            Self::Text(_) => Kind::Text,
            Self::Bytes(_) => Kind::Bytes,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::Duration(_) => Kind::Duration,
            Self::Type(_) => Kind::Type,
            Self::List(_) | Self::Array(_) => Kind::List,
            Self::Map(_) | Self::Object(_) => Kind::Map,
        }
    }

    /// Whether both are the same. Numbers are compared by what they count, whatever their types; values of other types that differ are not equal.
    pub(super) fn equals(&self, other: &Value<'_>, budget: &mut Budget) -> Result<bool, Failure> {
        budget.spend(1)?;
        Ok(match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(one), Value::Bool(other)) => one == other,
            (Self::Text(one), Value::Text(other)) => {
                budget.read(one.len().min(other.len()))?;
                one == other
            }
            (Self::Bytes(one), Value::Bytes(other)) => {
                budget.read(one.len().min(other.len()))?;
                one == other
            }
            (Self::Timestamp(one), Value::Timestamp(other)) => one == other,
            (Self::Duration(one), Value::Duration(other)) => one == other,
            (Self::Type(one), Value::Type(other)) => one == other,
            (one, other) if one.kind() == Kind::List && other.kind() == Kind::List => {
                if one.len() != other.len() {
                    return Ok(false);
                }
                for at in 0..one.len().unwrap_or_default() {
                    let (Some(one), Some(other)) = (one.at(at), other.at(at)) else { return Ok(false) };
                    if !one.equals(&other, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (one, other) if one.kind() == Kind::Map && other.kind() == Kind::Map => {
                if one.len() != other.len() {
                    return Ok(false);
                }
                for at in 0..one.len().unwrap_or_default() {
                    let Some(key) = one.key_at(at) else { return Ok(false) };
                    match (one.get(&key, budget)?, other.get(&key, budget)?) {
                        (Some(one), Some(other)) if one.equals(&other, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (one, other) => one.number().zip(other.number()).is_some_and(|(one, other)| one.compare(other) == Some(Ordering::Equal)),
        })
    }

    /// Which of two comes first; none where one is no number (NaN).
    pub(super) fn order(&self, other: &Value<'_>, budget: &mut Budget) -> Result<Option<Ordering>, Failure> {
        Ok(match (self, other) {
            (Self::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            (Self::Text(one), Value::Text(other)) => {
                budget.read(one.len().min(other.len()))?;
                Some(one.cmp(other))
            }
            (Self::Bytes(one), Value::Bytes(other)) => {
                budget.read(one.len().min(other.len()))?;
                Some(one.cmp(other))
            }
            (Self::Timestamp(one), Value::Timestamp(other)) => Some(one.cmp(other)),
            (Self::Duration(one), Value::Duration(other)) => Some(one.cmp(other)),
            (one, other) => {
                let (Some(one), Some(other)) = (one.number(), other.number()) else { return Err(Failure::WrongType) };
                one.compare(other)
            }
        })
    }

    /// How many elements a list or map has.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::List(elements) => elements.len(),
            Self::Array(elements) => elements.len(),
            Self::Map(entries) => entries.len(),
            Self::Object(fields) => fields.len(),
            _ => return None,
        })
    }

    /// The element of a list.
    pub(super) fn at(&self, index: usize) -> Option<Self> {
        match self {
            Self::List(elements) => elements.get(index).cloned(),
            Self::Array(elements) => elements.get(index).map(Self::from),
            _ => None,
        }
    }

    fn key_at(&self, index: usize) -> Option<Self> {
        match self {
            Self::Map(entries) => entries.get(index).map(|(key, _)| key.clone()),
            Self::Object(fields) => fields.keys().nth(index).map(|key| Self::text(key)),
            _ => None,
        }
    }

    /// What a macro goes through: the elements of a list, the keys of a map.
    pub(super) fn elements(&self) -> Result<Vec<Self>, Failure> {
        Ok(match self {
            Self::List(elements) => elements.to_vec(),
            Self::Array(elements) => elements.iter().map(Self::from).collect(),
            Self::Map(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Object(fields) => fields.keys().map(|key| Self::text(key)).collect(),
            _ => return Err(Failure::WrongType),
        })
    }

    /// What stands in a map under `key`.
    pub(super) fn get(&self, key: &Value<'_>, budget: &mut Budget) -> Result<Option<Self>, Failure> {
        match (self, key) {
            (Self::Object(fields), Value::Text(key)) => Ok(fields.get(key.as_ref()).map(Self::from)),
            (Self::Object(_), _) => Ok(None),
            (Self::Map(entries), key) => {
                for (known, value) in entries.iter() {
                    if known.equals(key, budget)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
            _ => Err(Failure::WrongType),
        }
    }

    fn number(&self) -> Option<Number> {
        match *self {
            Self::Int(value) => Some(Number::Whole(value.into())),
            Self::Uint(value) => Some(Number::Whole(value.into())),
            Self::Double(value) => Some(Number::Double(value)),
            _ => None,
        }
    }

    /// The position that it counts in a list.
    pub(super) fn position(&self) -> Result<usize, Failure> {
        let whole = match *self {
            Self::Int(value) => i128::from(value),
            Self::Uint(value) => i128::from(value),
            Self::Double(value) => whole(value).filter(|_| value.fract() == 0.0).ok_or(Failure::OutOfRange)?,
            _ => return Err(Failure::WrongType),
        };
        usize::try_from(whole).map_err(|_| Failure::OutOfRange)
    }
}

/// A double without its fraction; none where it is further from nought than any integer of ours.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn whole(value: f64) -> Option<i128> {
    (value.abs() < 1e30).then_some(value as i128)
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(i128),
    Double(f64),
}

impl Number {
    /// Exact, though a double does not hold every integer.
    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Some(one.cmp(&other)),
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(&other),
            (Self::Double(_), Self::Whole(_)) => other.compare(self).map(Ordering::reverse),
            (Self::Whole(_), Self::Double(other)) if other.is_nan() => None,
            (Self::Whole(one), Self::Double(other)) => Some(match whole(other) {
                Some(truncated) => {
                    one.cmp(&truncated).then(if other.fract() == 0.0 { Ordering::Equal } else { 0.0_f64.total_cmp(&other.fract()) })
                }
                None if other > 0.0 => Ordering::Less,
                None => Ordering::Greater,
            }),
        }
    }
}
