//! The HTTP client against servers that close, wait, or talk too much.

use std::time::Duration;

use contact_centre::http_client::{Content, HttpClient, HttpError, Outgoing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::LIMIT;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const OK_AND_CLOSE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
/// The request is read and the connection closed.
const NOTHING: &str = "";

/// Answers per connection what it is given, then closes. Gives the first lines of all requests, in order.
async fn server(connections: Vec<Vec<&'static str>>) -> (HttpClient, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = HttpClient::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        for answers in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                heard.push(String::from_utf8(head).unwrap().lines().next().unwrap().to_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        heard
    });
    (client, heard)
}

fn post() -> Outgoing {
    Outgoing::post("/b", Content::Empty)
}

#[tokio::test]
async fn connections_are_used_again() {
    let (client, heard) = server(vec![vec![OK, OK, OK]]).await;
    for request in [Outgoing::get("/a"), post(), Outgoing::get("/c")] {
        assert_eq!(client.send(&request, LIMIT).await.unwrap().body, "ok");
    }
    assert_eq!(heard.await.unwrap(), ["GET /a HTTP/1.1", "POST /b HTTP/1.1", "GET /c HTTP/1.1"]);
}

#[tokio::test]
async fn a_get_on_a_stale_connection_is_sent_once_more() {
    let (client, heard) = server(vec![vec![OK, NOTHING], vec![OK]]).await;
    client.send(&Outgoing::get("/a"), LIMIT).await.unwrap();
    assert_eq!(client.send(&Outgoing::get("/b"), LIMIT).await.unwrap().status, 200);
    assert_eq!(heard.await.unwrap(), ["GET /a HTTP/1.1", "GET /b HTTP/1.1", "GET /b HTTP/1.1"]);
}

#[tokio::test]
async fn a_get_on_a_fresh_connection_is_sent_only_once() {
    let (client, heard) = server(vec![vec![NOTHING]]).await;
    assert!(matches!(client.send(&Outgoing::get("/a"), LIMIT).await, Err(HttpError::Exchange { .. })));
    assert_eq!(heard.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_post_that_was_sent_is_not_sent_again() {
    let (client, heard) = server(vec![vec![OK, NOTHING], vec![OK]]).await;
    client.send(&Outgoing::get("/a"), LIMIT).await.unwrap();
    assert!(matches!(client.send(&post(), LIMIT).await, Err(HttpError::Exchange { .. })));
    client.send(&Outgoing::get("/c"), LIMIT).await.unwrap();
    assert_eq!(heard.await.unwrap(), ["GET /a HTTP/1.1", "POST /b HTTP/1.1", "GET /c HTTP/1.1"]);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_not_used_again() {
    let (client, heard) = server(vec![vec![OK_AND_CLOSE], vec![OK_AND_CLOSE]]).await;
    client.send(&post(), LIMIT).await.unwrap();
    client.send(&post(), LIMIT).await.unwrap();
    assert_eq!(heard.await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_silent_server_and_an_endless_answer_are_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = HttpClient::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    let error = client.send(&Outgoing::get("/a"), Duration::from_millis(20)).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 20ms"), "{error}");

    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n";
    let body: &'static str = Box::leak("x".repeat(2 << 20).into_boxed_str());
    let (client, _heard) = server(vec![vec![Box::leak(format!("{head}{body}").into_boxed_str())]]).await;
    let error = client.send(&Outgoing::get("/a"), LIMIT).await.unwrap_err();
    assert!(matches!(error, HttpError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("length limit exceeded"), "{error}");
}
