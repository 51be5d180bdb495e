//! Questions to an evaluated state.

use std::collections::BTreeSet;

use serde::Serialize;

use super::reason::{Effect, UpdateStatus};
use super::{Branch, State};
use crate::commit::{Aggregate, Change, Commit, KERNEL, MODE};
use crate::id::{BranchId, CommitId, OperationId};
use crate::key::PersonId;
use crate::limits;
use crate::policy::{Every, Policy, Requirement, Role, Visibility};

/// Models between one whole pack and the next, see [`State::pack_base`].
const WHOLE: usize = 8;

/// What the next aggregate of a branch would take in, see [`State::next_inputs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextInputs {
    /// The branch.
    pub branch: BranchId,
    /// Its head, the aggregate's parent.
    pub parent: CommitId,
    /// The first pending updates, at most [`limits::INPUTS`], in (Lamport time, operation id) order.
    pub inputs: Vec<CommitId>,
    /// Their authors.
    pub persons: BTreeSet<PersonId>,
    /// How many persons the policy asks for, counting everybody who is active or has an update pending.
    pub needed: u32,
}

/// Where a revision of the policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevisionStatus {
    /// It holds.
    InForce,
    /// It held until a later one took its place.
    Replaced,
    /// It lacks approvals.
    Proposed,
    /// It has enough approvals, and so has another one that changes the same policy.
    Contradicted,
    /// It changes a policy that no longer holds.
    PassedOver,
}

impl RevisionStatus {
    /// The words for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::Replaced => "replaced",
            Self::Proposed => "proposed",
            Self::Contradicted => "contradicted",
            Self::PassedOver => "passed over",
        }
    }
}

impl NextInputs {
    /// Whether enough persons have something pending.
    pub fn ready(&self) -> bool {
        !self.inputs.is_empty() && self.persons.len() >= self.needed as usize
    }
}

impl State {
    /// Somebody's role now; none for strangers and the revoked.
    pub fn role(&self, person: PersonId) -> Option<Role> {
        self.members.get(&person).filter(|member| member.revoked.is_none()).map(|member| member.role)
    }

    /// Whether only those who have a role may read, as the genesis says for good.
    pub fn private(&self) -> bool {
        let genesis = self.policy_at(OperationId::from_digest(self.repo.digest()));
        genesis.is_some_and(|policy| policy.visibility == Visibility::Private)
    }

    /// Branches that were not deleted.
    pub fn open_branches(&self) -> impl Iterator<Item = &Branch> {
        self.branches.values().filter(|branch| !branch.deleted)
    }

    /// The open branch shown by this name.
    pub fn branch(&self, name: &str) -> Option<&Branch> {
        self.open_branches().find(|branch| branch.name == name)
    }

    /// Whether an operation of the evaluated set does what it says.
    pub fn is_effective(&self, operation: OperationId) -> bool {
        !self.void.contains_key(&operation)
            && !self.idle.contains_key(&operation)
            && self.above.binary_search(&operation).is_err()
    }

    /// The policy revision in force: what new operations and recipes name.
    pub fn revision(&self) -> OperationId {
        self.chain.last().copied().unwrap_or_else(|| OperationId::from_digest(self.repo.digest()))
    }

    /// The policy that a revision states, in force or not.
    pub fn policy_at(&self, revision: OperationId) -> Option<&Policy> {
        self.revisions.get(&revision).map(|info| &info.policy)
    }

    /// Where a revision of the policy stands; none for an operation that is none.
    pub fn revision_status(&self, revision: OperationId) -> Option<RevisionStatus> {
        let info = self.revisions.get(&revision)?;
        Some(match info.parent {
            _ if self.revision() == revision => RevisionStatus::InForce,
            _ if self.chain.contains(&revision) => RevisionStatus::Replaced,
            _ if self.frozen.contains(&revision) => RevisionStatus::Contradicted,
            Some(parent) if parent == self.revision() => RevisionStatus::Proposed,
            _ => RevisionStatus::PassedOver,
        })
    }

