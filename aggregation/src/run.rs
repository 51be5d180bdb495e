//! Carrying out an aggregate: a recipe's inputs are read block by block and its result is written block by block.
//!
//! There are two passes over the tensors. The first looks at every input: is it sound, and how far did its person
//! move? The second adds up (or takes medians) and rounds. Both cut their work into (tensor, block) units that any
//! number of threads may take; nothing about the result depends on who takes which. As the first pass rarely finds
//! anything, both are made in one where the sink can take back what it was given ([`Sink::REWINDS`]) and the rule
//! needs nothing of what is measured. Rules that compare persons have a pass of their own in between, which measures
//! how far they are apart.
//!
//! Memory is bounded by the request's budget however large the model and however many the inputs: inputs that do
//! not fit side by side are read in groups, in the same order.

mod apart;
mod blocks;
mod combine;
pub(crate) mod layout;
pub(crate) mod pool;
mod rows;
mod scan;

use crate::kernel;
use crate::plan::{Contribution, From, Input, Person, Plan, Skip};
use crate::policy::{Distances, Need, Policy, Standing, Weights};
use apart::Apart;
use combine::Combine;
use flair_tensors::dtype::DType;
use flair_tensors::id::{Digest, TensorId};
use flair_tensors::role::Role;
use layout::Layout;
use scan::{Found, Scan};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

/// A tensor of the branch's architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions; empty for a single number.
    pub shape: Vec<u64>,
    /// What an aggregate does with it.
    pub role: Role,
}

/// What is to be computed, and with what means.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How contributions are weighed.
    pub policy: &'a Policy,
    /// How many persons an aggregate waits for (K in FedBuff).
    pub every: u32,
    /// The inputs, ascending by commit id, each once.
    pub contributions: &'a [Contribution],
    /// The tensors of the model, in file order.
    pub tensors: &'a [TensorSpec],
    /// The [`Outcome::norms`] of the last aggregates on the path, oldest first.
    pub history: &'a [Vec<f64>],
    /// How many threads may be used; has no influence on the result.
    pub threads: usize,
    /// How many bytes of buffers to keep to, as far as one thread with a handful of blocks (about 16 MiB) allows;
    /// has no influence on the result.
    pub memory_budget: usize,
}

/// What an aggregate carries forward for a tensor beside its values: `f32` numbers, one an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carried {
    /// The values behind a 16-bit tensor.
    Master,
    /// The first moments of the server's optimiser.
    Momentum,
    /// The second moments of the server's optimiser.
    Variance,
}

impl Carried {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Master, Self::Momentum, Self::Variance];
}

impl fmt::Display for Carried {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Master => "master",
            Self::Momentum => "momentum",
            Self::Variance => "variance",
        })
    }
}

/// A model that takes part in an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The model of the commit that the aggregate stands on.
    Parent,
    /// What the parent's state carries.
    Carried(Carried),
    /// The model of the contribution with this index.
    Input(usize),
    /// The model that the contribution with this index was trained from.
    Base(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent => formatter.write_str("the parent"),
            Self::Carried(what) => write!(formatter, "the parent's {what}"),
            Self::Input(index) => write!(formatter, "input {index}"),
            Self::Base(index) => write!(formatter, "the base of input {index}"),
        }
    }
}

/// Where tensors are read from. All methods may be called from several threads at once.
pub trait Source: Sync {
    /// Why a block cannot be read.
    type Error: StdError + Send + 'static;

    /// Appends one block of a tensor's raw little-endian bytes to `out`.
    ///
    /// Blocks are [`flair_tensors::block::BLOCK`] bytes of *that part's* tensor, the last one shorter: what is carried
    /// has twice the blocks of its tensor if that has 16 bits, and half of them if it has 64, give or take the last.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read; it ends the run. Bytes known to be wrong are reported by
    /// [`Source::faulty`] instead, before the run begins.
    fn block(&self, part: Part, tensor: usize, block: usize, out: &mut Vec<u8>) -> Result<(), Self::Error>;

    /// The id of a part's tensor, where it is known: what is equal is then read once. Must not be guessed.
    fn id(&self, part: Part, tensor: usize) -> Option<TensorId> {
        let _ = (part, tensor);
        None
    }

    /// Whether an input's tensor equals its base's (by their ids). It then moves nothing and is not read.
    fn same(&self, input: usize, tensor: usize) -> bool {
        let id = self.id(Part::Input(input), tensor);
        id.is_some() && id == self.id(Part::Base(input), tensor)
    }

    /// What is already known to be wrong with an input's bytes, if anything.
    fn faulty(&self, input: usize) -> Option<String> {
        let _ = input;
        None
    }

