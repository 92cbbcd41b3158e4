//! Ejection in simulated time.

use lorica_model::snapshot::{FailurePercentage, SuccessRate};

use super::*;

/// Endpoints, and a clock that is moved by hand.
struct Rig {
    ejector: Ejector,
    endpoints: Vec<Arc<Health>>,
    now: Instant,
}

impl Rig {
    fn new(count: usize, policy: Ejection) -> Self {
        let endpoints: Vec<Arc<Health>> = (0..count).map(|_| Arc::default()).collect();
        let ejector = Ejector::default();
        ejector.set(Some(policy), endpoints.iter().enumerate().map(|(index, health)| (health.clone(), index.to_string())));
        let mut rig = Self { ejector, endpoints, now: Instant::now() };
        assert_eq!(rig.sweep(), []);
        rig
    }

    fn answer(&self, index: usize, status: u16) -> Option<Change> {
        self.ejector.answered(&self.endpoints[index], status, false, self.now)
    }

    fn answers(&self, index: usize, statuses: &[u16]) -> Vec<Change> {
        statuses.iter().filter_map(|status| self.answer(index, *status)).collect()
    }

    fn fail(&self, index: usize) -> Option<Change> {
        self.ejector.failed(&self.endpoints[index], false, self.now)
    }

    /// One request that finds out.
    fn probe(&self, index: usize, status: u16) -> Option<Change> {
        let health = &self.endpoints[index];
        assert!(health.try_probe() && health.begins_probe());
        let change = self.ejector.answered(health, status, true, self.now);
        health.ends_probe();
        change
    }

    fn sweep(&mut self) -> Vec<Change> {
        self.ejector.sweep(self.now).0
    }

    /// Time goes by, with a sweep each interval of 10 s. Gives the seconds after which each change came.
    fn pass(&mut self, seconds: u64) -> Vec<(u64, Change)> {
        let mut changes = Vec::new();
        for second in 1..=seconds {
            self.now += Duration::from_secs(1);
            changes.extend(self.sweep().into_iter().map(|change| (second, change)));
        }
        changes
    }
}

fn ejected(index: usize, why: Why, term: u64) -> Change {
    Change::Ejected { name: index.to_string(), why, term: Duration::from_secs(term) }
}

fn probation_of(index: usize) -> Change {
    Change::Probation { name: index.to_string() }
}

fn policy() -> Ejection {
    Ejection { max_percent: 100, ..Ejection::default() }
}

#[test]
fn gateway_errors_in_a_row_eject() {
    let rig = Rig::new(3, policy());
    assert_eq!(rig.answers(0, &[503, 502, 504, 503, 200, 503, 503, 503, 503]), []);
    // Another error of the server's ends the row, too.
    assert_eq!(rig.answers(0, &[500, 503, 503, 503, 503]), []);
    assert_eq!(rig.answer(0, 503), Some(ejected(0, Why::ConsecutiveGatewayErrors, 30)));
    assert!(!rig.endpoints[0].is_available() && rig.endpoints[1].is_available());
    assert_eq!(rig.answers(0, &[503; 20]), [], "what was under way ejects it no second time");
}

#[test]
fn an_apps_own_errors_count_only_where_asked_for() {
    let rig = Rig::new(3, policy());
    assert_eq!(rig.answers(0, &[500; 100]), []);
    let rig = Rig::new(3, Ejection { consecutive_5xx: Some(3), consecutive_gateway: None, ..policy() });
    assert_eq!(rig.answers(0, &[500, 503, 404, 500, 501]), []);
    assert_eq!(rig.answer(0, 503), Some(ejected(0, Why::ConsecutiveServerErrors, 30)));
}

#[test]
fn failed_connections_are_counted_apart() {
    let rig = Rig::new(3, policy());
    for _ in 0..4 {
        assert_eq!(rig.fail(0), None);
        assert_eq!(rig.answer(1, 503), None);
    }
    assert_eq!(rig.answer(0, 503), None, "an answer ends the row");
    for _ in 0..4 {
        assert_eq!(rig.fail(0), None);
    }
    assert_eq!(rig.fail(0), Some(ejected(0, Why::ConsecutiveLocalFailures, 30)));
}

#[test]
fn it_comes_back_by_one_request_and_stays_away_longer_each_time() {
    let mut rig = Rig::new(3, policy());
    assert_eq!(rig.answers(0, &[503; 5]), [ejected(0, Why::ConsecutiveGatewayErrors, 30)]);
    assert_eq!(rig.pass(60), [(30, probation_of(0))]);
    assert!(!rig.endpoints[0].is_available());
    assert_eq!(rig.probe(0, 503), Some(ejected(0, Why::Probation, 60)));
    assert_eq!(rig.pass(60), [(60, probation_of(0))]);
    // Nobody waits for who went away: the next request finds out.
    assert!(rig.endpoints[0].try_probe() && rig.endpoints[0].begins_probe());
    rig.endpoints[0].ends_probe();
    assert_eq!(rig.probe(0, 404), Some(Change::Back { name: "0".to_owned() }));
    assert!(rig.endpoints[0].is_available());
    assert_eq!(rig.answers(0, &[503; 4]), [], "its row begins anew");
}

