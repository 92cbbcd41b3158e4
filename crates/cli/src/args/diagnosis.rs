//! `lorica check`, `lorica routes`, `lorica bugreport`, as typed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use lorica_model::name::{Namespace, ServiceName};

use super::Output;

/// `lorica check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica check             what is found, and what to do
  lorica check --preflight what this host lacks, before anything runs
  lorica check -o json     for scripts; each check has a number that stays its own")]
pub struct CheckArgs {
    /// Look at this host alone, and ask no control plane.
    #[arg(long)]
    pub preflight: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica routes`.
#[derive(Debug, Args)]
#[command(after_help = "Shares of rules that follow each other are cumulative: one number is drawn for all of them.

Examples:
  lorica routes recording.contact                 as callers of its own namespace see it
  lorica routes recording.contact --from shop     as those of another do
  lorica routes gateway/edge.shop                 what comes in from outside")]
pub struct RoutesArgs {
    /// The service or the gateway.
    #[arg(value_name = "[gateway/]NAME[.NAMESPACE]")]
    pub of: RoutedArg,
    /// The namespace of the callers. Default: the service's own.
    #[arg(long, value_name = "NAMESPACE")]
    pub from: Option<Namespace>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `[service/|gateway/]NAME[.NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutedArg {
    /// Whether it is a gateway.
    pub gateway: bool,
    /// Its name.
    pub name: ServiceName,
}

impl FromStr for RoutedArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (gateway, name) = match text.split_once('/') {
            None => (false, text),
            Some(("service", name)) => (false, name),
            Some(("gateway", name)) => (true, name),
            Some((other, _)) => return Err(format!("`{other}` is neither `service` nor `gateway`")),
        };
        Ok(Self { gateway, name: name.parse().map_err(|error| format!("{error}"))? })
    }
}

/// `lorica bugreport`.
#[derive(Debug, Args)]
#[command(
    after_help = "In it are versions, what this host is, all checks, status, resources, receipts and the metrics of the proxies of this host. Private keys
and the data of Secrets are left out; names, addresses and policies are not: look before you send it to anybody.

Examples:
  lorica bugreport                        lorica-bugreport-TIME.tar.gz
  lorica bugreport --output report.tar.gz --access-logs"
)]
pub struct BugreportArgs {
    /// Where it goes. Default: `lorica-bugreport-TIME.tar.gz` here.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also the last 256 KiB of each access log of this host: paths of requests may tell of people.
    #[arg(long)]
    pub access_logs: bool,
}
