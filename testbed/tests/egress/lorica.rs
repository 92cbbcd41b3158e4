//! Lorica's proxy, beside an app and as an egress gateway.

use std::net::IpAddr;

use anyhow::ensure;
use testbed::{EchoServer, Mesh, PATIENCE, Resolver, Running, TcpEcho, eventually, left_out};

use crate::{GATEWAY, get, outside, policy, refused};

#[tokio::test]
async fn nothing_leaves_that_no_policy_lists() -> anyhow::Result<()> {
    let Some(address) = outside() else { return Ok(()) };
    let mesh = Mesh::as_nobody().start().await?;
    let (listed, other) = (EchoServer::start_on("listed", address).await?, EchoServer::start_on("other", address).await?);
    let url = |server: &EchoServer| format!("http://{}/", server.address());

    // Without any policy everything leaves.
    assert!(get(&mesh, "web", &url(&other)).await?.success()?.stdout.contains("\"server\":\"other\""));

    mesh.apply(&policy("out", &format!("{{allow: [{{hosts: [{}], ports: [{}]}}]}}", address, listed.address().port()))).await?;
    let answered = get(&mesh, "web", &url(&listed)).await?.success()?;
    assert!(answered.stdout.contains("\"server\":\"listed\""), "{}", answered.stdout);
    let denied = get(&mesh, "web", &url(&other)).await?.success()?.stdout;
    assert!(denied.starts_with("HTTP/1.1 403") && denied.contains("x-lorica-reason: egress_denied"), "{denied}");
    assert_eq!(other.requests(), 1);

    // What was refused is listed, and the policy that is printed lets it out.
    let calls = eventually("the control plane knows of it", PATIENCE, || async {
        let refused = refused(&mesh).await?;
        ensure!(refused["calls"].as_array().is_some_and(|calls| calls.len() == 1), "{refused:#}");
        Ok(refused)
    })
    .await?;
    let call = &calls["calls"][0];
    assert_eq!((&call["namespace"], &call["account"], &call["policy"]), (&"shop".into(), &"web".into(), &"out.shop".into()), "{call}");
    assert_eq!((&call["host"], &call["port"]), (&address.to_string().into(), &other.address().port().into()), "{call}");
    let table = mesh.lorica(["policy", "refused"]).await?.success()?;
    assert!(table.stdout.contains("shop/web") && table.stdout.contains("out.shop") && table.stderr.contains("hint: "), "{table:?}");
    let allow = mesh.lorica(["policy", "refused", "-n", "shop", "-o", "yaml"]).await?.success()?.stdout;
    mesh.apply(&allow).await?;
    assert!(get(&mesh, "web", &url(&other)).await?.success()?.stdout.contains("\"server\":\"other\""));
    // It was added for that account alone.
    assert!(get(&mesh, "batch", &url(&other)).await?.success()?.stdout.starts_with("HTTP/1.1 403"));
    let refused = refused(&mesh).await?;
    assert!(refused["calls"].as_array().is_some_and(|calls| calls.iter().all(|call| call["account"] != "web")), "{refused:#}");
    mesh.finish().await
}

/// A client in `shop` for which this resolver is the host's.
fn resolving(mesh: &Mesh, resolver: &Resolver, script: &str) -> anyhow::Result<Running> {
    let configuration = mesh.write("resolv.conf", resolver.configuration())?;
    let outer = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let own = std::process::id().to_string();
    let binary = mesh.program(testbed::lorica()?)?;
    let inner = ["--ends-with", &own, "run", "--namespace", "shop", "--account", "web", "--", "sh", "-c", script];
    let words = ["-Urm", "sh", "-c", outer, "sh"].map(Into::into).into_iter();
    let words = words.chain([configuration.into_os_string(), binary.into_os_string()]).chain(inner.map(Into::into));
    mesh.start_outside("/usr/bin/unshare", words)
}

