//! What the worker remembers between two looks. Nothing here needs to survive a restart.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flair_protocol::commit::Aggregate;
use flair_protocol::id::{BranchId, CommitId, RepositoryId};

/// After a failure the next attempt comes after this long, then twice that, and so on.
const REST: Duration = Duration::from_millis(500);
/// Longest rest.
const LONGEST: Duration = Duration::from_secs(30);

/// The worker's notes.
#[derive(Debug, Default)]
pub struct Desk {
    rests: Mutex<BTreeMap<(RepositoryId, CommitId), (u32, Instant)>>,
    turns: Mutex<BTreeMap<BranchId, (CommitId, Instant)>>,
}

impl Desk {
    /// Whether a commit failed lately and is left alone for a while.
    pub fn resting(&self, repo: RepositoryId, commit: CommitId) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.get(&(repo, commit)).is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// Leaves a commit that failed alone for a while.
    pub fn rest(&self, repo: RepositoryId, commit: CommitId) {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let (failures, until) = rests.entry((repo, commit)).or_insert((0, Instant::now()));
        *until = Instant::now() + REST.saturating_mul(1 << (*failures).min(8)).min(LONGEST);
        *failures += 1;
    }

    /// Tries everything again at once: a peer came.
    pub fn refresh(&self) {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether this node has waited long enough to aggregate onto the recipe's parent.
    pub fn turn(&self, recipe: &Aggregate, wait: Duration) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = turns.entry(recipe.branch).or_insert((recipe.parent, Instant::now()));
        if entry.0 != recipe.parent {
            *entry = (recipe.parent, Instant::now());
        }
        entry.1.elapsed() >= wait
    }
}
