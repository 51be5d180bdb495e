//! The first stratum: which revisions of the policy are in force.
//!
//! A revision is in force once `threshold` delegates *of its parent* approved of it. An approval counts for good,
//! whatever becomes of who gave it, so more operations never take a revision's quorum away. Where two revisions of
//! one parent have a quorum, the parent stays in force and nothing under it moves until a quorum of its delegates
//! resolves.

use std::collections::{BTreeMap, BTreeSet};

use super::order::Order;
use super::reason::NoEffect;
use crate::id::OperationId;
use crate::key::PersonId;
use crate::operation::Body;
use crate::operation::body::Cut;
use crate::policy::Policy;

/// Which revisions are in force in some past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// From the genesis to the revision in force, by rank.
    pub(super) chain: Vec<usize>,
    /// Approved revisions of the one in force that contradict each other; none unless the policy is frozen.
    pub(super) frozen: Vec<usize>,
    /// The level of a policy that has its quorum and that this build does not know.
    pub(super) above: Option<u64>,
}

#[derive(Debug)]
struct Resolution {
    rank: usize,
    by: PersonId,
    round: u64,
    revision: usize,
}

/// The policy operations of a set.
pub(super) struct Policies<'a> {
    order: &'a Order<'a>,
    genesis: &'a Policy,
    /// Everybody whom the genesis or a delegate's proposal names as a delegate.
    pub(super) delegates: BTreeSet<PersonId>,
    /// The genesis and the revisions by id.
    ranks: BTreeMap<OperationId, usize>,
    /// Policy operations by delegates, numbered in order.
    numbers: BTreeMap<usize, usize>,
    /// Revisions that are well-formed, under their parents.
    children: BTreeMap<usize, Vec<usize>>,
    /// Who approved of a revision, and by which operation.
    approvals: BTreeMap<usize, Vec<(PersonId, usize)>>,
    /// Resolutions by the parent of what they choose among.
    resolutions: BTreeMap<usize, Vec<Resolution>>,
    /// Of each operation, itself included: the policy operations it has seen, as an index into `views`.
    seen: Vec<usize>,
    sets: Vec<Vec<u64>>,
    views: Vec<View>,
    whole: usize,
}

impl<'a> Policies<'a> {
    pub(super) fn new(order: &'a Order<'a>, genesis: &'a Policy) -> Self {
        let mut policies = Self {
            order,
            genesis,
            delegates: genesis.delegates.iter().copied().collect(),
            ranks: BTreeMap::new(),
            numbers: BTreeMap::new(),
            children: BTreeMap::new(),
            approvals: BTreeMap::new(),
            resolutions: BTreeMap::new(),
            seen: Vec::with_capacity(order.len()),
            sets: Vec::new(),
            views: Vec::new(),
            whole: 0,
        };
        policies.collect();
        policies.look_around();
        policies.settle();
        policies.views = policies.sets.iter().map(|set| policies.view(set)).collect();
        policies
    }

    /// The revisions in force in the past of `rank`, itself included.
    pub(super) fn at(&self, rank: usize) -> &View {
        &self.views[self.seen[rank]]
    }

    /// The revisions in force.
    pub(super) fn whole(&self) -> &View {
        &self.views[self.whole]
    }

