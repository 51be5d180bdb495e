//! The main job on real input: four contributors train one model on the digits, each on images of their own.
//!
//! What they train is settled here. The numbers were chosen by running `tests/main/learning.rs` over splits and
//! settings: with 5 local epochs and this learning rate, twenty aggregates already come within a point or so of
//! pooled training on most splits, and the last twenty of sixty stay there.

use crate::digits::{self, DigitsError, Split};
use crate::trainer::Training;

/// Who contributes: rounds of training each does in the time the slowest does one.
pub const SPEEDS: [u64; 4] = [1, 1, 2, 4];
/// Concentration of the Dirichlet draw that deals each digit out.
pub const CONCENTRATION: f64 = 0.5;
/// Seed of the split, of the first model and of all training.
pub const SEED: u64 = 5;
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
