//! The protocols a node speaks over libp2p, and their limits.

use std::{io, time::Duration};

use libp2p::{
    PeerId, Transport, allow_block_list, connection_limits, dns, gossipsub, identify,
    identity::Keypair,
    mdns, memory_connection_limits, noise, ping, request_response,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, yamux,
};

use super::{Limits, MAX_TOPICS, NetError, codec, gate};

/// An RPC frame of gossipsub: many announcements, or the list of all topics a peer follows.
const MAX_FRAME: usize = 32 * 1024;
/// How long an announcement is recognised as already seen.
const SEEN_FOR: Duration = Duration::from_mins(5);
/// How long an unanswered ping is waited for. A peer that does not answer is disconnected, so a cut link shows.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// The time a TCP connection and its handshakes may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// Everything a node speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // Those that refuse come first, before the others make state for the connection.
    gate: gate::Gate,
    pub(super) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    connections: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(super) gossip: Gossip,
    pub(super) sync: request_response::Behaviour<codec::Codec>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

type Gossip = gossipsub::Behaviour<
    gossipsub::IdentityTransform,
    gossipsub::MaxCountSubscriptionFilter<gossipsub::AllowAllSubscriptionFilter>,
>;

impl Behaviour {
    pub(super) fn new(keypair: &Keypair, limits: &Limits, mdns: bool) -> Result<Self, NetError> {
        let us = keypair.public().to_peer_id();
        let mdns = if mdns {
            Some(mdns::tokio::Behaviour::new(mdns::Config::default(), us).map_err(NetError::Mdns)?)
        } else {
            None
        };
        Ok(Self {
            gate: gate::Gate,
            blocked: allow_block_list::Behaviour::default(),
            connections: connections(limits),
            memory: limits.memory.map_or_else(
                || memory_connection_limits::Behaviour::with_max_percentage(0.9),
                memory_connection_limits::Behaviour::with_max_bytes,
            ),
            gossip: gossip(keypair)?,
            sync: request_response::Behaviour::with_codec(
                codec::Codec,
                [(codec::PROTOCOL, request_response::ProtocolSupport::Full)],
                request_response::Config::default()
                    .with_request_timeout(limits.request_timeout)
                    .with_max_concurrent_streams(2 * limits.requests_in_flight),
            ),
            identify: identify::Behaviour::new(
                identify::Config::new("/flair/1".to_owned(), keypair.public())
                    .with_agent_version(concat!("flair/", env!("CARGO_PKG_VERSION")).to_owned())
                    // Our addresses are for whom the user gives them to, and others' are not dialled.
                    .with_hide_listen_addrs(true)
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_timeout(PING_TIMEOUT)),
            mdns: mdns.into(),
        })
    }
}

/// TCP with Noise and Yamux, host names through the system's resolver.
pub(super) fn transport(
    keypair: &Keypair,
) -> Result<libp2p::core::transport::Boxed<(PeerId, libp2p::core::muxing::StreamMuxerBox)>, NetError> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let noise = noise::Config::new(keypair).map_err(|error| NetError::Transport(io::Error::other(error)))?;
    // Without a resolver configured on the machine, addresses with host names are all that is lost.
    Ok(match dns::tokio::Transport::system(tcp) {
        Ok(dns) => upgrade(dns, noise),
        Err(error) => {
            tracing::warn!(%error, "no name resolver: only addresses with IP numbers can be dialled");
            upgrade(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)), noise)
        }
    })
}

fn upgrade<T>(
    transport: T,
    noise: noise::Config,
) -> libp2p::core::transport::Boxed<(PeerId, libp2p::core::muxing::StreamMuxerBox)>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: libp2p::futures::AsyncRead + libp2p::futures::AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    transport
        .upgrade(libp2p::core::upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE)
        .boxed()
}

fn connections(limits: &Limits) -> connection_limits::Behaviour {
    let total = limits.connections;
    connection_limits::Behaviour::new(
        connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(64))
            .with_max_pending_outgoing(Some(64))
            // A quarter is kept for the peers we chose ourselves.
            .with_max_established_incoming(Some(total - total / 4))
            .with_max_established(Some(total))
            .with_max_established_per_peer(Some(limits.connections_per_peer)),
    )
}

