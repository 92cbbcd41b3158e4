//! A body of HTTP/1 as it comes in.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Buf;

use super::super::body::Frame;
use super::super::error::WireError;
use super::connection::Connection;
use super::parse::{self, Framing};
use crate::lifetime::KeepAlive;

/// The longest line of a chunk, extensions included, in bytes.
const CHUNK_LINE: usize = 1024;
/// The most bytes of extensions in all chunks of a body together: nobody uses them but to make us read what counts for nothing.
const EXTENSIONS: usize = 16 * 1024;

/// One exchange: shared by its body, by what answers or sends, and by the connection, which goes on only behind it.
pub(super) struct Exchange {
    /// Where the body that is received stands.
    pub(super) body: Cell<State>,
    /// Whether all that we have to say was said.
    pub(super) said: Cell<bool>,
    /// Whether the connection may serve another exchange.
    pub(super) keep: Cell<bool>,
    /// When the head of the answer came, on the client's side.
    pub(super) answered: Cell<Option<Instant>>,
    /// What the answer announced of the connection's future.
    pub(super) keep_alive: Cell<KeepAlive>,
}

impl Exchange {
    pub(super) fn new(body: State, said: bool, keep: bool) -> Rc<Self> {
        Rc::new(Self {
            body: Cell::new(body),
            said: Cell::new(said),
            keep: Cell::new(keep),
            answered: Cell::new(None),
            keep_alive: Cell::default(),
        })
    }
}

/// Where a body of HTTP/1 stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its head has not come.
    Awaited,
    Length(u64),
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    End,
    /// It was no valid body, or broke off: where the next message begins is unknown.
    Broken,
}

impl From<Framing> for State {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::End,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::ChunkLine,
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

/// A body of HTTP/1 as it comes in.
pub struct Http1Body {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
    length: Option<u64>,
    extensions: usize,
}

impl Http1Body {
    pub(super) fn new(connection: Rc<RefCell<Connection>>, exchange: Rc<Exchange>) -> Self {
        let length = match exchange.body.get() {
            State::End => Some(0),
            State::Length(length) => Some(length),
            _ => None,
        };
        Self { connection, exchange, length, extensions: 0 }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.exchange.body.get() == State::End
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        let frame = ready!(self.poll(cx));
        if frame.is_err() {
            self.exchange.body.set(State::Broken);
        }
        Poll::Ready(frame.transpose())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, WireError>> {
        let mut connection = self.connection.borrow_mut();
        loop {
            match self.exchange.body.get() {
                State::End => return Poll::Ready(Ok(None)),
                // A body begins with its head.
                State::Broken | State::Awaited => return Poll::Ready(Err(WireError::Closed)),
                State::Length(left) | State::ChunkData(left) if !connection.inbox.is_empty() => {
                    let count = usize::try_from(left).map_or(connection.inbox.len(), |left| left.min(connection.inbox.len()));
                    let data = connection.inbox.split_to(count).freeze();
                    let left = left - count as u64;
                    let next = match (self.exchange.body.get(), left) {
                        (State::Length(_), 0) => State::End,
                        (State::Length(_), _) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, _) => State::ChunkData(left),
                    };
                    self.exchange.body.set(next);
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                State::UntilClose if !connection.inbox.is_empty() => {
                    return Poll::Ready(Ok(Some(Frame::Data(connection.inbox.split().freeze()))));
                }
                State::UntilClose if connection.ended => {
                    self.exchange.body.set(State::End);
                    return Poll::Ready(Ok(None));
                }
                State::ChunkLine => {
                    if let Some((length, extensions)) = chunk_line(&mut connection.inbox)? {
                        self.extensions += extensions;
                        if self.extensions > EXTENSIONS {
                            return Poll::Ready(Err(WireError::Invalid("there are too many chunk extensions")));
                        }
                        connection.look_afresh();
                        self.exchange.body.set(if length == 0 { State::Trailers } else { State::ChunkData(length) });
                        continue;
                    }
                }
                State::ChunkEnd if connection.inbox.len() >= 2 => {
                    if !connection.inbox.starts_with(b"\r\n") {
                        return Poll::Ready(Err(WireError::Invalid("a chunk does not end where it said")));
                    }
                    connection.inbox.advance(2);
                    self.exchange.body.set(State::ChunkLine);
                    continue;
                }
                State::Trailers if connection.has_new_line() => {
                    if let Some(trailers) = parse::trailers(&mut connection.inbox)? {
                        self.exchange.body.set(State::End);
                        return Poll::Ready(Ok((!trailers.is_empty()).then_some(Frame::Trailers(trailers))));
                    }
                }
                State::Length(_) | State::ChunkData(_) | State::ChunkEnd | State::Trailers | State::UntilClose => {}
            }
            let read = ready!(connection.poll_fill(cx))?;
            if read == 0 && self.exchange.body.get() != State::UntilClose {
                return Poll::Ready(Err(WireError::Closed));
            }
        }
    }
}

/// The size of the next chunk and that of its extensions, if its line is there; it is taken out of `inbox`.
fn chunk_line(inbox: &mut bytes::BytesMut) -> Result<Option<(u64, usize)>, WireError> {
    let Some(end) = inbox.iter().take(CHUNK_LINE).position(|byte| *byte == b'\n') else {
        return if inbox.len() >= CHUNK_LINE { Err(WireError::Invalid("a chunk's line is too long")) } else { Ok(None) };
    };
    let line = inbox.split_to(end + 1);
    // A bare LF is where parsers begin to disagree.
    let line = line.strip_suffix(b"\r\n").ok_or(WireError::Invalid("a chunk's line does not end as it must"))?;
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(WireError::Invalid("a chunk's line has a control character"));
    }
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(WireError::Invalid("a chunk's size is no number"));
    }
    let digits = size.iter().filter_map(|digit| char::from(*digit).to_digit(16));
    let extensions = line.len() - size.len();
    Ok(Some((digits.fold(0, |sum, digit| sum * 16 + u64::from(digit)), extensions)))
}
