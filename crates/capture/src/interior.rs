//! What the app's namespaces contain: loopback with the workload's address, routes that make every
//! address local, the rules, the masks, and the sockets the proxy is given. Built once, before the
//! app starts; a step that the host refuses ends it with [`Missing`].

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{io::Errno, mount::MountFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    DNS_PORT, INBOUND_MARK, ListenerLabel, OUTBOUND_PORT, courtesy, kernel, listeners,
    message::{Family, InteriorSpec},
    missing::{Missing, Step},
    netlink::{ACK, CREATE, EXCLUSIVE, Messages, Netlink, REQUEST},
    rules, rules_netlink,
};

/// A new network namespace has this one interface, with this index.
const LOOPBACK: u32 = 1;

/// What was built.
pub(crate) struct Interior {
    /// Sockets for the proxy, labelled.
    pub listeners: Vec<(ListenerLabel, OwnedFd)>,
    /// Where those listen, which is not where the app listens.
    pub own_addresses: Vec<SocketAddr>,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// Builds it all in the namespaces that this process is in.
pub(crate) fn build(spec: &InteriorSpec) -> Result<Interior, Missing> {
    let ipv6 = network(spec)?;
    rules_netlink::load(&rules::rules(spec.virtual_v4, spec.virtual_v6))?;
    let mut notices = Vec::new();
    settings(&mut notices);
    courtesy::install();
    for directory in &spec.masked_directories {
        mask(directory)?;
    }
    let (listeners, own_addresses) = sockets(spec, ipv6)?;
    Ok(Interior { listeners, own_addresses, notices })
}

/// How much of IPv6 the namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    None,
    Loopback,
    Everywhere,
}

fn network(spec: &InteriorSpec) -> Result<Ipv6, Missing> {
    let refused = |what: &str, errno| Missing::at(Step::Network, what, errno);
    let netlink = Netlink::open(None).map_err(|errno| refused("open a route socket", errno))?;
    let ask = |messages: Messages| netlink.ask(&messages, 1).map_err(|answer| answer.errno);

    ask(loopback_up()).map_err(|errno| refused("bring loopback up", errno))?;
    let v4 = IpAddr::V4(spec.virtual_v4);
    ask(add_address(v4)).map_err(|errno| refused(&format!("give loopback {v4}"), errno))?;
    ask(everything_local(v4)).map_err(|errno| refused("make every IPv4 address local", errno))?;

    if listeners::bound(Type::STREAM, (Ipv6Addr::LOCALHOST, 0).into(), false).is_err() {
        return Ok(Ipv6::None);
    }
    let Some(v6) = spec.virtual_v6.map(IpAddr::V6) else { return Ok(Ipv6::Loopback) };
    match ask(add_address(v6)).and_then(|()| ask(everything_local(v6))) {
        Ok(()) => Ok(Ipv6::Everywhere),
        // Switched off by sysctl, or not built in.
        Err(Errno::ACCESS | Errno::PERM | Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => Ok(Ipv6::Loopback),
        Err(errno) => Err(refused(&format!("make every IPv6 address local to {v6}"), errno)),
    }
}

fn loopback_up() -> Messages {
    const NEW_LINK: u16 = 16;
    const UP: u32 = 1;
    let mut messages = Messages::default();
    let mut fixed = [0u32; 4];
    // ifinfomsg: family and type, index, flags, which flags to change.
    fixed[1] = LOOPBACK;
    fixed[2] = UP;
    fixed[3] = UP;
    let bytes: Vec<u8> = fixed.iter().flat_map(|number| number.to_ne_bytes()).collect();
    messages.begin(NEW_LINK, REQUEST | ACK).fixed(&bytes).end();
    messages
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET.unsigned_abs() as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6.unsigned_abs() as u8, v6.octets().to_vec()),
    }
}

fn add_address(address: IpAddr) -> Messages {
    const NEW_ADDRESS: u16 = 20;
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    const NO_DUPLICATE_DETECTION: u8 = 2;
    let (family, octets) = octets(address);
    let prefix = u8::try_from(octets.len() * 8).unwrap_or(0);
    let mut messages = Messages::default();
    messages.begin(NEW_ADDRESS, REQUEST | ACK | CREATE | EXCLUSIVE);
    // ifaddrmsg: family, prefix length, flags, scope (0: everywhere), index. Of global scope, so
    // that AI_ADDRCONFIG finds the host to have an address; without duplicate detection, as an
    // IPv6 address could else not be a route's source for a moment.
    let flags = if address.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
    messages.fixed(&[[family, prefix, flags, 0], LOOPBACK.to_ne_bytes()].concat());
    messages.attribute(LOCAL, &octets).attribute(ADDRESS, &octets).end();
    messages
}

