//! Whose operations count: delegates, whom the policy names; maintainers, whom delegates name; and whom either of
//! them grants a role. And when that ends.
//!
//! Three strata, each a function of the set and of those before it: the policy ([`revision`](super::revision)),
//! then maintainers, by what delegates said, then everybody else, by what delegates and maintainers said. So no
//! question about somebody's standing ever comes back to itself.
//!
//! Everything here is judged within a [`Horizon`]: the whole set, or the past of one operation. What is judged in a
//! past can never change: an aggregate that was right when it was signed stays right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::order::Order;
use super::reason::{NoEffect, Void};
use super::revision::{Policies, View};
use crate::bits::Bits;
use crate::id::OperationId;
use crate::key::PersonId;
use crate::limits;
use crate::operation::Body;
use crate::policy::Role;

/// A past within which standing is judged.
#[derive(Clone, Debug)]
pub(super) struct Horizon<'a> {
    /// The numbered operations in it.
    seen: Arc<Bits>,
    policy: &'a View,
}

/// Somebody's standing now, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) granted: Option<OperationId>,
    pub(super) revoked: Option<OperationId>,
}

/// The strata of policy and membership.
pub(super) struct Authority<'a> {
    order: &'a Order<'a>,
    policies: &'a Policies<'a>,
    /// Authors who could ever hold the rank of a delegate or maintainer.
    ranking: Vec<usize>,
    /// What was said of each person: grants, revocations, and revisions that cut them off, by rank.
    about: BTreeMap<PersonId, Vec<usize>>,
    /// Of authors who fork: the numbers that they used more than once, with the operations.
    forks: BTreeMap<usize, BTreeMap<u64, Vec<usize>>>,
    /// Operations whose place in a past matters here, numbered in order.
    numbers: Vec<Option<usize>>,
    /// The numbered operations in the past of each operation, itself included.
    seen: Vec<Arc<Bits>>,
    whole: Arc<Bits>,
}

impl<'a> Authority<'a> {
    pub(super) fn new(order: &'a Order<'a>, policies: &'a Policies<'a>) -> Self {
        let mut authority = Self {
            order,
            policies,
            ranking: Vec::new(),
            about: BTreeMap::new(),
            forks: BTreeMap::new(),
            numbers: vec![None; order.len()],
            seen: Vec::with_capacity(order.len()),
            whole: Arc::default(),
        };
        let ranking = authority.collect();
        authority.number(&ranking);
        authority.look_around();
        authority
    }

