//! What is picked, of live sets as the control plane and the calls leave them.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::cast_possible_truncation)]
use std::collections::HashMap;

use super::health::LeftOut;
use super::*;
use lorica_model::snapshot::{Algorithm, Balancing, Nearness, SlowStart, Transport};

/// Some endpoints of one service port, and the sets that they are in.
struct Bench {
    endpoints: Vec<Endpoint>,
    balancing: Balancing,
    vantage: Vantage,
    sets: LiveSets,
    now: Instant,
    random: fastrand::Rng,
}

fn port() -> ServicePort {
    "recording.contact.mesh:80".parse().unwrap()
}

fn endpoint(index: usize, weight: u32, locality: &str) -> Endpoint {
    Endpoint {
        workload: format!("recording-{index}.contact").parse().unwrap(),
        address: ([127, 0, 0, 1], 1000 + u16::try_from(index).unwrap()).into(),
        transport: Transport::MutualTls,
        weight,
        version: None,
        virtual_address: None,
        locality: locality.parse().unwrap_or_default(),
    }
}

impl Bench {
    fn new(algorithm: Algorithm, weights: &[u32]) -> Self {
        let endpoints = weights.iter().enumerate().map(|(index, weight)| endpoint(index, *weight, "")).collect();
        Self::of(endpoints, Balancing { algorithm, ..Balancing::default() }, "")
    }

    fn of(endpoints: Vec<Endpoint>, balancing: Balancing, own: &str) -> Self {
        let vantage = Vantage { own: own.parse().unwrap_or_default(), ..Vantage::default() };
        let random = fastrand::Rng::with_seed(7);
        let mut bench = Self { endpoints, balancing, vantage, sets: LiveSets::new(), now: Instant::now(), random };
        bench.update();
        bench
    }

    fn update(&mut self) {
        let set = EndpointSet { port: port(), endpoints: self.endpoints.clone() };
        let mut unit = crate::view::tests::unit(&port());
        unit.cluster.traffic.balancing = self.balancing;
        let (endpoints, units) = (HashMap::from([(port(), Arc::new(set))]), HashMap::from([(port(), Arc::new(unit))]));
        self.sets = update(&self.sets, &endpoints, &units, &self.vantage, self.now);
    }

    fn set(&self) -> &LiveSet {
        &self.sets[&port()]
    }

    fn live(&self, index: usize) -> &Arc<LiveEndpoint> {
        &self.set().endpoints[index]
    }

    fn pick(&mut self, wanted: Wanted<'_>) -> Result<Active, NoPick> {
        let (now, random) = (self.now, &mut self.random);
        pick(&[&self.sets[&port()]], wanted, now, || random.f64()).map(|(_, active)| active)
    }

    fn picked(&mut self) -> Active {
        self.pick(Wanted::default()).unwrap()
    }

    fn index(&self, active: &Active) -> usize {
        self.set().endpoints.iter().position(|live| live.id == active.live.id).unwrap()
    }

    /// How many of `calls`, one after another, each endpoint takes.
    fn counts(&mut self, calls: usize) -> Vec<usize> {
        let mut counts = vec![0; self.endpoints.len()];
        for _ in 0..calls {
            let active = self.picked();
            counts[self.index(&active)] += 1;
        }
        counts
    }
}

/// How far counts are from shares.
fn chi_square(counts: &[usize], shares: &[f64]) -> f64 {
    let (calls, whole) = (counts.iter().sum::<usize>() as f64, shares.iter().sum::<f64>());
    let one = |(count, share): (&usize, &f64)| {
        let expected = calls * share / whole;
        (*count as f64 - expected).powi(2) / expected
    };
    counts.iter().zip(shares).map(one).sum()
}

/// The values that chi-square exceeds once in 10,000 times, by degrees of freedom.
const ONE_IN_10_000: [f64; 6] = [0.0, 15.14, 18.42, 21.11, 23.51, 25.74];

#[track_caller]
fn assert_shares(counts: &[usize], shares: &[f64]) {
    let distance = chi_square(counts, shares);
    assert!(distance < ONE_IN_10_000[shares.len() - 1], "{counts:?} for {shares:?}: {distance}");
}

const HASHED: [Algorithm; 2] = [Algorithm::RingHash { minimum_size: 65_536 }, Algorithm::Maglev { table_size: 65_537 }];
const ALL: [Algorithm; 6] = [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random, HASHED[0], HASHED[1]];

#[test]
fn every_balancer_gives_each_endpoint_its_weight() {
    for algorithm in ALL {
        for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 3, 4, 5], &[200, 50, 50]] {
            let shares: Vec<f64> = match algorithm {
                // A ring's arcs differ in length: a share of places is a share of hashes only roughly.
                Algorithm::RingHash { .. } => continue,
                _ => weights.iter().map(|weight| f64::from(*weight)).collect(),
            };
            let counts = Bench::new(algorithm, weights).counts(30_000);
            assert_shares(&counts, &shares);
        }
    }
}

