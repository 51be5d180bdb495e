//! Steps: who accepted them, and where they stand.

use std::collections::BTreeSet;

use serde::Serialize;

use super::reason::Effect;
use super::tree::Kind;
use super::{NoEffect, State, Void};
use crate::commit::Described;
use crate::id::CommitId;
use crate::key::PersonId;
use crate::operation::body::Judgement;

/// Who accepted a step. An accept is for good: others build on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// Maintainers and delegates who accepted it; its author is one by publishing it, where one is enough.
    pub by: BTreeSet<PersonId>,
    /// How many are needed, at least 1.
    pub needed: u32,
}

impl Acceptance {
    /// Whether there are enough.
    pub fn is_enough(&self) -> bool {
        self.by.len() >= self.needed as usize
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepStatus {
    /// It is on the path to the head.
    OnPath,
    /// It lacks accepts.
    Waiting {
        /// Accepts it has.
        accepts: u32,
        /// Accepts it needs.
        needed: u32,
        /// Commits of the path that come after its parent, which leave the path with its last accept; none where its
        /// parent is not on the path.
        behind: Option<u64>,
    },
    /// The path takes another way.
    PassedOver,
    /// It was published without standing.
    Void {
        /// Why.
        why: Void,
    },
    /// It breaks a rule.
    NoEffect {
        /// Which.
        why: NoEffect,
    },
}

/// Counts the accepts of every step that counts, and notes those that lack some beside their branches.
pub(super) fn settle(state: &mut State, steps: &[CommitId]) {
    for id in steps {
        let Some(node) = state.tree.node(*id).map(|node| &state.tree.nodes[node]) else { continue };
        let (Kind::Step { needed, backed }, branch) = (node.kind, node.branch) else { continue };
        let Some(info) = state.commits.get_mut(id) else { continue };
        let author = info.commit.author();
        let accepts = info.reviews.iter().filter(|review| review.judgement == Judgement::Accept);
        let accepts = accepts.map(|review| review.person).chain(author.filter(|_| backed));
        let by = accepts.filter(|person| needed < 2 || Some(*person) != author).collect();
        let acceptance = Acceptance { by, needed };
        if !acceptance.is_enough()
            && let Some(branch) = state.branches.get_mut(&branch)
        {
            branch.proposed.push(*id);
        }
        info.acceptance = Some(acceptance);
    }
}

impl State {
    /// Where a step stands; none for a commit that is none.
    pub fn explain_step(&self, step: CommitId) -> Option<StepStatus> {
        let info = self.commits.get(&step)?;
        let parent = info.commit.step()?.parent;
        match info.effect() {
            Effect::Void(why) => return Some(StepStatus::Void { why }),
            Effect::None(why) => return Some(StepStatus::NoEffect { why }),
            Effect::Full => {}
        }
        let acceptance = info.acceptance.as_ref()?;
        let path = &self.branches.get(&info.commit.branch())?.path;
        Some(if path.contains(&step) {
            StepStatus::OnPath
        } else if acceptance.is_enough() {
            StepStatus::PassedOver
        } else {
            let accepts = u32::try_from(acceptance.by.len()).unwrap_or(u32::MAX);
            let behind = path.iter().rev().position(|commit| *commit == parent).map(|behind| behind as u64);
            StepStatus::Waiting { accepts, needed: acceptance.needed, behind }
        })
    }

    /// The commit whose model and state a commit of the tree has: itself, but of a revert what its target has.
    pub fn source(&self, commit: CommitId) -> Option<CommitId> {
        Some(self.tree.source(self.tree.node(commit)?))
    }

    /// The model that a commit of the tree has as the last commit that names one states it: of an aggregate, architecture
    /// and size are those of what it was made of.
    pub fn described(&self, commit: CommitId) -> Option<Described> {
        if let Some(described) = self.commits.get(&commit)?.commit.described() {
            return Some(described);
        }
        let model = self.tree.nodes[self.tree.node(commit)?].model;
        let mut line = self.tree.models.up(model);
        line.find_map(|at| self.commits.get(&self.tree.sources[at])?.commit.described())
    }

    /// The commits whose models led to that of `tip`, first ones first: the path without what was reverted.
    pub fn lineage(&self, tip: CommitId) -> Vec<CommitId> {
        let Some(node) = self.tree.node(tip) else { return Vec::new() };
        let (tree, model) = (&self.tree, self.tree.nodes[node].model);
        let path = tree.forest.up(node).filter(|at| {
            let at = &tree.nodes[*at];
            tree.sources[at.model] == at.id && tree.models.covers(at.model, model)
        });
        let mut path: Vec<CommitId> = path.map(|at| tree.nodes[at].id).collect();
        path.reverse();
        path
    }

    /// Of a node on the way to `tip`: the revert that took it out of the model, if one did.
    pub(super) fn reverted(&self, node: usize, tip: usize) -> Option<CommitId> {
        let tree = &self.tree;
        let stands = |at: usize| tree.models.covers(tree.nodes[node].model, tree.nodes[at].model);
        if stands(tip) {
            return None;
        }
        let way = tree.forest.up(tip).take_while(|at| *at != node).collect::<Vec<_>>();
        way.into_iter().rev().find(|at| !stands(*at)).map(|at| tree.nodes[at].id)
    }
}
