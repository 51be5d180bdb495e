//! Building a pack's index while its blobs are written.

use super::{Listed, PackError, PackIndex, Row, SMALL};
use crate::codec::Codec;
use crate::id::TensorId;

/// Where the coded bytes of a tensor go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Appended to the shared blob, at this offset.
    Shared {
        /// Bytes of the shared blob before it.
        offset: u64,
    },
    /// A blob of its own: this many of them came before.
    Own {
        /// Position among the blobs that are not shared, from 0.
        position: u32,
    },
}

/// Collects rows in the order tensors are coded, and gives them blobs.
///
/// The caller appends the coded bytes of small tensors to one blob and writes each other tensor to its own, as
/// [`PackBuilder::push`] says. The hash sequence is then: the index, the shared blob if any, the other blobs in order.
#[derive(Debug, Clone, Default)]
pub struct PackBuilder {
    small: Vec<Row>,
    large: Vec<Row>,
    shared: u64,
}

impl PackBuilder {
    /// A builder without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a tensor of this many raw bytes goes to the shared blob.
    pub const fn is_shared(raw_length: u64) -> bool {
        raw_length < SMALL
    }

    /// Adds a tensor with `length` coded bytes, and says where they go.
    pub fn push(
        &mut self,
        (tensor, dtype, raw_length): Listed,
        codec: Codec,
        base: Option<TensorId>,
        length: u64,
    ) -> Place {
        let row = Row { tensor, blob: 0, offset: 0, length, codec, dtype, base, raw_length };
        if Self::is_shared(raw_length) {
            let offset = self.shared;
            self.shared = offset.saturating_add(length);
            self.small.push(Row { offset, ..row });
            Place::Shared { offset }
        } else {
            self.large.push(row);
            Place::Own { position: self.large.len() as u32 - 1 }
        }
    }

    /// Bytes of the shared blob so far; `None` if no tensor is in it.
    pub fn shared(&self) -> Option<u64> {
        (!self.small.is_empty()).then_some(self.shared)
    }

    /// The index.
    ///
    /// # Errors
    /// If a tensor was added twice, or a row breaks another rule of packs.
    pub fn finish(self) -> Result<PackIndex, PackError> {
        let Self { mut small, large, .. } = self;
        for row in &mut small {
            row.blob = 1;
        }
        let first = if small.is_empty() { 1 } else { 2 };
        small.extend((first..).zip(large).map(|(blob, row)| Row { blob, ..row }));
        PackIndex::new(small)
    }
}
