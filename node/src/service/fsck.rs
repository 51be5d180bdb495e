//! Reading everything that is kept, naming what is damaged, and getting it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flair_protocol::id::{CommitId, Digest, OperationId};
use flair_protocol::operation::Operation;

use super::local::blocking;
use super::{FOLDER, Service};
use crate::api::types::{Damage, Fsck, FsckRequest, Problem};
use crate::folder::Folder;
use crate::repository::Repository;
use crate::shelf::{Held, all_noted};
use crate::store::{self, Batch, Missing};
use crate::worker::fetch::{self, Failed};
use crate::worker::{self, compute};

/// Pause between two attempts to get something again.
const PAUSE: Duration = Duration::from_millis(300);

/// Why a genesis is asked of nobody.
const FIRST: &str = "it is the repository's first operation, which says whether it is private, so nobody is asked for it: \
                     clone the repository into another home";

/// A commit of which something is damaged.
struct Hurt {
    repository: Arc<Repository>,
    commit: CommitId,
    /// Where its damage is in the list.
    places: Vec<usize>,
}

/// An operation that the disk damaged.
struct Rotten {
    repository: Arc<Repository>,
    operation: OperationId,
    /// Where it is in the list of damage.
    place: usize,
}

impl Service {
    /// Reads every blob and operation that anything refers to, names what is missing or damaged, and gets it again:
    /// from memory, from peers, or by running a recipe.
    ///
    /// # Errors
    /// A store that can't be read at all.
    pub async fn fsck(&self, request: FsckRequest) -> Result<Fsck, Problem> {
        let store = &self.hub.store;
        self.hub.tell("work", None, "reading everything that is kept");
        let missing = store.verify().await?;
        let mut answer = Fsck { bytes: store.referenced_bytes().await?, ..Fsck::default() };
        let mut owners: BTreeMap<Digest, usize> = BTreeMap::new();
        for found in &missing {
            owners.insert(found.blob, answer.damage.len());
            answer.damage.push(damage(found));
        }
        let mut rotten = Vec::new();
        for repository in self.hub.repositories().await {
            let before = answer.damage.len();
            let (read, operations) = self.operations(&repository, &mut answer.damage).await?;
            answer.operations += read;
            rotten.extend(operations.into_iter().enumerate().map(|(index, operation)| Rotten {
                repository: repository.clone(),
                operation,
                place: before + index,
            }));
        }
        // First, for they say which commits there are.
        if request.mend && !rotten.is_empty() {
            self.mend_operations(rotten, &mut answer.damage, Duration::from_secs(request.timeout)).await?;
        }
        let mut hurt = Vec::new();
        for repository in self.hub.repositories().await {
            hurt.extend(self.hurt(&repository, &missing, &owners, &mut answer.damage).await?);
        }
        answer.commits = hurt.len() as u64;
        if request.mend && !hurt.is_empty() {
            self.mend(hurt, &mut answer.damage, Duration::from_secs(request.timeout)).await?;
            // What is here again counts no more as missing.
            let left: BTreeSet<Digest> = store.check().await?.into_iter().map(|found| found.blob).collect();
            for (blob, place) in &owners {
                if let Some(damage) = answer.damage.get_mut(*place) {
                    damage.mended = !left.contains(blob);
                }
            }
        }
        for damage in &answer.damage {
            let what = if damage.mended { "mended" } else { "damaged" };
            tracing::warn!(blob = damage.blob, of = damage.of, problem = damage.problem, what, "fsck");
        }
        Ok(answer)
    }

    /// Checks that operations are what their ids say and carry their authors' signatures. Gives back how many were read,
    /// and those that are not, in the order in which they were added to `damage`.
    pub(super) async fn operations(
        &self,
        repository: &Repository,
        damage: &mut Vec<Damage>,
    ) -> Result<(u64, Vec<OperationId>), Problem> {
        let id = repository.id();
        let rows = self.hub.store.operations(id.digest()).await?;
        let count = rows.len() as u64;
        let wrong = blocking(move || {
            let mut wrong = Vec::new();
            for (name, bytes) in rows {
                let problem = match Operation::decode(&bytes, id) {
                    Ok(operation) if operation.id().digest() == name => continue,
                    Ok(_) => "is another operation".to_owned(),
                    Err(error) => error.to_string(),
                };
                wrong.push((name, problem));
            }
            Ok(wrong)
        });
        let wrong = wrong.await?;
        let names = wrong.iter().map(|(name, _)| OperationId::from_digest(*name)).collect();
        damage.extend(wrong.into_iter().map(|(name, problem)| Damage {
            blob: name.to_string(),
            of: format!("operation of {}", id.short()),
            problem,
            mended: false,
            why: Some("`flair fsck` gets it again once a peer is connected that has it".to_owned()),
        }));
        Ok((count, names))
    }

