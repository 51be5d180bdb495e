//! The canonical export of evaluated state, and its fingerprint.

use serde::Serialize;

use super::State;
use crate::cbor;
use crate::commit::Outcome;
use crate::id::{BranchId, CommitId, Digest, OperationId, RepositoryId};
use crate::key::{PersonId, PublicKey};
use crate::policy::{Policy, Role};

const EXPORT_TAG: &str = "flair/state-export/2";

/// Everything that nodes must agree on, in the order of ids.
#[derive(Serialize)]
struct Export<'a> {
    repo: RepositoryId,
    name: &'a str,
    policy: &'a Option<Policy>,
    chain: &'a [OperationId],
    frozen: &'a [OperationId],
    members: Vec<MemberRow<'a>>,
    invites: Vec<InviteRow>,
    branches: Vec<BranchRow<'a>>,
    commits: Vec<CommitRow>,
    void: Vec<OperationId>,
    idle: Vec<OperationId>,
    above: &'a [OperationId],
    equivocations: Vec<EquivocationRow>,
}

#[derive(Serialize)]
struct MemberRow<'a> {
    person: PersonId,
    role: Role,
    name: &'a str,
    granted: Option<OperationId>,
    revoked: Option<OperationId>,
}

#[derive(Serialize)]
struct InviteRow {
    id: OperationId,
    role: Role,
    uses: u64,
    used: u64,
}

#[derive(Serialize)]
struct BranchRow<'a> {
    id: BranchId,
    name: &'a str,
    root: Option<CommitId>,
    head: Option<CommitId>,
    pending: &'a [CommitId],
    waiting: &'a [CommitId],
    dropped: Vec<CommitId>,
    #[serde(skip_serializing_if = "<[CommitId]>::is_empty")]
    proposed: &'a [CommitId],
    deleted: bool,
}

#[derive(Serialize)]
struct CommitRow {
    id: CommitId,
    result: Option<Outcome>,
    skipped: bool,
    /// The publications that count.
    effective: Vec<OperationId>,
}

#[derive(Serialize)]
struct EquivocationRow {
    author: PublicKey,
    seq: u64,
    operations: [OperationId; 2],
}

impl State {
    /// The canonical bytes of everything that nodes with the same operations must agree on.
    ///
    /// # Errors
    /// None in practice: its only floating-point numbers are those of a policy that was decoded.
    pub fn export(&self) -> Result<Vec<u8>, cbor::CborError> {
        let members = self.members.iter().map(|(person, member)| MemberRow {
            person: *person,
            role: member.role,
            name: &member.name,
            granted: member.granted,
            revoked: member.revoked,
        });
        let invites = self.invites.iter().map(|(id, invite)| InviteRow {
            id: *id,
            role: invite.role,
            uses: invite.uses,
            used: invite.used,
        });
        let branches = self.branches.values().map(|branch| BranchRow {
            id: branch.id,
            name: &branch.name,
            root: branch.root,
            head: branch.head,
            pending: &branch.pending,
            waiting: &branch.waiting,
            dropped: branch.dropped.iter().map(|(update, _)| *update).collect(),
            proposed: &branch.proposed,
            deleted: branch.deleted,
        });
        let commits = self.commits.iter().map(|(id, info)| CommitRow {
            id: *id,
            result: info.result,
            skipped: info.skipped,
            effective: info.effective().map(|publication| publication.operation).collect(),
        });
        let equivocations = self.equivocations.iter().map(|proof| EquivocationRow {
            author: proof.author,
            seq: proof.seq,
            operations: proof.operations,
        });
        let export = Export {
            repo: self.repo,
            name: &self.name,
            policy: &self.policy,
            chain: &self.chain,
            frozen: &self.frozen,
            members: members.collect(),
            invites: invites.collect(),
            branches: branches.collect(),
            commits: commits.collect(),
            void: self.void.keys().copied().collect(),
            idle: self.idle.keys().copied().collect(),
            above: &self.above,
            equivocations: equivocations.collect(),
        };
        cbor::encode_tagged(EXPORT_TAG, &export)
    }

    /// BLAKE3 of the [`export`](Self::export): equal on every node that holds the same operations.
    pub fn fingerprint(&self) -> Digest {
        // An export that can't be encoded can't occur; the empty one stands for it.
        Digest::of(&self.export().unwrap_or_default())
    }
}
