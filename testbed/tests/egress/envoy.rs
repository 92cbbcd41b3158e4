//! A stock Envoy, beside an app whose connections are led to it, and as an egress gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{EchoServer, Envoy, Mesh, Network, Output, PATIENCE, Running, app, eventually};

use crate::{GATEWAY, get, outside, policy, refused};

/// What Envoy must have asked for and not refused.
const KINDS: [&str; 2] = ["listener_manager.lds.", "cluster_manager.cds."];

const API: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const MAIL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
/// Nobody is there.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
/// In a network that is listed.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);

/// A server in the network; ends when it listens.
async fn server(mesh: &Mesh, network: &Network, kind: &str, at: &str, option: [&str; 2]) -> anyhow::Result<Running> {
    let running = network.start_inside(mesh, mesh.program(app()?)?, [kind, "--listen", at, option[0], option[1]])?;
    running.line("listening on ").await?;
    Ok(running)
}

/// The first line of a server that speaks first, as a captured app hears it.
async fn line(mesh: &Mesh, network: &Network, at: &str) -> anyhow::Result<Output> {
    let from = Network::CAPTURED.to_string();
    network.start_inside(mesh, mesh.program(app()?)?, ["line", at, "--from", &from])?.output(PATIENCE).await
}

/// What a captured app is answered: what the server calls itself, or the reason for which there is no server.
async fn answer(mesh: &Mesh, network: &Network, arguments: &[&str]) -> anyhow::Result<String> {
    let mut words = vec!["-ik", "--http1.1"];
    words.extend(arguments);
    let output = network.curl(mesh, &words).await?;
    if output.code() != 0 {
        return Ok(format!("curl ended with {}", output.code()));
    }
    let said = output.stdout.to_ascii_lowercase();
    if said.starts_with("http/1.1 403") && said.contains("\r\nx-lorica-reason: egress_denied\r\n") {
        return Ok("denied".to_owned());
    }
    let body = output.stdout.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let echo: Option<Value> = serde_json::from_str(body).ok();
    Ok(echo.and_then(|echo| Some(echo["server"].as_str()?.to_owned())).unwrap_or(output.stdout))
}

/// Waits until exactly these calls are told as refused: `ACCOUNT HOST:PORT`.
async fn told(mesh: &Mesh, expected: &[&str]) -> anyhow::Result<Value> {
    let told = eventually("the control plane knows what was refused", PATIENCE, || async {
        let refused = refused(mesh).await?;
        let calls = refused["calls"].as_array().context("no calls")?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut calls: Vec<_> =
            calls.iter().map(|call| format!("{} {}:{}", text(&call["account"]), text(&call["host"]), call["port"])).collect();
        calls.sort();
        ensure!(calls == expected, "{calls:#?}");
        Ok(refused)
    });
    told.await.with_context(|| mesh.last_words())
}

