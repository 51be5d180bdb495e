//! Taking over what a bundle has: operations first, then models, running recipes in between. Whatever was taken over
//! stays, so a bundle that ends early, or a run that was killed, is gone on with by applying it again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flair_protocol::graph::Graph;
use flair_protocol::operation::{Operation, OperationError};
use flair_protocol::state::State;

use super::{Service, open, wrong};
use crate::api::types::{BundleApplied, BundleRequest, Problem};
use crate::bundle::{BundleError, Group, Header, Reader, Record};
use crate::repository::{Extras, Repository};
use crate::service::local::blocking;
use crate::shelf::since_fact;
use crate::store::{Hold, Spool, StoreError};
use crate::worker;
use crate::worker::fetch;
use crate::worker::trust::{Trust, source};
use crate::worker::wanted::Wanted;

/// Operations that are checked and written together.
const BATCH: usize = 512;
/// How long the worker may take for the recipes that can be run.
const RUN: Duration = Duration::from_hours(1);

/// Why reading stopped before the end.
type Stopped = Option<Problem>;

impl Service {
    /// Takes over what a bundle has and this node has not: operations, models; runs the recipes.
    ///
    /// # Errors
    /// A file that is no bundle, of another repository, or that follows operations which are not here. What stopped
    /// it later is in the answer.
    pub async fn bundle_apply(&self, request: BundleRequest) -> Result<BundleApplied, Problem> {
        Ok(self.take_over(&request.file, request.repo.as_deref()).await?.1)
    }

    /// [`bundle_apply`](Self::bundle_apply), with the repository.
    pub(in crate::service) async fn take_over(
        &self,
        path: &Path,
        wanted: Option<&str>,
    ) -> Result<(Arc<Repository>, BundleApplied), Problem> {
        let mut reading = Reading::open(path).await?;
        let header = reading.header.clone();
        self.meant(path, &header, wanted).await?;
        let (first, mut next) = reading.operations().await?;
        let known = self.hub.repository(header.repo).await;
        let begins = match &known {
            Some(repository) => repository.graph(Graph::is_empty).await,
            None => true,
        };
        if begins && first.first().is_none_or(|genesis| genesis.id().digest() != header.repo.digest()) {
            return Err(follows(path, header.since.len()));
        }
        let repository = self.hub.load(header.repo).await?;
        if !begins {
            let lacking =
                repository.graph(|graph| header.since.iter().filter(|id| !graph.contains(**id)).count());
            match lacking.await {
                0 => {}
                lacking => return Err(follows(path, lacking)),
            }
        }
        let mut applied = BundleApplied { repo: header.repo.to_string(), ..BundleApplied::default() };
        let before = repository.graph(|graph| graph.len() as u64).await;
        let mut batch = first;
        let mut stopped = None;
        while !batch.is_empty() && stopped.is_none() {
            stopped = self.hub.bring(&repository, batch).await.err();
            batch = Vec::new();
            if stopped.is_none() && next.is_none() {
                match reading.operations().await {
                    Ok(read) => (batch, next) = read,
                    Err(problem) => stopped = Some(problem),
                }
            }
        }
        applied.operations = repository.graph(|graph| graph.len() as u64).await - before;
        if begins {
            if let Some(since) = header.attested {
                repository.note(Extras { facts: vec![since_fact(since)], ..Extras::default() }).await?;
                repository.shelf().begin(Some(since));
            }
            self.set_seeding(&repository, true).await?;
        }
        let state = repository.state().await;
        applied.name.clone_from(&state.name);
        if let Some(level) = state.needs_level {
            applied.problem =
                Some(format!("the repository needs level {level} of Flair: install a newer version"));
            return Ok((repository, applied));
        }
        if stopped.is_none() {
            stopped = self.models(&repository, &mut reading, next, &mut applied).await;
        }
        self.hub.wake.notify_one();
        let state = repository.state().await;
        applied.missing = self.wanted(&repository, &state).missing as u64;
        if applied.missing > 0 && stopped.is_none() {
            let are = if applied.missing == 1 {
                "1 commit is"
            } else {
                &format!("{} commits are", applied.missing)
            };
            applied.notes.push(format!("{are} still to come: from a peer, or in another bundle"));
        }
        applied.problem = stopped.map(|problem| problem.message);
        Ok((repository, applied))
    }

