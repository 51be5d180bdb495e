//! What the swarm reports: connections, announcements, questions and answers.

use std::{io, num::NonZeroU32, time::SystemTime};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify, mdns, ping,
    request_response::{self, InboundRequestId, OutboundFailure, ResponseChannel},
    swarm::{ConnectionId, SwarmEvent, dial_opts::DialOpts},
};
use tokio::time::Instant;

use super::{Connection, Dialling, Peer, Task};
use crate::net::{
    key_of,
    swarm::{
        MAX_ANNOUNCEMENT, MessageToken, NetError, NetEvent, RequestToken, Verdict, behaviour::BehaviourEvent,
        codec, error::dial_reason, join::peer_in,
    },
};

/// A message that breaks the framing costs this many.
const MALFORMED: f64 = 26.0;
/// A request beyond the peer's rate costs this many.
const TOO_OFTEN: f64 = 1.0;
/// Peers dialled from one round of local discovery.
const MAX_DISCOVERED: usize = 32;

impl Task {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Sync(event)) => self.on_sync(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.agent = Some(printable(&info.agent_version));
                }
            }
            // A peer behind a cut link keeps its socket for many minutes; its missing pings show it at once.
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                connection,
                result: Err(failure),
                ..
            })) if !matches!(failure, ping::Failure::Unsupported) => {
                self.swarm.close_connection(connection);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                self.on_discovered(found);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.push(address.clone());
                for reply in self.waiting.drain(..) {
                    let _ = reply.send(self.listening.clone());
                }
                self.tell(NetEvent::Listening(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listening.retain(|known| *known != address),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                if let Err(error) = reason {
                    tracing::warn!(?addresses, %error, "no longer listening");
                }
                self.listening.retain(|known| !addresses.contains(known));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "a listener failed once"),
            SwarmEvent::ConnectionEstablished {
                peer_id, connection_id, endpoint, num_established, ..
            } => {
                self.on_connected(peer_id, connection_id, &endpoint, num_established);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                let now = Instant::now();
                self.joins.failed(connection_id, &dial_reason(&error), now);
                if let Some(Dialling { addr, reply }) = self.dialling.remove(&connection_id) {
                    let expected = peer_in(&addr);
                    let _ = reply.send(Err(NetError::from_dial(addr, expected, &error)));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "an incoming connection failed");
            }
            _ => {}
        }
    }

    fn on_connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        established: NonZeroU32,
    ) {
        // The gate lets in no other kind.
        let Some(key) = key_of(&peer) else { return };
        let (addr, outbound) = (endpoint.get_remote_address().clone(), endpoint.is_dialer());
        self.joins.connected(id, peer);
        if let Some(Dialling { reply, .. }) = self.dialling.remove(&id) {
            let _ = reply.send(Ok(key));
        }
        let known = self.peers.entry(peer).or_insert_with(|| Peer {
            key,
            connections: Vec::new(),
            since: SystemTime::now(),
            agent: None,
        });
        known.connections.push(Connection { id, addr: addr.clone(), outbound });
        if established.get() == 1 {
            self.tell(NetEvent::Connected { peer: key, addr, outbound });
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, remaining: u32) {
        if remaining > 0 {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.connections.retain(|connection| connection.id != id);
            }
            return;
        }
        self.joins.lost(&peer, Instant::now());
        if let Some(known) = self.peers.remove(&peer) {
            self.tell(NetEvent::Disconnected { peer: known.key });
        }
    }

    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        for (peer, addr) in found.into_iter().take(MAX_DISCOVERED) {
            if peer != *self.swarm.local_peer_id() && !self.swarm.is_connected(&peer) {
                let opts = DialOpts::peer_id(peer).addresses(vec![addr]).allocate_new_port().build();
                // Being dialled already is fine.
                let _ = self.swarm.dial(opts);
            }
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.on_announcement(propagation_source, message_id, message);
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                let topic =
                    self.topics.iter().find(|(_, name)| name.hash() == topic).map(|(topic, _)| *topic);
                if let (Some(topic), Some(peer)) = (topic, key_of(&peer_id)) {
                    self.tell(NetEvent::Subscribed { peer, topic });
                }
            }
            _ => {}
        }
    }

    fn on_announcement(&mut self, from: PeerId, id: gossipsub::MessageId, message: gossipsub::Message) {
        let token = MessageToken { id, from };
        let topic =
            self.topics.iter().find(|(_, name)| name.hash() == message.topic).map(|(topic, _)| *topic);
        let (Some(topic), Some(key)) = (topic, key_of(&from)) else {
            self.report(&token, Verdict::Ignore);
            return;
        };
        if message.data.len() > MAX_ANNOUNCEMENT {
            self.report(&token, Verdict::Reject);
            return;
        }
        if !self.standings.may_announce(from, Instant::now()) {
            self.report(&token, Verdict::Ignore);
            return;
        }
        let event = NetEvent::Announcement { topic, from: key, token: token.clone(), bytes: message.data };
        if !self.offer(event) {
            tracing::debug!("too many events are waiting: an announcement was ignored");
            self.report(&token, Verdict::Ignore);
        }
    }

    fn on_sync(&mut self, event: request_response::Event<codec::Request, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request_id, request, channel } => {
                    self.on_request(peer, request_id, request, channel);
                }
                request_response::Message::Response { request_id, response } => {
                    if let Some((_, reply)) = self.asked.remove(&request_id) {
                        let _ = reply.send(Ok(response));
                    }
                }
            },
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                if matches!(&error, OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData)
                {
                    self.penalise(peer, MALFORMED, "its response breaks the protocol");
                }
                if let Some((_, reply)) = self.asked.remove(&request_id) {
                    let after = self.limits.request_timeout;
                    let _ = reply.send(Err(NetError::from_outbound(peer, after, error)));
                }
            }
            request_response::Event::InboundFailure { request_id, .. } => {
                self.asking.remove(&request_id);
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    /// Hands a request on, or drops its channel, which the asker sees as a refusal.
    fn on_request(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: codec::Request,
        channel: ResponseChannel<Vec<u8>>,
    ) {
        let Some(key) = key_of(&peer) else { return };
        let bytes = match request {
            codec::Request::Bytes(bytes) => bytes,
            codec::Request::Broken(reason) => {
                return self.penalise(peer, MALFORMED, &format!("it sent {reason}"));
            }
        };
        if !self.standings.may_request(peer, Instant::now()) {
            self.penalise(peer, TOO_OFTEN, "it asks too often");
            return;
        }
        let waiting = self.asking.values().filter(|(asking, _)| *asking == peer).count();
        if waiting >= self.limits.requests_in_flight
            || self.asking.len() >= self.limits.requests_in_flight_total
        {
            return;
        }
        let event = NetEvent::Request { peer: key, token: RequestToken(id), bytes };
        if self.offer(event) {
            self.asking.insert(id, (peer, channel));
        } else {
            tracing::debug!("too many events are waiting: a request was refused");
        }
    }
}

/// What a peer says of itself, fit to be shown.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}
