//! Checking everything behind a model again: signatures, standing, bytes, sums; and naming who stands behind what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use flair_protocol::commit::{Change, Commit};
use flair_protocol::id::{CommitId, Digest, ModelId};
use flair_protocol::key::PersonId;
use flair_protocol::limits;
use flair_protocol::state::{Effect, State};

use super::people::approvals;
use super::{Service, find_branch, find_commit, local, model_of, name_of, policy, reviews, views};
use crate::api::types::{Audit, AuditPerson, AuditRequest, AuditStep, Problem};
use crate::repository::{Repository, wall};
use crate::shelf::Held;
use crate::store::{Missing, Problem as Bad};
use crate::worker::compute;

/// Names of side files that state a licence.
const LICENCES: [&str; 4] = ["license", "licence", "copying", "notice"];

/// What is said of models that were made outside Flair.
const OUTSIDE: &str = "{} made outside Flair and can't be derived again: what is known of such a model is who published \
     it, of which updates they say it was made, and who accepted it";

impl Service {
    /// Checks everything behind a commit's model again.
    ///
    /// # Errors
    /// No such commit, a store that can't be read at all. What is wrong with the model is in the answer.
    pub async fn audit(&self, request: AuditRequest) -> Result<Audit, Problem> {
        let started = Instant::now();
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let commit = match &request.commit {
            Some(text) => find_commit(&state, text)?,
            None => find_branch(&state, None, folder.as_ref())?
                .head
                .ok_or_else(|| Problem::missing("the branch has no commit yet"))?,
        };
        let info =
            state.commits.get(&commit).ok_or_else(|| Problem::internal("a commit without publication"))?;
        let behind = behind(&state, commit);
        let mut doubts = general(&state);
        if behind.is_empty() {
            doubts.push(format!("{} does not count: {}", commit.short(), words(info.effect())));
        }
        let mut damage = Vec::new();
        let (operations, _) = self.operations(&repository, &mut damage).await?;
        doubts.extend(damage.into_iter().map(|one| format!("operation {} {}", one.blob, one.problem)));
        self.hub.tell("work", Some(repository.id()), "reading everything behind the model");
        let missing = self.hub.store.verify().await?;
        let mut steps = Vec::new();
        for (place, one) in behind.iter().enumerate() {
            let text = format!("auditing {}", one.short());
            self.hub.progress(repository.id(), text, place as u64, behind.len() as u64);
            steps.extend(self.step(&repository, &state, *one, &missing).await?);
        }
        let twice: BTreeSet<PersonId> = state.equivocations.iter().map(|fork| fork.author).collect();
        let people = people(&state, &behind);
        for (person, _) in people.iter().filter(|(person, _)| twice.contains(*person)) {
            doubts.push(format!(
                "{} signed two different operations with one number: their key may be stolen",
                name_of(&state, *person)
            ));
        }
        let approvals = repository.graph(|graph| approvals(&state, graph)).await;
        let revisions = state.chain.iter().filter_map(|id| Some((*id, state.revisions.get(id)?)));
        let model = model_of(&repository, &state, commit);
        let (licences, mut notes) = self.licences(model).await;
        if steps.iter().all(|step: &AuditStep| step.privacy.is_none()) {
            notes.push("no contributor claims differential privacy: updates may tell of the data".to_owned());
        }
        let outside = behind.iter().filter(|one| {
            let step = state.commits.get(one).and_then(|info| info.commit.step());
            step.is_some_and(|step| matches!(step.change, Change::External(_)))
        });
        match outside.count() {
            0 => {}
            1 => notes.push(OUTSIDE.replace("{}", "1 commit was")),
            count => notes.push(OUTSIDE.replace("{}", &format!("{count} commits were"))),
        }
        let branch = state.branches.get(&info.commit.branch());
        Ok(Audit {
            repo: repository.id().to_string(),
            name: state.name.clone(),
            branch: branch.map_or_else(String::new, |branch| branch.name.clone()),
            commit: commit.to_string(),
            model: model.map(|model| model.to_string()),
            time: wall(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            operations,
            bytes: self.hub.store.referenced_bytes().await?,
            people: people
                .into_iter()
                .map(|(person, updates)| AuditPerson {
                    person: person.to_string(),
                    name: name_of(&state, person),
                    role: views::role(&state, person),
                    updates,
                    approval: approvals.get(&person).cloned(),
                })
                .collect(),
            policies: revisions.map(|(id, info)| policy::view(&state, id, info)).collect(),
            licences,
            doubts,
            notes,
            steps,
            millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Checks one commit.
    async fn step(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        commit: CommitId,
        missing: &[Missing],
    ) -> Result<Option<AuditStep>, Problem> {
        let Some((entry, info)) = views::entry(state, commit).zip(state.commits.get(&commit)) else {
            return Ok(None);
        };
        let mut doubts = Vec::new();
        if !info.is_effective() {
            doubts.push(format!("it does not count by itself any more: {}", words(info.effect())));
        }
        let held = repository.shelf().held(commit);
        if let Some(held) = &held {
            doubts.extend(bytes(held, missing));
        }
        let mut checked = match (&held, repository.shelf().faulty(commit)) {
            (Some(_), _) => "bytes read and compared with their hashes".to_owned(),
            (None, Some(why)) => format!("its bytes are wrong ({why}): aggregates skip it"),
            (None, None) => {
                doubts.push("its model is not here".to_owned());
                "its model is not here".to_owned()
            }
        };
        if let Some(step) = info.commit.step() {
            let by = views::accepters(state, commit);
            checked = match (&step.change, &held) {
                (Change::Revert { target }, Some(_)) => {
                    format!("the model of {}; accepted by {by}", target.short())
                }
                (Change::External(external), _) => {
                    format!(
                        "{checked}; made by {}, which nobody can run again here; accepted by {by}",
                        external.engine
                    )
                }
                _ => format!("{checked}; accepted by {by}"),
            };
        }
        if info.commit.is_recipe() {
            for claim in &info.claims {
                if !claim.refuters.is_empty() || Some(claim.outcome) != info.result {
                    let people = claim.supporters.iter().chain(&claim.refuters);
                    let people: Vec<String> = people.map(|person| name_of(state, *person)).collect();
                    doubts.push(format!("people disagree about its result: {}", people.join(", ")));
                }
            }
            match self.rerun(repository, state, commit).await {
                Ok(words) => checked = format!("{checked}; {words}"),
                Err(doubt) => doubts.push(doubt),
            }
        }
        Ok(Some(AuditStep {
            model: model_of(repository, state, commit).map(|model| model.to_string()),
            checked,
            privacy: entry.privacy.clone(),
            reviews: reviews::all(state, info),
            doubts,
            entry,
        }))
    }

    /// Runs a recipe again: what came of it, or what speaks against its result.
    async fn rerun(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        commit: CommitId,
    ) -> Result<String, String> {
        let result = state.commits.get(&commit).and_then(|info| info.result);
        let made = compute::again(&self.hub, repository, state, commit)
            .await
            .map_err(|problem| format!("its recipe could not be run again: {}", problem.message))?;
        match result {
            Some(result) if result == made.outcome => {
                Ok("recipe run again: the same, bit for bit".to_owned())
            }
            Some(result) => {
                Err(format!("its recipe gives model {}, not {}", made.outcome.model, result.model))
            }
            None => Err("nobody claims a result of it".to_owned()),
        }
    }

    /// What the model's side files say of its licence.
    async fn licences(&self, model: Option<ModelId>) -> (Vec<String>, Vec<String>) {
        let mut licences = Vec::new();
        let Some(model) = model else { return (licences, Vec::new()) };
        let Ok(manifest) = local::manifest(&self.hub, model).await else { return (licences, Vec::new()) };
        for side in &manifest.side {
            let name = side.name.to_lowercase();
            let licence = LICENCES.iter().any(|word| name.starts_with(word));
            if !licence && name != "readme.md" {
                continue;
            }
            let Ok(raw) = self.hub.store.read_all(side.blob, limits::SIDE_FILE).await else { continue };
            let text = String::from_utf8_lossy(&raw);
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let line = if licence { lines.next() } else { lines.find(|line| line.starts_with("license:")) };
            licences.extend(
                line.map(|line| format!("{}: {}", side.name, line.chars().take(200).collect::<String>())),
            );
        }
        let notes =
            if licences.is_empty() { vec!["no file states a licence".to_owned()] } else { Vec::new() };
        (licences, notes)
    }
}

/// Every commit behind one, and it itself, oldest first: first commit, then each aggregate after its inputs and each
/// revert, then own updates up to the one. Empty for one that does not count.
fn behind(state: &State, commit: CommitId) -> Vec<CommitId> {
    let mut chain = Vec::new();
    let mut at = commit;
    while let Some(Commit::Update(update)) = state.commits.get(&at).map(|info| info.commit.as_ref()) {
        chain.push(at);
        at = update.base;
    }
    let mut all = Vec::new();
    // What was reverted is not behind the model; that it was, and who decided so, is.
    let lineage = state.lineage(at);
    let path = state.path(at);
    for one in path.iter().filter(|one| lineage.contains(*one) || is_step(state, **one)) {
        all.extend(merged(state, *one).iter().flat_map(|one| with_inputs(state, *one)));
        all.extend(with_inputs(state, *one));
    }
    if !all.is_empty() {
        all.extend(chain.into_iter().rev());
    }
    let mut seen = BTreeSet::new();
    all.retain(|one| seen.insert(*one));
    all
}

/// The updates that a commit of the tree took in, and it.
fn with_inputs(state: &State, commit: CommitId) -> Vec<CommitId> {
    let inputs = state.commits.get(&commit).into_iter().flat_map(|info| info.commit.inputs());
    inputs.copied().chain([commit]).collect()
}

/// The commits that a merge brought in, but for those that had been reverted before; none for another commit.
pub(super) fn merged(state: &State, commit: CommitId) -> Vec<CommitId> {
    let Some(info) = state.commits.get(&commit) else { return Vec::new() };
    let Some((merge, parent)) = info.commit.merge().zip(info.commit.base()) else { return Vec::new() };
    brought(state, merge.other, parent)
}

/// The commits that `other` would bring into `parent`, but for those that had been reverted before.
pub(super) fn brought(state: &State, other: CommitId, parent: CommitId) -> Vec<CommitId> {
    let (path, lineage) = (state.path(other), state.lineage(other));
    let stands = |one: &CommitId| !path.contains(one) || lineage.contains(one) || is_step(state, *one);
    state.beside(other, parent).into_iter().filter(stands).collect()
}

fn is_step(state: &State, commit: CommitId) -> bool {
    state.commits.get(&commit).is_some_and(|info| info.commit.step().is_some())
}

/// What speaks against the repository as a whole.
fn general(state: &State) -> Vec<String> {
    let mut doubts: Vec<String> = policy::frozen(state).into_iter().collect();
    if let Some(level) = state.needs_level {
        doubts.push(format!("the policy needs level {level}, which this version of Flair does not know"));
    }
    if !state.above.is_empty() {
        doubts.push(format!("{} operations are of a newer version of Flair", state.above.len()));
    }
    doubts
}

/// What of a commit's blobs is missing or damaged.
fn bytes(held: &Held, missing: &[Missing]) -> Vec<String> {
    let blobs: Vec<Digest> = held.blobs();
    let touched = missing.iter().filter(|one| blobs.contains(&one.root) || blobs.contains(&one.blob));
    let word = |problem| match problem {
        Bad::Absent => "missing",
        Bad::Damaged => "damaged",
    };
    touched.map(|one| format!("blob {} is {}", one.blob.short(), word(one.problem))).collect()
}

/// Who has to do with commits: authors, reviewers, evaluators, and the delegates who made the policies; with the number
/// of their updates.
fn people(state: &State, behind: &[CommitId]) -> BTreeMap<PersonId, u64> {
    let mut people: BTreeMap<PersonId, u64> = BTreeMap::new();
    for info in behind.iter().filter_map(|one| state.commits.get(one)) {
        if let Some(author) = info.commit.author() {
            *people.entry(author).or_default() += u64::from(matches!(*info.commit, Commit::Update(_)));
        }
        let accepts = info.acceptance.iter().flat_map(|acceptance| &acceptance.by).copied();
        let reviewers = info.reviews.iter().map(|review| review.person).chain(accepts);
        let others = reviewers.chain(info.evaluations.iter().map(|by| by.person));
        for person in others {
            people.entry(person).or_default();
        }
    }
    for info in state.chain.iter().filter_map(|id| state.revisions.get(id)) {
        for person in &info.approvals {
            people.entry(*person).or_default();
        }
    }
    people
}

fn words(effect: Effect) -> String {
    match effect {
        Effect::Full => "no aggregate counts that it is in".to_owned(),
        Effect::None(why) => why.to_string(),
        Effect::Void(why) => why.to_string(),
    }
}
