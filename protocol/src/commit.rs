//! Commits: what a publish operation carries. An update, an initial commit and a step have an author; an aggregate is
//! a recipe, with no author, no time and no result.

mod step;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cbor::{self, CborError};
use crate::id::{ArchitectureId, BranchId, CommitId, Digest, ModelId, OperationId, RepositoryId, StateId};
use crate::key::PublicKey;
use crate::limits;
pub use step::{Change, Described, External, Merge, Step};

const COMMIT_TAG: &str = "flair/commit/1";
/// The numeric mode that aggregates are computed in.
pub const MODE: &str = "f64-ordered";
/// The version of the kernels that compute it: a recipe that names another one has no effect.
pub const KERNEL: u64 = 1;

/// An object's extension map: kept verbatim, read by nobody at this level.
pub type Extensions = BTreeMap<String, ByteBuf>;

/// A commit of any kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Commit {
    /// A branch's first model.
    Initial(Initial),
    /// A model trained from a base.
    Update(Box<Update>),
    /// A recipe: parent, inputs, policy.
    Aggregate(Aggregate),
    /// What maintainers decide: a revert, a model from outside, another architecture, a merge.
    Step(Box<Step>),
}

/// A branch's first model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initial {
    /// Who made it.
    pub author: PublicKey,
    /// The branch it belongs to.
    pub branch: BranchId,
    /// The model.
    pub model: ModelId,
    /// Its architecture.
    pub architecture: ArchitectureId,
    /// Its size in bytes as files.
    pub bytes: u64,
    /// What the author says of it.
    pub message: String,
    /// For later versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ext: Extensions,
}

/// A model trained from a base: what contributors publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Who trained it.
    pub author: PublicKey,
    /// The branch it is for.
    pub branch: BranchId,
    /// What training started from: the initial commit or an aggregate of the branch, or the author's own earlier
    /// update.
    pub base: CommitId,
    /// The base's model, as the author had it.
    pub base_model: ModelId,
    /// The trained model.
    pub content: Content,
    /// Its architecture, equal to the base's.
    pub architecture: ArchitectureId,
    /// Its size in bytes as files.
    pub bytes: u64,
    /// How it was trained, as the author says.
    pub training: Training,
    /// What the author claims about privacy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// Measurements, as the author says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// What the author says of it.
    pub message: String,
    /// For later versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ext: Extensions,
}

/// What an update contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A model in the clear. (Masked updates come with secure aggregation, at a later level.)
    Model(ModelId),
}

/// How an update was trained. Self-reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Examples in the local training set; 0 when not said.
    pub examples: u64,
    /// Optimiser steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Passes over the local training set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// The agreed recipe that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Digest>,
    /// Versions of the frameworks used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frameworks: BTreeMap<String, String>,
    /// The random seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A differential-privacy claim. Numbers are decimal text, units are never compared with one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// What is protected: `example`, `person` or `site`.
    pub unit: String,
    /// The neighbouring relation.
    pub neighbouring: String,
    /// The mechanism, `gaussian` say.
    pub mechanism: String,
    /// Clipping norm.
    pub clip: String,
    /// Noise multiplier.
    pub noise: String,
    /// Sampling rate.
    pub sampling: String,
    /// Steps accounted for.
    pub steps: u64,
    /// Epsilon.
    pub epsilon: String,
    /// Delta.
    pub delta: String,
    /// The accountant that computed epsilon.
    pub accountant: String,
}

/// One measurement, self-reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What was measured, `loss` say.
    pub name: String,
    /// On which split, `val` say.
    pub split: String,
    /// The value, finite.
    pub value: f64,
    /// On how many examples; 0 when not said.
    pub n: u64,
}

/// A recipe. Its id says everything that decides its result, so whoever runs it gets the same model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The repository.
    pub repo: RepositoryId,
    /// The branch.
    pub branch: BranchId,
    /// The initial commit or aggregate it continues.
    pub parent: CommitId,
    /// The updates it takes in, ascending, no two equal.
    pub inputs: Vec<CommitId>,
    /// The policy revision it follows.
    pub policy: OperationId,
    /// The numeric mode, [`MODE`].
    pub mode: String,
    /// The kernel's version.
    pub kernel: u64,
}

/// What running a recipe gave, as somebody claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The resulting model.
    pub model: ModelId,
    /// The resulting state.
    pub state: StateId,
}

/// Why a commit was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// Size or encoding.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A field breaks its bound.
    #[error("the commit's {0}")]
    Field(&'static str),
}

