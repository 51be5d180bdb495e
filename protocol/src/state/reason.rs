//! Why an operation or a commit does not count, in words for people.

use serde::Serialize;

use crate::id::{CommitId, OperationId};
use crate::limits;

/// Why an operation has no standing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Void {
    /// The author never held a role in the operation's own past.
    #[error("its author held no role when they signed it")]
    Stranger,
    /// The operation's own past holds the revocation of its author.
    #[error("its author was revoked by operation {} before they signed it", .0.short())]
    Revoked(OperationId),
    /// The author was revoked by somebody who had not seen this operation: back-dated, or honest and concurrent.
    #[error("its author was revoked by operation {}, whose signer had not seen this one", .0.short())]
    Quarantined(OperationId),
    /// The author signed two operations with one number, this one at or after them.
    #[error(
        "its author signed two different operations numbered {0}; nothing of theirs from there on counts"
    )]
    Equivocation(u64),
    /// The operation follows a policy revision that its author had not seen.
    #[error("it follows policy revision {}, which is none in its own past", .0.short())]
    Policy(OperationId),
}

/// Why an operation by somebody with standing has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum NoEffect {
    /// A kind number that nobody was given at the repository's level.
    #[error("operations of kind {0} do nothing at this repository's level")]
    Kind(u16),
    /// Only a delegate may do this.
    #[error("only a delegate may do this")]
    NotDelegate,
    /// Only a maintainer or a delegate may do this.
    #[error("only a maintainer or a delegate may do this")]
    NotMaintainer,
    /// Readers don't publish.
    #[error("a reader can't publish: ask a maintainer for the role of contributor")]
    Reader,
    /// Verifiers don't publish.
    #[error("a verifier can't publish: ask a maintainer for the role of contributor")]
    Verifier,
    /// A grant or revocation that concerns somebody, or gives a role, not ranked below the signer.
    #[error(
        "only somebody of a higher rank gives or takes this role: delegates for maintainers, the policy for delegates"
    )]
    Rank,
    /// The signer changed this person's role too often.
    #[error("its author granted or revoked this person's role {limit} times before", limit = limits::CHANGES)]
    Changes,
    /// The policy revision named is not a known one that the author had seen.
    #[error("it names policy revision {}, which is none in its own past", .0.short())]
    Revision(OperationId),
    /// A revision that does not follow its parent.
    #[error("it calls itself version {found} of the policy, but follows version {parent}")]
    Version {
        /// Its version.
        found: u64,
        /// The parent's.
        parent: u64,
    },
    /// The repository is full.
    #[error("the repository has {limit} members already", limit = limits::MEMBERS)]
    Members,
    /// There are enough branches.
    #[error("the repository has {limit} branches already", limit = limits::BRANCHES)]
    Branches,
    /// The author published the commit several times before.
    #[error("its author published this commit {limit} times before", limit = limits::PUBLICATIONS)]
    Again,
    /// The branch does not exist in the operation's own past.
    #[error("it names a branch that does not exist")]
    Branch,
    /// The branch was deleted before.
    #[error("its branch was deleted")]
    Deleted,
    /// The branch has its first model already.
    #[error("the branch has its first commit already")]
    NotFirst,
    /// The base is not a valid commit that the author had seen.
    #[error("its base {} is not a valid commit in its own past", .0.short())]
    Base(CommitId),
    /// The base is not on the branch.
    #[error("its base {} is not on its branch: pull, and train again from there", .0.short())]
    ForeignBase(CommitId),
    /// The base is somebody else's update.
    #[error("its base {} is another person's update: start from an aggregate or an own update", .0.short())]
    OthersUpdate(CommitId),
    /// The model has another architecture.
    #[error("its model has another architecture than the branch: other names, shapes or types of tensors")]
    Architecture,
    /// Too many own updates on one another.
    #[error("it stands on more than {limit} own updates that were not aggregated: pull first", limit = limits::CHAIN)]
    Chain,
    /// The recipe follows a policy revision that is not in force, or older than its parent's.
    #[error("its recipe follows policy revision {}, which is not in force or older than its parent's", .0.short())]
    Policy(OperationId),
    /// The recipe needs another kernel.
    #[error("its recipe needs kernel version {0}, which is not known here")]
    Kernel(u64),
    /// The parent is not a valid commit that the publisher had seen.
    #[error("its parent {} is not a valid commit in its own past", .0.short())]
    Parent(CommitId),
    /// The parent is not on the branch.
    #[error("its parent {} is not on its branch", .0.short())]
    ForeignParent(CommitId),
    /// An input is not a valid update that the publisher had seen.
    #[error("its input {} is not a valid update of the branch in its own past", .0.short())]
    Input(CommitId),
    /// An input of another architecture than the parent's.
    #[error("its input {} has another architecture than its parent: the branch was migrated between them", .0.short())]
    Migrated(CommitId),
    /// An input was taken in further up.
    #[error("its input {} was aggregated before on the same path", .0.short())]
    Consumed(CommitId),
    /// An input stands on an own update that is neither in the path nor among the inputs.
    #[error("its input {} stands on an update that is not aggregated with it or before it", .0.short())]
    Unsupported(CommitId),
    /// An input is too far behind.
    #[error("its input {} is {behind} aggregates behind; the policy allows {most}", input.short())]
    Stale {
        /// The input.
        input: CommitId,
        /// Its staleness.
        behind: u32,
        /// The policy's limit.
        most: u32,
    },
    /// An input of a protected branch without enough accepts in the aggregate's own past.
    #[error("its input {} has {found} of the {needed} accepts that the branch asks for", input.short())]
    Unreviewed {
        /// The input.
        input: CommitId,
        /// Accepts in the aggregate's past.
        found: u32,
        /// Accepts that the branch asks for.
        needed: u32,
    },
    /// An input of a protected branch without enough evaluations in the aggregate's own past.
    #[error(
        "its input {} meets a requirement of the branch by the evaluations of {found} of the {needed} persons it asks for",
        input.short()
    )]
    Unevaluated {
        /// The input.
        input: CommitId,
        /// Persons whose evaluations meet it in the aggregate's past.
        found: u32,
        /// Persons that the requirement asks for.
        needed: u32,
    },
    /// The commit reviewed or evaluated was not published in the operation's own past.
    #[error("it judges commit {}, which was not published in its own past", .0.short())]
    Unseen(CommitId),
    /// An evaluation that compares with another commit than the base.
    #[error("it compares commit {} with something that is not its base", .0.short())]
    Against(CommitId),
    /// The author evaluated the commit often enough.
    #[error("its author evaluated this commit {limit} times before", limit = limits::EVALUATIONS)]
    Evaluations,
    /// The author reviewed the commit often enough.
    #[error("its author reviewed this commit {limit} times before", limit = limits::REVIEWS)]
    Reviews,
    /// A revert to something that is not above its parent.
    #[error("{} is not an ancestor of its parent", .0.short())]
    Target(CommitId),
    /// What is merged is not a valid commit that the publisher had seen.
    #[error("what it merges, {}, is not a first commit, aggregate or step that is valid in its own past", .0.short())]
    Other(CommitId),
    /// What is merged is above the parent already.
    #[error("what it merges, {}, is in its parent's history already", .0.short())]
    Merged(CommitId),
    /// What is merged has nothing in common with the parent.
    #[error(
        "what it merges, {}, has no ancestor in common with its parent, or more than {limit} commits came since",
        .0.short(), limit = limits::APART
    )]
    Unrelated(CommitId),
    /// Too few persons.
    #[error("its inputs are by {found} persons; the policy asks for {needed}")]
    Persons {
        /// Persons among the inputs.
        found: u32,
        /// Persons needed.
        needed: u32,
    },
    /// The aggregate judged is not a valid one that the author had seen.
    #[error("aggregate {} is not a valid one in its own past", .0.short())]
    Aggregate(CommitId),
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It counts.
    Full,
    /// Its author has standing, but it does not do what it says.
    None(NoEffect),
    /// It counts for nothing.
    Void(Void),
}

