//! Inside the mesh: an Envoy and a Lorica proxy beside an app each call the same service, by routes of its producer and of the callers' namespace,
//! by the versions of the service, and as `lorica split` says.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::ensure;
use testbed::{Envoy, Mesh, PATIENCE, Port, Running, eventually};

use super::backends::Backends;
use super::client::Asked;
use super::deliberate::differences;
use super::rig::{Pair, asked};

/// An Envoy and a Lorica proxy in one namespace, which both call `web.shop`.
struct Callers {
    pair: Pair,
    envoy: Envoy,
    lorica: Running,
    namespace: &'static str,
    _ports: [Port; 2],
}

impl Callers {
    async fn start(mesh: &Mesh, namespace: &'static str) -> anyhow::Result<Option<Self>> {
        let ports = [Port::free()?, Port::free()?];
        let [lorica, envoy]: [SocketAddr; 2] = ports.each_ref().map(Port::address);
        let log = |name: &str| -> PathBuf { mesh.home().join(format!("{name}-{namespace}.log")) };
        let (lorica_log, envoy_log) = (log("lorica"), log("envoy"));
        let upstream = format!("web.shop:80={envoy}");
        let log = envoy_log.display().to_string();
        let Some(started) = Envoy::start(mesh, &["--namespace", namespace, "--upstream", &upstream, "--access-log", &log]).await? else {
            return Ok(None);
        };
        let client = mesh.client().upstream(&format!("web.shop:80={lorica}")).option("--namespace").option(namespace);
        let client = client.option("--access-log").option(lorica_log.display().to_string()).start(["sleep", "600"])?;
        let pair = Pair::new((lorica, lorica_log), (envoy, envoy_log));
        Ok(Some(Self { pair, envoy: started, lorica: client, namespace, _ports: ports }))
    }

    /// Applies routes of this namespace, and waits until both callers have them.
    async fn apply(&mut self, mesh: &Mesh, text: &str) -> anyhow::Result<()> {
        let namespace = self.namespace;
        let backend = "backendRefs: [{name: v1, port: 80, namespace: shop}]";
        let marker = |rule: &str| route(namespace, "marker", &format!("[{{{rule}, {backend}}}]"));
        self.pair.apply(mesh, text, "web.shop", marker).await
    }

    async fn check(&mut self, backends: &Backends, requests: &[Asked]) -> anyhow::Result<()> {
        let compared = self.pair.compare(backends, requests).await?;
        let found = differences(&compared);
        ensure!(found.is_empty(), "from {}: {} of {} requests differ:\n{}", self.namespace, found.len(), compared.len(), found.join("\n"));
        Ok(())
    }
}

/// A route on `web.shop`.
fn route(namespace: &str, name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{{kind: Service, name: web, namespace: shop}}], rules: {rules}}}\n---\n"
    )
}

/// `web.shop` with its workloads of two versions, a Service for each version, and another service.
fn services(backends: &Backends) -> String {
    let service = |name: &str, spec: &str| {
        format!("apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n---\n")
    };
    let port = "ports: [{port: 80, appProtocol: http}]";
    let mut text = service("web", port)
        + &service("other", port)
        + &service("v1", "subset: {of: web, version: v1}")
        + &service("v2", "subset: {of: web, version: v2}");
    for (name, at, _) in &backends.servers {
        let of = if name == "other" { "service: other".to_owned() } else { format!("service: web, version: {name}") };
        text += &format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: {name}-1, namespace: shop}}\nspec: {{{of}, address: {}, ports: [{{servicePort: 80, port: {}}}], transport: Plaintext}}\n---\n",
            at.ip(),
            at.port()
        );
    }
    text
}

fn requests() -> Vec<Asked> {
    let hosts = ["web.shop", "web", "anything.example", "web.shop:80"];
    let paths = ["/v1/x", "/v2", "/v2/", "/changed/x?y=z", "/copied", "/moved/x", "/nowhere", "/v1x", "/own/x", "//v2", "/v2/../v1"];
    let mut all: Vec<Asked> = paths.iter().flat_map(|path| hosts.map(|host| asked("GET", path, host))).collect();
    all.push(Asked { fields: vec![("x-version".to_owned(), "2".to_owned())], ..asked("GET", "/", "web.shop") });
    all.push(Asked { body: "a body".to_owned(), ..asked("POST", "/changed", "web.shop") });
    all
}

