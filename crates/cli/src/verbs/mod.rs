//! The verbs that talk to a control plane, one file each.

mod apply;
mod authz;
mod bugreport;
mod ca;
mod check;
mod completions;
mod delete;
mod effective;
pub mod explain;
mod fault;
mod get;
mod graph;
mod logs;
mod mtls;
mod refused;
mod routes;
mod shadow;
mod split;
mod status;
mod tap;
mod token;
mod top;
mod trace;

use std::process::ExitCode;

use lorica_api::{ApiClient, ApplyReply, ChangeAction, Receipt, Server};

use crate::args::{Command, Format, Global, MtlsCommand, PolicyCommand};
use crate::places::Places;
use crate::printer::Printer;

/// Partly applied, or not acknowledged in time.
const PARTLY: u8 = 3;

/// Carries a verb out.
///
/// # Errors
/// What is to be told to the user.
pub fn execute(command: Command, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let client = || -> anyhow::Result<ApiClient> {
        let places = Places::from_environment();
        Ok(ApiClient::new(Server::Unix(crate::server::socket(global.server.as_deref(), &places)?)))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Apply(arguments) => runtime.block_on(apply::apply(&client()?, arguments, printer)),
        Command::Diff(arguments) => runtime.block_on(apply::diff(&client()?, arguments, printer)),
        Command::Delete(arguments) => runtime.block_on(delete::delete(&client()?, arguments, printer)),
        Command::Split(arguments) => runtime.block_on(split::split(&client()?, arguments, printer)),
        Command::Fault(command) => runtime.block_on(fault::fault(&client()?, command, printer)),
        Command::Authz(command) => runtime.block_on(authz::authz(client, command, printer)),
        Command::Policy(PolicyCommand::Refused(arguments)) => runtime.block_on(refused::refused(&client()?, arguments, printer)),
        Command::Policy(PolicyCommand::Shadow(arguments)) => runtime.block_on(shadow::shadow(&client()?, arguments, printer)),
        Command::Mtls(MtlsCommand::Status(arguments)) => runtime.block_on(mtls::status(&client()?, arguments, printer)),
        Command::Token(command) => runtime.block_on(token::token(&client()?, command, printer)),
        Command::Get(arguments) => runtime.block_on(get::get(&client()?, arguments, printer)),
        Command::Graph(arguments) => runtime.block_on(graph::graph(&client()?, arguments, printer)),
        Command::Top(arguments) => runtime.block_on(top::top(&client()?, arguments, printer)),
        Command::Check(arguments) => runtime.block_on(check::check(client, arguments, printer)),
        Command::Routes(arguments) => runtime.block_on(routes::routes(&client()?, arguments, printer)),
        Command::Bugreport(arguments) => runtime.block_on(bugreport::bugreport(client, arguments, printer)),
        Command::Ca(command) => runtime.block_on(ca::ca(&client()?, command, printer)),
        Command::Explain(arguments) => runtime.block_on(explain::past(&client()?, &arguments, printer)),
        Command::Tap(arguments) => runtime.block_on(tap::tap(&client()?, arguments, printer)),
        Command::Trace(arguments) => runtime.block_on(trace::trace(&client()?, arguments, printer)),
        Command::Logs(arguments) => runtime.block_on(logs::logs(&client()?, arguments, printer)),
        Command::Status(arguments) => runtime.block_on(status::status(&client()?, arguments, printer)),
        Command::Completions(arguments) => {
            completions::completions(&arguments, printer);
            Ok(ExitCode::SUCCESS)
        }
        _ => anyhow::bail!("this verb starts something, and is not the command line's own"),
    }
}

/// Tells what a change set did, and who acknowledged it.
fn told(reply: &ApplyReply, done: &str, format: Format, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    for warning in &reply.warnings {
        printer.note(&warning.rendered);
    }
    if format == Format::Json {
        printer.data(&serde_json::to_string_pretty(reply)?);
    } else {
        for change in &reply.changes {
            let action = match change.action {
                ChangeAction::Created => "created",
                ChangeAction::Changed => "changed",
                ChangeAction::Unchanged => "unchanged",
                ChangeAction::Deleted => "deleted",
            };
            let target = &change.target;
            printer.data(&format!("{} {}.{} {action}", target.kind, target.name, target.namespace));
        }
        match &reply.receipt {
            Some(receipt) => printer.data(&sentence(receipt, done)),
            None => printer.data(if reply.changes.iter().all(|change| change.action == ChangeAction::Unchanged) {
                "nothing changed"
            } else {
                "nothing was changed: this was a dry run"
            }),
        }
    }
    let good = reply.receipt.as_ref().is_none_or(|receipt| receipt.is_complete() && receipt.rejected.is_empty());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(PARTLY) })
}

/// A receipt as people read it.
fn sentence(receipt: &Receipt, done: &str) -> String {
    if receipt.concerned == 0 {
        return format!("{done}: no proxy uses it yet");
    }
    let mut text = format!("{done}: {} of {} proxies concerned, {} ms", receipt.acknowledged, receipt.concerned, receipt.elapsed_ms);
    for refused in &receipt.rejected {
        text.push_str(&format!("\n  {} refused {}: {}", refused.proxy, refused.resource, refused.message));
    }
    for gone in &receipt.gone {
        text.push_str(&format!("\n  {gone} ended before it answered"));
    }
    for pending in &receipt.pending {
        text.push_str(&format!("\n  {pending} has not answered yet"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorica_api::RefusedBy;

    #[test]
    fn a_receipt_reads_well() {
        let mut receipt = Receipt { concerned: 12, acknowledged: 12, elapsed_ms: 34, ..Receipt::default() };
        assert_eq!(sentence(&receipt, "applied"), "applied: 12 of 12 proxies concerned, 34 ms");
        receipt.acknowledged = 11;
        receipt.rejected.push(RefusedBy { proxy: "web-1.shop".to_owned(), resource: "Route x".to_owned(), message: "no".to_owned() });
        assert_eq!(sentence(&receipt, "applied"), "applied: 11 of 12 proxies concerned, 34 ms\n  web-1.shop refused Route x: no");
        assert_eq!(sentence(&Receipt::default(), "applied"), "applied: no proxy uses it yet");
    }
}
