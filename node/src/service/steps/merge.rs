//! Merging another branch into one.

use std::collections::{BTreeMap, BTreeSet};

use flair_aggregation::merge::{Method, Statistics};
use flair_protocol::commit::{Change, Commit, KERNEL, MODE, Merge, Step};
use flair_protocol::id::CommitId;
use flair_protocol::model::Manifest;
use flair_protocol::state::{Branch, State, StepStatus};

use super::{expected, foresee, taken};
use crate::api::types::{MergeRequest, Merged, Problem, Stepped};
use crate::folder::Folder;
use crate::repository::Repository;
use crate::service::local::{self, blocking};
use crate::service::{Service, audit, diff, find_branch, find_commit};
use crate::worker::{self, compute, merge};

impl Service {
    /// Merges a branch or commit into a branch, or proposes it; or tells what that would give.
    ///
    /// # Errors
    /// What can't be merged, with the reason; a head that is another by now; no role; a model that is not here.
    pub async fn merge(&self, request: MergeRequest) -> Result<Stepped, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = target(&state, request.branch.as_deref(), folder.as_ref())?;
        let head = branch.head.ok_or_else(|| Problem::conflict("the branch has no commit yet"))?;
        expected(request.head.as_deref(), head)?;
        let method = Method::parse(&request.method, &request.settings)
            .map_err(|error| Problem::invalid(error.to_string()))?;
        let other = find_commit(&state, &request.other)?;
        self.mergeable(&repository, &state, &branch.name, head, other).await?;
        let step = Step {
            author: self.hub.me(),
            branch: branch.id,
            parent: head,
            policy: state.revision(),
            change: Change::Merge(Merge {
                other,
                method: method.name().to_owned(),
                settings: method.settings().clone(),
                mode: MODE.to_owned(),
                kernel: KERNEL,
            }),
            message: request.message,
            ext: BTreeMap::new(),
        };
        let mut answer = foresee(&state, &step, &branch.name)?;
        let commit = Commit::Step(Box::new(step.clone()));
        commit.validate()?;
        let made = merge::compute(&self.hub, &repository, &state, &step).await?;
        answer.merged = Some(self.compare(&repository, &state, &step, &made, &method).await?);
        answer.target = Some(other.to_string());
        answer.back =
            audit::brought(&state, other, head).iter().rev().map(|one| taken(&state, *one)).collect();
        if !request.dry_run {
            let id = worker::publish_merge(&self.hub, &repository, commit, &made).await?;
            answer.commit = Some(id.to_string());
            answer.in_head = repository.state().await.explain_step(id) == Some(StepStatus::OnPath);
        }
        Ok(answer)
    }

    /// Refuses what can't be merged, and says why.
    async fn mergeable(
        &self,
        repository: &Repository,
        state: &State,
        branch: &str,
        head: CommitId,
        other: CommitId,
    ) -> Result<(), Problem> {
        let kind = state.commits.get(&other).map_or("commit", |info| info.commit.kind());
        if state.generation(other).is_none() {
            return Err(Problem::invalid(format!("{kind} {} can't be merged", other.short())).help(
                "what is merged is a branch's head, or another first commit, aggregate or step: updates are aggregated",
            ));
        }
        let Some(common) = state.common(head, other) else {
            return Err(Problem::conflict(format!(
                "head {} and {kind} {} have no common ancestor",
                head.short(),
                other.short()
            ))
            .help("only branches that began from one another can be merged"));
        };
        if common == other {
            return Err(Problem::conflict(format!(
                "nothing to merge: {kind} {} is in the history of branch `{branch}` already",
                other.short()
            )));
        }
        for commit in [head, other, common] {
            if !repository.shelf().holds(commit) {
                let text = format!("the model of {} is not fetched and checked yet", commit.short());
                return Err(Problem::conflict(text)
                    .help("it is while the node runs and peers are connected: try again in a while"));
            }
        }
        for commit in [other, common] {
            let (one, two) =
                (self.held_model(repository, head).await?, self.held_model(repository, commit).await?);
            if one.architecture()? != two.architecture()? {
                let why = difference(&one, &two);
                return Err(Problem::conflict(format!(
                    "head {} and {} have different architectures: {why}",
                    head.short(),
                    commit.short()
                ))
                .help("migrate one branch first: `flair commit --migrate`"));
            }
        }
        if let Some(tensor) = merge::unequal(&self.hub, repository, head, other).await? {
            return Err(Problem::conflict(format!(
                "tensor `{tensor}` differs between the branches, and its role says that it must be equal"
            ))
            .help(
                "its numbers can't be averaged: make them equal on one branch with `flair commit --migrate`",
            ));
        }
        Ok(())
    }

    async fn held_model(&self, repository: &Repository, commit: CommitId) -> Result<Manifest, Problem> {
        let absent = || Problem::missing(format!("the model of {} is not here", commit.short()));
        let held = repository.shelf().held(commit).ok_or_else(absent)?;
        local::manifest(&self.hub, held.model).await
    }

    /// What came out, beside what went in.
    async fn compare(
        &self,
        repository: &Repository,
        state: &State,
        step: &Step,
        made: &compute::Made<Statistics>,
        method: &Method,
    ) -> Result<Merged, Problem> {
        let merge = step.merge().ok_or_else(|| Problem::internal("a step that is no merge"))?;
        let common = state.common(step.parent, merge.other).map_or_else(String::new, |one| one.to_string());
        let result = local::manifest(&self.hub, made.held.model).await?;
        let mut distances = Vec::new();
        for commit in [step.parent, merge.other] {
            let (model, result) = (self.held_model(repository, commit).await?, result.clone());
            let (store, threads) = (self.hub.store.clone(), self.hub.config.threads.get());
            distances.push(blocking(move || diff::distance(&store, threads, &model, &result)).await?);
        }
        let found = made.details;
        let looks = found.changed != [0, 0];
        Ok(Merged {
            other: merge.other.to_string(),
            common,
            words: method.explain(),
            model: made.outcome.model.to_string(),
            from_branch: distances.first().copied().unwrap_or_default(),
            from_other: distances.get(1).copied().unwrap_or_default(),
            elements: found.elements,
            changed: looks.then_some(found.changed),
            kept: looks.then_some(found.kept),
            opposed: found.opposed,
            not_finite: found.not_finite,
        })
    }
}

