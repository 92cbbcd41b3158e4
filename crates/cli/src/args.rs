//! The command line as typed: what clap reads, and the small grammars of its values.

mod authz;
mod ca;
mod diagnosis;
mod envoy;
mod explain;
mod fault;
mod graph;
mod proxy;
mod telemetry;
mod token;
mod traces;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lorica_model::name::{Label, Namespace, ServiceName, ServicePort};
use lorica_model::snapshot::{Locality, Protocol};

pub use authz::{AskerArg, AuthzCanArgs, AuthzCommand, AuthzSuggestArgs, AuthzTestArgs, CallArg, ClaimArg, ResourcesArgs};
pub use ca::{CaCommand, CaExportArgs, CaFileArgs, CaReinstateArgs, CaRevokeArgs, CaRotateArgs, CaSignArgs, CaStatusArgs};
pub use diagnosis::{BugreportArgs, CheckArgs, RoutedArg, RoutesArgs};
pub use envoy::{EnvoyArgs, EnvoyCommand};
pub use explain::{ExplainArgs, TapArgs};
pub use fault::{CallerArg, DelayArg, DnsArg, FaultAddArgs, FaultCommand, FaultListArgs, FaultRemoveArgs, HeaderArg};
pub use graph::{GraphArgs, GraphFormat, TopArgs, TopByArg};
pub use proxy::{BindArg, InboundArg, ProxyArgs, WorkersArg};
pub use telemetry::{BytesArg, LogsArgs, TraceArgs};
pub use token::{TokenCommand, TokenCreateArgs, TokenListArgs, TokenRevokeArgs};
pub use traces::{Bound, TracingArgs};

/// A service mesh in one binary.
///
/// Start with `lorica demo`: it runs a control plane and a small contact centre, with mutual TLS between all of its services.
#[derive(Debug, Parser)]
#[command(name = "lorica", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
}

