//! `lorica proxy` as typed: a proxy that runs by itself, and the small grammars of its values.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use lorica_model::name::{GatewayName, Namespace, ServiceName};
use lorica_model::snapshot::Locality;
use lorica_model::spiffe::TrustDomain;

use super::{MetricsArgs, PortArg, TracingArgs, UpstreamArg, duration, port};

const AFTER: &str =
    "Configuration: Services, HTTPRoutes and AuthenticationPolicies as for `lorica apply`; endpoints are Workloads (address, ports,
transport: Plaintext or MutualTls). On SIGHUP all files are read again: a good change holds from the next request on, a bad
one is shown with its place, changes nothing, and the configuration before it stays in force.

Identity: DIR holds svid.pem (private key and certificate chain, mode 600) and bundle.pem (the roots to trust). Both are looked
at once a second and read again when they change; no connection is cut.

SIGTERM or SIGINT: listeners close, what is under way is finished within --drain. A second one ends it at once.

Examples:
  lorica proxy --config mesh.yaml --upstream web.shop:80=127.0.0.1:9000
  lorica proxy --config mesh.yaml --identity /etc/lorica/cart --upstream web.shop:80=127.0.0.1:9000
  lorica proxy --config mesh.yaml --identity /etc/lorica/web --service web.shop --port 80:8080/http --inbound 8080=0.0.0.0:9443
  lorica proxy --gateway edge.shop --listen 0.0.0.0 --bind 80=8080 --bind 443=8443 --locality eu-central/eu-central-1a
  lorica proxy --gateway edge --config gateway.yaml --bind 80=8080
  lorica proxy --node --token-file web-1.token this host joins the mesh
  lorica proxy --node --xds 10.0.0.1:15012 --root-file root.pem --service-account-token-file /var/run/secrets/tokens/lorica
                                               the agent of a pod
  kill -HUP PID                                take the changed files into use";

/// `lorica proxy`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct ProxyArgs {
    /// Files with resources, as `lorica apply` takes them; directories, too. Read again on SIGHUP.
    #[arg(short, long = "config", required_unless_present_any = ["gateway", "node"], value_name = "FILE|DIR")]
    pub config: Vec<PathBuf>,
    /// The Gateway that it runs: from the control plane, or from --config.
    #[arg(long, value_name = "NAME[.NAMESPACE]", conflicts_with_all = ["upstreams", "service", "namespace"])]
    pub gateway: Option<GatewayName>,
    /// Run the agent of this host: it joins with --token-file, keeps the host's identity, and lets `lorica run` work here as it does beside the control plane.
    #[arg(long, conflicts_with_all = ["config", "gateway", "upstreams", "service", "namespace", "identity"])]
    pub node: bool,
    /// The file with the token of `lorica token create`; `-` is standard input. Needed until the host has joined.
    #[arg(long, value_name = "FILE", requires = "node")]
    pub token_file: Option<PathBuf>,
    /// In a pod of Kubernetes: the file with the token of its service account, which is read anew at each renewal. The agent speaks for that account.
    #[arg(long, value_name = "FILE", requires_all = ["node", "xds", "root_file"], conflicts_with = "token_file")]
    pub service_account_token_file: Option<PathBuf>,
    /// The root by which it knows the control plane, PEM.
    #[arg(long, value_name = "FILE", requires = "service_account_token_file")]
    pub root_file: Option<PathBuf>,
    /// The trust domain of the mesh.
    #[arg(long, value_name = "NAME", default_value = "mesh.local", requires = "service_account_token_file")]
    pub trust_domain: TrustDomain,
    /// Where the control plane is reached, in place of what the token says.
    #[arg(long = "xds", value_name = "ADDRESS:PORT", requires = "node")]
    pub xds: Vec<String>,
    /// The Unix socket of the SPIFFE Workload API, open to every user that reaches it; `workload.sock` beside the other unless given.
    #[arg(long, value_name = "PATH", requires = "node")]
    pub workload_socket: Option<PathBuf>,
    /// The address at which workloads of other hosts reach those of this one. Default: the one from which it reaches the control plane.
    #[arg(long, value_name = "ADDRESS", requires = "node")]
    pub advertise: Option<IpAddr>,
    /// The address on which the gateway's listener ports are bound.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS", requires = "gateway")]
    pub listen: IpAddr,
    /// A listener port that is bound elsewhere: `80=8080`, `443=0.0.0.0:8443`. Port 0: any free one.
    #[arg(long = "bind", value_name = "LISTENER_PORT=[ADDRESS:]PORT", requires = "gateway")]
    pub binds: Vec<BindArg>,
    /// The directory of its identity: svid.pem and bundle.pem. Without it, the proxy speaks plaintext only.
    #[arg(long, value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// A local address that stands for a service port. Port 0: any free one.
    #[arg(long = "upstream", value_name = "NAME:PORT=LOCAL")]
    pub upstreams: Vec<UpstreamArg>,
    /// The service that the app behind the proxy is a workload of.
    #[arg(long, value_name = "NAME[.NAMESPACE]")]
    pub service: Option<ServiceName>,
    /// The namespace of a client: whose routes hold for it. Default: its identity's, else `default`.
    #[arg(short, long, value_name = "NAME", conflicts_with = "service")]
    pub namespace: Option<Namespace>,
    /// A port of 127.0.0.1 that the app listens on, the port that callers use for it, and what it speaks.
    #[arg(long = "port", value_name = "[SERVICE_PORT:]APP_PORT[/http|h2|grpc|tcp]", requires = "service")]
    pub ports: Vec<PortArg>,
    /// The address at which calls for an app port are taken. Port 0: any free one.
    #[arg(long = "inbound", value_name = "APP_PORT=ADDRESS", requires = "service")]
    pub inbound: Vec<InboundArg>,
    /// Its version label: `v2`.
    #[arg(long, value_name = "LABEL")]
    pub version_label: Option<String>,
    /// Where it runs: `eu-central/eu-central-1a`. Policies that prefer near endpoints go by it, and others see it of this one.
    #[arg(long, env = "LORICA_LOCALITY", value_name = "REGION[/ZONE]")]
    pub locality: Option<Locality>,
    /// Where the access log goes: `off`, `stdout`, `stderr` or a file.
    #[arg(long, default_value = "off", value_name = "TARGET")]
    pub access_log: String,
    /// Which exchanges are traced, and where their spans go.
    #[command(flatten)]
    pub traces: TracingArgs,
    /// How many threads serve, each with a listening socket and connections of its own: a number, or `auto` for one per core.
    #[arg(long, default_value = "1", value_name = "N|auto")]
    pub workers: WorkersArg,
    /// Where /metrics and /ready are served. Port 0: any free one, which the line `serving: …` tells.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    pub metrics: SocketAddr,
    /// How much its metrics may grow.
    #[command(flatten)]
    pub budget: MetricsArgs,
    /// How long exchanges may go on once it is to end.
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = duration)]
    pub drain: Duration,
}

