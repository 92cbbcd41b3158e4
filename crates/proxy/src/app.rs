//! The way to the app: sockets in its namespace, which come ahead of need, or the host's loopback where it has none.
//!
//! In: sockets from the helper, and where the app listens. Out: a connection to an app port that comes from the caller's
//! virtual address.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use lorica_capture::{ANONYMOUS_CALLER, AppListener, Family, SocketSource};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};

use crate::supervisor::watched;

/// As many sockets as one batch holds; a new batch is asked for when half of it is used.
const BATCH: u8 = 32;

/// How the app is reached.
pub struct App {
    listeners: watch::Receiver<Vec<AppListener>>,
    /// Absent without a namespace.
    sockets: Option<Rc<Sockets>>,
}

impl App {
    /// An app whose listeners are told on `listeners`; `source` where it has a namespace of its own.
    ///
    /// # Errors
    /// When the source cannot be waited on.
    pub fn new(listeners: watch::Receiver<Vec<AppListener>>, source: Option<SocketSource>) -> io::Result<Self> {
        let sockets = source.map(Sockets::start).transpose()?;
        Ok(Self { listeners, sockets })
    }

    /// Whether the app listens on `port` now.
    #[must_use]
    pub fn listens(&self, port: u16) -> bool {
        self.listeners.borrow().iter().any(|listener| listener.port == port)
    }

    /// Connects to the app's port, from the address of the caller.
    ///
    /// # Errors
    /// `ConnectionRefused` where the app does not listen; else as the kernel says.
    pub async fn connect(&self, port: u16, caller: Option<Ipv4Addr>) -> io::Result<TcpStream> {
        let known = self.listeners.borrow().iter().find(|listener| listener.port == port).copied();
        let address = known.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |listener| listener.address);
        let Some(sockets) = &self.sockets else {
            let stream = TcpStream::connect((address, port)).await?;
            stream.set_nodelay(true)?;
            return Ok(stream);
        };
        let socket = sockets.take(Family::from(address)).await?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let source: IpAddr = match address {
            IpAddr::V4(_) => caller.unwrap_or(ANONYMOUS_CALLER).into(),
            IpAddr::V6(own) => own.into(),
        };
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(SocketAddr::new(address, port)).await
    }
}

/// Sockets at hand.
struct Sockets {
    source: AsyncFd<SocketSource>,
    v4: RefCell<VecDeque<OwnedFd>>,
    v6: RefCell<VecDeque<OwnedFd>>,
    asked_v4: Cell<bool>,
    asked_v6: Cell<bool>,
    refused: RefCell<Option<String>>,
    arrived: Notify,
    ended: Cell<bool>,
}

impl Sockets {
    fn start(source: SocketSource) -> io::Result<Rc<Self>> {
        let sockets = Rc::new(Self {
            source: watched(source)?,
            v4: RefCell::default(),
            v6: RefCell::default(),
            asked_v4: Cell::new(false),
            asked_v6: Cell::new(false),
            refused: RefCell::default(),
            arrived: Notify::new(),
            ended: Cell::new(false),
        });
        sockets.ask(Family::V4);
        let receiving = sockets.clone();
        tokio::task::spawn_local(async move { receiving.receive().await });
        Ok(sockets)
    }

    fn of(&self, family: Family) -> (&RefCell<VecDeque<OwnedFd>>, &Cell<bool>) {
        match family {
            Family::V4 => (&self.v4, &self.asked_v4),
            Family::V6 => (&self.v6, &self.asked_v6),
        }
    }

    async fn take(&self, family: Family) -> io::Result<OwnedFd> {
        let (ready, _) = self.of(family);
        loop {
            let arrival = self.arrived.notified();
            let taken = ready.borrow_mut().pop_front();
            if ready.borrow().len() < usize::from(BATCH / 2) {
                self.ask(family);
            }
            if let Some(socket) = taken {
                return Ok(socket);
            }
            if self.ended.get() {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the app has ended"));
            }
            arrival.await;
            if let Some(why) = self.refused.borrow_mut().take() {
                return Err(io::Error::other(why));
            }
        }
    }

    fn ask(&self, family: Family) {
        let (_, asked) = self.of(family);
        if !asked.get() {
            match self.source.get_ref().request(family, BATCH) {
                Ok(()) => asked.set(true),
                Err(error) => tracing::warn!(%error, "no sockets could be asked for"),
            }
        }
    }

    async fn receive(&self) {
        loop {
            let mut guard = match self.source.readable().await {
                Ok(guard) => guard,
                Err(error) => return self.end(&error),
            };
            match guard.get_inner().try_receive_batch() {
                Ok(Some(batch)) => {
                    let (ready, asked) = self.of(batch.family);
                    asked.set(false);
                    ready.borrow_mut().extend(batch.sockets);
                    if let Some(why) = batch.refused {
                        tracing::warn!(why, "the helper could not make sockets");
                        *self.refused.borrow_mut() = Some(why);
                    }
                    self.arrived.notify_waiters();
                }
                Ok(None) => guard.clear_ready(),
                Err(error) => return self.end(&error),
            }
        }
    }

    fn end(&self, error: &io::Error) {
        tracing::debug!(%error, "no more sockets come");
        self.ended.set(true);
        self.arrived.notify_waiters();
    }
}
