//! HTTP/2: what is refused, what the other version makes of it, and how a connection ends.

use std::cell::Cell;
use std::rc::Rc;

use h2::ext::Protocol;
use http::{Method, Request};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::*;

/// A server that answers every request with `answer`, and a bare client of it.
async fn bare(answer: impl AsyncFn(RequestHead, Body, Responder) + Clone + 'static) -> h2::client::SendRequest<Bytes> {
    let (ours, theirs) = duplex(64 * 1024);
    spawn_local(serve(theirs, answer));
    let (requests, connection) = h2::client::handshake(ours).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    requests
}

async fn serve(stream: DuplexStream, answer: impl AsyncFn(RequestHead, Body, Responder) + Clone + 'static) {
    let mut server = Http2Server::start(Stream::Memory(stream), Bytes::new()).await.unwrap();
    while let Ok(Some((head, body, responder))) = server.next().await {
        let answer = answer.clone();
        spawn_local(async move { answer(head, body, Responder::Http2(responder)).await });
    }
}

/// Our client of such a server.
async fn ours(answer: impl AsyncFn(RequestHead, Body, Responder) + Clone + 'static) -> Http2Client {
    let (ours, theirs) = duplex(64 * 1024);
    spawn_local(serve(theirs, answer));
    let (client, driver) = Http2Client::start(Stream::Memory(ours));
    spawn_local(driver);
    client
}

async fn no_content(_: RequestHead, _: Body, mut responder: Responder) {
    responder.raw_head(204, none(), None, true).unwrap();
    responder.end(None).await.unwrap();
}

fn plain() -> RequestHead {
    request(Version::Http11, &[("Host", "recording.contact")])
}

async fn answer_to(client: &mut Http2Client, head: &RequestHead, length: Option<u64>) -> Result<Answer, WireError> {
    let edits = Edits::default();
    let (mut sender, mut receiver) = client.send(&Outgoing { head, edits: &edits, length, upgrade: None }).await?;
    if length == Some(0) {
        sender.end(None)?;
    }
    let answer = receiver.answer().await;
    drop(sender);
    answer
}

#[tokio::test]
async fn what_would_mean_something_else_in_http1_is_refused() {
    LocalSet::new()
        .run_until(async {
            let mut requests = bare(no_content).await;
            let get = || Request::get("http://x/a");
            let many = |count| (0..count).fold(get(), |request, _| request.header("a", "b"));
            let connect = |protocol: &str| {
                let mut request = Request::new(());
                *request.method_mut() = Method::CONNECT;
                *request.uri_mut() = "http://x/chat".parse().unwrap();
                request.extensions_mut().insert(Protocol::from(protocol));
                request
            };
            let tunnel = Request::builder().method("CONNECT").uri("x:80").body(()).unwrap();
            let star = {
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(http::uri::Scheme::HTTP);
                parts.authority = Some("x".parse().unwrap());
                parts.path_and_query = Some("*".parse().unwrap());
                http::Uri::from_parts(parts).unwrap()
            };
            let cases = [
                (get().body(()).unwrap(), 204),
                (Request::options(star.clone()).body(()).unwrap(), 204),
                (Request::get(star).body(()).unwrap(), 400),
                (Request::get("http://user@x/a").body(()).unwrap(), 400),
                (get().header("host", "y").body(()).unwrap(), 204),
                (many(128).body(()).unwrap(), 204),
                (many(129).body(()).unwrap(), 431),
                (tunnel, 501),
                (connect("websocket"), 204),
                (connect("websocket\r\nx-forged: 1"), 400),
                (connect(""), 400),
            ];
            for (request, status) in cases {
                requests = requests.ready().await.unwrap();
                let said = format!("{request:?}");
                let (response, _) = requests.send_request(request, true).unwrap();
                assert_eq!(response.await.unwrap().status(), status, "{}", &said[..said.len().min(200)]);
            }
        })
        .await;
}

#[tokio::test]
async fn a_host_beside_the_authority_is_left_out() {
    LocalSet::new()
        .run_until(async {
            let mut requests = bare(async |head: RequestHead, _: Body, mut responder: Responder| {
                assert_eq!((head.authority(), head.fields.get("host")), ("x", None));
                responder.raw_head(204, none(), None, true).unwrap();
                responder.end(None).await.unwrap();
            })
            .await;
            let request = Request::get("http://x/").header("host", "y").body(()).unwrap();
            assert_eq!(requests.send_request(request, true).unwrap().0.await.unwrap().status(), 204);
        })
        .await;
}

