//! What can go wrong on a connection, told apart as far as retries and answers depend on it.

use std::io;

use lorica_model::head::HeadError;

/// Why a message could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The peer closed before the message was complete.
    #[error("the connection was closed in the middle of a message")]
    Closed,
    /// The peer closed or refused the stream, and certainly did not process it (REFUSED_STREAM, GOAWAY below it, or a
    /// connection of HTTP/1 that was closed before a byte of the request arrived).
    #[error("the peer did not take the request")]
    NotProcessed,
    /// The peer reset the stream with this HTTP/2 code.
    #[error("the stream was reset with code {0}")]
    Reset(u32),
    /// What came is no valid HTTP.
    #[error("{0}")]
    Invalid(&'static str),
    /// It needs what this proxy does not do (501).
    #[error("{0}")]
    Unsupported(&'static str),
    /// The head is larger than [`lorica_model::head::MAX_HEAD_BYTES`] or has too many fields.
    #[error("the head has more than 64 KiB or 128 fields")]
    HeadTooLarge,
    /// The head did not arrive in time.
    #[error("the head did not arrive in time")]
    HeadTimeout,
    /// The connection failed.
    #[error("{0}")]
    Io(io::ErrorKind),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        // A stream of HTTP/2 that was refused, and what it carried with it.
        if let Some(Self::NotProcessed) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::NotProcessed;
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Closed,
            kind => Self::Io(kind),
        }
    }
}

impl From<HeadError> for WireError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLarge => Self::HeadTooLarge,
            HeadError::Invalid(what) => Self::Invalid(what),
        }
    }
}
