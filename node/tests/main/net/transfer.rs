//! Blobs from node to node.

mod hostile;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use flair_node::net::{
    NodeKey,
    transfer::{Access, FetchError, FetchLimits, Reason, Transfer, start},
};
use iroh_blobs::{Hash, api::Store, hashseq::HashSeq, store::fs::FsStore};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{in_time, secret};

const MIB: usize = 1 << 20;
const LIMITS: FetchLimits =
    FetchLimits { max_bytes: 1 << 30, max_children: 4096, stall: Duration::from_secs(20) };

/// Everybody may have everything.
struct Open;

impl Access for Open {
    fn may_get(&self, _: &NodeKey, _: &[u8; 32]) -> bool {
        true
    }
}

/// Only the listed may have the listed.
struct Listed(BTreeSet<(NodeKey, [u8; 32])>);

impl Access for Listed {
    fn may_get(&self, peer: &NodeKey, hash: &[u8; 32]) -> bool {
        self.0.contains(&(*peer, *hash))
    }
}

struct Node {
    transfer: Transfer,
    store: Store,
    _folder: TempDir,
}

impl Node {
    async fn start(number: u8) -> Self {
        Self::with(number, Arc::new(Open)).await
    }

    async fn with(number: u8, access: Arc<dyn Access>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Store = FsStore::load(folder.path()).await.expect("a store").into();
        let bind: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let transfer = start(secret(number), bind, store.clone(), access).await.expect("transfers");
        Self { transfer, store, _folder: folder }
    }

    fn key(&self) -> NodeKey {
        self.transfer.key()
    }

    fn knows(&self, other: &Node) {
        self.transfer.add_peer(other.key(), &other.transfer.addrs()).expect("remembered");
    }

    async fn add(&self, bytes: Vec<u8>) -> Hash {
        self.store.add_bytes(bytes).await.expect("added").hash
    }

    async fn add_pack(&self, blobs: &[Vec<u8>]) -> [u8; 32] {
        let mut hashes = Vec::new();
        for blob in blobs {
            hashes.push(self.add(blob.clone()).await);
        }
        let list: HashSeq = hashes.into_iter().collect();
        *self.add(list.into_inner().to_vec()).await.as_bytes()
    }

    async fn has(&self, blob: &[u8]) -> bool {
        self.store.has(Hash::new(blob)).await.expect("a store")
    }

    async fn has_all(&self, blobs: &[Vec<u8>]) -> bool {
        for blob in blobs {
            if self.store.get_bytes(Hash::new(blob)).await.expect("a blob") != *blob {
                return false;
            }
        }
        true
    }

    async fn pack(
        &self,
        root: [u8; 32],
        from: &[NodeKey],
    ) -> Result<flair_node::net::transfer::FetchStats, FetchError> {
        in_time("a pack", self.transfer.fetch_pack(root, from, LIMITS, None)).await
    }
}

