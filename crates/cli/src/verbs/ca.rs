//! `lorica ca`, as far as it talks to a control plane.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use lorica_api::{
    ApiClient, CaStatus, ForgetRootKey, HeldUp, Pem, RevocationStatus, RevokeReply, RevokeRequest, RootKey, RotateRequest, WaiveRequest,
};

use super::status::{between, lasting};
use crate::args::{CaCommand, CaExportArgs, CaReinstateArgs, CaRevokeArgs, CaRotateArgs, Format};
use crate::printer::Printer;

pub(super) async fn ca(client: &ApiClient, command: CaCommand, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    match command {
        CaCommand::Status(arguments) => print(&client.ca().await?, arguments.output.format, printer)?,
        CaCommand::Rotate(arguments) => {
            let format = arguments.output.format;
            print(&rotate(client, arguments).await?, format, printer)?;
        }
        CaCommand::Revoke(CaRevokeArgs { subject, reason, wait }) => {
            let reply: RevokeReply = client.ask_ca(&waiting("revoke", wait), &RevokeRequest { subject: subject.clone(), reason }).await?;
            return Ok(told(&reply, &format!("{subject} revoked"), printer));
        }
        CaCommand::Reinstate(CaReinstateArgs { subject, wait }) => {
            let request = RevokeRequest { subject: subject.clone(), reason: String::new() };
            let reply: RevokeReply = client.ask_ca(&waiting("reinstate", wait), &request).await?;
            return Ok(told(&reply, &format!("{subject} reinstated"), printer));
        }
        CaCommand::Revocations(arguments) => {
            let revocations = client.ca().await?.revocations;
            printer.data(&match arguments.output.format {
                Format::Json => serde_json::to_string_pretty(&revocations)?,
                Format::Table if revocations.is_empty() => "nobody is revoked".to_owned(),
                Format::Table => revoked(&revocations, Timestamp::now()),
            });
        }
        CaCommand::Bundle => {
            printer.data(&client.ca_bundle().await?.to_string());
            printer.note("next, at the other mesh: a TrustBundle with this as its `bundle`");
        }
        CaCommand::ExportRootKey(arguments) => export(client, &arguments, printer).await?,
        CaCommand::RequestIntermediate => {
            let request: Pem = client.ask_ca("intermediate/request", &()).await?;
            printer.data(request.pem.trim_end());
            printer.note("next, where the root's key is: lorica ca sign-intermediate --root ROOT.PEM REQUEST.PEM");
        }
        CaCommand::InstallIntermediate(arguments) => {
            let pem = text(&arguments.file)?;
            print(&client.ask_ca::<CaStatus>("intermediate/install", &Pem { pem }).await?, Format::Table, printer)?;
        }
        CaCommand::ReplaceIntermediate => print(&client.ask_ca::<CaStatus>("intermediate/replace", &()).await?, Format::Table, printer)?,
        CaCommand::SignIntermediate(_) => anyhow::bail!("this verb needs no control plane, and is not among those that talk to one"),
    }
    Ok(ExitCode::SUCCESS)
}

fn waiting(what: &str, wait: Duration) -> String {
    format!("{what}?wait={}ms", wait.as_millis())
}

/// Tells which proxies hold to a change of who is revoked, and who cannot.
fn told(reply: &RevokeReply, done: &str, printer: &mut Printer) -> ExitCode {
    let Some(receipt) = &reply.receipt else {
        printer.data(&format!("{done}: its certificates are over, and no proxy holds it any more"));
        return ExitCode::SUCCESS;
    };
    printer.data(&super::sentence(receipt, done));
    if !reply.without.is_empty() {
        printer.warning(&format!(
            "these cannot be told of revocations, and take a revoked certificate until it ends: {}\nhint: `lorica ca status` says when a certificate ends; docs/identity.md says who can be told",
            reply.without.join(", ")
        ));
    }
    let good = receipt.is_complete() && receipt.rejected.is_empty();
    if good { ExitCode::SUCCESS } else { ExitCode::from(super::PARTLY) }
}

