//! The server's optimiser, per coordinate: from the direction that a rule gives to the step that the model takes.
//!
//! An optimiser remembers one or two numbers a coordinate, its *moments*: they are kept as `f32` and are part of what
//! an aggregate carries forward. They are rounded before they are used, so that a step follows from what is kept.

use super::float::{F32, Format};

/// The update of a server optimiser; its moments are `(momentum, variance)`, of which it may keep one or both.
pub(crate) trait Optimiser {
    /// Whether it keeps a first moment.
    const MOMENTUM: bool;
    /// Whether it keeps a second moment.
    const VARIANCE: bool;

    /// The second moment before the first step.
    fn first_variance(&self) -> f64 {
        0.0
    }

    /// The moments after this direction.
    fn remember(&self, momentum: f64, variance: f64, direction: f64) -> (f64, f64);

    /// The step, from the moments (as they are kept) and the direction.
    fn step(&self, momentum: f64, variance: f64, direction: f64) -> f64;
}

/// The `f32` moments of a run of elements, as little-endian bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments<'a> {
    /// First moments; empty where there are none yet, which counts as zeros.
    pub momentum: &'a [u8],
    /// Second moments; empty where there are none yet, which counts as the optimiser's first value.
    pub variance: &'a [u8],
}

/// Replaces each sum by the step it leads to, and appends the new moments.
///
/// A direction that is no number counts as zero.
pub(crate) fn advance<O: Optimiser>(
    optimiser: &O,
    sums: &mut [f64],
    divisor: f64,
    old: Moments<'_>,
    momentum_out: &mut Vec<u8>,
    variance_out: &mut Vec<u8>,
) {
    let (old_momentum, old_variance) = (old.momentum.as_chunks::<4>().0, old.variance.as_chunks::<4>().0);
    let first = optimiser.first_variance();
    for (place, sum) in sums.iter_mut().enumerate() {
        let direction = *sum / divisor;
        let direction = if direction.is_nan() { 0.0 } else { direction };
        let momentum = old_momentum.get(place).map_or(0.0, |bytes| F32::widen(*bytes));
        let variance = old_variance.get(place).map_or(first, |bytes| F32::widen(*bytes));
        let (momentum, variance) = optimiser.remember(momentum, variance, direction);
        let (momentum, variance) = (F32::round(momentum), F32::round(variance));
        if O::MOMENTUM {
            momentum_out.extend_from_slice(&momentum);
        }
        if O::VARIANCE {
            variance_out.extend_from_slice(&variance);
        }
        *sum = optimiser.step(F32::widen(momentum), F32::widen(variance), direction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds up what it is given, and steps by that.
    struct Adding;

    impl Optimiser for Adding {
        const MOMENTUM: bool = true;
        const VARIANCE: bool = false;
        fn remember(&self, momentum: f64, variance: f64, direction: f64) -> (f64, f64) {
            (momentum + direction, variance)
        }
        fn step(&self, momentum: f64, _: f64, _: f64) -> f64 {
            momentum
        }
    }

    #[test]
    fn a_step_follows_from_the_rounded_moment() {
        let (mut momentum, mut variance) = (Vec::new(), Vec::new());
        let mut sums = [1.0 + 2f64.powi(-40), f64::NAN, 1e300];
        let old = 1.0f32.to_le_bytes().repeat(3);
        let moments = Moments { momentum: &old, variance: &[] };
        advance(&Adding, &mut sums, 2.0, moments, &mut momentum, &mut variance);
        assert_eq!(sums.map(f64::to_bits), [1.5, 1.0, f64::from(f32::MAX)].map(f64::to_bits));
        let expected: Vec<u8> =
            [1.5f32, 1.0, f32::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!((momentum, variance), (expected, Vec::new()));
    }
}
