//! One control plane and two proxies that do the same: Lorica's and a stock Envoy, as gateways or beside an app. What goes in is resources and
//! requests; what comes out is what became of each request at either proxy, as its client, the backends and the access log saw it.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Envoy, Mesh, PATIENCE, Running, eventually};

use super::backends::{Backends, Seen};
use super::client::{Answer, Asked, Client};

/// Fields of requests that are not compared, each with its reason.
const OWN_IN_REQUESTS: &[(&str, &str)] = &[
    ("x-request-id", "each request has one of its own here, by which the backend's view of it is found: that is the comparison"),
    ("x-forwarded-for", "in place of a loopback client's address Envoy writes its own"),
    ("traceparent", "Lorica begins traces; Envoy does so where it is told whom to send spans to"),
    ("tracestate", "the same"),
    ("x-envoy-", "what Envoy tells its upstreams of itself, and of the time that is left"),
    ("x-lorica-", "the same by Lorica"),
    ("connection", "of the connection, not of the request"),
    ("transfer-encoding", "the same: the bodies are compared"),
    ("content-length", "the same"),
];

/// Fields of answers that are not compared, each with its reason.
const OWN_IN_ANSWERS: &[(&str, &str)] = &[
    ("date", "a clock"),
    ("server", "who answers by itself signs"),
    ("x-envoy-", "what Envoy tells of itself"),
    ("x-lorica-reason", "what Lorica tells of itself"),
    ("connection", "of the connection, not of the answer"),
    ("transfer-encoding", "the same: the bodies are compared"),
    ("content-length", "the same"),
];

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    /// The answer's fields by name; of one name in their order.
    pub(crate) fields: Vec<(String, String)>,
    /// What the backend saw that answered; none for answers of the proxy's own, of whose texts nothing is compared.
    pub(crate) seen: Option<Seen>,
    /// What other backends got: copies.
    pub(crate) copies: Vec<Seen>,
    /// The response flag and the rule, as the access log has them.
    pub(crate) logged: Logged,
}

impl Outcome {
    /// All that it says, line by line, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self { status, fields, seen, copies, logged } = self;
        let mut lines = vec![format!("answer {status}")];
        lines.extend(fields.iter().map(|(name, value)| format!("answer {name}: {value}")));
        for (what, seen) in seen.iter().map(|seen| ("seen", seen)).chain(copies.iter().map(|copy| ("copy", copy))) {
            let Seen { server, method, target, host, fields, body } = seen;
            lines.push(format!("{what} by {server}: {method} {target} host {host:?} body {body:?}"));
            lines.extend(fields.iter().map(|(name, value)| format!("{what} by {server}: {name}: {value}")));
        }
        let Logged { status, flags, rule, method, path, authority } = logged;
        lines.push(format!("logged {status} flags {flags} rule {rule:?}"));
        lines.push(format!("logged {method} {path} host {authority:?}"));
        lines
    }
}

/// What an access log says of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Logged {
    pub(crate) status: u16,
    pub(crate) flags: String,
    pub(crate) rule: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authority: String,
}

/// A request, and what became of it at Lorica's proxy and at Envoy.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) asked: Asked,
    pub(crate) lorica: Outcome,
    pub(crate) envoy: Outcome,
}

/// One of the two proxies.
pub(crate) struct Side {
    client: Client,
    log: Log,
    letter: char,
}

/// Both of them.
pub(crate) struct Pair {
    lorica: Side,
    envoy: Side,
    number: u32,
}

/// A mesh with a gateway that both run.
pub(crate) struct Rig {
    pub(crate) mesh: Mesh,
    pub(crate) backends: Backends,
    pub(crate) envoy: Envoy,
    lorica: Running,
    pub(crate) pair: Pair,
}

/// The Gateway: listeners that overlap, on one port.
pub(crate) const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: lorica
  listeners:
  - {name: any, port: 80, protocol: HTTP}
  - {name: wild, port: 80, protocol: HTTP, hostname: '*.wild.example'}
  - {name: one, port: 80, protocol: HTTP, hostname: one.wild.example}
---
";

impl Rig {
    /// Starts it with these backends; none: there is no Envoy here.
    pub(crate) async fn start(names: &[&str]) -> anyhow::Result<Option<Self>> {
        let mesh = Mesh::start().await?;
        let backends = Backends::start(names).await?;
        mesh.apply(&Self::base(&backends)).await?;
        let options = ["--gateway", "edge.shop", "--bind", "80=0", "--access-log", "envoy.log"];
        let Some(envoy) = Envoy::start(&mesh, &options).await? else {
            mesh.finish().await?;
            return Ok(None);
        };
        let arguments = ["proxy", "--gateway", "edge.shop", "--bind", "80=0", "--workers", "1", "--access-log", "lorica.log"];
        let lorica = mesh.start_binary("a gateway", arguments, Vec::new(), None)?;
        let line = lorica.line("serving: port 80 on ").await?;
        let at: SocketAddr = line.rsplit(" on ").next().unwrap_or_default().parse()?;
        let pair = Pair::new((at, mesh.home().join("lorica.log")), (envoy.bound(80)?, mesh.home().join("envoy.log")));
        Ok(Some(Self { mesh, backends, envoy, lorica, pair }))
    }

