//! Packs: which blobs one has, which others it needs, and where each tensor is.

use std::collections::BTreeSet;
use std::sync::Arc;

use flair_tensors::Digest;
use flair_tensors::pack::MAX_ROWS;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::database::{PACKS, SEEN, TENSORS};
use super::{Inner, StoreError};

/// Bytes of a digest.
const ID: usize = 32;

/// Most bytes of a pack's hash sequence that are looked at.
const MAX_SEQUENCE: u64 = (ID * (MAX_ROWS + 1)) as u64;

/// What is known of a pack that was written here, or fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    /// Packs are numbered as they come; one needs only packs with lower numbers.
    pub(super) number: u64,
    /// Its blobs, the index first.
    pub(super) blobs: Vec<Digest>,
    /// Roots of the packs that have the bases of its tensors, and the other tensors of its model.
    pub(super) needs: Vec<Digest>,
}

impl Pack {
    pub(super) fn decode(root: &[u8; ID], bytes: &[u8]) -> Result<Self, StoreError> {
        let read = || {
            let (number, rest) = bytes.split_first_chunk::<8>()?;
            let (count, rest) = rest.split_first_chunk::<8>()?;
            let (ids, []) = rest.as_chunks::<ID>() else { return None };
            let (blobs, needs) = ids.split_at_checked(usize::try_from(u64::from_le_bytes(*count)).ok()?)?;
            let own = |ids: &[[u8; ID]]| ids.iter().copied().map(Digest::from_bytes).collect();
            Some(Self { number: u64::from_le_bytes(*number), blobs: own(blobs), needs: own(needs) })
        };
        read().ok_or_else(|| StoreError::Row { row: format!("packs/{}", Digest::from_bytes(*root)) })
    }
}

/// `blobs`, and for the roots of packs among them the packs' blobs and all that those need.
pub(super) fn expand<'a>(
    transaction: &ReadTransaction,
    blobs: impl IntoIterator<Item = &'a Digest>,
) -> Result<BTreeSet<Digest>, StoreError> {
    let packs = transaction.open_table(PACKS)?;
    let mut found = BTreeSet::new();
    let mut next: Vec<Digest> = blobs.into_iter().copied().collect();
    while let Some(blob) = next.pop() {
        if found.insert(blob)
            && let Some(pack) = packs.get(blob.as_bytes())?
        {
            let pack = Pack::decode(blob.as_bytes(), pack.value())?;
            found.extend(pack.blobs);
            next.extend(pack.needs);
        }
    }
    Ok(found)
}

/// Rows about blobs that are not in use any more.
#[derive(Debug)]
pub(super) struct Dead {
    packs: Vec<(Digest, u64)>,
    seen: Vec<Digest>,
}

impl Dead {
    pub(super) fn find(transaction: &ReadTransaction, live: &BTreeSet<Digest>) -> Result<Self, StoreError> {
        let mut dead = Self { packs: Vec::new(), seen: Vec::new() };
        for row in transaction.open_table(PACKS)?.iter()? {
            let (root, pack) = row?;
            let pack = Pack::decode(root.value(), pack.value())?;
            let root = Digest::from_bytes(*root.value());
            if !live.contains(&root) {
                dead.packs.push((root, pack.number));
            }
        }
        for row in transaction.open_table(SEEN)?.iter()? {
            let blob = Digest::from_bytes(*row?.0.value());
            if !live.contains(&blob) {
                dead.seen.push(blob);
            }
        }
        Ok(dead)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.seen.is_empty()
    }

    pub(super) fn remove(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        let mut packs = transaction.open_table(PACKS)?;
        let mut seen = transaction.open_table(SEEN)?;
        let numbers: BTreeSet<u64> = self.packs.iter().map(|(_, number)| *number).collect();
        for (root, _) in &self.packs {
            packs.remove(root.as_bytes())?;
        }
        for blob in &self.seen {
            seen.remove(blob.as_bytes())?;
        }
        if !numbers.is_empty() {
            transaction.open_table(TENSORS)?.retain(|(_, number), _| !numbers.contains(&number))?;
        }
        Ok(())
    }
}

impl Inner {
    /// The blobs of a pack, read from its hash sequence; none when that is not here yet.
    pub(super) async fn children(self: &Arc<Self>, root: Digest) -> Result<Vec<Digest>, StoreError> {
        let Some(size) = self.size(root).await? else { return Ok(Vec::new()) };
        if size > MAX_SEQUENCE || size % ID as u64 != 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read_whole(root, size).await?;
        Ok(bytes.as_chunks::<ID>().0.iter().copied().map(Digest::from_bytes).collect())
    }
}
