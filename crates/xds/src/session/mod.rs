//! One client's session: requests and publications in, responses and events out.
//!
//! A state machine without I/O or clock, for both forms of ADS. It knows what the client subscribes to, what it was told,
//! what it acknowledged and refused; what there is to tell it asks of a [`Catalog`] that is already bound to one viewer.
//!
//! - What is referred to (secrets, clusters, endpoints) is sent before what refers to it (listeners, routes), and its
//!   removal waits until everything that referred to it is acknowledged.
//! - A cluster that changed is followed by its endpoints, where the client warms clusters up ([`Session::warming`]).
//! - Changes coalesce: while a response of a kind awaits its acknowledgement, further changes of the kind wait, and the
//!   newest is sent. Only what the client has newly asked for is answered at once (incremental form).
//! - A refused response is narrowed: its resources are sent again one by one, so that only those are refused that are at
//!   fault. A refused version is not sent again to this client. In the state-of-the-world form listeners and clusters can
//!   only be sent as a whole; there those count as refused that the client's message names, else all that changed.

mod subscription;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::rpc::Status;

use crate::{Kind, Resource};
use subscription::{Entry, Held, Item, Sent, Subscription};

/// The most names that a client may subscribe to, all kinds together. A proxy's 4,096 service ports have four each.
pub const MAX_SUBSCRIPTIONS: usize = 20_000;
/// The most responses of a kind that may await their acknowledgement, in the incremental form.
const MAX_OUTSTANDING: usize = 8;
const WILDCARD: &str = "*";

/// Everything that one viewer may have at one revision.
pub trait Catalog: Send + Sync {
    /// The resource of that name.
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// All resources of a kind that a wildcard means.
    fn all(&self, kind: Kind) -> Vec<Arc<Resource>>;
}

/// The two forms of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Incremental: what changed.
    Delta,
    /// State of the world: everything, each time, for listeners and clusters.
    StateOfTheWorld,
}

/// What a client sends.
#[derive(Debug, Clone)]
pub enum Request {
    /// In the incremental form.
    Delta(DeltaDiscoveryRequest),
    /// In the other.
    World(DiscoveryRequest),
}

/// What a client is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// In the incremental form.
    Delta(DeltaDiscoveryResponse),
    /// In the other.
    World(DiscoveryResponse),
}

impl Response {
    /// What it is of; none for a type that is not spoken here, which no response is of.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Delta(response) => Kind::from_type_url(&response.type_url),
            Self::World(response) => Kind::from_type_url(&response.type_url),
        }
    }
}

/// What happened in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client subscribes to more; `*` is the wildcard.
    Subscribed {
        /// Their kind.
        kind: Kind,
        /// Their names.
        names: Vec<String>,
    },
    /// The client subscribes to less.
    Unsubscribed {
        /// Their kind.
        kind: Kind,
        /// Their names.
        names: Vec<String>,
    },
    /// A publication was taken in.
    Published {
        /// Its revision.
        revision: u64,
        /// Whether it changed anything that the client subscribes to, compared with the publication that the session had before.
        concerned: bool,
    },
    /// The client has acknowledged every change up to this revision, a newer version counting for an older one, except
    /// for what it refused.
    Reached {
        /// The revision.
        revision: u64,
    },
    /// The client has a secret: it acknowledged this version, or had it when it came back. Who trusts whom is known by it.
    Acknowledged {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// The client refused a resource.
    Rejected {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// What the client said.
        message: String,
        /// The newest revision that has the refused version: every change of the resource up to it is refused.
        revision: u64,
    },
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The client asked for more than it may.
    #[error("more than {MAX_SUBSCRIPTIONS} names are subscribed to on one stream; unsubscribe from some")]
    TooManySubscriptions,
    /// A request of the one form came on a stream of the other.
    #[error("the request is of the other form of ADS than its stream")]
    WrongForm,
}

