//! `lorica explain` and `lorica tap` as typed.

use std::time::Duration;

use clap::Args;
use lorica_api::explain::{TAP_RATE, TAP_SECONDS};
use lorica_model::name::{Label, Namespace};

use super::{Output, UpstreamArg, duration};

/// `lorica explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "A command is run in the mesh as `lorica run` would, and its first request is recorded in full by every proxy that it passes. What the
command prints goes to stderr, the story to stdout. Of a request that is over, proxies remember less: each worker its last 256.

Examples:
  lorica explain -- curl http://recording.contact/list
  lorica explain -n shop --account web -- curl http://recording.contact/list     as another caller
  lorica explain 7d0f9a31-3c0e-4f5a-9d57-5b1d4b1c9a10                            by its x-request-id, as logs and answers have it
  lorica explain -o json -- curl http://recording.contact/list"
)]
pub struct ExplainArgs {
    /// The `x-request-id` of a request that is over.
    #[arg(value_name = "REQUEST_ID", required_unless_present = "command", conflicts_with = "command")]
    pub request: Option<String>,
    /// The namespace from which the command calls. Default: `default`.
    #[arg(short, long, value_name = "NAME", conflicts_with = "request")]
    pub namespace: Option<Namespace>,
    /// The account whose identity it has. Default: `default`.
    #[arg(long, value_name = "NAME", conflicts_with = "request")]
    pub account: Option<Label>,
    /// A local address that stands for a service port, where namespaces are not allowed.
    #[arg(long = "upstream", value_name = "NAME:PORT=LOCAL", conflicts_with = "request")]
    pub upstreams: Vec<UpstreamArg>,
    /// How long proxies may take to tell of it once the command has ended.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
    /// The command and its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// `lorica tap`.
#[derive(Debug, Args)]
#[command(
    after_help = "Requests are shown as they end, by the proxies on either side of them: of a service's workloads what they are asked and what they ask. Bodies
are never shown, and fields that hold secrets are left out. What is over the rate, or more than is read in time, is dropped and counted;
no request waits for a tap.

Examples:
  lorica tap                                               everything, 100 requests a second
  lorica tap service/recording.contact                     what it is asked, and what it asks
  lorica tap deploy/recording.contact --failed             only what failed
  lorica tap gateway/edge.shop --filter 'request.path.startsWith(\"/api/\") && request.method != \"GET\"'
  lorica tap -o json --share 10 --rate 1000 | jq .request  with fields, of a tenth of the proxies"
)]
pub struct TapArgs {
    /// Whose requests: service/NAME, deploy/NAME, workload/NAME or gateway/NAME, each with .NAMESPACE. Default: everybody's.
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// A condition in CEL, over the attributes that policies know.
    #[arg(long, value_name = "CEL")]
    pub filter: Option<String>,
    /// Only requests that failed: without an answer, with one of 500 or more, or that the mesh answered.
    #[arg(long)]
    pub failed: bool,
    /// The most requests a second, of all proxies together.
    #[arg(long, default_value_t = TAP_RATE, value_name = "N")]
    pub rate: u32,
    /// How long, 10 minutes at most.
    #[arg(long = "for", default_value = TAP_FOR, value_name = "TIME", value_parser = duration)]
    pub lifetime: Duration,
    /// Of how many of the proxies it is asked, in percent; one at least.
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub share: u8,
    /// End after so many requests.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// [`TAP_SECONDS`] as it is typed.
const TAP_FOR: &str = "10m";
const _: () = assert!(TAP_SECONDS == 600);
