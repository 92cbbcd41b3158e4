//! Which requests were certainly not processed: real sockets, closed in every way and at every moment that matters.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// A reset proves nothing.
const RESET: WireError = WireError::Io(std::io::ErrorKind::ConnectionReset);
/// Longer than the kernel delays an acknowledgement.
const ACKNOWLEDGED: Duration = Duration::from_millis(200);

/// A client and its server, with one exchange behind them: acknowledgements are then delayed, as on any kept connection.
struct Kept {
    client: Http1Client,
    server: TcpStream,
    head: RequestHead,
    edits: Edits,
}

async fn kept() -> Kept {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    near.set_nodelay(true).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let head = HeadBuilder::with_capacity(64).request(Version::Http11, "POST", "/", "x", None).unwrap();
    let mut kept = Kept { client: Http1Client::new(Stream::Plain(near)), server, head, edits: Edits::default() };
    for _ in 0..3 {
        let (_sender, mut receiver) = kept.post().await;
        kept.read().await;
        kept.server.write_all(ANSWER).await.unwrap();
        assert!(matches!(receiver.answer().await.unwrap(), Answer::Final(..)));
    }
    assert!(kept.client.is_reusable());
    kept
}

impl Kept {
    fn begin(&mut self, length: u64) -> (Sender, Receiver) {
        let (sender, receiver) = self.client.send(&Outgoing { head: &self.head, edits: &self.edits, length: Some(length), upgrade: None });
        (Sender::Http1(sender), Receiver::Http1(receiver))
    }

    /// Writes a whole request, without a look at the connection before.
    async fn post(&mut self) -> (Sender, Receiver) {
        let (mut sender, receiver) = self.begin(4);
        sender.data(Bytes::from_static(b"paid")).await.unwrap();
        // Where it cannot be written, the answer says why.
        drop(sender.end(None).await);
        (sender, receiver)
    }

    /// The server's program reads a whole request.
    async fn read(&mut self) {
        let mut read = Vec::new();
        while !read.ends_with(b"paid") {
            assert_ne!(self.server.read_buf(&mut read).await.unwrap(), 0);
        }
    }

    /// Hands the server's socket to a program of its own.
    async fn given_to(self, program: &[&str]) -> (Http1Client, Receiver, Child) {
        let Self { client, server, .. } = self;
        let server = server.into_std().unwrap();
        server.set_nonblocking(false).unwrap();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).stdin(Stdio::from(std::os::fd::OwnedFd::from(server))).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        drop(command);
        let mut kept = Sent { client, head: self.head, edits: self.edits };
        let receiver = kept.post().await;
        (kept.client, receiver, child)
    }
}

/// A client whose server is elsewhere.
struct Sent {
    client: Http1Client,
    head: RequestHead,
    edits: Edits,
}

impl Sent {
    async fn post(&mut self) -> Receiver {
        let (mut sender, receiver) = self.client.send(&Outgoing { head: &self.head, edits: &self.edits, length: Some(4), upgrade: None });
        sender.data(Bytes::from_static(b"paid")).await.unwrap();
        sender.end(None).await.unwrap();
        Receiver::Http1(receiver)
    }
}

