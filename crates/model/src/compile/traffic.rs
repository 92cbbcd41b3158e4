//! Which policy decides on each setting of traffic: the most specific one that writes it, else what holds without any.
//!
//! From the most specific to the least: the rule of a route, the policy of that rule, of its route, of the port of the backend, of the backend, of
//! the service whose subset it is, of the service that was called, of the backend's namespace. Of two that are equally specific the older
//! counts; a change that writes one setting twice is refused. A policy that is tried says nothing here: `tried` beside this works out what it
//! would say.

use std::collections::BTreeSet;
use std::time::Duration;

use super::World;
use super::rules::age;
use crate::name::{Namespace, ObjectName, ServicePort};
use crate::resource::{BackendRef, Kind, Metadata, Mode, RouteRule, Service, Set, Settings, TrafficPolicy, TrafficTarget};
use crate::snapshot::{
    Adaptive, Affinity, Algorithm, Balancing, Connections, DEFAULT_CONNECT_TIMEOUT, Ejection, FailurePercentage, Forward, HashOn,
    HealthCheck, HealthQuestion, Hedge, Limits, Nearness, Pause, Retry, RetryLimit, RetryOn, SlowStart, SuccessRate, Timeouts, Traffic,
    WeightedBackend,
};

/// What holds for one request, as far as a rule says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempts {
    pub(super) timeouts: Timeouts,
    pub(super) retry: Retry,
    pub(super) hedge: Option<Hedge>,
    pub(super) hash: Vec<HashOn>,
    pub(super) affinity: Option<Affinity>,
}

impl Attempts {
    /// A rule's way to `backends`, with all else left as it is.
    pub(super) fn forward(self, backends: Vec<WeightedBackend>) -> Forward {
        let Self { timeouts, retry, hedge, hash, affinity } = self;
        Forward { backends, timeouts, retry, hedge, hash, affinity, ..Forward::default() }
    }
}

/// Who says what holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaidBy {
    /// Nobody: it holds without a policy.
    Default,
    /// The rule of the route itself.
    Rule,
    /// A TrafficPolicy, by namespace and name.
    Policy(Namespace, ObjectName),
}

/// Who is told where each value came from.
pub(super) trait Listener {
    fn chosen(&mut self, setting: &'static str, value: &dyn Shown, by: impl FnOnce() -> SaidBy);
}

impl Listener for () {
    fn chosen(&mut self, _: &'static str, _: &dyn Shown, _: impl FnOnce() -> SaidBy) {}
}

/// One setting as it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its path in a policy's `spec`.
    pub setting: &'static str,
    /// Its value, as one would write it.
    pub value: String,
    /// Who says so.
    pub by: SaidBy,
}

impl Listener for Vec<Effective> {
    fn chosen(&mut self, setting: &'static str, value: &dyn Shown, by: impl FnOnce() -> SaidBy) {
        self.push(Effective { setting, value: value.shown(), by: by() });
    }
}

/// What holds otherwise for requests by one rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveRule {
    /// The route's kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ObjectName,
    /// Which of its rules, from 0.
    pub index: usize,
    /// The rule's name, where it has one.
    pub rule: Option<String>,
    /// What holds otherwise than for other calls to the service port.
    pub settings: Vec<Effective>,
}

