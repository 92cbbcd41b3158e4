//! What a server refuses, how, and what it takes all the same.

use super::*;

async fn check(cases: &[(&str, Vec<u8>, &[&str])]) {
    for (what, bytes, expected) in cases {
        assert_eq!(answers(bytes).await, *expected, "{what}");
    }
}

#[tokio::test]
async fn what_breaks_a_connection_ends_it_with_the_right_code() {
    let open = || headers(1, false, HOLD);
    let window = |stream, more| with_number(kind::WINDOW_UPDATE, stream, more).to_vec();
    LocalSet::new()
        .run_until(check(&[
            ("data on an idle stream", data(1, true, b"x"), &["GOAWAY 0 1"]),
            ("a stream of the server's", get(2), &["GOAWAY 0 1"]),
            ("a stream below the last", [get(3), get(1)].concat(), &["GOAWAY 3 5"]),
            ("a head continued that has not begun", frame(kind::CONTINUATION, 4, 1, b""), &["GOAWAY 0 1"]),
            ("a head interrupted", [frame(kind::HEADERS, 1, 1, b""), frame(kind::PING, 0, 0, &[0; 8])].concat(), &["GOAWAY 0 1"]),
            (
                "a head continued elsewhere",
                [frame(kind::HEADERS, 1, 1, b""), frame(kind::CONTINUATION, 4, 3, b"")].concat(),
                &["GOAWAY 0 1"],
            ),
            ("a frame too large", frame(kind::DATA, 0, 1, &[0; 16_385]), &["GOAWAY 0 6"]),
            ("no HPACK", frame(kind::HEADERS, 5, 1, &[0x80]), &["GOAWAY 0 9"]),
            ("no window", window(0, 0), &["GOAWAY 0 1"]),
            ("too large a window", window(0, 0x7fff_ffff), &["GOAWAY 0 3"]),
            ("a window of an idle stream", window(1, 1), &["GOAWAY 0 1"]),
            ("a reset of an idle stream", with_number(kind::RST_STREAM, 1, 8).to_vec(), &["GOAWAY 0 1"]),
            ("too large an initial window", settings(&[(4, 1 << 31)]), &["GOAWAY 0 3"]),
            ("too small a frame size", settings(&[(5, 16_383)]), &["GOAWAY 0 1"]),
            ("too large a frame size", settings(&[(5, 1 << 24)]), &["GOAWAY 0 1"]),
            ("a push that is neither", settings(&[(2, 2)]), &["GOAWAY 0 1"]),
            ("extended CONNECT that is neither", settings(&[(8, 2)]), &["GOAWAY 0 1"]),
            (
                "an initial window that overflows a stream's",
                [open(), window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])].concat(),
                &["GOAWAY 1 3"],
            ),
            ("a second acknowledgement", frame(kind::SETTINGS, 1, 0, b"").repeat(2), &["GOAWAY 0 1"]),
            ("a push", frame(kind::PUSH_PROMISE, 4, 1, &[0; 8]), &["GOAWAY 0 1"]),
            ("a stream that depends on itself", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]), &["GOAWAY 0 1"]),
            ("padding longer than its frame", [open(), frame(kind::DATA, 8, 1, &[9, 0])].concat(), &["GOAWAY 1 1"]),
        ]))
        .await;
}

#[tokio::test]
async fn what_names_a_closed_stream_ends_the_connection() {
    LocalSet::new()
        .run_until(async {
            for bytes in [data(1, true, b"x"), get(1)] {
                let mut peer = client(&[]).await;
                peer.say(&get(1)).await;
                assert_eq!(peer.hear().await.unwrap(), "HEADERS 1 204 END");
                peer.say(&bytes).await;
                assert_eq!(peer.rest().await, ["GOAWAY 1 5"]);
            }
        })
        .await;
}

#[tokio::test]
async fn a_connection_begins_with_preface_and_settings() {
    LocalSet::new()
        .run_until(async {
            for (first, expected) in
                [(get(1), vec!["GOAWAY 0 1"]), (frame(kind::SETTINGS, 1, 0, b""), vec!["GOAWAY 0 1"]), (settings(&[]), vec![])]
            {
                let (near, far) = duplex(4096);
                spawn_local(async move { drop(serve(far).await) });
                let mut peer = Peer::new(near);
                peer.say(&[PREFACE, &first[..]].concat()).await;
                assert_eq!(peer.end().await, expected);
            }
            let (near, far) = duplex(4096);
            let mut near = Peer::new(near);
            near.say(b"PRI * HTTP/1.1\r\n").await;
            assert!(matches!(serve(far).await, Err(WireError::Invalid(_))));
        })
        .await;
}

