//! FedYogi: FedAvg with Yogi at the server.
//!
//! Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2:
//!
//! m′ = β₁ m + (1 − β₁) d; v′ = v − (1 − β₂) d² sign(v − d²); θ′ = θ + η m′ / (√v′ + τ)
//!
//! Settings and first values are those of [FedAdam](super::fedadam); `server=yogi` gives it to any other rule. Unlike
//! Adam's, the second moment changes by no more than (1 − β₂) d² at a time, so a sudden large d does not make later
//! steps small for long.

use super::fedadam::Adam;
use crate::kernel::server::Optimiser;

/// The optimiser, with Adam's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Yogi(pub(crate) Adam);

impl Yogi {
    pub(crate) fn explain(self) -> String {
        let Adam { beta1, beta2, tau } = self.0;
        format!(
            "Each weight's step is scaled by how much it usually changes (Yogi, beta1 {beta1}, beta2 {beta2}, tau {tau})."
        )
    }
}

impl Optimiser for Yogi {
    const MOMENTUM: bool = true;
    const VARIANCE: bool = true;

    fn first_variance(&self) -> f64 {
        self.0.first_variance()
    }

    fn remember(&self, momentum: f64, variance: f64, direction: f64) -> (f64, f64) {
        let momentum = self.0.beta1 * momentum + (1.0 - self.0.beta1) * direction;
        let square = direction * direction;
        let change = (1.0 - self.0.beta2) * square;
        let variance = if variance > square {
            variance - change
        } else if variance < square {
            variance + change
        } else {
            variance
        };
        (momentum, variance)
    }

    fn step(&self, momentum: f64, variance: f64, direction: f64) -> f64 {
        self.0.step(momentum, variance, direction)
    }
}
