//! What a rule takes and what it does not, and how weights share requests.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::head::{HeadBuilder, Version};
use crate::name::ServicePort;
use crate::snapshot::{Action, Filters, Forward, HttpRule, Origin, Pattern};

fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(256);
    fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
    builder.request(Version::Http11, method, path, "recording.contact", None).unwrap()
}

fn path(path: PathMatch) -> RouteMatch {
    RouteMatch { path, ..RouteMatch::any() }
}

fn exactly(name: &str, value: &str) -> FieldMatch {
    FieldMatch { name: name.to_owned(), value: ValueMatch::Exact(value.to_owned()) }
}

#[track_caller]
fn check(matches: &RouteMatch, head: &RequestHead, expected: Option<MatchPart>) {
    assert_eq!(mismatch(matches, head, 0.5), expected, "{matches:?} {head:?}");
}

#[test]
fn a_prefix_takes_whole_elements() {
    let prefix = |text: &str| path(PathMatch::Prefix(text.to_owned()));
    for (written, taken, left) in [
        ("/", &["/", "/a", "/a/b?c", "*"][..], &[][..]),
        ("/a", &["/a", "/a/", "/a/b", "/a?b=/c"], &["/ab", "/", "/A", "/b/a", "*"]),
        ("/a/", &["/a", "/a/", "/a/b"], &["/ab", "/"]),
        ("/a/b", &["/a/b", "/a/b/c"], &["/a", "/a/bc", "/a/"]),
    ] {
        taken.iter().for_each(|path| check(&prefix(written), &head("GET", path, &[]), None));
        left.iter().for_each(|path| check(&prefix(written), &head("GET", path, &[]), Some(MatchPart::Path)));
    }
}

#[test]
fn exact_paths_and_patterns_take_the_whole_path_without_its_query() {
    let exact = path(PathMatch::Exact("/a".to_owned()));
    check(&exact, &head("GET", "/a?b", &[]), None);
    check(&exact, &head("GET", "/a/", &[]), Some(MatchPart::Path));
    let pattern = path(PathMatch::Regex(Pattern::new("/a|/b[0-9]+").unwrap()));
    check(&pattern, &head("GET", "/b12?c", &[]), None);
    check(&pattern, &head("GET", "/b12c", &[]), Some(MatchPart::Path));
    check(&pattern, &head("GET", "/ab1", &[]), Some(MatchPart::Path));
}

#[test]
fn the_part_that_does_not_hold_is_told() {
    let matches = RouteMatch {
        path: PathMatch::Prefix("/a".to_owned()),
        method: Some("POST".to_owned()),
        headers: vec![exactly("x-one", "1"), exactly("x-two", "2")],
        query: vec![exactly("q", "a b")],
        share: None,
    };
    let both = [("X-Two", "2"), ("X-One", "1")];
    check(&matches, &head("POST", "/a?q=a+b", &both), None);
    check(&matches, &head("POST", "/b?q=a+b", &both), Some(MatchPart::Path));
    check(&matches, &head("GET", "/a?q=a+b", &both), Some(MatchPart::Method));
    check(&matches, &head("POST", "/a?q=a+b", &both[..1]), Some(MatchPart::Header(0)));
    check(&matches, &head("POST", "/a?q=a+b", &both[1..]), Some(MatchPart::Header(1)));
    check(&matches, &head("POST", "/a", &both), Some(MatchPart::Query(0)));
}

#[test]
fn fields_of_one_name_are_one_value() {
    let matches = RouteMatch { headers: vec![exactly("x", "a,b")], ..RouteMatch::any() };
    check(&matches, &head("GET", "/", &[("x", "a"), ("X", "b")]), None);
    check(&matches, &head("GET", "/", &[("x", "a,b")]), None);
    check(&matches, &head("GET", "/", &[("x", "b"), ("x", "a")]), Some(MatchPart::Header(0)));
    check(&matches, &head("GET", "/", &[("x", "a")]), Some(MatchPart::Header(0)));
}

#[test]
fn query_parameters_are_compared_decoded_and_the_first_counts() {
    let matches = RouteMatch { query: vec![exactly("näme", "1+1 = 2")], ..RouteMatch::any() };
    check(&matches, &head("GET", "/?n%C3%A4me=1%2b1+%3D%202", &[]), None);
    check(&matches, &head("GET", "/?a&n%C3%A4me=1%2B1%20=+2&n%C3%A4me=no", &[]), None);
    check(&matches, &head("GET", "/?n%C3%A4me=no&n%C3%A4me=1%2B1+=+2", &[]), Some(MatchPart::Query(0)));
    let odd = RouteMatch { query: vec![exactly("a", "100%")], ..RouteMatch::any() };
    check(&odd, &head("GET", "/?a=100%", &[]), None);
    let empty = RouteMatch { query: vec![exactly("a", "")], ..RouteMatch::any() };
    check(&empty, &head("GET", "/?a", &[]), None);
    check(&empty, &head("GET", "/?", &[]), Some(MatchPart::Query(0)));
}

fn rule_of(matches: RouteMatch, weights: &[u32]) -> HttpRule {
    let port = |index: usize| Backend::Port(format!("b{index}.contact.mesh:80").parse::<ServicePort>().unwrap());
    let backends = weights.iter().enumerate().map(|(index, weight)| WeightedBackend::plain(*weight, port(index)));
    HttpRule {
        origin: std::sync::Arc::new(Origin {
            kind: "HTTPRoute".into(),
            namespace: "contact".into(),
            name: "r".into(),
            generation: 1,
            rule: 0,
            matched: 0,
        }),
        matches,
        filters: Filters::default(),
        action: Action::Forward(Forward { backends: backends.collect(), ..Forward::default() }),
    }
}

