//! Routes inside the mesh, between real sidecars: who calls which service port decides, not the host that a request names.

use std::net::SocketAddr;

use anyhow::Context as _;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use testbed::{Connection, Mesh, PATIENCE, Port, Reply, Running, eventually, http_send};
use tokio::net::TcpListener;

use super::super::data::text;
use super::super::echo::{Log, Pod, Told, serve_http};
use super::super::traffic::{call, fits};
use super::{GROUP, status};

/// Two versions of a service, each under a sidecar of its own, with a name for both and one for each; and who calls them.
struct Echo {
    mesh: Mesh,
    log: Log,
    running: Vec<Running>,
    _ports: Vec<Port>,
}

const PORTS: [u16; 3] = [80, 8080, 7070];

impl Echo {
    async fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::options().start().await?;
        let service = |name: &str, spec: &Value| json!({ "apiVersion": "lorica.io/v1alpha1", "kind": "Service", "metadata": { "name": name, "namespace": "own" }, "spec": spec });
        let ports = json!({ "ports": [
            { "port": 80, "appProtocol": "http" }, { "port": 8080, "appProtocol": "http" }, { "port": 7070, "appProtocol": "grpc" },
        ] });
        let version = |version: &str| json!({ "subset": { "of": "echo", "version": version } });
        let services = [service("echo", &ports), service("echo-v1", &version("v1")), service("echo-v2", &version("v2"))];
        mesh.apply(&text(&services)).await?;
        let mut started = Self { mesh, log: Log::default(), running: Vec::new(), _ports: Vec::new() };
        for version in ["v1", "v2"] {
            let mut workload = started.mesh.service("echo.own").no_capture().option("--version-label").option(version);
            for port in PORTS {
                // The server is the test's own; its sidecar is as real as any.
                let local = Port::free()?;
                let listener = TcpListener::bind(local.address()).await?;
                let pod = Pod { name: format!("echo-{version}"), namespace: "own".to_owned(), log: started.log.clone() };
                tokio::spawn(serve_http(listener, None, pod));
                let protocol = if port == 7070 { "grpc" } else { "http" };
                workload = workload.port(&format!("{port}:{}/{protocol}", local.number()));
                started._ports.push(local);
            }
            started.running.push(workload.start(["sleep", "600"])?);
        }
        started.mesh.announced("echo.own", 2).await?;
        Ok(started)
    }

    /// A caller in a namespace: where each of these service ports (`echo:80`) is for it.
    async fn caller<const N: usize>(&mut self, namespace: &str, targets: [&str; N]) -> anyhow::Result<[SocketAddr; N]> {
        let mut caller = self.mesh.client().option("--namespace").option(namespace);
        let mut places = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
        for (place, target) in places.iter_mut().zip(targets) {
            let local = Port::free()?;
            let (name, port) = target.split_once(':').context("NAME:PORT")?;
            caller = caller.upstream(&format!("{name}.own:{port}={}", local.address()));
            *place = local.address();
            self._ports.push(local);
        }
        self.running.push(caller.start(["sleep", "600"])?);
        for place in places {
            eventually("the caller's listener", PATIENCE, || Connection::open(place)).await?;
        }
        Ok(places)
    }

    async fn apply(&self, documents: &[Value]) -> anyhow::Result<()> {
        super::apply(&self.mesh, documents).await
    }

    async fn finish(self) -> anyhow::Result<()> {
        for running in self.running {
            running.stop().await?;
        }
        self.mesh.finish().await
    }
}

fn parent(name: &str, port: Option<u16>) -> Value {
    let mut parent = json!({ "group": "", "kind": "Service", "name": name, "namespace": "own" });
    if let Some(port) = port {
        parent["port"] = port.into();
    }
    parent
}

fn route(kind: &str, name: &str, namespace: &str, parent: &Value, rules: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": { "name": name, "namespace": namespace },
        "spec": { "parentRefs": [parent], "rules": rules },
    })
}

fn to(name: &str) -> Value {
    json!([{ "name": name, "namespace": "own", "port": 80 }])
}