#[tokio::test]
async fn names_are_allowed_by_what_dns_said_and_by_what_an_app_claims() -> anyhow::Result<()> {
    let Some(IpAddr::V4(address)) = outside() else { return Ok(()) };
    let (web, mail) = (EchoServer::start_on("web", address.into()).await?, TcpEcho::start_on("220 ready", address.into()).await?);
    let names =
        [("api.example", address), ("smtp.mail.example", address), ("evil.example", address), ("inside.example", [127, 0, 0, 1].into())];
    let resolver = match Resolver::start(&names).await {
        Ok(resolver) => resolver,
        Err(error) => {
            left_out(&format!("what leaves the mesh by name: no resolver can be had: {error}"));
            return Ok(());
        }
    };
    let mesh = Mesh::as_nobody().start().await?;
    let local = EchoServer::start("local").await?;
    let (port, local_port) = (web.address().port(), local.address().port());
    mesh.apply(&policy("out", "{allow: [{hosts: [api.example, '*.mail.example', inside.example]}]}")).await?;

    // Each line of output begins with the number of its case.
    let mail_port = mail.address().port();
    let script = format!(
        "ask() {{ echo \"$1 $(curl -sS --max-time 10 -o /dev/null -w '%{{http_code}}' \"$2\" $3 $4 2>&1)\"; }}
ask 1 http://api.example:{port}/
ask 2 http://evil.example:{port}/
ask 3 http://{address}:{port}/ -H host:api.example
ask 4 http://192.0.2.99:{port}/ -H host:api.example
ask 5 http://{address}:{port}/
ask 6 http://192.0.2.99:{local_port}/ -H host:inside.example
echo \"7 $(curl -sS --max-time 2 telnet://smtp.mail.example:{mail_port} </dev/null 2>&1)\"
"
    );
    let output = resolving(&mesh, &resolver, &script)?.output(PATIENCE * 2).await?;
    let said = |case: &str| output.stdout.lines().find(|line| line.starts_with(case)).map(|line| line[2..].to_owned()).unwrap_or_default();
    let context = || format!("{output:?}\n{}", mesh.last_words());
    if output.stderr.contains("unshare failed") || output.stderr.contains("mount") {
        left_out(&format!("what leaves the mesh by name: {}", output.stderr));
        return mesh.finish().await;
    }
    assert_eq!(said("1"), "200", "DNS told the app this name: {}", context());
    assert_eq!(said("2"), "403", "and this one is not listed, at the same address: {}", context());
    assert_eq!(said("3"), "200", "a claim that is true: {}", context());
    assert_eq!(said("4"), "200", "the claim decides where it goes, not the address: {}", context());
    assert_eq!(said("5"), "200", "the address is one that a listed name has, and nothing else is claimed: {}", context());
    assert!(!said("6").ends_with("200") && local.requests() == 0, "no name leads to this host itself: {}", context());
    assert!(output.stdout.contains("220 ready"), "a server that speaks first, by what DNS said: {}", context());
    assert_eq!(web.requests(), 4, "{}", context());
    mesh.finish().await
}

/// A proxy that runs the Gateway `out.edge`; its access log goes to stdout.
async fn gateway(mesh: &Mesh) -> anyhow::Result<Running> {
    let words = ["proxy", "--gateway", "out.edge", "--bind", "15008=0", "--access-log", "stdout"];
    let running = mesh.start_binary("an egress gateway", words, Vec::new(), None)?;
    running.line("port 15008 on ").await?;
    Ok(running)
}

#[tokio::test]
async fn an_egress_gateway_lets_out_whom_policies_name() -> anyhow::Result<()> {
    let Some(address) = outside() else { return Ok(()) };
    let mesh = Mesh::as_nobody().start().await?;
    let server = EchoServer::start_on("outside", address).await?;
    let url = format!("http://{}/", server.address());
    let through = |callers: &str| {
        policy("out", &format!("{{default: Allow, allow: [{{hosts: [{address}], via: {{name: out, namespace: edge}}{callers}}}]}}"))
    };
    mesh.apply(&format!("{GATEWAY}{}", through(""))).await?;

    // A gateway that is not there is no reason to go around it.
    let missing = get(&mesh, "web", &url).await?;
    assert_ne!(missing.code(), 0, "{missing:?}");
    assert_eq!(server.requests(), 0);

    let running = gateway(&mesh).await?;
    eventually("a call leaves through the gateway", PATIENCE, || async {
        let answered = get(&mesh, "web", &url).await?;
        ensure!(answered.code() == 0 && answered.stdout.contains("\"server\":\"outside\""), "{answered:?}");
        Ok(())
    })
    .await?;
    let line = running.line(&server.address().to_string()).await?;
    assert!(line.contains("spiffe://mesh.local/ns/shop/sa/web"), "the gateway's log names the caller: {line}");

    // Policies name callers; whoever is not named leaves as the default says, and not through the gateway.
    mesh.apply(&through(", callers: [{account: batch}]").replace("default: Allow", "default: Deny")).await?;
    let denied = get(&mesh, "web", &url).await?.success()?.stdout;
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    let answered = get(&mesh, "batch", &url).await?.success()?.stdout;
    assert!(answered.contains("\"server\":\"outside\""), "{answered}");

    // The gateway decides by itself: a workload that asks it for more than policies say is refused.
    let status = mesh.lorica(["get", "gateway", "out", "-n", "edge", "-o", "json"]).await?.success()?.json()?;
    assert_eq!(status["status"]["conditions"][0]["status"], "True", "{status:#}");
    running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn policies_that_name_what_is_not_there_are_refused_with_the_place() -> anyhow::Result<()> {
    let mesh = Mesh::options().start().await?;
    for (spec, told) in [
        ("{allow: [{hosts: [https://api.example]}]}", "is neither a host nor a network"),
        ("{allow: [{hosts: [10.0.0.1/8]}]}", "write `10.0.0.0/8`"),
        ("{allow: [{hosts: [web.shop.mesh]}]}", "is inside the mesh"),
        ("{allow: [{hosts: []}]}", "nothing is allowed without a host"),
        ("{allow: [{hosts: [a.example], via: {name: out, namespace: edge}}]}", "there is no Gateway `out.edge`"),
        ("{allow: [{hosts: [a.example], callers: [{namespace: bank}]}]}", "`bank` is never asked about"),
        ("{targetRefs: [{name: web}]}", "there is no service `web.shop`"),
        ("{default: Never}", "`Never` is no default"),
    ] {
        let refused = mesh.lorica_with_input(["apply", "-f", "-"], Some(&policy("out", spec))).await?;
        assert!(refused.code() == 1 && refused.stderr.contains(told), "{spec}: {}", refused.stderr);
    }
    mesh.finish().await
}
