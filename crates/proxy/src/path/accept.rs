//! accept: which listener a connection came to, and what that makes of it.
//!
//! Outbound: the original destination says which service port is meant, or that it is none of the mesh's. Inbound:
//! mutual TLS, or plaintext where a policy permits it. Everything refused is refused at once, by a reset, and recorded.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lorica_capture::{ListenerLabel, original_destination};
use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{InboundPort, MtlsMode};
use lorica_observe::metrics::OwnMetric;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::caller::{Caller, Entry};
use super::detect::{self, Plan, Spoken};
use super::mtls::{self, Negotiated};
use super::record::ConnectionRecord;
use super::{egress, http, route, tcp};
use crate::config::{HEAD_TIMEOUT, MAX_CONNECTIONS};
use crate::stream::{Stream, prepare};
use crate::supervisor::Ending;
use crate::view::Reach;
use crate::worker::Worker;

/// Accepts on one listener until the proxy ends.
pub async fn serve(worker: Rc<Worker>, label: ListenerLabel, listener: TcpListener) {
    let mut ended = worker.ended.clone();
    let mut ending = worker.ending.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.wait_for(|ended| *ended) => return,
            _ = ending.wait_for(|ending| *ending == Ending::Closing) => return,
        };
        match accepted {
            Ok((tcp, remote)) => {
                if worker.connections.get() >= MAX_CONNECTIONS {
                    worker.telemetry.metrics.count(OwnMetric::CONNECTIONS_REFUSED, "", 1);
                    tracing::warn!("more than {MAX_CONNECTIONS} connections; one was refused");
                    continue;
                }
                let (worker, label) = (worker.clone(), label.clone());
                spawn_local(async move {
                    worker.connections.set(worker.connections.get() + 1);
                    let open = worker.telemetry.metrics.hold(OwnMetric::CONNECTIONS_OPEN, side(&label));
                    connection(&worker, &label, tcp, remote).await;
                    drop(open);
                    worker.connections.set(worker.connections.get() - 1);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps, and spinning would not.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// A step of a connection's way, on the heap: a connection is then as large as the step that it is in, not as the largest of all.
pub type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The side of the proxy that a listener is on.
fn side(label: &ListenerLabel) -> &'static str {
    match label {
        ListenerLabel::Inbound { .. } | ListenerLabel::Publish { .. } => "inbound",
        ListenerLabel::Outbound
        | ListenerLabel::Upstream { .. }
        | ListenerLabel::HostPort { .. }
        | ListenerLabel::DnsUdp
        | ListenerLabel::DnsTcp => "outbound",
    }
}

fn connection<'a>(worker: &'a Rc<Worker>, label: &'a ListenerLabel, tcp: TcpStream, remote: SocketAddr) -> Boxed<'a> {
    Box::pin(async move {
        if let Err(error) = prepare(&tcp) {
            tracing::debug!(%error, "a connection ended before it was looked at");
            return;
        }
        let Ok(local) = tcp.local_addr() else { return };
        match label {
            ListenerLabel::Outbound => match original_destination(std::os::fd::AsFd::as_fd(&tcp)) {
                Ok(destination) => outbound(worker, tcp, remote, destination).await,
                Err(error) => tracing::warn!(%error, "a captured connection does not say where it was going"),
            },
            ListenerLabel::Upstream { host, port } => match format!("{host}:{port}").parse::<ServicePort>() {
                Ok(port) => service_port(worker, tcp, remote, local, port).await,
                Err(error) => tracing::error!(%error, "an explicit listener has no service"),
            },
            ListenerLabel::Inbound { app_port } => inbound(worker, tcp, remote, local, *app_port).await,
            ListenerLabel::Publish { app_port } => published(worker, tcp, remote, local, *app_port).await,
            ListenerLabel::HostPort { port } => egress::host_port(worker, tcp, remote, *port).await,
            // Served by `dns`.
            ListenerLabel::DnsUdp | ListenerLabel::DnsTcp => {}
        }
    })
}

/// The app calls an address.
fn outbound<'a>(worker: &'a Rc<Worker>, tcp: TcpStream, remote: SocketAddr, destination: SocketAddr) -> Boxed<'a> {
    Box::pin(async move {
        let known = worker.view().service_at(destination.ip()).cloned();
        match known {
            Some(service) => service_port(worker, tcp, remote, destination, ServicePort { service, port: destination.port() }).await,
            None if of_the_mesh(destination.ip()) => {
                // An address of the mesh that no service has (any more): no host outside could answer.
                ConnectionRecord::outside(worker, remote, destination).fail(Reason::NoSuchPort, "no service has this address");
                Stream::Plain(tcp).reset_on_close();
            }
            None => egress::outbound(worker, tcp, remote, destination).await,
        }
    })
}

/// 240.0.0.0/12: where services and workloads have their virtual addresses.
fn of_the_mesh(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 240 && v4.octets()[1] < 16)
}

