//! Getting the model of a first commit, an update or an attested aggregate from peers, and checking all of it.

use std::sync::Arc;

use flair_protocol::commit::{Commit, Described};
use flair_protocol::id::{ArchitectureId, CommitId, Digest, ModelId, StateId};
use flair_protocol::limits;
use flair_protocol::model::{Manifest, State as ModelState};
use flair_protocol::state::{CommitInfo, Publication, State};
use flair_tensors::PackError;
use tokio::sync::watch;

use super::keep;
use super::trust::source;
use crate::api::types::{Code, Problem};
use crate::hub::Hub;
use crate::models::Model;
use crate::net::NodeKey;
use crate::net::transfer::{FetchError, FetchLimits, Reason};
use crate::network::{Network, hash};
use crate::repository::Repository;
use crate::shelf::Held;
use crate::store::{Hold, StoreError};

/// Blobs may be a little larger than what they hold: the index, tables, what did not shrink.
const SLACK: u64 = 64 * 1024;
/// Points for sending something other than was asked for; 100 ban.
const LIE: f64 = 50.0;

/// Why a commit is not held after a fetch.
#[derive(Debug)]
pub enum Failed {
    /// Its bytes are here and wrong, which is the same on every node.
    Faulty(String),
    /// It can be tried again: nobody had it, the disk was full.
    Later(Problem),
}

impl<E: Into<Problem>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Later(error.into())
    }
}

/// Where blobs come from that are not in the store yet.
enum Supply<'a> {
    Peers {
        network: &'a Network,
        /// Who is asked, in this order.
        providers: Vec<NodeKey>,
    },
    /// Nowhere: what is needed is in the store, or missing.
    Store,
}

impl Supply<'_> {
    /// Brings a blob of at most `max` bytes into the store, unless it is there.
    async fn blob(&self, hub: &Hub, blob: Digest, max: u64) -> Result<(), Failed> {
        if hub.store.has(blob).await? {
            return Ok(());
        }
        match self {
            Self::Peers { network, providers } => {
                let fetched = network.transfer().fetch_blob(hash(blob), providers, max, None).await;
                fetched.map(drop).map_err(|error| absent(&error))
            }
            Self::Store => Err(StoreError::Absent { blob }.into()),
        }
    }
}

/// Fetches the model of `commit` from peers.
///
/// # Errors
/// [`Failed::Faulty`] when the author got it wrong, [`Failed::Later`] otherwise.
pub async fn fetch(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    commit: CommitId,
) -> Result<(), Failed> {
    let Some(network) = hub.network.get() else { return Err(Problem::offline("no node is running").into()) };
    let publication = state.commits.get(&commit).and_then(source);
    let author = publication.map_or(hub.me(), |publication| publication.person);
    let providers = providers(hub, repository, author.as_bytes()).await;
    if providers.is_empty() {
        return Err(Problem::offline("no peer is connected that could have it").into());
    }
    take(hub, repository, state, commit, &Supply::Peers { network, providers }).await
}

/// Takes over the model of `commit` from blobs that were brought into the store, as if they had been fetched.
///
/// # Errors
/// As [`fetch`].
pub async fn adopt(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    commit: CommitId,
) -> Result<(), Failed> {
    take(hub, repository, state, commit, &Supply::Store).await
}

