//! http: one exchange after another on a connection, until it ends or the proxy drains.

use std::rc::Rc;

use bytes::Bytes;
use lorica_model::head::{Edits, Fields, RequestHead, ResponseHead, Version};
use lorica_model::reason::Reason;
use lorica_model::snapshot::Protocol;
use tokio::task::spawn_local;

use super::accept::Boxed;
use super::caller::{Caller, Entry};
use super::exchange;
use super::failure::Failure;
use super::mtls::Negotiated;
use super::record::ConnectionRecord;
use super::respond::own_answer;
use super::tcp;
use crate::config::HEAD_TIMEOUT;
use crate::pool::StreamKind;
use crate::stream::{Carried, Stream};
use crate::wire::{Body, Http1Server, Http2Server, Responder, WireError};
use crate::worker::Worker;

/// The room for the first read of a connection, in bytes: an ordinary head.
pub const FIRST_READ: usize = 4096;

/// Serves a connection that speaks `version`. `read`: the bytes that detection has read.
pub fn serve<'a>(worker: &'a Rc<Worker>, caller: Rc<Caller>, stream: Stream, read: Bytes, version: Negotiated) -> Boxed<'a> {
    Box::pin(async move {
        match version {
            Negotiated::Http1 => {
                let server = Http1Server::new(stream, &read, HEAD_TIMEOUT);
                // What detection had read would else be held for as long as the connection.
                drop(read);
                http1(worker, &caller, server).await;
            }
            Negotiated::Http2 => match Http2Server::start(stream, read).await {
                Ok(server) => http2(worker, caller, server).await,
                Err(error) => {
                    failed(worker, &caller, &error);
                }
            },
        }
    })
}

fn http1<'a>(worker: &'a Rc<Worker>, caller: &'a Caller, mut server: Http1Server) -> Boxed<'a> {
    Box::pin(async move {
        let mut draining = std::pin::pin!(worker.drain_begins(caller));
        let mut told = false;
        loop {
            if worker.is_draining(caller) {
                if server.is_idle() {
                    return server.leave().await;
                }
                server.close_after_next();
            }
            let next = tokio::select! {
                biased;
                next = server.next() => next,
                () = &mut draining, if !told => {
                    // Looked at again above: only a connection between two requests is closed.
                    told = true;
                    continue;
                }
            };
            match next {
                Ok(Some((head, body, responder))) => exchange::run(worker, caller, head, body, Responder::Http1(responder)).await,
                Ok(None) => return,
                Err(error) => {
                    let reason = failed(worker, caller, &error);
                    let answer = own_answer(reason, None);
                    if answer.status != 0 {
                        server.refuse(answer.status, reason.meaning().word, &answer.body).await;
                    }
                    return;
                }
            }
        }
    })
}

fn http2<'a>(worker: &'a Rc<Worker>, caller: Rc<Caller>, mut server: Http2Server) -> Boxed<'a> {
    Box::pin(async move {
        let mut told = false;
        loop {
            let next = tokio::select! {
                next = server.next() => next,
                () = worker.drain_begins(&caller), if !told => {
                    // No new request; those under way go on, driven by the same loop.
                    server.graceful_shutdown();
                    told = true;
                    continue;
                }
            };
            match next {
                Ok(Some((head, body, responder))) => {
                    let (worker, caller) = (worker.clone(), caller.clone());
                    match carried(&caller, &head) {
                        Some(kind) => {
                            spawn_local(async move { stream(&worker, caller, kind, &head, body, Responder::Http2(responder)).await });
                        }
                        None if takes_bytes_only(&caller) => {
                            ConnectionRecord::begin(&worker, &caller).fail(Reason::NotHttp, "the port takes bytes, as streams or none");
                            responder.reset();
                        }
                        None => {
                            spawn_local(async move { exchange::run(&worker, &caller, head, body, Responder::Http2(responder)).await });
                        }
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(remote = %caller.remote, %error, "an HTTP/2 connection broke");
                    return;
                }
            }
        }
    })
}

/// Whether the port called takes no HTTP.
fn takes_bytes_only(caller: &Caller) -> bool {
    matches!(&caller.entry, Entry::Inbound { port, .. } if port.protocol == Protocol::Tcp)
}

/// What a request wants carried, where it opens a stream of another proxy's.
fn carried(caller: &Caller, head: &RequestHead) -> Option<StreamKind> {
    head.protocol().filter(|_| caller.entry.peer().is_some()).and_then(StreamKind::of)
}

/// A stream of another Lorica proxy: what it carries is served as if it had come on a connection of its own. The port's own
/// configuration says what it takes, whatever the peer offers.
fn stream<'a>(
    worker: &'a Rc<Worker>,
    caller: Rc<Caller>,
    kind: StreamKind,
    head: &'a RequestHead,
    body: Body,
    responder: Responder,
) -> Boxed<'a> {
    Box::pin(async move {
        let Entry::Inbound { port, .. } = &caller.entry else { return };
        let fits = match kind {
            StreamKind::Http1 => port.protocol != Protocol::Tcp,
            StreamKind::Tcp => !port.protocol.is_http(),
        };
        if !fits {
            ConnectionRecord::begin(worker, &caller).fail(Reason::NotHttp, format!("the port takes no {} streams", kind.word()));
            return responder.reset();
        }
        let taken = ResponseHead { version: Version::Http2, status: 200, fields: Fields::default() };
        let protocol = head.protocol().unwrap_or_default().as_bytes();
        match responder.upgrade(head, protocol, &taken, &Edits::default(), body).await {
            Ok(tunnel) => {
                let stream = Stream::Carried(Box::new(Carried::new(tunnel, None)));
                match kind {
                    StreamKind::Http1 => serve(worker, caller, stream, Bytes::new(), Negotiated::Http1).await,
                    StreamKind::Tcp => tcp::inbound(worker, &caller, stream, Bytes::new()).await,
                }
            }
            Err(error) => tracing::debug!(%error, "a stream ended before it began"),
        }
    })
}

/// Records what was no request.
fn failed(worker: &Rc<Worker>, caller: &Caller, error: &WireError) -> Reason {
    let failure = Failure::client(error);
    ConnectionRecord::begin(worker, caller).fail(failure.reason, failure.detail);
    failure.reason
}