/// `APP_PORT=ADDRESS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundArg {
    /// The port that the app listens on.
    pub app_port: u16,
    /// The address at which calls for it are taken.
    pub address: SocketAddr,
}

impl FromStr for InboundArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (app_port, address) = text.split_once('=').ok_or("it reads APP_PORT=ADDRESS, as in 8080=127.0.0.1:9443")?;
        let address = match address.parse() {
            Ok(address) => address,
            Err(_) => SocketAddr::from((
                [127, 0, 0, 1],
                port(address).map_err(|_| format!("`{address}` is no address with a port, as in 127.0.0.1:9443"))?,
            )),
        };
        Ok(Self { app_port: port(app_port)?, address })
    }
}

/// `LISTENER_PORT=[ADDRESS:]PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindArg {
    /// The port, as the gateway's listeners say it.
    pub port: u16,
    /// The address; none: that of --listen.
    pub address: Option<IpAddr>,
    /// The port that is bound.
    pub bound: u16,
}

impl FromStr for BindArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const READS: &str = "it reads LISTENER_PORT=[ADDRESS:]PORT, as in 80=8080 or 443=0.0.0.0:8443";
        let (listener, bound) = text.split_once('=').ok_or(READS)?;
        let listener = port(listener)?;
        if let Ok(bound) = bound.parse::<u16>() {
            return Ok(Self { port: listener, address: None, bound });
        }
        let bound: SocketAddr = bound.parse().map_err(|_| READS)?;
        Ok(Self { port: listener, address: Some(bound.ip()), bound: bound.port() })
    }
}

/// `N` or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkersArg {
    /// As many.
    Count(usize),
    /// One for each core that this process may use.
    Auto,
}

impl FromStr for WorkersArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
        count.map(Self::Count).ok_or_else(|| format!("`{text}` is no number of workers: write 1 to {MOST}, or `auto`"))
    }
}

/// The most workers, as `lorica_proxy::standalone::MAX_WORKERS` has it.
const MOST: usize = 512;

impl WorkersArg {
    /// How many that is here.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Auto => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn inbound_addresses_read_as_documented() {
        let inbound: InboundArg = "8080=127.0.0.1:9443".parse().unwrap();
        assert_eq!(inbound, InboundArg { app_port: 8080, address: ([127, 0, 0, 1], 9443).into() });
        assert_eq!("8080=9443".parse(), Ok(inbound));
        assert_eq!("8080=0.0.0.0:0".parse::<InboundArg>().unwrap().address.port(), 0);
        for bad in ["8080", "8080=", "=9443", "0=9443", "8080=localhost:9443", "8080=0"] {
            bad.parse::<InboundArg>().unwrap_err();
        }
    }

    #[test]
    fn workers_read_as_documented() {
        assert_eq!("4".parse(), Ok(WorkersArg::Count(4)));
        assert!("auto".parse::<WorkersArg>().unwrap().count() >= 1);
        for bad in ["", "0", "-1", "513", "two"] {
            bad.parse::<WorkersArg>().unwrap_err();
        }
    }
}
