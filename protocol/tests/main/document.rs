//! The automerge document.

use automerge::{AutoCommit, ROOT, ReadDoc};
use flair_protocol::commit::Commit;
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
    let (_, inputs) = document.get(&commit, "inputs").unwrap().unwrap();
    let inputs = document.list_range(&inputs, ..).map(|item| item.value.into_value().into_string().unwrap());
    let Commit::Aggregate(recipe) = &*world.state().commits[&world.head()].commit else { panic!() };
    assert_eq!(inputs.collect::<Vec<_>>(), recipe.inputs.iter().map(ToString::to_string).collect::<Vec<_>>());
    let (_, claims) = document.get(&commit, "claims").unwrap().unwrap();
    assert_eq!(text(&claims, &person(3).to_string()), Some(outcome(0).model.to_string()));
    let commits = document.length(room("commits"));
    assert_eq!(commits, 4, "the stranger's update is not in it");
    assert_eq!(document.length(room("labels")), 0);
}

#[test]
fn the_documents_history_is_that_of_the_operations() {
    let world = world();
    let state = world.state();
    let built = document::build(&world.graph, &state).unwrap();
    let mut document = AutoCommit::load(&built.bytes).unwrap();
    let messages: Vec<String> =
        document.get_changes(&[]).iter().map(|change| change.message().unwrap().to_owned()).collect();
    let mut effective: Vec<_> =
        world.operations().into_iter().filter(|operation| state.is_effective(operation.id())).collect();
    effective.sort_unstable_by_key(flair_protocol::operation::Operation::order);
    assert_eq!(messages, effective.iter().map(|operation| operation.id().to_string()).collect::<Vec<_>>());
    // Other programs may go on from it: it is an ordinary document.
    let mut other = document.fork().with_actor(automerge::ActorId::from(b"other".as_slice()));
    let (_, labels) = other.get(ROOT, "labels").unwrap().unwrap();
    automerge::transaction::Transactable::put(&mut other, &labels, "best", world.head().to_string()).unwrap();
    document.merge(&mut other).unwrap();
    assert_eq!(document.length(&labels), 1);
}
