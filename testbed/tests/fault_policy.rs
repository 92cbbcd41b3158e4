//! Faults that are made on purpose: each kind of them at a real proxy, for whom they are meant, until they end, with and without a control
//! plane; and a stock Envoy beside it. (What real faults do to the mesh is tested in `faults.rs`.)

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{
    Connection, Echo, EchoServer, Envoy, Mesh, PATIENCE, Port, Proxy, Reply, Running, TcpEcho, Who, can_namespaces, eventually, http_get,
    http_send, http2_send, left_out, send_raw,
};

/// A service `web.shop`, two versions of it behind names of their own, and a policy for faults of the whole namespace.
fn files(http: SocketAddr, tcp: SocketAddr, fault: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{port: 80, appProtocol: http}}, {{port: 25, appProtocol: tcp}}]}}
---
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {{name: web-1, namespace: shop}}
spec: {{service: web, address: 127.0.0.1, ports: [{{servicePort: 80, port: {}}}, {{servicePort: 25, port: {}}}], transport: Plaintext}}
---
apiVersion: lorica.io/v1alpha1
kind: FaultPolicy
metadata: {{name: trial, namespace: shop}}
spec: {{ends: 2100-01-01T00:00:00Z, {fault}}}
",
        http.port(),
        tcp.port()
    )
}

/// A proxy from files that calls `web.shop`, and the app behind it.
struct Trial {
    mesh: Mesh,
    proxy: Proxy,
    app: EchoServer,
    _tcp: TcpEcho,
}

impl Trial {
    async fn start(fault: &str) -> anyhow::Result<Self> {
        let mesh = Mesh::options().without_control()?;
        let (app, tcp) = (EchoServer::start("web").await?, TcpEcho::start("220 ready\n").await?);
        mesh.write("mesh.yaml", files(app.address(), tcp.address(), fault))?;
        let arguments = ["--config", "mesh.yaml", "--access-log", "stdout", "--namespace", "shop"];
        let upstreams = ["--upstream", "web.shop:80=127.0.0.1:0", "--upstream", "web.shop:25=127.0.0.1:0"];
        let proxy = Proxy::start(&mesh, arguments.into_iter().chain(upstreams)).await?;
        Ok(Self { mesh, proxy, app, _tcp: tcp })
    }

    async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        http_get(self.proxy.address(), "web.shop", path).await
    }

    /// A call of gRPC; the caller sees no more of it than its head.
    async fn call(&self) -> anyhow::Result<Reply> {
        http2_send(self.proxy.address(), grpc("web.shop")?).await
    }

    /// How often a fault was counted.
    async fn counted(&self, fault: &str) -> anyhow::Result<u64> {
        let metrics = http_get(self.proxy.metrics, "proxy", "/metrics").await?.text();
        let name = format!("lorica_faults_injected_total{{fault=\"{fault}\"}} ");
        Ok(metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(Ok(0), str::parse)?)
    }

    async fn finish(self) -> anyhow::Result<()> {
        self.proxy.running.stop().await?;
        self.mesh.finish().await
    }
}

fn grpc(host: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = Request::post(format!("http://{host}/shop.Cart/Add")).header("content-type", "application/grpc").header("te", "trailers");
    Ok(request.body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))?)
}

fn with_header(name: &str, value: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    Ok(Request::get("/").header("host", "web.shop").header(name, value).body(Full::default())?)
}

#[tokio::test]
async fn an_abort_is_told_for_what_it_is() -> anyhow::Result<()> {
    let trial = Trial::start("abort: {httpStatus: 418}").await?;
    let reply = trial.get("/a").await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-lorica-reason")), (418, Some("fault_injected")), "{}", reply.text());
    let line = trial.proxy.running.line("\"path\":\"/a\"").await?;
    for part in
        ["\"response_code\":418", "\"response_flags\":\"FI\"", "\"reason\":\"fault_injected\"", "\"fault\":\"FaultPolicy/trial.shop\""]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    // One of gRPC gets a status of its own kind: 418 is none that its clients know.
    let reply = trial.call().await?;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status"), reply.body.len()), (200, Some("2"), 0));
    assert_eq!((trial.counted("abort").await?, trial.app.requests()), (2, 0));
    trial.finish().await
}

