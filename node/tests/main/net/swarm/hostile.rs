//! Peers that speak the protocols and break their rules.

use std::io;

use flair_node::net::swarm::{MAX_ANNOUNCEMENT, MAX_REQUEST, NetEvent, Verdict};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder,
    futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt},
    gossipsub, identity, noise, request_response,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

use super::{Node, TOPIC, in_time};

fn swarm<B: NetworkBehaviour>(make: impl FnOnce(&identity::Keypair) -> B) -> Swarm<B> {
    SwarmBuilder::with_existing_identity(identity::Keypair::generate_ed25519())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("a transport")
        .with_behaviour(make)
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(std::time::Duration::from_mins(1)))
        .build()
}

async fn connect<B: NetworkBehaviour>(swarm: &mut Swarm<B>, addr: &Multiaddr) {
    swarm.dial(addr.clone()).expect("a dial");
    in_time("a connection", async {
        while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    })
    .await;
}

/// Sends its bytes as they are, whatever they claim.
#[derive(Clone, Default)]
struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = ();

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
    ) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
    ) -> io::Result<()> {
        Ok(())
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        (): (),
    ) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_that_claims_too_much_costs_its_sender_until_it_is_banned() {
    let mut node = Node::start(1).await;
    let mut liar = swarm(|_| {
        let protocol = (StreamProtocol::new("/flair/sync/1"), request_response::ProtocolSupport::Outbound);
        request_response::Behaviour::with_codec(Raw, [protocol], request_response::Config::default())
    });
    connect(&mut liar, &node.addr).await;
    let to = node.net.peer_id();
    for length in [u32::MAX, MAX_REQUEST as u32 + 1, 0x8000_0000, 1 << 20] {
        liar.behaviour_mut().send_request(&to, length.to_be_bytes().to_vec());
    }
    let running = tokio::spawn(async move {
        while !matches!(liar.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {}
    });
    let banned = node.banned().await;
    assert_eq!(node.net.bans().await.expect("running")[0].key, banned);
    in_time("the liar is out", running).await.expect("task");
    assert!(node.net.peers().await.expect("running").is_empty());
}

#[tokio::test]
async fn an_announcement_beyond_the_limit_is_rejected_without_asking_the_caller() {
    let mut node = Node::start(1).await;
    node.net.subscribe(TOPIC).await.expect("subscribed");
    let topic = gossipsub::IdentTopic::new(blake3::Hash::from_bytes(TOPIC).to_hex().as_str());
    let mut liar = swarm(|key| {
        let config = gossipsub::ConfigBuilder::default()
            .protocol_id_prefix("/flair/gossip")
            .build()
            .expect("a config");
        gossipsub::Behaviour::<gossipsub::IdentityTransform, gossipsub::AllowAllSubscriptionFilter>::new(
            gossipsub::MessageAuthenticity::Signed(key.clone()),
            config,
        )
        .expect("a behaviour")
    });
    connect(&mut liar, &node.addr).await;
    in_time("a subscription", async {
        while !matches!(
            liar.select_next_some().await,
            SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })
        ) {}
    })
    .await;
    for length in [MAX_ANNOUNCEMENT + 1, 10_000, 3] {
        liar.behaviour_mut().publish(topic.clone(), vec![1; length]).expect("published");
    }
    let running = tokio::spawn(async move {
        loop {
            liar.select_next_some().await;
        }
    });
    // Only the short one gets through.
    let (from, token, bytes) = node.announcement().await;
    assert_eq!(bytes, [1; 3]);
    node.net.report(token, Verdict::Ignore).await.expect("running");
    let score = node.net.peers().await.expect("running").iter().find(|p| p.key == from).map(|p| p.score);
    assert!(score.is_some_and(|score| score > 45.0), "{score:?}");
    running.abort();
}

#[tokio::test]
async fn unsigned_announcements_are_not_taken() {
    let mut node = Node::start(1).await;
    node.net.subscribe(TOPIC).await.expect("subscribed");
    let topic = gossipsub::IdentTopic::new(blake3::Hash::from_bytes(TOPIC).to_hex().as_str());
    let mut stranger = swarm(|_| {
        let config = gossipsub::ConfigBuilder::default()
            .protocol_id_prefix("/flair/gossip")
            .validation_mode(gossipsub::ValidationMode::None)
            .build()
            .expect("a config");
        gossipsub::Behaviour::<gossipsub::IdentityTransform, gossipsub::AllowAllSubscriptionFilter>::new(
            gossipsub::MessageAuthenticity::Anonymous,
            config,
        )
        .expect("a behaviour")
    });
    connect(&mut stranger, &node.addr).await;
    in_time("a subscription", async {
        while !matches!(
            stranger.select_next_some().await,
            SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })
        ) {}
    })
    .await;
    stranger.behaviour_mut().publish(topic, b"unsigned".to_vec()).expect("published");
    let running = tokio::spawn(async move {
        loop {
            stranger.select_next_some().await;
        }
    });
    // A signed one by another node, sent later, is the first that arrives.
    let mut honest = Node::start(2).await;
    honest.net.subscribe(TOPIC).await.expect("subscribed");
    honest.net.dial(node.addr.clone()).await.expect("connected");
    honest.subscribed(node.key()).await;
    honest.net.publish(TOPIC, b"signed".to_vec()).await.expect("published");
    let pick = |e| if let NetEvent::Announcement { bytes, .. } = e { Some(bytes) } else { None };
    assert_eq!(node.next("an announcement", pick).await, b"signed");
    running.abort();
}
