//! TIES: trim, elect signs, and a mean of those that agree.
//!
//! P. Yadav et al., "TIES-Merging: resolving interference when merging models", NeurIPS 2023, algorithm 1:
//!
//! 1. *trim*: of each task vector the k = ⌈density · n⌉ largest elements of n are kept, by magnitude, and the others
//!    become zero. n counts the elements of all `float` tensors together. Elements as large as the smallest of these
//!    are kept too, so that nothing depends on an order among equals;
//! 2. *elect*: per coordinate, γ = sgn(τ̂₁ + τ̂₂);
//! 3. *disjoint mean*: τ = the mean of those τ̂ᵢ whose sign is γ, 0 where γ is;
//!
//! and θ = o + λ · τ. `density` is above 0 and at most 1; 0.2 is the paper's. `lambda` is λ, 1 in the paper where
//! nothing is tuned.

use super::Statistics;
use super::method::{Rule, Values3, lambda, step};
use super::pass::Place;
use crate::policy::{PolicyError, Setting, Values, decimal};

pub(super) const DENSITY: Setting = Setting {
    name: "density",
    default: "0.2",
    expected: "a decimal number above 0 and at most 1, such as 0.2",
    meaning: "the share of each branch's changes that is kept, the largest ones",
};

/// The rule, with its share and λ.
#[derive(Debug)]
pub(super) struct Ties {
    density: f64,
    lambda: f64,
}

impl Ties {
    pub(super) fn read(values: &Values) -> Result<Self, PolicyError> {
        let share = |text: &str| decimal(text).filter(|density| *density > 0.0 && *density <= 1.0);
        Ok(Self { density: values.read(&DENSITY, share)?, lambda: lambda(values)? })
    }
}

impl Rule for Ties {
    fn explain(&self) -> String {
        format!(
            "Of each branch's changes the largest {} are kept; where they point in opposite directions the larger one holds, else their mean, times {}.",
            self.density, self.lambda
        )
    }

    fn density(&self) -> Option<f64> {
        Some(self.density)
    }

    fn merge(&self, place: &Place<'_>, values: Values3<'_>, out: &mut [f64], found: &mut Statistics) {
        let trim = |change: f64, least: f64| if change.abs() >= least { change } else { 0.0 };
        for (out, (base, first, second)) in out.iter_mut().zip(values.each()) {
            let changes = [first - base, second - base];
            let kept = [trim(changes[0], place.trim[0]), trim(changes[1], place.trim[1])];
            found.note(changes, kept);
            *out = step(base, self.lambda, disjoint_mean(kept));
        }
    }
}

/// The mean of those that have the sign of their sum.
#[inline]
fn disjoint_mean([first, second]: [f64; 2]) -> f64 {
    let sum = first + second;
    let agrees = |change: f64| (sum > 0.0 && change > 0.0) || (sum < 0.0 && change < 0.0);
    match (agrees(first), agrees(second)) {
        (true, true) => sum / 2.0,
        (true, false) => first,
        (false, true) => second,
        (false, false) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn those_that_agree_with_the_sum_are_averaged() {
        for (kept, mean) in [
            ([1.0, 3.0], 2.0),
            ([-1.0, 3.0], 3.0),
            ([-4.0, 3.0], -4.0),
            ([0.0, 3.0], 3.0),
            ([0.0, 0.0], 0.0),
            ([2.0, -2.0], 0.0),
        ] {
            assert!((super::disjoint_mean(kept) - mean).abs() < f64::EPSILON, "{kept:?}");
        }
    }
}
