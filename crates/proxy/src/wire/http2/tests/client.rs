//! What a client makes of a server's frames, and what it says itself.

use super::*;

/// A client, its driver running, and its server in frames, which has said its settings.
async fn pair(list: &[(u16, u32)]) -> (Http2Client, Peer) {
    let (near, far) = duplex(1 << 20);
    let (client, driver) = Http2Client::start(Stream::Memory(near));
    spawn_local(driver);
    let mut peer = Peer::new(far);
    let mut preface = [0; 24];
    peer.io.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, PREFACE);
    peer.say(&settings(list)).await;
    (client, peer)
}

/// What a GET ends with that is answered by `bytes`: the answer and its body, and what the server heard after the request.
async fn asked(method: &str, bytes: &[u8]) -> (Result<(u16, usize), WireError>, Vec<String>) {
    let (mut client, mut peer) = pair(&[]).await;
    let (sender, mut receiver) = begin(&mut client, &plain(method), Some(0)).await.unwrap();
    assert_eq!(peer.hear().await.unwrap(), "HEADERS 1 /a END");
    peer.say(bytes).await;
    let outcome = async {
        loop {
            match receiver.answer().await? {
                Answer::Informational(_) => {}
                Answer::Final(head, mut body) => {
                    let mut all = 0;
                    while let Some(frame) = body.frame().await {
                        if let Frame::Data(data) = frame? {
                            all += data.len();
                        }
                    }
                    return Ok((head.status, all));
                }
                Answer::Upgraded(..) => panic!("not asked for"),
            }
        }
    };
    let outcome = outcome.await;
    drop((sender, receiver, client));
    (outcome, peer.rest().await)
}

fn ok(fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    headers(1, end, &[&[(":status", "200")], fields].concat())
}

#[tokio::test]
async fn answers_end_as_their_frames_say() {
    LocalSet::new()
        .run_until(async {
            for (what, method, bytes, status, length) in [
                ("a body", "GET", [ok(&[("content-length", "2")], false), data(1, true, b"ab")].concat(), 200, 2),
                ("no body", "GET", ok(&[], true), 200, 0),
                ("interim answers", "GET", [headers(1, false, &[(":status", "103")]).repeat(8), ok(&[], true)].concat(), 200, 0),
                ("a length to HEAD", "HEAD", ok(&[("content-length", "9")], true), 200, 0),
                ("304 with a length", "GET", headers(1, true, &[(":status", "304"), ("content-length", "9")]), 304, 0),
                ("trailers", "GET", [ok(&[], false), data(1, false, b"abc"), headers(1, true, &[("a", "b")])].concat(), 200, 3),
                (
                    "a reset behind the end",
                    "GET",
                    [ok(&[], false), data(1, true, b"abc"), with_number(kind::RST_STREAM, 1, 0).to_vec()].concat(),
                    200,
                    3,
                ),
            ] {
                assert_eq!(asked(method, &bytes).await, (Ok((status, length)), vec!["GOAWAY 0 0".to_owned()]), "{what}");
            }
        })
        .await;
}

#[tokio::test]
async fn a_malformed_answer_is_reset_and_no_answer() {
    LocalSet::new()
        .run_until(async {
            for (what, bytes, code) in [
                ("no :status", headers(1, true, &[("a", "b")]), 1),
                ("a :status that is none", headers(1, true, &[(":status", "20")]), 1),
                ("101", headers(1, false, &[(":status", "101")]), 1),
                ("a :path", headers(1, true, &[(":status", "200"), (":path", "/")]), 1),
                ("an interim end", headers(1, true, &[(":status", "103")]), 1),
                ("nine interim answers", headers(1, false, &[(":status", "103")]).repeat(9), 11),
                ("an upper-case name", ok(&[("A", "b")], true), 1),
                ("a field of a connection", ok(&[("keep-alive", "5")], true), 1),
                ("data before the head", data(1, true, b"x"), 1),
                ("a body too short", [ok(&[("content-length", "3")], false), data(1, true, b"ab")].concat(), 1),
                ("no body that was promised", ok(&[("content-length", "3")], true), 1),
                ("trailers with a :status", [ok(&[], false), ok(&[], true)].concat(), 1),
            ] {
                let (outcome, heard) = asked("GET", &bytes).await;
                assert!(matches!(outcome, Err(WireError::Invalid(_))), "{what}: {outcome:?}");
                assert_eq!(heard, [format!("RST 1 {code}"), "GOAWAY 0 0".into()], "{what}");
            }
        })
        .await;
}