    /// Takes over the models, each with the recipes that can be run then.
    async fn models(
        &self,
        repository: &Arc<Repository>,
        reading: &mut Reading,
        mut next: Option<Record>,
        applied: &mut BundleApplied,
    ) -> Stopped {
        let state = repository.state().await;
        // Blobs are in the bundle once, whoever needs them.
        let hold = self.hub.store.hold();
        let (mut done, total) = (0, reading.header.bytes);
        loop {
            let record = match next.take() {
                Some(record) => record,
                None => match reading.record().await {
                    Ok(record) => record,
                    Err(problem) => return Some(problem),
                },
            };
            // What the next model stands on may be an aggregate whose inputs are here now.
            if let Record::End | Record::Commit(_) = record {
                match self.run_ready(repository).await {
                    Ok(ran) => applied.aggregates += ran,
                    Err(problem) => return Some(problem),
                }
            }
            match record {
                Record::End => return None,
                Record::Commit(group) => {
                    match self.model(repository, &state, reading, &hold, group).await {
                        Ok(new) => applied.commits += u64::from(new),
                        Err(problem) => return Some(problem),
                    }
                    done += group.bytes;
                    self.hub.progress(repository.id(), "taking over", done, total);
                }
                // Of a commit that is here already.
                Record::Blob(..) => {}
                Record::Operation(_) => {
                    return Some(wrong(
                        &reading.path,
                        BundleError::Damaged("an operation comes after the models"),
                    ));
                }
            }
        }
    }

    /// Takes over one model; false when there was nothing to take.
    async fn model(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        reading: &mut Reading,
        hold: &Hold,
        group: Group,
    ) -> Result<bool, Problem> {
        let (hub, commit) = (&self.hub, group.commit);
        let named = state.commits.get(&commit).is_some_and(|info| {
            let recipe = info.commit.is_recipe();
            let trust = self.trust(state);
            source(info).is_some_and(|publication| publication.pack == group.pack)
                && (!recipe || trust.takes_over(state, repository.shelf(), commit))
        });
        let settled = || self.trust(state).settled(state, repository.shelf(), commit);
        if !named || settled() {
            return Ok(false);
        }
        // The worker may be at it, and find nobody who has it: what is in the bundle must not be passed over then.
        let _flight = hub.desk.wait(repository.id(), commit).await;
        if settled() {
            return Ok(false);
        }
        fetch::quota(hub, repository, group.bytes).await?;
        let mut left = group.bytes;
        for _ in 0..group.blobs {
            let Record::Blob(blob, length) = reading.record().await? else {
                return Err(wrong(&reading.path, BundleError::Damaged("a blob of a commit is missing")));
            };
            left = left.checked_sub(length).ok_or_else(|| {
                wrong(&reading.path, BundleError::Damaged("a commit has more blobs than it says"))
            })?;
            hold.keep(blob).await;
            if !hub.store.has(blob).await? {
                let spool = reading.blob(hub.store.spool()).await?;
                hub.store.add_spool(hold, spool).await?;
            }
        }
        let outcome = fetch::adopt(hub, repository, state, commit).await;
        match worker::settle(hub, repository, state, commit, outcome).await {
            None => Ok(repository.shelf().holds(commit)),
            Some(problem) => Err(problem),
        }
    }

