//! Heads of HTTP/1: bytes in, heads and the framing of their bodies out. Pure.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Status};
use lorica_model::head::{Field, Fields, MAX_FIELDS, MAX_HEAD_BYTES, Parts, RequestHead, ResponseHead, Version, tokens};

use super::super::error::WireError;
use super::super::fields::{content_length, is_host};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

/// Takes out the empty lines before a request, left-overs of old clients (RFC 9112, 2.2).
pub(super) fn skip_empty_lines(inbox: &mut BytesMut) {
    while inbox.starts_with(b"\r\n") {
        bytes::Buf::advance(inbox, 2);
    }
}

/// A request's head, if all of it is there; it is taken out of `inbox`. `plain`: it came without TLS.
pub(super) fn request(inbox: &mut BytesMut, plain: bool) -> Result<Option<(RequestHead, Framing)>, WireError> {
    skip_empty_lines(inbox);
    // Not filled first: 4 KiB for most heads' ten fields.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(&inbox[..inbox.len().min(MAX_HEAD_BYTES)], &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if inbox.len() >= MAX_HEAD_BYTES => return Err(WireError::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(WireError::HeadTooLarge),
        Err(error) => return Err(WireError::Invalid(invalid(error))),
    };
    lines_end_well(&inbox[..length])?;
    let within = |text: &[u8]| range(inbox, text);
    let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let method = within(request.method.unwrap_or_default().as_bytes());
    let target = request.path.unwrap_or_default();
    let mut parts = Parts::with_capacity(request.headers.len());
    let mut host = None;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("host") && host.replace(within(field.value)).is_some() {
            return Err(WireError::Invalid("there are two Host fields"));
        }
        parts.field(within(field.name.as_bytes()), within(field.value));
    }
    let (path, authority) = match Target::of(request.method.unwrap_or_default(), target, plain)? {
        Target::Origin => (within(target.as_bytes()), host.clone()),
        Target::Absolute { authority, path } => (within(path.as_bytes()), Some(within(authority.as_bytes()))),
    };
    if host.is_none() && version == Version::Http11 {
        return Err(WireError::Invalid("there is no Host field"));
    }
    let authority = authority.unwrap_or(0..0);
    if !is_host(&inbox[authority.clone()]) {
        return Err(WireError::Invalid("the Host is no host"));
    }
    let bytes = inbox.split_to(length).freeze();
    let head = parts.request(bytes, version, method, path, authority, 0..0);
    let framing = request_framing(&head)?;
    Ok(Some((head, framing)))
}

/// An answer's head, if all of it is there; it is taken out of `inbox`. `to_head`: the request was a HEAD.
pub(super) fn response(inbox: &mut BytesMut, to_head: bool) -> Result<Option<(ResponseHead, Framing)>, WireError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut response, &inbox[..inbox.len().min(MAX_HEAD_BYTES)], &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if inbox.len() >= MAX_HEAD_BYTES => return Err(WireError::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(WireError::HeadTooLarge),
        Err(error) => return Err(WireError::Invalid(invalid(error))),
    };
    let status = response.code.unwrap_or_default();
    if !(100..1000).contains(&status) {
        return Err(WireError::Invalid("the status is none"));
    }
    let version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let mut parts = Parts::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        parts.field(range(inbox, field.name.as_bytes()), range(inbox, field.value));
    }
    let fields = parts.fields(inbox.split_to(length).freeze());
    let framing = match status {
        100..=199 | 204 | 304 => Framing::None,
        _ if to_head => Framing::None,
        _ => match message_framing(&fields) {
            // It was ours to read, not the caller's to send.
            Err(WireError::Unsupported(what)) => return Err(WireError::Invalid(what)),
            framing => framing?.unwrap_or(Framing::UntilClose),
        },
    };
    Ok(Some((ResponseHead { version, status, fields }, framing)))
}

/// Trailers, if all of them are there (up to and with the empty line); they are taken out of `inbox`.
pub(super) fn trailers(inbox: &mut BytesMut) -> Result<Option<Fields>, WireError> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(&inbox[..inbox.len().min(MAX_HEAD_BYTES)], &mut fields) {
        Ok(Status::Complete((length, fields))) => {
            lines_end_well(&inbox[..length])?;
            let mut parts = Parts::with_capacity(fields.len());
            for field in fields {
                parts.field(range(inbox, field.name.as_bytes()), range(inbox, field.value));
            }
            Ok(Some(parts.fields(inbox.split_to(length).freeze())))
        }
        Ok(Status::Partial) if inbox.len() >= MAX_HEAD_BYTES => Err(WireError::HeadTooLarge),
        Ok(Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(WireError::HeadTooLarge),
        Err(error) => Err(WireError::Invalid(invalid(error))),
    }
}

