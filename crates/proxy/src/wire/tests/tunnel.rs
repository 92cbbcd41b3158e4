//! Where HTTP ends: upgrades across hops of both versions, with bytes that came early.

use super::*;

/// Passes one exchange on, as a proxy does, up to its tunnels.
async fn pass(head: &RequestHead, body: Body, mut responder: Responder, mut sender: Sender, mut receiver: Receiver) -> (Tunnel, Tunnel) {
    if head.protocol().is_none() {
        sender.end(None).await.unwrap();
    }
    loop {
        match receiver.answer().await.unwrap() {
            Answer::Informational(head) => responder.informational(&head).await.unwrap(),
            Answer::Final(head, _) => panic!("{head:?}"),
            Answer::Upgraded(answer, upstream) => {
                let protocol = asked(head).unwrap();
                return (responder.upgrade(head, protocol, &answer, &Edits::default(), body).await.unwrap(), upstream);
            }
        }
    }
}

fn asked(head: &RequestHead) -> Option<&[u8]> {
    head.protocol().map(str::as_bytes).or_else(|| head.fields.get("upgrade"))
}

async fn relay((mut client, mut upstream): (Tunnel, Tunnel)) {
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await.unwrap();
}

async fn head_of(stream: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// A caller and an app of HTTP/1, with two proxies that speak HTTP/2 between them.
#[tokio::test]
async fn a_websocket_crosses_two_proxies() {
    LocalSet::new()
        .run_until(async {
            let (mut caller, outbound) = duplex(64 * 1024);
            let (near, far) = duplex(64 * 1024);
            let (inbound, mut app) = duplex(64 * 1024);
            tokio::task::spawn_local(async move {
                let mut server = Http1Server::new(Stream::Memory(outbound), &[], HEAD_TIMEOUT);
                let (mut client, driver) = Http2Client::start(Stream::Memory(near));
                tokio::task::spawn_local(driver);
                let (head, body, responder) = server.next().await.unwrap().unwrap();
                let edits = Edits::default();
                // The server's settings are still on their way.
                let sent = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: asked(&head) }).await.unwrap();
                relay(pass(&head, body, Responder::Http1(responder), Sender::Http2(sent.0), Receiver::Http2(sent.1)).await).await;
            });
            tokio::task::spawn_local(async move {
                let mut server = Http2Server::start(Stream::Memory(far), Bytes::new()).await.unwrap();
                let mut client = Http1Client::new(Stream::Memory(inbound));
                let (head, body, responder) = server.next().await.unwrap().unwrap();
                tokio::task::spawn_local(async move { while let Ok(Some(_)) = server.next().await {} });
                let edits = Edits::default();
                let sent = client.send(&Outgoing { head: &head, edits: &edits, length: body.length(), upgrade: asked(&head) });
                relay(pass(&head, body, Responder::Http2(responder), Sender::Http1(sent.0), Receiver::Http1(sent.1)).await).await;
            });
            caller
                .write_all(
                    b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly",
                )
                .await
                .unwrap();
            assert_eq!(
                head_of(&mut app).await,
                "GET /chat HTTP/1.1\r\nhost: x\r\nsec-websocket-key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            );
            app.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\nhello",
            )
            .await
            .unwrap();
            let answer = head_of(&mut caller).await;
            assert_eq!(
                answer,
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: a\r\n\r\n"
            );
            let mut five = [0; 5];
            app.read_exact(&mut five).await.unwrap();
            assert_eq!(&five, b"early");
            caller.read_exact(&mut five).await.unwrap();
            assert_eq!(&five, b"hello");
            // More than the windows hold, both ways, then the end of one side and of the other.
            let (mut from_caller, mut to_app) = tokio::io::split(caller);
            let (mut from_app, mut to_caller) = tokio::io::split(app);
            let big = vec![b'x'; 3_000_000];
            let mut down = Vec::new();
            let mut up = Vec::new();
            let sending_up = async {
                to_app.write_all(&big).await.unwrap();
                to_app.shutdown().await.unwrap();
            };
            let sending_down = async {
                to_caller.write_all(&big).await.unwrap();
                to_caller.shutdown().await.unwrap();
            };
            let (.., down_read, up_read) =
                tokio::join!(sending_up, sending_down, from_caller.read_to_end(&mut down), from_app.read_to_end(&mut up));
            assert_eq!((down_read.unwrap(), up_read.unwrap()), (big.len(), big.len()));
        })
        .await;
}

#[tokio::test]
async fn only_what_was_asked_for_ends_http() {
    let mut builder = HeadBuilder::with_capacity(64);
    builder.field(b"Host", b"x").unwrap();
    let head = builder.request(Version::Http11, "GET", "/", "x", None).unwrap();
    let edits = Edits::default();
    for (upgrade, answer, expected) in [
        (Some(&b"websocket"[..]), "HTTP/1.1 101 S\r\nUpgrade: WebSocket\r\n\r\n", None),
        (Some(b"websocket"), "HTTP/1.1 101 S\r\nUpgrade: h2c\r\n\r\n", Some("101 leads to a protocol that was not asked for")),
        (None, "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", Some("101 was not asked for")),
        (Some(b"h2c"), "HTTP/1.1 101 S\r\nUpgrade: h2c\r\n\r\n", Some("101 was not asked for")),
    ] {
        let (ours, mut server) = duplex(4096);
        let mut client = Http1Client::new(Stream::Memory(ours));
        let (mut sender, mut receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade });
        sender.end(None).await.unwrap();
        server.write_all(answer.as_bytes()).await.unwrap();
        let outcome = receiver.answer().await.map(|answer| assert!(matches!(answer, Answer::Upgraded(..))));
        assert_eq!(outcome.err(), expected.map(WireError::Invalid), "{answer:?}");
        assert!(!client.is_reusable());
    }
}