#[test]
fn a_ring_gives_each_endpoint_its_arcs() {
    let mut bench = Bench::new(HASHED[0], &[1, 2, 1]);
    let shares: Vec<f64> = bench.counts(100_000).iter().map(|count| *count as f64 / 100_000.0).collect();
    for (share, expected) in shares.iter().zip([0.25, 0.5, 0.25]) {
        assert!((share - expected).abs() < 0.02, "{shares:?}");
    }
}

#[test]
fn round_robin_goes_round() {
    let mut bench = Bench::new(Algorithm::RoundRobin, &[1, 1, 1]);
    let mut next = || {
        let active = bench.picked();
        bench.index(&active)
    };
    let first: Vec<usize> = (0..9).map(|_| next()).collect();
    for (before, after) in first.iter().zip(&first[1..]) {
        assert_eq!((before + 1) % 3, *after, "{first:?}");
    }
    assert_eq!(Bench::new(Algorithm::RoundRobin, &[1, 3]).counts(400), [100, 300]);
}

#[test]
fn the_less_loaded_of_two_is_picked() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let mut bench = Bench::new(algorithm, &[1, 1]);
        let busy = bench.picked();
        for _ in 0..20 {
            assert_ne!(bench.picked().live.id, busy.live.id, "{algorithm:?}");
        }
    }
}

#[test]
fn calls_under_way_are_spread_by_weight() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let mut bench = Bench::new(algorithm, &[1, 3]);
        let calls: Vec<Active> = (0..400).map(|_| bench.picked()).collect();
        let light = calls.iter().filter(|active| bench.index(active) == 0).count();
        assert!((90..=110).contains(&light), "{algorithm:?}: {light}");
        drop(calls);
        assert_eq!((bench.live(0).active(), bench.live(1).active()), (0, 0));
    }
}

#[test]
fn a_slow_endpoint_is_left_alone_until_it_is_forgotten() {
    let mut bench = Bench::new(Algorithm::PeakEwma, &[1, 1]);
    let slow = bench.picked();
    slow.failed(Reason::ConnectFailed, bench.now);
    let id = slow.live.id;
    drop(slow);
    for _ in 0..100 {
        assert_ne!(bench.picked().live.id, id);
    }
    let fast = bench.pick(Wanted { tried: &[id], ..Wanted::default() }).unwrap();
    bench.now += Duration::from_secs(120);
    fast.live.load.observe(Duration::from_millis(200), bench.now);
    drop(fast);
    assert_eq!(bench.picked().live.id, id);
}

/// Ten calls at once, for a minute of simulated time, of which one endpoint of four answers ten times as late as the others.
#[test]
fn peak_ewma_sends_a_slow_endpoint_little() {
    let mut bench = Bench::new(Algorithm::PeakEwma, &[1, 1, 1, 1]);
    let (begun, mut counts) = (bench.now, [0usize; 4]);
    let mut under_way: Vec<(Instant, Active)> = Vec::new();
    while bench.now < begun + Duration::from_secs(60) {
        while under_way.len() < 10 {
            let active = bench.picked();
            let index = bench.index(&active);
            counts[index] += 1;
            under_way.push((bench.now + Duration::from_millis(if index == 0 { 200 } else { 20 }), active));
        }
        let next = (0..under_way.len()).min_by_key(|at| under_way[*at].0).unwrap();
        let (due, active) = under_way.swap_remove(next);
        bench.now = due;
        active.answered(200, None, due);
    }
    let share = counts[0] as f64 / counts.iter().sum::<usize>() as f64;
    // A tenth of what each other one gets is a thirty-first of all; a quarter would be blind.
    assert!(share < 0.05 && counts[0] > 0, "{counts:?}");
}

#[test]
fn an_answer_that_asks_for_patience_gets_it() {
    let mut bench = Bench::new(Algorithm::PeakEwma, &[1, 1]);
    for (status, retry_after, left_alone) in [(429, None, true), (503, Some(Duration::from_secs(60)), true), (404, None, false)] {
        bench.now += Duration::from_secs(1000);
        for index in 0..2 {
            bench.live(index).load.observe(Duration::from_millis(1), bench.now);
        }
        let asking = bench.picked();
        asking.answered(status, retry_after, bench.now);
        let id = asking.live.id;
        drop(asking);
        let again = (0..50).filter(|_| bench.picked().live.id == id).count();
        assert_eq!(again == 0, left_alone, "{status}: {again}");
    }
}