/// Whether every line of a request ends in CR LF. RFC 9112 (2.2) lets a reader take a bare LF for an end; whoever stands before us and does not
/// has judged another request. What apps answer is taken as it comes: nobody behind them is led astray by their own lines.
fn lines_end_well(text: &[u8]) -> Result<(), WireError> {
    // No early end, so that many bytes are looked at at once.
    let bare = text
        .iter()
        .zip(text.iter().skip(1))
        .fold(text.first() == Some(&b'\n'), |bare, (before, byte)| bare | (*byte == b'\n' && *before != b'\r'));
    if bare { Err(WireError::Invalid("a line does not end as it must")) } else { Ok(()) }
}

/// The forms of a request target (RFC 9112, 3.2).
enum Target<'t> {
    Origin,
    Absolute { authority: &'t str, path: &'t str },
}

impl<'t> Target<'t> {
    fn of(method: &str, target: &'t str, plain: bool) -> Result<Self, WireError> {
        if method == "CONNECT" {
            return Err(WireError::Unsupported("CONNECT is not passed on"));
        }
        if !target.is_ascii() {
            return Err(WireError::Invalid("the target has a byte that must be percent-encoded"));
        }
        if target.contains('#') {
            return Err(WireError::Invalid("the target has a fragment"));
        }
        if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
            return Ok(Self::Origin);
        }
        let after =
            |scheme: &str| target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(|_| &target[scheme.len()..]);
        let rest = match (after("http://"), after("https://")) {
            (Some(rest), _) => rest,
            // RFC 9110, 7.4: what asks for TLS is not served without.
            (None, Some(_)) if plain => return Err(WireError::Invalid("the target is an https URL, and the connection has no TLS")),
            (None, Some(rest)) => rest,
            (None, None) => return Err(WireError::Invalid("the target is neither a path nor an http URL")),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || path.starts_with('?') {
            return Err(WireError::Invalid("the target's URL has no host or no path"));
        }
        // `http://host` means its root; the slash of the scheme stands for it, as a range must lie in the head.
        let path = if path.is_empty() { &target[target.find("//").map_or(0, |at| at + 1)..][..1] } else { path };
        Ok(Self::Absolute { authority, path })
    }
}

fn request_framing(head: &RequestHead) -> Result<Framing, WireError> {
    if head.version == Version::Http10 && head.fields.position("transfer-encoding").is_some() {
        return Err(WireError::Invalid("HTTP/1.0 has no Transfer-Encoding"));
    }
    Ok(message_framing(&head.fields)?.unwrap_or(Framing::None))
}

/// What Transfer-Encoding and Content-Length say; both at once are how requests are smuggled.
fn message_framing(fields: &Fields) -> Result<Option<Framing>, WireError> {
    let length = content_length(fields)?;
    let mut codings = fields.get_all("transfer-encoding").flat_map(tokens);
    match (codings.next(), codings.next(), length) {
        (None, _, length) if fields.position("transfer-encoding").is_none() => Ok(length.map(Framing::Length)),
        (Some(coding), None, None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        (_, _, Some(_)) => Err(WireError::Invalid("there are both Content-Length and Transfer-Encoding")),
        _ => Err(WireError::Unsupported("the only Transfer-Encoding is chunked")),
    }
}

/// Where `part` lies in `whole`, of which it is a slice.
fn range(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    if start <= whole.len() { start..start + part.len() } else { 0..0 }
}

fn invalid(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field name is none",
        httparse::Error::HeaderValue => "a field value has a byte that it may not have",
        httparse::Error::NewLine => "a line does not end as it must",
        httparse::Error::Status => "the status is none",
        httparse::Error::Token => "the method or the target is none",
        httparse::Error::TooManyHeaders => "there are too many fields",
        httparse::Error::Version => "the version is neither HTTP/1.0 nor HTTP/1.1",
    }
}

/// Appends a field's line to the text of a head that is written.
pub(super) fn line(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    Field::new(name, value).write_line(text);
}

/// Appends a chunk's first line.
pub(super) fn chunk(text: &mut Vec<u8>, length: usize) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    text.extend((0..digits).rev().map(|place| b"0123456789abcdef"[length >> (4 * place) & 15]));
    text.extend_from_slice(b"\r\n");
}

/// Appends a number.
pub(super) fn decimal(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `Content-Length`.
pub(super) fn content_length_line(text: &mut Vec<u8>, length: u64) {
    text.extend_from_slice(b"content-length: ");
    decimal(text, length);
    text.extend_from_slice(b"\r\n");
}
