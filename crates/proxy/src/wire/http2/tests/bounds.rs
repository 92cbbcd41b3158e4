//! What a peer can make a server hold or do has bounds, and ordinary peers do not meet them.

use std::time::Duration;

use lorica_model::head::Field;
use tokio::time::timeout;

use super::super::calm::{EARLY_RESETS, IDLE_FRAMES};
use super::super::connection::OUTBOX_STOP;
use super::*;

const CALM: &str = "11";

/// The code of the GOAWAY that ends what a server says to `bytes`, if one does.
async fn goaway(bytes: &[u8]) -> Option<String> {
    let (near, far) = duplex(1 << 24);
    spawn_local(async move { drop(serve(far).await) });
    let mut peer = Peer::new(near);
    peer.say(&[PREFACE, &settings(&[])[..], bytes].concat()).await;
    let last = peer.end().await.pop()?;
    last.strip_prefix("GOAWAY ").and_then(|rest| rest.split(' ').nth(1)).map(str::to_owned)
}

#[tokio::test]
async fn frames_that_bring_nothing_are_counted() {
    let many = IDLE_FRAMES as usize + 10;
    let window = |stream, more| with_number(kind::WINDOW_UPDATE, stream, more).to_vec();
    LocalSet::new()
        .run_until(async {
            for (what, begin, frame) in [
                ("PING", vec![], frame(kind::PING, 0, 0, &[0; 8])),
                ("PING ACK", vec![], frame(kind::PING, flag::ACK, 0, &[0; 8])),
                ("SETTINGS", vec![], settings(&[(4, 70_000)])),
                ("empty DATA", headers(1, false, HOLD), data(1, false, b"")),
                ("padding alone", headers(1, false, HOLD), self::frame(kind::DATA, 8, 1, &[3, 0, 0, 0])),
                ("small windows", vec![], window(0, 1)),
                ("small windows of a stream", headers(1, false, HOLD), window(1, 1)),
                ("windows of streams that are gone", get(1), window(1, 1)),
                ("PRIORITY", vec![], self::frame(kind::PRIORITY, 0, 1, &[0; 5])),
                ("unknown frames", vec![], self::frame(99, 0, 0, b"x")),
                ("GOAWAY", vec![], self::frame(kind::GOAWAY, 0, 0, &[0; 8])),
                ("resets of streams that are gone", get(1), with_number(kind::RST_STREAM, 1, 8).to_vec()),
            ] {
                assert_eq!(goaway(&[begin, frame.repeat(many)].concat()).await.as_deref(), Some(CALM), "{what}");
            }
            // Refusals, each with its own stream.
            let refused: Vec<u8> = (0..many as u32).flat_map(|number| headers(2 * number + 1, true, &GET[1..])).collect();
            assert_eq!(goaway(&refused).await.as_deref(), Some(CALM));
        })
        .await;
}

#[tokio::test]
async fn frames_that_bring_something_pay_for_others() {
    let round = |number: u32| {
        let stream = 2 * number + 1;
        [
            headers(stream, false, GET),
            data(stream, true, b"x"),
            frame(kind::PING, 0, 0, &[0; 8]),
            with_number(kind::WINDOW_UPDATE, 0, 1).to_vec(),
        ]
    };
    LocalSet::new()
        .run_until(async {
            let mut peer = client(&[]).await;
            for hundred in 0..3 * IDLE_FRAMES / 100 {
                let bytes: Vec<u8> = (100 * hundred..100 * (hundred + 1)).flat_map(round).flatten().collect();
                peer.say(&bytes).await;
                for _ in 0..100 {
                    assert!(peer.hear().await.unwrap().ends_with(" 204 END"));
                }
            }
        })
        .await;
}

