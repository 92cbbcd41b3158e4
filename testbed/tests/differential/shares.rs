//! What is drawn by chance: weights, shares of copies, and both at once. Each proxy is held against what the rule says, by chi-square.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use testbed::{PATIENCE, eventually};

use super::rig::{Rig, asked, route};

/// How many requests each rule gets. The smallest share expects 120 of them, enough for the statistic's approximation.
const REQUESTS: usize = 4000;
/// What chi-square exceeds by chance once in 10¹¹ times, by degrees of freedom. With two proxies and fewer than fifty rules, a run fails by chance
/// less than once in a billion.
const CRITICAL: [f64; 5] = [46.33, 50.66, 54.23, 57.44, 60.41];

/// Path, rule, and the share of each outcome: who answers, with `+` and the mirror where it got a copy, or a status.
type Drawn = (&'static str, &'static str, &'static [(&'static str, f64)]);

const RULES: &[Drawn] = &[
    (
        "/weights",
        "backendRefs: [{name: a, port: 80, weight: 1}, {name: b, port: 80, weight: 2}, {name: c, port: 80, weight: 7}]",
        &[("a", 0.1), ("b", 0.2), ("c", 0.7)],
    ),
    (
        "/canary",
        "backendRefs: [{name: a, port: 80, weight: 97}, {name: b, port: 80, weight: 3}, {name: c, port: 80, weight: 0}]",
        &[("a", 0.97), ("b", 0.03)],
    ),
    (
        "/nowhere",
        "backendRefs: [{name: a, port: 80, weight: 1}, {name: gone, port: 80, weight: 1}, {name: b, port: 80, weight: 2}]",
        &[("a", 0.25), ("500", 0.25), ("b", 0.5)],
    ),
    (
        "/each",
        "backendRefs: [{name: a, port: 80, weight: 2, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}]}, {name: b, port: 80, weight: 1}, {name: c, port: 80, weight: 1, filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]",
        &[("a", 0.5), ("b", 0.25), ("302", 0.25)],
    ),
    (
        "/percent",
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 25}}], backendRefs: [{name: a, port: 80}]",
        &[("a", 0.75), ("a+m", 0.25)],
    ),
    (
        "/fraction",
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, fraction: {numerator: 1, denominator: 3}}}], backendRefs: [{name: a, port: 80}]",
        &[("a", 2.0 / 3.0), ("a+m", 1.0 / 3.0)],
    ),
    (
        "/together",
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 50}}], backendRefs: [{name: a, port: 80}, {name: b, port: 80}]",
        &[("a", 0.25), ("a+m", 0.25), ("b", 0.25), ("b+m", 0.25)],
    ),
    (
        "/mirrors",
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 50}}, {type: RequestMirror, requestMirror: {backendRef: {name: n, port: 80}, percent: 50}}], backendRefs: [{name: a, port: 80}]",
        &[("a", 0.25), ("a+m", 0.25), ("a+n", 0.25), ("a+m+n", 0.25)],
    ),
];

/// Envoy draws once for all copies of a request, so that two of one share go together or not at all (docs/gateways.md).
const MIRRORS_OF_ENVOY: &[(&str, f64)] = &[("a", 0.5), ("a+m+n", 0.5)];

pub(crate) async fn run() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::start(&["a", "b", "c", "m", "n"]).await? else { return Ok(()) };
    let rules: Vec<String> = RULES.iter().map(|(path, rule, _)| format!("{{matches: [{{path: {{value: {path}}}}}], {rule}}}")).collect();
    rig.apply(&route("drawn", "drawn.example", &format!("[{}]", rules.join(", ")))).await?;
    let mut failed = Vec::new();
    for (path, _, expected) in RULES {
        let counts = drawn(&mut rig, path).await.with_context(|| (*path).to_owned())?;
        let of_envoy = if *path == "/mirrors" { MIRRORS_OF_ENVOY } else { expected };
        for ((proxy, expected), counts) in [("Lorica", *expected), ("Envoy", of_envoy)].into_iter().zip(counts) {
            let strange: Vec<_> = counts.keys().filter(|outcome| !expected.iter().any(|(known, _)| known == outcome)).collect();
            ensure!(strange.is_empty(), "{path}: {proxy} answers as {strange:?}, which the rule does not say");
            let (statistic, critical) = (chi_square(&counts, expected), CRITICAL[expected.len() - 2]);
            if statistic > critical {
                failed.push(format!(
                    "{path}: {proxy} draws {counts:?}, where {expected:?} is said: chi-square {statistic:.1} exceeds {critical}"
                ));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    rig.finish().await
}

/// How often each outcome comes, at both proxies.
async fn drawn(rig: &mut Rig, path: &str) -> anyhow::Result<[BTreeMap<String, u64>; 2]> {
    rig.backends.forget();
    let request = asked("GET", path, "drawn.example");
    let mut all: [Vec<(String, String)>; 2] = Default::default();
    for number in 0..REQUESTS {
        for (side, (answer, id)) in all.iter_mut().zip(rig.pair.send(&request, &format!("drawn{path}-{number}")).await?) {
            let by = answer.fields.iter().find(|(name, _)| name == "x-answered-by").map(|(_, server)| server.clone());
            side.push((id, by.unwrap_or_else(|| answer.status.to_string())));
        }
    }
    // Copies may come after their answers; the last ones are waited for.
    let copies = || all.each_ref().map(|side| side.iter().map(|(id, _)| rig.backends.seen(id).len()).sum::<usize>());
    let settled = eventually("no copy comes any more", PATIENCE, || async {
        let before = copies();
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensure!(before == copies());
        Ok(())
    });
    settled.await?;
    let counted = |side: &Vec<(String, String)>| {
        let mut counts = BTreeMap::new();
        for (id, by) in side {
            let mut mirrors: Vec<String> =
                rig.backends.seen(id).into_iter().map(|seen| seen.server).filter(|server| server != by).collect();
            mirrors.sort();
            let outcome = std::iter::once(by.clone()).chain(mirrors).collect::<Vec<_>>().join("+");
            *counts.entry(outcome).or_insert(0) += 1;
        }
        counts
    };
    Ok(all.each_ref().map(counted))
}

fn chi_square(counts: &BTreeMap<String, u64>, expected: &[(&str, f64)]) -> f64 {
    let total: u64 = counts.values().sum();
    let one = |(outcome, share): &(&str, f64)| {
        #[allow(clippy::cast_precision_loss, reason = "there are thousands")]
        let (counted, expected) = (counts.get(*outcome).copied().unwrap_or_default() as f64, total as f64 * share);
        (counted - expected).powi(2) / expected
    };
    expected.iter().map(one).sum()
}

#[test]
fn a_wrong_share_is_noticed() {
    let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let expected = [("a", 0.97), ("b", 0.03)];
    assert!(chi_square(&counts(&[("a", 3880), ("b", 120)]), &expected) < 1e-9);
    assert!(chi_square(&counts(&[("a", 3900), ("b", 100)]), &expected) < CRITICAL[0]);
    // 5 % in place of 3 %.
    assert!(chi_square(&counts(&[("a", 3800), ("b", 200)]), &expected) > CRITICAL[0]);
}
