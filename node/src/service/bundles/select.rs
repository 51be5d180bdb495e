//! Which commits' models go into a bundle, and in which order.

use std::collections::BTreeSet;

use flair_protocol::commit::Commit;
use flair_protocol::id::CommitId;
use flair_protocol::state::State;

use crate::shelf::Shelf;
use crate::worker::compute;
use crate::worker::trust::Trust;

/// What goes into a bundle.
pub(super) struct Selection {
    /// Commits, each after what it stands on. Aggregates are run by the reader, so they are not among them, but for
    /// those that are taken over as attested.
    pub(super) commits: Vec<CommitId>,
    /// Up to which generation aggregates are taken over as attested.
    pub(super) attested: Option<u64>,
    /// Commits that a reader needs and this node does not have.
    pub(super) absent: usize,
}

/// What a reader needs who has the commits `had`: the heads with all that led to them, and what is pending. With
/// `latest`, or where this node has no history itself, old aggregates are taken over as attested.
pub(super) fn select(
    state: &State,
    shelf: &Shelf,
    had: &BTreeSet<CommitId>,
    attesters: usize,
    latest: bool,
) -> Selection {
    // Who reads it is not known: anybody's word counts but their own.
    let trust = Trust::new(state, None, attesters);
    let heads = state.open_branches().filter_map(|branch| state.generation(branch.head?));
    let attested = if latest { heads.max() } else { shelf.since() };
    let taken_over = |commit: CommitId| {
        attested.is_some_and(|since| state.generation(commit).is_some_and(|at| at <= since))
            && state.commits.get(&commit).is_some_and(|info| trust.holds_old(info))
    };
    let mut selection = Selection { commits: Vec::new(), attested, absent: 0 };
    let mut seen = BTreeSet::new();
    let mut stack: Vec<(CommitId, bool)> = Vec::new();
    for branch in state.open_branches() {
        let roots = branch
            .waiting
            .iter()
            .chain(&branch.proposed)
            .chain(&branch.pending)
            .rev()
            .copied()
            .chain(branch.head);
        stack.extend(roots.map(|commit| (commit, false)));
    }
    while let Some((commit, visited)) = stack.pop() {
        let Some(info) = state.commits.get(&commit) else { continue };
        let recipe = info.commit.is_recipe();
        if let Some(step) = info.commit.step().filter(|step| step.is_bare()) {
            // A revert has no bytes of its own; who wants all history wants what it reverted too.
            let needs = state.source(commit).into_iter().chain(attested.is_none().then_some(step.parent));
            stack.extend(needs.map(|needed| (needed, false)));
            continue;
        }
        if visited {
            if shelf.holds(commit) {
                selection.commits.push(commit);
            } else {
                selection.absent += 1;
            }
            continue;
        }
        if had.contains(&commit) || !seen.insert(commit) {
            continue;
        }
        if !recipe || taken_over(commit) {
            stack.push((commit, true));
        }
        match info.commit.as_ref() {
            Commit::Initial(_) => {}
            recipe if recipe.is_recipe() => {
                let base = state.pack_base(commit);
                let needs = compute::needs(state, recipe).into_iter().flatten();
                let needs = needs.filter(|_| !taken_over(commit)).chain(base);
                stack.extend(needs.map(|needed| (needed, false)));
            }
            Commit::Step(step) => {
                let history = step.inputs().iter().copied().chain([step.parent]);
                let needs = history.filter(|_| attested.is_none()).chain(state.pack_base(commit));
                stack.extend(needs.map(|needed| (needed, false)));
            }
            Commit::Update(update) => stack.push((update.base, false)),
            Commit::Aggregate(_) => {}
        }
    }
    selection
}
