//! Parts of answers that several commands give.

use flair_protocol::commit::{Change, Commit, Metric, Privacy, Step};
use flair_protocol::id::{BranchId, CommitId};
use flair_protocol::key::PersonId;
use flair_protocol::state::{self, State, StepStatus, UpdateStatus};

use super::{evaluations, name_of};
use crate::api::types::{Branch, LogEntry, MetricValue, UpdateNote};
use crate::folder::DraftRecord;
use crate::home::Verify;
use crate::hub::Hub;
use crate::repository::Repository;
use crate::worker::trust::contradicted;

/// A person's role, for people.
pub(super) fn role(state: &State, person: PersonId) -> String {
    state.role(person).map_or("none", flair_protocol::policy::Role::name).to_owned()
}

pub(super) fn branch(
    state: &State,
    repository: &Repository,
    branch: &state::Branch,
    current: Option<BranchId>,
) -> Branch {
    let model = branch.head.and_then(|head| super::model_of(repository, state, head));
    Branch {
        id: branch.id.to_string(),
        name: branch.name.clone(),
        head: branch.head.map(|head| head.to_string()),
        model: model.map(|model| model.to_string()),
        aggregates: branch.path.iter().filter(|commit| is_aggregate(state, **commit)).count() as u64,
        pending: branch.pending.len() as u64,
        current: current == Some(branch.id),
    }
}

fn is_aggregate(state: &State, commit: CommitId) -> bool {
    state.commits.get(&commit).is_some_and(|info| matches!(*info.commit, Commit::Aggregate(_)))
}

pub(super) fn metric(metric: &Metric) -> MetricValue {
    MetricValue { split: metric.split.clone(), name: metric.name.clone(), value: metric.value, n: metric.n }
}

pub(super) fn draft(draft: &DraftRecord) -> crate::api::types::Draft {
    crate::api::types::Draft {
        id: draft.id.to_string(),
        message: draft.message.clone(),
        examples: draft.training.examples,
        changed: draft.changed,
        privacy: super::privacy::said(draft).as_ref().map(privacy),
        time: draft.time,
    }
}

/// What an author claims of privacy, in words.
pub(super) fn privacy(claim: &Privacy) -> String {
    let sampled =
        if claim.sampling == "1" { String::new() } else { format!(" sampled at {}", claim.sampling) };
    let (s, multiplier) = if claim.steps == 1 { ("", "") } else { ("s", " each") };
    format!(
        "ε = {}, δ = {} per {} ({}), {} over {} step{s}{sampled}, noise {}{multiplier}, clipped at {} (by {})",
        claim.epsilon,
        claim.delta,
        claim.unit,
        claim.neighbouring,
        claim.mechanism,
        claim.steps,
        claim.noise,
        claim.clip,
        claim.accountant
    )
}

/// Where an update stands, in words.
pub(super) fn update(state: &State, commit: CommitId, skipped: Option<String>) -> Option<UpdateNote> {
    let (word, words) = match (state.explain(commit)?, skipped) {
        (UpdateStatus::InHead { aggregate }, Some(why)) => {
            ("skipped", format!("aggregate {} gave it weight 0: {why}", aggregate.short()))
        }
        (UpdateStatus::InHead { aggregate }, None) => {
            let kind = state.commits.get(&aggregate).map_or("aggregate", |info| info.commit.kind());
            ("in-head", format!("in the head, by {kind} {}", aggregate.short()))
        }
        (UpdateStatus::Reverted { aggregate, revert }, _) => {
            let kind = state.commits.get(&aggregate).map_or("aggregate", |info| info.commit.kind());
            let (aggregate, revert) = (aggregate.short(), revert.short());
            (
                "reverted",
                format!("was taken in by {kind} {aggregate}, and out of the head by revert {revert}"),
            )
        }
        (UpdateStatus::Pending { staleness: 0 }, _) => ("pending", "waits for the next aggregate".to_owned()),
        (UpdateStatus::Pending { staleness }, _) => {
            ("pending", format!("waits for the next aggregate, {staleness} behind"))
        }
        (UpdateStatus::Waiting { accepts, needed }, _) => {
            let mut lacks = Vec::new();
            if accepts < needed {
                lacks.push(format!("review: {accepts} of {needed} accepts"));
            }
            let lacking = state.lacking(commit);
            lacks.extend(
                lacking.iter().map(|(one, found)| format!("evaluations: {one}, met by {found} so far")),
            );
            let on = if lacks.is_empty() { "the update it stands on".to_owned() } else { lacks.join("; ") };
            ("waiting", format!("waits for {on}"))
        }
        (UpdateStatus::Dropped { why }, _) => ("dropped", why.to_string()),
        (UpdateStatus::Void { why }, _) => ("void", why.to_string()),
        (UpdateStatus::NoEffect { why }, _) => ("void", why.to_string()),
    };
    Some(UpdateNote { commit: commit.to_string(), state: word.to_owned(), words })
}