/// What a recorder was told, as text.
#[derive(Default)]
struct Told(Vec<String>);

impl Recorder for Told {
    fn rejected(&mut self, _: &HttpRule, part: MatchPart) {
        self.0.push(format!("rejected by {part:?}"));
    }
    fn matched(&mut self, _: &HttpRule) {
        self.0.push("matched".to_owned());
    }
    fn drawn(&mut self, backend: &Backend) {
        self.0.push(format!("drawn {backend:?}"));
    }
}

#[test]
fn every_step_of_a_decision_is_told() {
    let post = RouteMatch { method: Some("POST".to_owned()), ..path(PathMatch::Exact("/a".to_owned())) };
    let table = RuleTable::new(vec![rule_of(post, &[1]), rule_of(RouteMatch::any(), &[0, 1])]);
    let mut told = Told::default();
    let taken = rule(&table, &head("GET", "/a", &[]), 0.5, &mut told).unwrap();
    assert_eq!(backend(taken.backends(), 0.0, &mut told).unwrap(), 1);
    assert_eq!(told.0, ["rejected by Method", "matched", "drawn Port(b1.contact.mesh:80)"]);
}

/// One that is told of every rule.
#[derive(Default)]
struct ToldOfAll(Told);

impl Recorder for ToldOfAll {
    const OF_ALL: bool = true;
    fn rejected(&mut self, rule: &HttpRule, part: MatchPart) {
        self.0.rejected(rule, part);
    }
    fn matched(&mut self, rule: &HttpRule) {
        self.0.matched(rule);
    }
    fn drawn(&mut self, backend: &Backend) {
        self.0.drawn(backend);
    }
}

#[test]
fn who_listens_to_all_is_told_of_rules_for_other_paths_too_and_the_decision_is_the_same() {
    let exact = |text: &str| path(PathMatch::Exact(text.to_owned()));
    let prefix = |text: &str| path(PathMatch::Prefix(text.to_owned()));
    let table = RuleTable::new(vec![rule_of(exact("/a"), &[1]), rule_of(prefix("/b/c"), &[1]), rule_of(prefix("/b"), &[1])]);
    let (mut some, mut all) = (Told::default(), ToldOfAll::default());
    let head = head("GET", "/b/x", &[]);
    let taken = rule(&table, &head, 0.5, &mut some).unwrap();
    assert!(std::sync::Arc::ptr_eq(taken, rule(&table, &head, 0.5, &mut all).unwrap()));
    assert_eq!(some.0, ["matched"]);
    assert_eq!(all.0.0, ["rejected by Path", "rejected by Path", "matched"]);
}

proptest! {
    #[test]
    fn each_backend_gets_its_share(weights in proptest::collection::vec(0..50_u32, 1..6)) {
        let rule = rule_of(RouteMatch::any(), &weights);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for ticket in 0..total {
            let random = (f64::from(ticket) + 0.5) / f64::from(total);
            counts[backend(rule.backends(), random, &mut ()).unwrap()] += 1;
        }
        prop_assert_eq!(backend(rule.backends(), 0.5, &mut ()).is_err(), total == 0);
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn an_index_finds_what_trying_all_in_order_finds(
        // Up to so many that expressions are asked as one.
        paths in proptest::collection::vec(("(/[ab]{1,2}){0,3}/?", 0..4_u8), 1..64),
        target in "(/[ab]{1,2}){0,4}/?",
        sorted in proptest::bool::ANY,
    ) {
        let whole = |text: &str| if text.is_empty() { "/".to_owned() } else { text.to_owned() };
        let matches = |(text, form): &(String, u8)| path(match form {
            0 => PathMatch::Exact(whole(text)),
            1 => PathMatch::Prefix(whole(text)),
            _ => PathMatch::Regex(Pattern::new(&text.replace('b', ".")).unwrap()),
        });
        let mut paths = paths;
        if sorted {
            paths.sort_by_key(|(text, form)| ((*form).min(2), std::cmp::Reverse(text.trim_end_matches('/').len())));
        }
        let rules: Vec<HttpRule> = paths.iter().map(|one| rule_of(matches(one), &[1])).collect();
        let table = RuleTable::new(rules.clone());
        let head = head("GET", &whole(&target), &[]);
        let expected = rules.iter().find(|rule| mismatch(&rule.matches, &head, 0.5).is_none());
        let found = rule(&table, &head, 0.5, &mut ()).ok();
        prop_assert_eq!(found.map(|rule| &rule.matches), expected.map(|rule| &rule.matches));
    }

    #[test]
    fn a_prefix_is_what_its_elements_say(prefix in "(/[ab]{1,2}){0,3}/?", target in "(/[ab]{1,2}){0,4}/?") {
        let prefix = if prefix.is_empty() { "/".to_owned() } else { prefix };
        let target = if target.is_empty() { "/".to_owned() } else { target };
        let elements = |text: &str| text.trim_matches('/').split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let expected = elements(&target).starts_with(&elements(&prefix));
        prop_assert_eq!(mismatch(&path(PathMatch::Prefix(prefix)), &head("GET", &target, &[]), 0.5).is_none(), expected);
    }

    #[test]
    fn no_query_is_too_odd(query in "[a-f0-9%+&=]{0,24}") {
        let matches = RouteMatch { query: vec![exactly("a", "b")], ..RouteMatch::any() };
        let found = mismatch(&matches, &head("GET", &format!("/?{query}"), &[]), 0.5);
        let first = query.split('&').find(|pair| *pair == "a" || pair.starts_with("a="));
        prop_assert!(found.is_none() || first != Some("a=b"));
    }
}
