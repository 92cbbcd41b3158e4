//! A process under test: started, watched and ended. In flows a command; out flow its lines as they come, its end, and its whole output. Each
//! has threads of its own: one starts it and waits for its end, so that the kernel ends a `lorica` whose test was killed; two read what it says.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::PATIENCE;

/// What is kept of each stream: its last bytes.
const KEPT: usize = 1 << 20;
/// The longest line that is kept whole.
const LONGEST_LINE: u64 = 64 << 10;

/// What a finished process said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What was run.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said aside.
    pub stderr: String,
}

impl Output {
    /// The exit code; 128 + n after signal n, as a shell says it.
    #[must_use]
    pub fn code(&self) -> i32 {
        code(self.status)
    }

    /// Itself, if it ended with 0.
    ///
    /// # Errors
    /// It did not; the error shows all that it said.
    pub fn success(self) -> anyhow::Result<Self> {
        if self.status.success() { Ok(self) } else { bail!("`{}` ended with {}\n{}{}", self.name, self.status, self.stdout, self.stderr) }
    }

    /// What it printed, as JSON.
    ///
    /// # Errors
    /// It failed, or printed none.
    pub fn json(self) -> anyhow::Result<serde_json::Value> {
        let output = self.success()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("`{}` printed no JSON: {}", output.name, output.stdout))
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// A running process. When dropped, it is killed; what it had started is looked after by the mesh that it belongs to.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left to kill, if it fails.
        drop(self.shared.signal(Signal::KILL));
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    name: String,
    pid: Pid,
    /// Its end; until then, nobody reaps it, so its pid is its own.
    end: Mutex<Option<ExitStatus>>,
    ended: watch::Sender<Option<ExitStatus>>,
    said: Mutex<Said>,
    /// How many lines have come, and whether more may.
    lines: watch::Sender<Lines>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lines {
    count: usize,
    readers: u8,
}

#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<(Stream, String)>,
    bytes: usize,
    /// Lines that had to make room.
    dropped: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Aside,
}

