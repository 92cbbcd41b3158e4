//! The head of a message, one type for all versions of HTTP: a codec fills it, decisions read it, a codec writes it.
//!
//! All text lies in one buffer as it was received, order and case kept; a field is two ranges into it. A head never
//! changes: what a rule or a hop alters is an [`Edits`] beside it, and an attempt is the head with its edits.
//! Nothing here reads or writes a socket.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

mod name;

pub use self::name::is_same;

/// The largest head that the proxy takes, start line and fields together, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most fields that the proxy takes in a head. An [`Edits`] marks removed ones in as many bits.
pub const MAX_FIELDS: usize = 128;

/// The version of HTTP in which a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: no chunked answers, no connection kept without being asked.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Version {
    /// As access logs write it: `HTTP/1.1`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Http3 => "HTTP/3",
        }
    }

    /// Whether method, target and host are fields of their own kind, and cookies may come in crumbs.
    #[must_use]
    pub const fn has_pseudo_fields(self) -> bool {
        matches!(self, Self::Http2 | Self::Http3)
    }
}

/// Why a head was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`MAX_HEAD_BYTES`] or [`MAX_FIELDS`].
    #[error("the head has more than 64 KiB or 128 fields")]
    TooLarge,
    /// What is wrong with it.
    #[error("{0}")]
    Invalid(&'static str),
}

/// A range in a head's buffer. Heads have at most 64 KiB, yet HPACK may expand names that we fold, so `u32`.
type Span = Range<u32>;

#[derive(Clone, Debug)]
struct FieldSpan {
    name: Span,
    value: Span,
}

impl FieldSpan {
    /// Whether the field stands in `bytes` as a line.
    #[inline]
    fn is_line(&self, bytes: &[u8]) -> bool {
        let (name, value) = (self.name.end as usize, self.value.end as usize);
        bytes.get(name..self.value.start as usize) == Some(COLON) && bytes.get(value..value + END_OF_LINE.len()) == Some(END_OF_LINE)
    }

    /// The field of `bytes`; `line`: whether it stands as one.
    #[inline]
    fn field<'f>(&self, bytes: &'f [u8], line: bool) -> Field<'f> {
        let at = |span: &Span| &bytes[span.start as usize..span.end as usize];
        let whole = || &bytes[self.name.start as usize..self.value.end as usize + END_OF_LINE.len()];
        Field { name: at(&self.name), value: at(&self.value), line: line.then(whole) }
    }

    fn is_named(&self, bytes: &[u8], name: &[u8]) -> bool {
        // Most names differ in their length already.
        (self.name.end - self.name.start) as usize == name.len()
            && bytes.get(self.name.start as usize..self.name.end as usize).is_some_and(|own| is_same(own, name))
    }
}

/// The bit that a name sets in [`Fields::marks`], in any case. Most names that are asked for are not there, and their bit says so.
/// Inlined, so that a name known at compile time costs nothing. By these factors no name that a proxy asks for shares the bit of another that
/// messages usually have.
#[inline]
const fn mark(name: &[u8]) -> u64 {
    let [first, .., last] = name else { return 1 };
    1 << ((name.len() * 7 + (*first | 0x20) as usize * 5 + (*last | 0x20) as usize * 9) & 63)
}

/// What stands between a name and its value where a field is a line of text.
const COLON: &[u8] = b": ";
/// What ends a line.
const END_OF_LINE: &[u8] = b"\r\n";

/// A field as it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'f> {
    /// Its name, in the case in which it came.
    pub name: &'f [u8],
    /// Its value.
    pub value: &'f [u8],
    /// Both as one line, `name: value\r\n`, where they stand so in memory.
    line: Option<&'f [u8]>,
}

impl<'f> Field<'f> {
    /// A field of parts.
    #[must_use]
    pub const fn new(name: &'f [u8], value: &'f [u8]) -> Self {
        Self { name, value, line: None }
    }

    /// Appends the field as a line of HTTP/1.
    #[inline]
    pub fn write_line(&self, text: &mut Vec<u8>) {
        match self.line {
            Some(line) => text.extend_from_slice(line),
            None => _ = push_line(text, self.name, self.value),
        }
    }
}

