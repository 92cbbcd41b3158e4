//! What rules do with requests before these go on, or in place of it.

use std::ops::Range;

use super::route::backend;
use super::{hostname, port};
use crate::name::Namespace;
use crate::resource::kinds::{HttpFilter, PathModifier};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::Node;
use crate::snapshot::{Cors, HeaderEdits, OriginMatch, Share};

pub(super) fn filters(node: Option<Node>, own: &Namespace, reader: &mut Reader<'_>) -> Vec<(HttpFilter, Range<usize>)> {
    let nodes = node.map(|node| reader.list(node, "`filters`")).unwrap_or_default();
    nodes
        .into_iter()
        .filter_map(|node| {
            let span = node.span.clone();
            filter(node, own, reader).map(|found| (found, span))
        })
        .collect()
}

fn filter(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<HttpFilter> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a filter")?;
    let kind = object.need("type", reader).and_then(|node| reader.text(&node, "`type`"))?;
    let field = match kind.as_str() {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        "RequestMirror" => "requestMirror",
        "RequestRedirect" => "requestRedirect",
        "URLRewrite" => "urlRewrite",
        "CORS" => "cors",
        _ => {
            object.take("extensionRef");
            return Some(HttpFilter::Unknown { what: kind });
        }
    };
    let inner = object.need(field, reader);
    reader.end(object);
    let mut object = reader.object(inner?, "a filter")?;
    Some(match field {
        "requestHeaderModifier" => HttpFilter::RequestHeaders(header_edits(object, reader)),
        "responseHeaderModifier" => HttpFilter::ResponseHeaders(header_edits(object, reader)),
        "requestMirror" => {
            let (to, percent, fraction) = (object.need("backendRef", reader), object.take("percent"), object.take("fraction"));
            reader.end(object);
            let backend = backend(to?, own, reader)?;
            if let (Some(_), Some(node)) = (&percent, &fraction) {
                reader.wrong(&node.span, "a mirror has `percent` or `fraction`, not both");
            }
            let mut share = Share::ALL;
            if let Some(percent) = percent.and_then(|node| reader.number(&node, "`percent`", 0..=100)) {
                share = Share::of(percent.unsigned_abs(), 100);
            }
            if let Some(mut object) = fraction.and_then(|node| reader.object(node, "`fraction`")) {
                let (numerator, denominator) = (object.need("numerator", reader), object.take("denominator"));
                reader.end(object);
                let numerator = numerator.and_then(|node| reader.number(&node, "`numerator`", 0..=i64::from(i32::MAX)))?;
                let denominator =
                    denominator.and_then(|node| reader.number(&node, "`denominator`", 1..=i64::from(i32::MAX))).unwrap_or(100);
                reader.bound(numerator <= denominator, &span, "a fraction is at most 1");
                share = Share::of(numerator.unsigned_abs(), denominator.unsigned_abs());
            }
            HttpFilter::Mirror { backend: Box::new(backend), share }
        }
        "requestRedirect" => {
            let (scheme, host, number) = (object.take("scheme"), object.take("hostname"), object.take("port"));
            let (path, status) = (object.take("path"), object.take("statusCode"));
            reader.end(object);
            HttpFilter::Redirect {
                scheme: scheme.and_then(|node| reader.word(&node, "scheme", &[("http", "http"), ("https", "https")])).map(str::to_owned),
                host: host.and_then(|node| hostname(&node, false, reader)),
                port: number.and_then(|node| port(&node, reader)),
                path: path.and_then(|node| path_modifier(node, reader)),
                status: status.and_then(|node| redirect_status(&node, reader)).unwrap_or(302),
            }
        }
        "urlRewrite" => {
            let (host, path) = (object.take("hostname"), object.take("path"));
            reader.end(object);
            HttpFilter::Rewrite {
                host: host.and_then(|node| hostname(&node, false, reader)),
                path: path.and_then(|node| path_modifier(node, reader)),
            }
        }
        _ => HttpFilter::Cors(cors(object, reader)),
    })
}

pub(super) fn redirect_status(node: &Node, reader: &mut Reader<'_>) -> Option<u16> {
    let status = reader.number(node, "`statusCode`", 301..=308)?;
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        reader.wrong_with(&node.span, format!("{status} sends nobody elsewhere"), "one of 301, 302, 303, 307, 308");
        return None;
    }
    u16::try_from(status).ok()
}

