//! Conditions in the Common Expression Language as Envoy takes them: trees whose operators are calls. They say the same there, since the attributes
//! have Envoy's names.

use envoy_types::pb::envoy::config::core::v3::CelExpressionConfig;
use envoy_types::pb::google::api::expr::v1alpha1::{Constant, Expr, constant::ConstantKind, expr, expr::ExprKind};
use lorica_model::cel::{Expression, Literal, Operator, Term, Tree};

use super::authentication::{CLAIMS, FILTER};

/// A condition in Envoy's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// For the `condition` of a policy of RBAC.
    pub expression: Expr,
    /// For its `cel_config`: what of the language Envoy must be told to allow.
    pub allowed: Option<CelExpressionConfig>,
}

/// What `expression` says; none where it has a macro, of which Envoy evaluates none. Claims are where Envoy's filter for tokens puts them.
#[must_use]
pub fn condition(expression: &Expression) -> Option<Condition> {
    said(|encoder| encoder.part(expression.tree()))
}

/// That each of `expressions` is false; none where there are none, or one has a macro.
#[must_use]
pub fn none_of(expressions: &[&Expression]) -> Option<Condition> {
    said(|encoder| {
        let not = |expression: &&Expression| {
            let said = encoder.part(expression.tree())?;
            Some(encoder.call(None, Operator::Not.name(), vec![said]))
        };
        let parts = expressions.iter().map(not).collect::<Option<Vec<_>>>()?;
        (!parts.is_empty()).then(|| encoder.balanced("_&&_", parts))
    })
}

/// What `expression` says as text for an Envoy, which has a longer name for a caller's identity.
#[must_use]
pub fn text(expression: &Expression) -> String {
    let mut places = Vec::new();
    identities(expression.tree(), &mut places);
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    let mut text = expression.as_str().to_owned();
    for place in places {
        text.replace_range(place, "connection.uri_san_peer_certificate");
    }
    text
}

/// What of the language an Envoy must be told to allow for `expression`.
#[must_use]
pub fn allowed(expression: &Expression) -> Option<CelExpressionConfig> {
    condition(expression).and_then(|condition| condition.allowed)
}

/// Where `source.identity` stands.
fn identities(tree: &Tree, places: &mut Vec<std::ops::Range<usize>>) {
    let mut all = |trees: &[Tree]| trees.iter().for_each(|tree| identities(tree, places));
    match &tree.term {
        Term::Select { of, field } if &**field == "identity" && matches!(&of.term, Term::Name(root) if &**root == "source") => {
            places.push(tree.range.clone());
        }
        Term::Has { of, field } if &**field == "identity" && matches!(&of.term, Term::Name(root) if &**root == "source") => {
            // `has(source.identity)`: the place of what is in the brackets is not the whole.
            places.push(of.range.start..of.range.start + "source.identity".len());
        }
        Term::Select { of, .. } | Term::Has { of, .. } => identities(of, places),
        Term::All(parts) | Term::Any(parts) | Term::List(parts) | Term::Operator(_, parts) => all(parts),
        Term::Call { receiver, arguments, .. } => {
            all(arguments);
            if let Some(receiver) = receiver {
                identities(receiver, places);
            }
        }
        Term::Map(entries) => entries.iter().for_each(|(key, value)| {
            identities(key, places);
            identities(value, places);
        }),
        // No Envoy is sent one.
        Term::Each(_) | Term::Literal(_) | Term::Name(_) => {}
    }
}

fn said(expression: impl FnOnce(&mut Encoder) -> Option<Expr>) -> Option<Condition> {
    let mut encoder = Encoder { ids: 0, allowed: CelExpressionConfig::default() };
    let expression = expression(&mut encoder)?;
    Some(Condition { expression, allowed: Some(encoder.allowed).filter(|allowed| *allowed != CelExpressionConfig::default()) })
}

struct Encoder {
    /// Every part has a number of its own.
    ids: i64,
    allowed: CelExpressionConfig,
}

impl Encoder {
    fn made(&mut self, kind: ExprKind) -> Expr {
        self.ids += 1;
        Expr { id: self.ids, expr_kind: Some(kind) }
    }

    fn constant(&mut self, kind: ConstantKind) -> Expr {
        self.made(ExprKind::ConstExpr(Constant { constant_kind: Some(kind) }))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.made(ExprKind::IdentExpr(expr::Ident { name: name.to_owned() }))
    }

    fn field(&mut self, of: Expr, field: &str, test_only: bool) -> Expr {
        let select = expr::Select { operand: Some(Box::new(of)), field: field.to_owned(), test_only };
        self.made(ExprKind::SelectExpr(Box::new(select)))
    }

    fn call(&mut self, target: Option<Expr>, function: &str, args: Vec<Expr>) -> Expr {
        let call = expr::Call { target: target.map(Box::new), function: function.to_owned(), args };
        self.made(ExprKind::CallExpr(Box::new(call)))
    }

