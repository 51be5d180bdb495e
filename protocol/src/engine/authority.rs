//! Who may add to the set at all. What an operation is worth is for `state` to say; but if strangers could add
//! to the set, every node would have to keep whatever anybody signs.
//!
//! The answer depends on the operation's own past only, so all nodes give the same one: its author is a delegate
//! of the genesis, or was granted a role in that past. Where a delegate signed a
//! kind that this build does not know, it can't tell who may write behind it, and takes everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::OperationId;
use crate::key::PublicKey;
use crate::operation::{Body, Kind, Operation};

#[derive(Debug, Default)]
pub(super) struct Authority {
    delegates: BTreeSet<PublicKey>,
    /// Grants by person, with their Lamport times.
    grants: BTreeMap<PublicKey, BTreeMap<OperationId, u64>>,
    /// Operations by delegates whose kinds are unknown here.
    unknown: BTreeMap<OperationId, u64>,
}

impl Authority {
    /// Learns from an operation that enters the set.
    pub(super) fn add(&mut self, operation: &Operation) {
        let (lamport, id) = operation.order();
        match operation.body() {
            Body::Genesis(genesis) => self.delegates.extend(&genesis.policy.delegates),
            Body::Grant(grant) if self.delegates.contains(&operation.author()) => {
                self.grants.entry(grant.person).or_default().insert(id, lamport);
            }
            Body::Unknown(..) if self.delegates.contains(&operation.author()) => {
                self.unknown.insert(id, lamport);
            }
            _ => {}
        }
    }

    /// Forgets an operation that did not stay.
    pub(super) fn remove(&mut self, operation: &Operation) {
        self.unknown.remove(&operation.id());
        if let Body::Grant(grant) = operation.body()
            && let Some(grants) = self.grants.get_mut(&grant.person)
        {
            grants.remove(&operation.id());
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
        let granted = self.grants.get(&author);
        let givers: BTreeMap<_, _> = granted.into_iter().chain([&self.unknown]).flatten().collect();
        let Some(lowest) = givers.values().copied().min() else { return false };
        let mut seen = BTreeSet::new();
        let mut stack = header.deps.clone();
        while let Some(id) = stack.pop() {
            if givers.contains_key(&id) {
                return true;
            }
            if let Some(operation) = find(id).filter(|operation| operation.header().lamport > *lowest)
                && seen.insert(id)
            {
                stack.extend(&operation.header().deps);
            }
        }
        false
    }
}
