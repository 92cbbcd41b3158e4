//! Which of several endpoints takes a call: pure functions of weights, loads and random numbers.
//!
//! Every one of them respects weights: among endpoints that are equally quick and equally busy, each gets its share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lorica_model::snapshot::{Algorithm, SlowStart};
use smallvec::SmallVec;

use super::LiveEndpoint;
use super::hash::{Host, Table};

/// The longest order of turns. Weights that would need a longer one are rounded.
const LONGEST_ORDER: f64 = 8192.0;
/// How often the next place of a table is tried when the endpoint of the one before was tried already.
const HASH_ATTEMPTS: u32 = 64;

/// Endpoints among which one is chosen, by their indices in their set, with what its algorithm makes of them once.
#[derive(Debug)]
pub(super) struct Group {
    /// The endpoints.
    pub(super) members: Vec<u32>,
    /// Up to where on the line of all weights each one's share reaches.
    ends: Vec<f64>,
    /// Whether all weigh the same.
    equal: bool,
    /// The order of turns, for round robin.
    order: Vec<u32>,
    /// The table, where the hash decides.
    table: Option<Table>,
}

/// What a choice depends on besides the group.
pub(super) struct Choice<'c, F: FnMut() -> f64> {
    /// The endpoints of the set.
    pub(super) endpoints: &'c [Arc<LiveEndpoint>],
    /// How it is made.
    pub(super) algorithm: Algorithm,
    /// How new ones are led up to their share.
    pub(super) slow_start: Option<SlowStart>,
    /// Endpoints that are left out, by their numbers.
    pub(super) tried: &'c [u64],
    /// The request's hash, or a random number.
    pub(super) point: u64,
    /// Whose turn it is in round robin.
    pub(super) turn: &'c AtomicU64,
    /// The time.
    pub(super) now: Instant,
    /// Uniform in 0..1, drawn anew each time.
    pub(super) random: F,
}

impl Group {
    /// The group of `members`, for an algorithm.
    #[must_use]
    pub(super) fn new(members: Vec<u32>, endpoints: &[Arc<LiveEndpoint>], algorithm: Algorithm) -> Self {
        let weight = |index: &u32| endpoints.get(*index as usize).map_or(1, |live| live.endpoint.weight.max(1));
        let weights: Vec<u32> = members.iter().map(weight).collect();
        let ends = ends(weights.iter().map(|weight| f64::from(*weight)));
        let turns = if algorithm == Algorithm::RoundRobin { order(&weights) } else { Vec::new() };
        let order = turns.into_iter().filter_map(|turn| members.get(turn as usize).copied()).collect();
        let hosts = || {
            let mut hosts: Vec<&u32> = members.iter().collect();
            // The order in which an Envoy is told of them; it decides who gets the odd place on a ring.
            hosts.sort_by_key(|index| endpoints.get(**index as usize).map(|live| &live.endpoint.locality));
            let host = |index: &u32| {
                let endpoint = &endpoints.get(*index as usize)?.endpoint;
                Some(Host { index: *index, address: endpoint.address, weight: endpoint.weight.max(1) })
            };
            hosts.into_iter().filter_map(host).collect::<Vec<_>>()
        };
        let table = match algorithm {
            Algorithm::RingHash { minimum_size } => Some(Table::ring(&hosts(), minimum_size)),
            Algorithm::Maglev { table_size } => Some(Table::maglev(&hosts(), table_size)),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::RoundRobin | Algorithm::Random => None,
        };
        Self { equal: weights.windows(2).all(|pair| pair[0] == pair[1]), members, ends, order, table }
    }

    /// The endpoint that takes the call, by its index in the set; none where all were tried.
    pub(super) fn choose<F: FnMut() -> f64>(&self, choice: &mut Choice<'_, F>) -> Option<u32> {
        match choice.algorithm {
            Algorithm::RingHash { .. } | Algorithm::Maglev { .. } => self.by_hash(choice),
            Algorithm::RoundRobin => self.in_turn(choice),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::Random => self.by_weight(choice),
        }
    }

    fn by_hash<F: FnMut() -> f64>(&self, choice: &mut Choice<'_, F>) -> Option<u32> {
        let table = self.table.as_ref()?;
        let mut attempts = (0..HASH_ATTEMPTS).map_while(|attempt| table.host(choice.point, attempt));
        attempts.find(|index| choice.is_untried(*index)).or_else(|| self.members.iter().copied().find(|index| choice.is_untried(*index)))
    }

