//! What one client has of one kind: what it asked for, what it should have, what it was told, what it has acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{Kind, Resource};

/// What the client was last told of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing, or something that it refused.
    Unknown,
    /// That it does not exist.
    Absent,
    /// This version.
    Version(String),
}

/// One resource that a client subscribes to.
#[derive(Debug)]
pub(super) struct Entry {
    /// Asked for by name, not only by the wildcard.
    pub(super) explicit: bool,
    /// Asked for and not answered yet.
    pub(super) asked: bool,
    /// What the newest publication has.
    pub(super) wanted: Option<Arc<Resource>>,
    pub(super) held: Held,
    /// What was last sent, which a state of the world repeats until its removal may be told.
    pub(super) last: Option<Arc<Resource>>,
    /// The oldest revision whose change of this resource was not sent yet.
    pub(super) since: Option<u64>,
    /// The version that the client refused, and what it said.
    pub(super) refused: Option<(String, String)>,
}

impl Entry {
    pub(super) fn new(explicit: bool, wanted: Option<Arc<Resource>>) -> Self {
        Self { explicit, asked: false, wanted, held: Held::Unknown, last: None, since: None, refused: None }
    }

    fn wanted_version(&self) -> Option<&str> {
        self.wanted.as_deref().map(|resource| resource.version.as_str())
    }

    /// Whether the client's knowledge differs from the newest publication. What it refused counts as known.
    pub(super) fn needs(&self) -> bool {
        match (self.wanted_version(), &self.held) {
            (Some(wanted), Held::Version(held)) if wanted == held => false,
            (Some(wanted), _) => self.refused.as_ref().is_none_or(|(refused, _)| refused != wanted),
            (None, Held::Absent) => false,
            (None, Held::Unknown) => self.explicit,
            (None, Held::Version(_)) => true,
        }
    }

    /// Whether what is to be told is that something the client has is gone.
    pub(super) fn removes(&self) -> bool {
        self.wanted.is_none() && matches!(self.held, Held::Version(_))
    }

    /// Takes what a publication has. True where that is a change.
    pub(super) fn publish(&mut self, wanted: Option<Arc<Resource>>, revision: u64) -> bool {
        let changed = self.wanted_version() != wanted.as_deref().map(|resource| resource.version.as_str());
        self.wanted = wanted;
        if changed {
            self.since.get_or_insert(revision);
        }
        if !self.needs() {
            // Back to what the client has: there is nothing to wait for.
            self.since = None;
        }
        changed
    }

    /// The state of the world cannot say that a resource does not exist, except for the kinds that are sent as a whole:
    /// so there is nothing to send, and nothing to wait for.
    pub(super) fn pass_over_absence(&mut self, kind: Kind) {
        if self.wanted.is_none() && !kind.is_whole() {
            self.held = Held::Absent;
            self.since = None;
        }
    }

    /// Notes that the client is told what is wanted. Gives what the answer stands for.
    pub(super) fn sent(&mut self, name: &str) -> Item {
        self.asked = false;
        self.held = match &self.wanted {
            Some(resource) => Held::Version(resource.version.clone()),
            None => Held::Absent,
        };
        self.last.clone_from(&self.wanted);
        Item { name: name.to_owned(), version: self.wanted_version().map(str::to_owned), since: self.since.take() }
    }
}

/// One resource of an answer that awaits its acknowledgement.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) name: String,
    /// None: it was told that the resource does not exist.
    pub(super) version: Option<String>,
    pub(super) since: Option<u64>,
}

/// An answer that awaits its acknowledgement.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) nonce: String,
    pub(super) items: Vec<Item>,
}

/// What one client has of one kind.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Whether the client has asked for anything of the kind on this stream.
    pub(super) begun: bool,
    /// Whether it subscribes to all there is.
    pub(super) wildcard: bool,
    /// Whether it waits for an answer, be it empty.
    pub(super) greet: bool,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) outstanding: VecDeque<Sent>,
    /// Resources of an answer that was refused, to be sent again one by one.
    pub(super) narrow: VecDeque<String>,
    /// The nonce of the newest answer.
    pub(super) nonce: String,
}

impl Subscription {
    /// Whether additions or changes wait to be sent.
    pub(super) fn has_additions(&self) -> bool {
        self.entries.values().any(|entry| entry.wanted.is_some() && entry.needs())
    }

    /// The names of what was sent on this stream, and is there.
    pub(super) fn sent(&self) -> impl Iterator<Item = &String> {
        self.entries.iter().filter(|(_, entry)| entry.last.is_some()).map(|(name, _)| name)
    }

    /// Whether nothing waits to be sent or acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.narrow.is_empty() && !self.entries.values().any(Entry::needs)
    }

    /// Forgets what is neither asked for nor there nor waits.
    pub(super) fn tidy(&mut self) {
        let wildcard = self.wildcard;
        self.entries.retain(|_, entry| entry.explicit || (wildcard && (entry.wanted.is_some() || entry.removes())));
        let entries = &self.entries;
        self.narrow.retain(|name| entries.contains_key(name));
    }

    /// The oldest revision whose change is not acknowledged.
    pub(super) fn oldest(&self) -> Option<u64> {
        let unsent = self.entries.values().filter_map(|entry| entry.since);
        unsent.chain(self.outstanding.iter().flat_map(|sent| sent.items.iter().filter_map(|item| item.since))).min()
    }
}
