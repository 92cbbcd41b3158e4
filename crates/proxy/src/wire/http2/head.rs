//! Heads of HTTP/2: decoded fields in, a message's head out if it is one (RFC 9113, 8.2 and 8.3), and heads back into blocks.

use std::ops::Range;

use bytes::Bytes;
use lorica_model::head::{Fields, MAX_FIELDS, MAX_HEAD_BYTES, Parts, RequestHead, ResponseHead, Version};

use super::super::error::WireError;
use super::super::fields::{content_length, is_host, is_token, trailers};
use super::super::upstream::Outgoing;
use super::hpack::{Encoder, Tag, plain};

/// Why a block is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoHead {
    /// It is no message of HTTP/2 at all: the stream is reset.
    Malformed(&'static str),
    /// It is one of HTTP/2, yet no request that could be passed on: it is answered with this status.
    Refused(u16, &'static str),
}

/// What a block said, text after text in `text`, a buffer that outlives it.
pub(super) struct Collected<'t> {
    text: &'t mut Vec<u8>,
    parts: Parts,
    method: Option<Range<usize>>,
    scheme: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    path: Option<Range<usize>>,
    protocol: Option<Range<usize>>,
    status: Option<Range<usize>>,
    host: Option<Range<usize>>,
    has_length: bool,
    malformed: Option<&'static str>,
    too_large: bool,
}

impl<'t> Collected<'t> {
    pub(super) fn new(text: &'t mut Vec<u8>) -> Self {
        text.clear();
        Self {
            text,
            parts: Parts::with_capacity(12),
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            host: None,
            has_length: false,
            malformed: None,
            too_large: false,
        }
    }

