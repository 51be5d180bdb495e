//! What training changed: measured, and with noise in it.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use flair_aggregation::kernel::CHUNK;
use flair_aggregation::kernel::float::Float;
use flair_aggregation::kernel::norm::{Tree, squared_gap};
use flair_aggregation::privacy::{Gaussian, Noise, RUN};
use flair_protocol::id::TensorId;
use flair_protocol::model::Manifest;
use flair_tensors::block;
use flair_tensors::line::in_order;
use flair_tensors::role::Role;

use crate::api::types::Problem;
use crate::folder::layout::{Layout, Local};
use crate::store::{Source, Store};

/// Scaling down by so much makes up for rounding that took a norm past the bound.
const LESS: f64 = 1.0 - 1e-12;
/// Tries at that: the first is enough but for rounding.
const TRIES: usize = 20;

/// The change from a model in the store to the trained files of a folder, in all tensors that are noised.
#[derive(Debug)]
pub struct Change {
    store: Store,
    local: Arc<Local>,
    rows: Vec<Row>,
    threads: NonZeroUsize,
}

/// One tensor of the model.
#[derive(Debug)]
struct Row {
    /// As the model has it.
    base: TensorId,
    length: u64,
    /// What is noised of it; none for a tensor that stays as it is.
    noised: Option<Noising>,
}

#[derive(Debug)]
struct Noising {
    /// The float format of the model's tensor.
    float: Float,
    /// That of the file's.
    trained: Float,
    /// File, and place in its header.
    place: (usize, usize),
    /// The number of its first run of noise: no two tensors share one.
    run: u64,
}

/// Buffers of a thread.
#[derive(Default)]
struct Buffers<T> {
    base: Vec<u8>,
    trained: Vec<u8>,
    bases: Vec<f64>,
    news: Vec<f64>,
    found: T,
}

/// Whether a tensor of this role and type is noised: all floats that an aggregate averages as weights. What must stay
/// equal (`exact`, `local`, `lora-a`), counters and running statistics keep the value that is published already.
pub fn is_noised(role: Role, float: Option<Float>) -> bool {
    float.is_some() && role.is_moved()
}

impl Change {
    /// From the model `from` to the files that `layout` matched to it.
    ///
    /// # Errors
    /// Files that do not hold a tensor, or hold it in a type that is no float.
    pub fn new(
        store: Store,
        threads: NonZeroUsize,
        from: &Manifest,
        local: Arc<Local>,
        layout: &Layout,
    ) -> Result<Self, Problem> {
        let mut runs = 0;
        let mut rows = Vec::new();
        for (position, tensor) in from.tensors().enumerate() {
            let float = Float::of(tensor.dtype);
            let mut row = Row { base: tensor.tensor, length: tensor.length, noised: None };
            if let Some(float) = float.filter(|float| is_noised(tensor.role, Some(*float))) {
                let missing = || Problem::internal(format!("`{}` has no place in the files", tensor.name));
                let place = layout.place(position).ok_or_else(missing)?;
                let file = local.files().get(place.0).ok_or_else(missing)?;
                let dtype = file.header().tensors().get(place.1).ok_or_else(missing)?.dtype;
                let trained = Float::of(dtype).ok_or_else(missing)?;
                row.noised = Some(Noising { float, trained, place, run: runs });
                runs += (tensor.length / float.size() as u64).div_ceil(RUN as u64);
            }
            rows.push(row);
        }
        Ok(Self { store, local, rows, threads })
    }

    /// The change's L2 norm, in `f64` with sums in the fixed shape that norms have everywhere.
    ///
    /// # Errors
    /// A file or the store that can't be read.
    pub fn norm(&self) -> Result<f64, Problem> {
        let total = self.over(
            0.0,
            |base, trained, sum: &mut Tree| sum.push(squared_gap(trained, base)),
            |total, sum| *total += sum.take(),
        )?;
        Ok(total.sqrt())
    }

    /// By what the change is multiplied so that, in steps of the mechanism's grid, it is within its bound: checked in
    /// integers.
    ///
    /// # Errors
    /// As [`norm`](Self::norm).
    pub fn factor(&self, gaussian: Gaussian, norm: f64) -> Result<f64, Problem> {
        let mut factor = gaussian.factor(norm);
        for _ in 0..TRIES {
            let sum = self.over(
                0u128,
                |base, trained, sum: &mut u128| {
                    *sum = sum.saturating_add(gaussian.squares(base, trained, factor));
                },
                |total, sum| *total = total.saturating_add(std::mem::take(sum)),
            )?;
            if sum <= gaussian.most() {
                return Ok(factor);
            }
            factor *= LESS;
        }
        Err(Problem::internal("the change could not be clipped: its numbers are too far apart"))
    }

