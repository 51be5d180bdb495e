//! What a thread holds while it works on one unit, within its part of the memory budget.

use super::layout::{Layout, Tensor, Unit, block_len};
use super::pool::AHEAD;
use super::{Error, Part, Request, Source};
use crate::kernel::keeps_subnormals;
use flair_tensors::block::BLOCK;
use flair_tensors::id::TensorId;
use std::error::Error as StdError;

/// The fewest blocks a thread works with: the parent's, an input's, its base's, and one to spare.
const FEWEST: usize = 4;

/// How a request's memory is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) threads: usize,
    /// Blocks that one thread may hold.
    pub(super) blocks: usize,
}

impl Budget {
    /// As many of the threads asked for as the budget feeds, and at least one.
    pub(super) fn new(request: &Request<'_>, layout: &Layout<'_>) -> Self {
        // Running sums, the results that wait to be taken, and the master of the block at work.
        let (sums, result, master) = if layout.has_masters() { (4, 3, 2) } else { (2, 1, 0) };
        let fixed = (sums + master + result * (AHEAD + 1)) * BLOCK;
        let fed = request.memory_budget / (fixed + FEWEST * BLOCK);
        let threads = request.threads.min(fed).max(1);
        let room = (request.memory_budget / threads).saturating_sub(fixed) / BLOCK;
        let useful = request.contributions.len().saturating_mul(2).saturating_add(1);
        Self { threads, blocks: room.min(useful).max(FEWEST) }
    }
}

/// One thread's belongings.
pub(super) struct Worker<'a, R> {
    pub(super) blocks: Blocks<'a, R>,
    /// Running sums.
    pub(super) sums: Vec<f64>,
    /// The parent's values of the block at work.
    pub(super) parent: Vec<u8>,
}

impl<'a, R: Source> Worker<'a, R> {
    /// A worker for the thread that calls, once it is sure of the thread's processor mode.
    pub(super) fn new<E: StdError>(
        source: &'a R,
        layout: &'a Layout<'a>,
        budget: Budget,
    ) -> Result<Self, Error<R::Error, E>> {
        if !keeps_subnormals() {
            return Err(Error::FlushToZero);
        }
        let blocks = Blocks::new(source, layout, budget);
        Ok(Self { blocks, sums: Vec::new(), parent: Vec::new() })
    }
}

/// One thread's blocks.
pub(super) struct Blocks<'a, R> {
    source: &'a R,
    layout: &'a Layout<'a>,
    capacity: usize,
    slots: Vec<Slot>,
    unit: Unit,
}

/// One block, or a buffer that held one.
#[derive(Default)]
struct Slot {
    holds: Option<(Part, Option<TensorId>)>,
    /// Whether the group at work needs it.
    needed: bool,
    bytes: Vec<u8>,
}

impl<'a, R: Source> Blocks<'a, R> {
    fn new(source: &'a R, layout: &'a Layout<'a>, budget: Budget) -> Self {
        let unit = Unit { tensor: 0, block: 0, len: 0 };
        Self { source, layout, capacity: budget.blocks, slots: Vec::new(), unit }
    }

    /// Turns to another unit: what is held is forgotten.
    pub(super) fn turn_to(&mut self, unit: Unit) {
        self.unit = unit;
        self.slots.iter_mut().for_each(|slot| slot.holds = None);
    }

    /// How many of these groups of parts, from the first on, can be held side by side with the parent; at least
    /// one, whatever the capacity.
    pub(super) fn fitting(&self, groups: impl Iterator<Item = (Part, Option<Part>)>) -> usize {
        let mut held: Vec<(Part, Option<TensorId>)> = vec![self.name(Part::Parent)];
        let mut count = 0;
        for (input, base) in groups {
            for part in [Some(input), base].into_iter().flatten() {
                let name = self.name(part);
                if !held.iter().any(|other| matches(*other, name)) {
                    held.push(name);
                }
            }
            if count > 0 && held.len() > self.capacity {
                break;
            }
            count += 1;
        }
        count
    }

    /// Holds all of these parts' blocks at once, reading those that are not held yet, and says where each is.
    pub(super) fn hold<E: StdError>(&mut self, parts: &[Part]) -> Result<Vec<usize>, Error<R::Error, E>> {
        let names: Vec<_> = parts.iter().map(|part| self.name(*part)).collect();
        for slot in &mut self.slots {
            slot.needed = slot.holds.is_some_and(|held| names.iter().any(|name| matches(held, *name)));
        }
        names.into_iter().map(|name| self.find_or_read(name)).collect()
    }

    /// The bytes at a place that [`Self::hold`] named.
    pub(super) fn get(&self, place: usize) -> &[u8] {
        self.slots.get(place).map_or(&[], |slot| &slot.bytes)
    }

    /// Appends the parent's block to `out`.
    pub(super) fn copy_parent<E: StdError>(&mut self, out: &mut Vec<u8>) -> Result<(), Error<R::Error, E>> {
        for place in self.hold(&[Part::Parent])? {
            out.extend_from_slice(self.get(place));
        }
        Ok(())
    }

    /// Appends the `f32` values behind the 16-bit block to `out`, which are up to two blocks of the master.
    pub(super) fn copy_master<E: StdError>(&self, out: &mut Vec<u8>) -> Result<(), Error<R::Error, E>> {
        let bytes = self.layout.tensors.get(self.unit.tensor).map_or(0, Tensor::master_bytes);
        for block in [self.unit.block * 2, self.unit.block * 2 + 1] {
            let unit = Unit { block, len: block_len(bytes, block), ..self.unit };
            if unit.len > 0 {
                read(self.source, self.layout, Part::Master, unit, out)?;
            }
        }
        Ok(())
    }

    fn find_or_read<E: StdError>(
        &mut self,
        name: (Part, Option<TensorId>),
    ) -> Result<usize, Error<R::Error, E>> {
        let held = |slot: &Slot| slot.holds.is_some_and(|held| matches(held, name));
        if let Some(place) = self.slots.iter().position(held) {
            return Ok(place);
        }
        let place = self.slots.iter().position(|slot| slot.holds.is_none());
        let place = place.or_else(|| {
            let full = self.slots.len() >= self.capacity;
            self.slots.iter().position(|slot| full && !slot.needed)
        });
        let place = place.unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        if let Some(slot) = self.slots.get_mut(place) {
            slot.holds = None;
            slot.bytes.clear();
            read(self.source, self.layout, name.0, self.unit, &mut slot.bytes)?;
            slot.holds = Some(name);
            slot.needed = true;
        }
        Ok(place)
    }

    fn name(&self, part: Part) -> (Part, Option<TensorId>) {
        (part, self.source.id(part, self.unit.tensor))
    }
}

/// Whether two blocks of one unit are the same: the same part's, or parts' with the same tensor.
fn matches(one: (Part, Option<TensorId>), other: (Part, Option<TensorId>)) -> bool {
    one.0 == other.0 || (one.1.is_some() && one.1 == other.1)
}

/// Reads one block and checks its length.
fn read<R: Source, E: StdError>(
    source: &R,
    layout: &Layout<'_>,
    part: Part,
    unit: Unit,
    out: &mut Vec<u8>,
) -> Result<(), Error<R::Error, E>> {
    let before = out.len();
    let failed = |source| Error::Source { part, tensor: layout.name(unit.tensor), source };
    source.block(part, unit.tensor, unit.block, out).map_err(failed)?;
    let got = out.len().saturating_sub(before);
    if got != unit.len {
        let tensor = layout.name(unit.tensor);
        return Err(Error::Length { part, tensor, block: unit.block, expected: unit.len, got });
    }
    Ok(())
}
