//! Honest peers.

use flair_protocol::engine::{Event, Input, Verdict};
use flair_protocol::wire::{Frontier, Request, Response};

use super::{
    Node, announced, events, exchange, is_get, is_hello, is_want, peer, request, requests, verdicts,
};
use crate::people::{Repository, note};

fn equal(a: &Node, b: &Node) -> bool {
    Frontier::of(a.engine.graph()) == Frontier::of(b.engine.graph())
}

#[test]
fn an_empty_node_catches_up_page_by_page() {
    let mut repository = Repository::with_members(3);
    for number in 0..3_000 {
        repository.note(number % 4);
    }
    let mut full = Node::new(repository.id, repository.operations());
    let mut empty = Node::new(repository.id, Vec::new());
    let count = exchange(&mut full, &mut empty);
    assert!(equal(&full, &empty));
    // Two comparisons, three pages, and little else.
    assert!(count <= 10, "{count} requests");
    assert!(empty.engine.peers().all(|peer| peer.caught_up));
}

#[test]
fn a_node_that_is_level_asks_for_nothing() {
    let repository = Repository::with_members(3);
    let mut a = Node::new(repository.id, repository.operations());
    let mut b = Node::new(repository.id, repository.operations());
    assert_eq!(exchange(&mut a, &mut b), 2);
}

#[test]
fn sets_that_grew_apart_become_equal() {
    let common = Repository::with_members(4);
    let grow = |people: [u64; 2]| {
        let mut side = Repository::with_members(4);
        assert_eq!(side.id, common.id);
        for number in 0..500 {
            side.note(people[number % 2]);
        }
        side.operations()
    };
    let mut a = Node::new(common.id, grow([1, 2]));
    let mut b = Node::new(common.id, grow([3, 4]));
    exchange(&mut a, &mut b);
    assert!(equal(&a, &b));
    assert_eq!(a.engine.graph().len(), 1_005);
}

#[test]
fn more_heads_than_a_request_can_name_become_equal_too() {
    // 3,000 people who each saw the grants and nobody else: the first 2,500 on one side, the rest on the other.
    let repository = Repository::with_members(3_000);
    let side = |people: std::ops::RangeInclusive<u64>| {
        let mut operations = repository.operations();
        operations.extend(people.map(|person| repository.sign(person, note(person))));
        operations
    };
    let mut a = Node::new(repository.id, side(1..=2_500));
    let mut b = Node::new(repository.id, side(2_501..=3_000));
    let count = exchange(&mut a, &mut b);
    assert!(equal(&a, &b));
    assert_eq!(a.engine.graph().heads().len(), 3_000);
    assert!(count < 20, "{count} requests");
}

#[test]
fn a_kind_of_a_later_version_is_relayed() {
    let mut repository = Repository::with_members(1);
    let later = repository.note(1);
    let after = repository.note(0);
    let mut a = Node::new(repository.id, repository.operations());
    let mut b = Node::new(repository.id, Vec::new());
    let mut c = Node::new(repository.id, Vec::new());
    exchange(&mut a, &mut b);
    exchange(&mut b, &mut c);
    assert!(c.has(&later) && c.has(&after));
    let bytes = c.engine.graph().get(later.id()).unwrap().encode().unwrap();
    assert_eq!(bytes, later.encode().unwrap());
}

#[test]
fn an_announced_operation_is_fetched_stored_and_then_passed_on() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let operation = repository.note(1);
    let (token, outputs) = node.announce(peer(1), &operation);
    assert!(verdicts(&outputs).is_empty(), "a verdict before the operation is here");
    let id = request(&outputs, peer(1), is_get);
    let frontier = Frontier::of(&repository.graph);
    let response = Response::Operations { operations: vec![operation.clone()], more: false, frontier };
    let outputs = node.answer(peer(1), id, response);
    assert_eq!(verdicts(&outputs), [(token, Verdict::Accept)]);
    assert!(node.has(&operation));
    // Gossip passes it on: announcing it again would be noise.
    assert!(announced(&outputs).is_empty());
}

#[test]
fn a_burst_of_announcements_needs_no_pages() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let burst: Vec<_> = (0..50).map(|_| repository.note(1)).collect();
    let mut server = Node::new(repository.id, repository.operations());
    let mut asked: Vec<_> = burst.iter().flat_map(|operation| node.announce(peer(1), operation).1).collect();
    let mut accepted = 0;
    while !asked.is_empty() {
        assert!(requests(&asked, peer(1)).iter().all(|(_, request)| !is_want(request)));
        let gets: Vec<_> = requests(&asked, peer(1)).into_iter().filter(|(_, one)| is_get(one)).collect();
        asked = gets
            .into_iter()
            .flat_map(|(id, request)| {
                let response = server.ask(peer(2), request);
                node.answer(peer(1), id, response)
            })
            .collect();
        accepted += verdicts(&asked).iter().filter(|(_, verdict)| *verdict == Verdict::Accept).count();
    }
    assert_eq!(accepted, 50);
    assert!(burst.iter().all(|operation| node.has(operation)));
}

