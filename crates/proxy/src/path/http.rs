//! http: one exchange after another on a connection, until it ends or the proxy drains.

use std::rc::Rc;

use bytes::Bytes;
use tokio::task::spawn_local;

use super::caller::Caller;
use super::exchange;
use super::failure::Failure;
use super::mtls::Negotiated;
use super::record::ConnectionRecord;
use super::respond::own_answer;
use crate::config::HEAD_TIMEOUT;
use crate::stream::Stream;
use crate::wire::{Http1Server, Http2Server, Responder, WireError};
use crate::worker::Worker;

/// The room for the first read of a connection, in bytes: an ordinary head.
pub const FIRST_READ: usize = 4096;

/// Serves a connection that speaks `version`. `read`: the bytes that detection has read.
pub async fn serve(worker: &Rc<Worker>, caller: Caller, stream: Stream, read: Bytes, version: Negotiated) {
    match version {
        Negotiated::Http1 => http1(worker, &caller, Http1Server::new(stream, &read, HEAD_TIMEOUT)).await,
        Negotiated::Http2 => match Http2Server::start(stream, read).await {
            Ok(server) => http2(worker, caller, server).await,
            Err(error) => {
                failed(worker, &caller, &error);
            }
        },
    }
}

async fn http1(worker: &Rc<Worker>, caller: &Caller, mut server: Http1Server) {
    loop {
        if worker.is_draining(caller) {
            if server.is_idle() {
                return;
            }
            server.close_after_next();
        }
        let next = tokio::select! {
            next = server.next() => next,
            // Asked again above: only a connection between two requests is closed.
            () = worker.drain_begins(caller) => continue,
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
}

async fn http2(worker: &Rc<Worker>, caller: Caller, mut server: Http2Server) {
    let caller = Rc::new(caller);
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
                spawn_local(async move { exchange::run(&worker, &caller, head, body, Responder::Http2(responder)).await });
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(remote = %caller.remote, %error, "an HTTP/2 connection broke");
                return;
            }
        }
    }
}

/// Records what was no request.
fn failed(worker: &Rc<Worker>, caller: &Caller, error: &WireError) -> lorica_model::reason::Reason {
    let failure = Failure::client(error);
    ConnectionRecord::begin(worker, caller).fail(failure.reason, failure.detail);
    failure.reason
}
