//! From a tree to what is evaluated: names are found, types hold together, patterns are compiled. All mistakes are told at once.

use std::collections::BTreeSet;
use std::ops::Range;

use regex::Regex;

use super::Wrong;
use super::attribute::{ATTRIBUTES, Attribute, Scope};
use super::time;
use super::tree::{Each, EachKind, Literal, Operator, Term, Tree};
use super::types::{Function, Kind, OVERLOADS, Overload, Type};
use crate::resource::nearest;
use crate::snapshot::Pattern;

/// A part of an expression, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) what: What,
    pub(super) range: Range<usize>,
}

#[derive(Debug)]
pub(super) enum What {
    Literal(Literal),
    Type(Kind),
    Attribute(Attribute),
    /// Whether an attribute is there.
    Present(Attribute),
    /// The value of a header field, of one of the maps of such.
    Header(Attribute, Box<str>),
    /// Whether there is such a header field.
    HasHeader(Attribute, Box<str>),
    /// The element of a macro, counted from the outermost.
    Variable(usize),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Choose(Box<[Node; 3]>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Regex),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Each(Box<EachNode>),
}

/// A macro.
#[derive(Debug)]
pub(super) struct EachNode {
    pub(super) kind: EachKind,
    pub(super) over: Node,
    pub(super) filter: Option<Node>,
    pub(super) result: Option<Node>,
}

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    /// A condition: true or false.
    Condition,
    /// A text, or what has one form as a text.
    Text,
}

/// What an expression becomes, and what it asks about.
pub(super) fn check(tree: &Tree, scope: Scope, gives: Gives) -> Result<(Node, BTreeSet<Attribute>), Vec<Wrong>> {
    let mut check = Check { wrong: Vec::new(), variables: Vec::new(), attributes: BTreeSet::new(), scope };
    let (node, found) = if gives == Gives::Text { check.value(tree) } else { check.part(tree) };
    if gives == Gives::Text {
        if check.wrong.is_empty() && !matches!(found.kind(), Kind::Text | Kind::Bool | Kind::Int | Kind::Uint) {
            let message = format!("the expression gives {}, which is no text", article(&found));
            check.wrong.push(Wrong::new(tree.range.clone(), message).hint("it may give a string, a bool, an int or a uint"));
        }
    } else if !found.meets(&Type::BOOL) {
        let message = format!("the expression gives {}, and a condition is true or false", article(&found));
        check.wrong.push(Wrong::new(tree.range.clone(), message));
    }
    if check.wrong.is_empty() { Ok((node, check.attributes)) } else { Err(check.wrong) }
}

struct Check<'t> {
    wrong: Vec<Wrong>,
    variables: Vec<(&'t str, Type)>,
    attributes: BTreeSet<Attribute>,
    scope: Scope,
}

impl<'t> Check<'t> {
    fn wrong(&mut self, range: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.wrong.push(Wrong { range: range.clone(), message: message.into(), hint });
    }

    /// Stands where a mistake was told, so that it is not told again.
    fn unknown() -> (What, Type) {
        (What::Literal(Literal::Null), Type::DYN)
    }

    fn part(&mut self, tree: &'t Tree) -> (Node, Type) {
        let (what, of) = self.term(tree);
        (Node { what, range: tree.range.clone() }, of)
    }

    /// A part that is used as a value.
    fn value(&mut self, tree: &'t Tree) -> (Node, Type) {
        let (node, of) = self.part(tree);
        if of.kind() != Kind::Headers {
            return (node, of);
        }
        let hint = "`request.headers['x-name']` is one, and `'x-name' in request.headers` asks whether there is one";
        self.wrong(&tree.range, "header fields can only be asked for by name", Some(hint.to_owned()));
        (node, Type::DYN)
    }

    fn values(&mut self, trees: impl IntoIterator<Item = &'t Tree>) -> (Vec<Node>, Vec<Type>) {
        trees.into_iter().map(|tree| self.value(tree)).unzip()
    }

    /// A part that must be true or false.
    fn condition(&mut self, tree: &'t Tree) -> Node {
        let (node, of) = self.value(tree);
        if !of.meets(&Type::BOOL) {
            self.wrong(&tree.range, format!("{} stands where true or false is needed", article(&of)), None);
        }
        node
    }

