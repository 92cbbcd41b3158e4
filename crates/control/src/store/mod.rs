//! What a control plane must not lose: records in tables, written in batches that hold as a whole or not at all.
//!
//! In: writes with what they expect to find. Out: a revision once the batch is durable, and its changes to who watches.
//! A replica keeps nothing that is not here or cannot be recomputed, so any may die at any moment.

mod embedded;

pub use embedded::Embedded;

use tokio::sync::broadcast;

/// The largest record, in bytes.
pub const MAX_RECORD: usize = 1024 * 1024;

/// The place of a batch in the order of batches. Ordered, and otherwise opaque: back ends count differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// What records are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Resources, by kind, namespace and name.
    Resources,
    /// The virtual addresses of services and workloads, by kind and name.
    Addresses,
    /// The last registration of each workload, so that a restart takes no endpoint from anybody.
    Registrations,
    /// The mesh itself: trust domain, address range, CA.
    Mesh,
    /// Join tokens and the hosts that joined, by kind and name.
    Hosts,
    /// Change sets, by revision.
    History,
    /// The newest SVID of each workload, without its key.
    Svids,
    /// Every SVID that may still hold, by serial number.
    Issued,
    /// Who is revoked, by workload or identity.
    Revocations,
    /// Key sets of token issuers as they were fetched last, by address.
    KeySets,
    /// Bundles of other trust domains as they were fetched last, by trust domain.
    Bundles,
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The table.
    pub table: Table,
    /// The key in it.
    pub key: String,
    /// The record; none deletes it.
    pub value: Option<Vec<u8>>,
    /// What must be there for the batch to hold.
    pub expected: Expected,
}

/// What must be there for a batch to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// Nothing.
    Absent,
    /// Exactly this.
    Value(Vec<u8>),
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 11] = [
        Self::Resources,
        Self::Addresses,
        Self::Registrations,
        Self::Mesh,
        Self::Hosts,
        Self::History,
        Self::Svids,
        Self::Issued,
        Self::Revocations,
        Self::KeySets,
        Self::Bundles,
    ];

    /// What it is called.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resources => "resources",
            Self::Addresses => "addresses",
            Self::Registrations => "registrations",
            Self::Mesh => "mesh",
            Self::Hosts => "hosts",
            Self::History => "history",
            Self::Svids => "svids",
            Self::Issued => "issued",
            Self::Revocations => "revocations",
            Self::KeySets => "key-sets",
            Self::Bundles => "bundles",
        }
    }
}

/// How much is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSize {
    /// Its file, in bytes.
    pub bytes: u64,
    /// Records, by table.
    pub records: Vec<(Table, u64)>,
}

/// A batch that has become durable.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Its revision.
    pub revision: Revision,
    /// What it wrote.
    pub keys: Vec<(Table, String)>,
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Nothing of the batch was written, nothing acknowledged is lost.
    #[error("the disk under {path} is full: nothing was changed")]
    Full {
        /// The store's file.
        path: String,
    },
    /// The system failed. Nothing of the batch was written, nothing acknowledged is lost.
    #[error("the store {path} cannot be used: {error}")]
    Failed {
        /// The store's file.
        path: String,
        /// What the system said.
        error: String,
    },
    /// Another control plane has it.
    #[error("{path} is in use by another control plane{}", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The store's file.
        path: String,
        /// Its process, where that is known.
        holder: Option<u32>,
    },
    /// This control plane has let go of it.
    #[error("{path} is closed: this control plane is ending")]
    Closed {
        /// The store's file.
        path: String,
    },
    /// Somebody else wrote first.
    #[error("{key} was changed by somebody else meanwhile")]
    Conflict {
        /// The key.
        key: String,
    },
    /// A record is larger than [`MAX_RECORD`].
    #[error("{key} is larger than 1 MiB")]
    TooLarge {
        /// The key.
        key: String,
    },
}

/// A back end.
pub trait Store: Send + Sync + 'static {
    /// A record.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// All records of a table, by key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn list(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Writes a batch: all of it, durably, or nothing. It waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where something else than expected is there, and whatever the disk says.
    fn write(&self, batch: &[Write]) -> Result<Revision, StoreError>;

    /// The revision of the newest batch.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn revision(&self) -> Result<Revision, StoreError>;

    /// How much there is.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn size(&self) -> Result<StoreSize, StoreError>;

    /// Batches from now on. A watcher that lags is told so, and reads again what it needs.
    fn watch(&self) -> broadcast::Receiver<Changed>;

    /// Lets go of it once what is under way is done, whoever still holds it here: another control plane may have it then.
    fn close(&self);
}
