//! How contributions are weighed: the rules by name, their settings, and what they mean in plain words.
//!
//! A policy is plain data wherever it is stored and signed: a rule's name and a map of text settings. This module
//! is the one place that gives them meaning. Numbers are decimal text, so that no two machines read them
//! differently, and anything unknown is refused rather than ignored.
//!
//! Every rule counts *persons*: a person's updates on one base are averaged and updates on top of each other add
//! up ([`crate::plan`]), whatever their number, and bounds apply to the person as a whole.

pub mod fedavg;
pub mod fedbuff;
pub mod staleness;

use staleness::Staleness;
use std::collections::BTreeMap;

/// The names of the rules, in the order they are offered.
pub const RULES: [&str; 2] = ["fedbuff", "fedavg"];
/// The names of the settings that every rule has.
pub const SETTINGS: [&str; 4] = ["eta", "staleness", "cap", "clip"];

/// The most a step may be scaled by; beyond it a typing error is likelier than an intention.
const LARGEST_ETA: f64 = 100.0;
/// How many norms must be known before any update is shortened.
const NORMS_BEFORE_CLIPPING: usize = 5;
/// From how many aggregates back norms are taken.
const AGGREGATES_REMEMBERED: usize = 5;

/// A policy that was read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    rule: Rule,
    /// Scales the step the head takes (η, the server's learning rate).
    eta: f64,
    staleness: Staleness,
    /// Example counts are capped at this many times the persons' median.
    cap: Option<f64>,
    /// A person's movement is shortened to this many times the median of the last aggregates.
    clip: Option<f64>,
}

/// How persons' movements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    FedAvg,
    FedBuff,
}

/// What a rule needs to know of a person in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The largest number of examples any of the person's updates claims.
    pub examples: u64,
    /// The largest staleness of any of the person's updates.
    pub staleness: u32,
}

/// What a rule says: θ′ = θ + η · Σ movementᵢ · Δᵢ / `movement_divisor`, and for averaged values
/// Σ valueᵢ · xᵢ / `value_divisor`, with i over persons.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Per person, the weight of its movement Δ.
    pub movement: Vec<f64>,
    /// What the weighted sum of movements is divided by.
    pub movement_divisor: f64,
    /// Per person, the weight of its values (batch-norm statistics).
    pub value: Vec<f64>,
    /// What the weighted sum of values is divided by.
    pub value_divisor: f64,
}