async fn take(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    commit: CommitId,
    supply: &Supply<'_>,
) -> Result<(), Failed> {
    let Some(info) = state.commits.get(&commit) else {
        return Err(Problem::missing("no such commit").into());
    };
    let Some(publication) = source(info) else {
        return Err(Problem::missing("nobody published it").into());
    };
    let claim = Claim::of(state, commit, info)?;
    let hold = hub.store.hold();
    hold.keep(claim.model.digest()).await;
    hold.keep_pack(publication.pack.digest()).await;

    let manifest = fetch_manifest(hub, claim.model, supply).await?;
    if manifest.architecture()? != claim.architecture {
        return Err(Failed::Faulty("its model has another architecture than it says".into()));
    }
    if manifest.bytes() != claim.bytes {
        return Err(Failed::Faulty("its model has another size than it says".into()));
    }
    let base = match pack_base(hub, repository, state, commit, info.commit.as_ref()).await? {
        None => None,
        Some(Err(why)) => return Err(Failed::Faulty(why)),
        Some(Ok(base)) => {
            let same = base.manifest.side == manifest.side
                && base.manifest.files.len() == manifest.files.len()
                && base
                    .manifest
                    .files
                    .iter()
                    .zip(&manifest.files)
                    .all(|(a, b)| a.name == b.name && a.header == b.header);
            if !same {
                return Err(Failed::Faulty("its headers or side files differ from its base's".into()));
            }
            Some(base)
        }
    };
    quota(hub, repository, publication.pack_bytes).await?;
    for side in &manifest.side {
        hold.keep(side.blob).await;
        supply.blob(hub, side.blob, side.length.min(limits::SIDE_FILE)).await?;
    }
    let carried = match claim.state {
        None => ModelState::default(),
        Some(id) => fetch_state(hub, &hold, id, supply).await?,
    };
    carried.fits(&manifest).map_err(|error| Failed::Faulty(error.to_string()))?;
    let model_now = Model { manifest, state: carried };
    if let Supply::Peers { network, providers } = supply {
        fetch_pack(hub, repository, (network, providers), (commit, publication), &model_now).await?;
    }
    let base_listed = base.map(|base| base.listed()).unwrap_or_default();
    let listings = model_now.listings();
    match hub.store.adopt_pack(&hold, publication.pack.digest(), &listings, &base_listed).await {
        Ok(_) => {}
        // What a later version made is not wrong: when this one is replaced, it is looked at again.
        Err(error @ StoreError::Pack { problem: PackError::Codec { .. }, .. }) => return Err(error.into()),
        Err(error @ (StoreError::Pack { .. } | StoreError::Tensor { .. })) => {
            return Err(Failed::Faulty(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    }
    let side = model_now.manifest.side.iter().map(|side| side.blob).collect();
    let (model, state, attested) = (claim.model, claim.state, claim.state.is_some());
    let held = Held { model, state, pack: publication.pack, side, attested };
    let before = repository.shelf().held(commit);
    // It may have been run meanwhile, which is worth more than what others say.
    if before.as_ref().is_some_and(|before| !before.attested) {
        return Ok(());
    }
    keep(hub, repository, commit, before.as_ref(), held).await?;
    hub.tell(
        "repository",
        Some(repository.id()),
        format!("{} {} is here", info.commit.kind(), commit.short()),
    );
    Ok(())
}

/// Fetches a pack with all its blobs.
async fn fetch_pack(
    hub: &Arc<Hub>,
    repository: &Repository,
    (network, providers): (&Network, &[NodeKey]),
    (commit, publication): (CommitId, &Publication),
    model: &Model,
) -> Result<(), Failed> {
    let (progress, mut seen) = watch::channel(0);
    let (told, repo, total) = (hub.clone(), repository.id(), publication.pack_bytes);
    let watcher = tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let done = *seen.borrow_and_update();
            told.progress(repo, format!("fetching {}", commit.short()), done, total);
        }
    });
    let files = u64::try_from(model.manifest.tensors().count()).unwrap_or(u64::MAX);
    let wide = model.carried().fold(0u64, |sum, (_, carried)| sum.saturating_add(carried.length));
    let bytes = model.manifest.bytes().saturating_add(wide);
    let max_bytes = bytes.saturating_add(files.saturating_add(2).saturating_mul(SLACK));
    let limits = FetchLimits { max_bytes, ..FetchLimits::default() };
    let root = hash(publication.pack.digest());
    let fetched = network.transfer().fetch_pack(root, providers, limits, Some(progress)).await;
    watcher.abort();
    let failures = match &fetched {
        Ok(stats) => &stats.failures[..],
        Err(FetchError::Incomplete { failures, .. }) => failures,
        Err(_) => &[],
    };
    for liar in failures.iter().filter(|failure| failure.reason == Reason::Lied) {
        let _ = network.net().penalise(liar.provider, LIE, liar.to_string()).await;
    }
    let stats = match fetched {
        Ok(stats) => stats,
        // The list is what its hash says, so this is its publisher's doing, whoever sent it.
        Err(error @ FetchError::NotAPack { .. }) => return Err(Failed::Faulty(error.to_string())),
        Err(error) => return Err(absent(&error)),
    };
    tracing::info!(commit = %commit.short(), bytes = stats.bytes, received = stats.received, "fetched");
    Ok(())
}

/// What a commit says its model is.
struct Claim {
    model: ModelId,
    architecture: ArchitectureId,
    bytes: u64,
    /// Of an aggregate or merge: what it carries forward.
    state: Option<StateId>,
}

impl Claim {
    fn of(state: &State, commit: CommitId, info: &CommitInfo) -> Result<Self, Problem> {
        let missing = || Problem::missing("what its model was made of is not here");
        let Described { model, architecture, bytes } = state.described(commit).ok_or_else(missing)?;
        Ok(match info.commit.as_ref() {
            recipe if recipe.is_recipe() => {
                let result = info.result.ok_or_else(|| Problem::missing("nobody claims a result of it"))?;
                // Headers and side files come down from the last model that a commit names.
                Self { model: result.model, architecture, bytes, state: Some(result.state) }
            }
            _ => Self { model, architecture, bytes, state: None },
        })
    }
}

