//! Krum: the movement of the one person whose nearest others are nearest.
//!
//! Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NIPS 2017, section 4,
//! with a server's learning rate η and a staleness discount s:
//!
//! θ′ = θ + η vₖ with k = argminᵢ Σ of the n − f − 2 smallest ‖vᵢ − vⱼ‖², j ≠ i, and vᵢ = s(τᵢ) Δᵢ
//!
//! f is the setting `dishonest`. It holds against f persons where n ≥ 2f + 3; with fewer persons f is taken for the
//! largest number that holds, ⌊(n − 3) / 2⌋. Fewer than three persons cannot be told apart by their distances: then
//! nobody is left out, and the mean is taken. Of equal scores the person with the lower id is taken. Everybody counts
//! the same, whatever number of examples they claim. Averaged values (batch-norm statistics) are the chosen person's.
//!
//! One person's change is noisier than a mean, and where persons' data differ much, Krum always leaves some of the
//! data out; Multi-Krum averages several.

use super::dishonest::Dishonest;
use super::rule::{Crowd, Distances, Need, Rule, Weights};

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Krum {
    pub(crate) dishonest: Dishonest,
}

impl Rule for Krum {
    fn explain(&self) -> String {
        "The model takes the change of the one person whose nearest others are nearest, and leaves the others' out."
            .to_owned()
    }

    fn needs(&self) -> Need {
        Need::Distances
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let persons = crowd.persons.len();
        let chosen = choose(crowd.distances, persons, bound(self.dishonest, persons), 1);
        Weights::mean(&crowd.discounts(), &chosen)
    }

    fn withstands(&self, persons: usize) -> Option<usize> {
        Some(bound(self.dishonest, persons))
    }
}

/// The f for which n ≥ 2f + 3.
pub(super) fn bound(dishonest: Dishonest, persons: usize) -> usize {
    dishonest.among(persons, persons.saturating_sub(3) / 2)
}

/// The so many persons with the lowest scores, ascending by id; everybody if there are fewer than three.
pub(super) fn choose(distances: &Distances, persons: usize, dishonest: usize, count: usize) -> Vec<usize> {
    let everybody: Vec<usize> = (0..persons).collect();
    if persons < 3 {
        return everybody;
    }
    let mut scored: Vec<(f64, usize)> =
        scores(distances, &everybody, dishonest).into_iter().zip(everybody).collect();
    scored.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    let mut chosen: Vec<usize> = scored.into_iter().take(count).map(|(_, person)| person).collect();
    chosen.sort_unstable();
    chosen
}

/// The score of each of these persons among them: the sum, in ascending order, of the squared distances to the
/// n − f − 2 nearest others, or to the nearest if there is no such number.
pub(super) fn scores(distances: &Distances, among: &[usize], dishonest: usize) -> Vec<f64> {
    let near = among.len().saturating_sub(dishonest + 2).max(1);
    let score = |person: &usize| {
        let others = among.iter().filter(|other| *other != person);
        let mut squares: Vec<f64> = others.map(|other| distances.between(*person, *other)).collect();
        squares.sort_by(f64::total_cmp);
        squares.iter().take(near).fold(0.0, |sum, square| sum + square)
    };
    among.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crowd, on_a_line, person};
    use super::*;

    #[test]
    fn the_one_in_the_thick_of_it_is_chosen() {
        let distances = on_a_line(&[0.0, 1.0, 1.5, 2.5, 100.0, 101.0, 102.0]);
        let persons = [person(1, 0); 7];
        let weights = Krum { dishonest: Dishonest::Persons(2) }
            .weigh(&Crowd { distances: &distances, ..crowd(&persons) });
        assert_eq!(weights.movement, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(weights.left_out, [0, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn of_equal_scores_the_lower_id_is_taken() {
        assert_eq!(choose(&on_a_line(&[5.0, 5.0, 5.0, 5.0]), 4, 0, 1), [0]);
    }

    #[test]
    fn f_is_what_the_number_of_persons_allows() {
        let krum = Krum { dishonest: Dishonest::Persons(3) };
        let withstands: Vec<_> = (0..=10).map(|persons| krum.withstands(persons).unwrap()).collect();
        assert_eq!(withstands, [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn two_persons_are_averaged() {
        assert_eq!(choose(&on_a_line(&[0.0, 9.0]), 2, 0, 1), [0, 1]);
    }
}
