//! Both versions over connections in memory: what is taken, what is refused, and what one hop makes of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::time::Duration;

use bytes::Bytes;
use lorica_model::head::{Edits, Fields, HeadBuilder, RequestHead, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::LocalSet;

use super::*;
use crate::stream::Stream;

mod beside_hyper;
mod client;
mod http2;
mod measure;
mod property;
mod server;
mod tunnel;
mod untaken;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

fn server(read: &[u8]) -> (Http1Server, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (Http1Server::new(Stream::Memory(ours), read, HEAD_TIMEOUT), theirs)
}

async fn whole(body: &mut Body) -> Result<(Vec<u8>, Option<Fields>), WireError> {
    let (mut all, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => all.extend_from_slice(&data),
            Frame::Trailers(fields) => trailers = Some(fields),
        }
    }
    Ok((all, trailers))
}

fn none() -> std::iter::Empty<(&'static [u8], &'static [u8])> {
    std::iter::empty()
}

/// Parses one request to its end.
async fn parsed(bytes: &[u8]) -> Result<(RequestHead, Vec<u8>), WireError> {
    let (mut server, mut client) = server(&[]);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let (head, mut body, _responder) = server.next().await?.ok_or(WireError::Closed)?;
    let (all, _) = whole(&mut body).await?;
    Ok((head, all))
}