#[tokio::test]
async fn what_breaks_a_stream_resets_it_alone() {
    let with = |more: &[(&'static str, &'static str)]| [GET, more].concat();
    let reset: &[&str] = &["RST 1 1", "HEADERS 3 204 END"];
    let malformed = |list: &[(&str, &str)]| [headers(1, true, list), get(3)].concat();
    let replaced = |at: usize, name: &'static str, value: &'static str| {
        let mut list = GET.to_vec();
        list[at] = (name, value);
        list
    };
    let without = |at: usize| {
        let mut list = GET.to_vec();
        list.remove(at);
        list
    };
    let post = |length, end, body: &[u8]| {
        let head = headers(1, false, &[(":method", "POST"), (":scheme", "http"), (":path", "/hold"), ("content-length", length)]);
        [head, data(1, end, body), get(3)].concat()
    };
    LocalSet::new()
        .run_until(check(&[
            ("no :method", malformed(&without(0)), reset),
            ("no :scheme", malformed(&without(1)), reset),
            ("no :path", malformed(&without(2)), reset),
            ("an empty :path", malformed(&replaced(2, ":path", "")), reset),
            ("a :method that is none", malformed(&replaced(0, ":method", "G T")), reset),
            ("a :scheme that is none", malformed(&replaced(1, ":scheme", "1http")), reset),
            ("a second :path", malformed(&with(&[(":path", "/")])), reset),
            ("a pseudo-field behind a field", malformed(&[GET[0], GET[1], ("a", "b"), GET[2]]), reset),
            ("a pseudo-field behind the host", malformed(&[GET[0], GET[1], ("host", "b"), GET[2]]), reset),
            ("an unknown pseudo-field", malformed(&[(":other", "b"), GET[0], GET[1], GET[2]]), reset),
            ("a :status", malformed(&[(":status", "200"), GET[0], GET[1], GET[2]]), reset),
            ("a :protocol without CONNECT", malformed(&[(":protocol", "websocket"), GET[0], GET[1], GET[2]]), reset),
            ("a CONNECT with a path", malformed(&replaced(0, ":method", "CONNECT")), reset),
            ("an upper-case name", malformed(&with(&[("A", "b")])), reset),
            ("a name that is none", malformed(&with(&[("a b", "b")])), reset),
            ("a value that is none", malformed(&with(&[("a", "b\r\nc: d")])), reset),
            ("a field of a connection", malformed(&with(&[("connection", "close")])), reset),
            ("a transfer coding", malformed(&with(&[("transfer-encoding", "chunked")])), reset),
            ("a TE with more than trailers", malformed(&with(&[("te", "gzip")])), reset),
            ("two hosts", malformed(&with(&[("host", "x"), ("host", "x")])), reset),
            ("a length without a body", malformed(&with(&[("content-length", "1")])), reset),
            ("a body longer than it says", post("1", false, b"ab"), reset),
            ("a body shorter than it says", post("3", true, b"ab"), reset),
            ("data behind the end", [headers(1, true, HOLD), data(1, false, b"x"), get(3)].concat(), &["RST 1 5", "HEADERS 3 204 END"]),
            ("a head behind the end", [headers(1, true, HOLD), get(1), get(3)].concat(), &["RST 1 5", "HEADERS 3 204 END"]),
            ("a second head", [headers(1, false, HOLD), headers(1, false, &[("a", "b")]), get(3)].concat(), reset),
            ("trailers with a pseudo-field", [headers(1, false, HOLD), headers(1, true, &[(":path", "/")]), get(3)].concat(), reset),
            (
                "a window that grows by nothing",
                [headers(1, false, HOLD), with_number(kind::WINDOW_UPDATE, 1, 0).to_vec(), get(3)].concat(),
                reset,
            ),
            (
                "too large a window",
                [headers(1, false, HOLD), with_number(kind::WINDOW_UPDATE, 1, 0x7fff_ffff).to_vec(), get(3)].concat(),
                &["RST 1 3", "HEADERS 3 204 END"],
            ),
        ]))
        .await;
}

#[tokio::test]
async fn what_could_be_meant_is_answered() {
    let replaced = |at: usize, name: &'static str, value: &'static str| {
        let mut list = GET.to_vec();
        list[at] = (name, value);
        headers(1, true, &list)
    };
    let long = "v".repeat(120);
    let many: Vec<u8> = (0..129).flat_map(|_| block(&[("a", &long)])).collect();
    let many = [
        frame(kind::HEADERS, 1, 1, &block(GET)),
        frame(kind::CONTINUATION, 0, 1, &many[..15_000]),
        frame(kind::CONTINUATION, 4, 1, &many[15_000..]),
    ];
    LocalSet::new()
        .run_until(check(&[
            ("a :path that is none", replaced(2, ":path", "x"), &["HEADERS 1 400 END"]),
            ("a :path with a fragment", replaced(2, ":path", "/#a"), &["HEADERS 1 400 END"]),
            ("an authority that is none", replaced(3, ":authority", "u@x"), &["HEADERS 1 400 END"]),
            ("a length that is none", [headers(1, true, &[GET, &[("content-length", "x")][..]].concat())].concat(), &["HEADERS 1 400 END"]),
            ("a CONNECT", headers(1, true, &[(":method", "CONNECT"), (":authority", "x:80")]), &["HEADERS 1 501 END"]),
            (
                "a CONNECT that goes on",
                headers(1, false, &[(":method", "CONNECT"), (":authority", "x:80")]),
                &["HEADERS 1 501 END", "RST 1 0"],
            ),
            ("too many fields", many.concat(), &["HEADERS 1 431 END"]),
        ]))
        .await;
}

