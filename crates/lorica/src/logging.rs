//! The process's own log: to stderr, as loud as asked for.

use tracing_subscriber::EnvFilter;

/// Starts the log at `level` unless `LORICA_LOG` names another (`debug`, `lorica_proxy=trace`); `verbose` raises it.
pub(crate) fn start(level: &str, verbose: u8) {
    let level = match verbose {
        0 => level,
        1 => "lorica=info,lorica_proxy=debug,lorica_control=debug,lorica_xds=debug,lorica_capture=debug,lorica_identity=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("LORICA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).with_target(false).compact();
    // Only the first call of a process can win; tests may start several.
    drop(log.try_init());
}
