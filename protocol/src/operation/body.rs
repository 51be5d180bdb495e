//! What operations say. A kind's high byte is the level at which it takes effect.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cbor::{self, CborError};
use crate::commit::{Commit, CommitError, Outcome, Step};
use crate::id::{BranchId, CommitId, Digest, OperationId, PackId, RepositoryId};
use crate::key::{PersonId, PublicKey};
use crate::limits;
use crate::operation::Header;
pub use crate::operation::approval::Approval;
use crate::operation::evaluation::Evaluation;
pub use crate::operation::review::{Judgement, Review};
use crate::policy::{Policy, PolicyError, Role};

/// What kind of body an operation has: level × 256 + number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(u16);

impl Kind {
    /// [`Genesis`].
    pub const GENESIS: Self = Self(0x0100);
    /// [`Grant`].
    pub const GRANT: Self = Self(0x0101);
    /// [`Revoke`].
    pub const REVOKE: Self = Self(0x0102);
    /// [`Invite`].
    pub const INVITE: Self = Self(0x0103);
    /// [`Revision`].
    pub const REVISION: Self = Self(0x0104);
    /// [`Approve`].
    pub const APPROVE: Self = Self(0x0105);
    /// [`Resolve`].
    pub const RESOLVE: Self = Self(0x0106);
    /// [`BranchCreate`].
    pub const BRANCH_CREATE: Self = Self(0x0110);
    /// [`BranchRename`].
    pub const BRANCH_RENAME: Self = Self(0x0111);
    /// [`BranchDelete`].
    pub const BRANCH_DELETE: Self = Self(0x0112);
    /// [`Publish`].
    pub const PUBLISH: Self = Self(0x0120);
    /// [`Attest`].
    pub const ATTEST: Self = Self(0x0121);
    /// [`Refute`].
    pub const REFUTE: Self = Self(0x0122);
    /// [`Review`].
    pub const REVIEW: Self = Self(0x0130);
    /// [`Evaluation`].
    pub const EVALUATE: Self = Self(0x0131);

    /// The policy level from which this kind takes effect.
    pub fn level(self) -> u64 {
        u64::from(self.0 >> 8)
    }

    /// The number as it stands on the wire.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The kind with this number, known or not.
    pub fn from_number(number: u16) -> Self {
        Self(number)
    }
}

/// The body of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A repository begins.
    Genesis(Genesis),
    /// A person gets a role.
    Grant(Grant),
    /// A person loses their role.
    Revoke(Revoke),
    /// Whoever holds the invite's secret may ask for a role.
    Invite(Invite),
    /// A change of the policy is proposed, and approved by who proposes it.
    Revision(Box<Revision>),
    /// A delegate approves a proposed revision.
    Approve(Approve),
    /// A delegate says which of two contradicting revisions stands.
    Resolve(Resolve),
    /// A branch begins.
    BranchCreate(BranchCreate),
    /// A branch gets another name.
    BranchRename(BranchRename),
    /// A branch is closed.
    BranchDelete(BranchDelete),
    /// A commit is published.
    Publish(Box<Publish>),
    /// The author ran a recipe and got this result.
    Attest(Attest),
    /// The author ran a recipe and did not get the claimed result.
    Refute(Refute),
    /// The author judges a commit.
    Review(Review),
    /// The author measured a commit on their own data.
    Evaluate(Box<Evaluation>),
    /// A kind of a later level: kept and relayed, not evaluated.
    Unknown(Kind, Vec<u8>),
}

/// The first operation; its id is the repository's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The repository's name, for people.
    pub name: String,
    /// Random bytes, so that two repositories of one name differ.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
    /// The first policy.
    pub policy: Policy,
    /// What to call the delegate who signs it, for people; may be empty.
    pub founder: String,
    /// The repository this one was forked from.
    pub forked_from: Option<RepositoryId>,
}

/// A person gets a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Who.
    pub person: PersonId,
    /// Which role.
    pub role: Role,
    /// What to call them, for people.
    pub name: String,
    /// The invite that was redeemed.
    pub invite: Option<OperationId>,
    /// What allows this person to take part, an ethics committee's say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// A person loses their role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Who.
    pub person: PersonId,
    /// The frontier that the revoker vouches for: that person's work up to here stays.
    pub keep: Vec<OperationId>,
    /// Why, for people.
    pub reason: String,
}

/// Whoever holds the secret half of `key` may ask for `role`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The public half of the invite's key.
    pub key: PublicKey,
    /// The role it gives.
    pub role: Role,
    /// How many persons may use it.
    pub uses: u64,
    /// For whom it is meant, for people.
    pub label: String,
}

