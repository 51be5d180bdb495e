//! Where folder and repository stand.

use std::collections::BTreeSet;

use flair_protocol::commit::Commit;
use flair_protocol::id::CommitId;
use flair_protocol::policy::Role;
use flair_protocol::state::State;

use super::local::{self, Files};
use super::publish::QUEUED;
use super::{Service, checked_head, find_branch, policy, steps, views};
use crate::api::types::{At, Change, JoinWaiting, Problem, Status, UpdateNote, WorkStatus};
use crate::folder::Folder;
use crate::models::Model;
use crate::repository::Repository;

/// Names of tensors that are listed.
const NAMES: usize = 20;

impl Service {
    /// Where folder and repository stand.
    ///
    /// # Errors
    /// No such repository, a damaged folder.
    pub async fn status(&self, request: At) -> Result<Status, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let me = self.hub.me();
        let branch = find_branch(&state, None, folder.as_ref())?;
        let next = state.next_inputs(branch.id);
        let work = match &folder {
            None => None,
            Some(folder) => Some(self.work_status(&repository, &state, folder).await?),
        };
        let mut joins = Vec::new();
        if state.role(me) >= Some(Role::Maintainer) {
            joins = repository
                .engine(|engine| {
                    let waiting = engine.joins().filter(|join| state.role(join.person).is_none());
                    waiting
                        .map(|join| JoinWaiting {
                            person: join.person.to_string(),
                            name: join.name.clone(),
                            time: join.time,
                        })
                        .collect()
                })
                .await;
        }
        let mut warnings: Vec<String> = state
            .equivocations
            .iter()
            .map(|twice| {
                format!(
                    "{} signed two different operations numbered {}: their key may be stolen, or their home was restored \
                     from a backup; nothing of theirs from there on counts",
                    super::name_of(&state, twice.author),
                    twice.seq
                )
            })
            .collect();
        warnings.extend(policy::frozen(&state));
        if !state.above.is_empty() {
            warnings.push(format!(
                "{} operations are of a newer version of Flair: they are passed on, and have no effect here",
                state.above.len()
            ));
        }
        if !self.hub.store.missing().is_empty() {
            let count = self.hub.store.missing().len();
            warnings
                .push(format!("{count} blobs are missing or damaged on this disk: `flair fsck` names them"));
        }
        let (damaged, waiting) = repository.lost().await;
        if !damaged.is_empty() || waiting > 0 {
            warnings.push(format!(
                "{} operations are damaged on this disk, and {waiting} that follow them have no effect until those are here \
                 again: `flair fsck` gets them from a peer",
                damaged.len()
            ));
        }
        if let Some(folder) = &folder {
            warnings.extend(self.external_words(folder).await?);
        }
        let base = folder.as_ref().map(|folder| folder.state.base);
        let stood: BTreeSet<CommitId> = branch.path.iter().copied().chain(base).collect();
        for doubt in stood.into_iter().filter_map(|commit| views::doubt(&repository, &state, commit)) {
            warnings.push(format!("{doubt}: no folder is moved onto it; `flair verify` runs it now"));
        }
        if let Some(problem) = self.hub.desk.full(repository.id()) {
            warnings.push(problem.message);
        }
        Ok(Status {
            repo: repository.id().to_string(),
            name: state.name.clone(),
            private: state.private(),
            role: views::role(&state, me),
            node: self.hub.network.get().is_some(),
            peers: repository.engine(|engine| engine.peers().count() as u64).await,
            branch: branch.name.clone(),
            head: branch.head.map(|head| head.to_string()),
            head_verified: branch
                .head
                .is_some_and(|head| checked_head(&repository, &state, branch.id) == Some(head)),
            head_attested: branch
                .head
                .map_or_else(Vec::new, |head| views::attested(&repository, &state, head)),
            trust: views::trust(&self.hub, &repository, &state, branch.head),
            history: views::history(&repository, &state),
            work,
            last_update: self.last_update(&repository, &state).await,
            pending: branch.pending.len() as u64,
            persons: next.as_ref().map_or(0, |next| next.persons.len() as u64),
            needed: next.as_ref().map_or(0, |next| u64::from(next.needed)),
            joins,
            proposed: steps::proposed(&state, &branch.proposed),
            asked: policy::asked(&state, me),
            privacy: self.privacy_words(&repository, &state, folder.as_ref()).await?,
            warnings,
        })
    }

    async fn work_status(
        &self,
        repository: &Repository,
        state: &State,
        folder: &Folder,
    ) -> Result<WorkStatus, Problem> {
        let tip = local::manifest(&self.hub, folder.tip()).await?;
        let mut changes = Vec::new();
        match Files::read(folder, &tip, false).await {
            Ok(files) => {
                let changed = files.changed(&tip);
                for file in &tip.files {
                    let names: Vec<String> = file
                        .tensors
                        .iter()
                        .map(|tensor| tensor.name.clone())
                        .filter(|name| changed.contains(name))
                        .collect();
                    if !names.is_empty() {
                        changes.push(Change {
                            file: file.name.clone(),
                            state: "modified".to_owned(),
                            count: names.len() as u64,
                            tensors: names.into_iter().take(NAMES).collect(),
                            total: file.tensors.len() as u64,
                        });
                    }
                }
            }
            Err(problem) => {
                for file in &tip.files {
                    let exists = folder.root().join(&file.name).exists();
                    let state = if exists { problem.message.clone() } else { "missing".to_owned() };
                    let total = file.tensors.len() as u64;
                    changes.push(Change {
                        file: file.name.clone(),
                        state,
                        tensors: Vec::new(),
                        count: 0,
                        total,
                    });
                }
            }
        }
        let anchor = state.base(folder.state.base).unwrap_or(folder.state.base);
        let branch = state.branches.get(&folder.state.branch);
        let behind = branch.and_then(|branch| {
            let place = branch.path.iter().position(|commit| *commit == anchor)?;
            Some((branch.path.len() - 1 - place) as u64)
        });
        let queued = self.hub.store.facts(repository.id().digest(), QUEUED).await?;
        Ok(WorkStatus {
            folder: folder.root().display().to_string(),
            base: folder.state.base.to_string(),
            behind,
            local: tip
                .tensors()
                .filter(|tensor| tensor.role == flair_tensors::role::Role::Local)
                .map(|tensor| tensor.name.clone())
                .collect(),
            changes,
            drafts: folder.state.drafts.iter().map(views::draft).collect(),
            queued: queued
                .iter()
                .filter_map(|(name, _)| name.strip_prefix(QUEUED))
                .map(str::to_owned)
                .collect(),
        })
    }

    async fn last_update(&self, repository: &Repository, state: &State) -> Option<UpdateNote> {
        let me = self.hub.me();
        let mine = state.commits.iter().filter(|(_, info)| match info.commit.as_ref() {
            Commit::Update(update) => update.author == me,
            _ => false,
        });
        // Operations of one author are numbered: the newest is the one with the most of their operations before.
        let mut newest: Option<(u64, CommitId)> = None;
        for (commit, info) in mine {
            let Some(publication) = info.publication() else { continue };
            let order =
                repository.graph(|graph| graph.get(publication.operation).map(|op| op.header().seq)).await?;
            if newest.is_none_or(|(most, _)| order >= most) {
                newest = Some((order, *commit));
            }
        }
        let commit = newest?.1;
        views::update(state, commit, self.skipped(repository, state, commit).await)
    }

    /// Why the aggregate that consumed an update gave it weight 0, where this node ran that aggregate.
    pub(super) async fn skipped(
        &self,
        repository: &Repository,
        state: &State,
        update: CommitId,
    ) -> Option<String> {
        let branch = state.branches.get(&state.commits.get(&update)?.commit.branch())?;
        let consumer = state.consumer(update, branch.head?)?;
        let held = repository.shelf().held(consumer)?;
        let model = Model::load(&self.hub.store, &held).await.ok()?;
        model.state.skipped.into_iter().find(|skipped| skipped.commit == update).map(|skipped| skipped.reason)
    }
}
