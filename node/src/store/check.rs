//! Whether what is referred to is on disk, and right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::valid_ranges;
use bao_tree::{BaoTree, ChunkRanges};
use flair_tensors::{Digest, Hasher};
use iroh_blobs::store::IROH_BLOCK_SIZE;
use redb::ReadableTable;

use super::blobs::SMALL;
use super::database::{REFS, SEEN};
use super::{Inner, Store, StoreError, at, locked, packs};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// A blob that an operation or a draft refers to and that must be fetched again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What is referred to: the blob, or the root of a pack that has or needs it.
    pub root: Digest,
    /// The blob.
    pub blob: Digest,
    /// Why it does not count.
    pub problem: Problem,
}

/// What is wrong with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is not here, or not as a whole.
    Absent,
    /// Its bytes are not those of its digest.
    Damaged,
}

/// What a blob's files were when they were last on disk and right. As long as they are the same, the blob is not read
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    size: u64,
    /// Nanoseconds since 1970 of the last change, and the inode; 0 for a blob inside the blob store's database.
    changed: u64,
    inode: u64,
    /// The same for the hash tree; 0 when it is inside the database.
    tree_size: u64,
    tree_changed: u64,
}

impl Seen {
    /// A blob inside the blob store's database.
    const fn inside(size: u64) -> Self {
        Self { size, changed: 0, inode: 0, tree_size: 0, tree_changed: 0 }
    }

    pub(super) fn row(self) -> (u64, u64, u64, u64, u64) {
        (self.size, self.changed, self.inode, self.tree_size, self.tree_changed)
    }

    /// Bytes that the blob takes.
    pub(super) fn bytes(self) -> u64 {
        self.size + self.tree_size
    }

    pub(super) fn from_row(
        (size, changed, inode, tree_size, tree_changed): (u64, u64, u64, u64, u64),
    ) -> Self {
        Self { size, changed, inode, tree_size, tree_changed }
    }
}

fn changed(about: &Metadata) -> u64 {
    (about.mtime().unsigned_abs()).wrapping_mul(1_000_000_000).wrapping_add(about.mtime_nsec().unsigned_abs())
}

