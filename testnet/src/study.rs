//! Studies of the aggregation rules on real training: the handwritten digits, ten contributors, and the kernels that nodes
//! run. No nodes and no network: what is asked here is what the rules do, and time is simulated.

mod arena;
pub mod attack;
pub mod dishonest;
pub mod pace;
pub mod private;

use flair_aggregation::policy::PolicyError;
use flair_aggregation::privacy::GaussianError;

use crate::digits::DigitsError;
use crate::trainer::TrainerError;

/// Why a study ended early.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// The images.
    #[error(transparent)]
    Digits(#[from] DigitsError),
    /// The training.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// A rule that does not exist, or a setting.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A clipping norm or a noise multiplier that can't be used.
    #[error(transparent)]
    Privacy(#[from] GaussianError),
    /// The kernels refused.
    #[error("the aggregate could not be computed: {0}")]
    Aggregate(String),
}

/// Contributors in each study.
pub const CONTRIBUTORS: usize = 10;

/// Settings of a rule.
pub type Settings = &'static [(&'static str, &'static str)];