#[tokio::test]
async fn a_status_of_grpc_is_answered_to_both() -> anyhow::Result<()> {
    let trial = Trial::start("abort: {grpcStatus: RESOURCE_EXHAUSTED}").await?;
    let reply = trial.call().await?;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, Some("8")));
    assert_eq!(reply.header("x-lorica-reason"), Some("fault_injected"));
    assert_eq!(trial.get("/").await?.status, 429);
    assert_eq!(trial.app.requests(), 0);
    trial.finish().await
}

#[tokio::test]
async fn a_reset_is_no_answer() -> anyhow::Result<()> {
    let trial = Trial::start("reset: {}").await?;
    let reset = trial.get("/a").await;
    assert!(reset.is_err(), "{reset:?}");
    let line = trial.proxy.running.line("\"path\":\"/a\"").await?;
    assert!(line.contains("\"response_code\":0") && line.contains("\"response_flags\":\"FI\""), "{line}");
    let reset = trial.call().await;
    assert!(reset.is_err(), "{reset:?}");
    // Bytes are reset as well, before anybody greets.
    let bytes = send_raw(trial.proxy.addresses[1], b"hello").await;
    assert!(bytes.is_err(), "{bytes:?}");
    let line = trial.proxy.running.line("\"downstream_local_address\":\"").await?;
    assert!(line.contains("\"fault\":\"FaultPolicy/trial.shop\""), "{line}");
    assert_eq!((trial.counted("reset").await?, trial.app.requests()), (3, 0));
    trial.finish().await
}

#[tokio::test]
async fn what_is_delayed_or_slowed_down_arrives_whole() -> anyhow::Result<()> {
    let trial = Trial::start("delay: {fixed: 5ms}, bandwidth: {bytesPerSecond: 400kB}").await?;
    let reply = trial.get("/bytes/100000").await?;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 100_000));
    let line = trial.proxy.running.line("\"path\":\"/bytes/100000\"").await?;
    assert!(line.contains("\"response_flags\":\"DI\"") && !line.contains("\"reason\""), "{line}");
    let mut bytes = Connection::open(trial.proxy.addresses[1]).await?;
    assert_eq!(bytes.read_until(b"\n").await?, b"220 ready\n");
    bytes.write(&vec![b'x'; 50_000]).await?;
    bytes.close_write().await?;
    assert_eq!(bytes.read_to_end().await?.len(), 50_000);
    assert_eq!((trial.counted("delay").await?, trial.counted("bandwidth").await?), (2, 2));
    trial.finish().await
}

#[tokio::test]
async fn a_caller_that_does_not_wait_is_not_waited_for() -> anyhow::Result<()> {
    let trial = Trial::start("delay: {fixed: 300s}").await?;
    let mut caller = Connection::open(trial.proxy.address()).await?;
    caller.write(b"GET /gone HTTP/1.1\r\nHost: web.shop\r\n\r\n").await?;
    eventually("it waits", PATIENCE, || async {
        ensure!(trial.counted("delay").await? == 1);
        Ok(())
    })
    .await?;
    drop(caller);
    let line = trial.proxy.running.line("\"path\":\"/gone\"").await?;
    assert!(line.contains("\"reason\":\"client_closed\"") && line.contains("\"fault\":\"FaultPolicy/trial.shop\""), "{line}");
    // Nor does a call wait longer than it may take.
    let reply = http_send(trial.proxy.address(), with_header("x-lorica-timeout-ms", "20")?).await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-lorica-reason")), (504, Some("deadline_exceeded")));
    assert_eq!(trial.app.requests(), 0);
    trial.finish().await
}

