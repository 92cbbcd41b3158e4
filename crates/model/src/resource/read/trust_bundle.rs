//! Whose identities of another trust domain are verified, from its document.

use std::ops::Range;
use std::sync::Arc;

use super::authentication::https;
use crate::resource::kinds::{BundleEndpoint, EndpointProfile, TrustBundle};
use crate::resource::reader::Reader;
use crate::resource::tree::{Node, Value};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::spiffe_bundle::SpiffeBundle;

pub(super) fn bundle(node: Node, reader: &mut Reader<'_>) -> Option<TrustBundle> {
    let mut object = reader.object(node, "a TrustBundle's `spec`")?;
    let span = object.span.clone();
    let (trust_domain, bundle, roots) = (object.need("trustDomain", reader), object.take("bundle"), object.take("roots"));
    let endpoint = object.take("endpoint");
    reader.end(object);
    let trust_domain_span = trust_domain.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let trust_domain: Option<TrustDomain> = trust_domain.and_then(|node| reader.parsed(&node, "`trustDomain`"));
    if let (Some(_), Some(roots)) = (&bundle, &roots) {
        reader.wrong_with(&roots.span, "`bundle` says the roots already", "leave one of both out");
        return None;
    }
    if bundle.is_none() && roots.is_none() && endpoint.is_none() {
        let hint = "write `bundle` (as `lorica ca bundle` of the other mesh prints it), `roots` in PEM, or `endpoint: {url: https://…, profile: Web}`";
        reader.wrong_with(&span, "a TrustBundle says which roots are trusted, or where they are fetched", hint);
        return None;
    }
    let written_node = bundle.as_ref().or(roots.as_ref());
    let written_span = written_node.map(|node| node.span.clone()).unwrap_or_default();
    let is_written = written_node.is_some();
    let written = match (bundle, roots) {
        (Some(node), _) => document(&node, reader),
        (None, Some(node)) => {
            let text = reader.text(&node, "`roots`")?;
            read(SpiffeBundle::of_pem(&text), &node.span, reader)
        }
        (None, None) => None,
    };
    let has_endpoint = endpoint.is_some();
    let endpoint = endpoint.and_then(|node| self::endpoint(node, trust_domain.as_ref(), is_written, reader));
    if (is_written && written.is_none()) || (has_endpoint && endpoint.is_none()) {
        return None;
    }
    Some(TrustBundle { trust_domain: trust_domain?, trust_domain_span, written, written_span, endpoint })
}

/// SPIFFE's document, as its text or as the YAML that it is.
fn document(node: &Node, reader: &mut Reader<'_>) -> Option<Arc<SpiffeBundle>> {
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Map(_) => node.to_json().to_string(),
        _ => {
            reader.wrong(&node.span, format!("`bundle` is a bundle of SPIFFE, not {}", node.what()));
            return None;
        }
    };
    read(SpiffeBundle::read(&text), &node.span, reader)
}

fn read(
    read: Result<SpiffeBundle, crate::spiffe_bundle::SpiffeBundleError>,
    span: &Range<usize>,
    reader: &mut Reader<'_>,
) -> Option<Arc<SpiffeBundle>> {
    match read {
        Ok(bundle) => Some(Arc::new(bundle)),
        Err(error) => {
            reader.wrong_with(span, error.to_string(), "`lorica ca bundle`, at the other mesh, prints its bundle as it is written here");
            None
        }
    }
}

fn endpoint(node: Node, trust_domain: Option<&TrustDomain>, is_written: bool, reader: &mut Reader<'_>) -> Option<BundleEndpoint> {
    let mut object = reader.object(node, "`endpoint`")?;
    let span = object.span.clone();
    let (url, profile, id) = (object.need("url", reader), object.need("profile", reader), object.take("spiffeId"));
    let private = object.take("allowPrivateAddresses");
    reader.end(object);
    let url = url.and_then(|node| {
        let text = reader.text(&node, "`url`")?;
        https(&text, &node.span, "whoever could change a bundle on its way could issue identities", reader)?;
        Some(text)
    });
    let is_spiffe = profile.and_then(|node| reader.word(&node, "profile", &[("Web", false), ("Spiffe", true)]));
    let allow_private = private.map_or(Some(false), |node| reader.boolean(&node, "`allowPrivateAddresses`"));
    let profile = match (is_spiffe?, id) {
        (false, None) => EndpointProfile::Web,
        (false, Some(node)) => {
            let hint = "leave it out, or write `profile: Spiffe`";
            reader.wrong_with(&node.span, "by the profile Web a server proves its host, no identity", hint);
            return None;
        }
        (true, None) => {
            let hint = "write the identity of the endpoint's server; of Lorica's it is `spiffe://TRUST_DOMAIN/lorica/control`";
            reader.wrong_with(&span, "the profile Spiffe needs `spiffeId`", hint);
            return None;
        }
        (true, Some(node)) => {
            let id: SpiffeId = reader.parsed(&node, "`spiffeId`")?;
            if trust_domain.is_some_and(|trust_domain| id.trust_domain() != trust_domain) {
                let message = format!("`{id}` is of another trust domain than the bundle");
                let hint = "an endpoint of another trust domain could speak for this one: fetch the bundle from its own mesh";
                reader.wrong_with(&node.span, message, hint);
                return None;
            }
            if !is_written {
                let message = "by the profile Spiffe the server is verified by a bundle that is known already, and there is none";
                reader.wrong_with(&span, message, "write the `bundle` to begin with: `lorica ca bundle`, at the other mesh, prints it");
                return None;
            }
            EndpointProfile::Spiffe(id)
        }
    };
    Some(BundleEndpoint { url: url?, profile, allow_private: allow_private? })
}