/// Where a step stands, in words.
pub(super) fn step(state: &State, commit: CommitId) -> Option<UpdateNote> {
    let (word, words) = match state.explain_step(commit)? {
        StepStatus::OnPath => {
            ("in-head", format!("on the path to the head, accepted by {}", accepters(state, commit)))
        }
        StepStatus::Waiting { accepts, needed, behind } => {
            let late = match behind {
                Some(0) => String::new(),
                Some(1) => "; 1 commit came after its parent and goes out of the head with it".to_owned(),
                Some(behind) => {
                    format!("; {behind} commits came after its parent and go out of the head with it")
                }
                None => "; its parent is not on the path to the head".to_owned(),
            };
            ("proposed", format!("waits for review: {accepts} of {needed} accepts{late}"))
        }
        StepStatus::PassedOver => {
            ("other-path", "was accepted; the path to the head takes another way".to_owned())
        }
        StepStatus::Void { why } => ("void", why.to_string()),
        StepStatus::NoEffect { why } => ("void", why.to_string()),
    };
    Some(UpdateNote { commit: commit.to_string(), state: word.to_owned(), words })
}

/// Who accepted a step.
pub(super) fn accepters(state: &State, commit: CommitId) -> String {
    let acceptance = state.commits.get(&commit).and_then(|info| info.acceptance.as_ref());
    let by = acceptance.into_iter().flat_map(|acceptance| &acceptance.by);
    by.map(|person| name_of(state, *person)).collect::<Vec<_>>().join(", ")
}

/// What a step says of itself, in a line.
pub(super) fn words(step: &Step) -> String {
    let words = match &step.change {
        Change::Revert { target } => format!("back to {}", target.short()),
        Change::External(external) => match external.inputs.len() {
            0 => format!("made by {}", external.engine),
            1 => format!("made by {} of 1 update", external.engine),
            count => format!("made by {} of {count} updates", external.engine),
        },
        Change::Migrate(_) => "another architecture, or other side files".to_owned(),
        Change::Merge(merge) => format!("of {} by {}", merge.other.short(), merge.method),
    };
    if step.message.is_empty() { words } else { format!("{words}: {}", step.message) }
}

/// A commit as lists show it.
pub(super) fn entry(state: &State, commit: CommitId) -> Option<LogEntry> {
    let info = state.commits.get(&commit)?;
    let publication = info.publication()?;
    let branch = state.branches.get(&info.commit.branch());
    let on_path = branch.is_some_and(|branch| branch.path.contains(&commit));
    let head = branch.is_some_and(|branch| branch.head == Some(commit));
    let claim = info.result.and_then(|result| info.claims.iter().find(|claim| claim.outcome == result));
    let mut entry = LogEntry {
        commit: commit.to_string(),
        kind: info.commit.kind().to_owned(),
        author: publication.person.to_string(),
        name: name_of(state, publication.person),
        time: publication.time,
        message: String::new(),
        parent: None,
        inputs: Vec::new(),
        examples: 0,
        metrics: Vec::new(),
        privacy: None,
        evaluations: evaluations::all(state, info),
        in_head: on_path,
        state: match (head, on_path) {
            (true, _) => "head",
            (false, true) => "in-head",
            (false, false) => "other-path",
        }
        .to_owned(),
        attestations: claim.map_or(0, |claim| claim.supporters.len() as u64),
        refutations: info.claims.iter().map(|claim| claim.refuters.len() as u64).sum(),
    };
    match info.commit.as_ref() {
        Commit::Initial(initial) => entry.message.clone_from(&initial.message),
        Commit::Update(update) => {
            entry.message.clone_from(&update.message);
            entry.parent = Some(update.base.to_string());
            entry.examples = update.training.examples;
            entry.metrics = update.metrics.iter().map(metric).collect();
            entry.privacy = update.privacy.as_ref().map(privacy);
            if let Some(note) = self::update(state, commit, None) {
                entry.in_head = note.state == "in-head";
                entry.state = note.state;
            }
        }
        Commit::Step(step) => {
            entry.message = words(step);
            entry.parent = Some(step.parent.to_string());
            entry.inputs = step.inputs().iter().map(ToString::to_string).collect();
            if let Some(note) = self::step(state, commit).filter(|note| note.state != "in-head") {
                entry.state = note.state;
            }
        }
        Commit::Aggregate(aggregate) => {
            let persons: std::collections::BTreeSet<String> = aggregate
                .inputs
                .iter()
                .filter_map(|input| state.commits.get(input)?.commit.author())
                .map(|author| name_of(state, author))
                .collect();
            let (count, people) =
                (aggregate.inputs.len(), persons.into_iter().collect::<Vec<_>>().join(", "));
            entry.message =
                format!("aggregate of {count} {} by {people}", if count == 1 { "update" } else { "updates" });
            entry.parent = Some(aggregate.parent.to_string());
            entry.inputs = aggregate.inputs.iter().map(ToString::to_string).collect();
        }
    }
    if !info.is_effective() && !matches!(info.commit.as_ref(), Commit::Update(_)) {
        "void".clone_into(&mut entry.state);
    }
    Some(entry)
}

