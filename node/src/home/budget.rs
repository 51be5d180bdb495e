//! Settings about differential privacy: what may be spent, and whether anything is published without it.
//!
//! ```text
//! [privacy]
//! epsilon = 8         # most that all updates of a repository may cost together
//! delta = 1e-5        # with which ε is told and compared
//! require = true      # refuse commits and pushes without `--dp`
//!
//! [privacy.repositories.4f5a6b]    # other settings for one, by the first characters of its id
//! epsilon = 2
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The δ that counts where none is set.
const DELTA: f64 = 1e-5;
/// Characters of a repository's id that a table must name at least.
const START: usize = 4;

/// What counts for all repositories, and for single ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// Most that may be spent in each repository. Default: no limit.
    pub epsilon: Option<Decimal>,
    /// The δ of that ε. Default: 10⁻⁵.
    pub delta: Option<Decimal>,
    /// Refuse commits and pushes without differential privacy. Default: no.
    pub require: bool,
    /// For single repositories, by the id or its first characters.
    pub repositories: BTreeMap<String, Budget>,
}

/// What counts for one repository; what is not set here counts as for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Most that may be spent.
    pub epsilon: Option<Decimal>,
    /// The δ of that ε.
    pub delta: Option<Decimal>,
    /// Refuse commits and pushes without differential privacy.
    pub require: Option<bool>,
}

/// A positive number as it was written, as a number or as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Decimal(String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Whole(u64),
    Number(f64),
}

impl TryFrom<Written> for Decimal {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Text(text) => Self::parse(&text),
            Written::Whole(number) => Self::parse(&number.to_string()),
            Written::Number(number) => Self::parse(&number.to_string()),
        }
    }
}

impl From<Decimal> for String {
    fn from(decimal: Decimal) -> Self {
        decimal.0
    }
}

impl Decimal {
    /// Reads a positive number; the same number is the same text afterwards, however it was written.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f64>() {
            Ok(value) if value.is_finite() && value > 0.0 => {
                let small = !(1e-4..1e9).contains(&value);
                Ok(Self(if small { format!("{value:e}") } else { value.to_string() }))
            }
            _ => Err(format!("`{}` is not a positive number", text.chars().take(40).collect::<String>())),
        }
    }

    /// Its value.
    pub fn value(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What counts for one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most that may be spent; none is no limit.
    pub epsilon: Option<Decimal>,
    /// The δ of that ε.
    pub delta: Decimal,
    /// Refuse commits and pushes without differential privacy.
    pub require: bool,
}

impl Budgets {
    /// What counts for the repository with this id.
    pub fn of(&self, repo: &str) -> Limits {
        let own = self.repositories.iter().filter(|(start, _)| repo.starts_with(start.as_str()));
        let own = own.max_by_key(|(start, _)| start.len()).map(|(_, own)| own.clone()).unwrap_or_default();
        let delta = own.delta.or_else(|| self.delta.clone());
        Limits {
            epsilon: own.epsilon.or_else(|| self.epsilon.clone()),
            delta: delta.unwrap_or_else(|| Decimal(format!("{DELTA:e}"))),
            require: own.require.unwrap_or(self.require),
        }
    }

    /// Refuses what has no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        let deltas = self.repositories.values().map(|own| &own.delta).chain([&self.delta]).flatten();
        if let Some(delta) = deltas.into_iter().find(|delta| delta.value() >= 1.0) {
            return Err(format!("[privacy] delta = {} is not a probability below 1", delta.as_str()));
        }
        match self.repositories.keys().find(|start| start.len() < START) {
            None => Ok(()),
            Some(start) => Err(format!(
                "[privacy.repositories.{start}]: give at least {START} characters of the repository's id"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_repositorys_own_settings_come_first_and_the_rest_counts_for_all() {
        let text = "[privacy]\nepsilon = 8\nrequire = true\n[privacy.repositories.abcd]\nepsilon = \"2.50\"\n\
                    [privacy.repositories.abcdef]\ndelta = 1e-6\nrequire = false\n";
        let privacy = Config::parse(text).unwrap().privacy;
        let of = |repo| {
            let limits = privacy.of(repo);
            (limits.epsilon.unwrap().value(), limits.delta.as_str().to_owned(), limits.require)
        };
        assert_eq!(of("zzzz"), (8.0, "1e-5".to_owned(), true));
        assert_eq!(of("abcd99"), (2.5, "1e-5".to_owned(), true));
        assert_eq!(of("abcdef"), (8.0, "1e-6".to_owned(), false));
        let none = Config::parse("").unwrap().privacy.of("abcd");
        assert!(none.epsilon.is_none() && !none.require);
    }

    #[test]
    fn settings_without_sense_are_named() {
        for (text, named) in [
            ("[privacy]\nepsilon = -1", "-1"),
            ("[privacy]\nepsilon = \"much\"", "much"),
            ("[privacy]\ndelta = 1.5", "delta"),
            ("[privacy]\nepsilom = 1", "epsilom"),
            ("[privacy.repositories.ab]\nepsilon = 1", "ab"),
            ("[privacy.repositories.abcd]\nepsilon = inf", "inf"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
