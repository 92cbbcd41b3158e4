//! The contact centre of the demo on a mesh under test, without capture: every program with listeners for what it calls, and two workloads of
//! each service.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use contact_centre::call_routing::Stats;
use testbed::{Mesh, Port, Run, Running, http_get};

/// What the demo asks of the mesh: `recording` is a name for two versions. And a service that nobody serves.
const RESOURCES: &str = "\
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording, namespace: contact}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: nobody, namespace: contact}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: recording, namespace: contact}
spec:
  parentRefs:
  - {group: lorica.io, kind: Service, name: recording, port: 80}
  rules:
  - backendRefs:
    - {group: lorica.io, kind: Service, name: recording-v1, port: 80, weight: 50}
    - {group: lorica.io, kind: Service, name: recording-v2, port: 80, weight: 50}
";

/// A service: its name, its program, its port and what that speaks.
struct Role(&'static str, &'static str, &'static str);

const SERVED: [Role; 5] = [
    Role("customer-history", "customer-history", "80/http"),
    Role("agent-assignment", "agent-assignment", "50051/grpc"),
    Role("recording-v1", "recording", "80/http"),
    Role("recording-v2", "recording", "80/http"),
    Role("analytics", "analytics", "7000/tcp"),
];

/// What call-routing calls: the flag, the service port, and what its address begins with.
const CALLED: [(&str, &str, &str); 4] = [
    ("--customer-history", "customer-history.contact:80", "http://"),
    ("--agent-assignment", "agent-assignment.contact:50051", "http://"),
    ("--recording", "recording.contact:80", "http://"),
    ("--analytics", "analytics.contact:7000", ""),
];

/// How many workloads each service has.
const WORKLOADS: usize = 2;
/// A version label as nobody should choose it.
pub(crate) const HOSTILE: &str = "v\"1\\";

/// The contact centre, running.
pub(crate) struct Centre<'m> {
    mesh: &'m Mesh,
    lorica: PathBuf,
    /// Where the programs of call-routing listen themselves.
    routing: Vec<SocketAddr>,
    /// Held for as long as the apps have them.
    ports: Vec<Port>,
    /// Ended when dropped.
    services: Vec<Running>,
}

impl<'m> Centre<'m> {
    /// Starts it; ends when all of it is announced.
    pub(crate) async fn start(mesh: &'m Mesh) -> anyhow::Result<Self> {
        // The route is to services that are declared by their workloads.
        mesh.lorica_with_input(["apply", "-f", "-", "--allow-missing"], Some(RESOURCES)).await?.success()?;
        let lorica = mesh.program(testbed::lorica()?)?;
        let mut centre = Self { mesh, lorica, routing: Vec::new(), ports: Vec::new(), services: Vec::new() };
        for Role(service, program, port) in SERVED {
            for _ in 0..WORKLOADS {
                centre.serve(service, program, port, &[])?;
            }
        }
        for _ in 0..WORKLOADS {
            let at = centre.serve("call-routing", "call-routing", "80/http", &CALLED)?;
            centre.routing.push(at);
        }
        for service in SERVED.iter().map(|role| role.0).chain(["call-routing"]) {
            mesh.announced(&format!("{service}.contact"), WORKLOADS).await?;
        }
        Ok(centre)
    }

    /// Starts one workload. Where its program listens.
    fn serve(&mut self, service: &str, program: &str, port: &str, calls: &[(&str, &str, &str)]) -> anyhow::Result<SocketAddr> {
        let at = self.port()?;
        let (number, spoken) = port.split_once('/').unwrap_or_default();
        let run = self.mesh.service(&format!("{service}.contact")).no_capture().port(&format!("{number}:{}/{spoken}", at.port()));
        let mut run = run.option("--trace-sampling").option("1");
        let mut app: Vec<OsString> = vec![self.lorica.clone().into(), "contact-centre".into(), program.into()];
        app.extend(["--listen".into(), at.to_string().into()]);
        for (flag, called, scheme) in calls {
            let local = self.port()?;
            run = run.upstream(&format!("{called}={local}"));
            app.extend([(*flag).into(), format!("{scheme}{local}").into()]);
        }
        if let Some((_, version)) = service.rsplit_once('-').filter(|(_, end)| end.starts_with('v')) {
            run = run.option("--version-label").option(version);
            app.extend(["--version".into(), version.into()]);
        } else if service == "customer-history" {
            run = run.option("--version-label").option(HOSTILE);
        }
        self.services.push(run.start(app)?);
        Ok(at)
    }

    /// A port of its own.
    pub(crate) fn port(&mut self) -> anyhow::Result<SocketAddr> {
        let port = Port::free()?;
        let at = port.address();
        self.ports.push(port);
        Ok(at)
    }

    /// A program that calls services of the contact centre, in its namespace.
    pub(crate) fn client(&self, account: &str) -> Run<'m> {
        let client = self.mesh.client().option("--namespace").option("contact").option("--account").option(account);
        client.option("--trace-sampling").option("1")
    }

    /// Customers who call so often a second, for so many seconds. Their report is at the path once they are done; their proxy lives on.
    pub(crate) fn customers(&mut self, rate: u32, seconds: u32) -> anyhow::Result<(Running, PathBuf)> {
        let local = self.port()?;
        let script = "\"$0\" \"$@\" > calls.part; mv calls.part calls.json; exec sleep 3600";
        let mut app: Vec<OsString> = ["sh", "-c", script].map(OsString::from).into();
        app.push(self.lorica.clone().into());
        let flags = [
            "contact-centre".to_owned(),
            "caller".to_owned(),
            "--target".to_owned(),
            format!("http://{local}"),
            "--rate".to_owned(),
            rate.to_string(),
            "--seconds".to_owned(),
            seconds.to_string(),
        ];
        app.extend(flags.map(OsString::from));
        let running = self.client("caller").upstream(&format!("call-routing.contact:80={local}")).start(app)?;
        Ok((running, self.mesh.home().join("calls.json")))
    }

    /// What the programs of call-routing counted, in all. Asked of themselves: their proxies see nothing of it.
    pub(crate) async fn routed(&self) -> anyhow::Result<Stats> {
        let mut sum = Stats::default();
        for at in &self.routing {
            let Stats { routed, queued, refused, recorded, counted, releases_failed, notes_bytes, analytics_connections } =
                http_get(*at, "call-routing", "/stats").await?.json()?;
            sum.routed += routed;
            sum.queued += queued;
            sum.refused += refused;
            sum.recorded += recorded;
            sum.counted += counted;
            sum.releases_failed += releases_failed;
            sum.notes_bytes += notes_bytes;
            sum.analytics_connections += analytics_connections;
        }
        Ok(sum)
    }
}
