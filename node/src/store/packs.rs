//! Packs: which blobs one has, which others it needs, and where each tensor is.

use std::collections::BTreeSet;

use flair_tensors::pack::{MAX_ROWS, PackBuilder};
use flair_tensors::{Codec, DType, Digest, EncodingError, EncodingHead, Row, TensorId};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::database::{COUNTERS, PACKS, PARENTS, REFS, SEEN, TENSORS};
use super::{Inner, Store, StoreError};

/// Most bases that must be read for one tensor.
pub(super) const MAX_DEPTH: u8 = 8;
/// Bytes of a digest.
const ID: usize = 32;
/// Bytes before the digests of a record: the pack's number and how many blobs it has.
const HEAD: usize = 16;

/// Bytes of a location.
const LOCATION: usize = 3 * ID + 3 * 8 + 4;
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
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + (self.blobs.len() + self.needs.len()) * ID);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&(self.blobs.len() as u64).to_le_bytes());
        for id in self.blobs.iter().chain(&self.needs) {
            bytes.extend_from_slice(id.as_bytes());
        }
        bytes
    }

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

/// Where a tensor is: a row of a pack's index, with the blob by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) tensor: TensorId,
    /// Root and number of the pack.
    pub(super) root: Digest,
    pub(super) number: u64,
    pub(super) blob: Digest,
    pub(super) offset: u64,
    /// Coded bytes.
    pub(super) coded: u64,
    /// Raw bytes.
    pub(super) raw_length: u64,
    pub(super) codec: Codec,
    pub(super) dtype: DType,
    /// How many bases must be read for it.
    pub(super) depth: u8,
    pub(super) base: Option<TensorId>,
}

impl Location {
    pub(super) fn new(root: Digest, row: &Row, blob: Digest, depth: u8) -> Self {
        Self {
            tensor: row.tensor,
            root,
            number: 0,
            blob,
            offset: row.offset,
            coded: row.length,
            raw_length: row.raw_length,
            codec: row.codec,
            dtype: row.dtype,
            depth,
            base: row.base,
        }
    }

    /// It shares its blob with others.
    pub(super) fn is_shared(&self) -> bool {
        PackBuilder::is_shared(self.raw_length)
    }

    /// What its encoding must begin with.
    pub(super) fn head(&self) -> EncodingHead {
        EncodingHead { codec: self.codec, dtype: self.dtype, raw_len: self.raw_length }
    }

    /// An encoding that is not what it should be.
    pub(super) fn wrong(&self, problem: EncodingError) -> StoreError {
        StoreError::Coding { tensor: self.tensor, blob: self.blob, problem }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LOCATION);
        bytes.extend_from_slice(self.root.as_bytes());
        bytes.extend_from_slice(self.blob.as_bytes());
        for number in [self.offset, self.coded, self.raw_length] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend([self.codec.number(), self.dtype.number(), self.depth, u8::from(self.base.is_some())]);
        bytes.extend_from_slice(&self.base.map_or([0; ID], TensorId::to_bytes));
        bytes
    }

    fn decode(tensor: &[u8; ID], number: u64, bytes: &[u8]) -> Result<Self, StoreError> {
        let read = || {
            let (root, rest) = bytes.split_first_chunk::<ID>()?;
            let (blob, rest) = rest.split_first_chunk::<ID>()?;
            let (offset, rest) = rest.split_first_chunk::<8>()?;
            let (coded, rest) = rest.split_first_chunk::<8>()?;
            let (raw_length, rest) = rest.split_first_chunk::<8>()?;
            let ([codec, dtype, depth, based], base) = rest.split_first_chunk::<4>()?;
            let base: &[u8; ID] = base.try_into().ok()?;
            Some(Self {
                tensor: TensorId::from_bytes(*tensor),
                root: Digest::from_bytes(*root),
                number,
                blob: Digest::from_bytes(*blob),
                offset: u64::from_le_bytes(*offset),
                coded: u64::from_le_bytes(*coded),
                raw_length: u64::from_le_bytes(*raw_length),
                codec: Codec::from_number(*codec)?,
                dtype: DType::from_number(*dtype)?,
                depth: *depth,
                base: (*based != 0).then(|| TensorId::from_bytes(*base)),
            })
        };
        read().ok_or_else(|| StoreError::Row { row: format!("tensors/{}", Digest::from_bytes(*tensor)) })
    }
}

