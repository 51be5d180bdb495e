//! Which steps count.

use std::collections::BTreeSet;

use super::{NoEffect, Stance, Work};
use crate::commit::{Change, KERNEL, Outcome, Step};
use crate::id::{ArchitectureId, CommitId};
use crate::limits;
use crate::policy::Role;
use crate::state::tree::{Kind, Model, Node};

impl Work<'_> {
    /// Checks a step and puts it into the tree. Whether it is on the branch's path is for its accepts to say.
    pub(super) fn take_step(
        &mut self,
        rank: usize,
        role: Role,
        id: CommitId,
        step: &Step,
        result: Option<Outcome>,
    ) -> Result<(), NoEffect> {
        let (revision, version) = self.follows(rank, step.policy)?;
        let branch = step.branch;
        let parent = self.parent(rank, branch, step.parent, (step.policy, version))?;
        let needed = self.policies.policy(revision).accepts(branch).max(1);
        let mut persons = BTreeSet::new();
        let mut other = None;
        let (model, architecture) = match &step.change {
            Change::External(external) => {
                let architecture = self.tree.nodes[parent].architecture;
                if external.architecture != architecture {
                    return Err(NoEffect::Architecture);
                }
                persons = self.inputs(rank, parent, branch, &external.inputs, revision)?;
                (Model::On(parent), architecture)
            }
            Change::Migrate(described) => (Model::Anew(parent), described.architecture),
            Change::Revert { target } => {
                let target = *target;
                let node = self
                    .tree
                    .node(target)
                    .filter(|node| *node != parent && self.tree.forest.covers(*node, parent));
                let node = node.ok_or(NoEffect::Target(target))?;
                (Model::Of(node), self.tree.nodes[node].architecture)
            }
            Change::Merge(merge) => {
                if merge.kernel != KERNEL {
                    return Err(NoEffect::Kernel(merge.kernel));
                }
                other = Some(self.merges(rank, parent, merge.other)?);
                (Model::On(parent), self.tree.nodes[parent].architecture)
            }
        };
        let kind = Kind::Step { needed, backed: false };
        let mut node = Node::new(id, branch, architecture, version, kind);
        (node.persons, node.other) = (persons, other);
        let node = self.tree.add(Some(parent), model, node, step.inputs());
        if role >= Role::Maintainer {
            self.tree.nodes[node].back();
        }
        self.fits[rank] = true;
        if let Some(result) = result {
            let author = self.order.at(rank).author();
            self.accepted.stances.entry(node).or_default().insert(author, Stance::Support(result));
        }
        self.vote(branch, step.author, Some(node));
        self.accepted.steps.push(id);
        Ok(())
    }

    /// The node of a commit that can be merged into `parent`: all three of one architecture, and something to merge.
    fn merges(&self, rank: usize, parent: usize, other: CommitId) -> Result<usize, NoEffect> {
        let node = self.tree.node(other).filter(|_| self.sees_valid(rank, other));
        let node = node.ok_or(NoEffect::Other(other))?;
        let common = self.tree.common(parent, node, limits::APART);
        let common = common.ok_or(NoEffect::Unrelated(other))?;
        if common == node {
            return Err(NoEffect::Merged(other));
        }
        let architecture = |node: usize| -> ArchitectureId { self.tree.nodes[node].architecture };
        let alike =
            architecture(node) == architecture(parent) && architecture(common) == architecture(parent);
        if alike { Ok(node) } else { Err(NoEffect::Architecture) }
    }
}
