//! The world around the nodes: time, network, disks, and what goes wrong.

mod end;

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::bodies;
use super::node::{Node, Reply};
use super::{Options, Report};
use crate::engine::{Event, Input, Output, Peer, RequestId, Token, Verdict};
use crate::graph::Graph;
use crate::id::{BranchId, OperationId, RepositoryId};
use crate::key::SecretKey;
use crate::operation::{Body, Operation, Position};
use crate::state::{NextInputs, State};
use crate::wire::{Announcement, Request, Response};

/// Simulated milliseconds that a calm world may take until all sets are equal.
const PATIENCE: u64 = 1_200_000;
/// Things happen this far apart, at most.
const PACE: u64 = 4_000;

#[derive(Clone)]
pub(super) enum Message {
    Announcement(Box<Announcement>),
    Request(RequestId, Request),
    Response(RequestId, Response),
    Failed(RequestId),
}

enum Happening {
    Deliver { to: usize, from: usize, connection: u64, message: Message },
    Written { node: usize, life: u64, fails: bool },
    Tick { node: usize, at: u64 },
    Restart { node: usize },
}

pub(super) struct World {
    pub(super) rng: ChaCha8Rng,
    seed: u64,
    pub(super) options: Options,
    repo: RepositoryId,
    branch: OperationId,
    now: u64,
    counter: u64,
    schedule: BTreeMap<(u64, u64), Happening>,
    pub(super) nodes: Vec<Node>,
    places: BTreeMap<Peer, usize>,
    /// Pairs that connect when nothing keeps them apart.
    edges: BTreeSet<(usize, usize)>,
    /// Pairs that are connected, with the connection's number.
    connections: BTreeMap<(usize, usize), u64>,
    /// Nodes in different parts can't reach one another.
    parts: Vec<u64>,
    calm: bool,
    pub(super) report: Report,
    broken: Option<String>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Result<Self, String> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let honest = options.nodes.max(1);
        let count = honest + options.liars;
        let mut nodes: Vec<Node> = Vec::new();
        for _ in 0..count {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            nodes.push(Node::new(SecretKey::from_bytes(&secret)));
        }
        // The first node begins the repository and makes the others contributors.
        let delegate = nodes[0].key.clone();
        let founding =
            Operation::sign(&delegate, Position::genesis(0), bodies::genesis(delegate.public(), seed));
        let founding = founding.map_err(text)?;
        let repo = RepositoryId::from_digest(founding.id().digest());
        let mut graph = Graph::new(repo);
        graph.insert(founding).map_err(text)?;
        let mut add = |body: Body| {
            let position = graph.position(delegate.public(), 0);
            let operation = Operation::sign(&delegate, position, body).map_err(text)?;
            graph.insert(operation.clone()).map_err(text)?;
            Ok::<_, String>(operation)
        };
        let branch = add(bodies::branch())?.id();
        add(bodies::initial(delegate.public(), branch).map_err(text)?)?;
        for node in &nodes[1..] {
            add(bodies::grant(node.key.public()))?;
        }
        nodes[0].disk = graph.iter().map(|operation| (operation.id(), operation.clone())).collect();
        let places = nodes.iter().enumerate().map(|(place, node)| (node.key.public(), place)).collect();
        let mut edges: BTreeSet<_> = (1..honest).map(|node| (node - 1, node)).collect();
        for a in 0..count {
            edges.extend((a + 1..count).filter(|b| rng.next_u64() % 2 == 0 || *b >= honest).map(|b| (a, b)));
        }
        let mut world = Self {
            rng,
            seed,
            options,
            repo,
            branch,
            now: 0,
            counter: 0,
            schedule: BTreeMap::new(),
            parts: vec![0; count],
            nodes,
            places,
            edges,
            connections: BTreeMap::new(),
            calm: false,
            report: Report::default(),
            broken: None,
        };
        for node in 0..count {
            world.start(node)?;
        }
        Ok(world)
    }

    pub(super) fn run(mut self) -> Result<Report, String> {
        for _ in 0..self.options.steps {
            let until = self.now + self.below(PACE);
            self.pass(until)?;
            self.act()?;
        }
        self.calm = true;
        self.parts.fill(0);
        for node in 0..self.nodes.len() {
            if self.nodes[node].engine.is_none() {
                self.start(node)?;
            }
        }
        self.connect();
        let (calm, end) = (self.now, self.now + PATIENCE);
        while self.now < end && !self.settled() {
            let until = self.now + 500;
            self.pass(until)?;
        }
        self.report.settled = self.now - calm;
        self.judge()
    }

    // Time.

    fn pass(&mut self, until: u64) -> Result<(), String> {
        while let Some(entry) = self.schedule.first_entry().filter(|entry| entry.key().0 <= until) {
            self.now = entry.key().0;
            let happening = entry.remove();
            self.happen(happening)?;
            if let Some(what) = self.broken.take() {
                return Err(what);
            }
        }
        self.now = until;
        Ok(())
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.counter += 1;
        self.schedule.insert((self.now + delay, self.counter), happening);
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    /// True so many times in a hundred, while the world is not calm.
    fn unlucky(&mut self, percent: u64) -> bool {
        self.below(100) < percent && !self.calm
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Deliver { to, from, connection, message } => {
                if self.connections.get(&pair(to, from)) == Some(&connection) {
                    self.deliver(to, from, connection, message)?;
                }
            }
            Happening::Written { node, life, fails } => {
                if self.nodes[node].life == life && self.nodes[node].engine.is_some() {
                    self.written(node, fails);
                }
            }
            Happening::Tick { node, at } => {
                if self.nodes[node].tick == Some(at) {
                    self.nodes[node].tick = None;
                    self.tell(node, Input::Tick);
                }
            }
            Happening::Restart { node } => {
                if self.nodes[node].engine.is_none() {
                    self.start(node)?;
                }
            }
        }
        Ok(())
    }

    // What goes wrong, and who signs.

    fn act(&mut self) -> Result<(), String> {
        let node = self.below(self.nodes.len() as u64) as usize;
        match self.below(100) {
            0..5 => self.crash(node),
            5..15 => {
                // Right after signing, when an operation is on its way to disk and to others.
                self.sign(node)?;
                let until = self.now + self.below(100);
                self.pass(until)?;
                self.crash(node);
            }
            15..20 => {
                self.report.partitions += 1;
                for node in 0..self.nodes.len() {
                    self.parts[node] = self.below(2);
                }
                self.connect();
            }
            20..27 => {
                self.parts.fill(0);
                self.connect();
            }
            27..30 => {
                // A connection breaks and comes back.
                let edge = self.below(self.edges.len() as u64) as usize;
                if let Some(edge) = self.edges.iter().nth(edge).copied() {
                    self.disconnect(edge);
                }
                self.connect();
            }
            _ => {
                for _ in 0..=self.below(3) {
                    self.sign(node)?;
                }
            }
        }
        Ok(())
    }

    fn sign(&mut self, node: usize) -> Result<(), String> {
        let number = self.rng.next_u64();
        let (branch, delegate) = (self.branch, node == 0);
        let this = &self.nodes[node];
        let author = this.key.public();
        let Some(engine) = this.engine.as_ref().filter(|_| this.signing.is_none()) else { return Ok(()) };
        let state = State::evaluate(engine.graph());
        let here = BranchId::from_digest(branch.digest());
        let head = state.branches.get(&here).and_then(|branch| branch.head);
        let (Some(_), Some(base)) = (state.role(author), head) else { return Ok(()) };
        let next = state.next_inputs(here).filter(NextInputs::ready);
        let body = match (number % 8, next) {
            // By a delegate it would let everybody write behind it.
            (0, _) if !delegate => bodies::later(number),
            (1, _) if delegate => bodies::grant(author_of(number)),
            (2..5, Some(next)) => {
                bodies::aggregate(state.recipe(here, next.parent, &next.inputs)).map_err(text)?
            }
            _ => bodies::update(author, branch, base, number).map_err(text)?,
        };
        let position = engine.graph().position(author, self.now);
        let operation = Operation::sign(&this.key, position, body).map_err(text)?;
        if self.is_liar(node) && number.is_multiple_of(3) {
            // Another operation with the same number.
            let again = engine.graph().position(author, self.now + 1);
            let again = Operation::sign(&this.key, again, bodies::later(number + 1)).map_err(text)?;
            self.report.lies += 1;
            self.tell(node, Input::Local { operation: Box::new(again), stored: false });
        }
        self.nodes[node].signing = Some(operation.id());
        self.tell(node, Input::Local { operation: Box::new(operation), stored: false });
        Ok(())
    }

    fn crash(&mut self, node: usize) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.report.crashes += 1;
        let edges: Vec<_> = self.edges.iter().filter(|(a, b)| *a == node || *b == node).copied().collect();
        for edge in edges {
            self.disconnect(edge);
        }
        // Nobody can tell whether the write that was under way reached the disk.
        let flushed = self.below(2) == 0;
        self.nodes[node].crash(flushed);
        let delay = self.below(10_000);
        self.after(delay, Happening::Restart { node });
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let (now, seed) = (self.now, self.seed ^ self.counter);
        self.nodes[node].start(self.repo, now, seed)?;
        self.connect();
        Ok(())
    }

    // The network.

    /// Connects whoever should be, and cuts whoever should not.
    fn connect(&mut self) {
        for edge in self.edges.clone() {
            let (a, b) = edge;
            let alive = self.nodes[a].engine.is_some() && self.nodes[b].engine.is_some();
            let wanted = alive && self.parts[a] == self.parts[b];
            if wanted && !self.connections.contains_key(&edge) {
                self.counter += 1;
                self.connections.insert(edge, self.counter);
                for (node, other) in [(a, b), (b, a)] {
                    let peer = self.nodes[other].key.public();
                    self.tell(node, Input::Up { peer });
                }
            } else if !wanted {
                self.disconnect(edge);
            }
        }
    }

    fn disconnect(&mut self, edge: (usize, usize)) {
        if self.connections.remove(&edge).is_some() {
            for (node, other) in [edge, (edge.1, edge.0)] {
                let peer = self.nodes[other].key.public();
                self.tell(node, Input::Down { peer });
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        let Some(connection) = self.connections.get(&pair(from, to)).copied() else { return };
        let lose = self.unlucky(15);
        if lose {
            self.report.lost += 1;
            // A request fails at once, or is never heard of again.
            let failed = match message {
                Message::Request(id, _) => Some((from, to, *id)),
                Message::Response(id, _) => Some((to, from, *id)),
                _ => None,
            };
            if let Some((asker, other, id)) = failed.filter(|_| self.unlucky(50)) {
                let (message, delay) = (Message::Failed(id), self.below(2_000));
                self.after(delay, Happening::Deliver { to: asker, from: other, connection, message });
            }
            return;
        }
        let lie = self.lie(from, message);
        let message = lie.as_ref().unwrap_or(message);
        let copies = if self.unlucky(10) { 2 } else { 1 };
        for _ in 0..copies {
            // Most are quick, some take long: later ones overtake them.
            let slow = self.unlucky(20);
            let delay = 1 + self.below(if slow { 8_000 } else { 80 });
            let message = message.clone();
            self.after(delay, Happening::Deliver { to, from, connection, message });
        }
    }

    fn deliver(&mut self, to: usize, from: usize, connection: u64, message: Message) -> Result<(), String> {
        let message = if self.options.wire { self.through_wire(message)? } else { message };
        let peer = self.nodes[from].key.public();
        self.counter += 1;
        let token = Token(self.counter);
        let node = &mut self.nodes[to];
        let input = match message {
            Message::Announcement(announcement) => {
                if !node.seen.insert(announcement.id()) {
                    return Ok(());
                }
                node.heard.insert(token.0, (announcement.id(), from));
                Input::Announcement { peer, token, announcement }
            }
            Message::Request(id, request) => {
                node.replies.insert(token.0, Reply { peer, id, connection });
                Input::Request { peer, token, request }
            }
            Message::Response(id, response) => Input::Response { peer, id, response },
            Message::Failed(id) => Input::Failed { peer, id },
        };
        self.tell(to, input);
        Ok(())
    }

    fn through_wire(&self, message: Message) -> Result<Message, String> {
        Ok(match message {
            Message::Announcement(announcement) => {
                let bytes = announcement.encode().map_err(text)?;
                Message::Announcement(Box::new(Announcement::decode(&bytes, self.repo).map_err(text)?))
            }
            Message::Request(id, request) => {
                let bytes = request.encode(self.repo).map_err(text)?;
                Message::Request(id, Request::decode(&bytes).map_err(text)?.1)
            }
            Message::Response(id, response) => {
                let bytes = response.encode().map_err(text)?;
                Message::Response(id, Response::decode(&bytes, self.repo).map_err(text)?)
            }
            failed @ Message::Failed(_) => failed,
        })
    }

    // The nodes.

    fn tell(&mut self, node: usize, input: Input) {
        let now = self.now;
        let this = &mut self.nodes[node];
        let Some(engine) = &mut this.engine else { return };
        engine.handle(now - this.born, input);
        let mut outputs = Vec::new();
        while let Some(output) = engine.poll() {
            outputs.push(output);
        }
        let due = engine.deadline().map(|deadline| (this.born + deadline).max(now + 1));
        if let Some(due) = due.filter(|due| this.tick.is_none_or(|tick| *due < tick)) {
            this.tick = Some(due);
            self.after(due - now, Happening::Tick { node, at: due });
        }
        for output in outputs {
            self.perform(node, output);
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        match output {
            Output::Request { peer, id, request } => {
                self.send(node, self.places[&peer], &Message::Request(id, request));
            }
            Output::Respond { token, response } => {
                let reply = self.nodes[node].replies.remove(&token.0);
                let Some(Reply { peer, id, connection }) = reply else { return };
                let to = self.places[&peer];
                if self.connections.get(&pair(node, to)) == Some(&connection) {
                    self.send(node, to, &Message::Response(id, response));
                }
            }
            Output::Announce(announcement) => {
                if self.nodes[node].seen.insert(announcement.id()) {
                    self.gossip(node, &announcement);
                }
            }
            Output::Verdict { token, verdict } => {
                let heard = self.nodes[node].heard.remove(&token.0);
                let from = heard.map(|(_, from)| from);
                let operation = heard.and_then(|(id, _)| self.nodes[node].engine.as_ref()?.graph().get(id));
                match (verdict, operation.map(Announcement::of)) {
                    (Verdict::Accept, Some(announcement)) => self.gossip(node, &announcement),
                    (Verdict::Accept, None) => self.fault("passed on what is not in its set"),
                    (Verdict::Reject, _) if from.is_some_and(|from| self.is_liar(from)) => {}
                    (Verdict::Reject, _) => self.fault("blamed an honest peer for an announcement"),
                    (Verdict::Ignore, _) => {}
                }
            }
            Output::Store(operations) => self.store(node, operations),
            Output::Penalise { peer, .. } if self.is_liar(self.places[&peer]) => {}
            Output::Penalise { offence, .. } => self.fault(&format!("blamed an honest peer: {offence}")),
            Output::Notify(Event::Operations { ids }) => {
                let author = self.nodes[node].key.public();
                let own: Vec<_> = ids.into_iter().filter(|id| self.by(node, *id) == Some(author)).collect();
                let this = &mut self.nodes[node];
                if this.signing.is_some_and(|id| own.contains(&id)) {
                    this.signing = None;
                }
                this.acknowledged.extend(own);
            }
            Output::Notify(Event::Refused { id, .. }) => {
                if self.nodes[node].signing == Some(id) {
                    self.nodes[node].signing = None;
                }
            }
            Output::Notify(_) => {}
        }
    }

    fn by(&self, node: usize, id: OperationId) -> Option<Peer> {
        self.nodes[node].engine.as_ref()?.graph().get(id).map(Operation::author)
    }

    fn gossip(&mut self, from: usize, announcement: &Announcement) {
        let message = Message::Announcement(Box::new(announcement.clone()));
        for to in 0..self.nodes.len() {
            self.send(from, to, &message);
        }
    }

    fn store(&mut self, node: usize, operations: Vec<Operation>) {
        let ids: Vec<_> = operations.iter().map(Operation::id).collect();
        self.nodes[node].writing.extend(operations);
        let (slow, life) = (self.unlucky(20), self.nodes[node].life);
        let delay = 1 + self.below(if slow { 3_000 } else { 20 });
        let fails = self.unlucky(5) && self.options.wait_for_stored;
        self.after(delay, Happening::Written { node, life, fails });
        if !self.options.wait_for_stored {
            self.tell(node, Input::Stored { ids });
        }
    }

    /// The write that was under way is over.
    fn written(&mut self, node: usize, fails: bool) {
        let operations = std::mem::take(&mut self.nodes[node].writing);
        let ids: Vec<_> = operations.iter().map(Operation::id).collect();
        if fails {
            self.report.full += 1;
            return self.tell(node, Input::StoreFailed { ids });
        }
        self.nodes[node].disk.extend(operations.into_iter().map(|operation| (operation.id(), operation)));
        self.tell(node, Input::Stored { ids });
    }

    fn fault(&mut self, what: &str) {
        self.broken.get_or_insert(what.to_owned());
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn author_of(number: u64) -> Peer {
    let mut secret = [1; 32];
    secret[..8].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&secret).public()
}
