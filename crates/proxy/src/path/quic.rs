//! quic: what comes in at a listener port of a gateway by QUIC: HTTP/3. From the first request on, the way is that of every other exchange.
//!
//! All of a port is on one worker: a client keeps its connection when its address changes, and only by what is in its packets can they be told
//! from others'. Where many handshakes are open at once, a client first proves that it gets what is sent to its address.

use std::any::Any;
use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lorica_model::head::{RequestHead, Version};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{DEFAULT_IDLE_TIMEOUT, Listening, without_port};
use lorica_observe::metrics::OwnMetric;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::rustls;

use super::accept::Boxed;
use super::caller::{Caller, Entry};
use super::exchange;
use super::gateway::chain;
use super::record::{ConnectionRecord, UnderWay};
use crate::config::{HANDSHAKE_TIMEOUT, MAX_CONNECTIONS};
use crate::supervisor::Ending;
use crate::wire::Responder;
use crate::wire::http3::{Hold, Http3Server, transport};
use crate::worker::Worker;

/// From so many open handshakes on, a client proves its address before anything is done for it.
const RETRY_FROM: usize = 64;
/// The most handshakes open at once on one port; more are refused.
const MAX_HANDSHAKES: usize = 1024;
/// How much of what clients send ahead is kept of a connection that nobody has looked at yet, in bytes.
const AHEAD: u64 = 64 * 1024;

/// Serves a port until the proxy ends or `closed` says that the gateway serves HTTP/3 there no more. Without a socket another worker does.
pub async fn serve(worker: Rc<Worker>, port: u16, socket: Option<OwnedFd>, mut closed: watch::Receiver<bool>) {
    worker.http3.borrow_mut().insert(port);
    match socket {
        Some(socket) => {
            if let Err(error) = accepting(&worker, port, socket, closed).await {
                tracing::error!(%error, port, "a worker cannot wait for QUIC");
            }
        }
        // An error means that whoever could close it is gone, and the proxy with it.
        None => drop(closed.wait_for(|closed| *closed).await),
    }
    worker.http3.borrow_mut().remove(&port);
}

/// What tells a caller by TCP that HTTP/3 is served on the port that it uses, for a day.
#[must_use]
pub fn alternative(worker: &Worker, caller: &Caller, head: &RequestHead) -> Option<String> {
    let Entry::Gateway { port, chain: Some(chain), .. } = &caller.entry else { return None };
    if head.version == Version::Http3 || !worker.http3.borrow().contains(port) {
        return None;
    }
    let view = worker.view();
    let Some(Listening::Tls(chains)) = view.snapshot.gateway.get(port).map(|unit| &unit.listening) else { return None };
    let asked = chains.iter().any(|known| known.http3 && known.server_name == *chain);
    let served = asked && view.quic_config(*port).is_some_and(|config| config.is_ok());
    let authority = head.authority();
    // Where the port is mapped on the way, only its caller knows which it uses.
    let used = authority.get(without_port(authority).len() + 1..).and_then(|port| port.parse().ok()).unwrap_or(443_u16);
    served.then(|| format!("h3=\":{used}\"; ma=86400"))
}

async fn accepting(worker: &Rc<Worker>, port: u16, socket: OwnedFd, mut closed: watch::Receiver<bool>) -> std::io::Result<()> {
    let mut views = worker.views.clone();
    let mut shown = None;
    let endpoint = Endpoint::new(EndpointConfig::default(), config(worker, port, &mut shown), socket.into(), Arc::new(TokioRuntime))?;
    let handshakes = Rc::new(Cell::new(0));
    let (mut ended, mut ending) = (worker.ended.clone(), worker.ending.clone());
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            changed = views.changed() => {
                let before = shown.clone();
                let next = config(worker, port, &mut shown);
                if changed.is_ok() && before.as_ref().map(Arc::as_ptr) != shown.as_ref().map(Arc::as_ptr) {
                    // Connections that are open keep what they were opened with.
                    endpoint.set_server_config(next);
                }
                continue;
            }
            _ = ended.wait_for(|ended| *ended) => return Ok(()),
            _ = ending.wait_for(|ending| *ending == Ending::Closing) => break,
            _ = closed.wait_for(|closed| *closed) => break,
        };
        let Some(incoming) = incoming else { return Ok(()) };
        admit(worker, port, incoming, &handshakes);
    }
    // Those that are open go on; the socket is theirs until they end.
    endpoint.set_server_config(None);
    Ok(())
}

/// What new connections are shown; `shown` is what it is made of. None where nothing can be.
fn config(worker: &Worker, port: u16, shown: &mut Option<Arc<rustls::ServerConfig>>) -> Option<ServerConfig> {
    *shown = worker.views.borrow().quic_config(port).and_then(Result::ok).cloned();
    let crypto =
        QuicServerConfig::try_from(shown.clone()?).inspect_err(|error| tracing::error!(%error, "TLS has no cipher for QUIC")).ok()?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport(DEFAULT_IDLE_TIMEOUT)));
    config.max_incoming(MAX_HANDSHAKES).incoming_buffer_size(AHEAD).incoming_buffer_size_total(AHEAD * 64);
    Some(config)
}