    /// A new endpoint is passed over now and then, so that its share follows its weight of the moment.
    fn in_turn<F: FnMut() -> f64>(&self, choice: &mut Choice<'_, F>) -> Option<u32> {
        let mut passed_over = None;
        for _ in 0..self.order.len() {
            let turn = choice.turn.fetch_add(1, Ordering::Relaxed);
            let place = usize::try_from(turn.checked_rem(self.order.len() as u64)?).ok()?;
            let index = *self.order.get(place)?;
            if !choice.is_untried(index) {
                continue;
            }
            if (choice.random)() < choice.grown(index) {
                return Some(index);
            }
            passed_over = passed_over.or(Some(index));
        }
        passed_over
    }

    fn by_weight<F: FnMut() -> f64>(&self, choice: &mut Choice<'_, F>) -> Option<u32> {
        let is_growing = choice.slow_start.is_some() && self.members.iter().any(|index| choice.grown(*index) < 1.0);
        if choice.tried.is_empty() && !is_growing {
            return drawn(&self.members, &self.ends, self.equal, choice);
        }
        let members: SmallVec<[u32; 16]> = self.members.iter().copied().filter(|index| choice.is_untried(*index)).collect();
        let weights: SmallVec<[f64; 16]> = members.iter().map(|index| choice.weight(*index)).collect();
        let equal = weights.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
        drawn(&members, &ends(weights.iter().copied()), equal, choice)
    }
}

impl<F: FnMut() -> f64> Choice<'_, F> {
    fn live(&self, index: u32) -> Option<&LiveEndpoint> {
        self.endpoints.get(index as usize).map(|live| &**live)
    }

    fn is_untried(&self, index: u32) -> bool {
        self.tried.is_empty() || self.live(index).is_some_and(|live| !self.tried.contains(&live.id))
    }

    /// How much of its weight an endpoint has by now.
    fn grown(&self, index: u32) -> f64 {
        let Some(slow_start) = self.slow_start else { return 1.0 };
        self.live(index).map_or(1.0, |live| grown(slow_start, live.new_since, self.now))
    }

    fn weight(&self, index: u32) -> f64 {
        self.live(index).map_or(0.0, |live| f64::from(live.endpoint.weight.max(1))) * self.grown(index)
    }

    /// Which of two takes the call, the one drawn `first` where nothing speaks for the other. Weights decide who is drawn first: where they differ,
    /// the other must be clearly quicker, or the noise in latencies would even their shares out.
    fn is_better(&self, other: u32, first: u32, equal: bool) -> bool {
        let (Some(one), Some(two)) = (self.live(first), self.live(other)) else { return false };
        let active = |live: &LiveEndpoint| f64::from(live.active());
        let (weight, other_weight) = if equal { (1.0, 1.0) } else { (self.weight(first), self.weight(other)) };
        if self.algorithm == Algorithm::LeastRequest {
            return active(two) / other_weight < active(one) / weight;
        }
        let lighter = weight.min(other_weight);
        let cost = |live: &LiveEndpoint, weight: f64| live.load.at(self.now) * (1.0 + active(live) * lighter / weight);
        let clearly = if equal { 1.0 } else { 2.0 };
        cost(two, other_weight) * clearly < cost(one, weight)
    }
}

/// One of `members`, drawn by weight; the better of two where the algorithm looks at their load.
fn drawn<F: FnMut() -> f64>(members: &[u32], ends: &[f64], equal: bool, choice: &mut Choice<'_, F>) -> Option<u32> {
    let at = draw(ends, None, (choice.random)())?;
    let first = *members.get(at)?;
    if choice.algorithm == Algorithm::Random || members.len() == 1 {
        return Some(first);
    }
    let other = *members.get(draw(ends, Some(at), (choice.random)())?)?;
    Some(if choice.is_better(other, first, equal) { other } else { first })
}

/// Up to where each share reaches when the shares lie on a line, one after another.
fn ends(weights: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let end = |weight: f64| {
        sum += weight;
        sum
    };
    weights.map(end).collect()
}

