//! What a set of operations means: who may do what, which commits count, where each branch stands.
//!
//! [`State::evaluate`] is a pure function of the set. Two nodes with the same operations have the same state and
//! the same [`fingerprint`](State::fingerprint), whatever the order in which the operations came. It reads
//! operation bodies only, never a tensor, and no local fact: what a node fetched or verified reaches the state as
//! a signed attestation or refutation.
//!
//! Four strata, each a function of the set and of the strata below: the policy (`revision`), maintainers and then
//! members (`authority`), and work: branches and commits (`work`), then claims, votes and heads (`head`).

mod authority;
mod export;
mod forest;
mod head;
mod order;
mod query;
mod reason;
mod revision;
mod step;
mod tree;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use query::{NextInputs, RevisionStatus};
pub use reason::{Dropped, Effect, NoEffect, UpdateStatus, Void};
pub use step::{Acceptance, StepStatus};

use crate::commit::{Commit, Outcome};
use crate::graph::Graph;
use crate::id::{BranchId, CommitId, OperationId, PackId, RepositoryId};
use crate::key::{PersonId, PublicKey};
use crate::limits;
use crate::operation::Body;
use crate::operation::body::{Cut, Judgement};
use crate::operation::evaluation::Evaluation;
use crate::policy::{BranchRule, Policy, Requirement, Role};
use authority::{Authority, Membership};
use order::Order;
use revision::Policies;
use tree::Tree;

/// What a set of operations means.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The repository.
    pub repo: RepositoryId,
    /// Its name, for people; empty before the genesis is here.
    pub name: String,
    /// The rules in force; none before the genesis is here.
    pub policy: Option<Policy>,
    /// The revisions of the policy that are in force, from the genesis to the one that holds now.
    pub chain: Vec<OperationId>,
    /// Approved revisions of the policy that contradict each other: it stays as it is until its delegates resolve.
    pub frozen: Vec<OperationId>,
    /// Every revision that a delegate proposed, in force or not, and the genesis.
    pub revisions: BTreeMap<OperationId, RevisionInfo>,
    /// The level that the policy needs and this build does not know: nothing below is evaluated.
    pub needs_level: Option<u64>,
    /// Everybody who has or had a role.
    pub members: BTreeMap<PersonId, Member>,
    /// Invites and how often they were used.
    pub invites: BTreeMap<OperationId, InviteInfo>,
    /// Every branch, deleted ones included.
    pub branches: BTreeMap<BranchId, Branch>,
    /// Every commit that somebody published, in effect or not.
    pub commits: BTreeMap<CommitId, CommitInfo>,
    /// Operations whose authors had no standing.
    pub void: BTreeMap<OperationId, Void>,
    /// Operations by people with standing that do not do what they say.
    pub idle: BTreeMap<OperationId, NoEffect>,
    /// Operations of kinds above the policy's level: relayed, not evaluated.
    pub above: Vec<OperationId>,
    /// Authors who signed two operations with one number: the lowest such number of each.
    pub equivocations: Vec<Equivocation>,
    tree: Tree,
}

/// A revision of the policy: the genesis, or a proposal by a delegate of the revision that it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionInfo {
    /// The revision it changes; none for the genesis.
    pub parent: Option<OperationId>,
    /// Its number on its chain, the genesis being 0.
    pub version: u64,
    /// What it states.
    pub policy: Policy,
    /// People whose roles end with it.
    pub cuts: Vec<Cut>,
    /// Who proposed it.
    pub by: PersonId,
    /// Why, for people.
    pub reason: String,
    /// The delegates of its parent who approved, the proposer among them.
    pub approvals: Vec<PersonId>,
}

/// Somebody who has or had a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Their role, or the last they had.
    pub role: Role,
    /// What to call them, for people; may be empty.
    pub name: String,
    /// The grant that gave the role; none for a delegate, whom the policy names.
    pub granted: Option<OperationId>,
    /// The operation that took the role away.
    pub revoked: Option<OperationId>,
}

/// An invite and how often it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteInfo {
    /// The public half of its key.
    pub key: PublicKey,
    /// The role it gives.
    pub role: Role,
    /// How many persons may use it.
    pub uses: u64,
    /// How many persons were granted a role by it.
    pub used: u64,
    /// For whom it is meant, for people.
    pub label: String,
    /// Who made it.
    pub by: PersonId,
}

impl InviteInfo {
    /// How many more persons may use it.
    pub fn left(&self) -> u64 {
        self.uses.saturating_sub(self.used)
    }
}

