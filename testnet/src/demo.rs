//! The main job on real input: four contributors train one model on the digits, each on images of their own.
//!
//! What they train is settled here. The numbers were chosen by running `tests/main/learning.rs` over splits and
//! settings: with 5 local epochs and this learning rate, twenty aggregates already come within a point or so of
//! pooled training on most splits, and the last twenty of sixty stay there.

mod contributor;
mod leak;
mod run;
mod start;
mod watch;

use flair_node::api::types::Problem;

use crate::cluster::ClusterError;
use crate::digits::{self, DigitsError, Split};
use crate::trainer::{TrainerError, Training};

pub use run::run;

/// Who contributes: rounds of training each does in the time the slowest does one.
pub const SPEEDS: [u64; 4] = [1, 1, 2, 4];
/// Concentration of the Dirichlet draw that deals each digit out.
pub const CONCENTRATION: f64 = 0.5;
/// Seed of the split, of the first model and of all training.
pub const SEED: u64 = 5;
/// Aggregates after which training ends.
pub const AGGREGATES: usize = 40;
/// How far below pooled training the shared model may end.
pub const WITHIN: f64 = 0.03;

/// One contributor's round of training between two pushes.
pub const LOCAL: Training = Training { epochs: 5, batch: 32, learning_rate: 0.05, momentum: 0.9, seed: SEED };
/// Training to the end in one place, on pooled data or on one contributor's alone.
pub const WHOLE: Training = Training { epochs: 60, ..LOCAL };

/// Who holds which images.
///
/// # Errors
/// When the embedded data file is damaged.
pub fn split() -> Result<Split, DigitsError> {
    digits::split(digits::all()?, SPEEDS.len(), CONCENTRATION, SEED)
}

/// Why the demo did not run to its end, or did not hold what it promises.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A node does not do what it is told to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The data cannot be had.
    #[error(transparent)]
    Digits(#[from] DigitsError),
    /// The network cannot be trained, read or written.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// A node refused a request.
    #[error("{who}: {what}: {problem}")]
    Refused {
        /// Whose node.
        who: String,
        /// What was asked.
        what: &'static str,
        /// Its answer.
        problem: Problem,
    },
    /// Something that must come about did not.
    #[error("{what} within {seconds} s; the nodes' logs tell more")]
    Slow {
        /// What did not.
        what: String,
        /// The time it had.
        seconds: u64,
    },
    /// A file or the output cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A part of the demo itself broke.
    #[error("the demo itself failed: {0}")]
    Broken(String),
    /// What the demo promises does not hold.
    #[error("what the demo promises does not hold:\n{}", .0.join("\n"))]
    Failed(Vec<String>),
}

impl DemoError {
    fn refused(who: &str, what: &'static str) -> impl FnOnce(Problem) -> Self {
        move |problem| Self::Refused { who: who.into(), what, problem }
    }

    fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Prints a line.
fn say(text: &str) -> Result<(), DemoError> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").map_err(DemoError::io("standard output"))
}

/// An id as people read it.
fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}
