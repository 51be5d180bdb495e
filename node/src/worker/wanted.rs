//! What a node needs to follow a repository's heads, and how it comes by each commit.
//!
//! With all history, everything on the heads' paths is had: what is run with its inputs, what is taken as others attest
//! it without. A repository that was cloned without its history starts from the heads of that time: an aggregate up to
//! that generation is taken over when enough members attest its result and nobody refutes it. What came later is had
//! as everywhere.

use std::collections::BTreeSet;

use flair_protocol::commit::Commit;
use flair_protocol::id::CommitId;
use flair_protocol::state::State;

use super::compute;
use super::trust::{Trust, Way};
use crate::shelf::Shelf;

/// Commits to get now.
pub(crate) struct Wanted {
    /// First commits, updates and attested aggregates to fetch, whose bases are here.
    pub(crate) fetch: Vec<CommitId>,
    /// Aggregates to run, and reverts to note, that nothing is missing for, parents first.
    pub(crate) run: Vec<CommitId>,
    /// Commits that are not here, as far as can be seen now.
    pub(crate) missing: usize,
}

impl Wanted {
    /// The heads with what they stand on, everything pending, and what that was trained from.
    pub(crate) fn of(state: &State, shelf: &Shelf, trust: &Trust<'_>) -> Self {
        let mut stack: Vec<CommitId> = trust.asked();
        let settled = |commit: CommitId| trust.settled(state, shelf, commit);
        for branch in state.open_branches() {
            match shelf.since() {
                None => stack.extend(&branch.path),
                Some(_) => stack.extend(branch.head),
            }
            if trust.gathers(state, branch.id) {
                stack.extend(&branch.pending);
            }
            if trust.reviews(state) {
                stack.extend(&branch.waiting);
                stack.extend(&branch.proposed);
            }
        }
        let (mut seen, mut wanted) =
            (BTreeSet::new(), Self { fetch: Vec::new(), run: Vec::new(), missing: 0 });
        while let Some(commit) = stack.pop() {
            if settled(commit) || !seen.insert(commit) {
                continue;
            }
            match state.commits.get(&commit).map(|info| info.commit.as_ref()) {
                Some(Commit::Initial(_)) => wanted.fetch.push(commit),
                Some(Commit::Update(update)) if settled(update.base) => wanted.fetch.push(commit),
                Some(Commit::Update(update)) => stack.push(update.base),
                Some(Commit::Step(step)) if step.is_bare() => match state.source(commit) {
                    Some(source) if settled(source) => wanted.run.push(commit),
                    source => stack.extend(source),
                },
                Some(recipe) if recipe.is_recipe() => {
                    let way = trust.way(state, shelf, commit);
                    let base = state.pack_base(commit);
                    let unserved = way == Way::Take && trust.unserved(commit);
                    let needs = compute::needs(state, recipe).into_iter().flatten().chain(base);
                    let missing: Vec<CommitId> = needs.filter(|needed| !settled(*needed)).collect();
                    match way {
                        Way::Run if missing.is_empty() => wanted.run.push(commit),
                        // Nobody has the result, as far as was seen: what it is made of does as well.
                        Way::Take if unserved && missing.is_empty() => wanted.run.push(commit),
                        Way::Take => match base.filter(|base| !settled(*base)) {
                            Some(base) => stack.push(base),
                            None => wanted.fetch.push(commit),
                        },
                        Way::Run | Way::Wait => {}
                    }
                    if way == Way::Run || unserved {
                        stack.extend(missing);
                    }
                }
                Some(Commit::Step(step)) => {
                    if shelf.since().is_none() && !trust.light() {
                        stack.extend(step.inputs());
                    }
                    match state.pack_base(commit).filter(|base| !settled(*base)) {
                        Some(base) => stack.push(base),
                        None => wanted.fetch.push(commit),
                    }
                }
                Some(Commit::Aggregate(_)) | None => {}
            }
        }
        wanted.missing = seen.len();
        wanted.fetch.sort_unstable();
        wanted.run.sort_by_key(|commit| (state.generation(*commit), *commit));
        wanted
    }
}
