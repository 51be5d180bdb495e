//! Protected branches: what is aggregated into them was accepted by people who may.

use flair_protocol::id::CommitId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Judgement::{Accept, Comment, Reject};
use flair_protocol::policy::{BranchRule, Every, Role};
use flair_protocol::state::{Effect, NoEffect, UpdateStatus};

use crate::world::*;

/// Maintainers.
const M: u8 = 20;
const N: u8 = 21;

/// A branch that asks for so many accepts.
fn protected(accepts: u32) -> World {
    let mut world = World::with(&[2, 3], |policy| policy.aggregation.every = Every::Persons(1));
    world.grant(M, Role::Maintainer);
    world.grant(N, Role::Maintainer);
    let branch = world.branch;
    world.propose(DELEGATE, |policy| {
        policy.branches = vec![BranchRule { branch, accepts, require: Vec::new() }];
    });
    world
}

fn pending(world: &World) -> Vec<CommitId> {
    world.state().branches[&world.branch].pending.clone()
}

#[test]
fn an_update_waits_for_accepts_and_is_then_pending() {
    let mut world = protected(2);
    let update = world.update(2, world.root, 0);
    let chained = world.update(2, update, 1);
    let state = world.state();
    assert_eq!(state.branches[&world.branch].waiting, [update, chained]);
    assert_eq!(state.explain(update), Some(UpdateStatus::Waiting { accepts: 0, needed: 2 }));
    world.review(M, update, Accept);
    world.review(M, update, Accept);
    assert_eq!(pending(&world), [], "one person, whatever they repeat");
    world.review(DELEGATE, update, Accept);
    assert_eq!(pending(&world), [update]);
    assert_eq!(world.state().branches[&world.branch].waiting, [chained]);
    let head = world.aggregate_pending(3);
    assert_eq!(world.head(), head);
}

#[test]
fn an_aggregate_of_what_was_not_accepted_in_its_own_past_has_no_effect() {
    let mut world = protected(1);
    let update = world.update(2, world.root, 0);
    let early = world.aggregate(DELEGATE, world.root, &[update]);
    assert_eq!(
        world.state().commits[&early].effect(),
        Effect::None(NoEffect::Unreviewed { input: update, found: 0, needed: 1 })
    );
    // An accept elsewhere, later, does not reach back.
    world.review(M, update, Accept);
    assert!(!world.state().commits[&early].is_effective());
    assert_eq!(world.head(), world.root);
    // Published once more, by who has seen it.
    world.aggregate(3, world.root, &[update]);
    assert_eq!(world.head(), early);
}

#[test]
fn an_accept_that_the_aggregator_had_not_seen_is_none_for_them_however_early_it_was() {
    let mut world = protected(1);
    let update = world.update(2, world.root, 0);
    let mut away = world.clone();
    away.review(M, update, Accept);
    // Later by Lamport time, and without it in their past.
    world.grant(5, Role::Verifier);
    world.grant(6, Role::Reader);
    let blind = world.aggregate(3, world.root, &[update]);
    world.merge(&away);
    let lacking = NoEffect::Unreviewed { input: update, found: 0, needed: 1 };
    assert_eq!(world.state().commits[&blind].effect(), Effect::None(lacking));
    assert_eq!(pending(&world), [update]);
}

#[test]
fn an_authors_own_accept_counts_only_where_one_is_enough() {
    let mut world = protected(1);
    let own = world.update(M, world.root, 0);
    world.review(M, own, Accept);
    assert_eq!(pending(&world), [own]);
    let mut world = protected(2);
    let own = world.update(M, world.root, 0);
    world.review(M, own, Accept);
    world.review(N, own, Accept);
    assert_eq!(world.state().explain(own), Some(UpdateStatus::Waiting { accepts: 1, needed: 2 }));
    assert_eq!(pending(&world), []);
    let early = world.aggregate(DELEGATE, world.root, &[own]);
    let lacking = NoEffect::Unreviewed { input: own, found: 1, needed: 2 };
    assert_eq!(world.state().commits[&early].effect(), Effect::None(lacking));
    world.review(DELEGATE, own, Accept);
    assert_eq!(pending(&world), [own]);
}

