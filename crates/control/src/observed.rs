//! Who calls what, and what policies that are tried would change, as proxies tell it. In memory, bounded; a control plane that starts anew begins
//! anew.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lorica_api::{self as api, ObservedCall, PlaintextCaller};
use lorica_model::name::{ServiceName, ServicePort};
use lorica_model::snapshot::Effect;
use lorica_model::spiffe::SpiffeId;
use lorica_xds::observed::{Observation, Verdict};
use lorica_xds::trial::{Trial, TrialExample, TriedPolicy};

use crate::timestamp;

/// The most calls that are told apart; of more, what was seen longest ago goes.
const MOST_CALLS: usize = 20_000;
/// The most policies of which a trial is kept.
const MOST_TRIALS: usize = 1000;
/// How many examples of a trial are kept.
const MOST_EXAMPLES: usize = 10;
/// For how long a caller that sent plaintext counts as one that still does: the longest pause that a job of once a day makes, and an hour.
pub const STILL: Duration = Duration::from_secs(25 * 3600);

/// A call that is told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    port: ServicePort,
    caller: Option<SpiffeId>,
    address: Option<IpAddr>,
    request: Option<(String, String)>,
    denied: bool,
}

/// How often it came, and when.
#[derive(Debug, Clone, Copy)]
struct Came {
    times: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What a policy that is tried would have done.
#[derive(Debug, Default)]
struct Tried {
    /// Of which the numbers are.
    generation: u64,
    calls: u64,
    would: BTreeMap<Effect, u64>,
    since: Option<SystemTime>,
    examples: VecDeque<(TrialExample, SystemTime)>,
}

#[derive(Debug, Default)]
struct Known {
    calls: BTreeMap<Call, Came>,
    trials: BTreeMap<TriedPolicy, Tried>,
}

/// Who calls what.
#[derive(Debug, Default)]
pub struct Observed(Mutex<Known>);

impl Observed {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change of it is complete before the next line can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call came, so many times.
    pub fn saw(&self, observation: Observation, times: u64) {
        let now = SystemTime::now();
        let mut known = self.known();
        let Observation { caller, address, port, request, verdict } = observation;
        let denied = verdict == Verdict::Denied;
        let call = Call { port, caller, address, request, denied };
        if known.calls.len() >= MOST_CALLS && !known.calls.contains_key(&call) {
            // Many at once, as looking for the oldest takes a while.
            let mut lasts: Vec<SystemTime> = known.calls.values().map(|came| came.last).collect();
            let (_, middle, _) = lasts.select_nth_unstable(MOST_CALLS / 10);
            let until = *middle;
            known.calls.retain(|_, came| came.last > until);
        }
        let came = known.calls.entry(call).or_insert(Came { times: 0, first: now, last: now });
        came.times = came.times.saturating_add(times);
        came.last = now;
    }

    /// A proxy has held a policy that is tried against calls.
    pub fn tried(&self, trial: Trial) {
        let now = SystemTime::now();
        let mut known = self.known();
        let Trial { policy, generation, calls, would, example } = trial;
        if known.trials.len() >= MOST_TRIALS && !known.trials.contains_key(&policy) {
            return;
        }
        let tried = known.trials.entry(policy).or_default();
        if tried.generation > generation {
            // A proxy that told before it had heard of the change.
            return;
        }
        if tried.generation < generation {
            *tried = Tried { generation, ..Tried::default() };
        }
        tried.since.get_or_insert(now);
        tried.calls = tried.calls.saturating_add(calls);
        for (effect, times) in would {
            let known = tried.would.entry(effect).or_default();
            *known = known.saturating_add(times);
        }
        if let Some(example) = example {
            // What is alike is one example. Times that calls took are not.
            let alike = |other: &TrialExample| {
                TrialExample { why: String::new(), ..other.clone() } == TrialExample { why: String::new(), ..example.clone() }
            };
            tried.examples.retain(|(other, _)| !alike(other));
            tried.examples.push_front((example, now));
            tried.examples.truncate(MOST_EXAMPLES);
        }
    }

    /// What came to the services of a namespace, or to all; ordered by service and caller.
    #[must_use]
    pub fn calls(&self, namespace: Option<&str>) -> Vec<ObservedCall> {
        let known = self.known();
        let wanted =
            known.calls.iter().filter(|(call, _)| namespace.is_none_or(|namespace| call.port.service.namespace.as_str() == namespace));
        wanted.map(|(call, came)| shown(call, came)).collect()
    }

    /// Who sent plaintext to a service lately, the latest first.
    #[must_use]
    pub fn plaintext(&self, service: &ServiceName, now: SystemTime) -> Vec<PlaintextCaller> {
        let known = self.known();
        let mut found: BTreeMap<(IpAddr, u16), Came> = BTreeMap::new();
        for (call, came) in &known.calls {
            let Some(address) = call.address.filter(|_| call.port.service == *service && call.caller.is_none()) else { continue };
            if now.duration_since(came.last).is_ok_and(|ago| ago > STILL) {
                continue;
            }
            let of = found.entry((address, call.port.port)).or_insert(Came { times: 0, ..*came });
            *of = Came { times: of.times.saturating_add(came.times), first: of.first.min(came.first), last: of.last.max(came.last) };
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(_, came)| std::cmp::Reverse(came.last));
        let one = |((address, port), came): ((IpAddr, u16), Came)| PlaintextCaller {
            address,
            port,
            times: came.times,
            first: timestamp(came.first),
            last: timestamp(came.last),
        };
        found.into_iter().map(one).collect()
    }

