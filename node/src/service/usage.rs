//! What takes the disk, and giving back what nothing needs.

use std::collections::BTreeSet;
use std::path::Path;

use flair_protocol::id::{CommitId, Digest};

use super::{FOLDER, Service};
use crate::api::types::{BranchUsage, Collected, Du, DuRequest, Problem, RepositoryUsage};
use crate::folder::{DraftRecord, Folder};
use crate::repository::Repository;

impl Service {
    /// What takes how much of the disk: each repository, in it each branch's head and history, and what nothing needs.
    ///
    /// # Errors
    /// A damaged store.
    pub async fn du(&self, request: DuRequest) -> Result<Du, Problem> {
        let repositories = match &request.repo {
            Some(text) => vec![self.find_repository(text).await?],
            None => self.hub.repositories().await,
        };
        let mut rows = Vec::new();
        for repository in repositories {
            rows.push(self.usage(&repository).await?);
        }
        let disk = self.hub.store.disk().await?;
        Ok(Du {
            repositories: rows,
            disk: disk.total,
            referenced: self.hub.store.referenced_bytes().await?,
            reclaimable: disk.reclaimable,
            free: disk.free,
            quota: self.hub.config.quota_total_bytes,
        })
    }

    async fn usage(&self, repository: &Repository) -> Result<RepositoryUsage, Problem> {
        let state = repository.state().await;
        let shelf = repository.shelf();
        let mut listed = BTreeSet::new();
        let mut blobs = |commits: &mut dyn Iterator<Item = CommitId>| -> (Vec<Digest>, u64) {
            let mut found = Vec::new();
            let mut count = 0;
            for commit in commits {
                if let Some(held) = shelf.held(commit).filter(|_| listed.insert(commit)) {
                    found.extend(held.blobs());
                    count += 1;
                }
            }
            (found, count)
        };
        // Each blob counts once, for the first that needs it: heads, then what led to them.
        let branches: Vec<_> = state.open_branches().collect();
        let mut groups = Vec::new();
        for branch in &branches {
            groups.push(blobs(&mut branch.head.into_iter()));
        }
        for branch in &branches {
            let inputs = branch.path.iter().flat_map(|commit| {
                let inputs = state.commits.get(commit).into_iter().flat_map(|info| info.commit.inputs());
                [*commit].into_iter().chain(inputs.copied())
            });
            groups.push(blobs(&mut inputs.collect::<Vec<_>>().into_iter()));
        }
        for branch in &branches {
            groups.push(blobs(&mut branch.pending.iter().copied()));
        }
        let rest: Vec<_> = shelf.all().into_iter().map(|(commit, _)| commit).collect();
        groups.push(blobs(&mut rest.into_iter()));
        groups.push((self.drafted(repository).await?, 0));
        let weights = self.hub.store.weigh(groups.iter().map(|(blobs, _)| blobs.clone()).collect()).await?;
        let count = branches.len();
        let weight = |place: usize| weights.get(place).copied().unwrap_or(0);
        let usage = |(place, branch): (usize, &&flair_protocol::state::Branch)| BranchUsage {
            branch: branch.name.clone(),
            head: branch.head.map(|head| head.to_string()),
            head_bytes: weight(place),
            history_bytes: weight(count + place),
            commits: groups[count + place].1 + groups[place].1,
            pending_bytes: weight(2 * count + place),
        };
        let id = repository.id();
        let operations = self.hub.store.operation_bytes(id.digest()).await?;
        Ok(RepositoryUsage {
            repo: id.to_string(),
            name: state.name.clone(),
            bytes: weights.iter().sum::<u64>() + operations,
            quota: self.hub.config.quota(&id.to_string()),
            branches: branches.iter().enumerate().map(usage).collect(),
            other_bytes: weight(3 * count),
            draft_bytes: weight(3 * count + 1),
            operation_bytes: operations,
        })
    }

    /// What the drafts of a repository's working folders refer to.
    async fn drafted(&self, repository: &Repository) -> Result<Vec<Digest>, Problem> {
        let mut found = Vec::new();
        for (name, _) in self.hub.store.facts(repository.id().digest(), FOLDER).await? {
            let Some(root) = name.strip_prefix(FOLDER) else { continue };
            // A folder that was moved or removed has none that we could name.
            if let Ok(folder) = Folder::open(Path::new(root)) {
                found.extend(folder.state.drafts.iter().flat_map(DraftRecord::blobs));
            }
        }
        Ok(found)
    }

    /// Removes what nothing refers to. It happens by itself every ten minutes while a node runs.
    ///
    /// # Errors
    /// A sweep that was interrupted.
    pub async fn gc(&self) -> Result<Collected, Problem> {
        let store = &self.hub.store;
        let before = store.disk().await?;
        store.sweep().await?;
        let after = store.disk().await?;
        Ok(Collected {
            freed: before.reclaimable.saturating_sub(after.reclaimable),
            left: after.reclaimable,
            disk: after.total,
        })
    }
}
