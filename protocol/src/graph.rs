//! A set of operations that is closed under dependencies: whatever is in it, its past is in it too.
//!
//! The graph knows structure only: dependencies, numbers, Lamport times. What the operations *mean* is
//! computed by `state`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{OperationId, RepositoryId};
use crate::key::PublicKey;
use crate::limits;
use crate::operation::{Body, Kind, Operation, Position};
use crate::policy::Visibility;

/// The place of an operation in a [`Graph`]: its past has smaller places.
pub type Place = usize;

/// Why an operation did not enter the graph.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum GraphError {
    /// Some of its dependencies are not here yet: it is pending.
    #[error("{} dependencies are missing", .0.len())]
    Missing(Vec<OperationId>),
    /// It contradicts its own dependencies; it will never be valid.
    #[error("operation {}: {why}", id.short())]
    Broken {
        /// The operation.
        id: OperationId,
        /// What does not fit.
        why: &'static str,
    },
}

#[derive(Debug)]
struct Entry {
    operation: Operation,
    deps: Vec<Place>,
}

/// A set of operations of one repository.
///
/// A clone shares the operations with the original: whoever wants to know what one more would do tries it on a clone.
#[derive(Clone, Debug)]
pub struct Graph {
    repo: RepositoryId,
    entries: Vec<Arc<Entry>>,
    places: BTreeMap<OperationId, Place>,
    heads: BTreeSet<OperationId>,
    authors: BTreeMap<PublicKey, BTreeMap<u64, Vec<Place>>>,
}

impl Graph {
    /// An empty graph for `repo`; the first operation to enter is its genesis.
    pub fn new(repo: RepositoryId) -> Self {
        let (entries, places) = (Vec::new(), BTreeMap::new());
        Self { repo, entries, places, heads: BTreeSet::new(), authors: BTreeMap::new() }
    }

    /// The repository.
    pub fn repo(&self) -> RepositoryId {
        self.repo
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether not even the genesis is here.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this operation is in the set.
    pub fn contains(&self, id: OperationId) -> bool {
        self.places.contains_key(&id)
    }

    /// The place of an operation.
    pub fn place(&self, id: OperationId) -> Option<Place> {
        self.places.get(&id).copied()
    }

    /// The operation at `place`.
    pub fn at(&self, place: Place) -> &Operation {
        &self.entries[place].operation
    }

    /// The places of the dependencies of the operation at `place`.
    pub fn deps(&self, place: Place) -> &[Place] {
        &self.entries[place].deps
    }

    /// An operation by its id.
    pub fn get(&self, id: OperationId) -> Option<&Operation> {
        self.place(id).map(|place| self.at(place))
    }

    /// All operations, each after its past.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Operation> {
        self.entries.iter().map(|entry| &entry.operation)
    }

    /// Operations that no other names as seen, ascending.
    pub fn heads(&self) -> impl ExactSizeIterator<Item = OperationId> {
        self.heads.iter().copied()
    }

    /// The operations of `author` by number; more than one at a number is an equivocation.
    pub fn by_author(&self, author: PublicKey) -> impl Iterator<Item = (u64, &[Place])> {
        self.authors.get(&author).into_iter().flatten().map(|(seq, places)| (*seq, places.as_slice()))
    }

    /// Everybody who signed something here.
    pub fn authors(&self) -> impl Iterator<Item = PublicKey> {
        self.authors.keys().copied()
    }

    /// Takes in an operation. `Ok(None)` when it was there already.
    ///
    /// # Errors
    /// [`GraphError::Missing`] when it has to wait, [`GraphError::Broken`] when it will never fit.
    pub fn insert(&mut self, operation: Operation) -> Result<Option<Place>, GraphError> {
        let id = operation.id();
        if self.contains(id) {
            return Ok(None);
        }
        self.check(&operation, |dep| self.get(dep))?;
        let header = operation.header();
        let deps: Vec<Place> = header.deps.iter().filter_map(|dep| self.place(*dep)).collect();
        let place = self.entries.len();
        for dep in &header.deps {
            self.heads.remove(dep);
        }
        self.heads.insert(id);
        self.places.insert(id, place);
        self.authors.entry(header.author).or_default().entry(header.seq).or_default().push(place);
        self.entries.push(Arc::new(Entry { operation, deps }));
        Ok(Some(place))
    }