    /// What every case stands on: services, the gateway, and a route that leads to all, so that each is known to both proxies, whatever a case
    /// says.
    pub(crate) fn base(backends: &Backends) -> String {
        let all: String = backends.servers.iter().map(|(name, ..)| format!("{{name: {name}, port: 80, weight: 0}}, ")).collect();
        backends.resources() + GATEWAY + &route("all-known", "all-known.invalid", &format!("[{{backendRefs: [{all}]}}]"))
    }

    /// Applies resources and waits until both proxies have them in force.
    pub(crate) async fn apply(&mut self, resources: &str) -> anyhow::Result<()> {
        let first = self.backends.servers[0].0.clone();
        let marker = |rule: &str| route("marker", "marker.invalid", &format!("[{{{rule}, backendRefs: [{{name: {first}, port: 80}}]}}]"));
        self.pair.apply(&self.mesh, resources, "marker.invalid", marker).await
    }

    /// What becomes of requests at both proxies.
    pub(crate) async fn compare(&mut self, requests: &[Asked]) -> anyhow::Result<Vec<Compared>> {
        self.pair.compare(&self.backends, requests).await
    }

    /// Ends all of it.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.envoy.refused_nothing(&self.mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
        self.envoy.running.stop().await?;
        self.lorica.stop().await?;
        self.mesh.finish().await
    }
}

impl Pair {
    /// Two proxies, each by where it is asked and where it logs.
    pub(crate) fn new((lorica, lorica_log): (SocketAddr, PathBuf), (envoy, envoy_log): (SocketAddr, PathBuf)) -> Self {
        let side = |at, log, letter| Side { client: Client::new(at), log: Log::new(log), letter };
        Self { lorica: side(lorica, lorica_log, 'l'), envoy: side(envoy, envoy_log, 'e'), number: 0 }
    }

    /// Applies resources and, with them, a route made by `marker` of matches and filters; waits until both proxies answer by it.
    pub(crate) async fn apply(&mut self, mesh: &Mesh, resources: &str, host: &str, marker: impl Fn(&str) -> String) -> anyhow::Result<()> {
        self.number += 1;
        let mark = self.number.to_string();
        let path = format!("/marker/{mark}");
        let filter = format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-marker, value: '{mark}'}}]}}}}");
        let rule = format!("matches: [{{path: {{type: Exact, value: {path}}}}}], filters: [{filter}]");
        let text = format!("{resources}---\n{}", marker(&rule));
        mesh.lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&text)).await?.success()?;
        let marked = asked("GET", &path, host);
        for side in [&mut self.lorica, &mut self.envoy] {
            let client = tokio::sync::Mutex::new(&mut side.client);
            eventually("the change is in force", PATIENCE, || async {
                let answer = client.lock().await.send(&marked, "marker").await?;
                // Before it is in force, a rule for any host may take it.
                ensure!(answer.fields.contains(&("x-marker".to_owned(), mark.clone())), "{answer:?}");
                Ok(())
            })
            .await
            .with_context(|| mesh.last_words())?;
        }
        Ok(())
    }

    /// Where Lorica's proxy and Envoy are asked.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [self.lorica.client.address(), self.envoy.client.address()]
    }

    /// Sends a request to both. The answers, and the ids under which backends have seen it.
    pub(crate) async fn send(&mut self, asked: &Asked, name: &str) -> anyhow::Result<[(Answer, String); 2]> {
        let id = |side: &Side| format!("{name}-{}", side.letter);
        let (lorica_id, envoy_id) = (id(&self.lorica), id(&self.envoy));
        let (lorica, envoy) = tokio::join!(self.lorica.client.send(asked, &lorica_id), self.envoy.client.send(asked, &envoy_id));
        Ok([(lorica.context("Lorica")?, lorica_id), (envoy.context("Envoy")?, envoy_id)])
    }

    /// What becomes of requests at both proxies.
    pub(crate) async fn compare(&mut self, backends: &Backends, requests: &[Asked]) -> anyhow::Result<Vec<Compared>> {
        backends.forget();
        self.number += 1;
        let number = self.number;
        let mut answers = Vec::new();
        for (index, asked) in requests.iter().enumerate() {
            answers.push((asked, self.send(asked, &format!("case-{number}-{index}")).await?));
        }
        let logs = [self.lorica.logged(number).await?, self.envoy.logged(number).await?];
        let mut compared = Vec::new();
        for (asked, answers) in answers {
            let ids = answers.each_ref().map(|(_, id)| id.clone());
            // A copy may arrive after the answer. That it never does is told by the comparison.
            let same_answer = answers[0].0.status == answers[1].0.status;
            let settled = eventually("both proxies have sent their copies", SETTLED, || async {
                ensure!(!same_answer || backends.seen(&ids[0]).len() == backends.seen(&ids[1]).len());
                Ok(())
            });
            drop(settled.await);
            let mut outcomes = answers
                .into_iter()
                .zip(&logs)
                .map(|((answer, id), log)| outcome(answer, backends.seen(&id), log.get(&id).cloned().unwrap_or_default()));
            let (lorica, envoy) = outcomes.next().zip(outcomes.next()).context("two proxies")?;
            compared.push(Compared { asked: asked.clone(), lorica, envoy });
        }
        Ok(compared)
    }
}