/// The best place to read a tensor from, among the packs with a number below `below`.
pub(super) fn find(
    transaction: &ReadTransaction,
    tensor: TensorId,
    below: u64,
) -> Result<Option<Location>, StoreError> {
    let table = transaction.open_table(TENSORS)?;
    let key = tensor.as_bytes();
    let mut best: Option<Location> = None;
    for row in table.range((key, 0)..(key, below))? {
        let (at, row) = row?;
        let location = Location::decode(key, at.value().1, row.value())?;
        if best.as_ref().is_none_or(|best| location.depth < best.depth) {
            best = Some(location);
        }
    }
    Ok(best)
}

/// Where a tensor is, its base, the base's base, and so on; nothing when it is not here.
///
/// A base is looked for in packs that came before, where it was when its pack was noted. So this ends, whatever a
/// peer sends later.
pub(super) fn trace(transaction: &ReadTransaction, tensor: TensorId) -> Result<Vec<Location>, StoreError> {
    let mut trail = Vec::new();
    let mut next = Some((tensor, u64::MAX));
    while let Some((tensor, below)) = next {
        let Some(location) = find(transaction, tensor, below)? else {
            return if trail.is_empty() { Ok(trail) } else { Err(StoreError::Unheld { tensor }) };
        };
        next = location.base.map(|base| (base, location.number));
        trail.push(location);
    }
    Ok(trail)
}

/// Notes a pack and where its tensors are, unless it is noted already. Its number is the next one.
pub(super) fn insert(
    transaction: &WriteTransaction,
    root: Digest,
    pack: &Pack,
    locations: &[Location],
) -> Result<(), StoreError> {
    let mut packs = transaction.open_table(PACKS)?;
    if packs.get(root.as_bytes())?.is_some() {
        return Ok(());
    }
    let mut counters = transaction.open_table(COUNTERS)?;
    let number = counters.get("packs")?.map_or(0, |number| number.value());
    counters.insert("packs", number + 1)?;
    let pack = Pack { number, ..pack.clone() };
    packs.insert(root.as_bytes(), pack.encode().as_slice())?;
    let mut parents = transaction.open_table(PARENTS)?;
    for child in pack.blobs.iter().chain(&pack.needs) {
        parents.insert((child.as_bytes(), root.as_bytes()), ())?;
    }
    let mut tensors = transaction.open_table(TENSORS)?;
    for location in locations {
        tensors.insert((location.tensor.as_bytes(), number), location.encode().as_slice())?;
    }
    Ok(())
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

/// The blobs of a pack itself, if `root` is one.
pub(super) fn own(transaction: &ReadTransaction, root: Digest) -> Result<Vec<Digest>, StoreError> {
    match transaction.open_table(PACKS)?.get(root.as_bytes())? {
        Some(pack) => Ok(Pack::decode(root.as_bytes(), pack.value())?.blobs),
        None => Ok(Vec::new()),
    }
}

/// The repositories that refer to a blob, or to a pack that has or needs it.
pub(super) fn owners(transaction: &ReadTransaction, blob: Digest) -> Result<BTreeSet<Digest>, StoreError> {
    let references = transaction.open_table(REFS)?;
    let parents = transaction.open_table(PARENTS)?;
    let (lowest, highest) = ([0; ID], [255; ID]);
    let mut owners = BTreeSet::new();
    let mut seen = BTreeSet::from([blob]);
    let mut next = vec![blob];
    while let Some(blob) = next.pop() {
        let key = blob.as_bytes();
        for row in references.range((key, &lowest)..=(key, &highest))? {
            owners.insert(Digest::from_bytes(*row?.0.value().1));
        }
        for row in parents.range((key, &lowest)..=(key, &highest))? {
            let root = Digest::from_bytes(*row?.0.value().1);
            if seen.insert(root) {
                next.push(root);
            }
        }
    }
    Ok(owners)
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
            let roots: BTreeSet<Digest> = self.packs.iter().map(|(root, _)| *root).collect();
            transaction
                .open_table(PARENTS)?
                .retain(|(_, root), ()| !roots.contains(&Digest::from_bytes(*root)))?;
        }
        Ok(())
    }
}

impl Store {
    /// The blobs of a pack that is noted here, without its root; empty for what is no pack.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pack_blobs(&self, root: Digest) -> Result<Vec<Digest>, StoreError> {
        self.blocking(move |inner| inner.database.read(|transaction| own(transaction, root))).await
    }
}

impl Inner {
    /// The blobs of a pack, read from its hash sequence; none when that is not here yet.
    pub(super) async fn children(&self, root: Digest) -> Result<Vec<Digest>, StoreError> {
        let Some(size) = self.size(root).await? else { return Ok(Vec::new()) };
        if size > MAX_SEQUENCE || size % ID as u64 != 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read_whole(root, size).await?;
        Ok(bytes.as_chunks::<ID>().0.iter().copied().map(Digest::from_bytes).collect())
    }
}
