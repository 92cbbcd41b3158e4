//! What is refused and by which name; bounds; and answers that show the rules. A real Prometheus is asked beside it in the testbed.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test that fails says where by panicking")]

use super::*;
use crate::series::{Found, Labels, Matcher, STALE, Sample, SelectError};

struct Given(Vec<Found>);

impl Source for Given {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64, room: &mut usize) -> Result<Vec<Found>, SelectError> {
        let mut all = Vec::new();
        for found in self.0.iter().filter(|found| matchers.iter().all(|matcher| matcher.holds(&found.labels))) {
            let samples: Vec<Sample> = found.samples.iter().filter(|sample| (from..=to).contains(&sample.at)).copied().collect();
            *room = room.checked_sub(samples.len()).ok_or(SelectError::TooMuch)?;
            all.push(Found { labels: found.labels.clone(), samples });
        }
        Ok(all)
    }
}

/// A counter of two apps, each ten seconds, for ten minutes from second 0 on; that of `b` ends at second 300.
fn given() -> Given {
    let series = |app: &str, by: f64, ends: i64| {
        let value = |step: i64| if step * 10 >= ends { STALE } else { step as f64 * by };
        let samples = (0..=60).filter(|step| (step - 1) * 10 < ends).map(|step| Sample { at: step * 10_000, value: value(step) });
        Found { labels: Labels::of(&[("__name__", "calls_total"), ("app", app)]), samples: samples.collect() }
    };
    Given(vec![series("a", 10.0, 10_000), series("b", 20.0, 300)])
}

/// The answer at a second, a line a series.
fn at(second: i64, query: &str) -> Vec<String> {
    let answer = evaluate(&given(), &parse(query).unwrap(), Query::At(second * 1000)).unwrap();
    match answer {
        Answer::Scalar(sample) => vec![sample.value.to_string()],
        Answer::Text(_, text) => vec![text],
        Answer::Vector(vector) => vector.iter().map(|(labels, sample)| format!("{labels} {}", sample.value)).collect(),
        Answer::Matrix(series) => series.iter().map(|found| format!("{} {:?}", found.labels, found.samples.len())).collect(),
    }
}

#[test]
fn a_series_that_ended_is_gone_at_once() {
    assert_eq!(at(295, "calls_total"), ["calls_total{app=\"a\"} 290", "calls_total{app=\"b\"} 580"]);
    assert_eq!(at(305, "calls_total"), ["calls_total{app=\"a\"} 300"]);
    assert_eq!(at(305, "increase(calls_total{app=\"b\"}[1m])"), ["{app=\"b\"} 100"]);
    assert_eq!(at(1000, "calls_total"), Vec::<String>::new());
}

#[test]
fn answers_follow_the_rules() {
    for (query, expected) in [
        ("rate(calls_total[1m])", vec!["{app=\"a\"} 1", "{app=\"b\"} 2"]),
        ("sum(rate(calls_total[1m]))", vec!["{} 3"]),
        ("calls_total[25s]", vec!["calls_total{app=\"a\"} 3", "calls_total{app=\"b\"} 3"]),
        ("calls_total{app=\"b\"} / on() group_left calls_total{app=\"a\"}", vec!["{app=\"b\"} 2"]),
        ("sort_desc(calls_total)", vec!["calls_total{app=\"b\"} 400", "calls_total{app=\"a\"} 200"]),
        ("topk(1, calls_total)", vec!["calls_total{app=\"b\"} 400"]),
        ("-2 ^ 2", vec!["-4"]),
        ("2 ^ 3 ^ 2", vec!["512"]),
        ("1 + 2 * 3", vec!["7"]),
        ("\"a\\u0041\"", vec!["aA"]),
        ("time()", vec!["200"]),
        ("absent(none{app=\"x\"})", vec!["{app=\"x\"} 1"]),
        ("label_replace(calls_total{app=\"a\"}, \"app\", \"$1$1\", \"app\", \"(.)\")", vec!["calls_total{app=\"aa\"} 200"]),
        ("calls_total > bool 300", vec!["{app=\"a\"} 0", "{app=\"b\"} 1"]),
        ("max_over_time(sum(calls_total)[1m:30s])", vec!["{} 540"]),
        ("sum by (APP) (calls_total) OR vector(1)", vec!["{} 600"]),
    ] {
        assert_eq!(at(200, query), expected, "{query}");
    }
}

#[test]
fn what_is_not_answered_is_refused_by_name() {
    for (query, expected) in [
        ("predict_linear(x[5m], 10)", "1:1: parse error: the function \"predict_linear\" is not answered here"),
        ("count_values(\"a\", x)", "1:1: parse error: the function \"count_values\" is not answered here"),
        ("x @ 5", "1:3: parse error: the @ modifier is not answered here"),
        ("sum(\n  foo(x))", "2:3: parse error: unknown function with name \"foo\""),
        ("", "1:1: parse error: no expression found in input"),
        ("x +", "1:4: parse error: unexpected end of input, an expression was expected"),
        ("rate(x)", "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector"),
        ("x{a=~\"(\"}", "1:6: parse error: error parsing regexp"),
        ("{a=~\"\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("1 > 2", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("x[5m] offset 1m offset 2m", "1:17: parse error: offset may not be set multiple times"),
        ("x ! y", "1:3: parse error: unexpected character: '!'"),
    ] {
        let error = parse(query).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{query}: {error}");
    }
}

#[test]
fn questions_are_bounded() {
    for query in ["(".repeat(10_000) + "x", "-".repeat(10_000) + "x", "sum(".repeat(10_000), "1+".repeat(40_000) + "1"] {
        assert!(parse(&query).is_err());
    }
    assert!(parse(&("(".repeat(50) + "x" + &")".repeat(50))).is_ok());
    assert!(evaluate(&given(), &parse(&("1+".repeat(200) + "1")).unwrap(), Query::At(0)).is_ok());
    assert!(parse(&("1+".repeat(201) + "1")).unwrap_err().to_string().contains("operators"));
    let over = |start, end, step| evaluate(&given(), &parse("calls_total").unwrap(), Query::Over { start, end, step });
    assert!(over(0, 11_000, 1).is_ok());
    for (start, end, step) in [(0, 11_001, 1), (5, 4, 1), (0, 5, 0), (0, i64::MAX, 1)] {
        assert!(matches!(over(start, end, step), Err(QueryError::Times(_))), "{start} {end} {step}");
    }
    let heavy = parse("sum_over_time(sum_over_time(calls_total[1y:1s])[1y:1s])").unwrap();
    assert!(evaluate(&given(), &heavy, Query::At(600_000)).is_err());
}

#[test]
fn texts_made_by_chance_never_panic() {
    const WORDS: [&str; 40] = [
        "x",
        "sum",
        "rate",
        "by",
        "on",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        "=",
        "=~",
        "\"a\"",
        "5m",
        "1",
        "-",
        "+",
        "^",
        "or",
        "and",
        "bool",
        "group_left",
        "offset",
        ":",
        "==",
        "topk",
        "\"(\"",
        "without",
        "le",
        "'",
        "\\",
        "é",
        "0x",
        "1e",
        ".",
        "@",
        "inf",
        "#",
    ];
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        let words: Vec<&str> = (0..random.usize(0..12)).map(|_| WORDS[random.usize(0..WORDS.len())]).collect();
        if let Ok(expression) = parse(&words.join(if random.bool() { " " } else { "" })) {
            let _ = evaluate(&given(), &expression, Query::At(100_000));
        }
    }
}
