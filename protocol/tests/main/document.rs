//! The automerge document.

use automerge::{AutoCommit, ROOT, ReadDoc};
use flair_protocol::document;
use flair_protocol::policy::Role;

use crate::world::*;

fn world() -> World {
    let mut world = World::new(&[2, 3]);
    world.round(&[2, 3], 2, 0);
    let head = world.head();
    world.attest(3, head, 0);
    world.update(9, head, 0);
    world.revoke(2, &[]);
    world.grant(2, Role::Reader);
    world
}

#[test]
fn nodes_with_the_same_operations_build_the_same_document() {
    let world = world();
    let mut other = flair_protocol::graph::Graph::new(world.graph.repo());
    let mut operations = world.operations();
    operations.reverse();
    while let Some(operation) = operations.pop() {
        other.insert(operation).unwrap();
    }
    let built = document::build(&world.graph, &world.state()).unwrap();
    let again = document::build(&other, &world.state()).unwrap();
    assert_eq!(built, again);
    assert_eq!(built.heads.len(), 1);
}

#[test]
fn the_document_reads_like_the_repository() {
    let world = world();
    let built = document::build(&world.graph, &world.state()).unwrap();
    let mut document = AutoCommit::load(&built.bytes).unwrap();
    let heads: Vec<[u8; 32]> = document.get_heads().into_iter().map(|head| head.0).collect();
    assert_eq!(heads, built.heads);
    let text = |object: &automerge::ObjId, key: &str| {
        document.get(object, key).unwrap().map(|(value, _)| value.into_string().unwrap())
    };
    let room = |key: &str| document.get(ROOT, key).unwrap().unwrap().1;
    assert_eq!(text(&ROOT, "name").as_deref(), Some("test"));
    let (_, branch) = document.get(room("branches"), world.branch.to_string()).unwrap().unwrap();
    assert_eq!(text(&branch, "name").as_deref(), Some("main"));
    let (_, member) = document.get(room("members"), person(2).to_string()).unwrap().unwrap();
    assert_eq!(text(&member, "role").as_deref(), Some("reader"));
    assert_eq!(text(&member, "revoked"), None);
    let (_, commit) = document.get(room("commits"), world.head().to_string()).unwrap().unwrap();
    assert_eq!(text(&commit, "kind").as_deref(), Some("aggregate"));
    assert_eq!(text(&commit, "parent"), Some(world.root.to_string()));
    let commits = document.length(room("commits"));
    assert_eq!(commits, 4, "the stranger's update is not in it");
    assert_eq!(document.length(room("labels")), 0);
}