    /// Writes operations again that are in memory or come from peers, until all are right or time is up.
    async fn mend_operations(
        &self,
        mut rotten: Vec<Rotten>,
        damage: &mut [Damage],
        limit: Duration,
    ) -> Result<(), Problem> {
        self.hub.desk.refresh();
        let end = Instant::now() + limit;
        loop {
            let mut left = Vec::new();
            for one in rotten {
                let whole = one.repository.graph(|graph| graph.get(one.operation).cloned()).await;
                let Some(operation) = whole else {
                    left.push(one);
                    continue;
                };
                let batch = Batch::new(one.repository.id().digest())
                    .operation(one.operation.digest(), operation.encode()?);
                self.hub.store.publish(batch).await?;
                if let Some(damage) = damage.get_mut(one.place) {
                    (damage.mended, damage.why) = (true, None);
                }
            }
            rotten = left;
            if rotten.is_empty() || self.hub.network.get().is_none() || Instant::now() >= end {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let why = match self.hub.network.get() {
            None => "no node is running: start one with a peer that has the repository, and try again",
            Some(_) => "no peer that is connected has it",
        };
        for one in rotten {
            let first = one.operation.digest() == one.repository.id().digest();
            if let Some(damage) = damage.get_mut(one.place) {
                damage.why = Some(if first { FIRST } else { why }.to_owned());
            }
        }
        Ok(())
    }

    /// The commits that what is missing belongs to; they count as not held from now on. Drafts are named too.
    async fn hurt(
        &self,
        repository: &Arc<Repository>,
        missing: &[Missing],
        owners: &BTreeMap<Digest, usize>,
        damage: &mut [Damage],
    ) -> Result<Vec<Hurt>, Problem> {
        let id = repository.id();
        let state = repository.state().await;
        let mut hurt = Vec::new();
        let touches = |blobs: &[Digest]| -> Vec<usize> {
            let hits =
                missing.iter().filter(|found| blobs.contains(&found.root) || blobs.contains(&found.blob));
            hits.filter_map(|found| owners.get(&found.blob).copied()).collect()
        };
        for (commit, held) in all_noted(&self.hub.store, id).await? {
            let places = touches(&held.blobs());
            if places.is_empty() {
                continue;
            }
            let kind = state.commits.get(&commit).map_or("commit", |info| info.commit.kind());
            for place in &places {
                if let Some(damage) = damage.get_mut(*place) {
                    damage.of = named(&damage.of, &format!("{kind} {}", commit.short()));
                }
            }
            repository.shelf().lose(commit);
            hurt.push(Hurt { repository: repository.clone(), commit, places });
        }
        for (name, _) in self.hub.store.facts(id.digest(), FOLDER).await? {
            let root = Path::new(name.strip_prefix(FOLDER).unwrap_or_default());
            let Ok(folder) = Folder::open(root) else { continue };
            for draft in &folder.state.drafts {
                for place in touches(&draft.blobs()) {
                    if let Some(damage) = damage.get_mut(place) {
                        damage.of =
                            named(&damage.of, &format!("draft {} of {}", draft.id.short(), root.display()));
                        damage.why = Some(
                            "nobody else has a draft: `flair reset` undoes it, and the files can be committed again"
                                .to_owned(),
                        );
                    }
                }
            }
        }
        // Parents and bases first.
        hurt.sort_by_key(|hurt| (state.generation(hurt.commit), hurt.commit));
        Ok(hurt)
    }

    /// Gets commits again until all are here or time is up.
    async fn mend(&self, mut hurt: Vec<Hurt>, damage: &mut [Damage], limit: Duration) -> Result<(), Problem> {
        self.hub.desk.refresh();
        let end = Instant::now() + limit;
        loop {
            let mut left = Vec::new();
            for one in hurt {
                match self.again(&one).await {
                    Ok(()) => {}
                    Err(problem) => {
                        for place in &one.places {
                            if let Some(damage) = damage.get_mut(*place) {
                                damage.why = Some(problem.message.clone());
                            }
                        }
                        left.push(one);
                    }
                }
            }
            hurt = left;
            // Without a node nothing will change by waiting.
            if hurt.is_empty() || self.hub.network.get().is_none() || Instant::now() >= end {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Gets one commit again: an aggregate or merge by running it where its inputs are here, all else from peers.
    async fn again(&self, hurt: &Hurt) -> Result<(), Problem> {
        let (repository, commit) = (&hurt.repository, hurt.commit);
        if repository.shelf().holds(commit) {
            return Ok(());
        }
        // The worker may be at it.
        let Some(_place) = self.hub.desk.take(repository.id(), commit) else {
            return Err(Problem::conflict("it is being fetched"));
        };
        let state = repository.state().await;
        let recipe = state.commits.get(&commit).and_then(|info| compute::needs(&state, &info.commit));
        if let Some(needs) = recipe {
            let mut needs = needs.into_iter().chain(state.pack_base(commit));
            if needs.all(|needed| repository.shelf().held(needed).as_ref().is_some_and(whole)) {
                return worker::ensure(&self.hub, repository, &state, commit).await;
            }
        }
        if state.source(commit).is_some_and(|source| source != commit) {
            return worker::ensure(&self.hub, repository, &state, commit).await;
        }
        match fetch::fetch(&self.hub, repository, &state, commit).await {
            Ok(()) => Ok(()),
            Err(Failed::Faulty(why)) => Err(Problem::missing(why)),
            Err(Failed::Later(problem)) => Err(problem),
        }
    }
}

/// Whether a recipe may stand on it.
fn whole(held: &Held) -> bool {
    !held.attested
}

fn damage(found: &Missing) -> Damage {
    let problem = match found.problem {
        store::Problem::Absent => "missing",
        store::Problem::Damaged => "damaged",
    };
    Damage {
        blob: found.blob.to_string(),
        of: String::new(),
        problem: problem.to_owned(),
        mended: false,
        why: None,
    }
}

fn named(before: &str, name: &str) -> String {
    if before.is_empty() { name.to_owned() } else { format!("{before}, {name}") }
}
