//! Presence, announcements and questions.

mod hostile;

use flair_node::net::{
    Multiaddr, NodeKey,
    swarm::{
        Limits, MAX_ANNOUNCEMENT, MAX_REQUEST, MAX_RESPONSE, MessageToken, Net, NetError, NetEvent, Rate,
        RequestToken, SwarmConfig, Verdict, start,
    },
};
use tokio::sync::mpsc;

use super::{in_time, secret};

const TOPIC: [u8; 32] = [7; 32];

struct Node {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    addr: Multiaddr,
}

impl Node {
    async fn start(number: u8) -> Self {
        Self::with(config(number)).await
    }

    async fn with(config: SwarmConfig) -> Self {
        let (net, events) = start(config).expect("the network starts");
        let addrs = in_time("an address", net.listen_addrs()).await.expect("running");
        let addr = addrs.first().expect("an address").clone().with_p2p(net.peer_id()).expect("a peer id");
        Self { net, events, addr }
    }

    fn key(&self) -> NodeKey {
        self.net.key()
    }

    /// The next event that `pick` takes; others are skipped.
    async fn next<T>(&mut self, what: &str, mut pick: impl FnMut(NetEvent) -> Option<T>) -> T {
        in_time(what, async {
            loop {
                let event = self.events.recv().await.expect("events");
                if let Some(picked) = pick(event) {
                    return picked;
                }
            }
        })
        .await
    }

    async fn connected(&mut self, to: NodeKey) {
        self.next("a connection", |e| {
            matches!(e, NetEvent::Connected { peer, .. } if peer == to).then_some(())
        })
        .await;
    }

    async fn disconnected(&mut self, from: NodeKey) {
        self.next("a goodbye", |e| {
            matches!(e, NetEvent::Disconnected { peer } if peer == from).then_some(())
        })
        .await;
    }

    async fn subscribed(&mut self, who: NodeKey) {
        let pick = |e| {
            matches!(e, NetEvent::Subscribed { peer, topic } if peer == who && topic == TOPIC).then_some(())
        };
        self.next("a follower", pick).await;
    }

    async fn announcement(&mut self) -> (NodeKey, MessageToken, Vec<u8>) {
        let pick = |e| match e {
            NetEvent::Announcement { topic, from, token, bytes } if topic == TOPIC => {
                Some((from, token, bytes))
            }
            _ => None,
        };
        self.next("an announcement", pick).await
    }

    async fn request(&mut self) -> (NodeKey, RequestToken, Vec<u8>) {
        let pick = |e| match e {
            NetEvent::Request { peer, token, bytes } => Some((peer, token, bytes)),
            _ => None,
        };
        self.next("a request", pick).await
    }

    async fn banned(&mut self) -> NodeKey {
        self.next("a ban", |e| if let NetEvent::Banned(ban) = e { Some(ban.key) } else { None }).await
    }
}

