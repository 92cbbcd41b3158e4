//! What policies that are tried would have done, as proxies tell it to the [access log service](crate::access_log_service): once a second the
//! numbers of each policy, and a few calls as examples.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use envoy_types::pb::envoy::data::accesslog::v3::HttpAccessLogEntry;
use lorica_model::snapshot::{Effect, Effects, Origin};
use lorica_model::spiffe::SpiffeId;

use crate::observed::{METHOD, told, who};

/// What a policy that is tried would have done, since it was told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The policy.
    pub policy: TriedPolicy,
    /// As which change of it made it.
    pub generation: u64,
    /// How many calls it was held against.
    pub calls: u64,
    /// To how many of them it would have done what.
    pub would: BTreeMap<Effect, u64>,
    /// One of these calls.
    pub example: Option<TrialExample>,
}

/// A policy that is tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TriedPolicy {
    /// Its kind.
    pub kind: String,
    /// `NAME.NAMESPACE`.
    pub name: String,
}

impl TriedPolicy {
    /// The policy of an origin.
    #[must_use]
    pub fn of(origin: &Origin) -> Self {
        Self { kind: origin.kind.clone(), name: format!("{}.{}", origin.name, origin.namespace) }
    }
}

impl fmt::Display for TriedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A call to which a policy that is tried would have done something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialExample {
    /// The identity of the caller.
    pub caller: Option<SpiffeId>,
    /// The address that it came from, where it has no identity.
    pub address: Option<IpAddr>,
    /// What was called: a service port, a gateway's port, or a host outside the mesh.
    pub called: String,
    /// Method and path, whose variable segments are `{id}`; none of a connection whose bytes are not looked at.
    pub request: Option<(String, String)>,
    /// What would have been done.
    pub effects: Effects,
    /// Why, or what is to be known of it; may be empty.
    pub why: String,
}

/// The name of the log.
pub(crate) const LOG: &str = "lorica-trials";
const KIND: &str = "kind";
const POLICY: &str = "policy";
const GENERATION: &str = "generation";
const CALLS: &str = "calls";
const CALLED: &str = "called";
const EFFECTS: &str = "effects";
const WHY: &str = "why";

pub(crate) fn entry(trial: Trial) -> HttpAccessLogEntry {
    let Trial { policy: TriedPolicy { kind, name }, generation, calls, would, example } = trial;
    let mut tags = HashMap::from([
        (KIND.to_owned(), kind),
        (POLICY.to_owned(), name),
        (GENERATION.to_owned(), generation.to_string()),
        (CALLS.to_owned(), calls.to_string()),
    ]);
    tags.extend(would.into_iter().map(|(effect, times)| (effect.word().to_owned(), times.to_string())));
    let Some(TrialExample { caller, address, called, request, effects, why }) = example else { return told(tags, None, None, None) };
    let words: Vec<&str> = effects.iter().map(Effect::word).collect();
    tags.extend([(CALLED.to_owned(), called), (EFFECTS.to_owned(), words.join(",")), (WHY.to_owned(), why)]);
    told(tags, caller, address, request)
}

pub(crate) fn read(entry: HttpAccessLogEntry) -> Option<Trial> {
    let mut common = entry.common_properties?;
    let (caller, address) = who(&common);
    let tags = &mut common.custom_tags;
    let policy = TriedPolicy { kind: tags.remove(KIND)?, name: tags.remove(POLICY)? };
    let (generation, calls) = (tags.remove(GENERATION)?.parse().ok()?, tags.remove(CALLS)?.parse().ok()?);
    let would = Effect::ALL.into_iter().filter_map(|effect| Some((effect, tags.get(effect.word())?.parse().ok()?))).collect();
    let path = entry.request.map(|request| request.path).unwrap_or_default();
    let request = tags.remove(METHOD).map(|method| (method, path));
    let words = tags.remove(EFFECTS).unwrap_or_default();
    let effects = words.split(',').filter_map(Effect::named).fold(Effects::NONE, Effects::with);
    let why = tags.remove(WHY).unwrap_or_default();
    let example = tags.remove(CALLED).map(|called| TrialExample { caller, address, called, request, effects, why });
    Some(Trial { policy, generation, calls, would, example })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_trial_reads_back() {
        let policy = TriedPolicy { kind: "FaultPolicy".to_owned(), name: "slow.shop".to_owned() };
        let example = TrialExample {
            caller: Some("spiffe://mesh.local/ns/shop/sa/ann".parse().unwrap()),
            address: None,
            called: "web.shop.mesh:80".to_owned(),
            request: Some(("GET".to_owned(), "/items/{id}".to_owned())),
            effects: Effects::from(Effect::Delay).with(Effect::Abort),
            why: String::new(),
        };
        let outside = TrialExample {
            caller: None,
            address: Some([10, 0, 0, 7].into()),
            called: "api.example:443".to_owned(),
            request: None,
            effects: Effect::Refuse.into(),
            why: "nothing lists it".to_owned(),
        };
        let would = BTreeMap::from([(Effect::Delay, 3), (Effect::Abort, 2)]);
        for trial in [
            Trial { policy: policy.clone(), generation: 3, calls: 7, would, example: None },
            Trial { policy: policy.clone(), generation: 3, calls: 0, would: BTreeMap::new(), example: Some(example) },
            Trial { policy, generation: 4, calls: 1, would: BTreeMap::from([(Effect::Refuse, 1)]), example: Some(outside) },
        ] {
            assert_eq!(read(entry(trial.clone())), Some(trial));
        }
    }
}
