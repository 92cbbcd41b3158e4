//! Faults that are made on purpose: who meets them, until when, and what becomes of a request, a connection or a question for a name. Pure
//! functions of these, of the time and of random numbers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Effect, Effects, EgressCaller, FieldMatch, Origin, Share, route};
use crate::head::RequestHead;
use crate::name::{Label, Namespace, ServiceName, ServicePort};

/// What a FaultPolicy does to requests or connections. It happens at the caller's proxy, before anything is tried, so that it is never retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The policy. Shared, as the record of each exchange that it meets names it.
    pub origin: Arc<Origin>,
    /// When it stops. The proxy holds to it by its own clock, whether it hears from anybody or not.
    pub ends: SystemTime,
    /// Only requests that go to this service port; none: all of the rule's.
    pub to: Option<ServicePort>,
    /// Only requests that have these fields, by lower-case name. Bytes have none.
    pub headers: Vec<FieldMatch>,
    /// Only these callers; none: all.
    pub callers: Vec<EgressCaller>,
    /// How long it waits first.
    pub delay: Option<Delay>,
    /// Which share is reset in place of an answer.
    pub reset: Option<Share>,
    /// What is answered in place of the service. Bytes are not.
    pub abort: Option<Abort>,
    /// How slowly the answer comes.
    pub bandwidth: Option<Bandwidth>,
    /// Whether it is only counted what it would do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// A share that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// The share.
    pub share: Share,
    /// How long.
    pub time: DelayTime,
}

/// How long a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DelayTime {
    /// Each as long.
    Fixed(Duration),
    /// Anything between two times, each as likely.
    Uniform {
        /// The shortest.
        from: Duration,
        /// The longest.
        to: Duration,
    },
    /// Mostly short and seldom long, as waiting in queues is.
    Exponential {
        /// The mean of those that are not cut.
        mean: Duration,
        /// The longest.
        most: Duration,
    },
}

impl DelayTime {
    /// How long a request waits. `random` is uniform in 0..1.
    #[must_use]
    pub fn drawn(self, random: f64) -> Duration {
        match self {
            Self::Fixed(time) => time,
            Self::Uniform { from, to } => from + to.saturating_sub(from).mul_f64(random),
            Self::Exponential { mean, most } => {
                let times = -(1.0 - random.clamp(0.0, 1.0)).ln();
                Duration::try_from_secs_f64(mean.as_secs_f64() * times).map_or(most, |time| time.min(most))
            }
        }
    }

    /// The mean, for proxies that know one time only.
    #[must_use]
    pub fn mean(self) -> Duration {
        match self {
            Self::Fixed(time) => time,
            Self::Uniform { from, to } => from + to.saturating_sub(from) / 2,
            Self::Exponential { mean, most } => {
                // What is longer than `most` counts as that long.
                let cut = if mean.is_zero() { 0.0 } else { (-most.as_secs_f64() / mean.as_secs_f64()).exp() };
                mean.mul_f64(1.0 - cut)
            }
        }
    }
}

/// A share that is answered in place of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// The share.
    pub share: Share,
    /// The answer.
    pub answer: AbortAnswer,
}

/// What is answered in place of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AbortAnswer {
    /// A status of HTTP, 200 to 599.
    Http(u16),
    /// A status of gRPC, 0 to 16.
    Grpc(u32),
}

impl AbortAnswer {
    /// The status that callers of HTTP get; for one of gRPC, the one that Google's APIs map it to (google.rpc.Code). Envoy answers 200 then, which
    /// no caller would take for a failure.
    #[must_use]
    pub const fn http(self) -> u16 {
        match self {
            Self::Http(status) => status,
            Self::Grpc(code) => match code {
                0 => 200,
                1 => 499,
                3 | 9 | 11 => 400,
                4 => 504,
                5 => 404,
                6 | 10 => 409,
                7 => 403,
                8 => 429,
                12 => 501,
                14 => 503,
                16 => 401,
                _ => 500,
            },
        }
    }

    /// The status that callers of gRPC get; for one of HTTP, the one that gRPC's clients take it for ("HTTP to gRPC Status Code Mapping").
    #[must_use]
    pub const fn grpc(self) -> u32 {
        match self {
            Self::Grpc(code) => code,
            Self::Http(status) => match status {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502 | 503 | 504 => 14,
                _ => 2,
            },
        }
    }
}

