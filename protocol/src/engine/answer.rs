//! What peers say: where they stand, and the operations they serve.

use std::collections::BTreeSet;

use super::exchange::{Event, Offence, Peer, RequestId};
use super::intake::Origin;
use super::peers::{Flight, Purpose};
use super::{COMPARE, DOUBLINGS, Engine};
use crate::id::OperationId;
use crate::limits;
use crate::operation::Operation;
use crate::ticket::JoinRequest;
use crate::wire::{Frontier, Joined, Response};

impl Engine {
    /// A peer said where it stands, because we `asked` or by itself.
    pub(super) fn consider(&mut self, peer: Peer, frontier: Frontier, asked: bool) {
        let ours = Frontier::of(self.graph());
        let (theirs, digest) = (frontier.count, frontier.digest);
        let covered = digest == ours.digest
            || (frontier.complete() && frontier.heads.iter().all(|head| self.intake.has(*head)));
        let Some(link) = self.links.get_mut(&peer) else { return };
        let covered = covered || link.paging.done == Some(digest);
        link.frontier = Some(frontier);
        if covered {
            return self.settle(peer, &ours);
        }
        link.caught_up = false;
        let trusted = link.offences == 0 || asked;
        self.notify(Event::Behind { peer, theirs });
        // Who served rubbish before is paged when we come round to it, not whenever it says so.
        if trusted {
            self.turn(peer);
        }
    }

    /// Says that a peer is caught up with, once everything it has is on disk.
    pub(super) fn settle(&mut self, peer: Peer, ours: &Frontier) {
        let graph = self.intake.graph();
        let Some(link) = self.links.get_mut(&peer) else { return };
        let Some(theirs) = &link.frontier else { return };
        let here = theirs.digest == ours.digest
            || link.paging.done == Some(theirs.digest)
            || (theirs.complete() && theirs.heads.iter().all(|head| graph.contains(*head)));
        if here && !std::mem::replace(&mut link.caught_up, true) {
            self.notify(Event::CaughtUp { peer });
        }
    }

    pub(super) fn turn(&mut self, peer: Peer) {
        if let Some(link) = self.links.get_mut(&peer)
            && !std::mem::replace(&mut link.paging.queued, true)
        {
            self.turns.push_back(peer);
        }
    }

    pub(super) fn response(&mut self, peer: Peer, id: RequestId, response: Response) {
        let Some(flight) = self.flights.end(id, peer) else { return };
        self.landed(&flight);
        match (flight.purpose, response) {
            (purpose, Response::Unknown) => {
                if let Purpose::Get(ids) = purpose {
                    for id in ids {
                        self.expire(id);
                    }
                }
                let failures = self.links.get(&peer).map_or(0, |link| link.failures);
                let next = self.now + self.delay(COMPARE, failures.min(DOUBLINGS / 2));
                if let Some(link) = self.links.get_mut(&peer) {
                    (link.next_hello, link.failures) = (next, failures.saturating_add(1));
                    link.caught_up = false;
                }
                self.notify(Event::Unknown { peer });
            }
            (Purpose::Hello, Response::Hello { frontier, blobs, peers, joins }) => {
                let next = self.now + self.delay(COMPARE, 0);
                let now = self.now;
                if let Some(link) = self.links.get_mut(&peer) {
                    link.failures = 0;
                    link.next_hello = if std::mem::take(&mut link.again) { now } else { next };
                }
                self.notify(Event::Addresses { peer, blobs, peers });
                for join in joins {
                    self.join(join, Some(peer));
                }
                self.consider(peer, frontier, true);
            }
            (Purpose::Page, Response::Operations { operations, more, frontier }) => {
                self.page(peer, operations, more, frontier);
            }
            (Purpose::Get(asked), Response::Operations { operations, more, .. }) => {
                self.got(peer, asked, operations, more);
            }
            (Purpose::Join, Response::Joined(joined)) => self.notify(Event::Joined { peer, joined }),
            _ => self.penalise(peer, Offence::Answer),
        }
    }

