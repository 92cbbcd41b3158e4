//! egress: a connection to a host outside the mesh: from the app, directly or through an egress gateway; and at such a gateway, from the
//! workloads of the mesh.
//!
//! An address says little, and what an app says of itself may be false. So a name counts where our DNS told it for the address, or where
//! the app says it (SNI, Host): then it is looked up again, and the connection goes to what the name means and nowhere else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lorica_identity::PeerIdentity;
use lorica_model::head::{Edits, Fields, RequestHead, ResponseHead, Version};
use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Backend, EgressHost, EgressRule, EgressUnit, HostPattern, Listening, Verdict, is_special, listed};
use lorica_xds::refused::Refusal;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::accept::{Boxed, refuse};
use super::caller::{Caller, Entry};
use super::connect::NotConnected;
use super::detect::{self, Spoken};
use super::mtls::{self, Negotiated};
use super::record::ConnectionRecord;
use super::relay::{Read, relay};
use super::respond::{self, own_answer};
use super::tcp::TCP_IDLE;
use super::{gateway, pick, route};
use crate::config::{HEAD_TIMEOUT, MAX_ATTEMPTS};
use crate::endpoints::Wanted;
use crate::pool::Reuse;
use crate::source::Source;
use crate::stream::{Stream, prepare};
use crate::wire::{self, Body, Http1Server, Http2Server, Responder};
use crate::worker::Worker;

/// How long connecting to a host outside the mesh may take: as long as an app would wait for a few lost SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a gateway may take to connect to it, and to say so.
const THROUGH_TIMEOUT: Duration = Duration::from_secs(12);
/// How long an app may take to say whom it wants, where that decides. What speaks first at all does so at once; of one that waits for the
/// other side, no more is known then than what DNS told it.
const NAME_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the host's resolvers may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The most look-ups at once; each may hold a thread.
const MAX_LOOKUPS: usize = 64;
/// The most bytes that an app's first words may have until they name somebody.
const MAX_FIRST_WORDS: usize = 64 * 1024;

/// An app's connection to an address that is none of the mesh's.
pub fn outbound<'a>(worker: &'a Rc<Worker>, tcp: TcpStream, remote: SocketAddr, destination: SocketAddr) -> Boxed<'a> {
    Box::pin(async move {
        let record = ConnectionRecord::outside(worker, remote, destination);
        let unit = match (&worker.view().snapshot.egress, &worker.source) {
            (Some(unit), _) => unit.clone(),
            (None, Source::Files(_)) => Arc::new(EgressUnit::open(worker.own.workload.clone())),
            (None, Source::ControlPlane(_)) => {
                record.fail(Reason::NoConfiguration, "what may leave the mesh has not come yet");
                return Stream::Plain(tcp).reset_on_close();
            }
        };
        let mut leaving = Leaving { worker, tcp, record, destination, said: BytesMut::new(), name: None };
        if unit.is_open() {
            return leaving.directly(None).await;
        }
        let names = worker.told.names(destination.ip(), Instant::now());
        leaving.name = names.first().cloned();
        match unit.decide(destination.ip(), destination.port(), &names) {
            Verdict::Allowed(rule) => leaving.by(rule, None).await,
            Verdict::IfNamed => leaving.if_named(&unit, names).await,
            Verdict::Denied => leaving.denied().await,
        }
    })
}

/// An app's connection to a port of the host's loopback that it was given when it started: no policy forbids that.
pub fn host_port<'a>(worker: &'a Rc<Worker>, tcp: TcpStream, remote: SocketAddr, port: u16) -> Boxed<'a> {
    Box::pin(async move {
        let destination = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let record = ConnectionRecord::outside(worker, remote, destination);
        Leaving { worker, tcp, record, destination, said: BytesMut::new(), name: None }.directly(None).await;
    })
}

/// A connection that wants to leave the mesh.
struct Leaving<'a> {
    worker: &'a Rc<Worker>,
    tcp: TcpStream,
    record: ConnectionRecord<'a>,
    destination: SocketAddr,
    /// What the app has said so far.
    said: BytesMut,
    /// Whom it wants, as far as that is known.
    name: Option<String>,
}

