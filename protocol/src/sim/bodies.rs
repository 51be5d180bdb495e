//! Small valid bodies of operations.

use std::collections::BTreeMap;

use crate::cbor::CborError;
use crate::commit::{Aggregate, Commit, Content, Initial, Outcome, Training, Update};
use crate::id::{ArchitectureId, BranchId, CommitId, Digest, ModelId, OperationId, PackId, StateId};
use crate::key::PublicKey;
use crate::operation::Body;
use crate::operation::Kind;
use crate::operation::body::{BranchCreate, Genesis, Grant, Publish};
use crate::policy::{Policy, Role};

pub(super) fn genesis(delegate: PublicKey, seed: u64) -> Body {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&seed.to_le_bytes());
    let policy = Policy::standard(delegate);
    Body::Genesis(Genesis {
        name: "simulated".into(),
        nonce,
        policy,
        founder: String::new(),
        forked_from: None,
    })
}

pub(super) fn branch() -> Body {
    Body::BranchCreate(BranchCreate { name: "main".into(), from: None })
}

pub(super) fn grant(person: PublicKey) -> Body {
    Body::Grant(Grant { person, role: Role::Contributor, name: String::new(), invite: None, approval: None })
}

/// A kind that a later version may know.
pub(super) fn later(number: u64) -> Body {
    Body::Unknown(Kind::from_number(0x0201), number.to_le_bytes().to_vec())
}

pub(super) fn initial(author: PublicKey, branch: OperationId) -> Result<Body, CborError> {
    let branch = BranchId::from_digest(branch.digest());
    publish(Commit::Initial(Initial {
        author,
        branch,
        model: model(0),
        architecture: architecture(),
        bytes: 8,
        message: String::new(),
        ext: BTreeMap::new(),
    }))
}

pub(super) fn update(
    author: PublicKey,
    branch: OperationId,
    base: CommitId,
    number: u64,
) -> Result<Body, CborError> {
    publish(Commit::Update(Box::new(Update {
        author,
        branch: BranchId::from_digest(branch.digest()),
        base,
        base_model: model(0),
        content: Content::Model(model(number + 1)),
        architecture: architecture(),
        bytes: 8,
        training: Training::default(),
        privacy: None,
        metrics: Vec::new(),
        message: String::new(),
        ext: BTreeMap::new(),
    })))
}

/// An aggregate, with a result that everybody gets who runs it.
pub(super) fn aggregate(recipe: Aggregate) -> Result<Body, CborError> {
    let commit = Commit::Aggregate(recipe);
    let digest = commit.id()?.digest();
    let result = Outcome { model: ModelId::from_digest(digest), state: StateId::from_digest(digest) };
    published(commit, Some(result))
}

fn publish(commit: Commit) -> Result<Body, CborError> {
    published(commit, None)
}

fn published(commit: Commit, result: Option<Outcome>) -> Result<Body, CborError> {
    let id = commit.id()?;
    let pack = PackId::from_digest(id.digest());
    Ok(Body::Publish(Box::new(Publish { id, commit, pack, pack_bytes: 8, result })))
}

fn model(number: u64) -> ModelId {
    ModelId::from_digest(Digest::of(&number.to_le_bytes()))
}

fn architecture() -> ArchitectureId {
    ArchitectureId::from_digest(Digest::of(b"architecture"))
}
