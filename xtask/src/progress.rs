//! Programs run on a developer's behalf: in flow commands; out flow their output, and a line on the terminal for each that takes longer
//! than two seconds, so that nobody wonders whether something hangs. None runs longer than its deadline.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// When a step begins to speak.
const QUIET: Duration = Duration::from_secs(2);

/// Runs a program to its end, with its output taken, and says so if it takes long.
///
/// # Errors
/// It could not be started, failed, or took longer than `deadline`; the text ends with its last lines.
pub(crate) fn quietly(what: &str, command: &mut Command, deadline: Duration) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    // Each pipe has its own reader, so that neither fills up; both end with the program.
    let (sender, ended) = sync_channel::<()>(1);
    let out = reader(child.stdout.take(), sender.clone());
    let err = reader(child.stderr.take(), sender);
    let mut said = false;
    let mut wait = QUIET.min(deadline);
    while let Err(RecvTimeoutError::Timeout) = wait_for_both(&ended, wait) {
        let elapsed = started.elapsed();
        if elapsed >= deadline {
            // It may have ended just now: what counts is that it is gone.
            drop(child.kill());
            drop(child.wait());
            return Err(format!("it took longer than {} s", deadline.as_secs()));
        }
        if !said && elapsed >= QUIET {
            println!("{what} …");
            said = true;
        }
        wait = (deadline - elapsed).min(Duration::from_secs(10));
        if elapsed > Duration::from_secs(10) {
            println!("{what} … {} s", elapsed.as_secs());
        }
    }
    let status = child.wait().map_err(|error| format!("`{program}`: {error}"))?;
    let join = |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    let output = Output { status, stdout: join(out), stderr: join(err) };
    if said {
        println!("{what}: {:.0} s", started.elapsed().as_secs_f64());
    }
    if output.status.success() { Ok(output) } else { Err(format!("`{program}` ended with {status}{}", last_words(&output))) }
}

/// Reads a pipe to its end. The sender it holds is dropped with it, which is the sign that the program is through.
fn reader(pipe: Option<impl Read + Send + 'static>, sign: std::sync::mpsc::SyncSender<()>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        drop(sign);
        bytes
    })
}

/// Nothing is ever sent: the end of both senders is what is waited for.
fn wait_for_both(ended: &std::sync::mpsc::Receiver<()>, wait: Duration) -> Result<(), RecvTimeoutError> {
    ended.recv_timeout(wait)
}

/// The last lines of what a program said, as the end of a sentence.
fn last_words(output: &Output) -> String {
    let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { String::new() } else { format!(": {}", lines[lines.len().saturating_sub(2)..].join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_of_a_program_is_taken() {
        let output = quietly("saying hello", &mut shell("echo hello; echo aside >&2"), Duration::from_secs(60)).unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"hello\n"[..], &b"aside\n"[..]));
    }

    #[test]
    fn a_failure_is_told_with_the_last_words() {
        let error = quietly("failing", &mut shell("echo one; echo two >&2; echo three >&2; exit 3"), Duration::from_secs(60)).unwrap_err();
        assert_eq!(error, "`sh` ended with exit status: 3: two; three");
        let error = quietly("failing", &mut Command::new("no-such-program-anywhere"), Duration::from_secs(60)).unwrap_err();
        assert!(error.contains("`no-such-program-anywhere` cannot be started"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = quietly("hanging", &mut shell("exec sleep 600"), Duration::ZERO).unwrap_err();
        assert_eq!(error, "it took longer than 0 s");
    }
}
