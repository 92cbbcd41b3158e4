//! `lorica authz`: who may do what, decided here by the code that proxies run.

mod expectations;
mod suggest;
mod world;

use std::process::ExitCode;

use lorica_api::ApiClient;
use serde_json::json;

use self::world::{Answer, Question, Written};
use crate::args::{AuthzCanArgs, AuthzCommand, AuthzTestArgs, Format};
use crate::printer::Printer;

/// Carries `lorica authz` out. `client` is made only where the control plane is asked.
pub(super) async fn authz(
    client: impl Fn() -> anyhow::Result<ApiClient>,
    command: AuthzCommand,
    printer: &mut Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        AuthzCommand::Can(arguments) => can(client, arguments, printer).await,
        AuthzCommand::Test(arguments) => test(client, arguments, printer).await,
        AuthzCommand::Suggest(arguments) => {
            let calls = client()?.observed(Some(arguments.namespace.as_str())).await?;
            suggest::suggest(&calls, &arguments, printer)
        }
    }
}

async fn can(client: impl Fn() -> anyhow::Result<ApiClient>, arguments: AuthzCanArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let written = Written::of(client, &arguments.from).await?;
    let headers = arguments.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect();
    let claims = world::claims(&arguments.claims)?;
    let AuthzCanArgs { caller, method, call, host, address, output, .. } = arguments;
    let question = Question { caller, method, call, headers, claims, host, address };
    let answer = written.answer(&question)?;
    if output.format == Format::Json {
        printer.data(&serde_json::to_string_pretty(&json!({
            "allowed": answer.allowed, "caller": question.caller(), "call": question.call(), "by": answer.by, "rule": answer.rule, "place": answer.place, "why": answer.why, "asks": answer.asks,
        }))?);
    } else {
        printer.data(&told(&question, &answer));
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An answer as people read it.
fn told(question: &Question, answer: &Answer) -> String {
    let may = if answer.allowed { "may" } else { "may not" };
    let asked: Vec<String> = answer.asks.iter().map(|asks| asks.service.to_string()).collect();
    let condition = if asked.is_empty() { String::new() } else { format!(", if {} agrees", asked.join(" and ")) };
    let mut text = format!("{} {may} {}{condition}: {}", question.caller(), question.call(), answer.why);
    for asks in &answer.asks {
        text.push_str(&format!("; {} has {} asked", asks.by, asks.service));
    }
    if let Some(place) = &answer.place {
        text.push_str(&format!("\n  --> {place}"));
    }
    text
}

async fn test(client: impl Fn() -> anyhow::Result<ApiClient>, arguments: AuthzTestArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let written = Written::of(client, &arguments.from).await?;
    let mut failed = Vec::new();
    let (mut count, mut asked) = (0, 0);
    for file in crate::files::files(&arguments.expectations)? {
        for (place, expected) in expectations::read(&file)? {
            for (question, may) in expected.questions(&written)? {
                count += 1;
                let answer = written.answer(&question)?;
                if answer.allowed != may {
                    failed.push((place.clone(), may, question, answer));
                } else if !answer.asks.is_empty() {
                    asked += 1;
                }
            }
        }
    }
    if arguments.output.format == Format::Json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(place, may, question, answer)| {
                json!({ "place": place, "expected": may, "caller": question.caller(), "call": question.call(), "why": answer.why, "by": answer.by, "rule": answer.rule, "rulePlace": answer.place })
            })
            .collect();
        printer.data(&serde_json::to_string_pretty(&json!({ "expectations": count, "asked": asked, "failed": failed }))?);
    } else {
        for (place, may, question, answer) in &failed {
            let expected = if *may { "it should be allowed" } else { "it should be denied" };
            printer.data(&format!("{place}: {expected}\n  {}", told(question, answer).replace('\n', "\n  ")));
        }
        let condition = if asked == 0 { String::new() } else { format!(", {asked} of them if the service that is asked agrees") };
        printer.data(&format!("{} of {count} expectations hold{condition}", count - failed.len()));
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