#[tokio::test]
async fn a_declared_length_stays_known() {
    LocalSet::new()
        .run_until(async {
            let mut client = ours(async |head: RequestHead, mut body: Body, mut responder: Responder| {
                assert_eq!((head.fields.get("content-length"), body.length()), (Some(&b"3"[..]), Some(3)));
                let (all, _) = whole(&mut body).await.unwrap();
                responder.raw_head(200, none(), Some(3), false).unwrap();
                responder.data(all.into()).await.unwrap();
                responder.end(None).await.unwrap();
            })
            .await;
            let head = request(Version::Http11, &[("Host", "recording.contact"), ("Content-Length", "3, 3")]);
            let edits = Edits::default();
            let (mut sender, mut receiver) =
                client.send(&Outgoing { head: &head, edits: &edits, length: Some(3), upgrade: None }).await.unwrap();
            sender.data(Bytes::from_static(b"abc")).await.unwrap();
            sender.end(None).unwrap();
            let Answer::Final(_, mut body) = receiver.answer().await.unwrap() else { panic!() };
            assert_eq!(body.length(), Some(3));
            assert_eq!(whole(&mut body).await.unwrap().0, b"abc");
        })
        .await;
}

#[tokio::test]
async fn requests_of_http1_read_well_in_http2() {
    LocalSet::new()
        .run_until(async {
            let mut client = ours(async |head: RequestHead, _: Body, mut responder: Responder| {
                let fields: Vec<_> = head
                    .fields
                    .iter()
                    .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
                    .collect();
                let seen = format!("{} {} {} {}", head.method(), head.authority(), head.path_and_query(), fields.join(" "));
                responder.raw_head(200, [(&b"x-seen"[..], seen.as_bytes())].into_iter(), Some(0), true).unwrap();
                responder.end(None).await.unwrap();
            })
            .await;
            for (head, expected) in [
                (
                    request(
                        Version::Http11,
                        &[
                            ("Host", "recording.contact"),
                            ("X-Upper", "V"),
                            ("Connection", "keep-alive, x-hop"),
                            ("X-Hop", "1"),
                            ("TE", "gzip, trailers"),
                            ("Transfer-Encoding", "chunked"),
                        ],
                    ),
                    "POST recording.contact /a?b x-upper=V te=trailers",
                ),
                (HeadBuilder::with_capacity(64).request(Version::Http10, "GET", "/", "", None).unwrap(), "GET  / "),
                (HeadBuilder::with_capacity(64).request(Version::Http11, "OPTIONS", "*", "x", None).unwrap(), "OPTIONS x * "),
            ] {
                let Answer::Final(answer, body) = answer_to(&mut client, &head, Some(0)).await.unwrap() else { panic!() };
                assert_eq!(answer.fields.get_str("x-seen"), Some(expected));
                assert!(body.is_end());
            }
        })
        .await;
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length() {
    LocalSet::new()
        .run_until(async {
            let mut client = ours(async |_: RequestHead, _: Body, mut responder: Responder| {
                responder.raw_head(200, [(&b"content-length"[..], &b"9"[..])].into_iter(), Some(9), true).unwrap();
                responder.end(None).await.unwrap();
            })
            .await;
            let head = HeadBuilder::with_capacity(64).request(Version::Http11, "HEAD", "/", "x", None).unwrap();
            let Answer::Final(answer, body) = answer_to(&mut client, &head, Some(0)).await.unwrap() else { panic!() };
            assert_eq!((answer.fields.get_str("content-length"), body.is_end()), (Some("9"), true));
        })
        .await;
}

#[tokio::test]
async fn interim_answers_pass_up_to_eight() {
    LocalSet::new()
        .run_until(async {
            let mut client = ours(async |_: RequestHead, _: Body, mut responder: Responder| {
                for _ in 0..9 {
                    responder.informational(&HeadBuilder::with_capacity(0).response(Version::Http11, 103)).await.unwrap();
                }
                responder.raw_head(204, none(), None, true).unwrap();
                responder.end(None).await.unwrap();
            })
            .await;
            let head = plain();
            let edits = Edits::default();
            let (_sender, mut receiver) =
                client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None }).await.unwrap();
            for _ in 0..8 {
                assert!(matches!(receiver.answer().await.unwrap(), Answer::Informational(head) if head.status == 103));
            }
            assert!(matches!(receiver.answer().await, Err(WireError::Invalid(_))));
        })
        .await;
}