/// Proof that an author signed two different operations with one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// Who.
    pub author: PublicKey,
    /// The number.
    pub seq: u64,
    /// The two lowest ids of the operations with that number.
    pub operations: [OperationId; 2],
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The operation that created it.
    pub id: BranchId,
    /// Its name as shown: where several open branches have one name, the lowest id keeps it bare and the others
    /// carry `~` and their short id.
    pub name: String,
    /// Who created it.
    pub creator: PersonId,
    /// The commit it starts from; none before the first commit.
    pub root: Option<CommitId>,
    /// Where it stands; none before the first commit.
    pub head: Option<CommitId>,
    /// From root to head, both included.
    pub path: Vec<CommitId>,
    /// Updates that wait to be aggregated, in (Lamport time, operation id) order.
    pub pending: Vec<CommitId>,
    /// Updates that wait for accepts or evaluations, because the branch is protected; in the same order.
    pub waiting: Vec<CommitId>,
    /// Updates that can't be aggregated into this head, and why; in the same order.
    pub dropped: Vec<(CommitId, Dropped)>,
    /// Steps that lack accepts, in the same order.
    pub proposed: Vec<CommitId>,
    /// Each person's vote: what the latest of their operations on this branch names.
    pub votes: BTreeMap<PersonId, CommitId>,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A commit and what the set says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitInfo {
    /// The commit.
    pub commit: Arc<Commit>,
    /// Who published it, in (Lamport time, operation id) order.
    pub publications: Vec<Publication>,
    /// What people say of an aggregate's result, best first.
    pub claims: Vec<Claim>,
    /// What people say of it, in (Lamport time, operation id) order.
    pub reviews: Vec<ReviewInfo>,
    /// What people measured of it, in the same order.
    pub evaluations: Vec<EvaluationInfo>,
    /// The claim that counts, of an aggregate.
    pub result: Option<Outcome>,
    /// An aggregate that the head walk passes by: more people refute its best claim than support it.
    pub skipped: bool,
    /// Of a step that counts: who accepted it.
    pub acceptance: Option<Acceptance>,
}

/// One publication of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The operation.
    pub operation: OperationId,
    /// Who published it.
    pub person: PersonId,
    /// Where its tensors are.
    pub pack: PackId,
    /// Bytes that the pack's blobs take.
    pub pack_bytes: u64,
    /// What the publisher of an aggregate got.
    pub result: Option<Outcome>,
    /// The publisher's clock, for display.
    pub time: u64,
    /// Whether it counts, and why not.
    pub effect: Effect,
}

/// A review that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewInfo {
    /// The operation.
    pub operation: OperationId,
    /// Who says it.
    pub person: PersonId,
    /// What they make of the commit.
    pub judgement: Judgement,
    /// Why.
    pub text: String,
    /// The reviewer's clock, for display.
    pub time: u64,
}

/// An evaluation that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationInfo {
    /// The operation.
    pub operation: OperationId,
    /// Who measured.
    pub person: PersonId,
    /// What they measured.
    pub evaluation: Evaluation,
    /// Their clock, for display.
    pub time: u64,
}

/// What people say of one possible result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The result.
    pub outcome: Outcome,
    /// Persons whose latest word is that they got it.
    pub supporters: Vec<PersonId>,
    /// Persons whose latest word is that they did not.
    pub refuters: Vec<PersonId>,
}

impl Claim {
    /// Supporters less refuters.
    pub fn score(&self) -> i64 {
        let count = |people: &[PersonId]| i64::try_from(people.len()).unwrap_or(i64::MAX);
        count(&self.supporters) - count(&self.refuters)
    }
}

impl CommitInfo {
    /// Whether the commit counts: at least one publication does.
    pub fn is_effective(&self) -> bool {
        self.effect().is_full()
    }

    /// Whether it counts, or why its first publication does not.
    pub fn effect(&self) -> Effect {
        let first = self.publications.first().map_or(Effect::Full, |publication| publication.effect);
        if self.publications.iter().any(|publication| publication.effect.is_full()) {
            Effect::Full
        } else {
            first
        }
    }

    /// Who accepts it: whose last judgement that is no comment is an accept.
    pub fn accepted_by(&self) -> BTreeSet<PersonId> {
        let mut people = BTreeSet::new();
        for review in &self.reviews {
            match review.judgement {
                Judgement::Accept => people.insert(review.person),
                Judgement::Reject => people.remove(&review.person),
                Judgement::Comment => false,
            };
        }
        people
    }

    /// How many accepts count for it where `needed` are asked for: its author's only where one is enough.
    pub fn accepts(&self, needed: u32) -> u32 {
        let author = self.commit.author().filter(|_| needed > 1);
        let people = self.accepted_by().into_iter().filter(|person| Some(*person) != author);
        u32::try_from(people.count()).unwrap_or(u32::MAX)
    }