impl<'f> From<(&'f [u8], &'f [u8])> for Field<'f> {
    fn from((name, value): (&'f [u8], &'f [u8])) -> Self {
        Self::new(name, value)
    }
}

/// Appends `name: value\r\n`; where the two stand.
fn push_line(text: &mut Vec<u8>, name: &[u8], value: &[u8]) -> FieldSpan {
    text.reserve(name.len() + value.len() + COLON.len() + END_OF_LINE.len());
    let start = text.len();
    text.extend_from_slice(name);
    let name = span(start..text.len());
    text.extend_from_slice(COLON);
    let start = text.len();
    text.extend_from_slice(value);
    let value = span(start..text.len());
    text.extend_from_slice(END_OF_LINE);
    FieldSpan { name, value }
}

/// The fields of a head or of trailers.
#[derive(Clone, Default)]
pub struct Fields {
    bytes: Bytes,
    /// On the heap, exactly as many as there are: heads are moved from step to step.
    spans: Vec<FieldSpan>,
    /// The [`mark`]s of all names.
    marks: u64,
    /// Whether each field stands in `bytes` as a line, as HTTP/1 has it.
    lines: bool,
}

impl Fields {
    fn new(bytes: Bytes, spans: Vec<FieldSpan>) -> Self {
        let name = |field: &FieldSpan| mark(&bytes[field.name.start as usize..field.name.end as usize]);
        let marks = spans.iter().fold(0, |marks, field| marks | name(field));
        let lines = spans.iter().all(|field| field.is_line(&bytes));
        Self { bytes, spans, marks, lines }
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// All fields as received, in order: name, value.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|field| (self.slice(&field.name), self.slice(&field.value)))
    }

    /// The fields as they would go out, in order.
    #[inline]
    pub fn onward(&self) -> impl Iterator<Item = Field<'_>> {
        self.spans.iter().map(|field| field.field(&self.bytes, self.lines))
    }

    /// The first field named `name`, in any case.
    #[inline]
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name).map(|index| self.slice(&self.spans[index].value))
    }

    /// The first field named `name` where it is UTF-8.
    #[inline]
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All fields named `name`, in any case.
    #[inline]
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let spans = if self.marks & mark(name.as_bytes()) == 0 { &[] } else { self.spans.as_slice() };
        spans.iter().filter(move |field| field.is_named(&self.bytes, name.as_bytes())).map(|field| self.slice(&field.value))
    }

    /// Where the first field named `name` stands.
    #[inline]
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        if self.marks & mark(name.as_bytes()) == 0 { None } else { self.search(name) }
    }

    fn search(&self, name: &str) -> Option<usize> {
        self.spans.iter().position(|field| field.is_named(&self.bytes, name.as_bytes()))
    }

    /// Whether a comma-separated field (`Connection`, `TE`) holds `token`, in any case.
    #[inline]
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.marks & mark(name.as_bytes()) != 0 && self.any_token(name, token)
    }

    fn any_token(&self, name: &str, token: &str) -> bool {
        let is_it = |part: &[u8]| is_same(part, token.as_bytes());
        // Most lists have one member.
        self.get_all(name).any(|value| if value.contains(&b',') { tokens(value).any(is_it) } else { is_it(value.trim_ascii()) })
    }

    /// The value of the field at `index` as a slice of the head's own buffer.
    #[must_use]
    pub fn value_bytes(&self, index: usize) -> Bytes {
        let span = &self.spans[index].value;
        self.bytes.slice(span.start as usize..span.end as usize)
    }

    #[inline]
    fn slice(&self, span: &Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: values hold what must not reach a log (Authorization, Cookie).
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned())).finish()
    }
}

/// The members of a comma-separated list, trimmed, empty ones left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// The head of a request.
#[derive(Clone)]
pub struct RequestHead {
    /// The version it came in.
    pub version: Version,
    method: Span,
    path: Span,
    authority: Span,
    /// `:protocol` of an extended CONNECT (RFC 8441), empty where there is none.
    protocol: Span,
    /// Its fields, without HTTP/2's pseudo-fields.
    pub fields: Fields,
}

