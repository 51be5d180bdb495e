//! Reviews: what somebody makes of a commit.

use serde::{Deserialize, Serialize};

use super::body::BodyError;
use crate::id::CommitId;
use crate::limits;

/// What a review says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// The commit may be aggregated into a protected branch.
    Accept,
    /// It should not; takes an earlier accept by the same person back.
    Reject,
    /// Words only.
    Comment,
}

/// The author judges a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// The commit.
    pub commit: CommitId,
    /// What the author makes of it.
    pub judgement: Judgement,
    /// Why, for people.
    pub text: String,
}

impl Review {
    /// Checks the text.
    ///
    /// # Errors
    /// One that is too long, a comment without words.
    pub(super) fn validate(&self) -> Result<(), BodyError> {
        if self.text.len() > limits::MESSAGE {
            return Err(BodyError::Rule("the review is longer than 16 KiB"));
        }
        if self.judgement == Judgement::Comment && self.text.trim().is_empty() {
            return Err(BodyError::Rule("a comment needs words"));
        }
        Ok(())
    }
}
