//! A DNS server for tests: it knows a few names, and no others. In flow names and addresses; out flow answers to queries for A records.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A DNS server inside the test. It ends when dropped.
#[derive(Debug)]
pub struct Resolver {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Resolver {
    /// Starts one on port 53 of an address of the loopback that nobody else has.
    ///
    /// # Errors
    /// Port 53 may not be bound, as by anybody but root.
    pub async fn start(names: &[(&str, Ipv4Addr)]) -> io::Result<Self> {
        let names: BTreeMap<Vec<u8>, Ipv4Addr> = names.iter().map(|(name, address)| (labels(name), *address)).collect();
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for host in 1..=250 {
            match UdpSocket::bind((Ipv4Addr::new(127, 53, 53, host), 53)).await {
                Ok(socket) => {
                    let address = socket.local_addr()?;
                    return Ok(Self { address, task: tokio::spawn(serve(socket, names)) });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// What a `resolv.conf` says that names it alone.
    #[must_use]
    pub fn configuration(&self) -> String {
        format!("nameserver {}\n", self.address.ip())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A name as DNS writes it, in lower case.
fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label.to_ascii_lowercase().as_bytes());
    }
    out.push(0);
    out
}

async fn serve(socket: UdpSocket, names: BTreeMap<Vec<u8>, Ipv4Addr>) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query).await {
        if let Some(answer) = answer(&query[..length], &names) {
            // Whoever asked may be gone.
            drop(socket.send_to(&answer, from).await);
        }
    }
}

/// The answer to a query of one question (RFC 1035, 4.1).
fn answer(query: &[u8], names: &BTreeMap<Vec<u8>, Ipv4Addr>) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    let id = query.get(..2)?;
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let (name, question) = (query[12..end].to_ascii_lowercase(), query.get(12..end + 4)?);
    let known = names.get(&name);
    let address = known.filter(|_| question[question.len() - 4..][..2] == A);
    let code = if known.is_some() { 0x80 } else { 0x83 };
    let mut out = [id, &[0x85, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(address) = address {
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend_from_slice(&address.octets());
    }
    Some(out)
}
