//! The names of the mesh for a captured app: queries in, answers out.
//!
//! Names that the mesh knows exactly are answered here; all others go to the host's own resolvers, since `contact` and
//! `app` are public domains too. What cannot be answered is answered SERVFAIL at once, never left hanging.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use lorica_model::name::{Namespace, ServiceName};
use lorica_model::snapshot::{NameAnswer, inject_name, tried_names};
use lorica_observe::Telemetry;
use lorica_observe::metrics::OwnMetric;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::observed::Judged;
use crate::told::Told;
use crate::view::View;

/// How long an answer about the mesh may be kept, in seconds. Addresses are stable, but a name may go.
const TTL: u32 = 5;
/// How long a resolver of the host may take before the next is asked. Shorter than the 5 s after which apps ask again.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(1500);
/// The most queries under way to the host's resolvers; more are answered SERVFAIL.
const MAX_FORWARDS: usize = 512;
/// The most connections over TCP at once.
const MAX_TCP: usize = 64;
/// How long a connection may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// What becomes of a query.
#[derive(Debug)]
enum Outcome {
    /// The answer.
    Reply(Vec<u8>),
    /// The host's resolvers are to be asked.
    Forward,
    /// It is no query; silence is the only safe answer.
    Ignore,
    /// What a FaultPolicy says in place of the answer; none: nothing.
    Fault(Option<Vec<u8>>),
}

/// Answers queries for one namespace.
pub struct Dns {
    namespace: Namespace,
    views: watch::Receiver<Arc<View>>,
    resolvers: Vec<SocketAddr>,
    host_has_ipv6: bool,
    app_has_ipv6: bool,
    forwards: Cell<usize>,
    connections: Cell<usize>,
    telemetry: Telemetry,
    told: Arc<Told>,
}

