//! Who may do what, in the words of Envoy's RBAC filters. Three stand in a row, since a filter has one action: one that denies, one for denials with
//! conditions, and one that allows. What policies try is in their shadow rules, which only count. Lorica's proxy has the policies themselves from the
//! metadata.
//!
//! To Envoy, a policy whose condition has no result means nothing, whatever its action. So the second filter is one that allows: what no denial
//! means, by who asks for what, or by a condition that is false for certain.
//!
//! Envoy compares a path as it came. Where rules look at paths, it denies those that can be read in several ways, of which Lorica's proxy judges
//! each reading.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission, permission::Rule, principal, principal::Authenticated, principal::Identifier,
    rbac::Action,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac as HttpRbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use lorica_model::cel::{Attribute, Expression};
use lorica_model::snapshot::{
    AccessAction, AccessPolicy, AccessRule, Among, Authorization, HostPattern, IdentityPattern, Operation, PathPattern, Source,
};
use lorica_model::spiffe::TrustDomain;

use super::cel::{self, Condition};
use super::claim;
use super::route::{escaped, exact, header, regex, string_matcher};
use crate::resource::pack;

/// The names of Envoy's filters, in their order.
pub const HTTP_FILTERS: [&str; 3] = ["envoy.filters.http.rbac/deny", "envoy.filters.http.rbac/unless", "envoy.filters.http.rbac/allow"];
/// What the names of the filters for connections end with, in the same order.
pub const WORDS: [&str; 3] = ["deny", "unless", "allow"];
const SIDES: [Side; 3] = [Side::Deny, Side::Unless, Side::Allow];
/// How many kinds of calls denials with conditions may be about at one place: for these, each set of them has a policy of its own.
const MOST_GUARDS: usize = 4;
/// How many conditions these may have.
const MOST_CONDITIONS: usize = 16;
/// What Envoy calls the rule by which it denies paths that can be read in several ways.
const AMBIGUOUS: &str = "ambiguous-path";
/// What Envoy calls the rule by which it denies callers of other trust domains, where no policy allows anything.
const FOREIGN: &str = "other-trust-domain";

/// Paths that can be read in several ways: empty and dot segments, parameters, backslashes, and characters encoded that need not be or that
/// no honest client sends.
const SEVERAL_WAYS: &str = r".*(//|/\.{1,2}(/|$)|;|\\|#|%([01][0-9A-Fa-f]|2[DdEeFf5]|3[0-9Bb]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[CcFf]|7[EeFf])|%$|%[^0-9A-Fa-f]|%.[^0-9A-Fa-f]).*";

/// The filters of a connection manager: without rules of their own, as what they say belongs to routes.
pub(super) fn filters() -> [HttpFilter; 3] {
    HTTP_FILTERS.map(|name| HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&HttpRbac::default()))),
        ..HttpFilter::default()
    })
}

/// What these say for requests that come to `port`, or of which the port says nothing. `own`: the trust domain of who is called, where callers
/// prove identities.
pub(super) fn per_route(
    authorization: &Authorization,
    port: Option<u16>,
    own: Option<&TrustDomain>,
) -> impl Iterator<Item = (String, Any)> + use<> {
    let said = HTTP_FILTERS.into_iter().zip(SIDES).map(|(name, side)| {
        let said = Said { authorization, port, own, bytes: false };
        let (rules, shadow_rules) = (said.rules(side), said.shadow(side));
        if rules.is_none() && shadow_rules.is_none() {
            return None;
        }
        let rbac = HttpRbac { rules, shadow_rules, track_per_rule_stats: true, ..HttpRbac::default() };
        Some((name.to_owned(), pack(&RbacPerRoute { rbac: Some(rbac) })))
    });
    said.flatten().collect::<Vec<_>>().into_iter()
}

/// The filters for connections whose bytes are not looked at, to `port` or where nothing is said of ports.
pub(super) fn of_connections(authorization: &Authorization, port: Option<u16>, own: Option<&TrustDomain>) -> [(&'static str, Any); 3] {
    [0, 1, 2].map(|at| {
        let (word, side) = (WORDS[at], SIDES[at]);
        let said = Said { authorization, port, own, bytes: true };
        let stat_prefix = format!("authorization_{word}");
        (word, pack(&NetworkRbac { rules: said.rules(side), shadow_rules: said.shadow(side), stat_prefix, ..NetworkRbac::default() }))
    })
}

/// What a policy means that has a service asked: rules that only say so, rather of too much, as conditions are not said at all.
pub(super) fn meant(policy: &AccessPolicy) -> Rbac {
    let said = Said { authorization: &Authorization::default(), port: None, own: None, bytes: false };
    let mut rules = made(Action::Allow);
    for rule in &policy.rules {
        if let Some(said) = said.rule(rule, true) {
            rules.policies.insert(rule.name.clone(), said);
        }
    }
    rules
}

/// Which of the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Deny,
    /// Denials with conditions.
    Unless,
    Allow,
}