/// Why a policy cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No rule has this name.
    #[error("no aggregation rule is called '{rule}'; the rules are {}", RULES.join(", "))]
    Rule {
        /// The name that was given.
        rule: String,
    },
    /// The rule has no such setting.
    #[error("{rule} has no setting '{setting}'; its settings are {}", SETTINGS.join(", "))]
    Setting {
        /// The rule.
        rule: String,
        /// The setting that was given.
        setting: String,
    },
    /// The setting's value makes no sense.
    #[error("'{value}' is not a value of the setting '{setting}': give {expected}")]
    Value {
        /// The setting.
        setting: &'static str,
        /// The value that was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl Policy {
    /// Reads a policy. A setting that is not given has the value [`Policy::default_settings`] lists.
    ///
    /// | setting | value | meaning |
    /// |---|---|---|
    /// | `eta` | a decimal number above 0, at most 100 | scales the step |
    /// | `staleness` | `constant`, `polynomial:0.5`, `polynomial:1`, `polynomial:2`, `hinge:a,b` | how much less a late update counts ([`staleness`]) |
    /// | `cap` | a decimal number, at least 1, or `none` | example counts are capped at this many times their median over persons |
    /// | `clip` | a decimal number above 0, or `none` | a person's movement is shortened to this many times the median of the last 5 aggregates |
    ///
    /// # Errors
    /// An unknown rule, an unknown setting, or a value out of its range.
    pub fn parse(rule: &str, settings: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let parsed = match rule {
            "fedavg" => Rule::FedAvg,
            "fedbuff" => Rule::FedBuff,
            _ => return Err(PolicyError::Rule { rule: rule.to_owned() }),
        };
        if let Some(setting) = settings.keys().find(|setting| !SETTINGS.contains(&setting.as_str())) {
            return Err(PolicyError::Setting { rule: rule.to_owned(), setting: setting.clone() });
        }
        let defaults = Self::default_settings();
        let read = |setting: &'static str, expected: &'static str| {
            let value = settings.get(setting).or_else(|| defaults.get(setting)).cloned().unwrap_or_default();
            (value.clone(), move || PolicyError::Value { setting, value, expected })
        };

        let (value, wrong) = read("eta", "a decimal number above 0 and at most 100, such as 1 or 0.5");
        let eta = decimal(&value).filter(|eta| *eta > 0.0 && *eta <= LARGEST_ETA).ok_or_else(wrong)?;
        let (value, wrong) = read("staleness", Staleness::EXPECTED);
        let staleness = Staleness::parse(&value).ok_or_else(wrong)?;
        let (value, wrong) = read("cap", "a decimal number of at least 1, such as 2, or 'none'");
        let cap = optional(&value, |cap| cap >= 1.0).map_err(|()| wrong())?;
        let (value, wrong) = read("clip", "a decimal number above 0, such as 3, or 'none'");
        let clip = optional(&value, |clip| clip > 0.0).map_err(|()| wrong())?;
        Ok(Self { rule: parsed, eta, staleness, cap, clip })
    }

    /// The settings of a new repository's policy, which also stand in for settings that are not given.
    pub fn default_settings() -> BTreeMap<String, String> {
        [("eta", "1"), ("staleness", "polynomial:0.5"), ("cap", "2"), ("clip", "3")]
            .map(|(setting, value)| (setting.to_owned(), value.to_owned()))
            .into()
    }

    /// The rule's name, as [`Policy::parse`] takes it.
    pub fn rule(&self) -> &'static str {
        match self.rule {
            Rule::FedAvg => "fedavg",
            Rule::FedBuff => "fedbuff",
        }
    }

    /// The step's scale, η.
    pub fn eta(&self) -> f64 {
        self.eta
    }

    /// How much an update counts that is `behind` aggregates late: 1 at most, above 0.
    pub fn discount(&self, behind: u32) -> f64 {
        self.staleness.discount(behind)
    }

    /// What the policy does, in a few plain sentences.
    pub fn explain(&self) -> String {
        let mut sentences = vec![match self.rule {
            Rule::FedAvg => fedavg::explain(),
            Rule::FedBuff => fedbuff::explain(),
        }];
        sentences.push(self.staleness.explain());
        if let (Some(cap), Rule::FedAvg) = (self.cap, self.rule) {
            sentences.push(format!("Nobody's examples count more than {cap} times the median person's."));
        }
        if let Some(clip) = self.clip {
            sentences.push(format!(
                "A person's change that is larger than {clip} times the median of the last {AGGREGATES_REMEMBERED} aggregates is shortened to that size."
            ));
        }
        if self.eta.to_bits() != 1.0f64.to_bits() {
            sentences.push(format!("The step is multiplied by {}.", self.eta));
        }
        sentences.join(" ")
    }

    /// The weights of the persons in a set; `every` is the number of persons an aggregate waits for.
    pub fn weigh(&self, persons: &[Standing], every: u32) -> Weights {
        match self.rule {
            Rule::FedAvg => fedavg::weigh(persons, self.staleness, self.cap),
            Rule::FedBuff => fedbuff::weigh(persons, self.staleness, every),
        }
    }

    /// The norm beyond which a person's movement is shortened, given the norms of earlier aggregates' inputs
    /// (oldest first; only the last 5 aggregates are looked at).
    ///
    /// There is no limit before 5 norms are known. Persons who moved nothing, and norms that overflowed, say
    /// nothing about size and are left out.
    pub fn limit(&self, history: &[Vec<f64>]) -> Option<f64> {
        let recent = history.iter().rev().take(AGGREGATES_REMEMBERED).flatten().copied();
        let norms: Vec<f64> = recent.filter(|norm| norm.is_finite() && *norm > 0.0).collect();
        if norms.len() < NORMS_BEFORE_CLIPPING {
            return None;
        }
        Some(self.clip? * median(norms)?)
    }
}

