//! Answers to requests of HTTP/3.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lorica_model::head::{Field, Fields};
use quinn::{SendStream, VarInt, WriteError};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::super::error::WireError;
use super::super::fields::{answer_length, trailers as passed};
use super::frame::{code, kind, put_header};
use super::qpack;
use super::shared::Counted;

/// How long a client may take to confirm the end of an answer before nobody waits for it any more.
const DELIVERY: Duration = Duration::from_secs(5);

/// Answers one request of HTTP/3. Dropped before its end, it resets the stream.
pub struct Http3Responder {
    stream: SendStream,
    counted: Rc<Counted>,
    state: Answering,
    to_head: bool,
    /// Heads that have not left: they leave with the first bytes of the body, or at the next flush.
    queued: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    Before,
    Body,
    Done,
}

impl Http3Responder {
    pub(super) fn new(stream: SendStream, counted: Rc<Counted>, to_head: bool) -> Self {
        Self { stream, counted, state: Answering::Before, to_head, queued: Vec::new() }
    }

    fn put_head<'f>(&mut self, status: u16, fields: impl Iterator<Item = Field<'f>>, length: Option<u64>) {
        let mut block = Vec::with_capacity(256);
        qpack::begin(&mut block);
        qpack::put(b":status", status.to_string().as_bytes(), &mut block);
        fields
            .filter(|field| !field.name.eq_ignore_ascii_case(b"content-length"))
            .for_each(|field| qpack::put(field.name, field.value, &mut block));
        if let Some(length) = length {
            qpack::put(b"content-length", length.to_string().as_bytes(), &mut block);
        }
        put_header(kind::HEADERS, block.len(), &mut self.queued);
        self.queued.extend_from_slice(&block);
    }

    pub(crate) async fn informational<'f>(&mut self, status: u16, fields: impl Iterator<Item = Field<'f>>) -> Result<(), WireError> {
        if self.state == Answering::Before {
            self.put_head(status, fields, None);
            self.flush().await?;
        }
        Ok(())
    }

    pub(crate) fn head<'f>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = Field<'f>>,
        length: Option<u64>,
        end: bool,
    ) -> Result<(), WireError> {
        if self.state != Answering::Before {
            return Err(WireError::Closed);
        }
        let (length, end) = answer_length(status, self.to_head, length, end)?;
        self.put_head(status, fields, length);
        self.state = if end { Answering::Done } else { Answering::Body };
        Ok(())
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        match self.state {
            Answering::Body if data.is_empty() => Ok(()),
            Answering::Body => {
                put_header(kind::DATA, data.len(), &mut self.queued);
                self.flush().await?;
                self.stream.write_chunk(data).await.map_err(|error| failed(&error))
            }
            Answering::Before => Err(WireError::Closed),
            Answering::Done => Ok(()),
        }
    }

    /// Dropped while it waits, it has lost what was queued: only an exchange that ends does so.
    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        if self.queued.is_empty() {
            return Ok(());
        }
        let queued = Bytes::from(std::mem::take(&mut self.queued));
        self.stream.write_chunk(queued).await.map_err(|error| failed(&error))
    }

    pub(crate) async fn end(mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        match self.state {
            Answering::Before => return Err(WireError::Closed),
            Answering::Body => {
                let mut block = Vec::new();
                for (name, value) in trailers.into_iter().flat_map(passed) {
                    if block.is_empty() {
                        qpack::begin(&mut block);
                    }
                    qpack::put(name, value, &mut block);
                }
                if !block.is_empty() {
                    put_header(kind::HEADERS, block.len(), &mut self.queued);
                    self.queued.extend_from_slice(&block);
                }
            }
            Answering::Done => {}
        }
        self.flush().await?;
        self.state = Answering::Done;
        self.stream.finish().map_err(|_| WireError::Closed)?;
        // What the client has not confirmed may have to be sent again, and only this process can.
        let (arrived, counted) = (self.stream.stopped(), self.counted.clone());
        let held = (counted.0.hold)();
        spawn_local(async move {
            drop(timeout(DELIVERY, arrived).await);
            drop((held, counted));
        });
        Ok(())
    }

    pub(crate) fn reset(mut self) {
        self.reset_with(code::INTERNAL_ERROR);
    }

    /// Nothing but a status, to a request that is none.
    pub(super) async fn refuse(mut self, status: u16) -> Result<(), WireError> {
        self.head(status, std::iter::empty(), None, true)?;
        self.end(None).await
    }

    /// Says that the request was not looked at.
    pub(super) fn reject(mut self) {
        self.reset_with(code::REQUEST_REJECTED);
    }

    pub(super) fn reset_with(&mut self, code: u32) {
        self.state = Answering::Done;
        self.queued.clear();
        // It has ended already, or the connection has.
        drop(self.stream.reset(VarInt::from_u32(code)));
    }

    /// Waits until the client gives the request up, or the connection ends.
    pub(crate) async fn gone(&mut self) {
        drop(self.stream.stopped().await);
        if self.state == Answering::Before {
            self.counted.0.early_reset();
        }
    }
}

fn failed(error: &WriteError) -> WireError {
    match error {
        WriteError::Stopped(code) => WireError::Reset(u32::try_from(code.into_inner()).unwrap_or(u32::MAX)),
        _ => WireError::Closed,
    }
}

impl Drop for Http3Responder {
    fn drop(&mut self) {
        // A stream that was finished in order is not reset: quinn says so itself. Half an answer must not look like a whole one.
        if self.state != Answering::Done || !self.queued.is_empty() {
            self.reset_with(code::REQUEST_CANCELLED);
        }
    }
}