impl Side {
    fn takes(self, action: AccessAction) -> bool {
        matches!((self, action), (Self::Deny | Self::Unless, AccessAction::Deny) | (Self::Allow, AccessAction::Allow))
    }
}

/// Calls that are denied unless conditions are false.
struct Guard<'a> {
    /// Who does what.
    calls: Principal,
    conditions: Vec<&'a Expression>,
}

struct Said<'a> {
    authorization: &'a Authorization,
    port: Option<u16>,
    own: Option<&'a TrustDomain>,
    /// Whether it is said of connections, of which only caller and port are known.
    bytes: bool,
}

impl Said<'_> {
    fn rules(&self, side: Side) -> Option<Rbac> {
        // Where nobody can be asked nothing passes: of bytes, and beside an app, whose listeners an Envoy has from its bootstrap.
        let unasked = |action: AccessAction| side == Side::Deny && action == AccessAction::External && (self.bytes || self.port.is_some());
        let enforced = |policy: &&AccessPolicy| (side.takes(policy.action) || unasked(policy.action)) && !policy.shadow;
        let mut rules = self.of(side, enforced);
        if side == Side::Deny && !self.bytes && self.authorization.policies.iter().any(looks_at_paths) {
            let rules = rules.get_or_insert_with(|| made(Action::Deny));
            let path = StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(SEVERAL_WAYS))), ..StringMatcher::default() };
            let several = Policy {
                permissions: vec![path_permission(path)],
                principals: vec![principal(Identifier::Any(true))],
                ..Policy::default()
            };
            rules.policies.insert(AMBIGUOUS.to_owned(), several);
        }
        let is_open = || !self.authorization.policies.iter().any(|policy| policy.action == AccessAction::Allow && !policy.shadow);
        if let (Side::Deny, Some(own), true) = (side, self.own, is_open()) {
            let rules = rules.get_or_insert_with(|| made(Action::Deny));
            let others = Policy { permissions: vec![permission(Rule::Any(true))], principals: vec![foreign(own)], ..Policy::default() };
            rules.policies.insert(FOREIGN.to_owned(), others);
        }
        rules
    }

    /// What is tried. What is allowed already stays so: an `Allow` that is tried is tried beside those that are in force.
    fn shadow(&self, side: Side) -> Option<Rbac> {
        let of_side = |policy: &&AccessPolicy| side.takes(policy.action);
        if !self.authorization.policies.iter().any(|policy| of_side(&policy) && policy.shadow) {
            return None;
        }
        self.of(side, |policy| of_side(policy) && (policy.shadow || side == Side::Allow))
    }

    fn of(&self, side: Side, which: impl Fn(&&AccessPolicy) -> bool) -> Option<Rbac> {
        let policies: Vec<&AccessPolicy> = self.authorization.policies.iter().filter(which).collect();
        if policies.is_empty() {
            return None;
        }
        // Who cannot be asked denies whatever a condition says.
        let denying: Vec<_> = policies.iter().copied().filter(|policy| policy.action == AccessAction::Deny).collect();
        let guards = self.guards(&denying);
        if side == Side::Unless {
            return unless(&guards);
        }
        let loosely = side == Side::Deny;
        let mut rules = made(if loosely { Action::Deny } else { Action::Allow });
        for policy in policies {
            for rule in &policy.rules {
                let is_guarded = |when: &Expression| guards.iter().flat_map(|guard| &guard.conditions).any(|one| std::ptr::eq(*one, when));
                let guarded = || rule.when.as_ref().is_some_and(is_guarded);
                if let Some(said) = self.rule(rule, loosely).filter(|_| !guarded()) {
                    rules.policies.insert(format!("{}/{}", policy.name(), rule.name), said);
                }
            }
        }
        Some(rules)
    }

    fn rule(&self, rule: &AccessRule, loosely: bool) -> Option<Policy> {
        let permissions: Vec<Permission> = if rule.to.is_empty() {
            vec![permission(Rule::Any(true))]
        } else {
            rule.to.iter().filter_map(|operation| self.operation(operation, loosely)).collect()
        };
        if permissions.is_empty() {
            return None;
        }
        // Bytes show no token, so that nobody is allowed by one.
        let sources = rule.from.iter().filter(|source| loosely || !self.bytes || !source.asks_claims());
        let principals: Vec<Principal> = match self.own.filter(|_| !loosely) {
            Some(own) if rule.from.is_empty() => vec![principal(Identifier::NotId(Box::new(foreign(own))))],
            None if rule.from.is_empty() => vec![principal(Identifier::Any(true))],
            Some(own) => sources.flat_map(|source| allowed(source, own, !self.bytes)).collect(),
            None => sources.map(|source| caller(source, !self.bytes, loosely)).collect(),
        };
        if principals.is_empty() {
            return None;
        }
        let said = Policy { permissions, principals, ..Policy::default() };
        match &rule.when {
            // What is denied by a condition that Envoy does not evaluate is denied without it.
            Some(when) if !loosely => {
                let Condition { expression, allowed } = self.condition(when)?;
                Some(Policy { condition: Some(expression), cel_config: allowed, ..said })
            }
            _ => Some(said),
        }
    }

    /// A condition, where Envoy evaluates it.
    fn condition(&self, when: &Expression) -> Option<Condition> {
        if self.bytes && when.is_of_http() { None } else { cel::condition(when) }
    }

    /// Which calls are denied by conditions that Envoy evaluates. What is beyond the bounds is left out, and denied without.
    fn guards<'p>(&self, policies: &[&'p AccessPolicy]) -> Vec<Guard<'p>> {
        let mut found: Vec<Guard<'p>> = Vec::new();
        let rules = policies.iter().flat_map(|policy| &policy.rules);
        let conditional = rules.filter_map(|rule| rule.when.as_ref().map(|when| (rule, when)));
        for (rule, when) in conditional.filter(|(_, when)| self.condition(when).is_some()).take(MOST_CONDITIONS) {
            let Some(Policy { permissions, principals, .. }) = self.rule(rule, true) else { continue };
            let permissions = permissions.into_iter().map(as_principal).collect();
            let calls = principal(Identifier::AndIds(principal::Set { ids: vec![any_of(principals), any_of(permissions)] }));
            if let Some(guard) = found.iter_mut().find(|guard| guard.calls == calls) {
                guard.conditions.push(when);
            } else if found.len() < MOST_GUARDS {
                found.push(Guard { calls, conditions: vec![when] });
            }
        }
        found
    }

    /// None where it is never done here.
    fn operation(&self, operation: &Operation, loosely: bool) -> Option<Permission> {
        let Operation { methods, paths, hosts, ports, headers } = operation;
        if self.port.is_some_and(|port| !takes(ports, port)) {
            return None;
        }
        if self.bytes && operation.is_of_http() {
            return loosely.then(|| permission(Rule::Any(true)));
        }
        let mut all = Vec::new();
        // What is left out is left out strictly where that denies more.
        let method =
            |method: &String, loosely| permission(Rule::Header(header(":method", StringMatcher { ignore_case: loosely, ..exact(method) })));
        among(&Among { any: methods.any.clone(), none: Vec::new() }, &mut all, |of| method(of, loosely));
        among(&Among { any: Vec::new(), none: methods.none.clone() }, &mut all, |of| method(of, !loosely));
        let strictly = Among { any: paths.any.clone(), none: Vec::new() };
        among(&strictly, &mut all, |pattern| path_permission(path(pattern, loosely)));
        let left_out = Among { any: Vec::new(), none: paths.none.clone() };
        among(&left_out, &mut all, |pattern| path_permission(path(pattern, !loosely)));
        among(hosts, &mut all, |pattern| permission(Rule::Header(header(":authority", host(pattern)))));
        all.extend(headers.iter().map(|field| permission(Rule::Header(header(&field.name, string_matcher(&field.value))))));
        Some(if all.is_empty() { permission(Rule::Any(true)) } else { permission(Rule::AndRules(permission::Set { rules: all })) })
    }
}

