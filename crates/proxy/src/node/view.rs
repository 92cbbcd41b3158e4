//! What the control plane has told the host: whom to trust, and which of its processes may have which identity.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use lorica_identity::host_api::HostView;
use lorica_identity::workload_api::{Bundles, Registered};
use lorica_identity::{Bundle, CertificateDer};
use lorica_xds::decode;
use lorica_xds::wire::Any;
use tokio::sync::watch;

/// The name that the bundle has among secrets.
const BUNDLE: &str = "bundle";

/// What was told last.
#[derive(Debug)]
pub(super) struct View {
    /// What verifies identities.
    pub(super) bundles: Bundles,
    /// Who may have what; none: the control plane was not reached yet.
    pub(super) registered: Option<Vec<Registered>>,
}

impl View {
    /// What a host knows before it has been told anything.
    pub(super) fn before(bundle: &Bundle) -> Self {
        let bundles = Bundles { own: bundle.clone(), own_jwks: String::new(), federated: Vec::new(), federated_jwks: BTreeMap::new() };
        Self { bundles, registered: None }
    }

    /// What an answer says.
    ///
    /// # Errors
    /// Where it cannot be understood: it is not acknowledged then.
    pub(super) fn read(view: HostView) -> anyhow::Result<Self> {
        let HostView { version: _, bundle_version: _, bundle_type, bundle, jwks, federated_jwks, registered } = view;
        let trusted = decode::bundle(BUNDLE, &Any { type_url: bundle_type, value: bundle }).context("the trust bundle")?;
        let one = |(trust_domain, roots): (_, &Vec<Vec<u8>>)| {
            Bundle::new(trust_domain, roots.iter().map(|root| CertificateDer::from(root.clone())).collect())
        };
        let own = one((trusted.trust_domain.clone(), &trusted.roots)).context("the trust bundle")?;
        let federated = trusted.federated.iter().map(|(trust_domain, roots)| one((trust_domain.clone(), roots)));
        let federated = federated.collect::<Result<_, _>>().context("the trust bundle")?;
        let registered = registered.into_iter().map(|process| process.read().context("a registered identity cannot be read"));
        Ok(Self {
            bundles: Bundles { own, own_jwks: jwks, federated, federated_jwks },
            registered: Some(registered.collect::<Result<_, _>>()?),
        })
    }
}

/// The newest view, and who is told when there is another.
#[derive(Debug)]
pub(super) struct Views {
    newest: RwLock<Arc<View>>,
    changes: watch::Sender<()>,
}

impl Views {
    pub(super) fn new(first: View) -> Self {
        Self { newest: RwLock::new(Arc::new(first)), changes: watch::Sender::new(()) }
    }

    pub(super) fn newest(&self) -> Arc<View> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn take(&self, view: View) {
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.changes.send_replace(());
    }
}
