//! What is refused before it is even looked at, and what never changes.

use flair_protocol::cbor::CborError;
use flair_protocol::graph::{Graph, GraphError};
use flair_protocol::id::{Digest, OperationId, RepositoryId};
use flair_protocol::key::KeyError;
use flair_protocol::limits;
use flair_protocol::operation::body::{Approval, BodyError, BranchDelete, BranchRename};
use flair_protocol::operation::{Body, Operation, OperationError, Position};
use flair_protocol::policy::Role;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::world::*;

/// An operation taken apart, as a forger would.
#[derive(Clone, Serialize, Deserialize)]
struct Parts {
    header: ByteBuf,
    signature: ByteBuf,
    body: ByteBuf,
}

fn parts(operation: &Operation) -> Parts {
    serde_ipld_dagcbor::from_slice(&operation.encode().unwrap()).unwrap()
}

fn bytes(parts: &Parts) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(parts).unwrap()
}

/// A world and its last operation, an update by 2.
fn fixture() -> (World, Operation) {
    let mut world = World::new(&[2]);
    world.update(2, world.root, 0);
    let last = world.graph.at(world.graph.len() - 1).clone();
    (world, last)
}

/// Changes the header's fields as CBOR, and signs nothing anew.
fn with_header(operation: &Operation, change: impl FnOnce(&mut ipld::Map)) -> Vec<u8> {
    let mut parts = parts(operation);
    let mut map: ipld::Map = serde_ipld_dagcbor::from_slice(&parts.header).unwrap();
    change(&mut map);
    parts.header = ByteBuf::from(serde_ipld_dagcbor::to_vec(&map).unwrap());
    bytes(&parts)
}

mod ipld {
    use std::collections::BTreeMap;

    use super::{ByteBuf, Deserialize, Serialize};

    pub(super) type Map = BTreeMap<String, Value>;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(super) enum Value {
        Number(u64),
        Bytes(ByteBuf),
        List(Vec<ByteBuf>),
        None(Option<()>),
    }
}

#[test]
fn an_operation_comes_back_as_it_was_signed() {
    let (world, _) = fixture();
    for operation in world.operations() {
        let bytes = operation.encode().unwrap();
        let back = Operation::decode(&bytes, world.graph.repo()).unwrap();
        assert_eq!(
            (back.id(), back.header(), back.body()),
            (operation.id(), operation.header(), operation.body())
        );
        assert_eq!(back.encode().unwrap(), bytes);
    }
}

#[test]
fn a_forged_author_is_refused() {
    let (world, operation) = fixture();
    let forged = with_header(&operation, |header| {
        let author = ipld::Value::Bytes(ByteBuf::from(person(3).as_bytes().to_vec()));
        header.insert("author".into(), author);
    });
    let error = Operation::decode(&forged, world.graph.repo()).unwrap_err();
    assert_eq!(error, OperationError::Key(KeyError::Signature(person(3))));
    // Another's signature on the same header.
    let mut swapped = parts(&operation);
    swapped.signature = ByteBuf::from(key(3).sign(b"other").as_bytes().to_vec());
    let error = Operation::decode(&bytes(&swapped), world.graph.repo()).unwrap_err();
    assert_eq!(error, OperationError::Key(KeyError::Signature(person(2))));
}

#[test]
fn an_operation_copied_to_another_repository_is_refused() {
    let (_, operation) = fixture();
    let other = World::with(&[], |policy| policy.aggregation.max_staleness = 1).graph.repo();
    let error = Operation::decode(&operation.encode().unwrap(), other).unwrap_err();
    assert!(matches!(error, OperationError::Repository { expected, .. } if expected == other));
    // With the repository exchanged in the header, the signature no longer holds.
    let moved = with_header(&operation, |header| {
        let repo = ipld::Value::Bytes(ByteBuf::from(other.as_bytes().to_vec()));
        header.insert("repo".into(), repo);
    });
    assert!(matches!(Operation::decode(&moved, other), Err(OperationError::Key(_))));
    // A genesis belongs to the repository it founds, to no other.
    let genesis = fixture().0.graph.at(0).encode().unwrap();
    assert!(matches!(Operation::decode(&genesis, other), Err(OperationError::Repository { .. })));
}

