//! Sockets that are bound before anything is connected to them: nonblocking, closed on exec. Those
//! of the host are the supervisor's; those of the namespace are made by the helper with the same
//! function.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::fd::OwnedFd,
};

use socket2::{Domain, Socket, Type};

use crate::{ListenerLabel, Mode, RunError, RunSpec};

/// The kernel cuts it to net.core.somaxconn (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

/// A socket bound to an address; listening if it is TCP. `shared`: with SO_REUSEPORT.
pub(crate) fn bound(kind: Type, address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// A TCP listener of this process's own: nonblocking, closed on exec. `shared` lets several sockets of one user listen at one
/// address, among which the kernel spreads callers (SO_REUSEPORT).
///
/// # Errors
/// As the kernel says; `AddrInUse` where another listens there already.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    bound(Type::STREAM, address, shared)
}

/// The listeners that the spec wants on the host.
pub(crate) fn of_host(spec: &RunSpec) -> Result<Vec<(ListenerLabel, OwnedFd)>, RunError> {
    let mut made = Vec::new();
    for &app_port in &spec.app_ports {
        let socket = match &spec.inbound_ports {
            None => bound(Type::STREAM, (spec.inbound_address, 0).into(), false).map_err(|source| RunError::Bind {
                address: spec.inbound_address.to_string(),
                purpose: format!("callers of app port {app_port}"),
                source,
                hint: "the inbound address must be one of this host",
            }),
            Some(range) => in_range(spec.inbound_address, range).map_err(|source| RunError::Bind {
                address: format!("{}:{}-{}", spec.inbound_address, range.start(), range.end()),
                purpose: format!("callers of app port {app_port}"),
                source,
                hint: "widen --inbound-ports: each app port of each workload on this host takes one",
            }),
        }?;
        made.push((ListenerLabel::Inbound { app_port }, socket));
    }
    for publish in &spec.publish {
        let socket = bound(Type::STREAM, publish.host, false).map_err(|source| RunError::Bind {
            address: publish.host.to_string(),
            purpose: format!("--publish {}:{}", publish.host, publish.app_port),
            source,
            hint: "choose another HOST_PORT, or see what listens there: ss -ltnp",
        })?;
        made.push((ListenerLabel::Publish { app_port: publish.app_port }, socket));
    }
    if let Mode::Explicit { upstreams } = &spec.mode {
        for upstream in upstreams {
            let socket = bound(Type::STREAM, upstream.local_addr, false).map_err(|source| RunError::Bind {
                address: upstream.local_addr.to_string(),
                purpose: format!("--upstream {}:{}={}", upstream.name, upstream.port, upstream.local_addr),
                source,
                hint: "choose another LOCAL_ADDR, or see what listens there: ss -ltnp",
            })?;
            let label = ListenerLabel::Upstream { host: upstream.name.clone(), port: upstream.port };
            made.push((label, socket));
        }
    }
    Ok(made)
}

/// The first free port of a range.
fn in_range(address: IpAddr, range: &RangeInclusive<u16>) -> io::Result<OwnedFd> {
    let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
    for port in range.clone() {
        match bound(Type::STREAM, (address, port).into(), false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
            bound => return bound,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_full_range_names_the_option() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut spec = RunSpec::new(vec!["x".into()], Vec::new(), Vec::new());
        spec.app_ports = vec![80];
        spec.inbound_ports = Some(port..=port);
        let error = of_host(&spec).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port}-{port} for callers of app port 80")));
        assert!(error.contains("hint: widen --inbound-ports"), "{error}");
    }

    #[test]
    fn an_inbound_listener_takes_the_first_free_port_of_the_range() {
        // Two neighbouring ports of which the lower is taken: looked for, as none is ours.
        let found = (0..100).find_map(|_| {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = taken.local_addr().unwrap().port();
            let range = port..=port.checked_add(1)?;
            let socket = in_range(Ipv4Addr::LOCALHOST.into(), &range).ok()?;
            Some((port, TcpListener::from(socket).local_addr().unwrap().port()))
        });
        let Some((taken, got)) = found else { panic!("no free neighbour in 100 attempts") };
        assert_eq!(got, taken + 1);
    }
}
