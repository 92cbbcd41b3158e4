//! Key sets that users write into policies: whether each can be read, told before any proxy holds a token against it.

use lorica_model::resource::{Diagnostic, Document, Severity, Spec, WrittenKeys};

use super::{KeyError, KeySet};

/// What is wrong with the key sets of `documents`. `source` gives the text of a file.
#[must_use]
pub fn mistakes(documents: &[Document], source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for document in documents {
        let Spec::AuthenticationPolicy(policy) = &document.resource.spec else { continue };
        for provider in policy.jwt.iter().flat_map(|jwt| &jwt.providers) {
            let WrittenKeys::Inline(keys) = &provider.keys else { continue };
            let at = |message: String| Diagnostic::error(&document.file, &source(&document.file), provider.keys_span.clone(), message);
            match KeySet::read(keys.as_bytes()) {
                Ok(set) => found.extend(set.skipped.iter().map(|why| {
                    let hint = "it is passed over: leave it out, or correct it";
                    Diagnostic { severity: Severity::Warning, ..at(format!("a key cannot verify tokens: {why}")).hint(hint) }
                })),
                Err(error @ KeyError::Secret(..)) => {
                    found.push(at(error.to_string()).hint("write the public keys alone, and issue new ones: these have been seen"));
                }
                Err(error) => {
                    found.push(at(error.to_string()).hint("write a JWK Set: `{keys: [{kty: EC, crv: P-256, kid: …, x: …, y: …}]}`"))
                }
            }
        }
    }
    found
}
