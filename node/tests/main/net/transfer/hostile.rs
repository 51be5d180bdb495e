//! Askers without permission, and providers that lie or stall.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flair_node::net::{
    NodeKey,
    transfer::{FetchLimits, Reason},
};
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr,
    endpoint::{Connection, PortmapperConfig, SendStream, VarInt, presets},
    protocol::{AcceptError, ProtocolHandler, Router},
};
use iroh_blobs::{
    ALPN, Hash,
    get::request::get_blob,
    protocol::{ChunkRanges, ChunkRangesSeq, GetManyRequest, ObserveRequest, PushRequest, Request},
    provider::{StreamPair, events::EventSender, handle_get},
};

use super::{LIMITS, Listed, MIB, Node, noise, reasons};
use crate::net::{in_time, secret};

/// An endpoint of no node.
async fn endpoint(number: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&secret(number)))
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .expect("an address")
        .bind()
        .await
        .expect("an endpoint")
}

async fn connect(from: &Endpoint, to: &Node) -> Connection {
    let id = iroh::EndpointId::from_bytes(&to.key()).expect("a key");
    let addr = EndpointAddr::from_parts(id, to.transfer.addrs().into_iter().map(TransportAddr::Ip));
    in_time("a connection", from.connect(addr, ALPN)).await.expect("a connection")
}

#[tokio::test]
async fn only_who_may_have_a_blob_gets_it() {
    let reader = Node::start(2).await;
    let (blob, other) = (noise(1, 50_000), noise(2, 50_000));
    let allowed = BTreeSet::from([(reader.key(), *Hash::new(&blob).as_bytes())]);
    let owner = Node::with(1, Arc::new(Listed(allowed))).await;
    for bytes in [&blob, &other] {
        owner.add(bytes.clone()).await;
    }
    let stranger = Node::start(3).await;
    for node in [&reader, &stranger] {
        node.knows(&owner);
    }
    let get = async |node: &Node, bytes: &[u8]| {
        let (hash, from) = (*Hash::new(bytes).as_bytes(), [owner.key()]);
        in_time("a blob", node.transfer.fetch_blob(hash, &from, MIB as u64, None)).await
    };
    get(&reader, &blob).await.expect("allowed");
    for (node, bytes) in [(&reader, &other), (&stranger, &blob), (&stranger, &other)] {
        assert_eq!(reasons(&get(node, bytes).await.expect_err("not allowed")), [Reason::Missing]);
        assert!(!node.has(bytes).await);
    }
}

