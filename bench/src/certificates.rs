//! One authority and two identities a run, as files: what every peer takes, and the form that Lorica takes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: String =
        text.as_bytes().chunks(64).flat_map(|line| [&String::from_utf8_lossy(line), "\n"].concat().into_bytes()).map(char::from).collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// The files.
pub(crate) struct Certificates {
    /// The authority that everybody trusts.
    pub(crate) authority: PathBuf,
    /// The caller's.
    pub(crate) client: Identity,
    /// The callee's.
    pub(crate) server: Identity,
}

/// One identity in three forms.
pub(crate) struct Identity {
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub(crate) both: PathBuf,
    /// A directory with `svid.pem` and `bundle.pem`, as Lorica wants them.
    pub(crate) directory: PathBuf,
}

impl Certificates {
    /// Makes them in `place`.
    pub(crate) fn make(place: &Path) -> anyhow::Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, "bench authority");
        parameters.subject_alt_names = vec![SanType::URI("spiffe://mesh.local".try_into()?)];
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let path = place.join("authority.pem");
        fs::write(&path, pem("CERTIFICATE", authority.der()))?;
        let identity = |account: &str| -> anyhow::Result<Identity> {
            let mut parameters = CertificateParams::default();
            parameters.subject_alt_names = vec![
                SanType::URI(format!("spiffe://mesh.local/ns/bench/sa/{account}").as_str().try_into()?),
                SanType::DnsName("web.bench.mesh".try_into()?),
                // A name that is none of the mesh's, for callers that know no port of it.
                SanType::DnsName("web.bench".try_into()?),
            ];
            parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = parameters.signed_by(&key, &authority)?;
            let directory = place.join(account);
            fs::create_dir_all(&directory)?;
            let written = |path: PathBuf, text: String| -> anyhow::Result<PathBuf> {
                use std::os::unix::fs::PermissionsExt as _;
                fs::write(&path, text)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                Ok(path)
            };
            written(directory.join("svid.pem"), pem("PRIVATE KEY", &key.serialize_der()) + &pem("CERTIFICATE", certificate.der()))?;
            written(directory.join("bundle.pem"), pem("CERTIFICATE", authority.der()))?;
            Ok(Identity {
                certificate: written(place.join(format!("{account}.crt")), pem("CERTIFICATE", certificate.der()))?,
                both: written(
                    place.join(format!("{account}.both.pem")),
                    pem("CERTIFICATE", certificate.der()) + &pem("PRIVATE KEY", &key.serialize_der()),
                )?,
                key: written(place.join(format!("{account}.key")), pem("PRIVATE KEY", &key.serialize_der()))?,
                directory,
            })
        };
        Ok(Self { client: identity("client").context("the caller's identity")?, server: identity("web")?, authority: path })
    }
}