    fn term(&mut self, tree: &'t Tree) -> (What, Type) {
        match &tree.term {
            Term::Literal(literal) => (What::Literal(literal.clone()), Type::Plain(kind_of(literal))),
            Term::Name(name) => self.name(name, &tree.range),
            Term::Select { of, field } => match self.attribute(of, field, &tree.range) {
                Some(Ok(attribute)) => (What::Attribute(attribute), of_attribute(attribute)),
                Some(Err(())) => Self::unknown(),
                None => self.select(of, field, &tree.range),
            },
            Term::Has { of, field } => match self.attribute(of, field, &tree.range) {
                Some(Ok(attribute)) => (What::Present(attribute), Type::BOOL),
                Some(Err(())) => Self::unknown(),
                None => self.has(of, field, &tree.range),
            },
            Term::All(parts) => (What::All(parts.iter().map(|part| self.condition(part)).collect()), Type::BOOL),
            Term::Any(parts) => (What::Any(parts.iter().map(|part| self.condition(part)).collect()), Type::BOOL),
            Term::Operator(operator, operands) => self.operator(*operator, operands, &tree.range),
            Term::Call { receiver, function, name, arguments } => self.call(receiver.as_deref(), function, name, arguments),
            Term::List(elements) => {
                let (nodes, types) = self.values(elements);
                (What::List(nodes), Type::List(Box::new(joined(types))))
            }
            Term::Map(entries) => self.map(entries),
            Term::Each(each) => self.each(each),
        }
    }

    fn name(&mut self, name: &str, range: &Range<usize>) -> (What, Type) {
        if let Some(at) = self.variables.iter().rposition(|(known, _)| *known == name) {
            let of = self.variables.get(at).map_or(Type::DYN, |(_, of)| of.clone());
            return (What::Variable(at), of);
        }
        if let Some((_, attribute)) = self.scope.attributes().find(|(known, _)| *known == name) {
            self.attributes.insert(attribute);
            return (What::Attribute(attribute), of_attribute(attribute));
        }
        if let Some(kind) = Kind::NAMED.into_iter().find(|kind| kind.name() == name) {
            return (What::Type(kind), Type::Plain(Kind::Type));
        }
        let roots = self.scope.roots();
        if roots.contains(&name) {
            let within = names(self.scope).filter(|known| known.split('.').next() == Some(name)).collect::<Vec<_>>().join("`, `");
            self.wrong(range, format!("`{name}` is no value of its own"), Some(format!("name one of `{within}`")));
            return Self::unknown();
        }
        let claims = Some("claims").filter(|_| self.scope == Scope::Request);
        let near = nearest(name, roots.iter().copied().chain(claims).chain(self.variables.iter().map(|(known, _)| *known)));
        let hint = match near {
            _ if self.scope == Scope::Exchange && name == "claims" => {
                "what a token says is not told to the log; a policy can pass a claim on in a header field".to_owned()
            }
            _ if name == "response" => "a request is judged before it is answered".to_owned(),
            _ if name == "destination" => "the port that is called is for `ports` of `to`".to_owned(),
            Some(near) => format!("did you mean `{near}`?"),
            None if self.scope == Scope::Request => "there are `request`, `source`, `connection` and `claims`".to_owned(),
            None => format!("there are `{}`", roots.join("`, `")),
        };
        self.wrong(range, format!("`{name}` is not known"), Some(hint));
        Self::unknown()
    }

    /// The attribute that `of.field` names; none where it names something else.
    fn attribute(&mut self, of: &Tree, field: &str, range: &Range<usize>) -> Option<Result<Attribute, ()>> {
        let Term::Name(root) = &of.term else { return None };
        if !self.scope.roots().contains(&&**root) || self.variables.iter().any(|(known, _)| known == &&**root) {
            return None;
        }
        let name = format!("{root}.{field}");
        if let Some((_, attribute)) = self.scope.attributes().find(|(known, _)| *known == name) {
            self.attributes.insert(attribute);
            return Some(Ok(attribute));
        }
        let hint = match name.as_str() {
            "source.namespace" => Some("`source.identity` is `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`".to_owned()),
            "source.service" | "source.account" => {
                Some("`source.identity` ends in the account: `source.identity.endsWith('/sa/NAME')`".to_owned())
            }
            "response.duration" => Some("`request.duration` is the time of the whole exchange".to_owned()),
            _ if ATTRIBUTES.iter().any(|(known, _)| *known == name) => {
                Some("it is known once a request is over, and this is before".to_owned())
            }
            _ => nearest(&name, names(self.scope)).map(|near| format!("did you mean `{near}`?")),
        };
        self.wrong(range, format!("there is no attribute `{name}`"), hint);
        Some(Err(()))
    }

