//! `lorica token`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, ListedToken, TokenRequest, TokenState};
use lorica_model::name::ServiceName;

use crate::args::{Format, TokenCommand, TokenCreateArgs};
use crate::printer::Printer;

pub(super) async fn token(client: &ApiClient, command: TokenCommand, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    match command {
        TokenCommand::Create(arguments) => create(client, arguments, printer).await?,
        TokenCommand::List(arguments) => {
            let list = client.tokens().await?;
            match arguments.output.format {
                Format::Json => printer.data(&serde_json::to_string_pretty(&list)?),
                Format::Table if list.tokens.is_empty() => printer.data("there are no join tokens"),
                Format::Table => printer.data(&shown(&list.tokens)),
            }
        }
        TokenCommand::Revoke(arguments) => {
            let revoked = client.revoke_token(&arguments.id).await?;
            match (arguments.output.format, revoked.joined) {
                (Format::Json, _) => printer.data(&serde_json::to_string_pretty(&revoked)?),
                (Format::Table, false) => printer.data(&format!("revoked: nobody joins as {} with it any more", revoked.host)),
                (Format::Table, true) => printer.data(&format!("revoked: the host {} is let go of; its connections end", revoked.host)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &ApiClient, arguments: TokenCreateArgs, printer: &mut Printer) -> anyhow::Result<()> {
    let TokenCreateArgs { host, lifetime, services, addresses, output } = arguments;
    let reply = client.create_token(&TokenRequest { host, services, seconds: lifetime.as_secs(), addresses }).await?;
    if output.format == Format::Json {
        printer.data(&serde_json::to_string_pretty(&reply)?);
        return Ok(());
    }
    printer.data(&reply.token);
    let ListedToken { id, host, services, expires, .. } = &reply.listed;
    printer.note(&format!("token {id}: the host {host} may join once until {expires}, for {}", services_text(services)));
    printer.note("it is not shown again; on the host: lorica proxy --node --token-file FILE");
    Ok(())
}

fn shown(tokens: &[ListedToken]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "HOST", "SERVICES", "STATE", "EXPIRES", "CREATED"]);
    for ListedToken { id, host, services, created, expires, state } in tokens {
        let state = match state {
            TokenState::Open => "open",
            TokenState::Used => "used",
            TokenState::Expired => "expired",
        };
        table.add_row([id.clone(), host.to_string(), services_text(services), state.to_owned(), expires.clone(), created.clone()]);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn services_text(services: &[ServiceName]) -> String {
    if services.is_empty() { "any service".to_owned() } else { services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") }
}