/// Allows what no guard means, or whose conditions are false: for each set of guards, the calls that none of it means while the conditions of all
/// others are false.
fn unless(guards: &[Guard<'_>]) -> Option<Rbac> {
    if guards.is_empty() {
        return None;
    }
    let mut rules = made(Action::Allow);
    for set in 0..1_u32 << guards.len() {
        let in_set = |at: &usize| set >> at & 1 == 1;
        let (outside, others): (Vec<_>, Vec<_>) = guards.iter().enumerate().partition(|(at, _)| in_set(at));
        let mut ids: Vec<Principal> =
            outside.into_iter().map(|(_, guard)| principal(Identifier::NotId(Box::new(guard.calls.clone())))).collect();
        if ids.is_empty() {
            ids.push(principal(Identifier::Any(true)));
        }
        let conditions: Vec<&Expression> = others.into_iter().flat_map(|(_, guard)| guard.conditions.iter().copied()).collect();
        let none = cel::none_of(&conditions);
        let said = Policy {
            permissions: vec![permission(Rule::Any(true))],
            principals: vec![principal(Identifier::AndIds(principal::Set { ids }))],
            cel_config: none.as_ref().and_then(|none| none.allowed),
            condition: none.map(|none| none.expression),
            ..Policy::default()
        };
        rules.policies.insert(format!("unless/{set}"), said);
    }
    Some(rules)
}

/// What is done, as a property of who does it, which Envoy's callers may have as well.
fn as_principal(permission: Permission) -> Principal {
    let set = |set: permission::Set| principal::Set { ids: set.rules.into_iter().map(as_principal).collect() };
    principal(match permission.rule {
        Some(Rule::AndRules(all)) => Identifier::AndIds(set(all)),
        Some(Rule::OrRules(any)) => Identifier::OrIds(set(any)),
        Some(Rule::NotRule(not)) => Identifier::NotId(Box::new(as_principal(*not))),
        Some(Rule::Header(header)) => Identifier::Header(header),
        Some(Rule::UrlPath(path)) => Identifier::UrlPath(path),
        // Operations say nothing else. To deny more is the safe side.
        _ => Identifier::Any(true),
    })
}

fn any_of(ids: Vec<Principal>) -> Principal {
    principal(Identifier::OrIds(principal::Set { ids }))
}

fn made(action: Action) -> Rbac {
    Rbac { action: action.into(), policies: HashMap::new(), audit_logging_options: None }
}

fn looks_at_paths(policy: &AccessPolicy) -> bool {
    let by_condition = |when: &Expression| [Attribute::Path, Attribute::UrlPath].into_iter().any(|attribute| when.asks(attribute));
    let by_rule =
        |rule: &AccessRule| rule.to.iter().any(|operation| !operation.paths.is_empty()) || rule.when.as_ref().is_some_and(by_condition);
    !policy.shadow && policy.rules.iter().any(by_rule)
}

fn takes(ports: &Among<u16>, port: u16) -> bool {
    (ports.any.is_empty() || ports.any.contains(&port)) && !ports.none.contains(&port)
}

fn permission(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

/// One of these, and none of those.
fn among<T>(among: &Among<T>, all: &mut Vec<Permission>, one: impl Fn(&T) -> Permission) {
    if !among.any.is_empty() {
        all.push(permission(Rule::OrRules(permission::Set { rules: among.any.iter().map(&one).collect() })));
    }
    all.extend(among.none.iter().map(|value| permission(Rule::NotRule(Box::new(one(value))))));
}

fn path_permission(matcher: StringMatcher) -> Permission {
    permission(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) }))
}