impl Leaving<'_> {
    /// Waits for the app to say whom it wants.
    async fn if_named(mut self, unit: &EgressUnit, mut names: Vec<String>) {
        let port = self.destination.port();
        if let Some(claimed) = &self.claimed().await {
            self.name = Some(claimed.clone());
            let by_name = unit.decide_finally(None, port, std::slice::from_ref(claimed));
            if let Verdict::Allowed(Some(rule)) = by_name
                && !matches!(rule.host, EgressHost::Name(HostPattern::Any))
            {
                return self.by_its_name(rule, claimed).await;
            }
            // It says itself that it means none of the others.
            names = vec![claimed.clone()];
        }
        match unit.decide_finally(Some(self.destination.ip()), port, &names) {
            Verdict::Allowed(rule) => self.by(rule, None).await,
            Verdict::IfNamed | Verdict::Denied => self.denied().await,
        }
    }

    /// To whom the app says that it wants: to the address that it wanted if that is theirs, else to theirs.
    async fn by_its_name(self, rule: &EgressRule, name: &str) {
        if rule.via.is_some() {
            return self.by(Some(rule), None).await;
        }
        match lookup(self.worker, name, self.destination.port()).await {
            Ok(addresses) if addresses.contains(&self.destination) => self.by(Some(rule), None).await,
            Ok(addresses) => self.by(Some(rule), Some(addresses)).await,
            Err(error) => self.failed(Reason::OutsideFailed, format!("{name}: {error}")),
        }
    }

    /// As a rule says; none: as nothing forbids it. `addresses`: to one of these, where it is not the one that the app wanted.
    async fn by(mut self, rule: Option<&EgressRule>, addresses: Option<Vec<SocketAddr>>) {
        if let Some(rule) = rule {
            self.record.rule(&rule.origin);
            if let Some(name) = &self.name {
                self.record.outside_named(&format!("{name}:{}", self.destination.port()));
            }
        }
        match rule.and_then(|rule| rule.via.as_ref()) {
            Some(gateway) => self.through(gateway).await,
            None => self.directly(addresses).await,
        }
    }

    async fn directly(mut self, addresses: Option<Vec<SocketAddr>>) {
        match connect(&addresses.unwrap_or_else(|| vec![self.destination])).await {
            Ok((upstream, address)) => {
                self.record.outside_at(address);
                self.relayed(Stream::Plain(upstream)).await;
            }
            Err(error) => self.failed(Reason::OutsideFailed, error.to_string()),
        }
    }

    async fn through(mut self, gateway: &Backend) {
        let host = match (&self.name, self.destination.ip()) {
            (Some(name), _) => name.clone(),
            (None, IpAddr::V4(address)) => address.to_string(),
            (None, IpAddr::V6(address)) => format!("[{address}]"),
        };
        let asked = format!("{host}:{}", self.destination.port());
        match through(self.worker, gateway, &asked, &mut self.record).await {
            Ok(upstream) => self.relayed(upstream).await,
            Err(error) if error.reason == Reason::EgressDenied => self.denied().await,
            Err(error) => self.failed(error.reason, error.detail),
        }
    }

    async fn relayed(mut self, mut upstream: Stream) {
        let read = Read { client: self.said.freeze(), upstream: Bytes::new() };
        let relayed = self.worker.until_ended(relay(&mut self.tcp, &mut upstream, read, Some(TCP_IDLE))).await;
        self.record.end(relayed);
    }

    fn failed(self, reason: Reason, detail: String) {
        self.record.fail(reason, detail);
        Stream::Plain(self.tcp).reset_on_close();
    }

    /// Tells the app, as far as it can be told, and the control plane.
    async fn denied(mut self) {
        if self.said.is_empty() {
            self.name = self.claimed().await.or(self.name.take());
        }
        let Self { worker, tcp, record, destination, said, name } = self;
        let whom = name.clone().unwrap_or_else(|| destination.ip().to_string());
        let own = &worker.own;
        record.fail(
            Reason::EgressDenied,
            format!("no EgressPolicy lists {whom}:{} for {}/{}", destination.port(), own.namespace, own.account),
        );
        worker.refused(Refusal { caller: None, host: name, address: Some(destination.ip()), port: destination.port() });
        let stream = Stream::Plain(tcp);
        if detect::spoken(&said) == Some(Spoken::Http1) {
            let answer = own_answer(Reason::EgressDenied, None);
            let server = Http1Server::new(stream, &said, HEAD_TIMEOUT);
            return server.refuse(answer.status, Reason::EgressDenied.meaning().word, &answer.body).await;
        }
        stream.reset_on_close();
    }

    /// Whom the app says that it wants: by the server name of TLS, or by HTTP's Host; in lower case.
    async fn claimed(&mut self) -> Option<String> {
        let claimed = timeout(NAME_TIMEOUT, claim(&mut self.tcp, &mut self.said)).await.ok()??;
        let host = lorica_model::snapshot::without_port(&claimed).to_ascii_lowercase();
        Some(host.strip_suffix('.').map_or_else(|| host.clone(), str::to_owned)).filter(|host| host.parse::<IpAddr>().is_err())
    }
}

