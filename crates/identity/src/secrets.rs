//! Certificates that users write into Secrets: whether each can be read and fits its key, told before anybody shows it.

use lorica_model::compile;
use lorica_model::name::SecretName;
use lorica_model::resource::{Diagnostic, Document, Severity, Spec};

use crate::edge;

/// The type of Secrets that must hold a certificate with its key.
const TLS: &str = "kubernetes.io/tls";

/// What is wrong with the certificates of `documents`. `source` gives the text of a file. A Secret's name is pointed at, not its key, which
/// nobody should see on a screen. What files of other hosts hold is told by the gateways there.
#[must_use]
pub fn mistakes(documents: &[Document], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mistake = |document: &Document| {
        let Spec::Secret(secret) = &document.resource.spec else { return None };
        let metadata = &document.resource.metadata;
        let name = SecretName::new(metadata.namespace.clone(), metadata.name.clone());
        let at_name = |message: String| Diagnostic::error(&document.file, &source(&document.file), document.name_span.clone(), message);
        match compile::certificate(&name, secret) {
            // As the Gateway API has it, such a Secret is taken, and the listeners that name it say what they lack.
            None if secret.kind == TLS => {
                let message = "this Secret holds no certificate with its key: listeners that name it show none".to_owned();
                let found = at_name(message).hint("give `tls.crt` and `tls.key`, both PEM");
                Some(Diagnostic { severity: Severity::Warning, ..found })
            }
            Some(certificate) if !certificate.in_files => edge::check(&certificate).err().map(|error| at_name(error.to_string())),
            _ => None,
        }
    };
    documents.iter().filter_map(mistake).collect()
}
