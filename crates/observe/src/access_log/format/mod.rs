//! Lines in formats that users wrote: a list of operators, filled from a record.
//!
//! What is not set is `-` in a text and `null` in an object. No value forges a line, or a field of one: in texts, quotes, backslashes, control
//! characters and bytes that are no text are escaped; in objects, as JSON has it. What costs something is found out once, when a format comes:
//! host name and variables among it.

mod escape;
#[cfg(test)]
mod tests;
mod value;

use lorica_model::log_format::{LogFields, LogFormat, LogValue, Operator, Part};
use lorica_model::snapshot::AccessLogFormat;

use super::clock::Clock;
use super::line::{LineWriter, decimal, quoted};
use crate::record::Record;
use value::Value;

pub(super) use value::downstream_identity;

/// A format, ready to be filled.
#[derive(Debug)]
pub(super) enum Format {
    /// Lorica's own.
    Own,
    Text(Vec<Piece>),
    Fields(Vec<Field>),
}

#[derive(Debug)]
pub(super) enum Piece {
    Fixed(Box<str>),
    Value { operator: Operator, most: usize },
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    /// The key with its quotes and the colon.
    key: Box<[u8]>,
    value: Filled,
}

#[derive(Debug)]
enum Filled {
    /// What is the same in each line, as JSON.
    Fixed(Box<[u8]>),
    /// A value of its own type.
    Value {
        operator: Operator,
        most: usize,
    },
    Text(Vec<Piece>),
    Fields(Vec<Field>),
    List(Vec<Filled>),
}

impl Format {
    pub(super) fn new(format: &AccessLogFormat) -> Self {
        match format {
            AccessLogFormat::Json => Self::Own,
            AccessLogFormat::Text(format) => Self::Text(pieces(format)),
            AccessLogFormat::Fields(fields) => Self::Fields(self::fields(fields)),
        }
    }

    /// Whether its lines are objects.
    pub(super) fn is_object(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    /// Appends `record` as one line, with its end.
    pub(super) fn write(&self, out: &mut Vec<u8>, record: &Record<'_>, writer: &mut LineWriter, clock: &mut Clock) {
        match self {
            Self::Own => return writer.write(out, record),
            Self::Text(pieces) => text(out, pieces, record, clock),
            Self::Fields(fields) => object(out, fields, record, clock),
        }
        out.push(b'\n');
    }
}

fn pieces(format: &LogFormat) -> Vec<Piece> {
    let piece = |part: &Part| match part {
        Part::Text(text) => Piece::Fixed(text.clone()),
        Part::Value { operator, most } => {
            let most = most.unwrap_or(usize::MAX);
            match fixed(operator) {
                Some(found) => {
                    Piece::Fixed(found.map_or_else(|| "-".into(), |found| escape::text(escape::cut(found.as_bytes(), most)).into()))
                }
                None => Piece::Value { operator: operator.clone(), most },
            }
        }
    };
    format.parts().iter().map(piece).collect()
}

fn fields(fields: &LogFields) -> Vec<Field> {
    let field = |(key, value): (&String, &LogValue)| {
        let mut written = Vec::new();
        quoted(&mut written, key);
        written.push(b':');
        Field { key: written.into(), value: filled(value) }
    };
    fields.iter().map(field).collect()
}

fn filled(value: &LogValue) -> Filled {
    match value {
        LogValue::Fields(inner) => Filled::Fields(fields(inner)),
        LogValue::List(list) => Filled::List(list.iter().map(filled).collect()),
        LogValue::Format(format) => match format.parts() {
            [Part::Value { operator, most }] => {
                let most = most.unwrap_or(usize::MAX);
                match fixed(operator) {
                    Some(None) => Filled::Fixed(b"null".as_slice().into()),
                    Some(Some(found)) => Filled::Fixed(json(&String::from_utf8_lossy(escape::cut(found.as_bytes(), most)))),
                    None => Filled::Value { operator: operator.clone(), most },
                }
            }
            [] => Filled::Fixed(json("")),
            [Part::Text(text)] => Filled::Fixed(json(text)),
            _ => Filled::Text(pieces(format)),
        },
    }
}

fn json(text: &str) -> Box<[u8]> {
    let mut written = Vec::new();
    quoted(&mut written, text);
    written.into()
}

/// What an operator gives that gives the same in each line; the inner is none where it is not set.
#[allow(clippy::option_option, reason = "what is known to be unset is not the same as what is not known yet")]
fn fixed(operator: &Operator) -> Option<Option<String>> {
    match operator {
        Operator::Hostname => Some(
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .ok()
                .map(|name| name.trim_end().to_owned())
                .filter(|name| !name.is_empty()),
        ),
        Operator::Environment(name) => Some(std::env::var_os(&**name).map(|value| value.to_string_lossy().into_owned())),
        _ => None,
    }
}

fn text(out: &mut Vec<u8>, pieces: &[Piece], record: &Record<'_>, clock: &mut Clock) {
    for piece in pieces {
        match piece {
            Piece::Fixed(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Value { operator, most } => match value::of(operator, record, clock) {
                Value::None => out.push(b'-'),
                Value::Number(number) => decimal(out, number),
                Value::Text(text) => escape::into(out, escape::cut(text.as_bytes(), *most)),
                Value::Bytes(bytes) => escape::into(out, escape::cut(&bytes, *most)),
            },
        }
    }
}

fn object(out: &mut Vec<u8>, fields: &[Field], record: &Record<'_>, clock: &mut Clock) {
    let mut before = b'{';
    for field in fields {
        out.push(before);
        before = b',';
        out.extend_from_slice(&field.key);
        typed(out, &field.value, record, clock);
    }
    if before == b'{' {
        out.push(before);
    }
    out.push(b'}');
}

fn typed(out: &mut Vec<u8>, value: &Filled, record: &Record<'_>, clock: &mut Clock) {
    match value {
        Filled::Fixed(json) => out.extend_from_slice(json),
        Filled::Value { operator, most } => match value::of(operator, record, clock) {
            Value::None => out.extend_from_slice(b"null"),
            Value::Number(number) => decimal(out, number),
            Value::Text(text) => quoted(out, &String::from_utf8_lossy(escape::cut(text.as_bytes(), *most))),
            Value::Bytes(bytes) => quoted(out, &String::from_utf8_lossy(escape::cut(&bytes, *most))),
        },
        Filled::Text(pieces) => {
            // What a text within an object consists of is escaped as the whole is, once.
            let mut whole = Vec::new();
            plain(&mut whole, pieces, record, clock);
            quoted(out, &String::from_utf8_lossy(&whole));
        }
        Filled::Fields(fields) => object(out, fields, record, clock),
        Filled::List(list) => {
            let mut before = b'[';
            for value in list {
                out.push(before);
                before = b',';
                typed(out, value, record, clock);
            }
            if before == b'[' {
                out.push(before);
            }
            out.push(b']');
        }
    }
}

/// Pieces without escapes.
fn plain(out: &mut Vec<u8>, pieces: &[Piece], record: &Record<'_>, clock: &mut Clock) {
    for piece in pieces {
        match piece {
            Piece::Fixed(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Value { operator, most } => match value::of(operator, record, clock) {
                Value::None => out.push(b'-'),
                Value::Number(number) => decimal(out, number),
                Value::Text(text) => out.extend_from_slice(escape::cut(text.as_bytes(), *most)),
                Value::Bytes(bytes) => out.extend_from_slice(escape::cut(&bytes, *most)),
            },
        }
    }
}
