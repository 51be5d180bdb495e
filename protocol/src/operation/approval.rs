//! What allows somebody to take part: an ethics committee's decision, say. For people to read and check; no rule does.

use serde::{Deserialize, Serialize};

use super::body::BodyError;
use crate::id::Digest;
use crate::limits;

/// An approval by somebody outside the repository, as the granter states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// What it is called: `IRB 2026-114`.
    pub reference: String,
    /// BLAKE3 of the document, which stays where it is.
    pub document: Option<Digest>,
}

impl Approval {
    /// Checks the reference.
    ///
    /// # Errors
    /// One that is blank, too long, or has control characters.
    pub(super) fn validate(&self) -> Result<(), BodyError> {
        let text = &self.reference;
        let plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
        if plain && text.chars().count() <= limits::NAME {
            Ok(())
        } else {
            Err(BodyError::Rule("an approval's reference has 1 to 100 characters in one line"))
        }
    }
}
