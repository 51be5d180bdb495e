//! The choice of a codec for a tensor, from a sample of it.

use std::ops::Range;

use super::{Codec, CodecError, encode_block};
use crate::dtype::DType;

/// Bytes of one sampled piece: 64 KiB.
pub const SAMPLE: u64 = 64 << 10;
/// One piece in so many is sampled: 5 %.
const STRIDE: u64 = 20 * SAMPLE;
/// A coded tensor must be smaller than this share of the raw one, else it stays raw, where equal blobs of other packs
/// and models are found again and reading costs nothing: 63/64.
const WORTH: (u64, u64) = (63, 64);

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
    ordered: Option<u64>,
    coded: Vec<u8>,
}

impl Choice {
    /// A choice for a tensor of this dtype.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, raw: 0, planes: 0, ordered: Some(0), coded: Vec::new() }
    }

    /// The raw bytes to sample of a tensor of `raw_len`: pieces of [`SAMPLE`] bytes, evenly spread from the start.
    pub fn ranges(raw_len: u64) -> impl Iterator<Item = Range<u64>> {
        (0..raw_len.div_ceil(STRIDE)).map(move |piece| {
            let start = piece * STRIDE;
            start..start.saturating_add(SAMPLE).min(raw_len)
        })
    }

    /// Weighs one piece of the tensor, and the same piece of its base if it has one.
    ///
    /// # Errors
    /// If the pieces differ in length or are longer than a block.
    pub fn sample(&mut self, raw: &[u8], base: Option<&[u8]>) -> Result<(), CodecError> {
        self.raw += raw.len() as u64;
        match (base, self.ordered) {
            (Some(base), Some(ordered)) => {
                self.ordered = Some(ordered + self.weigh(Codec::Ordered, raw, Some(base))?);
            }
            _ => self.ordered = None,
        }
        self.planes += self.weigh(Codec::Planes, raw, None)?;
        Ok(())
    }

    /// The codec that made the samples smallest.
    pub fn codec(&self) -> Codec {
        let (codec, coded) = match self.ordered {
            Some(ordered) if ordered < self.planes => (Codec::Ordered, ordered),
            _ => (Codec::Planes, self.planes),
        };
        let (worth, whole) = WORTH;
        let smaller = u128::from(coded) * u128::from(whole) < u128::from(self.raw) * u128::from(worth);
        if smaller { codec } else { Codec::Raw }
    }

    fn weigh(&mut self, codec: Codec, raw: &[u8], base: Option<&[u8]>) -> Result<u64, CodecError> {
        self.coded.clear();
        encode_block(codec, self.dtype, raw, base, &mut self.coded)?;
        Ok(self.coded.len() as u64)
    }
}
