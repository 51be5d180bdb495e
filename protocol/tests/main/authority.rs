//! Roles, revocation, back-dating, equivocation.

use flair_protocol::id::{CommitId, OperationId};
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{Attest, BranchCreate, Grant};
use flair_protocol::policy::Role;
use flair_protocol::state::{Effect, NoEffect, State, UpdateStatus, Void};

use crate::world::*;

fn void(state: &State, commit: CommitId) -> Void {
    match state.commits[&commit].effect() {
        Effect::Void(why) => why,
        other => panic!("{other:?}"),
    }
}

fn publication(world: &World, commit: CommitId) -> OperationId {
    world.state().commits[&commit].publications[0].operation
}

#[test]
fn a_stranger_has_no_effect() {
    let mut world = World::new(&[2]);
    let before = world.state();
    let theirs = world.update(9, world.root, 0);
    world.say(9, grant(9, Role::Contributor));
    world.say(9, revoke(2, &[]));
    let state = world.state();
    assert_eq!(void(&state, theirs), Void::Stranger);
    assert_eq!(state.void.len(), 3);
    assert_eq!((&state.members, &state.branches), (&before.members, &before.branches));
}

#[test]
fn a_contributor_does_not_decide() {
    let mut world = World::new(&[2, 3]);
    let granted = world.say(2, grant(9, Role::Contributor));
    let revoked = world.say(2, revoke(3, &[]));
    let created = world.say(2, Body::BranchCreate(BranchCreate { name: "mine".into(), from: None }));
    let first = world.initial(2, world.branch, 5);
    let state = world.state();
    for operation in [granted, revoked, created, publication(&world, first)] {
        assert!(matches!(state.idle[&operation], NoEffect::NotDelegate | NoEffect::NotMaintainer));
    }
    assert_eq!(state.role(person(3)), Some(Role::Contributor));
    assert_eq!(state.role(person(9)), None);
}

#[test]
fn a_reader_does_not_publish() {
    let mut world = World::new(&[2]);
    world.grant(3, Role::Reader);
    let update = world.update(3, world.root, 0);
    assert_eq!(world.state().commits[&update].effect(), Effect::None(NoEffect::Reader));
    world.grant(3, Role::Contributor);
    let update = world.update(3, world.root, 1);
    assert!(world.state().commits[&update].is_effective());
    assert_eq!(world.state().role(person(3)), Some(Role::Contributor));
}

#[test]
fn equal_ranks_do_not_remove_each_other() {
    let mut world = World::new(&[2]);
    let own = world.revoke(DELEGATE, &[]);
    let state = world.state();
    assert_eq!(state.idle[&own], NoEffect::Rank);
    assert_eq!(state.role(person(DELEGATE)), Some(Role::Delegate));
}

#[test]
fn what_was_signed_before_the_grant_stays_void() {
    let mut world = World::new(&[]);
    let early = world.update(2, world.root, 0);
    world.grant(2, Role::Contributor);
    let again = world.update(2, world.root, 1);
    let state = world.state();
    assert_eq!(void(&state, early), Void::Stranger);
    assert!(state.commits[&again].is_effective());
}

#[test]
fn a_revoked_key_is_void_also_when_back_dated_and_its_seen_work_stays() {
    let mut world = World::new(&[2, 3]);
    let seen = world.update(2, world.root, 0);
    let before: Vec<OperationId> = world.graph.heads().collect();
    let revoked = world.revoke(2, &[]);
    let after = world.update(2, world.root, 1);
    let state = world.state();
    assert!(state.commits[&seen].is_effective(), "the delegate had seen it");
    assert_eq!(void(&state, after), Void::Revoked(revoked));
    assert_eq!(state.role(person(2)), None);
    // Signed as if the revocation had not been seen.
    let mut back_dated = World { ..world.clone() };
    let commit = update(2, world.branch, world.root, 2);
    let id = commit.id().unwrap();
    back_dated.say_after(2, &before, publish(commit, None));
    let state = back_dated.state();
    assert!(matches!(void(&state, id), Void::Quarantined(_) | Void::Equivocation(_)));
}