impl Dns {
    /// A server for apps of `namespace`. `app_has_ipv6`: whether the app's network namespace has IPv6 at all.
    #[must_use]
    pub fn new(
        namespace: Namespace,
        views: watch::Receiver<Arc<View>>,
        telemetry: Telemetry,
        told: Arc<Told>,
        app_has_ipv6: bool,
    ) -> Rc<Self> {
        let resolvers = host_resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        // A connected UDP socket finds out whether there is a route, without sending anything.
        let host_has_ipv6 = StdUdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect("[2000::1]:53")).is_ok();
        Rc::new(Self {
            namespace,
            views,
            resolvers,
            host_has_ipv6,
            app_has_ipv6,
            forwards: Cell::new(0),
            connections: Cell::new(0),
            telemetry,
            told,
        })
    }

    /// Serves a UDP socket to its end.
    pub async fn serve_udp(self: Rc<Self>, socket: UdpSocket) {
        let socket = Rc::new(socket);
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier answer; the socket itself goes on.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) => continue,
                Err(error) => return tracing::error!(%error, "the DNS socket failed"),
            };
            match self.outcome(&buffer[..length]) {
                Outcome::Reply(reply) | Outcome::Fault(Some(reply)) => {
                    let reply = fit(reply, &buffer[..length]);
                    if let Err(error) = socket.send_to(&reply, from).await {
                        tracing::debug!(%error, "a DNS answer could not be sent");
                    }
                }
                Outcome::Forward => {
                    let (server, socket, query) = (self.clone(), socket.clone(), buffer[..length].to_vec());
                    spawn_local(async move {
                        let reply = server.forward(&query, false).await;
                        if let Err(error) = socket.send_to(&reply, from).await {
                            tracing::debug!(%error, "a DNS answer could not be sent");
                        }
                    });
                }
                Outcome::Ignore | Outcome::Fault(None) => {}
            }
        }
    }

    /// Serves a TCP listener to its end.
    pub async fn serve_tcp(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if self.connections.get() < MAX_TCP => {
                    let server = self.clone();
                    spawn_local(async move {
                        server.connections.set(server.connections.get() + 1);
                        // A client that breaks off harms only itself.
                        if let Err(error) = server.serve_stream(stream).await {
                            tracing::debug!(%error, "a DNS connection ended");
                        }
                        server.connections.set(server.connections.get() - 1);
                    });
                }
                Ok(_) => tracing::warn!("more than {MAX_TCP} DNS connections; one was refused"),
                Err(error) => {
                    tracing::warn!(%error, "a DNS connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let query = timeout(TCP_IDLE, read_framed(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let reply = match self.outcome(&query) {
                Outcome::Reply(reply) | Outcome::Fault(Some(reply)) => reply,
                Outcome::Forward => self.forward(&query, true).await,
                Outcome::Ignore => return Ok(()),
                Outcome::Fault(None) => continue,
            };
            write_framed(&mut stream, &reply).await?;
        }
    }

    fn outcome(&self, query: &[u8]) -> Outcome {
        let view = self.views.borrow().clone();
        let fault = |service: &ServiceName| {
            let faults = &view.snapshot.egress.as_ref()?.names;
            for (policy, effects) in tried_names(faults, service, SystemTime::now(), fastrand::f64) {
                let (policy, called, why) = (policy.clone(), service.to_string(), "a question for its name".to_owned());
                view.vantage.shared.aside.tell(Judged { policy, calls: 1, effects, called, why });
            }
            let fault = inject_name(faults, service, SystemTime::now(), fastrand::f64)?;
            tracing::debug!(%service, policy = %fault.origin, "a question for a name meets a fault");
            self.telemetry.count(OwnMetric::FAULTS_INJECTED, "dns", 1);
            Some(fault.answer)
        };
        let outcome = answer(query, &view, &self.namespace, self.app_has_ipv6, self.host_has_ipv6, fault);
        let word = match &outcome {
            Outcome::Reply(_) => "answered",
            Outcome::Forward => "forwarded",
            Outcome::Ignore => "ignored",
            Outcome::Fault(_) => "fault",
        };
        self.telemetry.count(OwnMetric::DNS_QUERIES, word, 1);
        outcome
    }

    /// Asks the host's resolvers one after another.
    async fn forward(&self, query: &[u8], tcp: bool) -> Vec<u8> {
        if self.forwards.get() >= MAX_FORWARDS {
            tracing::warn!("more than {MAX_FORWARDS} DNS queries wait for the host's resolvers; one was refused");
            return failure(query, ResponseCode::ServFail);
        }
        self.forwards.set(self.forwards.get() + 1);
        let mut reply = None;
        for resolver in &self.resolvers {
            let asked = async { if tcp { ask_tcp(*resolver, query).await } else { ask_udp(*resolver, query).await } };
            match timeout(FORWARD_TIMEOUT, asked).await {
                Ok(Ok(answer)) => {
                    self.told.note(&answer, Instant::now());
                    reply = Some(answer);
                    break;
                }
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "the host's resolver failed"),
                Err(_) => tracing::debug!(%resolver, "the host's resolver did not answer in time"),
            }
        }
        self.forwards.set(self.forwards.get() - 1);
        reply.unwrap_or_else(|| failure(query, ResponseCode::ServFail))
    }
}

