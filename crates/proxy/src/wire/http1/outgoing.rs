//! A body of HTTP/1 as it goes out: bytes in, framed bytes queued on the connection. It never sends more or less than its
//! head said, as the next message would then begin in the wrong place.

use bytes::Bytes;
use lorica_model::head::Fields;

use super::super::error::WireError;
use super::super::fields::trailers;
use super::connection::Connection;
use super::parse;

/// How the end of a body that goes out is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// No head yet, or an answer that has no body whatever it says (to HEAD, 204, 304).
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// It goes in chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

impl Shape {
    /// Queues bytes of the body.
    pub(super) fn data(&mut self, connection: &mut Connection, data: Bytes) -> Result<(), WireError> {
        // An empty chunk would be the last.
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Self::None => {}
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WireError::Invalid("the body is longer than its head says"))?;
                connection.outbox.data(data);
            }
            Self::Chunked => {
                connection.outbox.text(|text| parse::chunk(text, data.len()));
                connection.outbox.data(data);
                connection.outbox.text(|text| text.extend_from_slice(b"\r\n"));
            }
            Self::UntilClose => connection.outbox.data(data),
        }
        Ok(())
    }

    /// Queues the end of the body.
    pub(super) fn end(self, connection: &mut Connection, fields: Option<&Fields>) -> Result<(), WireError> {
        match (self, fields) {
            (Self::Length(1..), _) => return Err(WireError::Invalid("the body is shorter than its head says")),
            (Self::Chunked, Some(fields)) => {
                connection.outbox.text(|text| {
                    text.extend_from_slice(b"0\r\n");
                    trailers(fields).for_each(|(name, value)| parse::line(text, name, value));
                    text.extend_from_slice(b"\r\n");
                });
            }
            (Self::Chunked, None) => connection.outbox.text(|text| text.extend_from_slice(b"0\r\n\r\n")),
            // Without chunks there is no place for trailers.
            _ => {}
        }
        Ok(())
    }
}
