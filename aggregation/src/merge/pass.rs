//! The pass that merges: three models in, one out, a block at a time.

use super::linear::mean;
use super::method::Values3;
use super::{Error, Parents, Request, Side, Source, Statistics, is_kept};
use crate::kernel::float::{BF16, F16, F32, Float, Format};
use crate::kernel::{CHUNK, counter, keeps_subnormals};
use crate::run::layout::{Kind, Layout, Unit};
use crate::run::pool::AHEAD;
use crate::run::{Progress, Sink, Step, Written, pool};
use flair_tensors::block::BLOCK;
use std::error::Error as StdError;
use std::ops::Range;

/// Blocks of memory that a thread may take: three models' values (twice as long as masters), a result with its master,
/// and as much for each that waits to be taken.
const BLOCKS: usize = 6 + 3 * (1 + AHEAD);

/// As many of the threads asked for as the memory feeds, and at least one.
pub(super) fn workers(request: &Request<'_>) -> usize {
    request.threads.min(request.memory_budget / (BLOCKS * BLOCK)).max(1)
}

/// Where a run of elements is, for rules to which that matters.
pub(crate) struct Place<'a> {
    pub(crate) parents: Parents,
    pub(crate) tensor: &'a str,
    /// Its first element's number.
    pub(crate) start: usize,
    /// The least change of either branch that counts.
    pub(crate) trim: [f64; 2],
}

/// The magnitudes of both changes, as bits; 0 where one of the three values is no number.
pub(super) fn change_bits(base: f64, first: f64, second: f64) -> [u64; 2] {
    let sound = base.is_finite() && first.is_finite() && second.is_finite();
    [first - base, second - base].map(|change| if sound { change.abs().to_bits() } else { 0 })
}

/// What a thread reads.
pub(super) struct Reader<'a, R> {
    source: &'a R,
    layout: &'a Layout<'a>,
    looks_at_base: bool,
    unit: Unit,
    float: Float,
    /// Of base, first and second: their elements' bytes, and whether these are masters.
    bytes: [(Vec<u8>, bool); 3],
    numbers: [Vec<f64>; 3],
}

impl<'a, R: Source> Reader<'a, R> {
    /// A reader for the thread that calls, once it is sure of the thread's processor mode.
    pub(super) fn fresh<E: StdError>(
        request: &Request<'_>,
        source: &'a R,
        layout: &'a Layout<'a>,
    ) -> Result<Self, Error<R::Error, E>> {
        if !keeps_subnormals() {
            return Err(Error::FlushToZero);
        }
        let unit = Unit { tensor: 0, block: 0, len: 0 };
        let looks_at_base = request.method.rule().looks_at_base();
        let (bytes, numbers) = Default::default();
        Ok(Self { source, layout, looks_at_base, unit, float: Float::F32, bytes, numbers })
    }

    /// Reads a unit's elements in all models that matter; masters where there are some, if wanted.
    pub(super) fn turn_to<E: StdError>(
        &mut self,
        unit: Unit,
        float: Float,
        masters: bool,
    ) -> Result<(), Error<R::Error, E>> {
        (self.unit, self.float) = (unit, float);
        for side in [Side::Base, Side::First, Side::Second] {
            let (mut bytes, _) = std::mem::take(&mut self.bytes[side as usize]);
            bytes.clear();
            let master = masters && float.has_master() && self.source.has_master(side, unit.tensor);
            if side != Side::Base || self.looks_at_base {
                self.read(side, master, &mut bytes)?;
            }
            self.bytes[side as usize] = (bytes, master);
        }
        Ok(())
    }

    /// Appends the unit's bytes in one model to `out`.
    fn read<E: StdError>(
        &self,
        side: Side,
        master: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Error<R::Error, E>> {
        // A 16-bit tensor's master has two bytes for one.
        let wide = if master { 2 } else { 1 };
        let (start, expected) = (self.unit.block * BLOCK * wide, self.unit.len * wide);
        let before = out.len();
        let tensor = || self.layout.name(self.unit.tensor);
        let range = start as u64..(start + expected) as u64;
        let read = self.source.read(side, master, self.unit.tensor, range, out);
        read.map_err(|source| Error::Source { side, tensor: tensor(), source })?;
        let got = out.len().saturating_sub(before);
        if got == expected { Ok(()) } else { Err(Error::Length { side, tensor: tensor(), expected, got }) }
    }

    /// Runs of the unit's elements.
    pub(super) fn runs(&self, width: usize) -> impl Iterator<Item = Range<usize>> + use<R> {
        let count = self.unit.len / self.float.size();
        (0..count).step_by(width).map(move |start| start..count.min(start + width))
    }

    /// The values of a run.
    pub(super) fn values(&mut self, run: Range<usize>) -> Values3<'_> {
        for ((bytes, master), numbers) in self.bytes.iter().zip(&mut self.numbers) {
            let float = if *master { Float::F32 } else { self.float };
            numbers.clear();
            let range = run.start * float.size()..run.end * float.size();
            float.widen_into(bytes.get(range).unwrap_or(&[]), numbers);
        }
        let [base, first, second] = &self.numbers;
        Values3 { base: if self.looks_at_base { base } else { first }, first, second }
    }
}

/// The result of one unit.
#[derive(Default)]
struct Block {
    model: Vec<u8>,
    master: Option<Vec<u8>>,
    found: Statistics,
}

/// The pass.
pub(super) struct Pass<'a, R> {
    request: &'a Request<'a>,
    source: &'a R,
    layout: &'a Layout<'a>,
    trim: [f64; 2],
}