/// Every setting as it holds for calls to a service port, and what rules of routes that lead to it say otherwise; none where there is no such
/// port.
#[must_use]
pub fn effective(world: &World<'_>, port: &ServicePort) -> Option<(Vec<Effective>, Vec<EffectiveRule>)> {
    world.port(port)?;
    let policies = Policies::of(world, port, None);
    let mut told = Vec::new();
    policies.traffic(&mut told);
    policies.chosen(&mut told, Settings::NAMES.connect, |settings| &settings.connect, DEFAULT_CONNECT_TIMEOUT);
    policies.attempts_told(None, &mut told);
    told.sort_by_key(|one| one.setting);
    let mut rules = Vec::new();
    for (kind, route, spec) in world.resources.routes() {
        let called = spec.parents.iter().find_map(|parent| {
            let service = parent.object.service()?;
            Some(ServicePort { service, port: parent.port.unwrap_or(port.port) })
        });
        for (index, rule) in spec.rules.iter().enumerate() {
            let leads = |backend: &BackendRef| backend.object.service().as_ref() == Some(&port.service) && backend.port == Some(port.port);
            if !rule.backends.iter().any(leads) {
                continue;
            }
            let by = ByRule { kind, route, rule: rule.name.as_deref(), called: called.as_ref() };
            let mut settings = Vec::new();
            Policies::of(world, port, Some(by)).attempts_told(Some(rule), &mut settings);
            settings.retain(|one| !told.iter().any(|known| known.setting == one.setting && known.value == one.value));
            settings.sort_by_key(|one| one.setting);
            if !settings.is_empty() {
                let (namespace, name) = (route.namespace.clone(), route.name.clone());
                rules.push(EffectiveRule { kind, namespace, name, index, rule: rule.name.clone(), settings });
            }
        }
    }
    Some((told, rules))
}

/// What holds for calls to the endpoints of a service port.
#[must_use]
pub fn traffic(world: &World<'_>, port: &ServicePort) -> Traffic {
    Policies::of(world, port, None).endpoints()
}

/// The policies that hold somewhere, the most specific first.
pub(super) struct Policies<'w> {
    chain: Vec<(&'w Metadata, &'w Settings)>,
}

/// A policy that is about calls, and how closely: 0 is closest.
#[derive(Clone, Copy)]
pub(super) struct About<'w> {
    rank: u8,
    pub(super) metadata: &'w Metadata,
    pub(super) policy: &'w TrafficPolicy,
}

/// The policies that are about calls to a backend, by a route's rule if there is one, whether they are in force or tried.
pub(super) fn about<'w>(world: &World<'w>, backend: &ServicePort, by: Option<ByRule<'_>>) -> Vec<About<'w>> {
    let mut found = Vec::new();
    let base = world.resources.service(&backend.service).and_then(|(_, service)| service.subset.as_ref()).map(|subset| &subset.of);
    for (metadata, policy) in world.resources.traffic() {
        let rank = policy.targets.iter().filter_map(|target| {
            let of_service = |port: &ServicePort| means_service(world, target, port);
            let route = by.filter(|by| means_route(target, *by));
            match (route, target.section.as_deref()) {
                (Some(by), Some(section)) => return (by.rule == Some(section)).then_some(0),
                (Some(_), None) => return Some(1),
                (None, _) => {}
            }
            let ported = u8::from(target.section.is_none());
            if of_service(backend) {
                Some(2 + ported)
            } else if base.is_some_and(|base| of_service(&ServicePort { service: base.clone(), port: backend.port })) {
                Some(4 + ported)
            } else if by.and_then(|by| by.called).is_some_and(of_service) {
                Some(6 + ported)
            } else {
                None
            }
        });
        let whole = || (policy.targets.is_empty() && metadata.namespace == backend.service.namespace).then_some(8);
        if let Some(rank) = rank.min().or_else(whole) {
            found.push(About { rank, metadata, policy });
        }
    }
    found
}

/// A route's rule, by which a request goes.
#[derive(Clone, Copy)]
pub(super) struct ByRule<'r> {
    pub(super) kind: Kind,
    pub(super) route: &'r Metadata,
    pub(super) rule: Option<&'r str>,
    /// The service that was called, where it is another than the backend.
    pub(super) called: Option<&'r ServicePort>,
}

impl<'w> Policies<'w> {
    /// None hold.
    pub(super) const fn none() -> Self {
        Self { chain: Vec::new() }
    }

    /// Those that hold for calls to a backend, by a route's rule if there is one.
    pub(super) fn of(world: &World<'w>, backend: &ServicePort, by: Option<ByRule<'_>>) -> Self {
        Self::ordered(about(world, backend, by).into_iter().filter(|about| !about.policy.shadow).collect())
    }

