//! The endpoints as they stand before one is picked, for people who ask why. What is told follows from what the pick looks at, and changes nothing
//! of it.

use std::sync::Arc;
use std::time::Instant;

use lorica_model::snapshot::Algorithm;

use super::choose::Standing;
use super::health::LeftOut;
use super::{LiveEndpoint, LiveSet};

/// One endpoint as it stands.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// The endpoint.
    pub live: Arc<LiveEndpoint>,
    /// What the algorithm compares it with others by, where it does: the lower, the better.
    pub score: Option<f64>,
    /// Why it is not picked, whatever its score; empty: it may be.
    pub left_out: Vec<&'static str>,
}

/// All endpoints of `sets`: those of the service first, then those that take over. `tried` took attempts of the same request.
#[must_use]
pub fn survey(sets: &[&LiveSet], tried: &[u64], now: Instant) -> Vec<Surveyed> {
    let Some(first) = sets.first() else { return Vec::new() };
    let standing = Standing::of(sets);
    let mut shares = standing.shares(first).into_iter();
    let mut all = Vec::new();
    for (place, set) in sets.iter().enumerate() {
        let algorithm = set.traffic.balancing.algorithm;
        for level in &set.levels {
            let share = shares.next();
            let (percent, panic) = share.map_or((0, false), |share| (share.percent, share.panic));
            for live in level.iter().filter_map(|index| set.endpoints.get(*index as usize)) {
                let mut left_out = Vec::new();
                if tried.contains(&live.id) {
                    left_out.push("took an attempt before");
                }
                if !panic {
                    left_out.extend(LeftOut::ALL.into_iter().filter(|reason| live.health.is(*reason)).map(words));
                }
                if percent == 0 {
                    left_out.push(if place == 0 { "nearer ones are well" } else { "takes over only as the service's own fail" });
                }
                all.push(Surveyed { live: live.clone(), score: score(live, algorithm, now), left_out });
            }
        }
    }
    all
}

fn words(reason: LeftOut) -> &'static str {
    match reason {
        LeftOut::Ejected => "ejected, as calls to it failed",
        LeftOut::HealthCheck => "does not answer health checks",
        LeftOut::Probation => "in probation: one request finds out whether it is well",
    }
}

fn score(live: &LiveEndpoint, algorithm: Algorithm, now: Instant) -> Option<f64> {
    let active = f64::from(live.active());
    let weight = f64::from(live.endpoint.weight.max(1));
    match algorithm {
        Algorithm::PeakEwma => Some(live.expected_latency(now).as_secs_f64() * 1000.0 * (1.0 + active / weight)),
        Algorithm::LeastRequest => Some(active / weight),
        Algorithm::RoundRobin | Algorithm::Random | Algorithm::RingHash { .. } | Algorithm::Maglev { .. } => None,
    }
}
