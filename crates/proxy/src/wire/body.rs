//! A body as it comes in, frame by frame, whatever carries it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use lorica_model::head::Fields;

use super::error::WireError;
use super::http1::Http1Body;
use super::http2::Http2Body;
#[cfg(feature = "http3")]
use super::http3::Http3Body;
use super::pace::PacedBody;

/// A piece of a body.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Bytes, never none.
    Data(Bytes),
    /// The trailers, always last.
    Trailers(Fields),
}

/// A body that comes in. Dropping it tells the peer that the rest is not wanted.
pub enum Body {
    /// There is none.
    Empty,
    /// From HTTP/1.
    Http1(Http1Body),
    /// From HTTP/2.
    Http2(Http2Body),
    /// From HTTP/3.
    #[cfg(feature = "http3")]
    Http3(Box<Http3Body>),
    /// One of these, at a pace.
    Paced(Box<PacedBody>),
}

impl Body {
    /// The next frame; `None` at the end. Nothing is lost if the future is dropped.
    pub async fn frame(&mut self) -> Option<Result<Frame, WireError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// As [`Self::frame`], for hand-written futures.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
            #[cfg(feature = "http3")]
            Self::Http3(body) => body.poll_frame(cx),
            Self::Paced(body) => body.poll_frame(cx),
        }
    }

    /// Whether it is known that no frame comes (any more).
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end(),
            Self::Http2(body) => body.is_end(),
            #[cfg(feature = "http3")]
            Self::Http3(body) => body.is_end(),
            Self::Paced(body) => body.is_end(),
        }
    }

    /// How many bytes it has in all, where its head said so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Http1(body) => body.length(),
            Self::Http2(body) => body.length(),
            #[cfg(feature = "http3")]
            Self::Http3(body) => body.length(),
            Self::Paced(body) => body.length(),
        }
    }
}