const EXAMPLES: &str = "Examples:
  lorica demo                                  a whole mesh on this machine, in seconds
  lorica control                               a control plane for your own services
  lorica run --service web.shop --port 80:8080/http -- ./web
                                               your service in the mesh, unchanged
  lorica run -- curl http://web.shop/          a client of the mesh
  lorica proxy --config mesh.yaml --upstream web.shop:80=127.0.0.1:9000
                                               a proxy alone, from files
  lorica apply -f routes.yaml                  change the mesh; ends when the proxies have acknowledged it
  lorica explain -- curl http://web.shop/      the same, and why it was answered as it was
  lorica status                                who is there, and what they acknowledged";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The control plane to talk to: `unix:///run/lorica/control.sock`.
    #[arg(long, global = true, env = "LORICA_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Say more: once for details, twice for everything.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// End when the process with this id, which must be the parent, ends.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    pub ends_with: Option<i32>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a contact centre on a mesh of its own: nothing to install, no root.
    Demo(DemoArgs),
    /// Run a control plane.
    Control(ControlArgs),
    /// Run a program in the mesh, unchanged.
    Run(RunArgs),
    /// Run a gateway, the agent of a host, or the data plane alone from files: no capture.
    Proxy(Box<ProxyArgs>),
    /// Create or change resources, and wait until the proxies concerned have acknowledged it.
    Apply(ApplyArgs),
    /// Delete resources.
    Delete(DeleteArgs),
    /// Show what a change would do, without doing it.
    Diff(DiffArgs),
    /// Split a service's requests between its versions: a canary in one line.
    Split(SplitArgs),
    /// Let calls fail on purpose, for a while.
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Who may do what: ask, and test.
    #[command(subcommand)]
    Authz(AuthzCommand),
    /// Mutual TLS, and who does not speak it.
    #[command(subcommand)]
    Mtls(MtlsCommand),
    /// What policies do.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Let hosts join the mesh.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Tell the story of one request, hop by hop: of a command that is run now, or of one that is over.
    Explain(ExplainArgs),
    /// Watch requests as they pass, without their bodies.
    Tap(TapArgs),
    /// Show resources.
    Get(GetArgs),
    /// Show control plane, proxies, certificates and what was acknowledged last.
    Status(StatusArgs),
    /// Traces: a list, or one as a tree with times.
    Trace(TraceArgs),
    /// Log records of proxies and apps.
    Logs(LogsArgs),
    /// Show who calls whom: how often, how well, how fast, and whether by mutual TLS.
    Graph(GraphArgs),
    /// Show what is called most, live.
    Top(TopArgs),
    /// Look for what is wrong or going to fail, while there is time: exit code 1 if anything is.
    Check(CheckArgs),
    /// Show where calls to a service or into a gateway go, rule by rule in the order in which they are tried.
    Routes(RoutesArgs),
    /// Gather what is needed to find out what went wrong, without secrets, in one file.
    Bugreport(BugreportArgs),
    /// The certificates that identities rest on: how they stand, and how they are replaced.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Use a stock Envoy as a data plane.
    #[command(subcommand)]
    Envoy(EnvoyCommand),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// The data plane beside one app; started by `lorica run`.
    #[command(hide = true)]
    Sidecar {
        /// What `lorica run` tells it, in JSON.
        configuration: String,
    },
    /// The process in the app's namespaces; started by `lorica run`.
    #[command(hide = true, name = "capture-helper")]
    CaptureHelper,
    /// A service of the demo; started by `lorica demo`.
    #[command(hide = true, name = "contact-centre", disable_help_flag = true)]
    ContactCentre {
        /// The service and its flags.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// `lorica demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica demo                            a live screen; Ctrl-C ends everything
  lorica demo --headless --minutes 2     for scripts: a summary at the end, exit code 0 only if every call was answered as expected")]
pub struct DemoArgs {
    /// No screen: plain lines, and a summary at the end.
    #[arg(long)]
    pub headless: bool,
    /// End by itself after so many minutes.
    #[arg(long, value_name = "N")]
    pub minutes: Option<f64>,
    /// Simulated calls a second.
    #[arg(long, default_value_t = 20.0, value_name = "N")]
    pub rate: f64,
    /// Use explicit listeners even where namespaces are allowed.
    #[arg(long)]
    pub no_capture: bool,
}

/// `lorica control`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica control                               state and socket in the usual places of your user
  lorica control --listen 10.0.0.1:15012       other hosts may join: lorica token create
  lorica control --trust-domain shop.example   identities read spiffe://shop.example/ns/NAMESPACE/sa/ACCOUNT")]
pub struct ControlArgs {
    /// The trust domain of a new mesh. Fixed once the mesh exists.
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// How long a workload's certificate holds, 5s to 168h. Renewed before half of it is over; stolen, it is of use for that long.
    /// Below 1m a slow moment of a host is enough to let one end.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = svid_lifetime)]
    pub svid_lifetime: Duration,
    /// A root of your own, PEM. With --ca-root-key an intermediate is made; without it, --ca-cert and --ca-key bring one.
    #[arg(long, value_name = "FILE")]
    pub ca_root_cert: Option<PathBuf>,
    /// The root's key, PEM. Better kept offline.
    #[arg(long, value_name = "FILE", requires = "ca_root_cert")]
    pub ca_root_key: Option<PathBuf>,
    /// The intermediate that signs, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["ca_root_cert", "ca_key"])]
    pub ca_cert: Option<PathBuf>,
    /// The intermediate's key, PEM.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,
    /// Serve telemetry on this address: 127.0.0.1:15014. It has /metrics of the control plane, /sd/proxies, by which a Prometheus finds
    /// every proxy, and Jaeger's query API. Port 0: any free one. The metrics are always on the socket, too.
    #[arg(long, value_name = "ADDRESS")]
    pub telemetry: Option<SocketAddr>,
    /// Take spans and log records by OTLP over gRPC on this address, too, from apps of this host: 127.0.0.1:4317. Whoever reaches it is believed.
    #[arg(long, value_name = "ADDRESS")]
    pub otlp: Option<SocketAddr>,
    /// Take them by OTLP over HTTP on this address: 127.0.0.1:4318.
    #[arg(long, value_name = "ADDRESS")]
    pub otlp_http: Option<SocketAddr>,
    /// How many bytes of telemetry are kept on disk, 4MiB or more: half for spans, a quarter for log records.
    #[arg(long, default_value = "256MiB", value_name = "BYTES")]
    pub telemetry_bytes: BytesArg,
    /// For how long, a minute or more; the oldest goes first.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = telemetry::age)]
    pub telemetry_age: Duration,
    /// Serve this mesh's bundle to other meshes on this address, by HTTPS: SPIFFE's bundle endpoint. Its server proves to be
    /// `spiffe://TRUST_DOMAIN/lorica/control`, or what --bundle-endpoint-cert says.
    #[arg(long, value_name = "ADDRESS")]
    pub bundle_endpoint: Option<SocketAddr>,
    /// A certificate of the web for the bundle endpoint, PEM, the leaf first. Read again every minute.
    #[arg(long, value_name = "FILE", requires_all = ["bundle_endpoint", "bundle_endpoint_key"])]
    pub bundle_endpoint_cert: Option<PathBuf>,
    /// Its key, PEM, of mode 0600.
    #[arg(long, value_name = "FILE", requires = "bundle_endpoint_cert")]
    pub bundle_endpoint_key: Option<PathBuf>,
    /// How often other meshes are asked to fetch the bundle, 5s to 24h. With an endpoint, a new root is told for three times that before
    /// anything comes from it.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = bundle_refresh)]
    pub bundle_refresh: Duration,
    /// Where the state is kept.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The Unix socket to serve.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The Unix socket of the SPIFFE Workload API, open to every user that reaches it; `workload.sock` beside the other unless given.
    #[arg(long, value_name = "PATH")]
    pub workload_socket: Option<PathBuf>,
    /// Let other hosts join over TCP: an address of this host, in mutual TLS. Without it, the mesh is this host's alone.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Believe the service accounts of a Kubernetes cluster over TCP: the claim `iss` of their tokens.
    #[arg(long, value_name = "ISSUER", requires_all = ["listen", "kubernetes_keys"])]
    pub kubernetes_issuer: Option<String>,
    /// The keys that verify these tokens, a JWK Set: a file, which is read again each minute, or an `https://` address.
    #[arg(long, value_name = "FILE|URL", requires = "kubernetes_issuer")]
    pub kubernetes_keys: Option<String>,
    /// The audience that these tokens must be for.
    #[arg(long, value_name = "NAME", default_value = "lorica")]
    pub kubernetes_audience: String,
}

/// `lorica run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica run --service recording.contact --port 80:8080/http -- ./recording
  lorica run --service orders.shop --port 50051/grpc --version-label v2 -- ./orders --verbose
  lorica run --service recording.contact --port 80:8080/http --locality eu-central/eu-central-1a -- ./recording
  lorica run -- curl http://recording.contact/recordings
  lorica run --host-port 5432 --service api.shop --port 80/http -- ./api    with a database on the host's loopback
  lorica run --upstream recording.contact:80=127.0.0.1:9001 -- ./app        where namespaces are not allowed")]
pub struct RunArgs {
    /// The service that the program is a workload of: NAME or NAME.NAMESPACE. Without it, the program is a mere client.
    #[arg(long, value_name = "NAME[.NAMESPACE]")]
    pub service: Option<ServiceName>,
    /// The account whose identity it has. Default: the service's name; for a client `default`.
    #[arg(long, value_name = "NAME")]
    pub account: Option<Label>,
    /// A port that the program listens on, the port that callers use for it, and what it speaks. Nothing said: detected.
    #[arg(long = "port", value_name = "[SERVICE_PORT:]APP_PORT[/http|h2|grpc|tcp]")]
    pub ports: Vec<PortArg>,
    /// The namespace of a client. Default: `default`.
    #[arg(short, long, value_name = "NAME", conflicts_with = "service")]
    pub namespace: Option<Namespace>,
    /// Its version label: `v2`.
    #[arg(long, value_name = "LABEL")]
    pub version_label: Option<String>,
    /// Where it runs: `eu-central/eu-central-1a`. Policies that prefer near endpoints go by it, and others see it of this one.
    #[arg(long, env = "LORICA_LOCALITY", value_name = "REGION[/ZONE]")]
    pub locality: Option<Locality>,
    /// The address at which workloads of other hosts reach it. Default: the one from which this host reaches the control plane.
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<std::net::IpAddr>,
    /// A local address that stands for a service port. Needs no privilege and no namespace; capture is off then.
    #[arg(long = "upstream", value_name = "NAME:PORT=LOCAL")]
    pub upstreams: Vec<UpstreamArg>,
    /// Run without namespaces even if there is no --upstream: for a service that calls nobody.
    #[arg(long)]
    pub no_capture: bool,
    /// Open an app port to callers without a mesh, as plaintext. Default address: 127.0.0.1.
    #[arg(long = "publish", value_name = "[ADDR:]HOST_PORT:APP_PORT")]
    pub publish: Vec<String>,
    /// A port of the host's loopback that the program needs, at the same address inside.
    #[arg(long = "host-port", value_name = "PORT")]
    pub host_ports: Vec<u16>,
    /// The ports from which inbound listeners are taken. Default: any free one.
    #[arg(long, value_name = "FIRST-LAST")]
    pub inbound_ports: Option<PortRange>,
    /// Where the proxy's access log goes: `off`, `stdout`, `stderr` or a file. Default: a bounded file in the state directory.
    #[arg(long, value_name = "TARGET")]
    pub access_log: Option<String>,
    /// Which exchanges are traced, and where their spans go.
    #[command(flatten)]
    pub traces: TracingArgs,
    /// How much its metrics may grow.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How long exchanges may go on once it is to end.
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = duration)]
    pub drain: Duration,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// How much a proxy's metrics may grow.
