//! Comparing aggregation rules on updates that exist.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AggregateInput, Place};

/// Run the same updates through several rules. Nothing is published or kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SimulateRequest {
    /// The repository.
    pub place: Place,
    /// The branch; none takes the folder's.
    pub branch: Option<String>,
    /// An aggregate whose parent and updates are taken; none takes those of the branch's next aggregate.
    pub aggregate: Option<String>,
    /// The updates to take instead.
    #[serde(default)]
    pub updates: Vec<String>,
    /// The rules to compare with the one in force; none takes every rule, with its defaults.
    #[serde(default)]
    pub rules: Vec<RuleChoice>,
    /// A folder to write the models to (absolute), each into a folder of its number from 0 on; it must not exist.
    #[schema(value_type = Option<String>)]
    pub output: Option<PathBuf>,
}

/// A rule with settings, as `flair init` takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleChoice {
    /// The rule's name; none takes that of the policy, to try other settings of it.
    pub rule: Option<String>,
    /// Its settings.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// What each rule made of the same updates.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Simulated {
    /// What the updates were aggregated onto.
    pub parent: String,
    /// The updates' persons.
    pub persons: u64,
    /// The rules, first the one in force.
    pub rows: Vec<SimulatedRule>,
}

/// What one rule made of the updates.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SimulatedRule {
    /// The rule's name.
    pub rule: String,
    /// The settings that were asked for; all others are the policy's, or the rule's defaults.
    pub settings: BTreeMap<String, String>,
    /// What it does, in words.
    pub words: String,
    /// Dishonest persons among these that it withstands; none where it promises nothing of the kind.
    pub withstands: Option<u64>,
    /// How far the model moved: L2 norm of the difference to the parent, over its weights (statistics and
    /// counters apart).
    pub step: f64,
    /// L2 norm of the difference to the first row's model, over the same.
    pub apart: f64,
    /// Cosine of the angle between this step and the first row's; none where one of them is zero.
    pub cosine: Option<f64>,
    /// What became of each update. Those that are too stale for the rule are not among them.
    pub inputs: Vec<AggregateInput>,
    /// The resulting model.
    pub model: String,
    /// Milliseconds it took.
    pub millis: u64,
}