impl RequestHead {
    /// The method: `GET`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.text(&self.method)
    }

    /// Whether the method is this one.
    #[must_use]
    pub fn is_method(&self, method: &str) -> bool {
        self.fields.slice(&self.method) == method.as_bytes()
    }

    /// Path and query as received: `/recordings?customer=7`; `*` for `OPTIONS *`.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        self.text(&self.path)
    }

    /// The path alone.
    #[must_use]
    pub fn path(&self) -> &str {
        let whole = self.path_and_query();
        whole.split_once('?').map_or(whole, |(path, _)| path)
    }

    /// The query alone, without its question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.path_and_query().split_once('?').map(|(_, query)| query)
    }

    /// Host and port that the caller named: `:authority`, an absolute target's, or `Host`. Empty in HTTP/1.0 without `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text(&self.authority)
    }

    /// The protocol of an extended CONNECT: `websocket`.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        if self.protocol.is_empty() { None } else { Some(self.text(&self.protocol)) }
    }

    /// Whether it is a gRPC call.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.fields.get("content-type").is_some_and(|value| {
            value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
        })
    }

    /// Whether the method promises that doing it twice is as doing it once (RFC 9110, 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.fields.slice(&self.method), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    fn text(&self, span: &Span) -> &str {
        // The builder takes these parts as `&str` only.
        std::str::from_utf8(self.fields.slice(span)).unwrap_or_default()
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {:?}", self.method(), self.authority(), self.path(), self.version.as_str(), self.fields)
    }
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The version it came in.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// Its fields.
    pub fields: Fields,
}

/// Fills the buffer of a head. A codec appends the parts in the order received.
#[derive(Debug)]
pub struct HeadBuilder {
    bytes: BytesMut,
    fields: Vec<FieldSpan>,
}

impl HeadBuilder {
    /// A builder whose buffer has room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(capacity.min(MAX_HEAD_BYTES)), fields: Vec::with_capacity(12) }
    }

    /// Adds a field.
    ///
    /// # Errors
    /// [`HeadError::TooLarge`] past the bounds of a head.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if self.fields.len() == MAX_FIELDS {
            return Err(HeadError::TooLarge);
        }
        let name = self.push(name)?;
        let value = self.push(value)?;
        self.fields.push(FieldSpan { name, value });
        Ok(())
    }

    /// Ends as a request's head.
    ///
    /// # Errors
    /// [`HeadError::TooLarge`] past the bounds of a head.
    pub fn request(
        mut self,
        version: Version,
        method: &str,
        path_and_query: &str,
        authority: &str,
        protocol: Option<&str>,
    ) -> Result<RequestHead, HeadError> {
        let method = self.push(method.as_bytes())?;
        let path = self.push(path_and_query.as_bytes())?;
        let authority = self.push(authority.as_bytes())?;
        let protocol = self.push(protocol.unwrap_or_default().as_bytes())?;
        Ok(RequestHead { version, method, path, authority, protocol, fields: self.fields() })
    }

    /// Ends as an answer's head.
    #[must_use]
    pub fn response(self, version: Version, status: u16) -> ResponseHead {
        ResponseHead { version, status, fields: self.fields() }
    }

    /// Ends as trailers.
    #[must_use]
    pub fn fields(self) -> Fields {
        Fields::new(self.bytes.freeze(), self.fields)
    }

    fn push(&mut self, part: &[u8]) -> Result<Span, HeadError> {
        let start = self.bytes.len();
        if start + part.len() > MAX_HEAD_BYTES {
            return Err(HeadError::TooLarge);
        }
        self.bytes.extend_from_slice(part);
        Ok(span(start..self.bytes.len()))
    }
}

/// A head taken apart where it stands: ranges into `bytes`, so that nothing is copied.
#[derive(Debug)]
pub struct Parts {
    spans: Vec<FieldSpan>,
}

