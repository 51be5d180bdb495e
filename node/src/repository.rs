//! One repository on this node: its sync engine, its evaluated state, and the only way to sign and publish.
//!
//! Whoever drives the engine does so through [`Repository::drive`], which writes what the engine wants written
//! before anything else happens; what is to be sent comes out only after that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use flair_protocol::engine::{Engine, Input, Output};
use flair_protocol::graph::Graph;
use flair_protocol::id::{Digest, OperationId, RepositoryId};
use flair_protocol::key::SecretKey;
use flair_protocol::operation::{Body, Operation};
use flair_protocol::state::State;
use tokio::sync::Mutex;

use crate::api::types::Problem;
use crate::copies::COPIED;
use crate::shelf::Shelf;
use crate::store::{Batch, Store};

/// Milliseconds since 1970, for people.
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// One repository.
#[derive(Debug)]
pub struct Repository {
    id: RepositoryId,
    store: Store,
    shelf: Shelf,
    start: Instant,
    /// Whether the home is a copy that has not heard yet what its owner signed; see [`copies`](crate::copies).
    copied: AtomicBool,
    /// What the disk did not give back when the repository was loaded.
    lost: Lost,
    inner: Mutex<Inner>,
}

/// Operations that were here and were not to be had when the repository was loaded. Peers send them again.
#[derive(Debug, Default)]
struct Lost {
    /// Damaged on this disk.
    damaged: Vec<OperationId>,
    /// Whole, but with a damaged one in their past.
    waiting: Vec<OperationId>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    /// Evaluated from the engine's graph; none when that grew since.
    state: Option<Arc<State>>,
    /// Operations the state was evaluated from.
    evaluated: usize,
}

/// What goes to disk together with an operation.
#[derive(Debug, Default)]
pub struct Extras {
    /// Local facts to set.
    pub facts: Vec<(String, Vec<u8>)>,
    /// Blobs and pack roots that the operation refers to.
    pub refer: Vec<Digest>,
    /// Local facts to remove, each with blobs and pack roots that are referred to once less if it was there.
    pub drops: Vec<(String, Vec<Digest>)>,
}

impl Extras {
    fn add_to(self, batch: &mut Batch) {
        batch.facts.extend(self.facts.into_iter().map(|(name, value)| (name, Some(value))));
        batch.references.extend(self.refer.into_iter().map(|blob| (blob, 1)));
        batch.drops.extend(self.drops);
    }
}

impl Repository {
    /// Loads the repository from the store, without the operations that the disk damaged and those that follow them.
    ///
    /// # Errors
    /// A database that can't be read.
    pub async fn load(id: RepositoryId, store: Store) -> Result<Self, Problem> {
        let rows = store.operations(id.digest()).await?;
        // What is on disk was checked before it was written; it is checked again, because a disk can lie too.
        let operations = tokio::task::spawn_blocking(move || sound(id, &rows));
        let (operations, lost) = operations.await.map_err(Problem::internal)?;
        if !lost.damaged.is_empty() {
            let (damaged, waiting) = (lost.damaged.len(), lost.waiting.len());
            tracing::error!(repository = %id.short(), damaged, waiting, "operations are damaged on this disk");
        }
        let mut seed = [0; 8];
        seed.copy_from_slice(&id.as_bytes()[..8]);
        let seed = u64::from_le_bytes(seed) ^ wall() ^ u64::from(std::process::id());
        let engine = Engine::new(id, operations, seed).map_err(Problem::internal)?;
        let inner = Mutex::new(Inner { engine, state: None, evaluated: 0 });
        let shelf = Shelf::load(&store, id).await?;
        let copied = AtomicBool::new(store.fact(id.digest(), COPIED).await?.is_some());
        Ok(Self { id, store, shelf, start: Instant::now(), copied, lost, inner })
    }

    /// Its id.
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// What this node has of its commits.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the operations here mean.
    pub async fn state(&self) -> Arc<State> {
        self.inner.lock().await.state()
    }

    /// Reads the graph.
    pub async fn graph<T>(&self, read: impl FnOnce(&Graph) -> T) -> T {
        read(self.inner.lock().await.engine.graph())
    }

    /// Operations that the disk damaged and that have not come again, and how many others wait for them.
    pub async fn lost(&self) -> (Vec<OperationId>, usize) {
        if self.lost.damaged.is_empty() {
            return (Vec::new(), 0);
        }
        self.graph(|graph| self.lost.left(graph)).await
    }

    /// Reads the engine: peers, join requests that wait.
    pub async fn engine<T>(&self, read: impl FnOnce(&Engine) -> T) -> T {
        read(&self.inner.lock().await.engine)
    }

    /// Tells the engine what happened. Gives back what is to be sent; everything to be written is on disk then.
    pub async fn drive(&self, inputs: Vec<Input>) -> Vec<Output> {
        let mut inner = self.inner.lock().await;
        for input in inputs {
            inner.engine.handle(self.now(), input);
        }
        self.settle(&mut inner).await
    }

    /// When the engine wants to be driven again: milliseconds from now.
    pub async fn due(&self) -> Option<u64> {
        let deadline = self.inner.lock().await.engine.deadline()?;
        Some(deadline.saturating_sub(self.now()))
    }