#[tokio::test]
async fn an_app_beside_envoy_calls_what_policies_list() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let names = [("api.example", API), ("evil.example", API), ("a.mail.example", MAIL)];
    let Some(network) = Network::start(&mesh, &names).await? else { return mesh.finish().await };
    let _servers = [
        server(&mesh, &network, "http", "203.0.113.7:8080", ["--name", "api"]).await?,
        server(&mesh, &network, "http", "203.0.113.7:8081", ["--name", "beside"]).await?,
        server(&mesh, &network, "https", "203.0.113.7:443", ["--name", "secure"]).await?,
        server(&mesh, &network, "http", "203.0.113.8:8025", ["--name", "mail"]).await?,
        server(&mesh, &network, "https", "203.0.113.8:9443", ["--name", "secure-mail"]).await?,
        server(&mesh, &network, "tcp", "203.0.113.8:25", ["--greeting", "220 ready\\n"]).await?,
        server(&mesh, &network, "http", "198.51.100.4:8080", ["--name", "near"]).await?,
        server(&mesh, &network, "tcp", "198.51.100.4:3306", ["--greeting", "5.5 ready\\n"]).await?,
        server(&mesh, &network, "tcp", "198.51.100.4:3307", ["--greeting", "5.5 ready\\n"]).await?,
    ];
    let listed =
        "allow: [{hosts: [api.example], ports: [443, 8080]}, {hosts: ['*.mail.example']}, {hosts: [198.51.100.0/24], ports: [3306, 8080]}]";
    mesh.apply(&policy("out", &format!("{{{listed}}}"))).await?;
    let Some(envoy) = Envoy::start_within(&mesh, &network, &["--namespace", "shop", "--account", "web"]).await? else {
        return mesh.finish().await;
    };

    let (api, mail, near, nowhere) =
        (format!("http://{API}"), format!("http://{MAIL}"), format!("http://{NEAR}"), format!("http://{NOWHERE}"));
    let cases: &[(&str, &[&str], &str)] = &[
        ("a name at its port", &["http://api.example:8080/"], "api"),
        ("the name decides where it goes, not the address", &[&format!("{nowhere}:8080/"), "-H", "host: api.example:8080"], "api"),
        ("a name without a port is at the port that was called", &[&format!("{nowhere}:8080/"), "-H", "host: api.example"], "api"),
        ("a name under one that is listed, at any port", &["http://a.mail.example:8025/"], "mail"),
        ("at any port without its number, too", &[&format!("{mail}:8025/"), "-H", "host: a.mail.example"], "mail"),
        ("a network", &[&format!("{near}:8080/")], "near"),
        ("a network, whatever name is said", &[&format!("{near}:8080/"), "-H", "host: evil.example"], "near"),
        ("TLS by its server name", &["https://api.example/"], "secure"),
        ("the server name decides where it goes", &["https://api.example/", "--connect-to", "::203.0.113.99:443"], "secure"),
        ("TLS under a name that is listed, at any port", &["https://a.mail.example:9443/"], "secure-mail"),
        ("a name that is not listed", &["http://evil.example:8080/"], "denied"),
        ("nor at a port that no rule names", &["http://evil.example:8082/"], "denied"),
        ("an address that is not listed", &[&format!("{api}:8080/")], "denied"),
        ("a name that is listed at another port", &["http://api.example:8081/"], "denied"),
        ("a port that is said is not the one that was called", &[&format!("{api}:8080/"), "-H", "host: api.example:8081"], "denied"),
        ("nor does it make up for the one that was called", &[&format!("{api}:8081/"), "-H", "host: api.example:8080"], "denied"),
        ("a network at another port", &[&format!("{near}:8090/")], "denied"),
        ("TLS to a name that is not listed", &["https://evil.example/"], "curl ended with 35"),
        ("TLS to a name at another port", &["https://api.example:9443/"], "curl ended with 35"),
    ];
    for (what, arguments, expected) in cases {
        let answered = answer(&mesh, &network, arguments).await?;
        assert_eq!(&answered, expected, "{what}: {arguments:?}\n{}", mesh.last_words());
    }
    // The server wants no WebSocket, and it is the server that says so.
    let upgrade = ["-i", "--http1.1", "http://api.example:8080/", "-H", "connection: upgrade", "-H", "upgrade: websocket"];
    let answered = network.curl(&mesh, &upgrade).await?;
    assert!(answered.stdout.starts_with("HTTP/1.1 200"), "{answered:?}");
    // Servers that speak first are known by their address alone, whatever DNS said of it.
    let heard = line(&mesh, &network, "198.51.100.4:3306").await?;
    assert_eq!(heard.stdout, "5.5 ready\n", "{heard:?}\n{}", mesh.last_words());
    for elsewhere in ["198.51.100.4:3307", "203.0.113.8:25"] {
        let silent = line(&mesh, &network, elsewhere).await?;
        assert!(silent.code() != 0 && !silent.stdout.contains("ready"), "{elsewhere}: {silent:?}");
    }

    let calls = told(
        &mesh,
        &[
            "web 198.51.100.4:3307",
            "web 198.51.100.4:8090",
            "web 203.0.113.7:8080",
            "web 203.0.113.8:25",
            "web api.example:8081",
            "web api.example:9443",
            "web evil.example:443",
            "web evil.example:8080",
            "web evil.example:8082",
        ],
    )
    .await?;
    let call = &calls["calls"][0];
    assert_eq!(
        (&call["namespace"], &call["policy"], &call["proxy"]),
        (&"shop".into(), &"out.shop".into(), &envoy.name()?.into()),
        "{call}"
    );

    // The policy that is printed lets them out, and they are not told any more.
    let allow = mesh.lorica(["policy", "refused", "-n", "shop", "-o", "yaml"]).await?.success()?.stdout;
    mesh.apply(&allow).await?;
    for (arguments, expected) in
        [("http://evil.example:8080/", "api"), ("https://evil.example/", "secure"), ("http://203.0.113.7:8080/", "api")]
    {
        eventually("what was refused leaves", PATIENCE, || async {
            let answered = answer(&mesh, &network, &[arguments]).await?;
            ensure!(answered == expected, "{arguments}: {answered}");
            Ok(())
        })
        .await?;
    }
    told(&mesh, &[]).await?;

    // Who allows the rest has nothing looked at.
    mesh.apply(&policy("out", &format!("{{default: Allow, {listed}}}"))).await?;
    eventually("everything leaves", PATIENCE, || async {
        let answered = answer(&mesh, &network, &["http://evil.example:8081/"]).await?;
        ensure!(answered == "beside", "{answered}");
        Ok(())
    })
    .await?;
    envoy.refused_nothing(&mesh, &KINDS).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}

