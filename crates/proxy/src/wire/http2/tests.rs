//! HTTP/2 against bare frames, against the `h2` crate, and against other programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::{Bytes, BytesMut};
use lorica_model::head::{Edits, HeadBuilder, RequestHead, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};

use super::super::body::Frame;
use super::super::error::WireError;
use super::super::upstream::{Answer, Outgoing, Responder};
use super::frame::{HEADER, Header, PREFACE, code, flag, kind, with_number};
use super::hpack::Decoder;
use super::*;
use crate::stream::Stream;

mod bounds;
mod client;
mod differential;
mod peers;
mod strict;

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&Header { length: payload.len(), kind, flags, stream }.write()[..], payload].concat()
}

/// A block of these fields, without any table.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        block.extend_from_slice(&[0, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")];
/// A request that the server below reads nothing of and does not answer.
const HOLD: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":path", "/hold"), (":authority", "x")];

/// HEADERS with a whole head; `end`: nothing follows.
fn headers(stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | u8::from(end), stream, &block(fields))
}

fn get(stream: u32) -> Vec<u8> {
    headers(stream, true, GET)
}

fn data(stream: u32, end: bool, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, bytes)
}

fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = list.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// The end of a connection that speaks frames.
struct Peer {
    io: DuplexStream,
    read: BytesMut,
    decoder: Decoder,
}

impl Peer {
    fn new(io: DuplexStream) -> Self {
        Self { io, read: BytesMut::new(), decoder: Decoder::new() }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The next frame in words; nothing of what every connection begins with, nor what only acknowledges.
    async fn hear(&mut self) -> Option<String> {
        loop {
            let (header, payload) = self.frame().await?;
            let id = header.stream;
            return Some(match header.kind {
                kind::SETTINGS => continue,
                kind::WINDOW_UPDATE if id == 0 => continue,
                kind::PING if header.has(flag::ACK) => continue,
                kind::DATA => format!("DATA {id} {}{}", payload.len(), if header.has(flag::END_STREAM) { " END" } else { "" }),
                kind::HEADERS => {
                    let mut first = String::new();
                    let decoded = self.decoder.decode(&payload, |name, value, _| {
                        if matches!(name, b":status" | b":path" | b"x-trailer") {
                            first = String::from_utf8_lossy(value).into_owned();
                        }
                    });
                    decoded.unwrap();
                    format!("HEADERS {id} {first}{}", if header.has(flag::END_STREAM) { " END" } else { "" })
                }
                kind::RST_STREAM => format!("RST {id} {}", frame::number(&payload)),
                kind::GOAWAY => format!("GOAWAY {} {}", frame::number(&payload), frame::number(&payload[4..])),
                kind::WINDOW_UPDATE => format!("WINDOW {id} {}", frame::number(&payload)),
                kind::PING => "PING".into(),
                kind => format!("kind {kind}"),
            });
        }
    }

    async fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(header) = Header::read(&self.read)
                && self.read.len() >= HEADER + header.length
            {
                let frame = self.read.split_to(HEADER + header.length);
                return Some((header, frame[HEADER..].to_vec()));
            }
            if self.io.read_buf(&mut self.read).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// All that comes to what was said, and then until the end.
    async fn end(&mut self) -> Vec<String> {
        // All runs on this thread, in turn: whoever has something to say has said it then.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.io.shutdown().await.unwrap();
        self.rest().await
    }

    /// All that comes until the end.
    async fn rest(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(word) = self.hear().await {
            all.push(word);
        }
        all
    }
}

use super::frame;

/// Serves: `/hold` is held for ever, `/big` answers a megabyte, all else 204 once its body was read.
async fn serve(io: DuplexStream) -> Result<(), WireError> {
    let mut server = Http2Server::start(Stream::Memory(io), Bytes::new()).await?;
    let mut held = Vec::new();
    while let Some((head, mut body, mut responder)) = server.next().await? {
        match head.path() {
            "/hold" => held.push((body, responder)),
            "/leave" => {
                server.graceful_shutdown();
                held.push((body, responder));
            }
            path => {
                let big = path == "/big";
                spawn_local(async move {
                    while let Some(frame) = body.frame().await {
                        frame?;
                    }
                    responder.head(if big { 200 } else { 204 }, std::iter::empty(), None, !big)?;
                    if big {
                        responder.data(Bytes::from(vec![b'x'; 1 << 20])).await?;
                    }
                    responder.end(None)
                });
            }
        }
    }
    Ok(())
}

/// A peer of such a server that has said its preface and these settings.
async fn client(list: &[(u16, u32)]) -> Peer {
    let (near, far) = duplex(1 << 20);
    spawn_local(async move { drop(serve(far).await) });
    let mut peer = Peer::new(near);
    peer.say(PREFACE).await;
    peer.say(&settings(list)).await;
    peer
}

/// What such a server says to these bytes, up to its end.
async fn answers(bytes: &[u8]) -> Vec<String> {
    let mut peer = client(&[]).await;
    peer.say(bytes).await;
    peer.end().await
}

fn plain(method: &str) -> RequestHead {
    HeadBuilder::with_capacity(64).request(Version::Http11, method, "/a", "x", None).unwrap()
}

/// Begins an exchange of `head` with a body of this length.
async fn begin(client: &mut Http2Client, head: &RequestHead, length: Option<u64>) -> Result<(Http2Sender, Http2Receiver), WireError> {
    let edits = Edits::default();
    client.send(&Outgoing { head, edits: &edits, length, upgrade: None }).await
}
