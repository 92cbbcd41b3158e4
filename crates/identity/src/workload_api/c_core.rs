//! Clients on gRPC's C core (Python, C++, Ruby) name the socket's path as the authority of their calls: `run%2Fspiffe%2Fworkload.sock`. No
//! authority may be like that (RFC 3986, 3.2.2), and the HTTP/2 library refuses the call. As it says nothing that is not known, its percent signs
//! are made hyphens before the library reads it: nothing gets longer, and no table of header compression is another for it.
//!
//! C core writes the field with its name and without Huffman's code (RFC 7541, 6.2). No other field can hold what is looked for: values
//! have no line feeds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client sends first (RFC 9113, 3.4), in bytes.
const PREFACE: usize = 24;
/// How long the head of a frame is, in bytes (RFC 9113, 4.1).
const HEAD: usize = 9;
/// The types of frames that hold header fields.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The length of the name, and the name.
const NAME: &[u8] = b"\x0a:authority";

/// A connection of a client, with authorities that can be read.
#[derive(Debug)]
pub struct Readable<S> {
    stream: S,
    place: Place,
    within: Within,
}

/// Where in the stream of frames the next byte is.
#[derive(Debug)]
enum Place {
    Preface { left: usize },
    Head { have: usize, length: usize, fields: bool },
    Payload { left: usize, fields: bool },
}

/// Where among the fields the next byte is.
#[derive(Debug, Clone, Copy)]
enum Within {
    /// So many bytes of the name came.
    Name(usize),
    /// The length of the value comes (RFC 7541, 5.1).
    Length { value: usize, shift: u32 },
    /// So many bytes of the value are to come.
    Value(usize),
}

impl<S> Readable<S> {
    /// The connection, from its first byte on.
    pub fn new(stream: S) -> Self {
        Self { stream, place: Place::Preface { left: PREFACE }, within: Within::Name(0) }
    }

    fn mend(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.place = match self.place {
                Place::Preface { left: 1 } => Place::Head { have: 0, length: 0, fields: false },
                Place::Preface { left } => Place::Preface { left: left - 1 },
                Place::Head { have, length, fields } => {
                    let length = if have < 3 { length << 8 | usize::from(*byte) } else { length };
                    let fields = if have == 3 { matches!(*byte, HEADERS | CONTINUATION) } else { fields };
                    match have + 1 {
                        HEAD => Place::after(length, fields),
                        have => Place::Head { have, length, fields },
                    }
                }
                Place::Payload { left, fields } => {
                    if fields {
                        self.within = self.within.next(byte);
                    }
                    Place::after(left - 1, fields)
                }
            };
        }
    }
}

impl Place {
    /// Where so many bytes of a payload are left.
    fn after(left: usize, fields: bool) -> Self {
        if left == 0 { Self::Head { have: 0, length: 0, fields: false } } else { Self::Payload { left, fields } }
    }
}

impl Within {
    fn next(self, byte: &mut u8) -> Self {
        match self {
            Self::Name(came) if NAME.get(came) == Some(byte) => {
                if came + 1 == NAME.len() {
                    Self::Length { value: 0, shift: 0 }
                } else {
                    Self::Name(came + 1)
                }
            }
            Self::Name(_) => Self::Name(usize::from(NAME.first() == Some(byte))),
            // The first byte has seven bits of the length, and one that tells of Huffman's code.
            Self::Length { shift: 0, .. } => match *byte {
                0..127 => Self::Value(usize::from(*byte)),
                127 => Self::Length { value: 127, shift: 1 },
                _ => Self::Name(0),
            },
            Self::Length { value, shift } => {
                let value = value + (usize::from(*byte & 127) << (shift - 1));
                match *byte {
                    0..128 => Self::Value(value),
                    // Longer than any path of a socket.
                    _ if shift > 14 => Self::Name(0),
                    _ => Self::Length { value, shift: shift + 7 },
                }
            }
            Self::Value(0) => Self::Name(0).next(byte),
            Self::Value(left) => {
                if *byte == b'%' {
                    *byte = b'-';
                }
                Self::Value(left - 1)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(came) = buffer.filled_mut().get_mut(before..) {
            self.mend(came);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    fn mended(sent: &[u8], at_once: usize) -> Vec<u8> {
        let mut sent = sent.to_vec();
        let mut stream = Readable::new(());
        sent.chunks_mut(at_once).for_each(|bytes| stream.mend(bytes));
        sent
    }

    #[test]
    fn authorities_are_made_readable_and_nothing_else() {
        let long = "%2F".repeat(100);
        let long_length = [127, 0x80 | (173 & 127), 173 >> 7];
        let fields = |authority: &str, long: &str| {
            let name = b"@\x0a:authority";
            let first = [&name[..], &[u8::try_from(authority.len()).unwrap_or_default()], authority.as_bytes()].concat();
            let second = [&name[..], &long_length, long.as_bytes()].concat();
            [b"@\x05:path\x04/a%b", first.as_slice(), b"\x83\x86@\x01a\x02%b", second.as_slice(), b"@\x01a\x02%b"].concat()
        };
        let stream = |authority: &str, long: &str| {
            let fields = fields(authority, long);
            let (head, rest) = fields.split_at(30);
            let data = frame(0, b"\x0a:authority\x03%2F");
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, b""), &frame(HEADERS, head), &frame(CONTINUATION, rest), &data]
                .concat()
        };
        let sent = stream("tmp%2Fwl.sock", &long);
        let expected = stream("tmp-2Fwl.sock", &long.replace('%', "-"));
        for at_once in [1, 2, 7, 100, sent.len()] {
            assert!(mended(&sent, at_once) == expected, "{at_once} bytes at once");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_come(mut bytes in vec(any::<u8>(), 400), at in 33..300_usize) {
            bytes[24..33].copy_from_slice(&[0, 1, 0x50, HEADERS, 4, 0, 0, 0, 1]);
            bytes[at..at + NAME.len()].copy_from_slice(NAME);
            let mended = mended(&bytes, 64);
            prop_assert!(bytes.iter().zip(&mended).all(|(sent, mended)| sent == mended || (*sent, *mended) == (b'%', b'-')));
        }
    }
}