    /// The policy that the genesis or a revision states.
    pub(super) fn policy(&self, rank: usize) -> &'a Policy {
        match self.order.at(rank).body() {
            Body::Revision(revision) => revision.policy.known().unwrap_or(self.genesis),
            _ => self.genesis,
        }
    }

    /// The level of a policy that this build does not know.
    fn above(&self, rank: usize) -> Option<u64> {
        match self.order.at(rank).body() {
            Body::Revision(revision) if revision.policy.known().is_none() => Some(revision.policy.level()),
            _ => None,
        }
    }

    /// Whom a revision cuts off; nobody for the genesis.
    pub(super) fn cuts(&self, rank: usize) -> &'a [Cut] {
        match self.order.at(rank).body() {
            Body::Revision(revision) => &revision.cuts,
            _ => &[],
        }
    }

    /// The rank of the genesis or of a revision, in force or not.
    pub(super) fn rank(&self, revision: OperationId) -> Option<usize> {
        self.ranks.get(&revision).copied()
    }

    /// Whether the past of `rank` holds this policy operation.
    pub(super) fn sees(&self, rank: usize, event: usize) -> bool {
        event == 0
            || self.numbers.get(&event).is_some_and(|number| holds(&self.sets[self.seen[rank]], *number))
    }

    /// The genesis and every revision that is well-formed.
    pub(super) fn revisions(&self) -> impl Iterator<Item = usize> {
        let proposed = self.children.values().flatten().copied();
        std::iter::once(0).chain(proposed.filter(|revision| self.above(*revision).is_none()))
    }

    /// Who approved of a revision in the whole set, ascending.
    pub(super) fn approvers(&self, revision: usize) -> Vec<PersonId> {
        let approvals = self.approvals.get(&revision).into_iter().flatten();
        let people: BTreeSet<PersonId> = approvals.map(|(person, _)| *person).collect();
        people.into_iter().collect()
    }

    /// What a policy operation does: that it counts does not say that the revision is in force.
    pub(super) fn effect(&self, rank: usize) -> Result<(), NoEffect> {
        let author = self.order.at(rank).author();
        let named = match self.order.at(rank).body() {
            Body::Revision(revision) => revision.parent,
            Body::Approve(approve) => approve.revision,
            Body::Resolve(resolve) => resolve.revision,
            _ => return Ok(()),
        };
        let known = self.rank(named).filter(|event| *event != rank && self.sees(rank, *event));
        let known = known.ok_or(NoEffect::Revision(named))?;
        let parent = match self.order.at(rank).body() {
            Body::Revision(revision) => {
                if known != 0 && self.parent(known).is_none() {
                    return Err(NoEffect::Revision(named));
                }
                let version = self.version(known);
                if version.checked_add(1) != Some(revision.version) {
                    return Err(NoEffect::Version { found: revision.version, parent: version });
                }
                known
            }
            _ => self.parent(known).ok_or(NoEffect::Revision(named))?,
        };
        // Who decides under a policy that this build does not know can't be told.
        if self.above(parent).is_some() {
            return Err(NoEffect::Revision(named));
        }
        if !self.policy(parent).delegates.contains(&author) {
            return Err(NoEffect::NotDelegate);
        }
        Ok(())
    }

    /// The parent of a revision that is well-formed; none for the genesis.
    pub(super) fn parent(&self, revision: usize) -> Option<usize> {
        let Body::Revision(body) = self.order.at(revision).body() else { return None };
        let parent = self.rank(body.parent)?;
        self.children.get(&parent)?.contains(&revision).then_some(parent)
    }

    pub(super) fn version(&self, revision: usize) -> u64 {
        match self.order.at(revision).body() {
            Body::Revision(revision) => revision.version,
            _ => 0,
        }
    }

    /// Lists who was ever named a delegate and what they said of the policy.
    fn collect(&mut self) {
        for rank in 0..self.order.len() {
            let operation = self.order.at(rank);
            match operation.body() {
                Body::Genesis(_) => {
                    self.ranks.insert(operation.id(), rank);
                }
                Body::Revision(revision) if self.delegates.contains(&operation.author()) => {
                    self.ranks.insert(operation.id(), rank);
                    self.delegates
                        .extend(revision.policy.known().into_iter().flat_map(|policy| &policy.delegates));
                }
                _ => {}
            }
        }
        let ours = |rank: &usize| {
            let operation = self.order.at(*rank);
            matches!(operation.body(), Body::Revision(_) | Body::Approve(_) | Body::Resolve(_))
                && self.delegates.contains(&operation.author())
        };
        let events = (0..self.order.len()).filter(ours);
        self.numbers = events.enumerate().map(|(number, rank)| (rank, number)).collect();
    }

    /// Finds which policy operations each operation has seen.
    fn look_around(&mut self) {
        let mut index: BTreeMap<Vec<u64>, usize> = BTreeMap::new();
        let mut all = Vec::new();
        let mut intern = |set: Vec<u64>, sets: &mut Vec<Vec<u64>>| {
            *index.entry(set).or_insert_with_key(|set| {
                sets.push(set.clone());
                sets.len() - 1
            })
        };
        for rank in 0..self.order.len() {
            let mut from: Vec<usize> = self.order.deps(rank).iter().map(|dep| self.seen[*dep]).collect();
            from.sort_unstable();
            from.dedup();
            let own = self.numbers.get(&rank);
            if let ([one], None) = (from.as_slice(), own) {
                self.seen.push(*one);
                continue;
            }
            let mut set = Vec::new();
            for one in from {
                join(&mut set, &self.sets[one]);
            }
            if let Some(own) = own {
                insert(&mut set, *own);
                insert(&mut all, *own);
            }
            let number = intern(set, &mut self.sets);
            self.seen.push(number);
        }
        self.whole = intern(all, &mut self.sets);
    }

    /// Sorts the policy operations that are well-formed by what they are about.
    fn settle(&mut self) {
        for rank in self.numbers.keys().copied().collect::<Vec<_>>() {
            if self.effect(rank).is_err() {
                continue;
            }
            let by = self.order.at(rank).author();
            match self.order.at(rank).body() {
                Body::Revision(revision) => {
                    if let Some(parent) = self.rank(revision.parent) {
                        self.children.entry(parent).or_default().push(rank);
                        self.approvals.entry(rank).or_default().push((by, rank));
                    }
                }
                Body::Approve(approve) => {
                    if let Some(revision) = self.rank(approve.revision) {
                        self.approvals.entry(revision).or_default().push((by, rank));
                    }
                }
                Body::Resolve(resolve) => {
                    if let Some(revision) = self.rank(resolve.revision)
                        && let Some(parent) = self.parent(revision)
                    {
                        let resolution = Resolution { rank, by, round: resolve.round, revision };
                        self.resolutions.entry(parent).or_default().push(resolution);
                    }
                }
                _ => {}
            }
        }
    }

    /// The revisions in force where `set` is what is known.
    fn view(&self, set: &[u64]) -> View {
        let known = |rank: usize| self.numbers.get(&rank).is_some_and(|number| holds(set, *number));
        let mut view = View { chain: vec![0], frozen: Vec::new(), above: None };
        let mut current = 0;
        loop {
            let quorum = self.policy(current).threshold as usize;
            let approved = |revision: &usize| {
                let approvals = self.approvals.get(revision).into_iter().flatten();
                let people: BTreeSet<PersonId> =
                    approvals.filter(|(_, event)| known(*event)).map(|(person, _)| *person).collect();
                known(*revision) && people.len() >= quorum
            };
            let children = self.children.get(&current).into_iter().flatten().copied();
            let approved: Vec<usize> = children.filter(approved).collect();
            let next = match approved.as_slice() {
                [] => return view,
                [one] => Some(*one),
                several => self.resolved(current, several, quorum, known),
            };
            let Some(next) = next else {
                view.frozen = approved;
                return view;
            };
            view.above = self.above(next);
            if view.above.is_some() {
                return view;
            }
            view.chain.push(next);
            current = next;
        }
    }

    /// The approved revision that a quorum chose: by the highest round in which just one has a quorum.
    fn resolved(
        &self,
        parent: usize,
        approved: &[usize],
        quorum: usize,
        known: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut rounds: BTreeMap<u64, BTreeMap<usize, BTreeSet<PersonId>>> = BTreeMap::new();
        let resolutions = self.resolutions.get(&parent).into_iter().flatten();
        for resolution in resolutions.filter(|resolution| known(resolution.rank)) {
            if approved.contains(&resolution.revision) {
                let round = rounds.entry(resolution.round).or_default();
                round.entry(resolution.revision).or_default().insert(resolution.by);
            }
        }
        rounds.values().rev().find_map(|round| {
            let mut chosen = round.iter().filter(|(_, people)| people.len() >= quorum);
            let first = chosen.next().map(|(revision, _)| *revision);
            first.filter(|_| chosen.next().is_none())
        })
    }
}

fn holds(set: &[u64], number: usize) -> bool {
    set.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
}

fn insert(set: &mut Vec<u64>, number: usize) {
    if set.len() <= number / 64 {
        set.resize(number / 64 + 1, 0);
    }
    set[number / 64] |= 1 << (number % 64);
}

fn join(set: &mut Vec<u64>, other: &[u64]) {
    if set.len() < other.len() {
        set.resize(other.len(), 0);
    }
    set.iter_mut().zip(other).for_each(|(word, more)| *word |= more);
}