#[tokio::test]
async fn requests_reset_before_their_answer_are_counted() {
    let reset = |stream| with_number(kind::RST_STREAM, stream, code::CANCEL);
    // A mistake that makes us reset it costs as much.
    let mistake = |stream| with_number(kind::WINDOW_UPDATE, stream, 0);
    LocalSet::new()
        .run_until(async {
            for end in [reset, mistake] {
                for (count, expected) in [(MAX_STREAMS, None), (EARLY_RESETS + 10, Some(CALM))] {
                    let mut peer = client(&[]).await;
                    for number in 0..count {
                        let stream = 2 * number + 1;
                        if peer.io.write_all(&[headers(stream, false, GET), end(stream).to_vec()].concat()).await.is_err() {
                            break;
                        }
                        // Whoever worked on it sees that it is over, so that none is refused.
                        tokio::task::yield_now().await;
                    }
                    let mut words = peer.end().await;
                    let last = words.pop().filter(|word| word.starts_with("GOAWAY"));
                    assert_eq!(last.as_deref().and_then(|word| word.rsplit(' ').next()), expected);
                }
            }
        })
        .await;
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let begin = frame(kind::HEADERS, 1, 1, &block(GET));
    LocalSet::new()
        .run_until(async {
            for part in [&b""[..], &[0; 100], &[0; 16_000]] {
                let bytes = [begin.clone(), frame(kind::CONTINUATION, 0, 1, part).repeat(20)].concat();
                assert_eq!(goaway(&bytes).await.as_deref(), Some(CALM), "{}", part.len());
            }
        })
        .await;
}

#[tokio::test]
async fn a_small_head_that_says_much_is_too_large() {
    LocalSet::new()
        .run_until(async {
            // A field of 4,000 bytes that enters the table, and then a byte each for many more of it.
            let mut bomb = block(GET);
            bomb.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e]);
            bomb.extend_from_slice(&[b'v'; 4000]);
            bomb.extend_from_slice(&[0xbe; 10_000]);
            let bytes = [frame(kind::HEADERS, 5, 1, &bomb), get(3)].concat();
            assert_eq!(answers(&bytes).await, ["HEADERS 1 431 END", "HEADERS 3 204 END"]);
        })
        .await;
}

#[tokio::test]
async fn streams_past_the_bound_are_refused_and_have_had_no_effect() {
    LocalSet::new()
        .run_until(async {
            let bytes: Vec<u8> = (0..=MAX_STREAMS).flat_map(|number| headers(2 * number + 1, false, HOLD)).collect();
            assert_eq!(answers(&bytes).await, [format!("RST {} 7", 2 * MAX_STREAMS + 1)]);
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_sends_past_its_window_is_stopped() {
    LocalSet::new()
        .run_until(async {
            let full: Vec<u8> = data(1, false, &[0; 16_384]).repeat((STREAM_WINDOW / 16_384) as usize);
            assert_eq!(goaway(&[headers(1, false, HOLD), full.clone()].concat()).await, None);
            let (near, far) = duplex(1 << 24);
            spawn_local(async move { drop(serve(far).await) });
            let mut peer = Peer::new(near);
            peer.say(&[PREFACE, &settings(&[])[..], &headers(1, false, HOLD), &full, &data(1, false, b"x"), &get(3)].concat()).await;
            assert_eq!((peer.hear().await.unwrap(), peer.hear().await.unwrap()), ("RST 1 3".into(), "HEADERS 3 204 END".into()));
            let all: Vec<u8> = (0..5)
                .flat_map(|number| [headers(2 * number + 1, false, HOLD), data(2 * number + 1, false, &[0; 16_384]).repeat(64)])
                .flatten()
                .collect();
            assert_eq!(goaway(&all).await.as_deref(), Some("3"));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_not_read_either() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(4096);
            let mut server = Http2Server::start(Stream::Memory(far), Bytes::from_static(PREFACE)).await.unwrap();
            let shared = server.0.shared.clone();
            spawn_local(async move {
                while let Some((_, _, mut responder)) = server.next().await.unwrap() {
                    let fields = [(&b"x-fill"[..], &[b'x'; 8192][..])];
                    responder.head(200, fields.into_iter().map(Field::from), None, true).unwrap();
                }
            });
            let mut peer = Peer::new(near);
            peer.say(&settings(&[])).await;
            let mut sent = 0;
            let sending = async {
                for number in 0.. {
                    peer.say(&get(2 * number + 1)).await;
                    sent = number;
                }
            };
            // Time goes on only once nothing moves any more.
            assert!(timeout(Duration::from_secs(1), sending).await.is_err());
            let waiting = shared.connection.borrow().outbox.waiting();
            // What one read of requests makes us answer comes on top.
            assert!((OUTBOX_STOP..8 * OUTBOX_STOP).contains(&waiting), "{waiting} bytes wait, {sent} requests");
        })
        .await;
}

#[tokio::test]
async fn little_data_that_nobody_reads_takes_little_memory() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(1 << 20);
            let mut server = Http2Server::start(Stream::Memory(far), Bytes::from_static(PREFACE)).await.unwrap();
            let mut peer = Peer::new(near);
            peer.say(&[settings(&[]), headers(1, false, HOLD), data(1, false, b"abc").repeat(20_000), data(1, true, b"")].concat()).await;
            let (_, mut body, _responder) = server.next().await.unwrap().unwrap();
            spawn_local(async move { drop(server.next().await) });
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let (mut pieces, mut all) = (0, Vec::new());
            while let Some(frame) = body.frame().await {
                let Frame::Data(data) = frame.unwrap() else { panic!() };
                all.extend_from_slice(&data);
                pieces += 1;
            }
            assert!(pieces < 100 && all == b"abc".repeat(20_000), "{pieces} pieces");
        })
        .await;
}