    /// Takes in a field. What is past the bounds of a head is left out, and the head is then too large.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8], tag: Tag) {
        if self.too_large {
            return;
        }
        let pseudo = match tag {
            Tag::Method => &mut self.method,
            Tag::Scheme => &mut self.scheme,
            Tag::Authority => &mut self.authority,
            Tag::Path => &mut self.path,
            Tag::Protocol => &mut self.protocol,
            Tag::Status => &mut self.status,
            Tag::Malformed => {
                self.malformed = Some("there is a field that HTTP/2 does not have");
                return;
            }
            Tag::Plain | Tag::Host | Tag::ContentLength => return self.ordinary(name, value, tag),
        };
        // A host is kept aside, and comes after them, too.
        if pseudo.is_some() || !self.parts.is_empty() || self.host.is_some() {
            self.malformed = Some("a pseudo-field stands twice, or behind a field");
            return;
        }
        let at = self.text.len();
        if at + value.len() > MAX_HEAD_BYTES {
            self.too_large = true;
            return;
        }
        self.text.extend_from_slice(value);
        *pseudo = Some(at..self.text.len());
    }

    fn ordinary(&mut self, name: &[u8], value: &[u8], tag: Tag) {
        if name == b"te" && !value.eq_ignore_ascii_case(b"trailers") {
            self.malformed = Some("TE says more than HTTP/2 knows");
            return;
        }
        let at = self.text.len();
        if at + name.len() + value.len() > MAX_HEAD_BYTES || self.parts.len() == MAX_FIELDS {
            self.too_large = true;
            return;
        }
        self.text.extend_from_slice(name);
        let middle = self.text.len();
        self.text.extend_from_slice(value);
        let end = self.text.len();
        match tag {
            // The first says what an absent `:authority` would; whether it stays is known at the end.
            Tag::Host if self.host.is_none() => self.host = Some(middle..end),
            Tag::Host => self.malformed = Some("there are two Host fields"),
            Tag::ContentLength => self.has_length = true,
            _ => {}
        }
        if tag != Tag::Host {
            self.parts.field(at..middle, middle..end);
        }
    }

    fn is(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        range.as_ref().map(|range| &self.text[range.clone()])
    }

    /// The fields, and the length that they declare.
    fn fields(self) -> Result<(Fields, Option<u64>), WireError> {
        let fields = self.parts.fields(Bytes::copy_from_slice(self.text));
        let length = if self.has_length { content_length(&fields)? } else { None };
        Ok((fields, length))
    }

    /// The head of a request, and the length of its body where it is declared. `connects`: whether a CONNECT to a host is taken.
    pub(super) fn request(mut self, connects: bool) -> Result<(RequestHead, Option<u64>), NoHead> {
        use NoHead::{Malformed, Refused};
        if self.status.is_some() {
            return Err(Malformed("a request has a :status"));
        }
        if let Some(why) = self.malformed {
            return Err(Malformed(why));
        }
        if self.too_large {
            return Err(Refused(431, "the head has more than 64 KiB or 128 fields"));
        }
        let method = self.is(&self.method).ok_or(Malformed("there is no :method"))?;
        if !is_token(method) {
            return Err(Malformed("the :method is none"));
        }
        let connect = method == b"CONNECT";
        match (connect, self.protocol.is_some()) {
            (true, false) if self.scheme.is_none() && self.path.is_none() && self.authority.is_some() => {
                return if connects { self.connect() } else { Err(Refused(501, "CONNECT is not passed on")) };
            }
            (true, false) => return Err(Malformed("a CONNECT names more than an authority")),
            (false, true) => return Err(Malformed("only an extended CONNECT has a :protocol")),
            (true, true) if self.authority.is_none() => return Err(Malformed("an extended CONNECT names no authority")),
            _ => {}
        }
        let scheme = self.is(&self.scheme).ok_or(Malformed("there is no :scheme"))?;
        if !scheme.first().is_some_and(u8::is_ascii_alphabetic)
            || !scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        {
            return Err(Malformed("the :scheme is none"));
        }
        let path = self.is(&self.path).filter(|path| !path.is_empty()).ok_or(Malformed("there is no :path"))?;
        if self.is(&self.protocol).is_some_and(|protocol| !protocol.split(|byte| *byte == b'/').all(is_token)) {
            return Err(Refused(400, "the :protocol is none"));
        }
        let is_star = path == b"*" && method == b"OPTIONS";
        let visible = path.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
        if !visible || !(path[0] == b'/' || is_star) {
            return Err(Refused(400, "the :path is none"));
        }
        // `:authority` says it; a Host beside it would be a second truth.
        let named = self.authority.clone().filter(|authority| !authority.is_empty());
        if named.is_none()
            && let Some(host) = self.host.clone()
        {
            if self.parts.len() == MAX_FIELDS {
                return Err(Refused(431, "the head has more than 64 KiB or 128 fields"));
            }
            self.parts.field(host.start - 4..host.start, host);
        }
        let authority = named.or_else(|| self.host.clone());
        if !is_host(self.is(&authority).unwrap_or_default()) {
            return Err(Refused(400, "the authority is no host"));
        }
        let none = 0..0;
        let [method, path, authority, protocol] =
            [self.method, self.path, authority, self.protocol].map(|range| range.unwrap_or_else(|| none.clone()));
        let text = Bytes::copy_from_slice(self.text);
        let head = self.parts.request(text, Version::Http2, method, path, authority, protocol);
        let length = if self.has_length { content_length(&head.fields) } else { Ok(None) };
        let length = length.map_err(|_| Refused(400, "the Content-Length is none"))?;
        Ok((head, length))
    }

    /// The head of a CONNECT: it has a host and no path.
    fn connect(self) -> Result<(RequestHead, Option<u64>), NoHead> {
        if !is_host(self.is(&self.authority).unwrap_or_default()) {
            return Err(NoHead::Refused(400, "the authority is no host"));
        }
        let [method, authority] = [self.method, self.authority].map(Option::unwrap_or_default);
        let text = Bytes::copy_from_slice(self.text);
        Ok((self.parts.request(text, Version::Http2, method, 0..0, authority, 0..0), None))
    }

    /// The head of an answer, and the length of its body where it is declared.
    pub(super) fn response(mut self) -> Result<(ResponseHead, Option<u64>), &'static str> {
        if let Some(why) = self.malformed {
            return Err(why);
        }
        if self.too_large {
            return Err(TOO_LARGE);
        }
        if self.method.is_some() || self.scheme.is_some() || self.authority.is_some() || self.path.is_some() || self.protocol.is_some() {
            return Err("an answer has a pseudo-field of a request");
        }
        let status = match self.is(&self.status) {
            Some([a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => return Err("the :status is none"),
        };
        if status == 101 {
            return Err("HTTP/2 has no 101");
        }
        self.keep_host();
        let (fields, length) = self.fields().map_err(|_| "the Content-Length is none")?;
        Ok((ResponseHead { version: Version::Http2, status, fields }, length))
    }

    /// Trailers.
    pub(super) fn trailers(mut self) -> Result<Fields, &'static str> {
        let pseudo = [&self.method, &self.scheme, &self.authority, &self.path, &self.protocol, &self.status];
        if pseudo.into_iter().any(Option::is_some) {
            return Err("trailers have a pseudo-field");
        }
        if let Some(why) = self.malformed {
            return Err(why);
        }
        if self.too_large {
            return Err(TOO_LARGE);
        }
        self.keep_host();
        Ok(self.parts.fields(Bytes::copy_from_slice(self.text)))
    }

    /// Puts the Host among the fields, where it says nothing special.
    fn keep_host(&mut self) {
        if let Some(host) = self.host.take()
            && self.parts.len() < MAX_FIELDS
        {
            self.parts.field(host.start - 4..host.start, host);
        }
    }
}

