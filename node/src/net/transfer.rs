//! Blobs from peer to peer, over iroh.
//!
//! Everything received is checked against its BLAKE3 hash, 16 KiB at a time, before it is kept; what was kept
//! stays when a transfer breaks off, and the next one goes on from there. A pack is fetched as a hash sequence:
//! one blob that lists the hashes of the others.
//!
//! The endpoint reaches out to nobody but the nodes it was given addresses for: no relays, no address lookup
//! beyond that list, no port mapping.

mod error;
mod fetch;
mod serve;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr,
    address_lookup::memory::MemoryLookup,
    endpoint::{Connection, NetReportConfig, PortmapperConfig, QuicTransportConfig, presets},
    protocol::Router,
};
use iroh_blobs::{Hash, api::Store};
use tokio::sync::watch;

pub use self::error::{Failure, FetchError, Reason, TransferError};
use self::serve::Provider;
use crate::net::{NodeKey, short};

/// Requests one connection may have open at once.
const STREAMS: u32 = 16;
/// Nodes whose addresses are remembered.
const MAX_PEERS: usize = 4096;
/// Addresses remembered of one node.
const MAX_ADDRS: usize = 16;
/// Connections kept open for the next fetch.
const MAX_IDLE: usize = 32;
/// How long finding and greeting a provider may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Who may have which blob.
pub trait Access: Send + Sync + 'static {
    /// Whether `peer` may have the blob `hash`. A peer that asks for a whole hash sequence is asked about its
    /// root only: who may have the root may have what it lists.
    ///
    /// Called for each request, on the network's threads: answer from memory.
    fn may_get(&self, peer: &NodeKey, hash: &[u8; 32]) -> bool;
}

/// What one fetch may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// Bytes of all blobs together, those here already among them.
    pub max_bytes: u64,
    /// Blobs a hash sequence may list.
    pub max_children: usize,
    /// How long a provider may send nothing before the next is asked.
    pub stall: Duration,
}

impl Default for FetchLimits {
    /// 64 GiB in 65,536 blobs, 15 s without a byte.
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_children: 65_536, stall: Duration::from_secs(15) }
    }
}

/// What a fetch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Bytes of all blobs together, without the hash sequence's own.
    pub bytes: u64,
    /// Blobs, the hash sequence not counted.
    pub blobs: usize,
    /// Bytes that came over the network, hashes of the verification among them.
    pub received: u64,
    /// What each provider sent, in bytes.
    pub providers: BTreeMap<NodeKey, u64>,
    /// Providers that could not finish, and why. Those that [lied](Reason::Lied) deserve a penalty.
    pub failures: Vec<Failure>,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

/// The blob transfers of one node; clones share it.
#[derive(Debug, Clone)]
pub struct Transfer {
    inner: Arc<Inner>,
}

/// The store in use.
#[derive(Debug)]
struct Current(RwLock<Store>);

impl Current {
    fn get(&self) -> Store {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    router: Router,
    known: MemoryLookup,
    /// The nodes in `known`, which does not count them.
    peers: Mutex<BTreeSet<NodeKey>>,
    store: Arc<Current>,
    counters: Arc<Counters>,
    /// Connections to providers, by key, for the next fetch.
    idle: Mutex<BTreeMap<NodeKey, Connection>>,
    /// Connections of those who fetch from us.
    served: serve::Served,
}

/// Binds the endpoint and serves what `access` allows from `store`.
///
/// The store stays the caller's: stopping the transfers does not close it.
///
/// # Errors
/// If the address cannot be bound.
pub async fn start(
    secret: [u8; 32],
    bind: SocketAddr,
    store: Store,
    access: Arc<dyn Access>,
) -> Result<Transfer, TransferError> {
    let cannot_bind = |reason: String| TransferError::Bind { bind, reason };
    let known = MemoryLookup::new();
    let quic = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .build();
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&secret))
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .address_lookup(known.clone())
        .portmapper_config(PortmapperConfig::Disabled)
        .net_report_config(NetReportConfig::minimal())
        .transport_config(quic)
        .clear_ip_transports()
        .bind_addr(bind)
        .map_err(|error| cannot_bind(error.to_string()))?
        .bind()
        .await
        .map_err(|error| cannot_bind(error.to_string()))?;
    let counters = Arc::new(Counters::default());
    let store = Arc::new(Current(RwLock::new(store)));
    let served = serve::Served::default();
    let provider = Provider::new(store.clone(), access, counters.clone(), served.clone());
    let router = Router::builder(endpoint.clone()).accept(iroh_blobs::ALPN, provider).spawn();
    let (peers, idle) = (Mutex::default(), Mutex::default());
    Ok(Transfer { inner: Arc::new(Inner { endpoint, router, known, peers, store, counters, idle, served }) })
}

