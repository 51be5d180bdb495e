//! The second pass: adding up, rounding once, and writing.

use super::blocks::{Blocks, Budget, Worker};
use super::layout::{Kind, Layout, Unit};
use super::scan::{Found, Piece, Scan, Tally};
use super::{Error, Part, Progress, Request, RunResult, Sink, Source, Step, Weighing, pool};
use crate::kernel::float::Float;
use crate::kernel::{CHUNK, counter, sum};
use crate::plan::Plan;
use std::error::Error as StdError;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The second pass over a plan whose weights are known.
pub(super) struct Combine<'a, R> {
    source: &'a R,
    layout: &'a Layout<'a>,
    plan: &'a Plan,
    budget: Budget,
    /// The policy's η.
    rate: f64,
    movement_divisor: f64,
    value_divisor: f64,
    /// Per contribution, the weight of its movement in the sum; 0 if it is skipped.
    movement: Vec<f64>,
    /// Per contribution, the weight of its values in the sum; `None` unless they count.
    value: Vec<Option<f64>>,
    /// Result buffers that can be used again.
    spare: Mutex<Vec<Block>>,
}

/// The result of one unit.
#[derive(Default)]
struct Block {
    model: Vec<u8>,
    master: Option<Vec<u8>>,
}

/// One term of a sum: its weight, where it is read, and what it is the difference to.
type Term = (f64, Part, Option<Part>);

impl<'a, R: Source> Combine<'a, R> {
    pub(super) fn new(
        request: &Request<'_>,
        source: &'a R,
        layout: &'a Layout<'a>,
        plan: &'a Plan,
        weighing: &Weighing,
    ) -> Self {
        let Weighing { weights, persons } = weighing;
        let of = |list: &[f64], person: usize| list.get(person).copied().unwrap_or(0.0);
        let shortened = |person: usize| persons.get(person).map_or(1.0, |mover| mover.shortened);
        let movement = plan.inputs.iter().map(|input| {
            input.map_or(0.0, |input| {
                of(&weights.movement, input.person) * shortened(input.person) / input.divisor
            })
        });
        let value = plan.inputs.iter().map(|input| {
            let input = (*input)?;
            Some(of(&weights.value, input.person) / input.leaves?)
        });
        Self {
            source,
            layout,
            plan,
            budget: Budget::new(request, layout),
            rate: request.policy.eta(),
            movement_divisor: weights.movement_divisor,
            value_divisor: weights.value_divisor,
            movement: movement.collect(),
            value: value.collect(),
            spare: Mutex::default(),
        }
    }

    /// What each contribution's movement is multiplied by in the end.
    pub(super) fn effective(&self) -> Vec<f64> {
        let scale =
            |weight: &f64| if *weight == 0.0 { 0.0 } else { self.rate * (weight / self.movement_divisor) };
        self.movement.iter().map(scale).collect()
    }

