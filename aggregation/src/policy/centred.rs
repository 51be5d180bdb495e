//! Centred clipping: a centre is moved by the persons' movements, each shortened to a radius around it.
//!
//! Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, section 4, with
//! a server's learning rate η and a staleness discount s, and vᵢ = s(τᵢ) Δᵢ:
//!
//! z₀ = 0; zₜ₊₁ = zₜ + 1/n Σ (vᵢ − zₜ) min(1, ρ / ‖vᵢ − zₜ‖); θ′ = θ + η z
//!
//! for the setting `iterations`. ρ is the setting `radius`: a norm, as in the paper, or a multiple of the median of
//! the persons' distances to the centre, anew in each iteration. The paper starts from the last step's direction;
//! here it is the parent, so that nothing beside the recipe's own inputs decides. With several iterations the centre
//! finds its way. No person moves the centre by more than ρ / n at a time; the paper promises convergence where about
//! a tenth of the persons are dishonest, and no bound is claimed here. Everybody counts the same, whatever number of
//! examples they claim. Averaged values (batch-norm statistics) are medians, coordinate by coordinate.
//!
//! The centre is a weighted mean of the movements and the parent, and iterations cost nothing beside the distances
//! between persons ([`super::centre`]). Whoever is more than ten thousand times as far from the person in the middle as
//! the median is, and as that person moved, is left out.

use super::centre::{Core, to_centre};
use super::radius::{Radius, shortening};
use super::rule::{Crowd, Distances, Need, Rule, Weights};

/// The rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CentredClipping {
    pub(crate) radius: Radius,
    pub(crate) iterations: u32,
}

impl Rule for CentredClipping {
    fn explain(&self) -> String {
        format!(
            "A centre is moved {} times by the mean of the persons' changes, each shortened to {} from it. It bounds how far one person can move the model, not how far many can.",
            self.iterations,
            self.radius.explain("distance")
        )
    }

    fn needs(&self) -> Need {
        Need::Distances
    }

    fn weigh(&self, crowd: &Crowd<'_>) -> Weights {
        let core = Core::new(crowd.distances);
        let left_out = core.far(crowd.distances, core.of(crowd.lengths));
        let shares = self.shares(crowd.distances, crowd.lengths, &left_out);
        let movement =
            shares.iter().zip(crowd.discounts()).map(|(share, discount)| share * discount).collect();
        Weights::bounded(movement, 1.0, left_out)
    }
}

impl CentredClipping {
    /// What share of each person's movement the centre is made of.
    fn shares(self, distances: &Distances, lengths: &[f64], left_out: &[usize]) -> Vec<f64> {
        // The parent, whose movement is none, is one point more.
        let persons = distances.persons();
        let mut points = Distances::new(persons + 1);
        for one in 0..persons {
            for other in one + 1..persons {
                points.set(one, other, distances.between(one, other));
            }
            let length = lengths.get(one).copied().unwrap_or(0.0);
            points.set(one, persons, length * length);
        }
        let taken: Vec<usize> = (0..persons).filter(|person| !left_out.contains(person)).collect();
        let mut shares = vec![0.0; persons];
        shares.push(1.0);
        for _ in 0..self.iterations {
            let apart = to_centre(&points, &shares);
            let apart: Vec<f64> = taken.iter().map(|person| apart[*person]).collect();
            let radius = self.radius.among(&apart);
            let mut pulls = vec![0.0; persons + 1];
            for (person, distance) in taken.iter().zip(apart) {
                pulls[*person] = shortening(distance, radius) / taken.len() as f64;
            }
            let kept = 1.0 - pulls.iter().sum::<f64>();
            for (share, pull) in shares.iter_mut().zip(pulls) {
                *share = *share * kept + pull;
            }
        }
        shares.truncate(persons);
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{crowd, on_a_line, person};
    use super::*;

    fn centre(clipping: CentredClipping, points: &[f64]) -> f64 {
        let lengths: Vec<f64> = points.iter().map(|point| point.abs()).collect();
        let (persons, distances) = (vec![person(1, 0); points.len()], on_a_line(points));
        let crowd = Crowd { distances: &distances, lengths: &lengths, ..crowd(&persons) };
        let weights = clipping.weigh(&crowd);
        weights.movement.iter().zip(points).map(|(share, point)| share * point).sum()
    }

    #[test]
    fn one_step_is_the_mean_of_what_is_clipped() {
        let clipping = CentredClipping { radius: Radius::Fixed(2.0), iterations: 1 };
        assert!((centre(clipping, &[1.0, 2.0, 3.0, -90.0]) - (1.0 + 2.0 + 2.0 - 2.0) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn the_centre_finds_the_many() {
        let clipping = CentredClipping { radius: Radius::Median(1.0), iterations: 50 };
        let centre = centre(clipping, &[10.0, 10.5, 9.5, 10.1, 9.9, -1e4]);
        assert!((9.5..10.5).contains(&centre), "{centre}");
    }

    #[test]
    fn nobody_gets_influence_by_being_far_away() {
        let clipping = CentredClipping { radius: Radius::Median(1.0), iterations: 50 };
        let centre = centre(clipping, &[10.0, 10.5, 9.5, 10.1, 9.9, -1e38]);
        assert!((9.5..10.5).contains(&centre), "{centre}");
    }
}
