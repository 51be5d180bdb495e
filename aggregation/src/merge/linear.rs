//! A weighted mean: θ = (1 − w) · a + w · b.
//!
//! M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
//! increasing inference time", ICML 2022. Good where both branches were trained from a common model and did not move
//! far apart; their common ancestor's values do not matter. `weight` is w, the second's share: 0 to 1.

use super::Statistics;
use super::method::{Rule, Values3};
use super::pass::Place;
use crate::policy::{PolicyError, Setting, Values, decimal};

pub(super) const WEIGHT: Setting = Setting {
    name: "weight",
    default: "0.5",
    expected: "a decimal number from 0 to 1, such as 0.5",
    meaning: "the share of the branch that is merged in",
};

/// The rule, with w.
#[derive(Debug)]
pub(super) struct Linear {
    weight: f64,
}

impl Linear {
    pub(super) fn read(values: &Values) -> Result<Self, PolicyError> {
        let share = |text: &str| decimal(text).filter(|weight| *weight <= 1.0);
        Ok(Self { weight: values.read(&WEIGHT, share)? })
    }
}

impl Rule for Linear {
    fn explain(&self) -> String {
        format!("The weighted mean of both models: the one merged in counts {}.", self.weight)
    }

    fn weight(&self) -> f64 {
        self.weight
    }

    fn looks_at_base(&self) -> bool {
        false
    }

    fn merge(&self, _: &Place<'_>, values: Values3<'_>, out: &mut [f64], _: &mut Statistics) {
        for (out, (_, first, second)) in out.iter_mut().zip(values.each()) {
            *out = mean(self.weight, first, second);
        }
    }
}

/// (1 − w) · a + w · b; where both are equal, a as it is.
#[inline]
#[expect(clippy::float_cmp, reason = "the very same number, or none")]
pub(super) fn mean(weight: f64, first: f64, second: f64) -> f64 {
    let value = (1.0 - weight) * first + weight * second;
    if first == second { first } else { value }
}