/// What an answer or trailers are called that are too large.
pub(super) const TOO_LARGE: &str = "the head has more than 64 KiB or 128 fields";

/// Appends the block of a request.
pub(super) fn put_request(outgoing: &Outgoing<'_>, upgrade: Option<&[u8]>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    let method = if upgrade.is_some() { "CONNECT" } else { outgoing.head.method() };
    encoder.field(b":method", method.as_bytes(), out);
    // A CONNECT to a host has neither (RFC 9113, 8.5).
    let to_host = upgrade.is_none() && method == "CONNECT";
    if !to_host {
        encoder.field(b":scheme", b"http", out);
    }
    // HTTP/1.0 need not name a host; then there is no `:authority` either.
    if !outgoing.authority().is_empty() {
        encoder.field(b":authority", outgoing.authority().as_bytes(), out);
    }
    if !to_host {
        encoder.field(b":path", outgoing.path_and_query().as_bytes(), out);
    }
    if let Some(protocol) = upgrade {
        encoder.field(b":protocol", protocol, out);
    }
    for (name, value) in outgoing.fields() {
        // `:authority` says what Host said.
        if name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"content-length") {
            continue;
        }
        encoder.field(name, value, out);
    }
    if let Some(length) = outgoing.length.filter(|length| upgrade.is_none() && (*length > 0 || outgoing.declares_length())) {
        put_length(length, encoder, out);
    }
}

/// Appends the block of an answer; its Content-Length is what the codec knows, whatever the fields say.
pub(super) fn put_response<'f>(
    status: u16,
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    length: Option<u64>,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
    encoder.begin(out);
    let digits = [(status / 100) as u8 % 10 + b'0', (status / 10 % 10) as u8 + b'0', (status % 10) as u8 + b'0'];
    encoder.field(b":status", &digits, out);
    for (name, value) in fields {
        if !name.eq_ignore_ascii_case(b"content-length") {
            encoder.field(name, value, out);
        }
    }
    if let Some(length) = length {
        put_length(length, encoder, out);
    }
}

/// The block of trailers, or nothing where none of them goes on.
pub(super) fn trailers_block(fields: &Fields) -> Option<Bytes> {
    let mut block = Vec::new();
    trailers(fields).for_each(|(name, value)| plain(name, value, &mut block));
    (!block.is_empty()).then(|| block.into())
}

fn put_length(length: u64, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    encoder.field(b"content-length", &digits[at..], out);
}
