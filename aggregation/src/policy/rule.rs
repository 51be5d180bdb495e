//! What a rule is: from who takes part, and how far apart they are, to how their movements become one.

use super::staleness::Staleness;
use crate::kernel::order::Statistic;
use std::fmt;

/// A rule, with its own settings.
///
/// A rule decides about *persons*. It never sees a coordinate: it says how much each person's movement counts and
/// how the movements are put together, and the passes of [`crate::run`] do so for every coordinate alike.
pub(crate) trait Rule: fmt::Debug + Send + Sync {
    /// The rule in plain words, a sentence or two.
    fn explain(&self) -> String;

    /// Weighs the persons of a set.
    fn weigh(&self, crowd: &Crowd<'_>) -> Weights;

    /// What has to be measured before the persons can be weighed.
    fn needs(&self) -> Need {
        Need::Nothing
    }

    /// Whether models are mixed, so that a person's movement is measured from the parent and not from what the
    /// person trained from.
    fn mixes(&self) -> bool {
        false
    }

    /// How many dishonest persons among so many the rule withstands; `None` for a rule that makes no such promise.
    fn withstands(&self, persons: usize) -> Option<usize> {
        let _ = persons;
        None
    }
}

/// What has to be measured before persons can be weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Weights follow from what is known beforehand.
    Nothing,
    /// How long each person's movement is.
    Lengths,
    /// How far the movements are apart.
    Distances,
}

/// What a rule needs to know of a person in the set.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Standing {
    /// The largest number of examples any of the person's updates claims.
    pub examples: u64,
    /// The largest staleness of any of the person's updates.
    pub staleness: u32,
    /// How many local steps the person's movement stands for, if all of the person's updates say: steps of updates
    /// on one base are averaged and those on top of each other add up, as the movements do.
    pub steps: Option<f64>,
}

/// The persons of a set, in the order of their ids, and what was measured of their movements.
///
/// A person's *weighed movement* is s(τ) times their movement, shortened by the policy's clip: a late person's
/// pull is weaker whatever the rule, and never more than their share where they are alone.
#[derive(Clone, Copy, Debug)]
pub struct Crowd<'a> {
    /// Who takes part.
    pub persons: &'a [Standing],
    /// How many persons an aggregate waits for.
    pub every: u32,
    /// The policy's staleness function.
    pub staleness: Staleness,
    /// The policy's cap on claims.
    pub cap: Option<f64>,
    /// The norm of each person's weighed movement; empty for rules that need none.
    pub lengths: &'a [f64],
    /// How far the weighed movements are apart; empty for rules that need none.
    pub distances: &'a Distances,
}

impl Crowd<'_> {
    /// s(τ) of each person.
    pub(crate) fn discounts(&self) -> Vec<f64> {
        self.persons.iter().map(|person| self.staleness.discount(person.staleness)).collect()
    }

    /// Claimed examples of each person, a claim of none counting as one, capped at the policy's multiple of their
    /// median.
    pub(crate) fn examples(&self) -> Vec<f64> {
        let claimed: Vec<f64> = self.persons.iter().map(|person| person.examples.max(1) as f64).collect();
        let most = match (self.cap, median(&claimed)) {
            (Some(cap), Some(median)) => cap * median,
            _ => f64::MAX,
        };
        claimed.iter().map(|claimed| claimed.min(most)).collect()
    }
}

/// Squared distances between the weighed movements of persons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distances {
    persons: usize,
    /// Row by row; as many as persons, and as long.
    squares: Vec<f64>,
}

impl Distances {
    /// The most a squared distance is taken for: sums of some of them stay finite.
    pub(crate) const MOST: f64 = 1e300;

    /// The distances between so many persons, all of them zero.
    pub fn new(persons: usize) -> Self {
        Self { persons, squares: vec![0.0; persons * persons] }
    }

    /// Notes the squared distance between two persons, both ways, at most 10³⁰⁰.
    pub fn set(&mut self, one: usize, other: usize, square: f64) {
        for (row, column) in [(one, other), (other, one)] {
            let place = (column < self.persons).then(|| row * self.persons + column);
            if let Some(place) = place.and_then(|place| self.squares.get_mut(place)) {
                *place = square.min(Self::MOST);
            }
        }
    }

    /// The squared distances of one person to everybody, themselves included.
    pub fn of(&self, person: usize) -> &[f64] {
        let start = person * self.persons;
        self.squares.get(start..start + self.persons).unwrap_or(&[])
    }

    /// The squared distance between two persons.
    pub fn between(&self, one: usize, other: usize) -> f64 {
        self.of(one).get(other).copied().unwrap_or(0.0)
    }

    /// How many persons there are.
    pub fn persons(&self) -> usize {
        self.persons
    }
}

/// What a rule says: the direction of the step is `combined` of movementᵢ · Δᵢ, and averaged values are `averaged`
/// of xᵢ, with i over persons.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Per person, what its movement Δ is multiplied by.
    pub movement: Vec<f64>,
    /// What becomes of the movements, coordinate by coordinate.
    pub combined: Statistic,
    /// Per person, the weight of its values (batch-norm statistics), where they are summed up.
    pub value: Vec<f64>,
    /// What becomes of the values.
    pub averaged: Statistic,
    /// Persons that the rule left out, ascending.
    pub left_out: Vec<usize>,
}

impl Weights {
    /// The mean over the chosen persons, everybody counting as much as s(τ) lets them. `chosen` is ascending.
    pub(crate) fn mean(discounts: &[f64], chosen: &[usize]) -> Self {
        let weights = |person| if chosen.contains(&person) { discounts[person] } else { 0.0 };
        let movement: Vec<f64> = (0..discounts.len()).map(weights).collect();
        Self {
            combined: Statistic::Mean { divisor: (chosen.len() as f64).max(1.0) },
            averaged: Statistic::Mean { divisor: movement.iter().sum() },
            value: movement.clone(),
            movement,
            left_out: (0..discounts.len()).filter(|person| !chosen.contains(person)).collect(),
        }
    }

    /// A statistic of the chosen persons' movements, and of their values.
    pub(crate) fn ranked(discounts: Vec<f64>, statistic: Statistic, left_out: Vec<usize>) -> Self {
        let value = vec![1.0; discounts.len()];
        Self { movement: discounts, combined: statistic, value, averaged: statistic, left_out }
    }

    /// A weighted sum of movements, and the median of the values: for rules that bound how far a person can pull,
    /// where a mean of values would not.
    pub(crate) fn bounded(movement: Vec<f64>, divisor: f64, left_out: Vec<usize>) -> Self {
        let value = vec![1.0; movement.len()];
        Self { movement, combined: Statistic::Mean { divisor }, value, averaged: Statistic::Median, left_out }
    }
}

/// The median; the mean of the middle two where their number is even.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get(values.len() / 2 - 1)?;
    Some(lower * 0.5 + upper * 0.5)
}