    /// Checks an operation against its dependencies, which `find` looks up: somebody who holds operations that
    /// are not in the graph yet can check what follows them.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn check<'a>(
        &self,
        operation: &Operation,
        find: impl Fn(OperationId) -> Option<&'a Operation>,
    ) -> Result<(), GraphError> {
        let (id, header) = (operation.id(), operation.header());
        let (mut missing, mut highest, mut previous) = (Vec::new(), None, None);
        for dep in &header.deps {
            let Some(operation) = find(*dep) else {
                missing.push(*dep);
                continue;
            };
            highest = highest.max(Some(operation.header().lamport));
            if Some(*dep) == header.prev {
                previous = Some(operation.header());
            }
        }
        if !missing.is_empty() {
            return Err(GraphError::Missing(missing));
        }
        let broken = |why| Err(GraphError::Broken { id, why });
        if (header.kind == Kind::GENESIS) != (id.digest() == self.repo.digest()) {
            return broken("it is not this repository's genesis");
        }
        if highest.is_some_and(|highest| highest.checked_add(1) != Some(header.lamport)) {
            return broken("its Lamport time is not one more than its dependencies' highest");
        }
        if let Some(previous) = previous {
            if previous.author != header.author {
                return broken("its previous operation is by another author");
            }
            if previous.seq.checked_add(1) != Some(header.seq) {
                return broken("its number does not follow its previous operation's");
            }
        }
        Ok(())
    }

    /// Where `author` stands: the position of the next operation they sign here. With more than 16 heads the
    /// ones of highest Lamport time are named.
    pub fn position(&self, author: PublicKey, time: u64) -> Position {
        let last = self.by_author(author).last().and_then(|(seq, places)| Some((seq, *places.first()?)));
        let prev = last.map(|(_, place)| self.at(place).id());
        let mut heads: Vec<_> =
            self.heads.iter().filter_map(|id| self.get(*id)).map(Operation::order).collect();
        heads.sort_unstable_by(|a, b| b.cmp(a));
        let others = heads.into_iter().map(|(_, id)| id).filter(|id| Some(*id) != prev);
        let deps: Vec<_> = prev.into_iter().chain(others).take(limits::DEPS).collect();
        let highest = deps.iter().filter_map(|id| self.get(*id)).map(|op| op.header().lamport).max();
        Position {
            repo: Some(self.repo),
            seq: last.map_or(0, |(seq, _)| seq.saturating_add(1)),
            prev,
            deps,
            lamport: highest.map_or(0, |highest| highest.saturating_add(1)),
            policy: OperationId::from_digest(self.repo.digest()),
            time,
        }
    }

    /// The past of some operations, themselves included: `true` at every place in it.
    pub fn past(&self, of: impl IntoIterator<Item = Place>) -> Vec<bool> {
        let mut seen = vec![false; self.entries.len()];
        let mut stack: Vec<Place> = of.into_iter().collect();
        while let Some(place) = stack.pop() {
            if !std::mem::replace(&mut seen[place], true) {
                stack.extend(self.deps(place).iter().filter(|dep| !seen[**dep]));
            }
        }
        seen
    }

    /// What somebody lacks who has `have` and its past: places in an order that keeps every operation after its
    /// dependencies. Ids unknown here are passed over.
    pub fn lacking(&self, have: &[OperationId]) -> Vec<Place> {
        let past = self.past(have.iter().filter_map(|id| self.place(*id)));
        (0..self.entries.len()).filter(|place| !past[*place]).collect()
    }

    /// Ids that tell somebody what is here: the heads, then operations ever further back, at most `most`.
    pub fn summary(&self, most: usize) -> Vec<OperationId> {
        let mut ids: Vec<_> = self.heads.iter().copied().take(most).collect();
        let mut step = 1;
        let mut back = 1;
        while ids.len() < most && back <= self.entries.len() {
            let id = self.at(self.entries.len() - back).id();
            if !ids.contains(&id) {
                ids.push(id);
            }
            if ids.len() % 8 == 0 {
                step *= 2;
            }
            back += step;
        }
        ids
    }

    /// The genesis' body.
    pub fn genesis(&self) -> Option<&crate::operation::body::Genesis> {
        match self.entries.first()?.operation.body() {
            Body::Genesis(genesis) => Some(genesis),
            _ => None,
        }
    }

    /// Whether only those who have a role may read, as the genesis says for good; no before that is here.
    pub fn private(&self) -> bool {
        self.genesis().is_some_and(|genesis| genesis.policy.visibility == Visibility::Private)
    }
}
