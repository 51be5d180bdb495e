//! Codecs: how one block is compressed, bit for bit, alone or against the same block of a base tensor.
//!
//! | codec | bytes of a coded block |
//! |---|---|
//! | [`Codec::Raw`] | the raw bytes |
//! | [`Codec::Planes`] | a tag, then the raw bytes or a zstd frame of their byte planes |
//! | [`Codec::Ordered`] | a tag, then the raw bytes, a zstd frame of the byte planes of the difference to the base, or nothing |
//! | [`Codec::Grouped`] | the same, with the elements grouped by the base's exponent |
//! | [`Codec::Sparse`] | as [`Codec::Ordered`], or a tag and a list of the elements that differ, as it is or in a zstd frame |
//!
//! *Byte planes*: all lowest bytes of the elements, then all second bytes, and so on, so that exponents, which repeat,
//! lie together. *Difference*: float bits are mapped to integers that are ordered as the floats are, so that a small
//! step is a small integer even across zero or a power of two; the base's integer is subtracted with wrap-around and
//! the sign folded into the lowest bit. Integers and booleans are subtracted as they are. Bytes after the last whole
//! element (there are none in a tensor) follow the planes unchanged. *Grouped*: before the planes are made, the elements
//! are sorted by the exponents of the base's elements at their places; the order within an exponent stays. The base is
//! at hand whenever a block is decoded, so the order need not be kept.
//!
//! Every bit pattern survives: NaN payloads, subnormals and negative zeros are only ever moved as integers. zstd's
//! parameters and version are pinned, so that machines coding the same block make the same blob.

mod choice;
mod frame;
mod grouped;
mod ordered;
mod planes;
mod sparse;
mod word;

use std::cell::RefCell;

use thiserror::Error;

pub use self::choice::{Choice, SAMPLE};
use self::frame::Frames;
use crate::block::BLOCK;
use crate::dtype::DType;

/// How a tensor's blocks are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are. The blob of such a tensor is its raw bytes, so its id is the tensor's.
    Raw = 0,
    /// Byte planes, compressed.
    Planes = 1,
    /// Ordered-integer difference to a base, byte planes, compressed.
    Ordered = 2,
    /// The same, with the elements grouped by the base's exponents: for steps that move all weights about equally far.
    Grouped = 3,
    /// A list of the elements that differ from the base, compressed; blocks with many of them as [`Codec::Ordered`].
    Sparse = 4,
}

impl Codec {
    /// Every codec, in the order of [`Codec::number`].
    pub const ALL: [Self; 5] = [Self::Raw, Self::Planes, Self::Ordered, Self::Grouped, Self::Sparse];

    /// The number that stands for this codec in encodings and packs. Never reused.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The codec with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether blocks are coded against a base.
    pub const fn needs_base(self) -> bool {
        matches!(self, Self::Ordered | Self::Grouped | Self::Sparse)
    }

    /// Most bytes of a coded block of `raw` bytes.
    pub const fn max_block(self, raw: usize) -> usize {
        match self {
            Self::Raw => raw,
            _ => raw.saturating_add(1),
        }
    }
}

/// Why a block could not be coded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// More raw bytes than a block has.
    #[error("a block has at most {BLOCK} bytes, this has {length}")]
    TooLarge {
        /// Raw bytes asked for.
        length: usize,
    },
    /// The codec needs a base and got none, or one of another length.
    #[error("the block has {expected} bytes and its base {found:?}: they must be equal")]
    Base {
        /// Raw bytes of the block.
        expected: usize,
        /// Bytes of the base's block, if there is one.
        found: Option<usize>,
    },
    /// The coded block has a length that no encoding of its raw bytes has.
    #[error("a coded block of {found} bytes cannot hold {raw} raw bytes")]
    Length {
        /// Coded bytes.
        found: usize,
        /// Raw bytes asked for.
        raw: usize,
    },
    /// The coded block starts with an unknown tag.
    #[error("the coded block starts with the unknown tag {tag}")]
    Tag {
        /// The tag.
        tag: u8,
    },
    /// The compressed bytes are damaged, or hold another number of bytes than they should.
    #[error("the compressed block is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
    /// zstd could not work, for want of memory.
    #[error("zstd failed: {reason}")]
    Zstd {
        /// What zstd says.
        reason: &'static str,
    },
}

/// The raw bytes follow.
const STORED: u8 = 0;
/// A zstd frame of byte planes follows.
const FRAME: u8 = 1;
/// Nothing follows: the block equals its base.
const SAME: u8 = 2;
/// A list of differences follows.
const LIST: u8 = 3;
/// A zstd frame of a list of differences follows.
const LIST_FRAME: u8 = 4;

