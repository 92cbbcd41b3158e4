//! What is made to fail, from its document.

use std::time::{Duration, SystemTime};

use super::matches::fields;
use super::route::duration;
use super::shadow;
use crate::name::Namespace;
use crate::resource::Kind;
use crate::resource::kinds::{FaultPolicy, FaultTarget};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::{Node, Value};
use crate::snapshot::{Abort, AbortAnswer, Bandwidth, Delay, DelayTime, EgressCaller, FieldMatch, NameAnswer, Share};

/// The longest delay: for longer, an exchange may not be silent.
const LONGEST: Duration = crate::snapshot::DEFAULT_IDLE_TIMEOUT;

/// The statuses of gRPC by name, in the order of their numbers.
const GRPC: [(&str, u32); 17] = [
    ("OK", 0),
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<FaultPolicy> {
    let mut object = reader.object(node, "a FaultPolicy's `spec`")?;
    let span = object.span.clone();
    let (targets, ends, matches) = (object.take("targetRefs"), object.take("ends"), object.take("match"));
    let (delay, abort, reset) = (object.take("delay"), object.take("abort"), object.take("reset"));
    let (bandwidth, dns, mode) = (object.take("bandwidth"), object.take("dns"), object.take("mode"));
    reader.end(object);
    let is_anything = [&delay, &abort, &reset, &bandwidth, &dns].iter().any(|part| part.is_some());
    if !is_anything {
        reader.wrong_with(&span, "nothing is made to fail", "say `delay`, `abort`, `reset`, `bandwidth` or `dns`");
    }
    let nodes = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    let targets: Vec<FaultTarget> = nodes.into_iter().filter_map(|node| target(node, reader)).collect();
    let ends_span = ends.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    if ends.is_none() {
        let hint = "write when it stops by itself, as `ends: 2026-11-30T12:00:00Z`; `lorica fault add … --for 10m` does";
        reader.wrong_with(&span, "a FaultPolicy needs `ends`: a fault that nobody remembers must not go on", hint);
    }
    let ends = ends.and_then(|node| time(&node, reader));
    let (headers, callers) = matches.and_then(|node| matched(node, own, reader)).unwrap_or_default();
    let delay = delay.and_then(|node| self::delay(node, reader));
    let abort_span = abort.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let abort = abort.and_then(|node| self::abort(node, reader));
    let reset = reset.and_then(|node| {
        let mut object = reader.object(node, "`reset`")?;
        let share = share(&mut object, reader);
        reader.end(object);
        share
    });
    let bandwidth = bandwidth.and_then(|node| self::bandwidth(node, reader));
    let dns_span = dns.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let dns = dns.and_then(|node| self::dns(node, reader));
    let shadow = shadow(mode, reader);
    Some(FaultPolicy {
        targets,
        ends: ends?,
        ends_span,
        headers,
        callers,
        delay,
        reset,
        abort,
        abort_span,
        bandwidth,
        dns,
        dns_span,
        shadow,
    })
}

fn target(node: Node, reader: &mut Reader<'_>) -> Option<FaultTarget> {
    let mut object = reader.object(node, "a target")?;
    let (group, kind, name) = (object.take("group"), object.take("kind"), object.need("name", reader));
    reader.end(object);
    if let Some(group) = group {
        reader.text(&group, "`group`");
    }
    let words = [("Service", None), ("HTTPRoute", Some(Kind::HttpRoute)), ("GRPCRoute", Some(Kind::GrpcRoute))];
    let route = kind.map_or(Some(None), |node| reader.word(&node, "kind of target", &words))?;
    let node = name?;
    match route {
        None => Some(FaultTarget::Service { name: reader.parsed(&node, "`name`")?, span: node.span }),
        Some(kind) => Some(FaultTarget::Route { kind, name: reader.parsed(&node, "`name`")?, span: node.span }),
    }
}

/// A moment as RFC 3339 writes it.
fn time(node: &Node, reader: &mut Reader<'_>) -> Option<SystemTime> {
    let text = reader.text(node, "`ends`")?;
    let time = text.parse::<jiff::Timestamp>().ok().map(SystemTime::from).filter(|time| *time >= SystemTime::UNIX_EPOCH);
    if time.is_none() {
        reader.wrong_with(&node.span, format!("`{text}` is no time"), "write it with its zone, as `2026-11-30T12:00:00Z`");
    }
    time
}

/// Which calls meet it.
fn matched(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<(Vec<FieldMatch>, Vec<EgressCaller>)> {
    let mut object = reader.object(node, "`match`")?;
    let (headers, callers) = (object.take("headers"), object.take("callers"));
    reader.end(object);
    let span = headers.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let headers = fields(headers, true, reader);
    for field in &headers {
        // Proxies take most of them out of what apps send.
        if field.name.starts_with("x-lorica-") || field.name == "x-forwarded-client-cert" {
            let message = format!("`{}` is the mesh's own word, by which no call can be chosen", field.name);
            reader.wrong_with(&span, message, "match a header that callers send");
        }
    }
    let callers = callers.map(|node| reader.list(node, "`callers`")).unwrap_or_default();
    let callers = callers.into_iter().filter_map(|node| {
        let mut object = reader.object(node, "a caller")?;
        let (namespace, account) = (object.take("namespace"), object.take("account"));
        reader.end(object);
        let namespace = match namespace {
            Some(node) => reader.parsed(&node, "`namespace`")?,
            None => own.clone(),
        };
        let account = match account {
            Some(node) => Some(reader.parsed(&node, "`account`")?),
            None => None,
        };
        Some(EgressCaller { namespace: Some(namespace), account })
    });
    Some((headers, callers.collect()))
}

/// `percent` of a part of the policy; all where none is written.
fn share(object: &mut Object, reader: &mut Reader<'_>) -> Option<Share> {
    let Some(node) = object.take("percent") else { return Some(Share::ALL) };
    let percent = match node.value {
        #[allow(clippy::cast_precision_loss, reason = "what is far beyond 100 is refused")]
        Value::Integer(number) => number as f64,
        Value::Float(number) => number,
        _ => {
            reader.wrong(&node.span, format!("`percent` is a number, not {}", node.what()));
            return None;
        }
    };
    if !(0.0..=100.0).contains(&percent) {
        reader.wrong_with(&node.span, format!("{percent} percent is no share"), "write a number from 0 to 100");
        return None;
    }
    let millionths = percent * 10_000.0;
    reader.bound((millionths - millionths.round()).abs() < 1e-4, &node.span, "`percent` has at most four decimals");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1,000,000")]
    Some(Share(millionths.round() as u32))
}

fn delay(node: Node, reader: &mut Reader<'_>) -> Option<Delay> {
    let mut object = reader.object(node, "`delay`")?;
    let span = object.span.clone();
    let share = share(&mut object, reader);
    let (fixed, uniform, exponential) = (object.take("fixed"), object.take("uniform"), object.take("exponential"));
    reader.end(object);
    let time = match (fixed, uniform, exponential) {
        (Some(node), None, None) => DelayTime::Fixed(length(&node, reader)?),
        (None, Some(node), None) => {
            let mut object = reader.object(node, "`uniform`")?;
            let (from, to) = (object.need("from", reader), object.need("to", reader));
            reader.end(object);
            let (from, to) = (duration(&from?, reader), to?);
            let (from, longest) = (from?, length(&to, reader)?);
            reader.bound(from <= longest, &to.span, "`to` is shorter than `from`");
            DelayTime::Uniform { from, to: longest }
        }
        (None, None, Some(node)) => {
            let mut object = reader.object(node, "`exponential`")?;
            let (mean, most) = (object.need("mean", reader), object.need("most", reader));
            reader.end(object);
            let (mean, most) = (length(&mean?, reader), most?);
            let (mean, longest) = (mean?, length(&most, reader)?);
            reader.bound(mean <= longest, &most.span, "`most` is shorter than `mean`");
            DelayTime::Exponential { mean, most: longest }
        }
        _ => {
            let hint = "write `fixed: 2s`, `uniform: {from: 100ms, to: 2s}` or `exponential: {mean: 200ms, most: 5s}`";
            reader.wrong_with(&span, "a delay is one of `fixed`, `uniform` and `exponential`", hint);
            return None;
        }
    };
    Some(Delay { share: share?, time })
}

/// A time that a call can be delayed by.
fn length(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let length = duration(node, reader)?;
    reader.bound(!length.is_zero(), &node.span, "a delay of no time is none");
    reader.bound(length <= LONGEST, &node.span, "a delay is at most 5m: for longer, an exchange may not be silent");
    Some(length)
}

fn abort(node: Node, reader: &mut Reader<'_>) -> Option<Abort> {
    let mut object = reader.object(node, "`abort`")?;
    let span = object.span.clone();
    let share = share(&mut object, reader);
    let (http, grpc) = (object.take("httpStatus"), object.take("grpcStatus"));
    reader.end(object);
    let answer = match (http, grpc) {
        (Some(node), None) => AbortAnswer::Http(u16::try_from(reader.number(&node, "`httpStatus`", 200..=599)?).ok()?),
        (None, Some(node)) => AbortAnswer::Grpc(grpc_status(&node, reader)?),
        _ => {
            reader.wrong_with(
                &span,
                "an abort is one of `httpStatus` and `grpcStatus`",
                "write `httpStatus: 503` or `grpcStatus: UNAVAILABLE`",
            );
            return None;
        }
    };
    Some(Abort { share: share?, answer })
}

/// A status of gRPC, by name or number.
fn grpc_status(node: &Node, reader: &mut Reader<'_>) -> Option<u32> {
    match node.value {
        Value::Integer(_) => reader.number(node, "`grpcStatus`", 0..=16).and_then(|code| u32::try_from(code).ok()),
        _ => reader.word(node, "status of gRPC", &GRPC),
    }
}

fn bandwidth(node: Node, reader: &mut Reader<'_>) -> Option<Bandwidth> {
    let mut object = reader.object(node, "`bandwidth`")?;
    let share = share(&mut object, reader);
    let rate = object.need("bytesPerSecond", reader);
    reader.end(object);
    let node = rate?;
    let text = reader.text(&node, "`bytesPerSecond`")?;
    let Some(bytes_per_second) = bytes(&text) else {
        reader.wrong_with(&node.span, format!("`{text}` is no number of bytes from 1 to 1 TiB"), "write `50KiB`, `1MiB` or `2000`");
        return None;
    };
    Some(Bandwidth { share: share?, bytes_per_second })
}

/// `2000`, `50KiB`, `50kB`, `1MiB`: a number of bytes, at least one and at most 1 TiB.
fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1)];
    let (number, unit) = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size))).unwrap_or((text, 1));
    let number: u64 = number.trim().parse().ok()?;
    number.checked_mul(unit).filter(|bytes| (1..=1 << 40).contains(bytes))
}

fn dns(node: Node, reader: &mut Reader<'_>) -> Option<(Share, NameAnswer)> {
    let mut object = reader.object(node, "`dns`")?;
    let share = share(&mut object, reader);
    let answer = object.need("answer", reader);
    reader.end(object);
    let words = [("ServerFailure", NameAnswer::ServerFailure), ("NoSuchName", NameAnswer::NoSuchName), ("Timeout", NameAnswer::Timeout)];
    let answer = answer.and_then(|node| reader.word(&node, "answer", &words));
    Some((share?, answer?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_units() {
        for (text, expected) in [
            ("2000", Some(2000)),
            ("50KiB", Some(51_200)),
            ("50 kB", Some(50_000)),
            ("1MiB", Some(1 << 20)),
            ("1B", Some(1)),
            ("0", None),
            ("50K", None),
            ("-1", None),
            ("99999999999999999999GiB", None),
            ("2000GiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
