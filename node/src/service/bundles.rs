//! Bundles: what a repository has in one file, for machines without a network between them.

mod apply;
mod select;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use flair_protocol::graph::Graph;
use flair_protocol::id::{CommitId, Digest, OperationId};
use flair_protocol::operation::{Body, Operation};

use super::local::blocking;
use super::{Service, find_commit};
use crate::api::types::{BundleContent, BundleCreate, BundleRequest, Code, Problem};
use crate::bundle::{BundleError, Group, Header, Reader, Record, Writer};
use crate::folder::{at, write};
use crate::repository::Repository;
use crate::store::{Store, StoreError};
use select::Selection;

/// A commit for a bundle: its blobs, with their sizes.
type Packed = (Group, Vec<(Digest, u64)>);

/// What somebody has already.
#[derive(Default)]
struct Had {
    operations: BTreeSet<OperationId>,
    commits: BTreeSet<CommitId>,
}

impl Service {
    /// Writes a bundle of all that is published and here, or of what somebody lacks.
    ///
    /// # Errors
    /// Nothing to write, something that `since` names and is not here, a file that exists, a full disk.
    pub async fn bundle_create(&self, request: BundleCreate) -> Result<BundleContent, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        if request.file.exists() && !request.force {
            return Err(Problem::conflict(format!("{} exists already", request.file.display()))
                .help("name another file, or replace it with `--force`"));
        }
        let had = self.had(&repository, &request.since).await?;
        let state = repository.state().await;
        let since: Vec<OperationId> = had.operations.iter().copied().collect();
        let read = |graph: &Graph| {
            let lacking = graph.lacking(&since).into_iter().map(|place| graph.at(place).encode());
            Ok::<_, Problem>((lacking.collect::<Result<Vec<_>, _>>()?, graph.heads().collect()))
        };
        let (operations, heads) = repository.graph(read).await?;
        let Selection { commits, attested, absent } = select::select(
            &state,
            repository.shelf(),
            &had.commits,
            self.hub.config.attesters,
            request.latest,
        );
        if operations.is_empty() && commits.is_empty() {
            return Err(Problem::conflict("there is nothing to write: whoever has that has everything"));
        }
        let packed = self.packed(&repository, &commits, &had.commits).await?;
        let header = Header {
            repo: repository.id(),
            since,
            heads,
            operations: operations.len() as u64,
            commits: packed.len() as u64,
            bytes: packed.iter().map(|(group, _)| group.bytes).sum(),
            attested,
            held: repository.shelf().all().into_iter().map(|(commit, _)| commit).collect(),
            private: state.private(),
        };
        let mut answer = content(&request.file, &header);
        answer.name.clone_from(&state.name);
        if absent > 0 {
            answer.notes.push(format!(
                "{absent} commits of the repository are not here, or not right, and not in it (`flair fetch` gets them)"
            ));
        }
        let (store, path, repo) = (self.hub.store.clone(), request.file.clone(), repository.id());
        let hub = self.hub.clone();
        let told = move |done, total| hub.progress(repo, "writing", done, total);
        blocking(move || write_file(&store, &path, &header, &operations, &packed, told)).await?;
        answer.bytes = std::fs::metadata(&request.file).map_err(|error| at(&request.file, error))?.len();
        Ok(answer)
    }

    /// What somebody has, from what `since` names.
    async fn had(&self, repository: &Repository, since: &[String]) -> Result<Had, Problem> {
        let state = repository.state().await;
        let mut had = Had::default();
        for text in since {
            let path = Path::new(text);
            if path.is_absolute() {
                let header = header(path).await?;
                if header.repo != repository.id() {
                    return Err(other(path, &header, &repository.id().short()));
                }
                let unknown =
                    repository.graph(|graph| header.heads.iter().any(|id| !graph.contains(*id))).await;
                if unknown {
                    return Err(Problem::conflict(format!(
                        "{} has operations that are not here, so what its maker lacks can't be told",
                        path.display()
                    ))
                    .help(format!("take them over first: `flair bundle apply {}`", path.display())));
                }
                had.operations.extend(header.heads);
                had.commits.extend(header.held);
                continue;
            }
            let operation = match text.parse::<OperationId>() {
                Ok(id) if repository.graph(|graph| graph.contains(id)).await => id,
                _ => {
                    let commit = find_commit(&state, text)?;
                    let info = state.commits.get(&commit);
                    let publication = info.and_then(|info| info.publications.first());
                    publication
                        .map(|publication| publication.operation)
                        .ok_or_else(|| Problem::missing(format!("nobody published {}", commit.short())))?
                }
            };
            had.operations.insert(operation);
        }
        // Who has an operation is taken to have what it and those before it published, or can get it by running recipes.
        let published = |graph: &Graph| {
            let past = graph.past(had.operations.iter().filter_map(|id| graph.place(*id)));
            let places = past.iter().enumerate().filter(|(_, seen)| **seen).map(|(place, _)| place);
            let commits = places.filter_map(|place| match graph.at(place).body() {
                Body::Publish(publish) => Some(publish.id),
                _ => None,
            });
            commits.collect::<BTreeSet<CommitId>>()
        };
        if !since.iter().any(|text| Path::new(text).is_absolute()) {
            let commits = repository.graph(published).await;
            had.commits.extend(commits);
        }
        Ok(had)
    }

    /// Refuses a bundle of another repository than `wanted`: an id, the start of one, or a name.
    async fn meant(&self, path: &Path, header: &Header, wanted: Option<&str>) -> Result<(), Problem> {
        let Some(wanted) = wanted else { return Ok(()) };
        let named = match self.hub.repository(header.repo).await {
            Some(repository) => repository.state().await.name == wanted,
            None => false,
        };
        if named || header.repo.to_string().starts_with(wanted) {
            Ok(())
        } else {
            Err(other(path, header, wanted))
        }
    }

    /// Where the models of `commits` are. A blob that several have is listed once.
    async fn packed(
        &self,
        repository: &Repository,
        commits: &[CommitId],
        had: &BTreeSet<CommitId>,
    ) -> Result<Vec<Packed>, Problem> {
        let shelf = repository.shelf();
        let mut seen: BTreeSet<Digest> =
            had.iter().filter_map(|commit| shelf.held(*commit)).flat_map(|held| held.blobs()).collect();
        let mut packed = Vec::new();
        for commit in commits {
            let Some(held) = shelf.held(*commit) else { continue };
            let mut blobs = held.blobs();
            blobs.extend(self.hub.store.pack_blobs(held.pack.digest()).await?);
            let mut sized = Vec::new();
            for blob in blobs {
                if seen.insert(blob) {
                    let size = self.hub.store.size(blob).await?;
                    sized.push((blob, size.ok_or(StoreError::Absent { blob })?));
                }
            }
            let (blobs, bytes) = (sized.len() as u64, sized.iter().map(|(_, bytes)| bytes).sum());
            packed.push((Group { commit: *commit, pack: held.pack, blobs, bytes }, sized));
        }
        Ok(packed)
    }

    /// Reads all of a bundle: digests, signatures, and that nothing is missing.
    ///
    /// # Errors
    /// A file that can't be read or is no bundle. What is wrong with a bundle is in the answer.
    pub async fn bundle_verify(&self, request: BundleRequest) -> Result<BundleContent, Problem> {
        let header = header(&request.file).await?;
        self.meant(&request.file, &header, request.repo.as_deref()).await?;
        let path = request.file.clone();
        let (name, problem) = blocking(move || check(&path)).await?;
        let mut answer = content(&request.file, &header);
        answer.bytes = std::fs::metadata(&request.file).map_err(|error| at(&request.file, error))?.len();
        (answer.name, answer.problem) = (name, problem);
        let known = self.hub.repository(header.repo).await;
        let lacking = match &known {
            Some(repository) => {
                answer.name.clone_from(&repository.state().await.name);
                repository.graph(|graph| header.since.iter().filter(|id| !graph.contains(**id)).count()).await
            }
            None => header.since.len(),
        };
        if lacking > 0 && answer.problem.is_none() {
            answer.problem = Some(format!(
                "it follows {lacking} operations that are not here: apply the bundle that has them first, or ask for \
                 one made without `--since`"
            ));
        }
        Ok(answer)
    }
}