#[test]
fn what_was_tried_is_not_picked_again() {
    for algorithm in ALL {
        let mut bench = Bench::new(algorithm, &[1, 2, 1]);
        let mut tried: Vec<u64> = Vec::new();
        for _ in 0..3 {
            assert!(!is_exhausted(&[bench.set()], &tried));
            let active = bench.pick(Wanted { tried: &tried, hash: Some(42), stay: None }).unwrap();
            assert!(!tried.contains(&active.live.id), "{algorithm:?}");
            tried.push(active.live.id);
        }
        assert!(is_exhausted(&[bench.set()], &tried));
        assert_eq!(bench.pick(Wanted { tried: &tried, ..Wanted::default() }).unwrap_err(), NoPick::None, "{algorithm:?}");
    }
}

#[test]
fn what_is_known_outlives_a_change_of_the_set() {
    let mut bench = Bench::new(Algorithm::PeakEwma, &[1, 1]);
    let ids = |bench: &Bench| bench.set().endpoints.iter().map(|live| live.id).collect::<Vec<_>>();
    let before = ids(&bench);
    bench.endpoints.remove(0);
    bench.update();
    assert_eq!(ids(&bench), before[1..]);
}

#[test]
fn a_hash_keeps_its_endpoint_while_that_is_well() {
    for algorithm in HASHED {
        let mut bench = Bench::new(algorithm, &[1; 5]);
        let by_hash = |bench: &mut Bench, hash| {
            let active = bench.pick(Wanted { hash: Some(hash), ..Wanted::default() }).unwrap();
            bench.index(&active)
        };
        let hashes: Vec<u64> = (0..1000u64).map(|number| xxh64(&number.to_le_bytes(), 0)).collect();
        let before: Vec<usize> = hashes.iter().map(|hash| by_hash(&mut bench, *hash)).collect();
        assert!((0..5).all(|index| before.contains(&index)));
        bench.live(2).health.set(LeftOut::Ejected, true);
        let without: Vec<usize> = hashes.iter().map(|hash| by_hash(&mut bench, *hash)).collect();
        assert!(!without.contains(&2), "{algorithm:?}");
        let moved = before.iter().zip(&without).filter(|(before, without)| before != without).count();
        let own = before.iter().filter(|index| **index == 2).count();
        assert!(moved >= own && moved < own + 100, "{algorithm:?}: {moved} of which {own} had to");
        bench.live(2).health.set(LeftOut::Ejected, false);
        let again: Vec<usize> = hashes.iter().map(|hash| by_hash(&mut bench, *hash)).collect();
        assert_eq!(again, before, "{algorithm:?}");
    }
}

#[test]
fn a_cookie_keeps_its_endpoint_while_that_is_well() {
    let mut bench = Bench::new(Algorithm::Random, &[1; 5]);
    let (token, id) = (bench.live(3).token, bench.live(3).id);
    let stay = Wanted { stay: Some(token), ..Wanted::default() };
    for _ in 0..50 {
        assert_eq!(bench.pick(stay).unwrap().live.id, id);
    }
    assert_ne!(bench.pick(Wanted { tried: &[id], ..stay }).unwrap().live.id, id);
    bench.live(3).health.set(LeftOut::HealthCheck, true);
    assert_ne!(bench.pick(stay).unwrap().live.id, id);
    // The same in every proxy, whatever else it knows of it.
    assert_eq!(LiveEndpoint::new(endpoint(3, 9, "eu/a"), Arc::default(), Arc::default(), None, bench.now).token, token);
    assert_ne!(bench.live(2).token, token);
}

#[test]
fn too_few_healthy_ones_are_a_panic() {
    for algorithm in ALL {
        let mut bench = Bench::new(algorithm, &[1; 4]);
        bench.live(0).health.set(LeftOut::Ejected, true);
        bench.live(1).health.set(LeftOut::Ejected, true);
        let counts = bench.counts(2000);
        assert_eq!(counts[..2], [0, 0], "half of them are well: {algorithm:?}");
        bench.live(2).health.set(LeftOut::Ejected, true);
        assert!(bench.picked().panic);
        assert!(bench.counts(2000).iter().all(|count| *count > 0), "{algorithm:?}");
        bench.balancing.panic_percent = 0;
        bench.update();
        assert_eq!(bench.counts(100)[3], 100, "{algorithm:?}");
        bench.live(3).health.set(LeftOut::Ejected, true);
        assert_eq!(bench.pick(Wanted::default()).unwrap_err(), NoPick::None, "{algorithm:?}");
        assert!(is_exhausted(&[bench.set()], &[]));
    }
}

/// Endpoints in three places, as a caller in the first sees them.
fn in_three_places(prefer: Nearness) -> Bench {
    let places = ["eu/a", "eu/a", "eu/b", "eu/b", "us/a", "us/a"];
    let endpoints = places.iter().enumerate().map(|(index, place)| endpoint(index, 1, place)).collect();
    Bench::of(endpoints, Balancing { algorithm: Algorithm::Random, prefer, ..Balancing::default() }, "eu/a")
}

