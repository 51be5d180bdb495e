//! Operations, local facts and references, changed together or not at all.

use std::collections::BTreeSet;

use flair_tensors::Digest;
use redb::{ReadableTable, WriteTransaction};

use super::check::Seen;
use super::database::{FACTS, OPERATIONS, PLACES, REFS, SEEN, SEQUENCES};
use super::{Inner, Store, StoreError};

/// The repository under which facts of the node as a whole are kept.
pub const GLOBAL: Digest = Digest::from_bytes([0; 32]);

/// What is published in one step: after a crash either all of it is there or none.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The repository, or [`GLOBAL`] for facts of the node.
    pub repository: Digest,
    /// Operations, with their ids, in the order in which they are to be kept. One that is kept already stays where it is,
    /// and its bytes are written again only where they differ: the disk damaged them.
    pub operations: Vec<(Digest, Vec<u8>)>,
    /// Local facts by key; `None` removes one.
    pub facts: Vec<(String, Option<Vec<u8>>)>,
    /// Changes to how often the repository refers to a blob. The root of a pack stands for all its blobs and for
    /// the packs it needs. Counts do not go below 0.
    pub references: Vec<(Digest, i64)>,
    /// Facts to remove, each with blobs that it refers to and that are referred to once less with it. One that is not
    /// there any more changes nothing, so that whoever was killed in between may drop it again.
    pub drops: Vec<(String, Vec<Digest>)>,
    /// Sequence number of our operations in this repository, which must be above the last one.
    pub sequence: Option<u64>,
}

impl Batch {
    /// A batch for `repository` that changes nothing yet.
    pub fn new(repository: Digest) -> Self {
        Self {
            repository,
            operations: Vec::new(),
            facts: Vec::new(),
            references: Vec::new(),
            drops: Vec::new(),
            sequence: None,
        }
    }

    /// Adds an operation.
    #[must_use]
    pub fn operation(mut self, id: Digest, bytes: Vec<u8>) -> Self {
        self.operations.push((id, bytes));
        self
    }

    /// Sets a fact.
    #[must_use]
    pub fn fact(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.facts.push((key.into(), Some(value.into())));
        self
    }

    /// Removes a fact.
    #[must_use]
    pub fn forget(mut self, key: impl Into<String>) -> Self {
        self.facts.push((key.into(), None));
        self
    }

    /// Refers to a blob or a pack root once more.
    #[must_use]
    pub fn refer(mut self, blob: Digest) -> Self {
        self.references.push((blob, 1));
        self
    }

    /// Refers to a blob or a pack root once less.
    #[must_use]
    pub fn release(mut self, blob: Digest) -> Self {
        self.references.push((blob, -1));
        self
    }

    /// Removes a fact, and if it was there refers to `blobs` once less.
    #[must_use]
    pub fn drop(mut self, key: impl Into<String>, blobs: Vec<Digest>) -> Self {
        self.drops.push((key.into(), blobs));
        self
    }

    /// Uses a sequence number.
    #[must_use]
    pub fn sequence(mut self, number: u64) -> Self {
        self.sequence = Some(number);
        self
    }

    fn bytes(&self) -> u64 {
        let operations = self.operations.iter().map(|(_, bytes)| bytes.len());
        let facts = self.facts.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        operations.chain(facts).sum::<usize>() as u64
    }
}

impl Store {
    /// Publishes a batch. Only when this has returned may anything of it be sent or shown.
    ///
    /// The blobs it refers to must have been added or fetched before. Their files reach the disk first, then the
    /// blob store's database, then one transaction with everything else.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when a blob is not here, [`StoreError::Full`] when the disk is, and
    /// [`StoreError::Sequence`] when the number was used. Nothing was changed then, and the same call can be made
    /// again.
    pub async fn publish(&self, batch: Batch) -> Result<(), StoreError> {
        let store = self.clone();
        // A task of its own: it must not be left half done when the caller loses interest.
        tokio::spawn(async move { store.publish_all(batch).await }).await.unwrap_or(Err(StoreError::Closed))
    }

    async fn publish_all(&self, batch: Batch) -> Result<(), StoreError> {
        self.inner.space.check(batch.bytes())?;
        // No sweep may run between looking at the blobs and referring to them.
        let _gate = self.inner.sweeper.enter().await;
        let added: Vec<Digest> =
            batch.references.iter().filter(|(_, change)| *change > 0).map(|(blob, _)| *blob).collect();
        let mut fresh = Vec::new();
        if !added.is_empty() {
            fresh = self.blocking(move |inner| inner.unseen(&added)).await?;
        }
        let mut seen = Vec::new();
        if !fresh.is_empty() {
            self.inner.phases.enter("blobs");
            let mut sizes = Vec::with_capacity(fresh.len());
            for blob in fresh {
                sizes.push((blob, self.inner.size(blob).await?.ok_or(StoreError::Absent { blob })?));
            }
            self.inner.phases.enter("sync");
            seen = self.blocking(move |inner| inner.sync(&sizes)).await?;
            self.inner.sync_blobs().await?;
        }
        self.inner.phases.enter("commit");
        self.blocking(move |inner| inner.database.write(|transaction| write(transaction, &batch, &seen)))
            .await?;
        self.inner.phases.enter("done");
        Ok(())
    }

