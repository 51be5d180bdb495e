//! Encodings: the bytes of one coded tensor.
//!
//! A tensor of codec [`Codec::Raw`] is its raw bytes and nothing else. Any other is, with all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `"FLE"`, version 1 |
//! | 4 | codec, dtype, two zeros |
//! | 8 | raw length of the tensor |
//! | … | coded blocks, back to back |
//! | 4 × blocks | coded length of each block, `u32` |
//!
//! The table comes last, so that a tensor of any size is coded in one pass that holds one block, and still any block
//! is found with two short reads: [`EncodingHead::parse`] on the first [`HEAD`] bytes, then [`Encoding::parse`] on
//! [`EncodingHead::table`].

use std::num::NonZeroUsize;
use std::ops::Range;

use thiserror::Error;

use crate::block::{blocks, range};
use crate::codec::{Codec, CodecError, decode_block, encode_block};
use crate::dtype::DType;
use crate::line::in_order;

/// Bytes before the first block, unless the codec is raw.
pub const HEAD: usize = 16;

const MAGIC: [u8; 4] = *b"FLE\x01";
/// Bytes of one length in the table.
const ENTRY: u64 = 4;

/// Most bytes that a tensor of `raw_len` takes when coded, saturating.
pub fn max_len(codec: Codec, raw_len: u64) -> u64 {
    if codec == Codec::Raw {
        return raw_len;
    }
    let per_block = ENTRY + codec.max_block(0) as u64;
    raw_len.saturating_add(HEAD as u64 + per_block * blocks(raw_len))
}

/// Why bytes are not an encoding.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodingError {
    /// Not an encoding, or one of a version we do not know.
    #[error("this is not a tensor encoding of version 1")]
    Magic,
    /// A codec of a later version.
    #[error(
        "this tensor encoding has codec {codec}, which this version of Flair does not know: install a newer one"
    )]
    Unknown {
        /// The codec's number.
        codec: u8,
    },
    /// A field of the head holds what it may not.
    #[error("the head of the encoding is wrong: {reason}")]
    Head {
        /// What is wrong.
        reason: &'static str,
    },
    /// The encoding has a length that its raw length rules out.
    #[error("an encoding of {raw_len} raw bytes cannot have {found} bytes")]
    Length {
        /// Raw bytes of the tensor.
        raw_len: u64,
        /// Bytes of the encoding.
        found: u64,
    },
    /// The table has another number of bytes than it should.
    #[error("the block table should have {expected} bytes and has {found}")]
    Table {
        /// Bytes it should have.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A block's length in the table is impossible.
    #[error("block {block} of the encoding claims {length} bytes, which it cannot have")]
    Block {
        /// The block, from 0.
        block: u64,
        /// Bytes claimed.
        length: u32,
    },
    /// The blocks do not fill the space between head and table.
    #[error("the blocks of the encoding take {found} bytes, there is room for {expected}")]
    Sum {
        /// Bytes between head and table.
        expected: u64,
        /// Bytes the table claims.
        found: u64,
    },
    /// A block was given to the encoder with another length than it has in the tensor.
    #[error("block {block} has {expected} raw bytes, {found} were given")]
    Given {
        /// The block, from 0; one more than there are if there were too many.
        block: u64,
        /// Bytes it has.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A block could not be coded.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The first [`HEAD`] bytes of an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingHead {
    /// How blocks are coded; never raw, for that has no head.
    pub codec: Codec,
    /// The type of the tensor's elements.
    pub dtype: DType,
    /// Raw bytes of the tensor.
    pub raw_len: u64,
}

impl EncodingHead {
    /// Reads a head.
    ///
    /// # Errors
    /// If the bytes are not the canonical head of a version, codec and dtype we know.
    pub fn parse(bytes: &[u8; HEAD]) -> Result<Self, EncodingError> {
        let [m0, m1, m2, m3, codec, dtype, zeros @ .., l0, l1, l2, l3, l4, l5, l6, l7] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(EncodingError::Magic);
        }
        let head = |reason| EncodingError::Head { reason };
        let codec = Codec::from_number(codec).ok_or(EncodingError::Unknown { codec })?;
        if codec == Codec::Raw {
            return Err(head("raw tensors have none"));
        }
        let dtype = DType::from_number(dtype).ok_or(head("its dtype is unknown"))?;
        let raw_len = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        if zeros != [0; 2] {
            return Err(head("its reserved bytes are not zero"));
        }
        if !raw_len.is_multiple_of(dtype.size() as u64) {
            return Err(head("its raw length is no whole number of elements"));
        }
        Ok(Self { codec, dtype, raw_len })
    }

    /// The head as bytes.
    pub fn encode(&self) -> [u8; HEAD] {
        let [m0, m1, m2, m3] = MAGIC;
        let [l0, l1, l2, l3, l4, l5, l6, l7] = self.raw_len.to_le_bytes();
        let (codec, dtype) = (self.codec.number(), self.dtype.number());
        [m0, m1, m2, m3, codec, dtype, 0, 0, l0, l1, l2, l3, l4, l5, l6, l7]
    }

    /// Where the block table is in an encoding of `total` bytes.
    ///
    /// # Errors
    /// If no encoding of this raw length has so many bytes. What passes has a table of at most `total` bytes.
    pub fn table(&self, total: u64) -> Result<Range<u64>, EncodingError> {
        let wrong = EncodingError::Length { raw_len: self.raw_len, found: total };
        let size = ENTRY * blocks(self.raw_len);
        match total.checked_sub(size) {
            Some(start) if start >= HEAD as u64 && total <= max_len(self.codec, self.raw_len) => {
                Ok(start..total)
            }
            _ => Err(wrong),
        }
    }
}

