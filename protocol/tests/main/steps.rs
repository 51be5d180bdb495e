//! Steps: what maintainers decide about a branch beside the aggregates.

use flair_protocol::commit::{Change, Commit, Merge, Step};
use flair_protocol::id::{BranchId, CommitId, Digest, PackId};
use flair_protocol::operation::body::BranchCreate;
use flair_protocol::operation::body::Judgement::{Accept, Reject};
use flair_protocol::operation::{Body, Operation};
use flair_protocol::policy::{BranchRule, Every, Role};
use flair_protocol::state::{Dropped, Effect, NoEffect, State, StepStatus, UpdateStatus};

use crate::world::*;

/// Maintainers.
const M: u8 = 20;
const N: u8 = 21;

/// Two contributors, two maintainers; the branch asks for so many accepts.
fn world(accepts: u32) -> World {
    let mut world = World::with(&[2, 3], |policy| policy.aggregation.every = Every::Persons(1));
    world.grant(M, Role::Maintainer);
    world.grant(N, Role::Maintainer);
    let branch = world.branch;
    if accepts > 0 {
        world.propose(DELEGATE, |policy| {
            policy.branches = vec![BranchRule { branch, accepts, require: Vec::new() }];
        });
    }
    world
}

/// An update by person 2 on the head, aggregated.
fn grow(world: &mut World, number: u64) -> (CommitId, CommitId) {
    let update = world.update(2, world.head(), number);
    let needed = world.state().policy.unwrap().accepts(world.branch);
    for who in [M, N].into_iter().take(needed as usize) {
        world.review(who, update, Accept);
    }
    let aggregate = world.aggregate_pending(3);
    assert_eq!(world.head(), aggregate);
    (update, aggregate)
}

fn effect(state: &State, commit: CommitId) -> Effect {
    state.commits[&commit].effect()
}

fn pending(world: &World) -> Vec<CommitId> {
    world.state().branches[&world.branch].pending.clone()
}

#[test]
fn a_maintainers_revert_brings_back_an_ancestors_model() {
    let mut world = world(0);
    let (kept, first) = grow(&mut world, 0);
    let (out, second) = grow(&mut world, 1);
    let revert = world.revert(M, first);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].path, [world.root, first, second, revert]);
    assert_eq!(state.explain_step(revert), Some(StepStatus::OnPath));
    assert_eq!(state.source(revert), Some(first));
    assert_eq!(state.lineage(revert), [world.root, first]);
    assert_eq!(state.explain(kept), Some(UpdateStatus::InHead { aggregate: first }));
    assert_eq!(state.explain(out), Some(UpdateStatus::Reverted { aggregate: second, revert }));
    assert!(pending(&world).is_empty(), "what was reverted is not taken in again");

    // Training goes on from there; what is reverted can be brought back.
    let (_, third) = grow(&mut world, 2);
    assert_eq!(world.state().lineage(third), [world.root, first, third]);
    let back = world.revert(DELEGATE, second);
    let state = world.state();
    assert_eq!(state.lineage(back), [world.root, first, second]);
    assert_eq!(state.explain(out), Some(UpdateStatus::InHead { aggregate: second }));
    assert_eq!(state.branches[&world.branch].head, Some(back));
}

#[test]
fn a_revert_moves_nothing_until_it_is_accepted() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let root = world.root;
    let revert = world.revert(2, root);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].proposed, [revert]);
    assert_eq!(world.head(), first);
    let waits = |accepts, needed, behind| Some(StepStatus::Waiting { accepts, needed, behind });
    assert_eq!(state.explain_step(revert), waits(0, 1, Some(0)));
    // Contributors don't accept, and a maintainer's no is none.
    world.review(3, revert, Accept);
    world.review(M, revert, Reject);
    assert_eq!(world.head(), first);
    // The branch goes on meanwhile; the accept brings it back all the same, and what went on is pending again.
    let (update, second) = grow(&mut world, 1);
    assert_eq!(world.state().explain_step(revert), waits(0, 1, Some(1)));
    world.review(N, revert, Accept);
    assert_eq!(world.head(), revert);
    let state = world.state();
    assert!(!state.branches[&world.branch].path.contains(&second));
    assert_eq!(state.explain(update), Some(UpdateStatus::Pending { staleness: 1 }));
    // An accept is for good.
    world.review(N, revert, Reject);
    assert_eq!(world.head(), revert);
}

