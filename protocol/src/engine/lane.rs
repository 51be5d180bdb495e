//! Join requests that wait for a delegate. They never enter the set: the lane is bounded, and what is in it may be
//! pushed out.

use std::collections::{BTreeMap, VecDeque};

use super::exchange::Peer;
use crate::id::Digest;
use crate::key::PersonId;
use crate::limits;
use crate::ticket::JoinRequest;
use crate::wire::Joined;

#[derive(Debug)]
struct Entry {
    request: JoinRequest,
    peer: Option<Peer>,
    arrival: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    entries: BTreeMap<PersonId, Entry>,
    arrivals: u64,
    /// Requests that were answered, so that they don't come back from others.
    answered: VecDeque<Digest>,
}

impl Lane {
    /// Takes a request in; the oldest from whoever fills the lane makes room.
    pub(super) fn offer(&mut self, request: JoinRequest, peer: Option<Peer>) -> Joined {
        let newer = |entry: &Entry| entry.request.time >= request.time;
        if self.answered.contains(&request.id()) || self.entries.get(&request.person).is_some_and(newer) {
            return Joined::Known;
        }
        self.entries.remove(&request.person);
        if self.entries.len() >= limits::JOIN_REQUESTS {
            self.evict();
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.entries.insert(request.person, Entry { request, peer, arrival });
        Joined::Accepted
    }

    /// The person got a role: their request is answered.
    pub(super) fn answer(&mut self, person: PersonId) {
        if let Some(entry) = self.entries.remove(&person) {
            if self.answered.len() >= limits::JOIN_REQUESTS {
                self.answered.pop_front();
            }
            self.answered.push_back(entry.request.id());
        }
    }

    pub(super) fn get(&self, person: PersonId) -> Option<&JoinRequest> {
        self.entries.get(&person).map(|entry| &entry.request)
    }

    /// Everything that waits, by person.
    pub(super) fn iter(&self) -> impl Iterator<Item = &JoinRequest> {
        self.entries.values().map(|entry| &entry.request)
    }

    /// The newest arrivals that did not come from `peer`.
    pub(super) fn newest(&self, peer: Peer, most: usize) -> Vec<JoinRequest> {
        let mut entries: Vec<_> = self.entries.values().filter(|entry| entry.peer != Some(peer)).collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.arrival));
        entries.into_iter().take(most).map(|entry| entry.request.clone()).collect()
    }

    fn evict(&mut self) {
        let mut counts: BTreeMap<Option<Peer>, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            *counts.entry(entry.peer).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(peer, count)| (*count, *peer)).map(|(peer, _)| peer);
        let from = self.entries.iter().filter(|(_, entry)| Some(entry.peer) == most);
        if let Some(person) = from.min_by_key(|(_, entry)| entry.arrival).map(|(person, _)| *person) {
            self.entries.remove(&person);
        }
    }
}