impl Running {
    /// Starts a command. Its input is what is given, or nothing.
    pub(crate) fn start(name: &str, mut command: Command, input: Option<Vec<u8>>) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let called = name.to_owned();
        std::thread::Builder::new().name(called.clone()).spawn(move || live(called, command, input, &sender)).context("no thread")?;
        let shared = receiver.recv().context("the thread of a process ended")?.with_context(|| format!("`{name}` cannot be started"))?;
        Ok(Self { shared })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// What it was started as.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.shared.pid.as_raw_nonzero().get()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        *lock(&self.shared.end)
    }

    /// What it has printed so far; of very much, the last part.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.shared.text(Some(Stream::Out))
    }

    /// What it has said aside so far; of very much, the last part.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.shared.text(Some(Stream::Aside))
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.shared.signal(signal)
    }

    /// The first line, of either stream, that contains a text: at once if it came already, else when it comes.
    ///
    /// # Errors
    /// It ended, or fell silent, without such a line; the error shows what it said.
    pub async fn line(&self, containing: &str) -> anyhow::Result<String> {
        let mut lines = self.shared.lines.subscribe();
        let find = async {
            loop {
                let seen = *lines.borrow_and_update();
                if let Some(line) = self.shared.find(containing) {
                    return Some(line);
                }
                if seen.readers == 0 || lines.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(PATIENCE, find).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(anyhow!("`{}` ended without a line with {containing:?}{}", self.name(), self.shared.last_words())),
            Err(_) => Err(anyhow!("`{}` said no line with {containing:?} within {PATIENCE:?}{}", self.name(), self.shared.last_words())),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It runs on; the error shows what it said.
    pub async fn wait(&self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.shared.wait(within).await
    }

    /// Asks it to end (SIGTERM) and waits until it has; gives its output.
    ///
    /// # Errors
    /// It runs on.
    pub async fn stop(&self) -> anyhow::Result<Output> {
        // It may have ended by itself just now.
        drop(self.signal(Signal::TERM));
        self.output(PATIENCE).await
    }

    /// Kills it (SIGKILL) and waits until it is gone; gives its output.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&self) -> anyhow::Result<Output> {
        drop(self.signal(Signal::KILL));
        self.output(PATIENCE).await
    }

    /// Waits for its end and for the end of its output, and gives all of it.
    ///
    /// # Errors
    /// It runs on; the error shows what it said.
    pub async fn output(&self, within: Duration) -> anyhow::Result<Output> {
        let status = self.wait(within).await?;
        self.shared.said_all().await;
        Ok(Output { name: self.name().to_owned(), status, stdout: self.stdout(), stderr: self.stderr() })
    }
}

impl Shared {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *lock(&self.end)
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // While this is held, the process is not reaped, so that its number cannot be another's.
        let end = lock(&self.end);
        match *end {
            None => rustix::process::kill_process(self.pid, signal).with_context(|| format!("signal to `{}`", self.name)),
            Some(status) => bail!("`{}` has ended with {status}", self.name),
        }
    }

    pub(crate) async fn wait(&self, within: Duration) -> anyhow::Result<ExitStatus> {
        let mut ended = self.ended.subscribe();
        let status = timeout(within, ended.wait_for(Option::is_some)).await;
        let status = status.ok().and_then(|ended| ended.ok().and_then(|status| *status));
        status.ok_or_else(|| anyhow!("`{}` runs on after {within:?}{}", self.name, self.last_words()))
    }

    /// Waits for the end of its output.
    pub(crate) async fn said_all(&self) {
        let mut lines = self.lines.subscribe();
        // Something that it started may still hold its output open; that is told where processes are counted.
        drop(timeout(Duration::from_secs(1), lines.wait_for(|lines| lines.readers == 0)).await);
    }

    fn find(&self, containing: &str) -> Option<String> {
        lock(&self.said).lines.iter().find(|(_, line)| line.contains(containing)).map(|(_, line)| line.clone())
    }

    fn text(&self, stream: Option<Stream>) -> String {
        let said = lock(&self.said);
        let mut text = String::new();
        for (from, line) in said.lines.iter().filter(|(from, _)| stream.is_none_or(|stream| *from == stream)) {
            text.push_str(match (stream, from) {
                (None, Stream::Aside) => "2> ",
                (None, Stream::Out) => "1> ",
                _ => "",
            });
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// All that it said, for whoever looks for the reason of a failure.
    pub(crate) fn last_words(&self) -> String {
        let text = self.text(None);
        if text.is_empty() {
            return "; it said nothing".to_owned();
        }
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(60)..];
        let mut words = "; it said:".to_owned();
        let omitted = lines.len() - shown.len() + lock(&self.said).dropped;
        if omitted > 0 {
            // Writing to a string does not fail.
            let _ = write!(words, "\n  ({omitted} lines before)");
        }
        for line in shown {
            let _ = write!(words, "\n  {line}");
        }
        words
    }

    fn take(&self, stream: Stream, line: String) {
        let mut said = lock(&self.said);
        said.bytes += line.len();
        said.lines.push_back((stream, line));
        while said.bytes > 2 * KEPT {
            let Some((_, line)) = said.lines.pop_front() else { break };
            said.bytes -= line.len();
            said.dropped += 1;
        }
        drop(said);
        self.lines.send_modify(|lines| lines.count += 1);
    }
}

/// The life of a process, on a thread that lasts as long.
fn live(name: String, mut command: Command, input: Option<Vec<u8>>, sender: &mpsc::SyncSender<anyhow::Result<Arc<Shared>>>) {
    let started = spawn(&mut command)
        .map_err(anyhow::Error::from)
        .and_then(|child| Ok((Pid::from_raw(child.id().try_into()?).context("pid 0")?, child)));
    let (pid, mut child) = match started {
        Ok(started) => started,
        Err(error) => {
            // Whoever started it waits for this.
            drop(sender.send(Err(error)));
            return;
        }
    };
    let shared = Arc::new(Shared {
        name,
        pid,
        end: Mutex::new(None),
        ended: watch::Sender::new(None),
        said: Mutex::default(),
        lines: watch::Sender::new(Lines { count: 0, readers: 2 }),
    });
    listen(&shared, Stream::Out, child.stdout.take());
    listen(&shared, Stream::Aside, child.stderr.take());
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // It need not read all of it. The thread ends when it has, or has ended.
        std::thread::spawn(move || pipe.write_all(&input));
    }
    drop(sender.send(Ok(Arc::clone(&shared))));
    reap(&shared, &mut child);
}

