//! Blobs: everything that is fetched and served by its BLAKE3 digest. The types of iroh-blobs stay in here and in
//! the network's transfer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use flair_tensors::{Digest, Hasher};
use iroh_blobs::api::blobs::{AddPathOptions, BlobStatus, ImportMode};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::Options;
use iroh_blobs::{BlobFormat, Hash};
use tempfile::NamedTempFile;
use tokio::sync::watch;

use super::space::Space;
use super::sweep::Hold;
use super::{Inner, Store, StoreError, at, locked};

/// Bytes up to which a blob under construction stays in memory.
const SPOOLED: usize = 4 << 20;
/// Most bytes of a blob that lives in the blob store's database.
pub(super) const SMALL: u64 = 16 << 10;
/// How many of those are kept at hand.
const CACHED: usize = 256;
/// Bytes written between two looks at the free space.
const LOOK: u64 = 16 << 20;
/// Bytes per read of a file that is added.
const PIECE: usize = 1 << 20;

/// The blob store, which is opened again when its database failed.
#[derive(Debug)]
pub(super) struct Blobs {
    folder: PathBuf,
    space: Space,
    state: RwLock<State>,
    /// One reopening at a time.
    reviving: tokio::sync::Mutex<()>,
    /// Counts openings.
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
enum State {
    Open(FsStore),
    Failed,
    Closed,
}

impl Blobs {
    pub(super) fn new(folder: &Path, space: Space) -> Self {
        Self {
            folder: folder.to_owned(),
            space,
            state: RwLock::new(State::Failed),
            reviving: tokio::sync::Mutex::default(),
            generation: watch::Sender::new(0),
        }
    }

    /// The file of a blob. Blobs of up to 16 KiB have none: they are in the blob store's database.
    pub(super) fn file(&self, blob: Digest) -> PathBuf {
        self.folder.join("data").join(format!("{}.data", Hash::from(blob.to_bytes()).to_hex()))
    }

    /// The file of a blob's hash tree; small trees have none.
    pub(super) fn tree(&self, blob: Digest) -> PathBuf {
        self.folder.join("data").join(format!("{}.obao4", Hash::from(blob.to_bytes()).to_hex()))
    }

    /// The folder of the two.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// The open store, or none when it failed.
    pub(super) fn open(&self) -> Result<Option<FsStore>, StoreError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(store) => Ok(Some(store.clone())),
            State::Failed => Ok(None),
            State::Closed => Err(StoreError::Closed),
        }
    }

    /// Replaces the state unless it is closed for good.
    fn set(&self, new: State) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Closed) {
            return false;
        }
        *state = new;
        true
    }

    pub(super) async fn close(&self) {
        let _alone = self.reviving.lock().await;
        if let Ok(Some(store)) = self.open() {
            // Fails only when its database has ended already.
            store.shutdown().await.ok();
        }
        self.set(State::Closed);
    }

    /// Ends the store if its database no longer answers, or in any case with `force`; the next call opens it again.
    pub(super) async fn fail(&self, generation: u64, force: bool) {
        let _alone = self.reviving.lock().await;
        if self.generation() != generation {
            return;
        }
        let Ok(Some(store)) = self.open() else { return };
        if !force && store.sync_db().await.is_ok() {
            return;
        }
        tracing::warn!(folder = %self.folder.display(), "closing the blob store after an error");
        store.shutdown().await.ok();
        self.set(State::Failed);
    }

    /// Opens the store if it failed. `attach` completes the settings for a generation.
    pub(super) async fn revive(
        &self,
        attach: impl FnOnce(u64, Options) -> Options,
    ) -> Result<FsStore, StoreError> {
        let _alone = self.reviving.lock().await;
        if let Some(store) = self.open()? {
            return Ok(store);
        }
        self.clear_leftovers();
        let generation = self.generation() + 1;
        let options = attach(generation, Options::new(&self.folder));
        let store = FsStore::load_with_opts(self.folder.join("blobs.db"), options)
            .await
            .map_err(|error| self.explain(&io::Error::other(format!("{error:#}"))))?;
        // The store's folders and its database must be found again after a power cut.
        for folder in [&self.folder, self.space.folder()] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| at(folder, error))?;
        }
        self.generation.send_replace(generation);
        if self.set(State::Open(store.clone())) { Ok(store) } else { Err(StoreError::Closed) }
    }

    pub(super) fn explain(&self, error: &(dyn std::error::Error + 'static)) -> StoreError {
        self.space.explain(error).unwrap_or_else(|| StoreError::Blobs(chain(error)))
    }

    /// Removes files of imports that a crash or a full disk interrupted. Only with no import under way.
    pub(super) fn clear_leftovers(&self) {
        let Ok(files) = std::fs::read_dir(self.folder.join("temp")) else { return };
        for file in files.flatten() {
            if let Err(error) = std::fs::remove_file(file.path()) {
                tracing::warn!(%error, path = %file.path().display(), "leftover not removed");
            }
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// Where an import comes from.
pub(super) enum Source {
    Memory(Vec<u8>),
    File(NamedTempFile),
}

fn hash(blob: Digest) -> Hash {
    Hash::from(blob.to_bytes())
}

/// A blob under construction: in memory while it is small, else in a file of ours that goes when this is dropped.
///
/// It is hashed while it is written, so that a blob we hold already is not imported again: that would replace a file
/// that is safely on disk by one that is not yet.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    space: Space,
    memory: Vec<u8>,
    file: Option<NamedTempFile>,
    hasher: Hasher,
    length: u64,
    looked: u64,
}

impl Spool {
    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The digest of the bytes written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.finalize()
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        if self.file.is_none() && self.memory.len() + bytes.len() <= SPOOLED {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        // The import copies the file once, so twice the length is needed for a moment.
        if self.length >= self.looked {
            self.space.check(self.length.saturating_add(2 * LOOK))?;
            self.looked = self.length + LOOK;
        }
        self.append(bytes)
            .map_err(|error| self.space.explain(&error).unwrap_or_else(|| at(&self.folder, error)))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = NamedTempFile::new_in(&self.folder)?;
                file.write_all(&self.memory)?;
                self.memory = Vec::new();
                none.insert(file)
            }
        };
        file.write_all(bytes)
    }
}