#[test]
fn near_endpoints_go_first() {
    assert_shares(&in_three_places(Nearness::Anywhere).counts(30_000), &[1.0; 6]);
    let region = in_three_places(Nearness::Region).counts(30_000);
    assert_shares(&region[..4], &[1.0; 4]);
    assert_eq!(region[4..], [0, 0]);
    let mut bench = in_three_places(Nearness::Zone);
    assert_eq!(bench.counts(1000)[2..], [0; 4]);
    // One of two is well: 70 % stay.
    bench.live(0).health.set(LeftOut::Ejected, true);
    let counts = bench.counts(30_000);
    assert_shares(&[counts[1], counts[2] + counts[3]], &[70.0, 30.0]);
    assert_eq!((counts[0], counts[4], counts[5]), (0, 0, 0));
    bench.live(1).health.set(LeftOut::Ejected, true);
    assert_eq!(bench.counts(1000)[4..], [0; 2]);
    bench.live(2).health.set(LeftOut::Ejected, true);
    let counts = bench.counts(30_000);
    assert_shares(&[counts[3], counts[4] + counts[5]], &[70.0, 30.0]);
    assert_eq!(counts[..3], [0; 3]);
}

#[test]
fn another_service_takes_over_as_the_own_endpoints_fail() {
    let mut own = Bench::new(Algorithm::LeastRequest, &[1, 1]);
    let other = Bench::new(Algorithm::RoundRobin, &[1, 1]);
    let shares = |own: &mut Bench| {
        let mut counts = [0; 2];
        for _ in 0..10_000 {
            let random = &mut own.random;
            let (set, _) = pick(&[&own.sets[&port()], other.set()], Wanted::default(), own.now, || random.f64()).unwrap();
            counts[set] += 1;
        }
        counts
    };
    assert_eq!(shares(&mut own), [10_000, 0]);
    own.live(0).health.set(LeftOut::Ejected, true);
    assert_shares(&shares(&mut own), &[70.0, 30.0]);
    own.live(1).health.set(LeftOut::Ejected, true);
    assert_eq!(shares(&mut own), [0, 10_000]);
    let tried: Vec<u64> = other.set().endpoints.iter().map(|live| live.id).collect();
    assert!(!is_exhausted(&[own.set(), other.set()], &tried[..1]));
    assert!(is_exhausted(&[own.set(), other.set()], &tried));
}

#[test]
fn a_service_without_endpoints_of_its_own_is_taken_over_at_once() {
    let (empty, other) = (Bench::new(Algorithm::PeakEwma, &[]), Bench::new(Algorithm::PeakEwma, &[1]));
    let (set, active) = pick(&[empty.set(), other.set()], Wanted::default(), other.now, || 0.5).unwrap();
    assert_eq!((set, active.panic), (1, false));
    assert_eq!(pick(&[empty.set()], Wanted::default(), other.now, || 0.5).unwrap_err(), NoPick::None);
    assert_eq!(pick(&[], Wanted::default(), other.now, || 0.5).unwrap_err(), NoPick::None);
}

#[test]
fn a_new_endpoint_is_led_up_to_its_share() {
    let slow_start = Some(SlowStart { window: Duration::from_secs(60), minimum_percent: 10 });
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let mut bench =
            Bench::of(vec![endpoint(0, 1, ""), endpoint(1, 1, "")], Balancing { algorithm, slow_start, ..Balancing::default() }, "");
        // They came with their set: nobody could lead anything up.
        assert_shares(&bench.counts(30_000), &[1.0, 1.0]);
        bench.endpoints.push(endpoint(2, 1, ""));
        bench.update();
        let begun = bench.now;
        for (seconds, grown) in [(0, 0.1), (15, 0.25), (30, 0.5), (60, 1.0), (1000, 1.0)] {
            bench.now = begun + Duration::from_secs(seconds);
            assert_shares(&bench.counts(30_000), &[1.0, 1.0, grown]);
        }
    }
}

#[test]
fn a_changed_weight_makes_no_endpoint_new() {
    let slow_start = Some(SlowStart { window: Duration::from_secs(60), minimum_percent: 10 });
    let mut bench = Bench::of(vec![endpoint(0, 1, ""), endpoint(1, 1, "")], Balancing { slow_start, ..Balancing::default() }, "");
    bench.endpoints[1].weight = 3;
    bench.update();
    assert_shares(&bench.counts(30_000), &[1.0, 3.0]);
}

#[test]
fn an_endpoint_takes_so_many_calls_and_no_more() {
    let mut bench = Bench::new(Algorithm::PeakEwma, &[1]);
    bench.live(0).active.store(crate::config::MAX_ACTIVE_PER_ENDPOINT, Ordering::Relaxed);
    assert_eq!(bench.pick(Wanted::default()).unwrap_err(), NoPick::Full);
}
