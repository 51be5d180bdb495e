//! The repository as an automerge document: for reading, history, diffs and export.
//!
//! Every node builds it from the operations that have an effect, in (Lamport time, id) order, one change per
//! operation, so nodes with the same operations and the same version of automerge have the same document. Nothing
//! here is ever read by the evaluator, and no byte of a peer's reaches automerge, which authenticates nothing.
//!
//! ```text
//! repository, name
//! members   key         → name, role, granted, approval, revoked
//! branches  id          → name, creator, from, deleted
//! commits   id          → kind, branch, author, message, base | parent, model, target, operation, time, claims,
//!                         reviews, evaluations
//! labels    (empty)
//! ```

mod change;

use std::collections::BTreeMap;

use automerge::{AutomergeError, ObjType};

use crate::commit::{Change, Commit, Content, Outcome};
use crate::graph::Graph;
use crate::id::Digest;
use crate::operation::body::{Publish, Revision};
use crate::operation::evaluation::{Better, Evaluation};
use crate::operation::{Body, Operation};
use crate::state::State;
use change::{Object, ROOT, Writer};

/// The actor of every change: the document is derived, nobody writes it.
const ACTOR: &[u8] = b"flair";

/// A built document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The document as automerge saves it.
    pub bytes: Vec<u8>,
    /// Its heads, which agree between nodes with the same operations and the same version of automerge.
    pub heads: Vec<[u8; 32]>,
}

