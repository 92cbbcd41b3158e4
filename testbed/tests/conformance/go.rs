//! Expressions of Go, as far as the data quotes them: the suite's calls with names, literals and conversions. In flow text and the values of
//! names; out flow JSON values. What has no value here is told so, and a text that was cut ends where it was cut.

use serde_json::{Map, Value, json};

/// A call with its arguments.
#[derive(Debug)]
pub(crate) struct Call {
    /// `kubernetes.GatewayMustHaveCondition`.
    pub(crate) name: String,
    pub(crate) arguments: Vec<Argument>,
}

/// An argument.
#[derive(Debug, Clone)]
pub(crate) struct Argument {
    pub(crate) text: String,
    /// What it is; nothing where one of its names has no value.
    pub(crate) value: Option<Value>,
    /// Whether the text was cut within it: the value is then a part.
    pub(crate) cut: bool,
}

/// Reads a call. `names`: what each name stands for, functions without arguments as `name()`.
pub(crate) fn call(text: &str, names: &Map<String, Value>) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let mut reader = Reader { rest, names, cut: false };
    let mut arguments = Vec::new();
    loop {
        reader.space();
        if reader.rest.is_empty() || reader.rest.starts_with(')') {
            return Some(Call { name: name.to_owned(), arguments });
        }
        let before = reader.rest;
        let value = reader.expression();
        let text = before[..before.len() - reader.rest.len()].trim().to_owned();
        arguments.push(Argument { text, value, cut: reader.cut });
        reader.space();
        if !reader.eat("...") && !reader.rest.starts_with([',', ')']) {
            return Some(Call { name: name.to_owned(), arguments });
        }
        reader.space();
        reader.eat(",");
    }
}