fn revoked(revocations: &[RevocationStatus], now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["REVOKED", "FOR", "HELD BY PROXIES FOR", "REASON"]);
    for revocation in revocations {
        let held = match &revocation.until {
            Some(until) if revocation.held_by_proxies => between(until, now),
            Some(_) => "-".to_owned(),
            None => "ever".to_owned(),
        };
        table.add_row([revocation.subject.as_str(), &between(&revocation.at, now), &held, &revocation.reason]);
    }
    lines(&table)
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

async fn rotate(client: &ApiClient, arguments: CaRotateArgs) -> anyhow::Result<CaStatus> {
    if arguments.rollback {
        return Ok(client.ask_ca("rollback", &()).await?);
    }
    if let Some(workload) = arguments.waive {
        return Ok(client.ask_ca("waive", &WaiveRequest { workload }).await?);
    }
    let read = |path: &Option<PathBuf>| path.as_deref().map(text).transpose();
    let request = RotateRequest {
        root_certificate: read(&arguments.root_cert)?,
        root_key: read(&arguments.root_key)?,
        certificate: read(&arguments.cert)?,
        key: read(&arguments.key)?,
    };
    Ok(client.ask_ca("rotate", &request).await?)
}

/// The key is forgotten only once it is on the disk.
async fn export(client: &ApiClient, arguments: &CaExportArgs, printer: &mut Printer) -> anyhow::Result<()> {
    let path = &arguments.out;
    let open = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let mut file = open.with_context(|| format!("{} cannot be made", path.display()))?;
    let written = async {
        let RootKey { root, certificate, key } = client.ask_ca("root-key/export", &()).await?;
        file.write_all(certificate.as_bytes()).and_then(|()| file.write_all(key.as_bytes())).and_then(|()| file.sync_all())?;
        anyhow::Ok(root)
    };
    let root = match written.await {
        Ok(root) => root,
        Err(error) => {
            // What is there is no whole key, and would stand in the way of the next attempt.
            let _: std::io::Result<()> = fs::remove_file(path);
            return Err(error);
        }
    };
    let status: CaStatus = client.ask_ca("root-key/forget", &ForgetRootKey { root }).await?;
    printer.data(&format!("the root's key is in {}, and at the control plane no more", path.display()));
    printer.note(&format!(
        "the intermediate signs until {}; `lorica ca request-intermediate` begins its renewal",
        status.intermediate_not_after
    ));
    Ok(())
}

fn print(status: &CaStatus, format: Format, printer: &mut Printer) -> anyhow::Result<()> {
    printer.data(&match format {
        Format::Json => serde_json::to_string_pretty(status)?,
        Format::Table => shown(status, Timestamp::now()),
    });
    Ok(())
}