#[derive(Debug, Clone, Copy, Args)]
pub struct MetricsArgs {
    /// The most series of a family of metrics. What comes past it counts under `other`.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub metrics_series: usize,
    /// How long a series of metrics stays in which nothing is counted.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub metrics_idle: Duration,
}

/// `lorica apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica apply -f routes.yaml          one file
  lorica apply -f mesh/                every .yaml and .json file of a directory
  lorica apply -f - < routes.yaml      standard input
  lorica apply -f routes.yaml --dry-run")]
pub struct ApplyArgs {
    /// Files, directories, or `-` for standard input.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Check only.
    #[arg(long)]
    pub dry_run: bool,
    /// Take references to what does not exist yet, with a warning.
    #[arg(long)]
    pub allow_missing: bool,
    /// Ask for mutual TLS even where callers still send plaintext.
    #[arg(long)]
    pub force: bool,
    /// How long to wait for the proxies concerned.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Calls that EgressPolicies refused to let out of the mesh: who tried what, and the policy that would allow it.
    Refused(RefusedArgs),
    /// What a policy that is tried (`mode: Shadow`) would have done, with examples.
    Shadow(ShadowArgs),
}

/// `lorica policy shadow`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica policy shadow readers -n contact
  lorica policy shadow trafficpolicy/recording -n contact -o json")]