    /// Runs the recipes that nothing is missing for; how many.
    async fn run_ready(&self, repository: &Arc<Repository>) -> Result<u64, Problem> {
        let state = repository.state().await;
        let mut ran = BTreeSet::new();
        loop {
            let ready = self.wanted(repository, &state).run;
            if ready.is_empty() {
                return Ok(ran.len() as u64);
            }
            ran.extend(ready.iter().copied());
            if self.hub.network.get().is_some() {
                // That is what the worker does; a light node's too, as what they are made of is here anyway.
                for commit in &ready {
                    self.hub.desk.ask(repository.id(), *commit);
                }
                self.hub.wake.notify_one();
                let shelf = repository.shelf();
                let trust = self.trust(&state);
                let done = || async {
                    ready.iter().all(|commit| trust.settled(&state, shelf, *commit)).then_some(())
                };
                self.wait(RUN, done).await.ok_or_else(|| {
                    Problem::conflict("the node does not get on with running recipes")
                        .help("its log tells why; the rest of the bundle can be applied later")
                })?;
                continue;
            }
            for commit in ready {
                worker::ensure(&self.hub, repository, &state, commit).await?;
            }
        }
    }

    fn wanted(&self, repository: &Repository, state: &State) -> Wanted {
        Wanted::of(state, repository.shelf(), &self.trust(state))
    }

    /// A bundle has what aggregates are made of: they are run, however this node checks what comes from peers.
    fn trust(&self, state: &State) -> Trust<'_> {
        Trust::new(state, self.hub.me(), self.hub.config.attesters)
    }
}

fn follows(path: &Path, count: usize) -> Problem {
    let are = if count == 1 { "1 operation that is" } else { &format!("{count} operations that are") };
    Problem::conflict(format!("{} follows {are} not here", path.display()))
        .help("apply the bundle that has them first, or ask for one made without `--since`")
}

/// A bundle that is being read, on blocking threads.
struct Reading {
    path: std::path::PathBuf,
    header: Header,
    /// Away while a blocking thread has it.
    reader: Option<Reader<BufReader<File>>>,
}

impl Reading {
    async fn open(path: &Path) -> Result<Self, Problem> {
        let path = path.to_owned();
        blocking(move || {
            let reader = open(&path)?;
            Ok(Self { header: reader.header().clone(), reader: Some(reader), path })
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reader<BufReader<File>>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let mut reader =
            self.reader.take().ok_or_else(|| Problem::internal("a bundle is read by two at once"))?;
        let (reader, outcome) = blocking(move || {
            let outcome = work(&mut reader);
            Ok((reader, outcome))
        })
        .await?;
        self.reader = Some(reader);
        outcome
    }

    async fn record(&mut self) -> Result<Record, Problem> {
        let path = self.path.clone();
        self.with(move |reader| reader.record().map_err(|error| wrong(&path, error))).await
    }

    /// The next operations, their signatures checked, and what comes after them if it was read.
    async fn operations(&mut self) -> Result<(Vec<Operation>, Option<Record>), Problem> {
        let (path, repo) = (self.path.clone(), self.header.repo);
        self.with(move |reader| {
            let mut operations = Vec::new();
            while operations.len() < BATCH {
                match reader.record() {
                    Ok(Record::Operation(bytes)) => {
                        let operation = Operation::decode(&bytes, repo);
                        operations.push(operation.map_err(|error: OperationError| {
                            Problem::invalid(format!("{}: it is damaged: {error}", path.display()))
                        })?);
                    }
                    Ok(record) => return Ok((operations, Some(record))),
                    // What is whole is taken over; reading on tells again that the rest is missing.
                    Err(BundleError::Cut) if !operations.is_empty() => break,
                    Err(error) => return Err(wrong(&path, error)),
                }
            }
            Ok((operations, None))
        })
        .await
    }

    /// Reads the blob that comes next into `spool`.
    async fn blob(&mut self, mut spool: Spool) -> Result<Spool, Problem> {
        let path = self.path.clone();
        self.with(move |reader| {
            let read = reader.blob(|piece| spool.push(piece).map_err(Read::Store));
            match read {
                Ok(()) => Ok(spool),
                Err(Read::Store(error)) => Err(error.into()),
                Err(Read::File(error)) => Err(wrong(&path, error)),
            }
        })
        .await
    }
}

/// Why a blob was not taken over.
enum Read {
    Store(StoreError),
    File(BundleError),
}

impl From<BundleError> for Read {
    fn from(error: BundleError) -> Self {
        Self::File(error)
    }
}
