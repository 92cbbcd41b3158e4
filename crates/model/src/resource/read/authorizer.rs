//! The service that an AuthorizationPolicy has asked, from its document.

use std::ops::Range;

use super::filter::field_name;
use super::port;
use super::route::duration;
use crate::name::{Label, Namespace, ServiceName, ServicePort};
use crate::resource::kinds::WrittenAuthorizer;
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::Node;
use crate::snapshot::{Authorizer, AuthorizerProtocol, ShownBody, is_beyond_authorizers};

/// The most names of a list of fields.
const MOST_FIELDS: usize = 64;
/// The most bytes of a body that a service is shown: as many as are kept for other attempts.
const MOST_BYTES: i64 = 65_536;

pub(super) fn authorizer(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<WrittenAuthorizer> {
    let mut object = reader.object(node, "`external`")?;
    let (service, protocol) = (object.need("service", reader), object.need("protocol", reader));
    let (timeout, fail_open, prefix) = (object.take("timeout"), object.take("failOpen"), object.take("pathPrefix"));
    let shown = fields(&mut object, "includeRequestHeaders", reader);
    let sets = fields(&mut object, "headersToUpstreamOnAllow", reader);
    let told_on_allow = fields(&mut object, "headersToClientOnAllow", reader);
    let told_on_deny = fields(&mut object, "headersToClientOnDeny", reader);
    let body = object.take("body");
    reader.end(object);
    let service = service.and_then(|node| self::service(node, own, reader));
    let timeout_span = timeout.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let timeout = timeout.map_or(Some(Authorizer::TIMEOUT), |node| duration(&node, reader));
    reader.bound(timeout.is_none_or(|timeout| !timeout.is_zero()), &timeout_span, "in no time nobody answers");
    let fail_open = fail_open.map_or(Some(false), |node| reader.boolean(&node, "`failOpen`"));
    let http = protocol.and_then(|node| reader.word(&node, "protocol", &[("Grpc", false), ("Http", true)]));
    let body = body.map(|node| self::body(node, http, reader));
    for fields in [&sets, &told_on_allow].into_iter().flatten() {
        for (name, span) in fields.names.iter().filter(|(name, _)| is_beyond_authorizers(name)) {
            reader.wrong_with(span, format!("`{name}` is nothing that a service may set"), "leave it out");
        }
    }
    if http == Some(false) {
        let hint = "over gRPC the service itself says what callers are told; leave it out";
        if let Some(node) = &prefix {
            reader.wrong_with(&node.span, "`pathPrefix` is about HTTP, and gRPC has one path", "leave it out");
        }
        for fields in [&told_on_allow, &told_on_deny].into_iter().flatten() {
            reader.wrong_with(&fields.span, "what callers are told of the answer is about HTTP", hint);
        }
    }
    let prefix = match &prefix {
        Some(node) => path_prefix(node, reader),
        None => Some(String::new()),
    };
    let names = |fields: Option<Fields>| fields.map(|fields| fields.names.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    let protocol = if http? {
        let (told_on_allow, told_on_deny) = (names(told_on_allow).unwrap_or_default(), names(told_on_deny));
        AuthorizerProtocol::Http { path_prefix: prefix?, told_on_allow, told_on_deny }
    } else {
        AuthorizerProtocol::Grpc
    };
    let (port, span, port_span) = service?;
    let authorizer = Authorizer {
        port,
        protocol,
        timeout: timeout?,
        fail_open: fail_open?,
        shown: names(shown).unwrap_or_default(),
        sets: names(sets).unwrap_or_default(),
        body: match body {
            Some(body) => Some(body?),
            None => None,
        },
    };
    Some(WrittenAuthorizer { authorizer, span, port_span })
}

/// A list of names of fields.
struct Fields {
    names: Vec<(String, Range<usize>)>,
    span: Range<usize>,
}

fn service(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<(ServicePort, Range<usize>, Range<usize>)> {
    let mut object = reader.object(node, "`service`")?;
    let (name, namespace, number) = (object.need("name", reader), object.take("namespace"), object.need("port", reader));
    reader.end(object);
    let namespace = namespace.map_or_else(|| Some(own.clone()), |node| reader.parsed(&node, "`namespace`"));
    let (name, number) = (name?, number?);
    let label: Option<Label> = reader.parsed(&name, "`name`");
    let found = port(&number, reader);
    Some((ServicePort { service: ServiceName::new(namespace?, label?), port: found? }, name.span, number.span))
}

/// The names of fields; none where nothing is said.
fn fields(object: &mut Object, name: &'static str, reader: &mut Reader<'_>) -> Option<Fields> {
    let node = object.take(name)?;
    let span = node.span.clone();
    let nodes = reader.list(node, &format!("`{name}`"));
    reader.bound(nodes.len() <= MOST_FIELDS, &span, format!("`{name}` has at most {MOST_FIELDS} entries"));
    let mut names: Vec<(String, Range<usize>)> = Vec::new();
    for node in nodes {
        let Some(field) = field_name(&node, reader).map(|field| field.to_ascii_lowercase()) else { continue };
        if names.iter().any(|(known, _)| *known == field) {
            reader.wrong_with(&node.span, format!("`{field}` is there twice"), "leave one out");
            continue;
        }
        names.push((field, node.span));
    }
    Some(Fields { names, span })
}

fn path_prefix(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text(node, "`pathPrefix`")?;
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !text.starts_with('/') || text.ends_with('/') || text.len() > 1024 || !text.bytes().all(plain) {
        let hint = "write what comes before the request's path, as `/check`: it begins with a slash and does not end with one";
        reader.wrong_with(&node.span, format!("`{text}` is no beginning of a path"), hint);
        return None;
    }
    Some(text)
}

fn body(node: Node, http: Option<bool>, reader: &mut Reader<'_>) -> Option<ShownBody> {
    let mut object = reader.object(node, "`body`")?;
    let (most, partial, bytes) = (object.need("maxBytes", reader), object.take("allowPartial"), object.take("packAsBytes"));
    reader.end(object);
    let most = most.and_then(|node| reader.number(&node, "`maxBytes`", 1..=MOST_BYTES));
    let partial = partial.map_or(Some(false), |node| reader.boolean(&node, "`allowPartial`"));
    if let (Some(node), Some(true)) = (&bytes, http) {
        reader.wrong_with(&node.span, "`packAsBytes` is about gRPC, and HTTP always carries bytes", "leave it out");
    }
    let bytes = bytes.map_or(Some(false), |node| reader.boolean(&node, "`packAsBytes`"));
    Some(ShownBody { most: u32::try_from(most?).ok()?, partial: partial?, bytes: bytes? })
}
