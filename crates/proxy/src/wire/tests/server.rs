//! The server's side of HTTP/1: what happens between two requests, and to answers that do not go as they should.

use tokio::time::timeout;

use super::super::http1::Http1Responder;
use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn head(version: Version, status: u16, fields: &[(&str, &str)]) -> lorica_model::head::ResponseHead {
    let mut builder = HeadBuilder::with_capacity(128);
    for (name, value) in fields {
        builder.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.response(version, status)
}

async fn ok(responder: Http1Responder) {
    let mut responder = Responder::Http1(responder);
    responder.raw_head(200, none(), Some(2), false).unwrap();
    responder.data(Bytes::from_static(b"ok")).await.unwrap();
    responder.end(None).await.unwrap();
}

/// Answers each request without reading its body, and returns the paths that were seen and all that the client got.
async fn unread(requests: &str) -> (Vec<String>, String) {
    let (mut server, mut client) = server(&[]);
    client.write_all(requests.as_bytes()).await.unwrap();
    let mut paths = Vec::new();
    while let Ok(Some((head, _body, responder))) = server.next().await {
        paths.push(head.path().to_owned());
        ok(responder).await;
    }
    drop(server);
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    (paths, all)
}

#[tokio::test(start_paused = true)]
async fn what_nobody_read_is_thrown_away() {
    for (first, paths) in [
        ("POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".to_owned(), &["/1", "/2"][..]),
        ("POST /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n".to_owned(), &["/1", "/2"]),
        // What looks like a request is a body.
        ("POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n1".to_owned(), &["/1", "/2"]),
        // More than it is worth.
        (format!("POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(60_000)), &["/1"]),
        // It never comes.
        ("POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".to_owned(), &["/1"]),
        // Nobody knows whether it comes.
        ("POST /1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n".to_owned(), &["/1"]),
        ("POST /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".to_owned(), &["/1"]),
    ] {
        let second = "GET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let (seen, all) = unread(&format!("{first}{second}")).await;
        assert_eq!(seen, paths, "{}", &first[..first.len().min(200)]);
        assert_eq!(all.matches("HTTP/1.1 200").count(), paths.len());
    }
    let (_, all) = unread("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert_eq!(all, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
}

#[tokio::test]
async fn an_answer_to_a_broken_body_is_the_last() {
    let broken = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    let (mut server, mut client) = server(&[]);
    client.write_all(format!("{broken}{GET}").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let (_, mut body, responder) = server.next().await.unwrap().unwrap();
    assert_eq!(whole(&mut body).await.unwrap_err(), WireError::Invalid("a chunk's size is no number"));
    // It stays broken.
    assert_eq!(whole(&mut body).await.unwrap_err(), WireError::Closed);
    ok(responder).await;
    assert!(server.next().await.unwrap().is_none());
    drop(server);
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
}

#[tokio::test]
async fn bodies_have_bounds_beside_their_length() {
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, expected) in [
        (format!("1;{}\r\nx\r\n", "e".repeat(2000)), WireError::Invalid("a chunk's line is too long")),
        (format!("1;{}\r\nx\r\n", "e".repeat(900)).repeat(20), WireError::Invalid("there are too many chunk extensions")),
        (format!("0\r\n{}\r\n", "a: b\r\n".repeat(129)), WireError::HeadTooLarge),
        ("0\r\nA : b\r\n\r\n".to_owned(), WireError::Invalid("a field name is none")),
        ("0\r\na: b".to_owned(), WireError::Closed),
        ("3\r\nab".to_owned(), WireError::Closed),
        ("-1\r\n\r\n".to_owned(), WireError::Invalid("a chunk's size is no number")),
        (" 1\r\nx\r\n0\r\n\r\n".to_owned(), WireError::Invalid("a chunk's size is no number")),
        ("1;a\rb\r\nx\r\n0\r\n\r\n".to_owned(), WireError::Invalid("a chunk's line has a control character")),
        ("1;\0\r\nx\r\n0\r\n\r\n".to_owned(), WireError::Invalid("a chunk's line has a control character")),
        ("0\r\na: b\n\r\n".to_owned(), WireError::Invalid("a line does not end as it must")),
        ("1\r\nxy\r\n0\r\n\r\n".to_owned(), WireError::Invalid("a chunk does not end where it said")),
    ] {
        let error = parsed(format!("{head}{body}").as_bytes()).await.map(|_| ()).unwrap_err();
        assert_eq!(error, expected, "{}", &body[..body.len().min(60)]);
    }
    assert_eq!(parsed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab").await.map(|_| ()).unwrap_err(), WireError::Closed);
}

#[tokio::test]
async fn interim_answers_pass() {
    let early = async |responder: &mut Responder| {
        responder
            .informational(&head(Version::Http11, 103, &[("Link", "x"), ("Connection", "close"), ("Content-Length", "9")]))
            .await
            .unwrap();
        let switch = responder.informational(&head(Version::Http11, 101, &[("Upgrade", "x")])).await;
        assert!(matches!(switch, Err(WireError::Invalid(_))));
        responder.raw_head(204, none(), None, true).unwrap();
    };
    assert_eq!(answered(GET, early).await, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(answered("GET / HTTP/1.0\r\n\r\n", early).await, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
}

#[tokio::test]
async fn an_answer_passes_without_its_hop() {
    let upstream = head(
        Version::Http11,
        200,
        &[("Server", "s"), ("Connection", "x-hop"), ("X-Hop", "1"), ("Transfer-Encoding", "chunked"), ("Trailer", "sum")],
    );
    let mut builder = HeadBuilder::with_capacity(64);
    builder.field(b"sum", b"1").unwrap();
    builder.field(b"Content-Length", b"9").unwrap();
    let trailers = builder.fields();
    let (mut server, mut client) = server(&[]);
    client.write_all(GET.as_bytes()).await.unwrap();
    let (_, _, responder) = server.next().await.unwrap().unwrap();
    let mut responder = Responder::Http1(responder);
    responder.head(&upstream, &Edits::default(), None, false).unwrap();
    // An empty piece is no end.
    responder.data(Bytes::new()).await.unwrap();
    responder.data(Bytes::from_static(b"abc")).await.unwrap();
    responder.end(Some(&trailers)).await.unwrap();
    drop(server);
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "HTTP/1.1 200 OK\r\nServer: s\r\nTrailer: sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nsum: 1\r\n\r\n");
}

#[tokio::test]
async fn an_answer_is_as_long_as_it_says_or_the_last() {
    let (mut server, mut client) = server(&[]);
    client.write_all(GET.repeat(2).as_bytes()).await.unwrap();
    let (_, _, responder) = server.next().await.unwrap().unwrap();
    let mut responder = Responder::Http1(responder);
    responder.raw_head(200, none(), Some(3), false).unwrap();
    assert_eq!(responder.data(Bytes::from_static(b"abcd")).await.unwrap_err(), WireError::Invalid("the body is longer than its head says"));
    responder.data(Bytes::from_static(b"ab")).await.unwrap();
    assert_eq!(responder.end(None).await.unwrap_err(), WireError::Invalid("the body is shorter than its head says"));
    assert!(server.next().await.unwrap().is_none(), "the second request must not be answered behind half an answer");
}

#[tokio::test]
async fn a_dropped_answer_ends_the_connection() {
    let (mut server, mut client) = server(&[]);
    client.write_all(GET.repeat(2).as_bytes()).await.unwrap();
    drop(server.next().await.unwrap().unwrap());
    assert!(server.next().await.unwrap().is_none());
    drop(server);
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn waiting_for_a_client_to_go_leaves_its_next_request() {
    let (mut server, mut client) = server(&[]);
    client.write_all(GET.as_bytes()).await.unwrap();
    let (_, _, first) = server.next().await.unwrap().unwrap();
    client.write_all(b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::select! {
        biased;
        () = first.gone() => panic!("it is there"),
        () = tokio::task::yield_now() => {}
    }
    ok(first).await;
    let (head, _, second) = server.next().await.unwrap().unwrap();
    assert_eq!(head.path(), "/2");
    ok(second).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_no_slow_head() {
    let (mut server, mut client) = server(b"\r\n");
    assert!(timeout(HEAD_TIMEOUT * 100, server.next()).await.is_err(), "an empty line begins no request");
    client.write_all(b"\r\n\r\nGET /a").await.unwrap();
    assert_eq!(server.next().await.map(|_| ()).unwrap_err(), WireError::HeadTimeout);
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let (mut server, mut client) = server(b"PO");
    let writing = async {
        for byte in b"ST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nz" {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let (head, mut body, responder) = server.next().await.unwrap().unwrap();
        assert_eq!((head.method(), head.path()), ("POST", "/a"));
        assert_eq!(body.length(), Some(1));
        assert_eq!(whole(&mut body).await.unwrap().0, b"z");
        ok(responder).await;
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn a_connection_is_kept_as_long_as_both_want() {
    let keep = async |responder: &mut Responder| responder.raw_head(204, none(), None, true).unwrap();
    for (request, answers) in [
        (GET, 2),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 2),
    ] {
        let all = answered(&request.repeat(2), keep).await;
        assert_eq!(all.matches("HTTP/1.1 204").count(), answers, "{request:?}");
        assert_eq!(all.contains("connection: close"), answers == 1, "{request:?}");
        assert_eq!(all.contains("connection: keep-alive"), answers == 2 && request.contains("1.0"), "{request:?}");
    }
    let (mut server, mut client) = server(&[]);
    client.write_all(GET.repeat(2).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    server.close_after_next();
    ok(server.next().await.unwrap().unwrap().2).await;
    assert!(server.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_refusal_says_why_and_ends() {
    let (mut server, mut client) = server(&[]);
    client.write_all(b"GET / HTTP/1.1\r\n\r\nmore").await.unwrap();
    client.shutdown().await.unwrap();
    let error = server.next().await.map(|_| ()).unwrap_err();
    server.refuse(400, "bad_request", &error.to_string()).await;
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert!(
        all.starts_with("HTTP/1.1 400 Bad Request\r\n") && all.ends_with("\r\nx-lorica-reason: bad_request\r\n\r\nthere is no Host field"),
        "{all}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_waited_for() {
    let (mut server, mut client) = server(&[]);
    client.write_all(GET.as_bytes()).await.unwrap();
    let (_, _, responder) = server.next().await.unwrap().unwrap();
    let mut responder = Responder::Http1(responder);
    responder.raw_head(200, none(), None, false).unwrap();
    let mut taken = 0;
    let sending = async {
        loop {
            responder.data(Bytes::from(vec![b'x'; 8 * 1024])).await.unwrap();
            taken += 8 * 1024;
        }
    };
    // Time goes on only once nothing moves any more.
    assert!(timeout(Duration::from_secs(1), sending).await.is_err());
    // The pipe holds 64 KiB and the queue as much.
    assert!((64 * 1024..=160 * 1024).contains(&taken), "{taken}");
}
