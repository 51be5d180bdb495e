//! What steps come to: which follow the rules, and which were accepted.

use std::collections::BTreeSet;

use flair_protocol::commit::{Change, Commit, KERNEL, Step};
use flair_protocol::id::{BranchId, CommitId, OperationId};
use flair_protocol::key::PersonId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Judgement;
use flair_protocol::policy::Role;

use super::Rules;

impl Rules<'_> {
    /// Whether a policy revision may be followed by what `id` publishes on `parent`.
    pub(super) fn follows(&self, id: OperationId, policy: OperationId, parent: CommitId) -> bool {
        let chain = self.chain(&self.all).0;
        let place = |policy: OperationId| chain.iter().position(|revision| *revision == policy);
        let before = match self.commits[&parent] {
            Commit::Aggregate(above) => place(above.policy),
            Commit::Step(above) => place(above.policy),
            _ => None,
        };
        place(policy).is_some() && before <= place(policy) && self.chain(&self.past[&id]).0.contains(&policy)
    }

    pub(super) fn steps(&self, id: OperationId, step: &Step) -> bool {
        let there = self.open(id, step.branch)
            && self.knows(id, step.parent)
            && self.on_branch(step.parent, step.branch)
            && self.follows(id, step.policy, step.parent);
        there
            && match &step.change {
                Change::Revert { target } => self.up(step.parent)[1..].contains(target),
                Change::External(external) => {
                    external.architecture == self.architecture(step.parent)
                        && self.inputs(id, step.branch, step.parent, &external.inputs, step.policy)
                }
                Change::Migrate(_) => true,
                Change::Merge(merge) => {
                    merge.kernel == KERNEL
                        && self.knows(id, merge.other)
                        && self.common(step.parent, merge.other).is_some_and(|common| {
                            let architecture = self.architecture(step.parent);
                            common != merge.other
                                && [common, merge.other]
                                    .iter()
                                    .all(|commit| self.architecture(*commit) == architecture)
                        })
                }
            }
    }

    /// A commit and all that it stands on, by either parent.
    pub(super) fn ancestors(&self, commit: CommitId) -> BTreeSet<CommitId> {
        let mut all = BTreeSet::from([commit]);
        for parent in self.parents(commit) {
            all.append(&mut self.ancestors(parent));
        }
        all
    }

    fn parents(&self, commit: CommitId) -> Vec<CommitId> {
        let commit = self.commits[&commit];
        commit.base().into_iter().chain(commit.merge().map(|merge| merge.other)).collect()
    }

    /// Commits on the longest way up.
    fn height(&self, commit: CommitId) -> usize {
        self.parents(commit).into_iter().map(|parent| 1 + self.height(parent)).max().unwrap_or(0)
    }

    /// The nearest common ancestor; that there may be too many commits in between is left out: no history here has so many.
    fn common(&self, one: CommitId, other: CommitId) -> Option<CommitId> {
        let (one, other) = (self.ancestors(one), self.ancestors(other));
        one.intersection(&other).copied().max_by_key(|commit| (self.height(*commit), *commit))
    }

    /// Whether enough maintainers accepted a step.
    pub(super) fn endorsed(&self, commit: CommitId, step: &Step) -> bool {
        let needed = self.policy(step.policy).accepts(step.branch).max(1);
        let mut by: BTreeSet<PersonId> = BTreeSet::new();
        for operation in &self.order {
            let speaks = match operation.body() {
                Body::Publish(publish) => publish.id == commit,
                Body::Review(review) => review.commit == commit && review.judgement == Judgement::Accept,
                _ => false,
            };
            let id = operation.id();
            if speaks && !self.idle.contains(&id) && self.role(id, &self.all) >= Some(Role::Maintainer) {
                by.insert(operation.author());
            }
        }
        if needed > 1 {
            by.remove(&step.author);
        }
        by.len() >= needed as usize
    }

    /// The steps of a branch that lack accepts, in order.
    pub(super) fn proposed(&self, branch: BranchId) -> Vec<CommitId> {
        let mut proposed = Vec::new();
        for operation in &self.order {
            if let Body::Publish(publish) = operation.body()
                && let Commit::Step(step) = &publish.commit
                && step.branch == branch
                && !self.idle.contains(&operation.id())
                && !self.void.contains(&operation.id())
                && !proposed.contains(&publish.id)
                && !self.endorsed(publish.id, step)
            {
                proposed.push(publish.id);
            }
        }
        proposed
    }
}