/// Who attests an aggregate that this node took over and did not run; nobody for any other commit.
pub(super) fn attested(repository: &Repository, state: &State, commit: CommitId) -> Vec<String> {
    let Some(held) = repository.shelf().held(commit).filter(|held| held.attested) else { return Vec::new() };
    let claims = state.commits.get(&commit).map_or(&[][..], |info| info.claims.as_slice());
    let claim = claims.iter().find(|claim| Some(claim.outcome) == held.outcome());
    claim.map_or_else(Vec::new, |claim| claim.supporters.iter().map(|who| name_of(state, *who)).collect())
}

/// What speaks against a model that this node took as others attest it, in words; none where nobody contradicts.
pub(super) fn doubt(repository: &Repository, state: &State, commit: CommitId) -> Option<String> {
    let people: Vec<String> = contradicted(state, repository.shelf(), commit)
        .into_iter()
        .map(|person| name_of(state, person))
        .collect();
    if people.is_empty() {
        return None;
    }
    let by = attested(repository, state, commit);
    let by = if by.is_empty() { "others attested".to_owned() } else { format!("{} attest", by.join(", ")) };
    let s = if people.len() == 1 { "s" } else { "" };
    let people = people.join(", ");
    Some(format!("{} was taken as {by} it, and {people} contradict{s} that", commit.short()))
}

/// What this node takes without running it, and how the head came here, in words; none where it runs everything.
pub(super) fn trust(
    hub: &Hub,
    repository: &Repository,
    state: &State,
    head: Option<CommitId>,
) -> Option<String> {
    let way = hub.config.verify_of(&state.repo.to_string());
    let takes = match way {
        Verify::Always => return None,
        Verify::Sample(share) => format!(
            "sample: runs {} % of the aggregates, and takes of the others what {} other members attest and nobody \
             contradicts",
            share.value() * 100.0,
            hub.config.attesters
        ),
        Verify::Quorum(count) => {
            format!("light: takes results that {count} other members attest and nobody contradicts")
        }
    };
    let Some(head) = head.filter(|head| is_aggregate(state, *head)) else { return Some(takes) };
    let wait = hub.config.quorum_wait;
    let held = repository.shelf().held(head);
    let here = match (&held, doubt(repository, state, head)) {
        (Some(_), Some(doubt)) => format!("this head, {doubt}: it is run here after {wait} s"),
        (Some(held), None) if held.attested => {
            let by = attested(repository, state, head).join(", ");
            format!("this head is attested by {by}; not run here")
        }
        (Some(_), None) => "this head was run here".to_owned(),
        (None, _) => {
            let claims = state.commits.get(&head).map_or(&[][..], |info| info.claims.as_slice());
            let by: Vec<String> =
                claims.iter().flat_map(|claim| &claim.supporters).map(|who| name_of(state, *who)).collect();
            let by = if by.is_empty() { "nobody".to_owned() } else { by.join(", ") };
            format!("this head is attested by {by} so far; what can't be taken is run here after {wait} s")
        }
    };
    Some(format!("{takes}; {here}"))
}

/// From where on history is here, in words; none where all of it is, or will be.
pub(super) fn history(repository: &Repository, state: &State) -> Option<String> {
    let since = repository.shelf().since()?;
    let held = repository.shelf().all();
    let newest =
        held.iter().filter(|(_, held)| held.attested).max_by_key(|(commit, _)| state.generation(*commit));
    let people = newest.map_or_else(Vec::new, |(commit, _)| attested(repository, state, *commit));
    let word = match people.as_slice() {
        [] => "others attest them".to_owned(),
        people => format!("{} attest them", people.join(", ")),
    };
    Some(format!(
        "models up to aggregate number {since} are taken as {word}, and were not run here: `flair fetch --full` gets \
         and checks all history"
    ))
}
