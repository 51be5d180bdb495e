//! The sync engine of one repository: how the sets of operations on different nodes become equal.
//!
//! It is pure. The caller tells it what happened with [`Engine::handle`], does what [`Engine::poll`] says until it
//! says nothing more, and calls again with [`Input::Tick`] at [`Engine::deadline`]. Time is milliseconds on any
//! clock that does not go back; randomness is the seed.
//!
//! Gossip loses messages, so an announcement is only a hint. What makes sets equal is that peers compare frontiers
//! when they meet and at jittered intervals, and that whoever lacks something asks for it page by page.
//!
//! **Only what is on disk counts.** An operation is served, announced, passed on by gossip, told to peers and built
//! upon only after the caller said [`Input::Stored`]. Otherwise a crash could make a node forget what it signed,
//! and sign another operation with the same number: an equivocation, for which its author would pay. It also means
//! that whoever passes an announcement on can serve the operation and all of its past, so one who can't is
//! dishonest.
//!
//! News of a **private repository** is never announced: gossip tells every peer which topics a node follows, and carries
//! what is said on one to whoever follows it. The peers, all of whom may read, are asked to compare sets instead.
//!
//! Everything is bounded: pending operations per peer, announced operations, join requests, peers, requests under
//! way per peer (one of each sort), pages under way (one), bytes that wait for the disk.

mod answer;
mod authority;
pub mod exchange;
mod hints;
mod intake;
mod lane;
mod peers;
mod pending;
mod serve;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use exchange::{Event, Input, Offence, Output, Peer, Refusal, RequestId, Token, Verdict};
use hints::Hints;
use intake::{Intake, Origin, Taken};
use lane::Lane;
use peers::{Flights, Link, Purpose, Sort};

use crate::graph::{Graph, GraphError};
use crate::id::{OperationId, RepositoryId};
use crate::limits;
use crate::operation::{Body, Operation};
use crate::ticket::JoinRequest;
use crate::wire::{Announcement, Frontier, PeerAddress, Request};

/// A request without an answer for this long has failed.
const TIMEOUT: u64 = 30_000;
/// Gossip forgets a message after 5 s: it gets its verdict before.
const VERDICT: u64 = 4_000;
/// Sets are compared again after this long at the least; at the most twice that.
const COMPARE: u64 = 20_000;
/// After a failure the first retry comes after this long at the least; at the most twice that.
const RETRY: u64 = 1_000;
/// The disk is tried again after this long, then twice that, and so on.
const DISK: u64 = 2_000;
/// News that gossip won't carry is told to peers after at most this long.
const NUDGE: u64 = 500;
/// Doublings of a delay.
const DOUBLINGS: u32 = 8;
/// With this many operations on the way to disk, no further page is asked for: it would hold them again.
const UNSTORED: usize = 64;
/// Heads announced at once after catching up.
const ANNOUNCED: usize = 16;
/// Operations remembered whose verdict came too early.
const LATE: usize = 4_096;

/// How a peer stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub peer: Peer,
    /// Whether everything it has is here, as far as it said.
    pub caught_up: bool,
    /// Operations it has; `None` until it said so.
    pub theirs: Option<u64>,
    /// Requests to it that failed in a row.
    pub failures: u32,
}

/// The sync engine of one repository.
#[derive(Debug)]
pub struct Engine {
    now: u64,
    rng: ChaCha8Rng,
    outputs: VecDeque<Output>,
    intake: Intake,
    links: BTreeMap<Peer, Link>,
    flights: Flights,
    /// Peers to ask for a page, in turn, so that none can hold up the others.
    turns: VecDeque<Peer>,
    hints: Hints,
    /// Operations for which gossip got its verdict too early: peers hear of them from us.
    late: BTreeSet<OperationId>,
    lane: Lane,
    blobs: Vec<String>,
    addresses: Vec<PeerAddress>,
    disk_failures: u32,
    disk_retry: Option<u64>,
}

