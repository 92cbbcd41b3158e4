//! The race for idle connections: servers as people run them close connections that were idle for one to five seconds, and clients pause for
//! about as long before their next request, POSTs among them. Not one may be answered by the mesh in the server's place.
//!
//! `LORICA_KEEPALIVE_REQUESTS` says how many requests are made, all servers together; 100000 takes some minutes.
#![allow(clippy::print_stdout, reason = "the numbers of a long run are what it is for")]

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use testbed::{HttpConnection, Mesh, PATIENCE, Peer, Port, Running, eventually, http_get, left_out, peer, python_server_path};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::sleep;

/// How many requests are made unless it is said.
const REQUESTS: usize = 4000;
/// The most clients of one server at once.
const CLIENTS: usize = 250;

const NODE: &str = "
const server = require('http').createServer((request, answer) => {
  request.resume().on('end', () => answer.end('ok'));
});
if (process.argv[3]) server.keepAliveTimeout = Number(process.argv[3]);
server.listen(Number(process.argv[2]), '127.0.0.1', 511);
";

const PYTHON: &str = "
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    timeout = float(sys.argv[2])
    def do_GET(self):
        self.rfile.read(int(self.headers.get('content-length', 0)))
        self.send_response(200)
        self.send_header('content-length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    do_POST = do_GET
    def log_message(self, *words): pass
ThreadingHTTPServer.request_queue_size = 511
ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

const ASGI: &str = "
async def app(scope, receive, send):
    if scope['type'] != 'http':
        return
    while (await receive()).get('more_body'):
        pass
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'2')]})
    await send({'type': 'http.response.body', 'body': b'ok'})
def wsgi(environ, start):
    environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
    start('200 OK', [('Content-Length', '2')])
    return [b'ok']
";

/// A server of which tests know how long it leaves idle connections open.
struct Server {
    name: &'static str,
    idle: Duration,
    port: Port,
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// The servers that this machine has.
fn servers(mesh: &Mesh) -> anyhow::Result<Vec<Server>> {
    let node = mesh.write("server.js", NODE)?;
    let python = mesh.write("server.py", PYTHON)?;
    mesh.write("app.py", ASGI)?;
    let mut servers = Vec::new();
    for (name, seconds) in
        [("node", 5), ("node-quick", 1), ("python", 2), ("uvicorn", 3), ("gunicorn", 2), ("nginx", 4), ("nginx-quick", 1)]
    {
        let port = Port::free()?;
        let number = port.address().port().to_string();
        let started = match name {
            // Its own default.
            "node" => peer(Peer::Node).map(|program| (program, words(&[&node, &number]))),
            "node-quick" => peer(Peer::Node).map(|program| (program, words(&[&node, &number, &"1000"]))),
            "python" => peer(Peer::Python).map(|program| (program, words(&[&python, &number, &"2"]))),
            "uvicorn" => {
                module(name, &["app:app", "--port", &number, "--timeout-keep-alive", "3", "--backlog", "511", "--log-level", "error"])
            }
            // Two seconds are its own default.
            "gunicorn" => {
                module(name, &["app:wsgi", "--bind", &format!("127.0.0.1:{number}"), "--worker-class", "gthread", "--threads", "8"])
            }
            _ => peer(Peer::Nginx).and_then(|program| {
                let directory = mesh.home();
                let conf = mesh.write(&format!("{name}.conf"), nginx(&directory.display().to_string(), name, &number, seconds));
                Ok((program, words(&[&"-p", &directory, &"-c", &conf.map_err(|error| error.to_string())?])))
            }),
        };
        match started {
            Ok((program, arguments)) => servers.push(Server { name, idle: Duration::from_secs(seconds), port, program, arguments }),
            Err(why) => left_out(&format!("{name} as an app that closes idle connections: {why}")),
        }
    }
    Ok(servers)
}

fn words(words: &[&dyn AsRef<OsStr>]) -> Vec<OsString> {
    words.iter().map(|word| (*word).as_ref().to_owned()).collect()
}

/// A server that is a Python module, run with the directory that it was fetched into.
fn module(name: &str, more: &[&str]) -> Result<(PathBuf, Vec<OsString>), String> {
    let mut path = OsString::from("PYTHONPATH=");
    path.push(python_server_path(name)?);
    let arguments = words(&[&path, &peer(Peer::Python)?, &"-m", &name]).into_iter().chain(more.iter().map(OsString::from));
    Ok(("/usr/bin/env".into(), arguments.collect()))
}

/// nginx's configuration: all that it would write elsewhere goes into the test's own directory.
fn nginx(directory: &str, name: &str, port: &str, seconds: u64) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {directory}/{name}.{kind};"));
    format!(
        "daemon off; master_process off; pid {directory}/{name}.pid; error_log stderr error; events {{ worker_connections 4096; }}
        http {{ access_log off; {} keepalive_timeout {seconds}s;
        server {{ listen 127.0.0.1:{port} backlog=511; location / {{ return 200 ok; }} }} }}",
        temporary.join(" ")
    )
}

/// A pause of about the time after which the server closes, where it is most likely to be met; or one so short that nothing closes.
fn pause(idle: Duration) -> Duration {
    match fastrand::u8(0..8) {
        0 => Duration::from_millis(fastrand::u64(0..100)),
        1 | 2 => idle.mul_f64(0.5 + fastrand::f64() / 2.0),
        _ => idle + Duration::from_millis(fastrand::u64(0..100)) - Duration::from_millis(50),
    }
}