fn shown(status: &CaStatus, now: Timestamp) -> String {
    let mut text = format!(
        "trust domain {}, certificates of workloads hold {}\nthe intermediate ends in {}\n\n",
        status.trust_domain,
        lasting(status.svid_lifetime_seconds),
        between(&status.intermediate_not_after, now)
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ROOT", "NAME", "ENDS IN", "KEY", ""]);
    for root in &status.roots {
        let id = root.id.get(..12).unwrap_or(&root.id);
        let key = if root.key_here { "here" } else { "offline" };
        table.add_row([id, &root.name, &between(&root.not_after, now), key, if root.issuing { "issues" } else { "trusted" }]);
    }
    text.push_str(&lines(&table));
    if let (Some(phase), Some(since)) = (&status.phase, &status.since) {
        text.push_str(&format!("\n\n{}", rotation(status, phase, &between(since, now), now)));
    }
    if !status.revocations.is_empty() {
        text.push_str(&format!("\n\n{}", revoked(&status.revocations, now)));
    }
    text
}

fn rotation(status: &CaStatus, phase: &str, since: &str, now: Timestamp) -> String {
    let back = if status.rolled_back { " back" } else { "" };
    if phase == "done" {
        return format!("the last rotation{back} was done {since} ago");
    }
    let what = match phase {
        "distributing" => "have acknowledged the new root",
        _ => "have a certificate from the root that stays",
    };
    let mut text = format!("rotation{back}: {phase} for {since}; {} of {} workloads {what}", status.acknowledged, status.concerned);
    if let Some(until) = &status.distributes_until {
        text.push_str(&format!("\nother meshes have {} more to fetch the new root", between(until, now)));
    }
    if let Some(at) = &status.withdraws_at {
        text.push_str(&format!("\nthe old root is withdrawn in {} at the earliest", between(at, now)));
    }
    if !status.waived.is_empty() {
        text.push_str(&format!("\nnot waited for: {}", status.waived.join(", ")));
    }
    if !status.held_up_by.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["HELD UP BY", "PROXY", "ITS CERTIFICATE ENDS IN"]);
        for HeldUp { workload, connected, svid_not_after } in &status.held_up_by {
            let ends = svid_not_after.as_ref().map_or_else(|| "-".to_owned(), |end| between(end, now));
            table.add_row([workload.as_str(), if *connected { "connected" } else { "lost" }, ends.as_str()]);
        }
        text.push_str(&format!("\n\n{}", lines(&table)));
        text.push_str("\nhint: `lorica ca rotate --waive WORKLOAD` does not wait for one that is gone for good");
    }
    text
}

fn lines(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_api::RootStatus;

    use super::*;

    #[test]
    fn who_is_revoked_is_listed_with_how_long_proxies_hold_it() {
        let one = |subject: &str, until: Option<&str>, held_by_proxies: bool| RevocationStatus {
            subject: subject.to_owned(),
            reason: "host lost".to_owned(),
            at: "2026-01-01T00:00:00Z".to_owned(),
            held_by_proxies,
            until: until.map(str::to_owned),
        };
        let list = [
            one("web-1.shop", Some("2026-01-01T13:00:00Z"), true),
            one("web-2.shop", Some("2026-01-01T01:00:00Z"), false),
            one("spiffe://other.example/ns/a/sa/b", None, true),
        ];
        let text = revoked(&list, "2026-01-01T03:00:00Z".parse().unwrap());
        let rows: Vec<_> = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            rows,
            ["web-1.shop 3 h 10 h host lost", "web-2.shop 3 h - host lost", "spiffe://other.example/ns/a/sa/b 3 h ever host lost"]
        );
    }

    #[test]
    fn who_holds_a_rotation_up_is_named() {
        let root = |id: &str, issuing: bool| RootStatus {
            id: id.repeat(64),
            name: "O=mesh.local".to_owned(),
            certificate: String::new(),
            issuing,
            not_after: "2036-01-01T00:00:00Z".to_owned(),
            key_here: !issuing,
        };
        let status = CaStatus {
            trust_domain: "mesh.local".to_owned(),
            roots: vec![root("a", true), root("b", false)],
            intermediate_not_after: "2026-12-01T00:00:00Z".to_owned(),
            svid_lifetime_seconds: 86_400,
            phase: Some("distributing".to_owned()),
            since: Some("2026-01-01T00:00:00Z".to_owned()),
            concerned: 12,
            acknowledged: 11,
            held_up_by: vec![HeldUp { workload: "recording-7f3a2c.contact".to_owned(), connected: false, svid_not_after: None }],
            ..CaStatus::default()
        };
        let at = "2026-01-01T03:00:00Z".parse().unwrap();
        let text = shown(&status, at);
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains("distributing for 3 h; 11 of 12 workloads have acknowledged the new root"), "{text}");
        assert!(squeezed.contains("recording-7f3a2c.contact lost -"), "{text}");
        assert!(squeezed.contains("offline issues bbbbbbbbbbbb") && squeezed.contains("here trusted"), "{text}");
        let done = CaStatus { phase: Some("done".to_owned()), held_up_by: Vec::new(), ..status };
        assert!(shown(&done, at).ends_with("the last rotation was done 3 h ago"));
    }
}