impl Engine {
    /// An engine for `repo` that starts from what is on disk, in any order; nothing for a repository that is to
    /// be fetched. `seed` decides the jitter of its delays.
    ///
    /// # Errors
    /// The snapshot is not closed, or not of this repository: the store is damaged.
    pub fn new(repo: RepositoryId, snapshot: Vec<Operation>, seed: u64) -> Result<Self, GraphError> {
        let mut snapshot = snapshot;
        // A Lamport time is higher than its dependencies': this order puts them first.
        snapshot.sort_by_key(Operation::order);
        let mut graph = Graph::new(repo);
        for operation in snapshot {
            graph.insert(operation)?;
        }
        Ok(Self {
            now: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            outputs: VecDeque::new(),
            intake: Intake::new(graph),
            links: BTreeMap::new(),
            flights: Flights::default(),
            turns: VecDeque::new(),
            hints: Hints::default(),
            late: BTreeSet::new(),
            lane: Lane::default(),
            blobs: Vec::new(),
            addresses: Vec::new(),
            disk_failures: 0,
            disk_retry: None,
        })
    }

    /// What is on disk: the set that state is evaluated from and local operations are signed upon.
    pub fn graph(&self) -> &Graph {
        self.intake.graph()
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.links.iter().map(|(peer, link)| PeerStatus {
            peer: *peer,
            caught_up: link.caught_up,
            theirs: link.frontier.as_ref().map(|frontier| frontier.count),
            failures: link.failures,
        })
    }

    /// Join requests that wait for a delegate.
    pub fn joins(&self) -> impl Iterator<Item = &JoinRequest> {
        self.lane.iter()
    }

    /// Operations that wait for others.
    pub fn pending(&self) -> usize {
        self.intake.pending.len()
    }

    /// Bytes of operations from `peer` that wait for others.
    pub fn pending_bytes(&self, peer: Peer) -> usize {
        self.intake.pending.bytes(peer)
    }

    /// Pending operations dropped so far because their peer had too many.
    pub fn evicted(&self) -> u64 {
        self.intake.pending.evicted()
    }

    /// Operations on the way to disk.
    pub fn unstored(&self) -> usize {
        self.intake.staged()
    }

