//! People with keys who sign operations: a graph builder that never cheats on the format, only on the rules.

use std::sync::LazyLock;

use flair_protocol::commit::{
    Aggregate, Change, Commit, Content, Described, Extensions, External, Initial, Merge, Outcome, Step,
    Training, Update,
};
use flair_protocol::graph::Graph;
use flair_protocol::id::{ArchitectureId, BranchId, CommitId, Digest, ModelId, OperationId, PackId, StateId};
use flair_protocol::key::{PersonId, SecretKey};
use flair_protocol::operation::body::{
    Approve, Attest, BranchCreate, BranchDelete, BranchRename, Cut, Genesis, Grant, Invite, Judgement,
    Publish, Refute, Resolve, Review, Revision, Revoke, Stated,
};
use flair_protocol::operation::evaluation::{Better, Evaluation, Measured};
use flair_protocol::operation::{Body, Operation, Position};
use flair_protocol::policy::{Bound, Number, Policy, Requirement, Role};
use flair_protocol::state::State;

/// The delegate of every repository here.
pub(crate) const DELEGATE: u8 = 1;

/// Everybody's keys, made once: making one costs more than checking most rules.
static KEYS: LazyLock<Vec<(SecretKey, PersonId)>> = LazyLock::new(|| {
    let keys = (0..=u8::MAX).map(|who| SecretKey::from_bytes(&[who; 32]));
    keys.map(|key| (key.clone(), key.public())).collect()
});

pub(crate) fn key(who: u8) -> SecretKey {
    KEYS[usize::from(who)].0.clone()
}

pub(crate) fn person(who: u8) -> PersonId {
    KEYS[usize::from(who)].1
}

pub(crate) fn digest(what: impl std::fmt::Debug) -> Digest {
    Digest::of(format!("{what:?}").as_bytes())
}

pub(crate) fn outcome(number: u64) -> Outcome {
    let (model, state) = (digest(("model", number)), digest(("state", number)));
    Outcome { model: ModelId::from_digest(model), state: StateId::from_digest(state) }
}

pub(crate) fn architecture(number: u64) -> ArchitectureId {
    ArchitectureId::from_digest(digest(("architecture", number)))
}

/// One replica of a repository, at which several people sign.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) graph: Graph,
    pub(crate) branch: BranchId,
    pub(crate) root: CommitId,
}

impl World {
    /// A repository with a branch `main`, its first commit, and contributors.
    pub(crate) fn new(contributors: &[u8]) -> Self {
        Self::with(contributors, |_| {})
    }

    /// The same with another policy.
    pub(crate) fn with(contributors: &[u8], change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::standard(person(DELEGATE));
        change(&mut policy);
        let genesis = Genesis {
            name: "test".into(),
            nonce: [0; 16],
            policy,
            founder: String::new(),
            forked_from: None,
        };
        let genesis = Operation::sign(&key(DELEGATE), Position::genesis(0), Body::Genesis(genesis)).unwrap();
        let mut graph = Graph::new(flair_protocol::id::RepositoryId::from_digest(genesis.id().digest()));
        let nothing = Digest::from_bytes([0; 32]);
        graph.insert(genesis).unwrap();
        let (branch, root) = (BranchId::from_digest(nothing), CommitId::from_digest(nothing));
        let mut world = Self { graph, branch, root };
        world.branch = world.create("main", None);
        world.root = world.initial(DELEGATE, world.branch, 0);
        for contributor in contributors {
            world.grant(*contributor, Role::Contributor);
        }
        world
    }

    pub(crate) fn state(&self) -> State {
        State::evaluate(&self.graph)
    }

    /// The policy revision in force; asks the evaluator only where there is a choice.
    fn revision(&self) -> OperationId {
        let proposals = self.graph.iter().any(|operation| matches!(operation.body(), Body::Revision(_)));
        if proposals { self.state().revision() } else { OperationId::from_digest(self.graph.repo().digest()) }
    }

    pub(crate) fn head(&self) -> CommitId {
        self.state().branches[&self.branch].head.unwrap()
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        (0..self.graph.len()).map(|place| self.graph.at(place).clone()).collect()
    }

    /// Takes in everything another replica has.
    pub(crate) fn merge(&mut self, other: &Self) {
        for operation in other.operations() {
            self.graph.insert(operation).unwrap();
        }
    }

    /// Signs at the end of everything this replica has.
    pub(crate) fn say(&mut self, who: u8, body: Body) -> OperationId {
        let position = self.graph.position(person(who), 0);
        self.insert(Operation::sign(&key(who), position, body).unwrap())
    }

