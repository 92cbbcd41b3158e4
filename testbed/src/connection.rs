//! TCP as it is: connections on which a test says exactly what it wants. In flow bytes; out flow the bytes that came back. No read lasts
//! longer than [`PATIENCE`](crate::PATIENCE).

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

/// What a connection may bring before a test is taken for broken.
const MOST: usize = 64 << 20;

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Read already, and not yet asked for.
    ahead: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await.with_context(|| format!("{address} does not answer"))?;
        Ok(Self { stream: stream.with_context(|| format!("{address}"))?, ahead: Vec::new() })
    }

    /// Sends bytes; does not wait for an answer.
    ///
    /// # Errors
    /// The other side is gone, or takes nothing.
    pub async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.context("the other side reads nothing")?.context("writing")
    }

    /// Says that nothing more will be sent, and stays to read.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn close_write(&mut self) -> anyhow::Result<()> {
        self.stream.shutdown().await.context("closing the sending side")
    }

    /// Reads up to and with `end`; what came after it is kept for the next read.
    ///
    /// # Errors
    /// The other side closed before, or fell silent; the error shows what it had sent.
    pub async fn read_until(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                let rest = self.ahead.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.ahead, rest));
            }
            if self.more().await? == 0 {
                bail!(
                    "the connection was closed before {:?}, after {:?}",
                    String::from_utf8_lossy(end),
                    String::from_utf8_lossy(&self.ahead)
                );
            }
        }
    }

    /// Reads until the other side closes.
    ///
    /// # Errors
    /// It fell silent without closing, or reset the connection; the error shows what it had sent.
    pub async fn read_to_end(&mut self) -> anyhow::Result<Vec<u8>> {
        while self.more().await? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Reads until the connection is cut off: closed or reset.
    ///
    /// # Errors
    /// It fell silent instead; the error shows what it had sent.
    pub async fn cut_off(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            match timeout(PATIENCE, self.stream.read_buf(&mut self.ahead)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Ok(std::mem::take(&mut self.ahead)),
                Err(_) => bail!("nothing came for {PATIENCE:?} after {} bytes", self.ahead.len()),
            }
        }
    }

    async fn more(&mut self) -> anyhow::Result<usize> {
        ensure!(self.ahead.len() < MOST, "more than {MOST} bytes came");
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.ahead)).await;
        let shown = || format!("after {:?}", String::from_utf8_lossy(&self.ahead));
        match read {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(error).with_context(shown),
            Err(_) => bail!("nothing came for {PATIENCE:?} {}", shown()),
        }
    }
}

/// Sends bytes, says that they are all, and gives what came back until the other side closed.
///
/// # Errors
/// Nobody answers there, or the other side resets or never closes; the error shows what it had sent.
pub async fn send_raw(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut connection = Connection::open(address).await?;
    connection.write(bytes).await?;
    connection.close_write().await?;
    connection.read_to_end().await
}
