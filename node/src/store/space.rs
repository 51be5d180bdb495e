//! Free space on the disk, looked at before it runs out.

use std::io;
use std::path::{Path, PathBuf};

use super::{StoreError, at};

/// Below this many free bytes an error of a database is taken for a full disk, whatever it says.
const EXHAUSTED: u64 = 1 << 20;

/// The disk that the stores are on.
#[derive(Debug, Clone)]
pub(super) struct Space {
    folder: PathBuf,
    margin: u64,
}

impl Space {
    pub(super) fn new(folder: &Path, margin: u64) -> Self {
        Self { folder: folder.to_owned(), margin }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Refuses to begin a write of `bytes` bytes that would leave less than the margin free.
    pub(super) fn check(&self, bytes: u64) -> Result<(), StoreError> {
        let free = self.free()?;
        let needed = bytes.saturating_add(self.margin);
        if free < needed {
            return Err(StoreError::Full { path: self.folder.clone(), needed, free });
        }
        Ok(())
    }

    /// [`StoreError::Full`] when `error` or its causes, or the disk itself, say that the disk is full.
    pub(super) fn explain(&self, error: &(dyn std::error::Error + 'static)) -> Option<StoreError> {
        let free = self.free().ok()?;
        (says_full(error) || free < EXHAUSTED).then(|| StoreError::Full {
            path: self.folder.clone(),
            needed: self.margin.max(EXHAUSTED),
            free,
        })
    }

    pub(super) fn free(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::statvfs(&self.folder).map_err(|error| at(&self.folder, error.into()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

fn says_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = error.source();
    }
    false
}