impl Store {
    /// Begins a blob that is written piece by piece and then given to [`add_spool`](Self::add_spool).
    pub fn spool(&self) -> Spool {
        self.inner.spool()
    }

    /// Adds a blob. It stays for as long as `hold` or an operation that was published refers to it.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is.
    pub async fn add_bytes(&self, hold: &Hold, bytes: Vec<u8>) -> Result<Digest, StoreError> {
        let blob = Digest::of(&bytes);
        let length = bytes.len() as u64;
        self.inner.import(hold, blob, length, Source::Memory(bytes)).await?;
        Ok(blob)
    }

    /// Adds the content of a file, which is read once. It stays for as long as `hold` or an operation that was
    /// published refers to it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when the file has more than `max` bytes, [`StoreError::Full`] when the disk is.
    pub async fn add_file(&self, hold: &Hold, path: &Path, max: u64) -> Result<Digest, StoreError> {
        let mut spool = self.spool();
        let path = path.to_owned();
        let spool = self
            .blocking(move |_| {
                let mut file = File::open(&path).map_err(|error| at(&path, error))?;
                let mut piece = vec![0; PIECE];
                loop {
                    let length = file.read(&mut piece).map_err(|error| at(&path, error))?;
                    if length == 0 {
                        return Ok(spool);
                    }
                    spool.push(&piece[..length])?;
                    if spool.len() > max {
                        let size = spool.len();
                        return Err(StoreError::TooLarge { blob: spool.digest(), size, max });
                    }
                }
            })
            .await?;
        self.add_spool(hold, spool).await
    }

    /// Adds a blob that was written piece by piece. It stays for as long as `hold` or an operation that was
    /// published refers to it.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is.
    pub async fn add_spool(&self, hold: &Hold, spool: Spool) -> Result<Digest, StoreError> {
        let blob = spool.digest();
        self.inner.import_spool(hold, spool).await?;
        Ok(blob)
    }

    /// Whether a blob is here as a whole.
    ///
    /// # Errors
    /// When the blob store fails.
    pub async fn has(&self, blob: Digest) -> Result<bool, StoreError> {
        Ok(self.inner.size(blob).await?.is_some())
    }

