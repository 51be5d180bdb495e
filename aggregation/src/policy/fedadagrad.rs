//! FedAdagrad: FedAvg with Adagrad at the server.
//!
//! Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2, with β₁ = 0 as in its experiments:
//!
//! v′ = v + d²; θ′ = θ + η d / (√v′ + τ)
//!
//! with d the direction that the rule gives (FedAvg's for `fedadagrad`; any other rule's with `server=adagrad`), and
//! the setting `tau` above 0. v is τ² at first. Steps only get smaller, as v never falls.

use crate::kernel::server::Optimiser;

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Adagrad {
    pub(crate) tau: f64,
}

impl Adagrad {
    pub(crate) fn explain(self) -> String {
        format!("Each weight's step is scaled by how much it has changed so far (Adagrad, tau {}).", self.tau)
    }
}

impl Optimiser for Adagrad {
    const MOMENTUM: bool = false;
    const VARIANCE: bool = true;

    fn first_variance(&self) -> f64 {
        self.tau * self.tau
    }

    fn remember(&self, momentum: f64, variance: f64, direction: f64) -> (f64, f64) {
        (momentum, variance + direction * direction)
    }

    fn step(&self, _: f64, variance: f64, direction: f64) -> f64 {
        direction / (variance.sqrt() + self.tau)
    }
}