#[tokio::test]
async fn not_allowed_looks_exactly_like_not_here() {
    let owner = Node::with(1, Arc::new(Listed(BTreeSet::new()))).await;
    let here = owner.add(noise(1, 200_000)).await;
    let list = owner.add_pack(&[noise(2, 100_000)]).await;
    let from = endpoint(9).await;
    let connection = connect(&from, &owner).await;
    let mut answers = BTreeSet::new();
    for hash in [here, Hash::from_bytes(list), Hash::new(b"nobody has this")] {
        for ranges in
            [ChunkRangesSeq::all(), ChunkRangesSeq::from_ranges([ChunkRanges::all()]), ChunkRangesSeq::root()]
        {
            let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
            let request = Request::Get(iroh_blobs::protocol::GetRequest::new(hash, ranges));
            send.write_all(&postcard::to_stdvec(&request).expect("encoded")).await.expect("sent");
            send.finish().expect("sent");
            let answer = in_time("an answer", recv.read_to_end(1000)).await;
            answers.insert(format!("{answer:?}"));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn nobody_writes_watches_or_asks_for_many() {
    let owner = Node::start(1).await;
    let from = endpoint(9).await;
    let store = iroh_blobs::store::mem::MemStore::new();
    let tag = store.add_bytes(noise(1, 100_000)).await.expect("added");
    let pushed = store.remote().execute_push(
        connect(&from, &owner).await,
        PushRequest::new(tag.hash, ChunkRangesSeq::from_ranges([ChunkRanges::all()])),
    );
    // Whether the refusal overtakes the data is chance; that nothing is written is not.
    let _ = in_time("a refusal", pushed.complete()).await;
    let here = owner.add(noise(2, 1000)).await;
    let connection = connect(&from, &owner).await;
    for request in [
        Request::Push(PushRequest::new(tag.hash, ChunkRangesSeq::all())),
        Request::GetMany(GetManyRequest::from_iter([here])),
        Request::Observe(ObserveRequest::new(here)),
    ] {
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&postcard::to_stdvec(&request).expect("encoded")).await.expect("sent");
        send.finish().expect("sent");
        let answer = in_time("an answer", recv.read_to_end(1000)).await;
        assert!(answer.is_err() || answer.is_ok_and(|bytes| bytes.is_empty()), "{request:?}");
    }
    // An ordinary request on the same connection is answered after that, and nothing was written before.
    assert_eq!(in_time("a blob", get_blob(connection, here).bytes()).await.expect("served"), noise(2, 1000));
    assert!(!owner.has(&noise(1, 100_000)).await);
}

#[tokio::test]
async fn a_request_that_is_too_long_or_broken_is_dropped() {
    let owner = Node::start(1).await;
    let here = owner.add(noise(2, 1000)).await;
    let from = endpoint(9).await;
    let connection = connect(&from, &owner).await;
    for bytes in [vec![0; 400_000], vec![0xff; 100], vec![], vec![8, 0xff, 0xff, 0x3f, 1, 2], vec![5]] {
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        // The node may stop reading before all of it is sent.
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        let answer = in_time("an answer", recv.read_to_end(1000)).await;
        assert!(answer.is_err() || answer.is_ok_and(|bytes| bytes.is_empty()));
    }
    assert_eq!(in_time("a blob", get_blob(connection, here).bytes()).await.expect("served"), noise(2, 1000));
}

#[tokio::test]
async fn a_peer_that_opens_one_connection_too_many_loses_its_oldest() {
    let owner = Node::start(1).await;
    let here = owner.add(noise(2, 1000)).await;
    let (from, elsewhere) = (endpoint(9).await, endpoint(8).await);
    let other = connect(&elsewhere, &owner).await;
    in_time("a blob", get_blob(other.clone(), here).bytes()).await.expect("served");
    let mut connections = Vec::new();
    for _ in 0..5 {
        let connection = connect(&from, &owner).await;
        in_time("a blob", get_blob(connection.clone(), here).bytes()).await.expect("served");
        connections.push(connection);
    }
    in_time("the end of the oldest", connections.remove(0).closed()).await;
    for connection in connections.into_iter().chain([other]) {
        in_time("a blob", get_blob(connection, here).bytes()).await.expect("served");
    }
}

/// A provider that answers each request with its own bytes, or with nothing at all.
#[derive(Debug, Clone)]
struct Liar {
    answer: Option<Vec<u8>>,
}

impl ProtocolHandler for Liar {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let mut held = Vec::new();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let _ = recv.read_to_end(1 << 20).await;
            if let Some(answer) = &self.answer {
                let _ = send.write_all(answer).await;
                let _ = send.finish();
            }
            held.push(send);
        }
        Ok(())
    }
}

async fn liar(number: u8, answer: Option<Vec<u8>>) -> (Router, NodeKey, Vec<std::net::SocketAddr>) {
    let endpoint = endpoint(number).await;
    let (key, addrs) = (*endpoint.id().as_bytes(), endpoint.bound_sockets());
    (Router::builder(endpoint).accept(ALPN, Liar { answer }).spawn(), key, addrs)
}

fn sized(size: u64, bytes: &[u8]) -> Vec<u8> {
    [&size.to_le_bytes(), bytes].concat()
}

#[tokio::test]
async fn a_provider_that_lies_is_named_and_the_next_is_asked() {
    let blob = noise(1, 100_000);
    let honest = Node::start(1).await;
    let hash = *honest.add(blob.clone()).await.as_bytes();
    let mut swapped = iroh_like_encoding(&blob);
    swapped[70] ^= 1;
    for (number, answer) in [
        sized(100_000, &noise(9, 200_000)),
        sized(5, b"hello"),
        sized(0, b""),
        sized(900_000, &noise(3, 5000)),
        swapped,
    ]
    .into_iter()
    .enumerate()
    {
        let reader = Node::start(2).await;
        let (router, key, addrs) = liar(50 + number as u8, Some(answer)).await;
        reader.transfer.add_peer(key, &addrs).expect("remembered");
        reader.knows(&honest);
        let from = [key, honest.key()];
        let fetch = reader.transfer.fetch_blob(hash, &from, MIB as u64, None);
        let stats = in_time("a blob", fetch).await.expect("fetched from the other");
        let failures: Vec<_> = stats.failures.iter().map(|f| (f.provider, f.reason.clone())).collect();
        assert_eq!(failures, [(key, Reason::Lied)], "answer {number}");
        assert!(reader.has(&blob).await);
        router.shutdown().await.expect("stopped");
    }
}

