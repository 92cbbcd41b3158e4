//! Where the app listens: a sock_diag dump of the listening TCP sockets in this process's network
//! namespace (linux/inet_diag.h), turned into one connectable address per port. Read only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::{io::Errno, net::netlink};

use crate::{
    message::AppListener,
    netlink::{Attributes, DUMP, Messages, Netlink, REQUEST},
};

const BY_FAMILY: u16 = 20;
const TCP: u8 = 6;
const LISTEN: u32 = 1 << 10;
const ATTRIBUTE_V6_ONLY: u16 = 11;
const FIXED: usize = 72;

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listening {
    pub address: SocketAddr,
    pub v6_only: bool,
}

/// Every listening TCP socket of the namespace.
pub(crate) fn listening() -> Result<Vec<Listening>, Errno> {
    let netlink = Netlink::open(Some(netlink::SOCK_DIAG))?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0u8; 56];
        let [f, p, ..] = &mut request;
        (*f, *p) = (u8::try_from(family).unwrap_or(0), TCP);
        if let Some(states) = request.get_mut(4..8) {
            states.copy_from_slice(&LISTEN.to_ne_bytes());
        }
        let mut messages = Messages::default();
        messages.begin(BY_FAMILY, REQUEST | DUMP).fixed(&request).end();
        match netlink.dump(&messages, |body| found.extend(read(body))) {
            Ok(()) => {}
            // A kernel without IPv6.
            Err(Errno::NOENT | Errno::AFNOSUPPORT) if family == libc::AF_INET6 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn read(body: &[u8]) -> Option<Listening> {
    let fixed = body.first_chunk::<FIXED>()?;
    let port = u16::from_be_bytes(*fixed.get(4..)?.first_chunk::<2>()?);
    let source = fixed.get(8..)?.first_chunk::<16>()?;
    let address = match i32::from(*fixed.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*source.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(*source)),
        _ => return None,
    };
    let v6_only = Attributes(body.get(FIXED..)?).any(|(kind, value)| kind == ATTRIBUTE_V6_ONLY && value.first() == Some(&1));
    Some(Listening { address: SocketAddr::new(address, port), v6_only })
}

/// One connectable address for each port, sorted. A wildcard is reached at `own_v4` or `own_v6`;
/// IPv4 is preferred, then an address over loopback, where a program listens at several.
pub(crate) fn reachable(listening: &[Listening], own_v4: Ipv4Addr, own_v6: Option<Ipv6Addr>, leave_out: &[SocketAddr]) -> Vec<AppListener> {
    let mut found: Vec<AppListener> = listening
        .iter()
        .filter(|listening| !leave_out.contains(&listening.address))
        .filter_map(|listening| {
            let address = match listening.address.ip() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(own_v4),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) if !listening.v6_only => IpAddr::V4(own_v4),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(own_v6.unwrap_or(Ipv6Addr::LOCALHOST)),
                IpAddr::V6(address) => match address.to_ipv4_mapped() {
                    Some(mapped) => IpAddr::V4(mapped),
                    None => IpAddr::V6(address),
                },
                address @ IpAddr::V4(_) => address,
            };
            let port = listening.address.port();
            (port != 0).then_some(AppListener { port, address })
        })
        .collect();
    found.sort_by_key(|listener| (listener.port, listener.address.is_ipv6(), listener.address.is_loopback(), listener.address));
    found.dedup_by_key(|listener| listener.port);
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_in_the_dump() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listening().unwrap().iter().any(|found| found.address == address));
    }

    #[test]
    fn each_port_gets_the_address_that_leads_to_it() {
        let own_v4 = Ipv4Addr::new(240, 0, 0, 9);
        let own_v6: Ipv6Addr = "fd00::9".parse().unwrap();
        let check = |given: &[(&str, bool)], expected: &[&str]| {
            let listening: Vec<_> =
                given.iter().map(|(address, v6_only)| Listening { address: address.parse().unwrap(), v6_only: *v6_only }).collect();
            let left_out = ["127.0.0.1:15001".parse().unwrap()];
            let found: Vec<_> = reachable(&listening, own_v4, Some(own_v6), &left_out)
                .iter()
                .map(|listener| listener.socket_address().to_string())
                .collect();
            assert_eq!(found, expected, "{given:?}");
        };
        check(&[("0.0.0.0:80", false)], &["240.0.0.9:80"]);
        check(&[("[::]:80", false)], &["240.0.0.9:80"]);
        check(&[("[::]:80", true)], &["[fd00::9]:80"]);
        check(&[("[::]:80", true), ("127.0.0.1:80", false)], &["127.0.0.1:80"]);
        check(&[("127.0.0.1:80", false), ("10.1.1.1:80", false)], &["10.1.1.1:80"]);
        check(&[("127.0.0.1:15001", false), ("0.0.0.0:15001", false)], &["240.0.0.9:15001"]);
        check(&[("10.0.0.1:90", false), ("10.0.0.1:80", false)], &["10.0.0.1:80", "10.0.0.1:90"]);
    }

    #[test]
    fn a_cut_off_answer_is_left_out() {
        for length in 0..FIXED {
            assert_eq!(read(&[2; FIXED][..length]), None);
        }
    }
}