    /// All operations of a repository, in the order in which they came.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn operations(&self, repository: Digest) -> Result<Vec<(Digest, Vec<u8>)>, StoreError> {
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let table = transaction.open_table(OPERATIONS)?;
                let key = repository.as_bytes();
                let mut operations = Vec::new();
                for row in table.range((key, 0)..=(key, u64::MAX))? {
                    let (_, value) = row?;
                    let (id, bytes) = value.value();
                    operations.push((Digest::from_bytes(*id), bytes.to_vec()));
                }
                Ok(operations)
            })
        })
        .await
    }

    /// The repositories with at least one operation or fact, in the order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repositories(&self) -> Result<Vec<Digest>, StoreError> {
        self.blocking(|inner| {
            inner.database.read(|transaction| {
                let operations = transaction.open_table(OPERATIONS)?;
                let facts = transaction.open_table(FACTS)?;
                let mut found = BTreeSet::new();
                let mut from = [0; 32];
                while let Some(row) = operations.range((&from, 0)..)?.next() {
                    let repository = *row?.0.value().0;
                    found.insert(Digest::from_bytes(repository));
                    let Some(next) = successor(repository) else { break };
                    from = next;
                }
                from = [0; 32];
                while let Some(row) = facts.range((&from, "")..)?.next() {
                    let repository = *row?.0.value().0;
                    found.insert(Digest::from_bytes(repository));
                    let Some(next) = successor(repository) else { break };
                    from = next;
                }
                found.remove(&GLOBAL);
                Ok(found.into_iter().collect())
            })
        })
        .await
    }

    /// A local fact of a repository, or of the node with [`GLOBAL`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fact(&self, repository: Digest, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let table = transaction.open_table(FACTS)?;
                let value = table.get((repository.as_bytes(), key.as_str()))?;
                Ok(value.map(|value| value.value().to_vec()))
            })
        })
        .await
    }

    /// The local facts of a repository whose key begins with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn facts(
        &self,
        repository: Digest,
        prefix: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let table = transaction.open_table(FACTS)?;
                let mut facts = Vec::new();
                for row in table.range((repository.as_bytes(), prefix.as_str())..)? {
                    let (key, value) = row?;
                    let (owner, key) = key.value();
                    if owner != repository.as_bytes() || !key.starts_with(&prefix) {
                        break;
                    }
                    facts.push((key.to_owned(), value.value().to_vec()));
                }
                Ok(facts)
            })
        })
        .await
    }

    /// The last sequence number published in a repository, 0 when none was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sequence(&self, repository: Digest) -> Result<u64, StoreError> {
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let table = transaction.open_table(SEQUENCES)?;
                Ok(table.get(repository.as_bytes())?.map_or(0, |number| number.value()))
            })
        })
        .await
    }

    /// How often a repository refers to a blob.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn references(&self, repository: Digest, blob: Digest) -> Result<u64, StoreError> {
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let table = transaction.open_table(REFS)?;
                let count = table.get((blob.as_bytes(), repository.as_bytes()))?;
                Ok(count.map_or(0, |count| count.value()))
            })
        })
        .await
    }

    /// The repositories that refer to a blob, or to a pack that has or needs it: whose members may be given the blob.
    /// Quick enough to ask before every answer; for blocking threads.
    ///
    /// # Errors
    /// When the database fails.
    pub fn owners(&self, blob: Digest) -> Result<BTreeSet<Digest>, StoreError> {
        self.inner.database.read(|transaction| super::packs::owners(transaction, blob))
    }

    /// Bytes of all blobs that a repository refers to, each counted once, and of its operations.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bytes(&self, repository: Digest) -> Result<u64, StoreError> {
        self.blocking(move |inner| {
            inner.database.read(|transaction| {
                let key = repository.as_bytes();
                let mut roots = Vec::new();
                for row in transaction.open_table(REFS)?.iter()? {
                    let row = row?.0;
                    let (blob, owner) = row.value();
                    if owner == key {
                        roots.push(Digest::from_bytes(*blob));
                    }
                }
                let seen = transaction.open_table(SEEN)?;
                let mut bytes = 0;
                for blob in super::packs::expand(transaction, &roots)? {
                    bytes +=
                        seen.get(blob.as_bytes())?.map_or(0, |seen| Seen::from_row(seen.value()).bytes());
                }
                for row in transaction.open_table(OPERATIONS)?.range((key, 0)..=(key, u64::MAX))? {
                    bytes += row?.1.value().1.len() as u64;
                }
                Ok(bytes)
            })
        })
        .await
    }

    /// Forgets a repository: its operations, facts and references. The next sweep takes the blobs that no other
    /// repository refers to. The last sequence number stays, so that a number is never used twice even if the
    /// repository is cloned again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_repository(&self, repository: Digest) -> Result<(), StoreError> {
        self.blocking(move |inner| {
            inner.database.write(|transaction| {
                let key = repository.as_bytes();
                transaction.open_table(OPERATIONS)?.retain_in((key, 0)..=(key, u64::MAX), |_, _| false)?;
                transaction
                    .open_table(PLACES)?
                    .retain_in((key, &[0; 32])..=(key, &[255; 32]), |_, _| false)?;
                // Keys are text, so no key sorts behind all others: the range ends before the next repository.
                let mut facts = transaction.open_table(FACTS)?;
                match successor(*key) {
                    Some(next) => facts.retain_in((key, "")..(&next, ""), |_, _| false)?,
                    None => facts.retain_in((key, "").., |_, _| false)?,
                }
                transaction.open_table(REFS)?.retain(|(_, owner), _| owner != key)?;
                Ok(())
            })
        })
        .await?;
        self.inner.sweeper.ask();
        Ok(())
    }
}