pub struct ShadowArgs {
    /// The policy; its kind is needed where several have the name.
    #[arg(value_name = "[KIND/]NAME")]
    pub policy: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub namespace: Namespace,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica mtls`.
#[derive(Debug, Subcommand)]
pub enum MtlsCommand {
    /// How callers of each service prove who they are, and who still sends plaintext.
    Status(MtlsStatusArgs),
}

/// `lorica mtls status`.
#[derive(Debug, Args)]
#[command(
    after_help = "A service is made strict by taking its AuthenticationPolicy with `mtls: {mode: Permissive}` away. That is refused while callers send
plaintext, unless --force is given.

Examples:
  lorica mtls status
  lorica mtls status -n contact -o json"
)]
pub struct MtlsStatusArgs {
    /// Of services in this namespace only.
    #[arg(short, long)]
    pub namespace: Option<Namespace>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica policy refused`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica policy refused                       who tried to call what outside the mesh
  lorica policy refused -n shop -o yaml       the policies of before, with those calls added
  lorica policy refused -o yaml | lorica diff -f -")]
pub struct RefusedArgs {
    /// Of callers in this namespace only.
    #[arg(short, long)]
    pub namespace: Option<Namespace>,
    /// How to show it; `yaml` is the policies that would allow it.
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: ResourceFormat,
}

/// `lorica split`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each version is a label that workloads carry (`lorica run --version-label v2`). What is written are a Service for each
version and an HTTPRoute on the service; --print shows them. Calls of a version's own name, `recording-v2`, reach that version alone.

Examples:
  lorica split recording.contact v1=95 v2=5          a canary
  lorica split recording.contact v1=95 v2=5 --print  what that writes
  lorica split recording.contact v2=100              done; `lorica delete httproute recording-split -n contact` ends the split"
)]
pub struct SplitArgs {
    /// The service whose requests are split.
    #[arg(value_name = "NAME[.NAMESPACE]")]
    pub service: ServiceName,
    /// The versions and their shares, relative to each other.
    #[arg(required = true, value_name = "VERSION=WEIGHT")]
    pub shares: Vec<ShareArg>,
    /// One of the service's ports. Default: every port that may speak HTTP.
    #[arg(long)]
    pub port: Option<u16>,
    /// Show the resources and change nothing.
    #[arg(long)]
    pub print: bool,
    /// How long to wait for the proxies concerned.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `VERSION=WEIGHT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareArg {
    /// The version label; part of a name, so a name itself.
    pub version: Label,
    /// Its share.
    pub weight: u32,
}

