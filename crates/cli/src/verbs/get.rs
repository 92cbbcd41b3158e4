//! `lorica get`.

use std::process::ExitCode;

use anyhow::bail;
use comfy_table::{Table, presets};
use lorica_api::ApiClient;
use lorica_model::resource::{Kind, nearest};
use serde_json::Value;

use super::fault;
use crate::args::{GetArgs, ResourceFormat};
use crate::printer::Printer;

pub(super) async fn get(client: &ApiClient, arguments: GetArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let kind = kind(&arguments.kind)?;
    let namespace = arguments.namespace.as_deref().unwrap_or("default");
    if let Some(service) = &arguments.effective {
        if kind != Kind::TrafficPolicy {
            bail!(
                "`--effective` shows what holds for a service by traffic policies, not by {}\nhint: lorica get trafficpolicy --effective {service}",
                kind.plural()
            );
        }
        return super::effective::effective(client, service, namespace, arguments.output, printer).await;
    }
    let (items, one) = match &arguments.name {
        Some(name) => (vec![client.resource(kind, namespace, name).await?], true),
        None => (client.list(kind, (!arguments.all_namespaces).then_some(namespace)).await?.items, false),
    };
    match arguments.output {
        ResourceFormat::Json if one => printer.data(&serde_json::to_string_pretty(&items[0])?),
        ResourceFormat::Json => printer.data(&serde_json::to_string_pretty(&items)?),
        ResourceFormat::Yaml => {
            let documents = items.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
            printer.data(documents.iter().map(|document| document.trim_end()).collect::<Vec<_>>().join("\n---\n").as_str());
        }
        ResourceFormat::Table | ResourceFormat::Wide if items.is_empty() => {
            let place = if arguments.all_namespaces { "anywhere".to_owned() } else { format!("in the namespace `{namespace}`") };
            printer.note(&format!(
                "there are no {} {place}{}",
                kind.plural(),
                if arguments.all_namespaces { "" } else { "; -A shows all namespaces" }
            ));
        }
        ResourceFormat::Table | ResourceFormat::Wide => printer.data(&table(kind, &items, arguments.output == ResourceFormat::Wide)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The kind that was typed.
pub(super) fn kind(text: &str) -> anyhow::Result<Kind> {
    if let Some(kind) = Kind::named(text) {
        return Ok(kind);
    }
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
    match nearest(text, names.iter().copied()) {
        Some(near) => bail!("there is no kind `{text}`\nhint: did you mean `{near}`?"),
        None => bail!("there is no kind `{text}`\nhint: there are {}", names.join(", ")),
    }
}

fn table(kind: Kind, items: &[Value], wide: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["NAMESPACE", "NAME"];
    header.extend(match kind {
        Kind::Service => vec!["PORTS", "DECLARED BY"],
        Kind::Workload => vec!["SERVICE", "ADDRESS"],
        Kind::WorkloadIdentity => vec!["ACCOUNT", "HOST", "ATTRIBUTES"],
        Kind::TrustBundle => vec!["TRUST DOMAIN", "FROM", "SEQUENCE", "SINCE", "NEXT", "STATUS"],
        Kind::AuthenticationPolicy => vec!["ABOUT", "MTLS", "ISSUERS", "MODE", "STATUS"],
        Kind::AuthorizationPolicy => vec!["ABOUT", "ACTION", "RULES", "MODE", "STATUS"],
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => vec!["PARENTS", "HOSTS", "RULES", "STATUS"],
        Kind::Gateway => vec!["CLASS", "LISTENERS", "ADDRESSES", "STATUS"],
        Kind::ListenerSet => vec!["GATEWAY", "LISTENERS", "STATUS"],
        Kind::GatewayClass => vec!["CONTROLLER", "STATUS"],
        Kind::ReferenceGrant => vec!["FROM", "TO"],
        Kind::BackendTlsPolicy => vec!["TARGETS", "SERVER NAME", "STATUS"],
        Kind::TrafficPolicy => vec!["ABOUT", "SAYS", "MODE"],
        Kind::EgressPolicy => vec!["ABOUT", "ALLOWS", "DEFAULT", "MODE", "STATUS"],
        Kind::RateLimitPolicy => vec!["TARGETS", "LIMITS", "MODE", "STATUS"],
        Kind::FaultPolicy => vec!["ABOUT", "FAULTS", "MODE", "LEFT"],
        Kind::TelemetryPolicy => vec!["ABOUT", "TRACES", "LOG", "TO", "WHEN", "STATUS"],
        Kind::Namespace => vec!["LABELS"],
        Kind::Secret | Kind::ConfigMap => vec!["HOLDS"],
    });
    if wide {
        header.extend(["GENERATION", "CREATED"]);
    }
    table.set_header(header);
    for item in items {
        let at = |pointer: &str| item.pointer(pointer).map(text).unwrap_or_default();
        let mut row = vec![at("/metadata/namespace"), at("/metadata/name")];
        row.extend(match kind {
            Kind::Service => vec![
                list(item, "/spec/ports", |port| {
                    format!("{}/{}", text(&port["port"]), port.get("appProtocol").map_or("any".to_owned(), text))
                }),
                declared(item),
            ],
            Kind::Workload => vec![at("/spec/service"), at("/spec/address")],
            Kind::WorkloadIdentity => {
                vec![at("/spec/account"), item.pointer("/spec/host").map_or_else(|| "any".to_owned(), text), attributes(item)]
            }
            Kind::TrustBundle => vec![
                at("/spec/trustDomain"),
                item.pointer("/spec/endpoint/url").map_or_else(|| "written".to_owned(), text),
                at("/status/sequence"),
                at("/status/fetchedAt"),
                at("/status/nextFetchAt"),
                since(item, condition(item)),
            ],
            Kind::AuthenticationPolicy => vec![about(item), at("/spec/mtls/mode"), issuers(item), mode(item), condition(item)],
            Kind::AuthorizationPolicy => vec![about(item), action(item), rules(item), mode(item), condition(item)],
            Kind::Gateway => vec![
                at("/spec/gatewayClassName"),
                list(item, "/spec/listeners", |listener| {
                    format!("{}:{}/{}", text(&listener["name"]), listener["port"], text(&listener["protocol"]))
                }),
                list(item, "/status/addresses", |address| text(&address["value"])),
                condition(item),
            ],
            Kind::ListenerSet => vec![
                at("/spec/parentRef/name"),
                list(item, "/spec/listeners", |listener| {
                    format!("{}:{}/{}", text(&listener["name"]), listener["port"], text(&listener["protocol"]))
                }),
                condition(item),
            ],
            Kind::GatewayClass => vec![at("/spec/controllerName"), condition(item)],
            Kind::ReferenceGrant => vec![
                list(item, "/spec/from", |from| format!("{} of {}", text(&from["kind"]), text(&from["namespace"]))),
                list(item, "/spec/to", |to| {
                    to.get("name").map_or_else(|| text(&to["kind"]), |name| format!("{} {}", text(&to["kind"]), text(name)))
                }),
            ],
            Kind::BackendTlsPolicy => {
                vec![list(item, "/spec/targetRefs", |target| text(&target["name"])), at("/spec/validation/hostname"), condition(item)]
            }
            Kind::RateLimitPolicy => vec![about(item), list(item, "/spec/limits", limit), mode(item), condition(item)],
            Kind::TrafficPolicy => vec![about(item), says(item), mode(item)],
            Kind::EgressPolicy => vec![
                about(item),
                list(item, "/spec/allow", |allow| list(allow, "/hosts", text)),
                item.pointer("/spec/default").map_or_else(|| "Deny".to_owned(), text),
                mode(item),
                condition(item),
            ],
            Kind::FaultPolicy => vec![
                fault::about(item),
                fault::what(item).join(", "),
                mode(item),
                fault::remaining(item, jiff::Timestamp::now()).map_or_else(|| "ended".to_owned(), fault::left),
            ],
            Kind::TelemetryPolicy => vec![about(item), traces(item), log(item), places(item), at("/spec/accessLog/when"), condition(item)],
            Kind::Namespace => vec![keys(item, "/metadata/labels")],
            Kind::Secret | Kind::ConfigMap => vec![keys(item, "/data")],
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => vec![
                list(item, "/spec/parentRefs", |parent| text(&parent["name"])),
                list(item, "/spec/hostnames", text),
                rules(item),
                condition(item),
            ],
        });
        if wide {
            row.extend([at("/metadata/generation"), at("/metadata/creationTimestamp")]);
        }
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `per-user 100/1s Global`.
fn limit(limit: &Value) -> String {
    let at = |field: &str| limit.get(field).map(text);
    let much = match (at("requests"), at("concurrent")) {
        (Some(requests), _) => format!(" {requests}/{}", at("per").unwrap_or_else(|| "1s".to_owned())),
        (None, Some(most)) => format!(" {most} at once"),
        (None, None) => String::new(),
    };
    let shadow = if at("mode").as_deref() == Some("Shadow") { " (shadow)" } else { "" };
    format!("{}{much} {}{shadow}", at("name").unwrap_or_default(), at("scope").unwrap_or_else(|| "Local".to_owned()))
}

/// `Deny`, `Allow`.
fn action(item: &Value) -> String {
    item.pointer("/spec/action").map_or_else(|| "Allow".to_owned(), text)
}

/// Whether a policy is in force, or only tried: `Enforce`, `Shadow`.
fn mode(item: &Value) -> String {
    item.pointer("/spec/mode").map_or_else(|| "Enforce".to_owned(), text)
}

/// Which exchanges are kept: `1%, failed, slower than 1s`.
fn traces(item: &Value) -> String {
    let tracing = item.pointer("/spec/tracing");
    let at = |field: &str| tracing.and_then(|tracing| tracing.get(field));
    let failed = at("keepFailed").and_then(Value::as_bool).map(|kept| if kept { "failed" } else { "no failed" }.to_owned());
    let slow =
        at("keepSlowerThan").map(text).map(|bound| if bound == "Never" { "no slow".to_owned() } else { format!("slower than {bound}") });
    at("sampling").map(text).into_iter().chain(failed).chain(slow).collect::<Vec<_>>().join(", ")
}

/// How a line of the log looks: `Json`, `text`, or an object's keys.
fn log(item: &Value) -> String {
    let Some(log) = item.pointer("/spec/accessLog") else { return String::new() };
    match log.get("format") {
        None => "Json".to_owned(),
        Some(Value::String(word)) => word.clone(),
        Some(format) if format.get("text").is_some() => "text".to_owned(),
        Some(_) => keys(item, "/spec/accessLog/format/json"),
    }
}

/// Where the log goes.
fn places(item: &Value) -> String {
    match item.pointer("/spec/accessLog") {
        None => String::new(),
        Some(log) if log.get("to").is_none() => "Stdout".to_owned(),
        Some(log) => Some(list(log, "/to", text)).filter(|places| !places.is_empty()).unwrap_or_else(|| "nowhere".to_owned()),
    }
}

/// How many rules it has.
fn rules(item: &Value) -> String {
    item.pointer("/spec/rules").and_then(Value::as_array).map_or(0, Vec::len).to_string()
}

/// What a process must be: `uid=1000, executable=/usr/bin/recording`.
fn attributes(item: &Value) -> String {
    let fields = item.pointer("/spec/attributes").and_then(Value::as_object).into_iter().flatten();
    fields.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(", ")
}

fn declared(item: &Value) -> String {
    let by = item.pointer("/metadata/annotations").and_then(|annotations| annotations.get(lorica_model::resource::DECLARED_BY));
    by.map_or_else(|| "resource".to_owned(), text)
}

fn list(item: &Value, pointer: &str, each: impl Fn(&Value) -> String) -> String {
    item.pointer(pointer).and_then(Value::as_array).map(|list| list.iter().map(each).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// What a policy targets.
fn about(item: &Value) -> String {
    let targets = list(item, "/spec/targetRefs", |target| {
        format!("{} {}", target.get("kind").map_or_else(|| "Service".to_owned(), text), text(&target["name"]))
    });
    if targets.is_empty() { "its namespace".to_owned() } else { targets }
}

/// The issuers whose tokens a policy asks for.
fn issuers(item: &Value) -> String {
    list(item, "/spec/jwt/providers", |provider| text(&provider["issuer"]))
}

/// The sections that a policy has something in.
fn says(item: &Value) -> String {
    let fields = item.pointer("/spec").and_then(Value::as_object).into_iter().flatten();
    fields.map(|(name, _)| name.as_str()).filter(|name| !matches!(*name, "targetRefs" | "mode")).collect::<Vec<_>>().join(", ")
}

/// The names of an object's fields.
fn keys(item: &Value, pointer: &str) -> String {
    item.pointer(pointer).and_then(Value::as_object).map(|object| object.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// The first condition that ought to hold and does not: its own, or one of a parent, ancestor or listener.
fn condition(item: &Value) -> String {
    let parts = ["/status/parents", "/status/ancestors", "/status/listeners"];
    let parts = parts.into_iter().filter_map(|pointer| item.pointer(pointer).and_then(Value::as_array)).flatten();
    let conditions = item.pointer("/status").into_iter().chain(parts).filter_map(|part| part["conditions"].as_array()).flatten();
    conditions
        .into_iter()
        .find(|condition| condition["status"] == "False" && condition["type"] != "Conflicted")
        .map_or_else(|| "Accepted".to_owned(), |condition| format!("{}: {}", text(&condition["reason"]), text(&condition["message"])))
}

/// A condition with the time since when it fails.
fn since(item: &Value, condition: String) -> String {
    match item.pointer("/status/failingSince") {
        Some(since) => format!("{condition} (since {})", text(since)),
        None => condition,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
