//! `lorica fault` as typed.

use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use lorica_model::name::{Label, Namespace, ObjectName, ServiceName};

use super::{Output, duration};

/// `lorica fault`.
#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Let calls of a service fail, or wait, for a while.
    Add(Box<FaultAddArgs>),
    /// Show what is made to fail, for whom, and how long still.
    List(FaultListArgs),
    /// End faults before their time.
    Remove(FaultRemoveArgs),
}

/// `lorica fault add`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).multiple(true).args(["abort", "abort_grpc", "delay", "reset", "bandwidth", "dns"]),
    after_help = "What is written is a FaultPolicy of the service's name, in place of one that is there; --print shows it. Callers' proxies carry it
out, and end it by their own clocks. See docs/faults.md.

Examples:
  lorica fault add recording.contact --abort 503 --percent 20 --for 5m
  lorica fault add recording.contact --delay 100ms..2s --header x-test=1
  lorica fault add agents.contact --abort-grpc UNAVAILABLE --caller routing.contact
  lorica fault add queue.contact --reset --percent 0.5 --name queue-resets
  lorica fault add recording.contact --dns no-such-name --for 1m"
)]
pub struct FaultAddArgs {
    /// The service whose calls meet it.
    #[arg(value_name = "SERVICE[.NAMESPACE]")]
    pub service: ServiceName,
    /// Answer with this status of HTTP, 200 to 599, in place of the service.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..600), conflicts_with = "abort_grpc")]
    pub abort: Option<u16>,
    /// Answer with this status of gRPC in place of the service.
    #[arg(long, value_name = "STATUS")]
    pub abort_grpc: Option<String>,
    /// Wait before the call goes on: a time, or any between two.
    #[arg(long, value_name = "TIME|FROM..TO")]
    pub delay: Option<DelayArg>,
    /// Reset the connection, or the stream, in place of an answer.
    #[arg(long)]
    pub reset: bool,
    /// Let answers come so slowly, in bytes a second.
    #[arg(long, value_name = "BYTES")]
    pub bandwidth: Option<String>,
    /// Answer questions for the service's name so.
    #[arg(long, value_name = "ANSWER")]
    pub dns: Option<DnsArg>,
    /// The share of calls that meet it.
    #[arg(long, value_name = "0-100", default_value_t = 100.0, value_parser = percent)]
    pub percent: f64,
    /// Only requests with this header; several: with all of them.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<HeaderArg>,
    /// Only calls of this account; several: of any of them.
    #[arg(long = "caller", value_name = "ACCOUNT[.NAMESPACE]")]
    pub callers: Vec<CallerArg>,
    /// When it ends by itself, 24h at most.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = lasting)]
    pub lasting: Duration,
    /// The policy's name. Default: the service's.
    #[arg(long, value_name = "NAME")]
    pub name: Option<ObjectName>,
    /// Show the FaultPolicy and change nothing.
    #[arg(long)]
    pub print: bool,
    /// How long to wait for the proxies concerned.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica fault list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica fault list                 of all namespaces; what has ended is marked so
  lorica fault list -n contact -o json")]
pub struct FaultListArgs {
    /// Of services in this namespace only.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<Namespace>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica fault remove`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica fault remove recording.contact    the policies of this name, or about this service
  lorica fault remove --all                every FaultPolicy of the mesh, those that have ended among them")]
pub struct FaultRemoveArgs {
    /// A FaultPolicy, or the service that it is about.
    #[arg(value_name = "NAME|SERVICE[.NAMESPACE]", required_unless_present = "all")]
    pub name: Option<ServiceName>,
    /// Every FaultPolicy of the mesh.
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
    /// How long to wait for the proxies concerned.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `2s`, or `100ms..2s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayArg {
    /// The shortest.
    pub from: String,
    /// The longest, where it is another.
    pub to: Option<String>,
}

impl FromStr for DelayArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").map_or((text, None), |(from, to)| (from, Some(to)));
        for time in std::iter::once(from).chain(to) {
            duration(time)?;
        }
        Ok(Self { from: from.to_owned(), to: to.map(str::to_owned) })
    }
}

/// What questions for names are answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DnsArg {
    /// SERVFAIL.
    ServerFailure,
    /// NXDOMAIN.
    NoSuchName,
    /// Nothing.
    Timeout,
}

impl DnsArg {
    /// The word for it in a FaultPolicy.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ServerFailure => "ServerFailure",
            Self::NoSuchName => "NoSuchName",
            Self::Timeout => "Timeout",
        }
    }
}

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderArg {
    /// The header's name.
    pub name: String,
    /// What its value must be.
    pub value: String,
}

impl FromStr for HeaderArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("it reads NAME=VALUE, as in x-test=1")?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

/// `ACCOUNT[.NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerArg {
    /// The account.
    pub account: Label,
    /// Its namespace; none: the policy's.
    pub namespace: Option<Namespace>,
}

impl FromStr for CallerArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (account, namespace) = text.split_once('.').map_or((text, None), |(account, namespace)| (account, Some(namespace)));
        let fail = |error: lorica_model::name::NameError| error.to_string();
        Ok(Self { account: Label::new(account).map_err(fail)?, namespace: namespace.map(Namespace::new).transpose().map_err(fail)? })
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| format!("`{text}` is no share: write a number from 0 to 100"))
}

/// How long a fault may be asked for.
fn lasting(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&time) {
        Ok(time)
    } else {
        Err("a fault lasts from 1s to 24h; a FaultPolicy with a later `ends` may be applied from a file".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn faults_read_as_documented() {
        let delay: DelayArg = "100ms..2s".parse().unwrap();
        assert_eq!((delay.from.as_str(), delay.to.as_deref()), ("100ms", Some("2s")));
        assert_eq!("2s".parse::<DelayArg>().unwrap().to, None);
        let caller: CallerArg = "routing.contact".parse().unwrap();
        assert_eq!((caller.account.as_str(), caller.namespace.unwrap().as_str()), ("routing", "contact"));
        assert_eq!("x-test=a=b".parse::<HeaderArg>().unwrap().value, "a=b");
        assert_eq!((percent("20%"), lasting("24h")), (Ok(20.0), Ok(Duration::from_secs(86_400))));
        for bad in ["", "2", "..2s", "1s..", "1s..x"] {
            bad.parse::<DelayArg>().unwrap_err();
        }
        for bad in ["", "x-test", "=1"] {
            bad.parse::<HeaderArg>().unwrap_err();
        }
        for bad in ["101", "-1", "NaN", "a"] {
            percent(bad).unwrap_err();
        }
        for bad in ["0s", "25h", "5"] {
            lasting(bad).unwrap_err();
        }
    }
}
