//! What a node needs to follow a repository's heads, and how it comes by each commit.
//!
//! With all history, everything on the heads' paths is fetched and run. A repository that was cloned without its
//! history starts from the heads of that time: an aggregate up to that generation is taken over when enough members
//! attest its result and nobody refutes it. What came later is run, as everywhere.

use std::collections::BTreeSet;

use flair_protocol::commit::Commit;
use flair_protocol::id::CommitId;
use flair_protocol::key::PersonId;
use flair_protocol::policy::Role;
use flair_protocol::state::{CommitInfo, Publication, State};

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
    pub(crate) fn of(state: &State, shelf: &Shelf, trust: &Trust) -> Self {
        let mut stack: Vec<CommitId> = Vec::new();
        for branch in state.open_branches() {
            match shelf.since() {
                None => stack.extend(&branch.path),
                Some(_) => stack.extend(branch.head),
            }
            stack.extend(&branch.pending);
            stack.extend(&branch.waiting);
            stack.extend(&branch.proposed);
        }
        let (mut seen, mut wanted) =
            (BTreeSet::new(), Self { fetch: Vec::new(), run: Vec::new(), missing: 0 });
        while let Some(commit) = stack.pop() {
            if shelf.settled(commit) || !seen.insert(commit) {
                continue;
            }
            match state.commits.get(&commit).map(|info| info.commit.as_ref()) {
                Some(Commit::Initial(_)) => wanted.fetch.push(commit),
                Some(Commit::Update(update)) if shelf.settled(update.base) => wanted.fetch.push(commit),
                Some(Commit::Update(update)) => stack.push(update.base),
                Some(Commit::Step(step)) if step.is_bare() => match state.source(commit) {
                    Some(source) if shelf.settled(source) => wanted.run.push(commit),
                    source => stack.extend(source),
                },
                Some(Commit::Step(step)) => {
                    if shelf.since().is_none() {
                        stack.extend(step.inputs());
                    }
                    match state.pack_base(commit).filter(|base| !shelf.settled(*base)) {
                        Some(base) => stack.push(base),
                        None => wanted.fetch.push(commit),
                    }
                }
                Some(Commit::Aggregate(_)) if trust.takes_over(state, shelf, commit) => {
                    match state.pack_base(commit).filter(|base| !shelf.settled(*base)) {
                        Some(base) => stack.push(base),
                        None => wanted.fetch.push(commit),
                    }
                }
                Some(Commit::Aggregate(recipe)) => {
                    let needs = recipe.inputs.iter().copied().chain([recipe.parent]);
                    let needs = needs.chain(state.pack_base(commit));
                    let missing: Vec<CommitId> = needs.filter(|needed| !shelf.settled(*needed)).collect();
                    if missing.is_empty() {
                        wanted.run.push(commit);
                    }
                    stack.extend(missing);
                }
                None => {}
            }
        }
        wanted.missing = seen.len();
        wanted.fetch.sort_unstable();
        wanted.run.sort_by_key(|commit| (state.generation(*commit), *commit));
        wanted
    }
}

/// Whose word is taken for an old aggregate's result.
pub(crate) struct Trust {
    /// Whose node it is; none when it may be anybody's.
    me: Option<PersonId>,
    /// How many others must attest it; fewer where there are fewer.
    attesters: usize,
}

impl Trust {
    /// `attesters` others, or all there are.
    pub(crate) fn new(state: &State, me: impl Into<Option<PersonId>>, attesters: usize) -> Self {
        let me = me.into();
        let others = state
            .members
            .iter()
            .filter(|(person, member)| {
                Some(**person) != me && member.revoked.is_none() && member.role >= Role::Contributor
            })
            .count();
        Self { me, attesters: attesters.min(others).max(1) }
    }