/// A share whose answers come slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// The share.
    pub share: Share,
    /// How many bytes of the answer's body come in a second; for bytes, of what the service sends.
    pub bytes_per_second: u64,
}

/// A share of questions for a service's name that is answered wrongly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameFault {
    /// The policy.
    pub origin: Arc<Origin>,
    /// When it stops.
    pub ends: SystemTime,
    /// Whose name.
    pub service: ServiceName,
    /// The share.
    pub share: Share,
    /// The answer.
    pub answer: NameAnswer,
    /// Whether it is only counted what it would do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// What is answered to a question for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameAnswer {
    /// SERVFAIL.
    ServerFailure,
    /// NXDOMAIN.
    NoSuchName,
    /// Nothing, so that the app waits.
    Timeout,
}

/// Who calls: the namespace and the account of the workload beside the proxy.
#[derive(Debug, Clone, Copy)]
pub struct FaultCaller<'c> {
    /// The namespace.
    pub namespace: &'c Namespace,
    /// The account.
    pub account: &'c Label,
}

/// What is called.
#[derive(Debug, Clone, Copy)]
pub enum FaultCall<'c> {
    /// A request.
    Request {
        /// Its head.
        head: &'c RequestHead,
        /// The service port that it goes to.
        to: Option<&'c ServicePort>,
    },
    /// A connection whose bytes are not looked at.
    Bytes,
}

/// What becomes of a request or a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected<'f> {
    /// How long it waits first; none: not at all.
    pub delay: Option<Duration>,
    /// What it meets then; none: it goes on.
    pub end: Option<InjectedEnd>,
    /// How many bytes a second come back; none: as many as there are.
    pub bytes_per_second: Option<u64>,
    /// The policy that did the last of it; none: nothing was done.
    pub by: Option<&'f Arc<Origin>>,
}

/// How a request or a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedEnd {
    /// It is reset.
    Reset,
    /// It is answered so.
    Answer(AbortAnswer),
}

impl NameFault {
    fn is_about(&self, service: &ServiceName, now: SystemTime) -> bool {
        self.service == *service && now < self.ends
    }
}

impl Fault {
    fn meets(&self, call: FaultCall<'_>, caller: FaultCaller<'_>, now: SystemTime) -> bool {
        let called = match call {
            FaultCall::Request { head, to } => {
                (self.to.is_none() || self.to.as_ref() == to) && self.headers.iter().all(|field| route::header_matches(field, head))
            }
            FaultCall::Bytes => self.headers.is_empty(),
        };
        called && now < self.ends && self.concerns(caller.namespace, caller.account)
    }

    /// Whether it is for calls of this account.
    #[must_use]
    pub fn concerns(&self, namespace: &Namespace, account: &Label) -> bool {
        self.callers.is_empty() || self.callers.iter().any(|known| known.is(namespace.as_str(), account.as_str()))
    }
}

/// What `faults` do to a call at `now`, one after another: each may delay it, then reset it, then answer it; what ends it is the last. Each
/// share is drawn by itself. `random` gives numbers uniform in 0..1.
pub fn inject<'f>(
    faults: &'f [Fault],
    call: FaultCall<'_>,
    caller: FaultCaller<'_>,
    now: SystemTime,
    mut random: impl FnMut() -> f64,
) -> Injected<'f> {
    let mut injected = Injected::default();
    for fault in faults.iter().filter(|fault| !fault.shadow && fault.meets(call, caller, now)) {
        if let Some(bandwidth) = fault.bandwidth.filter(|bandwidth| bandwidth.share.takes(random())) {
            let slower = injected.bytes_per_second.map_or(bandwidth.bytes_per_second, |known| known.min(bandwidth.bytes_per_second));
            (injected.bytes_per_second, injected.by) = (Some(slower), Some(&fault.origin));
        }
        if let Some(delay) = fault.delay.filter(|delay| delay.share.takes(random())) {
            let time = delay.time.drawn(random());
            (injected.delay, injected.by) = (Some(injected.delay.unwrap_or_default().saturating_add(time)), Some(&fault.origin));
        }
        let end = if fault.reset.is_some_and(|share| share.takes(random())) {
            Some(InjectedEnd::Reset)
        } else {
            let abort = fault.abort.filter(|_| matches!(call, FaultCall::Request { .. }));
            abort.filter(|abort| abort.share.takes(random())).map(|abort| InjectedEnd::Answer(abort.answer))
        };
        if end.is_some() {
            return Injected { end, by: Some(&fault.origin), ..injected };
        }
    }
    injected
}