/// Where each block of a coded tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    head: EncodingHead,
    /// Where each block ends. Empty for raw, where it follows from the length.
    ends: Vec<u64>,
}

impl Encoding {
    /// A tensor that is its own raw bytes.
    pub const fn raw(dtype: DType, raw_len: u64) -> Self {
        Self { head: EncodingHead { codec: Codec::Raw, dtype, raw_len }, ends: Vec::new() }
    }

    /// Reads the block table of an encoding of `total` bytes: `table` holds the bytes of [`EncodingHead::table`].
    ///
    /// # Errors
    /// If the table has another length, claims a block that cannot be, or does not add up to `total`.
    pub fn parse(head: EncodingHead, total: u64, table: &[u8]) -> Result<Self, EncodingError> {
        let place = head.table(total)?;
        let (lengths, tail) = table.as_chunks::<{ ENTRY as usize }>();
        let expected = place.end - place.start;
        if table.len() as u64 != expected || !tail.is_empty() {
            return Err(EncodingError::Table { expected, found: table.len() as u64 });
        }
        let mut end = HEAD as u64;
        let mut ends = Vec::with_capacity(lengths.len());
        for (block, length) in (0..).zip(lengths) {
            let length = u32::from_le_bytes(*length);
            let raw = range(head.raw_len, block);
            let most = head.codec.max_block((raw.end - raw.start) as usize);
            if length == 0 || length as usize > most {
                return Err(EncodingError::Block { block, length });
            }
            end += u64::from(length);
            ends.push(end);
        }
        if end != place.start {
            let head = HEAD as u64;
            return Err(EncodingError::Sum { expected: place.start - head, found: end - head });
        }
        Ok(Self { head, ends })
    }