#[test]
fn as_many_maintainers_are_needed_as_for_an_update() {
    let mut world = world(2);
    let (_, first) = grow(&mut world, 0);
    let root = world.root;
    let revert = world.revert(M, root);
    assert_eq!(world.head(), first, "the author's own does not count");
    world.review(M, revert, Accept);
    world.review(N, revert, Accept);
    world.review(N, revert, Accept);
    let waiting = StepStatus::Waiting { accepts: 1, needed: 2, behind: Some(0) };
    assert_eq!(world.state().explain_step(revert), Some(waiting));
    world.review(DELEGATE, revert, Accept);
    assert_eq!(world.head(), revert);

    // Less asked for later does not make up for what lacked, nor more asked for undo what was there.
    let (_, second) = grow(&mut world, 1);
    let again = world.revert(M, root);
    world.propose(DELEGATE, |policy| policy.branches.clear());
    assert_eq!(world.head(), second);
    assert!(world.state().branches[&world.branch].proposed.contains(&again));
    let branch = world.branch;
    world.propose(DELEGATE, |policy| {
        policy.branches = vec![BranchRule { branch, accepts: 3, require: Vec::new() }];
    });
    assert!(world.state().branches[&world.branch].path.contains(&revert));
}

#[test]
fn of_two_concurrent_reverts_one_holds_everywhere() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let (_, _) = grow(&mut world, 1);
    let root = world.root;
    let mut other = world.clone();
    let here = world.revert(M, root);
    let there = other.revert(N, first);
    let (_, onward) = grow(&mut other, 2);
    assert_eq!(other.head(), onward);
    world.merge(&other);
    other.merge(&world);
    let state = world.state();
    assert_eq!(state.fingerprint(), other.state().fingerprint());
    // More persons stand behind the one that was gone on from.
    assert_eq!(state.branches[&world.branch].head, Some(onward));
    assert_eq!(state.explain_step(there), Some(StepStatus::OnPath));
    assert_eq!(state.explain_step(here), Some(StepStatus::PassedOver));
}

#[test]
fn a_revert_outweighs_aggregates_that_did_not_know_of_it() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let mut other = world.clone();
    let root = world.root;
    let revert = world.revert(M, root);
    let (update, second) = grow(&mut other, 1);
    other.attest(3, second, 0);
    world.merge(&other);
    assert_eq!(world.head(), revert);
    let state = world.state();
    assert_eq!(state.explain(update), Some(UpdateStatus::Pending { staleness: 1 }));
    assert_eq!(state.path(revert), [root, first, revert]);
}

#[test]
fn an_update_on_a_commit_that_was_passed_over_stays_pending() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let (_, second) = grow(&mut world, 1);
    let late = world.update(3, second, 9);
    let early = world.update(3, first, 10);
    let revert = world.revert(M, first);
    let state = world.state();
    assert_eq!(state.explain(late), Some(UpdateStatus::Pending { staleness: 1 }));
    assert_eq!(state.explain(early), Some(UpdateStatus::Pending { staleness: 2 }));
    let aggregate = world.aggregate_pending(3);
    assert_eq!(world.state().path(aggregate).last(), Some(&aggregate));
    assert_eq!(world.state().explain(late), Some(UpdateStatus::InHead { aggregate }));
    assert!(world.state().branches[&world.branch].path.contains(&revert));
}

#[test]
fn what_is_no_ancestor_can_not_be_reverted_to() {
    let mut world = world(0);
    let (update, first) = grow(&mut world, 0);
    let (_, second) = grow(&mut world, 1);
    let beside = world.step(M, first, Change::Revert { target: first });
    let forward = world.step(M, first, Change::Revert { target: second });
    let trained = world.step(M, second, Change::Revert { target: update });
    let state = world.state();
    for (revert, target) in [(beside, first), (forward, second), (trained, update)] {
        assert_eq!(effect(&state, revert), Effect::None(NoEffect::Target(target)));
    }
    assert_eq!(world.head(), second);
    let root = world.root;
    let on_update = world.step(M, update, Change::Revert { target: root });
    assert_eq!(effect(&world.state(), on_update), Effect::None(NoEffect::Parent(update)));
    let reader = 30;
    world.grant(reader, Role::Reader);
    let read = world.revert(reader, root);
    assert_eq!(effect(&world.state(), read), Effect::None(NoEffect::Reader));
}

#[test]
fn a_revert_that_names_another_policy_than_holds_has_no_effect() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let old = world.state().revision();
    world.propose(DELEGATE, |policy| policy.aggregation.max_staleness = 7);
    let (_, second) = grow(&mut world, 1);
    let Commit::Step(mut one) = step(&world, M, second, Change::Revert { target: first }) else {
        unreachable!()
    };
    one.policy = old;
    let revert = world.publish(M, Commit::Step(one), None);
    assert_eq!(effect(&world.state(), revert), Effect::None(NoEffect::Policy(old)));
}

