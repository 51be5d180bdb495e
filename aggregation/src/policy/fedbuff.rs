//! FedBuff: the sum of the persons' movements over the size of the buffer.
//!
//! Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", 2022, algorithm 1:
//!
//! θ′ = θ + η / max(K, persons) · Σ s(τᵢ) Δᵢ
//!
//! K is the number of persons an aggregate waits for. Fewer than K still divide by K, so an early aggregate takes
//! a smaller step instead of letting few pull as hard as many. Everybody counts the same, whatever number of
//! examples they claim, so a cap on example counts has nothing to do here. Averaged values (batch-norm
//! statistics) are weighed by s(τᵢ) above and below the line.

use super::staleness::Staleness;
use super::{Standing, Weights};

/// The rule in plain words.
pub(super) fn explain() -> String {
    "Everybody counts the same: the persons' changes are added up and divided by their number, or by the number an aggregate waits for where fewer take part.".to_owned()
}

/// The weights of these persons. Sums run in the order given.
pub(super) fn weigh(persons: &[Standing], staleness: Staleness, every: u32) -> Weights {
    let movement: Vec<f64> = persons.iter().map(|person| staleness.discount(person.staleness)).collect();
    Weights {
        movement_divisor: (persons.len() as f64).max(f64::from(every)),
        value_divisor: movement.iter().sum(),
        value: movement.clone(),
        movement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_the_buffer_still_divide_by_the_buffer() {
        let persons = [Standing { examples: 7, staleness: 0 }, Standing { examples: 9000, staleness: 3 }];
        let weights = weigh(&persons, Staleness::Root, 3);
        assert_eq!((weights.movement, weights.movement_divisor), (vec![1.0, 0.5], 3.0));
        assert_eq!(weights.value_divisor.to_bits(), 1.5f64.to_bits());
        assert_eq!(weigh(&persons, Staleness::Root, 1).movement_divisor.to_bits(), 2.0f64.to_bits());
    }
}