struct Reader<'r> {
    rest: &'r str,
    names: &'r Map<String, Value>,
    cut: bool,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() || self.rest.starts_with('…') {
            (self.rest, self.cut) = ("", true);
        }
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest.strip_prefix(text);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expression(&mut self) -> Option<Value> {
        let mut value = self.term();
        loop {
            self.space();
            if !self.eat("+") {
                return value;
            }
            let other = self.term();
            value = match (value, other) {
                (Some(Value::String(one)), Some(Value::String(other))) => Some((one + &other).into()),
                _ => None,
            };
        }
    }

    fn term(&mut self) -> Option<Value> {
        self.space();
        while self.eat("&") || self.eat("*") {}
        let first = self.rest.chars().next()?;
        match first {
            '"' => self.quoted(),
            '0'..='9' | '-' => {
                let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-' && c != '.').unwrap_or(self.rest.len());
                let number = self.rest[..end].parse::<i64>().map(Value::from);
                self.rest = &self.rest[end..];
                number.ok()
            }
            '{' => self.composite(false),
            '(' => {
                // A conversion: `(*v1.Group)(&x)`.
                self.balanced('(', ')');
                if self.rest.starts_with('(') { self.arguments()?.into_iter().next()? } else { None }
            }
            '[' => {
                self.balanced('[', ']');
                let name = self.name();
                if self.rest.starts_with('{') {
                    return self.composite(true);
                }
                if self.rest.starts_with('(') && name == "byte" { self.arguments()?.into_iter().next()? } else { None }
            }
            _ => self.named(),
        }
    }

    fn quoted(&mut self) -> Option<Value> {
        let body = &self.rest[1..];
        let mut escaped = false;
        let end = body.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else {
            (self.rest, self.cut) = ("", true);
            return None;
        };
        let text = serde_json::from_str(&self.rest[..end + 2]).ok();
        self.rest = &self.rest[end + 2..];
        text
    }

    fn name(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '.')).unwrap_or(self.rest.len());
        // Three dots are no part of it.
        let end = self.rest[..end].find("...").unwrap_or(end);
        let name = self.rest[..end].to_owned();
        self.rest = &self.rest[end..];
        name
    }

    fn named(&mut self) -> Option<Value> {
        let name = self.name();
        if name.is_empty() {
            // Nothing that is known here; what follows is passed over.
            self.rest = "";
            return None;
        }
        if name == "func" {
            self.balanced('(', ')');
            let body = self.rest.find('{').unwrap_or(self.rest.len());
            self.rest = &self.rest[body..];
            self.balanced('{', '}');
            return None;
        }
        if name == "map" {
            self.balanced('[', ']');
            self.name();
            return self.composite(false);
        }
        if self.rest.starts_with('{') {
            let value = self.composite(false)?;
            return Some(match value {
                Value::Object(fields) if fields.is_empty() => json!({ "$type": name }),
                value => value,
            });
        }
        if self.rest.starts_with('(') {
            let arguments = self.arguments()?;
            return self.called(&name, &arguments);
        }
        self.lookup(&name)
    }

    /// The arguments of a call that begins here.
    fn arguments(&mut self) -> Option<Vec<Option<Value>>> {
        self.eat("(");
        let mut values = Vec::new();
        loop {
            self.space();
            if self.rest.is_empty() || self.eat(")") {
                return Some(values);
            }
            values.push(self.expression());
            self.space();
            self.eat("...");
            self.space();
            if !self.eat(",") && !self.rest.starts_with(')') {
                self.rest = "";
            }
        }
    }

    fn called(&self, name: &str, arguments: &[Option<Value>]) -> Option<Value> {
        let argument = |at: usize| arguments.get(at).cloned().flatten();
        match name {
            "kubernetes.NewGatewayRef" => {
                let mut reference = argument(0)?;
                reference["Kind"] = "Gateway".into();
                reference["Listeners"] = arguments.iter().skip(1).flatten().cloned().collect();
                Some(reference)
            }
            "kubernetes.NewResourceRef" => {
                let mut reference = argument(1)?;
                reference["Kind"] = argument(0)?;
                Some(reference)
            }
            _ => match arguments {
                [] => self.names.get(&format!("{name}()")).cloned(),
                // A conversion: `string(x)`, `new(x)`, `ptr.To(x)`, `v1.Kind(x)`.
                [one] if !name.contains("Must") => one.clone(),
                _ => None,
            },
        }
    }

    fn composite(&mut self, list: bool) -> Option<Value> {
        self.eat("{");
        let (mut fields, mut values) = (Map::new(), Vec::new());
        let mut known = true;
        loop {
            self.space();
            if self.rest.is_empty() || self.eat("}") {
                break;
            }
            let key = self.rest.find(|c: char| !c.is_alphanumeric()).filter(|end| self.rest[*end..].starts_with(':') && *end > 0);
            if let Some(end) = key {
                let key = self.rest[..end].to_owned();
                self.rest = &self.rest[end + 1..];
                let value = self.expression();
                // What the text was cut in is left out.
                if !self.cut || value.is_some() {
                    known &= value.is_some();
                    fields.insert(key, value.unwrap_or_default());
                }
            } else {
                let value = self.expression();
                self.space();
                if self.eat(":") {
                    // A key of a map.
                    let of = self.expression();
                    fields.extend(value.as_ref().and_then(Value::as_str).map(str::to_owned).zip(of));
                } else if !self.cut || value.is_some() {
                    known &= value.is_some();
                    values.push(value.unwrap_or_default());
                }
            }
            self.space();
            if !self.eat(",") && !self.rest.starts_with('}') {
                (self.rest, self.cut) = ("", true);
            }
        }
        if !known {
            return None;
        }
        Some(if list || !values.is_empty() { values.into() } else { fields.into() })
    }

    /// Passes over what stands between two marks.
    fn balanced(&mut self, open: char, close: char) {
        let mut depth = 0_usize;
        for (at, c) in self.rest.char_indices() {
            if c == open {
                depth += 1;
            } else if c == close {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return;
                }
            }
        }
        (self.rest, self.cut) = ("", true);
    }

    fn lookup(&self, name: &str) -> Option<Value> {
        match name {
            "true" => return Some(true.into()),
            "false" => return Some(false.into()),
            "nil" => return Some(Value::Null),
            _ => {}
        }
        let mut parts = name.split('.');
        if let Some(value) = self.names.get(parts.next()?) {
            return parts
                .try_fold(value, |value, part| value.get(part))
                .filter(|value| !value.is_null() && value["$go"].is_null())
                .cloned();
        }
        constant(name).map(Value::from)
    }
}

