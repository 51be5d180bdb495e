//! Byte planes: the transposition of elements to bytes of equal weight.
//!
//! Everything runs in short chunks of words that stay in the first-level cache, in loops plain enough to be
//! vectorised.

use crate::dtype::DType;

/// Words in a chunk.
const CHUNK: usize = 512;

/// Writes the byte planes of `raw` to `planes`, of the same length.
pub(super) fn split(dtype: DType, raw: &[u8], planes: &mut [u8]) {
    match dtype.size() {
        2 => split16(raw, planes, |_, _| ()),
        4 => split32(raw, planes, |_, _| ()),
        8 => split64(raw, planes, |_, _| ()),
        _ => planes.copy_from_slice(raw),
    }
}

/// Writes the elements of these byte planes to `raw`, of the same length.
pub(super) fn join(dtype: DType, planes: &[u8], raw: &mut [u8]) {
    match dtype.size() {
        2 => join16(planes, raw, |_, _| ()),
        4 => join32(planes, raw, |_, _| ()),
        8 => join64(planes, raw, |_, _| ()),
        _ => raw.copy_from_slice(planes),
    }
}

/// Makes the two transpositions for one width. `change` gets the words of a chunk and the index of its first.
macro_rules! transpositions {
    ($word:ty, $size:literal, $split:ident, $join:ident) => {
        /// Writes the byte planes of changed words; bytes after the last whole word follow unchanged.
        pub(super) fn $split(raw: &[u8], planes: &mut [u8], change: impl Fn(usize, &mut [$word])) {
            let (elements, tail) = raw.as_chunks::<$size>();
            let count = elements.len();
            let (planes, rest) = planes.split_at_mut(count * $size);
            rest.copy_from_slice(tail);
            let mut buffer = [0; CHUNK];
            for (index, elements) in elements.chunks(CHUNK).enumerate() {
                let start = index * CHUNK;
                let words = &mut buffer[..elements.len()];
                for (word, element) in words.iter_mut().zip(elements) {
                    *word = <$word>::from_le_bytes(*element);
                }
                change(start, words);
                for weight in 0..$size {
                    let plane = &mut planes[weight * count + start..][..words.len()];
                    for (byte, word) in plane.iter_mut().zip(&*words) {
                        *byte = (*word >> (8 * weight)) as u8;
                    }
                }
            }
        }

        /// Writes the changed words of these byte planes; bytes after the planes follow unchanged.
        pub(super) fn $join(planes: &[u8], raw: &mut [u8], change: impl Fn(usize, &mut [$word])) {
            let (elements, tail) = raw.as_chunks_mut::<$size>();
            let count = elements.len();
            let (planes, rest) = planes.split_at(count * $size);
            tail.copy_from_slice(rest);
            let mut buffer = [0; CHUNK];
            for (index, elements) in elements.chunks_mut(CHUNK).enumerate() {
                let start = index * CHUNK;
                let words = &mut buffer[..elements.len()];
                words.fill(0);
                for weight in 0..$size {
                    let plane = &planes[weight * count + start..][..words.len()];
                    for (word, byte) in words.iter_mut().zip(plane) {
                        *word |= <$word>::from(*byte) << (8 * weight);
                    }
                }
                change(start, words);
                for (element, word) in elements.iter_mut().zip(&*words) {
                    *element = word.to_le_bytes();
                }
            }
        }
    };
}

transpositions!(u16, 2, split16, join16);
transpositions!(u32, 4, split32, join32);
transpositions!(u64, 8, split64, join64);
