//! Evaluations: who may say what they measured, and branches that ask for it.

use flair_protocol::id::CommitId;
use flair_protocol::limits;
use flair_protocol::operation::body::BodyError;
use flair_protocol::operation::body::Judgement::Accept;
use flair_protocol::operation::evaluation::Evaluation;
use flair_protocol::operation::{Body, Operation, OperationError};
use flair_protocol::policy::{Bound, BranchRule, Every, Number, PolicyError, Requirement, Role};
use flair_protocol::state::{Effect, NoEffect, UpdateStatus};

use crate::world::*;

/// A verifier and a maintainer.
const V: u8 = 20;
const M: u8 = 21;

/// A branch that asks for evaluations: contributors 2, 3 and 4.
fn requiring(accepts: u32, require: Vec<Requirement>) -> World {
    let mut world = World::with(&[2, 3, 4], |policy| policy.aggregation.every = Every::Persons(1));
    world.grant(V, Role::Verifier);
    world.grant(M, Role::Maintainer);
    let branch = world.branch;
    world.propose(DELEGATE, |policy| policy.branches = vec![BranchRule { branch, accepts, require }]);
    world
}

fn pending(world: &World) -> Vec<CommitId> {
    world.state().branches[&world.branch].pending.clone()
}

#[test]
fn an_update_waits_for_evaluations_by_so_many_others() {
    let mut world = requiring(0, vec![requirement(-0.01, 2)]);
    let update = world.update(2, world.root, 0);
    assert_eq!(world.state().branches[&world.branch].waiting, [update]);
    world.evaluate(2, update, 0.9, 0.8);
    world.evaluate(3, update, 0.83, 0.81);
    assert_eq!(world.state().explain(update), Some(UpdateStatus::Waiting { accepts: 0, needed: 0 }));
    let state = world.state();
    let lacking = state.lacking(update);
    assert_eq!(lacking, [(&requirement(-0.01, 2), 1)], "its author's own is none");
    world.evaluate(3, update, 0.83, 0.81);
    assert_eq!(pending(&world), [], "one person, whatever they repeat");
    // On the bound is enough.
    world.evaluate(V, update, 0.49, 0.5);
    assert_eq!(pending(&world), [update]);
    let head = world.aggregate_pending(4);
    assert_eq!(world.head(), head);
}

#[test]
fn a_persons_last_evaluation_counts_and_one_of_another_metric_says_nothing() {
    let mut world = requiring(0, vec![requirement(0.0, 1)]);
    let update = world.update(2, world.root, 0);
    world.evaluate(3, update, 0.9, 0.8);
    world.say(3, evaluation(update, Some(world.root), &[("loss", 9.0, 0.1)]));
    assert_eq!(pending(&world), [update]);
    world.evaluate(3, update, 0.7, 0.8);
    assert_eq!(pending(&world), []);
}

#[test]
fn requirements_and_accepts_are_both_needed_and_each_requirement() {
    let value = Number::new(0.7).unwrap();
    let loss = Requirement { metric: "loss".into(), bound: Bound::AtMost, base: false, value, from: 1 };
    let mut world = requiring(1, vec![requirement(0.0, 1), loss]);
    let update = world.update(2, world.root, 0);
    world.evaluate(3, update, 0.9, 0.8);
    world.review(M, update, Accept);
    assert_eq!(pending(&world), []);
    world.say(V, evaluation(update, Some(world.root), &[("loss", 0.71, 0.8)]));
    assert_eq!(pending(&world), []);
    world.say(V, evaluation(update, Some(world.root), &[("loss", 0.7, 0.6)]));
    assert_eq!(pending(&world), [update]);
}

#[test]
fn an_aggregate_of_what_was_not_evaluated_in_its_own_past_has_no_effect() {
    let mut world = requiring(0, vec![requirement(0.0, 1)]);
    let update = world.update(2, world.root, 0);
    let early = world.aggregate(DELEGATE, world.root, &[update]);
    assert_eq!(
        world.state().commits[&early].effect(),
        Effect::None(NoEffect::Unevaluated { input: update, found: 0, needed: 1 })
    );
    world.evaluate(V, update, 0.9, 0.8);
    assert!(!world.state().commits[&early].is_effective(), "what comes later does not reach back");
    world.aggregate(3, world.root, &[update]);
    assert_eq!(world.head(), early);
}

#[test]
fn an_evaluation_that_a_revocation_takes_away_counts_no_more_and_what_was_aggregated_stays() {
    let mut world = requiring(0, vec![requirement(0.0, 1)]);
    let update = world.update(2, world.root, 0);
    world.evaluate(V, update, 0.9, 0.8);
    let head = world.aggregate_pending(3);
    let mut away = world.clone();
    let other = away.update(3, head, 1);
    away.evaluate(V, other, 0.9, 0.8);
    assert_eq!(pending(&away), [other]);
    world.revoke(V, &[]);
    world.merge(&away);
    assert_eq!((world.head(), pending(&world)), (head, vec![]));
    world.evaluate(4, other, 0.9, 0.8);
    assert_eq!(pending(&world), [other]);
}

