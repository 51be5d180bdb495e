//! Test vectors: the bytes that `docs/vectors.txt` shows to whoever writes a second implementation.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use flair_protocol::commit::{Aggregate, Commit, Content, KERNEL, MODE, Metric, Outcome, Training, Update};
use flair_protocol::graph::Graph;
use flair_protocol::id::{ArchitectureId, BranchId, CommitId};
use flair_protocol::id::{Digest, ModelId, PackId, RepositoryId, StateId};
use flair_protocol::key::SecretKey;
use flair_protocol::model::State as ModelState;
use flair_protocol::operation::body::{BranchCreate, Genesis, Invite, Publish};
use flair_protocol::operation::{Body, Operation, Position};
use flair_protocol::policy::Policy;
use flair_protocol::policy::Role;
use flair_protocol::state::State;
use flair_protocol::ticket::{InviteSecret, JoinRequest, Ticket};
use flair_protocol::wire::{Announcement, Frontier, Request};

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

/// Everything shown, a line each: name, then text or hexadecimal bytes.
fn vectors() -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| writeln!(out, "{name} {value}").unwrap();
    let key = SecretKey::from_bytes(&[7; 32]);
    line("key", &key.public().to_string());

    let policy = Policy::standard(key.public());
    let genesis =
        Genesis { name: "digits".into(), nonce: [1; 16], policy, founder: "ana".into(), forked_from: None };
    let genesis = Operation::sign(&key, Position::genesis(1000), Body::Genesis(genesis)).unwrap();
    line("genesis", &HEXLOWER.encode(&genesis.encode().unwrap()));
    let repo = RepositoryId::from_digest(genesis.id().digest());
    line("repository", &repo.to_string());

    let mut graph = Graph::new(repo);
    graph.insert(genesis).unwrap();
    let mut publish = |name: &str, body: Body| {
        let operation = Operation::sign(&key, graph.position(key.public(), 2000), body).unwrap();
        line(name, &HEXLOWER.encode(&operation.encode().unwrap()));
        graph.insert(operation.clone()).unwrap();
        operation
    };
    let branch = publish("branch", Body::BranchCreate(BranchCreate { name: "main".into(), from: None }));
    let branch = BranchId::from_digest(branch.id().digest());
    let update = Commit::Update(Box::new(Update {
        author: key.public(),
        branch,
        base: CommitId::from_digest(digest(2)),
        base_model: ModelId::from_digest(digest(3)),
        content: Content::Model(ModelId::from_digest(digest(4))),
        architecture: ArchitectureId::from_digest(digest(5)),
        bytes: 4096,
        training: Training { examples: 812, epochs: Some(2), ..Training::default() },
        privacy: None,
        metrics: vec![Metric { name: "loss".into(), split: "val".into(), value: 0.41, n: 100 }],
        message: "site B, 2 epochs".into(),
        ext: BTreeMap::new(),
    }));
    let update_id = update.id().unwrap();
    let pack = PackId::from_digest(digest(6));
    let body = Publish { id: update_id, commit: update, pack, pack_bytes: 300, result: None };
    publish("update", Body::Publish(Box::new(body)));
    let recipe = Commit::Aggregate(Aggregate {
        repo,
        branch,
        parent: CommitId::from_digest(digest(2)),
        inputs: vec![update_id],
        policy: flair_protocol::id::OperationId::from_digest(repo.digest()),
        mode: MODE.into(),
        kernel: KERNEL,
    });
    let state = ModelState { norms: vec![vec![0.5, 1.25]], ..ModelState::default() };
    let outcome = Outcome {
        model: ModelId::from_digest(digest(8)),
        state: StateId::from_digest(Digest::of(&state.encode().unwrap())),
    };
    let id = recipe.id().unwrap();
    let body = Publish { id, commit: recipe, pack, pack_bytes: 0, result: Some(outcome) };
    publish("aggregate", Body::Publish(Box::new(body)));
    let secret = [9; 32];
    let invite_key = SecretKey::from_bytes(&secret).public();
    let invite = Invite { key: invite_key, role: Role::Contributor, uses: 3, label: "Site B".into() };
    let invite = publish("invite", Body::Invite(invite));

    line("update-id", &update_id.to_string());
    line("aggregate-id", &id.to_string());
    line("state", &HEXLOWER.encode(&state.encode().unwrap()));
    let secret = InviteSecret { invite: invite.id(), secret };
    let person = SecretKey::from_bytes(&[10; 32]);
    let join = JoinRequest::sign(&person, repo, "Ben".into(), Some(&secret), 3000).unwrap();
    line("join", &HEXLOWER.encode(&join.encode().unwrap()));
    let ticket = Ticket {
        private: false,
        version: 1,
        repo,
        name: "digits".into(),
        node: key.public(),
        addresses: vec!["/ip4/127.0.0.1/tcp/4001".into()],
        invite: Some(secret),
    };
    line("ticket", &ticket.encode().unwrap());
    line("announcement", &HEXLOWER.encode(&Announcement::of(&invite).encode().unwrap()));
    let request = Request::Hello { frontier: Frontier::of(&graph), blobs: vec!["127.0.0.1:4002".into()] };
    line("hello", &HEXLOWER.encode(&request.encode(repo).unwrap()));
    line("fingerprint", &State::evaluate(&graph).fingerprint().to_string());
    out
}

#[test]
fn the_bytes_are_those_that_are_published() {
    let found = vectors();
    assert_eq!(found, include_str!("../../../docs/vectors.txt"), "{found}");
}
