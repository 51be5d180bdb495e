//! Whose operations count: the policy's delegate, those the delegate granted a role, and when that ends.
//!
//! Everything here is judged within a [`Horizon`]: the whole set, or the past of one operation. The delegate's
//! operations are one chain (up to where it forks, if the delegate equivocates), so what the delegate had said in
//! some past is the chain up to one operation, and comparing two pasts is comparing two places on that chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::order::Order;
use super::reason::Void;
use crate::id::OperationId;
use crate::key::PublicKey;
use crate::limits;
use crate::operation::Body;
use crate::policy::Role;

/// What some past shows of one author's operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The last operation before any fork.
    pub(super) tip: Option<usize>,
    /// Whether two different operations follow it.
    pub(super) forked: bool,
}

type Views = Arc<BTreeMap<usize, View>>;

/// A past within which standing is judged.
#[derive(Clone, Debug, Default)]
pub(super) struct Horizon {
    delegate: View,
    forks: Views,
}

/// Somebody's standing when they signed an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) role: Role,
}

/// The strata of policy and membership.
pub(super) struct Authority<'a> {
    order: &'a Order<'a>,
    genesis: OperationId,
    delegate: PublicKey,
    /// What each operation's past, itself included, shows of the delegate.
    views: Vec<View>,
    /// The same for the members who fork somewhere in the set; shared between operations that see the same.
    forks: Vec<Views>,
    /// For each operation of the delegate: how far they ever vouched for those members before they saw the fork.
    vouched: BTreeMap<usize, Views>,
    /// Grants and revocations of each person by the delegate, by rank.
    events: BTreeMap<PublicKey, Vec<usize>>,
    /// What each revocation lets stand of the revoked person's operations.
    kept: BTreeMap<usize, BTreeSet<usize>>,
    whole: Horizon,
}

impl<'a> Authority<'a> {
    pub(super) fn new(order: &'a Order<'a>, genesis: OperationId, delegate: PublicKey) -> Self {
        let mut authority = Self {
            order,
            genesis,
            delegate,
            views: Vec::with_capacity(order.len()),
            forks: Vec::with_capacity(order.len()),
            vouched: BTreeMap::new(),
            events: BTreeMap::new(),
            kept: BTreeMap::new(),
            whole: Horizon::default(),
        };
        authority.collect_events();
        authority.look_around();
        authority.weigh_revocations();
        authority
    }

    /// The whole set.
    pub(super) fn whole(&self) -> &Horizon {
        &self.whole
    }

    /// The past of one operation, itself included.
    pub(super) fn past(&self, rank: usize) -> Horizon {
        Horizon { delegate: self.views[rank], forks: Arc::clone(&self.forks[rank]) }
    }

    /// Whether the delegate's operation `event` is in the past of `rank` (or is `rank`).
    pub(super) fn knows(&self, rank: usize, event: usize) -> bool {
        self.views[rank].tip.is_some_and(|tip| self.order.chain.covers(event, tip))
    }

    /// The grants and revocations of each person that the delegate's chain holds, in its order.
    pub(super) fn membership(&self) -> impl Iterator<Item = (PublicKey, Vec<usize>)> {
        self.events.iter().filter_map(|(person, events)| {
            let tip = self.whole.delegate.tip?;
            let on_chain = |event: &usize| self.order.chain.covers(*event, tip);
            Some((*person, events.iter().copied().filter(on_chain).collect()))
        })
    }

