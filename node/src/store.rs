//! What a node keeps: blobs in iroh-blobs' store, and operations, indexes, references and local facts in a redb
//! database beside it.
//!
//! Neither database knows of the other, so the order of writes is the promise: an operation is on disk only after
//! every blob it refers to is, and [`Store::publish`] returns only after the operation is. What was returned may be
//! sent; a crash at any instant loses nothing that was. Blobs that no operation, draft or [`Hold`] refers to are
//! removed by a sweep in the background.
//!
//! All methods that are not `async` read or write on the calling thread: call them from a blocking thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::available_parallelism;
use std::time::Duration;

use flair_tensors::{Digest, EncodingError, PackError, TensorId};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::home::{Home, HomeError};
use blobs::Blobs;
use database::Database;
use phase::Phases;
use space::Space;
use sweep::Sweeper;
use tensors::Chain;

pub use adopt::{Adopted, Flaw, Listing};
pub use blobs::Spool;
pub use check::{Missing, Problem};
pub use operations::{Batch, GLOBAL};
pub use sweep::Hold;
pub use tensors::TensorReader;
pub use usage::Disk;
pub use write::{Content, Packed, Source};

mod adopt;
mod blobs;
mod check;
mod crew;
mod database;
mod operations;
mod packs;
mod phase;
mod space;
mod sweep;
mod tensors;
mod usage;
mod write;

/// Settings of a store; the defaults suit a node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pause between two sweeps for blobs that nothing refers to.
    pub sweep: Duration,
    /// Bytes to leave free on the disk, beyond what a write needs.
    pub margin: u64,
    /// Threads for coding and checking tensors.
    pub threads: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sweep: Duration::from_mins(10),
            margin: 64 << 20,
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// What can go wrong with the stores.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The home is not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The operating system refused something.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why it was refused.
        source: io::Error,
    },
    /// The disk is full, or would be.
    #[error(
        "not enough space on the disk of {path}: {needed} bytes are needed, {free} are free. \
         Free some space and try again; nothing was changed and no restart is needed"
    )]
    Full {
        /// The folder of the stores.
        path: PathBuf,
        /// Bytes that must be free for what was asked, the margin included.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The operations database refused something.
    #[error("operations database: {0}")]
    Database(#[source] Box<redb::Error>),
    /// A row of the operations database cannot be read.
    #[error(
        "operations database: the row {row} is damaged. Restore the home from a backup, or clone anew into another"
    )]
    Row {
        /// Table and key.
        row: String,
    },
    /// The blob store refused something.
    #[error("blob store: {0}")]
    Blobs(String),
    /// A blob is not here, or not whole.
    #[error("blob {blob} is not here as a whole: fetch or add it again")]
    Absent {
        /// The blob.
        blob: Digest,
    },
    /// A blob is larger than the caller allows.
    #[error("blob {blob} has {size} bytes, at most {max} are accepted here")]
    TooLarge {
        /// The blob.
        blob: Digest,
        /// Its size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        max: u64,
    },
    /// A read beyond the end of a blob.
    #[error("blob {blob} ends before byte {end}")]
    Range {
        /// The blob.
        blob: Digest,
        /// The end of what was asked for.
        end: u64,
    },
    /// A sequence number that was used already: publishing it would sign two operations with one number.
    #[error("sequence number {given} of repository {repository} is used already, the last one is {last}")]
    Sequence {
        /// The repository.
        repository: Digest,
        /// The number in the batch.
        given: u64,
        /// The last number that was published.
        last: u64,
    },
    /// No pack here has a tensor.
    #[error("tensor {tensor} is not here: fetch the pack that has it")]
    Unheld {
        /// The tensor.
        tensor: TensorId,
    },
    /// The bytes of a blob do not give its tensor any more.
    #[error(
        "blob {blob} is damaged: it does not give tensor {tensor}. Let the store check itself and fetch it again"
    )]
    Damaged {
        /// The tensor.
        tensor: TensorId,
        /// The blob it was read from.
        blob: Digest,
    },
    /// A coded tensor cannot be decoded.
    #[error("tensor {tensor} cannot be decoded from blob {blob}: {problem}")]
    Coding {
        /// The tensor.
        tensor: TensorId,
        /// The blob it was read from.
        blob: Digest,
        /// What is wrong.
        #[source]
        problem: EncodingError,
    },
    /// A pack is not what a model needs.
    #[error("pack {root}: {problem}")]
    Pack {
        /// Root of the pack.
        root: Digest,
        /// What is wrong.
        #[source]
        problem: PackError,
    },
    /// A tensor of a pack is not what the model lists.
    #[error("pack {root}: tensor {name} ({tensor}) {flaw}")]
    Tensor {
        /// Root of the pack.
        root: Digest,
        /// Name of the tensor in the model.
        name: String,
        /// The tensor listed.
        tensor: TensorId,
        /// What is wrong.
        flaw: Box<Flaw>,
    },
    /// A tensor to be packed cannot be read.
    #[error("tensor {name} cannot be read: {source}")]
    Input {
        /// Name of the tensor.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A tensor to be packed is not the one announced.
    #[error("tensor {name} is {found} and not {expected}: it changed while it was read")]
    Changed {
        /// Name of the tensor.
        name: String,
        /// The tensor announced.
        expected: TensorId,
        /// The tensor found.
        found: TensorId,
    },
    /// A tensor could not be written to where the caller wants it.
    #[error("writing a tensor: {source}")]
    Output {
        /// Why not.
        source: io::Error,
    },
    /// The process is about to end.
    #[error("the store is closed")]
    Closed,
}