pub(super) fn cors(mut object: Object, reader: &mut Reader<'_>) -> Cors {
    let (origins, methods, headers) = (object.take("allowOrigins"), object.take("allowMethods"), object.take("allowHeaders"));
    let (expose, credentials, age) = (object.take("exposeHeaders"), object.take("allowCredentials"), object.take("maxAge"));
    reader.end(object);
    let mut list = |node: Option<Node>, fits: fn(&str) -> bool, what: &str| -> Vec<String> {
        let nodes = node.map(|node| reader.list(node, "a list")).unwrap_or_default();
        let several = nodes.len() > 1;
        let one = |node: Node| {
            let text = reader.text(&node, "an entry")?;
            reader.bound(!(several && text == "*"), &node.span, format!("`*` takes every {what}, so it stands alone"));
            reader.bound(text == "*" || fits(&text), &node.span, format!("`{text}` is no {what}"));
            Some(text)
        };
        nodes.into_iter().filter_map(one).collect()
    };
    let origins = list(origins, is_origin, "origin");
    let (methods, headers, expose) =
        (list(methods, is_token, "method"), list(headers, is_token, "header"), list(expose, is_token, "header"));
    let origin = |text: String| match text.split_once('*') {
        Some(("", "")) => OriginMatch::Any,
        Some((before, after)) => OriginMatch::Wildcard { before: before.to_owned(), after: after.to_owned() },
        None => OriginMatch::Exact(text),
    };
    let max_age = age.and_then(|node| reader.number(&node, "`maxAge`", 1..=i64::from(i32::MAX))).and_then(|age| u32::try_from(age).ok());
    let credentials = credentials.and_then(|node| reader.boolean(&node, "`allowCredentials`")).unwrap_or_default();
    Cors { origins: origins.into_iter().map(origin).collect(), methods, headers, expose, credentials, max_age: max_age.unwrap_or(5) }
}

/// `https://a.example`, `https://*.example:8443`: scheme, host with or without a wildcard in place of its first labels, port.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (host, port) = rest.rsplit_once(':').filter(|_| !rest.ends_with(']')).map_or((rest, None), |(host, port)| (host, Some(port)));
    let host = host.strip_prefix("*.").unwrap_or(host);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    !scheme.is_empty()
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !host.is_empty()
        && host.chars().all(plain)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

pub(super) fn header_edits(mut object: Object, reader: &mut Reader<'_>) -> HeaderEdits {
    let (set, add, remove) = (object.take("set"), object.take("add"), object.take("remove"));
    reader.end(object);
    let mut pairs = |node: Option<Node>| -> Vec<(String, String)> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for node in node.map(|node| reader.list(node, "fields")).unwrap_or_default() {
            let Some(mut object) = reader.object(node, "a field") else { continue };
            let (name, value) = (object.need("name", reader), object.need("value", reader));
            reader.end(object);
            let (Some(name_node), Some(value)) = (name, value) else { continue };
            let (Some(name), Some(value)) = (field_name(&name_node, reader), field_value(&value, reader)) else { continue };
            let again = pairs.iter().any(|(known, _)| *known == name);
            reader.bound(!again, &name_node.span, format!("`{name}` is there twice; several values are one list: `value: a, b`"));
            pairs.push((name, value));
        }
        pairs
    };
    let (set, add) = (pairs(set), pairs(add));
    let mut removed: Vec<String> = Vec::new();
    for node in remove.map(|node| reader.list(node, "`remove`")).unwrap_or_default() {
        let Some(name) = field_name(&node, reader) else { continue };
        reader.bound(!removed.contains(&name), &node.span, format!("`{name}` is there twice"));
        removed.push(name);
    }
    HeaderEdits { remove: removed, set, add }
}

pub(super) fn path_modifier(node: Node, reader: &mut Reader<'_>) -> Option<PathModifier> {
    let mut object = reader.object(node, "`path`")?;
    let (kind, full, prefix) = (object.need("type", reader), object.take("replaceFullPath"), object.take("replacePrefixMatch"));
    reader.end(object);
    let full_path = reader.word(&kind?, "type of path", &[("ReplaceFullPath", true), ("ReplacePrefixMatch", false)])?;
    if full_path {
        full.and_then(|node| reader.text(&node, "a path")).map(PathModifier::Full)
    } else {
        prefix.and_then(|node| reader.text(&node, "a path")).map(PathModifier::Prefix)
    }
}

/// The name of a header field that a filter may change, in lower case.
fn field_name(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(node, "a name")?.to_ascii_lowercase();
    if name.len() > 256 || !is_token(&name) {
        reader.wrong(&node.span, format!("`{name}` is no name of a header"));
        return None;
    }
    match name.as_str() {
        "host" => reader.wrong_with(&node.span, "the host is no header that filters change", "use the filter URLRewrite with `hostname`"),
        "connection" | "transfer-encoding" | "content-length" | "upgrade" | "te" | "trailer" | "keep-alive" | "proxy-connection" => {
            reader.wrong(&node.span, format!("`{name}` is of the connection, which is the proxy's own"));
        }
        name if name.starts_with("x-lorica-") => reader.wrong(&node.span, format!("`{name}` is the mesh's own")),
        _ => return Some(name),
    }
    None
}

/// A value that a field can have.
fn field_value(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let value = reader.text(node, "a value")?;
    if value.len() > 4096 || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        reader.wrong(&node.span, "a header's value has at most 4096 characters and no line break");
        return None;
    }
    Some(value)
}
