//! gateway: what comes in at a listener port of a gateway. The port, the server name that TLS asks for, and the host of a request say
//! which rules are asked; from there on the way is that of every other exchange.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lorica_model::head::RequestHead;
use lorica_model::name::{ServiceName, ServicePort};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{
    Backend, GatewayUnit, HostPattern, Hosts, HttpRule, Listening, Terminated, TlsAction, TlsChain, TransportRoute, evades, route,
};
use lorica_observe::metrics::OwnMetric;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::StartHandshake;
use tokio_rustls::rustls::server::{Accepted, Acceptor};

use super::accept::{Boxed, refuse, spoken_http};
use super::authorize;
use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::mtls::Negotiated;
use super::record::ConnectionRecord;
use super::{egress, http, tcp};
use crate::config::{HANDSHAKE_TIMEOUT, MAX_CONNECTIONS};
use crate::stream::{Stream, prepare};
use crate::supervisor::Ending;
use crate::view::View;
use crate::worker::Worker;

/// Accepts on one listener port until the proxy ends or `closed` says that the gateway has it no more.
pub async fn serve(worker: Rc<Worker>, port: u16, listener: TcpListener, mut closed: watch::Receiver<bool>) {
    let mut ended = worker.ended.clone();
    let mut ending = worker.ending.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.wait_for(|ended| *ended) => return,
            _ = ending.wait_for(|ending| *ending == Ending::Closing) => return,
            // An error means that whoever could close it is gone, and the proxy with it.
            _ = closed.wait_for(|closed| *closed) => return,
        };
        match accepted {
            Ok((tcp, remote)) => {
                if worker.connections.get() >= MAX_CONNECTIONS {
                    worker.telemetry.metrics.count(OwnMetric::CONNECTIONS_REFUSED, "", 1);
                    tracing::warn!("more than {MAX_CONNECTIONS} connections; one was refused");
                    continue;
                }
                let worker = worker.clone();
                spawn_local(async move {
                    worker.connections.set(worker.connections.get() + 1);
                    let open = worker.telemetry.metrics.hold(OwnMetric::CONNECTIONS_OPEN, "gateway");
                    connection(&worker, port, tcp, remote).await;
                    drop(open);
                    worker.connections.set(worker.connections.get() - 1);
                });
            }
            Err(error) => {
                tracing::warn!(%error, port, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

/// The rules by host of a port, or of what is done there with some server names.
#[must_use]
pub fn hosts<'v>(view: &'v View, port: u16, chain: Option<&HostPattern>) -> Option<&'v Hosts> {
    match (&view.snapshot.gateway.get(&port)?.listening, chain) {
        (Listening::Http(hosts), None) => Some(hosts),
        (Listening::Tls(chains), Some(name)) => match &chains.iter().find(|chain| chain.server_name == *name)?.action {
            TlsAction::Terminate { then: Terminated::Http(hosts), .. } => Some(hosts),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a request may go on by `rule`, which its path chose: however an app reads that, it leads to the same policies.
///
/// # Errors
/// [`Reason::AmbiguousPath`].
pub fn led_by_its_path(
    worker: &Worker,
    port: u16,
    chain: Option<&HostPattern>,
    rule: &Arc<HttpRule>,
    head: &RequestHead,
) -> Result<(), Failure> {
    let view = worker.view();
    let rules = hosts(&view, port, chain).and_then(|hosts| hosts.rules(head.authority()));
    match rules.and_then(|rules| evades(rules, rule, head)) {
        Some(why) => Err(Failure::new(Reason::AmbiguousPath, format!("the path cannot be told from one of another route: {why}"))),
        None => Ok(()),
    }
}

/// Where bytes go that come to a port, or by some server names.
#[must_use]
pub fn transport<'v>(view: &'v View, port: u16, chain: Option<&HostPattern>) -> Option<&'v TransportRoute> {
    match (&view.snapshot.gateway.get(&port)?.listening, chain) {
        (Listening::Tcp(route), None) => route.as_ref(),
        (Listening::Tls(chains), Some(name)) => match &chains.iter().find(|chain| chain.server_name == *name)?.action {
            TlsAction::Passthrough(route) => Some(route),
            TlsAction::Terminate { then: Terminated::Tcp(route), .. } => route.as_ref(),
            TlsAction::Terminate { .. } => None,
        },
        _ => None,
    }
}

/// What is done with connections for a server name: the most specific chain that takes it. Without a name only the chain for all does.
#[must_use]
pub fn chain<'u>(chains: &'u [TlsChain], server_name: Option<&str>) -> Option<&'u TlsChain> {
    let name = server_name.unwrap_or_default().to_ascii_lowercase();
    chains.iter().filter(|chain| chain.server_name.takes(&name)).max_by_key(|chain| chain.server_name.specificity())
}

fn connection<'a>(worker: &'a Rc<Worker>, port: u16, tcp: TcpStream, remote: SocketAddr) -> Boxed<'a> {
    Box::pin(async move {
        if let Err(error) = prepare(&tcp) {
            tracing::debug!(%error, "a connection ended before it was looked at");
            return;
        }
        let Ok(local) = tcp.local_addr() else { return };
        let entry = |chain: Option<HostPattern>, tls| Entry::Gateway { port, chain, tls };
        let plain = |worker: &Rc<Worker>| Caller::new(worker, entry(None, false), remote, local, None);
        let Some(unit) = worker.view().snapshot.gateway.get(&port).cloned() else {
            return refuse(
                worker,
                &plain(worker),
                &Stream::Plain(tcp),
                Reason::NoConfiguration,
                "the gateway has no listener there any more",
            );
        };
        match &unit.listening {
            Listening::Http(_) => spoken_http(worker, plain(worker), Stream::Plain(tcp)).await,
            Listening::Tcp(route) => bytes(worker, plain(worker), Stream::Plain(tcp), Bytes::new(), route.as_ref()).await,
            Listening::Tls(_) => tls(worker, unit, tcp, remote, local).await,
            Listening::Egress(_) => {
                let name = ServiceName::new(unit.gateway.namespace.clone(), unit.gateway.account());
                egress::at_gateway(worker, ServicePort { service: name, port }, tcp, remote, local).await;
            }
            // Datagrams have no connections.
            Listening::Udp(_) => {}
        }
    })
}

