//! Long histories count whole, and nobody can make an evaluation cost much more than their operations.

use std::time::{Duration, Instant};

use flair_protocol::id::{CommitId, OperationId};
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Attest;
use flair_protocol::policy::Every;
use flair_protocol::state::State;

use crate::world::*;

/// What an evaluation may take where this runs: far above what it takes on an idle machine, far below what a
/// quadratic evaluator would.
const PATIENCE: Duration = Duration::from_secs(2);

fn evaluate_in_time(world: &World) -> State {
    let start = Instant::now();
    let state = world.state();
    let took = start.elapsed();
    println!("{} operations: {took:?}", world.graph.len());
    assert!(took < PATIENCE, "{took:?}");
    state
}

/// `rounds` rounds in which 2 to 5 train on the head and 2 aggregates; gives the head.
fn rounds(world: &mut World, rounds: u64) -> CommitId {
    let mut head = world.root;
    for number in 0..rounds {
        let inputs = [2, 3, 4, 5].map(|who| world.update(who, head, number));
        head = world.aggregate(2, head, &inputs);
    }
    head
}

#[test]
fn a_long_history_counts_whole() {
    let mut world = World::new(&[2, 3, 4, 5]);
    let head = rounds(&mut world, 300);
    let state = evaluate_in_time(&world);
    assert!(state.void.is_empty() && state.idle.is_empty());
    let branch = &state.branches[&world.branch];
    assert_eq!((branch.head, branch.path.len()), (Some(head), 301));
    assert!(branch.pending.is_empty() && branch.dropped.is_empty());
}

#[test]
fn a_thousand_operations_concurrent_to_ten_thousand_are_cheap() {
    let mut world = World::new(&[2, 3, 4, 5, 6]);
    let start: Vec<OperationId> = world.graph.heads().collect();
    let head = rounds(&mut world, 2_000);
    let mut last = start;
    for number in 0..1_000 {
        last = vec![world.say_after(6, &last, publish(update(6, world.branch, world.root, number), None))];
    }
    let state = evaluate_in_time(&world);
    assert!(state.void.is_empty() && state.idle.is_empty());
    let branch = &state.branches[&world.branch];
    assert_eq!((branch.head, branch.dropped.len()), (Some(head), 1_000));
}

#[test]
fn competing_aggregates_of_many_inputs_are_cheap() {
    let mut world = World::with(&[2, 3], |policy| policy.aggregation.every = Every::Persons(1));
    let inputs: Vec<CommitId> = (0..264).map(|number| world.update(2, world.root, number)).collect();
    for start in 0..8 {
        for without in 0..40 {
            let mut some = inputs[start..start + 256].to_vec();
            some.remove(without);
            world.aggregate(3, world.root, &some);
        }
    }
    let state = evaluate_in_time(&world);
    assert!(state.idle.is_empty());
    // And a chain that leaves the same updates in every sibling.
    let mut head = world.root;
    for number in 0..100 {
        let own = world.update(3, head, number);
        let rest: Vec<CommitId> = inputs[..200].to_vec();
        world.aggregate(3, head, &rest);
        head = world.aggregate(3, head, &[own]);
    }
    evaluate_in_time(&world);
}

#[test]
fn a_commit_published_and_named_a_thousand_times_is_cheap() {
    let mut world = World::with(&[2, 3], |policy| policy.aggregation.every = Every::Persons(1));
    let input = world.update(2, world.root, 0);
    let commit = aggregate(&world, world.root, &[input]);
    let id = commit.id().unwrap();
    for _ in 0..1_500 {
        world.publish(2, commit.clone(), Some(outcome(0)));
    }
    for _ in 0..1_500 {
        world.say(3, Body::Attest(Attest { commit: id, result: outcome(0) }));
    }
    evaluate_in_time(&world);
}

#[test]
fn a_comb_of_forks_is_cheap() {
    let mut world = World::new(&[2, 3]);
    let mut last = vec![world.grant(4, flair_protocol::policy::Role::Contributor)];
    let mut teeth = Vec::new();
    for number in 0..1_000 {
        let body = |number| publish(update(2, world.branch, world.root, number), None);
        let tooth = sign_after(&world.graph, 2, &last, body(2 * number));
        let next = sign_after(&world.graph, 2, &last, body(2 * number + 1));
        teeth.push(tooth.id());
        last = vec![next.id()];
        world.graph.insert(tooth).unwrap();
        world.graph.insert(next).unwrap();
    }
    // Somebody who ties the teeth together, far apart.
    let mut own: Option<OperationId> = None;
    for number in 0..500 {
        let mut deps = vec![teeth[number], teeth[999 - number]];
        deps.extend(own);
        own = Some(world.say_after(
            3,
            &deps,
            publish(update(3, world.branch, world.root, number as u64), None),
        ));
    }
    let state = evaluate_in_time(&world);
    assert_eq!(state.equivocations.len(), 1);
    assert_eq!(state.void.len(), 2_000);
}