#[tokio::test]
async fn requests_are_taken_as_the_standard_has_them() {
    for (bytes, method, path, authority, body) in [
        ("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/a?b=c", "x", ""),
        ("\r\nGET / HTTP/1.1\r\nhost:x:80 \r\n\r\n", "GET", "/", "x:80", ""),
        ("GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/a", "y", ""),
        ("GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/", "y", ""),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS", "*", "x", ""),
        ("GET / HTTP/1.0\r\n\r\n", "GET", "/", "", ""),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "POST", "/", "x", "abc"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", "POST", "/", "x", "abc"),
    ] {
        let (head, all) = parsed(bytes.as_bytes()).await.unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        assert_eq!(
            (head.method(), head.path_and_query(), head.authority(), all.as_slice()),
            (method, path, authority, body.as_bytes()),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn what_two_hops_could_read_differently_is_refused() {
    for bytes in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /#f HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab\r\n0\r\n\r\n",
    ] {
        let error = parsed(bytes.as_bytes()).await.map(|(head, _)| head).expect_err(bytes);
        assert!(matches!(error, WireError::Invalid(_)), "{bytes:?}: {error:?}");
    }
    for bytes in [
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let error = parsed(bytes.as_bytes()).await.map(|(head, _)| head).expect_err(bytes);
        assert!(matches!(error, WireError::Unsupported(_)), "{bytes:?}: {error:?}");
    }
}

#[tokio::test]
async fn heads_past_their_bounds_are_refused() {
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(128));
    assert_eq!(parsed(many.as_bytes()).await.map(|_| ()).unwrap_err(), WireError::HeadTooLarge);
    let (mut server, mut client) = server(&[]);
    let writing = async move {
        let large = format!("GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", "b".repeat(70_000));
        // The server stops reading before all of it has come.
        let _: Result<(), _> = client.write_all(large.as_bytes()).await;
        client
    };
    let (error, _client) = tokio::join!(server.next(), writing);
    assert_eq!(error.map(|_| ()).unwrap_err(), WireError::HeadTooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_not_waited_for() {
    let (mut server, mut client) = server(&[]);
    client.write_all(b"GET / HTT").await.unwrap();
    assert_eq!(server.next().await.map(|_| ()).unwrap_err(), WireError::HeadTimeout);
}

/// Answers every request with `answer`, and returns all that the client got.
async fn answered(requests: &str, answer: impl AsyncFn(&mut Responder)) -> String {
    let (mut server, mut client) = server(&[]);
    client.write_all(requests.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    while let Ok(Some((_, mut body, responder))) = server.next().await {
        let mut responder = Responder::Http1(responder);
        whole(&mut body).await.unwrap();
        answer(&mut responder).await;
        responder.end(None).await.unwrap();
    }
    drop(server);
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn answers_are_framed_as_the_request_allows() {
    let unknown = async |responder: &mut Responder| {
        responder.raw_head(200, none(), None, false).unwrap();
        responder.data(Bytes::from_static(b"abc")).await.unwrap();
    };
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(answered(get, unknown).await, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(answered("GET / HTTP/1.0\r\n\r\n", unknown).await, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc");
    assert_eq!(answered("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", unknown).await, "HTTP/1.1 200 OK\r\n\r\n");
    let known = async |responder: &mut Responder| {
        responder.raw_head(200, [(&b"Content-Length"[..], &b"3"[..])].into_iter(), Some(3), false).unwrap();
        responder.data(Bytes::from_static(b"abc")).await.unwrap();
    };
    let twice = answered(&get.repeat(2), known).await;
    assert_eq!(twice, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc".repeat(2));
    let last = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(answered(&last.repeat(2), known).await, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc");
    let nothing = async |responder: &mut Responder| responder.raw_head(204, none(), None, true).unwrap();
    assert_eq!(answered(get, nothing).await, "HTTP/1.1 204 No Content\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    let (mut server, mut client) = server(&[]);
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (_, _, responder) = server.next().await.unwrap().unwrap();
    let mut responder = Responder::Http1(responder);
    drop(client);
    responder.gone().await;
}

fn request(version: Version, fields: &[(&str, &str)]) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(512);
    for (name, value) in fields {
        builder.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.request(version, "POST", "/a?b", "recording.contact", None).unwrap()
}

/// What an HTTP/1 client writes for `head`, and what it makes of `answer`.
async fn exchanged(
    head: &RequestHead,
    length: Option<u64>,
    body: &'static [u8],
    answer: &str,
) -> (String, Result<(u16, Vec<u8>), WireError>, bool) {
    let (ours, mut theirs) = duplex(64 * 1024);
    let mut client = Http1Client::new(Stream::Memory(ours));
    let edits = Edits::default();
    let (mut sender, mut receiver) = client.send(&Outgoing { head, edits: &edits, length, upgrade: None });
    if !body.is_empty() {
        sender.data(Bytes::from_static(body)).await.unwrap();
    }
    sender.end(None).await.unwrap();
    let mut sent = vec![0; 4096];
    let count = theirs.read(&mut sent).await.unwrap();
    sent.truncate(count);
    theirs.write_all(answer.as_bytes()).await.unwrap();
    let outcome = loop {
        match receiver.answer().await {
            Ok(Answer::Informational(_)) => {}
            Ok(Answer::Final(head, mut body)) => break whole(&mut body).await.map(|(all, _)| (head.status, all)),
            Ok(Answer::Upgraded(..)) => panic!("not asked for"),
            Err(error) => break Err(error),
        }
    };
    (String::from_utf8(sent).unwrap(), outcome, client.is_reusable())
}

#[tokio::test]
async fn a_hop_keeps_its_own_fields_to_itself() {
    let head = request(
        Version::Http11,
        &[
            ("Host", "recording.contact"),
            ("Connection", "keep-alive, X-Mine"),
            ("X-Mine", "1"),
            ("Keep-Alive", "5"),
            ("TE", "trailers"),
            ("X-Kept", "2"),
            ("Content-Length", "3"),
        ],
    );
    let (sent, outcome, reusable) = exchanged(&head, Some(3), b"abc", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(
        sent,
        "POST /a?b HTTP/1.1\r\nHost: recording.contact\r\nTE: trailers\r\nX-Kept: 2\r\ncontent-length: 3\r\nconnection: te\r\n\r\nabc"
    );
    assert_eq!(outcome, Ok((200, b"ok".to_vec())));
    assert!(reusable);
}

#[tokio::test]
async fn a_request_of_http2_reads_well_in_http1() {
    let head = request(Version::Http2, &[("cookie", "a=b"), ("accept", "*/*"), ("cookie", "c=d")]);
    let (sent, ..) = exchanged(&head, None, b"abc", "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(
        sent,
        "POST /a?b HTTP/1.1\r\nhost: recording.contact\r\naccept: */*\r\ncookie: a=b; c=d\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn answers_end_where_their_framing_says() {
    let head = request(Version::Http11, &[("Host", "x")]);
    for (answer, expected, reusable) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", Ok((200, b"ok".to_vec())), true),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Ok((304, vec![])), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Ok((200, vec![])), false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Ok((200, vec![])), false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nunasked", Ok((200, vec![])), false),
        ("HTTP/1.1 101 Switching\r\n\r\n", Err(WireError::Invalid("101 was not asked for")), false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(WireError::Invalid("there are both Content-Length and Transfer-Encoding")),
            false,
        ),
    ] {
        let (_, outcome, again) = exchanged(&head, Some(0), b"", answer).await;
        assert_eq!((outcome, again), (expected, reusable), "{answer:?}");
    }
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
    let (_, outcome, _) = exchanged(&head, Some(0), b"", &endless).await;
    assert_eq!(outcome.unwrap_err(), WireError::Invalid("there are more than 8 interim answers"));
}

#[tokio::test]
async fn http2_carries_bodies_and_trailers_both_ways() {
    LocalSet::new()
        .run_until(async {
            let (ours, theirs) = duplex(16 * 1024);
            let serving = tokio::task::spawn_local(async move {
                let mut server = Http2Server::start(Stream::Memory(theirs), Bytes::new()).await.unwrap();
                while let Ok(Some((head, mut body, responder))) = server.next().await {
                    assert_eq!((head.method(), head.path_and_query(), head.authority()), ("POST", "/a?b", "recording.contact"));
                    tokio::task::spawn_local(async move {
                        let mut responder = Responder::Http2(responder);
                        let mut builder = HeadBuilder::with_capacity(64);
                        builder.field(b"grpc-status", b"0").unwrap();
                        responder.raw_head(200, [(&b"content-type"[..], &b"application/grpc"[..])].into_iter(), None, false).unwrap();
                        let (all, trailers) = whole(&mut body).await.unwrap();
                        assert_eq!(trailers.unwrap().get("x-sum"), Some(&b"1"[..]));
                        // More than the windows hold, so that it must flow.
                        responder.data(Bytes::from(all)).await.unwrap();
                        responder.end(Some(&builder.fields())).await.unwrap();
                    });
                }
            });
            let (mut client, driver) = Http2Client::start(Stream::Memory(ours));
            tokio::task::spawn_local(driver);
            let head = request(Version::Http11, &[("Host", "recording.contact"), ("TE", "trailers"), ("Connection", "close")]);
            let edits = Edits::default();
            let (mut sender, mut receiver) =
                client.send(&Outgoing { head: &head, edits: &edits, length: None, upgrade: None }).await.unwrap();
            let upload = async {
                let mut builder = HeadBuilder::with_capacity(64);
                builder.field(b"x-sum", b"1").unwrap();
                for _ in 0..300 {
                    sender.data(Bytes::from(vec![b'x'; 10_000])).await.unwrap();
                }
                sender.end(Some(&builder.fields())).unwrap();
            };
            let download = async {
                let Answer::Final(head, mut body) = receiver.answer().await.unwrap() else { panic!() };
                assert_eq!(head.status, 200);
                whole(&mut body).await.unwrap()
            };
            let ((), (all, trailers)) = tokio::join!(upload, download);
            assert_eq!(all.len(), 3_000_000);
            assert_eq!(trailers.unwrap().get("grpc-status"), Some(&b"0"[..]));
            serving.abort();
        })
        .await;
}