    fn select(&mut self, of: &'t Tree, field: &str, range: &Range<usize>) -> (What, Type) {
        let (node, found) = self.part(of);
        match found {
            Type::Plain(Kind::Headers) => (What::Header(fields_of(&node), field.into()), Type::TEXT),
            Type::Plain(Kind::Dyn) => (What::Select(Box::new(node), field.into()), Type::DYN),
            Type::Map(entry) if entry.0.meets(&Type::TEXT) => (What::Select(Box::new(node), field.into()), entry.1),
            other => {
                self.no_fields(&other, field, range);
                Self::unknown()
            }
        }
    }

    fn has(&mut self, of: &'t Tree, field: &str, range: &Range<usize>) -> (What, Type) {
        let (node, found) = self.part(of);
        match found {
            Type::Plain(Kind::Headers) => (What::HasHeader(fields_of(&node), field.into()), Type::BOOL),
            Type::Plain(Kind::Dyn) => (What::Has(Box::new(node), field.into()), Type::BOOL),
            Type::Map(entry) if entry.0.meets(&Type::TEXT) => (What::Has(Box::new(node), field.into()), Type::BOOL),
            other => {
                self.no_fields(&other, field, range);
                Self::unknown()
            }
        }
    }

    fn no_fields(&mut self, of: &Type, field: &str, range: &Range<usize>) {
        let hint = OVERLOADS
            .iter()
            .any(|overload| overload.method && overload.name == field)
            .then(|| format!("a function is called: `{field}(…)`"));
        self.wrong(range, format!("{} has no field `{field}`", article(of)), hint);
    }

    fn operator(&mut self, operator: Operator, operands: &'t [Tree], range: &Range<usize>) -> (What, Type) {
        if let (Operator::Index | Operator::In, [one, other]) = (operator, operands) {
            let (of, key) = if operator == Operator::Index { (one, other) } else { (other, one) };
            let (of, found) = self.part(of);
            let (key_node, key_type) = self.value(key);
            if found.kind() == Kind::Headers {
                let (map, name) = (fields_of(&of), self.field_name(&key_node));
                return if operator == Operator::Index {
                    (What::Header(map, name), Type::TEXT)
                } else {
                    (What::HasHeader(map, name), Type::BOOL)
                };
            }
            return if operator == Operator::Index {
                let gives = self.indexed(&found, &key_type, range);
                (What::Call(Function::Index, vec![of, key_node]), gives)
            } else {
                self.within(&found, &key_type, range);
                (What::Call(Function::In, vec![key_node, of]), Type::BOOL)
            };
        }
        if let (Operator::Choose, [condition, yes, no]) = (operator, operands) {
            let condition = self.condition(condition);
            let ((yes, one), (no, other)) = (self.value(yes), self.value(no));
            if !one.meets(&other) {
                self.wrong(
                    range,
                    format!("the choice is between {} and {}: both must be of one type", article(&one), article(&other)),
                    None,
                );
            }
            return (What::Choose(Box::new([condition, yes, no])), one.join(&other));
        }
        let (nodes, types) = self.values(operands);
        let function = match operator {
            Operator::Not => Function::Not,
            Operator::Negate => Function::Negate,
            Operator::Multiply => Function::Multiply,
            Operator::Divide => Function::Divide,
            Operator::Remainder => Function::Remainder,
            Operator::Add => Function::Add,
            Operator::Subtract => Function::Subtract,
            Operator::Less => Function::Less,
            Operator::LessEqual => Function::LessEqual,
            Operator::Greater => Function::Greater,
            Operator::GreaterEqual => Function::GreaterEqual,
            Operator::Equal => Function::Equal,
            Operator::NotEqual => Function::NotEqual,
            Operator::In => Function::In,
            Operator::Index | Operator::Choose => Function::Index,
        };
        let gives = match types.as_slice() {
            [of] => one_operand(operator, of),
            [one, other] => two_operands(operator, one, other),
            _ => None,
        };
        let gives = gives.unwrap_or_else(|| {
            let shown: Vec<String> = types.iter().map(article).collect();
            let hint = differing_numbers(&types).then(|| "make one of them the other's type: `int(…)`, `uint(…)`, `double(…)`".to_owned());
            self.wrong(range, format!("`{}` does not take {}", operator.symbol(), shown.join(" and ")), hint);
            Type::DYN
        });
        (What::Call(function, nodes), gives)
    }

