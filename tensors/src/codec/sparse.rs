//! The elements that differ from the base, listed: for each how many equal ones come before it, and the difference.
//!
//! | bytes of a list | what |
//! |---|---|
//! | varint | how many elements differ |
//! | a varint for each | equal elements between it and the one before, or the start |
//! | the size of an element for each | byte planes of the folded differences, none of which is 0 |
//! | what is left | bytes after the last whole element |
//!
//! A varint has seven bits a byte, the lowest first; the highest bit says that more follow. It is as short as it can be.

use super::word::Word;
use super::{CodecError, planes, resize};
use crate::dtype::DType;

/// A list is made of blocks of which at most one element in so many differs. With more, the gaps cost about what the
/// zeros among the differences would.
const SPARSE: usize = 4;

/// Writes the list of what differs between `raw` and `base`, which have one length. `false` when too much does.
/// `buffer` is scratch space.
pub(super) fn write(dtype: DType, raw: &[u8], base: &[u8], buffer: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    match (dtype.size(), dtype.is_float()) {
        (2, true) => list(dtype, raw, base, buffer, out, u16::minus_float),
        (2, false) => list(dtype, raw, base, buffer, out, u16::minus),
        (4, true) => list(dtype, raw, base, buffer, out, u32::minus_float),
        (4, false) => list(dtype, raw, base, buffer, out, u32::minus),
        (8, true) => list(dtype, raw, base, buffer, out, u64::minus_float),
        (8, false) => list(dtype, raw, base, buffer, out, u64::minus),
        (_, true) => list(dtype, raw, base, buffer, out, u8::minus_float),
        (_, false) => list(dtype, raw, base, buffer, out, u8::minus),
    }
}

/// Writes `base`, changed as a list says, to `out` of the same length. `buffer` is scratch space.
pub(super) fn read(
    dtype: DType,
    listed: &[u8],
    base: &[u8],
    buffer: &mut Vec<u8>,
    out: &mut [u8],
) -> Result<(), CodecError> {
    match (dtype.size(), dtype.is_float()) {
        (2, true) => apply(dtype, listed, base, buffer, out, u16::plus_float),
        (2, false) => apply(dtype, listed, base, buffer, out, u16::plus),
        (4, true) => apply(dtype, listed, base, buffer, out, u32::plus_float),
        (4, false) => apply(dtype, listed, base, buffer, out, u32::plus),
        (8, true) => apply(dtype, listed, base, buffer, out, u64::plus_float),
        (8, false) => apply(dtype, listed, base, buffer, out, u64::plus),
        (_, true) => apply(dtype, listed, base, buffer, out, u8::plus_float),
        (_, false) => apply(dtype, listed, base, buffer, out, u8::plus),
    }
}

/// Elements compared at once.
const CHUNK: usize = 64;

fn list<W: Word>(
    dtype: DType,
    raw: &[u8],
    base: &[u8],
    buffer: &mut Vec<u8>,
    out: &mut Vec<u8>,
    change: impl Fn(W, W) -> W,
) -> bool {
    let most = raw.len() / W::SIZE / SPARSE;
    out.clear();
    buffer.clear();
    let (mut count, mut gap) = (0, 0);
    for (raw, base) in raw.chunks(CHUNK * W::SIZE).zip(base.chunks(CHUNK * W::SIZE)) {
        if raw == base {
            gap += (raw.len() / W::SIZE) as u32;
            continue;
        }
        for (raw, base) in raw.chunks_exact(W::SIZE).zip(base.chunks_exact(W::SIZE)) {
            let difference = change(W::load(raw), W::load(base));
            if difference == W::default() {
                gap += 1;
                continue;
            }
            put(out, gap);
            let at = buffer.len();
            buffer.resize(at + W::SIZE, 0);
            if let Some(place) = buffer.get_mut(at..) {
                difference.store(place);
            }
            (count, gap) = (count + 1, 0);
        }
        if count > most {
            return false;
        }
    }
    let mut head = Vec::new();
    put(&mut head, count as u32);
    out.splice(..0, head);
    let at = out.len();
    out.resize(at + buffer.len(), 0);
    planes::split(dtype, buffer, out.get_mut(at..).unwrap_or_default());
    out.extend_from_slice(raw.chunks_exact(W::SIZE).remainder());
    true
}

fn apply<W: Word>(
    dtype: DType,
    mut listed: &[u8],
    base: &[u8],
    buffer: &mut Vec<u8>,
    out: &mut [u8],
    change: impl Fn(W, W) -> W,
) -> Result<(), CodecError> {
    let damaged = |reason| CodecError::Damaged { reason };
    let elements = out.len() / W::SIZE;
    let tail = out.len() % W::SIZE;
    let count = take(&mut listed)? as usize;
    // Each takes a byte of gap, and its difference.
    let values = count.checked_mul(W::SIZE).filter(|_| count <= elements);
    let gaps = values.and_then(|values| listed.len().checked_sub(values + tail));
    let (Some(values), Some(gaps)) = (values, gaps) else {
        return Err(damaged("its list of differences is cut"));
    };
    let (mut gaps, rest) = listed.split_at(gaps);
    let (values, rest) = rest.split_at(values);
    resize(buffer, values.len());
    planes::join(dtype, values, buffer);
    out.copy_from_slice(base);
    let mut at = 0;
    for difference in buffer.chunks_exact(W::SIZE) {
        at += take(&mut gaps)? as usize;
        let place = out.get_mut(at * W::SIZE..).filter(|_| at < elements);
        let place = place.ok_or(damaged("its list of differences goes past its end"))?;
        let difference = W::load(difference);
        if difference == W::default() {
            return Err(damaged("it lists an element that does not differ"));
        }
        change(difference, W::load(place)).store(place);
        at += 1;
    }
    if !gaps.is_empty() {
        return Err(damaged("its list of differences is too long"));
    }
    if let Some(end) = out.get_mut(elements * W::SIZE..) {
        end.copy_from_slice(rest);
    }
    Ok(())
}

/// Appends a varint.
fn put(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint of at most three bytes, which a block's elements never need more than, from the front.
fn take(bytes: &mut &[u8]) -> Result<u32, CodecError> {
    let mut value = 0;
    for place in 0..3 {
        let Some((&byte, rest)) = bytes.split_first() else { break };
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            if byte == 0 && place > 0 {
                return Err(CodecError::Damaged {
                    reason: "a number of its list is not as short as it can be",
                });
            }
            return Ok(value);
        }
    }
    Err(CodecError::Damaged { reason: "its list of differences is cut" })
}