/// The app calls a service port.
fn service_port<'a>(worker: &'a Rc<Worker>, tcp: TcpStream, remote: SocketAddr, local: SocketAddr, port: ServicePort) -> Boxed<'a> {
    Box::pin(async move {
        let caller = Caller::new(worker, Entry::Outbound { port: port.clone() }, remote, local, None);
        let stream = Stream::Plain(tcp);
        match route::reach(worker, &port).await {
            Ok(reach) => match detect::plan(reach.unit.protocol, reach.unit.http_only) {
                Plan::Relay => tcp::outbound(worker, &caller, stream, Bytes::new(), &reach, None).await,
                Plan::Http => spoken_http(worker, caller, stream).await,
                Plan::Detect => detected(worker, caller, stream, &reach).await,
            },
            Err(reason) => refuse(worker, &caller, &stream, reason, ""),
        }
    })
}

/// A connection that must speak HTTP: only the version is open.
pub(super) fn spoken_http<'a>(worker: &'a Rc<Worker>, caller: Caller, mut stream: Stream) -> Boxed<'a> {
    Box::pin(async move {
        let mut buffer = BytesMut::with_capacity(http::FIRST_READ);
        let spoken = timeout(HEAD_TIMEOUT, async {
            loop {
                if let Some(spoken) = detect::spoken(&buffer) {
                    return Some(spoken);
                }
                if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                    return None;
                }
            }
        });
        match spoken.await {
            Ok(Some(Spoken::Http1)) => http::serve(worker, caller.into(), stream, buffer.freeze(), Negotiated::Http1).await,
            Ok(Some(Spoken::Http2)) => http::serve(worker, caller.into(), stream, buffer.freeze(), Negotiated::Http2).await,
            // Outside, whoever means HTTP and gets it wrong is told so; the codec knows how.
            Ok(Some(Spoken::Other))
                if matches!(caller.entry, Entry::Gateway { .. }) && buffer.first().is_some_and(u8::is_ascii_graphic) =>
            {
                http::serve(worker, caller.into(), stream, buffer.freeze(), Negotiated::Http1).await;
            }
            Ok(Some(Spoken::Tls | Spoken::Other)) => refuse(worker, &caller, &stream, Reason::NotHttp, "the first bytes are no HTTP"),
            // Opened and closed without a word, as health checks and pools do.
            Ok(None) if buffer.is_empty() => {}
            Ok(None) => refuse(worker, &caller, &stream, Reason::ClientClosed, "it closed before its first line was complete"),
            Err(_) => refuse(worker, &caller, &stream, Reason::HeadTimeout, "no first line came in time"),
        }
    })
}

