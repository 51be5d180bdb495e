//! Steps: what maintainers decide about a branch, as commits on its path beside the aggregates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CommitError, Extensions, texts};
use crate::id::{BranchId, CommitId, OperationId};
use crate::key::PublicKey;

/// A commit on a branch's path that is no aggregate. Anybody who may publish proposes one; it is on the path once as
/// many maintainers accepted it as the policy that it names asks for on the branch, and one where it asks for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Who proposes it.
    pub author: PublicKey,
    /// The branch.
    pub branch: BranchId,
    /// The commit of the branch's path that it continues.
    pub parent: CommitId,
    /// The policy revision that says how many accepts it needs.
    pub policy: OperationId,
    /// What it does.
    pub change: Change,
    /// What the author says of it.
    pub message: String,
    /// For later versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ext: Extensions,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Makes the model and state those of an ancestor again.
    Revert {
        /// The ancestor.
        target: CommitId,
    },
}

impl Change {
    /// The word for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Revert { .. } => "revert",
        }
    }
}

impl Step {
    /// Checks the bounds of every field.
    pub(super) fn validate(&self) -> Result<(), CommitError> {
        texts(&self.message, &self.ext)
    }

    /// The ancestor whose model and state it takes up.
    pub fn target(&self) -> Option<CommitId> {
        match self.change {
            Change::Revert { target } => Some(target),
        }
    }

    /// Whether it has no bytes of its own.
    pub fn is_bare(&self) -> bool {
        self.target().is_some()
    }
}