/// The size and the hash pair of the root, as a provider begins its answer.
fn iroh_like_encoding(blob: &[u8]) -> Vec<u8> {
    let mut bytes = sized(blob.len() as u64, &[]);
    bytes.extend(noise(77, 64));
    bytes.extend(blob);
    bytes
}

#[tokio::test]
async fn absurd_sizes_are_refused_or_end_the_fetch_without_harm() {
    let honest = Node::start(1).await;
    let root = honest.add_pack(&[noise(1, 1000)]).await;
    for (number, size) in [u64::MAX, u64::MAX - 1024, 1 << 63, (1 << 63) - 1, 1 << 50].into_iter().enumerate()
    {
        let reader = Node::start(2).await;
        let (router, key, addrs) = liar(60 + number as u8, Some(sized(size, &noise(3, 100_000)))).await;
        reader.transfer.add_peer(key, &addrs).expect("remembered");
        reader.knows(&honest);
        // The list may not be as large; one blob may.
        reader.pack(root, &[key, honest.key()]).await.expect("fetched from the other");
        let from = [key];
        let unlimited = reader.transfer.fetch_blob([3; 32], &from, u64::MAX, None);
        let error = in_time("an error", unlimited).await.expect_err("a lie");
        assert!(!error.to_string().is_empty());
        router.shutdown().await.expect("stopped");
    }
}

#[tokio::test]
async fn a_provider_that_stalls_is_left_for_the_next() {
    let blob = noise(1, 100_000);
    let honest = Node::start(1).await;
    let root = honest.add_pack(std::slice::from_ref(&blob)).await;
    let limits = FetchLimits { stall: Duration::from_millis(300), ..LIMITS };
    for (number, answer) in [None, Some(sized(100_000, &[]))].into_iter().enumerate() {
        let stalls = answer.is_none();
        let reader = Node::start(2).await;
        let (router, key, addrs) = liar(70 + number as u8, answer).await;
        reader.transfer.add_peer(key, &addrs).expect("remembered");
        reader.knows(&honest);
        let from = [key, honest.key()];
        let fetch = reader.transfer.fetch_pack(root, &from, limits, None);
        let stats = in_time("a pack", fetch).await.expect("fetched from the other");
        let failed: Vec<_> = stats.failures.iter().map(|f| f.provider).collect();
        assert_eq!(failed, [key]);
        assert_eq!(stats.failures[0].reason == Reason::Stalled, stalls, "{:?}", stats.failures);
        assert!(reader.has(&blob).await);
        router.shutdown().await.expect("stopped");
    }
}

/// A provider that takes a request, tells that it came, and says nothing more.
#[derive(Debug, Clone)]
struct Silent {
    asked: Arc<tokio::sync::Notify>,
}

impl ProtocolHandler for Silent {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let mut held = Vec::new();
        while let Ok(stream) = connection.accept_bi().await {
            held.push(stream);
            self.asked.notify_one();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_is_hung_up_on_both_ways_and_fetches_from_it_go_on_at_once() {
    let blob = noise(1, 100_000);
    let honest = Node::start(1).await;
    let root = honest.add_pack(std::slice::from_ref(&blob)).await;
    let reader = Node::start(2).await;
    let here = reader.add(noise(2, 1000)).await;
    let gone = endpoint(75).await;
    let (key, addrs) = (*gone.id().as_bytes(), gone.bound_sockets());
    let incoming = connect(&gone, &reader).await;
    in_time("a blob", get_blob(incoming.clone(), here).bytes()).await.expect("served");
    let asked = Arc::new(tokio::sync::Notify::new());
    let router = Router::builder(gone).accept(ALPN, Silent { asked: asked.clone() }).spawn();
    reader.transfer.add_peer(key, &addrs).expect("remembered");
    reader.knows(&honest);

    let from = [key, honest.key()];
    let begun = std::time::Instant::now();
    let (stats, ()) =
        tokio::join!(in_time("a pack", reader.transfer.fetch_pack(root, &from, LIMITS, None)), async {
            asked.notified().await;
            reader.transfer.hang_up(&key);
        });
    let stats = stats.expect("fetched from the other");
    assert_eq!(stats.failures.iter().map(|f| f.provider).collect::<Vec<_>>(), [key]);
    assert!(stats.failures[0].reason != Reason::Stalled && begun.elapsed() < LIMITS.stall);
    assert!(reader.has(&blob).await);
    in_time("the end of what came in", incoming.closed()).await;
    router.shutdown().await.expect("stopped");
}

/// A provider that leaves after so many bytes.
struct Leaver {
    store: iroh_blobs::api::Store,
    left: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Leaver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaver")
    }
}

impl ProtocolHandler for Leaver {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((send, recv)) = connection.accept_bi().await {
            let send = Leaving { send, left: self.left.clone(), connection: connection.clone() };
            let mut pair = StreamPair::new(0, recv, send, EventSender::DEFAULT);
            if let Ok(Request::Get(request)) = pair.read_request().await {
                // It fails when it leaves.
                let _ = handle_get(pair, self.store.clone(), request).await;
            }
        }
        Ok(())
    }
}