async fn error(receiver: &mut Receiver) -> WireError {
    receiver.answer().await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn closed_before_anything_was_written() {
    let mut kept = kept().await;
    let (mut sender, mut receiver) = kept.begin(4);
    drop(kept.server);
    assert_eq!(error(&mut receiver).await, WireError::NotProcessed);
    drop(sender.end(None).await);
}

#[tokio::test]
async fn reset_before_anything_was_written() {
    // The first write meets the reset: nothing has left, whatever the error.
    let mut kept = kept().await;
    kept.server.set_zero_linger().unwrap();
    let (mut sender, mut receiver) = kept.begin(4);
    drop(kept.server);
    sender.data(Bytes::from_static(b"paid")).await.unwrap();
    sender.end(None).await.unwrap_err();
    assert_eq!(error(&mut receiver).await, WireError::NotProcessed);
}

#[tokio::test]
async fn closed_while_the_request_was_on_its_way() {
    let Kept { client, server, head, edits } = kept().await;
    drop(server);
    let mut sent = Sent { client, head, edits };
    let mut receiver = sent.post().await;
    assert_eq!(error(&mut receiver).await, WireError::NotProcessed);
}

#[tokio::test]
async fn closed_with_the_request_unread() {
    let mut kept = kept().await;
    let (_sender, mut receiver) = kept.post().await;
    kept.server.readable().await.unwrap();
    drop(kept.server);
    assert_eq!(error(&mut receiver).await, RESET);
}

#[tokio::test]
async fn closed_with_the_request_read_and_perhaps_processed() {
    // At once, while the acknowledgement is still delayed, and long after it.
    for wait in [Duration::ZERO, ACKNOWLEDGED] {
        let mut kept = kept().await;
        let (_sender, mut receiver) = kept.post().await;
        kept.read().await;
        tokio::time::sleep(wait).await;
        drop(kept.server);
        assert_eq!(error(&mut receiver).await, WireError::Closed, "{wait:?}");
    }
}

#[tokio::test]
async fn reset_with_the_request_read_and_perhaps_processed() {
    let mut kept = kept().await;
    let (_sender, mut receiver) = kept.post().await;
    kept.read().await;
    kept.server.set_zero_linger().unwrap();
    drop(kept.server);
    assert_eq!(error(&mut receiver).await, RESET);
}

#[tokio::test]
async fn a_reset_that_writing_met_is_not_taken_for_an_end() {
    // The kernel tells it once: reading then finds an end, with all that was written unacknowledged.
    let mut kept = kept().await;
    let (mut sender, mut receiver) = kept.begin(4);
    sender.data(Bytes::from_static(b"pa")).await.unwrap();
    sender.flush().await.unwrap();
    kept.server.readable().await.unwrap();
    drop(kept.server);
    sender.data(Bytes::from_static(b"id")).await.unwrap();
    sender.end(None).await.unwrap_err();
    assert_eq!(error(&mut receiver).await, RESET);
}

#[tokio::test]
async fn what_came_before_the_end_counts_though_the_rest_did_not() {
    // The head was read and perhaps processed; only what was written after the end is unacknowledged.
    let mut kept = kept().await;
    let (mut sender, mut receiver) = kept.begin(4);
    sender.flush().await.unwrap();
    assert_ne!(kept.server.read_buf(&mut Vec::with_capacity(4096)).await.unwrap(), 0);
    drop(kept.server);
    sender.data(Bytes::from_static(b"paid")).await.unwrap();
    drop(sender.end(None).await);
    assert_eq!(error(&mut receiver).await, WireError::Closed);
}

#[tokio::test]
async fn half_closed_before_and_after_the_request_came() {
    let mut before = kept().await;
    before.server.shutdown().await.unwrap();
    let (_sender, mut receiver) = before.post().await;
    assert_eq!(error(&mut receiver).await, WireError::NotProcessed);

    let mut after = kept().await;
    let (_sender, mut receiver) = after.post().await;
    after.server.readable().await.unwrap();
    after.server.shutdown().await.unwrap();
    assert_eq!(error(&mut receiver).await, WireError::Closed);

    // A server that reads on, to throw away, has it acknowledged: then there is no proof, which is the safe side.
    let mut lingering = kept().await;
    lingering.server.shutdown().await.unwrap();
    let (_sender, mut receiver) = lingering.post().await;
    lingering.read().await;
    tokio::time::sleep(ACKNOWLEDGED).await;
    assert_eq!(error(&mut receiver).await, WireError::Closed);
}

#[tokio::test]
async fn an_interim_answer_says_that_it_was_taken() {
    let mut kept = kept().await;
    let (mut sender, mut receiver) = kept.begin(4);
    kept.server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    assert!(matches!(receiver.answer().await.unwrap(), Answer::Informational(_)));
    drop(kept.server);
    assert_eq!(error(&mut receiver).await, WireError::Closed);
    drop(sender.end(None).await);
}

#[tokio::test]
async fn killed_with_the_request_unread() {
    let (_client, mut receiver, mut child) = kept().await.given_to(&["sleep", "1000"]).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(error(&mut receiver).await, RESET, "it may have been read");
}

#[tokio::test]
async fn killed_with_the_request_read() {
    let (_client, mut receiver, mut child) = kept().await.given_to(&["cat"]).await;
    let mut shown = vec![0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut shown).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(error(&mut receiver).await, WireError::Closed);
}

#[tokio::test]
async fn killed_before_the_request_came() {
    let Kept { client, server, head, edits } = kept().await;
    let server = server.into_std().unwrap();
    let mut command = Command::new("sleep");
    let mut child = command.arg("1000").stdin(Stdio::from(std::os::fd::OwnedFd::from(server))).spawn().unwrap();
    drop(command);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut sent = Sent { client, head, edits };
    let mut receiver = sent.post().await;
    assert_eq!(error(&mut receiver).await, WireError::NotProcessed);
}
