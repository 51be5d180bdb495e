//! Persons' movements side by side: a row of numbers a person, for what has to see them together.

use super::blocks::Blocks;
use super::layout::Unit;
use super::{Error, Part, Source};
use crate::kernel::float::Float;
use crate::kernel::{CHUNK, sum};
use std::error::Error as StdError;
use std::ops::Range;

/// One term of a sum: its weight, where it is read, and what it is the difference to.
pub(super) type Term = (f64, Part, Option<Part>);

/// Fills a matrix with one row a list of terms, each the sum of its terms from 0 on in their order, for some elements
/// of the unit after the other, and hands it to `each`.
///
/// Elements are taken a run ([`CHUNK`]) at a time where all that is read fits side by side, and otherwise as many at a
/// time as the memory allows, reading everything once for each; always whole runs, ascending. Which of the two has no
/// influence on any number.
pub(super) fn by_rows<R: Source, E: StdError>(
    blocks: &mut Blocks<'_, R>,
    matrix: &mut Vec<f64>,
    unit: Unit,
    float: Float,
    rows: &[Vec<Term>],
    mut each: impl FnMut(Range<usize>, &[f64]),
) -> Result<(), Error<R::Error, E>> {
    let count = unit.len / float.size();
    let terms = || rows.iter().flatten();
    let fitting = blocks.fitting(terms().map(|(_, input, base)| (*input, *base)));
    if fitting >= terms().count() {
        let parts: Vec<Part> = terms().flat_map(|(_, input, base)| [Some(*input), *base]).flatten().collect();
        let places = blocks.hold(&parts)?;
        for range in pieces(count, CHUNK) {
            let mut places = places.iter();
            matrix.clear();
            matrix.resize(rows.len() * range.len(), 0.0);
            for (row, terms) in matrix.chunks_exact_mut(range.len()).zip(rows) {
                for (weight, _, base) in terms {
                    let input = places.next().map_or(&[][..], |place| blocks.get(*place));
                    let base = base.and_then(|_| places.next()).map(|place| blocks.get(*place));
                    add(float, row, *weight, input, base, &range);
                }
            }
            each(range, matrix);
        }
        return Ok(());
    }
    let width = blocks.narrow(rows.len());
    for range in pieces(count, width) {
        matrix.clear();
        matrix.resize(rows.len() * range.len(), 0.0);
        for (row, terms) in matrix.chunks_exact_mut(range.len()).zip(rows) {
            for (weight, input, base) in terms {
                let parts: Vec<Part> = [Some(*input), *base].into_iter().flatten().collect();
                let places = blocks.hold(&parts)?;
                let mut held = places.iter().map(|place| blocks.get(*place));
                let input = held.next().unwrap_or(&[]);
                add(float, row, *weight, input, held.next(), &range);
            }
        }
        each(range, matrix);
    }
    Ok(())
}

/// Adds one term to a row.
fn add(float: Float, row: &mut [f64], weight: f64, input: &[u8], base: Option<&[u8]>, range: &Range<usize>) {
    let input = elements(input, range, float.size());
    match base {
        Some(base) => {
            sum::add_difference(float, row, weight, input, elements(base, range, float.size()));
        }
        None => sum::add_value(float, row, weight, input),
    }
}

/// Ranges of so many elements, the last one shorter.
pub(super) fn pieces(count: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(width.max(1)).map(move |start| start..count.min(start + width))
}

/// The bytes of a range of elements of `size` bytes each; none where there are not so many.
pub(super) fn elements<'b>(bytes: &'b [u8], range: &Range<usize>, size: usize) -> &'b [u8] {
    bytes.get(range.start * size..range.end * size).unwrap_or(&[])
}
