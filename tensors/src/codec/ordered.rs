//! The difference to a base, as integers that are ordered as the floats are.

use super::planes;
use super::word::Word;
use crate::dtype::DType;

/// Writes the byte planes of the difference between `raw` and `base`; all three have one length.
pub(super) fn split(dtype: DType, raw: &[u8], base: &[u8], out: &mut [u8]) {
    match (dtype.size(), dtype.is_float()) {
        (2, true) => planes::split16(raw, out, against(base, u16::minus_float)),
        (2, false) => planes::split16(raw, out, against(base, u16::minus)),
        (4, true) => planes::split32(raw, out, against(base, u32::minus_float)),
        (4, false) => planes::split32(raw, out, against(base, u32::minus)),
        (8, true) => planes::split64(raw, out, against(base, u64::minus_float)),
        (8, false) => planes::split64(raw, out, against(base, u64::minus)),
        (_, true) => bytes(raw, base, out, u8::minus_float),
        (_, false) => bytes(raw, base, out, u8::minus),
    }
}

/// Writes what differs from `base` as these byte planes say; all three have one length.
pub(super) fn join(dtype: DType, planes: &[u8], base: &[u8], out: &mut [u8]) {
    match (dtype.size(), dtype.is_float()) {
        (2, true) => planes::join16(planes, out, against(base, u16::plus_float)),
        (2, false) => planes::join16(planes, out, against(base, u16::plus)),
        (4, true) => planes::join32(planes, out, against(base, u32::plus_float)),
        (4, false) => planes::join32(planes, out, against(base, u32::plus)),
        (8, true) => planes::join64(planes, out, against(base, u64::plus_float)),
        (8, false) => planes::join64(planes, out, against(base, u64::plus)),
        (_, true) => bytes(planes, base, out, u8::plus_float),
        (_, false) => bytes(planes, base, out, u8::plus),
    }
}

/// The change of a chunk of words by the words of the base at the same place.
fn against<W: Word>(base: &[u8], change: impl Fn(W, W) -> W) -> impl Fn(usize, &mut [W]) {
    move |start, words| {
        let base = base.get(start * W::SIZE..).unwrap_or_default();
        for (word, base) in words.iter_mut().zip(base.chunks_exact(W::SIZE)) {
            *word = change(*word, W::load(base));
        }
    }
}

/// The same for elements of one byte, which are their own plane.
fn bytes(from: &[u8], base: &[u8], to: &mut [u8], change: impl Fn(u8, u8) -> u8) {
    for ((to, from), base) in to.iter_mut().zip(from).zip(base) {
        *to = change(*from, *base);
    }
}