#[test]
fn what_is_caught_up_on_is_announced_by_its_heads() {
    let mut repository = Repository::with_members(1);
    for _ in 0..300 {
        repository.note(1);
    }
    let last = repository.note(0);
    let mut node = Node::new(repository.id, Vec::new());
    let mut full = Node::new(repository.id, repository.operations());
    let outputs = node.tell(Input::Up { peer: peer(1) });
    let hello = request(&outputs, peer(1), is_hello);
    let response = full.ask(peer(2), requests(&outputs, peer(1))[0].1.clone());
    let outputs = node.answer(peer(1), hello, response);
    let (want, question) = requests(&outputs, peer(1)).remove(0);
    assert!(is_want(&question));
    let response = full.ask(peer(2), question);
    let outputs = node.answer(peer(1), want, response);
    assert_eq!(announced(&outputs), [last.id()]);
    assert!(events(&outputs).iter().any(|event| matches!(event, Event::CaughtUp { .. })));
}

#[test]
fn a_verdict_that_is_late_is_made_up_for_by_telling_peers() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    for number in 1..=2 {
        let outputs = node.tell(Input::Up { peer: peer(number) });
        let id = request(&outputs, peer(number), is_hello);
        let frontier = Frontier::of(&repository.graph);
        let hello = Response::Hello { frontier, blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
        node.answer(peer(number), id, hello);
    }
    let operation = repository.note(1);
    let (token, outputs) = node.announce(peer(1), &operation);
    let id = request(&outputs, peer(1), is_get);
    let outputs = node.wait(4_500);
    assert_eq!(verdicts(&outputs), [(token, Verdict::Ignore)]);
    let frontier = Frontier::of(&repository.graph);
    let response = Response::Operations { operations: vec![operation.clone()], more: false, frontier };
    node.answer(peer(1), id, response);
    assert!(node.has(&operation));
    let outputs = node.wait(500);
    let asked = requests(&outputs, peer(2));
    let [(_, Request::Hello { frontier, .. })] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(frontier.heads, [operation.id()]);
}

#[test]
fn sets_are_compared_again_at_jittered_intervals() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    let frontier = Frontier::of(&repository.graph);
    let mut outputs = node.tell(Input::Up { peer: peer(1) });
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let id = request(&outputs, peer(1), is_hello);
        let frontier = frontier.clone();
        let hello = Response::Hello { frontier, blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
        node.answer(peer(1), id, hello);
        let due = node.engine.deadline().unwrap();
        pauses.push(due - node.now);
        outputs = node.wait(due - node.now);
    }
    assert!(pauses.iter().all(|pause| (20_000..40_000).contains(pause)), "{pauses:?}");
    assert!(pauses.windows(2).any(|two| two[0] != two[1]));
}

#[test]
fn a_peer_that_does_not_answer_does_not_hold_up_the_others() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, Vec::new());
    let mut full = Node::new(repository.id, repository.operations());
    for number in 1..=2 {
        let outputs = node.tell(Input::Up { peer: peer(number) });
        let (id, question) = requests(&outputs, peer(number)).remove(0);
        let response = full.ask(peer(9), question);
        node.answer(peer(number), id, response);
    }
    // The first was asked for a page, and stays silent.
    let outputs = node.wait(31_000);
    let (id, question) = requests(&outputs, peer(2)).into_iter().find(|(_, one)| is_want(one)).unwrap();
    let response = full.ask(peer(9), question);
    node.answer(peer(2), id, response);
    assert_eq!(node.engine.graph().len(), repository.graph.len());
}

#[test]
fn a_peer_without_the_repository_is_asked_ever_more_rarely() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    let mut outputs = node.tell(Input::Up { peer: peer(1) });
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let id = request(&outputs, peer(1), is_hello);
        let told = node.answer(peer(1), id, Response::Unknown);
        assert!(events(&told).iter().any(|event| matches!(event, Event::Unknown { .. })));
        let due = node.engine.deadline().unwrap();
        pauses.push(due - node.now);
        outputs = node.wait(due - node.now);
    }
    assert!(pauses[5] > 4 * pauses[0] && pauses[5] < 20 * 60_000, "{pauses:?}");
}
