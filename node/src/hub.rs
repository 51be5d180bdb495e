//! What service, worker and network share: home, stores, key, repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use flair_protocol::engine::{self, Input, Output};
use flair_protocol::id::{OperationId, RepositoryId};
use flair_protocol::key::{PublicKey, SecretKey};
use flair_protocol::operation::{Body, Operation};
use tokio::sync::{Notify, RwLock, broadcast, watch};

use crate::api::types::{Code, Event, Problem};
use crate::copies;
use crate::doors::{self, Doors, Who};
use crate::home::{Config, Follow, Home};
use crate::network::Network;
use crate::repository::{Extras, Repository};
use crate::store::{Batch, GLOBAL, Store};
use crate::worker::Desk;

/// Fact of a repository: followed, or not.
pub const SEED: &str = "seed";
/// Events a slow listener may be behind before it misses some.
const EVENTS: usize = 1_024;
/// Repositories a node that follows all takes in: as many as it can gossip about.
const ADOPTED: usize = crate::net::swarm::MAX_TOPICS;

/// What all parts of a node share.
#[derive(Debug)]
pub struct Hub {
    /// The home, owned while this lives.
    pub home: Home,
    /// Settings.
    pub config: Config,
    /// Blobs, operations, facts.
    pub store: Store,
    /// The secret key.
    pub key: SecretKey,
    /// The network, where there is one.
    pub network: OnceLock<Network>,
    /// What happens, for whoever watches.
    pub events: broadcast::Sender<Event>,
    /// Wakes the worker.
    pub wake: Notify,
    /// What the worker is at.
    pub desk: Desk,
    /// Who may know what, and which blobs may leave.
    pub doors: Doors,
    /// Held by whoever sets the doors, so that a later state is not followed by an earlier one.
    setting: tokio::sync::Mutex<()>,
    /// Held by whoever spends privacy, so that two commits don't spend the same.
    pub spending: tokio::sync::Mutex<()>,
    /// Turns true when the node is to stop.
    pub stop: watch::Sender<bool>,
    repositories: RwLock<BTreeMap<RepositoryId, Arc<Repository>>>,
    /// Repositories that a command asked for since the start.
    asked: Mutex<BTreeSet<RepositoryId>>,
}

impl Hub {
    /// Opens a home: key, settings, stores, repositories. No network.
    ///
    /// # Errors
    /// A home in use, damaged, or of a newer version.
    pub async fn open(home: Home, config: Config) -> Result<Arc<Self>, Problem> {
        let key = SecretKey::from_bytes(&home.secret()?);
        let store = Store::open(&home).await?;
        copies::look(&home, &store).await?;
        let hub = Arc::new(Self {
            home,
            config,
            store: store.clone(),
            key,
            network: OnceLock::new(),
            events: broadcast::channel(EVENTS).0,
            wake: Notify::new(),
            desk: Desk::default(),
            doors: Doors::default(),
            setting: tokio::sync::Mutex::default(),
            spending: tokio::sync::Mutex::default(),
            stop: watch::channel(false).0,
            repositories: RwLock::default(),
            asked: Mutex::default(),
        });
        for id in store.repositories().await? {
            hub.load(RepositoryId::from_digest(id)).await?;
        }
        Ok(hub)
    }

    /// This person.
    pub fn me(&self) -> PublicKey {
        self.key.public()
    }

    /// All repositories here.
    pub async fn repositories(&self) -> Vec<Arc<Repository>> {
        self.repositories.read().await.values().cloned().collect()
    }

    /// One repository.
    pub async fn repository(&self, id: RepositoryId) -> Option<Arc<Repository>> {
        self.repositories.read().await.get(&id).cloned()
    }

    /// A repository that is here, or an empty one to be fetched into.
    ///
    /// # Errors
    /// A damaged store.
    pub async fn load(&self, id: RepositoryId) -> Result<Arc<Repository>, Problem> {
        if let Some(known) = self.repository(id).await {
            return Ok(known);
        }
        let repository = Arc::new(Repository::load(id, self.store.clone()).await?);
        // The door stands before there is anything behind it.
        self.set_door(&repository).await;
        for (_, held) in repository.shelf().all() {
            self.doors.publish(id, &held);
        }
        let mut all = self.repositories.write().await;
        Ok(all.entry(id).or_insert(repository).clone())
    }

    /// Sets who may know of a repository, by what is on disk of it. Gives back whom it was open to by name and is not
    /// any more; none when nothing changed.
    async fn set_door(&self, repository: &Repository) -> Option<Vec<PublicKey>> {
        let _one_by_one = self.setting.lock().await;
        // A public repository stays so: there is nothing to evaluate.
        if self.doors.public(repository.id()) {
            return None;
        }
        let who = match repository.graph(|graph| (graph.is_empty(), graph.private())).await {
            (true, _) => Who::Unsaid,
            (false, false) => Who::Everybody,
            (false, true) => {
                let state = repository.state().await;
                let (lost, waiting) = repository.lost().await;
                let damaged = !lost.is_empty() || waiting > 0;
                repository.graph(|graph| doors::readers(&state, graph, damaged)).await
            }
        };
        self.doors.set(repository.id(), who)
    }

