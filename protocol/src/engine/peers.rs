//! What the engine knows of the nodes it talks to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::exchange::{Peer, RequestId};
use crate::id::{Digest, OperationId};
use crate::key::PersonId;
use crate::wire::Frontier;

/// One connected peer.
#[derive(Debug)]
pub(super) struct Link {
    /// When to compare sets next.
    pub(super) next_hello: u64,
    /// Requests under way: one of a sort at a time.
    pub(super) busy: BTreeSet<Sort>,
    /// Something changed while sets were compared.
    pub(super) again: bool,
    /// Failures in a row.
    pub(super) failures: u32,
    /// What it did that no honest peer does, never forgiven while it is connected.
    pub(super) offences: u32,
    /// Where the peer stood when it last said so.
    pub(super) frontier: Option<Frontier>,
    /// Everything it has was here, as far as it said.
    pub(super) caught_up: bool,
    /// Announced operations to get from it.
    pub(super) gets: BTreeSet<OperationId>,
    /// Join requests to pass to it.
    pub(super) joins: VecDeque<PersonId>,
    /// Where the paging stands.
    pub(super) paging: Paging,
}

/// Taking in page after page of what a peer has.
#[derive(Debug, Default)]
pub(super) struct Paging {
    /// It waits for its turn.
    pub(super) queued: bool,
    /// The last operation of the last page.
    pub(super) after: Option<OperationId>,
    /// The arrival number of pending operations when paging began.
    pub(super) began: u64,
    /// Pages brought something new since paging began.
    pub(super) fresh: bool,
    /// Operations that were here already since paging began.
    pub(super) repeats: usize,
    /// The frontier to which everything was served.
    pub(super) done: Option<Digest>,
}

impl Link {
    pub(super) fn new(next_hello: u64) -> Self {
        Self {
            next_hello,
            busy: BTreeSet::new(),
            again: false,
            failures: 0,
            offences: 0,
            frontier: None,
            caught_up: false,
            gets: BTreeSet::new(),
            joins: VecDeque::new(),
            paging: Paging::default(),
        }
    }
}

/// What a request under way is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Hello,
    Page,
    Get(BTreeSet<OperationId>),
    Join,
}

/// A sort of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Hello,
    Page,
    Get,
    Join,
}

impl Purpose {
    pub(super) fn sort(&self) -> Sort {
        match self {
            Self::Hello => Sort::Hello,
            Self::Page => Sort::Page,
            Self::Get(_) => Sort::Get,
            Self::Join => Sort::Join,
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) peer: Peer,
    pub(super) deadline: u64,
    pub(super) purpose: Purpose,
}

/// Requests under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_id: BTreeMap<RequestId, Flight>,
    next: u64,
}

impl Flights {
    pub(super) fn start(&mut self, peer: Peer, deadline: u64, purpose: Purpose) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.by_id.insert(id, Flight { peer, deadline, purpose });
        id
    }

    /// Ends a request, if `peer` is the one who was asked.
    pub(super) fn end(&mut self, id: RequestId, peer: Peer) -> Option<Flight> {
        if self.by_id.get(&id)?.peer != peer {
            return None;
        }
        self.by_id.remove(&id)
    }

    pub(super) fn overdue(&self, now: u64) -> Vec<(RequestId, Peer)> {
        let late = self.by_id.iter().filter(|(_, flight)| flight.deadline <= now);
        late.map(|(id, flight)| (*id, flight.peer)).collect()
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.by_id.values().map(|flight| flight.deadline).min()
    }

    /// Forgets requests to `peer`.
    pub(super) fn forget(&mut self, peer: Peer) {
        self.by_id.retain(|_, flight| flight.peer != peer);
    }

    /// Whether a page is under way.
    pub(super) fn paging(&self) -> bool {
        self.by_id.values().any(|flight| flight.purpose.sort() == Sort::Page)
    }
}
