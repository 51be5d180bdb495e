//! Packs: how a model travels.
//!
//! A pack is a sequence of blobs: this index first, then the blobs with the tensors. A tensor of [`SMALL`] raw bytes
//! or more has a blob of its own; all smaller ones lie back to back in one shared blob, the first after the index. A
//! tensor stored raw in its own blob makes that blob's id the [`TensorId`].
//!
//! # Bytes of the index
//! All numbers little-endian. `"FLP"`, version 1; `u32` number of rows; then rows of 96 bytes, ordered by blob and
//! offset: tensor id (32), blob `u32`, codec `u8`, dtype `u8`, base flag `u8` (1 if there is a base), zero `u8`,
//! offset `u64`, length `u64`, raw length `u64`, base id (32, zeros without one).

mod builder;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

pub use self::builder::{PackBuilder, Place};
use crate::codec::Codec;
use crate::dtype::DType;
use crate::encoding::max_len;
use crate::header::MAX_TENSORS;
use crate::id::{Digest, TensorId};

/// Tensors with fewer raw bytes than this share one blob: 64 KiB.
pub const SMALL: u64 = 64 << 10;
/// Most rows of an index: several files of tensors.
pub const MAX_ROWS: usize = 4 * MAX_TENSORS;

const MAGIC: [u8; 4] = *b"FLP\x01";
const HEAD: usize = 8;
const ROW: usize = 96;
/// Where the codec's number is in a row: after tensor and blob.
const CODEC: usize = 36;

/// Most bytes of an encoded index.
pub const MAX_INDEX: usize = HEAD + MAX_ROWS * ROW;

/// Where one tensor of a pack is, and how it is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The tensor.
    pub tensor: TensorId,
    /// Position of its blob in the hash sequence; the index is 0.
    pub blob: u32,
    /// Where its coded bytes start in the blob; 0 unless the blob is shared.
    pub offset: u64,
    /// How many coded bytes it has.
    pub length: u64,
    /// How it is coded.
    pub codec: Codec,
    /// The type of its elements, as the coding took it.
    pub dtype: DType,
    /// The tensor it is coded against: exactly where the codec needs one.
    pub base: Option<TensorId>,
    /// Raw bytes of the tensor.
    pub raw_length: u64,
}

/// A tensor as a manifest lists it: id, dtype and raw bytes.
pub type Listed = (TensorId, DType, u64);

/// Why bytes are not a pack index, or the index does not belong to a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PackError {
    /// Not an index, or one of a version we do not know.
    #[error("this is not a pack index of version 1")]
    Magic,
    /// More rows than accepted.
    #[error("a pack index of {rows} rows is over the limit of {MAX_ROWS}")]
    TooMany {
        /// Rows claimed.
        rows: u64,
    },
    /// More or fewer bytes than the rows take.
    #[error("the pack index should have {expected} bytes and has {found}")]
    Length {
        /// Bytes the rows take.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A codec of a later version. Nothing says that the pack is wrong.
    #[error(
        "row {row} of the pack index is coded with codec {codec}, which this version of Flair does not know: \
         install a newer one"
    )]
    Codec {
        /// The row, counted from 0.
        row: usize,
        /// The codec's number.
        codec: u8,
    },
    /// A field holds what it may not.
    #[error("row {row} of the pack index is wrong: {reason}")]
    Row {
        /// The row, counted from 0.
        row: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A tensor that the manifest does not list so.
    #[error("the pack holds tensor {tensor} ({dtype}, {length} bytes), which the manifest does not list")]
    Unlisted {
        /// The tensor.
        tensor: TensorId,
        /// Its dtype in the pack.
        dtype: DType,
        /// Its raw bytes in the pack.
        length: u64,
    },
    /// A tensor of the manifest that neither pack nor base holds.
    #[error("the manifest lists tensor {tensor}, which neither the pack nor its base holds")]
    Missing {
        /// The tensor.
        tensor: TensorId,
    },
    /// A tensor coded against one that the base does not list so.
    #[error(
        "tensor {tensor} is coded against {base}, which the base does not list with that dtype and length"
    )]
    Base {
        /// The tensor.
        tensor: TensorId,
        /// What it is coded against.
        base: TensorId,
    },
    /// The hash sequence has more or fewer blobs than the index names.
    #[error("the pack names {expected} blobs, its hash sequence has {found}")]
    Blobs {
        /// Blobs the index names.
        expected: u64,
        /// Blobs there.
        found: u64,
    },
    /// A blob stored raw that is not its tensor.
    #[error("blob {blob} should be tensor {tensor} itself and has another hash")]
    Raw {
        /// The blob's position.
        blob: u32,
        /// The tensor.
        tensor: TensorId,
    },
}