#[test]
fn a_re_encoded_operation_is_refused() {
    let (world, operation) = fixture();
    let repo = world.graph.repo();
    let good = operation.encode().unwrap();
    // The same map with its length in two bytes instead of one.
    let mut long = good.clone();
    assert_eq!(long[0], 0xa3);
    long.splice(0..1, [0xb8, 3]);
    assert!(matches!(Operation::decode(&long, repo), Err(OperationError::Cbor(_))));
    // An indefinite length, trailing bytes, fields in another order, a missing end.
    let mut indefinite = good.clone();
    indefinite[0] = 0xbf;
    indefinite.push(0xff);
    let trailing = [good.as_slice(), &[0]].concat();
    let Parts { header, signature, body } = parts(&operation);
    let mut reordered = vec![0xa3];
    for (name, value) in [("signature", &signature), ("header", &header), ("body", &body)] {
        reordered.extend(serde_ipld_dagcbor::to_vec(name).unwrap());
        reordered.extend(serde_ipld_dagcbor::to_vec(value).unwrap());
    }
    for bad in [&indefinite, &trailing, &reordered, &good[..good.len() - 1].to_vec()] {
        assert!(matches!(Operation::decode(bad, repo), Err(OperationError::Cbor(_))));
    }
}

#[test]
fn oversized_parts_are_refused_by_size_first() {
    let (world, operation) = fixture();
    let repo = world.graph.repo();
    let huge = vec![0xff; limits::OPERATION + 1];
    let error = Operation::decode(&huge, repo).unwrap_err();
    assert!(matches!(error, OperationError::Cbor(CborError::Size { limit: limits::OPERATION, .. })));
    let mut wide = parts(&operation);
    wide.header = ByteBuf::from(vec![0; limits::HEADER + 1]);
    let error = Operation::decode(&bytes(&wide), repo).unwrap_err();
    assert!(matches!(error, OperationError::Cbor(CborError::Size { limit: limits::HEADER, .. })));
    let long = with_header(&operation, |header| {
        header.insert("length".into(), ipld::Value::Number(limits::BODY as u64 + 1));
    });
    assert!(matches!(Operation::decode(&long, repo), Err(OperationError::Header(_))));
}

#[test]
fn a_length_of_two_to_the_63_is_refused_without_allocating() {
    let repo = fixture().0.graph.repo();
    for major in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
        let mut hostile = vec![major];
        hostile.extend((1_u64 << 63).to_be_bytes());
        hostile.extend([0; 32]);
        assert!(matches!(Operation::decode(&hostile, repo), Err(OperationError::Cbor(_))));
        // The same inside a header field that is expected there.
        let mut inside = vec![0xa3];
        inside.extend(serde_ipld_dagcbor::to_vec("body").unwrap());
        inside.extend(&hostile);
        assert!(matches!(Operation::decode(&inside, repo), Err(OperationError::Cbor(_))));
        assert!(Body::decode(flair_protocol::operation::Kind::PUBLISH, &hostile).is_err());
        assert!(flair_protocol::commit::Commit::decode(&hostile).is_err());
        assert!(flair_protocol::model::Manifest::decode(&hostile).is_err());
        assert!(flair_protocol::model::State::decode(&hostile).is_err());
    }
}

#[test]
fn a_higher_version_is_refused_with_the_way_out() {
    let (world, operation) = fixture();
    let newer = with_header(&operation, |header| {
        header.insert("version".into(), ipld::Value::Number(2));
    });
    let error = Operation::decode(&newer, world.graph.repo()).unwrap_err();
    assert_eq!(error, OperationError::Version(2));
    assert!(error.to_string().contains("install a newer version"));
}