    /// The name of a header field: no caller chooses which one is looked at.
    fn field_name(&mut self, key: &Node) -> Box<str> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        match &key.what {
            What::Literal(Literal::Text(name)) if !name.is_empty() && name.bytes().all(token) => name.clone(),
            _ => {
                let hint = "write it as a text: `request.headers['x-name']`; path, method and host are `request.path`, `request.method` and `request.host`";
                self.wrong(&key.range, "this is no name of a header field", Some(hint.to_owned()));
                Box::default()
            }
        }
    }

    fn indexed(&mut self, of: &Type, key: &Type, range: &Range<usize>) -> Type {
        let number = key.is_dyn() || key.kind() == Kind::Int;
        match of {
            Type::Plain(Kind::Dyn) => Type::DYN,
            Type::List(element) if number => (**element).clone(),
            Type::Map(entry) if entry.0.meets(key) => entry.1.clone(),
            _ => {
                self.wrong(range, format!("{} has nothing under {}", article(of), article(key)), None);
                Type::DYN
            }
        }
    }

    fn within(&mut self, of: &Type, key: &Type, range: &Range<usize>) {
        let fits = match of {
            Type::Plain(Kind::Dyn) => true,
            Type::List(element) => element.meets(key),
            Type::Map(entry) => entry.0.meets(key),
            Type::Plain(_) => false,
        };
        if !fits {
            let hint = (of.kind() == Kind::Text).then(|| "whether a text is within another asks `text.contains('…')`".to_owned());
            self.wrong(range, format!("{} is never in {}", article(key), article(of)), hint);
        }
    }

    fn call(&mut self, receiver: Option<&'t Tree>, name: &str, place: &Range<usize>, arguments: &'t [Tree]) -> (What, Type) {
        let (mut nodes, types) = self.values(receiver.into_iter().chain(arguments));
        let method = receiver.is_some();
        let named: Vec<&Overload> = OVERLOADS.iter().filter(|overload| overload.name == name && overload.method == method).collect();
        if named.is_empty() {
            self.no_function(name, method, place);
            return Self::unknown();
        }
        let taking: Vec<&Overload> = named.iter().copied().filter(|overload| overload.takes.len() == types.len()).collect();
        let Some(any) = taking.first() else {
            let mut counts: Vec<usize> = named.iter().map(|overload| overload.takes.len() - usize::from(method)).collect();
            counts.dedup();
            counts.sort_unstable();
            counts.dedup();
            let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
            let message = format!("`{name}` takes {} arguments, and {} are given", counts.join(" or "), arguments.len());
            self.wrong(place, message, None);
            return Self::unknown();
        };
        let fits = |overload: &Overload| {
            overload.takes.iter().zip(&types).all(|(kind, of)| *kind == Kind::Dyn || of.is_dyn() || *kind == of.kind())
        };
        if !taking.iter().any(|overload| fits(overload)) {
            let shown: Vec<String> = types.iter().map(article).collect();
            self.wrong(place, format!("`{name}` does not take {}", shown.join(" and ")), None);
            return Self::unknown();
        }
        let gives = if any.function == Function::ToDyn { Type::DYN } else { Type::Plain(any.gives) };
        match any.function {
            Function::Matches => self.matches(nodes, place),
            Function::FullYear
            | Function::Month
            | Function::DayOfYear
            | Function::DayOfMonth
            | Function::Date
            | Function::DayOfWeek
            | Function::Hours
            | Function::Minutes
            | Function::Seconds
            | Function::Milliseconds => {
                if let Some(Node { what: What::Literal(Literal::Text(zone)), range }) = nodes.get(1)
                    && time::zone(zone).is_none()
                {
                    let hint = "write `UTC` or the difference to it, for example `+01:00`";
                    self.wrong(&range.clone(), format!("`{zone}` is no zone that is known"), Some(hint.to_owned()));
                }
                (What::Call(any.function, nodes), gives)
            }
            Function::ToDyn => (nodes.pop().map_or(What::Literal(Literal::Null), |node| node.what), gives),
            function => (What::Call(function, nodes), gives),
        }
    }

    fn no_function(&mut self, name: &str, method: bool, place: &Range<usize>) {
        let other = OVERLOADS.iter().any(|overload| overload.name == name);
        let hint = if other && method {
            Some(format!("it stands before its argument: `{name}(…)`"))
        } else if other {
            Some(format!("it stands behind its text: `….{name}(…)`"))
        } else {
            let macros = ["all", "exists", "exists_one", "filter", "map", "has"];
            nearest(name, OVERLOADS.iter().map(|overload| overload.name).chain(macros)).map(|near| format!("did you mean `{near}`?"))
        };
        let message = if other { format!("`{name}` is not called so") } else { format!("there is no function `{name}`") };
        self.wrong(place, message, hint);
    }

    /// Patterns are compiled here and nowhere else: one that came with a request could cost what its sender likes.
    fn matches(&mut self, nodes: Vec<Node>, place: &Range<usize>) -> (What, Type) {
        let mut nodes = nodes.into_iter();
        let (Some(text), Some(pattern)) = (nodes.next(), nodes.next()) else { return Self::unknown() };
        let What::Literal(Literal::Text(written)) = &pattern.what else {
            self.wrong(
                &pattern.range,
                "the pattern of `matches` must be a literal",
                Some("it is compiled once, not for each request".to_owned()),
            );
            return Self::unknown();
        };
        match Pattern::anywhere(written) {
            Ok(regex) => (What::Matches(Box::new(text), regex), Type::BOOL),
            Err(error) => {
                let range = if pattern.range.is_empty() { place } else { &pattern.range };
                self.wrong(range, format!("the pattern is no regular expression: {error}"), None);
                Self::unknown()
            }
        }
    }

    fn map(&mut self, entries: &'t [(Tree, Tree)]) -> (What, Type) {
        let (mut nodes, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in entries {
            let ((key_node, key_type), (value_node, value_type)) = (self.value(key), self.value(value));
            if !matches!(key_type.kind(), Kind::Dyn | Kind::Bool | Kind::Int | Kind::Uint | Kind::Text) {
                self.wrong(
                    &key.range,
                    format!("{} is no key of a map", article(&key_type)),
                    Some("keys are strings, integers or bools".to_owned()),
                );
            }
            nodes.push((key_node, value_node));
            keys.push(key_type);
            values.push(value_type);
        }
        (What::Map(nodes), Type::Map(Box::new((joined(keys), joined(values)))))
    }

    fn each(&mut self, each: &'t Each) -> (What, Type) {
        let (over, found) = self.value(&each.over);
        let element = match &found {
            Type::Plain(Kind::Dyn) => Type::DYN,
            Type::List(element) => (**element).clone(),
            Type::Map(entry) => entry.0.clone(),
            Type::Plain(_) => {
                self.wrong(&each.over.range, format!("{} is no list or map that could be gone through", article(&found)), None);
                Type::DYN
            }
        };
        self.variables.push((&each.variable, element.clone()));
        let filter = each.filter.as_ref().map(|filter| self.condition(filter));
        let (result, result_type) = each.result.as_ref().map(|result| self.value(result)).unzip();
        self.variables.pop();
        let gives = match each.kind {
            EachKind::All | EachKind::Exists | EachKind::ExistsOne => Type::BOOL,
            EachKind::Filter => Type::List(Box::new(element)),
            EachKind::Map => Type::List(Box::new(result_type.unwrap_or(Type::DYN))),
        };
        (What::Each(Box::new(EachNode { kind: each.kind, over, filter, result })), gives)
    }
}

