//! FedAdam: FedAvg with Adam at the server.
//!
//! Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2:
//!
//! m′ = β₁ m + (1 − β₁) d; v′ = β₂ v + (1 − β₂) d²; θ′ = θ + η m′ / (√v′ + τ)
//!
//! with d the direction that the rule gives (FedAvg's for `fedadam`; any other rule's with `server=adam`), the
//! settings `beta1` and `beta2` from 0 to below 1, and `tau` above 0, which says how far steps may adapt. m is zero
//! and v is τ² at first, as in the paper; there is no bias correction, as in the paper (Flower's FedAdam starts v at
//! zero and corrects it). The step of a weight is about η whatever the size of d, so η is much smaller than elsewhere.

use super::setting::{Setting, decimal};
use crate::kernel::server::Optimiser;

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Adam {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) tau: f64,
}

/// β₁.
pub(crate) const BETA1: Setting = Setting {
    name: "beta1",
    default: "0.9",
    expected: "a decimal number below 1, such as 0.9",
    meaning: "how slowly the mean direction forgets",
};
/// β₂.
pub(crate) const BETA2: Setting = Setting {
    name: "beta2",
    default: "0.99",
    expected: "a decimal number below 1, such as 0.99",
    meaning: "how slowly the mean square of the directions forgets",
};
/// τ.
pub(crate) const TAU: Setting = Setting {
    name: "tau",
    default: "0.001",
    expected: "a decimal number above 0, such as 0.001",
    meaning: "the least that a step is divided by: the smaller, the more steps adapt",
};

/// A decimal number that divides.
pub(crate) fn tau(text: &str) -> Option<f64> {
    decimal(text).filter(|tau| *tau > 0.0 && *tau <= 1e9)
}

impl Adam {
    pub(crate) fn explain(self) -> String {
        format!(
            "Each weight's step is scaled by how much it usually changes (Adam, beta1 {}, beta2 {}, tau {}).",
            self.beta1, self.beta2, self.tau
        )
    }
}

impl Optimiser for Adam {
    const MOMENTUM: bool = true;
    const VARIANCE: bool = true;

    fn first_variance(&self) -> f64 {
        self.tau * self.tau
    }

    fn remember(&self, momentum: f64, variance: f64, direction: f64) -> (f64, f64) {
        let momentum = self.beta1 * momentum + (1.0 - self.beta1) * direction;
        let variance = self.beta2 * variance + (1.0 - self.beta2) * (direction * direction);
        (momentum, variance)
    }

    fn step(&self, momentum: f64, variance: f64, _: f64) -> f64 {
        momentum / (variance.sqrt() + self.tau)
    }
}
