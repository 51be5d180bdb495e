//! The tree of models: first commits and aggregates, and the updates that hang between them.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::forest::Forest;
use crate::id::{ArchitectureId, BranchId, CommitId};
use crate::key::PersonId;
use crate::policy::{ACTIVE, Every};

/// First commits, aggregates and steps by parent, and what is known of the updates.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tree {
    pub(super) forest: Forest,
    pub(super) nodes: Vec<Node>,
    /// Models by the model that they were made of: as `forest`, but a revert has that of its target.
    pub(super) models: Forest,
    /// The commit that each model came from.
    pub(super) sources: Vec<CommitId>,
    /// How many models after the last whole one each was made.
    pub(super) numbers: Vec<usize>,
    index: BTreeMap<CommitId, usize>,
    pub(super) updates: BTreeMap<CommitId, Trained>,
    /// The aggregates that take in an update; they are on different paths.
    consumers: BTreeMap<CommitId, BTreeSet<usize>>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    First,
    Aggregate,
    Step {
        /// Accepts it needs.
        needed: u32,
        /// Whether its author published it as a maintainer or delegate.
        backed: bool,
    },
}

/// Where a node's model comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Model {
    /// From nothing that is here.
    New,
    /// In the place of that of this node: whole, and numbered anew.
    Anew(usize),
    /// Made of that of this node.
    On(usize),
    /// The same as that of this node.
    Of(usize),
}

/// A first commit, an aggregate or a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) id: CommitId,
    /// The branch that the commit names.
    pub(super) branch: BranchId,
    pub(super) architecture: ArchitectureId,
    /// The version of the policy that it follows; 0 for a first commit.
    pub(super) policy: usize,
    /// Authors of its inputs.
    pub(super) persons: BTreeSet<PersonId>,
    pub(super) kind: Kind,
    /// Its model, in `models`.
    pub(super) model: usize,
    /// Of a merge: its second parent.
    pub(super) other: Option<usize>,
    /// Commits on the longest way up from it, by either parent.
    height: usize,
}

impl Node {
    pub(super) fn new(
        id: CommitId,
        branch: BranchId,
        architecture: ArchitectureId,
        policy: usize,
        kind: Kind,
    ) -> Self {
        let persons = BTreeSet::new();
        Self { id, branch, architecture, policy, persons, kind, model: 0, other: None, height: 0 }
    }

    /// Whether it is a recipe, whose result people attest and refute.
    pub(super) fn is_recipe(&self) -> bool {
        self.kind == Kind::Aggregate || self.other.is_some()
    }

    /// Notes that a step's author published it as a maintainer or delegate.
    pub(super) fn back(&mut self) {
        if let Kind::Step { backed, .. } = &mut self.kind {
            *backed = true;
        }
    }
}

/// An update.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trained {
    pub(super) author: PersonId,
    pub(super) branch: BranchId,
    pub(super) architecture: ArchitectureId,
    /// The own update it stands on.
    pub(super) over: Option<CommitId>,
    /// The node that its chain of own updates starts from.
    pub(super) base: usize,
    /// Updates in that chain, this one included.
    pub(super) links: usize,
}

const FIRST: u8 = 1;
const SECOND: u8 = 2;
const BOTH: u8 = FIRST | SECOND;

/// A walk up from two nodes at once: whatever comes is below all that comes later, so that it is known by then which of
/// both it is above.
struct Walk {
    next: BinaryHeap<(usize, CommitId, usize)>,
    sides: BTreeMap<usize, u8>,
    /// How many of those to come are above one of both only, as far as known.
    open: usize,
}

impl Walk {
    fn new(tree: &Tree, first: usize, second: usize) -> Self {
        let mut walk = Self { next: BinaryHeap::new(), sides: BTreeMap::new(), open: 0 };
        walk.reach(tree, first, FIRST);
        walk.reach(tree, second, SECOND);
        walk
    }

    fn reach(&mut self, tree: &Tree, node: usize, from: u8) {
        let sides = self.sides.entry(node).or_default();
        let before = *sides;
        *sides |= from;
        let only = |sides: u8| usize::from(sides == FIRST || sides == SECOND);
        self.open = self.open + only(*sides) - only(before);
        if before == 0 {
            self.next.push((tree.nodes[node].height, tree.nodes[node].id, node));
        }
    }

    fn next(&mut self, tree: &Tree) -> Option<(usize, u8)> {
        let (.., node) = self.next.pop()?;
        let sides = self.sides.remove(&node)?;
        self.open -= usize::from(sides != BOTH);
        for above in [tree.forest.parent(node), tree.nodes[node].other].into_iter().flatten() {
            self.reach(tree, above, sides);
        }
        Some((node, sides))
    }
}

impl Tree {
    pub(super) fn node(&self, commit: CommitId) -> Option<usize> {
        self.index.get(&commit).copied()
    }