fn names(scope: Scope) -> impl Iterator<Item = &'static str> {
    scope.attributes().map(|(name, _)| name)
}

/// Which map of header fields a part is.
fn fields_of(node: &Node) -> Attribute {
    match node.what {
        What::Attribute(map) => map,
        _ => Attribute::Headers,
    }
}

fn kind_of(literal: &Literal) -> Kind {
    match literal {
        Literal::Null => Kind::Null,
        Literal::Bool(_) => Kind::Bool,
        Literal::Int(_) => Kind::Int,
        Literal::Uint(_) => Kind::Uint,
        Literal::Double(_) => Kind::Double,
        Literal::Text(_) => Kind::Text,
        Literal::Bytes(_) => Kind::Bytes,
    }
}

fn of_attribute(attribute: Attribute) -> Type {
    match attribute.kind() {
        Kind::Map => Type::Map(Box::new((Type::TEXT, Type::DYN))),
        kind => Type::Plain(kind),
    }
}

fn joined(types: Vec<Type>) -> Type {
    types.into_iter().reduce(|one, other| one.join(&other)).unwrap_or(Type::DYN)
}

fn article(of: &Type) -> String {
    match of.kind() {
        Kind::Null => "null".to_owned(),
        Kind::Int => "an int".to_owned(),
        Kind::Dyn => "anything".to_owned(),
        Kind::Bytes | Kind::Headers => of.to_string(),
        _ => format!("a {of}"),
    }
}