/// A proposed change of the policy: the whole new policy. It is in force once as many delegates *of its parent* as
/// the parent's threshold says approved of it, the proposer included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The revision it changes: the genesis, or another revision.
    pub parent: OperationId,
    /// The parent's version and one; the genesis has version 0.
    pub version: u64,
    /// The new policy.
    pub policy: Stated,
    /// People whose roles end with it, in ascending order.
    pub cuts: Vec<Cut>,
    /// Why, for people.
    pub reason: String,
}

/// A policy as a revision states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stated {
    /// One of a level that this build knows.
    Known(Policy),
    /// One of a level above: kept and passed on as it is.
    Above {
        /// The level.
        level: u64,
        /// The policy's bytes.
        bytes: Vec<u8>,
    },
}

impl Stated {
    /// The policy, where this build knows its level.
    pub fn known(&self) -> Option<&Policy> {
        match self {
            Self::Known(policy) => Some(policy),
            Self::Above { .. } => None,
        }
    }

    /// The policy's level.
    pub fn level(&self) -> u64 {
        match self {
            Self::Known(policy) => policy.level,
            Self::Above { level, .. } => *level,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevisionWire {
    parent: OperationId,
    version: u64,
    level: u64,
    policy: ByteBuf,
    cuts: Vec<Cut>,
    reason: String,
}

/// Somebody loses their role by a quorum, and what they did beyond `keep` with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Who.
    pub person: PersonId,
    /// The frontier that the quorum vouches for: that person's work up to here stays, and nothing else.
    pub keep: Vec<OperationId>,
}

/// A delegate approves a proposed revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// The revision.
    pub revision: OperationId,
}

/// A delegate says which of several approved revisions of one parent stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The revision that is to stand.
    pub revision: OperationId,
    /// Counts attempts: the highest round in which exactly one revision has a quorum decides.
    pub round: u64,
}

/// A branch begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchCreate {
    /// The branch's name.
    pub name: String,
    /// The initial commit or aggregate it starts from; none when an initial commit follows.
    pub from: Option<CommitId>,
}

/// A branch gets another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchRename {
    /// The branch.
    pub branch: BranchId,
    /// Its new name.
    pub name: String,
}

/// A branch is closed: it is no longer listed and takes no more commits; nothing is erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchDelete {
    /// The branch.
    pub branch: BranchId,
}

/// A commit is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// The commit's id.
    pub id: CommitId,
    /// The commit.
    pub commit: Commit,
    /// Where its tensors are: the root of a pack.
    pub pack: PackId,
    /// Bytes that the pack's blobs take.
    pub pack_bytes: u64,
    /// For an aggregate: what the publisher got.
    pub result: Option<Outcome>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishWire {
    commit: ByteBuf,
    pack: PackId,
    pack_bytes: u64,
    result: Option<Outcome>,
}

/// The author ran the recipe and got this result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attest {
    /// The aggregate.
    pub commit: CommitId,
    /// What came out.
    pub result: Outcome,
}

/// The author ran the recipe and got another result than claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refute {
    /// The aggregate.
    pub commit: CommitId,
    /// The claim that does not hold.
    pub claimed: Outcome,
    /// What came out.
    pub found: Outcome,
}

/// Why a body was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// Size or encoding.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The commit inside does not hold.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The policy inside does not hold.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A name is empty, too long, or has characters that confuse people.
    #[error(
        "`{0}` can't be a name: 1 to 100 letters, digits, spaces or `. _ - / @ ( )`, not starting with `-`"
    )]
    Name(String),
    /// The commit names another author than the one who signs.
    #[error(
        "the commit's author is {commit}, but {signer} signed: nobody can publish another's work as their own"
    )]
    Author {
        /// Who the commit says made it.
        commit: PublicKey,
        /// Who signed the operation.
        signer: PublicKey,
    },
    /// Another rule is broken.
    #[error("{0}")]
    Rule(&'static str),
}