/// Reads until whom the app wants is clear, or that it does not say.
async fn claim(tcp: &mut TcpStream, said: &mut BytesMut) -> Option<String> {
    use tokio::io::AsyncReadExt;
    loop {
        match detect::spoken(said) {
            Some(Spoken::Tls) => {
                let hello = gateway::hello(tcp, said).await.ok()??;
                return hello.client_hello().server_name().map(str::to_owned);
            }
            Some(Spoken::Http1) => {
                if let Some(host) = wire::host(said) {
                    return host;
                }
            }
            Some(Spoken::Http2 | Spoken::Other) => return None,
            None => {}
        }
        if said.len() > MAX_FIRST_WORDS || !matches!(tcp.read_buf(said).await, Ok(1..)) {
            return None;
        }
    }
}

/// The addresses of a name that may be gone to.
async fn lookup(worker: &Worker, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if worker.lookups.get() >= MAX_LOOKUPS {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many names are looked up at once"));
    }
    worker.lookups.set(worker.lookups.get() + 1);
    let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    worker.lookups.set(worker.lookups.get() - 1);
    let found = found.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the host's resolvers did not answer in time"))??;
    let addresses: Vec<SocketAddr> = found.filter(|address| !is_special(address.ip())).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "it has no address to which a name may lead"));
    }
    Ok(addresses)
}

/// Connects to one of some addresses, tried in order, all within [`CONNECT_TIMEOUT`].
async fn connect(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let connecting = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(tcp) => {
                    prepare(&tcp)?;
                    return Ok((tcp, *address));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

/// A connection through an egress gateway to whom is asked for, `HOST:PORT`.
async fn through(worker: &Rc<Worker>, gateway: &Backend, asked: &str, record: &mut ConnectionRecord<'_>) -> Result<Stream, NotConnected> {
    let port: &ServicePort = match gateway {
        Backend::Port(port) => port,
        Backend::Missing { name } => {
            return Err(NotConnected::new(Reason::NoBackend, format!("it is to go through {name}, which is no egress gateway")));
        }
    };
    let called = route::reach(worker, port).await.map_err(|reason| NotConnected::new(reason, format!("the egress gateway {port}")))?;
    let mut tried = pick::Tried::new();
    loop {
        let wanted = Wanted { tried: &tried, ..Wanted::default() };
        let pick::Ready { active, at } = pick::ready(worker, &called, wanted, Instant::now()).await?;
        let reach = at.reach(&called);
        tried.push(active.live.id);
        let answered = async {
            let lease = pick::endpoint(worker, reach, &active, Negotiated::Http2, Reuse::Any, Instant::now()).await?;
            let peer = lease.facts.peer.clone();
            let answered = lease.connect(asked).await.map_err(|error| NotConnected::new(Reason::ConnectFailed, error.to_string()))?;
            Ok((answered, peer))
        };
        let failed = match timeout(THROUGH_TIMEOUT, answered).await {
            Ok(Ok((Ok(stream), peer))) => {
                active.connected(Instant::now());
                record.upstream(active.live.id, &active.live.endpoint, peer.as_deref());
                return Ok(stream);
            }
            Ok(Ok((Err(refused), _))) => {
                let reason = if refused.status == 403 { Reason::EgressDenied } else { Reason::OutsideFailed };
                let why = refused.fields.get_str("x-lorica-reason").unwrap_or("no reason");
                return Err(NotConnected::new(reason, format!("the egress gateway answered {} for {asked}: {why}", refused.status)));
            }
            Ok(Err(error)) => error,
            Err(_) => NotConnected::new(Reason::ConnectTimeout, format!("the egress gateway did not answer for {asked} in time")),
        };
        active.failed(failed.reason, Instant::now());
        tracing::debug!(endpoint = %active.live.endpoint.address, error = %failed, "an egress gateway could not be reached");
        if called.is_exhausted(&tried) || tried.len() >= MAX_ATTEMPTS as usize {
            return Err(failed);
        }
    }
}

/// A connection of a workload to the egress gateway that this proxy runs: CONNECT requests in mutual TLS.
pub fn at_gateway<'a>(worker: &'a Rc<Worker>, port: ServicePort, tcp: TcpStream, remote: SocketAddr, local: SocketAddr) -> Boxed<'a> {
    Box::pin(async move {
        let entry = |peer| Entry::Egress { port: port.clone(), peer };
        let nobody = || Caller::new(worker, entry(None), remote, local, None);
        let Some(epoch) = worker.epoch() else {
            return refuse(worker, &nobody(), &Stream::Plain(tcp), Reason::ClientTls, worker.source.without_svid());
        };
        let authenticated = match mtls::accept(tcp, &port, &[Negotiated::Http2.alpn()], &epoch).await {
            Ok(authenticated) => authenticated,
            Err(error) => return ConnectionRecord::begin(worker, &nobody()).fail(error.reason, error.detail),
        };
        let admitted = worker.admit(authenticated.stream, &authenticated.peer);
        let peer = Arc::new(authenticated.peer);
        let caller = Rc::new(Caller::new(worker, entry(Some(peer)), remote, local, authenticated.server_name));
        let stream = match admitted {
            Ok(stream) => stream,
            Err(why) => return ConnectionRecord::begin(worker, &caller).fail(Reason::ClientTls, why),
        };
        if caller.entry.peer().is_none_or(|peer| peer.id.trust_domain() != epoch.svid().id().trust_domain()) {
            let why = "an egress gateway is for workloads of its own mesh";
            return refuse(worker, &caller, &stream, Reason::AccessDenied, why);
        }
        if authenticated.protocol != Some(Negotiated::Http2) {
            return refuse(worker, &caller, &stream, Reason::NotHttp, "an egress gateway takes CONNECT requests of HTTP/2");
        }
        match Http2Server::start(stream, Bytes::new()).await {
            Ok(server) => requests(worker, caller, server).await,
            Err(error) => ConnectionRecord::begin(worker, &caller).fail(Reason::BadRequest, error.to_string()),
        }
    })
}