fn config(number: u8) -> SwarmConfig {
    SwarmConfig::new(secret(number), vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")])
}

/// Two nodes that follow the topic, connected, each knowing that the other follows it.
async fn pair(a: u8, b: u8) -> (Node, Node) {
    let (mut a, mut b) = (Node::start(a).await, Node::start(b).await);
    a.net.subscribe(TOPIC).await.expect("subscribed");
    b.net.subscribe(TOPIC).await.expect("subscribed");
    a.net.dial(b.addr.clone()).await.expect("connected");
    a.subscribed(b.key()).await;
    b.subscribed(a.key()).await;
    (a, b)
}

#[tokio::test]
async fn a_dial_returns_the_key_and_both_sides_are_told() {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    assert_eq!(a.net.dial(b.addr.clone()).await.expect("connected"), b.key());
    let outbound = a.next("a connection", |e| match e {
        NetEvent::Connected { peer, outbound, .. } => Some((peer, outbound)),
        _ => None,
    });
    assert_eq!(outbound.await, (b.key(), true));
    b.connected(a.key()).await;
    assert_eq!(a.net.dial(b.addr.clone()).await.expect("connected already"), b.key());
    let peers = a.net.peers().await.expect("running");
    assert_eq!(
        peers.iter().map(|peer| (peer.key, peer.direct, peer.outbound)).collect::<Vec<_>>(),
        [(b.key(), true, true)]
    );
    a.net.shutdown().await;
    b.disconnected(a.key()).await;
    assert!(matches!(a.net.peers().await, Err(NetError::Stopped)));
}

#[tokio::test]
async fn a_dial_that_fails_says_why() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let nobody: Multiaddr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("/ip4/127.0.0.1/tcp/{}", free.local_addr().expect("an address").port())
            .parse()
            .expect("an address")
    };
    let error = a.net.dial(nobody).await.expect_err("nobody is there").to_string();
    assert!(error.contains("refused") && error.starts_with("cannot connect to /ip4/127.0.0.1"), "{error}");

    let somebody_else = Node::start(3).await.net.peer_id();
    let mut addr = b.addr.clone();
    addr.pop();
    let error =
        a.net.dial(addr.with_p2p(somebody_else).expect("an address")).await.expect_err("another node");
    assert!(matches!(&error, NetError::WrongPeer { found, .. } if **found == b.net.peer_id()), "{error}");

    let error = a.net.dial(a.addr.clone()).await.expect_err("this node itself");
    assert!(matches!(error, NetError::Own(_)), "{error}");
    let error = a
        .net
        .dial("/ip4/127.0.0.1/udp/1".parse().expect("an address"))
        .await
        .expect_err("not tcp")
        .to_string();
    assert!(error.ends_with("Unsupported resolved address: /ip4/127.0.0.1/udp/1"), "{error}");
    let error = a.net.request([9; 32], vec![]).await.expect_err("not connected").to_string();
    assert!(error.contains("is not connected") || error.contains("not an ed25519"), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_named_when_it_cannot_be_listened_on() {
    let a = Node::start(1).await;
    let mut addr = a.addr.clone();
    addr.pop();
    let error = start(SwarmConfig::new(secret(2), vec!["/ip4/127.0.0.1/udp/5".parse().expect("an address")]));
    assert!(error.expect_err("no transport").to_string().contains("cannot listen on /ip4/127.0.0.1/udp/5"));
}

#[tokio::test]
async fn an_announcement_is_forwarded_once_it_is_accepted_and_not_before() {
    let (a, mut b) = pair(1, 2).await;
    let mut c = Node::start(3).await;
    c.net.subscribe(TOPIC).await.expect("subscribed");
    c.net.dial(b.addr.clone()).await.expect("connected");
    c.subscribed(b.key()).await;
    b.subscribed(c.key()).await;

    for (bytes, verdict) in
        [(b"ignored", Verdict::Ignore), (b"refused", Verdict::Reject), (b"granted", Verdict::Accept)]
    {
        assert!(a.net.publish(TOPIC, bytes.to_vec()).await.expect("published"));
        let (from, token, got) = b.announcement().await;
        assert_eq!((from, got.as_slice()), (a.key(), bytes.as_slice()));
        assert!(b.net.report(token, verdict).await.expect("running"));
    }
    // The first to arrive is the only one that was accepted, and it comes from the node between.
    let (from, token, got) = c.announcement().await;
    assert_eq!((from, got.as_slice()), (b.key(), b"granted".as_slice()));
    assert!(c.net.report(token, Verdict::Accept).await.expect("running"));
    // The refused one has cost the node it came from.
    let score = b.net.peers().await.expect("running").iter().find(|p| p.key == a.key()).map(|p| p.score);
    assert!(score.is_some_and(|score| score > 20.0), "{score:?}");
    // Saying the same again reaches nobody.
    assert!(!a.net.publish(TOPIC, b"granted".to_vec()).await.expect("published"));
    a.net.shutdown().await;
}

#[tokio::test]
async fn an_announcement_to_nobody_is_no_error_and_a_long_one_is() {
    let a = Node::start(1).await;
    assert!(!a.net.publish(TOPIC, vec![0; MAX_ANNOUNCEMENT]).await.expect("nobody listens"));
    let error = a.net.publish(TOPIC, vec![0; MAX_ANNOUNCEMENT + 1]).await.expect_err("too long");
    assert!(matches!(error, NetError::TooLarge { length: 1025, limit: 1024, .. }), "{error}");
}

#[tokio::test]
async fn the_largest_announcement_request_and_response_arrive_whole() {
    let (a, mut b) = pair(1, 2).await;
    let largest: Vec<u8> = (0..MAX_ANNOUNCEMENT).map(|i| i as u8).collect();
    a.net.publish(TOPIC, largest.clone()).await.expect("published");
    assert_eq!(b.announcement().await.2, largest);

    let (question, answer) = (vec![5; MAX_REQUEST], vec![6; MAX_RESPONSE]);
    let (net, to, asked) = (a.net.clone(), b.key(), question.clone());
    let asking = tokio::spawn(async move { net.request(to, asked).await });
    let (peer, token, got) = b.request().await;
    assert_eq!((peer, got), (a.key(), question));
    b.net.respond(token, answer.clone()).await.expect("answered");
    assert_eq!(in_time("an answer", asking).await.expect("task").expect("answer"), answer);
    let error = b.net.respond(token, vec![]).await.expect_err("answered already");
    assert!(matches!(error, NetError::TooLate), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let (a, mut b) = pair(1, 2).await;
    let error = a.net.request(b.key(), vec![0; MAX_REQUEST + 1]).await.expect_err("too large");
    assert!(matches!(error, NetError::TooLarge { .. }), "{error}");
    let (net, to) = (a.net.clone(), b.key());
    let asking = tokio::spawn(async move { net.request(to, vec![1]).await });
    let (_, token, _) = b.request().await;
    let error = b.net.respond(token, vec![0; MAX_RESPONSE + 1]).await.expect_err("too large");
    assert!(matches!(error, NetError::TooLarge { .. }), "{error}");
    b.net.refuse(token).await.expect("running");
    let error = in_time("a refusal", asking).await.expect("task").expect_err("refused").to_string();
    assert!(error.contains("declined"), "{error}");
}

#[tokio::test]
async fn who_asks_more_than_its_share_is_refused_the_rest() {
    let limits = Limits { requests: Rate { per_second: 0.001, burst: 6.0 }, ..Limits::default() };
    let (a, mut b) = (Node::start(1).await, Node::with(SwarmConfig { limits, ..config(2) }).await);
    a.net.dial(b.addr.clone()).await.expect("connected");
    let (net, to) = (a.net.clone(), b.key());
    let asking = tokio::spawn(async move {
        let mut answers = Vec::new();
        for i in 0..10 {
            answers.push(net.request(to, vec![i]).await.is_ok());
        }
        answers
    });
    for _ in 0..6 {
        let (_, token, bytes) = b.request().await;
        b.net.respond(token, bytes).await.expect("answered");
    }
    let answers = in_time("answers", asking).await.expect("task");
    assert_eq!(answers.iter().filter(|answered| **answered).count(), 6);
    let score = b.net.peers().await.expect("running")[0].score;
    assert!((3.5..=4.1).contains(&score), "{score}");
}

#[tokio::test]
async fn requests_waiting_for_an_answer_are_bounded_where_they_are_asked() {
    let limits = Limits { requests_in_flight: 3, ..Limits::default() };
    let (a, mut b) = (Node::with(SwarmConfig { limits, ..config(1) }).await, Node::start(2).await);
    a.net.dial(b.addr.clone()).await.expect("connected");
    let ask = |i| {
        let (net, to) = (a.net.clone(), b.key());
        tokio::spawn(async move { net.request(to, vec![i]).await })
    };
    let asking = [ask(0), ask(1), ask(2)];
    let asked = [b.request().await, b.request().await, b.request().await];
    let error = in_time("a refusal", a.net.request(b.key(), vec![3])).await.expect_err("too many");
    assert!(matches!(error, NetError::Busy(_)), "{error}");
    for (_, token, bytes) in asked {
        b.net.respond(token, bytes).await.expect("answered");
    }
    for (i, task) in asking.into_iter().enumerate() {
        assert_eq!(in_time("an answer", task).await.expect("task").expect("an answer"), [i as u8]);
    }
}

#[tokio::test]
async fn requests_waiting_for_an_answer_are_bounded_where_they_arrive() {
    let limits = Limits { requests_in_flight: 2, ..Limits::default() };
    let (a, mut b) = (Node::start(1).await, Node::with(SwarmConfig { limits, ..config(2) }).await);
    a.net.dial(b.addr.clone()).await.expect("connected");
    let (done, mut outcomes) = mpsc::channel(8);
    for i in 0..4 {
        let (net, to, done) = (a.net.clone(), b.key(), done.clone());
        tokio::spawn(
            async move { done.send(net.request(to, vec![i]).await.map_err(|e| e.to_string())).await },
        );
    }
    let waiting = [b.request().await, b.request().await];
    // The other two are refused at once, while the first two wait.
    for _ in 0..2 {
        let outcome = in_time("a refusal", outcomes.recv()).await.expect("an outcome");
        assert!(outcome.expect_err("refused").contains("declined"));
    }
    for (_, token, bytes) in waiting {
        b.net.respond(token, bytes).await.expect("answered");
        assert!(in_time("an answer", outcomes.recv()).await.expect("an outcome").is_ok());
    }
}

#[tokio::test]
async fn a_banned_peer_is_out_until_the_ban_is_lifted() {
    let (mut a, mut b) = pair(1, 2).await;
    for i in 0..4_u8 {
        b.net.publish(TOPIC, vec![i]).await.expect("published");
        let (_, token, _) = a.announcement().await;
        a.net.report(token, Verdict::Reject).await.expect("running");
    }
    assert_eq!(a.banned().await, b.key());
    b.disconnected(a.key()).await;
    let bans = a.net.bans().await.expect("running");
    assert_eq!(bans.iter().map(|ban| ban.key).collect::<Vec<_>>(), [b.key()]);
    assert!(bans[0].reason.contains("invalid announcement") && bans[0].until > std::time::SystemTime::now());

    let error = a.net.dial(b.addr.clone()).await.expect_err("banned").to_string();
    assert!(error.contains("banned"), "{error}");
    // The other way the connection ends as soon as it is known who it is.
    if b.net.dial(a.addr.clone()).await.is_ok() {
        b.disconnected(a.key()).await;
    }
    assert!(a.net.peers().await.expect("running").is_empty());

    assert!(a.net.lift(b.key()).await.expect("running"));
    assert!(!a.net.lift(b.key()).await.expect("running"));
    assert_eq!(a.net.dial(b.addr.clone()).await.expect("connected again"), b.key());
}

#[tokio::test]
async fn a_joined_peer_that_restarts_is_found_again() {
    let mut b = Node::start(2).await;
    let mut a = Node::with(SwarmConfig { join: vec![b.addr.clone()], ..config(1) }).await;
    a.connected(b.key()).await;
    b.connected(a.key()).await;
    b.net.shutdown().await;
    a.disconnected(b.key()).await;

    let mut same_place = b.addr.clone();
    same_place.pop();
    let mut b = Node::with(SwarmConfig::new(secret(2), vec![same_place])).await;
    a.connected(b.key()).await;
    b.connected(a.key()).await;
    let joins = a.net.joins().await.expect("running");
    assert_eq!(joins.iter().map(|j| (j.peer, j.connected)).collect::<Vec<_>>(), [(Some(b.key()), true)]);

    assert!(a.net.leave(b.addr.clone()).await.expect("running"));
    b.net.shutdown().await;
    a.disconnected(b.key()).await;
    assert!(a.net.joins().await.expect("running").is_empty());
}

#[tokio::test]
async fn an_address_joined_before_its_peer_starts_is_reached_once_it_does() {
    let b = Node::start(2).await;
    let (addr, key) = (b.addr.clone(), b.key());
    b.net.shutdown().await;
    let mut a = Node::start(1).await;
    a.net.join(addr.clone()).await.expect("joined");
    let mut same_place = addr.clone();
    same_place.pop();
    let _b = Node::with(SwarmConfig::new(secret(2), vec![same_place])).await;
    a.connected(key).await;
    let error = a.net.join(a.addr.clone()).await.expect_err("its own");
    assert!(matches!(error, NetError::Own(_)), "{error}");
}

#[tokio::test]
async fn a_caller_that_takes_no_events_blocks_nobody() {
    let (a, mut b) = pair(1, 2).await;
    // B takes none of the events that fill its channel.
    for i in 0..1500_u32 {
        a.net.publish(TOPIC, i.to_be_bytes().to_vec()).await.expect("published");
    }
    assert_eq!(b.net.peers().await.expect("running").len(), 1);
    // Once it takes them it hears on, after the flood has used up what A may announce at once.
    in_time("an announcement", async {
        for i in 0_u64.. {
            a.net.publish(TOPIC, i.to_be_bytes().to_vec()).await.expect("published");
            let pause = tokio::time::sleep(std::time::Duration::from_millis(50));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    event = b.events.recv() => match event.expect("events") {
                        NetEvent::Announcement { bytes, .. } if bytes.len() == 8 => return,
                        _ => {}
                    },
                    () = &mut pause => break,
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_topic_no_longer_followed_is_silent() {
    let (a, mut b) = pair(1, 2).await;
    let other = [8; 32];
    b.net.subscribe(other).await.expect("subscribed");
    a.net.subscribe(other).await.expect("subscribed");
    let pick = |e| matches!(e, NetEvent::Subscribed { topic, .. } if topic == other).then_some(());
    b.next("a follower", pick).await;
    assert!(b.net.unsubscribe(TOPIC).await.expect("running"));
    assert!(!b.net.unsubscribe(TOPIC).await.expect("running"));
    a.net.publish(TOPIC, b"silent".to_vec()).await.expect("published");
    a.net.publish(other, b"heard".to_vec()).await.expect("published");
    let pick = |e| if let NetEvent::Announcement { bytes, .. } = e { Some(bytes) } else { None };
    assert_eq!(b.next("an announcement", pick).await, b"heard");
}