#[test]
fn a_revoked_maintainer_reverts_nothing() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let root = world.root;
    let unseen = world.graph.heads().collect::<Vec<_>>();
    world.revoke(M, &[]);
    let revert = world.revert(M, root);
    assert!(matches!(effect(&world.state(), revert), Effect::Void(_)));
    // Back-dated, as if the revocation had not been seen.
    let body = publish(step(&world, M, first, Change::Revert { target: root }), None);
    world.say_after(M, &unseen, body);
    assert_eq!(world.head(), first);

    // Of somebody who accepted and is revoked later, the accept stays where the revocation has seen it.
    let proposed = world.revert(2, root);
    world.review(N, proposed, Accept);
    world.revoke(N, &[]);
    assert_eq!(world.head(), proposed);
}

#[test]
fn a_pack_is_coded_against_what_its_model_was_made_of() {
    let mut world = world(0);
    let mut heads = vec![world.root];
    for number in 0..9 {
        heads.push(grow(&mut world, number).1);
    }
    assert_eq!(world.state().pack_base(heads[9]), Some(heads[8]));
    let revert = world.revert(M, heads[7]);
    assert_eq!(world.state().pack_base(revert), None);
    assert_eq!(world.state().generation(revert), Some(10));
    // The eighth model since the first commit is whole, whatever was made and reverted between.
    let (_, eighth) = grow(&mut world, 20);
    assert_eq!(world.state().pack_base(eighth), None);
    let (_, ninth) = grow(&mut world, 21);
    assert_eq!(world.state().pack_base(ninth), Some(eighth));
    let update = world.update(2, revert, 30);
    assert_eq!(world.state().pack_base(update), Some(revert));
    let far = world.revert(M, heads[2]);
    let (_, third) = grow(&mut world, 22);
    assert_eq!(world.state().pack_base(third), Some(world.root));
    assert_eq!(world.state().lineage(third), [heads[0], heads[1], heads[2], third]);
    assert_eq!(world.state().generation(far), Some(13));
}

#[test]
fn a_revert_brings_no_bytes() {
    let world = world(0);
    let commit = step(&world, M, world.root, Change::Revert { target: world.root });
    assert_eq!(Commit::decode(&commit.encode().unwrap()), Ok(commit.clone()));
    assert_eq!(commit.kind(), "revert");
    assert!(commit.step().is_some_and(Step::is_bare));
    let Body::Publish(mut body) = publish(commit, None) else { unreachable!() };
    body.pack = PackId::from_digest(Digest::from_bytes([1; 32]));
    let position = world.graph.position(person(M), 0);
    assert!(Operation::sign(&key(M), position, Body::Publish(body)).is_err());
}

#[test]
fn what_was_made_outside_takes_in_updates_once_it_is_accepted() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let (a, b) = (world.update(2, first, 1), world.update(3, first, 2));
    let external = world.external(2, &[a, b]);
    assert_eq!((world.head(), pending(&world)), (first, vec![a, b]));
    world.review(M, external, Accept);
    let state = world.state();
    assert_eq!((world.head(), pending(&world)), (external, vec![]));
    assert_eq!(state.explain(a), Some(UpdateStatus::InHead { aggregate: external }));
    assert_eq!(state.described(external).unwrap().bytes, 4);
    assert_eq!(state.pack_base(external), Some(world.root));
    let late = world.update(2, external, 3);
    let recipe = state.recipe(world.branch, external, &[late]);
    assert_eq!(world.state().recipe_pack_base(&recipe), Some(world.root));
    let again = world.external(M, &[a]);
    assert_eq!(effect(&world.state(), again), Effect::None(NoEffect::Consumed(a)));
    let other = world.step(M, external, external_of(7, &[late]));
    assert_eq!(effect(&world.state(), other), Effect::None(NoEffect::Architecture));
    // Made of nothing that is here.
    let alone = world.external(M, &[]);
    assert_eq!((world.head(), pending(&world)), (alone, vec![late]));
}

fn external_of(number: u64, inputs: &[CommitId]) -> Change {
    external(inputs, architecture(number))
}

