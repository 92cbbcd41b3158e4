//! Other trust domains, held against each other and against who names them.

use crate::resource::kinds::{TrustBundle, Workload};
use crate::resource::{Kind, Metadata};

use super::Checked;

impl Checked<'_> {
    pub(super) fn trust_bundle(&mut self, metadata: &Metadata, bundle: &TrustBundle) {
        if metadata.namespace != crate::name::Namespace::default() {
            let message = "a TrustBundle is of the whole mesh, and is kept in the namespace `default`";
            let found = self.wrong(&self.document.name_span, message.to_owned()).hint("leave `namespace` out");
            self.found.push(found);
        }
        let other = self.after.trust_bundles().find(|(other, of_other)| {
            of_other.trust_domain == bundle.trust_domain && (&other.namespace, &other.name) != (&metadata.namespace, &metadata.name)
        });
        if let Some((other, _)) = other {
            let message = format!("the TrustBundle `{}` is of {} already", other.name, bundle.trust_domain);
            let found = self.wrong(&bundle.trust_domain_span, message).hint("change that one, or delete it: one speaks for a trust domain");
            self.found.push(found);
        }
    }

    /// A workload of another mesh, whose identity somebody has to be able to verify.
    pub(super) fn foreign_workload(&mut self, workload: &Workload) {
        let Some(identity) = &workload.identity else { return };
        if self.after.trust_bundles().any(|(_, bundle)| bundle.trust_domain == *identity.id.trust_domain()) {
            return;
        }
        let domain = identity.id.trust_domain();
        let known: Vec<String> = self.after.trust_bundles().map(|(_, bundle)| bundle.trust_domain.to_string()).collect();
        let near = crate::resource::nearest(domain.as_str(), known.iter().map(String::as_str));
        let hint = near.map_or_else(|| format!("write one with `trustDomain: {domain}`"), |near| format!("did you mean `{near}`?"));
        self.missing(
            &identity.span,
            format!("there is no {} of {domain}: nobody could verify this identity", Kind::TrustBundle),
            Some(hint),
        );
    }
}