impl Body {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Genesis(_) => Kind::GENESIS,
            Self::Grant(_) => Kind::GRANT,
            Self::Revoke(_) => Kind::REVOKE,
            Self::Invite(_) => Kind::INVITE,
            Self::Revision(_) => Kind::REVISION,
            Self::Approve(_) => Kind::APPROVE,
            Self::Resolve(_) => Kind::RESOLVE,
            Self::BranchCreate(_) => Kind::BRANCH_CREATE,
            Self::BranchRename(_) => Kind::BRANCH_RENAME,
            Self::BranchDelete(_) => Kind::BRANCH_DELETE,
            Self::Publish(_) => Kind::PUBLISH,
            Self::Attest(_) => Kind::ATTEST,
            Self::Refute(_) => Kind::REFUTE,
            Self::Review(_) => Kind::REVIEW,
            Self::Evaluate(_) => Kind::EVALUATE,
            Self::Unknown(kind, _) => *kind,
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// A metric that is NaN or infinite.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        match self {
            Self::Genesis(body) => cbor::encode("genesis", body),
            Self::Grant(body) => cbor::encode("grant", body),
            Self::Revoke(body) => cbor::encode("revocation", body),
            Self::Invite(body) => cbor::encode("invite", body),
            Self::Revision(body) => {
                let policy = match &body.policy {
                    Stated::Known(policy) => cbor::encode("policy", policy)?,
                    Stated::Above { bytes, .. } => bytes.clone(),
                };
                let wire = RevisionWire {
                    parent: body.parent,
                    version: body.version,
                    level: body.policy.level(),
                    policy: ByteBuf::from(policy),
                    cuts: body.cuts.clone(),
                    reason: body.reason.clone(),
                };
                cbor::encode("policy revision", &wire)
            }
            Self::Approve(body) => cbor::encode("approval", body),
            Self::Resolve(body) => cbor::encode("resolution", body),
            Self::BranchCreate(body) => cbor::encode("branch", body),
            Self::BranchRename(body) => cbor::encode("branch name", body),
            Self::BranchDelete(body) => cbor::encode("branch deletion", body),
            Self::Publish(body) => {
                let commit = ByteBuf::from(body.commit.encode()?);
                let Publish { pack, pack_bytes, result, .. } = **body;
                cbor::encode("publish operation", &PublishWire { commit, pack, pack_bytes, result })
            }
            Self::Attest(body) => cbor::encode("attestation", body),
            Self::Refute(body) => cbor::encode("refutation", body),
            Self::Review(body) => cbor::encode("review", body),
            Self::Evaluate(body) => cbor::encode("evaluation", body),
            Self::Unknown(_, bytes) => Ok(bytes.clone()),
        }
    }

    /// Reads a body of `kind`.
    ///
    /// # Errors
    /// Size, encoding, and the bounds of a commit inside.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, BodyError> {
        let limit = limits::BODY;
        Ok(match kind {
            Kind::GENESIS => Self::Genesis(cbor::decode("genesis", bytes, limit)?),
            Kind::GRANT => Self::Grant(cbor::decode("grant", bytes, limit)?),
            Kind::REVOKE => Self::Revoke(cbor::decode("revocation", bytes, limit)?),
            Kind::INVITE => Self::Invite(cbor::decode("invite", bytes, limit)?),
            Kind::REVISION => {
                let wire: RevisionWire = cbor::decode("policy revision", bytes, limit)?;
                let RevisionWire { parent, version, level, policy, cuts, reason } = wire;
                let policy = if level > limits::LEVEL {
                    Stated::Above { level, bytes: policy.into_vec() }
                } else {
                    Stated::Known(cbor::decode("policy", &policy, limit)?)
                };
                if policy.level() != level {
                    return Err(BodyError::Rule("the revision's level is not its policy's"));
                }
                Self::Revision(Box::new(Revision { parent, version, policy, cuts, reason }))
            }
            Kind::APPROVE => Self::Approve(cbor::decode("approval", bytes, limit)?),
            Kind::RESOLVE => Self::Resolve(cbor::decode("resolution", bytes, limit)?),
            Kind::BRANCH_CREATE => Self::BranchCreate(cbor::decode("branch", bytes, limit)?),
            Kind::BRANCH_RENAME => Self::BranchRename(cbor::decode("branch name", bytes, limit)?),
            Kind::BRANCH_DELETE => Self::BranchDelete(cbor::decode("branch deletion", bytes, limit)?),
            Kind::PUBLISH => {
                let wire: PublishWire = cbor::decode("publish operation", bytes, limit)?;
                let commit = Commit::decode(&wire.commit)?;
                let id = CommitId::from_digest(Digest::of(&wire.commit));
                let PublishWire { pack, pack_bytes, result, .. } = wire;
                Self::Publish(Box::new(Publish { id, commit, pack, pack_bytes, result }))
            }
            Kind::ATTEST => Self::Attest(cbor::decode("attestation", bytes, limit)?),
            Kind::REFUTE => Self::Refute(cbor::decode("refutation", bytes, limit)?),
            Kind::REVIEW => Self::Review(cbor::decode("review", bytes, limit)?),
            Kind::EVALUATE => Self::Evaluate(cbor::decode("evaluation", bytes, limit)?),
            _ if bytes.len() > limit => {
                return Err(CborError::Size { what: "operation body", size: bytes.len(), limit }.into());
            }
            _ => Self::Unknown(kind, bytes.to_vec()),
        })
    }

    /// Checks what this body alone, signed under `header`, must satisfy.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self, header: &Header) -> Result<(), BodyError> {
        match self {
            Self::Genesis(body) => {
                name(&body.name)?;
                if !body.founder.is_empty() {
                    name(&body.founder)?;
                }
                body.policy.validate()?;
                if !body.policy.delegates.contains(&header.author) {
                    return Err(BodyError::Rule("the genesis must be signed by a delegate it names"));
                }
                Ok(())
            }
            Self::Grant(body) => {
                if body.role == Role::Delegate {
                    return Err(BodyError::Rule("delegates are named by the policy, not by a grant"));
                }
                body.approval.as_ref().map_or(Ok(()), Approval::validate)?;
                if body.name.is_empty() { Ok(()) } else { name(&body.name) }
            }
            Self::Revoke(body) => {
                keep(&body.keep)?;
                reason(&body.reason)
            }
            Self::Revision(body) => {
                let delegates = body.policy.known().map_or(&[][..], |policy| policy.delegates.as_slice());
                if let Stated::Known(policy) = &body.policy {
                    policy.validate()?;
                }
                if body.cuts.len() > limits::CUTS || !body.cuts.is_sorted_by(|a, b| a.person < b.person) {
                    return Err(BodyError::Rule("`cuts` must list at most 64 persons in ascending order"));
                }
                if body.cuts.iter().any(|cut| delegates.contains(&cut.person)) {
                    return Err(BodyError::Rule("a revision can't cut somebody whom it names as a delegate"));
                }
                body.cuts.iter().try_for_each(|cut| keep(&cut.keep))?;
                reason(&body.reason)
            }
            Self::Invite(body) => {
                if body.role == Role::Delegate {
                    return Err(BodyError::Rule("an invite can't make a delegate"));
                }
                if body.uses == 0 || body.uses > limits::INVITE_USES {
                    return Err(BodyError::Rule("an invite has 1 to 10,000 uses"));
                }
                if body.label.is_empty() { Ok(()) } else { name(&body.label) }
            }
            Self::BranchCreate(body) => branch_name(&body.name),
            Self::BranchRename(body) => branch_name(&body.name),
            Self::Publish(body) => {
                body.commit.validate()?;
                if let Some(author) = body.commit.author().filter(|author| *author != header.author) {
                    return Err(BodyError::Author { commit: author, signer: header.author });
                }
                let bare = body.commit.step().is_some_and(Step::is_bare);
                if bare && (body.pack.digest() != Digest::from_bytes([0; 32]) || body.pack_bytes != 0) {
                    return Err(BodyError::Rule("a revert has no pack of its own"));
                }
                match (&body.commit, body.result) {
                    (Commit::Aggregate(aggregate), Some(_)) if aggregate.repo == header.repo => Ok(()),
                    (Commit::Aggregate(_), Some(_)) => {
                        Err(BodyError::Rule("the aggregate belongs to another repository"))
                    }
                    (Commit::Aggregate(_), None) => Err(BodyError::Rule("an aggregate needs a result")),
                    (commit, None) if commit.is_recipe() => Err(BodyError::Rule("a merge needs a result")),
                    (_, None) => Ok(()),
                    (commit, Some(_)) if commit.is_recipe() => Ok(()),
                    (_, Some(_)) => Err(BodyError::Rule("only an aggregate or a merge has a result")),
                }
            }
            Self::Review(body) => body.validate(),
            Self::Evaluate(body) => body.validate(),
            Self::Approve(_)
            | Self::Resolve(_)
            | Self::BranchDelete(_)
            | Self::Attest(_)
            | Self::Refute(_)
            | Self::Unknown(..) => Ok(()),
        }
    }
}

