//! Every command of `flair`, as a method. The control API calls these and nothing else, whether a node runs or the
//! command opened the home by itself.

mod audit;
mod branches;
mod bundles;
mod clone;
mod diff;
mod document;
mod evaluations;
mod export;
mod external;
mod fsck;
mod history;
mod import;
mod local;
mod lora;
mod merge;
mod moves;
mod people;
mod policy;
mod privacy;
mod publish;
mod reviews;
pub mod rules;
mod setup;
mod simulate;
mod status;
mod steps;
mod trial;
mod usage;
mod views;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flair_protocol::id::{BranchId, CommitId, ModelId};
use flair_protocol::key::PersonId;
use flair_protocol::state::{Branch, State};
use tokio::sync::broadcast;

use crate::api::types::{
    Done, Event, Identity, NodeStatus, Peer, PeerRequest, Place, Problem, Repository as RepositoryView,
    SeedRequest,
};
use crate::folder::{Folder, write};
use crate::home::{Config, Home};
use crate::hub::{Hub, SEED};
use crate::repository::{Extras, Repository};
use crate::worker::trust::contradicted;
use crate::{network, worker};

/// Fact of a repository: a working folder on this machine.
const FOLDER: &str = "folder/";

/// The commands of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct Service {
    hub: Arc<Hub>,
}

impl Service {
    /// Opens a home without a network: what needs a peer is refused.
    ///
    /// # Errors
    /// A home in use, damaged, or of a newer version.
    pub async fn offline(home: Home) -> Result<Self, Problem> {
        let config = home.config()?;
        Ok(Self { hub: Hub::open(home, config).await? })
    }

    /// Opens a home, its network, and starts to work.
    ///
    /// # Errors
    /// As [`offline`](Self::offline), and addresses that can't be used.
    pub async fn online(home: Home, config: Config) -> Result<Self, Problem> {
        let hub = Hub::open(home, config).await?;
        network::start(&hub).await?;
        tokio::spawn(worker::run(hub.clone()));
        Ok(Self { hub })
    }

    /// Closes everything; returns when all is on disk.
    pub async fn close(&self) {
        self.hub.close().await;
    }

    /// Turns true when the node is to stop.
    pub async fn stopped(&self) {
        self.hub.stopped().await;
    }

    /// Asks the node to stop.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async)] // Every command has one shape.
    pub async fn shutdown(&self) -> Result<Done, Problem> {
        let _ = self.hub.stop.send(true);
        Ok(Done { words: vec!["the node is stopping".into()] })
    }

