//! Over mutual TLS a peer tells of itself only: of the services that its host's token named, and of no workload of others.

use std::path::PathBuf;

use testbed::Running;

use super::*;

/// A host that joined for some services, and its agent's socket.
async fn host(told: &Told, name: &str, services: &[&str]) -> anyhow::Result<(Running, PathBuf)> {
    let mesh = &told.mesh;
    let directory = mesh.home().join(name);
    let parts = [directory.join("state"), directory.join("run")];
    mesh.start_outside("/usr/bin/mkdir", ["-p".into()].into_iter().chain(parts.clone()))?.output(PATIENCE).await?.success()?;
    let services = services.iter().flat_map(|service| ["--service", service]);
    let words = ["token", "create", "--host", name, "-o", "json"];
    let made = mesh.lorica(words.into_iter().chain(services)).await?.json()?;
    let file = mesh.write(&format!("{name}.token"), made["token"].as_str().context("no token")?)?;
    let [state, run] = parts;
    let environment = vec![("XDG_STATE_HOME".into(), state.into()), ("XDG_RUNTIME_DIR".into(), run.clone().into())];
    let words = ["proxy".into(), "--node".into(), "--token-file".into(), file.into_os_string()];
    let agent = mesh.start_binary("agent", words, environment, None)?;
    agent.line(&format!("host {name} joined")).await?;
    Ok((agent, run.join("lorica/control.sock")))
}

fn with_instance(mut spans: ResourceSpans, instance: &str) -> ResourceSpans {
    spans.resource.get_or_insert_default().attributes.push(text("service.instance.id", instance));
    spans
}

#[tokio::test]
async fn a_host_tells_of_what_it_joined_for_and_of_nothing_else() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options().control_option("--listen").control_option("127.0.0.1:0")).await?;
    let (agent, socket) = host(&told, "web-1", &["web.shop"]).await?;
    let channel = at_socket(&socket).await?;
    let one = |trace, service: &str| of(service, vec![span(trace, 1, None, SpanKind::Server, "GET", (now(), Duration::from_millis(1)))]);
    let mixed = vec![one(0xd1, "web.shop"), one(0xd2, "billing.shop"), one(0xd3, "web"), one(0xd4, "web.other")];
    let taken = send_spans(&channel, mixed).await?.partial_success.context("all was taken")?;
    assert_eq!(
        (taken.rejected_spans, taken.error_message.as_str()),
        (3, "the host web-1 tells of billing.shop, for which it did not join")
    );
    let mut logs = LogsServiceClient::new(channel.clone());
    let resource_logs = vec![logs_of("billing.shop", vec![log("forged", Vec::new())]), logs_of("web.shop", vec![log("own", Vec::new())])];
    let taken = logs.export(ExportLogsServiceRequest { resource_logs }).await?.into_inner().partial_success.context("all was taken")?;
    assert_eq!(taken.rejected_log_records, 1);

    // A workload of this name was let in for whoever owns the socket; a host, even one for all services, does not speak for it.
    let port = Port::free()?;
    let app = [told.mesh.program(testbed::app()?)?.into_os_string(), "http".into(), "--listen".into(), port.address().to_string().into()];
    let _web = told.mesh.service("web.shop").port(&format!("80:{}/http", port.number())).no_capture().start(app)?;
    told.mesh.announced("web.shop", 1).await?;
    let status = told.mesh.status().await?;
    let name = status["proxies"].as_array().into_iter().flatten().find_map(|proxy| proxy["id"].as_str()).context("no proxy")?;
    let (other, socket) = host(&told, "any-1", &[]).await?;
    let stolen = with_instance(one(0xd5, "web.shop"), name);
    let own = with_instance(one(0xd6, "web.shop"), "web-0.shop");
    let taken = send_spans(&at_socket(&socket).await?, vec![stolen, own]).await?.partial_success.context("all was taken")?;
    let said = "host any-1 tells of a workload of web.shop that another was let in for";
    assert_eq!((taken.rejected_spans, taken.error_message.as_str()), (1, said));

    told.trace(&id(0xd6), 1).await?;
    told.trace(&id(0xd1), 1).await?;
    for forged in [0xd2, 0xd3, 0xd4, 0xd5] {
        let none = told.mesh.lorica(["trace", &id(forged)]).await?;
        ensure!(none.code() == 1, "{forged:x} was taken: {}", none.stdout);
    }
    let lines = told.mesh.lorica(["logs"]).await?.success()?.stdout;
    ensure!(lines.contains("own") && !lines.contains("forged"), "{lines}");
    agent.stop().await?;
    other.stop().await?;
    told.mesh.finish().await
}
