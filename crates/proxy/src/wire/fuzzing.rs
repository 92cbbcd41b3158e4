//! Both sides of each version of HTTP as fuzzers call them: all bytes of a connection in, nothing out.
#![allow(clippy::panic, reason = "it is how a target says what it found")]

use std::time::Duration;

use bytes::Bytes;
use lorica_model::head::{Edits, HeadBuilder, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::stream::Stream;

/// Longer than any run may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Room for what both sides say.
const ROOM: usize = 64 * 1024;

fn run<T>(future: impl Future<Output = T>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    drop(LocalSet::new().block_on(&runtime, async { tokio::time::timeout(TIMEOUT, future).await.unwrap_or_else(|_| panic!("it hangs")) }));
}

/// Says all of it, then that it is all, and hears what comes back.
async fn say(bytes: &[u8], mut stream: DuplexStream) {
    let _: std::io::Result<()> = stream.write_all(bytes).await;
    let _: std::io::Result<()> = stream.shutdown().await;
    let _: std::io::Result<usize> = stream.read_to_end(&mut Vec::new()).await;
}

/// Reads a body and answers.
async fn answer(mut body: Body, mut responder: Responder) -> Result<(), WireError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    responder.raw_head(204, std::iter::empty::<(&[u8], &[u8])>(), None, true)?;
    responder.end(None).await
}

/// What a client of HTTP/1 sends.
pub fn http1_requests(bytes: &[u8]) {
    run(async {
        let (near, far) = duplex(ROOM);
        let serving = async {
            let mut server = Http1Server::new(Stream::Memory(near), &[], TIMEOUT);
            while let Ok(Some((_, body, responder))) = server.next().await {
                if answer(body, Responder::Http1(responder)).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(serving, say(bytes, far));
    });
}

/// What a server of HTTP/1 answers; the first bit of it says whether to a HEAD.
pub fn http1_answers(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let method = if first & 1 == 1 { "HEAD" } else { "GET" };
    let Ok(head) = HeadBuilder::with_capacity(64).request(Version::Http11, method, "/", "web.shop", None) else { return };
    run(async {
        let (near, far) = duplex(ROOM);
        let asking = async {
            let mut client = Http1Client::new(Stream::Memory(near));
            let edits = Edits::default();
            let (mut sender, receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None });
            if sender.end(None).await.is_err() {
                return;
            }
            hear(&mut Receiver::Http1(receiver)).await;
        };
        tokio::join!(asking, say(bytes, far));
    });
}

async fn hear(receiver: &mut Receiver) {
    while let Ok(heard) = receiver.answer().await {
        match heard {
            Answer::Informational(_) => {}
            Answer::Final(_, mut body) => {
                while let Some(Ok(_)) = body.frame().await {}
                return;
            }
            Answer::Upgraded(..) => return,
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client of HTTP/2 sends after its preface.
pub fn http2_requests(bytes: &[u8]) {
    run(async {
        let (near, far) = duplex(ROOM);
        let serving = async {
            let Ok(mut server) = Http2Server::start(Stream::Memory(near), Bytes::new()).await else { return };
            while let Ok(Some((_, body, responder))) = server.next().await {
                spawn_local(async move { drop(answer(body, Responder::Http2(responder)).await) });
            }
        };
        let all = [PREFACE, bytes].concat();
        tokio::join!(serving, say(&all, far));
    });
}

/// What a server of HTTP/2 sends.
pub fn http2_answers(bytes: &[u8]) {
    let Ok(head) = HeadBuilder::with_capacity(64).request(Version::Http2, "GET", "/", "web.shop", None) else { return };
    run(async {
        let (near, far) = duplex(ROOM);
        let asking = async {
            let (mut client, driver) = Http2Client::start(Stream::Memory(near));
            let driver = spawn_local(driver);
            let edits = Edits::default();
            if let Ok((mut sender, receiver)) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None }).await
                && sender.end(None).is_ok()
            {
                hear(&mut Receiver::Http2(receiver)).await;
            }
            drop(client);
            driver.abort();
        };
        tokio::join!(asking, say(bytes, far));
    });
}

/// Blocks of fields, one after another on one connection: each has its length before it.
pub fn hpack(bytes: &[u8]) {
    let mut decoder = http2::Decoder::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (block, after) = after.split_at(usize::from(*length).min(after.len()));
        if decoder.decode(block, |_, _, _| ()).is_err() {
            return;
        }
        rest = after;
    }
}

/// A block of fields of HTTP/3, and the numbers that its frames are made of.
#[cfg(feature = "http3")]
pub fn qpack(bytes: &[u8]) {
    http3::fuzzed(bytes);
}