/// Buffers and zstd contexts, kept per thread: making them anew costs as much as coding a small tensor.
#[derive(Default)]
struct Scratch {
    planes: Vec<u8>,
    /// Differences out of their order.
    buffer: Vec<u8>,
    frames: Frames,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Codes one block and appends it to `out`: at most [`Codec::max_block`] bytes.
///
/// `base` is the same block of the base tensor, for a codec that needs one; others ignore it.
///
/// # Errors
/// If `raw` is longer than [`BLOCK`], or a base is needed and is not there or has another length. `out` is then as it
/// was.
pub fn encode_block(
    codec: Codec,
    dtype: DType,
    raw: &[u8],
    base: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    check_length(raw.len())?;
    let base = match codec {
        Codec::Raw => {
            out.extend_from_slice(raw);
            return Ok(());
        }
        Codec::Planes => None,
        Codec::Ordered | Codec::Grouped | Codec::Sparse => Some(check_base(base, raw.len())?),
    };
    if base == Some(raw) {
        out.push(SAME);
        return Ok(());
    }
    SCRATCH.with_borrow_mut(|Scratch { planes, buffer, frames }| {
        if let (Codec::Sparse, Some(base)) = (codec, base)
            && sparse::write(dtype, raw, base, buffer, planes)
        {
            let frame = frames.compress(planes)?;
            let (tag, list) =
                if frame.len() < planes.len() { (LIST_FRAME, frame) } else { (LIST, &planes[..]) };
            if list.len() < raw.len() {
                out.push(tag);
                out.extend_from_slice(list);
                return Ok(());
            }
        }
        resize(planes, raw.len());
        match base {
            None => planes::split(dtype, raw, planes),
            Some(base) if codec == Codec::Grouped => grouped::split(dtype, raw, base, buffer, planes),
            Some(base) => ordered::split(dtype, raw, base, planes),
        }
        let frame = frames.compress(planes)?;
        if frame.len() < raw.len() {
            out.push(FRAME);
            out.extend_from_slice(frame);
        } else {
            out.push(STORED);
            out.extend_from_slice(raw);
        }
        Ok(())
    })
}

/// Decodes one block into `out`, whose length is the block's raw length.
///
/// # Errors
/// If the coded bytes are not exactly one block of that length, or a base is needed and is not there or has another
/// length. What `out` holds is then unspecified. Never are more bytes written than `out` has, nor buffers made that
/// depend on what the coded bytes claim.
pub fn decode_into(
    codec: Codec,
    dtype: DType,
    coded: &[u8],
    base: Option<&[u8]>,
    out: &mut [u8],
) -> Result<(), CodecError> {
    let raw = out.len();
    check_length(raw)?;
    let wrong = CodecError::Length { found: coded.len(), raw };
    if coded.len() > codec.max_block(raw) {
        return Err(wrong);
    }
    let base = match codec {
        Codec::Raw => return if copy(coded, out) { Ok(()) } else { Err(wrong) },
        Codec::Planes => None,
        Codec::Ordered | Codec::Grouped | Codec::Sparse => Some(check_base(base, raw)?),
    };
    let Some((&tag, rest)) = coded.split_first() else { return Err(wrong) };
    SCRATCH.with_borrow_mut(|Scratch { planes, buffer, frames }| match (tag, base) {
        (STORED, _) if copy(rest, out) => Ok(()),
        (STORED, _) => Err(wrong),
        (FRAME, _) => {
            resize(planes, raw);
            frames.decompress(rest, planes)?;
            match base {
                None => planes::join(dtype, planes, out),
                Some(base) if codec == Codec::Grouped => grouped::join(dtype, planes, base, buffer, out),
                Some(base) => ordered::join(dtype, planes, base, out),
            }
            Ok(())
        }
        (SAME, Some(base)) if rest.is_empty() => {
            out.copy_from_slice(base);
            Ok(())
        }
        (LIST, Some(base)) if codec == Codec::Sparse => sparse::read(dtype, rest, base, buffer, out),
        (LIST_FRAME, Some(base)) if codec == Codec::Sparse => {
            // A list that is longer than the block would not have been made.
            resize(planes, Frames::content(rest, raw)?);
            frames.decompress(rest, planes)?;
            sparse::read(dtype, planes, base, buffer, out)
        }
        _ => Err(CodecError::Tag { tag }),
    })
}

/// Decodes one block of `raw_len` bytes and appends it to `out`.
///
/// # Errors
/// As [`decode_into`]. `out` is then as it was.
pub fn decode_block(
    codec: Codec,
    dtype: DType,
    coded: &[u8],
    base: Option<&[u8]>,
    raw_len: usize,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    check_length(raw_len)?;
    let before = out.len();
    out.resize(before + raw_len, 0);
    let result = decode_into(codec, dtype, coded, base, out.get_mut(before..).unwrap_or_default());
    if result.is_err() {
        out.truncate(before);
    }
    result
}

fn check_length(length: usize) -> Result<(), CodecError> {
    if length > BLOCK { Err(CodecError::TooLarge { length }) } else { Ok(()) }
}

fn check_base(base: Option<&[u8]>, expected: usize) -> Result<&[u8], CodecError> {
    let found = base.map(<[u8]>::len);
    base.filter(|base| base.len() == expected).ok_or(CodecError::Base { expected, found })
}

/// Copies if the lengths are equal.
fn copy(from: &[u8], to: &mut [u8]) -> bool {
    let equal = from.len() == to.len();
    if equal {
        to.copy_from_slice(from);
    }
    equal
}

/// Gives a buffer this length without clearing what is overwritten anyway.
fn resize(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    } else {
        buffer.truncate(length);
    }
}