    /// Reads an encoding that is wholly at hand.
    ///
    /// # Errors
    /// As [`EncodingHead::parse`] and [`Encoding::parse`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
        let head = EncodingHead::parse(bytes.first_chunk().ok_or(EncodingError::Magic)?)?;
        let total = bytes.len() as u64;
        let table = head.table(total)?;
        Self::parse(head, total, bytes.get(table.start as usize..).unwrap_or_default())
    }

    /// Codec, dtype and raw length.
    pub const fn head(&self) -> EncodingHead {
        self.head
    }

    /// How many blocks there are.
    pub const fn blocks(&self) -> u64 {
        blocks(self.head.raw_len)
    }

    /// Where the coded bytes of a block are, counted from the start of the encoding; empty past the last.
    pub fn block_range(&self, block: u64) -> Range<u64> {
        if self.head.codec == Codec::Raw {
            return range(self.head.raw_len, block);
        }
        let end = |block: u64| usize::try_from(block).ok().and_then(|block| self.ends.get(block)).copied();
        let last = self.ends.last().copied().unwrap_or(HEAD as u64);
        let start = block.checked_sub(1).map_or(Some(HEAD as u64), end).unwrap_or(last);
        start..end(block).unwrap_or(last)
    }

    /// Where the raw bytes of a block are in the tensor; empty past the last.
    pub fn raw_range(&self, block: u64) -> Range<u64> {
        range(self.head.raw_len, block)
    }

    /// All bytes of the encoding.
    pub fn total_len(&self) -> u64 {
        match self.head.codec {
            Codec::Raw => self.head.raw_len,
            _ => self.ends.last().copied().unwrap_or(HEAD as u64) + ENTRY * self.blocks(),
        }
    }
}

/// Codes a tensor block by block.
///
/// ```
/// use flair_tensors::{Codec, DType, Encoder};
/// let mut out = Vec::new();
/// let mut encoder = Encoder::new(Codec::Planes, DType::F32, 4, &mut out);
/// encoder.push(&1.0_f32.to_le_bytes(), None, &mut out)?;
/// let length = encoder.finish(&mut out)?;
/// assert_eq!(length, out.len() as u64);
/// # Ok::<(), flair_tensors::EncodingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Encoder {
    head: EncodingHead,
    block: u64,
    length: u64,
    table: Vec<u8>,
}

impl Encoder {
    /// Starts an encoding of `raw_len` bytes and appends its first bytes to `out`.
    pub fn new(codec: Codec, dtype: DType, raw_len: u64, out: &mut Vec<u8>) -> Self {
        let head = EncodingHead { codec, dtype, raw_len };
        let before = out.len();
        if codec != Codec::Raw {
            out.extend_from_slice(&head.encode());
        }
        Self { head, block: 0, length: (out.len() - before) as u64, table: Vec::new() }
    }

    /// Codes the next block and appends it to `out`, which may be written away and emptied between calls.
    ///
    /// `raw` holds the raw bytes of the block: 1 MiB, or what is left for the last. `base` holds the same bytes of
    /// the base tensor, for a codec that needs one.
    ///
    /// # Errors
    /// If either has another length.
    pub fn push(&mut self, raw: &[u8], base: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        self.check_next(raw.len())?;
        let before = out.len();
        encode_block(self.head.codec, self.head.dtype, raw, base, out)?;
        self.note(out.len() - before);
        Ok(())
    }

    /// Takes the next block as coded elsewhere, by [`encode_block`] with codec and dtype of this encoding, from `raw`
    /// bytes: `coded` is what to append now.
    ///
    /// # Errors
    /// If `raw` is another number of bytes than the block has, or `coded` is longer than any coding of them.
    pub fn add(&mut self, raw: usize, coded: &[u8]) -> Result<(), EncodingError> {
        self.check_next(raw)?;
        if coded.len() > self.head.codec.max_block(raw) {
            return Err(CodecError::Length { found: coded.len(), raw }.into());
        }
        self.note(coded.len());
        Ok(())
    }

    /// Checks that the next block has so many raw bytes.
    fn check_next(&self, raw: usize) -> Result<(), EncodingError> {
        let place = range(self.head.raw_len, self.block);
        let (expected, found) = (place.end - place.start, raw as u64);
        if expected != found || expected == 0 {
            return Err(EncodingError::Given { block: self.block, expected, found });
        }
        Ok(())
    }

    fn note(&mut self, length: usize) {
        if self.head.codec != Codec::Raw {
            self.table.extend_from_slice(&(length as u32).to_le_bytes());
        }
        self.block += 1;
        self.length += length as u64;
    }

