//! Steps: what maintainers decide about a branch, as commits on its path beside the aggregates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CommitError, Extensions, MODE, texts};
use crate::id::{ArchitectureId, BranchId, CommitId, ModelId, OperationId};
use crate::key::PublicKey;
use crate::limits;

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
    /// A model that somebody made of updates outside Flair, which nobody else can derive.
    External(External),
    /// A model of another architecture, or with other side files.
    Migrate(Described),
    /// What a method makes of the parent's model and another commit's: a recipe, as an aggregate is.
    Merge(Merge),
}

/// A merge of two branches. What comes out follows from it and from the step's parent, so that anybody can check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// The second parent: a first commit, an aggregate or a step of any branch.
    pub other: CommitId,
    /// The method by its name; read by the code that runs it.
    pub method: String,
    /// All its settings, decimal numbers as text.
    pub settings: BTreeMap<String, String>,
    /// The numeric mode, [`MODE`].
    pub mode: String,
    /// The kernel's version.
    pub kernel: u64,
}

/// What was made outside Flair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// The updates that went into it, ascending, no two equal; as the author says.
    pub inputs: Vec<CommitId>,
    /// What made it, as the author says: program, version, method.
    pub engine: String,
    /// The model.
    pub model: ModelId,
    /// Its architecture: the parent's.
    pub architecture: ArchitectureId,
    /// Its size in bytes as files.
    pub bytes: u64,
}

/// A model as a commit names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// The model.
    pub model: ModelId,
    /// Its architecture.
    pub architecture: ArchitectureId,
    /// Its size in bytes as files.
    pub bytes: u64,
}

impl Change {
    /// The word for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Revert { .. } => "revert",
            Self::External(_) => "external",
            Self::Migrate(_) => "migrate",
            Self::Merge(_) => "merge",
        }
    }
}

impl Step {
    /// Checks the bounds of every field.
    pub(super) fn validate(&self) -> Result<(), CommitError> {
        texts(&self.message, &self.ext)?;
        if let Change::Merge(merge) = &self.change {
            let settings: usize = merge.settings.iter().map(|(name, value)| name.len() + value.len()).sum();
            if !(1..=limits::NAME).contains(&merge.method.len()) {
                return Err(CommitError::Field("method must have a name of 1 to 100 bytes"));
            }
            if merge.settings.len() > limits::EXTENSIONS || settings > limits::EXTENSION_BYTES {
                return Err(CommitError::Field("list of settings is too long"));
            }
            if merge.mode != MODE {
                return Err(CommitError::Field("numeric mode is unknown to this version"));
            }
        }
        if let Change::External(external) = &self.change {
            if external.inputs.len() > limits::INPUTS || !external.inputs.is_sorted_by(|a, b| a < b) {
                return Err(CommitError::Field(
                    "inputs are more than 256, or not in ascending order without repeats",
                ));
            }
            let engine = &external.engine;
            let fits = (1..=limits::NAME).contains(&engine.chars().count());
            if !fits || engine.trim() != engine || engine.contains(char::is_control) {
                return Err(CommitError::Field(
                    "engine must have 1 to 100 characters, no space at either end and no control characters",
                ));
            }
        }
        Ok(())
    }

    /// The model that it brings.
    pub fn described(&self) -> Option<Described> {
        match &self.change {
            Change::Revert { .. } | Change::Merge(_) => None,
            Change::External(External { model, architecture, bytes, .. }) => {
                Some(Described { model: *model, architecture: *architecture, bytes: *bytes })
            }
            Change::Migrate(described) => Some(*described),
        }
    }

    /// The updates that it takes in.
    pub fn inputs(&self) -> &[CommitId] {
        match &self.change {
            Change::External(external) => &external.inputs,
            Change::Revert { .. } | Change::Migrate(_) | Change::Merge(_) => &[],
        }
    }

    /// The ancestor whose model and state it takes up.
    pub fn target(&self) -> Option<CommitId> {
        match self.change {
            Change::Revert { target } => Some(target),
            Change::External(_) | Change::Migrate(_) | Change::Merge(_) => None,
        }
    }

    /// What it merges, and how.
    pub fn merge(&self) -> Option<&Merge> {
        match &self.change {
            Change::Merge(merge) => Some(merge),
            Change::Revert { .. } | Change::External(_) | Change::Migrate(_) => None,
        }
    }

    /// Whether it has no bytes of its own.
    pub fn is_bare(&self) -> bool {
        self.target().is_some()
    }
}