    async fn settle(&self, inner: &mut Inner) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = inner.engine.poll() {
            let Output::Store(operations) = output else {
                outputs.push(output);
                continue;
            };
            let ids: Vec<OperationId> = operations.iter().map(Operation::id).collect();
            let answer = match self.write(&operations).await {
                Ok(()) => Input::Stored { ids },
                Err(problem) => {
                    tracing::error!(repository = %self.id.short(), %problem, "operations were not written");
                    Input::StoreFailed { ids }
                }
            };
            inner.engine.handle(self.now(), answer);
        }
        outputs
    }

    async fn write(&self, operations: &[Operation]) -> Result<(), Problem> {
        let mut batch = Batch::new(self.id.digest());
        for operation in operations {
            batch = batch.operation(operation.id().digest(), operation.encode()?);
        }
        Ok(self.store.publish(batch).await?)
    }

    /// Signs `body` and publishes it: on disk first, together with `extras`, then out.
    ///
    /// # Errors
    /// An operation that would have no effect is not signed: the reason is told instead. A full disk.
    pub async fn publish(
        &self,
        key: &SecretKey,
        body: Body,
        extras: Extras,
    ) -> Result<(OperationId, Vec<Output>), Problem> {
        let mut inner = self.inner.lock().await;
        self.sure(&inner.engine).await?;
        let mut position = inner.engine.graph().position(key.public(), wall());
        position.policy = inner.state().revision();
        let sequence = position.seq;
        let operation = Operation::sign(key, position, body)?;
        let id = operation.id();
        let mut trial = inner.engine.graph().clone();
        trial.insert(operation.clone()).map_err(Problem::internal)?;
        let state = State::evaluate(&trial);
        if let Some(void) = state.void.get(&id) {
            let role = state.role(key.public());
            let mut problem = Problem::denied(format!("you may not do this here: {void}"));
            if role.is_none() {
                problem = Problem::denied("you have no role in this repository")
                    .help("ask for one with `flair join`, or with a ticket that holds an invite");
            }
            return Err(problem);
        }
        if let Some(why) = state.idle.get(&id) {
            return Err(Problem::denied(why.to_string()));
        }
        let mut batch = Batch::new(self.id.digest())
            .operation(id.digest(), operation.encode()?)
            .sequence(sequence.saturating_add(1));
        extras.add_to(&mut batch);
        self.store.publish(batch).await?;
        inner.engine.handle(self.now(), Input::Local { operation: Box::new(operation), stored: true });
        inner.evaluated = trial.len();
        inner.state = Some(Arc::new(state));
        let outputs = self.settle(&mut inner).await;
        Ok((id, outputs))
    }

    /// Checks that what this person signed before is here, where the home is a copy or the disk damaged some of it.
    async fn sure(&self, engine: &Engine) -> Result<(), Problem> {
        let (damaged, waiting) = self.lost.left(engine.graph());
        if !damaged.is_empty() || waiting > 0 {
            return Err(Problem::conflict(format!(
                "{} operations of this repository are damaged on this disk, and {waiting} follow them: signing without them \
                 could use a number twice, which would void your work",
                damaged.len()
            ))
            .help("`flair fsck` gets them again once a peer is connected that has them"));
        }
        if !self.copied.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !engine.peers().any(|peer| peer.caught_up) {
            return Err(Problem::conflict(
                "this home was copied, or restored from a backup, and no peer has told yet what it signed since: signing \
                 now could use a number twice, which would void your work",
            )
            .help(
                "start the node with a peer connected and try again; or, if nothing was signed with this key since, \
                 `flair-node doctor --trust`",
            ));
        }
        self.store.publish(Batch::new(self.id.digest()).forget(COPIED)).await?;
        self.copied.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sets local facts and references, without an operation.
    ///
    /// # Errors
    /// A full disk.
    pub async fn note(&self, extras: Extras) -> Result<(), Problem> {
        let mut batch = Batch::new(self.id.digest());
        extras.add_to(&mut batch);
        Ok(self.store.publish(batch).await?)
    }
}

impl Lost {
    /// What of it is not in `graph` yet.
    fn left(&self, graph: &Graph) -> (Vec<OperationId>, usize) {
        let gone = |id: &&OperationId| !graph.contains(**id);
        (self.damaged.iter().filter(gone).copied().collect(), self.waiting.iter().filter(gone).count())
    }
}

/// The operations that are what their ids say, with all of their past.
fn sound(id: RepositoryId, rows: &[(Digest, Vec<u8>)]) -> (Vec<Operation>, Lost) {
    let mut lost = Lost::default();
    let mut whole = BTreeMap::new();
    for (name, bytes) in rows {
        let name = OperationId::from_digest(*name);
        match Operation::decode(bytes, id) {
            Ok(operation) if operation.id() == name => {
                whole.insert(operation.order(), operation);
            }
            _ => lost.damaged.push(name),
        }
    }
    let mut kept = BTreeSet::new();
    let mut operations = Vec::with_capacity(whole.len());
    // A Lamport time is higher than its dependencies': this order puts them first.
    for operation in whole.into_values() {
        if operation.header().deps.iter().all(|dep| kept.contains(dep)) {
            kept.insert(operation.id());
            operations.push(operation);
        } else {
            lost.waiting.push(operation.id());
        }
    }
    (operations, lost)
}

impl Inner {
    fn state(&mut self) -> Arc<State> {
        let graph = self.engine.graph();
        match &self.state {
            Some(state) if self.evaluated == graph.len() => state.clone(),
            _ => {
                let state = Arc::new(State::evaluate(graph));
                self.evaluated = graph.len();
                self.state = Some(state.clone());
                state
            }
        }
    }
}
