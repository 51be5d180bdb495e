//! Removing blobs that nothing refers to, and keeping everybody else away meanwhile.
//!
//! iroh-blobs marks what is live and then deletes the rest. A blob that is added, fetched or referred to between the
//! two would be lost, so whoever does that goes through a gate which a sweep closes. iroh-blobs does not say when a
//! sweep has ended, but it asks for the live blobs before each: that it asks again is how we know. Its sweeps end
//! for good after one error, so one that takes too long has the blob store opened anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use flair_tensors::Digest;
use iroh_blobs::Hash;
use iroh_blobs::store::fs::options::Options;
use iroh_blobs::store::{GcConfig, ProtectOutcome};
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::time::{Instant, sleep, timeout};

use super::database::REFS;
use super::{Inner, Store, StoreError, locked, packs};

/// Pause that iroh-blobs makes between two sweeps; the real pause is ours.
const TICK: Duration = Duration::from_millis(1);
/// How long a sweep waits for a moment when nobody is inside the gate, before it makes newcomers wait.
const POLITE: Duration = Duration::from_secs(2);
/// Pause between two looks at the gate.
const LOOK: Duration = Duration::from_millis(5);
/// A sweep that takes longer is taken for one that ended in an error.
const LONGEST: Duration = Duration::from_secs(30);

/// Keeps blobs from the sweep until it is dropped: take one before adding or fetching, and drop it after the publish
/// that refers to them. Clones share what they keep.
#[derive(Debug, Clone)]
#[must_use = "blobs are kept only as long as the hold lives"]
pub struct Hold {
    pins: Arc<Pins>,
}

#[derive(Debug)]
struct Pins {
    sweeper: Arc<Sweeper>,
    /// The blob, and whether it is a sequence of others that are kept too.
    kept: Mutex<Vec<(Digest, bool)>>,
}

impl Hold {
    /// Keeps a blob, whether or not it is here yet.
    pub async fn keep(&self, blob: Digest) {
        let _gate = self.pins.sweeper.enter().await;
        self.pin(blob, false);
    }

    /// Keeps a pack with all its blobs, whether or not they are here yet. To be called before a fetch.
    pub async fn keep_pack(&self, root: Digest) {
        let _gate = self.pins.sweeper.enter().await;
        self.pin(root, true);
    }

    /// [`keep`](Self::keep) for those inside the gate.
    pub(super) fn pin(&self, blob: Digest, sequence: bool) {
        *locked(&self.pins.sweeper.pins).entry((blob, sequence)).or_default() += 1;
        locked(&self.pins.kept).push((blob, sequence));
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = locked(&self.sweeper.pins);
        for pin in locked(&self.kept).drain(..) {
            if let Some(count) = pins.get_mut(&pin) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(&pin);
                }
            }
        }
    }
}

/// The gate, and who keeps what.
#[derive(Debug)]
pub(super) struct Sweeper {
    pause: Duration,
    gate: Arc<RwLock<()>>,
    pub(super) pins: Mutex<BTreeMap<(Digest, bool), u64>>,
    run: Mutex<Run>,
    /// Number of the last sweep that ended, and whether it did its work.
    finished: watch::Sender<(u64, bool)>,
    wanted: Notify,
    /// Generations of the blob store up to this one have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Run {
    number: u64,
    /// The closed gate, while a sweep is under way.
    closed: Option<OwnedRwLockWriteGuard<()>>,
}

impl Sweeper {
    pub(super) fn new(pause: Duration) -> Self {
        Self {
            pause,
            gate: Arc::default(),
            pins: Mutex::default(),
            run: Mutex::default(),
            finished: watch::Sender::new((0, true)),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
        }
    }

    /// Goes through the gate: no sweep is under way until the guard is dropped. Must not be nested, because a
    /// waiting sweep makes newcomers wait.
    pub(super) async fn enter(&self) -> OwnedRwLockReadGuard<()> {
        self.gate.clone().read_owned().await
    }

    /// Waits until nobody is inside the gate, and keeps it closed until the guard is dropped.
    pub(super) async fn alone(&self) -> OwnedRwLockWriteGuard<()> {
        let deadline = Instant::now() + POLITE;
        while Instant::now() < deadline {
            if let Ok(guard) = self.gate.clone().try_write_owned() {
                return guard;
            }
            sleep(LOOK).await;
        }
        self.gate.clone().write_owned().await
    }

    /// Asks for a sweep soon.
    pub(super) fn ask(&self) {
        self.wanted.notify_one();
    }

    /// Ends the sweeps of the blob store's generations up to `generation`, whose database has been closed.
    pub(super) fn end(&self, generation: u64) {
        self.ended.send_if_modified(|ended| {
            let more = *ended < generation;
            *ended = generation.max(*ended);
            more
        });
        self.finish(false);
    }

    /// Lets nobody wait any more.
    pub(super) fn close(&self) {
        self.finished.send_replace((u64::MAX, false));
    }

    fn begin(&self, guard: OwnedRwLockWriteGuard<()>) -> u64 {
        let mut run = locked(&self.run);
        run.number += 1;
        run.closed = Some(guard);
        run.number
    }

    /// Opens the gate if a sweep had closed it.
    fn finish(&self, well: bool) {
        let mut run = locked(&self.run);
        if run.closed.take().is_some() {
            self.finished.send_replace((run.number, well));
        }
    }

