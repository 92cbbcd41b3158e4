//! `lorica policy shadow`: what a policy that is tried would have denied.

use std::process::ExitCode;

use lorica_api::{ApiClient, Trial};

use crate::args::{Format, ShadowArgs};
use crate::printer::Printer;

pub(super) async fn shadow(client: &ApiClient, arguments: ShadowArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let trial = client.trial(arguments.namespace.as_str(), &arguments.name).await?;
    if arguments.output.format == Format::Json {
        printer.data(&serde_json::to_string_pretty(&trial)?);
    } else {
        printer.data(&told(&format!("{}.{}", arguments.name, arguments.namespace), &trial));
    }
    Ok(ExitCode::SUCCESS)
}

/// A trial as people read it.
fn told(policy: &str, trial: &Trial) -> String {
    let Some(since) = &trial.since else { return format!("{policy}: no call came that it is about") };
    let all = trial.would_deny + trial.would_pass;
    let mut text = format!("{policy}: would have denied {} of {} calls since {since}", grouped(trial.would_deny), grouped(all));
    for example in &trial.examples {
        let request = match (&example.method, &example.path) {
            (Some(method), Some(path)) => format!("{method} {path}"),
            _ => "a connection".to_owned(),
        };
        text.push_str(&format!("\n  {}  {}  {request}  by {}", example.at, example.port, example.caller));
    }
    text
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

    #[test]
    fn a_trial_reads_well() {
        assert_eq!(told("a.b", &Trial::default()), "a.b: no call came that it is about");
        let example = TrialExample {
            caller: "spiffe://mesh.local/ns/shop/sa/ann".to_owned(),
            port: "web.shop.mesh:80".parse().unwrap(),
            method: Some("GET".to_owned()),
            path: Some("/other".to_owned()),
            at: "2026-11-30T07:00:00Z".to_owned(),
        };
        let trial = Trial { would_deny: 14, would_pass: 20_297, since: Some("2026-11-30T06:00:00Z".to_owned()), examples: vec![example] };
        assert_eq!(
            told("a.b", &trial),
            "a.b: would have denied 14 of 20,311 calls since 2026-11-30T06:00:00Z\n  2026-11-30T07:00:00Z  web.shop.mesh:80  GET /other  by spiffe://mesh.local/ns/shop/sa/ann"
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