    /// The size of a blob in bytes, or none when it is not here as a whole.
    ///
    /// # Errors
    /// When the blob store fails.
    pub async fn size(&self, blob: Digest) -> Result<Option<u64>, StoreError> {
        self.inner.size(blob).await
    }

    /// Exactly `length` bytes of a blob from `offset` on.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when the blob is not here, [`StoreError::Range`] when it is shorter.
    pub async fn read_at(&self, blob: Digest, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let size = self.inner.size(blob).await?.ok_or(StoreError::Absent { blob })?;
        let end = offset.saturating_add(length as u64);
        if end > size {
            return Err(StoreError::Range { blob, end });
        }
        self.blocking(move |inner| {
            let mut bytes = vec![0; length];
            inner.read(blob, offset, &mut bytes)?;
            Ok(bytes)
        })
        .await
    }

    /// Fills `out` with bytes of a blob from `offset` on, which are not checked; for blocking threads.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when the blob is not here, [`StoreError::Range`] when it is shorter.
    pub fn read_into(&self, blob: Digest, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        self.inner.read(blob, offset, out)
    }

    /// A whole blob, checked against its digest.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when the blob is not here or was damaged, [`StoreError::TooLarge`] when it has more
    /// than `max` bytes.
    pub async fn read_all(&self, blob: Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let size = self.inner.size(blob).await?.ok_or(StoreError::Absent { blob })?;
        if size > max {
            return Err(StoreError::TooLarge { blob, size, max });
        }
        self.inner.read_whole(blob, size).await
    }

    /// The blob store itself, for transfers. It changes when the store had to be opened again after an error:
    /// see [`generation`](Self::generation).
    ///
    /// # Errors
    /// When the blob store cannot be opened.
    pub async fn transfers(&self) -> Result<iroh_blobs::api::Store, StoreError> {
        Ok(self.inner.store().await?.into())
    }

    /// Changes whenever [`transfers`](Self::transfers) gives another store: the old one answers nothing any more.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.inner.blobs.generation.subscribe()
    }
}

impl Inner {
    /// Folder of blobs under construction.
    pub(super) fn incoming(&self) -> PathBuf {
        self.space.folder().join("incoming")
    }

    pub(super) fn spool(&self) -> Spool {
        Spool {
            folder: self.incoming(),
            space: self.space.clone(),
            memory: Vec::new(),
            file: None,
            hasher: Hasher::new(),
            length: 0,
            looked: 0,
        }
    }

    pub(super) async fn import_spool(&self, hold: &Hold, spool: Spool) -> Result<bool, StoreError> {
        let blob = spool.digest();
        let length = spool.length;
        let source = spool.file.map_or(Source::Memory(spool.memory), Source::File);
        self.import(hold, blob, length, source).await
    }

    /// The open blob store.
    pub(super) async fn store(&self) -> Result<FsStore, StoreError> {
        match self.blobs.open()? {
            Some(store) => Ok(store),
            None => self.revive().await,
        }
    }

    /// Imports a blob and lets `hold` hold it; `false` when it was here. A task of its own, because the import goes on
    /// when the caller loses interest, and no sweep may run beside it.
    pub(super) async fn import(
        &self,
        hold: &Hold,
        blob: Digest,
        length: u64,
        source: Source,
    ) -> Result<bool, StoreError> {
        let (inner, hold) = (self.me.upgrade().ok_or(StoreError::Closed)?, hold.clone());
        tokio::spawn(async move {
            let gate = inner.sweeper.enter().await;
            let result = inner.import_inside(blob, length, source).await;
            if result.is_ok() {
                hold.pin(blob, false);
                return result;
            }
            drop(gate);
            // What the failed import left takes space, which may be what was short.
            let _alone = inner.sweeper.alone().await;
            inner.blobs.clear_leftovers();
            result
        })
        .await
        .unwrap_or(Err(StoreError::Closed))
    }

