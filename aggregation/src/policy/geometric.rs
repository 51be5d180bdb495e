//! Geometric median: the point whose distances to the persons' movements add up to the least.
//!
//! Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
//! Processing 2022 (RFA), algorithm 2 (smoothed Weiszfeld), with a server's learning rate η and a staleness discount
//! s, and vᵢ = s(τᵢ) Δᵢ:
//!
//! z₀ = the mean of vᵢ; zₜ₊₁ = Σ βᵢ vᵢ / Σ βᵢ with βᵢ = 1 / max(ν, ‖vᵢ − zₜ‖); θ′ = θ + η z
//!
//! for the setting `iterations`, which cost nothing beside the distances between persons ([`super::centre`]). The
//! smoothing ν is a millionth of the least median distance that anybody has to the others, so that it does not depend
//! on the scale of the weights (the paper has 10⁻⁶) nor on who is far away. Whoever is more than ten thousand times
//! that distance from the person who has it is left out. It holds against fewer than half of the persons: against f
//! where n ≥ 2f + 1. Two persons' geometric median is their mean. Everybody counts the same, whatever number of
//! examples they claim. Averaged values (batch-norm statistics) are medians, coordinate by coordinate.

use super::centre::{Core, to_centre};
use super::rule::{Crowd, Distances, Need, Rule, Weights};

/// ν, as a part of the core's radius.
const SMOOTHING: f64 = 1e-6;

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GeometricMedian {
    pub(crate) iterations: u32,
}

impl Rule for GeometricMedian {
    fn explain(&self) -> String {
        format!(
            "The change of the model is the point whose distances to the persons' changes add up to the least, as {} steps find it.",
            self.iterations
        )
    }

    fn needs(&self) -> Need {
        Need::Distances
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let core = Core::new(crowd.distances);
        let left_out = core.far(crowd.distances, 0.0);
        let shares = self.shares(crowd.distances, SMOOTHING * core.radius, &left_out);
        let movement =
            shares.iter().zip(crowd.discounts()).map(|(share, discount)| share * discount).collect();
        Weights::bounded(movement, 1.0, left_out)
    }

    fn withstands(&self, persons: usize) -> Option<usize> {
        Some(persons.saturating_sub(1) / 2)
    }
}

impl GeometricMedian {
    /// What share of each person's movement the centre is made of.
    fn shares(self, distances: &Distances, least: f64, left_out: &[usize]) -> Vec<f64> {
        let persons = distances.persons();
        let part = |pull: f64, person: usize| if left_out.contains(&person) { 0.0 } else { pull };
        let share = |pulls: Vec<f64>| {
            let total: f64 = pulls.iter().sum();
            pulls.into_iter().map(|pull| pull / total).collect::<Vec<f64>>()
        };
        let mut shares = share((0..persons).map(|person| part(1.0, person)).collect());
        // Where most agree exactly, the others are left out, and the mean is the point.
        for _ in 0..if least > 0.0 { self.iterations } else { 0 } {
            let apart = to_centre(distances, &shares).into_iter().enumerate();
            shares = share(apart.map(|(person, distance)| part(1.0 / distance.max(least), person)).collect());
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crowd, on_a_line, person};
    use super::*;

    fn weights(points: &[f64]) -> Weights {
        let (persons, distances) = (vec![person(1, 0); points.len()], on_a_line(points));
        GeometricMedian { iterations: 200 }.weigh(&Crowd { distances: &distances, ..crowd(&persons) })
    }

    #[test]
    fn on_a_line_it_is_the_median() {
        let points = [3.0, 1.0, 2.0, 900.0, 2.5];
        let weights = weights(&points);
        let centre: f64 = weights.movement.iter().zip(points).map(|(share, point)| share * point).sum();
        assert!((centre - 2.5).abs() < 1e-3, "{centre}");
        assert!((weights.movement.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn persons_who_agree_count_alike() {
        assert_eq!(weights(&[4.0; 4]).movement, [0.25; 4]);
        assert!(weights(&[]).movement.is_empty());
    }

    #[test]
    fn nobody_gets_influence_by_being_far_away() {
        for far in [1e5, 1e12, 1e38] {
            let weights = weights(&[1.0, far, 1.2, 1.1]);
            assert_eq!(
                (weights.left_out, weights.movement[1].to_bits()),
                (vec![1], 0.0f64.to_bits()),
                "{far}"
            );
        }
    }
}
