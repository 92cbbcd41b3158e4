//! `lorica envoy` as typed: a stock Envoy in the mesh, beside an app or as a gateway.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use lorica_model::name::{GatewayName, Label, Namespace, ServiceName};
use lorica_model::snapshot::Locality;

use super::{BindArg, PortArg, UpstreamArg};

/// `lorica envoy`.
#[derive(Debug, Subcommand)]
pub enum EnvoyCommand {
    /// Make a key, get an SVID, and print the bootstrap with which a stock Envoy joins the mesh.
    Bootstrap(EnvoyArgs),
}

/// `lorica envoy bootstrap`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica envoy bootstrap --service web.shop --port 80:8080/http --upstream recording.contact:80=127.0.0.1:9001 > envoy.yaml
  lorica envoy bootstrap --gateway edge.shop --listen 0.0.0.0 --bind 80=8080 --bind 443=8443 --access-log stdout > envoy.yaml
  envoy -c envoy.yaml")]
pub struct EnvoyArgs {
    /// The service that Envoy stands beside.
    #[arg(long, value_name = "NAME[.NAMESPACE]")]
    pub service: Option<ServiceName>,
    /// The namespace of a client.
    #[arg(short, long, value_name = "NAME", conflicts_with = "service")]
    pub namespace: Option<Namespace>,
    /// The account whose identity it has.
    #[arg(long, value_name = "NAME")]
    pub account: Option<Label>,
    /// Where it runs: `eu-central/eu-central-1a`. Policies that prefer near endpoints go by it, and others see it of this one.
    #[arg(long, env = "LORICA_LOCALITY", value_name = "REGION[/ZONE]")]
    pub locality: Option<Locality>,
    /// A port that the app listens on.
    #[arg(long = "port", value_name = "[SERVICE_PORT:]APP_PORT[/http|h2|grpc|tcp]", requires = "service")]
    pub ports: Vec<PortArg>,
    /// The address at which Envoy takes calls, one a --port in their order. Default: 127.0.0.1 with any free port.
    #[arg(long = "inbound", value_name = "ADDRESS:PORT", requires = "ports")]
    pub inbound: Vec<SocketAddr>,
    /// A local address that stands for a service port.
    #[arg(long = "upstream", value_name = "NAME:PORT=LOCAL")]
    pub upstreams: Vec<UpstreamArg>,
    /// The Gateway that Envoy runs.
    #[arg(long, value_name = "NAME[.NAMESPACE]", conflicts_with_all = ["upstreams", "service", "namespace", "account"])]
    pub gateway: Option<GatewayName>,
    /// The address on which the gateway's listener ports are bound.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS", requires = "gateway")]
    pub listen: IpAddr,
    /// A listener port that is bound elsewhere: `80=8080`, `443=0.0.0.0:8443`. Port 0: one that is free now.
    #[arg(long = "bind", value_name = "LISTENER_PORT=[ADDRESS:]PORT", requires = "gateway")]
    pub binds: Vec<BindArg>,
    /// Where Envoy's access log goes, as JSON with the keys of Lorica's: `off`, `stdout`, `stderr` or a file.
    #[arg(long, default_value = "off", value_name = "TARGET")]
    pub access_log: String,
    /// Where SVID and bundle are kept. Default: below the state directory.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Envoy's admin address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// Stay, and renew the SVID for as long as it runs.
    #[arg(long)]
    pub watch: bool,
}