    /// Whether the parent's state carries this of a tensor. Masters are asked for of 16-bit float tensors only; where
    /// there is none, the parent's values are widened. Moments are asked for if the policy's optimiser has them
    /// ([`Policy::server`]), and must be that optimiser's; where there are none, it begins.
    fn carries(&self, what: Carried, tensor: usize) -> bool;
}

/// Where a result is written to.
pub trait Sink {
    /// Why a block cannot be written.
    type Error: StdError + Send + 'static;

    /// Whether the sink can take back everything it was given. If it can, the two passes are made in one, in the
    /// hope that no input is faulty and none has to be shortened; if that fails, the sink is rewound and the
    /// result is computed anew. It is the same either way.
    const REWINDS: bool = false;

    /// Forgets everything it was given since the run began; [`Sink::start`] will be called again for every tensor.
    /// Only called where [`Sink::REWINDS`] is true.
    ///
    /// # Errors
    /// Whatever keeps the sink from doing so; it ends the run.
    fn rewind(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Called once per tensor in file order, before the first block; says whether the tensor's blocks are wanted.
    ///
    /// `kept` tells that the tensor (and all that is carried for it under this policy) is the parent's, so that a sink that can refer
    /// to the parent's need not be given the bytes. A sink that was interrupted declines what it already holds.
    ///
    /// # Errors
    /// Whatever keeps the sink from taking the tensor; it ends the run.
    fn start(&mut self, tensor: usize, kept: bool) -> Result<bool, Self::Error> {
        let _ = (tensor, kept);
        Ok(true)
    }

    /// Takes the next block: tensors ascending, and blocks ascending within them.
    ///
    /// # Errors
    /// Whatever keeps the sink from taking the block; it ends the run.
    fn block(&mut self, tensor: usize, block: usize, written: Written<'_>) -> Result<(), Self::Error>;
}

/// One block of a result, with what is carried for its elements.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// One block of the tensor.
    pub model: &'a [u8],
    /// `f32` numbers of the same elements (so up to two blocks), in the order of [`Carried::ALL`]: the master for
    /// 16-bit float tensors that have ever moved; moments for float tensors that have moved under an optimiser.
    pub carried: [Option<&'a [u8]>; 3],
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// How many bytes of the model this step has been through.
    pub done: u64,
    /// How many it has to go through.
    pub total: u64,
}

/// The steps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looking for faults and measuring movements.
    Check,
    /// Measuring how far persons are apart, for rules that compare them.
    Compare,
    /// Adding up and writing the result. Starts over if it was begun in the hope that nothing is found.
    Combine,
}

/// What a run found, beside the tensors it wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The contributions without part in the result, ascending, and why: faulty ones, and those of persons whom the
    /// rule left out.
    pub skipped: Vec<(usize, Skip)>,
    /// The persons who took part, ascending by id.
    pub persons: Vec<Mover>,
    /// The norms of their movements before any shortening, in the same order: what the next aggregates' history
    /// holds of this one.
    pub norms: Vec<f64>,
    /// Per contribution, what its movement was multiplied by in the end (before the server's optimiser, if there is
    /// one); 0 for skipped ones, and `None` where every coordinate was decided by itself. For people to read.
    pub weights: Vec<Option<f64>>,
    /// How many dishonest persons the rule withstands among those who took part; `None` for rules that promise
    /// nothing of the kind. For people to read.
    pub withstands: Option<usize>,
}

/// A person who took part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mover {
    /// Who.
    pub person: Digest,
    /// How far the person's updates together moved the `float` tensors (Euclidean norm).
    pub norm: f64,
    /// What the movement was multiplied by to keep within the policy's limit; 1 if it was within.
    pub shortened: f64,
    /// Whether the rule left the person out in favour of others.
    pub left_out: bool,
}

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error<R: StdError + 'static, W: StdError + 'static> {
    /// A block could not be read.
    #[error("cannot read tensor '{tensor}' of {part}")]
    Source {
        /// Of which model.
        part: Part,
        /// Of which tensor.
        tensor: String,
        /// Why.
        source: R,
    },
    /// A block could not be written.
    #[error("cannot write tensor '{tensor}' of the result")]
    Sink {
        /// Of which tensor.
        tensor: String,
        /// Why.
        source: W,
    },
    /// A block has the wrong length.
    #[error("block {block} of tensor '{tensor}' of {part} has {got} bytes where {expected} belong")]
    Length {
        /// Of which model.
        part: Part,
        /// Of which tensor.
        tensor: String,
        /// Which block.
        block: usize,
        /// How many bytes it should have.
        expected: usize,
        /// How many it has.
        got: usize,
    },
    /// The tensors cannot be aggregated as declared.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The contributions are not in order.
    #[error(
        "contributions must be given in ascending order of their commit ids, each once; {0} is out of place"
    )]
    Order(Digest),
    /// The processor mode would change the result.
    #[error(
        "this thread flushes subnormal numbers to zero, which would change the result; run it in a process that leaves the floating-point mode alone"
    )]
    FlushToZero,
}

