//! Other programs as peers, where this machine has them: curl and h2load ask our server, our client asks nghttpd.

use std::process::Stdio;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::*;

/// A server on a port of loopback, for as long as the test runs.
async fn listening() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(async move {
                let mut server = Http2Server::start(Stream::Plain(stream), Bytes::new()).await?;
                while let Some((head, mut body, mut responder)) = server.next().await? {
                    spawn_local(async move {
                        let mut all = 0;
                        while let Some(frame) = body.frame().await {
                            if let Frame::Data(data) = frame? {
                                all += data.len();
                            }
                        }
                        let text = format!("{} {} {all}\n", head.method(), head.path_and_query());
                        responder.head(200, std::iter::empty(), Some(text.len() as u64), false)?;
                        responder.data(text.into()).await?;
                        responder.end(None)
                    });
                }
                Ok::<(), WireError>(())
            });
        }
    });
    port
}

/// What a program says, if this machine has it.
async fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn curl_gets_its_answers() {
    LocalSet::new()
        .run_until(async {
            let port = listening().await;
            let url = format!("http://127.0.0.1:{port}/a?b=c");
            let upload = "x".repeat(100_000);
            let common = ["-sS", "--http2-prior-knowledge", "-H", "expect:"];
            if let Some(text) = said("curl", &[&common[..], &[&url]].concat()).await {
                assert_eq!(text, "GET /a?b=c 0\n");
                let text = said("curl", &[&common[..], &["-d", &upload, &url]].concat()).await.unwrap();
                assert_eq!(text, "POST /a?b=c 100000\n");
            }
        })
        .await;
}

#[tokio::test]
async fn h2load_has_all_of_its_requests_answered() {
    LocalSet::new()
        .run_until(async {
            let port = listening().await;
            let url = format!("http://127.0.0.1:{port}/");
            if let Some(text) = said("h2load", &["-n", "2000", "-c", "4", "-m", "50", &url]).await {
                assert!(text.contains("2000 succeeded, 0 failed, 0 errored"), "{text}");
            }
        })
        .await;
}

#[tokio::test]
async fn nghttpd_answers_our_client() {
    LocalSet::new()
        .run_until(async {
            let files = tempfile::tempdir().unwrap();
            std::fs::write(files.path().join("large"), vec![b'x'; 3_000_000]).unwrap();
            let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
            let root = files.path().to_str().unwrap();
            let mut command = Command::new("nghttpd");
            command.args(["--no-tls", "-d", root, &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(_server) = command.kill_on_drop(true).spawn() else { return };
            let stream = loop {
                match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            };
            let (client, driver) = Http2Client::start(Stream::Plain(stream));
            spawn_local(driver);
            let exchanges: Vec<_> = ["/large", "/none", "/large"]
                .into_iter()
                .map(|path| {
                    let mut client = client.clone();
                    spawn_local(async move {
                        let head = HeadBuilder::with_capacity(64).request(Version::Http11, "GET", path, "x", None).unwrap();
                        let (_sender, mut receiver) = begin(&mut client, &head, Some(0)).await.unwrap();
                        let Answer::Final(head, mut body) = receiver.answer().await.unwrap() else { panic!() };
                        let mut all = 0;
                        while let Some(frame) = body.frame().await {
                            if let Frame::Data(data) = frame.unwrap() {
                                all += data.len();
                            }
                        }
                        (head.status, all)
                    })
                })
                .collect();
            let mut outcomes = Vec::new();
            for exchange in exchanges {
                outcomes.push(exchange.await.unwrap());
            }
            assert_eq!((outcomes[0], outcomes[1].0, outcomes[2]), ((200, 3_000_000), 404, (200, 3_000_000)));
        })
        .await;
}