    async fn import_inside(&self, blob: Digest, length: u64, source: Source) -> Result<bool, StoreError> {
        if self.size(blob).await?.is_some() {
            return Ok(false);
        }
        self.space.check(length)?;
        let generation = self.blobs.generation();
        let store = self.store().await?;
        // Kept until it has been copied: dropped, it is gone.
        let file;
        let progress = match source {
            Source::Memory(bytes) => store.blobs().add_bytes(bytes),
            // Copied or reflinked. The store would also take the file by reference, and then trust a file that is
            // not its own for ever.
            Source::File(source) => {
                file = source;
                store.blobs().add_path_with_opts(AddPathOptions {
                    path: file.path().to_owned(),
                    format: BlobFormat::Raw,
                    mode: ImportMode::Copy,
                })
            }
        };
        // A plain await would leave a tag that keeps the blob for ever.
        match progress.temp_tag().await {
            Ok(tag) if tag.hash() == hash(blob) => {
                locked(&self.doomed).remove(&blob);
                Ok(true)
            }
            Ok(_) => Err(StoreError::Absent { blob }),
            Err(error) => Err(self.failed(generation, &error).await),
        }
    }

    /// What `error` means, after closing the blob store if it will not answer any more.
    async fn failed(
        &self,
        generation: u64,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) -> StoreError {
        self.blobs.fail(generation, false).await;
        self.blobs.explain(error)
    }

    /// Waits until everything that was added is in the blob store's database on disk.
    pub(super) async fn sync_blobs(&self) -> Result<(), StoreError> {
        let generation = self.blobs.generation();
        match self.store().await?.sync_db().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(generation, &error).await),
        }
    }

    /// Fills `out` from a blob that is here as a whole. For blocking threads.
    pub(super) fn read(&self, blob: Digest, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let path = self.blobs.file(blob);
        match File::open(&path) {
            Ok(file) => file.read_exact_at(out, offset).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => StoreError::Range { blob, end: offset + out.len() as u64 },
                _ => at(&path, error),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let cached = locked(&self.small).get(&blob).cloned();
                let bytes = match cached {
                    Some(bytes) => bytes,
                    None => self.runtime.block_on(self.read_small(blob))?,
                };
                let end = offset.saturating_add(out.len() as u64);
                let found =
                    bytes.get(offset as usize..end as usize).ok_or(StoreError::Range { blob, end })?;
                out.copy_from_slice(found);
                Ok(())
            }
            Err(error) => Err(at(&path, error)),
        }
    }

    /// All `size` bytes of a blob, checked against its digest.
    pub(super) async fn read_whole(&self, blob: Digest, size: u64) -> Result<Vec<u8>, StoreError> {
        let inner = self.me.upgrade().ok_or(StoreError::Closed)?;
        super::blocking(move || {
            let mut bytes = vec![0; size as usize];
            inner.read(blob, 0, &mut bytes)?;
            if Digest::of(&bytes) != blob {
                inner.doom(blob);
                return Err(StoreError::Absent { blob });
            }
            Ok(bytes)
        })
        .await
    }

    /// A blob that lives in the blob store's database.
    async fn read_small(&self, blob: Digest) -> Result<Arc<[u8]>, StoreError> {
        let generation = self.blobs.generation();
        // The caller looked at the size; a large blob whose file is gone must not come into memory.
        match self.size(blob).await? {
            Some(size) if size <= SMALL => {}
            _ => return Err(StoreError::Absent { blob }),
        }
        match self.store().await?.blobs().get_bytes(hash(blob)).await {
            Ok(bytes) => {
                let bytes: Arc<[u8]> = Arc::from(&bytes[..]);
                let mut small = locked(&self.small);
                if small.len() >= CACHED {
                    small.clear();
                }
                small.insert(blob, bytes.clone());
                Ok(bytes)
            }
            Err(error) => Err(self.failed(generation, &error).await),
        }
    }

    /// The size of a blob that is here as a whole.
    pub(super) async fn size(&self, blob: Digest) -> Result<Option<u64>, StoreError> {
        if locked(&self.doomed).contains(&blob) {
            return Ok(None);
        }
        self.complete(blob).await
    }

    /// The size of a blob that the blob store believes to have as a whole.
    pub(super) async fn complete(&self, blob: Digest) -> Result<Option<u64>, StoreError> {
        let generation = self.blobs.generation();
        match self.store().await?.blobs().status(hash(blob)).await {
            Ok(BlobStatus::Complete { size }) => Ok(Some(size)),
            Ok(_) => Ok(None),
            Err(error) => Err(self.failed(generation, &error).await),
        }
    }
}