/// The suite's and the specification's own names for texts.
fn constant(name: &str) -> Option<String> {
    let text = match name {
        "confsuite.InfrastructureNamespace" | "suite.InfrastructureNamespace" => "gateway-conformance-infra",
        "confsuite.AppBackendNamespace" | "suite.AppBackendNamespace" => "gateway-conformance-app-backend",
        "confsuite.WebBackendNamespace" | "suite.WebBackendNamespace" => "gateway-conformance-web-backend",
        "confsuite.MeshNamespace" => "gateway-conformance-mesh",
        "confsuite.InfraBackendServiceNameV1" => "infra-backend-v1",
        "confsuite.InfraBackendServiceNameV2" => "infra-backend-v2",
        "confsuite.InfraBackendServiceNameV3" => "infra-backend-v3",
        "suite.ControllerName" | "s.ControllerName" => "lorica.io/gateway",
        "v1.GroupVersion.Group" | "gatewayv1.GroupVersion.Group" | "gatewayv1.GroupName" | "v1.GroupName" => "gateway.networking.k8s.io",
        "listenerSetGK" => "ListenerSet",
        "metav1.ConditionTrue" => "True",
        "metav1.ConditionFalse" => "False",
        // Which backend it is, does not count.
        "echo.MeshAppEchoV1" => "v1",
        "echo.MeshAppEchoV2" => "v2",
        _ => {
            // `v1.RouteReasonNotAllowedByListeners`, `gatewayv1.ListenerConditionAccepted`.
            let (_, name) = name.split_once('.')?;
            let kinds = ["GatewayClass", "Gateway", "ListenerSet", "ListenerEntry", "Listener", "Route", "Policy"];
            let rest = kinds.iter().find_map(|kind| name.strip_prefix(kind))?;
            rest.strip_prefix("Condition").or_else(|| rest.strip_prefix("Reason"))?
        }
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_suite_are_read() -> anyhow::Result<()> {
        let names = json!({ "gwNN": { "Name": "edge", "Namespace": "shop" }, "tc": { "lName": "https" } });
        let names = names.as_object().cloned().unwrap_or_default();
        let read = |text: &str| {
            call(text, &names).map(|call| call.arguments.into_iter().map(|argument| (argument.value, argument.cut)).collect::<Vec<_>>())
        };
        let condition = "kubernetes.GatewayMustHaveCondition(t, s.Client, gwNN, metav1.Condition{\n\tType:\tstring(v1.GatewayConditionAccepted),\n\tStatus:\tmetav1.ConditionTrue,\n})";
        let accepted = json!({ "Type": "Accepted", "Status": "True" });
        assert_eq!(
            read(condition),
            Some(vec![(None, false), (None, false), (Some(names["gwNN"].clone()), false), (Some(accepted), false)])
        );
        let kinds = "f([]v1.ListenerStatus{{Name: v1.SectionName(\"a\"), Kinds: []v1.K{{Group: (*v1.Group)(&v1.GroupVersion.Group), Kind: \"X\"}}, Attached: 1}, {Na…";
        let listener = json!([{ "Name": "a", "Kinds": [{ "Group": "gateway.networking.k8s.io", "Kind": "X" }], "Attached": 1 }, {}]);
        assert_eq!(read(kinds), Some(vec![(Some(listener), true)]));
        let reference =
            "f(kubernetes.NewGatewayRef(gwNN, \"tcp\"), tc.lName, \"a\" + gwNN.Name, func() (string, error) { return x(1) }, 3, routes...)";
        assert_eq!(
            read(reference),
            Some(vec![
                (Some(json!({ "Name": "edge", "Namespace": "shop", "Kind": "Gateway", "Listeners": ["tcp"] })), false),
                (Some("https".into()), false),
                (Some("aedge".into()), false),
                (None, false),
                (Some(3.into()), false),
                (None, false),
            ])
        );
        Ok(())
    }
}
