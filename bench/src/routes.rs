//! What it costs to find a request's rule among many of one host: rules as a large mesh has them, prefixes and exact paths of many services, some
//! with a method or a header, one for all that is left.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use lorica_model::head::{HeadBuilder, RequestHead, Version};
use lorica_model::snapshot::{
    Action, FieldMatch, Filters, Forward, HttpRule, Origin, PathMatch, Pattern, RouteMatch, RuleTable, ValueMatch, route,
};

use crate::report;

/// How many requests a figure is made of.
const REQUESTS: usize = 200_000;

/// The markers between which docs/performance.md is written anew.
const MARKERS: (&str, &str) = ("<!-- routes: written by `cargo xtask bench routes` -->\n", "<!-- end of routes -->\n");

/// Writes a table: rules, nanoseconds a request.
pub(crate) fn run(docs: &Path) -> anyhow::Result<()> {
    let mut table = String::from(
        "| rules of one host | ns a request, a prefix among them | ns a request, only the last takes it | ns a request, an expression among as many |\n|---|---|---|---|\n",
    );
    for count in [10, 100, 1_000, 4_000] {
        let rules = RuleTable::new(rules(count));
        let paths: Vec<RequestHead> =
            (0..64).map(|index| head(&format!("/service-{}/items/7", index * 37 % count))).collect::<Result<_, _>>()?;
        let missed: Vec<RequestHead> = (0..64).map(|index| head(&format!("/elsewhere-{index}/items/7"))).collect::<Result<_, _>>()?;
        let (by_path, by_none) = (time(&rules, &paths)?, time(&rules, &missed)?);
        let by_expression = time(&RuleTable::new(expressions(count)?), &paths)?;
        table.push_str(&format!("| {count} | {by_path:.0} | {by_none:.0} | {by_expression:.0} |\n"));
    }
    print!("{table}");
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    fs::write(&page, report::replaced(&text, MARKERS, &table)?)?;
    println!("written: docs/performance.md");
    Ok(())
}

/// The shortest of five times, as whatever else runs only makes it longer.
fn time(table: &RuleTable, heads: &[RequestHead]) -> anyhow::Result<f64> {
    let once = || {
        let begun = Instant::now();
        for head in heads.iter().cycle().take(REQUESTS) {
            black_box(route::rule(black_box(table), black_box(head), 0.5, &mut ()).ok());
        }
        begun.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64
    };
    route::rule(table, &heads[0], 0.5, &mut ()).ok().context("no rule takes the request")?;
    Ok((0..5).map(|_| once()).fold(f64::INFINITY, f64::min))
}

/// Rules of expressions alone.
fn expressions(count: usize) -> anyhow::Result<Vec<HttpRule>> {
    let matches = |index| -> anyhow::Result<RouteMatch> {
        let pattern = Pattern::new(&format!("/service-{index}/(items|orders)/[0-9]+"))?;
        Ok(RouteMatch { path: PathMatch::Regex(pattern), ..RouteMatch::any() })
    };
    (0..count).map(|index| Ok(rule(index, matches(index)?))).collect()
}

/// A rule that leads nowhere.
fn rule(index: usize, matches: RouteMatch) -> HttpRule {
    HttpRule {
        origin: std::sync::Arc::new(Origin {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: format!("route-{index}"),
            generation: 1,
            rule: 0,
            matched: 0,
        }),
        matches,
        filters: Filters::default(),
        action: Action::Forward(Forward::default()),
    }
}

/// Rules in the order in which they are tried: exact paths, prefixes, and one for all.
fn rules(count: usize) -> Vec<HttpRule> {
    let mut matches: Vec<RouteMatch> = (0..count)
        .map(|index| {
            let path = if index % 4 == 0 {
                PathMatch::Exact(format!("/service-{index}/health"))
            } else {
                PathMatch::Prefix(format!("/service-{index}"))
            };
            let header = FieldMatch { name: "x-tenant".to_owned(), value: ValueMatch::Exact("blue".to_owned()) };
            RouteMatch {
                path,
                method: (index % 5 == 0).then(|| "POST".to_owned()),
                headers: if index % 3 == 0 { vec![header] } else { Vec::new() },
                ..RouteMatch::any()
            }
        })
        .collect();
    let place = |matches: &RouteMatch| match &matches.path {
        PathMatch::Exact(_) => (0, 0),
        PathMatch::Prefix(prefix) => (1, usize::MAX - prefix.len()),
        PathMatch::Regex(_) => (2, 0),
    };
    matches.sort_by_key(place);
    matches.push(RouteMatch::any());
    matches.into_iter().enumerate().map(|(index, matches)| rule(index, matches)).collect()
}

fn head(path: &str) -> anyhow::Result<RequestHead> {
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in [("Host", "shop.example"), ("User-Agent", "bench"), ("Accept", "*/*"), ("X-Tenant", "green")] {
        builder.field(name.as_bytes(), value.as_bytes())?;
    }
    Ok(builder.request(Version::Http11, "GET", path, "shop.example", None)?)
}
