//! Median: at every coordinate the median of the persons' movements.
//!
//! Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, algorithm 1,
//! option I, with a server's learning rate η and a staleness discount s:
//!
//! θ′ = θ + η · medianᵢ s(τᵢ) Δᵢ, coordinate by coordinate
//!
//! Of an even number of persons the mean of the middle two is taken. It holds against fewer than half of the
//! persons: against f where n ≥ 2f + 1. Two persons cannot outvote one another: their median is their mean. Everybody
//! counts the same, whatever number of examples they claim. Averaged values (batch-norm statistics) are medians too.

use super::rule::{Crowd, Rule, Weights};
use crate::kernel::order::Statistic;

/// The rule; it has no settings of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Median;

impl Rule for Median {
    fn explain(&self) -> String {
        "At every weight the model takes the median of the persons' changes.".to_owned()
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        Weights::ranked(crowd.discounts(), Statistic::Median, Vec::new())
    }

    fn withstands(&self, persons: usize) -> Option<usize> {
        Some(persons.saturating_sub(1) / 2)
    }
}
