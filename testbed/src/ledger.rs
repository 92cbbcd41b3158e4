//! A ledger that counts payments, and ends connections at every moment at which a server can. In flow POSTs with the payment's id as their body;
//! out flows a file with a line for each that was counted, which outlives the program however it is killed.
//!
//! A payment is counted before it is answered, as in a real ledger, so whoever repeats it blindly has it counted twice. One that carries an
//! `Idempotency-Key` is counted once, whoever repeats it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// The longest request that it takes, in bytes.
const LONGEST: usize = 256 * 1024;

/// What was counted, as its file says.
#[derive(Debug, Clone)]
pub struct Ledger {
    file: PathBuf,
}

impl Ledger {
    /// The ledger in this file.
    #[must_use]
    pub fn at(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    /// How often each payment was counted.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn counted(&self) -> io::Result<BTreeMap<String, u32>> {
        let mut counted = BTreeMap::new();
        for line in std::fs::read_to_string(&self.file)?.lines() {
            *counted.entry(line.to_owned()).or_default() += 1;
        }
        Ok(counted)
    }
}

/// At which moments it ends connections. Each is drawn anew.
#[derive(Debug, Clone, Copy)]
pub struct Moods {
    /// The share of moments at which it does, 0 to 1.
    pub share: f64,
    /// How long it leaves an idle connection open, at most.
    pub idle: Duration,
    /// How long it may take before it counts a payment, and as long again before it answers.
    pub work: Duration,
}

impl Moods {
    /// It never does before its client, but for one that was idle very long.
    pub const CALM: Self = Self { share: 0.0, idle: Duration::from_secs(3600), work: Duration::ZERO };
}

/// A moment at which the connection ends.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

struct Book {
    file: File,
    keys: HashSet<String>,
}

/// Counts payments for ever.
///
/// # Errors
/// The file cannot be opened, or the listener broke.
pub async fn serve(listener: TcpListener, file: &Path, moods: Moods) -> io::Result<std::convert::Infallible> {
    let keys = Ledger::at(file).counted().unwrap_or_default().into_keys().collect();
    let file = OpenOptions::new().append(true).create(true).open(file)?;
    let book = Arc::new(Mutex::new(Book { file, keys }));
    loop {
        let (stream, _) = listener.accept().await?;
        let book = book.clone();
        tokio::spawn(async move {
            let mut connection = Served { stream, read: Vec::new(), moods, book };
            while connection.one().await.is_ok() {}
            if fastrand::f64() < 0.5 {
                drop(connection.stream.set_zero_linger());
            }
        });
    }
}

struct Served {
    stream: TcpStream,
    read: Vec<u8>,
    moods: Moods,
    book: Arc<Mutex<Book>>,
}

impl Served {
    /// A moment at which the connection may end.
    fn moment(&self) -> Result<(), Ended> {
        if fastrand::f64() < self.moods.share { Err(Ended) } else { Ok(()) }
    }

    /// One payment.
    async fn one(&mut self) -> Result<(), Ended> {
        self.moment()?;
        let idle = if self.moods.share > 0.0 { self.moods.idle.mul_f64(fastrand::f64()) } else { self.moods.idle };
        timeout(idle, self.more()).await.map_err(|_| Ended)??;
        self.moment()?;
        let (head, length) = loop {
            if let Some(head) = head(&self.read) {
                break head;
            }
            self.more().await?;
        };
        self.moment()?;
        while self.read.len() < head.len() + length {
            self.more().await?;
        }
        let payment = String::from_utf8_lossy(&self.read[head.len()..head.len() + length]).trim_matches('.').to_owned();
        self.read.drain(..head.len() + length);
        self.moment()?;
        let key = field(&head, "idempotency-key");
        self.work().await;
        self.count(&payment, key.is_some())?;
        self.work().await;
        self.moment()?;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{payment}", payment.len());
        let (first, rest) = answer.split_at(answer.len() / 2);
        if self.moment().is_err() {
            self.stream.write_all(first.as_bytes()).await?;
            return Err(Ended);
        }
        self.stream.write_all(first.as_bytes()).await?;
        self.stream.write_all(rest.as_bytes()).await?;
        Ok(())
    }

    async fn work(&self) {
        if !self.moods.work.is_zero() {
            sleep(self.moods.work.mul_f64(fastrand::f64())).await;
        }
    }

    async fn more(&mut self) -> Result<(), Ended> {
        if self.read.len() > LONGEST || self.stream.read_buf(&mut self.read).await? == 0 { Err(Ended) } else { Ok(()) }
    }

    fn count(&self, payment: &str, keyed: bool) -> io::Result<()> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        // The key of a payment is its id.
        if keyed && !book.keys.insert(payment.to_owned()) {
            return Ok(());
        }
        // One write: it is in the file as a whole or not at all.
        book.file.write_all(format!("{payment}\n").as_bytes())
    }
}

/// The head of a request, if all of it is there, and the length of the body behind it.
fn head(read: &[u8]) -> Option<(String, usize)> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let length = field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    Some((head, length))
}

fn field(head: &str, name: &str) -> Option<String> {
    let field =
        |line: &str| line.split_once(':').filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned());
    head.lines().find_map(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn paid(address: std::net::SocketAddr, payment: &str, field: &str) -> String {
        let request = format!("POST / HTTP/1.1\r\nhost: x\r\n{field}content-length: {}\r\n\r\n{payment}", payment.len());
        String::from_utf8(crate::send_raw(address, request.as_bytes()).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn each_payment_is_counted_and_a_key_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ledger");
        for _ in 0..2 {
            // What was counted before a restart is known after it.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let path = file.clone();
            let serving = tokio::spawn(async move { serve(listener, &path, Moods::CALM).await });
            assert!(paid(address, "a", "").await.ends_with("\r\n\r\na"));
            assert!(paid(address, "b", "Idempotency-Key: b\r\n").await.ends_with("\r\n\r\nb"));
            serving.abort();
        }
        let counted = Ledger::at(&file).counted().unwrap();
        assert_eq!(counted.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }
}
