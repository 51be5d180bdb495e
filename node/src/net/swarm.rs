//! Presence, announcements and questions between peers, over libp2p.
//!
//! One task owns the libp2p swarm. [`start`] begins it and returns a handle, [`Net`], which talks to it through
//! a bounded channel, and the receiver of its events. The task never waits for the receiver of events: when
//! that is full, announcements and requests are turned away (both are repeated by whoever sent them), so a slow
//! caller can never block the swarm, nor deadlock by calling [`Net`] between two events.

mod behaviour;
mod codec;
mod error;
mod gate;
mod join;
mod standing;
mod task;

use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId, gossipsub, identity::Keypair, request_response::InboundRequestId};
use tokio::sync::{mpsc, oneshot};

use self::{behaviour::Behaviour, task::Task};
pub use self::{error::NetError, standing::Rate};
use crate::net::NodeKey;

/// The largest announcement, in bytes.
pub const MAX_ANNOUNCEMENT: usize = 1024;
/// The largest request, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The largest response, in bytes.
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// The most topics one node follows.
pub const MAX_TOPICS: usize = 256;
/// A peer that has cost this many points is banned.
pub const BAN_AT: f64 = 100.0;
/// How long a ban lasts.
pub const BAN_FOR: Duration = Duration::from_hours(1);

/// Events waiting for their receiver.
const EVENTS: usize = 1024;
/// Commands waiting for the task.
const COMMANDS: usize = 256;

/// How to start.
#[derive(Clone)]
pub struct SwarmConfig {
    /// The node's ed25519 secret key.
    pub secret: [u8; 32],
    /// Addresses to listen on, such as `/ip4/0.0.0.0/tcp/0`. Empty: dial only.
    pub listen: Vec<Multiaddr>,
    /// Addresses to keep connected to: dialled now, and again with growing waits whenever their peer is gone.
    pub join: Vec<Multiaddr>,
    /// Announce this node on the local network, and dial those found there.
    pub mdns: bool,
    /// What peers may take.
    pub limits: Limits,
}

impl SwarmConfig {
    /// A node under `secret` that listens on `listen`, with everything else as usual.
    pub fn new(secret: [u8; 32], listen: Vec<Multiaddr>) -> Self {
        Self { secret, listen, join: Vec::new(), mdns: false, limits: Limits::default() }
    }
}

impl std::fmt::Debug for SwarmConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret stays out of logs.
        f.debug_struct("SwarmConfig")
            .field("listen", &self.listen)
            .field("join", &self.join)
            .field("mdns", &self.mdns)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What peers may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in all; a quarter of them is kept for those this node opened.
    pub connections: u32,
    /// Connections with one peer.
    pub connections_per_peer: u32,
    /// Memory of this process, in bytes, beyond which no connection is accepted; `None`: 90 % of the machine's.
    pub memory: Option<usize>,
    /// Requests of one peer, and to one peer, waiting for their answer.
    pub requests_in_flight: usize,
    /// Requests of all peers waiting for their answer.
    pub requests_in_flight_total: usize,
    /// How often one peer may ask.
    pub requests: Rate,
    /// How often one peer may announce.
    pub announcements: Rate,
    /// How long a request waits for its answer.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_peer: 4,
            memory: None,
            requests_in_flight: 16,
            requests_in_flight_total: 128,
            requests: Rate { per_second: 50.0, burst: 200.0 },
            announcements: Rate { per_second: 100.0, burst: 1000.0 },
            request_timeout: Duration::from_secs(20),
        }
    }
}

