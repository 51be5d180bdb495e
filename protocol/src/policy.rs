//! A repository's rules: who decides, who may contribute, how updates are aggregated.

mod requirement;

use std::collections::BTreeMap;

pub use requirement::{Bound, Number, Requirement, RequirementError};
use serde::{Deserialize, Serialize};

use crate::id::BranchId;
use crate::key::PersonId;
use crate::limits;

/// What a person may do, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Fetches; in a public repository everybody may.
    Reader,
    /// Attests, refutes and evaluates; publishes nothing.
    Verifier,
    /// Publishes updates and aggregates, attests and refutes.
    Contributor,
    /// Grants and revokes the roles above, invites, creates branches, may aggregate with fewer persons.
    Maintainer,
    /// Named by the policy. Grants and revokes every other role; `threshold` of the delegates change the policy.
    Delegate,
}

impl Role {
    /// The word for people, as in `--role contributor`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Verifier => "verifier",
            Self::Contributor => "contributor",
            Self::Maintainer => "maintainer",
            Self::Delegate => "delegate",
        }
    }
}

/// Who may read. The genesis says it for good: what a revision of the policy says of it has no effect, for what was
/// given away can't be taken back, and a few signatures must not give away what others published in confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// Everybody who asks.
    Public,
    /// Whoever has a role.
    Private,
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

/// What an update of a protected branch needs before it can be aggregated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchRule {
    /// The branch.
    pub branch: BranchId,
    /// How many maintainers or delegates must have accepted it. From 2 on, its author is not among them.
    pub accepts: u32,
    /// What others must have measured of it: at most [`limits::REQUIREMENTS`], none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Requirement>,
}

/// The rules of a repository, first set by its genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Kinds of operations up to this level take effect.
    pub level: u64,
    /// Who decides, ascending: 1 to [`limits::DELEGATES`].
    pub delegates: Vec<PersonId>,
    /// How many of them it takes to change the policy.
    pub threshold: u32,
    /// Who may read.
    pub visibility: Visibility,
    /// How one becomes a contributor.
    pub membership: Membership,
    /// How updates are aggregated.
    pub aggregation: Aggregation,
    /// The protected branches, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<BranchRule>,
}

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// Too few or too many delegates, or a threshold that they can't reach.
    #[error(
        "a policy needs 1 to {most} delegates and a threshold between 1 and their number, this one names {0} and {1}",
        most = limits::DELEGATES
    )]
    Delegates(usize, u32),
    /// A delegate twice, or out of order.
    #[error("a policy lists its delegates in ascending order and none twice")]
    Order,
    /// A rule of a branch that can't be.
    #[error(
        "a policy lists protected branches in ascending order, none twice, at most {most}, each with at most {most} accepts, \
         and either some or a requirement",
        most = limits::BRANCHES
    )]
    Branches,
    /// A requirement of a branch that can't be.
    #[error("a branch has at most {most} requirements, none twice, each of 1 to {members} persons", most = limits::REQUIREMENTS, members = limits::MEMBERS)]
    Requirements,
    /// A metric's name that can't be.
    #[error("`{0}` can't be a metric's name: 1 to 100 letters, digits, spaces or `. _ - / @ ( )`")]
    Metric(String),
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
            branches: Vec::new(),
        }
    }

    /// What an update of this branch needs; none where it is not protected.
    pub fn rule(&self, branch: BranchId) -> Option<&BranchRule> {
        self.branches.iter().find(|rule| rule.branch == branch)
    }

    /// How many accepts an update of this branch needs.
    pub fn accepts(&self, branch: BranchId) -> u32 {
        self.rule(branch).map_or(0, |rule| rule.accepts)
    }

    /// What others must have measured of an update of this branch.
    pub fn requirements(&self, branch: BranchId) -> &[Requirement] {
        self.rule(branch).map_or(&[], |rule| rule.require.as_slice())
    }

    /// How many dishonest delegates can't bring two contradicting revisions into force: f with 2k > n + f, for k of
    /// n delegates (two quorums of k then share an honest one, who approves once). None when even honest delegates
    /// who don't know of each other's approvals can.
    pub fn survives(&self) -> Option<u32> {
        let delegates = u32::try_from(self.delegates.len()).unwrap_or(u32::MAX);
        (self.threshold.saturating_mul(2)).checked_sub(delegates)?.checked_sub(1)
    }

    /// Checks what a genesis or a revision may say.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.level == 0 || self.level > limits::LEVEL {
            return Err(PolicyError::Level(self.level));
        }
        let (delegates, threshold) = (self.delegates.len(), self.threshold as usize);
        if delegates == 0 || delegates > limits::DELEGATES || threshold == 0 || threshold > delegates {
            return Err(PolicyError::Delegates(delegates, self.threshold));
        }
        if !self.delegates.is_sorted_by(|a, b| a < b) {
            return Err(PolicyError::Order);
        }
        let fits = |rule: &BranchRule| {
            let least = usize::from(rule.require.is_empty());
            (least..=limits::BRANCHES).contains(&(rule.accepts as usize))
        };
        if self.branches.len() > limits::BRANCHES
            || !self.branches.is_sorted_by(|a, b| a.branch < b.branch)
            || !self.branches.iter().all(fits)
        {
            return Err(PolicyError::Branches);
        }
        self.branches.iter().try_for_each(|rule| requirement::check(&rule.require))?;
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

    #[test]
    fn a_threshold_survives_as_many_as_two_quorums_share() {
        let people: Vec<PersonId> =
            (1..=5).map(|number| crate::key::SecretKey::from_bytes(&[number; 32]).public()).collect();
        let survives = |delegates: usize, threshold: u32| {
            let mut policy = Policy::standard(people[0]);
            policy.delegates = people[..delegates].to_vec();
            policy.threshold = threshold;
            policy.survives()
        };
        assert_eq!(survives(1, 1), Some(0));
        assert_eq!([1, 2, 3].map(|k| survives(3, k)), [None, Some(0), Some(2)]);
        assert_eq!([2, 3, 4].map(|k| survives(4, k)), [None, Some(1), Some(3)]);
        assert_eq!([3, 4].map(|k| survives(5, k)), [Some(0), Some(2)]);
    }
}
