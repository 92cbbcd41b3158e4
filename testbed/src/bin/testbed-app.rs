//! An app for tests that need one without Python, Node or curl, and the probe for namespaces. In flow arguments; out flow answers to whoever
//! calls, and lines that say where it listens. It knows nothing of the mesh, but for the probe, which is the product's own.
//!
//! `testbed-app http|https --listen ADDRESS [--name NAME]` · `testbed-app tcp --listen ADDRESS [--greeting TEXT]` · `testbed-app get HOST[:PORT] [PATH]` ·
//! `testbed-app line ADDRESS --from ADDRESS`: the first line of a server that speaks first ·
//! `testbed-app ledger --listen ADDRESS --file FILE [--share SHARE] [--idle MILLISECONDS] [--work MILLISECONDS]`: a ledger, which ends connections at that
//! share of all moments
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an app speaks by printing")]

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio::io::AsyncBufReadExt as _;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // The helper must be alone in its process: no runtime before it.
        ["probe-helper"] => return lorica_capture::helper_main(),
        ["probe"] => {
            return match lorica_capture::probe(&["probe-helper".into()]) {
                Ok(()) => ExitCode::SUCCESS,
                Err(missing) => {
                    println!("{missing}");
                    ExitCode::from(3)
                }
            };
        }
        _ => {}
    }
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(&words)))
    {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed-app: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> anyhow::Result<ExitCode> {
    let flag = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
    let listen = || flag("--listen").context("--listen ADDRESS is missing");
    let listening = |address| println!("listening on {address}");
    match words {
        ["http", ..] => match testbed::program::http(listen()?, flag("--name").unwrap_or("app").to_owned(), listening).await? {},
        ["https", ..] => match testbed::program::https(listen()?, flag("--name").unwrap_or("app").to_owned(), listening).await? {},
        ["tcp", ..] => {
            match testbed::program::tcp(listen()?, flag("--greeting").unwrap_or_default().replace("\\n", "\n"), listening).await? {}
        }
        ["ledger", ..] => {
            let listener = tokio::net::TcpListener::bind(listen()?).await?;
            listening(listener.local_addr()?);
            let file = std::path::PathBuf::from(flag("--file").context("--file FILE is missing")?);
            let number = |name: &str, default: &str| flag(name).unwrap_or(default).parse::<f64>().with_context(|| name.to_owned());
            let time = |name: &str, default: &str| anyhow::Ok(std::time::Duration::from_secs_f64(number(name, default)? / 1000.0));
            let moods = testbed::Moods { share: number("--share", "0")?, idle: time("--idle", "3600000")?, work: time("--work", "0")? };
            match testbed::serve_ledger(listener, &file, moods).await? {}
        }
        ["get", host, rest @ ..] => {
            let with_port = if host.contains(':') { (*host).to_owned() } else { format!("{host}:80") };
            let address = tokio::net::lookup_host(&with_port).await.with_context(|| format!("{host} has no address"))?.next();
            let path = rest.first().copied().unwrap_or("/");
            let reply = testbed::http_get(address.context("no address")?, host, path).await?;
            println!("{}\n{}", reply.status.as_u16(), reply.text());
            Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::from(22) })
        }
        ["line", address, ..] => {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(std::net::SocketAddr::new(flag("--from").context("--from ADDRESS is missing")?.parse()?, 0))?;
            let mut line = String::new();
            tokio::io::BufReader::new(socket.connect(address.parse()?).await?).read_line(&mut line).await?;
            println!("{}", line.trim_end());
            Ok(if line.is_empty() { ExitCode::from(22) } else { ExitCode::SUCCESS })
        }
        _ => bail!("it is `http`, `https`, `tcp`, `ledger`, `get` or `line`: see the head of its source"),
    }
}