/// What those of `faults` that are tried would do to a call at `now`: each that it would meet, by itself. `random` gives numbers uniform in
/// 0..1.
pub fn tried_faults<'f>(
    faults: &'f [Fault],
    call: FaultCall<'_>,
    caller: FaultCaller<'_>,
    now: SystemTime,
    mut random: impl FnMut() -> f64,
) -> impl Iterator<Item = (&'f Arc<Origin>, Effects)> {
    faults.iter().filter(move |fault| fault.shadow && fault.meets(call, caller, now)).map(move |fault| {
        let mut draws = |share: Option<Share>| share.is_some_and(|share| share.takes(random()));
        let slow = draws(fault.bandwidth.map(|bandwidth| bandwidth.share));
        let delay = draws(fault.delay.map(|delay| delay.share));
        let reset = draws(fault.reset);
        let abort = !reset && matches!(call, FaultCall::Request { .. }) && draws(fault.abort.map(|abort| abort.share));
        let effects = Effects::NONE.with_if(delay, Effect::Delay).with_if(reset, Effect::Reset).with_if(abort, Effect::Abort);
        // An answer of the mesh's own is not slowed down.
        (&fault.origin, effects.with_if(slow && !reset && !abort, Effect::SlowDown))
    })
}

/// Which of `faults` a question for the name of `service` meets at `now`. `random` gives numbers uniform in 0..1.
pub fn inject_name<'f>(
    faults: &'f [NameFault],
    service: &ServiceName,
    now: SystemTime,
    mut random: impl FnMut() -> f64,
) -> Option<&'f NameFault> {
    faults.iter().filter(|fault| !fault.shadow && fault.is_about(service, now)).find(|fault| fault.share.takes(random()))
}

