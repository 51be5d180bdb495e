//! The way of an operation into the set: *pending* while dependencies are missing, *staged* once it fits, in the
//! *graph* when it is on disk.
//!
//! Only the graph is served, announced, told to peers and built upon by local operations. A staged operation may
//! have staged dependencies: batches go to disk one at a time and in order, so the disk always holds a closed set.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::authority::Authority;
use super::exchange::{Peer, Refusal};
use super::pending::Pending;
use crate::graph::{Graph, GraphError};
use crate::id::OperationId;
use crate::limits;
use crate::operation::Operation;

#[derive(Debug)]
struct Staged {
    operation: Operation,
    local: bool,
}

/// Where an operation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Signed here.
    Local,
    /// A file that was read here.
    File,
    /// A peer served it.
    Peer(Peer),
}

impl Origin {
    fn peer(self) -> Option<Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Local | Self::File => None,
        }
    }
}

/// What became of an operation that was not taken.
#[derive(Debug)]
pub(super) enum Taken {
    /// It can't be taken; `peer` served it, if one did.
    Refused { id: OperationId, peer: Option<Peer>, why: Refusal },
    /// It waited for one that can't be taken.
    Dropped(OperationId),
}

#[derive(Debug)]
pub(super) struct Intake {
    graph: Graph,
    authority: Authority,
    staged: BTreeMap<OperationId, Staged>,
    staged_bytes: usize,
    /// Staged and not handed out for storing, each after its dependencies.
    queue: VecDeque<OperationId>,
    /// Handed out for storing, with whether that was confirmed.
    batch: VecDeque<(OperationId, bool)>,
    pub(super) pending: Pending,
}

impl Intake {
    /// Starts from what is on disk.
    pub(super) fn new(graph: Graph) -> Self {
        let mut authority = Authority::default();
        graph.iter().for_each(|operation| authority.add(operation));
        Self {
            graph,
            authority,
            staged: BTreeMap::new(),
            staged_bytes: 0,
            queue: VecDeque::new(),
            batch: VecDeque::new(),
            pending: Pending::default(),
        }
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// In the set, or on its way to disk.
    pub(super) fn has(&self, id: OperationId) -> bool {
        self.graph.contains(id) || self.staged.contains_key(&id)
    }

    /// Whether so much waits for the disk that no more should be asked for.
    pub(super) fn full(&self) -> bool {
        self.staged_bytes > limits::STAGED_BYTES
    }

    pub(super) fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Offers an operation. What waited for it is taken in along with it.
    pub(super) fn offer(&mut self, operation: Operation, origin: Origin) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut offered = VecDeque::from([(operation, origin)]);
        while let Some((operation, origin)) = offered.pop_front() {
            let id = operation.id();
            if self.has(id) {
                continue;
            }
            match (self.examine(&operation), origin) {
                (Ok(()), _) => {
                    self.stage(operation, origin == Origin::Local);
                    offered.extend(self.released(id));
                }
                (Err(Refusal::Graph(GraphError::Missing(missing))), Origin::Peer(peer)) => {
                    self.pending.hold(operation, peer, missing);
                }
                (Err(why), origin) => {
                    taken.push(Taken::Refused { id, peer: origin.peer(), why });
                    taken.extend(self.pending.abandon(id).into_iter().map(Taken::Dropped));
                }
            }
        }
        taken
    }

    /// Takes in a local operation that is on disk already.
    pub(super) fn insert(&mut self, operation: Operation) -> Result<Vec<Taken>, Refusal> {
        let (id, author) = (operation.id(), operation.author());
        self.graph.check(&operation, |dep| self.graph.get(dep))?;
        if !self.authority.admits(&operation) {
            return Err(Refusal::Stranger { id, author });
        }
        self.authority.add(&operation);
        self.graph.insert(operation)?;
        let released = self.released(id);
        Ok(released.into_iter().flat_map(|(operation, origin)| self.offer(operation, origin)).collect())
    }

    fn released(&mut self, dep: OperationId) -> Vec<(Operation, Origin)> {
        let released = self.pending.release(dep).into_iter();
        released.map(|(operation, peer)| (operation, Origin::Peer(peer))).collect()
    }

    fn examine(&self, operation: &Operation) -> Result<(), Refusal> {
        let find = |id| self.graph.get(id).or_else(|| self.staged.get(&id).map(|staged| &staged.operation));
        self.graph.check(operation, find)?;
        if self.authority.admits(operation) {
            Ok(())
        } else {
            Err(Refusal::Stranger { id: operation.id(), author: operation.author() })
        }
    }

    fn stage(&mut self, operation: Operation, local: bool) {
        let id = operation.id();
        self.authority.add(&operation);
        self.staged_bytes += operation.size();
        self.queue.push_back(id);
        self.staged.insert(id, Staged { operation, local });
    }

    fn unstage(&mut self, id: OperationId) -> Option<Staged> {
        let staged = self.staged.remove(&id)?;
        self.staged_bytes -= staged.operation.size();
        Some(staged)
    }

    /// The next batch for the disk, when none is there now.
    pub(super) fn batch(&mut self) -> Vec<Operation> {
        if !self.batch.is_empty() {
            return Vec::new();
        }
        let (mut operations, mut bytes) = (Vec::new(), 0);
        while let Some(id) = self.queue.front().copied()
            && operations.len() < limits::PAGE
            && bytes < limits::STAGED_BYTES
        {
            self.queue.pop_front();
            if let Some(staged) = self.staged.get(&id) {
                bytes += staged.operation.size();
                operations.push(staged.operation.clone());
                self.batch.push_back((id, false));
            }
        }
        operations
    }

    /// The disk has these. What entered the graph, and whether it is local.
    pub(super) fn stored(&mut self, ids: Vec<OperationId>) -> Vec<(OperationId, bool)> {
        let ids: BTreeSet<_> = ids.into_iter().collect();
        for (id, done) in &mut self.batch {
            *done |= ids.contains(id);
        }
        let mut entered = Vec::new();
        while let Some((id, true)) = self.batch.front().copied() {
            self.batch.pop_front();
            if let Some(Staged { operation, local }) = self.unstage(id)
                && self.graph.insert(operation).is_ok()
            {
                entered.push((id, local));
            }
        }
        entered
    }

    /// The disk does not have the batch: local operations in it are given up, with whatever follows them; the
    /// others are tried again later. Returns what was given up.
    pub(super) fn store_failed(&mut self) -> Vec<OperationId> {
        let failed: BTreeSet<_> = self.batch.iter().map(|(id, _)| *id).collect();
        for (id, _) in self.batch.drain(..).rev() {
            self.queue.push_front(id);
        }
        let mut given_up = BTreeSet::new();
        for id in &self.queue {
            let Some(Staged { operation, local }) = self.staged.get(id) else { continue };
            let follows = operation.header().deps.iter().any(|dep| given_up.contains(dep));
            if follows || (*local && failed.contains(id)) {
                given_up.insert(*id);
            }
        }
        self.queue.retain(|id| !given_up.contains(id));
        for id in &given_up {
            if let Some(staged) = self.unstage(*id) {
                self.authority.remove(&staged.operation);
            }
        }
        given_up.into_iter().collect()
    }

    /// Whether one of these is in the batch at the disk.
    pub(super) fn at_disk(&self, ids: &[OperationId]) -> bool {
        self.batch.iter().any(|(id, _)| ids.contains(id))
    }
}