/// The stores of one home. Clones share them.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// For tasks that outlive a call.
    me: Weak<Inner>,
    /// Keeps the home ours for as long as the stores are open.
    home: Home,
    space: Space,
    database: Database,
    blobs: Blobs,
    sweeper: Arc<Sweeper>,
    phases: Phases,
    /// Blobs that are on disk but wrong: they count as absent until added again, and the sweep takes them.
    doomed: Mutex<BTreeSet<Digest>>,
    missing: Mutex<Vec<Missing>>,
    /// Readers of tensors that were read lately.
    readers: Mutex<BTreeMap<TensorId, Arc<Chain>>>,
    /// Blobs without a file that were read lately.
    small: Mutex<BTreeMap<Digest, Arc<[u8]>>>,
    threads: NonZeroUsize,
    /// For reads of blobs that live inside the blob store's database.
    runtime: Handle,
}

impl Store {
    /// Opens the stores of `home`, with the default settings.
    ///
    /// Every blob that an operation or a draft refers to is looked at: what is gone or was changed behind our back
    /// is listed by [`missing`](Self::missing), and must be fetched again.
    ///
    /// # Errors
    /// When a database cannot be opened. Missing blobs are no error.
    pub async fn open(home: &Home) -> Result<Self, StoreError> {
        Self::open_with(home, Options::default()).await
    }

    /// [`open`](Self::open) with other settings.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(home: &Home, options: Options) -> Result<Self, StoreError> {
        let folder = home.store();
        let space = Space::new(&folder, options.margin);
        let path = folder.join("operations.db");
        let database = {
            let space = space.clone();
            blocking(move || Database::open(&path, space)).await?
        };
        let sweeper = Arc::new(Sweeper::new(options.sweep));
        let store = Self {
            inner: Arc::new_cyclic(|me| Inner {
                me: me.clone(),
                home: home.clone(),
                blobs: Blobs::new(&folder.join("blobs"), space.clone()),
                space,
                database,
                sweeper,
                phases: Phases::from_environment(),
                doomed: Mutex::default(),
                missing: Mutex::default(),
                readers: Mutex::default(),
                small: Mutex::default(),
                threads: options.threads,
                runtime: Handle::current(),
            }),
        };
        let incoming = store.inner.incoming();
        store
            .blocking(move |inner| {
                empty(&incoming)?;
                // What is noted of blobs that nothing refers to must not outlive them.
                inner.referenced(Vec::new()).map(drop)
            })
            .await?;
        store.inner.revive().await?;
        store.check().await?;
        Ok(store)
    }

    /// Closes both databases, and returns once they are on disk. Later calls on any clone fail.
    pub async fn close(&self) {
        self.inner.blobs.close().await;
        self.inner.sweeper.end(self.inner.blobs.generation());
        self.inner.sweeper.close();
        let inner = self.inner.clone();
        // Closing waits for the transactions under way.
        if blocking(move || {
            inner.database.close();
            Ok(())
        })
        .await
        .is_err()
        {
            tracing::debug!("the runtime ended before the operations database was closed");
        }
    }

    /// Refuses when there is not enough space for `bytes` more bytes: to be asked before a fetch.
    ///
    /// # Errors
    /// [`StoreError::Full`] says how much is needed.
    pub fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        self.inner.space.check(bytes)
    }

    /// The folder of the stores.
    pub fn folder(&self) -> &Path {
        self.inner.space.folder()
    }

    /// Runs `work` on a blocking thread.
    async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let inner = self.inner.clone();
        blocking(move || work(&inner)).await
    }
}

async fn blocking<T, F>(work: F) -> Result<T, StoreError>
where
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}

impl Drop for Inner {
    /// Closes the blob store if nobody did: its own tasks keep it open otherwise.
    fn drop(&mut self) {
        self.database.close();
        if let Ok(Some(store)) = self.blobs.open() {
            let (sweeper, generation) = (self.sweeper.clone(), self.blobs.generation());
            // Nobody else may own the home before the last database is closed.
            let home = self.home.clone();
            self.runtime.spawn(async move {
                store.shutdown().await.ok();
                sweeper.end(generation);
                drop(home);
            });
        }
    }
}

/// Makes a folder, or empties one of what a crash left in it.
fn empty(folder: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
    for file in std::fs::read_dir(folder).map_err(|error| at(folder, error))?.flatten() {
        std::fs::remove_file(file.path()).map_err(|error| at(&file.path(), error))?;
    }
    Ok(())
}

/// Locks, also when a thread panicked with the lock held: the maps behind our locks are whole after every step.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts `source` together with the path it is about.
fn at(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}