    /// What iroh-blobs' next sweep has to know, once it is time for one.
    async fn round(self: Arc<Self>, inner: Weak<Inner>, generation: u64) -> Round {
        if let Some(inner) = inner.upgrade() {
            inner.pardon().await;
        }
        self.finish(true);
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended >= generation) => return Round::End,
            () = self.wanted.notified() => {}
            () = sleep(self.pause) => {}
        }
        let number = self.begin(self.alone().await);
        let Some(inner) = inner.upgrade() else {
            self.finish(false);
            return Round::Skip;
        };
        match inner.live().await {
            Ok(live) => {
                tokio::spawn(self.clone().watch(Arc::downgrade(&inner), number, generation));
                Round::Sweep(live)
            }
            Err(error) => {
                tracing::warn!(%error, "no sweep: what is in use could not be listed");
                self.finish(false);
                Round::Skip
            }
        }
    }

    /// Opens the blob store anew if a sweep does not end.
    async fn watch(self: Arc<Self>, inner: Weak<Inner>, number: u64, generation: u64) {
        let mut finished = self.finished.subscribe();
        if timeout(LONGEST, finished.wait_for(|(last, _)| *last >= number)).await.is_ok() {
            return;
        }
        let Some(inner) = inner.upgrade() else { return };
        tracing::warn!("a sweep did not end: opening the blob store anew");
        inner.blobs.fail(generation, true).await;
        self.end(generation);
        if let Err(error) = inner.revive().await {
            tracing::warn!(%error, "the blob store stays closed until it is needed");
        }
    }
}

enum Round {
    Sweep(BTreeSet<Digest>),
    Skip,
    End,
}

impl Store {
    /// Something to hold blobs with while they are added or fetched.
    pub fn hold(&self) -> Hold {
        Hold { pins: Arc::new(Pins { sweeper: self.inner.sweeper.clone(), kept: Mutex::default() }) }
    }

    /// Sweeps now, and returns when that is done.
    ///
    /// # Errors
    /// When the sweep could not be made; it is tried again later.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let sweeper = &self.inner.sweeper;
        self.inner.store().await?;
        let mut finished = sweeper.finished.subscribe();
        // The one under way, if any, may have looked before this call.
        let number = locked(&sweeper.run).number + 1;
        sweeper.ask();
        let (_, well) =
            *finished.wait_for(|(last, _)| *last >= number).await.map_err(|_| StoreError::Closed)?;
        if well { Ok(()) } else { Err(StoreError::Blobs("the sweep was interrupted".to_owned())) }
    }
}

impl Inner {
    /// Opens the blob store if it failed, with sweeps.
    pub(super) async fn revive(&self) -> Result<iroh_blobs::store::fs::FsStore, StoreError> {
        let attach = |generation, mut options: Options| {
            self.sweeper.end(generation - 1);
            let (inner, sweeper) = (self.me.clone(), self.sweeper.clone());
            options.gc = Some(GcConfig {
                interval: TICK,
                add_protected: Some(Arc::new(move |live| {
                    protect(live, sweeper.clone(), inner.clone(), generation)
                })),
            });
            options
        };
        self.blobs.revive(attach).await
    }

    /// Everything that is in use: what operations, drafts and holds refer to, and what that needs. Forgets packs
    /// that are not. Only with the gate closed.
    async fn live(self: &Arc<Self>) -> Result<BTreeSet<Digest>, StoreError> {
        let pins: Vec<_> = locked(&self.sweeper.pins).keys().copied().collect();
        let roots: Vec<_> = pins.iter().map(|(blob, _)| *blob).collect();
        let inner = self.clone();
        let mut live = super::blocking(move || inner.referenced(roots)).await?;
        for (root, sequence) in pins {
            if sequence {
                live.extend(self.children(root).await?);
            }
        }
        for blob in locked(&self.doomed).iter() {
            live.remove(blob);
        }
        Ok(live)
    }

    pub(super) fn referenced(&self, mut roots: Vec<Digest>) -> Result<BTreeSet<Digest>, StoreError> {
        let (live, dead) = self.database.read(|transaction| {
            let references = transaction.open_table(REFS)?;
            for row in redb::ReadableTable::iter(&references)? {
                roots.push(Digest::from_bytes(*row?.0.value().0));
            }
            let live = packs::expand(transaction, &roots)?;
            let dead = packs::Dead::find(transaction, &live)?;
            Ok((live, dead))
        })?;
        if !dead.is_empty() {
            self.database.write_later(|transaction| dead.remove(transaction))?;
            self.forget_readers();
        }
        Ok(live)
    }
}

fn protect<'a>(
    live: &'a mut HashSet<Hash>,
    sweeper: Arc<Sweeper>,
    inner: Weak<Inner>,
    generation: u64,
) -> Pin<Box<dyn Future<Output = ProtectOutcome> + Send + Sync + 'a>> {
    // A task, because the future asked for must be `Sync` and most are not.
    let round = tokio::spawn(sweeper.round(inner, generation));
    Box::pin(async move {
        match round.await {
            Ok(Round::Sweep(blobs)) => {
                live.extend(blobs.into_iter().map(|blob| Hash::from(blob.to_bytes())));
                ProtectOutcome::Continue
            }
            // The sweep fails on the closed database, which is how iroh-blobs' task is made to end.
            Ok(Round::End) => ProtectOutcome::Continue,
            Ok(Round::Skip) | Err(_) => ProtectOutcome::Abort,
        }
    })
}
