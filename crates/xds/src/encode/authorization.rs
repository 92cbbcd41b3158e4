//! Who may do what, in the words of Envoy's RBAC filters. Two stand in a row, one that denies and one that allows, since a filter has one action; what
//! policies try is in their shadow rules, which only count. Lorica's proxy has the policies themselves from the metadata.
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
use lorica_model::snapshot::{
    AccessAction, AccessPolicy, AccessRule, Among, Authorization, HostPattern, IdentityPattern, Operation, PathPattern, Source,
};

use super::route::{escaped, exact, header, regex, string_matcher};
use crate::resource::pack;

/// The name of Envoy's filter that denies.
pub const DENY: &str = "envoy.filters.http.rbac/deny";
/// The name of Envoy's filter that allows.
pub const ALLOW: &str = "envoy.filters.http.rbac/allow";
/// What the names of the filters for connections end with.
pub const WORDS: [&str; 2] = ["deny", "allow"];
/// What Envoy calls the rule by which it denies paths that can be read in several ways.
const AMBIGUOUS: &str = "ambiguous-path";

/// Paths that can be read in several ways: empty and dot segments, parameters, backslashes, and characters encoded that need not be or that
/// no honest client sends.
const SEVERAL_WAYS: &str = r".*(//|/\.{1,2}(/|$)|;|\\|#|%([01][0-9A-Fa-f]|2[DdEeFf5]|3[0-9Bb]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[CcFf]|7[EeFf])|%$|%[^0-9A-Fa-f]|%.[^0-9A-Fa-f]).*";

/// The filters of a connection manager: without rules of their own, as what they say belongs to routes.
pub(super) fn filters() -> [HttpFilter; 2] {
    [DENY, ALLOW].map(|name| HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&HttpRbac::default()))),
        ..HttpFilter::default()
    })
}

/// What these say for requests that come to `port`, or of which the port says nothing.
pub(super) fn per_route(authorization: &Authorization, port: Option<u16>) -> impl Iterator<Item = (String, Any)> + use<> {
    let said = [(DENY, Side::Deny), (ALLOW, Side::Allow)].map(|(name, side)| {
        let said = Said { authorization, port, bytes: false };
        let (rules, shadow_rules) = (said.rules(side), said.shadow(side));
        if rules.is_none() && shadow_rules.is_none() {
            return None;
        }
        let rbac = HttpRbac { rules, shadow_rules, track_per_rule_stats: true, ..HttpRbac::default() };
        Some((name.to_owned(), pack(&RbacPerRoute { rbac: Some(rbac) })))
    });
    said.into_iter().flatten()
}

/// The filters for connections whose bytes are not looked at, to `port` or where nothing is said of ports: one that denies, one that allows.
pub(super) fn of_connections(authorization: &Authorization, port: Option<u16>) -> [(&'static str, Any); 2] {
    let [deny, allow] = WORDS;
    [(deny, Side::Deny), (allow, Side::Allow)].map(|(word, side)| {
        let said = Said { authorization, port, bytes: true };
        let stat_prefix = format!("authorization_{word}");
        (word, pack(&NetworkRbac { rules: said.rules(side), shadow_rules: said.shadow(side), stat_prefix, ..NetworkRbac::default() }))
    })
}

/// Which of both filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Deny,
    Allow,
}

impl Side {
    fn takes(self, action: AccessAction) -> bool {
        matches!((self, action), (Self::Deny, AccessAction::Deny) | (Self::Allow, AccessAction::Allow))
    }
}

struct Said<'a> {
    authorization: &'a Authorization,
    port: Option<u16>,
    /// Whether it is said of connections, of which only caller and port are known.
    bytes: bool,
}

impl Said<'_> {
    fn rules(&self, side: Side) -> Option<Rbac> {
        let enforced = |policy: &&AccessPolicy| side.takes(policy.action) && !policy.shadow;
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
        let loosely = side == Side::Deny;
        let mut rules = made(if loosely { Action::Deny } else { Action::Allow });
        for policy in policies {
            for rule in &policy.rules {
                if let Some(said) = self.rule(rule, loosely) {
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
        let principals: Vec<Principal> = rule.from.iter().map(source).collect();
        let principals = if principals.is_empty() { vec![principal(Identifier::Any(true))] } else { principals };
        Some(Policy { permissions, principals, ..Policy::default() })
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

fn made(action: Action) -> Rbac {
    Rbac { action: action.into(), policies: HashMap::new(), audit_logging_options: None }
}

fn looks_at_paths(policy: &AccessPolicy) -> bool {
    !policy.shadow && policy.rules.iter().flat_map(|rule| &rule.to).any(|operation| !operation.paths.is_empty())
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

fn source(source: &Source) -> Principal {
    let Source { identities, namespaces, addresses } = source;
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