struct Leaving {
    send: SendStream,
    left: Arc<AtomicUsize>,
    connection: Connection,
}

impl Leaving {
    fn pay(&self, length: usize) -> io::Result<()> {
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(length))
            .is_err()
        {
            self.connection.close(0_u32.into(), b"gone");
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl iroh_blobs::util::SendStream for Leaving {
    async fn send_bytes(&mut self, bytes: bytes::Bytes) -> io::Result<()> {
        self.pay(bytes.len())?;
        Ok(self.send.write_chunk(bytes).await?)
    }

    async fn send(&mut self, buf: &[u8]) -> io::Result<()> {
        self.pay(buf.len())?;
        Ok(self.send.write_all(buf).await?)
    }

    async fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self, code: VarInt) -> io::Result<()> {
        Ok(self.send.reset(code)?)
    }

    async fn stopped(&mut self) -> io::Result<Option<VarInt>> {
        Ok(self.send.stopped().await?)
    }

    fn id(&self) -> u64 {
        0
    }
}

/// Serves what `node` has until it has sent `bytes`.
async fn leaver(number: u8, node: &Node, bytes: usize) -> (Router, NodeKey, Vec<std::net::SocketAddr>) {
    let endpoint = endpoint(number).await;
    let (key, addrs) = (*endpoint.id().as_bytes(), endpoint.bound_sockets());
    let provider = Leaver { store: node.store.clone(), left: Arc::new(AtomicUsize::new(bytes)) };
    (Router::builder(endpoint).accept(ALPN, provider).spawn(), key, addrs)
}

#[tokio::test]
async fn when_a_provider_leaves_midway_the_next_one_goes_on_from_there() {
    let (honest, reader) = (Node::start(1).await, Node::start(2).await);
    let blobs = vec![noise(1, 16 * MIB)];
    let root = honest.add_pack(&blobs).await;
    let (_router, key, addrs) = leaver(40, &honest, 6 * MIB).await;
    reader.transfer.add_peer(key, &addrs).expect("remembered");
    reader.knows(&honest);
    let stats = reader.pack(root, &[key, honest.key()]).await.expect("fetched");
    assert!(reader.has_all(&blobs).await);
    // What was on its way when the connection broke may be lost, no more.
    assert!(stats.received < 17 * MIB as u64, "hardly anything came twice: {stats:?}");
    assert!(stats.providers[&honest.key()] < 13 * MIB as u64, "{stats:?}");
    assert!(matches!(&stats.failures[..], [failure] if failure.provider == key), "{stats:?}");
}

#[tokio::test]
async fn a_fetch_that_broke_off_is_resumed_by_the_next() {
    let (honest, reader) = (Node::start(1).await, Node::start(2).await);
    let blobs = vec![noise(1, 16 * MIB)];
    let root = honest.add_pack(&blobs).await;
    let (_router, key, addrs) = leaver(40, &honest, 8 * MIB).await;
    reader.transfer.add_peer(key, &addrs).expect("remembered");
    reader.knows(&honest);
    let error = reader.pack(root, &[key]).await.expect_err("nobody else");
    assert!(error.to_string().contains("what came is kept"), "{error}");
    let stats = reader.pack(root, &[honest.key()]).await.expect("fetched");
    assert!(reader.has_all(&blobs).await);
    assert!(stats.received < 13 * MIB as u64, "resumed: {}", stats.received);
}
