//! The agent of a pod proves a service account of Kubernetes, and speaks for that account alone. The cluster is a key of the test's.

use anyhow::{Context as _, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use testbed::{Mesh, PATIENCE};

use super::{Host, path};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Whoever signs the tokens of a cluster.
struct Cluster(EcdsaKeyPair);

impl Cluster {
    fn new() -> anyhow::Result<Self> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
        Ok(Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())?))
    }

    fn keys(&self) -> String {
        let point = self.0.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k", "x": x, "y": y}]}).to_string()
    }

    fn sign(&self, algorithm: &str, claims: &Value) -> anyhow::Result<String> {
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": "k"}).to_string());
        let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The claims of a token for the account `recording` of `contact`, with others in place of some.
fn claims(other: &Value) -> anyhow::Result<Value> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let mut claims =
        json!({"aud": ["lorica"], "iss": ISSUER, "sub": "system:serviceaccount:contact:recording", "exp": now + 3600, "iat": now});
    for (name, value) in other.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    Ok(claims)
}

/// A mesh that believes a cluster, and what its pods need to find and know it: `--xds`, `--root-file` and their values.
async fn mesh(cluster: &Cluster) -> anyhow::Result<(Mesh, Vec<String>)> {
    let options = ["--listen", "127.0.0.1:0", "--kubernetes-issuer", ISSUER, "--kubernetes-keys", "keys.json"];
    let mesh = options.into_iter().fold(Mesh::options(), |mesh, option| mesh.control_option(option)).without_control()?;
    mesh.write("keys.json", cluster.keys())?;
    mesh.start_control().await?;
    let status = mesh.lorica(["ca", "status", "-o", "json"]).await?.json()?;
    let root = mesh.write("root.pem", status["roots"][0]["certificate"].as_str().context("no root")?)?;
    let words = mesh.last_words();
    let address = words.split("hosts join on ").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no address")?;
    let found = ["--xds", address, "--root-file", path(&root)?].map(str::to_owned).into();
    Ok((mesh, found))
}

#[tokio::test]
async fn a_pod_speaks_for_its_service_account_alone_and_proves_it_each_time() -> anyhow::Result<()> {
    let cluster = Cluster::new()?;
    let (mesh, found) = mesh(&cluster).await?;
    let pod = Host::new(&mesh, "pod").await?;
    let good = cluster.sign("ES256", &claims(&json!({}))?)?;
    let file = mesh.write("token", &good)?;
    let mut options: Vec<&str> = found.iter().map(String::as_str).collect();
    options.extend(["--service-account-token-file", path(&file)?]);
    let agent = pod.agent(&mesh, &options)?;
    agent.line("service account recording.contact joined mesh.local").await?;
    let (recording, _port) = pod.serve(&mesh, "recording.contact")?;
    mesh.announced("recording.contact", 1).await?;

    for (service, account) in [("billing.contact", "billing"), ("recording.shop", "recording")] {
        let run = pod.run(&mesh, service).option("--account").option(account).port("80:1/http").no_capture();
        let refused = run.output(["sleep", "infinity"]).await?;
        ensure!(refused.code() != 0, "{}", refused.stderr);
        ensure!(
            refused.stderr.contains(&format!("the caller is recording.contact, and says that it is of {service}")),
            "{}",
            refused.stderr
        );
    }
    // An SVID gets nobody another: what stands in the file now is what counts.
    mesh.write("token", cluster.sign("ES256", &claims(&json!({"exp": 1_700_000_000}))?)?)?;
    let late = pod.run(&mesh, "recording.contact").port("80:1/http").no_capture().output(["sleep", "infinity"]).await?;
    ensure!(late.code() != 0 && late.stderr.contains("the service-account token is refused"), "{}", late.stderr);
    mesh.write("token", &good)?;
    let (again, _port) = pod.serve(&mesh, "recording.contact")?;
    mesh.announced("recording.contact", 2).await?;
    recording.stop().await?;
    again.stop().await?;
    agent.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_token_that_does_not_hold_gets_a_pod_nothing() -> anyhow::Result<()> {
    let (cluster, other) = (Cluster::new()?, Cluster::new()?);
    let (mesh, found) = mesh(&cluster).await?;
    let none = cluster.sign("none", &claims(&json!({}))?)?;
    let unsigned = format!("{}.", none.rsplit_once('.').context("no signature")?.0);
    let (there, here) = ("the service-account token is refused: ", "--service-account-token-file");
    let tokens = [
        ("audience", there, cluster.sign("ES256", &claims(&json!({"aud": ["kubernetes"]}))?)?),
        ("issuer", there, cluster.sign("ES256", &claims(&json!({"iss": "https://elsewhere.example"}))?)?),
        ("end", there, cluster.sign("ES256", &claims(&json!({"exp": 1_700_000_000}))?)?),
        ("key", there, other.sign("ES256", &claims(&json!({}))?)?),
        ("algorithm", here, none),
        ("signature", here, unsigned),
        ("subject", here, cluster.sign("ES256", &claims(&json!({"sub": "recording"}))?)?),
    ];
    for (what, why, token) in tokens {
        let pod = Host::new(&mesh, what).await?;
        let file = mesh.write(&format!("{what}.token"), token)?;
        let mut options: Vec<&str> = found.iter().map(String::as_str).collect();
        options.extend(["--service-account-token-file", path(&file)?]);
        let refused = pod.agent(&mesh, &options)?.output(PATIENCE).await?;
        ensure!(refused.code() == 1 && refused.stderr.contains(why), "{what}: {}", refused.stderr);
    }
    // A control plane of another root is told nothing.
    let stranger = Mesh::start().await?;
    let status = stranger.lorica(["ca", "status", "-o", "json"]).await?.json()?;
    let root = mesh.write("stranger.pem", status["roots"][0]["certificate"].as_str().context("no root")?)?;
    let pod = Host::new(&mesh, "stranger").await?;
    let file = mesh.write("good.token", cluster.sign("ES256", &claims(&json!({}))?)?)?;
    let address = found.get(1).context("no address")?;
    let options = ["--xds", address, "--root-file", path(&root)?, "--service-account-token-file", path(&file)?];
    let refused = pod.agent(&mesh, &options)?.output(PATIENCE).await?;
    ensure!(refused.code() == 1 && refused.stderr.contains("another control plane"), "{}", refused.stderr);
    stranger.finish().await?;
    mesh.finish().await
}