/// Refuses a bundle of another repository than `wanted`.
fn other(path: &Path, header: &Header, wanted: &str) -> Problem {
    let (path, found) = (path.display(), header.repo.short());
    Problem::invalid(format!("{path} is of repository {found}, not of {wanted}"))
}

fn content(path: &Path, header: &Header) -> BundleContent {
    BundleContent {
        file: path.display().to_string(),
        repo: header.repo.to_string(),
        since: header.since.iter().map(ToString::to_string).collect(),
        heads: header.heads.iter().map(ToString::to_string).collect(),
        operations: header.operations,
        commits: header.commits,
        model_bytes: header.bytes,
        attested: header.attested,
        private: header.private,
        ..BundleContent::default()
    }
}

/// What is wrong with the file at `path`.
fn wrong(path: &Path, error: BundleError) -> Problem {
    match error {
        BundleError::Io(error) => at(path, error).into(),
        error => Problem::invalid(format!("{}: {error}", path.display())),
    }
}

fn open(path: &Path) -> Result<Reader<BufReader<File>>, Problem> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    Reader::new(BufReader::with_capacity(1 << 20, file)).map_err(|error| wrong(path, error))
}

async fn header(path: &Path) -> Result<Header, Problem> {
    let path = path.to_owned();
    blocking(move || Ok(open(&path)?.header().clone())).await
}

