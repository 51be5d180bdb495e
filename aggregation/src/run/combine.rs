//! The second pass: adding up, rounding once, and writing.

use super::blocks::{Blocks, Budget, Worker};
use super::layout::{Kind, Layout, Unit};
use super::rows::{Term, by_rows, elements, pieces};
use super::scan::{Found, Piece, Scan, Tally};
use super::{
    Carried, Error, Part, Progress, Request, RunResult, Sink, Source, Step, Weighing, Written, is_unmoved,
    pool,
};
use crate::kernel::float::Float;
use crate::kernel::order::{Ranking, Statistic};
use crate::kernel::server::Moments;
use crate::kernel::{CHUNK, counter, sum};
use crate::plan::Plan;
use crate::policy::server::Server;
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
    server: Server,
    /// What becomes of movements, and of values.
    combined: Statistic,
    averaged: Statistic,
    /// Per contribution, the weight of its movement; 0 if it has no part.
    movement: Vec<f64>,
    /// Per contribution, the weight of its values; `None` unless they count.
    value: Vec<Option<f64>>,
    /// Persons whom the rule did not leave out.
    persons: Vec<usize>,
    /// Result buffers that can be used again.
    spare: Mutex<Vec<Block>>,
}

/// The result of one unit.
#[derive(Default)]
struct Block {
    model: Vec<u8>,
    /// In the order of [`Carried::ALL`].
    carried: [Option<Vec<u8>>; 3],
}

impl Block {
    /// An empty buffer for what is carried, one that was used before if there is one.
    fn buffer(&mut self, what: Carried) -> Vec<u8> {
        let mut buffer = self.carried.get_mut(what as usize).and_then(Option::take).unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn carry(&mut self, what: Carried, bytes: Option<Vec<u8>>) {
        if let Some(place) = self.carried.get_mut(what as usize) {
            *place = bytes;
        }
    }
}

impl<'a, R: Source> Combine<'a, R> {
    pub(super) fn new(
        request: &Request<'_>,
        source: &'a R,
        layout: &'a Layout<'a>,
        plan: &'a Plan,
        weighing: &Weighing,
    ) -> Self {
        let weights = &weighing.weights;
        let is_left_out = |person: &usize| weights.left_out.contains(person);
        let value = plan.inputs.iter().map(|input| {
            let input = (*input).filter(|input| !is_left_out(&input.person))?;
            Some(weights.value.get(input.person)? / input.leaves?)
        });
        Self {
            source,
            layout,
            plan,
            budget: Budget::new(request, layout),
            rate: request.policy.eta(),
            server: request.policy.optimiser(),
            combined: weights.combined,
            averaged: weights.averaged,
            movement: weighing.movement.clone(),
            value: value.collect(),
            persons: (0..plan.persons.len()).filter(|person| !is_left_out(person)).collect(),
            spare: Mutex::default(),
        }
    }

    /// What each contribution's movement is multiplied by in the end.
    pub(super) fn effective(&self) -> Vec<Option<f64>> {
        let scale = |weight: &f64| match self.combined {
            _ if *weight == 0.0 => Some(0.0),
            Statistic::Mean { divisor } if self.server == Server::Plain => {
                Some(self.rate * (weight / divisor))
            }
            Statistic::Mean { divisor } => Some(weight / divisor),
            _ => None,
        };
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
        let carried = block.carried.each_ref().map(Option::as_deref);
        let written = sink.block(unit.tensor, unit.block, Written { model: &block.model, carried });
        written.map_err(|source| Error::Sink { tensor: self.layout.name(unit.tensor), source })?;
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        Ok(())
    }

    /// Whether a tensor of the result is the parent's for sure.
    fn is_kept(&self, tensor: usize, kind: Kind) -> bool {
        match kind {
            _ if self.plan.persons.is_empty() => true,
            Kind::Moved(_) => {
                // What has momentum moves on by itself.
                let moments = self.server.carries().iter().any(|what| self.source.carries(*what, tensor));
                !moments && self.moving(tensor).next().is_none()
            }
            Kind::Averaged(_) | Kind::Largest(_) => false,
            Kind::Equal => true,
        }
    }

