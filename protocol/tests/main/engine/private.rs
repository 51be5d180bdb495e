//! Private repositories: news goes to peers by comparing sets, and never into gossip.

use flair_protocol::engine::Input;
use flair_protocol::wire::{Frontier, Response};

use super::{Node, announced, is_hello, peer, requests};
use crate::people::Repository;

#[test]
fn news_of_a_private_repository_is_told_to_peers_and_never_announced() {
    for private in [false, true] {
        let mut repository = Repository::of("digits", private);
        let mut node = Node::new(repository.id, repository.operations());
        let greeted = node.tell(Input::Up { peer: peer(1) });
        let frontier = Frontier::of(&repository.graph);
        for (id, _) in requests(&greeted, peer(1)) {
            let (blobs, peers, joins) = (Vec::new(), Vec::new(), Vec::new());
            node.answer(peer(1), id, Response::Hello { frontier: frontier.clone(), blobs, peers, joins });
        }
        assert_eq!(requests(&node.wait(2_000), peer(1)).len(), 0, "there is nothing to say");
        let operation = repository.note(0);
        let outputs = node.tell(Input::Local { operation: Box::new(operation.clone()), stored: true });
        let announced = announced(&outputs);
        if private {
            assert_eq!(announced, []);
            let hellos = |outputs: &[_]| requests(outputs, peer(1)).iter().any(|(_, one)| is_hello(one));
            assert!(hellos(&outputs) || hellos(&node.wait(600)), "told within a moment");
        } else {
            assert_eq!(announced, [operation.id()]);
        }
    }
}