    /// Where an update stands; none for a commit that is not a known update.
    pub fn explain(&self, update: CommitId) -> Option<UpdateStatus> {
        let info = self.commits.get(&update)?;
        let Commit::Update(commit) = info.commit.as_ref() else { return None };
        let branch = self.branches.get(&commit.branch);
        if let Some(head) = branch.and_then(|branch| self.tree.node(branch.head?))
            && let Some(consumer) = self.tree.consumer(update, head)
        {
            let aggregate = self.tree.nodes[consumer].id;
            return Some(match self.reverted(consumer, head) {
                Some(revert) => UpdateStatus::Reverted { aggregate, revert },
                None => UpdateStatus::InHead { aggregate },
            });
        }
        match info.effect() {
            Effect::Void(why) => return Some(UpdateStatus::Void { why }),
            Effect::None(why) => return Some(UpdateStatus::NoEffect { why }),
            Effect::Full => {}
        }
        let branch = branch?;
        if let Some((_, why)) = branch.dropped.iter().find(|(dropped, _)| *dropped == update) {
            return Some(UpdateStatus::Dropped { why: *why });
        }
        if branch.waiting.contains(&update) {
            let needed = self.policy.as_ref()?.accepts(branch.id);
            return Some(UpdateStatus::Waiting { accepts: info.accepts(needed), needed });
        }
        Some(UpdateStatus::Pending { staleness: self.staleness(branch.head?, update)? })
    }

    /// What an update's branch requires of it and others have not measured yet, each with the number of persons who
    /// have.
    pub fn lacking(&self, update: CommitId) -> Vec<(&Requirement, u32)> {
        let Some((info, policy)) = self.commits.get(&update).zip(self.policy.as_ref()) else {
            return Vec::new();
        };
        let all = policy.requirements(info.commit.branch()).iter();
        all.map(|one| (one, info.meeting(one))).filter(|(one, found)| *found < one.from).collect()
    }

    /// The aggregate at or above `tip` that takes in `update`.
    pub fn consumer(&self, update: CommitId, tip: CommitId) -> Option<CommitId> {
        let consumer = self.tree.consumer(update, self.tree.node(tip)?)?;
        Some(self.tree.nodes[consumer].id)
    }

    /// How far `update` is behind `parent`: aggregates and steps from their nearest common ancestor to `parent`, plus
    /// those from it to the commit that the update's training started from (through own updates in between). None
    /// without a common ancestor.
    pub fn staleness(&self, parent: CommitId, update: CommitId) -> Option<u32> {
        self.tree.staleness(self.tree.node(parent)?, self.tree.updates.get(&update)?.base)
    }

    /// The commit of the tree that the update's training started from, through own updates in between.
    pub fn base(&self, update: CommitId) -> Option<CommitId> {
        Some(self.tree.nodes[self.tree.updates.get(&update)?.base].id)
    }

    /// From the first commit of all to `commit` (a first commit, an aggregate or a step that counts), both included;
    /// empty for any other.
    pub fn path(&self, commit: CommitId) -> Vec<CommitId> {
        let up = self.tree.node(commit).into_iter().flat_map(|node| self.tree.forest.up(node));
        let mut path: Vec<CommitId> = up.map(|node| self.tree.nodes[node].id).collect();
        path.reverse();
        path
    }

    /// Aggregates and steps from the first commit of all to this one: 0 for a first commit, none for a commit that is
    /// not in the tree, as an update or one that does not count.
    pub fn generation(&self, commit: CommitId) -> Option<u64> {
        Some(self.tree.forest.depth(self.tree.node(commit)?) as u64)
    }

    /// The nearest common ancestor of two commits of the tree, by the first and second parents of merges: of those that
    /// both are or stand on, the one with the longest way up, then the highest id. A function of their histories alone.
    pub fn common(&self, one: CommitId, other: CommitId) -> Option<CommitId> {
        let common = self.tree.common(self.tree.node(one)?, self.tree.node(other)?, limits::APART)?;
        Some(self.tree.nodes[common].id)
    }

    /// The commits of the tree that `other` is or stands on, and `one` does not, by the first and second parents of
    /// merges: what merging `other` into `one` brings, the earliest first.
    pub fn beside(&self, other: CommitId, one: CommitId) -> Vec<CommitId> {
        let (Some(other), Some(one)) = (self.tree.node(other), self.tree.node(one)) else {
            return Vec::new();
        };
        self.tree.only(other, one).into_iter().map(|node| self.tree.nodes[node].id).collect()
    }