/// How many requests the egress gateway's RBAC let pass, or not.
async fn passed(gateway: &Envoy, what: &str) -> anyhow::Result<u64> {
    let counters = gateway.counters().await?;
    let known = counters.iter().find(|(name, _)| name.starts_with("http.gateway/out.edge") && name.ends_with(&format!(".rbac.{what}")));
    known.map(|(_, count)| *count).with_context(|| format!("{counters:?}"))
}

#[tokio::test]
async fn envoy_leads_an_app_through_an_egress_gateway_of_envoy() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let Some(network) = Network::start(&mesh, &[("api.example", API), ("a.mail.example", MAIL)]).await? else { return mesh.finish().await };
    let _servers = [
        server(&mesh, &network, "http", "203.0.113.7:80", ["--name", "plain"]).await?,
        server(&mesh, &network, "https", "203.0.113.7:443", ["--name", "secure"]).await?,
        server(&mesh, &network, "https", "203.0.113.8:9443", ["--name", "secure-mail"]).await?,
        server(&mesh, &network, "tcp", "198.51.100.4:3306", ["--greeting", "5.5 ready\\n"]).await?,
        server(&mesh, &network, "tcp", "203.0.113.8:25", ["--greeting", "220 ready\\n"]).await?,
    ];
    let led = |hosts: &str| policy("out", &format!("{{allow: [{{hosts: [{hosts}], via: {{name: out, namespace: edge}}}}]}}"));
    mesh.apply(&format!("{GATEWAY}{}", led("api.example, '*.mail.example', 198.51.100.4, 203.0.113.0/24"))).await?;
    let Some(envoy) = Envoy::start_within(&mesh, &network, &["--namespace", "shop", "--account", "web"]).await? else {
        return mesh.finish().await;
    };
    let secure = ["https://api.example/", "--connect-to", "::198.51.100.99:443"];
    // A gateway that is not there is no reason to go around it.
    assert_eq!(answer(&mesh, &network, &secure).await?, "curl ended with 35");

    let Some(gateway) = Envoy::start_within(&mesh, &network, &["--gateway", "out.edge", "--bind", "15008=0"]).await? else {
        return mesh.finish().await;
    };
    let left = eventually("a call leaves through the gateway", PATIENCE, || async {
        let answered = answer(&mesh, &network, &secure).await?;
        ensure!(answered == "secure", "{answered}");
        Ok(())
    });
    left.await.with_context(|| mesh.last_words())?;
    let before = passed(&gateway, "allowed").await?;
    let mail = ["https://a.mail.example:9443/", "--connect-to", "::198.51.100.99:9443"];
    assert_eq!(answer(&mesh, &network, &mail).await?, "secure-mail", "{}", mesh.last_words());
    let heard = line(&mesh, &network, "198.51.100.4:3306").await?;
    assert_eq!(heard.stdout, "5.5 ready\n", "{heard:?}\n{}", mesh.last_words());
    assert_eq!(passed(&gateway, "allowed").await?, before + 2, "all of it went through the gateway");

    // What Envoy cannot lead through, and what it does not let pass at the gateway.
    assert_eq!(answer(&mesh, &network, &["http://api.example/", "--connect-to", "::198.51.100.99:80"]).await?, "denied");
    let silent = line(&mesh, &network, "203.0.113.8:25").await?;
    assert!(silent.code() != 0 && !silent.stdout.contains("ready"), "{silent:?}");
    assert_eq!(passed(&gateway, "denied").await?, 1);
    for envoy in [envoy, gateway] {
        envoy.refused_nothing(&mesh, &KINDS).await?;
        envoy.running.stop().await?;
    }
    mesh.finish().await
}

