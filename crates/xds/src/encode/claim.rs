//! Claims that policies ask for, as Envoy's RBAC filters find them: in the metadata where its filter for tokens leaves what it verified.

use envoy_types::pb::envoy::config::rbac::v3::{MetadataSource, Principal, SourcedMetadata, principal, principal::Identifier};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    DoubleMatcher, ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, double_matcher, list_matcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    string_matcher::MatchPattern,
    value_matcher::{self, MatchPattern as Wanted},
};
use lorica_model::snapshot::ClaimMatch;

use super::authentication::{CLAIMS, FILTER};
use super::route::{escaped, exact, regex};

/// Below this, a double holds every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What a claim must say. A name with dots is a whole one where there is such a claim, and else a path.
pub(super) fn said(claim: &ClaimMatch) -> Principal {
    let whole = vec![claim.name.as_str()];
    let path: Vec<&str> = claim.name.split('.').collect();
    if path.len() == 1 || path.contains(&"") {
        return at(&whole, claim);
    }
    let no_whole = not(metadata(&whole, value(Wanted::PresentMatch(true))));
    principal(Identifier::OrIds(principal::Set { ids: vec![at(&whole, claim), all(vec![no_whole, at(&path, claim)])] }))
}

/// A token was verified.
pub(super) fn verified() -> Principal {
    metadata(&[], value(Wanted::PresentMatch(true)))
}

fn at(path: &[&str], claim: &ClaimMatch) -> Principal {
    if claim.values.is_empty() {
        let null = metadata(path, value(Wanted::NullMatch(value_matcher::NullMatch {})));
        return all(vec![metadata(path, value(Wanted::PresentMatch(true))), not(null)]);
    }
    let one_of = |value_matchers| value(Wanted::OrMatch(OrMatcher { value_matchers }));
    let either = claim.values.iter().flat_map(|wanted| {
        let text = if claim.is_of_words() { word(wanted) } else { exact(wanted) };
        let element = [vec![value(Wanted::StringMatch(exact(wanted)))], as_written(wanted)].concat();
        let element = if element.len() == 1 { element.into_iter().next().unwrap_or_default() } else { one_of(element) };
        let list = list_matcher::MatchPattern::OneOf(Box::new(element));
        let list = value(Wanted::ListMatch(Box::new(ListMatcher { match_pattern: Some(list) })));
        [vec![value(Wanted::StringMatch(text)), list], as_written(wanted)].concat()
    });
    metadata(path, one_of(either.collect()))
}

/// A number or a truth value, which says so without being a text.
fn as_written(wanted: &str) -> Vec<ValueMatcher> {
    match (wanted, wanted.parse::<f64>()) {
        ("true" | "false", _) => vec![value(Wanted::BoolMatch(wanted == "true"))],
        (_, Ok(number)) if number.is_finite() && number.abs() < EXACT => {
            vec![value(Wanted::DoubleMatch(DoubleMatcher { match_pattern: Some(double_matcher::MatchPattern::Exact(number)) }))]
        }
        _ => Vec::new(),
    }
}

/// One of the words of a text.
fn word(wanted: &str) -> StringMatcher {
    let pattern = regex(&format!("(?s)(.* )?{}( .*)?", escaped(wanted)));
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(pattern)), ..StringMatcher::default() }
}

fn metadata(path: &[&str], value: ValueMatcher) -> Principal {
    let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.to_owned())) };
    let matcher = MetadataMatcher {
        filter: FILTER.to_owned(),
        path: std::iter::once(CLAIMS).chain(path.iter().copied()).map(segment).collect(),
        value: Some(value),
        invert: false,
    };
    let sourced = SourcedMetadata { metadata_matcher: Some(matcher), metadata_source: MetadataSource::Dynamic.into() };
    principal(Identifier::SourcedMetadata(sourced))
}

fn value(wanted: Wanted) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(wanted) }
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn all(ids: Vec<Principal>) -> Principal {
    principal(Identifier::AndIds(principal::Set { ids }))
}

fn not(of: Principal) -> Principal {
    principal(Identifier::NotId(Box::new(of)))
}