/// Opens a file unless there is none.
fn open(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

impl Store {
    /// What must be fetched again, as found when the store was opened or by the last [`verify`](Self::verify).
    pub fn missing(&self) -> Vec<Missing> {
        locked(&self.inner.missing).clone()
    }

    /// Reads every blob that is referred to and compares it with its digest; returns what is missing. Takes as long
    /// as reading them takes.
    ///
    /// # Errors
    /// When a database or the disk fails.
    pub async fn verify(&self) -> Result<Vec<Missing>, StoreError> {
        self.inspect(true).await
    }

    /// Looks again at what was missing, after a fetch, and returns what still is.
    ///
    /// # Errors
    /// When a database or the disk fails.
    pub async fn check(&self) -> Result<Vec<Missing>, StoreError> {
        self.inspect(false).await
    }

    async fn inspect(&self, deep: bool) -> Result<Vec<Missing>, StoreError> {
        let (referenced, mut missing) = self.blocking(move |inner| inner.look(deep)).await?;
        if deep {
            locked(&self.inner.small).clear();
        }
        for (blob, root) in referenced {
            if missing.iter().any(|found| found.blob == blob) {
                continue;
            }
            let problem = match self.inner.size(blob).await? {
                None => Problem::Absent,
                Some(size) if deep && size <= SMALL => match self.inner.read_whole(blob, size).await {
                    Err(StoreError::Absent { .. }) => Problem::Damaged,
                    other => {
                        other?;
                        continue;
                    }
                },
                Some(_) => continue,
            };
            missing.push(Missing { root, blob, problem });
        }
        for found in &missing {
            tracing::warn!(blob = %found.blob, root = %found.root, problem = ?found.problem, "blob missing");
        }
        locked(&self.inner.missing).clone_from(&missing);
        // The blob store still believes that it has what was damaged, and would not fetch it.
        if !locked(&self.inner.doomed).is_empty() {
            self.sweep().await?;
        }
        Ok(missing)
    }
}

impl Inner {
    /// Looks at the files of everything that is referred to. Returns it, each with what refers to it, and what is
    /// missing; the blob store has not been asked yet.
    fn look(&self, deep: bool) -> Result<(BTreeMap<Digest, Digest>, Vec<Missing>), StoreError> {
        let (referenced, seen) = self.database.read(|transaction| {
            let references = transaction.open_table(REFS)?;
            let mut roots = BTreeSet::new();
            for row in references.iter()? {
                roots.insert(Digest::from_bytes(*row?.0.value().0));
            }
            let mut referenced = BTreeMap::new();
            // A blob belongs to the pack that has it before it belongs to one that needs that pack: who gets the pack
            // again gets the blob.
            for root in packs::expand(transaction, &roots)? {
                for blob in packs::own(transaction, root)? {
                    referenced.entry(blob).or_insert(root);
                }
                if roots.contains(&root) {
                    referenced.entry(root).or_insert(root);
                }
            }
            for root in &roots {
                for blob in packs::expand(transaction, [root])? {
                    referenced.entry(blob).or_insert(*root);
                }
            }
            let mut seen = BTreeMap::new();
            for row in transaction.open_table(SEEN)?.iter()? {
                let (blob, row) = row?;
                seen.insert(Digest::from_bytes(*blob.value()), Seen::from_row(row.value()));
            }
            Ok((referenced, seen))
        })?;
        let mut missing = Vec::new();
        let mut fresh = Vec::new();
        for (&blob, &root) in &referenced {
            let before = seen.get(&blob).copied();
            let problem = match self.look_at(blob, before, deep)? {
                Ok(now) if before == Some(now) => continue,
                // Whether it is in the database at all has not been asked yet.
                Ok(now) if now.inode == 0 => continue,
                Ok(now) => {
                    fresh.push((blob, now));
                    continue;
                }
                Err(problem) => problem,
            };
            self.doom(blob);
            missing.push(Missing { root, blob, problem });
        }
        if !fresh.is_empty() {
            self.database.write_later(|transaction| {
                let mut table = transaction.open_table(SEEN)?;
                for (blob, seen) in &fresh {
                    table.insert(blob.as_bytes(), seen.row())?;
                }
                Ok(())
            })?;
        }
        Ok((referenced, missing))
    }

    /// Compares a blob's files with what they were, or with its digest when they changed.
    fn look_at(
        &self,
        blob: Digest,
        before: Option<Seen>,
        deep: bool,
    ) -> Result<Result<Seen, Problem>, StoreError> {
        let path = self.blobs.file(blob);
        let Some(file) = open(&path)? else {
            // Small blobs have no file: the blob store's database answers for them.
            return Ok(match before {
                Some(seen) if seen.inode != 0 => Err(Problem::Absent),
                _ => Ok(before.unwrap_or(Seen::inside(0))),
            });
        };
        let now = self.seen(blob, &file)?;
        if before == Some(now) && !deep {
            return Ok(Ok(now));
        }
        let tree_path = self.blobs.tree(blob);
        let right = match open(&tree_path)? {
            // What the tree says is what others are told when they fetch the blob.
            Some(tree) if deep => whole(blob, &file, now.size, &tree).map_err(|error| at(&path, error))?,
            _ => digest(&file).map_err(|error| at(&path, error))? == blob,
        };
        // A tree that changed cannot be told from a wrong one without reading it against the blob.
        let known = before.filter(|seen| seen.inode != 0 && !deep);
        let tree_changed = known
            .is_some_and(|seen| (seen.tree_size, seen.tree_changed) != (now.tree_size, now.tree_changed));
        Ok(if right && !tree_changed { Ok(now) } else { Err(Problem::Damaged) })
    }

    fn seen(&self, blob: Digest, file: &File) -> Result<Seen, StoreError> {
        let path = self.blobs.file(blob);
        let about = file.metadata().map_err(|error| at(&path, error))?;
        let path = self.blobs.tree(blob);
        let tree = open(&path)?.map(|tree| tree.metadata()).transpose().map_err(|error| at(&path, error))?;
        Ok(Seen {
            size: about.len(),
            changed: changed(&about),
            inode: about.ino(),
            tree_size: tree.as_ref().map_or(0, Metadata::len),
            tree_changed: tree.as_ref().map_or(0, changed),
        })
    }

    /// Brings the files of blobs of these sizes to the disk.
    pub(super) fn sync(&self, blobs: &[(Digest, u64)]) -> Result<Vec<(Digest, Seen)>, StoreError> {
        let mut seen = Vec::with_capacity(blobs.len());
        let mut files = false;
        for &(blob, size) in blobs {
            let path = self.blobs.file(blob);
            let Some(file) = open(&path)? else {
                seen.push((blob, Seen::inside(size)));
                continue;
            };
            files = true;
            self.flush(blob, &path, &file)?;
            let path = self.blobs.tree(blob);
            if let Some(tree) = open(&path)? {
                self.flush(blob, &path, &tree)?;
            }
            seen.push((blob, self.seen(blob, &file)?));
        }
        if files {
            let folder = self.blobs.data();
            File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|error| at(&folder, error))?;
        }
        Ok(seen)
    }

    fn flush(&self, blob: Digest, path: &Path, file: &File) -> Result<(), StoreError> {
        file.sync_data().map_err(|error| {
            // The kernel may have dropped what it could not write, and would not say so again.
            self.doom(blob);
            self.space.explain(&error).unwrap_or_else(|| at(path, error))
        })
    }

    /// Counts a blob as absent, until it is added again or the sweep has taken it.
    pub(super) fn doom(&self, blob: Digest) {
        locked(&self.doomed).insert(blob);
        let forget = self.database.write_later(|transaction| {
            transaction.open_table(SEEN)?.remove(blob.as_bytes())?;
            Ok(())
        });
        if let Err(error) = forget {
            tracing::warn!(%blob, %error, "damaged blob not noted");
        }
        self.sweeper.ask();
    }

    /// Forgets which blobs were doomed, once the blob store has forgotten them too.
    pub(super) async fn pardon(&self) {
        let doomed: Vec<_> = locked(&self.doomed).iter().copied().collect();
        for blob in doomed {
            if matches!(self.complete(blob).await, Ok(None)) {
                locked(&self.doomed).remove(&blob);
            }
        }
    }
}

/// Whether a file and its hash tree are those of a blob, in every part.
fn whole(blob: Digest, file: &File, size: u64, tree: &File) -> io::Result<bool> {
    let shape = BaoTree::new(size, IROH_BLOCK_SIZE);
    let outboard = PreOrderOutboard { root: blob.to_bytes().into(), tree: shape, data: tree };
    let mut next = 0;
    for range in valid_ranges(outboard, file, &ChunkRanges::all()) {
        let range = match range {
            Ok(range) => range,
            // Cut short.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        };
        if range.start.0 != next {
            return Ok(false);
        }
        next = range.end.0;
    }
    Ok(next >= shape.chunks().0)
}

fn digest(mut file: &File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize()),
            length => hasher.update(&piece[..length]),
        };
    }
}
