//! What proxies tell of exchanges, from its document.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::condition::{expression, formatted};
use super::route::duration;
use super::{GATEWAY_GROUP, reference};
use crate::cel::Expression;
use crate::log_format::{LogFields, LogValue, MOST_DEPTH, MOST_FIELDS};
use crate::name::Namespace;
use crate::resource::Kind;
use crate::resource::kinds::{TelemetryPolicy, TelemetryTarget, WrittenAccessLog, WrittenTracing};
use crate::resource::reader::Reader;
use crate::resource::tree::{Node, Value};
use crate::snapshot::{AccessLog, AccessLogFormat, LogTarget, Share, Slow, Tracing};

/// Whose proxies may be told.
const TARGETS: [(&str, Kind); 2] = [("Service", Kind::Service), ("Gateway", Kind::Gateway)];
/// Where a log may go.
const TO: [(&str, LogTarget); 3] = [("Stdout", LogTarget::Stdout), ("Mesh", LogTarget::Mesh), ("Otlp", LogTarget::Otlp)];
/// From when on an exchange is slow at the latest: longer than any of them may take to be answered.
const SLOWEST: Duration = Duration::from_secs(3600);

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<TelemetryPolicy> {
    let mut object = reader.object(node, "a TelemetryPolicy's `spec`")?;
    let span = object.span.clone();
    let (targets, tracing, log) = (object.take("targetRefs"), object.take("tracing"), object.take("accessLog"));
    if tracing.is_none() && log.is_none() && object.names().next().is_none() {
        reader.wrong_with(&span, "the policy says nothing", "write `tracing: {sampling: 1%}` or `accessLog: {format: Json}`");
    }
    reader.end(object);
    let targets = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    Some(TelemetryPolicy {
        targets: targets.into_iter().filter_map(|node| target(node, own, reader)).collect(),
        tracing: tracing.and_then(|node| self::tracing(node, reader)),
        access_log: log.and_then(|node| access_log(node, reader)),
    })
}

