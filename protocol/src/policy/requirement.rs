//! What a protected branch requires others to have measured of an update.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use crate::limits;
use crate::operation::body::name;
use crate::operation::evaluation::Evaluation;

/// What so many persons, an update's author not among them, must have measured of it on their own data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The metric's name.
    pub metric: String,
    /// On which side of the bound it must be; on the bound is enough.
    pub bound: Bound,
    /// Whether the bound is counted from the value of the update's base, by the same evaluation.
    pub base: bool,
    /// The bound, or what is added to the base's value.
    pub value: Number,
    /// How many persons, at least 1.
    pub from: u32,
}

/// A side of a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// `>=`.
    AtLeast,
    /// `<=`.
    AtMost,
}

/// A finite number, compared by its bits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(f64);

impl Number {
    /// The number; none for a NaN or an infinity. Minus zero becomes zero.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value + 0.0))
    }

    /// As a float.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Number {}

impl Requirement {
    /// Whether an evaluation says anything about it, and if so, whether it meets it.
    pub fn met(&self, evaluation: &Evaluation) -> Option<bool> {
        let metric = evaluation.metric(&self.metric)?;
        let bound = if self.base { metric.base? + self.value.0 } else { self.value.0 };
        Some(match self.bound {
            Bound::AtLeast => metric.value >= bound,
            Bound::AtMost => metric.value <= bound,
        })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.bound {
            Bound::AtLeast => ">=",
            Bound::AtMost => "<=",
        };
        write!(f, "{} {sign} ", self.metric)?;
        match (self.base, self.value.0) {
            (false, value) => write!(f, "{value}")?,
            (true, 0.0) => f.write_str("base")?,
            (true, value) if value < 0.0 => write!(f, "base - {}", -value)?,
            (true, value) => write!(f, "base + {value}")?,
        }
        write!(f, " from {} {}", self.from, if self.from == 1 { "other" } else { "others" })
    }
}

/// Why a text is no requirement.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{0}` is no requirement: write one as `auc >= base - 0.01 from 2 others`, or `loss <= 0.5`")]
pub struct RequirementError(String);

impl FromStr for Requirement {
    type Err = RequirementError;

    /// Reads `METRIC >= BOUND [from N others]`, also with `<=`. The bound is a number, or `base`, or `base` and a number
    /// more or less. `head` is the same as `base`: what the branch stood at when the update was trained.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| RequirementError(text.chars().take(200).collect()))
    }
}

fn parse(text: &str) -> Option<Requirement> {
    let (metric, rest, bound) = match (text.split_once(">="), text.split_once("<=")) {
        (Some((metric, rest)), None) => (metric, rest, Bound::AtLeast),
        (None, Some((metric, rest))) => (metric, rest, Bound::AtMost),
        _ => return None,
    };
    let mut words = rest.split_whitespace().peekable();
    let number = |word: &str| word.parse().ok().and_then(Number::new);
    let first = words.next()?;
    let base = matches!(first, "base" | "head");
    let value = match (base, words.peek().copied()) {
        (false, _) => number(first)?,
        (true, Some(sign @ ("+" | "-"))) => {
            words.next();
            let more = number(words.next().filter(|word| !word.starts_with(['+', '-']))?)?;
            Number::new(if sign == "-" { -more.get() } else { more.get() })?
        }
        (true, _) => Number::new(0.0)?,
    };
    let from = match words.next() {
        None => 1,
        Some("from") => words.next()?.parse().ok()?,
        Some(_) => return None,
    };
    let ends = words.next().is_none_or(|word| matches!(word, "other" | "others")) && words.next().is_none();
    ends.then(|| Requirement { metric: metric.trim().to_owned(), bound, base, value, from })
}

/// Checks the requirements of one branch.
pub(super) fn check(all: &[Requirement]) -> Result<(), PolicyError> {
    let persons = |one: &Requirement| (1..=limits::MEMBERS).contains(&(one.from as usize));
    let again = |(place, one)| all.iter().skip(place + 1).any(|other| other == one);
    if all.len() > limits::REQUIREMENTS || !all.iter().all(persons) || all.iter().enumerate().any(again) {
        return Err(PolicyError::Requirements);
    }
    match all.iter().find(|one| name(&one.metric).is_err()) {
        Some(wrong) => Err(PolicyError::Metric(wrong.metric.chars().take(120).collect())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_reads_as_it_is_written() {
        for text in [
            "auc >= base - 0.01 from 2 others",
            "auc >= base from 1 other",
            "val/loss <= base + 0.5 from 3 others",
            "loss <= 0.5 from 1 other",
            "r2 >= -1.5 from 2 others",
        ] {
            assert_eq!(text.parse::<Requirement>().unwrap().to_string(), text);
        }
        let same =
            |one: &str, other: &str| assert_eq!(one.parse::<Requirement>(), other.parse::<Requirement>());
        same("auc>=head - 0.01 from 2", "auc >= base - 0.01 from 2 others");
        same("auc >= 0.8", "auc >= 0.8 from 1 other");
        for bad in [
            "",
            "auc",
            "auc > 0.8",
            "auc >= ",
            "auc >= x",
            "auc >= NaN",
            "auc >= inf",
            "auc >= base -",
            "auc >= base - -1",
            "auc >= base 0.1",
            "auc >= 0.8 by 2",
            "auc >= 0.8 from",
            "auc >= 0.8 from x",
            "auc >= 0.8 from 2 friends",
            "auc >= 0.8 from 2 others too",
            "0 <= auc >= 1",
        ] {
            assert!(bad.parse::<Requirement>().is_err(), "{bad}");
        }
    }
}