#[test]
fn readers_and_strangers_evaluate_nothing_and_others_any_commit_against_its_base() {
    let mut world = requiring(0, vec![requirement(0.0, 1)]);
    world.grant(6, Role::Reader);
    let update = world.update(2, world.root, 0);
    let reader = world.evaluate(6, update, 0.9, 0.8);
    let stranger = world.evaluate(30, update, 0.9, 0.8);
    let other = world.say(V, evaluation(update, None, &[("auc", 0.9, 0.8)]));
    let nowhere =
        world.say(V, evaluation(CommitId::from_digest(digest("nowhere")), None, &[("auc", 0.9, 0.8)]));
    let first = world.evaluate(V, world.root, 0.7, 0.0);
    let state = world.state();
    assert_eq!(state.idle[&reader], NoEffect::Reader);
    assert!(state.void.contains_key(&stranger));
    assert_eq!(state.idle[&other], NoEffect::Against(update));
    assert!(matches!(state.idle[&nowhere], NoEffect::Unseen(_)));
    let said = &state.commits[&world.root].evaluations;
    assert_eq!(said.iter().map(|by| (by.operation, by.person)).collect::<Vec<_>>(), [(first, person(V))]);
    assert_eq!((said[0].evaluation.metrics[0].value, said[0].evaluation.metrics[0].base), (0.7, None));
    assert_eq!(pending(&world), []);
}

#[test]
fn a_thousand_evaluations_of_one_commit_by_one_person_are_bounded() {
    let mut world = requiring(0, vec![requirement(0.0, 1)]);
    let update = world.update(2, world.root, 0);
    for _ in 0..limits::EVALUATIONS {
        world.evaluate(V, update, 0.7, 0.8);
    }
    let more = world.evaluate(V, update, 0.9, 0.8);
    assert_eq!(world.state().idle[&more], NoEffect::Evaluations);
    assert_eq!(pending(&world), []);
}

#[test]
fn an_evaluation_out_of_bounds_is_not_signed() {
    let world = World::new(&[2]);
    let good = evaluation(world.root, None, &[("auc", 0.9, 0.8), ("loss", 0.1, 0.2)]);
    let refused = |change: &dyn Fn(&mut Evaluation)| {
        let mut body = good.clone();
        if let Body::Evaluate(evaluation) = &mut body {
            change(evaluation);
        }
        Operation::sign(&key(2), world.graph.position(person(2), 0), body).unwrap_err()
    };
    let rule = |error: OperationError| matches!(error, OperationError::Body { why: BodyError::Rule(_), .. });
    assert!(rule(refused(&|one| one.metrics.clear())));
    assert!(rule(refused(&|one| one.metrics.reverse())));
    assert!(rule(refused(&|one| one.metrics[1] = one.metrics[0].clone())));
    assert!(rule(refused(&|one| one.metrics[0].base = Some(0.5))));
    assert!(rule(refused(&|one| one.base = Some(world.root))));
    let many = |one: &mut Evaluation| {
        let metric = one.metrics[0].clone();
        one.metrics = (0..=limits::EVALUATED)
            .map(|number| {
                let name = format!("m{number:02}");
                flair_protocol::operation::evaluation::Measured { name, ..metric.clone() }
            })
            .collect();
    };
    assert!(rule(refused(&many)));
    for bad in ["", "-x", "a\nb"] {
        let named = |error| matches!(error, OperationError::Body { why: BodyError::Name(_), .. });
        assert!(named(refused(&|one| one.set = bad.into())), "{bad:?}");
        assert!(named(refused(&|one| one.metrics[0].name = bad.into())), "{bad:?}");
    }
    for bad in [f64::NAN, f64::INFINITY] {
        assert!(matches!(refused(&|one| one.metrics[0].value = bad), OperationError::Cbor(_)));
    }
}

#[test]
fn requirements_that_cannot_be_are_refused() {
    let world = World::new(&[]);
    let check = |accepts: u32, require: Vec<Requirement>| {
        let mut policy = world.state().policy.unwrap();
        policy.branches = vec![BranchRule { branch: world.branch, accepts, require }];
        policy.validate()
    };
    assert_eq!(check(0, vec![requirement(0.0, 1)]), Ok(()));
    assert_eq!(check(0, vec![]), Err(PolicyError::Branches));
    assert_eq!(check(0, vec![requirement(0.0, 0)]), Err(PolicyError::Requirements));
    assert_eq!(check(0, vec![requirement(0.0, 1); 2]), Err(PolicyError::Requirements));
    let many = (0..=limits::REQUIREMENTS).map(|number| requirement(number as f64, 1)).collect();
    assert_eq!(check(0, many), Err(PolicyError::Requirements));
    let nameless = Requirement { metric: String::new(), ..requirement(0.0, 1) };
    assert!(matches!(check(1, vec![nameless]), Err(PolicyError::Metric(_))));
    assert_eq!(Number::new(f64::NAN), None);
    assert_eq!(requirement(-0.01, 2).to_string(), "auc >= base - 0.01 from 2 others");
}