fn write(transaction: &WriteTransaction, batch: &Batch, seen: &[(Digest, Seen)]) -> Result<(), StoreError> {
    let key = batch.repository.as_bytes();
    if let Some(given) = batch.sequence {
        let mut sequences = transaction.open_table(SEQUENCES)?;
        let last = sequences.get(key)?.map_or(0, |number| number.value());
        if given <= last {
            return Err(StoreError::Sequence { repository: batch.repository, given, last });
        }
        sequences.insert(key, given)?;
    }
    if !batch.operations.is_empty() {
        let mut operations = transaction.open_table(OPERATIONS)?;
        let mut places = transaction.open_table(PLACES)?;
        let last = operations.range((key, 0)..=(key, u64::MAX))?.next_back().transpose()?;
        let mut place = last.map_or(0, |(last, _)| last.value().1 + 1);
        for (id, bytes) in &batch.operations {
            let id = id.as_bytes();
            let kept = places.get((key, id))?.map(|place| place.value());
            if let Some(kept) = kept {
                let same =
                    operations.get((key, kept))?.is_some_and(|row| row.value() == (id, bytes.as_slice()));
                if !same {
                    operations.insert((key, kept), (id, bytes.as_slice()))?;
                }
                continue;
            }
            operations.insert((key, place), (id, bytes.as_slice()))?;
            places.insert((key, id), place)?;
            place += 1;
        }
    }
    if !batch.facts.is_empty() {
        let mut facts = transaction.open_table(FACTS)?;
        for (name, value) in &batch.facts {
            match value {
                Some(value) => facts.insert((key, name.as_str()), value.as_slice())?,
                None => facts.remove((key, name.as_str()))?,
            };
        }
    }
    let mut changes = batch.references.clone();
    if !batch.drops.is_empty() {
        let mut facts = transaction.open_table(FACTS)?;
        for (name, blobs) in &batch.drops {
            if facts.remove((key, name.as_str()))?.is_some() {
                changes.extend(blobs.iter().map(|blob| (*blob, -1)));
            }
        }
    }
    if !changes.is_empty() {
        let mut references = transaction.open_table(REFS)?;
        for (blob, change) in &changes {
            let row = (blob.as_bytes(), key);
            let count = references.get(row)?.map_or(0, |count| count.value());
            match count.saturating_add_signed(*change) {
                0 => references.remove(row)?,
                count => references.insert(row, count)?,
            };
        }
    }
    if !seen.is_empty() {
        let mut table = transaction.open_table(SEEN)?;
        for (blob, seen) in seen {
            table.insert(blob.as_bytes(), seen.row())?;
        }
    }
    Ok(())
}

impl Inner {
    /// Of `blobs`, and of what they stand for when they are roots of packs, those not yet known to be on disk.
    fn unseen(&self, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.database.read(|transaction| {
            let seen = transaction.open_table(SEEN)?;
            let mut fresh = Vec::new();
            for blob in super::packs::expand(transaction, blobs)? {
                if seen.get(blob.as_bytes())?.is_none() {
                    fresh.push(blob);
                }
            }
            Ok(fresh)
        })
    }
}

/// The id that follows `id`, if there is one.
fn successor(mut id: [u8; 32]) -> Option<[u8; 32]> {
    for byte in id.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(id);
        }
    }
    None
}
