//! What the streams of a connection have in common.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use quinn::{Connection, SendStream, VarInt};
use tokio::sync::Notify;

use super::super::error::WireError;
use super::super::http2::Calm;
use super::frame::code;
use super::server::Hold;

/// A connection, as its streams see it.
pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) calm: RefCell<Calm>,
    /// What we say beside answers; kept for as long as the connection, as closing it would end that.
    pub(super) control: RefCell<Option<SendStream>>,
    /// What is held for each answer until the client has it.
    pub(super) hold: Hold,
    /// How many requests are read or answered, or have an answer on its way.
    pub(super) open: Cell<usize>,
    /// Told whenever `open` falls to none.
    pub(super) idle: Notify,
}

impl Shared {
    pub(super) fn new(connection: Connection, hold: Hold) -> Self {
        let calm = RefCell::new(Calm::new());
        Self { connection, calm, control: RefCell::default(), hold, open: Cell::new(0), idle: Notify::new() }
    }

    /// Ends the connection, as its client broke the protocol.
    pub(super) fn broken(&self, code: u32, why: &'static str) -> WireError {
        tracing::debug!(remote = %self.connection.remote_address(), why, "an HTTP/3 connection is ended");
        self.connection.close(VarInt::from_u32(code), why.as_bytes());
        WireError::Invalid(why)
    }

    /// A frame brought nothing.
    pub(super) fn idle_frame(&self) -> Result<(), WireError> {
        let calm = self.calm.borrow_mut().idle_frame(Instant::now);
        if calm { Ok(()) } else { Err(self.broken(code::EXCESSIVE_LOAD, "too many frames bring nothing")) }
    }

    /// A request was given up before its answer began.
    pub(super) fn early_reset(&self) {
        if !self.calm.borrow_mut().early_reset(Instant::now) {
            self.broken(code::EXCESSIVE_LOAD, "too many requests are given up before they are answered");
        }
    }
}

/// Counts a request for as long as anything of it is held.
pub(super) struct Counted(pub(super) Rc<Shared>);

impl Counted {
    pub(super) fn new(shared: &Rc<Shared>) -> Rc<Self> {
        shared.open.set(shared.open.get() + 1);
        Rc::new(Self(shared.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.idle.notify_one();
        }
    }
}
