//! Norm clipping: the mean of the persons' movements, each shortened to a bound.
//!
//! Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 4.1 (norm thresholding), with a server's
//! learning rate η and a staleness discount s:
//!
//! θ′ = θ + η / persons · Σ vᵢ / max(1, ‖vᵢ‖ / M) with vᵢ = s(τᵢ) Δᵢ
//!
//! M is the setting `radius`: a norm, as in the paper, or a multiple of the median of ‖vᵢ‖ over the persons of the
//! aggregate. No person moves the model by more than η M / persons; many who agree still can. The setting `clip`,
//! which every rule has, bounds movements against *earlier* aggregates instead. Everybody counts the same, whatever
//! number of examples they claim. Averaged values (batch-norm statistics) are medians, which a bound on movements
//! would not hold.

use super::radius::{Radius, shortening};
use super::rule::{Crowd, Need, Rule, Weights};

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormClipping {
    pub(crate) radius: Radius,
}

impl Rule for NormClipping {
    fn explain(&self) -> String {
        format!(
            "The change of the model is the mean of the persons' changes, each shortened to {}. It bounds how far one person can move the model, not how far many can.",
            self.radius.explain("change")
        )
    }

    fn needs(&self) -> Need {
        Need::Lengths
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let bound = self.radius.among(crowd.lengths);
        let discounts = crowd.discounts();
        let each = discounts.iter().zip(crowd.lengths);
        let movement = each.map(|(discount, length)| discount * shortening(*length, bound)).collect();
        Weights::bounded(movement, (crowd.persons.len() as f64).max(1.0), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crowd, person};
    use super::*;
    use crate::kernel::order::Statistic;

    #[test]
    fn who_moved_far_is_shortened_to_the_bound() {
        let persons = [person(1, 0); 3];
        let crowd = Crowd { lengths: &[1.0, 2.0, 100.0], ..crowd(&persons) };
        let weights = NormClipping { radius: Radius::Median(1.0) }.weigh(&crowd);
        assert_eq!(weights.movement, [1.0, 1.0, 0.02]);
        assert_eq!(weights.combined, Statistic::Mean { divisor: 3.0 });
        let fixed = NormClipping { radius: Radius::Fixed(0.5) }.weigh(&crowd);
        assert_eq!(fixed.movement, [0.5, 0.25, 0.005]);
    }
}
