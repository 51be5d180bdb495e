//! The size of the k-th largest change of a branch, exactly, without holding more than counts.
//!
//! The bits of a positive `f64` order as its value does. So the largest k of n magnitudes are found 16 bits at a time
//! (a radix selection from the highest bits on): a pass counts the magnitudes that agree with what is known of the
//! k-th largest by their next 16 bits, and the count tells those of the k-th. At most four passes are made, fewer where
//! a count ends exactly at k. Counts are whole numbers, so it does not matter who counts what.

use super::pass::{Reader, change_bits, workers};
use super::{Error, Request, Side, Source, is_kept};
use crate::run::layout::{Kind, Layout};
use crate::run::{Progress, Step, pool};
use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};

/// Bits that a pass tells apart.
const DIGIT: u32 = 16;
const BUCKETS: usize = 1 << DIGIT;
/// Elements that a thread holds as numbers at a time.
const RUN: usize = crate::kernel::CHUNK;

/// The search for one branch's threshold.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// The highest bits of the k-th largest, as far as known.
    prefix: u64,
    /// How many bits these are.
    known: u32,
    /// Which of those that begin so it is, from the largest on.
    rank: u64,
    done: bool,
}

impl Search {
    /// Whether magnitudes with these bits are among those it is still chosen from, and where they belong then.
    fn bucket(&self, bits: u64) -> Option<usize> {
        let fits = self.known == 0 || bits >> (64 - self.known) == self.prefix;
        let next = (bits >> (64 - self.known - DIGIT)) & (BUCKETS as u64 - 1);
        usize::try_from(next).ok().filter(|_| fits && bits != 0 && !self.done)
    }

    /// Takes the counts of a pass.
    fn narrow(&mut self, counts: &[u64]) {
        if self.done {
            return;
        }
        let mut left = self.rank;
        for (bucket, count) in counts.iter().enumerate().rev() {
            if left <= *count {
                self.prefix = self.prefix << DIGIT | bucket as u64;
                self.known += DIGIT;
                self.rank = left;
                // All of the bucket are in: so is whatever is at least as large as its smallest could be.
                self.done = self.known == 64 || left == *count;
                return;
            }
            left -= count;
        }
        // Fewer than k changed at all.
        (self.prefix, self.known, self.done) = (0, 0, true);
    }

    fn threshold(&self) -> f64 {
        if self.known == 0 { 0.0 } else { f64::from_bits(self.prefix << (64 - self.known)) }
    }
}

/// Of either branch, the least magnitude that a change must have to be among the largest ⌈density · n⌉.
pub(super) fn find<R: Source, E: StdError + Send + 'static>(
    request: &Request<'_>,
    source: &R,
    layout: &Layout<'_>,
    density: f64,
    progress: &dyn Fn(Progress),
) -> Result<[f64; 2], Error<R::Error, E>> {
    let sides = [Side::First, Side::Second];
    let elements = layout.tensors.iter().filter_map(|tensor| match tensor.kind {
        Kind::Moved(float) => Some((tensor.bytes / float.size()) as u64),
        _ => None,
    });
    // Below 2⁵³ elements, and so exact but for the one rounding of the product.
    #[allow(clippy::cast_sign_loss, reason = "neither is negative")]
    let rank = (density * elements.sum::<u64>() as f64).ceil() as u64;
    let mut searches = [Search { prefix: 0, known: 0, rank, done: rank == 0 }; 2];
    let moves = |tensor: usize| !sides.iter().all(|side| source.same(*side, Side::Base, tensor));
    let units = layout.units(|tensor, about| {
        matches!(about.kind, Kind::Moved(_)) && moves(tensor) && !is_kept(request, source, tensor, about.kind)
    });
    let total = units.iter().map(|unit| unit.len as u64).sum();
    while searches.iter().any(|search| !search.done) {
        let counts = Mutex::new(vec![[0u64; 2]; BUCKETS]);
        let mut done = 0;
        let setup = || Ok((Reader::fresh(request, source, layout)?, vec![[0u32; 2]; BUCKETS]));
        let work = |(reader, found): &mut (Reader<'_, R>, Vec<[u32; 2]>), index: usize| {
            let Some(unit) = units.get(index) else { return Ok::<(), Error<R::Error, E>>(()) };
            let Kind::Moved(float) = layout.kind(unit.tensor) else { return Ok(()) };
            reader.turn_to(*unit, float, true)?;
            for run in reader.runs(RUN) {
                let values = reader.values(run);
                for (base, first, second) in values.each() {
                    for (side, bits) in change_bits(base, first, second).into_iter().enumerate() {
                        if let Some(found) =
                            searches[side].bucket(bits).and_then(|bucket| found.get_mut(bucket))
                        {
                            found[side] += 1;
                        }
                    }
                }
            }
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            for (count, found) in counts.iter_mut().zip(found) {
                count[0] += u64::from(found[0]);
                count[1] += u64::from(found[1]);
                *found = [0; 2];
            }
            Ok(())
        };
        let take = |index: usize, ()| {
            done += units.get(index).map_or(0, |unit| unit.len as u64);
            progress(Progress { step: Step::Compare, done, total });
            Ok(())
        };
        pool::ordered(workers(request), units.len(), setup, work, take)?;
        let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (side, search) in searches.iter_mut().enumerate() {
            let counts: Vec<u64> = counts.iter().map(|count| count[side]).collect();
            search.narrow(&counts);
        }
    }
    Ok(searches.map(|search| search.threshold()))
}
