//! `lorica token` as typed.

use std::time::Duration;

use clap::{Args, Subcommand};
use lorica_model::name::{Label, ServiceName};

use super::{Output, duration};

/// `lorica token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which one host may join, once. It is printed this once.
    Create(TokenCreateArgs),
    /// Show all tokens, without their secrets.
    List(TokenListArgs),
    /// Take a token back, and let go of the host that joined with it.
    Revoke(TokenRevokeArgs),
}

/// `lorica token create`.
#[derive(Debug, Args)]
#[command(
    after_help = "The token names the control plane's address and its root's key, so that the host knows whom it joins. Who has it may join
as that host: hand it over as you would a password. Shown a second time, it is refused.

Examples:
  lorica token create --host web-1 --service web.shop > web-1.token
  lorica token create --host web-1 --for 10m --address 10.0.0.1:15012

On the host:
  lorica proxy --node --token-file web-1.token"
)]
pub struct TokenCreateArgs {
    /// The name that the host will have.
    #[arg(long, value_name = "NAME")]
    pub host: Label,
    /// How long the token holds.
    #[arg(long = "for", default_value = "1h", value_name = "TIME", value_parser = duration)]
    pub lifetime: Duration,
    /// A service whose workloads may run there. Without any, all services may.
    #[arg(long = "service", value_name = "NAME[.NAMESPACE]")]
    pub services: Vec<ServiceName>,
    /// Where the host reaches the control plane. Default: where that listens.
    #[arg(long = "address", value_name = "ADDRESS:PORT")]
    pub addresses: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica token list`.
#[derive(Debug, Args)]
pub struct TokenListArgs {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica token revoke`.
#[derive(Debug, Args)]
pub struct TokenRevokeArgs {
    /// The token's id, as `lorica token list` shows it.
    #[arg(value_name = "ID")]
    pub id: String,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}
