//! Nothing grows beyond its limit.

use flair_protocol::engine::{Input, Verdict};
use flair_protocol::limits;
use flair_protocol::wire::{Request, Response};

use super::{Node, peer, requests, verdicts};
use crate::people::{Repository, note, nowhere};

#[test]
fn at_most_one_request_of_a_sort_is_under_way_to_a_peer() {
    let mut repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    let mut asked = requests(&node.tell(Input::Up { peer: peer(1) }), peer(1));
    for number in 0..2_000 {
        let operation = if number % 2 == 0 { repository.note(1) } else { repository.sign(0, note(number)) };
        asked.extend(requests(&node.announce(peer(1), &operation).1, peer(1)));
    }
    assert!(asked.len() <= 3, "{asked:?}");
}

#[test]
fn announcements_beyond_the_limit_are_ignored() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    node.tell(Input::Up { peer: peer(1) });
    let mut ignored = 0;
    for number in 0..limits::HINTS as u64 + 100 {
        let operation = repository.sign(1, note(number));
        let (_, outputs) = node.announce(peer(1), &operation);
        ignored += verdicts(&outputs).iter().filter(|(_, verdict)| *verdict == Verdict::Ignore).count();
    }
    assert_eq!(ignored, 100);
    // All get their verdict before gossip forgets them.
    assert_eq!(verdicts(&node.wait(4_000)).len(), limits::HINTS);
}

#[test]
fn peers_beyond_the_limit_are_answered_but_not_followed() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    for number in 0..limits::PEERS as u64 + 50 {
        node.tell(Input::Up { peer: peer(number) });
    }
    assert_eq!(node.engine.peers().count(), limits::PEERS);
    let response = node.ask(peer(limits::PEERS as u64 + 9), Request::Get { ids: vec![nowhere(1)] });
    assert!(matches!(response, Response::Operations { operations, .. } if operations.is_empty()));
}

#[test]
fn an_announcement_by_an_unknown_peer_is_ignored() {
    let repository = Repository::with_members(1);
    let mut node = Node::new(repository.id, repository.operations());
    let (token, outputs) = node.announce(peer(1), &repository.sign(1, note(1)));
    assert_eq!(verdicts(&outputs), [(token, Verdict::Ignore)]);
}