#[test]
fn a_revoked_member_shows_what_ended_the_last_grant_and_not_a_later_word_about_another() {
    let mut world = World::with(&[2], |policy| policy.delegates = people(&[DELEGATE, 7]));
    let mut away = world.clone();
    let granted = world.grant(2, Role::Maintainer);
    let ended = world.revoke(2, &[]);
    // By another delegate, who had seen the first grant only; later in the order.
    for number in 0..4 {
        away.update(7, away.root, number);
    }
    away.say(7, revoke(2, &[]));
    world.merge(&away);
    let member = world.state().members[&person(2)].clone();
    assert_eq!((member.granted, member.revoked), (Some(granted), Some(ended)));
}

#[test]
fn honest_concurrent_work_of_a_revoked_key_is_quarantined() {
    let mut world = World::new(&[2, 3]);
    let mut away = world.clone();
    let theirs = away.update(2, away.root, 0);
    let revoked = world.revoke(2, &[]);
    world.merge(&away);
    let state = world.state();
    assert_eq!(void(&state, theirs), Void::Quarantined(revoked));
    assert_eq!(state.explain(theirs), Some(UpdateStatus::Void { why: Void::Quarantined(revoked) }));
    assert!(state.branches[&world.branch].pending.is_empty());
}

#[test]
fn keep_names_what_the_revoker_vouches_for_beyond_what_they_cite() {
    let mut world = World::new(&[2, 3]);
    let mut away = world.clone();
    let first = away.update(2, away.root, 0);
    let second = away.update(2, away.root, 1);
    let keep = publication(&away, first);
    world.revoke(2, &[keep]);
    let without = world.state();
    assert!(!without.commits.contains_key(&first));
    world.merge(&away);
    let state = world.state();
    assert!(state.commits[&first].is_effective());
    assert!(matches!(void(&state, second), Void::Quarantined(_)));
}

#[test]
fn a_new_grant_starts_afresh_and_void_stays_void() {
    let mut world = World::new(&[2]);
    let mut away = world.clone();
    let lost = away.update(2, away.root, 0);
    world.revoke(2, &[]);
    world.merge(&away);
    let between = world.update(2, world.root, 1);
    world.grant(2, Role::Contributor);
    let later = world.update(2, world.root, 2);
    let state = world.state();
    assert!(matches!(void(&state, lost), Void::Quarantined(_)));
    assert!(matches!(void(&state, between), Void::Revoked(_)));
    assert!(state.commits[&later].is_effective());
    assert_eq!(state.branches[&world.branch].pending, [later]);
    // On top of a void update nothing stands.
    let over = world.update(2, lost, 3);
    assert_eq!(world.state().commits[&over].effect(), Effect::None(NoEffect::Base(lost)));
}

#[test]
fn an_update_that_somebody_validly_aggregated_stays() {
    let mut world = World::new(&[2, 3]);
    let mut away = world.clone();
    let theirs = away.update(2, away.root, 0);
    let mine = away.update(3, away.root, 0);
    let head = away.aggregate(3, away.root, &[theirs, mine]);
    let mut inside = away.clone();
    world.revoke(2, &[]);
    world.merge(&away);
    let state = world.state();
    assert!(matches!(void(&state, theirs), Void::Quarantined(_)));
    assert_eq!(world.head(), head, "3 aggregated it before they could know");
    assert_eq!(state.explain(theirs), Some(UpdateStatus::InHead { aggregate: head }));
    assert_eq!(inside.head(), head);
    // Whoever knows of the revocation can't take in more.
    let more = inside.update(2, head, 5);
    world.merge(&inside);
    let head_now = world.head();
    let next = world.aggregate(3, head_now, &[more]);
    assert_eq!(world.state().commits[&next].effect(), Effect::None(NoEffect::Input(more)));
}

#[test]
fn equivocation_voids_from_the_fork_on_and_keeps_the_proof() {
    let mut world = World::new(&[2, 3]);
    let before = world.update(2, world.root, 0);
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut other = world.clone();
    let left = world.update(2, world.root, 1);
    let right_commit = update(2, world.branch, world.root, 2);
    let right = right_commit.id().unwrap();
    other.say_after(2, &fork, publish(right_commit, None));
    let pair = [publication(&world, left), publication(&other, right)];
    let alone = world.state();
    assert!(alone.equivocations.is_empty() && alone.commits[&left].is_effective());
    world.merge(&other);
    other.merge(&world);
    let state = world.state();
    assert_eq!(state.fingerprint(), other.state().fingerprint());
    assert!(state.commits[&before].is_effective());
    assert_eq!(void(&state, left), Void::Equivocation(1));
    assert_eq!(void(&state, right), Void::Equivocation(1));
    let proof = state.equivocations[0];
    assert_eq!((proof.author, proof.seq), (person(2), 1));
    assert_eq!(proof.operations, [pair[0].min(pair[1]), pair[0].max(pair[1])]);
}