    /// Signs after `deps` only, as if nothing else had been seen; continues the last own operation among their
    /// past, so that it forks the author's chain when they have signed more since.
    pub(crate) fn say_after(&mut self, who: u8, deps: &[OperationId], body: Body) -> OperationId {
        let operation = sign_after(&self.graph, who, deps, body);
        self.insert(operation)
    }

    fn insert(&mut self, operation: Operation) -> OperationId {
        let id = operation.id();
        self.graph.insert(operation).unwrap();
        id
    }

    pub(crate) fn grant(&mut self, who: u8, role: Role) -> OperationId {
        self.say(DELEGATE, grant(who, role))
    }

    pub(crate) fn revoke(&mut self, who: u8, keep: &[OperationId]) -> OperationId {
        self.say(DELEGATE, revoke(who, keep))
    }

    /// Proposes the policy in force with a change.
    pub(crate) fn propose(&mut self, who: u8, change: impl FnOnce(&mut Policy)) -> OperationId {
        let body = revision(&self.state(), change);
        self.say(who, body)
    }

    pub(crate) fn approve(&mut self, who: u8, revision: OperationId) -> OperationId {
        self.say(who, Body::Approve(Approve { revision }))
    }

    pub(crate) fn resolve(&mut self, who: u8, revision: OperationId, round: u64) -> OperationId {
        self.say(who, Body::Resolve(Resolve { revision, round }))
    }

    pub(crate) fn review(&mut self, who: u8, commit: CommitId, judgement: Judgement) -> OperationId {
        self.say(who, review(commit, judgement))
    }

    /// Says that `who` measured `auc` of a commit and of its base.
    pub(crate) fn evaluate(&mut self, who: u8, commit: CommitId, auc: f64, before: f64) -> OperationId {
        let base = self.state().commits.get(&commit).and_then(|info| info.commit.base());
        self.say(who, evaluation(commit, base, &[("auc", auc, before)]))
    }

    pub(crate) fn invite(&mut self, uses: u64) -> OperationId {
        let invite = Invite { key: person(200), role: Role::Contributor, uses, label: String::new() };
        self.say(DELEGATE, Body::Invite(invite))
    }

    pub(crate) fn create(&mut self, name: &str, from: Option<CommitId>) -> BranchId {
        let create = BranchCreate { name: name.into(), from };
        BranchId::from_digest(self.say(DELEGATE, Body::BranchCreate(create)).digest())
    }

    pub(crate) fn rename(&mut self, branch: BranchId, name: &str) {
        self.say(DELEGATE, Body::BranchRename(BranchRename { branch, name: name.into() }));
    }

    pub(crate) fn delete(&mut self, branch: BranchId) -> OperationId {
        self.say(DELEGATE, Body::BranchDelete(BranchDelete { branch }))
    }

    pub(crate) fn initial(&mut self, who: u8, branch: BranchId, number: u64) -> CommitId {
        self.publish(who, initial(who, branch, number), None)
    }

    /// An update by `who` on `base`; `number` makes it different from others.
    pub(crate) fn update(&mut self, who: u8, base: CommitId, number: u64) -> CommitId {
        let architecture = self.architecture(base);
        let mut commit = update(who, self.branch, base, number);
        if let Commit::Update(update) = &mut commit {
            update.architecture = architecture;
        }
        self.publish(who, commit, None)
    }

    pub(crate) fn aggregate(&mut self, who: u8, parent: CommitId, inputs: &[CommitId]) -> CommitId {
        self.publish(who, aggregate(self, parent, inputs), Some(outcome(0)))
    }

    /// A revert of the head to `target` by `who`.
    pub(crate) fn revert(&mut self, who: u8, target: CommitId) -> CommitId {
        self.step(who, self.head(), Change::Revert { target })
    }

    /// A merge of `other` into the head by `who`, with result `number`.
    pub(crate) fn merge_in(&mut self, who: u8, other: CommitId, number: u64) -> CommitId {
        let commit = step(self, who, self.head(), merge(other));
        self.publish(who, commit, Some(outcome(number)))
    }

    /// A migration of the head to architecture `number`.
    pub(crate) fn migrate(&mut self, who: u8, number: u64) -> CommitId {
        self.step(who, self.head(), migrate(number))
    }