    pub(super) fn landed(&mut self, flight: &Flight) {
        if let Some(link) = self.links.get_mut(&flight.peer) {
            link.busy.remove(&flight.purpose.sort());
        }
    }

    pub(super) fn failed(&mut self, peer: Peer, id: RequestId) {
        let Some(flight) = self.flights.end(id, peer) else { return };
        self.landed(&flight);
        self.fail(peer);
        if let Purpose::Get(ids) = flight.purpose {
            for id in ids {
                self.expire(id);
            }
        }
    }

    pub(super) fn got(
        &mut self,
        peer: Peer,
        asked: BTreeSet<OperationId>,
        operations: Vec<Operation>,
        more: bool,
    ) {
        let progress = !operations.is_empty();
        let mut asked = asked;
        for operation in operations {
            if !asked.remove(&operation.id()) {
                return self.penalise(peer, Offence::Unasked);
            }
            self.offer(operation, Origin::Peer(peer));
        }
        if self.intake.pending.missing(peer).any(|dep| !self.hints.contains(dep)) {
            self.turn(peer);
        }
        for id in asked {
            if let Some(link) = self.links.get_mut(&peer).filter(|_| more && progress) {
                link.gets.insert(id);
            } else {
                self.expire(id);
            }
        }
    }

    pub(super) fn page(&mut self, peer: Peer, operations: Vec<Operation>, more: bool, frontier: Frontier) {
        let (last, known) = (operations.last().map(Operation::id), self.graph().len());
        let (mut fresh, mut repeats) = (false, 0);
        for operation in operations {
            let id = operation.id();
            if self.intake.has(id) {
                repeats += 1;
                continue;
            }
            self.offer(operation, Origin::Peer(peer));
            if !self.intake.has(id) {
                // A page leaves nothing out: this one was refused, or what it follows was never served.
                let unfounded = self.intake.pending.contains(id);
                return self.stop_paging(peer, unfounded.then_some(Offence::Unfounded));
            }
            fresh = true;
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        let paging = &mut link.paging;
        paging.fresh |= fresh;
        paging.repeats += repeats;
        // What we have can come again once at most: where more than 256 heads don't tell what we have.
        if (more && last.is_none()) || paging.repeats > known + limits::PAGE {
            return self.stop_paging(peer, Some(Offence::Endless));
        }
        if more {
            paging.after = last;
            return self.turn(peer);
        }
        paging.after = None;
        // Whatever it served before this round, it had on disk with all its past: the round should have held it.
        let began = paging.began;
        if self.intake.pending.any_before(peer, began) {
            return self.stop_paging(peer, Some(Offence::Unfounded));
        }
        let unserved = frontier.complete() && !frontier.heads.iter().all(|head| self.intake.has(*head));
        if unserved && !self.intake.pending.any_before(peer, u64::MAX) {
            return self.stop_paging(peer, Some(Offence::Heads));
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.paging.done = (!unserved).then_some(frontier.digest);
            if link.paging.fresh {
                link.failures = 0;
            }
        }
        self.consider(peer, frontier, true);
    }

    /// A peer serves what can't be used: what it served before and waits is dropped with it.
    pub(super) fn stop_paging(&mut self, peer: Peer, offence: Option<Offence>) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.paging.after = None;
        }
        self.intake.pending.forget(peer);
        if let Some(offence) = offence {
            self.penalise(peer, offence);
        }
    }

    pub(super) fn join(&mut self, request: JoinRequest, from: Option<Peer>) -> Joined {
        let person = request.person;
        let joined = self.lane.offer(request.clone(), from);
        if joined == Joined::Accepted {
            for (_, link) in self.links.iter_mut().filter(|(peer, _)| Some(**peer) != from) {
                if link.joins.len() < limits::JOIN_REQUESTS {
                    link.joins.push_back(person);
                }
            }
            if from.is_some() {
                self.notify(Event::Join(Box::new(request)));
            }
        }
        joined
    }
}
