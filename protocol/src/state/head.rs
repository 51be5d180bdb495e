//! Where each branch stands: claims about results, votes, the walk to the head, and what is pending.
//!
//! The head rule counts each person once, by what their latest operation on the branch names: greedy heaviest
//! observed subtree over latest messages (LMD-GHOST; Buterin et al., "Combining GHOST and Casper", 2020, section
//! 3). Counting updates instead would let one member's empty updates undo everybody's path.

use std::collections::{BTreeMap, BTreeSet};

use super::reason::Dropped;
use super::tree::Kind;
use super::work::{Accepted, Stance};
use super::{Claim, State, step};
use crate::commit::Outcome;
use crate::id::{BranchId, CommitId};
use crate::key::PersonId;

/// Fills in results, heads, paths and pending updates.
pub(super) fn decide(state: &mut State, accepted: &Accepted) {
    let most = state.policy.as_ref().map_or(0, |policy| policy.aggregation.max_staleness);
    settle_claims(state, accepted);
    step::settle(state, &accepted.steps);
    let weights = weigh(state, accepted);
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); state.tree.nodes.len()];
    for node in 0..state.tree.nodes.len() {
        if let Some(parent) = state.tree.forest.parent(node) {
            children[parent].push(node);
        }
    }
    let mut updates: BTreeMap<BranchId, Vec<CommitId>> = BTreeMap::new();
    for update in &accepted.updates {
        if let Some(trained) = state.tree.updates.get(update) {
            updates.entry(trained.branch).or_default().push(*update);
        }
    }
    for (branch, root) in &accepted.roots {
        let head = walk(state, *branch, *root, &children, &weights);
        let updates = updates.get(branch).map_or(&[][..], Vec::as_slice);
        fill(state, accepted, *branch, (*root, head), updates, most);
    }
}

/// Settles which result of each aggregate counts.
fn settle_claims(state: &mut State, accepted: &Accepted) {
    for (node, stances) in &accepted.stances {
        let mut claims: BTreeMap<Outcome, (Vec<PersonId>, Vec<PersonId>)> = BTreeMap::new();
        for (person, stance) in stances {
            match stance {
                Stance::Support(outcome) => claims.entry(*outcome).or_default().0.push(*person),
                Stance::Refute(outcome) => claims.entry(*outcome).or_default().1.push(*person),
            }
        }
        let mut claims: Vec<Claim> = claims
            .into_iter()
            .map(|(outcome, (supporters, refuters))| Claim { outcome, supporters, refuters })
            .collect();
        claims.sort_by_key(|claim| (claim.supporters.is_empty(), -claim.score(), claim.outcome));
        let Some(info) = state.commits.get_mut(&state.tree.nodes[*node].id) else { continue };
        let best = claims.first().filter(|claim| !claim.supporters.is_empty());
        info.result = best.map(|claim| claim.outcome);
        info.skipped = best.is_none_or(|claim| claim.score() < 0);
        info.claims = claims;
    }
}

/// Persons whose votes are in the subtree of each node, within its branch.
fn weigh(state: &State, accepted: &Accepted) -> Vec<usize> {
    let tree = &state.tree;
    let mut weights = vec![0; tree.nodes.len()];
    for (branch, votes) in &accepted.votes {
        for node in votes.values().filter(|node| tree.nodes[**node].branch == *branch) {
            weights[*node] += 1;
        }
    }
    for node in (0..tree.nodes.len()).rev() {
        if let Some(parent) = tree.forest.parent(node)
            && tree.nodes[parent].branch == tree.nodes[node].branch
        {
            weights[parent] += weights[node];
        }
    }
    weights
}

/// From the root, again and again, an accepted step before aggregates, then the child whose subtree holds the most
/// persons, then the lowest id.
///
/// Steps go first because whoever accepted one decided about the branch: the nodes that go on aggregating meanwhile
/// would outvote them by their number.
fn walk(state: &State, branch: BranchId, root: usize, children: &[Vec<usize>], weights: &[usize]) -> usize {
    let tree = &state.tree;
    let mut head = root;
    loop {
        let eligible = children[head].iter().copied().filter(|child| {
            let accepted = |step: &step::Acceptance| step.is_enough();
            tree.nodes[*child].branch == branch
                && state
                    .commits
                    .get(&tree.nodes[*child].id)
                    .is_some_and(|info| !info.skipped && info.acceptance.as_ref().is_none_or(accepted))
        });
        let rank = |child: &usize| {
            let node = &tree.nodes[*child];
            (node.kind == Kind::Aggregate, usize::MAX - weights[*child], node.id)
        };
        match eligible.min_by_key(rank) {
            Some(child) => head = child,
            None => return head,
        }
    }
}

/// Fills in one branch.
fn fill(
    state: &mut State,
    accepted: &Accepted,
    id: BranchId,
    (root, head): (usize, usize),
    updates: &[CommitId],
    most: u32,
) {
    let Some(branch) = state.branches.get_mut(&id) else { return };
    let tree = &state.tree;
    let above = tree.forest.depth(root);
    let path = tree.forest.up(head).take_while(|node| tree.forest.depth(*node) >= above);
    branch.path = path.map(|node| tree.nodes[node].id).collect();
    branch.path.reverse();
    branch.head = Some(tree.nodes[head].id);
    let votes = accepted.votes.get(&id).into_iter().flatten();
    branch.votes = votes.map(|(person, node)| (*person, tree.nodes[*node].id)).collect();
    let inputs = branch.path.iter().skip(1).filter_map(|node| state.commits.get(node));
    let consumed: BTreeSet<CommitId> = inputs.flat_map(|info| info.commit.inputs()).copied().collect();
    let rule = state.policy.as_ref().and_then(|policy| policy.rule(id));
    let mut waiting = BTreeSet::new();
    for update in updates {
        let Some(trained) = tree.updates.get(update) else { continue };
        if consumed.contains(update) {
            continue;
        }
        let unsupported = trained.over.filter(|over| !waiting.contains(over) && !consumed.contains(over));
        let awaits = trained.over.is_some_and(|over| branch.waiting.contains(&over));
        let accepted =
            rule.is_none_or(|rule| state.commits.get(update).is_some_and(|info| info.passes(rule)));
        let why = match (tree.staleness(head, trained.base), unsupported) {
            _ if branch.deleted => Dropped::Deleted,
            (None, _) => Dropped::Foreign,
            _ if trained.architecture != tree.nodes[head].architecture => Dropped::Migrated,
            (Some(behind), _) if behind > most => Dropped::Stale { behind, most },
            (Some(_), _) if awaits || (unsupported.is_none() && !accepted) => {
                branch.waiting.push(*update);
                continue;
            }
            (Some(_), Some(over)) => Dropped::Unsupported(over),
            (Some(_), None) => {
                waiting.insert(*update);
                branch.pending.push(*update);
                continue;
            }
        };
        branch.dropped.push((*update, why));
    }
}
