//! What each policy by itself says of a call, for people who ask why. The decision is [`Permissions::judge`]'s, which looks at all of them at once
//! and knows most of their answers without asking.

use std::sync::Arc;

use super::{Access, AccessAction, AccessCaller, AccessPolicy, Authorization, ByPolicy, Denial, Noted, Permissions};

/// What a policy says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicySay {
    /// It denies it.
    Denies,
    /// It allows it.
    Allows,
    /// It allows something, and not this.
    AllowsOther,
    /// It writes it down.
    Audits,
    /// It has a service asked.
    Asks,
    /// Its rules mean something else.
    Nothing,
    /// It looks at paths, and this one can be read in several ways.
    Ambiguous,
    /// It is tried, and would deny it.
    WouldDeny,
    /// It is tried, and would let it pass.
    WouldPass,
}

impl PolicySay {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Denies => "denies it",
            Self::Allows => "allows it",
            Self::AllowsOther => "does not allow it",
            Self::Audits => "writes it down",
            Self::Asks => "has a service asked",
            Self::Nothing => "does not apply",
            Self::Ambiguous => "looks at the path, which can be read in several ways",
            Self::WouldDeny => "is tried: would deny it",
            Self::WouldPass => "is tried: would let it pass",
        }
    }
}

/// What each of the policies by itself says of a call, in their order, with the name of the rule that says so.
#[must_use]
pub fn each_policy<'p>(
    authorization: &'p Authorization,
    caller: &AccessCaller<'_>,
    access: &Access<'_>,
) -> Vec<(&'p AccessPolicy, Option<String>, PolicySay)> {
    let one = |policy: &'p AccessPolicy| {
        let (rule, say) = alone(policy, caller, access);
        (policy, rule, say)
    };
    authorization.policies.iter().map(one).collect()
}

fn alone(policy: &AccessPolicy, caller: &AccessCaller<'_>, access: &Access<'_>) -> (Option<String>, PolicySay) {
    let permissions = Permissions::of(Arc::new(Authorization { policies: vec![policy.clone()] }), caller);
    let named = |by: &ByPolicy<'_>| by.rule.map(|rule| rule.name.clone());
    let mut said = None;
    let verdict = permissions.judge(access, |noted| {
        said = Some(match noted {
            Noted::Audited(by) => (named(&by), PolicySay::Audits),
            Noted::WouldDeny(by) => (named(&by), PolicySay::WouldDeny),
            Noted::WouldPass(_) => (None, PolicySay::WouldPass),
        });
    });
    match verdict {
        Err(Denial::Denied(by)) => (named(&by), PolicySay::Denies),
        Err(Denial::NotAllowed(_)) => (None, PolicySay::AllowsOther),
        Err(Denial::Unasked(by)) => (named(&by), PolicySay::Asks),
        Err(Denial::Ambiguous { .. }) => (None, PolicySay::Ambiguous),
        Ok(Some(by)) => (named(&by), PolicySay::Allows),
        // One of another mesh is let in by none of those that allow nothing.
        Ok(None) | Err(Denial::Foreign) => said.unwrap_or_else(|| {
            let asking = permissions.external(access);
            match asking.first() {
                Some(by) if policy.action == AccessAction::External => (named(by), PolicySay::Asks),
                _ => (None, PolicySay::Nothing),
            }
        }),
    }
}