/// What happens on the network.
///
/// Dropping a [`RequestToken`] unanswered makes the asker wait until its time is up: always
/// [`respond`](Net::respond) or [`refuse`](Net::refuse).
#[derive(Debug)]
pub enum NetEvent {
    /// This node can be reached at an address (without `/p2p/…`).
    Listening(Multiaddr),
    /// The first connection with a peer is there.
    Connected {
        /// Its key, authenticated by the handshake.
        peer: NodeKey,
        /// The address the connection goes to.
        addr: Multiaddr,
        /// Whether this node opened it.
        outbound: bool,
    },
    /// The last connection with a peer is gone.
    Disconnected {
        /// Its key.
        peer: NodeKey,
    },
    /// A peer follows one of the topics this node follows.
    Subscribed {
        /// Its key.
        peer: NodeKey,
        /// The topic.
        topic: [u8; 32],
    },
    /// An announcement, not forwarded until [`Net::report`] says so, within about five seconds.
    Announcement {
        /// The topic.
        topic: [u8; 32],
        /// The peer it came from, which need not be its author.
        from: NodeKey,
        /// To report the verdict with.
        token: MessageToken,
        /// At most [`MAX_ANNOUNCEMENT`] bytes.
        bytes: Vec<u8>,
    },
    /// A peer asks.
    Request {
        /// Its key.
        peer: NodeKey,
        /// To answer with.
        token: RequestToken,
        /// At most [`MAX_REQUEST`] bytes.
        bytes: Vec<u8>,
    },
    /// A peer has been banned.
    Banned(Ban),
}

/// Names an announcement when reporting the verdict on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageToken {
    id: gossipsub::MessageId,
    from: PeerId,
}

/// Names a request when answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestToken(InboundRequestId);

/// What to do with an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Good: pass it on.
    Accept,
    /// Invalid, and whoever passed it on could have known: do not pass it on, and take points for it.
    Reject,
    /// Neither: do not pass it on.
    Ignore,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    /// Its key.
    pub key: NodeKey,
    /// The addresses the connections go to.
    pub addrs: Vec<Multiaddr>,
    /// When the first of them began.
    pub connected_since: SystemTime,
    /// Whether one of the connections is direct, not through a relay.
    pub direct: bool,
    /// Whether this node opened one of the connections.
    pub outbound: bool,
    /// The program it says it runs: printable, at most 64 characters, unverified.
    pub agent: Option<String>,
    /// The topics it follows, of those this node follows.
    pub topics: Vec<[u8; 32]>,
    /// What it has cost, in points; [`BAN_AT`] bans.
    pub score: f64,
}

/// A joined address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinInfo {
    /// As it was given.
    pub addr: Multiaddr,
    /// The peer that answers there, once known.
    pub peer: Option<NodeKey>,
    /// Whether it is connected.
    pub connected: bool,
    /// Failed attempts since it last was.
    pub failures: u32,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// A banned peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Its key.
    pub key: NodeKey,
    /// What it did last.
    pub reason: String,
    /// When the ban ends by itself.
    pub until: SystemTime,
}

/// What the handle asks of the task.
enum Command {
    ListenAddrs(oneshot::Sender<Vec<Multiaddr>>),
    Dial(Multiaddr, Reply<NodeKey>),
    Join(Multiaddr, Reply<()>),
    Leave(Multiaddr, oneshot::Sender<bool>),
    Joins(oneshot::Sender<Vec<JoinInfo>>),
    Disconnect(PeerId),
    Subscribe([u8; 32], Reply<()>),
    Unsubscribe([u8; 32], oneshot::Sender<bool>),
    Publish([u8; 32], Vec<u8>, Reply<bool>),
    Request(PeerId, Vec<u8>, Reply<Vec<u8>>),
    Respond(RequestToken, Vec<u8>, Reply<()>),
    Refuse(RequestToken),
    Report(MessageToken, Verdict, oneshot::Sender<bool>),
    Penalise(PeerId, f64, String),
    Ban(PeerId, String),
    Bans(oneshot::Sender<Vec<Ban>>),
    Lift(PeerId, oneshot::Sender<bool>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Shutdown(oneshot::Sender<()>),
}

type Reply<T> = oneshot::Sender<Result<T, NetError>>;

/// Starts the network. Must be called within a tokio runtime.
///
/// # Errors
/// If an address cannot be listened on or dialled, or a protocol cannot be set up.
pub fn start(config: SwarmConfig) -> Result<(Net, mpsc::Receiver<NetEvent>), NetError> {
    let keypair =
        Keypair::ed25519_from_bytes(config.secret).map_err(|error| NetError::Secret(error.to_string()))?;
    let us = keypair.public().to_peer_id();
    let key = crate::net::key_of(&us).ok_or_else(|| NetError::Secret(us.to_string()))?;
    let behaviour = Behaviour::new(&keypair, &config.limits, config.mdns)?;
    // Peers stay connected while there is nothing to say: presence is the point. The limits bound how many.
    let swarm = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_hours(24 * 365));
    let swarm = libp2p::Swarm::new(behaviour::transport(&keypair)?, behaviour, us, swarm);

    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (outbox, events) = mpsc::channel(EVENTS);
    let task = Task::new(swarm, config, inbox, outbox)?;
    tokio::spawn(task.run());
    Ok((Net { key, peer_id: us, commands }, events))
}