/// `local default dev lo src ADDRESS`: the source is what keeps connections from leaving 0.0.0.0.
fn everything_local(source: IpAddr) -> Messages {
    const NEW_ROUTE: u16 = 24;
    const OUT_INTERFACE: u16 = 4;
    const PREFERRED_SOURCE: u16 = 7;
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_BOOT: u8 = 3;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    let (family, octets) = octets(source);
    let mut messages = Messages::default();
    messages.begin(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE);
    // rtmsg: family, two prefix lengths, tos, table, protocol, scope, type, flags.
    messages.fixed(&[family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0]);
    messages.attribute(OUT_INTERFACE, &LOOPBACK.to_ne_bytes());
    messages.attribute(PREFERRED_SOURCE, &octets).end();
    messages
}

const UNPRIVILEGED_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Settings of the network namespace. The kernel allows them without root since the namespace is
/// the workload's own; a container may have made /proc/sys read-only, and old kernels lack some.
fn settings(notices: &mut Vec<String>) {
    let reserved = format!("{OUTBOUND_PORT},{DNS_PORT}");
    for (file, value) in [
        // The app may bind any port.
        (UNPRIVILEGED_PORTS, "0"),
        // It does not get ours by accident.
        ("/proc/sys/net/ipv4/ip_local_reserved_ports", reserved.as_str()),
        // All endpoints of a service share one address here, so that its 28,232 source ports would
        // last for 470 connections a second only, each held for a minute after its end. Nothing
        // can be delayed over loopback.
        ("/proc/sys/net/ipv4/tcp_tw_reuse", "1"),
        // For the same reason: what has ended need not fill the table of tracked connections.
        ("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "2"),
        ("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "2"),
        // Longer than a resolver waits for an answer.
        ("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "15"),
        ("/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", "15"),
    ] {
        let Err(error) = fs::write(file, value) else { continue };
        tracing::debug!(%error, "{file} cannot be written");
        if file == UNPRIVILEGED_PORTS && !rustix::process::geteuid().is_root() {
            notices.push(format!("the app cannot bind ports below 1024: {file} cannot be written here ({error})"));
        }
    }
}

/// Covers a directory with an empty one that cannot be written.
fn mask(directory: &Path) -> Result<(), Missing> {
    if !directory.is_dir() {
        return Ok(());
    }
    courtesy::empty_mount(directory, MountFlags::RDONLY)
        .map_err(|errno| Missing::at(Step::Masks, format!("cover {}", directory.display()), errno))
}

type Sockets = (Vec<(ListenerLabel, OwnedFd)>, Vec<SocketAddr>);

fn sockets(spec: &InteriorSpec, ipv6: Ipv6) -> Result<Sockets, Missing> {
    let mut made = Vec::new();
    let mut addresses = Vec::new();
    let mut add = |label, kind, address: SocketAddr, shared| {
        let socket = listeners::bound(kind, address, shared)
            .map_err(|error| Missing::from_io(Step::Sockets, format!("{label:?} at {address}"), &error))?;
        made.push((label, socket));
        addresses.push(address);
        Ok(())
    };
    // The redirect rewrites destinations to these loopback addresses; replies of a socket bound
    // elsewhere would miss the NAT.
    let mut loopbacks = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if ipv6 != Ipv6::None {
        loopbacks.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
    }
    for loopback in loopbacks {
        add(ListenerLabel::DnsUdp, Type::DGRAM, (loopback, DNS_PORT).into(), false)?;
        add(ListenerLabel::DnsTcp, Type::STREAM, (loopback, DNS_PORT).into(), false)?;
        if loopback.is_ipv4() || ipv6 == Ipv6::Everywhere {
            let count = spec.outbound_sockets.clamp(1, 64);
            for _ in 0..count {
                let address = (loopback, OUTBOUND_PORT).into();
                add(ListenerLabel::Outbound, Type::STREAM, address, count > 1)?;
            }
        }
        for &port in &spec.host_ports {
            let label = ListenerLabel::HostPort { port };
            add(label, Type::STREAM, (loopback, port).into(), false)?;
        }
    }
    Ok((made, addresses))
}

/// A socket by which the proxy reaches the app: past the redirect, and free to leave from the
/// caller's virtual address.
pub(crate) fn inbound_socket(family: Family) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_mark(INBOUND_MARK)?;
    match family {
        Family::V4 => socket.set_freebind_v4(true)?,
        Family::V6 => socket.set_freebind_v6(true)?,
    }
    // Thousands of connections from one caller's address share its ports then.
    kernel::bind_address_no_port(socket.as_fd())?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