    /// What a policy that is tried would have done.
    #[must_use]
    pub fn trial(&self, policy: &TriedPolicy) -> api::Trial {
        let known = self.known();
        let kind = policy.kind.clone();
        let Some(tried) = known.trials.get(policy) else { return api::Trial { kind, ..api::Trial::default() } };
        let example = |(example, at): &(TrialExample, SystemTime)| api::TrialExample {
            caller: match (&example.caller, example.address) {
                (Some(id), _) => id.to_string(),
                (None, Some(address)) => address.to_string(),
                (None, None) => "unknown".to_owned(),
            },
            called: example.called.clone(),
            method: example.request.as_ref().map(|(method, _)| method.clone()),
            path: example.request.as_ref().map(|(_, path)| path.clone()),
            would: example.effects.iter().map(|effect| effect.told().to_owned()).collect(),
            why: example.why.clone(),
            at: timestamp(*at),
        };
        api::Trial {
            kind,
            calls: tried.calls,
            would: tried.would.iter().map(|(effect, times)| (effect.told().to_owned(), *times)).collect(),
            since: tried.since.map(timestamp),
            examples: tried.examples.iter().map(example).collect(),
        }
    }

    /// Begins trials of changed policies anew.
    pub fn changed(&self, policies: impl Iterator<Item = TriedPolicy>) {
        let mut known = self.known();
        policies.for_each(|policy| drop(known.trials.remove(&policy)));
    }
}

fn shown(call: &Call, came: &Came) -> ObservedCall {
    ObservedCall {
        caller: call.caller.as_ref().map(ToString::to_string),
        address: call.address,
        port: call.port.clone(),
        method: call.request.as_ref().map(|(method, _)| method.clone()),
        path: call.request.as_ref().map(|(_, path)| path.clone()),
        denied: call.denied,
        times: came.times,
        first: timestamp(came.first),
        last: timestamp(came.last),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_model::name::Namespace;

    use super::*;

    fn observation(path: &str, verdict: Verdict) -> Observation {
        Observation {
            caller: None,
            address: Some([10, 0, 0, 7].into()),
            port: "web.shop.mesh:80".parse().unwrap(),
            request: Some(("GET".to_owned(), path.to_owned())),
            verdict,
        }
    }

    #[test]
    fn calls_add_up_and_trials_keep_examples() {
        let observed = Observed::default();
        observed.saw(observation("/a", Verdict::Passed), 2);
        observed.saw(observation("/a", Verdict::Passed), 3);
        observed.saw(observation("/b", Verdict::Denied), 1);
        let calls = observed.calls(Some("shop"));
        assert_eq!(
            calls.iter().map(|call| (call.path.as_deref(), call.times, call.denied)).collect::<Vec<_>>(),
            [(Some("/a"), 5, false), (Some("/b"), 1, true)]
        );
        assert!(observed.calls(Some("other")).is_empty());
        let service = ServiceName::new(Namespace::new("shop").unwrap(), "web".parse().unwrap());
        let callers = observed.plaintext(&service, SystemTime::now());
        assert_eq!((callers.len(), callers[0].times), (1, 6));
        assert!(observed.plaintext(&service, SystemTime::now() + STILL + STILL).is_empty());
        let policy = TriedPolicy { kind: "AuthorizationPolicy".to_owned(), name: "t.shop".to_owned() };
        let told = |calls, would: &[(Effect, u64)], path: Option<&str>| Trial {
            policy: policy.clone(),
            generation: 2,
            calls,
            would: would.iter().copied().collect(),
            example: path.map(|path| TrialExample {
                caller: None,
                address: Some([10, 0, 0, 7].into()),
                called: "web.shop.mesh:80".to_owned(),
                request: Some(("GET".to_owned(), path.to_owned())),
                effects: Effect::Deny.into(),
                why: String::new(),
            }),
        };
        for number in 0..20 {
            observed.tried(told(1, &[(Effect::Deny, 1)], Some(&format!("/{number}"))));
        }
        observed.tried(told(80, &[], None));
        let trial = observed.trial(&policy);
        assert_eq!((trial.calls, trial.would["denied"], trial.examples.len()), (100, 20, MOST_EXAMPLES));
        assert_eq!(trial.examples[0].path.as_deref(), Some("/19"));
        // What is told of a policy as it was before counts no more, and what it is now begins anew.
        observed.tried(Trial { generation: 1, ..told(5, &[], None) });
        assert_eq!(observed.trial(&policy).calls, 100);
        observed.tried(Trial { generation: 3, ..told(5, &[], None) });
        assert_eq!((observed.trial(&policy).calls, observed.trial(&policy).would.len()), (5, 0));
        observed.changed([policy.clone()].into_iter());
        assert_eq!(observed.trial(&policy).calls, 0);
    }

    #[test]
    fn what_was_seen_longest_ago_makes_room() {
        let observed = Observed::default();
        for number in 0..=MOST_CALLS {
            observed.saw(observation(&format!("/{number}"), Verdict::Passed), 1);
        }
        let calls = observed.calls(None);
        assert!(
            calls.len() <= MOST_CALLS && calls.iter().any(|call| call.path.as_deref() == Some(&format!("/{MOST_CALLS}"))),
            "{}",
            calls.len()
        );
    }
}
