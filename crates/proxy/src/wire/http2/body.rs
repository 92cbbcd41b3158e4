//! Bodies of HTTP/2 in both directions, each at the pace of whoever receives it.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use lorica_model::head::{Fields, HeadBuilder};

use super::super::body::{Body, Frame};
use super::super::error::WireError;
use super::super::fields::trailers;
use super::{copy, map};

/// A body of HTTP/2 as it comes in. The peer may send more only as what came is used up.
pub struct Http2Body {
    pub(super) stream: RecvStream,
    /// As its head declared; the crate holds the peer to it.
    length: Option<u64>,
    /// Bytes that were handed out and not yet given back to the window.
    owed: usize,
    state: Reading,
}

#[derive(PartialEq, Eq)]
enum Reading {
    Data,
    Trailers,
    End,
}

/// The body that comes on `stream`.
pub(super) fn incoming(stream: RecvStream, length: Option<u64>) -> Body {
    if stream.is_end_stream() { Body::Empty } else { Body::Http2(Http2Body { stream, length, owed: 0, state: Reading::Data }) }
}

impl Http2Body {
    pub(crate) fn is_end(&self) -> bool {
        self.state == Reading::End || (self.state == Reading::Data && self.stream.is_end_stream())
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        if self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            // It fails only where the stream has ended, and then nothing is owed.
            let _: Result<(), h2::Error> = self.stream.flow_control().release_capacity(owed);
        }
        while self.state == Reading::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.owed = data.len();
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => {
                    self.state = Reading::End;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => self.state = Reading::Trailers,
            }
        }
        if self.state == Reading::End {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.state = Reading::End;
        Poll::Ready(match trailers {
            Ok(Some(trailers)) => {
                let mut builder = HeadBuilder::with_capacity(256);
                Some(copy(&trailers, &mut builder).map(|()| Frame::Trailers(builder.fields())))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }
}

/// Waits until some of `wanted` bytes may be sent.
pub(super) fn poll_room(stream: &mut SendStream<Bytes>, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, WireError>> {
    stream.reserve_capacity(wanted);
    loop {
        // What an earlier call was given and did not use is told only here.
        let capacity = stream.capacity();
        if capacity > 0 {
            return Poll::Ready(Ok(capacity.min(wanted)));
        }
        match ready!(stream.poll_capacity(cx)) {
            Some(capacity) => capacity?,
            None => return Poll::Ready(Err(WireError::Closed)),
        };
    }
}

/// Sends bytes as the peer's window allows.
pub(super) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), WireError> {
    while !data.is_empty() {
        let room = poll_fn(|cx| poll_room(stream, data.len(), cx)).await?;
        stream.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

/// Ends a body.
pub(super) fn finish(stream: &mut SendStream<Bytes>, fields: Option<&Fields>) -> Result<(), WireError> {
    match fields.filter(|fields| trailers(fields).next().is_some()) {
        Some(fields) => stream.send_trailers(map(trailers(fields))?)?,
        None => stream.send_data(Bytes::new(), true)?,
    }
    Ok(())
}
