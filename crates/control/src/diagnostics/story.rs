//! The story of a request: what its proxies tell, each of one hop, in; the hops in the order in which it passed them out. Pure.
//!
//! A callee's hop belongs under the caller's whose span it names, else under the last one that had asked it. A call that an app made for a request
//! belongs under the hop by which that came to the same proxy, while it was there. Clocks of hosts differ, so times are compared within a proxy only.

use lorica_api::explain::{Hop, Side, Story, Told};

/// The hops in their order, and who has told nothing.
#[must_use]
pub fn joined(mut hops: Vec<Hop>) -> Story {
    hops.sort_by_key(|hop| (hop.start_us, order(hop)));
    let missing = missing(&hops);
    let parents: Vec<Option<usize>> = (0..hops.len()).map(|at| parent(&hops, at)).collect();
    let mut untold: Vec<Option<Hop>> = hops.into_iter().map(Some).collect();
    let mut told = Vec::new();
    let roots = (0..parents.len()).filter(|at| parents[*at].is_none());
    // What leads back to itself has no root: it is told last.
    for first in roots.chain(0..parents.len()) {
        add(first, 0, &mut untold, &parents, &mut told);
    }
    Story { hops: told, missing, unanswered: Vec::new() }
}

/// Of two that began at once: who called did.
fn order(hop: &Hop) -> u8 {
    u8::from(hop.side == Side::Destination)
}

/// Adds a hop that is not told yet, and those under it.
fn add(at: usize, depth: usize, untold: &mut [Option<Hop>], parents: &[Option<usize>], told: &mut Vec<Told>) {
    let Some(hop) = untold.get_mut(at).and_then(Option::take) else { return };
    told.push(Told { depth, hop });
    for child in (0..parents.len()).filter(|child| parents[*child] == Some(at)) {
        add(child, depth + 1, untold, parents, told);
    }
}

fn parent(hops: &[Hop], at: usize) -> Option<usize> {
    let hop = &hops[at];
    let others = || hops.iter().enumerate().filter(move |(other, _)| *other != at);
    let found = match hop.side {
        Side::Destination => {
            let by_span = others().find(|(_, other)| !hop.parent_span_id.is_empty() && other.span_id == hop.parent_span_id);
            let asked = |other: &Hop| other.side != Side::Destination && other.attempts.iter().any(|attempt| attempt.workload == hop.proxy);
            by_span.filter(|(_, other)| other.side != Side::Destination).or_else(|| others().rfind(|(_, other)| asked(other)))
        }
        Side::Source | Side::Gateway => {
            let holds = |other: &Hop| {
                other.side == Side::Destination
                    && other.proxy == hop.proxy
                    && other.start_us <= hop.start_us
                    && hop.start_us <= other.start_us.saturating_add(other.took_us)
            };
            others().filter(|(_, other)| holds(other)).max_by_key(|(_, other)| other.start_us)
        }
    };
    found.map(|(other, _)| other)
}

/// Endpoints that answered somebody, have a proxy that can tell of it, and tell of no such call.
fn missing(hops: &[Hop]) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    let callers = hops.iter().filter(|hop| hop.side != Side::Destination);
    for attempt in callers.flat_map(|hop| &hop.attempts).filter(|attempt| attempt.status != 0 && attempt.tells) {
        let told = hops.iter().any(|hop| hop.side == Side::Destination && hop.proxy == attempt.workload);
        if !told && !missing.contains(&attempt.workload) {
            missing.push(attempt.workload.clone());
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_api::explain::Attempt;

    use super::*;

    fn hop(proxy: &str, side: Side, (start_us, took_us): (u64, u64), spans: (&str, &str), asked: &[&str]) -> Hop {
        let attempt = |workload: &&str| Attempt { workload: (*workload).to_owned(), status: 200, tells: true, ..Attempt::default() };
        Hop {
            proxy: proxy.to_owned(),
            side,
            start_us,
            took_us,
            span_id: spans.0.to_owned(),
            parent_span_id: spans.1.to_owned(),
            attempts: asked.iter().map(attempt).collect(),
            ..Hop::default()
        }
    }

    fn told(hops: Vec<Hop>) -> Vec<String> {
        let story = joined(hops);
        let line = |told: &Told| format!("{}{} {:?}", "  ".repeat(told.depth), told.hop.proxy, told.hop.side);
        story.hops.iter().map(line).chain(story.missing.iter().map(|missing| format!("missing {missing}"))).collect()
    }

    #[test]
    fn hops_are_told_in_the_order_in_which_they_were_passed() {
        // The clock of `b` is behind by a second; the app of `a` begins spans of its own.
        let hops = vec![
            hop("c.x", Side::Destination, (900, 20), ("5", "4"), &[]),
            hop("client.x", Side::Source, (1_000_000, 1000), ("1", ""), &["a.x"]),
            hop("b.x", Side::Destination, (500, 100), ("", ""), &[]),
            hop("a.x", Side::Destination, (1_000_100, 800), ("2", "1"), &[]),
            hop("a.x", Side::Source, (1_000_300, 100), ("4", "9"), &["c.x"]),
            hop("a.x", Side::Source, (1_000_200, 100), ("3", "8"), &["b.x"]),
        ];
        assert_eq!(
            told(hops),
            ["client.x Source", "  a.x Destination", "    a.x Source", "      b.x Destination", "    a.x Source", "      c.x Destination",]
        );
    }

    #[test]
    fn who_answered_and_has_told_nothing_is_named() {
        let mut source = hop("client.x", Side::Source, (0, 10), ("1", ""), &["a.x", "b.x", "c.x"]);
        source.attempts[0].status = 0;
        // It has no proxy that could tell.
        source.attempts[2].tells = false;
        assert_eq!(told(vec![source]), ["client.x Source", "missing b.x"]);
        assert_eq!(told(Vec::new()), Vec::<String>::new());
    }

    #[test]
    fn what_names_itself_is_told_once() {
        let hops = vec![hop("a.x", Side::Destination, (0, 10), ("1", "1"), &[]), hop("a.x", Side::Source, (5, 1), ("1", "1"), &["a.x"])];
        assert_eq!(joined(hops).hops.len(), 2);
    }
}
