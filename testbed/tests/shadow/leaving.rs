//! Policies about what may leave the mesh.

use serde_json::json;
use testbed::{EchoServer, Mesh, Who, can_namespaces, left_out, own_address};

use super::{examples, policy, trial};

#[tokio::test]
async fn what_an_egress_policy_in_a_trial_does_not_list_leaves_all_the_same() -> anyhow::Result<()> {
    let outside = can_namespaces(Who::Nobody).and_then(|()| own_address().ok_or("no address".to_owned()));
    let address = match outside {
        Ok(address) => address,
        Err(why) => {
            left_out(&format!("trials of what leaves the mesh: {why}"));
            return Ok(());
        }
    };
    let mesh = Mesh::as_nobody().start().await?;
    let (listed, other) = (EchoServer::start_on("listed", address).await?, EchoServer::start_on("other", address).await?);
    let spec = format!("{{mode: Shadow, allow: [{{hosts: [{address}], ports: [{}]}}, {{hosts: [api.example]}}]}}", listed.address().port());
    mesh.apply(&policy("EgressPolicy", "out", &spec)).await?;
    let get = async |port: u16, host: &str| {
        let client = mesh.client().option("--namespace").option("shop").option("--account").option("ann");
        let (url, host) = (format!("http://{address}:{port}/"), format!("host: {host}"));
        client.output(["curl", "-sS", "-i", "--max-time", "10", "-H", &host, &url]).await?.success()
    };
    let other_port = other.address().port();
    for (port, host, server) in [
        (listed.address().port(), "evil.example", "listed"),
        (other_port, "api.example", "other"),
        (other_port, "evil.example", "other"),
        (other_port, "evil.example", "other"),
    ] {
        let answer = get(port, host).await?.stdout;
        assert!(answer.contains(&format!("\"server\":\"{server}\"")), "{answer}");
    }
    assert_eq!((listed.requests(), other.requests()), (1, 3));
    let told = trial(&mesh, "out", 4).await?;
    // What the app says by the time that its connection is made may be known or not; the address alone is not listed either.
    let refused = told["would"]["refused"].as_u64().unwrap_or_default();
    assert!((2..=3).contains(&refused), "{told:#}");
    let (caller, called, _) = &examples(&told)[0];
    assert_eq!(caller, "spiffe://mesh.local/ns/shop/sa/ann");
    assert!(called.ends_with(&format!(":{other_port}")), "{told:#}");
    // In force beside it, a policy that lists it is not gainsaid by the trial.
    let all = format!("{{default: Allow, allow: [{{hosts: [{address}]}}]}}");
    mesh.apply(&(policy("EgressPolicy", "all", &all) + &policy("EgressPolicy", "out", "{mode: Shadow}"))).await?;
    assert!(get(other_port, "evil.example").await?.stdout.contains("\"server\":\"other\""));
    let told = trial(&mesh, "out", 1).await?;
    assert_eq!(told["would"], json!({}), "{told:#}");
    mesh.finish().await
}
