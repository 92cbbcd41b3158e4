//! Rules in the form in which Envoy does what they say. In: a rule as Lorica's proxy carries it out. Out: another that comes to the same
//! where Envoy's order of things is another one.

use lorica_model::snapshot::{Action, Backend, Forward, HeaderEdits, HttpRule, WeightedBackend};

/// The rule for Envoy.
pub(super) fn rule(rule: &HttpRule) -> HttpRule {
    let mut rule = rule.clone();
    if let Action::Forward(forward) = &mut rule.action {
        forward.backends.retain(|backend| backend.weight > 0);
        if forward.backends.is_empty() {
            // A direct response would say 500 as well, but its log would not say why.
            forward.backends = vec![WeightedBackend::plain(1, Backend::Missing { name: "none".to_owned() })];
        }
        let changes = |backend: &WeightedBackend| !(backend.request.is_empty() && backend.response.is_empty());
        if forward.backends.iter().any(changes) {
            // Envoy makes a weighted cluster's changes before its route's.
            for backend in &mut forward.backends {
                backend.request = then(&rule.filters.request, &backend.request);
                backend.response = then(&rule.filters.response, &backend.response);
            }
            (rule.filters.request, rule.filters.response) = (HeaderEdits::default(), HeaderEdits::default());
        }
        lift_host(forward);
    }
    if rule.filters.cors.is_some() {
        // What keeps an answer for one origin from being shown to another. A backend's own changes come before it.
        rule.filters.response.add.push(("vary".to_owned(), "Origin".to_owned()));
    }
    rule
}

/// The host that the only backend sees, said by the rule: only then does Envoy remember the one that came.
fn lift_host(forward: &mut Forward) {
    if let [only] = forward.backends.as_mut_slice() {
        forward.host = only.host.take().or_else(|| forward.host.take());
    }
}

/// Changes that come to the same as `first` and, after them, `second`.
fn then(first: &HeaderEdits, second: &HeaderEdits) -> HeaderEdits {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let removed = |name: &str| second.remove.iter().any(|removed| is(removed, name));
    let replaced = |name: &str| removed(name) || second.set.iter().any(|(set, _)| is(set, name));
    let of = |changes: &[(String, String)]| changes.iter().filter(|(name, _)| !replaced(name)).cloned().collect::<Vec<_>>();
    HeaderEdits {
        remove: first.remove.iter().chain(&second.remove).cloned().collect(),
        set: of(&first.set).into_iter().chain(second.set.iter().cloned()).collect(),
        add: of(&first.add).into_iter().chain(second.add.iter().cloned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(mut fields: Vec<(String, String)>, edits: &HeaderEdits) -> Vec<(String, String)> {
        fields.retain(|(name, _)| !edits.remove.contains(name));
        for (name, value) in &edits.set {
            fields.retain(|(known, _)| known != name);
            fields.push((name.clone(), value.clone()));
        }
        fields.extend(edits.add.iter().cloned());
        // The order of different names says nothing.
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::vec(("[a-d]", "[0-9]"), 0..4)
    }

    fn any_edits() -> impl Strategy<Value = HeaderEdits> {
        let set = pairs().prop_map(|mut set| {
            set.sort();
            set.dedup_by(|(one, _), (other, _)| one == other);
            set
        });
        (prop::collection::vec("[a-d]", 0..3), set, pairs()).prop_map(|(remove, set, add)| HeaderEdits { remove, set, add })
    }

    proptest! {
        #[test]
        fn changes_in_one_come_to_the_same_as_one_after_the_other(fields in pairs(), first in any_edits(), second in any_edits()) {
            prop_assert_eq!(made(fields.clone(), &then(&first, &second)), made(made(fields, &first), &second));
        }
    }
}
