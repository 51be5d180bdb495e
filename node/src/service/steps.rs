//! Steps: what maintainers decide about a branch.

mod draft;
mod merge;

use std::sync::Arc;
use std::time::Duration;

use flair_protocol::commit::{Change, Commit, Step};
use flair_protocol::id::{CommitId, Digest, PackId};
use flair_protocol::key::PersonId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Publish;
use flair_protocol::policy::Role;
use flair_protocol::state::{State, StepStatus};

use super::{Service, find_branch, find_commit, name_of, views};
use crate::api::types::{Problem, RevertRequest, Stepped, Taken, TakenUpdate};
use crate::repository::{Extras, Repository};
use crate::worker;

/// How long the worker may take to note a step.
const NOTED: Duration = Duration::from_secs(10);

impl Service {
    /// Makes the head's model and state those of an ancestor again, or proposes it; or tells what that would do.
    ///
    /// # Errors
    /// What is no ancestor of the head, a head that is another by now, no role.
    pub async fn revert(&self, request: RevertRequest) -> Result<Stepped, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = find_branch(&state, request.branch.as_deref(), folder.as_ref())?;
        let head = branch.head.ok_or_else(|| Problem::conflict("the branch has no commit yet"))?;
        expected(request.head.as_deref(), head)?;
        let target = find_commit(&state, &request.commit)?;
        if !state.path(head).contains(&target) {
            let kind = state.commits.get(&target).map_or("commit", |info| info.commit.kind());
            return Err(Problem::invalid(format!(
                "{kind} {} is not on the path to head {} of branch `{}`",
                target.short(),
                head.short(),
                branch.name
            ))
            .help("`flair log` shows the path: first commit, aggregates and what was decided beside them"));
        }
        if state.source(target) == state.source(head) {
            return Err(Problem::conflict(format!("the head has the model of {} already", target.short())));
        }
        let step = Step {
            author: self.hub.me(),
            branch: branch.id,
            parent: head,
            policy: state.revision(),
            change: Change::Revert { target },
            message: request.message,
            ext: std::collections::BTreeMap::new(),
        };
        let mut answer = foresee(&state, &step, &branch.name)?;
        let (before, after) = (state.lineage(head), state.lineage(target));
        let only = |of: &[CommitId], without: &[CommitId]| {
            of.iter().rev().filter(|one| !without.contains(*one)).map(|one| taken(&state, *one)).collect()
        };
        (answer.out, answer.back) = (only(&before, &after), only(&after, &before));
        answer.target = Some(target.to_string());
        if !request.dry_run {
            self.propose(&repository, step, &mut answer).await?;
        }
        Ok(answer)
    }

    /// Publishes a step that brings no bytes.
    async fn propose(
        &self,
        repository: &Arc<Repository>,
        step: Step,
        answer: &mut Stepped,
    ) -> Result<(), Problem> {
        let commit = Commit::Step(Box::new(step));
        commit.validate()?;
        let id = commit.id()?;
        let pack = PackId::from_digest(Digest::from_bytes([0; 32]));
        let body = Publish { id, commit, pack, pack_bytes: 0, result: None };
        self.hub.publish(repository, Body::Publish(Box::new(body)), Extras::default()).await?;
        answer.commit = Some(id.to_string());
        self.noted(repository, id).await?;
        let state = repository.state().await;
        answer.in_head = state.explain_step(id) == Some(StepStatus::OnPath);
        Ok(())
    }

    /// Notes which model a revert has, if that is here: what the worker does where a node runs.
    async fn noted(&self, repository: &Arc<Repository>, step: CommitId) -> Result<(), Problem> {
        let (state, shelf) = (repository.state().await, repository.shelf());
        if !state.source(step).is_some_and(|source| shelf.holds(source)) {
            return Ok(());
        }
        if self.hub.network.get().is_none() {
            return worker::ensure(&self.hub, repository, &state, step).await;
        }
        self.hub.wake.notify_one();
        // It goes on by itself where this takes longer.
        self.wait(NOTED, || async { shelf.holds(step).then_some(()) }).await;
        Ok(())
    }
}

