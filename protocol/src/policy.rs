//! A repository's rules: who decides, who may contribute, how updates are aggregated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::key::PersonId;
use crate::limits;

/// What a person may do. Ranks fall in the order delegate, contributor, reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Fetches; in a public repository everybody may.
    Reader,
    /// Publishes updates and aggregates, attests and refutes.
    Contributor,
    /// Decides: grants and revokes, creates branches, may aggregate with fewer persons.
    Delegate,
}

impl Role {
    /// The word for people, as in `--role contributor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Contributor => "contributor",
            Self::Delegate => "delegate",
        }
    }
}

/// Who may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// Everybody who asks.
    Public,
}

/// How one becomes a contributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Membership {
    /// By an invite or a delegate's grant.
    Invite,
    /// A delegate's node grants whoever asks.
    Open,
}

/// How many persons an aggregate needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Every {
    /// Three quarters, rounded up, of the persons active in the last [`ACTIVE`] aggregates or among the inputs;
    /// at least 2 where there are 2.
    Auto,
    /// This many, at least 1.
    Persons(u32),
}

/// How many aggregates back a person counts as active, see [`Every::Auto`].
pub const ACTIVE: usize = 5;

impl Every {
    /// The number of persons needed when `active` are active.
    pub fn needed(self, active: usize) -> u32 {
        match self {
            Self::Persons(count) => count.max(1),
            Self::Auto => {
                let active = u32::try_from(active).unwrap_or(u32::MAX / 4);
                (active.saturating_mul(3).div_ceil(4)).max(2).min(active.max(1))
            }
        }
    }
}

/// The aggregation rule as data: the rule's own settings are read by the code that runs it; what acceptance
/// depends on stands here, typed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregation {
    /// The rule's name in the literature, lower-case: `fedavg`, `fedbuff`.
    pub rule: String,
    /// Persons needed.
    pub every: Every,
    /// Updates further behind than this are dropped.
    pub max_staleness: u32,
    /// The rule's settings, decimal numbers as text.
    pub settings: BTreeMap<String, String>,
}

/// The rules of a repository, first set by its genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Kinds of operations up to this level take effect.
    pub level: u64,
    /// Who decides.
    pub delegates: Vec<PersonId>,
    /// How many of them it takes.
    pub threshold: u32,
    /// Who may read.
    pub visibility: Visibility,
    /// How one becomes a contributor.
    pub membership: Membership,
    /// How updates are aggregated.
    pub aggregation: Aggregation,
}

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// This build knows one delegate only.
    #[error("a policy needs exactly one delegate and a threshold of 1, this one names {0} and {1}")]
    Delegates(usize, u32),
    /// The level is beyond this build.
    #[error("the policy needs level {0}, this build knows level {known}: install a newer version of Flair", known = limits::LEVEL)]
    Level(u64),
    /// Too large.
    #[error("the policy's {0} is too long")]
    Long(&'static str),
}

impl Policy {
    /// What a new repository starts with, decided by `delegate` alone.
    pub fn standard(delegate: PersonId) -> Self {
        let settings = [("eta", "1"), ("staleness", "polynomial:0.5"), ("cap", "2"), ("clip", "3")];
        Self {
            level: limits::LEVEL,
            delegates: vec![delegate],
            threshold: 1,
            visibility: Visibility::Public,
            membership: Membership::Invite,
            aggregation: Aggregation {
                rule: "fedbuff".into(),
                every: Every::Auto,
                max_staleness: 20,
                settings: settings.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            },
        }
    }

    /// Checks what a genesis may say.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.level == 0 || self.level > limits::LEVEL {
            return Err(PolicyError::Level(self.level));
        }
        if self.delegates.len() != 1 || self.threshold != 1 {
            return Err(PolicyError::Delegates(self.delegates.len(), self.threshold));
        }
        let aggregation = &self.aggregation;
        if aggregation.rule.len() > limits::NAME {
            return Err(PolicyError::Long("rule name"));
        }
        let settings: usize = aggregation.settings.iter().map(|(name, value)| name.len() + value.len()).sum();
        if aggregation.settings.len() > 64 || settings > limits::EXTENSION_BYTES {
            return Err(PolicyError::Long("list of settings"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_needs_three_quarters_and_two_where_there_are_two() {
        let needed: Vec<u32> = (0..=8).map(|active| Every::Auto.needed(active)).collect();
        assert_eq!(needed, [1, 1, 2, 3, 3, 4, 5, 6, 6]);
        assert_eq!(Every::Persons(0).needed(9), 1);
    }
}
