//! FedNova: movements are put on a common number of local steps before they are averaged.
//!
//! Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS
//! 2020, equation 7, with local solvers that take plain steps (so that ‖aᵢ‖₁ is their number), a server's learning
//! rate η and a staleness discount s:
//!
//! θ′ = θ + η · a · Σ nᵢ s(τᵢ) (Δᵢ / aᵢ) / Σ nᵢ with a = Σ nᵢ aᵢ / Σ nᵢ
//!
//! Who takes twice the steps moves about twice as far, and FedAvg would then lean to their data. aᵢ are the local
//! steps that the person's updates state (`flair commit --steps`); they are claims, and a claim of few steps would
//! make a movement count more. So a claim counts as at least the median over persons divided by `cap` and at most
//! the median times `cap`; who states none counts as the median person. If nobody does, this is FedAvg. Example
//! counts are capped and averaged values weighed as in FedAvg.

use super::rule::{Crowd, Rule, Weights, median};
use crate::kernel::order::Statistic;

/// The rule; it has no settings of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FedNova;

impl Rule for FedNova {
    fn explain(&self) -> String {
        "The change of the model is the mean of the persons' changes, each put on the same number of local steps (as their updates state them) and weighed by how many examples each trained on.".to_owned()
    }

    /// Sums run in the order of the persons.
    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let (examples, discounts, steps) = (crowd.examples(), crowd.discounts(), steps(crowd));
        let total: f64 = examples.iter().sum();
        let common =
            examples.iter().zip(&steps).map(|(examples, steps)| examples * steps).sum::<f64>() / total;
        let each = examples.iter().zip(&steps).zip(&discounts);
        let movement = each.map(|((examples, steps), discount)| common * examples / steps * discount);
        let value: Vec<f64> =
            examples.iter().zip(&discounts).map(|(examples, discount)| examples * discount).collect();
        Weights {
            movement: movement.collect(),
            combined: Statistic::Mean { divisor: total },
            averaged: Statistic::Mean { divisor: value.iter().sum() },
            value,
            left_out: Vec::new(),
        }
    }
}

/// Local steps of each person, within the policy's multiple of their median either way.
fn steps(crowd: &Crowd<'_>) -> Vec<f64> {
    let stated: Vec<f64> = crowd.persons.iter().filter_map(|person| person.steps).collect();
    let middle = median(&stated).unwrap_or(1.0);
    let held = |steps: f64| match crowd.cap {
        Some(cap) => steps.clamp(middle / cap, middle * cap),
        None => steps,
    };
    crowd.persons.iter().map(|person| held(person.steps.unwrap_or(middle))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rule::Standing;
    use super::super::testing::{crowd, person};
    use super::*;

    fn after(examples: u64, steps: f64) -> Standing {
        Standing { steps: Some(steps), ..person(examples, 0) }
    }

    #[test]
    fn twice_the_steps_count_half_as_much_each() {
        let weights = FedNova.weigh(&crowd(&[after(10, 10.0), after(10, 20.0)]));
        // a = 15: movements count 15/10 and 15/20 of what they would in FedAvg.
        assert_eq!(weights.movement, [15.0, 7.5]);
        assert_eq!(weights.combined, Statistic::Mean { divisor: 20.0 });
    }

    #[test]
    fn a_claim_of_few_steps_gains_little() {
        let persons = [after(1, 100.0), after(1, 100.0), after(1, 1.0), after(1, 1e9), person(1, 0)];
        assert_eq!(steps(&Crowd { cap: Some(2.0), ..crowd(&persons) }), [100.0, 100.0, 50.0, 200.0, 100.0]);
    }

    #[test]
    fn without_steps_it_is_fedavg() {
        let persons = [person(10, 0), person(30, 2)];
        assert_eq!(FedNova.weigh(&crowd(&persons)), super::super::fedavg::FedAvg.weigh(&crowd(&persons)));
    }
}
