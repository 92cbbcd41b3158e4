//! What rules do with requests before these go on, or in place of it.

use std::ops::Range;

use super::matches::METHODS;
use super::route::mirrored;
use super::{hostname, port, reference};
use crate::name::Namespace;
use crate::resource::Kind;
use crate::resource::kinds::{HttpFilter, PathModifier};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::Node;
use crate::snapshot::{Cors, HeaderEdits, OriginMatch, Share};

pub(super) fn filters(node: Option<Node>, of: Kind, own: &Namespace, reader: &mut Reader<'_>) -> Vec<(HttpFilter, Range<usize>)> {
    let span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let nodes = node.map(|node| reader.list(node, "`filters`")).unwrap_or_default();
    reader.bound(nodes.len() <= 16, &span, "there are at most 16 filters");
    let mut found: Vec<(HttpFilter, Range<usize>)> = Vec::new();
    for node in nodes {
        let span = node.span.clone();
        let Some(read) = filter(node, of, own, reader) else { continue };
        let repeats = matches!(read, HttpFilter::Mirror { .. } | HttpFilter::Unknown { .. });
        let kind = std::mem::discriminant(&read);
        let again = !repeats && found.iter().any(|(other, _)| std::mem::discriminant(other) == kind);
        reader.bound(!again, &span, "a filter of this type is there already");
        found.push((read, span));
    }
    if let Some((_, at)) = found.iter().find(|(filter, _)| matches!(filter, HttpFilter::Redirect { .. })) {
        let rewrites = found.iter().any(|(filter, _)| matches!(filter, HttpFilter::Rewrite { .. }));
        reader.bound(!rewrites, at, "a rule either redirects or rewrites");
    }
    found
}

fn filter(node: Node, of: Kind, own: &Namespace, reader: &mut Reader<'_>) -> Option<HttpFilter> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a filter")?;
    // Those of gRPC come first.
    const TYPES: [(&str, &str); 7] = [
        ("RequestHeaderModifier", "requestHeaderModifier"),
        ("ResponseHeaderModifier", "responseHeaderModifier"),
        ("RequestMirror", "requestMirror"),
        ("ExtensionRef", "extensionRef"),
        ("RequestRedirect", "requestRedirect"),
        ("URLRewrite", "urlRewrite"),
        ("CORS", "cors"),
    ];
    let types = if of == Kind::GrpcRoute { &TYPES[..4] } else { &TYPES[..] };
    let node = object.need("type", reader)?;
    let kind = reader.text(&node, "`type`")?;
    if !reader.strict && !types.iter().any(|(known, _)| *known == kind) {
        // One that a later version let in.
        return Some(HttpFilter::Unknown { what: kind });
    }
    let field = reader.word(&node, "type of filter", types)?;
    let inner = object.need(field, reader);
    reader.end(object);
    let mut object = reader.object(inner?, "a filter")?;
    Some(match field {
        "extensionRef" => {
            let named = reference(&mut object, own, ("", ""), reader);
            reader.end(object);
            let named = named?;
            HttpFilter::Unknown { what: format!("{} {}", named.kind, named.name) }
        }
        "requestHeaderModifier" => HttpFilter::RequestHeaders(header_edits(object, reader)),
        "responseHeaderModifier" => HttpFilter::ResponseHeaders(header_edits(object, reader)),
        "requestMirror" => {
            let (to, percent, fraction) = (object.need("backendRef", reader), object.take("percent"), object.take("fraction"));
            reader.end(object);
            let backend = mirrored(to?, own, reader)?;
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
    let mut texts = |node: Option<Node>, what: &str, most: usize, fits: fn(&str) -> bool| -> Vec<String> {
        let span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
        let nodes = node.map(|node| reader.list(node, what)).unwrap_or_default();
        reader.bound(nodes.len() <= most, &span, format!("{what} has at most {most} entries"));
        let mut texts: Vec<String> = Vec::new();
        for node in nodes {
            let Some(text) = reader.text(&node, "an entry") else { continue };
            reader.bound(fits(&text), &node.span, format!("`{text}` is nothing that {what} can name"));
            reader.bound(!texts.contains(&text), &node.span, format!("`{text}` is there already"));
            texts.push(text);
        }
        reader.bound(texts.len() <= 1 || !texts.iter().any(|text| text == "*"), &span, "`*` stands alone");
        texts
    };
    let header = |text: &str| text == "*" || is_field_name(text);
    let (origins, methods) = (texts(origins, "`allowOrigins`", 64, is_origin), texts(methods, "`allowMethods`", 9, is_method));
    let (headers, expose) = (texts(headers, "`allowHeaders`", 64, header), texts(expose, "`exposeHeaders`", 64, header));
    let origin = |text: String| match text.split_once('*') {
        Some(("", "")) => OriginMatch::Any,
        Some((before, after)) => OriginMatch::Wildcard { before: before.to_owned(), after: after.to_owned() },
        None => OriginMatch::Exact(text),
    };
    let max_age = age.and_then(|node| reader.number(&node, "`maxAge`", 1..=i64::from(i32::MAX))).and_then(|age| u32::try_from(age).ok());
    let credentials = credentials.and_then(|node| reader.boolean(&node, "`allowCredentials`")).unwrap_or_default();
    Cors { origins: origins.into_iter().map(origin).collect(), methods, headers, expose, credentials, max_age: max_age.unwrap_or(5) }
}

/// Whether a text is an origin that a page can have, with one `*` for any part of its host.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return text == "*" };
    let (host, port) = rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let is_port = port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()));
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', ':']) && host.matches('*').count() <= 1;
    is_scheme && is_host && is_port
}