/// The answer to a query where the mesh knows it. `fault`: what a question for a service's address is answered with in place of it.
fn answer(
    query: &[u8],
    view: &View,
    namespace: &Namespace,
    app_has_ipv6: bool,
    host_has_ipv6: bool,
    fault: impl FnOnce(&ServiceName) -> Option<NameAnswer>,
) -> Outcome {
    let Ok(message) = Message::from_vec(query) else {
        return if query.len() >= 12 && query[2] & 0x80 == 0 {
            Outcome::Reply(failure(query, ResponseCode::FormErr))
        } else {
            Outcome::Ignore
        };
    };
    if message.metadata.message_type != MessageType::Query {
        return Outcome::Ignore;
    }
    let (OpCode::Query, [question]) = (message.metadata.op_code, message.queries.as_slice()) else {
        return Outcome::Reply(failure(query, ResponseCode::NotImp));
    };
    if question.query_class() != DNSClass::IN {
        return Outcome::Forward;
    }
    let host = question.name().to_ascii().to_ascii_lowercase();
    let known = view.lookup(&host, namespace);
    if let Some((namespace, record)) = known
        && matches!(question.query_type(), RecordType::A | RecordType::AAAA)
        && let Some(answer) = fault(&ServiceName::new(namespace.clone(), record.name.clone()))
    {
        return Outcome::Fault(match answer {
            NameAnswer::ServerFailure => Some(failure(query, ResponseCode::ServFail)),
            NameAnswer::NoSuchName => Some(failure(query, ResponseCode::NXDomain)),
            NameAnswer::Timeout => None,
        });
    }
    let records = match (known, question.query_type()) {
        (Some((_, record)), RecordType::A) => vec![RData::A(A(record.v4))],
        // An app without IPv6 gets no IPv6 address, and NODATA rather than NXDOMAIN: the name exists.
        (Some((_, record)), RecordType::AAAA) if app_has_ipv6 => vec![RData::AAAA(AAAA(record.v6))],
        (Some(_), _) => Vec::new(),
        (None, RecordType::PTR) => match reverse(question.name(), view) {
            Some(service) => match Name::from_ascii(format!("{}.", service.fqdn())) {
                Ok(name) => vec![RData::PTR(PTR(name))],
                Err(_) => return Outcome::Forward,
            },
            None => return Outcome::Forward,
        },
        // The proxy accepts every captured connection, which would defeat an app's fallback from IPv6 to IPv4.
        (None, RecordType::AAAA) if !host_has_ipv6 && !is_mesh(&host) => Vec::new(),
        // Nobody else knows the names of the mesh.
        (None, _) if is_mesh(&host) => return Outcome::Reply(failure(query, ResponseCode::NXDomain)),
        (None, _) => return Outcome::Forward,
    };
    let mut reply = Message::response(message.metadata.id, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&message.metadata);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    reply.add_query(question.clone());
    for data in records {
        reply.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
    }
    reply.to_vec().map_or_else(|_| Outcome::Reply(failure(query, ResponseCode::ServFail)), Outcome::Reply)
}

/// A message as fuzzers have it: as an app's question, and as a resolver's answer.
#[cfg(any(test, fuzzing))]
pub fn fuzzed(message: &[u8]) {
    let (view, namespace) = (View::default(), Namespace::default());
    if let Outcome::Reply(reply) | Outcome::Fault(Some(reply)) = answer(message, &view, &namespace, true, true, |_| None) {
        assert!(Message::from_vec(&reply).is_ok(), "an answer cannot be read: {reply:02x?}");
        drop(fit(reply, message));
    }
    crate::told::Told::default().note(message, Instant::now());
    drop(std::str::from_utf8(message).map(host_resolvers));
}

fn is_mesh(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.strip_suffix(lorica_model::name::SUFFIX).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn reverse<'v>(name: &Name, view: &'v View) -> Option<&'v ServiceName> {
    let network = name.parse_arpa_name().ok()?;
    let whole = network.prefix_len() == network.max_prefix_len();
    whole.then(|| view.service_at(network.addr())).flatten()
}

/// The query sent back with an error; its header alone where it cannot be read.
fn failure(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let id = query.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    let mut reply = Message::response(id, OpCode::Query);
    if let Ok(message) = Message::from_vec(query) {
        reply.metadata = Metadata::response_from_request(&message.metadata);
        reply.add_queries(message.queries);
    }
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.to_vec().unwrap_or_default()
}

/// Cuts an answer that is too long for the asker's UDP buffer, so that it asks again over TCP.
fn fit(reply: Vec<u8>, query: &[u8]) -> Vec<u8> {
    let limit = Message::from_vec(query).map_or(512, |message| message.edns.as_ref().map_or(512, |edns| edns.max_payload().max(512)));
    if reply.len() <= usize::from(limit) {
        return reply;
    }
    Message::from_vec(&reply).ok().and_then(|message| message.truncate().to_vec().ok()).unwrap_or(reply)
}

/// The resolvers of the host's `resolv.conf`.
fn host_resolvers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = servers.filter_map(|server| server.split('%').next().and_then(|address| address.parse::<IpAddr>().ok()));
    // glibc asks three at most.
    addresses.take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