/// The index of a pack: checked, in canonical order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackIndex {
    rows: Vec<Row>,
}

impl PackIndex {
    /// An index of these rows, which must be in canonical order.
    ///
    /// # Errors
    /// If a row breaks a rule of this module.
    pub fn new(rows: Vec<Row>) -> Result<Self, PackError> {
        if rows.len() > MAX_ROWS {
            return Err(PackError::TooMany { rows: rows.len() as u64 });
        }
        check_rows(&rows)?;
        Ok(Self { rows })
    }

    /// The rows, by blob and offset.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row of a tensor.
    pub fn find(&self, tensor: TensorId) -> Option<&Row> {
        self.rows.iter().find(|row| row.tensor == tensor)
    }

    /// The rows by tensor, for many look-ups.
    pub fn by_tensor(&self) -> BTreeMap<TensorId, &Row> {
        self.rows.iter().map(|row| (row.tensor, row)).collect()
    }

    /// How many blobs follow the index in the hash sequence.
    pub fn blobs(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.blob)
    }

    /// Coded bytes of each blob, in the order of the hash sequence.
    pub fn blob_lengths(&self) -> Vec<u64> {
        let mut lengths: Vec<u64> = Vec::new();
        let mut last = 0;
        for row in &self.rows {
            if row.blob != last {
                lengths.push(0);
                last = row.blob;
            }
            if let Some(length) = lengths.last_mut() {
                *length += row.length;
            }
        }
        lengths
    }

    /// Coded bytes of all blobs.
    pub fn coded_length(&self) -> u64 {
        self.rows.iter().map(|row| row.length).sum()
    }

    /// The index as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.rows.len() * ROW);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(self.rows.len() as u32).to_le_bytes());
        for row in &self.rows {
            bytes.extend_from_slice(row.tensor.as_bytes());
            bytes.extend_from_slice(&row.blob.to_le_bytes());
            bytes.extend([row.codec.number(), row.dtype.number(), u8::from(row.base.is_some()), 0]);
            bytes.extend_from_slice(&row.offset.to_le_bytes());
            bytes.extend_from_slice(&row.length.to_le_bytes());
            bytes.extend_from_slice(&row.raw_length.to_le_bytes());
            bytes.extend_from_slice(&row.base.map_or([0; 32], TensorId::to_bytes));
        }
        bytes
    }

    /// Reads an index. What decodes encodes to the same bytes.
    ///
    /// # Errors
    /// If the bytes are not exactly an index, or a row breaks a rule of this module. Nothing is allocated from a
    /// claimed number before the bytes for it were seen.
    pub fn decode(bytes: &[u8]) -> Result<Self, PackError> {
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(PackError::Magic)?;
        if *magic != MAGIC {
            return Err(PackError::Magic);
        }
        let (count, rest) = rest
            .split_first_chunk::<4>()
            .ok_or(PackError::Length { expected: HEAD as u64, found: bytes.len() as u64 })?;
        let count = u32::from_le_bytes(*count);
        if count as usize > MAX_ROWS {
            return Err(PackError::TooMany { rows: u64::from(count) });
        }
        let (rows, tail) = rest.as_chunks::<ROW>();
        if rows.len() != count as usize || !tail.is_empty() {
            let expected = HEAD as u64 + u64::from(count) * ROW as u64;
            return Err(PackError::Length { expected, found: bytes.len() as u64 });
        }
        let rows = rows
            .iter()
            .enumerate()
            .map(|(row, bytes)| read_row(row, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(rows)
    }

    /// Checks that pack and base together hold what a manifest lists, and the pack nothing else.
    ///
    /// `base` lists the tensors of the base model; empty if the pack stands alone.
    ///
    /// # Errors
    /// If a row is not in the manifest with its dtype and length, is coded against something that the base does not
    /// list with the same dtype and length, or a tensor of the manifest is in neither.
    pub fn check_against(&self, manifest: &[Listed], base: &[Listed]) -> Result<(), PackError> {
        // Equal bytes may be listed under several dtypes: the row must match one of them.
        let listed: BTreeSet<&Listed> = manifest.iter().collect();
        let held: BTreeSet<&Listed> = base.iter().collect();
        for &Row { tensor, dtype, raw_length: length, base, .. } in &self.rows {
            if !listed.contains(&(tensor, dtype, length)) {
                return Err(PackError::Unlisted { tensor, dtype, length });
            }
            if let Some(base) = base.filter(|&base| !held.contains(&(base, dtype, length))) {
                return Err(PackError::Base { tensor, base });
            }
        }
        let there: BTreeSet<TensorId> =
            self.rows.iter().map(|row| row.tensor).chain(base.iter().map(|&(tensor, ..)| tensor)).collect();
        match manifest.iter().find(|(tensor, ..)| !there.contains(tensor)) {
            Some(&(tensor, ..)) => Err(PackError::Missing { tensor }),
            None => Ok(()),
        }
    }

    /// Checks the index against the blobs after it in the hash sequence.
    ///
    /// # Errors
    /// If there are more or fewer than the index names, or a tensor stored raw in its own blob has another id.
    pub fn check_blobs(&self, blobs: &[Digest]) -> Result<(), PackError> {
        if blobs.len() as u64 != u64::from(self.blobs()) {
            return Err(PackError::Blobs { expected: u64::from(self.blobs()), found: blobs.len() as u64 });
        }
        for row in self.rows.iter().filter(|row| row.codec == Codec::Raw && row.raw_length >= SMALL) {
            let blob = blobs.get((row.blob as usize).wrapping_sub(1));
            if blob != Some(&row.tensor.digest()) {
                return Err(PackError::Raw { blob: row.blob, tensor: row.tensor });
            }
        }
        Ok(())
    }
}

/// Reads one row; its place among the others is checked later.
fn read_row(row: usize, bytes: &[u8; ROW]) -> Result<Row, PackError> {
    let codec = bytes.get(CODEC).copied().unwrap_or_default();
    let known = Codec::from_number(codec).ok_or(PackError::Codec { row, codec })?;
    read_fields(known, bytes).map_err(|reason| PackError::Row { row, reason })
}

fn read_fields(codec: Codec, bytes: &[u8; ROW]) -> Result<Row, &'static str> {
    let mut rest: &[u8] = bytes;
    let tensor = TensorId::from_bytes(take(&mut rest)?);
    let blob = u32::from_le_bytes(take(&mut rest)?);
    let [_, dtype, based, zero] = take(&mut rest)?;
    let offset = u64::from_le_bytes(take(&mut rest)?);
    let length = u64::from_le_bytes(take(&mut rest)?);
    let raw_length = u64::from_le_bytes(take(&mut rest)?);
    let base = take::<32>(&mut rest)?;
    let dtype = DType::from_number(dtype).ok_or("its dtype is unknown")?;
    let base = match (based, zero) {
        (0, 0) if base == [0; 32] => None,
        (1, 0) => Some(TensorId::from_bytes(base)),
        _ => return Err("its base or a reserved byte is not canonical"),
    };
    Ok(Row { tensor, blob, offset, length, codec, dtype, base, raw_length })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (chunk, tail) = rest.split_first_chunk::<N>().ok_or("it is cut")?;
    *rest = tail;
    Ok(*chunk)
}