    /// Takes all runs of [`CHUNK`] coordinates through `measure`, block by block on all threads; what it made of a block
    /// is added up in order.
    fn over<S: Default, T: Send>(
        &self,
        total: T,
        measure: impl Fn(&[f64], &[f64], &mut S) + Sync,
        add: impl Fn(&mut T, &mut S) + Sync,
    ) -> Result<T, Problem> {
        let mut firsts = Vec::new();
        let mut count = 0;
        for row in self.rows.iter().filter_map(|row| Some((row, row.noised.as_ref()?))) {
            firsts.push((count, row));
            count += block::blocks(row.0.length);
        }
        in_order(
            self.threads,
            count,
            total,
            |index, own: &mut Buffers<S>| {
                let place = firsts.partition_point(|(first, _)| *first <= index).saturating_sub(1);
                let Some((first, (row, noising))) = firsts.get(place) else { return Ok(()) };
                let range = block::range(row.length, index - first);
                own.base.resize((range.end - range.start) as usize, 0);
                self.store.tensor(row.base)?.read(range.start, &mut own.base)?;
                self.trained(noising, range.start, own.base.len(), &mut own.trained)?;
                let olds = own.base.chunks(CHUNK * noising.float.size());
                let news = own.trained.chunks(CHUNK * noising.trained.size());
                for (old, new) in olds.zip(news) {
                    own.bases.clear();
                    own.news.clear();
                    noising.float.widen_into(old, &mut own.bases);
                    noising.trained.widen_into(new, &mut own.news);
                    measure(&own.bases, &own.news, &mut own.found);
                }
                Ok::<_, Problem>(())
            },
            |total, _, own| {
                add(total, &mut own.found);
                Ok(())
            },
        )
    }

    /// The file's bytes for `length` bytes of the model's tensor from `start` on.
    fn trained(
        &self,
        noising: &Noising,
        start: u64,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        let (size, own) = (noising.float.size(), noising.trained.size());
        out.resize(length / size * own, 0);
        let (file, place) = noising.place;
        let file = self.local.files().get(file).ok_or_else(|| Problem::internal("a file is not open"))?;
        Ok(file.read(place, start / size as u64 * own as u64, out)?)
    }
}

/// The model with the clipped and noised change: what a draft is packed from.
#[derive(Debug)]
pub struct Noised {
    change: Change,
    gaussian: Gaussian,
    factor: f64,
    noise: Noise,
}

impl Noised {
    /// The change, multiplied by `factor`, with this noise.
    pub fn new(change: Change, gaussian: Gaussian, factor: f64, noise: Noise) -> Self {
        Self { change, gaussian, factor, noise }
    }

    fn fill(&self, row: &Row, noising: &Noising, offset: u64, out: &mut [u8]) -> Result<(), Problem> {
        let size = noising.float.size();
        let mut trained = Vec::new();
        self.change.store.tensor(row.base)?.read(offset, out)?;
        self.change.trained(noising, offset, out.len(), &mut trained)?;
        let (mut bases, mut news, mut draws, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut at = offset / size as u64;
        let (mut rest, mut from) = (out, trained.as_slice());
        while rest.len() >= size {
            let (run, skip) = (at / RUN as u64, (at % RUN as u64) as usize);
            let count = (RUN - skip).min(rest.len() / size);
            let (piece, later) = rest.split_at_mut(count * size);
            let (new, others) = from.split_at(count * noising.trained.size());
            bases.clear();
            news.clear();
            bytes.clear();
            noising.float.widen_into(piece, &mut bases);
            noising.trained.widen_into(new, &mut news);
            self.noise.run(noising.run + run, skip + count, &mut draws);
            let draws = draws.get(skip..).unwrap_or_default();
            self.gaussian.release(&mut bases, &news, self.factor, draws);
            noising.float.round_into(&bases, &mut bytes);
            piece.copy_from_slice(&bytes);
            at += count as u64;
            (rest, from) = (later, others);
        }
        Ok(())
    }
}

impl Source for Noised {
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let row = self.change.rows.get(tensor);
        let row = row.ok_or_else(|| io::Error::other(format!("no tensor {tensor}")))?;
        match &row.noised {
            Some(noising) => self.fill(row, noising, offset, out).map_err(io::Error::other),
            None => self
                .change
                .store
                .tensor(row.base)
                .and_then(|reader| reader.read(offset, out))
                .map_err(io::Error::other),
        }
    }
}
