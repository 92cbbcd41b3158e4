//! Trials: what policies with `mode: Shadow` would do to calls. A proxy works it out beside what is in force, counts it, tells it, and does
//! nothing of it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Authentication, EgressRule, Ejection, Origin, Retry, Verdict, listed};
use crate::name::ServicePort;

macro_rules! effects {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $told:literal;)+) => {
        /// What a policy that is tried would have done to a call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Effect {
            $($(#[$doc])* $variant,)+
        }

        impl Effect {
            /// All of them.
            pub const ALL: [Self; 12] = [$(Self::$variant),+];

            /// Its word, as metrics have it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What would have been done, for people: `denied`.
            #[must_use]
            pub const fn told(self) -> &'static str {
                match self { $(Self::$variant => $told),+ }
            }
        }
    };
}

effects! {
    /// An AuthorizationPolicy would have denied it.
    Deny = "would_deny", "denied";
    /// An AuthenticationPolicy or an EgressPolicy would have refused it.
    Refuse = "would_refuse", "refused";
    /// A RateLimitPolicy would have refused it.
    Limit = "would_limit", "limited";
    /// A FaultPolicy would have held it up.
    Delay = "would_delay", "delayed";
    /// A FaultPolicy would have reset it.
    Reset = "would_reset", "reset";
    /// A FaultPolicy would have answered it.
    Abort = "would_abort", "aborted";
    /// A FaultPolicy would have slowed its answer down.
    SlowDown = "would_slow_down", "slowed down";
    /// A FaultPolicy would have answered the question for its name wrongly.
    Misname = "would_misname", "answered wrongly by DNS";
    /// A TrafficPolicy would have ended it for its time.
    TimeOut = "would_time_out", "timed out";
    /// A TrafficPolicy would have sent it once more.
    Retry = "would_retry", "tried again";
    /// A TrafficPolicy would have refused it, as too many were under way.
    Overflow = "would_overflow", "refused as too many were under way";
    /// After it, a TrafficPolicy would have left its endpoint out for a while.
    Eject = "would_eject", "ejected";
}

impl Effect {
    /// The effect of a word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effect| effect.word() == word)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// All that a policy would have done to one call; nothing: it would have passed as it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Effects(u16);

impl Effects {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// One more.
    #[must_use]
    pub const fn with(self, effect: Effect) -> Self {
        Self(self.0 | effect.bit())
    }

    /// One more, where it would have been.
    #[must_use]
    pub const fn with_if(self, would: bool, effect: Effect) -> Self {
        if would { self.with(effect) } else { self }
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn has(self, effect: Effect) -> bool {
        self.0 & effect.bit() != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Effect> {
        Effect::ALL.into_iter().filter(move |effect| self.has(*effect))
    }
}

impl From<Effect> for Effects {
    fn from(effect: Effect) -> Self {
        Self::NONE.with(effect)
    }
}

/// What an AuthenticationPolicy that is tried asks of callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthenticationTrial {
    /// The policy.
    pub origin: Arc<Origin>,
    /// The tokens that it asks for, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Arc<Authentication>>,
    /// Whether it takes mutual TLS only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mutual_tls: bool,
}

/// What a TrafficPolicy that is tried says of one request. Only what it would decide itself is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptTrial {
    /// The policy.
    pub origin: Arc<Origin>,
    /// Only requests that go to this service port.
    pub to: ServicePort,
    /// How long all attempts together may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// The same for one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// What a TrafficPolicy that is tried says of the endpoints of a service port. Only what it would decide itself is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficTrial {
    /// The policy.
    pub origin: Arc<Origin>,
    /// How many requests may be under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Which endpoints are left out for how calls went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
}

/// What an EgressPolicy that is tried says of calls that leave the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressTrial {
    /// The policy.
    pub origin: Arc<Origin>,
    /// What it lists besides what is in force.
    pub rules: Vec<EgressRule>,
    /// Whether calls that nothing lists would be refused, were it in force.
    pub denies: bool,
}

impl EgressTrial {
    /// Whether it would refuse a call that leaves by `verdict`. `names`: those known of the address, or the one that the app says.
    #[must_use]
    pub fn would_refuse<N: AsRef<str>>(&self, verdict: Verdict<'_>, address: std::net::IpAddr, port: u16, names: &[N]) -> bool {
        // What a policy in force lists may leave, whoever else says otherwise.
        let by_rule = matches!(verdict, Verdict::Allowed(Some(_)));
        self.denies && !by_rule && listed(&self.rules, None, Some(address), port, names).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_a_set_of_words() {
        let both = Effects::from(Effect::Delay).with_if(false, Effect::Reset).with(Effect::Abort);
        assert_eq!(both.iter().map(Effect::word).collect::<Vec<_>>(), ["would_delay", "would_abort"]);
        assert_eq!(both.and(Effects::NONE), both);
        assert!(Effects::NONE.is_none() && !both.is_none());
        for effect in Effect::ALL {
            assert_eq!(Effect::named(effect.word()), Some(effect));
            assert_eq!(Effects::from(effect).iter().collect::<Vec<_>>(), [effect]);
        }
        assert_eq!(Effect::named("denied"), None);
    }
}
