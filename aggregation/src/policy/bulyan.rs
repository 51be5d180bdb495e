//! Bulyan: Krum chooses persons one after the other, then coordinates are averaged around their median.
//!
//! El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
//! section 4, with a server's learning rate η and a staleness discount s, and vᵢ = s(τᵢ) Δᵢ:
//!
//! 1. n − 2f times: the person whom [Krum](super::krum) chooses of those who are left is taken into the selection.
//! 2. θ′ = θ + η · the mean, coordinate by coordinate, of the n − 4f numbers of the selection that are nearest to
//!    their median.
//!
//! f is the setting `dishonest`. It holds against f persons where n ≥ 4f + 3; with fewer persons f is taken for the
//! largest number that holds, ⌊(n − 3) / 4⌋. With f = 0 everybody is averaged. Krum's score counts the n − f − 2
//! nearest of those who are left, or the nearest one where that is no number. Of equal scores the person with the
//! lower id is taken, of numbers equally near the lower. Everybody counts the same, whatever number of examples they
//! claim. Averaged values (batch-norm statistics) go through step 2 as well.
//!
//! Krum alone can be led astray at a single weight by somebody who is near everywhere else; step 2 closes that.

use super::dishonest::Dishonest;
use super::krum::scores;
use super::rule::{Crowd, Distances, Need, Rule, Weights};
use crate::kernel::order::Statistic;

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulyan {
    pub(crate) dishonest: Dishonest,
}

impl Bulyan {
    /// f of n persons.
    fn bound(self, persons: usize) -> usize {
        self.dishonest.among(persons, persons.saturating_sub(3) / 4)
    }
}

impl Rule for Bulyan {
    fn explain(&self) -> String {
        "The persons whose nearest others are nearest are chosen one after the other; at every weight the model takes the mean of those of their changes that are nearest to the median.".to_owned()
    }

    fn needs(&self) -> Need {
        Need::Distances
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let persons = crowd.persons.len();
        let dishonest = self.bound(persons);
        let left_out = left_over(crowd.distances, persons, dishonest);
        let statistic = Statistic::Central { count: (persons - 4 * dishonest).max(1) };
        Weights::ranked(crowd.discounts(), statistic, left_out)
    }

    fn withstands(&self, persons: usize) -> Option<usize> {
        Some(self.bound(persons))
    }
}

/// Those who are not selected, ascending.
fn left_over(distances: &Distances, persons: usize, dishonest: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..persons).collect();
    if dishonest == 0 {
        return Vec::new();
    }
    while left.len() > 2 * dishonest {
        let scores = scores(distances, &left, dishonest);
        let best = (0..left.len()).min_by(|one, other| scores[*one].total_cmp(&scores[*other]));
        let Some(best) = best else { break };
        left.remove(best);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crowd, on_a_line, person};
    use super::*;

    #[test]
    fn the_far_ones_are_left_over() {
        let distances = on_a_line(&[0.0, 1.0, 50.0, 1.5, 2.5, 2.6, 1.1]);
        let persons = [person(1, 0); 7];
        let weights = Bulyan { dishonest: Dishonest::Persons(1) }
            .weigh(&Crowd { distances: &distances, ..crowd(&persons) });
        assert_eq!(weights.left_out.len(), 2);
        assert!(weights.left_out.contains(&2), "{:?}", weights.left_out);
        assert_eq!(weights.combined, Statistic::Central { count: 3 });
    }

    #[test]
    fn too_few_persons_lower_f_and_then_everybody_is_averaged() {
        let bulyan = Bulyan { dishonest: Dishonest::Persons(2) };
        let withstands: Vec<_> = (0..=12).map(|persons| bulyan.withstands(persons).unwrap()).collect();
        assert_eq!(withstands, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
        let persons = [person(1, 0); 3];
        let distances = on_a_line(&[0.0, 1.0, 50.0]);
        let weights = bulyan.weigh(&Crowd { distances: &distances, ..crowd(&persons) });
        assert_eq!((weights.left_out, weights.combined), (vec![], Statistic::Central { count: 3 }));
    }
}
