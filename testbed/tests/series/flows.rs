//! What proxies tell: calls through the mesh, counted by whoever made them, against the series, `lorica graph` and `lorica top`.

use std::ffi::OsStr;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Mesh, PATIENCE, Port, Running, eventually, http_get};

use crate::ask;

/// An app that answers HTTP on a port, as a service.
async fn app(mesh: &Mesh, service: &str, port: &Port, upstream: Option<(&str, &Port)>) -> anyhow::Result<Running> {
    let program = mesh.program(testbed::app()?)?;
    let mut run = mesh.service(service).no_capture().port(&format!("80:{}/http", port.number()));
    if let Some((called, local)) = upstream {
        run = run.upstream(&format!("{called}:80={}", local.address()));
    }
    let listen = port.address().to_string();
    let arguments: [&OsStr; 4] = [program.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let running = run.start(arguments)?;
    mesh.announced(service, 1).await?;
    Ok(running)
}

async fn edges(mesh: &Mesh) -> anyhow::Result<Vec<Value>> {
    let graph = mesh.lorica(["graph", "-o", "json", "--window", "10m"]).await?.success()?.json()?;
    Ok(graph["edges"].as_array().context("no edges")?.clone())
}

#[tokio::test]
async fn what_was_called_is_what_is_shown() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (recording_port, caller_port, local) = (Port::free()?, Port::free()?, Port::free()?);
    let recording = app(&mesh, "recording.contact", &recording_port, None).await?;
    let caller = app(&mesh, "caller.contact", &caller_port, Some(("recording.contact", &local))).await?;
    let call = async |times: u64| -> anyhow::Result<()> {
        for _ in 0..times {
            let reply = http_get(local.address(), "recording.contact", "/a").await?;
            ensure!(reply.status == 200, "{}", reply.text());
        }
        Ok(())
    };
    let counted = async |calls: u64| {
        eventually(&format!("{calls} calls are told by both sides"), PATIENCE, || async {
            let edges = edges(&mesh).await?;
            let edge = edges.iter().find(|edge| edge["source"] == "caller.contact").with_context(|| format!("{edges:?}"))?;
            ensure!(edge["destination"] == "recording.contact" && edge["calls"] == calls, "{edge}");
            ensure!(edge["failures"] == 0 && edge["protocol"] == "http" && edge["mutualTls"] == 1.0, "{edge}");
            for reporter in ["source", "destination"] {
                let query = format!("sum(istio_requests_total{{reporter=\"{reporter}\",destination_service_name=\"recording\"}})");
                let sum = ask(&mesh.socket(), &query).await?;
                #[allow(clippy::cast_precision_loss)]
                let all = sum.first().is_some_and(|(_, sum)| *sum == calls as f64);
                ensure!(all, "{reporter}: {sum:?}");
            }
            Ok(())
        })
        .await
    };
    call(40).await?;
    counted(40).await?;
    let up = ask(&mesh.socket(), "up").await?;
    assert_eq!(up.len(), 2, "{up:?}");
    assert!(up.iter().all(|(labels, value)| *value == 1.0 && labels["job"].as_str().is_some_and(|job| job.starts_with("contact/"))));

    // A control plane that is killed loses nothing that it answered for, and is told what came meanwhile.
    mesh.kill_control().await?;
    call(7).await?;
    mesh.start_control().await?;
    call(3).await?;
    counted(50).await?;

    let table = mesh.lorica(["graph", "--window", "10m"]).await?.success()?.stdout;
    let row = table.lines().find(|line| line.contains("caller.contact")).context("no row")?;
    assert!(["recording.contact", "http", "100.0 %", "yes"].iter().all(|part| row.contains(part)), "{table}");
    let dot = mesh.lorica(["graph", "-o", "dot", "--window", "10m"]).await?.success()?.stdout;
    assert!(dot.contains("\"caller.contact\" -> \"recording.contact\""), "{dot}");
    let top = mesh.lorica(["top", "-o", "json", "--window", "10m"]).await?.success()?.json()?;
    assert_eq!((&top["rows"][0]["name"], &top["rows"][0]["calls"]), (&"recording.contact".into(), &50.into()), "{top}");
    let top = mesh.lorica(["top", "routes", "--window", "10m"]).await?.success()?.stdout;
    assert!(top.contains("ROUTE"), "{top}");
    let refused = mesh.lorica(["graph", "--window", "1s"]).await?;
    assert!(refused.code() != 0 && refused.stderr.contains("hint: write 10s to 24h"), "{}", refused.stderr);

    // The last calls before its end are told at its end, and then it is gone.
    call(5).await?;
    caller.stop().await?;
    let found = edges(&mesh).await?;
    let edge = found.iter().find(|edge| edge["source"] == "caller.contact").with_context(|| format!("{found:?}"))?;
    assert_eq!(edge["calls"], 55, "{edge}");
    let up = ask(&mesh.socket(), "up").await?;
    assert!(!up.iter().any(|(labels, value)| labels["job"] == "contact/caller" && *value > 0.0), "{up:?}");
    assert!(ask(&mesh.socket(), "istio_requests_total{reporter=\"source\",source_canonical_service=\"caller\"}").await?.is_empty());
    recording.stop().await?;
    mesh.finish().await
}
