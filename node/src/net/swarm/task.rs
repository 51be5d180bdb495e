//! The task that owns the swarm: its loop and what the handle asks of it.

mod reports;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::pending,
    io,
    time::SystemTime,
};

use libp2p::{
    Multiaddr, PeerId, Swarm,
    futures::StreamExt,
    gossipsub,
    multiaddr::Protocol,
    request_response::{InboundRequestId, OutboundRequestId, ResponseChannel},
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    BAN_AT, BAN_FOR, Ban, Command, JoinInfo, Limits, MAX_TOPICS, MessageToken, NetError, NetEvent, PeerInfo,
    Reply, RequestToken, SwarmConfig, Verdict,
    behaviour::{self, Behaviour},
    codec,
    error::dial_reason,
    join::{Joins, peer_in},
    standing::Standings,
};
use crate::net::key_of;

/// A rejected announcement costs this many points: the fourth bans, though the first ones have faded a little.
const REJECTED: f64 = 26.0;
/// Bans kept at once.
const MAX_BANS: usize = 4096;
/// Events about connections that wait while the receiver is busy.
const MAX_BACKLOG: usize = 4096;

struct Connection {
    id: ConnectionId,
    addr: Multiaddr,
    outbound: bool,
}

struct Peer {
    key: [u8; 32],
    connections: Vec<Connection>,
    since: SystemTime,
    agent: Option<String>,
}

struct Dialling {
    addr: Multiaddr,
    reply: Reply<[u8; 32]>,
}

struct Banned {
    ban: Ban,
    until: Instant,
}

pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    limits: Limits,
    inbox: mpsc::Receiver<Command>,
    outbox: mpsc::Sender<NetEvent>,
    /// Events about connections, which must not be lost, in order, while the receiver is busy.
    backlog: VecDeque<NetEvent>,
    listening: Vec<Multiaddr>,
    /// Whether any address is to be listened on.
    listens: bool,
    /// Who waits for the first address.
    waiting: Vec<oneshot::Sender<Vec<Multiaddr>>>,
    peers: HashMap<PeerId, Peer>,
    dialling: HashMap<ConnectionId, Dialling>,
    joins: Joins,
    asked: HashMap<OutboundRequestId, (PeerId, Reply<Vec<u8>>)>,
    asking: HashMap<InboundRequestId, (PeerId, ResponseChannel<Vec<u8>>)>,
    topics: BTreeMap<[u8; 32], gossipsub::IdentTopic>,
    standings: Standings,
    bans: HashMap<PeerId, Banned>,
}

impl Task {
    pub(super) fn new(
        mut swarm: Swarm<Behaviour>,
        config: SwarmConfig,
        inbox: mpsc::Receiver<Command>,
        outbox: mpsc::Sender<NetEvent>,
    ) -> Result<Self, NetError> {
        let listens = !config.listen.is_empty();
        for addr in config.listen {
            swarm
                .listen_on(addr.clone())
                .map_err(|error| NetError::Listen { addr, reason: listen_reason(&error) })?;
        }
        let jitter = blake3::hash(&swarm.local_peer_id().to_bytes());
        let jitter = u32::from_be_bytes(jitter.as_bytes()[..4].try_into().unwrap_or_default());
        let mut task = Self {
            swarm,
            inbox,
            outbox,
            backlog: VecDeque::new(),
            listening: Vec::new(),
            listens,
            waiting: Vec::new(),
            peers: HashMap::new(),
            dialling: HashMap::new(),
            joins: Joins::new(jitter),
            asked: HashMap::new(),
            asking: HashMap::new(),
            topics: BTreeMap::new(),
            standings: Standings::new(config.limits.requests, config.limits.announcements),
            bans: HashMap::new(),
            limits: config.limits,
        };
        for addr in config.join {
            task.join(addr)?;
        }
        Ok(task)
    }