/// One client's session.
pub struct Session {
    form: Form,
    warms: bool,
    catalog: Arc<dyn Catalog>,
    revision: u64,
    reached: u64,
    nonces: u64,
    kinds: [Subscription; Kind::ALL.len()],
    events: Vec<Event>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("form", &self.form)
            .field("revision", &self.revision)
            .field("reached", &self.reached)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session that begins with what is published at `revision`. It has reached that revision, as it has nothing older.
    #[must_use]
    pub fn new(form: Form, catalog: Arc<dyn Catalog>, revision: u64) -> Self {
        Self { form, warms: false, catalog, revision, reached: revision, nonces: 0, kinds: Default::default(), events: Vec::new() }
    }

    /// The same with a client that uses a changed cluster only once its endpoints have come again, but does not ask for them: Envoy,
    /// which else waits 15 s for them.
    #[must_use]
    pub fn warming(self, warms: bool) -> Self {
        Self { warms, ..self }
    }

    /// Takes a publication. Ask [`Self::next_response`] afterwards.
    pub fn publish(&mut self, catalog: Arc<dyn Catalog>, revision: u64) -> Vec<Event> {
        self.catalog = catalog;
        self.revision = revision;
        let mut concerned = false;
        let mut refused_before = Vec::new();
        for kind in Kind::ALL {
            let subscription = &mut self.kinds[kind.index()];
            if subscription.wildcard {
                for resource in self.catalog.all(kind) {
                    if !subscription.entries.contains_key(&resource.name) {
                        subscription.entries.insert(resource.name.clone(), Entry::new(false, None));
                    }
                }
            }
            for (name, entry) in &mut subscription.entries {
                if !entry.publish(self.catalog.get(kind, name), revision) {
                    continue;
                }
                concerned = true;
                if self.form == Form::StateOfTheWorld {
                    entry.pass_over_absence(kind);
                }
                let again = entry.wanted.as_ref().zip(entry.refused.as_ref()).filter(|(wanted, (version, _))| wanted.version == *version);
                if let Some((_, (_, message))) = again {
                    refused_before.push(Event::Rejected { kind, name: name.clone(), message: message.clone(), revision });
                }
            }
            subscription.tidy();
        }
        self.events.push(Event::Published { revision, concerned });
        self.events.append(&mut refused_before);
        self.settle();
        std::mem::take(&mut self.events)
    }

