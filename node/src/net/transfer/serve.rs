//! Serving blobs: who may have what, and no more than their share.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use iroh::{
    endpoint::{Connection, RecvStream, SendStream, VarInt},
    protocol::{AcceptError, ProtocolHandler},
};
use iroh_blobs::{
    Hash,
    api::Store,
    protocol::{ERR_LIMIT, Request},
    provider::{
        self, StreamPair,
        events::{EventMask, EventSender, RequestMode},
    },
};
use tokio::{task::JoinSet, time::timeout};

use super::{Access, Counters, Current, lock};
use crate::net::NodeKey;

/// Connections served at once.
const MAX_CONNECTIONS: usize = 256;
/// Connections of one peer served at once.
const MAX_CONNECTIONS_PER_PEER: usize = 4;
/// The largest request: the ranges of some ten thousand blobs.
const MAX_REQUEST: usize = 256 * 1024;
/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what it asked for.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Answers requests for blobs.
///
/// iroh-blobs' own handler would serve any blob to whoever knows its hash; its hooks can only reject, with a code
/// of its own, which tells the asker that the blob is here. Here a request that is not allowed is answered as one
/// for a blob that nobody has, by the same code, so that the two cannot be told apart.
pub(super) struct Provider {
    store: Arc<Current>,
    access: Arc<dyn Access>,
    counters: Arc<Counters>,
    /// A hash that no blob has.
    nothing: Hash,
    served: Served,
}

/// The connections of each peer, oldest first.
pub(super) type Served = Arc<Mutex<HashMap<NodeKey, VecDeque<Connection>>>>;

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
}

impl Provider {
    pub(super) fn new(
        store: Arc<Current>,
        access: Arc<dyn Access>,
        counters: Arc<Counters>,
        served: Served,
    ) -> Self {
        // All zeroes: to find a blob with this hash is to break BLAKE3.
        Self { store, access, counters, nothing: Hash::from_bytes([0; 32]), served }
    }

    /// Gives `connection` a place. A peer that has all of its places loses its oldest connection: after a crash
    /// that one is dead, though nobody has said so yet, and otherwise it hurts nobody but itself.
    fn admit(&self, peer: NodeKey, connection: &Connection) -> Option<Place> {
        let mut served = lock(&self.served);
        let full = served.values().map(VecDeque::len).sum::<usize>() >= MAX_CONNECTIONS;
        let ours = served.entry(peer).or_default();
        let oldest = if ours.len() >= MAX_CONNECTIONS_PER_PEER { ours.pop_front() } else { None };
        if let Some(oldest) = oldest {
            oldest.close(ERR_LIMIT, b"limit");
        } else if full {
            if ours.is_empty() {
                served.remove(&peer);
            }
            return None;
        }
        ours.push_back(connection.clone());
        Some(Place { peer, id: connection.stable_id(), served: self.served.clone() })
    }
}

/// A place for one connection, given back when dropped.
struct Place {
    peer: NodeKey,
    id: usize,
    served: Served,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut served = lock(&self.served);
        if let Some(ours) = served.get_mut(&self.peer) {
            ours.retain(|connection| connection.stable_id() != self.id);
            if ours.is_empty() {
                served.remove(&self.peer);
            }
        }
    }
}

impl ProtocolHandler for Provider {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let peer = *connection.remote_id().as_bytes();
        let Some(_place) = self.admit(peer, &connection) else {
            connection.close(ERR_LIMIT, b"limit");
            return Ok(());
        };
        // Nobody writes here or asks for many blobs at once: those requests are refused as such.
        let mask =
            EventMask { push: RequestMode::Disabled, get_many: RequestMode::Disabled, ..EventMask::DEFAULT };
        let (events, _) = EventSender::channel(1, mask);
        let mut streams = JoinSet::new();
        while let Ok((send, recv)) = connection.accept_bi().await {
            while streams.try_join_next().is_some() {}
            let pair = StreamPair::new(
                connection.stable_id() as u64,
                Receiving(recv),
                Sending { inner: send, counters: self.counters.clone() },
                events.clone(),
            );
            let (store, access, nothing) = (self.store.get(), self.access.clone(), self.nothing);
            streams.spawn(async move {
                if let Err(error) = answer(pair, store, access.as_ref(), peer, nothing).await {
                    tracing::debug!(peer = %crate::net::short(&peer), "a request was not answered: {error:#}");
                }
            });
        }
        Ok(())
    }
}

async fn answer(
    mut pair: StreamPair<Receiving, Sending>,
    store: Store,
    access: &dyn Access,
    peer: NodeKey,
    nothing: Hash,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match timeout(REQUEST_TIME, pair.read_request()).await?? {
        Request::Get(mut request) => {
            if !access.may_get(&peer, request.hash.as_bytes()) {
                request.hash = nothing;
            }
            provider::handle_get(pair, store, request).await?;
        }
        // Both are disabled by the mask, before the store is asked.
        Request::Push(request) => provider::handle_push(pair, store, request).await?,
        Request::GetMany(request) => provider::handle_get_many(pair, store, request).await?,
        // Watching what a node has: nothing needs it.
        _ => {}
    }
    Ok(())
}

/// The requests of a peer: no larger than they need to be.
struct Receiving(RecvStream);

impl iroh_blobs::util::RecvStream for Receiving {
    async fn recv_bytes(&mut self, len: usize) -> io::Result<bytes::Bytes> {
        // Memory is taken for the whole length: a longer request is an error, since its end is checked for.
        iroh_blobs::util::RecvStream::recv_bytes(&mut self.0, len.min(MAX_REQUEST)).await
    }

    async fn recv_bytes_exact(&mut self, len: usize) -> io::Result<bytes::Bytes> {
        if len > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        iroh_blobs::util::RecvStream::recv_bytes_exact(&mut self.0, len).await
    }

    async fn recv_exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        iroh_blobs::util::RecvStream::recv_exact(&mut self.0, target).await
    }

    fn stop(&mut self, code: VarInt) -> io::Result<()> {
        iroh_blobs::util::RecvStream::stop(&mut self.0, code)
    }

    fn id(&self) -> u64 {
        iroh_blobs::util::RecvStream::id(&self.0)
    }
}

/// What a peer is sent: counted, and given up when the peer does not take it.
struct Sending {
    inner: SendStream,
    counters: Arc<Counters>,
}

impl Sending {
    fn count(&self, bytes: usize) {
        self.counters.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

async fn unless_stuck(sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(STUCK_AFTER, sending).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

impl iroh_blobs::util::SendStream for Sending {
    async fn send_bytes(&mut self, bytes: bytes::Bytes) -> io::Result<()> {
        let length = bytes.len();
        unless_stuck(iroh_blobs::util::SendStream::send_bytes(&mut self.inner, bytes)).await?;
        self.count(length);
        Ok(())
    }

    async fn send(&mut self, buf: &[u8]) -> io::Result<()> {
        unless_stuck(iroh_blobs::util::SendStream::send(&mut self.inner, buf)).await?;
        self.count(buf.len());
        Ok(())
    }

    async fn sync(&mut self) -> io::Result<()> {
        iroh_blobs::util::SendStream::sync(&mut self.inner).await
    }

    fn reset(&mut self, code: VarInt) -> io::Result<()> {
        iroh_blobs::util::SendStream::reset(&mut self.inner, code)
    }

    async fn stopped(&mut self) -> io::Result<Option<VarInt>> {
        iroh_blobs::util::SendStream::stopped(&mut self.inner).await
    }

    fn id(&self) -> u64 {
        iroh_blobs::util::SendStream::id(&self.inner)
    }
}