/// The share that `random` (uniform in 0..1) meets, never `except`; none where there is no other.
fn draw(ends: &[f64], except: Option<usize>, random: f64) -> Option<usize> {
    let total = *ends.last()?;
    let Some(except) = except else {
        let ticket = random * total;
        return Some(ends.partition_point(|end| *end <= ticket).min(ends.len() - 1));
    };
    let begin = except.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or_default();
    let width = ends.get(except)? - begin;
    // The line without its share.
    let ticket = random * (total - width);
    let ticket = if ticket < begin { ticket } else { ticket + width };
    let found = ends.partition_point(|end| *end <= ticket).min(ends.len() - 1);
    match found {
        // At the very end of the line, or by a rounded bit.
        found if found == except => (0..ends.len()).rev().find(|other| *other != except),
        found => Some(found),
    }
}

/// The order in which endpoints of these weights take turns: each as often as its weight says, its turns spread evenly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the longest order")]
fn order(weights: &[u32]) -> Vec<u32> {
    let common = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum: f64 = weights.iter().map(|weight| f64::from(weight / common)).sum();
    let scale = (LONGEST_ORDER / sum).min(1.0);
    let turns = |weight: &u32| ((f64::from(weight / common) * scale).round() as u32).max(1);
    let mut order: Vec<(f64, u32)> = Vec::new();
    for (member, turns) in (0..).zip(weights.iter().map(turns)) {
        order.extend((0..turns).map(|turn| ((f64::from(turn) + 0.5) / f64::from(turns), member)));
    }
    order.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    order.into_iter().map(|(_, member)| member).collect()
}

fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// How much of its weight an endpoint has by now that is `new_since`: it grows evenly, from a least share on. 1 for one that is not new.
#[must_use]
pub(super) fn grown(slow_start: SlowStart, new_since: Option<Instant>, now: Instant) -> f64 {
    let Some(since) = new_since else { return 1.0 };
    let elapsed = now.saturating_duration_since(since);
    if elapsed >= slow_start.window {
        return 1.0;
    }
    (elapsed.as_secs_f64() / slow_start.window.as_secs_f64()).max(f64::from(slow_start.minimum_percent) / 100.0).min(1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn turns_are_spread_by_weight() {
        assert_eq!(order(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(order(&[5, 5]), [0, 1]);
        assert_eq!(order(&[1, 3]), [1, 0, 1, 1]);
        assert_eq!(order(&[]), Vec::<u32>::new());
        let long = order(&[1, u32::MAX, u32::MAX]);
        assert!(long.len() <= 8193 && long.contains(&0));
    }

    #[test]
    fn draws_follow_the_line_and_leave_one_out() {
        let line = ends([1.0, 2.0, 1.0].into_iter());
        assert_eq!([0.0, 0.24, 0.25, 0.74, 0.75, 0.999].map(|random| draw(&line, None, random).unwrap()), [0, 0, 1, 1, 2, 2]);
        assert_eq!([0.0, 0.49, 0.5, 0.999].map(|random| draw(&line, Some(1), random).unwrap()), [0, 0, 2, 2]);
        assert_eq!([0.0, 0.66, 0.67, 0.999].map(|random| draw(&line, Some(0), random).unwrap()), [1, 1, 2, 2]);
        assert_eq!([0.0, 0.33, 0.34, 0.999].map(|random| draw(&line, Some(2), random).unwrap()), [0, 0, 1, 1]);
        assert_eq!(draw(&line[..1], Some(0), 0.5), None);
        assert_eq!(draw(&[], None, 0.5), None);
    }

    #[test]
    fn a_new_endpoints_weight_grows_evenly() {
        let slow_start = SlowStart { window: Duration::from_secs(60), minimum_percent: 10 };
        let begun = Instant::now();
        let at = |seconds| grown(slow_start, Some(begun), begun + Duration::from_secs(seconds));
        for (seconds, expected) in [(0, 0.1), (3, 0.1), (6, 0.1), (15, 0.25), (30, 0.5), (60, 1.0), (600, 1.0)] {
            assert!((at(seconds) - expected).abs() < 1e-9, "{seconds}: {}", at(seconds));
        }
        assert_eq!(grown(slow_start, None, begun).to_bits(), 1f64.to_bits());
    }
}
