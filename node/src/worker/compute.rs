//! Running a recipe: from the store through the exact kernels into the store.

use std::io;
use std::sync::Arc;

use flair_aggregation::plan::{Base, Contribution};
use flair_aggregation::policy::Policy;
use flair_aggregation::run::{self, Carried, Part, Progress, Request, Source, TensorSpec};
use flair_protocol::commit::{Aggregate, Commit, Outcome};
use flair_protocol::id::{CommitId, Digest, TensorId};
use flair_protocol::model::{self, Manifest, Skipped, State as ModelState};
use flair_protocol::policy::Aggregation;
use flair_protocol::state::State;

use super::fetch::base_of;
use super::merge;
use super::pack::{self, Keep, Spool};
use crate::api::types::Problem;
use crate::hub::Hub;
use crate::models::Model;
use crate::repository::Repository;
use crate::shelf::Held;
use crate::store::{Hold, Store, StoreError};

/// Aggregates whose inputs' norms are carried along.
const HISTORY: usize = flair_protocol::policy::ACTIVE;
/// Bytes of buffers that a run keeps to.
pub(super) const BUDGET: usize = 256 << 20;

/// What running a recipe gave. Its blobs are kept from the sweep until this is dropped.
#[derive(Debug)]
pub struct Made<D = run::Outcome> {
    /// The result.
    pub outcome: Outcome,
    /// Where it is.
    pub held: Held,
    /// Bytes that the pack's blobs take.
    pub pack_bytes: u64,
    /// What was found on the way: of an aggregate, what became of each input.
    pub details: D,
    pub(super) hold: Hold,
}

impl<D> Made<D> {
    /// Without what was found on the way.
    fn bare(self) -> Made<()> {
        let Self { outcome, held, pack_bytes, hold, .. } = self;
        Made { outcome, held, pack_bytes, details: (), hold }
    }
}

/// What running the recipe of an aggregate or merge needs, but for what its pack is encoded on; none for any other
/// commit.
pub fn needs(state: &State, commit: &Commit) -> Option<Vec<CommitId>> {
    match commit {
        Commit::Aggregate(recipe) => Some(recipe.inputs.iter().copied().chain([recipe.parent]).collect()),
        Commit::Step(step) => {
            let other = step.merge()?.other;
            Some([step.parent, other].into_iter().chain(state.common(step.parent, other)).collect())
        }
        Commit::Initial(_) | Commit::Update(_) => None,
    }
}

/// Runs the recipe of a commit that was published, whichever it is.
///
/// # Errors
/// A commit without recipe, a model that is not here, a full disk.
pub async fn again(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    commit: CommitId,
) -> Result<Made<()>, Problem> {
    match state.commits.get(&commit).map(|info| info.commit.as_ref()) {
        Some(Commit::Aggregate(recipe)) => Ok(compute(hub, repository, state, commit, recipe).await?.bare()),
        Some(Commit::Step(step)) if step.merge().is_some() => {
            Ok(merge::compute(hub, repository, state, step).await?.bare())
        }
        _ => Err(Problem::invalid(format!("{} has no recipe to run", commit.short()))),
    }
}

/// The inputs of a recipe as the kernels take them, ascending by commit id.
///
/// # Errors
/// An input that is not a known update.
pub fn contributions(state: &State, recipe: &Aggregate) -> Result<Vec<Contribution>, Problem> {
    let unfit =
        |input: &CommitId| Problem::invalid(format!("{} is not an update that can go in", input.short()));
    recipe
        .inputs
        .iter()
        .map(|input| {
            let Some(Commit::Update(update)) = state.commits.get(input).map(|info| info.commit.as_ref())
            else {
                return Err(unfit(input));
            };
            let base = match state.commits.get(&update.base).map(|info| info.commit.as_ref()) {
                Some(Commit::Update(_)) => Base::Own(update.base.digest()),
                _ => Base::Aggregate(update.base.digest()),
            };
            Ok(Contribution {
                commit: input.digest(),
                person: Digest::from_bytes(*update.author.as_bytes()),
                base,
                examples: update.training.examples,
                steps: update.training.steps,
                staleness: state.staleness(recipe.parent, *input).ok_or_else(|| unfit(input))?,
            })
        })
        .collect()
}

