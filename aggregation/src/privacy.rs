//! Differential privacy for one update: how it is clipped and noised, and what that costs.
//!
//! A site's update is the change Δ of all trained floats together. It is scaled down to at most the norm C (*clip*), put
//! on a grid, and an integer multiple of the grid's step is added to each coordinate, drawn from a normal distribution
//! with standard deviation σ = z·C (z is the *noise multiplier*). What is released is a function of the sums alone, and of
//! a model that is public already.
//!
//! **Floating point gives nothing away.** Adding a double drawn by the usual methods to a double leaves traces in the low
//! bits that can undo it (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012).
//! Here nothing that depends on data is a float when noise is added. The step of the grid is σ / 2³²; each coordinate of
//! the clipped Δ is cut towards zero to an integer *k* of steps, which can only make the norm smaller, and Σ k² ≤ (2³²/z)²
//! is checked in integers ([`Gaussian::most`]). The noise is ⌊2³²·n⌋ with *n* drawn exactly from the standard normal
//! distribution ([`Noise`]), and k + ⌊2³²·n⌋ = ⌊k + 2³²·n⌋: the continuous Gaussian mechanism, rounded afterwards. So its
//! guarantee holds to the letter, and everything that follows, the rounding to the model's own float format included, is
//! a function of that integer.
//!
//! **What it costs** follows exactly ([`account`]): the mechanism is μ-Gaussian differentially private with μ = 1/z.
//!
//! *Neighbouring* are an update and the same update with nothing in it (Δ = 0): they differ by at most C. Between two
//! updates of any content the difference is up to 2C, and μ twice as large.

pub mod account;
mod noise;

pub use noise::{Noise, RUN};

/// Steps of the grid that make one standard deviation of the noise, as a power of two.
const STEPS: i32 = 32;

/// The Gaussian mechanism with a clipping norm and a noise multiplier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaussian {
    clip: f64,
    noise: f64,
}

/// A clipping norm or a noise multiplier that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum GaussianError {
    /// The norm.
    #[error("clip must be between 1e-12 and 1e12: it is the largest L2 norm that an update may have")]
    Clip,
    /// The multiplier.
    #[error(
        "noise must be between 0.001 and 1000000: it is the noise's standard deviation as a multiple of clip"
    )]
    Noise,
}

impl Gaussian {
    /// The mechanism with clipping norm `clip` and noise of standard deviation `noise`·`clip` per coordinate.
    ///
    /// # Errors
    /// Numbers for which the grid would be too fine or too coarse, NaN among them.
    pub fn new(clip: f64, noise: f64) -> Result<Self, GaussianError> {
        if !(1e-12..=1e12).contains(&clip) {
            return Err(GaussianError::Clip);
        }
        if !(1e-3..=1e6).contains(&noise) {
            return Err(GaussianError::Noise);
        }
        Ok(Self { clip, noise })
    }

    /// The parameter of its Gaussian differential privacy, 1/z.
    pub fn mu(self) -> f64 {
        self.noise.recip()
    }

    /// By what an update of this norm is multiplied, so that it has at most the clipping norm.
    pub fn factor(self, norm: f64) -> f64 {
        if norm > self.clip { self.clip / norm } else { 1.0 }
    }

    /// The most that the squares of all coordinates, in steps of the grid, may sum up to: what μ rests on.
    #[allow(clippy::cast_sign_loss)] // It is a square.
    pub fn most(self) -> u128 {
        // Rounded down by far more than the rounding of these three operations.
        let radius = f64::from(STEPS).exp2() / self.noise;
        (radius * radius * (1.0 - 1e-14)) as u128
    }

    /// One step of the grid.
    fn step(self) -> f64 {
        self.clip * self.noise / f64::from(STEPS).exp2()
    }

    /// A coordinate of the update, times `factor`, in whole steps of the grid: cut towards zero.
    fn steps(self, base: f64, trained: f64, factor: f64) -> i64 {
        ((trained - base) * factor / self.step()) as i64
    }

    /// The sum of the squares of an update's coordinates, times `factor`, in steps of the grid: an integer, to be compared
    /// with [`most`](Self::most).
    pub fn squares(self, base: &[f64], trained: &[f64], factor: f64) -> u128 {
        base.iter().zip(trained).fold(0, |sum: u128, (base, trained)| {
            let size = u128::from(self.steps(*base, *trained, factor).unsigned_abs());
            sum.saturating_add(size * size)
        })
    }

    /// Replaces the coordinates of the base by what is published: the base's, and the change, times `factor`, with `noise`
    /// in it. What the other two have not is left as it is.
    pub fn release(self, base: &mut [f64], trained: &[f64], factor: f64, noise: &[i64]) {
        for ((base, trained), noise) in base.iter_mut().zip(trained).zip(noise) {
            let sum = self.steps(*base, *trained, factor).saturating_add(*noise);
            // Half a step makes up for the noise being rounded down.
            *base += (sum as f64 + 0.5) * self.step();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_without_sense_are_refused() {
        for clip in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e13] {
            assert_eq!(Gaussian::new(clip, 1.0), Err(GaussianError::Clip));
        }
        for noise in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-4, 2e6] {
            assert_eq!(Gaussian::new(1.0, noise), Err(GaussianError::Noise));
        }
    }

    #[test]
    fn without_noise_the_coordinate_is_that_of_the_clipped_update() {
        let gaussian = Gaussian::new(0.5, 2.0).unwrap();
        assert_eq!(gaussian.factor(0.5).to_bits(), 1f64.to_bits());
        let factor = gaussian.factor(2.0);
        for (base, trained) in [(0.25, 1.25), (-3.0, -2.5), (1.0, 1.0)] {
            let mut released = [base];
            gaussian.release(&mut released, &[trained], factor, &[0]);
            assert!((released[0] - (base + (trained - base) / 4.0)).abs() <= gaussian.step());
        }
    }

    proptest! {
        #[test]
        fn whatever_the_update_what_noise_is_added_to_is_within_the_bound(
            change in prop::collection::vec(-1e6f64..1e6, 1..200),
            clip in 1e-6f64..1e6,
            noise in 1e-3f64..1e3,
        ) {
            let gaussian = Gaussian::new(clip, noise).unwrap();
            let norm = change.iter().map(|x| x * x).sum::<f64>().sqrt();
            // As callers do it: once more, a little shorter, where rounding went beyond.
            let mut factor = gaussian.factor(norm);
            let base = vec![0.0; change.len()];
            let sum = |factor| gaussian.squares(&base, &change, factor);
            let mut tries = 0;
            while sum(factor) > gaussian.most() {
                factor *= 1.0 - 1e-12;
                tries += 1;
            }
            prop_assert!(tries < 10);
            // And nothing is cut off that needs not be.
            let kept = (sum(factor) as f64).sqrt() * gaussian.step();
            prop_assert!(kept > norm.min(clip) * (1.0 - 1e-6) - gaussian.step() * 15.0);
        }
    }
}
