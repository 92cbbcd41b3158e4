//! What travels with a request through three hops: the time that is left, and which attempt it is. In flow calls to a chain of apps `a`, `b` and `c`,
//! of which each calls the next and passes on nothing but the request's id; out flow what the last of them saw, and what each caller was told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use testbed::{Mesh, PATIENCE, Port, Running, eventually, http_send};
use tokio::net::TcpListener;

/// What an app does with a request.
#[derive(Clone)]
enum Does {
    /// Calls the next app by this address, and answers as that does.
    Call(SocketAddr),
    /// Answers with this status after a while.
    Answer(u16, Duration),
}

/// What came to an app.
#[derive(Default)]
struct Log {
    /// Requests with the fields by which the mesh tells things.
    told: Mutex<Vec<(Option<String>, Option<String>)>>,
    /// What its calls were answered with: status and reason.
    answered: Mutex<Vec<(u16, Option<String>)>>,
    under_way: AtomicUsize,
    retries_under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    most_retries: AtomicUsize,
}

/// Counts a request for as long as it is with the app.
struct Counted(Arc<Log>, bool);

impl Counted {
    fn new(log: &Arc<Log>, is_retry: bool) -> Self {
        let now = log.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        log.most_under_way.fetch_max(now, Ordering::SeqCst);
        if is_retry {
            let now = log.retries_under_way.fetch_add(1, Ordering::SeqCst) + 1;
            log.most_retries.fetch_max(now, Ordering::SeqCst);
        }
        Self(log.clone(), is_retry)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.1 {
            self.0.retries_under_way.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

async fn app(does: Does) -> anyhow::Result<(SocketAddr, Arc<Log>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let log = Arc::new(Log::default());
    let shared = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (does, log) = (does.clone(), shared.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let (does, log) = (does.clone(), log.clone());
                    async move { Ok::<_, Infallible>(serve(request, does, &log).await) }
                });
                // A proxy may close whenever it likes.
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    Ok((address, log))
}

async fn serve(request: Request<Incoming>, does: Does, log: &Arc<Log>) -> Response<Full<Bytes>> {
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let attempt = field("x-lorica-attempt");
    log.told.lock().unwrap().push((field("x-lorica-timeout-ms"), attempt.clone()));
    let _counted = Counted::new(log, attempt.is_some());
    let status = match does {
        Does::Answer(status, after) => {
            tokio::time::sleep(after).await;
            status
        }
        Does::Call(next) => {
            let id = field("x-request-id").unwrap_or_default();
            let onward = Request::get("/").header("host", "next").header("x-request-id", id).body(Full::default()).unwrap();
            match http_send(next, onward).await {
                Ok(reply) => {
                    log.answered.lock().unwrap().push((reply.status.as_u16(), reply.header("x-lorica-reason").map(str::to_owned)));
                    reply.status.as_u16()
                }
                Err(_) => 599,
            }
        }
    };
    Response::builder().status(status).body(Full::default()).unwrap()
}

/// Apps `a`, `b`, `c` in the mesh, and a way in to `a`.
struct Chain {
    mesh: Mesh,
    logs: Vec<Arc<Log>>,
    entrance: SocketAddr,
    _running: Vec<Running>,
    _ports: Vec<Port>,
}

impl Chain {
    async fn start(last: Does, policies: &str) -> anyhow::Result<Self> {
        let mesh = Mesh::start().await?;
        let ports = [Port::free()?, Port::free()?, Port::free()?];
        let [to_a, to_b, to_c]: [SocketAddr; 3] = ports.each_ref().map(Port::address);
        let (c, c_log) = app(last).await?;
        let (b, b_log) = app(Does::Call(to_c)).await?;
        let (a, a_log) = app(Does::Call(to_b)).await?;
        let mut running = Vec::new();
        for (name, at, calls) in [("a", a, Some(("b", to_b))), ("b", b, Some(("c", to_c))), ("c", c, None)] {
            let mut run = mesh.service(&format!("{name}.shop")).no_capture().port(&format!("80:{}/http", at.port()));
            if let Some((next, at)) = calls {
                run = run.upstream(&format!("{next}.shop:80={at}"));
            }
            running.push(run.start(["sleep", "1000"])?);
            mesh.announced(&format!("{name}.shop"), 1).await?;
        }
        mesh.apply(policies).await?;
        running.push(mesh.client().upstream(&format!("a.shop:80={to_a}")).start(["sleep", "1000"])?);
        eventually("there is a way in", PATIENCE, || async { Ok(tokio::net::TcpStream::connect(to_a).await.map(drop)?) }).await?;
        Ok(Self { mesh, logs: vec![a_log, b_log, c_log], entrance: to_a, _running: running, _ports: ports.into() })
    }

    async fn call(&self, id: &str) -> anyhow::Result<(StatusCode, Option<String>)> {
        let request = Request::get("/").header("host", "a.shop").header("x-request-id", id).body(Full::default())?;
        let reply = http_send(self.entrance, request).await?;
        Ok((reply.status, reply.header("x-lorica-reason").map(str::to_owned)))
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: {name}}}], {spec}}}\n---\n"
    )
}

