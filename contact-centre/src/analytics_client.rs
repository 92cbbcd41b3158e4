//! Sends events to analytics over one connection, which is kept open and made anew when it is broken.
//!
//! An event goes out at most once: when the connection breaks under it, nobody knows whether it was counted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::address::HostPort;

/// The longest answer to an event, in bytes.
const LONGEST_ANSWER: u64 = 1024;

/// A client of the analytics service at one address.
#[derive(Debug)]
pub struct AnalyticsClient {
    address: HostPort,
    connection: Mutex<Option<BufReader<TcpStream>>>,
    connections: AtomicU64,
}

/// Why an event was not counted, as far as the client knows.
#[derive(Debug, thiserror::Error)]
pub enum AnalyticsError {
    /// No connection, or it broke.
    #[error("{address}: {source}")]
    Io {
        /// The service called.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The service refused the event.
    #[error("{address} answered `{answer}`")]
    Refused {
        /// The service called.
        address: String,
        /// Its answer.
        answer: String,
    },
    /// No answer in the time given.
    #[error("{address}: no answer within {limit:?}")]
    Timeout {
        /// The service called.
        address: String,
        /// The time given.
        limit: Duration,
    },
}

impl AnalyticsClient {
    /// A client without a connection; the first event opens it.
    pub fn new(address: HostPort) -> Self {
        Self { address, connection: Mutex::new(None), connections: AtomicU64::new(0) }
    }

    /// Has one call counted, within `limit`. Gives the calls of the queue so far.
    ///
    /// # Errors
    /// The event was not counted, or the answer was lost.
    pub async fn event(&self, queue: &str, call_id: &str, seconds: u32, limit: Duration) -> Result<u64, AnalyticsError> {
        let line = format!("EVENT queue={queue} call={call_id} seconds={seconds}\n");
        let address = || self.address.to_string();
        let answer = match tokio::time::timeout(limit, self.exchange(&line)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => {
                return Err(AnalyticsError::Io { address: address(), source });
            }
            Err(_) => {
                return Err(AnalyticsError::Timeout { address: address(), limit });
            }
        };
        let count = answer.strip_prefix("OK ").and_then(|count| count.parse().ok());
        count.ok_or_else(|| AnalyticsError::Refused { address: address(), answer })
    }

    /// How many connections it has made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    async fn exchange(&self, line: &str) -> io::Result<String> {
        let mut kept = self.connection.lock().await;
        // Out of its place while in use: whatever interrupts the exchange, a connection with an answer still due is
        // dropped and not reused.
        let mut connection = match kept.take().filter(is_quiet) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        (&mut connection).take(LONGEST_ANSWER).read_line(&mut answer).await?;
        if !answer.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the answer"));
        }
        *kept = Some(connection);
        answer.truncate(answer.trim_end().len());
        Ok(answer)
    }

    async fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
        stream.set_nodelay(true)?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(BufReader::new(stream))
    }
}

/// Open, and nothing came that nobody asked for.
fn is_quiet(connection: &BufReader<TcpStream>) -> bool {
    let read = connection.get_ref().try_read(&mut [0]);
    connection.buffer().is_empty() && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
