//! What this node has of each commit: facts about this machine, kept beside a repository's operations.
//!
//! A commit is *held* when its model is here whole and checked. An aggregate is held when this node ran the recipe
//! itself. The one exception is a repository that was cloned without its history: its old aggregates, up to the
//! generation that was newest then, are taken over as *attested* by enough members, and are marked so: this node
//! never attests them itself. An update is *faulty* when its bytes are here and provably not what the commit says;
//! that is the same on every node, because all of it is named by content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use flair_protocol::cbor::{self, CborError};
use flair_protocol::commit::Outcome;
use flair_protocol::id::{CommitId, Digest, ModelId, PackId, RepositoryId, StateId};
use serde::{Deserialize, Serialize};

use crate::api::types::Problem;
use crate::store::Store;

const HELD: &str = "held/";
const FAULTY: &str = "faulty/";
/// Up to which generation aggregates are taken over as attested.
const SINCE: &str = "since";
const LIMIT: usize = 64 * 1024;

/// A model that is here, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The model.
    pub model: ModelId,
    /// What an aggregate carries forward; none for other commits.
    pub state: Option<StateId>,
    /// The pack with its tensors.
    pub pack: PackId,
    /// Side files.
    pub side: Vec<Digest>,
    /// An aggregate that was taken over as others attested it: this node has not run it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attested: bool,
}

impl Held {
    /// The fact to write beside the operation or fetch that brought it.
    ///
    /// # Errors
    /// None in practice.
    pub fn fact(&self, commit: CommitId) -> Result<(String, Vec<u8>), CborError> {
        Ok((format!("{HELD}{commit}"), cbor::encode("held", self)?))
    }

    /// Blobs and pack roots to refer to.
    pub fn blobs(&self) -> Vec<Digest> {
        let state = self.state.map(StateId::digest);
        [self.model.digest(), self.pack.digest()]
            .into_iter()
            .chain(state)
            .chain(self.side.iter().copied())
            .collect()
    }

    /// An aggregate's result.
    pub fn outcome(&self) -> Option<Outcome> {
        Some(Outcome { model: self.model, state: self.state? })
    }

    /// An aggregate's result that this node got itself.
    pub fn own_outcome(&self) -> Option<Outcome> {
        self.outcome().filter(|_| !self.attested)
    }
}

/// Whether the fact that a commit is held is on disk already, and with it the references to its blobs.
///
/// # Errors
/// A damaged store.
pub async fn noted(store: &Store, repo: RepositoryId, commit: CommitId) -> Result<bool, Problem> {
    Ok(store.fact(repo.digest(), &format!("{HELD}{commit}")).await?.is_some())
}

/// Everything that is on disk as held, whether or not all of it is right.
///
/// # Errors
/// A damaged store.
pub async fn all_noted(store: &Store, repo: RepositoryId) -> Result<Vec<(CommitId, Held)>, Problem> {
    let mut noted = Vec::new();
    for (name, value) in store.facts(repo.digest(), HELD).await? {
        noted.push((commit(&name, HELD)?, cbor::decode("held", &value, LIMIT)?));
    }
    Ok(noted)
}

/// The fact that an update's bytes are wrong.
pub fn faulty_fact(commit: CommitId, why: &str) -> (String, Vec<u8>) {
    (format!("{FAULTY}{commit}"), why.as_bytes().to_vec())
}

/// The fact that aggregates up to a generation are taken over as attested.
pub fn since_fact(generation: u64) -> (String, Vec<u8>) {
    (SINCE.to_owned(), generation.to_le_bytes().to_vec())
}

/// The name of that fact, to forget it.
pub fn since_name() -> String {
    SINCE.to_owned()
}

/// What this node has of one repository's commits.
#[derive(Debug, Default)]
pub struct Shelf {
    held: RwLock<BTreeMap<CommitId, Held>>,
    faulty: RwLock<BTreeMap<CommitId, String>>,
    /// Attested aggregates whose bytes were not what the attesters said: these are run.
    doubted: RwLock<BTreeSet<CommitId>>,
    since: RwLock<Option<u64>>,
    /// A clone under way has not decided yet what it needs.
    undecided: AtomicBool,
}

