//! One simulated node: an engine, a disk, and an author who signs.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{Engine, Peer, RequestId};
use crate::id::{OperationId, RepositoryId};
use crate::key::SecretKey;
use crate::operation::Operation;

/// Whom to send an answer to, on which connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) peer: Peer,
    pub(super) id: RequestId,
    pub(super) connection: u64,
}

pub(super) struct Node {
    pub(super) key: SecretKey,
    /// None while it is down.
    pub(super) engine: Option<Engine>,
    /// What survives a crash.
    pub(super) disk: BTreeMap<OperationId, Operation>,
    /// Being written: a crash may or may not lose it.
    pub(super) writing: Vec<Operation>,
    /// Counts starts, so that what belonged to an earlier life is dropped.
    pub(super) life: u64,
    /// When this life began: an engine's clock starts at 0.
    pub(super) born: u64,
    /// The next tick that is scheduled.
    pub(super) tick: Option<u64>,
    /// Requests to answer.
    pub(super) replies: BTreeMap<u64, Reply>,
    /// Gossip to pass on if its verdict is to accept, and who passed it to us.
    pub(super) heard: BTreeMap<u64, (OperationId, usize)>,
    /// Gossip seen in this life.
    pub(super) seen: BTreeSet<OperationId>,
    /// Signed, and not in the set yet.
    pub(super) signing: Option<OperationId>,
    /// Own operations that the node was told are stored.
    pub(super) acknowledged: Vec<OperationId>,
}

impl Node {
    pub(super) fn new(key: SecretKey) -> Self {
        Self {
            key,
            engine: None,
            disk: BTreeMap::new(),
            writing: Vec::new(),
            life: 0,
            born: 0,
            tick: None,
            replies: BTreeMap::new(),
            heard: BTreeMap::new(),
            seen: BTreeSet::new(),
            signing: None,
            acknowledged: Vec::new(),
        }
    }

    /// Starts from what is on disk.
    pub(super) fn start(&mut self, repo: RepositoryId, now: u64, seed: u64) -> Result<(), String> {
        let snapshot = self.disk.values().cloned().collect();
        let engine = Engine::new(repo, snapshot, seed)
            .map_err(|error| format!("what is on disk is not a closed set: {error}"))?;
        self.engine = Some(engine);
        self.life += 1;
        self.born = now;
        Ok(())
    }

    /// Stops at once. What was being written is on disk if `flushed`, else gone.
    pub(super) fn crash(&mut self, flushed: bool) {
        let writing = std::mem::take(&mut self.writing);
        if flushed {
            self.disk.extend(writing.into_iter().map(|operation| (operation.id(), operation)));
        }
        self.engine = None;
        self.tick = None;
        self.replies.clear();
        self.heard.clear();
        self.seen.clear();
        self.signing = None;
    }
}