/// What those of `faults` that are tried would do to a question for the name of `service` at `now`. `random` gives numbers uniform in 0..1.
pub fn tried_names<'f>(
    faults: &'f [NameFault],
    service: &ServiceName,
    now: SystemTime,
    mut random: impl FnMut() -> f64,
) -> impl Iterator<Item = (&'f Arc<Origin>, Effects)> {
    let about = faults.iter().filter(move |fault| fault.shadow && fault.is_about(service, now));
    about.map(move |fault| (&fault.origin, Effects::NONE.with_if(fault.share.takes(random()), Effect::Misname)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::head::{HeadBuilder, Version};
    use crate::snapshot::ValueMatch;

    const HALF: Share = Share(500_000);

    fn origin(name: &str) -> Arc<Origin> {
        let namespace = "contact".to_owned();
        Arc::new(Origin { kind: "FaultPolicy".to_owned(), namespace, name: name.to_owned(), generation: 1, rule: 0, matched: 0 })
    }

    fn end() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn before() -> SystemTime {
        end() - Duration::from_nanos(1)
    }

    fn fault(name: &str) -> Fault {
        let (headers, callers) = (Vec::new(), Vec::new());
        Fault {
            origin: origin(name),
            ends: end(),
            to: None,
            headers,
            callers,
            delay: None,
            reset: None,
            abort: None,
            bandwidth: None,
            shadow: false,
        }
    }

    fn abort(share: Share) -> Option<Abort> {
        Some(Abort { share, answer: AbortAnswer::Http(503) })
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(64);
        fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
        builder.request(Version::Http11, "GET", "/", "recording.contact", None).unwrap()
    }

    fn met<'f>(faults: &'f [Fault], call: FaultCall<'_>, now: SystemTime, random: &[f64]) -> Injected<'f> {
        let (namespace, account) = (Namespace::new("contact").unwrap(), Label::new("routing").unwrap());
        let mut random = random.iter().copied();
        inject(faults, call, FaultCaller { namespace: &namespace, account: &account }, now, || random.next().unwrap())
    }

    #[test]
    fn a_fault_ends_by_itself() {
        let faults = [Fault { abort: abort(Share::ALL), ..fault("a") }];
        let head = head(&[]);
        let call = FaultCall::Request { head: &head, to: None };
        assert_eq!(met(&faults, call, before(), &[0.9]).end, Some(InjectedEnd::Answer(AbortAnswer::Http(503))));
        assert_eq!(met(&faults, call, end(), &[]), Injected::default());
    }

    #[test]
    fn a_share_is_met_and_the_rest_is_not() {
        let faults = [Fault { abort: abort(HALF), ..fault("a") }];
        let head = head(&[]);
        let call = FaultCall::Request { head: &head, to: None };
        assert!(met(&faults, call, before(), &[0.499_999]).end.is_some());
        assert_eq!(met(&faults, call, before(), &[0.5]), Injected::default());
    }

    /// Numbers uniform in 0..1, the same each time (SplitMix64).
    fn numbers(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            #[allow(clippy::cast_precision_loss)]
            let number = ((mixed ^ (mixed >> 31)) >> 11) as f64;
            number / (1_u64 << 53) as f64
        }
    }

    #[test]
    fn shares_are_met_as_often_as_they_say_and_each_by_itself() {
        const CALLS: u32 = 200_000;
        let (namespace, account) = (Namespace::new("contact").unwrap(), Label::new("routing").unwrap());
        let delay = Some(Delay { share: Share(300_000), time: DelayTime::Fixed(Duration::from_secs(1)) });
        let faults = [Fault { delay, abort: abort(Share(200_000)), ..fault("a") }];
        let head = head(&[]);
        let mut random = numbers(7);
        let mut met = [[0_u32; 2]; 2];
        for _ in 0..CALLS {
            let caller = FaultCaller { namespace: &namespace, account: &account };
            let injected = inject(&faults, FaultCall::Request { head: &head, to: None }, caller, before(), &mut random);
            met[usize::from(injected.delay.is_some())][usize::from(injected.end.is_some())] += 1;
        }
        // Chi-square of the four outcomes, of which three are free: above 16.27 is one in a thousand.
        let expected = [[0.7 * 0.8, 0.7 * 0.2], [0.3 * 0.8, 0.3 * 0.2]].map(|row| row.map(|share| share * f64::from(CALLS)));
        let of = |row: usize, column: usize| (f64::from(met[row][column]) - expected[row][column]).powi(2) / expected[row][column];
        let chi_square = of(0, 0) + of(0, 1) + of(1, 0) + of(1, 1);
        assert!(chi_square < 16.27, "{chi_square}: {met:?}");
    }

    #[test]
    fn only_whom_it_names_meets_it() {
        let port = |text: &str| text.parse::<ServicePort>().unwrap();
        let header = FieldMatch { name: "x-test".to_owned(), value: ValueMatch::Exact("1".to_owned()) };
        let caller = |account: &str| EgressCaller { namespace: None, account: Some(Label::new(account).unwrap()) };
        let full = Fault { abort: abort(Share::ALL), ..fault("a") };
        let (with, without) = (head(&[("x-test", "1")]), head(&[("x-test", "2")]));
        let (this, other) = (port("recording.contact.mesh:80"), port("recording.contact.mesh:81"));
        for (fault, head, to, meets) in [
            (Fault { headers: vec![header.clone()], ..full.clone() }, &with, None, true),
            (Fault { headers: vec![header.clone()], ..full.clone() }, &without, None, false),
            (Fault { callers: vec![caller("other"), caller("routing")], ..full.clone() }, &with, None, true),
            (Fault { callers: vec![caller("other")], ..full.clone() }, &with, None, false),
            (Fault { to: Some(this.clone()), ..full.clone() }, &with, Some(&this), true),
            (Fault { to: Some(this.clone()), ..full.clone() }, &with, Some(&other), false),
        ] {
            let faults = [fault];
            assert_eq!(met(&faults, FaultCall::Request { head, to }, before(), &[0.0]).by.is_some(), meets, "{faults:?}");
        }
        // Of bytes nothing is known that a header could say, and nothing can be answered.
        let reset = Fault { reset: Some(Share::ALL), ..full.clone() };
        assert_eq!(met(std::slice::from_ref(&reset), FaultCall::Bytes, before(), &[0.0]).end, Some(InjectedEnd::Reset));
        assert_eq!(met(&[Fault { headers: vec![header], ..reset }], FaultCall::Bytes, before(), &[]), Injected::default());
        assert_eq!(met(&[full], FaultCall::Bytes, before(), &[]), Injected::default());
    }

    #[test]
    fn faults_add_up_until_one_ends_the_call() {
        let delay = |seconds| Some(Delay { share: Share::ALL, time: DelayTime::Fixed(Duration::from_secs(seconds)) });
        let slow = |bytes_per_second| Some(Bandwidth { share: Share::ALL, bytes_per_second });
        let faults = [
            Fault { delay: delay(1), bandwidth: slow(10), ..fault("a") },
            Fault { delay: delay(2), abort: abort(HALF), bandwidth: slow(20), ..fault("b") },
            Fault { delay: delay(4), reset: Some(HALF), ..fault("c") },
        ];
        let head = head(&[]);
        let call = FaultCall::Request { head: &head, to: None };
        let all = met(&faults, call, before(), &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.9]);
        assert_eq!((all.delay, all.end, all.bytes_per_second), (Some(Duration::from_secs(7)), None, Some(10)));
        assert_eq!(all.by.unwrap().name, "c");
        let ended = met(&faults, call, before(), &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1]);
        assert_eq!((ended.delay, ended.by.unwrap().name.as_str()), (Some(Duration::from_secs(3)), "b"));
    }

    #[test]
    fn delays_are_of_their_distribution() {
        let milliseconds = Duration::from_millis;
        let uniform = DelayTime::Uniform { from: milliseconds(100), to: milliseconds(300) };
        assert_eq!((uniform.drawn(0.0), uniform.drawn(0.5), uniform.mean()), (milliseconds(100), milliseconds(200), milliseconds(200)));
        let exponential = DelayTime::Exponential { mean: milliseconds(100), most: milliseconds(400) };
        assert_eq!((exponential.drawn(0.0), exponential.drawn(1.0)), (Duration::ZERO, milliseconds(400)));
        let numbers = 100_000_u32;
        let total: Duration = (0..numbers).map(|number| exponential.drawn((f64::from(number) + 0.5) / f64::from(numbers))).sum();
        let mean = total / numbers;
        assert!(mean.abs_diff(exponential.mean()) < Duration::from_micros(10), "{mean:?} is not {:?}", exponential.mean());
    }

    #[test]
    fn an_answer_has_both_statuses() {
        for (answer, http, grpc) in [
            (AbortAnswer::Http(503), 503, 14),
            (AbortAnswer::Http(404), 404, 12),
            (AbortAnswer::Http(418), 418, 2),
            (AbortAnswer::Grpc(14), 503, 14),
            (AbortAnswer::Grpc(8), 429, 8),
            (AbortAnswer::Grpc(13), 500, 13),
        ] {
            assert_eq!((answer.http(), answer.grpc()), (http, grpc), "{answer:?}");
        }
    }

    #[test]
    fn names_fail_by_service_share_and_time() {
        let service: ServiceName = "recording.contact".parse().unwrap();
        let fault = NameFault {
            origin: origin("a"),
            ends: end(),
            service: service.clone(),
            share: HALF,
            answer: NameAnswer::NoSuchName,
            shadow: false,
        };
        let faults = [fault];
        let met = |service: &ServiceName, now, random| inject_name(&faults, service, now, || random).is_some();
        assert!(met(&service, before(), 0.4));
        assert!(!met(&service, before(), 0.5));
        assert!(!met(&service, end(), 0.0));
        assert!(!met(&"agents.contact".parse().unwrap(), before(), 0.0));
    }

    #[test]
    fn what_is_tried_is_told_and_does_nothing() {
        let request = head(&[]);
        let fault = |share| Fault {
            shadow: true,
            delay: Some(Delay { share: Share::ALL, time: DelayTime::Fixed(Duration::from_secs(1)) }),
            abort: abort(share),
            bandwidth: Some(Bandwidth { share: Share::ALL, bytes_per_second: 1 }),
            ..fault("a")
        };
        let (namespace, account) = (Namespace::new("contact").unwrap(), Label::new("routing").unwrap());
        let caller = FaultCaller { namespace: &namespace, account: &account };
        let call = FaultCall::Request { head: &request, to: None };
        let faults = [fault(HALF)];
        assert_eq!(inject(&faults, call, caller, before(), || 0.0), Injected::default());
        let tried =
            |now, random: f64| tried_faults(&faults, call, caller, now, move || random).map(|(_, effects)| effects).collect::<Vec<_>>();
        let delay = Effects::from(Effect::Delay);
        assert_eq!(tried(before(), 0.4), [delay.with(Effect::Abort)]);
        assert_eq!(tried(before(), 0.6), [delay.with(Effect::SlowDown)]);
        assert!(tried(end(), 0.0).is_empty());
        let bytes = tried_faults(&faults, FaultCall::Bytes, caller, before(), || 0.0).map(|(_, effects)| effects).collect::<Vec<_>>();
        assert_eq!(bytes, [delay.with(Effect::SlowDown)]);
    }
}