#[tokio::test]
async fn a_server_that_breaks_the_connection_is_told_so() {
    LocalSet::new()
        .run_until(async {
            for (what, bytes, code) in [
                ("an answer to nothing", headers(3, true, &[(":status", "200")]), 1),
                ("a stream of its own", headers(2, true, GET), 1),
                ("a push", frame(kind::PUSH_PROMISE, 4, 1, &[0; 8]), 1),
                ("pushes allowed", settings(&[(2, 1)]), 1),
                ("extended CONNECT taken back", [settings(&[(8, 1)]), settings(&[(8, 0)])].concat(), 1),
                ("a GOAWAY that takes back another", [goaway(1), goaway(3)].concat(), 1),
                ("no HPACK", frame(kind::HEADERS, 5, 1, &[0x80]), 9),
            ] {
                let (outcome, heard) = asked("GET", &bytes).await;
                assert!(matches!(outcome, Err(WireError::Invalid(_))), "{what}: {outcome:?}");
                assert_eq!(heard, [format!("GOAWAY 0 {code}")], "{what}");
            }
        })
        .await;
}

fn goaway(last: u32) -> Vec<u8> {
    frame::goaway(last, 0).to_vec()
}

#[tokio::test]
async fn what_a_server_did_not_take_is_known_as_such() {
    LocalSet::new()
        .run_until(async {
            let refused = with_number(kind::RST_STREAM, 1, code::REFUSED_STREAM);
            assert_eq!(asked("GET", &refused).await.0, Err(WireError::NotProcessed));
            let cancelled = with_number(kind::RST_STREAM, 1, code::CANCEL);
            assert_eq!(asked("GET", &cancelled).await.0, Err(WireError::Reset(code::CANCEL)));
            assert_eq!(asked("GET", &goaway(0)).await.0, Err(WireError::NotProcessed));
            // Streams up to the last one go on.
            assert_eq!(asked("GET", &[goaway(1), ok(&[], true)].concat()).await.0, Ok((200, 0)));
            // The server is gone, and nothing of the request was ever written.
            let (near, far) = duplex(1);
            let (mut client, driver) = Http2Client::start(Stream::Memory(near));
            let exchange = begin(&mut client, &plain("GET"), Some(0)).await.unwrap();
            let (_sender, mut receiver) = exchange;
            drop(far);
            driver.await;
            assert_eq!(receiver.answer().await.map(|_| ()).unwrap_err(), WireError::NotProcessed);
            assert!(client.is_ended());
        })
        .await;
}

#[tokio::test]
async fn a_server_that_vanishes_leaves_exchanges_closed() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut peer) = pair(&[]).await;
            let (_sender, mut receiver) = begin(&mut client, &plain("GET"), Some(0)).await.unwrap();
            peer.hear().await.unwrap();
            drop(peer);
            assert_eq!(receiver.answer().await.map(|_| ()).unwrap_err(), WireError::Closed);
            assert_eq!(begin(&mut client, &plain("GET"), Some(0)).await.map(|_| ()).unwrap_err(), WireError::NotProcessed);
        })
        .await;
}

#[tokio::test]
async fn requests_past_the_servers_bound_wait_in_turn() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut peer) = pair(&[(3, 1)]).await;
            while client.capacity() != 1 {
                tokio::task::yield_now().await;
            }
            let first = begin(&mut client, &plain("GET"), Some(0)).await.unwrap();
            assert_eq!(peer.hear().await.unwrap(), "HEADERS 1 /a END");
            let mut waiting = Vec::new();
            for _ in 0..3 {
                let mut client = client.clone();
                waiting.push(spawn_local(async move { begin(&mut client, &plain("GET"), Some(0)).await.map(|(_, receiver)| receiver) }));
            }
            tokio::task::yield_now().await;
            // One that gives up does not keep the others from their turn.
            waiting.remove(0).abort();
            drop(first);
            assert_eq!(peer.hear().await.unwrap(), "RST 1 8");
            for stream in [3, 5] {
                assert_eq!(peer.hear().await.unwrap(), format!("HEADERS {stream} /a END"));
                peer.say(&headers(stream, true, &[(":status", "204")])).await;
            }
            for waiting in waiting {
                assert!(waiting.await.unwrap().is_ok());
            }
        })
        .await;
}