fn marked(value: &str) -> Value {
    json!([{ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": [{ "name": "X-Header-Set", "value": value }] } }])
}

async fn get(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<Reply> {
    http_send(address, Request::get(path).header("host", host).body(Full::default())?).await
}

fn server(told: &Value) -> String {
    told["pod"].as_str().unwrap_or_default().trim_end_matches("-0").to_owned()
}

/// Who answers, once it is this one.
async fn answered_by(address: SocketAddr, path: &str, expected: &str) -> anyhow::Result<Reply> {
    eventually(&format!("{expected} answers {path}"), PATIENCE, || async {
        let reply = get(address, "echo", path).await?;
        anyhow::ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
        let found = server(&reply.json()?);
        anyhow::ensure!(found == expected, "{found} answered");
        Ok(reply)
    })
    .await
}

#[tokio::test]
async fn a_route_holds_for_the_service_and_port_that_is_called() -> anyhow::Result<()> {
    let mut echo = Echo::start().await?;
    let split = json!([
        { "matches": [{ "path": { "value": "/v1" } }], "backendRefs": to("echo-v1") },
        { "matches": [{ "path": { "value": "/v2" } }, { "headers": [{ "name": "version", "value": "two" }] }, { "queryParams": [{ "name": "v", "value": "2" }] }], "backendRefs": to("echo-v2") },
    ]);
    echo.apply(&[
        route("HTTPRoute", "split", "own", &parent("echo", None), &split),
        route(
            "HTTPRoute",
            "one-port",
            "own",
            &parent("echo-v1", Some(80)),
            &json!([{ "filters": marked("v1"), "backendRefs": to("echo-v1") }]),
        ),
        route(
            "HTTPRoute",
            "all-ports",
            "own",
            &parent("echo-v2", None),
            &json!([{ "filters": marked("v2"), "backendRefs": to("echo-v2") }]),
        ),
    ])
    .await?;
    let [both, both_alt, v1, v1_alt, v2, v2_alt] =
        echo.caller("own", ["echo:80", "echo:8080", "echo-v1:80", "echo-v1:8080", "echo-v2:80", "echo-v2:8080"]).await?;
    for at in [both, both_alt] {
        answered_by(at, "/v1/x", "echo-v1").await?;
        answered_by(at, "/v2", "echo-v2").await?;
        answered_by(at, "/?v=2", "echo-v2").await?;
        let missed = get(at, "echo", "/").await?;
        assert_eq!(
            (missed.status.as_u16(), missed.header("x-lorica-reason")),
            (404, Some("no_route")),
            "a route replaces what would go without"
        );
    }
    for (at, service, mark) in
        [(v1, "echo-v1", Some("v1")), (v1_alt, "echo-v1", None), (v2, "echo-v2", Some("v2")), (v2_alt, "echo-v2", Some("v2"))]
    {
        let reply = answered_by(at, "/", service).await?;
        assert_eq!(reply.header("x-header-set"), mark, "{service} {at}");
    }
    // The address decides, not the host (MeshClusterIPMatching): each call goes where it was sent.
    let wrong = get(v2, "echo-v1", "/").await?;
    assert_eq!((server(&wrong.json()?).as_str(), wrong.header("x-header-set")), ("echo-v2", Some("v2")));
    let right = get(v1_alt, "echo-v2", "/").await?;
    assert_eq!((server(&right.json()?).as_str(), right.header("x-header-set")), ("echo-v1", None));

    let told = status(&echo.mesh, "HTTPRoute", "one-port", "own").await?;
    assert_eq!(told["parents"][0]["parentRef"], parent("echo-v1", Some(80)));
    for condition in super::super::status::list(&told["parents"][0]["conditions"]) {
        assert_eq!(condition["status"], "True", "{condition}");
    }
    echo.finish().await
}

#[tokio::test]
async fn a_consumers_route_holds_for_its_own_namespace() -> anyhow::Result<()> {
    let mut echo = Echo::start().await?;
    // It leads into another namespace without a grant: whoever is in the mesh may call that service anyway (GEP-1294).
    let consumer = route(
        "HTTPRoute",
        "consumer",
        "consumer",
        &parent("echo-v1", None),
        &json!([{ "filters": marked("set"), "backendRefs": to("echo-v1") }]),
    );
    echo.apply(&[consumer]).await?;
    let [own] = echo.caller("own", ["echo-v1:80"]).await?;
    let [consumer] = echo.caller("consumer", ["echo-v1:80"]).await?;
    assert_eq!(answered_by(consumer, "/", "echo-v1").await?.header("x-header-set"), Some("set"));
    assert_eq!(answered_by(own, "/", "echo-v1").await?.header("x-header-set"), None);
    // The producer's holds for all but those with routes of their own.
    let producer = route(
        "HTTPRoute",
        "producer",
        "own",
        &parent("echo-v1", None),
        &json!([{ "filters": marked("own"), "backendRefs": to("echo-v1") }]),
    );
    echo.apply(&[producer]).await?;
    for (at, mark) in [(own, "own"), (consumer, "set")] {
        eventually("the producer's route holds", PATIENCE, || async {
            let reply = get(at, "echo", "/").await?;
            anyhow::ensure!(reply.header("x-header-set") == Some(mark), "{:?}", reply.headers);
            Ok(())
        })
        .await?;
    }
    let told = status(&echo.mesh, "HTTPRoute", "consumer", "consumer").await?;
    for condition in super::super::status::list(&told["parents"][0]["conditions"]) {
        assert_eq!(condition["status"], "True", "{condition}");
    }
    echo.finish().await
}

#[tokio::test]
async fn rules_redirect_rewrite_and_change_what_callers_send() -> anyhow::Result<()> {
    let mut echo = Echo::start().await?;
    let redirect = |path: &str, what: Value| json!({ "matches": [{ "path": { "value": path } }], "filters": [{ "type": "RequestRedirect", "requestRedirect": what }] });
    let rules = json!([
        redirect("/host", json!({ "hostname": "example.org", "statusCode": 301 })),
        redirect("/other", json!({ "statusCode": 308, "path": { "type": "ReplaceFullPath", "replaceFullPath": "/new" } })),
        redirect("/scheme", json!({ "scheme": "https" })),
        redirect("/port", json!({ "port": 8083 })),
        redirect("/prefix", json!({ "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/p" } })),
        {
            "name": "rewritten", "matches": [{ "path": { "value": "/full" } }],
            "filters": [{ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplaceFullPath", "replaceFullPath": "/one" } } }],
            "backendRefs": to("echo-v1"),
        },
        {
            "matches": [{ "path": { "value": "/cut" } }],
            "filters": [
                { "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } } },
                { "type": "RequestHeaderModifier", "requestHeaderModifier": {
                    "set": [{ "name": "X-Set", "value": "s" }], "add": [{ "name": "X-Add", "value": "b" }], "remove": ["X-Gone"],
                } },
            ],
            "backendRefs": to("echo-v1"),
        },
        {
            "matches": [{ "path": { "value": "/each" } }],
            "backendRefs": [{
                "name": "echo-v2", "port": 80,
                "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": "X-Backend", "value": "two" }] } }],
            }],
        },
    ]);
    echo.apply(&[route("HTTPRoute", "rules", "own", &parent("echo", Some(80)), &rules)]).await?;
    let [at] = echo.caller("own", ["echo:80"]).await?;
    for (path, status, location) in [
        ("/host/x?y=1", 301, "http://example.org/host/x?y=1"),
        ("/other/x", 308, "http://echo/new"),
        ("/scheme", 302, "https://echo/scheme"),
        ("/port", 302, "http://echo:8083/port"),
        ("/prefix/x", 302, "http://echo/p/x"),
    ] {
        let reply = get(at, "echo", path).await?;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (status, Some(location)), "{path}");
    }
    let told: Value = answered_by(at, "/full/x?y=1", "echo-v1").await?.json()?;
    assert_eq!(told["path"], "/one?y=1");
    let request = Request::get("/cut/x").header("host", "echo").header("x-set", "0").header("x-add", "a").header("x-gone", "1");
    let told: Value = http_send(at, request.body(Full::default())?).await?.json()?;
    assert_eq!((&told["path"], &told["headers"]["x-set"], &told["headers"]["x-add"]), (&json!("/x"), &json!(["s"]), &json!(["a", "b"])));
    assert_eq!(told["headers"].get("x-gone"), None);
    let told: Value = answered_by(at, "/each", "echo-v2").await?.json()?;
    assert_eq!(told["headers"]["x-backend"], json!(["two"]));
    echo.finish().await
}