fn is_method(text: &str) -> bool {
    text == "*" || METHODS.contains(&text)
}

pub(super) fn header_edits(mut object: Object, reader: &mut Reader<'_>) -> HeaderEdits {
    let (set, add, remove) = (object.take("set"), object.take("add"), object.take("remove"));
    reader.end(object);
    let mut pairs = |node: Option<Node>, what: &str| -> Vec<(String, String)> {
        let span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
        let nodes = node.map(|node| reader.list(node, what)).unwrap_or_default();
        reader.bound(nodes.len() <= 16, &span, format!("{what} has at most 16 fields"));
        let mut pairs: Vec<(String, String)> = Vec::new();
        for node in nodes {
            let span = node.span.clone();
            let Some(mut object) = reader.object(node, "a field") else { continue };
            let (name, value) = (object.need("name", reader), object.need("value", reader));
            reader.end(object);
            let name = name.and_then(|node| field_name(&node, reader));
            let value = value.and_then(|node| field_value(&node, reader));
            let Some((name, value)) = name.zip(value) else { continue };
            let again = pairs.iter().any(|(known, _)| *known == name);
            reader.bound(!again, &span, format!("`{name}` is there already"));
            if !again {
                pairs.push((name, value));
            }
        }
        pairs
    };
    let (set, add) = (pairs(set, "`set`"), pairs(add, "`add`"));
    let span = remove.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let remove = remove.map(|node| reader.list(node, "`remove`")).unwrap_or_default();
    reader.bound(remove.len() <= 16, &span, "`remove` has at most 16 fields");
    let remove = remove.iter().filter_map(|node| field_name(node, reader)).collect();
    HeaderEdits { remove, set, add }
}

pub(super) fn path_modifier(node: Node, reader: &mut Reader<'_>) -> Option<PathModifier> {
    let mut object = reader.object(node, "`path`")?;
    let (kind, full, prefix) = (object.need("type", reader), object.take("replaceFullPath"), object.take("replacePrefixMatch"));
    reader.end(object);
    let kind = kind?;
    let full_path = reader.word(&kind, "type of path", &[("ReplaceFullPath", true), ("ReplacePrefixMatch", false)])?;
    let (named, other, field) = if full_path { (full, prefix, "replaceFullPath") } else { (prefix, full, "replacePrefixMatch") };
    if let Some(other) = other {
        reader.wrong(&other.span, format!("a path of this type has `{field}` alone"));
    }
    let Some(node) = named else {
        reader.wrong(&kind.span, format!("a path of this type needs `{field}`"));
        return None;
    };
    let path = reader.text(&node, "a path")?;
    reader.bound(path.len() <= 1024, &node.span, "a path has at most 1024 characters");
    Some(if full_path { PathModifier::Full(path) } else { PathModifier::Prefix(path) })
}

/// The name of a header field that a filter may change, in lower case.
pub(super) fn field_name(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(node, "a name")?.to_ascii_lowercase();
    if !is_field_name(&name) {
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

fn is_field_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    (1..=256).contains(&name.len()) && name.chars().all(fits)
}

/// A value that a field can have.
fn field_value(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let value = reader.text(node, "a value")?;
    reader.bound(!value.is_empty(), &node.span, "a header's value is not empty; `remove` takes a header away");
    if value.len() > 4096 || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        reader.wrong(&node.span, "a header's value has at most 4096 characters and no line break");
        return None;
    }
    Some(value)
}
