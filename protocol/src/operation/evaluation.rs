//! Evaluations: what somebody measured of a commit and of its base, on data that nobody else sees.

use serde::{Deserialize, Serialize};

use super::body::{BodyError, name};
use crate::id::{CommitId, Digest};
use crate::limits;

/// The author measured a commit's model and its base's on their own data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The commit.
    pub commit: CommitId,
    /// What it is compared with: an update's base, an aggregate's parent; none for a first commit.
    pub base: Option<CommitId>,
    /// What the author calls the data. Figures of different sets are never put together.
    pub set: String,
    /// How many examples it has; 0 when not said.
    pub n: u64,
    /// What was measured, ascending by name: 1 to [`limits::EVALUATED`].
    pub metrics: Vec<Measured>,
    /// BLAKE3 of the data, keyed with a salt that stays with the author: the same for the same data, and tells nobody
    /// what they are.
    pub data: Digest,
    /// BLAKE3 of the files that the metrics are defined by, where the author named some.
    pub code: Option<Digest>,
}

/// One metric of a commit's model and of its base's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What was measured, `auc` say.
    pub name: String,
    /// Which way is better.
    pub better: Better,
    /// The commit's value, finite.
    pub value: f64,
    /// The base's value, finite; there exactly if there is a base.
    pub base: Option<f64>,
}

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// As an accuracy.
    Higher,
    /// As a loss.
    Lower,
}

impl Evaluation {
    /// Checks the bounds of every field.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub(super) fn validate(&self) -> Result<(), BodyError> {
        name(&self.set)?;
        if self.metrics.is_empty() || self.metrics.len() > limits::EVALUATED {
            return Err(BodyError::Rule("an evaluation has 1 to 16 metrics"));
        }
        if !self.metrics.is_sorted_by(|a, b| a.name < b.name) {
            return Err(BodyError::Rule("an evaluation's metrics must be in ascending order, none twice"));
        }
        for metric in &self.metrics {
            name(&metric.name)?;
            if metric.base.is_some() != self.base.is_some() {
                return Err(BodyError::Rule("a metric has a value of the base exactly if there is a base"));
            }
        }
        Ok(())
    }

    /// The metric of that name.
    pub fn metric(&self, name: &str) -> Option<&Measured> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}