impl<'a, R: Source> Pass<'a, R> {
    pub(super) fn new(
        request: &'a Request<'a>,
        source: &'a R,
        layout: &'a Layout<'a>,
        trim: [f64; 2],
    ) -> Self {
        Self { request, source, layout, trim }
    }

    pub(super) fn run<W: Sink>(
        &self,
        sink: &mut W,
        progress: &dyn Fn(Progress),
    ) -> Result<Statistics, Error<R::Error, W::Error>> {
        let mut found = Statistics::default();
        let mut wanted = Vec::with_capacity(self.layout.tensors.len());
        for (index, tensor) in self.layout.tensors.iter().enumerate() {
            if let Kind::Moved(float) = tensor.kind {
                found.elements += (tensor.bytes / float.size()) as u64;
            }
            let kept = self.is_kept(index, tensor.kind);
            let answer = sink.start(index, kept);
            wanted.push(answer.map_err(|source| Error::Sink { tensor: self.layout.name(index), source })?);
        }
        let units = self.layout.units(|tensor, _| wanted.get(tensor).copied().unwrap_or(false));
        let total = units.iter().map(|unit| unit.len as u64).sum();
        let mut done = 0;
        let setup = || Reader::fresh(self.request, self.source, self.layout);
        let work = |reader: &mut Reader<'_, R>, index: usize| match units.get(index) {
            Some(unit) => self.merge(reader, *unit),
            None => Ok(Block::default()),
        };
        let take = |index: usize, block: Block| {
            let Some(unit) = units.get(index) else { return Ok(()) };
            let written = Written { model: &block.model, carried: [block.master.as_deref(), None, None] };
            let taken = sink.block(unit.tensor, unit.block, written);
            taken.map_err(|source| Error::Sink { tensor: self.layout.name(unit.tensor), source })?;
            found.add(block.found);
            done += unit.len as u64;
            progress(Progress { step: Step::Combine, done, total });
            Ok(())
        };
        pool::ordered(workers(self.request), units.len(), setup, work, take)?;
        Ok(found)
    }

    fn is_kept(&self, tensor: usize, kind: Kind) -> bool {
        is_kept(self.request, self.source, tensor, kind)
    }

    fn merge<E: StdError>(
        &self,
        reader: &mut Reader<'_, R>,
        unit: Unit,
    ) -> Result<Block, Error<R::Error, E>> {
        let mut block = Block::default();
        let kind = self.layout.kind(unit.tensor);
        match kind {
            Kind::Moved(float) if !self.is_kept(unit.tensor, kind) => {
                reader.turn_to(unit, float, true)?;
                self.combine(reader, unit, float, &mut block);
            }
            Kind::Averaged(float) if !self.is_kept(unit.tensor, kind) => {
                reader.turn_to(unit, float, false)?;
                let weight = self.request.method.rule().weight();
                let mut values = Vec::with_capacity(CHUNK);
                for run in reader.runs(CHUNK) {
                    values.clear();
                    values.extend(reader.values(run).each().map(|(_, first, second)| {
                        let value = mean(weight, first, second);
                        let sound = first.is_finite() && second.is_finite();
                        if sound && !value.is_nan() { value } else { first }
                    }));
                    float.round_into(&values, &mut block.model);
                }
            }
            _ => {
                reader.unit = unit;
                reader.read(Side::First, false, &mut block.model)?;
                match kind {
                    Kind::Largest(dtype) => {
                        let mut other = Vec::new();
                        reader.read(Side::Second, false, &mut other)?;
                        counter::raise(dtype, &mut block.model, &other);
                    }
                    Kind::Moved(float)
                        if float.has_master() && self.source.has_master(Side::First, unit.tensor) =>
                    {
                        reader.read(Side::First, true, block.master.insert(Vec::new()))?;
                    }
                    _ => {}
                }
            }
        }
        Ok(block)
    }

    /// Merges a unit of a `float` tensor.
    fn combine(&self, reader: &mut Reader<'_, R>, unit: Unit, float: Float, block: &mut Block) {
        let rule = self.request.method.rule();
        let name = self.layout.name(unit.tensor);
        let before = unit.block * BLOCK / float.size();
        let (mut merged, mut master) = (vec![0.0; CHUNK], Vec::new());
        for run in reader.runs(CHUNK) {
            let place = Place {
                parents: self.request.parents,
                tensor: &name,
                start: before + run.start,
                trim: self.trim,
            };
            let values = reader.values(run);
            merged.resize(values.first.len(), 0.0);
            rule.merge(&place, values, &mut merged, &mut block.found);
            for (merged, (base, first, second)) in merged.iter_mut().zip(values.each()) {
                let sound = base.is_finite() && first.is_finite() && second.is_finite();
                if !sound || merged.is_nan() {
                    *merged = first;
                    block.found.not_finite += 1;
                }
            }
            match float {
                Float::F16 => with_master::<F16>(&merged, &mut block.model, &mut master),
                Float::BF16 => with_master::<BF16>(&merged, &mut block.model, &mut master),
                Float::F32 | Float::F64 => float.round_into(&merged, &mut block.model),
            }
        }
        block.master = float.has_master().then_some(master);
    }
}

/// Rounds values to masters held within the 16-bit range, and these to 16 bits, as an aggregate does.
fn with_master<F: Format<2>>(values: &[f64], model: &mut Vec<u8>, master: &mut Vec<u8>) {
    for value in values {
        let rounded = F32::round(value.clamp(-F::MAX, F::MAX));
        master.extend_from_slice(&rounded);
        model.extend_from_slice(&F::round(F32::widen(rounded)));
    }
}
