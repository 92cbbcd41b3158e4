//! The certificates that the suite's own code makes before it begins, as the Secrets and ConfigMaps that its manifests name.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;

const INFRA: &str = "gateway-conformance-infra";

/// A certificate with its key.
pub(crate) struct Pair {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

/// All of them.
pub(crate) struct Certificates {
    /// By the Secret's name.
    pairs: BTreeMap<&'static str, (Vec<&'static str>, Pair)>,
    /// By the ConfigMap's name.
    roots: BTreeMap<&'static str, rcgen::Certificate>,
}

impl Certificates {
    /// Makes them.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut made = Self { pairs: BTreeMap::new(), roots: BTreeMap::new() };
        let hosts = [
            "example.org",
            "*.example.org",
            "unknown-example.org",
            "second-example.org",
            "https-listener.org",
            "wildcard.org",
            "*.wildcard.org",
        ];
        made.pairs.insert("tls-validity-checks-certificate", (vec![INFRA], alone(&hosts)?));
        made.pairs.insert("certificate", (vec!["gateway-conformance-web-backend"], alone(&hosts)?));

        let backends = ["abc.example.com", "other.example.com", "spiffe://abc.example.com/test-identity"];
        let authority = made.authority("tls-checks-ca-certificate")?;
        made.signed("tls-checks-certificate", vec![INFRA], &backends, &authority)?;
        made.signed("tls-checks-client-certificate", vec![INFRA], &["client.example.com"], &authority)?;
        let passthrough = ["abc.example.com", "*.example.com", "passthrough.example.com"];
        made.signed("tls-passthrough-checks-certificate", vec![INFRA, "gateway-conformance-app-backend"], &passthrough, &authority)?;
        made.signed("tls-terminate-checks-certificate", vec![INFRA], &["*.example.com", "*.example.org"], &authority)?;
        for (authority, client) in [
            ("tls-validity-checks-ca-certificate", "tls-validity-checks-client-certificate"),
            ("tls-validity-checks-per-port-ca-certificate", "tls-validity-checks-per-port-client-certificate"),
        ] {
            let authority = made.authority(authority)?;
            made.signed(client, vec![INFRA], &["client.example.org"], &authority)?;
        }
        made.authority("mismatch-ca-certificate")?;
        Ok(made)
    }

    fn authority(&mut self, name: &'static str) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        self.roots.insert(name, params.self_signed(&key)?);
        Ok(Issuer::new(params, key))
    }

    fn signed(
        &mut self,
        name: &'static str,
        namespaces: Vec<&'static str>,
        names: &[&str],
        by: &Issuer<'static, KeyPair>,
    ) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params(names)?.signed_by(&key, by)?;
        self.pairs.insert(name, (namespaces, Pair { certificate, key }));
        Ok(())
    }

    /// The certificate of a Secret.
    pub(crate) fn pair(&self, secret: &str) -> anyhow::Result<&Pair> {
        self.pairs.get(secret).map(|(_, pair)| pair).with_context(|| format!("the suite makes no Secret {secret}"))
    }

    /// The root in a ConfigMap.
    pub(crate) fn root(&self, config_map: &str) -> anyhow::Result<CertificateDer<'static>> {
        Ok(self.roots.get(config_map).with_context(|| format!("the suite makes no ConfigMap {config_map}"))?.der().clone())
    }

    /// As documents.
    pub(crate) fn documents(&self) -> Vec<Value> {
        let secrets = self.pairs.iter().flat_map(|(name, (namespaces, pair))| {
            namespaces.iter().map(move |namespace| {
                json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": { "name": name, "namespace": namespace },
                    "type": "kubernetes.io/tls",
                    "stringData": { "tls.crt": pair.certificate.pem(), "tls.key": pair.key.serialize_pem() },
                })
            })
        });
        let roots = self.roots.iter().map(|(name, certificate)| config_map(name, &certificate.pem()));
        secrets.chain(roots).collect()
    }

    /// A ConfigMap of this name with the root of another.
    pub(crate) fn copy_of_root(&self, name: &str, of: &str) -> anyhow::Result<Value> {
        Ok(config_map(name, &self.roots.get(of).with_context(|| format!("the suite makes no ConfigMap {of}"))?.pem()))
    }
}

fn config_map(name: &str, pem: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": INFRA }, "data": { "ca.crt": pem } })
}

fn params(names: &[&str]) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    for name in names {
        let name = Ia5String::try_from(*name)?;
        let is_uri = name.as_str().contains("://");
        params.subject_alt_names.push(if is_uri { SanType::URI(name) } else { SanType::DnsName(name) });
    }
    Ok(params)
}

fn alone(names: &[&str]) -> anyhow::Result<Pair> {
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params(names)?.self_signed(&key)?, key })
}
