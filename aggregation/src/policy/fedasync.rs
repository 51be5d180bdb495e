//! FedAsync: the model is mixed with each model that arrives, less with a late one.
//!
//! Xie, Koyejo and Gupta, "Asynchronous Federated Optimization", 2019 (OPT 2020), algorithm 1:
//!
//! θ′ = (1 − α s(τ)) θ + α s(τ) x = θ + α s(τ) (x − θ)
//!
//! with α the setting `eta`, above 0 and at most 1. The paper takes one model at a time, which is an aggregate of
//! one person (`every` = 1); several in one aggregate are averaged:
//!
//! θ′ = θ + α / persons · Σ s(τᵢ) (xᵢ − θ)
//!
//! This is the one rule here that mixes *models*: a movement is measured from the parent, not from what the person
//! trained from, so a late model also pulls the model back to where it was when the person began. FedBuff, which
//! adds up changes, does not. A person's model is the mean of those of their updates that none of their updates in
//! the set stands on. Averaged values (batch-norm statistics) are weighed by s(τᵢ) above and below the line.

use super::rule::{Crowd, Rule, Weights};
use super::setting::{ETA, Setting, decimal};

/// The rule; its only setting is what `eta` means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FedAsync;

impl FedAsync {
    /// α, under the name that the other rules' scale has.
    pub(crate) const ETA: Setting = Setting {
        default: "0.6",
        expected: "a decimal number above 0 and at most 1, such as 0.6",
        meaning: "how much of an arriving model is mixed in",
        ..ETA
    };

    /// Whether a number is an α.
    pub(crate) fn is_share(text: &str) -> bool {
        decimal(text).is_some_and(|alpha| alpha > 0.0 && alpha <= 1.0)
    }
}

impl Rule for FedAsync {
    fn explain(&self) -> String {
        "The model is mixed with the mean of the persons' models, and a late one pulls it back to where its author began; made for aggregates of one person (every = 1).".to_owned()
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let everybody: Vec<usize> = (0..crowd.persons.len()).collect();
        Weights::mean(&crowd.discounts(), &everybody)
    }

    fn mixes(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::staleness::Staleness;
    use super::super::testing::{crowd, person};
    use super::*;
    use crate::kernel::order::Statistic;

    #[test]
    fn late_models_are_mixed_in_less() {
        let persons = [person(7, 0), person(9000, 3)];
        let weights = FedAsync.weigh(&Crowd { staleness: Staleness::Root, ..crowd(&persons) });
        assert_eq!((weights.movement, weights.combined), (vec![1.0, 0.5], Statistic::Mean { divisor: 2.0 }));
    }
}