    /// The same with one that is tried: of equals, it goes first, as it would take their place.
    pub(super) fn with(about: &[About<'w>], tried: &About<'w>) -> Self {
        let is_it = |about: &About<'_>| std::ptr::eq(about.metadata, tried.metadata);
        Self::ordered(about.iter().filter(|about| !about.policy.shadow || is_it(about)).copied().collect())
    }

    fn ordered(mut found: Vec<About<'w>>) -> Self {
        found.sort_by_key(|about| (about.rank, !about.policy.shadow, age(about.metadata)));
        Self { chain: found.into_iter().map(|about| (about.metadata, &about.policy.settings)).collect() }
    }

    fn chosen<T: Clone + Shown + 'w>(
        &self,
        told: &mut impl Listener,
        name: &'static str,
        of: impl Fn(&'w Settings) -> &'w Option<Set<T>>,
        default: T,
    ) -> T {
        let found = self.chain.iter().find_map(|(metadata, settings)| Some((&of(settings).as_ref()?.value, *metadata)));
        let (value, by) = match found {
            Some((value, by)) => (value.clone(), Some(by)),
            None => (default, None),
        };
        told.chosen(name, &value, || by.map_or(SaidBy::Default, |by| SaidBy::Policy(by.namespace.clone(), by.name.clone())));
        value
    }

    /// How long connecting may take.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.chosen(&mut (), Settings::NAMES.connect, |settings| &settings.connect, DEFAULT_CONNECT_TIMEOUT)
    }

    /// What holds for the endpoints.
    pub(super) fn endpoints(&self) -> Traffic {
        self.traffic(&mut ())
    }

    pub(super) fn traffic(&self, told: &mut impl Listener) -> Traffic {
        let default = Traffic::default();
        let names = Settings::NAMES;
        macro_rules! choose {
            ($field:ident, $default:expr) => {
                self.chosen(told, names.$field, |settings| &settings.$field, $default)
            };
        }
        let algorithm = choose!(algorithm, default.balancing.algorithm);
        let prefer = choose!(prefer, default.balancing.prefer);
        let overprovisioning_percent = choose!(overprovisioning, default.balancing.overprovisioning_percent);
        let panic_percent = choose!(panic, default.balancing.panic_percent);
        let window = choose!(slow_start_window, None);
        let slow_start = window.map(|window| SlowStart { window, minimum_percent: choose!(slow_start_minimum, 10) });
        let balancing = Balancing { algorithm, prefer, overprovisioning_percent, panic_percent, slow_start };
        let failover = choose!(failover, Vec::new()).into_iter().map(|set| set.value).collect();
        let by_default = Adaptive::default();
        let limits = Limits {
            connections: choose!(connections, default.limits.connections),
            pending: choose!(pending, default.limits.pending),
            requests: choose!(requests, default.limits.requests),
            queue_timeout: choose!(queue_timeout, default.limits.queue_timeout),
            retries: choose!(retry_limit, default.limits.retries),
            adaptive: if choose!(adaptive, Mode::Disabled) == Mode::Enabled {
                Some(Adaptive {
                    minimum: choose!(adaptive_minimum, by_default.minimum),
                    maximum: choose!(adaptive_maximum, by_default.maximum),
                    interval: choose!(adaptive_interval, by_default.interval),
                    tolerance_percent: choose!(adaptive_tolerance, by_default.tolerance_percent),
                })
            } else {
                None
            },
        };
        let by_default = Ejection::default();
        let ejection = if choose!(ejection, Mode::Enabled) == Mode::Enabled {
            Some(Ejection {
                consecutive_5xx: choose!(consecutive_5xx, by_default.consecutive_5xx),
                consecutive_gateway: choose!(consecutive_gateway, by_default.consecutive_gateway),
                consecutive_local: choose!(consecutive_local, by_default.consecutive_local),
                interval: choose!(ejection_interval, by_default.interval),
                base_time: choose!(ejection_base, by_default.base_time),
                max_time: choose!(ejection_most, by_default.max_time),
                max_percent: choose!(ejection_percent, by_default.max_percent),
                success_rate: choose!(success_rate, by_default.success_rate),
                failure_percentage: choose!(failure_percentage, by_default.failure_percentage),
            })
        } else {
            None
        };
        let health_check = choose!(health_check, None).map(|ask| HealthCheck {
            ask,
            interval: choose!(health_interval, Duration::from_secs(5)),
            timeout: choose!(health_timeout, Duration::from_secs(2)),
            unhealthy_threshold: choose!(health_unhealthy, 3),
            healthy_threshold: choose!(health_healthy, 2),
        });
        let connections = Connections {
            idle: choose!(pooled_idle, default.connections.idle),
            max_age: choose!(connection_age, default.connections.max_age),
        };
        Traffic { balancing, limits, ejection, health_check, connections, failover, tried: Vec::new() }
    }

