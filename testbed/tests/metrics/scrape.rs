//! Pages of metrics, read back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Mesh, http_get, http_send};

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Line {
    /// The value of a label; empty where it is not there.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Reads a page in Prometheus' own form.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Line>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| sample(line).with_context(|| line.to_owned())).collect()
}

fn sample(line: &str) -> anyhow::Result<Line> {
    let (head, value) = line.rsplit_once(' ').context("no value")?;
    let (name, mut rest) = head.split_once('{').unwrap_or((head, "}"));
    let mut labels = BTreeMap::new();
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next().context("a value without an end")? {
                (at, '"') => break at,
                (_, '\\') => text.push(match characters.next().context("an escape without an end")?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        };
        labels.insert(label.trim_start_matches(',').to_owned(), text);
        rest = &quoted[end + 1..];
    }
    anyhow::ensure!(rest == "}", "no end of labels");
    Ok(Line { name: name.to_owned(), labels, value: value.parse()? })
}

/// One page.
pub(crate) async fn page(at: SocketAddr) -> anyhow::Result<Vec<Line>> {
    parse(&http_get(at, "scraper", "/metrics").await?.text())
}

/// One page in OpenMetrics' form.
pub(crate) async fn open_page(at: SocketAddr) -> anyhow::Result<String> {
    let request = Request::get("/metrics").header("host", "scraper").header("accept", "application/openmetrics-text; version=1.0.0");
    Ok(http_send(at, request.body(Full::<Bytes>::default())?).await?.text())
}

/// Where the proxies of a mesh are scraped.
pub(crate) async fn proxies(mesh: &Mesh) -> anyhow::Result<Vec<SocketAddr>> {
    let status = mesh.status().await?;
    let all = status["proxies"].as_array().context("no proxies")?;
    all.iter().map(|proxy| Ok(proxy["metrics"].as_str().with_context(|| proxy.to_string())?.parse()?)).collect()
}

/// Where the control plane serves its telemetry.
pub(crate) async fn telemetry(mesh: &Mesh) -> anyhow::Result<SocketAddr> {
    let status = mesh.status().await?;
    Ok(status["telemetry"].as_str().with_context(|| status.to_string())?.parse()?)
}

/// The samples of one name, over all pages, whose labels are these.
pub(crate) fn sum(lines: &[Line], name: &str, labels: &[(&str, &str)]) -> f64 {
    let is = |line: &&Line| line.name == name && labels.iter().all(|(label, value)| line.label(label) == *value);
    lines.iter().filter(is).map(|line| line.value).sum()
}

/// Sums of one name by some labels.
pub(crate) fn by(lines: &[Line], name: &str, reporter: &str, labels: &[&str]) -> BTreeMap<Vec<String>, f64> {
    let mut sums = BTreeMap::new();
    for line in lines.iter().filter(|line| line.name == name && line.label("reporter") == reporter) {
        *sums.entry(labels.iter().map(|label| line.label(label).to_owned()).collect()).or_default() += line.value;
    }
    sums
}