    /// Who this node is.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async)] // Every command has one shape.
    pub async fn identity(&self) -> Result<Identity, Problem> {
        Ok(Identity {
            key: self.hub.me().to_string(),
            home: self.hub.home.path().display().to_string(),
            node: self.hub.network.get().is_some(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// How the node is.
    ///
    /// # Errors
    /// None.
    pub async fn node_status(&self) -> Result<NodeStatus, Problem> {
        let identity = self.identity().await?;
        let repositories = self.hub.repositories().await.len() as u64;
        let mut status = NodeStatus {
            identity,
            addresses: Vec::new(),
            blobs: Vec::new(),
            peers: 0,
            repositories,
            sent: 0,
            received: 0,
            work: Vec::new(),
        };
        if let Some(network) = self.hub.network.get() {
            status.addresses = network.public_addresses().await;
            status.blobs = network.transfer().addrs().iter().map(ToString::to_string).collect();
            status.peers = network.net().peers().await.map_or(0, |peers| peers.len() as u64);
            status.sent = network.transfer().sent_bytes();
            status.received = network.transfer().received_bytes();
        }
        Ok(status)
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.hub.events.subscribe()
    }

    /// Peers that are connected or banned.
    ///
    /// # Errors
    /// The network is stopping.
    pub async fn peers(&self) -> Result<Vec<Peer>, Problem> {
        let Some(network) = self.hub.network.get() else { return Ok(Vec::new()) };
        let mut names = std::collections::BTreeMap::new();
        for repository in self.hub.repositories().await {
            for (person, member) in &repository.state().await.members {
                if !member.name.is_empty() {
                    names.insert(*person.as_bytes(), member.name.clone());
                }
            }
        }
        let view = |key: [u8; 32]| (PersonId::from_bytes(key).to_string(), names.get(&key).cloned());
        let mut peers = Vec::new();
        for peer in network.net().peers().await.map_err(Problem::internal)? {
            let (key, name) = view(peer.key);
            let addresses = peer.addrs.iter().map(ToString::to_string).collect();
            #[allow(clippy::cast_possible_truncation)]
            let score = -(peer.score.round() as i64);
            peers.push(Peer { key, name, addresses, connected: true, banned: false, score });
        }
        for ban in network.net().bans().await.map_err(Problem::internal)? {
            let (key, name) = view(ban.key);
            peers.push(Peer { key, name, addresses: vec![], connected: false, banned: true, score: -100 });
        }
        Ok(peers)
    }

    /// Dials an address, or lifts a ban.
    ///
    /// # Errors
    /// No node, nobody there, a text that is no address or key.
    pub async fn peer(&self, request: PeerRequest) -> Result<Done, Problem> {
        let network = self.network()?;
        let mut words = Vec::new();
        if let Some(text) = request.connect {
            let peer = self.dial(&text, Duration::from_secs(10)).await?;
            words.push(format!("connected to {peer}; the node stays connected with it"));
        }
        if let Some(text) = request.lift {
            let key: PersonId = text.parse().map_err(|error| Problem::invalid(format!("{error}")))?;
            let lifted = network.net().lift(*key.as_bytes()).await.map_err(Problem::internal)?;
            words.push(if lifted {
                format!("{key} is not banned any more")
            } else {
                format!("{key} was not banned")
            });
        }
        Ok(Done { words })
    }

    /// Repositories here.
    ///
    /// # Errors
    /// A damaged store.
    pub async fn repositories(&self) -> Result<Vec<RepositoryView>, Problem> {
        let mut views = Vec::new();
        for repository in self.hub.repositories().await {
            let id = repository.id();
            let state = repository.state().await;
            let folders = self.hub.store.facts(id.digest(), FOLDER).await?;
            let folders: Vec<String> =
                folders.iter().filter_map(|(name, _)| name.strip_prefix(FOLDER)).map(str::to_owned).collect();
            let branches = state
                .open_branches()
                .map(|branch| views::branch(&state, &repository, branch, None))
                .collect();
            views.push(RepositoryView {
                repo: id.to_string(),
                name: state.name.clone(),
                private: state.private(),
                role: views::role(&state, self.hub.me()),
                seeding: self.hub.seeding(id).await?,
                operations: repository.graph(|graph| graph.len() as u64).await,
                fingerprint: state.fingerprint().to_string(),
                branches,
                folders,
            });
        }
        Ok(views)
    }

    /// Follows a repository, or stops.
    ///
    /// # Errors
    /// No such repository.
    pub async fn seed(&self, request: SeedRequest) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        self.set_seeding(&repository, request.seed).await?;
        let name = repository.state().await.name.clone();
        let words = if request.seed {
            format!("following {name}: what is new is fetched and served while the node runs")
        } else {
            format!("not following {name} any more: nothing is fetched or served; what is here stays")
        };
        Ok(Done { words: vec![words] })
    }

    async fn set_seeding(&self, repository: &Arc<Repository>, seed: bool) -> Result<(), Problem> {
        let facts = vec![(SEED.to_owned(), if seed { b"1".to_vec() } else { b"0".to_vec() })];
        repository.note(Extras { facts, ..Extras::default() }).await?;
        self.hub.ask(repository.id(), seed);
        if seed {
            network::follow(&self.hub, repository).await;
            self.hub.wake.notify_one();
        } else {
            network::unfollow(&self.hub, repository).await;
        }
        Ok(())
    }

    fn network(&self) -> Result<&network::Network, Problem> {
        self.hub.network.get().ok_or_else(|| {
            Problem::offline("this needs a running node").help("start one with `flair-node start`")
        })
    }

    /// The repository and, where one is meant, the working folder.
    async fn locate(&self, place: &Place) -> Result<(Arc<Repository>, Option<Folder>), Problem> {
        let mut folder = None;
        if let Some(path) = &place.folder {
            match Folder::find(path) {
                Ok(mut found) => {
                    write::resume(&mut found)?;
                    folder = Some(found);
                }
                Err(error) if place.repo.is_none() => {
                    return Err(Problem::from(error).help(
                        "go to a working folder, or name a repository with `--repo` (see `flair list`)",
                    ));
                }
                Err(_) => {}
            }
        }
        if let Some(text) = &place.repo {
            let repository = self.find_repository(text).await?;
            let folder = folder.filter(|folder| folder.state.repo == repository.id());
            return Ok((repository, folder));
        }
        let Some(folder) = folder else {
            return Err(
                Problem::invalid("no repository named").help("name one with `--repo` (see `flair list`)")
            );
        };
        let repository = self.hub.repository(folder.state.repo).await.ok_or_else(|| {
            Problem::missing(format!(
                "repository {} of this folder is not in this home",
                folder.state.repo.short()
            ))
            .help("is FLAIR_HOME the home that made the folder? Else clone again into another folder")
        })?;
        Ok((repository, Some(folder)))
    }

    /// The repository and the working folder, which must be one.
    async fn work(&self, place: &Place) -> Result<(Arc<Repository>, Folder), Problem> {
        match self.locate(place).await? {
            (repository, Some(folder)) => Ok((repository, folder)),
            (_, None) => {
                Err(Problem::invalid("this needs a working folder").help("go to one, or name it with `-C`"))
            }
        }
    }

    async fn find_repository(&self, text: &str) -> Result<Arc<Repository>, Problem> {
        let mut found = Vec::new();
        for repository in self.hub.repositories().await {
            if repository.id().to_string().starts_with(text) || repository.state().await.name == text {
                found.push(repository);
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Problem::missing(format!("no repository `{text}` here"))
                .help("`flair list` shows what is here")),
            count => {
                Err(Problem::invalid(format!("`{text}` is {count} repositories")).help("give more of the id"))
            }
        }
    }

    /// Waits until `ready` gives something, as operations and blobs come in; none when time is up.
    async fn wait<T, F: Future<Output = Option<T>>>(
        &self,
        limit: Duration,
        ready: impl Fn() -> F,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        let mut events = self.events();
        loop {
            if let Some(done) = ready().await {
                return Some(done);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let _ = tokio::time::timeout(left.min(Duration::from_millis(200)), events.recv()).await;
        }
    }
}

/// The commit that `text` names: a branch's head, an id or an unambiguous prefix of one.
fn find_commit(state: &State, text: &str) -> Result<CommitId, Problem> {
    if let Some(branch) = state.branch(text) {
        return branch.head.ok_or_else(|| Problem::missing(format!("branch `{text}` has no commit yet")));
    }
    let found: Vec<CommitId> =
        state.commits.keys().copied().filter(|commit| commit.to_string().starts_with(text)).collect();
    match (found.as_slice(), text.len() >= 4) {
        ([commit], true) => Ok(*commit),
        ([], _) | (_, false) => Err(Problem::missing(format!("no branch or commit `{text}` here"))
            .help("`flair log` and `flair branch` show what there is; a prefix needs 4 characters")),
        (several, _) => Err(Problem::invalid(format!("`{text}` begins {} commits", several.len()))
            .help("give more of the id")),
    }
}

/// The open branch that `text` names, or that of the folder, or `main`, or the only one.
fn find_branch<'a>(
    state: &'a State,
    text: Option<&str>,
    folder: Option<&Folder>,
) -> Result<&'a Branch, Problem> {
    if let Some(text) = text {
        return state.branch(text).ok_or_else(|| {
            Problem::missing(format!("no branch `{text}` here")).help("`flair branch` shows what there is")
        });
    }
    if let Some(folder) = folder {
        let branch = state.branches.get(&folder.state.branch);
        return branch.ok_or_else(|| Problem::missing("the branch of this folder is not known here"));
    }
    let only = || state.open_branches().next().filter(|_| state.open_branches().count() == 1);
    state
        .branch("main")
        .or_else(only)
        .ok_or_else(|| Problem::invalid("which branch? `flair branch` shows what there is"))
}

/// The newest commit on a branch's path whose model this node has run or fetched itself, or taken as others attest it
/// and nobody contradicts.
fn checked_head(repository: &Repository, state: &State, branch: BranchId) -> Option<CommitId> {
    let branch = state.branches.get(&branch)?;
    let shelf = repository.shelf();
    let good = |commit: &CommitId| shelf.holds(*commit) && contradicted(state, shelf, *commit).is_empty();
    branch.path.iter().rev().copied().find(good)
}

/// The model of a commit, where it is known: named by its author, or run by this node.
fn model_of(repository: &Repository, state: &State, commit: CommitId) -> Option<ModelId> {
    match state.commits.get(&commit)?.commit.described() {
        Some(described) => Some(described.model),
        None => repository.shelf().held(commit).map(|held| held.model),
    }
}

/// What to call a person.
fn name_of(state: &State, person: PersonId) -> String {
    match state.members.get(&person).map(|member| member.name.as_str()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!("…{}", person.short()),
    }
}
