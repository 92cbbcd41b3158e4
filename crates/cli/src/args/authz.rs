//! `lorica authz` as typed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use lorica_model::name::{Label, Namespace, ServiceName};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use serde_json::Value;

use super::{HeaderArg, Output};

/// `lorica authz`.
#[derive(Debug, Subcommand)]
pub enum AuthzCommand {
    /// Say whether a caller may do something, and which rule says so. Nothing is sent.
    Can(AuthzCanArgs),
    /// Hold policies against what is expected of them; ends with 1 where one is not as expected.
    Test(AuthzTestArgs),
    /// Write the least policies that allow the calls which were seen.
    Suggest(AuthzSuggestArgs),
}

/// `lorica authz suggest`.
#[derive(Debug, Args)]
#[command(
    after_help = "What was seen since the control plane began is the evidence, and stands beside each rule. Segments of paths that are numbers or ids are
written {id}. The policies are written with `mode: Shadow`: apply them, watch `lorica policy shadow`, then take the line out.

Examples:
  lorica authz suggest -n contact > policies.yaml
  lorica authz suggest -n contact --service recording | lorica apply -f -"
)]
pub struct AuthzSuggestArgs {
    /// The namespace whose services are to be protected.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Namespace,
    /// One of its services.
    #[arg(long, value_name = "NAME")]
    pub service: Option<Label>,
}

/// `lorica authz can`.
#[derive(Debug, Args)]
#[command(
    after_help = "Decided by the code that proxies run, over the resources of files, or of the control plane without -f. Exit code: 0 if it
may, 1 if not.

Examples:
  lorica authz can call-routing.contact GET recording.contact/list
  lorica authz can spiffe://other.example/ns/shop/sa/web POST orders.shop:8080/new --header x-team=a
  lorica authz can web.shop DELETE orders.shop/7 --claim sub=ada --claim groups=admin
  lorica authz can nobody TCP database.shop:5432 --address 10.1.2.3 -f policies/"
)]
pub struct AuthzCanArgs {
    /// Who calls: an account, a SPIFFE ID, or `nobody` for who proves no identity.
    #[arg(value_name = "ACCOUNT[.NAMESPACE]|SPIFFE_ID|nobody")]
    pub caller: AskerArg,
    /// The method, or `TCP` for a connection whose bytes are not looked at.
    #[arg(value_name = "METHOD|TCP")]
    pub method: String,
    /// What is called.
    #[arg(value_name = "SERVICE[.NAMESPACE][:PORT][/PATH]")]
    pub call: CallArg,
    /// A header of the request.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<HeaderArg>,
    /// What the verified token of the request says; none: it has no token. A value that reads as JSON is that (`7`, `true`, `["a","b"]`), and a
    /// name with dots a path.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub claims: Vec<ClaimArg>,
    /// The host that the request names. Default: the service's name.
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// The address that the caller comes from.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub address: IpAddr,
    /// Where the resources stand. Default: the control plane's.
    #[command(flatten)]
    pub from: ResourcesArgs,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica authz test`.
#[derive(Debug, Args)]
#[command(after_help = "A file of expectations is a list of these:
  - {caller: call-routing.contact, may: GET recording.contact/list}
  - {caller: analytics.contact, mayNot: DELETE recording.contact/items/7, headers: {x-team: a}}
  - {caller: web.shop, may: DELETE orders.shop/7, claims: {sub: ada, groups: [admin]}}
  - {only: [call-routing.contact, desk.contact], may: POST recording.contact/items}   all other accounts may not

Examples:
  lorica authz test expectations.yaml -f policies/     in CI, without a mesh
  lorica authz test expectations.yaml                  against the resources of the control plane")]
pub struct AuthzTestArgs {
    /// The expectations.
    #[arg(required = true, value_name = "FILE")]
    pub expectations: Vec<PathBuf>,
    /// Where the resources stand. Default: the control plane's.
    #[command(flatten)]
    pub from: ResourcesArgs,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Where resources stand.
#[derive(Debug, Clone, Args)]
pub struct ResourcesArgs {
    /// Files, directories, or `-` for standard input, in place of the control plane.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// The trust domain of the mesh, where files are asked.
    #[arg(long, value_name = "NAME", default_value = "mesh.local")]
    pub trust_domain: TrustDomain,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskerArg {
    /// An account of the mesh.
    Account(Namespace, Label),
    /// Any identity.
    Id(SpiffeId),
    /// Who proves none.
    Nobody,
}

impl FromStr for AskerArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "nobody" {
            return Ok(Self::Nobody);
        }
        if text.starts_with("spiffe://") {
            return text.parse().map(Self::Id).map_err(|error: lorica_model::spiffe::SpiffeError| error.to_string());
        }
        let ServiceName { namespace, name } = text.parse().map_err(|error: lorica_model::name::NameError| error.to_string())?;
        Ok(Self::Account(namespace, name))
    }
}

/// What a token says: `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimArg {
    /// The claim's name, or its path.
    pub name: String,
    /// What it says.
    pub value: Value,
}

impl FromStr for ClaimArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("it reads NAME=VALUE, as in groups=admin")?;
        Ok(Self { name: name.to_owned(), value: serde_json::from_str(value).unwrap_or_else(|_| value.into()) })
    }
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallArg {
    /// The service.
    pub service: ServiceName,
    /// Its port, where one is named.
    pub port: Option<u16>,
    /// The path, with the query.
    pub path: String,
}

impl FromStr for CallArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (service, port) = match place.split_once(':') {
            Some((service, port)) => {
                (service, Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{port}` is no port"))?))
            }
            None => (place, None),
        };
        let service = service.parse().map_err(|error: lorica_model::name::NameError| error.to_string())?;
        Ok(Self { service, port, path: if path.is_empty() { "/".to_owned() } else { path.to_owned() } })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn calls_and_callers_are_read() {
        let call: CallArg = "recording.contact:8080/list?all".parse().unwrap();
        assert_eq!((call.service.to_string().as_str(), call.port, call.path.as_str()), ("recording.contact", Some(8080), "/list?all"));
        let call: CallArg = "web".parse().unwrap();
        assert_eq!((call.service.namespace.as_str(), call.port, call.path.as_str()), ("default", None, "/"));
        for wrong in ["", "/list", "web:0/", "web:x", "We b/"] {
            assert!(wrong.parse::<CallArg>().is_err(), "{wrong}");
        }
        for (text, value) in [("a=b", Value::from("b")), ("a=7", 7.into()), ("a=[\"b\"]", vec!["b"].into()), ("a=b=c", "b=c".into())] {
            assert_eq!(text.parse(), Ok(ClaimArg { name: "a".to_owned(), value }), "{text}");
        }
        assert!("a".parse::<ClaimArg>().is_err() && "=a".parse::<ClaimArg>().is_err());
        assert_eq!("nobody".parse::<AskerArg>().unwrap(), AskerArg::Nobody);
        assert!(matches!("ann.shop".parse().unwrap(), AskerArg::Account(namespace, _) if namespace.as_str() == "shop"));
        assert!(matches!("spiffe://a/b".parse().unwrap(), AskerArg::Id(_)));
        assert!("spiffe://".parse::<AskerArg>().is_err());
    }
}