#[test]
fn an_external_on_a_protected_branch_takes_in_only_what_was_accepted() {
    let mut world = world(1);
    let (_, first) = grow(&mut world, 0);
    let update = world.update(2, first, 1);
    let early = world.external(M, &[update]);
    let lacks = NoEffect::Unreviewed { input: update, found: 0, needed: 1 };
    assert_eq!(effect(&world.state(), early), Effect::None(lacks));
    world.review(N, update, Accept);
    // The same commit, published again by who has seen the accept.
    assert_eq!(world.external(M, &[update]), early);
    assert_eq!(world.head(), early);
}

#[test]
fn a_migrated_branch_takes_in_no_update_of_the_old_architecture() {
    let mut world = world(0);
    let (taken, first) = grow(&mut world, 0);
    let old = world.update(2, first, 1);
    let migrate = world.migrate(2, 5);
    assert_eq!((world.head(), pending(&world)), (first, vec![old]));
    world.review(M, migrate, Accept);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].head, Some(migrate));
    assert_eq!(state.explain(old), Some(UpdateStatus::Dropped { why: Dropped::Migrated }));
    assert_eq!(state.explain(taken), Some(UpdateStatus::InHead { aggregate: first }));
    assert_eq!(state.described(migrate).unwrap().architecture, architecture(5));
    let forced = world.aggregate(M, migrate, &[old]);
    assert_eq!(effect(&world.state(), forced), Effect::None(NoEffect::Migrated(old)));

    // Packs begin anew, and numbers with them.
    assert_eq!(state.pack_base(migrate), None);
    let mut heads = vec![migrate];
    for number in 0..9 {
        heads.push(grow(&mut world, 10 + number).1);
    }
    let state = world.state();
    assert_eq!(state.pack_base(heads[7]), Some(migrate));
    assert_eq!(state.pack_base(heads[8]), None);
    assert_eq!(state.pack_base(heads[9]), Some(heads[8]));
    assert_eq!(state.described(heads[9]).unwrap().architecture, architecture(5));

    // Going back makes what waited fit again, as far as it is not stale.
    world.revert(M, first);
    assert_eq!(world.state().explain(old), Some(UpdateStatus::Pending { staleness: 11 }));
}

#[test]
fn the_fields_of_steps_are_bounded() {
    let world = world(0);
    let id = |byte| CommitId::from_digest(Digest::from_bytes([byte; 32]));
    let made = |inputs: Vec<CommitId>, engine: &str| {
        let Change::External(mut external) = external_of(0, &[]) else { unreachable!() };
        (external.inputs, external.engine) = (inputs, engine.to_owned());
        step(&world, M, world.root, Change::External(external)).validate().is_ok()
    };
    assert!(made(vec![], "flower") && made(vec![id(1), id(2)], "ü".repeat(100).as_str()));
    for engine in ["", " ", "a ", "a\nb", &"a".repeat(101)] {
        assert!(!made(vec![], engine), "{engine:?}");
    }
    assert!(!made(vec![id(2), id(1)], "a") && !made(vec![id(1), id(1)], "a"));
}

/// A branch `side` off `from`, with an aggregate of an update by person 2 and so many more.
fn side(world: &World, from: CommitId, numbers: &[u64]) -> (World, Vec<CommitId>) {
    let mut beside = world.clone();
    let create = BranchCreate { name: "side".into(), from: Some(from) };
    let created = beside.say(DELEGATE, Body::BranchCreate(create));
    beside.branch = BranchId::from_digest(created.digest());
    let made = numbers.iter().map(|number| grow(&mut beside, 100 + number).1).collect();
    (beside, made)
}

#[test]
fn a_merge_is_a_commit_of_the_branch_with_a_result_that_others_check() {
    let mut world = world(0);
    let (_, first) = grow(&mut world, 0);
    let (beside, made) = side(&world, first, &[1, 2]);
    world.merge(&beside);
    let (_, second) = grow(&mut world, 3);
    let merge = world.merge_in(M, made[1], 7);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].path, [world.root, first, second, merge]);
    assert_eq!(state.branches[&beside.branch].head, Some(made[1]), "the other branch goes on");
    assert_eq!(state.common(second, made[1]), Some(first));
    assert_eq!(state.beside(made[1], second), made);
    assert_eq!(state.commits[&merge].result, Some(outcome(7)));
    assert_eq!(state.pack_base(merge), Some(world.root));
    assert_eq!(state.lineage(merge), [world.root, first, second, merge]);
    assert_eq!(state.described(merge), state.described(second));

    // What came out is settled as an aggregate's is: who gets something else says so.
    world.refute(2, merge, 7, 8);
    world.refute(3, merge, 7, 8);
    assert_eq!(world.head(), second, "a refuted merge is skipped");
    world.attest(N, merge, 7);
    assert_eq!(world.head(), merge);

    // Updates made before go in after it, one commit later; the branch merged in can be merged again, from there on.
    let late = world.update(2, second, 9);
    assert_eq!(world.state().explain(late), Some(UpdateStatus::Pending { staleness: 1 }));
    let mut beside = world.clone();
    beside.branch = state.commits[&made[1]].commit.branch();
    let (_, third) = grow(&mut beside, 10);
    world.merge(&beside);
    let again = world.merge_in(M, third, 11);
    let state = world.state();
    assert_eq!(world.head(), again);
    assert_eq!(state.common(merge, third), Some(made[1]), "what was merged before is common");
    assert_eq!(state.beside(third, merge), [third]);
}

