//! The difference to a base, with the elements that have one exponent in the base lying together.
//!
//! A step of training moves all weights about equally far, so the difference, counted in units of the last place, has
//! the size that the base's exponent leaves it: within a group it hardly varies, and every byte plane of the group has
//! its own few values. Whoever decodes has the base too, so the order costs nothing.

use super::word::Word;
use super::{ordered, planes, resize};
use crate::dtype::DType;

/// Groups there can be: the exponents of the widest float.
const GROUPS: usize = 1 << 11;

/// Writes the byte planes of the grouped difference between `raw` and `base`; all three have one length. `buffer` is
/// scratch space.
pub(super) fn split(dtype: DType, raw: &[u8], base: &[u8], buffer: &mut Vec<u8>, out: &mut [u8]) {
    let Some(exponent) = exponent(dtype) else { return ordered::split(dtype, raw, base, out) };
    resize(buffer, raw.len());
    match dtype.size() {
        2 => gather::<u16>(raw, base, exponent, buffer),
        4 => gather::<u32>(raw, base, exponent, buffer),
        8 => gather::<u64>(raw, base, exponent, buffer),
        _ => gather::<u8>(raw, base, exponent, buffer),
    }
    planes::split(dtype, buffer, out);
}

/// Writes what differs from `base` as these grouped byte planes say; all three have one length. `buffer` is scratch
/// space.
pub(super) fn join(dtype: DType, planes: &[u8], base: &[u8], buffer: &mut Vec<u8>, out: &mut [u8]) {
    let Some(exponent) = exponent(dtype) else { return ordered::join(dtype, planes, base, out) };
    resize(buffer, planes.len());
    planes::join(dtype, planes, buffer);
    match dtype.size() {
        2 => scatter::<u16>(buffer, base, exponent, out),
        4 => scatter::<u32>(buffer, base, exponent, out),
        8 => scatter::<u64>(buffer, base, exponent, out),
        _ => scatter::<u8>(buffer, base, exponent, out),
    }
}

/// The place of the exponent in the bits of a float.
#[derive(Clone, Copy)]
struct Exponent {
    shift: u32,
    mask: u64,
}

impl Exponent {
    fn of(self, word: impl Word) -> usize {
        (word.above(self.shift) & self.mask) as usize
    }

    /// Where each group begins, counted in elements.
    fn starts<W: Word>(self, base: &[u8]) -> [u32; GROUPS] {
        let mut starts = [0_u32; GROUPS];
        for element in base.chunks_exact(W::SIZE) {
            if let Some(count) = starts.get_mut(self.of(W::load(element))) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            (*start, sum) = (sum, sum + *start);
        }
        starts
    }
}

/// Integers and booleans have no exponent, and one group.
fn exponent(dtype: DType) -> Option<Exponent> {
    let (shift, bits) = match dtype {
        DType::F64 => (52, 11),
        DType::F32 => (23, 8),
        DType::BF16 => (7, 8),
        DType::F16 => (10, 5),
        DType::F8E5M2 => (2, 5),
        DType::F8E4M3 => (3, 4),
        DType::Bool
        | DType::U8
        | DType::I8
        | DType::U16
        | DType::I16
        | DType::U32
        | DType::I32
        | DType::U64
        | DType::I64 => return None,
    };
    Some(Exponent { shift, mask: (1 << bits) - 1 })
}

/// Writes the differences of floats in the order of their groups; bytes after the last whole element follow unchanged.
fn gather<W: Word>(raw: &[u8], base: &[u8], exponent: Exponent, out: &mut [u8]) {
    let mut starts = exponent.starts::<W>(base);
    let raw = raw.chunks_exact(W::SIZE);
    let tail = raw.remainder();
    let whole = out.len() - tail.len();
    if let Some(end) = out.get_mut(whole..) {
        end.copy_from_slice(tail);
    }
    for (raw, base) in raw.zip(base.chunks_exact(W::SIZE)) {
        let base = W::load(base);
        if let Some(next) = starts.get_mut(exponent.of(base)) {
            let at = *next as usize * W::SIZE;
            *next += 1;
            if let Some(place) = out.get_mut(at..) {
                W::load(raw).minus_float(base).store(place);
            }
        }
    }
}

/// Takes differences in the order of their groups and writes the floats in theirs.
fn scatter<W: Word>(differences: &[u8], base: &[u8], exponent: Exponent, out: &mut [u8]) {
    let mut starts = exponent.starts::<W>(base);
    let mut out = out.chunks_exact_mut(W::SIZE);
    for (out, base) in out.by_ref().zip(base.chunks_exact(W::SIZE)) {
        let base = W::load(base);
        if let Some(next) = starts.get_mut(exponent.of(base)) {
            let at = *next as usize * W::SIZE;
            *next += 1;
            W::load(differences.get(at..).unwrap_or_default()).plus_float(base).store(out);
        }
    }
    let tail = out.into_remainder();
    tail.copy_from_slice(differences.get(differences.len() - tail.len()..).unwrap_or_default());
}
