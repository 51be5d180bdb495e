//! Running a merge: three models in the store become one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use flair_aggregation::merge::{self, Method, Parents, Request, Side, Source, Statistics};
use flair_aggregation::run::{Carried, Progress};
use flair_protocol::commit::{Merge, Step};
use flair_protocol::id::{CommitId, TensorId};
use flair_protocol::model::{self, State as ModelState};
use flair_protocol::state::State;
use flair_tensors::role::Role;

use super::compute::{BUDGET, Made, absent, specs, spool_failed};
use super::pack::{self, Keep, Spool};
use crate::api::types::Problem;
use crate::hub::Hub;
use crate::models::Model;
use crate::repository::Repository;
use crate::store::{Store, StoreError};

/// The method that a merge names.
///
/// # Errors
/// A method or setting this build does not know.
pub fn method(merge: &Merge) -> Result<Method, Problem> {
    Method::parse(&merge.method, &merge.settings).map_err(|error| Problem::invalid(error.to_string()))
}

/// The first tensor that must be equal in what is merged and is not, if any.
///
/// # Errors
/// A model that is not here.
pub async fn unequal(
    hub: &Hub,
    repository: &Repository,
    one: CommitId,
    other: CommitId,
) -> Result<Option<String>, Problem> {
    let (one, other) = (load(hub, repository, one).await?, load(hub, repository, other).await?);
    let others: BTreeMap<&str, TensorId> =
        other.manifest.tensors().map(|tensor| (tensor.name.as_str(), tensor.tensor)).collect();
    let stays = |tensor: &&model::Tensor| matches!(tensor.role, Role::Exact | Role::LoraA);
    let mut exact = one.manifest.tensors().filter(stays);
    let differs = |tensor: &&model::Tensor| others.get(tensor.name.as_str()) != Some(&tensor.tensor);
    Ok(exact.find(differs).map(|tensor| tensor.name.clone()))
}

async fn load(hub: &Hub, repository: &Repository, commit: CommitId) -> Result<Model, Problem> {
    let held = repository.shelf().held(commit).ok_or_else(|| absent(commit))?;
    Model::load(&hub.store, &held).await
}

/// Merges what a step names, on what is held. The parent's state is carried on: the norms, and what the optimiser of
/// the branch remembers; masters are merged with the model.
///
/// # Errors
/// A method that is not known here, a model that is not here, a full disk.
pub async fn compute(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    step: &Step,
) -> Result<Made<Statistics>, Problem> {
    let merge = step.merge().ok_or_else(|| Problem::internal("a step that is no merge"))?;
    let method = method(merge)?;
    let (first, second) = (step.parent, merge.other);
    let base = state.common(first, second).ok_or_else(|| {
        Problem::invalid(format!("{} and {} have no common ancestor", first.short(), second.short()))
    })?;
    let parents = Parents { base: base.digest(), first: first.digest(), second: second.digest() };
    let mut models = Vec::new();
    for commit in [base, first, second] {
        models.push(load(hub, repository, commit).await?);
    }
    let Some(target) = models.get(Side::First as usize) else {
        return Err(Problem::internal("no model to merge into"));
    };
    let tensors = specs(&target.manifest);
    let named = |ids: BTreeMap<&str, TensorId>| -> Ids {
        tensors.iter().map(|tensor| ids.get(tensor.name.as_str()).copied()).collect()
    };
    let sides = models.iter().map(|model| {
        let values = model.manifest.tensors().map(|tensor| (tensor.name.as_str(), tensor.tensor)).collect();
        let masters = model.state.masters.iter().map(|one| (one.name.as_str(), one.tensor)).collect();
        (named(values), named(masters))
    });
    let reader = Reader { store: hub.store.clone(), sides: sides.collect() };
    let kept = target.carried_ids();
    let carried = Carried::ALL.map(|what| {
        let of = |tensor: &flair_aggregation::TensorSpec| kept.get(&(what, tensor.name.as_str())).copied();
        tensors.iter().map(of).collect::<Ids>()
    });
    let mut spool = Spool::new(&hub.home.store(), tensors.len()).map_err(|error| spool_failed(&error))?;
    let (told, repo) = (hub.clone(), repository.id());
    let what = format!("merging {} into {}", second.short(), first.short());
    let threads = hub.config.threads.get();
    let report = move |progress: Progress| told.progress(repo, what.clone(), progress.done, progress.total);
    let run = move || {
        let request = Request { method: &method, parents, tensors: &tensors, threads, memory_budget: BUDGET };
        let found = merge::merge(&request, &reader, &mut spool, &report).map_err(|error| match error {
            merge::Error::Sink { source, .. } => spool_failed(&source),
            merge::Error::Tensor(error) => Problem::conflict(format!("it can't be merged: {error}")),
            other => {
                let cause = std::error::Error::source(&other).map(ToString::to_string).unwrap_or_default();
                Problem::internal(format!("{other}: {cause}"))
            }
        })?;
        Ok::<_, Problem>((found, spool))
    };
    let (found, spool) = tokio::task::spawn_blocking(run).await.map_err(Problem::internal)??;
    let on = state.base_after(first);
    let packed = pack::write(hub, repository, on, &target.manifest, carried, spool, Keep::All).await?;
    let [masters, momentum, variance] = packed.carried.clone();
    let before = &target.state;
    let server = before.server.as_ref().map(|server| model::Server {
        optimiser: server.optimiser.clone(),
        momentum,
        variance,
    });
    let next = ModelState { norms: before.norms.clone(), masters, skipped: Vec::new(), server };
    packed.finish(hub, next, found).await
}

/// Tensors of a model, in the order of the target's; none for one it does not have.
type Ids = Vec<Option<TensorId>>;

/// Reads three models from the store: in the order of [`Side`], their tensors and masters.
struct Reader {
    store: Store,
    sides: Vec<(Ids, Ids)>,
}

impl Reader {
    fn id(&self, side: Side, master: bool, tensor: usize) -> Option<TensorId> {
        let (values, masters) = self.sides.get(side as usize)?;
        if master { masters } else { values }.get(tensor).copied().flatten()
    }
}

impl Source for Reader {
    type Error = StoreError;

    fn read(
        &self,
        side: Side,
        master: bool,
        tensor: usize,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let Some(id) = self.id(side, master, tensor) else { return Ok(()) };
        let start = out.len();
        out.resize(start + usize::try_from(range.end - range.start).unwrap_or(0), 0);
        match out.get_mut(start..) {
            Some(place) => self.store.tensor(id)?.read(range.start, place),
            None => Ok(()),
        }
    }

    fn has_master(&self, side: Side, tensor: usize) -> bool {
        self.id(side, true, tensor).is_some()
    }

    fn same(&self, one: Side, other: Side, tensor: usize) -> bool {
        let known = self.id(one, false, tensor).is_some();
        known
            && [false, true]
                .iter()
                .all(|master| self.id(one, *master, tensor) == self.id(other, *master, tensor))
    }
}