/// Spawns, also a program that was written just now: until another thread's child has begun its own program, it holds the file open.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => std::thread::yield_now(),
            done => return done,
        }
    }
}

fn reap(shared: &Shared, child: &mut Child) {
    // First see the end, then reap under the lock that signals take.
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(shared.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {
    }
    let mut end = lock(&shared.end);
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
    *end = Some(status);
    drop(end);
    shared.ended.send_replace(Some(status));
}

fn listen(shared: &Arc<Shared>, stream: Stream, pipe: Option<impl Read + Send + 'static>) {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        if let Some(pipe) = pipe {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                shared.take(stream, String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned());
                line.clear();
            }
        }
        shared.lines.send_modify(|lines| lines.readers -= 1);
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left behind is still good to read.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: Option<&str>) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start("script", command, input.map(|input| input.as_bytes().to_vec())).unwrap()
    }

    #[tokio::test]
    async fn output_and_exit_code_are_told() {
        let output = shell("cat; echo aside >&2; exit 7", Some("given\n")).output(PATIENCE).await.unwrap();
        assert_eq!((output.code(), output.stdout.as_str(), output.stderr.as_str()), (7, "given\n", "aside\n"));
        let error = output.success().unwrap_err().to_string();
        assert_eq!(error, "`script` ended with exit status: 7\ngiven\naside\n");
        assert_eq!(shell("echo '[1]'", None).output(PATIENCE).await.unwrap().json().unwrap(), serde_json::json!([1]));
    }

    #[tokio::test]
    async fn lines_are_waited_for() {
        let running = shell("echo ready on 7; read nothing; echo more; exec cat", Some(""));
        assert_eq!(running.line("ready").await.unwrap(), "ready on 7");
        assert_eq!(running.line("more").await.unwrap(), "more");
        let error = running.line("never").await.unwrap_err().to_string();
        assert_eq!(error, "`script` ended without a line with \"never\"; it said:\n  1> ready on 7\n  1> more");
    }

    #[tokio::test]
    async fn a_process_is_stopped_or_killed() {
        let running = shell("trap 'echo bye; kill $!; exit 3' TERM; sleep 600 >/dev/null 2>&1 & echo ready; wait", None);
        running.line("ready").await.unwrap();
        assert!(running.ended().is_none());
        let output = running.stop().await.unwrap();
        assert_eq!((output.code(), output.stdout.as_str()), (3, "ready\nbye\n"));
        running.signal(Signal::TERM).unwrap_err();
        let running = shell("exec sleep 600", None);
        running.wait(Duration::ZERO).await.unwrap_err();
        assert_eq!(running.kill().await.unwrap().code(), 137);
    }

    #[tokio::test]
    async fn a_dropped_process_is_killed() {
        let running = shell("exec sleep 600", None);
        let shared = running.shared();
        drop(running);
        assert_eq!(code(shared.wait(PATIENCE).await.unwrap()), 137);
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        let error = Running::start("thing", Command::new("/no/such/program"), None).unwrap_err();
        assert!(format!("{error:#}").starts_with("`thing` cannot be started: No such file"), "{error:#}");
    }

    #[tokio::test]
    async fn only_the_last_part_of_very_much_is_kept() {
        let running = shell("yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx | head -c 4000000; echo last", None);
        let output = running.output(PATIENCE).await.unwrap();
        assert!(output.stdout.len() < 3 * KEPT && output.stdout.ends_with("last\n"), "{}", output.stdout.len());
        assert!(running.shared.last_words().contains("lines before"));
    }
}