/// A CONNECT to an egress gateway, by whoever has the SVID of a directory: what its status is, or what comes from the host.
async fn connect(mesh: &Mesh, gateway: SocketAddr, svid: &Path, url: &str) -> anyhow::Result<Output> {
    let file = |name: &str| svid.join(name).display().to_string();
    let (proxy, chain, key) = (format!("https://{gateway}"), file("svid.pem"), file("key.pem"));
    // Who the gateway is, is not asked here: curl knows names of hosts, and no SPIFFE IDs.
    let words = ["-sS", "--max-time", "10", "--proxytunnel", "--proxy-insecure", "--proxy", &proxy];
    let words = words.into_iter().chain(["--proxy-cert", &chain, "--proxy-key", &key, url]);
    mesh.start_outside("/usr/bin/curl", words)?.output(PATIENCE).await
}

#[tokio::test]
async fn an_egress_gateway_of_envoy_lets_out_whom_policies_name() -> anyhow::Result<()> {
    let Some(address) = outside() else { return Ok(()) };
    let mesh = Mesh::as_nobody().start().await?;
    let (server, other) = (EchoServer::start_on("outside", address).await?, EchoServer::start_on("other", address).await?);
    let url = format!("http://{}/", server.address());
    let listed = format!(
        "hosts: [{address}], ports: [{}], via: {{name: out, namespace: edge}}, callers: [{{account: batch}}]",
        server.address().port()
    );
    mesh.apply(&format!("{GATEWAY}{}", policy("out", &format!("{{allow: [{{{listed}}}]}}")))).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "out.edge", "--bind", "15008=0"]).await? else { return mesh.finish().await };

    let left = eventually("a call leaves through the gateway", PATIENCE, || async {
        let answered = get(&mesh, "batch", &url).await?;
        ensure!(answered.code() == 0 && answered.stdout.contains("\"server\":\"outside\""), "{answered:?}");
        Ok(())
    });
    left.await.with_context(|| mesh.last_words())?;
    assert!(passed(&envoy, "allowed").await? > 0);
    // Whom no policy names is refused by the proxy beside it already.
    let denied = get(&mesh, "web", &url).await?.success()?.stdout;
    assert!(denied.starts_with("HTTP/1.1 403") && denied.contains("x-lorica-reason: egress_denied"), "{denied}");
    assert_eq!(passed(&envoy, "denied").await?, 0);

    // The gateway decides by itself: whoever asks it without such a proxy gets out no more than that.
    let requests = server.requests();
    for (account, host, passes) in
        [("batch", server.address(), true), ("batch", other.address(), false), ("worker", server.address(), false)]
    {
        let directory = mesh.home().join(account);
        let at = directory.to_str().context("not UTF-8")?;
        mesh.lorica(["envoy", "bootstrap", "--namespace", "shop", "--account", account, "--directory", at]).await?.success()?;
        let output = connect(&mesh, envoy.bound(15008)?, &directory, &format!("http://{host}/")).await?;
        if passes {
            assert!(output.stdout.contains("\"server\":\"outside\""), "{account} {host}: {output:?}");
        } else {
            assert!(output.code() != 0 && output.stderr.contains("403"), "{account} {host}: {output:?}");
        }
    }
    assert_eq!((passed(&envoy, "denied").await?, server.requests(), other.requests()), (2, requests + 1, 0));
    let port = server.address().port();
    let mut calls = [format!("batch {}", other.address()), format!("web {address}:{port}"), format!("worker {address}:{port}")];
    calls.sort();
    told(&mesh, &calls.each_ref().map(String::as_str)).await?;
    envoy.refused_nothing(&mesh, &KINDS).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
