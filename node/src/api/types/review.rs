//! Reviews of commits.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// Judge a commit.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReviewRequest {
    /// The repository.
    pub place: Place,
    /// The commit.
    pub commit: String,
    /// `accept`, `reject` or `comment`.
    pub judgement: String,
    /// Why.
    pub text: String,
    /// Accept a step also where commits came after its parent, which go out of the head then.
    #[serde(default)]
    pub force: bool,
}

/// A review.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Review {
    /// Who says it.
    pub by: String,
    /// `accept`, `reject` or `comment`.
    pub judgement: String,
    /// Why.
    pub text: String,
    /// Milliseconds since 1970 by their clock.
    pub time: u64,
}

/// An update or step that waits for accepts or evaluations.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reviewed {
    /// The commit.
    pub commit: String,
    /// Its kind.
    pub kind: String,
    /// Its branch.
    pub branch: String,
    /// Its author's name.
    pub by: String,
    /// Its message.
    pub message: String,
    /// Accepts that count.
    pub accepts: u32,
    /// Accepts that it needs.
    pub needed: u32,
    /// Requirements of the branch that too few others have measured it to meet, in words.
    pub evaluations: Vec<String>,
    /// Whether this person's judgement can still help.
    pub mine: bool,
    /// What was said of it.
    pub reviews: Vec<Review>,
}