async fn requests(worker: &Rc<Worker>, caller: Rc<Caller>, mut server: Http2Server) {
    server.take_connect();
    let mut told = false;
    loop {
        let next = tokio::select! {
            next = server.next() => next,
            () = worker.drain_begins(&caller), if !told => {
                // No new one; those under way go on, driven by the same loop.
                server.graceful_shutdown();
                told = true;
                continue;
            }
        };
        match next {
            Ok(Some((head, body, responder))) => {
                let (worker, caller) = (worker.clone(), caller.clone());
                spawn_local(async move { requested(&worker, &caller, &head, body, Responder::Http2(responder)).await });
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(remote = %caller.remote, %error, "a connection to the egress gateway broke");
                return;
            }
        }
    }
}

/// One CONNECT request at an egress gateway.
fn requested<'a>(worker: &'a Rc<Worker>, caller: &'a Caller, head: &'a RequestHead, body: Body, responder: Responder) -> Boxed<'a> {
    Box::pin(async move {
        let Entry::Egress { port: own, peer: Some(peer) } = &caller.entry else { return };
        let mut record = ConnectionRecord::begin(worker, caller);
        let asked = head.authority();
        record.outside_named(asked);
        let (upstream, rule) = match wanted(worker, own, peer, head).await {
            Ok(found) => found,
            Err(error) => {
                record.fail(error.reason, error.detail);
                return respond::refuse_connect(responder, error.reason).await;
            }
        };
        record.rule(&rule.origin);
        record.app(&upstream);
        let taken = ResponseHead { version: Version::Http2, status: 200, fields: Fields::default() };
        match responder.upgrade(head, b"", &taken, &Edits::default(), body).await {
            Ok(mut tunnel) => {
                let mut upstream = upstream;
                let relayed = worker.until_ended(relay(&mut tunnel, &mut upstream, Read::default(), Some(TCP_IDLE))).await;
                record.end(relayed);
            }
            Err(error) => record.fail(Reason::ClientClosed, error.to_string()),
        }
    })
}

/// A connection to whom a CONNECT asks for, if a policy lets its caller have it.
async fn wanted(
    worker: &Rc<Worker>,
    own: &ServicePort,
    peer: &PeerIdentity,
    head: &RequestHead,
) -> Result<(TcpStream, EgressRule), NotConnected> {
    let asked = head.authority();
    if !head.is_method("CONNECT") || head.protocol().is_some() {
        return Err(NotConnected::new(Reason::NotImplemented, "an egress gateway takes CONNECT requests to hosts only"));
    }
    let parts = asked.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = parts.ok_or_else(|| NotConnected::new(Reason::BadRequest, format!("`{asked}` is no host with a port")))?;
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let name = address.is_none().then(|| host.to_ascii_lowercase());
    let view = worker.view();
    let rules = match view.snapshot.gateway.get(&own.port).map(|unit| &unit.listening) {
        Some(Listening::Egress(rules)) => rules.as_slice(),
        _ => &[],
    };
    let Some(rule) = listed(rules, Some(&peer.id), address, port, name.as_slice()) else {
        worker.refused(Refusal { caller: Some(peer.id.clone()), host: name, address, port });
        return Err(NotConnected::new(Reason::EgressDenied, format!("no EgressPolicy lets {} call {asked} through this gateway", peer.id)));
    };
    let addresses = match (address, &name) {
        (Some(address), _) => Ok(vec![SocketAddr::new(address, port)]),
        (None, Some(name)) => lookup(worker, name, port).await,
        (None, None) => Ok(Vec::new()),
    };
    let failed = |error: io::Error| NotConnected::new(Reason::OutsideFailed, format!("{asked}: {error}"));
    let (upstream, _) = connect(&addresses.map_err(failed)?).await.map_err(failed)?;
    Ok((upstream, rule.clone()))
}
