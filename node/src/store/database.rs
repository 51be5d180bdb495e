//! The operations database: its tables, and reopening it after an I/O error.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Durability, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};

use super::space::Space;
use super::{StoreError, at};

/// 32 bytes of a digest.
pub(super) type Id = &'static [u8; 32];

/// Repository and place in the order of arrival → operation id and bytes.
pub(super) const OPERATIONS: TableDefinition<(Id, u64), (Id, &[u8])> = TableDefinition::new("operations");
/// Repository and operation id → place.
pub(super) const PLACES: TableDefinition<(Id, Id), u64> = TableDefinition::new("places");
/// Repository and key → value.
pub(super) const FACTS: TableDefinition<(Id, &str), &[u8]> = TableDefinition::new("facts");
/// Repository → last sequence number published.
pub(super) const SEQUENCES: TableDefinition<Id, u64> = TableDefinition::new("sequences");
/// Blob and repository → how often the repository refers to the blob; never 0.
pub(super) const REFS: TableDefinition<(Id, Id), u64> = TableDefinition::new("refs");
/// Blob → what its files were when they were last known to be on disk and right, see [`super::check::Seen`].
pub(super) const SEEN: TableDefinition<Id, (u64, u64, u64, u64, u64)> = TableDefinition::new("seen");
/// Pack root → number, blobs and the packs it needs, see `packs`.
pub(super) const PACKS: TableDefinition<Id, &[u8]> = TableDefinition::new("packs");
/// Tensor and pack number → where the pack has the tensor, see `packs`.
pub(super) const TENSORS: TableDefinition<(Id, u64), &[u8]> = TableDefinition::new("tensors");
/// Blob and pack root → nothing: the pack has the blob, or needs the pack whose root the blob is.
pub(super) const PARENTS: TableDefinition<(Id, Id), ()> = TableDefinition::new("parents");
/// Name → number.
pub(super) const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");

/// A redb database that refuses everything after an I/O error is closed and opened again by the next call, so that
/// freeing space on a full disk is enough.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    space: Space,
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    Open(redb::Database),
    /// Failed: to be opened by the next call.
    Failed,
    /// Closed for good.
    Closed,
}

impl Database {
    pub(super) fn open(path: &Path, space: Space) -> Result<Self, StoreError> {
        let database = Self { path: path.to_owned(), space, state: RwLock::new(State::Failed) };
        database.reopen()?;
        // The folder's entry of a new file must be on disk before the first commit is promised to be.
        let folder = path.parent().unwrap_or(path);
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| at(folder, error))?;
        Ok(database)
    }

    pub(super) fn close(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    /// Runs `work` in a read transaction.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.run(|database| work(&database.begin_read()?))
    }

    /// Runs `work` in a write transaction and returns once the commit is on disk; an error changes nothing.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.commit(Durability::Immediate, work)
    }

    /// As [`write`](Self::write), but the change reaches the disk only with the next such commit. For what can be
    /// made again.
    pub(super) fn write_later<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.commit(Durability::None, work)
    }

    fn commit<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.run(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    fn run<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Failed) {
            drop(state);
            self.reopen()?;
            state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        }
        let State::Open(database) = &*state else { return Err(StoreError::Closed) };
        let result = work(database);
        drop(state);
        result.map_err(|error| self.judge(error))
    }

    /// Marks the database as failed when `error` means that it refuses everything from now on.
    fn judge(&self, error: StoreError) -> StoreError {
        let StoreError::Database(cause) = &error else { return error };
        if !matches!(**cause, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::LockPoisoned(_)) {
            return error;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Open(_)) {
            tracing::warn!(%error, path = %self.path.display(), "closing the operations database after an error");
            *state = State::Failed;
        }
        drop(state);
        self.space.explain(cause).unwrap_or(error)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Failed) {
            return Ok(());
        }
        let open = || -> Result<redb::Database, StoreError> {
            let database = redb::Database::create(&self.path)?;
            let transaction = database.begin_write()?;
            transaction.open_table(OPERATIONS)?;
            transaction.open_table(PLACES)?;
            transaction.open_table(FACTS)?;
            transaction.open_table(SEQUENCES)?;
            transaction.open_table(REFS)?;
            transaction.open_table(SEEN)?;
            transaction.open_table(PACKS)?;
            transaction.open_table(TENSORS)?;
            transaction.open_table(PARENTS)?;
            transaction.open_table(COUNTERS)?;
            transaction.commit()?;
            Ok(database)
        };
        let database = open().map_err(|error| match &error {
            StoreError::Database(cause) => self.space.explain(cause).unwrap_or(error),
            _ => error,
        })?;
        *state = State::Open(database);
        Ok(())
    }
}

/// redb has an error type per kind of call; they all become one here.
macro_rules! from_redb {
    ($($error:ty),+) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )+};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);
