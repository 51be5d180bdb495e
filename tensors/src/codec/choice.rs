//! The choice of a codec for a tensor, from a sample of it.

use std::ops::Range;

use super::{Codec, CodecError, LIST, LIST_FRAME, SAME, encode_block};
use crate::block::BLOCK_LEN;
use crate::dtype::DType;

/// Bytes of one sampled piece: 64 KiB.
pub const SAMPLE: u64 = 64 << 10;
/// One piece in so many is sampled: 5 %.
const STRIDE: u64 = 20;
/// Tensors of more bytes are sampled by blocks: 8 MiB. A base must be decoded by whole blocks, so that pieces spread
/// evenly would have nearly all of it decoded twice.
const EVEN: u64 = 8 * BLOCK_LEN;
/// Pieces in a block that is sampled.
const PIECES: u64 = 4;
/// One block in so many is sampled; 5 % again, as a block has 16 pieces.
const BLOCKS: u64 = 5;
/// A coded tensor must be smaller than this share of the raw one, else it stays raw, where equal blobs of other packs
/// and models are found again and reading costs nothing: 63/64.
const WORTH: (u64, u64) = (63, 64);
/// Grouping takes twice the time to decode: it must make at most this share of what else would be best, 9/10.
const GROUPED: (u64, u64) = (9, 10);

/// Finds the codec that makes a tensor smallest, from a twentieth of its bytes.
///
/// The same tensor and base always lead to the same codec. Feed the bytes of [`Choice::ranges`] to
/// [`Choice::sample`], then ask for [`Choice::codec`]:
///
/// ```
/// use flair_tensors::{DType, codec::{Choice, Codec}};
/// let raw: Vec<u8> = (0..1000_u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
/// let mut choice = Choice::new(DType::F32);
/// for range in Choice::ranges(raw.len() as u64) {
///     choice.sample(&raw[range.start as usize..range.end as usize], None)?;
/// }
/// assert_eq!(choice.codec(), Codec::Planes);
/// # Ok::<(), flair_tensors::CodecError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Choice {
    dtype: DType,
    raw: u64,
    planes: u64,
    /// Only while every sample had a base.
    based: Option<Based>,
    coded: Vec<u8>,
}

/// What samples take when coded against their base.
#[derive(Debug, Clone, Copy)]
struct Based {
    /// As lists where they can be, else in order.
    plain: u64,
    grouped: u64,
    /// Some sample was listed.
    listed: bool,
    /// Every sample equals its base.
    same: bool,
}

impl Choice {
    /// A choice for a tensor of this dtype.
    pub fn new(dtype: DType) -> Self {
        let based = Based { plain: 0, grouped: 0, listed: false, same: true };
        Self { dtype, raw: 0, planes: 0, based: Some(based), coded: Vec::new() }
    }

    /// The raw bytes to sample of a tensor of `raw_len`, ascending: pieces of [`SAMPLE`] bytes, spread evenly from the
    /// start; beyond 8 MiB, in every fifth block.
    pub fn ranges(raw_len: u64) -> impl Iterator<Item = Range<u64>> {
        let (step, pieces) =
            if raw_len <= EVEN { (STRIDE * SAMPLE, 1) } else { (BLOCKS * BLOCK_LEN, PIECES) };
        (0..raw_len.div_ceil(step))
            .flat_map(move |place| (0..pieces).map(move |piece| place * step + piece * (BLOCK_LEN / PIECES)))
            .filter(move |start| *start < raw_len)
            .map(move |start| start..start.saturating_add(SAMPLE).min(raw_len))
    }

    /// Weighs one piece of the tensor, and the same piece of its base if it has one.
    ///
    /// # Errors
    /// If the pieces differ in length or are longer than a block.
    pub fn sample(&mut self, raw: &[u8], base: Option<&[u8]>) -> Result<(), CodecError> {
        self.raw += raw.len() as u64;
        let whole = raw.len() as u64;
        let mut against = whole;
        self.based = match (base, self.based) {
            (Some(base), Some(mut based)) => {
                against = self.weigh(Codec::Sparse, raw, Some(base))?;
                based.plain += against;
                let tag = self.coded.first().copied();
                based.listed |= matches!(tag, Some(LIST | LIST_FRAME));
                based.same &= tag == Some(SAME);
                based.grouped += self.weigh(Codec::Grouped, raw, Some(base))?;
                Some(based)
            }
            _ => None,
        };
        // What is half as large against its base is not worth the time to see how large it is without.
        self.planes += if against * 2 < whole { whole } else { self.weigh(Codec::Planes, raw, None)? };
        Ok(())
    }

    /// The codec that made the samples smallest.
    pub fn codec(&self) -> Codec {
        let mut best = (Codec::Planes, self.planes);
        if let Some(based) = self.based {
            if based.plain < best.1 {
                let few = based.listed || based.same;
                best = (if few { Codec::Sparse } else { Codec::Ordered }, based.plain);
            }
            if below(based.grouped, GROUPED, best.1) {
                best = (Codec::Grouped, based.grouped);
            }
        }
        if below(best.1, WORTH, self.raw) { best.0 } else { Codec::Raw }
    }

    fn weigh(&mut self, codec: Codec, raw: &[u8], base: Option<&[u8]>) -> Result<u64, CodecError> {
        self.coded.clear();
        encode_block(codec, self.dtype, raw, base, &mut self.coded)?;
        Ok(self.coded.len() as u64)
    }
}

/// Whether `small` is less than a share of `large`.
fn below(small: u64, (share, whole): (u64, u64), large: u64) -> bool {
    u128::from(small) * u128::from(whole) < u128::from(large) * u128::from(share)
}