#[tokio::test]
async fn only_whom_it_names_meets_it() -> anyhow::Result<()> {
    let trial =
        Trial::start("abort: {httpStatus: 503}, match: {headers: [{name: X-Test, value: '[1-3]', type: RegularExpression}]}").await?;
    for (value, status) in [("1", 503), ("3", 503), ("4", 200), ("11", 200)] {
        let reply = http_send(trial.proxy.address(), with_header("x-test", value)?).await?;
        assert_eq!(reply.status, status, "{value}");
    }
    assert_eq!(trial.get("/").await?.status, 200);
    trial.finish().await?;
    // Without an identity it is the account `default` of its namespace.
    for (callers, status) in [("{account: default}", 503), ("{account: cart}", 200), ("{namespace: bank}", 200), ("{namespace: shop}", 503)]
    {
        let trial = Trial::start(&format!("abort: {{httpStatus: 503}}, match: {{callers: [{callers}]}}")).await?;
        assert_eq!(trial.get("/").await?.status, status, "{callers}");
        trial.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_share_meets_it() -> anyhow::Result<()> {
    const CALLS: u64 = 2000;
    let trial = Trial::start("abort: {percent: 20, httpStatus: 503}").await?;
    let mut connection = testbed::HttpConnection::open(trial.proxy.address()).await?;
    let mut met = 0;
    for _ in 0..CALLS {
        let reply = connection.send(with_header("x-test", "1")?).await?;
        ensure!([200, 503].contains(&reply.status.as_u16()), "{}", reply.status);
        met += u64::from(reply.status == 503);
    }
    // Of a binomial distribution of 400 ± 17.9, less than one in a thousand million is outside.
    assert!((289..=511).contains(&met), "{met} of {CALLS}");
    assert_eq!((trial.counted("abort").await?, trial.app.requests()), (met, CALLS - met));
    trial.finish().await
}

#[tokio::test]
async fn an_abort_is_not_retried() -> anyhow::Result<()> {
    let trial = Trial::start("abort: {httpStatus: 503}").await?;
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: again, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}], retry: {attempts: 5, codes: [503]}}]
";
    let text = files(trial.app.address(), trial.app.address(), "abort: {httpStatus: 503}") + route;
    trial.mesh.write("mesh.yaml", text)?;
    let again =
        Proxy::start(&trial.mesh, ["--config", "mesh.yaml", "--access-log", "stdout", "--upstream", "web.shop:80=127.0.0.1:0"]).await?;
    assert_eq!(http_get(again.address(), "web.shop", "/once").await?.status, 503);
    let line = again.running.line("\"path\":\"/once\"").await?;
    assert!(line.contains("HTTPRoute/again.shop") && line.contains("\"attempts\":0"), "{line}");
    assert_eq!(trial.app.requests(), 0);
    again.running.stop().await?;
    trial.finish().await
}

/// A workload of a service behind a Lorica proxy; its app answers as `name`.
fn workload(mesh: &Mesh, name: &str, service: &str, port: &Port) -> anyhow::Result<Running> {
    let app = mesh.program(testbed::app()?)?;
    let listen = port.address().to_string();
    let run = mesh.service(service).port(&format!("80:{}/http", port.number())).no_capture();
    run.start([app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref(), "--name".as_ref(), name.as_ref()])
}

/// Waits until a call is answered with this status.
async fn answered(mesh: &Mesh, address: SocketAddr, status: u16) -> anyhow::Result<Reply> {
    let what = format!("{address} answers {status}");
    let asked = eventually(&what, PATIENCE, || async {
        let reply = http_get(address, "recording.contact", "/").await?;
        ensure!(reply.status == status, "{} {}", reply.status, reply.text());
        Ok(reply)
    });
    asked.await.with_context(|| mesh.last_words())
}

#[tokio::test]
async fn a_fault_ends_at_a_proxy_that_hears_from_nobody() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (serving, calling) = (Port::free()?, Port::free()?);
    let _recording = workload(&mesh, "recording", "recording.contact", &serving)?;
    mesh.announced("recording.contact", 1).await?;
    let _client = mesh.client().upstream(&format!("recording.contact:80={}", calling.address())).start(["sleep", "600"])?;
    answered(&mesh, calling.address(), 200).await?;

    let added = mesh.lorica(["fault", "add", "recording.contact", "--abort", "503", "--for", "20s"]).await?.success()?;
    assert!(added.stdout.contains("FaultPolicy recording.contact created") && added.stdout.contains("added: 1 of 1"), "{}", added.stdout);
    assert!(added.stderr.contains("it ends by itself in 20 s"), "{}", added.stderr);
    assert_eq!(http_get(calling.address(), "recording.contact", "/").await?.status, 503, "{}", mesh.last_words());
    mesh.kill_control().await?;
    let reply = answered(&mesh, calling.address(), 200).await?;
    assert_eq!(reply.json::<Echo>()?.server, "recording");

    // What has ended is shown as that, by a control plane that comes back, and does nothing any more.
    mesh.start_control().await?;
    let listed = mesh.lorica(["fault", "list"]).await?.success()?;
    assert!(listed.stdout.contains("100% abort 503") && listed.stdout.contains("ended"), "{}", listed.stdout);
    let status = mesh.lorica(["get", "faultpolicy", "recording", "-n", "contact", "-o", "json"]).await?.json()?;
    assert_eq!(status["status"]["conditions"][1]["reason"], "Ended", "{status:#}");
    mesh.finish().await
}