fn keep(frontier: &[OperationId]) -> Result<(), BodyError> {
    if frontier.len() > limits::DEPS || !frontier.is_sorted_by(|a, b| a < b) {
        return Err(BodyError::Rule("`keep` must list at most 16 operations in ascending order"));
    }
    Ok(())
}

fn reason(text: &str) -> Result<(), BodyError> {
    if text.len() > limits::MESSAGE {
        return Err(BodyError::Rule("the reason is longer than 16 KiB"));
    }
    Ok(())
}

/// Checks a name that people will read in lists and on terminals.
///
/// # Errors
/// [`BodyError::Name`].
pub fn name(text: &str) -> Result<(), BodyError> {
    let fits = |c: char| c.is_alphanumeric() || " ._-/@()".contains(c);
    let length = text.chars().count();
    let trimmed = text.trim() == text && !text.starts_with('-');
    if length == 0 || length > limits::NAME || !trimmed || !text.chars().all(fits) {
        return Err(BodyError::Name(text.chars().take(120).filter(|c| !c.is_control()).collect()));
    }
    Ok(())
}

/// Checks a branch's name: as [`name`], without spaces.
///
/// # Errors
/// [`BodyError::Name`].
pub fn branch_name(text: &str) -> Result<(), BodyError> {
    name(text)?;
    if text.contains(' ') {
        return Err(BodyError::Name(text.to_owned()));
    }
    Ok(())
}
