//! Wrong secrets, counted by where they came from: after ten within a minute nobody there is listened to until the minute is over. Pure.
//!
//! A secret has 256 bits, so nobody finds one out; what is kept small is the work that trying makes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many wrong secrets an address may show within [`WINDOW`].
const WRONG: u32 = 10;
/// How long wrong secrets count.
const WINDOW: Duration = Duration::from_secs(60);
/// The most addresses that are remembered.
const MAX_ADDRESSES: usize = 4096;

/// Who showed wrong secrets of late.
#[derive(Debug, Default)]
pub(super) struct Guesses(BTreeMap<IpAddr, Wrong>);

#[derive(Debug)]
struct Wrong {
    times: u32,
    since: Instant,
}

impl Guesses {
    /// Whether somebody at `address` may show a secret at `now`.
    pub(super) fn may(&self, address: IpAddr, now: Instant) -> bool {
        self.0.get(&network(address)).is_none_or(|wrong| wrong.times < WRONG || over(wrong, now))
    }

    /// Somebody at `address` showed a wrong secret.
    pub(super) fn wrong(&mut self, address: IpAddr, now: Instant) {
        let address = network(address);
        let full = |known: &BTreeMap<IpAddr, Wrong>| known.len() >= MAX_ADDRESSES && !known.contains_key(&address);
        if full(&self.0) {
            self.0.retain(|_, wrong| !over(wrong, now));
        }
        if full(&self.0)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, wrong)| wrong.since).map(|(address, _)| *address)
        {
            self.0.remove(&oldest);
        }
        let wrong = self.0.entry(address).or_insert(Wrong { times: 0, since: now });
        if over(wrong, now) {
            *wrong = Wrong { times: 0, since: now };
        }
        wrong.times = wrong.times.saturating_add(1);
    }
}

fn over(wrong: &Wrong, now: Instant) -> bool {
    now.saturating_duration_since(wrong.since) >= WINDOW
}

/// What one party has at least: an address of IPv4, the first 64 bits of one of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_wrong_secrets_close_the_door_for_the_rest_of_the_minute() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        for time in 0..WRONG {
            assert!(guesses.may(address("10.0.0.1"), start), "{time}");
            guesses.wrong(address("10.0.0.1"), start);
        }
        assert!(!guesses.may(address("10.0.0.1"), start + WINDOW - Duration::from_millis(1)));
        assert!(!guesses.may(address("::ffff:10.0.0.1"), start));
        assert!(guesses.may(address("10.0.0.2"), start));
        assert!(guesses.may(address("10.0.0.1"), start + WINDOW));
        guesses.wrong(address("10.0.0.1"), start + WINDOW);
        assert!(guesses.may(address("10.0.0.1"), start + WINDOW));
    }

    #[test]
    fn a_network_of_ipv6_is_one_party() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        for host in 0..WRONG {
            guesses.wrong(address(&format!("fd00::{host:x}")), start);
        }
        assert!(!guesses.may(address("fd00::ffff"), start));
        assert!(guesses.may(address("fd00:0:0:1::1"), start));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stay() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        for number in 0..MAX_ADDRESSES as u32 + 5 {
            let host = IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
            (0..WRONG).for_each(|_| guesses.wrong(host, start + Duration::from_micros(number.into())));
        }
        assert_eq!(guesses.0.len(), MAX_ADDRESSES);
        assert!(guesses.may(address("0.0.0.0"), start) && !guesses.may(address("0.0.16.4"), start));
    }
}
