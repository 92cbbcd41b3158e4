//! How calls are shared between the levels of a service's endpoints, near ones first, as their health changes: Envoy's arithmetic for
//! priorities, to the percent. Pure functions.

use smallvec::SmallVec;

/// How a level stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    /// How many of its endpoints are healthy.
    pub(super) healthy: usize,
    /// How many it has.
    pub(super) total: usize,
    /// How much more than its share its healthy endpoints may take, in percent: 140 where nothing else is said.
    pub(super) overprovisioning_percent: u32,
}

/// What a level gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Its share of the calls, in percent.
    pub(super) percent: u64,
    /// Whether health is passed over there: so few of its endpoints are healthy that they would break down under the others' calls.
    pub(super) panic: bool,
}

/// What each level gets; all shares together are 100, or there is no level. A level takes all calls until its health, which is the share of its healthy
/// endpoints times the over-provisioning, falls below 100 %; then the next one takes the rest. Where all levels together have less, each
/// takes its part of what there is. A level is in panic where, besides, its own share of healthy endpoints is below `panic_percent`.
#[must_use]
pub(super) fn shares(levels: &[Level], panic_percent: u32) -> SmallVec<[Share; 4]> {
    let health: SmallVec<[u64; 4]> = levels.iter().map(Level::health).collect();
    let sum = health.iter().sum::<u64>().min(100);
    let in_panic = |level: &Level| sum < 100 && level.is_below(panic_percent.min(100));
    let mut shares: SmallVec<[Share; 4]> = levels.iter().map(|level| Share { percent: 0, panic: in_panic(level) }).collect();
    let total: u64 = levels.iter().map(|level| level.total as u64).sum();
    if panic_percent > 0 && total > 0 && shares.iter().all(|share| share.panic) {
        // Health says nothing any more: each level takes as much as it has endpoints.
        let counts = levels.iter().map(|level| level.total as u64);
        share_out(&mut shares, counts.map(|count| count * 100 / total), |at| levels[at].total > 0);
    } else if sum > 0 {
        share_out(&mut shares, health.iter().map(|health| health * 100 / sum), |at| health[at] > 0);
    } else if let Some(first) = shares.first_mut() {
        first.percent = 100;
    }
    shares
}

/// Gives each level what is due to it, as far as there is something left; what rounding leaves over goes to the first that `counts`.
fn share_out(shares: &mut [Share], due: impl Iterator<Item = u64>, counts: impl Fn(usize) -> bool) {
    let mut left = 100;
    for (share, due) in shares.iter_mut().zip(due) {
        share.percent = due.min(left);
        left -= share.percent;
    }
    let first = (0..shares.len()).find(|at| counts(*at)).and_then(|at| shares.get_mut(at));
    if let Some(first) = first {
        first.percent += left;
    }
}

/// The level that takes a call whose hash or random number is `point`.
#[must_use]
pub(super) fn drawn(shares: &[Share], point: u64) -> usize {
    let mut ticket = point % 100;
    for (index, share) in shares.iter().enumerate() {
        if ticket < share.percent {
            return index;
        }
        ticket -= share.percent;
    }
    0
}

impl Level {
    /// Its health in percent, at most 100.
    fn health(&self) -> u64 {
        let health = u64::from(self.overprovisioning_percent) * self.healthy as u64;
        health.checked_div(self.total as u64).unwrap_or(0).min(100)
    }

    fn is_below(&self, percent: u32) -> bool {
        self.healthy as u64 * 100 < u64::from(percent) * self.total.max(1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares of levels with so many healthy endpoints of 100 each.
    fn of_hundred(healthy: &[usize], panic_percent: u32) -> (Vec<u64>, Vec<bool>) {
        let levels: Vec<_> = healthy.iter().map(|healthy| Level { healthy: *healthy, total: 100, overprovisioning_percent: 140 }).collect();
        shares(&levels, panic_percent).iter().map(|share| (share.percent, share.panic)).unzip()
    }

    fn loads(healthy: &[usize]) -> Vec<u64> {
        of_hundred(healthy, 0).0
    }

    /// The worked examples of Envoy's documentation of priority levels, two and three levels.
    #[test]
    fn loads_are_those_of_envoys_examples() {
        assert_eq!(loads(&[100, 100]), [100, 0]);
        assert_eq!(loads(&[72, 72]), [100, 0]);
        assert_eq!(loads(&[71, 71]), [99, 1]);
        assert_eq!(loads(&[50, 50]), [70, 30]);
        assert_eq!(loads(&[25, 100]), [35, 65]);
        assert_eq!(loads(&[25, 25]), [50, 50]);
        assert_eq!(loads(&[0, 100]), [0, 100]);
        assert_eq!(loads(&[100, 100, 100]), [100, 0, 0]);
        assert_eq!(loads(&[72, 72, 100]), [100, 0, 0]);
        assert_eq!(loads(&[71, 71, 100]), [99, 1, 0]);
        assert_eq!(loads(&[50, 50, 100]), [70, 30, 0]);
        assert_eq!(loads(&[25, 100, 100]), [35, 65, 0]);
        assert_eq!(loads(&[25, 25, 100]), [35, 35, 30]);
        // 35, 35 and 28 of 98; what rounding leaves over goes to the first.
        assert_eq!(loads(&[25, 25, 20]), [37, 35, 28]);
    }

    /// Those of its documentation of the panic threshold, at 50 %.
    #[test]
    fn panic_begins_where_envoys_examples_say() {
        assert_eq!(of_hundred(&[72, 72], 50), (vec![100, 0], vec![false, false]));
        assert_eq!(of_hundred(&[71, 71], 50), (vec![99, 1], vec![false, false]));
        assert_eq!(of_hundred(&[50, 60], 50), (vec![70, 30], vec![false, false]));
        // Together they have less than 100 %, and only one is below the threshold.
        assert_eq!(of_hundred(&[10, 50], 50), (vec![17, 83], vec![true, false]));
        assert_eq!(of_hundred(&[5, 65], 50), (vec![8, 92], vec![true, false]));
        // Both are below it: each takes as much as it has endpoints.
        assert_eq!(of_hundred(&[25, 25], 50), (vec![50, 50], vec![true, true]));
        assert_eq!(of_hundred(&[0, 0], 50), (vec![50, 50], vec![true, true]));
        // Without a threshold there is no panic: nobody is there, and the first level says so.
        assert_eq!(of_hundred(&[0, 0], 0), (vec![100, 0], vec![false, false]));
    }

    #[test]
    fn levels_of_unequal_size_share_a_panic_by_their_size() {
        let level = |healthy, total| Level { healthy, total, overprovisioning_percent: 140 };
        let percent = |levels: &[Level]| shares(levels, 50).iter().map(|share| share.percent).collect::<Vec<_>>();
        assert_eq!(percent(&[level(0, 1), level(0, 3), level(0, 3)]), [16, 42, 42]);
        assert_eq!(percent(&[level(0, 0), level(0, 3), level(0, 3)]), [0, 50, 50]);
        assert_eq!(percent(&[level(0, 0)]), [100]);
        assert_eq!(percent(&[]), Vec::<u64>::new());
    }

    #[test]
    fn a_point_is_drawn_by_share() {
        let shares = shares(&[Level { healthy: 50, total: 100, overprovisioning_percent: 140 }; 2], 0);
        let mut hits = [0; 2];
        (0..1000).for_each(|point| hits[drawn(&shares, point)] += 1);
        assert_eq!(hits, [700, 300]);
    }
}