impl Parts {
    /// Room for so many fields.
    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self { spans: Vec::with_capacity(fields.min(MAX_FIELDS)) }
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Adds a field by where its name and its value stand.
    pub fn field(&mut self, name: Range<usize>, value: Range<usize>) {
        self.spans.push(FieldSpan { name: span(name), value: span(value) });
    }

    /// The fields of `bytes` that the ranges name. Ranges out of bounds would be the codec's mistake and read as empty.
    #[must_use]
    pub fn fields(mut self, bytes: Bytes) -> Fields {
        let outside = |range: &Span| range.start > range.end || range.end as usize > bytes.len();
        for field in &mut self.spans {
            if outside(&field.name) || outside(&field.value) {
                *field = FieldSpan { name: 0..0, value: 0..0 };
            }
        }
        Fields::new(bytes, self.spans)
    }

    /// A request's head over `bytes`. `method`, `path`, `authority` and `protocol` are ranges of ASCII text in it; an empty one says
    /// that there is none.
    #[must_use]
    pub fn request(
        self,
        bytes: Bytes,
        version: Version,
        method: Range<usize>,
        path: Range<usize>,
        authority: Range<usize>,
        protocol: Range<usize>,
    ) -> RequestHead {
        RequestHead {
            version,
            method: span(method),
            path: span(path),
            authority: span(authority),
            protocol: span(protocol),
            fields: self.fields(bytes),
        }
    }
}

fn span(range: Range<usize>) -> Span {
    // A head has at most 64 KiB; a larger range cannot occur and would only read as cut off.
    let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    narrow(range.start)..narrow(range.end)
}

/// What is altered in a head on its way: fields removed and added, target and authority replaced.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    removed: u128,
    /// The fields added, as lines.
    lines: Vec<u8>,
    added: SmallVec<[FieldSpan; 4]>,
    /// Path and query in place of the head's.
    pub path_and_query: Option<String>,
    /// Authority in place of the head's.
    pub authority: Option<String>,
}

impl Edits {
    /// The room for the first fields that are added, in bytes: a request's id and its place in a trace.
    const ROOM: usize = 192;

    /// Removes the field at `index`.
    pub fn remove_at(&mut self, index: usize) {
        if index < MAX_FIELDS {
            self.removed |= 1 << index;
        }
    }

    /// Removes every field named `name`, those added too.
    #[inline]
    pub fn remove(&mut self, fields: &Fields, name: &str) {
        if fields.marks & mark(name.as_bytes()) != 0 {
            self.remove_received(fields, name);
        }
        let Self { lines, added, .. } = self;
        added.retain(|field| !field.is_named(lines, name.as_bytes()));
    }

    fn remove_received(&mut self, fields: &Fields, name: &str) {
        for (index, field) in fields.spans.iter().enumerate() {
            if field.is_named(&fields.bytes, name.as_bytes()) {
                self.remove_at(index);
            }
        }
    }

