//! What functions and operators make of values.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::Failure;
use super::evaluate::Budget;
use super::time;
use super::types::Function;
use super::value::{Value, whole};

type Made<'v> = Result<Value<'v>, Failure>;

pub(super) fn of_one<'v>(function: Function, of: Value<'v>, budget: &mut Budget) -> Made<'v> {
    Ok(match (function, of) {
        (Function::Not, Value::Bool(value)) => Value::Bool(!value),
        (Function::Negate, Value::Int(value)) => Value::Int(value.checked_neg().ok_or(Failure::Overflow)?),
        (Function::Negate, Value::Double(value)) => Value::Double(-value),
        (Function::Size, of) => size(&of, budget)?,
        (Function::LowerAscii, Value::Text(text)) => changed(text, budget, |byte| byte.is_ascii_uppercase(), str::to_ascii_lowercase)?,
        (Function::UpperAscii, Value::Text(text)) => changed(text, budget, |byte| byte.is_ascii_lowercase(), str::to_ascii_uppercase)?,
        (Function::ToDyn, of) => of,
        (Function::TypeOf, of) => Value::Type(of.kind()),
        (
            Function::ToBool
            | Function::ToInt
            | Function::ToUint
            | Function::ToDouble
            | Function::ToText
            | Function::ToBytes
            | Function::ToTimestamp
            | Function::ToDuration,
            of,
        ) => converted(function, of, budget)?,
        (part, Value::Timestamp(time)) => Value::Int(time::part(part, time, jiff::SignedDuration::ZERO)?),
        (part, Value::Duration(duration)) => Value::Int(time::count(part, duration)?),
        _ => return Err(Failure::WrongType),
    })
}

pub(super) fn of_two<'v>(function: Function, one: Value<'v>, other: Value<'v>, budget: &mut Budget) -> Made<'v> {
    let ordered = |budget: &mut Budget, wanted: fn(Ordering) -> bool| {
        let order = one.order(&other, budget)?;
        Ok(Value::Bool(order.is_some_and(wanted)))
    };
    match function {
        Function::Equal => one.equals(&other, budget).map(Value::Bool),
        Function::NotEqual => one.equals(&other, budget).map(|equal| Value::Bool(!equal)),
        Function::Less => ordered(budget, Ordering::is_lt),
        Function::LessEqual => ordered(budget, Ordering::is_le),
        Function::Greater => ordered(budget, Ordering::is_gt),
        Function::GreaterEqual => ordered(budget, Ordering::is_ge),
        Function::In => within(&one, &other, budget).map(Value::Bool),
        Function::Index => indexed(&one, &other, budget),
        Function::StartsWith | Function::EndsWith | Function::Contains => {
            let (Value::Text(text), Value::Text(wanted)) = (&one, &other) else { return Err(Failure::WrongType) };
            Ok(Value::Bool(match function {
                Function::StartsWith => text.starts_with(&**wanted),
                Function::EndsWith => text.ends_with(&**wanted),
                _ => {
                    budget.read(text.len())?;
                    text.contains(&**wanted)
                }
            }))
        }
        Function::Add | Function::Subtract | Function::Multiply | Function::Divide | Function::Remainder => {
            calculated(function, one, other, budget)
        }
        part => {
            let (Value::Timestamp(time), Value::Text(zone)) = (&one, &other) else { return Err(Failure::WrongType) };
            let zone = time::zone(zone).ok_or(Failure::Conversion)?;
            time::part(part, *time, zone).map(Value::Int)
        }
    }
}

fn size<'v>(of: &Value<'_>, budget: &mut Budget) -> Made<'v> {
    let size = match of {
        Value::Text(text) => {
            budget.read(text.len())?;
            text.chars().count()
        }
        Value::Bytes(bytes) => bytes.len(),
        of => of.len().ok_or(Failure::WrongType)?,
    };
    i64::try_from(size).map(Value::Int).map_err(|_| Failure::Overflow)
}

