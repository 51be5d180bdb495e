//! Centres that are weighted means of persons' movements: their distances follow from those between persons.
//!
//! A centre z = Σ aᵢ vᵢ with Σ aᵢ = 1 need not be computed to know how far it is from anybody:
//!
//! ‖vᵢ − z‖² = Σⱼ aⱼ Dᵢⱼ − ½ Σⱼ aⱼ Σₖ aₖ Dⱼₖ
//!
//! where D are the squared distances between movements. So a rule that looks for a centre in many iterations reads the
//! movements no more often than one that looks once. The difference loses digits where some D are very large beside
//! others, so whoever is out of all proportion is left out first.

use super::rule::Distances;
use super::setting::{Setting, count};

/// How many times the core's radius somebody may be away from it before they are left out.
const FAR: f64 = 1e4;

/// How often the centre is moved, for the rules that look for one.
pub(super) const ITERATIONS: Setting = Setting {
    name: "iterations",
    default: "50",
    expected: "a whole number from 1 to 1000, such as 50",
    meaning: "how often the centre is moved towards the persons",
};

/// Reads [`ITERATIONS`].
pub(super) fn iterations(text: &str) -> Option<u32> {
    count(text, 1, 1000)
}

/// The person in the middle of the majority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Core {
    /// Whose median distance to the others (of an even number the lower of the two in the middle) is the least; of
    /// several, the one with the lowest id.
    person: usize,
    /// That distance. As long as dishonest persons are fewer than half, it is between two that honest persons have
    /// among themselves or to somebody who is as near, whatever the others do.
    pub(super) radius: f64,
}

impl Core {
    pub(super) fn new(distances: &Distances) -> Self {
        let mut core = Self { person: 0, radius: 0.0 };
        for person in 0..distances.persons() {
            let others = distances.of(person).iter().enumerate().filter(|(other, _)| *other != person);
            let mut apart: Vec<f64> = others.map(|(_, square)| square.sqrt()).collect();
            apart.sort_by(f64::total_cmp);
            let radius = apart.get(apart.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
            if person == 0 || radius < core.radius {
                core = Self { person, radius };
            }
        }
        core
    }

    /// The persons who are more than ten thousand times as far from the core as its radius, or as `reach` if that is
    /// more: what little they would count would be lost in rounding, and take the others' digits along.
    pub(super) fn far(self, distances: &Distances, reach: f64) -> Vec<usize> {
        let limit = FAR * self.radius.max(reach);
        let apart = distances.of(self.person).iter().enumerate();
        apart.filter(|(_, square)| square.sqrt() > limit).map(|(person, _)| person).collect()
    }

    /// The core's own value in a list.
    pub(super) fn of(self, list: &[f64]) -> f64 {
        list.get(self.person).copied().unwrap_or(0.0)
    }
}

/// The distance of each point to the centre made of these shares of them, which add up to one.
///
/// Sums run in the order of the points. Where rounding leaves a square below zero, the distance is zero.
pub(super) fn to_centre(distances: &Distances, shares: &[f64]) -> Vec<f64> {
    let weighed = |row: &[f64]| row.iter().zip(shares).fold(0.0, |sum, (square, share)| sum + share * square);
    let means: Vec<f64> = (0..distances.persons()).map(|person| weighed(distances.of(person))).collect();
    let spread = 0.5 * weighed(&means);
    means.into_iter().map(|mean| (mean - spread).max(0.0).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::on_a_line;
    use super::*;

    #[test]
    fn distances_to_a_mean_follow_from_those_between_points() {
        let distances = to_centre(&on_a_line(&[0.0, 3.0, 9.0]), &[0.5, 0.25, 0.25]);
        for (distance, expected) in distances.iter().zip([3.0, 0.0, 6.0]) {
            assert!((distance - expected).abs() < 1e-6, "{distance}");
        }
    }

    #[test]
    fn who_is_out_of_all_proportion_does_not_set_the_measure() {
        let two_of_five = on_a_line(&[1e30, 1.0, 1.25, -1e38, 2.0]);
        assert_eq!(Core::new(&two_of_five), Core { person: 2, radius: 0.75 });
        let distances = on_a_line(&[1e30, 1.0, 1.25, 1.75, 2.0]);
        let core = Core::new(&distances);
        assert_eq!(core, Core { person: 2, radius: 0.5 });
        assert_eq!(core.far(&distances, 0.0), [0]);
        assert_eq!(core.far(&distances, 1e27), [0; 0]);
    }

    #[test]
    fn where_most_agree_exactly_all_others_are_far() {
        let distances = on_a_line(&[3.0, 3.0, 3.0, 4.0]);
        assert_eq!(Core::new(&distances).far(&distances, 0.0), [3]);
        assert_eq!(Core::new(&on_a_line(&[])).far(&on_a_line(&[]), 0.0), [0; 0]);
    }
}