#[tokio::test]
async fn the_command_line_adds_lists_and_removes() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let service = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: recording, namespace: contact}\nspec: {ports: [{port: 80, appProtocol: http}]}\n";
    mesh.apply(service).await?;
    let fault = async |words: &str| mesh.lorica(["fault"].into_iter().chain(words.split_whitespace())).await;

    let refused = fault("add recordng.contact --reset").await?;
    assert!(refused.code() == 1 && refused.stderr.contains("did you mean `recording`?"), "{}", refused.stderr);
    let refused = fault("add recording.contact").await?;
    assert!(refused.code() == 2 && refused.stderr.contains("--abort"), "{}", refused.stderr);
    let printed = fault("add recording.contact --delay 100ms..2s --percent 12.5 --print").await?.success()?.stdout;
    assert!(printed.contains("kind: FaultPolicy") && printed.contains("percent: 12.5") && printed.contains("from: 100ms"), "{printed}");
    assert_eq!(fault("list").await?.success()?.stdout, "nothing is made to fail\n");

    fault("add recording.contact --abort 503 --percent 20 --for 5m").await?.success()?;
    let listed = fault("list").await?.success()?.stdout;
    assert!(listed.contains("20% abort 503") && listed.contains("everybody") && listed.contains("5 min"), "{listed}");
    let again = fault("add recording.contact --reset --header x-test=1 --caller routing").await?.success()?;
    assert!(again.stderr.contains("it takes the place of the FaultPolicy `recording` that was there: 20% abort 503"), "{}", again.stderr);
    let listed = fault("list -n contact").await?.success()?.stdout;
    assert!(listed.contains("100% reset") && listed.contains("x-test=1, routing.contact") && !listed.contains("503"), "{listed}");
    let table = mesh.lorica(["get", "faultpolicies", "-n", "contact"]).await?.success()?.stdout;
    assert!(table.contains("100% reset") && table.contains("10 min"), "{table}");
    let items = fault("list -o json").await?.json()?;
    assert_eq!(items[0]["status"]["conditions"][1]["status"], "True", "{items:#}");

    fault("add recording.contact --dns timeout --name names").await?.success()?;
    let removed = fault("remove recording.contact").await?.success()?.stdout;
    assert!(removed.contains("FaultPolicy recording.contact deleted"), "{removed}");
    let removed = fault("remove --all").await?.success()?.stdout;
    assert!(removed.contains("FaultPolicy names.contact deleted"), "{removed}");
    let missing = fault("remove recording.contact").await?;
    assert!(missing.code() == 1 && missing.stderr.contains("there is no FaultPolicy `recording.contact`"), "{}", missing.stderr);

    // What is over before it begins is refused with its place.
    let over = "apiVersion: lorica.io/v1alpha1\nkind: FaultPolicy\nmetadata: {name: old, namespace: contact}\nspec: {ends: 2020-01-01T00:00:00Z, reset: {}}\n";
    let refused = mesh.lorica_with_input(["apply", "-f", "-"], Some(over)).await?;
    assert!(refused.code() == 1 && refused.stderr.contains("this time is over") && refused.stderr.contains("4:14"), "{}", refused.stderr);
    mesh.finish().await
}

#[tokio::test]
async fn names_fail_for_a_real_resolver() -> anyhow::Result<()> {
    if let Err(why) = can_namespaces(Who::Nobody) {
        left_out(&format!("questions for names that meet faults: {why}"));
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let service = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: recording, namespace: contact}\nspec: {ports: [{port: 80, appProtocol: http}]}\n";
    mesh.apply(service).await?;
    let script = "import socket, sys\ntry:\n    print(socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET)[0][4][0])\nexcept socket.gaierror as error:\n    print(error.errno == socket.EAI_AGAIN and 'again' or 'unknown')\n";
    let python = testbed::peer(testbed::Peer::Python).map_err(anyhow::Error::msg)?;
    let script = mesh.write("ask.py", script)?;
    let ask = async |name: &str| {
        let words = [python.as_os_str(), script.as_os_str(), name.as_ref()];
        anyhow::Ok(mesh.client().option("--namespace").option("shop").output(words).await?.success()?.stdout)
    };
    assert!(ask("recording.contact").await?.starts_with("240."));
    mesh.lorica(["fault", "add", "recording.contact", "--dns", "no-such-name"]).await?.success()?;
    assert_eq!(ask("recording.contact").await?, "unknown\n");
    mesh.lorica(["fault", "add", "recording.contact", "--dns", "server-failure"]).await?.success()?;
    assert_eq!(ask("recording.contact").await?, "again\n");
    mesh.lorica(["fault", "add", "recording.contact", "--dns", "server-failure", "--caller", "cart.shop"]).await?.success()?;
    assert!(ask("recording.contact").await?.starts_with("240."), "the policy is about another account");
    mesh.finish().await
}