#[test]
fn an_unknown_field_is_refused() {
    let (world, operation) = fixture();
    let extra = with_header(&operation, |header| {
        header.insert("extra".into(), ipld::Value::Number(1));
    });
    assert!(matches!(Operation::decode(&extra, world.graph.repo()), Err(OperationError::Cbor(_))));
}

#[test]
fn anothers_commit_cannot_be_published_as_ones_own() {
    let world = World::new(&[2, 3]);
    let theirs = update(2, world.branch, world.root, 0);
    let position = world.graph.position(person(3), 0);
    let error = Operation::sign(&key(3), position, publish(theirs, None)).unwrap_err();
    let OperationError::Body { why: BodyError::Author { commit, signer }, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((commit, signer), (person(2), person(3)));
}

#[test]
fn a_body_other_than_the_signed_one_is_refused() {
    let (world, operation) = fixture();
    let mut changed = parts(&operation);
    let last = changed.body.len() - 1;
    changed.body[last] ^= 1;
    let error = Operation::decode(&bytes(&changed), world.graph.repo()).unwrap_err();
    assert_eq!(error, OperationError::BodyDiffers(operation.id()));
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let (world, operation) = fixture();
    let refused = |change: &dyn Fn(&mut ipld::Map)| {
        let bytes = with_header(&operation, change);
        assert!(matches!(Operation::decode(&bytes, world.graph.repo()), Err(OperationError::Header(_))));
    };
    let none = || ipld::Value::None(None);
    let ids = |count: u8| (0..count).map(|n| ByteBuf::from(vec![n; 32])).collect::<Vec<_>>();
    refused(&|header| drop(header.insert("seq".into(), ipld::Value::Number(5))));
    refused(&|header| drop(header.insert("deps".into(), ipld::Value::List(ids(17)))));
    refused(&|header| drop(header.insert("deps".into(), ipld::Value::List(vec![]))));
    refused(&|header| {
        let (mut reversed, _) = (ids(3), none());
        reversed.reverse();
        header.insert("deps".into(), ipld::Value::List(reversed));
    });
}

#[test]
fn a_lamport_time_other_than_one_more_than_the_highest_never_fits() {
    let world = World::new(&[2]);
    for inflate in [1, 1_000_000, u64::MAX / 2] {
        let mut position = world.graph.position(person(2), 0);
        position.lamport += inflate;
        let commit = update(2, world.branch, world.root, inflate);
        let operation = Operation::sign(&key(2), position, publish(commit, None)).unwrap();
        assert!(matches!(world.graph.clone().insert(operation), Err(GraphError::Broken { .. })));
    }
}

#[test]
fn an_operation_whose_dependencies_are_unknown_waits() {
    let (world, operation) = fixture();
    let mut empty = Graph::new(world.graph.repo());
    let error = empty.insert(operation.clone()).unwrap_err();
    assert_eq!(error, GraphError::Missing(operation.header().deps.clone()));
}

/// Ids of one operation of each kind by fixed keys. They must never change: an id is what others signed.
#[test]
fn golden_ids() {
    let mut world = World::new(&[2]);
    world.invite(3);
    let a = world.update(2, world.root, 1);
    let head = world.aggregate(2, world.root, &[a]);
    world.attest(DELEGATE, head, 0);
    world.refute(DELEGATE, head, 0, 1);
    world.revoke(2, &[]);
    world.rename(world.branch, "trunk");
    world.delete(world.branch);
    let revision = world.propose(DELEGATE, |policy| policy.delegates.push(person(2)));
    world.approve(DELEGATE, revision);
    world.resolve(DELEGATE, revision, 0);
    world.review(DELEGATE, head, flair_protocol::operation::body::Judgement::Accept);
    world.evaluate(DELEGATE, head, 0.83, 0.81);
    let lines: Vec<String> = world
        .operations()
        .iter()
        .map(|operation| format!("{:#06x} {}", operation.header().kind.number(), operation.id()))
        .collect();
    let found = format!("{}\n{}\n", lines.join("\n"), world.state().fingerprint());
    assert_eq!(found, include_str!("golden.txt"), "{found}");
}

/// A grant that names an approval.
fn approved(who: u8, role: Role, reference: &str, document: Option<Digest>) -> Body {
    let mut body = grant(who, role);
    if let Body::Grant(grant) = &mut body {
        grant.approval = Some(Approval { reference: reference.into(), document });
    }
    body
}

#[test]
fn an_approval_without_words_or_with_lines_is_not_signed() {
    let world = World::new(&[]);
    let sign = |reference: &str| {
        let position = world.graph.position(person(1), 0);
        Operation::sign(&key(1), position, approved(2, Role::Reader, reference, None))
    };
    assert!(sign("IRB 2026-114").is_ok());
    for bad in ["", "  ", "a\nb", "\u{1b}[31m", &"x".repeat(101)] {
        assert!(matches!(sign(bad), Err(OperationError::Body { why: BodyError::Rule(_), .. })), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind: u16) {
        let repo = RepositoryId::from_digest(Digest::of(b"any"));
        prop_assert!(Operation::decode(&bytes, repo).is_err());
        let _ = Body::decode(flair_protocol::operation::Kind::from_number(kind), &bytes);
        let _ = flair_protocol::commit::Commit::decode(&bytes);
        let _ = flair_protocol::model::Manifest::decode(&bytes);
    }

    #[test]
    fn one_changed_byte_is_refused(at in 0usize..10_000, flip in 1u8..) {
        let (world, operation) = fixture();
        let mut bytes = operation.encode().unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        prop_assert!(Operation::decode(&bytes, world.graph.repo()).is_err());
    }

    #[test]
    fn bodies_round_trip(
        who in 1u8..50,
        role in prop::sample::select(vec![Role::Reader, Role::Contributor]),
        keep in prop::collection::btree_set(any::<[u8; 32]>(), 0..=16),
        name in "[a-zA-Z0-9._]{1,100}",
        time: u64,
        message in ".{0,200}",
    ) {
        let world = World::new(&[]);
        let keep: Vec<OperationId> =
            keep.into_iter().map(|bytes| OperationId::from_digest(Digest::from_bytes(bytes))).collect();
        let mut commit = update(1, world.branch, world.root, time);
        if let flair_protocol::commit::Commit::Update(update) = &mut commit {
            update.message = message;
            update.training.seed = Some(time);
            update.metrics.push(flair_protocol::commit::Metric {
                name: name.clone(), split: "val".into(), value: f64::from(who) / 7.0, n: time,
            });
        }
        let bodies = [
            grant(who, role),
            approved(who, role, "IRB 2026-114 (§ 3)", (time % 2 == 0).then(|| digest("document"))),
            revoke(who, &keep),
            Body::BranchRename(BranchRename { branch: world.branch, name }),
            Body::BranchDelete(BranchDelete { branch: world.branch }),
            publish(commit, None),
            evaluation(world.root, Some(world.root), &[("auc", f64::from(who) / 7.0, -f64::from(who))]),
            evaluation(world.root, None, &[("loss", 0.0, 0.0)]),
        ];
        for body in bodies {
            let position = Position { time, ..world.graph.position(person(1), 0) };
            let operation = Operation::sign(&key(1), position, body).unwrap();
            let bytes = operation.encode().unwrap();
            let back = Operation::decode(&bytes, world.graph.repo()).unwrap();
            prop_assert_eq!(back.body(), operation.body());
            prop_assert_eq!(back.header(), operation.header());
            prop_assert_eq!(back.encode().unwrap(), bytes);
        }
    }
}