#[test]
fn contributors_accept_nothing_and_everybody_but_readers_comments() {
    let mut world = protected(1);
    world.grant(5, Role::Verifier);
    world.grant(6, Role::Reader);
    let update = world.update(2, world.root, 0);
    let refused = [world.review(3, update, Accept), world.review(5, update, Reject)];
    let comments = [world.review(3, update, Comment), world.review(5, update, Comment)];
    let reader = world.review(6, update, Comment);
    let unseen = world.review(M, world.root, Accept);
    let nowhere = world.review(M, CommitId::from_digest(digest("nowhere")), Accept);
    let state = world.state();
    for operation in refused {
        assert_eq!(state.idle[&operation], NoEffect::NotMaintainer);
    }
    assert_eq!(state.idle[&reader], NoEffect::Reader);
    assert!(state.is_effective(unseen), "any commit can be judged");
    assert!(matches!(state.idle[&nowhere], NoEffect::Unseen(_)));
    let said = state.commits[&update].reviews.iter().map(|review| review.operation);
    assert_eq!(said.collect::<Vec<_>>(), comments);
    assert_eq!(pending(&world), []);
}

#[test]
fn a_reject_takes_an_accept_back_and_a_comment_does_not() {
    let mut world = protected(1);
    let update = world.update(2, world.root, 0);
    world.review(M, update, Accept);
    world.review(M, update, Comment);
    assert_eq!(pending(&world), [update]);
    world.review(M, update, Reject);
    assert_eq!(pending(&world), []);
    let refused = world.aggregate(3, world.root, &[update]);
    assert!(!world.state().commits[&refused].is_effective());
    world.review(N, update, Accept);
    assert_eq!(pending(&world), [update]);
}

#[test]
fn what_was_accepted_and_aggregated_stays_when_its_reviewer_is_suspended() {
    let mut world = protected(1);
    let update = world.update(2, world.root, 0);
    world.review(M, update, Accept);
    let head = world.aggregate_pending(3);
    let mut away = world.clone();
    let other = away.update(3, head, 1);
    away.review(M, other, Accept);
    assert_eq!(pending(&away), [other]);
    world.revoke(M, &[]);
    world.merge(&away);
    assert_eq!(world.head(), head);
    // Their accept that no delegate had seen is void, and the update waits for another's.
    assert_eq!(pending(&world), []);
    world.review(N, other, Accept);
    assert_eq!(pending(&world), [other]);
}

#[test]
fn an_aggregate_made_before_anybody_could_know_stays_when_an_accept_falls() {
    let mut world = protected(1);
    let mut away = world.clone();
    let update = away.update(2, away.root, 0);
    away.review(M, update, Accept);
    let head = away.aggregate_pending(3);
    world.revoke(M, &[]);
    world.merge(&away);
    assert_eq!(world.state().explain(update), Some(UpdateStatus::InHead { aggregate: head }));
    assert_eq!(world.head(), head);
}

#[test]
fn protection_holds_for_its_branch_and_ends_with_the_rule() {
    let mut world = protected(1);
    let main = world.branch;
    let side = world.create("side", Some(world.root));
    let free = world.publish(2, update(2, side, world.root, 0), None);
    assert_eq!(world.state().branches[&side].pending, [free]);
    let bound = world.update(2, world.root, 1);
    assert_eq!(pending(&world), []);
    world.propose(DELEGATE, |policy| policy.branches.clear());
    assert_eq!(world.state().branches[&main].pending, [bound]);
}

#[test]
fn a_thousand_reviews_of_one_commit_by_one_person_are_bounded() {
    let mut world = protected(1);
    let update = world.update(2, world.root, 0);
    for _ in 0..flair_protocol::limits::REVIEWS {
        world.review(M, update, Comment);
    }
    let more = world.say(
        M,
        Body::Review(flair_protocol::operation::body::Review {
            commit: update,
            judgement: Accept,
            text: String::new(),
        }),
    );
    assert_eq!(world.state().idle[&more], NoEffect::Reviews);
}
