//! grpc_web: a call of gRPC-Web, as browsers make it, becomes one of gRPC, and its answer gRPC-Web again (PROTOCOL-WEB.md of gRPC). Pure
//! functions of heads and of pieces of bodies: nothing is collected, and bytes mean the same however they are split.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use lorica_model::head::{Edits, Fields, RequestHead, ResponseHead, tokens};

use crate::wire::{WireError, passed_trailers};

/// How the bytes of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As they are.
    Binary,
    /// In base64, for scripts that get text only.
    Text,
}

/// A call of gRPC-Web: how its request is written, and how its answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    request: Form,
    answer: Form,
}

/// The form that a media type names, whatever its parameters.
fn form(value: &[u8]) -> Option<Form> {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    match essence.as_slice() {
        b"application/grpc-web" | b"application/grpc-web+proto" => Some(Form::Binary),
        b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(Form::Text),
        _ => None,
    }
}

impl Call {
    /// What a request asks for, if it is a call of gRPC-Web.
    #[must_use]
    pub fn of(head: &RequestHead) -> Option<Self> {
        let request = form(head.fields.get("content-type")?)?;
        let text = head.fields.get_all("accept").flat_map(tokens).any(|accepted| form(accepted) == Some(Form::Text));
        Some(Self { request, answer: if text { Form::Text } else { Form::Binary } })
    }

    /// What its answers are declared as.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self.answer {
            Form::Binary => "application/grpc-web+proto",
            Form::Text => "application/grpc-web-text+proto",
        }
    }

    /// What changes in the head of the request.
    pub fn ask(self, head: &RequestHead, edits: &mut Edits) {
        edits.set(&head.fields, "content-type", "application/grpc");
        edits.set(&head.fields, "te", "trailers");
    }

    /// What the body of the request must be read through.
    #[must_use]
    pub fn decoder(self) -> Option<Decoder> {
        (self.request == Form::Text).then(Decoder::default)
    }

    /// What changes in the head of the answer. False where its body is not gRPC's, and must not follow: then the head says all.
    /// `bodiless`: it has no body.
    #[must_use]
    pub fn answer(self, head: &ResponseHead, bodiless: bool, edits: &mut Edits) -> bool {
        let says = |name| head.fields.position(name).is_some();
        let is_grpc = head.status == 200 && head.fields.get("content-type").is_some_and(|value| value.starts_with(b"application/grpc"));
        edits.set(&head.fields, "content-type", self.content_type());
        if is_grpc || (bodiless && says("grpc-status")) {
            return true;
        }
        edits.set(&head.fields, "grpc-status", code(head.status));
        edits.set(&head.fields, "grpc-message", format!("the backend answered with status {} and no gRPC", head.status).as_str());
        false
    }

    /// A piece of the answer's body. Each is padded by itself, so that the caller need not wait for the next.
    #[must_use]
    pub fn piece(self, data: Bytes) -> Bytes {
        match self.answer {
            Form::Binary => data,
            Form::Text => STANDARD.encode(data).into(),
        }
    }

    /// The trailers, as the last frame of the answer's body.
    #[must_use]
    pub fn trailers(self, trailers: &Fields) -> Bytes {
        let mut frame = BytesMut::with_capacity(128);
        frame.put_bytes(0, HEADER);
        for (name, value) in passed_trailers(trailers) {
            name.iter().for_each(|byte| frame.put_u8(byte.to_ascii_lowercase()));
            frame.put_slice(b": ");
            frame.put_slice(value);
            frame.put_slice(b"\r\n");
        }
        let length = u32::try_from(frame.len() - HEADER).unwrap_or(u32::MAX);
        frame[0] = TRAILERS;
        frame[1..HEADER].copy_from_slice(&length.to_be_bytes());
        self.piece(frame.freeze())
    }
}

/// The bytes before a frame's payload: flags and length.
const HEADER: usize = 5;
/// The flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// The gRPC status of an answer that says only an HTTP status (gRPC's http-grpc-status-mapping.md).
const fn code(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// Reads base64 in pieces. Padding may come wherever a writer had to send what it had.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder {
    /// The symbols of a group that has not come in whole.
    begun: [u8; 4],
    count: usize,
}

/// What is no base64.
const INVALID: WireError = WireError::Invalid("the body of a gRPC-Web request is not valid base64");