/// One handshake that is open, among all of a port.
struct Handshake(Rc<Cell<usize>>);

impl Handshake {
    fn begin(all: &Rc<Cell<usize>>) -> Self {
        all.set(all.get() + 1);
        Self(all.clone())
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn admit(worker: &Rc<Worker>, port: u16, incoming: Incoming, handshakes: &Rc<Cell<usize>>) {
    if worker.connections.get() >= MAX_CONNECTIONS || handshakes.get() >= MAX_HANDSHAKES {
        worker.telemetry.metrics.count(OwnMetric::CONNECTIONS_REFUSED, "", 1);
        tracing::warn!("more than {MAX_CONNECTIONS} connections, or {MAX_HANDSHAKES} handshakes; one was refused");
        return incoming.refuse();
    }
    if handshakes.get() >= RETRY_FROM && incoming.may_retry() && !incoming.remote_address_validated() {
        worker.telemetry.metrics.count(OwnMetric::QUIC_RETRIES, "", 1);
        // It may be gone, or never have been there.
        return drop(incoming.retry());
    }
    let handshake = Handshake::begin(handshakes);
    let worker = worker.clone();
    spawn_local(async move {
        worker.connections.set(worker.connections.get() + 1);
        let open = worker.telemetry.metrics.hold(OwnMetric::CONNECTIONS_OPEN, "gateway");
        connection(&worker, port, incoming, handshake).await;
        drop(open);
        worker.connections.set(worker.connections.get() - 1);
    });
}

fn connection<'a>(worker: &'a Rc<Worker>, port: u16, incoming: Incoming, handshake: Handshake) -> Boxed<'a> {
    Box::pin(async move {
        let remote = incoming.remote_address();
        let shaken = async { incoming.accept()?.await };
        let shaken = timeout(HANDSHAKE_TIMEOUT, shaken).await;
        drop(handshake);
        let entry = |chain| Entry::Gateway { port, chain, tls: true };
        let nobody = || Caller::new(worker, entry(None), remote, SocketAddr::new([0, 0, 0, 0].into(), port), None);
        let connection = match shaken {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return ConnectionRecord::begin(worker, &nobody()).fail(Reason::ClientTls, error.to_string()),
            Err(_) => return ConnectionRecord::begin(worker, &nobody()).fail(Reason::ClientTls, "the QUIC handshake took too long"),
        };
        let local = SocketAddr::new(connection.local_ip().unwrap_or([0, 0, 0, 0].into()), port);
        let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let server_name = data.and_then(|data| data.server_name);
        let view = worker.view();
        let chains = match view.snapshot.gateway.get(&port).map(|unit| &unit.listening) {
            Some(Listening::Tls(chains)) => chains.as_slice(),
            _ => &[],
        };
        let Some(chain) = chain(chains, server_name.as_deref()).filter(|chain| chain.http3) else {
            let caller = Caller::new(worker, entry(None), remote, local, server_name);
            return ConnectionRecord::begin(worker, &caller).fail(Reason::NoRoute, "no listener serves HTTP/3 for this server name");
        };
        let caller = Caller::new(worker, entry(Some(chain.server_name.clone())), remote, local, server_name);
        drop(view);
        http3(worker, Rc::new(caller), connection).await;
    })
}

/// An answer that the client has not confirmed yet: it may have to be sent again, and only this process can.
struct OnItsWay(Arc<UnderWay>);

impl OnItsWay {
    fn begin(under_way: Arc<UnderWay>) -> Self {
        under_way.outbound.fetch_add(1, Ordering::Relaxed);
        Self(under_way)
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.outbound.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One exchange after another, and beside each other, until the client leaves or the proxy drains.
async fn http3(worker: &Rc<Worker>, caller: Rc<Caller>, connection: Connection) {
    let under_way = worker.under_way.clone();
    let hold: Hold = Rc::new(move || -> Box<dyn Any> { Box::new(OnItsWay::begin(under_way.clone())) });
    let server = match Http3Server::start(connection, hold).await {
        Ok(server) => server,
        Err(error) => return tracing::debug!(remote = %caller.remote, %error, "an HTTP/3 connection ended before it began"),
    };
    let mut told = false;
    loop {
        let request = tokio::select! {
            request = server.next() => request,
            () = worker.drain_begins(&caller), if !told => {
                // No new request; those under way go on.
                server.leave().await;
                told = true;
                continue;
            }
            () = server.idle(), if told => return,
        };
        let Some(request) = request else { return };
        let (worker, caller) = (worker.clone(), caller.clone());
        spawn_local(async move {
            if let Some((head, body, responder)) = request.read().await {
                exchange::run(&worker, &caller, head, body, Responder::Http3(responder)).await;
            }
        });
    }
}