/// What is wrong with a declared tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The role needs numbers of another type.
    #[error("tensor '{tensor}' has type {dtype}, which the role {role} cannot have; declare it 'exact'")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// Its role.
        role: Role,
    },
    /// The shape has more elements than can be counted.
    #[error("tensor '{tensor}' has a shape that is too large")]
    Size {
        /// The tensor.
        tensor: String,
    },
}

/// Short for the result of a run over these two ends.
pub(crate) type RunResult<T, R, W> = Result<T, Error<<R as Source>::Error, <W as Sink>::Error>>;

/// Computes an aggregate: f(parent's model and state, inputs, policy) → (model, state, skipped).
///
/// The same request over the same tensors gives the same bytes and the same outcome on every machine. If nothing
/// takes part, the result is the parent bit for bit.
///
/// | role | result |
/// |---|---|
/// | `float`, `lora-b` | the policy's step from the parent; 16-bit tensors step on their `f32` master |
/// | `batch-norm` | the weighted mean of the persons' values, or for robust rules a statistic of them |
/// | `counter` | the largest value among the parent's and the inputs' |
/// | `exact`, `local`, `lora-a` | the parent's value; an input that differs is skipped |
///
/// Of a low-rank pair one factor, A, is the same for everybody, so a mean of the other, B, is the mean of the products BA
/// (Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024). Means of both would not be.
///
/// # Errors
/// A tensor that cannot be aggregated as declared, contributions out of order, or the first failure of the source
/// or the sink. What a *contribution* holds never ends a run.
pub fn aggregate<R: Source, W: Sink>(
    request: &Request<'_>,
    source: &R,
    sink: &mut W,
    progress: &dyn Fn(Progress),
) -> RunResult<Outcome, R, W> {
    if !kernel::keeps_subnormals() {
        return Err(Error::FlushToZero);
    }
    let layout = Layout::new(request.tensors)?;
    let neighbours = request.contributions.iter().zip(request.contributions.iter().skip(1));
    if let Some((_, second)) = neighbours.into_iter().find(|(first, second)| first.commit >= second.commit) {
        return Err(Error::Order(second.commit));
    }

    let mut skipped: BTreeMap<usize, Skip> = (0..request.contributions.len())
        .filter_map(|index| Some((index, Skip::Faulty(source.faulty(index)?))))
        .collect();
    let plan = Plan::new(request.contributions, from(request.policy), &mut skipped);
    let everybody: Vec<usize> = (0..plan.persons.len()).collect();
    let scan = Scan::new(request, source, &layout, &plan, &everybody);
    let limit = request.policy.limit(request.history);
    let found = if W::REWINDS && request.policy.needs() == Need::Nothing {
        let unmeasured =
            Weighing::new(request, &plan, &Shortened::new(request, &plan, &[], None), &Distances::default());
        let combine = Combine::new(request, source, &layout, &plan, &unmeasured);
        let found = combine.run_hopefully(&scan, sink, progress)?;
        let shortened = Shortened::new(request, &plan, &found.norms, limit);
        if found.faults.is_empty() && !shortened.any() {
            let weighing = Weighing::new(request, &plan, &shortened, &Distances::default());
            return Ok(weighing.outcome(request, &plan, skipped, found.norms, &combine));
        }
        sink.rewind().map_err(|source| Error::Sink { tensor: layout.name(0), source })?;
        found
    } else {
        scan.run(progress)?
    };

    let (plan, norms) = settle(request, source, &layout, &plan, found, &mut skipped, progress)?;
    let shortened = Shortened::new(request, &plan, &norms, limit);
    let distances = match request.policy.needs() {
        Need::Distances => Apart::new(request, source, &layout, &plan, &shortened).run(progress)?,
        Need::Nothing | Need::Lengths => Distances::default(),
    };
    let weighing = Weighing::new(request, &plan, &shortened, &distances);
    let combine = Combine::new(request, source, &layout, &plan, &weighing);
    combine.run(sink, progress)?;
    Ok(weighing.outcome(request, &plan, skipped, norms, &combine))
}

/// What movements are measured from under this policy.
fn from(policy: &Policy) -> From {
    if policy.mixes() { From::Parent } else { From::Base }
}

/// Whether an input's tensor is what its movement is measured from, by their ids: it then moves nothing.
fn is_unmoved<R: Source>(source: &R, index: usize, input: Input, tensor: usize) -> bool {
    match input.base {
        Part::Parent => {
            let id = source.id(Part::Input(index), tensor);
            id.is_some() && id == source.id(Part::Parent, tensor)
        }
        _ => source.same(index, tensor),
    }
}