    /// Adds a field after those received. The value must hold no CR, LF or NUL; such a field is left out.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        // No early end, so that many bytes are looked at at once.
        if !value.iter().fold(false, |any, byte| any | matches!(byte, b'\r' | b'\n' | 0)) {
            if self.lines.capacity() == 0 {
                self.lines.reserve(Self::ROOM);
            }
            self.added.push(push_line(&mut self.lines, name.as_bytes(), value));
        }
    }

    /// Puts a field in place of all of its name.
    #[inline]
    pub fn set(&mut self, fields: &Fields, name: &str, value: impl AsRef<[u8]>) {
        self.remove(fields, name);
        self.add(name, value);
    }

    /// The fields received that go out, in order.
    pub fn kept<'a>(&'a self, fields: &'a Fields) -> impl Iterator<Item = Field<'a>> {
        fields.onward().enumerate().filter(|(index, _)| self.removed & (1 << index) == 0).map(|(_, field)| field)
    }

    /// The fields that are added, in order.
    pub fn added(&self) -> impl Iterator<Item = Field<'_>> {
        self.added.iter().map(|field| field.field(&self.lines, true))
    }

    /// The fields as they go out: those received and not removed, in order, then those added.
    pub fn apply<'a>(&'a self, fields: &'a Fields) -> impl Iterator<Item = Field<'a>> {
        self.kept(fields).chain(self.added())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head() -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        builder.field(b"Host", b"recording.contact").unwrap();
        builder.field(b"X-Two", b"a").unwrap();
        builder.field(b"x-two", b"b").unwrap();
        builder.field(b"Connection", b"Keep-Alive , upgrade").unwrap();
        builder.request(Version::Http11, "GET", "/recordings?customer=7", "recording.contact", None).unwrap()
    }

    #[test]
    fn a_head_reads_back_in_order_and_case() {
        let head = head();
        assert_eq!(
            (head.method(), head.path(), head.query(), head.authority()),
            ("GET", "/recordings", Some("customer=7"), "recording.contact")
        );
        assert_eq!(head.fields.get("x-TWO"), Some(&b"a"[..]));
        assert_eq!(head.fields.get_all("x-two").collect::<Vec<_>>(), [b"a", b"b"]);
        assert!(head.fields.has_token("connection", "Upgrade"));
        assert!(!head.fields.has_token("connection", "up"));
    }

    #[test]
    fn edits_leave_the_head_as_it_is() {
        let head = head();
        let mut edits = Edits::default();
        edits.remove(&head.fields, "connection");
        edits.set(&head.fields, "x-two", b"d");
        edits.set(&head.fields, "X-Two", b"c");
        edits.add("x-bad", b"a\r\nb: c");
        let out: Vec<_> = edits.apply(&head.fields).map(|field| (field.name, field.value)).collect();
        assert_eq!(out, [(&b"Host"[..], &b"recording.contact"[..]), (b"X-Two", b"c")]);
        assert_eq!(head.fields.len(), 4);
    }

    #[test]
    fn a_field_is_the_same_line_however_it_stands() {
        let received = Bytes::from_static(b"Host: a\r\nX-Two: b\r\n\r\nEmpty: \r\n");
        let odd = Bytes::from_static(b"Host:a\r\nX-Two : b \r\n");
        let fields = |bytes: &Bytes, spans: &[[usize; 4]]| {
            let mut parts = Parts::with_capacity(2);
            spans.iter().for_each(|[a, b, c, d]| parts.field(*a..*b, *c..*d));
            parts.fields(bytes.clone())
        };
        let text = |fields: &Fields| {
            let mut text = Vec::new();
            fields.onward().for_each(|field| field.write_line(&mut text));
            String::from_utf8(text).unwrap()
        };
        let whole = fields(&received, &[[0, 4, 6, 7], [9, 14, 16, 17], [21, 26, 28, 28]]);
        assert!(whole.lines);
        assert_eq!(text(&whole), "Host: a\r\nX-Two: b\r\nEmpty: \r\n");
        let pieces = fields(&odd, &[[0, 4, 5, 6], [8, 13, 16, 17]]);
        assert!(!pieces.lines);
        assert_eq!(text(&pieces), "Host: a\r\nX-Two: b\r\n");
        // A value at the very end of what was read, as trailers of HTTP/2 have it.
        let last = fields(&Bytes::from_static(b"a: b"), &[[0, 1, 3, 4]]);
        assert_eq!(text(&last), "a: b\r\n");
    }

    #[test]
    fn a_head_past_its_bounds_is_refused() {
        let mut builder = HeadBuilder::with_capacity(0);
        for _ in 0..MAX_FIELDS {
            builder.field(b"a", b"b").unwrap();
        }
        assert_eq!(builder.field(b"a", b"b"), Err(HeadError::TooLarge));
        assert_eq!(HeadBuilder::with_capacity(0).field(b"a", &vec![b'x'; MAX_HEAD_BYTES]), Err(HeadError::TooLarge));
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, grpc) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false), ("text/plain", false)]
        {
            let mut builder = HeadBuilder::with_capacity(64);
            builder.field(b"content-type", value.as_bytes()).unwrap();
            assert_eq!(builder.request(Version::Http2, "POST", "/a/b", "x", None).unwrap().is_grpc(), grpc, "{value}");
        }
    }
}
