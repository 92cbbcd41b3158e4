//! `lorica policy shadow`: what a policy that is tried would have done.

use std::process::ExitCode;

use lorica_api::{ApiClient, Trial};
use lorica_model::resource::Kind;
use lorica_model::snapshot::Effect;

use super::get;
use crate::args::{Format, ShadowArgs};
use crate::printer::Printer;

pub(super) async fn shadow(client: &ApiClient, arguments: ShadowArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let (kind, name) = match arguments.policy.split_once('/') {
        Some((kind, name)) => (Some(get::kind(kind)?), name),
        None => (None, arguments.policy.as_str()),
    };
    let trial = client.trial(kind.map(Kind::as_str), arguments.namespace.as_str(), name).await?;
    if arguments.output.format == Format::Json {
        printer.data(&serde_json::to_string_pretty(&trial)?);
    } else {
        printer.data(&told(&format!("{name}.{}", arguments.namespace), &trial));
    }
    Ok(ExitCode::SUCCESS)
}

/// A trial as people read it.
fn told(policy: &str, trial: &Trial) -> String {
    let Some(since) = &trial.since else { return format!("{policy}: no call came that it is about") };
    // Endpoints are ejected, not calls.
    let ejected = trial.would.get(Effect::Eject.told());
    let calls: Vec<String> = Effect::ALL
        .into_iter()
        .filter(|effect| *effect != Effect::Eject)
        .filter_map(|effect| trial.would.get(effect.told()).map(|times| format!("{} {}", effect.told(), grouped(*times))))
        .collect();
    let would = if calls.is_empty() { format!("{} 0", usual(&trial.kind)) } else { listed(&calls) };
    let mut text = format!("{policy}: would have {would} of {} calls", grouped(trial.calls));
    if let Some(times) = ejected {
        text.push_str(&format!(" and ejected endpoints {} times", grouped(*times)));
    }
    text.push_str(&format!(" since {since}"));
    for example in &trial.examples {
        let request = match (&example.method, &example.path) {
            (Some(method), Some(path)) => format!("{method} {path}"),
            _ => "a connection".to_owned(),
        };
        text.push_str(&format!("\n  {}  {}  {request}  by {}", example.at, example.called, example.caller));
        let would = example.would.join(" and ");
        // Where there is but one thing that it could have done, that goes without saying.
        let would = (trial.would.len() > 1).then_some(would);
        let more: Vec<String> = would.into_iter().chain((!example.why.is_empty()).then(|| example.why.clone())).collect();
        if !more.is_empty() {
            text.push_str(&format!("  ({})", more.join(": ")));
        }
    }
    text
}

/// What a policy of a kind does.
fn usual(kind: &str) -> &'static str {
    match Kind::named(kind) {
        Some(Kind::AuthorizationPolicy) => Effect::Deny.told(),
        Some(Kind::AuthenticationPolicy | Kind::EgressPolicy) => Effect::Refuse.told(),
        Some(Kind::RateLimitPolicy) => Effect::Limit.told(),
        _ => "changed",
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(parts: &[String]) -> String {
    match parts {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        parts => parts.concat(),
    }
}

/// `20,311`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_api::TrialExample;

    fn trial(kind: &str, calls: u64, would: &[(&str, u64)], examples: Vec<TrialExample>) -> Trial {
        Trial {
            kind: kind.to_owned(),
            calls,
            would: would.iter().map(|(word, times)| ((*word).to_owned(), *times)).collect(),
            since: Some("2026-11-30T06:00:00Z".to_owned()),
            examples,
        }
    }

    fn example(would: &[&str], why: &str) -> TrialExample {
        TrialExample {
            caller: "spiffe://mesh.local/ns/shop/sa/ann".to_owned(),
            called: "web.shop.mesh:80".to_owned(),
            method: Some("GET".to_owned()),
            path: Some("/other".to_owned()),
            would: would.iter().map(|word| (*word).to_owned()).collect(),
            why: why.to_owned(),
            at: "2026-11-30T07:00:00Z".to_owned(),
        }
    }

    #[test]
    fn a_trial_reads_well() {
        assert_eq!(told("a.b", &Trial::default()), "a.b: no call came that it is about");
        let denied = trial("AuthorizationPolicy", 20_311, &[("denied", 14)], vec![example(&["denied"], "")]);
        assert_eq!(
            told("a.b", &denied),
            "a.b: would have denied 14 of 20,311 calls since 2026-11-30T06:00:00Z\n  2026-11-30T07:00:00Z  web.shop.mesh:80  GET /other  by spiffe://mesh.local/ns/shop/sa/ann"
        );
        assert_eq!(
            told("a.b", &trial("AuthorizationPolicy", 7, &[], Vec::new())),
            "a.b: would have denied 0 of 7 calls since 2026-11-30T06:00:00Z"
        );
        let several = [("timed out", 14), ("tried again", 20), ("ejected", 2)];
        let several = trial("TrafficPolicy", 100, &several, vec![example(&["timed out"], "timeouts.request: it took 612 ms")]);
        assert_eq!(
            told("a.b", &several),
            "a.b: would have timed out 14 and tried again 20 of 100 calls and ejected endpoints 2 times since 2026-11-30T06:00:00Z\n  2026-11-30T07:00:00Z  web.shop.mesh:80  GET /other  by spiffe://mesh.local/ns/shop/sa/ann  (timed out: timeouts.request: it took 612 ms)"
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