/// What a recipe is run by.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The rule, with its settings.
    pub policy: Policy,
    /// Persons that an aggregate needs: the K of FedBuff.
    pub every: u32,
}

impl Terms {
    /// Those of the policy that the recipe names.
    ///
    /// # Errors
    /// A rule or setting this build does not know, a parent that is not here.
    pub fn of(state: &State, recipe: &Aggregate) -> Result<Self, Problem> {
        let every = state.every(recipe).ok_or_else(|| absent(recipe.parent))?;
        Ok(Self { policy: policy(state, recipe)?, every })
    }
}

pub(super) fn absent(commit: CommitId) -> Problem {
    Problem::missing(format!("the model of {} is not here yet", commit.short()))
}

/// The rule of the policy that a recipe follows.
///
/// # Errors
/// A rule or setting this build does not know.
pub fn policy(state: &State, recipe: &Aggregate) -> Result<Policy, Problem> {
    let Some(policy) = state.policy_at(recipe.policy) else {
        return Err(Problem::missing(format!("policy revision {} is not here", recipe.policy.short())));
    };
    rule(&policy.aggregation)
}

/// A rule with its settings, read.
///
/// # Errors
/// A rule or setting this build does not know.
pub fn rule(aggregation: &Aggregation) -> Result<Policy, Problem> {
    Policy::parse(&aggregation.rule, &aggregation.settings)
        .map_err(|error| Problem::invalid(error.to_string()))
}

/// Runs `recipe` on what is held.
///
/// # Errors
/// A model that is not here, a full disk.
pub async fn compute(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    commit: CommitId,
    recipe: &Aggregate,
) -> Result<Made, Problem> {
    let what = format!("aggregating {}", commit.short());
    compute_by(hub, repository, state, what, recipe, Terms::of(state, recipe)?).await
}

/// As [`compute`], by other terms than the recipe's own: what comes out is not the recipe's result. `what` is told of
/// the progress.
///
/// # Errors
/// A model that is not here, a full disk.
pub async fn compute_by(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    what: String,
    recipe: &Aggregate,
    terms: Terms,
) -> Result<Made, Problem> {
    let shelf = repository.shelf();
    let parent = shelf.held(recipe.parent).ok_or_else(|| absent(recipe.parent))?;
    let parent = Model::load(&hub.store, &parent).await?;
    let mut inputs = Vec::new();
    for input in &recipe.inputs {
        let info = state.commits.get(input).ok_or_else(|| absent(*input))?;
        inputs.push(match shelf.held(*input) {
            Some(held) => match base_of(hub, repository, info.commit.as_ref()).await? {
                Some(Ok(base)) => {
                    Ok((ids(&Model::load(&hub.store, &held).await?.manifest), ids(&base.manifest)))
                }
                Some(Err(why)) => Err(why),
                None => return Err(Problem::invalid(format!("{} is not an update", input.short()))),
            },
            None => Err(shelf.faulty(*input).ok_or_else(|| absent(*input))?),
        });
    }
    let tensors = specs(&parent.manifest);
    let server = terms.policy.server();
    let carried = parent.carried_for(server);
    let carried = Carried::ALL.map(|what| {
        let of = |tensor: &TensorSpec| carried.get(&(what, tensor.name.as_str())).copied();
        tensors.iter().map(of).collect::<Vec<Option<TensorId>>>()
    });
    let spool = Spool::new(&hub.home.store(), tensors.len()).map_err(|error| spool_failed(&error))?;
    let job = Job {
        terms,
        contributions: contributions(state, recipe)?,
        history: parent.state.norms.clone(),
        threads: hub.config.threads.get(),
        reader: Reader {
            store: hub.store.clone(),
            parent: ids(&parent.manifest),
            carried: carried.clone(),
            inputs,
        },
        tensors: tensors.clone(),
        spool,
    };
    let (told, repo) = (hub.clone(), repository.id());
    let report = move |progress: Progress| {
        told.progress(repo, what.clone(), progress.done, progress.total);
    };
    let (details, spool) =
        tokio::task::spawn_blocking(move || job.run(&report)).await.map_err(Problem::internal)??;
    let packed = pack::write(
        hub,
        repository,
        state.recipe_pack_base(recipe),
        &parent.manifest,
        carried,
        spool,
        Keep::Same,
    )
    .await?;
    let [masters, momentum, variance] = packed.carried.clone();
    let remembered = server.filter(|_| !momentum.is_empty() || !variance.is_empty());
    let server = remembered.map(|name| model::Server { optimiser: name.to_owned(), momentum, variance });
    let mut norms = parent.state.norms;
    norms.push(details.norms.clone());
    norms.drain(..norms.len().saturating_sub(HISTORY));
    let skipped = details
        .skipped
        .iter()
        .filter_map(|(index, why)| {
            Some(Skipped { commit: *recipe.inputs.get(*index)?, reason: why.to_string() })
        })
        .collect();
    packed.finish(hub, ModelState { norms, masters, skipped, server }, details).await
}

