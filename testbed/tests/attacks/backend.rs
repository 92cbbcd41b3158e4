//! The app behind the proxy: it writes down what reached it, request by request, and reads as strictly as anybody could. What it cannot read
//! in one way only is written down as such; what never came whole is not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as the app saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its first line.
    pub(super) line: String,
    /// Its fields, names in lower case, in order.
    pub(super) fields: Vec<(String, String)>,
    /// Its body without its framing.
    pub(super) body: Vec<u8>,
    /// The names of its trailers, in lower case.
    pub(super) trailers: Vec<String>,
}

impl Seen {
    /// The values of all fields of that name.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The path and query.
    pub(super) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// An app that answers every request with its first line. It ends when dropped.
pub(super) struct Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Result<Seen, String>>>>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Result<Seen, String>>>> = Arc::default();
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Ok(Self { address, seen, task })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came since this was last asked; bytes that are no request are an error.
    pub(super) fn take(&self) -> Vec<Result<Seen, String>> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Result<Seen, String>>>>) {
    let mut inbox = Vec::new();
    loop {
        let request = match request(&mut inbox, &mut stream).await {
            Ok(Some(request)) => Ok(request),
            Ok(None) | Err(Trouble::Ended) => return,
            Err(Trouble::Odd(why)) => Err(format!("{why}: {:?}", String::from_utf8_lossy(&inbox))),
        };
        let answer = request.as_ref().ok().map(|request| {
            let line = &request.line;
            let body = if line.starts_with("HEAD ") { "" } else { line };
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", line.len())
        });
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let Some(answer) = answer else { return };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Why there is no request.
enum Trouble {
    /// The connection ended before all of it had come: it never was one.
    Ended,
    /// It can be read in more than one way, or in none.
    Odd(&'static str),
}
use Trouble::{Ended, Odd};

/// Takes a line out of what came, without its end.
async fn line(inbox: &mut Vec<u8>, stream: &mut TcpStream) -> Result<Option<String>, Trouble> {
    loop {
        if let Some(at) = inbox.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = inbox.drain(..at + 2).take(at).collect();
            if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                return Err(Odd("a line holds a byte that ends lines for some"));
            }
            return Ok(Some(line.into_iter().map(char::from).collect()));
        }
        match stream.read_buf(inbox).await {
            Ok(1..) => {}
            _ if inbox.is_empty() => return Ok(None),
            _ => return Err(Ended),
        }
    }
}

async fn exactly(inbox: &mut Vec<u8>, stream: &mut TcpStream, length: usize) -> Result<Vec<u8>, Trouble> {
    while inbox.len() < length {
        if !matches!(stream.read_buf(inbox).await, Ok(1..)) {
            return Err(Ended);
        }
    }
    Ok(inbox.drain(..length).collect())
}

async fn fields(inbox: &mut Vec<u8>, stream: &mut TcpStream) -> Result<Vec<(String, String)>, Trouble> {
    let mut fields = Vec::new();
    loop {
        let line = line(inbox, stream).await?.ok_or(Ended)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or(Odd("a line is no field"))?;
        if name.is_empty() || name.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(Odd("a field has no name"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

async fn request(inbox: &mut Vec<u8>, stream: &mut TcpStream) -> Result<Option<Seen>, Trouble> {
    let Some(line_) = line(inbox, stream).await? else { return Ok(None) };
    let words: Vec<&str> = line_.split(' ').collect();
    if words.len() != 3 || words.iter().any(|word| word.is_empty()) || words[2] != "HTTP/1.1" {
        return Err(Odd("the first line is none"));
    }
    let fields_ = fields(inbox, stream).await?;
    let mut seen = Seen { line: line_, fields: fields_, body: Vec::new(), trailers: Vec::new() };
    let (lengths, codings) = (seen.all("content-length"), seen.all("transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => {}
        ([length], []) => {
            let length = length.parse().map_err(|_| Odd("the length is none"))?;
            seen.body = exactly(inbox, stream, length).await?;
        }
        ([], ["chunked"]) => loop {
            let size = line(inbox, stream).await?.ok_or(Ended)?;
            let digits = !size.is_empty() && size.len() <= 8 && size.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = usize::from_str_radix(&size, 16).ok().filter(|_| digits).ok_or(Odd("the size of a chunk is none"))?;
            if size == 0 {
                seen.trailers = fields(inbox, stream).await?.into_iter().map(|(name, _)| name).collect();
                break;
            }
            seen.body.extend(exactly(inbox, stream, size).await?);
            if exactly(inbox, stream, 2).await? != b"\r\n" {
                return Err(Odd("a chunk does not end"));
            }
        },
        _ => return Err(Odd("the body is framed in two ways")),
    }
    Ok(Some(seen))
}
