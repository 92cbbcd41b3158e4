//! What an exchange costs, measured: `cargo test --release -p lorica-proxy measure -- --ignored --nocapture`, with
//! `MEASURE=N` exchanges; under `valgrind --tool=callgrind` it says where. Nothing here can fail.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use tokio::task::spawn_local;

use super::*;

const FIELDS: [(&str, &str); 8] = [
    ("user-agent", "curl/8.5.0"),
    ("accept", "*/*"),
    ("x-request-id", "0191a6c4-7b1e-7c5d-9a3f-8f0d2c1b4e6a"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-client-cert", "By=spiffe://mesh.test/ns/contact/sa/recording;URI=spiffe://mesh.test/ns/contact/sa/caller"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("content-type", "application/json"),
    ("host", "recording.contact"),
];

fn count() -> usize {
    std::env::var("MEASURE").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000)
}

async fn exchange(client: &mut Http2Client) {
    let head = request(Version::Http11, &FIELDS);
    let edits = Edits::default();
    let (mut sender, mut receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None }).await.unwrap();
    sender.end(None).unwrap();
    let Answer::Final(_, mut body) = receiver.answer().await.unwrap() else { panic!() };
    assert_eq!(whole(&mut body).await.unwrap().0.len(), 128);
}

async fn ours(lanes: usize, count: usize) {
    let (near, far) = duplex(256 * 1024);
    let serving = spawn_local(async move {
        let mut server = Http2Server::start(Stream::Memory(far), Bytes::new()).await.unwrap();
        while let Ok(Some((_, _, responder))) = server.next().await {
            spawn_local(async move {
                let mut responder = Responder::Http2(responder);
                let fields =
                    [(&b"content-type"[..], &b"application/json"[..]), (b"server", b"recording"), (b"x-served-by", b"recording-7f3a2c")];
                responder.raw_head(200, fields.into_iter(), Some(128), false).unwrap();
                responder.data(Bytes::from_static(&[b'x'; 128])).await.unwrap();
                responder.end(None).await.unwrap();
            });
        }
    });
    let (client, driver) = Http2Client::start(Stream::Memory(near));
    spawn_local(driver);
    let lanes: Vec<_> = (0..lanes)
        .map(|_| {
            let mut client = client.clone();
            spawn_local(async move {
                for _ in 0..count / lanes {
                    exchange(&mut client).await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    serving.abort();
}

async fn theirs(lanes: usize, count: usize) {
    let (near, far) = duplex(256 * 1024);
    let serving = spawn_local(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        while let Some(Ok((_, mut respond))) = server.accept().await {
            spawn_local(async move {
                let response = http::Response::builder()
                    .header("content-type", "application/json")
                    .header("server", "recording")
                    .header("x-served-by", "recording-7f3a2c")
                    .header("content-length", 128);
                let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                stream.send_data(Bytes::from_static(&[b'x'; 128]), true).unwrap();
            });
        }
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    let lanes: Vec<_> = (0..lanes)
        .map(|_| {
            let client = client.clone();
            spawn_local(async move {
                for _ in 0..count / lanes {
                    let mut request = http::Request::post("http://recording.contact/a?b");
                    for (name, value) in &FIELDS[..7] {
                        request = request.header(*name, *value);
                    }
                    let mut client = client.clone().ready().await.unwrap();
                    let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
                    let mut body = response.await.unwrap().into_body();
                    while let Some(data) = body.data().await {
                        let data = data.unwrap();
                        body.flow_control().release_capacity(data.len()).unwrap();
                    }
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    serving.abort();
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_exchanges_of_our_codec() {
    for lanes in [1, 50] {
        let begin = Instant::now();
        LocalSet::new().run_until(ours(lanes, count())).await;
        println!("ours, {lanes} at once: {:.2} us an exchange, both sides", begin.elapsed().as_secs_f64() * 1e6 / count() as f64);
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_exchanges_of_the_crate() {
    for lanes in [1, 50] {
        let begin = Instant::now();
        LocalSet::new().run_until(theirs(lanes, count())).await;
        println!("h2, {lanes} at once: {:.2} us an exchange, both sides", begin.elapsed().as_secs_f64() * 1e6 / count() as f64);
    }
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_connections_at_rest() {
    const PAIRS: usize = 4000;
    LocalSet::new()
        .run_until(async {
            for used in [false, true] {
                let before = resident();
                let mut clients = Vec::with_capacity(PAIRS);
                for _ in 0..PAIRS {
                    let (near, far) = duplex(64);
                    spawn_local(async move {
                        let mut server = Http2Server::start(Stream::Memory(far), Bytes::new()).await.unwrap();
                        while let Ok(Some((_, _, responder))) = server.next().await {
                            let mut responder = Responder::Http2(responder);
                            responder.raw_head(200, none(), Some(128), false).unwrap();
                            responder.data(Bytes::from_static(&[b'x'; 128])).await.unwrap();
                            responder.end(None).await.unwrap();
                        }
                    });
                    let (client, driver) = Http2Client::start(Stream::Memory(near));
                    spawn_local(driver);
                    clients.push(client);
                }
                for client in &mut clients {
                    for _ in 0..if used { 10 } else { 1 } {
                        exchange(client).await;
                    }
                }
                let each = (resident() - before) / PAIRS / 2;
                println!("{each} bytes a side of a connection at rest, its task and half a memory pipe included, used often: {used}");
                std::mem::forget(clients);
            }
        })
        .await;
}
