//! What rules take: paths, methods, fields, queries; and what gRPC's matches are in the words of HTTP.

use std::ops::Range;

use crate::resource::reader::Reader;
use crate::resource::tree::Node;
use crate::snapshot::{FieldMatch, PathMatch, Pattern, RouteMatch, ValueMatch};

/// The methods of HTTP that routes name.
pub(super) const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(super) fn route_match(node: Node, reader: &mut Reader<'_>) -> Option<RouteMatch> {
    let mut object = reader.object(node, "a match")?;
    let (path, headers, query, method) = (object.take("path"), object.take("headers"), object.take("queryParams"), object.take("method"));
    reader.end(object);
    let mut found = RouteMatch::any();
    if let Some(mut object) = path.and_then(|node| reader.object(node, "a path")) {
        let (kind, value) = (object.take("type"), object.take("value"));
        reader.end(object);
        // Of a document with a mistake nothing is used, so that the rest may be looked at as if it had none.
        found.path = path_match(kind, value, reader).unwrap_or(found.path);
    }
    if let Some(node) = method {
        let words: Vec<(&str, &str)> = METHODS.iter().map(|method| (*method, *method)).collect();
        found.method = reader.word(&node, "method", &words).map(str::to_owned);
    }
    found.headers = fields(headers, true, reader);
    found.query = fields(query, false, reader);
    Some(found)
}

/// How the expression of a match of gRPC begins that names a method and no service.
pub const ANY_SERVICE: &str = "/[^/]+/";

/// A match of gRPC as the match of HTTP that it is: `/package.Service/Method`.
pub(super) fn route_match_of_grpc(node: Node, reader: &mut Reader<'_>) -> Option<RouteMatch> {
    let mut object = reader.object(node, "a match")?;
    let (method, headers) = (object.take("method"), object.take("headers"));
    reader.end(object);
    let mut found = RouteMatch::any();
    if let Some(mut object) = method.and_then(|node| reader.object(node, "`method`")) {
        let span = object.span.clone();
        let (kind, service, method) = (object.take("type"), object.take("service"), object.take("method"));
        reader.end(object);
        let kind = kind.map_or(Some(false), |node| reader.word(&node, "type of match", &[("Exact", false), ("RegularExpression", true)]));
        let exact = kind == Some(false);
        let service = service.and_then(|node| grpc_name(&node, "`service`", exact, reader));
        let method = method.and_then(|node| grpc_name(&node, "`method`", exact, reader));
        found.path = match (kind?, service, method) {
            (_, None, None) => {
                reader.wrong_with(&span, "`method` names neither a service nor a method", "leave it out to take every call");
                return None;
            }
            (false, Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
            (false, Some(service), None) => PathMatch::Prefix(format!("/{service}/")),
            (false, None, Some(method)) => PathMatch::Regex(pattern(&span, &format!("{ANY_SERVICE}{method}"), reader)?),
            (true, service, method) => {
                let part = |part: Option<String>| part.map_or_else(|| "[^/]+".to_owned(), |part| format!("(?:{part})"));
                PathMatch::Regex(pattern(&span, &format!("/{}/{}", part(service), part(method)), reader)?)
            }
        };
    }
    found.headers = fields(headers, true, reader);
    Some(found)
}

/// The name of a service or a method of gRPC; none where it is empty, which names all.
fn grpc_name(node: &Node, what: &str, exact: bool, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(node, what).filter(|name| !name.is_empty())?;
    reader.bound(name.len() <= 1024, &node.span, format!("{what} has at most 1024 characters"));
    let word = |word: &str| {
        let mut bytes = word.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let fits = match what {
        "`service`" => name.strip_prefix('.').unwrap_or(&name).split('.').all(word),
        _ => word(&name),
    };
    if exact && !fits {
        reader.wrong_with(
            &node.span,
            format!("{what} is no name of gRPC"),
            "write `package.Service` and `Method`, or `type: RegularExpression`",
        );
        return None;
    }
    Some(name)
}

pub(super) fn path_match(kind: Option<Node>, value: Option<Node>, reader: &mut Reader<'_>) -> Option<PathMatch> {
    #[derive(Clone, Copy, PartialEq)]
    enum Type {
        Exact,
        Prefix,
        Regex,
    }
    let words = [("Exact", Type::Exact), ("PathPrefix", Type::Prefix), ("RegularExpression", Type::Regex)];
    let kind = kind.map_or(Some(Type::Prefix), |node| reader.word(&node, "type of path", &words))?;
    let (span, text) = match value {
        Some(node) => (node.span.clone(), reader.text(&node, "a path's value")?),
        None => (0..0, "/".to_owned()),
    };
    reader.bound(text.len() <= 1024, &span, "a path has at most 1024 characters");
    if kind == Type::Regex {
        return pattern(&span, &text, reader).map(PathMatch::Regex);
    }
    let lower = text.to_ascii_lowercase();
    let never = ["//", "/./", "/../", "%2f", "#"].into_iter().find(|part| lower.contains(part));
    if !text.starts_with('/') {
        reader.wrong_with(&span, "a path begins with `/`", format!("write `/{text}`"));
        return None;
    }
    if let Some(part) = never.or_else(|| ["/..", "/."].into_iter().find(|end| text.ends_with(end))) {
        reader.wrong(&span, format!("a path with `{part}` never comes in"));
        return None;
    }
    if let Some(unfit) = unfit_for_path(&text) {
        reader.wrong_with(&span, format!("a path with `{unfit}` never comes in"), "write it percent-encoded, as it comes on the wire");
        return None;
    }
    Some(if kind == Type::Exact { PathMatch::Exact(text) } else { PathMatch::Prefix(text) })
}

/// The first character that no path holds as it is (RFC 3986), a `%` without its two digits among them.
pub(super) fn unfit_for_path(text: &str) -> Option<char> {
    let bytes = text.as_bytes();
    let escaped = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let fits = |at: usize, c: char| c.is_ascii_alphanumeric() || "-/._~!$&'()*+,;=:@".contains(c) || (c == '%' && escaped(at));
    text.char_indices().find(|(at, c)| !fits(*at, *c)).map(|(_, c)| c)
}

pub(super) fn pattern(span: &Range<usize>, text: &str, reader: &mut Reader<'_>) -> Option<Pattern> {
    match Pattern::new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            reader.wrong_with(
                span,
                format!("this is no regular expression: {error}"),
                "expressions are RE2's: without back-references and look-around, which take unbounded time",
            );
            None
        }
    }
}

