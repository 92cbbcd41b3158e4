//! analytics: counts calls per queue, over a line protocol on plain TCP. The client speaks first.
//!
//! ```text
//! EVENT queue=NAME call=ID seconds=N   →   OK COUNT      (calls of this queue so far)
//! STATS                                →   {"NAME":{"calls":N,"seconds":N},…}
//! QUIT                                 →   (the connection is closed)
//! anything else                        →   ERR REASON    (the connection stays, except after an overlong line)
//! ```
//!
//! Connections, lines and queues are bounded. It calls nobody.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::flags::Flags;
use crate::program::{Failure, run_service};
use crate::serving::{Ending, until_drained};

/// The longest line, in bytes, its end included.
const LONGEST_LINE: usize = 1024;
/// Connections served at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 1024;
/// How long a connection may be silent. Without a limit, forgotten ones would use up all there are.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);
/// Pause after a failed accept: most likely no descriptor is free, and asking again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Queues counted; events of further ones are refused. 256 unless told.
    pub most_queues: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { most_queues: 256 }
    }
}

/// What is counted per queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Calls.
    pub calls: u64,
    /// Their length, summed.
    pub seconds: u64,
}

struct Counts {
    most_queues: usize,
    queues: Mutex<BTreeMap<String, Count>>,
}

/// One line from a client.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Event { queue: &'a str, seconds: u32 },
    Stats,
    Quit,
}

/// Serves until `shutdown` resolves and lines in flight are answered. Connections are closed then.
///
/// # Errors
/// None at present; the type is that of the other services.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let counts = Arc::new(Counts { most_queues: config.most_queues, queues: Mutex::default() });
    until_drained(shutdown, |ending| async move {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        let end = ending.clone().begun();
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                Some(_) = connections.join_next() => {}
                (stream, permit) = accept(&listener, &room) => {
                    let (counts, ending) = (counts.clone(), ending.clone());
                    connections.spawn(async move {
                        // A connection that breaks concerns its client alone.
                        let _ = converse(stream, &counts, ending).await;
                        drop(permit);
                    });
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        Ok(())
    })
    .await
}

pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let flags = Flags::parse("analytics", &["listen"], args)?;
    let listen: SocketAddr = flags.get_or("listen", "0.0.0.0:7000")?;
    run_service("analytics", listen, |listener, stop| serve(listener, Config::default(), stop))
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there is always a permit.
    let permit = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(stream: TcpStream, counts: &Counts, ending: Ending) -> io::Result<()> {
    // Lines are answered one by one: waiting to fill a packet only delays them.
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(LONGEST_LINE, stream);
    let end = ending.begun();
    tokio::pin!(end);
    let mut line = Vec::with_capacity(LONGEST_LINE);
    loop {
        line.clear();
        {
            let mut bounded = (&mut stream).take(LONGEST_LINE as u64);
            tokio::select! {
                read = bounded.read_until(b'\n', &mut line) => { read?; }
                () = &mut end => return Ok(()),
                () = tokio::time::sleep(LONGEST_SILENCE) => return Ok(()),
            }
        }
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        if !whole && line.len() == LONGEST_LINE {
            let refusal = format!("ERR line longer than {LONGEST_LINE} bytes\n");
            return stream.write_all(refusal.as_bytes()).await;
        }
        let answer = match parse(&line) {
            Ok(Line::Event { queue, seconds }) => counts.add(queue, seconds),
            Ok(Line::Stats) => counts.show(),
            Ok(Line::Quit) => return Ok(()),
            Err(reason) => format!("ERR {reason}\n"),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn parse(line: &[u8]) -> Result<Line<'_>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "line is not UTF-8".to_owned())?;
    let mut words = text.split_ascii_whitespace();
    let parsed = match words.next() {
        Some("EVENT") => {
            let queue = field("queue", words.next())?;
            check_queue(queue)?;
            let call = field("call", words.next())?;
            if call.is_empty() {
                return Err("call is empty".to_owned());
            }
            let seconds = field("seconds", words.next())?;
            let seconds = seconds.parse().map_err(|_| "seconds is not a number".to_owned())?;
            Line::Event { queue, seconds }
        }
        Some("STATS") => Line::Stats,
        Some("QUIT") => Line::Quit,
        Some(_) => return Err("expected EVENT, STATS or QUIT".to_owned()),
        None => return Err("empty line".to_owned()),
    };
    match words.next() {
        Some(_) => Err("line has too many words".to_owned()),
        None => Ok(parsed),
    }
}

fn field<'a>(name: &str, word: Option<&'a str>) -> Result<&'a str, String> {
    word.and_then(|word| word.strip_prefix(name)?.strip_prefix('='))
        .ok_or_else(|| format!("expected {name}=…, as in EVENT queue=NAME call=ID seconds=N"))
}

fn check_queue(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    Err("queue must be 1 to 64 letters, digits, `-`, `_` or `.`".to_owned())
}

impl Counts {
    fn add(&self, queue: &str, seconds: u32) -> String {
        let mut queues = self.lock();
        if !queues.contains_key(queue) && queues.len() >= self.most_queues {
            return format!("ERR more than {} queues\n", self.most_queues);
        }
        let count = queues.entry(queue.to_owned()).or_default();
        count.calls += 1;
        count.seconds += u64::from(seconds);
        format!("OK {}\n", count.calls)
    }

    fn show(&self) -> String {
        match serde_json::to_string(&*self.lock()) {
            Ok(json) => json + "\n",
            Err(error) => format!("ERR {error}\n"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Count>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |line: &str, expected: Result<Line<'_>, &str>| {
            assert_eq!(parse(line.as_bytes()), expected.map_err(str::to_owned), "{line:?}");
        };
        check("EVENT queue=sales call=c1 seconds=30\n", Ok(Line::Event { queue: "sales", seconds: 30 }));
        check("EVENT queue=sales call=c1 seconds=30\r\n", Ok(Line::Event { queue: "sales", seconds: 30 }));
        check("STATS\n", Ok(Line::Stats));
        check("QUIT", Ok(Line::Quit));
        check("\n", Err("empty line"));
        check("event\n", Err("expected EVENT, STATS or QUIT"));
        check("EVENT\n", Err("expected queue=…, as in EVENT queue=NAME call=ID seconds=N"));
        check("EVENT queue=sales seconds=30\n", Err("expected call=…, as in EVENT queue=NAME call=ID seconds=N"));
        check("EVENT queue=sales call=c1 seconds=-1\n", Err("seconds is not a number"));
        check("EVENT queue=a\"b call=c1 seconds=1\n", Err("queue must be 1 to 64 letters, digits, `-`, `_` or `.`"));
        check("EVENT queue=sales call=c1 seconds=1 more\n", Err("line has too many words"));
        assert_eq!(parse(b"\xff\n"), Err("line is not UTF-8".to_owned()));
    }
}
