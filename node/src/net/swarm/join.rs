//! Addresses that are dialled again whenever their peer is not connected.

use std::{collections::BTreeMap, time::Duration};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::ConnectionId};
use tokio::time::Instant;

/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// No wait is longer. Short enough that a site that was cut off is back soon after its link is.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Joined addresses at most.
pub(super) const MAX_JOINED: usize = 256;

/// One joined address.
#[derive(Debug)]
pub(super) struct Join {
    /// The peer behind it, once known.
    pub(super) peer: Option<PeerId>,
    /// The dial under way.
    pub(super) dialling: Option<ConnectionId>,
    /// Failures since the last success.
    pub(super) failures: u32,
    /// Why the last dial failed.
    pub(super) last_error: Option<String>,
    due: Instant,
}

/// All joined addresses.
#[derive(Debug)]
pub(super) struct Joins {
    list: BTreeMap<Multiaddr, Join>,
    /// Differs by node, so that many nodes that lost the same peer do not come back at the same moments.
    jitter: u32,
}

impl Joins {
    pub(super) fn new(jitter: u32) -> Self {
        Self { list: BTreeMap::new(), jitter }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Multiaddr, &Join)> {
        self.list.iter()
    }

    /// Adds an address, due at once. `false` if there are too many.
    pub(super) fn add(&mut self, addr: Multiaddr, now: Instant) -> bool {
        if self.list.contains_key(&addr) {
            return true;
        }
        if self.list.len() >= MAX_JOINED {
            return false;
        }
        let peer = peer_in(&addr);
        self.list.insert(addr, Join { peer, dialling: None, failures: 0, last_error: None, due: now });
        true
    }

    pub(super) fn remove(&mut self, addr: &Multiaddr) -> bool {
        self.list.remove(addr).is_some()
    }

    /// The earliest moment at which an address wants to be dialled, given who is connected.
    pub(super) fn next_due(&self, connected: impl Fn(&PeerId) -> bool) -> Option<Instant> {
        self.waiting(&connected).map(|(_, join)| join.due).min()
    }

    /// The addresses to dial now.
    pub(super) fn due(&self, now: Instant, connected: impl Fn(&PeerId) -> bool) -> Vec<Multiaddr> {
        self.waiting(&connected).filter(|(_, join)| join.due <= now).map(|(addr, _)| addr.clone()).collect()
    }

    fn waiting(&self, connected: &impl Fn(&PeerId) -> bool) -> impl Iterator<Item = (&Multiaddr, &Join)> {
        self.list
            .iter()
            .filter(move |(_, join)| join.dialling.is_none() && !join.peer.as_ref().is_some_and(connected))
    }

    pub(super) fn dialling(&mut self, addr: &Multiaddr, connection: ConnectionId) {
        if let Some(join) = self.list.get_mut(addr) {
            join.dialling = Some(connection);
        }
    }

    /// A dial succeeded: the address belongs to `peer`.
    pub(super) fn connected(&mut self, connection: ConnectionId, peer: PeerId) {
        for join in self.list.values_mut().filter(|join| join.dialling == Some(connection)) {
            join.dialling = None;
            join.peer = Some(peer);
            join.failures = 0;
            join.last_error = None;
        }
    }

    /// A dial failed: wait, longer each time.
    pub(super) fn failed(&mut self, connection: ConnectionId, reason: &str, now: Instant) {
        let jitter = self.jitter;
        for (addr, join) in self.list.iter_mut().filter(|(_, join)| join.dialling == Some(connection)) {
            join.dialling = None;
            join.fail(addr, reason, jitter, now);
        }
    }

    /// A dial could not even be started.
    pub(super) fn refused(&mut self, addr: &Multiaddr, reason: &str, now: Instant) {
        let jitter = self.jitter;
        if let Some(join) = self.list.get_mut(addr) {
            join.fail(addr, reason, jitter, now);
        }
    }

    /// `peer` is gone: dial its addresses again after the first wait.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        let jitter = self.jitter;
        for (addr, join) in self.list.iter_mut().filter(|(_, join)| join.peer.as_ref() == Some(peer)) {
            join.due = now + wait(addr, join.failures, jitter);
        }
    }
}

impl Join {
    fn fail(&mut self, addr: &Multiaddr, reason: &str, jitter: u32, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(reason.to_owned());
        // An address without a peer id may have changed hands: learn it anew.
        self.peer = peer_in(addr);
        self.due = now + wait(addr, self.failures, jitter);
    }
}

/// The wait after `failures` failures: doubling, bounded, and between 75 % and 125 % of that.
fn wait(addr: &Multiaddr, failures: u32, jitter: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
    let mut hasher = blake3::Hasher::new();
    hasher.update(addr.as_ref()).update(&failures.to_be_bytes()).update(&jitter.to_be_bytes());
    let percent = 75 + u32::from(hasher.finalize().as_bytes()[0]) * 50 / 255;
    doubled * percent / 100
}

/// The peer an address names (its last `/p2p/…`).
pub(super) fn peer_in(addr: &Multiaddr) -> Option<PeerId> {
    addr.iter().filter_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None }).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_bounded() {
        let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        assert!(wait(&addr, 0, 1) < Duration::from_millis(400));
        for failures in 0..64 {
            let wait = wait(&addr, failures, 7);
            assert!(
                wait >= FIRST_WAIT * 75 / 100 && wait <= LONGEST_WAIT * 125 / 100,
                "{failures}: {wait:?}"
            );
        }
        assert!(wait(&addr, 20, 1) > Duration::from_secs(20));
    }

    #[test]
    fn a_lost_peer_is_due_again_and_a_connected_one_is_not() {
        let (mut joins, now, peer) = (Joins::new(3), Instant::now(), PeerId::random());
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}").parse().expect("an address");
        assert!(joins.add(addr.clone(), now));
        assert_eq!(joins.due(now, |_| false), std::slice::from_ref(&addr));
        assert_eq!(joins.due(now, |p| *p == peer), []);
        let id = ConnectionId::new_unchecked(1);
        joins.dialling(&addr, id);
        assert_eq!(joins.next_due(|_| false), None);
        joins.failed(id, "refused", now);
        assert!(joins.next_due(|_| false).expect("due") > now);
        joins.dialling(&addr, id);
        joins.connected(id, peer);
        joins.lost(&peer, now);
        assert!(joins.next_due(|_| false).expect("due") <= now + FIRST_WAIT * 2);
    }
}