impl Decoder {
    /// What the next piece holds; perhaps nothing yet.
    ///
    /// # Errors
    /// Where it is no base64.
    pub fn read(&mut self, piece: &[u8]) -> Result<Bytes, WireError> {
        let mut bytes = Vec::with_capacity((self.count + piece.len()) / 4 * 3);
        let first = if self.count == 0 { 0 } else { piece.len().min(4 - self.count) };
        let (first, rest) = piece.split_at(first);
        self.keep(first);
        if self.count == 4 {
            self.count = 0;
            groups(&self.begun, &mut bytes)?;
        }
        let (whole, begun) = rest.split_at(rest.len() / 4 * 4);
        groups(whole, &mut bytes)?;
        self.keep(begun);
        Ok(bytes.into())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// Where it ends in the middle of a group.
    pub fn end(&self) -> Result<(), WireError> {
        if self.count == 0 { Ok(()) } else { Err(INVALID) }
    }

    fn keep(&mut self, symbols: &[u8]) {
        for symbol in symbols {
            self.begun[self.count] = *symbol;
            self.count += 1;
        }
    }
}

/// Reads groups of four symbols, of which each may be a last one.
fn groups(mut symbols: &[u8], bytes: &mut Vec<u8>) -> Result<(), WireError> {
    while !symbols.is_empty() {
        let end = symbols.iter().position(|symbol| *symbol == b'=').map_or(symbols.len(), |padding| padding / 4 * 4 + 4);
        let (run, rest) = symbols.split_at(end);
        STANDARD.decode_vec(run, bytes).map_err(|_| INVALID)?;
        symbols = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::head::{HeadBuilder, Version};
    use proptest::prelude::*;

    fn builder(fields: &[(&str, &str)]) -> HeadBuilder {
        let mut builder = HeadBuilder::with_capacity(256);
        fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
        builder
    }

    fn call(content_type: &str, accept: &str) -> Option<Call> {
        let fields = [("content-type", content_type), ("accept", accept)];
        Call::of(&builder(&fields).request(Version::Http11, "POST", "/a.B/C", "a", None).unwrap())
    }

    const TEXT: Call = Call { request: Form::Text, answer: Form::Text };
    const BINARY: Call = Call { request: Form::Binary, answer: Form::Binary };

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (content_type, accept, expected) in [
            ("application/grpc-web", "*/*", Some(BINARY)),
            ("application/grpc-web+proto", "", Some(BINARY)),
            ("Application/gRPC-Web-Text; charset=utf-8", "application/grpc-web-text", Some(TEXT)),
            ("application/grpc-web-text+proto", "a/b, application/grpc-web-text+proto;q=1", Some(TEXT)),
            // What is accepted decides what is answered, as in Envoy.
            ("application/grpc-web-text", "*/*", Some(Call { request: Form::Text, answer: Form::Binary })),
            ("application/grpc-web", "application/grpc-web-text", Some(Call { request: Form::Binary, answer: Form::Text })),
            ("application/grpc-web+json", "*/*", None),
            ("application/grpc", "application/grpc-web", None),
            ("application/grpc-website", "", None),
        ] {
            assert_eq!(call(content_type, accept), expected, "{content_type} {accept}");
        }
    }

    fn answered(status: u16, fields: &[(&str, &str)], bodiless: bool) -> (bool, Vec<String>) {
        let head = builder(fields).response(Version::Http2, status);
        let mut edits = Edits::default();
        let goes_on = TEXT.answer(&head, bodiless, &mut edits);
        let text = |part| String::from_utf8_lossy(part).into_owned();
        let mut fields: Vec<String> = edits.apply(&head.fields).map(|field| text(field.name) + ": " + &text(field.value)).collect();
        fields.retain(|field| !field.starts_with("grpc-message"));
        (goes_on, fields)
    }

    #[test]
    fn an_answer_is_one_of_grpc_or_its_head_says_why_not() {
        let declared = "content-type: application/grpc-web-text+proto";
        for (status, fields, bodiless, goes_on, told) in [
            (200, &[("content-type", "application/grpc+proto")][..], false, true, &[declared][..]),
            (200, &[("grpc-status", "5")], true, true, &["grpc-status: 5", declared]),
            (503, &[("content-type", "text/html")], false, false, &[declared, "grpc-status: 14"]),
            (404, &[], true, false, &[declared, "grpc-status: 12"]),
            (200, &[("content-type", "text/plain")], false, false, &[declared, "grpc-status: 2"]),
        ] {
            let expected: Vec<String> = told.iter().map(|told| (*told).to_owned()).collect();
            assert_eq!(answered(status, fields, bodiless), (goes_on, expected), "{status} {fields:?}");
        }
    }

    #[test]
    fn trailers_are_the_last_frame() {
        let trailers = builder(&[("Grpc-Status", "0"), ("x-told", "a b"), ("content-length", "7")]).fields();
        assert_eq!(BINARY.trailers(&trailers), b"\x80\0\0\0\x1dgrpc-status: 0\r\nx-told: a b\r\n"[..]);
        assert_eq!(TEXT.trailers(&trailers), STANDARD.encode(BINARY.trailers(&trailers)));
        assert_eq!(BINARY.trailers(&Fields::default()), b"\x80\0\0\0\0"[..]);
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["AA*A", "A=AA", "=AAA", "AA=A", "AAAA\n", "AB=="] {
            let mut decoder = Decoder::default();
            assert!(decoder.read(text.as_bytes()).and_then(|_| decoder.end()).is_err(), "{text}");
        }
        let mut decoder = Decoder::default();
        assert_eq!(decoder.read(b"AAAAAA").unwrap(), [0; 3][..]);
        assert_eq!(decoder.end(), Err(INVALID));
    }

    /// `bytes` in pieces that end at these places.
    fn pieces<'b>(bytes: &'b [u8], ends: &[usize]) -> Vec<&'b [u8]> {
        let mut ends: Vec<usize> = ends.iter().map(|end| end % (bytes.len() + 1)).collect();
        ends.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for end in ends.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..end]);
            from = end;
        }
        pieces
    }

    proptest! {
        #[test]
        fn any_split_means_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            written in proptest::collection::vec(any::<usize>(), 0..6),
            read in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            // Written in pieces, each padded; read in others.
            let text: Vec<u8> = pieces(&bytes, &written).into_iter().flat_map(|piece| TEXT.piece(Bytes::copy_from_slice(piece))).collect();
            let mut decoder = TEXT.decoder().unwrap();
            let decoded: Vec<u8> = pieces(&text, &read).into_iter().flat_map(|piece| decoder.read(piece).unwrap()).collect();
            prop_assert_eq!(decoded, bytes);
            prop_assert_eq!(decoder.end(), Ok(()));
        }

        #[test]
        fn no_bytes_make_it_panic(read in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..6)) {
            let mut decoder = Decoder::default();
            for piece in read {
                if decoder.read(&piece).is_err() {
                    break;
                }
            }
            decoder.end().ok();
        }
    }
}
