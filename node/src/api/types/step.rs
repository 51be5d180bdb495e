//! What maintainers decide about a branch: steps.

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
    /// Commits that come back into it, newest first.
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