    /// Computes the result and hands it to the sink.
    pub(super) fn run<W: Sink>(&self, sink: &mut W, progress: &dyn Fn(Progress)) -> RunResult<(), R, W> {
        let wanted = self.start(sink)?;
        let units = self.layout.units(|tensor, _| is_in(&wanted, tensor));
        let total = units.iter().map(|unit| unit.len as u64).sum();
        let mut done = 0;
        let setup = || Worker::new(self.source, self.layout, self.budget);
        let work = |worker: &mut Worker<'a, R>, index: usize| match units.get(index) {
            Some(unit) => {
                worker.blocks.turn_to(*unit);
                self.compute(worker, *unit)
            }
            None => Ok(Block::default()),
        };
        let take = |index: usize, block: Block| {
            let Some(unit) = units.get(index) else { return Ok(()) };
            self.write(sink, *unit, block)?;
            done += unit.len as u64;
            progress(Progress { step: Step::Combine, done, total });
            Ok(())
        };
        pool::ordered(self.budget.threads, units.len(), setup, work, take)
    }

    /// Does both passes in one: computes and hands over the result while the inputs are still being looked at, so
    /// that each block is read once. What the sink was given only counts if nothing is found.
    pub(super) fn run_hopefully<W: Sink>(
        &self,
        scan: &Scan<'a, R>,
        sink: &mut W,
        progress: &dyn Fn(Progress),
    ) -> RunResult<Found, R, W> {
        let wanted = self.start(sink)?;
        let units = self.layout.units(|tensor, _| is_in(&wanted, tensor) || scan.looks_at(tensor));
        let total = units.iter().map(|unit| unit.len as u64).sum();
        let mut done = 0;
        let mut tally = Tally::new(self.plan.persons.len());
        let hopeless = AtomicBool::new(false);
        let setup = || Worker::new(self.source, self.layout, self.budget);
        let work = |worker: &mut Worker<'a, R>, index: usize| {
            let Some(unit) = units.get(index).copied() else { return Ok((Piece::default(), None)) };
            worker.blocks.turn_to(unit);
            let looks = scan.looks_at(unit.tensor);
            let piece = if looks { scan.look(worker, index, unit)? } else { Piece::default() };
            let goes_on = is_in(&wanted, unit.tensor) && !hopeless.load(Ordering::Relaxed);
            let block = if goes_on { Some(self.compute(worker, unit)?) } else { None };
            Ok((piece, block))
        };
        let take = |index: usize, (piece, block): (Piece, Option<Block>)| {
            let Some(unit) = units.get(index).copied() else { return Ok(()) };
            tally.add(unit.tensor, piece);
            if tally.has_faults() {
                hopeless.store(true, Ordering::Relaxed);
            } else if let Some(block) = block {
                self.write(sink, unit, block)?;
            }
            done += unit.len as u64;
            progress(Progress { step: Step::Combine, done, total });
            Ok(())
        };
        pool::ordered(self.budget.threads, units.len(), setup, work, take)?;
        Ok(tally.finish())
    }

    /// Announces every tensor to the sink; per tensor, whether its blocks are wanted.
    fn start<W: Sink>(&self, sink: &mut W) -> RunResult<Vec<bool>, R, W> {
        let tensors = self.layout.tensors.iter().enumerate();
        let wanted = tensors.map(|(index, tensor)| {
            let wanted = sink.start(index, self.is_kept(index, tensor.kind));
            wanted.map_err(|source| Error::Sink { tensor: self.layout.name(index), source })
        });
        wanted.collect()
    }

    fn write<W: Sink>(&self, sink: &mut W, unit: Unit, block: Block) -> RunResult<(), R, W> {
        let written = sink.block(unit.tensor, unit.block, &block.model, block.master.as_deref());
        written.map_err(|source| Error::Sink { tensor: self.layout.name(unit.tensor), source })?;
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        Ok(())
    }

    /// Whether a tensor of the result is the parent's for sure.
    fn is_kept(&self, tensor: usize, kind: Kind) -> bool {
        match kind {
            Kind::Moved(_) => self.moving(tensor).next().is_none(),
            Kind::Averaged(_) | Kind::Largest(_) => self.plan.persons.is_empty(),
            Kind::Equal => true,
        }
    }

    /// The terms of a tensor's sum of movements, in commit-id order.
    fn moving(&self, tensor: usize) -> impl Iterator<Item = Term> {
        let inputs = self.plan.taking_part().filter(move |(input, _)| !self.source.same(*input, tensor));
        inputs.map(|(index, input)| {
            (self.movement.get(index).copied().unwrap_or(0.0), Part::Input(index), Some(input.base))
        })
    }

    fn compute<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
    ) -> Result<Block, Error<R::Error, E>> {
        let mut result = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        result.model.clear();
        let kind = self.layout.kind(unit.tensor);
        match kind {
            _ if self.is_kept(unit.tensor, kind) => self.keep(worker, unit, kind, &mut result)?,
            Kind::Moved(float) if float.has_master() => self.step_master(worker, unit, float, &mut result)?,
            Kind::Moved(float) => self.step(worker, unit, float, &mut result)?,
            Kind::Averaged(float) => self.average(worker, unit, float, &mut result)?,
            Kind::Largest(dtype) => {
                result.master = None;
                worker.blocks.copy_parent(&mut result.model)?;
                for (input, _) in self.plan.taking_part() {
                    for place in worker.blocks.hold(&[Part::Input(input)])? {
                        counter::raise(dtype, &mut result.model, worker.blocks.get(place));
                    }
                }
            }
            Kind::Equal => {}
        }
        Ok(result)
    }

    /// The parent's block, and its master if it has one.
    fn keep<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        kind: Kind,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        worker.blocks.copy_parent(&mut result.model)?;
        let wants_master = matches!(kind, Kind::Moved(float) if float.has_master());
        result.master = if wants_master && self.source.has_master(unit.tensor) {
            let mut master = result.master.take().unwrap_or_default();
            master.clear();
            worker.blocks.copy_master(&mut master)?;
            Some(master)
        } else {
            None
        };
        Ok(())
    }

    fn step<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        float: Float,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        result.master = None;
        worker.parent.clear();
        worker.blocks.copy_parent(&mut worker.parent)?;
        let terms: Vec<Term> = self.moving(unit.tensor).collect();
        let Worker { blocks, sums, parent } = worker;
        add_up(blocks, sums, unit, float, &terms, |range, sums| {
            let parent = elements(parent, range, float.size());
            sum::step(float, parent, sums, self.rate, self.movement_divisor, &mut result.model);
        })
    }

    fn step_master<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        float: Float,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        worker.parent.clear();
        if self.source.has_master(unit.tensor) {
            worker.blocks.copy_master(&mut worker.parent)?;
        } else {
            // The model's buffer is free until the sums are known.
            worker.blocks.copy_parent(&mut result.model)?;
            sum::widen_master(float, &result.model, &mut worker.parent);
            result.model.clear();
        }
        let terms: Vec<Term> = self.moving(unit.tensor).collect();
        let mut master = result.master.take().unwrap_or_default();
        master.clear();
        let Worker { blocks, sums, parent } = worker;
        add_up(blocks, sums, unit, float, &terms, |range, sums| {
            let parent = elements(parent, range, 4);
            let (rate, divisor) = (self.rate, self.movement_divisor);
            sum::step_master(float, parent, sums, rate, divisor, &mut result.model, &mut master);
        })?;
        result.master = Some(master);
        Ok(())
    }

    fn average<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        float: Float,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        result.master = None;
        worker.parent.clear();
        worker.blocks.copy_parent(&mut worker.parent)?;
        let weighed = self.value.iter().enumerate();
        let terms: Vec<Term> =
            weighed.filter_map(|(index, weight)| Some(((*weight)?, Part::Input(index), None))).collect();
        let Worker { blocks, sums, parent } = worker;
        add_up(blocks, sums, unit, float, &terms, |range, sums| {
            let parent = elements(parent, range, float.size());
            sum::mean(float, parent, sums, self.value_divisor, &mut result.model);
        })
    }
}