    /// The commit of that generation at or above `commit`.
    pub fn ancestor(&self, commit: CommitId, generation: u64) -> Option<CommitId> {
        let node = self.tree.node(commit)?;
        let depth = usize::try_from(generation).ok()?;
        if depth > self.tree.forest.depth(node) {
            return None;
        }
        Some(self.tree.nodes[self.tree.forest.at_depth(node, depth)].id)
    }

    /// The commit against whose model the pack of `commit` is encoded: an update's named base; none for a first
    /// commit and a migrate. Of an aggregate, external or merge that is model number g since one of these, along the models that
    /// it was made of, model number g − (g mod 8); none when that is itself. So a clone fetches one whole pack and one
    /// delta at most. A revert has no pack.
    pub fn pack_base(&self, commit: CommitId) -> Option<CommitId> {
        match self.commits.get(&commit)?.commit.as_ref() {
            Commit::Initial(_) => None,
            Commit::Step(step) => match step.change {
                Change::External(_) | Change::Merge(_) => self.base_after(step.parent),
                Change::Revert { .. } | Change::Migrate(_) => None,
            },
            Commit::Update(update) => Some(update.base),
            Commit::Aggregate(aggregate) => self.recipe_pack_base(aggregate),
        }
    }

    /// As [`pack_base`](Self::pack_base), for an aggregate that need not have been published.
    pub fn recipe_pack_base(&self, recipe: &Aggregate) -> Option<CommitId> {
        self.base_after(recipe.parent)
    }

    /// The commit against whose model the pack of one is encoded that is made of the model of `parent`.
    pub fn base_after(&self, parent: CommitId) -> Option<CommitId> {
        let model = self.tree.nodes[self.tree.node(parent)?].model;
        let behind = (self.tree.numbers[model] + 1) % WHOLE;
        let base = self.tree.models.at_depth(model, self.tree.models.depth(model) + 1 - behind);
        (behind != 0).then(|| self.tree.sources[base])
    }

    /// The persons that an aggregate needs: `every` of the policy that it names, counting the authors of the inputs
    /// and of the last five aggregates of the branch up to `parent`. A function of the recipe alone, and so the K of
    /// FedBuff.
    pub fn every(&self, recipe: &Aggregate) -> Option<u32> {
        self.every_by(self.policy_at(recipe.policy)?.aggregation.every, recipe)
    }

    /// As [`every`](Self::every), were `every` what the policy says.
    pub fn every_by(&self, every: Every, recipe: &Aggregate) -> Option<u32> {
        let node = self.tree.node(recipe.parent)?;
        let trained = recipe.inputs.iter().filter_map(|input| self.tree.updates.get(input));
        let persons = trained.map(|trained| trained.author).collect();
        Some(self.tree.needed(every, node, recipe.branch, &persons))
    }

    /// What the next aggregate of `branch` would take in, and how many persons it needs. None before the
    /// branch's first commit.
    pub fn next_inputs(&self, branch: BranchId) -> Option<NextInputs> {
        let here = self.branches.get(&branch)?;
        let parent = here.head?;
        let inputs: Vec<CommitId> = here.pending.iter().copied().take(limits::INPUTS).collect();
        let authors = |updates: &[CommitId]| -> BTreeSet<PersonId> {
            updates.iter().filter_map(|update| self.tree.updates.get(update)).map(|at| at.author).collect()
        };
        let every = self.policy.as_ref()?.aggregation.every;
        let needed =
            self.tree.needed(every, self.tree.node(parent)?, branch, &authors(here.pending.as_slice()));
        let persons = authors(&inputs);
        Some(NextInputs { branch, parent, inputs, persons, needed })
    }

    /// The recipe that aggregates `inputs` on `parent`.
    pub fn recipe(&self, branch: BranchId, parent: CommitId, inputs: &[CommitId]) -> Aggregate {
        let mut inputs = inputs.to_vec();
        inputs.sort_unstable();
        inputs.dedup();
        let (repo, policy) = (self.repo, self.revision());
        Aggregate { repo, branch, parent, inputs, policy, mode: MODE.to_owned(), kernel: KERNEL }
    }
}