#[tokio::test]
async fn what_is_said_together_leaves_together() {
    LocalSet::new()
        .run_until(async {
            let (mut client, mut peer) = pair(&[]).await;
            let (mut sender, _receiver) = begin(&mut client, &plain("POST"), None).await.unwrap();
            sender.data(Bytes::from_static(b"abc")).await.unwrap();
            sender.end(None).unwrap();
            // The last data says that it is the last.
            assert_eq!((peer.hear().await.unwrap(), peer.hear().await.unwrap()), ("HEADERS 1 /a".into(), "DATA 1 3 END".into()));
            let (mut sender, _receiver) = begin(&mut client, &plain("POST"), None).await.unwrap();
            sender.end(None).unwrap();
            assert_eq!(peer.hear().await.unwrap(), "HEADERS 3 /a END");
            let (mut sender, _receiver) = begin(&mut client, &plain("POST"), None).await.unwrap();
            assert_eq!(peer.hear().await.unwrap(), "HEADERS 5 /a");
            sender.end(None).unwrap();
            assert_eq!(peer.hear().await.unwrap(), "DATA 5 0 END");
        })
        .await;
}

#[tokio::test]
async fn a_head_larger_than_a_frame_is_continued() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(1 << 20);
            spawn_local(async move { drop(serve(far).await) });
            let (mut client, driver) = Http2Client::start(Stream::Memory(near));
            spawn_local(driver);
            let mut builder = HeadBuilder::with_capacity(0);
            for _ in 0..10 {
                builder.field(b"x-large", &[b'v'; 6000]).unwrap();
            }
            let head = builder.request(Version::Http11, "GET", "/", "x", None).unwrap();
            let (_sender, mut receiver) = begin(&mut client, &head, Some(0)).await.unwrap();
            assert!(matches!(receiver.answer().await.unwrap(), Answer::Final(head, _) if head.status == 204));
        })
        .await;
}

/// Bytes that a relay hands over as they are.
#[tokio::test]
async fn a_tunnel_carries_bytes_without_copying_them() {
    use std::future::poll_fn;
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(1 << 20);
            spawn_local(async move {
                let mut server = Http2Server::start(Stream::Memory(far), Bytes::new()).await.unwrap();
                while let Some((asked, body, responder)) = server.next().await.unwrap() {
                    let head = HeadBuilder::with_capacity(0).response(Version::Http2, 200);
                    let edits = Edits::default();
                    let mut tunnel = Responder::Http2(responder).upgrade(&asked, b"tcp", &head, &edits, body).await.unwrap();
                    spawn_local(async move {
                        while let Some(data) = poll_fn(|cx| tunnel.poll_data(cx)).await {
                            let mut data = data.unwrap();
                            poll_fn(|cx| tunnel.poll_send(cx, &mut data)).await.unwrap();
                        }
                        tunnel.shutdown().await.unwrap();
                    });
                }
            });
            let (mut client, driver) = Http2Client::start(Stream::Memory(near));
            spawn_local(driver);
            let (head, edits) = (plain("GET"), Edits::default());
            let outgoing = Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: Some(b"tcp") };
            let (_sender, mut receiver) = client.send(&outgoing).await.unwrap();
            let Answer::Upgraded(_, mut tunnel) = receiver.answer().await.unwrap() else { panic!() };
            let (mut sent, mut received, mut ended) = (0, 0, false);
            poll_fn(|cx| {
                while sent < 5_000_000 {
                    let mut data = Bytes::from(vec![b'x'; 50_000]);
                    if tunnel.poll_send(cx, &mut data).is_pending() {
                        break;
                    }
                    sent += 50_000;
                }
                if sent == 5_000_000 && !std::mem::replace(&mut ended, true) {
                    let _: std::task::Poll<_> = tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut tunnel), cx);
                }
                while let std::task::Poll::Ready(data) = tunnel.poll_data(cx) {
                    match data {
                        Some(data) => received += data.unwrap().len(),
                        None => return std::task::Poll::Ready(()),
                    }
                }
                std::task::Poll::Pending
            })
            .await;
            assert_eq!((sent, received), (5_000_000, 5_000_000));
        })
        .await;
}
