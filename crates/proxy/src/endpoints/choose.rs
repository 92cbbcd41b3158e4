//! One endpoint for one call: the level first, then one of its endpoints. Near levels come before far ones, and those of a service that takes over
//! after the service's own. A function of the sets, of what the call asks, of time and random numbers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::Guard;
use smallvec::SmallVec;

use super::arranged::{Arranged, Arrangement};
use super::balance::{Choice, Group};
use super::locality::{self, Level, Share};
use super::{Active, LiveEndpoint, LiveSet};
use crate::config::MAX_ACTIVE_PER_ENDPOINT;

/// What a call asks of whoever picks an endpoint for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'t> {
    /// The numbers of endpoints that took attempts of it so far; left out while others are there.
    pub tried: &'t [u64],
    /// Its hash, where it has one; without, any place of a table may be drawn.
    pub hash: Option<u64>,
    /// The token of the endpoint that it belongs to, taken while it is there and available.
    pub stay: Option<u64>,
}

/// Why no endpoint could be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPick {
    /// There is none, or all were tried.
    None,
    /// The one that would take it has as many calls as it may.
    Full,
}

/// The endpoint that takes a call: of the first of `sets`, or of those that take over as it fails. Gives which set it is of.
///
/// # Errors
/// [`NoPick`] where there is none.
pub fn pick(sets: &[&LiveSet], wanted: Wanted<'_>, now: Instant, mut random: impl FnMut() -> f64) -> Result<(usize, Active), NoPick> {
    // Most sets stand alone and are well.
    if let ([only], None) = (sets, wanted.stay)
        && let Some(group) = only.arranged().whole()
    {
        let point = wanted.hash.unwrap_or_else(|| if only.by_hash() { whole(random()) } else { 0 });
        let live = chosen(only, group, wanted.tried, point, now, &mut random).ok_or(NoPick::None)?;
        return begin(0, live, false, now);
    }
    let standing = Standing::of(sets);
    // An endpoint in probation has its turn before all others.
    if let Some((set, live)) = standing.probe(wanted.tried) {
        // The right to find out is given back where the call does not begin.
        return begin(set, live, false, now).inspect_err(|_| live.health.ends_probe());
    }
    if let Some((set, live)) = wanted.stay.and_then(|token| standing.named(token, wanted.tried)) {
        return begin(set, live, false, now);
    }
    let Some(first) = sets.first() else { return Err(NoPick::None) };
    let shares = standing.shares(first);
    let point = wanted.hash.unwrap_or_else(|| whole(random()));
    let drawn = locality::drawn(&shares, point);
    let others = (0..shares.len()).filter(|level| *level != drawn);
    for at in std::iter::once(drawn).chain(others) {
        let (Some((set, arrangement)), Some(share)) = (standing.level(at), shares.get(at)) else { continue };
        let of = sets[set];
        let group = arrangement.group(share.panic, &of.endpoints, of.traffic.balancing.algorithm);
        if let Some(live) = chosen(of, group, wanted.tried, point, now, &mut random) {
            return begin(set, live, share.panic, now);
        }
    }
    Err(NoPick::None)
}

/// The endpoint of `group` that takes a call with this hash, or random number in its place.
fn chosen<'s>(
    of: &'s LiveSet,
    group: &Group,
    tried: &[u64],
    point: u64,
    now: Instant,
    random: &mut impl FnMut() -> f64,
) -> Option<&'s Arc<LiveEndpoint>> {
    let mut choice = Choice {
        endpoints: &of.endpoints,
        algorithm: of.traffic.balancing.algorithm,
        slow_start: of.traffic.balancing.slow_start,
        tried,
        point,
        turn: &of.turn,
        now,
        random,
    };
    group.choose(&mut choice).and_then(|index| of.endpoints.get(index as usize))
}

/// Whether every endpoint that a call could be given was tried.
#[must_use]
pub fn is_exhausted(sets: &[&LiveSet], tried: &[u64]) -> bool {
    let standing = Standing::of(sets);
    let Some(first) = sets.first() else { return true };
    let is_tried = |set: &LiveSet, index: u32| set.endpoints.get(index as usize).is_none_or(|live| tried.contains(&live.id));
    standing.shares(first).iter().enumerate().all(|(at, share)| {
        let Some((set, arrangement)) = standing.level(at) else { return true };
        arrangement.members(share.panic).iter().all(|index| is_tried(sets[set], *index))
    })
}

fn begin(set: usize, live: &Arc<LiveEndpoint>, panic: bool, now: Instant) -> Result<(usize, Active), NoPick> {
    if live.active.load(Ordering::Relaxed) >= MAX_ACTIVE_PER_ENDPOINT {
        return Err(NoPick::Full);
    }
    Ok((set, Active::begin(Arc::clone(live), panic, now)))
}

/// A random number as the hash that a request does not have.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "random is in 0..1")]
fn whole(random: f64) -> u64 {
    const TWO_TO_53: f64 = 9_007_199_254_740_992.0;
    // A float has 53 random bits; spread so that the low ones are random, too.
    lorica_model::xxh64::xxh64(&((random * TWO_TO_53) as u64).to_le_bytes(), 0)
}

/// Several sets as they stand.
pub(super) struct Standing<'s> {
    sets: &'s [&'s LiveSet],
    arranged: SmallVec<[Guard<Arc<Arranged>>; 1]>,
}

impl<'s> Standing<'s> {
    pub(super) fn of(sets: &'s [&'s LiveSet]) -> Self {
        Self { sets, arranged: sets.iter().map(|set| set.arranged()).collect() }
    }

    /// What each level gets, those of all sets in one row.
    pub(super) fn shares(&self, own: &LiveSet) -> SmallVec<[Share; 4]> {
        let levels = self.arranged.iter().flat_map(|arranged| arranged.levels.iter().map(|arrangement| arrangement.level));
        let levels: SmallVec<[Level; 4]> = levels.collect();
        locality::shares(&levels, own.traffic.balancing.panic_percent)
    }

    /// A level by its place in the row, and its set.
    fn level(&self, at: usize) -> Option<(usize, &Arrangement)> {
        let levels = self.arranged.iter().enumerate().flat_map(|(set, arranged)| arranged.levels.iter().map(move |level| (set, level)));
        levels.into_iter().nth(at)
    }

    /// An endpoint that this call is to find out about: of the first set, or of one that takes over while none before it has anybody.
    fn probe(&self, tried: &[u64]) -> Option<(usize, &'s Arc<LiveEndpoint>)> {
        for (at, arranged) in self.arranged.iter().enumerate() {
            let healthy: usize = arranged.levels.iter().map(|arrangement| arrangement.level.healthy).sum();
            let endpoints = &self.sets[at].endpoints;
            if healthy < endpoints.len()
                && let Some(live) = endpoints.iter().find(|live| !tried.contains(&live.id) && live.try_probe())
            {
                return Some((at, live));
            }
            if healthy > 0 {
                return None;
            }
        }
        None
    }

    /// The available endpoint of this token that was not tried.
    fn named(&self, token: u64, tried: &[u64]) -> Option<(usize, &'s Arc<LiveEndpoint>)> {
        let all = self.sets.iter().enumerate().flat_map(|(set, of)| of.endpoints.iter().map(move |live| (set, live)));
        all.into_iter().find(|(_, live)| live.token == token && live.health.is_available() && !tried.contains(&live.id))
    }
}
