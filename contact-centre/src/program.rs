//! A service as a process: its runtime, its signals, its listening socket, its words on stderr, and how it fails.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Why a service did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The command line is right, the work failed.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::from(1),
        }
    }
}

/// Resolves when the process is asked to end.
pub(crate) type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Writes one line to stderr. A closed stderr is no reason to end.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs `work` on a runtime of two worker threads, and hands it the signal to end.
pub(crate) fn run<F, Fut, T>(work: F) -> Result<T, Failure>
where
    F: FnOnce(Stop) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let runtime = runtime().map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(async {
        let stop = stop_signal().map_err(|error| Failure::Failed(format!("cannot watch for signals: {error}")))?;
        work(stop).await
    });
    // A name look-up that hangs sits in a blocking thread and must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Runs a service that listens: binds, says so, serves until asked to end.
pub(crate) fn run_service<F, Fut>(title: &str, listen: SocketAddr, serve: F) -> Result<(), Failure>
where
    F: FnOnce(TcpListener, Stop) -> Fut,
    Fut: Future<Output = io::Result<()>>,
{
    run(|stop| async move {
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => "\nhint: ports below 1024 may want root; choose one with --listen",
                io::ErrorKind::AddrInUse => "\nhint: another program has this port; choose one with --listen",
                _ => "",
            };
            Failure::Failed(format!("{title} cannot listen on {listen}: {error}{hint}"))
        })?;
        let bound = listener.local_addr().unwrap_or(listen);
        say(&format!("{title} listens on {bound}"));
        serve(listener, stop).await.map_err(|error| Failure::Failed(format!("{title}: {error}")))
    })
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn stop_signal() -> io::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }))
}