/// A handle to the network task; clones share it. The task ends with [`shutdown`](Self::shutdown), or when the
/// last handle is gone.
#[derive(Debug, Clone)]
pub struct Net {
    key: NodeKey,
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
}

impl Net {
    /// This node's public key.
    pub fn key(&self) -> NodeKey {
        self.key
    }

    /// This node's name in multiaddrs: the end of `/ip4/…/tcp/…/p2p/12D3Koo…`.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The addresses this node can be reached at, without `/p2p/…`. Waits until the first is known if any
    /// address is listened on.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn listen_addrs(&self) -> Result<Vec<Multiaddr>, NetError> {
        self.ask(Command::ListenAddrs).await
    }

    /// Connects to `addr` and returns the key of the peer there. With `/p2p/…` at its end, only that peer will do.
    ///
    /// # Errors
    /// If nothing answers there, another peer does, or a limit or a ban forbids it.
    pub async fn dial(&self, addr: Multiaddr) -> Result<NodeKey, NetError> {
        self.try_ask(|reply| Command::Dial(addr, reply)).await
    }

    /// Keeps connected to `addr` from now on, dialling it again with growing waits whenever its peer is gone.
    ///
    /// # Errors
    /// If there are too many such addresses, or this is the node's own.
    pub async fn join(&self, addr: Multiaddr) -> Result<(), NetError> {
        self.try_ask(|reply| Command::Join(addr, reply)).await
    }

    /// No longer keeps connected to `addr`; an existing connection stays. `false` if it was not joined.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn leave(&self, addr: Multiaddr) -> Result<bool, NetError> {
        self.ask(|reply| Command::Leave(addr, reply)).await
    }

    /// The joined addresses and how each is doing.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn joins(&self) -> Result<Vec<JoinInfo>, NetError> {
        self.ask(Command::Joins).await
    }

    /// Closes all connections with `peer`.
    ///
    /// # Errors
    /// If the key is invalid or the network has stopped.
    pub async fn disconnect(&self, peer: NodeKey) -> Result<(), NetError> {
        self.send(Command::Disconnect(crate::net::peer_id(&peer)?)).await
    }

    /// Follows `topic`: its announcements become events. Following it twice is following it once.
    ///
    /// # Errors
    /// If [`MAX_TOPICS`] are followed already.
    pub async fn subscribe(&self, topic: [u8; 32]) -> Result<(), NetError> {
        self.try_ask(|reply| Command::Subscribe(topic, reply)).await
    }

    /// No longer follows `topic`. `false` if it was not followed.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn unsubscribe(&self, topic: [u8; 32]) -> Result<bool, NetError> {
        self.ask(|reply| Command::Unsubscribe(topic, reply)).await
    }

    /// Announces `bytes` on `topic`. `false` if nobody who follows it is connected, or the very same was
    /// announced within the last five minutes: an announcement is a hint, never the only way to learn.
    ///
    /// # Errors
    /// If `bytes` are more than [`MAX_ANNOUNCEMENT`], or every peer's queue is full.
    pub async fn publish(&self, topic: [u8; 32], bytes: Vec<u8>) -> Result<bool, NetError> {
        bounded("announcement", &bytes, MAX_ANNOUNCEMENT)?;
        self.try_ask(|reply| Command::Publish(topic, bytes, reply)).await
    }

    /// Asks a connected peer and waits for its answer of at most [`MAX_RESPONSE`] bytes.
    ///
    /// # Errors
    /// If `bytes` are more than [`MAX_REQUEST`], the peer is not connected, does not answer in time, or answers
    /// with more than it may.
    pub async fn request(&self, peer: NodeKey, bytes: Vec<u8>) -> Result<Vec<u8>, NetError> {
        bounded("request", &bytes, MAX_REQUEST)?;
        let peer = crate::net::peer_id(&peer)?;
        self.try_ask(|reply| Command::Request(peer, bytes, reply)).await
    }

    /// Answers a request.
    ///
    /// # Errors
    /// If `bytes` are more than [`MAX_RESPONSE`], or the asker is gone or no longer waiting.
    pub async fn respond(&self, token: RequestToken, bytes: Vec<u8>) -> Result<(), NetError> {
        bounded("response", &bytes, MAX_RESPONSE)?;
        self.try_ask(|reply| Command::Respond(token, bytes, reply)).await
    }

    /// Declines to answer a request: the asker learns at once that there is no answer.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn refuse(&self, token: RequestToken) -> Result<(), NetError> {
        self.send(Command::Refuse(token)).await
    }

    /// Says what to do with an announcement. `false` if it came too late: the message is no longer kept.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn report(&self, token: MessageToken, verdict: Verdict) -> Result<bool, NetError> {
        self.ask(|reply| Command::Report(token, verdict, reply)).await
    }

    /// Takes `points` from `peer` for `reason`. At [`BAN_AT`] it is banned for [`BAN_FOR`]; half of the points
    /// are forgiven every ten minutes.
    ///
    /// # Errors
    /// If the key is invalid or the network has stopped.
    pub async fn penalise(
        &self,
        peer: NodeKey,
        points: f64,
        reason: impl Into<String>,
    ) -> Result<(), NetError> {
        self.send(Command::Penalise(crate::net::peer_id(&peer)?, points, reason.into())).await
    }

    /// Bans `peer` for [`BAN_FOR`]: its connections are closed and new ones refused.
    ///
    /// # Errors
    /// If the key is invalid or the network has stopped.
    pub async fn ban(&self, peer: NodeKey, reason: impl Into<String>) -> Result<(), NetError> {
        self.send(Command::Ban(crate::net::peer_id(&peer)?, reason.into())).await
    }

    /// The banned peers.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn bans(&self) -> Result<Vec<Ban>, NetError> {
        self.ask(Command::Bans).await
    }

    /// Ends the ban of `peer` and forgets what it has cost. `false` if it was not banned.
    ///
    /// # Errors
    /// If the key is invalid or the network has stopped.
    pub async fn lift(&self, peer: NodeKey) -> Result<bool, NetError> {
        let peer = crate::net::peer_id(&peer)?;
        self.ask(|reply| Command::Lift(peer, reply)).await
    }

    /// The connected peers, ordered by key.
    ///
    /// # Errors
    /// If the network has stopped.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, NetError> {
        self.ask(Command::Peers).await
    }

    /// Closes all connections and ends the task; returns when both are done. Stopping twice is stopping once.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Command::Shutdown(reply)).await.is_ok() {
            // An error means the task ended before it could say so.
            let _ = done.await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), NetError> {
        self.commands.send(command).await.map_err(|_| NetError::Stopped)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| NetError::Stopped)
    }

    async fn try_ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, NetError> {
        self.ask(command).await?
    }
}

fn bounded(what: &'static str, bytes: &[u8], limit: usize) -> Result<(), NetError> {
    if bytes.len() > limit {
        return Err(NetError::TooLarge { what, length: bytes.len(), limit });
    }
    Ok(())
}