impl FromStr for ShareArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (version, weight) = text.split_once('=').ok_or("it reads VERSION=WEIGHT, as in v2=5")?;
        let weight = weight
            .parse()
            .ok()
            .filter(|weight| *weight <= 1_000_000)
            .ok_or_else(|| format!("`{weight}` is no weight from 0 to 1000000"))?;
        Ok(Self { version: Label::new(version).map_err(|error| error.to_string())?, weight })
    }
}

/// `lorica delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica delete httproute canary -n contact
  lorica delete -f routes.yaml")]
pub struct DeleteArgs {
    /// Kind and name of a resource.
    #[arg(value_name = "KIND NAME", num_args = 0..=2)]
    pub target: Vec<String>,
    /// Files that hold the resources to delete.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", conflicts_with = "target")]
    pub files: Vec<PathBuf>,
    /// The namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Let strict mutual TLS follow even where callers still send plaintext.
    #[arg(long)]
    pub force: bool,
    /// How long to wait for the proxies concerned.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Files, directories, or `-` for standard input.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Take references to what does not exist yet, with a warning.
    #[arg(long)]
    pub allow_missing: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica get httproutes -A
  lorica get service recording -n contact -o yaml
  lorica get trafficpolicy --effective recording -n contact")]
pub struct GetArgs {
    /// The kind: `httproute`, `service`, `workload`, `trafficpolicy`.
    pub kind: String,
    /// One of them.
    pub name: Option<String>,
    /// The namespace. Default: `default`.
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// With `trafficpolicy`: what holds for calls to this service, and who says so; defaults among it.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["name", "all_namespaces"])]
    pub effective: Option<String>,
    /// How to print.
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: ResourceFormat,
}

/// `lorica status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// `table` for people, `json` for scripts.
    #[arg(short = 'o', long = "output", default_value = "table", value_name = "FORMAT")]
    pub format: Format,
}

/// The forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// The forms of output for resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ResourceFormat {
    /// For people.
    Table,
    /// For people with wide screens.
    Wide,
    /// As it may be applied again.
    Yaml,
    /// For scripts.
    Json,
}

/// `[SERVICE_PORT:]APP_PORT[/PROTOCOL]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortArg {
    /// The port that callers use.
    pub service_port: u16,
    /// The port that the app listens on.
    pub app_port: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