/// The branch that is merged into: by its name, by its head, or the folder's.
fn target<'a>(state: &'a State, text: Option<&str>, folder: Option<&Folder>) -> Result<&'a Branch, Problem> {
    let named = find_branch(state, text, folder);
    let Some((text, problem)) = text.zip(named.as_ref().err().cloned()) else { return named };
    let commit = find_commit(state, text).map_err(|_| problem)?;
    let heads = state.open_branches().find(|branch| branch.head == Some(commit));
    heads.ok_or_else(|| {
        Problem::invalid(format!("{} is no branch, and no branch's head", commit.short()))
            .help("name the branch that is merged into first, then what is merged: `flair branch` lists them")
    })
}

/// The first thing in which two architectures differ, in words.
fn difference(one: &Manifest, other: &Manifest) -> String {
    let others: BTreeMap<&str, _> = other.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    for tensor in one.tensors() {
        let name = &tensor.name;
        let Some(other) = others.get(name.as_str()) else { return format!("only one has `{name}`") };
        if (tensor.dtype, &tensor.shape) != (other.dtype, &other.shape) {
            return format!(
                "`{name}` has dtype {} and shape {:?}, the other {} and {:?}",
                tensor.dtype, tensor.shape, other.dtype, other.shape
            );
        }
        if tensor.role != other.role {
            return format!("`{name}` has role {}, the other {}", tensor.role, other.role);
        }
    }
    let ours: BTreeSet<&str> = one.tensors().map(|tensor| tensor.name.as_str()).collect();
    let extra = others.keys().find(|name| !ours.contains(**name));
    extra.map_or_else(
        || "their tensors have another order".to_owned(),
        |name| format!("only one has `{name}`"),
    )
}