pub(super) fn fields(node: Option<Node>, headers: bool, reader: &mut Reader<'_>) -> Vec<FieldMatch> {
    let what = if headers { "`headers`" } else { "`queryParams`" };
    let mut found: Vec<FieldMatch> = Vec::new();
    let list_span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let list = node.map(|node| reader.list(node, what)).unwrap_or_default();
    reader.bound(list.len() <= 16, &list_span, format!("a match has at most 16 of {what}"));
    for node in list {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a match") else { continue };
        let (kind, name, value) = (object.take("type"), object.need("name", reader), object.need("value", reader));
        reader.end(object);
        let regex = kind.map_or(Some(false), |node| reader.word(&node, "type of match", &[("Exact", false), ("RegularExpression", true)]));
        let (Some(regex), Some(name_node), Some(node)) = (regex, name, value) else { continue };
        let Some(name) = reader.text(&name_node, "a name") else { continue };
        let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        // The specification asks the same of both.
        if name.is_empty() || name.len() > 256 || !name.chars().all(fits) {
            reader.wrong(&name_node.span, format!("`{name}` is no name of a {}", if headers { "header" } else { "query parameter" }));
            continue;
        }
        let Some(text) = reader.text(&node, "a value") else { continue };
        let most = if headers { 4096 } else { 1024 };
        reader.bound((1..=most).contains(&text.len()), &node.span, format!("a value has 1 to {most} characters"));
        let value = if regex { pattern(&node.span, &text, reader).map(ValueMatch::Regex) } else { Some(ValueMatch::Exact(text)) };
        let name = if headers { name.to_ascii_lowercase() } else { name };
        if found.iter().any(|known| known.name == name) {
            // From the store the first counts, as the specification has it.
            reader.bound(false, &span, format!("`{name}` is matched twice"));
        } else if let Some(value) = value {
            found.push(FieldMatch { name, value });
        }
    }
    found
}