    /// Takes a request. Types that are not spoken here are passed over. Ask [`Self::next_response`] afterwards.
    ///
    /// # Errors
    /// The session must end.
    pub fn on_request(&mut self, request: Request) -> Result<Vec<Event>, ProtocolError> {
        match (request, self.form) {
            (Request::Delta(request), Form::Delta) => self.on_delta(request)?,
            (Request::World(request), Form::StateOfTheWorld) => self.on_world(request)?,
            _ => return Err(ProtocolError::WrongForm),
        }
        for kind in Kind::ALL {
            for entry in self.kinds[kind.index()].entries.values_mut() {
                if self.form == Form::StateOfTheWorld {
                    entry.pass_over_absence(kind);
                }
                entry.asked &= entry.needs();
            }
        }
        if self.kinds.iter().map(|kind| kind.entries.values().filter(|entry| entry.explicit).count()).sum::<usize>() > MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooManySubscriptions);
        }
        self.settle();
        Ok(std::mem::take(&mut self.events))
    }

    fn on_delta(&mut self, request: DeltaDiscoveryRequest) -> Result<(), ProtocolError> {
        let Some(kind) = Kind::from_type_url(&request.type_url) else { return Ok(()) };
        if !request.response_nonce.is_empty() {
            self.answered(kind, &request.response_nonce, request.error_detail);
        }
        let subscription = &mut self.kinds[kind.index()];
        let first = !std::mem::replace(&mut subscription.begun, true);
        if request.resource_names_subscribe.len() > MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooManySubscriptions);
        }
        self.unsubscribe(kind, request.resource_names_unsubscribe);
        let mut names = request.resource_names_subscribe;
        if first && names.is_empty() && kind.is_whole() {
            names.push(WILDCARD.to_owned());
        }
        self.subscribe(kind, names);
        if first {
            let warming = self.warms && kind == Kind::Endpoints;
            let sent: BTreeSet<String> = self.kinds[Kind::Cluster.index()].sent().filter(|_| warming).cloned().collect();
            let subscription = &mut self.kinds[kind.index()];
            for (name, version) in request.initial_resource_versions {
                if sent.contains(&name) {
                    // Its cluster waits for them.
                    continue;
                }
                if let Some(entry) = subscription.entries.get_mut(&name) {
                    if kind == Kind::Secret {
                        self.events.push(Event::Acknowledged { name, version: version.clone() });
                    }
                    entry.held = Held::Version(version);
                } else if subscription.wildcard {
                    // It is gone: the entry lives until the client is told.
                    let mut entry = Entry::new(false, None);
                    entry.held = Held::Version(version);
                    subscription.entries.insert(name, entry);
                }
            }
        }
        Ok(())
    }

    fn on_world(&mut self, request: DiscoveryRequest) -> Result<(), ProtocolError> {
        let Some(kind) = Kind::from_type_url(&request.type_url) else { return Ok(()) };
        if request.resource_names.len() > MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooManySubscriptions);
        }
        let subscription = &mut self.kinds[kind.index()];
        let first = !std::mem::replace(&mut subscription.begun, true);
        if !first && request.response_nonce != subscription.nonce {
            // Said before the client saw our newest response; it will speak again.
            return Ok(());
        }
        self.answered(kind, &request.response_nonce, request.error_detail);
        let subscription = &mut self.kinds[kind.index()];
        let mut names: BTreeSet<String> = request.resource_names.into_iter().collect();
        let by_name = subscription.entries.values().any(|entry| entry.explicit);
        if names.is_empty() && kind.is_whole() && (first || (subscription.wildcard && !by_name)) {
            names.insert(WILDCARD.to_owned());
        }
        let had = subscription.entries.iter().filter(|(_, entry)| entry.explicit).map(|(name, _)| name);
        let mut gone: Vec<String> = had.filter(|name| !names.contains(*name)).cloned().collect();
        if subscription.wildcard && !names.contains(WILDCARD) {
            gone.push(WILDCARD.to_owned());
        }
        let wildcard = subscription.wildcard;
        names.retain(|name| if name == WILDCARD { !wildcard } else { subscription.entries.get(name).is_none_or(|entry| !entry.explicit) });
        self.unsubscribe(kind, gone);
        self.subscribe(kind, names.into_iter().collect());
        Ok(())
    }

    fn subscribe(&mut self, kind: Kind, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let subscription = &mut self.kinds[kind.index()];
        for name in &names {
            if name == WILDCARD {
                subscription.wildcard = true;
                subscription.greet = true;
                for resource in self.catalog.all(kind) {
                    let wanted = || Entry::new(false, Some(resource.clone()));
                    subscription.entries.entry(resource.name.clone()).or_insert_with(wanted).asked = true;
                }
                continue;
            }
            let entry = subscription.entries.entry(name.clone()).or_insert_with(|| Entry::new(true, self.catalog.get(kind, name)));
            entry.explicit = true;
            entry.asked = true;
            // Who asks again is answered again, though nothing changed.
            entry.held = Held::Unknown;
        }
        self.events.push(Event::Subscribed { kind, names });
    }

    fn unsubscribe(&mut self, kind: Kind, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let subscription = &mut self.kinds[kind.index()];
        for name in &names {
            if name == WILDCARD {
                subscription.wildcard = false;
            } else if let Some(entry) = subscription.entries.get_mut(name) {
                entry.explicit = false;
                if subscription.wildcard {
                    // The client dropped what the wildcard still covers, so it is sent again.
                    entry.held = Held::Unknown;
                    entry.asked = true;
                }
            }
        }
        subscription.tidy();
        self.events.push(Event::Unsubscribed { kind, names });
    }

    /// Takes what the client says of the response of that nonce, if it awaits one.
    fn answered(&mut self, kind: Kind, nonce: &str, error: Option<Status>) {
        let subscription = &mut self.kinds[kind.index()];
        let Some(index) = subscription.outstanding.iter().position(|sent| sent.nonce == nonce) else { return };
        let Some(Sent { items, .. }) = subscription.outstanding.remove(index) else { return };
        match error {
            Some(error) => self.refused(kind, items, &error.message),
            None if kind == Kind::Secret => {
                let taken = items.into_iter().filter_map(|item| Some(Event::Acknowledged { name: item.name, version: item.version? }));
                self.events.extend(taken);
            }
            None => {}
        }
    }

    fn refused(&mut self, kind: Kind, items: Vec<Item>, message: &str) {
        let whole = self.form == Form::StateOfTheWorld && kind.is_whole();
        let named = items.iter().any(|item| message.contains(&item.name));
        let alone = items.iter().filter(|item| item.version.is_some()).count() == 1;
        let subscription = &mut self.kinds[kind.index()];
        for Item { name, version, since } in items {
            // What was told to be gone cannot be at fault.
            let (Some(version), Some(entry)) = (version, subscription.entries.get_mut(&name)) else { continue };
            if alone || whole {
                if whole && named && !message.contains(&name) {
                    continue;
                }
                if entry.held == Held::Version(version.clone()) {
                    entry.held = Held::Unknown;
                }
                entry.refused = Some((version, message.to_owned()));
                // A change that came after it was sent is another version, which the client has not seen.
                let revision = entry.since.map_or(self.revision, |next| next.saturating_sub(1));
                self.events.push(Event::Rejected { kind, name, message: message.to_owned(), revision });
            } else {
                entry.held = Held::Unknown;
                entry.since = entry.since.into_iter().chain(since).min();
                subscription.narrow.push_back(name);
            }
        }
    }

    /// Tells when the oldest unacknowledged change moved on.
    fn settle(&mut self) {
        let oldest = self.kinds.iter().filter_map(Subscription::oldest).min();
        let reached = oldest.map_or(self.revision, |oldest| oldest.saturating_sub(1));
        if reached > self.reached {
            self.reached = reached;
            self.events.push(Event::Reached { revision: reached });
        }
    }

    /// The oldest revision that the client has not acknowledged as a whole, if any.
    #[must_use]
    pub fn pending(&self) -> Option<u64> {
        self.kinds.iter().filter_map(Subscription::oldest).min()
    }

    /// The next response to send now; `None` until something more happens.
    pub fn next_response(&mut self) -> Option<Response> {
        Kind::ALL.into_iter().find_map(|kind| match self.form {
            Form::Delta => self.next_delta(kind).map(Response::Delta),
            Form::StateOfTheWorld => self.next_world(kind).map(Response::World),
        })
    }

    /// Whether changes of `kind` must wait for what they refer to.
    fn must_wait(&self, kind: Kind) -> bool {
        kind.refers() && [Kind::Cluster, Kind::Endpoints].into_iter().any(|kind| self.kinds[kind.index()].has_additions())
    }

    /// Whether removals of `kind` must wait for what may still refer to them.
    fn removal_must_wait(&self, kind: Kind) -> bool {
        let referring: &[Kind] = match kind {
            Kind::Secret => &[Kind::Cluster, Kind::Listener, Kind::Route],
            Kind::Cluster | Kind::Endpoints => &[Kind::Listener, Kind::Route],
            Kind::Listener | Kind::Route | Kind::Names | Kind::Extension => &[],
        };
        referring.iter().any(|kind| !self.kinds[kind.index()].is_settled())
    }

    /// The endpoints of clusters are due again, as far as they were sent.
    fn endpoints_again(&mut self, clusters: &[String]) {
        for name in clusters {
            if let Some(entry) = self.kinds[Kind::Endpoints.index()].entries.get_mut(name).filter(|entry| entry.wanted.is_some()) {
                entry.held = Held::Unknown;
                entry.asked = true;
            }
        }
    }

    fn next_delta(&mut self, kind: Kind) -> Option<DeltaDiscoveryResponse> {
        let (waits, keeps) = (self.must_wait(kind), self.removal_must_wait(kind));
        let subscription = &mut self.kinds[kind.index()];
        if subscription.outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        let quiet = subscription.outstanding.is_empty();
        let mut names = Vec::new();
        if quiet {
            while let Some(name) = subscription.narrow.pop_front() {
                if subscription.entries.get(&name).is_some_and(Entry::needs) {
                    names.push(name);
                    break;
                }
            }
        }
        if names.is_empty() {
            let narrow = &subscription.narrow;
            let sendable = |(name, entry): &(&String, &Entry)| {
                entry.needs() && (entry.asked || (quiet && !waits)) && !(keeps && entry.removes()) && !narrow.contains(name)
            };
            names = subscription.entries.iter().filter(sendable).map(|(name, _)| name.clone()).collect();
        }
        if names.is_empty() && !subscription.greet {
            return None;
        }
        subscription.greet = false;
        let mut response = DeltaDiscoveryResponse { type_url: kind.type_url().to_owned(), ..DeltaDiscoveryResponse::default() };
        let mut items = Vec::with_capacity(names.len());
        let mut changed = Vec::new();
        for name in names {
            let Some(entry) = subscription.entries.get_mut(&name) else { continue };
            if self.warms && kind == Kind::Cluster && (entry.last.is_some() || matches!(entry.held, Held::Version(_))) {
                changed.push(name.clone());
            }
            match &entry.wanted {
                Some(resource) => response.resources.push(WireResource {
                    name: name.clone(),
                    version: resource.version.clone(),
                    resource: Some(resource.body.clone()),
                    ..WireResource::default()
                }),
                None => response.removed_resources.push(name.clone()),
            }
            items.push(entry.sent(&name));
        }
        self.endpoints_again(&changed);
        response.system_version_info = self.revision.to_string();
        response.nonce = self.note(kind, items);
        Some(response)
    }

    fn next_world(&mut self, kind: Kind) -> Option<DiscoveryResponse> {
        let (waits, keeps) = (self.must_wait(kind), self.removal_must_wait(kind));
        let subscription = &mut self.kinds[kind.index()];
        if !subscription.outstanding.is_empty() {
            return None;
        }
        let mut items = Vec::new();
        let mut resources = Vec::new();
        if kind.is_whole() {
            let sendable = |entry: &Entry| entry.needs() && (entry.asked || !waits) && !(keeps && entry.removes());
            if !subscription.greet && !subscription.entries.values().any(sendable) {
                return None;
            }
            for (name, entry) in &mut subscription.entries {
                if sendable(entry) {
                    items.push(entry.sent(name));
                }
                // What may not be told yet stays as it was told last.
                let says = if entry.needs() { &entry.last } else { &entry.wanted };
                resources.extend(says.iter().map(|resource| resource.body.clone()));
            }
        } else {
            let narrowed = subscription.narrow.pop_front();
            for (name, entry) in &mut subscription.entries {
                if !entry.needs() || (waits && !entry.asked) || narrowed.as_ref().is_some_and(|narrowed| narrowed != name) {
                    continue;
                }
                items.push(entry.sent(name));
                resources.extend(entry.wanted.iter().map(|resource| resource.body.clone()));
            }
            if resources.is_empty() && !subscription.greet {
                return None;
            }
        }
        subscription.greet = false;
        let nonce = self.note(kind, items);
        let version_info = self.revision.to_string();
        Some(DiscoveryResponse { version_info, resources, type_url: kind.type_url().to_owned(), nonce, ..DiscoveryResponse::default() })
    }

    /// Notes a response as outstanding. Gives its nonce.
    fn note(&mut self, kind: Kind, items: Vec<Item>) -> String {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let subscription = &mut self.kinds[kind.index()];
        subscription.nonce.clone_from(&nonce);
        subscription.outstanding.push_back(Sent { nonce: nonce.clone(), items });
        subscription.tidy();
        nonce
    }
}
