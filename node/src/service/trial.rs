//! Trying the next aggregate, perhaps without one of its inputs: what an update does to it. Nothing is kept.

use std::collections::BTreeSet;
use std::path::Path;

use flair_protocol::commit::Commit;
use flair_protocol::id::{CommitId, ModelId};
use flair_protocol::state::State;

use super::local::{self, blocking};
use super::{Service, checked_head, find_branch, find_commit, model_of, name_of};
use crate::api::types::{Problem, ToEvaluate, Trial, TrialRequest};
use crate::folder::own::Own;
use crate::folder::{Folder, at};
use crate::models;
use crate::worker::{self, compute};

impl Service {
    /// Runs the next aggregate of a branch and writes its model, to be looked at; publishes and keeps nothing.
    ///
    /// # Errors
    /// Nothing to aggregate, an update that would not go in, a folder that exists.
    pub async fn aggregate_trial(&self, request: TrialRequest) -> Result<Trial, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = find_branch(&state, request.branch.as_deref(), folder.as_ref())?;
        let plan = worker::plan(&repository, &state, branch.id)
            .filter(|_| checked_head(&repository, &state, branch.id) == branch.head)
            .ok_or_else(|| {
                Problem::conflict("nothing to aggregate: no update is pending and here")
                    .help("`flair log` shows what there is")
            })?;
        let mut recipe = plan.recipe;
        if let Some(text) = &request.without {
            let without = find_commit(&state, text)?;
            if !recipe.inputs.contains(&without) {
                return Err(Problem::invalid(format!(
                    "{} would not go into the next aggregate",
                    without.short()
                )));
            }
            let gone = standing_on(&state, &recipe.inputs, without);
            recipe.inputs.retain(|input| !gone.contains(input));
        }
        let inputs = recipe.inputs.iter().map(|input| {
            let commit = state.commits.get(input).map(|info| info.commit.as_ref());
            ToEvaluate {
                commit: input.to_string(),
                by: commit
                    .and_then(Commit::author)
                    .map_or_else(String::new, |author| name_of(&state, author)),
                base: commit.and_then(Commit::base).map(|base| base.to_string()),
            }
        });
        let (parent, inputs) = (recipe.parent, inputs.collect::<Vec<_>>());
        // What was made is held until its files are written.
        let made = if recipe.inputs.is_empty() {
            None
        } else {
            let id = Commit::Aggregate(recipe.clone()).id()?;
            Some(compute::compute(&self.hub, &repository, &state, id, &recipe).await?)
        };
        let model = match &made {
            Some(made) => made.outcome.model,
            None => model_of(&repository, &state, parent)
                .ok_or_else(|| Problem::internal("a held commit without a model"))?,
        };
        self.write_model(model, &request.output, folder.as_ref()).await?;
        Ok(Trial { parent: parent.to_string(), inputs, model: model.to_string() })
    }

    /// Writes a model's files into a new folder, with what a working folder has of its own.
    pub(super) async fn write_model(
        &self,
        model: ModelId,
        folder: &Path,
        working: Option<&Folder>,
    ) -> Result<(), Problem> {
        std::fs::create_dir(folder).map_err(|error| at(folder, error))?;
        let manifest = local::manifest(&self.hub, model).await?;
        let (store, root) = (self.hub.store.clone(), folder.to_owned());
        let side = models::stage_side(&store, &manifest, &root).await?;
        let own = working.map(|working| Own::open(working.root())).transpose()?.unwrap_or_default();
        let mut staged = blocking(move || models::stage(&store, &manifest, &root, None, &own)).await?;
        staged.extend(side);
        for file in staged {
            file.persist()?;
        }
        Ok(())
    }
}

/// An update and, among others, those that stand on it.
fn standing_on(state: &State, inputs: &[CommitId], update: CommitId) -> BTreeSet<CommitId> {
    let mut gone = BTreeSet::from([update]);
    loop {
        let next = inputs.iter().find(|input| {
            let base = state.commits.get(*input).and_then(|info| info.commit.base());
            !gone.contains(*input) && base.is_some_and(|base| gone.contains(&base))
        });
        match next {
            Some(next) => gone.insert(*next),
            None => return gone,
        };
    }
}
