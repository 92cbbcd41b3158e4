//! The rules of `rules`, encoded for the kernel (linux/netfilter/nf_tables.h) and loaded as one
//! transaction.

use rustix::net::netlink;

use crate::{
    missing::{Missing, Step},
    netlink::{ACK, APPEND, CREATE, Messages, Netlink, REQUEST},
    rules::{Action, Chain, Match, Rule, TABLE},
};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const FAMILY_INET: u8 = 1;
const HOOK_OUTPUT: u32 = 3;
const VERDICT_ACCEPT: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Loads the rules into the network namespace that this process is in.
pub(crate) fn load(chains: &[Chain]) -> Result<(), Missing> {
    let refused = |what: &str, errno| Missing::at(Step::Rules, what, errno);
    let netlink = Netlink::open(Some(netlink::NETFILTER)).map_err(|errno| refused("open a netfilter socket", errno))?;
    let (messages, meanings) = encode(chains);
    let acknowledged = u32::try_from(meanings.len()).unwrap_or(u32::MAX);
    netlink.ask(&messages, acknowledged).map_err(|answer| {
        // Message 1 begins the batch.
        let which = usize::try_from(answer.sequence).ok().and_then(|n| n.checked_sub(2));
        let what = which.and_then(|n| meanings.get(n)).map_or("the transaction", String::as_str);
        refused(what, answer.errno)
    })
}

/// The transaction, and what each of its messages (but the first and last) means.
fn encode(chains: &[Chain]) -> (Messages, Vec<String>) {
    let mut messages = Messages::default();
    let mut meanings = Vec::new();
    messages.begin(BATCH_BEGIN, REQUEST).fixed(&family_header(0, NFTABLES)).end();

    messages.begin(NEW_TABLE, REQUEST | ACK | CREATE).fixed(&family_header(FAMILY_INET, 0));
    messages.attribute_text(1, TABLE).end();
    meanings.push(format!("table inet {TABLE}"));
    for chain in chains {
        messages.begin(NEW_CHAIN, REQUEST | ACK | CREATE).fixed(&family_header(FAMILY_INET, 0));
        messages.attribute_text(1, TABLE).attribute_text(3, chain.name);
        messages.nested(4, |hook| {
            hook.attribute_be32(1, HOOK_OUTPUT);
            hook.attribute(2, &chain.priority.to_be_bytes());
        });
        messages.attribute_be32(5, VERDICT_ACCEPT).attribute_text(7, chain.kind).end();
        meanings.push(format!("chain {} of type {}", chain.name, chain.kind));
        for rule in &chain.rules {
            messages.begin(NEW_RULE, REQUEST | ACK | CREATE | APPEND).fixed(&family_header(FAMILY_INET, 0));
            messages.attribute_text(1, TABLE).attribute_text(2, chain.name);
            messages.nested(4, |expressions| encode_rule(expressions, rule)).end();
            meanings.push(format!("rule `{rule}`"));
        }
    }
    messages.begin(BATCH_END, REQUEST).fixed(&family_header(0, NFTABLES)).end();
    (messages, meanings)
}

fn family_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn encode_rule(list: &mut Messages, rule: &Rule) {
    const KEY_MARK: u32 = 3;
    match rule.matching {
        Match::TcpTo(port) => destination_port(list, 6, port),
        Match::UdpTo(port) => destination_port(list, 17, port),
        Match::Tcp => transport(list, 6),
        Match::Mark(mark) => {
            load_meta(list, KEY_MARK);
            compare(list, EQUAL, &mark.to_ne_bytes());
        }
        Match::ToV4(address, length) => {
            network_family(list, 2);
            load_payload(list, 1, 16, 4);
            if length < 32 {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                and(list, &mask.to_be_bytes());
            }
            compare(list, EQUAL, &address.octets());
        }
        Match::ToV6(address) => {
            network_family(list, 10);
            load_payload(list, 1, 24, 16);
            compare(list, EQUAL, &address.octets());
        }
        Match::Established => {
            // linux/netfilter/nf_conntrack_common.h: the bit of IP_CT_ESTABLISHED.
            const ESTABLISHED: u32 = 1 << 1;
            expression(list, "ct", |ct| {
                ct.attribute_be32(1, REGISTER).attribute_be32(2, 0);
            });
            and(list, &ESTABLISHED.to_ne_bytes());
            compare(list, NOT_EQUAL, &[0; 4]);
        }
        Match::Any => {}
    }
    match rule.action {
        Action::Accept => expression(list, "immediate", |immediate| {
            immediate.attribute_be32(1, REGISTER_VERDICT);
            immediate.nested(2, |data| {
                data.nested(2, |verdict| {
                    verdict.attribute_be32(1, VERDICT_ACCEPT);
                });
            });
        }),
        Action::RedirectTo(port) => {
            expression(list, "immediate", |immediate| {
                immediate.attribute_be32(1, REGISTER);
                immediate.nested(2, |data| {
                    data.attribute(1, &port.to_be_bytes());
                });
            });
            expression(list, "redir", |redirect| {
                redirect.attribute_be32(1, REGISTER);
            });
        }
        Action::RejectReset => expression(list, "reject", |reject| {
            reject.attribute_be32(1, 1);
        }),
        // ICMPX: one code for IPv4 and IPv6.
        Action::RejectUnreachable => expression(list, "reject", |reject| {
            reject.attribute_be32(1, 2).attribute(2, &[1]);
        }),
    }
}

fn destination_port(list: &mut Messages, protocol: u8, port: u16) {
    transport(list, protocol);
    load_payload(list, 2, 2, 2);
    compare(list, EQUAL, &port.to_be_bytes());
}

