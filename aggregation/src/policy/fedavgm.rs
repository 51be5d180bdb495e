//! FedAvgM: FedAvg with momentum at the server.
//!
//! Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
//! Classification", 2019, section 3.3:
//!
//! m′ = β m + d; θ′ = θ + η m′
//!
//! with d the direction that the rule gives (FedAvg's for `fedavgm`; any other rule's with `server=momentum`), β the
//! setting `momentum`, from 0 to below 1, and m zero at first. With β = 0.9 a steady direction is walked ten times as
//! far as without.

use super::setting::{Setting, decimal};
use crate::kernel::server::Optimiser;

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Momentum {
    pub(crate) momentum: f64,
}

impl Momentum {
    /// β.
    pub(crate) const MOMENTUM: Setting = Setting {
        name: "momentum",
        default: "0.9",
        expected: "a decimal number below 1, such as 0.9",
        meaning: "how much of the last step is added to the next",
    };

    pub(crate) fn explain(self) -> String {
        format!("To this direction {} of the last one is added (momentum).", self.momentum)
    }
}

/// A decimal number from 0 to below 1.
pub(crate) fn decay(text: &str) -> Option<f64> {
    decimal(text).filter(|decay| *decay < 1.0)
}

impl Optimiser for Momentum {
    const MOMENTUM: bool = true;
    const VARIANCE: bool = false;

    fn remember(&self, momentum: f64, variance: f64, direction: f64) -> (f64, f64) {
        (self.momentum * momentum + direction, variance)
    }

    fn step(&self, momentum: f64, _: f64, _: f64) -> f64 {
        momentum
    }
}
