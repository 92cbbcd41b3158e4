//! The body of a request of HTTP/3, at the pace of whoever takes it.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::super::body::{Body, Frame};
use super::super::error::WireError;
use super::super::http2::Collected;
use super::frame::{code, kind};
use super::incoming::Incoming;
use super::qpack;
use super::server::{MAX_BLOCK, is_misplaced};
use super::shared::Counted;

/// A body of HTTP/3 as it comes in. The client may send more only as what came is used up.
pub struct Http3Body {
    incoming: Incoming,
    /// As its head declared.
    length: Option<u64>,
    /// What that leaves to come.
    expected: Option<u64>,
    at: At,
    ended: bool,
    _counted: Rc<Counted>,
}

/// What is read next.
enum At {
    /// The header of a frame.
    Header,
    /// The rest of a frame of data.
    Data,
    /// The rest of the block of trailers.
    Trailers(Vec<u8>),
    /// The rest of a frame that nobody knows.
    Unknown,
}

/// The body that follows on `incoming`.
pub(super) fn following(incoming: Incoming, length: Option<u64>, counted: Rc<Counted>) -> Body {
    if incoming.is_end() && length.is_none_or(|length| length == 0) {
        return Body::Empty;
    }
    Body::Http3(Box::new(Http3Body { incoming, length, expected: length, at: At::Header, ended: false, _counted: counted }))
}

impl Http3Body {
    pub(crate) fn is_end(&self) -> bool {
        self.ended
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_next(cx));
        if let Err(error) = &frame {
            let code = if matches!(error, WireError::Invalid(_)) { code::MESSAGE_ERROR } else { code::REQUEST_CANCELLED };
            self.incoming.stop(code);
            if matches!(error, WireError::Reset(_)) {
                self.incoming.shared.early_reset();
            }
        }
        let frame = frame.transpose();
        self.ended = !matches!(frame, Some(Ok(Frame::Data(_))));
        Poll::Ready(frame)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, WireError>> {
        loop {
            match &mut self.at {
                At::Header => match ready!(self.incoming.poll_frame(cx))? {
                    None => return Poll::Ready(self.complete().map(|()| None)),
                    Some(kind::DATA) => {
                        if self.incoming.left() == 0 {
                            self.incoming.shared.idle_frame()?;
                        }
                        self.at = At::Data;
                    }
                    Some(kind::HEADERS) if self.incoming.left() > MAX_BLOCK => return Poll::Ready(Err(WireError::HeadTooLarge)),
                    Some(kind::HEADERS) => self.at = At::Trailers(Vec::new()),
                    Some(other) if is_misplaced(other) => {
                        return Poll::Ready(Err(self
                            .incoming
                            .shared
                            .broken(code::FRAME_UNEXPECTED, "a request has a frame of another stream")));
                    }
                    Some(_) => {
                        self.incoming.shared.idle_frame()?;
                        self.at = At::Unknown;
                    }
                },
                At::Data => match ready!(self.incoming.poll_payload(cx))? {
                    Some(data) => {
                        if let Some(expected) = &mut self.expected {
                            *expected =
                                expected.checked_sub(data.len() as u64).ok_or(WireError::Invalid("the body is longer than declared"))?;
                        }
                        return Poll::Ready(Ok(Some(Frame::Data(data))));
                    }
                    None => self.at = At::Header,
                },
                At::Trailers(block) => {
                    ready!(self.incoming.poll_whole(cx, block))?;
                    let mut text = Vec::new();
                    let mut collected = Collected::new(&mut text);
                    let decoded = qpack::decode(block, |name, value, tag| collected.field(name, value, tag));
                    decoded.map_err(|_| self.incoming.shared.broken(code::DECOMPRESSION_FAILED, "a block of fields is none"))?;
                    let trailers = collected.trailers().map_err(WireError::Invalid)?;
                    self.complete()?;
                    return Poll::Ready(Ok(Some(Frame::Trailers(trailers))));
                }
                At::Unknown => {
                    ready!(self.incoming.poll_skip(cx))?;
                    self.at = At::Header;
                }
            }
        }
    }

    /// All has come: as much as was declared.
    fn complete(&self) -> Result<(), WireError> {
        if self.expected.unwrap_or_default() == 0 { Ok(()) } else { Err(WireError::Invalid("the body is shorter than declared")) }
    }
}