    /// The standing of the author of operation `rank`, judged within `horizon`, which contains it.
    pub(super) fn standing(&self, rank: usize, horizon: &Horizon) -> Result<Standing, Void> {
        let (order, header) = (self.order, self.order.at(rank).header());
        if header.policy != self.genesis && order.id(rank) != self.genesis {
            return Err(Void::Policy(header.policy));
        }
        if header.author == self.delegate {
            let View { tip, forked } = horizon.delegate;
            if forked && !tip.is_some_and(|tip| order.chain.covers(rank, tip)) {
                return Err(Void::Equivocation(self.after(tip)));
            }
            return Ok(Standing { role: Role::Delegate });
        }
        let Some(events) = self.events.get(&header.author) else { return Err(Void::Stranger) };
        self.unforked(rank, horizon)?;
        // What the author had seen of what this horizon knows of the delegate.
        let seen = match (self.views[rank].tip, horizon.delegate.tip) {
            (Some(own), Some(tip)) => order.chain.meet(own, tip),
            _ => None,
        };
        let Some((seen, tip)) = seen.zip(horizon.delegate.tip) else { return Err(Void::Stranger) };
        let on_chain = |event: &&usize| order.chain.covers(**event, tip);
        let last = events.iter().rev().filter(|event| **event <= seen).find(on_chain);
        let role = match last.map(|event| (event, order.at(*event).body())) {
            Some((_, Body::Grant(grant))) => grant.role,
            Some((event, _)) => return Err(Void::Revoked(order.id(*event))),
            None => return Err(Void::Stranger),
        };
        for later in events.iter().filter(|event| **event > seen).filter(on_chain) {
            if self.kept.get(later).is_some_and(|kept| !kept.contains(&rank)) {
                return Err(Void::Quarantined(order.id(*later)));
            }
        }
        Ok(Standing { role })
    }

    /// Checks that the operation is not at or after a fork of its author's, unless the delegate had seen it and
    /// not the fork.
    fn unforked(&self, rank: usize, horizon: &Horizon) -> Result<(), Void> {
        let author = self.order.author[rank];
        let Some(view) = horizon.forks.get(&author).filter(|view| view.forked) else { return Ok(()) };
        let vouched = horizon.delegate.tip.and_then(|tip| self.vouched.get(&tip)?.get(&author)?.tip);
        let covered = |tip: Option<usize>| tip.is_some_and(|tip| self.order.chain.covers(rank, tip));
        if covered(view.tip) || covered(vouched) {
            return Ok(());
        }
        Err(Void::Equivocation(self.after(view.tip)))
    }

    fn after(&self, tip: Option<usize>) -> u64 {
        tip.map_or(0, |tip| self.order.at(tip).header().seq.saturating_add(1))
    }

    /// Lists what the delegate said of whom.
    fn collect_events(&mut self) {
        let mut granted = BTreeSet::new();
        for rank in self.order.person(self.delegate).into_iter().flat_map(|at| &self.order.by_author[at]) {
            let operation = self.order.at(*rank);
            if operation.header().policy != self.genesis {
                continue;
            }
            match operation.body() {
                Body::Grant(grant)
                    if grant.person != self.delegate
                        && (granted.len() < limits::MEMBERS || granted.contains(&grant.person)) =>
                {
                    granted.insert(grant.person);
                    self.events.entry(grant.person).or_default().push(*rank);
                }
                Body::Revoke(revoke) if revoke.person != self.delegate => {
                    self.events.entry(revoke.person).or_default().push(*rank);
                }
                _ => {}
            }
        }
        // Somebody who was only ever revoked is a stranger.
        self.events.retain(|person, _| granted.contains(person));
    }

    /// Whether a grant or revocation was taken in by [`collect_events`](Self::collect_events).
    pub(super) fn counts(&self, person: PublicKey, event: usize) -> bool {
        self.events.get(&person).is_some_and(|events| events.binary_search(&event).is_ok())
    }