fn differing_numbers(types: &[Type]) -> bool {
    types.iter().all(|of| of.kind().is_number())
}

fn one_operand(operator: Operator, of: &Type) -> Option<Type> {
    match operator {
        Operator::Not => of.meets(&Type::BOOL).then_some(Type::BOOL),
        _ => matches!(of.kind(), Kind::Dyn | Kind::Int | Kind::Double).then(|| of.clone()),
    }
}

fn two_operands(operator: Operator, one: &Type, other: &Type) -> Option<Type> {
    let (left, right) = (one.kind(), other.kind());
    let either_dyn = one.is_dyn() || other.is_dyn();
    match operator {
        Operator::Equal | Operator::NotEqual => one.meets(other).then_some(Type::BOOL),
        Operator::Less | Operator::LessEqual | Operator::Greater | Operator::GreaterEqual => {
            let ordered = |kind: Kind| kind == Kind::Dyn || kind.is_ordered();
            let fit = either_dyn || left == right || (left.is_number() && right.is_number());
            (ordered(left) && ordered(right) && fit).then_some(Type::BOOL)
        }
        Operator::Add if matches!((left, right), (Kind::List, Kind::List)) => {
            Some(one.clone().join(other)).map(|of| if of.is_dyn() { Type::List(Box::new(Type::DYN)) } else { of })
        }
        _ => {
            let takes = |kind: Kind| match operator {
                Operator::Remainder => matches!(kind, Kind::Int | Kind::Uint),
                Operator::Add => {
                    kind.is_number() || matches!(kind, Kind::Text | Kind::Bytes | Kind::Timestamp | Kind::Duration | Kind::List)
                }
                Operator::Subtract => kind.is_number() || matches!(kind, Kind::Timestamp | Kind::Duration),
                _ => kind.is_number(),
            };
            if either_dyn {
                return [left, right].into_iter().all(|kind| kind == Kind::Dyn || takes(kind)).then_some(Type::DYN);
            }
            let gives = match (operator, left, right) {
                (Operator::Add, Kind::Timestamp, Kind::Duration) | (Operator::Add, Kind::Duration, Kind::Timestamp) => Kind::Timestamp,
                (Operator::Subtract, Kind::Timestamp, Kind::Duration) => Kind::Timestamp,
                (Operator::Subtract, Kind::Timestamp, Kind::Timestamp) => Kind::Duration,
                (_, Kind::Timestamp, _) | (_, _, Kind::Timestamp) => return None,
                _ if left == right && takes(left) => left,
                _ => return None,
            };
            Some(Type::Plain(gives))
        }
    }
}
