//! Who may add to the set at all. What an operation is worth is for `state` to say; but if strangers could add
//! to the set, every node would have to keep whatever anybody signs.
//!
//! The answer depends on the operation's own past only, so all nodes give the same one: its author is a delegate
//! of the genesis, was named a delegate by a delegate's proposal in that past, or was granted a role there. Whether
//! a proposal was approved or a role taken away again is not asked. Where a delegate signed a kind that this build
//! does not know, it can't tell who may write behind it, and takes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::bits::Bits;
use crate::id::OperationId;
use crate::key::PublicKey;
use crate::operation::body::Revision;
use crate::operation::{Body, Kind, Operation};
use crate::policy::Role;

/// Numbers of operations that let somebody write behind them, and in which role.
type Givers = Vec<(usize, Role)>;

#[derive(Debug, Default)]
pub(super) struct Authority {
    /// The genesis' delegates.
    founders: BTreeSet<PublicKey>,
    /// What let each person write.
    givers: BTreeMap<PublicKey, Givers>,
    /// Operations by delegates whose kinds are unknown here.
    unknown: BTreeSet<usize>,
    /// The givers, numbered as they came.
    numbers: BTreeMap<OperationId, usize>,
    next: usize,
    /// The givers in the past of each operation of the set, itself included.
    seen: BTreeMap<OperationId, Arc<Bits>>,
}

impl Authority {
    /// Learns from an operation that enters the set.
    pub(super) fn add(&mut self, operation: &Operation) {
        let id = operation.id();
        let mut seen = self.seen_by(&operation.header().deps);
        let signer = self.role(operation.author(), &seen);
        let gives = match operation.body() {
            Body::Genesis(genesis) => {
                self.founders.extend(&genesis.policy.delegates);
                Vec::new()
            }
            Body::Grant(grant) if signer >= Some(Role::Maintainer) => {
                // A maintainer makes no maintainers, whatever the grant says.
                let most = if signer == Some(Role::Delegate) { Role::Maintainer } else { Role::Contributor };
                vec![(grant.person, grant.role.min(most))]
            }
            Body::Revision(revision)
                if signer == Some(Role::Delegate) && revision.policy.known().is_some() =>
            {
                named(revision).map(|person| (person, Role::Delegate)).collect()
            }
            Body::Unknown(..) | Body::Revision(_) if signer == Some(Role::Delegate) => {
                self.unknown.insert(self.next);
                self.number(id, &mut seen);
                Vec::new()
            }
            _ => Vec::new(),
        };
        if !gives.is_empty() {
            for (person, role) in gives {
                self.givers.entry(person).or_default().push((self.next, role));
            }
            self.number(id, &mut seen);
        }
        self.seen.insert(id, seen);
    }

    fn number(&mut self, id: OperationId, seen: &mut Arc<Bits>) {
        Arc::make_mut(seen).insert(self.next);
        self.numbers.insert(id, self.next);
        self.next += 1;
    }

    /// Forgets an operation that did not stay.
    pub(super) fn remove(&mut self, operation: &Operation) {
        let id = operation.id();
        self.seen.remove(&id);
        let Some(number) = self.numbers.remove(&id) else { return };
        self.unknown.remove(&number);
        let people: Vec<PublicKey> = match operation.body() {
            Body::Grant(grant) => vec![grant.person],
            Body::Revision(revision) => named(revision).collect(),
            _ => Vec::new(),
        };
        for person in people {
            if let Some(givers) = self.givers.get_mut(&person) {
                givers.retain(|(giver, _)| *giver != number);
            }
        }
    }

    /// Whether this operation, which fits the graph, may enter the set.
    pub(super) fn admits(&self, operation: &Operation) -> bool {
        let (author, header) = (operation.author(), operation.header());
        // What an author's previous operation was admitted for lies in this one's past as well. A genesis is what
        // the repository is named after.
        if header.prev.is_some() || header.kind == Kind::GENESIS || self.founders.contains(&author) {
            return true;
        }
        let seen = self.seen_by(&header.deps);
        self.role(author, &seen).is_some() || self.unknown.iter().any(|number| seen.has(*number))
    }

    /// The highest role that was ever given to somebody in a past.
    fn role(&self, person: PublicKey, seen: &Bits) -> Option<Role> {
        if self.founders.contains(&person) {
            return Some(Role::Delegate);
        }
        let givers = self.givers.get(&person).into_iter().flatten();
        givers.filter(|(number, _)| seen.has(*number)).map(|(_, role)| *role).max()
    }

    fn seen_by(&self, deps: &[OperationId]) -> Arc<Bits> {
        Bits::union(deps.iter().filter_map(|dep| self.seen.get(dep)))
    }
}

fn named(revision: &Revision) -> impl Iterator<Item = PublicKey> {
    revision.policy.known().into_iter().flat_map(|policy| policy.delegates.iter().copied())
}