#[tokio::test]
async fn calls_of_grpc_are_routed_changed_copied_and_shared_out() -> anyhow::Result<()> {
    let mut echo = Echo::start().await?;
    let backend = |name: &str, weight: u32| json!({ "name": name, "port": 7070, "weight": weight });
    let edits = json!({ "set": [{ "name": "X-Set", "value": "s" }], "remove": ["X-Gone"] });
    let rules = json!([
        { "matches": [{ "method": { "service": "t.Shared" } }], "backendRefs": [backend("echo-v1", 70), backend("echo-v2", 30)] },
        {
            "matches": [{ "method": { "service": "t.Copied", "method": "M" }, "headers": [{ "name": "copy", "value": "1" }] }],
            "filters": [
                { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "echo-v2", "port": 7070 } } },
                { "type": "RequestHeaderModifier", "requestHeaderModifier": edits },
            ],
            "backendRefs": [backend("echo-v1", 1)],
        },
    ]);
    // On the ports that both name, calls are the GRPCRoute's alone.
    let http = json!([{ "backendRefs": to("echo-v2") }]);
    echo.apply(&[
        route("HTTPRoute", "all", "own", &parent("echo", None), &http),
        route(
            "HTTPRoute",
            "same",
            "own",
            &parent("echo", Some(7070)),
            &json!([{ "matches": [{ "path": { "value": "/t.Shared" } }], "backendRefs": to("echo-v2") }]),
        ),
        route("GRPCRoute", "calls", "own", &parent("echo", Some(7070)), &rules),
    ])
    .await?;
    let [calls, plain] = echo.caller("own", ["echo:7070", "echo:80"]).await?;
    let server = |told: &Told| told.pod.trim_end_matches("-0").to_owned();
    let (code, message, told) = call(calls, "echo:7070", "/t.Copied/M", &json!({ "copy": "1", "x-gone": "1" })).await?;
    assert_eq!((code, server(&told).as_str()), (0, "echo-v1"), "{message}");
    let seen = |name: &str| told.headers.iter().find(|field| field.name == name).map(|field| field.value.clone());
    assert_eq!((seen("x-set").as_deref(), seen("x-gone")), (Some("s"), None));
    eventually("the copy arrives", PATIENCE, || async {
        anyhow::ensure!(echo.log.answers("echo-v2", "/t.Copied/M") == 1);
        Ok(())
    })
    .await?;
    assert_eq!(call(calls, "echo:7070", "/t.Copied/M", &json!({})).await?.0, 12, "no rule takes it: UNIMPLEMENTED");
    let mut counts = [("echo-v1".to_owned(), 0, 0.7), ("echo-v2".to_owned(), 0, 0.3)];
    for _ in 0..300 {
        let (_, _, told) = call(calls, "echo:7070", "/t.Shared/M", &json!({})).await?;
        counts.iter_mut().filter(|(name, ..)| *name == server(&told)).for_each(|(_, count, _)| *count += 1);
    }
    fits(&counts)?;
    answered_by(plain, "/", "echo-v2").await?;

    let accepted = async |kind: &str, name: &str| -> anyhow::Result<(Value, Value)> {
        let condition = status(&echo.mesh, kind, name, "own").await?["parents"][0]["conditions"][0].clone();
        Ok((condition["status"].clone(), condition["reason"].clone()))
    };
    assert_eq!(accepted("GRPCRoute", "calls").await?, (json!("True"), json!("Accepted")));
    assert_eq!(accepted("HTTPRoute", "all").await?, (json!("True"), json!("Accepted")), "it holds on the other ports");
    assert_eq!(accepted("HTTPRoute", "same").await?, (json!("False"), json!("Conflicted")));
    echo.finish().await
}

#[tokio::test]
async fn requests_are_shared_out_by_weight() -> anyhow::Result<()> {
    let mut echo = Echo::start().await?;
    let weighted = json!([{ "backendRefs": [
        { "name": "echo-v1", "port": 80, "weight": 7 }, { "name": "echo-v2", "port": 80, "weight": 3 },
    ] }]);
    echo.apply(&[route("HTTPRoute", "shares", "own", &parent("echo", None), &weighted)]).await?;
    let [at] = echo.caller("own", ["echo:80"]).await?;
    let mut counts = [("echo-v1".to_owned(), 0, 0.7), ("echo-v2".to_owned(), 0, 0.3)];
    for _ in 0..300 {
        let told: Value = get(at, "echo", "/").await?.json()?;
        counts.iter_mut().filter(|(name, ..)| *name == server(&told)).for_each(|(_, count, _)| *count += 1);
    }
    fits(&counts)?;
    echo.finish().await
}