fn target(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<TelemetryTarget> {
    let mut object = reader.object(node, "a target")?;
    let kind = object.take("kind");
    let word = kind.map_or(Some(Kind::Service), |node| reader.word(&node, "kind of target", &TARGETS));
    let group = if word == Some(Kind::Service) { "" } else { GATEWAY_GROUP };
    let named = reference(&mut object, own, (group, word?.as_str()), reader);
    reader.end(object);
    let named = named?;
    if named.group != group {
        let hint = if group.is_empty() { "leave `group` out".to_owned() } else { format!("write `group: {group}`, or leave it out") };
        reader.wrong_with(&named.span, format!("no {} is of the group `{}`", named.kind, named.group), hint);
        return None;
    }
    if named.namespace != *own {
        let message = format!("a policy of `{own}` says nothing of what is in `{}`", named.namespace);
        reader.wrong_with(&named.span, message, format!("put the policy into the namespace `{}`", named.namespace));
        return None;
    }
    Some(TelemetryTarget { kind: word?, object: named })
}

fn tracing(node: Node, reader: &mut Reader<'_>) -> Option<WrittenTracing> {
    let span = node.span.clone();
    let mut object = reader.object(node, "`tracing`")?;
    let (sampling, failed, slower) = (object.take("sampling"), object.take("keepFailed"), object.take("keepSlowerThan"));
    if sampling.is_none() && failed.is_none() && slower.is_none() && object.names().next().is_none() {
        reader.wrong_with(&span, "`tracing` says nothing", "write `sampling: 1%`, `keepFailed: true` or `keepSlowerThan: 1s`");
    }
    reader.end(object);
    let tracing = Tracing {
        sampling: sampling.and_then(|node| percent(&node, reader)),
        keep_failed: failed.and_then(|node| reader.boolean(&node, "`keepFailed`")),
        keep_slower_than: slower.and_then(|node| slow(&node, reader)),
    };
    Some(WrittenTracing { tracing, span })
}

/// `1%`, `0.25%`.
fn percent(node: &Node, reader: &mut Reader<'_>) -> Option<Share> {
    let Value::Text(text) = &node.value else {
        let hint = "write it with its sign, as `1%` or `0.1%`";
        reader.wrong_with(&node.span, format!("`sampling` is a share in percent, not {}", node.what()), hint);
        return None;
    };
    let number =
        text.strip_suffix('%').map(str::trim_end).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
    let Some(percent) = number.and_then(|number| number.parse::<f64>().ok()).filter(|percent| (0.0..=100.0).contains(percent)) else {
        reader.wrong_with(&node.span, format!("`{text}` is no share"), "write `1%`, `0.1%` or `100%`");
        return None;
    };
    let millionths = percent * 10_000.0;
    reader.bound((millionths - millionths.round()).abs() < 1e-4, &node.span, "a share in percent has at most four decimals");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to a million")]
    Some(Share(millionths.round() as u32))
}

fn slow(node: &Node, reader: &mut Reader<'_>) -> Option<Slow> {
    if matches!(&node.value, Value::Text(text) if text == "Never") {
        return Some(Slow::Never);
    }
    let bound = duration(node, reader)?;
    if bound.is_zero() {
        reader.wrong_with(&node.span, "every exchange takes more than no time", "write `sampling: 100%` to keep all, or `Never`");
        return None;
    }
    reader.bound(bound <= SLOWEST, &node.span, "`keepSlowerThan` is at most `1h`, or `Never`");
    Some(Slow::After(bound))
}

fn access_log(node: Node, reader: &mut Reader<'_>) -> Option<WrittenAccessLog> {
    let span = node.span.clone();
    let mut object = reader.object(node, "`accessLog`")?;
    let (format, when, to) = (object.take("format"), object.take("when"), object.take("to"));
    reader.end(object);
    let format = format.map_or(Some(AccessLogFormat::Json), |node| self::format(node, reader));
    let when = when.map(|node| self::when(&node, reader));
    let to = to.map_or_else(|| vec![LogTarget::Stdout], |node| self::to(node, reader));
    let log = AccessLog { format: format?, when: when.unwrap_or(Some(None))?, to };
    Some(WrittenAccessLog { log, span })
}

/// A condition, in the outer of both; the inner is none where nothing was read.
#[allow(clippy::option_option, reason = "a mistake was told, and there is no condition")]
fn when(node: &Node, reader: &mut Reader<'_>) -> Option<Option<Expression>> {
    let read = expression(node, "`when`", Expression::parse_of_exchange, reader)?;
    if let Some(range) = read.macro_range() {
        let hint = "an Envoy evaluates none of these: write `a in ['x', 'y']`, or one condition after the other";
        formatted(node, read.as_str(), range, "a condition of a log goes through no list or map", hint, reader);
        return None;
    }
    Some(Some(read))
}

fn to(node: Node, reader: &mut Reader<'_>) -> Vec<LogTarget> {
    let mut found = Vec::new();
    for node in reader.list(node, "`to`") {
        let Some(target) = reader.word(&node, "place for a log", &TO) else { continue };
        if found.contains(&target) {
            reader.wrong(&node.span, "this place is in the list already");
        } else {
            found.push(target);
        }
    }
    found
}

fn format(node: Node, reader: &mut Reader<'_>) -> Option<AccessLogFormat> {
    if let Value::Text(_) = &node.value {
        return reader.word(&node, "format", &[("Json", ())]).map(|()| AccessLogFormat::Json);
    }
    let span = node.span.clone();
    let mut object = reader.object(node, "`format`")?;
    let (text, json) = (object.take("text"), object.take("json"));
    let left = object.names().next().is_some();
    reader.end(object);
    match (text, json) {
        (Some(text), None) => log_format(&text, reader).map(AccessLogFormat::Text),
        (None, Some(json)) => {
            let (mut count, json_span) = (0, json.span.clone());
            let fields = fields(json, 1, &mut count, reader)?;
            reader.bound((1..=MOST_FIELDS).contains(&count), &json_span, format!("an object of a log has 1 to {MOST_FIELDS} values"));
            Some(AccessLogFormat::Fields(fields))
        }
        (None, None) => {
            if !left {
                reader.wrong_with(&span, "the format is empty", "write `Json`, `{text: '…'}` or `{json: {key: '%OPERATOR%'}}`");
            }
            None
        }
        (Some(_), Some(json)) => {
            reader.wrong_with(&json.span, "a format is `text` or `json`, not both", "make two policies of it for two places");
            None
        }
    }
}

fn log_format(node: &Node, reader: &mut Reader<'_>) -> Option<crate::log_format::LogFormat> {
    expression(node, "a format", crate::log_format::LogFormat::parse, reader)
}

fn fields(node: Node, depth: usize, count: &mut usize, reader: &mut Reader<'_>) -> Option<LogFields> {
    let span = node.span.clone();
    let Value::Map(written) = node.value else {
        reader.wrong(&span, format!("an object of formats is an object, not {}", node.what()));
        return None;
    };
    let mut found = BTreeMap::new();
    for (key, node) in written {
        match found.entry(key.name) {
            Entry::Occupied(known) => reader.wrong(&key.span, format!("`{}` is there twice", known.key())),
            Entry::Vacant(place) => {
                if let Some(value) = value(node, depth, count, reader) {
                    place.insert(value);
                }
            }
        }
    }
    Some(found)
}

fn value(node: Node, depth: usize, count: &mut usize, reader: &mut Reader<'_>) -> Option<LogValue> {
    *count += 1;
    if depth > MOST_DEPTH {
        reader.wrong(&node.span, format!("objects of a log stand in each other at most {MOST_DEPTH} deep"));
        return None;
    }
    match &node.value {
        Value::Text(_) => log_format(&node, reader).map(LogValue::Format),
        Value::Map(_) => fields(node, depth + 1, count, reader).map(LogValue::Fields),
        Value::List(_) => {
            let nodes = reader.list(node, "a list of formats");
            Some(LogValue::List(nodes.into_iter().filter_map(|node| value(node, depth + 1, count, reader)).collect()))
        }
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
            reader.wrong_with(&node.span, format!("a value of a log is a text with operators, not {}", node.what()), "write it in quotes");
            None
        }
    }
}