fn transport(list: &mut Messages, protocol: u8) {
    const KEY_TRANSPORT: u32 = 16;
    load_meta(list, KEY_TRANSPORT);
    compare(list, EQUAL, &[protocol]);
}

fn network_family(list: &mut Messages, family: u8) {
    const KEY_FAMILY: u32 = 15;
    load_meta(list, KEY_FAMILY);
    compare(list, EQUAL, &[family]);
}

fn load_meta(list: &mut Messages, key: u32) {
    expression(list, "meta", |meta| {
        meta.attribute_be32(1, REGISTER).attribute_be32(2, key);
    });
}

/// Loads bytes of the network (1) or transport (2) header.
fn load_payload(list: &mut Messages, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |payload| {
        payload.attribute_be32(1, REGISTER).attribute_be32(2, base);
        payload.attribute_be32(3, offset).attribute_be32(4, length);
    });
}

fn and(list: &mut Messages, mask: &[u8; 4]) {
    expression(list, "bitwise", |bitwise| {
        bitwise.attribute_be32(1, REGISTER).attribute_be32(2, REGISTER).attribute_be32(3, 4);
        bitwise.nested(4, |data| {
            data.attribute(1, mask);
        });
        bitwise.nested(5, |data| {
            data.attribute(1, &[0; 4]);
        });
    });
}

fn compare(list: &mut Messages, operator: u32, value: &[u8]) {
    expression(list, "cmp", |compare| {
        compare.attribute_be32(1, REGISTER).attribute_be32(2, operator);
        compare.nested(3, |data| {
            data.attribute(1, value);
        });
    });
}

fn expression(list: &mut Messages, name: &str, fill: impl FnOnce(&mut Messages)) {
    list.nested(1, |element| {
        element.attribute_text(1, name);
        element.nested(2, fill);
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{netlink::Attributes, rules::rules, rules_as_text};

    /// The names of a rule's expressions and, for each, its data.
    fn expressions(rule: &Rule) -> Vec<(String, Vec<u8>)> {
        let mut list = Messages::default();
        encode_rule(&mut list, rule);
        Attributes(list.bytes())
            .map(|(_, element)| {
                let parts: Vec<_> = Attributes(element).collect();
                let name = parts[0].1.strip_suffix(&[0]).unwrap();
                (String::from_utf8(name.to_vec()).unwrap(), parts[1].1.to_vec())
            })
            .collect()
    }

    #[test]
    fn a_rule_is_a_list_of_expressions() {
        let rule = Rule { matching: Match::UdpTo(53), action: Action::RedirectTo(15053) };
        let list = expressions(&rule);
        let names: Vec<_> = list.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["meta", "cmp", "payload", "cmp", "immediate", "redir"]);
        // cmp: register 1, equal, data { value 17 }, padded.
        let [eight, zero] = 8u16.to_ne_bytes();
        let attribute = |kind: u16, value: [u8; 4]| {
            let [k0, k1] = kind.to_ne_bytes();
            [&[eight, zero, k0, k1][..], &value].concat()
        };
        let mut expected = attribute(1, 1u32.to_be_bytes());
        expected.extend(attribute(2, 0u32.to_be_bytes()));
        expected.extend(12u16.to_ne_bytes());
        expected.extend((3u16 | 0x8000).to_ne_bytes());
        expected.extend(5u16.to_ne_bytes());
        expected.extend(1u16.to_ne_bytes());
        expected.extend([17, 0, 0, 0]);
        assert_eq!(list[1].1, expected);
    }

    #[test]
    fn a_prefix_is_masked_and_an_address_is_not() {
        let names = |length| {
            let matching = Match::ToV4(Ipv4Addr::new(127, 0, 0, 0), length);
            let list = expressions(&Rule { matching, action: Action::Accept });
            list.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(8), ["meta", "cmp", "payload", "bitwise", "cmp", "immediate"]);
        assert_eq!(names(32), ["meta", "cmp", "payload", "cmp", "immediate"]);
    }

    #[test]
    fn every_message_but_the_frame_is_acknowledged_and_named() {
        let chains = rules(Ipv4Addr::new(240, 0, 0, 9), Some("fd00::9".parse().unwrap()));
        let (_, meanings) = encode(&chains);
        let count = 1 + chains.iter().map(|chain| 1 + chain.rules.len()).sum::<usize>();
        assert_eq!(meanings.len(), count);
        assert!(meanings.contains(&"rule `udp dport 53 redirect to :15053`".to_owned()));
    }

    #[test]
    fn the_text_of_the_rules() {
        let text = rules_as_text(Ipv4Addr::new(240, 0, 0, 9), Some("fd00::9".parse().unwrap()));
        let expected = "\
table inet lorica {
\tchain redirect {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta mark 0x4c524341 accept
\t\tudp dport 53 redirect to :15053
\t\ttcp dport 53 redirect to :15053
\t\tip daddr 127.0.0.0/8 accept
\t\tip6 daddr ::1 accept
\t\tip daddr 240.0.0.9 accept
\t\tip6 daddr fd00::9 accept
\t\tmeta l4proto tcp redirect to :15001
\t}

\tchain refuse {
\t\ttype filter hook output priority filter; policy accept;
\t\tct state established accept
\t\tmeta mark 0x4c524341 accept
\t\tip daddr 127.0.0.0/8 accept
\t\tip6 daddr ::1 accept
\t\tip daddr 240.0.0.9 accept
\t\tip6 daddr fd00::9 accept
\t\tmeta l4proto tcp reject with tcp reset
\t\treject
\t}
}
";
        assert_eq!(text, expected);
    }
}
