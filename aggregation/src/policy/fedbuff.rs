//! FedBuff: the sum of the persons' movements over the size of the buffer.
//!
//! Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, algorithm 1:
//!
//! θ′ = θ + η / max(K, persons) · Σ s(τᵢ) Δᵢ
//!
//! K is the number of persons an aggregate waits for. Fewer than K still divide by K, so an early aggregate takes
//! a smaller step instead of letting few pull as hard as many. Everybody counts the same, whatever number of
//! examples they claim, so a cap on example counts has nothing to do here. Averaged values (batch-norm
//! statistics) are weighed by s(τᵢ) above and below the line.

use super::rule::{Crowd, Rule, Weights};
use crate::kernel::order::Statistic;

/// The rule; it has no settings of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FedBuff;

impl Rule for FedBuff {
    fn explain(&self) -> String {
        "Everybody counts the same: the persons' changes are added up and divided by their number, or by the number an aggregate waits for where fewer take part.".to_owned()
    }

    /// Sums run in the order of the persons.
    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let movement = crowd.discounts();
        Weights {
            combined: Statistic::Mean { divisor: (movement.len() as f64).max(f64::from(crowd.every)) },
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
    fn fewer_than_the_buffer_still_divide_by_the_buffer() {
        let persons = [person(7, 0), person(9000, 3)];
        let crowd = Crowd { staleness: Staleness::Root, every: 3, ..crowd(&persons) };
        let weights = FedBuff.weigh(&crowd);
        assert_eq!((weights.movement, weights.combined), (vec![1.0, 0.5], Statistic::Mean { divisor: 3.0 }));
        assert_eq!(weights.averaged, Statistic::Mean { divisor: 1.5 });
        let one = FedBuff.weigh(&Crowd { every: 1, ..crowd });
        assert_eq!(one.combined, Statistic::Mean { divisor: 2.0 });
    }
}
