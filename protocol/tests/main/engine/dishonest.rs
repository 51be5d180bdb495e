//! Peers that lie: nothing they serve enters the set, they are blamed, and honest peers get through.

use flair_protocol::engine::{Input, Offence, Output, Refusal};
use flair_protocol::graph::GraphError;
use flair_protocol::id::{Digest, OperationId};
use flair_protocol::operation::{Operation, Position};
use flair_protocol::wire::{Frontier, Request, Response};

use super::{Node, exchange, is_get, is_hello, is_want, offences, peer, request, requests, verdicts};
use crate::people::{Repository, grant, key, note, nowhere};

/// A node whose peer 1 says it has `count` more operations; the id of the page it asks for.
fn paged(repository: &Repository) -> (Node, flair_protocol::engine::RequestId) {
    let mut node = Node::new(repository.id, repository.operations());
    let outputs = node.tell(Input::Up { peer: peer(1) });
    let id = request(&outputs, peer(1), is_hello);
    let hello =
        Response::Hello { frontier: liar(1), blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
    let outputs = node.answer(peer(1), id, hello);
    let id = request(&outputs, peer(1), is_want);
    (node, id)
}

/// A frontier that nobody has.
fn liar(number: u64) -> Frontier {
    let heads = vec![nowhere(number)];
    let digest = Digest::of(heads[0].as_bytes());
    Frontier { heads, count: 1_000_000, digest }
}

fn page(operations: Vec<Operation>, more: bool, frontier: Frontier) -> Response {
    Response::Operations { operations, more, frontier }
}

fn at(repository: &Repository, person: u64, change: impl Fn(&mut Position)) -> Operation {
    let mut position = repository.graph.position(key(person).public(), 0);
    change(&mut position);
    Operation::sign(&key(person), position, note(1)).unwrap()
}

#[test]
fn an_inflated_lamport_time_is_refused() {
    let repository = Repository::with_members(1);
    for lamport in [repository.graph.len() as u64 + 1, u64::MAX, 1] {
        let (mut node, id) = paged(&repository);
        let inflated = at(&repository, 1, |position| position.lamport = lamport);
        let outputs = node.answer(peer(1), id, page(vec![inflated.clone()], false, liar(1)));
        let [Offence::Refused(Refusal::Graph(GraphError::Broken { .. }))] = offences(&outputs)[..] else {
            panic!("{:?}", offences(&outputs))
        };
        assert!(!node.has(&inflated));
    }
}

#[test]
fn a_number_that_does_not_follow_is_refused() {
    let mut repository = Repository::with_members(2);
    let mine = repository.note(1);
    let other = repository.note(2);
    let changes: [fn(&mut Position); 1] = [|position| position.seq += 1];
    for change in changes {
        let (mut node, id) = paged(&repository);
        let broken = at(&repository, 1, change);
        let outputs = node.answer(peer(1), id, page(vec![broken.clone()], false, liar(1)));
        assert!(matches!(offences(&outputs)[..], [Offence::Refused(_)]));
        assert!(!node.has(&broken));
    }
    // Somebody else's operation as one's own previous one.
    let (mut node, id) = paged(&repository);
    let grafted = at(&repository, 1, |position| {
        position.prev = Some(other.id());
        position.deps = vec![mine.id(), other.id()];
    });
    let outputs = node.answer(peer(1), id, page(vec![grafted.clone()], false, liar(1)));
    assert!(matches!(offences(&outputs)[..], [Offence::Refused(_)]));
    assert!(!node.has(&grafted));
}

#[test]
fn a_stranger_can_add_nothing() {
    let repository = Repository::with_members(1);
    let stranger = repository.sign(9, note(1));
    let (mut node, id) = paged(&repository);
    let outputs = node.answer(peer(1), id, page(vec![stranger.clone()], false, liar(1)));
    assert!(matches!(offences(&outputs)[..], [Offence::Refused(Refusal::Stranger { .. })]));
    assert!(!node.has(&stranger));
}

#[test]
fn whether_an_author_may_add_depends_on_the_operation_s_past_alone() {
    // Person 1 signs once before the grant was seen, and once after it.
    let mut repository = Repository::new("order");
    let early = repository.sign(1, note(1));
    repository.add(0, grant(1));
    let late = repository.sign(1, note(2));
    for order in [[&early, &late], [&late, &early]] {
        let (mut node, mut id) = paged(&repository);
        for operation in order {
            let outputs = node.answer(peer(1), id, page(vec![operation.clone()], false, liar(1)));
            assert!(!offences(&outputs).is_empty());
            let due = node.engine.deadline().unwrap();
            let outputs = node.wait(due - node.now);
            let hello = request(&outputs, peer(1), is_hello);
            let frontier = liar(1);
            let response =
                Response::Hello { frontier, blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
            let outputs = node.answer(peer(1), hello, response);
            id = request(&outputs, peer(1), is_want);
        }
        assert!(node.has(&late) && !node.has(&early));
    }
}

#[test]
fn a_member_granted_by_a_stranger_is_a_stranger() {
    let mut repository = Repository::with_members(1);
    let start = repository.operations();
    repository.add(1, grant(2));
    let second = repository.sign(2, note(1));
    let mut node = Node::new(repository.id, start);
    let mut other = Node::new(repository.id, repository.operations());
    exchange(&mut other, &mut node);
    let mut outputs = node.tell(Input::Up { peer: peer(3) });
    let id = request(&outputs, peer(3), is_hello);
    let hello =
        Response::Hello { frontier: liar(1), blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
    outputs = node.answer(peer(3), id, hello);
    let id = request(&outputs, peer(3), is_want);
    let outputs = node.answer(peer(3), id, page(vec![second.clone()], false, liar(1)));
    assert!(matches!(offences(&outputs)[..], [Offence::Refused(Refusal::Stranger { .. })]));
}

#[test]
fn behind_a_delegate_s_operation_of_a_later_version_everybody_may_add() {
    // It may be a grant of a kind that this version can't read: refusing what follows would split the versions.
    let mut repository = Repository::with_members(1);
    let before = repository.sign(9, note(1));
    repository.note(0);
    let behind = repository.sign(9, note(2));
    let (mut node, id) = paged(&repository);
    node.answer(peer(1), id, page(vec![behind.clone()], true, liar(1)));
    assert!(node.has(&behind));
    let (mut node, id) = paged(&repository);
    node.answer(peer(1), id, page(vec![before.clone()], true, liar(1)));
    assert!(!node.has(&before));
}

#[test]
fn a_grant_on_one_side_of_a_delegate_s_fork_is_no_grant_on_the_other() {
    let mut repository = Repository::with_members(1);
    let one = repository.sign(0, grant(5));
    let two = repository.sign(0, grant(6));
    repository.graph.insert(one.clone()).unwrap();
    let granted = repository.sign(5, note(2));
    let not_granted = repository.sign(6, note(3));
    let (mut node, id) = paged(&Repository::with_members(1));
    let served = vec![one, two, granted.clone(), not_granted.clone()];
    let outputs = node.answer(peer(1), id, page(served, true, liar(1)));
    assert!(matches!(offences(&outputs)[..], [Offence::Refused(Refusal::Stranger { .. })]));
    assert!(node.has(&granted) && !node.has(&not_granted));
}

#[test]
fn both_operations_of_an_equivocation_enter_so_that_all_can_see_it() {
    let repository = Repository::with_members(1);
    let (one, two) = (repository.sign(1, note(1)), repository.sign(1, note(2)));
    let (mut node, id) = paged(&repository);
    let mut frontier = liar(1);
    frontier.heads = vec![one.id().min(two.id()), one.id().max(two.id())];
    frontier.digest = Digest::of(&[*frontier.heads[0].as_bytes(), *frontier.heads[1].as_bytes()].concat());
    let outputs = node.answer(peer(1), id, page(vec![one.clone(), two.clone()], false, frontier));
    assert_eq!(offences(&outputs), []);
    assert!(node.has(&one) && node.has(&two));
}

#[test]
fn pages_without_the_past_of_what_they_hold_are_an_offence() {
    let mut repository = Repository::with_members(1);
    let (mut node, id) = paged(&repository);
    let _skipped = repository.note(1);
    let served = repository.note(1);
    let outputs = node.answer(peer(1), id, page(vec![served], true, liar(1)));
    assert_eq!(offences(&outputs), [Offence::Unfounded]);
    assert_eq!(node.engine.pending(), 0);
}

#[test]
fn pages_without_end_are_an_offence() {
    let repository = Repository::with_members(300);
    let (mut node, id) = paged(&repository);
    let outputs = node.answer(peer(1), id, page(Vec::new(), true, liar(1)));
    assert_eq!(offences(&outputs), [Offence::Endless]);
    // The same operations over and over.
    let (mut node, mut id) = paged(&repository);
    for round in 0.. {
        let outputs = node.answer(peer(1), id, page(repository.operations(), true, liar(1)));
        if offences(&outputs) == [Offence::Endless] {
            break;
        }
        assert!(round < 10, "it goes on for ever");
        id = request(&outputs, peer(1), is_want);
    }
}

#[test]
fn heads_that_are_never_served_are_an_offence_and_asked_for_ever_more_rarely() {
    let repository = Repository::with_members(1);
    let (mut node, mut id) = paged(&repository);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let outputs = node.answer(peer(1), id, page(Vec::new(), false, liar(1)));
        assert_eq!(offences(&outputs), [Offence::Heads]);
        assert!(requests(&outputs, peer(1)).is_empty());
        // Saying hello does not get it another turn.
        let hello = Request::Hello { frontier: liar(2), blobs: Vec::new() };
        node.ask(peer(1), hello);
        let due = node.engine.deadline().unwrap();
        pauses.push(due - node.now);
        let outputs = node.wait(due - node.now);
        assert!(requests(&outputs, peer(1)).iter().all(|(_, one)| !is_want(one)));
        let hello = request(&outputs, peer(1), is_hello);
        let frontier = liar(1);
        let response = Response::Hello { frontier, blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
        let outputs = node.answer(peer(1), hello, response);
        id = request(&outputs, peer(1), is_want);
    }
    assert!(pauses[7] > 30 * pauses[0], "{pauses:?}");
}

#[test]
fn operations_nobody_asked_for_are_an_offence() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let (asked, unasked) = (repository.sign(1, note(1)), repository.sign(0, note(2)));
    let (_, outputs) = node.announce(peer(1), &asked);
    let id = request(&outputs, peer(1), is_get);
    repository.note(1);
    let outputs = node.answer(peer(1), id, page(vec![unasked.clone()], false, liar(1)));
    assert_eq!(offences(&outputs), [Offence::Unasked]);
    assert!(!node.has(&unasked));
}

#[test]
fn an_answer_to_another_question_is_an_offence() {
    let repository = Repository::with_members(1);
    let (mut node, id) = paged(&repository);
    let frontier = Frontier::of(&repository.graph);
    let hello = Response::Hello { frontier, blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
    assert_eq!(offences(&node.answer(peer(1), id, hello)), [Offence::Answer]);
}

#[test]
fn an_answer_by_somebody_else_or_a_second_one_is_not_heard() {
    let repository = Repository::with_members(1);
    let (mut node, id) = paged(&repository);
    let note = repository.sign(1, note(1));
    assert!(node.answer(peer(2), id, page(vec![note.clone()], false, liar(1))).is_empty());
    node.answer(peer(1), id, page(Vec::new(), false, liar(1)));
    assert!(node.answer(peer(1), id, page(vec![note.clone()], false, liar(1))).is_empty());
    assert!(!node.has(&note));
}

#[test]
fn what_was_announced_and_is_broken_is_rejected() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let broken = at(&repository, 1, |position| position.lamport += 7);
    let (token, outputs) = node.announce(peer(1), &broken);
    let id = request(&outputs, peer(1), is_get);
    let outputs = node.answer(peer(1), id, page(vec![broken], false, liar(1)));
    assert_eq!(verdicts(&outputs), [(token, flair_protocol::engine::Verdict::Reject)]);
}

/// A chain of operations by a member that hangs in the air: its first one follows nothing that exists.
fn rootless(repository: &Repository, from: u64, count: u64) -> Vec<Operation> {
    let mut prev = nowhere(from);
    (0..count)
        .map(|number| {
            let operation = at(repository, 1, |position| {
                position.seq = 1_000 + number;
                position.lamport = 1_000 + number;
                position.prev = Some(prev);
                position.deps = vec![prev];
                position.time = from;
            });
            prev = operation.id();
            operation
        })
        .collect()
}

#[test]
fn a_million_operations_with_unknown_dependencies_stay_within_quota_and_honest_peers_pass() {
    let mut repository = Repository::with_members(2);
    let mut node = Node::new(repository.id, repository.operations());
    for number in 1..=2 {
        let outputs = node.tell(Input::Up { peer: peer(number) });
        let id = request(&outputs, peer(number), is_hello);
        let frontier = Frontier::of(&repository.graph);
        let hello = Response::Hello { frontier, blobs: Vec::new(), peers: Vec::new(), joins: Vec::new() };
        node.answer(peer(number), id, hello);
    }
    let mut server = Node::new(repository.id, repository.operations());
    // Signing a million takes long, so the same ones come again and again: none of them is ever remembered.
    let flood: Vec<Vec<Operation>> = (0..20).map(|chain| rootless(&repository, chain, 256)).collect();
    let (mut offered, mut most, mut honest) = (0_u64, 0, Vec::new());
    while offered < 1_000_000 {
        let mut said = node.wait(5_000);
        for chain in &flood {
            for operation in chain {
                said.extend(node.announce(peer(1), operation).1);
            }
            said = answered(&mut node, &said, chain, &mut server);
            offered += chain.len() as u64;
            most = most.max(node.engine.pending());
            assert!(node.engine.pending_bytes(peer(1)) <= flair_protocol::limits::PENDING_BYTES);
        }
        // An honest peer announces something in between: it is here after one question.
        let operation = repository.note(2);
        server.tell(Input::Local { operation: Box::new(operation.clone()), stored: true });
        said.extend(node.announce(peer(2), &operation).1);
        said = answered(&mut node, &said, &flood[0], &mut server);
        assert!(node.has(&operation), "after {offered} operations");
        answered(&mut node, &said, &flood[0], &mut server);
        honest.push(operation);
    }
    assert!(most <= flair_protocol::limits::PENDING_OPERATIONS, "{most} pending");
    assert_eq!(node.engine.graph().len(), 3 + honest.len());
}

/// What the node says to the answers it gets: from peer 1 always `chain`, whatever it asked, and from peer 2 what
/// `server` has.
fn answered(node: &mut Node, said: &[Output], chain: &[Operation], server: &mut Node) -> Vec<Output> {
    let mut next = Vec::new();
    for (id, question) in requests(said, peer(1)) {
        let served: Vec<_> = match &question {
            Request::Get { ids } => {
                chain.iter().filter(|operation| ids.contains(&operation.id())).cloned().collect()
            }
            _ => chain.to_vec(),
        };
        next.extend(node.answer(peer(1), id, page(served, true, liar(1))));
    }
    for (id, question) in requests(said, peer(2)) {
        next.extend(node.answer(peer(2), id, server.ask(peer(9), question)));
    }
    next
}

#[test]
fn whoever_reconnects_starts_with_nothing_held_for_it() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let chain = rootless(&repository, 1, 50);
    let mut asked: Vec<Output> =
        chain.iter().flat_map(|operation| node.announce(peer(1), operation).1).collect();
    while let Some((id, Request::Get { ids })) =
        requests(&asked, peer(1)).into_iter().find(|(_, one)| is_get(one))
    {
        let ids: Vec<OperationId> = ids;
        let served = chain.iter().filter(|operation| ids.contains(&operation.id())).cloned().collect();
        asked = node.answer(peer(1), id, page(served, false, liar(1)));
    }
    assert!(node.engine.pending() > 0);
    node.tell(Input::Down { peer: peer(1) });
    assert_eq!((node.engine.pending(), node.engine.pending_bytes(peer(1))), (0, 0));
}
