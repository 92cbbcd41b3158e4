//! The client's side of HTTP/1: what goes out, and when a connection may serve again.

use super::*;

struct Wire {
    client: Http1Client,
    server: DuplexStream,
}

fn wire() -> Wire {
    let (ours, server) = duplex(64 * 1024);
    Wire { client: Http1Client::new(Stream::Memory(ours)), server }
}

fn get(version: Version, fields: &[(&str, &str)], authority: &str) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(512);
    for (name, value) in fields {
        builder.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.request(version, "GET", "/a", authority, None).unwrap()
}

/// The head that goes out for `head`.
async fn written(head: &RequestHead, edits: &Edits, length: Option<u64>, upgrade: Option<&[u8]>) -> String {
    let Wire { mut client, mut server } = wire();
    let (mut sender, _receiver) = client.send(&Outgoing { head, edits, length, upgrade });
    sender.flush().await.unwrap();
    let mut text = vec![0; 4096];
    let count = server.read(&mut text).await.unwrap();
    text.truncate(count);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_request_goes_to_the_host_that_it_was_routed_by() {
    let mut moved = Edits::default();
    moved.authority = Some("v2.contact".to_owned());
    moved.path_and_query = Some("/b?c".to_owned());
    let none = Edits::default();
    for (head, edits, expected) in [
        (get(Version::Http11, &[("A", "b"), ("HOST", "x")], "x"), &none, "GET /a HTTP/1.1\r\nA: b\r\nHOST: x\r\n\r\n"),
        // An absolute target overrules the field.
        (get(Version::Http11, &[("Host", "x"), ("A", "b")], "y"), &none, "GET /a HTTP/1.1\r\nhost: y\r\nA: b\r\n\r\n"),
        (get(Version::Http10, &[], ""), &none, "GET /a HTTP/1.1\r\nhost: \r\n\r\n"),
        (get(Version::Http11, &[("Host", "x"), ("Connection", "host")], "x"), &none, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
        (get(Version::Http11, &[("Host", "x")], "x"), &moved, "GET /b?c HTTP/1.1\r\nhost: v2.contact\r\n\r\n"),
        (get(Version::Http2, &[("host", "z")], "x"), &none, "GET /a HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        assert_eq!(written(&head, edits, Some(0), None).await, expected, "{head:?}");
    }
}

#[tokio::test]
async fn an_upgrade_is_asked_for_as_http1_does() {
    let none = Edits::default();
    let fields = [("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "h2c, websocket"), ("Sec-WebSocket-Key", "k")];
    let asked = written(&get(Version::Http11, &fields, "x"), &none, Some(0), Some(b"h2c, websocket")).await;
    assert_eq!(asked, "GET /a HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    // HTTP/1.0 knows no upgrade, `h2c` is none.
    let old = written(&get(Version::Http10, &fields, "x"), &none, Some(0), Some(b"websocket")).await;
    assert_eq!(old, "GET /a HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: k\r\n\r\n");
    let h2c = written(&get(Version::Http11, &fields, "x"), &none, Some(0), Some(b"h2c")).await;
    assert_eq!(h2c, old);
    // An extended CONNECT has no key, and no body.
    let connect = HeadBuilder::with_capacity(64).request(Version::Http2, "CONNECT", "/a", "x", Some("websocket")).unwrap();
    let asked = written(&connect, &none, None, Some(b"websocket")).await;
    let (start, key) = asked.split_once("sec-websocket-key: ").unwrap();
    assert_eq!(start, "GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n");
    assert_eq!(key.len(), 24 + 4);
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says() {
    let Wire { mut client, .. } = wire();
    let head = get(Version::Http11, &[("Host", "x")], "x");
    let edits = Edits::default();
    let (mut sender, _) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(2), upgrade: None });
    assert!(sender.data(Bytes::from_static(b"abc")).await.is_err());
    sender.data(Bytes::from_static(b"a")).await.unwrap();
    assert!(sender.end(None).await.is_err());
    assert!(!client.is_reusable());
}

#[tokio::test]
async fn what_did_not_go_out_was_not_processed() {
    let head = get(Version::Http11, &[("Host", "x")], "x");
    let edits = Edits::default();
    let outgoing = Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None };
    // Closed while it was kept: nothing of the request went out.
    let Wire { mut client, server } = wire();
    drop(server);
    assert!(!client.is_reusable());
    let (_sender, mut receiver) = client.send(&outgoing);
    assert_eq!(receiver.answer().await.map(|_| ()).unwrap_err(), WireError::NotProcessed);
    // Closed once it went out: nobody knows.
    let Wire { mut client, server } = wire();
    let (mut sender, mut receiver) = client.send(&outgoing);
    sender.end(None).await.unwrap();
    drop(server);
    assert_eq!(receiver.answer().await.map(|_| ()).unwrap_err(), WireError::Closed);
}

#[tokio::test]
async fn a_connection_serves_again_only_after_a_whole_exchange() {
    let head = get(Version::Http11, &[("Host", "x")], "x");
    let edits = Edits::default();
    for (length, answer, body, reusable) in [
        (Some(0), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok("ok"), true),
        (Some(0), "HTTP/1.1 200 OK\r\n\r\nok", Ok("ok"), false),
        (Some(0), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Err(WireError::Closed), false),
        (Some(0), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Err(WireError::Closed), false),
        (Some(0), "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", Ok("ok"), true),
        (Some(0), "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Ok("ok"), false),
        (
            Some(0),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
            Err(WireError::Invalid("the only Transfer-Encoding is chunked")),
            false,
        ),
        (Some(0), "HTTP/1.1 200 OK\r\nContent-Length: 2", Err(WireError::Invalid("the answer's head is cut off")), false),
        (Some(0), "HTTP/1.1 20 OK\r\n\r\n", Err(WireError::Invalid("the status is none")), false),
        (Some(0), "SSH-2.0-OpenSSH\r\n\r\n", Err(WireError::Invalid("the version is neither HTTP/1.0 nor HTTP/1.1")), false),
        // An answer before the request was complete.
        (Some(5), "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", Ok("no"), false),
    ] {
        let Wire { mut client, mut server } = wire();
        let (mut sender, mut receiver) = client.send(&Outgoing { head: &head, edits: &edits, length, upgrade: None });
        if length == Some(0) {
            sender.end(None).await.unwrap();
        } else {
            sender.flush().await.unwrap();
        }
        server.write_all(answer.as_bytes()).await.unwrap();
        let keeps = reusable.then_some(server);
        let outcome = match receiver.answer().await {
            Ok(Answer::Final(_, mut body)) => whole(&mut body).await.map(|(all, _)| String::from_utf8(all).unwrap()),
            Ok(_) => panic!("{answer:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(outcome, body.map(str::to_owned), "{answer:?}");
        assert_eq!(client.is_reusable(), reusable, "{answer:?}");
        drop(keeps);
        assert!(!client.is_reusable(), "its server closed it");
    }
}

#[tokio::test]
async fn answers_without_a_body_end_at_once() {
    let edits = Edits::default();
    let head = HeadBuilder::with_capacity(64).request(Version::Http2, "HEAD", "/", "x", None).unwrap();
    for answer in
        ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]
    {
        let Wire { mut client, mut server } = wire();
        let (mut sender, mut receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None });
        sender.end(None).await.unwrap();
        server.write_all(answer.as_bytes()).await.unwrap();
        let Answer::Final(_, body) = receiver.answer().await.unwrap() else { panic!() };
        assert!(body.is_end() && client.is_reusable(), "{answer:?}");
    }
}

#[tokio::test]
async fn what_an_answer_announces_of_its_connection_is_kept() {
    let edits = Edits::default();
    let head = HeadBuilder::with_capacity(64).request(Version::Http2, "GET", "/", "x", None).unwrap();
    for (field, timeout, kept) in [
        ("", None, true),
        ("Keep-Alive: timeout=5\r\n", Some(Duration::from_secs(5)), true),
        ("Keep-Alive: timeout=5, max=1\r\n", Some(Duration::from_secs(5)), true),
        ("Keep-Alive: timeout=5, max=0\r\n", Some(Duration::from_secs(5)), false),
    ] {
        let Wire { mut client, mut server } = wire();
        let (mut sender, mut receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None });
        assert_eq!((client.answered(), client.announced()), (None, None));
        sender.end(None).await.unwrap();
        server.write_all(format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        receiver.answer().await.unwrap();
        assert_eq!((client.announced(), client.is_kept()), (timeout, kept), "{field}");
        assert!(client.answered().is_some() && client.is_reusable() == kept);
    }
}
