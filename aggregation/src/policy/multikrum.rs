//! Multi-Krum: the mean of the movements of several persons with the lowest Krum scores.
//!
//! Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NIPS 2017, section 4
//! (m-Krum); how many may be averaged without losing the promise is from El Mhamdi, Guerraoui and Rouault, "The
//! Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018, section 2:
//!
//! θ′ = θ + η / m · Σ vᵢ over the m persons with the lowest scores, m ≤ n − f − 2, vᵢ = s(τᵢ) Δᵢ
//!
//! Scores, f and its bound n ≥ 2f + 3 are those of [Krum](super::krum). m is the setting `keep`: as many as may be,
//! or a number, which is lowered where it is too large. Fewer than three persons are averaged. Averaged values
//! (batch-norm statistics) are the mean of the chosen persons'.

use super::dishonest::Dishonest;
use super::krum::{bound, choose};
use super::rule::{Crowd, Need, Rule, Weights};
use super::setting::{Setting, count};

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MultiKrum {
    pub(crate) dishonest: Dishonest,
    /// How many are averaged, at most; as many as may be if `None`.
    pub(crate) keep: Option<u32>,
}

impl MultiKrum {
    /// How many are averaged.
    pub(crate) const KEEP: Setting = Setting {
        name: "keep",
        default: "most",
        expected: "a number of persons of at least 1, or 'most' for as many as the rule allows",
        meaning: "how many persons' changes are averaged",
    };

    /// Reads [`Self::KEEP`].
    #[allow(clippy::option_option, reason = "a value that is most is not one that is wrong")]
    pub(crate) fn keep(text: &str) -> Option<Option<u32>> {
        if text == "most" { Some(None) } else { count(text, 1, 256).map(Some) }
    }
}

impl Rule for MultiKrum {
    fn explain(&self) -> String {
        let who = match self.keep {
            None => "the persons".to_owned(),
            Some(1) => "the person".to_owned(),
            Some(count) => format!("the {count} persons"),
        };
        format!(
            "The model takes the mean of the changes of {who} whose nearest others are nearest, and leaves the others' out."
        )
    }

    fn needs(&self) -> Need {
        Need::Distances
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let persons = crowd.persons.len();
        let dishonest = bound(self.dishonest, persons);
        let most = persons.saturating_sub(dishonest + 2).max(1);
        let keep = self.keep.map_or(most, |keep| most.min(keep as usize));
        Weights::mean(&crowd.discounts(), &choose(crowd.distances, persons, dishonest, keep))
    }

    fn withstands(&self, persons: usize) -> Option<usize> {
        Some(bound(self.dishonest, persons))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crowd, on_a_line, person};
    use super::*;
    use crate::kernel::order::Statistic;

    #[test]
    fn as_many_as_may_be_are_averaged() {
        let distances = on_a_line(&[0.0, 1.0, 1.5, 2.5, 100.0, 101.0, 102.0]);
        let persons = [person(1, 0); 7];
        let crowd = Crowd { distances: &distances, ..crowd(&persons) };
        let left_out = |keep| {
            let weights = MultiKrum { dishonest: Dishonest::Persons(2), keep }.weigh(&crowd);
            assert_eq!(weights.combined, Statistic::Mean { divisor: 7.0 - weights.left_out.len() as f64 });
            weights.left_out
        };
        assert_eq!(left_out(None), [3, 4, 5, 6]);
        assert_eq!(left_out(Some(200)), [3, 4, 5, 6]);
        assert_eq!(left_out(Some(2)), [0, 3, 4, 5, 6]);
    }
}
