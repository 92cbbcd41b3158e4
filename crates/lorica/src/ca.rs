//! What of `lorica ca` needs no control plane, and the files of a CA of one's own: PEM files go in, an intermediate comes out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use lorica_cli::args::{CaSignArgs, ControlArgs};
use lorica_cli::printer::Printer;
use lorica_identity::SecretPem;
use lorica_identity::intermediate::{OwnCa, OwnIntermediate, sign_intermediate as sign};

/// Signs a request for an intermediate where the root's key is.
pub(crate) fn sign_intermediate(arguments: &CaSignArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let trust_domain = arguments.trust_domain.parse().context("--trust-domain")?;
    // Certificate and key are told apart by their headings.
    let root = read(&arguments.root)?;
    let request = read(&arguments.request)?;
    let signed = sign(&trust_domain, &root, &SecretPem::new(root.clone()), &request, arguments.lifetime, SystemTime::now())?;
    printer.data(signed.trim_end());
    printer.note("next, at the control plane: lorica ca install-intermediate FILE");
    Ok(ExitCode::SUCCESS)
}

/// The CA that files bring to a control plane; none: there are no files.
pub(crate) fn own(arguments: &ControlArgs) -> anyhow::Result<Option<OwnCa>> {
    let Some(root) = &arguments.ca_root_cert else { return Ok(None) };
    let key =
        |path: &Option<PathBuf>| -> anyhow::Result<Option<SecretPem>> { Ok(path.as_deref().map(read).transpose()?.map(SecretPem::new)) };
    let certificate = arguments.ca_cert.as_deref().map(read).transpose()?;
    let intermediate = certificate.zip(key(&arguments.ca_key)?).map(|(certificate, key)| OwnIntermediate { certificate, key });
    Ok(Some(OwnCa { root_certificate: read(root)?, root_key: key(&arguments.ca_root_key)?, intermediate }))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}
