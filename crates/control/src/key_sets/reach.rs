//! Which addresses a key set may be fetched from. Who may write a policy could else have the control plane ask what only its host can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lorica_model::snapshot::is_special;

/// Why an address is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// It is no place of a server, whatever a policy says: a link (a cloud's metadata among it), a group, nobody, or the mesh itself.
    #[error("is of a link, a group or the mesh, where no issuer is")]
    Never,
    /// It is of this host or of a private network, and the policy does not say so.
    #[error("is of this host or of a private network; if the issuer is there, say `allowPrivateAddresses: true`")]
    Private,
}

/// Whether `address` may be asked. `private`: whether addresses of this host and of private networks may be.
///
/// # Errors
/// Why not.
pub fn check(address: IpAddr, private: bool) -> Result<(), Unreachable> {
    let address = meant(address);
    if address.is_loopback() {
        return private.then_some(()).ok_or(Unreachable::Private);
    }
    if is_special(address) || is_metadata(address) || matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0) {
        return Err(Unreachable::Never);
    }
    let is_private = match address {
        IpAddr::V4(v4) => {
            let [first, second, third, _] = v4.octets();
            // Private networks (RFC 1918), shared by carriers (RFC 6598), protocol assignments (RFC 6890), benchmarks (RFC 2544), documentation.
            v4.is_private()
                || v4.is_documentation()
                || (first, second & 0xc0) == (100, 64)
                || (first, second, third) == (192, 0, 0)
                || (first, second & 0xfe) == (198, 18)
        }
        // All that is no global unicast (RFC 4291: 2000::/3), and documentation.
        IpAddr::V6(v6) => (v6.segments()[0] & 0xe000) != 0x2000 || (v6.segments()[0], v6.segments()[1]) == (0x2001, 0xdb8),
    };
    if is_private && !private { Err(Unreachable::Private) } else { Ok(()) }
}

/// The address that packets to `address` come to: some of IPv6 carry one of IPv4 in them (RFC 4291, 6052, 3056).
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match (a, b) {
        (0x64, 0xff9b) => v4(g, h),
        (0x2002, _) => v4(b, c),
        (0, 0) if [c, d, e, f] == [0; 4] && v6 != Ipv6Addr::UNSPECIFIED && v6 != Ipv6Addr::LOCALHOST => v4(g, h),
        _ => IpAddr::V6(v6),
    }
}

/// Where clouds tell a host about itself, besides its link: of Amazon in IPv6, of Alibaba, and Azure's host.
fn is_metadata(address: IpAddr) -> bool {
    let known: [IpAddr; 3] = [
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    ];
    known.contains(&address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_only_this_host_can_reach_is_not_asked() {
        use Unreachable::{Never, Private};
        for (address, public, private) in [
            ("8.8.8.8", Ok(()), Ok(())),
            ("2606:4700::1111", Ok(()), Ok(())),
            ("127.0.0.1", Err(Private), Ok(())),
            ("127.9.9.9", Err(Private), Ok(())),
            ("::1", Err(Private), Ok(())),
            ("10.0.0.1", Err(Private), Ok(())),
            ("172.31.0.1", Err(Private), Ok(())),
            ("192.168.1.1", Err(Private), Ok(())),
            ("100.64.0.1", Err(Private), Ok(())),
            ("fd00::1", Err(Private), Ok(())),
            ("::ffff:10.0.0.1", Err(Private), Ok(())),
            ("::ffff:127.0.0.1", Err(Private), Ok(())),
            ("64:ff9b::10.0.0.1", Err(Private), Ok(())),
            ("2002:0a00:0001::", Err(Private), Ok(())),
            ("::127.0.0.1", Err(Private), Ok(())),
            ("0.0.0.0", Err(Never), Err(Never)),
            ("0.1.2.3", Err(Never), Err(Never)),
            ("::", Err(Never), Err(Never)),
            ("169.254.169.254", Err(Never), Err(Never)),
            ("::ffff:169.254.169.254", Err(Never), Err(Never)),
            ("64:ff9b::a9fe:a9fe", Err(Never), Err(Never)),
            ("fe80::1", Err(Never), Err(Never)),
            ("fd00:ec2::254", Err(Never), Err(Never)),
            ("100.100.100.200", Err(Never), Err(Never)),
            ("224.0.0.1", Err(Never), Err(Never)),
            ("ff02::1", Err(Never), Err(Never)),
            ("240.0.0.7", Err(Never), Err(Never)),
            ("255.255.255.255", Err(Never), Err(Never)),
        ] {
            let at = address.parse().unwrap();
            assert_eq!((check(at, false), check(at, true)), (public, private), "{address}");
        }
    }
}
