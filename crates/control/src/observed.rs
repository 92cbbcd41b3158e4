//! Who calls what, and what policies that are tried would change, as proxies tell it. In memory, bounded; a control plane that starts anew begins
//! anew.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lorica_api::{ObservedCall, PlaintextCaller, Trial, TrialExample};
use lorica_model::name::{Namespace, ServiceName, ServicePort};
use lorica_model::spiffe::SpiffeId;
use lorica_xds::observed::{Observation, Verdict};

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
    would_deny: u64,
    would_pass: u64,
    since: Option<SystemTime>,
    examples: VecDeque<(Call, SystemTime)>,
}

#[derive(Debug, Default)]
struct Known {
    calls: BTreeMap<Call, Came>,
    trials: BTreeMap<String, Tried>,
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
        match verdict {
            Verdict::Passed | Verdict::Denied => {
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
            Verdict::WouldDeny(policy) => {
                let Some(trial) = known.trial(&policy, now) else { return };
                trial.would_deny = trial.would_deny.saturating_add(times);
                trial.examples.retain(|(other, _)| *other != call);
                trial.examples.push_front((call, now));
                trial.examples.truncate(MOST_EXAMPLES);
            }
            Verdict::WouldPass(policy) => {
                if let Some(trial) = known.trial(&policy, now) {
                    trial.would_pass = trial.would_pass.saturating_add(times);
                }
            }
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

    /// What a policy that is tried would have done: `NAME.NAMESPACE`.
    #[must_use]
    pub fn trial(&self, policy: &str) -> Trial {
        let known = self.known();
        let Some(tried) = known.trials.get(policy) else { return Trial::default() };
        let example = |(call, at): &(Call, SystemTime)| TrialExample {
            caller: who(call),
            port: call.port.clone(),
            method: call.request.as_ref().map(|(method, _)| method.clone()),
            path: call.request.as_ref().map(|(_, path)| path.clone()),
            at: timestamp(*at),
        };
        Trial {
            would_deny: tried.would_deny,
            would_pass: tried.would_pass,
            since: tried.since.map(timestamp),
            examples: tried.examples.iter().map(example).collect(),
        }
    }

    /// Begins trials of changed policies anew.
    pub fn changed(&self, policies: impl Iterator<Item = (Namespace, String)>) {
        let mut known = self.known();
        policies.for_each(|(namespace, name)| drop(known.trials.remove(&format!("{name}.{namespace}"))));
    }
}

impl Known {
    fn trial(&mut self, policy: &str, now: SystemTime) -> Option<&mut Tried> {
        if self.trials.len() >= MOST_TRIALS && !self.trials.contains_key(policy) {
            return None;
        }
        let trial = self.trials.entry(policy.to_owned()).or_default();
        trial.since.get_or_insert(now);
        Some(trial)
    }
}

fn who(call: &Call) -> String {
    match (&call.caller, call.address) {
        (Some(id), _) => id.to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "unknown".to_owned(),
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
        for number in 0..20 {
            observed.saw(observation(&format!("/{number}"), Verdict::WouldDeny("t.shop".into())), 1);
        }
        observed.saw(observation("/", Verdict::WouldPass("t.shop".into())), 80);
        let trial = observed.trial("t.shop");
        assert_eq!((trial.would_deny, trial.would_pass, trial.examples.len()), (20, 80, MOST_EXAMPLES));
        observed.changed([(Namespace::new("shop").unwrap(), "t".to_owned())].into_iter());
        assert_eq!(observed.trial("t.shop").would_deny, 0);
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