    /// What holds for one request by `rule`, whose own words go first.
    pub(super) fn attempts(&self, rule: Option<&RouteRule>) -> Attempts {
        self.attempts_told(rule, &mut ())
    }

    pub(super) fn attempts_told(&self, rule: Option<&RouteRule>, told: &mut impl Listener) -> Attempts {
        let names = Settings::NAMES;
        macro_rules! choose {
            ($field:ident, $default:expr) => {
                self.chosen(told, names.$field, |settings| &settings.$field, $default)
            };
        }
        // What the rule itself writes.
        macro_rules! rule_or_choose {
            ($written:expr, $field:ident, $default:expr) => {
                match $written {
                    Some(value) => {
                        told.chosen(names.$field, &value, || SaidBy::Rule);
                        value
                    }
                    None => choose!($field, $default),
                }
            };
        }
        let default = Timeouts::default();
        let limit = |written: Option<Duration>| written.map(|limit| Some(limit).filter(|limit| !limit.is_zero()));
        let timeouts = Timeouts {
            request: rule_or_choose!(limit(rule.and_then(|rule| rule.request_timeout)), request, default.request),
            backend_request: rule_or_choose!(limit(rule.and_then(|rule| rule.backend_request_timeout)), per_try, default.backend_request),
            idle: choose!(idle, default.idle),
            stream: choose!(stream, default.stream),
        };
        let default = Retry::default();
        let written = rule.and_then(|rule| rule.retry.as_ref());
        let attempts = rule_or_choose!(written.map(|written| written.attempts), retry_attempts, default.attempts);
        let on = choose!(retry_on, default.on);
        let codes = rule_or_choose!(written.map(|written| written.codes.clone()), retry_codes, default.codes);
        let pause = match (written.and_then(|written| written.backoff), default.pause) {
            (Some(pause), _) | (None, Pause::AtLeast(pause)) => {
                told.chosen(names.backoff_base, &pause, || SaidBy::Rule);
                Pause::AtLeast(pause)
            }
            (None, Pause::Growing { base, most }) => {
                let base = choose!(backoff_base, base);
                Pause::Growing { base, most: choose!(backoff_most, most.max(base)).max(base) }
            }
        };
        let retry = Retry {
            attempts,
            on,
            codes,
            pause,
            non_idempotent: choose!(non_idempotent, default.non_idempotent),
            avoid_tried: choose!(avoid_tried, default.avoid_tried),
            retry_after_most: choose!(retry_after, default.retry_after_most),
        };
        let hedge = choose!(hedge_after, None).map(|after| Hedge { after, attempts: choose!(hedge_attempts, 1) });
        Attempts { timeouts, retry, hedge, hash: choose!(hash, Vec::new()), affinity: choose!(affinity, None) }
    }
}