/// Checks each row alone, and that blobs and offsets follow one another without gap.
fn check_rows(rows: &[Row]) -> Result<(), PackError> {
    let mut tensors = BTreeSet::new();
    let mut total = 0_u64;
    let mut before: Option<&Row> = None;
    for (place, row) in rows.iter().enumerate() {
        let reason = check_row(row)
            .and_then(|()| check_place(row, before))
            .and_then(|()| tensors.insert(row.tensor).then_some(()).ok_or("its tensor has a row already"));
        let reason = reason.and_then(|()| {
            total = total.checked_add(row.length).ok_or("the blobs are too large together")?;
            Ok(())
        });
        reason.map_err(|reason| PackError::Row { row: place, reason })?;
        before = Some(row);
    }
    Ok(())
}

fn check_row(row: &Row) -> Result<(), &'static str> {
    if !row.raw_length.is_multiple_of(row.dtype.size() as u64) {
        return Err("its raw length is no whole number of elements");
    }
    if row.base.is_some() != row.codec.needs_base() {
        return Err("its codec and base do not fit together");
    }
    if row.base == Some(row.tensor) {
        return Err("it is coded against itself");
    }
    if row.codec == Codec::Raw && row.length != row.raw_length {
        return Err("it is raw and its lengths differ");
    }
    if row.length > max_len(row.codec, row.raw_length) {
        return Err("it is longer than any encoding of it");
    }
    Ok(())
}

fn check_place(row: &Row, before: Option<&Row>) -> Result<(), &'static str> {
    let small = |row: &Row| row.raw_length < SMALL;
    match before {
        Some(before) if small(row) && small(before) => {
            if row.blob != before.blob || before.offset.checked_add(before.length) != Some(row.offset) {
                return Err("small tensors lie back to back in one blob");
            }
        }
        Some(_) if small(row) => return Err("small tensors come first"),
        _ => {
            if row.offset != 0 {
                return Err("its blob starts with a gap");
            }
            if before.map_or(0, |before| before.blob).checked_add(1) != Some(row.blob) {
                return Err("blobs are numbered from 1 without a gap");
            }
        }
    }
    Ok(())
}
