//! The evaluation of a checked expression over the attributes of one request or connection, within a budget.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

use super::attribute::{Attribute, Attributes, flag_bits};
use super::check::{EachNode, Node, What};
use super::function;
use super::time;
use super::tree::{EachKind, Literal};
use super::types::Function;
use super::value::Value;
use super::{EvaluationError, Failure};
use crate::snapshot::method_of;

/// How many steps an evaluation takes at most. A comparison of a header takes four.
const MOST_STEPS: usize = 10_000;
/// How many all conditions of a request take at most.
const MOST_TOGETHER: usize = 100_000;
/// How many bytes may be read in a step.
const BYTES: usize = 64;

/// The steps that are left to all conditions of a request. Each of them takes at most 10,000.
#[derive(Debug)]
pub struct Steps(Cell<usize>);

impl Default for Steps {
    fn default() -> Self {
        Self(Cell::new(MOST_TOGETHER))
    }
}

/// The steps that are left to one.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Failure> {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or_default();
        left.map(drop).ok_or(Failure::TooCostly)
    }

    /// Pays for going through so many bytes.
    pub(super) fn read(&mut self, bytes: usize) -> Result<(), Failure> {
        self.spend(bytes / BYTES)
    }
}

pub(super) fn evaluate(node: &Node, attributes: &Attributes<'_>, steps: &Steps) -> Result<bool, EvaluationError> {
    let left = steps.0.get();
    let granted = left.min(MOST_STEPS);
    let mut run = Run { attributes, budget: Budget(granted), variables: Vec::new() };
    let found = run.condition(node);
    steps.0.set(left - granted + run.budget.0);
    found
}

/// What a text expression gives.
pub(super) fn text(node: &Node, attributes: &Attributes<'_>) -> Result<String, EvaluationError> {
    let mut run = Run { attributes, budget: Budget(MOST_STEPS), variables: Vec::new() };
    match run.value(node)? {
        Value::Text(text) => Ok(text.into_owned()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Int(value) => Ok(value.to_string()),
        Value::Uint(value) => Ok(value.to_string()),
        _ => Err(node.failed(Failure::WrongType)),
    }
}

type Evaluated<'v> = Result<Value<'v>, EvaluationError>;

struct Run<'v> {
    attributes: &'v Attributes<'v>,
    budget: Budget,
    variables: Vec<Value<'v>>,
}

impl Node {
    fn failed(&self, failure: Failure) -> EvaluationError {
        EvaluationError { failure, start: self.range.start, end: self.range.end }
    }
}

impl<'v> Run<'v> {
    fn condition(&mut self, node: &'v Node) -> Result<bool, EvaluationError> {
        match self.value(node)? {
            Value::Bool(value) => Ok(value),
            _ => Err(node.failed(Failure::WrongType)),
        }
    }