/// Automerge refused what we built.
#[derive(Debug, thiserror::Error)]
#[error("the repository document can't be built: {0}")]
pub struct DocumentError(#[from] AutomergeError);

/// Builds the document of an evaluated set.
///
/// # Errors
/// None in practice: every value written is a plain text, number or map.
pub fn build(graph: &Graph, state: &State) -> Result<Document, DocumentError> {
    let mut order: Vec<&Operation> = (0..graph.len()).map(|place| graph.at(place)).collect();
    order.retain(|operation| state.is_effective(operation.id()));
    order.sort_unstable_by_key(|operation| operation.order());
    let mut rooms = Rooms::new(state);
    for operation in order {
        rooms.write(operation);
        rooms.writer.commit(operation.id().to_string());
    }
    let mut document = rooms.writer.finish()?;
    let mut heads: Vec<[u8; 32]> = document.get_heads().into_iter().map(|head| head.0).collect();
    heads.sort_unstable();
    Ok(Document { bytes: document.save(), heads })
}

/// The rooms of the document and what is in them.
struct Rooms {
    writer: Writer,
    members: Object,
    branches: Object,
    commits: Object,
    policies: Object,
    objects: BTreeMap<String, Object>,
    claims: BTreeMap<String, Object>,
}

impl Rooms {
    fn new(state: &State) -> Self {
        let mut writer = Writer::new(ACTOR);
        writer.put(ROOT, "repository", state.repo.to_string());
        writer.put(ROOT, "name", state.name.as_str());
        let members = writer.make(ROOT, "members", ObjType::Map);
        let branches = writer.make(ROOT, "branches", ObjType::Map);
        let commits = writer.make(ROOT, "commits", ObjType::Map);
        writer.make(ROOT, "labels", ObjType::Map);
        let policies = writer.make(ROOT, "policies", ObjType::Map);
        Self {
            writer,
            members,
            branches,
            commits,
            policies,
            objects: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }

    /// The map of one member, branch or commit, made when it is first named.
    fn object(&mut self, room: Object, key: String) -> Object {
        if let Some(object) = self.objects.get(&key) {
            return *object;
        }
        let object = self.writer.make(room, &key, ObjType::Map);
        self.objects.insert(key, object);
        object
    }

    fn text(&mut self, object: Object, key: &str, text: impl Into<String>) {
        self.writer.put(object, key, text.into());
    }

    fn write(&mut self, operation: &Operation) {
        let author = operation.author();
        match operation.body() {
            Body::Genesis(genesis) => {
                for delegate in &genesis.policy.delegates {
                    let member = self.object(self.members, delegate.to_string());
                    self.text(member, "role", "delegate");
                }
            }
            Body::Grant(grant) => {
                let member = self.object(self.members, grant.person.to_string());
                self.text(member, "name", grant.name.as_str());
                self.text(member, "role", grant.role.name());
                self.text(member, "granted", operation.id().to_string());
                match &grant.approval {
                    Some(approval) => self.text(member, "approval", approval.reference.as_str()),
                    None => self.writer.delete(member, "approval"),
                }
                self.writer.delete(member, "revoked");
            }
            Body::Revoke(revoke) => {
                let member = self.object(self.members, revoke.person.to_string());
                self.text(member, "revoked", operation.id().to_string());
            }
            Body::Review(review) => {
                let reviews = self.said(review.commit.to_string(), "reviews");
                let said = self.writer.make(reviews, &operation.id().to_string(), ObjType::Map);
                self.text(said, "by", author.to_string());
                self.text(said, "says", format!("{:?}", review.judgement).to_lowercase());
                self.text(said, "text", review.text.as_str());
            }
            Body::Evaluate(evaluation) => self.evaluation(operation, evaluation),
            Body::Revision(revision) => self.revision(operation, revision),
            Body::Approve(approve) => {
                let policy = self.object(self.policies, approve.revision.to_string());
                self.text(policy, &format!("approved {author}"), operation.id().to_string());
            }
            Body::Resolve(resolve) => {
                let policy = self.object(self.policies, resolve.revision.to_string());
                self.text(policy, &format!("resolved {author}"), operation.id().to_string());
            }
            Body::BranchCreate(create) => {
                let branch = self.object(self.branches, operation.id().to_string());
                self.text(branch, "name", create.name.as_str());
                self.text(branch, "creator", author.to_string());
                if let Some(from) = create.from {
                    self.text(branch, "from", from.to_string());
                }
            }
            Body::BranchRename(rename) => {
                let branch = self.object(self.branches, rename.branch.to_string());
                self.text(branch, "name", rename.name.as_str());
            }
            Body::BranchDelete(delete) => {
                let branch = self.object(self.branches, delete.branch.to_string());
                self.writer.put(branch, "deleted", true);
            }
            Body::Publish(publish) => self.publish(operation, publish),
            Body::Attest(attest) => self.claim(operation, attest.commit.digest(), Some(attest.result)),
            Body::Refute(refute) => self.claim(operation, refute.commit.digest(), None),
            Body::Invite(_) | Body::Unknown(..) => {}
        }
    }

    fn revision(&mut self, operation: &Operation, revision: &Revision) {
        let policy = self.object(self.policies, operation.id().to_string());
        self.text(policy, "parent", revision.parent.to_string());
        self.text(policy, "proposer", operation.author().to_string());
        self.text(policy, "reason", revision.reason.as_str());
        let Some(stated) = revision.policy.known() else { return };
        self.text(policy, "threshold", stated.threshold.to_string());
        let delegates = self.writer.make(policy, "delegates", ObjType::List);
        self.writer.fill(delegates, stated.delegates.iter().map(|person| person.to_string().into()));
        self.text(policy, "aggregation", stated.aggregation.rule.as_str());
    }

    fn publish(&mut self, operation: &Operation, publish: &Publish) {
        let key = publish.id.to_string();
        if !self.objects.contains_key(&key) {
            let commit = self.object(self.commits, key);
            self.text(commit, "kind", publish.commit.kind());
            self.text(commit, "branch", publish.commit.branch().to_string());
            self.text(commit, "operation", operation.id().to_string());
            let time = i64::try_from(operation.header().time).unwrap_or(i64::MAX);
            self.writer.put(commit, "time", time);
            if let Some(author) = publish.commit.author() {
                self.text(commit, "author", author.to_string());
            }
            match &publish.commit {
                Commit::Initial(initial) => {
                    self.text(commit, "model", initial.model.to_string());
                    self.text(commit, "message", initial.message.as_str());
                }
                Commit::Update(update) => {
                    let Content::Model(model) = update.content;
                    self.text(commit, "base", update.base.to_string());
                    self.text(commit, "model", model.to_string());
                    self.text(commit, "message", update.message.as_str());
                }
                Commit::Step(step) => {
                    self.text(commit, "parent", step.parent.to_string());
                    self.text(commit, "message", step.message.as_str());
                    match &step.change {
                        Change::Revert { target } => self.text(commit, "target", target.to_string()),
                        Change::External(external) => {
                            self.text(commit, "model", external.model.to_string());
                            self.text(commit, "engine", external.engine.as_str());
                            let inputs = self.writer.make(commit, "inputs", ObjType::List);
                            self.writer
                                .fill(inputs, external.inputs.iter().map(|input| input.to_string().into()));
                        }
                        Change::Migrate(made) => self.text(commit, "model", made.model.to_string()),
                        Change::Merge(merge) => {
                            self.text(commit, "other", merge.other.to_string());
                            self.text(commit, "method", merge.method.as_str());
                        }
                    }
                }
                Commit::Aggregate(aggregate) => {
                    self.text(commit, "parent", aggregate.parent.to_string());
                    let inputs = self.writer.make(commit, "inputs", ObjType::List);
                    self.writer.fill(inputs, aggregate.inputs.iter().map(|input| input.to_string().into()));
                }
            }
        }
        if let Some(result) = publish.result {
            self.claim(operation, publish.id.digest(), Some(result));
        }
    }

    /// A map of what people say of a commit: `reviews` or `evaluations`.
    fn said(&mut self, commit: String, what: &str) -> Object {
        let key = format!("{commit} {what}");
        if let Some(said) = self.objects.get(&key) {
            return *said;
        }
        let commit = self.object(self.commits, commit);
        let said = self.writer.make(commit, what, ObjType::Map);
        self.objects.insert(key, said);
        said
    }

    fn evaluation(&mut self, operation: &Operation, evaluation: &Evaluation) {
        let all = self.said(evaluation.commit.to_string(), "evaluations");
        let one = self.writer.make(all, &operation.id().to_string(), ObjType::Map);
        self.text(one, "by", operation.author().to_string());
        self.text(one, "set", evaluation.set.as_str());
        self.writer.put(one, "n", i64::try_from(evaluation.n).unwrap_or(i64::MAX));
        self.text(one, "data", evaluation.data.to_string());
        if let Some(code) = evaluation.code {
            self.text(one, "code", code.to_string());
        }
        let metrics = self.writer.make(one, "metrics", ObjType::Map);
        for metric in &evaluation.metrics {
            let measured = self.writer.make(metrics, &metric.name, ObjType::Map);
            let better = match metric.better {
                Better::Higher => "higher",
                Better::Lower => "lower",
            };
            self.text(measured, "better", better);
            self.writer.put(measured, "value", metric.value);
            if let Some(base) = metric.base {
                self.writer.put(measured, "base", base);
            }
        }
    }

    /// Notes what somebody says of an aggregate's result: the model they got, or `refuted`.
    fn claim(&mut self, operation: &Operation, commit: Digest, result: Option<Outcome>) {
        let key = commit.to_string();
        let claims = if let Some(claims) = self.claims.get(&key) {
            *claims
        } else {
            let commit = self.object(self.commits, key.clone());
            let claims = self.writer.make(commit, "claims", ObjType::Map);
            self.claims.insert(key, claims);
            claims
        };
        let word = result.map_or_else(|| "refuted".to_owned(), |result| result.model.to_string());
        self.text(claims, &operation.author().to_string(), word);
    }
}
