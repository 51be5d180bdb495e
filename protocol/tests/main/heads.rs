//! Branches, commits, votes and heads.

use flair_protocol::commit::Commit;
use flair_protocol::id::CommitId;
use flair_protocol::limits;
use flair_protocol::policy::Every;
use flair_protocol::state::{Dropped, Effect, NoEffect, State, UpdateStatus};

use crate::world::*;

fn idle(state: &State, commit: CommitId) -> NoEffect {
    match state.commits[&commit].effect() {
        Effect::None(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_repository_stands_at_its_first_commit() {
    let world = World::new(&[]);
    let state = world.state();
    let branch = state.branch("main").unwrap();
    assert_eq!((branch.root, branch.head), (Some(world.root), Some(world.root)));
    assert_eq!(branch.path, [world.root]);
    assert_eq!((state.generation(world.root), state.pack_base(world.root)), (Some(0), None));
    assert!(state.void.is_empty() && state.idle.is_empty());
}

#[test]
fn an_update_is_pending_until_enough_persons_are_and_an_aggregate_takes_them_in() {
    let mut world = World::new(&[2, 3]);
    let a = world.update(2, world.root, 1);
    let state = world.state();
    assert_eq!(state.explain(a), Some(UpdateStatus::Pending { staleness: 0 }));
    assert_eq!(state.pack_base(a), Some(world.root));
    let next = state.next_inputs(world.branch).unwrap();
    assert!(next.ready(), "one person is enough where one is active: {next:?}");

    let b = world.update(3, world.root, 1);
    let next = world.state().next_inputs(world.branch).unwrap();
    assert_eq!((next.inputs.clone(), next.needed, next.ready()), (vec![a, b], 2, true));
    let head = world.aggregate(2, next.parent, &next.inputs);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].path, [world.root, head]);
    assert_eq!(state.explain(a), Some(UpdateStatus::InHead { aggregate: head }));
    assert_eq!(state.every(&state.recipe(world.branch, world.root, &[a, b])), Some(2));
    assert!(state.branches[&world.branch].pending.is_empty());
}

#[test]
fn one_member_cannot_move_the_head_of_many() {
    let mut world = World::new(&[2, 3, 4]);
    let head = world.round(&[2, 3, 4], 2, 0);
    // As their nodes do by themselves once they have checked it.
    world.attest(3, head, 0);
    world.attest(4, head, 0);
    let mine: Vec<CommitId> = (0..301).map(|number| world.update(2, head, number)).collect();
    let alone = world.aggregate(2, head, &mine[..limits::INPUTS]);
    // Where the branch was young one person is enough, but their one vote is not.
    let beside = world.aggregate(2, world.root, &mine[..100]);
    let state = world.state();
    assert_eq!(idle(&state, alone), NoEffect::Persons { found: 1, needed: 3 });
    assert!(state.commits[&beside].is_effective());
    assert_eq!(world.head(), head);
    assert_eq!(state.branches[&world.branch].pending.len(), 301, "nothing is lost either");
}

#[test]
fn a_fork_goes_where_most_persons_are_then_to_the_lowest_id() {
    let mut world = World::new(&[2, 3, 4, 5]);
    let updates: Vec<_> = [2, 3, 4, 5].map(|who| world.update(who, world.root, 0)).to_vec();
    let before = world.clone();
    let left = world.aggregate(2, world.root, &updates[..3]);
    let mut other = before.clone();
    let right = other.aggregate(3, other.root, &updates[1..]);
    world.merge(&other);
    let lowest = left.min(right);
    assert_eq!(world.head(), lowest, "one vote each");
    let highest = left.max(right);
    world.attest(4, highest, 0);
    assert_eq!(world.head(), highest);
    // The latest operation of a person is their vote: training on the other side takes it back.
    world.update(4, lowest, 1);
    assert_eq!(world.head(), lowest);
    let state = world.state();
    let branch = &state.branches[&world.branch];
    let outside = if highest == right { updates[0] } else { updates[3] };
    let inside = state.explain(outside).unwrap();
    assert!(matches!(inside, UpdateStatus::InHead { .. }));
    assert_eq!(branch.pending.len(), 2, "what the losing path held is pending again: {branch:?}");
}

#[test]
fn a_partition_heals_to_one_head_with_everything_in_it_or_pending() {
    let mut left = World::new(&[2, 3, 4, 5, 6, 7]);
    left.round(&[2, 3, 4, 5, 6, 7], 2, 0);
    let mut right = left.clone();
    for number in 1..=2 {
        // Each side reaches the three quarters of the active only by a flush of the delegate, or by waiting; the
        // delegate is on the left, and the right has enough persons of its own.
        let head = left.head();
        let inputs: Vec<_> = [2, 3].map(|who| left.update(who, head, number)).to_vec();
        left.aggregate(DELEGATE, head, &inputs);
        let head = right.head();
        let inputs: Vec<_> = [3 + 1, 5, 6, 7].map(|who| right.update(who, head, number)).to_vec();
        right.aggregate(4, head, &inputs);
    }
    left.update(2, left.head(), 9);
    right.update(5, right.head(), 9);
    let mut healed = left.clone();
    healed.merge(&right);
    right.merge(&left);
    left.merge(&right);
    let state = healed.state();
    for side in [&left, &right] {
        assert_eq!(side.state().branches[&side.branch].head, state.branches[&healed.branch].head);
        assert_eq!(side.state().fingerprint(), state.fingerprint());
    }
    let mut waiting = 0;
    for (id, info) in &state.commits {
        if matches!(*info.commit, Commit::Update(_)) {
            match state.explain(*id).unwrap() {
                UpdateStatus::InHead { .. } => {}
                UpdateStatus::Pending { staleness } => {
                    waiting += 1;
                    assert!(staleness <= 4, "{staleness}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(waiting > 0);
    let head = healed.aggregate_pending(DELEGATE);
    assert_eq!(healed.head(), head, "work of the losing side still counts");
}

#[test]
fn staleness_is_the_way_from_the_nearest_common_ancestor_on_both_sides() {
    let mut world = World::new(&[2, 3]);
    let old = world.update(2, world.root, 100);
    let heads: Vec<_> = (0..3).map(|number| world.round_leaving(old, number)).collect();
    let state = world.state();
    assert_eq!(state.staleness(heads[2], old), Some(3));
    assert_eq!(state.staleness(world.root, old), Some(0));
    assert_eq!(state.explain(old), Some(UpdateStatus::Pending { staleness: 3 }));
    // Trained on a losing path: one aggregate up to the common ancestor, two down to the head.
    let inputs = [2, 3].map(|who| world.update(who, heads[0], 50));
    let aside = world.aggregate(DELEGATE, heads[0], &inputs);
    for who in [DELEGATE, 2] {
        world.attest(who, heads[2], 0);
    }
    let late = world.update(3, aside, 51);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].head, Some(heads[2]));
    assert_eq!(state.staleness(heads[2], late), Some(3));
}

trait Leaving {
    fn round_leaving(&mut self, out: CommitId, number: u64) -> CommitId;
}

impl Leaving for World {
    fn round_leaving(&mut self, out: CommitId, number: u64) -> CommitId {
        let head = self.head();
        for who in [2, 3] {
            self.update(who, head, number);
        }
        let mut next = self.state().next_inputs(self.branch).unwrap();
        next.inputs.retain(|input| *input != out);
        let head = self.aggregate(2, next.parent, &next.inputs);
        self.attest(3, head, 0);
        assert_eq!(self.head(), head);
        head
    }
}

#[test]
fn an_update_too_far_behind_is_dropped_and_says_so() {
    let mut world = World::with(&[2, 3], |policy| policy.aggregation.max_staleness = 2);
    let old = world.update(2, world.root, 100);
    for number in 0..3 {
        world.round_leaving(old, number);
    }
    let state = world.state();
    let why = Dropped::Stale { behind: 3, most: 2 };
    assert_eq!(state.explain(old), Some(UpdateStatus::Dropped { why }));
    assert_eq!(state.branches[&world.branch].dropped, [(old, why)]);
    let forced = world.aggregate(DELEGATE, world.head(), &[old]);
    assert_eq!(idle(&world.state(), forced), NoEffect::Stale { input: old, behind: 3, most: 2 });
}

#[test]
fn chained_updates_go_in_together_or_in_order() {
    let mut world = World::new(&[2, 3]);
    let first = world.update(2, world.root, 0);
    let second = world.update(2, first, 1);
    let other = world.update(3, world.root, 0);
    let state = world.state();
    assert_eq!(state.base(second), Some(world.root));
    assert_eq!(state.staleness(world.root, second), Some(0));
    let alone = world.aggregate(2, world.root, &[second, other]);
    assert_eq!(idle(&world.state(), alone), NoEffect::Unsupported(second));
    let head = world.aggregate(2, world.root, &[first, other]);
    assert_eq!(world.head(), head);
    assert_eq!(world.state().explain(second), Some(UpdateStatus::Pending { staleness: 1 }));
    let next = world.aggregate(DELEGATE, head, &[second]);
    assert_eq!(world.head(), next);
    let again = world.aggregate(DELEGATE, next, &[second]);
    assert_eq!(idle(&world.state(), again), NoEffect::Consumed(second));
}

#[test]
fn a_chain_of_own_updates_has_a_bound() {
    let mut world = World::new(&[2]);
    let mut base = world.root;
    for number in 0..limits::CHAIN as u64 {
        base = world.update(2, base, number);
        assert!(world.state().commits[&base].is_effective());
    }
    let over = world.update(2, base, 99);
    assert_eq!(idle(&world.state(), over), NoEffect::Chain);
}

#[test]
fn updates_that_break_a_rule_have_no_effect_and_say_which() {
    let mut world = World::new(&[2, 3]);
    let theirs = world.update(3, world.root, 0);
    let on_theirs = world.update(2, theirs, 0);
    let nowhere = CommitId::from_digest(digest("nowhere"));
    let on_nothing = world.update(2, nowhere, 0);
    let other_branch = world.create("other", Some(world.root));
    let elsewhere = flair_protocol::id::BranchId::from_digest(digest("no branch"));
    let lost = world.publish(2, update(2, elsewhere, world.root, 0), None);
    let mut odd = update(2, world.branch, world.root, 7);
    if let Commit::Update(update) = &mut odd {
        update.architecture = architecture(1);
    }
    let odd = world.publish(2, odd, None);
    let head = world.round(&[2, 3], 2, 5);
    let foreign = world.publish(2, update(2, other_branch, head, 0), None);
    let state = world.state();
    assert_eq!(idle(&state, on_theirs), NoEffect::OthersUpdate(theirs));
    assert_eq!(idle(&state, on_nothing), NoEffect::Base(nowhere));
    assert_eq!(idle(&state, lost), NoEffect::Branch);
    assert_eq!(idle(&state, odd), NoEffect::Architecture);
    assert_eq!(idle(&state, foreign), NoEffect::ForeignBase(head));
    for why in state.idle.values() {
        let text = why.to_string();
        assert!(text.len() > 20 && text.is_ascii(), "{text}");
    }
}

#[test]
fn a_base_or_input_must_be_in_the_operations_own_past() {
    let mut world = World::new(&[2, 3]);
    let joined: Vec<_> = world.graph.heads().collect();
    let mine = world.update(2, world.root, 0);
    let theirs = world.update(3, world.root, 0);
    let unseen = aggregate(&world, world.root, &[mine, theirs]);
    let id = unseen.id().unwrap();
    // Signed by 2 after its own update but before that of 3.
    let after = world.graph.by_author(person(2)).next().map(|(_, places)| world.graph.at(places[0]).id());
    world.say_after(2, &[after.unwrap()], publish(unseen.clone(), Some(outcome(0))));
    assert_eq!(idle(&world.state(), id), NoEffect::Input(theirs));
    assert_eq!(world.head(), world.root);
    // Published again by somebody who has seen everything: one valid publication is enough.
    world.publish(3, unseen, Some(outcome(0)));
    assert_eq!(world.head(), id);
    assert!(!joined.is_empty());
}

#[test]
fn a_recipe_of_another_policy_kernel_or_branch_has_no_effect() {
    let mut world = World::new(&[2, 3]);
    let inputs = [2, 3].map(|who| world.update(who, world.root, 0));
    let mut change = |with: &dyn Fn(&mut flair_protocol::commit::Aggregate)| {
        let mut commit = aggregate(&world, world.root, &inputs);
        if let Commit::Aggregate(aggregate) = &mut commit {
            with(aggregate);
        }
        let id = world.publish(2, commit, Some(outcome(0)));
        idle(&world.state(), id)
    };
    let policy = flair_protocol::id::OperationId::from_digest(digest("policy"));
    assert_eq!(change(&|recipe| recipe.policy = policy), NoEffect::Policy(policy));
    assert_eq!(change(&|recipe| recipe.kernel = 9), NoEffect::Kernel(9));
    let nowhere = CommitId::from_digest(digest("nowhere"));
    assert_eq!(change(&|recipe| recipe.parent = nowhere), NoEffect::Parent(nowhere));
    let parent = inputs[0];
    assert_eq!(change(&|recipe| recipe.parent = parent), NoEffect::Parent(parent));
}

#[test]
fn a_wrong_result_published_first_is_never_the_one_that_counts() {
    let mut world = World::new(&[2, 3, 4]);
    let inputs = [2, 3, 4].map(|who| world.update(who, world.root, 0));
    let commit = aggregate(&world, world.root, &inputs);
    let id = world.publish(2, commit.clone(), Some(outcome(666)));
    world.refute(3, id, 666, 0);
    world.refute(4, id, 666, 0);
    let state = world.state();
    assert!(state.commits[&id].skipped);
    assert_eq!(state.branches[&world.branch].head, Some(world.root), "refuted by more than support it");
    assert_eq!(state.branches[&world.branch].pending.len(), 3);
    // Somebody publishes the same recipe with what it really gives.
    world.publish(3, commit, Some(outcome(0)));
    world.attest(4, id, 0);
    let state = world.state();
    let info = &state.commits[&id];
    assert_eq!((info.result, info.skipped), (Some(outcome(0)), false));
    assert_eq!(state.branches[&world.branch].head, Some(id));
    assert_eq!(info.claims[0].supporters.len(), 2);
}

#[test]
fn what_a_node_pulls_is_the_claim_with_most_support_then_the_lowest() {
    let mut world = World::new(&[2, 3]);
    let inputs = [2, 3].map(|who| world.update(who, world.root, 0));
    let id = world.aggregate(2, world.root, &inputs);
    world.attest(3, id, 1);
    let lowest = outcome(0).min(outcome(1));
    assert_eq!(world.state().commits[&id].result, Some(lowest));
    world.attest(DELEGATE, id, 1);
    assert_eq!(world.state().commits[&id].result, Some(outcome(1)));
    // A person's latest word counts, once.
    world.attest(3, id, 0);
    world.attest(3, id, 0);
    world.attest(DELEGATE, id, 0);
    let state = world.state();
    assert_eq!(state.commits[&id].result, Some(outcome(0)));
    assert_eq!(state.commits[&id].claims.len(), 1);
}

#[test]
fn branches_of_one_name_are_told_apart_and_deleted_ones_close() {
    let mut world = World::new(&[2, 3]);
    let twins = [world.create("twin", Some(world.root)), world.create("twin", Some(world.root))];
    let (low, high) = (twins[0].min(twins[1]), twins[0].max(twins[1]));
    let state = world.state();
    assert_eq!(state.branches[&low].name, "twin");
    assert_eq!(state.branches[&high].name, format!("twin~{}", high.short()));
    world.rename(high, "second");
    world.rename(high, "third");
    assert_eq!(world.state().branches[&high].name, "third");
    world.delete(low);
    let state = world.state();
    assert!(state.branches[&low].deleted && state.branch("twin").is_none());
    let late = world.publish(2, update(2, low, world.root, 0), None);
    assert_eq!(idle(&world.state(), late), NoEffect::Deleted);
    let open = world.publish(2, update(2, high, world.root, 0), None);
    assert_eq!(world.state().branches[&high].pending, [open]);
}

#[test]
fn a_branch_starts_from_a_commit_and_counts_its_own_active_persons() {
    let mut world = World::new(&[2, 3, 4, 5]);
    let head = world.round(&[2, 3, 4, 5], 2, 0);
    let side = world.create("side", Some(head));
    let main = std::mem::replace(&mut world.branch, side);
    let inputs = [2, 3].map(|who| world.update(who, head, 7));
    let state = world.state();
    assert_eq!(state.branches[&side].root, Some(head));
    assert_eq!(
        state.every(&state.recipe(side, head, &inputs)),
        Some(2),
        "only two are active on the new branch"
    );
    let next = world.aggregate(2, head, &inputs);
    let state = world.state();
    assert_eq!(state.branches[&side].path, [head, next]);
    assert_eq!(state.path(next), [world.root, head, next]);
    assert_eq!(state.generation(next), Some(2));
    assert_eq!(state.branches[&main].head, Some(head), "the other branch stays where it is");
    let wrong = world.create("wrong", Some(CommitId::from_digest(digest("nothing"))));
    assert_eq!(world.state().branches[&wrong].root, None);
    let second = world.initial(DELEGATE, wrong, 3);
    let third = world.initial(DELEGATE, wrong, 4);
    let state = world.state();
    assert_eq!(state.branches[&wrong].head, Some(second));
    assert_eq!(idle(&state, third), NoEffect::NotFirst);
}

#[test]
fn every_eighth_pack_is_whole_and_the_others_stand_on_it() {
    let mut world = World::with(&[2], |policy| policy.aggregation.every = Every::Persons(1));
    let mut heads = vec![world.root];
    for number in 0..18 {
        heads.push(world.round(&[2], 2, number));
    }
    let state = world.state();
    for (generation, head) in heads.iter().enumerate() {
        assert_eq!(state.generation(*head), Some(generation as u64));
        let base = generation - generation % 8;
        let expected = (base != generation).then(|| heads[base]);
        assert_eq!(state.pack_base(*head), expected, "{generation}");
    }
    assert_eq!(state.ancestor(heads[18], 3), Some(heads[3]));
    assert_eq!(state.ancestor(heads[3], 4), None);
    // A recipe that is not accepted yet has a base as well: whoever computes it packs before they publish.
    let more = world.update(2, heads[18], 50);
    let commit = aggregate(&world, heads[18], &[more]);
    let id = world.publish(3, commit, Some(outcome(0)));
    assert_eq!(world.state().pack_base(id), Some(heads[16]));
}

#[test]
fn the_delegate_may_aggregate_with_fewer_persons() {
    let mut world = World::new(&[2, 3, 4, 5]);
    let head = world.round(&[2, 3, 4, 5], 2, 0);
    let alone = world.update(2, head, 1);
    let refused = world.aggregate(2, head, &[alone]);
    assert_eq!(idle(&world.state(), refused), NoEffect::Persons { found: 1, needed: 3 });
    let flushed = world.aggregate(DELEGATE, head, &[alone]);
    assert_eq!((flushed, world.head()), (refused, refused), "one recipe, one id");
}

#[test]
fn a_commit_published_over_and_over_counts_four_times_at_most() {
    let mut world = World::new(&[2]);
    let id = world.update(2, world.root, 0);
    for _ in 0..6 {
        world.update(2, world.root, 0);
    }
    let state = world.state();
    assert_eq!(state.commits[&id].effective().count(), limits::PUBLICATIONS);
    assert_eq!(state.idle.len(), 3);
    assert!(state.idle.values().all(|why| *why == NoEffect::Again));
    assert_eq!(state.branches[&world.branch].pending, [id]);
}
