//! Running a recipe: from the store through the exact kernels into the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flair_aggregation::plan::{Base, Contribution};
use flair_aggregation::policy::Policy;
use flair_aggregation::run::{self, Carried, Part, Progress, Request, Sink, Source, TensorSpec, Written};
use flair_protocol::commit::{Aggregate, Commit, Outcome};
use flair_protocol::id::{CommitId, Digest, PackId, TensorId};
use flair_protocol::model::{self, Manifest, Skipped, State as ModelState};
use flair_protocol::policy::Aggregation;
use flair_protocol::state::State;
use flair_tensors::dtype::DType;

use super::fetch::base_of;
use crate::api::types::Problem;
use crate::hub::Hub;
use crate::models::Model;
use crate::repository::Repository;
use crate::shelf::Held;
use crate::store::{self, Content, Hold, Store, StoreError};

/// Aggregates whose inputs' norms are carried along.
const HISTORY: usize = flair_protocol::policy::ACTIVE;
/// Bytes of buffers that a run keeps to.
const BUDGET: usize = 256 << 20;

/// What running a recipe gave. Its blobs are kept from the sweep until this is dropped.
#[derive(Debug)]
pub struct Made {
    /// The result.
    pub outcome: Outcome,
    /// Where it is.
    pub held: Held,
    /// Bytes that the pack's blobs take.
    pub pack_bytes: u64,
    /// What became of each input.
    pub details: run::Outcome,
    _hold: Hold,
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

fn absent(commit: CommitId) -> Problem {
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
    let tensors: Vec<TensorSpec> = parent
        .manifest
        .tensors()
        .map(|tensor| TensorSpec {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            role: tensor.role,
        })
        .collect();
    let server = terms.policy.server();
    let carried = parent.carried_for(server);
    let carried = Carried::ALL.map(|what| {
        let of = |tensor: &TensorSpec| carried.get(&(what, tensor.name.as_str())).copied();
        tensors.iter().map(of).collect::<Vec<Option<TensorId>>>()
    });
    let tape = || Tape::new(&hub.home.store(), tensors.len()).map_err(|error| spool_failed(&error));
    let spool = Spool { model: tape()?, carried: [tape()?, tape()?, tape()?] };
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
    let hold = hub.store.hold();
    pack(hub, repository, state, recipe, parent, server, &carried, details, spool, hold).await
}

/// Packs what the kernels wrote, and names it.
#[allow(clippy::too_many_arguments)]
async fn pack(
    hub: &Hub,
    repository: &Repository,
    state: &State,
    recipe: &Aggregate,
    parent: Model,
    server: Option<&str>,
    carried: &[Vec<Option<TensorId>>; 3],
    details: run::Outcome,
    spool: Spool,
    hold: Hold,
) -> Result<Made, Problem> {
    let base = match state.recipe_pack_base(recipe) {
        None => None,
        Some(base) => {
            let held = repository.shelf().held(base).ok_or_else(|| absent(base))?;
            Some(Model::load(&hub.store, &held).await?)
        }
    };
    let base_ids: BTreeMap<&str, TensorId> = base
        .iter()
        .flat_map(|base| base.manifest.tensors())
        .map(|tensor| (tensor.name.as_str(), tensor.tensor))
        .collect();
    let base_carried = base.as_ref().map(Model::carried_ids).unwrap_or_default();
    let mut contents = Vec::new();
    let mut places = Vec::new();
    for (index, tensor) in parent.manifest.tensors().enumerate() {
        let slot = spool.model.start(index);
        contents.push(Content {
            name: tensor.name.clone(),
            tensor: slot.is_none().then_some(tensor.tensor),
            dtype: tensor.dtype,
            length: tensor.length,
            base: base_ids.get(tensor.name.as_str()).copied(),
        });
        places.push(slot.map_or(Place::Store(tensor.tensor), Place::Model));
    }
    let mut beside = Vec::new();
    for ((kind, what), kept) in Carried::ALL.into_iter().enumerate().zip(carried) {
        for (index, tensor) in parent.manifest.tensors().enumerate() {
            let slot = spool.carried.get(kind).and_then(|tape| tape.start(index));
            let (place, known) = match (slot, kept.get(index).copied().flatten()) {
                (Some(slot), _) => (Place::Carried(kind, slot), None),
                (None, Some(kept)) if spool.model.start(index).is_none() => (Place::Store(kept), Some(kept)),
                (None, _) => continue,
            };
            let length = tensor.length / tensor.dtype.size() as u64 * DType::F32.size() as u64;
            contents.push(Content {
                name: format!("{} ({what})", tensor.name),
                tensor: known,
                dtype: DType::F32,
                length,
                base: base_carried.get(&(what, tensor.name.as_str())).copied(),
            });
            places.push(place);
            beside.push((what, tensor.name.clone(), length));
        }
    }
    let listed = base.as_ref().map(Model::listed).unwrap_or_default();
    let source = Arc::new(Packing { store: hub.store.clone(), spool, places });
    let packed = hub.store.write_pack(&hold, contents, &listed, source).await?;

    let mut manifest = parent.manifest;
    let mut made = packed.tensors.iter();
    for tensor in manifest.files.iter_mut().flat_map(|file| &mut file.tensors) {
        if let Some(id) = made.next() {
            tensor.tensor = *id;
        }
    }
    let mut lists: [Vec<model::Carried>; 3] = Default::default();
    for ((what, name, length), tensor) in beside.into_iter().zip(made) {
        if let Some(list) = lists.get_mut(what as usize) {
            list.push(model::Carried { name, tensor: *tensor, length });
        }
    }
    let [masters, momentum, variance] = lists;
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
    let next = ModelState { norms, masters, skipped, server };
    let outcome = Outcome { model: manifest.id()?, state: next.id()? };
    hub.store.add_bytes(&hold, manifest.encode()?).await?;
    hub.store.add_bytes(&hold, next.encode()?).await?;
    let mut pack_bytes = 0;
    for blob in &packed.blobs {
        pack_bytes += hub.store.size(*blob).await?.unwrap_or(0);
    }
    let side = manifest.side.iter().map(|side| side.blob).collect();
    let pack = PackId::from_digest(packed.root);
    let held = Held { model: outcome.model, state: Some(outcome.state), pack, side, attested: false };
    Ok(Made { outcome, held, pack_bytes, details, _hold: hold })
}

fn ids(manifest: &Manifest) -> Vec<TensorId> {
    manifest.tensors().map(|tensor| tensor.tensor).collect()
}

fn spool_failed(error: &io::Error) -> Problem {
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

/// New tensors on their way from the kernels to a pack, in files without names: a crash leaves nothing behind.
struct Spool {
    model: Tape,
    /// What is carried beside it, in the order of [`Carried::ALL`].
    carried: [Tape; 3],
}

/// Tensors one behind the other, and where each begins.
struct Tape {
    file: File,
    end: u64,
    starts: Vec<Option<u64>>,
}

impl Tape {
    fn new(folder: &Path, tensors: usize) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, end: 0, starts: vec![None; tensors] })
    }

    /// Blocks come in order, so a tensor's are side by side.
    fn push(&mut self, tensor: usize, bytes: &[u8]) -> io::Result<()> {
        if let Some(start) = self.starts.get_mut(tensor) {
            start.get_or_insert(self.end);
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew; what is on the tape is written over.
    fn rewind(&mut self) {
        self.end = 0;
        self.starts.fill(None);
    }

    fn start(&self, tensor: usize) -> Option<u64> {
        self.starts.get(tensor).copied().flatten()
    }
}

impl Sink for Spool {
    type Error = io::Error;
    const REWINDS: bool = true;

    fn rewind(&mut self) -> io::Result<()> {
        self.model.rewind();
        self.carried.iter_mut().for_each(Tape::rewind);
        Ok(())
    }

    fn start(&mut self, _tensor: usize, kept: bool) -> io::Result<bool> {
        Ok(!kept)
    }

    fn block(&mut self, tensor: usize, _block: usize, written: Written<'_>) -> io::Result<()> {
        self.model.push(tensor, written.model)?;
        for (tape, bytes) in self.carried.iter_mut().zip(written.carried) {
            if let Some(bytes) = bytes {
                tape.push(tensor, bytes)?;
            }
        }
        Ok(())
    }
}

enum Place {
    /// In the store already.
    Store(TensorId),
    /// On the model's tape from here on.
    Model(u64),
    /// On the tape of what is carried, of this kind, from here on.
    Carried(usize, u64),
}

/// Hands new tensors to the pack writer.
struct Packing {
    store: Store,
    spool: Spool,
    places: Vec<Place>,
}

impl store::Source for Packing {
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.places.get(tensor) {
            Some(Place::Model(start)) => self.spool.model.file.read_exact_at(out, start + offset),
            Some(Place::Carried(kind, start)) => match self.spool.carried.get(*kind) {
                Some(tape) => tape.file.read_exact_at(out, start + offset),
                None => Err(io::Error::other(format!("nothing of kind {kind} is carried"))),
            },
            Some(Place::Store(id)) => {
                let reader = self.store.tensor(*id).map_err(io::Error::other)?;
                reader.read(offset, out).map_err(io::Error::other)
            }
            None => Err(io::Error::other(format!("the pack has no tensor {tensor}"))),
        }
    }
}
