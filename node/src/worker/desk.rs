//! What the worker remembers between two looks. Nothing here needs to survive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flair_protocol::commit::Aggregate;
use flair_protocol::id::{BranchId, CommitId, RepositoryId};
use tokio::sync::Notify;

use crate::api::types::Problem;

/// After a failure the next attempt comes after this long, then twice that, and so on.
const REST: Duration = Duration::from_millis(500);
/// Longest rest.
const LONGEST: Duration = Duration::from_secs(30);
/// Fetches at once.
const FETCHES: usize = 8;
/// After so many failures in a row nobody is expected to have it.
const UNSERVED: u32 = 3;
/// Commits at most of which is noted since when they are waited for.
const WAITS: usize = 4_096;

/// Commits that are being fetched, and who waits for one of them to be done.
#[derive(Debug, Default)]
struct Flying {
    commits: Mutex<BTreeSet<(RepositoryId, CommitId)>>,
    landed: Notify,
}

/// The worker's notes.
#[derive(Debug, Default)]
pub struct Desk {
    rests: Mutex<BTreeMap<(RepositoryId, CommitId), (u32, Instant)>>,
    turns: Mutex<BTreeMap<BranchId, (CommitId, Instant)>>,
    /// Why nothing more is fetched of a repository.
    full: Mutex<BTreeMap<RepositoryId, Problem>>,
    flying: Arc<Flying>,
    /// Since when an aggregate is waited for that may not be taken yet.
    waits: Mutex<BTreeMap<(RepositoryId, CommitId), Instant>>,
    /// Since when enough is pending on a head.
    idle: Mutex<BTreeMap<BranchId, (CommitId, Instant)>>,
    /// Aggregates that somebody asked to have run.
    asked: Mutex<BTreeSet<(RepositoryId, CommitId)>>,
    /// Repositories of which somebody asked for pending updates.
    gathering: Mutex<BTreeSet<RepositoryId>>,
}

/// A fetch that is under way, until this is dropped.
#[derive(Debug)]
pub struct Flight {
    flying: Arc<Flying>,
    of: (RepositoryId, CommitId),
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flying.commits.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of);
        self.flying.landed.notify_waiters();
    }
}

impl Desk {
    /// Whether a commit failed lately and is left alone for a while.
    pub fn resting(&self, repo: RepositoryId, commit: CommitId) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.get(&(repo, commit)).is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// Whether the last attempts at a commit failed, as often as to expect that the next will.
    pub fn unserved(&self, repo: RepositoryId, commit: CommitId) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.get(&(repo, commit)).is_some_and(|(failures, _)| *failures >= UNSERVED)
    }

    /// Whether a commit is being fetched.
    pub fn flying(&self, repo: RepositoryId, commit: CommitId) -> bool {
        let commits = self.flying.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.contains(&(repo, commit))
    }

    /// For how long an aggregate is waited for, from the first time that this is asked.
    pub fn waited(&self, repo: RepositoryId, commit: CommitId) -> Duration {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.len() >= WAITS && !waits.contains_key(&(repo, commit)) {
            let oldest = waits.iter().min_by_key(|(_, since)| **since).map(|(of, _)| *of);
            oldest.and_then(|of| waits.remove(&of));
        }
        waits.entry((repo, commit)).or_insert_with(Instant::now).elapsed()
    }

    /// For how long enough has been pending on a head, from the first time that this is asked of it.
    pub fn idle(&self, branch: BranchId, head: CommitId) -> Duration {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = idle.entry(branch).or_insert((head, Instant::now()));
        if entry.0 != head {
            *entry = (head, Instant::now());
        }
        entry.1.elapsed()
    }

    /// Notes that an aggregate is to be run, whoever attests it.
    pub fn ask(&self, repo: RepositoryId, commit: CommitId) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert((repo, commit));
    }

    /// Whether an aggregate is to be run, whoever attests it.
    pub fn asked(&self, repo: RepositoryId, commit: CommitId) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(&(repo, commit))
    }

    /// All aggregates of a repository that are to be run.
    pub fn all_asked(&self, repo: RepositoryId) -> Vec<CommitId> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|(of, _)| *of == repo).map(|(_, commit)| *commit).collect()
    }

    /// Notes whether pending updates of a repository are wanted, though others aggregate them.
    pub fn gather(&self, repo: RepositoryId, wanted: bool) {
        let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted {
            gathering.insert(repo)
        } else {
            gathering.remove(&repo)
        };
    }

    /// Whether pending updates of a repository are wanted, though others aggregate them.
    pub fn gathering(&self, repo: RepositoryId) -> bool {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner).contains(&repo)
    }

    /// A place for one more fetch; none when the commit is being fetched already, or as many as may be.
    pub fn take(&self, repo: RepositoryId, commit: CommitId) -> Option<Flight> {
        let mut commits = self.flying.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let free = commits.len() < FETCHES && commits.insert((repo, commit));
        free.then(|| Flight { flying: self.flying.clone(), of: (repo, commit) })
    }

    /// As [`take`](Self::take), waiting for whoever has the place. Fetches end: a provider that stalls is left.
    pub async fn wait(&self, repo: RepositoryId, commit: CommitId) -> Flight {
        loop {
            let mut landed = pin!(self.flying.landed.notified());
            // From here on no landing is missed.
            landed.as_mut().enable();
            if let Some(flight) = self.take(repo, commit) {
                return flight;
            }
            landed.await;
        }
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

#[cfg(test)]
mod tests {
    use flair_protocol::id::Digest;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_place_gets_it_when_the_fetch_is_done() {
        let desk = Desk::default();
        let repo = RepositoryId::from_digest(Digest::from_bytes([1; 32]));
        let commit = |number| CommitId::from_digest(Digest::from_bytes([number; 32]));
        let mut flights: Vec<Flight> =
            (0..FETCHES as u8).map(|n| desk.take(repo, commit(n)).unwrap()).collect();
        // One commit that is being fetched, and one for which there is no place.
        for (wanted, lands) in [(commit(0), 0), (commit(99), 3)] {
            let mut waiting = pin!(desk.wait(repo, wanted));
            let pending = tokio::time::timeout(Duration::from_millis(20), waiting.as_mut()).await;
            assert!(pending.is_err(), "{wanted} got a place that was taken");
            drop(flights.remove(lands));
            flights.push(waiting.await);
        }
        assert_eq!(flights.len(), FETCHES);
    }
}
