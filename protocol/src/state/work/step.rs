//! Which steps count.

use std::collections::BTreeSet;

use super::{NoEffect, Work};
use crate::commit::{Change, Step};
use crate::id::CommitId;
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
    ) -> Result<(), NoEffect> {
        let (revision, version) = self.follows(rank, step.policy)?;
        let branch = step.branch;
        let parent = self.parent(rank, branch, step.parent, (step.policy, version))?;
        let needed = self.policies.policy(revision).accepts(branch).max(1);
        let mut persons = BTreeSet::new();
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
        };
        let kind = Kind::Step { needed, backed: false };
        let mut node = Node::new(id, branch, architecture, version, kind);
        node.persons = persons;
        let node = self.tree.add(Some(parent), model, node, step.inputs());
        if role >= Role::Maintainer {
            self.tree.nodes[node].back();
        }
        self.fits[rank] = true;
        self.vote(branch, step.author, Some(node));
        self.accepted.steps.push(id);
        Ok(())
    }
}
