//! What a thread holds while it works on one unit, within its part of the memory budget.

use super::layout::{Layout, Unit, block_len};
use super::pool::AHEAD;
use super::rows::elements;
use super::{Carried, Error, Part, Request, Source};
use crate::kernel::{CHUNK, keeps_subnormals};
use flair_tensors::block::BLOCK;
use flair_tensors::id::TensorId;
use std::error::Error as StdError;

/// Bytes of a number that is carried.
const WIDE: usize = size_of::<f32>();
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
        // Running sums, the results that wait to be taken, and what the parent carries of the block at work.
        let (wide, master) = if layout.has_masters() { (2, 2) } else { (1, 0) };
        let moments = request.policy.optimiser().carries().len() * wide;
        let (sums, result, carried) = (2 * wide, 1 + master + moments, master + moments);
        // A run of every person side by side, where movements are compared.
        let rows =
            if request.policy.gathers() { request.contributions.len() * CHUNK * size_of::<f64>() } else { 0 };
        let fixed = (sums + carried + result * (AHEAD + 1)) * BLOCK + rows;
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
    /// The moments that the parent carries of them.
    pub(super) moments: [Vec<u8>; 2],
    /// Rows of numbers, a row a person.
    pub(super) matrix: Vec<f64>,
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
        Ok(Self {
            blocks,
            sums: Vec::new(),
            parent: Vec::new(),
            moments: Default::default(),
            matrix: Vec::new(),
        })
    }
}

/// One thread's blocks.
pub(super) struct Blocks<'a, R> {
    source: &'a R,
    layout: &'a Layout<'a>,
    /// How many blocks may be held, and how many are meant to be while what is read is widened instead.
    budget: usize,
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
        Self { source, layout, budget: budget.blocks, capacity: budget.blocks, slots: Vec::new(), unit }
    }

    /// Turns to another unit: what is held is forgotten.
    pub(super) fn turn_to(&mut self, unit: Unit) {
        self.unit = unit;
        self.capacity = self.budget;
        self.slots.iter_mut().for_each(|slot| slot.holds = None);
    }

    /// Holds as few blocks as possible from here to the end of the unit. Says how many elements of so many rows find
    /// room as `f64` in the memory that this leaves: whole runs, at least one.
    pub(super) fn narrow(&mut self, rows: usize) -> usize {
        self.capacity = FEWEST;
        self.slots.truncate(FEWEST);
        let room = self.budget.saturating_sub(FEWEST) * BLOCK / size_of::<f64>();
        (room / rows.max(1) / CHUNK).max(1) * CHUNK
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

    /// Appends what the parent carries of the unit's elements, which are of so many bytes each, to `out`.
    pub(super) fn copy_carried<E: StdError>(
        &self,
        what: Carried,
        size: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error<R::Error, E>> {
        let total = self.layout.tensors.get(self.unit.tensor).map_or(0, |tensor| tensor.bytes / size * WIDE);
        let start = self.unit.block * BLOCK / size * WIDE;
        let mut wanted = start..start + self.unit.len / size * WIDE;
        while !wanted.is_empty() {
            let block = wanted.start / BLOCK;
            let unit = Unit { block, len: block_len(total, block), ..self.unit };
            let inside = wanted.start - block * BLOCK..unit.len.min(wanted.end - block * BLOCK);
            if inside.is_empty() {
                break;
            }
            wanted.start += inside.len();
            if inside.len() == unit.len {
                read(self.source, self.layout, Part::Carried(what), unit, out)?;
            } else {
                let mut whole = Vec::new();
                read(self.source, self.layout, Part::Carried(what), unit, &mut whole)?;
                out.extend_from_slice(elements(&whole, &inside, 1));
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