    /// The terms of a tensor's sum of movements, in commit-id order.
    fn moving(&self, tensor: usize) -> impl Iterator<Item = Term> {
        (0..self.movement.len()).filter_map(move |index| self.movement_of(index, tensor))
    }

    /// The term of one contribution's movement, if it has a part in the tensor's.
    fn movement_of(&self, index: usize, tensor: usize) -> Option<Term> {
        let input = (*self.plan.inputs.get(index)?)?;
        let weight = self.movement.get(index).copied().filter(|weight| *weight != 0.0)?;
        let moves = !is_unmoved(self.source, index, input, tensor);
        moves.then_some((weight, Part::Input(index), Some(input.base)))
    }

    /// The term of one contribution's values, if they count.
    fn value_of(&self, index: usize) -> Option<Term> {
        Some(((*self.value.get(index)?)?, Part::Input(index), None))
    }

    /// The terms of each person who was not left out.
    fn rows(&self, term: impl Fn(usize) -> Option<Term>) -> Vec<Vec<Term>> {
        let persons = self.persons.iter().filter_map(|person| self.plan.persons.get(*person));
        persons.map(|person| person.inputs.iter().filter_map(|index| term(*index)).collect()).collect()
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
            Kind::Moved(float) => self.step(worker, unit, float, &mut result)?,
            Kind::Averaged(float) => self.average(worker, unit, float, &mut result)?,
            Kind::Largest(dtype) => {
                result.carried = Default::default();
                worker.blocks.copy_parent(&mut result.model)?;
                for (input, _) in
                    self.plan.taking_part().filter(|(_, input)| self.persons.contains(&input.person))
                {
                    for place in worker.blocks.hold(&[Part::Input(input)])? {
                        counter::raise(dtype, &mut result.model, worker.blocks.get(place));
                    }
                }
            }
            Kind::Equal => {}
        }
        Ok(result)
    }