    /// Whether this node follows a repository: fetches and serves what is new.
    ///
    /// # Errors
    /// A damaged store.
    pub async fn seeding(&self, id: RepositoryId) -> Result<bool, Problem> {
        if self.config.follow == Follow::None
            && !self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
        {
            return Ok(false);
        }
        Ok(self.store.fact(id.digest(), SEED).await?.is_some_and(|value| value == b"1"))
    }

    /// Notes that a command asked for a repository: it is followed even by a node that follows none by itself.
    pub fn ask(&self, id: RepositoryId, wanted: bool) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted {
            asked.insert(id)
        } else {
            asked.remove(&id)
        };
    }

    /// Follows a repository that a peer has: for a node that follows all it hears of.
    ///
    /// # Errors
    /// There are enough, or the store fails.
    pub async fn adopt(self: &Arc<Self>, id: RepositoryId, from: PublicKey) -> Result<(), Problem> {
        let count = self.repositories.read().await.len();
        if count >= ADOPTED {
            return Err(Problem::conflict(format!("{count} repositories are here already")));
        }
        let repository = self.load(id).await?;
        self.doors.host(id, from);
        let facts = vec![(SEED.to_owned(), b"1".to_vec())];
        repository.note(Extras { facts, ..Extras::default() }).await?;
        crate::network::follow(self, &repository).await;
        Ok(())
    }

    /// Signs and publishes in `repository`; what is to be sent goes out.
    ///
    /// # Errors
    /// As [`Repository::publish`].
    pub async fn publish(
        self: &Arc<Self>,
        repository: &Arc<Repository>,
        body: Body,
        extras: Extras,
    ) -> Result<OperationId, Problem> {
        let (id, outputs) = repository.publish(&self.key, body, extras).await?;
        self.dispatch(repository, outputs).await;
        self.wake.notify_one();
        Ok(id)
    }

    /// Tells a repository's engine what happened, and sends what it wants sent.
    ///
    /// Boxed, because an answer can lead to the next question.
    pub fn drive<'a>(
        self: &'a Arc<Self>,
        repository: &'a Arc<Repository>,
        inputs: Vec<Input>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let outputs = repository.drive(inputs).await;
            self.dispatch(repository, outputs).await;
        })
    }

    /// Takes in operations that came in a file, each after what it follows.
    ///
    /// # Errors
    /// One that can't be taken in: those before it are. A full disk.
    pub async fn bring(
        self: &Arc<Self>,
        repository: &Arc<Repository>,
        operations: Vec<Operation>,
    ) -> Result<(), Problem> {
        let ids: Vec<OperationId> = operations.iter().map(Operation::id).collect();
        let inputs = operations.into_iter().map(|operation| Input::Brought(Box::new(operation))).collect();
        let outputs = repository.drive(inputs).await;
        let refused = outputs.iter().find_map(|output| match output {
            Output::Notify(engine::Event::Refused { id, why }) => Some((*id, why.to_string())),
            _ => None,
        });
        self.dispatch(repository, outputs).await;
        if let Some((id, why)) = refused {
            return Err(Problem::invalid(format!("operation {} can't be taken in: {why}", id.short())));
        }
        if repository.graph(|graph| ids.iter().all(|id| graph.contains(*id))).await {
            Ok(())
        } else {
            Err(Problem::new(Code::Full, "operations could not be written").help("is the disk full?"))
        }
    }

    async fn dispatch(self: &Arc<Self>, repository: &Arc<Repository>, outputs: Vec<Output>) {
        let news = |output: &Output| matches!(output, Output::Notify(engine::Event::Operations { .. }));
        // Before anything else is done about them: they may say that somebody may not read any more.
        if outputs.iter().any(news)
            && let Some(removed) = self.set_door(repository).await
        {
            crate::network::doors_changed(self, repository, &removed).await;
        }
        if self.network.get().is_some() {
            crate::network::dispatch(self, repository, outputs).await;
        }
    }

    /// Tells whoever watches.
    pub fn tell(&self, kind: &str, repo: Option<RepositoryId>, text: impl Into<String>) {
        let (kind, repo, text) = (kind.to_owned(), repo.map(|repo| repo.to_string()), text.into());
        tracing::info!(kind, repo, "{text}");
        // Nobody watching is fine.
        let _ = self.events.send(Event { kind, repo, text, done: None, total: None });
    }

    /// Tells how far something has come, of a repository or none.
    pub fn progress(
        &self,
        repo: impl Into<Option<RepositoryId>>,
        text: impl Into<String>,
        done: u64,
        total: u64,
    ) {
        let repo = repo.into().map(|repo| repo.to_string());
        let (kind, text) = ("progress".to_owned(), text.into());
        let _ = self.events.send(Event { kind, repo, text, done: Some(done), total: Some(total) });
    }

    /// Sets a fact of the node.
    ///
    /// # Errors
    /// A full disk.
    pub async fn note(&self, name: String, value: Option<Vec<u8>>) -> Result<(), Problem> {
        let mut batch = Batch::new(GLOBAL);
        batch.facts.push((name, value));
        Ok(self.store.publish(batch).await?)
    }

    /// Returns when the node is to stop.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as this: it can't be gone.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Closes the stores; nothing works after that.
    pub async fn close(&self) {
        let _ = self.stop.send(true);
        if let Some(network) = self.network.get() {
            network.shutdown().await;
        }
        self.store.close().await;
    }
}