#[tokio::test]
async fn a_deadline_reaches_the_last_hop_and_no_hop_works_past_it() -> anyhow::Result<()> {
    let timeouts = policy("a", "timeouts: {request: 1s}, retries: {attempts: 0}");
    let chain = Chain::start(Does::Answer(200, PATIENCE * 10), &timeouts).await?;
    let (status, reason) = chain.call("request-deadline").await?;
    assert_eq!((status.as_u16(), reason.as_deref()), (504, Some("request_timeout")));
    let [a, b, c] = chain.logs.as_slice() else { panic!() };
    // All that the last was told came by way of two apps that passed the request's id on, and nothing else.
    let told = c.told.lock().unwrap().clone();
    let left: u64 = told[0].0.as_deref().context("no time was told")?.parse()?;
    ensure!(told.len() == 1 && left > 0 && left <= 1000, "{told:?}");
    eventually("the last app is left in peace", PATIENCE, || async {
        ensure!(c.under_way.load(Ordering::SeqCst) == 0);
        Ok(())
    })
    .await?;
    for log in [a, b] {
        eventually("each app is told that the time is over", PATIENCE, || async {
            let answered = log.answered.lock().unwrap().clone();
            // An app whose own caller gave up first may be cut off before it hears.
            ensure!(answered.is_empty() || answered == [(504, Some("deadline_exceeded".to_owned()))], "{answered:?}");
            ensure!(log.under_way.load(Ordering::SeqCst) == 0);
            Ok(())
        })
        .await?;
    }
    chain.mesh.finish().await
}

#[tokio::test]
async fn attempts_of_three_hops_add_up_and_do_not_multiply() -> anyhow::Result<()> {
    let retries = "retries: {attempts: 2, on: [GatewayError], backoff: {base: 1ms, max: 2ms}}, ejection: {mode: Disabled}";
    let policies: String = ["a", "b", "c"].iter().map(|name| policy(name, retries)).collect();
    let chain = Chain::start(Does::Answer(503, Duration::ZERO), &policies).await?;
    for number in 0..20 {
        let (status, _) = chain.call(&format!("request-{number}")).await?;
        assert_eq!(status.as_u16(), 503);
    }
    let attempts: Vec<usize> = chain.logs.iter().map(|log| log.told.lock().unwrap().len() / 20).collect();
    // Each hop tries its first request three times; what is a retry already goes on once. Alone they would be 3, 9 and 27.
    assert_eq!(attempts, [3, 5, 7]);
    chain.mesh.finish().await
}

#[tokio::test]
async fn retries_of_a_failing_upstream_stay_within_the_budget() -> anyhow::Result<()> {
    let retries = "retries: {attempts: 5, on: [GatewayError], backoff: {base: 1ms, max: 2ms}}, limits: {retries: {percent: 20, minimum: 3}}, ejection: {mode: Disabled}";
    let policies: String = ["a", "b", "c"].iter().map(|name| policy(name, retries)).collect();
    let chain = Arc::new(Chain::start(Does::Answer(503, Duration::from_millis(20)), &policies).await?);
    let callers: Vec<_> = (0..40)
        .map(|caller| {
            let chain = chain.clone();
            tokio::spawn(async move {
                for number in 0..10 {
                    chain.call(&format!("request-{caller}-{number}")).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    for log in &chain.logs {
        let (most, retries) = (log.most_under_way.load(Ordering::SeqCst), log.most_retries.load(Ordering::SeqCst));
        // What a hop itself tries again, and what it passes on of those before it, which have a budget each.
        let bound = 3 * usize::max(3, most.div_ceil(5));
        ensure!(retries <= bound, "{retries} retries at once of {most} requests under way");
        ensure!(retries > 0, "nothing was tried again");
    }
    // Without budgets and told attempts every call would make 216 at the last hop.
    let last = chain.logs[2].told.lock().unwrap().len();
    ensure!(last < 400 * 3, "{last} attempts for 400 calls");
    let chain = Arc::into_inner(chain).context("nobody calls any more")?;
    chain.mesh.finish().await
}
