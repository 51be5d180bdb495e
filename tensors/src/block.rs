//! Blocks: the 1 MiB pieces that tensors are coded, checked and aggregated in.

use std::ops::Range;

/// Bytes of a block; the last of a tensor may be shorter. A multiple of every element size,
/// and a power of two: sums over a tensor join those of whole blocks.
///
/// `make determinism` builds with another size, to see that what an aggregate gives does not depend on it. (How packs are
/// coded does.)
pub const BLOCK: usize = if cfg!(flair_small_blocks) { 1 << 17 } else { 1 << 20 };

/// [`BLOCK`] where lengths are `u64`.
pub(crate) const BLOCK_LEN: u64 = BLOCK as u64;

/// Blocks of a tensor of `len` raw bytes: none if it is empty.
pub const fn blocks(len: u64) -> u64 {
    len.div_ceil(BLOCK_LEN)
}

/// The raw bytes that block `index` of a tensor of `len` bytes covers; empty past the end.
pub fn range(len: u64, index: u64) -> Range<u64> {
    let start = index.saturating_mul(BLOCK_LEN).min(len);
    start..start.saturating_add(BLOCK_LEN).min(len)
}
