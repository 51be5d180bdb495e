//! What the worker remembers between two looks. Nothing here needs to survive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flair_protocol::commit::Aggregate;
use flair_protocol::id::{BranchId, CommitId, RepositoryId};

use crate::api::types::Problem;

/// After a failure the next attempt comes after this long, then twice that, and so on.
const REST: Duration = Duration::from_millis(500);
/// Longest rest.
const LONGEST: Duration = Duration::from_secs(30);
/// Fetches at once.
const FETCHES: usize = 8;

/// Commits that are being fetched.
type Flying = Arc<Mutex<BTreeSet<(RepositoryId, CommitId)>>>;

/// The worker's notes.
#[derive(Debug, Default)]
pub struct Desk {
    rests: Mutex<BTreeMap<(RepositoryId, CommitId), (u32, Instant)>>,
    turns: Mutex<BTreeMap<BranchId, (CommitId, Instant)>>,
    /// Why nothing more is fetched of a repository.
    full: Mutex<BTreeMap<RepositoryId, Problem>>,
    flying: Flying,
}

/// A fetch that is under way, until this is dropped.
#[derive(Debug)]
pub struct Flight {
    flying: Flying,
    of: (RepositoryId, CommitId),
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of);
    }
}

impl Desk {
    /// Whether a commit failed lately and is left alone for a while.
    pub fn resting(&self, repo: RepositoryId, commit: CommitId) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.get(&(repo, commit)).is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// A place for one more fetch; none when the commit is being fetched already, or as many as may be.
    pub fn take(&self, repo: RepositoryId, commit: CommitId) -> Option<Flight> {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        let free = flying.len() < FETCHES && flying.insert((repo, commit));
        free.then(|| Flight { flying: self.flying.clone(), of: (repo, commit) })
    }

    /// Leaves a commit that failed alone for a while.
    pub fn rest(&self, repo: RepositoryId, commit: CommitId) {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let (failures, until) = rests.entry((repo, commit)).or_insert((0, Instant::now()));
        *until = Instant::now() + REST.saturating_mul(1 << (*failures).min(8)).min(LONGEST);
        *failures += 1;
    }

    /// Notes that a fetch was refused for want of space, or that one was not.
    pub fn fill(&self, repo: RepositoryId, problem: Option<Problem>) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => full.insert(repo, problem),
            None => full.remove(&repo),
        };
    }

    /// Why the last fetch of a repository was refused, if it was for want of space.
    pub fn full(&self, repo: RepositoryId) -> Option<Problem> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).get(&repo).cloned()
    }

    /// Tries everything again at once: a peer came.
    pub fn refresh(&self) {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.full.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
