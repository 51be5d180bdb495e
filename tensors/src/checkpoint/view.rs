//! A tensor's elements in order, however they lie in their storage.

/// Bytes of storage that are read at a time while elements are gathered.
const PIECE: u64 = 64 << 10;

/// Where the elements of a tensor are, in bytes of its storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    size: u64,
    start: u64,
    /// Length and step in bytes of each dimension, outermost first; those of length 1 are left out.
    dims: Vec<(u64, u64)>,
    empty: bool,
}

/// A piece of a tensor: some rows of one dimension, and all of those inside it. Its elements follow one another.
#[derive(Debug)]
struct Tile {
    /// Where its first element is in the storage.
    start: u64,
    /// As in [`View`].
    dims: Vec<(u64, u64)>,
}

impl View {
    /// The elements of `size` bytes that `shape` and `stride` show, from element `offset` of a storage on. They must be
    /// within it.
    pub fn new(size: usize, offset: u64, shape: &[u64], stride: &[u64]) -> Self {
        let size = size as u64;
        let dims = shape.iter().zip(stride).filter(|(length, _)| **length != 1);
        Self {
            size,
            start: offset.saturating_mul(size),
            dims: dims.map(|(length, stride)| (*length, stride.saturating_mul(size))).collect(),
            empty: shape.contains(&0),
        }
    }

    /// Bytes of all elements.
    pub fn length(&self) -> u64 {
        if self.empty {
            return 0;
        }
        self.dims.iter().fold(self.size, |bytes, (length, _)| bytes.saturating_mul(*length))
    }

    /// Whether the elements lie in the storage as they do in the tensor.
    pub fn contiguous(&self) -> bool {
        let mut step = self.size;
        self.dims.iter().rev().all(|(length, stride)| {
            let dense = *stride == step;
            step = step.saturating_mul(*length);
            dense
        })
    }

    /// Gives the elements to `write` in order, in pieces of at most `window` bytes or one element, and reads bytes of
    /// the storage from an offset on with `read`.
    ///
    /// # Errors
    /// Those of `read` and `write`.
    pub fn copy<E>(
        &self,
        window: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let total = self.length();
        if total == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        if self.contiguous() {
            let mut done = 0;
            while done < total {
                let count = window.max(1).min(total - done);
                out.resize(count as usize, 0);
                read(self.start + done, &mut out)?;
                write(&out)?;
                done += count;
            }
            return Ok(());
        }
        let mut source = Source { read, piece: Vec::new(), at: 0, end: total_span(self) };
        self.tiles(window, |tile| {
            let bytes = tile.dims.iter().fold(self.size, |bytes, (length, _)| bytes * length);
            out.resize(bytes as usize, 0);
            tile.gather(self.size, &mut source, &mut out)?;
            write(&out)
        })
    }

    /// Cuts the tensor into tiles of at most `window` bytes, in order.
    fn tiles<E>(&self, window: u64, mut each: impl FnMut(Tile) -> Result<(), E>) -> Result<(), E> {
        // Bytes of as many inner dimensions as fit together, and the dimension outside them, of which a few rows do.
        let (mut row, mut cut) = (self.size, self.dims.len());
        while let Some((length, _)) = cut.checked_sub(1).and_then(|next| self.dims.get(next)) {
            let bytes = row.saturating_mul(*length);
            if bytes > window {
                break;
            }
            (row, cut) = (bytes, cut - 1);
        }
        let (outside, inside) = self.dims.split_at(cut);
        let Some((&(length, step), outer)) = outside.split_last() else {
            return each(Tile { start: self.start, dims: self.dims.clone() });
        };
        let rows = (window / row).max(1);
        let mut place = vec![0; outer.len()];
        loop {
            let places = outer.iter().zip(&place);
            let start = places.fold(self.start, |at, ((_, step), place)| at + step * place);
            let mut first = 0;
            while first < length {
                let count = rows.min(length - first);
                let dims = [(count, step)].into_iter().chain(inside.iter().copied()).collect();
                each(Tile { start: start + first * step, dims })?;
                first += count;
            }
            if !advance(&mut place, outer) {
                return Ok(());
            }
        }
    }
}

/// Where the storage's last byte that is shown ends.
fn total_span(view: &View) -> u64 {
    view.dims.iter().fold(view.start + view.size, |at, (length, step)| at + (length - 1) * step)
}

