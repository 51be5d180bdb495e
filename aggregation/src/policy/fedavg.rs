//! FedAvg: the mean of the persons' movements, weighed by how many examples each trained on.
//!
//! McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
//! algorithm 1, with a server's learning rate η and a staleness discount s:
//!
//! θ′ = θ + η · Σ nᵢ s(τᵢ) Δᵢ / Σ nᵢ
//!
//! The discount stands above the line only, so that it never cancels out: a lone update that counts half moves
//! the model by half its change. Example counts are claims that nobody can check; they are capped at a multiple
//! of the median over persons, and a claim of zero counts as one. Averaged values (batch-norm statistics) are
//! weighed by nᵢ s(τᵢ) above and below the line: a mean must stay among the values it is of.

use super::rule::{Crowd, Rule, Weights};
use crate::kernel::order::Statistic;

/// The rule; it has no settings of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FedAvg;

impl Rule for FedAvg {
    fn explain(&self) -> String {
        "The change of the model is the mean of the persons' changes, weighed by how many examples each trained on."
            .to_owned()
    }

    /// Sums run in the order of the persons.
    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let examples = crowd.examples();
        let movement: Vec<f64> =
            examples.iter().zip(crowd.discounts()).map(|(examples, discount)| examples * discount).collect();
        Weights {
            combined: Statistic::Mean { divisor: examples.iter().sum() },
            averaged: Statistic::Mean { divisor: movement.iter().sum() },
            value: movement.clone(),
            movement,
            left_out: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::staleness::Staleness;
    use super::super::testing::{crowd, person};
    use super::*;

    #[test]
    fn a_discount_stands_above_the_line_only() {
        let persons = [person(10, 3), person(30, 0)];
        let weights = FedAvg.weigh(&Crowd { staleness: Staleness::Root, ..crowd(&persons) });
        assert_eq!(weights.movement, [5.0, 30.0]);
        assert_eq!(weights.combined, Statistic::Mean { divisor: 40.0 });
        assert_eq!(weights.averaged, Statistic::Mean { divisor: 35.0 });
    }

    #[test]
    fn a_boastful_claim_is_capped_at_a_multiple_of_the_median() {
        let persons = [person(100, 0), person(200, 0), person(u64::MAX, 0)];
        let weights = FedAvg.weigh(&Crowd { cap: Some(2.0), ..crowd(&persons) });
        assert_eq!(weights.movement, [100.0, 200.0, 400.0]);
    }

    #[test]
    fn no_examples_count_as_one() {
        let weights = FedAvg.weigh(&Crowd { cap: Some(2.0), ..crowd(&[person(0, 0)]) });
        assert_eq!((weights.movement, weights.combined), (vec![1.0], Statistic::Mean { divisor: 1.0 }));
    }
}