#[test]
fn a_merge_waits_for_maintainers_and_is_checked_meanwhile() {
    let mut world = world(2);
    let (beside, made) = side(&world, world.root, &[1]);
    world.merge(&beside);
    let (_, first) = grow(&mut world, 0);
    let merge = world.merge_in(2, made[0], 7);
    assert_eq!(world.state().branches[&world.branch].proposed, [merge]);
    world.attest(3, merge, 7);
    world.review(M, merge, Accept);
    assert_eq!(world.head(), first, "attested is not accepted");
    world.review(N, merge, Accept);
    assert_eq!(world.head(), merge);
    assert_eq!(world.state().explain_step(merge), Some(StepStatus::OnPath));
}

#[test]
fn only_what_brings_something_of_the_same_kind_is_merged() {
    let mut world = world(0);
    let (update, first) = grow(&mut world, 0);
    let (beside, made) = side(&world, first, &[1]);
    world.merge(&beside);
    let root = world.root;
    let merges = |world: &mut World, other| {
        let merge = world.merge_in(M, other, 7);
        effect(&world.state(), merge)
    };
    let refused = |why| Effect::None(why);
    assert_eq!(merges(&mut world, first), refused(NoEffect::Merged(first)));
    assert_eq!(merges(&mut world, root), refused(NoEffect::Merged(root)));
    assert_eq!(merges(&mut world, update), refused(NoEffect::Other(update)));
    let unknown = CommitId::from_digest(Digest::of(b"unknown"));
    assert_eq!(merges(&mut world, unknown), refused(NoEffect::Other(unknown)));
    // Another root has nothing in common.
    let mut alone = world.clone();
    let created = alone.say(DELEGATE, Body::BranchCreate(BranchCreate { name: "alone".into(), from: None }));
    alone.branch = BranchId::from_digest(created.digest());
    let other = alone.publish(DELEGATE, initial(DELEGATE, alone.branch, 5), None);
    world.merge(&alone);
    assert_eq!(merges(&mut world, other), refused(NoEffect::Unrelated(other)));
    // Nor does one of another architecture go in, or by other kernels.
    let migrated = world.migrate(M, 1);
    assert_eq!(world.head(), migrated);
    assert_eq!(merges(&mut world, made[0]), refused(NoEffect::Architecture));
    let mut commit = step(&world, M, migrated, merge(made[0]));
    if let Commit::Step(step) = &mut commit
        && let Change::Merge(merge) = &mut step.change
    {
        merge.kernel = 99;
    }
    let other_kernel = world.publish(M, commit, Some(outcome(7)));
    assert_eq!(effect(&world.state(), other_kernel), refused(NoEffect::Kernel(99)));
}

#[test]
fn a_merge_has_a_result_and_bounded_settings() {
    let world = world(0);
    let sound = || step(&world, M, world.root, merge(world.root));
    let position = || world.graph.position(person(M), 0);
    assert!(Operation::sign(&key(M), position(), publish(sound(), Some(outcome(1)))).is_ok());
    assert!(Operation::sign(&key(M), position(), publish(sound(), None)).is_err());
    let changed = |change: fn(&mut Merge)| {
        let Commit::Step(mut step) = sound() else { unreachable!() };
        if let Change::Merge(merge) = &mut step.change {
            change(merge);
        }
        Commit::Step(step).validate().is_ok()
    };
    assert!(changed(|_| ()));
    assert!(!changed(|merge| merge.method = String::new()));
    assert!(!changed(|merge| merge.method = "m".repeat(101)));
    assert!(!changed(|merge| merge.mode = "f32".into()));
    assert!(!changed(|merge| merge.settings.extend((0..16).map(|n| (n.to_string(), String::new())))));
    assert!(!changed(|merge| drop(merge.settings.insert("density".into(), "0".repeat(70_000)))));
}