impl Shelf {
    /// Reads it from the store. A commit of which something was lost or damaged on disk is not held: it is fetched, or
    /// run, again.
    ///
    /// # Errors
    /// A damaged store.
    pub async fn load(store: &Store, repo: RepositoryId) -> Result<Self, Problem> {
        let shelf = Self::default();
        let missing: BTreeSet<Digest> =
            store.missing().into_iter().flat_map(|missing| [missing.root, missing.blob]).collect();
        for (commit, held) in all_noted(store, repo).await? {
            if held.blobs().iter().any(|blob| missing.contains(blob)) {
                tracing::warn!(commit = %commit.short(), "a part of it is missing or damaged on disk: getting it again");
            } else {
                shelf.hold(commit, held);
            }
        }
        for (name, value) in store.facts(repo.digest(), FAULTY).await? {
            shelf.fault(commit(&name, FAULTY)?, String::from_utf8_lossy(&value).into_owned());
        }
        if let Some(value) = store.fact(repo.digest(), SINCE).await? {
            let generation = value.as_slice().try_into().map(u64::from_le_bytes);
            shelf.begin(Some(
                generation.map_err(|_| Problem::internal("the store has a damaged fact `since`"))?,
            ));
        }
        Ok(shelf)
    }

    /// Where the model of `commit` is.
    pub fn held(&self, commit: CommitId) -> Option<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(&commit).cloned()
    }

    /// Whether the model of `commit` is here.
    pub fn holds(&self, commit: CommitId) -> bool {
        self.held.read().unwrap_or_else(PoisonError::into_inner).contains_key(&commit)
    }

    /// What is wrong with an update's bytes.
    pub fn faulty(&self, commit: CommitId) -> Option<String> {
        self.faulty.read().unwrap_or_else(PoisonError::into_inner).get(&commit).cloned()
    }

    /// Whether nothing is left to fetch or run of a commit.
    pub fn settled(&self, commit: CommitId) -> bool {
        match self.held(commit) {
            Some(held) => !held.attested || self.since().is_some(),
            None => self.faulty(commit).is_some(),
        }
    }

    /// Up to which generation aggregates are taken over as attested; none where all history is wanted.
    pub fn since(&self) -> Option<u64> {
        *self.since.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets [`since`](Self::since); the fact is on disk already.
    pub fn begin(&self, generation: Option<u64>) {
        *self.since.write().unwrap_or_else(PoisonError::into_inner) = generation;
    }

    /// Whether nothing is to be fetched yet, because a clone has not decided what it needs.
    pub fn undecided(&self) -> bool {
        self.undecided.load(Ordering::Acquire)
    }

    /// Sets [`undecided`](Self::undecided).
    pub fn decide(&self, undecided: bool) {
        self.undecided.store(undecided, Ordering::Release);
    }

    /// Notes that what others attest of an aggregate can't be: it is run.
    pub fn doubt(&self, commit: CommitId) {
        self.doubted.write().unwrap_or_else(PoisonError::into_inner).insert(commit);
    }

    /// Whether what others attest of an aggregate was found not to be.
    pub fn doubts(&self, commit: CommitId) -> bool {
        self.doubted.read().unwrap_or_else(PoisonError::into_inner).contains(&commit)
    }

    /// Notes that a model is here; the fact is on disk already.
    pub fn hold(&self, commit: CommitId, held: Held) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(commit, held);
    }

    /// Notes that something of a model was lost or damaged on disk: it is fetched, or run, again.
    pub fn lose(&self, commit: CommitId) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).remove(&commit);
    }

    /// Notes that an update's bytes are wrong; the fact is on disk already.
    pub fn fault(&self, commit: CommitId, why: String) {
        self.faulty.write().unwrap_or_else(PoisonError::into_inner).insert(commit, why);
    }

    /// Everything that is held.
    pub fn all(&self) -> Vec<(CommitId, Held)> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|(commit, held)| (*commit, held.clone())).collect()
    }
}

fn commit(name: &str, prefix: &str) -> Result<CommitId, Problem> {
    name.strip_prefix(prefix)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::internal(format!("the store has a fact named `{name}` that can't be read")))
}