/// The median; the mean of the middle two where their number is even.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get(values.len() / 2 - 1)?;
    Some(lower * 0.5 + upper * 0.5)
}

/// Digits with an optional fraction: no sign, exponent, infinity or NaN.
fn decimal(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if text.len() > 32 || !digits(whole) || !digits(fraction) {
        return None;
    }
    text.parse().ok()
}

/// `none`, or a decimal number in range.
fn optional(text: &str, in_range: impl Fn(f64) -> bool) -> Result<Option<f64>, ()> {
    if text == "none" {
        return Ok(None);
    }
    decimal(text).filter(|value| in_range(*value)).map(Some).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_not_given_has_the_default() {
        for rule in RULES {
            let bare = Policy::parse(rule, &settings(&[])).unwrap();
            assert_eq!(bare, Policy::parse(rule, &Policy::default_settings()).unwrap());
            assert_eq!(bare.rule(), rule);
        }
    }

    #[test]
    fn anything_unknown_is_refused_and_what_is_known_is_named() {
        let error = Policy::parse("fedsgd", &settings(&[])).unwrap_err().to_string();
        assert_eq!(error, "no aggregation rule is called 'fedsgd'; the rules are fedbuff, fedavg");
        let error = Policy::parse("fedavg", &settings(&[("Eta", "1")])).unwrap_err().to_string();
        assert_eq!(error, "fedavg has no setting 'Eta'; its settings are eta, staleness, cap, clip");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let refused = [
            ("eta", ["0", "-1", "1e3", "101", "inf", "nan", "", "1.", ".5", "+1", "1,5"].as_slice()),
            (
                "staleness",
                &["", "linear", "polynomial", "polynomial:3", "polynomial:.5", "hinge:1", "hinge:-1,2"],
            ),
            ("cap", &["0.9", "nan", "None", ""]),
            ("clip", &["0", "-3", "inf", "0.000000000000000000000000000000001"]),
        ];
        for (setting, values) in refused {
            for value in values {
                let error = Policy::parse("fedbuff", &settings(&[(setting, value)])).unwrap_err();
                let message = error.to_string();
                assert!(
                    message.starts_with(&format!("'{value}' is not a value of the setting '{setting}'")),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn there_is_no_limit_before_five_norms_and_only_five_aggregates_count() {
        let policy = Policy::parse("fedbuff", &settings(&[("clip", "3")])).unwrap();
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0]]), None);
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0, 0.0, f64::INFINITY]]), None);
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0, 5.0]]), Some(9.0));
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0, 5.0, 6.0]]), Some(10.5));
        let six = [vec![9.0; 100], vec![1.0], vec![1.0], vec![1.0], vec![1.0], vec![1.0]];
        assert_eq!(policy.limit(&six), Some(3.0));
        let without = Policy::parse("fedbuff", &settings(&[("clip", "none")])).unwrap();
        assert_eq!(without.limit(&six), None);
    }

    #[test]
    fn policies_explain_themselves_in_words() {
        let words = Policy::parse("fedbuff", &settings(&[])).unwrap().explain();
        assert!(words.contains("1 behind counts 0.71, 3 behind 0.50"), "{words}");
        assert!(words.contains("3 times the median"), "{words}");
        let words = Policy::parse("fedavg", &settings(&[("eta", "0.5"), ("cap", "4"), ("clip", "none")]))
            .unwrap()
            .explain();
        assert!(
            words.contains("4 times the median person's") && words.ends_with("multiplied by 0.5."),
            "{words}"
        );
    }
}
