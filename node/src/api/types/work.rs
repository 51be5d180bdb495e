//! The working folder: status, drafts, push, pull and the other moves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Dp, Place, PrivacyClaim, PrivateDraft};

/// Where folder and repository stand.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// Whether only who has a role may read.
    pub private: bool,
    /// This person's role.
    pub role: String,
    /// Whether a node is running.
    pub node: bool,
    /// Peers connected for this repository.
    pub peers: u64,
    /// The branch (of the folder, else `main`).
    pub branch: String,
    /// The branch's head.
    pub head: Option<String>,
    /// Whether the head is here, run by this node or taken over as attested and not contradicted.
    pub head_verified: bool,
    /// Who attests the head, where it was taken over and not run.
    pub head_attested: Vec<String>,
    /// What this node takes as others attest it, and how the head came here, in words; none where it runs everything.
    pub trust: Option<String>,
    /// From where on history is here, in words; none where all of it is, or will be.
    pub history: Option<String>,
    /// The folder's side of things; none without a folder.
    pub work: Option<WorkStatus>,
    /// This person's last update, and what became of it.
    pub last_update: Option<UpdateNote>,
    /// Updates that wait for the next aggregate.
    pub pending: u64,
    /// Persons among them.
    pub persons: u64,
    /// Persons the next aggregate needs.
    pub needed: u64,
    /// Join requests that wait for this person.
    pub joins: Vec<JoinWaiting>,
    /// Steps of the branch that wait for accepts, in words.
    pub proposed: Vec<String>,
    /// What else waits for this person: reviews, changes of the policy.
    pub asked: Vec<String>,
    /// Privacy spent, in words.
    pub privacy: String,
    /// Anything wrong, in words.
    pub warnings: Vec<String>,
}

/// The folder's side of the status.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkStatus {
    /// The working folder.
    pub folder: String,
    /// The commit the folder stands on.
    pub base: String,
    /// Commits, aggregates and steps, that the base is behind the head; none when it is not on the head's path.
    pub behind: Option<u64>,
    /// Names of the tensors that are this site's own (role `local`): no commit has their values.
    pub local: Vec<String>,
    /// Files and tensors that differ from base and drafts.
    pub changes: Vec<Change>,
    /// Drafts, oldest first.
    pub drafts: Vec<Draft>,
    /// Updates that are signed and wait for a peer.
    pub queued: Vec<String>,
}

/// A file that differs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The file.
    pub file: String,
    /// `modified`, `missing`, or why it can't be committed.
    pub state: String,
    /// Names of tensors that differ, at most 20.
    pub tensors: Vec<String>,
    /// How many differ.
    pub count: u64,
    /// Of how many.
    pub total: u64,
}

/// A local commit that was not pushed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Draft {
    /// The draft's id.
    pub id: String,
    /// Its message.
    pub message: String,
    /// Its examples.
    pub examples: u64,
    /// Tensors that it changes.
    pub changed: u64,
    /// What it claims of privacy, in words; none where it claims nothing.
    pub privacy: Option<String>,
    /// Milliseconds since 1970.
    pub time: u64,
}

/// An update and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UpdateNote {
    /// The update.
    pub commit: String,
    /// `in-head`, `pending`, `skipped`, `dropped`, `void`, `queued`.
    pub state: String,
    /// In words, with the reason.
    pub words: String,
}

/// Somebody asks to join.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinWaiting {
    /// Who.
    pub person: String,
    /// What they call themselves.
    pub name: String,
    /// Milliseconds since 1970 by their clock.
    pub time: u64,
}

/// Make a draft from the folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CommitRequest {
    /// The working folder.
    pub place: Place,
    /// The message.
    pub message: String,
    /// Examples trained on; none when not said.
    pub examples: Option<u64>,
    /// Optimiser steps.
    pub steps: Option<u64>,
    /// Passes over the data.
    pub epochs: Option<u64>,
    /// Random seed.
    pub seed: Option<u64>,
    /// Measurements.
    pub metrics: Vec<MetricValue>,
    /// Convert dtypes to those of the branch.
    pub cast: bool,
    /// Clip and noise it; none commits it as it is.
    pub dp: Option<Dp>,
    /// What training itself did for privacy; an update claims one thing, so not beside `dp`.
    #[serde(default)]
    pub claim: Option<PrivacyClaim>,
    /// Not an update, but the branch's next commit: tensors, shapes, dtypes and side files may be other ones.
    #[serde(default)]
    pub migrate: bool,
    /// Not an update, but the branch's next commit: a model that was made of updates outside Flair.
    #[serde(default)]
    pub external: Option<ExternalRequest>,
}

/// What was made outside Flair.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExternalRequest {
    /// What made it: program, version, method.
    pub engine: String,
    /// The updates that went into it.
    pub inputs: Vec<String>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricValue {
    /// The split, `val` say.
    pub split: String,
    /// The metric, `loss` say.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// On how many examples; 0 when not said.
    pub n: u64,
}

/// A draft was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Committed {
    /// The draft.
    pub draft: Draft,
    /// Tensors in the model.
    pub total: u64,
    /// What it was made private with; none where it was not.
    pub privacy: Option<PrivateDraft>,
    /// What to mind before pushing.
    pub warnings: Vec<String>,
}

/// Publish the drafts as one update.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PushRequest {
    /// The working folder.
    pub place: Place,
    /// Only list what would leave.
    pub dry_run: bool,
    /// Keep the drafts.
    pub keep_drafts: bool,
}

/// What left, or would leave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pushed {
    /// The update; none for a dry run.
    pub commit: Option<String>,
    /// Its base.
    pub base: String,
    /// Peers that were told; 0 means it waits for the next connection.
    pub peers: u64,
    /// Every blob.
    pub blobs: Vec<EgressBlob>,
    /// Every stated field.
    pub fields: Vec<EgressField>,
    /// Bytes of all blobs.
    pub bytes: u64,
    /// What to mind.
    pub warnings: Vec<String>,
}

/// A blob that leaves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EgressBlob {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it holds, in words.
    pub what: String,
}

/// A field that leaves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EgressField {
    /// The field.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// Move the folder to the newest head.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PullRequest {
    /// The working folder.
    pub place: Place,
    /// Carry local training over onto the new head.
    pub rebase: bool,
    /// Seconds to wait for the head to be fetched and checked.
    pub timeout: u64,
}

/// Where the folder stands after a move.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Moved {
    /// The branch.
    pub branch: String,
    /// The commit it stood on.
    pub from: String,
    /// The commit it stands on.
    pub to: String,
    /// The model it holds.
    pub model: String,
    /// Files that were written.
    pub files: Vec<String>,
    /// In words.
    pub words: String,
    /// What to mind.
    pub warnings: Vec<String>,
}

/// Move the folder to a branch or commit.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckoutRequest {
    /// The working folder.
    pub place: Place,
    /// A branch or a commit.
    pub target: String,
    /// Even if local training is lost.
    pub force: bool,
}

/// Undo drafts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResetRequest {
    /// The working folder.
    pub place: Place,
    /// Drafts to undo, newest first; none undoes all.
    pub drafts: Option<u64>,
    /// Also set the files back.
    pub hard: bool,
}

/// Drafts were undone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResetDone {
    /// The drafts that were undone.
    pub undone: Vec<Draft>,
    /// Drafts that are left.
    pub left: u64,
    /// Whether files were written.
    pub restored: bool,
}