#[tokio::test]
async fn much_on_one_stream_does_not_keep_the_others_waiting() {
    LocalSet::new()
        .run_until(async {
            let mut peer = client(&[(4, 1 << 30)]).await;
            peer.say(&with_number(kind::WINDOW_UPDATE, 0, 1 << 30)).await;
            let big = |stream| headers(stream, true, &[GET[0], GET[1], (":path", "/big"), GET[3]]);
            peer.say(&[big(1), big(3), big(5)].concat()).await;
            let mut received = [0_usize; 6];
            while received.iter().all(|count| *count < 1 << 20) {
                let word = peer.hear().await.unwrap();
                if let Some(rest) = word.strip_prefix("DATA ") {
                    let mut parts = rest.split(' ');
                    let stream: usize = parts.next().unwrap().parse().unwrap();
                    received[stream] += parts.next().unwrap().parse::<usize>().unwrap();
                }
            }
            // When the first has all of its megabyte, the others have most of theirs.
            assert!(received[1] + received[3] + received[5] > 5 << 19, "{received:?}");
        })
        .await;
}

#[tokio::test]
async fn a_window_is_given_back_as_bytes_are_used_up() {
    LocalSet::new()
        .run_until(async {
            let mut peer = client(&[]).await;
            peer.say(&headers(1, false, GET)).await;
            for _ in 0..200 {
                peer.say(&data(1, false, &[0; 16_000])).await;
            }
            peer.say(&data(1, true, b"")).await;
            let mut given = 0;
            loop {
                let word = peer.hear().await.unwrap();
                match word.strip_prefix("WINDOW 1 ") {
                    Some(more) => given += more.parse::<usize>().unwrap(),
                    None => break assert_eq!(word, "HEADERS 1 204 END"),
                }
            }
            assert!((2 << 20..=200 * 16_000).contains(&given), "{given}");
        })
        .await;
}

#[tokio::test]
async fn a_connection_at_rest_holds_little() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(1 << 20);
            let mut server = Http2Server::start(Stream::Memory(far), Bytes::from_static(PREFACE)).await.unwrap();
            let shared = server.0.shared.clone();
            spawn_local(async move {
                while let Some((_, _, mut responder)) = server.next().await.unwrap() {
                    spawn_local(async move { responder.head(204, std::iter::empty(), None, true).unwrap() });
                }
            });
            let mut peer = Peer::new(near);
            peer.say(&settings(&[])).await;
            for number in 0..100 {
                peer.say(&get(2 * number + 1)).await;
            }
            for _ in 0..100 {
                peer.hear().await.unwrap();
            }
            tokio::task::yield_now().await;
            let connection = shared.connection.borrow();
            assert_eq!((connection.streams.open(), connection.streams.held(), connection.outbox.waiting()), (0, 0, 0));
            assert_eq!((connection.outbox.capacity(), connection.text.capacity()), (0, 0));
        })
        .await;
}