fn write_file(
    store: &Store,
    path: &Path,
    header: &Header,
    operations: &[Vec<u8>],
    packed: &[Packed],
    told: impl Fn(u64, u64),
) -> Result<(), Problem> {
    let staged = write::stage(path, |out| {
        let wrong = |error| wrong(path, error);
        let mut writer = Writer::new(&mut *out, header).map_err(wrong)?;
        for operation in operations {
            writer.operation(operation).map_err(wrong)?;
        }
        let mut done = 0;
        for (group, blobs) in packed {
            writer.commit(group).map_err(wrong)?;
            for (blob, length) in blobs {
                let read = |offset, out: &mut [u8]| Ok(store.read_into(*blob, offset, out)?);
                writer.blob(*blob, *length, read).map_err(|failed: Copied| failed.of(path, *blob))?;
            }
            done += group.bytes;
            told(done, header.bytes);
        }
        writer.finish().map_err(wrong)?.flush().map_err(|error| Problem::from(at(path, error)))
    })?;
    Ok(staged.persist()?)
}

/// Why a blob was not copied: the store, or the file.
enum Copied {
    Store(StoreError),
    File(BundleError),
}

impl From<StoreError> for Copied {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BundleError> for Copied {
    fn from(error: BundleError) -> Self {
        Self::File(error)
    }
}

impl Copied {
    fn of(self, path: &Path, blob: Digest) -> Problem {
        match self {
            Self::Store(error) => error.into(),
            Self::File(BundleError::Damaged(_)) => {
                Problem::new(Code::Unverified, format!("blob {} in the store is damaged", blob.short()))
                    .help("`flair fsck` names what is damaged and gets it again")
            }
            Self::File(error) => wrong(path, error),
        }
    }
}

/// Reads all of a bundle. Gives the repository's name, where the bundle has it, and what is wrong.
fn check(path: &Path) -> Result<(String, Option<String>), Problem> {
    let mut reader = open(path)?;
    let header = reader.header().clone();
    let mut found = Found { since: !header.since.is_empty(), ..Found::default() };
    let problem = loop {
        match reader.record() {
            Ok(Record::End) => break found.whole(&header).err(),
            Ok(record) => {
                if let Err(why) = found.add(&header, record) {
                    break Some(why);
                }
            }
            Err(BundleError::Io(error)) => return Err(at(path, error).into()),
            Err(error) => break Some(error.to_string()),
        }
    };
    Ok((found.name, problem))
}

/// What was read of a bundle.
#[derive(Default)]
struct Found {
    name: String,
    since: bool,
    operations: BTreeSet<OperationId>,
    published: BTreeSet<CommitId>,
    commits: u64,
    bytes: u64,
    /// Blobs that the group still has to have.
    blobs: u64,
}

impl Found {
    fn add(&mut self, header: &Header, record: Record) -> Result<(), String> {
        match record {
            Record::Operation(bytes) => {
                let operation = Operation::decode(&bytes, header.repo).map_err(|error| error.to_string())?;
                let id = operation.id();
                let follows = |dep: &OperationId| self.operations.contains(dep) || header.since.contains(dep);
                // What is further back than `since` names is known only to who has it.
                if !self.since && !operation.header().deps.iter().all(follows) {
                    return Err(format!("operation {} follows one that is missing", id.short()));
                }
                match operation.body() {
                    Body::Genesis(genesis) => self.name.clone_from(&genesis.name),
                    Body::Publish(publish) => {
                        self.published.insert(publish.id);
                    }
                    _ => {}
                }
                self.operations.insert(id);
            }
            Record::Commit(group) => {
                if !self.since && !self.published.contains(&group.commit) {
                    return Err(format!("commit {} is not one that anybody published", group.commit.short()));
                }
                if self.blobs > 0 {
                    return Err("a blob of a commit is missing".to_owned());
                }
                self.commits += 1;
                self.blobs = group.blobs;
            }
            Record::Blob(_, length) => {
                self.blobs = self.blobs.checked_sub(1).ok_or("a blob belongs to no commit")?;
                self.bytes += length;
            }
            Record::End => {}
        }
        Ok(())
    }

    /// Whether it is what the header says.
    fn whole(&self, header: &Header) -> Result<(), String> {
        let as_said = self.operations.len() as u64 == header.operations
            && self.commits == header.commits
            && self.bytes == header.bytes
            && self.blobs == 0;
        if as_said { Ok(()) } else { Err("it has not what its header says".to_owned()) }
    }
}
