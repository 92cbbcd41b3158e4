//! When to look where the app listens: often while a declared port is missing, rarely later. It
//! remembers what was last seen and says what changed. Clock and dump come from the caller.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::message::AppListener;

const AT_FIRST: Duration = Duration::from_secs(10);
const QUICK: Duration = Duration::from_millis(20);
/// A declared port that is missing after ten seconds belongs to a slow starter, or never comes.
const PATIENT: Duration = Duration::from_millis(200);
const LATER: Duration = Duration::from_secs(1);

/// What was seen, and when to look again.
#[derive(Debug)]
pub(crate) struct Watch {
    started: Instant,
    declared: BTreeSet<u16>,
    seen: Option<Vec<AppListener>>,
    next: Instant,
}

impl Watch {
    pub(crate) fn new(declared: &[u16], now: Instant) -> Self {
        Self { started: now, declared: declared.iter().copied().collect(), seen: None, next: now }
    }

    /// When to look again.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Takes what was found; returns it if it is news. Finding nothing at first is none.
    pub(crate) fn found(&mut self, now: Instant, found: Vec<AppListener>) -> Option<Vec<AppListener>> {
        let missing = self.declared.iter().any(|port| !found.iter().any(|up| up.port == *port));
        let pause = match (missing, now.saturating_duration_since(self.started) < AT_FIRST) {
            (true, true) => QUICK,
            (true, false) => PATIENT,
            (false, _) => LATER,
        };
        self.next = now + pause;
        if self.seen.as_deref().unwrap_or_default() == found {
            return None;
        }
        self.seen = Some(found.clone());
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn up(ports: &[u16]) -> Vec<AppListener> {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        ports.iter().map(|&port| AppListener { port, address }).collect()
    }

    #[test]
    fn quick_until_declared_ports_are_up_then_rare() {
        let start = Instant::now();
        let mut watch = Watch::new(&[80, 90], start);
        assert_eq!(watch.found(start, up(&[])), None);
        assert_eq!(watch.next() - start, QUICK);
        assert_eq!(watch.found(start, up(&[80])), Some(up(&[80])));
        assert_eq!(watch.next() - start, QUICK);
        assert_eq!(watch.found(start, up(&[80, 90])), Some(up(&[80, 90])));
        assert_eq!(watch.next() - start, LATER);
        assert_eq!(watch.found(start, up(&[80, 90])), None);
        let late = start + AT_FIRST;
        assert_eq!(watch.found(late, up(&[80])), Some(up(&[80])));
        assert_eq!(watch.next() - late, PATIENT);
        assert_eq!(watch.found(late, up(&[])), Some(up(&[])));
    }
}