#[test]
fn what_the_delegate_had_seen_before_the_fork_showed_stays() {
    let mut world = World::new(&[2, 3]);
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut other = world.clone();
    let left = world.update(2, world.root, 1);
    world.invite(1);
    let after = world.update(2, world.root, 3);
    let right_commit = update(2, world.branch, world.root, 2);
    let right = right_commit.id().unwrap();
    other.say_after(2, &fork, publish(right_commit, None));
    world.merge(&other);
    let state = world.state();
    assert!(state.commits[&left].is_effective(), "the delegate's invite follows it and not its sibling");
    assert!(matches!(void(&state, right), Void::Equivocation(0)));
    assert!(matches!(void(&state, after), Void::Equivocation(0)));
    // What the delegate says once both are seen vouches for nothing more.
    world.invite(1);
    assert!(matches!(void(&world.state(), after), Void::Equivocation(0)));
}

#[test]
fn others_aggregates_of_an_equivocators_update_stand() {
    let mut world = World::new(&[2, 3]);
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut other = world.clone();
    let left = world.update(2, world.root, 1);
    let mine = world.update(3, world.root, 1);
    let head = world.aggregate(3, world.root, &[left, mine]);
    other.say_after(2, &fork, publish(update(2, world.branch, world.root, 2), None));
    world.merge(&other);
    let state = world.state();
    assert!(matches!(void(&state, left), Void::Equivocation(0)));
    assert_eq!(world.head(), head);
    assert_eq!(state.explain(left), Some(UpdateStatus::InHead { aggregate: head }));
    // With both siblings seen, neither can be taken in.
    let mut seen = other.clone();
    seen.merge(&world);
    let inputs = [left, seen.update(3, seen.root, 2)];
    let late = seen.aggregate(3, seen.root, &inputs);
    assert_eq!(seen.state().commits[&late].effect(), Effect::None(NoEffect::Input(left)));
}

#[test]
fn a_delegate_that_equivocates_loses_everything_from_the_fork_on() {
    let mut world = World::new(&[2]);
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut other = world.clone();
    world.grant(3, Role::Contributor);
    let mine = world.update(3, world.root, 0);
    other.say_after(DELEGATE, &fork, grant(4, Role::Contributor));
    let theirs = other.update(4, other.root, 0);
    world.merge(&other);
    let state = world.state();
    assert!(matches!(void(&state, mine), Void::Stranger));
    assert!(matches!(void(&state, theirs), Void::Stranger));
    assert_eq!(state.role(person(2)), Some(Role::Contributor));
    assert_eq!((state.role(person(3)), state.role(person(4))), (None, None));
    let later = world.grant(5, Role::Contributor);
    assert!(matches!(world.state().void[&later], Void::Equivocation(_)));
}

#[test]
fn old_references_replayed_leave_the_head_alone() {
    let mut world = World::new(&[2, 3]);
    let first = world.round(&[2, 3], 2, 0);
    let second = world.round(&[2, 3], 3, 1);
    world.attest(2, second, 0);
    world.say(2, Body::Attest(Attest { commit: first, result: outcome(0) }));
    assert_eq!(world.head(), second, "a vote for the first is in both their subtrees");
}

#[test]
fn an_invite_counts_the_persons_it_brought() {
    let mut world = World::new(&[]);
    let invite = world.invite(2);
    for who in [2, 2, 3] {
        let (person, role) = (person(who), Role::Contributor);
        let grant = Grant { person, role, name: String::new(), invite: Some(invite), approval: None };
        world.say(DELEGATE, Body::Grant(grant));
    }
    let state = world.state();
    assert_eq!((state.invites[&invite].used, state.invites[&invite].left()), (2, 0));
}

#[test]
fn an_operation_under_another_policy_revision_is_void() {
    let mut world = World::new(&[2]);
    let mut position = world.graph.position(person(2), 0);
    position.policy = OperationId::from_digest(digest("rolled back"));
    let commit = update(2, world.branch, world.root, 0);
    let id = commit.id().unwrap();
    let operation =
        flair_protocol::operation::Operation::sign(&key(2), position, publish(commit, None)).unwrap();
    world.graph.insert(operation).unwrap();
    assert!(matches!(void(&world.state(), id), Void::Policy(_)));
}