/// How long a copy may take.
const SETTLED: Duration = Duration::from_secs(2);

/// An HTTPRoute of the gateway's for one host; `rules`: as JSON.
pub(crate) fn route(name: &str, host: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{parentRefs: [{{name: edge}}], hostnames: [{host}], rules: {rules}}}\n---\n"
    )
}

/// A plain request.
pub(crate) fn asked(method: &str, target: &str, host: &str) -> Asked {
    Asked {
        method: method.to_owned(),
        target: target.to_owned(),
        host: Some(host.to_owned()),
        fields: Vec::new(),
        body: String::new(),
        grpc: false,
    }
}

fn outcome(answer: Answer, mut seen: Vec<Seen>, logged: Logged) -> Outcome {
    let by = answer.fields.iter().find(|(name, _)| name == "x-answered-by").map(|(_, server)| server.clone());
    for one in &mut seen {
        one.fields = compared(&one.fields, OWN_IN_REQUESTS);
    }
    let at = by.and_then(|server| seen.iter().position(|one| one.server == server));
    let answered = at.map(|at| seen.remove(at));
    seen.sort();
    let mut fields = compared(&answer.fields, OWN_IN_ANSWERS);
    if answered.is_none() {
        // Of an answer of its own each says the text in its own words.
        fields.retain(|(name, _)| !matches!(name.as_str(), "content-type" | "grpc-message"));
    }
    Outcome { status: answer.status, fields, seen: answered, copies: seen, logged }
}

/// The fields that are compared, ordered by name. Several of one name are one list (RFC 9110, 5.3), however many lines it takes; cookies are
/// none.
fn compared(fields: &[(String, String)], left_out: &[(&str, &str)]) -> Vec<(String, String)> {
    let is_own = |name: &str| left_out.iter().any(|(own, _)| name == *own || (own.ends_with('-') && name.starts_with(own)));
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !is_own(name)) {
        match found.iter_mut().find(|(known, _)| known == name && name != "set-cookie") {
            Some((_, list)) => *list = format!("{list},{value}"),
            None => found.push((name.clone(), value.clone())),
        }
    }
    // A list of nothing allows nothing.
    found.retain(|(name, value)| !(name.starts_with("access-control-") && value.is_empty()));
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

impl Side {
    /// What the log says of each request of a case, by its id.
    async fn logged(&mut self, number: u32) -> anyhow::Result<BTreeMap<String, Logged>> {
        // Lorica's proxy hands lines over once it has 126 KiB of them, or after a second: some long lines save the second.
        let (id, long) = (format!("flush-{number}-{}", self.letter), format!("/{}", "x".repeat(31 * 1024)));
        for _ in 0..5 {
            self.client.send(&asked("GET", &long, "flush.invalid"), &id).await?;
        }
        let log = std::cell::RefCell::new(&mut self.log);
        let found = std::cell::RefCell::new(BTreeMap::new());
        eventually("the log is written", PATIENCE, || async {
            let mut found = found.borrow_mut();
            log.borrow_mut().read(&mut found)?;
            ensure!(found.contains_key(&id), "no line of {id}");
            Ok(())
        })
        .await?;
        Ok(found.into_inner())
    }
}

/// An access log that is read as it grows.
struct Log {
    path: PathBuf,
    read: u64,
    rest: String,
}

impl Log {
    fn new(path: PathBuf) -> Self {
        Self { path, read: 0, rest: String::new() }
    }

    /// Reads what is new, each line under its request's id.
    fn read(&mut self, into: &mut BTreeMap<String, Logged>) -> anyhow::Result<()> {
        let mut file = std::fs::File::open(&self.path)?;
        if file.metadata()?.len() < self.read {
            // A long log was moved away; the end of it first.
            let mut before = std::fs::File::open(self.path.with_extension("log.1"))?;
            before.seek(SeekFrom::Start(self.read))?;
            before.read_to_string(&mut self.rest)?;
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.read_to_string(&mut self.rest)? as u64;
        let whole = self.rest.rfind('\n').map_or(0, |at| at + 1);
        for line in self.rest.drain(..whole).collect::<String>().lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let logged = Logged {
                status: line["response_code"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or_default(),
                flags: text("response_flags"),
                rule: text("route_name"),
                method: text("method"),
                path: text("path"),
                authority: text("authority"),
            };
            into.insert(text("request_id"), logged);
        }
        Ok(())
    }
}
