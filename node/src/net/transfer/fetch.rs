//! Fetching a blob or a hash sequence from whoever has it.
//!
//! What is missing is cut into batches; up to four providers take batches from one queue, each over one request
//! at a time. A provider that fails is not asked again in this fetch, and what its batch still lacks goes back
//! into the queue. Sizes are checked when a blob's header arrives, before any of its data is taken; they are
//! proven by the data that follows.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    num::NonZeroU64,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use iroh::endpoint::ReadError;
use iroh_blobs::{
    Hash, HashAndFormat,
    api::{Store, TempTag, blobs::Bitfield},
    get::fsm::{
        AtBlobHeader, AtBlobHeaderNextError, AtConnected, AtEndBlob, BlobContentNext, ConnectedNext,
        DecodeError, EndBlobNext, RequestCounters,
    },
    protocol::{ChunkRanges, GetRequest},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{Failure, FetchError, FetchLimits, FetchStats, Reason, Transfer, lock, shown};
use crate::net::NodeKey;

/// Providers asked at once.
const PARALLEL: usize = 4;
/// Blobs in one request at most, which keeps it far below the size a provider reads.
const BATCH: usize = 1024;

/// Something to fetch: the root (offset 0) or a child (its index plus one).
#[derive(Debug, Clone)]
struct Item {
    offset: u64,
    hash: Hash,
    ranges: ChunkRanges,
}

/// One fetch.
struct Fetch {
    transfer: Transfer,
    store: Store,
    root: Hash,
    limits: FetchLimits,
    progress: Option<watch::Sender<u64>>,
    /// Providers that are free, by preference.
    providers: BTreeMap<usize, NodeKey>,
    stats: FetchStats,
    /// Keeps garbage collection off what came.
    _tag: TempTag,
}

/// Fetches one blob.
pub(super) async fn blob(
    transfer: &Transfer,
    hash: [u8; 32],
    providers: &[NodeKey],
    limits: FetchLimits,
    progress: Option<watch::Sender<u64>>,
) -> Result<FetchStats, FetchError> {
    let root = HashAndFormat::raw(Hash::from_bytes(hash));
    let mut fetch = Fetch::new(transfer, root, providers, limits, progress).await?;
    fetch.stats.bytes = fetch.root(limits.max_bytes, "bytes").await?;
    fetch.stats.blobs = 1;
    Ok(fetch.stats)
}

/// Fetches a hash sequence and what it lists.
pub(super) async fn pack(
    transfer: &Transfer,
    root: [u8; 32],
    providers: &[NodeKey],
    limits: FetchLimits,
    progress: Option<watch::Sender<u64>>,
) -> Result<FetchStats, FetchError> {
    let content = HashAndFormat::hash_seq(Hash::from_bytes(root));
    let mut fetch = Fetch::new(transfer, content, providers, limits, progress).await?;
    let length = fetch.root(32 * limits.max_children as u64, "bytes of list").await?;
    if !length.is_multiple_of(32) {
        return Err(FetchError::NotAPack { hash: root, length });
    }
    let list = fetch.store.get_bytes(fetch.root).await.map_err(|error| fetch.store_failed(&error))?;
    let (hashes, _) = list.as_chunks::<32>();
    fetch.children(&hashes.iter().map(|hash| Hash::from_bytes(*hash)).collect::<Vec<_>>()).await?;
    Ok(fetch.stats)
}

impl Fetch {
    async fn new(
        transfer: &Transfer,
        content: HashAndFormat,
        providers: &[NodeKey],
        limits: FetchLimits,
        progress: Option<watch::Sender<u64>>,
    ) -> Result<Self, FetchError> {
        let hash = *content.hash.as_bytes();
        let store = transfer.inner.store.get();
        let tag = store.tags().temp_tag(content).await;
        let tag = tag.map_err(|error| FetchError::Store { hash, reason: error.to_string() })?;
        let us = transfer.key();
        let mut seen = BTreeSet::new();
        let providers =
            providers.iter().filter(|p| **p != us && seen.insert(**p)).copied().enumerate().collect();
        Ok(Self {
            transfer: transfer.clone(),
            store,
            root: content.hash,
            limits,
            progress,
            providers,
            stats: FetchStats::default(),
            _tag: tag,
        })
    }

    fn store_failed(&self, error: &impl ToString) -> FetchError {
        FetchError::Store { hash: *self.root.as_bytes(), reason: error.to_string() }
    }

    async fn have(&self, hash: Hash) -> Result<Bitfield, FetchError> {
        self.store.observe(hash).await.map_err(|error| self.store_failed(&error))
    }

    /// Makes the root complete and returns its size, at most `limit`.
    async fn root(&mut self, limit: u64, unit: &'static str) -> Result<u64, FetchError> {
        let have = self.have(self.root).await?;
        if !have.is_complete() {
            let item = Item { offset: 0, hash: self.root, ranges: missing(&have) };
            let budget = Budget::new(limit, BTreeMap::new());
            self.run(vec![item], &budget).await?;
            self.verify_root_is_here().await?;
        }
        let size = self.have(self.root).await?.size();
        if size > limit {
            return Err(FetchError::TooLarge { hash: *self.root.as_bytes(), found: size, limit, unit });
        }
        Ok(size)
    }

    async fn verify_root_is_here(&self) -> Result<(), FetchError> {
        if self.have(self.root).await?.is_complete() {
            return Ok(());
        }
        Err(self.store_failed(&"the blob is not complete after it was fetched"))
    }

    /// Makes all children complete.
    async fn children(&mut self, hashes: &[Hash]) -> Result<(), FetchError> {
        // Garbage collection may have been at work on a child that was here when this began; once more finds it.
        for _ in 0..3 {
            let mut seen = BTreeSet::new();
            let (mut items, mut here, mut so_far) = (Vec::new(), BTreeMap::new(), 0);
            for (index, hash) in hashes.iter().enumerate() {
                if !seen.insert(*hash) {
                    continue;
                }
                let have = self.have(*hash).await?;
                so_far += have.total_bytes();
                if have.is_complete() {
                    here.insert(*hash, have.size());
                } else {
                    items.push(Item { offset: index as u64 + 1, hash: *hash, ranges: missing(&have) });
                }
            }
            let budget = Budget::new(self.limits.max_bytes, here);
            if budget.total() > self.limits.max_bytes {
                return Err(FetchError::TooLarge {
                    hash: *self.root.as_bytes(),
                    found: budget.total(),
                    limit: self.limits.max_bytes,
                    unit: "bytes",
                });
            }
            if let Some(progress) = &self.progress {
                progress.send_replace(so_far);
            }
            self.stats.bytes = budget.total();
            self.stats.blobs = seen.len();
            if items.is_empty() {
                return Ok(());
            }
            self.run(items, &budget).await?;
        }
        Err(self.store_failed(&"blobs vanish while they are fetched"))
    }

    /// Fetches `items` from the providers.
    async fn run(&mut self, items: Vec<Item>, budget: &Budget) -> Result<(), FetchError> {
        let hash = *self.root.as_bytes();
        if self.providers.is_empty() && self.stats.failures.is_empty() {
            return Err(FetchError::NoProviders { hash });
        }
        let parallel = self.providers.len().clamp(1, PARALLEL);
        // Several batches for each provider, so that a fast one takes more of them.
        let batch = items.len().div_ceil(if parallel == 1 { 1 } else { parallel * 4 }).clamp(1, BATCH);
        let queue: Queue = Arc::new(Mutex::new(items.chunks(batch).map(<[Item]>::to_vec).collect()));
        let mut workers = JoinSet::new();
        loop {
            while workers.len() < PARALLEL.min(lock(&queue).len() + workers.len())
                && workers.len() < PARALLEL
                && let Some((rank, provider)) = self.providers.pop_first()
            {
                let worker = Worker {
                    transfer: self.transfer.clone(),
                    store: self.store.clone(),
                    provider,
                    rank,
                    root: self.root,
                    stall: self.limits.stall,
                    budget: budget.clone(),
                    progress: self.progress.clone(),
                    received: 0,
                    counted: RequestCounters::default(),
                };
                workers.spawn(worker.run(queue.clone()));
            }
            // A worker that panicked took its batch along: the caller looks again for what is missing.
            let Some(Ok(outcome)) = workers.join_next().await else { break };
            self.stats.received += outcome.received;
            *self.stats.providers.entry(outcome.provider).or_default() += outcome.received;
            match outcome.failure {
                None => {
                    self.providers.insert(outcome.rank, outcome.provider);
                }
                Some(failure) => {
                    tracing::debug!(%failure, "a provider could not finish");
                    self.transfer.forget_connection(&failure.provider);
                    if let Reason::Store(reason) = failure.reason {
                        return Err(FetchError::Store { hash: failure.hash, reason });
                    }
                    self.stats.failures.push(failure);
                }
            }
        }
        if lock(&queue).is_empty() {
            return Ok(());
        }
        let failures = std::mem::take(&mut self.stats.failures);
        let sizes =
            failures.iter().map(|f| if let Reason::TooLarge { size } = f.reason { Some(size) } else { None });
        // When all agree that it is too large, that is what the user has to know.
        if let Some(least) = sizes.collect::<Option<Vec<_>>>().and_then(|sizes| sizes.into_iter().min()) {
            let found = budget.total().saturating_add(least);
            return Err(FetchError::TooLarge { hash, found, limit: budget.limit, unit: "bytes" });
        }
        Err(FetchError::Incomplete { hash, failures })
    }
}

type Queue = Arc<Mutex<VecDeque<Vec<Item>>>>;

/// What a blob still lacks.
fn missing(have: &Bitfield) -> ChunkRanges {
    ChunkRanges::all() - &have.ranges
}

/// The sizes of the blobs of one fetch, as far as they are known, and what they may come to.
#[derive(Debug, Clone)]
struct Budget {
    limit: u64,
    sizes: Arc<Mutex<BTreeMap<Hash, u64>>>,
}

impl Budget {
    fn new(limit: u64, sizes: BTreeMap<Hash, u64>) -> Self {
        Self { limit, sizes: Arc::new(Mutex::new(sizes)) }
    }

    fn total(&self) -> u64 {
        lock(&self.sizes).values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// Books `size` for a blob, in place of what was booked for it before. `false` if that is too much.
    fn book(&self, hash: Hash, size: u64) -> bool {
        let before = lock(&self.sizes).insert(hash, size);
        if self.total() <= self.limit {
            return true;
        }
        self.unbook(hash, before);
        false
    }

    fn unbook(&self, hash: Hash, before: Option<u64>) {
        let mut sizes = lock(&self.sizes);
        match before {
            Some(before) => sizes.insert(hash, before),
            None => sizes.remove(&hash),
        };
    }
}

/// Fetches batches from one provider.
struct Worker {
    transfer: Transfer,
    store: Store,
    provider: NodeKey,
    rank: usize,
    root: Hash,
    stall: Duration,
    budget: Budget,
    progress: Option<watch::Sender<u64>>,
    received: u64,
    /// What of the request under way is booked.
    counted: RequestCounters,
}

struct Outcome {
    provider: NodeKey,
    rank: usize,
    received: u64,
    failure: Option<Failure>,
}

impl Worker {
    async fn run(mut self, queue: Queue) -> Outcome {
        let mut failure = None;
        loop {
            let next = lock(&queue).pop_front();
            let Some(batch) = next else { break };
            let mut at = batch.first().map_or(self.root, |item| item.hash);
            if let Err(reason) = self.fetch(&batch, &mut at).await {
                let rest = self.lacking(batch).await;
                if !rest.is_empty() {
                    lock(&queue).push_front(rest);
                }
                failure = Some(Failure { provider: self.provider, hash: *at.as_bytes(), reason });
                break;
            }
        }
        Outcome { provider: self.provider, rank: self.rank, received: self.received, failure }
    }

    /// What is still missing of a batch that broke off.
    async fn lacking(&self, batch: Vec<Item>) -> Vec<Item> {
        let mut rest = Vec::new();
        for item in batch {
            match self.store.observe(item.hash).await {
                Ok(have) if have.is_complete() => {}
                Ok(have) => rest.push(Item { ranges: missing(&have), ..item }),
                Err(_) => rest.push(item),
            }
        }
        rest
    }

    /// Fetches one batch with one request. `at` follows the blob under way.
    async fn fetch(&mut self, batch: &[Item], at: &mut Hash) -> Result<(), Reason> {
        self.counted = RequestCounters::default();
        let connection = self.transfer.connect(&self.provider).await?;
        let (send, recv) =
            self.in_time(connection.open_bi()).await?.map_err(|error| Reason::Left(error.to_string()))?;
        let request =
            batch.iter().fold(GetRequest::builder(), |r, item| r.offset(item.offset, item.ranges.clone()));
        let connected = AtConnected::new(
            Instant::now().into(),
            recv,
            send,
            request.build(self.root),
            RequestCounters::default(),
        );
        let connected =
            self.in_time(connected.next()).await?.map_err(|error| Reason::Left(error.to_string()))?;
        let by_offset: BTreeMap<u64, Hash> = batch.iter().map(|item| (item.offset, item.hash)).collect();
        let mut next = match connected {
            ConnectedNext::StartRoot(start) => Some((start.next(), self.root)),
            ConnectedNext::StartChild(start) => {
                let hash = by_offset.get(&start.offset()).copied();
                hash.map(|hash| (start.next(hash), hash))
            }
            ConnectedNext::Closing(_) => None,
        };
        while let Some((header, hash)) = next {
            *at = hash;
            let end = self.blob(header, hash).await?;
            next = match end.next() {
                EndBlobNext::MoreChildren(start) => {
                    let hash = by_offset.get(&start.offset()).copied();
                    hash.map(|hash| (start.next(hash), hash))
                }
                EndBlobNext::Closing(_) => None,
            };
        }
        Ok(())
    }

    /// Takes one blob: its size, then its data, each piece checked before the store gets it.
    async fn blob(&mut self, header: AtBlobHeader, hash: Hash) -> Result<AtEndBlob, Reason> {
        let (mut content, size) = self.in_time(header.next()).await?.map_err(|error| of_header(&error))?;
        if !self.budget.book(hash, size) {
            return Err(Reason::TooLarge { size });
        }
        let Some(size) = NonZeroU64::new(size) else {
            // Only one blob is empty.
            if hash != Hash::EMPTY {
                self.budget.unbook(hash, None);
                return Err(Reason::Lied);
            }
            return self.in_time(content.drain()).await?.map_err(|error| of_content(&error));
        };
        tracing::trace!(hash = shown(&hash), size, "a blob begins");
        let import =
            self.store.import_bao(hash, size, 64).await.map_err(|error| Reason::Store(error.to_string()))?;
        let end = loop {
            match self.in_time(content.next()).await? {
                BlobContentNext::More((next, item)) => {
                    let item = item.map_err(|error| {
                        let reason = of_content(&error);
                        if reason == Reason::Lied {
                            self.budget.unbook(hash, None);
                        }
                        reason
                    })?;
                    self.count(&next.stats());
                    if import.tx.send(item).await.is_err() {
                        // The store gave up: it says why below.
                        return Err(Reason::Store(store_reason(import.rx.await)));
                    }
                    content = next;
                }
                BlobContentNext::Done(end) => break end,
            }
        };
        drop(import.tx);
        match import.rx.await {
            Ok(Ok(())) => Ok(end),
            other => Err(Reason::Store(store_reason(other))),
        }
    }

    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, Reason> {
        timeout(self.stall, step).await.map_err(|_| Reason::Stalled)
    }

    /// Books what came since the last call.
    fn count(&mut self, so_far: &RequestCounters) {
        let data = so_far.payload_bytes_read.saturating_sub(self.counted.payload_bytes_read);
        let wire = data + so_far.other_bytes_read.saturating_sub(self.counted.other_bytes_read);
        self.counted = *so_far;
        self.received += wire;
        self.transfer.inner.counters.received.fetch_add(wire, Ordering::Relaxed);
        if let Some(progress) = self.progress.as_ref().filter(|_| data > 0) {
            progress.send_modify(|bytes| *bytes += data);
        }
    }
}

fn of_header(error: &AtBlobHeaderNextError) -> Reason {
    match error {
        AtBlobHeaderNextError::NotFound { .. } => Reason::Missing,
        AtBlobHeaderNextError::Read { source, .. } => of_read(source),
    }
}

fn of_content(error: &DecodeError) -> Reason {
    match error {
        DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. } => Reason::Lied,
        DecodeError::ChunkNotFound { .. }
        | DecodeError::ParentNotFound { .. }
        | DecodeError::LeafNotFound { .. } => Reason::Missing,
        DecodeError::Read { source, .. } => of_read(source),
        other => Reason::Left(other.to_string()),
    }
}

/// A stream that was reset belongs to a provider that does not have more of it; anything else is a broken line.
fn of_read(error: &io::Error) -> Reason {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>()) {
        Some(ReadError::Reset(_)) => Reason::Missing,
        _ => Reason::Left(error.to_string()),
    }
}

fn store_reason<E: ToString>(answer: Result<iroh_blobs::api::Result<()>, E>) -> String {
    match answer {
        Ok(Ok(())) => "it stopped taking data".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}
