//! `lorica ca`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Output, duration};

/// `lorica ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Roots, intermediate, and how far a rotation is: who has done what it waits for, and who holds it up.
    Status(CaStatusArgs),
    /// Replace the root without a failed call: it goes on by itself from phase to phase, and back until the old root is withdrawn.
    Rotate(CaRotateArgs),
    /// Revoke a workload or an identity: no new certificate, no connection, and those that are open are closed.
    Revoke(CaRevokeArgs),
    /// List who is revoked, since when and why.
    Revocations(CaStatusArgs),
    /// Take a revocation back.
    Reinstate(CaReinstateArgs),
    /// Print this mesh's bundle as SPIFFE has it, to be written into a TrustBundle of another mesh.
    Bundle,
    /// Take the root's key offline: write it to a file, and forget it here.
    ExportRootKey(CaExportArgs),
    /// Print a request for a new intermediate, to be signed where the root's key is.
    RequestIntermediate,
    /// Sign a request for an intermediate with the root's key. Needs no control plane.
    SignIntermediate(CaSignArgs),
    /// Sign with the intermediate that was requested, from now on.
    InstallIntermediate(CaFileArgs),
    /// Make a new intermediate now, where the root's key is at the control plane.
    ReplaceIntermediate,
}

/// `lorica ca status`.
#[derive(Debug, Args)]
pub struct CaStatusArgs {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica ca rotate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica ca rotate                                            to a new root that is made here
  lorica ca rotate --root-cert root.pem --root-key root.key   to a root of yours
  lorica ca rotate --root-cert root.pem --cert ca.pem --key ca.key
                                                              to a root of yours whose key stays offline
  lorica ca status                                            how far it is
  lorica ca rotate --waive recording-7f3a2c.contact           do not wait for a workload that is gone for good
  lorica ca rotate --rollback                                 back to the old root")]
pub struct CaRotateArgs {
    /// The new root, PEM. Default: one is made.
    #[arg(long, value_name = "FILE")]
    pub root_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "root_cert")]
    pub root_key: Option<PathBuf>,
    /// An intermediate below it, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["root_cert", "key"])]
    pub cert: Option<PathBuf>,
    /// The intermediate's key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Turn the rotation back.
    #[arg(long, conflicts_with_all = ["root_cert", "waive"])]
    pub rollback: bool,
    /// Do not wait for a workload (or `host/NAME`) any more. Should it still be there, it is refused once the old root is withdrawn.
    #[arg(long, value_name = "WORKLOAD", conflicts_with = "root_cert")]
    pub waive: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `lorica ca revoke`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica ca revoke recording-7f3a2c.contact --reason \"host lost\"    one workload
  lorica ca revoke spiffe://mesh.local/ns/contact/sa/recording      every workload with this identity
  lorica ca reinstate recording-7f3a2c.contact                      take it back")]
pub struct CaRevokeArgs {
    /// The workload, as `lorica status` shows it, or an identity.
    #[arg(value_name = "WORKLOAD|spiffe://…")]
    pub subject: String,
    /// Why, for whoever looks later.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How long to wait for the proxies.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: std::time::Duration,
}

/// `lorica ca reinstate`.
#[derive(Debug, Args)]
pub struct CaReinstateArgs {
    /// The workload or identity, as `lorica ca revocations` shows it.
    #[arg(value_name = "WORKLOAD|spiffe://…")]
    pub subject: String,
    /// How long to wait for the proxies.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: std::time::Duration,
}

/// `lorica ca export-root-key`.
#[derive(Debug, Args)]
pub struct CaExportArgs {
    /// The file to write, root certificate and key in one, mode 0600. It must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// A file with a certificate.
#[derive(Debug, Args)]
pub struct CaFileArgs {
    /// The certificate, PEM.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `lorica ca sign-intermediate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lorica ca request-intermediate > request.pem                        at the control plane
  lorica ca sign-intermediate --root root.pem request.pem > ca.pem    where the root's key is
  lorica ca install-intermediate ca.pem                               at the control plane")]
pub struct CaSignArgs {
    /// The request, PEM.
    #[arg(value_name = "FILE")]
    pub request: PathBuf,
    /// The root certificate and its key in one file, PEM, as `export-root-key` writes them.
    #[arg(long, value_name = "FILE")]
    pub root: PathBuf,
    /// The trust domain of the mesh.
    #[arg(long, value_name = "NAME", default_value = "mesh.local")]
    pub trust_domain: String,
    /// How long the intermediate holds, at most to the end of the root.
    #[arg(long, value_name = "TIME", default_value = "8760h", value_parser = duration)]
    pub lifetime: std::time::Duration,
}
