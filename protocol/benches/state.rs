//! How long it takes to evaluate a repository, signatures apart.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use flair_protocol::commit::{Commit, Content, Extensions, Initial, Outcome, Training, Update};
use flair_protocol::graph::Graph;
use flair_protocol::id::{ArchitectureId, BranchId, CommitId, ModelId, PackId, RepositoryId, StateId};
use flair_protocol::key::SecretKey;
use flair_protocol::operation::body::{Attest, BranchCreate, Genesis, Grant, Publish};
use flair_protocol::operation::{Body, Operation, Position};
use flair_protocol::policy::{Every, Policy, Role};
use flair_protocol::state::State;

const CONTRIBUTORS: u8 = 8;

fn key(who: u8) -> SecretKey {
    SecretKey::from_bytes(&[who + 1; 32])
}

fn say(graph: &mut Graph, who: u8, body: Body) -> Operation {
    let operation = Operation::sign(&key(who), graph.position(key(who).public(), 0), body).unwrap();
    graph.insert(operation.clone()).unwrap();
    operation
}

fn publish(graph: &mut Graph, who: u8, commit: Commit) -> CommitId {
    let id = commit.id().unwrap();
    let outcome = Outcome { model: ModelId::from_bytes([1; 32]), state: StateId::from_bytes([1; 32]) };
    let result = matches!(commit, Commit::Aggregate(_)).then_some(outcome);
    let publish = Publish { id, commit, pack: PackId::from_bytes([1; 32]), pack_bytes: 1, result };
    say(graph, who, Body::Publish(Box::new(publish)));
    id
}

/// Rounds in which eight people train on the head, one aggregates, and two attest.
fn history(operations: usize) -> Graph {
    let mut policy = Policy::standard(key(0).public());
    policy.aggregation.every = Every::Persons(u32::from(CONTRIBUTORS));
    let genesis =
        Genesis { name: "bench".into(), nonce: [0; 16], policy, founder: String::new(), forked_from: None };
    let genesis = Operation::sign(&key(0), Position::genesis(0), Body::Genesis(genesis)).unwrap();
    let mut graph = Graph::new(RepositoryId::from_digest(genesis.id().digest()));
    graph.insert(genesis).unwrap();
    for who in 1..=CONTRIBUTORS {
        let person = key(who).public();
        let grant =
            Grant { person, role: Role::Contributor, name: String::new(), invite: None, approval: None };
        say(&mut graph, 0, Body::Grant(grant));
    }
    let create = BranchCreate { name: "main".into(), from: None };
    let branch = BranchId::from_digest(say(&mut graph, 0, Body::BranchCreate(create)).id().digest());
    let architecture = ArchitectureId::from_bytes([0; 32]);
    let (model, message) = (ModelId::from_bytes([0; 32]), String::new());
    let author = key(0).public();
    let initial = Initial { author, branch, model, architecture, bytes: 1, message, ext: Extensions::new() };
    let mut head = publish(&mut graph, 0, Commit::Initial(initial));
    let rules = State::evaluate(&graph);
    while graph.len() < operations {
        // Everybody signs without having seen the others of this round.
        let people = (1..=CONTRIBUTORS).map(|who| (who, graph.position(key(who).public(), 0)));
        let people: Vec<(u8, Position)> = people.collect();
        let mut inputs = Vec::new();
        for (who, position) in people {
            let commit = Commit::Update(Box::new(Update {
                author: key(who).public(),
                branch,
                base: head,
                base_model: model,
                content: Content::Model(model),
                architecture,
                bytes: 1,
                training: Training::default(),
                privacy: None,
                metrics: Vec::new(),
                message: format!("round {}", graph.len()),
                ext: Extensions::new(),
            }));
            let id = commit.id().unwrap();
            let pack = PackId::from_bytes([1; 32]);
            let publish = Body::Publish(Box::new(Publish { id, commit, pack, pack_bytes: 1, result: None }));
            graph.insert(Operation::sign(&key(who), position, publish).unwrap()).unwrap();
            inputs.push(id);
        }
        head = publish(&mut graph, 1, Commit::Aggregate(rules.recipe(branch, head, &inputs)));
        let result = Outcome { model: ModelId::from_bytes([1; 32]), state: StateId::from_bytes([1; 32]) };
        for who in 2..=3 {
            say(&mut graph, who, Body::Attest(Attest { commit: head, result }));
        }
    }
    graph
}

fn evaluate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state");
    for operations in [1_000, 10_000] {
        let graph = history(operations);
        let state = State::evaluate(&graph);
        assert!(state.void.is_empty() && state.idle.is_empty());
        group.bench_function(format!("evaluate {operations} operations"), |bencher| {
            bencher.iter(|| State::evaluate(&graph));
        });
        group.bench_function(format!("fingerprint of {operations} operations"), |bencher| {
            bencher.iter(|| state.fingerprint());
        });
        #[cfg(feature = "document")]
        group.sample_size(10).bench_function(format!("document of {operations} operations"), |bencher| {
            bencher.iter(|| flair_protocol::document::build(&graph, &state).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, evaluate);
criterion_main!(benches);