/// The persons who take part, kept within the policy's limit.
struct Shortened {
    standings: Vec<Standing>,
    persons: Vec<Mover>,
    /// s(τ) of each person.
    discounts: Vec<f64>,
}

impl Shortened {
    /// Persons whose movements have these norms; without norms, nobody is shortened.
    fn new(request: &Request<'_>, plan: &Plan, norms: &[f64], limit: Option<f64>) -> Self {
        let mover = |(index, person): (usize, &Person)| {
            let norm = norms.get(index).copied().unwrap_or(0.0);
            let shortened = limit.filter(|limit| *limit < norm).map_or(1.0, |limit| limit / norm);
            Mover { person: person.id, norm, shortened, left_out: false }
        };
        let standings: Vec<Standing> = plan.persons.iter().map(|person| person.standing).collect();
        Self {
            discounts: standings.iter().map(|standing| request.policy.discount(standing.staleness)).collect(),
            standings,
            persons: plan.persons.iter().enumerate().map(mover).collect(),
        }
    }

    /// Whether anybody is shortened.
    fn any(&self) -> bool {
        self.persons.iter().any(|mover| mover.shortened < 1.0)
    }

    /// The norm of each person's weighed movement.
    fn lengths(&self) -> Vec<f64> {
        let each = self.persons.iter().zip(&self.discounts);
        each.map(|(mover, discount)| discount * mover.shortened * mover.norm).collect()
    }

    /// Per contribution, what its movement is multiplied by where its person counts as much as `weights` say; 0 if it
    /// is no part of its person's movement.
    fn factors(&self, plan: &Plan, weights: &[f64]) -> Vec<f64> {
        let factor = |input: &Option<Input>| {
            let (person, divisor) = input.and_then(|input| Some((input.person, input.divisor?)))?;
            Some(weights.get(person)? * self.persons.get(person)?.shortened / divisor)
        };
        plan.inputs.iter().map(|input| factor(input).unwrap_or(0.0)).collect()
    }
}

/// What the policy makes of the persons who take part.
struct Weighing {
    weights: Weights,
    persons: Vec<Mover>,
    /// Per contribution, the weight of its movement.
    movement: Vec<f64>,
}

impl Weighing {
    fn new(request: &Request<'_>, plan: &Plan, shortened: &Shortened, distances: &Distances) -> Self {
        let (standings, lengths) = (&shortened.standings, shortened.lengths());
        let weights = request.policy.weigh(standings, request.every, &lengths, distances);
        let mut persons = shortened.persons.clone();
        for person in &weights.left_out {
            if let Some(mover) = persons.get_mut(*person) {
                mover.left_out = true;
            }
        }
        Self { movement: shortened.factors(plan, &weights.movement), weights, persons }
    }

    fn outcome<R: Source>(
        self,
        request: &Request<'_>,
        plan: &Plan,
        mut skipped: BTreeMap<usize, Skip>,
        norms: Vec<f64>,
        combine: &Combine<'_, R>,
    ) -> Outcome {
        let rule = request.policy.rule();
        for person in self.weights.left_out.iter().filter_map(|person| plan.persons.get(*person)) {
            skipped.extend(person.inputs.iter().map(|input| (*input, Skip::LeftOut { rule })));
        }
        Outcome {
            skipped: skipped.into_iter().collect(),
            norms,
            weights: combine.effective(),
            withstands: request.policy.withstands(self.persons.len()),
            persons: self.persons,
        }
    }
}

/// Skips what a scan of everybody found faulty, and measures again who is touched by that.
fn settle<R: Source, E: StdError + Send + 'static>(
    request: &Request<'_>,
    source: &R,
    layout: &Layout<'_>,
    first: &Plan,
    found: Found,
    skipped: &mut BTreeMap<usize, Skip>,
    progress: &dyn Fn(Progress),
) -> Result<(Plan, Vec<f64>), Error<R::Error, E>> {
    skipped.extend(found.faults);
    let plan = Plan::new(request.contributions, from(request.policy), skipped);
    // Whoever lost an update moved otherwise without it; the others' movements stand.
    let inputs = first.persons.iter().map(|person| &person.inputs);
    let known: BTreeMap<&Vec<usize>, f64> = inputs.zip(found.norms).collect();
    let persons = plan.persons.iter().enumerate();
    let changed: Vec<usize> =
        persons.filter(|(_, person)| !known.contains_key(&person.inputs)).map(|(index, _)| index).collect();
    let mut norms: Vec<f64> =
        plan.persons.iter().map(|person| known.get(&person.inputs).copied().unwrap_or(0.0)).collect();
    if !changed.is_empty() {
        let again = Scan::new(request, source, layout, &plan, &changed).run(progress)?;
        for (person, norm) in changed.iter().zip(again.norms) {
            if let Some(place) = norms.get_mut(*person) {
                *place = norm;
            }
        }
    }
    Ok((plan, norms))
}