/// `length` bytes that no other seed has.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn reasons(error: &FetchError) -> Vec<Reason> {
    match error {
        FetchError::Incomplete { failures, .. } => {
            failures.iter().map(|failure| failure.reason.clone()).collect()
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_pack_arrives_whole_and_only_once() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let mut blobs: Vec<_> =
        [0, 1, 16 * 1024, 16 * 1024 + 1, MIB, 3 * MIB + 7].map(|n| noise(n as u64, n)).into();
    blobs.extend((0..300).map(|i| noise(1000 + i, 2000)));
    let distinct = blobs.len();
    blobs.push(blobs[4].clone());
    let root = a.add_pack(&blobs).await;
    b.knows(&a);
    let (progress, seen) = watch::channel(0);
    let stats = in_time("a pack", b.transfer.fetch_pack(root, &[a.key()], LIMITS, Some(progress)))
        .await
        .expect("fetched");
    assert!(b.has_all(&blobs).await);
    let bytes: u64 = blobs[..distinct].iter().map(|blob| blob.len() as u64).sum();
    assert_eq!((stats.blobs, stats.bytes), (distinct, bytes));
    assert_eq!(*seen.borrow(), bytes);
    assert_eq!(stats.received, b.transfer.received_bytes());
    assert!(a.transfer.sent_bytes() >= bytes && stats.received >= bytes && stats.received < bytes * 11 / 10);
    // Once more costs nothing.
    let stats = b.pack(root, &[a.key()]).await.expect("here already");
    assert_eq!((stats.bytes, stats.received), (bytes, 0));
    // And needs nobody.
    assert!(b.pack(root, &[]).await.is_ok());
    a.transfer.shutdown().await;
    assert!(a.store.has(Hash::from_bytes(root)).await.expect("the store stays open"));
}

#[tokio::test]
async fn what_was_fetched_can_be_fetched_on_without_its_origin() {
    let (a, b, c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    let blobs = vec![noise(1, MIB), noise(2, 100)];
    let root = a.add_pack(&blobs).await;
    b.knows(&a);
    b.pack(root, &[a.key()]).await.expect("fetched");
    a.transfer.shutdown().await;
    c.knows(&a);
    c.knows(&b);
    let stats = c.pack(root, &[b.key()]).await.expect("fetched");
    assert!(c.has_all(&blobs).await);
    assert_eq!(stats.providers.keys().collect::<Vec<_>>(), [&b.key()]);
}

#[tokio::test]
async fn one_blob_arrives_if_it_is_no_larger_than_allowed() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let hash = *a.add(noise(1, MIB)).await.as_bytes();
    b.knows(&a);
    let error = b.transfer.fetch_blob(hash, &[a.key()], MIB as u64 - 1, None).await.expect_err("too large");
    assert!(matches!(error, FetchError::TooLarge { found: 1_048_576, limit: 1_048_575, .. }), "{error}");
    assert!(b.transfer.received_bytes() < 1000, "nothing of it was taken");
    let stats = b.transfer.fetch_blob(hash, &[a.key()], MIB as u64, None).await.expect("fetched");
    assert_eq!((stats.blobs, stats.bytes), (1, MIB as u64));
    assert!(b.has(&noise(1, MIB)).await);
}

#[tokio::test]
async fn a_pack_beyond_its_limits_is_not_taken() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let blobs: Vec<_> = (0..8).map(|i| noise(i, MIB)).collect();
    let root = a.add_pack(&blobs).await;
    b.knows(&a);
    let few = FetchLimits { max_children: 7, ..LIMITS };
    let error = b.transfer.fetch_pack(root, &[a.key()], few, None).await.expect_err("too many blobs");
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    let small = FetchLimits { max_bytes: 3 * MIB as u64 + 5, ..LIMITS };
    let error = b.transfer.fetch_pack(root, &[a.key()], small, None).await.expect_err("too many bytes");
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    assert!(b.transfer.received_bytes() < 3 * MIB as u64 + 400_000);
    // What is here counts.
    let error =
        b.transfer.fetch_pack(root, &[], FetchLimits { max_bytes: 2 * MIB as u64, ..LIMITS }, None).await;
    assert!(matches!(error, Err(FetchError::TooLarge { .. })), "{error:?}");
    // Enough is enough: to the byte.
    let exact = FetchLimits { max_bytes: 8 * MIB as u64, max_children: 8, ..LIMITS };
    b.transfer.fetch_pack(root, &[a.key()], exact, None).await.expect("fetched");
}

#[tokio::test]
async fn a_list_that_is_none_is_refused() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let root = *a.add(noise(1, 33)).await.as_bytes();
    b.knows(&a);
    let error = b.pack(root, &[a.key()]).await.expect_err("no list");
    assert!(matches!(error, FetchError::NotAPack { length: 33, .. }), "{error}");
    let error = b.pack([5; 32], &[]).await.expect_err("nobody");
    assert!(matches!(error, FetchError::NoProviders { .. }), "{error}");
    let error = b.pack([5; 32], &[a.key()]).await.expect_err("unknown");
    assert_eq!(reasons(&error), [Reason::Missing]);
    let error = b.pack([5; 32], &[Node::start(3).await.key()]).await.expect_err("unknown address");
    assert!(matches!(reasons(&error)[0], Reason::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn several_providers_share_the_work() {
    let nodes = [Node::start(1).await, Node::start(2).await, Node::start(3).await];
    let blobs: Vec<_> = (0..48).map(|i| noise(i, MIB)).collect();
    let mut root = [0; 32];
    for node in &nodes {
        root = node.add_pack(&blobs).await;
    }
    let reader = Node::start(4).await;
    for node in &nodes {
        reader.knows(node);
    }
    let keys: Vec<_> = nodes.iter().map(Node::key).collect();
    let stats = reader.pack(root, &keys).await.expect("fetched");
    assert!(reader.has_all(&blobs).await);
    for key in &keys {
        assert!(stats.providers.get(key).is_some_and(|bytes| *bytes > MIB as u64), "{stats:?}");
    }
    assert!(stats.received < 50 * MIB as u64, "nothing came twice");
}

#[tokio::test]
async fn providers_with_halves_make_a_whole() {
    let (a, b, c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    let blobs: Vec<_> = (0..8).map(|i| noise(i, 100_000)).collect();
    let root = a.add_pack(&blobs).await;
    let list = a.store.get_bytes(Hash::from_bytes(root)).await.expect("a list");
    b.add(list.to_vec()).await;
    // B has the list and its end; a provider of which nothing is known but that it lacks the beginning.
    for blob in &blobs[4..] {
        b.add(blob.clone()).await;
    }
    c.knows(&b);
    let error = c.pack(root, &[b.key()]).await.expect_err("half");
    assert_eq!(reasons(&error), [Reason::Missing]);
    c.knows(&a);
    c.pack(root, &[b.key(), a.key()]).await.expect("fetched");
    assert!(c.has_all(&blobs).await);
}