impl FromStr for PortArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = text.split_once('/').map_or((text, None), |(ports, protocol)| (ports, Some(protocol)));
        let protocol = match protocol {
            None => Protocol::Detect,
            Some("http") => Protocol::Http,
            Some("h2" | "http2") => Protocol::Http2,
            Some("grpc") => Protocol::Grpc,
            Some("tcp") => Protocol::Tcp,
            Some(other) => return Err(format!("`{other}` is no protocol: http, h2, grpc or tcp")),
        };
        let (service_port, app_port) = ports.split_once(':').unwrap_or((ports, ports));
        Ok(Self { service_port: port(service_port)?, app_port: port(app_port)?, protocol })
    }
}

/// `NAME:PORT=LOCAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamArg {
    /// The service port.
    pub port: ServicePort,
    /// The address that stands for it.
    pub local: SocketAddr,
}

impl FromStr for UpstreamArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, local) = text.split_once('=').ok_or("it reads NAME:PORT=LOCAL, as in recording.contact:80=127.0.0.1:9001")?;
        let (host, number) = name.rsplit_once(':').ok_or("the service port is missing, as in recording.contact:80")?;
        let service = ServiceName::from_fqdn(host).map_or_else(|| host.parse::<ServiceName>().map_err(|error| error.to_string()), Ok)?;
        let local = match local.parse::<SocketAddr>() {
            Ok(local) => local,
            Err(_) => {
                SocketAddr::from(([127, 0, 0, 1], port(local).map_err(|_| format!("`{local}` is no local address, as in 127.0.0.1:9001"))?))
            }
        };
        Ok(Self { port: ServicePort { service, port: port(number)? }, local })
    }
}

/// `FIRST-LAST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub std::ops::RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').ok_or("it reads FIRST-LAST, as in 20000-20999")?;
        let range = port(first)?..=port(last)?;
        if range.is_empty() { Err(format!("`{text}` has no port in it")) } else { Ok(Self(range)) }
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{text}` is no port from 1 to 65535"))
}

/// A time that a certificate may hold.
fn svid_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    let allowed = Duration::from_secs(5)..=Duration::from_secs(7 * 24 * 3600);
    if allowed.contains(&lifetime) { Ok(lifetime) } else { Err("a certificate holds from 5s to 168h".to_owned()) }
}

/// How often other meshes are asked to fetch a bundle.
fn bundle_refresh(text: &str) -> Result<Duration, String> {
    let refresh = duration(text)?;
    let allowed = Duration::from_secs(5)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&refresh) { Ok(refresh) } else { Err("a bundle is fetched from once in 5s to once in 24h".to_owned()) }
}

/// `30s`, `500ms`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is no time: write 500ms, 30s, 2m or 1h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no time: write 500ms, 30s, 2m or 1h"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("`{text}` is too long"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ports_read_as_documented() {
        let port = |service_port, app_port, protocol| Ok(PortArg { service_port, app_port, protocol });
        assert_eq!("80".parse(), port(80, 80, Protocol::Detect));
        assert_eq!("80:8080/http".parse(), port(80, 8080, Protocol::Http));
        assert_eq!("50051/grpc".parse(), port(50051, 50051, Protocol::Grpc));
        for bad in ["", "0", "80:", ":80", "80/ftp", "65536"] {
            bad.parse::<PortArg>().unwrap_err();
        }
    }

    #[test]
    fn upstreams_read_as_documented() {
        let upstream: UpstreamArg = "recording.contact:80=127.0.0.1:9001".parse().unwrap();
        assert_eq!(upstream.port.to_string(), "recording.contact.mesh:80");
        assert_eq!("recording.contact.mesh:80=9001".parse::<UpstreamArg>().unwrap(), upstream);
        for bad in ["recording.contact:80", "recording.contact=127.0.0.1:1", "recording.contact:80=x"] {
            bad.parse::<UpstreamArg>().unwrap_err();
        }
    }

    #[test]
    fn times_read_as_documented() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "30", "s", "1d", "-1s"] {
            duration(bad).unwrap_err();
        }
    }
}