/// Adds up the terms for every element of the unit and hands the sums to `finish`, run by run.
///
/// Terms that do not fit side by side are added group by group; for each element the order is that of the terms
/// either way.
fn add_up<R: Source, E: StdError>(
    blocks: &mut Blocks<'_, R>,
    sums: &mut Vec<f64>,
    unit: Unit,
    float: Float,
    terms: &[Term],
    mut finish: impl FnMut(Range<usize>, &[f64]),
) -> Result<(), Error<R::Error, E>> {
    let count = unit.len / float.size();
    let mut later = terms;
    while !later.is_empty() {
        let first = later.len() == terms.len();
        let fitting = blocks.fitting(later.iter().map(|(_, input, base)| (*input, *base)));
        let (group, rest) = later.split_at(fitting.clamp(1, later.len()));
        later = rest;
        let last = rest.is_empty();
        // With a single group the sums of one run are enough, and stay in the nearest cache.
        sums.resize(if first && last { count.min(CHUNK) } else { count }, 0.0);

        let parts: Vec<Part> =
            group.iter().flat_map(|(_, input, base)| [Some(*input), *base]).flatten().collect();
        let mut places = blocks.hold(&parts)?.into_iter();
        let mut held = Vec::with_capacity(group.len());
        for (weight, _, base) in group {
            let input = places.next().map_or(&[][..], |place| blocks.get(place));
            let base = base.and_then(|_| places.next()).map(|place| blocks.get(place));
            held.push((*weight, input, base));
        }
        for start in (0..count).step_by(CHUNK) {
            let run = start..count.min(start + CHUNK);
            let place = if first && last { 0..run.len() } else { run.clone() };
            let Some(sums) = sums.get_mut(place) else { continue };
            if first {
                sums.fill(0.0);
            }
            for (weight, input, base) in &held {
                let input = elements(input, run.clone(), float.size());
                match base {
                    Some(base) => {
                        let base = elements(base, run.clone(), float.size());
                        sum::add_difference(float, sums, *weight, input, base);
                    }
                    None => sum::add_value(float, sums, *weight, input),
                }
            }
            if last {
                finish(run, sums);
            }
        }
    }
    Ok(())
}

/// Whether a tensor is marked in a list.
fn is_in(marks: &[bool], tensor: usize) -> bool {
    marks.get(tensor).copied().unwrap_or(false)
}

/// The bytes of a range of elements of `size` bytes each.
fn elements(bytes: &[u8], range: Range<usize>, size: usize) -> &[u8] {
    bytes.get(range.start * size..range.end * size).unwrap_or(&[])
}