/// A path without its query.
fn path(pattern: &PathPattern, loosely: bool) -> StringMatcher {
    let segment = |text: Option<&str>| text.map_or_else(|| "[^/]+".to_owned(), spelled);
    let mut text = String::new();
    if loosely {
        text.push_str("(?i)");
    }
    pattern.texts().for_each(|part| text = format!("{text}/{}", segment(part)));
    text.push_str(match (pattern.takes_below(), loosely) {
        (true, true) => "(/.*)?",
        (true, false) => "/.*",
        (false, true) => "/?",
        (false, false) => "",
    });
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(&text))), ..StringMatcher::default() }
}

/// A segment as it comes: what cannot stand in a path is encoded, in digits of either case.
fn spelled(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}') {
            spelled.push_str(&escaped(c.encode_utf8(&mut [0; 4])));
        } else {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| spelled.push_str(&format!("(?i:%{byte:02X})")));
        }
    }
    spelled
}

/// A host, with or without its port and the root of all names, in any case of letters.
fn host(pattern: &HostPattern) -> StringMatcher {
    let name = match pattern {
        HostPattern::Exact(host) => escaped(host),
        HostPattern::Under(rest) => format!(r".+\.{}", escaped(rest)),
        HostPattern::Any => ".*".to_owned(),
    };
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(&format!("(?i){name}\\.?(:[0-9]*)?")))), ..StringMatcher::default() }
}