/// What a step of this person's would come to.
fn foresee(state: &State, step: &Step, branch: &str) -> Result<Stepped, Problem> {
    let (me, role) = (step.author, state.role(step.author));
    if role.is_none_or(|role| role < Role::Contributor) {
        return Err(Problem::denied(format!(
            "only contributors, maintainers and delegates may propose a {}",
            step.change.kind()
        ))
        .help("ask with `flair join`"));
    }
    let needed = state.policy.as_ref().map_or(0, |policy| policy.accepts(step.branch)).max(1);
    let own = role >= Some(Role::Maintainer) && needed == 1;
    Ok(Stepped {
        commit: None,
        kind: step.change.kind().to_owned(),
        branch: branch.to_owned(),
        parent: step.parent.to_string(),
        target: None,
        merged: None,
        out: Vec::new(),
        back: Vec::new(),
        accepts: u32::from(own),
        needed,
        asked: if own { Vec::new() } else { deciders(state, |person| person != me) },
        in_head: false,
    })
}

/// Refuses where the head is not what somebody looked at.
fn expected(looked_at: Option<&str>, head: CommitId) -> Result<(), Problem> {
    match looked_at {
        Some(text) if text != head.to_string() => {
            Err(Problem::conflict(format!("the head is {} by now: look again", head.short())))
        }
        _ => Ok(()),
    }
}

/// Maintainers and delegates, by name.
pub(super) fn deciders(state: &State, which: impl Fn(PersonId) -> bool) -> Vec<String> {
    let members = state.members.keys().filter(|person| state.role(**person) >= Some(Role::Maintainer));
    members.filter(|person| which(**person)).map(|person| name_of(state, *person)).collect()
}

/// Who can still accept a step.
pub(super) fn asked(state: &State, step: CommitId) -> Vec<String> {
    let Some(info) = state.commits.get(&step) else { return Vec::new() };
    let Some(acceptance) = &info.acceptance else { return Vec::new() };
    let author = info.commit.author().filter(|_| acceptance.needed > 1);
    deciders(state, |person| !acceptance.by.contains(&person) && Some(person) != author)
}

/// The steps of a branch that wait for accepts, in words, a line each.
pub(super) fn proposed(state: &State, steps: &[CommitId]) -> Vec<String> {
    let line = |id: &CommitId| {
        let info = state.commits.get(id)?;
        let step = info.commit.step()?;
        let StepStatus::Waiting { accepts, needed, behind } = state.explain_step(*id)? else { return None };
        let late = match behind? {
            0 => String::new(),
            1 => ", 1 commit behind the head".to_owned(),
            behind => format!(", {behind} commits behind the head"),
        };
        let (kind, id, by) = (step.change.kind(), id.short(), name_of(state, step.author));
        let (words, from) = (views::words(step), asked(state, info.commit.id().ok()?).join(", "));
        Some(format!(
            "{kind} {id} by {by}, {words}{late}: {accepts} of {needed} accepts; {from} can give one"
        ))
    };
    steps.iter().filter_map(line).collect()
}

fn taken(state: &State, commit: CommitId) -> Taken {
    let info = state.commits.get(&commit);
    let updates = info.into_iter().flat_map(|info| info.commit.inputs()).filter_map(|input| {
        let Commit::Update(update) = state.commits.get(input)?.commit.as_ref() else { return None };
        let (name, message) = (name_of(state, update.author), update.message.clone());
        Some(TakenUpdate { commit: input.to_string(), name, message })
    });
    Taken {
        commit: commit.to_string(),
        kind: info.map_or("commit", |info| info.commit.kind()).to_owned(),
        updates: updates.collect(),
    }
}