    /// Ends the encoding: appends its last bytes to `out` and gives its whole length.
    ///
    /// # Errors
    /// If blocks are missing.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<u64, EncodingError> {
        if self.block < blocks(self.head.raw_len) {
            let place = range(self.head.raw_len, self.block);
            return Err(EncodingError::Given {
                block: self.block,
                expected: place.end - place.start,
                found: 0,
            });
        }
        out.extend_from_slice(&self.table);
        Ok(self.length + self.table.len() as u64)
    }
}

/// Codes a tensor that is wholly at hand, on up to `threads` threads. The bytes do not depend on how many.
///
/// # Errors
/// If the codec needs a base and there is none of the same length.
pub fn encode(
    threads: NonZeroUsize,
    codec: Codec,
    dtype: DType,
    raw: &[u8],
    base: Option<&[u8]>,
) -> Result<Vec<u8>, EncodingError> {
    check_base(codec, raw.len(), base)?;
    let length = raw.len() as u64;
    let mut out = Vec::new();
    let encoder = Encoder::new(codec, dtype, length, &mut out);
    let (encoder, mut out) = in_order(
        threads,
        blocks(length),
        (encoder, out),
        |block, coded: &mut Vec<u8>| {
            coded.clear();
            let place = range(length, block);
            let base = base.and_then(|base| piece(base, &place));
            encode_block(codec, dtype, piece(raw, &place).unwrap_or_default(), base, coded)
                .map_err(EncodingError::from)
        },
        |(encoder, out), block, coded| {
            let place = range(length, block);
            encoder.add((place.end - place.start) as usize, coded)?;
            out.extend_from_slice(coded);
            Ok(())
        },
    )?;
    encoder.finish(&mut out)?;
    Ok(out)
}

/// Decodes a tensor that is wholly at hand, on up to `threads` threads.
///
/// `raw_len` comes from whoever vouches for the tensor, a manifest say, and bounds what is allocated.
///
/// # Errors
/// If the bytes are not an encoding with this codec, dtype and raw length, or a block is damaged.
pub fn decode(
    threads: NonZeroUsize,
    expected: EncodingHead,
    bytes: &[u8],
    base: Option<&[u8]>,
) -> Result<Vec<u8>, EncodingError> {
    let encoding = if expected.codec == Codec::Raw {
        Encoding::raw(expected.dtype, expected.raw_len)
    } else {
        Encoding::from_bytes(bytes)?
    };
    if encoding.head != expected {
        return Err(EncodingError::Head { reason: "it is not the expected tensor" });
    }
    if encoding.total_len() != bytes.len() as u64 {
        return Err(EncodingError::Length { raw_len: expected.raw_len, found: bytes.len() as u64 });
    }
    check_base(expected.codec, usize::try_from(expected.raw_len).unwrap_or(usize::MAX), base)?;
    in_order(
        threads,
        encoding.blocks(),
        Vec::new(),
        |block, raw: &mut Vec<u8>| {
            raw.clear();
            let place = encoding.raw_range(block);
            let base = base.and_then(|base| piece(base, &place));
            let coded = piece(bytes, &encoding.block_range(block)).unwrap_or_default();
            let length = (place.end - place.start) as usize;
            decode_block(expected.codec, expected.dtype, coded, base, length, raw).map_err(Into::into)
        },
        |out: &mut Vec<u8>, _, raw| {
            out.extend_from_slice(raw);
            Ok(())
        },
    )
}

/// These bytes, if they are there.
fn piece<'a>(bytes: &'a [u8], at: &Range<u64>) -> Option<&'a [u8]> {
    bytes.get(usize::try_from(at.start).ok()?..usize::try_from(at.end).ok()?)
}

fn check_base(codec: Codec, expected: usize, base: Option<&[u8]>) -> Result<(), CodecError> {
    match base {
        Some(base) if codec.needs_base() && base.len() != expected => {
            Err(CodecError::Base { expected, found: Some(base.len()) })
        }
        _ => Ok(()),
    }
}