impl Commit {
    /// The canonical bytes, whose plain BLAKE3 is the [`CommitId`].
    ///
    /// # Errors
    /// A metric that is NaN or infinite.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        cbor::encode_tagged(COMMIT_TAG, self)
    }

    /// The id of this commit.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn id(&self) -> Result<CommitId, CborError> {
        Ok(CommitId::from_digest(Digest::of(&self.encode()?)))
    }

    /// Reads and checks a commit.
    ///
    /// # Errors
    /// Size, encoding, then every bound.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommitError> {
        let commit: Self = cbor::decode_tagged(COMMIT_TAG, bytes, limits::BODY)?;
        commit.validate()?;
        Ok(commit)
    }

    /// The word for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Initial(_) => "initial",
            Self::Update(_) => "update",
            Self::Aggregate(_) => "aggregate",
            Self::Step(commit) => commit.change.kind(),
        }
    }

    /// The branch it belongs to.
    pub fn branch(&self) -> BranchId {
        match self {
            Self::Initial(commit) => commit.branch,
            Self::Update(commit) => commit.branch,
            Self::Aggregate(commit) => commit.branch,
            Self::Step(commit) => commit.branch,
        }
    }

    /// What it starts from: an update's base, the parent of an aggregate or step.
    pub fn base(&self) -> Option<CommitId> {
        match self {
            Self::Initial(_) => None,
            Self::Update(commit) => Some(commit.base),
            Self::Aggregate(commit) => Some(commit.parent),
            Self::Step(commit) => Some(commit.parent),
        }
    }

    /// The author of an authored kind.
    pub fn author(&self) -> Option<PublicKey> {
        match self {
            Self::Initial(commit) => Some(commit.author),
            Self::Update(commit) => Some(commit.author),
            Self::Aggregate(_) => None,
            Self::Step(commit) => Some(commit.author),
        }
    }

    /// The updates it takes in: the inputs of an aggregate or external.
    pub fn inputs(&self) -> &[CommitId] {
        match self {
            Self::Initial(_) | Self::Update(_) => &[],
            Self::Aggregate(commit) => &commit.inputs,
            Self::Step(commit) => commit.inputs(),
        }
    }

    /// What it merges into its parent, and how.
    pub fn merge(&self) -> Option<&Merge> {
        self.step().and_then(Step::merge)
    }

    /// Whether its model follows from what it names, so that whoever publishes it says what came out and others can
    /// check that: an aggregate or a merge.
    pub fn is_recipe(&self) -> bool {
        matches!(self, Self::Aggregate(_)) || self.merge().is_some()
    }

    /// The model that it names; none for a recipe, whose model follows, and a revert, whose target has it.
    pub fn described(&self) -> Option<Described> {
        match self {
            Self::Initial(Initial { model, architecture, bytes, .. }) => {
                Some(Described { model: *model, architecture: *architecture, bytes: *bytes })
            }
            Self::Update(update) => {
                let Content::Model(model) = update.content;
                Some(Described { model, architecture: update.architecture, bytes: update.bytes })
            }
            Self::Aggregate(_) => None,
            Self::Step(step) => step.described(),
        }
    }

    /// The step that it is.
    pub fn step(&self) -> Option<&Step> {
        match self {
            Self::Step(step) => Some(step),
            _ => None,
        }
    }

    /// Checks the bounds of every field.
    ///
    /// # Errors
    /// The first field that breaks its bound.
    pub fn validate(&self) -> Result<(), CommitError> {
        match self {
            Self::Initial(commit) => texts(&commit.message, &commit.ext),
            Self::Update(commit) => {
                texts(&commit.message, &commit.ext)?;
                if commit.metrics.len() > limits::METRICS {
                    return Err(CommitError::Field("list of metrics is too long"));
                }
                let long = |text: &String| text.len() > limits::NAME;
                if commit.metrics.iter().any(|metric| long(&metric.name) || long(&metric.split)) {
                    return Err(CommitError::Field("metric has too long a name"));
                }
                if commit.training.frameworks.len() > limits::EXTENSIONS
                    || commit.training.frameworks.iter().any(|(name, version)| long(name) || long(version))
                {
                    return Err(CommitError::Field("list of frameworks is too long"));
                }
                Ok(())
            }
            Self::Step(commit) => commit.validate(),
            Self::Aggregate(commit) => {
                if commit.inputs.is_empty() || commit.inputs.len() > limits::INPUTS {
                    return Err(CommitError::Field("list of inputs is empty or longer than 256"));
                }
                if !commit.inputs.is_sorted_by(|a, b| a < b) {
                    return Err(CommitError::Field("inputs are not in ascending order without repeats"));
                }
                if commit.mode != MODE {
                    return Err(CommitError::Field("numeric mode is unknown to this version"));
                }
                Ok(())
            }
        }
    }
}

fn texts(message: &str, ext: &Extensions) -> Result<(), CommitError> {
    if message.len() > limits::MESSAGE {
        return Err(CommitError::Field("message is longer than 16 KiB"));
    }
    let bytes: usize = ext.iter().map(|(name, value)| name.len() + value.len()).sum();
    if ext.len() > limits::EXTENSIONS || bytes > limits::EXTENSION_BYTES {
        return Err(CommitError::Field("extension map is too large"));
    }
    Ok(())
}
