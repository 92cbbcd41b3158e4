//! The same policy at Lorica's gateway and at Envoy's: their lines say the same.

use serde_json::{Value, json};
use testbed::{EchoServer, Envoy, Mesh, PATIENCE, eventually};

use super::{ISTIO, ask, edge, gateway, in_quotes, logged, policy};

/// The words of a line in Istio's format: those in quotes or brackets are one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut within) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        match letter {
            '"' => within = !within,
            ' ' if !within => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
}

/// A word with what chance decides made alike: times, and ports that the kernel chose.
fn without_chance(at: usize, word: &str, own: &str) -> String {
    match at {
        // The time, how long it took, how long the callee took: written, and no more is to be said.
        0 => word.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect(),
        8 => "as many bytes as came".to_owned(),
        9 | 10 => word.parse::<u64>().map_or_else(|_| word.to_owned(), |_| "a time".to_owned()),
        // An Envoy's own addition for the callee stands in the field already; a log of Lorica's has what came.
        11 => "forwarded".to_owned(),
        // An Envoy's clusters are service ports.
        16 => word.trim_end_matches(":80").to_owned(),
        17 | 19 => word.rsplit_once(':').map_or_else(|| word.to_owned(), |(address, _)| address.to_owned()),
        18 => word.replace(own, "the gateway"),
        _ => word.to_owned(),
    }
}

#[tokio::test]
async fn istios_format_says_the_same_at_lorica_and_at_envoy() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let web = EchoServer::start("web").await?;
    let told = policy(&format!("{{targetRefs: [{{kind: Gateway, name: edge}}], accessLog: {{format: {{text: {}}}}}}}", in_quotes(ISTIO)));
    mesh.apply(&(edge(web.address()) + &told)).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0", "--access-log", "envoy.log"]).await? else {
        return mesh.finish().await;
    };
    let (lorica, at) = gateway(&mesh, &["--access-log", "lorica.log"]).await?;
    let places = [(envoy.bound(80)?, "envoy.log"), (at, "lorica.log")];
    // What was asked before the gateway had its routes is another story.
    for (at, _) in places {
        eventually("the gateway answers", PATIENCE, || async {
            anyhow::ensure!(ask(at, "/warm", &[]).await?.status == 200);
            Ok(())
        })
        .await?;
    }
    for (path, id, fields) in [
        ("/x?y=z", "plain-request", &[("user-agent", "test/1")][..]),
        ("/no-agent", "no-agent-request", &[]),
        ("/odd%20path", "odd-agent-request", &[("user-agent", "a b  c")]),
    ] {
        let mut lines = Vec::new();
        for (at, log) in places {
            let fields: Vec<(&str, &str)> = fields.iter().copied().chain([("x-request-id", id)]).collect();
            let reply = ask(at, path, &fields).await?;
            assert_eq!(reply.status, 200);
            let line = logged(&mesh.home().join(log), id).await?;
            let own = at.to_string();
            // The service shows what it was asked, which each proxy adds something of its own to.
            assert_eq!(words(&line)[8], reply.text().len().to_string(), "{line}");
            lines.push(words(&line).iter().enumerate().map(|(at, word)| without_chance(at, word, &own)).collect::<Vec<_>>());
        }
        // The rule's name has three words.
        assert_eq!(lines[0].len(), 24, "{lines:?}");
        assert_eq!(lines[0], lines[1], "Envoy's line, and Lorica's");
    }
    envoy.refused_nothing(&mesh, &["listener_manager.lds."]).await?;
    envoy.running.stop().await?;
    lorica.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn objects_and_conditions_are_the_same_at_both_and_change_while_they_run() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let web = EchoServer::start("web").await?;
    let fields = "{code: '%RESPONSE_CODE%', sent: '%BYTES_SENT%', flags: '%RESPONSE_FLAGS%', none: '%REQ(X-NONE)%', tier: '%REQ(X-TIER?X-RANK):3%',
        path: '%REQ_WITHOUT_QUERY(:PATH)%', mixed: '%PROTOCOL% %REQ(X-NONE)%', route: '%ROUTE_NAME%', id: '%REQ(X-REQUEST-ID)%', attempts: '%UPSTREAM_REQUEST_ATTEMPT_COUNT%',
        cel: '%CEL(request.method)%', status: '%GRPC_STATUS_NUMBER%', deep: {list: ['%RESPONSE_CODE%', fixed]}, seconds: '%START_TIME(%Y-%m)%'}";
    let told = |when: &str| {
        policy(&format!(
            "{{targetRefs: [{{kind: Gateway, name: edge}}], tracing: {{sampling: 0.5%}}, accessLog: {{format: {{json: {fields}}}, when: \"{when}\"}}}}"
        ))
    };
    let gold = "request.headers['x-tier'] == 'golden' && response.code == 200 && request.duration < duration('1h') && response.flags == 0 \
                && upstream.request_attempt_count == 1 && xds.route_name != ''";
    mesh.apply(&(edge(web.address()) + &told(gold))).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0", "--access-log", "envoy.log"]).await? else {
        return mesh.finish().await;
    };
    let (lorica, at) = gateway(&mesh, &["--access-log", "lorica.log"]).await?;
    let places = [(envoy.bound(80)?, "envoy.log"), (at, "lorica.log")];
    let read = |log: &'static str| mesh.home().join(log);
    for (at, log) in places {
        eventually("the gateway answers", PATIENCE, || async {
            anyhow::ensure!(ask(at, "/warm", &[]).await?.status == 200);
            Ok(())
        })
        .await?;
        // Lines come in the order of exchanges: the second says that the first has none.
        ask(at, "/a?b", &[("x-request-id", "not-logged"), ("x-tier", "silver")]).await?;
        ask(at, "/a?b", &[("x-request-id", "is-logged"), ("x-tier", "golden")]).await?;
        let line: Value = serde_json::from_str(&logged(&read(log), "is-logged").await?)?;
        let sent = line["sent"].as_u64().unwrap();
        let month = line["seconds"].as_str().unwrap().to_owned();
        assert!(sent > 0 && month.len() == 7, "{line}");
        let expected = json!({
            "code": 200, "sent": sent, "flags": "-", "none": null, "tier": "gol", "path": "/a", "mixed": "HTTP/1.1 -",
            "route": "HTTPRoute/all.shop rule 0", "id": "is-logged", "attempts": 1, "cel": "GET", "status": null,
            "deep": {"list": [200, "fixed"]}, "seconds": month,
        });
        assert_eq!(line, expected, "{log}");
        let text = std::fs::read_to_string(read(log))?;
        assert!(!text.contains("not-logged") && !text.contains("/warm"), "{log}: {text}");
    }

    // Another condition, with no restart.
    let receipt = mesh.apply(&told("request.headers['x-tier'] == 'silver'")).await?;
    assert!(receipt.stdout.contains("applied: 2 of 2"), "{}{}", receipt.stdout, receipt.stderr);
    for (at, log) in places {
        eventually("the new condition holds", PATIENCE, || async {
            ask(at, "/a", &[("x-request-id", "silver-now"), ("x-tier", "silver")]).await?;
            anyhow::ensure!(std::fs::read_to_string(read(log))?.contains("silver-now"));
            Ok(())
        })
        .await?;
    }
    let shown = mesh.lorica(["get", "telemetry", "-n", "shop"]).await?.success()?.stdout;
    assert!(shown.contains("Gateway edge") && shown.contains("0.5%") && shown.contains("x-tier"), "{shown}");
    envoy.refused_nothing(&mesh, &["listener_manager.lds."]).await?;
    envoy.running.stop().await?;
    lorica.stop().await?;
    mesh.finish().await
}
