//! Connections with peers of the mesh, to be closed once their peer is revoked.
//!
//! In: each connection with who proved to be at its other end, and the list of revocations when it changes. Out: the same connection, which
//! ends by itself. Of a worker alone, so that nothing is locked.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use lorica_identity::PeerIdentity;
use lorica_model::name::WorkloadName;
use lorica_model::snapshot::Revoked;
use lorica_model::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many connections are entered between two looks for those that have ended.
const TIDY: usize = 1024;

/// The connections of a worker with peers of the mesh.
#[derive(Debug, Default)]
pub struct Peers {
    open: RefCell<Vec<Weak<Open>>>,
    entered: Cell<usize>,
}

/// What is known of an open connection.
#[derive(Debug)]
struct Open {
    identity: SpiffeId,
    workload: Option<WorkloadName>,
    is_revoked: Cell<bool>,
    /// Who waits for it to be readable, and writable.
    waiting: RefCell<[Option<Waker>; 2]>,
}

/// A connection that ends once its peer is revoked.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    open: Rc<Open>,
}

impl Peers {
    /// Enters a connection.
    pub fn enter<S>(&self, stream: S, peer: &PeerIdentity) -> Guarded<S> {
        let open = Rc::new(Open {
            identity: peer.id.clone(),
            workload: peer.facts.as_ref().map(|facts| facts.workload.clone()),
            is_revoked: Cell::new(false),
            waiting: RefCell::default(),
        });
        let mut list = self.open.borrow_mut();
        self.entered.set(self.entered.get() + 1);
        if self.entered.get() >= TIDY.max(list.len()) {
            list.retain(|open| open.strong_count() > 0);
            self.entered.set(0);
        }
        list.push(Rc::downgrade(&open));
        Guarded { stream, open }
    }

    /// Ends the connections with those who are revoked; how many.
    pub fn close(&self, revoked: &Revoked) -> usize {
        let mut closed = 0;
        let open: Vec<Rc<Open>> = self.open.borrow().iter().filter_map(Weak::upgrade).collect();
        for one in open.iter().filter(|open| revoked.is_revoked(&open.identity, open.workload.as_ref())) {
            if !one.is_revoked.replace(true) {
                closed += 1;
                let waiting = std::mem::take(&mut *one.waiting.borrow_mut());
                waiting.into_iter().flatten().for_each(Waker::wake);
            }
        }
        closed
    }
}

impl<S> Guarded<S> {
    /// The connection itself.
    #[must_use]
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Fails where the peer is revoked; else whoever asks is woken when it is.
    fn check(&self, context: &Context<'_>, direction: usize) -> io::Result<()> {
        if self.open.is_revoked.get() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, format!("{} is revoked", self.open.identity)));
        }
        if let Some(waiting) = self.open.waiting.borrow_mut().get_mut(direction)
            && !waiting.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
        {
            *waiting = Some(context.waker().clone());
        }
        Ok(())
    }
}

const READ: usize = 0;
const WRITE: usize = 1;

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx, READ)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx, WRITE)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check(cx, WRITE)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx, WRITE)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use lorica_identity::WorkloadFacts;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn peer(account: &str, workload: &str) -> PeerIdentity {
        let facts = WorkloadFacts { workload: workload.parse().unwrap(), service: None, version: None, virtual_v4: None, virtual_v6: None };
        PeerIdentity {
            id: format!("spiffe://mesh.local/ns/shop/sa/{account}").parse().unwrap(),
            facts: Some(facts),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            certificate_sha256: [0; 32],
        }
    }

    /// Reads with a reader of its own, which waits.
    async fn reading(mut stream: Guarded<DuplexStream>) -> (Guarded<DuplexStream>, io::Result<usize>) {
        let read = stream.read(&mut [0; 8]).await;
        (stream, read)
    }

    #[tokio::test]
    async fn who_waits_on_a_connection_with_a_revoked_peer_is_woken_and_others_go_on() {
        let peers = Peers::default();
        let ((bad, _far_bad), (good, mut far_good)) = (duplex(64), duplex(64));
        let bad = peers.enter(bad, &peer("web", "web-1.shop"));
        let good = peers.enter(good, &peer("web", "web-2.shop"));
        let revoked = Revoked { workloads: ["web-1.shop".parse().unwrap()].into(), ..Revoked::default() };
        let change = async {
            // The reader has begun to wait.
            tokio::task::yield_now().await;
            assert_eq!(peers.close(&revoked), 1);
        };
        let ((mut bad, read), ()) = tokio::join!(reading(bad), change);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(bad.write(b"more").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        far_good.write_all(b"ping").await.unwrap();
        let (mut good, read) = reading(good).await;
        assert_eq!(read.unwrap(), 4);
        good.write_all(b"pong").await.unwrap();
        assert_eq!(peers.close(&revoked), 0, "it is closed once");

        // By its identity, whichever workload it is.
        let revoked = Revoked { identities: [peer("web", "web-2.shop").id].into(), ..Revoked::default() };
        assert_eq!(peers.close(&revoked), 1);
        assert!(good.read(&mut [0; 8]).await.is_err());
    }

    #[test]
    fn connections_that_have_ended_are_forgotten() {
        let peers = Peers::default();
        for _ in 0..10 * TIDY {
            drop(peers.enter((), &peer("web", "web-1.shop")));
        }
        assert!(peers.open.borrow().len() <= TIDY, "{}", peers.open.borrow().len());
    }
}
