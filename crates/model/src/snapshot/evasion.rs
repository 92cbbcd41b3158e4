//! Whether a request gets around a route's policies by how it spells its path: pure.
//!
//! A rule of a gateway takes a path as it came. An app may read it otherwise (`/x/..//admin`, `/%61dmin`, `/ADMIN`), and be asked by way of one rule
//! for what another one protects. Where rules of one host differ in who may ask, a path has to lead to the same policies however it is read.

use std::sync::Arc;

use super::{HttpRule, PathMatch, Reading, RuleTable, route};
use crate::head::RequestHead;

/// Why `head`, which `taken` takes as it came, may not go on by it: read as an app may read it, its path leads to a rule with other policies.
/// Asked only where rules differ in them, and costs a look at each rule there.
#[must_use]
pub fn evades(rules: &RuleTable, taken: &Arc<HttpRule>, head: &RequestHead) -> Option<&'static str> {
    if !rules.is_mixed() {
        return None;
    }
    let guard = rules.guard_of(taken);
    let leads_elsewhere = |path: &str| {
        let first = rules
            .guarded()
            .find(|(rule, _)| takes_loosely(&rule.matches.path, path) && route::mismatch_beside_path(&rule.matches, head).is_none());
        first.is_some_and(|(_, other)| Some(other) != guard)
    };
    let elsewhere = match Reading::of(head.path()) {
        Reading::Plain => leads_elsewhere(head.path()),
        Reading::Decoded(path) => leads_elsewhere(&path),
        Reading::Twofold(spelled, read) => leads_elsewhere(&spelled) || leads_elsewhere(&read),
        Reading::Ambiguous(why) => return Some(why),
    };
    elsewhere.then_some("read otherwise, it is of a route with other policies")
}

/// As some apps take paths: in any case of letters, with a slash at the end or without.
fn takes_loosely(matches: &PathMatch, path: &str) -> bool {
    let bare = |path: &'_ str| path.len() - usize::from(path.ends_with('/'));
    match matches {
        PathMatch::Exact(exact) => exact[..bare(exact)].eq_ignore_ascii_case(&path[..bare(path)]),
        PathMatch::Prefix(prefix) => {
            let prefix = &prefix.as_bytes()[..bare(prefix)];
            let path = path.as_bytes();
            path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                && matches!(path.get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Regex(pattern) => pattern.matches(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::head::{HeadBuilder, Version};
    use crate::snapshot::{Action, Authorization, Filters, Origin, RouteMatch};

    fn rule(path: PathMatch, guarded: bool) -> HttpRule {
        let origin = Origin { kind: "HTTPRoute".into(), namespace: "shop".into(), name: "r".into(), generation: 1, rule: 0, matched: 0 };
        let authorization = guarded.then(|| Arc::new(Authorization::default()));
        HttpRule {
            origin: Arc::new(origin),
            matches: RouteMatch { path, ..RouteMatch::any() },
            filters: Filters { authorization, ..Filters::default() },
            action: Action::Respond(204),
        }
    }

    fn table(rules: &[(&str, bool)]) -> RuleTable {
        let path = |text: &str| {
            if let Some(exact) = text.strip_prefix('=') { PathMatch::Exact(exact.into()) } else { PathMatch::Prefix(text.into()) }
        };
        rules.iter().map(|(text, guarded)| rule(path(text), *guarded)).collect::<Vec<_>>().into()
    }

    fn evaded(rules: &RuleTable, path: &str) -> bool {
        let head = HeadBuilder::with_capacity(64).request(Version::Http11, "GET", path, "a", None).unwrap();
        let taken = route::rule(rules, &head, 0.0, &mut ()).unwrap();
        evades(rules, taken, &head).is_some()
    }

    #[test]
    fn a_path_leads_to_the_same_policies_however_it_is_read() {
        let rules = table(&[("/admin/public", false), ("/admin", true), ("/", false)]);
        for path in [
            "/",
            "/x",
            "/x/admin",
            "/administration",
            "/admin",
            "/admin/",
            "/admin/x",
            "/admin/public/x",
            "/x//y;z",
            "/a%20b",
            "/admin/x%2fy",
        ] {
            assert!(!evaded(&rules, path), "{path}");
        }
        for path in [
            "//admin",
            "/%61dmin",
            "/ADMIN/x",
            "/admin;x",
            "/x/../admin",
            "/x/..;/admin",
            "/%2fadmin",
            "/\\admin",
            "/admin/x/../public",
            "/admin/%70ublic/x",
        ] {
            assert!(evaded(&rules, path), "{path}");
        }
        let exact = table(&[("=/admin", true), ("/", false)]);
        assert!(evaded(&exact, "/admin/") && evaded(&exact, "/Admin") && !evaded(&exact, "/admin/x"));
    }

    #[test]
    fn where_all_rules_have_the_same_policies_paths_go_as_they_came() {
        for guarded in [true, false] {
            let rules = table(&[("/admin", guarded), ("/", guarded)]);
            for path in ["//admin", "/x/../admin", "/\\admin", "/ADMIN"] {
                assert!(!evaded(&rules, path), "{path}");
            }
        }
    }
}
