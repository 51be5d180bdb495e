//! The policy and its revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// The policy in force and what is proposed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyShown {
    /// The revision in force.
    pub revision: String,
    /// Its number; the first policy is 0.
    pub version: u64,
    /// Who decides.
    pub delegates: Vec<Delegate>,
    /// How many of them it takes.
    pub threshold: u32,
    /// How many dishonest delegates can't bring contradicting revisions into force; none where even honest ones can.
    pub survives: Option<u32>,
    /// Who may read.
    pub visibility: String,
    /// How one becomes a contributor.
    pub membership: String,
    /// The aggregation rule.
    pub rule: String,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
    /// All of it in words.
    pub words: Vec<String>,
    /// All of it as a file in TOML, which can be changed and proposed.
    #[serde(default)]
    pub document: String,
    /// Other revisions: proposed, contradicted, replaced, passed over.
    pub revisions: Vec<PolicyRevision>,
    /// Whether contradicting revisions have a quorum each: nothing changes until the delegates resolve.
    pub frozen: bool,
}

/// A delegate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Delegate {
    /// Key of the person.
    pub person: String,
    /// Their name.
    pub name: String,
    /// Whether it is this person.
    pub me: bool,
}

/// A revision of the policy.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyRevision {
    /// Its id.
    pub revision: String,
    /// Its number.
    pub version: u64,
    /// `in force`, `proposed`, `contradicted`, `replaced` or `passed over`.
    pub status: String,
    /// Who proposed it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Delegates who approved, by name.
    pub approvals: Vec<String>,
    /// Approvals that bring it into force.
    pub needed: u32,
    /// What it changes, a line each.
    pub changes: Vec<String>,
}

/// Propose a change of the policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PolicyProposal {
    /// The repository.
    pub place: Place,
    /// People who become delegates: keys, or members' names.
    pub add: Vec<String>,
    /// Delegates who are let go.
    pub remove: Vec<String>,
    /// People who lose every role by the quorum: what they did that this node has not seen is void.
    pub cut: Vec<String>,
    /// How many delegates it takes.
    pub threshold: Option<u32>,
    /// `invite` or `open`.
    pub membership: Option<String>,
    /// Another aggregation rule.
    pub aggregation: Option<String>,
    /// Settings of the rule, `every` and `max_staleness`.
    pub settings: BTreeMap<String, String>,
    /// What updates of a branch need, by the branch's name; nothing ends its protection.
    pub protect: BTreeMap<String, Protection>,
    /// Why.
    pub reason: String,
    /// The same in TOML, as [`PolicyShown::document`] has it: what is said above counts instead.
    #[serde(default)]
    pub document: Option<String>,
    /// Only tell what it would do.
    pub dry_run: bool,
}

/// Name a revision of the policy.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyChoice {
    /// The repository.
    pub place: Place,
    /// The revision: its id or the start of it; none where there is only one to choose.
    pub revision: Option<String>,
}

/// What updates of a branch need before they are aggregated.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Protection {
    /// Accepts by maintainers or delegates.
    pub accepts: u32,
    /// What others must have measured: `auc >= base - 0.01 from 2 others`.
    pub require: Vec<String>,
}
