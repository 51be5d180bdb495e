//! Who may add to the set at all. What an operation is worth is for `state` to say; but if strangers could add
//! to the set, every node would have to keep whatever anybody signs.
//!
//! The answer depends on the operation's own past only, so all nodes give the same one: its author is a delegate
//! of the genesis, or was granted a role in that past. Where a delegate signed a
//! kind that this build does not know, it can't tell who may write behind it, and takes everything.

//!
//! To answer without walking through the past, every operation remembers how far it saw each delegate's chain. A
//! chain that forks says nothing, and the past is walked after all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::OperationId;
use crate::key::PublicKey;
use crate::operation::{Body, Kind, Operation};

/// The highest number of each delegate's operations in a past.
type Seen = Arc<BTreeMap<PublicKey, u64>>;

/// An operation that lets somebody write behind it.
#[derive(Clone, Copy, Debug)]
struct Giver {
    delegate: PublicKey,
    seq: u64,
    lamport: u64,
}

type Givers = BTreeMap<OperationId, Giver>;

#[derive(Debug, Default)]
pub(super) struct Authority {
    delegates: BTreeSet<PublicKey>,
    /// Grants by person.
    grants: BTreeMap<PublicKey, Givers>,
    /// Operations by delegates whose kinds are unknown here.
    unknown: Givers,
    /// What each operation of the set saw, itself included.
    seen: BTreeMap<OperationId, Seen>,
    /// Delegates' operations by number; more than one at a number is a fork.
    chains: BTreeMap<PublicKey, BTreeMap<u64, u32>>,
    /// The lowest fork of each delegate that ever was. Forgetting an operation may leave it: that costs a walk.
    forks: BTreeMap<PublicKey, u64>,
}

impl Authority {
    /// Learns from an operation that enters the set.
    pub(super) fn add(&mut self, operation: &Operation) {
        let (id, delegate, header) = (operation.id(), operation.author(), operation.header());
        if let Body::Genesis(genesis) = operation.body() {
            self.delegates.extend(&genesis.policy.delegates);
        }
        let mut seen = self.seen_by(&header.deps);
        if self.delegates.contains(&delegate) {
            let highest = Arc::make_mut(&mut seen).entry(delegate).or_default();
            *highest = header.seq.max(*highest);
            let count = self.chains.entry(delegate).or_default().entry(header.seq).or_default();
            *count += 1;
            if *count > 1 {
                let lowest = self.forks.entry(delegate).or_insert(header.seq);
                *lowest = header.seq.min(*lowest);
            }
            let giver = Giver { delegate, seq: header.seq, lamport: header.lamport };
            match operation.body() {
                Body::Grant(grant) => {
                    self.grants.entry(grant.person).or_default().insert(id, giver);
                }
                Body::Unknown(..) => {
                    self.unknown.insert(id, giver);
                }
                _ => {}
            }
        }
        self.seen.insert(id, seen);
    }

    /// Forgets an operation that did not stay.
    pub(super) fn remove(&mut self, operation: &Operation) {
        let (id, header) = (operation.id(), operation.header());
        self.seen.remove(&id);
        self.unknown.remove(&id);
        if let Body::Grant(grant) = operation.body()
            && let Some(grants) = self.grants.get_mut(&grant.person)
        {
            grants.remove(&id);
        }
        let chain = self.chains.get_mut(&header.author);
        if let Some(count) = chain.and_then(|chain| chain.get_mut(&header.seq)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether this operation, which fits the graph, may enter the set; `find` knows its whole past.
    pub(super) fn admits<'a>(
        &self,
        operation: &Operation,
        find: impl Fn(OperationId) -> Option<&'a Operation>,
    ) -> bool {
        let (author, header) = (operation.author(), operation.header());
        // What an author's previous operation was admitted for lies in this one's past as well. A genesis is what
        // the repository is named after.
        if header.prev.is_some() || header.kind == Kind::GENESIS || self.delegates.contains(&author) {
            return true;
        }
        let seen = self.seen_by(&header.deps);
        let mut unclear = Givers::new();
        for (id, giver) in self.grants.get(&author).into_iter().flatten().chain(&self.unknown) {
            let Some(highest) = seen.get(&giver.delegate).filter(|highest| **highest >= giver.seq) else {
                continue;
            };
            if self.forks.get(&giver.delegate).is_none_or(|fork| fork > highest) {
                return true;
            }
            unclear.insert(*id, *giver);
        }
        walk(&header.deps, &unclear, find)
    }

    fn seen_by(&self, deps: &[OperationId]) -> Seen {
        let mut all = deps.iter().filter_map(|dep| self.seen.get(dep));
        let mut seen = all.next().cloned().unwrap_or_default();
        for other in all.filter(|other| !Arc::ptr_eq(other, &seen)).collect::<Vec<_>>() {
            for (delegate, number) in other.iter() {
                if seen.get(delegate).is_none_or(|highest| highest < number) {
                    Arc::make_mut(&mut seen).insert(*delegate, *number);
                }
            }
        }
        seen
    }
}

/// Whether one of `givers` is in the past of `deps`.
fn walk<'a>(
    deps: &[OperationId],
    givers: &Givers,
    find: impl Fn(OperationId) -> Option<&'a Operation>,
) -> bool {
    let Some(lowest) = givers.values().map(|giver| giver.lamport).min() else { return false };
    let mut seen = BTreeSet::new();
    let mut stack = deps.to_vec();
    while let Some(id) = stack.pop() {
        if givers.contains_key(&id) {
            return true;
        }
        if let Some(operation) = find(id).filter(|operation| operation.header().lamport > lowest)
            && seen.insert(id)
        {
            stack.extend(&operation.header().deps);
        }
    }
    false
}
