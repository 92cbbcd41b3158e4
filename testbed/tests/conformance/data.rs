//! The cases and manifests as data.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

/// A group of tests.
pub(crate) struct Suite {
    folder: PathBuf,
    /// What every HTTPS listener shows.
    pub(crate) certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
    /// In the order of the data.
    pub(crate) tests: Vec<Test>,
}

/// A test.
#[derive(serde::Deserialize)]
pub(crate) struct Test {
    /// `HTTPRouteExactPathMatching`.
    pub(crate) name: String,
    /// The files that it applies.
    #[serde(default)]
    pub(crate) manifests: Vec<String>,
    /// Names that its code uses: `gwNN`, `routeNN`.
    #[serde(default)]
    pub(crate) locals: Value,
    /// Its requests.
    #[serde(default)]
    pub(crate) cases: Vec<Value>,
    /// Statuses that it waits for.
    #[serde(default)]
    pub(crate) expected_status: Option<Vec<Value>>,
}

/// The group of this name; none where the data is not at hand.
pub(crate) fn suite(name: &str) -> anyhow::Result<Option<Suite>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/gateway-api");
    let Ok(text) = std::fs::read_to_string(folder.join(format!("{name}.json"))) else { return Ok(None) };
    let hosts = ["example.org", "unknown-example.org", "*.example.org", "second-example.org", "*.wildcard.org", "wildcard.org"];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(hosts.map(str::to_owned))?;
    let tests = serde_json::from_str(&text).with_context(|| name.to_owned())?;
    Ok(Some(Suite { tests, folder, certificate: cert, key: signing_key }))
}

impl Suite {
    /// The documents of a manifest.
    pub(crate) fn manifest(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.join("manifests").join(name)).with_context(|| name.to_owned())?;
        let documents = text.replace("{GATEWAY_CLASS_NAME}", "lorica");
        let one = |document: &str| serde_saphyr::from_str::<Value>(document).with_context(|| format!("{name}: {document}"));
        let documents = documents
            .split("\n---")
            .filter(|document| document.lines().any(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()));
        documents.map(one).collect()
    }

    /// The certificates that the suite's own code makes before it begins.
    pub(crate) fn secrets(&self) -> Vec<Value> {
        let secret = |(name, namespace): (&str, &str)| {
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": name, "namespace": namespace },
                "type": "kubernetes.io/tls",
                "stringData": { "tls.crt": self.certificate.pem(), "tls.key": self.key.serialize_pem() },
            })
        };
        let names = [("tls-validity-checks-certificate", "gateway-conformance-infra"), ("certificate", "gateway-conformance-web-backend")];
        names.map(secret).into()
    }
}

/// What of a manifest is Lorica's to apply: all but what runs programs.
pub(crate) fn resources(documents: &[Value]) -> Vec<Value> {
    let runs = |document: &&Value| {
        matches!(kind(document), "Deployment" | "Pod" | "EndpointSlice") || (kind(document) == "Service" && document["apiVersion"] == "v1")
    };
    documents.iter().filter(|document| !runs(document)).cloned().collect()
}

/// A document's kind.
pub(crate) fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or_default()
}

/// A document's name in its namespace: `name`, `namespace`.
pub(crate) fn named(document: &Value) -> (String, String) {
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or("default").to_owned();
    (text("name"), text("namespace"))
}