    /// Adds a first commit (no parent), an aggregate or a step; one that is there already stays.
    pub(super) fn add(
        &mut self,
        parent: Option<usize>,
        model: Model,
        mut node: Node,
        inputs: &[CommitId],
    ) -> usize {
        if let Some(number) = self.node(node.id) {
            return number;
        }
        let below = match model {
            Model::Of(source) => Err(self.nodes[source].model),
            Model::On(source) | Model::Anew(source) => Ok(Some(self.nodes[source].model)),
            Model::New => Ok(None),
        };
        let number = match model {
            Model::On(source) => self.numbers[self.nodes[source].model] + 1,
            Model::New | Model::Anew(_) | Model::Of(_) => 0,
        };
        let above = [parent, node.other].into_iter().flatten();
        node.height = above.map(|above| self.nodes[above].height + 1).max().unwrap_or(0);
        node.model = below.map_or_else(
            |same| same,
            |below| {
                self.sources.push(node.id);
                self.numbers.push(number);
                self.models.push(below)
            },
        );
        let number = self.forest.push(parent);
        self.index.insert(node.id, number);
        for input in inputs {
            self.consumers.entry(*input).or_default().insert(number);
        }
        self.nodes.push(node);
        number
    }

    /// The aggregate at or above `tip` that takes in `update`.
    pub(super) fn consumer(&self, update: CommitId, tip: usize) -> Option<usize> {
        let consumers = self.consumers.get(&update)?;
        consumers.iter().copied().find(|consumer| self.forest.covers(*consumer, tip))
    }

    /// The nearest common ancestor of two nodes, by first and second parents: of those that are above both, or one of
    /// them, the one with the longest way up, then the highest id. None where there is none, or more than `most` commits
    /// of either's history are further from their firsts than it.
    pub(super) fn common(&self, one: usize, other: usize, most: usize) -> Option<usize> {
        let mut walk = Walk::new(self, one, other);
        (0..=most).map_while(|_| walk.next(self)).find(|(_, sides)| *sides == BOTH).map(|(node, _)| node)
    }

    /// The nodes that are `other` or above it, and neither `one` nor above that; those with the shortest way up first.
    pub(super) fn only(&self, other: usize, one: usize) -> Vec<usize> {
        let mut walk = Walk::new(self, one, other);
        let mut only = Vec::new();
        while walk.open > 0
            && let Some((node, sides)) = walk.next(self)
        {
            only.extend((sides == SECOND).then_some(node));
        }
        only.reverse();
        only
    }

    /// The commit that a node's model came from.
    pub(super) fn source(&self, node: usize) -> CommitId {
        self.sources[self.nodes[node].model]
    }

    /// Whether `update`, trained from `base`, was taken in on the way to `parent`.
    ///
    /// An aggregate that takes in an update can't be above the update's base, whose id it would have to contain
    /// and be contained in. So only the nodes below the nearest common ancestor are looked at: no more than the
    /// update's staleness.
    pub(super) fn consumed(&self, update: CommitId, base: usize, parent: usize) -> bool {
        let Some(consumers) = self.consumers.get(&update) else { return false };
        let above = self.forest.meet(parent, base).map(|meet| self.forest.depth(meet));
        let below = self.forest.up(parent).take_while(|node| Some(self.forest.depth(*node)) > above);
        below.into_iter().any(|node| consumers.contains(&node))
    }

    /// Aggregates from the nearest common ancestor to `parent`, plus those from it to `base`.
    pub(super) fn staleness(&self, parent: usize, base: usize) -> Option<u32> {
        let meet = self.forest.depth(self.forest.meet(parent, base)?);
        u32::try_from(self.forest.depth(parent) + self.forest.depth(base) - 2 * meet).ok()
    }

    /// Authors of the inputs of the last [`ACTIVE`] commits of `branch` up to `tip` that took any in.
    pub(super) fn active(&self, tip: usize, branch: BranchId) -> BTreeSet<PersonId> {
        let path = self.forest.up(tip).take_while(|node| self.nodes[*node].branch == branch);
        let took = path.filter(|node| !self.nodes[*node].persons.is_empty());
        took.take(ACTIVE).flat_map(|node| self.nodes[node].persons.iter().copied()).collect()
    }

    /// Persons that an aggregate of `branch` on `parent` with inputs by `persons` needs.
    pub(super) fn needed(
        &self,
        every: Every,
        parent: usize,
        branch: BranchId,
        persons: &BTreeSet<PersonId>,
    ) -> u32 {
        every.needed(self.active(parent, branch).union(persons).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    fn node(number: u64) -> Node {
        let digest = |number: u64| Digest::of(&number.to_le_bytes());
        let (branch, architecture) =
            (BranchId::from_digest(digest(1000)), ArchitectureId::from_digest(digest(1001)));
        Node::new(CommitId::from_digest(digest(number)), branch, architecture, 0, Kind::First)
    }

    #[test]
    fn what_is_too_far_apart_has_nothing_in_common() {
        let mut tree = Tree::default();
        let root = tree.add(None, Model::New, node(0), &[]);
        let mut ends = [root, root];
        for number in 1..=5 {
            for (side, end) in (0..).zip(&mut ends) {
                *end = tree.add(Some(*end), Model::On(*end), node(number * 2 + side), &[]);
            }
        }
        let [one, other] = ends;
        assert_eq!(tree.common(one, other, 10), Some(root));
        assert_eq!(tree.common(one, other, 9), None);
        assert_eq!(tree.only(other, one).len(), 5);
        assert_eq!((tree.common(one, root, 10), tree.common(one, one, 0)), (Some(root), Some(one)));
    }
}