/// An Envoy and a Lorica proxy that call the same two services.
struct Both {
    mesh: Mesh,
    envoy: Envoy,
    local: [SocketAddr; 2],
    _ports: [Port; 4],
    _running: [Running; 3],
}

impl Both {
    async fn start() -> anyhow::Result<Option<Self>> {
        let mesh = Mesh::start().await?;
        let ports = [Port::free()?, Port::free()?, Port::free()?, Port::free()?];
        let one = workload(&mesh, "one", "recording.contact", &ports[0])?;
        let two = workload(&mesh, "two", "recording-next.contact", &ports[1])?;
        mesh.announced("recording.contact", 1).await?;
        mesh.announced("recording-next.contact", 1).await?;
        let upstream = |port: &Port| format!("recording.contact:80={}", port.address());
        let client = mesh.client().option("--namespace").option("shop").upstream(&upstream(&ports[2])).start(["sleep", "600"])?;
        let options = ["--namespace", "shop", "--upstream", &upstream(&ports[3])];
        let Some(envoy) = Envoy::start(&mesh, &options).await? else {
            mesh.finish().await?;
            return Ok(None);
        };
        let local = [ports[2].address(), ports[3].address()];
        let both = Self { mesh, envoy, local, _ports: ports, _running: [one, two, client] };
        for address in both.local {
            answered(&both.mesh, address, 200).await?;
        }
        Ok(Some(both))
    }

    /// Applies resources; ends once both have them.
    async fn apply(&self, resources: &str, statuses: &[u16]) -> anyhow::Result<()> {
        let applied = self.mesh.apply(resources).await?;
        ensure!(applied.stdout.contains("2 of 2"), "{}{}", applied.stdout, applied.stderr);
        for address in self.local {
            for status in statuses {
                answered(&self.mesh, address, *status).await?;
            }
        }
        Ok(())
    }
}

fn fault(spec: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: FaultPolicy\nmetadata: {{name: trial, namespace: contact}}\nspec: {{ends: 2100-01-01T00:00:00Z, {spec}}}\n"
    )
}