    /// How many persons' last evaluations that say anything about a requirement meet it, the author's own apart.
    pub fn meeting(&self, requirement: &Requirement) -> u32 {
        let mut last: BTreeMap<PersonId, bool> = BTreeMap::new();
        for by in &self.evaluations {
            if let Some(met) = requirement.met(&by.evaluation) {
                last.insert(by.person, met);
            }
        }
        let author = self.commit.author();
        let people = last.into_iter().filter(|(person, met)| *met && Some(*person) != author);
        u32::try_from(people.count()).unwrap_or(u32::MAX)
    }

    /// Whether it has the accepts and evaluations that a branch asks for.
    pub fn passes(&self, rule: &BranchRule) -> bool {
        self.accepts(rule.accepts) >= rule.accepts
            && rule.require.iter().all(|requirement| self.meeting(requirement) >= requirement.from)
    }

    /// The publications that count.
    pub fn effective(&self) -> impl Iterator<Item = &Publication> {
        self.publications.iter().filter(|publication| publication.effect.is_full())
    }

    /// The first publication that counts, else the first.
    pub fn publication(&self) -> Option<&Publication> {
        self.effective().next().or(self.publications.first())
    }
}

impl State {
    fn empty(repo: RepositoryId) -> Self {
        Self {
            repo,
            name: String::new(),
            policy: None,
            chain: Vec::new(),
            frozen: Vec::new(),
            revisions: BTreeMap::new(),
            needs_level: None,
            members: BTreeMap::new(),
            invites: BTreeMap::new(),
            branches: BTreeMap::new(),
            commits: BTreeMap::new(),
            void: BTreeMap::new(),
            idle: BTreeMap::new(),
            above: Vec::new(),
            equivocations: Vec::new(),
            tree: Tree::default(),
        }
    }

    /// Evaluates a set of operations. Time is about linear in their number; see the crate's benchmark.
    pub fn evaluate(graph: &Graph) -> Self {
        let mut state = Self::empty(graph.repo());
        let Some(genesis) = graph.genesis() else { return state };
        state.name.clone_from(&genesis.name);
        let order = Order::new(graph);
        let policies = Policies::new(&order, &genesis.policy);
        state.collect_revisions(&order, &policies);
        let level = policies.whole().above;
        state.needs_level = level.or((genesis.policy.level > limits::LEVEL).then_some(genesis.policy.level));
        if state.needs_level.is_some() {
            return state;
        }
        let authority = Authority::new(&order, &policies);
        state.collect_equivocations(&order);
        let member = |(person, Membership { role, name, granted, revoked })| {
            (person, Member { role, name, granted, revoked })
        };
        state.members = authority.members().into_iter().map(member).collect();
        let accepted = work::accept(&mut state, &order, &authority, &policies);
        head::decide(&mut state, &accepted);
        state
    }

    fn collect_revisions(&mut self, order: &Order<'_>, policies: &Policies<'_>) {
        let view = policies.whole();
        let ids = |ranks: &[usize]| ranks.iter().map(|rank| order.id(*rank)).collect();
        (self.chain, self.frozen) = (ids(&view.chain), ids(&view.frozen));
        self.frozen.sort_unstable();
        self.policy = view.chain.last().map(|rank| policies.policy(*rank).clone());
        for rank in policies.revisions() {
            let reason = match order.at(rank).body() {
                Body::Revision(revision) => revision.reason.clone(),
                _ => String::new(),
            };
            let info = RevisionInfo {
                parent: policies.parent(rank).map(|parent| order.id(parent)),
                version: policies.version(rank),
                policy: policies.policy(rank).clone(),
                cuts: policies.cuts(rank).to_vec(),
                by: order.at(rank).author(),
                reason,
                approvals: policies.approvers(rank),
            };
            self.revisions.insert(order.id(rank), info);
        }
    }

    fn collect_equivocations(&mut self, order: &Order<'_>) {
        for (author, ranks) in order.by_author.iter().enumerate() {
            let mut numbered: Vec<(u64, OperationId)> =
                ranks.iter().map(|rank| (order.at(*rank).header().seq, order.id(*rank))).collect();
            numbered.sort_unstable();
            let pair = numbered.windows(2).find(|pair| pair[0].0 == pair[1].0);
            if let Some([(seq, first), (_, second)]) = pair {
                let operations = [*first, *second];
                self.equivocations.push(Equivocation { author: order.people[author], seq: *seq, operations });
            }
        }
    }
}
