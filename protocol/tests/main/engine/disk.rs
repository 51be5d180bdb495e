//! Only what is on disk counts.

use flair_protocol::engine::{Event, Input, Output, Refusal, Verdict};
use flair_protocol::operation::Operation;
use flair_protocol::wire::{Frontier, Request, Response};

use super::{Disk, Node, announced, events, is_get, peer, request, requests, verdicts};
use crate::people::{Repository, grant, note, nowhere};

fn local(operation: &Operation, stored: bool) -> Input {
    Input::Local { operation: Box::new(operation.clone()), stored }
}

fn ids(operations: &[&Operation]) -> Vec<flair_protocol::id::OperationId> {
    operations.iter().map(|operation| operation.id()).collect()
}

#[test]
fn before_it_is_on_disk_an_operation_is_not_announced_served_or_counted() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.disk = Disk::Slow;
    node.tell(Input::Up { peer: peer(1) });
    let before = Frontier::of(node.engine.graph());
    let operation = repository.sign(1, note(1));
    let outputs = node.tell(local(&operation, false));
    assert!(matches!(outputs.as_slice(), [Output::Store(stored)] if stored.len() == 1));
    let hello = Request::Hello { frontier: before.clone(), blobs: Vec::new() };
    let Response::Hello { frontier, .. } = node.ask(peer(2), hello) else { panic!() };
    assert_eq!(frontier, before);
    for question in
        [Request::Get { ids: ids(&[&operation]) }, Request::Want { have: before.heads.clone(), after: None }]
    {
        let Response::Operations { operations, frontier, .. } = node.ask(peer(2), question) else { panic!() };
        assert!(operations.is_empty() && frontier == before);
    }
    let (_, outputs) = node.announce(peer(1), &operation);
    assert!(verdicts(&outputs).is_empty());
    let outputs = node.tell(Input::Stored { ids: ids(&[&operation]) });
    assert_eq!(announced(&outputs), ids(&[&operation]));
    assert!(verdicts(&outputs).iter().all(|(_, verdict)| *verdict == Verdict::Accept));
    assert!(events(&outputs).iter().any(|event| matches!(event, Event::Operations { .. })));
    assert!(node.has(&operation));
}

#[test]
fn what_the_caller_stored_already_is_announced_at_once() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.disk = Disk::Full;
    let operation = repository.sign(1, note(1));
    let outputs = node.tell(local(&operation, true));
    assert_eq!(announced(&outputs), ids(&[&operation]));
    assert!(node.has(&operation));
}

#[test]
fn batches_go_to_disk_one_at_a_time_and_in_order() {
    let mut repository = Repository::with_members(2);
    let start = repository.operations();
    let chain: Vec<_> = (0..10).map(|_| repository.note(1)).collect();
    let mut node = Node::new(repository.id, start);
    node.disk = Disk::Slow;
    node.tell(Input::Up { peer: peer(1) });
    let mut stores = Vec::new();
    let mut fetched = Vec::new();
    for operation in &chain {
        let (_, outputs) = node.announce(peer(1), operation);
        fetched.extend(requests(&outputs, peer(1)).into_iter().filter(|(_, one)| is_get(one)));
        while let Some((id, Request::Get { ids })) = fetched.pop() {
            let operations: Vec<_> =
                chain.iter().filter(|operation| ids.contains(&operation.id())).cloned().collect();
            let frontier = Frontier::of(&repository.graph);
            let outputs =
                node.answer(peer(1), id, Response::Operations { operations, more: false, frontier });
            fetched.extend(requests(&outputs, peer(1)).into_iter().filter(|(_, one)| is_get(one)));
            stores.extend(outputs.into_iter().filter_map(|output| match output {
                Output::Store(operations) => Some(operations),
                _ => None,
            }));
        }
    }
    assert_eq!(stores.len(), 1, "a second batch before the first was answered");
    let first: Vec<_> = stores[0].iter().map(Operation::id).collect();
    let outputs = node.tell(Input::Stored { ids: first.clone() });
    let rest: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Store(operations) => Some(operations.iter().map(Operation::id)),
            _ => None,
        })
        .flatten()
        .collect();
    let expected: Vec<_> = chain.iter().map(Operation::id).collect();
    assert_eq!([first, rest].concat(), expected);
}

#[test]
fn a_full_disk_gives_up_local_operations_and_says_so() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.disk = Disk::Full;
    let operation = repository.sign(1, note(1));
    let outputs = node.tell(local(&operation, false));
    let refused = events(&outputs).into_iter().find_map(|event| match event {
        Event::Refused { id, why } => Some((id, why)),
        _ => None,
    });
    let id = operation.id();
    assert_eq!(refused, Some((id, Refusal::NotStored(id))));
    assert!(announced(&outputs).is_empty() && !node.has(&operation));
    // After space was freed the next operation takes the same number: the first was never seen by anybody.
    node.disk = Disk::Works;
    let again = repository.sign(1, note(2));
    assert_eq!(again.header().seq, operation.header().seq);
    node.tell(local(&again, false));
    node.wait(60_000);
    assert!(node.has(&again) && !node.has(&operation));
}

#[test]
fn after_a_full_disk_peers_operations_are_stored_without_asking_again() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let operation = repository.note(1);
    let (_, outputs) = node.announce(peer(1), &operation);
    let id = request(&outputs, peer(1), is_get);
    node.disk = Disk::Full;
    let frontier = Frontier::of(&repository.graph);
    let response = Response::Operations { operations: vec![operation.clone()], more: false, frontier };
    node.answer(peer(1), id, response);
    node.wait(30_000);
    assert!(!node.has(&operation));
    node.disk = Disk::Works;
    node.wait(60_000);
    assert!(node.has(&operation));
}

#[test]
fn a_stranger_s_own_operation_is_refused_in_words() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    for stored in [false, true] {
        let outputs = node.tell(local(&repository.sign(9, note(1)), stored));
        let why = events(&outputs).into_iter().find_map(|event| match event {
            Event::Refused { why, .. } => Some(why.to_string()),
            _ => None,
        });
        assert!(why.unwrap().contains("ask for one with `flair join`"));
    }
    assert_eq!(node.engine.graph().len(), 2);
}

#[test]
fn a_damaged_store_is_noticed() {
    let mut repository = Repository::with_members(3);
    repository.add(0, grant(4));
    let mut operations = repository.operations();
    operations.remove(2);
    assert!(flair_protocol::engine::Engine::new(repository.id, operations, 1).is_err());
    let elsewhere = flair_protocol::id::RepositoryId::from_digest(nowhere(1).digest());
    assert!(flair_protocol::engine::Engine::new(elsewhere, repository.operations(), 1).is_err());
}

#[test]
fn a_snapshot_may_come_in_any_order() {
    let repository = Repository::with_members(30);
    let mut operations = repository.operations();
    operations.reverse();
    let node = Node::new(repository.id, operations);
    assert_eq!(Frontier::of(node.engine.graph()), Frontier::of(&repository.graph));
}