    /// What `who` made of some updates on the head.
    pub(crate) fn external(&mut self, who: u8, inputs: &[CommitId]) -> CommitId {
        let architecture = self.architecture(self.head());
        self.step(who, self.head(), external(inputs, architecture))
    }

    /// The architecture of a commit of the tree; asks the evaluator only where there is a choice.
    pub(crate) fn architecture(&self, commit: CommitId) -> ArchitectureId {
        let migrates = |operation: &Operation| match operation.body() {
            Body::Publish(publish) => publish.commit.kind() == "migrate",
            _ => false,
        };
        if !self.graph.iter().any(migrates) {
            return architecture(0);
        }
        self.state().described(commit).map_or(architecture(0), |described| described.architecture)
    }

    pub(crate) fn step(&mut self, who: u8, parent: CommitId, change: Change) -> CommitId {
        self.publish(who, step(self, who, parent, change), None)
    }

    /// What an honest node publishes next.
    pub(crate) fn aggregate_pending(&mut self, who: u8) -> CommitId {
        let next = self.state().next_inputs(self.branch).unwrap();
        self.aggregate(who, next.parent, &next.inputs)
    }

    pub(crate) fn publish(&mut self, who: u8, commit: Commit, result: Option<Outcome>) -> CommitId {
        let id = commit.id().unwrap();
        self.say(who, publish(commit, result));
        id
    }

    pub(crate) fn attest(&mut self, who: u8, commit: CommitId, result: u64) -> OperationId {
        self.say(who, Body::Attest(Attest { commit, result: outcome(result) }))
    }

    pub(crate) fn refute(&mut self, who: u8, commit: CommitId, claimed: u64, found: u64) -> OperationId {
        let (claimed, found) = (outcome(claimed), outcome(found));
        self.say(who, Body::Refute(Refute { commit, claimed, found }))
    }

    /// Everybody in `who` trains on the head, and `by` aggregates: gives the new head.
    pub(crate) fn round(&mut self, who: &[u8], by: u8, number: u64) -> CommitId {
        let head = self.head();
        for one in who {
            self.update(*one, head, number);
        }
        let aggregate = self.aggregate_pending(by);
        assert_eq!(self.head(), aggregate);
        aggregate
    }
}

/// Signs an operation that follows `deps` and the author's last operation in their past.
pub(crate) fn sign_after(graph: &Graph, who: u8, deps: &[OperationId], body: Body) -> Operation {
    let past = graph.past(deps.iter().map(|dep| graph.place(*dep).unwrap()));
    let own = (0..graph.len()).filter(|place| past[*place] && graph.at(*place).author() == person(who));
    let prev = own.max_by_key(|place| graph.at(*place).header().seq).map(|place| graph.at(place));
    let mut deps = deps.to_vec();
    deps.extend(prev.map(Operation::id));
    let lamport = deps.iter().map(|dep| graph.get(*dep).unwrap().header().lamport).max();
    let position = Position {
        repo: Some(graph.repo()),
        seq: prev.map_or(0, |prev| prev.header().seq + 1),
        prev: prev.map(Operation::id),
        deps,
        lamport: lamport.map_or(0, |lamport| lamport + 1),
        policy: OperationId::from_digest(graph.repo().digest()),
        time: 0,
    };
    Operation::sign(&key(who), position, body).unwrap()
}

pub(crate) fn grant(who: u8, role: Role) -> Body {
    Body::Grant(Grant {
        person: person(who),
        role,
        name: format!("person {who}"),
        invite: None,
        approval: None,
    })
}

pub(crate) fn review(commit: CommitId, judgement: Judgement) -> Body {
    Body::Review(Review { commit, judgement, text: "words".into() })
}

/// Metrics of which more is better: name, value, value of the base.
pub(crate) fn evaluation(commit: CommitId, base: Option<CommitId>, metrics: &[(&str, f64, f64)]) -> Body {
    let metrics = metrics.iter().map(|(name, value, before)| Measured {
        name: (*name).into(),
        better: Better::Higher,
        value: *value,
        base: base.map(|_| *before),
    });
    let (set, data) = ("holdout".into(), digest("data"));
    let code = Some(digest("code"));
    Body::Evaluate(Box::new(Evaluation { commit, base, set, n: 412, metrics: metrics.collect(), data, code }))
}

/// That `from` others measured an `auc` of at least the base's and `more`.
pub(crate) fn requirement(more: f64, from: u32) -> Requirement {
    let value = Number::new(more).unwrap();
    Requirement { metric: "auc".into(), bound: Bound::AtLeast, base: true, value, from }
}