    /// Finds what each operation's past shows of the delegate and of the members who fork.
    fn look_around(&mut self) {
        let order = self.order;
        let delegate = order.person(self.delegate);
        let forking: BTreeSet<usize> = (0..order.people.len())
            .filter(|author| self.events.contains_key(&order.people[*author]))
            .filter(|author| forks(order, *author))
            .collect();
        let nothing = Views::default();
        let mut covered = vec![false; order.len()];
        for rank in 0..order.len() {
            let (mut view, mut seen) = (View::default(), Arc::clone(&nothing));
            for dep in order.deps(rank) {
                covered[*dep] = true;
                view = self.merge(view, self.views[*dep]);
                self.merge_all(&mut seen, &self.forks[*dep]);
            }
            let author = order.author[rank];
            let own = View { tip: Some(rank), forked: false };
            if delegate == Some(author) {
                view = self.merge(view, own);
                if !forking.is_empty() {
                    let before = order.chain.parent(rank).and_then(|prev| self.vouched.get(&prev));
                    let vouched = self.vouch(before, &seen);
                    self.vouched.insert(rank, vouched);
                }
            } else if forking.contains(&author) {
                let merged = self.merge(seen.get(&author).copied().unwrap_or_default(), own);
                Arc::make_mut(&mut seen).insert(author, merged);
            }
            self.views.push(view);
            self.forks.push(seen);
        }
        let mut whole = Horizon::default();
        for head in (0..order.len()).filter(|rank| !covered[*rank]) {
            whole.delegate = self.merge(whole.delegate, self.views[head]);
            self.merge_all(&mut whole.forks, &self.forks[head]);
        }
        self.whole = whole;
    }

    /// Two pasts together: the lowest fork of either, or the one that shows between them.
    fn merge(&self, a: View, b: View) -> View {
        if a == b || b == View::default() {
            return a;
        }
        if a == View::default() {
            return b;
        }
        let (Some(left), Some(right)) = (a.tip, b.tip) else { return View { tip: None, forked: true } };
        match self.order.chain.meet(left, right) {
            meet if left == right => View { tip: meet, forked: a.forked || b.forked },
            Some(meet) if meet == left => {
                if a.forked {
                    a
                } else {
                    b
                }
            }
            Some(meet) if meet == right => {
                if b.forked {
                    b
                } else {
                    a
                }
            }
            meet => View { tip: meet, forked: true },
        }
    }

    fn merge_all(&self, into: &mut Views, more: &Views) {
        if Arc::ptr_eq(into, more) || more.is_empty() {
            return;
        }
        if into.is_empty() {
            *into = Arc::clone(more);
            return;
        }
        for (author, view) in more.iter() {
            let old = into.get(author).copied().unwrap_or_default();
            let new = self.merge(old, *view);
            if new != old {
                Arc::make_mut(into).insert(*author, new);
            }
        }
    }

    /// The delegate vouches for what they have seen before they see a fork: the further of what they vouched for
    /// before and what they see now.
    fn vouch(&self, before: Option<&Views>, seen: &Views) -> Views {
        let mut vouched = before.cloned().unwrap_or_default();
        for (author, view) in seen.iter() {
            let old = vouched.get(author).and_then(|view| view.tip);
            let further =
                |tip: usize| old.is_none_or(|old| self.order.chain.depth(tip) > self.order.chain.depth(old));
            if view.tip.is_some_and(further) {
                Arc::make_mut(&mut vouched).insert(*author, View { tip: view.tip, forked: false });
            }
        }
        vouched
    }

    /// Finds what each revocation lets stand: what its signer had seen of that person, and what `keep` names.
    fn weigh_revocations(&mut self) {
        let order = self.order;
        let (mut revocations, mut frontiers, mut wants) = (Vec::new(), Vec::new(), Vec::new());
        for (person, events) in &self.events {
            for event in events {
                let Body::Revoke(revoke) = order.at(*event).body() else { continue };
                revocations.push(*event);
                let kept = revoke.keep.iter().filter_map(|id| order.rank(*id));
                frontiers.push(kept.chain([*event]).collect());
                wants.push(order.person(*person).unwrap_or(usize::MAX));
            }
        }
        self.kept = revocations.iter().map(|event| (*event, BTreeSet::new())).collect();
        let kept = &mut self.kept;
        order.below(&frontiers, &wants, |number, rank| {
            if let Some(kept) = kept.get_mut(&revocations[number]) {
                kept.insert(rank);
            }
        });
    }
}

/// Whether the author has two operations with one number.
pub(super) fn forks(order: &Order<'_>, author: usize) -> bool {
    let mut numbers: Vec<usize> =
        order.by_author[author].iter().map(|rank| order.chain.depth(*rank)).collect();
    numbers.sort_unstable();
    numbers.windows(2).any(|pair| pair[0] == pair[1])
}