    fn parts(&mut self, trees: &[Tree]) -> Option<Vec<Expr>> {
        trees.iter().map(|tree| self.part(tree)).collect()
    }

    fn part(&mut self, tree: &Tree) -> Option<Expr> {
        Some(match &tree.term {
            Term::Literal(literal) => {
                let kind = constant_kind(literal);
                self.constant(kind)
            }
            Term::Name(name) if &**name == CLAIMS => self.claims(),
            Term::Name(name) => self.ident(name),
            Term::Select { of, field } => self.select(of, field, false)?,
            Term::Has { of, field } => self.select(of, field, true)?,
            Term::All(parts) => {
                let parts = self.parts(parts)?;
                self.balanced("_&&_", parts)
            }
            Term::Any(parts) => {
                let parts = self.parts(parts)?;
                self.balanced("_||_", parts)
            }
            Term::Operator(operator, operands) => {
                self.allowed.enable_string_concat |= *operator == Operator::Add;
                let operands = self.parts(operands)?;
                self.call(None, operator.name(), operands)
            }
            Term::Call { receiver, function, arguments, .. } => {
                match &**function {
                    "string" => self.allowed.enable_string_conversion = true,
                    "lowerAscii" | "upperAscii" => self.allowed.enable_string_functions = true,
                    _ => {}
                }
                let target = match receiver.as_deref() {
                    Some(receiver) => Some(self.part(receiver)?),
                    None => None,
                };
                let arguments = self.parts(arguments)?;
                self.call(target, function, arguments)
            }
            Term::List(elements) => {
                let elements = self.parts(elements)?;
                self.made(ExprKind::ListExpr(expr::CreateList { elements, ..expr::CreateList::default() }))
            }
            Term::Map(entries) => {
                let mut made = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let (key, value) = (self.part(key)?, self.part(value)?);
                    self.ids += 1;
                    let key_kind = Some(expr::create_struct::entry::KeyKind::MapKey(key));
                    made.push(expr::create_struct::Entry { id: self.ids, value: Some(value), key_kind, optional_entry: false });
                }
                self.made(ExprKind::StructExpr(expr::CreateStruct { message_name: String::new(), entries: made }))
            }
            Term::Each(_) => return None,
        })
    }

    fn select(&mut self, of: &Tree, field: &str, test_only: bool) -> Option<Expr> {
        if let (Term::Name(root), "identity") = (&of.term, field)
            && &**root == "source"
        {
            let connection = self.ident("connection");
            return Some(self.field(connection, "uri_san_peer_certificate", test_only));
        }
        let of = self.part(of)?;
        Some(self.field(of, field, test_only))
    }

    /// Where no token was verified, there is nothing of the filter, and the claims are none.
    fn claims(&mut self) -> Expr {
        let (verified, tokens) = (self.tokens_metadata(), self.text(FILTER));
        let verified = self.call(None, Operator::In.name(), vec![tokens, verified]);
        let mut found = self.tokens_metadata();
        for key in [FILTER, CLAIMS] {
            let key = self.text(key);
            found = self.call(None, Operator::Index.name(), vec![found, key]);
        }
        let none = self.made(ExprKind::StructExpr(expr::CreateStruct::default()));
        self.call(None, Operator::Choose.name(), vec![verified, found, none])
    }

    fn tokens_metadata(&mut self) -> Expr {
        let metadata = self.ident("metadata");
        self.field(metadata, "filter_metadata", false)
    }

    fn text(&mut self, text: &str) -> Expr {
        self.constant(ConstantKind::StringValue(text.to_owned()))
    }

    /// A row of conditions as a tree that is not deep.
    fn balanced(&mut self, function: &str, mut parts: Vec<Expr>) -> Expr {
        while parts.len() > 1 {
            let mut pairs = Vec::with_capacity(parts.len().div_ceil(2));
            let mut rest = parts.into_iter();
            while let Some(one) = rest.next() {
                pairs.push(match rest.next() {
                    Some(other) => self.call(None, function, vec![one, other]),
                    None => one,
                });
            }
            parts = pairs;
        }
        parts.pop().unwrap_or_default()
    }
}