/// A connection of which nothing is known: bytes decide, and whoever sends the first. While the app is silent the proxy has
/// connected already, only as far as TCP goes, so that a server which speaks first is not kept waiting.
fn detected<'a>(worker: &'a Rc<Worker>, caller: Caller, mut stream: Stream, reach: &'a Reach) -> Boxed<'a> {
    Box::pin(async move {
        let mut sent = BytesMut::with_capacity(http::FIRST_READ);
        let mut answered = BytesMut::new();
        let remote = caller.remote.ip();
        let mut connecting = Box::pin(async {
            // Who speaks first has mostly done so by then, and its connection may be another one.
            tokio::time::sleep(SILENCE).await;
            tcp::connect(worker, reach, remote).await
        });
        let mut upstream: Option<Result<tcp::Upstream, super::connect::NotConnected>> = None;
        let spoken = loop {
            if let Some(spoken) = detect::spoken(&sent) {
                break spoken;
            }
            let settled = upstream.is_some();
            let mut connection = None;
            let first_word = async {
                match &mut upstream {
                    Some(Ok(upstream)) => upstream.stream.read_buf(&mut answered).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                read = stream.read_buf(&mut sent) => match read {
                    Ok(1..) => {}
                    Ok(_) if sent.is_empty() && !settled => return,
                    Ok(_) => break Spoken::Other,
                    Err(_) => return,
                },
                _ = first_word => break Spoken::Other,
                connected = &mut connecting, if !settled => connection = Some(connected),
            }
            if let Some(connected) = connection {
                upstream = Some(connected);
            }
        };
        // Half a connection must hold up nobody who waits for a whole one.
        drop(connecting);
        worker.telemetry.metrics.count(OwnMetric::PROTOCOL_DETECTED, spoken.word(), 1);
        let version = match spoken {
            Spoken::Http1 => Negotiated::Http1,
            Spoken::Http2 => Negotiated::Http2,
            Spoken::Tls | Spoken::Other => {
                let early = tcp::Early { upstream, answered: answered.freeze() };
                return tcp::outbound(worker, &caller, stream, sent.freeze(), reach, Some(early)).await;
            }
        };
        // The hop for HTTP is another one (ALPN says so), and pooled: what was connected meanwhile is of no use.
        drop(upstream);
        http::serve(worker, caller.into(), stream, sent.freeze(), version).await;
    })
}

/// How long an app may be silent before the upstream is connected to, in case that speaks first.
const SILENCE: Duration = Duration::from_millis(2);

/// Somebody calls the app through the mesh.
fn inbound<'a>(worker: &'a Rc<Worker>, tcp: TcpStream, remote: SocketAddr, local: SocketAddr, app_port: u16) -> Boxed<'a> {
    Box::pin(async move {
        let Some(port) = worker.inbound_port(app_port) else {
            tracing::warn!(app_port, "a call came before the control plane had said what this port takes; it was refused");
            return Stream::Plain(tcp).reset_on_close();
        };
        let caller = |peer, server_name| {
            Caller::new(worker, Entry::Inbound { port: port.clone(), peer, published: false }, remote, local, server_name)
        };
        let mut first = [0];
        let plain = match timeout(HEAD_TIMEOUT, tcp.peek(&mut first)).await {
            Ok(Ok(1..)) => first[0] != TLS_HANDSHAKE,
            // Opened and closed without a word.
            Ok(_) => return,
            Err(_) => return refuse(worker, &caller(None, None), &Stream::Plain(tcp), Reason::HeadTimeout, "no first byte came in time"),
        };
        if plain {
            let caller = caller(None, None);
            return match port.mtls {
                MtlsMode::Strict => {
                    refuse(worker, &caller, &Stream::Plain(tcp), Reason::PlaintextRefused, "the port takes mutual TLS only")
                }
                MtlsMode::Permissive => plaintext(worker, caller, tcp, &port).await,
            };
        }
        let Some(epoch) = worker.epoch() else {
            return refuse(worker, &caller(None, None), &Stream::Plain(tcp), Reason::ClientTls, worker.source.without_svid());
        };
        match mtls::accept(tcp, &port.service_port, mtls::alpn(port.protocol), &epoch).await {
            Ok(authenticated) => {
                let admitted = worker.admit(authenticated.stream, &authenticated.peer);
                let caller = caller(Some(Arc::new(authenticated.peer)), authenticated.server_name);
                let stream = match admitted {
                    Ok(stream) => stream,
                    Err(why) => return ConnectionRecord::begin(worker, &caller).fail(Reason::ClientTls, why),
                };
                match authenticated.protocol {
                    Some(version) => http::serve(worker, caller.into(), stream, Bytes::new(), version).await,
                    None if port.protocol.is_http() => {
                        refuse(worker, &caller, &stream, Reason::NotHttp, "the port speaks HTTP; bytes would pass its rules by")
                    }
                    None => tcp::inbound(worker, &caller, stream, Bytes::new()).await,
                }
            }
            Err(error) => {
                tracing::debug!(%remote, %error, "a caller was not let in");
                ConnectionRecord::begin(worker, &caller(None, None)).fail(error.reason, error.detail);
            }
        }
    })
}

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// A published port: callers without a mesh.
fn published<'a>(worker: &'a Rc<Worker>, tcp: TcpStream, remote: SocketAddr, local: SocketAddr, app_port: u16) -> Boxed<'a> {
    Box::pin(async move {
        let port = worker.inbound_port(app_port).unwrap_or_else(|| worker.undeclared_port(app_port));
        let caller = Caller::new(worker, Entry::Inbound { port: port.clone(), peer: None, published: true }, remote, local, None);
        plaintext(worker, caller, tcp, &port).await;
    })
}

/// A caller without an identity, where one may be without.
fn plaintext<'a>(worker: &'a Rc<Worker>, caller: Caller, tcp: TcpStream, port: &'a InboundPort) -> Boxed<'a> {
    Box::pin(async move {
        let mut stream = Stream::Plain(tcp);
        match detect::plan(port.protocol, false) {
            Plan::Relay => tcp::inbound(worker, &caller, stream, Bytes::new()).await,
            Plan::Http => spoken_http(worker, caller, stream).await,
            Plan::Detect => {
                let mut sent = BytesMut::with_capacity(http::FIRST_READ);
                let spoken = timeout(DETECT_INBOUND, async {
                    while detect::spoken(&sent).is_none() && matches!(stream.read_buf(&mut sent).await, Ok(1..)) {}
                    detect::spoken(&sent)
                });
                // Silence for so long is a server's turn to speak.
                let spoken = spoken.await.ok().flatten().unwrap_or(Spoken::Other);
                worker.telemetry.metrics.count(OwnMetric::PROTOCOL_DETECTED, spoken.word(), 1);
                match spoken {
                    Spoken::Http1 => http::serve(worker, caller.into(), stream, sent.freeze(), Negotiated::Http1).await,
                    Spoken::Http2 => http::serve(worker, caller.into(), stream, sent.freeze(), Negotiated::Http2).await,
                    Spoken::Tls | Spoken::Other => tcp::inbound(worker, &caller, stream, sent.freeze()).await,
                }
            }
        }
    })
}

/// How long a plaintext caller of an undeclared port may be silent before the app is connected to.
const DETECT_INBOUND: Duration = Duration::from_millis(200);

pub(super) fn refuse(worker: &Rc<Worker>, caller: &Caller, stream: &Stream, reason: Reason, detail: &str) {
    ConnectionRecord::begin(worker, caller).fail(reason, detail);
    stream.reset_on_close();
}
