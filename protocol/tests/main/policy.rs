//! The policy: revisions, quorums, freezing, and what a quorum may take back.

use flair_protocol::id::{CommitId, OperationId};
use flair_protocol::operation::body::{Revision, Stated};
use flair_protocol::operation::{Body, Kind};
use flair_protocol::policy::{Every, Policy, Role};
use flair_protocol::state::{Effect, NoEffect, RevisionStatus, State, Void};

use crate::world::*;

/// Delegates of these repositories beside [`DELEGATE`].
const B: u8 = 11;
const C: u8 = 12;
const ALL: [u8; 3] = [DELEGATE, B, C];

/// Three delegates, two of whom decide.
fn three(contributors: &[u8]) -> World {
    World::with(contributors, |policy| {
        policy.delegates = people(&ALL);
        policy.threshold = 2;
    })
}

fn persons(count: u32) -> impl FnOnce(&mut Policy) {
    move |policy| policy.aggregation.every = Every::Persons(count)
}

fn every(state: &State) -> Every {
    state.policy.as_ref().unwrap().aggregation.every
}

fn void(state: &State, commit: CommitId) -> Void {
    match state.commits[&commit].effect() {
        Effect::Void(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_revision_is_in_force_once_a_quorum_of_its_parents_delegates_approved() {
    let mut world = three(&[2]);
    let revision = world.propose(DELEGATE, persons(7));
    let state = world.state();
    assert_eq!((every(&state), state.chain.len()), (Every::Auto, 1), "one approval of two");
    assert_eq!(state.revision_status(revision), Some(RevisionStatus::Proposed));
    // Their own again, a contributor's and a stranger's do not help.
    let again = world.approve(DELEGATE, revision);
    let others = [world.approve(2, revision), world.approve(99, revision)];
    let state = world.state();
    assert_eq!(state.chain.len(), 1);
    assert!(state.is_effective(again) && others.iter().all(|id| !state.is_effective(*id)));
    world.approve(C, revision);
    let state = world.state();
    assert_eq!((every(&state), state.revision()), (Every::Persons(7), revision));
    assert_eq!(state.revisions[&revision].approvals, people(&[DELEGATE, C]));
}

#[test]
fn a_single_delegate_changes_the_policy_alone_and_can_share_it() {
    let mut world = World::new(&[2]);
    let shared = world.propose(DELEGATE, |policy| {
        policy.delegates = people(&ALL);
        policy.threshold = 2;
    });
    assert_eq!(world.state().revision(), shared);
    world.propose(DELEGATE, persons(3));
    assert_eq!(world.state().revision(), shared, "from now on it takes two");
    // A new delegate does what delegates do.
    world.say(B, grant(5, Role::Contributor));
    assert_eq!(world.state().role(person(5)), Some(Role::Contributor));
}

#[test]
fn nobody_below_a_delegate_changes_the_policy() {
    let mut world = World::new(&[2]);
    world.grant(3, Role::Maintainer);
    let tries = [world.propose(3, persons(7)), world.propose(2, persons(7)), world.propose(99, persons(7))];
    let state = world.state();
    assert_eq!((every(&state), state.chain.len()), (Every::Auto, 1));
    assert_eq!(state.idle[&tries[0]], NoEffect::NotDelegate);
    assert_eq!(state.idle[&tries[1]], NoEffect::NotDelegate);
    assert_eq!(state.void[&tries[2]], Void::Stranger);
}

#[test]
fn the_policy_is_not_rolled_back_and_no_version_is_skipped() {
    let mut world = World::new(&[2]);
    let first = world.propose(DELEGATE, persons(1));
    let second = world.propose(DELEGATE, persons(2));
    // An older revision approved again, and a sibling of it once it was replaced.
    world.approve(DELEGATE, first);
    assert_eq!(world.state().revision(), second);
    let Body::Revision(current) = revision(&world.state(), persons(5)) else { unreachable!() };
    let skipped = Revision { version: current.version + 1, ..(*current).clone() };
    let skipped = world.say(DELEGATE, Body::Revision(Box::new(skipped)));
    let unknown = Revision { parent: OperationId::from_digest(digest("nowhere")), ..*current };
    let unknown = world.say(DELEGATE, Body::Revision(Box::new(unknown)));
    let state = world.state();
    assert_eq!(state.revision(), second);
    assert_eq!(state.idle[&skipped], NoEffect::Version { found: 4, parent: 2 });
    assert!(matches!(state.idle[&unknown], NoEffect::Revision(_)));
    // In no replica is the genesis' policy in force for who has seen more.
    assert_eq!(state.chain, [OperationId::from_digest(world.graph.repo().digest()), first, second]);
}

#[test]
fn two_approved_siblings_freeze_everybody_alike_and_a_quorum_resolves() {
    let mut here = three(&[2, 3]);
    let mut there = here.clone();
    let left = here.propose(DELEGATE, persons(1));
    here.approve(B, left);
    assert_eq!(here.state().revision(), left);
    let under = here.round(&[2], 2, 0);
    // On the other side of a partition, B approves of something else too.
    let right = there.propose(C, persons(2));
    there.approve(B, right);
    assert_eq!(there.state().revision(), right);
    here.merge(&there);
    there.merge(&here);
    let state = here.state();
    assert_eq!(state.fingerprint(), there.state().fingerprint());
    let mut both = [left, right];
    both.sort_unstable();
    assert_eq!((state.frozen.as_slice(), state.chain.len(), every(&state)), (&both[..], 1, Every::Auto));
    // What was aggregated under one of them waits for the outcome; nothing of it is lost.
    assert_eq!(here.head(), here.root);
    assert!(matches!(state.commits[&under].effect(), Effect::None(NoEffect::Policy(_))));
    assert_eq!(state.branches[&here.branch].pending.len(), 1);
    // Nothing that builds on either side moves it.
    let Body::Revision(mut more) = revision(&state, persons(9)) else { unreachable!() };
    (more.parent, more.version) = (left, 2);
    here.say(DELEGATE, Body::Revision(more));
    assert_eq!(here.state().chain.len(), 1);
    here.resolve(DELEGATE, left, 0);
    assert_eq!(here.state().chain.len(), 1, "one of two");
    here.resolve(C, left, 0);
    let state = here.state();
    assert_eq!((state.revision(), every(&state), here.head()), (left, Every::Persons(1), under));
    assert!(state.frozen.is_empty());
    assert_eq!(state.revision_status(right), Some(RevisionStatus::PassedOver));
}

#[test]
fn a_stalemate_between_resolutions_is_left_by_a_later_round() {
    let mut world = World::with(&[], |policy| {
        policy.delegates = people(&ALL);
        policy.threshold = 1;
    });
    let mut other = world.clone();
    let left = world.propose(DELEGATE, persons(1));
    let right = other.propose(B, persons(2));
    world.merge(&other);
    assert_eq!(world.state().frozen.len(), 2);
    world.resolve(DELEGATE, left, 0);
    world.resolve(B, right, 0);
    assert_eq!(world.state().frozen.len(), 2, "each has a quorum of one");
    world.resolve(C, right, 1);
    assert_eq!(world.state().revision(), right);
}

#[test]
fn an_approval_counts_whatever_becomes_of_who_gave_it() {
    let mut world = three(&[2]);
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut other = world.clone();
    let revision = world.propose(DELEGATE, persons(7));
    world.approve(B, revision);
    // B signs something else with the same number.
    other.say_after(B, &fork, grant(5, Role::Contributor));
    world.merge(&other);
    let state = world.state();
    assert_eq!(state.equivocations.len(), 1);
    assert_eq!(state.revision(), revision);
}

#[test]
fn a_delegate_who_is_let_go_decides_no_more_and_what_the_others_saw_stays() {
    let mut world = three(&[]);
    world.say(C, grant(4, Role::Contributor));
    let mut away = world.clone();
    let gone = world.propose(DELEGATE, |policy| policy.delegates.retain(|one| *one != person(C)));
    world.approve(B, gone);
    let concurrent = away.say(C, grant(5, Role::Contributor));
    world.merge(&away);
    let later = world.say(C, grant(6, Role::Contributor));
    let state = world.state();
    assert_eq!(state.void[&concurrent], Void::Quarantined(gone));
    assert_eq!(state.void[&later], Void::Revoked(gone));
    let role = |who| state.role(person(who));
    assert_eq!([role(4), role(5), role(6), role(C)], [Some(Role::Contributor), None, None, None]);
    // Approvals of theirs that nobody had seen help a sibling no more than before: it takes two of three.
    let rival = away.propose(C, persons(9));
    world.merge(&away);
    assert_eq!(world.state().revision_status(rival), Some(RevisionStatus::PassedOver));
}

#[test]
fn a_quorum_takes_back_what_it_does_not_vouch_for() {
    let mut world = three(&[2]);
    let before: Vec<OperationId> = world.graph.heads().collect();
    world.say(C, grant(4, Role::Contributor));
    let theirs = world.update(4, world.root, 0);
    let mine = world.update(2, world.root, 1);
    // One delegate could not: they had seen it. Two can.
    let cut = cutting(&world.state(), C, &before);
    let cut = world.say(DELEGATE, cut);
    assert_eq!(world.state().role(person(4)), Some(Role::Contributor));
    world.approve(B, cut);
    let state = world.state();
    assert_eq!((state.role(person(4)), state.role(person(C))), (None, None));
    assert_eq!(void(&state, theirs), Void::Stranger);
    assert!(state.commits[&mine].is_effective());
}

#[test]
fn a_quorum_cuts_off_a_contributor_at_a_frontier() {
    let mut world = three(&[2, 3]);
    let kept = world.update(2, world.root, 0);
    let keep: Vec<OperationId> = world.graph.heads().collect();
    let poison = world.update(2, world.root, 1);
    let cut = cutting(&world.state(), 2, &keep);
    let cut = world.say(DELEGATE, cut);
    world.approve(C, cut);
    let state = world.state();
    assert!(state.commits[&kept].is_effective());
    assert_eq!(void(&state, poison), Void::Quarantined(cut));
    assert_eq!(state.members[&person(2)].revoked, Some(cut));
    // A new grant starts afresh.
    world.grant(2, Role::Contributor);
    let again = world.update(2, world.root, 2);
    let state = world.state();
    assert!(state.commits[&again].is_effective() && !state.commits[&poison].is_effective());
}

#[test]
fn a_stranger_who_is_cut_off_was_never_a_member() {
    let mut world = World::new(&[2]);
    let cut = cutting(&world.state(), 5, &[]);
    world.say(DELEGATE, cut);
    let state = world.state();
    assert_eq!((state.chain.len(), state.members.get(&person(5))), (2, None));
}

#[test]
fn an_aggregate_follows_a_revision_in_force_and_none_older_than_its_parents() {
    let mut world = World::new(&[2, 3]);
    let old = world.state().revision();
    let new = world.propose(DELEGATE, persons(1));
    let head = world.round(&[2], 2, 0);
    assert!(world.state().commits[&head].is_effective());
    let late = world.update(3, head, 1);
    let mut recipe = aggregate(&world, head, &[late]);
    if let flair_protocol::commit::Commit::Aggregate(recipe) = &mut recipe {
        assert_eq!(recipe.policy, new);
        recipe.policy = old;
    }
    let backwards = world.publish(DELEGATE, recipe, Some(outcome(0)));
    let state = world.state();
    assert_eq!(state.commits[&backwards].effect(), Effect::None(NoEffect::Policy(old)));
    assert_eq!(world.head(), head);
    // Who had not seen the new revision aggregates by the old one, on a parent that is older still.
    let mut apart = World::new(&[2, 3]);
    let first = apart.round(&[2, 3], 2, 0);
    let mut seen = apart.clone();
    seen.propose(DELEGATE, persons(7));
    let second = apart.round(&[2, 3], 3, 1);
    seen.merge(&apart);
    assert_eq!((seen.head(), seen.state().path(second)[1]), (second, first));
}

#[test]
fn a_policy_of_a_level_above_stops_evaluation_instead_of_disagreeing() {
    let mut world = World::new(&[2]);
    let state = world.state();
    let above = Revision {
        parent: state.revision(),
        version: 1,
        policy: Stated::Above { level: 9, bytes: vec![1, 2, 3] },
        cuts: Vec::new(),
        reason: String::new(),
    };
    let revision = world.say(DELEGATE, Body::Revision(Box::new(above)));
    let operation = world.graph.get(revision).unwrap();
    assert_eq!(operation.header().kind, Kind::REVISION);
    let bytes = operation.encode().unwrap();
    let again = flair_protocol::operation::Operation::decode(&bytes, world.graph.repo()).unwrap();
    assert_eq!((again.id(), again.body()), (revision, operation.body()));
    assert_eq!(world.state().needs_level, Some(9));
    // Only proposed, it stops nobody.
    let mut several = three(&[2]);
    let state = several.state();
    let above = Revision {
        parent: state.revision(),
        version: 1,
        policy: Stated::Above { level: 9, bytes: vec![1, 2, 3] },
        cuts: Vec::new(),
        reason: String::new(),
    };
    several.say(B, Body::Revision(Box::new(above)));
    assert_eq!(several.state().needs_level, None);
}

#[test]
fn who_is_made_a_delegate_by_the_other_side_was_none_when_they_signed() {
    let new = 40;
    let mut here = three(&[]);
    let mut there = here.clone();
    let left = here.propose(DELEGATE, persons(1));
    here.approve(B, left);
    let right = there.propose(C, |policy| policy.delegates.push(person(new)));
    there.approve(B, right);
    // They know one side only, by which they decide nothing.
    let early = here.say(new, grant(5, Role::Contributor));
    here.merge(&there);
    for delegate in [DELEGATE, B] {
        here.resolve(delegate, right, 0);
    }
    assert_eq!(here.state().revision(), right);
    assert_eq!(here.state().void[&early], Void::Stranger);
    here.say(new, grant(6, Role::Contributor));
    let state = here.state();
    assert_eq!((state.role(person(5)), state.role(person(6))), (None, Some(Role::Contributor)));
}

#[test]
fn the_same_quorum_can_choose_again_in_a_later_round() {
    let mut here = three(&[]);
    let mut there = here.clone();
    let left = here.propose(DELEGATE, persons(1));
    here.approve(B, left);
    let right = there.propose(C, persons(2));
    there.approve(B, right);
    here.merge(&there);
    here.resolve(DELEGATE, left, 0);
    here.resolve(C, left, 0);
    assert_eq!(here.state().revision(), left);
    here.resolve(DELEGATE, right, 1);
    assert_eq!(here.state().revision(), left, "one of two");
    here.resolve(B, right, 1);
    assert_eq!(here.state().revision(), right);
}