fn tls<'a>(worker: &'a Rc<Worker>, unit: Arc<GatewayUnit>, mut tcp: TcpStream, remote: SocketAddr, local: SocketAddr) -> Boxed<'a> {
    Box::pin(async move {
        let Listening::Tls(chains) = &unit.listening else { return };
        let entry = |chain: Option<HostPattern>| Entry::Gateway { port: unit.port, chain, tls: true };
        let mut read = BytesMut::new();
        let hello = match timeout(HANDSHAKE_TIMEOUT, hello(&mut tcp, &mut read)).await {
            Ok(Ok(Some(hello))) => hello,
            // Opened and closed without a word.
            Ok(Ok(None)) => return,
            failed => {
                let caller = Caller::new(worker, entry(None), remote, local, None);
                let detail = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no TLS handshake began in time".to_owned(),
                };
                return refuse(worker, &caller, &Stream::Plain(tcp), Reason::ClientTls, &detail);
            }
        };
        let server_name = hello.client_hello().server_name().map(str::to_owned);
        let Some(chain) = chain(chains, server_name.as_deref()) else {
            let caller = Caller::new(worker, entry(None), remote, local, server_name);
            return refuse(worker, &caller, &Stream::Plain(tcp), Reason::NoRoute, "no listener takes this server name");
        };
        let caller = Caller::new(worker, entry(Some(chain.server_name.clone())), remote, local, server_name);
        let then = match &chain.action {
            TlsAction::Passthrough(route) => return bytes(worker, caller, Stream::Plain(tcp), read.freeze(), Some(route)).await,
            TlsAction::Terminate { then, .. } => then,
        };
        let config = match worker.view().server_config(unit.port, &chain.server_name) {
            Some(Ok(config)) => config.clone(),
            Some(Err(error)) => return refuse(worker, &caller, &Stream::Plain(tcp), Reason::ClientTls, error),
            None => return refuse(worker, &caller, &Stream::Plain(tcp), Reason::NoConfiguration, "the listener was changed meanwhile"),
        };
        // What was read of the hello is with rustls already.
        drop(read);
        let stream = match timeout(HANDSHAKE_TIMEOUT, StartHandshake::from_parts(hello, tcp).into_stream(config)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return ConnectionRecord::begin(worker, &caller).fail(Reason::ClientTls, error.to_string()),
            Err(_) => return ConnectionRecord::begin(worker, &caller).fail(Reason::ClientTls, "the TLS handshake took too long"),
        };
        let version = stream.get_ref().1.alpn_protocol().and_then(Negotiated::of);
        let stream = Stream::Tls(Box::new(stream.into()));
        match (then, version) {
            (Terminated::Tcp(route), _) => bytes(worker, caller, stream, Bytes::new(), route.as_ref()).await,
            (Terminated::Http(_), Some(version)) => http::serve(worker, caller.into(), stream, Bytes::new(), version).await,
            // A client without ALPN says by its first bytes what it speaks.
            (Terminated::Http(_), None) => spoken_http(worker, caller, stream).await,
        }
    })
}

/// The most bytes of a client's hello: post-quantum keys and a few hundred names fit in.
const MAX_HELLO: usize = 64 * 1024;

/// Reads a client's hello and keeps its bytes, for whoever the connection may be passed on to; none where it closes before it said a word.
///
/// # Errors
/// What is no hello, or too long for one.
pub(super) async fn hello(tcp: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<Accepted>> {
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        let mut fresh = &read[seen..];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Some(accepted)),
                Ok(None) => {}
                Err((error, _alert)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        seen = read.len();
        if seen > MAX_HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client's hello is longer than 64 KiB"));
        }
        if tcp.read_buf(read).await? == 0 {
            return if read.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// Passes bytes on to where a route leads.
fn bytes<'a>(worker: &'a Rc<Worker>, caller: Caller, stream: Stream, sent: Bytes, to: Option<&'a TransportRoute>) -> Boxed<'a> {
    Box::pin(async move {
        let Some(to) = to else {
            return refuse(worker, &caller, &stream, Reason::NoRoute, "no route is attached to the listener");
        };
        if let Err(failure) = authorize::connection(worker, &caller) {
            return refuse(worker, &caller, &stream, failure.reason, &failure.detail);
        }
        let drawn = route::backend(&to.backends, fastrand::f64(), &mut ()).map(|index| &to.backends[index].backend);
        let reached = match drawn {
            Ok(Backend::Port(port)) => worker.view().reach(port).cloned(),
            Ok(Backend::Missing { .. }) | Err(_) => {
                return refuse(worker, &caller, &stream, Reason::NoBackend, "the route leads to no service");
            }
        };
        match reached {
            Some(reach) => tcp::gateway(worker, &caller, stream, sent, &reach, &to.origin).await,
            None => refuse(worker, &caller, &stream, Reason::NoConfiguration, "what is known of the service has not come yet"),
        }
    })
}