    /// The parent's block, and what it carries.
    fn keep<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        kind: Kind,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        worker.blocks.copy_parent(&mut result.model)?;
        for what in Carried::ALL {
            let size = match kind {
                Kind::Moved(float) if self.carries(float, what) => Some(float.size()),
                _ => None,
            };
            let kept = match size.filter(|_| self.source.carries(what, unit.tensor)) {
                Some(size) => {
                    let mut kept = result.buffer(what);
                    worker.blocks.copy_carried(what, size, &mut kept)?;
                    Some(kept)
                }
                None => None,
            };
            result.carry(what, kept);
        }
        Ok(())
    }

    /// Whether such a tensor may have this carried.
    fn carries(&self, float: Float, what: Carried) -> bool {
        match what {
            Carried::Master => float.has_master(),
            moment => self.server.carries().contains(&moment),
        }
    }

    /// The step of a `float` tensor: movements to a direction, the direction through the optimiser, and rounding.
    fn step<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        float: Float,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        worker.parent.clear();
        let has_master = float.has_master();
        if !has_master {
            worker.blocks.copy_parent(&mut worker.parent)?;
        } else if self.source.carries(Carried::Master, unit.tensor) {
            worker.blocks.copy_carried(Carried::Master, float.size(), &mut worker.parent)?;
        } else {
            // The model's buffer is free until the sums are known.
            worker.blocks.copy_parent(&mut result.model)?;
            sum::widen_master(float, &result.model, &mut worker.parent);
            result.model.clear();
        }
        for (what, old) in [Carried::Momentum, Carried::Variance].into_iter().zip(&mut worker.moments) {
            old.clear();
            if self.carries(float, what) && self.source.carries(what, unit.tensor) {
                worker.blocks.copy_carried(what, float.size(), old)?;
            }
        }
        let [mut master, mut momentum, mut variance] = Carried::ALL.map(|what| result.buffer(what));
        let model = &mut result.model;
        let Worker { blocks, sums, parent, moments: [old_momentum, old_variance], matrix } = worker;
        let mut finish = |range: Range<usize>, sums: &mut [f64], divisor: f64| {
            let old = Moments {
                momentum: elements(old_momentum, &range, 4),
                variance: elements(old_variance, &range, 4),
            };
            let divisor = self.server.advance(sums, divisor, old, &mut momentum, &mut variance);
            let parent = elements(parent, &range, if has_master { 4 } else { float.size() });
            if has_master {
                sum::step_master(float, parent, sums, self.rate, divisor, model, &mut master);
            } else {
                sum::step(float, parent, sums, self.rate, divisor, model);
            }
        };
        match self.combined {
            Statistic::Mean { divisor } => {
                let terms: Vec<Term> = self.moving(unit.tensor).collect();
                add_up(blocks, sums, unit, float, &terms, |range, sums| finish(range, sums, divisor))?;
            }
            statistic => {
                let rows = self.rows(|index| self.movement_of(index, unit.tensor));
                rank(blocks, sums, matrix, unit, float, &rows, statistic, |range, sums| {
                    finish(range, sums, 1.0);
                })?;
            }
        }
        for (what, bytes) in Carried::ALL.into_iter().zip([master, momentum, variance]) {
            result.carry(what, self.carries(float, what).then_some(bytes));
        }
        Ok(())
    }

    fn average<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        float: Float,
        result: &mut Block,
    ) -> Result<(), Error<R::Error, E>> {
        result.carried = Default::default();
        worker.parent.clear();
        worker.blocks.copy_parent(&mut worker.parent)?;
        let model = &mut result.model;
        let Worker { blocks, sums, parent, matrix, .. } = worker;
        let mut finish = |range: Range<usize>, sums: &mut [f64], divisor: f64| {
            sum::mean(float, elements(parent, &range, float.size()), sums, divisor, model);
        };
        match self.averaged {
            Statistic::Mean { divisor } => {
                let terms: Vec<Term> =
                    (0..self.value.len()).filter_map(|index| self.value_of(index)).collect();
                add_up(blocks, sums, unit, float, &terms, |range, sums| finish(range, sums, divisor))
            }
            statistic => {
                let rows = self.rows(|index| self.value_of(index));
                rank(blocks, sums, matrix, unit, float, &rows, statistic, |range, sums| {
                    finish(range, sums, 1.0);
                })
            }
        }
    }
}

/// Takes the statistic of the rows for every element of the unit and hands it to `finish`.
#[allow(clippy::too_many_arguments, reason = "buffers of the caller's")]
fn rank<R: Source, E: StdError>(
    blocks: &mut Blocks<'_, R>,
    sums: &mut Vec<f64>,
    matrix: &mut Vec<f64>,
    unit: Unit,
    float: Float,
    rows: &[Vec<Term>],
    statistic: Statistic,
    mut finish: impl FnMut(Range<usize>, &mut [f64]),
) -> Result<(), Error<R::Error, E>> {
    let mut ranking = Ranking::new(rows.len(), statistic);
    by_rows(blocks, matrix, unit, float, rows, |range, matrix| {
        sums.resize(range.len(), 0.0);
        ranking.reduce(matrix, sums);
        finish(range, sums);
    })
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
    mut finish: impl FnMut(Range<usize>, &mut [f64]),
) -> Result<(), Error<R::Error, E>> {
    let count = unit.len / float.size();
    if terms.is_empty() {
        sums.resize(count.min(CHUNK), 0.0);
        for run in pieces(count, CHUNK) {
            if let Some(sums) = sums.get_mut(..run.len()) {
                sums.fill(0.0);
                finish(run, sums);
            }
        }
    }
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
                let input = elements(input, &run, float.size());
                match base {
                    Some(base) => {
                        let base = elements(base, &run, float.size());
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