    /// The whole set.
    pub(super) fn whole(&self) -> Horizon<'a> {
        Horizon { seen: Arc::clone(&self.whole), policy: self.policies.whole() }
    }

    /// The past of one operation, itself included.
    pub(super) fn past(&self, rank: usize) -> Horizon<'a> {
        Horizon { seen: Arc::clone(&self.seen[rank]), policy: self.policies.at(rank) }
    }

    /// Whether `event`, an operation by somebody who can hold a rank, is in the past of `rank` (or is `rank`).
    pub(super) fn knows(&self, rank: usize, event: usize) -> bool {
        self.numbers[event].is_some_and(|number| self.seen[rank].has(number))
    }

    /// Whether `event`, an operation by somebody who can hold a rank, is within `horizon`.
    pub(super) fn holds(&self, horizon: &Horizon<'_>, event: usize) -> bool {
        self.numbers[event].is_some_and(|number| horizon.seen.has(number))
    }

    /// The role in which the author of `rank` signed it, judged within `horizon`, which contains it.
    pub(super) fn standing(&self, rank: usize, horizon: &Horizon<'_>) -> Result<Role, Void> {
        let (followed, policies) = (self.order.at(rank).header().policy, self.policies);
        let stated =
            policies.rank(followed).filter(|revision| *revision == 0 || policies.parent(*revision).is_some());
        if rank != 0 && !stated.is_some_and(|revision| policies.sees(rank, revision)) {
            return Err(Void::Policy(followed));
        }
        let why = match self.as_delegate(rank, horizon) {
            None => None,
            Some(Ok(())) => return Ok(Role::Delegate),
            Some(Err(why)) => Some(why),
        };
        // A delegate who was let go may hold another role besides.
        self.as_member(rank, horizon, Role::Reader).map_err(|other| why.unwrap_or(other))
    }

    /// Whether the author signed as a delegate; none if they were not one in the operation's own past.
    fn as_delegate(&self, rank: usize, horizon: &Horizon<'_>) -> Option<Result<(), Void>> {
        let (order, policies) = (self.order, self.policies);
        let author = order.at(rank).author();
        if !policies.delegates.contains(&author) {
            return None;
        }
        let chain = &horizon.policy.chain;
        let followed = common(&policies.at(rank).chain, chain);
        if !policies.policy(chain[followed]).delegates.contains(&author) {
            let gone =
                policies.at(rank).chain.iter().rev().find(|revision| self.dismisses(**revision, author));
            return gone.map(|revision| Err(Void::Revoked(order.id(*revision))));
        }
        for revision in &chain[followed + 1..] {
            if self.dismisses(*revision, author) && !self.spared(rank, *revision, author) {
                return Some(Err(Void::Quarantined(order.id(*revision))));
            }
        }
        Some(self.unforked(rank, horizon, Role::Delegate))
    }

    /// Whether a revision ends the person's role as a delegate.
    fn dismisses(&self, revision: usize, person: PersonId) -> bool {
        let policies = self.policies;
        policies.cuts(revision).iter().any(|cut| cut.person == person)
            || (!policies.policy(revision).delegates.contains(&person)
                && policies
                    .parent(revision)
                    .is_some_and(|parent| policies.policy(parent).delegates.contains(&person)))
    }

    /// Whether a revision lets an operation by somebody whom it dismisses stand: it is under the frontier that the
    /// quorum vouches for, or, of a delegate who is only let go, in the revision's past.
    fn spared(&self, rank: usize, revision: usize, person: PersonId) -> bool {
        match self.policies.cuts(revision).iter().find(|cut| cut.person == person) {
            Some(cut) => self.under(rank, &cut.keep),
            None => self.knows(revision, rank),
        }
    }

    /// Whether an operation is at or under one of `frontier`.
    fn under(&self, rank: usize, frontier: &[OperationId]) -> bool {
        frontier.iter().filter_map(|id| self.order.rank(*id)).any(|kept| self.knows(kept, rank))
    }

    /// The highest role, `least` or above, that the author of `rank` was granted and that stands.
    fn as_member(&self, rank: usize, horizon: &Horizon<'_>, least: Role) -> Result<Role, Void> {
        let person = self.order.at(rank).author();
        let mut best = Err(Void::Stranger);
        for grant in self.events(person, &self.past(rank)) {
            let Body::Grant(granted) = self.order.at(grant).body() else { continue };
            let known = best.as_ref().is_ok_and(|best| *best >= granted.role);
            if known || granted.role < least || self.decides(grant, horizon, least).is_none() {
                continue;
            }
            let stands = self.lasting(rank, grant, horizon, least);
            match stands.and_then(|()| self.unforked(rank, horizon, granted.role)) {
                Ok(()) => best = Ok(granted.role),
                // That a later grant took the place of this one is no reason.
                Err(Void::Stranger) => {}
                Err(why) => best = best.or(Err(why)),
            }
        }
        best
    }

    /// Whether the grant on which an operation rests was not ended: not before it was signed, nor without it.
    fn lasting(&self, rank: usize, grant: usize, horizon: &Horizon<'_>, least: Role) -> Result<(), Void> {
        let order = self.order;
        let Body::Grant(granted) = order.at(grant).body() else { return Ok(()) };
        let person = granted.person;
        for event in self.events(person, horizon).filter(|event| self.ends(*event, grant, horizon, least)) {
            let kept = match order.at(event).body() {
                Body::Grant(_) if self.knows(rank, event) => return Err(Void::Stranger),
                Body::Revision(_) if self.policies.at(rank).chain.contains(&event) => {
                    return Err(Void::Revoked(order.id(event)));
                }
                Body::Revision(_) => self.spared(rank, event, person),
                Body::Revoke(_) if self.knows(rank, event) => return Err(Void::Revoked(order.id(event))),
                Body::Revoke(revoke) => {
                    self.knows(event, rank)
                        || self.under(rank, &revoke.keep)
                        || self.vouched(rank, granted.role, horizon, |by| self.knows(by, event))
                }
                _ => true,
            };
            if !kept {
                return Err(Void::Quarantined(order.id(event)));
            }
        }
        Ok(())
    }

    /// Whether an event, signed in view of a grant to the same person, ends it: a later grant or a revocation by
    /// somebody who outranks what was granted, or a revision in force that cuts the person off.
    fn ends(&self, event: usize, grant: usize, horizon: &Horizon<'_>, least: Role) -> bool {
        let Body::Grant(granted) = self.order.at(grant).body() else { return false };
        event != grant
            && self.knows(event, grant)
            && match self.order.at(event).body() {
                Body::Revision(_) => horizon.policy.chain.contains(&event),
                _ => self.decides(event, horizon, least).is_some_and(|signer| signer > granted.role),
            }
    }

    /// What was said of a person within a horizon, from the first to the last.
    fn events(&self, person: PersonId, horizon: &Horizon<'_>) -> impl Iterator<Item = usize> {
        let about = self.about.get(&person).into_iter().flatten().copied();
        about.filter(|event| self.holds(horizon, *event))
    }

    /// The rank in which somebody signed a grant or revocation, if it was theirs to make. With `least` at the rank
    /// of maintainers only delegates decide: nobody else makes or unmakes a maintainer.
    fn decides(&self, event: usize, horizon: &Horizon<'_>, least: Role) -> Option<Role> {
        let signer = match self.as_delegate(event, horizon) {
            Some(Ok(())) => Role::Delegate,
            _ if least >= Role::Maintainer => return None,
            _ => self.as_member(event, horizon, Role::Maintainer).ok()?,
        };
        self.ranks(event, signer).ok().map(|()| signer)
    }

    /// Whether `signer` outranks whom a grant or revocation concerns, as seen when it was signed, and what it gives.
    fn ranks(&self, event: usize, signer: Role) -> Result<(), NoEffect> {
        let (person, given) = match self.order.at(event).body() {
            Body::Grant(grant) => (grant.person, grant.role),
            Body::Revoke(revoke) => (revoke.person, Role::Reader),
            _ => return Ok(()),
        };
        let seen = self.past(event);
        if self.policies.policy(last(&seen)).delegates.contains(&person) || given >= signer {
            return Err(NoEffect::Rank);
        }
        if signer < Role::Delegate && self.held(person, &seen, Role::Maintainer).is_some() {
            return Err(NoEffect::Rank);
        }
        Ok(())
    }

    /// Whether a grant, revocation or invite by somebody of rank `signer` does what it says.
    pub(super) fn allows(&self, event: usize, signer: Role) -> Result<(), NoEffect> {
        let person = match self.order.at(event).body() {
            Body::Invite(invite) if invite.role >= signer => return Err(NoEffect::Rank),
            Body::Grant(grant) => grant.person,
            Body::Revoke(revoke) => revoke.person,
            _ => return Ok(()),
        };
        if self.about.get(&person).is_none_or(|events| events.binary_search(&event).is_err()) {
            return Err(if self.again(event, person) { NoEffect::Changes } else { NoEffect::Members });
        }
        self.ranks(event, signer)
    }

    /// The highest role, `least` or above, that a person was granted and that stands at the end of `horizon`, with
    /// the grant.
    fn held(&self, person: PersonId, horizon: &Horizon<'_>, least: Role) -> Option<(Role, usize)> {
        let mut best = None;
        for grant in self.events(person, horizon) {
            let Body::Grant(granted) = self.order.at(grant).body() else { continue };
            if granted.role < least || best.is_some_and(|(role, _)| role > granted.role) {
                continue;
            }
            let ended = |event| self.ends(event, grant, horizon, least);
            if self.decides(grant, horizon, least).is_some() && !self.events(person, horizon).any(ended) {
                best = Some((granted.role, grant));
            }
        }
        best
    }

    /// Whether an operation is not at or after a fork of its author's, or somebody above them, who had not seen the
    /// fork, had seen the operation. Nobody is above a delegate: there, other delegates who never fork vouch.
    fn unforked(&self, rank: usize, horizon: &Horizon<'_>, role: Role) -> Result<(), Void> {
        let Some(forks) = self.forks.get(&self.order.author[rank]) else { return Ok(()) };
        let seq = self.order.at(rank).header().seq;
        let shows = |seen: &Bits| {
            forks.range(..=seq).find(|(_, twins)| {
                let held = |twin: &&usize| self.numbers[**twin].is_some_and(|number| seen.has(number));
                twins.iter().filter(held).count() > 1
            })
        };
        let Some((number, _)) = shows(&horizon.seen) else { return Ok(()) };
        if self.vouched(rank, role, horizon, |by| shows(&self.seen[by]).is_some()) {
            return Ok(());
        }
        Err(Void::Equivocation(*number))
    }

    /// Whether somebody ranked above `role` had seen an operation without having seen what speaks against it.
    fn vouched(&self, rank: usize, role: Role, horizon: &Horizon<'_>, knew: impl Fn(usize) -> bool) -> bool {
        let author = self.order.author[rank];
        self.ranking.iter().filter(|by| **by != author).any(|by| {
            let forked =
                |twins: &Vec<usize>| twins.iter().filter(|twin| self.holds(horizon, **twin)).count() > 1;
            if role == Role::Delegate && self.forks.get(by).is_some_and(|forks| forks.values().any(forked)) {
                return false;
            }
            let theirs = self.order.by_author[*by].as_slice();
            let unaware = |by: &usize| self.holds(horizon, *by) && !knew(*by);
            // Who does not fork knows more with every operation: what is unaware comes first.
            let forks = self.forks.contains_key(by);
            let theirs = if forks { theirs } else { &theirs[..theirs.partition_point(unaware)] };
            let mut witnesses = theirs
                .iter()
                .rev()
                .take_while(|by| forks || self.knows(**by, rank))
                .filter(|by| self.knows(**by, rank) && unaware(by));
            witnesses.any(|by| match self.as_delegate(*by, horizon) {
                Some(Ok(())) => true,
                _ => role < Role::Maintainer && self.as_member(*by, horizon, Role::Maintainer).is_ok(),
            })
        })
    }

    /// Everybody of whom something was said, and the delegates, with their standing now.
    pub(super) fn members(&self) -> BTreeMap<PersonId, Membership> {
        let whole = self.whole();
        let people: BTreeSet<PersonId> = self.about.keys().chain(&self.policies.delegates).copied().collect();
        people.into_iter().filter_map(|person| Some((person, self.membership(person, &whole)?))).collect()
    }

    fn membership(&self, person: PersonId, whole: &Horizon<'_>) -> Option<Membership> {
        let decided: Vec<usize> = self
            .events(person, whole)
            .filter(|event| match self.order.at(*event).body() {
                Body::Revision(_) => whole.policy.chain.contains(event),
                _ => self.decides(*event, whole, Role::Reader).is_some(),
            })
            .collect();
        let granted = |event: &usize| match self.order.at(*event).body() {
            Body::Grant(grant) => Some((*event, grant)),
            _ => None,
        };
        let last = decided.iter().rev().find_map(granted);
        let name = match self.order.at(0).body() {
            Body::Genesis(genesis) if self.order.at(0).author() == person => genesis.founder.clone(),
            _ => last.map(|(_, grant)| grant.name.clone()).unwrap_or_default(),
        };
        let chain = &whole.policy.chain;
        let id = |event: usize| self.order.id(event);
        if self.policies.policy(chain[chain.len() - 1]).delegates.contains(&person) {
            return Some(Membership { role: Role::Delegate, name, granted: None, revoked: None });
        }
        if let Some((role, grant)) = self.held(person, whole, Role::Reader) {
            return Some(Membership { role, name, granted: Some(id(grant)), revoked: None });
        }
        if let Some((grant, granted)) = last {
            let ended = |event: &&usize| self.ends(**event, grant, whole, Role::Reader);
            let revoked = decided.iter().rev().find(ended).map(|event| id(*event));
            return Some(Membership { role: granted.role, name, granted: Some(id(grant)), revoked });
        }
        // A revision may also cut somebody who never had a role.
        let once = chain.iter().any(|revision| self.policies.policy(*revision).delegates.contains(&person));
        let gone = chain.iter().rev().find(|revision| once && self.dismisses(**revision, person))?;
        Some(Membership { role: Role::Delegate, name, granted: None, revoked: Some(id(*gone)) })
    }

    /// Lists what was said of whom by people who can hold a rank; gives those people.
    fn collect(&mut self) -> BTreeSet<PersonId> {
        let (order, delegates) = (self.order, &self.policies.delegates);
        let mut ranking = delegates.clone();
        for rank in 0..order.len() {
            if let Body::Grant(grant) = order.at(rank).body()
                && grant.role == Role::Maintainer
                && delegates.contains(&order.at(rank).author())
            {
                ranking.insert(grant.person);
            }
        }
        let mut granted = BTreeSet::new();
        for rank in (0..order.len()).filter(|rank| ranking.contains(&order.at(*rank).author())) {
            match order.at(rank).body() {
                Body::Grant(grant)
                    if !self.again(rank, grant.person)
                        && (granted.len() < limits::MEMBERS || granted.contains(&grant.person)) =>
                {
                    granted.insert(grant.person);
                    self.about.entry(grant.person).or_default().push(rank);
                }
                Body::Revoke(revoke) if !self.again(rank, revoke.person) => {
                    self.about.entry(revoke.person).or_default().push(rank);
                }
                Body::Revision(revision) => {
                    for cut in &revision.cuts {
                        self.about.entry(cut.person).or_default().push(rank);
                    }
                }
                _ => {}
            }
        }
        ranking
    }

    /// Whether the signer changed this person's role too often before. Without a bound, a maintainer's thousand
    /// grants and thousand revocations would be a million questions for each operation of whom they concern.
    fn again(&self, rank: usize, person: PersonId) -> bool {
        let earlier = self.about.get(&person).into_iter().flatten();
        let own = earlier.filter(|event| {
            !matches!(self.order.at(**event).body(), Body::Revision(_))
                && self.order.chain.covers(**event, rank)
        });
        own.count() >= limits::CHANGES
    }

    /// Numbers the operations whose place in a past matters: by people who can hold a rank, by people who fork or
    /// whose role ends, and those that a frontier names.
    fn number(&mut self, ranking: &BTreeSet<PersonId>) {
        let order = self.order;
        let mut traced = vec![false; order.people.len()];
        for (author, person) in order.people.iter().enumerate() {
            let twins = twins(order, author);
            let known = self.about.contains_key(person) || ranking.contains(person);
            let ended = self.about.get(person).into_iter().flatten();
            let ended = ended.clone().any(|event| !matches!(order.at(*event).body(), Body::Grant(_)));
            if ranking.contains(person) {
                self.ranking.push(author);
            }
            traced[author] = ranking.contains(person) || ended || (known && !twins.is_empty());
            if known && !twins.is_empty() {
                self.forks.insert(author, twins);
            }
        }
        let mut named: BTreeSet<OperationId> = BTreeSet::new();
        for rank in self.about.values().flatten() {
            match order.at(*rank).body() {
                Body::Revoke(revoke) => named.extend(&revoke.keep),
                Body::Revision(revision) => named.extend(revision.cuts.iter().flat_map(|cut| &cut.keep)),
                _ => {}
            }
        }
        let named: BTreeSet<usize> = named.into_iter().filter_map(|id| order.rank(id)).collect();
        let numbered = (0..order.len()).filter(|rank| traced[order.author[*rank]] || named.contains(rank));
        for (number, rank) in numbered.enumerate() {
            self.numbers[rank] = Some(number);
        }
    }

    /// Finds which numbered operations each operation has in its past.
    fn look_around(&mut self) {
        let mut whole = Bits::default();
        for rank in 0..self.order.len() {
            let mut seen = Bits::union(self.order.deps(rank).iter().map(|dep| &self.seen[*dep]));
            if let Some(number) = self.numbers[rank] {
                Arc::make_mut(&mut seen).insert(number);
                whole.insert(number);
            }
            self.seen.push(seen);
        }
        self.whole = Arc::new(whole);
    }
}

/// The place in `chain` of the last revision that both chains share; both start at the genesis.
fn common(own: &[usize], chain: &[usize]) -> usize {
    let most = own.len().min(chain.len());
    if own[most - 1] == chain[most - 1] {
        return most - 1;
    }
    own.iter().zip(chain).take_while(|(a, b)| a == b).count() - 1
}

fn last(horizon: &Horizon<'_>) -> usize {
    horizon.policy.chain.last().copied().unwrap_or_default()
}

/// The numbers that an author used more than once, with the operations.
fn twins(order: &Order<'_>, author: usize) -> BTreeMap<u64, Vec<usize>> {
    let mut numbered: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for rank in &order.by_author[author] {
        numbered.entry(order.at(*rank).header().seq).or_default().push(*rank);
    }
    numbered.retain(|_, ranks| ranks.len() > 1);
    numbered
}