    pub(super) async fn run(mut self) {
        let mut done = None;
        loop {
            self.dial_due();
            let due = self.next_due();
            let outbox = self.outbox.clone();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.inbox.recv() => match command {
                    Some(Command::Shutdown(reply)) => {
                        done = Some(reply);
                        break;
                    }
                    Some(command) => self.on_command(command),
                    None => break,
                },
                permit = outbox.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.backlog.pop_front() {
                            permit.send(event);
                        }
                    }
                    // Nobody listens: there is nobody to keep events for.
                    Err(_) => self.backlog.clear(),
                },
                () = async { if let Some(due) = due { sleep_until(due).await } else { pending().await } } => {
                    self.lift_expired(Instant::now());
                }
            }
        }
        self.stop().await;
        if let Some(done) = done {
            // The handle that asked may be gone.
            let _ = done.send(());
        }
    }

    /// Says goodbye: closes every connection, so that peers see it at once, and the listeners.
    async fn stop(&mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error means it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                () = sleep_until(deadline) => break,
            }
        }
    }

    // --- what the handle asks ---

    fn on_command(&mut self, command: Command) {
        // A handle that no longer waits for its answer is no error.
        match command {
            Command::ListenAddrs(reply) => {
                if self.listening.is_empty() && self.listens {
                    self.waiting.push(reply);
                } else {
                    let _ = reply.send(self.listening.clone());
                }
            }
            Command::Dial(addr, reply) => self.dial(addr, reply),
            Command::Join(addr, reply) => {
                let _ = reply.send(self.join(addr));
            }
            Command::Leave(addr, reply) => {
                let _ = reply.send(self.joins.remove(&addr));
            }
            Command::Joins(reply) => {
                let _ = reply.send(self.join_infos());
            }
            Command::Disconnect(peer) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Subscribe(topic, reply) => {
                let _ = reply.send(self.subscribe(topic));
            }
            Command::Unsubscribe(topic, reply) => {
                let followed = self.topics.remove(&topic);
                let _ =
                    reply.send(followed.is_some_and(|t| self.swarm.behaviour_mut().gossip.unsubscribe(&t)));
            }
            Command::Publish(topic, bytes, reply) => {
                let _ = reply.send(self.publish(topic, bytes));
            }
            Command::Request(peer, bytes, reply) => self.request(peer, bytes, reply),
            Command::Respond(token, bytes, reply) => {
                let _ = reply.send(self.respond(token, bytes));
            }
            Command::Refuse(token) => {
                self.asking.remove(&token.0);
            }
            Command::Report(token, verdict, reply) => {
                let _ = reply.send(self.report(&token, verdict));
            }
            Command::Penalise(peer, points, reason) => self.penalise(peer, points, &reason),
            Command::Ban(peer, reason) => self.ban(peer, reason),
            Command::Bans(reply) => {
                let mut bans: Vec<_> = self.bans.values().map(|banned| banned.ban.clone()).collect();
                bans.sort_by_key(|ban| ban.key);
                let _ = reply.send(bans);
            }
            Command::Lift(peer, reply) => {
                let _ = reply.send(self.lift(&peer));
            }
            Command::Peers(reply) => {
                let _ = reply.send(self.peer_infos());
            }
            // Taken by the loop.
            Command::Shutdown(reply) => drop(reply),
        }
    }

    fn dial(&mut self, addr: Multiaddr, reply: Reply<[u8; 32]>) {
        let expected = peer_in(&addr);
        if let Some(peer) = expected
            && let Some(connected) = self.peers.get(&peer)
        {
            let _ = reply.send(Ok(connected.key));
            return;
        }
        match self.start_dial(&addr) {
            Ok(id) => {
                self.dialling.insert(id, Dialling { addr, reply });
            }
            Err(error) => {
                let _ = reply.send(Err(NetError::from_dial(addr, expected, &error)));
            }
        }
    }

    fn start_dial(&mut self, addr: &Multiaddr) -> Result<ConnectionId, DialError> {
        // A port of its own: dialling from the listening one fails while an old connection of the same pair of
        // ports lingers, which is just what a peer that restarted leaves behind.
        let opts = match peer_in(addr) {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![addr.clone()])
                .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(addr.clone()).allocate_new_port().build(),
        };
        let id = opts.connection_id();
        self.swarm.dial(opts).map(|()| id)
    }

    fn join(&mut self, addr: Multiaddr) -> Result<(), NetError> {
        if peer_in(&addr).as_ref() == Some(self.swarm.local_peer_id()) {
            return Err(NetError::Own(addr));
        }
        if self.joins.add(addr, Instant::now()) { Ok(()) } else { Err(NetError::TooManyJoined) }
    }

    fn subscribe(&mut self, topic: [u8; 32]) -> Result<(), NetError> {
        if self.topics.contains_key(&topic) {
            return Ok(());
        }
        if self.topics.len() >= MAX_TOPICS {
            return Err(NetError::TooManyTopics);
        }
        let name = gossip_topic(topic);
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.subscribe(&name).map_err(|error| NetError::Gossip(error.to_string()))?;
        gossip
            .set_topic_params(name.clone(), behaviour::topic_score())
            .map_err(|error| NetError::Gossip(error.to_owned()))?;
        self.topics.insert(topic, name);
        self.tell_subscribed(topic);
        Ok(())
    }

    /// Those connected who followed a topic before we did.
    fn tell_subscribed(&mut self, topic: [u8; 32]) {
        let hash = gossip_topic(topic).hash();
        let gossip = &self.swarm.behaviour().gossip;
        let followers: Vec<_> = gossip
            .all_peers()
            .filter(|(_, topics)| topics.contains(&&hash))
            .filter_map(|(p, _)| key_of(p))
            .collect();
        for peer in followers {
            self.tell(NetEvent::Subscribed { peer, topic });
        }
    }

    fn publish(&mut self, topic: [u8; 32], bytes: Vec<u8>) -> Result<bool, NetError> {
        match self.swarm.behaviour_mut().gossip.publish(gossip_topic(topic).hash(), bytes) {
            Ok(_) => Ok(true),
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::Duplicate) => {
                Ok(false)
            }
            Err(error) => Err(NetError::Publish(error.to_string())),
        }
    }

    fn request(&mut self, peer: PeerId, bytes: Vec<u8>, reply: Reply<Vec<u8>>) {
        if !self.swarm.is_connected(&peer) {
            let _ = reply.send(Err(NetError::NotConnected(peer)));
            return;
        }
        let waiting = self.asked.values().filter(|(asked, _)| *asked == peer).count();
        if waiting >= self.limits.requests_in_flight {
            let _ = reply.send(Err(NetError::Busy(peer)));
            return;
        }
        let id = self.swarm.behaviour_mut().sync.send_request(&peer, codec::Request::Bytes(bytes));
        self.asked.insert(id, (peer, reply));
    }

    fn respond(&mut self, token: RequestToken, bytes: Vec<u8>) -> Result<(), NetError> {
        let (_, channel) = self.asking.remove(&token.0).ok_or(NetError::TooLate)?;
        self.swarm.behaviour_mut().sync.send_response(channel, bytes).map_err(|_| NetError::TooLate)
    }

    fn report(&mut self, token: &MessageToken, verdict: Verdict) -> bool {
        let acceptance = match verdict {
            Verdict::Accept => gossipsub::MessageAcceptance::Accept,
            Verdict::Reject => gossipsub::MessageAcceptance::Reject,
            Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
        };
        let known = self.swarm.behaviour_mut().gossip.report_message_validation_result(
            &token.id,
            &token.from,
            acceptance,
        );
        if known && verdict == Verdict::Reject {
            self.penalise(token.from, REJECTED, "it passed on an invalid announcement");
        }
        known
    }

    fn join_infos(&self) -> Vec<JoinInfo> {
        self.joins
            .iter()
            .map(|(addr, join)| JoinInfo {
                addr: addr.clone(),
                peer: join.peer.as_ref().and_then(key_of),
                connected: join.peer.is_some_and(|peer| self.peers.contains_key(&peer)),
                failures: join.failures,
                last_error: join.last_error.clone(),
            })
            .collect()
    }

    fn peer_infos(&self) -> Vec<PeerInfo> {
        let now = Instant::now();
        let mut topics: HashMap<PeerId, Vec<[u8; 32]>> = HashMap::new();
        for (peer, followed) in self.swarm.behaviour().gossip.all_peers() {
            let ours = self.topics.iter().filter(|(_, name)| followed.contains(&&name.hash()));
            topics.insert(*peer, ours.map(|(topic, _)| *topic).collect());
        }
        let mut infos: Vec<_> = self
            .peers
            .iter()
            .map(|(id, peer)| PeerInfo {
                key: peer.key,
                addrs: peer.connections.iter().map(|c| c.addr.clone()).collect(),
                connected_since: peer.since,
                direct: peer.connections.iter().any(|c| !c.addr.iter().any(|p| p == Protocol::P2pCircuit)),
                outbound: peer.connections.iter().any(|c| c.outbound),
                agent: peer.agent.clone(),
                topics: topics.remove(id).unwrap_or_default(),
                score: self.standings.points(id, now),
            })
            .collect();
        infos.sort_by_key(|info| info.key);
        infos
    }

    // --- bans ---

    fn penalise(&mut self, peer: PeerId, points: f64, reason: &str) {
        let total = self.standings.charge(peer, points, Instant::now());
        tracing::debug!(%peer, points, total, reason, "penalised");
        if total >= BAN_AT {
            self.ban(peer, reason.to_owned());
        }
    }

    fn ban(&mut self, peer: PeerId, reason: String) {
        let Some(key) = key_of(&peer) else { return };
        if self.bans.contains_key(&peer) || peer == *self.swarm.local_peer_id() {
            return;
        }
        if self.bans.len() >= MAX_BANS
            && let Some(oldest) =
                self.bans.iter().min_by_key(|(_, banned)| banned.until).map(|(peer, _)| *peer)
        {
            self.lift(&oldest);
        }
        tracing::warn!(%peer, reason, "banned");
        let ban = Ban { key, reason, until: SystemTime::now() + BAN_FOR };
        self.bans.insert(peer, Banned { ban: ban.clone(), until: Instant::now() + BAN_FOR });
        self.swarm.behaviour_mut().blocked.block_peer(peer);
        self.tell(NetEvent::Banned(ban));
    }

    fn lift(&mut self, peer: &PeerId) -> bool {
        self.standings.forgive(peer);
        self.swarm.behaviour_mut().blocked.unblock_peer(*peer);
        self.bans.remove(peer).is_some()
    }

    fn lift_expired(&mut self, now: Instant) {
        let over: Vec<_> = self.bans.iter().filter(|(_, b)| b.until <= now).map(|(peer, _)| *peer).collect();
        for peer in over {
            self.lift(&peer);
        }
    }

    // --- moments ---

    fn next_due(&self) -> Option<Instant> {
        let join = self.joins.next_due(|peer| self.peers.contains_key(peer));
        let ban = self.bans.values().map(|banned| banned.until).min();
        join.into_iter().chain(ban).min()
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        for addr in self.joins.due(now, |peer| self.peers.contains_key(peer)) {
            match self.start_dial(&addr) {
                Ok(id) => self.joins.dialling(&addr, id),
                Err(error) => self.joins.refused(&addr, &dial_reason(&error), now),
            }
        }
    }

    /// Tells the caller about connections, in order and without loss, short of a backlog so long that only
    /// [`super::Net::peers`] can tell.
    fn tell(&mut self, event: NetEvent) {
        if self.backlog.len() >= MAX_BACKLOG {
            tracing::warn!("nobody takes the network's events: the oldest is dropped");
            self.backlog.pop_front();
        }
        self.backlog.push_back(event);
        self.flush();
    }

    /// Offers the caller an event that its sender repeats if it is lost. `false` if there is no room.
    fn offer(&mut self, event: NetEvent) -> bool {
        self.flush();
        self.backlog.is_empty() && self.outbox.try_send(event).is_ok()
    }

    fn flush(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.outbox.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    return;
                }
                // Nobody listens: there is nobody to keep events for.
                Err(mpsc::error::TrySendError::Closed(_)) => self.backlog.clear(),
            }
        }
    }
}

fn gossip_topic(topic: [u8; 32]) -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(blake3::Hash::from_bytes(topic).to_hex().as_str())
}

fn listen_reason(error: &libp2p::TransportError<io::Error>) -> String {
    match error {
        libp2p::TransportError::MultiaddrNotSupported(_) => {
            "this kind of address is not supported; it should look like /ip4/0.0.0.0/tcp/4001".to_owned()
        }
        libp2p::TransportError::Other(error) => error.to_string(),
    }
}