async fn ask_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let local: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    // A socket of its own for each query: its random port is part of what an off-path attacker would have to guess.
    let socket = UdpSocket::bind(local).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 12 && buffer[..2] == query[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_framed(&mut stream, query).await?;
    read_framed(&mut stream).await
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use hickory_proto::op::Query;
    use lorica_model::snapshot::{NameRecord, NameTable, Snapshot};

    fn view() -> View {
        let namespace = Namespace::new("contact").unwrap();
        let record = NameRecord { name: "recording".parse().unwrap(), v4: [240, 0, 0, 7].into(), v6: "fd00::7".parse().unwrap() };
        let table = NameTable { namespace: namespace.clone(), records: vec![record] };
        let snapshot = Snapshot { names: [(namespace, Arc::new(table))].into(), ..Snapshot::default() };
        View::next(&View::default(), Arc::new(snapshot), std::time::Instant::now())
    }

    fn ask(name: &str, kind: RecordType) -> Outcome {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        answer(&message.to_vec().unwrap(), &view(), &Namespace::new("contact").unwrap(), false, false, |_| None)
    }

    #[test]
    fn a_fault_is_answered_in_place_of_an_address() {
        let ask = |name: &str, kind, given| {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            let mut asked = None;
            let fault = |service: &ServiceName| {
                asked = Some(service.to_string());
                given
            };
            let outcome = answer(&message.to_vec().unwrap(), &view(), &Namespace::new("contact").unwrap(), false, false, fault);
            (outcome, asked)
        };
        for (given, expected) in [
            (NameAnswer::ServerFailure, Some(ResponseCode::ServFail)),
            (NameAnswer::NoSuchName, Some(ResponseCode::NXDomain)),
            (NameAnswer::Timeout, None),
        ] {
            for kind in [RecordType::A, RecordType::AAAA] {
                let (Outcome::Fault(reply), asked) = ask("recording.", kind, Some(given)) else { panic!("{given:?}") };
                assert_eq!(reply.map(|reply| Message::from_vec(&reply).unwrap().metadata.response_code), expected);
                assert_eq!(asked.as_deref(), Some("recording.contact"));
            }
        }
        // Names that are none of the mesh's, and questions for something else, meet none.
        let (outcome, asked) = ask("example.com.", RecordType::A, Some(NameAnswer::Timeout));
        assert!(matches!(outcome, Outcome::Forward) && asked.is_none());
        assert!(ask("recording.", RecordType::MX, Some(NameAnswer::Timeout)).1.is_none());
    }

    #[track_caller]
    fn check(name: &str, kind: RecordType, expected: Result<&[&str], ResponseCode>) {
        let Outcome::Reply(reply) = ask(name, kind) else { panic!("{name} was not answered") };
        let reply = Message::from_vec(&reply).unwrap();
        match expected {
            Ok(records) => {
                assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
                assert_eq!(reply.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>(), records);
            }
            Err(code) => assert_eq!(reply.metadata.response_code, code),
        }
    }

    #[test]
    fn known_names_are_answered_in_all_their_forms() {
        for name in ["recording.", "recording.contact.", "Recording.Contact.Mesh."] {
            check(name, RecordType::A, Ok(&["240.0.0.7"]));
            check(name, RecordType::AAAA, Ok(&[]));
            check(name, RecordType::MX, Ok(&[]));
        }
        check("7.0.0.240.in-addr.arpa.", RecordType::PTR, Ok(&["recording.contact.mesh."]));
    }

    #[test]
    fn unknown_names_of_the_mesh_do_not_exist() {
        check("nobody.contact.mesh.", RecordType::A, Err(ResponseCode::NXDomain));
        check("recording.contact.mesh.mesh.", RecordType::AAAA, Err(ResponseCode::NXDomain));
    }

    #[test]
    fn other_names_are_the_hosts_business() {
        for name in ["example.com.", "contact.", "other.contact.", "recording.contact.example."] {
            assert!(matches!(ask(name, RecordType::A), Outcome::Forward), "{name}");
        }
        check("example.com.", RecordType::AAAA, Ok(&[]));
    }

    #[test]
    fn what_is_no_query_is_refused_or_ignored() {
        let view = view();
        let answer = |bytes: &[u8]| answer(bytes, &view, &Namespace::default(), true, true, |_| None);
        assert!(matches!(answer(b"x"), Outcome::Ignore));
        let Outcome::Reply(reply) = answer(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63]) else { panic!() };
        assert_eq!(reply[..2], [0, 7]);
        assert_eq!(reply[3] & 15, 1);
    }

    #[test]
    fn resolvers_are_read_from_the_hosts_file() {
        assert_eq!(
            host_resolvers("# a\nnameserver 10.0.0.1\nsearch x\nnameserver fe80::1%eth0\n"),
            ["10.0.0.1:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]
        );
    }
}
