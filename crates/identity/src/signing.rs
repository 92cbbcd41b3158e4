//! Whether a certificate may sign what a CA is to sign: a certificate and the time in, what is wrong with it out.

use std::time::SystemTime;

use lorica_model::spiffe::TrustDomain;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::certificate::{printable, system_time, time_text};

/// Looks whether `certificate` may stand above `below` further CAs for identities of `trust_domain` at `now`. The error says what is wrong.
pub(crate) fn may_sign(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain, below: u32, now: SystemTime) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| format!("it is no X.509 certificate: {error}"))?;
    let validity = certificate.validity();
    let (begin, end) = (system_time(validity.not_before.timestamp()), system_time(validity.not_after.timestamp()));
    if now >= end {
        return Err(format!("it ended at {}", time_text(end)));
    }
    if now < begin {
        return Err(format!("it begins at {} only", time_text(begin)));
    }
    let mut ca = false;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                ca = constraints.ca;
                if let Some(longest) = constraints.path_len_constraint.filter(|longest| *longest < below) {
                    return Err(format!("its path length of {longest} allows fewer CAs below it than the {below} that are needed"));
                }
            }
            ParsedExtension::KeyUsage(usage) if !usage.key_cert_sign() => {
                return Err("its key usage does not allow to sign certificates (keyCertSign)".to_owned());
            }
            ParsedExtension::NameConstraints(constraints) => {
                allows(constraints.permitted_subtrees.as_deref(), constraints.excluded_subtrees.as_deref(), trust_domain)?;
            }
            ParsedExtension::ParseError { error } => return Err(format!("one of its extensions is malformed: {error}")),
            _ => {}
        }
    }
    if ca { Ok(()) } else { Err("its basic constraints do not say CA:TRUE".to_owned()) }
}

/// URI constraints name hosts (RFC 5280, 4.2.1.10), which trust domains are; `.example` is every host below, not `example` itself.
fn allows(
    permitted: Option<&[GeneralSubtree<'_>]>,
    excluded: Option<&[GeneralSubtree<'_>]>,
    trust_domain: &TrustDomain,
) -> Result<(), String> {
    let uris = |subtrees: Option<&[GeneralSubtree<'_>]>| -> Vec<String> {
        let bases = subtrees.unwrap_or_default().iter().filter_map(|subtree| match &subtree.base {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        bases.collect()
    };
    let covers = |constraint: &String| {
        let (host, constraint) = (trust_domain.as_str(), constraint.to_ascii_lowercase());
        if constraint.starts_with('.') { host.ends_with(&constraint) } else { host == constraint }
    };
    let list = |names: &[String]| names.iter().map(|name| format!("`{}`", printable(name))).collect::<Vec<_>>().join(", ");
    let (permitted, excluded) = (uris(permitted), uris(excluded));
    if excluded.iter().any(covers) {
        return Err(format!("its name constraints exclude {}, which the trust domain `{trust_domain}` is among", list(&excluded)));
    }
    if !permitted.is_empty() && !permitted.iter().any(covers) {
        return Err(format!("its name constraints allow URIs of {} only, not of the trust domain `{trust_domain}`", list(&permitted)));
    }
    if permitted.is_empty() && excluded.is_empty() {
        return Ok(());
    }
    // Verifiers that know none of these refuse the chain (webpki), as RFC 5280 asks of a critical extension.
    Err("its name constraints speak of URIs, which peers of the mesh refuse: they can hold no SPIFFE ID against them".to_owned())
}