/// The keys of several people, ascending, as a policy lists its delegates.
pub(crate) fn people(who: &[u8]) -> Vec<PersonId> {
    let mut people: Vec<PersonId> = who.iter().map(|who| person(*who)).collect();
    people.sort_unstable();
    people
}

/// The policy in force with a change.
pub(crate) fn revision(state: &State, change: impl FnOnce(&mut Policy)) -> Body {
    let mut policy = state.policy.clone().unwrap();
    change(&mut policy);
    policy.delegates.sort_unstable();
    let (parent, version) = (state.revision(), state.chain.len() as u64);
    let (policy, cuts, reason) = (Stated::Known(policy), Vec::new(), String::new());
    Body::Revision(Box::new(Revision { parent, version, policy, cuts, reason }))
}

/// The same, and somebody is cut off.
pub(crate) fn cutting(state: &State, who: u8, keep: &[OperationId]) -> Body {
    let gone = person(who);
    let mut body = revision(state, |policy| policy.delegates.retain(|delegate| *delegate != gone));
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    if let Body::Revision(revision) = &mut body {
        revision.cuts = vec![Cut { person: gone, keep }];
    }
    body
}

pub(crate) fn revoke(who: u8, keep: &[OperationId]) -> Body {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    Body::Revoke(Revoke { person: person(who), keep, reason: String::new() })
}

pub(crate) fn publish(commit: Commit, result: Option<Outcome>) -> Body {
    let (mut pack, mut pack_bytes) = (digest("pack"), 1_000);
    if commit.step().is_some_and(Step::is_bare) {
        (pack, pack_bytes) = (Digest::from_bytes([0; 32]), 0);
    }
    let (id, pack) = (commit.id().unwrap(), PackId::from_digest(pack));
    Body::Publish(Box::new(Publish { id, commit, pack, pack_bytes, result }))
}

pub(crate) fn initial(who: u8, branch: BranchId, number: u64) -> Commit {
    Commit::Initial(Initial {
        author: person(who),
        branch,
        model: outcome(number).model,
        architecture: architecture(0),
        bytes: 4,
        message: format!("first {number}"),
        ext: Extensions::new(),
    })
}

pub(crate) fn update(who: u8, branch: BranchId, base: CommitId, number: u64) -> Commit {
    Commit::Update(Box::new(Update {
        author: person(who),
        branch,
        base,
        base_model: outcome(0).model,
        content: Content::Model(ModelId::from_digest(digest((who, base, number)))),
        architecture: architecture(0),
        bytes: 4,
        training: Training { examples: 10, ..Training::default() },
        privacy: None,
        metrics: Vec::new(),
        message: format!("update {number}"),
        ext: Extensions::new(),
    }))
}

pub(crate) fn aggregate(world: &World, parent: CommitId, inputs: &[CommitId]) -> Commit {
    let mut inputs = inputs.to_vec();
    inputs.sort_unstable();
    inputs.dedup();
    Commit::Aggregate(Aggregate {
        repo: world.graph.repo(),
        branch: world.branch,
        parent,
        inputs,
        policy: world.revision(),
        mode: flair_protocol::commit::MODE.into(),
        kernel: flair_protocol::commit::KERNEL,
    })
}

pub(crate) fn migrate(number: u64) -> Change {
    let (model, architecture) = (ModelId::from_digest(digest(("migrated", number))), architecture(number));
    Change::Migrate(Described { model, architecture, bytes: 8 })
}

pub(crate) fn merge(other: CommitId) -> Change {
    Change::Merge(Merge {
        other,
        method: "ties".into(),
        settings: [("density".to_owned(), "0.2".to_owned())].into(),
        mode: flair_protocol::commit::MODE.into(),
        kernel: flair_protocol::commit::KERNEL,
    })
}

pub(crate) fn external(inputs: &[CommitId], architecture: ArchitectureId) -> Change {
    let mut inputs = inputs.to_vec();
    inputs.sort_unstable();
    inputs.dedup();
    let model = ModelId::from_digest(digest(("external", &inputs)));
    Change::External(External { inputs, engine: "flower 1.41 FedAdam".into(), model, architecture, bytes: 4 })
}

pub(crate) fn step(world: &World, who: u8, parent: CommitId, change: Change) -> Commit {
    Commit::Step(Box::new(Step {
        author: person(who),
        branch: world.branch,
        parent,
        policy: world.revision(),
        change,
        message: "what is decided".into(),
        ext: Extensions::new(),
    }))
}
