//! Operations whose dependencies are not here yet, within a quota per peer.

use std::collections::{BTreeMap, BTreeSet};

use super::exchange::Peer;
use crate::id::OperationId;
use crate::limits;
use crate::operation::Operation;

#[derive(Debug)]
struct Waiting {
    operation: Operation,
    peer: Peer,
    missing: BTreeSet<OperationId>,
    arrival: u64,
}

#[derive(Debug, Default)]
struct Quota {
    /// By arrival, so that the oldest goes first.
    arrivals: BTreeMap<u64, OperationId>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: BTreeMap<OperationId, Waiting>,
    /// Who waits for an operation.
    waiters: BTreeMap<OperationId, BTreeSet<OperationId>>,
    quotas: BTreeMap<Peer, Quota>,
    arrivals: u64,
    evicted: u64,
}

impl Pending {
    pub(super) fn contains(&self, id: OperationId) -> bool {
        self.waiting.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes held for `peer`.
    pub(super) fn bytes(&self, peer: Peer) -> usize {
        self.quotas.get(&peer).map_or(0, |quota| quota.bytes)
    }

    /// Operations that others from `peer` wait for.
    pub(super) fn missing(&self, peer: Peer) -> impl Iterator<Item = OperationId> {
        let held = self.quotas.get(&peer).into_iter().flat_map(|quota| quota.arrivals.values());
        held.filter_map(|id| self.waiting.get(id)).flat_map(|waiting| waiting.missing.iter().copied())
    }

    /// Peers that served operations which wait for `dep`.
    pub(super) fn waiting_for(&self, dep: OperationId) -> BTreeSet<Peer> {
        let waiters = self.waiters.get(&dep).into_iter().flatten();
        waiters.filter_map(|id| self.waiting.get(id)).map(|waiting| waiting.peer).collect()
    }

    /// Whether anything from `peer` waits that came before `arrival`.
    pub(super) fn any_before(&self, peer: Peer, arrival: u64) -> bool {
        self.quotas.get(&peer).is_some_and(|quota| quota.arrivals.range(..arrival).next().is_some())
    }

    /// What the next arrival is numbered.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Operations dropped because their peer's quota was full.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Keeps `operation` until everything `missing` is here; the oldest of the same peer make room.
    pub(super) fn hold(&mut self, operation: Operation, peer: Peer, missing: Vec<OperationId>) {
        let (id, size) = (operation.id(), operation.size());
        if self.contains(id) {
            return;
        }
        while let Some(quota) = self.quotas.get(&peer) {
            let full = quota.arrivals.len() >= limits::PENDING_OPERATIONS;
            if !full && quota.bytes + size <= limits::PENDING_BYTES {
                break;
            }
            let Some(oldest) = quota.arrivals.values().next().copied() else { break };
            self.remove(oldest);
            self.evicted += 1;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        for dep in &missing {
            self.waiters.entry(*dep).or_default().insert(id);
        }
        let quota = self.quotas.entry(peer).or_default();
        quota.arrivals.insert(arrival, id);
        quota.bytes += size;
        self.waiting.insert(id, Waiting { operation, peer, missing: missing.into_iter().collect(), arrival });
    }

    /// `dep` is here: what waited for it alone comes back, with the peer that served it.
    pub(super) fn release(&mut self, dep: OperationId) -> Vec<(Operation, Peer)> {
        let mut complete = Vec::new();
        for id in self.waiters.remove(&dep).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.missing.remove(&dep);
                if waiting.missing.is_empty() {
                    complete.push(id);
                }
            }
        }
        complete.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// `dep` will never be here: drops what waits for it, and what waits for that.
    pub(super) fn abandon(&mut self, dep: OperationId) -> Vec<OperationId> {
        let (mut dropped, mut stack) = (Vec::new(), vec![dep]);
        while let Some(dep) = stack.pop() {
            for id in self.waiters.get(&dep).cloned().unwrap_or_default() {
                self.remove(id);
                dropped.push(id);
                stack.push(id);
            }
        }
        dropped
    }

    /// Drops what `peer` served.
    pub(super) fn forget(&mut self, peer: Peer) -> Vec<OperationId> {
        let ids: Vec<_> =
            self.quotas.get(&peer).into_iter().flat_map(|quota| quota.arrivals.values().copied()).collect();
        ids.into_iter().filter(|id| self.remove(*id).is_some()).collect()
    }

    fn remove(&mut self, id: OperationId) -> Option<(Operation, Peer)> {
        let Waiting { operation, peer, missing, arrival } = self.waiting.remove(&id)?;
        for dep in missing {
            if let Some(waiters) = self.waiters.get_mut(&dep) {
                waiters.remove(&id);
                if waiters.is_empty() {
                    self.waiters.remove(&dep);
                }
            }
        }
        if let Some(quota) = self.quotas.get_mut(&peer) {
            quota.arrivals.remove(&arrival);
            quota.bytes -= operation.size();
            if quota.arrivals.is_empty() {
                self.quotas.remove(&peer);
            }
        }
        Some((operation, peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::id::{Digest, RepositoryId};
    use crate::key::SecretKey;
    use crate::operation::{Body, Kind};

    /// An operation with a body of that many bytes.
    fn operation(number: u64, bytes: usize) -> Operation {
        let key = SecretKey::from_bytes(&[3; 32]);
        let graph = Graph::new(RepositoryId::from_digest(Digest::of(b"somewhere")));
        let mut position = graph.position(key.public(), number);
        position.deps = vec![missing(0)];
        let body = Body::Unknown(Kind::from_number(0x0177), vec![0; bytes]);
        Operation::sign(&key, position, body).unwrap()
    }

    fn missing(number: u64) -> OperationId {
        OperationId::from_digest(Digest::of(&number.to_le_bytes()))
    }

    fn peer(number: u8) -> Peer {
        Peer::from_bytes([number; 32])
    }

    #[test]
    fn a_peer_holds_a_thousand_operations_at_most_and_the_oldest_goes_first() {
        let mut pending = Pending::default();
        let operations: Vec<_> = (0..1_100).map(|number| operation(number, 8)).collect();
        for operation in &operations {
            pending.hold(operation.clone(), peer(1), vec![missing(0)]);
        }
        assert_eq!((pending.len(), pending.evicted()), (limits::PENDING_OPERATIONS, 100));
        assert!(!pending.contains(operations[99].id()) && pending.contains(operations[100].id()));
    }

    #[test]
    fn a_peer_holds_four_mebibytes_at_most_and_takes_nothing_from_others() {
        let mut pending = Pending::default();
        let honest = operation(5_000, 8);
        pending.hold(honest.clone(), peer(2), vec![missing(0)]);
        for number in 0..100 {
            pending.hold(operation(number, limits::BODY), peer(1), vec![missing(0)]);
            assert!(pending.bytes(peer(1)) <= limits::PENDING_BYTES);
        }
        assert!(pending.bytes(peer(1)) > limits::PENDING_BYTES - 2 * limits::OPERATION);
        assert!(pending.contains(honest.id()));
    }

    #[test]
    fn an_operation_comes_back_when_the_last_one_it_waits_for_is_here() {
        let mut pending = Pending::default();
        let one = operation(1, 8);
        pending.hold(one.clone(), peer(1), vec![missing(0), missing(1)]);
        assert!(pending.release(missing(0)).is_empty());
        let back: Vec<_> = pending.release(missing(1)).into_iter().map(|(one, _)| one.id()).collect();
        assert_eq!(back, [one.id()]);
        assert_eq!((pending.len(), pending.bytes(peer(1))), (0, 0));
    }

    #[test]
    fn what_waits_for_a_refused_operation_goes_with_it() {
        let mut pending = Pending::default();
        let (one, two, other) = (operation(1, 8), operation(2, 8), operation(3, 8));
        pending.hold(one.clone(), peer(1), vec![missing(0)]);
        pending.hold(two.clone(), peer(2), vec![one.id()]);
        pending.hold(other.clone(), peer(2), vec![missing(1)]);
        assert_eq!(pending.abandon(missing(0)), [one.id(), two.id()]);
        assert_eq!(pending.len(), 1);
        assert!(pending.waiters.len() == 1 && pending.contains(other.id()));
    }
}