    fn value(&mut self, node: &'v Node) -> Evaluated<'v> {
        self.budget.spend(1).map_err(|failure| node.failed(failure))?;
        match &node.what {
            What::Literal(literal) => Ok(of_literal(literal)),
            What::Type(kind) => Ok(Value::Type(*kind)),
            What::Attribute(attribute) => self.attribute(*attribute).ok_or_else(|| node.failed(Failure::NoAttribute)),
            What::Present(attribute) => Ok(Value::Bool(attribute.is_fields() || self.attribute(*attribute).is_some())),
            What::Header(map, name) => {
                let found = self.header(*map, name).map_err(|failure| node.failed(failure))?;
                found.map(Value::Text).ok_or_else(|| node.failed(Failure::NoKey))
            }
            What::HasHeader(map, name) => {
                self.header(*map, name).map(|found| Value::Bool(found.is_some())).map_err(|failure| node.failed(failure))
            }
            What::Variable(at) => {
                let value = self.variables.get(*at).cloned().ok_or_else(|| node.failed(Failure::NoKey))?;
                if let Value::Text(Cow::Owned(text)) = &value {
                    self.budget.read(text.len()).map_err(|failure| node.failed(failure))?;
                }
                Ok(value)
            }
            What::Select(of, field) => {
                let found = self.field(of, field)?;
                found.ok_or_else(|| node.failed(Failure::NoKey))
            }
            What::Has(of, field) => Ok(Value::Bool(self.field(of, field)?.is_some())),
            What::All(parts) => self.until(parts, false),
            What::Any(parts) => self.until(parts, true),
            What::Choose(parts) => {
                let [condition, yes, no] = &**parts;
                if self.condition(condition)? { self.value(yes) } else { self.value(no) }
            }
            What::Call(function, arguments) => self.call(*function, arguments, node),
            What::Matches(text, regex) => match self.value(text)? {
                Value::Text(value) => {
                    // A regular expression looks at a byte more closely than a comparison.
                    self.budget.read(value.len().saturating_mul(8)).map_err(|failure| node.failed(failure))?;
                    Ok(Value::Bool(regex.is_match(&value)))
                }
                _ => Err(text.failed(Failure::WrongType)),
            },
            What::List(elements) => {
                let elements: Result<Vec<_>, _> = elements.iter().map(|element| self.value(element)).collect();
                Ok(Value::List(elements?.into()))
            }
            What::Map(entries) => self.map(entries),
            What::Each(each) => self.each(each, node),
        }
    }

    /// `&&` and `||`: one part that decides outweighs mistakes in others, wherever it stands.
    fn until(&mut self, parts: &'v [Node], decides: bool) -> Evaluated<'v> {
        let mut failed = None;
        for part in parts {
            match self.condition(part) {
                Ok(value) if value == decides => return Ok(Value::Bool(decides)),
                Ok(_) => {}
                Err(error) if error.failure == Failure::TooCostly => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    /// The value of a header field; several of a name are joined by commas, as an Envoy does.
    fn header(&mut self, map: Attribute, name: &'v str) -> Result<Option<Cow<'v, str>>, Failure> {
        let attributes = self.attributes;
        let exchange = || attributes.exchange.as_ref().ok_or(Failure::NoAttribute);
        let fields = match map {
            Attribute::ResponseHeaders => exchange()?.headers,
            Attribute::ResponseTrailers => exchange()?.trailers,
            _ => {
                let head = attributes.head.ok_or(Failure::NoAttribute)?;
                if name.eq_ignore_ascii_case("host") {
                    return Ok(Some(Cow::Borrowed(head.authority())));
                }
                Some(&head.fields)
            }
        };
        let mut found: Option<Cow<'v, str>> = None;
        for value in fields.into_iter().flat_map(|fields| fields.get_all(name)) {
            let value = std::str::from_utf8(value).map_err(|_| Failure::Conversion)?;
            found = Some(match found {
                None => Cow::Borrowed(value),
                Some(before) => {
                    self.budget.read(before.len() + value.len())?;
                    Cow::Owned(before.into_owned() + "," + value)
                }
            });
        }
        Ok(found)
    }

    fn field(&mut self, of: &'v Node, field: &str) -> Result<Option<Value<'v>>, EvaluationError> {
        let map = self.value(of)?;
        map.get(&Value::text(field), &mut self.budget).map_err(|failure| of.failed(failure))
    }

    fn attribute(&self, attribute: Attribute) -> Option<Value<'v>> {
        let attributes = self.attributes;
        let path = || Some(attributes.head?.path_and_query());
        let found = match attribute {
            Attribute::Path => Value::text(path()?),
            Attribute::UrlPath => Value::text(path()?.split('?').next().unwrap_or_default()),
            Attribute::Query => {
                let query = path()?.split_once('?').map_or("", |(_, query)| query);
                Value::text(query.split('#').next().unwrap_or_default())
            }
            Attribute::Host => Value::text(attributes.head?.authority()),
            Attribute::Method => Value::text(method_of(attributes.head?)),
            Attribute::Protocol => Value::text(attributes.head?.version.as_str()),
            Attribute::Time => Value::Timestamp(time::from_clock(attributes.head.map(|_| attributes.time)?)?),
            // The check lets nobody have the map itself.
            Attribute::Headers | Attribute::ResponseHeaders | Attribute::ResponseTrailers => return None,
            Attribute::SourceAddress => Value::Text(attributes.source.to_string().into()),
            Attribute::SourcePort => Value::Int(attributes.source.port().into()),
            Attribute::MutualTls => Value::Bool(attributes.identity.is_some()),
            Attribute::RequestedServerName => Value::text(attributes.server_name.unwrap_or_default()),
            Attribute::PeerUri => Value::Text(attributes.identity?.to_string().into()),
            Attribute::Claims => {
                attributes.head?;
                attributes.claims.map_or_else(|| Value::Map(Rc::default()), |claims| Value::Object(claims.as_object()))
            }
            of_exchange => return self.of_exchange(of_exchange),
        };
        Some(found)
    }

    /// What is known once an exchange is over.
    fn of_exchange(&self, attribute: Attribute) -> Option<Value<'v>> {
        let exchange = self.attributes.exchange.as_ref()?;
        let size = |bytes: u64| Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX));
        let time = |duration| jiff::SignedDuration::try_from(duration).ok().map(Value::Duration);
        Some(match attribute {
            Attribute::RequestId => Value::text(exchange.request_id?),
            Attribute::RequestSize => size(exchange.request_size),
            Attribute::RequestDuration => time(exchange.duration)?,
            Attribute::ResponseCode => Value::Int(exchange.code.into()),
            Attribute::ResponseCodeDetails => Value::text(exchange.code_details?),
            Attribute::ResponseFlags => Value::Int(flag_bits(exchange.flags)),
            Attribute::ResponseGrpcStatus => Value::Int(exchange.grpc_status?.into()),
            Attribute::ResponseSize => size(exchange.response_size),
            Attribute::BackendLatency => time(exchange.backend_latency?)?,
            Attribute::DestinationAddress => Value::Text(exchange.destination?.to_string().into()),
            Attribute::DestinationPort => Value::Int(exchange.destination?.port().into()),
            Attribute::UpstreamAddress => Value::Text(exchange.upstream?.to_string().into()),
            Attribute::UpstreamPort => Value::Int(exchange.upstream?.port().into()),
            Attribute::TransportFailure => Value::text(exchange.transport_failure.unwrap_or_default()),
            Attribute::Attempts => Value::Int(exchange.attempts.into()),
            Attribute::RouteName => Value::Text(exchange.route.map(ToString::to_string).unwrap_or_default().into()),
            _ => return None,
        })
    }

    fn call(&mut self, function: Function, arguments: &'v [Node], node: &'v Node) -> Evaluated<'v> {
        let failed = |failure| node.failed(failure);
        match arguments {
            [one] => {
                let one = self.value(one)?;
                function::of_one(function, one, &mut self.budget).map_err(failed)
            }
            [one, other] => {
                let (one, other) = (self.value(one)?, self.value(other)?);
                function::of_two(function, one, other, &mut self.budget).map_err(failed)
            }
            _ => Err(failed(Failure::WrongType)),
        }
    }

    fn map(&mut self, entries: &'v [(Node, Node)]) -> Evaluated<'v> {
        let mut made: Vec<(Value<'v>, Value<'v>)> = Vec::with_capacity(entries.len());
        for (key_node, value) in entries {
            let key = self.value(key_node)?;
            if !matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_)) {
                return Err(key_node.failed(Failure::WrongType));
            }
            for (known, _) in &made {
                if known.equals(&key, &mut self.budget).map_err(|failure| key_node.failed(failure))? {
                    return Err(key_node.failed(Failure::RepeatedKey));
                }
            }
            made.push((key, self.value(value)?));
        }
        Ok(Value::Map(made.into()))
    }

    fn each(&mut self, each: &'v EachNode, node: &'v Node) -> Evaluated<'v> {
        let over = self.value(&each.over)?;
        self.budget.spend(over.len().unwrap_or_default()).map_err(|failure| node.failed(failure))?;
        let elements = over.elements().map_err(|failure| each.over.failed(failure))?;
        let (mut kept, mut count, mut failed) = (Vec::new(), 0_usize, None);
        for element in elements {
            self.variables.push(element.clone());
            let taken = each.filter.as_ref().map_or(Ok(true), |filter| self.condition(filter));
            let made = match (each.kind, &taken) {
                (EachKind::Map, Ok(true)) => each.result.as_ref().map(|result| self.value(result)).transpose(),
                (EachKind::Filter, Ok(true)) => Ok(Some(element)),
                _ => Ok(None),
            };
            self.variables.pop();
            kept.extend(made?);
            match (each.kind, taken) {
                (EachKind::All, Ok(false)) => return Ok(Value::Bool(false)),
                (EachKind::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                (_, Ok(taken)) => count += usize::from(taken),
                (EachKind::All | EachKind::Exists, Err(error)) if error.failure != Failure::TooCostly => failed = failed.or(Some(error)),
                (_, Err(error)) => return Err(error),
            }
        }
        match (each.kind, failed) {
            (EachKind::All | EachKind::Exists, Some(error)) => Err(error),
            (EachKind::All, None) => Ok(Value::Bool(true)),
            (EachKind::Exists, None) => Ok(Value::Bool(false)),
            (EachKind::ExistsOne, _) => Ok(Value::Bool(count == 1)),
            (EachKind::Filter | EachKind::Map, _) => Ok(Value::List(Rc::from(kept))),
        }
    }
}

fn of_literal(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::Text(value) => Value::text(value),
        Literal::Bytes(value) => Value::Bytes(Cow::Borrowed(value)),
    }
}