    /// Whether enough others attest a result, which somebody published, and nobody refutes it or attests another.
    pub(crate) fn holds(&self, info: &CommitInfo) -> bool {
        let [only] = info.claims.as_slice() else { return false };
        let others = only.supporters.iter().filter(|person| Some(**person) != self.me).count();
        only.refuters.is_empty() && others >= self.attesters && source(info).is_some()
    }

    /// Whether `commit` is an aggregate that this node fetches instead of running it.
    pub(crate) fn takes_over(&self, state: &State, shelf: &Shelf, commit: CommitId) -> bool {
        let old = shelf.since().is_some_and(|since| state.generation(commit).is_some_and(|at| at <= since));
        old && !shelf.doubts(commit) && state.commits.get(&commit).is_some_and(|info| self.holds(info))
    }
}

/// The publication that says where the tensors are: of an aggregate, one with the result that counts.
pub(crate) fn source(info: &CommitInfo) -> Option<&Publication> {
    match info.commit.as_ref() {
        Commit::Aggregate(_) => {
            info.effective().find(|made| made.result.is_some() && made.result == info.result)
        }
        _ => info.publication(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flair_protocol::commit::{Aggregate, KERNEL, MODE, Outcome};
    use flair_protocol::id::{BranchId, Digest, ModelId, OperationId, PackId, RepositoryId, StateId};
    use flair_protocol::key::SecretKey;
    use flair_protocol::state::{Claim, Effect};

    use super::*;

    fn person(number: u8) -> PersonId {
        SecretKey::from_bytes(&[number; 32]).public()
    }

    fn outcome(number: u8) -> Outcome {
        let digest = Digest::from_bytes([number; 32]);
        Outcome { model: ModelId::from_digest(digest), state: StateId::from_digest(digest) }
    }

    fn claim(number: u8, supporters: &[u8], refuters: &[u8]) -> Claim {
        let people = |numbers: &[u8]| numbers.iter().map(|number| person(*number)).collect();
        Claim { outcome: outcome(number), supporters: people(supporters), refuters: people(refuters) }
    }

    /// An aggregate that person 1 published with result 1.
    fn aggregate(claims: Vec<Claim>) -> CommitInfo {
        let zero = Digest::from_bytes([0; 32]);
        let recipe = Aggregate {
            repo: RepositoryId::from_digest(zero),
            branch: BranchId::from_digest(zero),
            parent: CommitId::from_digest(zero),
            inputs: Vec::new(),
            policy: OperationId::from_digest(zero),
            mode: MODE.to_owned(),
            kernel: KERNEL,
        };
        let publication = Publication {
            operation: OperationId::from_digest(zero),
            person: person(1),
            pack: PackId::from_digest(zero),
            pack_bytes: 0,
            result: Some(outcome(1)),
            time: 0,
            effect: Effect::Full,
        };
        CommitInfo {
            commit: Arc::new(Commit::Aggregate(recipe)),
            publications: vec![publication],
            reviews: Vec::new(),
            evaluations: Vec::new(),
            result: claims.first().map(|claim| claim.outcome),
            claims,
            skipped: false,
            acceptance: None,
        }
    }

    #[test]
    fn a_result_is_taken_over_only_where_enough_others_attest_it_and_nobody_says_otherwise() {
        let trust = Trust { me: Some(person(9)), attesters: 2 };
        let holds = |claims| trust.holds(&aggregate(claims));
        assert!(holds(vec![claim(1, &[1, 2], &[])]));
        assert!(!holds(vec![]));
        assert!(!holds(vec![claim(1, &[1], &[])]), "too few");
        assert!(!holds(vec![claim(1, &[1, 9], &[])]), "one's own word does not count");
        assert!(!holds(vec![claim(1, &[1, 2, 3], &[4])]), "refuted");
        assert!(!holds(vec![claim(1, &[1, 2, 3], &[]), claim(2, &[4], &[])]), "another result is attested");
        assert!(
            !holds(vec![claim(2, &[2, 3], &[])]),
            "nobody published this result, so nobody says where it is"
        );
    }
}
