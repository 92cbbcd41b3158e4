//! The store of a single control plane: one file, by redb. Every acknowledged batch is on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tokio::sync::broadcast;

use super::{Changed, Expected, MAX_RECORD, Revision, Store, StoreError, StoreSize, Table, Write};

const REVISION: TableDefinition<'_, &str, u64> = TableDefinition::new("revision");
/// How many batches a watcher may lag.
const WATCHED: usize = 1024;

/// The embedded store.
pub struct Embedded {
    path: PathBuf,
    /// Taken out when an error has left it unusable; opened again at the next use.
    database: Mutex<Option<Database>>,
    changes: broadcast::Sender<Changed>,
    /// Held until it is closed: it keeps a second control plane out.
    lock: Mutex<Option<File>>,
}

fn table(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.word())
}

impl Embedded {
    /// Opens the store in `directory`, which is made for its owner alone.
    ///
    /// # Errors
    /// When it is in use, or the directory cannot be written.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("store.redb");
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed { path: path.display().to_string(), error: error.to_string() };
        fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(|error| failed(&error))?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(|error| failed(&error))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            // Who holds it is told where it can be read; that it is held is what matters.
            drop(lock.read_to_string(&mut holder));
            return Err(StoreError::InUse { path: path.display().to_string(), holder: holder.trim().parse().ok() });
        }
        // Only for people: on a full disk the lock holds without it.
        drop(lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())));
        let store = Self { path, database: Mutex::new(None), changes: broadcast::channel(WATCHED).0, lock: Mutex::new(Some(lock)) };
        store.with(|_| Ok(()))?;
        Ok(store)
    }

    /// Uses the database, opening it where there is none or the last use left it unusable.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Refused>) -> Result<T, StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Err(StoreError::Closed { path: self.path.display().to_string() });
        }
        if database.is_none() {
            *database = Some(self.create().map_err(|error| self.told(error))?);
        }
        let Some(open) = database.as_ref() else { return Err(self.told(Refused::Store(redb::Error::PreviousIo))) };
        let done = work(open);
        if let Err(Refused::Store(_)) = &done {
            // After an error of the disk redb takes no more work until it is opened again. What was committed is there.
            *database = None;
        }
        done.map_err(|error| self.told(error))
    }

    fn create(&self) -> Result<Database, Refused> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&self.path);
        drop(file.map_err(|error| Refused::Store(redb::Error::Io(error)))?);
        let database = Database::create(&self.path).map_err(Refused::store)?;
        let transaction = database.begin_write().map_err(Refused::store)?;
        for name in Table::ALL {
            transaction.open_table(table(name)).map_err(Refused::store)?;
        }
        transaction.open_table(REVISION).map_err(Refused::store)?;
        transaction.commit().map_err(Refused::store)?;
        Ok(database)
    }

    fn told(&self, error: Refused) -> StoreError {
        let path = self.path.display().to_string();
        match error {
            Refused::Conflict(key) => StoreError::Conflict { key },
            Refused::Store(redb::Error::DatabaseAlreadyOpen) => StoreError::InUse { path, holder: None },
            Refused::Store(redb::Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) =>
            {
                StoreError::Full { path }
            }
            Refused::Store(error) => StoreError::Failed { path, error: error.to_string() },
        }
    }
}

/// Why a transaction was not made.
enum Refused {
    Conflict(String),
    Store(redb::Error),
}

impl Refused {
    fn store(error: impl Into<redb::Error>) -> Self {
        Self::Store(error.into())
    }
}

impl Store for Embedded {
    fn get(&self, name: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(Refused::store)?;
            let records = transaction.open_table(table(name)).map_err(Refused::store)?;
            Ok(records.get(key).map_err(Refused::store)?.map(|record| record.value().to_vec()))
        })
    }

    fn list(&self, name: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(Refused::store)?;
            let records = transaction.open_table(table(name)).map_err(Refused::store)?;
            let all = records.iter().map_err(Refused::store)?;
            all.map(|record| record.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())).map_err(Refused::store)).collect()
        })
    }

    fn write(&self, batch: &[Write]) -> Result<Revision, StoreError> {
        if let Some(large) = batch.iter().find(|write| write.value.as_ref().is_some_and(|value| value.len() > MAX_RECORD)) {
            return Err(StoreError::TooLarge { key: large.key.clone() });
        }
        let revision = self.with(|database| {
            // Durability is immediate unless asked otherwise: `commit` returns once the disk has it.
            let transaction = database.begin_write().map_err(Refused::store)?;
            for Write { table: name, key, value, expected } in batch {
                let mut records = transaction.open_table(table(*name)).map_err(Refused::store)?;
                let holds = {
                    let found = records.get(key.as_str()).map_err(Refused::store)?;
                    match expected {
                        Expected::Anything => true,
                        Expected::Absent => found.is_none(),
                        Expected::Value(value) => found.is_some_and(|found| found.value() == value.as_slice()),
                    }
                };
                if !holds {
                    return Err(Refused::Conflict(key.clone()));
                }
                match value {
                    Some(value) => drop(records.insert(key.as_str(), value.as_slice()).map_err(Refused::store)?),
                    None => drop(records.remove(key.as_str()).map_err(Refused::store)?),
                }
            }
            let revision = {
                let mut counter = transaction.open_table(REVISION).map_err(Refused::store)?;
                let last = counter.get("newest").map_err(Refused::store)?.map_or(0, |last| last.value());
                counter.insert("newest", last + 1).map_err(Refused::store)?;
                Revision(last + 1)
            };
            transaction.commit().map_err(Refused::store)?;
            Ok(revision)
        })?;
        let keys = batch.iter().map(|write| (write.table, write.key.clone())).collect();
        // Nobody need be watching.
        let _: Result<usize, _> = self.changes.send(Changed { revision, keys });
        Ok(revision)
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(Refused::store)?;
            let counter = transaction.open_table(REVISION).map_err(Refused::store)?;
            Ok(Revision(counter.get("newest").map_err(Refused::store)?.map_or(0, |last| last.value())))
        })
    }

    fn size(&self) -> Result<StoreSize, StoreError> {
        let records = self.with(|database| {
            let transaction = database.begin_read().map_err(Refused::store)?;
            let count = |name| transaction.open_table(table(name)).map_err(Refused::store)?.len().map_err(Refused::store);
            Table::ALL.into_iter().map(|name| Ok((name, count(name)?))).collect()
        })?;
        let file = fs::metadata(&self.path).map_err(|error| self.told(Refused::Store(redb::Error::Io(error))))?;
        Ok(StoreSize { bytes: file.len(), records })
    }

    fn watch(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    fn close(&self) {
        // In this order: nothing is under way once the database is held, and the file is closed before another may open it.
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