/// The next place of a counter, the last digit fastest; false after the last one.
fn advance(place: &mut [u64], dims: &[(u64, u64)]) -> bool {
    for (digit, (length, _)) in place.iter_mut().zip(dims).rev() {
        *digit += 1;
        if *digit < *length {
            return true;
        }
        *digit = 0;
    }
    false
}

impl Tile {
    /// Puts the elements in `out`, walking the storage from its start to its end as far as that can be.
    fn gather<E>(
        &self,
        size: u64,
        source: &mut Source<impl FnMut(u64, &mut [u8]) -> Result<(), E>>,
        out: &mut [u8],
    ) -> Result<(), E> {
        // Length, step in the storage, step in `out`.
        let mut dims: Vec<(u64, u64, u64)> = Vec::with_capacity(self.dims.len());
        let mut step = size;
        for (length, stride) in self.dims.iter().rev() {
            dims.push((*length, *stride, step));
            step *= length;
        }
        dims.sort_by_key(|(_, stride, _)| std::cmp::Reverse(*stride));
        let last = dims.pop().unwrap_or((1, size, size));
        let outer: Vec<(u64, u64)> = dims.iter().map(|(length, stride, _)| (*length, *stride)).collect();
        let mut place = vec![0; outer.len()];
        loop {
            let (mut from, mut to) = (self.start, 0);
            for ((_, stride, step), place) in dims.iter().zip(&place) {
                from += stride * place;
                to += step * place;
            }
            let (length, stride, step) = last;
            for _ in 0..length {
                let bytes = source.bytes(from, size)?;
                let slot = out.get_mut(to as usize..(to + size) as usize);
                slot.unwrap_or_default().copy_from_slice(bytes);
                from += stride;
                to += step;
            }
            if !advance(&mut place, &outer) {
                return Ok(());
            }
        }
    }
}

/// The storage, read a piece at a time.
struct Source<R> {
    read: R,
    piece: Vec<u8>,
    at: u64,
    end: u64,
}

impl<R> Source<R> {
    fn bytes<E>(&mut self, from: u64, size: u64) -> Result<&[u8], E>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        if from < self.at || from + size > self.at + self.piece.len() as u64 {
            let length = PIECE.min(self.end - from);
            self.piece.resize(length as usize, 0);
            (self.read)(from, &mut self.piece)?;
            self.at = from;
        }
        let start = (from - self.at) as usize;
        Ok(self.piece.get(start..start + size as usize).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Every element by its own formula.
    fn oracle(storage: &[u8], size: usize, offset: usize, shape: &[u64], stride: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        let count: u64 = shape.iter().product();
        for number in 0..count {
            let (mut rest, mut at) = (number, offset as u64);
            for (length, stride) in shape.iter().zip(stride).rev() {
                at += rest % length * stride;
                rest /= length;
            }
            let at = at as usize * size;
            out.extend_from_slice(&storage[at..at + size]);
        }
        out
    }

    #[test]
    fn every_view_gives_its_elements_in_order_whatever_the_window() {
        let storage: Vec<u8> = (0..4096_u32 * 4).map(|index| (index * 37 % 251) as u8).collect();
        let views: &[(usize, &[u64], &[u64])] = &[
            (0, &[8, 8], &[8, 1]),
            (0, &[8, 8], &[1, 8]),
            (5, &[3, 4, 5], &[100, 7, 2]),
            (1, &[4, 1, 6], &[1, 999, 4]),
            (2, &[6, 5], &[0, 3]),
            (7, &[], &[]),
            (7, &[1], &[1]),
            (0, &[0, 3], &[3, 1]),
            (9, &[17], &[11]),
            (0, &[2, 3, 4, 5], &[1, 2, 6, 24]),
        ];
        for size in [1, 2, 4, 8] {
            for (offset, shape, stride) in views {
                let expected = oracle(&storage, size, *offset, shape, stride);
                let view = View::new(size, *offset as u64, shape, stride);
                assert_eq!(view.length(), expected.len() as u64);
                for window in [1, 8, 24, 100, 1 << 20] {
                    let mut out = Vec::new();
                    let read = |at: u64, piece: &mut [u8]| {
                        piece.copy_from_slice(&storage[at as usize..at as usize + piece.len()]);
                        Ok::<_, Infallible>(())
                    };
                    let Ok(()) = view.copy(window, read, |piece| {
                        assert!(piece.len() as u64 <= window.max(size as u64));
                        out.extend_from_slice(piece);
                        Ok(())
                    });
                    assert_eq!(out, expected, "{shape:?} by {stride:?} in windows of {window}");
                }
            }
        }
    }
}