#[tokio::test]
async fn an_envoy_makes_the_same_faults() -> anyhow::Result<()> {
    let Some(both) = Both::start().await? else { return Ok(()) };
    let target = "targetRefs: [{name: recording}]";

    both.apply(&fault(&format!("{target}, abort: {{httpStatus: 503}}")), &[503]).await?;
    for address in both.local {
        let reply = http_get(address, "recording.contact", "/").await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-lorica-reason")), (503, Some("fault_injected")), "{address}");
        let reply = http2_send(address, grpc("recording.contact")?).await?;
        assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, Some("14")), "{address}");
    }

    // Every status of each kind means to both what it means to one.
    for status in
        ["httpStatus: 400", "httpStatus: 404", "httpStatus: 418", "grpcStatus: 1", "grpcStatus: 5", "grpcStatus: 8", "grpcStatus: 13"]
    {
        let applied = both.mesh.apply(&fault(&format!("{target}, abort: {{{status}}}"))).await?;
        ensure!(applied.stdout.contains("2 of 2"), "{}", applied.stdout);
        let [lorica, envoy] = both.local;
        let told = async |address| {
            let (plain, call) =
                (http_get(address, "recording.contact", "/").await?, http2_send(address, grpc("recording.contact")?).await?);
            anyhow::Ok((plain.status.as_u16(), call.status.as_u16(), call.header("grpc-status").map(str::to_owned)))
        };
        let mut expected = told(lorica).await?;
        if status.starts_with("grpc") {
            // To callers of HTTP, Envoy says nothing of a status of gRPC (docs/faults.md).
            assert!(expected.0 >= 400, "{expected:?}");
            expected.0 = 200;
        }
        eventually("Envoy says the same", PATIENCE, || async {
            let found = told(envoy).await?;
            ensure!(found == expected, "{status}: {found:?} is not {expected:?}");
            Ok(())
        })
        .await?;
    }

    // By header, and by caller: Envoy is told of the faults alone that its own calls meet.
    both.apply(&fault(&format!("{target}, abort: {{httpStatus: 500}}, match: {{headers: [{{name: x-test, value: '1'}}]}}")), &[200])
        .await?;
    for address in both.local {
        let request = |value: &str| Request::get("/").header("host", "recording.contact").header("x-test", value).body(Full::default());
        assert_eq!(http_send(address, request("1")?).await?.status, 500, "{address}");
        assert_eq!(http_send(address, request("2")?).await?.status, 200, "{address}");
    }
    both.apply(
        &fault(&format!("{target}, abort: {{httpStatus: 501}}, match: {{callers: [{{namespace: shop, account: default}}]}}")),
        &[501],
    )
    .await?;
    both.apply(&fault(&format!("{target}, abort: {{httpStatus: 502}}, match: {{callers: [{{namespace: shop, account: cart}}]}}")), &[200])
        .await?;

    both.apply(&fault(&format!("{target}, delay: {{fixed: 5ms}}")), &[200]).await?;
    eventually("Envoy counts delays", PATIENCE, || async {
        answered(&both.mesh, both.local[1], 200).await?;
        let counters = both.envoy.counters().await?;
        let delays: u64 = counters.iter().filter(|(name, _)| name.ends_with("fault.delays_injected")).map(|(_, count)| count).sum();
        ensure!(delays > 0, "{counters:?}");
        Ok(())
    })
    .await?;

    // Of what an Envoy cannot do, whoever applies it is told.
    let told = both.mesh.apply(&fault(&format!("{target}, reset: {{percent: 0}}"))).await?;
    assert!(told.stderr.contains("Envoys and clients of gRPC, of which some are here, reset nothing"), "{}", told.stderr);
    both.envoy.refused_nothing(&both.mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    both.envoy.running.stop().await?;
    both.mesh.finish().await
}

#[tokio::test]
async fn a_share_of_a_route_meets_the_faults_of_where_it_goes() -> anyhow::Result<()> {
    let Some(both) = Both::start().await? else { return Ok(()) };
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: recording, namespace: contact}
spec:
  parentRefs: [{kind: Service, group: '', name: recording}]
  rules: [{backendRefs: [{name: recording, port: 80}, {name: recording-next, port: 80}]}]
---
";
    // Two policies: one for the route, and one for a part of it.
    let slow = fault("targetRefs: [{kind: HTTPRoute, name: recording}], delay: {fixed: 1ms}").replace("name: trial", "name: slow");
    let text = format!("{route}{slow}---\n{}", fault("targetRefs: [{name: recording-next}], abort: {httpStatus: 410}"));
    both.apply(&text, &[200, 410]).await?;
    for address in both.local {
        let mut met = 0;
        for _ in 0..60 {
            let reply = http_get(address, "recording.contact", "/").await?;
            match reply.status.as_u16() {
                410 => met += 1,
                200 => assert_eq!(reply.json::<Echo>()?.server, "one"),
                other => panic!("{other}"),
            }
        }
        // Half of them, or else one in a million million.
        assert!((6..=54).contains(&met), "{address}: {met}");
    }
    both.envoy.refused_nothing(&both.mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    both.envoy.running.stop().await?;
    both.mesh.finish().await
}

#[tokio::test]
async fn the_control_plane_takes_a_fault_away_from_envoy_at_its_end() -> anyhow::Result<()> {
    let Some(both) = Both::start().await? else { return Ok(()) };
    both.mesh.lorica(["fault", "add", "recording.contact", "--abort", "503", "--for", "20s"]).await?.success()?;
    for address in both.local {
        answered(&both.mesh, address, 503).await?;
    }
    for address in both.local {
        answered(&both.mesh, address, 200).await?;
    }
    both.envoy.refused_nothing(&both.mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    both.envoy.running.stop().await?;
    both.mesh.finish().await
}