impl Transfer {
    /// This node's public key: the same as on [`Net`](crate::net::swarm::Net).
    pub fn key(&self) -> NodeKey {
        *self.inner.endpoint.id().as_bytes()
    }

    /// The UDP addresses this node can be reached at. Bound to all interfaces (`0.0.0.0`), those of each.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        let bound = self.inner.endpoint.bound_sockets();
        if bound.iter().any(|addr| addr.ip().is_unspecified()) {
            let mut addrs: Vec<_> = self.inner.endpoint.addr().ip_addrs().copied().collect();
            // Others on this machine reach us here, whether or not it has another interface.
            addrs.extend(bound.iter().filter(|addr| addr.ip().is_unspecified()).map(|addr| loopback(*addr)));
            addrs.sort_unstable();
            addrs.dedup();
            addrs
        } else {
            bound
        }
    }

    /// Remembers where a node can be reached, instead of what was remembered before: the first sixteen
    /// addresses count. When too many nodes are remembered, a new one is not.
    ///
    /// # Errors
    /// If `key` is not a public key or there are no more places.
    pub fn add_peer(&self, key: NodeKey, addrs: &[SocketAddr]) -> Result<(), TransferError> {
        let id = endpoint_id(&key)?;
        let mut peers = lock(&self.inner.peers);
        if peers.len() >= MAX_PEERS && !peers.contains(&key) {
            return Err(TransferError::TooManyPeers);
        }
        peers.insert(key);
        let addrs = addrs.iter().take(MAX_ADDRS).copied().map(TransportAddr::Ip);
        self.inner.known.set_endpoint_info(EndpointAddr::from_parts(id, addrs));
        Ok(())
    }

    /// Forgets where a node can be reached.
    pub fn remove_peer(&self, key: &NodeKey) {
        lock(&self.inner.peers).remove(key);
        if let Ok(id) = endpoint_id(key) {
            self.inner.known.remove_endpoint_info(id);
        }
        self.forget_connection(key);
    }

    /// Ends all connections with a node that is gone, and forgets where it was reached. Fetches that wait for it go
    /// on with another provider at once, instead of after [`FetchLimits::stall`].
    pub fn hang_up(&self, key: &NodeKey) {
        // Both ways: as long as one stands, iroh keeps to its path, and a node that was started again, at another
        // port, is not reached there.
        let outgoing = self.idle().remove(key);
        let incoming = lock(&self.inner.served).get(key).cloned().unwrap_or_default();
        for connection in outgoing.into_iter().chain(incoming) {
            connection.close(0_u32.into(), b"gone");
        }
        self.remove_peer(key);
    }

    /// Ends what a node is being sent, at once: it may not have it any more. It may connect again, and is asked anew
    /// what it may have.
    pub fn cut(&self, key: &NodeKey) {
        let serving = lock(&self.inner.served).get(key).cloned().unwrap_or_default();
        for connection in serving {
            connection.close(0_u32.into(), b"gone");
        }
    }

    /// Uses another handle of the store from now on: one whose database failed is opened anew. Transfers under
    /// way keep the old one.
    pub fn use_store(&self, store: Store) {
        *self.inner.store.0.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// Fetches the hash sequence `root` and all blobs it lists from `providers`, in that order of preference
    /// and from up to four at once. What is here already is not fetched again. `progress` is set to the bytes
    /// here so far.
    ///
    /// While it runs, garbage collection spares the blobs. Afterwards it does not: tag them, or hold a temporary
    /// tag of `root` of your own from before to after.
    ///
    /// # Errors
    /// If no provider has all of it, or it is larger than `limits`. What came stays and is not fetched again.
    pub async fn fetch_pack(
        &self,
        root: [u8; 32],
        providers: &[NodeKey],
        limits: FetchLimits,
        progress: Option<watch::Sender<u64>>,
    ) -> Result<FetchStats, FetchError> {
        fetch::pack(self, root, providers, limits, progress).await
    }

    /// Fetches one blob of at most `max_bytes`. As [`fetch_pack`](Self::fetch_pack) otherwise.
    ///
    /// # Errors
    /// If no provider has it, or it is larger than `max_bytes`.
    pub async fn fetch_blob(
        &self,
        hash: [u8; 32],
        providers: &[NodeKey],
        max_bytes: u64,
        progress: Option<watch::Sender<u64>>,
    ) -> Result<FetchStats, FetchError> {
        let limits = FetchLimits { max_bytes, ..FetchLimits::default() };
        fetch::blob(self, hash, providers, limits, progress).await
    }

    /// Bytes of blobs sent since the start, hashes of the verification among them.
    pub fn sent_bytes(&self) -> u64 {
        self.inner.counters.sent.load(Ordering::Relaxed)
    }

    /// Bytes of blobs received since the start, hashes of the verification among them.
    pub fn received_bytes(&self) -> u64 {
        self.inner.counters.received.load(Ordering::Relaxed)
    }

    /// Stops serving and closes all connections; returns when they are closed. The store stays open.
    pub async fn shutdown(&self) {
        self.idle().clear();
        if let Err(error) = self.inner.router.shutdown().await {
            tracing::warn!(%error, "a transfer did not end cleanly");
        }
    }

    /// A connection to `provider`, the one of the last fetch if it still stands.
    async fn connect(&self, provider: &NodeKey) -> Result<Connection, Reason> {
        if let Some(connection) = self.idle().get(provider).filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let id = endpoint_id(provider).map_err(|error| Reason::Unreachable(error.to_string()))?;
        let connecting = self.inner.endpoint.connect(id, iroh_blobs::ALPN);
        let connection = tokio::time::timeout(CONNECT, connecting)
            .await
            .map_err(|_| Reason::Unreachable(format!("no answer within {} s", CONNECT.as_secs())))?
            .map_err(|error| Reason::Unreachable(error.to_string()))?;
        let mut idle = self.idle();
        idle.retain(|_, connection| connection.close_reason().is_none());
        if idle.len() >= MAX_IDLE {
            idle.pop_first();
        }
        idle.insert(*provider, connection.clone());
        Ok(connection)
    }

    fn forget_connection(&self, provider: &NodeKey) {
        self.idle().remove(provider);
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<NodeKey, Connection>> {
        lock(&self.inner.idle)
    }
}

/// The lists behind these locks are whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn endpoint_id(key: &NodeKey) -> Result<EndpointId, TransferError> {
    EndpointId::from_bytes(key).map_err(|_| TransferError::Key(crate::net::InvalidKey(*key)))
}

fn loopback(addr: SocketAddr) -> SocketAddr {
    let ip: std::net::IpAddr = if addr.is_ipv4() {
        std::net::Ipv4Addr::LOCALHOST.into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    };
    SocketAddr::new(ip, addr.port())
}

fn shown(hash: &Hash) -> String {
    short(hash.as_bytes())
}