/// A text with letters changed; the same where none is to be.
fn changed<'v>(text: Cow<'v, str>, budget: &mut Budget, concerned: fn(&u8) -> bool, change: fn(&str) -> String) -> Made<'v> {
    budget.read(text.len())?;
    Ok(Value::Text(if text.as_bytes().iter().any(concerned) { change(&text).into() } else { text }))
}

fn within(key: &Value<'_>, of: &Value<'_>, budget: &mut Budget) -> Result<bool, Failure> {
    match of {
        Value::Map(_) | Value::Object(_) => Ok(of.get(key, budget)?.is_some()),
        Value::List(elements) => {
            for element in elements.iter() {
                if element.equals(key, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Array(elements) => {
            for element in *elements {
                if Value::from(element).equals(key, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(Failure::WrongType),
    }
}

fn indexed<'v>(of: &Value<'v>, key: &Value<'v>, budget: &mut Budget) -> Made<'v> {
    match of {
        Value::List(_) | Value::Array(_) => of.at(key.position()?).ok_or(Failure::OutOfRange),
        of => of.get(key, budget)?.ok_or(Failure::NoKey),
    }
}

fn calculated<'v>(function: Function, one: Value<'v>, other: Value<'v>, budget: &mut Budget) -> Made<'v> {
    use Function as F;
    let of_int: fn(i64, i64) -> Option<i64> = match function {
        F::Add => i64::checked_add,
        F::Subtract => i64::checked_sub,
        F::Multiply => i64::checked_mul,
        F::Divide => i64::checked_div,
        _ => i64::checked_rem,
    };
    let of_uint: fn(u64, u64) -> Option<u64> = match function {
        F::Add => u64::checked_add,
        F::Subtract => u64::checked_sub,
        F::Multiply => u64::checked_mul,
        F::Divide => u64::checked_div,
        _ => u64::checked_rem,
    };
    let divides = matches!(function, F::Divide | F::Remainder);
    Ok(match (function, one, other) {
        (_, Value::Int(_), Value::Int(0)) | (_, Value::Uint(_), Value::Uint(0)) if divides => return Err(Failure::DivisionByZero),
        (_, Value::Int(one), Value::Int(other)) => Value::Int(of_int(one, other).ok_or(Failure::Overflow)?),
        (_, Value::Uint(one), Value::Uint(other)) => Value::Uint(of_uint(one, other).ok_or(Failure::Overflow)?),
        (F::Add, Value::Double(one), Value::Double(other)) => Value::Double(one + other),
        (F::Subtract, Value::Double(one), Value::Double(other)) => Value::Double(one - other),
        (F::Multiply, Value::Double(one), Value::Double(other)) => Value::Double(one * other),
        (F::Divide, Value::Double(one), Value::Double(other)) => Value::Double(one / other),
        (F::Add, Value::Text(one), Value::Text(other)) => {
            budget.read(one.len() + other.len())?;
            Value::Text((one.into_owned() + &other).into())
        }
        (F::Add, Value::Bytes(one), Value::Bytes(other)) => {
            budget.read(one.len() + other.len())?;
            Value::Bytes([one, other].concat().into())
        }
        (F::Add, one @ (Value::List(_) | Value::Array(_)), other @ (Value::List(_) | Value::Array(_))) => {
            budget.spend(one.len().unwrap_or_default() + other.len().unwrap_or_default())?;
            Value::List([one.elements()?, other.elements()?].concat().into())
        }
        (F::Add, Value::Timestamp(time), Value::Duration(by)) | (F::Add, Value::Duration(by), Value::Timestamp(time)) => {
            Value::Timestamp(time::later(time, by)?)
        }
        (F::Subtract, Value::Timestamp(time), Value::Duration(by)) => Value::Timestamp(time::later(time, -by)?),
        (F::Subtract, Value::Timestamp(one), Value::Timestamp(other)) => Value::Duration(time::within_span(one.duration_since(other))?),
        (F::Add, Value::Duration(one), Value::Duration(other)) => {
            Value::Duration(one.checked_add(other).ok_or(Failure::Overflow).and_then(time::within_span)?)
        }
        (F::Subtract, Value::Duration(one), Value::Duration(other)) => {
            Value::Duration(one.checked_sub(other).ok_or(Failure::Overflow).and_then(time::within_span)?)
        }
        _ => return Err(Failure::WrongType),
    })
}

#[allow(clippy::cast_precision_loss)]
fn converted<'v>(function: Function, of: Value<'v>, budget: &mut Budget) -> Made<'v> {
    if let Value::Text(text) = &of {
        budget.read(text.len())?;
    }
    Ok(match (function, of) {
        (Function::ToBool, of @ Value::Bool(_))
        | (Function::ToInt, of @ Value::Int(_))
        | (Function::ToUint, of @ Value::Uint(_))
        | (Function::ToDouble, of @ Value::Double(_))
        | (Function::ToText, of @ Value::Text(_))
        | (Function::ToBytes, of @ Value::Bytes(_))
        | (Function::ToTimestamp, of @ Value::Timestamp(_))
        | (Function::ToDuration, of @ Value::Duration(_)) => of,
        (Function::ToBool, Value::Text(text)) => Value::Bool(match &*text {
            "1" | "t" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "false" | "FALSE" | "False" => false,
            _ => return Err(Failure::Conversion),
        }),
        (Function::ToInt, Value::Uint(value)) => Value::Int(i64::try_from(value).map_err(|_| Failure::Overflow)?),
        (Function::ToInt, Value::Double(value)) => Value::Int(whole_of(value)?),
        (Function::ToInt, Value::Text(text)) => Value::Int(text.trim_ascii().parse().map_err(|_| Failure::Conversion)?),
        (Function::ToInt, Value::Timestamp(time)) => Value::Int(time::seconds(time)),
        (Function::ToUint, Value::Int(value)) => Value::Uint(u64::try_from(value).map_err(|_| Failure::Overflow)?),
        (Function::ToUint, Value::Double(value)) => Value::Uint(whole_of(value)?),
        (Function::ToUint, Value::Text(text)) => Value::Uint(text.trim_ascii().parse().map_err(|_| Failure::Conversion)?),
        (Function::ToDouble, Value::Int(value)) => Value::Double(value as f64),
        (Function::ToDouble, Value::Uint(value)) => Value::Double(value as f64),
        (Function::ToDouble, Value::Text(text)) => Value::Double(text.trim_ascii().parse().map_err(|_| Failure::Conversion)?),
        (Function::ToText, Value::Bool(value)) => Value::text(if value { "true" } else { "false" }),
        (Function::ToText, Value::Int(value)) => Value::Text(value.to_string().into()),
        (Function::ToText, Value::Uint(value)) => Value::Text(value.to_string().into()),
        (Function::ToText, Value::Double(value)) => Value::Text(written(value).into()),
        (Function::ToText, Value::Bytes(bytes)) => {
            budget.read(bytes.len())?;
            Value::Text(match bytes {
                Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map_err(|_| Failure::Conversion)?.into(),
                Cow::Owned(bytes) => String::from_utf8(bytes).map_err(|_| Failure::Conversion)?.into(),
            })
        }
        (Function::ToText, Value::Timestamp(time)) => Value::Text(time::written_time(time).into()),
        (Function::ToText, Value::Duration(duration)) => Value::Text(time::written(duration).into()),
        (Function::ToBytes, Value::Text(text)) => Value::Bytes(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }),
        (Function::ToTimestamp, Value::Text(text)) => Value::Timestamp(time::timestamp(&text)?),
        (Function::ToTimestamp, Value::Int(seconds)) => Value::Timestamp(time::from_seconds(seconds)?),
        (Function::ToDuration, Value::Text(text)) => Value::Duration(time::duration(&text)?),
        _ => return Err(Failure::WrongType),
    })
}

/// A double as an integer, without its fraction.
fn whole_of<T: TryFrom<i128>>(value: f64) -> Result<T, Failure> {
    whole(value).and_then(|whole| T::try_from(whole).ok()).ok_or(Failure::Overflow)
}

/// The shortest decimal that is read back as the same double; large and small ones with an exponent.
fn written(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => value.to_string(),
    }
}