fn gossip(keypair: &Keypair) -> Result<Gossip, NetError> {
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix("/flair/gossip")
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(MAX_FRAME)
        .max_control_message_size(MAX_FRAME)
        .max_publish_messages(64)
        .max_control_messages_sent(500)
        .max_ihave_messages_heartbeat(10)
        .connection_handler_queue_len(1000)
        .duplicate_cache_time(SEEN_FOR)
        .heartbeat_initial_delay(Duration::from_millis(500))
        .retain_scores(16)
        .build()
        .map_err(|error| NetError::Gossip(error.to_string()))?;
    let filter = gossipsub::MaxCountSubscriptionFilter {
        filter: gossipsub::AllowAllSubscriptionFilter {},
        max_subscribed_topics: MAX_TOPICS,
        max_subscriptions_per_request: MAX_TOPICS,
    };
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(
        gossipsub::MessageAuthenticity::Signed(keypair.clone()),
        config,
        filter,
    )
    .map_err(|error| NetError::Gossip(error.to_owned()))?;
    gossip.with_peer_score(peer_score(), thresholds()).map_err(NetError::Gossip)?;
    Ok(gossip)
}

/// A message is its topic and payload, whoever signs the envelope. The topic is part of it, or else a payload
/// sent first on a wrong topic, and rejected there, would hide the same payload on the right one.
fn message_id(message: &gossipsub::Message) -> gossipsub::MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes()).update(&[0]).update(&message.data);
    gossipsub::MessageId::new(hasher.finalize().as_bytes())
}

/// Scores count what a peer did wrong. Little can be earned: time in the mesh, which a liar collects as well
/// as anybody, earns nothing, and quiet topics are normal here, so silence costs nothing.
fn peer_score() -> gossipsub::PeerScoreParams {
    gossipsub::PeerScoreParams {
        topic_score_cap: 5.0,
        // Many sites stand behind one address; the connection limits bound how many peers come from there.
        ip_colocation_factor_weight: 0.0,
        app_specific_weight: 1.0,
        behaviour_penalty_weight: -5.0,
        behaviour_penalty_threshold: 4.0,
        behaviour_penalty_decay: 0.95,
        slow_peer_weight: 0.0,
        retain_score: Duration::from_hours(1),
        ..gossipsub::PeerScoreParams::default()
    }
}

/// The score of one topic: each rejected message costs 20, twice as many cost four times as much, and half is
/// forgiven after ten minutes.
pub(super) fn topic_score() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.9,
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: 0.5_f64.powf(1.0 / 600.0),
        ..gossipsub::TopicScoreParams::default()
    }
}

/// One rejected message and a peer's gossip is no longer asked for, two and it is told nothing, four and it is not
/// listened to. (At the fourth it is banned, too, unless its messages were so broken that we never saw them.)
fn thresholds() -> gossipsub::PeerScoreThresholds {
    gossipsub::PeerScoreThresholds {
        gossip_threshold: -10.0,
        publish_threshold: -40.0,
        graylist_threshold: -200.0,
        accept_px_threshold: 1000.0,
        opportunistic_graft_threshold: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, data: &[u8]) -> gossipsub::Message {
        gossipsub::Message {
            source: None,
            data: data.to_vec(),
            sequence_number: None,
            topic: gossipsub::TopicHash::from_raw(topic),
        }
    }

    #[test]
    fn the_same_payload_on_two_topics_is_two_messages() {
        assert_eq!(message_id(&message("a", b"x")), message_id(&message("a", b"x")));
        assert_ne!(message_id(&message("a", b"x")), message_id(&message("b", b"x")));
        assert_ne!(message_id(&message("a", b"x")), message_id(&message("a", b"y")));
    }

    #[test]
    fn the_score_parameters_are_accepted_and_a_liar_cannot_earn_its_way_out() {
        let topic = topic_score();
        topic.validate().expect("valid");
        peer_score().validate().expect("valid");
        thresholds().validate().expect("valid");
        let earned = topic.first_message_deliveries_weight * topic.first_message_deliveries_cap;
        assert!(earned + topic.invalid_message_deliveries_weight < thresholds().gossip_threshold);
        assert!(
            topic.invalid_message_deliveries_weight * 9.0 > thresholds().graylist_threshold,
            "the fourth is seen"
        );
        assert!(earned + topic.invalid_message_deliveries_weight * 16.0 < thresholds().graylist_threshold);
    }
}
