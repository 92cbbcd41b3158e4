//! analytics over its line protocol, and its client.

use contact_centre::address::HostPort;
use contact_centre::analytics_client::{AnalyticsClient, AnalyticsError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::harness::{LIMIT, Lines, start_analytics};

#[tokio::test]
async fn events_are_counted_per_queue() {
    let service = start_analytics().await;
    let mut lines = Lines::open(service.address).await;
    assert_eq!(lines.ask("EVENT queue=sales call=1 seconds=10\n").await, "OK 1\n");
    assert_eq!(lines.ask("EVENT queue=sales call=2 seconds=20\n").await, "OK 2\n");
    assert_eq!(lines.ask("EVENT queue=billing call=3 seconds=5\n").await, "OK 1\n");
    let stats = "{\"billing\":{\"calls\":1,\"seconds\":5},\"sales\":{\"calls\":2,\"seconds\":30}}\n";
    assert_eq!(Lines::open(service.address).await.ask("STATS\n").await, stats);
    assert_eq!(lines.ask("QUIT\n").await, "", "closed without a word");
}

#[tokio::test]
async fn a_malformed_line_is_refused_and_the_next_one_taken() {
    let service = start_analytics().await;
    let mut lines = Lines::open(service.address).await;
    assert_eq!(lines.ask("EVENT queue=sales call=1 seconds=long\n").await, "ERR seconds is not a number\n");
    assert_eq!(lines.ask("GET / HTTP/1.1\r\n").await, "ERR expected EVENT, STATS or QUIT\n");
    lines.send(b"\xff\xfe\n").await;
    assert_eq!(lines.line().await, "ERR line is not UTF-8\n");
    assert_eq!(lines.ask("EVENT queue=sales call=1 seconds=1\n").await, "OK 1\n");
}

#[tokio::test]
async fn an_overlong_line_ends_the_connection() {
    let service = start_analytics().await;
    let mut lines = Lines::open(service.address).await;
    lines.send(&[b'x'; 1024]).await;
    assert_eq!(lines.line().await, "ERR line longer than 1024 bytes\n");
    assert_eq!(lines.line().await, "");
}

#[tokio::test]
async fn lines_sent_at_once_are_answered_in_order() {
    let service = start_analytics().await;
    let mut lines = Lines::open(service.address).await;
    lines.send(b"EVENT queue=a call=1 seconds=1\nEVENT queue=a call=2 seconds=1\nbad\n").await;
    assert_eq!(lines.line().await, "OK 1\n");
    assert_eq!(lines.line().await, "OK 2\n");
    assert_eq!(lines.line().await, "ERR expected EVENT, STATS or QUIT\n");
}

#[tokio::test]
async fn the_end_of_the_service_closes_silent_connections() {
    let mut service = start_analytics().await;
    let mut lines = Lines::open(service.address).await;
    assert_eq!(lines.ask("EVENT queue=a call=1 seconds=1\n").await, "OK 1\n");
    service.ask_to_end();
    assert_eq!(lines.line().await, "");
    service.ended().await;
}

#[tokio::test]
async fn the_client_keeps_its_connection_and_makes_a_broken_one_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: HostPort = listener.local_addr().unwrap().to_string().parse().unwrap();
    let service = tokio::spawn(async move {
        let mut heard = Vec::new();
        // The first connection breaks under its third event, the second one answers.
        for answers in [vec!["OK 1\n", "OK 2\n"], vec!["OK 3\n", "ERR no more\n"]] {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            for answer in answers {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                heard.push(line);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            heard.push(line);
        }
        heard
    });
    let client = AnalyticsClient::new(address);
    let event = async |call: &str| client.event("sales", call, 60, LIMIT).await;
    assert_eq!(event("a").await.unwrap(), 1);
    assert_eq!(event("b").await.unwrap(), 2);
    assert!(matches!(event("c").await, Err(AnalyticsError::Io { .. })));
    assert_eq!(event("d").await.unwrap(), 3);
    assert!(matches!(event("e").await, Err(AnalyticsError::Refused { answer, .. }) if answer == "ERR no more"));
    drop(client);
    let heard = service.await.unwrap();
    let calls: Vec<&str> = heard.iter().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(calls, ["call=a", "call=b", "call=c", "call=d", "call=e"], "nothing was sent twice");
}
