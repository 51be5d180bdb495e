//! Merging two branches: one model of the heads of both and of what they have in common.
//!
//! With o the model of their nearest common ancestor, a that of the branch merged into (the *first*) and b the other's
//! (the *second*), a *task vector* is what a branch learned: τ₁ = a − o and τ₂ = b − o. [`METHODS`] lists what can be
//! made of them. A merge is a recipe as an aggregate is: the same models by the same method give the same bytes on
//! every machine, with any number of threads.
//!
//! | method | paper | module |
//! |---|---|---|
//! | `linear` | Wortsman et al. 2022 | [`mod@linear`] |
//! | `task` | Ilharco et al. 2023 | [`mod@task`] |
//! | `ties` | Yadav et al. 2023 | [`mod@ties`] |
//! | `dare` | Yu et al. 2024 | [`mod@dare`] |
//!
//! | role | result |
//! |---|---|
//! | `float`, `lora-b` | the method's; 16-bit tensors are merged as their `f32` masters, where there are some |
//! | `batch-norm` | the mean of both, weighed under `linear` |
//! | `counter` | the larger value |
//! | `exact`, `lora-a` | the first's: whoever proposes a merge refuses where they differ |
//!
//! It is a function of any two models of one architecture, so that whatever was decided can be carried out: a
//! coordinate in which a value that the method needs is a NaN or an infinity, or in which none comes out, keeps the
//! first's.

pub mod dare;
pub mod linear;
mod method;
mod pass;
pub mod task;
mod threshold;
pub mod ties;

pub use method::{Entry, METHODS, Method, MethodError};

use crate::kernel;
use crate::run::layout::{Kind, Layout};
use crate::run::{Progress, Sink, TensorError, TensorSpec};
use flair_tensors::id::Digest;
use pass::Pass;
use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;

/// A model that a merge reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The nearest common ancestor's, o.
    Base,
    /// That of the branch merged into, a.
    First,
    /// The other branch's, b.
    Second,
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Base => "the common ancestor",
            Self::First => "the first parent",
            Self::Second => "the second parent",
        })
    }
}

/// Where tensors are read from. All methods may be called from several threads at once.
pub trait Source: Sync {
    /// Why bytes cannot be read.
    type Error: StdError + Send + 'static;

    /// Appends a range of a tensor's raw little-endian bytes to `out`; with `master`, of the `f32` numbers behind it.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read; it ends the run.
    fn read(
        &self,
        side: Side,
        master: bool,
        tensor: usize,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), Self::Error>;

    /// Whether a model's state carries a master of a tensor. Asked of 16-bit float tensors only.
    fn has_master(&self, side: Side, tensor: usize) -> bool;

    /// Whether two models are known to have equal bytes of a tensor, and equal masters. Must not be guessed.
    fn same(&self, one: Side, other: Side, tensor: usize) -> bool {
        let _ = (one, other, tensor);
        false
    }
}

/// The commits that are merged: chance is drawn from their ids, so that nobody has a choice in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parents {
    /// Their nearest common ancestor.
    pub base: Digest,
    /// The head of the branch merged into.
    pub first: Digest,
    /// What is merged into it.
    pub second: Digest,
}

/// What is to be merged, and with what means.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How.
    pub method: &'a Method,
    /// What.
    pub parents: Parents,
    /// The tensors of the models, in the first's file order.
    pub tensors: &'a [TensorSpec],
    /// How many threads may be used; has no influence on the result.
    pub threads: usize,
    /// How many bytes of buffers to keep to, as far as one thread (about 24 MiB) allows; has no influence on the
    /// result.
    pub memory_budget: usize,
}

/// What a merge came to, over the elements of `float` and `lora-b` tensors. For people to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Elements.
    pub elements: u64,
    /// Elements that the first branch, and the second, changed since the common ancestor; 0 under `linear`, which does
    /// not look at it.
    pub changed: [u64; 2],
    /// Those of them whose change the method kept.
    pub kept: [u64; 2],
    /// Elements of which both branches' changes were kept, in opposite directions.
    pub opposed: u64,
    /// Elements that keep the first's value because no number came out.
    pub not_finite: u64,
}

impl Statistics {
    fn add(&mut self, other: Self) {
        self.elements += other.elements;
        let sums = self.changed.iter_mut().chain(&mut self.kept);
        sums.zip(other.changed.iter().chain(&other.kept)).for_each(|(sum, more)| *sum += more);
        self.opposed += other.opposed;
        self.not_finite += other.not_finite;
    }
}

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error<R: StdError + 'static, W: StdError + 'static> {
    /// Bytes could not be read.
    #[error("cannot read tensor '{tensor}' of {side}")]
    Source {
        /// Of which model.
        side: Side,
        /// Of which tensor.
        tensor: String,
        /// Why.
        source: R,
    },
    /// A block could not be written.
    #[error("cannot write tensor '{tensor}' of the merged model")]
    Sink {
        /// Of which tensor.
        tensor: String,
        /// Why.
        source: W,
    },
    /// A tensor is shorter than its shape says.
    #[error("tensor '{tensor}' of {side} has {got} bytes where {expected} belong")]
    Length {
        /// Of which model.
        side: Side,
        /// Of which tensor.
        tensor: String,
        /// How many bytes there should be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// The tensors cannot be merged as declared.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The processor mode would change the result.
    #[error(
        "this thread flushes subnormal numbers to zero, which would change the result; run it in a process that leaves the floating-point mode alone"
    )]
    FlushToZero,
}

/// Short for the result of a run over these two ends.
type MergeResult<T, R, W> = Result<T, Error<<R as Source>::Error, <W as Sink>::Error>>;

/// Merges two models: f(base, first, second, method) → model and masters.
///
/// Blocks go to the sink as an aggregate's do; of what is carried only masters are written, of 16-bit tensors that are
/// not the first's as they are.
///
/// # Errors
/// A tensor that cannot be merged as declared, or the first failure of the source or the sink.
pub fn merge<R: Source, W: Sink>(
    request: &Request<'_>,
    source: &R,
    sink: &mut W,
    progress: &dyn Fn(Progress),
) -> MergeResult<Statistics, R, W> {
    if !kernel::keeps_subnormals() {
        return Err(Error::FlushToZero);
    }
    let layout = Layout::new(request.tensors)?;
    let trim = match request.method.rule().density() {
        Some(density) => threshold::find(request, source, &layout, density, progress)?,
        None => [0.0; 2],
    };
    Pass::new(request, source, &layout, trim).run(sink, progress)
}

/// Whether a tensor of the result is the first's for sure.
fn is_kept<R: Source>(request: &Request<'_>, source: &R, tensor: usize, kind: Kind) -> bool {
    let same = |one, other| source.same(one, other, tensor);
    match kind {
        Kind::Moved(_) => {
            same(Side::First, Side::Second)
                && (!request.method.rule().looks_at_base() || same(Side::First, Side::Base))
        }
        Kind::Averaged(_) | Kind::Largest(_) => same(Side::First, Side::Second),
        Kind::Equal => true,
    }
}
