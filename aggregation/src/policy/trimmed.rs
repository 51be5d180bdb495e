//! Trimmed mean: at every coordinate the largest and the smallest movements are left out.
//!
//! Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, algorithm 1,
//! option II, with a server's learning rate η and a staleness discount s:
//!
//! θ′ = θ + η / (n − 2f) · Σ of the middle n − 2f of s(τᵢ) Δᵢ, coordinate by coordinate
//!
//! f is the setting `dishonest`. It holds against f persons where n ≥ 2f + 1; with fewer persons f is taken for the
//! largest number that holds, ⌊(n − 1) / 2⌋, and that is the median. Everybody counts the same, whatever number of
//! examples they claim. Averaged values (batch-norm statistics) are trimmed means too.

use super::dishonest::Dishonest;
use super::rule::{Crowd, Rule, Weights};
use crate::kernel::order::Statistic;

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrimmedMean {
    pub(crate) dishonest: Dishonest,
}

impl TrimmedMean {
    /// f of n persons.
    fn bound(self, persons: usize) -> usize {
        self.dishonest.among(persons, persons.saturating_sub(1) / 2)
    }
}

impl Rule for TrimmedMean {
    fn explain(&self) -> String {
        "At every weight the model takes the mean of the persons' changes without the largest and the smallest of them.".to_owned()
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let each_end = self.bound(crowd.persons.len());
        Weights::ranked(crowd.discounts(), Statistic::Trimmed { each_end }, Vec::new())
    }

    fn withstands(&self, persons: usize) -> Option<usize> {
        Some(self.bound(persons))
    }
}