/// What went wrong with the requests of one server's clients.
#[derive(Default)]
struct Told {
    answered: AtomicU64,
    wrong: std::sync::Mutex<Vec<String>>,
}

/// One client: a request after each pause, at the same moment as all others, so that they need many connections, and all of these are as old.
async fn client(address: SocketAddr, rounds: Vec<Duration>, together: Arc<Barrier>, told: Arc<Told>) -> anyhow::Result<()> {
    let mut connection = HttpConnection::open(address).await?;
    for (round, pause) in rounds.into_iter().enumerate() {
        together.wait().await;
        // Not quite at the same moment: the server's timers do not all fire at once either.
        sleep(pause + Duration::from_millis(fastrand::u64(0..20))).await;
        let method = if fastrand::bool() { Method::POST } else { Method::GET };
        let body = if method == Method::POST { Bytes::from_static(b"a payment") } else { Bytes::new() };
        let request = Request::builder().method(&method).uri("/").header("host", "shop").body(Full::new(body))?;
        let wrong = match connection.send(request).await {
            Ok(reply) if reply.status == 200 => {
                told.answered.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Ok(reply) => format!("{} {:?}", reply.status, reply.header("x-lorica-reason")),
            Err(error) => {
                connection = HttpConnection::open(address).await?;
                format!("{error:#}")
            }
        };
        told.wrong
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(format!("round {round}, {method} after {pause:?}: {wrong}"));
    }
    Ok(())
}

/// The sum of a counter over all proxies of the mesh.
async fn counted(mesh: &Mesh, counter: &str) -> anyhow::Result<u64> {
    let status = mesh.status().await?;
    let mut sum = 0;
    for proxy in status["proxies"].as_array().into_iter().flatten() {
        let address = proxy["metrics"].as_str().with_context(|| format!("{proxy:#}"))?.parse()?;
        let metrics = http_get(address, "proxy", "/metrics").await?.text();
        sum += metrics.lines().filter_map(|line| line.strip_prefix(counter)?.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

#[tokio::test]
async fn no_request_meets_a_connection_that_its_server_just_closed() -> anyhow::Result<()> {
    let requests = std::env::var("LORICA_KEEPALIVE_REQUESTS").map_or(Ok(REQUESTS), |requests| requests.parse())?;
    let mesh = Mesh::start().await?;
    let servers = servers(&mesh)?;
    ensure!(!servers.is_empty(), "there is neither Node nor Python nor nginx");
    let mut running: Vec<Running> = Vec::new();
    let mut callers = mesh.client();
    let mut entries = Vec::new();
    for server in &servers {
        let own = &server.port;
        running.push(mesh.start_outside(&server.program, &server.arguments)?);
        eventually(&format!("{} listens", server.name), PATIENCE, || async { Ok(TcpStream::connect(own.address()).await?) })
            .await
            .with_context(|| mesh.last_words())?;
        let service = format!("{}.shop", server.name);
        running.push(mesh.service(&service).no_capture().port(&format!("80:{}/http", own.address().port())).start(["sleep", "100000"])?);
        let entry = Port::free()?;
        callers = callers.upstream(&format!("{service}:80={}", entry.address()));
        entries.push(entry);
        mesh.announced(&service, 1).await?;
    }
    running.push(callers.start(["sleep", "100000"])?);

    let share = requests / servers.len();
    let clients = (share / 4).clamp(1, CLIENTS);
    let mut tasks = Vec::new();
    let mut told = Vec::new();
    for (server, entry) in servers.iter().zip(&entries) {
        let address = entry.address();
        eventually("the server answers through the mesh", PATIENCE, || async {
            let reply = http_get(address, "shop", "/").await?;
            ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            Ok(())
        })
        .await
        .with_context(|| mesh.last_words())?;
        let together = Arc::new(Barrier::new(clients));
        let rounds: Vec<Duration> = (0..share.div_ceil(clients)).map(|_| pause(server.idle)).collect();
        let one = Arc::new(Told::default());
        tasks.extend((0..clients).map(|_| tokio::spawn(client(address, rounds.clone(), together.clone(), one.clone()))));
        told.push(one);
    }
    for task in tasks {
        task.await??;
    }

    let mut wrong = Vec::new();
    for (server, told) in servers.iter().zip(told) {
        println!("{}: {} answered", server.name, told.answered.load(Ordering::Relaxed));
        let of_server = told.wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wrong.extend(of_server.iter().map(|wrong| format!("{}: {wrong}", server.name)));
    }
    let mut counts = Vec::new();
    for counter in ["lorica_pool_reuses_total", "lorica_pool_connects_total", "lorica_pool_stale_repeats_total"] {
        counts.push(counted(&mesh, counter).await?);
    }
    println!("connections reused {}, made {}; requests repeated unseen {}", counts[0], counts[1], counts[2]);
    assert!(wrong.is_empty(), "{} of {requests} requests:\n{}", wrong.len(), wrong.join("\n"));
    // Nothing is gained by keeping no connection at all. How many are reused depends on how the clients' pauses fall.
    assert!(counts[0] as usize > requests / 4, "connections reused {}, made {}", counts[0], counts[1]);
    mesh.finish().await
}
