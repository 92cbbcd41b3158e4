//! udp: datagrams that come to a gateway. Those of one sender go to one endpoint for as long as something moves between the two.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::reason::Reason;
use lorica_model::snapshot::{Backend, Listening, Transport, hash, route};
use lorica_observe::metrics::OwnMetric;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::caller::{Caller, Entry};
use super::pick;
use super::record::ConnectionRecord;
use super::relay::Relayed;
use crate::endpoints::Wanted;
use crate::worker::Worker;

/// After so long without a datagram either way a sender is forgotten. Envoy's default for UDP.
const IDLE: Duration = Duration::from_secs(60);
/// The most senders at once on one worker and port; datagrams of more are dropped and counted.
const MAX_FLOWS: usize = 10_000;
/// The largest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// What is open between one sender and one endpoint.
struct Flow {
    upstream: Rc<UdpSocket>,
    /// Ends when the sender is forgotten.
    answers: JoinHandle<()>,
}

/// Carries datagrams until the proxy ends or `closed` says that the gateway has the port no more.
pub async fn serve(worker: Rc<Worker>, port: u16, socket: UdpSocket, mut closed: watch::Receiver<bool>) {
    let socket = Rc::new(socket);
    let mut ended = worker.ended.clone();
    let mut flows: HashMap<SocketAddr, Flow, foldhash::fast::RandomState> = HashMap::default();
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut datagram) => received,
            _ = ended.wait_for(|ended| *ended) => return,
            _ = closed.wait_for(|closed| *closed) => return,
        };
        let (length, sender) = match received {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer that could not be delivered, most likely.
                tracing::debug!(%error, port, "a datagram could not be received");
                continue;
            }
        };
        if flows.get(&sender).is_none_or(|flow| flow.answers.is_finished()) {
            if flows.len() >= MAX_FLOWS {
                flows.retain(|_, flow| !flow.answers.is_finished());
            }
            if flows.len() >= MAX_FLOWS {
                worker.telemetry.metrics.count(OwnMetric::CONNECTIONS_REFUSED, "", 1);
                continue;
            }
            match open(&worker, port, &socket, sender).await {
                Some(flow) => drop(flows.insert(sender, flow)),
                None => continue,
            }
        }
        if let Some(flow) = flows.get(&sender)
            && let Err(error) = flow.upstream.send(&datagram[..length]).await
        {
            tracing::debug!(%error, %sender, "a datagram could not be passed on");
        }
    }
}

/// Opens the way for a new sender; none where its datagrams go nowhere.
async fn open(worker: &Rc<Worker>, port: u16, socket: &Rc<UdpSocket>, sender: SocketAddr) -> Option<Flow> {
    let local = socket.local_addr().ok()?;
    let caller = Caller::new(worker, Entry::Gateway { port, chain: None, tls: false }, sender, local, None);
    let fail = |reason: Reason, detail: &str| {
        ConnectionRecord::begin(worker, &caller).fail(reason, detail);
        None
    };
    let view = worker.view();
    let unit = view.snapshot.gateway.get(&port)?.clone();
    let Listening::Udp(Some(to)) = &unit.listening else { return fail(Reason::NoRoute, "no route is attached to the listener") };
    let Ok(Backend::Port(service)) = route::backend(&to.backends, fastrand::f64(), &mut ()).map(|index| &to.backends[index].backend) else {
        return fail(Reason::NoBackend, "the route leads to no service");
    };
    let Some(reach) = view.reach(service) else { return fail(Reason::NoConfiguration, "what is known of the service has not come yet") };
    let hash = reach.live.by_hash().then(|| hash::source(sender.ip()));
    let (_, active) = match pick::choose(&worker, reach, Wanted { hash, ..Wanted::default() }, Instant::now()) {
        Ok(picked) => picked,
        Err(error) => return fail(error.reason, &error.detail),
    };
    if active.live.endpoint.transport != Transport::Plaintext {
        return fail(Reason::ConnectFailed, "an endpoint of the mesh takes no datagrams: mutual TLS is for connections");
    }
    let address = active.live.endpoint.address;
    let any: SocketAddr = if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let connected = async {
        let upstream = UdpSocket::bind(any).await?;
        upstream.connect(address).await?;
        Ok::<_, std::io::Error>(Rc::new(upstream))
    };
    let upstream = match connected.await {
        Ok(upstream) => upstream,
        Err(error) => return fail(Reason::ConnectFailed, &error.to_string()),
    };
    let (worker, socket, origin, service, from) = (worker.clone(), socket.clone(), to.origin.clone(), service.clone(), upstream.clone());
    let answers = spawn_local(async move {
        let mut record = ConnectionRecord::begin(&worker, &caller);
        record.route(&Arc::clone(&origin), &service);
        record.upstream(active.live.id, &active.live.endpoint, None);
        let (mut datagram, mut down) = (vec![0; MAX_DATAGRAM], 0);
        while let Ok(Ok(length)) = tokio::time::timeout(IDLE, from.recv(&mut datagram)).await {
            down += length as u64;
            if let Err(error) = socket.send_to(&datagram[..length], sender).await {
                tracing::debug!(%error, %sender, "an answer could not be delivered");
            }
        }
        record.end(Relayed { up: 0, down, reason: None });
    });
    Some(Flow { upstream, answers })
}
