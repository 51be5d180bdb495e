//! What maintainers decide about a branch: steps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// Make the head's model that of an ancestor again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RevertRequest {
    /// The repository.
    pub place: Place,
    /// The ancestor of the head.
    pub commit: String,
    /// The branch; none for that of the folder, or `main`.
    pub branch: Option<String>,
    /// Why.
    pub message: String,
    /// Publish nothing, only tell.
    pub dry_run: bool,
    /// The head that was looked at; where it is another by now, nothing is done.
    pub head: Option<String>,
}

/// Merge another branch, or a commit of one, into a branch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MergeRequest {
    /// The repository.
    pub place: Place,
    /// What is merged: a branch or a commit.
    pub other: String,
    /// The branch it is merged into; none for that of the folder, or `main`.
    pub branch: Option<String>,
    /// The method.
    pub method: String,
    /// Its settings; what is not given has the method's default.
    pub settings: BTreeMap<String, String>,
    /// Why.
    pub message: String,
    /// Publish nothing, only tell.
    pub dry_run: bool,
    /// The head that was looked at; where it is another by now, nothing is done.
    pub head: Option<String>,
}

/// What a merge comes to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Merged {
    /// The commit that is merged.
    pub other: String,
    /// What both have in common.
    pub common: String,
    /// The method, in words.
    pub words: String,
    /// The model that came out.
    pub model: String,
    /// Its distance (L2) from the model of the branch merged into.
    pub from_branch: f64,
    /// Its distance (L2) from the model merged in.
    pub from_other: f64,
    /// Elements of the tensors that the method merges.
    pub elements: u64,
    /// Of these, how many either branch changed since the common ancestor, the branch merged into first; none where the
    /// method does not look.
    pub changed: Option<[u64; 2]>,
    /// How many of these changes the method kept.
    pub kept: Option<[u64; 2]>,
    /// Elements of which both branches' changes were kept, in opposite directions.
    pub opposed: u64,
    /// Elements that keep the branch's value because no number came out.
    pub not_finite: u64,
}

/// What a step does.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Stepped {
    /// The commit; none in a dry run.
    pub commit: Option<String>,
    /// What kind of step.
    pub kind: String,
    /// The branch.
    pub branch: String,
    /// The head that it continues.
    pub parent: String,
    /// Of a revert: the commit whose model the head has then.
    pub target: Option<String>,
    /// Commits that go out of the head's model, newest first.
    pub out: Vec<Taken>,
    /// Of a merge: what came out.
    #[serde(default)]
    pub merged: Option<Merged>,
    /// Commits that come back into it, or with a merge come in, newest first.
    pub back: Vec<Taken>,
    /// Accepts that it has.
    pub accepts: u32,
    /// Accepts that it needs.
    pub needed: u32,
    /// Who can still accept it.
    pub asked: Vec<String>,
    /// Whether it is on the path to the head.
    pub in_head: bool,
}

/// A commit of a branch's path and the updates that it took in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Taken {
    /// The commit.
    pub commit: String,
    /// Its kind.
    pub kind: String,
    /// What it took in.
    pub updates: Vec<TakenUpdate>,
}

/// An update in a [`Taken`].
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TakenUpdate {
    /// The update.
    pub commit: String,
    /// Its author's name.
    pub name: String,
    /// Its message.
    pub message: String,
}