#[test]
fn a_kind_above_the_level_is_relayed_and_changes_nothing() {
    use flair_protocol::operation::Kind;
    let mut world = World::new(&[2]);
    let before = world.state();
    let above = world.say(2, Body::Unknown(Kind::from_number(0x0201), vec![1, 2, 3]));
    let unknown = world.say(2, Body::Unknown(Kind::from_number(0x01ff), vec![]));
    let state = world.state();
    assert_eq!(state.above, [above]);
    assert_eq!(state.idle[&unknown], NoEffect::Kind(0x01ff));
    assert_eq!((&state.branches, &state.members), (&before.branches, &before.members));
}

const MAINTAINER: u8 = 20;
const OTHER: u8 = 21;

fn maintained(contributors: &[u8]) -> World {
    let mut world = World::new(contributors);
    world.grant(MAINTAINER, Role::Maintainer);
    world.grant(OTHER, Role::Maintainer);
    world
}

#[test]
fn a_maintainer_grants_and_revokes_the_roles_below_and_no_others() {
    let mut world = maintained(&[2]);
    for (who, role) in [(3, Role::Contributor), (4, Role::Verifier), (5, Role::Reader)] {
        world.say(MAINTAINER, grant(who, role));
        assert_eq!(world.state().role(person(who)), Some(role));
    }
    world.say(MAINTAINER, revoke(2, &[]));
    assert_eq!(world.state().role(person(2)), None);
    let refused = [
        world.say(MAINTAINER, grant(6, Role::Maintainer)),
        world.say(MAINTAINER, grant(OTHER, Role::Reader)),
        world.say(MAINTAINER, revoke(OTHER, &[])),
        world.say(MAINTAINER, revoke(DELEGATE, &[])),
        world.say(MAINTAINER, grant(DELEGATE, Role::Reader)),
    ];
    let state = world.state();
    for operation in refused {
        assert_eq!(state.idle[&operation], NoEffect::Rank);
    }
    assert_eq!(state.role(person(OTHER)), Some(Role::Maintainer));
    assert_eq!((state.role(person(6)), state.role(person(DELEGATE))), (None, Some(Role::Delegate)));
}

#[test]
fn a_rogue_maintainers_grants_beyond_keep_are_void_once_a_delegate_suspends_them() {
    let mut world = maintained(&[2]);
    world.say(MAINTAINER, grant(3, Role::Contributor));
    let mut away = world.clone();
    away.say(MAINTAINER, grant(8, Role::Contributor));
    let strangers = away.update(8, away.root, 0);
    assert!(away.state().commits[&strangers].is_effective());
    let suspended = world.revoke(MAINTAINER, &[]);
    world.merge(&away);
    let after = world.say(MAINTAINER, grant(9, Role::Contributor));
    let state = world.state();
    assert_eq!(void(&state, strangers), Void::Stranger);
    assert_eq!(state.void[&after], Void::Revoked(suspended));
    let role = |who| state.role(person(who));
    assert_eq!([role(3), role(8), role(9), role(MAINTAINER)], [Some(Role::Contributor), None, None, None]);
}

#[test]
fn what_another_delegate_had_seen_survives_a_suspension_by_one() {
    let mut world = World::with(&[], |policy| policy.delegates = people(&[DELEGATE, 30]));
    world.grant(MAINTAINER, Role::Maintainer);
    let mut away = world.clone();
    away.say(MAINTAINER, grant(8, Role::Contributor));
    let theirs = away.update(8, away.root, 0);
    world.revoke(MAINTAINER, &[]);
    let mut witnessed = away.clone();
    witnessed.say(30, grant(7, Role::Reader));
    world.merge(&away);
    assert_eq!(void(&world.state(), theirs), Void::Stranger);
    world.merge(&witnessed);
    assert!(world.state().commits[&theirs].is_effective(), "the other delegate had built on it");
    // What they say once they know of the suspension vouches for nothing.
    let mut late = maintained(&[]);
    let mut rogue = late.clone();
    rogue.say(MAINTAINER, grant(8, Role::Contributor));
    late.revoke(MAINTAINER, &[]);
    late.merge(&rogue);
    late.invite(1);
    assert_eq!(late.state().role(person(8)), None);
}

