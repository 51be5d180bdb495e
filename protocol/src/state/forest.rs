//! Trees that only grow at their leaves, with ancestors found in logarithmic time.

/// Nodes numbered in the order in which they came; a parent comes before its children.
///
/// Beside its parent each node knows one far ancestor, chosen so that any ancestor is O(log n) steps away (the skew
/// binary jump pointers of E. W. Myers, "An applicative random-access stack", 1983).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Forest {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    parent: Option<usize>,
    depth: usize,
    jump: usize,
}

impl Forest {
    /// Adds a node and gives its number.
    pub(super) fn push(&mut self, parent: Option<usize>) -> usize {
        let number = self.nodes.len();
        let node = match parent {
            None => Node { parent, depth: 0, jump: number },
            Some(up) => {
                let first = self.nodes[up].jump;
                let second = self.nodes[first].jump;
                let depth = |at: usize| self.nodes[at].depth;
                let even = depth(up) - depth(first) == depth(first) - depth(second);
                Node { parent, depth: depth(up) + 1, jump: if even { second } else { up } }
            }
        };
        self.nodes.push(node);
        number
    }

    pub(super) fn parent(&self, node: usize) -> Option<usize> {
        self.nodes[node].parent
    }

    /// Steps from the node's root.
    pub(super) fn depth(&self, node: usize) -> usize {
        self.nodes[node].depth
    }

    /// The ancestor at `depth`, or the node itself when it is no deeper than that.
    pub(super) fn at_depth(&self, mut node: usize, depth: usize) -> usize {
        while let Node { parent: Some(parent), depth: here, jump } = self.nodes[node] {
            if here <= depth {
                break;
            }
            node = if self.nodes[jump].depth >= depth { jump } else { parent };
        }
        node
    }

    /// Whether `above` is `node` or one of its ancestors.
    pub(super) fn covers(&self, above: usize, node: usize) -> bool {
        above == node
            || (self.depth(above) < self.depth(node) && self.at_depth(node, self.depth(above)) == above)
    }

    /// The deepest node that covers both; none when they are in different trees.
    pub(super) fn meet(&self, a: usize, b: usize) -> Option<usize> {
        let (mut a, mut b) = (self.at_depth(a, self.depth(b)), self.at_depth(b, self.depth(a)));
        while a != b {
            let (left, right) = (self.nodes[a], self.nodes[b]);
            // Nodes of equal depth jump to equal depths.
            (a, b) = if left.jump == right.jump {
                (left.parent?, right.parent?)
            } else if left.depth == 0 {
                return None;
            } else {
                (left.jump, right.jump)
            };
        }
        Some(a)
    }

    /// The nodes from `node` up to its root.
    pub(super) fn up(&self, node: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(node), |at| self.parent(*at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ancestors_and_meets_are_those_found_by_walking(
            parents in prop::collection::vec((0usize..1000, 0u8..12), 1..120),
            pairs in prop::collection::vec((0usize..1000, 0usize..1000), 20),
        ) {
            let mut forest = Forest::default();
            for (number, (parent, root)) in parents.iter().enumerate() {
                // Mostly near the end, so that the trees get deep.
                let near = number.saturating_sub(1 + parent % 3);
                let parent = if *root < 9 { near } else { parent % number.max(1) };
                forest.push((number > 0 && *root != 11).then_some(parent));
            }
            for (a, b) in pairs {
                let (a, b) = (a % parents.len(), b % parents.len());
                let ups: Vec<usize> = forest.up(a).collect();
                prop_assert_eq!(ups.contains(&b), forest.covers(b, a));
                prop_assert_eq!(forest.up(b).find(|node| ups.contains(node)), forest.meet(a, b));
                for up in &ups {
                    prop_assert_eq!(forest.at_depth(a, forest.depth(*up)), *up);
                }
            }
        }
    }
}
