//! The lane of join requests.

use flair_protocol::engine::{Event, Input, Output};
use flair_protocol::limits;
use flair_protocol::ticket::JoinRequest;
use flair_protocol::wire::{Joined, Request, Response};

use super::{Node, events, peer, requests};
use crate::people::{Repository, grant, key};

fn ask(repository: &Repository, person: u64, time: u64) -> Box<JoinRequest> {
    Box::new(JoinRequest::sign(&key(person), repository.id, String::new(), None, time).unwrap())
}

fn joined(node: &mut Node, from: u64, request: Box<JoinRequest>) -> Joined {
    match node.ask(peer(from), Request::Join(request)) {
        Response::Joined(joined) => joined,
        other => panic!("{other:?}"),
    }
}

fn passed_on(outputs: &[Output], to: u64) -> usize {
    requests(outputs, peer(to)).iter().filter(|(_, one)| matches!(one, Request::Join(_))).count()
}

#[test]
fn a_join_request_is_passed_on_once_and_waits_for_its_grant() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    for number in 1..=3 {
        node.tell(Input::Up { peer: peer(number) });
    }
    let request = ask(&repository, 5, 10);
    let token = flair_protocol::engine::Token(77);
    let question = Request::Join(request.clone());
    let outputs = node.tell(Input::Request { peer: peer(1), token, request: question });
    assert!(events(&outputs).iter().any(|event| matches!(event, Event::Join(_))));
    assert_eq!([1, 2, 3].map(|number| passed_on(&outputs, number)), [0, 1, 1]);
    assert_eq!(joined(&mut node, 2, request.clone()), Joined::Known);
    assert_eq!(node.engine.joins().count(), 1);
    // An older one by the same person does not replace it, a newer one does.
    assert_eq!(joined(&mut node, 2, ask(&repository, 5, 9)), Joined::Known);
    assert_eq!(joined(&mut node, 2, ask(&repository, 5, 11)), Joined::Accepted);
    assert_eq!(node.engine.joins().count(), 1);
    let granted = repository.add(0, grant(5));
    node.tell(Input::Local { operation: Box::new(granted), stored: true });
    assert_eq!(node.engine.joins().count(), 0);
    assert_eq!(joined(&mut node, 3, ask(&repository, 5, 11)), Joined::Known, "it comes back from others");
    assert!(repository.graph.len() == node.engine.graph().len(), "a join request is no operation");
}

#[test]
fn whoever_says_hello_hears_of_join_requests() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Join(ask(&repository, 5, 1)));
    joined(&mut node, 1, ask(&repository, 6, 1));
    let hello = || Request::Hello {
        frontier: flair_protocol::wire::Frontier::of(&repository.graph),
        blobs: Vec::new(),
    };
    let told = |response| match response {
        Response::Hello { joins, .. } => joins.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(node.ask(peer(2), hello())), 2);
    assert_eq!(told(node.ask(peer(1), hello())), 1, "not the one it told us of");
}

#[test]
fn a_flood_of_join_requests_pushes_out_its_own() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    joined(&mut node, 1, ask(&repository, 5, 1));
    for person in 100..1_100 {
        joined(&mut node, 2, ask(&repository, person, 1));
    }
    assert_eq!(node.engine.joins().count(), limits::JOIN_REQUESTS);
    assert!(node.engine.joins().any(|request| request.person == key(5).public()));
}