impl Effect {
    /// Whether it counts.
    pub fn is_full(self) -> bool {
        self == Self::Full
    }
}

/// Why a valid update can't be aggregated into a branch's head any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// Too far behind.
    #[error("it is {behind} aggregates behind; the policy allows {most}: pull, and train again")]
    Stale {
        /// Its staleness.
        behind: u32,
        /// The policy's limit.
        most: u32,
    },
    /// It stands on an own update that can't be aggregated any more.
    #[error("it stands on update {}, which can't be aggregated any more: pull, and train again", .0.short())]
    Unsupported(CommitId),
    /// No common ancestor with the head.
    #[error("it has no common ancestor with the head: pull, and train again")]
    Foreign,
    /// The head has another architecture.
    #[error("the branch was migrated to another architecture: pull, and train again")]
    Migrated,
    /// The branch was deleted.
    #[error("its branch was deleted")]
    Deleted,
}

/// Where an update stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateStatus {
    /// It is in the head's path, taken in by this aggregate.
    InHead {
        /// The aggregate.
        aggregate: CommitId,
    },
    /// It was in the head's model until a revert took it out.
    Reverted {
        /// The aggregate that took it in.
        aggregate: CommitId,
        /// The revert.
        revert: CommitId,
    },
    /// It waits to be aggregated.
    Pending {
        /// Aggregates it is behind.
        staleness: u32,
    },
    /// It waits for accepts by maintainers, or for evaluations by others: its branch is protected.
    Waiting {
        /// Accepts it has.
        accepts: u32,
        /// Accepts that the branch asks for.
        needed: u32,
    },
    /// It can't be aggregated any more.
    Dropped {
        /// Why.
        why: Dropped,
    },
    /// It was published without standing.
    Void {
        /// Why.
        why: Void,
    },
    /// It breaks a rule.
    NoEffect {
        /// Which.
        why: NoEffect,
    },
}
