//! The nf_tables rules of an app's namespace, as values, and as the text `nft` would show. What is
//! sent to the kernel is encoded from the same values by `rules_netlink`.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{DNS_PORT, INBOUND_MARK, OUTBOUND_PORT};

/// The table's name, in the family `inet`.
pub(crate) const TABLE: &str = "lorica";

/// A chain and its rules, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub name: &'static str,
    /// `nat` or `filter`; both on the hook `output`.
    pub kind: &'static str,
    pub priority: i32,
    pub rules: Vec<Rule>,
}

/// What a packet must be, and what is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub matching: Match,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    TcpTo(u16),
    UdpTo(u16),
    Tcp,
    Mark(u32),
    /// The destination is in this IPv4 prefix; the length is a multiple of 8 or 32.
    ToV4(Ipv4Addr, u8),
    ToV6(Ipv6Addr),
    Established,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    RedirectTo(u16),
    /// An ICMP or ICMPv6 error "port unreachable".
    RejectUnreachable,
    RejectReset,
}

/// The rules for a workload with these virtual addresses.
pub(crate) fn rules(virtual_v4: Ipv4Addr, virtual_v6: Option<Ipv6Addr>) -> [Chain; 2] {
    let rule = |matching, action| Rule { matching, action };
    let inbound_leg = rule(Match::Mark(INBOUND_MARK), Action::Accept);
    let own = || {
        let mut own = vec![Match::ToV4(Ipv4Addr::new(127, 0, 0, 0), 8), Match::ToV6(Ipv6Addr::LOCALHOST), Match::ToV4(virtual_v4, 32)];
        own.extend(virtual_v6.map(Match::ToV6));
        own.into_iter().map(|matching| rule(matching, Action::Accept))
    };
    // The NAT chain sees the first packet of each connection, after routing, and rewrites its
    // destination to loopback. What comes in passes first: the app may serve port 53 itself.
    // Port 53 comes before loopback, since a resolver is often configured there.
    let mut redirect =
        vec![inbound_leg, rule(Match::UdpTo(53), Action::RedirectTo(DNS_PORT)), rule(Match::TcpTo(53), Action::RedirectTo(DNS_PORT))];
    redirect.extend(own());
    redirect.push(rule(Match::Tcp, Action::RedirectTo(OUTBOUND_PORT)));
    // The filter chain sees every packet, after the NAT: what was redirected goes to loopback,
    // and replies (to callers at any virtual address) belong to a connection that was let in.
    let mut refuse = vec![rule(Match::Established, Action::Accept), inbound_leg];
    refuse.extend(own());
    refuse.push(rule(Match::Tcp, Action::RejectReset));
    refuse.push(rule(Match::Any, Action::RejectUnreachable));
    [
        Chain { name: "redirect", kind: "nat", priority: -100, rules: redirect },
        Chain { name: "refuse", kind: "filter", priority: 0, rules: refuse },
    ]
}

/// The rules of a namespace with these virtual addresses, as `nft` text.
pub fn rules_as_text(virtual_v4: Ipv4Addr, virtual_v6: Option<Ipv6Addr>) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    for (number, chain) in rules(virtual_v4, virtual_v6).iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        text.push_str(&chain.to_string());
    }
    text.push_str("}\n");
    text
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // nft shows the well-known priorities of a hook by name.
        let priority = match self.priority {
            -100 => "-100".to_owned(),
            0 => "filter".to_owned(),
            other => other.to_string(),
        };
        writeln!(f, "\tchain {} {{", self.name)?;
        writeln!(f, "\t\ttype {} hook output priority {priority}; policy accept;", self.kind)?;
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.matching {
            Match::TcpTo(port) => write!(f, "tcp dport {port} ")?,
            Match::UdpTo(port) => write!(f, "udp dport {port} ")?,
            Match::Tcp => write!(f, "meta l4proto tcp ")?,
            Match::Mark(mark) => write!(f, "meta mark 0x{mark:08x} ")?,
            Match::ToV4(address, 32) => write!(f, "ip daddr {address} ")?,
            Match::ToV4(address, length) => write!(f, "ip daddr {address}/{length} ")?,
            Match::ToV6(address) => write!(f, "ip6 daddr {address} ")?,
            Match::Established => write!(f, "ct state established ")?,
            Match::Any => {}
        }
        match self.action {
            Action::Accept => write!(f, "accept"),
            Action::RedirectTo(port) => write!(f, "redirect to :{port}"),
            Action::RejectUnreachable => write!(f, "reject"),
            Action::RejectReset => write!(f, "reject with tcp reset"),
        }
    }
}