/// The tensors of a model as the kernels take them.
pub(super) fn specs(manifest: &Manifest) -> Vec<TensorSpec> {
    let spec = |tensor: &model::Tensor| TensorSpec {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        role: tensor.role,
    };
    manifest.tensors().map(spec).collect()
}

pub(super) fn ids(manifest: &Manifest) -> Vec<TensorId> {
    manifest.tensors().map(|tensor| tensor.tensor).collect()
}

pub(super) fn spool_failed(error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::StorageFull => crate::api::types::Code::Full,
        _ => crate::api::types::Code::Internal,
    };
    Problem::new(code, format!("the aggregate's tensors could not be written: {error}"))
}

struct Job {
    terms: Terms,
    contributions: Vec<Contribution>,
    history: Vec<Vec<f64>>,
    threads: usize,
    reader: Reader,
    tensors: Vec<TensorSpec>,
    spool: Spool,
}

impl Job {
    fn run(mut self, report: &(dyn Fn(Progress) + Sync)) -> Result<(run::Outcome, Spool), Problem> {
        let request = Request {
            policy: &self.terms.policy,
            every: self.terms.every,
            contributions: &self.contributions,
            tensors: &self.tensors,
            history: &self.history,
            threads: self.threads,
            memory_budget: BUDGET,
        };
        let details = run::aggregate(&request, &self.reader, &mut self.spool, &|progress| report(progress))
            .map_err(|error| match error {
            run::Error::Sink { source, .. } => spool_failed(&source),
            other => {
                let cause = std::error::Error::source(&other).map(ToString::to_string).unwrap_or_default();
                Problem::internal(format!("{other}: {cause}"))
            }
        })?;
        Ok((details, self.spool))
    }
}

/// Tensors of an input, and of what it was trained from.
type Trained = (Vec<TensorId>, Vec<TensorId>);

/// Reads what a recipe needs from the store.
struct Reader {
    store: Store,
    parent: Vec<TensorId>,
    /// What the parent carries, in the order of [`Carried::ALL`], tensor by tensor.
    carried: [Vec<Option<TensorId>>; 3],
    /// Tensors of each input and of its base, or what is wrong with it.
    inputs: Vec<Result<Trained, String>>,
}

impl Source for Reader {
    type Error = StoreError;

    fn block(&self, part: Part, tensor: usize, block: usize, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let Some(id) = self.id(part, tensor) else { return Ok(()) };
        let reader = self.store.tensor(id)?;
        if out.is_empty() {
            return reader.block(block as u64, out);
        }
        let mut bytes = Vec::new();
        reader.block(block as u64, &mut bytes)?;
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn id(&self, part: Part, tensor: usize) -> Option<TensorId> {
        let input = |index: usize| self.inputs.get(index).and_then(|input| input.as_ref().ok());
        match part {
            Part::Parent => self.parent.get(tensor).copied(),
            Part::Carried(what) => self.carried.get(what as usize)?.get(tensor).copied().flatten(),
            Part::Input(index) => input(index)?.0.get(tensor).copied(),
            Part::Base(index) => input(index)?.1.get(tensor).copied(),
        }
    }

    fn faulty(&self, input: usize) -> Option<String> {
        self.inputs.get(input)?.as_ref().err().cloned()
    }

    fn carries(&self, what: Carried, tensor: usize) -> bool {
        self.id(Part::Carried(what), tensor).is_some()
    }
}