/// Whoever proved an identity of another trust domain.
fn foreign(own: &TrustDomain) -> Principal {
    let not_own = principal(Identifier::NotId(Box::new(identity(&IdentityPattern::TrustDomain(own.clone())))));
    principal(Identifier::AndIds(principal::Set { ids: vec![identity(&IdentityPattern::Any), not_own] }))
}

/// The callers that a source allows: of other trust domains only those that it names.
fn allowed(from: &Source, own: &TrustDomain, with_claims: bool) -> Vec<Principal> {
    let not_foreign = principal(Identifier::NotId(Box::new(foreign(own))));
    let mut all = vec![principal(Identifier::AndIds(principal::Set { ids: vec![caller(from, with_claims, false), not_foreign] }))];
    let names = |pattern: &&IdentityPattern| match pattern {
        IdentityPattern::Exact(id) => id.trust_domain() != own,
        IdentityPattern::TrustDomain(domain) | IdentityPattern::Namespace(domain, _) => domain != own,
        IdentityPattern::Any => false,
    };
    let named: Vec<IdentityPattern> = from.identities.any.iter().filter(names).cloned().collect();
    if !named.is_empty() {
        let identities = Among { any: named, none: from.identities.none.clone() };
        all.push(caller(&Source { identities, ..from.clone() }, with_claims, false));
    }
    all
}

/// `with_claims`: whether what tokens say is asked.
fn caller(source: &Source, with_claims: bool, loosely: bool) -> Principal {
    let Source { identities, namespaces, addresses, claims, not_claims } = source;
    let mut all = Vec::new();
    let mut one_of = |any: Vec<Principal>, none: Vec<Principal>| {
        if !any.is_empty() {
            all.push(principal(Identifier::OrIds(principal::Set { ids: any })));
        }
        all.extend(none.into_iter().map(|one| principal(Identifier::NotId(Box::new(one)))));
    };
    let both = |among: &Among<IdentityPattern>| [&among.any, &among.none].map(|list| list.iter().map(identity).collect::<Vec<_>>());
    let [any, none] = both(identities);
    one_of(any, none);
    let [any, none] = both(namespaces);
    one_of(any, none);
    let network = |network: &ipnet::IpNet| {
        let prefix_len = Some(UInt32Value { value: network.prefix_len().into() });
        principal(Identifier::DirectRemoteIp(CidrRange { address_prefix: network.network().to_string(), prefix_len }))
    };
    one_of(addresses.any.iter().map(network).collect(), addresses.none.iter().map(network).collect());
    if with_claims {
        all.extend(claims.iter().map(claim::said));
        // Who shows no token says nothing, and gains nothing by it.
        if !not_claims.is_empty() && !loosely {
            all.push(claim::verified());
        }
        all.extend(not_claims.iter().map(|one| principal(Identifier::NotId(Box::new(claim::said(one))))));
    }
    if all.is_empty() { principal(Identifier::Any(true)) } else { principal(Identifier::AndIds(principal::Set { ids: all })) }
}

fn identity(pattern: &IdentityPattern) -> Principal {
    match pattern {
        IdentityPattern::Exact(id) => named(exact(&id.to_string())),
        IdentityPattern::Namespace(domain, namespace) => {
            named(regex_of(&format!("{}/ns/{}/sa/[^/]+", escaped(&domain.uri()), escaped(namespace.as_str()))))
        }
        IdentityPattern::TrustDomain(domain) => named(regex_of(&format!("{}/.+", escaped(&domain.uri())))),
        IdentityPattern::Any => named(regex_of("spiffe://.+")),
    }
}

fn regex_of(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(text))), ..StringMatcher::default() }
}

