//! FedAvg: the mean of the persons' movements, weighed by how many examples each trained on.
//!
//! McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, algorithm 1,
//! with a server's learning rate η and a staleness discount s:
//!
//! θ′ = θ + η · Σ nᵢ s(τᵢ) Δᵢ / Σ nᵢ
//!
//! The discount stands above the line only, so that it never cancels out: a lone update that counts half moves
//! the model by half its change. Example counts are claims that nobody can check; they are capped at a multiple
//! of the median over persons, and a claim of zero counts as one. Averaged values (batch-norm statistics) are
//! weighed by nᵢ s(τᵢ) above and below the line: a mean must stay among the values it is of.

use super::staleness::Staleness;
use super::{Standing, Weights, median};

/// The rule in plain words.
pub(super) fn explain() -> String {
    "The change of the model is the mean of the persons' changes, weighed by how many examples each trained on."
        .to_owned()
}

/// The weights of these persons. Sums run in the order given.
pub(super) fn weigh(persons: &[Standing], staleness: Staleness, cap: Option<f64>) -> Weights {
    let claimed: Vec<f64> = persons.iter().map(|person| person.examples.max(1) as f64).collect();
    let most = match (cap, median(claimed.clone())) {
        (Some(cap), Some(median)) => cap * median,
        _ => f64::MAX,
    };
    let examples: Vec<f64> = claimed.iter().map(|claimed| claimed.min(most)).collect();
    let movement: Vec<f64> = examples
        .iter()
        .zip(persons)
        .map(|(examples, person)| examples * staleness.discount(person.staleness))
        .collect();
    Weights {
        movement_divisor: examples.iter().sum(),
        value_divisor: movement.iter().sum(),
        value: movement.clone(),
        movement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(examples: u64, staleness: u32) -> Standing {
        Standing { examples, staleness }
    }

    #[test]
    fn a_discount_stands_above_the_line_only() {
        let weights = weigh(&[person(10, 3), person(30, 0)], Staleness::Root, None);
        assert_eq!(weights.movement, [5.0, 30.0]);
        assert_eq!((weights.movement_divisor, weights.value_divisor), (40.0, 35.0));
    }

    #[test]
    fn a_boastful_claim_is_capped_at_a_multiple_of_the_median() {
        let persons = [person(100, 0), person(200, 0), person(u64::MAX, 0)];
        assert_eq!(weigh(&persons, Staleness::Constant, Some(2.0)).movement, [100.0, 200.0, 400.0]);
    }

    #[test]
    fn no_examples_count_as_one() {
        let weights = weigh(&[person(0, 0)], Staleness::Constant, Some(2.0));
        assert_eq!((weights.movement, weights.movement_divisor), (vec![1.0], 1.0));
    }
}