/// Whether a target is a service port.
fn means_service(world: &World<'_>, target: &TrafficTarget, port: &ServicePort) -> bool {
    let named = |service: &Service, section: &str| {
        service.port(port.port).and_then(|spec| spec.name.as_ref()).is_some_and(|name| name.as_str() == section)
    };
    target.object.service().as_ref() == Some(&port.service)
        && target
            .section
            .as_deref()
            .is_none_or(|section| world.resources.service(&port.service).is_some_and(|(_, service)| named(base(world, service), section)))
}

/// The service that has the ports of a service: itself, or the one whose subset it is.
fn base<'w>(world: &World<'w>, service: &'w Service) -> &'w Service {
    service.subset.as_ref().and_then(|subset| world.resources.service(&subset.of)).map_or(service, |(_, base)| base)
}

fn means_route(target: &TrafficTarget, by: ByRule<'_>) -> bool {
    target.object.kind == by.kind.as_str() && target.object.namespace == by.route.namespace && target.object.name == by.route.name
}

/// A value as one would write it.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u16 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for bool {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for Mode {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl Shown for Duration {
    fn shown(&self) -> String {
        let (mut rest, mut text) = (self.as_millis(), String::new());
        for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= length {
                text += &format!("{}{unit}", rest / length);
                rest %= length;
            }
        }
        if text.is_empty() { "0s".to_owned() } else { text }
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or_else(|| "None".to_owned(), Shown::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> String {
        if self.is_empty() { "None".to_owned() } else { self.iter().map(Shown::shown).collect::<Vec<_>>().join(", ") }
    }
}

impl<T: Shown> Shown for BTreeSet<T> {
    fn shown(&self) -> String {
        if self.is_empty() { "None".to_owned() } else { self.iter().map(Shown::shown).collect::<Vec<_>>().join(", ") }
    }
}

impl Shown for Set<ServicePort> {
    fn shown(&self) -> String {
        self.value.to_string()
    }
}

impl Shown for Algorithm {
    fn shown(&self) -> String {
        match self {
            Self::PeakEwma => "PeakEwma".to_owned(),
            Self::LeastRequest => "LeastRequest".to_owned(),
            Self::RoundRobin => "RoundRobin".to_owned(),
            Self::Random => "Random".to_owned(),
            Self::RingHash { minimum_size } => format!("RingHash (minimumRingSize {minimum_size})"),
            Self::Maglev { table_size } => format!("Maglev (tableSize {table_size})"),
        }
    }
}

impl Shown for Nearness {
    fn shown(&self) -> String {
        let word = match self {
            Self::Anywhere => "Anywhere",
            Self::Region => "Region",
            Self::Zone => "Zone",
        };
        word.to_owned()
    }
}

impl Shown for HashOn {
    fn shown(&self) -> String {
        match self {
            Self::Header(name) => format!("header {name}"),
            Self::Cookie { name, .. } => format!("cookie {name}"),
            Self::Query(name) => format!("query {name}"),
            Self::SourceAddress => "source Address".to_owned(),
        }
    }
}

impl Shown for Affinity {
    fn shown(&self) -> String {
        format!("cookie {}", self.cookie)
    }
}

impl Shown for RetryLimit {
    fn shown(&self) -> String {
        match self {
            Self::Budget { percent, minimum } => format!("{percent} % of the requests under way, at least {minimum}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }
}

impl Shown for RetryOn {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl Shown for SuccessRate {
    fn shown(&self) -> String {
        format!("stdevFactor {}, minimumHosts {}, requestVolume {}", self.stdev_factor, self.minimum_hosts, self.request_volume)
    }
}

impl Shown for FailurePercentage {
    fn shown(&self) -> String {
        format!("threshold {}, minimumHosts {}, requestVolume {}", self.threshold, self.minimum_hosts, self.request_volume)
    }
}

impl Shown for HealthQuestion {
    fn shown(&self) -> String {
        match self {
            Self::Http { path, .. } => format!("http {path}"),
            Self::Grpc { service } => format!("grpc {service}").trim_end().to_owned(),
            Self::Tcp => "tcp".to_owned(),
        }
    }
}
