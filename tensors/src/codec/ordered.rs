//! The difference to a base, as integers that are ordered as the floats are.

use super::planes;
use crate::dtype::DType;

/// Writes the byte planes of the difference between `raw` and `base`; all three have one length.
pub(super) fn split(dtype: DType, raw: &[u8], base: &[u8], out: &mut [u8]) {
    match (dtype.size(), dtype.is_float()) {
        (2, true) => planes::split16(raw, out, against(base.as_chunks().0, w16::from_floats)),
        (2, false) => planes::split16(raw, out, against(base.as_chunks().0, w16::from_integers)),
        (4, true) => planes::split32(raw, out, against(base.as_chunks().0, w32::from_floats)),
        (4, false) => planes::split32(raw, out, against(base.as_chunks().0, w32::from_integers)),
        (8, true) => planes::split64(raw, out, against(base.as_chunks().0, w64::from_floats)),
        (8, false) => planes::split64(raw, out, against(base.as_chunks().0, w64::from_integers)),
        (_, true) => bytes(raw, base, out, w8::from_floats),
        (_, false) => bytes(raw, base, out, w8::from_integers),
    }
}

/// Writes what differs from `base` as these byte planes say; all three have one length.
pub(super) fn join(dtype: DType, planes: &[u8], base: &[u8], out: &mut [u8]) {
    match (dtype.size(), dtype.is_float()) {
        (2, true) => planes::join16(planes, out, against(base.as_chunks().0, w16::to_floats)),
        (2, false) => planes::join16(planes, out, against(base.as_chunks().0, w16::to_integers)),
        (4, true) => planes::join32(planes, out, against(base.as_chunks().0, w32::to_floats)),
        (4, false) => planes::join32(planes, out, against(base.as_chunks().0, w32::to_integers)),
        (8, true) => planes::join64(planes, out, against(base.as_chunks().0, w64::to_floats)),
        (8, false) => planes::join64(planes, out, against(base.as_chunks().0, w64::to_integers)),
        (_, true) => bytes(planes, base, out, w8::to_floats),
        (_, false) => bytes(planes, base, out, w8::to_integers),
    }
}

/// The change of a chunk of words by the words of the base at the same place.
fn against<W: Copy, B: Copy>(base: &[B], change: impl Fn(W, B) -> W) -> impl Fn(usize, &mut [W]) {
    move |start, words| {
        for (word, base) in words.iter_mut().zip(base.get(start..).unwrap_or_default()) {
            *word = change(*word, *base);
        }
    }
}

/// The same for elements of one byte, which are their own plane.
fn bytes(from: &[u8], base: &[u8], to: &mut [u8], change: impl Fn(u8, [u8; 1]) -> u8) {
    for ((to, from), base) in to.iter_mut().zip(from).zip(base) {
        *to = change(*from, [*base]);
    }
}

/// Makes the four changes for one width.
macro_rules! changes {
    ($width:ident, $word:ty, $signed:ty) => {
        mod $width {
            const BYTES: usize = size_of::<$word>();

            /// Bits of a float to an integer ordered as the floats are, and back: it is its own inverse.
            fn order(word: $word) -> $word {
                let signed = word.cast_signed();
                (signed ^ ((signed >> (<$word>::BITS - 1)) & <$signed>::MAX)).cast_unsigned()
            }

            /// Small differences of either sign to small numbers: 0, −1, 1, −2, … to 0, 1, 2, 3, …
            fn fold(difference: $word) -> $word {
                let signed = difference.cast_signed();
                ((signed << 1) ^ (signed >> (<$word>::BITS - 1))).cast_unsigned()
            }

            fn unfold(folded: $word) -> $word {
                (folded >> 1) ^ (folded & 1).wrapping_neg()
            }

            pub(super) fn from_integers(word: $word, base: [u8; BYTES]) -> $word {
                fold(word.wrapping_sub(<$word>::from_le_bytes(base)))
            }

            pub(super) fn to_integers(word: $word, base: [u8; BYTES]) -> $word {
                unfold(word).wrapping_add(<$word>::from_le_bytes(base))
            }

            pub(super) fn from_floats(word: $word, base: [u8; BYTES]) -> $word {
                fold(order(word).wrapping_sub(order(<$word>::from_le_bytes(base))))
            }

            pub(super) fn to_floats(word: $word, base: [u8; BYTES]) -> $word {
                order(unfold(word).wrapping_add(order(<$word>::from_le_bytes(base))))
            }
        }
    };
}

changes!(w8, u8, i8);
changes!(w16, u16, i16);
changes!(w32, u32, i32);
changes!(w64, u64, i64);