fn named(name: StringMatcher) -> Principal {
    principal(Identifier::Authenticated(Authenticated { principal_name: Some(name) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::snapshot::{Pattern, Reading};
    use proptest::prelude::*;
    use prost::Message as _;

    fn denials(rules: serde_json::Value) -> Authorization {
        let origin = serde_json::json!({ "kind": "", "namespace": "shop", "name": "a", "generation": 1, "rule": 0, "matched": 0 });
        serde_json::from_value(serde_json::json!([{ "origin": origin, "action": "deny", "rules": rules }])).unwrap()
    }

    /// Whoever reads a message takes only so many within each other.
    #[test]
    fn the_deepest_conditions_are_read_again() {
        let deepest = [
            format!("{}has(claims.a)", "!".repeat(30)),
            format!("{}claims.a{} == {{}}", "{1: ".repeat(14), "}".repeat(14)),
            format!("{}claims.a{} == []", "[".repeat(29), "]".repeat(29)),
        ];
        let rules = deepest.iter().cycle().take(16).enumerate();
        let authorization = denials(rules.map(|(at, when)| serde_json::json!({ "name": at.to_string(), "when": when })).collect());
        let said: Vec<(String, Any)> = per_route(&authorization, None, None).collect();
        assert_eq!(said.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), HTTP_FILTERS[..2]);
        for (name, any) in said {
            RbacPerRoute::decode(&*any.value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn what_envoy_cannot_hold_against_a_condition_is_denied_without_it() {
        let mut rules: Vec<_> = (0..5)
            .map(|at| serde_json::json!({ "name": at.to_string(), "to": [{ "methods": { "any": [format!("M{at}")] } }], "when": "connection.mtls" }))
            .collect();
        rules.push(serde_json::json!({ "name": "macro", "when": "['a'].exists(x, x == 'b')" }));
        rules.push(serde_json::json!({ "name": "http", "to": [{ "ports": { "any": [80] } }], "when": "request.method == 'A'" }));
        let authorization = denials(rules.into());
        let names = |said: &Said<'_>, side| {
            let mut names: Vec<String> = said.rules(side).map(|rules| rules.policies.into_keys().collect()).unwrap_or_default();
            names.sort();
            names
        };
        let said = Said { authorization: &authorization, port: Some(81), own: None, bytes: false };
        assert_eq!(names(&said, Side::Deny), ["a.shop/4", "a.shop/macro"]);
        assert_eq!(names(&said, Side::Unless).len(), 16);
        // Bytes have no method, so that all that is asked of it holds.
        let said = Said { authorization: &authorization, port: Some(80), own: None, bytes: true };
        assert_eq!(names(&said, Side::Deny), ["a.shop/http", "a.shop/macro"]);
        assert_eq!(names(&said, Side::Unless).len(), 2);
    }

    fn envoy_takes(matcher: &StringMatcher, path: &str) -> bool {
        let Some(MatchPattern::SafeRegex(regex)) = &matcher.match_pattern else { panic!() };
        Pattern::new(&regex.regex).unwrap().matches(path)
    }

    proptest! {
        /// What Envoy compares as it came means what the pattern means, wherever a path can be read in one way.
        #[test]
        fn a_pattern_means_the_same_to_envoy(
            pattern in "(/(a|B|b c|\u{e9}|x\\.y|\\{id\\})){1,3}(/\\*)?",
            path in "(/(a|A|b%20c|%C3%A9|%c3%a9|x\\.y|xzy|q)?){1,4}",
            loosely in any::<bool>(),
        ) {
            let pattern: PathPattern = pattern.parse().unwrap();
            let read = match Reading::of(&path) {
                Reading::Plain => path.clone(),
                Reading::Decoded(read) => read,
                Reading::Twofold(..) | Reading::Ambiguous(_) => return Ok(()),
            };
            prop_assert_eq!(envoy_takes(&super::path(&pattern, loosely), &path), pattern.takes(&read, loosely), "{}", path);
        }

        /// Envoy denies what Lorica's proxy reads in two ways or not at all, and nothing else.
        #[test]
        fn envoy_knows_paths_that_can_be_read_in_several_ways(path in "(/|a|\\.|;|%2f|%2E|%41|%20|%25|%zz|%5c|%C3%A9|\\\\|#|~){1,6}") {
            let path = format!("/{path}");
            let several = matches!(Reading::of(&path), Reading::Twofold(..) | Reading::Ambiguous(_));
            prop_assert_eq!(Pattern::new(SEVERAL_WAYS).unwrap().matches(&path), several, "{}", path);
        }
    }
}