#[tokio::test]
async fn after_goaway_nothing_new_begins_and_the_old_ends_well() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(64 * 1024);
            let answer = Rc::new(tokio::sync::Notify::new());
            let go = answer.clone();
            spawn_local(async move {
                let mut server = Http2Server::start(Stream::Memory(far), Bytes::new()).await.unwrap();
                let (_, _, responder) = server.next().await.unwrap().unwrap();
                server.graceful_shutdown();
                spawn_local(async move {
                    go.notified().await;
                    no_content(plain(), Body::Empty, Responder::Http2(responder)).await;
                });
                assert!(server.next().await.unwrap().is_none());
            });
            let (mut client, driver) = Http2Client::start(Stream::Memory(near));
            let driver = spawn_local(driver);
            let head = plain();
            let edits = Edits::default();
            let outgoing = Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None };
            let (_sender, mut receiver) = client.send(&outgoing).await.unwrap();
            while !client.is_ended() {
                tokio::task::yield_now().await;
            }
            assert_eq!(client.send(&outgoing).await.map(|_| ()).unwrap_err(), WireError::NotProcessed);
            answer.notify_one();
            assert!(matches!(receiver.answer().await.unwrap(), Answer::Final(head, _) if head.status == 204));
            drop((client, receiver, _sender));
            driver.await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_server_without_extended_connect_takes_no_upgrade() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(64 * 1024);
            spawn_local(async move {
                let mut server = h2::server::handshake(far).await.unwrap();
                while server.accept().await.is_some() {}
            });
            let (mut client, driver) = Http2Client::start(Stream::Memory(near));
            spawn_local(driver);
            let head = plain();
            let edits = Edits::default();
            let sent = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: Some(b"websocket") }).await;
            assert!(matches!(sent, Err(WireError::Unsupported(_))));
        })
        .await;
}

#[tokio::test]
async fn a_reset_reaches_the_other_side() {
    LocalSet::new()
        .run_until(async {
            let gone = Rc::new(Cell::new(false));
            let seen = gone.clone();
            let mut client = ours(async move |head: RequestHead, _: Body, mut responder: Responder| match head.method() {
                "GET" => responder.reset(),
                _ => {
                    responder.gone().await;
                    seen.set(true);
                }
            })
            .await;
            let get = HeadBuilder::with_capacity(64).request(Version::Http11, "GET", "/", "x", None).unwrap();
            assert_eq!(answer_to(&mut client, &get, Some(0)).await.map(|_| ()).unwrap_err(), WireError::Reset(2));
            let head = plain();
            let edits = Edits::default();
            let outgoing = Outgoing { head: &head, edits: &edits, length: None, upgrade: None };
            let exchange = client.send(&outgoing).await.unwrap();
            drop(exchange);
            while !gone.get() {
                tokio::task::yield_now().await;
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_is_waited_for() {
    LocalSet::new()
        .run_until(async {
            let mut client = ours(async |_: RequestHead, body: Body, responder: Responder| {
                std::future::pending::<()>().await;
                drop((body, responder));
            })
            .await;
            let head = plain();
            let edits = Edits::default();
            let (mut sender, _receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: None, upgrade: None }).await.unwrap();
            let mut taken = 0;
            let sending = async {
                loop {
                    sender.data(Bytes::from(vec![b'x'; 8 * 1024])).await.unwrap();
                    taken += 8 * 1024;
                }
            };
            // Time goes on only once nothing moves any more.
            assert!(timeout(Duration::from_secs(1), sending).await.is_err());
            // The stream's window of 1 MiB, and what waits to be sent.
            assert!((1024 * 1024..=1024 * 1024 + 128 * 1024).contains(&taken), "{taken}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_preface_is_not_waited_for() {
    let (near, far) = duplex(1024);
    let started = Http2Server::start(Stream::Memory(far), Bytes::from_static(b"PRI * HT")).await;
    assert_eq!(started.map(|_| ()).unwrap_err(), WireError::HeadTimeout);
    drop(near);
}
