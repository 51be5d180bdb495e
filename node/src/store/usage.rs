//! What takes how much of the disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use flair_tensors::Digest;
use iroh_blobs::Hash;
use redb::ReadableTable;

use super::check::Seen;
use super::database::{OPERATIONS, REFS, SEEN};
use super::{Inner, Store, StoreError, at, locked, packs};

/// What a home's stores take of the disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// All files of the stores.
    pub total: u64,
    /// Of those, blobs that an operation, a draft or a hold refers to, and what comes with them.
    pub used: u64,
    /// Of those, files of blobs that nothing refers to: a sweep takes them.
    pub reclaimable: u64,
    /// Free bytes on the disk.
    pub free: u64,
}

impl Store {
    /// Bytes of what each of `groups` refers to. A blob counts for the first group that needs it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn weigh(&self, groups: Vec<Vec<Digest>>) -> Result<Vec<u64>, StoreError> {
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let table = transaction.open_table(SEEN)?;
                let mut counted = BTreeSet::new();
                let mut sums = Vec::with_capacity(groups.len());
                for group in &groups {
                    let mut sum = 0;
                    for blob in packs::expand(transaction, group)? {
                        if counted.insert(blob) {
                            sum += table
                                .get(blob.as_bytes())?
                                .map_or(0, |seen| Seen::from_row(seen.value()).bytes());
                        }
                    }
                    sums.push(sum);
                }
                Ok(sums)
            })
        })
        .await
    }

    /// Bytes of a repository's operations.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn operation_bytes(&self, repository: Digest) -> Result<u64, StoreError> {
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let key = repository.as_bytes();
                let mut bytes = 0;
                for row in transaction.open_table(OPERATIONS)?.range((key, 0)..=(key, u64::MAX))? {
                    bytes += row?.1.value().1.len() as u64;
                }
                Ok(bytes)
            })
        })
        .await
    }

    /// Bytes of all blobs that any repository refers to, each counted once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn referenced_bytes(&self) -> Result<u64, StoreError> {
        let roots = self.blocking(Inner::referred).await?;
        Ok(self.weigh(vec![roots]).await?.into_iter().sum())
    }

    /// What the stores take of the disk.
    ///
    /// # Errors
    /// When a database or the disk fails.
    pub async fn disk(&self) -> Result<Disk, StoreError> {
        let pins: Vec<_> = locked(&self.inner.sweeper.pins).keys().copied().collect();
        let mut kept: Vec<Digest> = pins.iter().map(|(blob, _)| *blob).collect();
        for (root, _) in pins.iter().filter(|(_, sequence)| *sequence) {
            kept.extend(self.inner.children(*root).await?);
        }
        self.blocking(move |inner| inner.disk(kept)).await
    }
}

impl Inner {
    /// Blobs and pack roots that repositories refer to.
    fn referred(&self) -> Result<Vec<Digest>, StoreError> {
        self.database.read(|transaction| {
            let mut roots = Vec::new();
            for row in transaction.open_table(REFS)?.iter()? {
                roots.push(Digest::from_bytes(*row?.0.value().0));
            }
            Ok(roots)
        })
    }

    fn disk(&self, kept: Vec<Digest>) -> Result<Disk, StoreError> {
        let mut roots = self.referred()?;
        roots.extend(kept);
        let live = self.database.read(|transaction| packs::expand(transaction, &roots))?;
        let live: BTreeSet<String> =
            live.into_iter().map(|blob| Hash::from(blob.to_bytes()).to_hex()).collect();
        let mut disk = Disk { free: self.space.free()?, ..Disk::default() };
        disk.total = size(self.space.folder())?;
        let data = self.blobs.data();
        for (name, bytes) in files(&data)? {
            let blob = name.split_once('.').map_or(name.as_str(), |(blob, _)| blob);
            if live.contains(blob) {
                disk.used += bytes;
            } else {
                disk.reclaimable += bytes;
            }
        }
        Ok(disk)
    }
}

/// Names and sizes of a folder's files; one that goes meanwhile is left out.
fn files(folder: &Path) -> Result<Vec<(String, u64)>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(folder, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| at(folder, error))?;
        if let Ok(about) = entry.metadata()
            && about.is_file()
        {
            found.push((entry.file_name().to_string_lossy().into_owned(), about.len()));
        }
    }
    Ok(found)
}

/// Bytes of all files in and below a folder.
fn size(folder: &Path) -> Result<u64, StoreError> {
    let mut bytes = files(folder)?.iter().map(|(_, bytes)| bytes).sum();
    for entry in fs::read_dir(folder).map_err(|error| at(folder, error))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            bytes += size(&entry.path())?;
        }
    }
    Ok(bytes)
}