/// The model that a commit's pack is encoded against. The inner error says why an update can't be right.
async fn pack_base(
    hub: &Hub,
    repository: &Repository,
    state: &State,
    commit: CommitId,
    body: &Commit,
) -> Result<Option<Result<Model, String>>, Problem> {
    if let Commit::Update(_) = body {
        return base_of(hub, repository, body).await;
    }
    let Some(base) = state.pack_base(commit) else { return Ok(None) };
    let absent = || Problem::conflict(format!("{}, on which it is encoded, is not here yet", base.short()));
    let held = repository.shelf().held(base).ok_or_else(absent)?;
    Ok(Some(Ok(Model::load(&hub.store, &held).await?)))
}

/// The author first, then everybody connected for this repository.
async fn providers(hub: &Hub, repository: &Repository, author: &NodeKey) -> Vec<NodeKey> {
    let me = hub.me();
    let mut peers: Vec<NodeKey> = repository
        .engine(|engine| {
            let asked = engine.peers().map(|status| status.peer);
            let asked = asked.filter(|peer| *peer != me && hub.doors.asks(repository.id(), *peer));
            asked.map(|peer| *peer.as_bytes()).collect()
        })
        .await;
    peers.sort_by_key(|peer| (peer != author, *peer));
    peers
}

async fn fetch_manifest(hub: &Hub, model: ModelId, supply: &Supply<'_>) -> Result<Manifest, Failed> {
    supply.blob(hub, model.digest(), limits::MANIFEST as u64).await?;
    let bytes = hub.store.read_all(model.digest(), limits::MANIFEST as u64).await?;
    Manifest::decode(&bytes).map_err(|error| Failed::Faulty(error.to_string()))
}

async fn fetch_state(hub: &Hub, hold: &Hold, id: StateId, supply: &Supply<'_>) -> Result<ModelState, Failed> {
    hold.keep(id.digest()).await;
    supply.blob(hub, id.digest(), limits::STATE as u64).await?;
    let bytes = hub.store.read_all(id.digest(), limits::STATE as u64).await?;
    ModelState::decode(&bytes).map_err(|error| Failed::Faulty(error.to_string()))
}

fn absent(error: &FetchError) -> Failed {
    Failed::Later(Problem::offline(error.to_string()))
}

/// The model that an update was trained from; none for other commits. The inner error says why the update can't
/// be right.
///
/// # Errors
/// The base is not here yet, or the store fails.
pub async fn base_of(
    hub: &Hub,
    repository: &Repository,
    commit: &Commit,
) -> Result<Option<Result<Model, String>>, Problem> {
    let Commit::Update(update) = commit else { return Ok(None) };
    let shelf = repository.shelf();
    if shelf.faulty(update.base).is_some() {
        return Ok(Some(Err(format!("its base {} is faulty", update.base.short()))));
    }
    let Some(held) = shelf.held(update.base) else {
        return Err(Problem::conflict(format!("its base {} is not here yet", update.base.short())));
    };
    if held.model != update.base_model {
        return Ok(Some(Err(format!(
            "it was trained from model {}, but its base {} has model {}",
            update.base_model.short(),
            update.base.short(),
            held.model.short()
        ))));
    }
    Ok(Some(Ok(Model::load(&hub.store, &held).await?)))
}

/// Refuses what would make the repository, or all of them, larger here than the user allows.
///
/// # Errors
/// [`Code::Full`], with the setting to change.
pub async fn quota(hub: &Hub, repository: &Repository, more: u64) -> Result<(), Problem> {
    let refuse = |what: &str, quota: u64, used: u64, key: &str| {
        let text =
            format!("{more} more bytes would exceed the quota of {what}: {used} of {quota} bytes are used");
        let path = hub.home.path().join("config.toml");
        Err(Problem::new(Code::Full, text).help(format!(
            "raise {key} in {} and start the node again, or make room: `flair du` shows what takes it",
            path.display()
        )))
    };
    let id = repository.id();
    let (used, quota) = (hub.store.bytes(id.digest()).await?, hub.config.quota(&id.to_string()));
    if used.saturating_add(more) > quota {
        let key = format!("`quota_bytes`, or in `[quotas]` that of {},", id.short());
        return refuse("this repository", quota, used, &key);
    }
    if let Some(quota) = hub.config.quota_total_bytes {
        let used = hub.store.referenced_bytes().await?;
        if used.saturating_add(more) > quota {
            return refuse("all repositories together", quota, used, "`quota_total_bytes`");
        }
    }
    Ok(())
}