fn constant_kind(literal: &Literal) -> ConstantKind {
    match literal {
        Literal::Null => ConstantKind::NullValue(0),
        Literal::Bool(value) => ConstantKind::BoolValue(*value),
        Literal::Int(value) => ConstantKind::Int64Value(*value),
        Literal::Uint(value) => ConstantKind::Uint64Value(*value),
        Literal::Double(value) => ConstantKind::DoubleValue(*value),
        Literal::Text(value) => ConstantKind::StringValue(value.to_string()),
        Literal::Bytes(value) => ConstantKind::BytesValue(value.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn said(text: &str) -> Option<Condition> {
        condition(&Expression::parse(text).unwrap())
    }

    /// A tree in few words: `f(a, b)`, `a.f`, `a.f?`.
    fn shown(expr: &Expr, ids: &mut BTreeSet<i64>) -> String {
        assert!(ids.insert(expr.id), "{} is given twice", expr.id);
        let mut list = |parts: &[Expr]| parts.iter().map(|part| shown(part, ids)).collect::<Vec<_>>().join(", ");
        match expr.expr_kind.as_ref().unwrap() {
            ExprKind::ConstExpr(constant) => match constant.constant_kind.as_ref().unwrap() {
                ConstantKind::StringValue(text) => format!("'{text}'"),
                ConstantKind::Int64Value(value) => value.to_string(),
                other => format!("{other:?}"),
            },
            ExprKind::IdentExpr(ident) => ident.name.clone(),
            ExprKind::SelectExpr(select) => {
                let of = shown(select.operand.as_ref().unwrap(), ids);
                format!("{of}.{}{}", select.field, if select.test_only { "?" } else { "" })
            }
            ExprKind::CallExpr(call) => {
                let target = call.target.as_ref().map(|target| list(std::slice::from_ref(&**target)) + ".").unwrap_or_default();
                format!("{target}{}({})", call.function, list(&call.args))
            }
            ExprKind::ListExpr(made) => format!("[{}]", list(&made.elements)),
            ExprKind::StructExpr(made) => format!("{{{}}}", made.entries.len()),
            ExprKind::ComprehensionExpr(_) => unreachable!("Envoy takes none"),
        }
    }

    #[test]
    fn operators_are_calls_and_attributes_envoys() {
        for (text, tree) in [
            ("request.method == 'GET'", "_==_(request.method, 'GET')"),
            ("!(1 + 2 in [3, 4])", "!_(@in(_+_(1, 2), [3, 4]))"),
            (
                "request.headers['x-a'] < 'b' ? true : connection.mtls",
                "_?_:_(_<_(_[_](request.headers, 'x-a'), 'b'), BoolValue(true), connection.mtls)",
            ),
            (
                "request.path.startsWith('/a') || size(request.query) > -1",
                "_||_(request.path.startsWith('/a'), _>_(size(request.query), -1))",
            ),
            (
                "source.identity == 'a' && has(source.identity)",
                "_&&_(_==_(connection.uri_san_peer_certificate, 'a'), connection.uri_san_peer_certificate?)",
            ),
            (
                "has(claims.sub)",
                "_?_:_(@in('envoy.filters.http.jwt_authn', metadata.filter_metadata), _[_](_[_](metadata.filter_metadata, 'envoy.filters.http.jwt_authn'), 'claims'), {0}).sub?",
            ),
            ("connection.mtls && true && connection.mtls", "_&&_(_&&_(connection.mtls, BoolValue(true)), connection.mtls)"),
            ("{'a': 1, 'b': 2}.a == 1", "_==_({2}.a, 1)"),
        ] {
            assert_eq!(shown(&said(text).unwrap().expression, &mut BTreeSet::new()), tree, "{text}");
        }
    }

    #[test]
    fn what_envoy_must_be_told_to_allow_is_told() {
        for (text, allowed) in [
            ("request.method == 'GET'", [false; 3]),
            ("string(source.port) == '1'", [true, false, false]),
            ("request.path + 'a' == 'b'", [false, true, false]),
            ("request.path.lowerAscii() == 'a'", [false, false, true]),
        ] {
            let [enable_string_conversion, enable_string_concat, enable_string_functions] = allowed;
            let wanted = CelExpressionConfig { enable_string_conversion, enable_string_concat, enable_string_functions };
            let wanted = Some(wanted).filter(|_| allowed != [false; 3]);
            assert_eq!(said(text).unwrap().allowed, wanted, "{text}");
        }
    }

    #[test]
    fn what_envoy_does_not_evaluate_is_not_said() {
        assert!(said("true && ['a'].exists(x, x == 'a')").is_none());
        let parsed = ["connection.mtls", "request.method == 'GET'", "['a'].all(x, x == 'a')"].map(|text| Expression::parse(text).unwrap());
        let [one, two, of_macro] = &parsed;
        let none = none_of(&[one, two]).unwrap();
        let tree = "_&&_(!_(connection.mtls), !_(_==_(request.method, 'GET')))";
        assert_eq!(shown(&none.expression, &mut BTreeSet::new()), tree);
        assert!(none_of(&[one, of_macro]).is_none() && none_of(&[]).is_none());
    }

    #[test]
    fn a_long_row_of_conditions_is_not_deep() {
        let text = format!("connection.mtls{}", " && connection.mtls".repeat(200));
        let expression = said(&text).unwrap().expression;
        let tree = shown(&expression, &mut BTreeSet::new());
        let mut depth: usize = 0;
        let deepest = tree.chars().map(|letter| {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth
        });
        assert_eq!(deepest.max(), Some(8));
    }
}