#[test]
fn the_term_has_a_bound_and_shrinks_with_each_interval_that_goes_well() {
    let mut rig = Rig::new(3, Ejection { max_time: Duration::from_secs(100), ..policy() });
    let term = |rig: &mut Rig, change: Option<Change>| match change {
        Some(Change::Ejected { term, .. }) => {
            assert_eq!(rig.pass(term.as_secs().next_multiple_of(10)).len(), 1);
            term.as_secs()
        }
        other => panic!("{other:?}"),
    };
    let first = rig.answers(0, &[503; 5]).pop();
    let mut terms = vec![term(&mut rig, first)];
    for _ in 0..5 {
        let change = rig.probe(0, 503);
        terms.push(term(&mut rig, change));
    }
    // Envoy's count goes one over what the bound allows, and no further.
    assert_eq!(terms, [30, 60, 90, 100, 100, 100]);
    assert_eq!(rig.probe(0, 200), Some(Change::Back { name: "0".to_owned() }));
    assert_eq!(rig.pass(30), []);
    assert_eq!(rig.answers(0, &[503; 5]), [ejected(0, Why::ConsecutiveGatewayErrors, 90)], "from five times to two, and one more");
}

#[test]
fn only_a_share_is_ejected_and_one_always_may_be() {
    assert!(may_eject(0, 2, 0) && !may_eject(1, 2, 10) && !may_eject(1, 19, 10) && may_eject(1, 20, 10) && !may_eject(2, 20, 10));
    let mut rig = Rig::new(3, Ejection::default());
    assert_eq!(rig.answers(0, &[503; 5]), [ejected(0, Why::ConsecutiveGatewayErrors, 30)]);
    let spared = Change::Spared { name: "1".to_owned(), why: Why::ConsecutiveGatewayErrors };
    assert_eq!(rig.answers(1, &[503; 10]), [spared.clone(), spared.clone()], "and its row begins anew");
    // Who is in probation is out as well, and may be ejected again.
    assert_eq!(rig.pass(30), [(30, probation_of(0))]);
    assert_eq!(rig.answers(1, &[503; 5]), [spared]);
    assert_eq!(rig.probe(0, 503), Some(ejected(0, Why::Probation, 60)));
}

#[test]
fn success_rates_far_below_the_mean_eject() {
    // Envoy's own example: a mean of 90, a deviation of 20.
    assert_eq!(success_rate_threshold([50.0, 100.0, 100.0, 100.0, 100.0].into_iter(), 1.9), 52.0);
    let by = SuccessRate { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900 };
    let policy = Ejection { consecutive_gateway: None, success_rate: Some(by), ..policy() };
    let mut rig = Rig::new(5, policy);
    let calls = |rig: &Rig, index: usize, all: u32, failed: u32| {
        (0..all).for_each(|call| drop(rig.answer(index, if call < failed { 500 } else { 200 })));
    };
    (0..4).for_each(|index| calls(&rig, index, 100, 0));
    calls(&rig, 4, 100, 50);
    assert_eq!(rig.pass(9), []);
    assert_eq!(rig.pass(1), [(1, ejected(4, Why::SuccessRate, 30))]);
    assert_eq!(rig.pass(10), [], "each interval counts anew");
    // With one ejected there are four, which are too few.
    (0..3).for_each(|index| calls(&rig, index, 100, 0));
    calls(&rig, 3, 100, 100);
    assert_eq!(rig.pass(10), []);
    // And too few calls say nothing.
    let mut rig = Rig::new(5, policy);
    (0..4).for_each(|index| calls(&rig, index, 100, 0));
    calls(&rig, 4, 99, 99);
    assert_eq!(rig.pass(10), []);
}

#[test]
fn a_share_of_failures_ejects() {
    let by = FailurePercentage { threshold: 85, minimum_hosts: 2, request_volume: 50 };
    let mut rig = Rig::new(3, Ejection { consecutive_gateway: None, consecutive_local: None, failure_percentage: Some(by), ..policy() });
    for (index, failed) in [(0, 84), (1, 85), (2, 0)] {
        (0..100).for_each(|call| drop(rig.answer(index, if call < failed { 503 } else { 200 })));
    }
    assert_eq!(rig.pass(10), [(10, ejected(1, Why::FailurePercentage, 30))]);
    // Connections have a share of their own.
    for index in [0, 2] {
        (0..50).for_each(|_| drop(if index == 2 { rig.fail(index) } else { rig.answer(index, 200) }));
    }
    assert_eq!(rig.pass(10), [(10, ejected(2, Why::LocalFailurePercentage, 30))]);
}

#[test]
fn a_health_check_that_goes_well_shortens_an_ejection() {
    let rig = Rig::new(3, policy());
    assert_eq!(rig.ejector.checked_well(&rig.endpoints[0]), None);
    rig.answers(0, &[503; 5]);
    assert_eq!(rig.ejector.checked_well(&rig.endpoints[0]), Some(probation_of(0)));
}

#[test]
fn without_a_policy_nobody_is_out() {
    let rig = Rig::new(3, policy());
    rig.answers(0, &[503; 5]);
    rig.ejector.set(None, rig.endpoints.iter().map(|health| (health.clone(), String::new())));
    assert!(rig.endpoints[0].is_available());
    assert_eq!(rig.answers(0, &[503; 50]), []);
    assert_eq!(rig.ejector.sweep(rig.now), (Vec::new(), None));
}