#[tokio::test]
async fn what_is_odd_and_allowed_is_taken() {
    let padded = [&[3, 0, 0, 0, 0, 16][..], &block(GET), &[0; 3]].concat();
    let two: Vec<Vec<u8>> = block(GET).iter().map(|byte| frame(kind::CONTINUATION, 0, 1, &[*byte])).take(8).collect();
    LocalSet::new()
        .run_until(check(&[
            (
                "unknown frames, flags and settings",
                [frame(77, 255, 9, b"x"), settings(&[(99, 1)]), frame(kind::HEADERS, 0xc0 | 5, 1, &block(GET))].concat(),
                &["HEADERS 1 204 END"],
            ),
            ("padding and priority", frame(kind::HEADERS, 0x2d, 1, &padded), &["HEADERS 1 204 END"]),
            ("priorities of streams that never come", [frame(kind::PRIORITY, 0, 9, &[0; 5]), get(1)].concat(), &["HEADERS 1 204 END"]),
            (
                "a head in small pieces",
                [frame(kind::HEADERS, 1, 1, b""), two.concat(), frame(kind::CONTINUATION, 4, 1, &block(GET)[8..])].concat(),
                &["HEADERS 1 204 END"],
            ),
            (
                "TE: trailers, and a body with trailers",
                [
                    headers(1, false, &[GET, &[("te", "Trailers"), ("content-length", "2")][..]].concat()),
                    data(1, false, b"ab"),
                    headers(1, true, &[("x-sum", "1")]),
                ]
                .concat(),
                &["HEADERS 1 204 END"],
            ),
            ("padded data", [headers(1, false, GET), frame(kind::DATA, 9, 1, b"\x02abcd")].concat(), &["HEADERS 1 204 END"]),
            ("streams left out", [get(5), get(99)].concat(), &["HEADERS 5 204 END", "HEADERS 99 204 END"]),
            (
                "a window of a closed stream",
                [get(1), with_number(kind::WINDOW_UPDATE, 1, 1).to_vec(), get(3)].concat(),
                &["HEADERS 1 204 END", "HEADERS 3 204 END"],
            ),
            (
                "frames of a stream that we reset",
                [headers(1, false, &GET[1..]), data(1, false, b"x"), headers(1, true, &[("a", "b")]), get(3)].concat(),
                &["RST 1 1", "HEADERS 3 204 END"],
            ),
        ]))
        .await;
}

#[tokio::test]
async fn an_initial_window_may_leave_streams_in_debt() {
    LocalSet::new()
        .run_until(async {
            let mut peer = client(&[(4, 10)]).await;
            peer.say(&headers(1, true, &[GET[0], GET[1], (":path", "/big"), GET[3]])).await;
            assert_eq!((peer.hear().await.unwrap(), peer.hear().await.unwrap()), ("HEADERS 1 200".into(), "DATA 1 10".into()));
            peer.say(&settings(&[(4, 0)])).await;
            peer.say(&with_number(kind::WINDOW_UPDATE, 1, 15)).await;
            assert_eq!(peer.hear().await.unwrap(), "DATA 1 5");
            peer.say(&settings(&[(4, 7)])).await;
            assert_eq!(peer.hear().await.unwrap(), "DATA 1 7");
        })
        .await;
}

#[tokio::test]
async fn a_server_leaves_in_two_steps() {
    LocalSet::new()
        .run_until(async {
            let mut peer = client(&[]).await;
            peer.say(&headers(1, true, &[GET[0], GET[1], (":path", "/leave"), GET[3]])).await;
            assert_eq!((peer.hear().await.unwrap(), peer.hear().await.unwrap()), ("GOAWAY 2147483647 0".into(), "PING".into()));
            // A request on its way is still taken, and one behind the last word is not.
            peer.say(&get(3)).await;
            assert_eq!(peer.hear().await.unwrap(), "HEADERS 3 204 END");
            peer.say(&frame(kind::PING, flag::ACK, 0, b"draining")).await;
            assert_eq!(peer.hear().await.unwrap(), "GOAWAY 3 0");
            peer.say(&[get(5), data(7, false, b"x"), with_number(kind::RST_STREAM, 1, code::CANCEL).to_vec()].concat()).await;
            assert_eq!(peer.hear().await, None);
        })
        .await;
}
