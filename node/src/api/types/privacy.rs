//! Differential privacy: what a commit asks for, and what was spent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Clip and noise what is committed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Dp {
    /// The largest L2 norm of the change, a positive number as text.
    pub clip: String,
    /// The noise's standard deviation as a multiple of `clip`, a positive number as text.
    pub noise: String,
    /// A folder to make and to copy the trained files to, before they are overwritten.
    #[schema(value_type = Option<String>)]
    pub keep_clean: Option<PathBuf>,
}

/// What training itself did for privacy, as whoever trained it says: DP-SGD by Opacus or TensorFlow Privacy, say.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PrivacyClaim {
    /// What is protected: `example` or `person`.
    pub unit: String,
    /// The neighbouring relation, `add-remove` say.
    pub neighbouring: String,
    /// The mechanism, `dp-sgd` say.
    pub mechanism: String,
    /// The clipping norm, a positive number as text, like those that follow.
    pub clip: String,
    /// The noise multiplier.
    pub noise: String,
    /// The sampling rate.
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

/// What a commit was made private with, and what that costs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PrivateDraft {
    /// L2 norm of what training changed. It stays on this machine.
    pub norm: f64,
    /// By what it was multiplied to be within the clipping norm: 1 where nothing was clipped.
    pub factor: f64,
    /// Standard deviation of the noise in each number.
    pub deviation: f64,
    /// Numbers that are noised.
    pub numbers: u64,
    /// ε of this release alone, rounded up.
    pub epsilon: String,
    /// Tensors that keep the base's value: running statistics, counters, integers and what must stay equal.
    pub kept: Vec<String>,
    /// What was spent in this repository, with this release.
    pub spent: PrivacySpent,
}

/// What was spent in a repository.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PrivacySpent {
    /// ε of all releases together, rounded up.
    pub epsilon: String,
    /// The δ with which.
    pub delta: String,
    /// The budget; none where none is set.
    pub budget: Option<String>,
    /// The least noise with which another release fits into the budget; none without a budget, or where nothing is left.
    pub noise: Option<String>,
    /// Releases.
    pub releases: u64,
}

/// What was spent in a repository, release by release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PrivacyLedger {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// All together.
    pub spent: PrivacySpent,
    /// Whether commits and pushes without differential privacy are refused.
    pub require: bool,
    /// The unit, the neighbouring relation, the mechanism and the accountant, in words.
    pub words: String,
    /// The releases, oldest first.
    pub releases: Vec<PrivacyRelease>,
}

/// A change that was noised.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PrivacyRelease {
    /// Its number; none for one that only the repository's history knows of.
    pub number: Option<u64>,
    /// Milliseconds since 1970.
    pub time: u64,
    /// The published commit it is about.
    pub base: String,
    /// The clipping norm.
    pub clip: String,
    /// The noise multiplier.
    pub noise: String,
    /// ε of it alone, rounded up.
    pub epsilon: String,
    /// The update that it became; none where it was not published from here.
    pub commit: Option<String>,
}