const PRODUCER: &str = "[{matches: [{path: {value: /v1}}], backendRefs: [{name: v1, port: 80}]},
  {matches: [{path: {value: /v2}}, {headers: [{name: x-version, value: '2'}]}], backendRefs: [{name: v2, port: 80}]},
  {matches: [{path: {value: /changed}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: s}]}}], backendRefs: [{name: v1, port: 80}]},
  {matches: [{path: {value: /copied}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}}}], backendRefs: [{name: v2, port: 80}]},
  {matches: [{path: {value: /moved}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.shop, statusCode: 301}}]},
  {matches: [{path: {value: /nowhere}}], backendRefs: [{name: gone, port: 80}]},
  {matches: [{path: {value: /own}}], backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 1}]}]";

const CONSUMER: &str = "[{matches: [{path: {value: /v1}}], backendRefs: [{name: v2, port: 80, namespace: shop}]},
  {matches: [{path: {value: /own}}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: consumer}]}}], backendRefs: [{name: other, port: 80, namespace: shop}]}]";

pub(crate) async fn run() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let backends = Backends::start(&["v1", "v2", "other"]).await?;
    // A route leads to all, so that both proxies know each from the beginning on.
    let known = route(
        "shop",
        "known",
        "[{matches: [{path: {type: Exact, value: /known}}], backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 0}, {name: other, port: 80, weight: 0}]}]",
    );
    mesh.apply(&(services(&backends) + &known)).await?;
    let Some(mut own) = Callers::start(&mesh, "shop").await? else { return mesh.finish().await };
    let Some(mut others) = Callers::start(&mesh, "client").await? else { return mesh.finish().await };

    own.apply(&mesh, &route("shop", "producer", PRODUCER)).await?;
    own.check(&backends, &requests()).await?;
    // Callers of another namespace have the producer's routes, until there are some of their own.
    let there = || asked("GET", "/v2", "web.shop");
    for side in 0..2 {
        let pair = tokio::sync::Mutex::new(&mut others.pair);
        eventually("the producer's routes hold there, too", PATIENCE, || async {
            let answers = pair.lock().await.send(&there(), "there").await?;
            let by = |name: &str| answers[side].0.fields.iter().any(|(field, value)| field == "x-answered-by" && value == name);
            ensure!(by("v2"), "{:?}", answers[side].0);
            Ok(())
        })
        .await?;
    }
    others.check(&backends, &requests()).await?;
    others.apply(&mesh, &route("client", "consumer", CONSUMER)).await?;
    others.check(&backends, &requests()).await?;
    own.check(&backends, &requests()).await?;

    // The producer's callers by a split, all of it to one version, then to the other.
    mesh.lorica(["delete", "httproute", "producer", "-n", "shop"]).await?.success()?;
    for (shares, version) in [(["v1=0", "v2=100"], "v2"), (["v1=100", "v2=0"], "v1")] {
        mesh.lorica(["split", "web.shop"].into_iter().chain(shares)).await?.success()?;
        own.apply(&mesh, "").await?;
        let requests = [asked("GET", "/any", "web.shop"), asked("GET", "/", "web.shop")];
        for one in own.pair.compare(&backends, &requests).await? {
            let by = |outcome: &super::rig::Outcome| outcome.seen.as_ref().map(|seen| seen.server.clone());
            ensure!((by(&one.lorica), by(&one.envoy)) == (Some(version.to_owned()), Some(version.to_owned())), "{shares:?}: {one:?}");
        }
        own.check(&backends, &requests).await?;
    }
    for callers in [own, others] {
        callers.envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
        callers.envoy.running.stop().await?;
        callers.lorica.stop().await?;
    }
    mesh.finish().await
}
