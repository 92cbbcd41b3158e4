//! The cases and manifests as data.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::certificates::Certificates;

/// A group of tests.
pub(crate) struct Suite {
    folder: PathBuf,
    pub(crate) certificates: Certificates,
    /// In the order of the data.
    pub(crate) tests: Vec<Test>,
}

/// A test.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Test {
    /// `HTTPRouteExactPathMatching`.
    pub(crate) name: String,
    /// The files that it applies.
    #[serde(default)]
    pub(crate) manifests: Vec<String>,
    /// What its code calls things: `gwNN`, `routeNN`; the first value of each.
    #[serde(default)]
    pub(crate) locals: Option<Map<String, Value>>,
    /// Its requests.
    #[serde(default)]
    pub(crate) cases: Option<Vec<Value>>,
    /// Statuses that it waits for.
    #[serde(default)]
    pub(crate) expected_status: Option<Vec<Value>>,
    /// Its checks in order, as Go.
    #[serde(default)]
    pub(crate) helper_calls: Option<Vec<String>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/gateway-api")
}

/// The groups that are at hand besides these.
pub(crate) fn further(known: &[&str]) -> Vec<String> {
    let files = std::fs::read_dir(folder()).into_iter().flatten().flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    let mut groups: Vec<String> = files.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    groups.retain(|name| !known.contains(&name.as_str()));
    groups.sort();
    groups
}

/// The group of this name; none where the data is not at hand.
pub(crate) fn suite(name: &str) -> anyhow::Result<Option<Suite>> {
    let folder = folder();
    let Ok(text) = std::fs::read_to_string(folder.join(format!("{name}.json"))) else { return Ok(None) };
    let tests = serde_json::from_str(&text).with_context(|| name.to_owned())?;
    Ok(Some(Suite { tests, folder, certificates: Certificates::new()? }))
}

impl Suite {
    /// The documents that all tests of the group begin with: gateways, backends, and for a mesh its own.
    pub(crate) fn base(&self) -> anyhow::Result<Vec<Value>> {
        let mut documents = Vec::new();
        for folder in ["base", "mesh"] {
            let files = std::fs::read_dir(self.folder.join("manifests").join(folder)).into_iter().flatten().flatten();
            let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            names.retain(|name| name.ends_with(".yaml"));
            names.sort();
            for name in names {
                documents.extend(self.manifest(&format!("{folder}/{name}"))?);
            }
        }
        Ok(documents)
    }

    /// The documents of a manifest.
    pub(crate) fn manifest(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.join("manifests").join(name)).with_context(|| name.to_owned())?;
        let documents = text
            .replace("{GATEWAY_CLASS_NAME}", "lorica")
            .replace("{GATEWAY_CONTROLLER_NAME}", "lorica.io/gateway")
            // A proxy under test listens on the loopback; TEST-NET-1 is nowhere.
            .replace("PLACEHOLDER_USABLE_ADDRS", "127.0.0.1")
            .replace("PLACEHOLDER_UNUSABLE_ADDRS", "192.0.2.1");
        let one = |document: &str| serde_saphyr::from_str::<Value>(document).with_context(|| format!("{name}: {document}"));
        let documents = documents
            .split("\n---")
            .filter(|document| document.lines().any(|line| !line.trim_start().starts_with('#') && !matches!(line.trim(), "" | "---")));
        documents.map(one).collect()
    }
}

/// What of a manifest is Lorica's to apply: all but what runs programs.
pub(crate) fn resources(documents: &[Value]) -> Vec<Value> {
    let runs = |document: &&Value| {
        matches!(kind(document), "Deployment" | "Pod" | "EndpointSlice" | "ServiceAccount")
            || (kind(document) == "Service" && document["apiVersion"] == "v1")
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

/// Documents as one text: JSON is YAML.
pub(crate) fn text(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("{document}\n---\n")).collect()
}