#[test]
fn one_delegate_who_suspends_every_maintainer_undoes_nothing_that_was_accepted() {
    let mut world = maintained(&[]);
    for who in [2, 3] {
        world.say(MAINTAINER, grant(who, Role::Contributor));
    }
    world.say(OTHER, grant(4, Role::Contributor));
    let head = world.round(&[2, 3, 4], 2, 0);
    let before = world.state();
    world.revoke(MAINTAINER, &[]);
    world.revoke(OTHER, &[]);
    let state = world.state();
    assert_eq!(world.head(), head);
    assert_eq!((&state.void, &state.idle), (&before.void, &before.idle));
    for who in [2, 3, 4] {
        assert_eq!(state.role(person(who)), Some(Role::Contributor));
    }
}

#[test]
fn a_suspended_maintainer_can_be_granted_the_role_again() {
    let mut world = maintained(&[]);
    world.revoke(MAINTAINER, &[]);
    world.grant(MAINTAINER, Role::Maintainer);
    world.say(MAINTAINER, grant(2, Role::Contributor));
    assert_eq!(world.state().role(person(2)), Some(Role::Contributor));
    // A lower role is one too.
    world.grant(MAINTAINER, Role::Contributor);
    let refused = world.say(MAINTAINER, grant(3, Role::Contributor));
    let state = world.state();
    assert_eq!(state.idle[&refused], NoEffect::NotMaintainer);
    assert_eq!(
        (state.role(person(MAINTAINER)), state.role(person(2))),
        (Some(Role::Contributor), Some(Role::Contributor))
    );
}

#[test]
fn a_verifier_attests_and_does_not_publish() {
    let mut world = World::new(&[2, 3]);
    world.grant(4, Role::Verifier);
    let head = world.round(&[2, 3], 2, 0);
    let attested = world.attest(4, head, 0);
    let update = world.update(4, head, 0);
    let state = world.state();
    assert!(state.is_effective(attested));
    assert_eq!(state.commits[&head].claims[0].supporters.len(), 2);
    assert_eq!(state.commits[&update].effect(), Effect::None(NoEffect::Verifier));
}

#[test]
fn among_several_delegates_a_forks_damage_ends_at_what_the_others_had_seen() {
    let mut world = World::with(&[], |policy| policy.delegates = people(&[DELEGATE, 30]));
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut other = world.clone();
    world.grant(2, Role::Contributor);
    let kept = world.update(2, world.root, 0);
    world.say(30, grant(7, Role::Reader));
    world.grant(3, Role::Contributor);
    let lost = world.update(3, world.root, 0);
    other.say_after(DELEGATE, &fork, grant(4, Role::Contributor));
    world.merge(&other);
    let state = world.state();
    assert!(state.commits[&kept].is_effective(), "the other delegate built on that grant");
    assert_eq!(void(&state, lost), Void::Stranger);
    assert_eq!((state.role(person(3)), state.role(person(4))), (None, None));
    assert_eq!(state.role(person(30)), Some(Role::Delegate));
}

#[test]
fn a_thousandth_change_of_one_persons_role_has_no_effect() {
    let mut world = World::new(&[]);
    for _ in 0..flair_protocol::limits::CHANGES / 2 {
        world.grant(2, Role::Contributor);
        world.revoke(2, &[]);
    }
    let more = world.grant(2, Role::Contributor);
    let state = world.state();
    assert_eq!(state.idle[&more], NoEffect::Changes);
    assert_eq!(state.role(person(2)), None);
}

#[test]
fn a_maintainer_who_took_another_for_a_former_one_ends_nothing() {
    let mut world = World::with(&[], |policy| policy.delegates = people(&[DELEGATE, 30]));
    world.grant(MAINTAINER, Role::Maintainer);
    world.grant(OTHER, Role::Maintainer);
    // The other delegate's word keeps both grants, whatever the first one does later.
    world.say(30, grant(7, Role::Reader));
    let fork: Vec<OperationId> = world.graph.heads().collect();
    let mut aside = world.clone();
    world.revoke(MAINTAINER, &[]);
    let repeated = world.say(OTHER, revoke(MAINTAINER, &[]));
    assert!(world.state().is_effective(repeated), "to them, it was no maintainer any more");
    aside.say_after(DELEGATE, &fork, grant(8, Role::Reader));
    world.merge(&aside);
    // The delegate's revocation is void with their fork; the maintainer's alone unmakes no maintainer.
    assert_eq!(world.state().role(person(MAINTAINER)), Some(Role::Maintainer));
}