    /// Takes in what happened at `now` milliseconds.
    pub fn handle(&mut self, now: u64, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Local { operation, stored } => self.local(*operation, stored),
            Input::Brought(operation) => self.offer(*operation, Origin::File),
            Input::Up { peer } => self.up(peer),
            Input::Down { peer } => self.down(peer),
            Input::Announcement { peer, token, announcement } => self.announced(peer, token, &announcement),
            Input::Request { peer, token, request } => self.request(peer, token, request),
            Input::Response { peer, id, response } => self.response(peer, id, response),
            Input::Failed { peer, id } => self.failed(peer, id),
            Input::Stored { ids } => self.stored(ids),
            Input::StoreFailed { ids } => self.store_failed(&ids),
            Input::Join(request) => {
                self.join(*request, None);
            }
            Input::Addresses { mut blobs, mut peers } => {
                blobs.truncate(limits::ADDRESSES);
                peers.truncate(limits::ADDRESSES);
                for peer in &mut peers {
                    peer.addresses.truncate(limits::ADDRESSES);
                }
                (self.blobs, self.addresses) = (blobs, peers);
            }
            Input::Tick => {}
        }
        self.pump();
    }

    /// The next thing to do; none when all is done for now.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn deadline(&self) -> Option<u64> {
        let hellos =
            self.links.values().filter(|link| !link.busy.contains(&Sort::Hello)).map(|link| link.next_hello);
        hellos.chain(self.hints.deadline()).chain(self.flights.deadline()).chain(self.disk_retry).min()
    }

    fn out(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn notify(&mut self, event: Event) {
        self.out(Output::Notify(event));
    }

    /// `base` to twice `base`, doubled `times`.
    fn delay(&mut self, base: u64, times: u32) -> u64 {
        (base + self.rng.next_u64() % base) << times.min(DOUBLINGS)
    }

    // Peers come and go.

    fn up(&mut self, peer: Peer) {
        self.down(peer);
        if self.links.len() < limits::PEERS {
            self.links.insert(peer, Link::new(self.now));
        }
    }

    fn down(&mut self, peer: Peer) {
        self.links.remove(&peer);
        self.flights.forget(peer);
        self.intake.pending.forget(peer);
        self.turns.retain(|turn| *turn != peer);
    }

    /// A peer failed us: it is asked again later, and later still if it goes on.
    fn fail(&mut self, peer: Peer) {
        let times = self.links.get(&peer).map_or(0, |link| link.failures.saturating_add(link.offences));
        let next = self.now + self.delay(RETRY, times);
        if let Some(link) = self.links.get_mut(&peer) {
            link.failures = link.failures.saturating_add(1);
            link.next_hello = next;
        }
    }

    fn penalise(&mut self, peer: Peer, offence: Offence) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.offences = link.offences.saturating_add(1);
        }
        self.fail(peer);
        self.out(Output::Penalise { peer, offence });
    }

    /// Tells every peer where we stand, soon.
    fn nudge(&mut self) {
        let soon: Vec<_> = self.links.keys().map(|_| self.rng.next_u64() % NUDGE).collect();
        for (link, soon) in self.links.values_mut().zip(soon) {
            link.again = link.busy.contains(&Sort::Hello);
            link.next_hello = link.next_hello.min(self.now + soon);
        }
    }

    // Operations come in.

    fn local(&mut self, operation: Operation, stored: bool) {
        let id = operation.id();
        if self.intake.has(id) {
            return;
        }
        if stored {
            match self.intake.insert(operation.clone()) {
                Ok(taken) => {
                    self.entered(&[(id, true)]);
                    self.taken(taken);
                    return;
                }
                // It follows something that is on its way to disk.
                Err(Refusal::Graph(GraphError::Missing(_))) => {}
                Err(why) => return self.notify(Event::Refused { id, why }),
            }
        }
        self.offer(operation, Origin::Local);
    }

    fn offer(&mut self, operation: Operation, origin: Origin) {
        let taken = self.intake.offer(operation, origin);
        self.taken(taken);
    }

    fn taken(&mut self, taken: Vec<Taken>) {
        for taken in taken {
            match taken {
                Taken::Refused { id, peer: Some(peer), why } => {
                    self.resolve(id, Verdict::Reject);
                    self.penalise(peer, Offence::Refused(why));
                }
                Taken::Refused { id, peer: None, why } => self.notify(Event::Refused { id, why }),
                Taken::Dropped(id) => {
                    self.resolve(id, Verdict::Ignore);
                }
            }
        }
    }

    fn announced(&mut self, peer: Peer, token: Token, announcement: &Announcement) {
        let id = announcement.id();
        let verdict = |verdict| Output::Verdict { token, verdict };
        if self.graph().contains(id) {
            return self.out(verdict(Verdict::Accept));
        }
        if self.hints.join(id, token) {
            return;
        }
        if !self.links.contains_key(&peer) || self.hints.contains(id) {
            return self.out(verdict(Verdict::Ignore));
        }
        if !self.hints.add(id, peer, token, self.now + VERDICT) {
            self.turn(peer);
            return self.out(verdict(Verdict::Ignore));
        }
        if self.intake.has(id) {
            return;
        }
        // What it follows may be on its way as well: then it waits for that, and no page is needed.
        let coming = |dep: &OperationId| {
            self.intake.has(*dep) || self.intake.pending.contains(*dep) || self.hints.contains(*dep)
        };
        let ready = announcement.header().deps.iter().all(coming);
        match self.links.get_mut(&peer) {
            Some(link) if ready => {
                link.gets.insert(id);
            }
            _ => self.turn(peer),
        }
    }

    /// Gives gossip its verdicts on an operation; whether any were owed.
    fn resolve(&mut self, id: OperationId, verdict: Verdict) -> bool {
        let Some(tokens) = self.hints.take(id) else { return false };
        self.outputs.extend(tokens.into_iter().map(|token| Output::Verdict { token, verdict }));
        true
    }

    fn expire(&mut self, id: OperationId) {
        if self.resolve(id, Verdict::Ignore) && self.late.len() < LATE {
            self.late.insert(id);
        }
        for peer in self.intake.pending.waiting_for(id) {
            self.turn(peer);
        }
    }

    fn stored(&mut self, ids: Vec<OperationId>) {
        if self.intake.at_disk(&ids) {
            (self.disk_failures, self.disk_retry) = (0, None);
            let entered = self.intake.stored(ids);
            self.entered(&entered);
        }
    }

    fn store_failed(&mut self, ids: &[OperationId]) {
        if !self.intake.at_disk(ids) {
            return;
        }
        self.disk_retry = Some(self.now + (DISK << self.disk_failures.min(DOUBLINGS / 2)));
        self.disk_failures = self.disk_failures.saturating_add(1);
        for id in self.intake.store_failed() {
            self.resolve(id, Verdict::Ignore);
            self.notify(Event::Refused { id, why: Refusal::NotStored(id) });
        }
    }

    /// These are in the graph now: tell whoever should know.
    fn entered(&mut self, entered: &[(OperationId, bool)]) {
        if entered.is_empty() {
            return;
        }
        let (mut news, mut nudge) = (Vec::new(), false);
        for (id, local) in entered.iter().copied() {
            if let Some(Body::Grant(grant)) = self.graph().get(id).map(Operation::body) {
                let person = grant.person;
                self.lane.answer(person);
            }
            let passed_on = self.resolve(id, Verdict::Accept);
            if self.late.remove(&id) {
                nudge = true;
            } else if local || !passed_on {
                news.push((id, local));
            }
        }
        let heads: BTreeSet<_> = self.graph().heads().collect();
        // What was caught up on is announced by its heads: whoever lacks them asks for the rest.
        let (local, caught): (Vec<_>, Vec<_>) = news.into_iter().partition(|(_, local)| *local);
        let caught = caught.into_iter().filter(|(id, _)| heads.contains(id)).take(ANNOUNCED);
        let private = self.graph().private();
        for (id, _) in local.into_iter().chain(caught).filter(|_| !private) {
            if let Some(announcement) = self.graph().get(id).map(Announcement::of) {
                self.out(Output::Announce(Box::new(announcement)));
            }
        }
        if nudge || private {
            self.nudge();
        }
        self.notify(Event::Operations { ids: entered.iter().map(|(id, _)| *id).collect() });
        let waiting: Vec<_> =
            self.links.iter().filter(|(_, link)| !link.caught_up).map(|(peer, _)| *peer).collect();
        let ours = Frontier::of(self.graph());
        for peer in waiting {
            self.settle(peer, &ours);
        }
    }

    // What is due.

    fn pump(&mut self) {
        for (id, peer) in self.flights.overdue(self.now) {
            self.failed(peer, id);
        }
        for id in self.hints.overdue(self.now) {
            self.expire(id);
        }
        let peers: Vec<_> = self.links.keys().copied().collect();
        for peer in peers {
            self.greet(peer);
            self.get(peer);
            self.pass_join(peer);
        }
        self.ask_page();
        if self.disk_retry.is_none_or(|retry| retry <= self.now) {
            self.disk_retry = None;
            let batch = self.intake.batch();
            if !batch.is_empty() {
                self.out(Output::Store(batch));
            }
        }
    }

    fn ask(&mut self, peer: Peer, purpose: Purpose, request: Request) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.busy.insert(purpose.sort());
        }
        let id = self.flights.start(peer, self.now + TIMEOUT, purpose);
        self.out(Output::Request { peer, id, request });
    }

    fn greet(&mut self, peer: Peer) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.next_hello <= self.now && !link.busy.contains(&Sort::Hello) {
            let (frontier, blobs) = (Frontier::of(self.graph()), self.blobs.clone());
            self.ask(peer, Purpose::Hello, Request::Hello { frontier, blobs });
        }
    }

    fn get(&mut self, peer: Peer) {
        if self.intake.full() {
            return;
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.busy.contains(&Sort::Get) {
            return;
        }
        link.gets.retain(|id| !self.intake.has(*id) && !self.intake.pending.contains(*id));
        if !link.gets.is_empty() {
            let ids: BTreeSet<_> = link.gets.iter().copied().take(limits::REQUEST_IDS).collect();
            link.gets.retain(|id| !ids.contains(id));
            let request = Request::Get { ids: ids.iter().copied().collect() };
            self.ask(peer, Purpose::Get(ids), request);
        }
    }

    fn pass_join(&mut self, peer: Peer) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        while !link.busy.contains(&Sort::Join)
            && let Some(person) = link.joins.pop_front()
        {
            if let Some(request) = self.lane.get(person).cloned() {
                return self.ask(peer, Purpose::Join, Request::Join(Box::new(request)));
            }
        }
    }

    fn ask_page(&mut self) {
        if self.flights.paging() || self.intake.staged() >= UNSTORED || self.intake.full() {
            return;
        }
        let Some(peer) = self.turns.pop_front() else { return };
        let began = self.intake.pending.arrivals();
        let have = self.graph().summary(limits::REQUEST_IDS);
        let Some(link) = self.links.get_mut(&peer) else { return };
        let paging = &mut link.paging;
        paging.queued = false;
        if paging.after.is_none() {
            (paging.began, paging.fresh, paging.repeats) = (began, false, 0);
        }
        let after = paging.after;
        self.ask(peer, Purpose::Page, Request::Want { have, after });
    }
}
